"""How wrong an array may be: a multiple of the measured error of runs that round at random."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from types import ModuleType

import numpy as np

from antisymrnn_ref import load_backend
from antisymrnn_ref.contract import Array, kept_steps
from antisymrnn_validation.truth import store
from antisymrnn_validation.truth.calls import ArrayError, BrokenPromise, Oracle, Wrong, run
from antisymrnn_validation.truth.cases import Case, cached_by_content
from antisymrnn_validation.truth.digits import KnownTruth
from antisymrnn_validation.truth.extended import wider
from antisymrnn_validation.truth.oracles import Truth

FACTOR = 8
FLOOR = 4


def measure(
    arrays: dict[str, Array],
    case: Case,
    *,
    keep_every: int = 1,
    beside_specification: bool = False,
    beside_perturbed_runs: bool = True,
    oracle: Oracle = "balls",
) -> dict[str, ArrayError]:
    """Error and tolerance of every array of a case.

    Parameters
    ----------
    arrays : dict of str to array
        Under the names of the truth: ``h``, the parameters, ``h0``, and, where it has them, ``x``, ``step_size``,
        ``diffusion``; or ``h`` alone.
    case : Case
    keep_every : int
        Which states ``h`` holds.
    beside_specification : bool
        Whether the specification's own error counts in the reference.
    beside_perturbed_runs : bool
        Whether those of the perturbed runs do.
    oracle : "balls" or "extended"
        Where the truth is from: :func:`truth_and_errors`, or :func:`extended_truth_and_errors` for large cases.

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
    truth, specification, perturbed = (truth_and_errors if oracle == "balls" else extended_truth_and_errors)(case)
    # the specification runs in the target's process, on the NumPy that the target may have changed
    bounded = {name: min(error, FACTOR * max(run[name] for run in perturbed)) for name, error in specification.items()}
    runs = [bounded] * beside_specification + perturbed * beside_perturbed_runs
    allowed = tolerances(case, truth, runs)
    errors = {}
    for name, entry in truth.arrays.items():
        if name not in arrays and (name in ("x", "step_size", "diffusion") or arrays.keys() == {"h"}):
            continue
        if name == "h":
            entry = entry.kept(kept_steps(len(case.x), keep_every))
        errors[name] = ArrayError(entry.error(arrays[name]), *allowed[name])
    try:
        require_within(errors)
    except BrokenPromise as broken:
        raise BrokenPromise(str(broken), errors, Wrong(case, dict(arrays), keep_every, oracle=oracle)) from None
    return errors


def known_truth(case: Case, oracle: Oracle = "balls") -> KnownTruth:
    """The truth that :func:`measure` compares with."""
    return (truth_and_errors if oracle == "balls" else extended_truth_and_errors)(case)[0]


def tolerances(
    case: Case, truth: Truth | KnownTruth, runs: Sequence[dict[str, float]]
) -> dict[str, tuple[float, float]]:
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


@cached_by_content(maxsize=1024)
def truth_and_errors(case: Case) -> tuple[KnownTruth, dict[str, float], list[dict[str, float]]]:
    """The truth of a case, and the errors of the specification and of the perturbed runs; cached by content."""
    truth, perturbed = store.certified(case)
    return truth, _errors(run(_specification(), case), truth), perturbed


@cached_by_content(maxsize=16)
def extended_truth_and_errors(case: Case) -> tuple[KnownTruth, dict[str, float], list[dict[str, float]]]:
    """As :func:`truth_and_errors`, from a run in a wider dtype where the platform has one; cached by content."""
    wide = wider(case.dtype)
    if wide is None:
        return truth_and_errors(case)
    known, perturbed = store.extended(case, wide)
    return known, _errors(run(_specification(), case), known), perturbed


@functools.cache
def _specification() -> ModuleType:
    return load_backend("numpy")


def _errors(arrays: dict[str, Array], truth: KnownTruth) -> dict[str, float]:
    found = {name: entry.error(arrays[name]) for name, entry in truth.arrays.items()}
    return {name: math.inf if math.isnan(error) else error for name, error in found.items()}  # to be compared
