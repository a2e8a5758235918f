"""Truth that owes nothing to the code it judges.

Three oracles, strongest first:

- :func:`enclose`: certified enclosures of every state and every gradient in ball arithmetic (python-flint). The
  recurrences are written here a second time, in columns (h is (n, B)) where the specification has rows, and the
  working precision is doubled until every radius is below what was asked.
- :func:`complex_step`: the derivative of a function from one evaluation at a complex point, exact to rounding.
- :func:`inner_products`: ⟨u, J v⟩ = ⟨Jᵀ u, v⟩, of the states J with respect to every input.

A reverse sweep could be wrong in the same way twice. :func:`tangent_identity` therefore differentiates the forward
recurrence once more, forwards, by the product rule alone, and compares the two in balls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from flint import arb, arb_mat, ctx

from antisymrnn_ref.contract import Array, Gradients
from antisymrnn_validation.truth.cases import Case

COMPLEX_STEP = 1e-100
"""Imaginary step; its square, 1e-200, is far below every rounding error."""

PERTURBED_RUNS = 3
"""How many perturbed runs measure what rounding costs; their seeds are 0, 1, …"""


class OracleError(ArithmeticError):
    """The asked radius was not reached at the largest working precision."""


class Enclosure(NamedTuple):
    """Certified truth of one array.

    Attributes
    ----------
    balls : array of arb
        In the shape of the array.
    magnitude : float
        Largest |entry|.
    radius : float
        Largest radius of a ball, relative to ``magnitude``.
    condition : float
        Where entries are sums over steps, batch or units: the largest sum of the terms' absolute values, relative to
        ``magnitude``; 1 elsewhere. Code whose every term is right to one ulp is right to about as many ulp.
        In floating point: it sets tolerances, it certifies nothing.
    """

    balls: Array
    magnitude: float
    radius: float
    condition: float = 1.0


class Truth(NamedTuple):
    """Certified truth of a case.

    Attributes
    ----------
    arrays : dict of str to Enclosure
        ``h``, (T+1, B, n), then the gradients: the parameters by their names, ``x``, ``h0``, ``step_size``,
        ``diffusion``. If asked for, what lies between the states too, (T, B, n): ``a`` and ``s``, and of the gated
        cell ``a_z`` and ``z``.
    precision : int
        Working precision in bits that was enough.
    """

    arrays: dict[str, Enclosure]
    precision: int


def named_arrays(h: Array, gradients: Gradients) -> dict[str, Array]:
    """States and gradients under the names that :class:`Truth` has, but for those that are None."""
    _, *others = gradients._fields
    found = {"h": h, **gradients.parameters._asdict(), **{name: getattr(gradients, name) for name in others}}
    return {name: array for name, array in found.items() if array is not None}


def enclose(
    case: Case,
    *,
    radius: float = 1e-25,
    precision: int = 128,
    largest_precision: int = 16384,
    intermediates: bool = False,
) -> Truth:
    """Enclose every state and every gradient of a case in balls.

    Parameters
    ----------
    case : Case
    radius : float
        Relative radius to reach, array by array, in the largest norm.
    precision, largest_precision : int
        Working precision in bits to begin with and to give up at. It doubles in between.
    intermediates : bool
        Whether to enclose pre-activations, tanh and gate too.

    Returns
    -------
    Truth

    Raises
    ------
    OracleError
        If ``largest_precision`` is not enough.
    ValueError
        If an array of the case has a NaN or an infinity, about which balls say nothing.
    """
    require_finite(case)
    while True:
        with ctx.workprec(precision):
            balls, terms = _sweep(case, intermediates=intermediates)
        arrays = {name: _enclosure(array, terms.get(name, 0.0)) for name, array in balls.items()}
        reached = max(enclosure.radius for enclosure in arrays.values())
        if reached <= radius:
            return Truth(arrays, precision)
        if precision >= largest_precision:
            raise OracleError(f"{case.name}: radius {reached:.1e} at {precision} bits, asked {radius:.1e}")
        precision *= 2


def require_finite(case: Case) -> None:
    """Raise ValueError if an array of the case has a NaN or an infinity, of which no oracle knows the truth."""
    for name, array in {**case.parameters._asdict(), "x": case.x, "h0": case.h0, "g": case.g}.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")


def perturbed_run(case: Case, seed: int, *, intermediates: bool = False) -> dict[str, Array]:
    """States and gradients of a machine that rounds once wherever code of that dtype must round.

    Every operation is exact, but each a_t, s_t, z_t, h_t, δ_t, adjoint_t and result is moved at random by at most the
    dtype's unit roundoff times the sum of the absolute values of the terms it is the sum of, or half the smallest
    denormal number if that is more. Correct code cannot be expected to do much better, so the error of this run is a
    unit in which the error of other code is measured. ``intermediates`` as for :func:`enclose`.
    """
    with ctx.workprec(128):
        arrays, _ = _sweep(case, _Perturbation(case.dtype, seed), intermediates=intermediates)
    return {name: np.vectorize(float, otypes=[case.dtype])(balls) for name, balls in arrays.items()}


def relative_error(array: Array, truth: Enclosure) -> float:
    """Largest error of an array, an upper bound by ball arithmetic, relative to its largest true entry.

    Returns
    -------
    float
        0 where both are zero throughout; NaN where an entry is NaN; infinity where one is infinite, where the truth
        is zero throughout and the array is not, and where the shapes differ.
    """
    if array.shape != truth.balls.shape:
        return math.inf
    if not np.isfinite(array).all():
        return math.nan if np.isnan(array).any() else math.inf
    pairs = zip(array.ravel().tolist(), truth.balls.ravel(), strict=True)
    largest = max((float((arb(value) - ball).abs_upper()) for value, ball in pairs), default=0.0)
    if largest == 0.0:
        return 0.0
    return largest / truth.magnitude if truth.magnitude else math.inf


def tangent_identity(case: Case, truth: Truth, seed: int = 0) -> tuple[arb, arb]:
    """Σ ⟨g_t, dh_t⟩ along a random direction of every input at once, twice: forwards, and from the gradients.

    Parameters
    ----------
    case : Case
    truth : Truth
        Of the case.
    seed : int
        Of the direction.

    Returns
    -------
    forwards : arb
        By differentiating the recurrence step after step; no transposed matrix and no reverse sweep in it.
    backwards : arb
        ⟨gradients, direction⟩ of the enclosed gradients. The two balls overlap if the gradients are right.
    """
    generator = np.random.default_rng(seed)

    def direction(array: Array) -> Array:
        return generator.integers(-8, 9, np.shape(array)).astype(np.float64)

    along = {name: direction(leaf) for name, leaf in case.parameters._asdict().items()}
    along |= {"x": direction(case.x), "h0": direction(case.h0)}
    along |= {"step_size": direction(0.0), "diffusion": direction(0.0)}
    with ctx.workprec(truth.precision):
        backwards = arb(0)
        for name, array in along.items():
            balls = truth.arrays[name].balls.ravel()
            backwards += sum((value * ball for value, ball in zip(array.ravel(), balls, strict=True)), arb(0))
        return _tangent(case, along), backwards


def complex_step(function: Callable[..., Any], inputs: Sequence[Any], direction: Sequence[Any]) -> Any:
    """Directional derivative Im f(inputs + i τ direction) / τ of a real-analytic function, with no cancellation.

    Parameters
    ----------
    function : callable
        Takes the inputs as separate arguments, complex, and returns an array or a number.
    inputs, direction : sequences of float64 arrays or numbers
        Of the same shapes.

    Returns
    -------
    array or number
        What ``function`` returns, differentiated.
    """
    moved = [np.asarray(a) + 1j * COMPLEX_STEP * np.asarray(v) for a, v in zip(inputs, direction, strict=True)]
    return np.imag(function(*moved)) / COMPLEX_STEP


def inner_products(
    states: Callable[..., Array],
    pullback: Callable[[Array], Sequence[Array]],
    inputs: Sequence[Array],
    seed: int = 0,
) -> tuple[float, float, float]:
    """⟨u, J v⟩ and ⟨Jᵀ u, v⟩ for random u and v; J is the Jacobian of the states with respect to the inputs.

    Parameters
    ----------
    states : callable
        The inputs, complex, to the states (T+1, B, n): J v comes by :func:`complex_step`.
    pullback : callable
        Cotangents u, (T+1, B, n), to the gradients Jᵀu, one for each input.
    inputs : sequence of float64 arrays
    seed : int
        Of u and v.

    Returns
    -------
    left, right, scale : float
        ⟨u, J v⟩, ⟨Jᵀ u, v⟩, and Σ |u_i (J v)_i| + Σ |(Jᵀu)_i v_i|, to which a rounding error is relative.
    """
    generator = np.random.default_rng(seed)
    direction = [generator.standard_normal(np.shape(a)) for a in inputs]
    pushed = complex_step(states, inputs, direction)
    u = generator.standard_normal(pushed.shape)
    pulled = pullback(u)
    right = [np.asarray(a) * v for a, v in zip(pulled, direction, strict=True)]
    scale = float(np.abs(u * pushed).sum() + sum(np.abs(a).sum() for a in right))
    return float((u * pushed).sum()), float(sum(a.sum() for a in right)), scale


Terms = Sequence[arb_mat | tuple[arb_mat, arb_mat]]
"""What a matrix is the sum of: matrices, and products of two."""


def _exactly(matrix: arb_mat, terms: Terms) -> arb_mat:  # noqa: ARG001
    return matrix


class _Perturbation:
    """Moves a matrix at random by at most the unit roundoff times the size of its terms, or as underflow does."""

    def __init__(self, dtype: np.dtype[Any], seed: int) -> None:
        self.unit_roundoff = float(np.finfo(dtype).eps) / 2
        self.smallest_normal = float(np.finfo(dtype).smallest_normal)
        self.generator = np.random.default_rng(seed)
        self.seen: dict[int, tuple[arb_mat, Array]] = {}

    def __call__(self, matrix: arb_mat, terms: Terms) -> arb_mat:
        size = _size(terms, self.seen)
        # below the normal numbers the spacing shrinks no further; what is exactly zero stays so
        zero = np.array([entry.is_zero() for entry in matrix.entries()], dtype=bool).reshape(size.shape)
        size = np.maximum(size, np.where(zero, 0.0, self.smallest_normal))
        # midpoints alone: a growing radius would make arb drop digits of the midpoint; the product would underflow as
        # floats
        return matrix.mid() + _matrix(size * self.generator.uniform(-1, 1, size.shape)) * arb(self.unit_roundoff)


class _Problem:
    """A case in balls, in columns: h is (n, B), x is (m, B). ``stored`` is applied to what a machine would store."""

    def __init__(self, case: Case, stored: Callable[[arb_mat, Terms], arb_mat] = _exactly) -> None:
        self.case, self.stored = case, stored
        self.T, self.B, self.m = case.x.shape
        self.n = len(case.parameters.b)
        self.step_size = arb(float(case.dtype.type(case.step_size)))
        diffusion = arb(float(case.dtype.type(case.diffusion)))
        self.M = _recurrent(_matrix(case.parameters.W), diffusion, case.unconstrained)
        # (V, b) of the candidate, and (V_z, b_z) of the gate in the gated cell
        _, *affine = case.parameters
        self.affine = [(_matrix(V), _columns(b, self.B)) for V, b in zip(affine[::2], affine[1::2], strict=True)]
        self.h0 = _matrix(case.h0.T)

    def x(self, t: int) -> arb_mat:
        return _matrix(self.case.x[t].T)

    def g(self, t: int) -> arb_mat:
        g = self.case.g
        if g.ndim == 3:
            return _matrix(g[t].T)
        return _matrix(g.T) if t == self.T else arb_mat(self.n, self.B)

    def step(self, t: int, h: arb_mat) -> tuple[arb_mat, arb_mat, arb_mat, list[arb_mat]]:
        """h_t, s_t, z_t and [a_t, a_z], all (n, B), from h_{t−1}; without a gate z_t is 1 and there is no a_z."""
        M, x, stored = self.M, self.x(t), self.stored
        Mh = M * h
        a, *a_z = [stored(Mh + V * x + b, [(M, h), (V, x), b]) for V, b in self.affine]
        s = _map(arb.tanh, a)
        s = stored(s, [s])
        z = _map(lambda _: arb(1), a)
        if a_z:
            z = _map(lambda a: 1 / (1 + (-a).exp()), a_z[0])
            z = stored(z, [z])
        increment = self.step_size * _product(z, s)
        return stored(h + increment, [h, increment]), s, z, [a, *a_z]


def _sweep(
    case: Case, stored: Callable[[arb_mat, Terms], arb_mat] = _exactly, *, intermediates: bool = False
) -> tuple[dict[str, Array], dict[str, float]]:
    """States and gradients of a case by a forward and a reverse sweep, as arrays of balls.

    The second result is, of every gradient that is a sum, the largest size of its terms.
    """
    problem = _Problem(case, stored)
    T, B, n, m = problem.T, problem.B, problem.n, problem.m
    states, factors, inner = [problem.h0], [], []
    for t in range(T):
        h, s, z, a = problem.step(t, states[-1])
        states.append(h)
        factors.append((s, z))
        inner.append([a[0], s, *a[1:], z])  # without a gate z has no name below

    transposed = problem.M.transpose()
    adjoint = problem.g(T)
    adjoints: list[arb_mat] = []  # last step first, as deltas
    deltas: list[list[arb_mat]] = []  # [δ] or [δ, δ_z], each (n, B)
    for t in reversed(range(T)):
        s, z = factors[t]
        p = problem.step_size * _product(z, adjoint)
        ps = _product(p, s)
        pss, psz = _product(ps, s), _product(ps, z)
        delta = [stored(p - pss, [p, pss])]
        if case.cell == "gated":
            delta.append(stored(ps - psz, [ps, psz]))
        adjoints.append(adjoint)
        deltas.append(delta)
        arriving, through = problem.g(t), _sum(delta)
        total = adjoint + transposed * through + arriving
        adjoint = stored(total, [adjoint, (transposed, through), arriving])

    # steps and batch side by side, (n or m, T B): one product for a whole sum over t
    before = _beside(states[:-1], n)
    inputs = _beside([problem.x(t) for t in range(T)], m)
    through = _beside([_sum(delta) for delta in reversed(deltas)], n)
    by_gate = [_beside([delta[k] for delta in reversed(deltas)], n) for k in range(len(problem.affine))]
    slopes = _beside([_product(s, z) for s, z in factors], n)
    ones = arb_mat(T * B, 1, [1] * (T * B))

    def summed(rows: int, columns: int, *terms: tuple[arb_mat, arb_mat]) -> tuple[arb_mat, Terms]:
        total = sum((left * right for left, right in terms), arb_mat(rows, columns))
        return stored(total, terms), terms

    G, G_terms = summed(n, n, (through, before.transpose()))
    if case.unconstrained:
        leaves = [(G, G_terms)]
    else:
        leaves = [(_antisymmetrised(G), [*G_terms, (before, through.transpose())])]
    for delta_k in by_gate:
        leaves += [summed(n, m, (delta_k, inputs.transpose())), summed(n, 1, (delta_k, ones))]
    sums = dict(zip(case.parameters._fields, leaves, strict=True))
    weights = [V.transpose() for V, _ in problem.affine]
    sums["x"] = summed(m, T * B, *zip(weights, by_gate, strict=True))
    sums["step_size"] = summed(1, 1, (_row(slopes), _row(_beside(adjoints[::-1], n)).transpose()))
    sums["diffusion"] = summed(1, 1, (-_row(through), _row(before).transpose()))

    arrays = {"h": _array(_beside(states, n).transpose(), (T + 1, B, n)), "h0": _array(adjoint.transpose(), (B, n))}
    for name, (matrix, _) in sums.items():
        leaf = getattr(case.parameters, name, np.empty(()))
        arrays[name] = _array(matrix.transpose(), (T, B, m)) if name == "x" else _array(matrix, leaf.shape)
    if intermediates:
        for k, name in enumerate(("a", "s", "a_z", "z") if case.cell == "gated" else ("a", "s")):
            arrays[name] = _array(_beside([matrices[k] for matrices in inner], n).transpose(), (T, B, n))
    return arrays, {name: float(np.max(_size(terms), initial=0.0)) for name, (_, terms) in sums.items()}


def _tangent(case: Case, along: dict[str, Array]) -> arb:
    """Σ ⟨g_t, dh_t⟩: dh_t by the product rule from dh_{t−1} and the direction of every input."""
    problem = _Problem(case)
    step_size, dstep_size = problem.step_size, arb(float(along["step_size"]))
    dM = _recurrent(_matrix(along["W"]), arb(float(along["diffusion"])), case.unconstrained)
    names = [("V", "b"), ("V_z", "b_z")][: len(problem.affine)]
    daffine = [(_matrix(along[V]), _columns(along[b], problem.B)) for V, b in names]
    h, dh = problem.h0, _matrix(along["h0"].T)
    total = _product(problem.g(0), dh)
    for t in range(problem.T):
        x, dx = problem.x(t), _matrix(along["x"][t].T)
        dMh = dM * h + problem.M * dh
        da, *da_z = [dMh + dV * x + V * dx + db for (V, _), (dV, db) in zip(problem.affine, daffine, strict=True)]
        h, s, z, _ = problem.step(t, h)
        dzs = _map(lambda s, z, da: z * (1 - s * s) * da, s, z, da)  # d(z s) by the product rule
        if da_z:
            dzs = dzs + _map(lambda s, z, da: s * z * (1 - z) * da, s, z, da_z[0])
        dh = dh + dstep_size * _product(z, s) + step_size * dzs
        total = total + _product(problem.g(t + 1), dh)
    return sum(total.entries(), arb(0))


def _recurrent(W: arb_mat, diffusion: arb, unconstrained: bool) -> arb_mat:
    """M of W and γ. It is linear in both, so the same line gives dM of dW and dγ."""
    n = W.nrows()
    identity = arb_mat(n, n, [int(i == j) for i in range(n) for j in range(n)])
    return (W if unconstrained else W - W.transpose()) - diffusion * identity


def _antisymmetrised(G: arb_mat) -> arb_mat:
    """G − Gᵀ with a diagonal of exact zeros, where the difference of two balls would have a radius."""
    difference = G - G.transpose()
    for k in range(G.nrows()):
        difference[k, k] = 0
    return difference


def _matrix(array: Array) -> arb_mat:
    """Exact balls of a float matrix (rows, columns), or of a vector as one column."""
    rows, columns = array.shape if array.ndim == 2 else (len(array), 1)
    return arb_mat(rows, columns, [float(entry) for entry in array.ravel()])


def _columns(vector: Array, B: int) -> arb_mat:
    return _matrix(np.repeat(vector[:, None], B, axis=1))


def _map(function: Callable[..., arb], *matrices: arb_mat) -> arb_mat:
    first = matrices[0]
    entries = zip(*(matrix.entries() for matrix in matrices), strict=True)
    return arb_mat(first.nrows(), first.ncols(), [function(*entry) for entry in entries])


def _product(left: arb_mat, right: arb_mat) -> arb_mat:
    """The elementwise product."""
    return _map(lambda p, q: p * q, left, right)


def _sum(matrices: Sequence[arb_mat]) -> arb_mat:
    first, *others = matrices
    return sum(others, first)


def _size(terms: Terms, seen: dict[int, tuple[arb_mat, Array]] | None = None) -> Array:
    """Σ |term|, entry by entry, in floating point; of a product, the product of the absolute values.

    ``seen`` keeps absolute values by the matrix's identity, and the matrix with them: M and V are terms of every step.
    """
    seen = {} if seen is None else seen

    def absolute(matrix: arb_mat) -> Array:
        if id(matrix) not in seen:
            entries = np.array([float(entry) for entry in matrix.entries()], dtype=np.float64)
            seen[id(matrix)] = matrix, np.abs(entries).reshape(matrix.nrows(), matrix.ncols())
        return seen[id(matrix)][1]

    return sum(absolute(term[0]) @ absolute(term[1]) if isinstance(term, tuple) else absolute(term) for term in terms)


def _row(matrix: arb_mat) -> arb_mat:
    """All entries in one row."""
    entries = matrix.entries()
    return arb_mat(1, len(entries), entries)


def _beside(matrices: Sequence[arb_mat], rows: int) -> arb_mat:
    """Matrices of equal height side by side; (rows, 0) if there are none."""
    tables = [matrix.tolist() for matrix in matrices]
    entries = [entry for row in range(rows) for table in tables for entry in table[row]]
    return arb_mat(rows, len(entries) // rows, entries)


def _array(matrix: arb_mat, shape: tuple[int, ...]) -> Array:
    entries = matrix.entries()
    array = np.empty(len(entries), dtype=object)
    array[:] = entries
    return array.reshape(shape)


def _enclosure(balls: Array, terms: float) -> Enclosure:
    if all(ball.is_zero() for ball in balls.flat):
        return Enclosure(balls, 0.0, 0.0)
    magnitude = max(float(ball.abs_lower()) for ball in balls.flat)
    radius = max(float(ball.rad().upper()) for ball in balls.flat)
    if magnitude == 0.0:
        return Enclosure(balls, 0.0, math.inf)
    return Enclosure(balls, magnitude, radius / magnitude, max(1.0, terms / magnitude))
