"""The results of a sweep: one SQLite file, the folders of the runs beside it, a table and a figure over the seeds."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from antisymrnn_validation.experiments.configuration import Configuration
from antisymrnn_validation.experiments.folder import RunError, fingerprint_of, load_state
from antisymrnn_validation.output.files import strict, write_folder
from antisymrnn_validation.output.terminal import Record, Table

VERSION = 1
"""Of the layout of the file."""

FILE = "sweep.sqlite"

RESULTS = ("done", "diverged")
"""Statuses that another attempt would not change; the others are ``failed`` and, without a row, ``waiting``."""

NUMBERS = ("test_accuracy", "test_loss", "validation_accuracy", "seconds")
"""The numbers of a summary that are averaged over the seeds."""

COUNTS = ("iterations", "iterations_timed")
"""Of a summary, what says how much of it ``seconds`` is the time of."""

_APPLICATION = 0x61737277
_LAYOUT = f"""
BEGIN;
CREATE TABLE IF NOT EXISTS points (
    fingerprint TEXT PRIMARY KEY,
    fields TEXT NOT NULL,
    status TEXT NOT NULL,
    summary TEXT NOT NULL,
    error TEXT NOT NULL,
    digest TEXT NOT NULL,
    worker TEXT NOT NULL,
    folder TEXT NOT NULL
);
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {VERSION};
COMMIT;
"""


class StoreError(ValueError):
    """A file of results that cannot be used, or a row of it; the message says what was expected and what was found."""


class Result(NamedTuple):
    """The result of a point.

    Attributes
    ----------
    status : str
        ``done``, ``diverged`` or ``failed``.
    summary : dict
        As :func:`runs.train` returns it; empty if not done.
    error : str
        Why it is not done.
    digest : str
        Of the parameters at the last checkpoint, see :func:`digest`.
    worker : str
        Where it was trained.
    files : dict
        The folder of the run: contents by name.
    note : str
        What else the user should know; it is not kept.
    """

    status: str
    summary: Mapping[str, Any] = MappingProxyType({})
    error: str = ""
    digest: str = ""
    worker: str = ""
    files: Mapping[str, bytes] = MappingProxyType({})
    note: str = ""


@contextlib.contextmanager
def open_store(path: Path, *, create: bool) -> Iterator[sqlite3.Connection]:
    """The file of results, each of whose statements is a transaction.

    Parameters
    ----------
    path : Path
    create : bool
        Make one that is not there.

    Raises
    ------
    StoreError
        If there is none, if it is another database or of another version, or if it cannot be read or written while it
        is open.
    """
    if not create and not path.exists():
        raise StoreError(f"{path}: expected the results of a sweep, got nothing; run the sweep without --summary first")
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as store:
            found = tuple(store.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
            if create and found == (0, 0) and not store.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                store.executescript(_LAYOUT)
            elif found[0] != _APPLICATION:
                raise StoreError(f"{path}: expected the results of a sweep, got another SQLite database")
            elif found[1] != VERSION:
                raise StoreError(f"{path}: expected results of version {VERSION}, got version {found[1]}")
            yield store
    except sqlite3.Error as error:
        raise StoreError(f"{path}: cannot be used as the results of a sweep: {error}") from None


def digest(folder: Path, configuration: Configuration) -> str:
    """SHA-256 of all parameters in the last checkpoint of a run, cell then readout; empty if there is none yet.

    Raises
    ------
    RunError
        As :func:`folder.load_state`, for a checkpoint that is there and cannot be used.
    """
    path = folder / "checkpoint.npz"
    if not path.exists():
        return ""
    state = load_state(path, configuration)
    return hashlib.sha256(b"".join(array.tobytes() for array in (*state.cell, *state.layer))).hexdigest()


def keep(store: sqlite3.Connection, folder: Path, configuration: Configuration, outcome: Result) -> Result:
    """Write the folder of a run, then its row.

    Parameters
    ----------
    store : Connection
    folder : Path
        The folder of the run becomes one in it, named after task and fingerprint.
    configuration : Configuration
    outcome : Result

    Returns
    -------
    Result
        The same; or, if a folder that is there already has other parameters or is no such run, a failure that says
        so. That folder stays as it is.

    Raises
    ------
    ReportError
        If a file cannot be written.
    """
    fingerprint = fingerprint_of(configuration)
    target = folder / f"{configuration.task}-{fingerprint[:16]}"
    if outcome.files and not target.exists():
        write_folder(target, outcome.files)
    elif outcome.files:
        try:
            held = digest(target, configuration)
        except RunError as error:
            outcome = Result("failed", error=str(error), worker=outcome.worker)
        else:
            if held != outcome.digest:
                said = f"{target}: expected parameters with SHA-256 {held}, as a run before had, got {outcome.digest}"
                outcome = Result("failed", error=said, worker=outcome.worker)
    columns = {
        "fingerprint": fingerprint,
        "fields": json.dumps(configuration._asdict()),
        "status": outcome.status,
        "summary": json.dumps(strict(outcome.summary)),
        "error": outcome.error,
        "digest": outcome.digest,
        "worker": outcome.worker,
        "folder": target.name if target.exists() else "",
    }
    changed = ", ".join(f"{name} = excluded.{name}" for name in columns)
    store.execute(
        f"INSERT INTO points ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) "
        f"ON CONFLICT (fingerprint) DO UPDATE SET {changed} WHERE status NOT IN ({', '.join('?' * len(RESULTS))})",
        (*columns.values(), *RESULTS),
    )
    return outcome


def records(store: sqlite3.Connection, grid: Sequence[Configuration]) -> list[Record]:
    """What is known of each point of a grid: its ``fields``, ``status``, ``summary``, and what else a row has.

    Raises
    ------
    StoreError
        If a point is done and lacks one of ``NUMBERS`` or ``COUNTS``.
    """
    names = ("fingerprint", "status", "summary", "error", "digest", "worker", "folder")
    rows = {row[0]: row for row in store.execute(f"SELECT {', '.join(names)} FROM points")}
    found = []
    for point in grid:
        fingerprint = fingerprint_of(point)
        row = rows.get(fingerprint, (fingerprint, "waiting", "{}", "", "", "", ""))
        record = dict(zip(names, row, strict=True)) | {"fields": point._asdict()}
        try:
            record["summary"] = json.loads(record["summary"])
            if record["status"] == "done":
                record["summary"] |= {name: float(record["summary"][name]) for name in NUMBERS}
                record["summary"] |= {name: int(record["summary"][name]) for name in COUNTS}
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise StoreError(
                f"results of {fingerprint}: expected a summary with {', '.join((*NUMBERS, *COUNTS))}: {error!r}"
            ) from None
        found.append(record)
    return found


def missing(store: sqlite3.Connection, grid: Sequence[Configuration]) -> list[Configuration]:
    """The points of a grid that have no result yet, or failed."""
    known = [record["status"] in RESULTS for record in records(store, grid)]
    return [point for point, there in zip(grid, known, strict=True) if not there]


def settled(store: sqlite3.Connection) -> list[str]:
    """The fingerprints of all points, of any grid, that have a result."""
    marks = ", ".join("?" * len(RESULTS))
    return [row[0] for row in store.execute(f"SELECT fingerprint FROM points WHERE status IN ({marks})", RESULTS)]


def label(fields: Mapping[str, Any], names: Sequence[str]) -> str:
    """Some fields by name, in one line."""
    return ", ".join(f"{name} {fields[name]}" for name in names)


def varying(records: Sequence[Record]) -> list[str]:
    """The fields that have more than one value, but for the seed."""
    fields = [name for name in Configuration._fields if name != "seed"]
    return [name for name in fields if len({record["fields"][name] for record in records}) > 1]


def over_seeds(records: Sequence[Record]) -> list[Record]:
    """Points that are equal but for the seed, as one record each.

    Returns
    -------
    list of dict
        ``fields`` that vary, ``statuses`` (how many points of each), and, over the points that are done,
        ``test_accuracy``, ``test_loss``, ``validation_accuracy`` and ``seconds`` (of those alone that were trained in
        one go), each with ``mean`` and ``spread``, the sample standard deviation, or None where there are too few.
    """
    names = varying(records)
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(record["fields"][name] for name in names), []).append(record)
    return [
        {
            "fields": dict(zip(names, values, strict=True)),
            "statuses": dict(Counter(record["status"] for record in group)),
            **{name: _mean_and_spread(_values(name, group)) for name in NUMBERS},
        }
        for values, group in groups.items()
    ]


def table(title: str, groups: Sequence[Record]) -> Table:
    """One row for each record of :func:`over_seeds`: mean ± sample standard deviation."""
    columns = (*groups[0]["fields"], "done", "not done", "test accuracy, %", "validation, %", "test loss", "seconds")
    rows = []
    for group in groups:
        statuses = group["statuses"]
        total = sum(statuses.values())
        others = ", ".join(f"{count} {status}" for status, count in statuses.items() if status != "done")
        numbers = (_told(group[name], scale, form) for name, scale, form in _COLUMNS)
        rows.append((*map(str, group["fields"].values()), f"{statuses.get('done', 0)} of {total}", others, *numbers))
    return Table(title, columns, rows, ["failed" in group["statuses"] for group in groups])


def write_figure(folder: Path, title: str, groups: Sequence[Record]) -> list[Path]:
    """Draw test accuracy, mean and spread over the seeds, into ``sweep.png`` and ``sweep.svg``.

    The axis is the numeric field with the most values, points that differ in other fields are other series; where no
    field is numeric, each point has a place of its own.
    """
    from antisymrnn_validation.output import drawing

    values = {name: list(dict.fromkeys(group["fields"][name] for group in groups)) for name in groups[0]["fields"]}
    numeric = [name for name in values if all(type(value) in (int, float) for value in values[name])]
    along = max(numeric, key=lambda name: len(values[name]), default="")
    series: dict[str, list[Record]] = {}
    for group in groups:
        others = [name for name in values if name != along]
        series.setdefault(label(group["fields"], others), []).append(group)

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        for k, (name, members) in enumerate(series.items()):
            done = [member for member in members if member["test_accuracy"]["mean"] is not None]
            done.sort(key=lambda member: member["fields"].get(along, 0))
            places = [member["fields"].get(along, k) for member in done]
            means = [100 * member["test_accuracy"]["mean"] for member in done]
            spreads = [100 * (member["test_accuracy"]["spread"] or 0.0) for member in done]
            axis.errorbar(places, means, spreads, label=name, markersize=4, capsize=3, **drawing.series(k))
        if along and min(values[along]) > 0 and max(values[along]) >= 10 * min(values[along]):
            axis.set_xscale("log")
        axis.set(xlabel=along, ylabel="test accuracy, %", title=drawing.plain(title))
        if not along:
            axis.set_xticks(range(len(series)), [name.replace(", ", "\n") for name in series])
            axis.set_xlim(-0.5, len(series) - 0.5)
        elif any(series):
            axis.legend()

    return drawing.write(folder, "sweep", drawing.render(draw, 6.4, 4.0))


_COLUMNS = (
    ("test_accuracy", 100, ".2f"),
    ("validation_accuracy", 100, ".2f"),
    ("test_loss", 1, ".4f"),
    ("seconds", 1, ".1f"),
)


def _told(number: dict[str, float | None], scale: float, form: str) -> str:
    mean, spread = number["mean"], number["spread"]
    if mean is None:
        return ""
    return f"{scale * mean:{form}}" + ("" if spread is None else f" ± {scale * spread:{form}}")


def _values(name: str, group: Sequence[Record]) -> list[float]:
    """A number of each point that is done; seconds only where they are of all its iterations."""
    done = [record["summary"] for record in group if record["status"] == "done"]
    if name == "seconds":
        done = [summary for summary in done if summary["iterations_timed"] == summary["iterations"]]
    return [summary[name] for summary in done]


def _mean_and_spread(values: Sequence[float]) -> dict[str, float | None]:
    return {
        "mean": statistics.fmean(values) if values else None,
        "spread": statistics.stdev(values) if len(values) > 1 else None,
    }
