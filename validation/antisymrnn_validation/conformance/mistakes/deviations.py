"""Deviations: the known ways to be wrong, as outputs, as a diagnosis and as planted backends.

:func:`outputs` is what a wrong implementation gives, :func:`identify` finds the entries of the catalogue that reproduce
given arrays to rounding, and :func:`planted` makes a backend that has one of them and nothing else wrong, which the
checks must reject.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from antisymrnn_ref import contract
from antisymrnn_ref.contract import Array, GatedParameters, Parameters
from antisymrnn_validation.conformance.mistakes.catalogue import CATALOGUE, Deviation, by_name
from antisymrnn_validation.conformance.mistakes.recurrence import Arrays, Lines, planted_cell, results, returned
from antisymrnn_validation.truth.cases import CELLS, Case, cached_by_content
from antisymrnn_validation.truth.tolerance import FACTOR

__all__ = ["CATALOGUE", "Deviation", "Match", "by_name", "identify", "outputs", "planted"]

MEASURABLE = 2
"""A deviation counts where it is further from the truth than this many times both tolerances together."""


class Match(NamedTuple):
    """Deviations that together reproduce given arrays.

    Attributes
    ----------
    deviations : tuple of Deviation
        One, or a convention and a mistake.
    error : float
        Largest error of an array against what the deviations give, in units of what it may be: at most 1.
    evidence : tuple of str
        The arrays in which the deviations differ measurably from the truth.
    """

    deviations: tuple[Deviation, ...]
    error: float
    evidence: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the deviations."""
        return tuple(deviation.name for deviation in self.deviations)


def outputs(deviation: Deviation | None, case: Case) -> Arrays:
    """States and gradients that an implementation with this deviation gives, in the case's dtype.

    Parameters
    ----------
    deviation : Deviation or None
        None for the paper's cell.
    case : Case

    Returns
    -------
    dict of str to array
        Under the names of the truth. A convention's arrays may have other shapes than the truth's.

    Raises
    ------
    ValueError
        If the deviation does not exist in the cell of the case.
    """
    if deviation is not None and case.cell not in deviation.cells:
        raise ValueError(f"{deviation.name}: expected a cell of {', '.join(deviation.cells)}, got {case.cell}")
    lines = Lines() if deviation is None else deviation.lines
    return returned(lines, _results(lines, case, case.dtype), case.x.shape[1])


def identify(arrays: Arrays, case: Case, *, tolerance: float | Mapping[str, float], keep_every: int = 1) -> list[Match]:
    """Find the deviations that reproduce every one of the given arrays.

    A deviation matches if each array agrees with what it gives, to the tolerance or to what rounding costs in the
    deviation's own recurrence if that is more, and if at least one of them is evidence: there the deviation differs
    measurably from the truth. If no single one matches, every convention is tried together with every mistake.

    Parameters
    ----------
    arrays : dict of str to array
        Under the names of the truth; some may be left out, the gradients for instance.
    case : Case
        The problem they are of.
    tolerance : float or mapping of str to float
        Relative to an array's largest entry: what :func:`~antisymrnn_validation.truth.tolerance.measure` allows.
    keep_every : int
        Which states ``h`` holds.

    Returns
    -------
    list of Match
        Best agreement first. More than one if deviations give the same numbers in this case; none for arrays within
        the tolerance of the truth, or if what is wrong is not in the catalogue.

    Raises
    ------
    ValueError
        For an array of another name than the truth has.
    """
    truth = _predictions(case, keep_every)[()]
    if unknown := [name for name in arrays if name not in truth.arrays]:
        raise ValueError(f"arrays: expected some of {', '.join(truth.arrays)}, got {', '.join(unknown)}")
    allowed = tolerance if isinstance(tolerance, Mapping) else dict.fromkeys(arrays, tolerance)
    # nothing could match, and to try every pair takes seconds
    if all(
        _distance(array, truth.arrays[name], truth.magnitude[name]) <= allowed[name] for name, array in arrays.items()
    ):
        return []
    for predictions in (_predictions, _pairs):
        found = [
            match
            for names, prediction in predictions(case, keep_every).items()
            if (match := _match(names, prediction, arrays, truth, allowed))
        ]
        if found:
            return sorted(found, key=lambda match: match.error)
    return []


def planted(deviation: Deviation | None) -> ModuleType:
    """Make a backend that has one deviation and nothing else wrong.

    Parameters
    ----------
    deviation : Deviation or None
        None for the honest copy. A cell in which the deviation does not exist is honest too.

    Returns
    -------
    module
        With all that the contract asks of a backend, to the bit: samples do not meet before gradients are summed.
    """
    backend: Any = ModuleType("planted" if deviation is None else f"planted: {deviation.name}")
    backend.asarray, backend.to_numpy = contract.asarray, contract.to_numpy
    for cell, parameter_type in zip(CELLS, (Parameters, GatedParameters), strict=True):
        lines = deviation.lines if deviation is not None and cell in deviation.cells else Lines()
        setattr(backend, cell, planted_cell(parameter_type, lines))
    return backend  # type: ignore[no-any-return]


class _Prediction(NamedTuple):
    """What a deviation gives, computed in a higher precision, by array.

    ``rounding`` is how far rounding in the case's dtype moves it, relative to ``magnitude``, its largest entry;
    ``apart`` is its largest difference from the truth, in the truth's units.
    """

    arrays: Arrays
    rounding: dict[str, float]
    magnitude: dict[str, float]
    apart: dict[str, float]


def _results(lines: Lines, case: Case, dtype: Any) -> Arrays:
    """States and gradients of a case, in a dtype of at least the case's precision, before ``returns``."""
    parameters = type(case.parameters)(*(leaf.astype(dtype) for leaf in case.parameters))
    x, h0, g = (array.astype(dtype) for array in (case.x, case.h0, case.g))
    # rounded to the case's dtype, whatever the dtype of this run
    constants = {name: float(case.dtype.type(getattr(case, name))) for name in ("step_size", "diffusion")}
    return results(lines, parameters, x, h0, g, **constants, unconstrained=case.unconstrained)


def _both(lines: Lines, case: Case) -> tuple[Arrays, Arrays]:
    """Results in a higher precision, and in the case's; where NumPy has none above float64 they agree."""
    higher = np.float64 if case.dtype == np.float32 else np.longdouble
    return _results(lines, case, higher), _results(lines, case, case.dtype)


def _prediction(
    convention: Lines, case: Case, keep_every: int, both: tuple[Arrays, Arrays], truth: Arrays | None = None
) -> _Prediction:
    kept = contract.kept_steps(len(case.x), keep_every)
    arrays, rounded = (returned(convention, arrays | {"h": arrays["h"][kept]}, case.x.shape[1]) for arrays in both)
    return _Prediction(
        arrays,
        {name: _distance(rounded[name], array, _magnitude(array)) for name, array in arrays.items()},
        {name: _magnitude(array) for name, array in arrays.items()},
        {name: _distance(array, (truth or arrays)[name], 1.0) for name, array in arrays.items()},
    )


@cached_by_content(maxsize=64)
def _predictions(case: Case, keep_every: int) -> dict[tuple[str, ...], _Prediction]:
    """Of the paper's cell, by (), and of every deviation of a case's cell, by its name; cached by content."""
    truth = _prediction(Lines(), case, keep_every, _both(Lines(), case))
    found: dict[tuple[str, ...], _Prediction] = {(): truth}
    for deviation in CATALOGUE:
        if case.cell in deviation.cells:
            both = _both(deviation.lines, case)
            found[deviation.name,] = _prediction(deviation.lines, case, keep_every, both, truth.arrays)
    return found


@cached_by_content(maxsize=8)
def _pairs(case: Case, keep_every: int) -> dict[tuple[str, ...], _Prediction]:
    """Of every convention together with every mistake of a case's cell; cached by content."""
    truth = _predictions(case, keep_every)[()]
    here = [deviation for deviation in CATALOGUE if case.cell in deviation.cells]
    conventions = [deviation for deviation in here if deviation.kind == "convention"]
    found: dict[tuple[str, ...], _Prediction] = {}
    for mistake in (deviation for deviation in here if deviation.kind != "convention"):
        plain = _both(mistake.lines, case)
        for convention in conventions:
            both = plain
            if "reads" in convention.replaces:
                parameters = type(case.parameters)(**convention.lines.reads(case.parameters._asdict()))
                both = _both(mistake.lines, case._replace(parameters=parameters))
            found[convention.name, mistake.name] = _prediction(convention.lines, case, keep_every, both, truth.arrays)
    return found


def _match(
    names: tuple[str, ...],
    prediction: _Prediction,
    arrays: Arrays,
    truth: _Prediction,
    tolerance: Mapping[str, float],
) -> Match | None:
    largest, evidence = 0.0, []
    for name, array in arrays.items():
        magnitude = prediction.magnitude[name]
        allowed = max(tolerance[name], FACTOR * prediction.rounding[name])
        error = _distance(array, prediction.arrays[name], magnitude)
        if not error <= allowed < np.inf:
            return None
        largest = max(largest, error / allowed if error else 0.0)
        if prediction.apart[name] > MEASURABLE * (allowed * magnitude + tolerance[name] * truth.magnitude[name]):
            evidence.append(name)
    return Match(tuple(map(by_name, names)), largest, tuple(evidence)) if evidence else None


def _magnitude(array: Array) -> float:
    return float(np.max(np.abs(array), initial=0.0))


def _distance(array: Array, predicted: Array, magnitude: float) -> float:
    """Largest difference over ``magnitude``; infinite if the shapes differ or anything is not finite."""
    if array.shape != predicted.shape:
        return np.inf
    with np.errstate(all="ignore"):
        difference = _magnitude(array - predicted)
    if difference == 0.0:
        return 0.0
    return difference / magnitude if magnitude and np.isfinite(difference) else np.inf
