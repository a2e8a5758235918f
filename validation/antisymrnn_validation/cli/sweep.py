"""sweep: a grid of runs on the processes of a cluster."""

from __future__ import annotations

import itertools
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from antisymrnn_validation.cli.command import (
    AS_EXPECTED,
    CONTRADICTED,
    INTERRUPTED,
    Json,
    UsageError,
    check_writable,
    command,
    import_package,
    load_foreign,
    refuse_peer,
    write_results,
)
from antisymrnn_validation.cli.train import DataFolder
from antisymrnn_validation.output import files, terminal

if TYPE_CHECKING:
    from antisymrnn_validation.experiments.configuration import Configuration
    from antisymrnn_validation.experiments.results import Result
    from antisymrnn_validation.output.terminal import Record


@command
def sweep(
    grid: Annotated[
        Path, typer.Argument(metavar="GRID.toml", help="Fields of a configuration, each a value or a list.")
    ],
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: runs/ and the name of the grid.")] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Processes here; default: as many as processors, or points to run.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="tcp://HOST:PORT", help="A running scheduler of dask.")
    ] = None,
    data: DataFolder = None,
    summary: Annotated[bool, typer.Option("--summary", help="Show what is there; run nothing.")] = False,
    json: Json = None,
) -> int:
    """Train every point of a grid, into one folder; only what is missing is run.

    A grid is TOML: task = "digits", then on lines of their own fields of a run's config.json, such as
    step_size = [0.1, 0.3] and seed = [0, 1, 2].

    At the end, or with --summary alone: a table and a figure of the means over the seeds.
    """
    start = time.perf_counter()
    if scheduler and workers is not None:
        raise UsageError("--workers: expected it without --scheduler, whose workers are there already")
    check_writable(json)
    for package in ("dask.distributed", "matplotlib"):
        import_package(package, "validation")
    from antisymrnn_validation.experiments import cluster, results
    from antisymrnn_validation.experiments.sweep import GridError, read_grid

    folder = output or Path("runs") / grid.stem
    try:
        points = read_grid(grid)
        if not summary:
            files.output_folder(folder)
        with results.open_store(folder / results.FILE, create=not summary) as store:
            if not summary:
                _run(points, store, folder, workers, scheduler, data)
            records = results.records(store, points)
        groups = results.over_seeds(records)
        title = f"Sweep {grid.name}: mean ± standard deviation over the seeds"
        terminal.show(results.table(title, groups))
        for record in records:
            if record["status"] == "failed":
                print("failed", results.label(record["fields"], _named(records)), record["error"], sep=": ")
        print(*results.write_figure(folder, title, groups), sep="\n")
    except (GridError, results.StoreError, cluster.ClusterError) as error:
        raise UsageError(str(error)) from None
    except KeyboardInterrupt:
        print(f"antisymrnn sweep: interrupted; {folder} keeps what is done; the same command goes on", file=sys.stderr)
        return INTERRUPTED
    statuses = Counter(record["status"] for record in records)
    code = CONTRADICTED if statuses["failed"] else AS_EXPECTED
    tally = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
    line = f"sweep: {len(points)} points: {tally}; results in {folder / results.FILE}"
    content = {"command": "sweep", "points": records, "over_seeds": groups}
    write_results(json, line, code, start, content)
    print(line)
    return code


def _run(
    points: list[Configuration],
    store: sqlite3.Connection,
    folder: Path,
    workers: int | None,
    scheduler: str | None,
    data: Path | None,
) -> None:
    """Run what is missing of the grid."""
    from antisymrnn_validation.experiments import cluster, results, sweep
    from antisymrnn_validation.output.environment import usable_processors

    missing = results.missing(store, points)
    if len(missing) < len(points):
        print(f"{len(points) - len(missing)} of {len(points)} points have a result already")
    scratch = None if scheduler else folder.resolve() / ".unfinished"
    if scratch:
        sweep.forget(results.settled(store), scratch)  # if the last one was killed
    if not missing:
        return
    data = data and data.resolve()
    for backend in dict.fromkeys(point.backend for point in missing):
        refuse_peer(backend)
    if not scheduler:
        load_foreign(sweep.check_here, missing, data)
    count = min(len(missing), usable_processors()) if workers is None else workers
    print(f"waiting for the workers of {scheduler}" if scheduler else f"starting {count} workers", flush=True)
    with cluster.connected(count, scheduler) as client:
        if scheduler:
            load_foreign(client.submit(sweep.check_here, missing, data, pure=False).result)
        names = _named(results.records(store, points))
        with _progress(len(missing), names, client) as progress:
            sweep.run(client, missing, store, folder, data=data, scratch=scratch, progress=progress)


def _named(records: list[Record]) -> list[str]:
    """The fields that tell one point from another."""
    from antisymrnn_validation.experiments import results

    return [*results.varying(records), "seed"]


@contextmanager
def _progress(total: int, names: list[str], client: Any) -> Iterator[Callable[[Configuration, Result], None]]:
    """A bar on a terminal, a line for each point otherwise."""
    from antisymrnn_validation.experiments import cluster
    from antisymrnn_validation.experiments.results import label

    done = itertools.count(1)

    def line(point: Configuration, outcome: Result) -> str:
        trained = outcome.status == "done"
        said = f"validation accuracy {outcome.summary['validation_accuracy']:.2%}" if trained else outcome.error
        return f"{label(point._asdict(), names)}: {said}" + (f" ({outcome.note})" if outcome.note else "")

    if not sys.stderr.isatty():
        yield lambda point, outcome: print(f"{next(done)} of {total}  {line(point, outcome)}", flush=True)
        return
    import rich.console
    import rich.markup
    import rich.progress as bars

    columns = (
        bars.BarColumn(20),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
        bars.TextColumn("left"),
        bars.TextColumn("{task.description}"),
    )
    with bars.Progress(*columns, console=rich.console.Console(stderr=True), transient=True) as bar:

        def running(finished: int) -> str:
            try:
                workers = sum(client.nthreads().values())
            except (OSError, AttributeError) as error:  # the second of a client that has given up
                raise cluster.lost(error) from None
            return f"{min(total - finished, workers)} running"

        shown = bar.add_task(running(0), total=total)

        def update(point: Configuration, outcome: Result) -> None:
            finished = next(done)
            told = rich.markup.escape(line(point, outcome))
            bar.update(shown, completed=finished, description=f"{running(finished)}  {told}")

        yield update
