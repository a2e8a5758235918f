"""Training: optimizers by hand, a run that is killed and resumed, folders and checkpoints that must be refused."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from antisymrnn_ref import load_backend
from antisymrnn_validation import cli
from antisymrnn_validation.experiments import downloading, optimizers, runs, training
from antisymrnn_validation.experiments.data import DataError
from antisymrnn_validation.experiments.training import Configuration

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

    return runs.Data(2, 2, labels, labels, sequences)


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


def test_schedules():
    rates = [optimizers.scheduled_rate("step", 1.0, k, 100) for k in (1, 50, 51, 76)]
    np.testing.assert_allclose(rates, [1, 1, 0.1, 0.01])
    np.testing.assert_allclose([optimizers.scheduled_rate("cosine", 2.0, k, 100) for k in (1, 51)], [2, 1])
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
@pytest.mark.parametrize("cell", training.CELLS)
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


def test_the_ablation_trains_a_full_matrix():
    configuration = SMALL._replace(cell="gated", unconstrained=True)
    data, state = tiny(), training.initial(configuration, 2, 2)
    x = data.sequences("train", np.arange(100), np.float32, np.random.default_rng(0))
    changed, _ = training.step(load_backend("numpy"), configuration, state, x, data.train_labels)
    assert (changed.cell.W != state.cell.W).all()
    with pytest.raises(ValueError, match="unconstrained: expected the gated cell"):
        training.check(SMALL._replace(unconstrained=True))


def test_splits_and_batches():
    learn, held_out = training.splits(SMALL, 100)
    assert sorted([*learn, *held_out]) == list(range(100))
    assert len(held_out) == 10
    epoch = np.concatenate([training.batch_indices(SMALL, learn, k) for k in range(5)])
    assert len(set(epoch)) == 80
    assert not set(epoch) & set(held_out)


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
        file.write('{"iteration": 25, "loss": 0}\n{"itera')
    train(killed, resume=True)
    assert same(whole / "checkpoint.npz", killed / "checkpoint.npz")
    assert same(whole / "best.npz", killed / "best.npz")
    assert (whole / "metrics.jsonl").read_bytes() == (killed / "metrics.jsonl").read_bytes()
    for name in ("config.json", "environment.json", "summary.json", "curves.png", "curves.svg"):
        assert (killed / name).is_file()


def test_a_folder_of_another_configuration_is_refused(tmp_path):
    short = SMALL._replace(iterations=5)
    train(tmp_path, short)
    with pytest.raises(runs.RunError, match="holds a run already; --resume"):
        train(tmp_path, short)
    with pytest.raises(runs.RunError, match="another configuration: units is 8, asked for 9"):
        train(tmp_path, short._replace(units=9), resume=True)


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
    with pytest.raises(runs.RunError, match=said[damage]):
        train(tmp_path, short, resume=True)
    assert path.read_bytes() == before


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_divergence_stops_with_advice(tmp_path):
    wild = SMALL._replace(optimizer="sgd", learning_rate=1e37, evaluate_every=1)
    with pytest.raises(training.Diverged, match=r"diverged at iteration \d+: loss .* norm .* smaller --learning-rate"):
        train(tmp_path, wild)


def test_early_stopping(tmp_path):
    summary = train(tmp_path, SMALL._replace(patience=10, iterations=10_000))
    assert summary["iterations"] == summary["best_iteration"] + 10
    assert json.loads((tmp_path / "summary.json").read_text())["parameters"] == summary["parameters"]


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
