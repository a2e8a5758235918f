"""What is wrong with results that failed: where, from which step on, which known mistake, and how to see it again.

:func:`outputs` is what an implementation with a known mistake gives, and :func:`identify` finds the entries of the
catalogue that reproduce given arrays to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from antisymrnn_ref import contract
from antisymrnn_ref.contract import Array
from antisymrnn_validation.conformance.mistakes.catalogue import CATALOGUE, Deviation, by_name
from antisymrnn_validation.conformance.mistakes.precision import BITS, Finding, finding, rounded_arguments
from antisymrnn_validation.conformance.mistakes.recurrence import Arrays, Lines, results, returned
from antisymrnn_validation.truth.calls import ArrayError, Oracle, modules_of
from antisymrnn_validation.truth.cases import Case, cached_by_content, random_case
from antisymrnn_validation.truth.structures import structured
from antisymrnn_validation.truth.tolerance import FACTOR, known_truth

SHOWN = 3
"""Names of deviations that are shown at most; more give the same numbers."""

MEASURABLE = 2
"""A deviation counts where it is further from the truth than this many times both tolerances together."""


ROUGH = 0.05
"""A deviation is not computed in a higher precision where its arrays in the case's are further away than this."""

MOST_WORK = 400_000
"""Work of the comparisons of a run at most, as :func:`_work` counts it: a few seconds, a dozen of the generic case."""


LARGE = 200_000
"""Work of a comparison from which on a case is not compared at all."""


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
    rounding : Finding or None
        What the errors look like, where no deviation gives the arrays.
    """

    matches: list[Match]
    places: list[Place]
    first_step: int | None
    reproduce: str
    compared: bool = True
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
            lines.append("no known variant gives these numbers")
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
    oracle: Oracle = "balls",
    explanations: Explanations | None = None,
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
    oracle : "balls" or "extended"
        Where the truth is from.
    explanations : Explanations, optional
        Those of the run that the failure is of; without them everything is compared.

    Returns
    -------
    Diagnosis
    """
    truth = {name: entry.rounded() for name, entry in known_truth(case, oracle).arrays.items()}
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
    script = _script(case, keep_every, target, oracle)
    if not fit:
        return Diagnosis([], places, first_step, script, compared=False)
    if explanations is None:
        explanations = Explanations()
    failed = frozenset(place.array for place in places)
    matches, compared = explanations.of(fit, case, failed, tolerance=tolerances, keep_every=keep_every)
    rounding = None
    if not matches:
        expected = {name: array[kept] if name == "h" else array for name, array in truth.items()}
        among = None if compared else explanations.rounded
        rounding = _rounded_argument(fit, case, tolerances, keep_every, among)
        if rounding is None and (compared or explanations.rounded):  # else a known mistake may give the same errors
            same = {name: array for name, array in fit.items() if array.shape == expected[name].shape}
            rounding = finding(same, expected, errors)
        if rounding:
            explanations.rounded.add(rounding.argument)
    return Diagnosis(matches, places, first_step, script, compared, rounding)


class Explanations:
    """What explained the failures of a run so far; it is tried first on the next one.

    A failure that nothing known explains is compared with the whole catalogue, unless one of its kind was compared in
    vain: of the same cell, dtype and ablation, with the same arrays, of which the same failed. A convention together
    with a mistake is tried once in vain for a cell and a dtype. The work of a run is limited, so that a large case is
    compared only while there is some left.
    """

    def __init__(self) -> None:
        self.known: dict[tuple[str, ...], None] = {}  # in the order in which they were found
        self.rounded: set[str] = set()  # arguments; "" where the errors alone told it
        self.unexplained: set[tuple[Any, ...]] = set()
        self.work_left = MOST_WORK

    def of(
        self,
        arrays: Arrays,
        case: Case,
        failed: frozenset[str],
        *,
        tolerance: Mapping[str, float],
        keep_every: int = 1,
    ) -> tuple[list[Match], bool]:
        """The matches of a failure, and whether it was compared with anything that might have matched."""
        if _work(case) > LARGE:
            return [], False
        known = [candidate for names in self.known for candidate in _named(case, names)]
        if found := _matching(known, arrays, case, tolerance, keep_every):
            return found, True
        kind = (case.cell, case.dtype, case.unconstrained, frozenset(arrays), failed)
        if kind in self.unexplained or _work(case) > self.work_left:
            return [], False
        self.work_left -= _work(case)
        pairs = not any(other[:2] == kind[:2] for other in self.unexplained)  # they are most of the work
        found = identify(arrays, case, tolerance=tolerance, keep_every=keep_every, pairs=pairs)
        if not found:
            self.unexplained.add(kind)
        self.known |= dict.fromkeys(match.names for match in found)
        return found, True


def _work(case: Case) -> int:
    """About how much one comparison with the catalogue is, in multiplications of a run; a step costs its calls too."""
    T, B, m = map(int, case.x.shape)
    n = len(case.parameters.b)
    return T * (2000 + B * n * (n + m)) * (2 if case.cell == "gated" else 1)


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
    arrays: Arrays, case: Case, *, tolerance: float | Mapping[str, float], keep_every: int = 1, pairs: bool = True
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
    pairs : bool
        Whether to try conventions together with mistakes.

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
    truth = _truth(case, keep_every)
    if unknown := [name for name in arrays if name not in truth.arrays]:
        raise ValueError(f"arrays: expected some of {', '.join(truth.arrays)}, got {', '.join(unknown)}")
    allowed = tolerance if isinstance(tolerance, Mapping) else dict.fromkeys(arrays, tolerance)
    # nothing could match, and to try every pair takes long
    if all(
        _distance(array, truth.arrays[name], truth.magnitude[name]) <= allowed[name] for name, array in arrays.items()
    ):
        return []
    found = _matching(_singles(case), arrays, case, allowed, keep_every)
    return found if found or not pairs else _matching(_pairs(case), arrays, case, allowed, keep_every)


def _rounded_argument(
    arrays: Arrays, case: Case, tolerance: Mapping[str, float], keep_every: int, among: Collection[str] | None
) -> Finding | None:
    """The argument that gives these arrays if it is rounded, among some or all."""
    wanted = [argument for argument in rounded_arguments(case.dtype) if among is None or argument[1] in among]
    for bits, what, lines in wanted:
        truth = _truth(case, keep_every)
        higher, rounded = (
            _kept(Lines(), _quietly(lines, case, dtype), case, keep_every)
            for dtype in (_higher(case.dtype), case.dtype)
        )
        if _match((), _prediction(higher, rounded, truth.arrays), arrays, truth, tolerance):
            return Finding(BITS[bits], f"{what} rounded to {bits} significant bits gives exactly these numbers", what)
    return None


def _same(left: Case, right: Case) -> bool:
    arrays = ([*case.parameters, case.x, case.h0, case.g] for case in (left, right))
    return all(np.array_equal(one, other) for one, other in zip(*arrays, strict=True))


def _script(case: Case, keep_every: int, target: str, oracle: Oracle) -> str:
    if not (case.recipe and target):
        return ""
    # the kit's own text
    drawn: Case = eval(case.recipe, {"random_case": random_case, "structured": structured})
    changes = ""
    if not _same(drawn, case):
        changes = "case = case._replace(h0=0 * case.h0)"
        if not _same(drawn._replace(h0=0 * drawn.h0), case):
            return ""
    truth = "" if oracle == "balls" else f", oracle={oracle!r}"
    lines = [
        *(f"import {module}" for module in modules_of(target)),
        "from antisymrnn_validation.truth.calls import run",
        "from antisymrnn_validation.truth.cases import random_case",
        "from antisymrnn_validation.truth.structures import structured" if "structured(" in case.recipe else "",
        "from antisymrnn_validation.truth.tolerance import measure",
        f"case = {case.recipe}",
        changes,
        f"arrays = run({target}, case, keep_every={keep_every})",
        f"measure(arrays, case, keep_every={keep_every}, beside_specification=True{truth})  # raises BrokenPromise",
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


def _higher(dtype: np.dtype[Any]) -> Any:
    """A higher precision; where NumPy has none above float64 it is the same."""
    return np.float64 if dtype == np.float32 else np.longdouble


def _quietly(lines: Lines, case: Case, dtype: Any) -> Arrays:
    with np.errstate(all="ignore"):  # a mistake may overflow
        return _results(lines, case, dtype)


def _kept(convention: Lines, arrays: Arrays, case: Case, keep_every: int) -> Arrays:
    """What is returned of results."""
    kept = contract.kept_steps(len(case.x), keep_every)
    with np.errstate(all="ignore"):
        return returned(convention, arrays | {"h": arrays["h"][kept]}, case.x.shape[1])


def _prediction(arrays: Arrays, rounded: Arrays, truth: Arrays) -> _Prediction:
    return _Prediction(
        arrays,
        {name: _distance(rounded[name], array, _magnitude(array)) for name, array in arrays.items()},
        {name: _magnitude(array) for name, array in arrays.items()},
        {name: _distance(array, truth[name], 1.0) for name, array in arrays.items()},
    )


@cached_by_content(maxsize=16)
def _truth(case: Case, keep_every: int) -> _Prediction:
    """Of the paper's cell; cached by content."""
    arrays, rounded = (
        _kept(Lines(), _quietly(Lines(), case, dtype), case, keep_every) for dtype in (_higher(case.dtype), case.dtype)
    )
    return _prediction(arrays, rounded, arrays)


class _Candidate(NamedTuple):
    """One deviation, or a convention and a mistake: what returns, what computes, and the case as it is read.

    ``runs`` has, by name, what mistakes give of that case in its own dtype, as far as it was computed.
    """

    names: tuple[str, ...]
    convention: Lines
    mistake: Lines
    case: Case
    runs: dict[str, Arrays]

    def rounded(self) -> Arrays:
        """What the mistake gives in the dtype of the case."""
        name = self.names[-1]
        if name not in self.runs:
            self.runs[name] = _quietly(self.mistake, self.case, self.case.dtype)
        return self.runs[name]


@cached_by_content(maxsize=16)
def _runs(case: Case) -> dict[str, Arrays]:  # noqa: ARG001
    return {}


def _here(case: Case) -> list[Deviation]:
    return [deviation for deviation in CATALOGUE if case.cell in deviation.cells]


def _singles(case: Case) -> Iterator[_Candidate]:
    """Every deviation of a case's cell."""
    runs = _runs(case)
    for deviation in _here(case):
        yield _Candidate((deviation.name,), deviation.lines, deviation.lines, case, runs)


def _pairs(case: Case) -> Iterator[_Candidate]:
    """Every convention together with every mistake of a case's cell."""
    mistakes = [deviation for deviation in _here(case) if deviation.kind != "convention"]
    for convention in (deviation for deviation in _here(case) if deviation.kind == "convention"):
        read = _read(convention, case)
        runs = _runs(read)
        for mistake in mistakes:
            yield _Candidate((convention.name, mistake.name), convention.lines, mistake.lines, read, runs)


def _named(case: Case, names: tuple[str, ...]) -> list[_Candidate]:
    """The deviation, or the convention and the mistake, of these names, if a case's cell has them."""
    here = {deviation.name: deviation for deviation in _here(case)}
    if not here.keys() >= set(names):
        return []
    first, last = here[names[0]], here[names[-1]]
    read = _read(first, case) if first is not last else case
    return [_Candidate(names, first.lines, last.lines, read, _runs(read))]


def _read(convention: Deviation, case: Case) -> Case:
    """The case as a convention reads it."""
    if "reads" not in convention.replaces:
        return case
    parameters = type(case.parameters)(**convention.lines.reads(case.parameters._asdict()))
    return case._replace(parameters=parameters, recipe="")


def _matching(
    candidates: Iterable[_Candidate], arrays: Arrays, case: Case, allowed: Mapping[str, float], keep_every: int
) -> list[Match]:
    """The candidates that match, best agreement first."""
    found = []
    for candidate in candidates:
        rounded = _kept(candidate.convention, candidate.rounded(), case, keep_every)
        if not all(
            _distance(array, rounded[name], _magnitude(rounded[name])) <= ROUGH + 2 * allowed[name]
            for name, array in arrays.items()
        ):
            continue
        higher = _quietly(candidate.mistake, candidate.case, _higher(case.dtype))
        truth = _truth(case, keep_every)
        prediction = _prediction(_kept(candidate.convention, higher, case, keep_every), rounded, truth.arrays)
        if match := _match(candidate.names, prediction, arrays, truth, allowed):
            found.append(match)
    return sorted(found, key=lambda match: match.error)


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
