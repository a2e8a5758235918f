"""What needs a process of its own: peak memory, and the time of the first call, with and without a cache.

``python -m antisymrnn_validation.comparison.processes`` is that process: one request as JSON on stdin, one answer as
JSON on the last line of stdout.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from antisymrnn_ref import load_backend
from antisymrnn_validation.comparison.contenders import LIBRARIES, Contender, Prepared, backend_contender, peers
from antisymrnn_validation.comparison.workload import Shape, timed_case

FIRST_SHAPE = Shape(3, 2, 1, 8)
"""Small: the first call is all compiling."""

PATIENCE_SECONDS = 300


class ProcessError(RuntimeError):
    """A process that gave no answer; the message ends with the last line of its stderr."""


def peak_memory(name: str, cell: str, shape: Shape, dtype: str) -> dict[str, float]:
    """Memory of one forward and backward of a contender in a fresh process.

    Returns
    -------
    dict
        ``bytes``, the peak of a process that runs it once less that of a process that only imports, and ``imported``,
        the latter. Inputs, results and whatever is compiled count.

    Raises
    ------
    ProcessError
    """
    request = {"name": name, "cell": cell, "shape": list(shape), "dtype": dtype}
    imported = _ask(request | {"what": "imports"})["peak_bytes"]
    return {"bytes": _ask(request | {"what": "one call"})["peak_bytes"] - imported, "imported": imported}


def first_calls(name: str, cell: str, dtype: str) -> dict[str, dict[str, float]]:
    """Seconds of the import and of the first calls of a backend in a fresh process.

    Returns
    -------
    dict
        ``cold``, with an empty directory for the kernels on disk, and ``warm``, a second process with what the first
        left there: of each ``import``, ``forward`` and ``backward``.

    Raises
    ------
    ProcessError
    """
    request = {"what": "first calls", "name": name, "cell": cell, "shape": list(FIRST_SHAPE), "dtype": dtype}
    with tempfile.TemporaryDirectory() as cache:
        where = {"NUMBA_CACHE_DIR": cache, "CUPY_CACHE_DIR": cache}
        return {kind: _ask(request, where) for kind in ("cold", "warm")}


def answer(request: Mapping[str, Any]) -> dict[str, float]:
    """The answer of a process to a request."""
    name, cell, shape = request["name"], request["cell"], Shape(*request["shape"])
    if request["what"] == "imports":
        _contender(name, cell)
        for library in LIBRARIES:
            if name.startswith(library):
                importlib.import_module(library)
        return {"peak_bytes": _peak_bytes()}
    if request["what"] == "one call":
        prepared: Prepared = _contender(name, cell).prepare(timed_case(cell, shape, request["dtype"]))
        prepared.both()
        return {"peak_bytes": _peak_bytes()}
    return _first_calls(name, timed_case(cell, shape, request["dtype"]))


def _first_calls(name: str, case: Any) -> dict[str, float]:
    seconds = {}

    def clocked(what: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = call()
        seconds[what] = time.perf_counter() - start
        return result

    backend = clocked("import", lambda: load_backend(name))
    module = getattr(backend, case.cell)
    parameters = type(case.parameters)(*(backend.asarray(leaf, case.dtype) for leaf in case.parameters))
    x, h0, g = (backend.asarray(array, case.dtype) for array in (case.x, case.h0, case.g))
    trajectory = clocked("forward", lambda: module.forward(parameters, x, h0, **case.arguments))
    clocked(
        "backward",
        lambda: backend.to_numpy(module.backward(parameters, x, trajectory, g, **case.arguments).diffusion),
    )
    return seconds


def _contender(name: str, cell: str) -> Contender:
    known = {peer.name: peer for peer in peers(cell, LIBRARIES)}
    return known.get(name) or backend_contender(name, load_backend(name), cell)


def _peak_bytes() -> float:
    """The largest resident set so far. Linux hands a parent's ``ru_maxrss`` down to a child, but not this mark."""
    try:
        marked = re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        marked = None
    if marked:
        return 1024.0 * int(marked[1])
    try:
        import resource
    except ImportError:
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)


def _ask(request: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> dict[str, float]:
    paths = os.pathsep.join(filter(None, sys.path))
    try:
        answered = subprocess.run(
            [sys.executable, "-m", __name__],
            input=json.dumps(request),
            env={**os.environ, "PYTHONPATH": paths, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ProcessError(f"no answer in {PATIENCE_SECONDS} s") from None
    if answered.returncode:
        last = (answered.stderr.strip().splitlines() or ["nothing"])[-1]
        raise ProcessError(f"exit code {answered.returncode}, last line of stderr: {last}")
    found: dict[str, float] = json.loads(answered.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    print(json.dumps(answer(json.load(sys.stdin))))
