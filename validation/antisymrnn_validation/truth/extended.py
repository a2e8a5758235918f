"""Truth at sizes that are too large for balls: the recurrence and its reverse sweep in a wider dtype.

For float32 the wider dtype is float64, and for float64 NumPy's longdouble where it has at least eleven bits more, as on
x86 under Linux. The recurrence is written here a third time, in rows as the specification has it and with an axis of
runs: run 0 is the truth, and in the others each stored value is moved at random as
:func:`~antisymrnn_validation.truth.oracles.perturbed_run` does, so that magnitudes, conditions and tolerances mean the
same as those of balls.

Nothing certifies the truth's own error, but it is measured. Both a perturbed run and the wider dtype move every stored
value by about a roundoff of the size of its terms, so that what the recurrence makes of them differs by the ratio of
the two roundoffs, 2⁻²⁹ or 2⁻¹¹, times the square root of how many terms are added one after the other, which the
perturbed runs round once. :data:`OWN` times that is the radius of the truth. It counts in every error, those of the
perturbed runs among them, and a tolerance is eight of these: it costs an eighth of the tolerance at most. The tests
compare it with balls, on small cases and on long sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy import exp, tanh  # a target may change those of the module later

from antisymrnn_ref.contract import Array
from antisymrnn_validation.truth import digits
from antisymrnn_validation.truth.cases import Case
from antisymrnn_validation.truth.digits import KnownTruth
from antisymrnn_validation.truth.oracles import OracleError, require_finite

BLOCK = 512
"""Terms that are added one after the other at most; then the sums of blocks are."""

OWN = 4
"""The truth's own error in roundoffs of the wider dtype, as the module says."""


def wider(dtype: np.dtype[Any]) -> type[np.floating[Any]] | None:
    """The dtype in which the truth of cases of a dtype is computed; None where the platform has none."""
    if dtype == np.float32:
        return np.float64
    return np.longdouble if np.finfo(np.longdouble).nmant >= 63 else None


def extended(
    case: Case, wide: type[np.floating[Any]], perturbed_runs: int
) -> tuple[KnownTruth, list[dict[str, float]]]:
    """The truth of a case from a run in a wider dtype, and the errors of perturbed runs.

    Where a truth has no digit left because its terms cancel, its magnitude is what a perturbed run moves it by.

    Raises
    ------
    OracleError
        If a number overflows the wider dtype.
    ValueError
        If an array of the case has a NaN or an infinity.
    """
    require_finite(case)
    with np.errstate(all="ignore"):
        swept = _sweep(case, wide, perturbed_runs)
    if unknown := [name for name, (values, _) in swept.items() if not np.isfinite(values[0]).all()]:
        raise OracleError(f"{case.name}: {unknown[0]} overflows {np.dtype(wide)}")
    roundoffs = float(np.finfo(wide).eps / np.finfo(case.dtype).eps)
    own = OWN * roundoffs * math.sqrt(_longest_sum(case))
    moved = {name: float(_largest(values[1:] - values[0])) for name, (values, _) in swept.items()}
    # a sum that is one number may be moved little by luck
    shared = max((moved[name] / size for name, (_, size) in swept.items() if size), default=0.0)
    truth, perturbed = {}, [dict[str, float]() for _ in range(perturbed_runs)]
    for name, (values, size) in swept.items():
        magnitude = float(_largest(values[0]))
        off = max(moved[name], shared * size) if values.any() else 0.0
        if magnitude <= own * off:
            magnitude = off
        condition = max(1.0, size / magnitude) if magnitude else 1.0
        truth[name] = digits.split(values[0], magnitude, own * off, condition)
        with np.errstate(all="ignore"):
            stored = values[1:].astype(case.dtype)
        for errors, error in zip(perturbed, truth[name].errors(stored), strict=True):
            errors[name] = float(error)
    return KnownTruth(truth, np.finfo(wide).nmant + 1), perturbed


def perturbed_runs(case: Case, wide: type[np.floating[Any]], count: int) -> list[dict[str, Array]]:
    """Runs as :func:`~antisymrnn_validation.truth.oracles.perturbed_run` makes them, all at once."""
    with np.errstate(all="ignore"):
        swept = {name: values.astype(case.dtype) for name, (values, _) in _sweep(case, wide, count).items()}
    return [{name: values[number] for name, values in swept.items()} for number in range(1, count + 1)]


def _longest_sum(case: Case) -> int:
    """How many terms are added one after the other at most."""
    samples, m, n = len(case.x) * len(case.h0), int(case.x.shape[2]), len(case.parameters.b)
    return max(m + n, min(samples, BLOCK) + samples // BLOCK)


def _largest(values: Array) -> Any:
    return np.max(np.abs(values), initial=0.0)


class _Stored(NamedTuple):
    """Moves what a machine would store, in all runs but the first, as it is called."""

    generator: np.random.Generator
    unit_roundoff: Any
    smallest_normal: Any

    def __call__(self, values: Array, size: Array) -> Array:
        """The values, moved in place by at most a roundoff of their size, the sum of the terms' absolute values."""
        moved = values[1:]
        size = np.maximum(size[1:], (moved != 0) * self.smallest_normal)  # below it the spacing shrinks no further
        moved += size * self.generator.uniform(-self.unit_roundoff, self.unit_roundoff, moved.shape)
        return values


def _absolute(values: Array) -> Array:
    """For sizes, which need few digits and BLAS."""
    return np.abs(values).astype(np.float64, copy=False)


def _times(left: Array, right: Array) -> Array:
    """``left`` @ ``right``ᵀ, for stacked rows on the left; NumPy adds what is contiguous twice as fast."""
    rows = left.reshape(-1, left.shape[-1])
    return np.dot(rows, right.T).reshape(*left.shape[:-1], len(right))


def _over_steps(left: Array, right: Array) -> Array:
    """Σ over steps and batch of the outer products of (T, R, B, p) and (T, R or 1, B, q), (R, p, q)."""
    T, R, B, p = left.shape
    columns = np.ascontiguousarray(left.transpose(1, 3, 0, 2)).reshape(R, p, T * B)
    others = np.ascontiguousarray(right.transpose(1, 3, 0, 2)).reshape(right.shape[1], right.shape[3], T * B)
    total = np.zeros((R, p, others.shape[1]), left.dtype)
    for at in range(0, T * B, BLOCK):
        block = slice(at, at + BLOCK)
        for k in range(R):
            total[k] += np.dot(columns[k, :, block], others[min(k, len(others) - 1), :, block].T)
    return total


def _sweep(case: Case, wide: type[np.floating[Any]], perturbed_runs: int) -> dict[str, tuple[Array, float]]:
    """States and gradients, (1 + perturbed runs, …), and the largest size of the terms of those that are sums."""
    T, B, _ = case.x.shape
    n, R = len(case.parameters.b), 1 + perturbed_runs
    limits = np.finfo(case.dtype)
    stored = _Stored(np.random.default_rng(0), limits.eps / 2, wide(limits.smallest_normal))
    step_size, diffusion = (wide(case.dtype.type(value)) for value in (case.step_size, case.diffusion))
    W, *affine = (leaf.astype(wide) for leaf in case.parameters)
    weights, biases = affine[::2], affine[1::2]
    M = (W if case.unconstrained else W - W.T) - diffusion * np.eye(n, dtype=wide)
    transposed = np.ascontiguousarray(M.T)
    M_size, transposed_size = _absolute(M), _absolute(transposed)
    x = case.x.astype(wide)[:, None]  # (T, 1, B, m)
    driven = [_times(x, V) + b for V, b in zip(weights, biases, strict=True)]
    driven_size = [_times(_absolute(x), _absolute(V)) + _absolute(b) for V, b in zip(weights, biases, strict=True)]

    h = np.empty((T + 1, R, B, n), wide)
    s, z = np.empty((2, T, R, B, n), wide)
    h[0] = case.h0
    for t in range(T):
        Mh, Mh_size = _times(h[t], M), _times(_absolute(h[t]), M_size)
        a, *a_z = [stored(Mh + drive[t], Mh_size + size[t]) for drive, size in zip(driven, driven_size, strict=True)]
        tanh(a, out=s[t])
        stored(s[t], np.abs(s[t]))
        z[t] = 1
        if a_z:
            np.divide(1, 1 + exp(-a_z[0]), out=z[t])
            stored(z[t], z[t])
        increment = step_size * z[t] * s[t]
        np.add(h[t], increment, out=h[t + 1])
        stored(h[t + 1], np.abs(h[t]) + np.abs(increment))

    g = np.zeros((T + 1, B, n), wide)
    g[-1 if case.g.ndim == 2 else slice(None)] = case.g
    adjoint = np.empty_like(h)  # of the states; the last has nothing behind it
    adjoint[T] = g[T]
    deltas = [np.empty_like(s) for _ in weights]
    through = deltas[0] if len(deltas) == 1 else np.empty_like(s)
    for t in reversed(range(T)):
        p = step_size * z[t] * adjoint[t + 1]
        ps = p * s[t]
        pss = ps * s[t]
        np.subtract(p, pss, out=deltas[0][t])
        stored(deltas[0][t], np.abs(p) + np.abs(pss))
        if len(deltas) > 1:
            psz = ps * z[t]
            np.subtract(ps, psz, out=deltas[1][t])
            stored(deltas[1][t], np.abs(ps) + np.abs(psz))
            np.add(deltas[0][t], deltas[1][t], out=through[t])
        np.add(adjoint[t + 1] + _times(through[t], transposed), g[t], out=adjoint[t])
        size = np.abs(adjoint[t + 1]) + _times(_absolute(through[t]), transposed_size) + np.abs(g[t])
        stored(adjoint[t], size)

    found: dict[str, tuple[Array, float]] = {}

    def summed(name: str, values: Array, size: Array, then: Callable[[Array], Array] = lambda values: values) -> None:
        """A sum is stored, and ``then`` is done with it; sizes likewise."""
        found[name] = then(stored(values, size)), float(_largest(size[0]))

    before = h[:-1]
    G, G_size = _over_steps(through, before), _over_steps(_absolute(through), _absolute(before))
    if case.unconstrained:
        summed("W", G, G_size)
    else:
        summed("W", G, G_size, lambda G: G - G.transpose(0, 2, 1))
        found["W"] = found["W"][0], float(_largest(G_size[0] + G_size[0].T))
    for k, delta in enumerate(deltas):
        V, b = case.parameters._fields[1 + 2 * k : 3 + 2 * k]
        summed(V, _over_steps(delta, x), _over_steps(_absolute(delta), _absolute(x)))
        summed(b, delta.sum(axis=(0, 2)), _absolute(delta).sum(axis=(0, 2)))
    dx = sum(_times(delta, np.ascontiguousarray(V.T)) for delta, V in zip(deltas, weights, strict=True))
    dx_size = sum(_times(_absolute(delta), _absolute(V.T)) for delta, V in zip(deltas, weights, strict=True))
    summed("x", dx.transpose(1, 0, 2, 3), dx_size.transpose(1, 0, 2, 3))
    slopes, over = z * s * adjoint[1:], (0, 2, 3)
    summed("step_size", slopes.sum(axis=over), np.abs(slopes).sum(axis=over))
    crossed = through * before
    summed("diffusion", -crossed.sum(axis=over), np.abs(crossed).sum(axis=over))
    return {"h": (h.transpose(1, 0, 2, 3), 0.0), **found, "h0": (adjoint[0], 0.0)}
