"""A sweep is every point of a grid of configurations, each a run of its own, spread over the workers of a cluster.

A worker trains in a folder that no other process has, on its own machine, and sends the finished run to the client. The
client alone writes the results: the folder of the run, whole or not at all, then its row in ``sweep.sqlite``; only then
is the worker's folder removed. A point whose worker was killed goes on from its checkpoint where another worker finds
that, or begins anew: the bits are the same. No file system needs to be shared.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import secrets
import shutil
import sqlite3
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

from dask.distributed import Client, as_completed, fire_and_forget, get_worker, wait

from antisymrnn_ref import load_backend
from antisymrnn_validation.experiments import cluster, results, runs, tasks, training
from antisymrnn_validation.experiments.configuration import (
    SYNONYMS,
    TYPES,
    Configuration,
    check_configuration,
    check_type,
    default_configuration,
)
from antisymrnn_validation.experiments.folder import RunError, fingerprint_of, locked
from antisymrnn_validation.experiments.results import Result
from antisymrnn_validation.output.names import did_you_mean
from antisymrnn_validation.output.terminal import reason

LARGEST = 10_000
"""Points that a grid may have."""


class GridError(ValueError):
    """A grid that cannot be run; the message names the file and the key, what was expected and what was given."""


class Unwanted(Exception):
    """Nobody waits any more for what a worker trains."""


def read_grid(path: Path) -> list[Configuration]:
    """The points of a grid.

    Parameters
    ----------
    path : Path
        TOML. Its keys are fields of :class:`~antisymrnn_validation.experiments.configuration.Configuration`,
        ``task`` among them; each has a value or a list of values. What is not there is chosen for the task,
        as ``train`` does.

    Returns
    -------
    list of Configuration
        Every combination, the values of the last key following each other the fastest.

    Raises
    ------
    GridError
        If the file cannot be read, a key or a value cannot be used, a value stands there twice, a combination cannot be
        trained, or there are more than ``LARGEST``.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GridError(f"{path}: expected a grid in TOML: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, or not TOML
        raise GridError(f"{path}: expected a grid in TOML: {error}") from None
    if "task" not in table:
        raise GridError(f'{path}: expected a task, such as task = "digits"')
    choices = [_choices(path, name, value) for name, value in table.items()]
    count = math.prod(map(len, choices))
    if count > LARGEST:
        product = " × ".join(f"{len(values)} {name}" for name, values in zip(table, choices, strict=True))
        raise GridError(f"{path}: expected at most {LARGEST} points, got {product} = {count}")
    return [_point(path, dict(zip(table, values, strict=True))) for values in itertools.product(*choices)]


def check_here(grid: Sequence[Configuration], data: Path | None) -> None:
    """Load every backend and every task of a grid in this process.

    Raises
    ------
    ImportError, TypeError, ValueError
        If there is one that cannot be had; the message says why.
    """
    for backend in dict.fromkeys(point.backend for point in grid):
        load_backend(backend)
    for task in dict.fromkeys(point.task for point in grid):
        tasks.data_of(task, data)


def run(
    client: Client,
    grid: Sequence[Configuration],
    store: sqlite3.Connection,
    folder: Path,
    *,
    data: Path | None = None,
    scratch: Path | None = None,
    progress: Callable[[Configuration, Result], None] = lambda *_: None,
) -> None:
    """Train the points that have no result yet.

    Parameters
    ----------
    client : Client
    grid : sequence of Configuration
    store : Connection
        Of :func:`results.open_store`; only this process writes to it.
    folder : Path
        Where the folders of the runs go.
    data : Path, optional
        Folder with the files of the tasks, by this name on every machine.
    scratch : Path, optional
        Folder of unfinished runs, for workers on this machine; without it each worker has one beside its own files.
    progress : callable
        Called with each point as its result is kept.

    Raises
    ------
    ClusterError
        If the scheduler is lost. What was kept stays.
    ReportError, StoreError
        If a result cannot be written.
    """
    futures = {client.submit(_train, point, data, scratch, pure=False): point for point in grid}
    removals = []
    try:
        for future in as_completed(futures):
            point = futures.pop(future)
            try:
                outcome = future.result()
            except CancelledError as error:
                raise cluster.lost(error) from None
            except Exception as error:  # noqa: BLE001  of a backend, or of a worker that was lost too often: this point's result
                outcome = Result("failed", error=reason(error))
            kept = results.keep(store, folder, point, outcome)
            if kept.files and scratch:
                forget([fingerprint_of(point)], scratch)
            elif kept.files:
                where = {"workers": [outcome.worker], "allow_other_workers": True}
                removals.append(client.submit(_forget_there, fingerprint_of(point), pure=False, priority=1, **where))
                fire_and_forget(removals[-1])
            progress(point, kept)
        if removals:
            with contextlib.suppress(OSError, CancelledError):  # late, or lost: what stays is in nobody's way
                wait(removals, timeout=cluster.TIMEOUT)
    finally:
        with contextlib.suppress(Exception):  # a scheduler that is lost
            client.cancel(list(futures))


def forget(fingerprints: Sequence[str], scratch: Path) -> None:
    """Remove the folders of points whose results are kept from one of unfinished runs, unless a process is there."""
    for fingerprint in fingerprints:
        if (scratch / fingerprint).exists():
            with locked(scratch / f"{fingerprint}.lock") as ours:
                if ours:
                    shutil.rmtree(scratch / fingerprint, ignore_errors=True)  # what stays is in nobody's way


def _train(configuration: Configuration, data: Path | None, scratch: Path | None) -> Result:
    """Train one point, on a worker."""
    worker = get_worker()
    key = worker.get_current_task()

    def unwanted(*_: Any) -> None:
        task = worker.state.tasks.get(key)
        if task is None or task.state != "executing":
            raise Unwanted(f"{key} was cancelled")

    content, backend = tasks.data_of(configuration.task, data), load_backend(configuration.backend)

    def trained() -> dict[str, Any]:
        return runs.train(folder, configuration, content, backend, resume=True, progress=unwanted, evaluating=unwanted)

    with _owned(_place(worker, scratch), fingerprint_of(configuration)) as folder:
        error, summary, note, leftover = "", {}, "", folder.exists()
        try:
            try:
                summary = trained()
            except RunError as unusable:
                if not leftover:
                    raise
                aside = folder.with_name(f"{folder.name}.unusable-{secrets.token_hex(4)}")
                folder.rename(aside)
                note = f"it began anew: {unusable}; that is {aside} now"
                summary = trained()
        except training.Diverged as diverged:
            error = str(diverged)
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != ".lock"}
        digest = results.digest(folder, configuration)
        return Result("diverged" if error else "done", summary, error, digest, worker.address, files, note)


@contextlib.contextmanager
def _owned(place: Path, name: str) -> Iterator[Path]:
    """The folder of a run, which may have a checkpoint, or a fresh one while another process is at that.

    The former stays until :func:`forget`, the fresh one is gone at the end. The lock ends with the process that holds
    it; its empty file stays.
    """
    place.mkdir(parents=True, exist_ok=True)
    with locked(place / f"{name}.lock") as ours:
        if not ours:
            with tempfile.TemporaryDirectory(prefix=name, dir=place) as fresh:
                yield Path(fresh)
            return
        yield place / name


def _forget_there(fingerprint: str) -> None:
    """:func:`forget` on a worker."""
    forget([fingerprint], _place(get_worker(), None))


def _place(worker: Any, scratch: Path | None) -> Path:
    """Where the folders of runs are while a worker trains."""
    return scratch or Path(worker.local_directory).parent / "antisymrnn-unfinished"


def _choices(path: Path, name: str, value: Any) -> list[Any]:
    """The values of one key, in the type of the field."""
    fields = Configuration._fields
    if name not in fields:
        hint = did_you_mean(name, fields, synonyms=SYNONYMS) or f"; the fields are {', '.join(fields)}"
        raise GridError(f"{path}: expected fields of a configuration, got {name!r}{hint}")
    kind = TYPES[name]
    values = value if isinstance(value, list) else [value]
    try:
        for each in values:
            check_type(name, each)
        values = [kind(each) for each in values]
    except ValueError as error:
        raise GridError(f"{path}: {error}") from None
    except OverflowError as error:
        raise GridError(f"{path}: {name}: {error}") from None
    if not values or len(set(values)) < len(values):
        raise GridError(f"{path}: {name}: expected at least one value, each once, got {value}")
    return values


def _point(path: Path, given: dict[str, Any]) -> Configuration:
    configuration = default_configuration(given["task"])._replace(**given)
    try:
        tasks.check_name(configuration.task)
        check_configuration(configuration)
    except ValueError as error:
        raise GridError(f"{path}: {error}; in the point {given}") from None
    return configuration
