"""Calling a backend or a candidate: what can be asked of it, and what a broken promise is."""

from __future__ import annotations

import ast
import contextlib
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np

from antisymrnn_ref.contract import Array, Gradients
from antisymrnn_validation.truth.cases import Case
from antisymrnn_validation.truth.oracles import (
    named_arrays,
)

LACKING = {
    "gradients": "it gives no gradients",
    "gated": "it has no gated cell",
    "ablation": "it has no ablation",
    "keep_every": "it keeps every state",
    "arrays": "it does not get the caller's own arrays",
    "layouts": "its arrays come in C order alone",
    "contract": "asked of a backend alone",
    "autograd": "asked of PyTorch and JAX alone",
    "torch": "asked of PyTorch alone",
    "jax": "asked of JAX alone",
}
"""What a candidate may lack, and the reason that checks of it then do not apply."""


OF_FRAMEWORKS = frozenset({"autograd", "torch", "jax"})
"""Features of what is called by its framework: such a candidate has a ``peer``, which calls and differentiates it."""

ALL = frozenset(LACKING) - OF_FRAMEWORKS
"""What a backend has."""

Oracle = Literal["balls", "extended"]
"""Where a truth is from: certified balls, or a run in a wider dtype."""


class ArrayError(NamedTuple):
    """Error of one array against the certified truth, relative to its largest true entry.

    Attributes
    ----------
    error : float
        Of the backend.
    tolerance : float
        What it may be.
    reference : float
        The measured error that the tolerance is a multiple of.
    """

    error: float
    tolerance: float
    reference: float


class Wrong(NamedTuple):
    """Results that failed: ``arrays`` of a case by the names of the truth, with the states of ``keep_every``.

    ``plain`` says that a run of the case gives them, and not a check's own arrangement of several runs. ``oracle`` says
    where the truth is from that they failed against.
    """

    case: Case
    arrays: dict[str, Array]
    keep_every: int
    plain: bool = False
    oracle: Oracle = "balls"


class Candidate(ModuleType):
    """Something to judge that is not a backend: it looks like one, and ``features`` says what can be asked of it.

    A check of it may take ``seconds``; after three checks without an end it is not called again. ``numbers`` names the
    constants that are plain numbers of it, without gradients; ``remarks`` are said of it beside the checks.
    """

    features: frozenset[str] = ALL
    numbers: frozenset[str] = frozenset()
    remarks: Sequence[str] = ()
    seconds: float = math.inf
    endless: int = 0


class BrokenPromise(Exception):
    """A promise is not kept; the message says how, ``errors`` holds what was measured."""

    def __init__(self, message: str, errors: dict[str, ArrayError] | None = None, wrong: Wrong | None = None) -> None:
        super().__init__(message)
        self.errors, self.wrong = errors or {}, wrong


class NotSupported(Exception):
    """A promise cannot be asked of this backend; the message says why."""


def run(backend: ModuleType, case: Case, *, keep_every: int = 1, input_gradient: bool = True) -> dict[str, Array]:
    """Kept states and gradients of a case from a backend, as NumPy arrays under the names of the truth.

    Of a candidate without gradients the states alone.
    """
    if "gradients" not in features_of(backend):
        return {"h": kept_states(backend, case, keep_every)}
    trajectory, gradients = called(backend, case, keep_every=keep_every, input_gradient=input_gradient)
    wanted = "an array" if input_gradient else "None with input_gradient=False"
    require((gradients.x is not None) == input_gradient, f"x: expected {wanted}, got {type(gradients.x).__name__}")
    numbers = backend.numbers if isinstance(backend, Candidate) else frozenset()
    for name in {"step_size", "diffusion"} - numbers:
        require(getattr(gradients, name) is not None, f"{name}: expected an array, got NoneType")
    arrays = named_arrays(trajectory.h, gradients)
    return {name: backend.to_numpy(array) for name, array in arrays.items()}


def features_of(backend: ModuleType) -> frozenset[str]:
    """What can be asked of a candidate; of a backend, everything, whatever attributes it has."""
    return backend.features if isinstance(backend, Candidate) else ALL


@contextlib.contextmanager
def limited(seconds: float, too_long: Callable[[], BaseException]) -> Iterator[None]:
    """Raise ``too_long()`` after so many seconds, where there is an alarm: in the main thread of a Unix process."""

    def ring(*_: Any) -> None:
        raise too_long()

    try:
        before = signal.signal(signal.SIGALRM, ring)
    except (AttributeError, ValueError):
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def modules_of(source: str) -> list[str]:
    """The modules that a Python expression such as ``package.module.function(…)`` needs imported."""
    calls = (node.func for node in ast.walk(ast.parse(source, mode="eval")) if isinstance(node, ast.Call))
    return sorted({ast.unparse(function.value) for function in calls if isinstance(function, ast.Attribute)})


def converted(backend: ModuleType, case: Case) -> Case:
    """The case with its arrays converted for the backend; what is one object stays one."""
    done: dict[int, Array] = {}

    def convert(array: Array) -> Array:
        if id(array) not in done:
            done[id(array)] = backend.asarray(array, case.dtype)
        return done[id(array)]

    parameters = type(case.parameters)(*map(convert, case.parameters))
    return case._replace(parameters=parameters, x=convert(case.x), h0=convert(case.h0), g=convert(case.g))


def called(
    backend: ModuleType, case: Case, *, keep_every: int = 1, input_gradient: bool = True, convert: bool = True
) -> tuple[Any, Gradients]:
    """Trajectory and gradients as the backend returns them."""
    module, given = getattr(backend, case.cell), converted(backend, case) if convert else case
    trajectory = module.forward(given.parameters, given.x, given.h0, keep_every=keep_every, **case.arguments)
    gradients = module.backward(
        given.parameters, given.x, trajectory, given.g, input_gradient=input_gradient, **case.arguments
    )
    return trajectory, gradients


def promises_bits(backend: ModuleType) -> bool:
    """Whether bits are promised where rounding might differ."""
    return "contract" in features_of(backend)


def kept_states(backend: ModuleType, case: Case, keep_every: int = 1) -> Array:
    """The states that a backend keeps of a case, as a NumPy array."""
    given, module = converted(backend, case), getattr(backend, case.cell)
    trajectory = module.forward(given.parameters, given.x, given.h0, keep_every=keep_every, **case.arguments)
    return backend.to_numpy(trajectory.h)


def require(condition: bool, message: str) -> None:
    """Raise :class:`BrokenPromise` with the message unless the condition holds."""
    if not condition:
        raise BrokenPromise(message)


def require_same_bits(name: str, got: Array, expected: Array) -> None:
    """Raise :class:`BrokenPromise` unless two arrays have the same shape, dtype and bytes."""
    require(
        got.shape == expected.shape and got.dtype == expected.dtype and got.tobytes() == expected.tobytes(),
        f"{name}: expected the same bits, largest difference {largest_difference(got, expected):.1e}",
    )


def largest_difference(left: Array, right: Array) -> float:
    """The largest difference of two entries; infinity for other shapes."""
    return float(np.max(np.abs(left - right), initial=0.0)) if left.shape == right.shape else math.inf
