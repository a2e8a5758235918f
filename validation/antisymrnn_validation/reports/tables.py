"""Records of results as tables, paragraphs and summary lines."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from antisymrnn_validation.output import files
from antisymrnn_validation.output.terminal import BROKE_OFF, PIPE_WIDTH, Record, Table

SHORT = {"holds under a stated condition": "conditional"}
"""Verdicts that have a shorter word where a claim has one line."""


def claims_table(records: Sequence[Record]) -> Table:
    """One row for each claim: its verdict, its name and what the paper says."""
    words = [str(record["verdict"]) for record in records]
    rows = [
        (_expected_or_not(record, SHORT.get(word, word)), record["name"], record["statement"])
        for record, word in zip(records, words, strict=True)
    ]
    return Table("The paper's claims", ("verdict", "claim", "statement"), rows, _unexpected(records))


def claim_paragraphs(records: Sequence[Record]) -> tuple[str, list[str], list[bool]]:
    """Title, a paragraph for each claim with all that is known of it, and which of them are not as expected."""
    paragraphs = ["\n  ".join([f"{r['name']}, {r['source']}: {verdict(r)}", *_known(r)]) for r in records]
    return "The paper's claims", paragraphs, _unexpected(records)


def contradiction(record: Record) -> str:
    """A claim that is not as expected, in full."""
    title = f"CONTRADICTION {record['name']}, {record['source']}: {verdict(record)}"
    return "\n  ".join([title, *_known(record)])


def verdict(record: Record) -> str:
    """The verdict of a claim, and the expected one where it differs."""
    return _expected_or_not(record, str(record["verdict"]))


def _expected_or_not(record: Record, word: str) -> str:
    return word if record["as_expected"] else f"{word}, expected: {record['expected']}"


def _unexpected(claims: Sequence[Record]) -> list[bool]:
    return [not record["as_expected"] for record in claims]


def _known(claim: Record) -> list[str]:
    """The statement of a claim, its evidence, its condition or what is true instead, and its numbers."""
    lines = [claim["statement"], f"Evidence: {claim['evidence']}"]
    if claim["condition"]:
        lines.append(f"{'Instead' if claim['expected'] == 'refuted' else 'Condition'}: {claim['condition']}")
    if claim["numbers"]:
        lines.append(
            "Numbers: " + "; ".join(f"{name}: {value_text(value)}" for name, value in claim["numbers"].items())
        )
    return lines


def value_text(value: Any) -> str:
    """A number of a claim, or several, as text."""
    return value if isinstance(value, str) else json.dumps(files.strict(value), ensure_ascii=False)


def published_table(records: Sequence[Record], *, runs: bool = False) -> Table:
    """One row for each test accuracy of the paper: the number, our mean and deviation over seeds, the verdict.

    ``runs`` adds the units, the iterations and our runs.
    """
    rows: list[tuple[str, ...]] = []
    for r in records:
        cell, paper = (r["table"], r["name"]), f"{r['accuracy']}"
        more = (*cell, str(r["units"]), paper, f"{r['iterations']:,} of {r['batch']}", _mean(r), r["verdict"], _runs(r))
        rows.append(more if runs else (r["verdict"], *cell, paper, _mean(r)))
    columns: tuple[str, ...] = ("verdict", "table", "cell", "paper, %", "ours, %")
    if runs:
        units = ("units", "paper, %", "paper's iterations (unconfirmed)", "ours, %", "verdict", "our runs")
        columns = (*columns[1:3], *units)
    return Table("Test accuracies of the paper", columns, rows, [False] * len(rows))


def published_paragraphs(records: Sequence[Record]) -> tuple[str, list[str], list[bool]]:
    """Title, a paragraph for each test accuracy of the paper with our runs, and that none of them alarms."""
    paragraphs = []
    for r in records:
        trained = f"{r['iterations']:,} iterations of {r['batch']} (unconfirmed)"
        paper = f"Paper: {r['accuracy']} %, {r['units']} units, {trained}"
        ours = [f"Ours: {_mean(r)} %", f"Runs: {_runs(r)}"] if r["runs"] else ["Runs: none recorded"]
        paragraphs.append("\n  ".join([f"{r['table']}, {r['name']}: {r['verdict']}", paper, *ours]))
    return "Test accuracies of the paper", paragraphs, [False] * len(paragraphs)


def _mean(record: Record) -> str:
    """The mean of our accuracies, and their deviation if there are several."""
    found = [run["accuracy"] for run in record["runs"]]
    deviation = f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else ""
    return f"{statistics.fmean(found):.2f}{deviation}" if found else ""


def _runs(record: Record) -> str:
    return "; ".join(
        f"seed {run['seed']}, {run['iterations']:,} iterations of {run['batch']}, {run['date']}"
        for run in record["runs"]
    )


def published_line(records: Sequence[Record]) -> str:
    """How many accuracies of the paper are reproduced, and how many are not."""
    counts = Counter(record["verdict"] for record in records)
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


def certified_table(title: str, records: Sequence[Record]) -> Table:
    """One row for each certification: the array whose error is the largest part of its tolerance."""
    columns = ("verdict", "backend", "cell", "arrays", "worst array", "error", "tolerance")
    rows = []
    for record in records:
        errors = record["errors"]
        worst = max(errors, key=lambda name: _part(errors[name]), default="")
        numbers = tuple(f"{errors[worst][key]:.2e}" for key in ("error", "tolerance")) if errors else ("", "")
        where = (record["status"], record["backend"], record["cell"])
        rows.append((*where, str(len(errors)), worst or "none", *numbers))
    return Table(title, columns, rows, [contradicts(record) for record in records])


def _part(entry: Record) -> float:
    """The error as a part of its tolerance; infinite if it is NaN, or no tolerance is left for it."""
    if entry["error"] == 0:
        return 0.0
    part = entry["error"] / entry["tolerance"] if entry["tolerance"] else math.inf
    return math.inf if math.isnan(part) else part


def accuracy_table(title: str, records: Sequence[Record]) -> Table:
    """One row for each array of each certification; one for a certification without any."""
    columns = ("backend", "cell", "array", "error", "tolerance", "reference", "verdict")
    rows, alarming = [], []
    for record in records:
        for array, entry in record["errors"].items():
            inside = entry["error"] <= entry["tolerance"]
            numbers_ = tuple(f"{entry[key]:.2e}" for key in ("error", "tolerance", "reference"))
            rows.append((record["backend"], record["cell"], array, *numbers_, "passed" if inside else "failed"))
            alarming.append(not inside)
        if not record["errors"]:
            rows.append((record["backend"], record["cell"], "none", "", "", "", record["status"]))
            alarming.append(contradicts(record))
    return Table(title, columns, rows, alarming)


def groups_table(records: Sequence[Record]) -> Table:
    """One row for each check: how many cases passed, failed, did not apply, and why not."""
    statuses = _statuses(records)
    rows, alarming = [], []
    for check in dict.fromkeys(record["check"] for record in records):
        group = [record for record in records if record["check"] == check]
        counts = status_counts(group)
        reasons = [record["detail"].split("; ") for record in group if record["status"] == "not applicable"]
        why = "; ".join(dict.fromkeys(itertools.chain.from_iterable(reasons)))
        rows.append((check, *(str(counts[status]) for status in statuses), why))
        alarming.append(counts["failed"] > 0)
    return Table("Checks of the contract", ("check", *statuses, "why not applicable"), rows, alarming)


def _statuses(records: Sequence[Record]) -> tuple[str, ...]:
    """The columns of counts: expected failures have one where there are any."""
    expected = any(record["status"] == "expected failure" for record in records)
    return ("passed", "failed", *(["expected failure"] if expected else []), "not applicable")


def levels_table(records: Sequence[Record], levels: Mapping[int, str]) -> Table:
    """One row for each level that has a check: what it is about, and how many checks passed, failed, did not apply."""
    statuses = _statuses(records)
    rows, alarming = [], []
    for level, about in levels.items():
        group = [record for record in records if record["level"] == level]
        counts = status_counts(group)
        if group:
            rows.append((f"{level}: {about}", *(str(counts[status]) for status in statuses)))
            alarming.append(counts["failed"] > 0)
    return Table("Levels", ("level", *statuses), rows, alarming)


def sections_table(title: str, sections: Mapping[str, Any]) -> Table:
    """One row for each entry of nested mappings and lists."""

    def flat(content: Any) -> Iterator[tuple[str, str]]:
        if isinstance(content, Mapping):
            for key, entry in content.items():
                for rest, value in flat(entry):
                    yield f"{key} {rest}".strip(), value
        elif isinstance(content, list):
            for entry in content:
                joined = ", ".join(f"{key} {value}" for key, value in flat(entry)) if isinstance(entry, dict) else entry
                yield "", str(joined)
        else:
            yield "", str(content)

    rows = [(section, *row) for section, content in sections.items() for row in flat(content)]
    return Table(title, ("part", "entry", "value"), rows, [False] * len(rows))


def verify_line(
    claims: Sequence[Record],
    certifications: Sequence[Record],
    total: tuple[int, int],
    source: str,
    not_run: Mapping[str, str],
) -> str:
    """What ran of how much, and the verdicts."""
    tally = ", ".join(f"{count} {word}" for word, count in _verdicts(claims).items() if count)
    unexpected = [record["name"] for record in claims if not record["as_expected"]]
    agreement = f"NOT as the ledger expects: {', '.join(unexpected)}" if unexpected else "all as the ledger expects"
    line = f"{of(len(claims), total[0])} claims" + (f" ({tally}; {agreement})" if claims else "")
    line += f", {of(len(certifications), total[1])} certifications"
    if not certifications:
        return line
    counts = status_counts(certifications)
    if counts["passed"] == total[1]:
        line += f" passed on {source}"
    else:
        line += f" on {source}: " + ", ".join(f"{count} {status}" for status, count in counts.items())
    failed = {record["backend"] for record in certifications if contradicts(record)}
    states = {record["backend"]: "FAILED" if record["backend"] in failed else "ok" for record in certifications}
    states |= dict.fromkeys(not_run, "not run")
    return f"{line}; backends: " + ", ".join(f"{name} {state}" for name, state in states.items())


def _verdicts(claims: Sequence[Record]) -> dict[str, int]:
    """How many claims have each verdict, in words for a summary."""
    counts = Counter(str(record["verdict"]) for record in claims)
    known = known_refutations(claims)
    return {
        "hold": counts["holds"],
        "conditional": counts["holds under a stated condition"],
        "known refutation" + "s" * (known > 1): known,
        "refuted": counts["refuted"] - known,
        "undecided": counts["undecided"],
        BROKE_OFF: counts[BROKE_OFF],
    }


def known_refutations(claims: Sequence[Record]) -> int:
    """How many claims are refuted as the ledger expects."""
    return sum(record["as_expected"] and record["verdict"] == "refuted" for record in claims)


def left_out_line(only: str, parts: Mapping[str, tuple[int, int]]) -> str:
    """What ``--only`` did not select: by name of a part how many were selected of how many; empty if nothing."""
    left = [
        f"{'all ' * (selected == 0)}{of(total - selected, total)} {name}"
        for name, (selected, total) in parts.items()
        if selected < total
    ]
    return f"Not selected by --only {only!r}: {', '.join(left)}." if only and left else ""


def conform_line(records: Sequence[Record], total: int) -> str:
    """How many checks ran of how many, and what became of them."""
    counts = status_counts(records)
    tally = ", ".join(f"{counts[status]} {status}" for status in ("passed", "failed", "not applicable"))
    if counts["expected failure"]:
        tally += f", {counts['expected failure']} failed as expected"
    return f"{of(len(records), total)} checks: {tally}"


def conformance_summary(records: Sequence[Record], total: int) -> Record:
    """The line, counts and failures of the conformance checks that ran, of how many."""
    counts = status_counts(records)
    return {
        "line": conform_line(records, total),
        "total": total,
        **{status: counts[status] for status in ("passed", "failed", "not applicable")},
        "failures": [record for record in records if contradicts(record)],
    }


def conformance_state(record: Record) -> str:
    """What the checks of a backend that were selected came to.

    ``not selected`` if none was, ``FAILED``, ``nothing ran`` if none applies, ``ok``, or ``selection ok`` if only some
    were selected.
    """
    counts = status_counts(record["checks"])
    if not record["checks"]:
        return "not selected"
    if counts["failed"] or not counts["passed"]:
        return "FAILED" if counts["failed"] else "nothing ran"
    return "ok" if len(record["checks"]) == record["total"] else "selection ok"


def conformance_line(record: Record) -> str:
    """How many checks of a backend ran of how many, what became of them, and what the failures have in common."""
    return conform_line(record["checks"], record["total"]) + diagnosis_of(record["checks"])


def initialization_table(records: Sequence[Record]) -> Table:
    """One row for each array of initial weights: the verdict, what the paper says, what was measured, its name."""
    columns = ("verdict", "array", "the paper", "measured", "looks like")
    rows = [tuple(r[key] for key in ("verdict", "array", "expected", "measured", "looks_like")) for r in records]
    return Table("Initial weights", columns, rows, [record["verdict"] == "differs" for record in records])


def initialization_line(records: Sequence[Record], sigma_w: float | None, false_alarm: float) -> str:
    """What the initial weights came to."""
    wrong = {record["array"]: record["looks_like"] for record in records if record["verdict"] == "differs"}
    if wrong:
        named = [f"{array} ({name})" if name else array for array, name in wrong.items()]
        arrays = [array for array in named if not array.startswith("seed")]
        told = [f"{', '.join(arrays)} differ{'s' * (len(arrays) == 1)} from the paper's"] if arrays else []
        return "; ".join([*told, *(["the same weights for every seed (no randomness)"] * ("seed" in wrong))])
    names = [name for name in ("W", "V", "b", "V_z", "b_z") if any(record["array"] == name for record in records)]
    scale = "σ_w not declared" if sigma_w is None else f"σ_w = {sigma_w:g}"
    reported = sum(record["verdict"] == "reported" for record in records)
    more = f"; {reported} reported" if reported else ""
    weights = f"{', '.join(names[:-1])} and {names[-1]} are the paper's, {scale}{more}"
    return f"{weights}; a false alarm has probability {false_alarm:g} at most"


def of(number: int, total: int) -> str:
    """``3``, or ``2 of 3``."""
    return str(number) if number == total else f"{number} of {total}"


def status_counts(records: Sequence[Record]) -> Counter[str]:
    """How many records passed, failed (an exception is a failure) and did not apply."""
    return Counter("failed" if contradicts(record) else record["status"] for record in records)


def contradicts(record: Record) -> bool:
    """Whether a check or a certification failed or broke off."""
    return record["status"] not in ("passed", "not applicable", "expected failure")


def known_mistakes(records: Sequence[Record]) -> dict[str, int]:
    """The known mistakes that most failures equal, at most two, and how many."""
    counts = Counter(name for record in records if contradicts(record) for name in record["deviations"][:1])
    return dict(counts.most_common(2))


def roundings(records: Sequence[Record]) -> dict[str, int]:
    """The rounding that most failures look like, and how many; none that less than half of them do."""
    counts = Counter(name for record in records if contradicts(record) and (name := record.get("rounding", "")))
    return {name: count for name, count in counts.most_common(1) if 2 * count >= sum(map(contradicts, records))}


def diagnosis_of(records: Sequence[Record]) -> str:
    """What the failures have in common."""
    failed = sum(map(contradicts, records))
    found = {f"equal the variant {name!r}": count for name, count in known_mistakes(records).items()}
    found |= {f"look like the results of a {name}": count for name, count in roundings(records).items()}
    return "".join(f"; {count} of {failed} failures {what}" for what, count in found.items())


def failure(record: Record, *, again: bool = False) -> str:
    """A failed check or certification: what ran, what failed, every array outside its tolerance, and the diagnosis.

    ``again`` if the diagnosis was given before.
    """
    outside = {name: record["errors"][name] for name in _outside(record)}
    numbers = [
        f"{name}: relative error {entry['error']:.3e}, tolerance {entry['tolerance']:.3e}"
        for name, entry in outside.items()
    ]
    title = f"{record['status'].upper()} {record['backend']}: {record['check']} on {record['case']}"
    diagnosis = record.get("diagnosis", "").splitlines()
    if again:
        diagnosis = [f"{_explanation(record)} again"]
    return "\n  ".join([title, *_parts(record, outside), *numbers, *diagnosis])


def _outside(record: Record) -> tuple[str, ...]:
    """The arrays outside their tolerance."""
    return tuple(name for name, entry in record["errors"].items() if not entry["error"] <= entry["tolerance"])


def _parts(record: Record, outside: Mapping[str, Record]) -> list[str]:
    """The detail, a long one cut where it says one thing after another; without the arrays, which are listed apart."""
    detail = record["detail"]
    for name, entry in outside.items():
        detail = detail.replace(f"{name}: relative error {entry['error']:.1e}, tolerance {entry['tolerance']:.1e}", "")
    lines = [line.strip() for line in detail.splitlines()]
    if outside:
        lines = [line.strip(" ;:,") for line in lines]
    parts = (line.split("; ") if len(line) > PIPE_WIDTH else [line] for line in lines)
    return [part for part in itertools.chain.from_iterable(parts) if part]


def _explanation(record: Record) -> str:
    """What is known of a failure by name; empty if nothing is."""
    if record["deviations"]:
        return f"the variant {record['deviations'][0]!r}"
    return f"a {rounding}" if (rounding := record.get("rounding", "")) else ""


def failures(records: Sequence[Record]) -> list[str]:
    """A paragraph for each failure, given once, and on how many more cases it is the same.

    Errors that nothing known explains differ from case to case: they are given once for each check, cell, dtype and
    set of arrays that fail, with the first script there is.
    """
    same: dict[tuple[Any, ...], list[Record]] = {}
    for record in filter(contradicts, records):
        kind: tuple[Any, ...] = (_explanation(record) or record["detail"],)
        if record["errors"] and not _explanation(record):
            problem = record.get("problem", {})
            kind = (_outside(record), problem.get("cell"), problem.get("dtype"))
        same.setdefault((record["check"], *kind), []).append(record)
    diagnosed: set[str] = set()
    paragraphs = []
    for group in same.values():
        first = next((record for record in group if record.get("script")), group[0])
        known = _explanation(first)
        cases = f"{len(group) - 1} more case{'s' * (len(group) > 2)}"
        what = "the same" if known or not first["errors"] else "the same arrays fail"
        more = [f"  and {what} on {cases}"] if len(group) > 1 else []
        paragraphs.append("\n".join([failure(first, again=bool(known) and known in diagnosed), *more]))
        diagnosed.add(known)
    return paragraphs
