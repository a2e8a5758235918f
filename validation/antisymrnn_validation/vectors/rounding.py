"""How golden vectors are made: their values rounded once from certified balls, and their noise floors.

A value is proved when its whole ball rounds to one number: rounding is monotone, so both ends suffice. The working
precision doubles until that is so for every entry of every array. A ball on both sides of zero proves nothing, since it
leaves the sign open. A zero is proved by a ball that is exactly zero: products and sums of exact zeros are, and the
enclosure sets the diagonal of dW by structure. What is proved must also pass the tangent identity, which knows no
reverse sweep.

The inputs are whole numbers from a generator whose stream is fixed, scaled by powers of two, so that they are the same
bits everywhere. Noise floors come from floating-point runs: they are rounded up to 6 bits, which no summation order of
a library moves.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from flint import arb

from antisymrnn_ref.contract import Array
from antisymrnn_validation.truth.cases import CELLS, Case
from antisymrnn_validation.truth.oracles import (
    PERTURBED_RUNS,
    OracleError,
    Truth,
    enclose,
    perturbed_run,
    relative_error,
    tangent_identity,
)
from antisymrnn_validation.truth.tolerance import tolerances
from antisymrnn_validation.vectors.format import SCHEMA, SCHEMA_FILE, VERSION, Noise, Vector, to_json, to_npz
from antisymrnn_validation.vectors.plans import DTYPES, LONG, LONG_FILES, NOTES, PLANS, Plan, case

NOISE_BITS = 6
LARGEST_PRECISION = 16384


def nearest(man: int, exp: int, dtype: np.dtype[Any]) -> float:
    """Man · 2^exp rounded to the dtype, to nearest, ties to even, with the sign of man.

    Raises
    ------
    OverflowError
        If that is more than the largest number.
    """
    limits = np.finfo(dtype)
    size = abs(man)
    # exponent of the last place; below the smallest normal number it falls no further
    last = max(size.bit_length() + exp - limits.nmant - 1, limits.minexp - limits.nmant)
    drop = last - exp
    if drop <= 0:
        whole = size << -drop
    elif drop > size.bit_length():
        whole = 0  # less than half of the last place
    else:
        whole, rest = size >> drop, size & ((1 << drop) - 1)
        half = 1 << (drop - 1)
        whole += rest > half or (rest == half and whole & 1)
    if whole and whole.bit_length() + last > limits.maxexp:
        raise OverflowError(f"expected at most {limits.max} in size, got about 2^{whole.bit_length() + last}")
    return math.copysign(math.ldexp(whole, last), -1 if man < 0 else 1)


def rounded(ball: arb, dtype: np.dtype[Any]) -> float | None:
    """The number of the dtype that every point of a ball rounds to; None if there is no such number.

    An exact zero is +0. A ball on both sides of zero has none: one would not know the sign.
    """
    man, exp = map(int, ball.mid().man_exp())
    radius, radius_exp = map(int, ball.rad().man_exp())
    if not radius:
        return nearest(man, exp, dtype)
    least = min(exp, radius_exp)
    man, radius = man << (exp - least), radius << (radius_exp - least)
    lower, upper = man - radius, man + radius
    if lower < 0 <= upper:
        return None
    ends = nearest(lower, least, dtype), nearest(upper, least, dtype)
    return ends[0] if ends[0] == ends[1] else None


def correctly_rounded(problem: Case, *, precision: int = 128) -> tuple[dict[str, Array], Truth]:
    """Every array of a case rounded once from its certified truth, and that truth.

    Parameters
    ----------
    problem : Case
    precision : int
        Working precision in bits to begin with; it doubles until every entry is proved.

    Returns
    -------
    arrays : dict of str to array
        In the order of the files.
    truth : Truth
        At the precision that was enough.

    Raises
    ------
    OracleError
        If an entry cannot be proved, or the gradients contradict the tangent identity.
    """
    while True:
        truth = enclose(problem, radius=math.inf, precision=precision, intermediates=True)
        arrays, unproved = {}, ""
        for name, enclosure in truth.arrays.items():
            values = [rounded(ball, problem.dtype) for ball in enclosure.balls.flat]
            if None in values:
                unproved = f"{name}, entry {values.index(None)}: {enclosure.balls.flat[values.index(None)]}"
                break
            arrays[name] = np.array(values, problem.dtype).reshape(enclosure.balls.shape)
        if not unproved:
            break
        if precision >= LARGEST_PRECISION:
            raise OracleError(f"{problem.name}: {unproved} has no proved rounding at {precision} bits")
        precision *= 2
    forwards, backwards = tangent_identity(problem, truth)
    if not forwards.overlaps(backwards):
        raise OracleError(f"{problem.name}: the enclosed gradients contradict the product rule")
    arrays["h"][0] = problem.h0  # with the signs of its zeros
    order = ["h", *[name for name in ("a", "s", "a_z", "z") if name in arrays], *problem.parameters._fields]
    return {name: arrays[name] for name in [*order, "x", "h0", "step_size", "diffusion"]}, truth


def noise_floor(problem: Case, expected: dict[str, Array], truth: Truth) -> dict[str, Noise]:
    """Reference and tolerance of every expected array, as ``checks.measure`` has them, rounded up; none for zeros."""
    runs = []
    for seed in range(PERTURBED_RUNS):
        arrays = perturbed_run(problem, seed, intermediates=True)
        runs.append({name: relative_error(arrays[name], enclosure) for name, enclosure in truth.arrays.items()})
    allowed = tolerances(problem, truth, runs)
    floors = {}
    for name, array in expected.items():
        tolerance, reference = allowed[name] if array.any() else (0.0, 0.0)
        floors[name] = Noise(_rounded_up(reference), _rounded_up(tolerance))
    return floors


def _rounded_up(value: float) -> float:
    mantissa, exponent = math.frexp(value)
    return math.ldexp(math.ceil(math.ldexp(mantissa, NOISE_BITS)), exponent - NOISE_BITS)


def vector(plan: Plan, seed: int, cell: str, dtype: str, file: str) -> Vector:
    """The vector of a plan."""
    problem = case(plan, seed, cell, dtype)
    expected, truth = correctly_rounded(problem)
    noise = noise_floor(problem, expected, truth)
    return Vector(problem.name, plan.comment, plan.flags, file, *problem[1:-1], expected, noise)


def certify(found: Vector) -> list[str]:
    """What is wrong with the values of a vector: every entry is computed and proved again, and its bits compared."""
    expected, _ = correctly_rounded(found.case)
    return [
        f"expected.{name}[{', '.join(map(str, place))}]: expected {float(array[place]).hex()}, "
        f"got {float(found.expected[name][place]).hex()}"
        for name, array in expected.items()
        for place in np.ndindex(array.shape)
        if float(array[place]).hex() != float(found.expected[name][place]).hex()
    ]


def files() -> dict[str, Callable[[], bytes]]:
    """The files of a set by name, each with what makes its bytes; the manifest is made of them."""
    made: dict[str, Callable[[], bytes]] = {SCHEMA: SCHEMA_FILE.read_bytes}
    for cell in CELLS:
        for dtype in DTYPES:
            made[f"{cell}-{dtype}.json"] = functools.partial(_json, cell, dtype)
    for cell, dtype in LONG_FILES:
        made[f"{cell}-{dtype}-long.npz"] = functools.partial(_npz, cell, dtype)
    return made


def vectors_of(cell: str, dtype: str) -> Iterator[Vector]:
    """The vectors of a JSON file, one after the other."""
    for seed, plan in enumerate(PLANS):
        yield vector(plan, seed, cell, dtype, f"{cell}-{dtype}.json")


def _json(cell: str, dtype: str) -> bytes:
    return to_json(list(vectors_of(cell, dtype)), NOTES, _description(cell, dtype))


def _npz(cell: str, dtype: str) -> bytes:
    name = f"{cell}-{dtype}-long.npz"
    return to_npz(vector(LONG, len(PLANS), cell, dtype, name), NOTES, _description(cell, dtype))


def _description(cell: str, dtype: str) -> str:
    equation = {"antisymmetric": "(12)", "gated": "(13)"}[cell]
    return (
        f"States and gradients of equation {equation} of the AntisymmetricRNN in {dtype}, golden vectors {VERSION}: "
        "exact values, certified in ball arithmetic, rounded once to nearest, ties to even."
    )
