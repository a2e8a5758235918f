"""What is compared: backends by name and peers, each made ready for one case, and the case that is timed."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from antisymrnn_ref import initialization
from antisymrnn_ref.contract import Array
from antisymrnn_validation.comparison.workload import Shape
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


def timed_case(cell: str, shape: Shape, dtype: Any) -> Case:
    """The case that is timed: the paper's initialisation, ε = γ = 0.01, h0 = 0, random x and g, a last-state loss."""
    generator = np.random.default_rng(0)
    T, B, m, n = shape
    draw = initialization.gated_parameters if cell == "gated" else initialization.parameters
    parameters = draw(generator, n, m, sigma_w=1.0, dtype=dtype)
    biases = {name: generator.standard_normal(n).astype(dtype) for name in parameters._fields if name.startswith("b")}
    x, g = (generator.standard_normal(sizes).astype(dtype) for sizes in ((T, B, m), (B, n)))
    name = f"{cell} {shape} {np.dtype(dtype)}"
    return Case(name, cell, parameters._replace(**biases), x, np.zeros((B, n), dtype), g, 0.01, 0.01)


def everything_case(case: Case) -> Case:
    """The same with a random initial state and a random cotangent on every state."""
    generator = np.random.default_rng(1)
    h0, g = (
        generator.standard_normal(sizes).astype(case.dtype)
        for sizes in (case.h0.shape, (len(case.x) + 1, *case.h0.shape))
    )
    return case._replace(name=f"{case.name}, everything", h0=h0, g=g)


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
