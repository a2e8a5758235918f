"""Singular values of a long product of matrices, the smallest as well as the largest.

In J_T … J_1 they soon lie hundreds of decimal places apart, and of the product itself, in floating point, only those
within 1/u of the largest are left. So the product is kept factored, J_t … J_1 = Q R with Q orthogonal, R upper
triangular: J_{t+1} Q is factored anew and the triangles are multiplied, each row i as 2^{e_i} times numbers of
moderate size. At the end one-sided Jacobi rotations make the rows of R orthogonal; their norms are the singular values.
Rotations act on rows scaled to unit length: what they need of the lengths is the ratio alone, which may underflow.

What is accurate: each factorisation is exact for steps changed by c n u relative to their norm. As long as directions
that the first steps separate are not brought together again by later ones, log σ_i is off by at most about
c n u Σ_t κ(J_t), κ the condition, for every i; a step whose κ reaches 1/u costs the smallest. Source: G. W. Stewart,
On graded QR decompositions of products of matrices (1994); J. Demmel and K. Veselić, Jacobi's method is more accurate
than QR (1992).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from antisymrnn_ref.contract import Array

LEEWAY = 2.0
"""Powers of ten by which steps may stretch or shrink a vector before the next factorisation."""


class SingularValues(NamedTuple):
    """At each T log10 of all n singular values, the largest first, and of their provable bounds (S9)."""

    T: list[int]
    sigma: list[list[float]]
    bounds: list[tuple[float, float]]


class Triangle(NamedTuple):
    """An upper triangular matrix, row i is 2^exponents[i] · rows[i], the largest entry of a row from 0.5 to 1."""

    rows: Array
    exponents: Array


def of_product(steps: Iterable[Array], lengths: Sequence[int]) -> SingularValues:
    """Singular values of J_T … J_1 and the bounds Π σ_min(J_t), Π σ_max(J_t), at each T.

    Parameters
    ----------
    steps : iterable of (n, n) arrays
        J_1, J_2, …
    lengths : sequence of int
        T, ascending.

    Returns
    -------
    SingularValues
        −∞ is the logarithm of zero.
    """
    found = SingularValues([], [], [])
    total, since = np.zeros(2), np.zeros(2)  # log10 of Π σ_min, Π σ_max
    for t, J in enumerate(steps, 1):
        if t == 1:
            factor, R = np.eye(len(J)), scaled(np.eye(len(J)), np.zeros(len(J), int))
        factor = J @ factor
        with np.errstate(divide="ignore"):
            extremes = np.log10(np.linalg.svd(J, compute_uv=False)[[-1, 0]])
        total, since = total + extremes, since + extremes
        if np.abs(since).max() > LEEWAY or t in lengths:
            factor, upper = np.linalg.qr(factor)
            R, since = times(upper, R), np.zeros(2)
        if t in lengths:
            found.T.append(t)
            found.sigma.append(of_triangle(R).tolist())
            found.bounds.append((float(total[0]), float(total[1])))
    return found


def scaled(rows: Array, exponents: Array) -> Triangle:
    """The rows brought to entries of at most 1."""
    shift = np.frexp(np.abs(rows).max(axis=1))[1]
    return Triangle(np.ldexp(rows, -shift[:, None]), exponents + shift)


def times(upper: Array, R: Triangle) -> Triangle:
    """``upper`` times R."""
    mantissas, powers = np.frexp(upper)
    powers = np.where(mantissas == 0, np.iinfo(np.int32).min, powers + R.exponents)
    largest = powers.max(axis=1)
    weights = np.ldexp(mantissas, np.maximum(powers - largest[:, None], -2000))
    return scaled(np.triu(weights @ R.rows), largest)


def of_triangle(R: Triangle) -> Array:
    """log10 of the singular values, the largest first, by one-sided Jacobi rotations of the rows."""
    n = len(R.rows)
    rows, logs = R.rows.copy(), R.exponents.astype(float)  # row i is 2^logs[i] · rows[i]
    _normalize(rows, logs, np.arange(n))
    turned = True
    while turned:
        turned = False
        for j, k in pairs(n):
            cosine = np.einsum("in,in->i", rows[j], rows[k])
            active = np.abs(cosine) > n * np.finfo(float).eps
            if not active.any():
                continue
            turned = True
            cosine, j, k = cosine[active, None], j[active], k[active]
            a, b = np.where(logs[j] >= logs[k], (j, k), (k, j))  # a is the longer one
            ratio = np.exp2(2 * (logs[b] - logs[a]))[:, None]  # of the squared lengths, at most 1
            tangent = (
                2 * cosine / (1 - ratio + np.sqrt((1 - ratio) ** 2 + 4 * ratio * cosine**2))
            )  # over the ratio of lengths
            shrink = 1 / np.sqrt(1 + ratio * tangent**2)
            rows[a], rows[b] = (
                shrink * (rows[a] + ratio * tangent * rows[b]),
                shrink * (rows[b] - tangent * rows[a]),
            )
            _normalize(rows, logs, np.concatenate([a, b]))
    return np.sort(logs)[::-1] * np.log10(2)


def pairs(n: int) -> Iterator[tuple[Array, Array]]:
    """Every pair of 0 … n−1 once, in rounds of disjoint pairs."""
    odd = n - 1 + n % 2
    i = np.arange(1, odd // 2 + 1)
    for r in range(odd):
        j, k = (r + i) % odd, (r - i) % odd
        yield (j, k) if n % 2 else (np.append(j, r), np.append(k, odd))


def _normalize(rows: Array, logs: Array, chosen: Array) -> None:
    """Bring rows to unit length, in place; a row of zeros stays."""
    norms = np.linalg.norm(rows[chosen], axis=1)
    with np.errstate(divide="ignore"):
        logs[chosen] += np.log2(norms)
    rows[chosen] /= np.where(norms > 0, norms, 1)[:, None]
