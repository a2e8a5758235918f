"""Equation (13), the gated AntisymmetricRNN: forward pass and hand-derived backpropagation through time.

Forward, t = 1 … T, with the one M of (F1) in ``antisymmetric.py``::

    a_t  = M h_{t−1} + V x_t + b                        (GF1)
    s_t  = tanh a_t                                     (GF2)
    a_z  = M h_{t−1} + V_z x_t + b_z                    (GF3)
    z_t  = σ(a_z) = 1 / (1 + exp(−a_z))                 (GF4)
    h_t  = h_{t−1} + ε z_t ∘ s_t                        (GF5)

Backward, t = T … 1, from adjoint_T = g_T::

    δ_t           = ε z_t ∘ (1 − s_t²) ∘ adjoint_t      (GB1)   dL/da_t
    δ_z           = ε s_t ∘ z_t ∘ (1 − z_t) ∘ adjoint_t (GB2)   dL/da_z
    adjoint_{t−1} = adjoint_t + Mᵀ (δ_t + δ_z) + g_{t−1} (GB3)  dL/dh_t in total
    G             = Σ_t (δ_t + δ_z) h_{t−1}ᵀ            (GB4)   dL/dM
    dV, dV_z      = Σ_t δ_t x_tᵀ, Σ_t δ_z x_tᵀ          (GB5)
    db, db_z      = Σ_t δ_t, Σ_t δ_z                    (GB6)
    dx_t          = Vᵀ δ_t + V_zᵀ δ_z                   (GB7)
    dε            = Σ_t ⟨adjoint_t, z_t ∘ s_t⟩          (GB8)

then dW by (B8), dγ by (B9) and dh_0 = adjoint_0 as in ``antisymmetric.py``. Sums over t run over the batch too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from antisymrnn_ref.antisymmetric import cotangent, matrix_gradients, recurrent_matrix, replay
from antisymrnn_ref.contract import Array, GatedParameters, Gradients, checked_backward, checked_forward


class Trajectory(NamedTuple):
    """The kept states h, (K, B, n), every how many steps one is kept, and the constants; nothing else is cached."""

    h: Array
    keep_every: int
    step_size: float
    diffusion: float
    unconstrained: bool


@checked_forward(GatedParameters, np.ndarray)
def forward(
    parameters: GatedParameters,
    x: Array,
    h0: Array,
    *,
    step_size: float,
    diffusion: float,
    keep_every: int = 1,
    unconstrained: bool = False,
) -> Trajectory:
    """States of equation (13) by (F1) and (GF1) to (GF5).

    Arguments, result and errors are those of :func:`antisymrnn_ref.antisymmetric.forward`, with
    :class:`~antisymrnn_ref.contract.GatedParameters`: W (n, n), V and V_z (n, m), b and b_z (n,).

    Notes
    -----
    Source: equation (13). ``unconstrained=True`` is the row "Ablation" of the paper's Table 2.
    """
    M = recurrent_matrix(parameters.W, diffusion, unconstrained)
    h = np.ascontiguousarray(h0)  # as replay meets it: one layout, one order of summation
    T, kept = len(x), [h]
    for t in range(T):
        h, _ = _step(parameters, M, x[t], h, step_size)
        if t + 1 == T or (t + 1) % keep_every == 0:
            kept.append(h)
    return Trajectory(np.stack(kept), keep_every, step_size, diffusion, unconstrained)


@checked_backward(GatedParameters, np.ndarray, Trajectory)
def backward(
    parameters: GatedParameters,
    x: Array,
    trajectory: Trajectory,
    g: Array,
    *,
    step_size: float,
    diffusion: float,
    input_gradient: bool = True,
    unconstrained: bool = False,
) -> Gradients:
    """Gradients of the loss with respect to every input by (GB1) to (GB8), (B8) and (B9).

    Arguments, result and errors are those of :func:`antisymrnn_ref.antisymmetric.backward`, with
    :class:`~antisymrnn_ref.contract.GatedParameters`.

    Notes
    -----
    Source: derived; the paper states no gradients.
    """
    W, V, b, V_z, b_z = parameters
    T, M = len(x), recurrent_matrix(W, diffusion, unconstrained)
    dtype = np.result_type(M, V, b, V_z, b_z, x, trajectory.h, g, step_size)
    adjoint = np.zeros(trajectory.h.shape[1:], dtype) + cotangent(g, T, T)
    G, dV, db, dV_z, db_z = (np.zeros(array.shape, dtype) for array in (M, V, b, V_z, b_z))
    dx = np.zeros(x.shape if input_gradient else 0, dtype)
    dstep_size = np.zeros((), dtype)
    for t, h, (s, z) in replay(lambda t, h: _step(parameters, M, x[t], h, step_size), trajectory, T):
        delta = step_size * z * (1 - s**2) * adjoint  # (GB1) (B, n)
        delta_z = step_size * s * z * (1 - z) * adjoint  # (GB2) (B, n)
        G = G + (delta + delta_z).T @ h  # (GB4) (n, n)
        dV, dV_z = dV + delta.T @ x[t], dV_z + delta_z.T @ x[t]  # (GB5) (n, m)
        db, db_z = db + delta.sum(axis=0), db_z + delta_z.sum(axis=0)  # (GB6) (n,)
        if input_gradient:
            dx[t] = delta @ V + delta_z @ V_z  # (GB7) (B, m)
        dstep_size = dstep_size + (adjoint * z * s).sum()  # (GB8) ()
        adjoint = adjoint + (delta + delta_z) @ M + cotangent(g, t, T)  # (GB3) (B, n)
    dW, ddiffusion = matrix_gradients(G, unconstrained)
    return Gradients(
        GatedParameters(dW, dV, db, dV_z, db_z),
        dx if input_gradient else None,
        adjoint,
        np.asarray(dstep_size),
        ddiffusion,
    )


def sigmoid(a: Array) -> Array:
    """σ(a) = 1 / (1 + exp(−a)), elementwise; exactly 0 where exp(−a) overflows."""
    return 1 / (1 + np.exp(-a))  # (GF4)


def _step(
    parameters: GatedParameters, M: Array, x: Array, h: Array, step_size: Any
) -> tuple[Array, tuple[Array, Array]]:
    """h_t, and s_t and z_t, all (B, n), from h_{t−1} and x_t (B, m)."""
    _, V, b, V_z, b_z = parameters
    a = h @ M.T + x @ V.T + b  # (GF1) (B, n)
    s = np.tanh(a)  # (GF2) (B, n)
    a_z = h @ M.T + x @ V_z.T + b_z  # (GF3) (B, n)
    z = sigmoid(a_z)  # (GF4) (B, n)
    return h + step_size * z * s, (s, z)  # (GF5) (B, n)
