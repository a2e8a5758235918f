"""What programs leave running: it is named, ended and reaped, and the judge is as it was."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from antisymrnn_validation.conformance.plan import certify
from antisymrnn_validation.conformance.targets import leftovers, programs
from antisymrnn_validation.truth.calls import Candidate
from antisymrnn_validation.truth.cases import random_case

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="adoption is of Linux")

HEAD = """
import os, signal, subprocess, sys, time
given, returned = sys.argv[1:]
notes = os.path.dirname(os.path.abspath(__file__)) + "/pids"
def note(pid=None):
    with open(notes, "a") as file:
        file.write(f"{pid or os.getpid()}\\n")
def stay(seconds=60):
    note()
    time.sleep(seconds)
    os._exit(0)
def wait_for(count):
    while not os.path.exists(notes) or len(open(notes).read().split()) < count:
        time.sleep(0.002)
"""

LEFT = {
    "a child in the same group": "if not os.fork(): stay()\nwait_for(1)",
    "a session of its own": "if not os.fork(): os.setsid(); stay()\nwait_for(1)",
    "a daemon": (
        "if not os.fork():\n    os.setsid()\n    if os.fork(): os._exit(0)\n"
        "    os.chdir('/'); os.closerange(0, 256); stay()\nwait_for(1)"
    ),
    "nohup": "note(subprocess.Popen(['nohup', 'sleep', '60'], stderr=-3, stdout=-3).pid)",
    "without its environment": (
        "note(subprocess.Popen(['env', '-i', '/bin/sleep', '60'], start_new_session=True).pid); time.sleep(0.1)"
    ),
    "deaf to signals": (
        "if not os.fork():\n    [signal.signal(k, signal.SIG_IGN) for k in (1, 2, 3, 15)]; os.setsid(); stay()\n"
        "wait_for(1)"
    ),
    "a child of a child": "if not os.fork():\n    os.setsid(); os.fork(); stay()\nwait_for(2)",
    "one that forks on": (
        "if not os.fork():\n    end = time.time() + 30\n"
        "    while time.time() < end:\n        if os.fork(): os._exit(0)\n"
        "        os.setsid(); time.sleep(0.0005)\n    os._exit(0)"
    ),
    "one that is stopped": "if not os.fork(): note(); os.kill(os.getpid(), signal.SIGSTOP)\nwait_for(1)",
}


def program(folder: Path, source: str, timeout: float = 20.0) -> Candidate:
    path = folder / "program.py"
    path.write_text(HEAD + source, encoding="utf-8")
    return programs.program_candidate([sys.executable, "-S", "-E", str(path)], timeout)


def detail(candidate: Candidate) -> str:
    result = certify("p", random_case("antisymmetric", 2, 1, 2, 1, step_size=0.3, diffusion=0.2, seed=1)).run(candidate)
    assert result.status == "failed"
    return result.detail


def pids(folder: Path) -> list[int]:
    return [int(pid) for pid in (folder / "pids").read_text().split()]


def runs(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def subreaper() -> int:
    found = ctypes.c_int()
    assert ctypes.CDLL(None).prctl(37, ctypes.byref(found), 0, 0, 0) == 0
    return found.value


@pytest.fixture(autouse=True)
def _the_judge_is_as_it_was() -> Iterator[None]:
    children = leftovers._children()
    assert subreaper() == 0
    yield
    assert subreaper() == 0
    assert leftovers._children() <= children  # zombies would be there
    assert leftovers._programs == set()


@pytest.mark.parametrize("how", LEFT)
def test_what_a_program_leaves_running_is_named_and_ended(how: str, tmp_path: Path) -> None:
    start = time.monotonic()
    found = detail(program(tmp_path, LEFT[how]))
    assert time.monotonic() - start < 8
    assert "forward: it left running after its end: pid " in found
    if how != "one that forks on":
        left = pids(tmp_path)
        assert any(f"pid {pid} (" in found for pid in left)
        assert not any(map(runs, left))
    assert "sleep" in found or "program.py" in found


@pytest.mark.parametrize("how", LEFT)
def test_it_is_ended_too_when_the_time_is_over(how: str, tmp_path: Path) -> None:
    found = detail(program(tmp_path, f"{LEFT[how]}\ntime.sleep(60)", 0.5))
    assert found.startswith("forward: no end within 0.5 s; it was killed")
    if how != "one that forks on":
        assert not any(map(runs, pids(tmp_path)))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import json\nif not os.fork(): os.setsid(); stay(0.3)\nwait_for(1)", "h.npy: was not written"),
        ("if not os.fork(): stay(0)", "h.npy: was not written"),
        ("if not os.fork():\n    os.setsid()\n    if os.fork(): os._exit(0)\n    stay(0)", "h.npy: was not written"),
        ("if not os.fork(): os.setsid(); stay()\nwait_for(1); sys.exit(77)", "it left running"),
        ("if not os.fork(): stay()\nwait_for(1); sys.exit(3)", "exit code 3, and it left running after its end: pid "),
        ("for _ in range(5):\n    if not os.fork(): stay()\nwait_for(5)", ", 2 more; wait"),
        ("if not os.fork():\n    time.sleep(0.2); open(returned + '/h.npy', 'w'); stay()", "it left running"),
    ],
)  # fmt: skip
def test_a_helper_may_end_with_its_program_and_not_much_later(source: str, words: str, tmp_path: Path) -> None:
    assert words in detail(program(tmp_path, source))


def test_a_program_that_leaves_something_each_time_is_not_waited_for_each_time(tmp_path: Path) -> None:
    candidate = program(tmp_path, "if not os.fork(): os.setsid(); stay()\nwait_for(1)")
    for _ in range(programs.MOST_TIMEOUTS):
        detail(candidate)
    start = time.monotonic()
    assert "it left running" in detail(candidate)
    assert time.monotonic() - start < leftovers.GRACE


OTHERS: dict[str, Callable[[], subprocess.Popen[bytes]]] = {
    "plain": lambda: subprocess.Popen(["sleep", "60"]),
    "in a session": lambda: subprocess.Popen(["sleep", "60"], start_new_session=True),
}


@pytest.mark.parametrize("during", [False, True])
@pytest.mark.parametrize("kind", OTHERS)
def test_other_children_of_the_judge_live_on(kind: str, during: bool, tmp_path: Path) -> None:
    started: list[subprocess.Popen[bytes]] = []
    thread = threading.Timer(0.5 * during, lambda: started.append(OTHERS[kind]()))
    thread.start()
    if not during:
        thread.join()
    try:
        waits = "time.sleep(1)" if during else ""
        found = detail(program(tmp_path, f"if not os.fork(): os.setsid(); stay()\nwait_for(1); {waits}"))
        thread.join()
        (other,) = started
        assert "it left running" in found
        assert f"pid {other.pid} " not in found
        assert other.poll() is None
    finally:
        thread.join()
        for process in started:
            process.kill()
            assert process.wait() == -signal.SIGKILL  # nobody else has reaped it


def test_programs_in_several_threads_end_their_own_alone(tmp_path: Path) -> None:
    left = program(tmp_path, "if not os.fork(): os.setsid(); stay()\nwait_for(1)")
    slow = tmp_path / "slow"
    slow.mkdir()
    helped = program(slow, "if not os.fork(): os.setsid(); stay(0.8)\nwait_for(1); time.sleep(1); print('fine')")
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(detail(helped)))
    thread.start()
    while not (slow / "pids").exists():
        time.sleep(0.005)
    assert "it left running" in detail(left)
    thread.join()
    assert found == ["forward: h.npy: was not written; it said: fine"]


def test_an_interrupt_ends_everything_at_once(tmp_path: Path) -> None:
    candidate = program(tmp_path, "if not os.fork(): os.setsid(); stay()\nwait_for(1); time.sleep(60)")

    def interrupt() -> None:
        while not (tmp_path / "pids").exists() or not pids(tmp_path):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        detail(candidate)
    assert time.monotonic() - start < 5
    assert not any(map(runs, pids(tmp_path)))


def test_the_pipe_that_a_process_holds_open_does_not_hold_the_judge(tmp_path: Path) -> None:
    start = time.monotonic()
    found = detail(program(tmp_path, "print('held', flush=True)\nif not os.fork(): os.setsid(); stay()\nwait_for(1)"))
    assert time.monotonic() - start < leftovers.GRACE + 3
    assert found.endswith("; it said: held")


def test_a_judge_that_was_a_subreaper_stays_one(tmp_path: Path) -> None:
    libc = ctypes.CDLL(None)
    assert libc.prctl(36, 1, 0, 0, 0) == 0
    try:
        detail(program(tmp_path, ""))
        assert subreaper() == 1
    finally:
        assert libc.prctl(36, 0, 0, 0, 0) == 0


def test_children_are_found_without_the_list_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        expected = leftovers._children()
        right = Path.exists
        monkeypatch.setattr(Path, "exists", lambda path: not str(path).endswith("/children") and right(path))
        assert leftovers._children() == expected >= {child.pid}
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("while True: os.write(2, b'flood ' * 9999)", "no end within 1 s; it was killed; it said: "),
        (
            "file = open(returned + '/h.npy', 'wb'); file.seek(2**31); file.write(b'0'); file.close()",
            "exit code 1; it said: OSError: [Errno 27] File too large",
        ),
        ("open(returned + '/h.npy', 'w').write('nan\\n' * 12)", "h.npy: expected a .npy file"),
        ("os.mkdir(returned + '/deep'); os.chmod(returned + '/deep', 0)", "h.npy: was not written"),
    ],
)
def test_other_ways_to_take_up_room(source: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "calls"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(programs.tempfile, "tempdir", None)
    assert words in detail(program(tmp_path, source, 1.0 if "flood" in source else 20.0))
    assert list(folder.iterdir()) == []
