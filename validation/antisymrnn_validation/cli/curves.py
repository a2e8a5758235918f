"""curves: loss and accuracy of runs in one figure."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from antisymrnn_validation.cli.command import (
    AS_EXPECTED,
    Json,
    UsageError,
    check_writable,
    command,
    import_package,
    write_results,
)
from antisymrnn_validation.output import files


@command
def curves(
    run: Annotated[list[Path], typer.Argument(metavar="RUN...")],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where curves.png and curves.svg go.")] = Path("."),
    json: Json = None,
) -> int:
    """Draw loss and accuracy of runs into one figure."""
    check_writable(json)
    start = time.perf_counter()
    import_package("matplotlib", "validation")
    from antisymrnn_validation.experiments import runs
    from antisymrnn_validation.experiments.folder import RunError, metrics_of

    try:
        records = [{"folder": str(folder), "metrics": metrics_of(folder)} for folder in run]
        paths = runs.write_curves(files.output_folder(output), run)
    except RunError as error:
        raise UsageError(str(error)) from None
    print(*paths, sep="\n")
    line = f"curves: {len(run)} runs"
    content = {"command": "curves", "files": [str(path) for path in paths], "runs": records}
    write_results(json, line, AS_EXPECTED, start, content)
    return AS_EXPECTED
