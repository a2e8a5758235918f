"""A truth in floating-point numbers gives the errors that its balls give, and never less."""

from __future__ import annotations

import math

import numpy as np
import pytest
from flint import arb, ctx

from antisymrnn_ref.contract import Array
from antisymrnn_validation.truth.cases import drawn_cases, random_case
from antisymrnn_validation.truth.digits import Digits, certified, split
from antisymrnn_validation.truth.oracles import Enclosure, Truth, enclose, perturbed_run


def digits(*balls: arb, magnitude: float) -> Digits:
    entries = np.empty(len(balls), dtype=object)
    entries[:] = balls
    return certified(Truth({"h": Enclosure(entries, magnitude, 0.0)}, 128)).arrays["h"]


@pytest.mark.parametrize("sweep", list(drawn_cases(20, seed=3)), ids=lambda sweep: sweep.case.name)
@pytest.mark.parametrize("scale", [1, 1e-300])
def test_errors_are_those_of_balls_and_never_less(sweep: object, scale: float) -> None:
    case = sweep.case
    if scale != 1:
        tiny = scale if case.dtype == np.float64 else 1e-40
        case = case._replace(g=(case.g * tiny).astype(case.dtype))
    truth = enclose(case)
    known = certified(truth)
    for name, array in perturbed_run(case, seed=9).items():
        entry = truth.arrays[name]
        pairs = zip(array.ravel().tolist(), entry.balls.ravel(), strict=True)
        found = known.arrays[name].error(array)
        if not entry.magnitude:
            assert found == 0.0, name
            continue
        with ctx.workprec(256):  # the difference of two small numbers is no normal float
            exact = max(
                (((arb(value) - ball) / arb(entry.magnitude)).abs_upper() for value, ball in pairs), default=arb(0)
            )
        assert found >= float(exact) * (1 - 1e-15), name  # which is rounded to nearest
        assert found <= float(exact) * (1 + 1e-9) + 1e-25, name
    assert any(entry.exponent for entry in known.arrays.values()) == (scale != 1 and case.dtype == np.float64)


@pytest.mark.parametrize(
    ("array", "error"),
    [
        (np.array([2.0, -4.0]), 0.0),
        (np.array([2.0, -3.0]), 0.25),
        (np.array([2.0, np.nan]), math.nan),
        (np.array([2.0, -np.inf]), math.inf),
        (np.array([2.0]), math.inf),
        (np.array([2.0, -4.0], np.float32), 0.0),
    ],
)
def test_the_error_is_relative_to_the_largest_entry(array: Array, error: float) -> None:
    assert digits(arb(2), arb(-4), magnitude=4.0).error(array) == pytest.approx(error, rel=1e-12, nan_ok=True)


def test_what_is_zero_throughout_must_be_zero() -> None:
    zero = digits(arb(0), magnitude=0.0)
    assert [zero.error(np.array([value])) for value in (0.0, -0.0, 1e-300)] == [0.0, 0.0, math.inf]
    assert digits(magnitude=0.0).error(np.empty(0)) == 0.0


def test_a_wide_ball_counts_as_error_and_another_dtype_is_none_of_its_numbers() -> None:
    assert digits(arb(1, 0.25), magnitude=1.0).error(np.array([1.0])) >= 0.25
    with pytest.raises(TypeError, match="same_kind"):
        digits(arb(1), magnitude=1.0).error(np.array([1 + 2j]))


def test_an_error_far_below_a_float_is_seen() -> None:
    third = digits(arb("0.1"), magnitude=0.1)
    assert third.error(np.array([0.1])) == pytest.approx(5.551115123125783e-17, rel=1e-9)


def test_some_steps_of_the_states() -> None:
    case = random_case("antisymmetric", 4, 2, 3, 1, step_size=0.3, diffusion=0.2, seed=1)
    h = certified(enclose(case)).arrays["h"]
    assert np.array_equal(h.kept([0, 4]).high, h.high[[0, 4]])
    assert np.array_equal(h.kept([0, 4]).low, h.low[[0, 4]])


def test_numbers_of_a_wider_dtype_keep_their_digits() -> None:
    value = np.array([1, 3], np.longdouble) / 3
    entry = split(value, 1.0)
    assert np.array_equal(entry.high.astype(np.longdouble) + entry.low, value)
    tiny = split(np.ldexp(value, -1040).astype(np.longdouble), 2.0**-1040)
    assert tiny.exponent == -1039
    assert tiny.error(np.ldexp(np.array([1.0, 3.0]) / 3, -1040)) < 1e-9
