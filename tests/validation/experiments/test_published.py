"""The paper's tables and the recorded runs: what is kept, the verdicts, and the rows in validation/README.md."""

import json
import os
import re
import shlex
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from antisymrnn_ref import load_backend
from antisymrnn_validation.experiments import published, runs, tasks
from antisymrnn_validation.experiments.configuration import Configuration, default_configuration
from antisymrnn_validation.experiments.folder import RunError, command_of, configuration_of, load_state
from antisymrnn_validation.experiments.published import Verdict
from antisymrnn_validation.reports import tables

README = Path(__file__).parents[3] / "validation/README.md"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that bears the name of a cell, on two classes instead of MNIST."""
    labels = np.arange(40) % 2

    def sequences(_, indices, dtype, generator):
        return (generator.standard_normal((3, len(indices), 1)) + 2.0 * labels[indices][:, None] - 1).astype(dtype)

    data, folder = tasks.Data(1, 2, labels, labels, sequences), tmp_path_factory.mktemp("runs") / "run"
    configuration = Configuration(
        "mnist", "numpy", batch=16, iterations=6, evaluate_every=3, optimizer="adam", learning_rate=0.01
    )
    runs.train(folder, configuration, data, load_backend("numpy"))
    return folder, data


def test_verdict_allows_three_standard_errors_of_the_published_test():
    assert published.verdict(98.0, []) is Verdict.NOT_RUN
    allowance = 3 * (98.0 * 2.0 / 10_000) ** 0.5  # percent
    assert published.verdict(98.0, [98.0 - allowance + 1e-6]) is Verdict.REPRODUCED
    assert published.verdict(98.0, [98.0 - allowance - 1e-6]) is Verdict.NOT_REPRODUCED
    assert published.verdict(98.0, [99.0, 96.0]) is Verdict.NOT_REPRODUCED  # the mean counts, not the best
    assert published.verdict(98.0, [98.0, 97.3]) is Verdict.REPRODUCED  # nor the worst; seeds do not narrow it


def test_a_recorded_run_decides_its_cell_and_gives_its_accuracy_again(finished, tmp_path):
    run, data = finished
    kept = published.record(run, tmp_path)
    assert kept.name == "mnist-antisymmetric-seed0"
    with pytest.raises(RunError, match="seed0: expected no recorded run of this name"):
        published.record(run, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]
    shutil.copytree(kept, tmp_path / f".{kept.name}-0123abcd")  # as if killed while it was written
    summary = json.loads((run / "summary.json").read_text())
    first, *others = published.decide(tmp_path)
    assert [told["accuracy"] for told in first["runs"]] == [100 * summary["test_accuracy"]]
    assert first["verdict"] == published.verdict(98.0, [100 * summary["test_accuracy"]])
    assert {record["verdict"] for record in others} == {"not run"}
    early = json.loads((kept / "summary.json").read_text()) | {"iterations": 3}  # as if its patience had ended
    (kept / "summary.json").write_text(json.dumps(early))
    assert [told["iterations"] for told in published.decide(tmp_path)[0]["runs"]] == [3]
    state = load_state(kept / "best.npz", configuration_of(kept))
    configuration = configuration_of(kept)
    _, again = runs.evaluate(configuration, data, load_backend("numpy"), state, "test", np.arange(40))
    assert again == summary["test_accuracy"]


def test_a_run_that_lacks_a_file_is_not_recorded(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    (run / "best.npz").unlink()
    with pytest.raises(RunError, match=r"expected a finished run: .*best\.npz"):
        published.record(run, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_recorded_runs_that_must_be_refused(finished, tmp_path):
    kept = published.record(finished[0], tmp_path)
    summary = kept / "summary.json"
    held = json.loads(summary.read_text())
    for text, said in (
        ("{", "got something else"),
        (json.dumps({**held, "test_accuracy": 98.0}), "test_accuracy is 98"),
        (json.dumps({**held, "test_accuracy": "1"}), "got something else"),
        (json.dumps({**held, "test_accuracy": True}), "test_accuracy is True"),
        (json.dumps({**held, "iterations": "8000"}), "iterations is '8000'"),
        (json.dumps({**held, "iterations": -5}), "iterations is -5"),
        (json.dumps({name: value for name, value in held.items() if name != "date"}), "without date"),
        (json.dumps({**held, "date": None}), "date is None"),
    ):
        summary.write_text(text)
        with pytest.raises(RunError, match=said):
            published.decide(tmp_path)
    summary.unlink()
    with pytest.raises(RunError, match="expected the summary of a finished run"):
        published.decide(tmp_path)
    summary.write_text(json.dumps(held))
    other = tmp_path / "other"
    shutil.copytree(kept, other)
    configuration = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**configuration, "units": 64}))
    with pytest.raises(RunError, match="other: expected a run of a cell"):
        published.decide(tmp_path)


def test_a_gated_run_of_the_ablations_size_is_not_the_ablation(finished, tmp_path):
    kept = published.record(finished[0], tmp_path)
    fields = configuration_of(kept)._replace(task="cifar", cell="gated", units=196)
    for unconstrained, cell in ((True, "cifar-unconstrained"), (False, None)):
        (kept / "config.json").write_text(json.dumps(fields._replace(unconstrained=unconstrained)._asdict()))
        if cell is None:
            with pytest.raises(RunError, match="expected a run of a cell"):
                published.decide(tmp_path)
        else:
            assert [record["name"] for record in published.decide(tmp_path) if record["runs"]] == [cell]


def test_the_defaults_of_a_task_are_those_of_the_tables():
    for cell in published.CELLS:
        usual = default_configuration(cell.task)
        assert (usual.iterations, usual.batch) == (cell.iterations, cell.batch)
        assert cell.unconstrained or usual.units == cell.units


@pytest.fixture
def far_east(monkeypatch):
    """A time zone nine hours ahead of UTC, where the system lets a process have one."""
    tzset = getattr(time, "tzset", lambda: None)
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "EAST-9")
        tzset()
        yield
    tzset()


@pytest.mark.usefixtures("far_east")
def test_the_date_is_that_of_the_end_of_a_run(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    end = datetime(2001, 2, 3, 23, 30, tzinfo=UTC).timestamp()
    os.utime(run / "summary.json", (end, end))
    kept = published.record(run, tmp_path / "kept")
    assert json.loads((kept / "summary.json").read_text())["date"] == "2001-02-03"


@pytest.mark.parametrize("changed", [{"task": "digits"}, {"units": 64}, {"full": True}])
def test_a_run_that_bears_on_no_cell_is_not_recorded(finished, tmp_path, changed):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    configuration = configuration_of(run)._replace(**changed)
    (run / "config.json").write_text(json.dumps(configuration._asdict()))
    with pytest.raises(RunError, match="run: expected a run of a cell of the paper's tables"):
        published.record(run, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_what_is_kept_is_the_best_checkpoint_and_every_environment(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    (run / "environment-000003.json").write_text("{}")
    kept = published.record(run, tmp_path / "kept")
    for name in ("best.npz", "config.json", "metrics.jsonl", "environment.json", "environment-000003.json"):
        assert (kept / name).read_bytes() == (run / name).read_bytes()
    assert not (kept / "checkpoint.npz").exists()


def test_the_table_has_mean_and_deviation_over_the_seeds():
    record = published.decide()[0]
    (run, *_) = record["runs"]
    told = [{**run, "accuracy": accuracy, "seed": seed} for seed, accuracy in enumerate((94.0, 96.0))]
    (row,) = tables.published_table([{**record, "runs": told}]).rows
    assert row[-1] == "95.00 ± 1.41"


def test_readme_has_the_row_of_every_cell():
    rows = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("| Table ")]
    assert rows == [f"| {' | '.join(row)} |" for row in tables.published_table(published.decide(), runs=True).rows]


def test_readme_has_the_command_of_every_recorded_run():
    told = [run["command"] for record in published.decide() for run in record["runs"]]
    lines = README.read_text(encoding="utf-8").splitlines()
    assert told == [line for line in lines if re.match("antisymrnn train (mnist|pmnist|cifar|noise-padded) ", line)]


@pytest.mark.parametrize("path", sorted(published.RECORDED.glob("[!.]*")), ids=lambda path: path.name)
def test_the_command_of_a_recorded_run_asks_for_its_configuration(path, run, monkeypatch):
    class Asked(Exception):
        pass

    def asked(_folder, configuration, *_, **__):
        raise Asked(configuration)

    labels = np.arange(40) % 2
    data = tasks.Data(1, 2, labels, labels, lambda *_: np.zeros((3, 1, 1), np.float32))
    monkeypatch.setattr(tasks, "data_of", lambda *_: data)
    monkeypatch.setattr(runs, "train", asked)
    held = configuration_of(path)._replace(backend="numpy")
    with pytest.raises(Asked) as caught:
        run(*shlex.split(command_of(held))[1:])
    assert caught.value.args == (held,)


def test_where_the_parameters_of_a_recorded_run_are(finished, tmp_path, run, monkeypatch):
    folder, data = finished
    monkeypatch.setattr(tasks, "data_of", lambda *_: data)
    kept = published.record(folder, tmp_path)
    assert run("evaluate", kept)[0] == 0
    (kept / "best.npz").unlink()  # as from a wheel
    code, out, err = run("evaluate", kept)
    assert (code, out) == (2, "")
    assert err.rstrip("\n") == (
        f"antisymrnn evaluate: {kept}/best.npz: expected a checkpoint, got nothing; an installed package has recorded "
        "runs without their parameters, a checkout has them in "
        "validation/antisymrnn_validation/experiments/recorded/mnist-antisymmetric-seed0"
    )
    assert published.decide(tmp_path)[0]["runs"]  # the verdict does not need them


@pytest.mark.slow
def test_recorded_parameters_give_the_recorded_accuracy():
    folder = os.environ.get("ANTISYMRNN_DATA")
    if not folder:
        pytest.skip("ANTISYMRNN_DATA names no folder with the real data")
    pytest.importorskip("antisymrnn_numba")
    checkout = README.parent / "antisymrnn_validation/experiments/recorded"
    if not checkout.exists():
        pytest.skip("the parameters of recorded runs are in a checkout alone")
    recorded = [run["name"] for record in published.decide() for run in record["runs"]]
    assert recorded
    for name in recorded:
        path = checkout / name
        configuration = configuration_of(path)
        data, state = tasks.data_of(configuration.task, Path(folder)), load_state(path / "best.npz", configuration)
        everything = np.arange(len(data.test_labels))
        _, again = runs.evaluate(configuration, data, load_backend("numba"), state, "test", everything)
        held = json.loads((path / "summary.json").read_text())["test_accuracy"]
        # rounding differs between machines, and with it a few samples at a border between two classes
        assert abs(again - held) <= 5 / len(everything), name
