"""The ledger decides every claim as expected, and decides otherwise when what a check leans on is wrong."""

import json
import math
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from flint import arb, ctx, fmpq

import antisymrnn_ref
from antisymrnn_ref import antisymmetric, dynamics, gated, initialization, stability
from antisymrnn_validation.claims import antisymmetry, euler, evidence, figure_one, gradients, ode
from antisymrnn_validation.claims.evidence import Claim, Judgement, Outcome, Verdict, decide
from antisymrnn_validation.claims.ledger import CLAIMS, judge

BY_NAME = {claim.name: claim for claim in CLAIMS}


def verdict(name):
    return judge(BY_NAME[name], quick=True).outcome.verdict


def is_certified(value):
    """Whether a number of the evidence is an interval [lower, upper], an exact fraction as text, or a count."""
    if isinstance(value, str):
        Fraction(value)
        return True
    if isinstance(value, list) and len(value) == 2 and all(isinstance(end, float) for end in value):
        return value[0] < value[1]
    return isinstance(value, list) and bool(value) and all(is_certified(entry) for entry in value)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_verdict_is_the_expected_one(claim):
    judgement = judge(claim, quick=True)
    assert judgement.as_expected, judgement.outcome
    evidence, numbers = judgement.outcome.evidence, judgement.outcome.numbers
    assert evidence.endswith(".")
    assert not re.search(r"\bnan\b", evidence, re.IGNORECASE)
    assert numbers
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    if claim.expected is Verdict.REFUTED and claim.name != "published-counts-when-padded":
        assert any(is_certified(value) for value in numbers.values()), numbers


def test_every_claim_names_a_section_of_the_derivation():
    derivation = (Path(antisymrnn_ref.__file__).parent / "DERIVATION.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#{2,3} ([0-9]+(?:\.[0-9]+)?)\.? \S", derivation, re.MULTILINE)
    assert len(headings) == len(set(headings)) > 20
    assert {claim.name: claim.proof for claim in CLAIMS if claim.proof not in headings} == {}
    # each section that decides a statement of the paper is the proof of one
    assert {heading for heading in headings if heading.startswith("10.")} - {"10.3"} <= {c.proof for c in CLAIMS}


def test_padded_counts_are_whole_numbers():
    numbers = judge(BY_NAME["published-counts-when-padded"]).outcome.numbers
    assert all(type(value) is int for value in numbers.values())
    assert {60042, 84874, 78410, 116490} <= set(numbers.values())


def test_padded_counts_hold_if_they_round_to_the_printed_ones(monkeypatch):
    printed = {(256, False): 36_400, (256, True): 36_600, (196, True): 41_500}
    counted = {"initialization.parameter_count": lambda n, _m, _c, *, gated, **_: printed[n, gated]}
    counted["lstm_count"] = lambda _n, _m, _c: 69_499
    for name, wrong in counted.items():
        assert verdict("published-counts-when-padded") is Verdict.REFUTED
        monkeypatch.setattr(f"antisymrnn_validation.claims.counting.{name}", wrong)
    assert verdict("published-counts-when-padded") is Verdict.HOLDS


def test_names_are_unique_slugs():
    names = [claim.name for claim in CLAIMS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", name) for name in names)
    assert len({claim.check for claim in CLAIMS}) == len(CLAIMS)


def test_condition_is_stated_where_a_claim_does_not_hold_as_it_stands():
    for claim in CLAIMS:
        assert bool(claim.condition) == (claim.expected is not Verdict.HOLDS), claim.name


def test_every_numbered_equation_is_decided():
    numbered = " ".join(claim.source for claim in CLAIMS if "equation" in claim.source)
    assert set(range(1, 14)) <= {int(number) for number in re.findall(r"\((\d+)\)", numbered)}


def test_both_runs_judge_with_the_same_seeds():
    for name in ("gated-criterion-remains", "euler-first-order"):
        assert judge(BY_NAME[name], quick=True).outcome == judge(BY_NAME[name], quick=True).outcome


def test_full_run_has_more_instances_than_the_quick_one():
    quick, full = (judge(BY_NAME["gated-sign-condition"], quick=value).outcome.numbers for value in (True, False))
    assert full["instances"] > quick["instances"] >= 1000


def test_working_precision_is_left_as_it_was():
    before = ctx.prec
    judge(BY_NAME["constant-distance"], quick=True)
    assert ctx.prec == before


def test_exception_of_a_check_propagates():
    def check(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        judge(Claim("a", "b", "c", "", Verdict.HOLDS, check, "1"))


@pytest.mark.parametrize(
    ("holds", "refuted", "under_condition", "expected"),
    [
        (True, False, None, Verdict.HOLDS),
        (True, False, True, Verdict.HOLDS),
        (True, False, False, Verdict.UNDECIDED),
        (False, False, None, Verdict.UNDECIDED),
        (False, False, True, Verdict.UNDECIDED),
        (True, True, None, Verdict.REFUTED),
        (False, True, False, Verdict.REFUTED),
        (False, True, True, Verdict.CONDITIONAL),
    ],
)
def test_verdict_follows_from_what_was_found(holds, refuted, under_condition, expected):
    assert decide(holds, refuted=refuted, under_condition=under_condition) is expected


def test_judgement_compares_with_the_expected_verdict():
    claim = Claim("a", "b", "c", "", Verdict.REFUTED, lambda _: Outcome(Verdict.HOLDS, "", {}), "1")
    assert not judge(claim).as_expected
    assert Judgement(claim, Outcome(Verdict.REFUTED, "", {})).as_expected


def scaled(function, factor):
    return lambda *arguments, **options: factor * function(*arguments, **options)


def nan_like(function):
    return lambda *arguments, **options: np.nan * function(*arguments, **options)


def diffusion_off_every_entry(W, diffusion, unconstrained=False):
    return (W if unconstrained else W - W.T) - diffusion


def of_tiny_weights(draw):
    def tiny():
        parameters = draw()
        return parameters._replace(W=1e-6 * parameters.W)

    return tiny


def without_inputs(draw):
    def zero(T, step_size):
        parameters, x = draw(T, step_size)
        return parameters, 0 * x

    return zero


def half_a_turn_off(turn):
    def wrong(rate):
        t, A = turn(rate)
        return t, -A

    return wrong


def midpoint_rule(f, h0, step_size, T):
    h = [h0]
    for _ in range(T):
        h.append(h[-1] + step_size * f(h[-1] + step_size / 2 * f(h[-1])))
    return np.stack(h)


def with_offset_of_first_order(f, h0, step_size, T):
    return dynamics_forward_euler(f, h0, step_size, T) + 50 * step_size


def half_interval(D, diffusion):
    return stability.Interval(-diffusion * D.max(axis=-1) / 2, -diffusion * D.min(axis=-1))


def interval_too_far_left(D, diffusion):
    return stability.Interval(-diffusion * D.max(axis=-1), -diffusion * (D.min(axis=-1) + D.max(axis=-1)) / 2)


def nan_where_positive(a, a_z, right=stability.gated_diagonal):
    return np.where(right(a, a_z) > 0, np.nan, right(a, a_z))


def nan_where_diffusion(right):
    return lambda M, *rest: right(M, *rest) * (np.nan if M.trace() else 1.0)


def off_in_float32(W, _):
    return W - (W.T if W.dtype == np.float64 else W.T * np.float32(0.9999))


def last_step_off(*arguments, **options):
    trajectory = antisymmetric_forward(*arguments, **options)
    h = trajectory.h.copy()
    h[-1] *= 1 + 1e-12
    return trajectory._replace(h=h)


def not_antisymmetric_in_bits(G, _):
    return np.nextafter(G - G.T, np.inf), -np.trace(G)


def gate_that_is_constant(a, a_z):
    return gated.sigmoid(a_z) * stability.diagonal(a)


def rightmost_first(steps):
    return np.linalg.multi_dot([np.eye(steps.shape[-1]), *steps[:, 0]])[None]


def variance_taken_for_deviation(generator, n, m, *, sigma_w, draw=initialization.gated_parameters):
    drawn = draw(generator, n, m, sigma_w=sigma_w)
    return drawn._replace(W=drawn.W / np.sqrt(n))


dynamics_forward_euler, antisymmetric_forward = dynamics.forward_euler, antisymmetric.forward

WRONG_SPECIFICATIONS = [
    ("test-equation", dynamics, "test_equation", scaled(dynamics.test_equation, 1 + 1e-12)),
    ("euler-first-order", dynamics, "forward_euler", with_offset_of_first_order),
    ("cells-as-written", antisymmetric, "forward", last_step_off),
    ("antisymmetry-is-exact", antisymmetry, "recurrent_matrix", off_in_float32),
    ("jacobian-of-the-ode", stability, "jacobian", scaled(stability.jacobian, 1 + 1e-12)),
    ("jacobian-of-the-ode", stability, "jacobian", scaled(stability.jacobian, np.nan)),
    ("gated-sign-condition", stability, "gated_diagonal", nan_where_positive),
    ("energy-of-the-ode", dynamics, "energy", nan_where_diffusion(dynamics.energy)),
    ("real-parts-with-diffusion", stability, "real_part_interval", interval_too_far_left),
    ("sensitivity-equation", stability, "jacobian", scaled(stability.jacobian, 1 + 1e-4)),
    ("energy-of-the-ode", dynamics, "energy", scaled(dynamics.energy, 1 + 1e-6)),
    ("critical-diffusion", stability, "critical_diffusion", scaled(stability.critical_diffusion, 1 + 1e-12)),
    ("w-diff-is-euler-stable", stability, "critical_diffusion", scaled(stability.critical_diffusion, 1 + 1e-12)),
    ("gated-jacobian-form", stability, "gated_diagonal", scaled(stability.gated_diagonal, 1 + 1e-12)),
    ("discrete-jacobian", stability, "gated_diagonal", gate_that_is_constant),
    ("geometric-mean", antisymmetric, "recurrent_matrix", lambda W, _, __=False: W + W.T),
    ("gradients-of-the-shared-matrix", gated, "matrix_gradients", not_antisymmetric_in_bits),
    ("test-equation", dynamics, "test_equation", lambda z0, eigenvalue, t: z0 * np.exp(-eigenvalue * t)),
    ("euler-first-order", dynamics, "forward_euler", scaled(dynamics.forward_euler, 1.001)),
    ("euler-first-order", dynamics, "forward_euler", midpoint_rule),
    ("cells-as-written", antisymmetric, "recurrent_matrix", diffusion_off_every_entry),
    ("cells-as-written", gated, "sigmoid", scaled(gated.sigmoid, 1 + 1e-12)),
    ("cells-as-written", dynamics, "feedback", lambda W, h0, _step_size, T: dynamics.vanilla(W, h0, T)),
    ("antisymmetry-is-exact", antisymmetry, "recurrent_matrix", lambda W, _: W - W.T * W.dtype.type(0.9999)),
    ("antisymmetric-eigenvalues", ode, "recurrent_matrix", lambda W, _: W - 0.999999999999 * W.T),
    ("computed-eigenvalues", ode, "recurrent_matrix", lambda W, _: W - 0.999999999999 * W.T),
    ("jacobian-of-the-ode", stability, "diagonal", lambda a: 1 - a**2),
    ("eigenvalues-of-the-jacobian", stability, "jacobian", lambda D, M: D[:, None] * M + 1e-9 * np.eye(len(M))),
    ("eigenvalues-of-the-jacobian", stability, "meets_critical_criterion", lambda _J, _tolerance: False),
    ("real-parts-with-diffusion", stability, "real_part_interval", half_interval),
    (
        "real-parts-with-diffusion",
        ode,
        "recurrent_matrix",
        lambda W, diffusion: W - W.T + diffusion * np.eye(len(W)),
    ),
    ("sensitivity-equation", stability, "jacobian", lambda D, M: M * D),
    ("constant-jacobian-is-stable", ode, "recurrent_matrix", lambda W, _: W - 0.999 * W.T),
    ("energy-of-the-ode", dynamics, "energy", lambda M, h, u: ((h @ M.T + u) ** 2).sum(axis=-1) / 2),
    ("energy-under-euler", dynamics, "energy", scaled(dynamics.energy, 1 + 1e-12)),
    ("energy-under-euler", dynamics, "energy", nan_like(dynamics.energy)),
    ("figure-energies", dynamics, "energy", scaled(dynamics.energy, 1 + 1e-12)),
    ("imaginary-eigenvalues-are-unstable", stability, "is_euler_stable", lambda _eigenvalues, _step_size: True),
    ("critical-diffusion", stability, "critical_diffusion", scaled(stability.critical_diffusion, 1.001)),
    ("critical-diffusion", stability, "is_euler_stable", lambda eigenvalue, _step_size: eigenvalue.real < 0),
    ("diffusion-makes-euler-stable", stability, "critical_diffusion", scaled(stability.critical_diffusion, 0.9)),
    ("w-diff-is-euler-stable", stability, "amplification", scaled(stability.amplification, 1.001)),
    ("frozen-euler-suffices", stability, "end_to_end_jacobian", rightmost_first),
    ("gated-jacobian-form", stability, "gated_diagonal", gate_that_is_constant),
    ("gated-criterion-remains", stability, "gated_diagonal", gate_that_is_constant),
    ("gated-sign-condition", stability, "gated_diagonal", gate_that_is_constant),
    ("discrete-jacobian", stability, "end_to_end_jacobian", rightmost_first),
    ("singular-values-are-bounded", stability, "norm_bound", lambda _D, _M, step_size: 1 + step_size),
    ("geometric-mean", stability, "log_geometric_mean", scaled(stability.log_geometric_mean, 6)),
    ("geometric-mean", stability, "log_geometric_mean", nan_like(stability.log_geometric_mean)),
    ("diffusion-decay", stability, "log_geometric_mean", scaled(stability.log_geometric_mean, 2)),
    ("gradients-of-the-shared-matrix", antisymmetric, "matrix_gradients", lambda G, _: (G, -np.trace(G))),
    ("gradients-of-the-shared-matrix", gated, "matrix_gradients", lambda G, _: (G - G.T, np.trace(G))),
    ("initial-variances", initialization, "gated_parameters", variance_taken_for_deviation),
    ("degrees-of-freedom", antisymmetric, "recurrent_matrix", lambda W, _: W + W.T),
    ("degrees-of-freedom", initialization, "parameter_count", scaled(initialization.parameter_count, 2)),
    ("published-counts", initialization, "parameter_count", scaled(initialization.parameter_count, 2)),
    ("lstm-has-more-parameters", initialization, "parameter_count", scaled(initialization.parameter_count, 2)),
    ("gate-is-cheap", initialization, "parameter_count", lambda n, _m, _classes, gated: n * n * (1 + gated)),
    ("figure-eigenvalues", stability, "amplification", scaled(stability.amplification, 1 + 1e-12)),
    ("figure-end-states", dynamics, "feedback", scaled(dynamics.feedback, 1 + 1e-10)),
    ("identity-decays-algebraically", dynamics, "vanilla", scaled(dynamics.vanilla, 1 + 1e-12)),
    ("constant-distance", dynamics, "feedback", lambda _W, h0, _step_size, T: h0 + np.zeros((T + 1, 1, 1))),
]


@pytest.mark.parametrize(("name", "module", "function", "wrong"), WRONG_SPECIFICATIONS)
def test_wrong_specification_changes_the_verdict(monkeypatch, name, module, function, wrong):
    monkeypatch.setattr(module, function, wrong)
    # a counter-example to the bare statement stays where only the condition fails
    conditional = BY_NAME[name].expected is Verdict.CONDITIONAL
    assert verdict(name) is (Verdict.REFUTED if conditional else Verdict.UNDECIDED)


@pytest.mark.parametrize(("lower", "upper"), [(3, 0), (0, -3), (-3, 0), (0, 3)])
def test_both_bounds_are_checked_and_must_be_close(monkeypatch, lower, upper):
    bounds = stability.singular_value_bounds
    monkeypatch.setattr(
        stability,
        "singular_value_bounds",
        lambda steps: stability.Interval(bounds(steps).lower + lower, bounds(steps).upper + upper),
    )
    wrong = lower > 0 or upper < 0
    assert verdict("singular-values-are-bounded") is (Verdict.UNDECIDED if wrong else Verdict.HOLDS)
    assert verdict("gradient-norm-is-constant") is Verdict.REFUTED  # the counter-example stays, the condition fails


ROOTS = [[0, 0, 0, -1], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
"""Its eigenvalues are the fourth roots of −1."""

LAST_DIGIT_OFF = {**figure_one.END_STATES, "W₀": [(-0.620996, 0.487439), *figure_one.END_STATES["W₀"][1:]]}


@pytest.mark.parametrize(
    ("name", "module", "constant", "value", "expected"),
    [
        ("euler-first-order", ode, "ORDER_TOLERANCE", 0.0, Verdict.UNDECIDED),
        ("frozen-eigenvalues-suffice", ode, "MARKUS_YAMABE", fmpq(1, 2), Verdict.UNDECIDED),
        ("constant-jacobian-is-stable", ode, "NILPOTENT", [[0, 0], [0, 0]], Verdict.UNDECIDED),
        ("exponential-of-slow-jacobian", ode, "ORDER_TOLERANCE", 0.0, Verdict.REFUTED),
        ("exponential-of-slow-jacobian", ode, "SLOW_RATES", [fmpq(1)], Verdict.UNDECIDED),
        ("exponential-of-slow-jacobian", ode, "QUARTER_TURN", [[0, 0], [0, 0]], Verdict.UNDECIDED),
        (
            "exponential-of-slow-jacobian",
            ode,
            "slow_turn",
            half_a_turn_off(ode.slow_turn),
            Verdict.UNDECIDED,
        ),
        ("critical-criterion-keeps-gradients", ode, "SWING", fmpq(1), Verdict.UNDECIDED),
        ("critical-criterion-keeps-gradients", ode, "ROTATION", [[-1, -2], [2, -1]], Verdict.UNDECIDED),
        ("critical-criterion-keeps-gradients", ode, "ROTATION", [[0, -1], [1, 0]], Verdict.UNDECIDED),
        ("jacobian-varies-slowly", ode, "SWING", fmpq(1), Verdict.UNDECIDED),
        ("jacobian-varies-slowly", ode, "SWING", fmpq(2), Verdict.UNDECIDED),
        ("computed-eigenvalues", antisymmetry, "SEARCHED", np.array([[0, 1], [-1, 2e-15]]), Verdict.UNDECIDED),
        (
            "eigenvalues-of-the-jacobian",
            antisymmetry,
            "fractions",
            lambda _: evidence.fractions(ROOTS),
            Verdict.UNDECIDED,
        ),
        ("ode-is-stable", ode, "imaginary_pair", lambda _: False, Verdict.UNDECIDED),
        ("ode-is-stable", ode, "period", lambda _start, _M: arb.pi(), Verdict.UNDECIDED),
        ("ode-is-stable", ode, "period", scaled(ode.period, 1 + 1e-6), Verdict.UNDECIDED),
        ("network-inherits-stability", euler, "ROTATION", [[-1, -2], [2, -1]], Verdict.UNDECIDED),
        ("frozen-euler-suffices", euler, "SWING", fmpq(99, 100), Verdict.UNDECIDED),
        ("frozen-euler-suffices", euler, "inside_unit_circle", lambda J: abs(J.det()) < 0.98, Verdict.UNDECIDED),
        (
            "gradient-norm-is-constant",
            gradients,
            "singular_values_along",
            lambda _, at: [(1, 1) for _ in at],
            Verdict.REFUTED,
        ),
        (
            "imaginary-eigenvalues-are-unstable",
            stability,
            "amplification",
            scaled(stability.amplification, 1.001),
            Verdict.UNDECIDED,
        ),
        ("inputs-do-not-matter", euler, "SWING", fmpq(99, 100), Verdict.UNDECIDED),
        ("w-diff-is-euler-stable", euler, "W_DIFF", [["-0.21", "-2"], ["2", "-0.21"]], Verdict.HOLDS),
        ("gated-criterion-remains", euler, "gated_diagonal_in_balls", lambda _a, _a_z: arb(1), Verdict.UNDECIDED),
        ("gated-criterion-remains", euler, "random_matrix", scaled(euler.random_matrix, 1e-6), Verdict.UNDECIDED),
        (
            "gated-criterion-remains",
            euler,
            "gated_counter_example",
            of_tiny_weights(euler.gated_counter_example),
            Verdict.UNDECIDED,
        ),
        ("crossed-words", figure_one, "rotation", figure_one.reflection, Verdict.UNDECIDED),
        (
            "figure-eigenvalues",
            figure_one,
            "AMPLIFICATIONS",
            {**figure_one.AMPLIFICATIONS, "W₀": 1.019805},
            Verdict.UNDECIDED,
        ),
        ("figure-end-states", figure_one, "END_STATES", LAST_DIGIT_OFF, Verdict.UNDECIDED),
        (
            "figure-energies",
            figure_one,
            "ENERGIES",
            [(0.433780830483, 1.043738702220), *figure_one.ENERGIES[1:]],
            Verdict.UNDECIDED,
        ),
        ("orthogonal-vanilla-collapses", figure_one, "TURNS", [("1", "1")], Verdict.UNDECIDED),
        ("orthogonal-gradient-vanishes", figure_one, "derivative_of_tanh", lambda _: arb(1), Verdict.REFUTED),
        ("orthogonal-gradient-vanishes", figure_one, "derivative_of_tanh", lambda _: arb(0.9), Verdict.UNDECIDED),
        ("orthogonal-gradient-vanishes", figure_one, "STARTS", [["0.5", "-0.75"]], Verdict.UNDECIDED),
        (
            "imaginary-eigenvalues-are-unstable",
            euler,
            "saturating_inputs",
            without_inputs(euler.saturating_inputs),
            Verdict.UNDECIDED,
        ),
        ("circular-field", figure_one, "STARTS", [["0", "0.5"], ["1", "0"], ["-2", "0"]], Verdict.HOLDS),
    ],
)
def test_other_numbers_give_another_verdict(monkeypatch, name, module, constant, value, expected):
    assert verdict(name) is BY_NAME[name].expected
    monkeypatch.setattr(module, constant, value)
    assert verdict(name) is expected


@pytest.mark.parametrize(
    ("name", "matrix", "rows", "expected"),
    [
        ("away-and-towards", "W₊", [["2", "-9"], ["0", "-2"]], Verdict.UNDECIDED),
        ("away-and-towards", "W₋", [["0", "2"], ["-2", "0"]], Verdict.UNDECIDED),
        ("outward-spirals", "W₀", [["-0.5", "-2"], ["2", "-0.5"]], Verdict.UNDECIDED),
        ("outward-spirals", "W₀", [["0", "2"], ["-2", "0"]], Verdict.UNDECIDED),
        ("every-step-moves-outward", "W₀", [["1", "0"], ["0", "1"]], Verdict.HOLDS),
        ("constant-distance", "W_diff", [["0", "0"], ["0", "0"]], Verdict.HOLDS),
        ("constant-distance", "W_diff", [["-0.16", "-2"], ["2", "-0.16"]], Verdict.UNDECIDED),
        ("figure-eigenvalues", "W₋", [["-2", "2"], ["0", "2"]], Verdict.UNDECIDED),
        ("figure-end-states", "W₀", [["0", "-2"], ["2.00001", "0"]], Verdict.UNDECIDED),
    ],
)
def test_other_matrix_gives_another_verdict(monkeypatch, name, matrix, rows, expected):
    monkeypatch.setitem(figure_one.MATRICES, matrix, rows)
    assert verdict(name) is expected


@pytest.mark.parametrize(
    ("rows", "imaginary"),
    [
        ([["0", "0"], ["0", "0"]], True),
        ([["0", "1/3"], ["-1/3", "0"]], True),
        ([["0", "1", "0"], ["0", "0", "0"], ["0", "0", "0"]], True),
        ([["0", "1"], ["1", "0"]], False),
        ([["1e-300", "1"], ["-1", "0"]], False),
        # 1, −1, i, −i; then the fourth roots of −1, whose squares are ±i
        ([["0", "0", "0", "1"], ["1", "0", "0", "0"], ["0", "1", "0", "0"], ["0", "0", "1", "0"]], False),
        ([["0", "0", "0", "-1"], ["1", "0", "0", "0"], ["0", "1", "0", "0"], ["0", "0", "1", "0"]], False),
    ],
)
def test_imaginary_eigenvalues_are_told_from_others(rows, imaginary):
    assert antisymmetry.is_imaginary(evidence.fractions(rows)) is imaginary


@pytest.mark.parametrize(
    ("rows", "pair", "inside"),
    [
        ([["0", "-0.5"], ["0.5", "0"]], True, True),
        ([["0", "0.5"], ["0.5", "0"]], False, True),
        ([["0", "-2"], ["2", "0"]], True, False),
        ([["1.5", "0"], ["0", "0.1"]], False, False),
        ([["-1.5", "0"], ["0", "-0.1"]], False, False),
        ([["0", "0"], ["0", "0"]], False, True),
    ],
)
def test_eigenvalues_of_two_rows_are_told_by_trace_and_determinant(rows, pair, inside):
    J = evidence.fractions(rows)
    assert ode.imaginary_pair(J) is pair
    assert euler.inside_unit_circle(J) is inside


def test_identities_are_tried_at_more_points_than_their_degree(monkeypatch):
    tried, point = [], ode.on_the_circle
    monkeypatch.setattr(ode, "on_the_circle", lambda tau: tried.append(tau) or point(tau))
    for name, degree in (("frozen-eigenvalues-suffice", 8), ("critical-criterion-keeps-gradients", 10)):
        tried.clear()
        assert verdict(name) is Verdict.REFUTED
        assert len(set(tried)) > degree


def test_energy_that_falls_or_stays_does_not_rise():
    h, nothing, rotation = evidence.balls(np.array([0.3, -0.2])), evidence.arb_mat(2, 1), np.array([[0, -2], [2, 0]])
    rises = [euler.energy_rises(evidence.balls(M), nothing, h, 0.1) for M in (rotation, -np.eye(2), np.zeros((2, 2)))]
    assert rises == [True, False, False]


@pytest.mark.parametrize("place", [0, 1])
def test_an_error_of_nan_is_the_largest(place):
    array = np.ones(2)
    array[place] = np.nan
    assert np.isnan(evidence.largest_error(array, evidence.balls(np.ones((2, 1)))))
    for errors, bounds in ((array, np.ones(2)), (np.ones(2), array), (np.zeros(2), array), (array, np.zeros(2))):
        assert np.isnan(evidence.largest_ratio(errors, bounds))


def test_an_error_where_none_may_be_is_infinitely_large():
    errors, bounds = np.array([0.0, 1.0, 3.0]), np.array([0.0, 4.0, 2.0])
    assert evidence.largest_ratio(errors, bounds) == 1.5
    assert evidence.largest_ratio(errors, np.array([0.0, 0.0, 2.0])) == np.inf


def test_a_solution_that_ends_too_early_is_an_error():
    with np.errstate(all="ignore"), pytest.raises(ArithmeticError, match="the ODE solver failed"):
        ode.integrate(lambda h: h**2, np.array([1.0]), 2.0)


def test_numbers_in_the_words_are_those_of_the_evidence():
    def within(words, *ends):
        digits = len(words.partition(".")[2])
        return all(abs(float(words) - end) <= 0.500001 * 10.0**-digits for end in ends)

    condition, found = BY_NAME["w-diff-is-euler-stable"].condition, judge(BY_NAME["w-diff-is-euler-stable"]).outcome
    assert within(re.search(r"γ ≥ (\d\.\d+)", condition)[1], *found.numbers["critical γ"])
    energies = re.findall(r"\d\.\d+", BY_NAME["figure-energies"].statement)
    assert all(within(words, value) for words, value in zip(energies, sum(figure_one.ENERGIES, ()), strict=True))
    printed = re.findall(r"\d\.\d{6}", BY_NAME["figure-eigenvalues"].statement)
    assert [float(words) for words in printed] == [figure_one.AMPLIFICATIONS[name] for name in ("W₀", "W_diff")]


def test_the_step_size_that_no_diffusion_repairs_is_that_of_the_drawn_matrices():
    found = judge(BY_NAME["initial-variances"], quick=True).outcome
    enough = float(re.search(r"where ε σ_w > (0\.\d+)\.$", found.evidence)[1])
    edges = [2 * math.sqrt(2) * edge for edge in found.numbers["‖W − Wᵀ‖₂ / (2√2 σ_w)"]]
    for edge in edges:
        with pytest.raises(ValueError, match="no diffusion is enough"):
            stability.critical_diffusion(edge, enough)
    assert stability.critical_diffusion(min(edges), enough - 1e-3) > 0


def test_inputs_saturate_as_they_say():
    parameters, x = euler.saturating_inputs(9, 0.1)
    h = antisymmetric.forward(parameters, x, np.zeros((1, 2)), step_size=0.1, diffusion=0.0).h
    a = h[:-1] @ (parameters.W - parameters.W.T).T + x
    np.testing.assert_allclose(a, np.arange(1.0, 10)[:, None, None] * np.ones((1, 2)), rtol=1e-14)


def test_slow_turn_agrees_with_an_ode_solver():
    for rate in (fmpq(1, 20), fmpq(1, 100)):
        assert ode.slow_turn_off(rate) < 1


def test_balls_along_a_trajectory_enclose_the_specification():
    generator = np.random.default_rng(1)
    parameters = euler.cell(generator, 4, 2, gate=False)
    x, h0 = generator.standard_normal((6, 1, 2)), generator.standard_normal((1, 4))
    h = antisymmetric.forward(parameters, x, h0, step_size=0.1, diffusion=0.15).h
    steps = stability.step_jacobians(parameters, x, h, step_size=0.1, diffusion=0.15)[:, 0]
    enclosed = euler.jacobians_in_balls(parameters, x, h0, step_size=0.1, diffusion=0.15)
    errors = [evidence.largest_error(step, J) for step, J in zip(steps, enclosed, strict=True)]
    assert max(errors) < 1e-14
    other = euler.jacobians_in_balls(parameters, x, h0, step_size=0.1, diffusion=0.15 + 1e-9)
    assert evidence.largest_error(steps[0], other[0]) > 1e-12


def test_fraction_takes_decimals_at_face_value():
    assert evidence.fraction("0.1") == fmpq(1, 10)
    assert evidence.fraction(0.1) != fmpq(1, 10)
    assert evidence.fractions([["-0.15", 2]]).entries() == [fmpq(-3, 20), fmpq(2)]


@pytest.mark.parametrize("text", ["0.1 +/- 1e-3", "-1e-40 +/- 1e-45", "123456789.123 +/- 1e-9", "0 +/- 1e-30", "1e300"])
def test_interval_is_rounded_outwards(text):
    ball = arb(text)
    lower, upper = (arb(end) for end in evidence.interval(ball, 4).strip("[]").split(", "))
    assert lower <= ball.lower()
    assert ball.upper() <= upper
    low, high = evidence.ends(ball)
    assert arb(low) <= ball.lower()
    assert ball.upper() <= arb(high)


def test_largest_does_not_pass_over_nan():
    assert evidence.largest([1.0, 3.0, 2.0]) == 3.0
    assert math.isnan(evidence.largest([1.0, math.nan, 2.0]))


def test_norm_of_a_ball_around_zero_is_a_number():
    column = evidence.balls(np.array([0.0, 0.0])) + evidence.arb_mat(2, 1, [arb(0, 1e-20)] * 2)
    assert evidence.norm(column) < 1e-18


def test_balls_keep_the_layout_of_the_array():
    array = np.arange(6.0).reshape(2, 3)
    assert [float(entry) for entry in evidence.balls(array).entries()] == array.ravel().tolist()
    column = evidence.balls(np.array([1.0, 2.0]))
    assert (column.nrows(), column.ncols()) == (2, 1)


def test_run_encloses_the_specification():
    W = [["0", "-2"], ["2", "0"]]
    states = evidence.run(evidence.fractions(W), ["0", "0.5"], "0.1", 20, 256)
    h = dynamics.feedback(np.array(W, float), np.array([0.0, 0.5]), 0.1, 20)
    assert max(evidence.largest_error(row, state) for row, state in zip(h, states, strict=True)) < 1e-15
    assert evidence.largest_error(h[20] + [1e-12, 0], states[20]) > 0.9e-12
    vanilla = evidence.run(evidence.fractions(W), ["0", "0.5"], None, 5, 256)
    exact = dynamics.vanilla(np.array(W, float), np.array([0.0, 0.5]), 5)
    assert evidence.largest_error(exact[-1], vanilla[-1]) < 1e-15
