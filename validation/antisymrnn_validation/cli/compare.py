"""compare: conformance, then times or accuracies beside peers."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Annotated, Any, NamedTuple

import typer

from antisymrnn_validation.cli.command import (
    AS_EXPECTED,
    CONTRADICTED,
    NOTHING_RAN,
    Json,
    Quick,
    UsageError,
    among,
    backends_by_name,
    check_writable,
    command,
    each,
    import_package,
    run_checks,
    title,
    write_results,
)
from antisymrnn_validation.output import terminal
from antisymrnn_validation.output.terminal import Record
from antisymrnn_validation.reports import tables, times


@command
def compare(
    backends: Annotated[
        list[str] | None,
        typer.Argument(metavar="BACKENDS", help="Names or module paths. Default: every backend that can run."),
    ] = None,
    peers: Annotated[str, typer.Option(metavar="LIST", help="Peers beside NumPy's: torch, jax, or torch,jax.")] = "",
    shape: Annotated[
        list[str] | None, typer.Option(metavar="T,B,m,n", help="Sizes to time. May be repeated. Default: the paper's.")
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(metavar="DTYPE", help="float32 or float64. May be repeated.")
    ] = None,
    cell: Annotated[
        list[str] | None, typer.Option(metavar="CELL", help="antisymmetric or gated. May be repeated. Default: both.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(metavar="N", help="Samples of a fast contender; a slow one has fewer. Default: 25.")
    ] = None,
    accuracy: Annotated[
        bool, typer.Option("--accuracy", help="Errors against certified truth instead of times.")
    ] = False,
    device: Annotated[
        bool,
        typer.Option(
            "--device",
            help="Check and time the CuPy backend on this GPU, in nine minutes at most; takes --quick and --json.",
        ),
    ] = False,
    quick: Quick = False,
    json: Json = None,
) -> int:
    """Time backends beside the specification and peers.

    Conformance first: a backend that fails a check is reported and not timed. Then forward, and forward and backward,
    of every contender in turns, beside the peak of the machine. The exit code is 1 if a backend or a result is wrong or
    something could not be timed; slowness and peers that break off do not change it.
    """
    check_writable(json)
    if device:
        _refuse_beside_device(backends, peers, shape, dtype, cell, samples, accuracy)
        from antisymrnn_validation.cli.device import compare_on_device

        return compare_on_device(json, quick)
    asked = _asked(peers, shape, dtype, cell, samples, quick)
    modules, not_run = _compared(backends)
    start = time.perf_counter()
    head: Record = {"command": "compare", "device": False, "quick": quick, "accuracy": accuracy, "not_run": not_run}
    if not_run:
        print("\n".join(f"backend {name} not run: {reason}" for name, reason in not_run.items()), end="\n\n")
    if accuracy:
        line, code, results = _accuracies(modules, asked, quick)
    else:
        line, code, results = _times(modules, asked, quick)
    line = f"{title('compare', quick)}: {line}"
    print(line)
    write_results(json, line, code, start, head | results)
    return code


def _refuse_beside_device(
    backends: Sequence[str] | None,
    peers: str,
    shapes: Sequence[str] | None,
    dtypes: Sequence[str] | None,
    cells: Sequence[str] | None,
    samples: int | None,
    accuracy: bool,
) -> None:
    """The session on a device has its own shapes, peers and samples, and one backend."""
    if other := [name for name in backends or [] if name != "cupy"]:
        raise UsageError(f"--device: checks and times the backend cupy alone, got {', '.join(other)}")
    given = {
        "--peers": peers, "--shape": shapes, "--dtype": dtypes, "--cell": cells,
        "--samples": samples is not None, "--accuracy": accuracy,
    }  # fmt: skip
    if both := [option for option, value in given.items() if value]:
        raise UsageError(f"--device cannot be combined with {', '.join(both)}")


class Asked(NamedTuple):
    """The options of compare, checked."""

    libraries: list[str]
    shapes: list[Any]
    dtypes: list[str]
    cells: list[str]
    samples: int


def _asked(
    peers: str,
    shapes: Sequence[str] | None,
    dtypes: Sequence[str] | None,
    cells: Sequence[str] | None,
    samples: int | None,
    quick: bool,
) -> Asked:
    from antisymrnn_validation.comparison import contest
    from antisymrnn_validation.comparison.contenders import LIBRARIES
    from antisymrnn_validation.truth.cases import CELLS

    libraries = among("--peers", LIBRARIES, peers.split(",") if peers else [])
    for library in libraries:
        import_package(library, "peers")
    if samples is not None and samples < 1:
        raise UsageError(f"--samples: expected at least 1, got {samples}")
    return Asked(
        libraries,
        list(dict.fromkeys(map(_shape, shapes or []))),
        among("--dtype", ("float32", "float64"), dtypes or []),
        among("--cell", CELLS, cells or CELLS),
        samples or (contest.QUICK_SAMPLES if quick else contest.SAMPLES),
    )


def _shape(text: str) -> Any:
    """T, B, m, n of ``--shape``: four whole numbers from 1, whose states fit the memory of the machine."""
    from antisymrnn_validation.comparison.workload import Shape
    from antisymrnn_validation.output.environment import memory_bytes

    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() and part.strip().isascii() for part in parts):
        raise UsageError(f"--shape: expected four whole numbers T,B,m,n such as 784,128,1,128, got {text!r}")
    if any(len(part.strip()) > 10 for part in parts) or not all(sizes := Shape(*map(int, parts))):
        raise UsageError(f"--shape: expected T, B, m and n of at least 1 and at most 10 digits, got {text[:40]!r}")
    needed = 8 * (sizes.T * sizes.B * (sizes.m + 4 * sizes.n) + sizes.n * (sizes.n + sizes.m))
    if needed > (there := memory_bytes()):
        raise UsageError(f"--shape: {text} needs {needed / 1e9:.3g} GB of memory, this machine has {there / 1e9:.3g}")
    return sizes


def _compared(names: Sequence[str] | None) -> tuple[dict[str, ModuleType], dict[str, str]]:
    """The backends to compare by name, each module once, and why others cannot run."""
    found = backends_by_name(list(dict.fromkeys(names)) if names else None)
    modules: dict[str, ModuleType] = {}
    for name, module in found.items():
        if isinstance(module, ModuleType) and all(module is not other for other in modules.values()):
            modules["numpy" if module.__name__ == "antisymrnn_ref" else name] = module
    return modules, {name: reason for name, reason in found.items() if isinstance(reason, str)}


def _conformance(modules: Mapping[str, ModuleType]) -> tuple[list[str], Record]:
    """The names of the backends that are not conformant, and the results of each one's checks."""
    from antisymrnn_validation.conformance import judge

    red, summaries = [], {}
    for name, module in modules.items():
        every = judge.checks_of(module, quick=True)
        records = run_checks(name, module, every)
        summary = summaries[name] = tables.conformance_summary(records, len(every))
        wrong = bool(summary["failures"]) or not summary["passed"]
        red += [name] if wrong else []
        print(f"{name}: {summary['line']}{'; NOT CONFORMANT, not timed' * wrong}", end="\n\n", flush=True)
    return red, summaries


def _times(modules: Mapping[str, ModuleType], asked: Asked, quick: bool) -> tuple[str, int, Record]:
    """The last line, the exit code and the results of compare."""
    import_package("llvmlite.binding", "numba")
    import antisymrnn_ref
    from antisymrnn_validation.comparison import contest, peak, targets

    red, conformance = _conformance(modules)
    right = {name: module for name, module in modules.items() if name not in red}
    if not right:
        line = f"nothing was timed; NOT CONFORMANT: {', '.join(red)}"
        return line, CONTRADICTED, {"conformance": conformance, "contests": []}
    beside = [name for name in right if name != "numpy"] or ["numpy"]
    entered = right if "numpy" in red else {**right, "numpy": antisymrnn_ref}
    plans = contest.plans(asked.cells, asked.shapes, asked.dtypes, quick=quick)
    held, peaks = [], {}
    with contextlib.ExitStack() as stack:
        for name in dict.fromkeys(plan.dtype for plan in plans):
            found = peaks[name] = stack.enter_context(peak.measured_peak(name))
            apart = f"{found.threads} threads, one alone {found.alone:.1f}"
            print(f"FMA peak, {name}: {found.best():.1f} GFLOP/s with {apart}")
        print(flush=True)
        for plan in plans:
            contenders = contest.line_up(plan.cell, entered, asked.libraries)
            clock = contest.host_contest(peaks[plan.dtype])
            with terminal.progress(len(contenders) + 1 + asked.samples) as begin:
                entries, interrupted = contest.hold(plan, contenders, clock, samples=asked.samples, begin=begin)
            if interrupted:
                raise KeyboardInterrupt
            held.append((plan, entries, _record(plan, entries, peaks)))
            terminal.show(times.times_table(held[-1][2], beside))
            sys.stdout.flush()
    contests = []
    for plan, entries, shown in held:  # again, by the peak of the whole run
        last = _record(plan, entries, peaks)
        contests.append(last)
        if contest.counted(last) != contest.counted(shown):
            print(f"The machine was faster later than {shown['steady_gflops']:.1f} GFLOP/s; what still counts:")
            terminal.show(times.times_table(last, beside))
    memory, first_calls = _processes(plans, contests, right)
    reached = {name: targets.records(targets.TARGETS, name, contests) for name in right if name != "numpy"}
    for name, records in reached.items():
        terminal.show(times.targets_table(name, records))
    found_peaks = {
        name: {
            "gflops": p.best(),
            "steady": p.steady(),
            "alone": p.alone,
            "threads": p.threads,
            **p.registers._asdict(),
        }
        for name, p in peaks.items()
    }
    results = {
        "peak": found_peaks, "conformance": conformance, "contests": contests, "memory": memory,
        "first_calls": first_calls, "targets": reached,
    }  # fmt: skip
    every = [entry for record in contests for entry in record["contenders"]]
    statuses = {entry["status"] for entry in every}
    if red or any(map(times.contender_contradicts, every)):
        code = CONTRADICTED
    elif "timed" not in statuses:
        code = NOTHING_RAN
    else:
        code = CONTRADICTED if "not timed" in statuses else AS_EXPECTED
    return times.compare_line(contests, len(plans), red), code, results


def _record(plan: Any, entries: Sequence[Any], peaks: Mapping[str, Any]) -> Record:
    from antisymrnn_validation.comparison import contest

    peak = peaks[plan.dtype]
    return contest.record(plan, entries, peak.best(), peak.steady())


def _processes(
    plans: Sequence[Any], contests: Sequence[Record], backends: Mapping[str, ModuleType]
) -> tuple[list[Record], list[Record]]:
    """Peak memory at the first shape of each cell, and the first calls of each backend."""
    from antisymrnn_validation.comparison import processes

    first: dict[str, tuple[Any, Record]] = {}
    for plan, contest in zip(plans, contests, strict=True):
        first.setdefault(plan.cell, (plan, contest))
    memory = [
        (entry["name"], plan)
        for plan, contest in first.values()
        for entry in contest["contenders"]
        if entry["status"] not in ("wrong", terminal.BROKE_OFF)
    ]
    calls = list(dict.fromkeys((name, plan.cell, plan.dtype) for plan in plans for name in backends if name != "numpy"))

    def answered(head: Record, ask: Callable[[], Record]) -> Record:
        try:
            return {**head, "detail": "", **ask()}
        except processes.ProcessError as error:
            return {**head, "detail": str(error)}

    used = each(
        memory,
        lambda item: f"memory of {item[0]}",
        lambda item: answered(
            {"name": item[0], "case": f"{item[1].cell} {item[1].shape} {item[1].dtype}"},
            lambda: processes.peak_memory(item[0], *item[1]),
        ),
    )
    terminal.show(times.memory_table(used))
    began = each(
        calls,
        lambda item: f"first calls of {item[0]}",
        lambda item: answered(
            dict(zip(("name", "cell", "dtype"), item, strict=True)), lambda: processes.first_calls(*item)
        ),
    )
    if began:
        terminal.show(times.first_calls_table(began))
    return used, began


def _accuracies(modules: Mapping[str, ModuleType], asked: Asked, quick: bool) -> tuple[str, int, Record]:
    """The last line, the exit code and the results of compare --accuracy."""
    import antisymrnn_ref
    from antisymrnn_validation.comparison import agreement, contest

    cases = agreement.accuracy_cases(asked.cells, asked.dtypes or ["float64", "float32"], quick=quick)
    entered = {**modules, "numpy": antisymrnn_ref}
    pairs = [
        (contender, case)
        for case in cases
        for contender in contest.line_up(case.cell, entered, asked.libraries)
        if not contender.layer
    ]
    records = each(
        pairs,
        lambda pair: f"{pair[0].name}: {pair[1].name}",
        lambda pair: agreement.accuracy_record(*pair),
    )
    terminal.show(times.units_table(records))
    failed: dict[str, dict[str, None]] = {}
    for record in records:
        if record["status"] != "right":
            print(f"{record['name']} {record['status']} on {record['case']}\n  {record['detail']}", end="\n\n")
            failed.setdefault(record["status"], {})[record["name"]] = None
    line = f"accuracy of {len({record['name'] for record in records})} contenders on {len(cases)} cases; "
    line += "; ".join(f"{status}: {', '.join(names)}" for status, names in failed.items())
    line += "" if failed else "all within their tolerances"
    code = CONTRADICTED if any(map(times.contender_contradicts, records)) else AS_EXPECTED
    return line, code, {"accuracies": records}
