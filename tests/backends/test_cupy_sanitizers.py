"""The CuPy backend's kernels on the CPU under ThreadSanitizer and AddressSanitizer; planted errors are reported."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from antisymrnn_cupy import _instances
from antisymrnn_validation.truth.calls import run
from antisymrnn_validation.truth.cases import CELLS
from cuda_on_cpu import driver, emulator
from test_cupy_planted_bugs import CARD, KERNELS, Bug, Way, cases, plant, prepare

WAYS = {
    "block": Way("float32", (64, 1, 8, 4), (3, 5, 13), 2, "gated"),
    "cluster": Way("float64", (32, 2, 16, 2), (3, 4, 17), 2, "antisymmetric"),
    "grid": Way("float64", None, (3, 33, 5), 2, "gated"),
}
"""Small: under ThreadSanitizer every thread of a kernel takes a millisecond."""


class Error(NamedTuple):
    """A bug, of which mostly no result tells, and how a sanitizer reports it."""

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
        "thread",
        Bug(
            "no barrier behind a step",
            "block",
            "steps",
            "        barrier<L>();\n    }\n    async_wait<0>();",
            "    }\n    async_wait<0>();",
            "data race",
        ),
        "    *place = value;",
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
        "        async_wait<L::DEPTH - 2>();\n        barrier",
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
    """Sanitizes some modules only: what is not under test runs a hundred times faster."""

    modules: tuple[str, ...] = ()

    def library(self, module: str) -> emulator.Library:
        kind, self.sanitizer = self.sanitizer, self.sanitizer if module in self.modules else None
        library = super().library(module)
        self.sanitizer = kind
        return library


def main(kind: str, folder: str, name: str, bug: Bug | None) -> None:
    """Both cells of a way, m <= 4 and recomputed states with m > 4; the first alone if there is a bug."""
    stand_in = Sanitized(CARD, Path(folder), sanitizer=kind)
    beside = bug.module == "beside" if bug else name == "block"
    steps = bug is None or not beside
    stand_in.modules = (WAYS[name].dtype,) * beside + CELLS * steps
    backend = driver.load(stand_in)
    prepare(stand_in, backend, WAYS[name], bug)
    for keep_every, case in enumerate(cases(WAYS[name])[:: -1 if bug is None else -2], 1):
        run(backend, case, keep_every=keep_every)
    names = {launch.name for launch in stand_in.launches}
    assert any("_any" in launched for launched in names) == (name == "grid")
    print("done")


@pytest.fixture
def sanitized(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    folder = emulator.library_folder()

    def sanitized(kind: str, name: str, number: int | None = None) -> tuple[int, str]:
        arguments = [kind, str(folder), name, "" if number is None else str(number)]
        try:
            done = emulator.run_sanitized(kind, __file__, arguments)
        except emulator.EmulationError as missing:
            pytest.skip(str(missing))
        return done.returncode, done.stdout + done.stderr

    return sanitized


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("kind", ["thread", "address"])
def test_no_report_on_the_honest_copy(kind: str, name: str, sanitized: Callable[..., tuple[int, str]]) -> None:
    status, text = sanitized(kind, name)
    assert status == 0, text
    assert "done" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    range(len(ERRORS)),
    ids=[error.bug.name.replace(" ", "-") for error in ERRORS],
)
def test_a_planted_error_is_reported(number: int, sanitized: Callable[..., tuple[int, str]]) -> None:
    kind, bug, place = ERRORS[number]
    status, text = sanitized(kind, bug.way, number)
    assert status == 66, text
    assert bug.found in text
    source = _instances.source("float64", device=False)
    source = plant(source, bug) if bug.module in KERNELS else source
    assert source.count(place) == 1
    line = source[: source.index(place)].count("\n") + 1
    assert re.search(rf"kernels.cu:{line}\b", text), (line, text)


if __name__ == "__main__":
    kind, folder, name, number = sys.argv[1:]
    main(kind, folder, name, ERRORS[int(number)].bug if number else None)
