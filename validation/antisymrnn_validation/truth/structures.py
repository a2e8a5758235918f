"""Structures: what the values of a case may have in common, which values in generic position never have.

Code that skips zeros, caches equal inputs, reads one triangle of W or clips what is large is right in generic position.
A structure changes a case; several may be applied one after another.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from antisymrnn_ref.contract import Array, GatedParameters
from antisymrnn_validation.truth.cases import Case

Structure = Callable[[Array, np.random.Generator], Array]
"""Takes a copy of an array and a generator, and returns the array in its place."""


def _chosen(generator: np.random.Generator, size: int) -> Array:
    """About half of the indices of an axis, at least one and, but for an axis of one, not all."""
    count = max(1, min(size - 1, int(generator.integers(size + 1)))) if size else 0
    return generator.choice(size, count, replace=False)


def _zero(axis: int, index: Any) -> Structure:
    """Zeros at an index of an axis; ``index`` may be a function of generator and size."""

    def apply(array: Array, generator: np.random.Generator) -> Array:
        if array.ndim > axis and array.shape[axis]:
            at = index(generator, array.shape[axis]) if callable(index) else index
            np.moveaxis(array, axis, 0)[at] = 0
        return array

    return apply


def _first_along(axis: int) -> Structure:
    """The first entry of an axis in place of every other."""

    def apply(array: Array, _: np.random.Generator) -> Array:
        if array.ndim > axis and array.shape[axis]:
            array[...] = array.take([0], axis)
        return array

    return apply


def _one_hot(array: Array, generator: np.random.Generator) -> Array:
    hot = generator.integers(array.shape[-1], size=array.shape[:-1])
    array[...] = np.arange(array.shape[-1]) == hot[..., None]
    return array


def _some(factor: float) -> Structure:
    """One entry in eight, and at least one, ``factor`` times as large."""

    def apply(array: Array, generator: np.random.Generator) -> Array:
        if array.size:
            flat = array.reshape(-1)
            flat[generator.choice(array.size, -(-array.size // 8), replace=False)] *= array.dtype.type(factor)
        return array

    return apply


def _alone(axis_index: Callable[[np.random.Generator, int], int]) -> Structure:
    """One entry of the first axis, zeros at every other."""

    def apply(array: Array, generator: np.random.Generator) -> Array:
        if len(array):
            at = axis_index(generator, len(array))
            kept = array[at].copy()
            array[...] = 0
            array[at] = kept
        return array

    return apply


def _any(generator: np.random.Generator, size: int) -> int:
    return int(generator.integers(size))


BY_ARGUMENT: dict[str, dict[str, Structure]] = {
    "W": {
        "upper triangular": lambda W, _: np.triu(W, 1),
        "lower triangular": lambda W, _: np.tril(W),
        "antisymmetric": lambda W, _: W - W.T,
        "symmetric": lambda W, _: W + W.T,
        "zero": lambda W, _: np.zeros_like(W),
        "identity": lambda W, _: np.eye(len(W), dtype=W.dtype),
        "of rank one": lambda W, _: np.outer(W[0], W[:, 0]).astype(W.dtype),
        "with a zero row": _zero(0, _chosen),
        "of eighths": lambda W, _: np.round(8 * W) / 8,
    },
    "V": {
        "zero": lambda V, _: np.zeros_like(V),
        "with zero columns": _zero(1, _chosen),
        "with equal rows": _first_along(0),
    },
    "b": {"zero": lambda b, _: np.zeros_like(b), "of equal entries": _first_along(0), "large": lambda b, _: 6 * b},
    "x": {
        "zero": lambda x, _: np.zeros_like(x),
        "one-hot": _one_hot,
        "of integers": lambda x, _: np.round(3 * x),
        "of pixels": lambda x, _: np.clip(x, 0, 1),
        "constant in time": _first_along(0),
        "of equal samples": _first_along(1),
        "with zero features": _zero(2, _chosen),
        "with zero steps": _zero(0, _chosen),
        "with zero samples": _zero(1, _chosen),
        "zero from a step on": lambda x, generator: _zero(0, slice(_any(generator, len(x) + 1), None))(x, generator),
        "zero up to a step": lambda x, generator: _zero(0, slice(None, _any(generator, len(x) + 1)))(x, generator),
        "with some entries of 30": _some(30.0),
        "with some entries of 1000": _some(1000.0),
        "with some entries of 1e-4": _some(1e-4),
    },
    "h0": {
        "zero": lambda h0, _: np.zeros_like(h0),
        "of equal samples": _first_along(0),
        "with zero samples": _zero(0, _chosen),
        "with zero units": _zero(1, _chosen),
        "large": lambda h0, _: 20 * h0,
        "with some entries of 1000": _some(1000.0),
    },
    "g": {
        "with zero steps": _zero(0, _chosen),
        "with a zero last step": _zero(0, -1),
        "with a zero first step": _zero(0, 0),
        "zero from a step on": lambda g, generator: _zero(0, slice(_any(generator, len(g)), None))(g, generator),
        "of the last step alone": _alone(lambda _, size: size - 1),
        "of one step alone": _alone(_any),
        "of the first step alone": _alone(lambda *_: 0),
        "with zero samples": _zero(-2, _chosen),
        "with zero units": _zero(-1, _chosen),
        "zero": lambda g, _: np.zeros_like(g),
        "of ones": lambda g, _: np.ones_like(g),
        "constant in time": _first_along(0),
        "with some entries of 1000": _some(1000.0),
        "with some entries of 1e-6": _some(1e-6),
    },
    "V_z": {"zero": lambda V_z, _: np.zeros_like(V_z), "with equal rows": _first_along(0)},
    "b_z": {
        "zero": lambda b_z, _: np.zeros_like(b_z),
        "of −5": lambda b_z, _: np.full_like(b_z, -5),
        "of 5": lambda b_z, _: np.full_like(b_z, 5),
    },
}
"""Structures by argument and by what is said of it."""


def _each_scaled(case: Case, generator: np.random.Generator) -> Case:
    """Every array by a power of ten of its own."""

    def scaled(array: Array) -> Array:
        return array * case.dtype.type(10 ** generator.uniform(-4, 2))

    parameters = type(case.parameters)(*map(scaled, case.parameters))
    return case._replace(parameters=parameters, x=scaled(case.x), h0=scaled(case.h0), g=scaled(case.g))


def _gate_as_candidate(*, same_object: bool) -> Callable[[Case, np.random.Generator], Case]:
    """V_z = V and b_z = b, as arrays of their own or as the same objects."""

    def apply(case: Case, _: np.random.Generator) -> Case:
        if not isinstance(case.parameters, GatedParameters):
            return case
        V, b = case.parameters.V, case.parameters.b
        gate = {"V_z": V, "b_z": b} if same_object else {"V_z": V.copy(), "b_z": b.copy()}
        return case._replace(parameters=case.parameters._replace(**gate))

    return apply


def _of_argument(name: str, structure: Structure) -> Callable[[Case, np.random.Generator], Case]:
    def apply(case: Case, generator: np.random.Generator) -> Case:
        if name in ("x", "h0", "g"):
            return case._replace(**{name: structure(getattr(case, name).copy(), generator)})
        changed = structure(getattr(case.parameters, name).copy(), generator)
        return case._replace(parameters=case.parameters._replace(**{name: changed}))

    return apply


STRUCTURES: dict[str, Callable[[Case, np.random.Generator], Case]] = {
    **{
        f"{argument} {said}": _of_argument(argument, structure)
        for argument, structures in BY_ARGUMENT.items()
        for said, structure in structures.items()
    },
    "every array scaled": _each_scaled,
    "gate equal to candidate": _gate_as_candidate(same_object=False),
    "gate the same objects as candidate": _gate_as_candidate(same_object=True),
}
"""Every structure by name; those of the gate's arrays are for the gated cell alone."""

GATED = frozenset(name for name in STRUCTURES if name.startswith(("V_z", "b_z", "gate")))
"""Names of structures that only the gated cell has."""


def structured(case: Case, names: Sequence[str], seed: int = 0) -> Case:
    """A case with structures applied, one after another.

    Parameters
    ----------
    case : Case
    names : sequence of str
        Keys of :data:`STRUCTURES`.
    seed : int
        Of what a structure chooses at random.

    Raises
    ------
    ValueError
        For an unknown name, or one of a gate for the ungated cell.
    """
    for name in names:
        if name not in STRUCTURES or (name in GATED and case.cell != "gated"):
            known = ", ".join(name for name in STRUCTURES if case.cell == "gated" or name not in GATED)
            raise ValueError(f"names: expected some of {known}, got {name!r}")
        case = STRUCTURES[name](case, np.random.default_rng((seed, zlib.crc32(name.encode()))))
    recipe = f"structured({case.recipe}, {tuple(names)!r}, {seed})" if case.recipe else ""
    return case._replace(name=f"{case.name}, {', '.join(names)}" if names else case.name, recipe=recipe)
