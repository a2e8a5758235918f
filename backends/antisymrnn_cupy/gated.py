"""Equation (13) on the GPU; the equations stand in :mod:`antisymrnn_ref.gated`."""

from __future__ import annotations

from typing import NamedTuple

from antisymrnn_cupy import _device, _host
from antisymrnn_ref.contract import Array, GatedParameters, Gradients, checked_backward, checked_forward


class Trajectory(NamedTuple):
    """What ``forward`` returns.

    Attributes
    ----------
    h : (K, B, n) array
        The kept states.
    keep_every, step_size, diffusion, unconstrained
        As ``forward`` got them.
    s, z : (T, B, n) arrays or None
        tanh and the gate of every step, where every state is kept.
    """

    h: Array
    keep_every: int
    step_size: float
    diffusion: float
    unconstrained: bool
    s: Array | None
    z: Array | None


@checked_forward(GatedParameters, _device.ArrayType)
def forward(
    parameters: GatedParameters,
    x: Array,
    h0: Array,
    *,
    step_size: float,
    diffusion: float,
    keep_every: int = 1,
    unconstrained: bool = False,
) -> Trajectory:
    """States of equation (13) by (F1) and (GF1) to (GF5).

    Arguments, result and errors are those of :func:`antisymrnn_ref.gated.forward`.

    Notes
    -----
    Runs on CuPy's current device and stream, and returns when the work is queued. float32 denormals count as zero.
    With ``keep_every=1`` the trajectory also holds what backward needs of each step, as much memory as the states
    (gated: twice as much); ``keep_every=T`` is inference and holds two states. Arrays that are not contiguous are
    copied.
    """
    constants = {"step_size": step_size, "diffusion": diffusion, "unconstrained": unconstrained}
    h, s, z = _host.forward(parameters, x, h0, keep_every, **constants)
    return Trajectory(h, keep_every, step_size, diffusion, unconstrained, s, z)


@checked_backward(GatedParameters, _device.ArrayType, Trajectory)
def backward(
    parameters: GatedParameters,
    x: Array,
    trajectory: Trajectory,
    g: Array,
    *,
    step_size: float,
    diffusion: float,
    input_gradient: bool = True,
    unconstrained: bool = False,
) -> Gradients:
    """Gradients of the loss with respect to every input by (GB1) to (GB8), (B8) and (B9).

    Arguments, result and errors are those of :func:`antisymrnn_ref.gated.backward`.

    Notes
    -----
    Device and stream as in :func:`forward`. With ``keep_every=k`` > 1 the steps are made again in windows of k steps,
    or of 2¹⁷ rows (one for each step and sample) where that is more, held beside the trajectory.
    """
    constants = {"step_size": step_size, "diffusion": diffusion, "unconstrained": unconstrained}
    stash = trajectory.s, trajectory.z
    return _host.backward(parameters, x, trajectory.h, *stash, g, trajectory.keep_every, input_gradient, **constants)
