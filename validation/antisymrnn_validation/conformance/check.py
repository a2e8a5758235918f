"""A promise of the contract, declared where it is checked, and the check of one promise on one case."""

from __future__ import annotations

import contextlib
import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any, Literal, NamedTuple

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
from antisymrnn_validation.truth.oracles import OracleError

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
"""What the checks of a level are about; :func:`level_of` gives each check its own."""

CASES = {
    "certified": "the cases of truth/cases.py",
    "generic": "T = 11, B = 4, n = 7, m = 3, in each dtype",
    "corners": "T = 0, T = 1, B = 1, n = 1 and m = 1",
    "options": "the ablation, and a cotangent of the last state alone",
    "long": "T = 47",
    "wide": "B = 19, n = 33: wide enough for kernels to take another way",
    "large": "T = 40, n = 33; not with --quick",
    "small": "T = 3, B = 2, n = 5, m = 2, in each dtype: called very often",
    "processes": "T = 40, n = 33, in processes of their own, with both cells; not with --quick",
    "BLAS": "B = 16, n = 64: large enough for BLAS to take another way with another layout",
    "structured": "the structures of truth/structures.py, alone and together",
    "real sizes": "those of the paper's tasks together: T to 1,100, B to 128, n to 256, m to 98; fewer with --quick",
    "conversion": "one case: the arrays are all that matters",
}
"""On which cases a promise is checked; ``plan`` makes them."""

DTYPES = ("float64", "float32")


@dataclass(frozen=True)
class Promise:
    """One promise and its documentation.

    Attributes
    ----------
    name : str
        In reports; the name of the function that checks it, with blanks.
    run : callable
        Takes a backend and a case; raises :class:`BrokenPromise` or :class:`NotSupported`, or returns what it measured.
    level : int
        A key of :data:`LEVELS`.
    needs : frozenset of str
        Features that the target must have; else the check does not apply. Keys of
        :data:`~antisymrnn_validation.truth.calls.LACKING`.
    on : frozenset of str
        Keys of :data:`CASES`.
    same_bits : bool or None
        Whether it is for targets that promise a sample the same bits whatever its neighbours (True), for others
        (False), or for all.
    plain : bool
        Whether the results it measures are those of one call on the case.
    source : str
        Equation tags of the specification, or the place in the contract.
    usual_cause, fix : str
        What a failure usually comes from, and what to do about it.
    """

    name: str
    run: Callable[..., dict[str, ArrayError] | None]
    level: int = 4
    needs: frozenset[str] = frozenset()
    on: frozenset[str] = frozenset()
    same_bits: bool | None = None
    plain: bool = False
    source: str = ""
    usual_cause: str = ""
    fix: str = ""

    @property
    def statement(self) -> str:
        """What must hold: the docstring of the function."""
        return " ".join(inspect.cleandoc(self.run.__doc__ or "").split())

    def __call__(self, backend: ModuleType, case: Case, **arguments: Any) -> dict[str, ArrayError] | None:
        """Check it; the exceptions are those of ``run``."""
        return self.run(backend, case, **arguments)


_declared: dict[str, Promise] = {}


def promise(
    name: str,
    *,
    level: int,
    source: str,
    usual_cause: str,
    fix: str,
    needs: Set[str] = frozenset(),
    on: Set[str] = frozenset({"generic"}),
    same_bits: bool | None = None,
    plain: bool = False,
) -> Callable[[Callable[..., dict[str, ArrayError] | None]], Promise]:
    """Declare a promise where it is checked; the arguments are the attributes of :class:`Promise`.

    Raises
    ------
    ValueError
        At import: for a second promise of the name, a name that is not the function's, an unknown feature, level or
        case, and a text that is missing.
    """

    def declare(function: Callable[..., dict[str, ArrayError] | None]) -> Promise:
        made = Promise(
            name, function, level, frozenset(needs), frozenset(on), same_bits, plain, source, usual_cause, fix
        )
        if name in _declared:
            raise ValueError(f"promise {name!r}: declared twice")
        if function.__name__ != name.replace(" ", "_"):
            raise ValueError(f"promise {name!r}: expected a function of this name, got {function.__name__}")
        if level not in LEVELS:
            raise ValueError(f"promise {name!r}: level: expected one of {', '.join(map(str, LEVELS))}, got {level}")
        for field, given, known in (("needs", needs, LACKING), ("on", on, CASES)):
            unknown = sorted(given - known.keys())
            if unknown:
                raise ValueError(f"promise {name!r}: {field}: expected some of {', '.join(known)}, got {unknown[0]!r}")
        if not on:
            raise ValueError(f"promise {name!r}: on: expected some of {', '.join(CASES)}, got none")
        for field, text in (
            ("source", source),
            ("usual_cause", usual_cause),
            ("fix", fix),
            ("docstring", made.statement),
        ):
            if not text.strip():
                raise ValueError(f"promise {name!r}: {field}: expected a text, got none")
        _declared[name] = made
        return made

    return declare


def declared_in(*modules: ModuleType) -> Mapping[str, Promise]:
    """Every promise of these modules by name, in their order.

    Raises
    ------
    ValueError
        If a public function of one of them is not declared.
    """
    found = {}
    for module in modules:
        for name, value in vars(module).items():
            if isinstance(value, Promise):
                found[value.name] = value
            elif isinstance(value, FunctionType) and value.__module__ == module.__name__ and not name.startswith("_"):
                raise ValueError(f"{module.__name__}.{name}: expected @promise, or a name that begins with _")
    return found


class Result(NamedTuple):
    """The result of one check.

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
    rounding : str
        The name of a rounding that the errors look like, where no known mistake gives the results.
    script : str
        Python that shows the failure again, where the case can be drawn again; the diagnosis has it too.
    """

    check: str
    case: str
    status: Status
    detail: str = ""
    errors: dict[str, ArrayError] = {}  # noqa: RUF012 (never written)
    wrong: Wrong | None = None
    diagnosis: str = ""
    deviations: tuple[str, ...] = ()
    rounding: str = ""
    script: str = ""


class Check(NamedTuple):
    """One promise on one case; ``run`` takes the backend, and turns whatever it raises into a failure."""

    name: str
    case: str
    run: Callable[[ModuleType], Result]
    level: int = 0
    cell: str = ""
    dtype: str = ""
    unconstrained: bool = False


def level_of(promise: Promise, case: Case, *, keep_every: int = 1, first_dtype: str = DTYPES[0]) -> int:
    """The level of a promise on a case: a key of :data:`LEVELS`; the corners among the cases stand at 4."""
    T, B, _ = case.x.shape
    crossed = case.cell != CELLS[0] or case.unconstrained or keep_every > 1 or case.dtype != first_dtype
    corner = T < 2 or B == 1 or len(case.parameters.b) == 1 or " saturated " in case.name
    return max(promise.level, 3 * crossed, 4 * corner)


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
    promise: Promise,
    case: Case,
    *,
    features: frozenset[str] = ALL,
    first_dtype: str = DTYPES[0],
    **arguments: Any,
) -> Check:
    """The check of one promise on one case; without the features it needs, one that does not apply.

    Parameters
    ----------
    promise : Promise
    case : Case
    features : frozenset of str
        Of the target.
    first_dtype : str
        The dtype that the lower levels are about.
    **arguments
        For the promise, ``keep_every`` among them.
    """
    needed = [*sorted(promise.needs), *["gated"] * (case.cell == "gated"), *["ablation"] * case.unconstrained]
    lacking = [LACKING[feature] for feature in needed if feature not in features]

    def checked(backend: ModuleType) -> Result:
        try:
            if lacking:
                raise NotSupported("; ".join(lacking))
            with _patience(backend), warnings.catch_warnings():
                warnings.simplefilter("error" if "contract" in features else "ignore")  # other code may warn
                return Result(promise.name, case.name, "passed", errors=promise(backend, case, **arguments) or {})
        except NotSupported as reason:
            return Result(promise.name, case.name, "not applicable", str(reason))
        except OracleError as error:  # says nothing of the candidate
            return Result(promise.name, case.name, "not applicable", f"there is no certified truth: {error}")
        except BrokenPromise as broken:
            wrong = broken.wrong and broken.wrong._replace(plain=promise.plain)
            return Result(promise.name, case.name, "failed", str(broken), broken.errors, wrong)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 (a candidate may raise anything: it is its failure)
            return Result(promise.name, case.name, "failed", f"raised {placed(error)}")

    level = level_of(promise, case, keep_every=arguments.get("keep_every", 1), first_dtype=first_dtype)
    return Check(promise.name, case.name, checked, level, case.cell, case.dtype.name, case.unconstrained)
