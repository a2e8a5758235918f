"""Argument checks beyond the table of bad calls that every backend is given (see the conformance checks)."""

from __future__ import annotations

import inspect
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import antisymrnn_ref
from antisymrnn_ref import BackendUnavailable, GatedParameters, Parameters, antisymmetric, contract, gated
from antisymrnn_validation.truth.cases import CELLS, random_case

CASE = random_case("antisymmetric", 5, 3, 4, 2, step_size=0.3, diffusion=0.2, seed=1)


def forward(**changes: Any) -> Any:
    call = {"parameters": CASE.parameters, "x": CASE.x, "h0": CASE.h0, **CASE.arguments, **changes}
    return antisymmetric.forward(**call)


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (np.zeros((3, 4)).view(np.recarray), f"{np.recarray.__module__}.recarray"),
        (np.ma.masked_array(np.zeros((3, 4)), mask=True), "numpy.ma.MaskedArray"),
        (np.float64(1.0), "numpy.float64"),
        ("h0", "str"),
    ],
)
def test_only_plain_arrays(array: Any, got: str) -> None:
    with pytest.raises(TypeError) as error:
        forward(h0=array)
    assert str(error.value) == f"h0: expected numpy.ndarray, got {got}; convert it with the backend's asarray"


@pytest.mark.parametrize("dtype", [">f8", ">f4", "f2", "i8", "c16", "g", "O", "?", "U1", "M8[s]"])
def test_only_native_float32_and_float64(dtype: str) -> None:
    if np.dtype(dtype) == np.float64:
        pytest.skip("longdouble is float64 here")
    W = np.zeros((4, 4), dtype)
    with pytest.raises(TypeError) as error:
        forward(parameters=CASE.parameters._replace(W=W))
    expected = f"W: expected dtype float32 or float64, got {W.dtype}"
    assert str(error.value) == expected + {
        ">f8": "; convert it: W.astype(W.dtype.newbyteorder('='))",
        ">f4": "; convert it: W.astype(W.dtype.newbyteorder('='))",
        "f2": "; convert it: W.astype(np.float32)",
        **dict.fromkeys(("i8", "g", "?"), "; convert it: W.astype(np.float64)"),
    }.get(dtype, "")
    if "convert it" in str(error.value):
        W = eval(str(error.value).partition("convert it: ")[2])
        forward(parameters=CASE.parameters._replace(W=W.astype(np.float64)))
        assert W.dtype in (np.float32, np.float64)


T, B, n, m = 5, 3, 4, 2
SHAPES = {
    "W": (n, n), "V": (n, m), "b": (n,), "V_z": (n, m), "b_z": (n,),
    "x": (T, B, m), "h0": (B, n), "g": (T + 1, B, n), "trajectory.h": (T + 1, B, n),
}  # fmt: skip
WRONG_DTYPES = ["f4", "f2", "i8", "c16", "?", "O", ">f8"]


def call_with(function: str, name: str, array: Any) -> Any:
    """A good call of the gated cell in float64, but for one array."""
    arrays = {key: np.ones(shape) for key, shape in SHAPES.items()} | {name: array}
    parameters = GatedParameters(*(arrays[key] for key in GatedParameters._fields))
    options = {"step_size": 0.1, "diffusion": 0.2}
    if function == "forward":
        return gated.forward(parameters, arrays["x"], arrays["h0"], **options)
    trajectory = gated.Trajectory(arrays["trajectory.h"], 1, 0.1, 0.2, False)
    return gated.backward(parameters, arrays["x"], trajectory, arrays["g"], **options)


@settings(max_examples=400)
@given(
    st.sampled_from(["forward", "backward"]),
    st.sampled_from(list(SHAPES)),
    st.lists(st.integers(0, 7), max_size=4).map(tuple),
)
def test_every_wrong_shape_is_refused(function: str, name: str, shape: tuple[int, ...]) -> None:
    foreign = {"forward": {"g", "trajectory.h"}, "backward": {"h0"}}[function]
    longer = function == "forward" and name == "x" and shape[1:] == (B, m) and len(shape) == 3
    if name in foreign or shape == SHAPES[name] or longer or (name == "g" and shape == (B, n)):
        call_with(function, name, np.ones(shape))
        return
    with pytest.raises(ValueError, match=r"^(W|V|b|V_z|b_z|x|h0|g|trajectory\.h): expected \(.*, got \(") as error:
        call_with(function, name, np.ones(shape))
    # the culprit is named, or what no longer fits it
    told, message = str(error.value).split(":", 1)
    assert told == name or name in ("W", "V", "x")
    assert told != name or message.endswith(f"got {shape}")


@settings(max_examples=150)
@given(
    st.sampled_from(["forward", "backward"]), st.sampled_from(list(SHAPES)), st.sampled_from([*WRONG_DTYPES, "list"])
)
def test_every_wrong_dtype_is_refused(function: str, name: str, dtype: str) -> None:
    if name in {"forward": {"g", "trajectory.h"}, "backward": {"h0"}}[function]:
        return
    array = np.ones(SHAPES[name]).tolist() if dtype == "list" else np.ones(SHAPES[name]).astype(dtype)
    with pytest.raises(TypeError, match=r"^[\w.]+: expected .*, got ") as error:
        call_with(function, name, array)
    # W sets the dtype of the call: with W in float32 the next array is the one that differs
    assert str(error.value).startswith("V" if (name, dtype) == ("W", "f4") else name)


def test_scalars_are_rounded_to_the_dtype_of_the_arrays() -> None:
    narrow = random_case("antisymmetric", 5, 3, 4, 2, step_size=0.3, diffusion=0.2, seed=1, dtype=np.float32)
    arguments = (narrow.parameters, narrow.x, narrow.h0)
    h = antisymmetric.forward(*arguments, step_size=0.1, diffusion=0.2).h
    assert h.dtype == np.float32
    assert (h == antisymmetric.forward(*arguments, step_size=float(np.float32(0.1)), diffusion=0.2).h).all()
    for value in (1e-50, 1e39):  # 0 and infinity in float32
        with pytest.raises(ValueError, match="step_size: expected a finite number > 0 in float32"):
            antisymmetric.forward(*arguments, step_size=value, diffusion=0.2)


@pytest.mark.parametrize("value", [Fraction(1, 4), np.float32(0.25), np.float64(0.25), np.longdouble(0.25)])
def test_any_real_number_is_a_step_size(value: Any) -> None:
    assert (forward(step_size=value).h == forward(step_size=0.25).h).all()


def test_keep_every_may_be_a_narrow_integer() -> None:
    long = random_case("antisymmetric", 300, 1, 2, 1, step_size=0.3, diffusion=0.2, seed=1)
    kept = antisymmetric.forward(long.parameters, long.x, long.h0, keep_every=np.uint8(200), **long.arguments)
    assert (kept.keep_every, kept.h.shape) == (200, (3, 1, 2))
    for same in (kept, kept._replace(keep_every=np.uint8(200))):
        found = antisymmetric.backward(long.parameters, long.x, same, long.g, **long.arguments)
        every = antisymmetric.forward(long.parameters, long.x, long.h0, **long.arguments)
        expected = antisymmetric.backward(long.parameters, long.x, every, long.g, **long.arguments)
        assert (found.parameters.W == expected.parameters.W).all()


def test_zero_dimensional_arrays_are_not_scalars() -> None:
    with pytest.raises(TypeError, match=r"step_size: expected a real number, got numpy\.ndarray"):
        forward(step_size=np.array(0.1))


def test_scalars_have_no_default() -> None:
    with pytest.raises(TypeError, match="step_size"):
        antisymmetric.forward(CASE.parameters, CASE.x, CASE.h0, diffusion=0.1)
    with pytest.raises(TypeError, match="positional"):
        antisymmetric.forward(CASE.parameters, CASE.x, CASE.h0, 0.1, 0.1)


def test_a_trajectory_of_the_other_cell_is_refused() -> None:
    trajectory = forward()
    other = gated.Trajectory(*trajectory)
    with pytest.raises(TypeError, match=r"trajectory: expected antisymrnn_ref\.antisymmetric\.Trajectory"):
        antisymmetric.backward(CASE.parameters, CASE.x, other, CASE.g, **CASE.arguments)


@pytest.mark.parametrize("keep_every", [0, -3])
def test_a_forged_trajectory_is_refused(keep_every: int) -> None:
    forged = forward()._replace(keep_every=keep_every)
    with pytest.raises(ValueError, match=f"trajectory.keep_every: expected an integer >= 1, got {keep_every}"):
        antisymmetric.backward(CASE.parameters, CASE.x, forged, CASE.g, **CASE.arguments)


def test_the_arithmetic_lies_below_the_checks() -> None:
    below = inspect.unwrap(antisymmetric.forward)
    assert below is not antisymmetric.forward
    assert inspect.signature(below) == inspect.signature(antisymmetric.forward)
    whole = below(Parameters(*(a.astype(int) for a in CASE.parameters)), CASE.x, CASE.h0, step_size=1, diffusion=0)
    assert whole.h.dtype == np.float64


def test_backend_unavailable_is_an_import_error() -> None:
    assert issubclass(BackendUnavailable, ImportError)


CASES = {cell: random_case(cell, T, B, n, m, step_size=0.3, diffusion=0.2, seed=1) for cell in CELLS}
KINDS = {"antisymmetric": Parameters, "gated": GatedParameters}
LIST = "got list; convert it with the backend's asarray"
IN_FORWARD = [
    ({"parameters": (1, 2)}, "parameters: expected antisymrnn_ref.contract.{kind}, got tuple"),
    ({"W": np.ones((4, 3))}, "W: expected (n, n) with n >= 1, got (4, 3)"),
    ({"W": [[1.0]]}, f"W: expected numpy.ndarray, {LIST}"),
    ({"V": np.ones((3, 2))}, "V: expected (n, m) = (4, m) with m >= 1, got (3, 2)"),
    ({"b": np.ones(3)}, "b: expected (n,) = (4,), got (3,)"),
    ({"x": np.ones((5, 3, 3))}, "x: expected (T, B, m) = (T, B, 2) with B >= 1, got (5, 3, 3)"),
    ({"x": np.ones((5, 0, 2))}, "x: expected (T, B, m) = (T, B, 2) with B >= 1, got (5, 0, 2)"),
    ({"x": [1.0]}, f"x: expected numpy.ndarray, {LIST}"),
    ({"h0": np.ones((2, 4))}, "h0: expected (B, n) = (3, 4), got (2, 4)"),
    ({"h0": np.ones((3, 4), "f4")}, "h0: expected dtype float64 as W has, got float32"),
    ({"step_size": 0}, "step_size: expected a finite number > 0 in float64, got 0"),
    ({"step_size": None}, "step_size: expected a real number, got NoneType"),
    ({"diffusion": -1}, "diffusion: expected a finite number >= 0 in float64, got -1"),
    ({"keep_every": 0}, "keep_every: expected an integer >= 1, got 0"),
    ({"keep_every": 1.0}, "keep_every: expected an integer, got float"),
    ({"unconstrained": 1}, "unconstrained: expected True or False, got int"),
]
LOST = "trajectory.h: expected (K, B, n) = (6, 3, 4) for T = 5 and keep_every = 1, got"
STATES = "g: expected (T+1, B, n) = (6, 3, 4) or (B, n) = (3, 4), got"
IN_BACKWARD = [
    *(row for row in IN_FORWARD if not {"h0", "keep_every"} & set(row[0])),
    ({"x": np.ones((4, 3, 2))}, LOST.replace("6", "5").replace("T = 5", "T = 4") + " (6, 3, 4)"),
    (
        {"trajectory": None},
        "trajectory: expected antisymrnn_ref.{cell}.Trajectory, got NoneType; pass what forward returned",
    ),
    ({"h": np.ones((5, 3, 4))}, f"{LOST} (5, 3, 4)"),
    ({"h": np.ones((6, 3, 4)).tolist()}, f"trajectory.h: expected numpy.ndarray, {LIST}"),
    ({"kept": 1.0}, "trajectory.keep_every: expected an integer, got float"),
    ({"kept": 5}, "trajectory.h: expected (K, B, n) = (2, 3, 4) for T = 5 and keep_every = 5, got (6, 3, 4)"),
    ({"g": np.ones((5, 3, 4))}, f"{STATES} (5, 3, 4)"),
    ({"g": np.ones((4, 3))}, f"{STATES} (4, 3)"),
    ({"g": np.ones((3, 4), "f4")}, "g: expected dtype float64 as W has, got float32"),
    ({"g": [1.0]}, f"g: expected numpy.ndarray, {LIST}"),
    ({"step_size": 0.4}, "step_size: expected 0.3 as forward had, got 0.4"),
    ({"diffusion": 0.0}, "diffusion: expected 0.2 as forward had, got 0.0"),
    ({"unconstrained": True}, "unconstrained: expected False as forward had, got True"),
    ({"input_gradient": 1}, "input_gradient: expected True or False, got int"),
]
GATES = [
    ({"V_z": np.ones((4, 3))}, "V_z: expected (n, m) = (4, 2), got (4, 3)"),
    ({"b_z": np.ones(3)}, "b_z: expected (n,) = (4,), got (3,)"),
]


def refused(cell: str, function: str, changes: dict[str, Any]) -> str:
    """The message of a call that is good but for the changes."""
    case, module, options = CASES[cell], getattr(antisymrnn_ref, cell), dict(changes)
    parameters = options.pop("parameters", case.parameters)
    for name in set(case.parameters._fields) & set(options):
        parameters = parameters._replace(**{name: options.pop(name)})
    call = {**case.arguments, "parameters": parameters, "x": case.x}
    if function == "forward":
        call["h0"] = case.h0
    else:
        trajectory = module.forward(case.parameters, case.x, case.h0, **case.arguments)
        kept = options.pop("kept", 1)
        call |= {"trajectory": trajectory._replace(h=options.pop("h", trajectory.h), keep_every=kept), "g": case.g}
    with pytest.raises((TypeError, ValueError)) as error:
        getattr(module, function)(**call | options)
    of_a_type = re.search(r"got (list|tuple|int|float|NoneType|float32)(;|$)", str(error.value))
    assert error.type is (TypeError if of_a_type else ValueError)
    return str(error.value)


@pytest.mark.parametrize("cell", CELLS)
def test_every_bad_call_says_what_was_expected(cell: str) -> None:
    gates = GATES if cell == "gated" else []
    for function, table in (("forward", IN_FORWARD + gates), ("backward", IN_BACKWARD + gates)):
        for changes, message in table:
            expected = message.replace("{kind}", KINDS[cell].__name__).replace("{cell}", cell)
            assert refused(cell, function, changes) == expected, (function, changes)


@pytest.mark.parametrize("cell", CELLS)
def test_what_is_not_given(cell: str) -> None:
    case, module = CASES[cell], getattr(antisymrnn_ref, cell)
    constants = {"step_size": np.float32(0.25), "diffusion": 0}
    for function, first in ((module.forward, {"keep_every": 1}), (module.backward, {"input_gradient": True})):
        parameters = inspect.signature(inspect.unwrap(function)).parameters.values()
        defaults = {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}
        assert defaults == {**first, "unconstrained": False}
    trajectory = module.forward(case.parameters, case.x, case.h0, **constants)
    assert trajectory[1:] == (1, 0.25, 0.0, False)
    assert [type(value) for value in trajectory[1:]] == [int, float, float, bool]
    assert trajectory.h.shape == (6, 3, 4)
    assert type(module.forward(case.parameters, case.x, case.h0, keep_every=np.int8(2), **constants)[1]) is int
    ablation = module.forward(case.parameters, case.x, case.h0, unconstrained=True, **constants)
    assert ablation.unconstrained is True
    assert not (ablation.h[1:] == trajectory.h[1:]).any()
    gradients = module.backward(case.parameters, case.x, trajectory, case.g, **constants)
    assert gradients.x.shape == case.x.shape
    told = module.backward(
        case.parameters, case.x, trajectory, case.g, input_gradient=True, unconstrained=False, **constants
    )
    assert all((a == b).all() for a, b in zip(gradients.parameters, told.parameters, strict=True))
    without = module.backward(case.parameters, case.x, trajectory, case.g, input_gradient=False, **constants)
    assert without.x is None
    assert all((a == b).all() for a, b in zip(gradients.parameters, without.parameters, strict=True))
    assert {type(array) for array in (*gradients.parameters, *gradients[1:])} == {np.ndarray}


class Foreign:
    """An array of a backend whose shapes are lists."""

    def __init__(self, *shape: int) -> None:
        self.shape, self.dtype = list(shape), np.dtype(np.float64)


def test_the_shapes_of_another_array_type_are_shown_as_tuples() -> None:
    arrays = contract.CellArguments(Foreign)
    arrays.check("x", Foreign(T, B, m), "T", "B", "m")
    arrays.check("h0", Foreign(B, n), "B", "n")
    arrays.check_cotangent(Foreign(T + 1, B, n))
    arrays.check_cotangent(Foreign(B, n))
    with pytest.raises(ValueError, match=r"got \(5, 3, 4\)$"):
        arrays.check_cotangent(Foreign(T, B, n))
    with pytest.raises(ValueError, match=r"^h: expected \(B, n\) = \(3, 4\), got \(3, 5\)$"):
        arrays.check("h", Foreign(B, n + 1), "B", "n")


@pytest.mark.parametrize("cell", CELLS)
def test_what_overflows_does_not_warn(cell: str) -> None:
    case, module = CASES[cell], getattr(antisymrnn_ref, cell)
    huge = case.parameters._replace(W=np.triu(np.full((n, n), 1e308)))
    trajectory = module.forward(huge, case.x, 1e308 + 0 * case.h0, **case.arguments)
    gradients = module.backward(huge, case.x, trajectory, 1e308 + 0 * case.g, **case.arguments)
    assert (trajectory.h == 1e308).all()  # M h overflows, its tanh does not
    assert not np.isfinite(gradients.step_size)  # the sum of the adjoints does
