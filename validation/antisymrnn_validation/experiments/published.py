"""The paper's two tables of test accuracies, and what our recorded runs say of each of their cells.

A recorded run is the folder of a finished run in ``recorded/``, with its best checkpoint: ``antisymrnn evaluate`` gives
whoever has the data its accuracy again. The checkpoints are in a checkout alone: a wheel is built without them.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from antisymrnn_validation.experiments.configuration import Configuration
from antisymrnn_validation.experiments.folder import RunError, command_of, configuration_of, summary_of
from antisymrnn_validation.output.files import json_text, write_folder
from antisymrnn_validation.output.terminal import Record

RECORDED = Path(__file__).parent / "recorded"
FILES = ("config.json", "environment.json", "metrics.jsonl", "best.npz")
"""Of a run, what is recorded beside its summary and the environments of later sessions."""

SIZE = 10_000
"""Samples in the test set of each of the four tasks."""

DEVIATIONS = 3
"""How many standard errors of a test set of SIZE our mean may lie below the published number."""


class Cell(NamedTuple):
    """A test accuracy of the paper.

    Attributes
    ----------
    table : str
    task : str
    cell : str
        ``antisymmetric`` or ``gated``.
    unconstrained : bool
        The ablation: equation (13) with W as it is.
    units : int
    accuracy : float
        In percent: a single number, without seeds or deviation.
    iterations, batch : int
        That the paper trained for, and sequences of each; unconfirmed.
    """

    table: str
    task: str
    cell: str
    unconstrained: bool
    units: int
    accuracy: float
    iterations: int
    batch: int = 128


CELLS = (
    Cell("Table 1", "mnist", "antisymmetric", False, 128, 98.0, 50_000),
    Cell("Table 1", "mnist", "gated", False, 128, 98.8, 50_000),
    Cell("Table 1", "pmnist", "antisymmetric", False, 128, 95.8, 50_000),
    Cell("Table 1", "pmnist", "gated", False, 128, 93.1, 50_000),
    Cell("Table 2", "cifar", "antisymmetric", False, 256, 58.7, 50_000),
    Cell("Table 2", "cifar", "gated", False, 256, 62.2, 50_000),
    Cell("Table 2", "cifar", "gated", True, 196, 54.6, 50_000),
    Cell("Table 2", "noise-padded", "antisymmetric", False, 256, 48.3, 10_000),
    Cell("Table 2", "noise-padded", "gated", False, 256, 54.7, 10_000),
    Cell("Table 2", "noise-padded", "gated", True, 196, 46.2, 10_000),
)


class Verdict(StrEnum):
    """What our runs say of a published accuracy."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    NOT_RUN = "not run"


def verdict(published: float, accuracies: list[float]) -> Verdict:
    """Whether the mean reaches a published accuracy, less DEVIATIONS standard errors of the published test.

    Parameters
    ----------
    published : float
        In percent.
    accuracies : list of float
        Of our runs, in percent; empty if there is none.
    """
    if not accuracies:
        return Verdict.NOT_RUN
    p = published / 100
    allowance = 100 * DEVIATIONS * math.sqrt(p * (1 - p) / SIZE)
    return Verdict.REPRODUCED if sum(accuracies) / len(accuracies) >= published - allowance else Verdict.NOT_REPRODUCED


def decide(folder: Path = RECORDED) -> list[Record]:
    """One record for each cell: its fields, the runs that bear on it, their accuracies in percent, and the verdict.

    Raises
    ------
    RunError
        If the configuration or the summary of a recorded run is missing or damaged, or it bears on no cell.
    """
    folders = [path for path in sorted(folder.glob("[!.]*")) if path.is_dir()]  # .…: what a killed process left
    recorded = [(path, configuration_of(path), summary_of(path, date=str)) for path in folders]
    for path, configuration, _ in recorded:
        _check_cell(path, configuration)
    records: list[Record] = []
    for cell in CELLS:
        told = [
            {
                "name": path.name,
                "seed": configuration.seed,
                "date": summary["date"],
                "iterations": summary["iterations"],
                "batch": configuration.batch,
                "accuracy": 100 * summary["test_accuracy"],
                "command": command_of(configuration),
            }
            for path, configuration, summary in recorded
            if _is_of(configuration, cell)
        ]
        found = verdict(cell.accuracy, [run["accuracy"] for run in told])
        records.append({"name": _name(cell), **cell._asdict(), "runs": told, "verdict": str(found)})
    return records


def record(run: Path, folder: Path = RECORDED) -> Path:
    """Keep a finished run: its files, of the checkpoints the best one, and the date in the summary.

    Returns
    -------
    Path
        Its new folder, named after task, cell and seed.

    Raises
    ------
    RunError
        If the run is not finished, lacks a file or bears on no cell, or one of this name is recorded already.
    ReportError
        If it cannot be written.
    """
    configuration, summary = configuration_of(run), summary_of(run)
    _check_cell(run, configuration)
    date = datetime.fromtimestamp((run / "summary.json").stat().st_mtime, UTC).date().isoformat()
    kept = folder / f"{_name(configuration)}-seed{configuration.seed}"
    if kept.exists():
        raise RunError(f"{kept}: expected no recorded run of this name; remove it to put another in its place")
    try:
        names = (*FILES, *(path.name for path in run.glob("environment-*.json")))
        files = {name: (run / name).read_bytes() for name in names}
    except OSError as error:
        raise RunError(f"{run}: expected a finished run: {error}") from None
    files["summary.json"] = json_text({**summary, "date": date}).encode()
    write_folder(kept, files)
    return kept


def _is_of(configuration: Configuration, cell: Cell) -> bool:
    """Whether a run has the model of a cell, its parameter count included."""
    keys = ("task", "cell", "unconstrained", "units")
    return not configuration.full and all(getattr(configuration, key) == getattr(cell, key) for key in keys)


def _check_cell(path: Path, configuration: Configuration) -> None:
    if not any(_is_of(configuration, cell) for cell in CELLS):
        raise RunError(f"{path}: expected a run of a cell of the paper's tables, got another task, cell or size")


def _name(cell: Cell | Configuration) -> str:
    return f"{cell.task}-{'unconstrained' if cell.unconstrained else cell.cell}"
