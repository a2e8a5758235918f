"""train: a run in a folder, and where its time goes."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from antisymrnn_validation.cli.command import (
    AS_EXPECTED,
    CONTRADICTED,
    INTERRUPTED,
    Contradicted,
    Json,
    UsageError,
    check_writable,
    command,
    import_package,
    load_backend_named,
    write_results,
)
from antisymrnn_validation.output import files, terminal
from antisymrnn_validation.output.terminal import Record
from antisymrnn_validation.reports.times import profile_table, turns_table

if TYPE_CHECKING:
    from antisymrnn_validation.experiments.configuration import Configuration
    from antisymrnn_validation.experiments.tasks import Data
    from antisymrnn_validation.experiments.training import Gradient

RECENT_SECONDS = 5.0
"""Of training, over which sequences per second are counted."""

DataFolder = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", envvar="ANTISYMRNN_DATA", help="Folder with the files of the task."),
]


@command
def train(
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK",
            help="mnist, pmnist, cifar or noise-padded, as the paper has them; digits (T = 64) needs no download.",
        ),
    ],
    backend: Annotated[str | None, typer.Option(metavar="NAME", help="Default: numba.")] = None,
    cell: Annotated[str | None, typer.Option(help="antisymmetric (the default) or gated.")] = None,
    unconstrained: Annotated[
        bool | None, typer.Option("--unconstrained", help="The paper's ablation; gated.", show_default=False)
    ] = None,
    full: Annotated[
        bool | None,
        typer.Option("--full", help="A full W in place of a strictly upper triangular one.", show_default=False),
    ] = None,
    units: Annotated[int | None, typer.Option(help="n, the size of the state. Default: the task's.")] = None,
    step_size: Annotated[float | None, typer.Option(help="ε.")] = None,
    diffusion: Annotated[float | None, typer.Option(help="γ.")] = None,
    sigma_w: Annotated[float | None, typer.Option(help="W ~ N(0, σ_w²/n).")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd, adagrad or adam.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The largest of the schedule.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Of sgd.")] = None,
    schedule: Annotated[str | None, typer.Option(help="constant, step or cosine.")] = None,
    clip: Annotated[float | None, typer.Option(help="Largest norm of the gradient; 0: none.")] = None,
    batch: Annotated[int | None, typer.Option(help="Sequences in an iteration.")] = None,
    iterations: Annotated[int | None, typer.Option(help="Steps of the optimizer, fixed with the run.")] = None,
    evaluate_every: Annotated[int | None, typer.Option(help="Iterations between checkpoints.")] = None,
    patience: Annotated[int | None, typer.Option(help="Iterations without a better validation; 0: no end.")] = None,
    validation: Annotated[float | None, typer.Option(help="Part of the training set to validate on.")] = None,
    seed: Annotated[int | None, typer.Option(help="Default: 0.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 (the default) or float64.")] = None,
    shards: Annotated[
        int | None, typer.Option(help="Parts of a batch whose gradients are added in order. Default: 1.")
    ] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Processes that share the shards.")] = None,
    data: DataFolder = None,
    download: Annotated[bool, typer.Option("--download", help="First fetch what --data lacks.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Default: in runs/, named by the task and by what differs from its defaults."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in RUN, if there is one.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the state of every evaluation, for spectra.")] = False,
    profile: Annotated[
        int | None, typer.Option(metavar="N", help="No run: where N iterations spend their time, beside PyTorch.")
    ] = None,
    json: Json = None,
) -> int:
    """Train on a task, into the folder of a run.

    What is not given is chosen for the task, and with --resume what the run has; config.json in the folder has it all.
    """
    asked = locals()
    check_writable(json)
    of_a_run = [name for name in ("workers", "output", "resume", "keep") if asked[name] not in (None, False)]
    if profile is not None and of_a_run:
        raise UsageError(f"--{of_a_run[0]}: expected without --profile, which leaves no run")
    from antisymrnn_validation.experiments import runs, training
    from antisymrnn_validation.experiments.configuration import (
        Configuration,
        check_configuration,
        default_configuration,
    )
    from antisymrnn_validation.experiments.folder import RunError, configuration_of, metrics_of, run_name

    usual = default_configuration(task)
    given = {name: asked[name] for name in Configuration._fields if asked[name] is not None}
    folder = output or Path("runs") / run_name(usual._replace(**given))
    try:
        held = configuration_of(folder) if resume else usual
        if held.task != task:
            raise ValueError(
                f"{folder}: expected a run of {task}, it is one of {held.task}; name that task, or another --output"
            )
        configuration = held._replace(**given)
        check_configuration(configuration)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if download:
        _download(task, data)
    content, module = task_data(task, data), load_backend_named(configuration.backend)
    start = time.perf_counter()
    if profile is not None:
        line, code, results = _profile(configuration, content, module, profile)
        print(line)
        write_results(json, line, code, start, {"command": "train", "configuration": configuration._asdict()} | results)
        return code
    anew = resume and not os.path.exists(folder / "checkpoint.npz")
    print(f"run {folder}" + (": no checkpoint there, from the first iteration on" if anew else ""), flush=True)
    summarised = _modified(folder / "summary.json")
    try:
        with _each(workers, configuration.shards) as each, progress_of_run(configuration, content) as told:
            summary = runs.train(
                folder,
                configuration,
                content,
                module,
                resume=resume,
                keep=keep,
                **told._asdict(),
                each=each,
            )
    except training.Diverged as error:
        kept = (
            f"the last checkpoint in {folder} is kept" if (folder / "checkpoint.npz").exists() else "no checkpoint yet"
        )
        raise Contradicted(f"{error}; {kept}") from None
    except files.ReportError as error:
        begun = os.path.exists(folder / "config.json")
        kept = f"; what {folder} holds is whole: --resume goes on with it" if begun else ""
        raise UsageError(f"{error}{kept}") from None
    except RunError as error:
        raise UsageError(str(error)) from None
    except KeyboardInterrupt:
        if not os.path.exists(folder / "config.json"):
            print("antisymrnn train: interrupted before anything was done; the same command begins", file=sys.stderr)
            return INTERRUPTED
        more = [] if data is None or task == "digits" else ["--data", str(data)]
        more += ["--keep"] if keep else []
        more += [] if workers is None else ["--workers", str(workers)]
        more += [] if json is None else ["--json", str(json)]
        again = shlex.join(["antisymrnn", "train", task, "--output", str(folder), "--resume", *more])
        print(f"antisymrnn train: interrupted; go on with: {again}", file=sys.stderr)
        return INTERRUPTED
    line = (
        f"train: {task}, {summary['parameters']} parameters, {summary['iterations']} iterations, "
        f"test accuracy {summary['test_accuracy']:.2%} at the best validation (iteration {summary['best_iteration']}), "
        f"{summary['seconds']:.1f} s"
    )
    if summary["iterations_timed"] < summary["iterations"]:
        line += f" for the last {summary['iterations_timed']} iterations"
    if _modified(folder / "summary.json") == summarised:
        line += "; it was finished already"
    print(line)
    results = {"configuration": configuration._asdict(), "run": summary, "metrics": metrics_of(folder)}
    write_results(json, line, AS_EXPECTED, start, {"command": "train", "folder": str(folder)} | results)
    return AS_EXPECTED


def _modified(path: Path) -> int | None:
    return path.stat().st_mtime_ns if os.path.exists(path) else None  # Path.exists raises for a name that is too long


@contextmanager
def _each(workers: int | None, shards: int) -> Iterator[Callable[..., Sequence[Gradient]]]:
    """Where the gradients of shards are computed: here, or on so many worker processes."""
    if workers is None:
        from antisymrnn_validation.experiments.training import each_here

        yield each_here
        return
    if workers > shards:
        raise UsageError(f"--workers: expected at most --shards = {shards}, got {workers}")
    import_package("dask.distributed", "validation")
    from antisymrnn_validation.experiments import cluster

    try:
        with cluster.connected(workers, None) as client:
            yield cluster.each_there(client)
    except cluster.ClusterError as error:
        raise UsageError(str(error)) from None


def _download(name: str, folder: Path | None) -> None:
    """The files of a task, into the folder of --data, unless all it needs is there in any form."""
    from antisymrnn_validation.experiments import downloading, tasks
    from antisymrnn_validation.experiments.data import DataError

    try:
        try:
            tasks.data_of(name, folder)
        except DataError as error:
            if folder is None:
                raise UsageError("--download: expected --data DIR too, the folder to put the files in") from error
            fetched = downloading.download(name, folder)
            try:
                tasks.data_of(name, folder)
            except DataError as damaged:
                raise UsageError(f"{damaged}; remove it: whole files are in {fetched[0].parent} now") from None
    except ValueError as error:
        raise UsageError(str(error)) from None


def task_data(name: str, folder: Path | None) -> Data:
    """What a run needs of a task; an unknown name is refused with the closest one."""
    from antisymrnn_validation.experiments import tasks

    try:
        return tasks.data_of(name, folder)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _profile(configuration: Configuration, data: Data, backend: ModuleType, iterations: int) -> tuple[str, int, Record]:
    """The last line, the exit code and the results of train --profile."""
    from antisymrnn_validation.comparison import timing, training_speed
    from antisymrnn_validation.experiments import training

    if iterations < 1:
        raise UsageError(f"--profile: expected at least 1, got {iterations}")
    try:
        found = training_speed.profile(configuration, data, backend, iterations)
    except training.Diverged as error:
        raise Contradicted(str(error)) from None
    terminal.show(profile_table(found.iteration, iterations))
    print(
        f"once in {configuration.evaluate_every} iterations: evaluation {found.evaluation:.3f} s, "
        f"checkpoint {1e3 * found.checkpoint:.1f} ms",
        end="\n\n",
    )
    line = f"train --profile: {configuration.task}, {found.backend:.1%} of an iteration in {configuration.backend}"
    results: Record = {"profile": found._asdict() | {"backend": found.backend}}
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError:
        from antisymrnn_ref.installation import install_command

        return f"{line}; PyTorch is not installed: {install_command('peers')}", AS_EXPECTED, results
    try:
        held = training_speed.contest(configuration, data, backend, configuration.backend, iterations)
    except training.Diverged as error:
        return f"{line}; the turns beside PyTorch {error}", CONTRADICTED, results
    results["errors"] = held.errors
    if not held.samples:
        worst = max(held.errors, key=lambda name: held.errors[name])
        return f"{line}; PyTorch is NOT the same: {worst} off by {held.errors[worst]:.1e}", CONTRADICTED, results
    times = {name: timing.summary(samples, 1.0)._asdict() for name, samples in held.samples.items()}
    batch = training.batch_size(configuration, len(data.train_labels))
    terminal.show(turns_table(times, batch))
    mine, theirs = (each["median"] for each in times.values())
    line += f", {batch / mine:.0f} sequences/s"
    line += f", torch eager on the CPU takes {theirs / mine:.2f} times as long"
    return line, AS_EXPECTED, results | {"turns": times}


class Progress(NamedTuple):
    """What :func:`runs.train` is to call after a step, during an evaluation, and after one."""

    progress: Callable[[int, dict[str, Any]], None]
    evaluating: Callable[[int, int], None]
    evaluated: Callable[[dict[str, Any]], None]


@contextmanager
def progress_of_run(configuration: Configuration, data: Data) -> Iterator[Progress]:
    """Bars on a terminal, plain lines otherwise; on both a line for each evaluation on the validation split."""
    from antisymrnn_validation.experiments.training import batch_size

    total, every = configuration.iterations, configuration.evaluate_every
    batch = batch_size(configuration, len(data.train_labels))
    recent: deque[tuple[float, float]] = deque()  # when a step ended, and its seconds
    last: float | None = None

    def line(measured: dict[str, Any]) -> str:
        nonlocal last
        now = time.perf_counter()
        if last is not None:
            recent.append((now, now - last))
        last = now
        while recent and recent[0][0] < now - RECENT_SECONDS:
            recent.popleft()
        seconds = sum(each for _, each in recent)
        speed = f"  {len(recent) * batch / seconds:.0f} sequences/s" if seconds else ""
        return f"loss {measured['loss']:.4f}  accuracy {measured['accuracy']:.1%}{speed}"

    def validated(record: dict[str, Any]) -> str:
        loss, accuracy = record["validation_loss"], record["validation_accuracy"]
        return f"iteration {record['iteration']}  validation loss {loss:.4f}  accuracy {accuracy:.2%}"

    if not sys.stderr.isatty():

        def plain(k: int, measured: dict[str, Any]) -> None:
            text = line(measured)
            if k % every == 0 or k == total:
                print(f"iteration {k}  batch {text}", flush=True)

        def not_training(*_: int) -> None:
            nonlocal last
            last = time.perf_counter()

        yield Progress(plain, not_training, lambda record: print(validated(record), flush=True))
        return
    import rich.console
    import rich.progress as bars
    import rich.table

    text = rich.table.Column(no_wrap=True, overflow="ellipsis")
    columns = (
        bars.TextColumn("{task.description}", table_column=text),
        bars.TimeRemainingColumn(),
        bars.TextColumn("left"),
        bars.MofNCompleteColumn(table_column=rich.table.Column(no_wrap=True, min_width=2 * len(str(total)) + 1)),
        bars.BarColumn(None),
    )
    with bars.Progress(*columns, console=rich.console.Console(stderr=True), transient=True, expand=True) as bar:
        training = bar.add_task("", total=total, visible=False)
        evaluation = bar.add_task("evaluation", total=1, visible=False)

        def stepped(k: int, measured: dict[str, Any]) -> None:
            bar.update(training, completed=k, description=line(measured), visible=True)

        def evaluating(done: int, samples: int) -> None:
            nonlocal last
            last = time.perf_counter()
            if not done:
                bar.reset(evaluation, total=samples, visible=False)
            seconds = bar.tasks[evaluation].elapsed or 0.0
            bar.update(evaluation, completed=done, visible=seconds > 2.0 and done < samples)
            if done == samples and bar.tasks[training].finished:
                bar.update(training, description="evaluation of the best, curves")

        yield Progress(stepped, evaluating, lambda record: bar.console.print(validated(record), highlight=False))
