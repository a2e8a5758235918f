"""The speeds that a backend of this project must reach, as data, and whether it does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from antisymrnn_validation.comparison.workload import Shape

FRACTION, FASTER, MICROSECONDS = "fraction of the peak", "times faster", "µs per step"
"""What a target bounds: the first two from below, the last from above."""

CARD = "H200"
"""The card that the speeds of ``DEVICE_TARGETS`` were set for."""


class Target(NamedTuple):
    """One speed to reach.

    Attributes
    ----------
    cell : str
    shape : Shape
    dtype : str
    what : str
        ``forward``, every state kept, or ``both`` for forward and backward.
    measure : str
        ``FRACTION`` of the FMA peak, how many times ``FASTER``, or ``MICROSECONDS`` a step.
    bound : float
    against : tuple of str
        Peers: faster than the fastest of these, every one of which must be timed.
    stretch : float
        What would be better still; NaN if there is nothing.
    """

    cell: str
    shape: Shape
    dtype: str
    what: str
    measure: str
    bound: float
    against: tuple[str, ...] = ()
    stretch: float = math.nan

    def asked(self) -> str:
        """What is asked, in words."""
        if self.measure == FRACTION:
            return f"at least {100 * self.bound:.0f} % of the FMA peak"
        if self.measure == MICROSECONDS:
            return f"at most {self.bound:g} µs per step"
        best = "the best of " if len(self.against) > 1 else ""
        return f"at least {self.bound:g} times as fast as {best}{' and '.join(self.against)}"

    def met(self, reached: float, bound: float) -> bool:
        """Whether a number meets a bound."""
        return reached <= bound if self.measure == MICROSECONDS else reached >= bound


_FIRST, _WIDE = Shape(784, 128, 1, 128), Shape(1000, 128, 96, 256)
_SIXTEEN, _ONE = Shape(784, 16, 1, 128), Shape(784, 1, 1, 128)
_BEST = ("torch eager", "torch nn.RNN", "jax scan")
_NUMPY, _JAX, _GRU = ("numpy hoisted",), ("jax scan",), ("torch nn.GRU",)

TARGETS = (
    Target("antisymmetric", _FIRST, "float32", "both", FRACTION, 0.75),
    Target("antisymmetric", _FIRST, "float32", "both", FASTER, 5.0, _BEST),
    Target("antisymmetric", _FIRST, "float32", "both", FASTER, 3.3, _NUMPY),
    Target("antisymmetric", _FIRST, "float64", "both", FRACTION, 0.68),
    Target("antisymmetric", _FIRST, "float64", "both", FASTER, 4.5, _BEST),
    Target("antisymmetric", _SIXTEEN, "float32", "both", FASTER, 4.8, _JAX),
    Target("antisymmetric", _ONE, "float32", "both", FASTER, 2.0, _JAX),
    Target("antisymmetric", _ONE, "float32", "forward", FASTER, 1.2, _JAX),
    Target("antisymmetric", _WIDE, "float32", "both", FRACTION, 0.75),
    Target("antisymmetric", _WIDE, "float32", "both", FASTER, 3.2, _BEST),
    Target("gated", _FIRST, "float32", "both", FRACTION, 0.70),
    Target("gated", _FIRST, "float32", "both", FASTER, 5.0, _GRU),
)
"""On the host."""

DEVICE_TARGETS = (
    Target("antisymmetric", _FIRST, "float32", "forward", MICROSECONDS, 0.30, stretch=0.20),
    Target("antisymmetric", Shape(784, 128, 1, 256), "float32", "forward", MICROSECONDS, 0.70),
    Target("antisymmetric", Shape(784, 128, 1, 512), "float32", "forward", MICROSECONDS, 2.0),
    Target("antisymmetric", _FIRST, "float64", "forward", MICROSECONDS, 0.55),
    Target("antisymmetric", _FIRST, "float32", "both", FASTER, 4.0, ("torch nn.RNN, TF32 off",)),
    Target("antisymmetric", _FIRST, "float32", "both", FASTER, 60.0, ("torch eager",)),
)
"""On a ``CARD``."""


def records(
    targets: Sequence[Target], backend: str, contests: Sequence[Mapping[str, Any]], *, card: str = CARD
) -> list[dict[str, Any]]:
    """Whether a backend reaches each target.

    Parameters
    ----------
    targets : sequence of Target
    backend : str
        Its name as a contender.
    contests : sequence of records
        As ``contest.record`` makes them.
    card : str
        The name of the device. On another than ``CARD`` the number is reported, but nothing counts as measured.

    Returns
    -------
    list of dict
        Each target with ``asked`` in words, ``reached`` (NaN if there is no number), ``verdict`` (``met``, ``not met``
        or ``not measured``), ``stretch_verdict``, and ``why`` it was not measured.
    """
    held = {(contest["cell"], tuple(contest["shape"].values()), contest["dtype"]): contest for contest in contests}
    found = []
    for target in targets:
        contest = held.get((target.cell, tuple(target.shape), target.dtype))
        reached, why = (math.nan, "no such contest was held") if contest is None else _reached(target, backend, contest)
        if not why and CARD not in card.split():
            why = f"this is {card}, not an {CARD}"
        stretch = ""
        if not math.isnan(target.stretch):
            met = "met" if target.met(reached, target.stretch) else "not met"
            stretch = f"{target.stretch:g} {'not measured' if why else met}"
        found.append(
            {
                **target._asdict(),
                "shape": target.shape._asdict(),
                "against": list(target.against),
                "asked": target.asked(),
                "reached": reached,
                "verdict": "not measured" if why else "met" if target.met(reached, target.bound) else "not met",
                "stretch_verdict": stretch,
                "why": why,
            }
        )
    return found


def _reached(target: Target, backend: str, contest: Mapping[str, Any]) -> tuple[float, str]:
    """The number, and why it does not count; NaN if there is none."""
    by_name = {entry["name"]: entry for entry in contest["contenders"]}
    names = (backend, *target.against)
    for name in names:
        entry = by_name.get(name)
        if entry is None or target.what not in entry["times"]:
            status = "not there" if entry is None else f"{entry['status']}, {entry['detail']}"
            return math.nan, f"{name}: {status}"
    own = by_name[backend]["times"][target.what]
    if target.measure == MICROSECONDS:
        reached = own["us_per_step"]
    elif target.measure == FRACTION:
        reached = own["fraction"]
    else:
        reached = min(by_name[name]["times"][target.what]["median"] for name in target.against) / own["median"]
    short = [name for name in names if by_name[name]["status"] != "timed"]
    why = f"{' and '.join(short)}: too few samples" if short else "there is no number" if math.isnan(reached) else ""
    return float(reached), why
