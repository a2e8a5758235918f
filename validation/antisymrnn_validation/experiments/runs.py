"""A run is a folder: configuration, environment, metrics, checkpoints, curves, summary.

``checkpoint.npz`` is the last good state and ``best.npz`` the best on the validation split, each written whole or
not at all and forced to the disk. A run that is killed at any moment and resumed ends with the same bits, on the same
machine.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import math
import os
import shlex
import sqlite3
import time
import zipfile
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from antisymrnn_ref.contract import Array, GatedParameters, Parameters
from antisymrnn_ref.readout import ReadoutParameters
from antisymrnn_validation.experiments import optimizers, tasks, training
from antisymrnn_validation.experiments.training import Configuration, Gradient, State
from antisymrnn_validation.output import terminal
from antisymrnn_validation.output.environment import environment

VERSION = 1
"""Of the layout of a checkpoint."""

YOUNGER = ("shards",)
"""Fields that ``config.json`` lacks where a run is older than they are."""

MEASURED = {"iteration", "loss", "accuracy", "validation_loss", "validation_accuracy"}
"""What every record of ``metrics.jsonl`` has, beside the norm of the gradient and the learning rate."""


class RunError(ValueError):
    """A folder that cannot be used as asked; the message names the file, what was expected and what came."""


class Data(NamedTuple):
    """What a run needs of a task.

    Attributes
    ----------
    m, classes : int
    train_labels, test_labels : (N,) arrays of integers
    sequences : callable
        ``sequences(split, indices, dtype, generator)`` gives (T, B, m).
    """

    m: int
    classes: int
    train_labels: Array
    test_labels: Array
    sequences: Callable[..., Array]


@functools.cache
def data_of(name: str, folder: Path | None) -> Data:
    """What a run needs of a task, see :func:`~antisymrnn_validation.experiments.tasks.load`; kept for the next run."""
    task = tasks.load(name, folder)

    def sequences(split: str, indices: Array, dtype: Any, generator: np.random.Generator | None) -> Array:
        return tasks.sequences(task, split, indices, dtype, generator)

    return Data(task.m, task.classes, task.train_labels, task.test_labels, sequences)


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
        If the configuration cannot be trained, see :func:`training.check`.
    Diverged
        As in :func:`training.step` and :func:`training.evaluate`; the last checkpoint stays.
    """
    training.check(configuration)
    state = training.initial(configuration, data.m, data.classes)  # before anything is written: it may not fit
    terminal.output_folder(folder)
    _check_folder(folder, configuration, resume)
    with _alone(folder):
        _check_folder(folder, configuration, resume)  # another process may have been faster
        new = not (folder / "config.json").exists()
        if new:
            terminal.write_json(folder / "environment.json", environment())
            terminal.write_json(folder / "config.json", configuration._asdict())  # last: with it the folder is a run
        for left in folder.rglob(terminal.TEMPORARY):  # by a killed process
            left.unlink(missing_ok=True)  # one that another process just tries may be gone already
        checkpoint, metrics = folder / "checkpoint.npz", folder / "metrics.jsonl"
        count = training.parameter_count(configuration, state)
        if checkpoint.exists():
            state = load(checkpoint, configuration, data)
            load(folder / "best.npz", configuration, data)  # what is missing is missed before hours of training
        ended = _ended(configuration, state)
        if ended and (folder / "summary.json").exists():
            return summary_of(folder, parameters=int, best_iteration=int, seconds=float, iterations_timed=int)
        if not new:
            _write_other_environment(folder, state.iteration)
        _truncate(metrics, state.iteration)
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
                        save(folder / "best.npz", configuration, state)
                    if keep:
                        kept = terminal.output_folder(folder / "checkpoints")
                        save(kept / f"{state.iteration:06}.npz", configuration, state)
                    _append(metrics, record)
                    save(checkpoint, configuration, state)  # last: what is written twice after a kill is the same
                    evaluated(record)
                    ended = _ended(configuration, state)
        seconds = time.perf_counter() - start
        best = load(folder / "best.npz", configuration)
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
        terminal.write_json(folder / "summary.json", summary)  # last: with it the run is finished
        return summary


def lock(path: Path) -> sqlite3.Connection:
    """A lock that ends with the process that holds it: a connection, in a transaction unless another one has it.

    Raises
    ------
    ReportError
        If files cannot be locked there.
    """
    try:
        found = sqlite3.connect(path, timeout=0, isolation_level=None)
        try:
            found.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                found.close()
                raise
    except sqlite3.Error as error:
        raise terminal.ReportError(f"{path}: cannot be locked: {error}") from None
    return found


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


def name(configuration: Configuration) -> str:
    """The task and what differs from its defaults, as the name of a folder: ``digits-cell=gated-seed=1``."""
    return "-".join([configuration.task, *(f"{field}={value}" for field, value in _unusual(configuration).items())])


def command(configuration: Configuration) -> str:
    """What asks for it on the command line: ``antisymrnn train digits --cell gated --seed 1``."""
    words = ["antisymrnn", "train", configuration.task]
    for field, value in _unusual(configuration).items():
        words += [f"--{field.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(words)


def _unusual(configuration: Configuration) -> dict[str, Any]:
    """The fields that differ from the defaults of the task, with their values."""
    usual = training.usual(configuration.task)._asdict()
    return {field: value for field, value in configuration._asdict().items() if value != usual[field]}


def configuration_of(folder: Path) -> Configuration:
    """The configuration of a run.

    Raises
    ------
    RunError
        If ``config.json`` is missing or holds anything but a configuration that can be trained.
    """
    path = folder / "config.json"
    try:
        configuration = Configuration(**json.loads(path.read_text(encoding="utf-8")))
        training.check(configuration)
        return configuration
    except OSError as error:
        raise RunError(f"{path}: expected the configuration of a run: {error.strerror or error}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: expected the configuration of a run, got something else ({error})") from None


def fingerprint(configuration: Configuration) -> str:
    """SHA-256 of a configuration; a younger field counts only where it has another value than its default."""
    kinds = training.TYPES  # 1 is 1.0, and −0.0 is 0.0
    fields = {name: kinds[name](value) or kinds[name]() for name, value in configuration._asdict().items()}
    for name in YOUNGER:
        if fields[name] == Configuration._field_defaults[name]:
            del fields[name]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def save(path: Path, configuration: Configuration, state: State) -> None:
    """Write a state as a checkpoint, whole or not at all."""
    arrays = {f"value_{k}": array for k, array in enumerate((*state.cell, *state.layer))}
    arrays |= {f"slot_{k}_{j}": array for k, kept in enumerate(state.slots) for j, array in enumerate(kept)}
    numbers: dict[str, Any] = {name: getattr(state, name) for name in ("iteration", "best", "best_iteration")}
    stream = io.BytesIO()
    np.savez(stream, version=VERSION, configuration=fingerprint(configuration), **numbers, **arrays)
    terminal.write_bytes(path, stream.getvalue())


def load(path: Path, configuration: Configuration, data: Data | None = None) -> State:
    """Read a checkpoint of this configuration, and of this data if there is some; nothing in it is executed.

    Raises
    ------
    RunError
        If it is missing, cut off, damaged, of another version or of another configuration, or if its arrays or numbers
        cannot be those of such a run.
    """
    try:
        stream = io.BytesIO(path.read_bytes())
    except FileNotFoundError:
        raise RunError(
            f"{path}: expected a checkpoint, got nothing; a run has it from its first evaluation on"
        ) from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        with zipfile.ZipFile(stream) as archive:  # which np.load reads too, but with a look at headers before checksums
            arrays = {name.removesuffix(".npy"): io.BytesIO(archive.read(name)) for name in archive.namelist()}
        content = {name: np.lib.format.read_array(array, allow_pickle=False) for name, array in arrays.items()}
    except Exception as error:  # noqa: BLE001  zipfile and NumPy raise nearly anything
        raise RunError(f"{path}: expected a checkpoint, got a file that is cut off or damaged ({error})") from None
    version = str(content.get("version"))
    if version != str(VERSION):
        raise RunError(f"{path}: expected a checkpoint of version {VERSION}, got version {version:.60}")
    if str(content.get("configuration")) != fingerprint(configuration):
        raise RunError(f"{path}: the checkpoint belongs to another configuration than config.json")
    kind = GatedParameters if configuration.cell == "gated" else Parameters
    names, kept = (*kind._fields, *ReadoutParameters._fields), optimizers.SLOTS[configuration.optimizer]
    try:
        values = [content[f"value_{k}"] for k in range(len(names))]
        slots = tuple(tuple(content[f"slot_{k}_{j}"] for j in range(kept)) for k in range(len(names)))
        numbers = [content[name].item() for name in ("iteration", "best", "best_iteration")]
    except KeyError as error:
        raise RunError(f"{path}: expected a whole checkpoint, got one without {error}") from None
    except ValueError as error:
        raise RunError(f"{path}: expected one iteration, best and best_iteration ({error})") from None
    _check_arrays(path, configuration, data, dict(zip(names, zip(values, slots, strict=True), strict=True)))
    iteration, best, best_iteration = numbers
    typed = type(iteration) is type(best_iteration) is int and type(best) is float
    if not (typed and 0 <= best_iteration <= iteration <= configuration.iterations and -1 <= best <= 1):
        raise RunError(
            f"{path}: expected 0 ≤ best_iteration ≤ iteration ≤ {configuration.iterations} and best from -1 to 1, got "
            f"{best_iteration}, {iteration} and {best}"
        )
    layer = ReadoutParameters(*values[len(kind._fields) :])
    return State(iteration, kind(*values[: len(kind._fields)]), layer, slots, best, best_iteration)


def _check_arrays(
    path: Path, configuration: Configuration, data: Data | None, found: dict[str, tuple[Array, tuple[Array, ...]]]
) -> None:
    """Refuse arrays that are not finite, or not of the shapes and the dtype of the configuration and the data."""
    n, (V, _), (weights, _) = configuration.units, found["V"], found["weights"]
    m, classes = (data.m, data.classes) if data else (V.shape[-1] if V.ndim else 0, len(weights) if weights.ndim else 0)
    shapes = {"W": (n, n), "V": (n, m), "V_z": (n, m), "b": (n,), "b_z": (n,)}
    shapes |= {"weights": (classes, n), "bias": (classes,)}
    for name, (value, slots) in found.items():
        for array in (value, *slots):
            if (array.shape, array.dtype) != (shapes[name], np.dtype(configuration.dtype)):
                raise RunError(
                    f"{path}: expected {name} of shape {shapes[name]} in {configuration.dtype}, got {array.shape} in "
                    f"{array.dtype}"
                )
            if not np.isfinite(array).all():
                raise RunError(f"{path}: expected finite numbers in {name}, got others")
    if training.triangular(configuration) and np.tril(found["W"][0]).any():
        raise RunError(f"{path}: expected zeros on and below the diagonal of W, got others")


def states_of(folder: Path, configuration: Configuration) -> list[State]:
    """Every state that a run has kept, by iteration: the best, the last, and all evaluated ones of ``train --keep``.

    A recorded run has the best alone.
    """
    paths = [folder / "best.npz", *folder.glob("checkpoint.npz"), *(folder / "checkpoints").glob("*.npz")]
    found = {state.iteration: state for state in (load(path, configuration) for path in paths)}
    return [found[iteration] for iteration in sorted(found)]


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """The records of ``metrics.jsonl``, without a last line that is cut off.

    Raises
    ------
    RunError
        If there is no such file, or it holds other records.
    """
    path = folder / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise RunError(
            f"{folder}: expected a run with metrics.jsonl, got none; a run has it from its first evaluation on"
        ) from None
    except OSError as error:
        raise RunError(f"{folder}: expected a run with metrics.jsonl: {error.strerror or error}") from None
    except ValueError as error:
        raise RunError(f"{path}: expected records in UTF-8: {error}") from None
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            for name in MEASURED:
                float(record[name])  # "nan" and "inf" too
            if type(record["iteration"]) is not int:
                raise TypeError
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            if number == len(lines):  # behind the last end of a line: nothing, or what a kill left
                break
            raise RunError(
                f"{path}, line {number}: expected a record with numbers for {', '.join(sorted(MEASURED))}, got "
                f"{line:.60} ({type(error).__name__})"
            ) from None
        records.append(record)
    return records


def summary_of(folder: Path, **others: type) -> dict[str, Any]:
    """What :func:`train` returned of a finished run.

    Parameters
    ----------
    folder : Path
    others : type
        By name what it must have beside the accuracy and the iterations.

    Raises
    ------
    RunError
        If ``summary.json`` is missing or is no such summary.
    """
    held = folder / "summary.json"
    try:
        summary: dict[str, Any] = json.loads(held.read_text(encoding="utf-8"))
        kinds: dict[str, Any] = {"test_accuracy": float, "iterations": int} | others
        if lacking := kinds.keys() - summary.keys():
            raise ValueError(f"without {', '.join(sorted(lacking))}")
        for name, kind in kinds.items():
            value = summary[name]
            most = 1.0 if name == "test_accuracy" else math.inf
            if type(value) is not kind or (kind is not str and not 0 <= value <= most):
                raise ValueError(f"{name} is {value!r:.60}")
    except OSError as error:
        raise RunError(f"{held}: expected the summary of a finished run: {error.strerror or error}") from None
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise RunError(f"{held}: expected the summary of a run, got something else ({error!r})") from None
    return summary


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


def _write_other_environment(folder: Path, iteration: int) -> None:
    """Write the environment of a session that goes on from an iteration, unless the session before had the same."""
    found, parts = environment(), ("versions", "machine")  # not the thread pools, which go by what is imported
    written = sorted(folder.glob("environment-*.json"), key=lambda path: (len(path.name), path.name))
    try:
        before = json.loads((written[-1] if written else folder / "environment.json").read_text(encoding="utf-8"))
        if all(before[part] == found[part] for part in parts):
            return
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # no such file any more, or damaged
        pass
    terminal.write_json(folder / f"environment-{iteration:06}.json", found)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Refuse a folder that another process trains in, and keep others out."""
    with contextlib.closing(lock(folder / ".lock")) as there:
        if not there.in_transaction:
            raise RunError(f"{folder}: another process trains in it; wait for that, or take another --output")
        yield


def _one_ahead(make: Callable[[int], Any], start: int, stop: int) -> Generator[Any, None, None]:
    """What a function makes of start, …, stop − 1; a thread makes the next while the caller works on the last."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(make, start)
        for k in range(start + 1, stop):
            ready = coming.result()
            coming = thread.submit(make, k)
            yield ready
        yield coming.result()


def _check_folder(folder: Path, configuration: Configuration, resume: bool) -> None:
    """Refuse a folder that holds a run, or with ``resume`` one of another configuration, or other files."""
    held = folder / "config.json"
    if held.exists():
        if not resume:
            raise RunError(f"{folder}: holds a run already; --resume goes on with it, another --output begins anew")
        if difference := _difference(configuration_of(folder), configuration):
            raise RunError(f"{held}: the run has another configuration: {difference}; leave that out, or begin anew")
    elif any(path.name != "environment.json" for path in folder.iterdir() if not path.name.startswith(".")):
        raise RunError(f"{folder}: expected an empty folder or that of a run, got other files")


def _difference(held: Configuration, asked: Configuration) -> str:
    pairs = zip(Configuration._fields, held, asked, strict=True)
    return ", ".join(f"{name} is {old!r}, asked for {new!r}" for name, old, new in pairs if old != new)


def _ended(configuration: Configuration, state: State) -> bool:
    """Whether the iterations or the patience are used up, asked of the initial state or of one just evaluated."""
    if state.iteration == configuration.iterations:
        return True
    return 0 < configuration.patience <= state.iteration - state.best_iteration and state.best >= 0


def _append(path: Path, record: dict[str, Any]) -> None:
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(terminal.strict(record)) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise terminal.ReportError(f"{path}: cannot be written: {error.strerror or error}") from None


def _truncate(path: Path, iteration: int) -> None:
    """Leave out the records after an iteration, and a line that is cut off; those up to it must be there."""
    found = metrics_of(path.parent) if path.exists() else []
    kept = [record for record in found if record["iteration"] <= iteration]
    last = kept[-1]["iteration"] if kept else 0
    if last < iteration:
        raise RunError(
            f"{path}: expected the records up to iteration {iteration}, that of the checkpoint, got them up to {last}; "
            "put the file back, or train anew in another folder"
        )
    if path.exists():
        terminal.write_bytes(path, "".join(json.dumps(record) + "\n" for record in kept).encode())
