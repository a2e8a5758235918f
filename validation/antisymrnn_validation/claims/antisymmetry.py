"""Claims about the antisymmetric matrix and its eigenvalues, alone and in the Jacobian of the ODE.

Two tolerances are measured: the factor of ``computed_eigenvalues``, and the eigensolver's error in
``rounding_of_eigenvalues``. The others are bounds on rounding errors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from flint import fmpq, fmpq_mat, fmpq_poly

from antisymrnn_ref import dynamics, stability
from antisymrnn_ref.antisymmetric import recurrent_matrix
from antisymrnn_validation.claims.evidence import (
    UNIT_ROUNDOFF,
    Outcome,
    decide,
    diagonal_matrix,
    fractions,
    largest,
    largest_ratio,
)
from antisymrnn_validation.claims.ode import random_matrix
from antisymrnn_validation.truth.oracles import COMPLEX_STEP


def antisymmetry_is_exact(quick: bool) -> Outcome:
    """The computed W − Wᵀ against minus its transpose, bit by bit, with huge, tiny and subnormal entries."""
    generator, draws = np.random.default_rng(6), 5 if quick else 40
    entries = broken = matrices = 0
    for dtype in (np.float32, np.float64):
        largest = np.finfo(dtype).maxexp - 8
        for _ in range(draws):
            for n in (1, 2, 7, 64):
                scale = np.ldexp(1.0, generator.integers(-largest - 30, largest, (n, n)))
                W = (generator.standard_normal((n, n)) * scale).astype(dtype)
                M = recurrent_matrix(W, dtype(0))
                broken += int((M != -M.T).sum())
                entries, matrices = entries + n * n, matrices + 1
    return Outcome(
        decide(broken == 0),
        f"{broken} of {entries} entries of {matrices} matrices in float32 and float64 differ from minus their mirror.",
        {"matrices": matrices, "entries": entries, "entries that differ": broken},
    )


def degenerate_antisymmetric(generator: np.random.Generator, n: int) -> list[np.ndarray]:
    """Antisymmetric matrices with zero, repeated, or few eigenvalues, and random ones of three scales, (n, n) each."""
    left, right = generator.standard_normal((2, n, 1))
    shift = np.diag(np.ones(n - 1), 1)
    random = [random_matrix(generator, n) * scale for scale in (1e-150, 1.0, 1e150)]
    return [np.zeros((n, n)), left @ right.T - right @ left.T, shift - shift.T, *random]


SEARCHED = np.array(
    [
        [0.0, float.fromhex("-0x1.dcff1d960f167p-3"), float.fromhex("0x1.499d61ba4033ep+8")],
        [float.fromhex("0x1.dcff1d960f167p-3"), 0.0, float.fromhex("-0x1.01fbac2a8b139p+8")],
        [float.fromhex("-0x1.499d61ba4033ep+8"), float.fromhex("0x1.01fbac2a8b139p+8"), 0.0],
    ]
)
"""Found by maximising |Re λ| / (n u ‖M‖₂) with one LAPACK; another may do better or worse on it."""


def is_imaginary(M: fmpq_mat) -> bool:
    """Whether every eigenvalue of a rational matrix is imaginary or zero, decided by exact arithmetic.

    It is if and only if the characteristic polynomial is λ^k q(λ²), q(0) ≠ 0, with every root of q real and negative.
    The isolation of roots in balls is certified: it sets the imaginary part of a real root to 0.
    """
    coefficients = M.charpoly().coeffs()
    while coefficients[0] == 0:
        coefficients = coefficients[1:]
    if any(coefficient != 0 for coefficient in coefficients[1::2]):
        return False
    roots: Any = fmpq_poly(coefficients[::2]).complex_roots()  # with their multiplicities
    return all(root.imag == 0 and root.real < 0 for root, _ in roots)


def antisymmetric_eigenvalues(quick: bool) -> Outcome:
    """Characteristic polynomials of float matrices, taken as the rational matrices that they are."""
    generator, draws, imaginary, count = np.random.default_rng(12), 2 if quick else 10, 0, 0
    for _ in range(draws):
        for n in (1, 2, 3, 4, 5, 8):
            for M in degenerate_antisymmetric(generator, n):
                imaginary += is_imaginary(fractions(M))
                count += 1
    return Outcome(
        decide(imaginary == count),
        f"{imaginary} of {count} matrices, n = 1 to 8, entries from 1e-150 to 1e150, zero, rank two and tridiagonal "
        "ones among them, have the characteristic polynomial λ^k q(λ²), exactly, and all roots of q are real and "
        "negative, certified.",
        {"matrices": count, "with imaginary eigenvalues": imaginary},
    )


def computed_eigenvalues(quick: bool) -> Outcome:
    """Computed real parts against 2 n u ‖M‖₂.

    |Re λ| is at most the backward error of the eigensolver, and LAPACK promises a modest multiple of u ‖M‖₂. That n is
    enough for matrices as they occur, and 2n for the worst ones known, is measured, not proved.
    """
    generator, draws = np.random.default_rng(7), 1 if quick else 10

    def ratio(M: np.ndarray) -> float:
        real = float(np.abs(np.linalg.eigvals(M).real).max())
        bound = float(len(M) * UNIT_ROUNDOFF * np.linalg.norm(M, 2))
        return real / bound if bound else (np.inf if real else 0.0)

    ratios = []
    for _ in range(draws):
        for n in (1, 2, 3, 5, 16, 64, 128):
            ratios += [ratio(M) for M in degenerate_antisymmetric(generator, n)]
    worst, count, searched = largest(ratios), len(ratios), ratio(SEARCHED)
    return Outcome(
        decide(largest([worst, searched]) <= 2),
        f"{count} matrices, n = 1 to 128, entries from 1e-150 to 1e150, zero, rank two and tridiagonal ones among "
        f"them: |Re λ| is at most {worst:.3f} of n u ‖M‖₂. On a 3 × 3 matrix that a search for bad cases found it "
        f"is {searched:.2f} of n u ‖M‖₂: the factor 2 is measured, not proved.",
        {"matrices": count, "worst |Re λ| / (n u ‖M‖₂)": worst, "the same for the matrix of the search": searched},
    )


def jacobian_of_the_ode(quick: bool) -> Outcome:
    """diag(D) M against the derivative of the right-hand side of (8) by complex step."""
    generator, count, ratios = np.random.default_rng(8), 100 if quick else 1000, []
    for k in range(count):
        n = 1 + k % 9
        M = random_matrix(generator, n, [0.0, 0.3][k % 2])
        h, u = 2 * generator.standard_normal((2, n))
        J = stability.jacobian(stability.diagonal(h @ M.T + u), M)
        moved = h + 1j * COMPLEX_STEP * np.eye(n)  # row j is moved along unit j
        derivative = dynamics.vector_field(M, moved, u).imag.T / COMPLEX_STEP
        # |d log(1 − tanh²)/da| ≤ 2, a is off by (n + 1) u Σ|terms|; tanh, cosh and products add a dozen u
        a_error = 2 * (n + 1) * (np.abs(M) @ np.abs(h) + np.abs(u))
        tolerance = np.abs(J) * (2 * a_error + 16)[:, None] * UNIT_ROUNDOFF
        off = np.abs(J - derivative)
        ratios.append(largest_ratio(off, tolerance))
    worst = largest(ratios)
    return Outcome(
        decide(worst <= 1),
        f"{count} Jacobians, n = 1 to 9, entry by entry within {worst:.2f} of the rounding bound.",
        {"instances": count, "worst error / bound": worst},
    )


def eigenvalues_of_nine(quick: bool) -> Outcome:
    """Computed real parts of D M for D > 0, and n = 4 in exact arithmetic, where λ² are the roots of a quadratic."""
    generator, count, ratios, met = np.random.default_rng(9), 100 if quick else 1000, [], 0
    for k in range(count):
        n = 2 + k % 31
        M = random_matrix(generator, n)
        D = stability.diagonal([0.1, 1.0, 3.0][k % 3] * generator.standard_normal(n))
        J = stability.jacobian(D, M)
        bound = rounding_of_eigenvalues(D, J)
        ratios.append(np.abs(np.linalg.eigvals(J).real).max() / bound)
        met += bool(stability.meets_critical_criterion(J, bound))
    worst = largest(ratios)
    exact = 50 if quick else 500
    imaginary = 0
    for _ in range(exact):
        W, d = generator.integers(-9, 10, (4, 4)), generator.integers(1, 1000, 4)
        J = diagonal_matrix([fmpq(entry, 1000) for entry in d.tolist()], fmpq_mat) * fractions(W - W.T)
        c0, c1, c2, c3, _ = J.charpoly().coeffs()
        imaginary += bool(c1 == 0 == c3 and c0 >= 0 and c2 >= 0 and c2 * c2 >= 4 * c0)
    return Outcome(
        decide(worst <= 1 and met == count and imaginary == exact),
        f"{count} matrices DM, n = 2 to 32, D down to 1e-7: |Re λ| is at most {worst:.3f} of the rounding bound "
        f"2n u ‖J‖ √(max d / min d). {imaginary} of {exact} rational ones with n = 4 are proved to be so.",
        {"instances": count, "worst |Re λ| / bound": worst, "exact instances": exact, "exact and imaginary": imaginary},
    )


def rounding_of_eigenvalues(D: np.ndarray, J: np.ndarray) -> float:
    """How far rounding can move Re λ of J = D M: the backward error of J, seen through D^{−1/2} J D^{1/2}.

    D^{−1/2} J D^{1/2} is antisymmetric up to −γD, so that its numerical range bounds Re λ, and the similarity
    stretches an error of J by at most √(max d / min d). The product errs by less than n u ‖J‖; that the eigensolver
    does is measured, see :func:`computed_eigenvalues`.
    """
    return float(2 * len(D) * UNIT_ROUNDOFF * np.linalg.norm(J, 2) * np.sqrt(D.max() / D.min()))


def real_parts_with_diffusion(quick: bool) -> Outcome:
    """Computed real parts of D (M − γI) against −γ max d and −γ min d."""
    generator, count = np.random.default_rng(10), 100 if quick else 1000
    outside = negative = 0
    for k in range(count):
        n, diffusion = 2 + k % 31, [0.01, 0.15, 1.0, 30.0][k % 4]
        D = stability.diagonal([0.1, 1.0, 3.0][k % 3] * generator.standard_normal(n))
        J = stability.jacobian(D, random_matrix(generator, n, diffusion))
        real, rounding = np.linalg.eigvals(J).real, rounding_of_eigenvalues(D, J)
        lower, upper = stability.real_part_interval(D, diffusion)
        outside += not (lower - rounding <= real.min() and real.max() <= upper + rounding)
        negative += bool(real.max() < 0)
    return Outcome(
        decide(outside == 0 and negative == count),
        f"{outside} of {count} matrices D(M − γI), n = 2 to 32, γ = 0.01 to 30, have a real part outside "
        f"[−γ max d, −γ min d] by more than rounding; in {negative} all real parts are negative.",
        {"instances": count, "outside": outside, "all negative": negative},
    )
