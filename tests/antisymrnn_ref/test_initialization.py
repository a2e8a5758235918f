"""The draws have the paper's variances, which the common slip does not; the counts are those of the tables."""

from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from antisymrnn_ref import GatedParameters, Parameters, initialization
from antisymrnn_ref.readout import ReadoutParameters

LEVEL = 1e-6  # a correct draw of one seed fails a chi-square test with this probability


def has_variance(sample, variance):
    """Whether Σ x² / variance lies in the central 1 − LEVEL interval of chi-square, exact for N(0, variance)."""
    lower, upper = stats.chi2.interval(1 - LEVEL, sample.size)
    return bool(lower <= (sample**2).sum() / variance <= upper)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sigma_w", [1, 2, 16])
def test_the_second_argument_of_the_normal_law_is_a_variance(sigma_w, dtype):
    n, m = 64, 24
    W, V, b, V_z, b_z = initialization.gated_parameters(np.random.default_rng(7), n, m, sigma_w=sigma_w, dtype=dtype)
    assert has_variance(W, sigma_w**2 / n)
    assert has_variance(V, 1 / m)
    assert has_variance(V_z, 1 / m)
    assert all(array.dtype == dtype and array.flags.c_contiguous for array in (W, V, b, V_z, b_z))
    assert not b.any()
    assert not b_z.any()
    for sample, deviation in ((W, sigma_w / np.sqrt(n)), (V, 1 / np.sqrt(m)), (V_z, 1 / np.sqrt(m))):
        assert stats.kstest(sample.ravel() / deviation, "norm").pvalue > 1e-3  # normal, not only of that variance
    assert abs(np.corrcoef(V.ravel(), V_z.ravel())[0, 1]) < 5 / np.sqrt(V.size)  # two draws, not one


def test_the_common_slip_is_rejected():
    """Standard deviation σ_w²/n and 1/m, or √ forgotten altogether: 1/n where 1/√n belongs."""
    n, m = 64, 24
    generator = np.random.default_rng(7)
    slip_W, slip_V = generator.normal(0, 1 / n, (n, n)), generator.normal(0, 1 / m, (n, m))
    assert not has_variance(slip_W, 1 / n)
    assert not has_variance(slip_V, 1 / m)
    wrong_fan = generator.normal(0, 1 / np.sqrt(n), (n, m))  # V scaled by n in place of m
    assert not has_variance(wrong_fan, 1 / m)


def test_triangular_keeps_the_entries_above_the_diagonal_and_their_variance():
    n, m = 64, 3
    full = initialization.parameters(np.random.default_rng(3), n, m, sigma_w=2)
    upper = initialization.parameters(np.random.default_rng(3), n, m, sigma_w=2, triangular=True)
    above = np.triu_indices(n, 1)
    np.testing.assert_array_equal(upper.W[above], full.W[above])
    assert np.count_nonzero(upper.W) == n * (n - 1) // 2
    assert not np.tril(upper.W).any()
    assert has_variance(upper.W[above], 4 / n)
    K = full.W - full.W.T
    assert has_variance(K[above], 2 * 4 / n)  # the docstring's factor 2 for a full W
    np.testing.assert_array_equal(upper.V, full.V)


def test_draw_order_is_W_then_V_then_V_z_and_float32_is_the_float64_draw_rounded():
    n, m, sigma_w = 5, 3, 0.1  # which float32 has not
    generator = np.random.default_rng(11)
    W = generator.standard_normal((n, n)) * sigma_w / np.sqrt(n)
    V, V_z = (generator.standard_normal((n, m)) / np.sqrt(m) for _ in range(2))
    gated = initialization.gated_parameters(np.random.default_rng(11), n, m, sigma_w=sigma_w)
    plain = initialization.parameters(np.random.default_rng(11), n, m, sigma_w=sigma_w)
    single = initialization.gated_parameters(np.random.default_rng(11), n, m, sigma_w=sigma_w, dtype="float32")
    assert type(gated) is GatedParameters
    assert type(plain) is Parameters
    for found, expected in ((gated.W, W), (gated.V, V), (gated.V_z, V_z)):
        np.testing.assert_allclose(found, expected, rtol=4 * np.finfo(float).eps)  # two roundings in another order
    np.testing.assert_array_equal(plain.W, gated.W)
    np.testing.assert_array_equal(plain.V, gated.V)
    for found, expected in zip(single, gated, strict=True):
        np.testing.assert_array_equal(found, expected.astype(np.float32))


@pytest.mark.parametrize("cell", ["", "gated_"])
@pytest.mark.parametrize("dtype", [np.float32, np.dtype(np.float32), "float32", np.float64])
def test_every_leaf_has_the_dtype_and_the_biases_are_zero(cell, dtype):
    parameters = getattr(initialization, f"{cell}parameters")(np.random.default_rng(0), 3, 2, sigma_w=1, dtype=dtype)
    assert {leaf.dtype for leaf in parameters} == {np.dtype(dtype)}
    assert not any(leaf.any() for name, leaf in parameters._asdict().items() if name.startswith("b"))


@pytest.mark.parametrize("sigma_w", [np.float32(0.1), np.longdouble(0.1), Fraction(1, 10), np.uint8(3)])
def test_sigma_w_is_any_real_number_and_no_bit_of_a_draw_depends_on_its_type(sigma_w):
    found = initialization.parameters(np.random.default_rng(5), 5, 2, sigma_w=sigma_w)
    expected = initialization.parameters(np.random.default_rng(5), 5, 2, sigma_w=float(sigma_w))
    np.testing.assert_array_equal(found.W, expected.W)


def test_sigma_zero_and_the_smallest_sizes():
    W, V, b = initialization.parameters(np.random.default_rng(0), 1, 1, sigma_w=0)
    assert (W.shape, V.shape, b.shape) == ((1, 1), (1, 1), (1,))
    assert W[0, 0] == 0
    assert V[0, 0] != 0


COUNTS = [
    ("MNIST", 128, 1, False, False, 9674),
    ("MNIST gated", 128, 1, True, False, 9930),
    ("pixel CIFAR", 256, 3, False, False, 36234),
    ("pixel CIFAR gated", 256, 3, True, False, 37258),
    ("pixel CIFAR ablation", 196, 3, True, True, 41954),
    ("noise-padded", 256, 96, False, False, 60042),
    ("noise-padded gated", 256, 96, True, False, 84874),
    ("noise-padded ablation", 196, 96, True, True, 78410),
]


@pytest.mark.parametrize(
    ("n", "m", "gated", "unconstrained", "expected"), [c[1:] for c in COUNTS], ids=lambda v: str(v)
)
def test_parameter_counts_of_the_tables_by_formula_and_by_counting(n, m, gated, unconstrained, expected):
    chosen = {name: True for name, value in (("gated", gated), ("unconstrained", unconstrained)) if value}
    assert initialization.parameter_count(n, m, 10, **chosen) == expected
    draw = initialization.gated_parameters if gated else initialization.parameters
    parameters = draw(np.random.default_rng(0), n, m, sigma_w=1, triangular=not unconstrained)
    readout = ReadoutParameters(np.zeros((10, n)), np.zeros(10))
    others = sum(array.size for array in (*parameters[1:], *readout))
    assert np.count_nonzero(parameters.W) + others == expected


def draw(**changes):
    arguments = {"generator": np.random.default_rng(0), "n": 4, "m": 2, "sigma_w": 1.0} | changes
    return initialization.parameters(arguments.pop("generator"), arguments.pop("n"), arguments.pop("m"), **arguments)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"generator": 0}, TypeError, r"^generator: expected numpy\.random\.Generator, got int"),
        ({"generator": np.random.RandomState(0)}, TypeError, "^generator: expected .*, got .*RandomState"),
        ({"n": 4.0}, TypeError, "^n: expected an integer, got float"),
        ({"n": True}, TypeError, "^n: expected an integer, got bool"),
        ({"n": 0}, ValueError, "^n: expected an integer >= 1, got 0"),
        ({"m": -1}, ValueError, "^m: expected an integer >= 1, got -1"),
        ({"m": "2"}, TypeError, "^m: expected an integer, got str"),
        ({"sigma_w": -1}, ValueError, "^sigma_w: expected a finite number >= 0 in float64, got -1"),
        ({"sigma_w": np.nan}, ValueError, "^sigma_w: expected a finite number >= 0 in float64, got nan"),
        ({"sigma_w": "1"}, TypeError, "^sigma_w: expected a real number, got str"),
        ({"triangular": 1}, TypeError, "^triangular: expected True or False, got int"),
        ({"dtype": np.float16}, TypeError, "^dtype: expected float32 or float64, got .*float16"),
        ({"dtype": "abc"}, TypeError, "^dtype: expected float32 or float64, got abc"),
        ({"dtype": None}, TypeError, "^dtype: expected float32 or float64, got None"),
        ({"dtype": np.complex128}, TypeError, "^dtype: expected float32 or float64, got .*complex128"),
    ],
)
def test_bad_arguments_of_a_draw(changes, error, message):
    with pytest.raises(error, match=message):
        draw(**changes)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((0, 1, 10), {}, ValueError, "^n: expected an integer >= 1, got 0"),
        ((4, 0, 10), {}, ValueError, "^m: expected an integer >= 1, got 0"),
        ((4, 1, 0), {}, ValueError, "^classes: expected an integer >= 1, got 0"),
        ((4, 1, 2.0), {}, TypeError, "^classes: expected an integer, got float"),
        ((4, 1, 2), {"gated": 1}, TypeError, "^gated: expected True or False, got int"),
        ((4, 1, 2), {"unconstrained": None}, TypeError, "^unconstrained: expected True or False, got NoneType"),
    ],
)
def test_bad_arguments_of_a_count(arguments, options, error, message):
    with pytest.raises(error, match=message):
        initialization.parameter_count(*arguments, **options)


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32, np.uint8, np.int64])
def test_counts_do_not_overflow_in_narrow_integers(kind):
    n = int(min(np.iinfo(kind).max, 65536))
    counted = initialization.parameter_count(kind(n), kind(100), kind(10))
    assert counted == initialization.parameter_count(n, 100, 10)
    assert type(counted) is int


def test_a_deviation_too_large_for_the_dtype_is_refused():
    with pytest.raises(ValueError, match="^sigma_w: expected a finite number >= 0 in float32, got 1e[+]39"):
        initialization.parameters(np.random.default_rng(0), 3, 2, sigma_w=1e39, dtype=np.float32)
