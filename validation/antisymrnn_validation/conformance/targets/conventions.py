"""Declared conventions: a candidate that keeps one is judged as if it kept the paper's."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from antisymrnn_ref.contract import Array, Gradients
from antisymrnn_validation.output.names import did_you_mean, folded
from antisymrnn_validation.truth.calls import OF_FRAMEWORKS, Candidate, features_of
from antisymrnn_validation.truth.cases import CELLS

Leaves = dict[str, Array]

_ACROSS = {"V": "V_z", "b": "b_z", "V_z": "V", "b_z": "b"}


def _exchanged(leaves: Leaves) -> Leaves:
    return {name: leaves[_ACROSS.get(name, name)] for name in leaves} if "V_z" in leaves else leaves


def _transposed(leaves: Leaves) -> Leaves:
    return leaves | {"W": np.ascontiguousarray(leaves["W"].T)}


def _same(leaves: Leaves) -> Leaves:
    return leaves


def _halved(leaves: Leaves) -> Leaves:
    return leaves | {name: leaves[name] / 2 for name in ("b", "b_z") if name in leaves}


def _expanded(leaves: Leaves) -> Leaves:
    return leaves | {"W": leaves["W"] - leaves["W"].T}


CONVENTIONS: dict[str, tuple[Callable[[Leaves], Leaves], Callable[[Leaves], Leaves]]] = {
    "row vectors": (_transposed, _transposed),
    "W stored transposed": (_same, _transposed),
    "gate and candidate exchanged": (_exchanged, _exchanged),
    "bias split in two": (_same, _halved),
    "dW of the strict upper triangle": (_same, _expanded),
    "gradients of the mean loss": (_same, _same),
}
"""By the names of the catalogue: what a candidate gets in place of the parameters, and what its gradients stand for.

A convention that changes a shape (batch first, V transposed, states without h_0) is a line in one's own wrapper.
"""


def declared(candidate: ModuleType, name: str) -> Candidate:
    """A candidate under a convention.

    Parameters
    ----------
    candidate : module
    name : str
        One of :data:`CONVENTIONS`, spelled in any way that is equal after
        :func:`~antisymrnn_validation.output.names.folded`.

    Returns
    -------
    Candidate
        Judged by numbers: the promises about bits and errors are the candidate's own affair.

    Raises
    ------
    ValueError
        If there is no such convention; the message lists all of them, and a name that is close.
    """
    known = {folded(each): each for each in CONVENTIONS}
    asked = folded("row vectors" if folded(name) == folded("row vector") else name)
    if asked not in known:
        hint = did_you_mean(name, CONVENTIONS)
        raise ValueError(f"convention: expected one of {', '.join(CONVENTIONS)}, got {name!r}{hint}")
    given, returned = CONVENTIONS[known[asked]]
    mean = known[asked] == "gradients of the mean loss"
    found = Candidate(f"{candidate.__name__}, {known[asked]}")
    found.features = features_of(candidate) - {"contract", "arrays", "layouts"} - OF_FRAMEWORKS
    if isinstance(candidate, Candidate):
        found.seconds, found.numbers, found.remarks = candidate.seconds, candidate.numbers, candidate.remarks
    found.__dict__.update(asarray=candidate.asarray, to_numpy=candidate.to_numpy)
    for cell in CELLS:
        found.__dict__[cell] = _cell(candidate, cell, given, returned, mean)
    return found


def _cell(
    candidate: ModuleType,
    cell: str,
    given: Callable[[Leaves], Leaves],
    returned: Callable[[Leaves], Leaves],
    mean: bool,
) -> SimpleNamespace:
    module, host, device = getattr(candidate, cell), candidate.to_numpy, candidate.asarray

    def changed(leaves: Any, change: Callable[[Leaves], Leaves]) -> Any:
        arrays = {name: host(leaf) for name, leaf in leaves._asdict().items()}
        return type(leaves)(**{name: device(array, array.dtype) for name, array in change(arrays).items()})

    def times(array: Array | None, B: int) -> Array | None:
        held = None if array is None else host(array)
        return None if held is None else device(held * held.dtype.type(B), held.dtype)

    def forward(parameters: Any, x: Array, h0: Array, **options: Any) -> Any:
        return module.forward(changed(parameters, given), x, h0, **options)

    def backward(parameters: Any, x: Array, trajectory: Any, g: Array, **options: Any) -> Gradients:
        found = module.backward(changed(parameters, given), x, trajectory, g, **options)
        if mean:
            leaves = type(found.parameters)(*(times(leaf, x.shape[1]) for leaf in found.parameters))
            others = (times(array, x.shape[1]) for array in (found.h0, found.step_size, found.diffusion))
            return Gradients(leaves, times(found.x, x.shape[1]), *others)
        whole = returned is _expanded and options.get("unconstrained", False)  # there dW is G itself
        leaves = found.parameters if whole else changed(found.parameters, returned)
        return Gradients(leaves, found.x, found.h0, found.step_size, found.diffusion)

    return SimpleNamespace(forward=forward, backward=backward)
