"""Promises about what calls do: bits, results, layouts, and the arguments that they leave as they were."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from antisymrnn_ref.contract import kept_steps
from antisymrnn_validation.conformance.check import promise
from antisymrnn_validation.truth.calls import (
    kept_states,
    promises_bits,
    require,
    require_same_bits,
    run,
)
from antisymrnn_validation.truth.cases import Case
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
