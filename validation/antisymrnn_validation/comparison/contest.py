"""One contest, two clocks: every contender on one cell, shape and dtype is checked, timed in turns and recorded.

On the host its clock times one call at a time, under the gate of ``timing.py``: :func:`host_contest`. On a device CUDA
events time several calls at a time, within a budget: ``gpu.device_contest``. Everything else is the same.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from antisymrnn_ref.contract import Array
from antisymrnn_validation.comparison import agreement, timing, workload
from antisymrnn_validation.comparison.agreement import Agreement, Reference
from antisymrnn_validation.comparison.contenders import Contender, backend_contender, peers, prepare_backend
from antisymrnn_validation.comparison.peak import Peak
from antisymrnn_validation.comparison.timing import Sample, Timed
from antisymrnn_validation.comparison.workload import Plan, Shape, everything_case, timed_case
from antisymrnn_validation.output.terminal import BROKE_OFF, Record, placed
from antisymrnn_validation.truth.calls import BrokenPromise, limited
from antisymrnn_validation.truth.cases import Case

SHAPES = tuple(
    Shape(*sizes)
    for sizes in ((784, 128, 1, 128), (1024, 128, 3, 256), (1000, 128, 96, 256), (784, 16, 1, 128), (784, 1, 1, 128))
)
"""The paper's, and the first with small batches."""

QUICK_SHAPE = Shape(112, 32, 1, 128)
SAMPLES, QUICK_SAMPLES = 25, 5

WHAT = ("forward", "inference", "both", "everything")
"""What is timed: ``inference`` of a backend on a device alone, ``everything`` of a backend on the host alone."""

GROSS = 0.05
"""Reduced precision may be this far off, relative to the largest entry; what is farther off is wrong."""


Calls = dict[str, Callable[[], Any]]
"""By entries of ``WHAT``."""


class TooLong(BaseException):
    """Time is up for what runs; no ``except Exception`` of a library may swallow it."""


class Budget(NamedTuple):
    """A clock, and the time on it at which all must end."""

    clock: Callable[[], float]
    end: float

    def left(self) -> float:
        """Seconds."""
        return self.end - self.clock()

    def limit(self, patience: float = math.inf) -> contextlib.AbstractContextManager[None]:
        """Raise :class:`TooLong` within, when the budget is used up or after ``patience`` seconds."""
        seconds = min(patience, self.left())
        return limited(seconds, TooLong) if math.isfinite(seconds) else contextlib.nullcontext()


UNLIMITED = Budget(lambda: 0.0, math.inf)


class Turn(NamedTuple):
    """One thing of one contender that is to be timed.

    Attributes
    ----------
    contender : Contender
    what : str
        An entry of ``WHAT``.
    attempt : callable
        Takes a function of the call to time and returns its result; None if the contender has broken off, breaks off
        now, or the time is up.
    samples : list of Sample
        Taken so far; they are kept if the contest is interrupted.
    """

    contender: Contender
    what: str
    attempt: Callable[[Callable[[Callable[[], Any]], Any]], Any]
    samples: list[Sample]


class Clock(NamedTuple):
    """What differs between a contest on the host and one on a device.

    Attributes
    ----------
    more : callable
        Takes the module of a backend, the case and its last state; returns the calls to time beside ``forward`` and
        ``both``, by name, or raises BrokenPromise if they are wrong.
    take_turns : callable
        Takes the turns, how many samples each is to have, and what to call with a few words when something begins.
    all_samples : bool
        Whether a contender with fewer samples is ``cut short``.
    budget : Budget
    """

    more: Callable[[ModuleType, Case, Array], Calls]
    take_turns: Callable[[Sequence[Turn], int, Callable[[str], Any]], None]
    all_samples: bool
    budget: Budget = UNLIMITED


class Ready(NamedTuple):
    """The result of the checks of a contender.

    Attributes
    ----------
    status : str
        Why it is not timed: ``wrong``, ``broke off`` or ``not timed``. Empty if it can be timed.
    detail, note : str
    errors : dict
        By array ``error`` and ``tolerance`` on the timed case.
    """

    status: str = ""
    detail: str = ""
    note: str = ""
    errors: Mapping[str, Any] = {}


class Entry(NamedTuple):
    """A contender after a contest; its arrays are gone.

    Attributes
    ----------
    contender : Contender
    ready : Ready
    samples : dict of str to list of Sample
        All attempts, by entries of ``WHAT``; empty if it is wrong or broke off.
    wanted : dict of str to int
        With fewer samples than this of any entry it is ``cut short``.
    """

    contender: Contender
    ready: Ready
    samples: Mapping[str, list[Sample]]
    wanted: Mapping[str, int] = {}


class Held(NamedTuple):
    """The entries of a contest, and whether Ctrl-C ended it."""

    entries: list[Entry]
    interrupted: bool


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
    """The contenders of a contest on the host: backends first, then the peers of the cell."""
    return [backend_contender(name, module, cell) for name, module in backends.items()] + peers(cell, libraries)


def host_contest(peak: Peak) -> Clock:
    """Timing by the clock of the host, with looks at the FMA peak of the plan's dtype around each sample."""

    def take_turns(turns: Sequence[Turn], samples: int, begin: Callable[[str], Any]) -> None:
        seconds = [turn.attempt(lambda call: timing.host_clock()(call, 1)) for turn in turns]
        broken = {turn.contender.name for turn, once in zip(turns, seconds, strict=True) if once is None}
        left = [pair for pair in zip(turns, seconds, strict=True) if pair[0].contender.name not in broken]
        timed = [
            Timed(
                f"{turn.contender.name}, {turn.what}",
                functools.partial(turn.attempt, lambda call: call()),
                timing.wanted_samples(once, samples),
            )
            for turn, once in left
        ]
        taken = timing.take_turns(timed, peak.look, peak.steady, begin=lambda k: begin(f"round {k + 1}"))
        for (turn, _), found in zip(left, taken, strict=True):
            turn.samples.extend(found)

    def more(backend: ModuleType, case: Case, _: Array) -> Calls:
        return {"everything": prepare_backend(backend, everything_case(case), input_gradient=True).both}

    return Clock(more, take_turns, all_samples=False)


def hold(
    plan: Plan,
    contenders: Sequence[Contender],
    clock: Clock,
    *,
    samples: int,
    begin: Callable[[str], Any] = lambda _: None,
) -> Held:
    """Check every contender, then time those that are right in turns.

    Parameters
    ----------
    plan : Plan
    contenders : sequence of Contender
    clock : Clock
    samples : int
        How many a fast contender is to have of each thing that is timed.
    begin : callable
        Called with a few words when something begins.

    Returns
    -------
    Held
        Also after Ctrl-C, with everything measured until then.
    """
    case = timed_case(*plan)
    ready: dict[str, Ready] = {}
    calls: dict[tuple[str, str], Callable[[], Any]] = {}
    turns: list[Turn] = []
    interrupted = False

    @functools.cache
    def reference(layer: str) -> Reference | None:
        begin(f"{case.name}: reference for {layer or 'the cell'}")
        with clock.budget.limit():
            if layer:
                return agreement.layer_timed_reference(case) if layer == "RNN" else None
            return agreement.timed_reference(case)

    def attempt(name: str, what: str, work: Callable[[Callable[[], Any]], Any]) -> Any:
        if ready[name].status:
            return None  # what has broken off is not called again, and the others have their turns
        try:
            with clock.budget.limit():
                return work(calls[name, what])
        except TooLong:
            return None
        except (Exception, SystemExit) as error:  # noqa: BLE001  a contender may raise anything
            ready[name] = ready[name]._replace(status=BROKE_OFF, detail=f"{placed(error)} (while timing {what})")
            return None

    try:
        for contender in contenders:
            begin(f"{case.name}: checks and first calls of {contender.name}")
            ready[contender.name], found = make_ready(contender, case, reference, clock)
            calls |= {(contender.name, what): call for what, call in found.items()}
        turns += [
            Turn(contender, what, functools.partial(attempt, contender.name, what), [])
            for contender in contenders
            for what in WHAT
            if (contender.name, what) in calls
        ]
        clock.take_turns(turns, samples, lambda words: begin(f"{case.name}: {words}"))
    except KeyboardInterrupt:
        interrupted = True
    entries = []
    for contender in contenders:
        result = ready.get(contender.name, Ready())
        own = [turn for turn in turns if turn.contender.name == contender.name]
        taken = {} if result.status else {turn.what: turn.samples for turn in own if turn.samples}
        if interrupted and not result.status and not taken:
            result = Ready("not timed", "interrupted")
        wanted = {turn.what: samples if clock.all_samples else 1 for turn in own}
        entries.append(Entry(contender, result, taken, wanted))
    return Held(entries, interrupted)


def make_ready(
    contender: Contender, case: Case, reference: Callable[[str], Reference | None], clock: Clock
) -> tuple[Ready, Calls]:
    """Check a contender on the small case and on the timed one, and make its first calls.

    Parameters
    ----------
    contender : Contender
    case : Case
        The timed one.
    reference : callable
        Of the paper's cell (an empty string) or of a layer, on the timed case; None if there is none.
    clock : Clock

    Returns
    -------
    Ready, dict of str to callable
        The result, and the calls to time by entries of ``WHAT``.
    """
    if clock.budget.left() < contender.needs:
        return Ready("not timed", f"less than {contender.needs:.0f} s were left"), {}
    try:
        truth = reference(contender.layer)  # an exception here is not the contender's
    except TooLong:
        return Ready("not timed", "the time was up before its checks"), {}
    try:
        with clock.budget.limit(contender.patience):
            return _examined(contender, case, truth, clock)
    except TooLong:
        return Ready("not timed", "its checks and first calls took too long"), {}
    except (Exception, SystemExit) as error:  # noqa: BLE001  a contender may raise anything
        return Ready(BROKE_OFF, f"{placed(error)} (before it was timed)"), {}


def _examined(contender: Contender, case: Case, truth: Reference | None, clock: Clock) -> tuple[Ready, Calls]:
    checked = []
    if contender.kind == "peer" and contender.small:
        checked.append(agreement.check_small(contender, case.cell, str(case.dtype)))
        if _forbids(contender, checked[-1]):
            return _not_ready(checked[-1]), {}
    prepared = contender.prepare(case)
    computed: dict[str, Array] = {}

    def results() -> dict[str, Array]:
        computed.update(prepared.results())
        return computed

    errors: dict[str, Any] = {}
    if truth is not None:
        checked.append(agreement.check_timed(results, case, truth))
        errors = {name: {"error": e.error, "tolerance": e.tolerance} for name, e in checked[-1].errors.items()}
        if _forbids(contender, checked[-1]):
            return _not_ready(checked[-1])._replace(errors=errors), {}
    calls = {"forward": prepared.forward, "both": prepared.both}
    if contender.backend is not None:
        try:
            calls |= clock.more(contender.backend, case, computed["h"])
        except BrokenPromise as broken:
            return Ready("wrong", str(broken), errors=errors), {}
    for call in calls.values():
        call()  # whatever compiles at a first call does so here
    note = [f"another cell: {contender.counted_as}"] if contender.layer else []
    if contender.inexact:
        outside = [found.detail for found in checked if found.status != "right"]
        note.append(f"not exact in {case.dtype}: {outside[-1]}" if outside else "within the tolerance here")
    return Ready(note="; ".join(note), errors=errors), calls


def _not_ready(found: Agreement) -> Ready:
    return Ready(found.status, f"{found.detail} (on the {found.check})")


def _forbids(contender: Contender, found: Agreement) -> bool:
    """Whether a contender must not be timed; reduced precision may be off, but not grossly."""
    if contender.inexact and found.status == "wrong" and found.errors:
        return not all(entry.error <= GROSS for entry in found.errors.values())
    return found.status != "right"


def record(plan: Plan, entries: Sequence[Entry], peak_gflops: float, steady_gflops: float = 0.0) -> Record:
    """A contest as the tables show it and the JSON document keeps it.

    Parameters
    ----------
    plan : Plan
    entries : sequence of Entry
    peak_gflops : float
        The FMA peak; NaN if it is not known.
    steady_gflops : float
        What the machine can hold of it. Samples taken below ``timing.GATE`` of it do not count; it may have risen since
        then. 0 on a device, where all count.

    Returns
    -------
    dict
        The plan, ``peak_gflops``, ``steady_gflops``, ``extra_bytes``, and ``contenders``: of each its ``status``
        (``timed``, ``cut short``, ``not timed``, ``wrong`` or ``broke off``), ``detail``, ``note``, ``timer``,
        ``inexact``, ``errors`` on the timed case, ``operations``, and ``times`` by what was timed: the statistics,
        ``calls`` of a sample, ``us_per_step``, ``gflops`` and ``fraction`` of the peak.
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


def _contender_record(plan: Plan, entry: Entry, peak_gflops: float, steady_gflops: float) -> Record:
    contender = entry.contender
    forward = workload.forward_operations(contender.counted_as, plan.shape)
    backward, all_of_backward = (
        workload.backward_operations(contender.counted_as, plan.shape, input_gradient=asked) for asked in (False, True)
    )
    operations = {
        "forward": forward, "inference": forward, "both": forward + backward, "everything": forward + all_of_backward,
    }  # fmt: skip
    times = {}
    for what, samples in entry.samples.items():
        found = timing.summary(samples, steady_gflops)
        gflops = 1e-9 * operations[what] / found.median if found.median > 0 else math.nan
        times[what] = {
            **found._asdict(), "calls": samples[0].calls, "us_per_step": 1e6 * found.median / plan.shape.T,
            "gflops": gflops, "fraction": gflops / peak_gflops,
        }  # fmt: skip
    status, detail = _status(entry, {what: found["samples"] for what, found in times.items()})
    return {
        "name": contender.name,
        "kind": contender.kind,
        "status": status,
        "detail": detail,
        "note": entry.ready.note,
        "timer": contender.timer,
        "inexact": contender.inexact,
        "errors": dict(entry.ready.errors),
        "operations": {what: operations[what] for what in times},
        "times": times,
    }


def _status(entry: Entry, counts: Mapping[str, int]) -> tuple[str, str]:
    """The status of the record and its reason; ``counts`` says how many samples count."""
    if entry.ready.status:
        return entry.ready.status, entry.ready.detail
    never = [f"{what} in {len(entry.samples[what])} attempts" for what, count in counts.items() if not count]
    if never:
        return "not timed", f"the machine was never at its peak: {', '.join(never)}"
    if not counts:
        return "not timed", "no time was left"
    if any(counts.get(what, 0) < wanted for what, wanted in entry.wanted.items()):
        found = ", ".join(f"{what} {counts.get(what, 0)}" for what in entry.wanted)
        return "cut short", f"samples of {max(entry.wanted.values())}: {found}"
    return "timed", ""
