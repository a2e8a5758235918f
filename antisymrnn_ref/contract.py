"""What every backend promises: the types of a call, the argument checks and the errors.

A backend is a module with ``asarray``, ``to_numpy`` and two submodules, ``antisymmetric`` (equation (12)) and
``gated`` (equation (13)), each with ``forward`` and ``backward``. This module is the only part of the
specification that a backend imports: the types below, and the decorators :func:`checked_forward` and
:func:`checked_backward`, which check the arguments before any work, so that bad ones get the same words everywhere.

Layout: time-major, row vectors, so that ``h @ M.T`` is M h. T steps, B batch, n hidden, m input.
``x[t]`` is the paper's x_{t+1}; ``h[t]`` is the paper's h_t, hence one state more than there are inputs.
Every array of a call has one dtype, float32 or float64; nothing is cast silently. ``step_size`` and ``diffusion``
are rounded once to that dtype. NaN and infinity in arrays propagate without a warning.
"""

from __future__ import annotations

import functools
import math
import numbers
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar, cast

import numpy as np

Array: TypeAlias = Any
"""``numpy.ndarray``, or the array type of the backend."""

Function = TypeVar("Function", bound=Callable[..., Any])

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
"""The dtypes of a call."""


class BackendUnavailable(ImportError):
    """A backend that is known but cannot run here; the message ends with the one line that mends it."""


class Parameters(NamedTuple):
    """Parameters of equation (12), or the gradients with respect to them.

    Attributes
    ----------
    W : (n, n) array
        Recurrent weights; only W − Wᵀ acts.
    V : (n, m) array
        Input weights.
    b : (n,) array
        Bias.
    """

    W: Array
    V: Array
    b: Array


class GatedParameters(NamedTuple):
    """Parameters of equation (13), or the gradients with respect to them.

    Attributes
    ----------
    W : (n, n) array
        Recurrent weights, shared by the candidate and the gate; only W − Wᵀ acts.
    V, V_z : (n, m) arrays
        Input weights of the candidate and of the gate.
    b, b_z : (n,) arrays
        Biases of the candidate and of the gate.
    """

    W: Array
    V: Array
    b: Array
    V_z: Array
    b_z: Array


class Trajectory(Protocol):
    """What ``forward`` returns and ``backward`` takes back. A backend may carry more in it than this."""

    @property
    def h(self) -> Array:
        """The kept states, (K, B, n), of the steps :func:`kept_steps` names: h[0] is h0, h[-1] is h_T."""

    @property
    def keep_every(self) -> int:
        """Every how many steps a state is kept."""


class Gradients(NamedTuple):
    """Gradients of the scalar loss L with respect to every input, summed over the batch.

    Attributes
    ----------
    parameters : Parameters or GatedParameters
        The same type as the parameters, leaf by leaf.
    x : (T, B, m) array or None
        None if ``input_gradient=False``.
    h0 : (B, n) array
    step_size : () array
        ∂L/∂ε.
    diffusion : () array
        ∂L/∂γ.
    """

    parameters: Parameters | GatedParameters
    x: Array | None
    h0: Array
    step_size: Array
    diffusion: Array


def kept_steps(T: int, keep_every: int) -> list[int]:
    """Steps whose states a trajectory keeps: 0, k, 2k, … and T, in ascending order."""
    return [*range(0, T, keep_every), T]


def checked_forward(
    parameter_type: type[Parameters] | type[GatedParameters], array_type: type
) -> Callable[[Function], Function]:
    """Decorate a backend's ``forward`` with the contract's checks.

    Parameters
    ----------
    parameter_type : type
        :class:`Parameters` for equation (12), :class:`GatedParameters` for (13).
    array_type : type
        The backend's own array type; no other is accepted, not even a subclass.

    Returns
    -------
    decorator
        The decorated function raises ``TypeError`` for a type or a dtype and ``ValueError`` for a shape or a range,
        before any work, and otherwise calls the function with ``step_size`` and ``diffusion`` rounded to the dtype
        of the arrays. ``inspect.unwrap`` gives the function below the checks.
    """

    def decorate(forward: Function) -> Function:
        @functools.wraps(forward)
        def checked(
            parameters: Any,
            x: Any,
            h0: Any,
            *,
            step_size: Any,
            diffusion: Any,
            keep_every: Any = 1,
            unconstrained: Any = False,
        ) -> Any:
            arrays = _Arrays(array_type)
            arrays.check_parameters(parameters, parameter_type)
            arrays.check("x", x, "T", "B", "m")
            arrays.check("h0", h0, "B", "n")
            scalars = _checked_scalars(step_size, diffusion, arrays.dtype)
            _check_keep_every("keep_every", keep_every)
            _check_bool("unconstrained", unconstrained)
            with np.errstate(all="ignore"):
                return forward(parameters, x, h0, **scalars, keep_every=int(keep_every), unconstrained=unconstrained)

        return cast(Function, checked)

    return decorate


def checked_backward(
    parameter_type: type[Parameters] | type[GatedParameters], array_type: type, trajectory_type: type
) -> Callable[[Function], Function]:
    """Decorate a backend's ``backward`` with the contract's checks; see :func:`checked_forward`.

    ``trajectory_type`` is the type that the backend's own ``forward`` returns.
    """

    def decorate(backward: Function) -> Function:
        @functools.wraps(backward)
        def checked(
            parameters: Any,
            x: Any,
            trajectory: Any,
            g: Any,
            *,
            step_size: Any,
            diffusion: Any,
            input_gradient: Any = True,
            unconstrained: Any = False,
        ) -> Any:
            arrays = _Arrays(array_type)
            arrays.check_parameters(parameters, parameter_type)
            arrays.check("x", x, "T", "B", "m")
            arrays.check_trajectory(trajectory, trajectory_type)
            arrays.check_cotangent(g)
            scalars = _checked_scalars(step_size, diffusion, arrays.dtype)
            _check_bool("input_gradient", input_gradient)
            _check_bool("unconstrained", unconstrained)
            with np.errstate(all="ignore"):
                return backward(
                    parameters,
                    x,
                    trajectory,
                    g,
                    **scalars,
                    input_gradient=input_gradient,
                    unconstrained=unconstrained,
                )

        return cast(Function, checked)

    return decorate


class _Arrays:
    """Checks array after array; remembers the first dtype and the size of each symbol met so far."""

    def __init__(self, array_type: type) -> None:
        self.array_type = array_type
        self.sizes: dict[str, int] = {}
        self.first = ""
        self.dtype: np.dtype[Any] = DTYPES[-1]

    def check_parameters(self, parameters: Any, parameter_type: type) -> None:
        _check_exact_type("parameters", parameters, parameter_type)
        shapes = {"W": "nn", "V": "nm", "b": "n", "V_z": "nm", "b_z": "n"}
        for name, array in parameters._asdict().items():
            self.check(name, array, *shapes[name])

    def check(self, name: str, array: Any, *symbols: str, note: str = "") -> None:
        self.check_type(name, array)
        shape = tuple(array.shape)
        fits = len(shape) == len(symbols)
        if fits:
            sizes = dict(self.sizes)
            fits = all(
                sizes.setdefault(symbol, size) == size and size >= _minimum(symbol)
                for symbol, size in zip(symbols, shape, strict=True)
            )
        if not fits:
            raise ValueError(f"{name}: expected {self.describe(*symbols)}{note}, got {shape}")
        self.sizes = sizes

    def check_trajectory(self, trajectory: Any, trajectory_type: type) -> None:
        _check_exact_type("trajectory", trajectory, trajectory_type, hint="; pass what forward returned")
        T, keep_every = self.sizes["T"], trajectory.keep_every
        _check_keep_every("trajectory.keep_every", keep_every)
        self.sizes["K"] = len(kept_steps(T, keep_every))
        self.check("trajectory.h", trajectory.h, "K", "B", "n", note=f" for T = {T} and keep_every = {keep_every}")

    def check_cotangent(self, g: Any) -> None:
        self.check_type("g", g)
        self.sizes["T+1"] = self.sizes["T"] + 1
        shapes = (("T+1", "B", "n"), ("B", "n"))
        if tuple(g.shape) not in [tuple(self.sizes[symbol] for symbol in symbols) for symbols in shapes]:
            expected = " or ".join(self.describe(*symbols) for symbols in shapes)
            raise ValueError(f"g: expected {expected}, got {tuple(g.shape)}")

    def check_type(self, name: str, array: Any) -> None:
        _check_exact_type(name, array, self.array_type, hint="; convert it with the backend's asarray")
        if not self.first:
            if array.dtype not in DTYPES:
                raise TypeError(f"{name}: expected dtype float32 or float64, got {array.dtype}")
            self.first, self.dtype = name, np.dtype(array.dtype)
        elif array.dtype != self.dtype:
            raise TypeError(f"{name}: expected dtype {self.dtype} as {self.first} has, got {array.dtype}")

    def describe(self, *symbols: str) -> str:
        """``(B, n) = (16, 64)``, a size not yet known as its symbol, with the least size where it has one."""
        values = [str(self.sizes.get(symbol, symbol)) for symbol in symbols]
        text = f"{_tuple(symbols)} = {_tuple(values)}" if any(s in self.sizes for s in symbols) else _tuple(symbols)
        open_ = [s for s in dict.fromkeys(symbols) if s not in self.sizes and _minimum(s)]
        return text + (f" with {' and '.join(f'{s} >= 1' for s in open_)}" if open_ else "")


def _check_exact_type(name: str, value: Any, type_: type, hint: str = "") -> None:
    if type(value) is not type_:
        raise TypeError(f"{name}: expected {_name(type_)}, got {_name(type(value))}{hint}")


def _minimum(symbol: str) -> int:
    return 0 if symbol == "T" else 1


def _checked_scalars(step_size: Any, diffusion: Any, dtype: np.dtype[Any]) -> dict[str, float]:
    return {
        "step_size": _rounded("step_size", step_size, dtype, "> 0", operator.gt),
        "diffusion": _rounded("diffusion", diffusion, dtype, ">= 0", operator.ge),
    }


def _rounded(name: str, value: Any, dtype: np.dtype[Any], range_: str, inside: Any) -> float:
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a real number, got {_name(type(value))}")
    try:
        with np.errstate(over="ignore", under="ignore"):
            rounded = float(dtype.type(value))
    except OverflowError:
        rounded = math.inf
    if not (math.isfinite(rounded) and inside(rounded, 0.0)):
        raise ValueError(f"{name}: expected a finite number {range_} in {dtype}, got {value}")
    return rounded


def _check_keep_every(name: str, value: Any) -> None:
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}: expected an integer, got {_name(type(value))}")
    if value < 1:
        raise ValueError(f"{name}: expected an integer >= 1, got {value}")


def _check_bool(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {_name(type(value))}")


def _tuple(items: Sequence[str]) -> str:
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


def _name(type_: type) -> str:
    return type_.__qualname__ if type_.__module__ == "builtins" else f"{type_.__module__}.{type_.__qualname__}"
