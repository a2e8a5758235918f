"""Contests on a device: samples are times between two events, contenders take turns, nothing wrong is timed.

A sample covers several calls, as many as fill ``SAMPLE_SECONDS``, between two CUDA events on the stream that CuPy and
PyTorch share. JAX runs on streams of its own, which events of another do not see: its calls wait for their results, and
the host's clock times them. Everything keeps to a budget; what it cuts short says so.
"""

from __future__ import annotations

import functools
import gc
import importlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from antisymrnn_ref.contract import Array
from antisymrnn_validation.comparison import agreement, contenders, workload
from antisymrnn_validation.comparison.contenders import Contender, prepare_backend
from antisymrnn_validation.comparison.contest import Plan
from antisymrnn_validation.comparison.gpu_tools import Timer
from antisymrnn_validation.comparison.workload import Shape, timed_case
from antisymrnn_validation.conformance.check import Result
from antisymrnn_validation.output.terminal import Record, one_line, reason
from antisymrnn_validation.truth.calls import limited
from antisymrnn_validation.truth.cases import CELLS, Case

PATIENCE_SECONDS, COMPILER_SECONDS = 40.0, 75.0
"""For the checks and first calls of a contender, and of one that is compiled by ``torch.compile``."""

COMPILER_NEEDS_SECONDS = 240.0
"""With less than this left ``torch.compile`` is not tried."""

SAMPLES = 15
SAMPLE_SECONDS = 1e-3
SETTLE_SECONDS = 5e-3
"""A contender that is faster runs once untimed before each sample."""

GROSS = 0.05
"""Reduced precision may be this far off, relative to the largest entry; what is farther off is wrong."""

STEPS = 784
SIZES, BATCHES = (64, 128, 192, 256, 512), (1, 16, 128, 1024)
WHAT = ("forward", "inference", "both")


class TooLong(BaseException):
    """Time is up for what runs; no ``except Exception`` of a library may swallow it."""


class Budget(NamedTuple):
    """A clock, and the time on it at which all must end."""

    clock: Callable[[], float]
    end: float

    def left(self) -> float:
        """Seconds."""
        return self.end - self.clock()


class Entrant(NamedTuple):
    """A contender on a device, and how it is to be treated.

    Attributes
    ----------
    contender : Contender
        Its calls may return before the work is done if ``timer`` is ``events``.
    elapsed : Timer
    timer : str
        ``events`` or ``host clock``.
    inexact : bool
        It is known to round more than its dtype: its error is told and it is timed all the same.
    small : bool
        Whether the small case comes before the timed one.
    patience : float
        Seconds for its checks and first calls.
    needs : float
        Seconds that must be left of the budget.
    takes : callable
        Whether it takes part in a plan's contest.
    backend : module or None
        Behind a contender that is one.
    """

    contender: Contender
    elapsed: Timer
    timer: str = "events"
    inexact: bool = False
    small: bool = True
    patience: float = PATIENCE_SECONDS
    needs: float = 0.0
    takes: Callable[[Plan], bool] = lambda _: True
    backend: ModuleType | None = None


class Ready(NamedTuple):
    """What became of an entrant before it is timed.

    Attributes
    ----------
    failure : str
        Why it is wrong.
    delay : str
        Why it is not timed though nothing wrong is known of it.
    note : str
    errors : dict
        By array ``error`` and ``tolerance`` on the timed case.
    calls : dict of str to callable
    """

    failure: str = ""
    delay: str = ""
    note: str = ""
    errors: Mapping[str, Any] = {}
    calls: Mapping[str, Callable[[], Any]] = {}


def plans(*, quick: bool = False) -> list[Plan]:
    """What is to be timed, the most important first: the ungated cell at all shapes, the gated one at B = 128."""

    def plan(cell: str, n: int, B: int, dtype: str) -> Plan:
        return Plan(cell, Shape(STEPS, B, 1, n), dtype)

    single, double = "float32", "float64"
    if quick:
        return [plan(cell, 128, 128, dtype) for dtype in (single, double) for cell in CELLS]
    ungated, gated = CELLS
    chosen = [plan(ungated, n, 128, single) for n in (128, 256, 512)]
    chosen += [plan(ungated, 128, 128, double)]
    chosen += [plan(gated, 128, 128, dtype) for dtype in (single, double)]
    chosen += [plan(ungated, 128, B, single) for B in (1, 16, 1024)]
    chosen += [plan(cell, n, 128, single) for cell in CELLS for n in SIZES]
    chosen += [plan(ungated, n, 128, double) for n in SIZES]
    chosen += [plan(ungated, n, B, dtype) for dtype in (single, double) for B in BATCHES for n in SIZES]
    chosen += [plan(gated, n, 128, double) for n in SIZES]
    return list(dict.fromkeys(chosen))


def host_clock(clock: Callable[[], float] = time.perf_counter) -> Timer:
    """A timer for calls that wait for their results."""

    def elapsed(call: Callable[[], Any], repeats: int) -> float:
        start = clock()
        for _ in range(repeats):
            call()
        return clock() - start

    return elapsed


def cuda_events(cupy: Any) -> Timer:
    """A timer by two events on CuPy's current stream, which is PyTorch's too as long as nobody changes either."""
    start, stop = cupy.cuda.Event(), cupy.cuda.Event()

    def elapsed(call: Callable[[], Any], repeats: int) -> float:
        result = None
        start.record()
        for _ in range(repeats):
            result = call()
        stop.record()
        stop.synchronize()
        del result  # freed outside of what is timed
        return 1e-3 * float(cupy.cuda.get_elapsed_time(start, stop))

    return elapsed


def line_up(
    cell: str, name: str, backend: ModuleType | None, elapsed: Timer, libraries: Mapping[str, str], device: str = "cuda"
) -> list[Entrant]:
    """The entrants of a cell: the backend, if it is to be timed, then the peers whose libraries can be used.

    Parameters
    ----------
    cell, name : str
    backend : module or None
    elapsed : Timer
        Events.
    libraries : dict of str to str
        By library why it cannot be used, empty if it can.
    device : str
        PyTorch's word for where it computes.
    """

    def single(plan: Plan) -> bool:
        return plan.dtype == "float32"

    entrants = []
    if backend is not None:
        prepare = functools.partial(prepare_backend, backend, wait=False)
        entrants.append(Entrant(Contender(name, "backend", prepare, cell), elapsed, backend=backend))
    if not libraries.get("torch", "absent"):
        eager = functools.partial(contenders.torch_eager, device=device)
        entrants.append(Entrant(Contender("torch eager", "peer", eager, cell), elapsed))
    if not libraries.get("torch", "absent") and cell == "antisymmetric":
        compiled = Contender("torch compile", "peer", functools.partial(contenders.torch_compiled, device=device), cell)
        off, on = (
            Contender(
                f"torch nn.RNN, TF32 {word}",
                "peer",
                functools.partial(contenders.torch_layer, "RNN", device=device, tf32=word == "on"),
                "nn.RNN",
                "RNN",
            )
            for word in ("off", "on")
        )
        entrants += [
            Entrant(off, elapsed),
            Entrant(on, elapsed, inexact=True, takes=single),
            Entrant(
                compiled,
                elapsed,
                small=False,  # another case is another compilation
                patience=COMPILER_SECONDS,
                needs=COMPILER_NEEDS_SECONDS,
                takes=lambda plan: single(plan) and (plan.shape.B, plan.shape.n) == (128, 128),
            ),
        ]
    if not libraries.get("flashrnn", "absent") and cell == "antisymmetric":
        flash = Contender(
            "FlashRNN, TF32", "peer", functools.partial(contenders.flash_rnn, device=device), "nn.RNN", "RNN"
        )
        entrants.append(Entrant(flash, elapsed, inexact=True, small=False, takes=single))
    if not libraries.get("jax", "absent"):
        entrants.append(Entrant(Contender("jax scan", "peer", contenders.jax_scan, cell), host_clock(), "host clock"))
    return entrants


def usable_libraries() -> dict[str, str]:
    """Of each peer's library why it cannot be used on this GPU; empty if it can."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else JAX takes three quarters of the memory

    def torch() -> str:
        module = importlib.import_module("torch")
        return "" if module.cuda.is_available() else f"PyTorch {module.__version__} sees no GPU"

    def jax() -> str:
        module = importlib.import_module("jax")
        found = {device.platform for device in module.devices()}
        return "" if "gpu" in found else f"JAX {module.__version__} sees no GPU, only {', '.join(sorted(found))}"

    def flashrnn() -> str:
        importlib.import_module("flashrnn")
        return ""

    told = {}
    for look in (torch, jax, flashrnn):
        try:
            told[look.__name__] = look()
        except (Exception, SystemExit) as error:  # noqa: BLE001  a library that does not load is a missing peer
            told[look.__name__] = reason(error)
    return told


def make_ready(entrant: Entrant, case: Case, reference: Callable[[str], agreement.Reference], budget: Budget) -> Ready:
    """Hold an entrant against the truth, on the small case and on the timed one, and convert its arrays.

    Parameters
    ----------
    entrant : Entrant
    case : Case
        The timed one.
    reference : callable
        Of the paper's cell (an empty string) or of a layer, on the timed case.
    budget : Budget
    """
    contender = entrant.contender
    if budget.left() < entrant.needs:
        return Ready(delay=f"less than {entrant.needs:.0f} s were left")
    try:
        truth = reference(contender.layer)
        with limited(min(entrant.patience, budget.left()), TooLong):
            return _examined(entrant, case, truth)
    except TooLong:
        return Ready(delay="its checks and first calls took too long")
    except (Exception, SystemExit) as error:  # noqa: BLE001  a contender may raise anything: it is its failure
        return Ready(failure=f"broke off: {one_line(f'{type(error).__name__}: {error}')}")


def _examined(entrant: Entrant, case: Case, truth: agreement.Reference) -> Ready:
    contender, small = entrant.contender, None
    if contender.kind == "peer" and entrant.small:
        small = agreement.check_small(contender, case.cell, str(case.dtype))
        if failure := _wrong(entrant, small):
            return Ready(failure=failure)
    prepared = contender.prepare(case)
    taken: dict[str, Array] = {}

    def results() -> dict[str, Array]:
        taken.update(prepared.results())
        return taken

    timed = agreement.check_timed(results, case, truth)
    errors = {name: {"error": e.error, "tolerance": e.tolerance} for name, e in timed.errors.items()}
    if failure := _wrong(entrant, timed):
        return Ready(failure=failure, errors=errors)
    calls = {"forward": prepared.forward, "both": prepared.both}
    if entrant.backend is not None:
        once = prepare_backend(entrant.backend, case, keep_every=max(1, len(case.x)), wait=False)
        calls["inference"] = once.forward
        last = entrant.backend.to_numpy(once.forward().h[-1])
        if last.tobytes() != taken["h"].tobytes():
            return Ready(failure="wrong: the last state has other bits if it is kept alone", errors=errors)
    for call in calls.values():
        call()  # whatever compiles at a first call does so here, under the entrant's patience
    note = f"another cell: {contender.counted_as}" if contender.layer else ""
    if entrant.inexact:
        outside = [result.detail for result in (small, timed) if result is not None and result.status != "passed"]
        note += f"; NOT {case.dtype}-exact: {outside[-1]}" if outside else "; within the tolerance here"
    return Ready(note=note, errors=errors, calls=calls)


def _wrong(entrant: Entrant, result: Result) -> str:
    """Why a result forbids to time; reduced precision may be off, but not grossly."""
    if result.status == "passed":
        return ""
    if entrant.inexact and result.errors and all(entry.error <= GROSS for entry in result.errors.values()):
        return ""
    return f"wrong on the {result.check}: {result.detail}"


def hold(
    plan: Plan,
    entrants: Sequence[Entrant],
    peak: float,
    budget: Budget,
    *,
    samples: int = SAMPLES,
    begin: Callable[[str], Any] = lambda _: None,
) -> tuple[Record, bool]:
    """One contest: every entrant checked, then those that are right timed in turns.

    Parameters
    ----------
    plan : Plan
    entrants : sequence of Entrant
    peak : float
        GFLOP/s of the FMA loop in the plan's dtype; NaN if it is not known.
    budget : Budget
    samples : int
        How many each is to have.
    begin : callable
        Called with a few words when something begins.

    Returns
    -------
    record, interrupted : dict, bool
        What there is, also after Ctrl-C.
    """
    case = timed_case(*plan)
    ready: dict[str, Ready] = {}
    taken: dict[tuple[str, str], list[float]] = {}
    repeats: dict[tuple[str, str], int] = {}
    interrupted = False

    @functools.cache
    def reference(layer: str) -> agreement.Reference:
        begin(f"{case.name}: truth of {layer or 'the cell'}")
        with limited(budget.left(), TooLong):
            return agreement.layer_timed_reference(case) if layer else agreement.timed_reference(case)

    try:
        for entrant in entrants:
            name = entrant.contender.name
            begin(f"{case.name}: checks and first calls of {name}")
            ready[name] = make_ready(entrant, case, reference, budget)
        _take_turns(entrants, ready, taken, repeats, samples, budget)
    except KeyboardInterrupt:
        interrupted = True
    told = []
    for entrant in entrants:
        name = entrant.contender.name
        found = ready.get(name, Ready(delay="interrupted"))
        times = {what: taken[name, what] for what in WHAT if taken.get((name, what))}
        told.append(_entry(plan, entrant, found, times, repeats, peak, samples))
    head = {"cell": plan.cell, "shape": plan.shape._asdict(), "dtype": plan.dtype, "peak_gflops": peak}
    return {**head, "contenders": told}, interrupted


def _take_turns(
    entrants: Sequence[Entrant],
    ready: dict[str, Ready],
    taken: dict[tuple[str, str], list[float]],
    repeats: dict[tuple[str, str], int],
    samples: int,
    budget: Budget,
) -> None:
    """Sample k of everything, then sample k + 1; what is taken stays in ``taken``, whatever happens."""
    by_name = {entrant.contender.name: entrant for entrant in entrants}
    settled: dict[tuple[str, str], bool] = {}

    def attempt(name: str, what: str, work: Callable[[Timer, Callable[[], Any]], Any]) -> Any:
        if ready[name].failure:
            return None
        try:
            with limited(budget.left(), TooLong):
                return work(by_name[name].elapsed, ready[name].calls[what])
        except TooLong:
            return None
        except Exception as error:  # noqa: BLE001  the others are timed all the same
            said = one_line(f"{type(error).__name__}: {error}")
            ready[name] = ready[name]._replace(failure=f"broke off in {what}: {said}")
            return None

    def size(elapsed: Timer, call: Callable[[], Any]) -> int:
        elapsed(call, 1)
        seconds = elapsed(call, 1)
        count = max(1, math.ceil(SAMPLE_SECONDS / max(seconds, 1e-7)))
        settled[key] = seconds > SETTLE_SECONDS
        elapsed(call, count)
        return count

    def sample(elapsed: Timer, call: Callable[[], Any]) -> float:
        if not settled[key]:
            call()
        return elapsed(call, repeats[key]) / repeats[key]

    collecting = gc.isenabled()
    gc.disable()
    try:
        for key in [(name, what) for name, entry in ready.items() for what in WHAT if what in entry.calls]:
            if budget.left() > 0 and (count := attempt(*key, size)):
                repeats[key] = count
        for _ in range(samples):
            for key in list(repeats):
                if budget.left() <= 0:
                    return
                if (seconds := attempt(*key, sample)) is not None:
                    taken.setdefault(key, []).append(seconds)
    finally:
        if collecting:
            gc.enable()


def _entry(
    plan: Plan,
    entrant: Entrant,
    ready: Ready,
    taken: Mapping[str, list[float]],
    repeats: Mapping[tuple[str, str], int],
    peak: float,
    samples: int,
) -> Record:
    contender = entrant.contender
    forward = workload.forward_operations(contender.counted_as, plan.shape)
    backward = workload.backward_operations(contender.counted_as, plan.shape)
    operations = {"forward": forward, "inference": forward, "both": forward + backward}
    times = {}
    for what, seconds in taken.items() if not ready.failure else ():
        lower, median, upper = (float(value) for value in np.percentile(seconds, (25, 50, 75)))
        gflops = 1e-9 * operations[what] / median if median > 0 else math.nan
        times[what] = {
            "median": median, "lower": lower, "upper": upper, "samples": len(seconds),
            "calls": repeats[contender.name, what], "us_per_step": 1e6 * median / plan.shape.T,
            "gflops": gflops, "fraction": gflops / peak,
        }  # fmt: skip
    status, detail = "timed", ready.failure or ready.delay
    expected = [what for what in WHAT if what in ready.calls]
    if ready.failure:
        status = "wrong"
    elif not times:
        status, detail = "not timed", detail or "no time was left"
    elif any(times.get(what, {"samples": 0})["samples"] < samples for what in expected):
        status = "cut short"
        counts = ", ".join(f"{what} {times[what]['samples'] if what in times else 0}" for what in expected)
        detail = f"samples of {samples}: {counts}"
    return {
        "name": contender.name,
        "kind": contender.kind,
        "status": status,
        "detail": detail,
        "note": ready.note.removeprefix("; "),
        "timer": entrant.timer,
        "inexact": entrant.inexact,
        "errors": dict(ready.errors),
        "operations": {what: operations[what] for what in times},
        "times": times,
    }
