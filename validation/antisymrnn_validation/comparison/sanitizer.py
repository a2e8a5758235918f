"""``compute-sanitizer`` over a few small calls of a backend, each tool in a child process.

``python -m antisymrnn_validation.comparison.sanitizer BACKEND`` is what it watches.
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
from antisymrnn_validation.output.terminal import Record, one_line
from antisymrnn_validation.truth.calls import run
from antisymrnn_validation.truth.cases import CELLS, random_case

PATIENCE_SECONDS = 120.0
TOOLS = ("memcheck", "racecheck")
DONE = "small run done:"


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
        Waits for the children, PATIENCE_SECONDS from their start at most, and tells of each tool its ``status``:
        ``clean``, ``found``, or ``not run`` with the reason in ``detail``.
    """
    program = which("compute-sanitizer")
    path = os.pathsep.join(filter(None, sys.path))
    with contextlib.ExitStack() as stack:
        children = {}
        for tool in TOOLS if program else ():
            command = [program, "--tool", tool, sys.executable, "-m", "antisymrnn_validation.comparison.sanitizer"]
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
        end = clock() + PATIENCE_SECONDS

        def told() -> list[Record]:
            if program is None:
                return [{"tool": t, "status": "not run", "detail": "no compute-sanitizer on the path"} for t in TOOLS]
            found = []
            for tool, (child, output) in children.items():
                try:
                    child.wait(timeout=max(0.0, end - clock()))
                except subprocess.TimeoutExpired:
                    detail = f"not finished in {PATIENCE_SECONDS:.0f} s"
                    found.append({"tool": tool, "status": "not run", "detail": detail})
                    _end(child)
                    continue
                output.seek(0)
                found.append({"tool": tool, **sanitizer_verdict(output.read())})
            return found

        yield told


def sanitizer_verdict(output: str) -> Record:
    """What the output of a sanitizer over a small run comes to."""
    summary = re.search(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:error|hazard).*", output)
    lines = [one_line(line) for line in output.splitlines() if line.strip()]
    if summary and int(summary[1]):
        first = next((line for line in lines if re.match(r"=+ (Invalid|Error|Warning|Program hit|Race)", line)), "")
        return {"status": "found", "detail": " ".join(filter(None, (summary[0].strip(), first)))}
    done = next((line for line in lines if line.startswith(DONE)), "")
    if summary and done:
        return {"status": "clean", "detail": f"{done.removeprefix(DONE).strip()}; {summary[0].strip()}"}
    last = next((line for line in reversed(lines) if not line.startswith("========= ERROR SUMMARY")), "nothing")
    return {"status": "not run", "detail": f"the small run did not end well, the last words: {last}"}


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill a child that still runs, with what it has started."""
    if child.poll() is None:
        with contextlib.suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


if __name__ == "__main__":
    small_run(sys.argv[1])
