"""Files are strict JSON, whole or not there."""

import errno
import json
import math
import os
import stat
from enum import StrEnum
from fractions import Fraction

import numpy as np
import pytest

from antisymrnn_validation.output import files


class Colour(StrEnum):
    RED = "red"


def strictly(text):
    """Parse JSON, and refuse the tokens that JSON does not have."""

    def refuse(token):
        raise AssertionError(f"not JSON: {token}")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "report.json"


def test_json_takes_what_checks_produce(target):
    document = {
        "floats": [1.5, math.nan, math.inf, -math.inf, -0.0],
        "numpy": [np.float64(0.1), np.float32(0.5), np.int64(3), np.bool_(True), np.array([[1.0, math.nan]])],
        "exact": [Fraction(1, 3), 10**30, Colour.RED, None, False],
        3: (1, "ε γ"),
        "text": 'quote " newline \n lone surrogate \udc80',
    }
    files.write_json(target, document)
    assert strictly(target.read_text(encoding="utf-8")) == {
        "floats": [1.5, "nan", "inf", "-inf", -0.0],
        "numpy": [0.1, 0.5, 3, True, [[1.0, "nan"]]],
        "exact": [1 / 3, 10**30, "red", None, False],
        "3": [1, "ε γ"],
        "text": document["text"],
    }


def test_floats_come_back_to_the_bit(target):
    values = [*np.random.default_rng(0).standard_normal(100).tolist(), 5e-324, 1.7976931348623157e308]
    files.write_json(target, {"values": values})
    assert strictly(target.read_text())["values"] == values


@pytest.mark.parametrize("call", [files.check_writable, lambda path: files.write_json(path, {})])
def test_paths_that_cannot_be_written(tmp_path, call):
    (tmp_path / "file").write_text("kept")
    os.mkfifo(tmp_path / "pipe")
    for path, why in [
        (tmp_path / "missing" / "report.json", "missing is not an existing directory"),
        (tmp_path / "file" / "report.json", "file is not an existing directory"),
        (tmp_path, "it is not a regular file"),
        (tmp_path / "pipe", "it is not a regular file"),
        (tmp_path / ("a" * 300), "File name too long"),
    ]:
        with pytest.raises(files.ReportError) as caught:
            call(path)
        assert str(caught.value).startswith(f"{path}: cannot be written: ")
        assert why in str(caught.value)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "pipe"]
    assert (tmp_path / "file").read_text() == "kept"


def test_a_device_is_not_replaced():
    before = os.stat(os.devnull)
    with pytest.raises(files.ReportError, match="not a regular file"):
        files.check_writable(files.Path(os.devnull))
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    assert os.stat(os.devnull).st_ino == before.st_ino


def test_checking_a_path_leaves_nothing_and_changes_nothing(tmp_path, target):
    files.check_writable(target)
    assert list(tmp_path.iterdir()) == []
    target.write_text("old")
    files.check_writable(target)
    assert target.read_text() == "old"


def test_a_link_keeps_pointing_at_the_report(tmp_path, target):
    (tmp_path / "link.json").symlink_to(target)
    files.write_json(tmp_path / "link.json", {"a": 1})
    assert (tmp_path / "link.json").is_symlink()
    assert strictly(target.read_text()) == {"a": 1}


def test_a_report_has_the_permissions_of_any_new_file(tmp_path, target):
    (tmp_path / "other").touch()
    files.write_json(target, {})
    assert target.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "No space left on device"), files.ReportError),
    ],
)
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_whole_or_not_at_all(tmp_path, target, monkeypatch, problem, expected, where):
    """Whatever goes wrong while a report is written, the old one is intact and nothing else is left."""
    target.write_text("old")

    def failing(*_):
        raise problem

    monkeypatch.setattr(os, where, failing)
    with pytest.raises(expected):
        files.write_json(target, {"new": 1})
    monkeypatch.undo()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_what_json_cannot_hold_does_not_touch_the_file(tmp_path, target):
    target.write_text("old")
    cycle = []
    cycle.append(cycle)
    with pytest.raises(RecursionError):
        files.write_json(target, {"cycle": cycle})
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    files.write_folder(tmp_path / "whole", {"a": b"1", "b": b"2"})
    assert {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()} == {"a": b"1", "b": b"2"}
    with pytest.raises(files.ReportError, match="whole: cannot be written"):
        files.write_folder(tmp_path / "whole", {"a": b"3"})
    write = files.write_bytes

    def full(path, content):
        if path.name == "b":
            raise files.ReportError("no space left")
        write(path, content)

    monkeypatch.setattr(files, "write_bytes", full)
    with pytest.raises(files.ReportError, match="no space left"):
        files.write_folder(tmp_path / "other", {"a": b"1", "b": b"2"})
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
    assert (tmp_path / "whole" / "a").read_bytes() == b"1"
