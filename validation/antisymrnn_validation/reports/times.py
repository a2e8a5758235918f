"""Records of ``compare`` and of ``train --profile`` as tables and summary lines, and how numbers are written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from antisymrnn_validation.output.terminal import BROKE_OFF, Record, Table
from antisymrnn_validation.reports.tables import of

CONTENDER_STATUSES = ("timed", "cut short", "not timed", "wrong", BROKE_OFF)
"""Of the contenders of ``compare``."""


def times_table(contest: Record, beside: Sequence[str]) -> Table:
    """One row for each contender of a contest; ``beside`` names the backends that the others' times are divided by."""
    T, B, m, n = (contest["shape"][name] for name in "TBmn")
    title = f"{contest['cell']}, T = {T}, B = {B}, m = {m}, n = {n}, {contest['dtype']}; times in ms"
    columns = ["contender", "forward", "quartiles", "of peak", "f + b", "quartiles", "of peak", "GFLOP/s"]
    for name in beside:
        columns += [f"forward / {name}", f"f + b / {name}"]
    columns += ["samples", "rejected", "note"]
    by_name = {entry["name"]: entry for entry in contest["contenders"]}
    rows, alarming = [], []
    for entry in contest["contenders"]:
        pair = [entry["times"].get(what, {}) for what in ("forward", "both")]
        cells = [entry["name"]]
        for times in pair:
            cells += [milliseconds(times.get("median")), quartiles(times), percent(times.get("fraction"))]
        cells.append(number(pair[1].get("gflops"), ".1f"))
        for name in beside:
            cells += [_ratio(entry, by_name.get(name), what) for what in ("forward", "both")]
        cells += ["/".join(str(times[key]) for times in pair if times) for key in ("samples", "rejected")]
        rows.append((*cells, remark(entry)))
        alarming.append(alarms(entry))
        if "everything" in entry["times"]:
            rows.append(_everything_row(entry, len(columns), contest["extra_bytes"]))
            alarming.append(alarms(entry))
    return Table(title, tuple(columns), rows, alarming)


def remark(contender: Record) -> str:
    """Why a contender of a contest was not timed, or not in full, and what else is to be said of it."""
    short = "" if contender["status"] == "timed" else f"{contender['status']}: {contender['detail']}"
    return "; ".join(filter(None, (short, contender["note"])))


def alarms(contender: Record) -> bool:
    """Whether the row of a contender is drawn as an alarm."""
    return contender["status"] == "not timed" or contender_contradicts(contender)


def contender_contradicts(record: Record) -> bool:
    """Whether something is wrong with a contender: a peer that broke off is missing, and no more than that."""
    return bool(record["status"] == "wrong" or (record["status"] == BROKE_OFF and record["kind"] == "backend"))


def memory_table(records: Sequence[Record]) -> Table:
    """One row for each contender and each case whose memory was measured."""
    columns = ("contender", "case", "forward and backward, MB", "imports alone, MB", "why not")
    rows = [
        (r["name"], r["case"], *(number(r.get(key), ".1f", 1e-6) for key in ("bytes", "imported")), r["detail"])
        for r in records
    ]
    return Table("Peak memory, each in a process of its own", columns, rows, [bool(r["detail"]) for r in records])


def first_calls_table(records: Sequence[Record]) -> Table:
    """One row for each backend, cell and dtype, cold and from a filled cache."""
    columns = ("backend", "cell", "dtype", "cache", "import, s", "first forward, s", "first backward, s", "why not")
    rows, alarming = [], []
    for r in records:
        for cache in ("cold", "warm"):
            seconds = tuple(number(r.get(cache, {}).get(key), ".3f") for key in ("import", "forward", "backward"))
            rows.append((r["name"], r["cell"], r["dtype"], cache, *seconds, r["detail"]))
            alarming.append(bool(r["detail"]))
    return Table("First calls, each in a process of its own", columns, rows, alarming)


def targets_table(backend: str, records: Sequence[Record], *, every: bool = False) -> Table:
    """One row for each speed to reach that was measured; for ``every`` one, why not if it was not measured."""
    measured = [r for r in records if r["verdict"] != "not measured"]
    rows = []
    shown = records if every else measured
    for r in shown:
        what = {"forward": "forward", "both": "forward + backward"}[r["what"]]
        shape = ",".join(str(r["shape"][name]) for name in "TBmn")
        reached = percent(r["reached"]) if r["measure"].startswith("fraction") else number(r["reached"])
        row = (r["cell"], shape, r["dtype"], what, r["asked"], reached, r["verdict"])
        rows.append((*row, r["stretch_verdict"], r["why"]) if every else row)
    more = ("stretch", "why not measured") if every else ()
    columns = ("cell", "T,B,m,n", "dtype", "of", "asked", "reached", "verdict", *more)
    name = f"Speeds to reach: {backend}, {len(measured)} of {len(records)} measured"
    return Table(name, columns, rows, [r["verdict"] == "not met" for r in shown])


def units_table(records: Sequence[Record]) -> Table:
    """Of each contender, cell, dtype and array the case with the largest error in units of the specification's."""
    columns = ("contender", "cell", "dtype", "array", "error", "in units of the specification's", "case")
    rows, alarming = [], []
    worst: dict[tuple[str, ...], tuple[float, float, str, bool]] = {}
    for record in records:
        head = (record["name"], record["cell"], record["dtype"])
        for array, entry in record["errors"].items():
            wrong = not entry["error"] <= entry["tolerance"]
            row = (entry["units"], entry["error"], record["case"], wrong)
            worst[(*head, array)] = max(worst.get((*head, array), row), row)
        if not record["errors"]:
            why = f"{record['case']}: {record['status']}: {record['detail']}"
            worst[(*head, "none")] = (math.nan, math.nan, why, contender_contradicts(record))
    for key, (units, error, case, wrong) in worst.items():
        numbers = ("", "") if key[-1] == "none" else (f"{error:.2e}", f"{units:.2f}")
        rows.append((*key, *numbers, case))
        alarming.append(wrong)
    return Table("Largest errors against the certified truth", columns, rows, alarming)


def contenders_tally(contests: Sequence[Record]) -> str:
    """How many contenders of all contests have which status."""
    counts = Counter(entry["status"] for contest in contests for entry in contest["contenders"])
    return ", ".join(f"{counts[status]} {status}" for status in CONTENDER_STATUSES if counts[status])


def compare_line(contests: Sequence[Record], total: int, red: Sequence[str]) -> str:
    """How many contests were held, and the statuses of the contenders."""
    tally = contenders_tally(contests)
    line = f"contests: {of(len(contests), total)}" + (f"; contenders: {tally}" if tally else "")
    return line + (f"; NOT CONFORMANT: {', '.join(red)}" if red else "")


def _everything_row(entry: Record, width: int, extra_bytes: float) -> tuple[str, ...]:
    """What an initial state, a cotangent on every state and dL/dx add."""
    times = entry["times"]["everything"]
    extra = times["median"] - entry["times"].get("both", {}).get("median", math.nan)
    note = f"h0, g on every state, dx: {1e-6 * extra_bytes:.1f} MB more"
    if math.isfinite(extra):
        note += f" in {1e3 * extra:+.2f} ms" + (f", {1e-9 * extra_bytes / extra:.1f} GB/s" if extra > 0 else "")
    timed = (milliseconds(times["median"]), quartiles(times), percent(times["fraction"]))
    middle = ("", "", "", *timed, number(times["gflops"], ".1f"))
    blank = ("",) * (width - len(middle) - 4)
    return (f"{entry['name']}, everything", *middle, *blank, str(times["samples"]), str(times["rejected"]), note)


def _ratio(entry: Record, backend: Record | None, what: str) -> str:
    """Time of a contender over that of a backend."""
    pair = [(record or {}).get("times", {}).get(what, {}).get("median", math.nan) for record in (entry, backend)]
    return number(pair[0] / pair[1], ".2f")


def number(value: Any, form: str = ".3g", scale: float = 1.0) -> str:
    """A number, also from a JSON file, where NaN is a string; nothing if there is none."""
    return "" if value is None or not math.isfinite(float(value)) else format(scale * float(value), form)


def milliseconds(seconds: Any) -> str:
    """Seconds in ms, four digits."""
    return number(seconds, "#.4g", 1e3)


def microseconds(value: Any, scale: float = 1.0) -> str:
    """A number of µs, three digits."""
    return number(value, ".3g" if value is None or float(value) * scale < 100 else ".0f", scale)


def percent(value: Any) -> str:
    """A fraction in %."""
    text = number(value, ".1f", 100.0)
    return f"{text} %" if text else ""


def quartiles(times: Record, shown: Callable[[Any], str] = milliseconds) -> str:
    """The quartiles of something timed."""
    return " to ".join(filter(None, (shown(times.get(key)) for key in ("lower", "upper"))))


def profile_table(parts: Mapping[str, float], iterations: int) -> Table:
    """Where an iteration of training spends its time: one row for each part, in seconds by name."""
    total = sum(parts.values())
    rows = [(part, number(seconds, ".3f", 1e3), percent(seconds / total)) for part, seconds in parts.items()]
    rows.append(("all", number(total, ".3f", 1e3), percent(1.0)))
    columns = ("part", "ms", "of an iteration")
    return Table(f"One iteration of training, mean of {iterations}", columns, rows, [False] * len(rows))


def turns_table(contenders: Mapping[str, Record], batch: int) -> Table:
    """Whole iterations of training in turns: one row for each contender, the first being what the others are over."""
    first = next(iter(contenders.values()))["median"]
    rows = []
    for name, times in contenders.items():
        ratios = number(batch / times["median"], ".0f"), number(times["median"] / first, ".2f")
        rows.append((name, milliseconds(times.get("median")), quartiles(times), *ratios, str(times["samples"])))
    columns = ("contender", "median ms", "quartiles", "sequences/s", "times the first", "samples")
    return Table("The same training in turns", columns, rows, [False] * len(rows))
