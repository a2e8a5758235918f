import contextlib
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from flint import acb_mat, arb_mat, ctx
from matplotlib.figure import Figure

from antisymrnn_ref import initialization
from antisymrnn_ref.backend import load_backend
from antisymrnn_ref.contract import Parameters
from antisymrnn_validation import cli
from antisymrnn_validation.cli import spectra as command
from antisymrnn_validation.experiments import runs, tasks, training
from antisymrnn_validation.experiments.configuration import Configuration
from antisymrnn_validation.experiments.folder import configuration_of, load_state
from antisymrnn_validation.output import drawing, terminal
from antisymrnn_validation.pictures import recurrences, singular_values, spectra


def noise(T, m, seed=0):
    return np.random.default_rng(seed).standard_normal((T, m))


def drawn(n, m=3):
    """All kinds of recurrences, with biases, so that no term of a Jacobian is zero."""
    r = np.random.default_rng(7)
    p = initialization.parameters(r, n, m, sigma_w=1.0)._replace(b=r.standard_normal(n))
    gated = initialization.gated_parameters(r, n, m, sigma_w=1.0)._replace(b=p.b, b_z=r.standard_normal(n))
    lstm = Parameters(r.standard_normal((4 * n, n)), r.standard_normal((4 * n, m)), r.standard_normal(4 * n))
    return {
        "vanilla": recurrences.vanilla("vanilla", p),
        "lstm": recurrences.lstm("lstm", lstm),
        "antisymmetric": recurrences.cell("antisymmetric", p, step_size=0.3, diffusion=0.2),
        "gated": recurrences.cell("gated", gated, step_size=0.3, diffusion=0.2),
        "ablation": recurrences.cell("ablation", gated, step_size=0.3, diffusion=0.2, unconstrained=True),
    }


def of_steps(*steps):
    """A recurrence with these Jacobians."""
    n = len(steps[0])
    return recurrences.Recurrence(
        "",
        n,
        n,
        lambda start, x: np.tile(start, (len(x) + 1, 1)),
        lambda _, x: np.array([steps[int(t)] for t in x[:, 0]]),
    )


def arange(T):
    return np.arange(float(T))[:, None]


@pytest.mark.parametrize("name", drawn(3))
def test_jacobians_are_central_differences_of_the_states(name):
    made, x = drawn(3)[name], noise(1, 3)
    start = 0.5 * noise(1, made.N)[0]
    (J,) = made.jacobians(made.states(start, x), x)
    moved = np.concatenate([1e-4 * np.eye(made.N), -1e-4 * np.eye(made.N)])
    up, down = np.split(np.array([made.states(start + step, x)[1] for step in moved]), 2)
    np.testing.assert_allclose(J, (up - down).T / 2e-4, rtol=0, atol=1e-7)
    assert np.abs(J).min() > 1e-6 or name == "lstm"


@pytest.mark.parametrize("T", [1, 2, 9, 10, 17])
def test_steps_are_the_same_in_segments_forward_and_backward(T):
    for made in drawn(4).values():
        x = noise(T, 3)
        states = made.states(np.zeros(made.N), x)
        forward = np.array(list(recurrences.step_jacobians(made, x)))
        np.testing.assert_allclose(forward, made.jacobians(states, x), rtol=1e-12, atol=1e-14)
        backward = list(recurrences.step_jacobians_backward(made, x))
        np.testing.assert_array_equal(backward[::-1], forward)


def test_states_are_held_of_one_segment_alone():
    made, longest = drawn(4)["vanilla"], []
    watched = made._replace(states=lambda start, x: longest.append(len(x)) or made.states(start, x))
    spectra.gradient_norms(watched, noise(10_000, 3))
    assert max(longest) == 100


def certified(steps, bits):
    """log10 of the moduli of the eigenvalues and of the singular values of the product, enclosed by Arb."""
    before, ctx.prec = ctx.prec, bits
    try:
        product = arb_mat(np.eye(len(steps[0])).tolist())
        for J in steps:
            product = arb_mat(J.tolist()) * product
        squares = [(z.real).log().mid() / 2 for z in acb_mat(product * product.transpose()).eig(algorithm="rump")]
        moduli = [abs(z).log().mid() for z in acb_mat(product).eig(algorithm="rump")]
        return [np.sort([float(v) / math.log(10) for v in logs])[::-1] for logs in (moduli, squares)]
    finally:
        ctx.prec = before


@pytest.mark.parametrize(("name", "T"), [("vanilla", 60), ("lstm", 40), ("antisymmetric", 60), ("gated", 60)])
def test_singular_values_and_eigenvalues_against_certified_ones(name, T):
    made, x = drawn(4 if name == "lstm" else 8)[name], noise(T, 3)
    steps = list(recurrences.step_jacobians(made, x))
    moduli, sigma = certified(steps, 2000)
    found = singular_values.of_product(steps, [T])
    np.testing.assert_allclose(found.sigma[0], sigma, rtol=0, atol=1e-9)
    assert sigma[0] - sigma[-1] > (25 if name in ("vanilla", "lstm") else 0.1)
    low, high = found.bounds[0]
    assert low - 1e-9 <= sigma[-1] <= sigma[0] <= high + 1e-9
    modulus = 10 ** (moduli - moduli[0])
    measured = spectra.moments(made, x, [T])
    assert measured.mean[0] == pytest.approx(np.log10(modulus.mean()) + moduli[0], abs=1e-9)
    assert measured.deviation[0] == pytest.approx(np.log10(modulus.std()) + moduli[0], abs=1e-9)


def test_singular_values_hundreds_of_places_apart_have_the_determinant():
    x = noise(300, 3)
    steps = list(recurrences.step_jacobians(drawn(16)["vanilla"], x))
    (sigma,) = singular_values.of_product(steps, [300]).sigma
    assert sigma[0] - sigma[-1] > 400
    assert sum(sigma) == pytest.approx(sum(np.linalg.slogdet(J)[1] for J in steps) / math.log(10), rel=1e-11)


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_pairs_are_all_once_and_disjoint_within_a_round(n):
    rounds = [list(zip(*map(np.ndarray.tolist, pair), strict=True)) for pair in singular_values.pairs(n)]
    found = sorted(tuple(sorted(pair)) for each in rounds for pair in each)
    assert found == [(j, k) for j in range(n) for k in range(j + 1, n)]
    assert all(len({i for pair in each for i in pair}) == 2 * len(each) for each in rounds)


def test_singular_steps_have_infinite_logarithms_and_are_drawn():
    found = spectra.spectrum(of_steps(np.diag([2.0, 0.0]), np.eye(2)), arange(2), [1, 2])
    assert found.singular.sigma == [pytest.approx([np.log10(2), -np.inf])] * 2
    assert found.singular.bounds == [pytest.approx((-np.inf, np.log10(2)))] * 2
    nothing = spectra.spectrum(of_steps(np.zeros((2, 2)), np.eye(2)), arange(2), [2])
    assert nothing.moments.mean == nothing.moments.deviation == [-np.inf]
    assert nothing.norms == [-np.inf, 0.0, 0.0]
    _, draw = spectra.figures([found, nothing], "")["singular-values"]
    assert draw().png


def test_equal_and_parallel_rows():
    sigma = singular_values.of_product([np.ones((3, 3)), np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])], [2]).sigma[0]
    assert sigma[0] == pytest.approx(np.log10(3))
    assert max(sigma[1:]) < -15
    assert singular_values.of_product([7 * np.eye(3)] * 3, [3]).sigma[0] == pytest.approx([3 * np.log10(7)] * 3)


def test_products_of_1e_minus_2000_and_1e2000_are_not_lost():
    for factor in (0.01, 100.0):
        found = spectra.spectrum(of_steps(*[factor * np.diag([1.0, 0.1])] * 1000), arange(1000), [1000])
        expected = 1000 * np.log10(factor)
        assert found.moments.mean[0] == pytest.approx(expected - np.log10(2), rel=1e-12)
        assert found.singular.sigma[0] == pytest.approx([expected, expected - 1000], rel=1e-12)
        assert found.singular.bounds[0] == pytest.approx((expected - 1000, expected), rel=1e-12)


def test_gradient_norms_are_those_of_the_product_of_what_the_loss_sees():
    made, x = drawn(3)["lstm"], noise(5, 3)
    v = np.repeat([3**-0.5, 0], 3)
    expected = [0.0]
    for J in made.jacobians(made.states(np.zeros(6), x), x)[::-1]:
        v = v @ J
        expected.append(np.log10(np.linalg.norm(v)))
    np.testing.assert_allclose(spectra.gradient_norms(made, x), expected[::-1], rtol=1e-12)


def test_vanishing_exploding_and_preserved_are_there():
    x, _ = spectra.padded(tasks.first_digit_rows(), "", 200)
    first = {made.name: spectra.gradient_norms(made, x)[0] for made in recurrences.drawn(16, 8)}
    assert first["vanilla, σ_w = 4"] > 10
    assert first["antisymmetric, ε = 1, γ = 0"] > 1
    assert max(abs(first[f"{name}, ε = γ = 0.01"]) for name in ("antisymmetric", "gated")) < 0.1
    assert max(first["LSTM"], first["vanilla, σ_w = 1"]) < -20


def test_each_recurrence_and_each_point_of_the_grid_begins_under_a_bar(monkeypatch):
    begun = []

    @contextlib.contextmanager
    def progress(_):
        yield begun.append

    monkeypatch.setattr(terminal, "progress", progress)
    pictures = spectra.digit_figures(3, [2, 9])
    assert list(pictures) == ["spectra", "singular-values", "gradient-norms", "spectra-grid"]
    assert begun[:6] == [made.name for made in recurrences.drawn(3, 8)]
    assert begun[6:] == [f"ε = {eps:g}, γ = {gamma:g}" for eps, gamma in spectra.UNTRAINED]


def test_noise_is_told_where_there_is_some():
    for T in (7, 8, 9):
        x, told = spectra.padded(np.zeros((8, 3)), "a digit", T)
        assert (len(x), "then noise from step 9 on" in told) == (T, T > 8)


def along(made, x):
    return spectra.moments(made, x, [len(x)])


def test_the_grid_and_the_table_have_each_step_size_with_its_diffusion_and_each_seed(capsys):
    x = noise(5, 96)
    drawn = [initialization.parameters(np.random.default_rng(k), 4, 96, sigma_w=1.0, triangular=True) for k in (0, 1)]
    table = {(row["step_size"], row["diffusion"]): row for row in command._table(4, 2, 5)}
    out = capsys.readouterr().out
    for (eps, gamma), found in spectra.grid(4, x, [5]).items():
        expected = [along(recurrences.cell("", p, step_size=eps, diffusion=gamma), x) for p in drawn]
        assert found == expected[0]
        told = [(each.mean[0], each.deviation[0]) for each in expected]
        assert table[eps, gamma]["log10_mean_and_deviation"] == told
        mean, deviation = (f"{10**value:.3g}" for value in np.mean(told, 0))
        row = (f"{eps:g}", f"{gamma:g}", mean, deviation, f"{np.std(told, 0)[0]:.2g}", spectra.UNTRAINED[eps, gamma])
        assert " ".join(row) in " ".join(out.split())


def test_the_untrained_recurrences_are_what_their_names_say():
    x, made = noise(5, 3), {each.name: each for each in recurrences.drawn(6, 3)}

    def parameters(sigma_w, triangular):
        r = np.random.default_rng(0)
        return initialization.parameters(r, 6, 3, sigma_w=sigma_w, triangular=triangular)

    gated = initialization.gated_parameters(np.random.default_rng(0), 6, 3, sigma_w=1.0, triangular=True)
    for name, expected in {
        "vanilla, σ_w = 4": recurrences.vanilla("", parameters(4.0, False)),
        "vanilla, σ_w = 1": recurrences.vanilla("", parameters(1.0, False)),
        "antisymmetric, ε = 1, γ = 0": recurrences.cell("", parameters(1.0, True), step_size=1.0, diffusion=0.0),
        "antisymmetric, ε = γ = 0.01": recurrences.cell("", parameters(1.0, True), step_size=0.01, diffusion=0.01),
        "gated, ε = γ = 0.01": recurrences.cell("", gated, step_size=0.01, diffusion=0.01),
    }.items():
        assert along(made[name], x) == along(expected, x), name


def test_a_trained_cell_has_the_constants_of_its_configuration():
    x, configuration = noise(5, 2), Configuration("digits", cell="gated", units=4, step_size=0.3, diffusion=0.2)
    for unconstrained in (False, True):
        configuration = configuration._replace(unconstrained=unconstrained)
        state = training.initial(configuration, 2, 10)
        p = type(state.cell)(*(array.astype(float) for array in state.cell))
        expected = recurrences.cell("", p, step_size=0.3, diffusion=0.2, unconstrained=unconstrained)
        assert along(recurrences.of_state("", configuration, state), x) == along(expected, x)


def test_the_figures_draw_each_number_under_its_name(monkeypatch):
    moments = spectra.Moments([1, 2], [0.5, -3.0], [0.25, -4.0])
    values = singular_values.SingularValues([1, 2], [[3, 2, 1], [6, 5, 4]], [(0, 4), (3, 7)])
    found = spectra.Spectrum("a", moments, values, [-2.0, -1.0, 0.0])
    figure = Figure()
    spectra.draw_moments(figure, {"": {"a": moments}}, "T", "")
    drawn = {axis.get_ylabel(): axis.lines[0].get_ydata().tolist() for axis in figure.axes}
    assert drawn == {"log₁₀ mean of |λ|": [0.5, -3.0], "log₁₀ deviation of |λ|": [0.25, -4.0]}
    figure = Figure()
    spectra.draw_singular_values(figure, [found], 1, 1, "")
    ((axis,), (legend,)) = figure.axes, figure.legends
    drawn = {line.get_color(): line.get_ydata().tolist() for line in axis.lines}
    _, *handles = legend.legend_handles
    _, *labels = (text.get_text() for text in legend.get_texts())
    told = {label: drawn[handle.get_color()] for label, handle in zip(labels, handles, strict=True)}
    assert told == {"largest σ": [3, 6], "median σ": [2, 5], "smallest σ": [1, 4]}
    corners = {tuple(corner) for corner in axis.collections[0].get_paths()[0].vertices.tolist()}
    assert corners == {(1, 0), (1, 4), (2, 3), (2, 7)}
    figure = Figure()
    spectra.draw_gradients(figure, [found], "")
    assert figure.axes[0].lines[0].get_ydata().tolist() == [-2.0, -1.0, 0.0]
    panels = []
    monkeypatch.setattr(spectra, "draw_moments", lambda _, given, *__: panels.append(given))
    spectra.grid_figure({(0.1, 1.0): moments}, "")["spectra-grid"][1]()
    spectra.training_figure({"run": {5: moments}}, "")["spectra-training"][1]()
    assert panels == [{"ε = 0.1": {"γ = 1": moments}}, {"run": {"T = 5": moments}}]


def run(capsys, *arguments):
    """The exit code and what is said on stdout and stderr."""
    with pytest.raises(SystemExit) as error:
        cli.main(["spectra", *map(str, arguments)])
    return error.value.code, *capsys.readouterr()


def only_drawn(monkeypatch, *names):
    """Drawing takes most of a test's time."""
    whole = drawing.draw_all
    monkeypatch.setattr(drawing, "draw_all", lambda pictures: whole({name: pictures[name] for name in names}))


TINY = ("--units", 3, "--seeds", 1, "--lengths", "4,40")


def test_what_is_asked_for_is_what_is_measured(tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(command, "_untrained", lambda _, *given: asked.append(given) or ({}, {}))
    own = ["--lengths", "40,4,40", "--units", 9, "--seeds", 2]
    for options in ([], ["--quick"], own, [*own, "--quick"]):
        assert run(capsys, *options, "--output", tmp_path)[0] == 0
    whole, quick = [100, 200, 400, 800, 1600], [12, 25, 50, 100, 200]
    assert asked == [(64, 3, whole), (16, 1, quick), (9, 2, [4, 40]), (9, 1, [1, 5])]


def test_the_json_file_has_each_number_under_its_name(monkeypatch):
    monkeypatch.delenv("ANTISYMRNN_DATA", raising=False)
    moments, tables = spectra.Moments([5], [0.5], [-0.25]), []
    values = singular_values.SingularValues([5], [[3.0, 2.0, 1.0]], [(0.0, 4.0)])
    monkeypatch.setattr(command, "_table", lambda *sizes: tables.append(sizes))
    monkeypatch.setattr(spectra, "spectra", lambda *_: [spectra.Spectrum("a", moments, values, [-1.0, 0.0])])
    monkeypatch.setattr(spectra, "grid", lambda *_: {(0.1, 1.0): moments})
    content, _ = command._untrained(None, 3, 2, [9, 900])
    assert tables == [(3, 2, 800)]  # the length of the known table, where there is one as long
    curve = {"T": [5], "mean": [0.5], "deviation": [-0.25]}
    assert content["grid"] == [{"step_size": 0.1, "diffusion": 1.0, **curve}]
    singular = {"sigma": [(1.0, 3.0)], "bounds": [(0.0, 4.0)], "singular_values": [[3.0, 2.0, 1.0]]}
    assert content["curves"] == [{"name": "a", **curve, **singular}]
    assert content["gradients"] == {"a": [-1.0, 0.0]}


@pytest.mark.parametrize(
    "options",
    [
        ["--lengths", "0"],
        ["--lengths", "a"],
        ["--units", "0"],
        ["--seeds", "-1"],
        ["--data", "/nowhere"],
        ["--run", "/no"],
    ],
)
def test_bad_input_is_one_line_and_nothing_is_drawn(options, capsys, tmp_path):
    code, _, said = run(capsys, "--output", tmp_path, *options)
    assert code == 2
    assert len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_files_are_the_same_bytes_again_without_a_display(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("ANTISYMRNN_DATA", raising=False)
    options = (*TINY, "--json", tmp_path / "json", "--output")
    code, out, _ = run(capsys, *options, tmp_path / "first")
    assert code == 0
    first = {path.name: path.read_bytes() for path in (tmp_path / "first").iterdir()}
    names = ("gradient-norms", "singular-values", "spectra", "spectra-grid")
    assert set(first) == {f"{name}.{ending}" for name in names for ending in ("png", "svg")}
    only_drawn(monkeypatch, "singular-values")
    assert run(capsys, *options, tmp_path / "second")[0] == 0
    again = {path.name: path.read_bytes() for path in (tmp_path / "second").iterdir()}
    assert again == {name: content for name, content in first.items() if name.startswith("singular")}
    assert "known, n = 64, T = 800" in out
    assert "scikit-learn's digits by rows, m = 8, then noise from step 9 on" in out
    document = json.loads((tmp_path / "json").read_text())
    assert len(document["grid"]) == len(document["untrained"]) == 12
    assert [len(curve["singular_values"][1]) for curve in document["curves"]] == [3, 3, 3, 3, 6, 3]
    assert {len(norms) for norms in document["gradients"].values()} == {41}


def test_data_without_cifar_is_an_error_if_named_and_told_if_of_the_environment(tmp_path, capsys, monkeypatch):
    code, _, said = run(capsys, *TINY, "--data", tmp_path, "--output", tmp_path / "figures")
    assert code == 2
    assert "--data" in said
    assert "missing test_batch.bin" in said
    monkeypatch.setenv("ANTISYMRNN_DATA", str(tmp_path))
    monkeypatch.setattr(command, "_untrained", lambda data, *_: ({"input": command._image(data, 40)[1]}, {}))
    code, _, said = run(capsys, *TINY, "--output", tmp_path / "figures", "--json", tmp_path / "json")
    assert code == 0
    assert "a bundled digit is taken" in said
    assert "digits" in json.loads((tmp_path / "json").read_text())["input"]


@pytest.mark.skipif("ANTISYMRNN_DATA" not in os.environ, reason="ANTISYMRNN_DATA is not set: no real data")
def test_the_input_is_real():
    try:
        x, told = command._image(Path(os.environ["ANTISYMRNN_DATA"]), 40)
    except command.UsageError as error:
        pytest.skip(str(error))
    assert told.startswith("Input: the first test image of CIFAR-10 by rows, m = 96")
    assert 0 <= x[:32].min() < x[:32].max() <= 1
    assert x[32:].min() < -1


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run on the digits."""
    folder = tmp_path_factory.mktemp("runs") / "on digits"
    configuration = Configuration("digits", "numpy", units=4, cell="gated", batch=8, iterations=4, evaluate_every=2)
    task = tasks.load("digits", None)._replace(train_labels=np.zeros(40, int), test_labels=np.zeros(8, int))

    def sequences(split, indices, dtype, generator):
        return tasks.sequences(task, split, indices, dtype, generator)

    data = tasks.Data(1, 10, task.train_labels, task.test_labels, sequences)
    runs.train(folder, configuration, data, load_backend("numpy"), keep=True)
    return folder


def test_the_spectra_of_a_run_over_its_training(trained, tmp_path, capsys, monkeypatch):
    only_drawn(monkeypatch, "spectra-training")
    options = ("--run", trained, "--lengths", "5,70", "--json", tmp_path / "json", "--output", tmp_path / "figures")
    code, out, _ = run(capsys, *options)
    assert code == 0
    assert "spectra: 2 files" in out
    assert (tmp_path / "figures" / "spectra-training.png").is_file()
    document = json.loads((tmp_path / "json").read_text())
    assert [(curve["run"], curve["T"], curve["iteration"]) for curve in document["training"]] == [
        ("on digits", 5, [0, 2, 4]),
        ("on digits", 70, [0, 2, 4]),
    ]
    configuration = configuration_of(trained)
    best = load_state(trained / "best.npz", configuration)
    (curve,) = document["curves"]
    assert curve["name"] == f"on digits, iteration {best.iteration}"
    pixels = tasks.first_test_sample("digits", None)
    x = tasks.followed_by_noise(pixels, 70, np.random.default_rng(0))
    p = type(best.cell)(*(array.astype(float) for array in best.cell))
    made = recurrences.cell("", p, step_size=configuration.step_size, diffusion=configuration.diffusion)
    _, mean, deviation = spectra.moments(made, x, [5, 70])
    assert (curve["mean"], curve["deviation"]) == (mean, deviation)
    place, last = [0, 2, 4].index(best.iteration), document["training"][1]
    assert (last["mean"][place], last["deviation"][place]) == (mean[1], deviation[1])


def test_a_run_that_cannot_be_used_is_one_line(trained, tmp_path, capsys):
    (tmp_path / "config.json").write_bytes((trained / "config.json").read_bytes())
    code, _, said = run(capsys, "--run", tmp_path, "--output", tmp_path / "figures")
    assert code == 2
    assert "best.npz: expected a checkpoint, got nothing" in said


@pytest.mark.parametrize("option", ["--units", "--seeds"])
def test_what_a_run_has_is_not_asked_for(option, trained, tmp_path, capsys):
    code, _, said = run(capsys, "--run", trained, option, 8, "--output", tmp_path / "figures")
    assert (code, f"{option}: expected without --run" in said) == (2, True)


def test_one_unit_deviates_by_nothing(capsys):
    records = command._table(1, 2, 3)
    assert {deviation for record in records for _, deviation in record["log10_mean_and_deviation"]} == {-np.inf}
    assert "nan" not in capsys.readouterr().out


def test_huge_numbers_are_told():
    assert command._power_of_ten(-2000.5) == "3.16e-2001"
    assert command._power_of_ten(-2000.0001) == "1.00e-2000"
    assert command._power_of_ten(np.log10(0.967)) == "0.967"


def test_a_size_beyond_the_memory_is_refused_and_nothing_is_made(tmp_path, capsys):
    code, _, said = run(capsys, "--units", 1_000_000, "--output", tmp_path / "none")
    assert code == 2
    assert "does not fit into the memory" in said
    assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code, _, said = run(capsys, *TINY, "--output", tmp_path / "file" / "figures")
    assert code == 2
    assert "cannot be made a folder" in said
