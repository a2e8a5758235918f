"""train, evaluate, curves: runs in folders."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from antisymrnn_validation import report
from antisymrnn_validation.cli.command import (
    AS_EXPECTED,
    INTERRUPTED,
    Contradicted,
    UsageError,
    command,
    import_package,
    load_backend_named,
)

if TYPE_CHECKING:
    from antisymrnn_validation.experiments.runs import Data

DataFolder = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", envvar="ANTISYMRNN_DATA", help="Folder with the files of the task."),
]


@command
def train(
    task: Annotated[str, typer.Argument(metavar="TASK", help="digits needs no download.")],
    backend: Annotated[str, typer.Option(metavar="NAME")] = "numba",
    cell: Annotated[str, typer.Option(help="antisymmetric or gated.")] = "antisymmetric",
    unconstrained: Annotated[bool, typer.Option("--unconstrained", help="The paper's ablation; gated.")] = False,
    full: Annotated[bool, typer.Option("--full", help="A full W in place of a strictly upper triangular one.")] = False,
    units: Annotated[int | None, typer.Option()] = None,
    step_size: Annotated[float | None, typer.Option(help="ε.")] = None,
    diffusion: Annotated[float | None, typer.Option(help="γ.")] = None,
    sigma_w: Annotated[float | None, typer.Option(help="W ~ N(0, σ_w²/n).")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd, adagrad or adam.")] = None,
    learning_rate: Annotated[float | None, typer.Option()] = None,
    momentum: Annotated[float | None, typer.Option(help="Of sgd.")] = None,
    schedule: Annotated[str | None, typer.Option(help="constant, step or cosine.")] = None,
    clip: Annotated[float | None, typer.Option(help="Largest norm of the gradient; 0: none.")] = None,
    batch: Annotated[int | None, typer.Option()] = None,
    iterations: Annotated[int | None, typer.Option()] = None,
    evaluate_every: Annotated[int | None, typer.Option(help="Iterations between checkpoints.")] = None,
    patience: Annotated[int | None, typer.Option(help="Iterations without a better validation; 0: no end.")] = None,
    validation: Annotated[float | None, typer.Option(help="Part of the training set to validate on.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    data: DataFolder = None,
    download: Annotated[bool, typer.Option("--download", help="First fetch what --data lacks.")] = False,
    output: Annotated[Path | None, typer.Option(metavar="RUN", help="Default: a folder runs/TASK-….")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in RUN.")] = False,
) -> int:
    """Train on a task, into the folder of a run.

    What is not given is chosen for the task; config.json in the folder has it all.
    """
    given = {
        name: value
        for name, value in locals().items()
        if value is not None and name not in ("task", "data", "download", "output", "resume")
    }
    if download:
        _download(task, data)
    content = _data(task, data)
    module = load_backend_named(backend)
    from antisymrnn_validation.experiments import runs, training

    configuration = training.Configuration(task, **(training.DEFAULTS.get(task, {}) | given))
    folder = output or Path("runs") / f"{task}-{cell}-{configuration.units}-seed{seed}"
    print(f"run {folder}")
    try:
        with _progress(configuration.iterations, configuration.batch, configuration.evaluate_every) as progress:
            summary = runs.train(folder, configuration, content, module, resume=resume, progress=progress)
    except training.Diverged as error:
        raise Contradicted(f"{error}; the last checkpoint in {folder} is kept") from None
    except ValueError as error:
        raise UsageError(str(error)) from None
    except KeyboardInterrupt:
        print(f"antisymrnn train: interrupted; go on with --output {folder} --resume", file=sys.stderr)
        return INTERRUPTED
    print(
        f"train: {task}, {summary['parameters']} parameters, {summary['iterations']} iterations, "
        f"test accuracy {summary['test_accuracy']:.2%} at the best validation (iteration {summary['best_iteration']}), "
        f"{summary['seconds']:.1f} s"
    )
    return AS_EXPECTED


@command
def evaluate(run: Annotated[Path, typer.Argument(metavar="RUN")], data: DataFolder = None) -> int:
    """Evaluate the best checkpoint of a run on the test set."""
    import numpy as np

    from antisymrnn_validation.experiments import runs

    try:
        configuration = runs.configuration_of(run)
        content, module = _data(configuration.task, data), load_backend_named(configuration.backend)
        state = runs.load(run / "best.npz", configuration)
    except ValueError as error:
        raise UsageError(str(error)) from None
    indices = np.arange(len(content.test_labels))
    loss, accuracy = runs.evaluate(configuration, content, module, state, "test", indices)
    print(f"evaluate: {configuration.task}, {len(indices)} samples, test loss {loss:.4f}, test accuracy {accuracy:.2%}")
    return AS_EXPECTED


@command
def curves(
    run: Annotated[list[Path], typer.Argument(metavar="RUN...")],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where curves.png and curves.svg go.")] = Path("."),
) -> int:
    """Draw loss and accuracy of runs into one figure."""
    import_package("matplotlib", "validation")
    from antisymrnn_validation.experiments import runs

    try:
        paths = runs.write_curves(report.output_folder(output), run)
    except ValueError as error:
        raise UsageError(str(error)) from None
    print(*paths, sep="\n")
    return AS_EXPECTED


def _download(name: str, folder: Path | None) -> None:
    """The files of a task, into the folder of --data."""
    from antisymrnn_validation.experiments import downloading

    if folder is None:
        raise UsageError("--download: expected --data DIR too, the folder to put the files in")
    try:
        downloading.download(name, folder)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _data(name: str, folder: Path | None) -> Data:
    """What a run needs of a task; an unknown name is refused with the closest one."""
    from antisymrnn_validation.experiments import runs, tasks

    try:
        task = tasks.load(name, folder)
    except ValueError as error:
        raise UsageError(str(error)) from None

    def sequences(split: Any, indices: Any, dtype: Any, generator: Any) -> Any:
        return tasks.sequences(task, split, indices, dtype, generator)

    return runs.Data(task.m, task.classes, task.train_labels, task.test_labels, sequences)


@contextmanager
def _progress(total: int, batch: int, every: int) -> Iterator[Callable[[int, dict[str, Any]], None]]:
    """A bar on a terminal, a plain line now and then otherwise."""
    start, calls = time.perf_counter(), itertools.count(1)

    def line(measured: dict[str, Any]) -> str:
        speed = next(calls) * batch / (time.perf_counter() - start)
        return f"loss {measured['loss']:.4f}  accuracy {measured['accuracy']:.3f}  {speed:.0f} sequences/s"

    if not sys.stderr.isatty():

        def plain(k: int, measured: dict[str, Any]) -> None:
            text = line(measured)
            if k % every == 0 or k == total:
                print(f"iteration {k}  {text}", flush=True)

        yield plain
        return
    import rich.console
    import rich.progress as bars

    columns = (
        bars.BarColumn(20),
        bars.MofNCompleteColumn(),
        bars.TimeRemainingColumn(),
        bars.TextColumn("{task.description}"),
    )
    with bars.Progress(*columns, console=rich.console.Console(stderr=True), transient=True) as bar:
        shown = bar.add_task("", total=total)
        yield lambda k, measured: bar.update(shown, completed=k, description=line(measured))
