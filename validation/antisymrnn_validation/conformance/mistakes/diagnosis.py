"""What is wrong with results that failed: where, from which step on, which known mistake, and how to see it again.

:func:`outputs` is what an implementation with a known mistake gives, and :func:`identify` finds the entries of the
catalogue that reproduce given arrays to rounding.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from antisymrnn_ref import contract
from antisymrnn_ref.contract import Array
from antisymrnn_validation.conformance.mistakes.catalogue import CATALOGUE, Deviation, by_name
from antisymrnn_validation.conformance.mistakes.precision import BITS, Finding, finding, rounded_arguments
from antisymrnn_validation.conformance.mistakes.recurrence import Arrays, Lines, results, returned
from antisymrnn_validation.truth.calls import ArrayError
from antisymrnn_validation.truth.cases import Case, cached_by_content, random_case
from antisymrnn_validation.truth.oracles import enclose
from antisymrnn_validation.truth.structures import structured
from antisymrnn_validation.truth.tolerance import FACTOR

SHOWN = 3
"""Names of deviations that are shown at most; more give the same numbers."""

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


class Place(NamedTuple):
    """The worst entry of an array.

    Attributes
    ----------
    array : str
    at : tuple of int
        Of a state the step it is of comes first, also where not all are kept.
    got, expected : float
    over : float
        Its array's error over the error that a machine rounding at random makes.
    """

    array: str
    at: tuple[int, ...]
    got: float
    expected: float
    over: float


class Diagnosis(NamedTuple):
    """What is known of a failure.

    Attributes
    ----------
    matches : list of Match
        Deviations that give these arrays, the best agreement first; empty for a mistake that is not in the catalogue.
    places : list of Place
        One for each array that failed.
    first_step : int or None
        The first step whose state is wrong.
    reproduce : str
        A script, or empty for a case that was not drawn.
    compared : bool
        Whether there was anything finite to compare with the variants.
    again : bool
        Whether it was compared with some alone.
    rounding : Finding or None
        What the errors look like, where no deviation gives the arrays.
    """

    matches: list[Match]
    places: list[Place]
    first_step: int | None
    reproduce: str
    compared: bool = True
    again: bool = False
    rounding: Finding | None = None

    @property
    def names(self) -> list[str]:
        """The deviations by name, best first; "a + b" for two together."""
        return [" + ".join(match.names) for match in self.matches]

    def text(self) -> str:
        """A paragraph for a terminal."""
        lines = []
        for match, name in list(zip(self.matches, self.names, strict=True))[:SHOWN]:
            what = ", ".join(match.evidence)
            lines.append(
                f"your output equals the variant {name!r}, to {match.error:.1g} of what rounding may cost ({what})"
            )
            lines += [f"  {deviation.statement} {deviation.fix}" for deviation in match.deviations]
        if len(self.names) > SHOWN:
            lines.append(
                f"and {len(self.names) - SHOWN} more that give the same numbers here: {', '.join(self.names[SHOWN:])}"
            )
        if not self.matches and self.compared:
            those = "those of the first failure of this kind" if self.again else "these numbers"
            lines.append(f"no known variant gives {those}")
        if self.rounding:
            known, evidence, _ = self.rounding
            lines += [f"they look like the results of a {known.name}: {evidence}", f"  {known.statement} {known.fix}"]
        if self.first_step is not None:
            lines.append(f"the first wrong state is h[{self.first_step}]")
        for place in self.places:
            at = ", ".join(map(str, place.at))
            over = (
                f"{place.over:.1g} times the rounding error"
                if math.isfinite(place.over)
                else "where rounding makes no error, or of another dtype"
                if math.isfinite(place.got)
                else "not finite, or of another shape"
            )
            lines.append(f"{place.array}[{at}]: got {place.got:.9g}, expected {place.expected:.9g}; {over}")
        if self.reproduce:
            lines += ["to see it again:", *(f"    {line}" for line in self.reproduce.splitlines())]
        return "\n".join(lines)


def diagnose(
    arrays: Mapping[str, Array],
    case: Case,
    errors: Mapping[str, ArrayError],
    *,
    keep_every: int = 1,
    target: str = "",
    among: Collection[str] | None = None,
) -> Diagnosis:
    """Find out what is wrong with results of a case.

    Parameters
    ----------
    arrays : mapping of str to array
        As :func:`~antisymrnn_validation.truth.calls.run` returns them.
    case : Case
    errors : mapping of str to ArrayError
        As measured; those over their tolerance are diagnosed.
    keep_every : int
        Which states ``h`` holds.
    target : str
        A Python expression that gives the candidate, for the script; no script without it.
    among : collection of str, optional
        Compare with these deviations alone, "a + b" for two together, and with no rounded argument but these.

    Returns
    -------
    Diagnosis
    """
    truth = _truth(case)
    kept = contract.kept_steps(len(case.x), keep_every)
    places, first_step = [], None
    for name, entry in errors.items():
        if entry.error <= entry.tolerance:
            continue
        expected = truth[name][kept] if name == "h" else truth[name]
        got = np.asarray(arrays[name])
        if got.shape != expected.shape:
            places.append(Place(name, (), math.nan, math.nan, math.inf))
            continue
        distance = np.nan_to_num(np.abs(got.astype(np.float64) - expected), nan=np.inf)
        index = tuple(int(k) for k in np.unravel_index(int(np.argmax(distance)), distance.shape)) if got.ndim else ()
        over = entry.error / entry.reference if entry.reference else math.inf
        at = (kept[index[0]], *index[1:]) if name == "h" else index
        places.append(Place(name, at, float(got[index]), float(expected[index]), over))
        if name == "h":
            allowed = entry.tolerance * float(np.max(np.abs(expected), initial=0.0))
            wrong = distance.reshape(len(kept), -1).max(axis=1) > allowed
            first_step = kept[int(np.argmax(wrong))]
    fit = {name: np.asarray(array) for name, array in arrays.items() if name in errors and np.isfinite(array).all()}
    tolerances = {name: errors[name].tolerance for name in fit}
    matches = identify(fit, case, tolerance=tolerances, keep_every=keep_every, among=among) if fit else []
    rounding = None if matches else _rounding(fit, case, errors, keep_every, among)
    script = _script(case, keep_every, target)
    return Diagnosis(matches, places, first_step, script, bool(fit), among is not None, rounding)


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


def identify(
    arrays: Arrays,
    case: Case,
    *,
    tolerance: float | Mapping[str, float],
    keep_every: int = 1,
    among: Collection[str] | None = None,
) -> list[Match]:
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
    among : collection of str, optional
        Compare with these deviations alone, "a + b" for two together; names of any other kind are ignored.

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
    truth = _paper(case, keep_every)
    if unknown := [name for name in arrays if name not in truth.arrays]:
        raise ValueError(f"arrays: expected some of {', '.join(truth.arrays)}, got {', '.join(unknown)}")
    allowed = tolerance if isinstance(tolerance, Mapping) else dict.fromkeys(arrays, tolerance)
    # nothing could match, and to try every pair takes seconds
    if all(
        _distance(array, truth.arrays[name], truth.magnitude[name]) <= allowed[name] for name, array in arrays.items()
    ):
        return []
    for predictions in (_predictions, _pairs) if among is None else (_asked(among),):
        found = [
            match
            for names, prediction in predictions(case, keep_every).items()
            if (match := _match(names, prediction, arrays, truth, allowed))
        ]
        if found:
            return sorted(found, key=lambda match: match.error)
    return []


def _rounding(
    arrays: Arrays, case: Case, errors: Mapping[str, ArrayError], keep_every: int, among: Collection[str] | None
) -> Finding | None:
    """What the errors of finite arrays look like."""
    truth, tolerances = _paper(case, keep_every), {name: errors[name].tolerance for name in arrays}
    for bits, what, lines in rounded_arguments(case.dtype):
        if among is not None and what not in among:
            continue
        prediction = _prediction(Lines(), case, keep_every, _both(lines, case), truth.arrays)
        if _match((), prediction, arrays, truth, tolerances):
            return Finding(BITS[bits], f"{what} rounded to {bits} significant bits gives exactly these numbers", what)
    kept = contract.kept_steps(len(case.x), keep_every)
    expected = {name: array[kept] if name == "h" else array for name, array in _truth(case).items()}
    same = {name: array for name, array in arrays.items() if array.shape == expected[name].shape}
    return finding(same, expected, errors)


@cached_by_content(maxsize=64)
def _truth(case: Case) -> dict[str, Array]:
    return {
        name: np.array([float(ball.mid()) for ball in enclosure.balls.ravel()]).reshape(enclosure.balls.shape)
        for name, enclosure in enclose(case).arrays.items()
    }


def _same(left: Case, right: Case) -> bool:
    arrays = ([*case.parameters, case.x, case.h0, case.g] for case in (left, right))
    return all(np.array_equal(one, other) for one, other in zip(*arrays, strict=True))


def _script(case: Case, keep_every: int, target: str) -> str:
    if not (case.recipe and target):
        return ""
    # the kit's own text
    drawn: Case = eval(case.recipe, {"random_case": random_case, "structured": structured})
    changes = ""
    if not _same(drawn, case):
        changes = "case = case._replace(h0=0 * case.h0)"
        if not _same(drawn._replace(h0=0 * drawn.h0), case):
            return ""
    calls = (node.func for node in ast.walk(ast.parse(target, mode="eval")) if isinstance(node, ast.Call))
    modules = {ast.unparse(function.value) for function in calls if isinstance(function, ast.Attribute)}
    lines = [
        *(f"import {module}" for module in sorted(modules)),
        "from antisymrnn_validation.truth.calls import run",
        "from antisymrnn_validation.truth.cases import random_case",
        *(["from antisymrnn_validation.truth.structures import structured"] if "structured(" in case.recipe else []),
        "from antisymrnn_validation.truth.tolerance import measure",
        f"case = {case.recipe}",
        changes,
        f"arrays = run({target}, case, keep_every={keep_every})",
        f"measure(arrays, case, keep_every={keep_every}, beside_specification=True)  # raises BrokenPromise",
    ]
    return "\n".join(filter(None, lines))


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
    with np.errstate(all="ignore"):  # a mistake may overflow
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
def _paper(case: Case, keep_every: int) -> _Prediction:
    """Of the paper's cell; cached by content."""
    return _prediction(Lines(), case, keep_every, _both(Lines(), case))


@cached_by_content(maxsize=64)
def _predictions(case: Case, keep_every: int) -> dict[tuple[str, ...], _Prediction]:
    """Of every deviation of a case's cell, by its name; cached by content."""
    found: dict[tuple[str, ...], _Prediction] = {}
    for deviation in _here(case):
        found[deviation.name,] = _of_one(deviation, case, keep_every)
    return found


@cached_by_content(maxsize=8)
def _pairs(case: Case, keep_every: int) -> dict[tuple[str, ...], _Prediction]:
    """Of every convention together with every mistake of a case's cell; cached by content."""
    conventions = [deviation for deviation in _here(case) if deviation.kind == "convention"]
    found: dict[tuple[str, ...], _Prediction] = {}
    for mistake in (deviation for deviation in _here(case) if deviation.kind != "convention"):
        plain = _both(mistake.lines, case)
        for convention in conventions:
            found[convention.name, mistake.name] = _of_two(convention, mistake, case, keep_every, plain)
    return found


def _asked(among: Collection[str]) -> Callable[[Case, int], dict[tuple[str, ...], _Prediction]]:
    """Of the deviations asked for that a case's cell has."""

    def predictions(case: Case, keep_every: int) -> dict[tuple[str, ...], _Prediction]:
        here, found = {deviation.name: deviation for deviation in _here(case)}, {}
        for names in (tuple(name.split(" + ")) if name not in here else (name,) for name in among):
            if here.keys() >= set(names):
                first, last = here[names[0]], here[names[-1]]
                found[names] = (
                    _of_one(first, case, keep_every) if first is last else _of_two(first, last, case, keep_every)
                )
        return found

    return predictions


def _here(case: Case) -> list[Deviation]:
    return [deviation for deviation in CATALOGUE if case.cell in deviation.cells]


def _of_one(deviation: Deviation, case: Case, keep_every: int) -> _Prediction:
    truth = _paper(case, keep_every)
    return _prediction(deviation.lines, case, keep_every, _both(deviation.lines, case), truth.arrays)


def _of_two(
    convention: Deviation,
    mistake: Deviation,
    case: Case,
    keep_every: int,
    plain: tuple[Arrays, Arrays] | None = None,
) -> _Prediction:
    """Of a convention and a mistake; ``plain`` is what the mistake gives alone, if that is known."""
    truth, given = _paper(case, keep_every), case
    if "reads" in convention.replaces:
        parameters = type(case.parameters)(**convention.lines.reads(case.parameters._asdict()))
        given, plain = case._replace(parameters=parameters), None
    both = plain or _both(mistake.lines, given)
    return _prediction(convention.lines, case, keep_every, both, truth.arrays)


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
