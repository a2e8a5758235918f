"""Bugs planted in a copy of the Numba backend, one at a time; each is caught, and the honest copy is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import antisymrnn_numba

PACKAGE = Path(antisymrnn_numba.__file__).parent

JUDGE = """
import sys, numpy as np, numba, antisymrnn_numba as backend
from antisymrnn_numba import _host, _memory
from antisymrnn_ref.contract import kept_steps
from antisymrnn_validation.truth.cases import CELLS, random_case
from antisymrnn_validation.conformance.check import BrokenPromise
from antisymrnn_validation.truth.calls import run
from antisymrnn_validation.truth.tolerance import measure

plain_empty, lent = _memory.empty, []
def poisoned(shape, dtype):
    nbytes = int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
    block = np.full(nbytes + 1088, 0xFF, np.uint8)
    begin = 512 + -(block.ctypes.data + 512) % 64
    lent.append((block, begin, begin + nbytes))
    return block[begin : begin + nbytes].view(dtype).reshape(shape)

def judge():
    numba.set_num_threads(1)
    long = random_case("antisymmetric", 100, 16, 16, 2, step_size=0.1, diffusion=0.2, seed=2)
    call = lambda case: backend.antisymmetric.forward(case.parameters, case.x, case.h0, **case.arguments)
    call(long)  # its memory goes back
    first = call(long._replace(x=-long.x))
    before = first.h.tobytes()
    second = call(long._replace(x=2 * long.x))
    if first.h.tobytes() != before or np.shares_memory(first.h, second.h):
        return "memory was handed out twice"
    for cell in CELLS:
        few = (11, 4, 7, 3), (21, 19, 9, 2), (6, 7, 18, 6), (3, 13, 8, 1)
        for k, sizes in enumerate((*few, (20, 130, 5, 2), (17, 16, 10, 33))):
            dtype = (np.float64, np.float32)[k % 2]
            case = random_case(cell, *sizes, step_size=0.3, diffusion=0.2, seed=1, dtype=dtype)
            _host.MOST_GROUPS = 64 if k < 3 else 2  # more tiles than groups
            _host.STREAMED = 2**60 if k % 2 else 0  # past the cache
            _memory.empty = poisoned
            arrays = run(backend, case)
            _memory.empty = plain_empty
            for block, begin, end in lent:
                if (block[:begin] != 0xFF).any() or (block[end:] != 0xFF).any():
                    return "written outside"
            lent.clear()
            try:
                measure(arrays, case, beside_specification=True)
            except BrokenPromise as broken:
                return f"accuracy: {broken}"
            kept = run(backend, case, keep_every=4)
            for name, array in arrays.items():
                expected = array[kept_steps(sizes[0], 4)] if name == "h" else array
                if kept[name].tobytes() != expected.tobytes():
                    return f"keep_every changes {name}"
            alone = case._replace(x=case.x[:, :1], h0=case.h0[:1], g=case.g[:, :1])
            if run(backend, alone)["h"].tobytes() != arrays["h"][:, :1].tobytes():
                return "the rest of the batch changes the states"
            numba.set_num_threads(2)
            for name, array in run(backend, case).items():
                if array.tobytes() != arrays[name].tobytes():
                    return f"the number of threads changes {name}"
            numba.set_num_threads(1)
    return ""

print(judge())
"""


class Bug(NamedTuple):
    name: str
    module: str
    honest: str
    planted: str
    found: str


BUGS = [
    Bug(
        "skipped tail row",
        "_kernels",
        "            r = 0\n            while r < rows:",
        "            r = 0\n            while r < rows - (rows % 4 == 3):",
        "accuracy",
    ),
    Bug(
        "skipped tail row of a gradient",
        "_kernels",
        "    for p in range(panels):\n        r = 0\n        while r < rows:",
        "    for p in range(panels):\n        r = 0\n        while r < rows - 1:",
        "accuracy",
    ),
    Bug("skipped tail panel", "_kernels", "last = p + 1 if whole else panels", "last = p + 1", "the rest of the batch"),
    Bug(
        "wrong ring slot",
        "_kernels",
        "left = in_ring(scratch, at.left, at.left_row, call, t, rows, size)\n                if keep",
        "left = in_ring(scratch, at.left, at.left_row, call, t + 1, rows, size)\n                if keep",
        "accuracy",
    ),
    Bug(
        "ring of another step",
        "_kernels",
        "steps = min(ring_steps, T - t)",
        "steps = min(ring_steps, T - t - (T > 12))",
        "accuracy",
    ),
    Bug(
        "partial sum of another tile",
        "_kernels",
        "load(sums + group * apart_by, k, vector)",
        "load(sums + (group - 1) * apart_by, k, vector)",
        "accuracy",
    ),
    Bug(
        "sums of the last tile alone",
        "_kernels",
        "        begin_adjoint(step_size, call, start, rows, columns, adjoint)\n",
        "        begin_adjoint(step_size, call, start, rows, columns, adjoint)\n"
        "        clear(step_size, sums, sums_numbers(call, width))\n",
        "accuracy",
    ),
    Bug("aligned stores at rows that are not", "_kernels", "streams & (n == columns)", "streams", "crashed"),
    Bug("stale workspace", "_kernels", "    clear(step_size, sums, sums_numbers(call, width))\n", "", "accuracy"),
    Bug(
        "missing last step",
        "_kernels",
        "for t in range(T):\n            stashed",
        "for t in range(T - (T > 3)):\n            stashed",
        "accuracy",
    ),
    Bug(
        "Mᵀ for M",
        "_kernels",
        "row, column = (k, j) if transposed else (j, k)",
        "row, column = (j, k)",
        "accuracy",
    ),
    Bug("diffusion sign", "_kernels", "entry = entry - diffusion", "entry = entry + diffusion", "accuracy"),
    Bug(
        "segment's first state",
        "_kernels",
        "h = call.h + (begin // keep_every * B + start)",
        "h = call.h + (0 * B + start)",
        "keep_every",
    ),
    Bug("gate derivative", "_kernels", "* z_t * (one - z_t) * adjoint_t", "* z_t * adjoint_t", "accuracy"),
    Bug("gate bias missing", "_kernels", "call.b_z + j0 * size", "call.zeros + j0 * size", "accuracy"),
    Bug(
        "gate missing in replay",
        "_kernels",
        "increment = load(z, r * columns + j, epsilon) * increment",
        "pass",
        "accuracy",
    ),
    Bug(
        "no room for a wide dx",
        "_kernels",
        "rights = dx + rows * padded(call.m, width)",
        "rights = dx + held",
        "accuracy",
    ),
    Bug("dε of the last step alone", "_kernels", "lanes = lanes + deltas(", "lanes = deltas(", "accuracy"),
    Bug(
        "cotangent of the wrong step",
        "_kernels",
        "add(step_size, call.g + (t * B + start) * n * size",
        "add(step_size, call.g + ((t + 1) * B + start) * n * size",
        "accuracy",
    ),
    Bug(
        "a whole vector at the tail",
        "_kernels",
        "    elif count > 0:\n",
        "    elif count > 0 and store(address, index, value):\n",
        "written outside",
    ),
    Bug(
        "another order for a sample alone",
        "_kernels",
        "tile(at, out_row, begin, start_row, factors, vector, 1, 2, 1)",
        "tile(at, out_row, begin, start_row, (factors[1], factors[0]), vector, 1, 2, 1)",
        "the rest of the batch",
    ),
    Bug(
        "sums cut by the threads",
        "_host",
        "most = 16 if B >= 128",
        "most = _threads.workers(8) if B >= 16",
        "the number of threads",
    ),
    Bug(
        "memory handed out twice", "_memory", "return blocks.pop()", "return blocks[-1]", "memory was handed out twice"
    ),
]


def verdict(folder: Path) -> str:
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    # unoptimised code is the same arithmetic, compiled in half the time
    settings = {"NUMBA_OPT": "0", "NUMBA_CACHE_DIR": str(folder / "cache"), "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", JUDGE],
        env={**os.environ, **settings, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if done.returncode < 0:
        return f"crashed with signal {-done.returncode}"
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def copy(folder: Path) -> Path:
    return Path(shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__")))


def test_the_honest_copy_passes(tmp_path):
    copy(tmp_path)
    assert verdict(tmp_path) == ""


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_planted_bug_is_caught(bug, tmp_path):
    source = copy(tmp_path) / f"{bug.module}.py"
    text = source.read_text(encoding="utf-8")
    assert text.count(bug.honest) == 1, "the line to plant the bug in is not there, or twice"
    source.write_text(text.replace(bug.honest, bug.planted), encoding="utf-8")
    said = verdict(tmp_path)
    assert said, "not caught"
    assert said.startswith(bug.found), said
