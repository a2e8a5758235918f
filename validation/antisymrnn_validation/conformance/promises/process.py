"""Promises about the process: its state, memory, threads and open files, over many calls and from many threads."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import functools
import gc
import json
import locale
import logging
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import threading
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import threadpoolctl

from antisymrnn_validation.conformance.check import promise
from antisymrnn_validation.truth.calls import (
    NotSupported,
    called,
    converted,
    features_of,
    kept_states,
    require,
    require_same_bits,
    run,
)
from antisymrnn_validation.truth.cases import CELLS, Case, random_case

SETTINGS = 2
"""How many states of the process each call is made in: no constant that a call writes is right in both."""

ROUNDS, CALLS = 4, 10
"""Something grows if it has grown in every round of so many calls; then for so many more rounds: a cache may fill."""

MORE_ROUNDS = 40

GROWTH = {"traced memory": 500, "the heap": 500, "mapped memory": 2**15, "threads": 1, "open files": 1}
"""How much, in bytes or in number, is growth in a round. The heap is what C allocates, where glibc can say it."""

MANY = (2, 3, 10, 30, 100, 300)
"""After so many calls the bits are compared with those of the first."""

PROCESSES = (1, 3, 16)
"""Counts of threads, each in a process of its own: libraries read the environment when they are loaded."""

LIMITS = (2, 5, 8)
"""Counts that the libraries are limited to, one after another, in the last of these processes."""

PROGRAM = """
import hashlib, importlib, json, pickle, sys
import threadpoolctl
from antisymrnn_validation.truth.calls import run
name, cases, limits = pickle.load(sys.stdin.buffer)
backend = importlib.import_module(name)
def digest():
    arrays = [array for case in cases for array in run(backend, case).values()]
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
digests = {"": digest()}
for _ in range(25):
    [run(backend, case._replace(x=case.x[:2], g=case.g[:3])) for case in cases]
digests[", after 150 calls"] = digest()
for limit in limits:
    if "numba" in sys.modules:
        sys.modules["numba"].set_num_threads(limit)
    with threadpoolctl.threadpool_limits(limit):
        digests[f", of which {limit} are used"] = digest()
print(json.dumps(digests))
"""
"""What each of them runs."""


@promise(
    "global state",
    level=4,
    needs={"arrays"},
    source="the contract, on arguments",
    usual_cause=(
        "np.random.seed or np.seterr at the top of a function; os.environ or os.chdir for a library; a compiler's "
        "-ffast-math, which flushes denormal numbers in the whole process when it is loaded."
    ),
    fix="Use a generator of your own and with np.errstate; set what must be set once, when the module is imported.",
)
def global_state(backend: ModuleType, case: Case) -> None:
    """A call leaves the state of the process as it was, and its results do not depend on it.

    That is: random generators, NumPy's settings, warnings, environment, folder, locale, signal handlers, limits,
    settings of Python, counts of threads, rounding and denormal numbers. A first call may touch all but the last two.
    """
    with _setting(0):
        first = run(backend, case)
    wrong = _floating_point()
    require(not wrong, f"after a call {' and '.join(wrong)}, in the whole process")
    for k in range(SETTINGS):
        with _setting(k):
            before = _state()
            arrays = run(backend, case)
            after = _state()
        changed = [name for name, value in before.items() if after[name] != value]
        require(not changed, f"the call changes {', '.join(changed)}")
        for name, array in arrays.items():
            require_same_bits(f"{name}, with other settings of the process", array, first[name])


def _floating_point() -> list[str]:
    """What is not as IEEE 754 has it at the start of a process."""
    wrong = set()
    kinds: list[Any] = [(np.float32, np.uint32), (np.float64, np.uint64)]
    for dtype, bits in kinds:
        info, subnormal = np.finfo(dtype), np.ones(1, bits).view(dtype)
        one, least, eps = (np.array([number], dtype) for number in (1, info.smallest_normal, info.eps))
        if not (least / 2 > 0).all() or not (subnormal / eps > 0).all():
            wrong.add("denormal numbers are flushed to zero")
        if not (one + eps / 4 == one).all() or not (one - eps / 8 == one).all():
            wrong.add("numbers are not rounded to nearest")
    return sorted(wrong)


def _state() -> dict[str, Any]:
    """What a call must not change, by the words of a report."""
    state: dict[str, Any] = {
        "the state of random": random.getstate(),
        "the state of numpy.random": pickle.dumps(np.random.get_state()),  # noqa: NPY002 (the global one)
        "np.geterr": (np.geterr(), np.geterrcall(), np.getbufsize()),
        "np.get_printoptions": np.get_printoptions(),
        "the warning filters": (list(warnings.filters), warnings.showwarning),
        "os.environ": dict(os.environ),
        "the current folder": os.getcwd(),
        "the locale": locale.setlocale(locale.LC_ALL),
        "the signal handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "sys.path": list(sys.path),
        "sys.stdout or sys.stderr": (sys.stdout, sys.stderr),
        "sys.excepthook": sys.excepthook,
        "the recursion limit": sys.getrecursionlimit(),
        "the switch interval": sys.getswitchinterval(),
        "a trace or profile function": (sys.gettrace(), sys.getprofile(), tracemalloc.is_tracing()),
        "the garbage collector": (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()),
        "the root logger": (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
        "faulthandler": faulthandler.is_enabled(),
        "threading.stack_size": threading.stack_size(),
        "the counts of threads": _thread_counts(),
        "the floating-point mode": _floating_point(),
    }
    if hasattr(os, "sched_getaffinity"):
        state["the processors"] = os.sched_getaffinity(0)
    if hasattr(os, "getpriority"):
        state["the priority"] = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(ImportError):  # there is none on Windows
        import resource

        names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
        state["the resource limits"] = {name: resource.getrlimit(getattr(resource, name)) for name in names}
    return state


def _thread_counts() -> dict[str, int]:
    """Of the libraries that threadpoolctl knows, and of Numba where its threads run: asking would start them."""
    counts = {pool["filepath"]: pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
    numba = sys.modules.get("numba")
    with contextlib.suppress(ValueError, AttributeError):  # not started, or half imported
        if numba is not None and numba.threading_layer():
            counts["numba"] = numba.get_num_threads()
    return counts


@contextlib.contextmanager
def _setting(k: int) -> Iterator[None]:
    """Another state of the process, and at the end what it was, whatever a call has done to it."""
    with contextlib.ExitStack() as stack:
        stack.callback(random.setstate, random.getstate())
        random.seed(k)
        stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002
        np.random.seed(k + 1000)  # noqa: NPY002
        stack.enter_context(np.errstate(all="ignore" if k else "warn", under="ignore"))
        stack.enter_context(np.printoptions(precision=3 + k))
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message=f"setting {k} of the judge")
        stack.callback(_restore, os.environ, dict(os.environ))
        os.environ |= {f"{library}_NUM_THREADS": str(k + 1) for library in ("OMP", "OPENBLAS", "MKL")}
        stack.enter_context(threadpoolctl.threadpool_limits(k + 1))
        stack.callback(os.chdir, os.getcwd())
        os.chdir(tempfile.gettempdir() if k else os.getcwd())
        stack.callback(locale.setlocale, locale.LC_ALL, locale.setlocale(locale.LC_ALL))
        with contextlib.suppress(locale.Error):  # not every system has both
            locale.setlocale(locale.LC_NUMERIC, "C.UTF-8" if k else "C")
        stack.callback(sys.path.__setitem__, slice(None), list(sys.path))
        stack.callback(sys.setrecursionlimit, sys.getrecursionlimit())
        sys.setrecursionlimit(sys.getrecursionlimit() + 1 + k)
        stack.callback(gc.enable if gc.isenabled() else gc.disable)
        gc.enable()
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and before is not None:
            stack.callback(signal.signal, signal.SIGINT, before)
            handler = before if callable(before) else signal.default_int_handler
            signal.signal(signal.SIGINT, functools.partial(handler))
        yield


def _restore(mapping: Any, before: dict[str, str]) -> None:
    for name in mapping.keys() - before.keys():
        del mapping[name]
    mapping.update(before)


@promise(
    "growth",
    level=4,
    needs={"arrays"},
    on={"small"},
    source="the contract, on arguments",
    usual_cause=(
        "a cache or a list that keeps something of every call; a reference that C code does not give back; a thread "
        "pool or a file that is opened in each call."
    ),
    fix="Bound every cache, by what it holds; make pools once; release in C what was taken.",
)
def growth(backend: ModuleType, case: Case) -> None:
    """After the first calls, more of them leave no more memory, threads or open files, whatever the arrays hold."""
    large = random_case(case.cell, 20, 32, 33, 3, step_size=0.1, diffusion=0.1, seed=1, dtype=case.dtype)
    numbers = iter(range(1, 10**6))

    def another(case: Case) -> Case:
        factor = case.dtype.type(1 + next(numbers) / 10**6)
        parameters = type(case.parameters)(*(factor * array for array in case.parameters))
        return case._replace(parameters=parameters, x=factor * case.x, h0=factor * case.h0, g=factor * case.g)

    def one_round() -> None:
        for given in [another(case) for case in [case] * CALLS + [large]]:  # all alive: no number is used again
            kept_states(backend, given)  # and its trajectory is dropped
            if "gradients" in features_of(backend):
                called(backend, given)

    tracing, thaw = tracemalloc.is_tracing(), not gc.get_freeze_count()
    tracemalloc.start()
    if thaw:
        gc.freeze()  # so that what is there already is not looked through again
    try:
        one_round()
        one_round()  # NumPy keeps some small blocks, which are traced from now on
        growing = _growing(one_round, ROUNDS)
        if growing:
            longer = _growing(one_round, MORE_ROUNDS)
            growing = {what: longer[what] for what in growing if what in longer}
    finally:
        if thaw:
            gc.unfreeze()
        if not tracing:
            tracemalloc.stop()
    grown = ", ".join(f"{what} by {amount}" for what, amount in growing.items())
    require(not growing, f"every {CALLS} calls more, of new arrays of the same sizes, enlarge {grown}")


def _growing(one_round: Callable[[], None], rounds: int) -> dict[str, int]:
    """What has grown in each of some rounds, and how much in the one in which it grew least."""
    least: dict[str, int] = {}
    before = _held()
    for k in range(rounds):
        one_round()
        after = _held()
        grown = {what: after[what] - before[what] for what in (least if k else after)}
        least = {what: min(amount, least.get(what, amount)) for what, amount in grown.items() if amount >= GROWTH[what]}
        if not least:
            break
        before = after
    return least


def _held() -> dict[str, int]:
    """How much of everything under :data:`GROWTH` there is, as far as the system says."""
    gc.collect()
    held = {"traced memory": tracemalloc.get_traced_memory()[0], "threads": threading.active_count()}
    if (heap := _heap()) is not None:
        held["the heap"] = heap
    if sys.platform == "linux":
        held["mapped memory"] = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        held["threads"] = len(os.listdir("/proc/self/task"))
    if Path("/dev/fd").is_dir():
        held["open files"] = len(os.listdir("/dev/fd"))
    return held


class _Mallinfo2(ctypes.Structure):
    _names_ = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = tuple((name, ctypes.c_size_t) for name in _names_.split())


def _heap() -> int | None:
    """Bytes that C's malloc has given out, in all threads."""
    if sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"):
        return None
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Mallinfo2
    found = mallinfo2()
    return int(found.uordblks) + int(found.hblkhd)


@promise(
    "many calls",
    level=4,
    needs={"arrays"},
    on={"small"},
    source="the contract, on bits",
    usual_cause=(
        "code that is compiled anew after some calls, a counter, a cache that is full, scratch of a larger call that a "
        "smaller one reads."
    ),
    fix="Let the arguments alone choose between ways to compute.",
)
def many_calls(backend: ModuleType, case: Case) -> None:
    """The 2nd, 10th, 100th and 300th call give the bits of the first, with other calls in between."""
    others = [
        random_case(cell, *sizes, step_size=0.1, diffusion=0.3, seed=9, dtype=case.dtype)
        for cell in (CELLS if "gated" in features_of(backend) else CELLS[:1])
        for sizes in ((1, 1, 1, 1), (4, 21, 35, 5), (7, 3, 2, 9))
    ]
    first = run(backend, case)
    before = [run(backend, other) for other in others]
    for k in range(2, max(MANY) + 1):
        arrays = run(backend, case)
        if k not in MANY:
            continue
        for name, array in arrays.items():
            require_same_bits(f"{name}, call {k}", array, first[name])
        for other, expected in zip(others, before, strict=True):
            for name, array in run(backend, other).items():
                require_same_bits(f"{name}, {other.name}, after {k} calls of another size", array, expected[name])


@promise(
    "thread counts",
    level=4,
    needs={"contract"},
    on={"processes"},
    source="the contract, on bits",
    usual_cause="work cut by the number of threads.",
    fix="Cut by the sizes alone.",
)
def thread_counts(backend: ModuleType, case: Case) -> None:
    """1, 3 and 16 threads, in processes of their own, and 2, 5 and 8 of 16 give the same bits.

    They still do after many calls. The specification does not promise it.
    """
    name = backend.__name__
    if name == "antisymrnn_ref":
        raise NotSupported("the specification leans on NumPy's BLAS and does not promise the same bits")
    if getattr(sys.modules.get(name), "antisymmetric", None) is not backend.antisymmetric:
        raise NotSupported("it has no module path that another process could import")
    wide = [
        random_case(cell, *sizes, step_size=0.1, diffusion=0.1, seed=3, dtype=case.dtype)
        for cell in CELLS
        for sizes in ((3, 300, 9, 2), (3, 33, 65, 2), (40, 4, 33, 3))
    ]
    last = PROCESSES[-1]
    asked = [(threads, pickle.dumps((name, [case, *wide], LIMITS * (threads == last)))) for threads in PROCESSES]
    with ThreadPoolExecutor(len(asked)) as pool:
        digests = {how: digest for found in pool.map(_digests, *zip(*asked, strict=True)) for how, digest in found}
    differ = [how for how, digest in digests.items() if digest != digests[_with(PROCESSES[0])]]
    differ = [how for how in differ if how.partition(",")[0] == how or how.partition(",")[0] not in differ]
    require(not differ, f"other bits {' and '.join(differ)} than with 1")


def _with(threads: int) -> str:
    return f"with {threads} thread{'s' * (threads > 1)}"


def _digests(threads: int, asked: bytes) -> list[tuple[str, str]]:
    """What the bits are digested to in a new process with so many threads."""
    counts = {f"{prefix}_NUM_THREADS": str(threads) for prefix in ("OMP", "NUMBA", "OPENBLAS", "MKL")}
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=asked,
        env={**os.environ, **counts, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        check=False,
    )
    require(answer.returncode == 0, f"{threads} threads: {answer.stderr.decode(errors='replace').strip()[-500:]}")
    return [(_with(threads) + how, digest) for how, digest in json.loads(answer.stdout.splitlines()[-1]).items()]


@promise(
    "concurrent calls",
    level=4,
    needs={"contract"},
    on={"large"},
    source="the contract, on bits",
    usual_cause="scratch memory shared between calls.",
    fix="One workspace for each call.",
)
def concurrent_calls(backend: ModuleType, case: Case) -> None:
    """Calls from 8 threads at once, of both cells and of several sizes, give the bits of calls one after another."""
    cases = [case._replace(x=factor * case.x, h0=-factor * case.h0) for factor in (1, -1, 2, -2)]
    cases += [
        random_case(cell, *sizes, step_size=0.2, diffusion=0.1, seed=5, dtype=case.dtype)
        for cell in CELLS
        for sizes in ((9, 40, 17, 2), (40, 3, 33, 3))
    ]
    alone = [run(backend, each) for each in cases]
    with ThreadPoolExecutor(len(cases)) as pool:
        for _ in range(3):
            for k, arrays in enumerate(pool.map(functools.partial(run, backend), cases)):
                for name, array in arrays.items():
                    require_same_bits(f"{name}, in {len(cases)} threads at once", array, alone[k][name])


@promise(
    "memory",
    level=4,
    needs={"contract"},
    on={"large"},
    source="DERIVATION.md, section 4",
    usual_cause="something of T states kept beside the trajectory.",
    fix="Keep per segment what backward needs per step.",
)
def memory(backend: ModuleType, case: Case) -> None:
    """keep_every=k takes O(T/k + k) states of memory, after a first call, where the arrays are NumPy's."""
    T, B, n, keep_every = 1000, 8, 32, 32
    m = case.x.shape[2]
    long = random_case(
        case.cell, T, B, n, m, step_size=0.1, diffusion=0.1, seed=0, dtype=case.dtype, last_state_only=True
    )
    given, module = converted(backend, long), getattr(backend, case.cell)
    if not isinstance(given.x, np.ndarray):
        raise NotSupported("its arrays are not NumPy's, whose memory can be counted")
    run(backend, case)  # what a first call compiles or loads is not memory of the pass
    tracing = tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        trajectory = module.forward(given.parameters, given.x, given.h0, keep_every=keep_every, **long.arguments)
        module.backward(given.parameters, given.x, trajectory, given.g, input_gradient=False, **long.arguments)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        if not tracing:
            tracemalloc.stop()
    # a few arrays of T/k + k states each, against the T states of plain storage
    states = peak / given.h0.nbytes
    allowed = 6 * (T / keep_every + keep_every)
    require(
        states <= allowed, f"keep_every={keep_every}: {states:.0f} states of memory at T = {T}, allowed {allowed:.0f}"
    )
