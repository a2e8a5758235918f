"""Layouts: how the entries of an array may lie in memory without changing a value.

A layout is drawn from :data:`OPTIONS`, for every argument apart: by a generator in the fixed checks, by hypothesis in
the fuzzer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from antisymrnn_ref.contract import Array
from antisymrnn_validation.truth.cases import Case


class Layout(NamedTuple):
    """Where the entries of an array lie.

    Attributes
    ----------
    order : str
        ``C``, ``Fortran``, or ``batch first``: the first two axes exchanged, as in ``batch_first.swapaxes(0, 1)``.
    gap : int
        Unused places after every row, as in the columns of a wider array.
    every : int
        Step of the last axis, in entries.
    backwards : str
        Axes along which the entries lie in reverse: none, ``first``, ``last`` or ``all``.
    offset : str
        Where the first entry lies: ``aligned`` to a cache line, ``odd`` (one entry behind it), or ``unaligned`` (one
        byte behind it).
    repeated : bool
        Whether an axis of equal entries has stride 0, as ``numpy.broadcast_to`` makes it; such an array is read-only.
    read_only : bool
    """

    order: str = "C"
    gap: int = 0
    every: int = 1
    backwards: str = ""
    offset: str = "aligned"
    repeated: bool = False
    read_only: bool = False


OPTIONS: dict[str, tuple[Any, ...]] = {
    "order": ("C", "batch first", "Fortran"),
    "gap": (0, 1, 3),
    "every": (1, 2),
    "backwards": ("", "first", "last", "all"),
    "offset": ("aligned", "odd", "unaligned"),
    "repeated": (False, True),
    "read_only": (False, True),
}
"""What each field of a layout may be; the first is plain C order."""

CACHE_LINE = 64
ALIGNED = 16
"""What an address is a multiple of where NumPy allocates the array."""


def drawn_layout(generator: np.random.Generator) -> Layout:
    """A layout at random, every field apart; half of the fields are plain."""
    picked = {
        name: values[int(generator.integers(len(values))) if generator.integers(2) else 0]
        for name, values in OPTIONS.items()
    }
    return Layout(**picked)


def single_layouts() -> list[Layout]:
    """Every layout that differs from plain C order in one field."""
    return [Layout(**{name: value}) for name, values in OPTIONS.items() for value in values[1:]]


def lay_out(array: Array, layout: Layout) -> Array:
    """A view of memory of its own with the values of an array; unused places are NaN.

    Parameters
    ----------
    array : array
        Of float32 or float64, of any shape.
    layout : Layout

    Returns
    -------
    array
        Of the same shape, dtype and values.
    """
    axes = range(array.ndim)
    order = {
        "C": list(axes),
        "Fortran": list(reversed(axes)),
        "batch first": [1, 0, *axes[2:]] if array.ndim > 1 else list(axes),
    }[layout.order]
    once = array
    if layout.repeated:
        for axis in axes:
            if array.shape[axis] > 1 and (array == array.take([0], axis)).all():
                once = once.take([0], axis)
    strides, step = [0] * array.ndim, array.itemsize
    for place, axis in enumerate(reversed(order)):
        every = layout.every if axis == array.ndim - 1 else 1
        strides[axis] = step * every
        step *= once.shape[axis] * every + (layout.gap if place == 0 else 0)
    start = {"aligned": 0, "odd": array.itemsize, "unaligned": 1}[layout.offset]
    memory = np.full(step + start + CACHE_LINE, 0xFF, np.uint8)  # NaN in every float
    start += -memory.ctypes.data % CACHE_LINE
    view: Array = np.ndarray(once.shape, array.dtype, memory, start, tuple(strides))
    flipped = {"": [], "first": [0], "last": [array.ndim - 1], "all": list(axes)}[layout.backwards]
    view = view[tuple(slice(None, None, -1) if axis in flipped else slice(None) for axis in axes)]
    view[...] = once
    if layout.repeated:
        view = np.broadcast_to(view, array.shape)
    if layout.read_only:
        view.flags.writeable = False
    return view


def laid_out(case: Case, layouts: Mapping[str, Layout]) -> Case:
    """A case whose arrays lie in memory as said; one without a layout is copied in C order.

    Parameters
    ----------
    case : Case
    layouts : mapping of str to Layout
        By argument: the parameters by their names, ``x``, ``h0``, ``g``. An array that is the same object as another
        stays the same object.
    """
    done: dict[int, Array] = {}

    def placed(name: str, array: Array) -> Array:
        if id(array) not in done:
            done[id(array)] = lay_out(array, layouts.get(name, Layout()))
        return done[id(array)]

    leaves = {name: placed(name, leaf) for name, leaf in case.parameters._asdict().items()}
    others = {name: placed(name, getattr(case, name)) for name in ("x", "h0", "g")}
    return case._replace(parameters=type(case.parameters)(**leaves), **others)


def arguments_of(case: Case) -> dict[str, Array]:
    """Every array of a case by its argument's name."""
    return {**case.parameters._asdict(), "x": case.x, "h0": case.h0, "g": case.g}


def described(case: Case) -> str:
    """Shape and strides of every array of a case that does not lie in plain C order, or not aligned."""
    lines = []
    for name, array in arguments_of(case).items():
        words = [f"strides {array.strides}" if not array.flags.c_contiguous else ""]
        if odd := array.ctypes.data % ALIGNED:
            words.append(f"begins {odd} bytes behind a multiple of {ALIGNED}")
        words.append("" if array.flags.writeable else "read-only")
        if said := ", ".join(filter(None, words)):
            lines.append(f"{name} {array.shape} {array.dtype}: {said}")
    return "; ".join(lines) or "all in C order"
