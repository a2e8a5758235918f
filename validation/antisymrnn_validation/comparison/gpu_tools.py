"""What a GPU can do at most, measured: fused multiply-adds in registers, and a copy in its own memory.

The FMA loop is a kernel of our own: every thread steps ``ACCUMULATORS`` independent sums, each by one fused
multiply-add with a factor and a term that the compiler does not know. Both are one, and every sum begins elsewhere, so
that it can neither drop nor merge any; each counts its steps, and the total that each thread writes is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Timer = Callable[[Callable[[], Any], int], float]
"""Takes a call and how often to make it; the seconds of all of them together."""

ACCUMULATORS, STEPS = 16, 16384
"""Their product is below 2²⁴: float32 counts it exactly."""

TOTAL = ACCUMULATORS * STEPS + ACCUMULATORS * (ACCUMULATORS - 1) // 2
"""Of the sums of a thread, which begin with 0, 1, 2, …"""

THREADS, BLOCKS = 256, 8
"""Of a block, and of every multiprocessor: as many threads as it can hold."""

COPIED_BYTES = 1 << 30
LOOKS = 60
"""Long enough for the clocks to rise."""

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
    """A ceiling that was not measured, because what was to measure it computed something else."""


def source(dtype: str) -> str:
    """The CUDA source of the FMA loop."""
    real = {"float32": "float", "float64": "double"}[dtype]
    return SOURCE.replace("REAL", real).replace("ACCUMULATORS", str(ACCUMULATORS))


def fma_gflops(cupy: Any, elapsed: Timer, dtype: str, multiprocessors: int) -> float:
    """GFLOP/s of the FMA loop, the best of LOOKS looks.

    Parameters
    ----------
    cupy : module
        CuPy, or what stands in for it.
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
        raise CeilingError("copy: what came is not what was copied")
    return 2e-9 * int(origin.nbytes) / seconds
