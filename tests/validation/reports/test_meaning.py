"""The line of a run without a failure claims what follows from the checks that passed, and nothing else."""

from __future__ import annotations

import pytest

from antisymrnn_validation.conformance.judge import checks_of
from antisymrnn_validation.conformance.plan import CERTIFIED
from antisymrnn_validation.conformance.targets.functions import callable_candidate
from antisymrnn_validation.reports.meaning import GRADIENTS, LAST, STATES, meaning


def record(check: str, cell: str = "antisymmetric", dtype: str = "float64", *, status: str = "passed", ablation=False):
    return {"check": check, "status": status, "problem": {"cell": cell, "dtype": dtype, "unconstrained": ablation}}


BOTH = [record(check, dtype=dtype) for check in CERTIFIED for dtype in ("float64", "float32")]
NO_MORE = "the gated cell, the ablation, initialization"


def test_the_promises_are_those_of_the_plan():
    assert (LAST, STATES, GRADIENTS) == ("last state", ["every state", "accuracy"], "accuracy")


def test_states_and_gradients_of_one_cell():
    assert meaning(BOTH, len(BOTH)) == (
        f"computes equation (12); every gradient right in float32 and float64; not judged: {NO_MORE}"
    )


def test_both_cells_and_the_ablation():
    more = [record("accuracy", "gated", d, ablation=ablation) for d in ("float64", "float32") for ablation in (0, 1)]
    assert meaning([*BOTH, *more, record("errors"), record("memory")], 100).removeprefix("in 12 of 100 checks: ") == (
        "computes equations (12) and (13), the ablation too; every gradient right in float32 and float64; "
        "2 other promises kept (errors, memory); not judged: initialization"
    )


SELECTIONS = [
    (
        [record("last state")],
        "the last state of equation (12) right in float64, from h_0 = 0; not judged: the other states, gradients, "
        "the gated cell, the ablation, float32, initialization",
    ),
    (
        [record("every state")],
        "computes equation (12); every state right in float64; not judged: gradients, the gated cell, the ablation, "
        "float32, initialization",
    ),
    (
        [record("signatures"), record("signatures", "gated")],
        "1 promise kept (signatures); not judged: its numbers, initialization",
    ),
    (
        [record("accuracy"), record("accuracy", "gated", status="not applicable")],
        "computes equation (12); every gradient right in float64; not judged: the gated cell, the ablation, float32, "
        "initialization",
    ),
    (
        [record("every state"), record("every state", "gated"), record("accuracy", "gated")],
        "computes equations (12) and (13); every gradient of equation (13) right in float64; not judged: the "
        "ablation, float32, initialization",
    ),
]


@pytest.mark.parametrize(("records", "words"), SELECTIONS)
def test_a_selection_claims_what_ran(records, words):
    assert meaning(records, len(records)) == words
    assert meaning(records, 463) == f"in {len(records)} of 463 checks: {words}"


def test_an_expected_failure_is_no_claim():
    failing = [record(GRADIENTS, dtype="float32", status="expected failure"), record("bits", status="expected failure")]
    line = meaning([*BOTH, *failing, record("bits")], len(BOTH) + 3)
    assert line == (
        f"computes equation (12); every gradient right in float64; 2 failed as expected; not judged: {NO_MORE}"
    )
    assert "every gradient" not in meaning([record("every state"), *failing[:1]], 2)


def test_quick_and_drawn_runs_say_so():
    assert meaning(BOTH, len(BOTH), quick=True).endswith("the ablation, the longest cases, initialization")
    assert meaning(BOTH, 6, drawn=True).startswith("on 6 cases drawn at random: computes equation (12); ")


def test_the_line_of_a_function_on_its_real_checks():
    candidate = callable_candidate(lambda *_: None)
    checks = checks_of(candidate, quick=True)
    records = [
        record(c.name, c.cell, c.dtype, ablation=c.unconstrained, status=status)
        for c in checks
        for status in ["not applicable" if c.run(candidate).status == "not applicable" else "passed"]
    ]
    line = meaning(records, len(checks), quick=True)
    assert line.startswith("computes equation (12); every state right in float32 and float64; ")
    assert line.endswith("not judged: gradients, the gated cell, the ablation, the longest cases, initialization")
