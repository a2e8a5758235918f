"""compare --device: everything that is to be measured on a GPU, in one call.

In this order: conformance of the CuPy backend, with ``compute-sanitizer`` in child processes beside it; the ceilings of
the card; contests against peers on the same card, the most important shapes first; the speeds to reach. All of it keeps
to a budget of time. What was left out is named, and the JSON file is written again after every contest.
"""

from __future__ import annotations

import contextlib
import datetime
import faulthandler
import functools
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from antisymrnn_ref import load_backend
from antisymrnn_validation.cli.command import (
    AS_EXPECTED,
    CONTRADICTED,
    INTERRUPTED,
    NOTHING_RAN,
    NothingRan,
    run_check,
    title,
    write_results,
)
from antisymrnn_validation.comparison import contest, targets
from antisymrnn_validation.comparison.contenders import Contender
from antisymrnn_validation.comparison.contest import Budget, TooLong
from antisymrnn_validation.comparison.gpu import (
    SAMPLES,
    Machine,
    device_contest,
    found_gpu,
    line_up,
    machine,
    plans,
    usable_libraries,
    wide_checks,
)
from antisymrnn_validation.comparison.gpu_tools import sanitizers
from antisymrnn_validation.comparison.workload import Plan
from antisymrnn_validation.conformance.check import Check
from antisymrnn_validation.conformance.plan import iter_checks
from antisymrnn_validation.output import terminal
from antisymrnn_validation.output.terminal import Record, reason
from antisymrnn_validation.reports import device, tables, times
from antisymrnn_validation.truth.cases import CELLS

BUDGET_SECONDS = 520.0
"""For everything but the last writing: a call may take nine minutes."""

HANGING_SECONDS = 30.0
"""The process ends this long after the budget, whatever the device does."""

CONFORMANCE_SECONDS = 240.0
CONTEST_SECONDS = 10.0
"""No contest begins with less than this left."""


def compare_on_device(json: Path | None, quick: bool) -> int:
    """Check and time the CuPy backend on this GPU; the exit code."""
    start = time.monotonic()
    cupy, why_not = found_gpu()
    if why_not:
        raise NothingRan(why_not)
    try:
        backend = load_backend("cupy")
    except Exception as error:  # whatever it is, there is nothing to measure
        raise NothingRan(reason(error)) from error
    # a kernel that hangs would block this thread for ever; earlier results are written by then
    faulthandler.dump_traceback_later(BUDGET_SECONDS + HANGING_SECONDS, exit=True)
    try:
        return measured("cupy", backend, machine(cupy), Budget(time.monotonic, start + BUDGET_SECONDS), json, quick)
    finally:
        faulthandler.cancel_dump_traceback_later()


def measured(
    name: str,
    backend: ModuleType,
    card: Machine,
    budget: Budget,
    json: Path | None,
    quick: bool,
    *,
    libraries: Callable[[], Mapping[str, str]] | None = None,
    chosen: Sequence[Plan] | None = None,
    every: Sequence[Check] | None = None,
    contenders: Callable[[str, ModuleType | None], Sequence[Contender]] | None = None,
    samples: int = SAMPLES,
) -> int:
    """A session from beginning to end: measured, shown, written; the exit code.

    ``libraries``, ``chosen`` plans, ``every`` check and ``contenders`` replace those of ``comparison/gpu.py``.
    """
    chosen = plans(quick=quick) if chosen is None else chosen
    start, begun = time.perf_counter(), budget.clock()
    document = new_document(name, card.card, quick=quick)

    def save() -> None:
        document["card"] = dict(card.card)
        line, code = finished(document, chosen)
        write_results(json, f"unfinished: {line}", code, start, document)

    def begin(what: str) -> None:  # results have stdout
        print(f"{budget.clock() - begun:5.0f} s  {what}", file=sys.stderr, flush=True)

    with _terminated_as_interrupted():
        try:
            found = (libraries or usable_libraries)()
            document["missing_peers"] = {library: why for library, why in found.items() if why}
            for library, why in document["missing_peers"].items():
                print(f"peer missing, {library}: {why}")
            checks = [*iter_checks(name, quick=quick), *wide_checks()] if every is None else every
            lined_up = contenders or functools.partial(_lined_up, name, card, found)
            with sanitizers(name, budget.clock) as watched:
                session(
                    name, backend, card, lined_up, checks, chosen, watched, budget, document,
                    samples=samples, begin=begin, save=save,
                )  # fmt: skip
        except KeyboardInterrupt:
            document["interrupted"] = True
    document["card"] = dict(card.card)
    line, code = finished(document, chosen)
    line = f"{title('compare --device', quick)}: {line}"
    terminal.show(times.targets_table(name, document["targets"], every=True))
    print(device.markdown(document), end="\n\n")
    print(line, flush=True)
    write_results(json, line, code, start, document)
    return code


def session(
    name: str,
    backend: ModuleType,
    card: Machine,
    contenders: Callable[[str, ModuleType | None], Sequence[Contender]],
    every: Sequence[Check],
    chosen: Sequence[Plan],
    watched: Callable[[], list[Record]],
    budget: Budget,
    document: Record,
    *,
    samples: int = SAMPLES,
    begin: Callable[[str], Any] = lambda _: None,
    save: Callable[[], Any] = lambda: None,
) -> None:
    """Measure everything; ``document`` always holds the results so far, also if an interrupt ends it.

    Parameters
    ----------
    name : str
    backend : module
    card : Machine
    contenders : callable
        Those of a cell; takes the cell, and the backend or None if it must not be timed.
    every : sequence of Check
    chosen : sequence of Plan
    watched : callable
        Waits for the sanitizers and returns their records.
    budget : Budget
    document : dict
    samples : int
    begin, save : callable
        Called when something begins, and when there is something more to save.
    """
    limit = min(budget.end, budget.clock() + CONFORMANCE_SECONDS)
    begin(f"conformance, {len(every)} checks")
    records: list[Record] = []
    try:
        run_checks(backend, every, budget._replace(end=limit), records)
    finally:
        conformance = document["conformance"] = tables.conformance_summary(records, len(every))
    print(f"{name}: {conformance['line']}", flush=True)
    for failed in conformance["failures"]:
        print(tables.failure(failed))
    save()
    right = backend if conformance["passed"] and not conformance["failed"] else None
    begin("sanitizers")
    document["sanitizers"] = watched()
    for record in document["sanitizers"]:
        print(f"{record['tool']}: {record['status']}: {record['detail']}", flush=True)
    save()
    begin("ceilings")
    try:
        document["ceilings"] = card.ceilings()
    except Exception as error:  # noqa: BLE001  times mean something without them
        document["ceilings_missing"] = reason(error)
    save()
    line_ups = {cell: contenders(cell, right) for cell in CELLS}
    for plan in chosen:
        if budget.left() < CONTEST_SECONDS:
            break
        entered = [contender for contender in line_ups[plan.cell] if contender.takes(plan)]
        held = contest.hold(plan, entered, device_contest(budget), samples=samples, begin=begin)
        record = contest.record(plan, held.entries, document["ceilings"].get(plan.dtype, math.nan))
        document["contests"].append(record)
        terminal.show(device.times_table(record))
        sys.stdout.flush()
        if held.interrupted:
            raise KeyboardInterrupt
        save()
        try:
            card.release()
        except Exception as error:  # noqa: BLE001  of a broken device: what was measured stands, and the rest is tried
            print(f"memory was not given back: {reason(error)}", flush=True)


def run_checks(backend: ModuleType, every: Sequence[Check], budget: Budget, records: list[Record]) -> None:
    """Add the records of the conformance checks to ``records``, of as many as fit the budget."""
    with contextlib.suppress(TooLong):
        for check in every:
            with budget.limit():
                record = run_check(backend.__name__, check, backend)
            if budget.left() <= 0:
                break  # a failure may be the alarm
            records.append(record)


def new_document(name: str, card: Mapping[str, Any], *, quick: bool) -> Record:
    """The document of a session in which nothing has been measured yet."""
    return {
        "command": "compare", "device": True, "quick": quick, "backend": name, "card": dict(card),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"), "interrupted": False,
        "missing_peers": {},
        "conformance": {}, "sanitizers": [], "ceilings": {}, "contests": [], "left_out": [], "targets": [],
    }  # fmt: skip


def finished(document: Record, chosen: Sequence[Plan]) -> tuple[str, int]:
    """Fill in what follows from the rest, the targets and what was left out; the last line, and the exit code."""
    contests, conformance = document["contests"], document["conformance"]
    why = "interrupted" if document["interrupted"] else "the time was used up"
    document["left_out"] = [
        {"cell": plan.cell, "shape": plan.shape._asdict(), "dtype": plan.dtype, "why": why}
        for plan in chosen[len(contests) :]
    ]
    document["targets"] = targets.records(
        targets.DEVICE_TARGETS, document["backend"], contests, card=document["card"]["name"]
    )
    tally = times.contenders_tally(contests)
    line = f"conformance {conformance.get('line', 'not run')}; {len(contests)} of {len(chosen)} contests"
    line += f": {tally}" if tally else ""
    verdicts = [record["verdict"] for record in document["targets"]]
    line += f"; targets: {', '.join(f'{verdicts.count(v)} {v}' for v in dict.fromkeys(verdicts))}"
    if document["left_out"]:
        line += f"; LEFT OUT, {why}: {'; '.join(device.title(entry) for entry in document['left_out'])}"
    found = [record["tool"] for record in document["sanitizers"] if record["status"] == "found"]
    line += f"; ERRORS FOUND BY: {', '.join(found)}" if found else ""
    if document["interrupted"]:
        return f"INTERRUPTED; {line}", INTERRUPTED
    entries = [entry for record in contests for entry in record["contenders"]]
    if conformance.get("failed") or found or any(map(times.contender_contradicts, entries)):
        return line, CONTRADICTED
    ran = conformance.get("passed") and any(entry["status"] in ("timed", "cut short") for entry in entries)
    return line, AS_EXPECTED if ran else NOTHING_RAN


def _lined_up(
    name: str, card: Machine, libraries: Mapping[str, str], cell: str, backend: ModuleType | None
) -> list[Contender]:
    return line_up(cell, name, backend, card.elapsed, libraries)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends the session as Ctrl-C does: with everything measured written."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
