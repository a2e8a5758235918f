"""Backends that are wrong in ways a person could write: the specification, but for some arguments or some calls.

Each is wrong for a kind of input that values in generic position, of other sizes or in C order never are.
"""

# ruff: noqa: ARG005 (sizes that a condition does not name)

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

import antisymrnn_ref
from antisymrnn_ref.contract import GatedParameters, Gradients, Parameters, checked_backward, checked_forward
from antisymrnn_validation.conformance.check import Check
from antisymrnn_validation.truth.cases import CELLS

Call = Callable[..., Any]

LIKELIEST = ("structured data", "refilled arguments", "other cotangents", "layouts", "real sizes")
"""Checks that a fault of these kinds fails, cheap ones first."""


def likeliest_first(checks: list[Check]) -> list[Check]:
    """The checks in another order, in which a fault shows sooner."""
    return sorted(checks, key=lambda check: LIKELIEST.index(check.name) if check.name in LIKELIEST else len(LIKELIEST))


def altered(forward: Call | None = None, backward: Call | None = None) -> ModuleType:
    """The specification with other functions in both cells, below the contract's checks; each gets the right one."""
    backend = ModuleType("wrong_backend")
    backend.asarray, backend.to_numpy = antisymrnn_ref.asarray, antisymrnn_ref.to_numpy
    for cell, kind in zip(CELLS, (Parameters, GatedParameters), strict=True):
        right = getattr(antisymrnn_ref, cell)
        below = inspect.unwrap(right.forward), inspect.unwrap(right.backward)
        wrong = [
            honest if given is None else functools.wraps(honest)(functools.partial(given, honest))
            for honest, given in zip(below, (forward, backward), strict=True)
        ]
        functions = {
            "forward": checked_forward(kind, np.ndarray)(wrong[0]),
            "backward": checked_backward(kind, np.ndarray, right.Trajectory)(wrong[1]),
        }
        setattr(backend, cell, SimpleNamespace(**functions))
    return backend


def reading(misread: Callable[[np.ndarray], np.ndarray], *names: str) -> ModuleType:
    """A backend that misreads some arguments, by name, in forward and in backward."""

    def parameters_of(parameters: Any) -> Any:
        return parameters._replace(
            **{name: misread(leaf) for name, leaf in parameters._asdict().items() if name in names}
        )

    def forward(right: Call, parameters: Any, x: Any, h0: Any, **options: Any) -> Any:
        x = misread(x) if "x" in names else x
        return right(parameters_of(parameters), x, misread(h0) if "h0" in names else h0, **options)

    def backward(right: Call, parameters: Any, x: Any, trajectory: Any, g: Any, **options: Any) -> Any:
        x = misread(x) if "x" in names else x
        return right(parameters_of(parameters), x, trajectory, misread(g) if "g" in names else g, **options)

    return altered(forward, backward)


def when(condition: Callable[..., bool], *, states: bool = True) -> ModuleType:
    """A backend whose last state (or whose dV, for ``states=False``) is a little off under a condition.

    The condition takes the parameters, x, h0 (or the first kept state) and g, which is None in forward.
    """

    def forward(right: Call, parameters: Any, x: Any, h0: Any, **options: Any) -> Any:
        trajectory = right(parameters, x, h0, **options)
        if states and len(x) and condition(parameters, x, h0, None):
            trajectory.h[-1, -1, -1] *= 1.01
        return trajectory

    def backward(right: Call, parameters: Any, x: Any, trajectory: Any, g: Any, **options: Any) -> Any:
        gradients = right(parameters, x, trajectory, g, **options)
        if not states and len(x) and condition(parameters, x, trajectory.h[0], g):
            gradients.parameters.V[...] *= gradients.h0.dtype.type(1.01)
        return gradients

    return altered(forward, backward)


# 1. memory layouts


def _from_memory(array: np.ndarray, strides: tuple[int, ...]) -> np.ndarray:
    """The array that these strides give, if they stay within the memory that the array owns."""
    low, high = np.lib.array_utils.byte_bounds(array if array.base is None else _owner(array))
    start = array.__array_interface__["data"][0]
    reach = [(size - 1) * stride for size, stride in zip(array.shape, strides, strict=True)]
    first = start + sum(step for step in reach if step < 0)
    last = start + sum(step for step in reach if step > 0) + array.itemsize
    if array.size == 0 or first < low or last > high:
        return array
    return np.array(as_strided(array, array.shape, strides))


def _owner(array: np.ndarray) -> np.ndarray:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _contiguous_strides(array: np.ndarray) -> tuple[int, ...]:
    return np.empty(array.shape, array.dtype).strides


def trusts_the_last_stride(array: np.ndarray) -> np.ndarray:
    if array.strides[-1] == array.itemsize:
        return _from_memory(array, _contiguous_strides(array))
    return np.ascontiguousarray(array)


def takes_fortran_for_c(array: np.ndarray) -> np.ndarray:
    if array.flags.f_contiguous and not array.flags.c_contiguous:
        return _from_memory(array, _contiguous_strides(array))
    return array


def ignores_the_sign_of_strides(array: np.ndarray) -> np.ndarray:
    return array[tuple(slice(None, None, -1) if stride < 0 else slice(None) for stride in array.strides)]


def reads_a_broadcast_axis_once(array: np.ndarray) -> np.ndarray:
    changed = np.array(array)
    for axis, (size, stride) in enumerate(zip(array.shape, array.strides, strict=True)):
        if size > 1 and stride == 0:
            np.moveaxis(changed, axis, 0)[1:] = 0
    return changed


def rounds_the_address(array: np.ndarray) -> np.ndarray:
    """Reads from the entry before where the address is not a multiple of 16, as aligned vector loads do."""
    if array.ctypes.data % 16 == 0 or array.size < 2:
        return array
    return np.roll(np.ascontiguousarray(array).reshape(-1), 1).reshape(array.shape)


LAYOUTS: dict[str, Callable[[], ModuleType]] = {
    **{
        f"{name} trusted if its last stride is one entry": functools.partial(reading, trusts_the_last_stride, name)
        for name in ("x", "h0", "V", "W", "g")
    },
    "Fortran order of W taken for C": lambda: reading(takes_fortran_for_c, "W"),
    "sign of the strides of x ignored": lambda: reading(ignores_the_sign_of_strides, "x"),
    "sign of the strides of g ignored": lambda: reading(ignores_the_sign_of_strides, "g"),
    "broadcast axis of g read once": lambda: reading(reads_a_broadcast_axis_once, "g"),
    "broadcast axis of x read once": lambda: reading(reads_a_broadcast_axis_once, "x"),
    "bias at an odd address": lambda: reading(rounds_the_address, "b"),
}


# 2. buffers used again


def by_identity(name: str, *, content: Callable[[np.ndarray], Any] = lambda _: None) -> ModuleType:
    """Keeps a copy of an argument under the identity of the array, or of that and a part of its content."""
    kept: dict[Any, tuple[np.ndarray, np.ndarray]] = {}

    def stale(array: np.ndarray) -> np.ndarray:
        _, copy = kept.setdefault((id(array), content(array)), (array, array.copy()))
        return copy

    return reading(stale, name)


def keeps_arguments(name: str) -> ModuleType:
    """Its trajectory keeps forward's own array, which backward reads."""
    held: dict[int, tuple[Any, np.ndarray]] = {}

    def forward(right: Call, parameters: Any, x: Any, h0: Any, **options: Any) -> Any:
        trajectory = right(parameters, x, h0, **options)
        held[id(trajectory.h)] = trajectory.h, x if name == "x" else getattr(parameters, name)
        return trajectory

    def backward(right: Call, parameters: Any, x: Any, trajectory: Any, g: Any, **options: Any) -> Any:
        _, array = held.get(id(trajectory.h), (None, None))
        if array is not None and array.shape == (x if name == "x" else getattr(parameters, name)).shape:
            if name == "x":
                x = array
            else:
                parameters = parameters._replace(**{name: array})
        return right(parameters, x, trajectory, g, **options)

    return altered(forward, backward)


def memoised() -> ModuleType:
    """Gradients are kept under the trajectory's states."""
    kept: dict[Any, tuple[Any, Gradients]] = {}

    def backward(right: Call, parameters: Any, x: Any, trajectory: Any, g: Any, **options: Any) -> Any:
        key = (id(trajectory.h), g.shape, options["input_gradient"])
        _, gradients = kept.setdefault(key, (trajectory.h, right(parameters, x, trajectory, g, **options)))
        return gradients

    return altered(backward=backward)


def scratch() -> ModuleType:
    """Sums begin with what a larger call has left in the last place of a scratch array."""
    left = np.zeros(0)

    def forward(right: Call, parameters: Any, x: Any, h0: Any, **options: Any) -> Any:
        nonlocal left
        trajectory = right(parameters, x, h0, **options)
        if left.size > h0.size and len(x):
            trajectory.h[-1, -1, -1] += h0.dtype.type(1e-3 * left[h0.size])
        if h0.size >= left.size:
            left = h0.reshape(-1).astype(float)
        return trajectory

    return altered(forward)


def same_results() -> ModuleType:
    """The gradient of h0 is returned in one buffer for every call of a shape."""
    buffers: dict[Any, np.ndarray] = {}

    def backward(right: Call, parameters: Any, x: Any, trajectory: Any, g: Any, **options: Any) -> Any:
        gradients = right(parameters, x, trajectory, g, **options)
        buffer = buffers.setdefault((gradients.h0.shape, gradients.h0.dtype), gradients.h0)
        buffer[...] = gradients.h0
        return gradients._replace(h0=buffer)

    return altered(backward=backward)


BUFFERS: dict[str, Callable[[], ModuleType]] = {
    **{f"{name} by identity": functools.partial(by_identity, name) for name in ("V", "b", "x", "h0", "g")},
    "x by identity and sum": lambda: by_identity("x", content=lambda array: float(np.abs(array).sum())),
    "V by identity and first entry": lambda: by_identity("V", content=lambda array: float(array.flat[0])),
    "trajectory keeps x": lambda: keeps_arguments("x"),
    "trajectory keeps V": lambda: keeps_arguments("V"),
    "gradients memoised on the trajectory": memoised,
    "scratch of a larger call": scratch,
    "one buffer for the results of a shape": same_results,
}


# 3. cotangents with structure


def with_g(change: Callable[[np.ndarray], np.ndarray]) -> ModuleType:
    """Backward changes a copy of a (T+1, B, n) g first."""

    def backward(right: Call, parameters: Any, x: Any, trajectory: Any, g: Any, **options: Any) -> Any:
        changed = change(g.copy()) if g.ndim == 3 and len(g) > 1 else g
        return right(parameters, x, trajectory, changed, **options)

    return altered(backward=backward)


def _ended_at_a_zero_step(g: np.ndarray) -> np.ndarray:
    for t in reversed(range(len(g) - 1)):
        if not g[t].any():
            g[:t] = 0
            break
    return g


def _nothing_before_a_zero_last_step(g: np.ndarray) -> np.ndarray:
    return g if g[-1].any() else np.zeros_like(g)


def _masked_samples(g: np.ndarray) -> np.ndarray:
    g[:, ~g[-1].any(axis=-1)] = 0
    return g


def _masked_units(g: np.ndarray) -> np.ndarray:
    g[:, :, ~g[0].any(axis=0)] = 0
    return g


def _first_dropped_if_others_are_zero(g: np.ndarray) -> np.ndarray:
    if not g[1:].any():
        g[0] = 0
    return g


COTANGENTS: dict[str, Callable[[], ModuleType]] = {
    "ended at a zero step": lambda: with_g(_ended_at_a_zero_step),
    "nothing before a zero last step": lambda: with_g(_nothing_before_a_zero_last_step),
    "samples masked by the last step": lambda: with_g(_masked_samples),
    "units masked by the first step": lambda: with_g(_masked_units),
    "first step dropped if all others are zero": lambda: with_g(_first_dropped_if_others_are_zero),
}


# 4. and 5. sizes, alone and together


def sized(condition: Callable[[int, int, int, int], bool], *, states: bool = True) -> Callable[[], ModuleType]:
    def holds(_: Any, x: Any, h0: Any, __: Any) -> bool:
        return condition(len(x), len(h0), h0.shape[1], x.shape[2])

    return lambda: when(holds, states=states)


def keeping(some: Callable[[int, int], bool]) -> Callable[[], ModuleType]:
    def forward(right: Call, parameters: Any, x: Any, h0: Any, **options: Any) -> Any:
        trajectory = right(parameters, x, h0, **options)
        if some(options.get("keep_every", 1), len(x)) and len(trajectory.h) > 2:
            trajectory.h[1, 0, 0] *= 1.01
        return trajectory

    return lambda: altered(forward)


SIZES: dict[str, Callable[[], ModuleType]] = {
    "B a multiple of 32": sized(lambda T, B, n, m: B % 32 == 0),
    "B = 128": sized(lambda T, B, n, m: B == 128),
    "every size a multiple of 8": sized(lambda T, B, n, m: not (B % 8 or n % 8 or m % 8)),
    "n and B multiples of 16, in dV": sized(lambda T, B, n, m: not (n % 16 or B % 16), states=False),
    "n from 34 to 63": sized(lambda T, B, n, m: 34 <= n <= 63),
    "n = 256": sized(lambda T, B, n, m: n == 256),
    "keep_every from 6 to 9": keeping(lambda k, T: 6 <= k <= 9),
    "keep_every from 10 to 31 below T": keeping(lambda k, T: 10 <= k <= 31 and k < T),
    "n from 64 and B from 16": sized(lambda T, B, n, m: n >= 64 and B >= 16 and T > 1),
    "n from 64 and B from 16, in dV": sized(lambda T, B, n, m: n >= 64 and B >= 16, states=False),
    "T from 256 and n from 8": sized(lambda T, B, n, m: T >= 256 and n >= 8),
    "m from 98": sized(lambda T, B, n, m: m >= 98),
    "states over 2 MiB": sized(lambda T, B, n, m: (T + 1) * B * n * 8 > 2**21),
    "T over 1024": sized(lambda T, B, n, m: T > 1024),
}


# 6. structured data


def on(name: str, condition: Callable[[np.ndarray], Any], *, states: bool = True) -> Callable[[], ModuleType]:
    """Off where an argument has a property."""

    def holds(parameters: Any, x: Any, h0: Any, g: Any) -> bool:
        array = {"x": x, "h0": h0, "g": g, **parameters._asdict()}.get(name)
        return array is not None and array.size > 1 and bool(condition(array))

    return lambda: when(holds, states=states)


def _same_gate(parameters: Any, *_: Any) -> bool:
    return getattr(parameters, "V_z", None) is parameters.V


def _is_the_states(right: Call, parameters: Any, x: Any, trajectory: Any, g: Any, **options: Any) -> Any:
    """g is used as scratch after it was copied, unless it is the states."""
    return right(parameters, x, trajectory, g / 2 if g is trajectory.h else g, **options)


STRUCTURES: dict[str, Callable[[], ModuleType]] = {
    "W triangular": on("W", lambda W: not np.tril(W).any() and W.any()),
    "W antisymmetric": on("W", lambda W: (W == -W.T).all()),
    "W symmetric": on("W", lambda W: (W == W.T).all()),
    "W singular": on("W", lambda W: np.isfinite(W).all() and np.linalg.matrix_rank(W) < len(W) - 1),
    "V zero": on("V", lambda V: not V.any()),
    "b zero": on("b", lambda b: not b.any()),
    "V_z the same object as V": lambda: when(_same_gate, states=False),
    "x one-hot": on("x", lambda x: ((x == 0) | (x == 1)).all() and (x.sum(axis=-1) == 1).all()),
    "x of integers": on("x", lambda x: (x == np.round(x)).all() and np.abs(x).max() > 1),
    "x constant in time": on("x", lambda x: len(x) > 1 and (x == x[0]).all()),
    "equal samples": on("x", lambda x: x.shape[1] > 1 and (x == x[:, :1]).all()),
    "equal rows of h0": on("h0", lambda h0: len(h0) > 1 and (h0 == h0[0]).all()),
    "a feature that is zero, in dV": on("x", lambda x: not x.any(axis=(0, 1)).all(), states=False),
    "g of ones": on("g", lambda g: (g == 1).all(), states=False),
    "g the states themselves": lambda: altered(backward=_is_the_states),
}


# 7. magnitudes


def changing(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[], ModuleType]:
    return lambda: reading(change, name)


MAGNITUDES: dict[str, Callable[[], ModuleType]] = {
    "x clipped at 8": changing("x", lambda x: np.clip(x, -8, 8)),
    "x clipped at 400": changing("x", lambda x: np.clip(x, -400, 400)),
    "g clipped at 10": changing("g", lambda g: np.clip(g, -10, 10)),
    "small x dropped": changing("x", lambda x: np.where(np.abs(x) < 2e-3, 0, x).astype(x.dtype)),
    "small g dropped": changing("g", lambda g: np.where(np.abs(g) < 1e-5, 0, g).astype(g.dtype)),
    "h0 clipped at 10": changing("h0", lambda h0: np.clip(h0, -10, 10)),
}

KINDS = {
    "layouts": LAYOUTS,
    "buffers": BUFFERS,
    "cotangents": COTANGENTS,
    "sizes": SIZES,
    "structures": STRUCTURES,
    "magnitudes": MAGNITUDES,
}
WRONG = {f"{kind}: {name}": make for kind, backends in KINDS.items() for name, make in backends.items()}
