"""Sweeps: grids, results in SQLite, a real scheduler with a worker that is killed, gradients from several processes."""

import contextlib
import errno
import itertools
import json
import math
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from dask.distributed import Client, KilledWorker, LocalCluster
from distributed.comm.core import CommClosedError
from matplotlib.figure import Figure

from antisymrnn_ref import load_backend
from antisymrnn_validation import cli
from antisymrnn_validation.cli import sweep as command
from antisymrnn_validation.experiments import cluster, results, runs, sweep, tasks, training
from antisymrnn_validation.experiments.configuration import DEFAULTS, Configuration
from antisymrnn_validation.experiments.folder import configuration_of, fingerprint_of, metrics_of, save_state
from antisymrnn_validation.experiments.results import Result
from antisymrnn_validation.output import drawing
from antisymrnn_validation.output.environment import usable_processors
from antisymrnn_validation.output.files import ReportError

pytestmark = pytest.mark.usefixtures("unrendered")
RENDER = drawing.render

SHORT = Configuration(
    "digits", "numpy", units=8, step_size=0.3, optimizer="adam", learning_rate=0.02, batch=16, iterations=10,
    evaluate_every=5,
)  # fmt: skip
GRID = {name: value for name, value in SHORT._asdict().items() if value != Configuration._field_defaults.get(name)}


def write_grid(path, **fields):
    lines = (f"{name} = {json.dumps(value)}" for name, value in (GRID | fields).items())
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as error:
        cli.main(["sweep", *map(str, arguments)])
    return error.value.code, *capsys.readouterr()


@pytest.fixture
def alone(monkeypatch):
    """A run in this process, without curves."""
    monkeypatch.setattr(runs, "write_curves", lambda *_: None)
    return train


def train(folder, configuration, **options):
    return runs.train(
        folder, configuration, tasks.data_of("digits", None), load_backend(configuration.backend), **options
    )


def rows(path):
    with contextlib.closing(sqlite3.connect(path)) as store:
        return store.execute("SELECT status, digest, folder, worker FROM points ORDER BY fields").fetchall()


def test_a_grid_is_the_product_of_its_lists_over_what_the_task_has(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "LARGEST", 12)
    path = tmp_path / "grid.toml"
    path.write_text('task = ["digits", "mnist"]\nseed = [0, 1, 2]\nstep_size = 1\nclip = [0, 0.5]\n')
    grid = sweep.read_grid(path)
    assert len(grid) == len(set(grid)) == 12
    assert grid[1] == Configuration("digits", **(DEFAULTS["digits"] | {"step_size": 1.0, "clip": 0.5}))
    assert grid[-1] == Configuration("mnist", seed=2, step_size=1.0, clip=0.5)
    assert type(grid[0].step_size) is type(grid[0].clip) is float


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "expected a grid in TOML: No such file"),
        ("task = ", "expected a grid in TOML: Invalid value"),
        (b"\xff", "expected a grid in TOML"),
        ("seed = 1", "expected a task"),
        ('task = "mnsit"', "'mnsit'; did you mean 'mnist'"),
        ('task = "digits"\nlearning_rat = 1', "got 'learning_rat'; did you mean 'learning_rate'"),
        ('task = "digits"\nlr = 1', "got 'lr'; did you mean 'learning_rate'"),
        ('task = "digits"\nhidden-size = 1', "got 'hidden-size'; did you mean 'units'"),
        ('task = "digits"\nGamma = 1', "got 'Gamma'; did you mean 'diffusion'"),
        ('task = "digits"\nepsilon = 1', "got 'epsilon'; did you mean 'step_size'"),
        ('task = "digits"\nlayers = 1', "got 'layers'; the fields are task, backend, cell, "),
        ('task = "digits"\nseed = [1, 0.5]', "seed: expected a whole number, got 0.5"),
        ('task = "digits"\nseed = true', "seed: expected a whole number, got True"),
        ('task = "digits"\nfull = 1', "full: expected true or false, got 1"),
        ('task = "digits"\nclip = "1"', "clip: expected a number, got '1'"),
        ('task = "digits"\n[units]\nfrom = 1', "units: expected a whole number, got {'from': 1}"),
        ('task = "digits"\nclip = [1, 1.0]', "clip: expected at least one value, each once"),
        (f'task = "digits"\nclip = 1{"0" * 400}', "clip: int too large to convert to float"),
        ('task = "digits"\nclip = []', "clip: expected at least one value, each once"),
        ('task = "digits"\nclip = [1, -1]', "clip: expected a finite number .* got -1.0; in the point .*'clip': -1.0"),
        (f'task = "digits"\nseed = {list(range(200))}\nunits = {list(range(1, 101))}', "200 seed × 100 units = 20000"),
    ],
)
def test_a_grid_that_cannot_be_run_is_refused(tmp_path, text, said):
    path = tmp_path / "grid.toml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(sweep.GridError, match=said):
        sweep.read_grid(path)


@pytest.mark.parametrize("what", ["nothing", "text", "another database", "another version"])
def test_a_file_that_holds_no_results_of_this_version_is_refused(tmp_path, what):
    path = tmp_path / results.FILE
    if what == "text":
        path.write_text("not a database, but long enough to be looked at" * 100)
    elif what == "another database":
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.execute("CREATE TABLE points (x)")
    elif what == "another version":
        with results.open_store(path, create=True) as store:
            store.execute("PRAGMA user_version = 99")
    said = {"nothing": "got nothing", "text": "not a database", "another database": "got another SQLite"}
    before = path.read_bytes() if path.exists() else None
    store = results.open_store(path, create=what != "nothing")
    with pytest.raises(results.StoreError, match=said.get(what, "version 1, got version 99")), store:
        pass
    assert before == (path.read_bytes() if path.exists() else None)


def test_a_second_answer_is_told_and_replaces_nothing(tmp_path, alone):
    alone(tmp_path / "run", SHORT)
    files = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    first = Result(
        "done",
        dict.fromkeys((*results.NUMBERS, *results.COUNTS), 0.5),
        digest=results.digest(tmp_path / "run", SHORT),
        files=files,
    )
    with results.open_store(tmp_path / results.FILE, create=True) as store:
        assert results.keep(store, tmp_path, SHORT, first) == first
        assert results.keep(store, tmp_path, SHORT, first) == first
        foreign = tmp_path / f"digits-{fingerprint_of(SHORT._replace(units=9))[:16]}"
        shutil.copytree(tmp_path / "run", foreign)
        refused = results.keep(store, tmp_path, SHORT._replace(units=9), first)
        assert (refused.status, "another configuration" in refused.error) == ("failed", True)
        other = results.keep(store, tmp_path, SHORT, first._replace(digest="0" * 64))
        assert other.status == "failed"
        assert "expected parameters with SHA-256" in other.error
        (record,) = results.records(store, [SHORT])
        assert (record["status"], record["digest"]) == ("done", first.digest)
        assert not results.missing(store, [SHORT])
        assert len(results.missing(store, [SHORT, SHORT._replace(seed=1)])) == 1
        endless = json.dumps({**first.summary, "iterations": math.inf})
        for wrong in ("{}", endless):
            store.execute("UPDATE points SET summary = ?", (wrong,))
            with pytest.raises(results.StoreError, match="expected a summary with test_accuracy"):
                results.records(store, [SHORT])
    assert metrics_of(tmp_path / record["folder"]) == metrics_of(tmp_path / "run")
    assert not list(tmp_path.glob(".*"))


def test_a_result_whose_folder_cannot_be_written_has_no_row(tmp_path):
    (tmp_path / "file").touch()
    with results.open_store(tmp_path / results.FILE, create=True) as store:
        with pytest.raises(ReportError, match="cannot be"):
            results.keep(store, tmp_path / "file", SHORT, Result("diverged", files={"config.json": b"{}"}))
        assert results.missing(store, [SHORT]) == [SHORT]


def test_means_and_spreads_are_over_the_seeds():
    def record(step_size, seed, status, accuracy, timed=10):
        summary = dict.fromkeys(("test_accuracy", "test_loss", "validation_accuracy", "seconds"), accuracy)
        summary |= {"iterations": 10, "iterations_timed": timed}
        fields = SHORT._replace(step_size=step_size, seed=seed)._asdict()
        return {"fields": fields, "status": status, "summary": summary if status == "done" else {}}

    found = [record(0.1, 0, "done", 0.5), record(0.1, 1, "done", 0.7, timed=4), record(0.2, 0, "done", 0.4)]
    groups = results.over_seeds([*found, record(0.2, 1, "diverged", 0), record(0.3, 0, "failed", 0)])
    assert [group["fields"] for group in groups] == [{"step_size": value} for value in (0.1, 0.2, 0.3)]
    assert groups[0]["test_accuracy"] == pytest.approx({"mean": 0.6, "spread": 0.02**0.5})
    assert groups[0]["seconds"] == {"mean": 0.5, "spread": None}  # of the one that was trained in one go
    assert groups[1]["test_accuracy"] == {"mean": 0.4, "spread": None}
    assert groups[2]["test_accuracy"] == {"mean": None, "spread": None}
    table = results.table("", groups)
    assert table.rows[0][:4] == ("0.1", "2 of 2", "", "60.00 ± 14.14")
    assert table.rows[1][1:4] == ("1 of 2", "1 diverged", "40.00")
    assert table.alarming == [False, False, True]


def test_the_table_and_the_figure_tell_each_number_under_its_name(tmp_path, monkeypatch):
    numbers = {"test_accuracy": 0.5, "validation_accuracy": 0.6, "test_loss": 0.7, "seconds": 8.0}
    numbers |= {"iterations": 10, "iterations_timed": 10}
    found = [
        {"fields": SHORT._replace(step_size=value)._asdict(), "status": "done", "summary": numbers}
        for value in (0.1, 0.2)
    ]
    groups, figure = results.over_seeds(found), Figure()
    table = results.table("", groups)
    told = dict(zip(table.columns, table.rows[0], strict=True))
    assert told == {
        "step_size": "0.1", "done": "1 of 1", "not done": "", "test accuracy, %": "50.00", "validation, %": "60.00",
        "test loss": "0.7000", "seconds": "8.0",
    }  # fmt: skip
    monkeypatch.setattr(drawing, "render", lambda draw, *_: draw(figure) or drawing.Drawing(b"", b""))
    results.write_figure(tmp_path, "three $_$ seeds", groups)
    (axis,) = figure.axes
    assert axis.lines[0].get_xydata().tolist() == [[0.1, 50], [0.2, 50]]
    assert axis.get_title() == r"three \$_\$ seeds"
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("step_size", "test accuracy, %")


@pytest.mark.parametrize(
    ("values", "scale"), [((0.3, 0.1, 0.2), "linear"), ((0.3, 0.01, 0.1), "log"), ((0.3, 0.0, 0.1), "linear")]
)
def test_the_figure_goes_along_the_longest_field_with_the_spread_over_seeds(tmp_path, monkeypatch, values, scale):
    found = []
    for diffusion, units, seed in itertools.product(values, (8, 9), (0, 1)):
        numbers = dict.fromkeys(results.NUMBERS, 0.5 + 0.2 * seed) | dict.fromkeys(results.COUNTS, 10)
        fields = SHORT._replace(diffusion=diffusion, units=units, seed=seed)._asdict()
        found.append({"fields": fields, "status": "done", "summary": numbers})
    figure = Figure()
    monkeypatch.setattr(drawing, "render", lambda draw, *_: draw(figure) or drawing.Drawing(b"", b""))
    results.write_figure(tmp_path, "title", results.over_seeds(found))
    (axis,) = figure.axes
    assert (axis.get_xlabel(), axis.get_xscale()) == ("diffusion", scale)
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["units 8", "units 9"]
    for line, _, (bars,) in axis.containers:
        assert line.get_xdata().tolist() == sorted(values)
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        np.testing.assert_allclose(ends, [[60 - 100 * 0.02**0.5, 60 + 100 * 0.02**0.5]] * 3)


def test_a_figure_without_a_number_to_go_along_names_its_places(tmp_path, monkeypatch):
    numbers = dict.fromkeys(results.NUMBERS, 0.5) | dict.fromkeys(results.COUNTS, 10)
    found = [
        {"fields": SHORT._replace(cell=cell, full=full)._asdict(), "status": "done", "summary": numbers}
        for cell, full in itertools.product(("antisymmetric", "gated"), (False, True))
    ]
    figure = Figure()
    monkeypatch.setattr(drawing, "render", lambda draw, *_: draw(figure) or drawing.Drawing(b"", b""))
    results.write_figure(tmp_path, "title", results.over_seeds(found))
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.get_xticklabels()] == [
        f"cell {cell}\nfull {full}" for cell in ("antisymmetric", "gated") for full in (False, True)
    ]
    assert [bar.lines[0].get_xdata().tolist() for bar in axis.containers] == [[0], [1], [2], [3]]
    assert axis.get_legend() is None


def test_the_digest_is_of_every_parameter(tmp_path):
    state, found = training.initial(SHORT, 1, 10), set()
    above = np.triu(np.ones((8, 8), np.float32), 1)
    for name in (*state.cell._fields, *state.layer._fields, ""):
        moved = [
            part._replace(**{name: getattr(part, name) + (above if name == "W" else 1)})
            if name in part._fields
            else part
            for part in (state.cell, state.layer)
        ]
        save_state(tmp_path / "checkpoint.npz", SHORT, state._replace(cell=moved[0], layer=moved[1]))
        found.add(results.digest(tmp_path, SHORT))
    assert len(found) == 6


def test_a_folder_that_another_process_trains_in_is_left_alone(tmp_path):
    with sweep._owned(tmp_path, "run") as first:
        first.mkdir()
        (first / "file").touch()
        with sweep._owned(tmp_path, "run") as second:
            assert second != first
            assert list(second.iterdir()) == []
            sweep.forget(["run"], tmp_path)
            assert (first / "file").exists()
    assert not second.exists()
    with sweep._owned(tmp_path, "run") as third:
        assert (third / "file").exists()  # until its result is kept
    sweep.forget(["run", "another"], tmp_path)
    assert not first.exists()


@pytest.mark.usefixtures("alone")
def test_a_point_that_failed_is_told_and_run_again(tmp_path, monkeypatch, capsys):
    no_dashboard = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}

    @contextlib.contextmanager
    def here(*_):
        with (
            LocalCluster(n_workers=1, threads_per_worker=1, processes=False, scheduler_kwargs=no_dashboard) as made,
            Client(made) as client,
        ):
            yield client

    monkeypatch.setattr(cluster, "connected", here)
    output, grid = tmp_path / "out", write_grid(tmp_path / "grid.toml")
    (point,) = sweep.read_grid(grid)
    taken = output / f"digits-{fingerprint_of(point)[:16]}"
    taken.mkdir(parents=True)
    (taken / "checkpoint.npz").write_bytes(b"damaged")
    code, out, _ = run(capsys, grid, "--output", output)
    assert code == 1
    for told in ("1 of 1  seed 0", "failed: seed 0"):
        assert re.search(rf"^{told}: .*checkpoint.npz: expected a checkpoint", out, re.MULTILINE)
    assert "1 points: 1 failed" in out.splitlines()[-1]
    finished = output / ".unfinished" / fingerprint_of(point)
    summary = (finished / "summary.json").read_bytes()  # with the seconds that it took
    shutil.rmtree(taken)
    code, out, _ = run(capsys, grid, "--output", output)
    assert code == 0
    assert (taken / "summary.json").read_bytes() == summary
    assert not finished.exists()
    assert "1 points: 1 done" in out.splitlines()[-1]
    with results.open_store(output / results.FILE, create=False) as store:
        (record,) = results.records(store, [point])
    assert (record["error"], record["digest"]) == ("", results.digest(taken, point))


@pytest.mark.parametrize("options", [[], ["--scheduler", "tcp://a:1"]], ids=["here", "on a worker"])
def test_every_task_is_loaded_before_anything_runs(tmp_path, monkeypatch, capsys, options):
    def connected(_, scheduler):
        if not scheduler:
            pytest.fail("it began")
        return contextlib.nullcontext(SimpleNamespace(submit=submit))

    def submit(function, *arguments, **_):
        return SimpleNamespace(result=lambda: function(*arguments))

    monkeypatch.delenv("ANTISYMRNN_DATA", raising=False)
    monkeypatch.setattr(cluster, "connected", connected)
    monkeypatch.setattr(sweep, "run", lambda *_, **__: pytest.fail("it began"))
    grid = write_grid(tmp_path / "grid.toml", task=["digits", "mnist"])
    code, _, err = run(capsys, grid, "--output", tmp_path / "out", *options)
    assert code == 2
    assert "mnist: expected a folder with the MNIST files, got none" in err


def test_data_are_told_to_workers_by_a_name_that_holds_everywhere(tmp_path, monkeypatch, capsys):
    seen = {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "check_here", lambda *_: None)
    monkeypatch.setattr(sweep, "run", lambda *_, **options: seen.update(options))
    monkeypatch.setattr(cluster, "connected", lambda *_: contextlib.nullcontext())
    code, _, _ = run(capsys, write_grid(tmp_path / "grid.toml"), "--output", "out", "--data", "files")
    assert code == 0
    assert seen["data"] == (tmp_path / "files").resolve()


def test_a_point_that_failed_keeps_what_it_has(tmp_path, monkeypatch):
    class Client:
        def submit(self, *_, **__):
            return self

        def result(self):
            raise OSError(errno.ENOSPC, "No space left on device")

        def cancel(self, _):
            pass

    held = tmp_path / "scratch" / fingerprint_of(SHORT)
    held.mkdir(parents=True)
    monkeypatch.setattr(sweep, "as_completed", list)
    with results.open_store(tmp_path / results.FILE, create=True) as store:
        sweep.run(Client(), [SHORT], store, tmp_path, scratch=held.parent)
        (record,) = results.records(store, [SHORT])
        assert results.settled(store) == []
    assert record["status"] == "failed"
    assert held.exists()


def test_the_folder_of_a_kept_run_is_removed_by_the_worker_that_has_it(tmp_path, monkeypatch):
    asked = []

    class Client:
        def submit(self, *_, workers=None, **__):
            asked.append(workers)
            return self

        def result(self):
            return Result("diverged", worker="tcp://b", files={"config.json": b"{}"})

        def cancel(self, _):
            pass

    monkeypatch.setattr(sweep, "as_completed", list)
    for name in ("fire_and_forget", "wait"):
        monkeypatch.setattr(sweep, name, lambda *_, **__: None)
    with results.open_store(tmp_path / results.FILE, create=True) as store:
        sweep.run(Client(), [SHORT], store, tmp_path)
    assert asked == [None, ["tcp://b"]]


@pytest.mark.slow
def test_a_result_that_could_not_be_kept_is_not_trained_again(tmp_path, monkeypatch, capsys):
    """The disk of the client is full when the first run comes; then a leftover that is of no use."""
    output, grid = tmp_path / "out", write_grid(tmp_path / "grid.toml")
    (point,) = sweep.read_grid(grid)
    unfinished = output / ".unfinished" / fingerprint_of(point)

    def full(*_):
        raise ReportError("no space left on the device")

    with monkeypatch.context() as patched:
        patched.setattr(results, "keep", full)
        code, _, err = run(capsys, grid, "--output", output)
    assert code == 2
    assert "no space left on the device" in err
    finished = (unfinished / "summary.json").stat().st_mtime_ns
    assert rows(output / results.FILE) == []
    held = []
    keep = results.keep

    def kept(*arguments):
        held.append((unfinished / "summary.json").stat().st_mtime_ns)
        return keep(*arguments)

    monkeypatch.setattr(results, "keep", kept)
    code, _, _ = run(capsys, grid, "--output", output)
    assert (code, held) == (0, [finished])
    assert not unfinished.exists()
    (first,) = rows(output / results.FILE)

    unfinished.mkdir()
    shutil.copy(next(output.glob("digits-*/config.json")), unfinished)
    (unfinished / "checkpoint.npz").write_bytes(b"damaged")
    shutil.rmtree(output / first[2])
    (output / results.FILE).unlink()
    code, out, _ = run(capsys, grid, "--output", output)
    assert code == 0
    assert "(it began anew: " in out
    assert rows(output / results.FILE)[0][:3] == first[:3]
    (aside,) = unfinished.parent.glob("*.unusable-*")
    assert f"that is {aside} now" in out
    assert (aside / "checkpoint.npz").read_bytes() == b"damaged"

    unfinished.mkdir()  # as if the client had been killed before it could remove it
    assert run(capsys, grid, "--output", output)[0] == 0
    assert not unfinished.exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"threads": 2}, "the workers on here take 8 threads or more, it has 4 processors; start them as NUMBA_NUM"),
        *(({name: "1.0"}, f"expected {name} .* got 1.0 on tcp://b") for name in ("numpy", "numba", "llvmlite")),
        ({"dask": "1.0"}, "expected dask .* as here, got 1.0 on the scheduler"),
        (
            {"error": Exception("ModuleNotFoundError")},
            "install the same version .* there: Exception: ModuleNotFoundError",
        ),
        ({}, None),
    ],
)
def test_a_cluster_with_too_many_threads_or_other_versions_is_refused(changed, said):
    class Client:
        def scheduler_info(self, **_):
            return {"workers": {f"tcp://{name}": {"host": "here", "nthreads": 2} for name in "ab"}}

        def run_on_scheduler(self, versions):
            return versions() | ({"dask": changed["dask"]} if "dask" in changed else {})

        def run(self, _):
            if "error" in changed:
                raise changed["error"]
            versions, _, _ = cluster._about()
            others = versions | {name: changed[name] for name in versions.keys() & changed.keys()}
            threads = changed.get("threads", 1)
            return {"tcp://a": (versions, 4, threads), "tcp://b": (others, 4, threads)}

    with pytest.raises(cluster.ClusterError, match=said) if said else contextlib.nullcontext():
        cluster._check(Client())


def test_a_sweep_on_this_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(drawing, "render", RENDER)
    reported, running = [], []

    @contextlib.contextmanager
    def connected(workers, scheduler):
        def threads():
            import importlib.util

            import threadpoolctl

            counts = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
            if importlib.util.find_spec("antisymrnn_numba"):
                from antisymrnn_numba import _threads

                counts.append(_threads.workers(64))
            return os.getpid(), max(counts)

        with before(workers, scheduler) as client:
            reported.extend(client.run(threads).values())
            running.extend(client.nthreads().values())
            yield client

    before = cluster.connected
    monkeypatch.setattr(cluster, "connected", connected)
    grid = write_grid(tmp_path / "grid.toml", learning_rate=[0.02, 1e37], optimizer="sgd")
    monkeypatch.setenv("MKL_NUM_THREADS", "1")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", str(usable_processors()))
    here = dict(os.environ)
    with socket.socket() as taken:
        with contextlib.suppress(OSError):  # another program has it already
            taken.bind(("127.0.0.1", 8787))  # where dask would show pages of its own
            taken.listen()
        code, out, err = run(capsys, grid, "--output", tmp_path / "out", "--json", tmp_path / "report.json")
    assert (code, err) == (0, "")
    assert dict(os.environ) == here
    assert "sweep: 2 points: 1 diverged, 1 done" in out.splitlines()[-1]
    workers = min(2, usable_processors())
    assert len({process for process, _ in reported}) == workers
    for _, most in reported:
        assert sum(running) * most <= usable_processors()
    document = json.loads((tmp_path / "report.json").read_text())
    assert [group["statuses"] for group in document["over_seeds"]] == [{"done": 1}, {"diverged": 1}]
    for record in document["points"]:
        assert ("diverged at iteration" in record["error"]) == (record["fields"]["learning_rate"] == 1e37)
        folder = tmp_path / "out" / record["folder"]
        assert configuration_of(folder) == Configuration(**record["fields"])
    assert (tmp_path / "out" / "sweep.png").stat().st_size > 1000
    held = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("digits-*/*")}
    monkeypatch.setattr(cluster, "connected", None)
    for options in ([], ["--summary"]):
        code, out, _ = run(capsys, grid, "--output", tmp_path / "out", *options)
        assert code == 0
        assert "1 of 1" in out
    assert held == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("digits-*/*")}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--scheduler", "tcp://127.0.0.1:1"], "expected one that runs at 'tcp://127.0.0.1:1': Timed out"),
        (["--scheduler", "nonsense"], "expected one that runs at 'nonsense': missing port"),
        (["--scheduler", "tcp://127.0.0.1:1", "--workers", "2"], "--workers: expected it without --scheduler"),
        (["--workers", "99999"], "--workers: expected 1 to"),
        (["--workers", "0"], "--workers: expected 1 to"),
        (["--summary"], "expected the results of a sweep, got nothing"),
    ],
)
def test_clusters_that_are_not_there(tmp_path, monkeypatch, capsys, options, said):
    monkeypatch.setattr(cluster, "TIMEOUT", 0.5)
    code, _, err = run(capsys, write_grid(tmp_path / "grid.toml"), "--output", tmp_path / "out", *options)
    assert code == 2
    assert said in err


def test_no_worker_of_train_is_without_a_shard(tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(
            [
                "train",
                "digits",
                "--backend",
                "numpy",
                "--shards",
                "2",
                "--workers",
                "3",
                "--output",
                str(tmp_path / "run"),
            ]
        )
    assert error.value.code == 2
    assert "--workers: expected at most --shards = 2, got 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KilledWorker("gradients", SimpleNamespace(address="tcp://a"), 3), "a worker ended too often: KilledWorker"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "the scheduler is lost"),
        (CommClosedError("in the middle"), "the scheduler is lost"),
    ],
)
def test_what_ends_the_gradients_of_workers_is_told_apart(error, said):
    class Ending:
        submit = staticmethod(lambda *_, **__: None)
        nthreads = staticmethod(lambda: {"tcp://a": 1})

        def gather(self, _):
            raise error

    with pytest.raises(cluster.ClusterError, match=said):
        cluster.each_there(Ending())(None, SHORT, training.initial(SHORT, 1, 10), [None])


def test_an_error_of_the_system_on_a_worker_is_no_lost_scheduler(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(training, "each_here", full)
    with pytest.raises(cluster.ClusterError, match="a worker failed: OSError: .*No space left on device"):
        cluster._gradients(SHORT, training.initial(SHORT, 1, 10), [])


@pytest.mark.parametrize("error", [CommClosedError("in the middle"), AttributeError("of a closed client")])
def test_a_bar_that_finds_no_scheduler_says_so(monkeypatch, error):
    def nthreads():
        raise error

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    client = SimpleNamespace(nthreads=nthreads)
    with pytest.raises(cluster.ClusterError, match="the scheduler is lost"), command._progress(1, ["seed"], client):
        pass


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        ({"NUMBA": 1, "OMP": 2}, 2),
        ({"NUMBA": 3, "OMP": 2}, 3),
        ({"NUMBA": 1, "OMP": 2, "OPENBLAS": 4}, 4),
        ({"NUMBA": 1}, 8),
    ],
)
def test_threads_of_a_worker_are_the_most_that_it_may_take(monkeypatch, limits, most):
    monkeypatch.setattr(cluster, "usable_processors", lambda: 8)
    for name in ("NUMBA", "OMP", "OPENBLAS"):
        monkeypatch.delenv(f"{name}_NUM_THREADS", raising=False)
    for name, value in limits.items():
        monkeypatch.setenv(f"{name}_NUM_THREADS", str(value))
    assert cluster._about()[1:] == (8, most)


def test_a_scheduler_to_which_no_worker_comes(monkeypatch):
    class Client(contextlib.nullcontext):
        def __init__(self, *_, timeout):
            assert timeout == cluster.TIMEOUT
            super().__init__(self)

        def wait_for_workers(self, n, *, timeout):
            assert (n, timeout) == (1, cluster.TIMEOUT)
            raise TimeoutError

    monkeypatch.setattr(cluster, "Client", Client)
    with (
        pytest.raises(cluster.ClusterError, match="no worker came to tcp://a:1 within"),
        cluster.connected(0, "tcp://a:1"),
    ):
        pass


def test_workers_leave_interrupts_to_the_client():
    with cluster.connected(1, None) as client:
        assert all(client.run(lambda: signal.getsignal(signal.SIGINT) is signal.SIG_IGN).values())


def test_a_worker_that_is_started_anew_changes_nothing_here():
    def about():
        import threadpoolctl

        return os.getpid(), max(pool["num_threads"] for pool in threadpoolctl.threadpool_info())

    here = dict(os.environ)
    with cluster.connected(1, None) as client:
        assert dict(os.environ) == here
        ((first, threads),) = client.run(about).values()
        os.kill(first, signal.SIGKILL)
        found: dict = {}
        deadline = time.monotonic() + 60
        while not found or first in {process for process, _ in found.values()}:
            assert time.monotonic() < deadline, "no worker in the place of a killed one"
            time.sleep(0.2)
            with contextlib.suppress(OSError):  # the client still asks the killed one
                found = client.run(about)
        ((_, others),) = found.values()
        assert threads == others == cluster._limit("OPENBLAS_NUM_THREADS", usable_processors())
    assert dict(os.environ) == here


def test_threads_that_the_environment_forbids_are_not_given_to_workers(monkeypatch):
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert [cluster._limit(f"{name}_NUM_THREADS", 8) for name in ("NUMBA", "OMP", "OPENBLAS")] == [1, 2, 2]
    monkeypatch.setattr(cluster, "usable_processors", lambda: 8)
    seen = {}

    def local(**options):
        seen.update(options["env"])
        raise KeyboardInterrupt

    monkeypatch.setattr(cluster, "LocalCluster", local)
    with pytest.raises(KeyboardInterrupt), cluster.connected(2, None):
        pass
    assert seen == {
        "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "MKL_NUM_THREADS": "2",
    }  # fmt: skip
    for value in ("many", "0", "-1"):
        monkeypatch.setenv("NUMBA_NUM_THREADS", value)
        with pytest.raises(cluster.ClusterError, match=f"NUMBA_NUM_THREADS: expected a whole number .* got '{value}'"):
            cluster._about()


def test_an_unknown_backend_is_refused_before_anything_runs(tmp_path, capsys):
    grid = write_grid(tmp_path / "grid.toml", backend=["numpy", "nunpy"])
    code, _, err = run(capsys, grid, "--output", tmp_path / "out")
    assert code == 2
    assert "did you mean 'numpy'" in err
    grid = write_grid(tmp_path / "grid.toml", backend=["numpy", "torch"])
    code, _, err = run(capsys, grid, "--output", tmp_path / "other")
    assert code == 2
    assert "PyTorch is a peer: `antisymrnn compare --peers torch` times it beside a backend" in err


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """The address of a scheduler, it and its two workers as processes of their own, and the workers' scratch folder."""
    folder = tmp_path_factory.mktemp("cluster")
    variables = {"PYTHONPATH": os.pathsep.join(sys.path), "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

    def start(what, *arguments):
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--no-dashboard", *arguments]
        with open(folder / f"{what}.log", "a") as log:
            return subprocess.Popen(command, env=os.environ | variables, stdout=log, stderr=log)

    written = folder / "scheduler.json"
    shared = ["--scheduler-file", str(written), "--host", "127.0.0.1"]
    processes = [start("scheduler", "--port", "0", *shared)]
    try:
        options = ["--nthreads", "1", "--no-nanny", "--local-directory", str(folder)]
        processes += [start("worker", *shared, *options) for _ in range(2)]
        while not written.exists() and processes[0].poll() is None:
            time.sleep(0.02)
        yield json.loads(written.read_text())["address"], processes, folder
    finally:
        for process in processes[::-1]:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_several_processes_give_the_bits_of_one_and_a_killed_worker_loses_nothing(scheduler, tmp_path, alone, capsys):
    address, (_, victim, _), scratch = scheduler
    sharded = SHORT._replace(shards=3, clip=0.1)
    alone(tmp_path / "one", sharded)
    with cluster.connected(0, address) as client:
        client.wait_for_workers(2, timeout=30)
        client.run(sweep.check_here, [SHORT], None)  # both begin at once then
        alone(tmp_path / "two", sharded, each=cluster.each_there(client))

    grid = write_grid(tmp_path / "grid.toml", seed=[0, 1, 2], iterations=60, evaluate_every=3)
    killed = threading.Event()

    def begun():
        return list(scratch.rglob("antisymrnn-unfinished/*/checkpoint.npz"))

    def kill():
        while sum(not (path.parent / "summary.json").exists() for path in begun()) < 2:
            time.sleep(0.01)
        victim.send_signal(signal.SIGKILL)
        killed.set()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    code, out, err = run(capsys, grid, "--output", tmp_path / "out", "--scheduler", address)
    assert killed.is_set()
    assert (code, err) == (0, "")
    assert "3 points: 3 done" in out.splitlines()[-1]
    with results.open_store(tmp_path / "out" / results.FILE, create=False) as store:
        records = results.records(store, sweep.read_grid(grid))
    timed = []
    for record in records:
        configuration = Configuration(**record["fields"])
        whole = tmp_path / f"alone-{configuration.seed}"
        summary = alone(whole, configuration)
        timed.append(record["summary"]["iterations_timed"])
        assert results.digest(whole, configuration) == record["digest"]
        for name in ("test_accuracy", "test_loss", "best_iteration"):
            assert summary[name] == record["summary"][name]
        assert (whole / "metrics.jsonl").read_bytes() == (
            tmp_path / "out" / record["folder"] / "metrics.jsonl"
        ).read_bytes()
    assert min(timed) < 60  # that of the killed worker went on from its checkpoint
    assert not begun()

    with cluster.connected(0, address) as client:  # one worker is left
        assert len(client.nthreads()) == 1
        alone(tmp_path / "left", sharded, each=cluster.each_there(client))
    for name in ("two", "left"):
        assert results.digest(tmp_path / name, sharded) == results.digest(tmp_path / "one", sharded)
        assert (tmp_path / name / "metrics.jsonl").read_bytes() == (tmp_path / "one" / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_an_interrupted_sweep_runs_only_what_is_missing(scheduler, tmp_path, monkeypatch, capsys):
    address, _, _ = scheduler
    output = tmp_path / "out"
    grid = write_grid(tmp_path / "grid.toml", seed=[0, 1])
    keep = results.keep

    def interrupted(*arguments):
        keep(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(results, "keep", interrupted)
        code, _, err = run(capsys, grid, "--output", output, "--scheduler", address)
    assert code == 130
    assert "keeps what is done; the same command goes on" in err
    (first,) = rows(output / results.FILE)
    folder = output / first[2]
    held = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    write_grid(grid, seed=[0, 1, 2])
    code, out, _ = run(capsys, grid, "--output", output, "--scheduler", address)
    assert code == 0
    assert "1 of 3 points have a result already" in out
    assert [row[0] for row in rows(output / results.FILE)] == ["done"] * 3
    assert first in rows(output / results.FILE)
    assert held == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.slow
def test_a_run_that_nobody_waits_for_any_more_ends_and_leaves_its_checkpoint(scheduler, tmp_path):
    with cluster.connected(0, scheduler[0]) as client:
        count = len(client.nthreads())
        points = [SHORT._replace(iterations=10**6, seed=seed) for seed in range(count)]
        futures = [client.submit(sweep._train, point, None, tmp_path, pure=False) for point in points]
        while len(list(tmp_path.glob("*/checkpoint.npz"))) < count:
            time.sleep(0.02)
        client.cancel(futures)
        assert [future.result(timeout=30) for future in client.map(abs, range(-count, 0))] == list(range(count, 0, -1))
    assert len(list(tmp_path.glob("*/checkpoint.npz"))) == count


@pytest.mark.slow
def test_a_scheduler_that_is_lost_is_told_and_what_is_done_is_kept(scheduler, tmp_path, monkeypatch, capsys):
    address, (process, *_), _ = scheduler
    grid = write_grid(tmp_path / "grid.toml", seed=[0, 1, 2, 3])
    keep = results.keep

    def lose(*arguments):
        process.kill()
        return keep(*arguments)

    monkeypatch.setattr(results, "keep", lose)
    code, _, err = run(capsys, grid, "--output", tmp_path / "out", "--scheduler", address)
    assert code == 2
    assert "the scheduler is lost" in err
    assert "done" in {row[0] for row in rows(tmp_path / "out" / results.FILE)}
