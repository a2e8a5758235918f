"""What a run of conform in which nothing failed says: claims that follow from the checks that passed, and no others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from antisymrnn_validation.conformance.check import DTYPES
from antisymrnn_validation.conformance.plan import CERTIFIED
from antisymrnn_validation.output.terminal import Record
from antisymrnn_validation.truth.cases import CELLS

EQUATIONS = dict(zip(CELLS, ("(12)", "(13)"), strict=True))
LAST, *STATES, GRADIENTS = CERTIFIED
STATES = [*STATES, GRADIENTS]
"""Promises: which of them says that the last state is right, that every state is, and that the gradients are too."""

SHOWN = 3
"""Names of promises that are shown at most."""


def meaning(records: Sequence[Record], total: int, *, quick: bool = False, drawn: bool = False) -> str:
    """The claims of a run, and what was not judged.

    Parameters
    ----------
    records : sequence of Record
        Of the checks that ran; none failed.
    total : int
        How many checks the target has.
    quick : bool
        Whether the longest cases were left out of those.
    drawn : bool
        Whether the cases were drawn at random.
    """
    ablations = [record for record in records if record["problem"]["unconstrained"]]
    plain = [record for record in records if not record["problem"]["unconstrained"]]
    states = {cell: _right(plain, STATES, cell) for cell in CELLS}
    last = {cell: _right(plain, [LAST], cell) for cell in CELLS}
    gradients = {cell: _right(plain, [GRADIENTS], cell) for cell in CELLS}
    ablation = [cell for cell in CELLS if _right(ablations, STATES, cell)]
    claims = []
    if computed := _cells(states):
        too = ", the ablation too" if ablation else ""
        claims.append(f"computes {_equations(computed)}{too}")
    elif ended := _cells(last):
        claims.append(f"the last state of {_equations(ended)} right in {_dtypes(last.values())}, from h_0 = 0")
    if differentiated := _cells(gradients):
        of = "" if differentiated == computed else f" of {_equations(differentiated)}"
        claims.append(f"every gradient{of} right in {_dtypes(gradients.values())}")
    elif computed:
        claims.append(f"every state right in {_dtypes(states.values())}")
    others = _kept(records)
    if others:
        names = f" ({', '.join(others)})" if len(others) <= SHOWN else ""
        word = "other promise" if claims else "promise"
        claims.append(f"{len(others)} {word}{'s' * (len(others) > 1)} kept{names}")
    expected = sum(record["status"] == "expected failure" for record in records)
    if expected:
        claims.append(f"{expected} failed as expected")
    judged = [record for record in records if record["status"] in ("passed", "expected failure")]
    where = f"in {len(records)} of {total} checks: " if len(records) < total else ""
    where = f"on {len(records)} cases drawn at random: {where}" if drawn else where
    missing = _not_judged(judged, quick)
    return f"{where}{'; '.join(claims)}; not judged: {', '.join(missing)}"


def _right(records: Sequence[Record], checks: Collection[str], cell: str) -> list[str]:
    """The dtypes in which such checks of a cell passed, and none ended otherwise."""
    about = [
        r for r in records if r["check"] in checks and r["problem"]["cell"] == cell and r["status"] != "not applicable"
    ]
    wrong = {record["problem"]["dtype"] for record in about if record["status"] != "passed"}
    return [dtype for dtype in sorted(DTYPES) if dtype in {record["problem"]["dtype"] for record in about} - wrong]


def _kept(records: Sequence[Record]) -> list[str]:
    """Promises that are not about certified numbers, kept wherever they were checked."""
    others = [record for record in records if record["check"] not in CERTIFIED]
    broken = {record["check"] for record in others if record["status"] not in ("passed", "not applicable")}
    return [name for name in dict.fromkeys(r["check"] for r in others if r["status"] == "passed") if name not in broken]


def _not_judged(records: Sequence[Record], quick: bool) -> list[str]:
    """What no check was about that ran and applied."""
    certified = [record for record in records if record["check"] in CERTIFIED]
    cells, dtypes = ({record["problem"][key] for record in certified} for key in ("cell", "dtype"))
    checks = {record["check"] for record in certified}
    if not checks:
        return ["its numbers", "initialization"]
    missing = ["" if checks & set(STATES) else "the other states", "" if GRADIENTS in checks else "gradients"]
    missing += [f"the {cell} cell" for cell in CELLS if cell not in cells]
    missing += ["" if any(record["problem"]["unconstrained"] for record in certified) else "the ablation"]
    missing += [dtype for dtype in sorted(DTYPES) if dtype not in dtypes]
    missing += ["the longest cases"] * quick
    return [*filter(None, missing), "initialization"]


def _cells(dtypes: dict[str, list[str]]) -> list[str]:
    return [cell for cell, found in dtypes.items() if found]


def _equations(cells: Sequence[str]) -> str:
    return f"equation{'s' * (len(cells) > 1)} {' and '.join(EQUATIONS[cell] for cell in cells)}"


def _dtypes(found: Iterable[list[str]]) -> str:
    """The dtypes in all of those that have any."""
    common = set.intersection(*(set(dtypes) for dtypes in found if dtypes))
    return " and ".join(sorted(common)) or "one dtype each"
