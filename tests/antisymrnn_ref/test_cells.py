"""Both cells: closed forms, complex step, the adjoint identity, extended precision, memory, corners."""

from __future__ import annotations

import inspect
import math
import tracemalloc
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import antisymrnn_ref
from antisymrnn_ref import GatedParameters, Parameters, antisymmetric, gated
from antisymrnn_ref.contract import Array, kept_steps
from antisymrnn_validation.truth.cases import CELLS, Case, random_case
from antisymrnn_validation.truth.oracles import complex_step, inner_products, named_arrays

TYPES = {"antisymmetric": Parameters, "gated": GatedParameters}


@st.composite
def cases(draw: st.DrawFn, **fixed: Any) -> Case:
    """Float64 cases of any small shape, ablation and last-state loss among them."""
    sizes = [draw(st.integers(low, high)) for low, high in ((0, 8), (1, 4), (1, 6), (1, 4))]
    options = {
        "step_size": draw(st.floats(0.01, 1.0)),
        "diffusion": draw(st.floats(0.0, 1.0)),
        "seed": draw(st.integers(0, 2**32)),
        "scale": draw(st.sampled_from([0.0, 0.3, 1.0, 3.0])),
        "last_state_only": draw(st.booleans()),
        "unconstrained": draw(st.booleans()),
    }
    return random_case(draw(st.sampled_from(CELLS)), *sizes, **{**options, **fixed})


def cell_of(case: Case) -> Any:
    return getattr(antisymrnn_ref, case.cell)


def results(case: Case, *, below_checks: bool = False) -> dict[str, Array]:
    cell = cell_of(case)
    forward, backward = cell.forward, cell.backward
    if below_checks:
        forward, backward = inspect.unwrap(forward), inspect.unwrap(backward)
    trajectory = forward(case.parameters, case.x, case.h0, **case.arguments)
    return named_arrays(trajectory.h, backward(case.parameters, case.x, trajectory, case.g, **case.arguments))


def states_of(case: Case) -> Any:
    """The states as a function of every input, below the checks: leaves, x, h0, ε, γ."""
    forward = inspect.unwrap(cell_of(case).forward)
    kind = type(case.parameters)

    def states(*inputs: Any) -> Array:
        *leaves, x, h0, step_size, diffusion = inputs
        arguments = {"step_size": step_size, "diffusion": diffusion, "unconstrained": case.unconstrained}
        return forward(kind(*leaves), x, h0, **arguments).h

    return states


def inputs_of(case: Case) -> list[Any]:
    return [*case.parameters, case.x, case.h0, case.step_size, case.diffusion]


def gradients_of(case: Case) -> list[Array]:
    arrays = results(case)
    return [arrays[name] for name in (*case.parameters._fields, "x", "h0", "step_size", "diffusion")]


def every_cotangent(case: Case) -> Array:
    """g with its zeros written out, (T+1, B, n)."""
    if case.g.ndim == 3:
        return case.g
    return np.concatenate([np.zeros((len(case.x), *case.g.shape)), case.g[None]])


@given(cases())
def test_every_gradient_entry_is_the_complex_step(case: Case) -> None:
    inputs, gradients, g = inputs_of(case), gradients_of(case), every_cotangent(case)
    states = states_of(case)
    for k, gradient in enumerate(gradients):
        for index in np.ndindex(gradient.shape):
            direction = [np.zeros(np.shape(a)) for a in inputs]
            direction[k][index] = 1.0
            terms = g * complex_step(states, inputs, direction)
            # both sides round at most each term of a sum; adjoints grow at most as the tangent does
            allowed = 1e-13 * max(1.0, float(np.abs(gradient).max()), float(np.abs(terms).sum()))
            assert abs(float(gradient[index]) - terms.sum()) <= allowed


@given(cases(last_state_only=False))
def test_adjoint_identity(case: Case) -> None:
    left, right, scale = inner_products(
        states_of(case), lambda u: gradients_of(case._replace(g=u)), inputs_of(case), seed=len(case.x)
    )
    assert abs(left - right) <= 1e-13 * scale


def test_one_unit_one_step_in_closed_form() -> None:
    W, V, b, x, h, g, step_size, diffusion = 0.7, 0.3, -0.2, 1.1, 0.4, 1.7, 0.25, 0.5
    parameters = Parameters(np.array([[W]]), np.array([[V]]), np.array([b]))
    arguments = {"step_size": step_size, "diffusion": diffusion}
    trajectory = antisymmetric.forward(parameters, np.array([[[x]]]), np.array([[h]]), **arguments)
    s = math.tanh(-diffusion * h + V * x + b)
    assert trajectory.h.ravel().tolist() == pytest.approx([h, h + step_size * s], rel=1e-15)
    gradients = antisymmetric.backward(parameters, np.array([[[x]]]), trajectory, np.array([[g]]), **arguments)
    delta = step_size * (1 - s**2) * g
    assert gradients.parameters.W.item() == 0.0
    assert gradients.parameters.V.item() == pytest.approx(delta * x, rel=1e-15)
    assert gradients.parameters.b.item() == pytest.approx(delta, rel=1e-15)
    assert gradients.x.item() == pytest.approx(delta * V, rel=1e-15)
    assert gradients.h0.item() == pytest.approx(g - diffusion * delta, rel=1e-15)
    assert gradients.step_size.item() == pytest.approx(g * s, rel=1e-15)
    assert gradients.diffusion.item() == pytest.approx(-delta * h, rel=1e-15)


def test_one_gated_unit_one_step_in_closed_form() -> None:
    V, b, V_z, b_z, x, h, g, step_size, diffusion = 0.3, -0.2, -0.8, 0.6, 1.1, 0.4, 1.7, 0.25, 0.5
    parameters = GatedParameters(np.array([[0.7]]), np.array([[V]]), np.array([b]), np.array([[V_z]]), np.array([b_z]))
    arguments = {"step_size": step_size, "diffusion": diffusion}
    trajectory = gated.forward(parameters, np.array([[[x]]]), np.array([[h]]), **arguments)
    s = math.tanh(-diffusion * h + V * x + b)
    z = 1 / (1 + math.exp(diffusion * h - V_z * x - b_z))
    assert trajectory.h.ravel().tolist() == pytest.approx([h, h + step_size * z * s], rel=1e-15)
    gradients = gated.backward(parameters, np.array([[[x]]]), trajectory, np.array([[g]]), **arguments)
    delta, delta_z = step_size * z * (1 - s**2) * g, step_size * s * z * (1 - z) * g
    assert gradients.parameters.V_z.item() == pytest.approx(delta_z * x, rel=1e-15)
    assert gradients.parameters.b_z.item() == pytest.approx(delta_z, rel=1e-15)
    assert gradients.x.item() == pytest.approx(delta * V + delta_z * V_z, rel=1e-15)
    assert gradients.h0.item() == pytest.approx(g - diffusion * (delta + delta_z), rel=1e-15)
    assert gradients.step_size.item() == pytest.approx(g * z * s, rel=1e-15)
    assert gradients.diffusion.item() == pytest.approx(-(delta + delta_z) * h, rel=1e-15)


def test_one_known_rotation_step() -> None:
    # W strictly upper triangular with entry w: M = [[0, w], [−w, 0]]
    parameters = Parameters(np.array([[0.0, 2.0], [0.0, 0.0]]), np.zeros((2, 1)), np.zeros(2))
    h = antisymmetric.forward(parameters, np.zeros((1, 1, 1)), np.array([[0.5, -0.25]]), step_size=0.5, diffusion=0.0).h
    assert h[1, 0].tolist() == pytest.approx([0.5 + 0.5 * math.tanh(-0.5), -0.25 + 0.5 * math.tanh(-1.0)], rel=1e-15)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.skipif(np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps, reason="longdouble is float64 here")
def test_longdouble_passes_below_the_checks(cell: str) -> None:
    case = random_case(cell, 20, 3, 6, 2, step_size=0.25, diffusion=0.125, seed=5)
    wide = case._replace(
        parameters=type(case.parameters)(*(a.astype(np.longdouble) for a in case.parameters)),
        **{name: getattr(case, name).astype(np.longdouble) for name in ("x", "h0", "g")},
    )
    narrow = results(case)
    for name, array in results(wide, below_checks=True).items():
        assert array.dtype == np.longdouble
        difference = np.abs(array - narrow[name]).max() / np.abs(array).max()
        assert 0 < difference < 1e-13


@pytest.mark.parametrize("cell", CELLS)
def test_complex_passes_below_the_checks(cell: str) -> None:
    case = random_case(cell, 5, 3, 4, 2, step_size=0.25, diffusion=0.125, seed=6)
    lifted = case._replace(
        parameters=type(case.parameters)(*(a.astype(complex) for a in case.parameters)),
        **{name: getattr(case, name).astype(complex) for name in ("x", "h0", "g")},
    )
    plain = results(case)
    for name, array in results(lifted, below_checks=True).items():
        assert array.dtype == np.complex128
        assert np.abs(array - plain[name]).max() <= 1e-14 * np.abs(plain[name]).max()
    with pytest.raises(TypeError, match="W: expected dtype float32 or float64, got complex128"):
        results(lifted)


@pytest.mark.parametrize("cell", CELLS)
def test_one_complex_input_makes_every_gradient_complex_below_the_checks(cell: str) -> None:
    case = random_case(cell, 3, 2, 4, 2, step_size=0.25, diffusion=0.125, seed=7)
    plain, names = results(case), (*case.parameters._fields, "x", "h0", "g", "step_size", "diffusion")
    forward, backward = (inspect.unwrap(getattr(cell_of(case), name)) for name in ("forward", "backward"))
    for name in names:
        leaves = {key: leaf + 0j if key == name else leaf for key, leaf in case.parameters._asdict().items()}
        x, h0, g = (getattr(case, key) + 0j if key == name else getattr(case, key) for key in ("x", "h0", "g"))
        constants = {key: complex(case.arguments[key]) if key == name else case.arguments[key] for key in names[-2:]}
        parameters = type(case.parameters)(**leaves)
        trajectory = forward(parameters, x, h0, **constants)
        gradients = named_arrays(trajectory.h, backward(parameters, x, trajectory, g, **constants))
        assert gradients.pop("h").dtype == (np.float64 if name == "g" else np.complex128)
        for key, array in gradients.items():
            assert array.dtype == np.complex128, (name, key)
            assert np.abs(array - plain[key]).max() <= 1e-14 * np.abs(plain[key]).max()
        nothing = backward(parameters, x[:0], forward(parameters, x[:0], h0, **constants), g[:1], **constants)
        assert all(leaf.dtype == np.complex128 and not leaf.any() for leaf in nothing.parameters)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cell", CELLS)
def test_the_layout_of_the_initial_state_changes_no_bit(cell: str, dtype: Any) -> None:
    # of 64 columns some BLAS multiply rows and columns by other kernels
    case = random_case(cell, 7, 5, 64, 2, step_size=0.25, diffusion=0.125, seed=8, dtype=dtype)
    turned, module, arguments = np.asfortranarray(case.h0), cell_of(case), case.arguments
    expected = results(case)
    for keep_every in (1, 3):
        trajectory = module.forward(case.parameters, case.x, turned, keep_every=keep_every, **arguments)
        assert (trajectory.h == expected["h"][kept_steps(7, keep_every)]).all()
        found = named_arrays(expected["h"], module.backward(case.parameters, case.x, trajectory, case.g, **arguments))
        assert all(array.tobytes() == expected[name].tobytes() for name, array in found.items())
        assert {array.dtype for array in (trajectory.h, *found.values())} == {np.dtype(dtype)}


@pytest.mark.parametrize("cell", CELLS)
def test_checkpointing_bounds_the_memory(cell: str) -> None:
    T, B, n, k = 2500, 8, 16, 50
    case = random_case(cell, T, B, n, 1, step_size=0.1, diffusion=0.1, seed=0, last_state_only=True)
    module, state = cell_of(case), B * n * 8

    def peak(keep_every: int) -> int:
        tracemalloc.start()
        trajectory = module.forward(case.parameters, case.x, case.h0, keep_every=keep_every, **case.arguments)
        module.backward(case.parameters, case.x, trajectory, case.g, input_gradient=False, **case.arguments)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    assert peak(1) > T * state
    # T/k kept states (twice while they are stacked) and one segment of k states with its activations
    assert peak(k) < (2 * T / k + 3 * k + 50) * state


def test_the_recurrent_matrix_and_its_gradients_by_hand() -> None:
    W, G = np.array([[3.0, 5.0], [1.0, 2.0]]), np.array([[3.0, 5.0], [1.0, 2.0]])
    assert antisymmetric.recurrent_matrix(W, 0.5).tolist() == [[-0.5, 4.0], [-4.0, -0.5]]
    assert antisymmetric.recurrent_matrix(W, 0.5, True).tolist() == [[2.5, 5.0], [1.0, 1.5]]
    for unconstrained, expected in ((False, [[0.0, 4.0], [-4.0, 0.0]]), (True, G.tolist())):
        dW, ddiffusion = antisymmetric.matrix_gradients(G, unconstrained)
        assert dW.tolist() == expected
        assert (type(ddiffusion), ddiffusion.shape, ddiffusion.item()) == (np.ndarray, (), -5.0)
        assert not np.shares_memory(dW, G)
    assert antisymmetric.matrix_gradients(G)[0].tolist() == [[0.0, 4.0], [-4.0, 0.0]]


@pytest.mark.parametrize("cell", CELLS)
def test_no_steps(cell: str) -> None:
    case = random_case(cell, 0, 3, 4, 2, step_size=0.3, diffusion=0.2, seed=1)
    for keep_every in (1, 7):
        trajectory = cell_of(case).forward(case.parameters, case.x, case.h0, keep_every=keep_every, **case.arguments)
        assert trajectory.h.shape == (1, 3, 4)
        assert (trajectory.h[0] == case.h0).all()
    for g in (case.g, case.g[0]):
        arrays = results(case._replace(g=g))
        assert (arrays["h0"] == case.g[0]).all()
        assert not np.shares_memory(arrays.pop("h0"), g)
        assert arrays.pop("h").shape == (1, 3, 4)
        assert arrays.pop("x").shape == (0, 3, 2)
        assert all((array == 0).all() for array in arrays.values())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_gate_that_is_nearly_shut_keeps_its_digits(dtype: Any) -> None:
    unit = float(np.finfo(dtype).eps) / 2
    lowest = -85.0 if dtype is np.float32 else -700.0  # below, e^−a overflows
    a = np.concatenate([np.linspace(lowest, 40, 200), np.linspace(-2, 2, 100)]).astype(dtype)
    with mpmath.workdps(40):
        exact = [1 / (1 + mpmath.exp(-mpmath.mpf(float(value)))) for value in a]
        for found, expected in zip(gated.sigmoid(a), exact, strict=True):
            assert abs(mpmath.mpf(float(found)) - expected) <= 8 * unit * expected  # exp 2 ulp, a sum, an inverse
        parameters = GatedParameters(*(np.zeros(shape, dtype) for shape in ((1, 1), (1, 1), 1, (1, 1), 1)))
        parameters = parameters._replace(b=np.ones(1, dtype))
        for value, gate in zip(a[:40], exact, strict=False):
            shut = parameters._replace(b_z=np.array([value]))
            x, h0 = np.zeros((1, 1, 1), dtype), np.zeros((1, 1), dtype)
            h = gated.forward(shut, x, h0, step_size=1.0, diffusion=0.0).h[1, 0, 0]
            expected = gate * mpmath.tanh(1)
            assert abs(mpmath.mpf(float(h)) - expected) <= 16 * unit * expected


def test_saturated_gate_and_candidate_do_not_warn() -> None:
    case = random_case("gated", 4, 2, 3, 1, step_size=0.3, diffusion=0.2, seed=2)
    large = case._replace(
        parameters=case.parameters._replace(b_z=np.array([-1e4, 1e4, -1e308]), b=np.array([1e4, -1e308, 0]))
    )
    h = results(large)["h"]
    assert (h[1, :, 0] == h[0, :, 0]).all()  # gate shut
    assert h[1, :, 1] == pytest.approx(h[0, :, 1] - 0.3, rel=1e-15)  # gate open, candidate −1


@pytest.mark.parametrize(
    ("T", "keep_every", "steps"),
    [
        (0, 1, [0]),
        (0, 9, [0]),
        (1, 1, [0, 1]),
        (5, 1, [0, 1, 2, 3, 4, 5]),
        (5, 2, [0, 2, 4, 5]),
        (6, 2, [0, 2, 4, 6]),
        (5, 5, [0, 5]),
        (5, 99, [0, 5]),
    ],
)
def test_kept_steps(T: int, keep_every: int, steps: list[int]) -> None:
    assert kept_steps(T, keep_every) == steps
    case = random_case("antisymmetric", T, 2, 3, 1, step_size=0.3, diffusion=0.2, seed=3)
    kept = antisymmetric.forward(case.parameters, case.x, case.h0, keep_every=keep_every, **case.arguments)
    assert (kept.h == results(case)["h"][steps]).all()
