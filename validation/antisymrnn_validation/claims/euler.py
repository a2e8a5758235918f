"""Checks of the paper's discrete half: equations (10) to (13), Proposition 2, the energy under forward Euler, the gate.

Tolerances of random instances are bounds on rounding errors; ``u`` stands for the unit roundoff 2⁻⁵³.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from flint import acb_mat, arb, arb_mat, ctx, fmpq, fmpq_mat

from antisymrnn_ref import antisymmetric, dynamics, gated, initialization, stability
from antisymrnn_ref.contract import GatedParameters, Parameters
from antisymrnn_validation.claims.antisymmetry import rounding_of_eigenvalues
from antisymrnn_validation.claims.evidence import (
    PRECISION,
    ROTATION,
    STEP_SIZE,
    SWING,
    UNIT_ROUNDOFF,
    W_DIFF,
    Exact,
    Outcome,
    balls,
    decide,
    derivative_of_tanh,
    diagonal_matrix,
    ends,
    entrywise,
    fraction,
    fractions,
    interval,
    largest,
    largest_error,
    largest_ratio,
    log_cosh,
    norm,
    run,
    total,
    trace,
)
from antisymrnn_validation.claims.ode import field, random_matrix
from antisymrnn_validation.truth.oracles import COMPLEX_STEP

FAR = 0.1
"""A real part above this is not close to zero, where ‖M‖₂ is about 1."""


def cell(generator: np.random.Generator, n: int, m: int, *, gate: bool) -> Any:
    """Random parameters in generic position: full W, every bias drawn."""
    draw = initialization.gated_parameters if gate else initialization.parameters
    parameters = draw(generator, n, m, sigma_w=1.0)
    biases = {name: generator.standard_normal(n) for name in parameters._fields if name.startswith("b")}
    return parameters._replace(**biases)


def module(gate: bool) -> Any:
    """The specification of equation (13) or (12)."""
    return gated if gate else antisymmetric


def cells_as_written(quick: bool) -> Outcome:
    """Every step of both cells, and of the recurrence with feedback, against one step in balls from the same state."""
    generator, count, ratios, steps = np.random.default_rng(20), 8 if quick else 40, [], 0
    for k in range(3 * count):
        n, m, T, (gate, unconstrained) = 2 + k % 4, 1 + k % 3, 8, [(False, False), (True, False), (False, True)][k % 3]
        parameters = cell(generator, n, m, gate=gate)
        x, h0 = generator.standard_normal((T, 1, m)), generator.standard_normal((1, n))
        step_size, diffusion = [0.1, 1.0][k % 2], 0.0 if unconstrained else [0.0, 0.15][k % 2]
        if unconstrained:  # equation (3) with f = tanh(W h): no input, no bias
            parameters, x = Parameters(parameters.W, 0 * parameters.V, 0 * parameters.b), 0 * x
            h = dynamics.feedback(parameters.W, h0, step_size, T)
        else:
            h = module(gate).forward(parameters, x, h0, step_size=step_size, diffusion=diffusion).h
        W = balls(parameters.W)
        M = (W if unconstrained else W - W.transpose()) - diagonal_matrix([arb(diffusion)] * n)
        sizes = np.abs(parameters.W) + (0 if unconstrained else np.abs(parameters.W.T)) + diffusion * np.eye(n)
        for t in range(T):
            a = M * balls(h[t, 0]) + balls(parameters.V) * balls(x[t, 0]) + balls(parameters.b)
            increment = entrywise(arb.tanh, a)
            terms = sizes @ np.abs(h[t, 0]) + np.abs(parameters.V) @ np.abs(x[t, 0]) + np.abs(parameters.b)
            if gate:
                a_z = M * balls(h[t, 0]) + balls(parameters.V_z) * balls(x[t, 0]) + balls(parameters.b_z)
                z = entrywise(lambda a: 1 / (1 + (-a).exp()), a_z)
                increment = arb_mat(n, 1, [p * q for p, q in zip(z.entries(), increment.entries(), strict=True)])
                terms = terms + np.abs(parameters.V_z) @ np.abs(x[t, 0]) + np.abs(parameters.b_z)
            # tanh and σ have slope at most 1; a is off by (n + m + 4) u Σ|terms|
            slack = np.abs(h[t + 1, 0]) + step_size * ((n + m + 4) * terms + 8)
            error = largest_error(h[t + 1, 0], balls(h[t, 0]) + arb(step_size) * increment)
            ratios.append(error / (UNIT_ROUNDOFF * slack.max()))
            steps += 1
    worst = largest(ratios)
    return Outcome(
        decide(worst <= 1),
        f"{steps} steps of {3 * count} trajectories of (3), (10) and (12), and (13): each within "
        f"{worst:.2f} of the rounding bound.",
        {"steps": steps, "trajectories": 3 * count, "worst error / bound": worst},
    )


def trajectory(
    M: arb_mat, inputs: Sequence[arb_mat], h: arb_mat, step_size: Any
) -> tuple[list[arb_mat], list[arb_mat]]:
    """States and step Jacobians of h_t = h_{t−1} + ε tanh(M h_{t−1} + u_t) in balls."""
    states, jacobians, identity = [h], [], diagonal_matrix([1] * h.nrows())
    for u in inputs:
        a = M * states[-1] + u
        jacobians.append(identity + step_size * diagonal_matrix([derivative_of_tanh(e) for e in a.entries()]) * M)
        states.append(states[-1] + step_size * entrywise(arb.tanh, a))
    return states, jacobians


def jacobians_in_balls(
    parameters: Parameters, x: np.ndarray, h0: np.ndarray, *, step_size: Exact, diffusion: Exact
) -> list[arb_mat]:
    """Step Jacobians of (12) along the exact trajectory of one sequence, x (T, 1, m), h0 (1, n), parameters exact."""
    W, V = balls(parameters.W), balls(parameters.V)
    M = W - W.transpose() - diagonal_matrix([arb(fraction(diffusion))] * W.nrows())
    inputs = [V * balls(row[0]) + balls(parameters.b) for row in x]
    return trajectory(M, inputs, balls(h0[0]), arb(fraction(step_size)))[1]


def product(jacobians: Sequence[arb_mat]) -> Any:
    """J_T … J_1."""
    result = diagonal_matrix([1] * jacobians[0].nrows())
    for J in jacobians:
        result = J * result
    return result


def inside_unit_circle(J: Any) -> bool:
    """Whether both eigenvalues of a 2×2 matrix are certainly inside the unit circle (Jury's conditions)."""
    determinant = J.det()
    return bool(determinant < 1) and bool(determinant > -1) and bool(abs(trace(J)) < 1 + determinant)


def swinging_inputs(T: int) -> tuple[Parameters, np.ndarray, np.ndarray]:
    """The cell of Figure 1(h) with V = I, and inputs that saturate its two units in turns: parameters, x, h0."""
    parameters = Parameters(np.array([[0.0, -2.0], [0.0, 0.0]]), np.eye(2), np.zeros(2))
    saturated = float(arb(1 - SWING).sqrt().atanh())  # where tanh' is δ
    M = antisymmetric.recurrent_matrix(parameters.W, 0.15)
    x, h = np.zeros((T, 1, 2)), np.array([[0.0, 0.5]])
    h0 = h
    for t in range(T):
        quarter = t // 16  # a quarter of a turn takes about 16 steps
        a = np.zeros((1, 2))
        a[0, 1 - quarter % 2] = saturated * (-1) ** (quarter // 2)
        x[t] = a - h @ M.T
        h = antisymmetric.forward(parameters, x[t : t + 1], h, step_size=0.1, diffusion=0.15).h[-1]
    return parameters, x, h0


def swinging_jacobians(T: int, *, input_scale: float = 1.0) -> tuple[list[arb_mat], arb_mat]:
    """Certified step Jacobians under these inputs, and the end-to-end Jacobian that the specification computes."""
    parameters, x, h0 = swinging_inputs(T)
    x = input_scale * x
    h = antisymmetric.forward(parameters, x, h0, step_size=0.1, diffusion=0.15).h
    steps = stability.step_jacobians(parameters, x, h, step_size=0.1, diffusion=0.15)
    M = fractions(W_DIFF)
    _, jacobians = trajectory(arb_mat(M), [balls(row[0]) for row in x], balls(h0[0]), arb(fraction(STEP_SIZE)))
    return jacobians, balls(stability.end_to_end_jacobian(steps)[0])


def frozen_euler_suffices(quick: bool) -> Outcome:  # noqa: ARG001
    """W_diff under inputs that keep every |1 + ελ| below 1, step by step, and multiply the gradient, in balls."""
    T = 320
    jacobians, computed = swinging_jacobians(T)
    stable = sum(inside_unit_circle(J) for J in jacobians)
    certified = product(jacobians)
    size = norm(certified)
    agreement = float((norm(computed - certified) / size).abs_upper())
    # rounding errors of T steps, a few u each, grow as perturbations of the state do
    agrees = agreement <= 32 * T * UNIT_ROUNDOFF * float(size)
    refuted = stable == T and agrees and bool(size > 1000)
    return Outcome(
        decide(False, refuted=refuted),
        f"The cell of Figure 1(h) under inputs that saturate its two units in turns has both |1 + ελ| < 1 in {stable} "
        f"of {T} steps, certified, yet ‖∂h_T/∂h_0‖ is in {interval(size)}; the specification's own product agrees "
        f"to {agreement:.1e}.",
        {"‖∂h_T/∂h_0‖": ends(size), "steps": T, "steps that meet (11)": stable, "relative difference": agreement},
    )


def inputs_do_not_matter(quick: bool) -> Outcome:  # noqa: ARG001
    """One cell, one start, with and without inputs: the gradient's norm after 320 steps, in balls."""
    T = 320
    with_inputs = norm(product(swinging_jacobians(T)[0]))
    without = norm(product(swinging_jacobians(T, input_scale=0.0)[0]))
    ratio = with_inputs / without
    return Outcome(
        decide(False, refuted=bool(ratio > 100)),
        f"For W_diff, ε = 0.1, T = {T}, ‖∂h_T/∂h_0‖ is in {interval(without)} without input and in "
        f"{interval(with_inputs)} with inputs that saturate the two units in turns.",
        {"without input": ends(without), "with inputs": ends(with_inputs), "ratio": ends(ratio)},
    )


def saturating_inputs(T: int, step_size: float) -> tuple[Parameters, np.ndarray]:
    """The cell M = [[0, 1], [−1, 0]] with V = I, and inputs that make a_t = (t, t) from h_0 = 0: parameters, x."""
    parameters = Parameters(np.array([[0.0, 1.0], [0.0, 0.0]]), np.eye(2), np.zeros(2))
    M = antisymmetric.recurrent_matrix(parameters.W, 0)
    a = np.arange(1.0, T + 1)[:, None, None] * np.ones((1, 2))
    h = step_size * np.cumsum(np.tanh(a), axis=0)
    return parameters, a - np.concatenate([np.zeros((1, 1, 2)), h[:-1]]) @ M.T


def saturated_growth(T: int, step_size: str) -> tuple[float, arb, int]:
    """What five neighbours under these inputs grow by at most, a bound for all T, and the steps with a_t = (t, t).

    There λ = ±i/cosh² t, and |1 + ελ|² = 1 + ε²/cosh⁴ t > 1. Neighbours r ≤ 1 apart have all |a_i| ≥ t − 1, as
    ‖M‖₂ = 1, so that r grows by at most 1 + ε/cosh²(t − 1), and 1/cosh² x ≤ 4e^{−2x}: by less than
    exp(ε (1 + 4/(e² − 1))) for ever.
    """
    parameters, x = saturating_inputs(T, float(step_size))
    starts = np.concatenate([np.zeros((1, 2)), 0.5 * np.eye(2), [[-0.3, 0.4], [1e-3, 2e-3], [-0.54, -0.64]]])
    together = np.repeat(x, len(starts), axis=1)
    h = antisymmetric.forward(parameters, together, starts, step_size=float(step_size), diffusion=0.0).h
    apart = np.linalg.norm(h - h[:, :1], axis=-1)[:, 1:]
    bound = (arb(fraction(step_size)) * (1 + 4 / (arb(2).exp() - 1))).exp()
    a = (h[:-1] @ antisymmetric.recurrent_matrix(parameters.W, 0).T + x)[:, 0]
    as_said = np.abs(a / np.arange(1, T + 1)[:, None] - 1).max(axis=1) < 1e-12
    return float(np.max(apart / apart[0])), bound, int(as_said.sum())


def imaginary_eigenvalues_are_unstable(quick: bool) -> Outcome:
    """Σ ω² = −tr (DM)² in exact arithmetic: some |1 + ελ| > 1 unless M = 0; and (10) where units saturate."""
    generator, count, unstable, least = np.random.default_rng(21), 100 if quick else 1000, 0, []
    zero = initialization.parameters(generator, 6, 1, sigma_w=0.0).W  # σ_w = 0 is in the paper's grid
    none = fractions(antisymmetric.recurrent_matrix(zero, 0.0))
    refuted = none == 0 * none and not np.any(stability.amplification(np.zeros(6), 0.1) != 1)
    for k in range(count):
        n = 2 + k % 6
        W, d = generator.integers(-9, 10, (n, n)), generator.integers(1, 100, n)
        W[0, 1] = W[1, 0] + 1  # M is not zero
        M, step_size = antisymmetric.recurrent_matrix(W, 0), [fmpq(1, 100), fmpq(1, 10), fmpq(1)][k % 3]
        J = diagonal_matrix([fmpq(entry, 100) for entry in d.tolist()], fmpq_mat) * fractions(M)
        # the largest ω² is at least the mean one, and |1 + iεω|² = 1 + ε²ω²
        excess = step_size**2 * -trace(J * J) / n
        eigenvalues = np.linalg.eigvals(np.array(d / 100)[:, None] * M)
        unstable += bool(excess > 0) and not stability.is_euler_stable(1j * eigenvalues.imag, float(step_size))
        least.append(float(arb(excess).lower()))
    T = 200
    grown, bound, as_said = saturated_growth(T, STEP_SIZE)
    refuted = refuted and as_said == T and bool(arb(grown) <= bound)
    return Outcome(
        decide(False, refuted=refuted, under_condition=unstable == count),
        f"{unstable} of {count} rational matrices DM, n = 2 to 7, have an |1 + ελ|² above 1 by {min(least):.1e} or "
        "more, exactly. For M = 0, which σ_w = 0 of the paper's grid and n = 1 give, every |1 + ελ| is exactly 1. "
        f"Inputs make a_t = (t, t) in {as_said} of {T} steps, where both |1 + ελ| > 1; yet at ε = {STEP_SIZE} five "
        f"neighbours come at most {grown:.4f} times as far apart, and {float(bound):.4f} is proved for all T.",
        {"instances": count, "unstable": unstable, "least excess of |1 + ελ|²": min(least), "|1 + ελ| at M = 0": "1"}
        | {"steps with a_t = (t, t)": as_said, "five neighbours grow by": grown, "proved at most": ends(bound)},
    )


def critical_diffusion_formula(quick: bool) -> Outcome:
    """|1 + ελ|² ≤ 1 against d ≤ 2γ/(ε(γ² + ω²)) in exact arithmetic, boundaries included, and the code in balls."""
    generator, count = np.random.default_rng(22), 200 if quick else 2000
    agree, boundary, ratios, sharp = 0, 0, [], 0
    for k in range(count):
        omega, gamma, step_size, d = (fmpq(int(entry), 100) for entry in generator.integers(1, 300, 4))
        limit = 2 * gamma / (step_size * (gamma**2 + omega**2))
        d = limit if k % 10 == 0 else d
        stable = (1 - step_size * d * gamma) ** 2 + (step_size * d * omega) ** 2 <= 1
        agree += stable == (d <= limit)
        boundary += d == limit
        eigenvalue = complex(-float(d * gamma), float(d * omega))
        agree -= d != limit and stability.is_euler_stable(eigenvalue, float(step_size)) != bool(stable)
    for _ in range(count):
        ratio, frequency, entry = generator.uniform([0.001, 0.1, 0.01], [0.95, 5.0, 1.0]).tolist()
        step = ratio / (frequency * entry)
        r = arb(step) * arb(entry) * arb(frequency)
        exact = (1 - (1 - r * r).sqrt()) / (arb(step) * arb(entry))
        critical = arb(float(stability.critical_diffusion(frequency, step, entry)))
        # √(1 − r²) multiplies the relative error of r by r²/(1 − r²) ≤ 10
        ratios.append(float(abs(critical / exact - 1).upper()) / (64 * UNIT_ROUNDOFF))
        below, above = (
            (1 - arb(step) * arb(entry) * critical * factor) ** 2 + r * r for factor in (0.999999, 1.000001)
        )
        sharp += bool(below > 1) and bool(above < 1)
    worst = largest(ratios)
    return Outcome(
        decide(agree == count and sharp == count and worst <= 1),
        f"The two inequalities agree in {agree} of {count} rational instances, {boundary} of them on the boundary. "
        f"The code's critical γ is within {worst:.2f} of 64 u; in {sharp} of {count} cases a millionth less is "
        "unstable and a millionth more is stable.",
        {
            "instances": count,
            "agreeing": agree,
            "on the boundary": boundary,
            "worst error / bound": worst,
            "sharp": sharp,
        },
    )


def w_diff_is_euler_stable(quick: bool) -> Outcome:  # noqa: ARG001
    """|1 + ελ|² of W_diff in exact arithmetic, and the γ that would be needed, in balls."""
    W, step_size = fractions(W_DIFF), fraction(STEP_SIZE)
    gamma, omega = -W[0, 0], W[1, 0]
    square = (diagonal_matrix([1, 1], fmpq_mat) + step_size * W).det()  # |1 + ελ|² of a conjugate pair
    factor = arb(square).sqrt()
    critical = (1 - (1 - arb(step_size * omega) ** 2).sqrt()) / arb(step_size)
    computed = float(stability.critical_diffusion(float(omega), float(step_size)))
    eigenvalues = np.linalg.eigvals(np.array(W_DIFF, float))
    amplification = float(stability.amplification(eigenvalues, float(step_size)).max())
    codes_agree = abs(amplification - float(factor)) < 1e-14 and abs(computed - float(critical)) < 1e-14
    refuted = square > 1 and codes_agree and bool(critical > arb(gamma))
    return Outcome(
        decide(square <= 1 and codes_agree, refuted=refuted),
        f"At the origin |1 + ελ|² = {square} exactly, so |1 + ελ| is in {interval(factor)}; γ = {gamma} would have to "
        f"be in {interval(critical)} at least.",
        {"|1 + ελ|": ends(factor), "its square": str(square), "critical γ": ends(critical), "γ": str(gamma)},
    )


def diffusion_makes_euler_stable(quick: bool) -> Outcome:
    """Every step of (12) meets (11) if γ is critical for ω = ‖W − Wᵀ‖₂, d = 1; W_diff and ε = 1 fail exactly."""
    small = (diagonal_matrix([1, 1], fmpq_mat) + fraction(STEP_SIZE) * fractions(W_DIFF)).det()
    # |1 + ε(−γ + iω)|² = (1 − εγ)² + (εω)² ≥ (εω)², for any γ
    any_gamma = (1 * fractions(ROTATION)[1, 0]) ** 2
    generator, count, ratios = np.random.default_rng(23), 100 if quick else 1000, []
    for k in range(count):
        n = 2 + k % 9
        W = generator.standard_normal((n, n)) / np.sqrt(n)
        size = float(np.linalg.norm(W - W.T, 2))
        step_size = generator.uniform(0.05, 0.95) / size
        least = float(stability.critical_diffusion(size, step_size))
        diffusion = least * (size / least) ** (
            2 * [0.0, generator.uniform(), 1.0][k % 3]
        )  # from the critical γ to ω²/γ
        D = stability.diagonal([0.0, 0.3, 1.0, 3.0][k % 4] * generator.standard_normal(n))
        J = stability.jacobian(D, antisymmetric.recurrent_matrix(W, diffusion))
        excess = stability.amplification(np.linalg.eigvals(J), step_size).max() - 1
        # λ = d(−γ + iω) + η with min d ≤ d ≤ max d, |ω| ≤ ‖W − Wᵀ‖₂ and η the rounding; |1 + ελ| and γ cost a few u
        ratios.append(excess / (step_size * rounding_of_eigenvalues(D, J) + 8 * UNIT_ROUNDOFF))
    worst = largest(ratios)
    return Outcome(
        decide(False, refuted=bool(small > 1) and bool(any_gamma > 1), under_condition=worst <= 1),
        f"γ = 0.15 leaves W_diff |1 + ελ|² = {small}, and at ε = 1, ω = 2 every γ leaves it ≥ {any_gamma}, exactly. "
        f"With ε‖W − Wᵀ‖ < 1 and γ from critical to ω²/critical, {count} Jacobians, n = 2 to 10, meet (11): the excess "
        f"of |1 + ελ| over 1 is at most {worst:.2f} of the rounding bound.",
        {"|1 + ελ|² of W_diff": str(small), "least |1 + ελ|² over γ at ε = 1, ω = 2": str(any_gamma)}
        | {"instances": count, "worst excess / rounding": worst},
    )


def energy_in_balls(M: arb_mat, h: arb_mat, u: arb_mat) -> arb:
    """Σ log cosh (M h + u)."""
    return total([log_cosh(entry) for entry in (M * h + u).entries()])


def network_inherits_stability(quick: bool) -> Outcome:  # noqa: ARG001
    """The energy that the ODE of Figure 1(g) keeps, along the recurrence, in balls."""
    M, nothing = arb_mat(fractions(ROTATION)), arb_mat(2, 1)
    states = run(fractions(ROTATION), ["0", "0.5"], STEP_SIZE, 500, 256)
    first, at_50, last = (energy_in_balls(M, states[t], nothing) for t in (0, 50, 500))
    kept = fractions(ROTATION) == -fractions(ROTATION).transpose()  # then dE/dt = sᵀ M s = 0
    return Outcome(
        decide(False, refuted=kept and bool(last > 2 * first)),
        f"Under h' = tanh(W₀ h) from (0, 0.5) the energy stays in {interval(first)} for ever; under the recurrence "
        f"with ε = 0.1 it is in {interval(at_50)} after 50 steps and in {interval(last)} after 500.",
        {"energy at t = 0": ends(first), "after 50 steps": ends(at_50), "after 500 steps": ends(last)},
    )


def energy_rises(M: arb_mat, u: arb_mat, h: arb_mat, step_size: float) -> bool:
    """Whether E is certainly larger after one Euler step; saturated units need many bits to tell."""
    for precision in (PRECISION, 1024, 8192):
        with ctx.workprec(precision):
            after = h + arb(step_size) * entrywise(arb.tanh, M * h + u)
            if energy_in_balls(M, after, u) > energy_in_balls(M, h, u):
                return True
    return False


def euler_never_lowers_energy(quick: bool) -> Outcome:
    """Every Euler step from a float state in balls, M bitwise antisymmetric; the code's E against balls."""
    generator, count, T, rises, ratios = np.random.default_rng(24), 32 if quick else 320, 10, 0, []
    for k in range(count):
        n = 1 + k % 8
        M, (u, h0) = 3 * random_matrix(generator, n), 2 * generator.standard_normal((2, n))
        step_size = [0.01, 0.1, 1.0, 10.0][k // 8 % 4]
        h = dynamics.forward_euler(field(M, u), h0, step_size, T)
        energies = dynamics.energy(M, h, u)
        matrix, offset = balls(M), balls(u)
        for t in range(T):
            state = balls(h[t])
            exact = energy_in_balls(matrix, state, offset)
            rises += not M.any() or energy_rises(matrix, offset, state, step_size)
            # |tanh| ≤ 1; v is off by (n + 1) u Σ|terms|, each log cosh and the sum by a few u
            terms = (np.abs(M) @ np.abs(h[t]) + np.abs(u)).sum()
            bound = UNIT_ROUNDOFF * ((n + 1) * terms + (n + 8) * float(exact))
            ratios.append(float(abs(arb(float(energies[t])) - exact).upper()) / bound)
    worst = largest(ratios)
    return Outcome(
        decide(rises == count * T and worst <= 1),
        f"{rises} of {count * T} Euler steps, n = 1 to 8, ε = 0.01 to 10, raise E (or have M = 0), certified; the "
        f"code's E is within {worst:.2f} of its rounding bound.",
        {"steps": count * T, "steps that do not lower E": rises, "worst error / bound": worst},
    )


def gated_counter_example() -> GatedParameters:
    """A cell (13) whose first step from h = 0 has a = (−3, 3), a_z = (−3, 0) and M = [[0, 1], [−1, 0]]."""
    return GatedParameters(
        W=np.array([[0.0, 1.0], [0.0, 0.0]]),
        V=np.zeros((2, 1)),
        b=np.array([-3.0, 3.0]),
        V_z=np.zeros((2, 1)),
        b_z=np.array([-3.0, 0.0]),
    )


def gated_diagonal_in_balls(a: float, a_z: float) -> arb:
    """D = z (1 − s²) + z (1 − z) s, one entry."""
    z, s = 1 / (1 + (-arb(a_z)).exp()), arb(a).tanh()
    return z * (1 - s * s) + z * (1 - z) * s


def gated_jacobian_form(quick: bool) -> Outcome:
    """I + ε diag(D) M of one step against its derivative by complex step, and the code's D against balls."""
    generator, count, ratios = np.random.default_rng(25), 100 if quick else 600, []
    for k in range(count):
        n, m = 1 + k % 6, 1 + k % 3
        parameters = cell(generator, n, m, gate=True)
        x, h0 = generator.standard_normal((1, 1, m)), generator.standard_normal((1, n))
        step_size, diffusion = [0.1, 1.0][k % 2], [0.0, 0.15][k // 2 % 2]
        h = gated.forward(parameters, x, h0, step_size=step_size, diffusion=diffusion).h
        J = stability.step_jacobians(parameters, x, h, step_size=step_size, diffusion=diffusion)[0, 0]
        moved = h0 + 1j * COMPLEX_STEP * np.eye(n)  # one row of the batch for each unit that is moved
        rows = np.repeat(x, n, axis=1)
        after = inspect.unwrap(gated.forward)(parameters, rows, moved, step_size=step_size, diffusion=diffusion).h[-1]
        M = antisymmetric.recurrent_matrix(parameters.W, diffusion)
        terms = np.abs(M) @ np.abs(h0[0]) + sum(np.abs(p @ x[0, 0]) + np.abs(q) for p, q in pairs(parameters))
        # |∂d/∂a|, |∂d/∂a_z| ≤ 1; a and a_z are off by (n + m + 2) u Σ|terms|, the rest is two dozen roundings
        bound = step_size * np.abs(M) * (2 * (n + m + 2) * terms + 24)[:, None] + 2 * np.eye(n)
        off = np.abs(J - after.imag.T / COMPLEX_STEP)
        ratios.append(largest_ratio(off, UNIT_ROUNDOFF * bound))
    worst = largest(ratios)
    return Outcome(
        decide(worst <= 1),
        f"{count} steps of (13), n = 1 to 6: every entry of I + ε diag(D) M within {worst:.2f} of the rounding bound.",
        {"instances": count, "worst error / bound": worst},
    )


def pairs(parameters: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """(V, b) of the candidate and of the gate."""
    return [(parameters.V, parameters.b), (parameters.V_z, parameters.b_z)]


def gated_criterion_remains(quick: bool) -> Outcome:
    """Two real eigenvalues by a discriminant in balls, and the largest real parts of random draws, certified."""
    parameters, x, h0 = gated_counter_example(), np.zeros((1, 1, 1)), np.zeros((1, 2))
    d = [gated_diagonal_in_balls(a, a_z) for a, a_z in zip(parameters.b, parameters.b_z, strict=True)]
    J = diagonal_matrix(d) * balls(antisymmetric.recurrent_matrix(parameters.W, 0.0))
    discriminant = trace(J) ** 2 - 4 * J.det()
    eigenvalue = (trace(J) + discriminant.sqrt()) / 2 if discriminant > 0 else trace(J) / 2
    # the specification's own step Jacobian at this state is I + J for ε = 1
    h = gated.forward(parameters, x, h0, step_size=1.0, diffusion=0.0).h
    step = stability.step_jacobians(parameters, x, h, step_size=1.0, diffusion=0.0)[0, 0]
    code = largest_error(step, J + diagonal_matrix([1, 1]))
    generator, count, found = np.random.default_rng(26), 500 if quick else 5000, []
    for k in range(count):
        n = 2 + k % 4
        M, (a, a_z) = random_matrix(generator, n), 3 * generator.standard_normal((2, n))
        real = np.linalg.eigvals(stability.jacobian(stability.gated_diagonal(a, a_z), M)).real.max()
        found.append((float(real), a, a_z, M))
    far = sum(real > FAR for real, *_ in found)
    certified = []
    for _, a, a_z, M in sorted(found, key=lambda draw: -draw[0])[:5]:
        draw = diagonal_matrix([gated_diagonal_in_balls(p, q) for p, q in zip(a, a_z, strict=True)]) * balls(M)
        certified.append(max((root.real for root in acb_mat(draw).eig()), key=lambda ball: float(ball)))
    refuted = bool(discriminant > 0) and code < 1e-14 and all(bool(ball > FAR) for ball in [eigenvalue, *certified])
    return Outcome(
        decide(False, refuted=refuted),
        f"D is in ({interval(d[0])}, {interval(d[1])}), the discriminant in {interval(discriminant)}: the eigenvalues "
        f"are real, ± a number in {interval(eigenvalue)}. In {far} of {count} random draws Re λ > {FAR}; the five "
        f"largest are so for certain, the first in {interval(certified[0])}.",
        {"eigenvalue": ends(eigenvalue), "discriminant": ends(discriminant), "D": [ends(ball) for ball in d]}
        | {"random draws": count, f"draws with Re λ > {FAR}": far, "five largest Re λ": [ends(e) for e in certified]}
        | {"the code's step Jacobian differs by": code},
    )


def gated_sign_condition(quick: bool) -> Outcome:
    """The sign of the code's D against the sign of 1 − t² + (1 − z) t, t = tanh a, in balls."""
    generator, count = np.random.default_rng(27), 1000 if quick else 10000
    a, a_z = 3 * generator.standard_normal((2, count))
    D = stability.gated_diagonal(a, a_z)
    agree = negative = 0
    for p, q, d in zip(a.tolist(), a_z.tolist(), D.tolist(), strict=True):
        t, z = arb(p).tanh(), 1 / (1 + (-arb(q)).exp())
        inner = 1 - t * t + (1 - z) * t
        agree += (d < 0 and bool(inner < 0)) or (d > 0 and bool(inner > 0))
        negative += d < 0
    return Outcome(
        decide(agree == count and 0 < negative < count),
        f"The signs agree in {agree} of {count} draws of a and a_z from N(0, 9), {negative} of them negative.",
        {"instances": count, "agreeing": agree, "negative entries": negative},
    )
