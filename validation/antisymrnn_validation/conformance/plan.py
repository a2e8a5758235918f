"""Which promise is checked on which case."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from antisymrnn_validation.conformance.check import DTYPES, Check, Promise, make_check
from antisymrnn_validation.conformance.promises.conduct import (
    checkpointing,
    concurrent_calls,
    conversion,
    errors,
    independent_calls,
    inputs_untouched,
    memory,
    no_aliasing,
    non_contiguous,
    repeatability,
    result_types,
    scalar_rounding,
    signatures,
    thread_counts,
    without_input_gradient,
    written_outputs,
)
from antisymrnn_validation.conformance.promises.metamorphic import (
    antisymmetric_gradient,
    batch_sum,
    chunks,
    neighbours,
    neighbours_to_rounding,
    signed_permutation,
    symmetric_part_of_W,
)
from antisymrnn_validation.conformance.promises.numbers import (
    blank_inputs,
    denormal_values,
    huge_values,
    infinite_input,
    nan_column,
    nan_column_to_rounding,
    non_finite_values,
)
from antisymrnn_validation.truth.calls import ALL, ArrayError, BrokenPromise, Wrong, kept_states, run
from antisymrnn_validation.truth.cases import CELLS, Case, drawn_cases, generic_cases, random_case, swept_cases
from antisymrnn_validation.truth.tolerance import measure


def iter_checks(
    backend_name: str, *, quick: bool = False, features: frozenset[str] = ALL, dtypes: Sequence[str] = DTYPES
) -> list[Check]:
    """Every check of a backend.

    Parameters
    ----------
    backend_name : str
        ``numpy``, the specification, promises independence of the rest of the batch only to rounding and is measured
        without itself.
    quick : bool
        Leave out the longest cases, and what needs other processes or much memory.
    features : frozenset of str
        What the candidate has; a check of what it lacks does not apply. One without gradients is judged on its states.
    dtypes : sequence of str
        The dtypes to judge. The lower levels are about the first of them.

    Returns
    -------
    list of Check
    """
    asked = functools.partial(make_check, features=features, first_dtype=dtypes[0])
    certified = functools.partial(certify, backend_name, features=features, first_dtype=dtypes[0])
    generic = [case for case in generic_cases(quick=quick) if case.dtype.name in dtypes]
    swept = [sweep for sweep in swept_cases(quick=quick) if sweep.case.dtype.name in dtypes]
    if quick and "contract" not in features:
        swept = swept[::5]  # a call of another program takes its time
    checks = [
        certified(case._replace(h0=np.zeros_like(case.h0)), what="last state")
        for case in generic
        if " generic " in case.name or " large W " in case.name
    ]
    checks += [certified(case, what="every state") for case in generic]
    checks += [certified(case) for case in generic]
    checks += [
        certified(case._replace(h0=np.zeros_like(case.h0), name=case.name.replace(" generic ", " h0 = 0 ")))
        for case in generic
        if " generic " in case.name
    ]
    what = "accuracy" if "gradients" in features else "every state"
    checks += [certified(case, what=what, keep_every=k, input_gradient=dx) for case, k, dx in swept]
    promised = functools.partial(random_case, step_size=0.3, diffusion=0.2, name="promises", dtype=dtypes[0])
    for promise in promises(backend_name if "contract" in features else "numpy"):
        for cell in CELLS:
            for dtype in dtypes:
                case = promised(cell, 11, 4, 7, 3, seed=101, dtype=dtype)
                checks.append(asked(promise, case))
    corner = [result_types, checkpointing, no_aliasing, without_input_gradient, inputs_untouched]
    for cell in CELLS:
        for sizes in ((0, 3, 5, 2), (1, 3, 5, 2), (6, 1, 5, 2), (6, 3, 1, 2), (6, 3, 5, 1)):
            case = promised(cell, *sizes, seed=102)
            checks += [asked(promise, case) for promise in corner]
        for unconstrained, last_state_only in ((True, True), (True, False), (False, True)):
            case = promised(cell, 9, 3, 6, 4, seed=106, unconstrained=unconstrained, last_state_only=last_state_only)
            checks += [asked(promise, case) for promise in (*corner, repeatability, independent_calls)]
        long = promised(cell, 47, 2, 5, 2, seed=108, unconstrained=True)
        checks += [asked(promise, long) for promise in (checkpointing, non_contiguous)]
        # wide enough for kernels to take another way
        wide = promised(cell, 3, 19, 33, 2, seed=107)
        to_rounding = backend_name == "numpy" or "contract" not in features
        beside = neighbours_to_rounding if to_rounding else neighbours
        checks += [asked(promise, wide) for promise in (beside, checkpointing, repeatability)]
        if not quick:
            large = promised(cell, 40, 4, 33, 3, seed=105)
            checks += [asked(promise, large) for promise in (thread_counts, concurrent_calls, memory)]
        # large enough for BLAS to take another way with another layout
        checks.append(asked(non_contiguous, promised(cell, 3, 16, 64, 2, seed=104)))
    checks.append(asked(conversion, promised("antisymmetric", 3, 2, 4, 1, seed=103)))
    return checks


def drawn_checks(
    backend_name: str, count: int, *, features: frozenset[str] = ALL, dtypes: Sequence[str] = DTYPES, seed: int = 0
) -> list[Check]:
    """Accuracy on cases drawn at random, those of the given dtypes among ``count``."""
    certified = functools.partial(certify, backend_name, features=features, first_dtype=dtypes[0])
    what = "accuracy" if "gradients" in features else "every state"
    return [
        certified(sweep.case, what=what, keep_every=sweep.keep_every, input_gradient=sweep.input_gradient)
        for sweep in drawn_cases(count, seed)
        if sweep.case.dtype.name in dtypes
    ]


def promises(backend_name: str) -> list[Promise]:
    """Every promise that can be asked on any case with T >= 2, B >= 2 and a cotangent on every state."""
    specification = backend_name == "numpy"
    return [
        result_types,
        checkpointing,
        without_input_gradient,
        repeatability,
        independent_calls,
        scalar_rounding,
        antisymmetric_gradient,
        symmetric_part_of_W,
        signed_permutation,
        chunks,
        batch_sum,
        neighbours_to_rounding if specification else neighbours,
        nan_column_to_rounding if specification else nan_column,
        blank_inputs,
        infinite_input,
        non_finite_values,
        huge_values,
        denormal_values,
        written_outputs,
        inputs_untouched,
        no_aliasing,
        non_contiguous,
        signatures,
        errors,
    ]


def certify(
    backend_name: str,
    case: Case,
    *,
    what: str = "accuracy",
    keep_every: int = 1,
    input_gradient: bool = True,
    **options: Any,
) -> Check:
    """The check that every state and every gradient of a case agrees with the certified truth.

    ``what`` is "accuracy", or "last state" or "every state" for less. ``options`` are those of :func:`make_check`.
    """
    options["keep_every"] = keep_every

    def last_state(backend: ModuleType, case: Case) -> dict[str, ArrayError]:
        states = kept_states(backend, case)
        try:
            ends = {"h": states[[0, -1]]}
            return measure(ends, case, keep_every=len(case.x), beside_specification=backend_name != "numpy")
        except BrokenPromise as broken:
            raise BrokenPromise(str(broken), broken.errors, Wrong(case, {"h": states}, 1)) from None

    def every_state(backend: ModuleType, case: Case) -> dict[str, ArrayError]:
        states = {"h": kept_states(backend, case, keep_every)}
        return measure(states, case, keep_every=keep_every, beside_specification=backend_name != "numpy")

    def accuracy(backend: ModuleType, case: Case) -> dict[str, ArrayError]:
        arrays = run(backend, case, keep_every=keep_every, input_gradient=input_gradient)
        return measure(arrays, case, keep_every=keep_every, beside_specification=backend_name != "numpy")

    promise = {"last state": last_state, "every state": every_state, "accuracy": accuracy}[what]
    return make_check(promise, case, **options)
