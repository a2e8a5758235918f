"""Structures: what each makes of a case."""

from __future__ import annotations

import numpy as np
import pytest

from antisymrnn_validation.truth.cases import CELLS, Case, random_case
from antisymrnn_validation.truth.layouts import arguments_of
from antisymrnn_validation.truth.structures import GATED, STRUCTURES, structured


def a_case(cell: str = "gated", T: int = 9, **options: object) -> Case:
    return random_case(cell, T, 4, 7, 3, step_size=0.3, diffusion=0.2, seed=1, **options)


def arguments(name: str, seed: int = 0, **options: object) -> dict[str, np.ndarray]:
    return arguments_of(structured(a_case(**options), [name], seed))


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_structure_changes_its_argument_alone(name: str) -> None:
    before = {key: array.copy() for key, array in arguments_of(a_case()).items()}
    after = arguments(name)
    changed = {key for key in before if not np.array_equal(before[key], after[key])}
    expected = {"every array scaled": set(before), "gate": {"V_z", "b_z"}}
    assert changed == expected.get(name, expected.get(name.partition(" ")[0], {name.partition(" ")[0]}))
    assert {key: array.dtype for key, array in after.items()} == {key: a.dtype for key, a in before.items()}
    np.testing.assert_equal(arguments(name), after)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("T", [0, 1])
@pytest.mark.parametrize("last_state_only", [False, True])
def test_a_structure_of_a_short_case_keeps_every_shape(name: str, T: int, last_state_only: bool) -> None:
    before = arguments_of(a_case(T=T, dtype=np.float32, last_state_only=last_state_only))
    after = arguments(name, T=T, dtype=np.float32, last_state_only=last_state_only)
    for key, array in before.items():
        assert (after[key].shape, after[key].dtype) == (array.shape, array.dtype), key


def zero_rows(array: np.ndarray, axis: int) -> int:
    return int((~np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1).any(axis=1)).sum())


PROPERTIES = {
    "W upper triangular": lambda a: not np.tril(a["W"]).any(),
    "W lower triangular": lambda a: not np.triu(a["W"], 1).any(),
    "W antisymmetric": lambda a: (a["W"] == -a["W"].T).all(),
    "W symmetric": lambda a: (a["W"] == a["W"].T).all(),
    "W of rank one": lambda a: np.linalg.matrix_rank(a["W"]) == 1,
    "x one-hot": lambda a: (np.sort(a["x"], axis=-1) == [0, 0, 1]).all(),
    "x of integers": lambda a: (a["x"] == np.round(a["x"])).all(),
    "x of pixels": lambda a: ((a["x"] >= 0) & (a["x"] <= 1)).all(),
    "x constant in time": lambda a: (a["x"] == a["x"][0]).all(),
    "x of equal samples": lambda a: (a["x"] == a["x"][:, :1]).all(),
    "x with zero features": lambda a: 0 < zero_rows(a["x"], 2) < 3,
    "x with zero steps": lambda a: 0 < zero_rows(a["x"], 0) < 9,
    "x with zero samples": lambda a: 0 < zero_rows(a["x"], 1) < 4,
    "x with some entries of 1000": lambda a: (np.abs(a["x"]) > 50).sum() in range(8, 15),
    "h0 of equal samples": lambda a: (a["h0"] == a["h0"][0]).all(),
    "g with zero steps": lambda a: 0 < zero_rows(a["g"], 0) < 10,
    "g with a zero last step": lambda a: zero_rows(a["g"], 0) == 1 and not a["g"][-1].any(),
    "g with a zero first step": lambda a: zero_rows(a["g"], 0) == 1 and not a["g"][0].any(),
    "g of the last step alone": lambda a: zero_rows(a["g"], 0) == 9 and a["g"][-1].all(),
    "g of the first step alone": lambda a: zero_rows(a["g"], 0) == 9 and a["g"][0].all(),
    "g of one step alone": lambda a: zero_rows(a["g"], 0) == 9,
    "g with zero samples": lambda a: 0 < zero_rows(a["g"], 1) < 4,
    "g with zero units": lambda a: 0 < zero_rows(a["g"], 2) < 7,
    "gate equal to candidate": lambda a: a["V_z"] is not a["V"] and np.array_equal(a["V_z"], a["V"]),
    "gate the same objects as candidate": lambda a: a["V_z"] is a["V"] and a["b_z"] is a["b"],
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_the_name_says_what_it_is(name: str) -> None:
    for seed in range(20):
        assert PROPERTIES[name](arguments(name, seed)), seed


@pytest.mark.parametrize("names", [("W symmetric", "x one-hot"), ("g of ones",)])
def test_the_recipe_gives_the_case(names: tuple[str, ...]) -> None:
    case = structured(a_case(), names, 5)
    again = eval(case.recipe, {"random_case": random_case, "structured": structured})
    assert again.key == case.key
    assert again.recipe == case.recipe
    assert case.name == f"{a_case().name}, {', '.join(names)}"


def test_an_unknown_structure_is_refused() -> None:
    with pytest.raises(ValueError, match=r"names: expected some of W upper triangular, .*, got 'W green'"):
        structured(a_case(), ["W green"])
    for name in GATED:
        with pytest.raises(ValueError, match=rf"got '{name}'"):
            structured(a_case(CELLS[0]), [name])
