"""The plan that follows from the declared promises, and the table of checks in validation/README.md."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import ModuleType

import pytest

from antisymrnn_validation.conformance import plan
from antisymrnn_validation.conformance.check import CASES, LEVELS, make_check
from antisymrnn_validation.conformance.promises import PROMISES
from antisymrnn_validation.truth.calls import ALL, LACKING, OF_FRAMEWORKS
from antisymrnn_validation.truth.cases import CELLS, random_case

README = Path(__file__).parents[3] / "validation/README.md"


def test_every_promise_is_checked_on_the_cases_that_it_declares() -> None:
    frameworks = {"torch": OF_FRAMEWORKS - {"jax"}, "jax": OF_FRAMEWORKS - {"torch"}}
    backends = [(False, "numpy", ALL), (True, "a fast backend", ALL)]
    for same_bits, name, features in [*backends, *((False, *peer) for peer in frameworks.items())]:
        checked = {(check.name, check.case) for check in plan.iter_checks(name, features=features)}
        for promise in PROMISES.values():
            for where in promise.on - {"certified"}:
                for case in plan.made_cases(where):
                    wanted = promise.same_bits in (None, same_bits) and promise.needs & OF_FRAMEWORKS <= features
                    assert ((promise.name, case.name) in checked) == wanted, (promise.name, where)


def test_every_kind_of_case_and_every_level_is_used() -> None:
    assert set().union(*(promise.on for promise in PROMISES.values())) == set(CASES)
    assert {check.level for check in plan.iter_checks("numba")} == set(LEVELS)


@pytest.mark.parametrize("feature", LACKING)
def test_a_lacking_feature_leaves_out_the_checks_that_need_it_and_no_others(feature: str) -> None:
    for cell, unconstrained, promise in itertools.product(CELLS, (False, True), PROMISES.values()):
        options = {"step_size": 0.3, "diffusion": 0.2, "seed": 1, "unconstrained": unconstrained}
        check = make_check(promise, random_case(cell, 3, 2, 4, 1, **options), features=frozenset(LACKING) - {feature})
        needed = feature in {*promise.needs, *["gated"] * (cell == "gated"), *["ablation"] * unconstrained}
        result = check.run(ModuleType("empty"))
        assert ((result.status, result.detail) == ("not applicable", LACKING[feature])) == needed, promise.name


def test_the_table_of_checks_in_the_readme_is_the_declared_one() -> None:
    """After a change of a promise: put what ``plan.markdown()`` returns into validation/README.md."""
    assert f"\n\n{plan.markdown()}\n\n" in README.read_text(encoding="utf-8")


def test_the_kinds_of_cases_are_what_they_are_called() -> None:
    made = {where: plan.made_cases(where) for where in CASES if where != "certified"}
    of_one = ("conversion", "processes")
    assert all({case.cell for case in cases} == set(CELLS) for where, cases in made.items() if where not in of_one)
    assert all(case.unconstrained for case in made["long"])
    options = {(case.unconstrained, case.g.ndim) for case in made["options"]}
    assert options == {(True, 2), (True, 3), (False, 2)}  # a cotangent of the last state alone is (B, n)
    corners = {(*case.x.shape[:2], len(case.parameters.b), case.x.shape[2]) for case in made["corners"]}
    assert corners == {(0, 3, 5, 2), (1, 3, 5, 2), (6, 1, 5, 2), (6, 3, 1, 2), (6, 3, 5, 1)}
    assert {case.dtype.name for case in made["generic"]} == {"float64", "float32"}
    assert {where for name in ("neighbours", "neighbours to rounding") for where in PROMISES[name].on} == {
        "generic",
        "wide",
    }


@pytest.mark.parametrize(
    ("sizes", "options", "keep_every", "level"),
    [
        ((3, 2, 4, 1), {}, 1, 2),
        ((3, 2, 4, 1), {}, 2, 3),
        ((3, 2, 4, 1), {"dtype": "float32"}, 1, 3),
        ((3, 2, 4, 1), {"unconstrained": True}, 1, 3),
        ((1, 2, 4, 1), {}, 1, 4),
        ((3, 1, 4, 1), {}, 1, 4),
        ((3, 2, 1, 1), {}, 1, 4),
    ],
)
def test_what_is_crossed_stands_at_3_and_corners_at_4(sizes, options, keep_every, level) -> None:
    case = random_case("antisymmetric", *sizes, step_size=0.3, diffusion=0.2, seed=1, **options)
    assert plan.certify("x", case, keep_every=keep_every).level == level


def test_drawn_checks_are_of_the_dtypes_that_are_asked_for() -> None:
    every = plan.drawn_checks("x", 40)
    chosen = plan.drawn_checks("x", 40, dtypes=["float32"])
    assert 0 < len(chosen) < len(every)
    assert all(check.case.endswith("float32") for check in chosen)
