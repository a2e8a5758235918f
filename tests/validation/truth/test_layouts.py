"""Layouts: other places in memory, the same values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from antisymrnn_validation.truth.cases import CELLS, Case, random_case
from antisymrnn_validation.truth.layouts import (
    CACHE_LINE,
    OPTIONS,
    Layout,
    arguments_of,
    described,
    drawn_layout,
    laid_out,
    lay_out,
    single_layouts,
)

EVERY = [Layout(*values) for values in itertools.product(*OPTIONS.values())]


def a_case(cell: str = "antisymmetric", **options: object) -> Case:
    return random_case(cell, 5, 4, 7, 3, step_size=0.3, diffusion=0.2, seed=1, **options)


@pytest.mark.parametrize("shape", [(5,), (4, 3), (6, 4, 3), (0, 4, 3), (1, 1, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_layout_keeps_values_shape_and_dtype(shape: tuple[int, ...], dtype: type) -> None:
    array = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    equal = np.full(shape, dtype(0.5))
    for layout in EVERY:
        for source in (array, equal):
            view = lay_out(source, layout)
            assert view.dtype == dtype
            np.testing.assert_array_equal(view, source, strict=True)
            assert not np.shares_memory(view, source)


@pytest.mark.parametrize(
    ("layout", "strides"),
    [
        (Layout(), (96, 24, 8)),
        (Layout(order="batch first"), (24, 120, 8)),
        (Layout(order="Fortran"), (8, 40, 160)),
        (Layout(gap=3), (192, 48, 8)),
        (Layout(every=2), (192, 48, 16)),
        (Layout(backwards="first"), (-96, 24, 8)),
        (Layout(backwards="last"), (96, 24, -8)),
        (Layout(backwards="all"), (-96, -24, -8)),
        (Layout(order="batch first", gap=1, backwards="first"), (-32, 160, 8)),
    ],
)
def test_a_layout_is_one_of_strides(layout: Layout, strides: tuple[int, ...]) -> None:
    assert lay_out(np.arange(60.0).reshape(5, 4, 3), layout).strides == strides


@pytest.mark.parametrize(("offset", "address"), [("aligned", 0), ("odd", 8), ("unaligned", 1)])
def test_an_offset_is_one_of_the_address(offset: str, address: int) -> None:
    view = lay_out(np.arange(6.0).reshape(2, 3), Layout(offset=offset))
    assert view.ctypes.data % CACHE_LINE == address
    assert view.flags.aligned == (offset != "unaligned")


def test_unused_places_hold_nan() -> None:
    view = lay_out(np.ones((2, 3)), Layout(gap=2))
    wide = np.lib.stride_tricks.as_strided(view, (2, 5))
    assert np.isnan(wide[:, 3:]).all()


def test_equal_entries_may_be_one_entry() -> None:
    array = np.broadcast_to(np.arange(3.0), (5, 4, 3))
    view = lay_out(np.array(array), Layout(repeated=True))
    assert view.strides == (0, 0, 8)
    assert not view.flags.writeable
    assert 0 not in lay_out(np.arange(60.0).reshape(5, 4, 3), Layout(repeated=True)).strides


@pytest.mark.parametrize("cell", CELLS)
def test_a_case_laid_out_is_the_same_case(cell: str) -> None:
    case, generator = a_case(cell), np.random.default_rng(2)
    for _ in range(20):
        assert laid_out(case, {name: drawn_layout(generator) for name in arguments_of(case)}).key == case.key


def test_one_object_stays_one() -> None:
    case = a_case("gated")
    shared = case._replace(parameters=case.parameters._replace(V_z=case.parameters.V))
    parameters = laid_out(shared, {"V": Layout(gap=1)}).parameters
    assert parameters.V_z is parameters.V
    parameters = laid_out(case, {}).parameters
    assert parameters.V_z is not parameters.V


def test_every_single_layout_differs_from_plain_order() -> None:
    singles = single_layouts()
    assert len(set(singles)) == len(singles) == sum(len(values) - 1 for values in OPTIONS.values())
    case = a_case(dtype=np.float32)._replace(x=np.ones((5, 4, 3), np.float32))
    assert described(laid_out(case, {})) == "all in C order"
    for layout in singles:
        assert described(laid_out(case, {"x": layout})).startswith("x (5, 4, 3) float32: "), layout


def test_what_is_said_of_a_layout() -> None:
    case = laid_out(a_case(), {"x": Layout(order="batch first"), "g": Layout(offset="unaligned", read_only=True)})
    assert described(case) == (
        "x (5, 4, 3) float64: strides (24, 120, 8); "
        "g (6, 4, 7) float64: begins 1 bytes behind a multiple of 16, read-only"
    )
