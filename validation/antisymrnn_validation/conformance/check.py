"""Checks: the promises of the contract, run on any backend by name, and on any candidate as far as its features go.

Tolerance is measured, case by case and array by array (:func:`measure`): an array may be wrong by
``FACTOR`` = 8 times what machines that round at random (and, in another backend's accuracy checks, the specification)
are wrong by, and never needs to be better than ``FLOOR`` = 4 ulp of the sum of its terms. The promises about
bits have no tolerance. Of another candidate than a backend (:class:`Candidate`) bits are asked where two calls have the
same arguments (repeatability, independent calls, ``keep_every``, written outputs, untouched inputs); everything else is
asked within the measured tolerance.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Literal, NamedTuple

from antisymrnn_validation.output.terminal import placed
from antisymrnn_validation.truth.calls import (
    ALL,
    LACKING,
    ArrayError,
    BrokenPromise,
    Candidate,
    NotSupported,
    Wrong,
    limited,
)
from antisymrnn_validation.truth.cases import CELLS, Case
from antisymrnn_validation.truth.oracles import (
    OracleError,
)

PATIENCE = 3
Status = Literal["passed", "failed", "not applicable", "expected failure"]


LEVELS = {
    0: "the last state",
    1: "h0, and every state",
    2: "every gradient",
    3: "gated cell, ablation, the other dtype, checkpointing",
    4: "corners and robustness",
    5: "metamorphic",
}
"""What the checks of a level are about; :func:`level` gives each check its own."""

DTYPES = ("float64", "float32")


class Result(NamedTuple):
    """What came of one check.

    Attributes
    ----------
    check, case : str
    status : "passed", "failed", "not applicable" or "expected failure"
    detail : str
        What failed, or why it does not apply.
    errors : dict of str to ArrayError
        By array, where the check measured any.
    wrong : Wrong or None
        What failed a measurement, to be diagnosed.
    diagnosis : str
    deviations : tuple of str
        Names of the known mistakes that give the same results.
    """

    check: str
    case: str
    status: Status
    detail: str = ""
    errors: dict[str, ArrayError] = {}  # noqa: RUF012 (never written)
    wrong: Wrong | None = None
    diagnosis: str = ""
    deviations: tuple[str, ...] = ()


class Check(NamedTuple):
    """One promise on one case; ``run`` takes the backend, and turns whatever it raises into a failure."""

    name: str
    case: str
    run: Callable[[ModuleType], Result]
    level: int = 0


Promise = Callable[[ModuleType, Case], dict[str, ArrayError] | None]
"""Takes a backend and a case; raises :class:`BrokenPromise` or :class:`NotSupported`, or returns what it measured."""


def level(promise: Promise, case: Case, *, keep_every: int = 1, first_dtype: str = DTYPES[0]) -> int:
    """The level of a promise on a case: a key of :data:`LEVELS`; the corners among the cases stand at 4."""
    found = _LEVELS.get(promise.__name__, 4)
    T, B, _ = case.x.shape
    crossed = case.cell != CELLS[0] or case.unconstrained or keep_every > 1 or case.dtype != first_dtype
    corner = T < 2 or B == 1 or len(case.parameters.b) == 1 or " saturated " in case.name
    return max(found, 3 * crossed, 4 * corner)


def _patience(backend: ModuleType) -> contextlib.AbstractContextManager[None]:
    """A candidate's limit of time."""
    if not isinstance(backend, Candidate) or math.isinf(backend.seconds):
        return contextlib.nullcontext()
    if backend.endless >= PATIENCE:
        raise BrokenPromise(f"not called again after {PATIENCE} checks without an end")

    def too_long() -> BaseException:
        backend.endless += 1
        return BrokenPromise(f"no end within {backend.seconds:g} s")

    return limited(backend.seconds, too_long)


def make_check(
    promise: Promise, case: Case, *, features: frozenset[str] = ALL, keep_every: int = 1, first_dtype: str = DTYPES[0]
) -> Check:
    """The check of one promise on one case; without the features it needs, one that does not apply."""
    name = promise.__name__.strip("_").replace("_", " ")
    needed = _NEEDED.get(promise.__name__, "").split()
    needed += ["gated"] * (case.cell == "gated") + ["ablation"] * case.unconstrained
    lacking = [LACKING[feature] for feature in needed if feature not in features]

    def checked(backend: ModuleType) -> Result:
        try:
            if lacking:
                raise NotSupported("; ".join(lacking))
            with _patience(backend), warnings.catch_warnings():
                warnings.simplefilter("error" if "contract" in features else "ignore")  # other code may warn
                return Result(name, case.name, "passed", errors=promise(backend, case) or {})
        except NotSupported as reason:
            return Result(name, case.name, "not applicable", str(reason))
        except OracleError as error:  # says nothing of the candidate
            return Result(name, case.name, "not applicable", f"there is no certified truth: {error}")
        except BrokenPromise as broken:
            wrong = broken.wrong and broken.wrong._replace(plain=promise.__name__ in _PLAIN)
            return Result(name, case.name, "failed", str(broken), broken.errors, wrong)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 (a candidate may raise anything: it is its failure)
            return Result(name, case.name, "failed", f"raised {placed(error)}")

    return Check(name, case.name, checked, level(promise, case, keep_every=keep_every, first_dtype=first_dtype))


_LEVELS = {
    "last_state": 0,
    "every_state": 1,
    "accuracy": 2,
    "_checkpointing": 3,
    "_antisymmetric_gradient": 5,
    "_symmetric_part_of_W": 5,
    "_signed_permutation": 5,
    "_chunks": 5,
    "_batch_sum": 5,
}
"""Level by promise; what is not here is at 4."""

_PLAIN = ("last_state", "every_state", "accuracy")

_NEEDED = {
    "accuracy": "gradients",
    "_checkpointing": "keep_every",
    "_antisymmetric_gradient": "gradients",
    "_inputs_untouched": "arrays",
    "_non_contiguous": "layouts",
    "_without_input_gradient": "gradients",
    "_written_outputs": "arrays",
    **dict.fromkeys(
        (
            "_result_types",
            "_scalar_rounding",
            "_no_aliasing",
            "_signatures",
            "_errors",
            "_conversion",
            "_thread_counts",
            "_concurrent_calls",
            "_memory",
        ),
        "contract",
    ),
}
"""Features that a promise needs."""
