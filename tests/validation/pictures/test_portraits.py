"""Phase portraits: the numbers behind the drawings, the files, and what bad options get."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver

from antisymrnn_ref import antisymmetric, dynamics, initialization, stability
from antisymrnn_validation.claims import figure_one
from antisymrnn_validation.experiments import data, tasks
from antisymrnn_validation.pictures import portraits

W0 = np.array([[0.0, -2.0], [2.0, 0.0]])
OWN = ("portraits", "--matrix", "0 -2; 2 0")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_eight_systems_of_the_kinds_that_the_paper_has():
    systems = portraits.figure_one_systems()
    assert "".join(systems) == "abcdefgh"
    assert [system.step_size for system in systems.values()] == [None] * 4 + [0.1] * 4
    for letter, determinant in (("c", 1.0), ("d", -1.0)):  # a rotation, a reflection
        W = systems[letter].matrix
        np.testing.assert_allclose(W @ W.T, np.eye(2), atol=1e-15)
        assert np.linalg.det(W) == pytest.approx(determinant)


def test_end_states_agree_with_the_known_ones_and_a_wrong_one_does_not(monkeypatch):
    records = portraits.end_states()
    assert [record["agrees"] for record in records].count(True) == 15
    assert [record["agrees"] for record in records].count(None) == 9
    moved = {**figure_one.END_STATES, "W₀": [(-0.620996, 0.487439), *figure_one.END_STATES["W₀"][1:]]}
    monkeypatch.setattr(portraits, "END_STATES", moved)
    (wrong,) = [record for record in portraits.end_states() if record["agrees"] is False]
    assert wrong["system"] == "(g) feedback, W₀"


def test_captions_have_the_printed_numbers():
    told = {letter: portraits.caption(system) for letter, system in portraits.figure_one_systems().items()}
    assert told["b"] == "λ = 1, 1"
    assert told["e"] == "λ = 2, 2\n|1 + ελ| = 1.200000"
    assert told["g"] == "λ = ±2i\n|1 + ελ| = 1.019804"
    assert told["h"] == "λ = −0.15 ± 2i\n|1 + ελ| = 1.005099"
    double = portraits.System("", "", np.array([[2.0, -9.0], [1.0, -4.0]]), None)
    assert portraits.caption(double) == "λ = −1, −1"
    saddle = portraits.System("", "", np.diag([-2.0, 1.0]), 0.1)
    assert portraits.caption(saddle) == "λ = 1, −2\n|1 + ελ| = 1.100000, 0.800000"


def test_a_flow_that_stops_before_the_last_time_is_an_error(monkeypatch):
    monkeypatch.setattr(dynamics, "vector_field", lambda _, h, __: h**2)
    with np.errstate(all="ignore"), pytest.raises(ArithmeticError, match="the ODE's solver stopped"):
        portraits.flow(W0, np.array([1.0, 1.0]), np.array([0.0, 2.0]))


def test_the_flow_keeps_the_energy_and_euler_tends_to_it_with_order_one():
    times = np.linspace(0.0, 5.0, 6)
    start = portraits.STARTS[2]
    exact = portraits.flow(W0, start, times)
    energies = dynamics.energy(W0, exact)
    np.testing.assert_allclose(energies, energies[0], rtol=1e-11)
    errors = [np.linalg.norm(dynamics.feedback(W0, start, 5.0 / T, T)[-1] - exact[-1]) for T in (400, 800, 1600)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.02)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.01)


def test_the_ring_of_w_diff():
    h, summary = portraits.long_run()
    assert h.shape == (5001, 5, 2)
    assert [round(value, 4) for value in summary] == [0.57, 0.5841, 0.5981]


def test_eigenvalues_along_a_digit_are_imaginary_and_diffusion_moves_them_left():
    without, some = (portraits.step_eigenvalues(0.1, diffusion, every=16) for diffusion in (0.0, 1.0))
    assert without.shape == (4, 32)
    assert np.abs(without.real).max() < 1e-12
    assert np.abs(without.imag).max() > 1
    assert (some.real < 0).all()
    assert (some.real >= -1 - 1e-12).all()


def test_eigenvalues_along_a_digit_are_those_of_the_steps():
    p = initialization.parameters(np.random.default_rng(0), 4, 1, sigma_w=1.0)
    x = tasks.pixel_sequences(data.load_digits(), [0])
    h = antisymmetric.forward(p, x, np.zeros((1, 4)), step_size=0.1, diffusion=0.3).h
    steps = stability.step_jacobians(p, x, h, step_size=0.1, diffusion=0.3)[::16, 0]
    for found, J in zip(portraits.step_eigenvalues(0.1, 0.3, n=4, every=16), steps, strict=True):
        expected = np.linalg.eigvals((J - np.eye(4)) / 0.1)
        by_height = [values[np.argsort(values.imag)] for values in (found, expected)]
        np.testing.assert_allclose(*by_height, rtol=0, atol=1e-9)


def test_the_stability_region_is_drawn_where_euler_is_stable(monkeypatch):
    def eigenvalues(step_size, diffusion):
        asked.append((step_size, diffusion))
        return np.array([[-diffusion, 2j - diffusion]])

    asked = []
    monkeypatch.setattr(portraits, "step_eigenvalues", eigenvalues)
    figure = Figure()
    portraits.draw_stability_region(figure, (0.5, 3.0))
    for axes, step_size, shares in zip(figure.axes, (0.1, 1.0), ((100, 100), (50, 0)), strict=True):
        (region,) = axes.patches
        np.testing.assert_allclose(np.hypot(*(region.get_xy().T + np.array([[1], [0]]))), 1)
        for line, gamma, share in zip(axes.lines[1:], (0.5, 3.0), shares, strict=True):
            assert line.get_label() == f"γ = {gamma:g}: {share} % inside"
            np.testing.assert_allclose(line.get_xydata(), step_size * np.array([[-gamma, 0], [-gamma, 2]]))
    assert asked == [(0.1, 0.5), (0.1, 3.0), (1.0, 0.5), (1.0, 3.0)]  # each panel has a trajectory of its own ε


def test_euler_is_drawn_at_each_step_size_with_its_energy_and_the_exact_flow():
    figure, M = Figure(), np.array([[0.3, -2.0], [1.0, 0.0]])
    portraits.draw_euler_and_flow(figure, M, portraits.STARTS[0], 2.0, (0.5, 0.1))
    left, right = figure.axes
    for k, (step_size, T) in enumerate(((0.5, 4), (0.1, 20))):
        h = dynamics.feedback(M, portraits.STARTS[0], step_size, T)
        np.testing.assert_array_equal(left.lines[k].get_xydata(), h)
        np.testing.assert_array_equal(right.lines[k].get_xydata()[:, 1], dynamics.energy(M, h))
        np.testing.assert_allclose(right.lines[k].get_xydata()[:, 0], step_size * np.arange(T + 1))
    exact = portraits.flow(M, portraits.STARTS[0], np.linspace(0.0, 2.0, 401))
    np.testing.assert_array_equal(left.lines[2].get_xydata(), exact)
    np.testing.assert_array_equal(right.lines[2].get_ydata(), dynamics.energy(M, exact))


def test_a_portrait_has_every_state_over_the_field():
    figure = Figure()
    portraits.draw_figure_one(figure)
    for axes, (letter, system) in zip(figure.axes, portraits.figure_one_systems().items(), strict=True):
        h = portraits.states(system, portraits.STARTS, 50)
        assert axes.get_title() == f"({letter}) {system.title}"
        assert axes.get_xlabel().startswith(portraits.caption(system))
        assert [star.get_xydata().tolist() for star in axes.lines[1::2]] == portraits.STARTS[:, None].tolist()
        for k, line in enumerate(axes.lines[::2]):
            np.testing.assert_array_equal(line.get_xydata(), h[:, k])
        arrows = [each for each in axes.collections if isinstance(each, Quiver)]
        assert len(arrows) == (system.step_size is not None)
        for each in arrows:
            expected = np.tanh(each.XY @ system.matrix.T)
            np.testing.assert_allclose(np.stack([each.U, each.V], axis=-1), expected, rtol=1e-12)


def test_the_ring_is_drawn_from_each_start_under_its_name():
    figure = Figure()
    portraits.draw_limit_cycle(figure)
    left, right = figure.axes
    h, summary = portraits.long_run()
    for k, (a, b) in enumerate(portraits.RING_STARTS):
        assert right.lines[k].get_label() == f"from ({a:g}, {b:g})"
        np.testing.assert_array_equal(right.lines[k].get_ydata(), np.linalg.norm(h[:1001, k], axis=-1))
    for k, line in zip((3, 4), left.lines[::2], strict=False):
        np.testing.assert_array_equal(line.get_xydata(), h[:800, k])
    np.testing.assert_array_equal(left.lines[-1].get_xydata(), h[-400:, 0])
    (band,) = right.patches
    assert [band.get_y(), band.get_y() + band.get_height()] == pytest.approx([summary.least, summary.largest])


def test_an_own_portrait_holds_every_state():
    system, figure = portraits.System("", "", np.array([[1.0, 0.0], [0.0, -1.0]]), 0.1), Figure()
    portraits.draw_system(figure, system, portraits.STARTS + 5, 40)
    (axes,) = figure.axes
    h = portraits.states(system, portraits.STARTS + 5, 40)
    for (low, high), values in zip((axes.get_xlim(), axes.get_ylim()), np.moveaxis(h, -1, 0), strict=True):
        assert low < values.min() < values.max() < high
    assert any(isinstance(each, Quiver) for each in axes.collections)


def test_an_own_system_is_drawn_beside_the_flow_over_the_time_of_its_steps(monkeypatch):
    asked = []
    monkeypatch.setattr(portraits, "draw_euler_and_flow", lambda _, *given: asked.extend(given))
    system = portraits.System("", "", W0, 0.2)
    portraits.own_figures(system, portraits.STARTS, 10)["portrait-euler-and-flow"][1]()
    np.testing.assert_array_equal(asked[0], W0)
    np.testing.assert_array_equal(asked[1], portraits.STARTS[0])
    assert asked[2:] == [2.0, (0.8, 0.4, 0.2, 0.05)]


def test_a_wrong_end_state_is_a_contradiction(run, monkeypatch):
    moved = {**figure_one.END_STATES, "W₀": [(-0.620996, 0.487439), *figure_one.END_STATES["W₀"][1:]]}
    monkeypatch.setattr(portraits, "END_STATES", moved)
    monkeypatch.setattr(portraits, "figures", dict)
    code, out, _ = run("portraits", "--output", "a")
    assert code == 1
    assert "14 of 15 end states as known" in out
    assert out.count("DIFFERS") == 1


@pytest.mark.slow
def test_the_files_are_the_same_bytes_again_and_the_results_are_told(run, tmp_path):
    for folder in ("a", "b"):
        code, out, err = run("portraits", "--output", folder, "--json", f"{folder}.json")
        assert (code, err) == (0, "")
    assert out.endswith(f"portraits: 8 files in {folder}; 15 of 15 end states as known, to six decimals\n")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    stems = ("euler-and-flow", "figure-1", "limit-cycle", "stability-region")
    assert names == [f"{stem}.{ending}" for stem in stems for ending in ("png", "svg")]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    told = json.loads((tmp_path / "a.json").read_text())
    assert (told["command"], len(told["end_states"]), len(told["figures"])) == ("portraits", 24, 4)


def test_an_own_system_is_w_diff_with_its_diffusion(run, tmp_path):
    options = ("--start", "0,0.5", "--step-size", "0.1", "--diffusion", "0.15", "--steps", "50")
    code, out, _ = run(*OWN, *options, "--output", "own")
    assert code == 0
    assert "(-0.503517, -0.119927)" in out
    assert len(list((tmp_path / "own").iterdir())) == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("portraits", "--steps", "5"), "--steps: expected with --matrix alone"),
        (("portraits", "--matrix", "1 2 3; 4 5 6"), "--matrix: expected two rows of two numbers"),
        (("portraits", "--matrix", "1 2"), "got rows of 2 numbers"),
        (("portraits", "--matrix", "1 x; 2 3"), "--matrix: expected numbers, got '1 x; 2 3'"),
        (("portraits", "--matrix", "1 nan; 2 3"), "--matrix: expected finite numbers"),
        (("portraits", "--matrix", "1 1e9; 2 3"), "at most a million"),
        (("portraits", "--matrix", ""), "--matrix: expected two rows of two numbers"),
        ((*OWN, "--start", "1,2,3"), "--start: expected two numbers such as 0,0.5, got '1,2,3'"),
        ((*OWN, "--start", "1,inf"), "--start: expected finite numbers"),
        ((*OWN, "--step-size", "0"), "--step-size: expected a finite number above 0, got 0.0"),
        ((*OWN, "--step-size", "nan"), "--step-size: expected a finite number above 0, got nan"),
        ((*OWN, "--diffusion=-1"), "--diffusion: expected a finite number from 0, got -1.0"),
        ((*OWN, "--steps", "0"), "--steps: expected 1 to 100000, got 0"),
        ((*OWN, "--steps", "99999999999"), "--steps: expected 1 to 100000, got 99999999999"),
        ((*OWN, "--steps", "100000"), "at most 1000 for the exact flow"),
    ],
)
def test_bad_options_are_refused_in_one_line_and_write_nothing(run, tmp_path, arguments, said):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_may_hold_anything(run, tmp_path):
    (tmp_path / "out" / "figure").mkdir(parents=True)
    assert run(*OWN, "--steps", "2", "--output", "out")[0] == 0


def test_a_folder_that_cannot_be_made_is_refused(run, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = run("portraits", "--output", "file/figures")
    assert code == 2
    assert "cannot be made a folder" in err
