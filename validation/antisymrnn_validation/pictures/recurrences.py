"""Recurrences whose gradients are compared: both cells of the paper, a vanilla tanh RNN and an LSTM."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from antisymrnn_ref import antisymmetric, gated, initialization, stability
from antisymrnn_ref.contract import Array, GatedParameters, Parameters
from antisymrnn_validation.experiments.configuration import Configuration
from antisymrnn_validation.experiments.training import State


class Recurrence(NamedTuple):
    """A recurrence of N numbers, of which a loss sees the first n; it starts from zeros.

    Attributes
    ----------
    name : str
    n, N : int
        Of the state alone; n < N for the LSTM, whose cell is not seen.
    states : callable
        ``states(start, x)`` of (N,) and (k, m) gives the start and k states after it, (k+1, N).
    jacobians : callable
        ``jacobians(states, x)`` of these gives the Jacobian of each step, (k, N, N).
    """

    name: str
    n: int
    N: int
    states: Callable[[Array, Array], Array]
    jacobians: Callable[[Array, Array], Array]


def cell(
    name: str,
    p: Parameters | GatedParameters,
    *,
    step_size: float,
    diffusion: float,
    unconstrained: bool = False,
) -> Recurrence:
    """Equation (12) or (13), by the type of the parameters; states and Jacobians are the specification's."""
    module = gated if isinstance(p, GatedParameters) else antisymmetric
    n = len(p.b)

    def states(start: Array, x: Array) -> Array:
        trajectory = module.forward(
            p, x[:, None], start[None], step_size=step_size, diffusion=diffusion, unconstrained=unconstrained
        )
        return trajectory.h[:, 0]

    def jacobians(states: Array, x: Array) -> Array:
        return stability.step_jacobians(
            p, x[:, None], states[:, None], step_size=step_size, diffusion=diffusion, unconstrained=unconstrained
        )[:, 0]

    return Recurrence(name, n, n, states, jacobians)


def of_state(name: str, configuration: Configuration, state: State) -> Recurrence:
    """The trained cell, its parameters as float64."""
    p: Any = type(state.cell)(*(array.astype(np.float64) for array in state.cell))
    return cell(
        name,
        p,
        step_size=configuration.step_size,
        diffusion=configuration.diffusion,
        unconstrained=configuration.unconstrained,
    )


def vanilla(name: str, p: Parameters) -> Recurrence:
    """h_t = tanh(W h_{t−1} + V x_t + b), with the Jacobians diag(tanh′) W."""
    n = len(p.b)

    def states(start: Array, x: Array) -> Array:
        h = [start]
        for x_t in x:
            h.append(np.tanh(p.W @ h[-1] + p.V @ x_t + p.b))
        return np.array(h)

    def jacobians(states: Array, x: Array) -> Array:
        return stability.jacobian(stability.diagonal(states[:-1] @ p.W.T + x @ p.V.T + p.b), p.W)

    return Recurrence(name, n, n, states, jacobians)


def lstm(name: str, p: Parameters) -> Recurrence:
    """The LSTM with state (h, c); W (4n, n), V (4n, m), b (4n,) in the order input, forget, output gate, candidate."""
    n = len(p.b) // 4
    W_i, W_f, W_o, W_k = np.split(p.W, 4)

    def pre_activations(h: Array, x: Array) -> list[Array]:
        return np.split(h @ p.W.T + x @ p.V.T + p.b, 4, axis=-1)

    def states(start: Array, x: Array) -> Array:
        found = [start]
        for x_t in x:
            h, c = np.split(found[-1], 2)
            *gates, candidate = pre_activations(h, x_t)
            i, f, o = map(gated.sigmoid, gates)
            c = f * c + i * np.tanh(candidate)
            found.append(np.concatenate([o * np.tanh(c), c]))
        return np.array(found)

    def jacobians(states: Array, x: Array) -> Array:
        h, c = np.split(states[:-1, :, None], 2, axis=1)  # (k, n, 1)
        a = pre_activations(h[..., 0], x)
        i, f, o = (gated.sigmoid(gate)[..., None] for gate in a[:3])
        slope_i, slope_f, slope_o = (
            gate * gated.sigmoid(-b)[..., None] for gate, b in zip((i, f, o), a[:3], strict=True)
        )
        k, slope_k = np.tanh(a[3])[..., None], stability.diagonal(a[3])[..., None]
        after = states[1:, n:]
        s, slope = np.tanh(after)[..., None], o * stability.diagonal(after)[..., None]
        dc_h = k * slope_i * W_i + c * slope_f * W_f + i * slope_k * W_k
        dh_h = slope * dc_h + s * slope_o * W_o
        return np.block([[dh_h, slope * f * np.eye(n)], [dc_h, f * np.eye(n)]])

    return Recurrence(name, n, 2 * n, states, jacobians)


def drawn(n: int, m: int, seed: int = 0) -> list[Recurrence]:
    """Untrained recurrences to compare: W strictly upper triangular with σ_w = 1 in the cells, full in the
    vanilla ones; the LSTM uniform in ±1/√n.
    """

    def normal(sigma_w: float, triangular: bool) -> Parameters:
        return initialization.parameters(np.random.default_rng(seed), n, m, sigma_w=sigma_w, triangular=triangular)

    with_gate = initialization.gated_parameters(np.random.default_rng(seed), n, m, sigma_w=1.0, triangular=True)
    r = np.random.default_rng(seed + 1)
    uniform = Parameters(*(r.uniform(-1, 1, size) / math.sqrt(n) for size in ((4 * n, n), (4 * n, m), (4 * n,))))
    return [
        vanilla("vanilla, σ_w = 4", normal(4.0, False)),
        cell("antisymmetric, ε = 1, γ = 0", normal(1.0, True), step_size=1.0, diffusion=0.0),
        cell("antisymmetric, ε = γ = 0.01", normal(1.0, True), step_size=0.01, diffusion=0.01),
        cell("gated, ε = γ = 0.01", with_gate, step_size=0.01, diffusion=0.01),
        lstm("LSTM", uniform),
        vanilla("vanilla, σ_w = 1", normal(1.0, False)),
    ]


def segments(x: Array) -> list[Array]:
    """The inputs (T, m) in about √T pieces, so that states are held of one piece and between pieces alone."""
    length = math.isqrt(max(len(x) - 1, 0)) + 1
    return [x[start : start + length] for start in range(0, len(x), length)]


def step_jacobians(recurrence: Recurrence, x: Array) -> Iterator[Array]:
    """The Jacobian of each step along x (T, m), in order; about √T of them are in memory."""
    state = np.zeros(recurrence.N)
    for part in segments(x):
        states = recurrence.states(state, part)
        yield from recurrence.jacobians(states, part)
        state = states[-1]


def step_jacobians_backward(recurrence: Recurrence, x: Array) -> Iterator[Array]:
    """The same from the last step to the first, states recomputed from those kept between the segments."""
    starts, parts = [np.zeros(recurrence.N)], segments(x)
    for part in parts[:-1]:
        starts.append(recurrence.states(starts[-1], part)[-1])
    for start, part in zip(starts[::-1], parts[::-1], strict=True):
        yield from recurrence.jacobians(recurrence.states(start, part), part)[::-1]
