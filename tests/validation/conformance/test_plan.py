"""The plan that follows from the declared promises, and the table of checks in validation/README.md."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import ModuleType

import pytest

from antisymrnn_validation.conformance import plan
from antisymrnn_validation.conformance.check import CASES, LEVELS, make_check
from antisymrnn_validation.conformance.promises import PROMISES
from antisymrnn_validation.truth.calls import ALL, LACKING
from antisymrnn_validation.truth.cases import CELLS, random_case

README = Path(__file__).parents[3] / "validation/README.md"


def test_every_promise_is_checked_on_the_cases_that_it_declares() -> None:
    for same_bits, name in ((False, "numpy"), (True, "a fast backend")):
        checked = {(check.name, check.case) for check in plan.iter_checks(name)}
        for promise in PROMISES.values():
            for where in promise.on - {"certified"}:
                for case in plan.made_cases(where):
                    wanted = promise.same_bits in (None, same_bits)
                    assert ((promise.name, case.name) in checked) == wanted, (promise.name, where)


def test_every_kind_of_case_and_every_level_is_used() -> None:
    assert set().union(*(promise.on for promise in PROMISES.values())) == set(CASES)
    assert {check.level for check in plan.iter_checks("numba")} == set(LEVELS)


@pytest.mark.parametrize("feature", LACKING)
def test_a_lacking_feature_leaves_out_the_checks_that_need_it_and_no_others(feature: str) -> None:
    for cell, unconstrained, promise in itertools.product(CELLS, (False, True), PROMISES.values()):
        options = {"step_size": 0.3, "diffusion": 0.2, "seed": 1, "unconstrained": unconstrained}
        check = make_check(promise, random_case(cell, 3, 2, 4, 1, **options), features=ALL - {feature})
        needed = feature in {*promise.needs, *["gated"] * (cell == "gated"), *["ablation"] * unconstrained}
        result = check.run(ModuleType("empty"))
        assert ((result.status, result.detail) == ("not applicable", LACKING[feature])) == needed, promise.name


def test_the_table_of_checks_in_the_readme_is_the_declared_one() -> None:
    """After a change of a promise: put what ``plan.markdown()`` returns into validation/README.md."""
    assert f"\n\n{plan.markdown()}\n\n" in README.read_text(encoding="utf-8")
