"""explain: what it prints of a check and of a mistake, the list of both, and names that are not quite right."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from antisymrnn_validation import cli
from antisymrnn_validation.conformance.mistakes.catalogue import CATALOGUE
from antisymrnn_validation.conformance.mistakes.precision import ROUNDINGS
from antisymrnn_validation.conformance.mistakes.source import (
    EDITS,
    Edit,
    applied,
    equation,
    side_by_side,
    specification,
)
from antisymrnn_validation.conformance.promises import PROMISES
from antisymrnn_validation.truth.cases import CELLS

NAMES = [mistake.name for mistake in CATALOGUE]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["explain", *map(str, arguments)])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def test_a_check_is_a_title_and_labelled_lines(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run("Refilled-Arguments")
    assert code == 0
    title, *lines = out.splitlines()
    assert title == "refilled arguments (check)"
    labels = [line[:12].strip() for line in lines if line[:12].strip()]
    assert labels == ["promise", "level", "needs", "cases", "source", "usual cause", "fix"]
    assert " ".join(PROMISES["refilled arguments"].statement.split()) in " ".join(out.split())
    assert max(map(len, lines)) <= 80


def test_a_mistake_shows_the_wrong_line_beside_the_right_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run("missing transpose in the adjoint")
    assert code == 0
    assert out.splitlines() == [
        "missing transpose in the adjoint (known mistake)",
        "what is wrong  The adjoint goes back through M in place of Mᵀ.",
        "equations      (B2)   adjoint_{t−1} = adjoint_t + Mᵀ δ_t + g_{t−1}",
        "               (GB3)  adjoint_{t−1} = adjoint_t + Mᵀ (δ_t + δ_z) + g_{t−1}",
        "in             antisymmetric.py",
        "  right        adjoint = adjoint + delta @ M + cotangent(g, t, T)  # (B2) (B, n)",
        "  wrong        adjoint = adjoint + delta @ M.T + cotangent(g, t, T)",
        "in             gated.py",
        "  right        adjoint = adjoint + (delta + delta_z) @ M + cotangent(g, t, T)  #",
        "                 (GB3) (B, n)",
        "  wrong        adjoint = adjoint + (delta + delta_z) @ M.T + cotangent(g, t, T)",
        "usual cause    The forward pass's product was copied.",
        "fix            Use delta @ M for rows: Mᵀ δ.",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_the_lines_shown_are_those_of_the_specification_and_those_planted(name: str) -> None:
    shown = side_by_side(EDITS[name])
    for cell in CELLS:
        planted = rewritten = specification(cell)
        for edit in EDITS[name]:
            planted = applied(edit, planted) if edit.cell == cell else planted
        for _, right, wrong in (block for block in shown if block.cell == cell):
            assert f"\n{right}\n" in rewritten
            rewritten = rewritten.replace(f"\n{right}\n", f"\n{wrong}\n")
        assert rewritten == planted


def test_a_line_that_the_specification_does_not_have_is_not_shown() -> None:
    with pytest.raises(ValueError, match=r"gated.py: expected 'delta = 0' once, got it 0 times"):
        side_by_side([Edit("gated", "delta = 0", "delta = 1")])


def test_every_mistake_has_its_equations() -> None:
    assert equation("B9") == "dγ = −tr G"
    for mistake in CATALOGUE:
        assert all(equation(tag) for tag in mistake.tags)
    with pytest.raises(ValueError, match="tag: expected the tag of an equation, got 'B99'"):
        equation("B99")


@pytest.mark.parametrize("columns", [80, 100])
def test_without_a_name_everything_is_listed(run: Run, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, _ = run()
    assert code == 0
    lines = out.splitlines()
    assert max(map(len, lines)) <= columns
    checks, mistakes = lines[lines.index("Checks") + 2 :], lines[lines.index("Known mistakes") + 2 :]
    for names, section in ((list(PROMISES), checks), (NAMES, mistakes)):
        assert [line[: len(name)] for name, line in zip(names, section, strict=False)] == names
    assert lines[-1] == f"explain: {len(PROMISES)} checks, {len(NAMES) + len(ROUNDINGS)} known mistakes"
    assert re.search(rf"^accuracy +2 +gradients +{re.escape(PROMISES['accuracy'].statement[:20])}", out, re.M)


def test_the_list_as_json(run: Run, tmp_path: Any) -> None:
    assert run("--json", tmp_path / "all.json")[0] == 0
    document = json.loads((tmp_path / "all.json").read_text())
    assert [check["name"] for check in document["checks"]] == list(PROMISES)
    roundings = [rounding.name for rounding in ROUNDINGS]
    assert [mistake["name"] for mistake in document["mistakes"]] == [*NAMES, *roundings]
    assert run("2 gamma", "--json", tmp_path / "one.json")[0] == 0
    document = json.loads((tmp_path / "one.json").read_text())
    assert document["checks"] == []
    (mistake,) = document["mistakes"]
    assert mistake["name"] == "2γ"
    assert mistake["fix"] == "Subtract γ once."
    assert mistake["equations"] == {"F1": "M = W − Wᵀ − γI", "B9": "dγ = −tr G"}
    (line,) = mistake["lines"]
    assert line["file"] == "antisymmetric.py"
    assert textwrap.dedent(line["right"]) == line["right"]
    assert "- diffusion * identity" in line["right"]
    assert "- 2 * diffusion * identity" in line["wrong"]


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("checkpoint", "; did you mean 'checkpointing'?"),
        ("gama missing", "; did you mean 'γ missing'"),
        ("Missing Transposed in the adjont", "; did you mean 'missing transpose in the adjoint'"),
        ("leaky", "; did you mean 'leaky update'?"),
        ("nothing", "; `antisymrnn explain` lists them"),
        ("", "; `antisymrnn explain` lists them"),
    ],
)
def test_a_name_that_is_not_known(run: Run, typed: str, hint: str) -> None:
    code, out, err = run(typed)
    assert (code, out) == (2, "")
    assert f"NAME: expected a check or a known mistake, got {typed!r}{hint}" in err


def test_checks_and_mistakes_are_searched_together(run: Run) -> None:
    _, _, err = run("column")
    assert "'nan column'" in err
    assert "'samples in columns'" in err


def test_words_need_no_quotes_and_a_claim_is_pointed_to(run: Run) -> None:
    assert run("every", "state")[1].startswith("every state (check)")
    code, _, err = run("frozen-eigenvalues-suffice")
    assert code == 2
    assert "a claim: `antisymrnn verify --only frozen-eigenvalues-suffice -v` shows its evidence" in err


@pytest.mark.parametrize("rounding", ROUNDINGS, ids=lambda rounding: rounding.name)
def test_a_rounding_is_explained_without_a_line_of_code(rounding, run: Run) -> None:
    code, out, _ = run(*rounding.name.split())
    assert code == 0
    assert out.splitlines()[0] == f"{rounding.name} (known mistake)"
    for text in (rounding.statement, rounding.usual_cause, rounding.fix):
        assert text in " ".join(out.split())
    assert "equations" not in out
    assert "\n  right " not in out
