"""A claim of the paper, its check, and the verdict that follows from the check's numbers."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple

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
    """

    name: str
    source: str
    statement: str
    condition: str
    expected: Verdict
    check: Callable[[bool], Outcome]


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
