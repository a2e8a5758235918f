"""What is wrong with results that failed: where, from which step on, which known mistake, and how to see it again."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from antisymrnn_ref.contract import Array, kept_steps
from antisymrnn_validation.conformance.mistakes.deviations import Match, identify
from antisymrnn_validation.truth.calls import ArrayError
from antisymrnn_validation.truth.cases import Case, cached_by_content, random_case
from antisymrnn_validation.truth.oracles import enclose

SHOWN = 3
"""Names of deviations that are told at most; more give the same numbers."""


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
    """

    matches: list[Match]
    places: list[Place]
    first_step: int | None
    reproduce: str
    compared: bool = True

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
            lines += [f"  {deviation.statement} {deviation.mend}" for deviation in match.deviations]
        if len(self.names) > SHOWN:
            lines.append(
                f"and {len(self.names) - SHOWN} more that give the same numbers here: {', '.join(self.names[SHOWN:])}"
            )
        if not self.matches and self.compared:
            lines.append("no known variant gives these numbers")
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

    Returns
    -------
    Diagnosis
    """
    truth = _truth(case)
    kept = kept_steps(len(case.x), keep_every)
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
    matches = identify(fit, case, tolerance=tolerances, keep_every=keep_every) if fit else []
    return Diagnosis(matches, places, first_step, _script(case, keep_every, target), bool(fit))


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
    drawn: Case = eval(case.recipe, {"random_case": random_case})  # the kit's own text
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
        "from antisymrnn_validation.truth.tolerance import measure",
        f"case = {case.recipe}",
        changes,
        f"arrays = run({target}, case, keep_every={keep_every})",
        f"measure(arrays, case, keep_every={keep_every}, beside_specification=True)  # raises BrokenPromise",
    ]
    return "\n".join(filter(None, lines))
