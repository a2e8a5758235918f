"""The promises about the process: what honest code may do, and planted code that leaves something behind."""

from __future__ import annotations

import ctypes
import functools
import gc
import importlib
import locale
import mmap
import os
import platform
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import threadpoolctl

import antisymrnn_ref
from antisymrnn_ref import load_backend
from antisymrnn_validation.conformance.check import Promise, Result, make_check
from antisymrnn_validation.conformance.plan import iter_checks, made_cases
from antisymrnn_validation.conformance.promises import process
from antisymrnn_validation.conformance.promises.process import (
    concurrent_calls,
    global_state,
    growth,
    many_calls,
    thread_counts,
)
from antisymrnn_validation.conformance.targets import functions
from antisymrnn_validation.truth.cases import CELLS, random_case

LINUX = sys.platform == "linux"
NAMES = ("global state", "growth", "many calls", "concurrent calls", "thread counts")


def beside(work: Callable[..., Any], function: str = "forward", cells: tuple[str, ...] = CELLS) -> ModuleType:
    """The specification with some work after every call of a function: it gets the results, and may return others."""
    module = ModuleType("mine")
    module.asarray, module.to_numpy = antisymrnn_ref.asarray, antisymrnn_ref.to_numpy
    for cell in CELLS:
        right = getattr(antisymrnn_ref, cell)
        kept = {"forward": right.forward, "backward": right.backward}
        if cell in cells:

            def called(*arguments: Any, right: Any = kept[function], **options: Any) -> Any:
                results = right(*arguments, **options)
                changed = work(results)
                return results if changed is None else changed

            kept[function] = functools.wraps(kept[function])(called)
        setattr(module, cell, SimpleNamespace(**kept))
    return module


def result(promise: Promise, backend: ModuleType, where: str = "small") -> Result:
    return make_check(promise, made_cases(where)[0]).run(backend)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_honest_backends_keep_the_promises(backend: str, name: str) -> None:
    module = load_backend(backend)
    results = [check.run(module) for check in iter_checks(backend) if check.name == name]
    assert len(results) in (1, 2, 4)
    allowed = {"passed", "not applicable"} if (backend, name) == ("numpy", "thread counts") else {"passed"}
    assert {each.status for each in results} <= allowed, results


def function(p: dict[str, Any], x: Any, h0: Any, step_size: float, diffusion: float) -> Any:
    parameters = antisymrnn_ref.Parameters(p["W"], p["V"], p["b"])
    return antisymrnn_ref.antisymmetric.forward(parameters, x, h0, step_size=step_size, diffusion=diffusion).h


@pytest.mark.parametrize("promise", [global_state, growth, many_calls], ids=lambda promise: promise.name)
def test_functions_are_asked_too(promise: Promise) -> None:
    leaks: list[Any] = []

    def leaking(*arguments: Any) -> Any:
        leaks.append(function(*arguments))
        np.random.seed(0)  # noqa: NPY002
        return leaks[-1] * (1 + 1e-15 * (len(leaks) > 70))

    assert result(promise, functions.callable_candidate(function)).status == "passed"
    assert result(promise, functions.callable_candidate(leaking)).status == "failed"


# the state


@pytest.fixture
def _restored() -> Iterator[None]:
    """The state of the process after a test, where the setting of a check does not have it."""
    handler, filters = signal.getsignal(signal.SIGTERM), warnings.filters[:]
    interval, affinity = sys.getswitchinterval(), os.sched_getaffinity(0) if LINUX else None
    yield
    signal.signal(signal.SIGTERM, handler)
    warnings.filters[:] = filters
    sys.setswitchinterval(interval)
    if affinity is not None:
        os.sched_setaffinity(0, affinity)


CHANGES: dict[str, tuple[Callable[[], Any], str]] = {
    "seeds NumPy": (lambda: np.random.seed(0), "the state of numpy.random"),  # noqa: NPY002
    "draws from NumPy": (lambda: np.random.rand(), "the state of numpy.random"),  # noqa: NPY002
    "draws from random": (random.random, "the state of random"),
    "seeds random": (lambda: random.seed(0), "the state of random"),
    "ignores overflow": (lambda: np.seterr(all="ignore"), "np.geterr"),
    "warns": (lambda: np.seterr(divide="warn"), "np.geterr"),
    "prints short": (lambda: np.set_printoptions(precision=3), "np.get_printoptions"),
    "silences warnings": (lambda: warnings.simplefilter("ignore"), "the warning filters"),
    "one thread by the environment": (lambda: os.environ.update(OMP_NUM_THREADS="1"), "os.environ"),
    "a new variable each time": (lambda: os.environ.update(MINE=str(time.perf_counter_ns())), "os.environ"),
    "changes the folder": (lambda: os.chdir("/"), "the current folder"),
    "takes the interrupt": (lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), "the signal handlers"),
    "deep recursion": (lambda: sys.setrecursionlimit(5000), "the recursion limit"),
    "no collector": (gc.disable, "the garbage collector"),
    "a longer path": (lambda: sys.path.append("here"), "sys.path"),
    "one thread of the BLAS": (lambda: threadpoolctl.threadpool_limits(1), "the counts of threads"),
    "switches slower": (lambda: sys.setswitchinterval(sys.getswitchinterval() * 1.5), "the switch interval"),
}


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize("name", CHANGES)
def test_a_call_that_changes_the_state_is_rejected(name: str) -> None:
    change, words = CHANGES[name]
    before = process._state()
    found = result(global_state, beside(lambda _: (change(), None)[1]), "generic")
    assert found.status == "failed"
    assert found.detail.startswith("the call changes ")
    assert words in found.detail
    after = process._state()  # the check has given back what it set itself
    assert {key for key in before if before[key] != after[key]} <= {"the switch interval"}


@pytest.mark.skipif(not LINUX, reason="the locale C.UTF-8 is of Linux")
def test_a_call_that_changes_the_locale_is_rejected() -> None:
    found = result(global_state, beside(lambda _: (locale.setlocale(locale.LC_NUMERIC, "C"), None)[1]))
    assert found.detail == "the call changes the locale"


def test_what_a_first_call_does_is_no_change() -> None:
    first: list[bool] = []

    def once(_: Any) -> None:
        if not first:
            first.append(True)
            random.seed(3)
            np.random.seed(3)  # noqa: NPY002

    assert result(global_state, beside(once)).status == "passed"


@pytest.mark.parametrize(
    "reads",
    [
        lambda: np.random.get_state()[1][0] == 1001,  # noqa: NPY002
        lambda: np.geterr()["over"] == "ignore",
        lambda: random.getstate() == random.Random(1).getstate(),
        lambda: os.environ.get("OMP_NUM_THREADS") == "2",
    ],
)
def test_results_that_depend_on_the_state_are_rejected(reads: Callable[[], bool]) -> None:
    def change(trajectory: Any) -> Any:
        return trajectory._replace(h=trajectory.h * (1 + 1e-15 * reads()))

    found = result(global_state, beside(change), "generic")
    assert "with other settings of the process" in found.detail


X86 = LINUX and platform.machine() == "x86_64"


@pytest.mark.skipif(not X86, reason="the control word is that of x86-64 under glibc")
@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (0x8000, "denormal numbers are flushed to zero"),
        (0x0040, "denormal numbers are flushed to zero"),
        (0x2000, "numbers are not rounded to nearest"),
        (0x4000, "numbers are not rounded to nearest"),
        (0x6000, "numbers are not rounded to nearest"),
    ],
)
def test_another_floating_point_mode_is_rejected(bits: int, words: str) -> None:
    libm, before, changed = ctypes.CDLL("libm.so.6"), (ctypes.c_uint32 * 8)(), (ctypes.c_uint32 * 8)()
    libm.fegetenv(before)
    libm.fegetenv(changed)
    changed[7] |= bits  # MXCSR
    try:
        found = result(global_state, beside(lambda _: (libm.fesetenv(changed), None)[1]))
    finally:
        libm.fesetenv(before)
    assert found.detail == f"after a call {words}, in the whole process"
    assert process._floating_point() == []


# what grows


def kept(keep: Callable[[Any], Any]) -> Callable[[Any], None]:
    held: list[Any] = []

    def work(results: Any) -> None:
        held.append(keep(results))

    return work


def leaked_reference(_: Any) -> None:
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(np.empty(16)))


def leaked_block(_: Any) -> None:
    allocate = ctypes.CDLL(None).malloc
    allocate.restype = ctypes.c_void_p
    allocate(200)


def by_content() -> Callable[[Any], None]:
    shelf: dict[bytes, Any] = {}

    def work(results: Any) -> None:
        key = (results.h if hasattr(results, "h") else results.h0).tobytes()
        shelf.setdefault(key, 1)

    return work


GROWING: dict[str, tuple[Callable[[], Callable[[Any], None]], str, str]] = {
    "keeps every result": (lambda: kept(lambda results: results), "forward", "traced memory"),
    "keeps every gradient": (lambda: kept(lambda results: results.h0), "backward", "traced memory"),
    "keeps a line of a log": (lambda: kept(lambda _: f"call at {time.perf_counter_ns()}"), "forward", "traced"),
    "caches by content": (lambda: by_content(), "forward", "traced memory"),
    "leaks a reference": (lambda: leaked_reference, "backward", "traced memory"),
    "leaks a block of C": (lambda: leaked_block, "forward", "the heap"),
    "maps memory": (lambda: kept(lambda _: mmap.mmap(-1, 2**16)), "forward", "mapped memory"),
    "opens a file": (lambda: kept(lambda _: open(os.devnull)), "forward", "open files"),  # noqa: SIM115
    "opens a file in backward": (lambda: kept(lambda _: open(os.devnull)), "backward", "open files"),  # noqa: SIM115
}


@pytest.mark.skipif(not LINUX, reason="the heap and the maps are counted on Linux")
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", GROWING)
def test_what_grows_with_every_call_is_rejected(name: str) -> None:
    work, where, words = GROWING[name]
    found = result(growth, beside(work(), where))
    assert found.status == "failed"
    assert words in found.detail


def test_a_thread_of_every_call_is_rejected() -> None:
    stop = threading.Event()
    try:
        found = result(growth, beside(lambda _: threading.Thread(target=stop.wait, daemon=True).start()))
    finally:
        stop.set()
    assert "threads by " in found.detail


def test_caches_that_fill_and_garbage_in_circles_are_accepted() -> None:
    @functools.lru_cache(maxsize=128)
    def cached(content: bytes) -> bytes:
        return content * 2

    def circle(_: Any) -> None:
        ring: list[Any] = [np.empty(100)]
        ring.append(ring)

    bounded = beside(lambda results: cached((results.h if hasattr(results, "h") else results.h0).tobytes())[:0] or None)
    assert result(growth, bounded).status == "passed"
    assert result(growth, beside(circle, "backward")).status == "passed"


# many calls


def moved(results: Any, when: bool) -> Any:
    return results._replace(h=np.nextafter(results.h, 9)) if when else None


@pytest.mark.parametrize("limit", [1, 5, 25, 80, 250])
@pytest.mark.parametrize("counted", ["calls", "calls of a size", "other sizes"])
def test_bits_that_change_after_some_calls_are_rejected(counted: str, limit: int) -> None:
    counts: dict[Any, int] = {}

    def work(results: Any) -> Any:
        key = results.h.shape if counted == "calls of a size" else ""
        counts[key] = counts.get(key, 0) + 1
        if counted == "other sizes":  # scratch of a larger call, until it is used again
            before, counts[""] = counts.get("last", 0), 0
            counts["last"] = results.h.size
            return moved(results, before > results.h.size)
        return moved(results, counts[key] > limit)

    found = result(many_calls, beside(work))
    assert found.status == "failed"
    assert "expected the same bits" in found.detail


def test_a_compiler_that_switches_for_one_cell_alone_is_seen() -> None:
    count = iter(range(10**6))
    backend = beside(lambda results: moved(results, next(count) > 8), cells=("gated",))
    assert "after 10 calls of another size" in result(many_calls, backend).detail


# threads

MODULE = """
import functools, os, sys, types
import antisymrnn_ref
from antisymrnn_ref import asarray, to_numpy
count = 0
def other():
    global count
    count += 1
    return {condition}
def cell(right):
    @functools.wraps(right.forward)
    def forward(*arguments, **options):
        trajectory = right.forward(*arguments, **options)
        return trajectory._replace(h=trajectory.h * (1 + 1e-15 * other()))
    return types.SimpleNamespace(forward=forward, backward=right.backward)
antisymmetric, gated = cell(antisymrnn_ref.antisymmetric), cell(antisymrnn_ref.gated)
"""


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (
            "os.environ['OMP_NUM_THREADS'] == '16'",
            "other bits with 16 threads than with 1",
        ),
        ("int(os.environ['NUMBA_NUM_THREADS']) == 3", "other bits with 3 threads than with 1"),
        ("count > 40", "other bits with 1 thread, after 150 calls and with 3 threads, after 150 calls and"),
        ("__import__('numba').get_num_threads() == 5", "other bits with 16 threads, of which 5 are used than with 1"),
    ],
)
def test_bits_that_depend_on_threads_or_on_calls_in_a_new_process_are_rejected(
    condition: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_threads.py").write_text(MODULE.replace("{condition}", condition))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    try:
        assert words in result(thread_counts, importlib.import_module("of_threads"), "processes").detail
    finally:
        sys.modules.pop("of_threads")


@pytest.mark.parametrize("key", ["one", "by shape", "by thread name"])
def test_calls_at_once_that_share_something_are_rejected(key: str) -> None:
    shared: dict[Any, Any] = {}

    def work(trajectory: Any) -> Any:
        name = {"one": "", "by shape": trajectory.h.shape, "by thread name": threading.current_thread().name[-1] > "3"}
        shared[name[key]] = trajectory
        time.sleep(0.002)
        return shared[name[key]]

    case = random_case("antisymmetric", 4, 2, 3, 2, step_size=0.3, diffusion=0.2, seed=1)
    found = make_check(concurrent_calls, case).run(beside(work))
    assert found.status == "failed"
