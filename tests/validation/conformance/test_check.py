"""The registry of promises: a declaration that is wrong fails when its module is imported."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from antisymrnn_validation.conformance import check
from antisymrnn_validation.conformance.check import declared_in

RIGHT = {
    "name": '"kept word"',
    "level": "4",
    "source": '"the contract"',
    "usual_cause": '"haste"',
    "fix": '"Keep it."',
}
FUNCTION = 'def kept_word(backend, case):\n    """A word is kept."""\n'


def imported(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of promises with this text, imported as those of the judge are, with a registry of its own."""
    (folder / "my_promises.py").write_text(f"from antisymrnn_validation.conformance.check import promise\n{text}")
    monkeypatch.setattr(check, "_declared", dict(check._declared))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "my_promises", raising=False)
    import my_promises

    return my_promises


def declaration(function: str = FUNCTION, **changes: str) -> str:
    arguments = ", ".join(f"{name}={value}" for name, value in (RIGHT | changes).items())
    return f"@promise({arguments})\n{function}"


def test_a_right_declaration_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = imported(tmp_path, declaration(needs='{"gradients"}') + "def _private(): ...\n", monkeypatch)
    found = declared_in(module)
    assert list(found) == ["kept word"]
    assert found["kept word"].statement == "A word is kept."
    assert found["kept word"].needs == {"gradients"}
    assert found["kept word"].on == {"generic"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (declaration(needs='{"gradient"}'), "'kept word': needs: expected some of .*, got 'gradient'$"),
        (declaration(on='{"somewhere"}'), "'kept word': on: expected some of .*, got 'somewhere'$"),
        (declaration(on="frozenset()"), "'kept word': on: expected some of .*, got none$"),
        (declaration(level="6"), "'kept word': level: expected one of 0, 1, 2, 3, 4, 5, got 6$"),
        (declaration() + declaration(), "'kept word': declared twice$"),
        (
            declaration(name='"accuracy"', function=FUNCTION.replace("kept_word", "accuracy")),
            "'accuracy': declared twice$",
        ),
        (declaration(name='"kept words"'), "'kept words': expected a function of this name, got kept_word$"),
        *(
            (declaration(**{text: '" "'}), f"'kept word': {text}: expected a text, got none$")
            for text in ("source", "usual_cause", "fix")
        ),
        (
            declaration(function="def kept_word(backend, case): ...\n"),
            "'kept word': docstring: expected a text, got none$",
        ),
    ],
)
def test_a_wrong_declaration_fails_at_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    import antisymrnn_validation.conformance.promises  # noqa: F401 (those of the judge are declared)

    with pytest.raises(ValueError, match=said):
        imported(tmp_path, text, monkeypatch)
    assert "my_promises" not in sys.modules


@pytest.mark.parametrize("left_out", ["level", "source", "usual_cause", "fix"])
def test_nothing_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_out: str) -> None:
    arguments = ", ".join(f"{name}={value}" for name, value in RIGHT.items() if name != left_out)
    with pytest.raises(TypeError, match=left_out):
        imported(tmp_path, f"@promise({arguments})\n{FUNCTION}", monkeypatch)


def test_a_public_function_that_is_not_declared_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = imported(tmp_path, declaration() + "def forgotten(backend, case): ...\n", monkeypatch)
    with pytest.raises(ValueError, match=r"^my_promises.forgotten: expected @promise, or a name that begins with _$"):
        declared_in(module)
