"""Spectra of ∂h_T/∂h_0 against T for four recurrences, and norms of ∂L/∂h_t.

The product is kept as P · 2^e, so that neither 1e-20 nor 1e7 is lost. What is accurate: log10|λ| and the singular
values to about n u of the LARGEST of them; those further below the largest than 1e-13 are rounding. Steps are taken
one after the other for the spectra; the norms of gradients hold all T of them. For the LSTM the state is (h, c) and
∂(h_T, c_T)/∂(h_0, c_0) is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from antisymrnn_ref import antisymmetric, gated, initialization, stability
from antisymrnn_ref.contract import Array, GatedParameters, Parameters
from antisymrnn_validation import drawing
from antisymrnn_validation.drawing import Drawing

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


class Curve(NamedTuple):
    """log10 of mean and deviation of |λ|, log10 of the extreme σ and of their provable bounds, for each T."""

    name: str
    T: list[int]
    mean: list[float]
    deviation: list[float]
    sigma: list[tuple[float, float]]
    bounds: list[tuple[float, float]]


def antisymmetric_steps(p: Parameters | GatedParameters, x: Array, eps: float, gamma: float) -> Iterator[Array]:
    """Step Jacobians I + ε D_t M of equation (12) or (13) along x (T, m), from h = 0, one at a time."""
    cell = gated if isinstance(p, GatedParameters) else antisymmetric
    x = x[:, None]  # (T, 1, m)
    h = cell.forward(p, x, np.zeros((1, len(p.b))), step_size=eps, diffusion=gamma).h
    for t in range(len(x)):
        (J,) = stability.step_jacobians(p, x[t : t + 1], h[t : t + 2], step_size=eps, diffusion=gamma)[0]
        yield J


def vanilla_steps(p: Parameters, x: Array) -> Iterator[Array]:
    """Step Jacobians diag(1 − h_t²) W of h_t = tanh(W h_{t−1} + V x_t + b)."""
    h = np.zeros(len(p.b))
    for x_t in x:
        h = np.tanh(p.W @ h + p.V @ x_t + p.b)
        yield (1 - h**2)[:, None] * p.W


def lstm_step(p: Parameters, x_t: Array, h: Array, c: Array) -> tuple[Array, Array, Array]:
    """h, c and ∂(h, c)/∂(h, c) of one LSTM step; W (4n, n), V (4n, m), b (4n,) in the order i, f, o, candidate."""
    i, f, o, k = np.split(p.W @ h + p.V @ x_t + p.b, 4)
    i, f, o = (0.5 * (1 + np.tanh(v / 2)) for v in (i, f, o))
    k = np.tanh(k)
    W_i, W_f, W_o, W_k = np.split(p.W, 4)
    new = f * c + i * k
    s = np.tanh(new)
    dc_h = (k * i * (1 - i))[:, None] * W_i + (c * f * (1 - f))[:, None] * W_f + (i * (1 - k * k))[:, None] * W_k
    slope = o * (1 - s * s)
    dh_h = slope[:, None] * dc_h + (s * o * (1 - o))[:, None] * W_o
    return o * s, new, np.block([[dh_h, np.diag(slope * f)], [dc_h, np.diag(f)]])


def lstm_steps(p: Parameters, x: Array) -> Iterator[Array]:
    """Step Jacobians of the LSTM along x, from h = c = 0."""
    h = c = np.zeros(len(p.b) // 4)
    for x_t in x:
        h, c, J = lstm_step(p, x_t, h, c)
        yield J


def spectrum(name: str, steps: Iterable[Array], lengths: Sequence[int]) -> Curve:
    """The curve of a product of step Jacobians, at each length."""
    curve = Curve(name, [], [], [], [], [])
    P: Any = None
    exponent, low, high = 0, 0.0, 0.0
    for t, J in enumerate(steps, 1):
        P = J if P is None else J @ P
        shift = int(np.frexp(np.abs(P).max())[1])
        P, exponent = np.ldexp(P, -shift), exponent + shift
        sigma = np.linalg.svd(J, compute_uv=False)
        with np.errstate(divide="ignore"):
            low, high = low + float(np.log10(sigma[-1])), high + float(np.log10(sigma[0]))
            if t in lengths:
                scale = exponent * math.log10(2)
                modulus = np.abs(np.linalg.eigvals(P))
                s = np.linalg.svd(P, compute_uv=False)
                curve.T.append(t)
                curve.mean.append(float(np.log10(modulus.mean())) + scale)
                curve.deviation.append(float(np.log10(modulus.std())) + scale)
                curve.sigma.append((float(np.log10(s[-1])) + scale, float(np.log10(s[0])) + scale))
                curve.bounds.append((low, high))
    return curve


def gradient_norms(steps: Sequence[Array] | Iterable[Array]) -> list[float]:
    """log10 ‖∂L/∂h_t‖ for t = 0 … T, for a unit cotangent of equal entries on the last state; holds T n² numbers."""
    v: Any = None
    scale = 0.0
    norms: list[float] = []
    for J in reversed(list(steps)):
        v = np.full(len(J), len(J) ** -0.5) if v is None else v
        if not norms:
            norms.append(scale)
        v = v @ J
        if size := float(np.linalg.norm(v)):
            scale, v = scale + math.log10(size), v / size
        else:
            scale = -math.inf
        norms.append(scale)
    return norms[::-1]


def recurrences(n: int, m: int, seed: int) -> dict[str, Callable[[Array], Iterator[Array]]]:
    """The four recurrences as drawn, by name: functions from x (T, m) to step Jacobians; ε = γ = 0.01,
    W strictly upper triangular but for the vanilla one; the LSTM uniform in ±1/√n.
    """
    p = initialization.parameters(np.random.default_rng(seed), n, m, sigma_w=1.0, triangular=True)
    with_gate = initialization.gated_parameters(np.random.default_rng(seed), n, m, sigma_w=1.0, triangular=True)
    full = initialization.parameters(np.random.default_rng(seed), n, m, sigma_w=1.0)
    r = np.random.default_rng(seed + 1)
    lstm = Parameters(*(r.uniform(-1, 1, size) / math.sqrt(n) for size in ((4 * n, n), (4 * n, m), (4 * n,))))
    return {
        "antisymmetric": lambda x: antisymmetric_steps(p, x, 0.01, 0.01),
        "gated": lambda x: antisymmetric_steps(with_gate, x, 0.01, 0.01),
        "vanilla": lambda x: vanilla_steps(full, x),
        "LSTM": lambda x: lstm_steps(lstm, x),
    }


def figures(
    n: int, m: int, lengths: Sequence[int]
) -> tuple[list[Curve], dict[str, list[float]], dict[str, tuple[str, Callable[[], Drawing]]]]:
    """Curves and gradient norms of the four recurrences on Gaussian noise, and by name what draws them.

    Parameters
    ----------
    n, m : int
        Hidden units and inputs.
    lengths : sequence of int
        T, ascending.
    """
    x = np.random.default_rng(0).standard_normal((lengths[-1], m))
    made = recurrences(n, m, 0)
    curves = [spectrum(name, steps(x), lengths) for name, steps in made.items()]
    norms = {name: gradient_norms(steps(x)) for name, steps in made.items()}
    untrained = f"Untrained, {n} units, Gaussian noise of {m} inputs, ε = γ = 0.01. "
    return (
        curves,
        norms,
        {
            "spectra": (
                untrained + "Mean modulus of the eigenvalues of ∂h_T/∂h_0 against T: about 1 for both cells of the "
                "paper, fast to 0 for the others. Right: the extreme singular values inside their provable band.",
                lambda: drawing.render(lambda figure: draw_spectra(figure, curves), 9, 4),
            ),
            "gradient-norms": (
                untrained + "How much of a gradient at the last step arrives at step t: preserved or vanished.",
                lambda: drawing.render(lambda figure: draw_gradients(figure, norms), 6, 4),
            ),
        },
    )


def draw_spectra(figure: Figure, curves: Sequence[Curve]) -> None:
    """Mean |λ| against T, and beside it the singular values' range inside its provable band for the first curve."""
    left, right = figure.subplots(1, 2)
    for k, c in enumerate(curves):
        left.plot(c.T, c.mean, label=c.name, **drawing.series(k))
    left.set(xlabel="T", ylabel="log₁₀ mean |λ|", title=r"Eigenvalues of $\partial h_T/\partial h_0$")
    left.legend()
    c = curves[0]
    right.fill_between(c.T, *np.array(c.bounds).T, color=drawing.COLOURS[0], alpha=0.15, label="provable")
    right.plot(c.T, [s[0] for s in c.sigma], label="smallest σ", **drawing.series(0))
    right.plot(c.T, [s[1] for s in c.sigma], label="largest σ", **drawing.series(1))
    right.set(xlabel="T", ylabel="log₁₀ σ", title=f"Singular values, {c.name}")
    right.legend()


def draw_gradients(figure: Figure, norms: dict[str, list[float]]) -> None:
    """log10 ‖∂L/∂h_t‖ against t."""
    axes = figure.subplots()
    for k, (name, values) in enumerate(norms.items()):
        axes.plot(values, label=name, markevery=max(1, len(values) // 8), **drawing.series(k))
    axes.set(xlabel="t", ylabel=r"log₁₀ ‖$\partial L/\partial h_t$‖", title="Gradient of a loss on the last state")
    axes.legend()
