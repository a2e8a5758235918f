"""The command ``spectra``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from antisymrnn_validation import report
from antisymrnn_validation.cli.command import AS_EXPECTED, Quick, UsageError, command


@command
def spectra(
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Folder of the figures.")] = Path("figures"),
    units: Annotated[int, typer.Option(metavar="N", help="Hidden units.")] = 64,
    seeds: Annotated[int, typer.Option(metavar="N", help="Draws in the table.")] = 3,
    lengths: Annotated[str, typer.Option(metavar="T,T", help="Lengths T.")] = "100,200,400,800",
    quick: Quick = False,
) -> int:
    """Draw the spectra of end-to-end Jacobians and norms of gradients, on Gaussian noise."""
    try:
        T = sorted({int(text) for text in lengths.split(",")})
    except ValueError:
        raise UsageError(f"--lengths: expected whole numbers with commas between, got {lengths!r}") from None
    for name, least in (("--lengths", T[0]), ("--units", units), ("--seeds", seeds)):
        if least < 1:
            raise UsageError(f"{name}: expected at least 1, got {least}")
    folder = report.output_folder(output)
    import numpy as np

    from antisymrnn_ref import initialization
    from antisymrnn_validation import drawing
    from antisymrnn_validation.environment import memory_bytes
    from antisymrnn_validation.theory import spectra as theory

    if quick:
        T, units, seeds = sorted({max(1, t // 8) for t in T}), min(units, 16), 1
    if 8 * (T[-1] + 20) * (2 * units) ** 2 > memory_bytes() / 2:
        raise UsageError(f"--units, --lengths: n = {units}, T = {T[-1]} does not fit into the memory")
    x = np.random.default_rng(0).standard_normal((T[-1], 96))
    rows = []
    with report.progress(len(theory.PUBLISHED) + 1) as begin:
        for (eps, gamma), published in theory.PUBLISHED.items():
            begin(f"ε = {eps}, γ = {gamma}")
            told = []
            for seed in range(seeds):
                p = initialization.parameters(np.random.default_rng(seed), units, 96, sigma_w=1.0)
                curve = theory.spectrum("", theory.antisymmetric_steps(p, x, eps, gamma), T[-1:])
                told.append((curve.mean[0], curve.deviation[0]))
            mean, spread = np.mean(told, 0), np.std(told, 0)
            cells = [f"{value:.2f} ± {by:.2f}" for value, by in zip(mean, spread, strict=True)]
            rows.append((f"{eps:g}", f"{gamma:g}", *cells, published))
        begin("figures")
        cells_of = theory.recurrences(units, 96, 0)
        curves = [theory.spectrum(name, steps(x), T) for name, steps in cells_of.items()]
        norms = {name: theory.gradient_norms(steps(x)) for name, steps in cells_of.items()}
        drawing.write(folder, "spectra", drawing.render(lambda f: theory.draw_spectra(f, curves), 9, 4))
        drawing.write(folder, "gradient-norms", drawing.render(lambda f: theory.draw_gradients(f, norms), 6, 4))
    columns = ("ε", "γ", "log10 mean |λ|", "log10 deviation", "published, n = 64, T = 800")
    report.show(report.Table(f"Untrained, n = {units}, T = {T[-1]}, {seeds} seeds", columns, rows, [False] * len(rows)))
    print(f"spectra: figures in {folder}")
    return AS_EXPECTED
