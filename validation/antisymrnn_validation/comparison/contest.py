"""One contest: every contender on one cell, shape and dtype, checked, warmed up, timed in turns, put into a record."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from antisymrnn_validation.comparison import agreement, timing, workload
from antisymrnn_validation.comparison.contenders import Contender, backend_contender, peers, prepare_backend
from antisymrnn_validation.comparison.peak import Peak
from antisymrnn_validation.comparison.timing import Sample, Timed
from antisymrnn_validation.comparison.workload import Shape, everything_case, timed_case
from antisymrnn_validation.output.terminal import one_line
from antisymrnn_validation.truth.cases import Case

SHAPES = tuple(
    Shape(*sizes)
    for sizes in ((784, 128, 1, 128), (1024, 128, 3, 256), (1000, 128, 96, 256), (784, 16, 1, 128), (784, 1, 1, 128))
)
"""The paper's, and the first with small batches."""

QUICK_SHAPE = Shape(112, 32, 1, 128)
SAMPLES, QUICK_SAMPLES = 25, 5
WHAT = ("forward", "both", "everything")


class Plan(NamedTuple):
    """What is to be timed: a cell, a shape, a dtype."""

    cell: str
    shape: Shape
    dtype: str


class Entry(NamedTuple):
    """What became of one contender.

    Attributes
    ----------
    contender : Contender
    failure : str
        Why it was not timed: it is wrong, or broke off. Empty if it was.
    samples : dict of str to list of Sample
        By ``forward``, ``both`` and, of a backend, ``everything``.
    """

    contender: Contender
    failure: str
    samples: dict[str, list[Sample]]


def plans(cells: Sequence[str], shapes: Sequence[Shape], dtypes: Sequence[str], *, quick: bool = False) -> list[Plan]:
    """Every combination; of no shapes or dtypes, the defaults.

    These are the shapes of ``SHAPES``, float32, and float64 too at the first of them.
    """
    chosen = list(dict.fromkeys(shapes)) or ([QUICK_SHAPE] if quick else list(SHAPES))
    found = []
    for cell in cells:
        for k, shape in enumerate(chosen):
            default = ("float32", "float64") if not (shapes or quick or k) else ("float32",)
            found += [Plan(cell, shape, dtype) for dtype in dtypes or default]
    return found


def line_up(cell: str, backends: Mapping[str, ModuleType], libraries: Sequence[str]) -> list[Contender]:
    """The contenders of a contest: backends first, then the peers of the cell."""
    return [backend_contender(name, module, cell) for name, module in backends.items()] + peers(cell, libraries)


def hold(
    plan: Plan,
    contenders: Sequence[Contender],
    backends: Mapping[str, ModuleType],
    peak: Peak,
    *,
    samples: int,
    begin: Callable[[str], Any] = lambda _: None,
) -> list[Entry]:
    """Check every contender, then time those that are right.

    Parameters
    ----------
    plan : Plan
    contenders : sequence of Contender
    backends : dict of str to module
        The modules of those of them that are backends.
    peak : Peak
        Of the plan's dtype.
    samples : int
        How many a fast contender is to have of each thing that is timed.
    begin : callable
        Called with a few words when something begins.
    """
    case = timed_case(*plan)
    begin(f"the specification on {case.name}")
    reference = agreement.timed_reference(case)
    failures: dict[str, str] = {}
    timed: dict[tuple[str, str], Timed] = {}

    def broke_off(name: str, error: BaseException) -> None:  # a contender may raise anything: it is its failure
        failures[name] = one_line(f"broke off: {type(error).__name__}: {error}")

    def guarded(name: str, call: Callable[[], Any]) -> Any:
        """What the call gives; one that raises in the middle is not called again, and the others have their turns."""
        try:
            return None if failures[name] else call()
        except (Exception, SystemExit) as error:  # noqa: BLE001
            broke_off(name, error)

    for contender in contenders:
        begin(f"{contender.name} on {case.name}: checks and first calls")
        try:
            failures[contender.name], calls = _ready(contender, backends.get(contender.name), case, reference)
            for what, call in calls.items():
                call()
                wanted = timing.wanted_samples(_seconds(call), samples)
                call = functools.partial(guarded, contender.name, call)
                timed[contender.name, what] = Timed(f"{contender.name}, {what}", call, wanted)
        except (Exception, SystemExit) as error:  # noqa: BLE001
            broke_off(contender.name, error)
    timed = {key: entry for key, entry in timed.items() if not failures[key[0]]}
    taken = timing.take_turns(
        list(timed.values()), peak.look, peak.steady, begin=lambda k: begin(f"{case.name}: round {k + 1}")
    )
    by_key = {key: samples for key, samples in zip(timed, taken, strict=True) if not failures[key[0]]}
    return [
        Entry(
            contender,
            failures[contender.name],
            {what: by_key[contender.name, what] for what in WHAT if (contender.name, what) in by_key},
        )
        for contender in contenders
    ]


def record(plan: Plan, entries: Sequence[Entry], peak_gflops: float, steady_gflops: float) -> dict[str, Any]:
    """What a contest came to, as the tables show it and the JSON document keeps it.

    Parameters
    ----------
    plan : Plan
    entries : sequence of Entry
    peak_gflops, steady_gflops : float
        The FMA peak, and what the machine can hold of it, by which samples count. The latter may have risen since they
        were taken: those taken below ``timing.GATE`` of it no longer do.

    Returns
    -------
    dict
        The plan, ``peak_gflops``, ``steady_gflops``, ``extra_bytes``, and ``contenders``: of each its ``status``
        (``timed``, ``wrong``, or ``not timed`` if no sample counted), ``detail``, ``operations``, and by what was timed
        the statistics, ``gflops`` and ``fraction`` of the peak.
    """
    return {
        "cell": plan.cell,
        "shape": plan.shape._asdict(),
        "dtype": plan.dtype,
        "peak_gflops": peak_gflops,
        "steady_gflops": steady_gflops,
        "extra_bytes": workload.extra_bytes(plan.shape, plan.dtype),
        "contenders": [_contender_record(plan, entry, peak_gflops, steady_gflops) for entry in entries],
    }


def counted(contest: Mapping[str, Any]) -> list[int]:
    """How many samples count of everything that was timed, in order."""
    return [times["samples"] for contender in contest["contenders"] for times in contender["times"].values()]


def _contender_record(plan: Plan, entry: Entry, peak_gflops: float, steady_gflops: float) -> dict[str, Any]:
    contender = entry.contender
    forward = workload.forward_operations(contender.counted_as, plan.shape)
    backward, all_of_backward = (
        workload.backward_operations(contender.counted_as, plan.shape, input_gradient=asked) for asked in (False, True)
    )
    operations = {"forward": forward, "both": forward + backward, "everything": forward + all_of_backward}
    times = {}
    for what, samples in entry.samples.items():
        summary = timing.summary(samples, steady_gflops)
        gflops = 1e-9 * operations[what] / summary.median
        times[what] = {**summary._asdict(), "gflops": gflops, "fraction": gflops / peak_gflops}
    without = [f"{what} in {len(entry.samples[what])} attempts" for what in times if not times[what]["samples"]]
    detail = entry.failure or (f"the machine was never at its peak: {', '.join(without)}" if without else "")
    return {
        "name": contender.name,
        "kind": contender.kind,
        "status": "wrong" if entry.failure else "not timed" if without else "timed",
        "detail": detail,
        "note": f"another cell: {contender.counted_as}" if contender.layer else "",
        "operations": {what: operations[what] for what in times},
        "times": times,
    }


def _ready(
    contender: Contender, backend: ModuleType | None, case: Case, reference: agreement.Reference
) -> tuple[str, dict[str, Callable[[], Any]]]:
    """Why a contender must not be timed, or else the calls to time by name."""
    if contender.kind == "peer":
        small = agreement.check_small(contender, case.cell, str(case.dtype))
        if small.status != "passed":
            return f"wrong on a {small.check}: {small.detail}", {}
    prepared = contender.prepare(case)
    if not contender.layer:
        timed = agreement.check_timed(prepared.results, case, reference)
        if timed.status != "passed":
            return f"wrong on the {timed.check}: {timed.detail}", {}
    calls = {"forward": prepared.forward, "both": prepared.both}
    if backend is not None:
        calls["everything"] = prepare_backend(backend, everything_case(case), input_gradient=True).both
    return "", calls


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
