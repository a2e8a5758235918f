"""Checks of the paper's continuous half: the test equation, Proposition 1, equations (1) to (9), and the energy.

Each check computes its verdict from its numbers. Tolerances of random instances are bounds on rounding errors, or sums
of the local errors that the ODE solver accepts, but for one that is chosen, ``ORDER_TOLERANCE``. ``u`` stands for the
unit roundoff 2⁻⁵³.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from flint import acb, arb, arb_mat, fmpq, fmpq_mat
from scipy.integrate import solve_ivp

from antisymrnn_ref import dynamics, stability
from antisymrnn_ref.antisymmetric import recurrent_matrix
from antisymrnn_validation.claims.evidence import (
    ROTATION,
    SWING,
    UNIT_ROUNDOFF,
    Outcome,
    balls,
    decide,
    derivative_of_tanh,
    diagonal_matrix,
    ends,
    fraction,
    fractions,
    interval,
    largest,
    norm,
    trace,
)
from antisymrnn_validation.truth.oracles import COMPLEX_STEP

ORDER_TOLERANCE = 0.05
"""An observed order within this of 1 counts as the first; chosen, not derived.

An error of c₁ε + c₂ε² has the order 1 + log₂((1 + rε)/(1 + rε/2)), about 1 + 0.72 rε, between ε and ε/2, r = c₂/c₁.
What is provable about r, a multiple of e^{‖M‖t}, is far above what is seen; 0.05 tells the first order from any other.
"""

MARKUS_YAMABE = fmpq(3, 2)
"""The constant α of J(t) = [[α c² − 1, 1 − α c s], [−1 − α c s, α s² − 1]], c = cos t, s = sin t."""

NILPOTENT = [[0, 1], [0, 0]]
"""A Jacobian with the eigenvalues 0, 0 and one eigenvector."""

QUARTER_TURN = [[0, -1], [1, 0]]
"""The R of J(t) = (1 + δt) R, whose solutions turn, ever so slightly faster all the time."""

SLOW_RATES = [fmpq(1, 10**3), fmpq(1, 10**6)]
"""Values of δ: the rate of change of that J(t), relative to J(0)."""


class Integration(NamedTuple):
    """Accepted steps of an ODE solver: times (K,), states (K, n), and the sum of the local errors it accepted."""

    times: np.ndarray
    states: np.ndarray
    local_error: float


def integrate(f: Callable[[Any], Any], initial: Any, t_end: float) -> Integration:
    """Solve h' = f(h) by an eighth-order Runge-Kutta method at a tight tolerance.

    Each accepted step has an estimated error of at most atol + rtol |h| in the root mean square of the entries.
    """
    rtol, atol = 1e-12, 1e-14
    solution = solve_ivp(lambda _, h: f(h), (0.0, t_end), initial, method="DOP853", rtol=rtol, atol=atol)
    if not solution.success:
        raise ArithmeticError(f"the ODE solver failed: {solution.message}")
    states = solution.y.T
    local = np.sqrt(len(initial)) * (atol + rtol * np.abs(states).max()) * (len(solution.t) - 1)
    return Integration(solution.t, states, float(local))


def random_matrix(generator: np.random.Generator, n: int, diffusion: float = 0.0) -> Any:
    """M = W − Wᵀ − γI, (n, n), with the entries of W normal of variance 1/n."""
    return recurrent_matrix(generator.standard_normal((n, n)) / np.sqrt(n), diffusion)


def field(M: Any, u: Any) -> Callable[[Any], Any]:
    """The map h ↦ tanh(M h + u)."""
    return lambda h: dynamics.vector_field(M, h, u)


def scalar_test_equation(quick: bool) -> Outcome:
    """Solutions and differences of solutions against balls, and against an ODE solver."""
    generator, count = np.random.default_rng(1), 150 if quick else 900
    errors, distances = [], []
    fates = {"explodes": 0, "forgets": 0, "preserves": 0}
    for k in range(count):
        eigenvalue = complex(
            [0.0, generator.uniform(0.1, 3), -generator.uniform(0.1, 3)][k % 3], generator.normal() * 9
        )
        z0, change = (complex(*generator.normal(size=2)) for _ in range(2))
        t = generator.uniform(0.5, 5)
        z, moved = (dynamics.test_equation(start, eigenvalue, t) for start in (z0, z0 + change))
        truth = acb(z0) * (acb(eigenvalue) * arb(t)).exp()
        # λt is rounded before the exponential, hence |λt| u; the rest is a dozen complex roundings
        tolerance = (abs(eigenvalue * t) + 16) * UNIT_ROUNDOFF
        error = float((abs(acb(complex(z)) - truth) / abs(truth)).upper())
        errors.append(error / tolerance)
        # (z0 + change) − z0, not change itself, is what two float solutions start apart by
        start_apart = acb(z0 + change) - acb(z0)
        distance = abs(start_apart) * (arb(eigenvalue.real) * arb(t)).exp()
        size = (abs(z0) + abs(z0 + change)) * float((arb(eigenvalue.real) * arb(t)).exp().upper())
        distances.append(float(abs(arb(float(abs(moved - z))) - distance).upper()) / (tolerance * size))
        grown, allowed = float(abs(moved - z)) - float(abs(start_apart)), tolerance * size
        fate = ["preserves", "explodes", "forgets"][k % 3]
        fates[fate] += [abs(grown) <= allowed, grown > allowed, grown < -allowed][k % 3]
    eigenvalue = complex(-0.3, 2.0)
    path = integrate(lambda z: eigenvalue * z, np.array([1 + 0.5j]), 5.0)
    solver = abs(path.states - dynamics.test_equation(path.states[:1], eigenvalue, path.times[:, None])).max()
    worst, apart = largest(errors), largest(distances)
    holds = worst <= 1 and apart <= 1 and sum(fates.values()) == count and solver <= path.local_error
    return Outcome(
        decide(holds),
        f"{count} solutions within {worst:.2f} of the rounding bound (|λt| + 16) u, and the distances of {count} pairs "
        f"within {apart:.2f} of theirs; an ODE solver agrees to {solver:.1e} with {path.local_error:.1e} allowed.",
        {"instances": count, "worst error / bound": worst, "worst distance error / bound": apart}
        | {"solver difference": float(solver), "solver bound": path.local_error}
        | {f"instances that {fate}": number for fate, number in fates.items()},
    )


def euler_is_first_order(quick: bool) -> Outcome:
    """Global errors of forward Euler at t = 1 under the proved bound, and their observed order."""
    generator, count = np.random.default_rng(2), 6 if quick else 24
    n, levels = 5, range(4, 9)
    ratios, orders = [], []
    for _ in range(count):
        W = 1.5 * generator.standard_normal((n, n)) / np.sqrt(n)
        u, h0 = generator.standard_normal((2, n))
        slope = field(W, u)
        path = integrate(slope, h0, 1.0)
        errors = [
            np.linalg.norm(dynamics.forward_euler(slope, h0, 2.0**-k, 2**k)[-1] - path.states[-1]) for k in levels
        ]
        lipschitz = np.linalg.norm(W, 2)
        # |h''| ≤ ‖W‖ √n, so |error| ≤ (ε/2) √n (e^{‖W‖t} − 1)
        bounds = [2.0**-k / 2 * np.sqrt(n) * np.expm1(lipschitz) for k in levels]
        ratios += [error / bound for error, bound in zip(errors, bounds, strict=True)]
        orders.append(float(np.log2(errors[-2] / errors[-1])))
    worst, low, high = largest(ratios), min(orders), max(orders)
    return Outcome(
        decide(worst <= 1 and all(abs(order - 1) < ORDER_TOLERANCE for order in orders)),
        f"{count} systems with n = {n}, ε = 1/16 to 1/256: the error stays under (ε/2) √n (e^(Lt) − 1), at most "
        f"{worst:.2f} of it, and the observed order lies in [{low:.4f}, {high:.4f}].",
        {"instances": count, "worst error / bound": worst, "lowest order": low, "highest order": high},
    )


def on_the_circle(tau: int) -> tuple[fmpq, fmpq]:
    """Cosine and sine of an angle, both rational: (1 − τ²)/(1 + τ²) and 2τ/(1 + τ²)."""
    return fmpq(1 - tau * tau, 1 + tau * tau), fmpq(2 * tau, 1 + tau * tau)


def frozen_eigenvalues_suffice(quick: bool) -> Outcome:  # noqa: ARG001
    """Markus and Yamabe's J(t): constant eigenvalues and a growing solution, proved as identities of polynomials.

    With c = (1 − τ²)/(1 + τ²), s = 2τ/(1 + τ²), each identity times a power of 1 + τ² is a polynomial in τ of degree
    at most 8; it holds for every τ if it holds at nine.
    """
    alpha = MARKUS_YAMABE
    traces, determinants, solves = set(), set(), []
    for tau in range(9):
        c, s = on_the_circle(tau)
        J = fmpq_mat(2, 2, [alpha * c * c - 1, 1 - alpha * c * s, -1 - alpha * c * s, alpha * s * s - 1])
        traces.add(str(trace(J)))
        determinants.add(str(J.det()))
        # h = e^{(α−1)t} (c, −s) has h' = e^{(α−1)t} ((α−1)(c, −s) + (−s, −c))
        direction, turned = fmpq_mat(2, 1, [c, -s]), fmpq_mat(2, 1, [-s, -c])
        solves.append(J * direction == (alpha - 1) * direction + turned)
    half_trace, determinant = fraction(traces.pop()) / 2, fraction(determinants.pop())
    constant = not traces and not determinants
    complex_pair = half_trace * half_trace < determinant
    stable_by_proposition = constant and complex_pair and half_trace <= 0
    rate = alpha - 1
    refuted = stable_by_proposition and all(solves) and rate > 0
    growth = (arb(rate) * 20).exp()
    return Outcome(
        decide(False, refuted=refuted),
        f"At every t both eigenvalues of J(t) have real part {half_trace} (exactly), yet e^(t·{rate}) (cos t, −sin t) "
        f"solves h' = J(t) h: by t = 20 it has grown by a factor in {interval(growth)}.",
        {"real part at every t": str(half_trace), "determinant at every t": str(determinant)}
        | {"growth rate": str(rate), "growth by t = 20": ends(growth), "points of the identity": 9},
    )


def constant_jacobian_is_stable(quick: bool) -> Outcome:
    """A nilpotent J in exact arithmetic; e^{Jt} of J = DM, M antisymmetric, as a rotation in balls."""
    J = fractions(NILPOTENT)
    nilpotent = J * J == 0 * J and J != 0 * J
    entry = (diagonal_matrix([1, 1], fmpq_mat) + 1000 * J)[0, 1]  # e^{Jt} = I + Jt where J² = 0
    refuted = nilpotent and abs(entry) > 1
    generator, count, defects = np.random.default_rng(3), 10 if quick else 100, []
    for k in range(count):
        n = 2 + k % 5
        M, D = random_matrix(generator, n), stability.diagonal(2 * generator.standard_normal(n))
        J_t = diagonal_matrix([arb(d) for d in D.tolist()]) * balls(M) * 100
        root = diagonal_matrix([arb(d).sqrt() for d in D.tolist()])
        rotation = root.inv() * J_t.exp() * root
        defects.append(float(norm(rotation.transpose() * rotation - diagonal_matrix([1] * n)).upper()))
    worst = largest(defects)
    return Outcome(
        decide(False, refuted=refuted, under_condition=worst < 1e-15),
        f"J = {NILPOTENT} has eigenvalues 0 and 0, and e^(1000 J) has the exact entry {entry}. For {count} matrices "
        f"J = DM, n = 2 to 6, t = 100, D^(−1/2) e^(Jt) D^(1/2) is a rotation to {worst:.1e} in balls, so that "
        "‖e^(Jt)‖ ≤ √(max d / min d) at all times.",
        {"entry of e^(Jt), t = 1000": str(entry), "instances": count, "largest defect of the rotation": worst},
    )


def sensitivity_equation(quick: bool) -> Outcome:
    """A' = J A integrated beside h, against the derivative of the solver's own flow by complex step."""
    generator, count, n, t_end = np.random.default_rng(4), 4 if quick else 20, 4, 2.0
    ratios = []
    for _ in range(count):
        M = random_matrix(generator, n)
        u, h0, direction = generator.standard_normal((3, n))

        def both(y: Any, M: Any = M, u: Any = u) -> Any:
            h, column = y[:n], y[n:]
            J = stability.jacobian(stability.diagonal(M @ h + u), M)
            return np.concatenate([dynamics.vector_field(M, h, u), J @ column])

        path = integrate(both, np.concatenate([h0, direction]), t_end)
        moved = integrate(field(M, u), h0 + 1j * COMPLEX_STEP * direction, t_end)
        column = path.states[-1][n:]
        # a local error in h or in a column grows at most like e^{‖M‖t}, and through ∂J/∂h once more
        tolerance = 2 * path.local_error * np.exp(2 * np.linalg.norm(M, 2) * t_end) * np.linalg.norm(direction)
        difference = np.linalg.norm(moved.states[-1].imag / COMPLEX_STEP - column)
        ratios.append(float(difference / tolerance))
    worst = largest(ratios)
    return Outcome(
        decide(worst <= 1),
        f"{count} systems (8), n = {n}, t = {t_end:g}: the columns of A differ from the derivative of the flow by at "
        f"most {worst:.1e} of what the local errors can grow to.",
        {"instances": count, "worst difference / bound": worst},
    )


def swing_jacobians() -> tuple[fmpq_mat, fmpq_mat]:
    """D M for the two diagonals that the inputs switch between, exact; M = W₀."""
    M = fractions(ROTATION)
    return diagonal_matrix([1, SWING], fmpq_mat) * M, diagonal_matrix([SWING, 1], fmpq_mat) * M


def swing_cycle() -> arb_mat:
    """A over one cycle of the switching: a quarter turn of each Jacobian, in balls."""
    first, second = swing_jacobians()
    return quarter_turn(second).exp() * quarter_turn(first).exp()


def quarter_turn(J: fmpq_mat) -> arb_mat:
    """J t over a quarter of its period 2π / √det J; J is 2×2 of trace 0."""
    return arb_mat(J) * (arb.pi() / (2 * arb(J.det()).sqrt()))


def imaginary_pair(J: fmpq_mat) -> bool:
    """Whether a 2×2 matrix has two imaginary eigenvalues, not zero: trace 0 and determinant > 0, exactly."""
    return bool(trace(J) == 0 and J.det() > 0)


def slow_turn(rate: fmpq) -> tuple[arb, arb_mat]:
    """The time t = √(2π/δ) and A(t) for J(t) = (1 + δt) R, in balls.

    All J(t) commute, so A(t) = exp(R (t + δt²/2)) exactly; δt²/2 = π is half a turn, whatever δ is.
    """
    t = (2 * arb.pi() / rate).sqrt()
    return t, (arb_mat(fractions(QUARTER_TURN)) * (t + rate * t * t / 2)).exp()


def slow_turn_off(rate: fmpq) -> float:
    """Distance of an ODE solver from that A(t), in units of what the solver's own errors can grow to."""
    R, speed, (t, A) = np.array(QUARTER_TURN, float), float(rate), slow_turn(rate)

    def slope(y: Any) -> Any:
        return np.concatenate([[1.0], ((1 + speed * y[0]) * (R @ y[1:].reshape(2, 2))).ravel()])

    path = integrate(slope, np.concatenate([[0.0], np.eye(2).ravel()]), float(t))
    # the flow turns, so errors of A add up; one of the clock moves A by √2 δt = √(4πδ) times itself, less than 1 of it
    # for δ < 0.07; t rounded to a float moves A by less than 4 u t
    bound = 2 * path.local_error + 4 * UNIT_ROUNDOFF * float(t)
    return float(norm(balls(path.states[-1][1:].reshape(2, 2)) - A).upper()) / bound


def exponential_of_slow_jacobian(quick: bool) -> Outcome:
    """‖A(t) − e^{J(0)t}‖ is proportional to the rate of change at a fixed t; at any rate it grows with t, in balls."""
    R = arb_mat(fractions(QUARTER_TURN))
    turns = {rate: (t, norm(A - (R * t).exp())) for rate, (t, A) in ((rate, slow_turn(rate)) for rate in SLOW_RATES)}
    slow = all(rate <= fmpq(1, 1000) for rate in SLOW_RATES)
    off = slow_turn_off(SLOW_RATES[0])
    refuted = slow and off <= 1 and all(bool(distance > 1) for _, distance in turns.values())
    generator, count, n, t_end = np.random.default_rng(5), 5 if quick else 30, 4, 2.0
    rates, ratios, orders = [1e-2, 5e-3], [], []
    for _ in range(count):
        M = random_matrix(generator, n)
        a, drift = generator.standard_normal((2, n))
        constant = (balls(stability.jacobian(stability.diagonal(a), M)) * t_end).exp()
        exponential = np.array([float(entry) for entry in constant.entries()]).reshape(n, n)
        errors = []
        for rate in rates:

            def slope(y: Any, M: Any = M, drift: Any = rate * drift) -> Any:
                J = stability.jacobian(stability.diagonal(y[:n]), M)
                return np.concatenate([drift, (J @ y[n:].reshape(n, n)).ravel()])

            path = integrate(slope, np.concatenate([a, np.eye(n).ravel()]), t_end)
            errors.append(np.linalg.norm(path.states[-1][n:].reshape(n, n) - exponential))
            size = np.linalg.norm(M, 2)
            # variation of constants; |d/da (1 − tanh² a)| ≤ 4/(3√3), ‖e^{Jt}‖ and ‖A‖ ≤ e^{‖M‖t}
            bound = rate * np.abs(drift).max() * 4 / (3 * np.sqrt(3)) * np.linalg.norm(M) * t_end**2 / 2
            ratios.append(float(errors[-1] / (bound * np.exp(size * t_end))))
        orders.append(float(np.log2(errors[0] / errors[1])))
    worst, low, high = largest(ratios), min(orders), max(orders)
    proportional = worst <= 1 and all(abs(order - 1) < ORDER_TOLERANCE for order in orders)
    return Outcome(
        decide(False, refuted=refuted, under_condition=proportional),
        "For J(t) = (1 + δt) R, R a quarter turn, and t = √(2π/δ), ‖A(t) − e^(J(0)t)‖ is in "
        + ", ".join(f"{interval(distance)} at δ = {rate}" for rate, (_, distance) in turns.items())
        + f". For {count} drifting J(t) up to t = {t_end:g} the distance is proportional to the rate (order {low:.3f} "
        f"to {high:.3f}) and at most {worst:.2f} of the bound by variation of constants.",
        {f"distance at δ = {rate}": ends(distance) for rate, (_, distance) in turns.items()}
        | {f"change of J by then, relative, δ = {rate}": ends(rate * t) for rate, (t, _) in turns.items()}
        | {"difference of an ODE solver from A(t) / its bound": off}
        | {"instances": count, "worst distance / bound": worst}
        | {"lowest order in the rate": low, "highest order in the rate": high},
    )


def smooth_swing_solves(M: fmpq_mat) -> bool:
    """Whether y = r (c, −s) solves y' = D(t) M y for a smooth D, c = cos t, s = sin t, exactly at every t.

    D = ½ diag(1 − 2 s c³, 1 + 2 s³ c), in (0, 1) since |s c| ≤ ½, and r'/r = 2 s² c², so that r grows by e^{π/4} in
    each time π. The identity is one of polynomials of degree at most 10 in τ: eleven points prove it.
    """
    solves = []
    for tau in range(11):
        c, s = on_the_circle(tau)
        D = diagonal_matrix([(1 - 2 * s * c**3) / 2, (1 + 2 * s**3 * c) / 2], fmpq_mat)
        y, turned = fmpq_mat(2, 1, [c, -s]), fmpq_mat(2, 1, [-s, -c])
        solves.append(D * M * y == 2 * s * s * c * c * y + turned)
    return all(solves)


def critical_criterion_keeps_gradients(quick: bool) -> Outcome:  # noqa: ARG001
    """The criterion met exactly at every time, and the gradient after ten cycles, in balls."""
    cycles = 10
    cycle = swing_cycle()
    grown = diagonal_matrix([1, 1])
    for _ in range(cycles):
        grown = cycle * grown
    size, volume = norm(grown), grown.det()
    exact = [imaginary_pair(J) for J in swing_jacobians()]
    smooth = smooth_swing_solves(-fractions(ROTATION))
    smooth_growth = (10 * arb.pi() / 4).exp()
    refuted = all(exact) and smooth and bool(size > 100) and bool(smooth_growth > 100)
    return Outcome(
        decide(False, refuted=refuted),
        f"J(t) = D(t) W₀ with D switched by the input between diag(1, {SWING}) and diag({SWING}, 1): trace 0 and "
        f"determinant > 0 exactly, so Re λ = 0 at all times, yet after {cycles} cycles ‖A‖ is in {interval(size)}. "
        f"With a smooth D(t) a solution grows by a factor in {interval(smooth_growth)} by t = 10π, an exact identity. "
        f"The determinant of A is in {interval(volume)}: only the volume is kept.",
        {"‖A‖ after ten cycles": ends(size), "growth by t = 10π, smooth D": ends(smooth_growth)}
        | {"det A": ends(volume), "cycles": cycles},
    )


def period(start: arb, M: fmpq_mat) -> arb:
    """Period of the orbit of h' = tanh(M h) through (start, 0), M = [[0, −ω], [ω, 0]], enclosed by quadrature.

    cosh ωx cosh ωy = C on the orbit, so y' = tanh ωx is a function of y; eight equal parts reach from an axis to a
    diagonal, where cosh² ωy = C.
    """
    omega = arb(M[1, 0])
    C = (omega * start).cosh()
    diagonal = C.sqrt().acosh() / omega

    def slowness(y: acb, analytic: bool) -> acb:
        return 1 / (1 - (omega * y).cosh() ** 2 / C**2).sqrt(analytic=analytic)

    return 8 * acb.integral(slowness, acb(0), acb(diagonal)).real


def ode_is_stable(quick: bool) -> Outcome:  # noqa: ARG001
    """Periods of neighbouring orbits of (8): different, so that neighbours end on opposite sides."""
    M = fractions(ROTATION)
    near = arb(1) / 2
    gaps, opposite = [], []
    for exponent in (1, 3, 6):
        far = near + arb(10) ** -exponent
        fast, slow = period(near, M), period(far, M)
        gap = slow - fast
        gaps.append(gap)
        turns = (slow / (2 * gap)).mid().floor()
        behind = turns * gap / slow  # turns the far orbit is short of when the near one is back for the turns-th time
        opposite.append(bool(behind > 0.25) and bool(behind < 0.75))
    criterion = imaginary_pair(M)
    returned = integrate(field(np.array(ROTATION, float), 0.0), np.array([0.5, 0.0]), float(period(near, M)))
    # a local error grows at most like e^{‖M‖t}, ‖M‖₂ = ω; so does that of a period rounded to a float, |h'| ≤ √2
    rounded = UNIT_ROUNDOFF * returned.times[-1] * np.sqrt(2)
    growth = np.exp(float(arb(M[1, 0])) * returned.times[-1])
    closed = float(
        np.linalg.norm(returned.states[-1] - returned.states[0]) / (growth * (returned.local_error + rounded))
    )
    refuted = criterion and all(bool(gap > 0) for gap in gaps) and all(opposite) and closed <= 1
    return Outcome(
        decide(False, refuted=refuted),
        f"h' = tanh(W₀ h) meets (4) with equality, but orbits have different periods: from (0.5, 0) it is in "
        f"{interval(period(near, M))}, from (0.501, 0) longer by a number in {interval(gaps[1])}. Started 0.1, 0.001 "
        "or 0.000001 apart, two solutions are on opposite sides of the origin after some turns, at least 0.5 apart.",
        {"period from 0.5": ends(period(near, M)), "longer from 0.6": ends(gaps[0]), "longer from 0.501": ends(gaps[1])}
        | {
            "longer from 0.500001": ends(gaps[2]),
            "an ODE solver's distance from its start after a period / bound": closed,
        },
    )


def energy_of_the_ode(quick: bool) -> Outcome:
    """E(h(t)) + γ ∫‖tanh v‖² along solutions, against the sum of the solver's local errors."""
    generator, count, n, t_end = np.random.default_rng(11), 3 if quick else 12, 6, 10.0
    ratios: dict[str, list[float]] = {"γ = 0": [], "γ > 0": []}
    for k in range(count):
        diffusion = [0.0, 0.15, 1.0][k % 3]
        M = 2 * random_matrix(generator, n, diffusion / 2)
        u, h0 = generator.standard_normal((2, n))

        def slope(y: Any, M: Any = M, u: Any = u) -> Any:
            s = dynamics.vector_field(M, y[:n], u)
            return np.append(s, s @ s)

        path = integrate(slope, np.append(h0, 0.0), t_end)
        energies = dynamics.energy(M, path.states[:, :n], u)
        drift = np.abs(energies - energies[0] + diffusion * path.states[:, n]).max()
        # the exact flow keeps the sum, so it drifts by the local errors times its Lipschitz constant
        bound = path.local_error * (np.linalg.norm(M, 2) * np.sqrt(n) + diffusion)
        ratios["γ > 0" if diffusion else "γ = 0"].append(float(drift / bound))
    worst = {label: largest(values) for label, values in ratios.items()}
    return Outcome(
        decide(largest(worst.values()) <= 1),
        f"{count} systems, n = {n}, with bias, t = {t_end:g}: E(t) − E(0) + γ ∫‖tanh v‖² drifts by at most "
        f"{worst['γ = 0']:.1e} of the solver's summed local errors at γ = 0 and {worst['γ > 0']:.1e} at γ > 0.",
        {"instances": count} | {f"worst drift / bound, {label}": value for label, value in worst.items()},
    )


def squares(matrix: fmpq_mat) -> fmpq:
    """Square of the Frobenius norm, exact."""
    return sum((entry * entry for entry in matrix.entries()), fmpq(0))


def jacobian_varies_slowly(quick: bool) -> Outcome:  # noqa: ARG001
    """Relative change of J between two inputs, exact: both diagonals have entries in [0, 1]."""
    first, second = swing_jacobians()
    change = squares(second - first) / squares(first)
    bounded = bool(SWING > 0) and bool(SWING <= 1)
    a = arb(1 - SWING).sqrt().atanh()
    reached = derivative_of_tanh(a)
    refuted = bounded and bool(reached.contains(arb(SWING))) and change > fmpq(1, 100)
    size = arb(change).sqrt()
    return Outcome(
        decide(False, refuted=refuted),
        f"From one input to the next D may go from diag(1, {SWING}) to diag({SWING}, 1), all entries in [0, 1], for "
        f"example by pre-activations (0, a) and (a, 0) with a in {interval(a)}. Then ‖J_(t+1) − J_t‖ / ‖J_t‖ is in "
        f"{interval(size)}: the change is as large as J, at any step size.",
        {"relative change of J": ends(size), "its square": str(change), "pre-activation": ends(a)},
    )
