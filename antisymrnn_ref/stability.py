"""Jacobians of both cells, and what is provable about their eigenvalues and their product along a trajectory.

Of one state, with a and a_z the pre-activations, s = tanh a, z = σ(a_z), d the entries of D::

    D       = 1 − tanh² a = 1 / cosh² a                 (S1)   diagonal of equation (9)
    D       = z ∘ (1 − s²) + z ∘ (1 − z) ∘ s            (S2)   the same for the gated cell; may be negative
    J       = diag(D) M                                 (S3)   of h ↦ tanh(M h + u), or of h ↦ z ∘ tanh(M h + u)
    |1 + ελ|                                            (S4)   amplification of a forward Euler step
    γ       = ε d ω² / (1 + √(1 − (ε d ω)²))            (S5)   smallest γ that makes d (−γ ± iω) Euler-stable
    −γ max d ≤ Re λ(J) ≤ −γ min d                       (S6)   Bendixson, for D ≥ 0 and M = W − Wᵀ − γI

Along a trajectory, t = 1 … T::

    J_t     = I + ε diag(D_t) M                         (S7)   ∂h_t/∂h_{t−1}
    ∂h_T/∂h_0 = J_T … J_1                               (S8)
    Π_t σ_min(J_t) ≤ σ_i(∂h_T/∂h_0) ≤ Π_t σ_max(J_t)    (S9)   and σ_max(J_t) ≤ 1 + ε max |d| ‖M‖₂
    (1/n) Σ_i log |λ_i(∂h_T/∂h_0)| = (1/n) Σ_t log |det J_t|   (S10)

The critical criterion is the paper's equation (5), Euler stability its equation (11): max_i |1 + ελ_i| ≤ 1, which is
ε ≤ −2 Re λ / |λ|² for every λ ≠ 0. ``DERIVATION.md`` proves each line.

Parameters, inputs and states are float32 or float64, one dtype per call; eigenvalues may be complex, and like ε and γ
are any numbers. No argument is written.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from antisymrnn_ref.antisymmetric import recurrent_matrix
from antisymrnn_ref.arguments import (
    DTYPES,
    NUMBER,
    REAL,
    Array,
    check_arrays,
    check_bool,
    check_operands,
    non_negative,
    positive,
    type_name,
)
from antisymrnn_ref.contract import CellArguments, GatedParameters, Parameters
from antisymrnn_ref.gated import sigmoid


class Interval(NamedTuple):
    """A lower and an upper bound."""

    lower: Any
    upper: Any


def diagonal(a: Array) -> Array:
    """Derivative of tanh at the pre-activations, by (S1).

    Parameters
    ----------
    a : (..., n) array
        Pre-activations M h + V x + b.

    Returns
    -------
    (..., n) array
        D, in [0, 1], positive where a float of the dtype can be: 1 − tanh² would be 0 from |a| ≈ 19 on in float64.

    Raises
    ------
    TypeError
        For a type or a dtype.
    ValueError
        For a shape.

    Notes
    -----
    Source: equation (9).
    """
    check_arrays(DTYPES, a=(a, "... n"))
    with np.errstate(all="ignore"):
        return (1 / np.cosh(a)) ** 2  # (S1) (..., n)


def gated_diagonal(a: Array, a_z: Array) -> Array:
    """Diagonal factor of the gated cell's Jacobian, by (S2).

    Parameters
    ----------
    a, a_z : (..., n) arrays
        Pre-activations of the candidate and of the gate, of one shape.

    Returns
    -------
    (..., n) array
        D. An entry is negative iff 1 − s² + (1 − z) s < 0, so the gated Jacobian may have real eigenvalues.

    Raises
    ------
    TypeError
        For a type or a dtype.
    ValueError
        For a shape.

    Notes
    -----
    Source: derived from equation (13).
    """
    check_arrays(DTYPES, a=(a, "... n"), a_z=(a_z, "... n"))
    if a_z.shape != a.shape:
        raise ValueError(f"a_z: expected the shape of a, {a.shape}, got {a_z.shape}")
    with np.errstate(all="ignore"):
        z, complement = sigmoid(a_z), sigmoid(-a_z)  # 1 − z without cancellation
        return z * diagonal(a) + z * complement * np.tanh(a)  # (S2) (..., n)


def jacobian(D: Array, M: Array) -> Array:
    """Jacobian of the vector field, by (S3).

    Parameters
    ----------
    D : (..., n) array
        From :func:`diagonal` or :func:`gated_diagonal`.
    M : (n, n) array
        Recurrent matrix.

    Returns
    -------
    (..., n, n) array

    Raises
    ------
    TypeError
        For a type or a dtype.
    ValueError
        For a shape.

    Notes
    -----
    Source: equation (9), and the same for equation (13).
    """
    check_arrays(DTYPES, D=(D, "... n"), M=(M, "n n"))
    with np.errstate(all="ignore"):
        return D[..., None] * M  # (S3) (..., n, n)


def eigenvalues(J: Array) -> Array:
    """Eigenvalues of Jacobians of any scale.

    Parameters
    ----------
    J : (..., n, n) array
        Real matrices, finite.

    Returns
    -------
    (..., n) array
        Complex, of the precision of J, in no particular order.

    Raises
    ------
    TypeError
        For a type or a dtype.
    ValueError
        For a shape, or an entry that is not finite.

    Notes
    -----
    Each matrix is first divided by the power of two just below its largest entry. That is exact but for entries some
    1e308 times smaller, and without it LAPACK's QR iteration may not converge when entries reach 1e150 and others
    1e-150. Source: the λ_i(J) of equations (4), (5) and (11).
    """
    check_arrays(DTYPES, J=(J, "... n n"))
    _check_finite("J", J)
    exponent = np.frexp(np.abs(J).max(axis=(-2, -1)))[1]
    scale = np.ldexp(np.ones((), J.dtype), exponent - 1)  # (...)
    with np.errstate(all="ignore"):
        scaled = np.linalg.eigvals(J / scale[..., None, None])
        return scaled.astype(np.result_type(J.dtype, np.complex64)) * scale[..., None]


def meets_critical_criterion(J: Array, tolerance: float) -> Any:
    """Whether every eigenvalue's real part is at most ``tolerance`` in size: equation (5).

    Parameters
    ----------
    J : (..., n, n) array
        Jacobians, finite.
    tolerance : float
        What ≈ 0 means, ≥ 0. Computed eigenvalues of an antisymmetric M have |Re λ| of the order of n u ‖M‖₂ at most, u
        the unit roundoff; LAPACK proves no factor (a search for bad cases reaches 1.27 n u ‖M‖₂, at n = 3).

    Returns
    -------
    (...) array of bool
        A single bool for J of shape (n, n).

    Raises
    ------
    TypeError
        For a type or a dtype.
    ValueError
        For a shape, a range, or an entry that is not finite.

    Notes
    -----
    Source: equation (5).
    """
    precision = check_arrays(DTYPES, J=(J, "... n n"))
    tolerance = non_negative("tolerance", tolerance, precision)
    return np.abs(eigenvalues(J).real).max(axis=-1) <= tolerance


def amplification(eigenvalues: Any, step_size: float) -> Any:
    """Factor by which a forward Euler step stretches each eigenvector, by (S4).

    Parameters
    ----------
    eigenvalues : number or array
        λ, real or complex.
    step_size : float
        ε > 0.

    Returns
    -------
    number or array
        |1 + ελ|, real.

    Raises
    ------
    TypeError
        For a type or a dtype.
    ValueError
        For a range.

    Notes
    -----
    Source: equation (11).
    """
    eigenvalues, step_size = _eigenvalues_and_step_size(eigenvalues, step_size)
    with np.errstate(all="ignore"):
        return np.abs(1 + step_size * eigenvalues)  # (S4)


def is_euler_stable(eigenvalues: Any, step_size: float) -> bool:
    """Whether forward Euler is stable at all these eigenvalues: max |1 + ελ| ≤ 1, equation (11).

    Parameters
    ----------
    eigenvalues : number or array
        λ, real or complex.
    step_size : float
        ε > 0.

    Returns
    -------
    bool
        False if an eigenvalue is NaN, True if there is none.

    Raises
    ------
    TypeError
        For a type or a dtype.
    ValueError
        For a range.

    Notes
    -----
    Decided by the equivalent ε ≤ −2 Re λ / |λ|², which sees that an imaginary λ is unstable however small it is,
    where |1 + ελ| rounds to 1. Source: equation (11).
    """
    eigenvalues, step_size = _eigenvalues_and_step_size(eigenvalues, step_size)
    size = np.abs(eigenvalues)
    with np.errstate(all="ignore"):
        return bool(np.all((size == 0) | (step_size <= -2 * (np.real(eigenvalues) / size) / size)))


def critical_diffusion(omega: Any, step_size: float, d: Any = 1.0) -> Any:
    """Find the smallest diffusion that makes forward Euler stable at the eigenvalues d (−γ ± iω), by (S5).

    Parameters
    ----------
    omega : number or array
        ω, real.
    step_size : float
        ε > 0.
    d : number or array
        Entry of D, ≥ 0; broadcasts with ω.

    Returns
    -------
    number or array
        γ ≥ 0. Stable iff d ≤ 2γ / (ε (γ² + ω²)), which holds from this γ up to 2 / (ε d) − γ.

    Raises
    ------
    TypeError
        For a type or a dtype.
    ValueError
        For a range, or if no γ makes the step stable: ε d |ω| > 1.

    Notes
    -----
    Source: derived from equation (11).
    """
    omega, d = check_operands(omega=(omega, REAL), d=(d, REAL))
    step_size = positive("step_size", step_size, omega.dtype)
    if not np.all(np.isfinite(d) & (d >= 0)):
        raise ValueError(f"d: expected finite numbers >= 0, got {d}")
    with np.errstate(all="ignore"):
        ratio = step_size * d * np.abs(omega)
        if not np.all(ratio <= 1):
            raise ValueError(f"omega: expected step_size * d * |omega| <= 1, else no diffusion is enough, got {ratio}")
        return ratio * np.abs(omega) / (1 + np.sqrt((1 - ratio) * (1 + ratio)))  # (S5)


def real_part_interval(D: Array, diffusion: float) -> Interval:
    """Bound the real parts of the eigenvalues of diag(D) (W − Wᵀ − γI) for D ≥ 0, by (S6).

    Parameters
    ----------
    D : (..., n) array
        From :func:`diagonal`, ≥ 0. The gated cell's D may be negative; then no such bound holds.
    diffusion : float
        γ ≥ 0.

    Returns
    -------
    Interval
        lower, upper, (...) each.

    Raises
    ------
    TypeError
        For a type or a dtype.
    ValueError
        For a shape, a range, or an entry of D that is negative or not finite.

    Notes
    -----
    Source: derived; equation (9) is the case γ = 0.
    """
    precision = check_arrays(DTYPES, D=(D, "... n"))
    diffusion = non_negative("diffusion", diffusion, precision)
    _check_finite("D", D)
    if D.size and D.min() < 0:
        raise ValueError(f"D: expected entries >= 0, got {D.min()}")
    with np.errstate(all="ignore"):
        return Interval(-diffusion * D.max(axis=-1), -diffusion * D.min(axis=-1))  # (S6) (...)


def step_jacobians(
    parameters: Parameters | GatedParameters,
    x: Array,
    h: Array,
    *,
    step_size: float,
    diffusion: float,
    unconstrained: bool = False,
) -> Array:
    """Jacobian ∂h_t/∂h_{t−1} of every step of a trajectory, by (S7).

    Parameters
    ----------
    parameters : Parameters or GatedParameters
        Their type says which cell.
    x : (T, B, m) array
        Inputs.
    h : (T+1, B, n) array
        The trajectory's states, every one: ``forward(...).h`` with ``keep_every=1``. The last is not used.
    step_size : float
        ε > 0.
    diffusion : float
        γ ≥ 0.
    unconstrained : bool
        The ablation: M = W − γI.

    Returns
    -------
    (T, B, n, n) array
        ``[t]`` is ∂h_{t+1}/∂h_t.

    Raises
    ------
    TypeError
        For a type or a dtype.
    ValueError
        For a shape or a range.

    Notes
    -----
    Source: equations (12) and (13); the derivative is derived.
    """
    if type(parameters) not in (Parameters, GatedParameters):
        raise TypeError(f"parameters: expected Parameters or GatedParameters, got {type_name(type(parameters))}")
    arrays = CellArguments(np.ndarray)
    arrays.check_parameters(parameters, type(parameters))
    arrays.check("x", x, "T", "B", "m")
    arrays.sizes["T+1"] = len(x) + 1
    arrays.check("h", h, "T+1", "B", "n")
    scalars = arrays.scalars(step_size, diffusion)
    check_bool("unconstrained", unconstrained)
    with np.errstate(all="ignore"):
        M = recurrent_matrix(parameters.W, scalars["diffusion"], unconstrained)
        recurrent = h[:-1] @ M.T  # (T, B, n)
        a = recurrent + x @ parameters.V.T + parameters.b  # (F2) (GF1) (T, B, n)
        if isinstance(parameters, GatedParameters):
            a_z = recurrent + x @ parameters.V_z.T + parameters.b_z  # (GF3) (T, B, n)
            D = gated_diagonal(a, a_z)
        else:
            D = diagonal(a)
        return np.eye(len(M), dtype=M.dtype) + scalars["step_size"] * jacobian(D, M)  # (S7) (T, B, n, n)


def end_to_end_jacobian(steps: Array) -> Array:
    """Jacobian ∂h_T/∂h_0 of the whole trajectory, by (S8).

    Parameters
    ----------
    steps : (T, B, n, n) array
        From :func:`step_jacobians`.

    Returns
    -------
    (B, n, n) array
        The product, last step leftmost; the identity for T = 0. May overflow or underflow where (S9) and (S10) in
        their logarithmic form do not.

    Raises
    ------
    TypeError
        For a type or a dtype.
    ValueError
        For a shape.

    Notes
    -----
    Source: the chain rule; the discrete form of A(T) in equations (6) and (7).
    """
    check_arrays(DTYPES, steps=(steps, "T B n n"))
    product = np.zeros(steps.shape[1:], steps.dtype) + np.eye(steps.shape[-1], dtype=steps.dtype)
    with np.errstate(all="ignore"):
        for step in steps:
            product = step @ product  # (S8) (B, n, n)
    return product


def singular_value_bounds(steps: Array) -> Interval:
    """Logarithms of the bounds on the singular values of the end-to-end Jacobian, by (S9).

    Parameters
    ----------
    steps : (T, B, n, n) array
        From :func:`step_jacobians`, finite.

    Returns
    -------
    Interval
        Σ_t log σ_min(J_t) and Σ_t log σ_max(J_t), (B,) each; −∞ where a step is singular.

    Raises
    ------
    TypeError
        For a type or a dtype.
    ValueError
        For a shape, or an entry that is not finite.

    Notes
    -----
    The product is never formed: nothing overflows unless a step itself is near the largest float. A computed σ_min is
    off by up to some n u σ_max, so the lower bound is accurate for steps with σ_max/σ_min far below 1/(n u). Source:
    derived.
    """
    check_arrays(DTYPES, steps=(steps, "T B n n"))
    _check_finite("steps", steps)
    with np.errstate(all="ignore"):
        logs = np.log(np.linalg.svd(steps, compute_uv=False))  # (T, B, n), largest first
    return Interval(logs[..., -1].sum(axis=0), logs[..., 0].sum(axis=0))  # (S9) (B,)


def norm_bound(D: Array, M: Array, step_size: float) -> Any:
    """Bound 1 + ε max |d| ‖M‖₂ on the spectral norm of I + ε diag(D) M, the second part of (S9).

    Parameters
    ----------
    D : (..., n) array
        From :func:`diagonal` or :func:`gated_diagonal`.
    M : (n, n) array
        Recurrent matrix, finite.
    step_size : float
        ε > 0.

    Returns
    -------
    (...) array

    Raises
    ------
    TypeError
        For a type or a dtype.
    ValueError
        For a shape, a range, or an entry of M that is not finite.

    Notes
    -----
    Source: derived.
    """
    precision = check_arrays(DTYPES, D=(D, "... n"), M=(M, "n n"))
    _check_finite("M", M)
    step_size = positive("step_size", step_size, precision)
    with np.errstate(all="ignore"):
        return 1 + step_size * np.abs(D).max(axis=-1) * np.linalg.norm(M, 2)  # (S9) (...)


def log_geometric_mean(steps: Array) -> Array:
    """Logarithm of the geometric mean of |eigenvalues| of the end-to-end Jacobian, by (S10).

    Parameters
    ----------
    steps : (T, B, n, n) array
        From :func:`step_jacobians`, finite.

    Returns
    -------
    (B,) array
        At γ = 0 never negative for the antisymmetric cell, but for rounding; −∞ where a step is singular.

    Raises
    ------
    TypeError
        For a type or a dtype.
    ValueError
        For a shape, or an entry that is not finite.

    Notes
    -----
    The product is never formed: nothing overflows unless a step itself is near the largest float. Source: derived.
    """
    check_arrays(DTYPES, steps=(steps, "T B n n"))
    _check_finite("steps", steps)
    with np.errstate(all="ignore"):
        return np.linalg.slogdet(steps).logabsdet.sum(axis=0) / steps.shape[-1]  # (S10) (B,)


def _eigenvalues_and_step_size(eigenvalues: Any, step_size: Any) -> tuple[Any, float]:
    """Check λ and ε; ε comes back rounded to the precision of λ."""
    (eigenvalues,) = check_operands(eigenvalues=(eigenvalues, NUMBER))
    precision = np.finfo(eigenvalues.dtype).dtype
    return eigenvalues, positive("step_size", step_size, precision)


def _check_finite(name: str, array: Array) -> None:
    finite = np.isfinite(array)
    if not finite.all():
        raise ValueError(f"{name}: expected finite entries, got {array[~finite][0]}")
