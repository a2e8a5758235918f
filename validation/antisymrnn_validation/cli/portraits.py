"""portraits: Figure 1 and the figures beside it, or the portrait of one's own system."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from antisymrnn_validation.cli.command import (
    AS_EXPECTED,
    CONTRADICTED,
    Json,
    UsageError,
    check_writable,
    command,
    write_results,
)
from antisymrnn_validation.output import files, terminal
from antisymrnn_validation.output.terminal import Record

LARGEST_STEPS = 100_000
"""More points than a drawing can show."""

Output = Annotated[Path, typer.Option("--output", metavar="DIR", help="Folder for the figures, made if not there.")]


@command
def portraits(
    matrix: Annotated[
        str | None, typer.Option(metavar="'a b; c d'", help="In place of the paper's figures, the system of this W.")
    ] = None,
    start: Annotated[
        list[str] | None, typer.Option(metavar="x,y", help="Where it starts. May be repeated. Default: the paper's.")
    ] = None,
    step_size: Annotated[float | None, typer.Option(metavar="ε", help="Of forward Euler. Default: 0.1.")] = None,
    diffusion: Annotated[float | None, typer.Option(metavar="γ", help="W − γI is drawn. Default: 0.")] = None,
    steps: Annotated[int | None, typer.Option(metavar="T", help="Default: 50.")] = None,
    output: Output = Path("figures"),
    json: Json = None,
) -> int:
    """Draw Figure 1 of the paper and what it does not show.

    Beside it: forward Euler at several ε and the exact flow with their energies; the eigenvalues of D_t M of a real
    trajectory on the stability region; the limit cycle of W_diff. Or, with --matrix, a system of one's own. Each as PNG
    and SVG, the same bytes every time. The end states are compared with known ones.
    """
    check_writable(json)
    own = {"--start": start, "--step-size": step_size, "--diffusion": diffusion, "--steps": steps}
    if matrix is None and (given := [name for name, value in own.items() if value is not None]):
        raise UsageError(f"{given[0]}: expected with --matrix alone; the paper's figures have the paper's numbers")
    asked = None if matrix is None else _own_system(matrix, start, step_size, diffusion, steps)
    files.output_folder(output)
    from antisymrnn_validation.output import drawing
    from antisymrnn_validation.pictures import portraits as drawings

    began = time.perf_counter()
    if asked is None:
        pictures = drawings.figures()
        records = drawings.end_states()
    else:
        system, starts, T = asked
        pictures = drawings.own_figures(system, starts, T)
        records = [
            {"system": system.title, "start": list(a), "end": list(b), "known": None, "agrees": None}
            for a, b in zip(starts.tolist(), drawings.states(system, starts, T)[-1].tolist(), strict=True)
        ]
    paths, captions = drawing.write_all(output, pictures)
    terminal.show(_end_states_table(records))
    wrong = [record for record in records if record["agrees"] is False]
    line = f"portraits: {len(paths)} files in {output}"
    if asked is None:
        agreeing = sum(record["agrees"] is True for record in records)
        line += f"; {agreeing} of {agreeing + len(wrong)} end states as known, to six decimals"
    print(line)
    code = CONTRADICTED if wrong else AS_EXPECTED
    results = {"figures": captions, "files": [str(path) for path in paths], "end_states": records}
    write_results(json, line, code, began, {"command": "portraits", **results})
    return code


def _end_states_table(records: list[Record]) -> terminal.Table:
    def pair(values: Any) -> str:
        return "" if values is None else "({:.6f}, {:.6f})".format(*values)

    words = {True: "agrees", False: "DIFFERS", None: ""}
    shown = 5 if any(r["known"] for r in records) else 3
    columns = ("system", "start", "end state", "known", "to six decimals")[:shown]
    rows = [
        (r["system"], "({:g}, {:g})".format(*r["start"]), pair(r["end"]), pair(r["known"]), words[r["agrees"]])[:shown]
        for r in records
    ]
    return terminal.Table("End states", columns, rows, [r["agrees"] is False for r in records])


def _own_system(
    matrix: str, start: list[str] | None, step_size: float | None, diffusion: float | None, steps: int | None
) -> tuple[Any, Any, int]:
    """The system, the starts (starts, 2) and T that the options say, checked."""
    import numpy as np

    from antisymrnn_validation.pictures import portraits as drawings

    rows = [_floats("--matrix", row.replace(",", " ").split(), matrix) for row in matrix.split(";")]
    if [len(row) for row in rows] != [2, 2]:
        sizes = f"rows of {', '.join(str(len(row)) for row in rows)} numbers"
        raise UsageError(f"--matrix: expected two rows of two numbers such as '0 -2; 2 0', got {sizes}")
    starts = [_floats("--start", text.split(","), text) for text in start or []]
    for text, point in zip(start or [], starts, strict=True):
        if len(point) != 2:
            raise UsageError(f"--start: expected two numbers such as 0,0.5, got {text!r}")
    epsilon = drawings.STEP_SIZE if step_size is None else step_size
    gamma = 0.0 if diffusion is None else diffusion
    T = drawings.STEPS if steps is None else steps
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise UsageError(f"--step-size: expected a finite number above 0, got {epsilon}")
    if not (math.isfinite(gamma) and gamma >= 0):
        raise UsageError(f"--diffusion: expected a finite number from 0, got {gamma}")
    if not 1 <= T <= LARGEST_STEPS:
        raise UsageError(f"--steps: expected 1 to {LARGEST_STEPS}, got {T}")
    M = np.array(rows) - gamma * np.eye(2)
    system = drawings.System("W", f"W = [{matrix.strip()}], γ = {gamma:g}, ε = {epsilon:g}, T = {T}", M, epsilon)
    points = np.array(starts) if starts else drawings.STARTS
    if max(np.abs(M).max(), np.abs(points).max()) > 1e6:
        raise UsageError("--matrix and --start: expected numbers of at most a million")
    if (turns := epsilon * T * max(1.0, float(np.abs(M).max()))) > 1e3:
        raise UsageError(f"--steps: expected T ε max(1, |W|) of at most 1000 for the exact flow, got {turns:g}")
    return system, points, T


def _floats(option: str, parts: list[str], given: str) -> list[float]:
    try:
        found = [float(part) for part in parts]
    except ValueError:
        raise UsageError(f"{option}: expected numbers, got {given!r}") from None
    if not all(map(math.isfinite, found)):
        raise UsageError(f"{option}: expected finite numbers, got {given!r}")
    return found
