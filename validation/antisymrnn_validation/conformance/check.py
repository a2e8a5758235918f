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
import functools
import inspect
import math
import os
import pickle
import signal
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np

from antisymrnn_ref import load_backend
from antisymrnn_ref.contract import Array, GatedParameters, Gradients, kept_steps
from antisymrnn_validation.conformance.promises.bad_calls import bad_calls
from antisymrnn_validation.output.environment import placed
from antisymrnn_validation.truth.cases import CELLS, Case, drawn_cases, generic_cases, random_case, swept_cases
from antisymrnn_validation.truth.oracles import (
    OracleError,
    Truth,
    enclose,
    named_arrays,
    perturbed_run,
    relative_error,
    tangent_identity,
)

FACTOR = 8
FLOOR = 4
PERTURBED_RUNS = 3
PATIENCE = 3
Status = Literal["passed", "failed", "not applicable", "expected failure"]

LACKING = {
    "gradients": "it gives no gradients",
    "gated": "it has no gated cell",
    "ablation": "it has no ablation",
    "keep_every": "it keeps every state",
    "arrays": "it does not get the caller's own arrays",
    "layouts": "its arrays come in C order alone",
    "contract": "asked of a backend alone",
}
"""What a candidate may lack, and the reason that checks of it then do not apply. A backend has every feature."""

ALL = frozenset(LACKING)

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


class ArrayError(NamedTuple):
    """Error of one array against the certified truth, relative to its largest true entry.

    Attributes
    ----------
    error : float
        Of the backend.
    tolerance : float
        What it may be.
    reference : float
        The measured error that the tolerance is a multiple of.
    """

    error: float
    tolerance: float
    reference: float


class Wrong(NamedTuple):
    """Results that failed: ``arrays`` of a case by the names of the truth, with the states of ``keep_every``.

    ``plain`` says that a run of the case gives them, and not a check's own arrangement of several runs.
    """

    case: Case
    arrays: dict[str, Array]
    keep_every: int
    plain: bool = False


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


class Candidate(ModuleType):
    """Something to judge that is not a backend: it looks like one, and ``features`` says what can be asked of it.

    A check of it may take ``seconds``; after ``PATIENCE`` checks without an end it is not called again.
    """

    features: frozenset[str] = ALL
    seconds: float = math.inf
    endless: int = 0


class BrokenPromise(Exception):
    """A promise is not kept; the message says how, ``errors`` holds what was measured."""

    def __init__(self, message: str, errors: dict[str, ArrayError] | None = None, wrong: Wrong | None = None) -> None:
        super().__init__(message)
        self.errors, self.wrong = errors or {}, wrong


class NotSupported(Exception):
    """A promise cannot be asked of this backend; the message says why."""


Promise = Callable[[ModuleType, Case], dict[str, ArrayError] | None]
"""Takes a backend and a case; raises :class:`BrokenPromise` or :class:`NotSupported`, or returns what it measured."""


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
    corner = [_result_types, _checkpointing, _no_aliasing, _without_input_gradient, _inputs_untouched]
    for cell in CELLS:
        for sizes in ((0, 3, 5, 2), (1, 3, 5, 2), (6, 1, 5, 2), (6, 3, 1, 2), (6, 3, 5, 1)):
            case = promised(cell, *sizes, seed=102)
            checks += [asked(promise, case) for promise in corner]
        for unconstrained, last_state_only in ((True, True), (True, False), (False, True)):
            case = promised(cell, 9, 3, 6, 4, seed=106, unconstrained=unconstrained, last_state_only=last_state_only)
            checks += [asked(promise, case) for promise in (*corner, _repeatability, _independent_calls)]
        long = promised(cell, 47, 2, 5, 2, seed=108, unconstrained=True)
        checks += [asked(promise, long) for promise in (_checkpointing, _non_contiguous)]
        # wide enough for kernels to take another way
        wide = promised(cell, 3, 19, 33, 2, seed=107)
        to_rounding = backend_name == "numpy" or "contract" not in features
        neighbours = _neighbours_to_rounding if to_rounding else _neighbours
        checks += [asked(promise, wide) for promise in (neighbours, _checkpointing, _repeatability)]
        if not quick:
            large = promised(cell, 40, 4, 33, 3, seed=105)
            checks += [asked(promise, large) for promise in (_thread_counts, _concurrent_calls, _memory)]
        # large enough for BLAS to take another way with another layout
        checks.append(asked(_non_contiguous, promised(cell, 3, 16, 64, 2, seed=104)))
    checks.append(asked(_conversion, promised("antisymmetric", 3, 2, 4, 1, seed=103)))
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
        _result_types,
        _checkpointing,
        _without_input_gradient,
        _repeatability,
        _independent_calls,
        _scalar_rounding,
        _antisymmetric_gradient,
        _symmetric_part_of_W,
        _signed_permutation,
        _chunks,
        _batch_sum,
        _neighbours_to_rounding if specification else _neighbours,
        _nan_column_to_rounding if specification else _nan_column,
        _blank_inputs,
        _infinite_input,
        _non_finite_values,
        _huge_values,
        _denormal_values,
        _written_outputs,
        _inputs_untouched,
        _no_aliasing,
        _non_contiguous,
        _signatures,
        _errors,
    ]


def level(promise: Promise, case: Case, *, keep_every: int = 1, first_dtype: str = DTYPES[0]) -> int:
    """The level of a promise on a case: a key of :data:`LEVELS`; the corners among the cases stand at 4."""
    found = _LEVELS.get(promise.__name__, 4)
    T, B, _ = case.x.shape
    crossed = case.cell != CELLS[0] or case.unconstrained or keep_every > 1 or case.dtype != first_dtype
    corner = T < 2 or B == 1 or len(case.parameters.b) == 1 or " saturated " in case.name
    return max(found, 3 * crossed, 4 * corner)


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
        states = _states(backend, case)
        try:
            ends = {"h": states[[0, -1]]}
            return measure(ends, case, keep_every=len(case.x), beside_specification=backend_name != "numpy")
        except BrokenPromise as broken:
            raise BrokenPromise(str(broken), broken.errors, Wrong(case, {"h": states}, 1)) from None

    def every_state(backend: ModuleType, case: Case) -> dict[str, ArrayError]:
        states = {"h": _states(backend, case, keep_every)}
        return measure(states, case, keep_every=keep_every, beside_specification=backend_name != "numpy")

    def accuracy(backend: ModuleType, case: Case) -> dict[str, ArrayError]:
        arrays = run(backend, case, keep_every=keep_every, input_gradient=input_gradient)
        return measure(arrays, case, keep_every=keep_every, beside_specification=backend_name != "numpy")

    promise = {"last state": last_state, "every state": every_state, "accuracy": accuracy}[what]
    return make_check(promise, case, **options)


def run(backend: ModuleType, case: Case, *, keep_every: int = 1, input_gradient: bool = True) -> dict[str, Array]:
    """Kept states and gradients of a case from a backend, as NumPy arrays under the names of the truth.

    Of a candidate without gradients the states alone.
    """
    if "gradients" not in features_of(backend):
        return {"h": _states(backend, case, keep_every)}
    trajectory, gradients = _call(backend, case, keep_every=keep_every, input_gradient=input_gradient)
    wanted = "an array" if input_gradient else "None with input_gradient=False"
    _require((gradients.x is not None) == input_gradient, f"x: expected {wanted}, got {type(gradients.x).__name__}")
    arrays = named_arrays(trajectory.h, gradients)
    return {name: backend.to_numpy(array) for name, array in arrays.items() if array is not None}


def features_of(backend: ModuleType) -> frozenset[str]:
    """What can be asked of a candidate; of a backend, everything, whatever attributes it has."""
    return backend.features if isinstance(backend, Candidate) else ALL


def measure(
    arrays: dict[str, Array],
    case: Case,
    *,
    keep_every: int = 1,
    beside_specification: bool = False,
    beside_perturbed_runs: bool = True,
) -> dict[str, ArrayError]:
    """Error and tolerance of every array of a case.

    Parameters
    ----------
    arrays : dict of str to array
        Under the names of the truth: ``h``, the parameters, ``x`` (may be left out), ``h0``, ``step_size``,
        ``diffusion``; or ``h`` alone.
    case : Case
    keep_every : int
        Which states ``h`` holds.
    beside_specification : bool
        Whether the specification's own error counts in the reference.
    beside_perturbed_runs : bool
        Whether those of the perturbed runs do.

    Returns
    -------
    dict of str to ArrayError
        Tolerance is FACTOR times the reference, and at least FLOOR ulp of the sum of the terms. The reference is the
        largest error among the perturbed runs and, if asked for, the specification. The gradients that are sums
        over all steps (parameters, ε, γ) share one reference relative to the sum of their terms, because
        a sum that is one number may be right by luck.

    Raises
    ------
    BrokenPromise
        If an error exceeds its tolerance.
    """
    truth, specification, perturbed = _reference(pickle.dumps(case))
    # the specification runs in the target's process, on the NumPy that the target may have changed
    bounded = {name: min(error, FACTOR * max(run[name] for run in perturbed)) for name, error in specification.items()}
    runs = [bounded] * beside_specification + perturbed * beside_perturbed_runs
    allowed = tolerances(case, truth, runs)
    errors = {}
    for name, enclosure in truth.arrays.items():
        if name not in arrays and (name == "x" or arrays.keys() == {"h"}):
            continue
        if name == "h":
            enclosure = enclosure._replace(balls=enclosure.balls[kept_steps(len(case.x), keep_every)])
        errors[name] = ArrayError(relative_error(arrays[name], enclosure), *allowed[name])
    try:
        require_within(errors)
    except BrokenPromise as broken:
        raise BrokenPromise(str(broken), errors, Wrong(case, dict(arrays), keep_every)) from None
    return errors


def tolerances(case: Case, truth: Truth, runs: Sequence[dict[str, float]]) -> dict[str, tuple[float, float]]:
    """Tolerance and reference of every array of a truth, as :func:`measure` says; ``runs`` are the errors by array."""
    limits, allowed = np.finfo(case.dtype), {}
    sums = [*case.parameters._fields, "step_size", "diffusion"]
    reference = {name: max(errors[name] for errors in runs) for name in truth.arrays}
    # what underflows altogether is off by all of itself, which says nothing of the others
    told = [name for name in sums if not 0 < truth.arrays[name].magnitude < float(limits.smallest_subnormal)]
    shared = max((reference[name] / truth.arrays[name].condition for name in told), default=0.0)
    for name, enclosure in truth.arrays.items():
        unit = shared * enclosure.condition if name in sums else reference[name]
        if not enclosure.magnitude:
            allowed[name] = (0.0, unit)
            continue
        # below the normal numbers an ulp is no smaller than there
        terms = max(enclosure.condition, float(limits.smallest_normal) / enclosure.magnitude)
        allowed[name] = (max(FACTOR * unit, FLOOR * float(limits.eps) * terms), unit)
    return allowed


def require_within(errors: dict[str, ArrayError]) -> None:
    """Raise :class:`BrokenPromise` if an error exceeds its tolerance, or is NaN."""
    wrong = [
        f"{name}: relative error {e.error:.1e}, tolerance {e.tolerance:.1e}"
        for name, e in errors.items()
        if not e.error <= e.tolerance
    ]
    if wrong:
        raise BrokenPromise("; ".join(wrong), errors)


@functools.lru_cache(maxsize=1024)
def _reference(pickled: bytes) -> tuple[Truth, dict[str, float], list[dict[str, float]]]:
    """The truth of a case, and the errors of the specification and of the perturbed runs; cached by content."""
    case: Case = pickle.loads(pickled)
    truth = enclose(case)
    forwards, backwards = tangent_identity(case, truth)
    if not forwards.overlaps(backwards):
        raise OracleError(f"{case.name}: the enclosed gradients contradict the product rule")

    def errors(arrays: dict[str, Array]) -> dict[str, float]:
        return {name: relative_error(arrays[name], enclosure) for name, enclosure in truth.arrays.items()}

    perturbed = [errors(perturbed_run(case, seed)) for seed in range(PERTURBED_RUNS)]
    return truth, errors(run(load_backend("numpy"), case)), perturbed


@contextlib.contextmanager
def limited(seconds: float, too_long: Callable[[], BaseException]) -> Iterator[None]:
    """Raise ``too_long()`` after so many seconds, where there is an alarm: in the main thread of a Unix process."""

    def ring(*_: Any) -> None:
        raise too_long()

    try:
        before = signal.signal(signal.SIGALRM, ring)
    except (AttributeError, ValueError):
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


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


def _inputs(backend: ModuleType, case: Case) -> Case:
    """The case with its arrays converted for the backend."""

    def convert(array: Array) -> Array:
        return backend.asarray(array, case.dtype)

    parameters = type(case.parameters)(*map(convert, case.parameters))
    return case._replace(parameters=parameters, x=convert(case.x), h0=convert(case.h0), g=convert(case.g))


def _call(
    backend: ModuleType, case: Case, *, keep_every: int = 1, input_gradient: bool = True, convert: bool = True
) -> tuple[Any, Gradients]:
    """Trajectory and gradients as the backend returns them."""
    module, given = getattr(backend, case.cell), _inputs(backend, case) if convert else case
    trajectory = module.forward(given.parameters, given.x, given.h0, keep_every=keep_every, **case.arguments)
    gradients = module.backward(
        given.parameters, given.x, trajectory, given.g, input_gradient=input_gradient, **case.arguments
    )
    return trajectory, gradients


def _generator(case: Case) -> np.random.Generator:
    """Random choices of a check: the same for the same case."""
    return np.random.default_rng(zlib.crc32(pickle.dumps(case)))


def _exact(backend: ModuleType) -> bool:
    """Whether bits are promised where rounding might differ."""
    return "contract" in features_of(backend)


def _states(backend: ModuleType, case: Case, keep_every: int = 1) -> Array:
    given, module = _inputs(backend, case), getattr(backend, case.cell)
    trajectory = module.forward(given.parameters, given.x, given.h0, keep_every=keep_every, **case.arguments)
    return backend.to_numpy(trajectory.h)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise BrokenPromise(message)


def _require_same_bits(name: str, got: Array, expected: Array) -> None:
    _require(
        got.shape == expected.shape and got.dtype == expected.dtype and got.tobytes() == expected.tobytes(),
        f"{name}: expected the same bits, largest difference {_difference(got, expected):.1e}",
    )


def _difference(left: Array, right: Array) -> float:
    return float(np.max(np.abs(left - right), initial=0.0)) if left.shape == right.shape else math.inf


def _result_types(backend: ModuleType, case: Case) -> None:
    trajectory, gradients = _call(backend, case)
    array_type = type(backend.asarray(case.x, case.dtype))
    T, B, _ = case.x.shape
    n = len(case.parameters.b)
    _require(type(gradients) is Gradients, f"gradients: expected Gradients, got {type(gradients).__name__}")
    _require(
        type(gradients.parameters) is type(case.parameters),
        f"gradients.parameters: expected {type(case.parameters).__name__}, got {type(gradients.parameters).__name__}",
    )
    _require(trajectory.keep_every == 1, f"trajectory.keep_every: expected 1, got {trajectory.keep_every}")
    shapes = {name: leaf.shape for name, leaf in case.parameters._asdict().items()}
    shapes |= {"h": (T + 1, B, n), "x": case.x.shape, "h0": (B, n), "step_size": (), "diffusion": ()}
    for name, array in named_arrays(trajectory.h, gradients).items():
        _require(type(array) is array_type, f"{name}: expected {array_type.__name__}, got {type(array).__name__}")
        _require(tuple(array.shape) == shapes[name], f"{name}: expected shape {shapes[name]}, got {tuple(array.shape)}")
        _require(array.dtype == case.dtype, f"{name}: expected dtype {case.dtype}, got {array.dtype}")


def _checkpointing(backend: ModuleType, case: Case) -> None:
    plain, T = run(backend, case), len(case.x)
    some = {2, 3, max(T - 1, 1), max(T, 1)}
    for keep_every in sorted(some | {1, 20, T + 5, 2**31, 10**30} if _exact(backend) else some):
        expected = plain | {"h": plain["h"][kept_steps(T, keep_every)]}
        if _exact(backend):
            _require_same_bits(f"keep_every={keep_every}: h", _states(backend, case, keep_every), expected["h"])
        for name, array in run(backend, case, keep_every=keep_every).items():
            _require_same_bits(f"keep_every={keep_every}: {name}", array, expected[name])


def _without_input_gradient(backend: ModuleType, case: Case) -> None:
    without = run(backend, case, input_gradient=False)
    if not _exact(backend):
        measure(without, case)
        return
    plain = run(backend, case)
    for name, array in without.items():
        _require_same_bits(name, array, plain[name])


def _repeatability(backend: ModuleType, case: Case) -> None:
    first = run(backend, case)
    for name, array in run(backend, case).items():
        _require_same_bits(name, array, first[name])


def _independent_calls(backend: ModuleType, case: Case) -> None:
    mine, module = _inputs(backend, case), getattr(backend, case.cell)
    scaled = {name: 2 * array for name, array in case.parameters._asdict().items()}
    other = case._replace(parameters=type(case.parameters)(**scaled), x=-case.x, h0=3 * case.h0, g=-2 * case.g)
    for moved in (
        case._replace(step_size=case.step_size / 2, name=f"{case.name}, another ε"),
        case._replace(diffusion=case.diffusion + 0.5, name=f"{case.name}, another γ"),
    ):
        run(backend, case)  # the same arrays
        measure(run(backend, moved), moved)

    def arrays(trajectory: Any, gradients: Gradients) -> dict[str, Array]:
        return {name: backend.to_numpy(array) for name, array in named_arrays(trajectory.h, gradients).items()}

    if "gradients" not in features_of(backend):
        held = module.forward(mine.parameters, mine.x, mine.h0, **case.arguments).h
        before = backend.to_numpy(held)
        _states(backend, other)
        _require_same_bits("h, after another call", backend.to_numpy(held), before)
        _require_same_bits("h, called again", _states(backend, case), before)
        if "arrays" in features_of(backend):
            changed = mine.parameters.W.copy() / 2
            mine.parameters.W[...] = changed  # as an optimiser does between two calls
            edited = module.forward(mine.parameters, mine.x, mine.h0, **case.arguments).h
            expected = _states(backend, case._replace(parameters=case.parameters._replace(W=changed)))
            _require_same_bits("h, after W was changed in place", edited, expected)
        return
    returned = _call(backend, case)
    first = arrays(*returned)
    trajectory = module.forward(mine.parameters, mine.x, mine.h0, **case.arguments)
    _call(backend, other)
    for name, array in arrays(*returned).items():
        _require_same_bits(f"{name}, after another call", array, first[name])
    for _ in range(2):
        gradients = module.backward(mine.parameters, mine.x, trajectory, mine.g, **case.arguments)
        for name, array in arrays(trajectory, gradients).items():
            _require_same_bits(f"{name}, with another call between forward and backward", array, first[name])

    if isinstance(mine.x, np.ndarray):
        changed = mine.parameters.W.copy() / 2
        mine.parameters.W[...] = changed  # as an optimiser does between two calls
        edited = arrays(*_call(backend, mine, convert=False))
        for name, array in run(backend, case._replace(parameters=case.parameters._replace(W=changed))).items():
            _require_same_bits(f"{name}, after W was changed in place", edited[name], array)


def _non_finite_values(backend: ModuleType, case: Case) -> None:
    specification, generator = load_backend("numpy"), _generator(case)
    leaves = {**case.parameters._asdict(), "x": case.x, "h0": case.h0, "g": case.g}
    poisons = [*((name, np.nan) for name in leaves), ("g", np.inf)]
    if _exact(backend):  # (W − Wᵀ) h − γ h is NaN where (W − Wᵀ − γI) h is infinite
        poisons.append(("h0", np.inf))
    for name, value in poisons:
        array = leaves[name]
        poisoned = array.copy()
        index = tuple(map(int, generator.integers(poisoned.shape)))
        if name == "W" and index[0] == index[1]:
            index = (index[0], index[1] - 1)  # the diagonal does not act
        poisoned[index] = value
        if name in case.parameters._fields:
            given = case._replace(parameters=case.parameters._replace(**{name: poisoned}))
        else:
            given = case._replace(**{name: poisoned})
        expected = run(specification, given)
        for result, got in run(backend, given).items():
            _require(got.shape == expected[result].shape, f"{result}: expected shape {expected[result].shape}")
            for entry in np.argwhere(np.isfinite(got) != np.isfinite(expected[result]))[:1]:
                place = f"{result}{tuple(map(int, entry))}" if len(entry) else result
                wanted = "no finite number" if np.isfinite(got[tuple(entry)]) else "a finite number"
                raise BrokenPromise(f"{place}: expected {wanted} for {value} at {name}{index}, got {got[tuple(entry)]}")


def _thread_counts(backend: ModuleType, case: Case) -> None:
    name = backend.__name__
    if name == "antisymrnn_ref":
        raise NotSupported("the specification leans on NumPy's BLAS and does not promise the same bits")
    if getattr(sys.modules.get(name), "antisymmetric", None) is not backend.antisymmetric:
        raise NotSupported("it has no module path that another process could import")
    program = (
        "import hashlib, importlib, pickle, sys\n"
        "from antisymrnn_validation.conformance.check import run\n"
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
        _require(answer.returncode == 0, f"{threads} threads: {answer.stderr.decode(errors='replace').strip()[-500:]}")
        digests[threads] = answer.stdout
    differ = [threads for threads, digest in digests.items() if digest != digests["1"]]
    _require(not differ, f"other bits with {' and '.join(differ)} threads than with 1")


def _memory(backend: ModuleType, case: Case) -> None:
    T, B, n, keep_every = 1000, 8, 32, 32
    m = case.x.shape[2]
    long = random_case(
        case.cell, T, B, n, m, step_size=0.1, diffusion=0.1, seed=0, dtype=case.dtype, last_state_only=True
    )
    given, module = _inputs(backend, long), getattr(backend, case.cell)
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
    _require(
        states <= allowed, f"keep_every={keep_every}: {states:.0f} states of memory at T = {T}, allowed {allowed:.0f}"
    )


def _scalar_rounding(backend: ModuleType, case: Case) -> None:
    plain = run(backend, case)
    for scalar in (lambda value: float(case.dtype.type(value)), case.dtype.type, np.float64):
        rounded = case._replace(step_size=scalar(case.step_size), diffusion=scalar(case.diffusion))
        for name, array in run(backend, rounded).items():
            _require_same_bits(name, array, plain[name])
    whole = run(backend, case._replace(step_size=1.0, diffusion=2.0))
    for name, array in run(backend, case._replace(step_size=1, diffusion=2)).items():
        _require_same_bits(name, array, whole[name])


def _antisymmetric_gradient(backend: ModuleType, case: Case) -> None:
    arrays = run(backend, case)
    dW, allowed = arrays["W"], 0.0
    if not _exact(backend):
        allowed = 2 * measure(arrays, case)["W"].tolerance * float(np.abs(dW).max())
    largest = _difference(dW, -dW.T)
    _require(largest <= allowed, f"W: dW + dWᵀ is not zero, largest entry {largest:.1e}, allowed {allowed:.1e}")


def _symmetric_part_of_W(backend: ModuleType, case: Case) -> None:
    W = np.round(8 * case.parameters.W) / 8  # eighths: adding others rounds nothing, and W h − Wᵀ h little
    drawn = _generator(case).integers(-9, 10, W.shape) / 8
    symmetric = (drawn + drawn.T).astype(case.dtype)
    with_W = case._replace(parameters=case.parameters._replace(W=W))
    with_both = run(backend, case._replace(parameters=case.parameters._replace(W=W + symmetric)))
    if not _exact(backend):
        measure(with_both, with_W)  # which has the same truth
        return
    plain = run(backend, with_W)
    for name, array in with_both.items():
        _require_same_bits(name, array, plain[name])


def _chunks(backend: ModuleType, case: Case) -> dict[str, ArrayError]:
    split, x, g = _generator(case).integers(len(case.x) + 1), case.x, case.g
    h0 = _states(backend, case._replace(x=x[:split]))[-1]
    if "gradients" not in features_of(backend):
        early_h, late_h = (_states(backend, c) for c in (case._replace(x=x[:split]), case._replace(x=x[split:], h0=h0)))
        return measure({"h": np.concatenate([early_h, late_h[1:]])}, case)
    late = run(backend, case._replace(x=x[split:], h0=h0, g=g[split:]))
    # the late chunk's dL/dh_0 holds the cotangent of the state they share
    early = run(backend, case._replace(x=x[:split], g=np.concatenate([g[:split], late["h0"][None]])))
    if _exact(backend):
        _require_same_bits("h", np.concatenate([early["h"], late["h"][1:]]), _states(backend, case))
    joined = {name: early[name] + late[name] for name in early if name not in ("h", "x", "h0")}
    joined |= {
        "h": np.concatenate([early["h"], late["h"][1:]]),
        "x": np.concatenate([early["x"], late["x"]]),
        "h0": early["h0"],
    }
    return measure(joined, case)


def _batch_sum(backend: ModuleType, case: Case) -> dict[str, ArrayError]:
    columns = [slice(k, k + 1) for k in range(case.x.shape[1])]
    singles = [
        run(backend, case._replace(x=case.x[:, column], h0=case.h0[column], g=case.g[:, column])) for column in columns
    ]
    axes = {name: axis for name, axis in {"h": 1, "x": 1, "h0": 0}.items() if name in singles[0]}
    joined = {name: sum(single[name] for single in singles) for name in singles[0] if name not in axes}
    joined |= {name: np.concatenate([single[name] for single in singles], axis) for name, axis in axes.items()}
    return measure(joined, case)


def _signed_permutation(backend: ModuleType, case: Case) -> dict[str, ArrayError]:
    n = len(case.parameters.b)
    generator = _generator(case)
    order, signs = generator.permutation(n), generator.choice([-1, 1], n).astype(case.dtype)
    if case.cell == "gated":
        signs[:] = 1  # the sigmoid is not odd
    back = np.argsort(order)

    def units_first(array: Array) -> Array:  # (n, …), or (n, n) on both sides
        moved = array[order] * signs.reshape(-1, *[1] * (array.ndim - 1))
        return moved[:, order] * signs if array.shape == (n, n) and array is case.parameters.W else moved

    def units_last(array: Array) -> Array:
        return array[..., order] * signs

    parameters = type(case.parameters)(*map(units_first, case.parameters))
    results = run(
        backend,
        case._replace(parameters=parameters, h0=units_last(case.h0), g=units_last(case.g)),
    )
    for name in results.keys() & set(case.parameters._fields):
        array = results[name] * signs.reshape(-1, *[1] * (results[name].ndim - 1))
        results[name] = array[back]
    if "W" in results:
        results["W"] = (results["W"] * signs)[:, back]
    for name in results.keys() & {"h", "h0"}:
        results[name] = (results[name] * signs)[..., back]
    return measure(results, case)


def _among_others(case: Case) -> Iterator[tuple[Case, int]]:
    """The first column of the case among other neighbours, in another place, and alone; and where it is then."""
    yield case._replace(x=np.roll(case.x, 1, axis=1), h0=np.roll(case.h0, 1, axis=0)), 1
    others = case._replace(x=-2 * case.x, h0=3 * case.h0)
    others.x[:, 0], others.h0[0] = case.x[:, 0], case.h0[0]
    yield others, 0
    yield case._replace(x=case.x[:, :1], h0=case.h0[:1], g=case.g[:, :1]), 0


def _neighbours(backend: ModuleType, case: Case) -> None:
    column = _states(backend, case)[:, 0]
    for other, place in _among_others(case):
        _require_same_bits("h of a column", _states(backend, other)[:, place], column)


def _neighbours_to_rounding(backend: ModuleType, case: Case) -> None:
    column = _states(backend, case)[:, 0]
    allowed = 2 * measure(run(backend, case), case)["h"].tolerance * np.abs(column).max()
    for other, place in _among_others(case):
        difference = _difference(_states(backend, other)[:, place], column)
        _require(difference <= allowed, f"h of a column: moved by {difference:.1e}, allowed {allowed:.1e}")


def _poisoned(backend: ModuleType, case: Case) -> tuple[dict[str, Array], dict[str, Array], Array]:
    """Results without and with a NaN in one column's input, and which columns are clean; the NaN's own way checked."""
    T, B, m = case.x.shape
    at, column, k = map(int, _generator(case).integers([T, B, m]))
    x = case.x.copy()
    x[at, column, k] = np.nan
    plain, poisoned = run(backend, case), run(backend, case._replace(x=x))
    _require(bool(np.isnan(poisoned["h"][at + 1 :, column]).all()), "h: a NaN input does not reach the states after it")
    _require(bool(np.isfinite(poisoned["h"][: at + 1, column]).all()), "h: a NaN input reaches the states before it")
    for name in poisoned.keys() & {"W", "V", "b", "step_size", "diffusion"}:
        off_diagonal = poisoned[name][~np.eye(len(poisoned[name]), dtype=bool)] if name == "W" else poisoned[name]
        _require(bool(np.isnan(off_diagonal).all()), f"{name}: a NaN input does not reach the gradient")
    return plain, poisoned, np.arange(case.x.shape[1]) != column


def _nan_column(backend: ModuleType, case: Case) -> None:
    plain, poisoned, clean = _poisoned(backend, case)
    _require_same_bits("h of the other columns", poisoned["h"][:, clean], plain["h"][:, clean])
    _require(bool(np.isfinite(poisoned["x"][:, clean]).all()), "x: a NaN reaches the gradient of another column")
    _require(bool(np.isfinite(poisoned["h0"][clean]).all()), "h0: a NaN reaches the gradient of another column")


def _nan_column_to_rounding(backend: ModuleType, case: Case) -> None:
    plain, poisoned, clean = _poisoned(backend, case)
    errors = measure(plain, case)
    for name, index in (("h", (slice(None), clean)), ("x", (slice(None), clean)), ("h0", (clean,))):
        if name not in plain:
            continue
        allowed = 2 * errors[name].tolerance * np.abs(plain[name]).max()
        difference = _difference(poisoned[name][index], plain[name][index])
        _require(
            difference <= allowed, f"{name} of the other columns: moved by {difference:.1e}, allowed {allowed:.1e}"
        )


def _infinite_input(backend: ModuleType, case: Case) -> None:
    at, column, k = map(int, _generator(case).integers(case.x.shape))
    x = case.x.copy()
    x[at, column, k] = np.inf
    h = _states(backend, case._replace(x=x))[at : at + 2, column]
    increment = np.sign(case.parameters.V[:, k])  # tanh(±∞) = ±1
    if isinstance(case.parameters, GatedParameters):
        increment = increment * (case.parameters.V_z[:, k] > 0)  # σ(±∞) = 1, 0
    expected = h[0] + case.dtype.type(case.step_size) * increment
    # of others than backends, which may round h_t and h_t+1 apart from a state of higher precision
    allowed = 0.0 if _exact(backend) else FLOOR * float(np.finfo(case.dtype).eps * np.abs(expected).max())
    off = _difference(h[1], expected)
    _require(off <= allowed, f"h: expected ε times a saturated step, off by {off:.1e}, allowed {allowed:.1e}")


def _blank_inputs(backend: ModuleType, case: Case) -> dict[str, ArrayError]:
    x = case.x.copy()
    x[1] = 0  # a step, for every sample
    x[:, 0] = 0  # a sample, at every step
    x[len(x) // 2 :, -2] = 0  # as padding
    x[:, -1] = x[:, -2]
    given = case._replace(x=x, name=f"{case.name}, blank inputs")
    return measure(run(backend, given), given)


def _huge_values(backend: ModuleType, case: Case) -> dict[str, ArrayError]:
    x, huge = case.x.copy(), 1e30 if case.dtype == np.float32 else 1e300
    x[1::2] *= case.dtype.type(huge)  # saturates; the steps between do not
    given = case._replace(x=x, name=f"{case.name} huge")
    expected, arrays = run(load_backend("numpy"), given), run(backend, given)
    for name, array in arrays.items():
        same = array.shape == expected[name].shape and np.array_equal(np.isfinite(array), np.isfinite(expected[name]))
        _require(same, f"{name}: inputs of {huge:.0e}: not finite where the specification is, or the reverse")
    # the perturbed runs move 1 − s² by a roundoff where it is 0, and huge inputs make that large
    return measure(arrays, given, beside_specification=True, beside_perturbed_runs=False)


def _denormal_values(backend: ModuleType, case: Case) -> dict[str, ArrayError]:
    finfo = np.finfo(case.dtype)
    tiny = case.dtype.type(finfo.smallest_normal / 4)
    parameters = case.parameters._replace(V=case.parameters.V * tiny, b=case.parameters.b * tiny)
    given = case._replace(parameters=parameters, h0=case.h0 * tiny, name=f"{case.name} denormal")
    arrays = run(backend, given)
    truth, specification, perturbed = _reference(pickle.dumps(given))
    # in units of the specification's own error, and of the last denormal bit; others may take denormals for zero
    T, _, m = given.x.shape
    lost = finfo.smallest_subnormal if _exact(backend) else T * (len(given.parameters.b) + m) * finfo.smallest_normal
    errors = {}
    for name, array in arrays.items():
        enclosure = truth.arrays[name]
        unit = max(of_run[name] for of_run in (specification, *perturbed))
        floor = FLOOR * float(finfo.eps) * enclosure.condition
        if enclosure.magnitude:
            unit = max(unit, float(lost) / enclosure.magnitude)
        errors[name] = ArrayError(relative_error(array, enclosure), max(FACTOR * unit, floor), unit)
    require_within(errors)
    return errors


def _written_outputs(backend: ModuleType, case: Case) -> None:
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
                _require(bool(np.isfinite(array).all()), f"{name}: not finite, after memory full of NaN was freed")
                _require_same_bits(f"{name}, after memory full of NaN was freed", array, plain[name])


def _concurrent_calls(backend: ModuleType, case: Case) -> None:
    cases = [case._replace(x=factor * case.x, h0=-factor * case.h0) for factor in (1, -1, 2, -2)]
    alone = [run(backend, each) for each in cases]
    with ThreadPoolExecutor(len(cases)) as pool:
        for _ in range(3):
            for k, arrays in enumerate(pool.map(functools.partial(run, backend), cases)):
                for name, array in arrays.items():
                    _require_same_bits(f"{name}, in {len(cases)} threads at once", array, alone[k][name])


def _inputs_untouched(backend: ModuleType, case: Case) -> None:
    given, module = _inputs(backend, case), getattr(backend, case.cell)
    arrays = {**given.parameters._asdict(), "x": given.x, "h0": given.h0, "g": given.g}
    before = {name: backend.to_numpy(array) for name, array in arrays.items()}
    for writeable in (True, False):
        trajectory = module.forward(given.parameters, given.x, given.h0, **case.arguments)
        arrays["trajectory.h"] = trajectory.h
        before["trajectory.h"] = backend.to_numpy(trajectory.h)
        for array in arrays.values():
            if isinstance(array, np.ndarray):
                array.flags.writeable = writeable
        for input_gradient in (True, False):
            if "gradients" in features_of(backend):
                module.backward(
                    given.parameters, given.x, trajectory, given.g, input_gradient=input_gradient, **case.arguments
                )
            for name, array in arrays.items():
                _require_same_bits(name, backend.to_numpy(array), before[name])
    module.forward(given.parameters, given.x, given.h0, **case.arguments)


def _no_aliasing(backend: ModuleType, case: Case) -> None:
    given = _inputs(backend, case)
    if not isinstance(given.x, np.ndarray):
        raise NotSupported("its arrays are not NumPy's, whose memory can be compared")
    for g in (given.g, given.g[-1].copy()) if given.g.ndim == 3 else (given.g,):
        inputs = {**given.parameters._asdict(), "x": given.x, "h0": given.h0, "g": g}
        for keep_every in (1, 3, 1000):
            trajectory, gradients = _call(backend, given._replace(g=g), keep_every=keep_every, convert=False)
            for name, result in named_arrays(trajectory.h, gradients).items():
                owners = inputs if name == "h" else {**inputs, "trajectory.h": trajectory.h}
                for owner, array in owners.items():
                    _require(not np.shares_memory(result, array), f"{name}: shares memory with {owner}")


def _non_contiguous(backend: ModuleType, case: Case) -> dict[str, ArrayError]:
    if not isinstance(_inputs(backend, case).x, np.ndarray):
        raise NotSupported("its arrays are not NumPy's")

    def strided(array: Array) -> Array:
        wide = np.full([2 * size for size in array.shape], np.nan, case.dtype)
        view = wide[tuple(slice(None, None, -2) for _ in array.shape)]
        view[...] = array
        return view

    last = case._replace(g=case.g[-1].copy())
    errors: dict[str, ArrayError] = {}
    if "gradients" in features_of(backend):  # the cotangent of h.sum()
        ones = case._replace(g=np.broadcast_to(case.dtype.type(1), case.g.shape), name=f"{case.name}, g = 1")
        trajectory, gradients = _call(backend, _inputs(backend, case)._replace(g=ones.g), convert=False)
        measure(named_arrays(trajectory.h, gradients), ones)
    for layout in (np.asfortranarray, strided):
        if "gradients" not in features_of(backend):
            parameters = type(case.parameters)(*map(layout, case.parameters))
            module = getattr(backend, case.cell)
            errors = measure(
                {"h": module.forward(parameters, layout(case.x), layout(case.h0), **case.arguments).h}, case
            )
            continue
        trajectory, gradients = _call(backend, _inputs(backend, last)._replace(g=layout(last.g)), convert=False)
        measure(named_arrays(trajectory.h, gradients), last)
        parameters = type(case.parameters)(*map(layout, case.parameters))
        given = case._replace(parameters=parameters, x=layout(case.x), h0=layout(case.h0), g=layout(case.g))
        plain, kept = (
            named_arrays(trajectory.h, gradients)
            for trajectory, gradients in (_call(backend, given, keep_every=k, convert=False) for k in (1, 2))
        )
        for name, array in kept.items():
            expected = plain[name][kept_steps(len(case.x), 2)] if name == "h" else plain[name]
            _require_same_bits(f"keep_every=2: {name}", array, expected)
        errors = measure(plain, case)
    return errors


def _signatures(backend: ModuleType, case: Case) -> None:
    module = getattr(backend, case.cell)
    shared = {"step_size": inspect.Parameter.empty, "diffusion": inspect.Parameter.empty, "unconstrained": False}
    for function, positional, keywords in (
        (module.forward, ["parameters", "x", "h0"], {**shared, "keep_every": 1}),
        (module.backward, ["parameters", "x", "trajectory", "g"], {**shared, "input_gradient": True}),
    ):
        signature = inspect.signature(function).parameters
        _require(list(signature)[: len(positional)] == positional, f"{function.__name__}: expected {positional} first")
        for name, default in keywords.items():
            _require(name in signature, f"{function.__name__}: has no {name}")
            found = signature[name]
            _require(found.kind is found.KEYWORD_ONLY, f"{function.__name__}: {name} is not keyword-only")
            _require(found.default == default, f"{function.__name__}: {name} has the default {found.default!r}")


def _errors(backend: ModuleType, case: Case) -> None:
    given = _inputs(backend, case)
    module, arguments = getattr(backend, case.cell), case.arguments
    trajectory = module.forward(given.parameters, given.x, given.h0, **arguments)
    wrong = []
    for label, function, changes, expected, message in bad_calls(backend, given, trajectory):
        call = {"parameters": given.parameters, "x": given.x, **arguments}
        call |= {"h0": given.h0} if function == "forward" else {"trajectory": trajectory, "g": given.g}
        try:
            getattr(module, function)(**{**call, **changes})
            wrong.append(f"{label}: expected {expected.__name__}, nothing was raised")
        except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever comes is compared with what is promised)
            if type(error) is not expected or str(error) != message:
                wrong.append(f"{label}: expected {expected.__name__}: {message}; got {type(error).__name__}: {error}")
    _require(not wrong, "\n".join(wrong))


def _conversion(backend: ModuleType, case: Case) -> None:
    host = case.x.astype(np.float64)
    for dtype in (np.float32, np.float64):
        source = host.astype(dtype)
        array = backend.asarray(source, dtype)
        source[...] = np.nan
        _require(array.dtype == dtype, f"asarray: expected dtype {np.dtype(dtype)}, got {array.dtype}")
        fortran = backend.asarray(np.asfortranarray(host), dtype)
        contiguous = not isinstance(fortran, np.ndarray) or fortran.flags.c_contiguous
        _require(contiguous, "asarray: expected a C-contiguous array")
        rounded = backend.to_numpy(backend.asarray(host, dtype))
        _require_same_bits("to_numpy(asarray(float64 x))", rounded, host.astype(dtype))
        back = backend.to_numpy(array)
        _require(type(back) is np.ndarray, f"to_numpy: expected numpy.ndarray, got {type(back).__name__}")
        _require_same_bits("to_numpy(asarray(x))", back, host.astype(dtype))
        back[...] = np.nan
        _require_same_bits("to_numpy(asarray(x)), written to", backend.to_numpy(array), host.astype(dtype))
    wrong: list[tuple[Array, Any]] = [(host, np.dtype(name)) for name in ("int64", "float16", "complex128")]
    for array, other in (*wrong, (host, None), (host.astype(complex), np.float64)):
        try:
            backend.asarray(array, other)
        except TypeError:
            continue
        raise BrokenPromise(f"asarray: expected TypeError for {array.dtype} to {other}, nothing was raised")


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
