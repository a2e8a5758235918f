"""A program in any language as a candidate: one call for each pass of each case, through files.

``PROGRAM INPUT_DIR OUTPUT_DIR`` is called with two folders:

- INPUT_DIR holds ``manifest.json`` (see :func:`manifest`) and ``W V b x h0`` (``V_z b_z`` for the gated cell, ``g`` for
  the backward pass), each as ``NAME.npy`` of version 1.0, C order, little-endian. There is no trajectory: the backward
  pass computes its states again.
- OUTPUT_DIR, empty, must get ``h.npy``, the kept states, and in the backward pass also ``dW dV db`` (``dV_z db_z``)
  ``dx dh0 dstep_size ddiffusion``, in the dtype and with the shapes that the manifest has under ``results``. Fortran
  order and the other byte order are read too. Both passes must give the same states to the bit.

Exit code 0: done. 77: not supported; the last line on stderr says why, and the check does not apply. Anything else, a
signal, or more time than allowed: the case failed. So did it if the program leaves something running, which is ended
(``leftovers.py``). What the program prints is kept for the message, the end of it.
Nothing that a program writes is executed or unpickled, and no memory is taken on its word.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from antisymrnn_ref.contract import (
    Array,
    kept_steps,
)
from antisymrnn_validation.conformance.targets import programs
from antisymrnn_validation.conformance.targets.functions import _candidate
from antisymrnn_validation.conformance.targets.leftovers import GRACE, Left, has_ended, left_by, started
from antisymrnn_validation.truth.calls import BrokenPromise, Candidate, NotSupported
from antisymrnn_validation.truth.cases import CELLS, Case

PROTOCOL = 1
"""Version of the manifest and of the files."""

NOT_SUPPORTED = 77
"""Exit code of a program that cannot do what it is asked."""

MOST_TIMEOUTS = 3
"""After so many calls that ran out of time a program is not called again."""

TAIL = 4096
"""Bytes of each output stream that are kept, and of a file that may be its header."""


LARGEST_FILE = 2**31
"""Bytes of a file that a program may write, on Linux."""


class Ended(NamedTuple):
    """How a program ended: exit code, negative for a signal, None for no end in time; the last that it printed; what it
    left running.
    """

    code: int | None
    out: str
    err: str
    left: tuple[Left, ...] = ()


def manifest(case: Case, pass_: str, keep_every: int) -> dict[str, Any]:
    """What ``manifest.json`` says of a call.

    Parameters
    ----------
    case : Case
        Its constants are written in the precision of its arrays.
    pass_ : str
        ``forward`` or ``backward``.
    keep_every : int
        At most T here, so that it fits any integer.

    Returns
    -------
    dict
        protocol, pass, cell, dtype, T, B, n, m, step_size, diffusion, step_size_hex, diffusion_hex (the same numbers as
        C99 writes them in hexadecimal), unconstrained, keep_every, in the backward pass g_on_every_state (else g is of
        the last state alone); ``arrays`` and ``results``, shapes by name.
    """
    T, B, m = case.x.shape
    n = len(case.parameters.b)
    leaves = {name: list(array.shape) for name, array in case.parameters._asdict().items()}
    arrays: dict[str, list[int]] = {**leaves, "x": [T, B, m], "h0": [B, n]}
    results: dict[str, list[int]] = {"h": [len(kept_steps(T, keep_every)), B, n]}
    if pass_ == "backward":
        results |= {f"d{name}": shape for name, shape in arrays.items()} | {"dstep_size": [], "ddiffusion": []}
        arrays["g"] = list(case.g.shape)
    every = {"g_on_every_state": case.g.ndim == 3} if pass_ == "backward" else {}
    constants = {name: float(case.dtype.type(getattr(case, name))) for name in ("step_size", "diffusion")}
    return {
        "protocol": PROTOCOL,
        "pass": pass_,
        "cell": case.cell,
        "dtype": case.dtype.name,
        "T": T,
        "B": B,
        "n": n,
        "m": m,
        **constants,
        **{f"{name}_hex": value.hex() for name, value in constants.items()},
        "unconstrained": case.unconstrained,
        "keep_every": keep_every,
        **every,
        "arrays": arrays,
        "results": results,
    }


class LeftRunning(BrokenPromise):
    """A program has left something running."""


def call(
    command: Sequence[str], timeout: float, case: Case, pass_: str, keep_every: int, grace: float = GRACE
) -> dict[str, Array]:
    """Results of one call of a program, by the names of their files.

    Raises
    ------
    NotSupported
        If it says so.
    LeftRunning
        If something that it started still runs ``grace`` seconds after its end.
    BrokenPromise
        If it fails, or if a result is not what it should be.
    TimeoutError
        If it does not end within ``timeout`` seconds.
    """
    told = manifest(case, pass_, keep_every)
    arrays = {**case.parameters._asdict(), "x": case.x, "h0": case.h0, "g": case.g}
    with tempfile.TemporaryDirectory(prefix="antisymrnn-", dir=_fast_folder(), ignore_cleanup_errors=True) as folder:
        given, returned = Path(folder) / "input", Path(folder) / "output"
        given.mkdir()
        returned.mkdir()
        (given / "manifest.json").write_text(json.dumps(told, indent=1), encoding="ascii")
        for name in told["arrays"]:
            little = np.ascontiguousarray(arrays[name]).astype(case.dtype.newbyteorder("<"), copy=False)
            np.save(given / f"{name}.npy", little, allow_pickle=False)
        ended = execute([*command, str(given), str(returned)], timeout, grace)
        if ended.code is None:
            raise TimeoutError(f"{pass_}: no end within {timeout:g} s; it was killed{_said(ended)}")
        if ended.left:
            code = f"{_end(ended.code)}, and " if ended.code else ""
            raise LeftRunning(f"{pass_}: {code}{_left(ended.left)}{_said(ended)}")
        if ended.code == NOT_SUPPORTED:
            raise NotSupported(_last_line(ended.err) or f"exit code {NOT_SUPPORTED}, without a reason on stderr")
        if ended.code:
            raise BrokenPromise(f"{pass_}: {_end(ended.code)}{_said(ended)}")
        try:
            if not stat.S_ISDIR(os.lstat(returned).st_mode):
                raise BrokenPromise("OUTPUT_DIR: is no folder any more")
            return {
                name: read_array(returned / f"{name}.npy", tuple(shape), case.dtype)
                for name, shape in told["results"].items()
            }
        except OSError as error:
            raise BrokenPromise(f"{pass_}: OUTPUT_DIR cannot be read: {error.strerror}{_said(ended)}") from error
        except BrokenPromise as broken:
            raise BrokenPromise(f"{pass_}: {broken}{_said(ended)}") from None


def execute(command: Sequence[str], timeout: float, grace: float = GRACE) -> Ended:
    """Run a command in a session of its own; whatever it started is ended with it, or when its time is over.

    Raises
    ------
    BrokenPromise
        If it cannot be run.
    """
    tails = [bytearray(), bytearray()]
    drains: list[threading.Thread] = []
    with contextlib.ExitStack() as stack:
        stack.callback(_join, drains)  # when nothing is left that could hold a pipe
        try:
            program = stack.enter_context(
                started(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            )
        except OSError as error:
            raise BrokenPromise(f"{command[0]}: cannot be run: {error.strerror or error}") from error
        _limit_files(program.process.pid)
        deadline = time.monotonic() + timeout
        for stream, tail in zip((program.process.stdout, program.process.stderr), tails, strict=True):
            drains.append(threading.Thread(target=_drain, args=(stream, tail), daemon=True))
            drains[-1].start()
        pause = 0.0005
        while not (ended := has_ended(program)) and time.monotonic() < deadline:
            if (printing := next(filter(threading.Thread.is_alive, drains), None)) is not None:
                printing.join(0.05)  # ends when the output is closed: mostly with the program
            else:
                time.sleep(pause)
                pause = min(2 * pause, 0.05)
        left = left_by(program, grace) if ended else []
    out, err = (bytes(tail).decode(errors="replace") for tail in tails)
    return Ended(program.process.returncode if ended else None, out, err, tuple(left))


def read_array(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """The array of a ``.npy`` file that nobody vouches for, in C order and native byte order.

    Raises
    ------
    BrokenPromise
        If it is not a regular file of exactly this shape and dtype; nothing is allocated before that is known.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise BrokenPromise(f"{path.name}: expected a regular file, no link, folder or pipe")
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise BrokenPromise(f"{path.name}: was not written") from None
    with open(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise BrokenPromise(f"{path.name}: expected a regular file")
        try:
            found_shape, fortran, found, begin = _header(file.read(TAIL))
        except Exception as error:  # noqa: BLE001 (a header may hold anything)
            raise BrokenPromise(f"{path.name}: expected a .npy file: {type(error).__name__}: {error}") from None
        if found.hasobject:
            raise BrokenPromise(f"{path.name}: expected numbers, got pickled objects, which are not loaded")
        if found.newbyteorder("=") != dtype or found_shape != shape:
            raise BrokenPromise(f"{path.name}: expected {dtype} {shape}, got {_cut(f'{found} {found_shape}')}")
        needed, there = int(np.prod(shape, dtype=object)) * dtype.itemsize, status.st_size - begin
        if needed != there:
            raise BrokenPromise(f"{path.name}: expected {needed} bytes of numbers, the file has {there}")
        file.seek(begin)
        data = file.read(needed)
    if len(data) != needed:
        raise BrokenPromise(f"{path.name}: changed while it was read")
    array = np.frombuffer(data, found).reshape(shape, order="F" if fortran else "C")
    return np.array(array, dtype=dtype, order="C")


def _header(begin: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether in Fortran order, dtype, and where the numbers begin."""
    file = io.BytesIO(begin)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"version {version}")
    shape, fortran, dtype = read(file)
    return tuple(shape), fortran, dtype, file.tell()


def _fast_folder() -> str | None:
    """A folder in memory, ten times faster than a disk, if there is one and nobody asks for another."""
    shared = "/dev/shm"
    return shared if "TMPDIR" not in os.environ and os.access(shared, os.W_OK) else None


def _drain(stream: BinaryIO, tail: bytearray) -> None:
    """Read a stream to its end and keep the last bytes."""
    with stream, contextlib.suppress(OSError, ValueError):
        while chunk := os.read(stream.fileno(), 1 << 16):
            tail += chunk
            del tail[:-TAIL]


def _join(drains: Sequence[threading.Thread]) -> None:
    for drain in drains:
        drain.join(1.0)  # where not everything can be ended, what is left may hold the pipe for ever


def _limit_files(pid: int) -> None:
    """No file of a program may fill the memory that the folders are in, where a limit can be set from outside."""
    with contextlib.suppress(ImportError, AttributeError, ProcessLookupError):
        import resource

        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        soft = LARGEST_FILE if hard == resource.RLIM_INFINITY else min(LARGEST_FILE, hard)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


def _left(left: Sequence[Left]) -> str:
    shown = [f"pid {pid} ({_cut(command)})" for pid, command in left[:3]]
    more = [f"{len(left) - 3} more"] * (len(left) > 3)
    return f"it left running after its end: {', '.join(shown + more)}; wait for every child, or end it"


def _end(code: int) -> str:
    if code > 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _said(ended: Ended) -> str:
    line = _last_line(ended.err) or _last_line(ended.out)
    return f"; it said: {line}" if line else ""


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return _cut(lines[-1].strip()) if lines else ""


def _cut(text: str) -> str:
    shown = "".join(letter if letter.isprintable() else "�" for letter in text)
    return shown if len(shown) <= 200 else f"{shown[:200]}…"


TIMEOUT = 20.0
"""Seconds that one call of a program may take."""


def program_candidate(command: Sequence[str], timeout: float = TIMEOUT) -> Candidate:
    """A program in any language, by the protocol of ``programs.py``.

    Parameters
    ----------
    command : sequence of str
        The program and its own arguments; two folders are added.
    timeout : float
        Seconds that one call may take. After :data:`programs.MOST_TIMEOUTS` such calls it is not called again.

    Raises
    ------
    ValueError
        If there is no such program, or for a timeout that is not positive.
    """
    if not timeout > 0:
        raise ValueError(f"timeout: expected seconds > 0, got {timeout}")
    if not command or shutil.which(command[0]) is None:
        here = ""
        if command and Path(command[0]).is_file():
            runs = "/" not in command[0] and shutil.which(f"./{command[0]}")
            here = f"; write ./{command[0]} for the one in this folder" if runs else "; that file is not executable"
        raise ValueError(f"command: expected a program that can be run, got {' '.join(command)!r}{here}")
    late: list[str] = []
    lingering = 0  # calls that left something running: after some, nothing more is waited for

    def called(case: Case, pass_: str, keep_every: int) -> dict[str, Array]:
        nonlocal lingering
        if len(late) == programs.MOST_TIMEOUTS:
            raise BrokenPromise(f"not called again after {len(late)} calls without an end; the last one: {late[-1]}")
        try:
            grace = GRACE if lingering < programs.MOST_TIMEOUTS else GRACE / 20
            return programs.call(command, timeout, case, pass_, keep_every, grace)
        except LeftRunning:
            lingering += 1
            raise
        except TimeoutError as error:
            late.append(str(error))
            raise BrokenPromise(str(error)) from None

    def forward(case: Case, keep_every: int) -> Array:
        return called(case, "forward", keep_every)["h"]

    def backward(case: Case, h: Array, keep_every: int, _: bool) -> dict[str, Array]:
        results = called(case, "backward", keep_every)
        if results.pop("h").tobytes() != h.tobytes():
            raise BrokenPromise("backward: h.npy: expected the same bits as in the forward pass")
        return {name.removeprefix("d"): array for name, array in results.items()}

    return _candidate(
        "program", dict.fromkeys(CELLS, (forward, backward)), {"gradients", "gated", "ablation", "keep_every"}
    )
