"""Spectra of ∂h_T/∂h_0 against T, and norms of ∂L/∂h_t against t, of recurrences, drawn or trained.

All numbers are log10, so that neither 1e-2000 nor 1e100 is lost. Jacobians are those of the computed trajectory: where
gradients explode, the trajectory is chaotic too, and another machine's rounding leads to another one of its kind. For
the LSTM the state is (h, c) and ∂(h_T, c_T)/∂(h_0, c_0) is taken, of a loss that sees h_T alone.

What is accurate: singular values all, see :mod:`~antisymrnn_validation.pictures.singular_values`. Eigenvalues are those
of the product as P · 2^e, off by about T n u ‖P‖ times their own condition, 1/|cos| of the angle between left and right
eigenvector. The mean is then good as long as the largest |λ| is well above T n u ‖P‖; single small |λ| need not be.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from antisymrnn_ref import initialization
from antisymrnn_ref.contract import Array
from antisymrnn_validation.experiments import tasks
from antisymrnn_validation.output import drawing, terminal
from antisymrnn_validation.output.drawing import Pictures
from antisymrnn_validation.pictures import recurrences, singular_values
from antisymrnn_validation.pictures.recurrences import Recurrence
from antisymrnn_validation.pictures.singular_values import SingularValues

UNTRAINED = {
    (0.01, 0.0): "1.01 / 0.016",
    (0.01, 0.01): "0.967 / 0.015",
    (0.01, 0.1): "0.625 / 0.009",
    (0.01, 1.0): "0.0078 / 0.0002",
    (0.1, 0.0): "3.01 / 5.0",
    (0.1, 0.01): "2.38 / 4.7",
    (0.1, 0.1): "0.081 / 0.11",
    (0.1, 1.0): "1e-20",
    (1.0, 0.0): "1.6e6",
    (1.0, 0.01): "1.8e5",
    (1.0, 0.1): "3e7",
    (1.0, 1.0): "4.8e-8",
}
"""Known mean / deviation of |λ| by (ε, γ), untrained: n = 64, σ_w = 1, noise of m = 96, T = 800."""

DIGIT = "the first of scikit-learn's digits"


class Moments(NamedTuple):
    """log10 of mean and standard deviation of |λ| at several T, or at several iterations of a training."""

    at: list[int]
    mean: list[float]
    deviation: list[float]

    def add(self, at: int, mean: float, deviation: float) -> None:
        """Append one of each."""
        self.at.append(at)
        self.mean.append(mean)
        self.deviation.append(deviation)


class Spectrum(NamedTuple):
    """What is measured of a recurrence on an input; ``norms`` is log10 ‖∂L/∂h_t‖ for t = 0 … T."""

    name: str
    moments: Moments
    singular: SingularValues
    norms: list[float]


def one_thread() -> Any:
    """A context with BLAS on one thread: the same bits however many there are, and matrices this small gain nothing."""
    return threadpool_limits(1)


def moments(recurrence: Recurrence, x: Array, lengths: Sequence[int]) -> Moments:
    """Mean and deviation of |λ| of ∂h_T/∂h_0 along x, at each T of ``lengths``, ascending."""
    found = Moments([], [], [])
    P, exponent = np.eye(recurrence.N), 0
    with one_thread():
        for t, J in enumerate(recurrences.step_jacobians(recurrence, x[: lengths[-1]]), 1):
            P = J @ P
            shift = int(np.frexp(np.abs(P).max())[1])
            P, exponent = np.ldexp(P, -shift), exponent + shift
            if t in lengths:
                modulus = np.abs(np.linalg.eigvals(P))
                with np.errstate(divide="ignore"):
                    logs = np.log10([modulus.mean(), modulus.std()]) + exponent * math.log10(2)
                found.add(t, *logs.tolist())
    return found


def gradient_norms(recurrence: Recurrence, x: Array) -> list[float]:
    """log10 ‖∂L/∂h_t‖ along x for t = 0 … T, for a unit cotangent on h_T with equal entries.

    States are kept at every √T-th step and recomputed between.
    """
    v = np.zeros(recurrence.N)
    v[: recurrence.n] = recurrence.n**-0.5
    norms = [0.0]
    for J in recurrences.step_jacobians_backward(recurrence, x):
        v = v @ J
        size = float(np.linalg.norm(v))
        norms.append(norms[-1] + math.log10(size) if size else -math.inf)
        v = v / (size or 1)
    return norms[::-1]


def spectrum(recurrence: Recurrence, x: Array, lengths: Sequence[int]) -> Spectrum:
    """All that is measured of a recurrence along x (T, m), spectra at each T of ``lengths``, ascending to T."""
    with one_thread():
        steps = recurrences.step_jacobians(recurrence, x)
        return Spectrum(
            recurrence.name,
            moments(recurrence, x, lengths),
            singular_values.of_product(steps, lengths),
            gradient_norms(recurrence, x),
        )


def spectra(along: Iterable[tuple[Recurrence, Array]], lengths: Sequence[int]) -> list[Spectrum]:
    """The spectrum of each recurrence along its input, under a progress bar."""
    along, found = list(along), []
    with terminal.progress(len(along)) as begin:
        for recurrence, x in along:
            begin(recurrence.name)
            found.append(spectrum(recurrence, x, lengths))
    return found


def antisymmetric(n: int, m: int, step_size: float, diffusion: float, seed: int = 0) -> Recurrence:
    """The untrained antisymmetric cell with σ_w = 1 and W strictly upper triangular."""
    p = initialization.parameters(np.random.default_rng(seed), n, m, sigma_w=1.0, triangular=True)
    return recurrences.cell("", p, step_size=step_size, diffusion=diffusion)


def grid(n: int, x: Array, lengths: Sequence[int]) -> dict[tuple[float, float], Moments]:
    """By (ε, γ) the moments of the untrained antisymmetric cell along x, under a progress bar."""
    found = {}
    with terminal.progress(len(UNTRAINED)) as begin:
        for step_size, diffusion in UNTRAINED:
            begin(f"ε = {step_size:g}, γ = {diffusion:g}")
            cell = antisymmetric(n, x.shape[1], step_size, diffusion)
            found[step_size, diffusion] = moments(cell, x, lengths)
    return found


class Training(NamedTuple):
    """A run: its input, its recurrence by iteration, and the iteration of the best."""

    name: str
    x: Array
    by_iteration: dict[int, Recurrence]
    best: int


def over_training(runs: Sequence[Training], lengths: Sequence[int]) -> dict[str, dict[int, Moments]]:
    """By run and T the moments over the iterations, under a progress bar."""
    found = {run.name: {T: Moments([], [], []) for T in lengths} for run in runs}
    with terminal.progress(sum(len(run.by_iteration) for run in runs)) as begin:
        for run in runs:
            for iteration, recurrence in run.by_iteration.items():
                begin(recurrence.name)
                for T, mean, deviation in zip(*moments(recurrence, run.x, lengths), strict=True):
                    found[run.name][T].add(iteration, mean, deviation)
    return found


def padded(pixels: Array, source: str, T: int) -> tuple[Array, str]:
    """Pixels (S, m) of an image followed by Gaussian noise, (T, m), and in words what that is."""
    S, m = pixels.shape
    x = tasks.followed_by_noise(pixels, T, np.random.default_rng(0))
    return x, f"Input: {source} by rows, m = {m}" + (f", then noise from step {S + 1} on" if T > S else "")


def digit_figures(n: int, lengths: Sequence[int]) -> Pictures:
    """The figures of untrained recurrences on the bundled digits; n units, T ascending."""
    x, told = padded(tasks.first_digit_rows(), DIGIT, lengths[-1])
    told = f"Untrained, n = {n}. {told}"
    made = recurrences.drawn(n, x.shape[1])
    return figures(spectra([(each, x) for each in made], lengths), told) | grid_figure(grid(n, x, lengths), told)


def figures(found: Sequence[Spectrum], told: str) -> Pictures:
    """Eigenvalues, singular values and gradient norms of recurrences; ``told`` says what input."""
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    return {
        "spectra": (
            f"Mean and standard deviation of the moduli of the eigenvalues of ∂h_T/∂h_0 against T. {told}.",
            lambda: drawing.render(
                lambda figure: draw_moments(figure, {"": {c.name: c.moments for c in found}}, "T", told), 10, 3.8
            ),
        ),
        "singular-values": (
            "Singular values of ∂h_T/∂h_0 against T inside the provable band from Π σ_min to Π σ_max of the steps. "
            f"{told}.",
            lambda: drawing.render(
                lambda figure: draw_singular_values(figure, found, rows, columns, told),
                1.2 + 3 * columns,
                0.5 + 2.4 * rows,
            ),
        ),
        "gradient-norms": (
            f"How much of a gradient at the last step arrives at step t. {told}.",
            lambda: drawing.render(lambda figure: draw_gradients(figure, found, told), 8, 4.2),
        ),
    }


def grid_figure(found: Mapping[tuple[float, float], Moments], told: str) -> Pictures:
    """The moments over the grid of ε and γ."""
    panels: dict[str, dict[str, Moments]] = {}
    for (step_size, diffusion), each in found.items():
        panels.setdefault(f"ε = {step_size:g}", {})[f"γ = {diffusion:g}"] = each
    title = f"Antisymmetric cell. {told}"
    return {
        "spectra-grid": (
            f"Mean and standard deviation of |λ| of ∂h_T/∂h_0 against T over the grid of ε and γ. {title}.",
            lambda: drawing.render(lambda figure: draw_moments(figure, panels, "T", title), 10, 5.5),
        )
    }


def training_figure(found: Mapping[str, Mapping[int, Moments]], told: str) -> Pictures:
    """The moments over training."""
    panels = {run: {f"T = {T}": each for T, each in by_length.items()} for run, by_length in found.items()}
    return {
        "spectra-training": (
            f"Mean and standard deviation of |λ| of ∂h_T/∂h_0 over training. {told}.",
            lambda: drawing.render(
                lambda figure: draw_moments(figure, panels, "iteration", told), 1 + max(9, 3 * len(panels)), 5.5
            ),
        )
    }


def draw_moments(figure: Figure, panels: Mapping[str, Mapping[str, Moments]], xlabel: str, title: str) -> None:
    """A column for each panel, means above deviations; a single panel has them side by side."""
    single = len(panels) == 1
    axes = figure.subplots(1, 2)[:, None] if single else figure.subplots(2, len(panels), sharex="col")
    for column, (name, lines) in zip(axes.T, panels.items(), strict=True):
        for axis, what in zip(column, ("mean", "deviation"), strict=True):
            for k, found in enumerate(lines.values()):
                axis.plot(found.at, _finite(getattr(found, what)), **_thin(k, len(found.at)))
            axis.set_ylabel(f"log₁₀ {what} of |λ|")
        column[0].set_title(name)
        column[0].axhline(0, color="black", linewidth=0.8, zorder=0.5)
    for axis in axes.flat if single else axes[-1]:
        axis.set_xlabel(xlabel)
    _legend(figure, axes[0, 0].lines, list(next(iter(panels.values()))))
    figure.suptitle(title, fontsize=9)


def draw_singular_values(figure: Figure, found: Sequence[Spectrum], rows: int, columns: int, title: str) -> None:
    """A panel for each recurrence: its singular values in their band."""
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(found) :]:
        axis.remove()
    for axis, (name, _, singular, _) in zip(axes.flat, found, strict=False):
        sigma = _finite(singular.sigma)
        band = axis.fill_between(singular.T, *_finite(singular.bounds).T, color=drawing.COLOURS[4], alpha=0.3, lw=0)
        middle = sigma.shape[1] // 2
        lines = [
            axis.plot(singular.T, sigma[:, place], **_thin(k, len(sigma)))[0]
            for k, place in ((0, 0), (2, middle), (1, -1))
        ]
        axis.set(title=name, xlabel="T", ylabel="log₁₀ σ")
    _legend(figure, [band, *lines], ["provable band", "largest σ", "median σ", "smallest σ"])
    figure.suptitle(title, fontsize=9)


def draw_gradients(figure: Figure, found: Sequence[Spectrum], title: str) -> None:
    """log10 ‖∂L/∂h_t‖ against t."""
    axes = figure.subplots()
    for k, each in enumerate(found):
        axes.plot(_finite(each.norms), **_thin(k, len(each.norms)))
    axes.axhline(0, color="black", linewidth=0.8, zorder=0.5)
    axes.set(xlabel="t", ylabel="log₁₀ ‖∂L/∂h_t‖", title="Gradient of a loss on the last state")
    _legend(figure, axes.lines, [each.name for each in found])
    figure.suptitle(title, fontsize=9)


def _legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    figure.legend(handles[: len(labels)], labels, loc="outside right center")


def _thin(k: int, points: int) -> dict[str, Any]:
    """The k-th series, with at most some ten markers."""
    return {**drawing.series(k), "markevery": max(1, points // 8), "markersize": 4.5}


def _finite(logs: Any) -> Array:
    """With a gap where the logarithm is −∞."""
    values = np.asarray(logs, float)
    return np.where(np.isfinite(values), values, np.nan)
