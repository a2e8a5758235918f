"""Tables keep every word and carry no control codes in a pipe; files are strict JSON, whole or not there."""

import errno
import json
import math
import os
import stat
from enum import StrEnum
from fractions import Fraction

import numpy as np
import pytest

from antisymrnn_validation.comparison import contest, targets
from antisymrnn_validation.comparison.contenders import Contender
from antisymrnn_validation.comparison.timing import Sample
from antisymrnn_validation.comparison.workload import Shape
from antisymrnn_validation.output import files, terminal
from antisymrnn_validation.reports import tables


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


def test_plain_table_is_aligned_and_keeps_long_lines(capsys):
    long = "an evidence sentence " * 20
    table = terminal.Table(
        "Title", ("a", "second", "evidence"), [("ε", "xxxxxxxxxx", long), ("bb", "", "[y]\nz")], [False, True]
    )
    terminal.show(table)
    assert capsys.readouterr().out.splitlines() == [
        "Title",
        "a   second      evidence",
        f"ε   xxxxxxxxxx  {long.strip()}",
        "bb              [y] z",
        "",
    ]


def test_a_table_without_rows_has_its_header(capsys):
    terminal.show(terminal.Table("Title", ("a", "b"), [], []))
    assert capsys.readouterr().out == "Title\na  b\n\n"


def claim(name="a", verdict="holds", *, as_expected=True):
    return {
        "name": name,
        "source": "equation (1)",
        "statement": "What the paper says.",
        "condition": "",
        "expected": "holds",
        "verdict": verdict,
        "as_expected": as_expected,
        "evidence": "Numbers.",
    }


def certification(backend="numpy", status="passed", errors=None):
    return {
        "backend": backend,
        "cell": "gated",
        "check": "accuracy",
        "case": "gated case",
        "status": status,
        "detail": "what came",
        "errors": errors or {},
    }


def entry(error, tolerance=1e-14):
    return {"error": error, "tolerance": tolerance, "reference": 1e-15}


def test_the_last_line_when_all_is_well():
    claims = [claim(), claim(verdict="refuted"), claim(verdict="holds under a stated condition"), claim()]
    line = tables.verify_line(claims, [certification(), certification()], (4, 2), "digits", {"cupy": "no device"})
    assert line == (
        "4 claims (2 hold, 1 under a condition, 1 refuted; all as the ledger expects), "
        "2 certifications passed on digits; backends: numpy ok, cupy not run"
    )


def test_the_last_line_names_what_contradicts():
    claims = [claim(), claim("b", "undecided", as_expected=False), claim("c", tables.BROKE_OFF, as_expected=False)]
    certified = [certification(), certification("numba", "failed"), certification("numba", tables.BROKE_OFF)]
    assert tables.verify_line(claims, certified, (5, 3), "digits", {}) == (
        "3 of 5 claims (1 hold, 1 undecided, 1 broke off; NOT as the ledger expects: b, c), "
        "3 certifications on digits: 1 passed, 2 failed; backends: numpy ok, numba FAILED"
    )


def test_the_last_line_of_a_selection_says_of_how_many():
    assert tables.verify_line([], [certification()], (5, 2), "digits", {}) == (
        "0 of 5 claims, 1 of 2 certifications on digits: 1 passed; backends: numpy ok"
    )
    assert tables.verify_line([claim()], [], (5, 2), "digits", {}) == (
        "1 of 5 claims (1 hold; all as the ledger expects), 0 of 2 certifications"
    )


def test_an_unknown_verdict_is_not_dropped_from_the_tally():
    """Every verdict there is has a word in the last line."""
    from antisymrnn_validation.claims.evidence import Verdict

    claims = [claim(verdict=verdict) for verdict in Verdict]
    line = tables.verify_line(claims, [], (len(claims), 0), "digits", {})
    assert line.count("1 ") == len(Verdict)


@pytest.mark.parametrize("error", [2e-14, math.inf, math.nan])
def test_arrays_outside_their_tolerance_are_failures(error):
    record = certification(status="failed", errors={"h": entry(1e-16), "W": entry(error)})
    table = tables.accuracy_table("Title", [record])
    assert [row[2] for row in table.rows] == ["h", "W"]
    assert [row[-1] for row in table.rows] == ["passed", "failed"]
    assert table.alarming == [False, True]
    text = tables.failure(record)
    assert text.splitlines()[0] == "FAILED numpy: accuracy on gated case"
    assert f"W: relative error {error:.3e}, tolerance 1.000e-14" in text
    assert "h:" not in text


def test_a_certification_without_arrays_is_still_a_row():
    record = certification(status=tables.BROKE_OFF)
    table = tables.accuracy_table("Title", [record])
    assert table.rows == [("numpy", "gated", "none", "", "", "", "broke off")]
    assert table.alarming == [True]
    assert tables.failure(record) == "BROKE OFF numpy: accuracy on gated case\n  what came"


def test_claims_have_the_same_words_in_a_pipe_and_in_a_terminal(monkeypatch):
    records = [
        claim() | {"condition": "A condition."},
        claim("b", "refuted") | {"expected": "refuted", "condition": "C."},
    ]
    for isatty in (False, True):
        monkeypatch.setattr(terminal.sys.stdout, "isatty", lambda isatty=isatty: isatty, raising=False)
        rows = [" ".join(row).split("\n") for row in tables.claims_table(records).rows]
        for row, label in zip(rows, ["Condition: A condition.", "Instead: C."], strict=True):
            text = " ".join(row)
            for words in ("equation (1)", "What the paper says.", "Numbers.", label):
                assert words in text
        assert (len(rows[0]) > 1) == isatty


def test_groups_count_and_say_why_not():
    records = [
        certification(),
        certification(status="failed"),
        certification(status="not applicable") | {"detail": "no device"},
        certification(status="not applicable") | {"detail": "no gate; no device"},
        certification(status=tables.BROKE_OFF) | {"check": "other"},
    ]
    table = tables.groups_table(records)
    assert table.rows == [("accuracy", "1", "1", "2", "no device; no gate"), ("other", "0", "1", "0", "")]
    assert table.alarming == [True, True]
    assert tables.conform_line(records, 7) == "5 of 7 checks: 1 passed, 2 failed, 2 not applicable"


def timed_entry(name, kind="peer", **seconds):
    samples = {what: [Sample(value, 100.0)] * 3 for what, value in seconds.items()}
    return contest.Entry(Contender(name, kind, lambda _: None, "antisymmetric"), contest.Ready(), samples)


def test_a_table_of_times_divides_by_the_backend():
    plan = contest.Plan("antisymmetric", Shape(3, 2, 4, 5), "float64")
    entries = [
        timed_entry("mine", "backend", forward=0.5, both=1.0, everything=1.5),
        timed_entry("slow", forward=2.0, both=3.0),
    ]
    told = contest.record(plan, entries, 1e-7, 100.0)
    table = tables.times_table(told, ["mine"])
    assert table.columns[8:10] == ("forward / mine", "f + b / mine")
    mine, everything, slow = table.rows
    assert (mine[1], mine[4], mine[8:10]) == ("500.0", "1000.", ("1.00", "1.00"))
    assert (slow[1], slow[2], slow[4], slow[8:10]) == ("2000.", "2000. to 2000.", "3000.", ("4.00", "3.00"))
    # 2 T B n (n + m) = 540 operations in 2 s, of a peak of 100 a second; forward and backward 60 (9 + 14) = 1380 in 3 s
    assert (slow[3], slow[6], slow[7]) == ("270.0 %", "460.0 %", "0.0")
    assert everything[4] == "1500."
    assert "in +500.00 ms" in everything[-1]


def test_the_table_of_speeds_to_reach_shows_what_was_measured():
    def record(measure, asked, reached, verdict, why=""):
        shape = {"T": 784, "B": 1, "m": 2, "n": 128}
        case = {"cell": "gated", "shape": shape, "dtype": "float32", "what": "both", "measure": measure}
        return case | {"asked": asked, "reached": reached, "verdict": verdict, "stretch_verdict": "", "why": why}

    records = [
        record(targets.FRACTION, "at least 75 %", 0.81, "met"),
        record(targets.FASTER, "at least 5 times", 4.957, "not met"),
        record(targets.FASTER, "at least 4.5 times", math.nan, "not measured", "jax scan: not there"),
        record(targets.MICROSECONDS, "at most 3.2 µs", 3.2, "met"),
    ]
    table = tables.targets_table("mine", records)
    assert table.title == "Speeds to reach: mine, 3 of 4 measured"
    head = ("gated", "784,1,2,128", "float32", "forward + backward")
    assert table.rows == [
        (*head, "at least 75 %", "81.0 %", "met"),
        (*head, "at least 5 times", "4.96", "not met"),
        (*head, "at most 3.2 µs", "3.2", "met"),
    ]
    assert table.alarming == [False, True, False]
    every = tables.targets_table("mine", records, every=True)
    assert every.columns == (*table.columns, "stretch", "why not measured")
    assert every.rows[2] == (*head, "at least 4.5 times", "", "not measured", "", "jax scan: not there")
    assert every.alarming == [False, True, False, False]


def test_the_table_of_accuracies_shows_the_largest_error():
    def record(case, units):
        told = {"error": 1e-16 * units, "tolerance": 5e-16, "specification": 1e-16, "units": units}
        return {"name": "mine", "cell": "gated", "dtype": "float64", "case": case, "detail": "", "errors": {"W": told}}

    for order in ((2.0, 9.0, 1.0), (9.0, 1.0, 2.0), (1.0, 2.0, 9.0)):
        table = tables.units_table([record(f"case {units:g}", units) for units in order])
        assert table.rows == [("mine", "gated", "float64", "W", "9.00e-16", "9.00", "case 9")]
        assert list(table.alarming) == [True]


def test_an_unexpected_claim_is_told_in_full():
    record = claim(verdict="refuted", as_expected=False) | {"condition": "A condition."}
    assert tables.contradiction(record).splitlines() == [
        "CONTRADICTION a, equation (1): refuted, expected: holds",
        "  What the paper says.",
        "  Numbers.",
        "  Condition: A condition.",
    ]


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
