"""The fuzzer in a process of its own: a call that crashes or never returns is a failure, not the end of the judge."""

from __future__ import annotations

import json
import math
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from antisymrnn_validation.conformance.check import DTYPES
from antisymrnn_validation.conformance.fuzzing.machine import Report, fuzz
from antisymrnn_validation.conformance.fuzzing.session import Failure, Tally
from antisymrnn_validation.truth.calls import modules_of

GRACE = 2.0
"""Seconds after the end at which the process is killed."""

PATIENCE = 60.0
"""Seconds that one step may take: some hundred calls, and the truth of a problem."""


def fuzz_apart(
    source: str,
    *,
    minutes: float,
    seed: int = 0,
    dtypes: Sequence[str] = DTYPES,
    progress: Callable[[Tally, Sequence[str]], None] = lambda *_: None,
) -> Report:
    """As :func:`~antisymrnn_validation.conformance.fuzzing.machine.fuzz`, of the target that an expression gives.

    Parameters
    ----------
    source : str
        A Python expression that gives the target, such as ``antisymrnn_ref.load_backend('numba')``.
    minutes, seed, dtypes, progress
        As for ``fuzz``. The time is kept whatever a call does.

    Raises
    ------
    RuntimeError
        If the process ends before the first call.
    """
    end = time.monotonic() + 60 * minutes
    program = "from antisymrnn_validation.conformance.fuzzing.apart import serve; serve()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            text=True,
            encoding="utf-8",
        )
        assert process.stdin is not None
        assert process.stdout is not None
        task = {"source": source, "seconds": end - time.monotonic(), "seed": seed, "dtypes": list(dtypes)}
        process.stdin.write(json.dumps(task))
        process.stdin.close()
        lines: queue.Queue[str] = queue.Queue()
        reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
        reader.start()
        steps: list[str] = []
        tally, begun = Tally(), time.monotonic()
        try:
            while True:
                now, patient = time.monotonic(), begun + PATIENCE if steps else math.inf
                if now >= patient:
                    return Report(seed, 0, tally, Failure(f"no end within {PATIENCE:g} s", tuple(steps)))
                if now >= end + GRACE:
                    return Report(seed, 0, tally, None)
                try:
                    line = lines.get(timeout=min(end + GRACE, patient) - now)
                except queue.Empty:
                    continue
                if not line:
                    break
                said, begun = json.loads(line), time.monotonic()
                if "rounds" in said:
                    failure = said["failure"] and Failure(said["failure"][0], tuple(said["failure"][1]))
                    return Report(seed, said["rounds"], _tally(said["tally"]), failure)
                tally = _tally(said["tally"])
                steps[said["number"] - 1 :] = [said["step"]]
                progress(tally, steps)
        finally:
            process.kill()
            status = process.wait()
            process.stdout.close()
        errors.seek(0)
        said_last = errors.read().decode(errors="replace").strip()[-1500:]
        how = f"by signal {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        if not steps:
            raise RuntimeError(f"the process of the fuzzer ended {how}: {said_last}")
        return Report(seed, 0, tally, Failure(f"the process ended {how}\n{said_last}", tuple(steps)))


def _tally(values: Sequence[Any]) -> Tally:
    calls, cells, largest = values
    T, B, n, m = largest
    return Tally(calls, cells, (T, B, n, m))


def _read(stream: Any, lines: queue.Queue[str]) -> None:
    for line in stream:
        lines.put(line)
    lines.put("")


def serve() -> None:
    """The other process: the task comes on stdin as JSON, every step and the report go to stdout as lines of JSON."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the target prints
    begun = time.monotonic()
    task = json.loads(sys.stdin.read())

    def send(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    def progress(tally: Tally, steps: Sequence[str]) -> None:
        send({"number": len(steps), "step": steps[-1], "tally": tally})

    import importlib

    names = {}
    for module in modules_of(task["source"]):
        importlib.import_module(module)
        root = module.partition(".")[0]
        names[root] = sys.modules[root]
    target = eval(task["source"], names)  # the expression of the kit's own command
    left = task["seconds"] - (time.monotonic() - begun)
    report = fuzz(target, minutes=left / 60, seed=task["seed"], dtypes=task["dtypes"], progress=progress)
    failure = report.failure and [report.failure.message, report.failure.steps]
    send({"rounds": report.rounds, "tally": report.tally, "failure": failure})
