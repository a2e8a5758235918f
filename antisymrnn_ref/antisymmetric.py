"""Equation (12), the AntisymmetricRNN: forward pass and hand-derived backpropagation through time.

Forward, t = 1 … T::

    M   = W − Wᵀ − γI                                   (F1)   ablation: M = W − γI
    a_t = M h_{t−1} + V x_t + b                         (F2)
    s_t = tanh a_t                                      (F3)
    h_t = h_{t−1} + ε s_t                               (F4)

Backward, t = T … 1, from adjoint_T = g_T::

    δ_t           = ε (1 − s_t²) ∘ adjoint_t            (B1)   dL/da_t
    adjoint_{t−1} = adjoint_t + Mᵀ δ_t + g_{t−1}        (B2)   dL/dh_t in total
    G             = Σ_t δ_t h_{t−1}ᵀ                    (B3)   dL/dM
    dV            = Σ_t δ_t x_tᵀ                        (B4)
    db            = Σ_t δ_t                             (B5)
    dx_t          = Vᵀ δ_t                              (B6)
    dε            = Σ_t ⟨adjoint_t, s_t⟩                (B7)
    dW            = G − Gᵀ                              (B8)   ablation: dW = G
    dγ            = −tr G                               (B9)

and dh_0 = adjoint_0. Sums over t run over the batch too. ``DERIVATION.md`` proves each line.

Below the contract's checks (``inspect.unwrap(forward)``) the arithmetic takes any dtype that NumPy can multiply and
take tanh of: complex and extended precision pass through it for the oracles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from antisymrnn_ref import contract
from antisymrnn_ref.contract import Array, Gradients, Parameters, checked_backward, checked_forward


class Trajectory(NamedTuple):
    """The kept states h, (K, B, n), every how many steps one is kept, and the constants; nothing else is cached."""

    h: Array
    keep_every: int
    step_size: float
    diffusion: float
    unconstrained: bool


@checked_forward(Parameters, np.ndarray)
def forward(
    parameters: Parameters,
    x: Array,
    h0: Array,
    *,
    step_size: float,
    diffusion: float,
    keep_every: int = 1,
    unconstrained: bool = False,
) -> Trajectory:
    """States of equation (12) by (F1) to (F4).

    Parameters
    ----------
    parameters : Parameters
        W (n, n), V (n, m), b (n,); float32 or float64, the one dtype of all arrays of the call.
    x : (T, B, m) array
        Inputs; ``x[t]`` is the paper's x_{t+1}. T = 0 is legal.
    h0 : (B, n) array
        Initial state.
    step_size : float
        ε > 0, in the time unit of the ODE. Rounded to the dtype of the arrays.
    diffusion : float
        γ ≥ 0. Rounded to the dtype of the arrays.
    keep_every : int
        Keep every k-th state and the last. 1 keeps all, T or more keeps h_0 and h_T alone.
    unconstrained : bool
        The ablation of the paper's Table 2: M = W − γI.

    Returns
    -------
    Trajectory
        ``h``, (K, B, n), the states of the steps 0, k, 2k, … and T, in memory of its own. (T+1, B, n) by default.

    Raises
    ------
    TypeError
        For a type or a dtype.
    ValueError
        For a shape or a range.

    Notes
    -----
    No argument is written or kept. NaN and infinity propagate. Deviation from the paper: none for γ > 0; γ = 0 is
    equation (10). Source: equation (12) and the ablation of Table 2.
    """
    M = recurrent_matrix(parameters.W, diffusion, unconstrained)
    h = np.ascontiguousarray(h0)  # as replay meets it: one layout, one order of summation
    T, kept = len(x), [h]
    for t in range(T):
        h, _ = _step(parameters, M, x[t], h, step_size)
        if t + 1 == T or (t + 1) % keep_every == 0:
            kept.append(h)
    return Trajectory(np.stack(kept), keep_every, step_size, diffusion, unconstrained)


@checked_backward(Parameters, np.ndarray, Trajectory)
def backward(
    parameters: Parameters,
    x: Array,
    trajectory: Trajectory,
    g: Array,
    *,
    step_size: float,
    diffusion: float,
    input_gradient: bool = True,
    unconstrained: bool = False,
) -> Gradients:
    """Gradients of the loss with respect to every input by (B1) to (B9).

    Parameters
    ----------
    parameters, x, step_size, diffusion, unconstrained
        As given to :func:`forward`; other constants than the trajectory's are refused.
    trajectory : Trajectory
        As :func:`forward` returned it. States that were not kept are computed again, to the same bits.
    g : (T+1, B, n) or (B, n) array
        Direct cotangents ∂L/∂h_t of every state, or of the last state alone.
    input_gradient : bool
        Whether to compute dL/dx.

    Returns
    -------
    Gradients
        Summed over the batch, in memory of their own. With W antisymmetrised, dW is exactly antisymmetric.

    Raises
    ------
    TypeError
        For a type or a dtype.
    ValueError
        For a shape or a range, or for a trajectory of other sizes than x.

    Notes
    -----
    No argument is written or kept. Source: derived; the paper states no gradients.
    """
    W, V, b = parameters
    T, M = len(x), recurrent_matrix(W, diffusion, unconstrained)
    dtype = np.result_type(M, V, b, x, trajectory.h, g, step_size)
    adjoint = np.zeros(trajectory.h.shape[1:], dtype) + cotangent(g, T, T)
    G, dV, db = (np.zeros(array.shape, dtype) for array in (M, V, b))
    dx = np.zeros(x.shape if input_gradient else 0, dtype)
    dstep_size = np.zeros((), dtype)
    for t, h, s in replay(lambda t, h: _step(parameters, M, x[t], h, step_size), trajectory, T):
        delta = step_size * (1 - s**2) * adjoint  # (B1) (B, n)
        G = G + delta.T @ h  # (B3) (n, n)
        dV = dV + delta.T @ x[t]  # (B4) (n, m)
        db = db + delta.sum(axis=0)  # (B5) (n,)
        if input_gradient:
            dx[t] = delta @ V  # (B6) (B, m)
        dstep_size = dstep_size + (adjoint * s).sum()  # (B7) ()
        adjoint = adjoint + delta @ M + cotangent(g, t, T)  # (B2) (B, n)
    dW, ddiffusion = matrix_gradients(G, unconstrained)
    return Gradients(
        Parameters(dW, dV, db), dx if input_gradient else None, adjoint, np.asarray(dstep_size), ddiffusion
    )


def recurrent_matrix(W: Array, diffusion: Any, unconstrained: bool = False) -> Array:
    """M of equations (12) and (13) by (F1).

    Parameters
    ----------
    W : (n, n) array
        Recurrent weights, of any dtype.
    diffusion : number
        γ.
    unconstrained : bool
        The ablation: W itself in the place of W − Wᵀ.

    Returns
    -------
    (n, n) array
        M. Off the diagonal it is antisymmetric to the last bit, on it −γ, unless ``unconstrained``.
    """
    identity = np.eye(len(W), dtype=W.dtype)
    return (W if unconstrained else W - W.T) - diffusion * identity  # (F1) (n, n)


def matrix_gradients(G: Array, unconstrained: bool = False) -> tuple[Array, Array]:
    """Gradients with respect to W and γ from the one with respect to M, by (B8) and (B9).

    Parameters
    ----------
    G : (n, n) array
        dL/dM.
    unconstrained : bool
        The ablation.

    Returns
    -------
    dW : (n, n) array
    ddiffusion : () array
    """
    dW = G.copy() if unconstrained else G - G.T  # (B8) (n, n)
    ddiffusion = np.asarray(-np.trace(G))  # (B9) ()
    return dW, ddiffusion


def cotangent(g: Array, t: int, T: int) -> Any:
    """Direct cotangent g_t, (B, n), from those of every state (T+1, B, n) or of the last alone (B, n); 0 for none."""
    if g.ndim == 3:
        return g[t]
    return g if t == T else 0


def replay(
    step: Callable[[int, Array], tuple[Array, Any]], trajectory: contract.Trajectory, T: int
) -> Iterator[tuple[int, Array, Any]]:
    """Run the steps of a trajectory again and yield them last first, holding one segment at a time.

    Parameters
    ----------
    step : callable
        ``step(t, h)`` takes h = h_t and returns h_{t+1} and what else backward needs of the step.
    trajectory : Trajectory
        Its kept states start the segments.
    T : int
        Number of steps.

    Yields
    ------
    t, h, extra
        For t = T−1 … 0: the state before the step and what ``step`` returned beside the next state.
    """
    k = int(trajectory.keep_every)
    for start in reversed(range(0, T, k)):
        h, segment = trajectory.h[start // k], []
        for t in range(start, min(start + k, T)):
            h_next, extra = step(t, h)
            segment.append((t, h, extra))
            h = h_next
        yield from reversed(segment)


def _step(parameters: Parameters, M: Array, x: Array, h: Array, step_size: Any) -> tuple[Array, Array]:
    """h_t and s_t, both (B, n), from h_{t−1} and x_t (B, m)."""
    a = h @ M.T + x @ parameters.V.T + parameters.b  # (F2) (B, n)
    s = np.tanh(a)  # (F3) (B, n)
    return h + step_size * s, s  # (F4) (B, n)
