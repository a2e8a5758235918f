"""The ceilings of a GPU, measured, and ``compute-sanitizer`` over a few small calls of a backend.

The FMA loop is a kernel of our own: every thread steps ``ACCUMULATORS`` independent sums, each by one fused
multiply-add with a factor and a term that the compiler does not know. Both are one, and every sum begins elsewhere, so
that it can neither drop nor merge any; each counts its steps, and the total that each thread writes is checked.

``python -m antisymrnn_validation.comparison.gpu_tools BACKEND`` is what a sanitizer
watches, each tool in a child process.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from antisymrnn_ref import load_backend
from antisymrnn_validation.comparison.timing import Timer
from antisymrnn_validation.output.terminal import Record, one_line
from antisymrnn_validation.truth.calls import run
from antisymrnn_validation.truth.cases import CELLS, random_case

ACCUMULATORS, STEPS = 16, 16384
"""Their product is below 2²⁴: float32 counts it exactly."""

TOTAL = ACCUMULATORS * STEPS + ACCUMULATORS * (ACCUMULATORS - 1) // 2
"""Of the sums of a thread, which begin with 0, 1, 2, …"""

THREADS, BLOCKS = 256, 8
"""Of a block, and of every multiprocessor: as many threads as it can hold."""

COPIED_BYTES = 1 << 30
LOOKS = 60
"""Long enough for the clocks to rise."""

SANITIZER_SECONDS = 120.0
TOOLS = ("memcheck", "racecheck")
DONE = "small run done:"

SOURCE = """
extern "C" __global__ void fused(REAL *out, REAL factor, REAL term, int steps) {
    REAL sums[ACCUMULATORS];
#pragma unroll
    for (int k = 0; k < ACCUMULATORS; k++) sums[k] = k;
    for (int step = 0; step < steps; step++) {
#pragma unroll
        for (int k = 0; k < ACCUMULATORS; k++) sums[k] = fma(sums[k], factor, term);
    }
    REAL total = 0;
#pragma unroll
    for (int k = 0; k < ACCUMULATORS; k++) total += sums[k];
    out[blockIdx.x * blockDim.x + threadIdx.x] = total;
}
"""


class CeilingError(RuntimeError):
    """A ceiling that was not measured, because the loop or the copy gave a wrong result."""


def source(dtype: str) -> str:
    """The CUDA source of the FMA loop."""
    real = {"float32": "float", "float64": "double"}[dtype]
    return SOURCE.replace("REAL", real).replace("ACCUMULATORS", str(ACCUMULATORS))


def fma_gflops(cupy: Any, elapsed: Timer, dtype: str, multiprocessors: int) -> float:
    """GFLOP/s of the FMA loop, the best of LOOKS looks.

    Parameters
    ----------
    cupy : module
        CuPy, or a replacement of it.
    elapsed : Timer
    dtype : str
    multiprocessors : int

    Raises
    ------
    CeilingError
        If the loop has not done its steps.
    """
    kernel = cupy.RawKernel(source(dtype), "fused")
    blocks = BLOCKS * multiprocessors
    out = cupy.zeros(blocks * THREADS, dtype)
    one = np.dtype(dtype).type(1)

    def call() -> None:
        kernel((blocks,), (THREADS,), (out, one, one, np.int32(STEPS)))

    elapsed(call, 1)
    seconds = min(elapsed(call, 1) for _ in range(LOOKS))
    wrong = out != TOTAL
    if bool(wrong.any()):
        raise CeilingError(f"FMA loop, {dtype}: expected {TOTAL} from every thread, got {float(out[wrong][0])}")
    return 2e-9 * ACCUMULATORS * STEPS * len(out) / seconds


def copy_gigabytes(cupy: Any, elapsed: Timer) -> float:
    """GB/s of a copy in the device's memory, bytes read and bytes written, the best of LOOKS looks.

    Raises
    ------
    CeilingError
        If the copy differs.
    """
    origin = cupy.arange(COPIED_BYTES // 8, dtype=np.int64)
    copy = cupy.zeros_like(origin)

    def call() -> None:
        cupy.copyto(copy, origin)

    elapsed(call, 1)
    seconds = min(elapsed(call, 1) for _ in range(LOOKS))
    if not bool((copy == origin).all()):
        raise CeilingError("copy: the copy differs from the original")
    return 2e-9 * int(origin.nbytes) / seconds


def small_run(name: str) -> None:
    """A few small calls of a backend, for a sanitizer to watch: both cells and dtypes, several widths."""
    backend = load_backend(name)
    if type(backend.asarray(np.zeros(1), np.float64)).__module__.startswith("cupy"):
        cupy: Any = importlib.import_module("cupy")
        cupy.cuda.set_allocator(None)  # from a pool, an array's end would not be a block's end
    calls = 0
    for cell in CELLS:
        for n, m in ((5, 6), (64, 2), (128, 6), (256, 2), (300, 2), (512, 6), (600, 2)):
            for dtype in ("float32", "float64"):
                case = random_case(
                    cell, 3, 9, n, m, step_size=0.1, diffusion=0.1, seed=n, name="small run", dtype=dtype
                )
                for keep_every in (1, 2):
                    run(backend, case, keep_every=keep_every)
                    calls += 1
    print(f"{DONE} {calls} calls")


@contextlib.contextmanager
def sanitizers(
    name: str, clock: Callable[[], float], which: Callable[[str], str | None] = shutil.which
) -> Iterator[Callable[[], list[Record]]]:
    """Small runs of a backend under ``compute-sanitizer``, one child process for each tool; they end with the context.

    Yields
    ------
    callable
        Waits for the children, SANITIZER_SECONDS from their start at most, and returns for each tool its ``status``:
        ``clean``, ``found``, or ``not run`` with the reason in ``detail``.
    """
    program = which("compute-sanitizer")
    path = os.pathsep.join(filter(None, sys.path))
    with contextlib.ExitStack() as stack:
        children = {}
        for tool in TOOLS if program else ():
            command = [program, "--tool", tool, sys.executable, "-m", __name__]
            output = stack.enter_context(tempfile.TemporaryFile("w+", errors="replace"))
            child = subprocess.Popen(
                [*map(str, command), name],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C is for the parent to handle
            )
            stack.callback(_end, child)
            children[tool] = (child, output)
        end = clock() + SANITIZER_SECONDS

        def watched() -> list[Record]:
            if program is None:
                return [{"tool": t, "status": "not run", "detail": "no compute-sanitizer on the path"} for t in TOOLS]
            found = []
            for tool, (child, output) in children.items():
                try:
                    child.wait(timeout=max(0.0, end - clock()))
                except subprocess.TimeoutExpired:
                    detail = f"not finished in {SANITIZER_SECONDS:.0f} s"
                    found.append({"tool": tool, "status": "not run", "detail": detail})
                    _end(child)
                    continue
                output.seek(0)
                found.append({"tool": tool, **sanitizer_verdict(output.read())})
            return found

        yield watched


def sanitizer_verdict(output: str) -> Record:
    """Status and detail from the output of a sanitizer over a small run."""
    summary = re.search(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:error|hazard).*", output)
    lines = [one_line(line) for line in output.splitlines() if line.strip()]
    if summary and int(summary[1]):
        first = next((line for line in lines if re.match(r"=+ (Invalid|Error|Warning|Program hit|Race)", line)), "")
        return {"status": "found", "detail": " ".join(filter(None, (summary[0].strip(), first)))}
    done = next((line for line in lines if line.startswith(DONE)), "")
    if summary and done:
        return {"status": "clean", "detail": f"{done.removeprefix(DONE).strip()}; {summary[0].strip()}"}
    last = next((line for line in reversed(lines) if not line.startswith("========= ERROR SUMMARY")), "nothing")
    return {"status": "not run", "detail": f"the small run failed, its last line: {last}"}


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill a child that still runs, and its own children."""
    if child.poll() is None:
        with contextlib.suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


if __name__ == "__main__":
    small_run(sys.argv[1])
