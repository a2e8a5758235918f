"""Training: optimizers by hand, a run that is killed and resumed, folders and checkpoints that must be refused."""

import contextlib
import errno
import io
import itertools
import json
import math
import os
import signal
import stat
import subprocess
import sys
import time
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl
from matplotlib.figure import Figure

from antisymrnn_ref import load_backend, readout
from antisymrnn_validation import cli
from antisymrnn_validation.experiments import downloading, optimizers, runs, tasks, training
from antisymrnn_validation.experiments.configuration import DEFAULTS, Configuration, check_configuration
from antisymrnn_validation.experiments.data import DataError
from antisymrnn_validation.experiments.folder import (
    MEASURED,
    RunError,
    configuration_of,
    fingerprint_of,
    load_state,
    locked,
    metrics_of,
    run_alone,
    run_name,
    save_state,
    states_of,
    write_other_environment,
)
from antisymrnn_validation.output import drawing, environment, files
from antisymrnn_validation.truth.cases import CELLS
from tiers import tiered

pytestmark = pytest.mark.usefixtures("unrendered")
RENDER = drawing.render

SMALL = Configuration(
    "tiny", "numpy", units=8, step_size=0.3, optimizer="adam", learning_rate=0.02, batch=16, iterations=60,
    evaluate_every=5,
)  # fmt: skip


def tiny():
    """Two classes: the sign of the mean of a noisy sequence; the training sequences have fresh noise."""
    labels = np.arange(100) % 2

    def sequences(_, indices, dtype, generator):
        noise = generator.standard_normal((6, len(indices), 2))
        return (noise + 2.0 * labels[indices][:, None] - 1).astype(dtype)

    return tasks.Data(2, 2, labels, labels, sequences)


def train(folder, configuration=SMALL, **options):
    return runs.train(folder, configuration, tiny(), load_backend(configuration.backend), **options)


def same(first, second):
    with np.load(first) as a, np.load(second) as b:
        return a.files == b.files and all(a[name].tobytes() == b[name].tobytes() for name in a.files)


def test_optimizers_are_their_formulas():
    value, gradient, zero = np.array([1.0]), np.array([0.5]), np.zeros(1)
    moved, slots = optimizers.update("sgd", value, gradient, (zero,), 0.1, 1, 0.9)
    moved, slots = optimizers.update("sgd", moved, gradient, slots, 0.1, 2, 0.9)
    np.testing.assert_allclose(moved, 1 - 0.05 - 0.1 * (0.45 + 0.5))
    moved, slots = optimizers.update("adagrad", value, gradient, (zero,), 0.1, 1, 0)
    moved, _ = optimizers.update("adagrad", moved, gradient, slots, 0.1, 2, 0)
    np.testing.assert_allclose(moved, 1 - 0.1 - 0.1 / np.sqrt(2))
    moved, slots = optimizers.update("adam", value, gradient, (zero, zero), 0.1, 1, 0)
    np.testing.assert_allclose(moved, 0.9)
    moved, _ = optimizers.update("adam", moved, -gradient, slots, 0.1, 2, 0)
    np.testing.assert_allclose(moved, 0.9 - 0.1 * (0.9 * 0.05 - 0.05) / 0.19 / 0.5)
    moved, _ = optimizers.update("adam", moved, 3 * gradient, slots, 0.1, 2, 0)
    root = math.sqrt((0.999 * 0.001 + 0.001 * 9) / (1 - 0.999**2)) * 0.5
    np.testing.assert_allclose(moved, 0.9 - 0.1 * (0.9 * 0.05 - 0.05) / 0.19 / 0.5 - 0.1 * 0.195 / 0.19 / root)


@pytest.mark.parametrize(("optimizer", "size"), [("adagrad", 1e-10), ("adam", 1e-8)])
def test_a_gradient_as_small_as_what_is_added_to_its_root_moves_by_half_the_rate(optimizer, size):
    zeros = (np.zeros(1),) * optimizers.SLOTS[optimizer]
    moved, _ = optimizers.update(optimizer, np.zeros(1), np.array([size]), zeros, 0.1, 1, 0)
    np.testing.assert_allclose(moved, -0.05)


def test_schedules():
    rates = [optimizers.scheduled_rate("step", 1.0, k, 100) for k in (1, 50, 51, 76)]
    np.testing.assert_allclose(rates, [1, 1, 0.1, 0.01])
    np.testing.assert_allclose([optimizers.scheduled_rate("cosine", 2.0, k, 100) for k in (1, 51)], [2, 1])
    assert optimizers.scheduled_rate("cosine", 1.0, 100, 100) == pytest.approx(math.sin(math.pi / 200) ** 2)  # not 0
    assert optimizers.scheduled_rate("constant", 0.3, 70, 100) == 0.3


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (9674, {"units": 128, "m": 1}),
        (9930, {"units": 128, "m": 1, "cell": "gated"}),
        (36234, {"units": 256, "m": 3}),
        (37258, {"units": 256, "m": 3, "cell": "gated"}),
        (41954, {"units": 196, "m": 3, "cell": "gated", "unconstrained": True}),
    ],
)
def test_parameter_counts_are_the_published_ones(count, options):
    m = options.pop("m")
    configuration = Configuration("task", **options)
    assert training.parameter_count(configuration, training.initial(configuration, m, 10)) == count


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("optimizer", optimizers.SLOTS)
def test_the_loss_decreases_and_W_stays_triangular(backend, cell, optimizer):
    if backend == "numba":
        pytest.importorskip("antisymrnn_numba")
    configuration = SMALL._replace(backend=backend, cell=cell, optimizer=optimizer, learning_rate=0.05, clip=1.0)
    data, state, losses = tiny(), training.initial(SMALL._replace(cell=cell, optimizer=optimizer), 2, 2), []
    for k in range(30):
        x = data.sequences("train", np.arange(100), np.float32, training.batch_noise(configuration, k))
        state, measured = training.step(load_backend(backend), configuration, state, x, data.train_labels)
        losses.append(measured["loss"])
    assert losses[-1] < 0.5 * losses[0]
    assert not np.tril(state.cell.W).any()
    assert {array.dtype for array in (*state.cell, *state.layer)} == {np.dtype(np.float32)}


def test_a_full_matrix_stays_full():
    configuration = SMALL._replace(full=True, units=2)
    state = training.initial(configuration, 2, 2)
    x = tiny().sequences("train", np.arange(100), np.float32, np.random.default_rng(0))
    changed, _ = training.step(load_backend("numpy"), configuration, state, x, tiny().train_labels)
    assert state.cell.W.all()
    assert (changed.cell.W != state.cell.W).tolist() == [[False, True], [True, False]]  # W - W^T has a zero diagonal
    assert training.parameter_count(configuration, state) == 4 + 4 + 2 + 4 + 2


def test_the_ablation_trains_a_full_matrix():
    configuration = SMALL._replace(cell="gated", unconstrained=True)
    data, state = tiny(), training.initial(configuration, 2, 2)
    x = data.sequences("train", np.arange(100), np.float32, np.random.default_rng(0))
    changed, _ = training.step(load_backend("numpy"), configuration, state, x, data.train_labels)
    assert (changed.cell.W != state.cell.W).all()
    with pytest.raises(ValueError, match="unconstrained: expected the gated cell"):
        check_configuration(SMALL._replace(unconstrained=True))


def test_splits_and_batches():
    learn, held_out = training.splits(SMALL, 100)
    assert sorted([*learn, *held_out]) == list(range(100))
    assert len(held_out) == 10
    epoch = np.concatenate([training.batch_indices(SMALL, learn, k) for k in range(5)])
    assert len(set(epoch)) == 80
    assert not set(epoch) & set(held_out)


def test_every_epoch_every_iteration_and_every_seed_draws_anew():
    other = SMALL._replace(seed=1)
    learn, held_out = training.splits(SMALL, 100)
    assert held_out.tolist() != training.splits(other, 100)[1].tolist()
    epochs = [
        [training.batch_indices(configuration, learn, k).tolist() for k in range(first, first + 5)]
        for configuration, first in ((SMALL, 0), (SMALL, 5), (other, 0))
    ]
    assert all(one != another for one, another in itertools.combinations(epochs, 2))
    noises = [training.batch_noise(*which).random() for which in ((SMALL, 0), (SMALL, 1), (other, 0))]
    assert len(set(noises)) == 3
    assert (training.initial(SMALL, 2, 2).cell.V != training.initial(other, 2, 2).cell.V).all()


def test_the_sequences_of_a_task_have_the_noise_that_is_asked_for(monkeypatch):
    asked, labels = [], np.arange(3)
    monkeypatch.setattr(
        tasks, "load", lambda *_: types.SimpleNamespace(m=1, classes=3, train_labels=labels, test_labels=labels)
    )
    monkeypatch.setattr(tasks, "sequences", lambda _, *arguments: asked.append(arguments))
    arguments = ("test", np.arange(2), np.float64, np.random.default_rng(0))
    tasks.data_of("noise-padded", None).sequences(*arguments)
    assert all(one is other for one, other in zip(asked[0], arguments, strict=True))


def test_a_run_trains_on_the_batch_and_the_noise_of_each_iteration(tmp_path):
    data, short, batches = tiny(), SMALL._replace(iterations=7), []

    def sequences(split, indices, dtype, generator):
        x = data.sequences(split, indices, dtype, generator)
        if len(indices) == short.batch:  # 10 are validated on, 100 tested on
            batches.append((indices, x))
        return x

    runs.train(tmp_path, short, data._replace(sequences=sequences), load_backend("numpy"))
    learn, _ = training.splits(short, 100)
    assert len(batches) == 7
    for k, (indices, x) in enumerate(batches):
        assert indices.tolist() == training.batch_indices(short, learn, k).tolist()
        assert np.array_equal(x, data.sequences("train", indices, np.float32, training.batch_noise(short, k)))


def test_the_readout_begins_with_a_variance_of_one_over_n():
    layer = training.initial(SMALL._replace(units=400), 2, 10).layer
    assert layer.weights.std() == pytest.approx(1 / 20, rel=0.06)
    assert not layer.bias.any()


@pytest.mark.parametrize("unconstrained", [False, True])
def test_an_evaluation_in_blocks_is_the_mean_over_all_samples(monkeypatch, unconstrained):
    configuration = SMALL._replace(cell="gated", unconstrained=unconstrained, sigma_w=4.0, dtype="float64")
    state, labels, noises = training.initial(configuration, 2, 2), np.arange(25) % 2, []
    x = np.random.default_rng(1).standard_normal((6, 25, 2))

    def sequences(start, stop, generator):
        noises.append(generator.random())
        return x[:, start:stop]

    monkeypatch.setattr(training, "BLOCK", 10)
    found = training.evaluate(load_backend("numpy"), configuration, state, "test", sequences, labels)
    whole = training.gradient(load_backend("numpy"), configuration, state, x, labels, 25)
    assert found == pytest.approx((whole.loss, whole.right / 25), rel=1e-12)
    assert len({*noises, *(training.batch_noise(configuration, k).random() for k in (0, 10, 20))}) == 6


def test_a_run_validates_on_what_it_does_not_train_on(tmp_path):
    data, seen = tiny(), {}

    def sequences(split, indices, dtype, generator):
        seen.setdefault((split, len(indices)), set()).update(indices.tolist())
        return data.sequences(split, indices, dtype, generator)

    short = SMALL._replace(iterations=10)
    runs.train(tmp_path, short, data._replace(sequences=sequences), load_backend("numpy"))
    learn, held_out = (set(part.tolist()) for part in training.splits(short, 100))
    assert seen == {("train", 16): learn, ("train", 10): held_out, ("test", 100): set(range(100))}


def stepped_by(configuration, *values):
    """The velocity of sgd after a step whose shards have gradients of these values in all their entries."""
    configuration = configuration._replace(optimizer="sgd", shards=len(values))
    state = training.initial(configuration, 2, 2)
    arrays = (*state.cell, *state.layer)
    found = [training.Gradient(0.0, 0, tuple(np.full_like(array, value) for array in arrays)) for value in values]
    x, labels = np.zeros((6, len(values), 2), np.float32), np.zeros(len(values), int)
    changed, measured = training.step(None, configuration, state, x, labels, each=lambda *_: found)
    return [slot for (slot,) in changed.slots], measured["norm"]


@pytest.mark.parametrize("cell", CELLS)
def test_sigma_w_scales_W_alone(cell):
    one, four = (training.initial(SMALL._replace(cell=cell, sigma_w=value), 2, 2).cell for value in (1.0, 4.0))
    np.testing.assert_array_equal(four.W, 4 * one.W)
    np.testing.assert_array_equal(four.V, one.V)


def stepped_by_ones(configuration, **changed):
    state = training.initial(configuration, 2, 2)._replace(**changed)
    found = [training.Gradient(0.0, 0, tuple(np.ones_like(array) for array in (*state.cell, *state.layer)))]
    x, labels = np.zeros((6, 1, 2), np.float32), np.zeros(1, int)
    return training.step(None, configuration, state, x, labels, each=lambda *_: found)


def test_a_step_has_the_momentum_and_tells_the_rate_of_its_configuration():
    configuration = SMALL._replace(optimizer="sgd", momentum=0.25)
    slots = stepped_by_ones(configuration)[0].slots
    state, _ = stepped_by_ones(configuration, slots=slots)
    assert all((slot == 1.25).all() for (slot,) in state.slots)
    configuration = SMALL._replace(schedule="step", learning_rate=0.5, iterations=4)
    rates = [stepped_by_ones(configuration, iteration=k)[1]["rate"] for k in range(4)]
    assert rates == pytest.approx([0.5, 0.5, 0.05, 0.005])


def test_a_step_tells_the_loss_and_the_accuracy_of_its_batch():
    state = training.initial(SMALL, 2, 2)
    arrays = tuple(np.zeros_like(array) for array in (*state.cell, *state.layer))
    found = [training.Gradient(0.5, 2, arrays), training.Gradient(0.125, 1, arrays)]
    x, labels = np.zeros((6, 4, 2), np.float32), np.zeros(4, int)
    _, measured = training.step(None, SMALL._replace(shards=2), state, x, labels, each=lambda *_: found)
    assert (measured["loss"], measured["accuracy"]) == (0.625, 0.75)


@pytest.mark.parametrize("cell", CELLS)
def test_a_gradient_is_that_of_the_specification_at_this_step_size_and_diffusion(cell):
    configuration = SMALL._replace(cell=cell, step_size=0.3, diffusion=0.2)
    state, specification = training.initial(configuration, 2, 2), load_backend("numpy")
    x, labels = np.random.default_rng(0).standard_normal((6, 4, 2), dtype=np.float32), np.arange(4) % 2
    module, constants = getattr(specification, cell), {"step_size": 0.3, "diffusion": 0.2}
    trajectory = module.forward(state.cell, x, np.zeros((4, 8), np.float32), **constants)
    loss = readout.cross_entropy(state.layer, trajectory.h[-1], labels)
    found = training.gradient(specification, configuration, state, x, labels, 4)
    assert found.loss == loss.value
    assert found.right == sum(loss.logits.argmax(axis=1) == labels)
    wanted = module.backward(state.cell, x, trajectory, loss.h, **constants).parameters
    np.testing.assert_array_equal(found.arrays[0], np.triu(wanted.W, 1))
    np.testing.assert_array_equal(found.arrays[1], wanted.V)


def test_a_batch_beyond_the_training_set_is_all_of_it():
    learn, _ = training.splits(SMALL, 100)
    batches = [training.batch_indices(SMALL._replace(batch=1000), learn, k) for k in (0, 1)]
    assert [sorted(batch) for batch in batches] == [learn.tolist()] * 2
    assert batches[0].tolist() != batches[1].tolist()


@pytest.mark.parametrize(("part", "count"), [(1e-6, 1), (1 - 1e-9, 99), (0.1, 10), (0.29, 29)])
def test_neither_part_of_the_training_set_is_empty(part, count):
    learn, held_out = training.splits(SMALL._replace(validation=part), 100)
    assert (len(learn), len(held_out)) == (100 - count, count)


def test_no_two_purposes_draw_from_one_stream(monkeypatch):
    streams, before = [], np.random.default_rng

    def stream(key):  # not the key: NumPy fills keys with zeros, so that (0, 1) and (0, 1, 0) are one
        streams.append(tuple(np.random.SeedSequence(key).generate_state(4)))
        return before(key)

    monkeypatch.setattr(np.random, "default_rng", stream)
    training._permutation.cache_clear()
    state = training.initial(SMALL, 2, 2)
    learn, _ = training.splits(SMALL, 100)
    for k in (0, 5):  # of two epochs
        training.batch_indices(SMALL, learn, k)
    for k in range(300):
        training.batch_noise(SMALL, k)
    for split in training.SPLITS:  # two blocks of samples each
        training.evaluate(
            load_backend("numpy"),
            SMALL,
            state,
            split,
            lambda a, b, _: np.zeros((2, b - a, 2), "f4"),
            np.zeros(300, int),
        )
    assert len(streams) == 1 + 1 + 2 + 300 + 4
    assert len(set(streams)) == len(streams)


def test_each_split_is_evaluated_on_its_labels():
    def zeros(_, indices, dtype, __):  # so that every logit is 0 and the answer is class 0
        return np.zeros((6, len(indices), 2), dtype)

    data = tasks.Data(2, 2, np.zeros(20, int), np.ones(20, int), zeros)
    state, backend = training.initial(SMALL, 2, 2), load_backend("numpy")
    found = [runs.evaluate(SMALL, data, backend, state, split, np.arange(20))[1] for split in ("train", "test")]
    assert found == [1, 0]


def test_an_evaluation_tells_its_beginning_and_its_end():
    state, told = training.initial(SMALL, 2, 2), []
    runs.evaluate(SMALL, tiny(), load_backend("numpy"), state, "test", np.arange(20), lambda *now: told.append(now))
    assert told == [(0, 20), (20, 20)]


def test_the_summary_is_of_the_best_state(tmp_path):
    data, backend = tiny(), load_backend("numpy")
    data = data._replace(test_labels=1 - data.test_labels)  # so that the accuracies are apart
    summary = runs.train(tmp_path, SMALL, data, backend)
    best = max(metrics_of(tmp_path), key=lambda record: record["validation_accuracy"])
    assert (summary["validation_accuracy"], summary["best_iteration"]) == (
        best["validation_accuracy"],
        best["iteration"],
    )
    everything = np.arange(100)
    of_best, of_last = (
        runs.evaluate(SMALL, data, backend, load_state(tmp_path / name, SMALL), "test", everything)
        for name in ("best.npz", "checkpoint.npz")
    )
    assert (summary["test_loss"], summary["test_accuracy"]) == of_best
    assert of_best != of_last
    assert summary["test_accuracy"] < 0.3


def test_shards_are_added_from_the_first_on():
    velocities, _ = stepped_by(SMALL, 2.0**24, 1.0, 1.0)
    assert all((velocity == 2.0**24).all() for velocity in velocities)  # from the last on it is 2 more


def test_a_gradient_is_clipped_by_the_norm_of_all_its_arrays():
    velocities, norm = stepped_by(SMALL._replace(clip=0.5), 1.0)
    size = sum(velocity.size for velocity in velocities)
    assert norm == pytest.approx(math.sqrt(size))
    for velocity in velocities:
        np.testing.assert_allclose(velocity, 0.5 / math.sqrt(size), rtol=1e-6)
    velocities, _ = stepped_by(SMALL._replace(clip=100.0), 1.0)
    assert all((velocity == 1).all() for velocity in velocities)
    assert stepped_by(SMALL, 1e30)[1] == pytest.approx(1e30 * norm)  # its square is beyond float32


@pytest.mark.parametrize(("loss", "entry", "rate"), [(math.inf, 1.0, 0.1), (0.0, math.nan, 0.1), (0.0, 10.0, 1e38)])
def test_a_loss_a_gradient_or_a_parameter_that_is_not_finite_ends_its_iteration(loss, entry, rate):
    configuration = SMALL._replace(optimizer="sgd", learning_rate=rate)
    state = training.initial(configuration, 2, 2)
    found = training.Gradient(loss, 0, tuple(np.full_like(array, entry) for array in (*state.cell, *state.layer)))
    x, labels = np.zeros((6, 1, 2), np.float32), np.zeros(1, int)
    with pytest.raises(training.Diverged, match=f"diverged at iteration 1: loss {loss:g}, gradient norm"):
        training.step(None, configuration, state, x, labels, each=lambda *_: [found])


KILLED = """
import os, sys, importlib.util
from pathlib import Path
spec = importlib.util.spec_from_file_location("tested", sys.argv[1])
tested = importlib.util.module_from_spec(spec); spec.loader.exec_module(tested)
def progress(k, measured):
    if k == int(sys.argv[3]):
        print("there", flush=True)
        import time; time.sleep(60)
tested.train(Path(sys.argv[2]), progress=progress)
"""


def test_a_killed_run_ends_with_the_same_bits(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    summary = train(whole)
    assert summary["test_accuracy"] > 0.9
    paths = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, __file__, str(killed), "23"],
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout.readline() == b"there\n"
        process.send_signal(signal.SIGKILL)
    with open(killed / "metrics.jsonl", "a") as file:  # as if killed after a record and within the next
        file.write(json.dumps(dict.fromkeys(MEASURED, 25)) + '\n{"itera')
    train(killed, resume=True)
    assert same(whole / "checkpoint.npz", killed / "checkpoint.npz")
    assert same(whole / "best.npz", killed / "best.npz")
    assert (whole / "metrics.jsonl").read_bytes() == (killed / "metrics.jsonl").read_bytes()
    for name in ("config.json", "environment.json", "summary.json", "curves.png", "curves.svg"):
        assert (killed / name).is_file()


def interrupt_at(step):
    """What interrupts a run behind a step."""

    def progress(k, _):
        if k == step:
            raise KeyboardInterrupt

    return progress


@contextlib.contextmanager
def killed_behind(module, name, after):
    """Interrupts what runs in it behind call number ``after`` of a function of a module."""
    count, function = itertools.count(1), getattr(module, name)

    def last(*arguments):
        function(*arguments)
        if next(count) == after:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, name, last)
        with pytest.raises(KeyboardInterrupt):
            yield


@pytest.mark.parametrize("after", tiered(range(1, 6), lambda after: after in (2, 4)))
def test_a_run_killed_behind_any_of_its_writes_ends_with_the_same_bits(tmp_path, after):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(whole, keep=True)
    with killed_behind(runs, "save_state", after):
        train(killed, keep=True)
    train(killed, resume=True, keep=True)
    for name in ("checkpoint.npz", "best.npz", "checkpoints/000005.npz"):
        assert same(whole / name, killed / name)
    assert (whole / "metrics.jsonl").read_bytes() == (killed / "metrics.jsonl").read_bytes()


def test_a_run_killed_behind_any_of_its_files_ends_with_all_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "render", lambda *_: drawing.Drawing(b"png", b"svg"))
    short = SMALL._replace(iterations=5)
    train(tmp_path / "whole", short)
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    for after in range(1, 8):
        killed = tmp_path / str(after)
        with killed_behind(files, "write_bytes", after):
            train(killed, short)
        train(killed, short, resume=(killed / "config.json").exists())
        assert {path.name for path in killed.iterdir()} == names


def test_a_folder_of_other_files_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(RunError, match="got other files"):
            train(tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_of_another_configuration_is_refused(tmp_path):
    short = SMALL._replace(iterations=5)
    train(tmp_path, short)
    with pytest.raises(RunError, match="holds a run already; --resume"):
        train(tmp_path, short)
    with pytest.raises(RunError, match="another configuration: units is 8, asked for 9"):
        train(tmp_path, short._replace(units=9), resume=True)


def _edited(name, value):
    return lambda content: content | {name: value}


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda content: content | {"value_0": content["value_0"] * math.nan}, "finite numbers in W"),
        (lambda content: content | {"value_0": content["value_0"] + 1}, "zeros on and below the diagonal of W"),
        (lambda content: content | {"value_0": content["value_0"].astype("f8")}, "W of shape .8, 8. in float32, got"),
        (lambda content: content | {"value_1": content["value_1"][:, :1]}, r"V of shape .8, 2. in float32, got .8, 1."),
        (lambda content: content | {"slot_0_1": content["slot_0_1"][0]}, r"W of shape .8, 8. in float32, got .8,."),
        (_edited("value_2", np.array("text")), "b of shape"),
        (_edited("value_4", np.zeros(3, "f4")), r"bias of shape .2,. in float32, got .3,."),
        (_edited("version", np.array([1, 1])), "expected a checkpoint of version 1, got version .1 1"),
        (_edited("iteration", math.nan), "expected 0 ≤ best_iteration"),
        (_edited("iteration", 10**9), "expected 0 ≤ best_iteration"),
        (_edited("iteration", "zwei"), "expected 0 ≤ best_iteration"),
        (_edited("iteration", np.array([1, 2])), "expected one iteration, best and best_iteration"),
        (_edited("best_iteration", 61), "expected 0 ≤ best_iteration"),
        (_edited("best_iteration", 5), "expected 0 ≤ best_iteration"),  # behind iteration 0
        (lambda content: content | {"slot_0_1": content["slot_0_1"] + math.nan}, "finite numbers in W"),
        (_edited("best", math.nan), "expected 0 ≤ best_iteration"),
        (_edited("best", "gut"), "expected 0 ≤ best_iteration"),
        (_edited("best", 1), "expected 0 ≤ best_iteration"),
        (_edited("best", 1.5), "expected 0 ≤ best_iteration"),
    ],
)
def test_a_checkpoint_that_cannot_be_of_the_run_is_refused(tmp_path, edit, said):
    path = tmp_path / "checkpoint.npz"
    save_state(path, SMALL, training.initial(SMALL, 2, 2))
    with np.load(path) as file:
        content = dict(file)
    np.savez(path, **edit(content))
    with pytest.raises(RunError, match=f"checkpoint.npz: .*{said}"):
        load_state(path, SMALL, tiny())


def test_no_archive_and_an_array_beyond_the_memory_are_no_checkpoints(tmp_path):
    path = tmp_path / "checkpoint.npz"
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(RunError, match="cut off or damaged"):
        load_state(path, SMALL)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**12,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("version.npy", header.getvalue())
    with pytest.raises(RunError, match="cut off or damaged"):
        load_state(path, SMALL)


def test_damage_of_a_checkpoint_never_escapes_as_another_error(tmp_path):
    """One bit flipped: refused as a RunError, or where nothing looks."""
    path, refused = tmp_path / "checkpoint.npz", 0
    large = SMALL._replace(units=48)  # NumPy reads the header of a large array before its checksum can be looked at
    save_state(path, large, training.initial(large, 2, 2))
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    directory = whole.index(b"PK\x01\x02")
    flips = [(6, 0), (8, 3), (directory + 8, 0), (directory + 10, 4)]  # flags and methods, where zip first has them
    header = whole.index(b"\x93NUMPY", whole.index(b"value_0.npy"))
    flips += [(header + k, bit) for k in range(80) for bit in range(8)]
    flips += [(int(generator.integers(len(whole))), int(generator.integers(8))) for _ in range(300)]
    for position, bit in flips:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            load_state(path, large, tiny())
        except RunError:
            refused += 1
    assert refused > 800


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (b"{bad\n", "line 2: expected a record"),
        (b'{"iteration": 1}\n', "line 2: expected a record"),
        (b'"loss"\n', "line 2: expected a record"),
        (b"\xff\n", "expected records in UTF-8"),
        (b"[" * 100_000 + b"\n", "line 2: expected a record"),
        (json.dumps(dict.fromkeys(sorted(MEASURED), 1) | {"iteration": "1"}).encode() + b"\n", "line 2: expected"),
        (json.dumps(dict.fromkeys(sorted(MEASURED), 1) | {"loss": None}).encode() + b"\n", "line 2: expected"),
        (json.dumps(dict.fromkeys(sorted(MEASURED), 1) | {"loss": 10**400}).encode() + b"\n", "line 2: expected"),
    ],
)
def test_a_bad_line_of_metrics_is_named_and_no_good_one_is_lost(tmp_path, bad, said):
    train(tmp_path, SMALL._replace(iterations=10))
    path = tmp_path / "metrics.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + bad + second)
    (tmp_path / "summary.json").unlink()
    with pytest.raises(RunError, match=said):
        train(tmp_path, SMALL._replace(iterations=10), resume=True)
    assert path.read_bytes() == first + bad + second


def test_a_last_record_without_the_end_of_its_line_counts(tmp_path):
    train(tmp_path, SMALL._replace(iterations=10))
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole.rstrip(b"\n"))  # as an editor may leave it
    (tmp_path / "summary.json").unlink()
    train(tmp_path, SMALL._replace(iterations=10), resume=True)
    assert path.read_bytes() == whole


def test_another_process_that_was_faster_is_not_overwritten(tmp_path, monkeypatch):
    alone, other = run_alone, SMALL._replace(iterations=5, seed=1)

    def faster(folder):
        monkeypatch.setattr(runs, "run_alone", alone)
        train(folder, other)
        return alone(folder)

    monkeypatch.setattr(runs, "run_alone", faster)
    with pytest.raises(RunError, match="another configuration: iterations is 5, asked for 60"):
        train(tmp_path, resume=True)
    assert configuration_of(tmp_path) == other


def test_a_session_in_another_environment_than_the_one_before_is_told(tmp_path, monkeypatch):
    for session, processor in enumerate(("one", "two", "three", "three", "one", "one")):
        monkeypatch.setattr(environment, "_processor", lambda name=processor: name)
        monkeypatch.setattr(environment, "versions", lambda last=session == 5: {"numpy": "3" if last else "2"})
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, resume=session > 0, progress=interrupt_at(5 * session + 7))
    found = {path.name: json.loads(path.read_text())["machine"]["processor"] for path in tmp_path.glob("environment*")}
    names = {f"environment{at}.json" for at in ("", "-000005", "-000010", "-000020", "-000025")}
    assert found == dict(zip(sorted(names), ("two", "three", "one", "one", "one"), strict=True))


def test_the_session_before_is_that_of_the_last_iteration(tmp_path):
    files.write_json(tmp_path / "environment-999500.json", {"versions": {}, "machine": {}})
    files.write_json(tmp_path / "environment-1000000.json", environment.environment())
    write_other_environment(tmp_path, 2_000_000)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_is_trained_in_is_refused(tmp_path):
    def meanwhile(k, _):
        if k == 1:
            with pytest.raises(RunError, match="another process trains in it"):
                train(tmp_path, SMALL._replace(iterations=5), resume=True)

    train(tmp_path, SMALL._replace(iterations=5), progress=meanwhile)
    assert [record["iteration"] for record in metrics_of(tmp_path)] == [5]


def test_a_process_that_is_killed_leaves_no_lock(tmp_path):
    code = """
import os, signal, sys
from pathlib import Path
from antisymrnn_validation.experiments.folder import locked
with locked(Path(sys.argv[1])) as ours:
    print(ours, flush=True)
    sys.stdin.read(1)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    lock = tmp_path / ".lock"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, str(lock)], **pipes) as other:
        assert other.stdout.readline() == "True\n"
        with locked(lock) as ours:
            assert not ours
        with pytest.raises(RunError, match="another process trains in it; wait for that, or take another --output"):
            train(tmp_path)
        other.communicate("x")
    assert other.returncode == -signal.SIGKILL
    assert lock.exists()
    with locked(lock) as ours:
        assert ours


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EROFS])
def test_a_folder_that_cannot_be_locked_is_not_taken_for_a_busy_one(tmp_path, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(files.ReportError, match=f".lock: cannot be locked: {os.strerror(number)}"):
        train(tmp_path)
    monkeypatch.undo()
    train(tmp_path, SMALL._replace(iterations=5))  # and nothing is left locked


def test_a_lock_that_is_a_folder_is_refused(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(files.ReportError, match=".lock: cannot be locked: Is a directory"):
        train(tmp_path)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_run_whose_last_step_overflows_is_not_finished(tmp_path):
    wild = SMALL._replace(optimizer="sgd", learning_rate=1e38, iterations=1)
    with pytest.raises(training.Diverged, match=r"by iteration 1: the loss on samples of the train .* had norm \d"):
        train(tmp_path, wild)
    assert not (tmp_path / "summary.json").exists()
    assert not (tmp_path / "checkpoint.npz").exists()


@pytest.mark.slow
def test_curves_tell_runs_of_any_name_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "render", RENDER)
    short, folders = SMALL._replace(iterations=5), []
    for name in ("a/run", "b/run", "a$\\bad{$"):
        train(tmp_path / name, short)
        folders.append(tmp_path / name)
    assert runs.labels(folders[1:]) == ["run", "a\\$\\bad{\\$"]
    assert runs.labels(folders[:2]) == [str(folder) for folder in folders[:2]]
    assert runs.labels([folders[0] / ".."]) == ["a"]
    assert runs.labels([tmp_path / "_hidden", tmp_path / os.fsdecode(b"\xff")]) == [" _hidden", "\\xff"]
    assert [path.name for path in runs.write_curves(tmp_path, folders)] == ["curves.png", "curves.svg"]


def test_curves_are_of_the_validation_and_thin_of_the_batches(tmp_path, monkeypatch):
    train(tmp_path, SMALL._replace(iterations=10))
    figure = Figure()
    monkeypatch.setattr(drawing, "render", lambda draw, *_: draw(figure) or drawing.Drawing(b"", b""))
    runs.write_curves(tmp_path, [tmp_path])
    records = metrics_of(tmp_path)
    for axis, quantity in zip(figure.axes, ("loss", "accuracy"), strict=True):
        bold, thin = axis.lines
        assert bold.get_xdata().tolist() == [5, 10]
        assert bold.get_ydata().tolist() == [record[f"validation_{quantity}"] for record in records]
        assert thin.get_ydata().tolist() == [record[quantity] for record in records]
        assert bold.get_label() == tmp_path.name
        assert bold.get_linewidth() > thin.get_linewidth()
    assert [axis.get_yscale() for axis in figure.axes] == ["log", "linear"]


def test_equal_configurations_have_one_fingerprint():
    assert fingerprint_of(SMALL._replace(clip=1)) == fingerprint_of(SMALL._replace(clip=1.0))


@pytest.mark.parametrize("damage", ["truncated", "version", "configuration"])
def test_a_checkpoint_that_cannot_be_used_is_refused(tmp_path, damage):
    short = SMALL._replace(iterations=5)
    train(tmp_path, short)
    path = tmp_path / "checkpoint.npz"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-300])
    else:
        with np.load(path) as file:
            content = dict(file) | {damage: 99}
        np.savez(path, **content)
    before = path.read_bytes()
    said = {"truncated": "cut off or damaged", "version": "version 1, got version 99", "configuration": "another"}
    with pytest.raises(RunError, match=said[damage]):
        train(tmp_path, short, resume=True)
    assert path.read_bytes() == before


def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_goes_on(tmp_path, monkeypatch):
    whole, short_of_space = tmp_path / "whole", tmp_path / "short of space"
    train(whole)
    sync, at = os.fsync, [0]

    def full(descriptor):
        if at[0] >= 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(files.ReportError, match="cannot be written: No space left on device"):
            train(short_of_space, progress=lambda k, _: at.__setitem__(0, k))
        with open(short_of_space / "metrics.jsonl", "a") as file:  # as if killed within a record
            file.write('{"itera')
        before = (short_of_space / "metrics.jsonl").read_bytes()
        with pytest.raises(files.ReportError, match="metrics.jsonl: cannot be written"):
            train(short_of_space, resume=True)
        assert (short_of_space / "metrics.jsonl").read_bytes() == before
    assert load_state(short_of_space / "checkpoint.npz", SMALL).iteration == 5
    assert not list(short_of_space.glob(".antisymrnn*"))
    train(short_of_space, resume=True)
    assert same(whole / "checkpoint.npz", short_of_space / "checkpoint.npz")
    assert (whole / "metrics.jsonl").read_bytes() == (short_of_space / "metrics.jsonl").read_bytes()


LIMITED = """
import importlib.util, resource, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("tested", sys.argv[1])
tested = importlib.util.module_from_spec(spec); spec.loader.exec_module(tested)
at = int(sys.argv[3])
def progress(k, measured):
    if k == at:  # no file can become longer than this
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]),) * 2)
try:
    tested.train(Path(sys.argv[2]), progress=progress)
except tested.files.ReportError as error:
    print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="the size of files cannot be limited there")
@pytest.mark.parametrize("name", tiered(["metrics.jsonl", "checkpoint.npz"], lambda name: name == "checkpoint.npz"))
def test_a_file_that_the_system_cuts_off_in_a_write_loses_nothing(tmp_path, name):
    whole, limited = tmp_path / "whole", tmp_path / "limited"
    train(whole)
    four = len(b"".join((whole / "metrics.jsonl").read_bytes().splitlines(keepends=True)[:4]))
    limit = four + (20 if name == "metrics.jsonl" else 1000)  # in the fifth record, or the checkpoint behind it
    paths = os.pathsep.join(sys.path)
    said = subprocess.run(
        [sys.executable, "-c", LIMITED, __file__, str(limited), "23", str(limit)],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"{name}: cannot be written: File too large" in said
    assert load_state(limited / "checkpoint.npz", SMALL).iteration == 20
    train(limited, resume=True)
    assert same(whole / "checkpoint.npz", limited / "checkpoint.npz")
    assert (whole / "metrics.jsonl").read_bytes() == (limited / "metrics.jsonl").read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="folders are not synced there")
def test_a_file_is_on_the_disk_before_its_name_and_its_name_before_the_end(tmp_path, monkeypatch):
    done, sync, replace = [], os.fsync, os.replace

    def noted_sync(descriptor):
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def noted_replace(*paths):
        done.append("name")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_replace)
    files.write_bytes(tmp_path / "file", b"content")
    assert done == ["file", "name", "folder"]


def test_a_record_is_on_the_disk_before_its_checkpoint(tmp_path, monkeypatch):
    synced, sync = [], os.fsync

    def noted(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    train(tmp_path, SMALL._replace(iterations=5))
    record, checkpoint = ((tmp_path / name).stat().st_ino for name in ("metrics.jsonl", "checkpoint.npz"))
    assert synced.index(record) < synced.index(checkpoint)


def test_an_error_in_the_data_ends_the_run(tmp_path):
    def broken(*_):
        raise MemoryError("no room for a batch")

    with pytest.raises(MemoryError, match="no room for a batch"):
        runs.train(tmp_path, SMALL, tiny()._replace(sequences=broken), load_backend("numpy"))


def test_a_run_without_its_best_checkpoint_is_refused_before_it_goes_on(tmp_path):
    train(tmp_path, SMALL._replace(iterations=5))
    (tmp_path / "best.npz").unlink()
    with pytest.raises(RunError, match="best.npz: expected a checkpoint, got nothing"):
        train(tmp_path, SMALL._replace(iterations=5), resume=True, progress=lambda *_: pytest.fail("it went on"))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("cell", "gate", "cell: expected antisymmetric or gated, got 'gate'; did you mean 'gated'"),
        ("optimizer", "adamw", "did you mean 'adam'"),
        ("optimizer", "lion", "got 'lion'\\)$"),
        ("schedule", "Cosine", "did you mean 'cosine'"),
        ("dtype", "float", "dtype: expected float32 or float64, got 'float'\\)$"),
        ("dtype", "float16", "dtype: expected float32 or float64, got 'float16'\\)$"),
        ("units", "128", "units: expected a whole number, got '128'"),
        ("units", True, "units: expected a whole number, got True"),
        ("units", 0, "units: expected at least 1, got 0"),
        ("units", 10**10, "units: expected at most 1073741823, got 10000000000"),
        ("evaluate_every", 0, "evaluate_every: expected at least 1, got 0"),
        ("seed", -1, "seed: expected at least 0, got -1"),
        ("patience", -1, "patience: expected at least 0, got -1"),
        ("step_size", math.nan, "step_size: expected a finite number of at least 0 in float32, got nan"),
        ("step_size", 0.0, "step_size: expected more than 0 in float32, got 0"),
        ("step_size", 1e-60, "step_size: expected more than 0 in float32, got 1e-60"),
        ("momentum", -0.5, "momentum: expected a finite number of at least 0 in float32, got -0.5"),
        ("sigma_w", 1e39, "sigma_w: expected a finite number of at least 0 in float32, got 1e[+]39"),
        ("clip", 10**400, "clip: expected a finite number of at least 0 in float32, got 10000"),
        ("full", 1, "full: expected true or false, got 1"),
        ("task", None, "task: expected a text, got None"),
        ("validation", 1, "validation: expected a part between 0 and 1, got 1"),
        ("validation", 0.0, "validation: expected a part between 0 and 1, got 0"),
        ("hidden", 3, "unexpected keyword argument 'hidden'"),
    ],
)
def test_a_configuration_that_cannot_be_trained_is_refused(tmp_path, field, value, said):
    (tmp_path / "config.json").write_text(json.dumps(SMALL._asdict() | {field: value}))
    with pytest.raises(RunError, match=f"config.json: expected the configuration of a run, got .*{said}"):
        configuration_of(tmp_path)


def test_a_configuration_that_cannot_be_trained_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="evaluate_every: expected at least 1, got 0"):
        train(tmp_path / "run", SMALL._replace(evaluate_every=0))
    assert not (tmp_path / "run").exists()


def test_the_name_of_a_run_tells_it_from_others():
    usual = Configuration("digits", **DEFAULTS["digits"])
    assert run_name(usual) == "digits"
    assert run_name(usual._replace(cell="gated", learning_rate=0.5)) == "digits-cell=gated-learning_rate=0.5"


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "expected a run with metrics.jsonl"), ('{"iteration": 5}\n', "line 1: expected a record with")],
)
def test_a_folder_without_curves_is_refused(tmp_path, content, said):
    if content:
        (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(RunError, match=said):
        runs.write_curves(tmp_path, [tmp_path])


def test_a_run_from_before_the_shards_can_be_read_and_gone_on_with(tmp_path):
    train(tmp_path, SMALL._replace(iterations=5))
    path = tmp_path / "config.json"
    old = json.loads(path.read_text())
    assert old.pop("shards") == 1
    path.write_text(json.dumps(old))
    configuration = configuration_of(tmp_path)
    assert load_state(tmp_path / "checkpoint.npz", configuration).iteration == 5
    assert train(tmp_path, configuration, resume=True)["iterations"] == 5
    # what a checkpoint of this configuration held before there were shards
    assert fingerprint_of(SMALL) == "4018b7010263b6bd82d243f092d688a35ce5a6012a6628bd8fdbbf23e9fe5bc5"
    assert fingerprint_of(SMALL._replace(shards=2)) != fingerprint_of(SMALL)


@pytest.mark.parametrize("cell", CELLS)
def test_shards_sum_to_the_gradient_of_the_batch_in_their_order(cell):
    configuration = SMALL._replace(cell=cell, dtype="float64", optimizer="sgd")
    data, backend = tiny(), load_backend("numpy")
    state, asked = training.initial(configuration, 2, 2), []
    x = data.sequences("train", np.arange(100), np.float64, np.random.default_rng(0))

    def backwards(backend, configuration, state, shards):
        asked.append([len(labels) for _, labels, _ in shards])
        return training.each_here(backend, configuration, state, shards[::-1])[::-1]

    def stepped(shards, each=training.each_here):
        changed, measured = training.step(
            backend, configuration._replace(shards=shards), state, x, data.train_labels, each=each
        )
        return (*changed.cell, *changed.layer, *changed.slots[0]), measured

    (whole, measured), (cut, also), (again, _) = stepped(1), stepped(7), stepped(7, backwards)
    assert asked == [[15, 15, 14, 14, 14, 14, 14]]
    for one, other, third in zip(whole, cut, again, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-12)
        assert other.tobytes() == third.tobytes()
    assert any(one.tobytes() != other.tobytes() for one, other in zip(whole, cut, strict=True))
    assert also == pytest.approx(measured, rel=1e-12)
    with pytest.raises(ValueError, match="shards: expected at most batch = 16, got 17"):
        check_configuration(SMALL._replace(shards=17))
    check_configuration(SMALL._replace(shards=16))


def test_a_batch_of_fewer_samples_than_shards_has_one_in_each():
    state, asked = training.initial(SMALL, 2, 2), []

    def each(backend, configuration, state, shards):
        asked.append([len(labels) for _, labels, _ in shards])
        return training.each_here(backend, configuration, state, shards)

    x, labels = np.ones((6, 3, 2), np.float32), np.arange(3) % 2
    training.step(load_backend("numpy"), SMALL._replace(shards=7), state, x, labels, each=each)
    assert asked == [[1, 1, 1]]


def test_the_norm_that_clips_does_not_go_by_the_threads_of_the_BLAS():
    configuration = SMALL._replace(units=128)
    state, norms = training.initial(configuration, 2, 2), []
    x, labels = tiny().sequences("train", np.arange(16), np.float32, np.random.default_rng(0)), np.arange(16) % 2
    (gradient,) = training.each_here(load_backend("numpy"), configuration, state, [(x, labels, 16)])
    for threads in (1, 2):
        with threadpoolctl.threadpool_limits(threads, "blas"):
            _, measured = training.step(None, configuration, state, x, labels, each=lambda *_: [gradient])
            norms.append(measured["norm"])
    assert norms[0] == norms[1]


def test_where_the_gradients_are_computed_is_the_callers_choice(tmp_path):
    short, asked = SMALL._replace(iterations=5, shards=2), []

    def each(backend, configuration, state, shards):
        asked.append(state.iteration)
        return training.each_here(backend, configuration, state, shards)

    train(tmp_path / "one", short)
    train(tmp_path / "other", short, each=each)
    assert asked == [0, 1, 2, 3, 4]
    assert same(tmp_path / "one" / "checkpoint.npz", tmp_path / "other" / "checkpoint.npz")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_divergence_stops_with_advice(tmp_path):
    wild = SMALL._replace(optimizer="sgd", learning_rate=1e37, evaluate_every=60)
    with pytest.raises(training.Diverged, match=r"diverged at iteration \d+: loss .* norm .* smaller --learning-rate"):
        train(tmp_path, wild)


def test_every_evaluated_state_is_kept_if_asked(tmp_path):
    configuration = SMALL._replace(iterations=6, evaluate_every=2)
    train(tmp_path / "few", configuration)
    train(tmp_path / "all", configuration, keep=True)
    few, every = (states_of(tmp_path / name, configuration) for name in ("few", "all"))
    assert [state.iteration for state in every] == [2, 4, 6]
    assert {state.iteration for state in few} == {few[-1].best_iteration, 6}
    assert same(tmp_path / "few" / "checkpoint.npz", tmp_path / "all" / "checkpoints" / "000006.npz")
    assert not np.array_equal(every[0].cell.W, every[1].cell.W)


def test_the_states_of_a_recorded_run_are_the_best_one(tmp_path):
    train(tmp_path, SMALL)
    (tmp_path / "checkpoint.npz").unlink()
    (state,) = states_of(tmp_path, SMALL)
    assert state.iteration == state.best_iteration


def test_a_run_that_lost_its_records_is_not_gone_on_with(tmp_path):
    short = SMALL._replace(iterations=20, evaluate_every=5)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, short, progress=interrupt_at(12))
    metrics = tmp_path / "metrics.jsonl"
    first = metrics.read_text().splitlines()[0] + "\n"
    for text, last in ((None, 0), (first, 5)):
        metrics.unlink()
        if text:
            metrics.write_text(text)
        with pytest.raises(RunError, match=rf"up to iteration 10, .* got them up to {last}; put"):
            train(tmp_path, short, resume=True)
        metrics.touch()


def test_a_finished_run_that_lost_its_checkpoint_is_unfinished_until_its_end(tmp_path):
    short = SMALL._replace(iterations=20, evaluate_every=5)
    train(tmp_path, short)
    held = (tmp_path / "best.npz").read_bytes(), (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "checkpoint.npz").unlink()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, short, resume=True, progress=interrupt_at(7))
    assert not (tmp_path / "summary.json").exists()
    train(tmp_path, short, resume=True)
    assert held == ((tmp_path / "best.npz").read_bytes(), (tmp_path / "metrics.jsonl").read_bytes())


READOUT = """
import numpy as np, threadpoolctl
from antisymrnn_ref import load_backend
from antisymrnn_validation.truth.cases import CELLS
from antisymrnn_validation.experiments import training

wide = training.Configuration("digits", "numba", units=256, batch=256)
generator = np.random.default_rng(0)
state, labels = training.initial(wide, 1, 10), np.arange(256) % 10
x = generator.standard_normal((2, 256, 1)).astype("f4")
found = []
for threads in (1, 2):
    with threadpoolctl.threadpool_limits(threads, "blas"):
        gradient = training.gradient(load_backend("numba"), wide, state, x, labels, 256)
        loss = training.evaluate(load_backend("numba"), wide, state, "test", lambda *_: x, labels)
        found.append((loss, gradient.loss, *(array.tobytes() for array in gradient.arrays)))
print(found[0] == found[1])
"""


def test_the_bits_of_the_readout_do_not_go_by_the_threads_of_blas():
    pytest.importorskip("antisymrnn_numba")
    # the kernels of OpenBLAS whose sums are known to go by their threads, where there are such
    environment = os.environ | {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", READOUT], env=environment, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def test_early_stopping(tmp_path):
    summary = train(tmp_path, SMALL._replace(patience=10, iterations=10_000))
    assert summary["iterations"] == summary["best_iteration"] + 10
    assert json.loads((tmp_path / "summary.json").read_text())["parameters"] == summary["parameters"]


@pytest.mark.parametrize("stopped", tiered([4, 7, 11, 18], lambda stopped: stopped == 11))
def test_an_interrupted_run_ends_where_its_patience_would_have_ended_it(tmp_path, stopped):
    def interrupt(iteration, _):
        if iteration == stopped:
            raise KeyboardInterrupt

    configuration = SMALL._replace(patience=15, iterations=10_000)
    whole = train(tmp_path / "whole", configuration)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", configuration, progress=interrupt)
    resumed = train(tmp_path / "cut", configuration, resume=True)
    assert resumed["best_iteration"] == whole["best_iteration"]
    assert resumed["iterations"] == whole["iterations"] == whole["best_iteration"] + 15
    for name in ("checkpoint.npz", "best.npz"):
        assert same(tmp_path / "whole" / name, tmp_path / "cut" / name)


@pytest.mark.parametrize("patience", [3, 7])
def test_patience_ends_a_run_after_an_evaluation(tmp_path, patience):
    never_better = SMALL._replace(patience=patience, learning_rate=0.0)
    summary = train(tmp_path, never_better)
    assert (summary["iterations"], summary["best_iteration"]) == (5 + 5 * -(-patience // 5), 5)
    assert load_state(tmp_path / "checkpoint.npz", never_better).iteration == summary["iterations"]
    assert metrics_of(tmp_path)[-1]["iteration"] == summary["iterations"]
    assert train(tmp_path, never_better, resume=True) == summary


def test_the_seconds_of_a_run_are_without_its_test(tmp_path, monkeypatch):
    data, now = tiny(), [0.0]

    def sequences(split, *arguments):
        now[0] += 100 if split == "test" else 1
        return data.sequences(split, *arguments)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    short = SMALL._replace(iterations=5)
    summary = runs.train(tmp_path, short, data._replace(sequences=sequences), load_backend("numpy"))
    assert summary["seconds"] == 6  # five batches and an evaluation


def test_a_finished_run_stays_as_it_is_and_what_a_kill_left_is_gone(tmp_path):
    summary = train(tmp_path, SMALL._replace(iterations=5))
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    (tmp_path / ".antisymrnn-0123456789abcdef.tmp").write_bytes(b"half a checkpoint")
    assert train(tmp_path, SMALL._replace(iterations=5), resume=True) == summary
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    (tmp_path / "summary.json").unlink()  # killed before the end
    again = train(tmp_path, SMALL._replace(iterations=5), resume=True)
    assert (again["test_loss"], again["iterations_timed"]) == (summary["test_loss"], 0)


def test_what_another_process_removes_meanwhile_is_no_loss(tmp_path, monkeypatch):
    found = Path.rglob

    def gone(folder, pattern):
        for path in found(folder, pattern):
            path.unlink()
            yield path

    monkeypatch.setattr(Path, "rglob", gone)
    (tmp_path / files.TEMPORARY.replace("*", "0123456789abcdef")).touch()
    assert train(tmp_path, SMALL._replace(iterations=5))["iterations"] == 5


@pytest.mark.parametrize("name", ["parameters", "best_iteration", "seconds", "iterations_timed"])
def test_a_finished_run_whose_summary_lacks_something_is_refused(tmp_path, name):
    short = SMALL._replace(iterations=5)
    summary = train(tmp_path, short)
    files.write_json(tmp_path / "summary.json", {key: value for key, value in summary.items() if key != name})
    with pytest.raises(RunError, match=f"summary of a run, got something else .*without {name}"):
        train(tmp_path, short, resume=True)


def test_a_zero_with_a_sign_is_zero():
    assert fingerprint_of(SMALL._replace(clip=-0.0)) == fingerprint_of(SMALL._replace(clip=0.0))


def test_what_a_kill_left_among_the_kept_states_is_gone(tmp_path):
    short = SMALL._replace(iterations=5)
    train(tmp_path, short, keep=True)
    left = tmp_path / "checkpoints" / files.TEMPORARY.replace("*", "0123456789abcdef")
    left.touch()
    train(tmp_path, short, resume=True)
    assert not left.exists()


def test_an_evaluation_has_the_noise_of_its_split_the_same_every_time():
    seen = []

    def sequences(split, indices, dtype, generator):
        x = tiny().sequences(split, indices, dtype, generator)
        seen.append((split, x))
        return x

    data, backend = tiny()._replace(sequences=sequences), load_backend("numpy")
    state = training.initial(SMALL, 2, 2)
    for iteration, split in enumerate(("train", "test", "test")):
        runs.evaluate(SMALL, data, backend, state._replace(iteration=iteration), split, np.arange(20))
    (_, train_noise), (_, test_noise), (_, again) = seen
    assert np.array_equal(test_noise, again)
    assert not np.array_equal(train_noise, test_noise)
    assert len(np.unique(test_noise)) == test_noise.size  # of its own for every sample


def test_download_fills_the_folder_of_data_first(tmp_path, monkeypatch, capsys):
    asked = []

    def download(name, folder):
        asked.append((name, folder))
        raise DataError("no mirror gave it")

    monkeypatch.setattr(downloading, "download", download)
    monkeypatch.delenv("ANTISYMRNN_DATA", raising=False)  # it stands in for --data
    for options, said in (
        ((), "--download: expected --data DIR too"),
        (("--data", str(tmp_path)), "no mirror gave it"),
    ):
        with pytest.raises(SystemExit) as error:
            cli.main(["train", "mnist", "--download", *options])
        assert error.value.code == 2
        assert said in capsys.readouterr().err
    assert asked == [("mnist", tmp_path)]


def test_download_says_what_stands_in_the_way_of_the_files_that_it_fetched(tmp_path, monkeypatch, run):
    def damaged(*_):
        raise DataError("images.gz: expected an intact gzip file")

    monkeypatch.setattr(tasks, "data_of", damaged)
    monkeypatch.setattr(downloading, "download", lambda *_: [tmp_path / "mnist" / "images.gz"])
    code, _, err = run("train", "mnist", "--download", "--data", tmp_path)
    assert code == 2
    assert f"images.gz: expected an intact gzip file; remove it: whole files are in {tmp_path / 'mnist'} now" in err


def test_download_leaves_alone_what_is_there_in_any_form(monkeypatch, run):
    monkeypatch.setattr(downloading, "download", lambda *_: pytest.fail("it was downloaded"))
    monkeypatch.delenv("ANTISYMRNN_DATA", raising=False)
    code, _, err = run("train", "digits", "--download", "--backend", "numpy", "--profile", "0")  # needs no --data
    assert code == 2
    assert "--profile: expected at least 1" in err
    code, _, err = run("train", "digit", "--download")
    assert code == 2
    assert "did you mean 'digits'" in err
