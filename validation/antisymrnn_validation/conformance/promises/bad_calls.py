"""Bad calls, and the exception and the very words that the contract has for each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from antisymrnn_ref.contract import Array, GatedParameters, Parameters
from antisymrnn_validation.truth.cases import Case


class BadCall(NamedTuple):
    """A call of ``function`` (forward or backward) with some arguments changed, and what it must raise."""

    label: str
    function: str
    changes: dict[str, Any]
    exception: type[Exception]
    message: str


def bad_calls(backend: ModuleType, case: Case, trajectory: Any) -> Iterator[BadCall]:
    """Every bad call of a cell.

    Parameters
    ----------
    backend : module
    case : Case
        A good call, in the backend's arrays.
    trajectory : Trajectory
        What the backend's ``forward`` returned for it.
    """
    T, B, m = case.x.shape
    n, dtype = case.parameters.b.shape[0], case.dtype
    narrow = np.dtype(np.float32 if dtype == np.float64 else np.float64)
    array = f"{type(case.x).__module__}.{type(case.x).__qualname__}"
    mine, other = (Parameters, GatedParameters) if case.cell == "antisymmetric" else (GatedParameters, Parameters)
    others = other(*(case.parameters * 2)[: len(other._fields)])
    host = backend.to_numpy

    def zeros(*shape: int, dtype: Any = dtype) -> Array:
        return backend.asarray(np.zeros(shape), dtype)

    def leaf(**changes: Array) -> dict[str, Any]:
        return {"parameters": case.parameters._replace(**changes)}

    hint = "; convert it with the backend's asarray"
    contract = "antisymrnn_ref.contract."
    wants_mine = f"parameters: expected {contract}{mine.__name__}, got"
    wants_W = "W: expected (n, n) with n >= 1, got"
    wants_x = f"x: expected (T, B, m) = (T, B, {m}) with B >= 1, got"
    wants_h0 = f"h0: expected (B, n) = ({B}, {n}), got"
    wants_h = "trajectory.h: expected (K, B, n) ="
    wants_g = f"g: expected (T+1, B, n) = ({T + 1}, {B}, {n}) or (B, n) = ({B}, {n}), got"
    as_W = f"expected dtype {dtype} as W has, got {narrow}"
    got_h = f"got ({T + 1}, {B}, {n})"
    owner = f"{type(trajectory).__module__}.{type(trajectory).__qualname__}"

    # fmt: off
    for f in ("forward", "backward"):
        yield BadCall("parameters of the other cell", f, {"parameters": others}, TypeError, f"{wants_mine} {contract}{other.__name__}")
        yield BadCall("plain tuple", f, {"parameters": tuple(case.parameters)}, TypeError, f"{wants_mine} tuple")
        yield BadCall("list", f, {"x": host(case.x).tolist()}, TypeError, f"x: expected {array}, got list{hint}")
        yield BadCall("None", f, {"x": None}, TypeError, f"x: expected {array}, got NoneType{hint}")
        yield BadCall("x of another dtype", f, {"x": backend.asarray(host(case.x), narrow)}, TypeError, f"x: {as_W}")
        yield BadCall("b of another dtype", f, leaf(b=zeros(n, dtype=narrow)), TypeError, f"b: {as_W}")
        yield BadCall("V of another dtype", f, leaf(V=zeros(n, m, dtype=narrow)), TypeError, f"V: {as_W}")
        if isinstance(case.x, np.ndarray):
            yield BadCall("x of integers", f, {"x": case.x.astype(int)}, TypeError, f"x: expected dtype {dtype} as W has, got int64; convert it: x.astype(np.{dtype})")
            yield BadCall("x of halves", f, {"x": case.x.astype(np.float16)}, TypeError, f"x: expected dtype {dtype} as W has, got float16; convert it: x.astype(np.{dtype})")
            swapped = case.x.astype(dtype.newbyteorder("S"))
            yield BadCall("x of swapped bytes", f, {"x": swapped}, TypeError, f"x: expected dtype {dtype} as W has, got {swapped.dtype}; convert it: x.astype(x.dtype.newbyteorder('='))")
            swapped = swapped.astype(narrow.newbyteorder("S"))
            yield BadCall("x of another dtype, of swapped bytes", f, {"x": swapped}, TypeError, f"x: expected dtype {dtype} as W has, got {swapped.dtype}; convert it: x.astype(np.{dtype})")
            yield BadCall("x of a subclass", f, {"x": case.x.view(np.recarray)}, TypeError, f"x: expected {array}, got {np.recarray.__module__}.recarray{hint}")
        yield BadCall("W not square", f, leaf(W=zeros(n, n + 1)), ValueError, f"{wants_W} ({n}, {n + 1})")
        yield BadCall("W a vector", f, leaf(W=zeros(n)), ValueError, f"{wants_W} ({n},)")
        yield BadCall("n = 0", f, leaf(W=zeros(0, 0)), ValueError, f"{wants_W} (0, 0)")
        yield BadCall("V transposed", f, leaf(V=zeros(m, n)), ValueError, f"V: expected (n, m) = ({n}, m) with m >= 1, got ({m}, {n})")
        yield BadCall("m = 0", f, leaf(V=zeros(n, 0)), ValueError, f"V: expected (n, m) = ({n}, m) with m >= 1, got ({n}, 0)")
        yield BadCall("b too long", f, leaf(b=zeros(n + 1)), ValueError, f"b: expected (n,) = ({n},), got ({n + 1},)")
        yield BadCall("x with time last", f, {"x": zeros(B, m, T)}, ValueError, f"{wants_x} ({B}, {m}, {T})")
        yield BadCall("x without a batch", f, {"x": zeros(T, m)}, ValueError, f"{wants_x} ({T}, {m})")
        yield BadCall("B = 0", f, {"x": zeros(T, 0, m)}, ValueError, f"{wants_x} ({T}, 0, {m})")
        yield BadCall("step_size 0", f, {"step_size": 0}, ValueError, f"step_size: expected a finite number > 0 in {dtype}, got 0")
        yield BadCall("unconstrained 1", f, {"unconstrained": 1}, TypeError, "unconstrained: expected True or False, got int")
        for name, range_ in (("step_size", "> 0"), ("diffusion", ">= 0")):
            for value in ("0.1", None, True, 1j):
                yield BadCall(f"{name} {value!r}", f, {name: value}, TypeError, f"{name}: expected a real number, got {type(value).__name__}")
            for value in (-0.1, math.nan, math.inf, -math.inf):
                yield BadCall(f"{name} {value}", f, {name: value}, ValueError, f"{name}: expected a finite number {range_} in {dtype}, got {value}")
            yield BadCall(f"{name} huge", f, {name: 10**5000}, ValueError, f"{name}: expected a finite number {range_} in {dtype}, got an integer of 16610 bits")
        yield BadCall("unconstrained of NumPy", f, {"unconstrained": np.True_}, TypeError, f"unconstrained: expected True or False, got numpy.{type(np.True_).__name__}")
        if dtype == np.float32:
            yield BadCall("step_size infinite in float32", f, {"step_size": 1e39}, ValueError, "step_size: expected a finite number > 0 in float32, got 1e+39")
            yield BadCall("step_size zero in float32", f, {"step_size": 1e-50}, ValueError, "step_size: expected a finite number > 0 in float32, got 1e-50")
    yield BadCall("h0 of another dtype", "forward", {"h0": zeros(B, n, dtype=narrow)}, TypeError, f"h0: {as_W}")
    yield BadCall("g of another dtype", "backward", {"g": zeros(T + 1, B, n, dtype=narrow)}, TypeError, f"g: {as_W}")
    yield BadCall("g a list", "backward", {"g": host(case.g).tolist()}, TypeError, f"g: expected {array}, got list{hint}")
    if case.cell == "gated":
        yield BadCall("V_z of another dtype", "forward", leaf(V_z=zeros(n, m, dtype=narrow)), TypeError, f"V_z: {as_W}")
        yield BadCall("V_z transposed", "forward", leaf(V_z=zeros(m, n)), ValueError, f"V_z: expected (n, m) = ({n}, {m}), got ({m}, {n})")
        yield BadCall("b_z None", "forward", leaf(b_z=None), TypeError, f"b_z: expected {array}, got NoneType{hint}")
    yield BadCall("h0 transposed", "forward", {"h0": zeros(n, B)}, ValueError, f"{wants_h0} ({n}, {B})")
    yield BadCall("h0 without a batch", "forward", {"h0": zeros(n)}, ValueError, f"{wants_h0} ({n},)")
    for value in (0, -1):
        yield BadCall(f"keep_every {value}", "forward", {"keep_every": value}, ValueError, f"keep_every: expected an integer >= 1, got {value}")
    for value in (2.0, True, None):
        yield BadCall(f"keep_every {value}", "forward", {"keep_every": value}, TypeError, f"keep_every: expected an integer, got {type(value).__name__}")
    yield BadCall("states for a trajectory", "backward", {"trajectory": trajectory.h}, TypeError, f"trajectory: expected {owner}, got {array}; pass what forward returned")
    yield BadCall("trajectory of a longer x", "backward", {"x": zeros(T - 1, B, m)}, ValueError, f"{wants_h} ({T}, {B}, {n}) for T = {T - 1} and keep_every = 1, {got_h}")
    yield BadCall("trajectory of a smaller batch", "backward", {"x": zeros(T, B + 1, m)}, ValueError, f"{wants_h} ({T + 1}, {B + 1}, {n}) for T = {T} and keep_every = 1, {got_h}")
    had = {name: float(dtype.type(value)) for name, value in (("step_size", case.step_size), ("diffusion", case.diffusion))}
    yield BadCall("another step_size than forward's", "backward", {"step_size": 0.5}, ValueError, f"step_size: expected {had['step_size']} as forward had, got 0.5")
    yield BadCall("another diffusion than forward's", "backward", {"diffusion": 0.5}, ValueError, f"diffusion: expected {had['diffusion']} as forward had, got 0.5")
    yield BadCall("another model than forward's", "backward", {"unconstrained": True}, ValueError, "unconstrained: expected False as forward had, got True")
    for shape in ((T, B, n), (n, B), (n,), (T + 1, n, B)):
        yield BadCall(f"g of shape {shape}", "backward", {"g": zeros(*shape)}, ValueError, f"{wants_g} ({', '.join(map(str, shape))}{',' * (len(shape) == 1)})")
    yield BadCall("input_gradient None", "backward", {"input_gradient": None}, TypeError, "input_gradient: expected True or False, got NoneType")
    # fmt: on
