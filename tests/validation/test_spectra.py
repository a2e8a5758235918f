import numpy as np
import pytest

from antisymrnn_ref.contract import Parameters
from antisymrnn_validation import cli
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
