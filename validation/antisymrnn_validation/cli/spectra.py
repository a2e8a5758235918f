"""spectra: eigenvalues and singular values of end-to-end Jacobians, and norms of gradients."""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from antisymrnn_validation.cli.command import (
    AS_EXPECTED,
    Json,
    Quick,
    UsageError,
    check_writable,
    command,
    write_results,
)
from antisymrnn_validation.output import files, terminal
from antisymrnn_validation.output.terminal import Record

if TYPE_CHECKING:
    from antisymrnn_validation.pictures.spectra import Moments, Spectrum, Training

TABLE_T = 800
"""T of the known table."""


@command
def spectra(
    run: Annotated[
        list[Path] | None,
        typer.Option("--run", metavar="RUN", help="Trained parameters, of a folder of train. May be repeated."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DIR", help="Folder with CIFAR-10, or what a RUN needs. Default: ANTISYMRNN_DATA."
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Folder of the figures.")] = Path("figures"),
    units: Annotated[int | None, typer.Option(metavar="N", help="Hidden units, without --run. Default: 64.")] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", help="Draws in the table, without --run. Default: 3.")
    ] = None,
    lengths: Annotated[str, typer.Option(metavar="T,T", help="Lengths T.")] = "100,200,400,800,1600",
    quick: Quick = False,
    json: Json = None,
) -> int:
    """Draw spectra of end-to-end Jacobians and norms of gradients.

    Against T, mean and deviation of |λ| and the singular values of ∂h_T/∂h_0 inside their provable band; against t,
    ‖∂L/∂h_t‖; of six untrained recurrences and over the grid of ε and γ, and a table of untrained spectra on noise
    beside known values. With --run, of the best parameters of each run, and |λ| over its training, as far as train
    --keep has kept it. The input is the first test image, by rows, followed by noise: of CIFAR-10 where there is some,
    else a bundled digit; of a run, that of its task.
    """
    check_writable(json)
    began = time.perf_counter()
    try:
        T = sorted({int(text) for text in lengths.split(",")})
    except ValueError:
        raise UsageError(f"--lengths: expected whole numbers with commas between, got {lengths!r}") from None
    if run and (also := [name for name, value in (("--units", units), ("--seeds", seeds)) if value is not None]):
        raise UsageError(f"{also[0]}: expected without --run, which has its own")
    units, seeds = 64 if units is None else units, 3 if seeds is None else seeds
    for name, least in (("--lengths", T[0]), ("--units", units), ("--seeds", seeds)):
        if least < 1:
            raise UsageError(f"{name}: expected at least 1, got {least}")
    if quick:
        T, units, seeds = sorted({max(1, t // 8) for t in T}), min(units, 16), 1
    from antisymrnn_validation.output import drawing

    if not run:
        _check_memory(units, T[-1])
    files.output_folder(output)
    content, pictures = _trained(run, data, T) if run else _untrained(data, units, seeds, T)
    paths, captions = drawing.write_all(output, pictures)
    line = f"spectra: {len(paths)} files in {output}"
    print(line)
    head = {"command": "spectra", "quick": quick, "T": T, "figures": captions, "files": [str(path) for path in paths]}
    write_results(json, line, AS_EXPECTED, began, head | content)
    return AS_EXPECTED


def _untrained(data: Path | None, units: int, seeds: int, T: list[int]) -> tuple[Record, Any]:
    """What the JSON file holds of the drawn recurrences, and their pictures; the table is shown."""
    from antisymrnn_validation.pictures import recurrences
    from antisymrnn_validation.pictures import spectra as drawings

    x, told = _image(data, T[-1])
    told = f"Untrained, n = {units}. {told}"
    print(told)
    table = _table(units, seeds, min(T[-1], TABLE_T))
    found = drawings.spectra([(each, x) for each in recurrences.drawn(units, x.shape[1])], T)
    grid = drawings.grid(units, x, T)
    curves = [{"step_size": eps, "diffusion": gamma, **_curve(each)} for (eps, gamma), each in grid.items()]
    content = {"units": units, "seeds": seeds, "input": told, "untrained": table, "grid": curves}
    return content | _spectra(found), drawings.figures(found, told) | drawings.grid_figure(grid, told)


def _trained(folders: list[Path], data: Path | None, T: list[int]) -> tuple[Record, Any]:
    """The same of the runs."""
    from antisymrnn_validation.experiments import runs
    from antisymrnn_validation.pictures import spectra as drawings

    folders = list(dict.fromkeys(folders))
    try:
        trained = [_run(folder, name, data, T[-1]) for name, folder in zip(runs.labels(folders), folders, strict=True)]
    except ValueError as error:
        raise UsageError(str(error)) from None
    told = "Trained. Input: first test image of the task, where T is longer followed by noise"
    found = drawings.spectra([(run.by_iteration[run.best], run.x) for run in trained], T)
    over = drawings.over_training(trained, T)
    content = {"runs": [str(folder) for folder in folders], "input": told, **_spectra(found)}
    content["training"] = [
        {"run": name, "T": t, "iteration": each.at, "mean": each.mean, "deviation": each.deviation}
        for name, by_length in over.items()
        for t, each in by_length.items()
    ]
    return content, drawings.figures(found, told) | drawings.training_figure(over, told)


def _run(folder: Path, name: str, data: Path | None, T: int) -> Training:
    """A run with all its kept parameters and those it began with."""
    import numpy as np

    from antisymrnn_validation.experiments import tasks, training
    from antisymrnn_validation.experiments.folder import configuration_of, states_of
    from antisymrnn_validation.pictures.recurrences import of_state
    from antisymrnn_validation.pictures.spectra import Training

    configuration = configuration_of(folder)
    _check_memory(configuration.units, T)
    kept = states_of(folder, configuration)
    pixels = tasks.first_test_sample(configuration.task, data or _data_of_environment())
    x = tasks.followed_by_noise(pixels, T, np.random.default_rng(0))
    first = training.initial(configuration, x.shape[1], len(kept[-1].layer.bias))
    by_iteration = {
        state.iteration: of_state(f"{name}, iteration {state.iteration}", configuration, state)
        for state in (first, *kept)
    }
    return Training(name, x, by_iteration, kept[-1].best_iteration)


def _check_memory(n: int, T: int) -> None:
    from antisymrnn_validation.output.environment import memory_bytes

    if 8 * (300 * T + 8 * math.isqrt(T) * (2 * n) ** 2) > memory_bytes() / 2:
        raise UsageError(f"--lengths, --units: n = {n}, T = {T} does not fit into the memory; take smaller ones")


def _image(data: Path | None, T: int) -> tuple[Any, str]:
    """The input (T, m) and what it is; CIFAR-10 must be in a folder that is named, and may be in the environment's."""
    from antisymrnn_validation.experiments import tasks
    from antisymrnn_validation.pictures import spectra as drawings

    if where := data or _data_of_environment():
        try:
            pixels = tasks.first_test_sample("noise-padded", where)
        except ValueError as error:
            if data:
                raise UsageError(f"--data: {error}") from None
            print(f"antisymrnn spectra: ANTISYMRNN_DATA: {error}; a bundled digit is taken", file=sys.stderr)
        else:
            return drawings.padded(pixels, "the first test image of CIFAR-10", T)
    return drawings.padded(tasks.first_digit_rows(), drawings.DIGIT, T)


def _data_of_environment() -> Path | None:
    folder = os.environ.get("ANTISYMRNN_DATA")
    return Path(folder) if folder else None


def _table(units: int, seeds: int, T: int) -> list[Record]:
    """Show the table of untrained spectra on Gaussian noise beside the known one; its records."""
    import numpy as np

    from antisymrnn_validation.pictures import spectra as drawings

    x = np.random.default_rng(0).standard_normal((T, 96))
    rows, records = [], []
    with terminal.progress(len(drawings.UNTRAINED)) as begin:
        for (eps, gamma), known in drawings.UNTRAINED.items():
            begin(f"table, ε = {eps:g}, γ = {gamma:g}")
            drawn = [
                drawings.moments(drawings.antisymmetric(units, 96, eps, gamma, seed), x, [T]) for seed in range(seeds)
            ]
            told = [(each.mean[0], each.deviation[0]) for each in drawn]
            cells = [_power_of_ten(value) for value in np.mean(told, 0)]
            rows.append((f"{eps:g}", f"{gamma:g}", *cells, f"{np.std([mean for mean, _ in told]):.2g}", known))
            records.append({"step_size": eps, "diffusion": gamma, "log10_mean_and_deviation": told, "known": known})
    columns = ("ε", "γ", "mean |λ|", "deviation", "seeds differ, log10", "known, n = 64, T = 800")
    title = f"Untrained on Gaussian noise, n = {units}, T = {T}, {seeds} seeds"
    terminal.show(terminal.Table(title, columns, rows, [False] * len(rows)))
    return records


def _spectra(found: list[Spectrum]) -> Record:
    """Curves and gradient norms as the JSON file has them."""
    curves = [
        {
            "name": each.name,
            **_curve(each.moments),
            "sigma": [(values[-1], values[0]) for values in each.singular.sigma],
            "bounds": each.singular.bounds,
            "singular_values": each.singular.sigma,
        }
        for each in found
    ]
    return {"curves": curves, "gradients": {each.name: each.norms for each in found}}


def _curve(found: Moments) -> Record:
    return {"T": found.at, "mean": found.mean, "deviation": found.deviation}


def _power_of_ten(exponent: float) -> str:
    """10^exponent, beyond the range of floats too."""
    if not math.isfinite(exponent) or abs(exponent) < 300:
        return f"{10**exponent:.3g}"
    whole = math.floor(exponent)
    digits = f"{10 ** (exponent - whole):.2f}"
    return f"1.00e{whole + 1:+d}" if digits == "10.00" else f"{digits}e{whole:+d}"
