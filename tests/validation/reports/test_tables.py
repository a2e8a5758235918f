"""Tables, paragraphs and summary lines say what the records say."""

import math

import pytest

from antisymrnn_validation.comparison import contest, targets
from antisymrnn_validation.comparison.contenders import Contender
from antisymrnn_validation.comparison.timing import Sample
from antisymrnn_validation.comparison.workload import Shape
from antisymrnn_validation.output import terminal
from antisymrnn_validation.reports import tables, times


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
        "numbers": {},
    }


def certification(backend="numpy", status="passed", errors=None):
    return {
        "backend": backend,
        "cell": "gated",
        "check": "accuracy",
        "case": "gated case",
        "status": status,
        "detail": "the detail",
        "errors": errors or {},
    }


def entry(error, tolerance=1e-14):
    return {"error": error, "tolerance": tolerance, "reference": 1e-15}


def test_the_last_line_when_all_is_well():
    claims = [claim(), claim(verdict="refuted"), claim(verdict="holds under a stated condition"), claim()]
    line = tables.verify_line(claims, [certification(), certification()], (4, 2), "digits", {"cupy": "no device"})
    assert line == (
        "4 claims (2 hold, 1 conditional, 1 known refutation; all as the ledger expects), "
        "2 certifications passed on digits; backends: numpy ok, cupy not run"
    )


def test_the_last_line_names_what_contradicts():
    claims = [claim(), claim("b", "undecided", as_expected=False), claim("c", terminal.BROKE_OFF, as_expected=False)]
    certified = [certification(), certification("numba", "failed"), certification("numba", terminal.BROKE_OFF)]
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

    for as_expected in (True, False):
        claims = [claim(verdict=verdict, as_expected=as_expected) for verdict in Verdict]
        line = tables.verify_line(claims, [], (len(claims), 0), "digits", {})
        assert line.count("1 ") == len(Verdict)
        assert ("1 known refutation" in line) == as_expected


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
    record = certification(status=terminal.BROKE_OFF)
    table = tables.accuracy_table("Title", [record])
    assert table.rows == [("numpy", "gated", "none", "", "", "", "broke off")]
    assert table.alarming == [True]
    assert tables.failure(record) == "BROKE OFF numpy: accuracy on gated case\n  the detail"


def test_a_row_of_claims_has_a_short_verdict_and_what_was_expected():
    records = [
        claim("a", "holds under a stated condition"),
        claim("b", "refuted", as_expected=False),
        claim("c", "refuted") | {"expected": "refuted"},
    ]
    table = tables.claims_table(records)
    assert table.rows == [
        ("conditional", "a", "What the paper says."),
        ("refuted, expected: holds", "b", "What the paper says."),
        ("refuted", "c", "What the paper says."),
    ]
    assert table.alarming == [False, True, False]


def test_a_paragraph_of_a_claim_has_all_that_is_known():
    _, (first, second), alarming = tables.claim_paragraphs(
        [
            claim(verdict="holds under a stated condition") | {"condition": "A condition."},
            claim("b", "refuted", as_expected=False)
            | {"expected": "refuted", "condition": "C.", "numbers": {"γ": "3/20", "bounds": [1.5, math.nan]}},
        ]
    )
    assert first.splitlines() == [
        "a, equation (1): holds under a stated condition",
        "  What the paper says.",
        "  Evidence: Numbers.",
        "  Condition: A condition.",
    ]
    assert second.splitlines()[-2:] == ["  Instead: C.", '  Numbers: γ: 3/20; bounds: [1.5, "nan"]']
    assert alarming == [False, True]


@pytest.mark.parametrize(
    ("errors", "worst"),
    [
        ({"h": entry(9e-15, 1e-13), "W": entry(2e-15), "V": entry(1e-15)}, "W"),
        ({"h": entry(9e-15), "W": entry(math.nan)}, "W"),
        ({"h": entry(math.inf), "W": entry(9e-15)}, "h"),
        ({"h": entry(1e-30, 0.0), "W": entry(9e-15)}, "h"),
        ({"h": entry(0.0, 0.0), "W": entry(1e-15)}, "W"),
    ],
)
def test_the_worst_array_is_the_one_with_the_largest_part_of_its_tolerance(errors, worst):
    (row,) = tables.certified_table("Title", [certification(errors=errors)]).rows
    numbers = tuple(f"{errors[worst][key]:.2e}" for key in ("error", "tolerance"))
    assert row == ("passed", "numpy", "gated", str(len(errors)), worst, *numbers)


def test_a_failed_certification_alarms_with_and_without_arrays():
    records = [certification(status="failed", errors={"W": entry(1.0)}), certification(status=terminal.BROKE_OFF)]
    table = tables.certified_table("Title", [certification(), *records])
    assert table.alarming == [False, True, True]
    assert table.rows[2] == ("broke off", "numpy", "gated", "0", "none", "", "")


def accuracy(*found):
    runs = [
        {"seed": seed, "iterations": 8000, "batch": 64, "date": "2026-11-28", "accuracy": value}
        for seed, value in enumerate(found)
    ]
    record = {"name": "mnist-gated", "table": "Table 1", "units": 128, "accuracy": 98.8, "iterations": 50_000}
    return record | {"batch": 128, "verdict": "not reproduced" if found else "not run", "runs": runs}


def test_an_accuracy_has_one_line_and_a_paragraph_with_its_runs():
    records = [accuracy(90.0, 92.0), accuracy()]
    assert tables.published_table(records).rows == [
        ("not reproduced", "Table 1", "mnist-gated", "98.8", "91.00 ± 1.41"),
        ("not run", "Table 1", "mnist-gated", "98.8", ""),
    ]
    _, (first, second), _ = tables.published_paragraphs(records)
    assert first.splitlines() == [
        "Table 1, mnist-gated: not reproduced",
        "  Paper: 98.8 %, 128 units, 50,000 iterations of 128 (unconfirmed)",
        "  Ours: 91.00 ± 1.41 %",
        "  Runs: seed 0, 8,000 iterations of 64, 2026-11-28; seed 1, 8,000 iterations of 64, 2026-11-28",
    ]
    assert second.splitlines()[-1] == "  Runs: none recorded"


def test_what_only_did_not_select():
    parts = {"claims": (3, 5), "accuracies": (0, 10), "certifications": (2, 2)}
    assert tables.left_out_line("x", parts) == "Not selected by --only 'x': 2 of 5 claims, all 10 accuracies."
    assert tables.left_out_line("", {"claims": (5, 5)}) == ""


@pytest.mark.parametrize(
    ("statuses", "total", "state"),
    [
        (["passed", "not applicable"], 2, "ok"),
        (["passed"], 2, "selection ok"),
        (["passed", "failed"], 3, "FAILED"),
        ([terminal.BROKE_OFF], 1, "FAILED"),
        (["not applicable"], 1, "nothing ran"),
        ([], 2, "not selected"),
    ],
)
def test_the_state_of_a_backend(statuses, total, state):
    record = {"backend": "numpy", "total": total, "checks": [certification(status=status) for status in statuses]}
    assert tables.conformance_state(record) == state


def test_groups_count_and_say_why_not():
    records = [
        certification(),
        certification(status="failed"),
        certification(status="not applicable") | {"detail": "no device"},
        certification(status="not applicable") | {"detail": "no gate; no device"},
        certification(status=terminal.BROKE_OFF) | {"check": "other"},
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
    table = times.times_table(told, ["mine"])
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
    table = times.targets_table("mine", records)
    assert table.title == "Speeds to reach: mine, 3 of 4 measured"
    head = ("gated", "784,1,2,128", "float32", "forward + backward")
    assert table.rows == [
        (*head, "at least 75 %", "81.0 %", "met"),
        (*head, "at least 5 times", "4.96", "not met"),
        (*head, "at most 3.2 µs", "3.2", "met"),
    ]
    assert table.alarming == [False, True, False]
    every = times.targets_table("mine", records, every=True)
    assert every.columns == (*table.columns, "stretch", "why not measured")
    assert every.rows[2] == (*head, "at least 4.5 times", "", "not measured", "", "jax scan: not there")
    assert every.alarming == [False, True, False, False]


def test_the_table_of_accuracies_shows_the_largest_error():
    def record(case, units):
        told = {"error": 1e-16 * units, "tolerance": 5e-16, "specification": 1e-16, "units": units}
        return {"name": "mine", "cell": "gated", "dtype": "float64", "case": case, "detail": "", "errors": {"W": told}}

    for order in ((2.0, 9.0, 1.0), (9.0, 1.0, 2.0), (1.0, 2.0, 9.0)):
        table = times.units_table([record(f"case {units:g}", units) for units in order])
        assert table.rows == [("mine", "gated", "float64", "W", "9.00e-16", "9.00", "case 9")]
        assert list(table.alarming) == [True]


def test_an_unexpected_claim_is_printed_in_full():
    record = claim(verdict="refuted", as_expected=False) | {"condition": "A condition."}
    assert tables.contradiction(record).splitlines() == [
        "CONTRADICTION a, equation (1): refuted, expected: holds",
        "  What the paper says.",
        "  Evidence: Numbers.",
        "  Condition: A condition.",
    ]


def unexplained(case, arrays=("W",), *, check="accuracy", cell="gated", dtype="float64", script="", **more):
    errors = {name: entry(1e-3 * (1 + len(case))) for name in arrays}
    detail = "; ".join(
        f"{name}: relative error {e['error']:.1e}, tolerance {e['tolerance']:.1e}" for name, e in errors.items()
    )
    record = {"case": case, "check": check, "script": script, "detail": detail, "diagnosis": f"worst\n{script}".strip()}
    record |= {"problem": {"cell": cell, "dtype": dtype, "unconstrained": False}, "rounding": "", "deviations": []}
    return certification(status="failed", errors=errors) | record | more


def test_failures_that_nothing_explains_are_grouped_with_one_script():
    records = [
        unexplained("one"),
        unexplained("three", script="run it again"),
        unexplained("four", script="another script"),
        unexplained("other arrays", ("W", "b")),
        unexplained("other dtype", dtype="float32"),
        unexplained("other cell", cell="antisymmetric"),
        unexplained("other check", check="every state"),
        unexplained("broken", errors={}, detail="raised ValueError"),
        unexplained("broken too", errors={}, detail="raised ValueError"),
    ]
    first, *others, broken = tables.failures(records)
    assert first.splitlines() == [
        "FAILED numpy: accuracy on three",
        "  W: relative error 6.000e-03, tolerance 1.000e-14",
        "  worst",
        "  run it again",
        "  and the same arrays fail on 2 more cases",
    ]
    assert [paragraph.splitlines()[0].partition(" on ")[2] for paragraph in others] == [
        "other arrays", "other dtype", "other cell", "other check",
    ]  # fmt: skip
    assert broken.splitlines() == [
        "FAILED numpy: accuracy on broken", "  raised ValueError", "  worst", "  and the same on 1 more case",
    ]  # fmt: skip


def test_a_rounding_is_told_once_and_counted():
    named = {"rounding": "float32 intermediate"}
    records = [unexplained("a", dtype="float32", **named), unexplained("b", **named)]
    records.append(unexplained("c", check="every state", **named))
    first, second = tables.failures(records)
    assert first.splitlines()[-1] == "  and the same on 1 more case"
    assert second.splitlines()[-1] == "  a float32 intermediate again"
    assert tables.diagnosis_of([*records, unexplained("d")]) == (
        "; 3 of 4 failures look like the results of a float32 intermediate"
    )
    # of a minority it is no more than a coincidence of size
    assert tables.diagnosis_of([*records, *(unexplained(case) for case in "defg")]) == ""


def test_a_long_detail_is_laid_out_and_keeps_what_stands_beside_the_errors():
    """Where a layout fails, its strides stand in the detail."""
    layout = "x: batch first, shape (11, 4, 7), strides (24, 2464, 8)"
    record = unexplained("one", ("h", "W"))
    record["detail"] = f"{layout}: {record['detail']}"
    assert tables.failure(record).splitlines()[:4] == [
        "FAILED numpy: accuracy on one",
        f"  {layout}",
        "  h: relative error 4.000e-03, tolerance 1.000e-14",
        "  W: relative error 4.000e-03, tolerance 1.000e-14",
    ]
    parts = [f"{name}: expected the same bits with strides {(8 * k, 8)}" for k, name in enumerate("WVbxg")]
    lines = tables.failure(unexplained("two", errors={}, detail="; ".join(parts))).splitlines()
    assert lines[1:6] == [f"  {part}" for part in parts]
    short = tables.failure(unexplained("two", errors={}, detail="b: no; W: yes")).splitlines()
    assert short[1] == "  b: no; W: yes"
    lines = tables.failure(unexplained("two", errors={}, detail="first\n second")).splitlines()
    assert lines[1:3] == ["  first", "  second"]
