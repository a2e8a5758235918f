"""Cases: what their content key depends on, and caches that use it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from antisymrnn_validation.truth.cases import (
    CELLS,
    Case,
    cached_by_content,
    generator_of,
    random_case,
    real_sized_cases,
)


def a_case(cell: str, **options: object) -> Case:
    return random_case(cell, 3, 2, 4, 1, step_size=0.3, diffusion=0.2, seed=1, **options)


@pytest.mark.parametrize("cell", CELLS)
def test_the_key_depends_on_every_array_and_constant_and_on_no_name(cell: str) -> None:
    case = a_case(cell)
    changed = [case._replace(**{name: getattr(case, name) + 1}) for name in ("x", "h0", "g", "step_size", "diffusion")]
    for name, leaf in case.parameters._asdict().items():
        changed.append(case._replace(parameters=case.parameters._replace(**{name: leaf + 1})))
    changed.append(case._replace(unconstrained=True))
    changed.append(case._replace(cell=CELLS[1 - CELLS.index(cell)]))
    changed.append(case._replace(x=case.x.astype(np.float32)))
    changed.append(case._replace(x=case.x.reshape(3, 1, 2)))
    keys = {case.key, *(each.key for each in changed)}
    assert len(keys) == 1 + len(changed)
    same = case._replace(name="another", recipe="", step_size=np.float64(case.step_size), x=np.asfortranarray(case.x))
    assert same.key == case.key
    assert generator_of(same).integers(2**60) == generator_of(case).integers(2**60)


def test_a_cache_depends_on_the_content_and_the_other_arguments() -> None:
    calls = []

    @cached_by_content(maxsize=8)
    def noted(case: Case, k: int) -> int:
        calls.append((case.name, k))
        return k

    case = a_case("gated")
    assert [noted(case, 1), noted(case._replace(name="another"), 1), noted(case, 2)] == [1, 1, 2]
    assert noted(case._replace(h0=2 * case.h0), 1) == 1
    assert len(calls) == 3


def test_real_sizes_are_large_together() -> None:
    every = real_sized_cases()
    sizes = [(*case.x.shape[:2], case.h0.shape[1], case.x.shape[2]) for case in every]
    assert {(case.cell, case.dtype.name) for case in every} == set(itertools.product(CELLS, ("float32", "float64")))
    assert {B for _, B, _, _ in sizes} >= {32, 64, 128}
    assert {n for _, _, n, _ in sizes} >= {48, 64, 128, 256}
    assert {m for *_, m in sizes} >= {28, 96, 98}
    assert any(all(size % 16 == 0 for size in case) for case in sizes)
    assert any(T >= 1100 and n >= 8 for T, _, n, _ in sizes)
    assert any(T >= 256 and B >= 16 and n >= 64 for T, B, n, _ in sizes)
    over = {
        case.dtype.name for case, (T, B, n, _) in zip(every, sizes, strict=True) if T * B * n * case.x.itemsize > 2**21
    }
    assert over == {"float32", "float64"}
    assert {case.unconstrained for case in every} == {True, False}
    assert {case.g.ndim for case in every} == {2, 3}
    few = real_sized_cases(quick=True)
    assert [case.key for case in few] == [case.key for case in every[: len(few)]]
    assert len(few) < len(every)
