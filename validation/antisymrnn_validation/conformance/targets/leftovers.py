"""What a program leaves running: found, named and ended.

On Linux the judge adopts what outlives its parent for as long as a program runs (``PR_SET_CHILD_SUBREAPER``), so that
no session of its own, no second fork and no ``nohup`` takes a process out of reach. A new child of the judge is the
program's if it is in the program's session, or carries the program's mark in its environment, or is in a session that
neither the judge nor another program began. Other children of the judge are left alone: they are in the judge's own
session, were there before, or began a session with all of the judge's environment and no mark.

Where there is no ``/proc``, as on macOS, the process group of the program is ended and nothing is reported; a session
of its own is out of reach there. On Windows the program alone is ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

MARK = "ANTISYMRNN_CALL"
"""An environment variable of the program, other in each call."""

GRACE = 1.0
"""Seconds in which a helper that only waits for its program's end may end too."""

PATIENCE = 10.0
"""Seconds that are spent at most on ending everything: a process may start others while it is being ended."""

_PROC = sys.platform == "linux" and Path("/proc/self/stat").exists()
_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37

_lock = threading.RLock()
_programs: set[int] = set()  # that run now, in any thread
_runs = 0  # of them, and of those that are about to begin or end
_before = 0  # whether the judge was a subreaper when the first of them began


class Left(NamedTuple):
    """A process that a program left running."""

    pid: int
    command: str


class Started(NamedTuple):
    """A program that runs in a session of its own, its mark, and the judge's other children."""

    process: subprocess.Popen[bytes]
    mark: bytes
    others: frozenset[int]


class _Strays(NamedTuple):
    running: list[Left]
    any: bool  # also one that has ended: it may have started another meanwhile


class _Stat(NamedTuple):
    parent: int
    session: int


@contextlib.contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator[Started]:
    """Start a program; at the end it is ended and reaped with everything that it started.

    Raises
    ------
    OSError
        If it cannot be started.
    """
    mark = secrets.token_hex(8)
    options |= {"env": {**os.environ, MARK: mark}, "start_new_session": True}
    program = None
    _adopt()
    try:
        with _lock:
            others = frozenset(_children() - _programs)
            program = Started(subprocess.Popen(command, **options), f"{MARK}={mark}".encode(), others)
            _programs.add(program.process.pid)
        yield program
    finally:
        try:
            if program is not None:
                _end(program)
        finally:
            with _lock:
                if program is not None:
                    _programs.discard(program.process.pid)
            _restore()


def has_ended(program: Started) -> bool:
    """Whether the program itself has ended; it is not reaped yet, so no other process has its number."""
    if not hasattr(os, "waitid"):
        return program.process.poll() is not None
    return os.waitid(os.P_PID, program.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def left_by(program: Started, grace: float = GRACE) -> list[Left]:
    """What still runs so many seconds after the program has ended."""
    deadline, pause = time.monotonic() + grace, 0.001
    running: list[Left] = []
    while (found := _strays(program)).any:
        running = found.running or running
        if time.monotonic() > deadline:
            return running
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    return []


def _end(program: Started) -> None:
    """End the program, and what it started, until nothing of it is left."""
    process = program.process
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # at once, also what is being forked
    else:
        process.kill()
    process.wait()
    deadline = time.monotonic() + PATIENCE
    while (found := _strays(program)).any and time.monotonic() < deadline:
        for pid, _ in found.running:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)  # its own children are the judge's then
        time.sleep(0.0005 * bool(found.running))


def _strays(program: Started) -> _Strays:
    """Processes of a program whose parent is the judge; those that have ended are reaped."""
    running, ended = [], 0
    with _lock:
        for pid in sorted(_children() - program.others - _programs):
            if not _belongs(pid, program):
                continue
            left = Left(pid, _command(pid))
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    running.append(left)
                else:
                    ended += 1
    return _Strays(running, any=bool(running or ended))


def _belongs(pid: int, program: Started) -> bool:
    """Whether a new child of the judge descends from a program."""
    if (stat := _stat(pid)) is None:
        return False
    if stat.session == program.process.pid:
        return True
    if stat.session in _programs or stat.session == os.getsid(0):
        return False
    environment = _environment(pid)
    marks = {entry for entry in environment if entry.startswith(f"{MARK}=".encode())}
    if marks:
        return program.mark in marks
    inherited = {name + b"=" + value for name, value in os.environb.items()} <= environment
    return not (inherited and stat.session == pid)  # else what another thread of the judge has started in a session


def _environment(pid: int) -> set[bytes]:
    """What a process has got; of one that has ended, or has become another user's, nothing."""
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")) - {b""}
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return set()


def _children() -> set[int]:
    """The children of the judge: on Linux; elsewhere nobody says."""
    if not _PROC:
        return set()
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():  # a kernel without CONFIG_PROC_CHILDREN
        stats = {pid: _stat(pid) for pid in map(int, filter(str.isdigit, os.listdir("/proc")))}
        return {pid for pid, stat in stats.items() if stat is not None and stat.parent == os.getpid()}
    found = set()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            found |= set(map(int, Path(f"/proc/self/task/{task}/children").read_text().split()))
    return found


def _stat(pid: int) -> _Stat | None:
    """Parent and session of a process, if there is one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return _Stat(parent=int(fields[1]), session=int(fields[3]))


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ").strip()
        return words or Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return "ended meanwhile"


def _adopt() -> None:
    """Make the judge a subreaper until as many calls of :func:`_restore`."""
    global _runs, _before
    with _lock:
        if not _runs and _PROC:
            before = ctypes.c_int()
            _prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before))
            _prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))
            _before = before.value
        _runs += 1


def _restore() -> None:
    """Make it what it was before."""
    global _runs
    with _lock:
        _runs -= 1
        if not _runs and _PROC:
            _prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(_before))


def _prctl(option: int, argument: Any) -> None:
    zero = ctypes.c_ulong(0)
    if ctypes.CDLL(None, use_errno=True).prctl(option, argument, zero, zero, zero):
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")
