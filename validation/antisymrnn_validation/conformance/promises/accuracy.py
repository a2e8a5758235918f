"""Promises about agreement with the certified truth."""

from __future__ import annotations

import math
from types import ModuleType

from antisymrnn_validation.conformance.check import promise
from antisymrnn_validation.truth.calls import ArrayError, BrokenPromise, Wrong, features_of, kept_states, run
from antisymrnn_validation.truth.cases import Case, generator_of
from antisymrnn_validation.truth.tolerance import measure


@promise(
    "last state",
    level=0,
    on={"certified"},
    plain=True,
    source="(F1) to (F4); gated (GF1) to (GF5)",
    usual_cause="another matrix M: W transposed, γ subtracted from every entry, W for W − Wᵀ; or ε at another place.",
    fix="Compare one step by hand: a = M h + V x + b with M = W − Wᵀ − γI, then h + ε tanh a.",
)
def last_state(backend: ModuleType, case: Case, *, beside_specification: bool = True) -> dict[str, ArrayError]:
    """h_T agrees with its certified truth, for h0 = 0."""
    states = kept_states(backend, case)
    try:
        ends = {"h": states[[0, -1]]}
        return measure(ends, case, keep_every=len(case.x), beside_specification=beside_specification)
    except BrokenPromise as broken:
        raise BrokenPromise(str(broken), broken.errors, Wrong(case, {"h": states}, 1)) from None


@promise(
    "every state",
    level=1,
    on={"certified"},
    plain=True,
    source="(F1) to (F4); gated (GF1) to (GF5)",
    usual_cause="h0 ignored, states shifted by one step, or x[t] taken for another step than t + 1.",
    fix="h[0] must be h0, and x[t] leads from h[t] to h[t + 1].",
)
def every_state(
    backend: ModuleType, case: Case, *, keep_every: int = 1, beside_specification: bool = True
) -> dict[str, ArrayError]:
    """Every state h_0 … h_T agrees with its certified truth, for h0 ≠ 0."""
    states = {"h": kept_states(backend, case, keep_every)}
    return measure(states, case, keep_every=keep_every, beside_specification=beside_specification)


@promise(
    "accuracy",
    level=2,
    needs={"gradients"},
    on={"certified"},
    plain=True,
    source="(B1) to (B9); gated (GB1) to (GB8)",
    usual_cause=(
        "if h is right and a gradient is not: the state after the step in (B3), dW = G for G − Gᵀ, a cotangent of an "
        "inner state left out, a mean over the batch for a sum."
    ),
    fix="Read the diagnosis; then hold the backward pass line by line against antisymrnn_ref/antisymmetric.py.",
)
def accuracy(
    backend: ModuleType,
    case: Case,
    *,
    keep_every: int = 1,
    input_gradient: bool = True,
    beside_specification: bool = True,
) -> dict[str, ArrayError]:
    """Every state and the gradient of every input agree with their certified truth."""
    arrays = run(backend, case, keep_every=keep_every, input_gradient=input_gradient)
    return measure(arrays, case, keep_every=keep_every, beside_specification=beside_specification)


@promise(
    "real sizes",
    level=4,
    on={"real sizes"},
    plain=True,
    source="(F1) to (B9); gated (GF1) to (GB8)",
    usual_cause=(
        "another way for large arrays: a tile, a block of samples or a store past the cache that is wrong where sizes "
        "are large together, or a sum over steps and batch in too short a dtype."
    ),
    fix="Halve one size at a time until it is right, and look at what the code does differently there.",
)
def real_sizes(backend: ModuleType, case: Case) -> dict[str, ArrayError]:
    """At the sizes of real tasks results agree with a run in a wider dtype, for keep_every below T too."""
    errors: dict[str, ArrayError] = {}
    for keep_every in _kept_apart(case) if "keep_every" in features_of(backend) else [1]:
        arrays = run(backend, case, keep_every=keep_every)
        found = measure(arrays, case, keep_every=keep_every, beside_specification=True, oracle="extended")
        errors = errors or found
    return errors


def _kept_apart(case: Case) -> list[int]:
    """1, and one of each kind below T: small, about √T, and over a half, where the last segment is short."""
    T, generator = len(case.x), generator_of(case)
    root = math.isqrt(T)
    ranges = [(2, root), (root, 2 * root), (T // 2 + 1, T)]
    return [1, *(int(generator.integers(low, max(high, low + 1))) for low, high in ranges)]
