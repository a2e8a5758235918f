"""What is compared: backends by name and peers, each made ready for one case, and the case that is timed."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from antisymrnn_ref.contract import Array
from antisymrnn_validation.truth.cases import Case


class Prepared(NamedTuple):
    """A contender with the arrays of one case converted.

    Attributes
    ----------
    forward : callable
        The states; a backend keeps them all, a peer returns the last.
    both : callable
        Forward, then the gradients of the parameters of the loss ⟨g, h_T⟩.
    results : callable
        The last state ``h``, (B, n), and the gradients of the parameters by their names, as NumPy arrays.
    """

    forward: Callable[[], Any]
    both: Callable[[], Any]
    results: Callable[[], dict[str, Array]]


class Contender(NamedTuple):
    """Something to compare.

    Attributes
    ----------
    name : str
    kind : str
        ``backend`` or ``peer``.
    prepare : callable
        Takes a case with a loss on the last state alone.
    counted_as : str
        Its entry in ``arithmetic.COUNTS``.
    layer : str
        ``RNN`` or ``GRU`` if it is not the paper's cell but this layer of PyTorch.
    """

    name: str
    kind: str
    prepare: Callable[[Case], Prepared]
    counted_as: str
    layer: str = ""


def prepare_backend(
    backend: ModuleType, case: Case, *, input_gradient: bool = False, keep_every: int = 1, wait: bool = True
) -> Prepared:
    """A backend made ready: every state kept, no dL/dx unless asked for.

    A call ends with a few numbers brought to the host, which waits for a device; without ``wait`` it may return before
    the work is done, for whoever times with events on the device.
    """
    module = getattr(backend, case.cell)

    def convert(array: Array) -> Array:
        return backend.asarray(array, case.dtype)

    parameters = type(case.parameters)(*map(convert, case.parameters))
    x, h0, g = map(convert, (case.x, case.h0, case.g))

    def forward() -> Any:
        trajectory = module.forward(parameters, x, h0, keep_every=keep_every, **case.arguments)
        if wait:
            backend.to_numpy(trajectory.h[-1])
        return trajectory

    def both() -> Any:
        trajectory = module.forward(parameters, x, h0, keep_every=keep_every, **case.arguments)
        gradients = module.backward(parameters, x, trajectory, g, input_gradient=input_gradient, **case.arguments)
        if wait:
            backend.to_numpy(gradients.diffusion)
        return trajectory, gradients

    def results() -> dict[str, Array]:
        trajectory, gradients = both()
        arrays = {"h": trajectory.h[-1], **gradients.parameters._asdict()}
        return {name: backend.to_numpy(array) for name, array in arrays.items()}

    return Prepared(forward, both, results)


def backend_contender(name: str, backend: ModuleType, cell: str) -> Contender:
    """A backend as a contender."""
    return Contender(name, "backend", lambda case: prepare_backend(backend, case), cell)
