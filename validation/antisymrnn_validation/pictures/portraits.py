"""Phase portraits: Figure 1 of the paper, and what its reader should see beside it.

The paper gives no generator for its random matrices; those of (a), (c) and (d) come from NumPy's, with the seeds below.
All panels of Figure 1 have the same axes: under W₊ the states leave them, and the caption says where they end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy.integrate import solve_ivp

from antisymrnn_ref import antisymmetric, dynamics, initialization, stability
from antisymrnn_ref.contract import Array
from antisymrnn_validation.claims.evidence import MATRICES
from antisymrnn_validation.claims.evidence import STEP_SIZE as DECIMAL_STEP_SIZE
from antisymrnn_validation.claims.figure_one import END_STATES, floats
from antisymrnn_validation.claims.figure_one import STARTS as DECIMAL_STARTS
from antisymrnn_validation.experiments import data, tasks
from antisymrnn_validation.output import drawing
from antisymrnn_validation.output.drawing import Pictures
from antisymrnn_validation.output.terminal import Record

STARTS = floats(DECIMAL_STARTS)  # (3, 2)
STEP_SIZE = float(DECIMAL_STEP_SIZE)
RING_STARTS = np.vstack([STARTS, [[0.05, 0.0], [3.0, 3.0]]])  # (5, 2)
STEPS = 50
LIMIT = 1.3
"""Largest coordinate that Figure 1 shows."""

GAUSSIAN_SEED = 0
ORTHOGONAL_SEEDS = (0, 1)
"""As the paper has them; here 0 gives a rotation, 1 a reflection."""


class System(NamedTuple):
    """A recurrence without input in the plane.

    Attributes
    ----------
    name : str
        Of the matrix.
    title : str
    matrix : (2, 2) array
    step_size : float or None
        ε of the recurrence with feedback (D5); None for the vanilla recurrence (D4).
    """

    name: str
    title: str
    matrix: Array
    step_size: float | None


class CycleSummary(NamedTuple):
    """Distances from the origin in the long run: least, mean and largest over all starts."""

    least: float
    mean: float
    largest: float


def orthogonal(seed: int) -> Array:
    """A (2, 2) orthogonal matrix: the Q of a Gaussian matrix with R's diagonal made positive."""
    Q, R = np.linalg.qr(np.random.default_rng(seed).standard_normal((2, 2)))
    return Q * np.sign(np.diag(R))


def figure_one_systems() -> dict[str, System]:
    """The eight systems of Figure 1 by letter."""
    gaussian = np.random.default_rng(GAUSSIAN_SEED).standard_normal((2, 2))
    vanilla = [("Gaussian W", gaussian), ("identity", np.eye(2))]
    for seed in ORTHOGONAL_SEEDS:
        W = orthogonal(seed)
        vanilla.append(("rotation" if np.linalg.det(W) > 0 else "reflection", W))
    systems = [System(name, f"vanilla, {name}", W, None) for name, W in vanilla]
    systems += [System(name, f"feedback, {name}", floats(rows), STEP_SIZE) for name, rows in MATRICES.items()]
    return dict(zip("abcdefgh", systems, strict=True))


def states(system: System, starts: Array, T: int) -> Array:
    """States of a system, (T+1, starts, 2)."""
    if system.step_size is None:
        return dynamics.vanilla(system.matrix, starts, T)
    return dynamics.feedback(system.matrix, starts, system.step_size, T)


def end_states() -> list[Record]:
    """End states of Figure 1's systems, each beside the known one and whether it agrees; None where none is known."""
    records: list[Record] = []
    for letter, system in figure_one_systems().items():
        table = END_STATES.get(system.name)
        for k, (start, end) in enumerate(zip(STARTS.tolist(), states(system, STARTS, STEPS)[-1].tolist(), strict=True)):
            record: Record = {"system": f"({letter}) {system.title}", "start": start, "end": end}
            known = None if table is None else list(table[k])
            agrees = known and all(abs(a - b) < 0.500001e-6 for a, b in zip(end, known, strict=True))
            record |= {"known": known, "agrees": agrees}
            records.append(record)
    return records


def flow(M: Array, start: Array, times: Array) -> Array:
    """Solution of the ODE (D2) without input at the times, (times, 2).

    DOP853 with a relative tolerance of 1e-12: what is drawn of it is exact.

    Raises
    ------
    ArithmeticError
        If the solver does not reach the last time.
    """
    solution = solve_ivp(
        lambda _, h: dynamics.vector_field(M, h, 0.0),
        (0.0, float(times[-1])),
        start,
        method="DOP853",
        t_eval=times,
        rtol=1e-12,
        atol=1e-14,
    )
    if not solution.success:
        raise ArithmeticError(f"the ODE's solver stopped: {solution.message}")
    return np.asarray(solution.y.T)


def long_run(T: int = 5000, settled: int = 4000) -> tuple[Array, CycleSummary]:
    """States under W_diff from ``RING_STARTS``.

    Returns
    -------
    h : (T+1, 5, 2) array
    summary : CycleSummary
        From step ``settled`` on.
    """
    h = dynamics.feedback(floats(MATRICES["W_diff"]), RING_STARTS, STEP_SIZE, T)
    late = np.linalg.norm(h[settled:], axis=-1)
    return h, CycleSummary(float(late.min()), float(late.mean()), float(late.max()))


def step_eigenvalues(step_size: float, diffusion: float, *, n: int = 32, every: int = 4) -> Array:
    """Eigenvalues of D_t M along the first of scikit-learn's digits, every few steps; σ_w = 1, seed 0.

    Returns
    -------
    (steps, n) complex array
    """
    x = tasks.pixel_sequences(data.load_digits(), [0])  # (64, 1, 1)
    p = initialization.parameters(np.random.default_rng(0), n, 1, sigma_w=1.0)
    h = antisymmetric.forward(p, x, np.zeros((1, n)), step_size=step_size, diffusion=diffusion).h[:-1, 0]  # (T, n)
    M = p.W - p.W.T - diffusion * np.eye(n)
    D = stability.diagonal(h @ M.T + x[:, 0] @ p.V.T + p.b)  # (T, n)
    return stability.eigenvalues(stability.jacobian(D[::every], M))


def caption(system: System) -> str:
    """Eigenvalues, and |1 + ελ| where there is an ε, in lines under a panel."""
    found = sorted(np.linalg.eigvals(system.matrix), key=lambda value: (value.real, value.imag), reverse=True)
    real, imaginary = _number(found[0].real), _number(abs(found[0].imag))
    if imaginary != "0":  # a double eigenvalue has one of rounding's size
        told = f"λ = ±{imaginary}i" if real == "0" else f"λ = {real} ± {imaginary}i"
    else:
        told = "λ = " + ", ".join(_number(value.real) for value in found)
    if system.step_size is not None:
        factors = sorted({f"{abs(1 + system.step_size * value):.6f}" for value in found}, key=float, reverse=True)
        told += f"\n|1 + ελ| = {', '.join(factors)}"
    return told


def draw_figure_one(figure: Figure) -> None:
    """Figure 1: two rows of four panels with the same axes."""
    for axes, (letter, system) in zip(figure.subplots(2, 4).flat, figure_one_systems().items(), strict=True):
        _portrait(axes, system, STARTS, STEPS, (-LIMIT, LIMIT, -LIMIT, LIMIT), field=system.step_size is not None)
        axes.set_title(f"({letter}) {system.title}")
        below = caption(system)
        if letter == "e":
            ends = states(system, STARTS, STEPS)[-1]
            below += "\nends: " + ", ".join(f"({a:.2f}, {b:.2f})" for a, b in ends)
        axes.set_xlabel(below, fontsize=8)


def draw_euler_and_flow(figure: Figure, M: Array, start: Array, time: float, step_sizes: Sequence[float]) -> None:
    """One system under forward Euler at several ε beside the exact flow, and the energy along each."""
    left, right = figure.subplots(1, 2)
    times = np.linspace(0.0, time, 401)
    exact = flow(M, start, times)
    for k, step_size in enumerate(step_sizes):
        h = dynamics.feedback(M, start, step_size, round(time / step_size))
        style = drawing.series(k) | {"markersize": 3, "linewidth": 1.0, "markevery": max(1, len(h) // 25)}
        left.plot(h[:, 0], h[:, 1], label=f"Euler, ε = {step_size:g}", **style)
        right.plot(step_size * np.arange(len(h)), dynamics.energy(M, h), **style)
    left.plot(exact[:, 0], exact[:, 1], color="black", label="exact flow")
    right.plot(times, dynamics.energy(M, exact), color="black")
    left.plot(*start, marker="*", color="black", markersize=11, linestyle="")
    left.set(title="states", aspect="equal", xlabel="h₁", ylabel="h₂")
    left.set_adjustable("datalim")
    right.set(title="energy E = Σ log cosh (M h)ᵢ", xlabel="time")
    figure.legend(loc="outside lower center", ncols=3)


def draw_stability_region(figure: Figure, diffusions: Sequence[float] = (0.0, 0.1, 1.0)) -> None:
    """The region |1 + ελ| ≤ 1 with the eigenvalues of D_t M of a real trajectory, for two ε and several γ."""
    angle = np.linspace(0.0, 2 * np.pi, 721)
    for axes, step_size in zip(figure.subplots(1, 2), (STEP_SIZE, 1.0), strict=True):
        axes.fill(np.cos(angle) - 1, np.sin(angle), color="0.88", zorder=0)
        axes.plot(np.cos(angle) - 1, np.sin(angle), color="0.35", linewidth=1.0, zorder=1)
        spectra = [step_eigenvalues(step_size, diffusion) for diffusion in diffusions]
        for k, (diffusion, found) in enumerate(zip(diffusions, spectra, strict=True)):
            style = drawing.series(k) | {"linestyle": "", "markersize": 3, "alpha": 0.45}
            z = step_size * found.ravel()
            inside = np.mean(np.abs(1 + z) < 1)  # not a saturated unit, whose 1 + z is 1
            axes.plot(z.real, z.imag, label=f"γ = {diffusion:g}: {100 * inside:.0f} % inside", **style)
        reach = 1.1 * step_size * max(np.abs(found).max() for found in spectra)
        axes.set(xlim=(-reach, 0.35 * reach), ylim=(-reach, reach), title=f"ε = {step_size:g}")
        axes.set(aspect="equal", xlabel="Re ελ", ylabel="Im ελ")
        axes.legend(loc="upper left", fontsize=8, frameon=True)


def draw_limit_cycle(figure: Figure) -> None:
    """W_diff in the long run: five starts end on the same ring."""
    left, right = figure.subplots(1, 2)
    h, summary = long_run()
    radii = np.linalg.norm(h[:1001], axis=-1)
    for k, (a, b) in enumerate(RING_STARTS):
        style = drawing.series(k) | {"markersize": 4, "markevery": 120, "linewidth": 1.0}
        right.plot(radii[:, k], label=f"from ({a:g}, {b:g})", **style)
        if k in (3, 4):
            left.plot(h[:800, k, 0], h[:800, k, 1], **(style | {"alpha": 0.7}))
            left.plot(a, b, marker="*", color=style["color"], markersize=11, linestyle="")
    left.plot(h[-400:, 0, 0], h[-400:, 0, 1], color="black", linewidth=2.0)
    left.set(title="states; the ring in black", aspect="equal", xlabel="h₁", ylabel="h₂")
    right.axhspan(summary.least, summary.largest, color="0.8", zorder=0)
    title = f"distance from 0; in the long run {summary.least:.4f} to {summary.largest:.4f}, mean {summary.mean:.4f}"
    right.set(title=title, xlabel="t", yscale="log", ylabel="‖h_t‖")
    right.title.set_fontsize(9)
    right.legend(fontsize=8)


def draw_system(figure: Figure, system: System, starts: Array, T: int) -> None:
    """The portrait of one system over its vector field, in axes that hold it."""
    h = states(system, starts, T)
    low, high = h.min(axis=(0, 1)), h.max(axis=(0, 1))
    centre, reach = (low + high) / 2, 0.55 * max(float((high - low).max()), 1e-3)
    box = (centre[0] - reach, centre[0] + reach, centre[1] - reach, centre[1] + reach)
    axes = figure.subplots()
    _portrait(axes, system, starts, T, box, field=True)
    axes.set_title(system.title)
    axes.set_xlabel(caption(system))


def figures() -> Pictures:
    """Every figure by the name of its file: what it shows, and a function that draws it."""
    W = floats(MATRICES["W₀"])
    return {
        "figure-1": (
            "Figure 1 of the paper, recomputed: 50 steps from three starts (stars), earlier points paler, the vector "
            "field under (e) to (h), ε = 0.1. The generator, and the seed of (a), are ours.",
            lambda: drawing.render(draw_figure_one, 12, 7),
        ),
        "euler-and-flow": (
            "Under W₀ the exact flow keeps its energy; forward Euler raises it in every step, the faster the larger ε.",
            lambda: drawing.render(
                lambda figure: draw_euler_and_flow(figure, W, STARTS[2], STEPS * STEP_SIZE, (0.5, 0.2, 0.1, 0.025)),
                10,
                5,
            ),
        ),
        "stability-region": (
            "Where forward Euler is stable, |1 + ελ| ≤ 1 (grey), and the eigenvalues of D_t M along a real digit, 32 "
            "units: without diffusion all lie outside or on the border; γ moves them to the left, most of them into "
            "the region.",
            lambda: drawing.render(draw_stability_region, 9, 6),
        ),
        "limit-cycle": (
            "W_diff does not keep its distance from the origin: all five starts end on one ring, a limit cycle.",
            lambda: drawing.render(draw_limit_cycle, 11, 5),
        ),
    }


def own_figures(system: System, starts: Array, T: int) -> Pictures:
    """The figures of one system with an ε: its portrait, and forward Euler beside the exact flow from its first start.

    Parameters
    ----------
    system : System
    starts : (starts, 2) array
    T : int
        Steps at the system's ε; the other step sizes cover the same time as nearly as whole steps can.
    """
    epsilon = system.step_size
    assert epsilon is not None  # of a system with feedback
    step_sizes = (4 * epsilon, 2 * epsilon, epsilon, epsilon / 4)
    return {
        "portrait": (
            f"{system.title}: {T} steps over the vector field.",
            lambda: drawing.render(lambda figure: draw_system(figure, system, starts, T), 6, 6.5),
        ),
        "portrait-euler-and-flow": (
            "Forward Euler at several ε beside the exact flow, and their energies.",
            lambda: drawing.render(
                lambda figure: draw_euler_and_flow(figure, system.matrix, starts[0], T * epsilon, step_sizes), 10, 5
            ),
        ),
    }


def _portrait(
    axes: Any, system: System, starts: Array, T: int, box: tuple[float, float, float, float], *, field: bool
) -> None:
    """Trajectories, earlier points paler, with a star at each start; the field tanh(M h) under them."""
    left, right, bottom, top = box
    if field:
        side = np.linspace(0.04, 0.96, 15)
        grid = np.stack(np.meshgrid(left + side * (right - left), bottom + side * (top - bottom)), axis=-1)
        arrows = dynamics.vector_field(system.matrix, grid, 0.0)
        axes.quiver(grid[..., 0], grid[..., 1], arrows[..., 0], arrows[..., 1], color="0.72", width=0.004, zorder=1)
    h = states(system, starts, T)
    for k in range(len(starts)):
        style = drawing.series(k)
        axes.plot(h[:, k, 0], h[:, k, 1], color=style["color"], linewidth=0.6, alpha=0.35, zorder=2)
        axes.scatter(
            h[1:, k, 0],
            h[1:, k, 1],
            c=style["color"],
            marker=style["marker"],
            s=14,
            alpha=np.linspace(0.15, 1.0, T) if T else None,
            linewidths=0,
            zorder=3,
        )
        axes.plot(
            *starts[k],
            marker="*",
            color=style["color"],
            markeredgecolor="black",
            markeredgewidth=0.5,
            markersize=12,
            linestyle="",
            zorder=4,
        )
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")


def _number(value: float) -> str:
    return f"{round(float(value), 6) + 0.0:.6g}".replace("-", "−")
