"""The truth of a wider dtype is the truth of balls, to the radius that it has."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

import antisymrnn_ref
from antisymrnn_ref import Parameters
from antisymrnn_validation.conformance.judge import problems
from antisymrnn_validation.truth import tolerance
from antisymrnn_validation.truth.calls import BrokenPromise, run
from antisymrnn_validation.truth.cases import CELLS, Case, drawn_cases, generic_cases, random_case
from antisymrnn_validation.truth.digits import KnownTruth
from antisymrnn_validation.truth.extended import extended, wider
from antisymrnn_validation.truth.oracles import OracleError
from antisymrnn_validation.truth.tolerance import extended_truth_and_errors, measure, truth_and_errors

pytestmark = pytest.mark.skipif(
    wider(np.dtype(np.float64)) is None, reason="longdouble is no wider than float64 here, and balls take its place"
)


def a_case(cell: str = "gated", **options: object) -> Case:
    return random_case(cell, 7, 3, 5, 2, **{"step_size": 0.3, "diffusion": 0.2, "seed": 5, **options})


def largest_part_of_radius(wide: KnownTruth, balls: KnownTruth) -> float:
    """The largest distance of two truths over the radius of the first."""
    parts = [0.0]
    for name, certified in balls.arrays.items():
        entry = wide.arrays[name]
        assert entry.exponent == certified.exponent
        distance = np.max(np.abs((entry.high - certified.high) + (entry.low - certified.low)), initial=0.0)
        parts.append(float(distance) / entry.radius if distance else 0.0)
    return max(parts)


def require_alike(case: Case) -> None:
    balls, _, perturbed = truth_and_errors(case)
    wide, _, moved = extended_truth_and_errors(case)
    assert wide.arrays.keys() == balls.arrays.keys()
    assert largest_part_of_radius(wide, balls) <= 1
    for name, entry in wide.arrays.items():
        assert entry.magnitude == pytest.approx(balls.arrays[name].magnitude, rel=1e-6), name
        assert entry.condition == pytest.approx(balls.arrays[name].condition, rel=1e-6), name
        # both are the largest of three at random
        assert max(run[name] for run in moved) <= 100 * max(run[name] for run in perturbed) + entry.radius, name


@given(problems())
def test_it_is_the_truth_of_balls_on_small_cases(case: Case) -> None:
    require_alike(case)


@pytest.mark.parametrize("sweep", list(drawn_cases(60)), ids=lambda sweep: sweep.case.name)
def test_it_is_the_truth_of_balls_for_drawn_magnitudes(sweep: object) -> None:
    require_alike(sweep.case)


@pytest.mark.parametrize(
    "case", [case for case in generic_cases() if " long" in case.name or " batch " in case.name], ids=lambda c: c.name
)
def test_it_is_the_truth_of_balls_for_long_sums(case: Case) -> None:
    require_alike(case)


def test_rounding_costs_as_much_as_with_balls() -> None:
    ratios = []
    for sweep in drawn_cases(40, seed=1):
        (*_, perturbed), (*_, moved) = truth_and_errors(sweep.case), extended_truth_and_errors(sweep.case)
        ratios += [
            max(run[name] for run in moved) / reference
            for name in perturbed[0]
            if (reference := max(run[name] for run in perturbed))
        ]
    assert 0.9 < np.median(ratios) < 1.1
    assert 0.4 < np.quantile(ratios, 0.1) < np.quantile(ratios, 0.9) < 2.5


@pytest.mark.parametrize("sweep", list(drawn_cases(40, seed=2)), ids=lambda sweep: sweep.case.name)
def test_the_specification_is_within_the_tolerance(sweep: object) -> None:
    arrays = run(antisymrnn_ref, sweep.case, keep_every=sweep.keep_every)
    measure(arrays, sweep.case, keep_every=sweep.keep_every, oracle="extended")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cell", CELLS)
def test_a_small_error_in_any_one_array_is_seen(cell: str, dtype: type) -> None:
    case = a_case(cell, dtype=dtype)
    right = run(antisymrnn_ref, case)
    errors = measure(right, case, oracle="extended")
    for name, error in errors.items():
        assert error.tolerance < 1e4 * np.finfo(dtype).eps
        arrays = {other: array.copy() for other, array in right.items()}
        largest = np.unravel_index(np.abs(arrays[name]).argmax(), arrays[name].shape)
        arrays[name][largest] *= 1 + 2 * error.tolerance
        with pytest.raises(BrokenPromise, match=f"^{name}: relative error"):
            measure(arrays, case, oracle="extended")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sum_that_cancels_is_judged_by_its_terms(dtype: type) -> None:
    parameters = Parameters(np.array([[0.3]], dtype), np.zeros((1, 1), dtype), np.zeros(1, dtype))
    x, h0, g = np.zeros((1, 2, 1), dtype), np.array([[0.7], [-0.7]], dtype), np.ones((1 + 1, 2, 1), dtype)
    g[0] = 0
    case = Case("opposite samples", "antisymmetric", parameters, x, h0, g, 0.3, 0.2)
    arrays = run(antisymrnn_ref, case)
    eps = float(np.finfo(dtype).eps)
    assert abs(arrays["diffusion"]) < eps / 8  # Σ δ h of two samples with the same δ and opposite h
    with pytest.raises(OracleError):
        truth_and_errors(case)
    measure(arrays, case, oracle="extended")
    measure(arrays | {"diffusion": np.array(eps / 8, dtype)}, case, oracle="extended")
    with pytest.raises(BrokenPromise, match="^diffusion: "):
        measure(arrays | {"diffusion": np.array(64 * eps, dtype)}, case, oracle="extended")


def test_what_is_zero_throughout_must_be_zero() -> None:
    case = a_case()
    case = case._replace(g=np.zeros_like(case.g))
    arrays = run(antisymrnn_ref, case)
    assert {error.error for name, error in measure(arrays, case, oracle="extended").items() if name != "h"} == {0.0}
    arrays["V"][0, 0] = 1e-300
    with pytest.raises(BrokenPromise, match="^V: relative error inf"):
        measure(arrays, case, oracle="extended")


def test_without_a_wider_dtype_balls_are_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tolerance, "wider", lambda _: None)
    case = a_case(seed=77)
    assert extended_truth_and_errors(case) is truth_and_errors(case)


def test_a_number_that_overflows_and_one_that_is_not_finite_have_no_truth() -> None:
    case = random_case("antisymmetric", 12, 1, 2, 1, step_size=1.0, diffusion=0.0, seed=3, dtype=np.float32)
    nothing = {name: np.zeros_like(getattr(case, name)) for name in ("x", "h0")}
    case = case._replace(
        **nothing, parameters=case.parameters._replace(W=case.parameters.W * np.float32(1e30), b=np.zeros(2, "f"))
    )
    with pytest.raises(OracleError, match="overflows float64"):
        extended(case, np.float64, 3)
    case.x[0] = np.nan
    with pytest.raises(ValueError, match="^x: expected finite numbers"):
        extended(case, np.float64, 3)
