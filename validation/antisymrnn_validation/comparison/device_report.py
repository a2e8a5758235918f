"""What a session on a device leaves: its document, the last line and exit code, tables, Markdown for the README."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from antisymrnn_validation.comparison import targets
from antisymrnn_validation.comparison.contest import Plan
from antisymrnn_validation.comparison.gpu import WHAT
from antisymrnn_validation.output import files
from antisymrnn_validation.output.environment import environment
from antisymrnn_validation.output.terminal import Record, Table

AS_EXPECTED, CONTRADICTED, USAGE, NOTHING_RAN = range(4)
INTERRUPTED = 130

WORDS = {"forward": "forward", "inference": "inference", "both": "forward + backward"}


def new_document(name: str, card: Mapping[str, Any], *, quick: bool) -> Record:
    """The document of a session in which nothing has been measured yet."""
    return {
        "command": "device", "quick": quick, "backend": name, "card": dict(card),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"), "interrupted": False,
        "missing_peers": {},
        "conformance": {}, "sanitizers": [], "ceilings": {}, "contests": [], "left_out": [], "targets": [],
    }  # fmt: skip


def finished(document: Record, chosen: Sequence[Plan]) -> tuple[str, int]:
    """Fill in what follows from the rest, the targets and what was left out; the last line, and the exit code."""
    held = len(document["contests"])
    why = "interrupted" if document["interrupted"] else "the time was used up"
    document["left_out"] = [
        {"cell": plan.cell, "shape": plan.shape._asdict(), "dtype": plan.dtype, "why": why} for plan in chosen[held:]
    ]
    document["targets"] = targets.device_records(document["backend"], document["card"]["name"], document["contests"])
    statuses = [entry["status"] for contest in document["contests"] for entry in contest["contenders"]]
    told = document["conformance"]
    line = f"conformance {told.get('line', 'not run')}; {held} of {len(chosen)} contests"
    counts = [f"{statuses.count(s)} {s}" for s in ("timed", "cut short", "not timed", "wrong") if s in statuses]
    line += f": {', '.join(counts)}" if counts else ""
    verdicts = [record["verdict"] for record in document["targets"]]
    line += f"; targets: {', '.join(f'{verdicts.count(v)} {v}' for v in dict.fromkeys(verdicts))}"
    if document["left_out"]:
        line += f"; LEFT OUT, {why}: {'; '.join(_title(entry) for entry in document['left_out'])}"
    found = [record["tool"] for record in document["sanitizers"] if record["status"] == "found"]
    line += f"; FOUND SOMETHING: {', '.join(found)}" if found else ""
    if document["interrupted"]:
        return f"INTERRUPTED; {line}", INTERRUPTED
    if told.get("failed") or "wrong" in statuses or found:
        return line, CONTRADICTED
    ran = told.get("passed") and {"timed", "cut short"} & set(statuses)
    return line, AS_EXPECTED if ran else NOTHING_RAN


def write(path: Path | None, document: Record, line: str, code: int, seconds: float) -> None:
    """Write the JSON document, if a path is given."""
    if path is not None:
        summary = {"line": line, "exit_code": code, "seconds": seconds}
        head = {"schema_version": files.SCHEMA_VERSION, "summary": summary, "environment": environment()}
        files.write_json(path, head | document)


def times_table(contest: Record) -> Table:
    """One row for each contender of a contest."""
    columns = ["contender"]
    for what in ("forward", "inference", "f + b"):
        columns += [what, "quartiles", "of peak"]
    columns += ["samples", "timed by", "note"]
    rows, alarming = [], []
    for entry in contest["contenders"]:
        cells = [entry["name"]]
        for what in WHAT:
            times, scale = entry["times"].get(what, {}), 1e6 / contest["shape"]["T"]
            quartiles = [_microseconds(times.get(key), scale) for key in ("lower", "upper")]
            cells += [
                _microseconds(times.get("us_per_step")),
                " to ".join(filter(None, quartiles)),
                f"{text} %" if (text := _number(times.get("fraction"), ".1f", 100)) else "",
            ]
        cells += ["/".join(str(times["samples"]) for times in entry["times"].values()), entry["timer"]]
        told = "" if entry["status"] == "timed" else f"{entry['status'].upper()}: {entry['detail']}"
        cells.append("; ".join(filter(None, (told, entry["note"]))))
        rows.append(tuple(cells))
        alarming.append(entry["status"] in ("wrong", "not timed"))
    title = f"{_title(contest)}, T = {contest['shape']['T']}, m = {contest['shape']['m']}; µs per step"
    return Table(title, tuple(columns), rows, alarming)


def targets_table(records: Sequence[Record]) -> Table:
    """One row for each speed to reach on the device."""
    columns = ("case", "of", "asked", "reached", "verdict", "stretch", "why not measured")
    rows = [
        (
            _title(r), WORDS[r["what"]], r["asked"], _number(r["reached"]),
            r["verdict"], r["stretch_verdict"], r["why"],
        )
        for r in records
    ]  # fmt: skip
    return Table("Speeds to reach on a device", columns, rows, [r["verdict"] == "not met" for r in records])


def markdown(document: Record) -> str:
    """What was measured as it goes into validation/README.md: a paragraph, the times, the speeds to reach."""
    card, name = document["card"], document["backend"]
    facts = ", ".join(f"{key} {value}" for key, value in card.items() if key != "name")
    paragraph = [f"{document['date'][:10]}; {card['name']}" + (f" ({facts})" if facts else "") + "."]
    ceiling = document["ceilings"]
    peaks = [f"{ceiling[d] / 1e3:.1f} TFLOP/s in {d}" for d in ("float32", "float64") if d in ceiling]
    if peaks:
        paragraph.append(f"FMA peak {', '.join(peaks)}; copy {ceiling.get('copy', math.nan):.0f} GB/s.")
    told = document["conformance"]
    paragraph.append(f"`{name}`: {told.get('line', 'conformance not run')}.")
    paragraph += [f"{r['tool']}: {r['status']} ({r['detail']})." for r in document["sanitizers"]]
    paragraph += [f"Peer missing, {library}: {why}." for library, why in document["missing_peers"].items()]
    if document["left_out"]:
        left = "; ".join(_title(entry) for entry in document["left_out"])
        paragraph.append(f"Left out, {document['left_out'][0]['why']}: {left}.")
    paragraph.append(
        "Medians in µs per step; of a peer forward / forward + backward, and in brackets how many times what the "
        "backend takes for the latter."
    )
    entries = [entry for contest in document["contests"] for entry in contest["contenders"]]
    others = list(dict.fromkeys(entry["name"] for entry in entries if entry["kind"] == "peer"))
    head = ["cell, n, B", f"{name}: forward", "inference", "f + b", "of peak, forward / f + b", *others]
    lines = [_row(head), _row(["---"] * len(head))]
    for contest in document["contests"]:
        by_name = {entry["name"]: entry for entry in contest["contenders"]}
        own = by_name.get(name, {"times": {}, "status": "wrong"})
        shape, times = contest["shape"], own["times"]
        cell = {"antisymmetric": "ungated"}.get(contest["cell"], contest["cell"])
        cells = [f"{cell} {shape['n']}, {shape['B']} {contest['dtype']}"]
        cells += [_microseconds(times.get(what, {}).get("us_per_step")) or own["status"] for what in WHAT]
        fractions = [_number(times.get(what, {}).get("fraction"), ".1f", 100) for what in ("forward", "both")]
        cells.append(" / ".join(f"{text} %" for text in fractions if text))
        cells += [_beside(by_name.get(other), times) for other in others]
        lines.append(_row(cells))
    where: dict[str, list[str]] = {}
    for contest in document["contests"]:
        for entry in contest["contenders"]:
            if entry["status"] != "timed":
                told = "" if entry["status"] == "wrong" else f"{entry['status']}: "
                where.setdefault(f"{entry['name']}: {told}{entry['detail']}", []).append(_title(contest))
    details = [f"{what} ({'; '.join(titles)})." for what, titles in where.items()]
    reduced: dict[str, tuple[float, float]] = {}
    for entry in entries:
        if entry["inexact"] and entry["times"]:
            pairs = [(float(error["error"]), float(error["tolerance"])) for error in entry["errors"].values()]
            reduced[entry["name"]] = max([*pairs, reduced.get(entry["name"], (0.0, 0.0))])
    details += [f"{n}: largest relative error {e:.2g}, tolerance {tol:.2g}." for n, (e, tol) in reduced.items()]
    goals = targets_table(document["targets"])
    lines += ["", *"\n\n".join([*details, ""]).splitlines(), _row(goals.columns), _row(["---"] * len(goals.columns))]
    lines += [_row(row) for row in goals.rows]
    return "\n".join([" ".join(paragraph), "", *lines])


def _beside(entry: Record | None, own: Mapping[str, Any]) -> str:
    if entry is None:
        return ""
    if not entry["times"]:
        return str(entry["status"])
    pair = [_microseconds(entry["times"].get(what, {}).get("us_per_step")) for what in ("forward", "both")]
    ratio = entry["times"].get("both", {}).get("median", math.nan) / own.get("both", {}).get("median", math.nan)
    text = " / ".join(pair) + (f" ({_number(ratio)})" if math.isfinite(ratio) else "")
    return text + ("" if entry["status"] == "timed" else f", {entry['status']}")


def _row(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _number(value: Any, form: str = ".3g", scale: float = 1.0) -> str:
    """A number, also from a JSON file, where NaN is a string; nothing if there is none."""
    return "" if value is None or not math.isfinite(float(value)) else format(scale * float(value), form)


def _microseconds(value: Any, scale: float = 1.0) -> str:
    return _number(value, ".3g" if value is None or float(value) * scale < 100 else ".0f", scale)


def _title(contest: Mapping[str, Any]) -> str:
    shape = contest["shape"]
    return f"{contest['cell']} n = {shape['n']}, B = {shape['B']}, {contest['dtype']}"
