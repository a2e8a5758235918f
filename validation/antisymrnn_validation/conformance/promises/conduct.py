"""Promises about what calls do: bits, memory, layouts, threads, and what they leave as it was."""

from __future__ import annotations

import functools
import os
import pickle
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import numpy as np

from antisymrnn_ref.contract import kept_steps
from antisymrnn_validation.conformance.check import promise
from antisymrnn_validation.truth.calls import (
    NotSupported,
    converted,
    kept_states,
    promises_bits,
    require,
    require_same_bits,
    run,
)
from antisymrnn_validation.truth.cases import Case, random_case
from antisymrnn_validation.truth.tolerance import measure


@promise(
    "checkpointing",
    level=3,
    needs={"keep_every"},
    on={"generic", "corners", "options", "long", "wide"},
    source="DERIVATION.md, section 4",
    usual_cause=(
        "sums over steps whose order depends on the segments, or another kernel for the steps that are made again."
    ),
    fix="Make a step by one function, and add over steps in an order that does not know keep_every.",
)
def checkpointing(backend: ModuleType, case: Case) -> None:
    """keep_every=k keeps the states 0, k, 2k, … and T, and changes no bit of them or of a gradient."""
    plain, T = run(backend, case), len(case.x)
    some = {2, 3, max(T - 1, 1), max(T, 1)}
    for keep_every in sorted(some | {1, 20, T + 5, 2**31, 10**30} if promises_bits(backend) else some):
        expected = plain | {"h": plain["h"][kept_steps(T, keep_every)]}
        if promises_bits(backend):
            require_same_bits(f"keep_every={keep_every}: h", kept_states(backend, case, keep_every), expected["h"])
        for name, array in run(backend, case, keep_every=keep_every).items():
            require_same_bits(f"keep_every={keep_every}: {name}", array, expected[name])


@promise(
    "without input gradient",
    level=4,
    needs={"gradients"},
    on={"generic", "corners", "options"},
    source="contract.Gradients",
    usual_cause=(
        "zeros returned for None; a branch on needs_input_grad that skips more than the gradient that is not needed."
    ),
    fix="Return None for what is not needed, and compute the others by the same lines.",
)
def without_input_gradient(backend: ModuleType, case: Case) -> None:
    """input_gradient=False leaves x out (None) and changes nothing else.

    In PyTorch the gradients of the parameters are taken alone then, and those of h0, ε and γ alone.
    """
    without = run(backend, case, input_gradient=False)
    if not promises_bits(backend):
        measure(without, case)
        return
    plain = run(backend, case)
    for name, array in without.items():
        require_same_bits(name, array, plain[name])


@promise(
    "repeatability",
    level=4,
    on={"generic", "options", "wide"},
    source="the contract, on bits",
    usual_cause="atomic sums, a reduction whose order depends on threads, uninitialised memory.",
    fix="Fix the order of every sum, and write every entry before it is read.",
)
def repeatability(backend: ModuleType, case: Case) -> None:
    """The same call gives the same bits."""
    first = run(backend, case)
    for name, array in run(backend, case).items():
        require_same_bits(name, array, first[name])


@promise(
    "thread counts",
    level=4,
    needs={"contract"},
    on={"large"},
    source="the contract, on bits",
    usual_cause="work cut by the number of threads.",
    fix="Cut by the sizes alone.",
)
def thread_counts(backend: ModuleType, case: Case) -> None:
    """1, 2 and 3 threads, in processes of their own, give the same bits; not promised by the specification."""
    name = backend.__name__
    if name == "antisymrnn_ref":
        raise NotSupported("the specification leans on NumPy's BLAS and does not promise the same bits")
    if getattr(sys.modules.get(name), "antisymmetric", None) is not backend.antisymmetric:
        raise NotSupported("it has no module path that another process could import")
    program = (
        "import hashlib, importlib, pickle, sys\n"
        "from antisymrnn_validation.truth.calls import run\n"
        "name, case = pickle.load(sys.stdin.buffer)\n"
        "arrays = run(importlib.import_module(name), case)\n"
        "print(*(f'{key}:{hashlib.sha256(array.tobytes()).hexdigest()}' for key, array in arrays.items()))"
    )
    digests = {}
    for threads in ("1", "2", "3"):
        counts = {f"{prefix}_NUM_THREADS": threads for prefix in ("OMP", "NUMBA", "OPENBLAS", "MKL")}
        environment = {**os.environ, **counts, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        answer = subprocess.run(
            [sys.executable, "-c", program],
            input=pickle.dumps((name, case)),
            env=environment,
            capture_output=True,
            check=False,
        )
        require(answer.returncode == 0, f"{threads} threads: {answer.stderr.decode(errors='replace').strip()[-500:]}")
        digests[threads] = answer.stdout
    differ = [threads for threads, digest in digests.items() if digest != digests["1"]]
    require(not differ, f"other bits with {' and '.join(differ)} threads than with 1")


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


@promise(
    "written outputs",
    level=4,
    needs={"arrays"},
    source="the contract, on results",
    usual_cause="memory from an allocator that is not cleared, and an entry (a tail, T = 0) that no loop reaches.",
    fix="Write tails, and the results of empty loops.",
)
def written_outputs(backend: ModuleType, case: Case) -> None:
    """Every entry of every result is written."""
    T, B, _ = case.x.shape
    for steps, columns in ((T, B), (T - 1, B), (T, B - 1), (1, 1)):
        x, h0, g = case.x[:steps, :columns], case.h0[:columns], case.g[: steps + 1, :columns]
        given = case._replace(x=x, h0=h0, g=g)
        plain = run(backend, given)
        for _ in range(2):
            # memory that is handed out again is full of NaN then
            stale = [np.full_like(array, np.nan) for array in plain.values() for _ in range(8)]
            del stale
            for name, array in run(backend, given).items():
                require(bool(np.isfinite(array).all()), f"{name}: not finite, after memory full of NaN was freed")
                require_same_bits(f"{name}, after memory full of NaN was freed", array, plain[name])


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
    """Calls from several threads at once give the bits of calls one after another."""
    cases = [case._replace(x=factor * case.x, h0=-factor * case.h0) for factor in (1, -1, 2, -2)]
    alone = [run(backend, each) for each in cases]
    with ThreadPoolExecutor(len(cases)) as pool:
        for _ in range(3):
            for k, arrays in enumerate(pool.map(functools.partial(run, backend), cases)):
                for name, array in arrays.items():
                    require_same_bits(f"{name}, in {len(cases)} threads at once", array, alone[k][name])
