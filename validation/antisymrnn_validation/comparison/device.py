"""Everything that is to be measured on a GPU, in one call: ``python -m antisymrnn_validation.comparison.device``.

In this order: conformance of the CuPy backend, with ``compute-sanitizer`` in child processes beside it; the ceilings of
the card; contests against peers on the same card, the most important shapes first; the speeds to reach. All of it keeps
to a budget of time. What was left out is named, and the JSON file is written again after every contest.

Exit codes: 0 all that is compared is right; 1 something is wrong; 2 usage; 3 nothing ran; 130 interrupted, with
everything written that was measured.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import functools
import gc
import importlib
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from antisymrnn_ref import load_backend

try:
    from antisymrnn_validation.comparison import agreement, gpu_tools
    from antisymrnn_validation.comparison.contenders import prepare_backend
    from antisymrnn_validation.comparison.contest import Plan
    from antisymrnn_validation.comparison.device_report import (
        NOTHING_RAN,
        USAGE,
        finished,
        markdown,
        new_document,
        targets_table,
        times_table,
        write,
    )
    from antisymrnn_validation.comparison.gpu import (
        SAMPLES,
        Budget,
        Entrant,
        TooLong,
        cuda_events,
        hold,
        line_up,
        plans,
        usable_libraries,
    )
    from antisymrnn_validation.comparison.gpu_tools import Timer, sanitizers
    from antisymrnn_validation.comparison.workload import Shape, timed_case
    from antisymrnn_validation.conformance.check import Check, Result
    from antisymrnn_validation.conformance.plan import iter_checks
    from antisymrnn_validation.output import files, terminal
    from antisymrnn_validation.output.environment import devices
    from antisymrnn_validation.output.terminal import Record, reason
    from antisymrnn_validation.reports import tables
    from antisymrnn_validation.truth.calls import limited
    from antisymrnn_validation.truth.cases import CELLS
except ModuleNotFoundError as missing:
    if (missing.name or "antisymrnn").startswith("antisymrnn"):
        raise
    print(f"device: the package {missing.name} is missing: pip install 'antisymrnn-ref[validation]'", file=sys.stderr)
    sys.exit(2)

BUDGET_SECONDS = 520.0
"""All but the last writing, of the nine minutes that a call may take."""

HANGING_SECONDS = 30.0
"""So long after the budget the process ends, whatever the device does."""

CONFORMANCE_SECONDS = 240.0
CONTEST_SECONDS = 10.0
"""No contest begins with less than this left."""


DTYPES = ("float32", "float64")


class Machine(NamedTuple):
    """The device that is measured.

    Attributes
    ----------
    card : dict
        What is known of it; ``name`` at least.
    elapsed : Timer
        Events on the stream of the backend.
    ceilings : callable
        FMA loop in GFLOP/s by dtype, and ``copy`` in GB/s.
    release : callable
        Gives memory that nobody uses back to the device.
    """

    card: dict[str, Any]
    elapsed: Timer
    ceilings: Callable[[], dict[str, float]]
    release: Callable[[], Any] = lambda: None


def wide_checks() -> list[Check]:
    """More units than the conformance cases have, for kernels that only these reach, against the specification."""

    def check(cell: str, shape: Shape, dtype: str, keep_every: int) -> Check:
        case = timed_case(cell, shape, dtype)

        def run(backend: ModuleType) -> Result:
            results = lambda: prepare_backend(backend, case, keep_every=keep_every).results()  # noqa: E731
            return agreement.check_timed(results, case, agreement.timed_reference(case))

        return Check("wide", f"{case.name} keep_every={keep_every}", run)

    shapes = [Shape(8, 24, 2, 300), Shape(8, 24, 6, 512), Shape(8, 24, 2, 600)]
    every = [(cell, shape, dtype, k) for cell in CELLS for shape in shapes for dtype in DTYPES for k in (1, 3)]
    crowded = [(cell, Shape(4, 1024, 2, 1024), "float32", 2) for cell in CELLS]  # more tiles than run at once
    return [check(*arguments) for arguments in (*every, *crowded)]


def run_checks(backend: ModuleType, every: Sequence[Check], budget: Budget, told: list[Record]) -> None:
    """Add the records of the conformance checks to ``told``, of as many as fit the budget."""
    with contextlib.suppress(TooLong):
        for check in every:
            with limited(budget.left(), TooLong):
                result = check.run(backend)
            if budget.left() <= 0:
                break  # a failure may be the alarm
            errors = {name: entry._asdict() for name, entry in result.errors.items()}
            told.append({"backend": backend.__name__, **result._asdict(), "errors": errors})


def conformance_record(told: Sequence[Record], total: int) -> Record:
    """Counts and failures of the conformance checks that ran."""
    counts = tables.status_counts(told)
    return {
        "line": tables.conform_line(told, total),
        "total": total,
        **{status: counts[status] for status in ("passed", "failed", "not applicable")},
        "failures": [record for record in told if tables.contradicts(record)],
    }


def session(
    name: str,
    backend: ModuleType,
    machine: Machine,
    entrants: Callable[[str, ModuleType | None], Sequence[Entrant]],
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
    """Measure everything; ``document`` holds at any moment what there is, also if an interrupt ends it.

    Parameters
    ----------
    name : str
    backend : module
    machine : Machine
    entrants : callable
        Those of a cell; takes the cell, and the backend or None if it must not be timed.
    every : sequence of Check
    chosen : sequence of Plan
    watched : callable
        What the sanitizers found.
    budget : Budget
    document : dict
    samples : int
    begin, save : callable
        Called when something begins, and when something more is known.
    """
    limit = min(budget.end, budget.clock() + CONFORMANCE_SECONDS)
    begin(f"conformance, {len(every)} checks")
    records: list[Record] = []
    try:
        run_checks(backend, every, budget._replace(end=limit), records)
    finally:
        told = document["conformance"] = conformance_record(records, len(every))
    print(f"{name}: {told['line']}", flush=True)
    for failed in told["failures"]:
        print(tables.failure(failed))
    save()
    right = backend if told["passed"] and not told["failed"] else None
    begin("sanitizers")
    document["sanitizers"] = watched()
    for record in document["sanitizers"]:
        print(f"{record['tool']}: {record['status']}: {record['detail']}", flush=True)
    save()
    begin("ceilings")
    try:
        document["ceilings"] = machine.ceilings()
    except Exception as error:  # noqa: BLE001  times mean something without them
        document["ceilings_missing"] = reason(error)
    save()
    line_ups = {cell: entrants(cell, right) for cell in CELLS}
    for plan in chosen:
        if budget.left() < CONTEST_SECONDS:
            break
        entered = [entrant for entrant in line_ups[plan.cell] if entrant.takes(plan)]
        peak = document["ceilings"].get(plan.dtype, math.nan)
        record, interrupted = hold(plan, entered, peak, budget, samples=samples, begin=begin)
        document["contests"].append(record)
        terminal.show(times_table(record))
        sys.stdout.flush()
        if interrupted:
            raise KeyboardInterrupt
        save()
        try:
            machine.release()
        except Exception as error:  # noqa: BLE001  of a broken device: what was measured stands, and the rest is tried
            print(f"memory was not given back: {reason(error)}", flush=True)


def gpu(cupy: Any) -> Machine:
    """The current GPU, through CuPy."""
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    found = properties["name"]
    card: dict[str, Any] = {
        "name": found.decode() if isinstance(found, bytes) else str(found),
        "multiprocessors": int(properties["multiProcessorCount"]),
        "CUDA runtime": int(cupy.cuda.runtime.runtimeGetVersion()),
        "CuPy": str(cupy.__version__),
    }
    fields = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit"
    answer = devices(fields)[0]
    if answer.startswith("none"):
        card["nvidia-smi"] = answer
    else:
        card |= dict(zip(fields.split(","), (part.strip() for part in answer.split(",")), strict=False))
    elapsed = cuda_events(cupy)

    def measured() -> dict[str, float]:
        told = {dtype: gpu_tools.fma_gflops(cupy, elapsed, dtype, card["multiprocessors"]) for dtype in DTYPES}
        busy = devices("clocks.sm")[0]
        if not busy.startswith("none"):
            card["clocks.sm after the FMA loop"] = busy
        return told | {"copy": gpu_tools.copy_gigabytes(cupy, elapsed)}

    def release() -> None:
        gc.collect()
        cupy.get_default_memory_pool().free_all_blocks()
        if (torch := sys.modules.get("torch")) is not None:
            torch.cuda.empty_cache()

    return Machine(card, elapsed, measured, release)


def found_gpu() -> tuple[Any, str]:
    """CuPy, and why there is nothing to measure on; empty if there is a GPU."""
    try:
        cupy = importlib.import_module("cupy")
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # noqa: BLE001  CuPy missing or broken, no driver, no device
        return None, reason(error)
    return cupy, "" if count else "CuPy finds no GPU"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; the exit code."""
    start = time.monotonic()
    parser = argparse.ArgumentParser("device", description="Check and time the CuPy backend on this GPU.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to FILE as strict JSON")
    parser.add_argument("--quick", action="store_true", help="fewer checks, n = B = 128 alone")
    asked = parser.parse_args(arguments)
    try:
        if asked.json:
            files.check_writable(asked.json)
    except files.ReportError as error:
        print(f"device: {error}", file=sys.stderr)
        return USAGE
    cupy, why_not = found_gpu()
    try:
        backend = load_backend("cupy") if not why_not else None
    except Exception as error:  # noqa: BLE001  whatever it is, there is nothing to measure
        backend, why_not = None, reason(error)
    if backend is None:
        print(f"device: nothing ran: {why_not}", file=sys.stderr)
        return NOTHING_RAN
    # a kernel that hangs would hold this thread for ever; what was measured before is written by then
    faulthandler.dump_traceback_later(BUDGET_SECONDS + HANGING_SECONDS, exit=True)
    return measured("cupy", backend, gpu(cupy), Budget(time.monotonic, start + BUDGET_SECONDS), asked.json, asked.quick)


def measured(
    name: str,
    backend: ModuleType,
    machine: Machine,
    budget: Budget,
    path: Path | None,
    quick: bool,
    *,
    libraries: Callable[[], Mapping[str, str]] = usable_libraries,
    chosen: Sequence[Plan] | None = None,
    every: Sequence[Check] | None = None,
    entrants: Callable[[str, ModuleType | None], Sequence[Entrant]] | None = None,
    samples: int = SAMPLES,
) -> int:
    """A session from beginning to end: measured, shown, written; the exit code."""
    chosen = plans(quick=quick) if chosen is None else chosen
    start = budget.clock()
    document = new_document(name, machine.card, quick=quick)

    def save() -> None:
        document["card"] = dict(machine.card)
        line, code = finished(document, chosen)
        write(path, document, f"unfinished: {line}", code, budget.clock() - start)

    with _terminated_as_interrupted():
        try:
            found = libraries()
            document["missing_peers"] = {library: why for library, why in found.items() if why}
            for library, why in document["missing_peers"].items():
                print(f"peer missing, {library}: {why}")
            checked = [*iter_checks(name, quick=quick), *wide_checks()] if every is None else every
            lined = entrants or functools.partial(_lined_up, name, machine.elapsed, found)
            with sanitizers(name, budget.clock) as watched:
                session(
                    name, backend, machine, lined, checked, chosen, watched, budget, document,
                    samples=samples, begin=lambda what: _tell(budget.clock() - start, what), save=save,
                )  # fmt: skip
        except KeyboardInterrupt:
            document["interrupted"] = True
    document["card"] = dict(machine.card)
    line, code = finished(document, chosen)
    terminal.show(targets_table(document["targets"]))
    print(markdown(document), end="\n\n")
    print(f"device: {line}", flush=True)
    write(path, document, line, code, budget.clock() - start)
    return code


def _tell(seconds: float, what: str) -> None:
    """What begins now, for whoever watches; the results have stdout."""
    print(f"{seconds:5.0f} s  {what}", file=sys.stderr, flush=True)


def _lined_up(
    name: str, elapsed: Timer, libraries: Mapping[str, str], cell: str, backend: ModuleType | None
) -> list[Entrant]:
    return line_up(cell, name, backend, elapsed, libraries)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Whoever ends the process by SIGTERM gets what was measured too."""

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


if __name__ == "__main__":
    sys.exit(main())
