"""The dynamical systems against solutions known by other means: closed forms, SciPy's solver, decimal arithmetic."""

import cmath
import decimal
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from antisymrnn_ref import dynamics

U = 2.0**-53  # unit roundoff of float64
STARTS = np.array([[0.0, 0.5], [-0.5, -0.5], [0.5, -0.75]])
W_PLUS = np.array([[2.0, -2.0], [0.0, 2.0]])
W_ZERO = np.array([[0.0, -2.0], [2.0, 0.0]])
W_DIFF = np.array([[-0.15, -2.0], [2.0, -0.15]])


def antisymmetric_matrix(generator, n, scale=1.0):
    W = generator.standard_normal((n, n)) * scale
    return W - W.T


# The test equation (D1)


@given(
    st.complex_numbers(max_magnitude=3, allow_nan=False, allow_infinity=False),
    st.complex_numbers(max_magnitude=20, allow_nan=False, allow_infinity=False),
    st.floats(0, 10),
)
def test_test_equation_is_the_exponential(z0, eigenvalue, t):
    expected = z0 * cmath.exp(eigenvalue * t)
    # each exponential is off by the rounding of its argument, λt, and a few u
    allowance = (abs(eigenvalue * t) * 4 + 16) * U * abs(expected) + 1e-300
    assert abs(dynamics.test_equation(z0, eigenvalue, t) - expected) <= allowance


def test_test_equation_solves_the_equation_and_has_the_semigroup_property():
    z0, eigenvalue = 0.7 - 0.2j, -0.3 + 2.0j
    solution = solve_ivp(lambda _, z: eigenvalue * z, (0, 4), [z0], rtol=1e-11, atol=1e-13)
    times = solution.t
    np.testing.assert_allclose(dynamics.test_equation(z0, eigenvalue, times), solution.y[0], rtol=1e-8)
    halfway = dynamics.test_equation(z0, eigenvalue, 1.5)
    np.testing.assert_allclose(
        dynamics.test_equation(halfway, eigenvalue, 2.5), dynamics.test_equation(z0, eigenvalue, 4), rtol=1e-14
    )


@pytest.mark.parametrize(("real_part", "factor"), [(0.5, math.exp(5)), (-0.5, math.exp(-5)), (0.0, 1.0)])
def test_two_solutions_part_by_the_real_part(real_part, factor):
    first, second = (dynamics.test_equation(z0, complex(real_part, 3.0), 10.0) for z0 in (1.0, 1.5))
    assert abs(second - first) == pytest.approx(0.5 * factor, rel=1e-13)


def test_test_equation_does_not_overflow_on_the_way():
    with decimal.localcontext(prec=40):
        for z0, eigenvalue, t in ((1e-200, 800.0, 1.0), (1e-300, 1300.0, 1.0), (1e300, -1000.0, 1.0)):
            expected = float(decimal.Decimal(z0) * (decimal.Decimal(eigenvalue) * decimal.Decimal(t)).exp())
            assert dynamics.test_equation(z0, eigenvalue, t) == pytest.approx(expected, rel=2e-13)
    assert dynamics.test_equation(0.0, 1.0, 2000.0) == 0
    assert dynamics.test_equation(1.0, 1.0, 2000.0) == math.inf


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble])
def test_test_equation_keeps_the_precision_of_its_arrays(dtype):
    t = np.linspace(0, 1, 5, dtype=dtype)
    assert dynamics.test_equation(1.0, -0.5, t).dtype == dtype
    assert dynamics.test_equation(1.0, 2j, t).dtype == np.result_type(dtype, np.complex64)
    assert np.ndim(dynamics.test_equation(1, 1, 0)) == 0


def test_test_equation_from_zero_lets_nan_through():
    assert np.isnan(dynamics.test_equation(0.0, math.nan, 1.0))
    assert np.isnan(dynamics.test_equation(np.zeros(2), 1j, np.array([math.nan, math.nan]))).all()


# The vector field (D2)


def test_vector_field_by_hand_and_with_leading_axes():
    M = np.array([[0.0, -3.0, 1.0], [2.0, 0.0, 5.0], [0.5, 1.0, 0.0]])
    h = np.random.default_rng(0).standard_normal((4, 2, 3))
    u = np.array([0.1, -0.2, 0.3])
    found = dynamics.vector_field(M, h, u)
    for index in np.ndindex(4, 2):
        expected = [math.tanh(sum(M[j, k] * h[index][k] for k in range(3)) + u[j]) for j in range(3)]
        np.testing.assert_allclose(found[index], expected, rtol=1e-13, atol=1e-15)
    np.testing.assert_array_equal(dynamics.vector_field(M, h, 0.0), dynamics.vector_field(M, h, np.zeros(3)))
    np.testing.assert_array_equal(dynamics.vector_field(M, h, u), dynamics.vector_field(M, h, np.tile(u, (4, 2, 1))))


def test_what_overflows_does_not_warn():
    M, h = np.array([[1e200, 0.0], [0.0, -1e200]]), np.full((3, 2), 1e200)
    np.testing.assert_array_equal(dynamics.vector_field(M, h, 0.0), [[1.0, -1.0]] * 3)
    np.testing.assert_array_equal(dynamics.energy(M, h), [np.inf] * 3)
    np.testing.assert_array_equal(dynamics.energy(np.eye(1), np.array([1.7e308])), 1.7e308)
    states = dynamics.forward_euler(lambda h: h, np.array([1e308]), 1.0, 2)
    np.testing.assert_array_equal(states, [[1e308], [np.inf], [np.inf]])


# Forward Euler (D3)


def errors_when_halving(f, h0, exact, horizon, steps):
    """Largest error at the horizon for each number of steps."""
    return [np.abs(dynamics.forward_euler(f, h0, horizon / T, T)[-1] - exact).max() for T in steps]


def test_forward_euler_is_first_order_on_a_linear_problem():
    A = np.array([[-0.2, -1.5, 0.3], [1.5, -0.1, 0.4], [0.2, -0.5, -0.3]])
    h0 = np.array([1.0, -0.5, 0.25])
    exact = expm(2.0 * A) @ h0
    errors = errors_when_halving(lambda h: h @ A.T, h0, exact, 2.0, [200, 400, 800, 1600])
    ratios = np.array(errors[:-1]) / errors[1:]
    # error = C ε + O(ε²): the ratio is 2 + O(ε), nearer to 2 with every halving
    assert np.abs(ratios - 2).max() < 0.03
    assert abs(ratios[-1] - 2) < abs(ratios[0] - 2)


def test_forward_euler_is_first_order_on_equation_8():
    generator = np.random.default_rng(4)
    M, u = antisymmetric_matrix(generator, 5), generator.standard_normal(5)
    h0 = generator.standard_normal(5)

    def f(h):
        return dynamics.vector_field(M, h, u)

    exact = solve_ivp(lambda _, h: f(h), (0, 3), h0, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    errors = errors_when_halving(f, h0, exact, 3.0, [600, 1200, 2400])
    ratios = np.array(errors[:-1]) / errors[1:]
    assert np.abs(ratios - 2).max() < 0.03
    assert abs(ratios[-1] - 2) < abs(ratios[0] - 2)
    assert errors[-1] > 1e-6  # far above the reference's own error: the ratio measures Euler


def test_forward_euler_on_the_test_equation_is_the_power():
    eigenvalue, step_size, T = -0.3 + 2.0j, 0.1, 30
    states = dynamics.forward_euler(lambda z: eigenvalue * z, np.array([1.0 + 0.5j]), step_size, T)
    expected = (1 + 0.5j) * (1 + step_size * eigenvalue) ** np.arange(T + 1)
    np.testing.assert_allclose(states[:, 0], expected, rtol=4 * T * U)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble, np.complex64, np.complex128])
def test_forward_euler_keeps_dtype_and_shape(dtype):
    h0 = np.ones((2, 3), dtype)
    states = dynamics.forward_euler(lambda h: -h, h0, np.float64(0.1), 4)
    assert states.shape == (5, 2, 3)
    assert states.dtype == dtype
    np.testing.assert_array_equal(states[0], h0)


def test_forward_euler_gives_f_a_copy():
    h0 = np.array([1.0, 2.0])
    states = dynamics.forward_euler(lambda h: np.negative(h, out=h), h0, 0.5, 2)
    np.testing.assert_array_equal(states, [[1.0, 2.0], [0.5, 1.0], [0.25, 0.5]])
    np.testing.assert_array_equal(h0, [1.0, 2.0])


# Figure 1: vanilla (D4) and feedback (D5)

END_STATES = [
    ("W+", W_PLUS, [(-4.948405, 5.413106), (4.138548, -5.413106), (5.497493, -5.719202)]),
    ("W-", -W_PLUS, [(0.000109, 0.000009), (-0.000118, -0.000009), (-0.000186, -0.000017)]),
    ("W0", W_ZERO, [(-0.620995, 0.487439), (-0.906444, -0.465553), (-0.439740, -1.108208)]),
    ("Wdiff", W_DIFF, [(-0.503517, -0.119927), (-0.100192, -0.703807), (0.270146, -0.796073)]),
]


@pytest.mark.parametrize(("W", "expected"), [row[1:] for row in END_STATES], ids=[row[0] for row in END_STATES])
def test_figure_1_end_states_with_feedback(W, expected):
    states = dynamics.feedback(W, STARTS, 0.1, 50)
    assert states.shape == (51, 3, 2)
    np.testing.assert_array_equal(states[0], STARTS)
    np.testing.assert_allclose(states[-1], expected, rtol=0, atol=0.5e-6)  # half a unit of the last printed digit


def test_figure_1_end_states_of_the_identity():
    states = dynamics.vanilla(np.eye(2), STARTS, 50)
    expected = [(0, 0.163171), (-0.163171, -0.163171), (0.163171, -0.168039)]
    np.testing.assert_allclose(states[-1], expected, rtol=0, atol=0.5e-6)


def test_the_recurrences_are_their_formulas():
    generator = np.random.default_rng(1)
    W, h0 = generator.standard_normal((3, 3)), generator.standard_normal(3)
    vanilla, feedback = dynamics.vanilla(W, h0, 6), dynamics.feedback(W, h0, 0.25, 6)
    for t in range(1, 7):
        np.testing.assert_allclose(vanilla[t], np.tanh(W @ vanilla[t - 1]), rtol=1e-13)
        np.testing.assert_allclose(feedback[t], feedback[t - 1] + 0.25 * np.tanh(W @ feedback[t - 1]), rtol=1e-13)
    for states in (vanilla, feedback, dynamics.vanilla(W, h0, 0), dynamics.feedback(W, h0, 0.25, 0)):
        assert type(states) is np.ndarray
        np.testing.assert_array_equal(states[0], h0)
        assert not np.shares_memory(states, h0)


# The energy (D6)


def log_cosh(v):
    """Correctly rounded log cosh of a float, in decimal arithmetic."""
    with decimal.localcontext(prec=120):
        exponential = decimal.Decimal(v).exp()
        return float(((exponential + 1 / exponential) / 2).ln())


@given(st.floats(-1e5, 1e5) | st.floats(-2, 2) | st.floats(-1e-5, 1e-5))
def test_log_cosh_is_accurate_for_every_size(v):
    assume(v == 0 or abs(v) > 1e-25)
    expected = log_cosh(v)
    # sinh (2 ulp) squared, log1p (2 ulp, condition <= 1) and three roundings: 16 u is generous below 1;
    # above 1 the sum v + (log1p(e^{−2v}) − log 2) loses at most a factor v / log cosh v < 2.4
    assert abs(dynamics.energy(np.ones((1, 1)), np.array([v])) - expected) <= 16 * U * expected


def test_log_cosh_keeps_its_digits_on_a_grid_of_every_size():
    v = np.concatenate([np.linspace(0.01, 3, 300), np.geomspace(1e-8, 20, 100)])
    found = dynamics.energy(np.ones((1, 1)), v[:, None])
    for value, expected in zip(found.tolist(), map(log_cosh, v.tolist()), strict=True):
        assert abs(value - expected) <= 8 * U * expected  # 2.8 u; some 130 u where log cosh cancels, for v near 0.1


@pytest.mark.skipif(np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps, reason="longdouble is float64 here")
def test_the_energy_of_longdouble_has_its_digits():
    with decimal.localcontext(prec=40):
        expected = np.longdouble(str((decimal.Decimal(3).exp() / 2 + decimal.Decimal(-3).exp() / 2).ln()))
    found = dynamics.energy(np.ones((1, 1), "g"), np.array([3.0], "g"))
    assert abs(found - expected) <= 16 * np.finfo(np.longdouble).eps * expected


def test_energy_of_huge_and_tiny_states():
    one = np.ones((1, 1))
    assert dynamics.energy(one, np.array([1e300])) == 1e300
    assert dynamics.energy(one, np.array([-1e300])) == 1e300
    assert dynamics.energy(one, np.array([1e-100])) == pytest.approx(0.5e-200, rel=1e-15)
    assert dynamics.energy(one.astype("f"), np.array([1e30], "f")) == np.float32(1e30)
    assert dynamics.energy(one, np.array([np.inf])) == np.inf
    assert np.isnan(dynamics.energy(one, np.array([np.nan])))


def test_energy_values_of_W_zero():
    """To the last printed digit of float64; the last bit depends on the order of operations, hence 4 units of it."""
    before = [0.4337808304830271, 0.8675616609660542, 1.2892210014968237]
    after = [1.0437387022204756, 1.5283640173364976, 1.8803137898449125]
    states = dynamics.feedback(W_ZERO, STARTS, 0.1, 50)
    np.testing.assert_allclose(dynamics.energy(W_ZERO, states[0]), before, rtol=0, atol=4 * np.spacing(1.0))
    np.testing.assert_allclose(dynamics.energy(W_ZERO, states[-1]), after, rtol=0, atol=4 * np.spacing(1.0))


def test_energy_is_conserved_by_the_ode():
    generator = np.random.default_rng(8)
    M, u = antisymmetric_matrix(generator, 6), generator.standard_normal(6)
    h0 = generator.standard_normal(6)
    solution = solve_ivp(
        lambda _, h: dynamics.vector_field(M, h, u), (0, 50), h0, method="DOP853", rtol=1e-11, atol=1e-12
    )
    values = dynamics.energy(M, solution.y.T, u)
    # ∇E = Mᵀ tanh v has norm <= ‖M‖₂ √n; the solver's own error is far above rounding and below 1e-7 here
    assert np.abs(values - values[0]).max() < 1e-7
    euler = dynamics.forward_euler(lambda h: dynamics.vector_field(M, h, u), h0, 0.05, 1000)
    assert dynamics.energy(M, euler[-1], u) > values[0] + 1e-3  # the same bound would see a drift


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.sampled_from([0.0, 0.01, 0.5]))
def test_energy_gradient_and_its_change_along_the_field_by_complex_step(seed, n, diffusion):
    generator = np.random.default_rng(seed)
    M = antisymmetric_matrix(generator, n) - diffusion * np.eye(n)
    h, u = generator.standard_normal(n), generator.standard_normal(n)
    slope = dynamics.vector_field(M, h, u)
    gradient = np.array([dynamics.energy(M, h + 1e-30j * row, u).imag / 1e-30 for row in np.eye(n)])
    scale = np.abs(M).T @ np.abs(slope)
    assert (np.abs(gradient - M.T @ slope) <= 16 * n * U * scale + 64 * U * np.abs(M).sum(axis=0)).all()
    rate = dynamics.energy(M, h + 1e-30j * slope, u).imag / 1e-30
    assert abs(rate - -diffusion * slope @ slope) <= 64 * n * U * np.abs(slope) @ np.abs(M) @ np.abs(slope) + 1e-300


def rounding_allowance(M, h, u, step_size):
    """How far one computed Euler step may lower the computed energy at γ = 0, by rounding alone; (B,) for h (B, n).

    Let s = tanh v, v = M h + u exactly, ŝ the computed one, and h' = h + ε ŝ + ρ the computed next state. E is convex
    with gradient Mᵀ s and sᵀ M s = 0, so exactly E(h') − E(h) >= ⟨s, M (h' − h)⟩ = ⟨s, M (ε (ŝ − s) + ρ)⟩ with
        |ŝ − s|    <= |v̂ − v| + 4u |s|,   |v̂ − v| <= (n + 2) u (|M| |h| + |u|)   (tanh has slope <= 1; 2 ulp)
        |ρ|        <= u (|h'| + ε |ŝ|) (1 + u)
    and a computed energy is off by at most Σ |v̂ − v| + (n + 16) u E (log cosh has slope <= 1; 16 u each; the sum).
    The factor 2 at the end covers the second-order terms and that the computed s, h', E stand for the exact ones.
    """
    n = len(M)

    def v_error(state):
        return (n + 2) * U * (np.abs(state) @ np.abs(M).T + np.abs(u))

    def energy_error(state):
        return v_error(state).sum(axis=-1) + (n + 16) * U * dynamics.energy(M, state, u)

    s = np.abs(dynamics.vector_field(M, h, u))
    following = h + step_size * dynamics.vector_field(M, h, u)
    drift = step_size * (v_error(h) + 4 * U * s) + U * (np.abs(following) + step_size * s)
    return 2 * (np.sum((s @ np.abs(M)) * drift, axis=-1) + energy_error(h) + energy_error(following))


def energy_falls(M, states, u, step_size):
    """Steps at which the energy falls by more than rounding explains."""
    values = dynamics.energy(M, states, u)
    return values[1:] < values[:-1] - rounding_allowance(M, states[:-1], u, step_size)


@settings(max_examples=150)
@given(st.data(), st.integers(1, 6), st.floats(1e-6, 1e3))
def test_energy_never_falls_under_euler_without_diffusion(data, n, step_size):
    scales = st.floats(-10, 10) | st.floats(-1e-8, 1e-8) | st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0, -1.0])
    W, h0, u = (data.draw(hnp.arrays(np.float64, shape, elements=scales)) for shape in ((n, n), (n,), (n,)))
    M = W - W.T
    states = dynamics.forward_euler(lambda h: dynamics.vector_field(M, h, u), h0, step_size, 20)
    assert not energy_falls(M, states, u, step_size).any()


def test_energy_rises_by_more_than_rounding_and_the_check_sees_a_fall():
    generator = np.random.default_rng(2)
    h0, u = generator.standard_normal(8), 0.1 * generator.standard_normal(8)
    K = antisymmetric_matrix(generator, 8)
    for step_size in (0.01, 0.1, 1.0):
        states = dynamics.forward_euler(lambda h: dynamics.vector_field(K, h, u), h0, step_size, 100)
        rises = np.diff(dynamics.energy(K, states, u))
        assert (rises > 1e3 * rounding_allowance(K, states[:-1], u, step_size)).mean() > 0.9
    for wrong in (K - 0.1 * np.eye(8), -np.triu(K)):  # diffusion; a W that is not antisymmetrised
        states = dynamics.forward_euler(lambda h, M=wrong: dynamics.vector_field(M, h, u), h0, 0.01, 100)
        assert energy_falls(wrong, states, u, 0.01).any()


# Arguments

FUNCTIONS = {
    "vector_field": (dynamics.vector_field, {"M": np.eye(2), "h": np.ones((3, 2)), "u": np.ones(2)}),
    "energy": (dynamics.energy, {"M": np.eye(2), "h": np.ones((3, 2)), "u": np.ones(2)}),
    "vanilla": (dynamics.vanilla, {"W": np.eye(2), "h0": np.ones((3, 2)), "T": 2}),
    "feedback": (dynamics.feedback, {"W": np.eye(2), "h0": np.ones((3, 2)), "step_size": 0.1, "T": 2}),
    "forward_euler": (dynamics.forward_euler, {"f": np.sin, "h0": np.ones((3, 2)), "step_size": 0.1, "T": 2}),
    "test_equation": (dynamics.test_equation, {"z0": 1.0, "eigenvalue": 1j, "t": np.ones(3)}),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble, np.complex128])
def test_arguments_may_be_read_only_and_the_result_has_their_dtype(name, dtype):
    function, arguments = FUNCTIONS[name]
    if name == "test_equation" and dtype == np.complex128:
        dtype = np.float64  # t is real
    arrays = {key: value.astype(dtype) for key, value in arguments.items() if type(value) is np.ndarray}
    for array in arrays.values():
        array.flags.writeable = False
    result = np.asarray(function(**(arguments | arrays)))
    assert result.dtype == (np.result_type(dtype, np.complex64) if name == "test_equation" else dtype)
    assert not any(np.shares_memory(result, array) for array in arrays.values())


@pytest.mark.parametrize(
    ("name", "changes", "error", "message"),
    [
        ("vector_field", {"M": [[1.0]]}, TypeError, "^M: expected numpy.ndarray, got list"),
        ("vector_field", {"M": np.eye(2, dtype=int)}, TypeError, "^M: expected dtype float32 or .*, got int64"),
        ("vector_field", {"M": np.eye(2, dtype="e")}, TypeError, "^M: expected dtype float32 or .*, got float16"),
        ("vector_field", {"M": np.ones((2, 3))}, ValueError, r"^M: expected \(n, n\) with n >= 1, got \(2, 3\)"),
        ("vector_field", {"M": np.ones((0, 0))}, ValueError, r"^M: expected \(n, n\) with n >= 1, got \(0, 0\)"),
        (
            "vector_field",
            {"h": np.ones((3, 3))},
            ValueError,
            r"^h: expected \(\.\.\., n\) = \(\.\.\., 2\), got \(3, 3\)",
        ),
        ("vector_field", {"h": np.ones(())}, ValueError, r"^h: expected \(\.\.\., n\) = \(\.\.\., 2\), got \(\)"),
        ("vector_field", {"h": np.ones(2, "f")}, TypeError, "^h: expected precision float64 as M has, got float32"),
        ("vector_field", {"u": np.ones(3)}, ValueError, r"^u: expected \(\.\.\., n\) = \(\.\.\., 2\), got \(3,\)"),
        ("vector_field", {"u": np.ones((4, 2))}, ValueError, "^h, u: expected shapes that broadcast, got"),
        ("vector_field", {"u": None}, TypeError, "^u: expected a number or numpy.ndarray, got NoneType"),
        ("energy", {"u": True}, TypeError, "^u: expected a number or numpy.ndarray, got bool"),
        ("energy", {"h": np.ones(3)}, ValueError, r"^h: expected \(\.\.\., n\) = \(\.\.\., 2\), got \(3,\)"),
        ("vanilla", {"h0": np.ones(3)}, ValueError, r"^h0: expected \(\.\.\., n\) = \(\.\.\., 2\), got \(3,\)"),
        ("vanilla", {"W": np.ones((2, 3))}, ValueError, r"^W: expected \(n, n\) with n >= 1, got \(2, 3\)"),
        ("feedback", {"h0": np.ones(3)}, ValueError, r"^h0: expected \(\.\.\., n\) = \(\.\.\., 2\), got \(3,\)"),
        ("vanilla", {"T": -1}, ValueError, "^T: expected an integer >= 0, got -1"),
        ("vanilla", {"T": 2.0}, TypeError, "^T: expected an integer, got float"),
        ("feedback", {"W": np.ones(2)}, ValueError, r"^W: expected \(n, n\) with n >= 1, got \(2,\)"),
        ("feedback", {"step_size": 0.0}, ValueError, "^step_size: expected a finite number > 0 in float64, got 0.0"),
        ("feedback", {"step_size": math.nan}, ValueError, "^step_size: expected a finite number > 0"),
        ("feedback", {"step_size": "1"}, TypeError, "^step_size: expected a real number, got str"),
        ("feedback", {"T": True}, TypeError, "^T: expected an integer, got bool"),
        ("forward_euler", {"f": 3}, TypeError, "^f: expected a callable, got int"),
        ("forward_euler", {"h0": 1.0}, TypeError, "^h0: expected numpy.ndarray, got float"),
        ("forward_euler", {"step_size": -1}, ValueError, "^step_size: expected a finite number > 0 in float64, got -1"),
        ("forward_euler", {"T": -2}, ValueError, "^T: expected an integer >= 0, got -2"),
        (
            "forward_euler",
            {"f": lambda h: h[0]},
            ValueError,
            r"^f\(h\): expected the shape of h0, \(3, 2\), got \(2,\)",
        ),
        ("forward_euler", {"f": lambda _: 0.0}, TypeError, r"^f\(h\): expected numpy.ndarray, got float"),
        (
            "forward_euler",
            {"f": lambda h: h.astype("f")},
            TypeError,
            r"^f\(h\): expected precision float64 as h0 has, got float32",
        ),
        ("test_equation", {"z0": "1"}, TypeError, "^z0: expected a number or numpy.ndarray, got str"),
        (
            "test_equation",
            {"z0": 10**400},
            ValueError,
            "^z0: expected a number .*, got an integer of 1329 bits",
        ),
        ("test_equation", {"t": 1j}, TypeError, "^t: expected a real number or numpy.ndarray, got complex"),
        ("test_equation", {"t": np.ones(2, complex)}, TypeError, "^t: expected dtype float32 or .*, got complex128"),
        (
            "test_equation",
            {"z0": np.ones(2)},
            ValueError,
            r"^z0, t: expected shapes that broadcast, got \[\(2,\), \(3,\)\]",
        ),
    ],
)
def test_bad_arguments(name, changes, error, message):
    function, arguments = FUNCTIONS[name]
    with pytest.raises(error, match=message):
        function(**(arguments | changes))
