"""Names are found as people type them, and a near match is never silly."""

from __future__ import annotations

import pytest

from antisymrnn_validation.conformance.mistakes.catalogue import CATALOGUE
from antisymrnn_validation.conformance.promises import PROMISES
from antisymrnn_validation.experiments.configuration import CHOICES, SYNONYMS, Configuration
from antisymrnn_validation.experiments.tasks import TASKS
from antisymrnn_validation.output.names import did_you_mean, folded, near, within

FIELDS = Configuration._fields


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("gamma missing", "γ missing"),
        ("GAMMA-missing", "γ missing"),
        ("2 gamma", "2γ"),
        ("d epsilon missing", "dε missing"),
        ("depsilon_missing", "dε missing"),
        ("sigma in place of tanh", "σ in place of tanh"),
        ("epsilon missing in delta_z", "ε missing in δ_z"),
        ("W - WT in the ablation too", "W − Wᵀ in the ablation too"),
        ("W - W.T in the ablation too", "W − Wᵀ in the ablation too"),
        ("w - w^T in the ablation too", "W − Wᵀ in the ablation too"),
        ("W - W transpose in the ablation too", "W − Wᵀ in the ablation too"),
        ("(W - W^T)/2", "(W − Wᵀ) / 2"),
        ("1 - s in place of 1 - s^2", "1 − s in place of 1 − s²"),
        ("h0 ignored", "h_0 ignored"),
        ("grus update", "GRU's update"),
        ("Épsilon missing in delta", "ε missing in δ"),
    ],
)
def test_a_name_can_be_typed_in_ascii(typed: str, name: str) -> None:
    assert folded(typed) == folded(name)
    assert folded(name).isascii()


def test_no_two_names_are_equal_when_folded() -> None:
    names = [*PROMISES, *(mistake.name for mistake in CATALOGUE)]
    assert len({folded(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("asked", "known", "found"),
    [
        ("lr", FIELDS, "learning_rate"),
        ("learning-rat", FIELDS, "learning_rate"),
        ("Hidden Size", FIELDS, "units"),
        ("gamma", FIELDS, "diffusion"),
        ("γ", FIELDS, "diffusion"),
        ("epsilon", FIELDS, "step_size"),
        ("eps", FIELDS, "step_size"),
        ("batch_size", FIELDS, "batch"),
        ("layers", FIELDS, None),
        ("full", ("learning_rate", "clip"), None),
        ("float16", CHOICES["dtype"], None),
        ("float", CHOICES["dtype"], None),
        ("double", CHOICES["dtype"], None),
        ("Float32", CHOICES["dtype"], "float32"),
        ("rmsprop", CHOICES["optimizer"], None),
        ("adamw", CHOICES["optimizer"], "adam"),
        ("mnsit", TASKS, "mnist"),
        ("imdb", TASKS, None),
        ("sdg", CHOICES["optimizer"], "sgd"),
        ("cos", CHOICES["schedule"], "cosine"),
        ("", TASKS, None),
        ("?", TASKS, None),
    ],
)
def test_only_what_is_close_is_suggested(asked: str, known: tuple[str, ...], found: str | None) -> None:
    assert near(asked, known, synonyms=SYNONYMS) == ([found] if found else [])


def test_synonyms_are_of_fields() -> None:
    assert set(SYNONYMS.values()) <= set(FIELDS)
    words = [folded(word) for word in SYNONYMS]
    assert len(set(words)) == len(words)
    assert not set(words) & {folded(field) for field in FIELDS}


def test_a_word_finds_the_names_that_have_it() -> None:
    names = [mistake.name for mistake in CATALOGUE]
    assert near("transpose in the adjoint", names) == ["missing transpose in the adjoint"]
    assert "γ missing" in near("gama", names, most=len(names))
    assert near("leaky", names, most=5) == ["leaky update"]


def test_the_end_of_a_message() -> None:
    assert did_you_mean("a1", ["a2"]) == ""
    assert did_you_mean("sdgg", ["sgd", "sgdg"], most=3) == "; did you mean 'sgdg'?"
    assert did_you_mean("numb", ["numba", "numbb"], most=3) == "; did you mean 'numba' or 'numbb'?"


def test_a_text_within_a_name_may_have_other_hyphens() -> None:
    assert within("W_diff", "w-diff-is-euler-stable")
    assert within("nan column", "NaN-column: a case")
    assert not within("wdiff", "w-diff-is-euler-stable")
