"""The plan: which promise is checked on which case, by what each promise declares."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from antisymrnn_validation.conformance.check import CASES, DTYPES, Check, make_check
from antisymrnn_validation.conformance.promises import PROMISES
from antisymrnn_validation.truth.calls import ALL, OF_FRAMEWORKS
from antisymrnn_validation.truth.cases import (
    CELLS,
    Case,
    drawn_cases,
    generic_cases,
    random_case,
    real_sized_cases,
    swept_cases,
)
from antisymrnn_validation.truth.structures import GATED, STRUCTURES, structured

CERTIFIED = ("last state", "every state", "accuracy")
"""The promises on the certified cases, each planned by its name."""

if tuple(name for name, promise in PROMISES.items() if "certified" in promise.on) != CERTIFIED:
    raise ValueError(f"on={{'certified'}}: expected of {', '.join(CERTIFIED)} alone")


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
        What the candidate has; a check of what it lacks does not apply, or, if it is about another framework, is left
        out. One without gradients is judged on its states.
    dtypes : sequence of str
        The dtypes to judge. The lower levels are about the first of them.

    Returns
    -------
    list of Check
    """
    same_bits = backend_name != "numpy" and "contract" in features
    sites = [where for where in CASES if where != "certified" and not (quick and where in ("large", "processes"))]
    cases = {where: made_cases(where, dtypes, quick=quick) for where in sites}
    return certified_checks(backend_name, quick=quick, features=features, dtypes=dtypes) + [
        make_check(promise, case, features=features, first_dtype=dtypes[0])
        for promise in PROMISES.values()
        if promise.same_bits in (None, same_bits) and promise.needs & OF_FRAMEWORKS <= features
        for where in sites
        if where in promise.on
        for case in cases[where]
    ]


def certified_checks(
    backend_name: str, *, quick: bool = False, features: frozenset[str] = ALL, dtypes: Sequence[str] = DTYPES
) -> list[Check]:
    """The checks against the certified truth; arguments as for :func:`iter_checks`."""
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
    return checks + [certified(case, what=what, keep_every=k, input_gradient=dx) for case, k, dx in swept]


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


def made_cases(where: str, dtypes: Sequence[str] = DTYPES, *, quick: bool = False) -> list[Case]:
    """The cases under a key of :data:`~antisymrnn_validation.conformance.check.CASES`, but for the certified ones."""
    if where == "real sizes":
        return [case for case in real_sized_cases(quick=quick) if case.dtype.name in dtypes]
    made = functools.partial(random_case, step_size=0.3, diffusion=0.2, name="promises", dtype=dtypes[0])
    corners = ((0, 3, 5, 2), (1, 3, 5, 2), (6, 1, 5, 2), (6, 3, 1, 2), (6, 3, 5, 1))
    options = ((True, True), (True, False), (False, True))
    of_cell: dict[str, Callable[[str], list[Case]]] = {
        "generic": lambda cell: [made(cell, 11, 4, 7, 3, seed=101, dtype=dtype) for dtype in dtypes],
        "corners": lambda cell: [made(cell, *sizes, seed=102) for sizes in corners],
        "options": lambda cell: [
            made(cell, 9, 3, 6, 4, seed=106, unconstrained=unconstrained, last_state_only=last_state_only)
            for unconstrained, last_state_only in options
        ],
        "long": lambda cell: [made(cell, 47, 2, 5, 2, seed=108, unconstrained=True)],
        "wide": lambda cell: [made(cell, 3, 19, 33, 2, seed=107)],
        "large": lambda cell: [made(cell, 40, 4, 33, 3, seed=105)],
        "small": lambda cell: [made(cell, 3, 2, 5, 2, seed=109, dtype=dtype) for dtype in dtypes],
        "processes": lambda cell: [made(cell, 40, 4, 33, 3, seed=105)] * (cell == CELLS[0]),
        "BLAS": lambda cell: [made(cell, 3, 16, 64, 2, seed=104)],
        "structured": lambda cell: structured_cases(cell, dtypes),
        "conversion": lambda cell: [made(cell, 3, 2, 4, 1, seed=103)] * (cell == CELLS[0]),
    }
    return [case for cell in CELLS for case in of_cell[where](cell)]


def structured_cases(cell: str, dtypes: Sequence[str] = DTYPES, together: int = 40) -> list[Case]:
    """Every structure of a cell alone, then several at a time; sizes, dtype and options take turns."""
    known = [name for name in STRUCTURES if cell == "gated" or name not in GATED]
    generator = np.random.default_rng(2022)
    chosen = [(name,) for name in known]
    chosen += [tuple(generator.choice(known, 2 + k % 3, replace=False).tolist()) for k in range(together)]
    sizes = ((11, 4, 7, 3), (6, 5, 9, 4), (9, 8, 16, 8), (5, 3, 6, 1), (7, 2, 8, 12))
    return [
        structured(
            random_case(
                cell, *sizes[k % len(sizes)], step_size=(0.3, 0.1, 1.0)[k % 3], diffusion=(0.2, 0.0)[k % 7 == 0],
                name="structured", dtype=dtypes[k // 2 % len(dtypes)], seed=200 + k,
                unconstrained=k % 4 == 3, last_state_only=k >= len(known) and k % 5 == 4,
            ),
            names,
            seed=k,
        )
        for k, names in enumerate(chosen)
    ]  # fmt: skip


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

    ``what`` is "accuracy", or "last state" or "every state" for less. ``options`` are those of ``make_check``.
    """
    arguments: dict[str, Any] = {"beside_specification": backend_name != "numpy"}
    if what != "last state":
        arguments["keep_every"] = keep_every
    if what == "accuracy":
        arguments["input_gradient"] = input_gradient
    return make_check(PROMISES[what], case, **options, **arguments)


def markdown() -> str:
    """Every promise as a row of a table in Markdown, in the order in which they are checked."""
    rows = ["| check | level | needs | what must hold |", "|---|---|---|---|"]
    rows += [
        f"| {promise.name} | {promise.level} | {', '.join(sorted(promise.needs))} | {promise.statement} |"
        for promise in PROMISES.values()
    ]
    return "\n".join(rows)
