"""The FMA peak of the machine: a loop in registers alone, on every thread at once, in LLVM IR compiled for the host.

What is timed runs between two looks at the same loop (``timing.py``): while it reaches its peak, nothing else had the
processors.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import math
import os
import platform
import queue
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from antisymrnn_ref.contract import Array
from antisymrnn_validation.output.environment import usable_processors

PROBE_SECONDS = 4e-4
"""Duration of one look at the peak."""

SETTLED_SECONDS, SEARCH_SECONDS = 0.5, 8.0
"""The search for the peak ends when it has not risen for the first time and is ``TOGETHER`` of the sum of the threads
alone, or after the second: two threads of one core never reach that sum, and a shared machine only sometimes does."""

TOGETHER = 0.9

WINDOW = 5


ARRIVAL_SECONDS, ARRIVAL_WAITS = 2e-5, 500
"""How long, and how often, the thread with the clock sleeps until the others wait for it."""


class Registers(NamedTuple):
    """The vector registers of the host.

    Attributes
    ----------
    bits : int
        Width of a vector.
    accumulators : int
        Independent chains, enough to hide the latency of an FMA, that fit the registers beside two operands.
    """

    bits: int
    accumulators: int


class Peak(NamedTuple):
    """The machine at its best.

    Attributes
    ----------
    look : callable
        Runs the loop once on all threads and returns its GFLOP/s: 2 for each multiply-add of each lane.
    best : callable
        The best of all looks so far, in GFLOP/s: it may rise while other things are timed.
    steady : callable
        The best median of WINDOW looks in a row so far, in GFLOP/s: what the machine can hold.
    alone : float
        The best of one thread alone at the start, in GFLOP/s.
    threads : int
    registers : Registers
    """

    look: Callable[[], float]
    best: Callable[[], float]
    steady: Callable[[], float]
    alone: float
    threads: int
    registers: Registers


class PeakError(ArithmeticError):
    """The loop gave a wrong result: its time would mean nothing."""


def host_registers() -> Registers:
    """The widest vectors of the host and how many accumulators its registers hold."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return Registers(512, 24)
    if platform.machine().lower() in ("x86_64", "amd64", "i386", "i686"):
        return Registers(256 if features.get("avx") and features.get("fma") else 128, 12)
    return Registers(128, 24)


@contextlib.contextmanager
def measured_peak(
    dtype: Any, threads: int | None = None, clock: Callable[[], float] = time.perf_counter
) -> Iterator[Peak]:
    """Measure the FMA peak and keep the loop for further looks.

    Parameters
    ----------
    dtype : dtype
        float32 or float64.
    threads : int, optional
        By default all usable processors.
    clock : callable
        Seconds.

    Yields
    ------
    Peak

    Raises
    ------
    ImportError
        Without llvmlite, which comes with Numba.
    PeakError
        If a lane does not hold the number of its steps: the loop was not run as written.
    """
    registers = host_registers()
    count = threads or usable_processors()
    lanes = registers.bits // (8 * int(np.dtype(dtype).itemsize))
    run, _code = _compile(dtype, registers)
    processors = queue.SimpleQueue[int]()
    for processor in sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []:
        processors.put(processor)

    def settle() -> None:
        """Give each thread a processor of its own where the system can: two that spin on one would wait in turn."""
        with contextlib.suppress(queue.Empty, OSError):
            os.sched_setaffinity(threading.get_native_id(), {processors.get_nowait()})

    with ThreadPoolExecutor(count, initializer=settle) as pool:

        def seconds(steps: int, count: int) -> float:
            accumulators = np.zeros((count, registers.accumulators, lanes), dtype)
            met = np.zeros(16, np.int64)  # two counters, on cache lines of their own
            start_at, end_at = met[:1].ctypes.data, met[8:9].ctypes.data

            def chain(row: Array) -> int:
                return run(row.ctypes.data, steps, 1, 1, start_at, end_at, count)

            def timed_chain(row: Array) -> tuple[int, float]:
                for _ in range(ARRIVAL_WAITS):
                    if met[0] == count - 1:
                        break
                    time.sleep(ARRIVAL_SECONDS)
                start = clock()  # the last to arrive: all begin now
                together = chain(row)
                return together, clock() - start

            others = [pool.submit(chain, row) for row in accumulators[1:]]
            together, elapsed = pool.submit(timed_chain, accumulators[0]).result()
            if not all([together, *(other.result() for other in others)]):
                return math.inf  # the threads did not even run at the same time
            if not (accumulators == steps).all():
                raise PeakError(f"FMA loop: expected {steps} in every lane, got {np.unique(accumulators)[:3]}")
            return elapsed

        steps = 1024
        while min(seconds(steps, 1) for _ in range(9)) < PROBE_SECONDS / 2 and steps < 2**22:
            steps *= 2  # a lane counts its steps exactly up to 2**24

        def gflops(count: int) -> float:
            operations = 2.0 * count * registers.accumulators * lanes * steps
            return 1e-9 * operations / seconds(steps, count)

        best = steady = 0.0
        alone = max(gflops(1) for _ in range(50))
        last: collections.deque[float] = collections.deque(maxlen=WINDOW)

        def look() -> float:
            nonlocal best, steady
            reached = gflops(count)
            last.append(reached)
            best, steady = max(best, reached), max(steady, statistics.median(last) if len(last) == WINDOW else 0.0)
            return reached

        begun = risen = clock()
        while (now := clock()) < begun + SEARCH_SECONDS and (
            now < risen + SETTLED_SECONDS or best < TOGETHER * count * alone
        ):
            before = best
            if look() > 1.01 * before:
                risen = now
        yield Peak(look, lambda: best, lambda: steady, alone, count, registers)


def loop_source(dtype: Any, registers: Registers) -> str:
    """LLVM IR of the loop, x ← x · factor + term in every accumulator, and of the meeting of the threads around it."""
    scalar = {"float32": "float", "float64": "double"}[np.dtype(dtype).name]
    lanes = registers.bits // (8 * np.dtype(dtype).itemsize)
    vector, suffix = f"<{lanes} x {scalar}>", f"v{lanes}f{8 * np.dtype(dtype).itemsize}"
    each = range(registers.accumulators)

    def lines(template: str) -> str:
        return "\n".join("  " + template.format(k=k, vector=vector, suffix=suffix, scalar=scalar) for k in each)

    def splat(name: str) -> str:
        return (
            f"  %{name}.one = insertelement {vector} poison, {scalar} %{name}, i32 0\n"
            f"  %{name}.all = shufflevector {vector} %{name}.one, {vector} poison, <{lanes} x i32> zeroinitializer"
        )

    load = "%p{k} = getelementptr {vector}, ptr %accumulators, i64 {k}\n  %x{k}.0 = load {vector}, ptr %p{k}, align 8"
    chain = "%x{k} = phi {vector} [ %x{k}.0, %entry ], [ %x{k}.1, %loop ]"
    step = "%x{k}.1 = call {vector} @llvm.fmuladd.{suffix}({vector} %x{k}, {vector} %factor.all, {vector} %term.all)"
    return f"""
declare {vector} @llvm.fmuladd.{suffix}({vector}, {vector}, {vector})

define internal i1 @meet(ptr %counter, i64 %threads) {{
entry:
  %before = atomicrmw add ptr %counter, i64 1 acq_rel
  br label %wait
wait:
  %tries = phi i64 [ 0, %entry ], [ %next, %again ]
  %seen = load atomic i64, ptr %counter acquire, align 8
  %all = icmp sge i64 %seen, %threads
  br i1 %all, label %met, label %again
again:
  %next = add i64 %tries, 1
  %more = icmp slt i64 %next, 50000000
  br i1 %more, label %wait, label %alone
met:
  ret i1 true
alone:
  ret i1 false
}}

define i64 @run(ptr %accumulators, i64 %steps, {scalar} %factor, {scalar} %term,
                ptr %start_at, ptr %end_at, i64 %threads) #0 {{
entry:
{splat("factor")}
{splat("term")}
{lines(load)}
  %begun = call i1 @meet(ptr %start_at, i64 %threads)
  br label %loop
loop:
  %done = phi i64 [ 0, %entry ], [ %done.1, %loop ]
{lines(chain)}
{lines(step)}
  %done.1 = add i64 %done, 1
  %more = icmp slt i64 %done.1, %steps
  br i1 %more, label %loop, label %exit
exit:
{lines("store {vector} %x{k}.1, ptr %p{k}, align 8")}
  %ended = call i1 @meet(ptr %end_at, i64 %threads)
  %together = and i1 %begun, %ended
  %result = zext i1 %together to i64
  ret i64 %result
}}

attributes #0 = {{ "prefer-vector-width"="{registers.bits}" "min-legal-vector-width"="{registers.bits}" }}
"""


def _compile(dtype: Any, registers: Registers) -> tuple[Callable[..., int], Any]:
    """``run`` as a function that releases the GIL, and the compiled code that must outlive it."""
    import llvmlite.binding as llvm

    with contextlib.suppress(RuntimeError):  # llvmlite 0.45 initialises itself, and refuses this call
        llvm.initialize()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=2
    )
    module = llvm.parse_assembly(loop_source(dtype, registers))
    module.verify()
    compiled = llvm.create_mcjit_compiler(module, machine)
    compiled.finalize_object()
    real, address, integer = np.ctypeslib.as_ctypes_type(dtype), ctypes.c_void_p, ctypes.c_int64
    function = ctypes.CFUNCTYPE(integer, address, integer, real, real, address, address, integer)
    return function(compiled.get_function_address("run")), compiled
