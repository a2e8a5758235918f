"""What every backend promises: the types of a call, the argument checks and the errors.

A backend is a module with ``asarray``, ``to_numpy`` and two submodules, ``antisymmetric`` (equation (12)) and
``gated`` (equation (13)), each with ``forward`` and ``backward``. This module is the only part of the
specification that a backend imports: the types below, and the decorators :func:`checked_forward` and
:func:`checked_backward`, which check the arguments before any work, so that bad ones get the same words everywhere.

Layout: time-major, row vectors, so that ``h @ M.T`` is M h. T steps, B batch, n hidden, m input.
``x[t]`` is the paper's x_{t+1}; ``h[t]`` is the paper's h_t, hence one state more than there are inputs.
Every array of a call has one dtype, float32 or float64; nothing is cast silently. ``step_size`` and ``diffusion``
are rounded once to that dtype. NaN and infinity in arrays propagate without a warning. No argument is written, and no
result shares memory with one. ``keep_every`` changes no bit of a gradient.

Backends other than the specification, which leans on NumPy's BLAS, promise two more things to the bit: the same input
on the same device gives the same result whatever the number of threads, and a sample's states do not depend on the
rest of the batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import numpy as np

from antisymrnn_ref.arguments import (
    DTYPES,
    Array,
    Arrays,
    asarray,
    check_bool,
    check_integer,
    check_type,
    non_negative,
    positive,
    to_numpy,
)

__all__ = [
    "DTYPES",
    "Array",
    "BackendUnavailable",
    "CellArguments",
    "GatedParameters",
    "Gradients",
    "Parameters",
    "Trajectory",
    "asarray",
    "checked_backward",
    "checked_forward",
    "kept_steps",
    "to_numpy",
]

Function = TypeVar("Function", bound=Callable[..., Any])


class BackendUnavailable(ImportError):
    """A backend that is known but cannot run here; the message ends with the one line that fixes it."""


class Parameters(NamedTuple):
    """Parameters of equation (12), or the gradients with respect to them.

    Attributes
    ----------
    W : (n, n) array
        Recurrent weights; only W − Wᵀ acts, but in the ablation.
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
        Recurrent weights, shared by the candidate and the gate; only W − Wᵀ acts, but in the ablation.
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

    @property
    def step_size(self) -> float:
        """ε of forward, rounded to the dtype."""

    @property
    def diffusion(self) -> float:
        """γ of forward, rounded to the dtype."""

    @property
    def unconstrained(self) -> bool:
        """Whether forward ran the ablation."""


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
            arrays = CellArguments(array_type)
            arrays.check_parameters(parameters, parameter_type)
            arrays.check("x", x, "T", "B", "m")
            arrays.check("h0", h0, "B", "n")
            scalars = arrays.scalars(step_size, diffusion)
            check_integer("keep_every", keep_every, 1)
            check_bool("unconstrained", unconstrained)
            with np.errstate(all="ignore"):
                return forward(parameters, x, h0, **scalars, keep_every=int(keep_every), unconstrained=unconstrained)

        return cast(Function, checked)

    return decorate


def checked_backward(
    parameter_type: type[Parameters] | type[GatedParameters], array_type: type, trajectory_type: type
) -> Callable[[Function], Function]:
    """Decorate a backend's ``backward`` with the contract's checks; see :func:`checked_forward`.

    ``trajectory_type`` is the type that the backend's own ``forward`` returns. A trajectory of other sizes than x, or
    of other constants than backward is given, is a ``ValueError``.
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
            arrays = CellArguments(array_type)
            arrays.check_parameters(parameters, parameter_type)
            arrays.check("x", x, "T", "B", "m")
            arrays.check_trajectory(trajectory, trajectory_type)
            arrays.check_cotangent(g)
            scalars = arrays.scalars(step_size, diffusion)
            check_bool("input_gradient", input_gradient)
            check_bool("unconstrained", unconstrained)
            for name, value in {**scalars, "unconstrained": unconstrained}.items():
                if value != (had := getattr(trajectory, name)):
                    raise ValueError(f"{name}: expected {had} as forward had, got {value}")
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


class CellArguments(Arrays):
    """The arguments that the calls of a cell share."""

    def __init__(self, array_type: type) -> None:
        super().__init__(DTYPES, array_type, hint="; convert it with the backend's asarray")

    def check_parameters(self, parameters: Any, parameter_type: type) -> None:
        """Check the parameters' type and every leaf."""
        check_type("parameters", parameters, parameter_type)
        shapes = {"W": "nn", "V": "nm", "b": "n", "V_z": "nm", "b_z": "n"}
        for name, array in parameters._asdict().items():
            self.check(name, array, *shapes[name])

    def check_trajectory(self, trajectory: Any, trajectory_type: type) -> None:
        """Check that a trajectory is of the sizes of x, which was checked before."""
        check_type("trajectory", trajectory, trajectory_type, hint="; pass what forward returned")
        T, keep_every = self.sizes["T"], trajectory.keep_every
        check_integer("trajectory.keep_every", keep_every, 1)
        self.sizes["K"] = len(kept_steps(T, keep_every))
        self.check("trajectory.h", trajectory.h, "K", "B", "n", note=f" for T = {T} and keep_every = {keep_every}")

    def check_cotangent(self, g: Any) -> None:
        """Check g, for every state or for the last alone."""
        self.check_dtype("g", g)
        self.sizes["T+1"] = self.sizes["T"] + 1
        shapes = (("T+1", "B", "n"), ("B", "n"))
        if tuple(g.shape) not in [tuple(self.sizes[symbol] for symbol in symbols) for symbols in shapes]:
            expected = " or ".join(self.describe(*symbols) for symbols in shapes)
            raise ValueError(f"g: expected {expected}, got {tuple(g.shape)}")

    def scalars(self, step_size: Any, diffusion: Any) -> dict[str, float]:
        """Check both scalars, rounded to the dtype of the arrays, by their names."""
        return {
            "step_size": positive("step_size", step_size, self.precision),
            "diffusion": non_negative("diffusion", diffusion, self.precision),
        }
