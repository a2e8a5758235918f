"""What the checks of the ledger share: constants, and small functions on exact fractions and balls (python-flint).

A comparison of balls is true only if it holds for every point of them, so what is decided here is proved.
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from flint import arb, arb_mat, ctx, fmpq, fmpq_mat

PRECISION = 128
"""Working precision of a check in bits, unless it asks for more."""

UNIT_ROUNDOFF = 2.0**-53
"""The u of the rounding bounds, of float64."""

MATRICES = {
    "W₊": [["2", "-2"], ["0", "2"]],
    "W₋": [["-2", "2"], ["0", "-2"]],
    "W₀": [["0", "-2"], ["2", "0"]],
    "W_diff": [["-0.15", "-2"], ["2", "-0.15"]],
}
"""The matrices of Figure 1(e) to (h), in decimals: exact."""

ROTATION, W_DIFF = MATRICES["W₀"], MATRICES["W_diff"]

STEP_SIZE = "0.1"
"""The step size ε of Figure 1, exact."""

SWING = fmpq(1, 4)
"""δ: the inputs switch D between diag(1, δ) and diag(δ, 1), as one pumps a swing."""

Exact = int | str | float | Fraction
"""A number taken at face value: ``"0.1"`` is one tenth, ``0.1`` is the float next to it."""


def fraction(value: Exact) -> fmpq:
    """Exact fraction of a number."""
    exact = Fraction(value)
    return fmpq(exact.numerator, exact.denominator)


def fractions(rows: Sequence[Sequence[Exact]] | Any) -> fmpq_mat:
    """Exact matrix of numbers in rows, (n, m)."""
    rows = rows.tolist() if isinstance(rows, np.ndarray) else rows
    return fmpq_mat(len(rows), len(rows[0]), [fraction(entry) for row in rows for entry in row])


def balls(array: Any) -> arb_mat:
    """Exact balls of a float matrix (n, m), or of a vector (n,) as a column."""
    return arb_mat(len(array), array.size // len(array), [float(entry) for entry in array.ravel()])


def diagonal_matrix(entries: Sequence[Any], kind: Any = arb_mat) -> Any:
    """diag(entries), (n, n), as ``arb_mat`` or ``fmpq_mat``."""
    n = len(entries)
    return kind(n, n, [entries[row] if row == column else 0 for row in range(n) for column in range(n)])


def entrywise(function: Callable[[arb], arb], matrix: arb_mat) -> arb_mat:
    """A function of every entry."""
    return arb_mat(matrix.nrows(), matrix.ncols(), [function(entry) for entry in matrix.entries()])


def derivative_of_tanh(a: arb) -> arb:
    """1 / cosh² a, enclosed without the cancellation of 1 − tanh² a."""
    return 1 / a.cosh() ** 2


def log_cosh(a: arb) -> arb:
    """The logarithm of cosh a."""
    return a.cosh().log()


def trace(matrix: Any) -> Any:
    """Sum of the diagonal."""
    return sum((matrix[k, k] for k in range(matrix.nrows())), matrix[0, 0] * 0)


def total(values: Sequence[arb]) -> arb:
    """Sum of balls."""
    return sum(values, arb(0))


def norm(matrix: arb_mat) -> arb:
    """Frobenius norm; of a column, the Euclidean one."""
    return total([entry * entry for entry in matrix.entries()]).nonnegative_part().sqrt()


def largest_error(array: Any, truth: arb_mat) -> float:
    """Upper bound on the largest |array − truth|, the array in the order of the matrix's entries; NaN if one is."""
    pairs = zip(np.ravel(array).tolist(), truth.entries(), strict=True)
    return largest(float((arb(value) - entry).abs_upper()) for value, entry in pairs)


def largest(values: Iterable[float]) -> float:
    """Largest of the values; NaN if one of them is, where ``max`` might pass over it."""
    return float(np.max(np.fromiter(values, float)))


def largest_ratio(errors: np.ndarray, bounds: np.ndarray) -> float:
    """Largest of the errors over their bounds: 0/0 is 0, any other error over 0 infinite, and NaN is the largest."""
    exact = (errors == 0) & (bounds == 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.max(np.where(exact, 0.0, errors / bounds)))


def ends(ball: arb) -> list[float]:
    """Floats below and above every point of the ball."""
    return [math.nextafter(float(ball.lower()), -math.inf), math.nextafter(float(ball.upper()), math.inf)]


def interval(ball: arb, digits: int = 8) -> str:
    """The ball as ``[lower, upper]`` in decimals of so many digits, rounded outwards."""
    rounded = [
        decimal.Context(prec=digits, rounding=rounding).create_decimal(end)
        for end, rounding in zip(ends(ball), (decimal.ROUND_FLOOR, decimal.ROUND_CEILING), strict=True)
    ]
    return f"[{rounded[0]:g}, {rounded[1]:g}]"


def run(
    W: fmpq_mat | arb_mat, start: Sequence[Exact], step_size: Exact | None, T: int, precision: int
) -> list[arb_mat]:
    """States h_0 … h_T, (n, 1) each, of the recurrence with feedback, or of the vanilla one if ``step_size`` is None.

    An enclosure of the exact sequence for exact W, start and ε; its radius grows with t, so that long runs need a
    high precision.
    """
    with ctx.workprec(precision):
        matrix, step = arb_mat(W), None if step_size is None else arb(fraction(step_size))
        states = [arb_mat(len(start), 1, [fraction(entry) for entry in start])]
        for _ in range(T):
            slope = entrywise(arb.tanh, matrix * states[-1])
            states.append(slope if step is None else states[-1] + step * slope)
        return states


Numbers = dict[str, Any]
"""The evidence: floats, counts, certified intervals as [lower, upper], exact fractions as text, and lists of these."""


class Verdict(StrEnum):
    """What the numbers of a check say about a claim."""

    HOLDS = "holds"
    CONDITIONAL = "holds under a stated condition"
    REFUTED = "refuted"
    UNDECIDED = "undecided"
    """Neither confirmed on every instance nor refuted with certainty. No claim is expected to end here."""


class Outcome(NamedTuple):
    """A verdict, the evidence in a sentence or two, and its numbers by name."""

    verdict: Verdict
    evidence: str
    numbers: Numbers


class Claim(NamedTuple):
    """A statement that can be true or false, and the check that decides it.

    Attributes
    ----------
    name : str
        A slug, unique in the ledger.
    source : str
        Where the paper states it: ``equation (9)``, ``section 4``.
    statement : str
        What the paper says, in our words; or what was derived from it, and then ``source`` says so.
    condition : str
        The condition under which it holds; of a refuted claim, what is true instead; else empty.
    expected : Verdict
    check : callable
        Takes ``quick`` (fewer random instances, nothing else changes) and returns the :class:`Outcome`.
    proof : str
        The section of ``antisymrnn_ref/DERIVATION.md`` that proves it, refutes it, or has the mathematics behind the
        count or the computation that decides it.
    """

    name: str
    source: str
    statement: str
    condition: str
    expected: Verdict
    check: Callable[[bool], Outcome]
    proof: str


class Judgement(NamedTuple):
    """A claim and what its check found."""

    claim: Claim
    outcome: Outcome

    @property
    def as_expected(self) -> bool:
        """Whether the verdict is the one that the ledger expects."""
        return self.outcome.verdict is self.claim.expected


def decide(holds: bool, *, refuted: bool = False, under_condition: bool | None = None) -> Verdict:
    """Verdict from what a check found.

    Parameters
    ----------
    holds : bool
        The statement passed on every instance, as it stands.
    refuted : bool
        A counter-example to the statement as it stands is certain: exact arithmetic, a ball, or a count.
    under_condition : bool or None
        Whether the statement passed on every instance that meets the condition; None if no condition is stated.

    Returns
    -------
    Verdict
        A counter-example outweighs passing instances. A failing instance that is not certain refutes nothing.
    """
    if refuted and under_condition:
        return Verdict.CONDITIONAL
    if refuted:
        return Verdict.REFUTED
    return Verdict.HOLDS if holds and under_condition is not False else Verdict.UNDECIDED
