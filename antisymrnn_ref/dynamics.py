"""The dynamical systems behind the cell: the test equation, the ODE, forward Euler, Figure 1's maps and the energy.

With M any real (n, n) matrix, u = V x + b a fixed input, ε the step size::

    z(t)    = z(0) e^{λt}                               (D1)   solves z' = λ z
    h'(t)   = tanh(M h + u)                             (D2)   equation (8) for M = W − Wᵀ
    h_t     = h_{t−1} + ε f(h_{t−1})                    (D3)   forward Euler, first order in ε
    h_t     = tanh(W h_{t−1})                           (D4)   vanilla recurrence
    h_t     = h_{t−1} + ε tanh(W h_{t−1})               (D5)   recurrence with feedback
    E(h)    = Σ_i log cosh v_i,  v = M h + u            (D6)   energy

For Mᵀ = −M the ODE (D2) conserves E, and forward Euler never lowers it, for any ε > 0. For M = W − Wᵀ − γI with
γ > 0, dE/dt = −γ ‖tanh v‖². ``DERIVATION.md`` proves each line.

The functions take float32, float64 and extended precision, real or complex (so that complex steps pass through);
the arrays of a call share one precision. They write no argument; NaN and infinity propagate without a warning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from antisymrnn_ref.arguments import (
    NUMBER,
    REAL,
    Array,
    check_arrays,
    check_integer,
    check_operands,
    positive,
    type_name,
)


def test_equation(z0: Any, eigenvalue: Any, t: Any) -> Any:
    """Solution of the test equation z' = λ z at time t, by (D1).

    Parameters
    ----------
    z0 : number or array
        z(0), real or complex.
    eigenvalue : number or array
        λ, real or complex; Re λ > 0 explodes, < 0 forgets, = 0 preserves.
    t : number or array
        Time, real. The three shapes broadcast.

    Returns
    -------
    number or array
        z(t), of the broadcast shape. For z(0) not denormal it overflows only where z(t) or λt does.

    Raises
    ------
    TypeError
        For an argument that is no number and no array of floats, or a complex t.
    ValueError
        For shapes that do not broadcast.

    Notes
    -----
    Source: the test equation of the paper's section 2.
    """
    z0, eigenvalue, t = check_operands(z0=(z0, NUMBER), eigenvalue=(eigenvalue, NUMBER), t=(t, REAL))
    with np.errstate(all="ignore"):
        root = np.exp(eigenvalue * t / 2)  # z0 e^{λt/2} lies between z0 and z(t) in size
        return np.where(z0 == 0, 0 * eigenvalue * t, z0 * root * root)[()]  # (D1)


def vector_field(M: Array, h: Array, u: Any) -> Array:
    """Right-hand side tanh(M h + u) of the ODE, by (D2).

    Parameters
    ----------
    M : (n, n) array
        Any recurrent matrix; W − Wᵀ in equation (8).
    h : (..., n) array
        States.
    u : (n,) or (..., n) array, or number
        Fixed input V x + b; broadcasts with h.

    Returns
    -------
    (..., n) array

    Raises
    ------
    TypeError
        For a type or a dtype.
    ValueError
        For a shape.

    Notes
    -----
    Source: equation (8).
    """
    return np.tanh(_pre_activation(M, h, u))  # (D2) (..., n)


def forward_euler(f: Callable[[Array], Array], h0: Array, step_size: float, T: int) -> Array:
    """T steps of forward Euler for h' = f(h), by (D3).

    Parameters
    ----------
    f : callable
        ``f(h)`` takes states (..., n) and returns an array of the same shape and precision.
    h0 : (..., n) array
        Initial states.
    step_size : float
        ε > 0, rounded to the precision of h0.
    T : int
        Number of steps, T ≥ 0.

    Returns
    -------
    (T+1, ..., n) array
        h_0 to h_T, in memory of its own.

    Raises
    ------
    TypeError
        For a type or a dtype, that of ``f(h)`` too.
    ValueError
        For a shape, that of ``f(h)`` too, or a range.

    Notes
    -----
    The global error at a fixed time is O(ε) for Lipschitz f. Source: equations (2) and (3).
    """
    if not callable(f):
        raise TypeError(f"f: expected a callable, got {type_name(type(f))}")
    precision = check_arrays(NUMBER, h0=(h0, "... n"))
    step_size = positive("step_size", step_size, precision)
    check_integer("T", T, 0)
    states = [h0]
    for _ in range(T):
        h = states[-1]
        slope = f(h.copy())
        if check_arrays(NUMBER, **{"f(h)": (slope, "...")}) != precision:
            raise TypeError(f"f(h): expected precision {precision} as h0 has, got {slope.dtype}")
        if slope.shape != h0.shape:
            raise ValueError(f"f(h): expected the shape of h0, {h0.shape}, got {slope.shape}")
        with np.errstate(all="ignore"):
            states.append(h + step_size * slope)  # (D3) (..., n)
    return np.stack(states)


def vanilla(W: Array, h0: Array, T: int) -> Array:
    """States of the vanilla recurrence without input, by (D4).

    Parameters
    ----------
    W : (n, n) array
        Recurrent matrix.
    h0 : (..., n) array
        Initial states.
    T : int
        Number of steps, T ≥ 0.

    Returns
    -------
    (T+1, ..., n) array
        h_0 to h_T, in memory of its own.

    Raises
    ------
    TypeError
        For a type or a dtype.
    ValueError
        For a shape or a range.

    Notes
    -----
    Source: the paper's section 4, Figure 1 (a) to (d).
    """
    check_arrays(NUMBER, W=(W, "n n"), h0=(h0, "... n"))
    check_integer("T", T, 0)
    states = [h0]
    for _ in range(T):
        states.append(vector_field(W, states[-1], 0.0))  # (D4) (..., n)
    return np.stack(states)


def feedback(W: Array, h0: Array, step_size: float, T: int) -> Array:
    """States of the recurrence with feedback without input, by (D5): forward Euler on h' = tanh(W h).

    Parameters
    ----------
    W : (n, n) array
        Recurrent matrix.
    h0 : (..., n) array
        Initial states.
    step_size : float
        ε > 0, rounded to the precision of h0.
    T : int
        Number of steps, T ≥ 0.

    Returns
    -------
    (T+1, ..., n) array
        h_0 to h_T, in memory of its own.

    Raises
    ------
    TypeError
        For a type or a dtype.
    ValueError
        For a shape or a range.

    Notes
    -----
    Source: the example under equation (3), and Figure 1 (e) to (h).
    """
    check_arrays(NUMBER, W=(W, "n n"), h0=(h0, "... n"))
    return forward_euler(lambda h: vector_field(W, h, 0.0), h0, step_size, T)  # (D5) (T+1, ..., n)


def energy(M: Array, h: Array, u: Any = 0.0) -> Any:
    """Energy E of the states, by (D6): what the ODE conserves and forward Euler never lowers if Mᵀ = −M.

    Parameters
    ----------
    M : (n, n) array
        Recurrent matrix.
    h : (..., n) array
        States.
    u : (n,) or (..., n) array, or number
        Fixed input V x + b; broadcasts with h.

    Returns
    -------
    (...) array
        E, a number for h of shape (n,). Given v = M h + u, each log cosh is accurate to a few units in the last
        place unless it underflows, for small v and for huge v; it overflows only where v does.

    Raises
    ------
    TypeError
        For a type or a dtype.
    ValueError
        For a shape.

    Notes
    -----
    Source: derived; the paper has no energy.
    """
    v = _pre_activation(M, h, u)  # (..., n)
    v = np.where(v.real < 0, -v, v)  # cosh is even
    small = v.real < 1
    log_two = np.log(np.ones((), v.real.dtype) * 2)
    with np.errstate(all="ignore"):
        near = np.log1p(2 * np.sinh(np.where(small, v, 0) / 2) ** 2)  # cosh v = 1 + 2 sinh²(v/2)
        far = v + (np.log1p(np.exp(-2 * v)) - log_two)  # cosh v = e^v (1 + e^{−2v}) / 2
        return np.where(small, near, far).sum(axis=-1)  # (D6) (...)


def _pre_activation(M: Array, h: Array, u: Any) -> Array:
    """M h + u, (..., n), after the checks of the three arguments."""
    check_arrays(NUMBER, M=(M, "n n"), h=(h, "... n"), **({"u": (u, "... n")} if type(u) is np.ndarray else {}))
    h, u = check_operands(h=(h, NUMBER), u=(u, NUMBER))
    with np.errstate(all="ignore"):
        return h @ M.T + u
