"""The speeds that a backend of this project must reach, as data, and whether it does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from antisymrnn_validation.comparison.workload import Shape

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
    times = {entry["name"]: entry["times"].get(target.what) for entry in contest["contenders"]}
    asked = (backend,) if target.against == PEAK else (backend, *target.against)
    if not all(times.get(name) for name in asked):
        return math.nan
    if target.against == PEAK:
        return float(times[backend]["fraction"])
    return float(min(times[name]["median"] for name in target.against) / times[backend]["median"])


CARD = "H200"
"""The card that the speeds of ``DEVICE_TARGETS`` were set for."""


class DeviceTarget(NamedTuple):
    """One speed to reach on the card: so many µs per step at most, or so many times faster than a peer at least.

    Attributes
    ----------
    cell : str
    shape : Shape
    dtype : str
    what : str
        ``forward``, every state kept, or ``both`` for forward and backward.
    against : str
        The peer; empty for µs per step.
    bound : float
    stretch : float
        What would be better still; NaN if nothing is said.
    """

    cell: str
    shape: Shape
    dtype: str
    what: str
    against: str
    bound: float
    stretch: float = math.nan


DEVICE_TARGETS = (
    DeviceTarget("antisymmetric", Shape(784, 128, 1, 128), "float32", "forward", "", 0.30, 0.20),
    DeviceTarget("antisymmetric", Shape(784, 128, 1, 256), "float32", "forward", "", 0.70),
    DeviceTarget("antisymmetric", Shape(784, 128, 1, 512), "float32", "forward", "", 2.0),
    DeviceTarget("antisymmetric", Shape(784, 128, 1, 128), "float64", "forward", "", 0.55),
    DeviceTarget("antisymmetric", Shape(784, 128, 1, 128), "float32", "both", "torch nn.RNN, TF32 off", 4.0),
    DeviceTarget("antisymmetric", Shape(784, 128, 1, 128), "float32", "both", "torch eager", 60.0),
)


def device_records(backend: str, card: str, contests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Whether a backend reaches each of ``DEVICE_TARGETS``.

    Parameters
    ----------
    backend, card : str
        The backend's name as a contender, and the card's.
    contests : sequence of records
        As ``device_contest.hold`` makes them.

    Returns
    -------
    list of dict
        Each target with ``asked``, ``reached`` (NaN where there is no number), ``verdict`` (``met``, ``not met``,
        ``not measured``), ``stretch_verdict`` and ``why`` it was not measured. On another card the number is told, but
        nothing was measured.
    """
    held = {(contest["cell"], tuple(contest["shape"].values()), contest["dtype"]): contest for contest in contests}
    found = []
    for target in DEVICE_TARGETS:
        contest = held.get((target.cell, tuple(target.shape), target.dtype))
        reached, why = (
            (math.nan, "no such contest was held") if contest is None else _on_device(target, backend, contest)
        )
        if not why and CARD not in card.split():
            why = f"this is {card}, not an {CARD}"
        told = {**target._asdict(), "shape": target.shape._asdict()}
        asked = (
            f"at least {target.bound:g} times {target.against}" if target.against else f"at most {target.bound:g} µs"
        )
        verdict = "not measured" if why else "met" if _reaches(target, reached, target.bound) else "not met"
        stretch = ""
        if not math.isnan(target.stretch):
            met = "met" if _reaches(target, reached, target.stretch) else "not met"
            stretch = f"{target.stretch:g} {'not measured' if why else met}"
        found.append(
            {**told, "asked": asked, "reached": reached, "verdict": verdict, "stretch_verdict": stretch, "why": why}
        )
    return found


def _reaches(target: DeviceTarget, reached: float, bound: float) -> bool:
    return reached >= bound if target.against else reached <= bound


def _on_device(target: DeviceTarget, backend: str, contest: Mapping[str, Any]) -> tuple[float, str]:
    """The number, or why there is none that counts."""
    by_name = {entry["name"]: entry for entry in contest["contenders"]}
    for name in filter(None, (backend, target.against)):
        entry = by_name.get(name)
        if entry is None or target.what not in entry["times"]:
            status = "not there" if entry is None else f"{entry['status']}, {entry['detail']}"
            return math.nan, f"{name}: {status}"
    own = by_name[backend]["times"][target.what]
    reached = float(own["us_per_step"])
    if target.against:
        reached = by_name[target.against]["times"][target.what]["median"] / own["median"]
    short = [name for name in (backend, target.against) if name and by_name[name]["status"] != "timed"]
    return reached, f"{' and '.join(short)}: too few samples" if short else ""
