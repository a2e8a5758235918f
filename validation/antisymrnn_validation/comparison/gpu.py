"""Contests on a GPU: which plans and contenders there are, and the clock that times them by CUDA events.

A sample covers several calls, as many as fill ``SAMPLE_SECONDS``, between two CUDA events on the stream that CuPy and
PyTorch share. JAX runs on streams of its own, which these events do not see: its calls wait for their results, and the
clock of the host times them. Everything keeps to a budget; a contender that it cuts short is marked so.
"""

from __future__ import annotations

import functools
import gc
import importlib
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from antisymrnn_ref.contract import Array
from antisymrnn_ref.installation import install_command
from antisymrnn_validation.comparison import agreement, contenders, gpu_tools
from antisymrnn_validation.comparison.contenders import Contender, prepare_backend
from antisymrnn_validation.comparison.contest import Budget, Calls, Clock, Turn
from antisymrnn_validation.comparison.timing import Sample, Timer, no_collection
from antisymrnn_validation.comparison.workload import Plan, Shape, timed_case
from antisymrnn_validation.conformance.check import Check, Result
from antisymrnn_validation.output.environment import devices
from antisymrnn_validation.output.terminal import reason
from antisymrnn_validation.truth.calls import BrokenPromise
from antisymrnn_validation.truth.cases import CELLS, Case

PATIENCE_SECONDS, COMPILER_SECONDS = 40.0, 75.0
"""For the checks and first calls of a contender, and of one that ``torch.compile`` compiles."""

COMPILER_NEEDS_SECONDS = 240.0
"""With less than this left ``torch.compile`` is not tried."""

SAMPLES = 15
SAMPLE_SECONDS = 1e-3
SETTLE_SECONDS = 5e-3
"""A contender that is faster runs once untimed before each sample."""

STEPS = 784
SIZES, BATCHES = (64, 128, 192, 256, 512), (1, 16, 128, 1024)
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
) -> list[Contender]:
    """The contenders of a cell: the backend, if it is to be timed, then the peers whose libraries can be used.

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
    events: dict[str, Any] = {"elapsed": elapsed, "timer": "CUDA events", "patience": PATIENCE_SECONDS}

    def peer(name: str, prepare: Callable[..., Any], counted_as: str = cell, layer: str = "", **more: Any) -> Contender:
        prepare = functools.partial(prepare, device=device)
        return Contender(name, "peer", prepare, counted_as, layer, **(events | more))

    def single(plan: Plan) -> bool:
        return plan.dtype == "float32"

    found = []
    if backend is not None:
        prepare = functools.partial(prepare_backend, backend, wait=False)
        found.append(Contender(name, "backend", prepare, cell, backend=backend, **events))
    if not libraries.get("torch", "absent"):
        found.append(peer("torch eager", contenders.torch_eager))
    if not libraries.get("torch", "absent") and cell == "antisymmetric":
        off, on = (functools.partial(contenders.torch_layer, "RNN", tf32=tf32) for tf32 in (False, True))
        found += [
            peer("torch nn.RNN, TF32 off", off, "nn.RNN", "RNN"),
            peer("torch nn.RNN, TF32 on", on, "nn.RNN", "RNN", inexact=True, takes=single),
            peer(
                "torch compile",
                contenders.torch_compiled,
                small=False,  # another case is another compilation
                patience=COMPILER_SECONDS,
                needs=COMPILER_NEEDS_SECONDS,
                takes=lambda plan: single(plan) and (plan.shape.B, plan.shape.n) == (128, 128),
            ),
        ]
    if not libraries.get("flashrnn", "absent") and cell == "antisymmetric":
        flash = {"inexact": True, "small": False, "takes": single}
        found.append(peer("FlashRNN, TF32", contenders.flash_rnn, "nn.RNN", "RNN", **flash))
    if not libraries.get("jax", "absent"):
        found.append(Contender("jax scan", "peer", contenders.jax_scan, cell, patience=PATIENCE_SECONDS))
    return found


def usable_libraries() -> dict[str, str]:
    """Of each peer's library why it cannot be used on this GPU; empty if it can."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else JAX takes three quarters of the memory

    def torch() -> str:
        module = importlib.import_module("torch")
        return "" if module.cuda.is_available() else f"PyTorch {module.__version__} sees no GPU"

    def jax() -> str:
        module = importlib.import_module("jax")
        platforms = sorted({device.platform for device in module.devices()})
        return "" if "gpu" in platforms else f"JAX {module.__version__} sees no GPU, only {', '.join(platforms)}"

    def flashrnn() -> str:
        importlib.import_module("flashrnn")
        return ""

    found = {}
    for look in (torch, jax, flashrnn):
        try:
            found[look.__name__] = look()
        except (Exception, SystemExit) as error:  # noqa: BLE001  a library that does not load is a missing peer
            found[look.__name__] = reason(error)
    return found


def device_contest(budget: Budget) -> Clock:
    """Timing by each contender's own timer, several calls at a time, until the budget is used up."""

    def more(backend: ModuleType, case: Case, last: Array) -> Calls:
        once = prepare_backend(backend, case, keep_every=max(1, len(case.x)), wait=False)
        if backend.to_numpy(once.forward().h[-1]).tobytes() != last.tobytes():
            raise BrokenPromise("the last state has other bits if it is kept alone")
        return {"inference": once.forward}

    return Clock(more, functools.partial(_take_turns, budget), all_samples=True, budget=budget)


def _take_turns(budget: Budget, turns: Sequence[Turn], samples: int, begin: Callable[[str], Any]) -> None:
    """Sample k of everything, then sample k + 1, while there is time."""
    sized: list[tuple[Turn, int, bool]] = []
    with no_collection():
        for turn in turns:
            if budget.left() > 0 and (found := turn.attempt(functools.partial(_size, turn.contender.elapsed))):
                sized.append((turn, *found))
        begin("samples")
        for _ in range(samples):
            for turn, calls, settle in sized:
                if budget.left() <= 0:
                    return
                sample = turn.attempt(functools.partial(_sample, turn.contender.elapsed, calls, settle))
                if sample is not None:
                    turn.samples.append(sample)


def _size(elapsed: Timer, call: Callable[[], Any]) -> tuple[int, bool]:
    """How many calls a sample has, and whether one is to run untimed before it."""
    elapsed(call, 1)
    seconds = elapsed(call, 1)
    calls = max(1, math.ceil(SAMPLE_SECONDS / max(seconds, 1e-7)))
    elapsed(call, calls)
    return calls, seconds <= SETTLE_SECONDS


def _sample(elapsed: Timer, calls: int, settle: bool, call: Callable[[], Any]) -> Sample:
    if settle:
        call()
    return Sample(elapsed(call, calls) / calls, calls=calls)


def wide_checks() -> list[Check]:
    """Checks with more units than the conformance cases have, for kernels that only these reach."""

    def check(cell: str, shape: Shape, dtype: str, keep_every: int) -> Check:
        case = timed_case(cell, shape, dtype)
        name = f"{case.name} keep_every={keep_every}"

        def run(backend: ModuleType) -> Result:
            results = lambda: prepare_backend(backend, case, keep_every=keep_every).results()  # noqa: E731
            found = agreement.check_timed(results, case, agreement.timed_reference(case))
            if found.status == "right":
                return Result("wide", name, "passed", errors=dict(found.errors))
            return Result("wide", name, "failed", found.detail, dict(found.errors))

        return Check("wide", name, run)

    shapes = [Shape(8, 24, 2, 300), Shape(8, 24, 6, 512), Shape(8, 24, 2, 600)]
    every = [(cell, shape, dtype, k) for cell in CELLS for shape in shapes for dtype in DTYPES for k in (1, 3)]
    crowded = [(cell, Shape(4, 1024, 2, 1024), "float32", 2) for cell in CELLS]  # more tiles than run at once
    return [check(*arguments) for arguments in (*every, *crowded)]


def machine(cupy: Any) -> Machine:
    """The current GPU, through CuPy."""
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    name = properties["name"]
    card: dict[str, Any] = {
        "name": name.decode() if isinstance(name, bytes) else str(name),
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
        found = {dtype: gpu_tools.fma_gflops(cupy, elapsed, dtype, card["multiprocessors"]) for dtype in DTYPES}
        busy = devices("clocks.sm")[0]
        if not busy.startswith("none"):
            card["clocks.sm after the FMA loop"] = busy
        return found | {"copy": gpu_tools.copy_gigabytes(cupy, elapsed)}

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
    except ModuleNotFoundError as error:
        commands = " or ".join(map(install_command, ("cuda12", "cuda13")))
        return None, f"{reason(error)}; install it: {commands}"
    except Exception as error:  # noqa: BLE001  CuPy missing or broken, no driver, no device
        return None, reason(error)
    return cupy, "" if count else "CuPy finds no GPU"
