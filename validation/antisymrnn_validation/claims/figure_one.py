"""Checks of the simulation of section 4: Figure 1's matrices, end states, and the sentences about them.

All of it is deterministic, so every verdict here rests on balls or exact arithmetic: the matrices, the starts and
ε = 0.1 are taken as decimals, and the recurrences are run in balls beside the specification.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np
from flint import arb, arb_mat, ctx, fmpq, fmpq_mat

from antisymrnn_ref import dynamics, stability
from antisymrnn_validation.claims.euler import energy_in_balls
from antisymrnn_validation.claims.evidence import (
    MATRICES,
    STEP_SIZE,
    UNIT_ROUNDOFF,
    Outcome,
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
    norm,
    run,
    total,
    trace,
)

STARTS = [["0", "0.5"], ["-0.5", "-0.5"], ["0.5", "-0.75"]]

EIGENVALUES = {"W₊": ("2", "0"), "W₋": ("-2", "0"), "W₀": ("0", "2"), "W_diff": ("-0.15", "2")}
"""Real and imaginary part of the pair λ, λ̄ that the paper prints."""

AMPLIFICATIONS = {"W₊": 1.2, "W₋": 0.8, "W₀": 1.019804, "W_diff": 1.005099}
"""|1 + ελ| at ε = 0.1, to six decimals."""

END_STATES = {
    "W₊": [(-4.948405, 5.413106), (4.138548, -5.413106), (5.497493, -5.719202)],
    "W₋": [(0.000109, 0.000009), (-0.000118, -0.000009), (-0.000186, -0.000017)],
    "W₀": [(-0.620995, 0.487439), (-0.906444, -0.465553), (-0.439740, -1.108208)],
    "W_diff": [(-0.503517, -0.119927), (-0.100192, -0.703807), (0.270146, -0.796073)],
    "identity": [(0.0, 0.163171), (-0.163171, -0.163171), (0.163171, -0.168039)],
}
"""h_50 from the three starts, to six decimals."""

ENERGIES = [
    (0.4337808304830271, 1.0437387022204756),
    (0.8675616609660542, 1.5283640173364976),
    (1.2892210014968237, 1.8803137898449125),
]
"""E at t = 0 and t = 50 under W₀ from the three starts."""

TURNS = [("3/5", "4/5"), ("5/13", "12/13"), ("-8/17", "15/17"), ("0", "1")]
"""Cosine and sine of four angles, exact."""


def floats(rows: Sequence[Sequence[str]]) -> np.ndarray:
    """The float matrix next to a matrix of decimals."""
    return np.array(rows, float)


def feedback_states(name: str, T: int, precision: int = 256) -> list[list[arb_mat]]:
    """States of Figure 1(e) to (h) from the three starts, in balls."""
    return [run(fractions(MATRICES[name]), start, STEP_SIZE, T, precision) for start in STARTS]


def eigenvalues_of_the_figure(quick: bool) -> Outcome:  # noqa: ARG001
    """Characteristic polynomials in exact arithmetic against the printed eigenvalues, and the code's |1 + ελ|."""
    right = 0
    factors, off = {}, []
    for name, rows in MATRICES.items():
        W = fractions(rows)
        real, imaginary = (fraction(part) for part in EIGENVALUES[name])
        right += trace(W) == 2 * real and W.det() == real**2 + imaginary**2
        factor = arb((1 + fraction(STEP_SIZE) * real) ** 2 + (fraction(STEP_SIZE) * imaginary) ** 2).sqrt()
        factors[name] = factor
        eigenvalue = complex(float(real), float(imaginary))
        off.append(float(abs(arb(float(stability.amplification(eigenvalue, float(STEP_SIZE)))) - factor).upper()))
        right += bool(abs(factor - arb(AMPLIFICATIONS[name])) <= 0.5e-6)
    return Outcome(
        decide(right == 2 * len(MATRICES) and largest(off) < 1e-15),
        "Traces and determinants agree exactly with the printed eigenvalues; |1 + ελ| is in "
        + ", ".join(f"{interval(factor)} for {name}" for name, factor in factors.items())
        + ".",
        {"matrices": len(MATRICES)} | {f"|1 + ελ|, {name}": ends(factor) for name, factor in factors.items()},
    )


def end_states_of_the_figure(quick: bool) -> Outcome:  # noqa: ARG001
    """h_50 of the code and in balls against the table, 5 recurrences from 3 starts."""
    starts, matching, ratios = floats(STARTS), 0, []
    identity = [["1", "0"], ["0", "1"]]
    for name, table in END_STATES.items():
        W = floats(MATRICES.get(name, identity))
        if name == "identity":
            h = dynamics.vanilla(W, starts, 50)
            certified = [run(fractions(identity), start, None, 50, 256)[-1] for start in STARTS]
        else:
            h = dynamics.feedback(W, starts, float(STEP_SIZE), 50)
            certified = [states[-1] for states in feedback_states(name, 50)]
        # a step adds a few u |h| and stretches what is there by ‖I + ε D_t W‖₂, the vanilla one by less than 1
        steps = np.eye(2) + float(STEP_SIZE) * stability.jacobian(stability.diagonal(h[:-1] @ W.T), W)
        growth = np.maximum(np.linalg.norm(steps, 2, axis=(-2, -1)), 1).prod(axis=0)
        bounds = 50 * 4 * UNIT_ROUNDOFF * np.abs(h).max(axis=(0, 2)) * growth
        for state, ball, printed, bound in zip(h[-1], certified, table, bounds, strict=True):
            matching += all(
                bool(abs(entry - arb(value)) < 0.500001e-6)
                for entry, value in zip(ball.entries(), printed, strict=True)
            )
            ratios.append(largest_error(state, ball) / bound)
    rows, worst = 3 * len(END_STATES), largest(ratios)
    return Outcome(
        decide(matching == rows and worst <= 1),
        f"{matching} of {rows} end states agree with the table in all six decimals, in balls; the code is within "
        f"{worst:.2f} of its rounding bound.",
        {"end states": rows, "matching": matching, "worst error of the code / bound": worst},
    )


def energies_of_the_figure(quick: bool) -> Outcome:  # noqa: ARG001
    """E at t = 0 and 50 under W₀, of the code and in balls, against the printed values."""
    M, matrix = floats(MATRICES["W₀"]), arb_mat(fractions(MATRICES["W₀"]))
    h = dynamics.feedback(M, floats(STARTS), float(STEP_SIZE), 50)
    printed_off, code_off, certified = [], [], []
    for k, (states, printed) in enumerate(zip(feedback_states("W₀", 50), ENERGIES, strict=True)):
        for t, value in ((0, printed[0]), (50, printed[1])):
            exact = energy_in_balls(matrix, states[t], arb_mat(2, 1))
            certified.append(ends(exact))
            printed_off.append(float(abs(arb(value) / exact - 1).upper()))
            code_off.append(float(abs(arb(float(dynamics.energy(M, h[t, k]))) / exact - 1).upper()))
    # 50 steps round h by a few u each; a state's error grows by at most 1.0198 a step, E follows it with slope ≤ 2√2
    bound = 50 * 8 * UNIT_ROUNDOFF * 1.0198039028**50
    return Outcome(
        decide(largest(printed_off) <= bound and largest(code_off) <= bound),
        f"The six values agree with balls to {largest(printed_off):.1e}, the code's to {largest(code_off):.1e}, "
        f"{bound:.1e} allowed for rounding.",
        {"values": len(certified), "largest error": largest(printed_off), "certified": certified},
    )


def identity_decays_algebraically(quick: bool) -> Outcome:
    """1/h_T² − 1/h_0² − 2T/3 along h_t = tanh h_{t−1}, in balls: positive, and at most Σ h_t²/15."""
    T = 500 if quick else 5000
    (states,) = [run(fractions([["1"]]), ["0.5"], None, T, 256)]
    h = [state[0, 0] for state in states]
    inside, ratios = 0, []
    for t in (50, 500, T):
        excess = 1 / h[t] ** 2 - 1 / h[0] ** 2 - arb(2 * t) / 3
        inside += bool(excess > 0) and bool(excess < total([value**2 for value in h[:t]]) / 15)
        ratios.append(h[t] / (arb(3) / (2 * t)).sqrt())
    computed = dynamics.vanilla(np.eye(1), np.array([0.5]), 50)[-1, 0]
    agrees = bool(abs(arb(float(computed)) - h[50]) < 50 * UNIT_ROUNDOFF)
    return Outcome(
        decide(inside == 3 and agrees and bool(h[50] > 0.16) and bool(abs(ratios[-1] - 1) < 0.01)),
        f"h_50 is in {interval(h[50])}; h_t / √(3/(2t)) is in {interval(ratios[0])} at t = 50 and in "
        f"{interval(ratios[-1])} at t = {T}.",
        {"h_50": ends(h[50]), "h_t / √(3/(2t)) at t = 50": ends(ratios[0]), f"the same at t = {T}": ends(ratios[-1])},
    )


def rotation(c: str, s: str) -> fmpq_mat:
    """Turn by the angle of cosine c and sine s."""
    return fmpq_mat(2, 2, [fraction(c), -fraction(s), fraction(s), fraction(c)])


def reflection(c: str, s: str) -> fmpq_mat:
    """Reflection in the line at half the angle of cosine c and sine s."""
    return fmpq_mat(2, 2, [fraction(c), fraction(s), fraction(s), -fraction(c)])


def orthogonal_vanilla_collapses(quick: bool) -> Outcome:
    """Norms under h_t = tanh(W h_{t−1}), W a rotation or a reflection, in balls: every step, and a proved bound."""
    T = 100 if quick else 400
    matrices = [make(c, s) for make in (rotation, reflection) for c, s in TURNS]
    falls = bounded = 0
    ends_of_runs = []
    for W in matrices:
        for start in STARTS:
            sizes = [norm(state) for state in run(W, start, None, T, 1024)]
            falls += sum(bool(after < before) for before, after in pairwise(sizes))
            # tanh² x ≤ x²/(1 + 2x²/3), concave in x²: r_t² ≤ r²/(1 + r²/3) in two dimensions
            bounded += bool(sizes[-1] < 1 / (1 / sizes[0] ** 2 + arb(T) / 3).sqrt())
            ends_of_runs.append(sizes[-1])
    runs = len(matrices) * len(STARTS)
    slowest = max(ends_of_runs, key=float)
    return Outcome(
        decide(falls == runs * T and bounded == runs),
        f"Under 4 rotations and 4 reflections from 3 starts the norm falls in {falls} of {runs * T} steps and stays "
        f"below 1/√(1/r² + T/3) in {bounded} of {runs} runs; at T = {T} it is in {interval(slowest)} or less: an "
        "algebraic collapse.",
        {"runs": runs, "steps": runs * T, "steps that fall": falls, "runs inside the bound": bounded}
        | {"largest norm at the end": ends(slowest)},
    )


def orthogonal_gradient_vanishes(quick: bool) -> Outcome:  # noqa: ARG001
    """‖∂h_T/∂h_0‖ of the vanilla recurrence under the same matrices, in balls, and where a pre-activation stays 0."""
    T, T_early = 1000, 50
    early, late, kept = [], [], []
    with ctx.workprec(1024):
        for W, start in product([make(c, s) for make in (rotation, reflection) for c, s in TURNS], STARTS):
            jacobian, sizes, zeros = diagonal_matrix([1, 1]), [], 0
            for t, state in enumerate(run(W, start, None, T, 1024)[:-1], start=1):
                pre_activations = (arb_mat(W) * state).entries()
                zeros += any(a == 0 for a in pre_activations)
                jacobian = diagonal_matrix([derivative_of_tanh(a) for a in pre_activations]) * arb_mat(W) * jacobian
                if t in (T_early, T):
                    sizes.append(norm(jacobian))
            if zeros == T:
                kept.append(max((abs(entry) for entry in jacobian.entries()), key=float))  # at most ‖∂h_T/∂h_0‖₂
            else:
                early.append(sizes[0])
                late.append(sizes[1])
    falls = sum(bool(after < before) for before, after in zip(early, late, strict=True))
    fastest, slowest = max(early, key=float), max(late, key=float)
    remains = sum(bool(size >= 1) for size in kept)
    return Outcome(
        decide(
            False,
            refuted=remains == len(kept) > 0,
            under_condition=falls == len(late) and bool(slowest < 0.1),
        ),
        f"Under 4 rotations and 4 reflections from 3 starts no pre-activation is 0 in {len(late)} runs: ‖∂h_T/∂h_0‖ "
        f"falls in {falls} of them, from {interval(fastest)} or less at T = {T_early} to {interval(slowest)} or less "
        f"at T = {T}; it vanishes, like a power of T. In {len(kept)} runs from (0, 0.5) one is 0 in every step, "
        f"exactly, and in {remains} of them ‖∂h_T/∂h_0‖ is still 1 or more.",
        {"runs": len(late), f"largest at T = {T_early}": ends(fastest), f"largest at T = {T}": ends(slowest)}
        | {"runs with a pre-activation at 0": len(kept), "of them at 1 or more": remains},
    )


def crossed_words(quick: bool) -> Outcome:  # noqa: ARG001
    """Determinants of exact orthogonal matrices, told apart by whether they fix a line: det(W − I) = 0."""
    identity = diagonal_matrix([1, 1], fmpq_mat)
    kinds: dict[str, list[fmpq]] = {"reflection": [], "rotation": []}
    orthogonal = 0
    for make in (rotation, reflection):
        for c, s in TURNS:
            W = make(c, s)
            orthogonal += W.transpose() * W == identity
            kinds["reflection" if (W - identity).det() == 0 else "rotation"].append(W.det())
    printed = {"reflection": 1, "rotation": -1}
    as_printed = all(value == printed[kind] for kind, values in kinds.items() for value in values)
    crossed = all(value == -printed[kind] for kind, values in kinds.items() for value in values)
    counts = {kind: len(values) for kind, values in kinds.items()}
    refuted = crossed and orthogonal == sum(counts.values()) and min(counts.values()) > 0
    return Outcome(
        decide(as_printed, refuted=refuted),
        f"Of {orthogonal} orthogonal matrices with rational entries the {counts['reflection']} that fix a line have "
        f"determinants {sorted({str(value) for value in kinds['reflection']})}, the {counts['rotation']} others "
        f"{sorted({str(value) for value in kinds['rotation']})}, exactly.",
        {"matrices": orthogonal, "determinants of reflections": [str(value) for value in kinds["reflection"]]}
        | {"determinants of rotations": [str(value) for value in kinds["rotation"]]},
    )


def away_and_towards(quick: bool) -> Outcome:  # noqa: ARG001
    """Norms under W₊ and W₋ from the three starts, step by step in balls."""
    T = 50
    norms = {name: [[norm(state) for state in states] for states in feedback_states(name, T)] for name in ("W₊", "W₋")}
    grow = sum(bool(b > a) for sizes in norms["W₊"] for a, b in pairwise(sizes))
    shrink = sum(bool(b < a) for sizes in norms["W₋"] for a, b in pairwise(sizes))
    far, near = min((s[-1] for s in norms["W₊"]), key=float), max((s[-1] for s in norms["W₋"]), key=float)
    fastest = max((b - a for sizes in norms["W₊"] for a, b in pairwise(sizes)), key=float)
    return Outcome(
        decide(grow == shrink == 3 * T and bool(far > 6) and bool(near < 1e-3)),
        f"Under W₊ the norm grows in {grow} of {3 * T} steps, to {interval(far)} or more, but by at most "
        f"{interval(fastest)} a step: tanh makes the explosion linear. Under W₋ it shrinks in {shrink} of {3 * T}, to "
        f"{interval(near)} or less.",
        {"steps": 3 * T, "steps that grow, W₊": grow, "steps that shrink, W₋": shrink}
        | {"least norm at the end, W₊": ends(far), "largest norm at the end, W₋": ends(near)},
    )


def outward_spirals(quick: bool) -> Outcome:  # noqa: ARG001
    """Energy, turn and end radius under W₀ from the three starts, in balls."""
    T, matrix = 50, arb_mat(fractions(MATRICES["W₀"]))
    rises = turns = outward = 0
    for states in feedback_states("W₀", T):
        energies = [energy_in_balls(matrix, state, arb_mat(2, 1)) for state in states]
        rises += sum(bool(b > a) for a, b in pairwise(energies))
        crosses = [p[0, 0] * q[1, 0] - p[1, 0] * q[0, 0] for p, q in pairwise(states)]
        turns += sum(bool(cross > 0) for cross in crosses)
        outward += bool(norm(states[-1]) > norm(states[0]))
    return Outcome(
        decide(rises == turns == 3 * T and outward == 3),
        f"From 3 starts E rises in {rises} of {3 * T} steps, the state turns to the left in {turns}, and it ends "
        f"farther out than it began in {outward} of 3.",
        {"steps": 3 * T, "steps that raise E": rises, "steps that turn left": turns, "ends farther out": outward},
    )


def every_step_moves_outward(quick: bool) -> Outcome:  # noqa: ARG001
    """Changes of the distance from the origin under W₀, step by step in balls."""
    changes = []
    for states in feedback_states("W₀", 50):
        sizes = [norm(state) for state in states]
        changes.append([after - before for before, after in pairwise(sizes)])
    falls = [sum(bool(change < 0) for change in path) for path in changes]
    rises = [sum(bool(change > 0) for change in path) for path in changes]
    lowest = min((change for path in changes for change in path), key=float)
    return Outcome(
        decide(rises == [50, 50, 50], refuted=any(falls)),
        f"The distance falls in {falls} of 50 steps each, certified; the largest fall is in {interval(lowest)}.",
        {"steps that fall": falls, "steps that rise": rises, "largest fall": ends(lowest)},
    )


def circular_field(quick: bool) -> Outcome:  # noqa: ARG001
    """⟨h, tanh(W₀ h)⟩ / |h| at the three starts, in balls; zero everywhere for circles."""
    matrix = arb_mat(fractions(MATRICES["W₀"]))
    speeds = []
    for start in STARTS:
        h = arb_mat(2, 1, [fraction(entry) for entry in start])
        field = entrywise(arb.tanh, matrix * h)
        speeds.append(total([p * q for p, q in zip(h.entries(), field.entries(), strict=True)]) / norm(h))
    radial = speeds[2]
    return Outcome(
        decide(all(speed.contains(0) for speed in speeds), refuted=any(not speed.contains(0) for speed in speeds)),
        f"At (0.5, −0.75) the field has a radial part in {interval(radial)}; on the axes and diagonals it has none.",
        {"radial part at the starts": [ends(speed) for speed in speeds]},
    )


def constant_distance(quick: bool) -> Outcome:  # noqa: ARG001
    """Distances from the origin under W_diff: over 50 steps, and in the long run from five starts, in balls."""
    T, settled = 5000, 4000
    W = fractions(MATRICES["W_diff"])
    spread = []
    for states in feedback_states("W_diff", 50):
        sizes = sorted((norm(state) for state in states), key=float)
        spread.append(sizes[-1] / sizes[0])
    long_run = []
    for start in [*STARTS, ["0.05", "0"], ["3", "3"]]:
        radii = [norm(state) for state in run(W, start, STEP_SIZE, T, 1536)[settled:]]
        ordered = sorted(radii, key=float)
        long_run.append((ordered[0], ordered[-1], total(radii) / len(radii)))
    low, high = min((r[0] for r in long_run), key=float), max((r[1] for r in long_run), key=float)
    means = [r[2] for r in long_run]
    computed = dynamics.feedback(floats(MATRICES["W_diff"]), floats(STARTS), float(STEP_SIZE), 50)
    code = np.linalg.norm(computed, axis=-1).max(axis=0) / np.linalg.norm(computed, axis=-1).min(axis=0)
    agrees = all(bool(abs(arb(float(value)) / ball - 1) < 1e-13) for value, ball in zip(code, spread, strict=True))
    # what is true instead: a start 0.05 from the origin is driven to the same ring as one 4.2 away
    ring = bool(abs(low - arb("0.57")) < 1e-4) and bool(abs(high - arb("0.5981")) < 1e-4)
    ring = ring and all(bool(abs(mean - arb("0.5841")) < 1e-4) for mean in means)
    refuted = agrees and all(bool(ratio > 1.01) for ratio in spread) and ring
    return Outcome(
        decide(not refuted and all(bool(ratio < 1.01) for ratio in spread), refuted=refuted),
        f"Over 50 steps the largest distance is {interval(spread[0])}, {interval(spread[1])} and {interval(spread[2])} "
        f"times the least. From step {settled} to {T} all five starts, (0.05, 0) and (3, 3) among them, are between "
        f"{interval(low)} and {interval(high)}, with a mean in {interval(means[0])}: a limit cycle.",
        {"largest / least distance over 50 steps": [ends(ratio) for ratio in spread], "starts in the long run": 5}
        | {"least long-run distance": ends(low), "largest long-run distance": ends(high)}
        | {"mean long-run distances": [ends(mean) for mean in means]},
    )
