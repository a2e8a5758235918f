"""The CuPy backend's kernels on the CPU under ThreadSanitizer and AddressSanitizer; planted errors are reported."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from antisymrnn_validation.conformance.cases import CELLS
from antisymrnn_validation.conformance.checks import run
from cuda_on_cpu import driver, emulator
from test_cupy_planted_bugs import CARD, Bug, Way, cases, prepare

WAYS = {
    "block": Way("float64", (64, 1, 8, 4), (3, 5, 13), 2, "gated"),
    "cluster": Way("float64", (32, 2, 16, 2), (3, 4, 17), 2, "antisymmetric"),
    "grid": Way("float64", None, (3, 33, 5), 2, "gated"),
}
"""Small: under ThreadSanitizer every thread of a kernel takes a millisecond."""


class Error(NamedTuple):
    """A bug of which no result tells, and what a sanitizer says of it."""

    kind: str
    bug: Bug
    place: str  # in the planted kernel: its line is reported


ERRORS = [
    Error(
        "thread",
        Bug(
            "every thread writes a sum", "block", "beside", "if (thread == 0) *call.totals", "*call.totals", "data race"
        ),
        "*call.totals =",
    ),
    Error(
        "thread",
        Bug(
            "every block computes a tile",
            "grid",
            "steps",
            "tile += gridDim.x) {\n            real sums[4][2] = {};\n            at.product(tile, now",
            "tile += 1) {\n            real sums[4][2] = {};\n            at.product(tile, now",
            "data race",
        ),
        "__stcg(then + entry",
    ),
    Error(
        "address",
        Bug(
            "x past the batch",
            "block",
            "steps",
            "e < at.live * L::FEW_INPUTS",
            "e < columns * L::FEW_INPUTS",
            "heap-buffer-overflow",
        ),
        "async_wait<L::DEPTH - 2>",
    ),
    Error(
        "address",
        Bug(
            "rows past the last",
            "block",
            "beside",
            "begin + r < last ? load_B(begin + r, p) : real(0)",
            "load_B(begin + r, p)",
            "heap-buffer-overflow",
        ),
        "return call.B[r * call.B_r",
    ),
    Error(
        "address",
        Bug(
            "a sample short of shared memory",
            "block",
            "_instances",
            "(weights + columns * (2",
            "(weights + (columns - 1) * (2",
            "heap-buffer-overflow",
        ),
        "ring[e] = real(0)",
    ),
]


class Sanitized(driver.Driver):
    """Sanitizes some modules only, for time."""

    modules: tuple[str, ...] = ()

    def library(self, module: str) -> emulator.Library:
        kind, self.sanitizer = self.sanitizer, self.sanitizer if module in self.modules else None
        try:
            return super().library(module)
        finally:
            self.sanitizer = kind


if __name__ == "__main__":
    import time

    kind, folder, *names, number = sys.argv[1:]
    t0 = time.time()
    bug = ERRORS[int(number)].bug if number else None
    for name in names:
        stand_in = Sanitized(CARD, Path(folder), sanitizer=kind)
        beside = bug.module == "beside" if bug else name == "block"
        steps = bug.module != "beside" if bug else True
        stand_in.modules = ("float64",) * beside + CELLS * steps
        backend = driver.load(stand_in)
        prepare(stand_in, backend, WAYS[name], bug)
        for keep_every, case in enumerate(reversed(cases(WAYS[name])), 1):
            t = time.time()
            if bug and keep_every > 1:
                break
            run(backend, case, keep_every=keep_every)
            print(name, case.cell, time.time() - t)
    print("done", time.time() - t0)
