"""The command ``spectra``."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated

import typer

from antisymrnn_validation import report
from antisymrnn_validation.cli.command import (
    AS_EXPECTED,
    Json,
    Quick,
    UsageError,
    check_writable,
    command,
    write_results,
)


@command
def spectra(
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Folder of the figures.")] = Path("figures"),
    units: Annotated[int, typer.Option(metavar="N", help="Hidden units.")] = 64,
    seeds: Annotated[int, typer.Option(metavar="N", help="Draws in the table.")] = 3,
    lengths: Annotated[str, typer.Option(metavar="T,T", help="Lengths T.")] = "100,200,400,800",
    quick: Quick = False,
    json: Json = None,
) -> int:
    """Draw spectra of end-to-end Jacobians and norms of gradients.

    Mean and deviation of |λ| of ∂h_T/∂h_0 on Gaussian noise over the grid of ε and γ, the geometric means of several
    seeds beside known values; the spectra of four recurrences against T; ‖∂L/∂h_t‖ against t. W is strictly upper
    triangular.
    """
    check_writable(json)
    began = time.perf_counter()
    try:
        T = sorted({int(text) for text in lengths.split(",")})
    except ValueError:
        raise UsageError(f"--lengths: expected whole numbers with commas between, got {lengths!r}") from None
    for name, least in (("--lengths", T[0]), ("--units", units), ("--seeds", seeds)):
        if least < 1:
            raise UsageError(f"{name}: expected at least 1, got {least}")
    import numpy as np

    from antisymrnn_ref import initialization
    from antisymrnn_validation import drawing
    from antisymrnn_validation.environment import memory_bytes
    from antisymrnn_validation.theory import spectra as theory

    if quick:
        T, units, seeds = sorted({max(1, t // 8) for t in T}), min(units, 16), 1
    if 8 * (T[-1] + 20) * (2 * units) ** 2 > memory_bytes() / 2:
        raise UsageError(f"--units, --lengths: n = {units}, T = {T[-1]} does not fit into the memory")
    folder = report.output_folder(output)
    x = np.random.default_rng(0).standard_normal((T[-1], 96))
    rows, records = [], []
    with report.progress(len(theory.UNTRAINED) + 1) as begin:
        for (eps, gamma), known in theory.UNTRAINED.items():
            begin(f"ε = {eps}, γ = {gamma}")
            told = []
            for seed in range(seeds):
                p = initialization.parameters(np.random.default_rng(seed), units, 96, sigma_w=1.0, triangular=True)
                curve = theory.spectrum("", theory.antisymmetric_steps(p, x, eps, gamma), T[-1:])
                told.append((curve.mean[0], curve.deviation[0]))
            mean, spread = np.mean(told, 0), np.std(told, 0)
            cells = [_power_of_ten(value) for value in mean]
            rows.append((f"{eps:g}", f"{gamma:g}", *cells, f"{spread[0]:.2g}", known))
            records.append({"step_size": eps, "diffusion": gamma, "log10_mean_and_deviation": told, "known": known})
        begin("four recurrences")
        curves, norms, pictures = theory.figures(units, 96, T)
    for name, (_, picture) in drawing.draw_all(pictures).items():
        drawing.write(folder, name, picture)
    columns = ("ε", "γ", "mean |λ|", "deviation", "seeds differ, log10", "known, n = 64, T = 800")
    report.show(report.Table(f"Untrained, n = {units}, T = {T[-1]}, {seeds} seeds", columns, rows, [False] * len(rows)))
    line = f"spectra: 4 files in {folder}"
    print(line)
    content: report.Record = {"units": units, "T": T, "seeds": seeds, "untrained": records, "gradients": norms}
    content["curves"] = [curve._asdict() for curve in curves]
    write_results(json, line, AS_EXPECTED, began, {"command": "spectra", "quick": quick, **content})
    return AS_EXPECTED


def _power_of_ten(exponent: float) -> str:
    """10^exponent, beyond the range of floats too."""
    if not math.isfinite(exponent) or abs(exponent) < 300:
        return f"{10**exponent:.3g}"
    whole = math.floor(exponent)
    return f"{10 ** (exponent - whole):.2f}e{whole:+d}"
