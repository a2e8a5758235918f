"""Cases: what their content key depends on, and caches that use it."""

from __future__ import annotations

import numpy as np
import pytest

from antisymrnn_validation.truth.cases import CELLS, Case, cached_by_content, generator_of, random_case


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
