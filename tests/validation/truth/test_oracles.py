"""The oracles are right, and say so when they cannot be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from flint import arb, ctx
from hypothesis import given, settings
from hypothesis import strategies as st

from antisymrnn_ref import GatedParameters, Parameters
from antisymrnn_validation.truth.cases import CELLS, Case, random_case
from antisymrnn_validation.truth.oracles import (
    Enclosure,
    OracleError,
    complex_step,
    enclose,
    inner_products,
    perturbed_run,
    relative_error,
    tangent_identity,
)


def a_case(cell: str = "antisymmetric", T: int = 9, **options: object) -> Case:
    return random_case(cell, T, 3, 5, 2, **{"step_size": 0.3, "diffusion": 0.2, "seed": 7, **options})


@settings(max_examples=30)
@given(
    st.sampled_from(CELLS),
    st.tuples(st.integers(0, 12), st.integers(1, 4), st.integers(1, 8), st.integers(1, 4)),
    st.floats(0.01, 1.0),
    st.floats(0.0, 1.0),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_the_reverse_sweep_agrees_with_the_product_rule(
    cell: str,
    sizes: tuple[int, int, int, int],
    step_size: float,
    diffusion: float,
    unconstrained: bool,
    last: bool,
    seed: int,
) -> None:
    case = random_case(
        cell,
        *sizes,
        step_size=step_size,
        diffusion=diffusion,
        seed=seed,
        unconstrained=unconstrained,
        last_state_only=last,
    )
    truth = enclose(case)
    for direction in range(2):
        forwards, backwards = tangent_identity(case, truth, direction)
        assert forwards.overlaps(backwards)
        assert float((forwards - backwards).abs_upper()) <= 1e-20 * (1 + abs(float(forwards)))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", ["W", "V", "b", "x", "h0", "step_size", "diffusion"])
def test_the_tangent_identity_sees_one_wrong_entry(cell: str, name: str) -> None:
    case = a_case(cell)
    truth = enclose(case)
    balls = truth.arrays[name].balls.copy()
    index = (0, 1) if name == "W" else (0,) * balls.ndim
    with ctx.workprec(truth.precision):
        balls[index] = balls[index] * (1 + arb(10) ** -20)
    wrong = truth._replace(arrays={**truth.arrays, name: truth.arrays[name]._replace(balls=balls)})
    seen = [tangent_identity(case, wrong, seed) for seed in range(4)]
    assert not all(forwards.overlaps(backwards) for forwards, backwards in seen)


def test_one_unit_by_hand() -> None:
    W, V, b, x, h, g = 0.7, 0.3, -0.2, 1.1, 0.4, 1.7
    parameters = Parameters(np.array([[W]]), np.array([[V]]), np.array([b]))
    case = Case("one", "antisymmetric", parameters, np.array([[[x]]]), np.array([[h]]), np.array([[g]]), 0.25, 0.5)
    truth = enclose(case).arrays
    s = (-arb(0.5) * h + arb(V) * x + b).tanh()
    delta = arb(0.25) * (1 - s * s) * g
    expected = {
        "W": arb(0),
        "V": delta * x,
        "b": delta,
        "x": delta * V,
        "h0": g - arb(0.5) * delta,
        "step_size": g * s,
        "diffusion": -delta * h,
    }
    for name, ball in expected.items():
        assert truth[name].balls.item().overlaps(ball), name
    assert truth["h"].balls[1].item().overlaps(h + arb(0.25) * s)


def test_one_gated_unit_by_hand() -> None:
    V, b, V_z, b_z, x, h, g = 0.3, -0.2, -0.8, 0.6, 1.1, 0.4, 1.7
    leaves = [np.array([[0.7]]), np.array([[V]]), np.array([b]), np.array([[V_z]]), np.array([b_z])]
    case = Case(
        "one", "gated", GatedParameters(*leaves), np.array([[[x]]]), np.array([[h]]), np.array([[g]]), 0.25, 0.5
    )
    truth = enclose(case).arrays
    s, z = (-arb(0.5) * h + arb(V) * x + b).tanh(), 1 / (1 + (arb(0.5) * h - arb(V_z) * x - b_z).exp())
    delta, delta_z = arb(0.25) * z * (1 - s * s) * g, arb(0.25) * s * z * (1 - z) * g
    expected = {
        "V": delta * x,
        "b": delta,
        "V_z": delta_z * x,
        "b_z": delta_z,
        "x": delta * V + delta_z * V_z,
        "h0": g - arb(0.5) * (delta + delta_z),
        "step_size": g * z * s,
        "diffusion": -(delta + delta_z) * h,
    }
    for name, ball in expected.items():
        assert truth[name].balls.item().overlaps(ball), name
    assert truth["h"].balls[1].item().overlaps(h + arb(0.25) * z * s)


def test_only_sums_have_a_condition() -> None:
    truth = enclose(a_case()).arrays
    assert truth["h"].condition == truth["h0"].condition == 1.0
    assert all(truth[name].condition > 1.0 for name in ("W", "V", "b", "step_size", "diffusion"))


def test_constants_are_rounded_to_the_dtype_of_the_arrays() -> None:
    case = a_case(dtype=np.float32, step_size=0.1, diffusion=0.3)
    rounded = case._replace(step_size=float(np.float32(0.1)), diffusion=float(np.float32(0.3)))
    again = enclose(rounded).arrays
    for name, enclosure in enclose(case).arrays.items():
        assert all(p.overlaps(q) for p, q in zip(enclosure.balls.flat, again[name].balls.flat, strict=True)), name


def test_the_radius_is_that_of_the_widest_ball() -> None:
    for name, enclosure in enclose(a_case(), radius=1e-10, precision=64).arrays.items():
        widest = max(float(ball.rad()) for ball in enclosure.balls.flat)
        assert enclosure.radius == pytest.approx(widest / enclosure.magnitude, rel=1e-6, abs=0), name


def test_the_precision_is_raised_until_the_radius_is_reached() -> None:
    case = a_case()
    low, high = enclose(case, radius=1e-10, precision=64), enclose(case, radius=1e-200, precision=64)
    assert low.precision == 64
    assert high.precision > 600
    for truth, radius in ((low, 1e-10), (high, 1e-200)):
        assert all(enclosure.radius <= radius for enclosure in truth.arrays.values())
    for name, enclosure in high.arrays.items():
        pairs = zip(enclosure.balls.flat, low.arrays[name].balls.flat, strict=True)
        assert all(fine.overlaps(coarse) for fine, coarse in pairs)


def test_giving_up_is_an_error() -> None:
    with pytest.raises(OracleError, match="radius .* at 128 bits, asked 1.0e-300"):
        enclose(a_case(), radius=1e-300, precision=64, largest_precision=128)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_truth_about_nan(value: float) -> None:
    case = a_case()
    x = case.x.copy()
    x[1, 1, 1] = value
    with pytest.raises(ValueError, match="x: expected finite numbers"):
        enclose(case._replace(x=x))


def test_a_perturbed_run_is_off_by_roundings_and_no_more() -> None:
    for dtype in (np.float32, np.float64):
        case = a_case(dtype=dtype)
        truth = enclose(case)
        for name, array in perturbed_run(case, seed=1).items():
            error = relative_error(array, truth.arrays[name])
            assert array.dtype == dtype
            # 9 steps of 5 units: a few dozen roundings, hardly amplified
            assert error <= 100 * np.finfo(dtype).eps * truth.arrays[name].condition, name
            assert error > 0


@pytest.mark.parametrize("name", ["W", "V", "b", "V_z", "b_z", "h0", "g"])
def test_no_truth_about_nan_anywhere(name: str) -> None:
    case = a_case("gated")
    wrong = {name: np.full_like(getattr(case.parameters, name, getattr(case, name, None)), math.nan)}
    wrong = {"parameters": case.parameters._replace(**wrong)} if name in case.parameters._fields else wrong
    with pytest.raises(ValueError, match=f"^{name}: expected finite numbers"):
        enclose(case._replace(**wrong))


def test_a_perturbed_run_underflows_as_a_machine_does() -> None:
    for dtype in (np.float32, np.float64):
        limits = np.finfo(dtype)
        case = a_case(T=3, dtype=dtype)
        case = case._replace(g=(case.g * limits.smallest_normal / 1024).astype(dtype))  # denormal
        truth = enclose(case)
        for name, array in perturbed_run(case, seed=1).items():
            if name != "h":
                off = relative_error(array, truth.arrays[name]) * truth.arrays[name].magnitude
                assert off <= 100 * limits.smallest_subnormal * truth.arrays[name].condition, name
                assert off > 0.1 * limits.smallest_subnormal, name


@pytest.mark.parametrize("cell", CELLS)
def test_what_lies_between_the_states(cell: str) -> None:
    case = a_case(cell, T=4)
    plain, truth = enclose(case), enclose(case, intermediates=True)
    names = {"a", "s"} | ({"a_z", "z"} if cell == "gated" else set())
    assert set(truth.arrays) - set(plain.arrays) == names
    assert set(perturbed_run(case, 1, intermediates=True)) == set(truth.arrays)
    h, a, s = (truth.arrays[name].balls for name in ("h", "a", "s"))
    z = truth.arrays["z"].balls if cell == "gated" else np.full(s.shape, arb(1))
    assert a.shape == s.shape == (4, 3, 5)
    for place in np.ndindex(s.shape):
        t, *rest = place
        assert s[place].overlaps(a[place].tanh())
        assert h[t + 1, *rest].overlaps(h[place] + arb(case.step_size) * z[place] * s[place])


def test_relative_error() -> None:
    truth = Enclosure(np.array([arb(2), arb(-4)], dtype=object), 4.0, 0.0)
    assert relative_error(np.array([2.0, -4.0]), truth) == 0.0
    assert relative_error(np.array([2.0, -3.0]), truth) == pytest.approx(0.25)
    assert math.isnan(relative_error(np.array([2.0, np.nan]), truth))
    assert math.isnan(relative_error(np.array([np.inf, np.nan]), truth))
    assert relative_error(np.array([2.0, -np.inf]), truth) == math.inf
    assert relative_error(np.array([2.0]), truth) == math.inf
    zero = Enclosure(np.array([arb(0)], dtype=object), 0.0, 0.0)
    assert relative_error(np.array([0.0]), zero) == 0.0
    assert relative_error(np.array([1e-300]), zero) == math.inf
    assert relative_error(np.zeros((0,)), Enclosure(np.empty(0, dtype=object), 0.0, 0.0)) == 0.0


def test_the_radius_counts_as_error() -> None:
    wide = Enclosure(np.array([arb(1, 0.25)], dtype=object), 0.75, 0.33)
    assert relative_error(np.array([1.0]), wide) >= 0.25


def test_complex_step_on_a_known_function() -> None:
    derivative = complex_step(lambda x, y: np.exp(x) * np.sin(y), [0.5, 2.0], [3.0, -1.0])
    assert derivative == pytest.approx(math.exp(0.5) * (3 * math.sin(2.0) - math.cos(2.0)), rel=1e-15)


def test_inner_products_have_the_scale_of_their_terms() -> None:
    left, right, scale = inner_products(lambda x: 2 * x, lambda u: [2 * u], [np.ones(1)])
    assert left == pytest.approx(right)
    assert scale == pytest.approx(abs(left) + abs(right))


def test_inner_products_see_a_wrong_pullback() -> None:
    A = np.random.default_rng(0).standard_normal((4, 3))
    right = inner_products(lambda x: A @ x, lambda u: [A.T @ u], [np.ones(3)])
    wrong = inner_products(lambda x: A @ x, lambda u: [A.T @ u * 1.000001], [np.ones(3)])
    assert abs(right[0] - right[1]) <= 1e-15 * right[2]
    assert abs(wrong[0] - wrong[1]) > 1e-9 * wrong[2]
