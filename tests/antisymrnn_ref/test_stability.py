"""Jacobians against complex steps through the cells; eigenvalues and singular values against their bounds.

u is the unit roundoff, 2⁻⁵³ in float64. No allowance below is a tuned number: each has its reason beside it.
"""

import cmath
import decimal
import inspect
import math

import mpmath
import numpy as np
import pytest
import scipy.linalg
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from antisymrnn_ref import GatedParameters, Parameters, antisymmetric, gated, initialization, stability

U = 2.0**-53
CELLS = {"antisymmetric": antisymmetric, "gated": gated}


def problem(cell, seed, *, n=5, m=3, T=6, B=2, sigma_w=1.5, dtype=np.float64):
    """Parameters, inputs and initial states in generic position: biases and states are not zero."""
    generator = np.random.default_rng(seed)
    draw = initialization.parameters if cell == "antisymmetric" else initialization.gated_parameters
    parameters = draw(generator, n, m, sigma_w=sigma_w, dtype=dtype)
    biased = [array if array.any() else generator.standard_normal(n).astype(dtype) for array in parameters]
    x, h0 = (generator.standard_normal(shape).astype(dtype) for shape in ((T, B, m), (B, n)))
    return type(parameters)(*biased), x, h0


def steps_of(cell, parameters, x, h0, **options):
    h = CELLS[cell].forward(parameters, x, h0, **options).h
    return stability.step_jacobians(parameters, x, h, **options)


def complex_step(cell, parameters, x, h0, **options):
    """∂h_T/∂h_0, (B, n, n), from the cell's own forward below the checks, one column at a time."""
    forward = inspect.unwrap(CELLS[cell].forward)
    columns = [forward(parameters, x, h0 + 1e-30j * row, **options).h[-1].imag / 1e-30 for row in np.eye(h0.shape[1])]
    return np.stack(columns, axis=-1)


def product_allowance(steps, step_error):
    """How far a computed product of the steps may be from the exact one in norm, (B,), if each step is off by u times
    ``step_error``: a product of two (n, n) matrices is off by n u |A| |B| entry by entry, and ‖|A|‖₂ <= √n ‖A‖₂.
    """
    T, _, n, _ = steps.shape
    largest = np.maximum(np.linalg.norm(steps, 2, axis=(-2, -1)), 1)
    return T * n * (n + step_error) * U * np.prod(largest, axis=0)


# Diagonals (S1), (S2)


@given(st.floats(-350, 350))
def test_diagonal_is_the_derivative_of_tanh_and_stays_positive(a):
    with decimal.localcontext(prec=60):
        exponential = decimal.Decimal(a).exp()
        expected = float(4 / (exponential + 1 / exponential) ** 2)
    (found,) = stability.diagonal(np.array([a]))
    assert 0 < found <= 1
    assert abs(found - expected) <= 12 * U * expected  # cosh (2 ulp), its inverse, the square: (4 + 1) · 2 + 1, in u


def test_diagonal_of_huge_pre_activations_is_zero_without_a_warning():
    found = stability.diagonal(np.array([0.0, 800.0, -1e300, np.inf, np.nan]))
    np.testing.assert_array_equal(found, [1.0, 0.0, 0.0, 0.0, np.nan])
    np.testing.assert_array_equal(stability.diagonal(np.array([0.0, 1e30, -np.inf], "f")), np.array([1, 0, 0], "f"))


@example(-20.0, 2.220446049250313e-16)  # one ulp below -1/4
@given(st.floats(-30, 30), st.floats(-30, 30))
def test_gated_diagonal_is_the_derivative_of_the_gated_field(a, a_z):
    """The derivative of z(a_z + w) tanh(a + w) at w = 0 by complex step: both pre-activations move with M h."""
    w = 1e-30j
    derivative = (cmath.tanh(a + w) / (1 + cmath.exp(-(a_z + w)))).imag / 1e-30
    (found,) = stability.gated_diagonal(np.array([a]), np.array([a_z]))
    z = 1 / (1 + math.exp(-a_z))
    rounding = 64 * U * z  # a sum of two terms of size <= z, each of a handful of roundings
    assert abs(found - derivative) <= rounding
    assert -0.25 - rounding <= found <= 1 + rounding  # without rounding it lies between -1/4 and 1


def test_gated_diagonal_far_out():
    a, a_z = np.array([3.0, -3.0, 3.0, -3.0, 0.0]), np.array([800.0, 800.0, -800.0, -800.0, 800.0])
    found = stability.gated_diagonal(a, a_z)
    np.testing.assert_allclose(found, [1 / np.cosh(3) ** 2] * 2 + [0, 0, 1], rtol=1e-14)


def test_gated_diagonal_keeps_the_digits_of_a_gate_that_is_nearly_open():
    found = stability.gated_diagonal(np.array([-60.0, 60.0]), np.array([40.0, 40.0]))
    np.testing.assert_allclose(found, [-math.exp(-40), math.exp(-40)], rtol=1e-15)


@given(st.floats(-20, 20), st.floats(-20, 20))
def test_gated_diagonal_is_negative_when_the_documented_condition_says_so(a, a_z):
    s, z = math.tanh(a), 1 / (1 + math.exp(-a_z))
    condition = (1 - s) * (1 + s) + (1 - z) * s
    assume(abs(condition) > 1e-12)  # not within rounding of the edge
    assert (stability.gated_diagonal(np.array([a]), np.array([a_z]))[0] < 0) == (condition < 0)


def test_the_gated_counter_example_has_real_eigenvalues():
    D = stability.gated_diagonal(np.array([-3.0, 3.0]), np.array([-3.0, 0.0]))
    np.testing.assert_allclose(D, [-0.044485, 0.253697], rtol=0, atol=0.5e-6)
    J = stability.jacobian(D, np.array([[0.0, 1.0], [-1.0, 0.0]]))
    found = np.sort_complex(stability.eigenvalues(J))
    np.testing.assert_allclose(found, [-0.106235, 0.106235], rtol=0, atol=0.5e-6)
    assert not stability.meets_critical_criterion(J, 0.1)
    with pytest.raises(ValueError, match=r"^D: expected entries >= 0, got -0\.044"):
        stability.real_part_interval(D, 0.0)


# Eigenvalues of W − Wᵀ

extreme = st.sampled_from([0.0, 1.0, -1.0, 2.0, 1e150, -1e150, 1e-150, -1e-150, 1e-310, 5e-324, -5e-324])
entries = (
    extreme
    | st.floats(-1e150, 1e150)
    | st.floats(-10, 10)
    | st.builds(lambda mantissa, exponent: mantissa * 10.0**exponent, st.floats(-9, 9), st.integers(-300, 149))
)
matrices = st.integers(1, 8).flatmap(
    lambda n: hnp.arrays(np.float64, (n, n), elements=entries) | hnp.arrays(np.float64, (n, n), elements=extreme)
)
DEGENERATE = {
    "zero": np.zeros((5, 5)),
    "ones": np.ones((6, 6)),
    "one pair": np.outer(np.eye(7)[0], np.eye(7)[1]),
    "rank one": np.outer(np.arange(8.0), np.ones(8)),
    "equal pairs": np.kron(np.eye(4), [[0.0, 1.0], [0.0, 0.0]]),
    "huge": np.triu(np.ones((6, 6)), 1) * 1e150,
    "tiny": np.triu(np.ones((6, 6)), 1) * 1e-150,
    "denormal": np.triu(np.ones((6, 6)), 1) * 5e-324,
    "shift": np.eye(9, k=1),
    "graded": 10.0 ** (-150 * np.add.outer(np.arange(3), np.arange(3))) * np.triu(np.ones((3, 3)), 1),
    # OpenBLAS 0.3 alone does not converge on this one
    "both ends": np.array(
        [[0, 0, 1, 0, 1e-310], [0, 0, 1e-310, -1e150, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    ),
    # found by maximising |Re λ| / (n u ‖M‖₂): 1.27 with OpenBLAS 0.3
    "worst known": np.array(
        [
            [0, float.fromhex("-0x1.dcff1d960f167p-3"), float.fromhex("0x1.499d61ba4033ep+8")],
            [0, 0, float.fromhex("-0x1.01fbac2a8b139p+8")],
            [0, 0, 0],
        ]
    ),
}


def check_imaginary(W):
    """Antisymmetry to the bit, and |Re λ| within the backward error of the eigenvalue routine.

    The computed λ are those of M + F; M is normal, so |Re λ| <= ‖F‖₂. LAPACK promises a modest multiple of u ‖M‖₂ for
    ‖F‖₂, not a number. n u ‖M‖₂ holds for every matrix drawn here but is no theorem: maximising the ratio reaches 1.27
    at n = 3 and less for larger n. (n + 1) u ‖M‖₂ covers that; the last term is the rounding of a denormal result.
    """
    M = antisymmetric.recurrent_matrix(W, 0.0)
    positive_zero = np.zeros((), W.dtype)  # −0 + 0 = +0: the sign of zero is no difference
    assert (M + positive_zero).tobytes() == (-M.T + positive_zero).tobytes()
    n, unit = len(W), np.finfo(W.dtype).eps / 2
    tolerance = (n + 1) * unit * np.linalg.norm(M.astype(float), 2) + np.finfo(W.dtype).smallest_subnormal
    real_parts = np.abs(stability.eigenvalues(M).real)
    assert (real_parts <= tolerance).all()
    assert stability.meets_critical_criterion(M, float(tolerance))


@settings(max_examples=1000)
@given(matrices)
def test_eigenvalues_are_imaginary_for_any_W(W):
    check_imaginary(W)


@settings(max_examples=100)
@given(
    st.integers(1, 8).flatmap(
        lambda n: hnp.arrays(np.float32, (n, n), elements=st.floats(np.float32(-1e18), np.float32(1e18), width=32))
    )
)
def test_eigenvalues_are_imaginary_for_any_W_in_float32(W):
    check_imaginary(W)


@pytest.mark.parametrize("W", DEGENERATE.values(), ids=DEGENERATE.keys())
def test_eigenvalues_are_imaginary_for_degenerate_W(W):
    check_imaginary(W)


@pytest.mark.parametrize("n", [4, 16, 64, 128])
def test_eigenvalues_of_gaussian_W_are_imaginary_within_n_u(n):
    for seed in range(5):
        W = np.random.default_rng(seed).standard_normal((n, n))
        M = W - W.T
        tolerance = n * U * np.linalg.norm(M, 2)
        assert stability.meets_critical_criterion(M, tolerance)
        assert not stability.meets_critical_criterion(M - 4 * tolerance * np.eye(n), tolerance)  # the check can fail
        assert not stability.meets_critical_criterion(W, tolerance)


@settings(max_examples=100)
@given(matrices.filter(lambda W: W.any()))
def test_eigenvalues_agree_with_the_hermitian_solver(W):
    """i M is Hermitian with the eigenvalues −ω, found by another algorithm; both are off by a multiple of u ‖M‖₂."""
    M = W - W.T
    M = M / np.abs(M).max() if M.any() else M
    found = np.sort(stability.eigenvalues(M).imag)
    expected = np.linalg.eigvalsh(-1j * M)
    np.testing.assert_allclose(found, expected, rtol=0, atol=4 * (len(M) + 1) * U * np.linalg.norm(M, 2))


def test_eigenvalues_scale_with_the_matrix_and_keep_a_stack_apart():
    J = np.random.default_rng(0).standard_normal((4, 4))
    stack = np.stack([J, 2.0**900 * J, 2.0**-900 * J, np.zeros((4, 4))])
    found = stability.eigenvalues(stack)
    assert found.dtype == np.complex128
    for row, scale in zip(found, [1.0, 2.0**900, 2.0**-900, 0.0], strict=True):
        np.testing.assert_array_equal(row, found[0] * scale)  # a power of two changes no bit
    np.testing.assert_allclose(np.prod(found[0]).real, np.linalg.det(J), rtol=1e-12)
    assert stability.eigenvalues(J.astype("f")).dtype == np.complex64


def test_real_eigenvalues_are_complex_too_and_negative_entries_set_the_scale():
    found = stability.eigenvalues(np.array([[-2e200, -1e-200], [-1e-200, -1e200]]))
    assert found.dtype == np.complex128
    np.testing.assert_array_equal(np.sort(found.real), [-2e200, -1e200])
    assert stability.eigenvalues(np.eye(2, dtype="f")).dtype == np.complex64


def test_the_critical_criterion_is_about_every_eigenvalue_and_rounds_the_tolerance():
    assert not stability.meets_critical_criterion(np.diag([0.0, -1.0]), 0.5)
    assert stability.meets_critical_criterion(np.diag([0.0, -1.0]), 1.0)
    with pytest.raises(ValueError, match="^tolerance: expected a finite number >= 0 in float32, got 1e.39$"):
        stability.meets_critical_criterion(np.eye(2, dtype="f"), 1e39)


def test_the_critical_criterion_of_a_stack():
    stack = np.stack([np.array([[0.0, 2.0], [-2.0, 0.0]]), np.array([[-0.15, -2.0], [2.0, -0.15]])])
    np.testing.assert_array_equal(stability.meets_critical_criterion(stack, 0.0), [True, False])
    np.testing.assert_array_equal(stability.meets_critical_criterion(stack, 0.15 + 1e-15), [True, True])


# Euler stability (S4), (S5)


def test_amplification_of_the_figures_matrices():
    for W, expected in (
        ([[2.0, -2.0], [0.0, 2.0]], 1.2),
        ([[-2.0, 2.0], [0.0, -2.0]], 0.8),
        ([[0.0, -2.0], [2.0, 0.0]], 1.019804),
        ([[-0.15, -2.0], [2.0, -0.15]], 1.005099),
    ):
        eigenvalues = stability.eigenvalues(np.array(W))
        found = stability.amplification(eigenvalues, 0.1)
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.5e-6)
        assert stability.is_euler_stable(eigenvalues, 0.1) == (expected <= 1)


@given(
    st.complex_numbers(max_magnitude=1e3, allow_nan=False, allow_infinity=False),
    st.floats(1e-3, 10),
)
def test_euler_stability_is_amplification_at_most_one(eigenvalue, step_size):
    found = stability.amplification(eigenvalue, step_size)
    assert found == pytest.approx(abs(1 + step_size * eigenvalue), rel=1e-14)
    assume(abs(found - 1) > 1e-12)  # where |1 + ελ| itself can tell
    assert stability.is_euler_stable(eigenvalue, step_size) == (found <= 1)


@pytest.mark.parametrize("size", [5e-324, 1e-300, 1e-20, 1e-8, 1.0, 1e300])
def test_an_imaginary_eigenvalue_is_unstable_however_small(size):
    assert not stability.is_euler_stable(1j * size, 0.1)
    assert not stability.is_euler_stable(np.array([-1.0, -1j * size]), 0.1)


def test_euler_stability_at_the_edges():
    assert stability.is_euler_stable(0.0, 0.1)
    assert stability.is_euler_stable(-20.0, 0.1)  # 1 + ελ = −1
    assert not stability.is_euler_stable(-20.001, 0.1)
    assert stability.is_euler_stable(-1e-300, 0.1)
    assert stability.is_euler_stable(np.array([-8 + 15j, -8 - 15j]), 16 / 289)  # |1 + ελ| = 1: the edge itself
    assert not stability.is_euler_stable(1e-300, 0.1)
    assert not stability.is_euler_stable(math.nan, 0.1)
    assert stability.is_euler_stable(np.array([]), 0.1)
    assert type(stability.is_euler_stable(np.array([-1.0, -2.0], "f"), 0.1)) is bool


@pytest.mark.parametrize("step_size", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("n", [2, 5, 12])
def test_forward_euler_of_an_antisymmetric_matrix_is_never_stable(n, step_size):
    W = np.random.default_rng(n).standard_normal((n, n))
    omega = np.linalg.eigvalsh(-1j * (W - W.T))  # real
    assert not stability.is_euler_stable(1j * omega, step_size)
    assert (stability.amplification(1j * omega, step_size) >= 1).all()


def test_critical_diffusion_of_the_paper():
    assert stability.critical_diffusion(2.0, 0.1) == pytest.approx(0.20204103, abs=0.5e-8)
    assert stability.critical_diffusion(0.0, 0.1) == 0
    assert stability.critical_diffusion(10.0, 0.1) == 10.0  # ε ω = 1: the two solutions meet


@given(st.floats(1e-50, 1e50), st.floats(0.01, 0.99), st.floats(1e-6, 1.0), st.sampled_from([1.0, -1.0]))
def test_critical_diffusion_separates_stable_from_unstable(omega, ratio, d, sign):
    step_size = ratio / (d * omega)
    gamma = stability.critical_diffusion(sign * omega, step_size, d)
    largest = 2 / (step_size * d) - gamma
    # ε d (γ² + ω²) − 2γ has slope ∓ 2 √(1 − ratio²) at its roots, at least 0.28: 1e-9 is far beyond rounding
    for factor, stable in ((1 - 1e-9, False), (1 + 1e-9, True)):
        eigenvalue = d * complex(-gamma * factor, omega)
        assert stability.is_euler_stable(np.array([eigenvalue, eigenvalue.conjugate()]), step_size) == stable
        assert (d <= 2 * gamma * factor / (step_size * ((gamma * factor) ** 2 + omega**2))) == stable
    assert stability.is_euler_stable(d * complex(-largest * (1 - 1e-9), omega), step_size)
    assert not stability.is_euler_stable(d * complex(-largest * (1 + 1e-9), omega), step_size)


@pytest.mark.parametrize("omega", [1.0, 3.0, 1e-200, 1e200])
@pytest.mark.parametrize("ratio", [1e-30, 1e-8, 0.5, 0.9, 1 - 2.0**-20, 1 - 2.0**-40, 1 - 2.0**-52, 1.0])
def test_critical_diffusion_keeps_its_digits_up_to_the_last_stable_step(omega, ratio):
    for d in (1.0, 0.25):
        step_size = ratio / omega / d
        with mpmath.workdps(80):
            exact = mpmath.mpf(step_size) * d * omega
            if step_size * d * omega > 1 or exact > 1:
                continue
            expected = exact * omega / (1 + mpmath.sqrt(1 - exact**2))
            # √(1 − r²) has slope −r / √(1 − r²): what rounding r does to it is no error of the formula
            lost = 2 / mpmath.sqrt(max(1 - exact**2, U))
            found = stability.critical_diffusion(omega, step_size, d)
            assert abs(found - expected) <= (8 + lost) * U * expected


def test_the_root_of_critical_diffusion_does_not_cancel():
    ratio = 1 - 2.0**-30  # exact in float64, as 1 − r and 1 + r are; 1 − r² is not
    with mpmath.workdps(60):
        expected = mpmath.mpf(ratio) / (1 + mpmath.sqrt(1 - mpmath.mpf(ratio) ** 2))
    assert abs(stability.critical_diffusion(1.0, ratio) - expected) <= 4 * U * expected


def test_no_diffusion_is_needed_where_tanh_is_saturated():
    assert stability.critical_diffusion(5.0, 0.1, 0.0) == 0
    np.testing.assert_array_equal(stability.critical_diffusion(5.0, 0.1, np.array([0.0, 0.0])), [0.0, 0.0])


def test_euler_stability_of_huge_and_tiny_eigenvalues():
    for size in (1e-200, 1e-20, 1e20, 1e200):
        assert stability.is_euler_stable(-size, 1.5 / size)
        assert not stability.is_euler_stable(-size, 2.5 / size)
        assert stability.is_euler_stable(size * (-1 + 1j), 0.9 / size)  # up to ε = 2 · 1 / 2
        assert not stability.is_euler_stable(size * (-1 + 1j), 1.1 / size)


def test_critical_diffusion_of_arrays():
    omega = np.array([0.0, 1.0, 2.0], "f")
    found = stability.critical_diffusion(omega, 0.1)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [stability.critical_diffusion(float(w), 0.1) for w in omega], rtol=1e-6)
    assert stability.critical_diffusion(omega, 0.1, np.ones((4, 1), "f")).shape == (4, 3)


# The Bendixson interval (S6)


@settings(max_examples=150)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 8),
    st.floats(0, 10),
    st.floats(0, 8),
    st.sampled_from([1e-3, 1.0, 30.0, 1e6]),
)
def test_real_parts_lie_in_the_interval(seed, n, diffusion, spread, scale):
    generator = np.random.default_rng(seed)
    W = scale * generator.standard_normal((n, n))
    D = stability.diagonal(spread * generator.standard_normal(n))
    assume(D.min() > 1e-30)
    J = stability.jacobian(D, antisymmetric.recurrent_matrix(W, diffusion))
    lower, upper = stability.real_part_interval(D, diffusion)
    # the computed λ are those of J + F, ‖F‖₂ <= p u ‖J‖_F with p modest; D^{-1/2} (·) D^{1/2} turns J into a matrix
    # whose numerical range lies over the interval, and F into one √(max d / min d) times larger at most
    allowance = 4 * (n + 1) * U * np.linalg.norm(J) * math.sqrt(D.max() / D.min())
    real_parts = stability.eigenvalues(J).real
    assert (real_parts >= lower - allowance).all()
    assert (real_parts <= upper + allowance).all()


def test_the_interval_of_a_saturated_unit_ends_at_zero():
    assert stability.real_part_interval(np.array([0.0, 0.5]), 2.0) == (-1.0, 0.0)


def test_the_interval_of_no_state_is_empty():
    lower, upper = stability.real_part_interval(np.ones((0, 3)), 0.5)
    assert (lower.shape, upper.shape) == ((0,), (0,))


def test_the_interval_is_reached_and_can_be_left():
    D = np.array([[0.2, 0.9, 0.5]])
    lower, upper = stability.real_part_interval(D, 2.0)
    assert (lower, upper) == (-1.8, -0.4)
    found = stability.eigenvalues(stability.jacobian(D, antisymmetric.recurrent_matrix(np.eye(3), 2.0))).real
    assert (found.min(), found.max()) == (-1.8, -0.4)  # W − Wᵀ = 0: both ends are eigenvalues
    K = np.array([[0.0, 1.0, -2.0], [-1.0, 0.0, 0.5], [2.0, -0.5, 0.0]])
    slip = stability.eigenvalues(stability.jacobian(D, K - 2.0)).real  # γ subtracted from every entry
    assert slip.min() < -1.8 - 0.1 or slip.max() > -0.4 + 0.1


# Jacobians of the steps and of the whole trajectory (S7), (S8)


@pytest.mark.parametrize("unconstrained", [False, True])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("seed", range(3))
def test_step_jacobians_agree_with_the_complex_step(cell, seed, unconstrained):
    parameters, x, h0 = problem(cell, seed)
    options = {"step_size": 0.3, "diffusion": 0.2, "unconstrained": unconstrained}
    h = CELLS[cell].forward(parameters, x, h0, **options).h
    steps = stability.step_jacobians(parameters, x, h, **options)
    assert steps.shape == (6, 2, 5, 5)
    for t in range(len(x)):
        expected = complex_step(cell, parameters, x[t : t + 1], h[t], **options)
        # a and a_z are sums of at most n + m + 1 = 9 terms of size <= terms, hence off by 9 u · 9 terms; D(a, a_z) has
        # slopes below 1 in each; D itself, the products and the complex functions add some 30 u
        terms = max(np.abs(array).max() for array in (h[t], x[t], *parameters)) ** 2 * 2
        M = antisymmetric.recurrent_matrix(parameters.W, 0.2, unconstrained)
        allowance = (2 * 81 * terms + 30) * U * 0.3 * np.abs(M).max() + 2 * U
        assert np.abs(steps[t] - expected).max() <= allowance
        assert np.abs(steps[t] - np.eye(5)).max() > 1e10 * allowance  # an identity alone would not pass


@pytest.mark.parametrize("unconstrained", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_end_to_end_jacobian_agrees_with_the_complex_step_of_the_whole_map(cell, unconstrained):
    T, n = 25, 5
    parameters, x, h0 = problem(cell, 5, T=T, n=n)
    options = {"step_size": 0.2, "diffusion": 0.1, "unconstrained": unconstrained}
    steps = steps_of(cell, parameters, x, h0, **options)
    found = stability.end_to_end_jacobian(steps)
    expected = complex_step(cell, parameters, x, h0, **options)
    allowance = product_allowance(steps, 100)[:, None, None]  # 100 u per step: the test above
    assert (np.abs(found - expected) <= allowance).all()
    reversed_order = stability.end_to_end_jacobian(steps[::-1])
    assert np.abs(reversed_order - expected).max() > 1e6 * allowance.max()


def test_end_to_end_jacobian_of_no_step_is_the_identity():
    found = stability.end_to_end_jacobian(np.zeros((0, 2, 3, 3), "f"))
    np.testing.assert_array_equal(found, np.stack([np.eye(3, dtype="f")] * 2))
    assert (found.shape, found.dtype) == ((2, 3, 3), np.float32)


@pytest.mark.parametrize("cell", CELLS)
def test_float32_keeps_its_dtype_and_is_near_float64(cell):
    parameters, x, h0 = problem(cell, 9, dtype=np.float32)
    options = {"step_size": 0.25, "diffusion": 0.125}
    h = CELLS[cell].forward(parameters, x, h0, **options).h
    single = stability.step_jacobians(parameters, x, h, **options)
    double_parameters = type(parameters)(*(array.astype(float) for array in parameters))
    double = stability.step_jacobians(double_parameters, x.astype(float), h.astype(float), **options)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, double, rtol=0, atol=1e3 * 2.0**-24)
    assert stability.end_to_end_jacobian(single).dtype == np.float32
    assert stability.log_geometric_mean(single).dtype == np.float32
    assert {bound.dtype for bound in stability.singular_value_bounds(single)} == {np.dtype(np.float32)}


# Singular values (S9)


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(CELLS)),
    st.integers(0, 2**32 - 1),
    st.integers(1, 7),
    st.integers(1, 30),
    st.sampled_from([0.01, 0.1, 0.5, 1.0]),
    st.sampled_from([0.0, 0.01, 0.3]),
    st.booleans(),
)
def test_singular_values_and_gradient_norms_lie_inside_their_bounds(
    cell, seed, n, T, step_size, diffusion, unconstrained
):
    parameters, x, h0 = problem(cell, seed, n=n, T=T)
    options = {"step_size": step_size, "diffusion": diffusion, "unconstrained": unconstrained}
    forward = CELLS[cell].forward(parameters, x, h0, **options)
    steps = stability.step_jacobians(parameters, x, forward.h, **options)
    lower, upper = stability.singular_value_bounds(steps)
    assert lower.shape == upper.shape == (2,)
    # singular values move by no more than the product; those of a step, and their logarithms, are off by some n u too
    allowance = product_allowance(steps, n + 8)
    singular = np.linalg.svd(stability.end_to_end_jacobian(steps), compute_uv=False)
    assert (singular.max(axis=-1) <= np.exp(upper) + allowance).all()
    assert (singular.min(axis=-1) >= np.exp(lower) - allowance).all()
    # dL/dh_0 = (∂h_T/∂h_0)ᵀ g for a loss on the last state: its norm is between the same bounds, times ‖g‖
    g = np.random.default_rng(seed).standard_normal(h0.shape)
    gradient = CELLS[cell].backward(parameters, x, forward, g, **options).h0
    gradient_allowance = product_allowance(steps, 100)
    ratio = np.linalg.norm(gradient, axis=-1) / np.linalg.norm(g, axis=-1)
    assert (ratio <= np.exp(upper) + gradient_allowance).all()
    assert (ratio >= np.exp(lower) - gradient_allowance).all()


def test_singular_value_bounds_are_sums_over_the_steps():
    steps = np.random.default_rng(0).standard_normal((7, 3, 4, 4))
    singular = np.linalg.svd(steps, compute_uv=False)
    lower, upper = stability.singular_value_bounds(steps)
    np.testing.assert_allclose(lower, np.log(singular.min(axis=-1)).sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(upper, np.log(singular.max(axis=-1)).sum(axis=0), rtol=1e-12)
    orthogonal = np.linalg.qr(steps).Q * 3.0
    lower, upper = stability.singular_value_bounds(orthogonal)
    np.testing.assert_allclose(lower, 7 * math.log(3), rtol=1e-13)  # both bounds are reached
    np.testing.assert_allclose(upper, 7 * math.log(3), rtol=1e-13)


def test_singular_value_bounds_neither_overflow_nor_underflow():
    for scale in (1e300, 1e-300):
        steps = np.broadcast_to(np.diag([scale, 1e-5 * scale]), (2000, 1, 2, 2))
        lower, upper = stability.singular_value_bounds(steps)
        np.testing.assert_allclose(upper, 2000 * math.log(scale), rtol=1e-12)
        np.testing.assert_allclose(lower, 2000 * (math.log(scale) - 5 * math.log(10)), rtol=1e-12)
    singular = stability.singular_value_bounds(np.broadcast_to(np.diag([1.0, 0.0]), (3, 1, 2, 2)))
    np.testing.assert_array_equal(np.concatenate(singular), [-np.inf, 0.0])
    assert all(not bound.any() for bound in stability.singular_value_bounds(np.zeros((0, 2, 3, 3))))


@settings(max_examples=100)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.floats(1e-3, 10), st.floats(0, 5), st.booleans())
def test_norm_bound(seed, n, step_size, diffusion, gated_cell):
    generator = np.random.default_rng(seed)
    M = antisymmetric.recurrent_matrix(generator.standard_normal((n, n)), diffusion)
    a, a_z = 2 * generator.standard_normal((2, 3, n))
    D = stability.gated_diagonal(a, a_z) if gated_cell else stability.diagonal(a)
    bound = stability.norm_bound(D, M, step_size)
    assert bound.shape == (3,)
    norms = np.linalg.norm(np.eye(n) + step_size * stability.jacobian(D, M), 2, axis=(-2, -1))
    assert (norms <= bound * (1 + 4 * (n + 4) * U)).all()  # two computed norms and the rounding of the matrix


def test_norm_bound_is_reached():
    golden = (1 + math.sqrt(5)) / 2  # the spectral norm of a shear; its other norms are 2 and √3
    sheared = stability.norm_bound(np.array([0.5, -1.0]), np.array([[1.0, 1.0], [0.0, 1.0]]), 0.25)
    assert sheared == pytest.approx(1 + golden / 4, rel=1e-14)
    assert stability.norm_bound(np.array([-0.5, 0.25]), 3.0 * np.eye(2), 0.1) == pytest.approx(1.15, rel=1e-15)
    D, M = np.array([1.0, 1.0]), 3.0 * np.eye(2)
    assert stability.norm_bound(D, M, 0.1) == pytest.approx(np.linalg.norm(np.eye(2) + 0.1 * M, 2), rel=1e-15)


# The geometric mean of the eigenvalues (S10)


def log_determinant_allowance(steps):
    """How far rounding moves (1/n) Σ_t log|det J_t|, (B,), to first order: |δ log|det A|| <= Σ_ij |A⁻¹|_ji |F|_ij.

    Gaussian elimination is exact for A + F with |F| <= n u |L| |U|, and the entries off the diagonal of A = I + ε D K
    carry two roundings, 2 u |A| each (that of D counts not: another D > 0 obeys the theorem as well). The logarithms
    of the n pivots, and their sum over n and T, carry (n + T + 2) u Σ |log|. Doubled for the terms of second order.
    """
    T, B, n, _ = steps.shape
    allowance = np.zeros(B)
    for t, k in np.ndindex(T, B):
        left, right = scipy.linalg.lu(steps[t, k], permute_l=True)
        elimination = n * U * np.abs(left) @ np.abs(right) + 2 * U * np.abs(steps[t, k])
        logarithms = np.abs(np.log(np.abs(np.diag(right)))).sum()
        allowance[k] += (np.abs(np.linalg.inv(steps[t, k])).T * elimination).sum() + (n + T + 2) * U * logarithms
    return 2 * allowance / n


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 8),
    st.integers(1, 12),
    st.floats(1e-6, 2.0),
    st.sampled_from([1e-6, 0.5, 1.0, 16.0]),
)
def test_geometric_mean_is_at_least_one_without_diffusion(seed, n, T, step_size, sigma_w):
    parameters, x, h0 = problem("antisymmetric", seed, n=n, T=T, sigma_w=sigma_w)
    steps = steps_of("antisymmetric", parameters, x, h0, step_size=step_size, diffusion=0.0)
    assert (stability.log_geometric_mean(steps) >= -log_determinant_allowance(steps)).all()


def test_geometric_mean_check_can_fail():
    parameters, x, h0 = problem("antisymmetric", 1, sigma_w=1.0)
    diffused = steps_of("antisymmetric", parameters, x, h0, step_size=0.01, diffusion=0.5)
    assert (stability.log_geometric_mean(diffused) < -log_determinant_allowance(diffused)).all()


def test_geometric_mean_is_that_of_the_rotation_frequencies():
    """At γ = 0, log|det J_t| = ½ Σ log(1 + ε² ω²), ± ω the eigenvalues of i D^½ K D^½: a Hermitian matrix."""
    parameters, x, h0 = problem("antisymmetric", 2, n=6, T=8)
    h = antisymmetric.forward(parameters, x, h0, step_size=0.3, diffusion=0.0).h
    steps = stability.step_jacobians(parameters, x, h, step_size=0.3, diffusion=0.0)
    K = parameters.W - parameters.W.T
    root = np.sqrt(stability.diagonal(h[:-1] @ K.T + x @ parameters.V.T + parameters.b))
    omega = np.linalg.eigvalsh(1j * root[..., :, None] * K * root[..., None, :])
    expected = np.log1p((0.3 * omega) ** 2).sum(axis=(0, 2)) / 2 / 6
    np.testing.assert_allclose(stability.log_geometric_mean(steps), expected, rtol=1e-12)
    assert (expected > 0.01).all()  # far from rounding


@pytest.mark.parametrize("cell", CELLS)
def test_geometric_mean_is_that_of_the_eigenvalues_of_the_product(cell):
    parameters, x, h0 = problem(cell, 3, T=5, B=3, n=4)
    steps = steps_of(cell, parameters, x, h0, step_size=0.2, diffusion=0.1)
    eigenvalues = np.linalg.eigvals(stability.end_to_end_jacobian(steps))
    expected = np.log(np.abs(eigenvalues)).mean(axis=-1)
    np.testing.assert_allclose(stability.log_geometric_mean(steps), expected, rtol=0, atol=1e-13)


def test_geometric_mean_over_2000_steps():
    parameters, x, h0 = problem("antisymmetric", 4, n=24, m=8, T=2000, B=2, sigma_w=2.0)
    steps = steps_of("antisymmetric", parameters, x, h0, step_size=0.1, diffusion=0.0)
    found = stability.log_geometric_mean(steps)
    lower, upper = stability.singular_value_bounds(steps)
    assert (found > 0.1).all()  # rounding is some 2000 · 24 u = 5e-12
    assert (lower <= found).all()
    assert (found <= upper).all()
    chunks = [stability.log_geometric_mean(steps[start : start + 100]) for start in range(0, 2000, 100)]
    np.testing.assert_allclose(found, np.sum(chunks, axis=0), rtol=1e-12)


def test_geometric_mean_over_2000_steps_where_the_product_overflows():
    """At the origin without input D = 1, and the logarithm is T / 2n Σ log(1 + ε² ω²) in closed form."""
    n, T = 24, 2000
    parameters, _, _ = problem("antisymmetric", 4, n=n, m=1, sigma_w=2.0)
    parameters = parameters._replace(b=np.zeros(n))
    steps = steps_of("antisymmetric", parameters, np.zeros((T, 1, 1)), np.zeros((1, n)), step_size=1.0, diffusion=0.0)
    omega = np.linalg.eigvalsh(1j * (parameters.W - parameters.W.T))
    (found,) = stability.log_geometric_mean(steps)
    assert found == pytest.approx(T / 2 / n * np.log1p(omega**2).sum(), rel=1e-12)
    assert found > math.log(np.finfo(float).max)
    assert not np.isfinite(stability.end_to_end_jacobian(steps)).all()
    # I + K is normal with singular values √(1 + ω²): both bounds are known as well
    lower, upper = stability.singular_value_bounds(steps)
    np.testing.assert_allclose(lower, T / 2 * np.log1p(omega**2).min(), rtol=1e-11)
    np.testing.assert_allclose(upper, T / 2 * np.log1p(omega**2).max(), rtol=1e-11)


def test_geometric_mean_of_a_singular_step_and_of_none():
    singular = np.broadcast_to(np.diag([1.0, 0.0]), (3, 1, 2, 2))
    assert stability.log_geometric_mean(singular)[0] == -np.inf
    np.testing.assert_array_equal(stability.log_geometric_mean(np.zeros((0, 2, 3, 3))), [0.0, 0.0])


# Arguments


def read_only(array):
    array.flags.writeable = False
    return array


J2, D2, M2 = read_only(np.eye(2)), read_only(np.array([0.5, 1.0])), read_only(np.array([[0.0, 1.0], [-1.0, 0.0]]))
STEPS = read_only(np.ones((3, 2, 2, 2)) + np.eye(2))
PLAIN = Parameters(*(read_only(array) for array in (np.eye(2), np.ones((2, 3)), np.zeros(2))))
GATED = GatedParameters(*PLAIN, PLAIN.V, PLAIN.b)
STEP_ARGUMENTS = {
    "parameters": PLAIN,
    "x": read_only(np.ones((4, 5, 3))),
    "h": read_only(np.ones((5, 5, 2))),
    "step_size": 0.1,
    "diffusion": 0.1,
}
FUNCTIONS = {
    "diagonal": {"a": D2},
    "gated_diagonal": {"a": D2, "a_z": D2},
    "jacobian": {"D": D2, "M": M2},
    "eigenvalues": {"J": J2},
    "meets_critical_criterion": {"J": J2, "tolerance": 0.1},
    "amplification": {"eigenvalues": D2, "step_size": 0.1},
    "is_euler_stable": {"eigenvalues": D2, "step_size": 0.1},
    "critical_diffusion": {"omega": D2, "step_size": 0.1, "d": D2},
    "real_part_interval": {"D": D2, "diffusion": 0.1},
    "step_jacobians": STEP_ARGUMENTS,
    "end_to_end_jacobian": {"steps": STEPS},
    "singular_value_bounds": {"steps": STEPS},
    "norm_bound": {"D": D2, "M": M2, "step_size": 0.1},
    "log_geometric_mean": {"steps": STEPS},
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_argument_is_written_and_no_result_aliases_one(name):
    """The arrays are read-only, so a write would raise; the same call twice gives the same bits."""
    function, arguments = getattr(stability, name), FUNCTIONS[name]
    first, second = (np.asarray(function(**arguments)) for _ in range(2))
    assert first.tobytes() == second.tobytes()
    for argument in arguments.values():
        assert type(argument) is not np.ndarray or not np.shares_memory(first, argument)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arrays_are_float32_or_float64_and_eigenvalues_of_every_precision(name):
    function, arguments = getattr(stability, name), FUNCTIONS[name]
    wide = {key: value.astype("g") for key, value in arguments.items() if type(value) is np.ndarray}
    if name in ("amplification", "is_euler_stable", "critical_diffusion"):
        found = function(**(arguments | wide))
        assert type(found) is bool or found.dtype == np.longdouble
        return
    for key, value in wide.items():
        with pytest.raises(
            TypeError, match=rf"^{key}: expected dtype float(32 or float64|64 as \w+ has), got {value.dtype}"
        ):
            function(**(arguments | {key: value}))


def test_what_overflows_does_not_warn():
    huge = np.full((2, 2), 1e308)
    np.testing.assert_array_equal(stability.jacobian(huge[0], huge), np.full((2, 2), np.inf))
    assert np.isinf(stability.eigenvalues(1.7 * huge).real).any()
    assert stability.amplification(1e308, 1e308) == np.inf
    assert not stability.is_euler_stable(np.array([-1e308, 1e308j]), 1e308)
    assert stability.real_part_interval(huge[0], 1e308) == (-np.inf, -np.inf)
    assert stability.norm_bound(np.array([1e200, 1.0]), 1e200 * np.eye(2), 1.0) == np.inf
    turned = np.array([[1e308, 1e308], [-1e308, 1e308]])
    np.testing.assert_array_equal(stability.log_geometric_mean(turned[None, None]), [np.inf])
    steps = stability.step_jacobians(**(STEP_ARGUMENTS | {"parameters": PLAIN._replace(W=huge * np.eye(2, k=1))}))
    assert np.isfinite(steps).all()  # tanh is saturated
    gates = GATED._replace(W=huge * np.eye(2, k=1), b_z=np.full(2, -1e308))
    steps = stability.step_jacobians(**(STEP_ARGUMENTS | {"parameters": gates, "h": 1e308 + 0 * STEP_ARGUMENTS["h"]}))
    assert steps.shape == (4, 5, 2, 2)
    with pytest.raises(ValueError, match="^omega: expected step_size . d . .omega. <= 1, .*, got inf$"):
        stability.critical_diffusion(1e308, 1.0, 1e308)


NOT_FINITE = np.where(np.eye(2) > 0, np.nan, 1.0)


@pytest.mark.parametrize(
    ("name", "changes", "error", "message"),
    [
        ("diagonal", {"a": 1.0}, TypeError, "^a: expected numpy.ndarray, got float"),
        ("diagonal", {"a": np.ones(2, complex)}, TypeError, "^a: expected dtype float32 or float64, got complex128"),
        ("diagonal", {"a": np.ones(())}, ValueError, r"^a: expected \(\.\.\., n\) with n >= 1, got \(\)"),
        (
            "gated_diagonal",
            {"a_z": np.ones(3)},
            ValueError,
            r"^a_z: expected \(\.\.\., n\) = \(\.\.\., 2\), got \(3,\)",
        ),
        (
            "gated_diagonal",
            {"a_z": np.ones((3, 2))},
            ValueError,
            r"^a_z: expected the shape of a, \(2,\), got \(3, 2\)",
        ),
        (
            "gated_diagonal",
            {"a_z": D2.astype("f")},
            TypeError,
            "^a_z: expected dtype float64 as a has, got float32",
        ),
        (
            "gated_diagonal",
            {"a": np.ones((2, 6)), "a_z": np.ones((1, 2, 6))},
            ValueError,
            r"^a_z: expected the shape of a, \(2, 6\), got \(1, 2, 6\)",
        ),
        ("jacobian", {"M": np.ones((3, 3))}, ValueError, r"^M: expected \(n, n\) = \(2, 2\), got \(3, 3\)"),
        ("jacobian", {"M": M2.tolist()}, TypeError, "^M: expected numpy.ndarray, got list"),
        ("eigenvalues", {"J": np.ones((2, 3))}, ValueError, r"^J: expected \(\.\.\., n, n\) with n >= 1, got \(2, 3\)"),
        ("eigenvalues", {"J": NOT_FINITE}, ValueError, "^J: expected finite entries, got nan"),
        ("meets_critical_criterion", {"tolerance": -1.0}, ValueError, "^tolerance: expected a finite number >= 0"),
        (
            "meets_critical_criterion",
            {"tolerance": None},
            TypeError,
            "^tolerance: expected a real number, got NoneType",
        ),
        ("eigenvalues", {"J": np.array([[1.0, np.inf], [np.nan, 1.0]])}, ValueError, "^J: expected .*, got inf$"),
        ("eigenvalues", {"J": np.array([[1.0, 1.0], [-np.inf, 1.0]])}, ValueError, "^J: expected .*, got -inf$"),
        ("meets_critical_criterion", {"J": NOT_FINITE}, ValueError, "^J: expected finite entries, got nan"),
        ("amplification", {"eigenvalues": "1"}, TypeError, "^eigenvalues: expected a number or numpy.ndarray, got str"),
        ("amplification", {"step_size": 0}, ValueError, "^step_size: expected a finite number > 0 in float64, got 0"),
        ("is_euler_stable", {"step_size": math.inf}, ValueError, "^step_size: expected a finite number > 0"),
        ("is_euler_stable", {"eigenvalues": np.ones(2, int)}, TypeError, "^eigenvalues: expected dtype .*, got int64"),
        (
            "critical_diffusion",
            {"omega": 1j},
            TypeError,
            "^omega: expected a real number or numpy.ndarray, got complex",
        ),
        (
            "critical_diffusion",
            {"omega": 20.0},
            ValueError,
            r"^omega: expected step_size \* d \* \|omega\| <= 1, .* got \[1\. 2\.\]",
        ),
        ("critical_diffusion", {"omega": math.nan}, ValueError, r"^omega: expected step_size \* d \* \|omega\| <= 1"),
        ("critical_diffusion", {"d": math.inf, "omega": 0.0}, ValueError, "^d: expected finite numbers >= 0, got inf$"),
        ("critical_diffusion", {"d": math.nan}, ValueError, "^d: expected finite numbers >= 0, got nan$"),
        ("critical_diffusion", {"d": np.array([1.0, -1.0])}, ValueError, "^d: expected finite numbers >= 0, got .*-1"),
        (
            "critical_diffusion",
            {"d": np.array([1.0, np.inf])},
            ValueError,
            "^d: expected finite numbers >= 0, got .*inf",
        ),
        ("critical_diffusion", {"d": -1.0}, ValueError, "^d: expected finite numbers >= 0, got -1.0"),
        ("critical_diffusion", {"d": np.ones(3)}, ValueError, r"^omega, d: expected shapes that broadcast"),
        (
            "critical_diffusion",
            {"d": np.ones(2, complex)},
            TypeError,
            "^d: expected dtype float32 or float64 or [a-z0-9]+, got complex128",
        ),
        (
            "critical_diffusion",
            {"step_size": 0},
            ValueError,
            "^step_size: expected a finite number > 0 in float64, got",
        ),
        ("critical_diffusion", {"step_size": "1"}, TypeError, "^step_size: expected a real number, got str"),
        ("real_part_interval", {"D": -D2}, ValueError, "^D: expected entries >= 0, got -1.0"),
        ("real_part_interval", {"D": D2 * np.nan}, ValueError, "^D: expected finite entries, got nan"),
        ("real_part_interval", {"D": [0.5]}, TypeError, "^D: expected numpy.ndarray, got list"),
        (
            "real_part_interval",
            {"D": D2.astype("f"), "diffusion": 1e39},
            ValueError,
            "^diffusion: expected a finite number >= 0 in float32, got 1e.39$",
        ),
        ("real_part_interval", {"diffusion": -0.1}, ValueError, "^diffusion: expected a finite number >= 0 in float64"),
        (
            "step_jacobians",
            {"parameters": tuple(PLAIN)},
            TypeError,
            "^parameters: expected Parameters or GatedParameters, got tuple$",
        ),
        (
            "step_jacobians",
            {"parameters": PLAIN._replace(b=np.ones(3))},
            ValueError,
            r"^b: expected \(n,\) = \(2,\), got",
        ),
        (
            "step_jacobians",
            {"parameters": GATED._replace(b_z=np.ones(2, "f"))},
            TypeError,
            "^b_z: expected dtype float64",
        ),
        ("step_jacobians", {"x": np.ones((4, 5, 2))}, ValueError, r"^x: expected \(T, B, m\) = \(T, B, 3\)"),
        ("step_jacobians", {"h": np.ones((4, 5, 2))}, ValueError, r"^h: expected \(T\+1, B, n\) = \(5, 5, 2\), got"),
        ("step_jacobians", {"h": np.ones((2, 5, 2))}, ValueError, r"^h: expected \(T\+1, B, n\) = \(5, 5, 2\), got"),
        (
            "step_jacobians",
            {"step_size": 0.0},
            ValueError,
            "^step_size: expected a finite number > 0 in float64, got 0.0",
        ),
        (
            "step_jacobians",
            {"diffusion": -1},
            ValueError,
            "^diffusion: expected a finite number >= 0 in float64, got -1",
        ),
        ("step_jacobians", {"unconstrained": 1}, TypeError, "^unconstrained: expected True or False, got int"),
        (
            "end_to_end_jacobian",
            {"steps": np.ones((2, 2, 2))},
            ValueError,
            r"^steps: expected \(T, B, n, n\) with B >= 1",
        ),
        ("singular_value_bounds", {"steps": STEPS * np.inf}, ValueError, "^steps: expected finite entries, got inf"),
        ("singular_value_bounds", {"steps": [1.0]}, TypeError, "^steps: expected numpy.ndarray, got list"),
        ("norm_bound", {"M": NOT_FINITE}, ValueError, "^M: expected finite entries, got nan"),
        ("norm_bound", {"D": np.ones(3)}, ValueError, r"^M: expected \(n, n\) = \(3, 3\), got \(2, 2\)"),
        (
            "norm_bound",
            {"step_size": -0.1},
            ValueError,
            "^step_size: expected a finite number > 0 in float64, got -0.1",
        ),
        ("log_geometric_mean", {"steps": STEPS * np.nan}, ValueError, "^steps: expected finite entries, got nan"),
        ("log_geometric_mean", {"steps": STEPS.astype(int)}, TypeError, "^steps: expected dtype float32 or float64"),
    ],
)
def test_bad_arguments(name, changes, error, message):
    with pytest.raises(error, match=message):
        getattr(stability, name)(**(FUNCTIONS[name] | changes))
