"""Checks of the gradients through time: the discrete Jacobian of equations (6), (7) and (10), its size, and backward.

Tolerances of random instances are bounds on rounding errors; ``u`` stands for the unit roundoff 2⁻⁵³.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from flint import arb, arb_mat, ctx, fmpq, fmpq_mat

from antisymrnn_ref import antisymmetric, dynamics, initialization, stability
from antisymrnn_ref.contract import Parameters
from antisymrnn_validation.claims.euler import cell, jacobians_in_balls, module, product, trajectory
from antisymrnn_validation.claims.evidence import (
    ROTATION,
    STEP_SIZE,
    UNIT_ROUNDOFF,
    Outcome,
    balls,
    decide,
    diagonal_matrix,
    ends,
    fraction,
    fractions,
    interval,
    largest,
    norm,
    total,
    trace,
)
from antisymrnn_validation.truth.oracles import COMPLEX_STEP


def discrete_jacobian(quick: bool) -> Outcome:
    """The product of the step Jacobians against the derivative of the whole recurrence by complex step."""
    generator, count, ratios = np.random.default_rng(28), 30 if quick else 240, []
    T, n, m = 12, 6, 2
    for k in range(count):
        gate, step_size, diffusion = bool(k % 2), [0.1, 0.3][k // 2 % 2], [0.0, 0.15, 0.7][k % 3]
        parameters = cell(generator, n, m, gate=gate)
        x, h0 = generator.standard_normal((T, 1, m)), generator.standard_normal((1, n))
        h = module(gate).forward(parameters, x, h0, step_size=step_size, diffusion=diffusion).h
        steps = stability.step_jacobians(parameters, x, h, step_size=step_size, diffusion=diffusion)
        moved, rows = h0 + 1j * COMPLEX_STEP * np.eye(n), np.repeat(x, n, axis=1)
        forward = inspect.unwrap(module(gate).forward)
        after = forward(parameters, rows, moved, step_size=step_size, diffusion=diffusion).h[-1]
        off = np.linalg.norm(stability.end_to_end_jacobian(steps)[0] - after.imag.T / COMPLEX_STEP)
        size = np.linalg.norm(antisymmetric.recurrent_matrix(parameters.W, diffusion), 2)
        # a rounding error of a state or a factor grows by at most 1 + ε‖M‖ a step, and acts through D once more
        ratios.append(float(off / (T * (4 * n + 32) * UNIT_ROUNDOFF * (1 + step_size * size) ** (2 * T))))
    worst = largest(ratios)
    return Outcome(
        decide(worst <= 1),
        f"{count} trajectories of (12) and (13), T = {T}, n = {n}: within {worst:.1e} of the rounding bound.",
        {"instances": count, "worst error / bound": worst},
    )


def singular_values_are_bounded(quick: bool) -> Outcome:
    """Singular values of the end-to-end Jacobian against Π σ_min and Π σ_max, and every σ_max against 1 + ε‖M‖₂."""
    generator, count, inside, steps_inside, tightest = np.random.default_rng(29), 18 if quick else 144, 0, 0, []
    T, n, m = 40, 8, 2
    for k in range(count):
        gate, step_size, diffusion = bool(k % 2), [0.02, 0.1, 0.3][k % 3], [0.0, 0.15, 0.7][k // 2 % 3]
        parameters = cell(generator, n, m, gate=gate)
        x, h0 = generator.standard_normal((T, 1, m)), generator.standard_normal((1, n))
        h = module(gate).forward(parameters, x, h0, step_size=step_size, diffusion=diffusion).h
        steps = stability.step_jacobians(parameters, x, h, step_size=step_size, diffusion=diffusion)
        lower, upper = (float(np.exp(bound[0])) for bound in stability.singular_value_bounds(steps))
        values = np.linalg.svd(stability.end_to_end_jacobian(steps)[0], compute_uv=False)
        rounding = 4 * T * n * UNIT_ROUNDOFF * upper  # of a product of T factors
        inside += bool(lower - rounding <= values[-1] and values[0] <= upper + rounding)
        M = antisymmetric.recurrent_matrix(parameters.W, diffusion)
        largest_norm = float(stability.norm_bound(np.ones(n), M, step_size))
        norms = np.linalg.norm(steps[:, 0], 2, axis=(1, 2))
        steps_inside += int((norms <= largest_norm * (1 + 4 * n * UNIT_ROUNDOFF)).sum())
        tightest.append(float(np.log(upper) / (T * np.log(largest_norm))))
    return Outcome(
        decide(inside == count and steps_inside == count * T),
        f"In {inside} of {count} trajectories of (12) and (13), T = {T}, n = {n}, all singular values lie inside; "
        f"{steps_inside} of {count * T} steps have σ_max ≤ 1 + ε‖M‖₂. log Π σ_max is {min(tightest):.2f} to "
        f"{max(tightest):.2f} of T log(1 + ε‖M‖₂).",
        {"trajectories": count, "inside": inside, "steps": count * T, "steps inside": steps_inside},
    )


def geometric_mean_is_at_least_one(quick: bool) -> Outcome:
    """det(I + εDM) of rational matrices at γ = 0; (1/n) Σ log|det| of exact trajectories, and of the code, in balls."""
    generator, exact, at_least_one = np.random.default_rng(30), 200 if quick else 2000, 0
    for k in range(exact):
        n = 1 + k % 7
        M = fractions(antisymmetric.recurrent_matrix(generator.integers(-9, 10, (n, n)), 0))
        D = diagonal_matrix([fmpq(entry, 100) for entry in generator.integers(1, 101, n).tolist()], fmpq_mat)
        X = [fmpq(1, 100), fmpq(1, 10), fmpq(1)][k % 3] * D * M
        at_least_one += (diagonal_matrix([1] * n, fmpq_mat) + X).det() >= 1
    count, T, n, m, ratios, identities = 8 if quick else 60, 30, 6, 2, [], 0
    not_below_one = without_diffusion = 0
    for k in range(count):
        step_size, diffusion = [0.05, 0.3][k % 2], [0.0, 0.5][k // 2 % 2]
        parameters = cell(generator, n, m, gate=False)
        x, h0 = generator.standard_normal((T, 1, m)), generator.standard_normal((1, n))
        with ctx.workprec(512):
            jacobians = jacobians_in_balls(parameters, x, h0, step_size=step_size, diffusion=diffusion)
            exact_logs = mean_log_determinant(jacobians)
            identities += bool(abs(mean_log_determinant([product(jacobians)]) - exact_logs) < 1e-30)
        without_diffusion += diffusion == 0
        not_below_one += diffusion == 0 and bool(exact_logs > 0)
        h = antisymmetric.forward(parameters, x, h0, step_size=step_size, diffusion=diffusion).h
        steps = stability.step_jacobians(parameters, x, h, step_size=step_size, diffusion=diffusion)
        logs = mean_log_determinant([balls(step) for step in steps[:, 0]])  # of the code's Jacobians as they are
        computed = float(stability.log_geometric_mean(steps)[0])
        # an LU factorisation moves log|det J| by about n² u times the condition number of J; here it is divided by n
        bound = n * UNIT_ROUNDOFF * float(np.linalg.cond(steps[:, 0]).sum())
        ratios.append(float(abs(arb(computed) - logs).upper()) / bound)
    worst = largest(ratios)
    holds = at_least_one == exact and identities == count and not_below_one == without_diffusion and worst <= 1
    return Outcome(
        decide(holds),
        f"{at_least_one} of {exact} rational det(I + εDM) at γ = 0, n = 1 to 7, are ≥ 1 exactly. On {identities} of "
        f"{count} exact trajectories, T = {T}, log|det| of the product is the sum of the steps' to 1e-30, in balls; it "
        f"is positive in {not_below_one} of the {without_diffusion} at γ = 0. The code is within {worst:.1e} of its "
        "rounding bound.",
        {"exact instances": exact, "at least one": at_least_one, "trajectories": count, "identities": identities}
        | {"trajectories at γ = 0": without_diffusion, "above one": not_below_one, "worst error / bound": worst},
    )


def mean_log_determinant(jacobians: Sequence[arb_mat]) -> arb:
    """(1/n) Σ log|det J|."""
    return total([abs(J.det()).log() for J in jacobians]) / jacobians[0].nrows()


def singular_values_along(steps: np.ndarray, at: Sequence[int]) -> list[tuple[float, float]]:
    """Largest and smallest singular value of the products of the first k step Jacobians, (T, n, n), k in ``at``."""
    result, partial = [], np.eye(steps.shape[-1])
    for t, step in enumerate(steps, start=1):
        partial = step @ partial
        if t in at:
            values = np.linalg.svd(partial, compute_uv=False)
            result.append((float(values[0]), float(values[-1])))
    return result


def gradient_norm_is_constant(quick: bool) -> Outcome:
    """‖∂h_t/∂h_0‖ of the vanilla, feedback and antisymmetric recurrences, and its growth for W₀ in balls."""
    _, jacobians = trajectory(
        arb_mat(fractions(ROTATION)), [arb_mat(2, 1)] * 1000, balls(np.array([0.0, 0.5])), arb(fraction(STEP_SIZE))
    )
    grown = norm(product(jacobians)) / arb(2).sqrt()  # the spectral norm is at least this
    generator, count, n, T, step_size = np.random.default_rng(31), 4 if quick else 20, 32, 200, 0.1
    at, short_inside, best = (10, 50, 100, 200), 0, 0
    curves: dict[str, list[list[tuple[float, float]]]] = {"vanilla": [], "feedback": [], "antisymmetric": []}
    for _ in range(count):
        W = initialization.parameters(generator, n, 1, sigma_w=1.0).W
        parameters = Parameters(W, np.zeros((n, 1)), np.zeros(n))
        x, h0 = np.zeros((T, 1, 1)), generator.standard_normal((1, n))
        h = dynamics.vanilla(W, h0[0], T)
        steps = {"vanilla": stability.jacobian(stability.diagonal(h[:-1] @ W.T), W)}
        for name, unconstrained in (("feedback", True), ("antisymmetric", False)):
            options: dict[str, Any] = {"step_size": step_size, "diffusion": 0.0, "unconstrained": unconstrained}
            h = antisymmetric.forward(parameters, x, h0, **options).h
            steps[name] = stability.step_jacobians(parameters, x, h, **options)[:, 0]
        found = {name: singular_values_along(matrices, at) for name, matrices in steps.items()}
        for name, values in found.items():
            curves[name].append(values)
        condition = {name: values[-1][0] / values[-1][1] for name, values in found.items()}
        best += condition["antisymmetric"] < condition["feedback"] and condition["antisymmetric"] < condition["vanilla"]
        # εt = 0.5: the provable bounds themselves are within a factor of 2, and the values within the bounds
        h = antisymmetric.forward(parameters, x[:50], h0, step_size=0.01, diffusion=0.0).h
        short = stability.step_jacobians(parameters, x[:50], h, step_size=0.01, diffusion=0.0)
        lower, upper = (float(np.exp(bound[0])) for bound in stability.singular_value_bounds(short))
        ((high, low),) = singular_values_along(short[:, 0], [50])
        short_inside += 0.5 <= lower <= low * (1 + 1e-12) and high * (1 - 1e-12) <= upper <= 2
    medians = {name: np.median(np.array(values), axis=0) for name, values in curves.items()}
    return Outcome(
        decide(False, refuted=bool(grown > 10), under_condition=short_inside == count and best == count),
        f"For W₀ of Figure 1(g) without input, ‖∂h_T/∂h_0‖ at T = 1000 is at least {interval(grown)}. At total time "
        f"εT = 0.5 the provable bounds keep it within a factor of 2 in {short_inside} of {count} draws, n = {n}. At "
        f"ε = 0.1, T = {T} the median largest and smallest singular values are "
        + ", ".join(f"{name} {values[-1][0]:.1e} and {values[-1][1]:.1e}" for name, values in medians.items())
        + f"; the antisymmetric one is the best conditioned in {best} of {count}.",
        {"‖∂h_T/∂h_0‖, W₀, T = 1000, at least": ends(grown), "instances": count, "steps": list(at)}
        | {"within a factor of 2 at εT = 0.5": short_inside, "best conditioned at T = 200": best}
        | {f"median largest, {name}": values[:, 0].tolist() for name, values in medians.items()}
        | {f"median smallest, {name}": values[:, 1].tolist() for name, values in medians.items()},
    )


def diffusion_decay(quick: bool) -> Outcome:
    """(1/n) Σ log|det(I + εDM)| against −εγ Σ mean d with a proved remainder; at ε = 1 the sign is wrong, in balls."""
    generator, count, T, n, m, ratios, relative = np.random.default_rng(32), 8 if quick else 60, 100, 16, 2, [], []

    def draw() -> tuple[Parameters, np.ndarray, np.ndarray]:
        return (
            cell(generator, n, m, gate=False),
            generator.standard_normal((T, 1, m)),
            generator.standard_normal((1, n)),
        )

    with ctx.workprec(1024):  # at ε = 1 a radius grows fast
        jacobians = jacobians_in_balls(*draw(), step_size=1, diffusion="0.01")
        logs = mean_log_determinant(jacobians)
        rule_of_wrong = total([trace(J) / n - 1 for J in jacobians])  # tr J = n + ε tr DM = n − εγ Σ d
    for k in range(count):
        parameters, x, h0 = draw()
        step_size, diffusion = [0.01, 0.003][k % 2], [0.1, 1.0][k // 2 % 2]
        h = antisymmetric.forward(parameters, x, h0, step_size=step_size, diffusion=diffusion).h
        M = antisymmetric.recurrent_matrix(parameters.W, diffusion)
        a = h[:-1] @ M.T + x @ parameters.V.T + parameters.b
        rule = -step_size * diffusion * float(stability.diagonal(a).mean(axis=-1).sum())
        steps = stability.step_jacobians(parameters, x, h, step_size=step_size, diffusion=diffusion)
        measured = float(stability.log_geometric_mean(steps)[0])
        rho = np.linalg.norm(steps[:, 0] - np.eye(n), 2, axis=(1, 2))
        # |log|det(I + X)| − tr X| ≤ n (ρ²/2 + ρ³/3 + …) ≤ n ρ²/(2(1 − ρ)), ρ = ‖X‖₂ < 1
        ratios.append(abs(measured - rule) / float((rho**2 / (2 * (1 - rho))).sum()))
        relative.append(abs(measured / rule - 1))
    worst = largest(ratios)
    return Outcome(
        decide(False, refuted=bool(rule_of_wrong < 0) and bool(logs > 0), under_condition=worst <= 1),
        "At ε = 1, γ = 0.01 the rule puts the logarithm of the geometric mean of the |eigenvalues| in "
        f"{interval(rule_of_wrong)}, but it is in {interval(logs)}. At ε ≤ 0.01 it is within {worst:.2f} of the proved "
        f"remainder Σ ρ²/(2(1 − ρ)), ρ = ε‖D_t M‖₂, in {count} draws, and off by {largest(relative):.1%} at most.",
        {"log geometric mean at ε = 1": ends(logs), "by the rule": ends(rule_of_wrong), "instances": count}
        | {"worst difference / remainder": worst, "largest relative difference": largest(relative)},
    )


def gradients_of_shared_matrix(quick: bool) -> Outcome:
    """dW, dγ and dh_0 of both cells along random directions, against the complex step; dW + dWᵀ = 0 in bits."""
    generator, count, ratios, antisymmetric_bits = np.random.default_rng(33), 30 if quick else 240, [], 0
    T, n, m = 7, 5, 2
    for k in range(count):
        gate, step_size, diffusion = bool(k % 2), 0.3, 0.15
        parameters = cell(generator, n, m, gate=gate)
        x, h0 = generator.standard_normal((T, 1, m)), generator.standard_normal((1, n))
        g, direction, turn = generator.standard_normal((T + 1, 1, n)), *generator.standard_normal((2, n, n))
        spec, options = module(gate), {"step_size": step_size, "diffusion": diffusion}
        states = spec.forward(parameters, x, h0, **options)
        gradients = spec.backward(parameters, x, states, g, **options)
        moved = parameters._replace(W=parameters.W + 1j * COMPLEX_STEP * direction)
        forward = inspect.unwrap(spec.forward)
        after = forward(
            moved, x, h0 + 1j * COMPLEX_STEP * turn[0], step_size=step_size, diffusion=diffusion + 1j * COMPLEX_STEP
        ).h
        dW, dh0 = gradients.parameters.W, gradients.h0
        terms = [dW * direction, dh0 * turn[:1], gradients.diffusion]
        off = abs(sum(term.sum() for term in terms) - (g * after.imag).sum() / COMPLEX_STEP)
        size = np.linalg.norm(antisymmetric.recurrent_matrix(parameters.W, diffusion), 2)
        scale = np.abs(g).sum() * (np.abs(direction).sum() * np.abs(states.h).max() + np.abs(turn[0]).sum() + n)
        # roundings of T steps of n-term sums, each growing by at most 1 + ε‖M‖ a step, as a state and as an adjoint
        ratios.append(float(off / (T * (4 * n + 32) * UNIT_ROUNDOFF * scale * (1 + step_size * size) ** (2 * T))))
        antisymmetric_bits += bool((dW == -dW.T).all())
    W, v = generator.integers(-99, 100, (n, n)).astype(float), generator.integers(-99, 100, n).astype(float)
    M = antisymmetric.recurrent_matrix(W, 0.25)
    transposed = bool((M.T @ v == -(M @ v) - 2 * 0.25 * v).all())  # integers and quarters: exact in floats
    worst = largest(ratios)
    return Outcome(
        decide(worst <= 1 and antisymmetric_bits == count and transposed),
        f"{count} random directions of (W, γ, h_0) in both cells, T = {T}: within {worst:.1e} of the rounding bound; "
        f"dW is bitwise antisymmetric in {antisymmetric_bits}. Mᵀv = −Mv − 2γv holds exactly on integers.",
        {"instances": count, "worst error / bound": worst, "antisymmetric in bits": antisymmetric_bits},
    )
