"""Times of the host's clock: contenders take turns, and a sample counts only if the machine was at its peak around it.

Before each sample the threads that the last contender's library left spinning get ``REST_SECONDS`` to fall asleep. Then
looks at the FMA loop of ``peak.py``, without a pause, wake the processors. As soon as ``STEADY`` of them in a row reach
``GATE`` of what the machine can hold, the contender runs untimed for ``SETTLE_SECONDS``, as it would in a loop: a
virtual machine that wakes from a rest may have two threads on one processor, or two processors on one core, for some
tens of milliseconds. Then it is timed once, and the sample counts if a look within ``AFTER_SECONDS`` of its end reaches
the gate too: a library's threads may spin for a moment longer. Every other attempt is rejected, counted, and repeated
up to ``ATTEMPTS`` times the samples that are wanted.
"""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

GATE = 0.9
"""Both looks must reach this part of what the machine can hold."""

STEADY, BEFORE_SECONDS, AFTER_SECONDS = 3, 0.2, 0.01
"""Looks in a row before a sample, the time they may take, and the time within which one look must follow it."""

SETTLE_SECONDS = 0.1
"""A contender runs untimed for this time, and at least once, before it is timed."""

REST_SECONDS = 0.03
"""OpenBLAS's threads spin for 2²⁶ cycles after a product."""

ATTEMPTS = 4
"""A contender has at most this many attempts for each sample wanted."""

FEWEST, SECONDS = 3, 2.0
"""A slow contender has fewer samples: as many as fit SECONDS, but not fewer than FEWEST."""


Timer = Callable[[Callable[[], Any], int], float]
"""Takes a call and how often to make it; the seconds of all of them together."""


class Timed(NamedTuple):
    """One thing to time.

    Attributes
    ----------
    name : str
    call : callable
        Without arguments; returns when the work is done.
    wanted : int
        How many samples it is to have.
    """

    name: str
    call: Callable[[], Any]
    wanted: int


class Sample(NamedTuple):
    """One measurement.

    Attributes
    ----------
    seconds : float
        Of one call; NaN if it did not run.
    gflops : float
        The lower of the two looks around it; infinite where nobody looks.
    calls : int
        How many were timed together.
    """

    seconds: float
    gflops: float = math.inf
    calls: int = 1


class Statistics(NamedTuple):
    """Statistics of the samples of one contender.

    Attributes
    ----------
    median, lower, upper : float
        Seconds; ``lower`` and ``upper`` are the quartiles. NaN without an accepted sample.
    samples, rejected : int
    """

    median: float
    lower: float
    upper: float
    samples: int
    rejected: int


def wanted_samples(seconds: float, samples: int) -> int:
    """How many samples a contender has if one call takes ``seconds`` and fast ones have ``samples``."""
    return min(samples, max(FEWEST, int(SECONDS / max(seconds, 1e-9))))


def take_turns(
    contenders: Sequence[Timed],
    look: Callable[[], float],
    steady: Callable[[], float],
    *,
    clock: Callable[[], float] = time.perf_counter,
    rest: Callable[[float], Any] = time.sleep,
    begin: Callable[[int], Any] = lambda _: None,
) -> list[list[Sample]]:
    """Sample k of every contender, then sample k + 1, until each has the samples it wants or has used up its attempts.

    Parameters
    ----------
    contenders : sequence of Timed
        Warm: called before.
    look, steady : callable
        GFLOP/s of the FMA loop now, and what the machine can hold of it (``peak.Peak``).
    clock, rest : callable
        Returns seconds; waits for a number of seconds.
    begin : callable
        Called with the number of each round.

    Returns
    -------
    list of lists of Sample
        Of each contender all attempts; :func:`summary` says which count.
    """
    taken: list[list[Sample]] = [[] for _ in contenders]
    with no_collection():
        for round_ in range(ATTEMPTS * max((timed.wanted for timed in contenders), default=0)):
            behind = [
                (timed, samples)
                for timed, samples in zip(contenders, taken, strict=True)
                if len(samples) < ATTEMPTS * timed.wanted and summary(samples, steady()).samples < timed.wanted
            ]
            if not behind:
                break
            begin(round_)
            for timed, samples in behind:
                rest(REST_SECONDS)
                samples.append(_sample(timed.call, look, steady, clock))
    return taken


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Python's garbage collector is off within."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def host_clock(clock: Callable[[], float] = time.perf_counter) -> Timer:
    """A timer for calls that return when their work is done."""

    def elapsed(call: Callable[[], Any], repeats: int) -> float:
        start = clock()
        for _ in range(repeats):
            call()
        return clock() - start

    return elapsed


def summary(samples: Sequence[Sample], steady: float) -> Statistics:
    """Median and quartiles of the samples whose looks reach ``GATE`` of ``steady``, in GFLOP/s."""
    accepted = [
        sample.seconds for sample in samples if sample.gflops >= GATE * steady and not math.isnan(sample.seconds)
    ]
    if not accepted:
        return Statistics(math.nan, math.nan, math.nan, 0, len(samples))
    lower, median, upper = (float(value) for value in np.percentile(accepted, (25, 50, 75)))
    return Statistics(median, lower, upper, len(accepted), len(samples) - len(accepted))


def _sample(
    call: Callable[[], Any], look: Callable[[], float], steady: Callable[[], float], clock: Callable[[], float]
) -> Sample:
    before = _steady(look, steady, clock)
    if before < GATE * steady():
        return Sample(math.nan, before)
    settled = clock() + SETTLE_SECONDS
    call()
    while clock() < settled:
        call()
    start = clock()
    result = call()
    seconds = clock() - start
    end, after = clock() + AFTER_SECONDS, look()
    while after < GATE * steady() and clock() < end:
        after = max(after, look())
    del result  # freed outside of what is timed
    return Sample(seconds, min(before, after))


def _steady(look: Callable[[], float], steady: Callable[[], float], clock: Callable[[], float]) -> float:
    """The lowest of the last STEADY looks, as soon as all of them reach the gate or patience is at its end."""
    looks: list[float] = []
    end = clock() + BEFORE_SECONDS
    while len(looks) < STEADY or (min(looks[-STEADY:]) < GATE * steady() and clock() < end):
        looks.append(look())
    return min(looks[-STEADY:])
