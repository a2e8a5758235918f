"""Optimizers as functions: a value, its gradient and its slots give the next value and the next slots.

With gradient d, learning rate η and step k = 1, 2, …::

    sgd      v ← μ v + d;  value ← value − η v                                          (O1)
    adagrad  a ← a + d²;   value ← value − η d / (√a + 1e-10)                           (O2)
    adam     p ← 0.9 p + 0.1 d;  q ← 0.999 q + 0.001 d²
             value ← value − η (p / (1 − 0.9ᵏ)) / (√(q / (1 − 0.999ᵏ)) + 1e-8)         (O3)
"""

from __future__ import annotations

import math

import numpy as np

from antisymrnn_ref.contract import Array

SLOTS = {"sgd": 1, "adagrad": 1, "adam": 2}
"""How many arrays of a parameter's shape each optimizer keeps; all begin at zero."""

SCHEDULES = ("constant", "step", "cosine")


def update(
    optimizer: str, value: Array, gradient: Array, slots: tuple[Array, ...], rate: float, k: int, momentum: float
) -> tuple[Array, tuple[Array, ...]]:
    """One step of (O1), (O2) or (O3) on one array, in its dtype.

    Parameters
    ----------
    optimizer : str
        A key of ``SLOTS``.
    value, gradient : array
    slots : tuple of arrays
        As the step before returned them; zeros at first.
    rate : float
        η.
    k : int
        Number of this step, from 1.
    momentum : float
        μ of (O1).

    Returns
    -------
    value : array
    slots : tuple of arrays
        In memory of their own. No argument is written.
    """
    if optimizer == "sgd":
        velocity = momentum * slots[0] + gradient
        return value - rate * velocity, (velocity,)  # (O1)
    if optimizer == "adagrad":
        accumulated = slots[0] + gradient**2
        return value - rate * gradient / (np.sqrt(accumulated) + 1e-10), (accumulated,)  # (O2)
    first, second = 0.9 * slots[0] + 0.1 * gradient, 0.999 * slots[1] + 0.001 * gradient**2
    unbiased = first / (1 - 0.9**k), second / (1 - 0.999**k)
    return value - rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8), (first, second)  # (O3)


def scheduled_rate(schedule: str, rate: float, k: int, iterations: int) -> float:
    """Learning rate of step k = 1 … iterations: constant, a tenth from each half left on, or a half cosine to 0."""
    done = (k - 1) / iterations
    if schedule == "step":
        return rate * 0.1 ** ((done >= 0.5) + (done >= 0.75))
    return rate * (1 + math.cos(math.pi * done)) / 2 if schedule == "cosine" else rate
