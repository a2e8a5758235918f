"""Errors that look as if an intermediate, or a constant, has fewer digits than the arrays.

Three looks, the surest first. A constant, the inputs or the parameters rounded to a format give exactly these results.
Every entry of a wrong array is a number of the format. Or the errors have the size and the randomness of such
roundings: the *effective unit roundoff* of results is the largest error among the wrong arrays, in units of what
rounding at the dtype's unit roundoff costs that array, times that roundoff. An intermediate rounded to p bits gives
2⁻ᵖ, or down to a fiftieth of it, for it is one of many that may round (measured: only s, M, δ, h, x, the products, the
sums; both cells, both dtypes). The bands of bfloat16 and of half precision overlap, and what falls in both has a name
of both.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from antisymrnn_ref.contract import Array
from antisymrnn_validation.conformance.mistakes.catalogue import Deviation
from antisymrnn_validation.conformance.mistakes.recurrence import Lines
from antisymrnn_validation.truth.calls import ArrayError
from antisymrnn_validation.truth.cases import CELLS


def _rounding(name: str, statement: str, usual_cause: str, fix: str) -> Deviation:
    return Deviation(name, "rounding", CELLS, statement, usual_cause, fix, (), {})


_FIX = "Give every constant, buffer and accumulator the dtype of x; in PyTorch and JAX look for a cast and autocast."
FLOAT32, HALF, BFLOAT16, HALF_OR_BFLOAT16 = ROUNDINGS = (
    _rounding(
        "float32 intermediate",
        "Something on the way from the arguments to the results is float32: the errors are about 2⁻²⁴.",
        "A constant, a buffer or an accumulator without dtype, where the framework's default is float32.",
        _FIX,
    ),
    _rounding(
        "half-precision or TF32 intermediate",
        "Something on the way from the arguments to the results has 11 bits: the errors are about 2⁻¹¹.",
        "Autocast, or products of matrices in TF32 on a GPU.",
        f"{_FIX} On a GPU turn TF32 off.",
    ),
    _rounding(
        "bfloat16 intermediate",
        "Something on the way from the arguments to the results has 8 bits: the errors are about 2⁻⁸.",
        "Autocast, or JAX's default precision on an accelerator.",
        _FIX,
    ),
    _rounding(
        "half-precision, TF32 or bfloat16 intermediate",
        "Something on the way from the arguments to the results has 11 or 8 bits: the errors are about 2⁻¹¹.",
        "Autocast, TF32, or JAX's default precision on an accelerator.",
        f"{_FIX} On a GPU turn TF32 off.",
    ),
)
"""What roundings are called, in the style of the catalogue; the last where the errors cannot tell two apart."""

BITS = {24: FLOAT32, 11: HALF, 8: BFLOAT16}
"""By the bits of a significand: the name."""

BANDS = (
    (2**-30.5, 2**-23.5, FLOAT32),
    (2**-16.6, 2**-13.5, HALF),
    (2**-13.5, 2**-11.5, HALF_OR_BFLOAT16),
    (2**-11.5, 2**-7.5, BFLOAT16),
)
"""Effective unit roundoffs, from and to, and what they are called."""

FEWEST = 12
"""Entries that an array must have for the randomness of its errors, or the bits of its entries, to say anything."""

ALIGNED = 0.7
"""Errors with a larger cosine to the values that they are errors of are no rounding."""


class Finding(NamedTuple):
    """What is called how, what speaks for it, and of an argument that is rounded which."""

    rounding: Deviation
    evidence: str
    argument: str = ""


def to_bits(array: Array, bits: int) -> Array:
    """The array with each entry rounded to so many significant bits, in its own dtype."""
    mantissa, exponent = np.frexp(array)
    return np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits).astype(array.dtype)


def rounded_arguments(dtype: np.dtype[Any]) -> Iterator[tuple[int, str, Lines]]:
    """Lines of the cells with an argument rounded to each format coarser than a dtype: its bits, and which argument."""
    for bits in BITS:
        if bits <= np.finfo(dtype).nmant:
            number, array = functools.partial(_number, bits=bits), functools.partial(to_bits, bits=bits)
            for what, rounds in {"ε": (True, False), "γ": (False, True), "ε and γ": (True, True)}.items():
                yield bits, what, Lines(constants=functools.partial(_constants, number=number, rounds=rounds))
            yield bits, "x", Lines(inputs=array)
            yield bits, "the weights and biases", Lines(reads=functools.partial(_leaves, array=array))


def _number(value: float, bits: int) -> float:
    return float(to_bits(np.asarray(value, np.float64), bits))


def _constants(
    step_size: float, diffusion: float, number: Callable[[float], float], rounds: tuple[bool, bool]
) -> tuple[float, float]:
    return number(step_size) if rounds[0] else step_size, number(diffusion) if rounds[1] else diffusion


def _leaves(leaves: dict[str, Array], array: Callable[[Array], Array]) -> dict[str, Array]:
    return {name: array(leaf) for name, leaf in leaves.items()}


def finding(
    got: Mapping[str, Array], expected: Mapping[str, Array], errors: Mapping[str, ArrayError]
) -> Finding | None:
    """What wrong arrays say by their entries and errors.

    Parameters
    ----------
    got, expected : mapping of str to array
        Results by name, finite and of the same shapes; the truth rounded to float64.
    errors : mapping of str to ArrayError
        As measured.

    Returns
    -------
    Finding or None
        None where nothing is wrong, or the errors are no roundings.
    """
    wrong = [name for name in got if not errors[name].error <= errors[name].tolerance and errors[name].reference]
    if not wrong:
        return None
    dtype = got[wrong[0]].dtype
    unit = max(errors[name].error / errors[name].reference for name in wrong) * float(np.finfo(dtype).eps) / 2
    close = [rounding for low, high, rounding in BANDS if low <= unit < high]
    for bits, rounding in sorted(BITS.items()):
        if bits > np.finfo(dtype).nmant or unit > 2.0 ** (1 - bits):
            continue
        for name in wrong:
            entries = got[name][got[name] != expected[name]]
            if len(entries) >= FEWEST and np.array_equal(entries, to_bits(entries, bits)):
                return Finding(rounding, f"every entry of {name} has at most {bits} significant bits")
    largest = max(wrong, key=lambda name: got[name].size)
    if (
        not close
        or got[largest].size < FEWEST
        or _cosine(got[largest] - expected[largest], expected[largest]) > ALIGNED
    ):
        return None
    if close[0] is FLOAT32 and dtype == np.float32:
        return None
    return Finding(close[0], f"the errors are those of roundings by 2^{math.log2(unit):.1f} or more on the way")


def _cosine(error: Array, value: Array) -> float:
    """Of the angle between errors and values."""
    error, value = error.astype(np.float64).ravel(), value.astype(np.float64).ravel()
    norms = float(np.linalg.norm(error) * np.linalg.norm(value))
    return abs(float(error @ value)) / norms if norms else 0.0
