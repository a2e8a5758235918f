"""The commands train, evaluate and curves: what they print, their exit codes, what they leave in a folder."""

import contextlib
import errno
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

import antisymrnn_ref
from antisymrnn_validation import cli
from antisymrnn_validation.cli import train
from antisymrnn_validation.comparison import contenders, timing, training_speed
from antisymrnn_validation.experiments import cluster, runs, tasks, training
from antisymrnn_validation.experiments.configuration import Configuration
from antisymrnn_validation.experiments.folder import (
    append_metrics,
    configuration_of,
    load_state,
    metrics_of,
    save_state,
)

# the child of a shell's background job ignores Ctrl-C unless it is told otherwise
INTERRUPTIBLE = """
import signal
from antisymrnn_validation import cli
signal.signal(signal.SIGINT, signal.default_int_handler)
cli.main()
"""
pytestmark = pytest.mark.usefixtures("unrendered")

TINY = ("digits", "--backend", "numpy", "--units", "4", "--batch", "8", "--iterations", "4", "--evaluate-every", "2")


@pytest.fixture(autouse=True)
def _no_real_data(monkeypatch):
    monkeypatch.delenv("ANTISYMRNN_DATA", raising=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run, and its JSON document."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", *TINY, "--output", str(folder / "run"), "--json", str(folder / "train.json")])
    assert caught.value.code == 0
    return folder / "run", json.loads((folder / "train.json").read_text())


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of it."""
    return shutil.copytree(finished[0], tmp_path / "run")


def test_train_evaluate_and_curves_say_the_same_in_text_and_json(run, finished, tmp_path):
    folder, document = finished
    summary = json.loads((folder / "summary.json").read_text())
    assert document["run"] == summary
    assert document["configuration"]["units"] == 4
    assert [record["iteration"] for record in document["metrics"]] == [2, 4]
    assert f"test accuracy {summary['test_accuracy']:.2%}" in document["summary"]["line"]
    code, out, _ = run("evaluate", folder, "--json", tmp_path / "evaluate.json")
    evaluated = json.loads((tmp_path / "evaluate.json").read_text())
    assert code == 0
    assert f"evaluate: digits, 355 samples, test loss {summary['test_loss']:.4f}" in out
    assert (evaluated["test_loss"], evaluated["test_accuracy"]) == (summary["test_loss"], summary["test_accuracy"])
    code, out, _ = run("curves", folder, folder, "--output", tmp_path, "--json", tmp_path / "curves.json")
    drawn = json.loads((tmp_path / "curves.json").read_text())
    assert code == 0
    assert out.split() == drawn["files"] == [str(tmp_path / "curves.png"), str(tmp_path / "curves.svg")]
    assert [each["metrics"] for each in drawn["runs"]] == [document["metrics"]] * 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (TINY, "holds a run already; --resume goes on with it"),
        (("mnist", "--resume"), "expected a run of mnist, it is one of digits; name that task, or another --output"),
        ((*TINY, "--resume", "--units", "5"), "another configuration: units is 4, asked for 5; leave that out"),
    ],
)
def test_a_folder_that_is_taken_is_left_alone(run, folder, arguments, said):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code, _, err = run("train", *arguments, "--output", folder)
    assert code == 2
    assert said in err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "cut off or damaged"),
        (lambda path: np.savez(path, **dict(np.load(path)) | {"version": 99}), "of version 1, got version 99"),
        (lambda path: path.unlink(), "expected a checkpoint, got nothing"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_named(run, folder, damage, said):
    damage(folder / "best.npz")
    for arguments in (("evaluate", folder), ("train", *TINY, "--output", folder, "--resume")):
        code, _, err = run(*arguments)
        assert code == 2
        assert f"best.npz: {said}" in err or ("best.npz: expected a checkpoint" in err and said in err)


def test_a_best_state_whose_loss_is_not_finite_contradicts(run, folder):
    path = folder / "best.npz"
    np.savez(path, **dict(np.load(path)) | {"value_4": np.float32([3e38] + 9 * [-3e38])})  # the bias of the readout
    code, _, err = run("evaluate", folder)
    assert code == 1
    assert "the loss on samples of the test set is inf" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("digit",), "did you mean 'digits'"),
        (("digits", "--backend", "nump"), "did you mean 'numpy'"),
        (("digits", "--backend", "torch"), "PyTorch is a peer: `antisymrnn compare --peers torch` times it"),
        (("digits", "--backend", "JAX"), "JAX is a peer: `antisymrnn compare --peers jax` times it"),
        (("digits", "--lr", "0.1"), "No such option: --lr (Possible options: --learning-rate)"),
        (("digits", "--itertions", "1"), "No such option: --itertions (Possible options: --iterations)"),
        (("digits", "--shuffle"), "No such option: --shuffle\n"),
        (("digits", "--cell", "gate"), "did you mean 'gated'"),
        (("digits", "--optimizer", "sdg"), "did you mean 'sgd'"),
        (("digits", "--schedule", "cos"), "did you mean 'cosine'"),
        (("digits", "--dtype", "float16"), "dtype: expected float32 or float64, got 'float16'\n"),
        (("digits", "--step-size", "nan"), "step_size: expected a finite number"),
        (("digits", "--step-size", "0"), "step_size: expected more than 0"),
        (("digits", "--backend", "numpy", "--units", "100000000"), "the memory is too small: Unable to allocate"),
        (("digits", "--resume"), "config.json: expected the configuration of a run: No such file"),
        (("digits", "--profile", "1", "--resume"), "--resume: expected without --profile"),
        (("digits", "--profile", "1", "--keep"), "--keep: expected without --profile"),
        (("digits", "--profile", "1", "--workers", "1"), "--workers: expected without --profile"),
        (("digits", "--backend", "numpy", "--profile", "0"), "--profile: expected at least 1, got 0"),
        (("digits", "--backend", "numpy", "--units", "0", "--profile", "1"), "units: expected at least 1, got 0"),
    ],
)
def test_what_cannot_be_trained_is_refused(run, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("train", *arguments)
    assert code == 2
    assert said in err
    assert not list(tmp_path.rglob("config.json"))


def test_the_folder_is_named_by_what_differs(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("antisymrnn_numba")
    monkeypatch.setattr(runs, "train", lambda folder, *_, **__: pytest.skip(str(folder)))
    with pytest.raises(pytest.skip.Exception, match=re.escape("runs/digits-cell=gated-learning_rate=0.5-seed=3")):
        run("train", "digits", "--backend", "numba", "--cell", "gated", "--learning-rate", "0.5", "--seed", "3")


def test_divergence_and_a_full_disk_say_what_is_kept(run, tmp_path, monkeypatch):
    sizes = ("--output", tmp_path / "run", "--optimizer", "sgd", "--schedule", "constant")
    code, _, err = run("train", *TINY, *sizes, "--learning-rate", "1e38")
    assert code == 1
    assert re.search(r"diverged .* iteration \d: .*loss .*; try a smaller --learning-rate.*; no checkpoint yet", err)
    later = ("--output", tmp_path / "later", "--momentum", "1e38", "--evaluate-every", "1")
    code, _, err = run("train", *TINY, *sizes, *later)
    assert code == 1
    assert f"the last checkpoint in {tmp_path / 'later'} is kept" in err

    calls, sync = itertools.count(), os.fsync

    def full(descriptor):
        if next(calls) > 6:  # the first checkpoint is being written
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        code, _, err = run("train", *TINY, "--output", tmp_path / "other")
        _, _, at_once = run("train", *TINY, "--output", tmp_path / "not begun")
    assert at_once.endswith("environment.json: cannot be written: No space left on device\n")
    assert code == 2
    assert "checkpoint.npz: cannot be written: No space left on device; what" in err
    assert "is whole: --resume goes on with it" in err
    assert run("train", *TINY, "--output", tmp_path / "other", "--resume")[0] == 0


def test_the_command_that_goes_on_has_every_option_that_matters(run, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "train", interrupted)
    code, _, err = run("train", *TINY, "--output", tmp_path / "two words", "--keep")
    assert code == 130
    assert "interrupted before anything was done; the same command begins\n" in err
    for name in ("two words", "run"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
    code, _, err = run("train", *TINY, "--output", tmp_path / "two words", "--keep")
    assert f"go on with: antisymrnn train digits --output '{tmp_path}/two words' --resume --keep\n" in err
    monkeypatch.setattr(tasks, "data_of", lambda *_: tasks.Data(1, 10, np.zeros(10, int), np.zeros(10, int), None))
    code, _, err = run("train", "mnist", *TINY[1:], "--data", tmp_path, "--output", tmp_path / "run")
    assert code == 130
    assert f"antisymrnn train mnist --output {tmp_path}/run --resume --data {tmp_path}\n" in err


def test_to_go_on_without_a_checkpoint_is_to_begin_and_said(run, folder):
    before = (folder / "checkpoint.npz").read_bytes()
    _, out, _ = run("train", "digits", "--output", folder, "--resume")
    assert out.splitlines()[0] == f"run {folder}"
    (folder / "checkpoint.npz").unlink()
    code, out, _ = run("train", "digits", "--output", folder, "--resume")
    assert code == 0
    assert out.splitlines()[0] == f"run {folder}: no checkpoint there, from the first iteration on"
    assert (folder / "checkpoint.npz").read_bytes() == before


@pytest.mark.slow
def test_workers_give_the_bits_of_one_process(run, tmp_path, monkeypatch):
    def train(folder, *options):
        code, _, err = run("train", *TINY, "--shards", "3", *options, "--output", folder)
        assert (code, err) == (0, "")

    def elsewhere(*_):
        raise AssertionError("computed here")

    train(tmp_path / "here")
    monkeypatch.setattr(training, "gradient", elsewhere)
    train(tmp_path / "there", "--workers", "2")
    for name in ("best.npz", "checkpoint.npz", "metrics.jsonl"):
        here, there = (tmp_path / each / name for each in ("here", "there"))
        assert here.read_bytes() == there.read_bytes()


@pytest.mark.slow
def test_digits_are_learnt_with_the_defaults(run, tmp_path):
    pytest.importorskip("antisymrnn_numba")
    code, out, _ = run("train", "digits", "--output", tmp_path / "run")
    assert code == 0
    assert "2000 iterations" in out.splitlines()[-1]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test_accuracy"] > 0.93  # 95.21 % on one processor, 96.90 % on another


def test_the_command_that_goes_on_has_the_workers(run, tmp_path, monkeypatch):
    def interrupted(folder, *_, **__):
        folder.mkdir()
        (folder / "config.json").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "train", interrupted)
    client = SimpleNamespace(nthreads=dict)
    monkeypatch.setattr(cluster, "connected", lambda *_: contextlib.nullcontext(client))
    report = tmp_path / "report.json"
    options = ("--shards", "2", "--workers", "2", "--json", report)
    code, _, err = run("train", *TINY, "--output", tmp_path / "run", *options)
    assert code == 130
    assert f"antisymrnn train digits --output {tmp_path}/run --resume --workers 2 --json {report}\n" in err


def test_the_last_lines_say_what_was_timed_and_whether_the_run_is_finished(run, folder):
    _, out, _ = run("train", *TINY, "--learning-rate", "0", "--output", folder.with_name("other"))
    assert re.search(r" at the best validation \(iteration 2\), \d+\.\d s$", out.splitlines()[-1])
    assert run("evaluate", folder)[1].rstrip().endswith(" of 4")
    (folder / "summary.json").unlink()
    assert run("evaluate", folder)[1].rstrip().endswith(" of 4, of a run that is not finished")
    _, out, _ = run("train", *TINY, "--output", folder, "--resume")
    assert re.search(r", 0\.\d s for the last 0 iterations$", out.splitlines()[-1])
    _, out, _ = run("train", *TINY, "--output", folder, "--resume")
    assert out.splitlines()[-1].endswith("; it was finished already")
    (folder / "checkpoint.npz").unlink()
    _, out, _ = run("train", *TINY, "--output", folder, "--resume")
    assert "finished already" not in out


@pytest.mark.parametrize("name", ["n" * 300, "file/run"])
def test_a_folder_that_cannot_be_made_is_refused(run, tmp_path, name):
    (tmp_path / "file").touch()
    code, _, err = run("train", *TINY, "--output", tmp_path / name)
    assert code == 2
    assert "cannot be made a folder" in err


def test_the_help_names_every_task(run):
    _, out, _ = run("train", "--help")
    assert {name for name in tasks.TASKS if re.search(rf"\b{name}\b", out)} == set(tasks.TASKS)


def test_every_evaluation_is_told_with_its_accuracy(run, folder):
    other = folder.with_name("other")
    _, out, _ = run("train", *TINY, "--output", other)
    records = metrics_of(other)
    told = [line for line in out.splitlines() if "validation loss" in line]
    assert told == [
        f"iteration {record['iteration']}  validation loss {record['validation_loss']:.4f}  "
        f"accuracy {record['validation_accuracy']:.2%}"
        for record in records
    ]


def test_the_last_step_is_told_too(capsys):
    data = tasks.Data(1, 10, np.zeros(111), np.zeros(1), lambda *_: None)
    configuration = Configuration("digits", iterations=3, evaluate_every=2)
    with train.progress_of_run(configuration, data) as (stepped, *_):
        for k in (1, 2, 3):
            stepped(k, {"loss": 1.0, "accuracy": 0.5})
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["2", "3"]


def test_interrupted_in_a_terminal_of_80_columns_and_resumed(run, tmp_path, monkeypatch):
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    folder = tmp_path / "run"
    longer = (*TINY, "--iterations", "30000", "--output", str(folder))  # long numbers in the bar
    here, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, "train", *longer],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm", "COLUMNS": "80"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    seen, interrupted = b"", False
    with process:
        while True:
            try:
                piece = os.read(here, 4096)
            except OSError:  # so Linux tells the end
                break
            if not piece:
                break
            seen += piece
            if not interrupted and b"sequences/s" in seen and b"validation loss" in seen:
                process.send_signal(signal.SIGINT)
                interrupted = True
    os.close(here)
    assert process.returncode == 130
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode())
    again = ("train", "digits", "--output", str(folder), "--resume")  # it knows what else was asked
    assert f"interrupted; go on with: antisymrnn {' '.join(again)}" in " ".join(text.split())
    bars = [line for line in re.split(r"[\r\n]+", text) if "sequences/s" in line]
    assert [line for line in bars if len(line) > 80] == []
    assert re.match(r"loss \d+\.\d{4}  accuracy \d+\.\d%  +\d+ sequences/s +[-\d:]+ left +\d+/30000", bars[-1])
    done = load_state(folder / "checkpoint.npz", configuration_of(folder)).iteration
    begun = []

    def no_step(*arguments, **_):
        begun.append(arguments[2].iteration)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "step", no_step)
    assert run(*again)[0] == 130
    assert begun == [done]


def test_the_speed_is_that_of_training_alone(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    configuration = Configuration("digits", batch=10**8, iterations=4, evaluate_every=1)
    data = tasks.Data(1, 10, np.zeros(111), np.zeros(1), lambda *_: None)  # 100 to train on, 11 to validate on
    measured = {"loss": 1.0, "accuracy": 0.5}
    with train.progress_of_run(configuration, data) as (stepped, evaluating, _):
        now[0] = 50.0  # the first step compiles
        stepped(1, measured)
        now[0] = 51.0
        stepped(2, measured)
        now[0] = 90.0
        evaluating(10, 10)
        now[0] = 90.5
        stepped(3, measured)
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "iteration 1  batch loss 1.0000  accuracy 50.0%"
    assert second.endswith("  100 sequences/s")
    assert third.endswith("  200 sequences/s")


def test_the_profile_adds_up_and_leaves_no_clock_behind(run, tmp_path, monkeypatch):
    train.task_data("digits", None)  # SciPy cannot be imported beside a torch that is None
    monkeypatch.setitem(sys.modules, "torch", None)
    step = training.step
    code, out, _ = run("train", *TINY, "--profile", "3", "--json", tmp_path / "profile.json")
    document = json.loads((tmp_path / "profile.json").read_text())
    parts = document["profile"]["iteration"]
    assert code == 0
    assert training.step is step
    assert set(parts) == {"forward", "backward", "readout", "update", "rest of the step", "data"}
    assert all(seconds > 0 for seconds in parts.values())
    share = (parts["forward"] + parts["backward"]) / sum(parts.values())
    assert document["profile"]["backend"] == pytest.approx(share)
    assert f"train --profile: digits, {share:.1%} of an iteration in numpy; PyTorch is not installed" in out


def test_the_profile_is_of_one_iteration_and_its_parts_add_up(monkeypatch):
    now = [0.0]

    def taking(seconds, function):
        def call(*arguments, **options):
            now[0] += seconds
            return function(*arguments, **options)

        return call

    right = antisymrnn_ref.antisymmetric
    cell = SimpleNamespace(forward=taking(1.0, right.forward), backward=taking(2.0, right.backward))
    backend = SimpleNamespace(asarray=np.asarray, to_numpy=np.copy, antisymmetric=cell)
    monkeypatch.setattr(training_speed, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(antisymrnn_ref.readout, "cross_entropy", taking(0.5, antisymrnn_ref.readout.cross_entropy))
    monkeypatch.setattr(runs, "save_state", taking(4.0, save_state))
    monkeypatch.setattr(runs, "append_metrics", taking(16.0, append_metrics))
    monkeypatch.setattr(runs, "write_curves", lambda *_: [])
    configuration = Configuration("digits", "numpy", units=4, batch=8)
    found = training_speed.profile(configuration, train.task_data("digits", None), backend, 3)
    parts = {"forward": 1.0, "backward": 2.0, "readout": 0.5, "update": 0.0, "rest of the step": 0.0, "data": 0.0}
    assert found.iteration == pytest.approx(parts)
    assert found.evaluation == pytest.approx(1.5)  # one block of the validation split: forward and readout
    assert found.checkpoint == pytest.approx(4.0 + 4.0 + 16.0)  # the best state, the last one and a record


def test_turns_that_diverge_leave_the_profile(run, tmp_path, monkeypatch):
    def diverged(*_):
        raise training.Diverged("diverged at iteration 9: loss nan")

    monkeypatch.setattr(training_speed, "contest", diverged)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(Tensor=type("Tensor", (), {})))  # SciPy asks for it
    sizes = ("--units", "4", "--batch", "4", "--profile", "2", "--json", tmp_path / "p.json")
    code, out, err = run("train", "digits", "--backend", "numpy", *sizes)
    assert (code, err) == (1, "")
    assert "in numpy; the turns beside PyTorch diverged at iteration 9" in out.splitlines()[-1]
    assert json.loads((tmp_path / "p.json").read_text())["profile"]["iterations"] == 2


def test_the_turns_are_told_by_the_batch_there_is_and_as_times_of_the_backend(run, monkeypatch):
    samples = {name: [timing.Sample(seconds, math.inf)] for name, seconds in (("numpy", 0.5), ("torch eager", 2.0))}
    monkeypatch.setattr(training_speed, "contest", lambda *_: training_speed.TrainingContest({}, samples))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(Tensor=type("Tensor", (), {})))
    code, out, _ = run("train", "digits", "--backend", "numpy", "--units", "2", "--batch", "100000", "--profile", "1")
    labels = train.task_data("digits", None).train_labels
    there = len(training.splits(Configuration("digits"), len(labels))[0])
    assert code == 0
    told = f", {2 * there} sequences/s, torch eager on the CPU takes 4.00 times as long"
    assert out.splitlines()[-1].endswith(told)


def test_the_contest_times_both_under_their_names_on_the_same_batches(monkeypatch):
    step, done = training.step, []

    def with_backend(backend, configuration, state, x, labels):
        done.append(("numpy", labels.tolist()))
        return step(backend, configuration, state, x, labels)

    def take_turns(contenders, *_):
        done.append(("turns", None))
        for contender in contenders * 2:
            contender.call()
        return [[f"of {contender.name}", contender.wanted] for contender in contenders]

    monkeypatch.setattr(training_speed, "_errors", lambda *_: {"loss": 0.0})
    monkeypatch.setattr(training, "step", with_backend)
    in_torch = lambda x, labels: done.append(("torch", labels.tolist()))  # noqa: ARG005, E731
    monkeypatch.setattr(training_speed, "torch_training", lambda *_: in_torch)
    monkeypatch.setattr(timing, "take_turns", take_turns)
    configuration, data = Configuration("digits", "numpy", units=3, batch=4), train.task_data("digits", None)
    held = training_speed.contest(configuration, data, antisymrnn_ref, "numpy", 9)
    assert held.samples == {"numpy": ["of numpy", 9], "torch eager": ["of torch eager", 9]}
    learn, _ = training.splits(configuration, len(data.train_labels))
    first, *others = (data.train_labels[training.batch_indices(configuration, learn, k)].tolist() for k in range(3))
    assert first not in others
    wanted = [("numpy", first), ("torch", first), ("turns", None)]  # the first call of each is not timed
    assert done == wanted + [(name, labels) for labels in others for name in ("numpy", "torch")]


@pytest.mark.parametrize("options", [(), ("--cell", "gated"), ("--cell", "gated", "--unconstrained")])
def test_pytorch_trains_the_same_model(options):
    pytest.importorskip("torch")
    from antisymrnn_ref import load_backend

    configuration = Configuration(
        "digits", "numpy", cell="gated" if options else "antisymmetric", unconstrained="--unconstrained" in options,
        units=5, batch=7, iterations=3, optimizer="adam", schedule="cosine", clip=0.1, dtype="float64",
    )  # fmt: skip
    data = train.task_data("digits", None)
    start = state = training.initial(configuration, 1, 10)
    step = training_speed.torch_training(configuration, start)
    for k in range(3):
        chosen = training.batch_indices(configuration, np.arange(100), k)
        x, labels = data.sequences("train", chosen, np.float64, None), data.train_labels[chosen]
        state, measured = training.step(load_backend("numpy"), configuration, state, x, labels)
        loss, _ = step(x, labels)
        np.testing.assert_allclose(loss, measured["loss"], rtol=1e-7)  # PyTorch clips to the norm + 1e-6


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
def test_pytorch_steps_as_the_other_optimizers_do(optimizer):
    pytest.importorskip("torch")
    configuration = Configuration(
        "digits", "numpy", units=3, batch=4, iterations=3, optimizer=optimizer, momentum=0.9, dtype="float64"
    )
    data = train.task_data("digits", None)
    state = training.initial(configuration, 1, 10)
    step = training_speed.torch_training(configuration, state)
    for k in range(3):
        chosen = np.arange(4 * k, 4 * k + 4)
        x, labels = data.sequences("train", chosen, np.float64, None), data.train_labels[chosen]
        state, measured = training.step(antisymrnn_ref, configuration, state, x, labels)
        np.testing.assert_allclose(step(x, labels)[0], measured["loss"], rtol=1e-11)


@pytest.mark.parametrize(("factor", "error"), [(1 + 1e-6, 1e-6), (np.nan, np.inf)])
def test_the_contest_refuses_a_gradient_that_is_off(monkeypatch, factor, error):
    pytest.importorskip("torch")
    right = training_speed.torch_training

    def wrong(*arguments):
        def step(x, labels):
            loss, (W, V, *others) = right_step(x, labels)
            return loss, [W, factor * V, *others]

        right_step = right(*arguments)
        return step

    monkeypatch.setattr(training_speed, "torch_training", wrong)
    configuration = Configuration("digits", "numpy", units=3, batch=4, iterations=3)
    held = training_speed.contest(configuration, train.task_data("digits", None), antisymrnn_ref, "numpy", 1)
    assert held.samples == {}
    assert held.errors["V"] == pytest.approx(error, rel=1e-3)


def test_a_gradient_that_is_zero_in_both_is_the_same():
    pytest.importorskip("torch")
    configuration = Configuration("digits", "numpy", units=1, batch=4, iterations=3)  # one unit: dW = 0
    held = training_speed.contest(configuration, train.task_data("digits", None), antisymrnn_ref, "numpy", 1)
    assert held.errors["W"] == 0
    assert held.samples


def test_the_contest_takes_turns_and_refuses_another_model(run, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    code, out, _ = run("train", *TINY, "--profile", "2", "--json", tmp_path / "profile.json")
    document = json.loads((tmp_path / "profile.json").read_text())
    assert code == 0
    assert [each["samples"] for each in document["turns"].values()] == [2, 2]
    assert max(document["errors"].values()) <= training_speed.AGREEMENT
    assert "torch eager on the CPU takes" in out
    monkeypatch.setattr(contenders, "recurrent_matrix", lambda W, identity, _: W - W.T + 0 * identity)
    code, out, _ = run("train", *TINY, "--profile", "2")
    assert code == 1
    assert "PyTorch is NOT the same" in out
