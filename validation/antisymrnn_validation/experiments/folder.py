"""The folder of a run: its files, its lock, and what is read back from it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import shlex
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from antisymrnn_ref.contract import Array, GatedParameters, Parameters
from antisymrnn_ref.readout import ReadoutParameters
from antisymrnn_validation.experiments import optimizers
from antisymrnn_validation.experiments.configuration import (
    TYPES,
    Configuration,
    check_configuration,
    default_configuration,
    is_triangular,
)
from antisymrnn_validation.experiments.tasks import Data
from antisymrnn_validation.experiments.training import State
from antisymrnn_validation.output import files
from antisymrnn_validation.output.environment import environment

VERSION = 1
"""Of the layout of a checkpoint."""


YOUNGER = ("shards",)
"""Fields that ``config.json`` lacks where a run is older than they are."""


MEASURED = {"iteration", "loss", "accuracy", "validation_loss", "validation_accuracy"}
"""What every record of ``metrics.jsonl`` has, beside the norm of the gradient and the learning rate."""


class RunError(ValueError):
    """A folder that cannot be used as asked; the message names the file, what was expected and what was found."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Whether this process has the lock on a file, or another one has; it ends with the process at the latest.

    Raises
    ------
    ReportError
        If files cannot be locked there.
    """
    lock = filelock.FileLock(path, blocking=False, fallback_to_soft=False)  # a soft one would outlive a killed process
    try:
        lock.acquire()
    except filelock.Timeout:
        yield False
        return
    except OSError as error:
        raise files.ReportError(f"{path}: cannot be locked: {error.strerror or error}") from None
    try:
        yield True
    finally:
        lock.release()


def run_name(configuration: Configuration) -> str:
    """The task and what differs from its defaults, as the name of a folder: ``digits-cell=gated-seed=1``."""
    return "-".join([configuration.task, *(f"{field}={value}" for field, value in _unusual(configuration).items())])


def command_of(configuration: Configuration) -> str:
    """What asks for it on the command line: ``antisymrnn train digits --cell gated --seed 1``."""
    words = ["antisymrnn", "train", configuration.task]
    for field, value in _unusual(configuration).items():
        words += [f"--{field.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(words)


def _unusual(configuration: Configuration) -> dict[str, Any]:
    """The fields that differ from the defaults of the task, with their values."""
    usual = default_configuration(configuration.task)._asdict()
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
        check_configuration(configuration)
        return configuration
    except OSError as error:
        raise RunError(f"{path}: expected the configuration of a run: {error.strerror or error}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: expected the configuration of a run, got something else ({error})") from None


def fingerprint_of(configuration: Configuration) -> str:
    """SHA-256 of a configuration; a younger field counts only where it has another value than its default."""
    kinds = TYPES  # 1 is 1.0, and −0.0 is 0.0
    fields = {name: kinds[name](value) or kinds[name]() for name, value in configuration._asdict().items()}
    for name in YOUNGER:
        if fields[name] == Configuration._field_defaults[name]:
            del fields[name]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def save_state(path: Path, configuration: Configuration, state: State) -> None:
    """Write a state as a checkpoint, whole or not at all."""
    arrays = {f"value_{k}": array for k, array in enumerate((*state.cell, *state.layer))}
    arrays |= {f"slot_{k}_{j}": array for k, kept in enumerate(state.slots) for j, array in enumerate(kept)}
    numbers: dict[str, Any] = {name: getattr(state, name) for name in ("iteration", "best", "best_iteration")}
    stream = io.BytesIO()
    np.savez(stream, version=VERSION, configuration=fingerprint_of(configuration), **numbers, **arrays)
    files.write_bytes(path, stream.getvalue())


def load_state(path: Path, configuration: Configuration, data: Data | None = None) -> State:
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
        raise RunError(f"{path}: expected a checkpoint, got nothing; {_where_parameters_are(path.parent)}") from None
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
    if str(content.get("configuration")) != fingerprint_of(configuration):
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


def _where_parameters_are(folder: Path) -> str:
    try:
        summary_of(folder, date=str)  # which a recorded run has
    except RunError:
        return "a run has it from its first evaluation on"
    where = f"validation/antisymrnn_validation/experiments/recorded/{folder.resolve().name}"
    return f"an installed package has recorded runs without their parameters, a checkout has them in {where}"


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
    if is_triangular(configuration) and np.tril(found["W"][0]).any():
        raise RunError(f"{path}: expected zeros on and below the diagonal of W, got others")


def states_of(folder: Path, configuration: Configuration) -> list[State]:
    """Every state that a run has kept, by iteration: the best, the last, and all evaluated ones of ``train --keep``.

    A recorded run has the best alone.
    """
    paths = [folder / "best.npz", *folder.glob("checkpoint.npz"), *(folder / "checkpoints").glob("*.npz")]
    found = {state.iteration: state for state in (load_state(path, configuration) for path in paths)}
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
    """What ``runs.train`` returned of a finished run.

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


def write_other_environment(folder: Path, iteration: int) -> None:
    """Write the environment of a session that goes on from an iteration, unless the session before had the same."""
    found, parts = environment(), ("versions", "machine")  # not the thread pools, which go by what is imported
    written = sorted(folder.glob("environment-*.json"), key=lambda path: (len(path.name), path.name))
    try:
        before = json.loads((written[-1] if written else folder / "environment.json").read_text(encoding="utf-8"))
        if all(before[part] == found[part] for part in parts):
            return
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # no such file any more, or damaged
        pass
    files.write_json(folder / f"environment-{iteration:06}.json", found)


@contextlib.contextmanager
def run_alone(folder: Path) -> Iterator[None]:
    """Refuse a folder that another process trains in, and keep others out."""
    with locked(folder / ".lock") as ours:
        if not ours:
            raise RunError(f"{folder}: another process trains in it; wait for that, or take another --output")
        yield


def check_folder(folder: Path, configuration: Configuration, resume: bool) -> None:
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


def append_metrics(path: Path, record: dict[str, Any]) -> None:
    """Add a line of JSON to the metrics of a run."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(files.strict(record)) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise files.ReportError(f"{path}: cannot be written: {error.strerror or error}") from None


def truncate_metrics(path: Path, iteration: int) -> None:
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
        files.write_bytes(path, "".join(json.dumps(record) + "\n" for record in kept).encode())
