"""Backends that are right but compute in other ways than the specification: none may be rejected."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

import antisymrnn_ref
from antisymrnn_ref.contract import GatedParameters, Gradients, Parameters, checked_backward, checked_forward
from antisymrnn_validation.truth.calls import ALL, Candidate

Array = Any


class Way(NamedTuple):
    """How it computes what the specification computes in one way.

    Attributes
    ----------
    tanh, sigmoid : callable
    product : callable
        The matrix product of two arrays.
    total : callable
        The sum of an array over its first axis.
    inside : dtype or None
        Of all arithmetic, where that is not the arrays' own.
    apart : bool
        W h − Wᵀ h − γ h in place of (W − Wᵀ − γI) h.
    fortran : bool
        Whether arrays lie in Fortran order inside.
    block : int
        Steps whose inputs are multiplied by V, and whose gradients are summed, at a time; 0 for all.
    """

    tanh: Callable[[Array], Array] = np.tanh
    sigmoid: Callable[[Array], Array] = lambda a: 1 / (1 + np.exp(-a))
    product: Callable[[Array, Array], Array] = np.matmul
    total: Callable[[Array], Array] = lambda terms: terms.sum(axis=0)
    inside: Any = None
    apart: bool = False
    fortran: bool = False
    block: int = 0


class Trajectory(NamedTuple):
    h: Array
    keep_every: int
    step_size: float
    diffusion: float
    unconstrained: bool


def backend(way: Way) -> Candidate:
    """A backend of both cells that computes in a way; as it leans on BLAS, it promises no bits."""
    module = Candidate("honest_backend")
    module.features = ALL - {"contract"}
    module.asarray, module.to_numpy = antisymrnn_ref.asarray, antisymrnn_ref.to_numpy
    for cell, kind in (("antisymmetric", Parameters), ("gated", GatedParameters)):
        setattr(module, cell, _cell(way, kind))
    return module


def _cell(way: Way, kind: type) -> SimpleNamespace:
    def inside(array: Array) -> Array:
        wide = array.astype(way.inside or array.dtype)
        return np.asfortranarray(wide) if way.fortran else np.ascontiguousarray(wide)

    def recur(parameters: Any, h: Array, diffusion: Any, unconstrained: bool, transposed: bool = False) -> Array:
        """M h, or Mᵀ h, for rows h."""
        W = inside(parameters.W)
        W = W.T if transposed else W
        gamma = W.dtype.type(diffusion)
        if way.apart:
            apart = way.product(h, W.T) - gamma * h
            return apart if unconstrained else apart - way.product(h, W)
        M = (W if unconstrained else W - W.T) - gamma * np.eye(len(W), dtype=W.dtype)
        return way.product(h, M.T)

    def steps(parameters: Any, x: Array, h0: Array, constants: Any) -> tuple[Array, Array, Array | None]:
        """h, s and z of every step."""
        step_size, diffusion, unconstrained = constants
        _, *affine = map(inside, parameters)
        x, h0 = inside(x), inside(h0)
        driven = [_blocks(way, x, V) + b for V, b in zip(affine[::2], affine[1::2], strict=True)]
        h, s, z = [h0], [], []
        for t in range(len(x)):
            Mh = recur(parameters, h[-1], diffusion, unconstrained)
            s.append(way.tanh(Mh + driven[0][t]))
            z.append(way.sigmoid(Mh + driven[1][t]) if kind is GatedParameters else np.ones_like(s[-1]))
            h.append(h[-1] + h0.dtype.type(step_size) * z[-1] * s[-1])
        return np.stack(h), np.stack(s or [h0])[: len(x)], np.stack(z or [h0])[: len(x)]

    @checked_forward(kind, np.ndarray)
    def forward(
        parameters: Any, x: Array, h0: Array, *, step_size: float, diffusion: float, keep_every: int = 1,
        unconstrained: bool = False,
    ) -> Trajectory:  # fmt: skip
        constants = step_size, diffusion, unconstrained
        h, _, _ = steps(parameters, x, h0, constants)
        kept = antisymrnn_ref.contract.kept_steps(len(x), keep_every)
        return Trajectory(np.array(h[kept].astype(h0.dtype), order="C"), keep_every, *constants)

    @checked_backward(kind, np.ndarray, Trajectory)
    def backward(
        parameters: Any, x: Array, trajectory: Trajectory, g: Array, *, step_size: float, diffusion: float,
        input_gradient: bool = True, unconstrained: bool = False,
    ) -> Gradients:  # fmt: skip
        h, s, z = steps(parameters, x, trajectory.h[0], (step_size, diffusion, unconstrained))
        epsilon, gated = h.dtype.type(step_size), kind is GatedParameters
        every = np.zeros(h.shape, h.dtype)
        if g.ndim == 3:
            every[...] = g
        else:
            every[-1] = g
        adjoint = every[-1]
        deltas, moved = [np.zeros_like(s), np.zeros_like(s)], np.zeros_like(s)
        for t in reversed(range(len(x))):
            moved[t] = z[t] * s[t] * adjoint
            deltas[0][t] = epsilon * z[t] * (1 - s[t] ** 2) * adjoint
            deltas[1][t] = epsilon * s[t] * z[t] * (1 - z[t]) * adjoint if gated else 0
            through = deltas[0][t] + deltas[1][t]
            adjoint = adjoint + recur(parameters, through, diffusion, unconstrained, transposed=True) + every[t]
        through = deltas[0] + deltas[1]
        wide_x, n, m = inside(x), h.shape[2], x.shape[2]
        G = _over_steps(way, through, h[:-1])
        leaves = [G if unconstrained else G - G.T]
        for delta in deltas[: 1 + gated]:
            leaves += [_over_steps(way, delta, wide_x).reshape(n, m), way.total(delta.reshape(-1, n))]
        dtype = x.dtype
        _, V, *gate = map(inside, parameters)
        dx = way.product(deltas[0], V) + (way.product(deltas[1], gate[1]) if gated else 0)
        flat = way.total(moved.reshape(-1, n))
        return Gradients(
            kind(*(leaf.astype(dtype) for leaf in leaves)),
            np.array(dx.astype(dtype), order="C") if input_gradient else None,
            np.array(adjoint.astype(dtype), order="C"),
            np.array(way.total(flat), dtype),
            np.array(-np.trace(G), dtype),
        )

    return SimpleNamespace(forward=forward, backward=backward)


def _blocks(way: Way, x: Array, V: Array) -> Array:
    size = way.block or max(len(x), 1)
    parts = [way.product(x[at : at + size], V.T) for at in range(0, len(x), size)]
    return np.concatenate([np.zeros((0, x.shape[1], len(V)), x.dtype), *parts])


def _over_steps(way: Way, left: Array, right: Array) -> Array:
    """Σ over steps and batch of outer products."""
    T, _, n = left.shape
    size = way.block or max(T, 1)
    parts = [
        way.product(left[at : at + size].reshape(-1, n).T, right[at : at + size].reshape(-1, right.shape[2]))
        for at in range(0, T, size)
    ]
    return way.total(np.stack(parts)) if parts else np.zeros((n, right.shape[2]), left.dtype)


def _kahan(terms: Array) -> Array:
    total, lost = np.zeros(terms.shape[1:], terms.dtype), np.zeros(terms.shape[1:], terms.dtype)
    for term in terms:
        more = term - lost
        moved = total + more
        lost = (moved - total) - more
        total = moved
    return total


def _pairwise(terms: Array) -> Array:
    if len(terms) < 2:
        return terms.sum(axis=0)
    half = len(terms) // 2
    return _pairwise(terms[:half]) + _pairwise(terms[half:])


def _backwards(terms: Array) -> Array:
    total = np.zeros(terms.shape[1:], terms.dtype)
    for term in terms[::-1]:
        total = total + term
    return total


def _by_einsum(left: Array, right: Array) -> Array:
    return np.einsum("...ik,kj->...ij", left, right)


def _product_by(total: Callable[[Array], Array]) -> Callable[[Array, Array], Array]:
    def product(left: Array, right: Array) -> Array:
        terms = np.moveaxis(left, -1, 0)[..., None] * right.reshape(len(right), *[1] * (left.ndim - 1), -1)
        return total(terms)

    return product


def _tanh_by_expm1(a: Array) -> Array:
    e = np.expm1(-2 * np.abs(a))
    return np.copysign(-e / (e + 2), a)


def _sigmoid_by_tanh(a: Array) -> Array:
    return (1 + np.tanh(a / 2)) / 2


def _stable_sigmoid(a: Array) -> Array:
    e = np.exp(-np.abs(a))
    return np.where(a >= 0, 1 / (1 + e), e / (1 + e)).astype(a.dtype)


def _with_bits(way: Way) -> Candidate:
    module = backend(way)
    module.features = ALL
    return module


WAYS = {
    "another arrangement": Way(),
    "Fortran order inside": Way(fortran=True),
    "Kahan sums": Way(total=_kahan),
    "pairwise sums and products": Way(total=_pairwise, product=_product_by(_pairwise)),
    "sums from the end": Way(total=_backwards, product=_product_by(_backwards)),
    "einsum": Way(product=_by_einsum),
    "float64 inside": Way(inside=np.float64),
    "longdouble inside": Way(inside=np.longdouble, product=_by_einsum),
    "blocked time": Way(block=4),
    "tanh by expm1": Way(tanh=_tanh_by_expm1),
    "sigmoid by tanh": Way(sigmoid=_sigmoid_by_tanh),
    "sigmoid by cases": Way(sigmoid=_stable_sigmoid),
    "W h − Wᵀ h − γ h": Way(apart=True),
}
WITH_BITS = ("pairwise sums and products", "sums from the end", "longdouble inside")
"""Those that owe nothing to BLAS: they keep every promise of a backend."""

HONEST: dict[str, Callable[[], ModuleType]] = {
    **{name: functools.partial(backend, way) for name, way in WAYS.items() if name not in WITH_BITS},
    **{f"{name}, with bits": functools.partial(_with_bits, WAYS[name]) for name in WITH_BITS},
}
