"""The speeds that a backend of this project must reach, as data, and whether it does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from antisymrnn_validation.comparison.arithmetic import Shape
from antisymrnn_validation.comparison.contest import fraction, median

PEAK: tuple[str, ...] = ()
"""In the place of peers: the fraction of the FMA peak is meant."""

BEST = ("torch eager", "torch nn.RNN", "jax scan")
NUMPY, JAX, GRU = ("numpy hoisted",), ("jax scan",), ("torch nn.GRU",)


class Target(NamedTuple):
    """One speed to reach.

    Attributes
    ----------
    cell : str
    shape : Shape
    dtype : str
    what : str
        ``forward``, or ``both`` for forward and backward.
    against : tuple of str
        Times faster than the fastest of these, every one of which must be timed; ``PEAK``, a fraction of the FMA peak.
    at_least : float
    """

    cell: str
    shape: Shape
    dtype: str
    what: str
    against: tuple[str, ...]
    at_least: float


_FIRST, _WIDE = Shape(784, 128, 1, 128), Shape(1000, 128, 96, 256)
_SIXTEEN, _ONE = Shape(784, 16, 1, 128), Shape(784, 1, 1, 128)

TARGETS = (
    Target("antisymmetric", _FIRST, "float32", "both", PEAK, 0.75),
    Target("antisymmetric", _FIRST, "float32", "both", BEST, 5.0),
    Target("antisymmetric", _FIRST, "float32", "both", NUMPY, 3.3),
    Target("antisymmetric", _FIRST, "float64", "both", PEAK, 0.68),
    Target("antisymmetric", _FIRST, "float64", "both", BEST, 4.5),
    Target("antisymmetric", _SIXTEEN, "float32", "both", JAX, 4.8),
    Target("antisymmetric", _ONE, "float32", "both", JAX, 2.0),
    Target("antisymmetric", _ONE, "float32", "forward", JAX, 1.2),
    Target("antisymmetric", _WIDE, "float32", "both", PEAK, 0.75),
    Target("antisymmetric", _WIDE, "float32", "both", BEST, 3.2),
    Target("gated", _FIRST, "float32", "both", PEAK, 0.70),
    Target("gated", _FIRST, "float32", "both", GRU, 5.0),
)


def records(backend: str, contests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Whether a backend reaches each target.

    Parameters
    ----------
    backend : str
        Its name as a contender.
    contests : sequence of records
        As ``contest.record`` makes them.

    Returns
    -------
    list of dict
        Each target with ``reached``, NaN where it was not measured, and ``verdict``: ``met``, ``not met`` or
        ``not measured``.
    """
    held = {(contest["cell"], tuple(contest["shape"].values()), contest["dtype"]): contest for contest in contests}
    found = []
    for target in TARGETS:
        contest = held.get((target.cell, tuple(target.shape), target.dtype))
        reached = math.nan if contest is None else _reached(target, backend, contest)
        verdict = "not measured" if math.isnan(reached) else "met" if reached >= target.at_least else "not met"
        told = {**target._asdict(), "shape": target.shape._asdict(), "against": list(target.against)}
        found.append({**told, "reached": reached, "verdict": verdict})
    return found


def _reached(target: Target, backend: str, contest: Mapping[str, Any]) -> float:
    if target.against == PEAK:
        return fraction(contest, backend, target.what)
    others = [median(contest, name, target.what) for name in target.against]
    return math.nan if any(map(math.isnan, others)) else min(others) / median(contest, backend, target.what)
