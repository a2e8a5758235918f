"""DERIVATION.md: its tags are those of the docstrings and of the code, and the numbers it quotes are true."""

import ast
import io
import math
import re
import tokenize
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import antisymrnn_ref
from antisymrnn_ref import dynamics, initialization, stability
from antisymrnn_ref.antisymmetric import recurrent_matrix
from antisymrnn_ref.contract import kept_steps

FOLDER = Path(antisymrnn_ref.__file__).parent
DERIVATION = (FOLDER / "DERIVATION.md").read_text(encoding="utf-8")
FAMILIES = {
    "antisymmetric": ("F", "B"),
    "gated": ("GF", "GB"),
    "readout": ("R",),
    "dynamics": ("D",),
    "stability": ("S",),
    "initialization": ("I",),
}
TAG = r"\(([A-Z]{1,2}[0-9]+)\)"
FIGURE_STARTS = np.array([[0.0, 0.5], [-0.5, -0.5], [0.5, -0.75]])
W_DIFF = np.array([[-0.15, -2.0], [2.0, -0.15]])


# tags


def source(module):
    return (FOLDER / f"{module}.py").read_text(encoding="utf-8")


def anchors(derivation):
    return re.findall(rf"\*\*{TAG}\*\*", derivation)


def docstring_tags(code):
    """Tags on the equation lines, the indented ones, of the module's docstring."""
    lines = (ast.get_docstring(ast.parse(code)) or "").splitlines()
    return {tag for line in lines if line.startswith("    ") for tag in re.findall(TAG, line)}


def code_tags(code):
    """Tags in the comments that end a line of code; a comment on a line of its own does not count."""
    comments = [t for t in tokenize.generate_tokens(io.StringIO(code).readline) if t.type == tokenize.COMMENT]
    return {tag for c in comments if c.line[: c.start[1]].strip() for tag in re.findall(TAG, c.string)}


def mismatches(derivation, code, families):
    """Every tag of the families that is missing in one of the three places, with the name of that place."""

    def own(tags):
        return {tag for tag in tags if tag.rstrip("0123456789") in families}

    places = {
        "DERIVATION.md": own(anchors(derivation)),
        "docstring": own(docstring_tags(code)),
        "code": own(code_tags(code)),
    }
    return sorted(
        f"{tag} not in {place}" for place, tags in places.items() for tag in set().union(*places.values()) - tags
    )


@pytest.mark.parametrize("module", FAMILIES)
def test_tags_of_a_module_are_the_same_in_derivation_docstring_and_code(module):
    assert docstring_tags(source(module)), "no tag read: the comparison would be empty"
    assert mismatches(DERIVATION, source(module), FAMILIES[module]) == []


def test_every_anchor_occurs_once_and_belongs_to_a_module():
    found = anchors(DERIVATION)
    assert len(found) == len(set(found))
    families = {family for families in FAMILIES.values() for family in families}
    assert {tag.rstrip("0123456789") for tag in found} == families


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_every_tag_that_a_module_mentions_is_derived(path):
    assert set(re.findall(TAG, path.read_text(encoding="utf-8"))) <= set(anchors(DERIVATION))


def test_every_tag_that_the_derivation_mentions_is_derived():
    assert set(re.findall(TAG, DERIVATION)) == set(anchors(DERIVATION))


@pytest.mark.parametrize(
    ("place", "before", "after"),
    [
        ("DERIVATION.md", "**(B2)**", "(B2)"),
        ("docstring", "+ g_{t−1}        (B2)", "+ g_{t−1}"),
        ("code", "# (B2)", "# B2"),
        ("code", "adjoint = adjoint + delta @ M + cotangent(g, t, T)  # (B2)", "# (B2)"),
        ("code", "# (B2) (B, n)", "+ len('# (B2)')"),
    ],
)
def test_comparison_of_tags_sees_a_missing_one(place, before, after):
    derivation, code = DERIVATION, source("antisymmetric")
    if place == "DERIVATION.md":
        derivation = replaced(derivation, before, after)
    else:
        code = replaced(code, before, after)
    assert mismatches(derivation, code, ("F", "B")) == [f"B2 not in {place}"]


def test_comparison_of_tags_sees_one_too_many():
    expected = ["B10 not in code", "B10 not in docstring"]
    assert mismatches(DERIVATION + "**(B10)**", source("antisymmetric"), ("F", "B")) == expected


def replaced(text, before, after):
    assert text.count(before) == 1
    return text.replace(before, after)


# numbers


def assert_quoted(number, value):
    """``number`` stands in DERIVATION.md, and ``value`` rounds to it."""
    assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d])(?!\.\d)", DERIVATION), f"{number} is not in the text"
    decimals = len(number.partition(".")[2])
    assert abs(float(number.replace("−", "-").replace(",", "")) - value) <= 0.5000001 * 10.0**-decimals


def test_quotation_check_can_fail():
    assert_quoted("0.20204103", 10 - math.sqrt(96))
    with pytest.raises(AssertionError):
        assert_quoted("0.20204103", 0.2020411)
    with pytest.raises(AssertionError):
        assert_quoted("0.2020410", 10 - math.sqrt(96))


def test_w_diff_breaks_proposition_2():
    step_size, diffusion, omega = Fraction(1, 10), Fraction(15, 100), 2
    squared = (1 - step_size * diffusion) ** 2 + (step_size * omega) ** 2
    assert squared == Fraction("1.010225") == Fraction("0.970225") + Fraction("0.04")
    assert "0.985² + 0.2² = 0.970225 + 0.04 = 1.010225" in DERIVATION
    assert_quoted("1.005099", math.sqrt(squared))
    assert_quoted("11.4776", math.degrees(math.atan2(0.2, 0.985)))
    assert_quoted("4.0225", np.linalg.det(W_DIFF))
    assert_quoted("0.40225", float(step_size * (diffusion**2 + omega**2)))
    eigenvalues = np.linalg.eigvals(W_DIFF)
    np.testing.assert_allclose(stability.amplification(eigenvalues, 0.1), math.sqrt(squared), rtol=1e-15)
    assert not stability.is_euler_stable(eigenvalues, 0.1)


def test_critical_diffusion_is_the_smaller_root():
    assert_quoted("0.20204103", 10 - 4 * math.sqrt(6))
    assert_quoted("0.20204103", stability.critical_diffusion(2.0, 0.1))
    for step_size, d, omega in ((0.1, 1.0, 2.0), (0.5, 0.3, 4.0), (1.0, 0.9, 1.1)):
        diffusion = stability.critical_diffusion(omega, step_size, d)
        small, large = diffusion, omega**2 / diffusion
        for root in (small, large):
            assert d == pytest.approx(2 * root / (step_size * (root**2 + omega**2)), rel=1e-13)
        for inside, stable in (
            (small * 0.999, False),
            (small * 1.001, True),
            (large * 0.999, True),
            (large * 1.001, False),
        ):
            assert stability.is_euler_stable(d * complex(-inside, omega), step_size) is stable


def test_limit_cycle_of_w_diff():
    starts = np.concatenate([FIGURE_STARTS, [[0.05, 0.0], [3.0, 3.0]]])
    radius = np.linalg.norm(dynamics.feedback(W_DIFF, starts, 0.1, 60_000), axis=-1)[20_000:]
    for start in range(len(starts)):
        assert_quoted("0.5700", radius[:, start].min())
        assert_quoted("0.5981", radius[:, start].max())
        assert_quoted("0.5841", radius[:, start].mean())


def test_gated_counter_example():
    t, z = math.tanh(3), 1 / (1 + math.exp(3))
    quoted = {
        "0.995054754": t,
        "0.009866037": 1 - t**2,
        "0.047425873": z,
        "0.952574127": 1 - z,
        "0.000467905": z * (1 - t**2),
        "0.044953250": z * (1 - z) * t,
        "0.004933019": (1 - t**2) / 2,
        "0.248763688": t / 4,
    }
    d = [z * (1 - t**2) - z * (1 - z) * t, (1 - t**2) / 2 + t / 4]
    quoted |= {"−0.044485345": d[0], "0.253696707": d[1], "0.011285785": -d[0] * d[1]}
    quoted |= {"0.106234577": math.sqrt(-d[0] * d[1])}
    for number, value in quoted.items():
        assert_quoted(number, value)
    D = stability.gated_diagonal(np.array([-3.0, 3.0]), np.array([-3.0, 0.0]))
    np.testing.assert_allclose(D, d, rtol=1e-13)
    J = stability.jacobian(D, np.array([[0.0, 1.0], [-1.0, 0.0]]))
    eigenvalues = np.linalg.eigvals(J)
    assert (np.imag(eigenvalues) == 0).all()
    np.testing.assert_allclose(np.sort(np.real(eigenvalues)), [-0.106234577, 0.106234577], rtol=1e-8)
    assert np.linalg.det(np.eye(2) + 0.5 * J) == pytest.approx(1 - 0.011285785 * 0.5**2, rel=1e-9)


def test_sign_and_range_of_the_gated_diagonal():
    assert_quoted("−0.618034", -(math.sqrt(5) - 1) / 2)
    assert math.atanh(-(math.sqrt(5) - 1) / 2) < -0.7218
    assert "a ≥ −0.7218 " in DERIVATION
    a, a_z = (grid.ravel() for grid in np.meshgrid(np.linspace(-8, 8, 401), np.linspace(-8, 8, 401)))
    D, p = stability.gated_diagonal(a, a_z), 1 - 1 / (1 + np.exp(-a_z))
    assert (D < 0).any()
    np.testing.assert_array_equal(D < 0, np.tanh(a) < -(np.sqrt(p**2 + 4) - p) / 2)
    assert D.min() > -1 / 4
    assert D.max() < 1


# the counter-example to frozen eigenvalues


K = np.array([[0.0, 2.0], [-2.0, 0.0]])
TIMES = np.linspace(0.0, 2 * np.pi, 1001)


def frozen_diagonal(angle):
    s, c = np.sin(angle), np.cos(angle)
    return np.stack([(1 - 2 * s * c**3) / 2, (1 + 2 * s**3 * c) / 2], axis=-1)  # (..., 2)


def growing_solution(t, rate=1 / 4):
    r = np.exp(rate * t - np.sin(4 * t) / 16)
    return np.stack([r * np.cos(t), -r * np.sin(t)], axis=-1)  # (..., 2)


def residual(solution):
    """y' − J y at TIMES relative to ‖y‖, the derivative by a complex step."""
    derivative = solution(TIMES + 1e-30j).imag / 1e-30
    y = solution(TIMES)
    J = stability.jacobian(frozen_diagonal(TIMES), K)
    return np.abs(derivative - (J @ y[..., None])[..., 0]).max(axis=-1) / np.linalg.norm(y, axis=-1)


def test_growing_solution_satisfies_the_equation():
    assert residual(growing_solution).max() < 1e-14
    assert residual(lambda t: growing_solution(t, rate=1 / 5)).min() > 0.02  # the substitution can fail
    assert_quoted("2.193280", math.exp(math.pi / 4))
    norms = np.linalg.norm(growing_solution(np.arange(9) * np.pi), axis=-1)
    np.testing.assert_allclose(norms[1:] / norms[:-1], math.exp(math.pi / 4), rtol=1e-13)


def test_frozen_eigenvalues_are_imaginary_and_d_lies_between_0_and_1():
    D = frozen_diagonal(np.linspace(0.0, 2 * np.pi, 100_001))
    assert_quoted("0.175240", D.min())
    assert_quoted("0.824760", D.max())
    assert_quoted("0.175240", 1 / 2 - 3 * math.sqrt(3) / 16)
    assert stability.meets_critical_criterion(stability.jacobian(D[::100], K), 1e-15).all()


def test_growing_solution_belongs_to_equation_8():
    D = frozen_diagonal(TIMES)
    a = np.arctanh(np.sqrt(1 - D))
    np.testing.assert_allclose(stability.diagonal(a), D, rtol=1e-13)
    step_size, T = 1e-3, round(8 * math.pi / 1e-3)
    D = frozen_diagonal(step_size * np.arange(T))
    parameters = antisymrnn_ref.Parameters(np.array([[0.0, 2.0], [0.0, 0.0]]), np.eye(2), np.zeros(2))
    a = np.arctanh(np.sqrt(1 - D))
    h = np.concatenate([np.zeros((1, 2)), step_size * np.cumsum(np.tanh(a), axis=0)])[:, None]  # (T+1, 1, 2)
    x = a[:, None] - h[:-1] @ K.T
    np.testing.assert_allclose(
        antisymrnn_ref.antisymmetric.forward(parameters, x, h[0], step_size=step_size, diffusion=0.0).h, h, atol=1e-12
    )
    steps = stability.step_jacobians(parameters, x, h, step_size=step_size, diffusion=0.0)
    growth = np.linalg.norm(stability.end_to_end_jacobian(steps)[0], 2)
    assert growth > math.exp(2 * math.pi)  # e^{t/4} at t = 8π, and Euler adds to it


@pytest.mark.parametrize("diffusion", [0.0, 0.1, 0.25, 0.4])
def test_growing_solution_with_diffusion(diffusion):
    angle = np.linspace(0.0, 2 * np.pi, 4096, endpoint=False)
    s, c, D = np.sin(angle), np.cos(angle), frozen_diagonal(angle)
    J = stability.jacobian(D, K - diffusion * np.eye(2))
    y = np.stack([c, -s], axis=-1)  # r = 1
    slope = (J @ y[..., None])[..., 0]
    radial, turning = (y * slope).sum(axis=-1), y[:, 1] * slope[:, 0] - y[:, 0] * slope[:, 1]
    np.testing.assert_allclose(turning, 1 - diffusion * s**2 * c**2, atol=1e-14)
    np.testing.assert_allclose(radial, 2 * s**2 * c**2 - diffusion * (1 / 2 - np.sin(4 * angle) / 4), atol=1e-14)
    growth = (radial / turning).mean() * 2 * math.pi  # trapezoidal rule of a periodic function
    bound = 2 * math.pi * (1 / 4 - (diffusion / 2) / (1 - diffusion / 4))
    assert growth >= bound - 1e-12
    assert bound > 0
    assert np.linalg.eigvals(J).real.max() <= -0.175240 * diffusion + 1e-15


def test_bound_of_the_growth_vanishes_at_four_ninths():
    diffusion = Fraction(4, 9)
    assert Fraction(1, 4) == (diffusion / 2) / (1 - diffusion / 4)


def test_product_grows_though_every_euler_step_is_stable():
    step_size, diffusion, T = 0.01, 0.1, 6000
    M, angle, product, largest = K - diffusion * np.eye(2), 0.0, np.eye(2), 0.0
    for _ in range(T):
        step = np.eye(2) + step_size * stability.jacobian(frozen_diagonal(angle), M)
        largest = max(largest, np.abs(np.linalg.eigvals(step)).max())
        product = step @ product
        angle += step_size * (1 - diffusion * (math.sin(angle) * math.cos(angle)) ** 2)
    assert "0.99965" in DERIVATION
    assert largest < 0.99965
    assert_quoted("2.55", np.linalg.norm(product, 2) / 1e5)


# the other numbers


def test_energies_of_figure_1():
    M = np.array([[0.0, -2.0], [2.0, 0.0]])
    energy = dynamics.energy(M, dynamics.feedback(M, FIGURE_STARTS, 0.1, 50))
    for first, last, column in zip(
        ("0.433781", "0.867562", "1.289221"), ("1.043739", "1.528364", "1.880314"), energy.T, strict=True
    ):
        assert_quoted(first, column[0])
        assert_quoted(last, column[-1])
    assert (np.diff(energy, axis=0) > 0).all()


@pytest.mark.parametrize("diffusion", [0.3, 2.0, 5.0])
def test_energy_never_increases_under_euler_with_enough_diffusion(diffusion):
    generator = np.random.default_rng(0)
    W, u = generator.standard_normal((5, 5)), generator.standard_normal(5)
    M = recurrent_matrix(W, diffusion)
    size = np.linalg.norm(W - W.T, 2)
    h = generator.standard_normal((2000, 5)) * 10 ** generator.uniform(-1, 1, (2000, 1)) - np.linalg.solve(M, u)
    s = dynamics.vector_field(M, h, u)

    def change(step_size):
        return dynamics.energy(M, h + step_size * s, u) - dynamics.energy(M, h, u)

    def bound(step_size):
        return step_size / 2 * (s**2).sum(axis=-1) * (step_size * (diffusion**2 + size**2) - 2 * diffusion)

    critical = 2 * diffusion / (diffusion**2 + size**2)
    rounding = 1e-14 * (1 + dynamics.energy(M, h, u))
    assert (change(critical) <= rounding).all()
    for step_size in (critical / 2, 3 * critical):
        assert (change(step_size) <= bound(step_size) + rounding).all()
        assert (change(step_size) >= -step_size * diffusion * (s**2).sum(axis=-1) - rounding).all()
    assert change(10 * critical).max() > 0.01


def test_identity_recurrence():
    assert_quoted("0.163171", dynamics.vanilla(np.eye(2), FIGURE_STARTS, 50)[50, 0, 1])
    assert_quoted("0.173205", math.sqrt(3 / 100))
    assert_quoted("0.163663", (4 + 100 / 3) ** -0.5)
    h = 1e-2
    assert 1 / math.tanh(h) ** 2 - 1 / h**2 - 2 / 3 == pytest.approx(h**2 / 15, rel=1e-3)
    late = dynamics.vanilla(np.eye(1), np.array([0.5]), 20_000)[-1, 0]
    assert late * math.sqrt(2 * 20_000 / 3) == pytest.approx(1, abs=2e-4)


def test_determinants_of_rotation_and_reflection():
    c, s = Fraction(3, 5), Fraction(4, 5)
    for (p, q), (v, w), expected in (((c, -s), (s, c), 1), ((c, s), (s, -c), -1)):
        assert p * w - q * v == expected


def test_initialization_numbers():
    assert 8128 + 256 + 1290 == 9674 == initialization.parameter_count(128, 1, 10)
    assert "8128 + 256 + 1290 = 9674" in DERIVATION
    assert math.sqrt(256) == 16


def test_rounding_of_the_step_size():
    assert f"{float(np.float32(0.1))!r}" in DERIVATION
    assert np.float32(1e-60) == 0


def test_stored_matrix_is_exactly_antisymmetric():
    generator = np.random.default_rng(0)
    W = generator.choice([0.0, -0.0, 1.0, 1e-310, *generator.standard_normal(5)], (40, 40))
    stored = recurrent_matrix(W, 0.0)
    assert (stored + stored.T).tobytes() == np.zeros((40, 40)).tobytes()
    np.testing.assert_array_equal(recurrent_matrix(W, 0.3) + recurrent_matrix(W, 0.3).T, -0.6 * np.eye(40))


def test_number_of_kept_states():
    for T in range(12):
        for k in range(1, 15):
            assert len(kept_steps(T, k)) == -(-T // k) + 1


def test_counts_of_an_lstm_and_of_the_gate():
    n, m, c = 128, 1, 10
    assert_quoted("67,850", 4 * (n * n + n * m + n) + c * (n + 1))
    gate = initialization.parameter_count(n, m, c, gated=True) - initialization.parameter_count(n, m, c)
    assert gate == n * m + n
    assert initialization.parameter_count(n, m, c, gated=True, unconstrained=True) == n * n + 2 * gate + c * (n + 1)


@pytest.mark.parametrize("diffusion", [0.0, 0.3])
def test_remainder_of_the_geometric_mean(diffusion):
    generator, step_size = np.random.default_rng(0), 0.05
    for n in (2, 5, 9):
        M = recurrent_matrix(generator.standard_normal((n, n)), diffusion)
        D = stability.diagonal(generator.standard_normal(n))
        X = step_size * D[:, None] * M
        rho = np.linalg.norm(X, 2)
        assert rho < 1
        off = np.log(abs(np.linalg.det(np.eye(n) + X))) / n + step_size * diffusion * D.mean()
        assert off * (diffusion == 0) >= -1e-15
        assert abs(off) <= rho**2 / (2 * (1 - rho))


def test_orthogonal_states_shrink():
    generator = np.random.default_rng(0)
    for n in (2, 3, 8):
        W, h = np.linalg.qr(generator.standard_normal((n, n)))[0], generator.standard_normal(n)
        norms = np.linalg.norm(dynamics.vanilla(W, h[None], 2000)[:, 0], axis=-1)
        assert (np.diff(norms) < 0).all()
        assert norms[-1] < 0.1


def test_a_slow_turn_by_half_a_turn():
    for rate in (1e-2, 1e-4):
        t = math.sqrt(2 * math.pi / rate)
        angles = t + rate * t**2 / 2, t
        turned, constant = (np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]) for a in angles)
        assert abs(np.linalg.norm(turned - constant, 2) - 2) < 1e-9
        assert math.isclose(rate * t, math.sqrt(2 * math.pi * rate))


def test_change_of_the_jacobian_between_two_inputs():
    K = np.array([[0.0, -2.0], [2.0, 0.0]])
    for d in (0.01, 0.5):
        first, second = np.diag([1, d]) @ K, np.diag([d, 1]) @ K
        change = np.linalg.norm(second - first) / np.linalg.norm(first)
        assert math.isclose(change, math.sqrt(2) * (1 - d) / math.sqrt(1 + d * d))


def test_steps_of_figure_1_by_hand():
    W, step_size = np.array([[0.0, -2.0], [2.0, 0.0]]), 0.1
    h = FIGURE_STARTS[2]
    s = np.tanh(W @ h)
    assert_quoted("0.118621", -(h @ s))
    assert_quoted("1.399319", s @ s)
    change = 2 * step_size * (h @ s) + step_size**2 * (s @ s)
    assert_quoted("0.009731", -change)
    after = h + step_size * s
    assert math.isclose(after @ after - h @ h, change)
    for x, y in np.random.default_rng(0).standard_normal((50, 2)):
        s = np.tanh(W @ (x, y))
        assert math.isclose(x * s[1] - y * s[0], x * math.tanh(2 * x) + y * math.tanh(2 * y))
        assert math.isclose(x * s[0] + y * s[1], y * math.tanh(2 * x) - x * math.tanh(2 * y), abs_tol=1e-12)


def test_orbits_have_different_periods_of_at_least_4r():
    W, step_size = np.array([[0.0, -2.0], [2.0, 0.0]]), 1e-3
    periods = []
    for r in (0.01, 0.5, 2.0):
        h, below, t = np.array([r, 0.0]), False, 0.0
        while not below or h[1] < 0:
            below = h[1] < 0
            k1 = np.tanh(W @ h)
            k2 = np.tanh(W @ (h + step_size * k1 / 2))
            k3 = np.tanh(W @ (h + step_size * k2 / 2))
            k4 = np.tanh(W @ (h + step_size * k3))
            h, t = h + step_size * (k1 + 2 * k2 + 2 * k3 + k4) / 6, t + step_size
        periods.append(t)
        assert t >= 4 * r
    assert abs(periods[0] - math.pi) < 0.01
    assert periods[0] + 0.1 < periods[1] < periods[2]
