"""A truth in floating-point numbers: two of float64 for each entry, which are compared with an array at once."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from flint import arb, ctx

from antisymrnn_ref.contract import Array
from antisymrnn_validation.truth.oracles import Enclosure, Truth

FAR = 900
"""From 2 to this power on, or below its inverse, entries are scaled: two float64 would lose their last digits there."""


class Digits(NamedTuple):
    """Truth of one array in floating-point numbers.

    Attributes
    ----------
    high, low : float64 arrays
        In the shape of the array: an entry is (high + low) 2^exponent, but for the radius.
    exponent : int
        0 but for magnitudes that are far from 1.
    radius : float
        Largest distance of high + low from the truth: certified where balls are behind it, measured elsewhere.
    magnitude, condition : float
        As those of :class:`~antisymrnn_validation.truth.oracles.Enclosure`.
    """

    high: Array
    low: Array
    exponent: int
    radius: float
    magnitude: float
    condition: float = 1.0

    def rounded(self) -> Array:
        """The entries as float64, which those of a far exponent may leave."""
        with np.errstate(all="ignore"):
            return np.ldexp(self.high, self.exponent)

    def kept(self, steps: list[int]) -> Digits:
        """Of states, those of some steps."""
        return self._replace(high=self.high[steps], low=self.low[steps])

    def error(self, array: Array) -> float:
        """Largest error of an array, an upper bound, relative to the largest true entry.

        Returns
        -------
        float
            0 where both are zero throughout; NaN where an entry is NaN; infinity where one is infinite, where the truth
            is zero throughout and the array is not, and where the shapes differ.
        """
        if array.shape != self.high.shape:
            return math.inf
        if not np.isfinite(array).all():
            return math.nan if np.isnan(array).any() else math.inf
        return float(self.errors(array[None])[0])

    def errors(self, arrays: Array) -> Array:
        """The errors of several arrays, stacked along the first axis; infinity where one is not finite."""
        values = arrays.astype(np.float64, casting="same_kind", copy=False)
        with np.errstate(all="ignore"):
            if self.exponent:
                values = np.ldexp(values, -self.exponent)
            difference = values - self.high  # exact where the two are within a factor of 2
            distance = np.abs(difference - self.low)
            distance += 2.0**-53 * np.abs(difference)
            largest = distance.reshape(len(arrays), -1).max(axis=1, initial=0.0)
            largest = np.where(np.isnan(largest), math.inf, (largest + self.radius) * (1 + 2.0**-50))
            relative = largest / math.ldexp(self.magnitude, -self.exponent) if self.magnitude else largest * math.inf
            return np.where(largest == 0.0, 0.0, relative)


class KnownTruth(NamedTuple):
    """Truth of a case in floating-point numbers; the attributes are those of ``oracles.Truth``."""

    arrays: dict[str, Digits]
    precision: int


def scaling(magnitude: float) -> int:
    """The exponent that entries of a magnitude are stored with."""
    exponent = math.frexp(magnitude)[1] if math.isfinite(magnitude) else 0
    return exponent if abs(exponent) > FAR else 0


def split(values: Array, magnitude: float, radius: float = 0.0, condition: float = 1.0) -> Digits:
    """Digits of numbers of float64, or of a wider dtype with at most 106 bits."""
    exponent = scaling(magnitude)
    values = np.ldexp(values, -exponent) if exponent else values
    high = values.astype(np.float64)
    low = (values - high).astype(np.float64)
    return Digits(high, low, exponent, math.ldexp(radius, -exponent) if exponent else radius, magnitude, condition)


def certified(truth: Truth) -> KnownTruth:
    """A certified truth in floating-point numbers; the radius covers the balls and what is lost of them."""
    with ctx.workprec(truth.precision + 64):
        return KnownTruth({name: _of(enclosure) for name, enclosure in truth.arrays.items()}, truth.precision)


def _of(enclosure: Enclosure) -> Digits:
    shape, exponent = enclosure.balls.shape, scaling(enclosure.magnitude)
    balls = enclosure.balls.ravel().tolist()
    if exponent:
        scale = arb(2) ** -exponent
        balls = [ball * scale for ball in balls]
    high = [float(ball.mid()) for ball in balls]
    rest = [ball - value for ball, value in zip(balls, high, strict=True)]
    low = [float(ball.mid()) for ball in rest]
    lost = max((float((ball - value).abs_upper()) for ball, value in zip(rest, low, strict=True)), default=0.0)
    # abs_upper is rounded to a float, and a scaled array may lose the last denormal bit
    radius = lost * (1 + 2.0**-50) + (math.ulp(0.0) if exponent > 0 else 0.0)
    first, second = (np.array(values, np.float64).reshape(shape) for values in (high, low))
    return Digits(first, second, exponent, radius, enclosure.magnitude, enclosure.condition)
