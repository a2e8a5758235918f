"""A run is a folder: configuration, environment, metrics, checkpoints, curves, summary.

``checkpoint.npz`` is the last good state and ``best.npz`` the best on the validation split, each written whole or
not at all and forced to the disk. A run that is killed at any moment and resumed ends with the same bits, on the same
machine.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from antisymrnn_ref.contract import Array
from antisymrnn_validation.experiments import training
from antisymrnn_validation.experiments.configuration import Configuration, check_configuration
from antisymrnn_validation.experiments.folder import (
    append_metrics,
    check_folder,
    load_state,
    metrics_of,
    run_alone,
    save_state,
    summary_of,
    truncate_metrics,
    write_other_environment,
)
from antisymrnn_validation.experiments.tasks import Data
from antisymrnn_validation.experiments.training import Gradient, State
from antisymrnn_validation.output import files
from antisymrnn_validation.output.environment import environment


def train(
    folder: Path,
    configuration: Configuration,
    data: Data,
    backend: ModuleType,
    *,
    resume: bool = False,
    keep: bool = False,
    progress: Callable[[int, dict[str, Any]], None] = lambda *_: None,
    evaluating: Callable[[int, int], None] = lambda *_: None,
    evaluated: Callable[[dict[str, Any]], None] = lambda _: None,
    each: Callable[..., Sequence[Gradient]] = training.each_here,
) -> dict[str, Any]:
    """Train until the iterations or the patience are used up, and write the folder; a finished run stays as it is.

    Parameters
    ----------
    folder : Path
        New or empty, or with ``resume`` that of a run of the same configuration.
    configuration : Configuration
    data : Data
    backend : module
    resume : bool
        Go on from the checkpoint, if there is one yet.
    keep : bool
        Also keep the state of every evaluation, as ``checkpoints/000500.npz``.
    progress : callable
        Called after each step with the number of steps done and what was measured.
    evaluating : callable
        Called during an evaluation with the number of samples done and of all; at its end both are the same.
    evaluated : callable
        Called after an evaluation on the validation split with the record that ``metrics.jsonl`` gets.
    each : callable
        Where the gradients of shards are computed, see :func:`training.step`; it changes no bit.

    Returns
    -------
    dict
        What ``summary.json`` holds.

    Raises
    ------
    RunError
        If the folder holds something else, another process trains in it, or a checkpoint or the records up to it
        cannot be used.
    ReportError
        If a file cannot be written; the last checkpoint stays.
    ValueError
        If the configuration cannot be trained, see :func:`configuration.check_configuration`.
    Diverged
        As in :func:`training.step` and :func:`training.evaluate`; the last checkpoint stays.
    """
    check_configuration(configuration)
    state = training.initial(configuration, data.m, data.classes)  # before anything is written: it may not fit
    files.output_folder(folder)
    check_folder(folder, configuration, resume)
    with run_alone(folder):
        check_folder(folder, configuration, resume)  # another process may have been faster
        new = not (folder / "config.json").exists()
        if new:
            files.write_json(folder / "environment.json", environment())
            files.write_json(folder / "config.json", configuration._asdict())  # last: with it the folder is a run
        for left in folder.rglob(files.TEMPORARY):  # by a killed process
            left.unlink(missing_ok=True)  # one that another process just tries may be gone already
        checkpoint, metrics = folder / "checkpoint.npz", folder / "metrics.jsonl"
        count = training.parameter_count(configuration, state)
        if checkpoint.exists():
            state = load_state(checkpoint, configuration, data)
            load_state(folder / "best.npz", configuration, data)  # what is missing is missed before hours of training
        ended = _ended(configuration, state)
        if ended and (folder / "summary.json").exists():
            return summary_of(folder, parameters=int, best_iteration=int, seconds=float, iterations_timed=int)
        if not new:
            write_other_environment(folder, state.iteration)
        truncate_metrics(metrics, state.iteration)
        (folder / "summary.json").unlink(missing_ok=True)  # of a run that had been finished, but lost its checkpoint
        learn, held_out = training.splits(configuration, len(data.train_labels))
        dtype = np.dtype(configuration.dtype)

        def batch(k: int) -> tuple[Array, Array]:
            chosen = training.batch_indices(configuration, learn, k)
            return chosen, data.sequences("train", chosen, dtype, training.batch_noise(configuration, k))

        start, first = time.perf_counter(), state.iteration
        with contextlib.closing(_one_ahead(batch, first, configuration.iterations)) as batches:
            while not ended:
                chosen, x = next(batches)
                state, measured = training.step(backend, configuration, state, x, data.train_labels[chosen], each=each)
                progress(state.iteration, measured)
                if state.iteration % configuration.evaluate_every == 0 or state.iteration == configuration.iterations:
                    try:
                        loss, accuracy = evaluate(configuration, data, backend, state, "train", held_out, evaluating)
                    except training.Diverged as error:
                        raise training.Diverged(f"{error}; the last gradient had norm {measured['norm']:g}") from None
                    record = {"iteration": state.iteration, **measured}
                    record |= {"validation_loss": loss, "validation_accuracy": accuracy}
                    if accuracy > state.best:
                        state = state._replace(best=accuracy, best_iteration=state.iteration)
                        save_state(folder / "best.npz", configuration, state)
                    if keep:
                        kept = files.output_folder(folder / "checkpoints")
                        save_state(kept / f"{state.iteration:06}.npz", configuration, state)
                    append_metrics(metrics, record)
                    save_state(checkpoint, configuration, state)  # last: what is written twice after a kill is the same
                    evaluated(record)
                    ended = _ended(configuration, state)
        seconds = time.perf_counter() - start
        best = load_state(folder / "best.npz", configuration)
        everything = np.arange(len(data.test_labels))
        loss, accuracy = evaluate(configuration, data, backend, best, "test", everything, evaluating)
        summary = {
            "task": configuration.task,
            "iterations": state.iteration,
            "parameters": count,
            "validation_accuracy": best.best,
            "best_iteration": best.best_iteration,
            "test_loss": loss,
            "test_accuracy": accuracy,
            "seconds": seconds,
            "iterations_timed": state.iteration - first,
        }
        write_curves(folder, [folder])
        files.write_json(folder / "summary.json", summary)  # last: with it the run is finished
        return summary


def evaluate(
    configuration: Configuration,
    data: Data,
    backend: ModuleType,
    state: State,
    split: str,
    indices: Array,
    evaluating: Callable[[int, int], None] = lambda *_: None,
) -> tuple[float, float]:
    """Mean loss and accuracy on some samples of a split; ``evaluating`` as in :func:`train`.

    Raises
    ------
    Diverged
        If the loss is not finite.
    """
    labels = data.train_labels if split == "train" else data.test_labels
    dtype = np.dtype(configuration.dtype)

    def sequences(start: int, stop: int, generator: np.random.Generator) -> Array:
        evaluating(start, len(indices))
        return data.sequences(split, indices[start:stop], dtype, generator)

    found = training.evaluate(backend, configuration, state, split, sequences, labels[indices])
    evaluating(len(indices), len(indices))
    return found


def labels(folders: Sequence[Path]) -> list[str]:
    """What tells runs apart in a figure: the names of their folders, or their paths where two have one name."""
    from antisymrnn_validation.output import drawing

    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    names = [drawing.plain(name) for name in names]
    return [f" {name}" if name.startswith("_") else name for name in names]  # matplotlib leaves _name out of a legend


def write_curves(target: Path, folders: list[Path]) -> list[Path]:
    """Draw loss and accuracy of runs, of validation and of training batches, into ``curves.png`` and ``curves.svg``."""
    from antisymrnn_validation.output import drawing

    found = [(label, metrics_of(folder)) for label, folder in zip(labels(folders), folders, strict=True)]

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, 2)
        for axis, quantity in zip(axes, ("loss", "accuracy"), strict=True):
            for k, (label, records) in enumerate(found):
                iterations = [record["iteration"] for record in records]
                style = drawing.series(k)
                for key, look in (
                    (f"validation_{quantity}", {"label": label, "markersize": 3, **style}),
                    (quantity, {**style, "marker": "", "linewidth": 0.8, "alpha": 0.5}),
                ):
                    axis.plot(iterations, [float(record[key]) for record in records], **look)
            axis.locator_params(axis="x", nbins=5)
            axis.set(xlabel="iteration; thin: the last training batch", title=f"{quantity} on the validation split")
        axes[0].set_yscale("log")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)

    return drawing.write(target, "curves", drawing.render(draw, 8.0, 3.2 + 0.12 * len(found)))


def _one_ahead(make: Callable[[int], Any], start: int, stop: int) -> Generator[Any, None, None]:
    """What a function makes of start, …, stop − 1; a thread makes the next while the caller works on the last."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(make, start)
        for k in range(start + 1, stop):
            ready = coming.result()
            coming = thread.submit(make, k)
            yield ready
        yield coming.result()


def _ended(configuration: Configuration, state: State) -> bool:
    """Whether the iterations or the patience are used up, asked of the initial state or of one just evaluated."""
    if state.iteration == configuration.iterations:
        return True
    return 0 < configuration.patience <= state.iteration - state.best_iteration and state.best >= 0
