import numpy as np
import pytest

from antisymrnn_ref import initialization
from antisymrnn_ref.contract import Parameters
from antisymrnn_validation import cli
from antisymrnn_validation.cli import spectral
from antisymrnn_validation.theory import spectra


def lstm(n=3, m=2):
    r = np.random.default_rng(0)
    return Parameters(r.standard_normal((4 * n, n)), r.standard_normal((4 * n, m)), r.standard_normal(4 * n))


def test_the_jacobian_of_the_lstm_is_the_complex_step():
    p, r = lstm(), np.random.default_rng(1)
    x, state = r.standard_normal(2), r.standard_normal(6)
    J = spectra.lstm_step(p, x, state[:3], state[3:])[2]
    for k in range(6):
        moved = state + 1e-30j * np.eye(6)[k]
        h, c, _ = spectra.lstm_step(p, x, moved[:3], moved[3:])
        np.testing.assert_allclose(np.concatenate([h, c]).imag / 1e-30, J[:, k], rtol=1e-12, atol=1e-14)


def test_a_product_of_1e_minus_2000_is_not_lost():
    curve = spectra.spectrum("", (0.01 * np.eye(4) for _ in range(1000)), [1000])
    assert curve.mean[0] == pytest.approx(-2000, rel=1e-12)


def test_the_bounds_contain_the_singular_values():
    x = np.random.default_rng(0).standard_normal((50, 96))
    for name, steps in spectra.recurrences(8, 96, 0).items():
        if name in ("antisymmetric", "gated"):
            (low, high), (s, S) = (c[0] for c in spectra.spectrum(name, steps(x), [50])[:3:-1])
            assert low <= s <= S <= high


@pytest.mark.parametrize("options", [["--lengths", "0"], ["--lengths", "a"], ["--units", "0"], ["--seeds", "-1"]])
def test_bad_input_is_one_line(options, capsys, tmp_path):
    with pytest.raises(SystemExit) as error:
        cli.main(["spectra", "--output", str(tmp_path), *options])
    assert error.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_step_jacobians_are_those_of_the_recurrences_by_complex_step():
    n, m, T = 4, 3, 6
    x = np.random.default_rng(3).standard_normal((T, m))
    p = initialization.parameters(np.random.default_rng(4), n, m, sigma_w=1.0)

    def ends(h0):
        h = h0
        for x_t in x:
            h = np.tanh(p.W @ h + p.V @ x_t + p.b)
        return h

    product = np.linalg.multi_dot(list(spectra.vanilla_steps(p, x))[::-1])
    first = [ends(1e-30j * row).imag / 1e-30 for row in np.eye(n)]  # the column of each entry of h0
    np.testing.assert_allclose(product, np.array(first).T, rtol=1e-11, atol=1e-15)


def test_gradient_norms_are_those_of_the_product_and_zero_is_minus_infinity():
    steps = [np.random.default_rng(k).standard_normal((3, 3)) for k in range(4)]
    norms = spectra.gradient_norms(iter(steps))
    expected = np.full(3, 3**-0.5) @ steps[3] @ steps[2] @ steps[1] @ steps[0]
    assert norms[0] == pytest.approx(np.log10(np.linalg.norm(expected)))
    assert norms[-1] == 0
    assert spectra.gradient_norms([np.eye(2), np.zeros((2, 2))]) == [-np.inf, -np.inf, 0.0]


def test_the_files_are_the_same_bytes_again_and_huge_numbers_are_told(tmp_path, capsys):
    contents = []
    for name in ("a", "b"):
        with pytest.raises(SystemExit) as error:
            cli.main(
                ["spectra", "--units", "3", "--seeds", "1", "--lengths", "4,900", "--output", str(tmp_path / name)]
            )
        assert error.value.code == 0
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]
    assert sorted(contents[0]) == ["gradient-norms.png", "gradient-norms.svg", "spectra.png", "spectra.svg"]
    assert spectral._power_of_ten(-2000.5) == "3.16e-2001"
    assert spectral._power_of_ten(np.log10(0.967)) == "0.967"
    assert "known, n = 64, T = 800" in capsys.readouterr().out


def test_a_size_beyond_the_memory_is_refused_and_nothing_is_made(tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(["spectra", "--units", "100000", "--output", str(tmp_path / "none")])
    assert error.value.code == 2
    assert "does not fit into the memory" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
