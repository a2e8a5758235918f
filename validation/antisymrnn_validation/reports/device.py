"""A session on a device as tables in a terminal, and as Markdown for validation/README.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from antisymrnn_validation.output.terminal import Record, Table
from antisymrnn_validation.reports.times import alarms, microseconds, number, percent, quartiles, remark, targets_table

WHAT = ("forward", "inference", "both")


def title(contest: Mapping[str, Any]) -> str:
    """Cell, sizes and dtype of a contest, held or left out."""
    shape = contest["shape"]
    return f"{contest['cell']} n = {shape['n']}, B = {shape['B']}, {contest['dtype']}"


def times_table(contest: Record) -> Table:
    """One row for each contender of a contest."""
    columns = ["contender"]
    for what in ("forward", "inference", "f + b"):
        columns += [what, "quartiles", "of peak"]
    columns += ["samples", "timed by", "note"]
    scale = 1e6 / contest["shape"]["T"]
    rows = []
    for entry in contest["contenders"]:
        cells = [entry["name"]]
        for what in WHAT:
            times = entry["times"].get(what, {})
            between = quartiles(times, lambda seconds: microseconds(seconds, scale))
            cells += [microseconds(times.get("us_per_step")), between, percent(times.get("fraction"))]
        cells += ["/".join(str(times["samples"]) for times in entry["times"].values()), entry["timer"]]
        rows.append((*cells, remark(entry)))
    name = f"{title(contest)}, T = {contest['shape']['T']}, m = {contest['shape']['m']}; µs per step"
    return Table(name, tuple(columns), rows, [alarms(entry) for entry in contest["contenders"]])


def markdown(document: Record) -> str:
    """The session as it goes into validation/README.md: a paragraph, the times, the speeds to reach."""
    card, name = document["card"], document["backend"]
    facts = ", ".join(f"{key} {value}" for key, value in card.items() if key != "name")
    paragraph = [f"{document['date'][:10]}; {card['name']}" + (f" ({facts})" if facts else "") + "."]
    ceiling = document["ceilings"]
    peaks = [f"{ceiling[d] / 1e3:.1f} TFLOP/s in {d}" for d in ("float32", "float64") if d in ceiling]
    if peaks:
        paragraph.append(f"FMA peak {', '.join(peaks)}; copy {ceiling.get('copy', math.nan):.0f} GB/s.")
    paragraph.append(f"`{name}`: {document['conformance'].get('line', 'conformance not run')}.")
    paragraph += [f"{r['tool']}: {r['status']} ({r['detail']})." for r in document["sanitizers"]]
    paragraph += [f"Peer missing, {library}: {why}." for library, why in document["missing_peers"].items()]
    if document["left_out"]:
        left = "; ".join(title(entry) for entry in document["left_out"])
        paragraph.append(f"Left out, {document['left_out'][0]['why']}: {left}.")
    paragraph.append(
        "Medians in µs per step; of a peer forward / forward + backward, and in brackets how many times as long as the "
        "backend it takes for the latter."
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
        cells += [microseconds(times.get(what, {}).get("us_per_step")) or own["status"] for what in WHAT]
        fractions = [percent(times.get(what, {}).get("fraction")) for what in ("forward", "both")]
        cells.append(" / ".join(filter(None, fractions)))
        cells += [_beside(by_name.get(other), times) for other in others]
        lines.append(_row(cells))
    where: dict[str, list[str]] = {}
    for contest in document["contests"]:
        for entry in contest["contenders"]:
            if entry["status"] != "timed":
                where.setdefault(f"{entry['name']}: {entry['status']}: {entry['detail']}", []).append(title(contest))
    details = [f"{what} ({'; '.join(titles)})." for what, titles in where.items()]
    reduced: dict[str, tuple[float, float]] = {}
    for entry in entries:
        if entry["inexact"] and entry["times"]:
            pairs = [(float(error["error"]), float(error["tolerance"])) for error in entry["errors"].values()]
            reduced[entry["name"]] = max([*pairs, reduced.get(entry["name"], (0.0, 0.0))])
    details += [f"{n}: largest relative error {e:.2g}, tolerance {tol:.2g}." for n, (e, tol) in reduced.items()]
    goals = targets_table(name, document["targets"], every=True)
    lines += ["", *"\n\n".join([*details, ""]).splitlines(), _row(goals.columns), _row(["---"] * len(goals.columns))]
    lines += [_row(row) for row in goals.rows]
    return "\n".join([" ".join(paragraph), "", *lines])


def _beside(entry: Record | None, own: Mapping[str, Any]) -> str:
    if entry is None:
        return ""
    if not entry["times"]:
        return str(entry["status"])
    pair = [microseconds(entry["times"].get(what, {}).get("us_per_step")) for what in ("forward", "both")]
    ratio = entry["times"].get("both", {}).get("median", math.nan) / own.get("both", {}).get("median", math.nan)
    text = " / ".join(pair) + (f" ({number(ratio)})" if math.isfinite(ratio) else "")
    return text + ("" if entry["status"] == "timed" else f", {entry['status']}")


def _row(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"
