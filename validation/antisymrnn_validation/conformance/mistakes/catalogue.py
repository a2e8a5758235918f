"""The catalogue of known mistakes: what is wrong, what it usually comes from, and how to fix it.

A *convention* is right once it is declared. The others are mistakes of the forward pass or of the gradients alone.
:func:`planted` makes a backend with one of them, which the checks must reject.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np

from antisymrnn_ref import contract
from antisymrnn_ref.contract import Array, GatedParameters, Parameters
from antisymrnn_validation.conformance.mistakes.recurrence import (
    EULER,
    SIGMOID,
    TANH,
    Activation,
    Arrays,
    Lines,
    Slopes,
    Step,
    Update,
    arriving,
    planted_cell,
)
from antisymrnn_validation.truth.cases import CELLS

Kind = Literal["convention", "forward", "gradient", "rounding"]

BATCH_SUMS = ("W", "V", "b", "V_z", "b_z", "step_size", "diffusion")
"""Gradients that are sums over the batch."""

TRUNCATIONS = (1, 2, 5, 10)
"""Lengths at which truncated backpropagation is known by name."""

CLIPS = ((-1, 1), (0, 1))
"""Ranges to which x is known by name to be clipped."""


class Deviation(NamedTuple):
    """One known way to differ from the paper's cell.

    Attributes
    ----------
    name : str
        Unique in the catalogue.
    kind : "convention", "forward", "gradient" or "rounding"
        A convention is right once it is declared. A mistake changes the states, or the gradients alone. A rounding
        replaces no line; the catalogue has none, ``precision.py`` has them.
    cells : tuple of str
        Where it exists.
    statement, usual_cause, fix : str
        What is wrong, in one sentence; where it usually comes from; what to do.
    tags : tuple of str
        Of the equations it breaks.
    replaces : mapping of str to value
        The fields of :class:`Lines` that it replaces.
    """

    name: str
    kind: Kind
    cells: tuple[str, ...]
    statement: str
    usual_cause: str
    fix: str
    tags: tuple[str, ...]
    replaces: Mapping[str, Any]

    @property
    def lines(self) -> Lines:
        """The lines of both passes with the deviation in them."""
        return Lines()._replace(**self.replaces)


GATED = ("gated",)
IDENTITY = Activation(lambda a: a, lambda a, s: 1.0)
RELU = Activation(lambda a: a * (a.real > 0), lambda a, s: (a.real > 0).astype(a.dtype))
HARD_TANH = Activation(
    lambda a: np.where(np.abs(a.real) < 1, a, np.sign(a.real)), lambda a, s: (np.abs(a.real) < 1).astype(a.dtype)
)


def _clipped(array: Array, low: float, high: float) -> Array:
    """``np.clip``, of complex numbers too: what is inside by its real part stays as it is."""
    return np.where(_inside(array, low, high), array, np.clip(array.real, low, high))


def _inside(array: Array, low: float, high: float) -> Array:
    return ((array.real > low) & (array.real < high)).astype(array.dtype)


def _rational(a: Array) -> Array:
    return np.where(np.abs(a.real) < 3, a * (27 + a**2) / (27 + 9 * a**2), np.sign(a.real))


def _rational_slope(a: Array, s: Array) -> Array:  # noqa: ARG001
    inside = ((27 + 3 * a**2) * (27 + 9 * a**2) - 18 * a**2 * (27 + a**2)) / (27 + 9 * a**2) ** 2
    return np.where(np.abs(a.real) < 3, inside, 0 * a)


CLIPPED_TANH = Activation(lambda a: np.tanh(_clipped(a, -3, 3)), lambda a, s: (1 - s**2) * _inside(a, -3, 3))
RATIONAL_TANH = Activation(_rational, _rational_slope)


def _hard_sigmoid(slope: float) -> Activation:
    def inside(a: Array) -> Array:
        return np.abs(slope * a.real) < 0.5

    return Activation(
        lambda a: np.where(inside(a), slope * a + 0.5, a.real > 0), lambda a, z: slope * inside(a).astype(a.dtype)
    )


def _shifted(array: Array, steps: int, wrap: bool) -> Array:
    """The array moved one step later (1) or earlier (−1); the free step is zero or, with ``wrap``, the lost one."""
    moved = np.roll(array, steps, axis=0)
    if not wrap:
        moved[: 1 if steps > 0 else 0] = 0
        moved[len(moved) if steps > 0 else -1 :] = 0
    return moved


def _shifted_gradient(dx: Array, x: Array, steps: int, wrap: bool) -> Array:  # noqa: ARG001
    return _shifted(dx, steps, wrap)


def _first_for_all(array: Array, axis: int) -> Array:
    """The first along an axis in the place of every one."""
    return np.broadcast_to(np.take(array, range(min(1, array.shape[axis])), axis), array.shape)


def _gathered(gradient: Array, axis: int) -> Array:
    """The transpose of :func:`_first_for_all`."""
    found = np.zeros_like(gradient)
    np.moveaxis(found, axis, 0)[:1] = gradient.sum(axis=axis)
    return found


def _without_cotangent(k: Step, t: int) -> bool:
    """Whether none arrives at h_t, of cotangents on every state."""
    return bool(k.g.ndim == 3 and not k.g[t].any())


def _ended(k: Step) -> bool:
    return any(_without_cotangent(k, t + 1) for t in range(k.t, k.T))


def _some(cotangents: Array) -> Array:
    """Whether a sample has a cotangent, (B, 1)."""
    return cotangents.any(axis=-1, keepdims=True)


def _norm_clipped(arrays: Arrays, B: int) -> Arrays:  # noqa: ARG001
    names = [name for name in ("W", "V", "b", "V_z", "b_z") if name in arrays]
    norm = np.sqrt(sum((arrays[name] ** 2).sum() for name in names))
    return arrays | {name: arrays[name] * np.minimum(1, 1 / (norm + 1e-6)) for name in names}


def _edited(**edits: Callable[[Array], Array]) -> Callable[[Arrays, int], Arrays]:
    """Change arrays by name; names that are not among them are ignored."""

    def edit(arrays: Arrays, B: int) -> Arrays:  # noqa: ARG001
        return arrays | {name: change(arrays[name]) for name, change in edits.items() if name in arrays}

    return edit


def _renamed(**names: str) -> Callable[[Arrays], Arrays]:
    """Put arrays in the place of others; names that are not among them are ignored."""

    def rename(arrays: Arrays) -> Arrays:
        return arrays | {name: arrays[other] for name, other in names.items() if other in arrays}

    return rename


def _steps(count: int) -> str:
    return f"{count} steps" if count > 1 else "step"


def _divided(names: tuple[str, ...]) -> Callable[[Arrays, int], Arrays]:
    return lambda arrays, B: arrays | {name: arrays[name] / B for name in names if name in arrays}


def _convention(
    name: str, statement: str, usual_cause: str, fix: str, *tags: str, cells: tuple[str, ...] = CELLS, **replaces: Any
) -> Deviation:
    return Deviation(name, "convention", cells, statement, usual_cause, fix, tags, replaces)


def _forward_mistake(
    name: str, statement: str, usual_cause: str, fix: str, *tags: str, cells: tuple[str, ...] = CELLS, **replaces: Any
) -> Deviation:
    return Deviation(name, "forward", cells, statement, usual_cause, fix, tags, replaces)


def _gradient_mistake(
    name: str, statement: str, usual_cause: str, fix: str, *tags: str, cells: tuple[str, ...] = CELLS, **replaces: Any
) -> Deviation:
    return Deviation(name, "gradient", cells, statement, usual_cause, fix, tags, replaces)


_EXCHANGED = _renamed(V="V_z", V_z="V", b="b_z", b_z="b")

_CONVENTIONS = (
    _convention(
        "row vectors",
        "h @ M stands in place of M h: the model with Wᵀ for W.",
        "The equation was typed for rows without transposing M; M is not symmetric.",
        "Use h @ M.T, or transpose W whenever weights are exchanged, and say so.",
        "F2", "GF1", "GF3",
        reads=lambda leaves: leaves | {"W": leaves["W"].T},
        returns=_edited(W=np.transpose),
    ),
    _convention(
        "W stored transposed",
        "The gradient of W comes in the transposed layout; the states are right.",
        "W is kept as (from, to), and transposed on the way in but not on the way out.",
        "Transpose dW too.",
        "B8",
        returns=_edited(W=np.transpose),
    ),
    _convention(
        "V stored transposed",
        "The gradients of the input weights come as (m, n); the states are right.",
        "Input weights are kept as (from, to), for x @ V.",
        "Transpose the gradients of the input weights too.",
        "B4", "GB5",
        returns=_edited(V=np.transpose, V_z=np.transpose),
    ),
    _convention(
        "batch first",
        "States and dx come as (B, T+1, n) and (B, T, m).",
        "The framework's batch_first layout.",
        "Swap the first two axes.",
        "F4", "GF5",
        returns=_edited(h=lambda h: h.swapaxes(0, 1), x=lambda dx: dx.swapaxes(0, 1)),
    ),
    _convention(
        "samples in columns",
        "States, dx and dh_0 have the samples on the last axis.",
        "The paper's column vectors, written side by side.",
        "Swap the last two axes.",
        "F4", "GF5",
        returns=_edited(
            h=lambda h: h.swapaxes(-1, -2), x=lambda dx: dx.swapaxes(-1, -2), h0=lambda dh0: dh0.swapaxes(-1, -2)
        ),
    ),
    _convention(
        "states without h_0",
        "The states begin with h_1.",
        "A layer's outputs, one for each input.",
        "Put h_0 in front.",
        "F4", "GF5",
        returns=_edited(h=lambda h: h[1:]),
    ),
    _convention(
        "dW of the strict upper triangle",
        "dW is zero on and below the diagonal.",
        "W is kept strictly upper triangular, with n(n−1)/2 free entries, as the paper allows.",
        "Compare the free entries alone, or expand them to dW − dWᵀ.",
        "B8",
        returns=_edited(W=lambda dW: np.triu(dW, 1)),
    ),
    _convention(
        "gate and candidate exchanged",
        "V and b act in the gate, V_z and b_z in the candidate.",
        "Both are kept in one stacked matrix, in the other order.",
        "Exchange the two blocks when weights are exchanged, and say so.",
        "GF1", "GF3",
        cells=GATED,
        reads=_EXCHANGED,
        returns=lambda arrays, B: _EXCHANGED(arrays),
    ),
    _convention(
        "gradients of the mean loss",
        "Every gradient is divided by B.",
        "The loss is averaged over the batch before it is differentiated.",
        "Multiply by B, or give the sum as the loss.",
        "B3", "B4", "B5", "B6", "B7", "GB4", "GB5", "GB6", "GB7", "GB8",
        returns=_divided((*BATCH_SUMS, "x", "h0")),
    ),
    _convention(
        "bias split in two",
        "The gradient of the bias is counted twice.",
        "Two biases that only act as their sum, one with W and one with V; each has the full gradient.",
        "Take the gradient of one of the two.",
        "B5", "GB6",
        returns=_edited(b=lambda db: 2 * db, b_z=lambda db: 2 * db),
    ),
)  # fmt: skip

_IN_M = (
    _forward_mistake(
        "γ subtracted from every entry of M",
        "M is W − Wᵀ − γ 11ᵀ.",
        "A scalar subtracted from a matrix broadcasts.",
        "Subtract γ times the identity.",
        "F1", "B9",
        matrix=lambda mix: mix._replace(identity=0.0, ones=-1.0),
    ),
    _forward_mistake(
        "γ subtracted from every pre-activation",
        "γ is subtracted from a instead of γ h.",
        "γ was taken out of the product with h.",
        "Subtract γ times the identity from W − Wᵀ, or γ h from a.",
        "F1", "F2", "GF1", "GF3", "B9",
        matrix=lambda mix: mix._replace(identity=0.0), shift=-1.0,
    ),
    _forward_mistake(
        "γ of the wrong sign",
        "M is W − Wᵀ + γI: the diffusion feeds the state instead of damping it.",
        "W − (Wᵀ − γI), or γ on the other side.",
        "Subtract γ times the identity.",
        "F1", "B9",
        matrix=lambda mix: mix._replace(identity=1.0),
    ),
    _forward_mistake(
        "γ missing",
        "M is W − Wᵀ.",
        "Equation (10) was implemented, not (12); or γI was subtracted from W, where W − Wᵀ cancels it.",
        "Subtract γ times the identity from W − Wᵀ.",
        "F1", "B9",
        matrix=lambda mix: mix._replace(identity=0.0),
    ),
    _forward_mistake(
        "2γ",
        "M is W − Wᵀ − 2γI.",
        "γ is subtracted where M is made and again where it is used.",
        "Subtract γ once.",
        "F1", "B9",
        matrix=lambda mix: mix._replace(identity=-2.0),
    ),
    _forward_mistake(
        "γ left out of the ablation",
        "The ablation's M is W instead of W − γI.",
        "γ was taken for a part of the constraint.",
        "Subtract γ times the identity in both variants.",
        "F1", "B9",
        matrix=lambda mix: mix if mix.transposed else mix._replace(identity=0.0),
    ),
    _forward_mistake(
        "W in place of W − Wᵀ",
        "M is W − γI: the ablation where the constrained cell was asked.",
        "W was initialised antisymmetric and then trained freely.",
        "Form W − Wᵀ in every call, not once.",
        "F1", "B8",
        matrix=lambda mix: mix._replace(transposed=0.0),
    ),
    _forward_mistake(
        "W − Wᵀ in the ablation too",
        "The ablation antisymmetrises W.",
        "The flag is not passed on.",
        "Use W as it is if unconstrained.",
        "F1", "B8",
        matrix=lambda mix: mix._replace(transposed=-1.0),
    ),
    _forward_mistake(
        "W + Wᵀ",
        "M is W + Wᵀ − γI: symmetric, with real eigenvalues.",
        "A sign.",
        "Subtract the transpose.",
        "F1", "B8",
        matrix=lambda mix: mix._replace(transposed=-mix.transposed),
    ),
    _forward_mistake(
        "(W − Wᵀ) / 2",
        "M is the antisymmetric part of W, half of W − Wᵀ.",
        "The textbook's antisymmetric part.",
        "Leave out the factor 1/2, or double W when weights are exchanged.",
        "F1", "B8",
        matrix=lambda mix: mix._replace(W=0.5, transposed=-0.5) if mix.transposed else mix,
    ),
    _forward_mistake(
        "2W in place of W − Wᵀ",
        "M is 2W − γI.",
        "W was taken for antisymmetric, as it may be when it is made.",
        "Form W − Wᵀ in every call.",
        "F1", "B8",
        matrix=lambda mix: mix._replace(W=2.0, transposed=0.0) if mix.transposed else mix,
    ),
    *(
        _forward_mistake(
            f"{which} triangle of W alone",
            f"Only the strict {which} triangle of W acts: M is P − Pᵀ − γI with that triangle P.",
            f"W is kept as its strict {which} triangle, as the paper allows, and a full W was given.",
            f"Give it W − Wᵀ's strict {which} triangle when weights are exchanged.",
            "F1", "B8",
            matrix=functools.partial(lambda mix, part: mix._replace(part=part) if mix.transposed else mix, part=part),
        )
        for which, part in (("upper", lambda W: np.triu(W, 1)), ("lower", lambda W: np.tril(W, -1)))
    ),
    _forward_mistake(
        "M transposed in the gate alone",
        "The gate uses h @ M in place of M h.",
        "One of the two products was typed for rows.",
        "Compute M h once and use it twice.",
        "GF3",
        cells=GATED, gate_matrix=(0.0, 1.0),
    ),
    _forward_mistake(
        "M h missing in the gate",
        "The gate sees the input alone.",
        "The shared M was taken for the candidate's own.",
        "Add M h to the gate's pre-activation too.",
        "GF3",
        cells=GATED, gate_matrix=(0.0, 0.0),
    ),
)  # fmt: skip

_IN_A = (
    _forward_mistake(
        "gate bias missing",
        "b_z is not added. At initialisation it is zero, so nothing shows.",
        "The recurrent product has the bias in the candidate, and is reused without it.",
        "Add b_z to the gate's pre-activation.",
        "GF3", "GB6",
        cells=GATED, affine=(("V", "b"), ("V_z", None)),
    ),
    _forward_mistake(
        "candidate bias missing",
        "b is not added. At initialisation it is zero, so nothing shows.",
        "A linear layer without a bias.",
        "Add b to the candidate's pre-activation.",
        "F2", "B5", "GF1", "GB6",
        affine=(("V", None), ("V_z", "b_z")),
    ),
    _forward_mistake(
        "candidate's bias in the gate",
        "The gate adds b in place of b_z.",
        "M h + b was computed once and used twice.",
        "Add b_z to the gate's pre-activation.",
        "GF3", "GB6",
        cells=GATED, affine=(("V", "b"), ("V_z", "b")),
    ),
    _forward_mistake(
        "candidate's input weights in the gate",
        "The gate uses V in place of V_z.",
        "V x was computed once and used twice.",
        "Use V_z in the gate.",
        "GF3", "GB5",
        cells=GATED, affine=(("V", "b"), ("V", "b_z")),
    ),
    *(
        _forward_mistake(
            f"input of the step {which}, {edge}",
            f"Step t uses x of the step {which} it; where there is none, {'the other end' if wrap else 'zero'}.",
            "x[t] is the paper's x_{t+1}: an index is one off.",
            "Let the step from h[t] to h[t + 1] use x[t].",
            "F2", "GF1", "GF3",
            inputs=functools.partial(_shifted, steps=steps, wrap=wrap),
            inputs_gradient=functools.partial(_shifted_gradient, steps=-steps, wrap=wrap),
        )
        for which, steps in (("before", 1), ("after", -1))
        for edge, wrap in (("zero at the end", False), ("wrapped", True))
    ),
    *(
        _forward_mistake(name, statement, cause, fix, "F2", "GF1", "GF3", inputs=inputs, inputs_gradient=gradient)
        for name, statement, cause, fix, inputs, gradient in (
            (
                "input of the first step at every step", "Every step uses x of the first.",
                "x was constant in time where it was tried.", "Let the step from h[t] to h[t + 1] use x[t].",
                functools.partial(_first_for_all, axis=0), lambda dx, x: _gathered(dx, 0),
            ),
            (
                "input of the first sample for every sample", "Every sample uses the first one's x.",
                "The samples were equal where it was tried.", "Use each sample's own input.",
                functools.partial(_first_for_all, axis=1), lambda dx, x: _gathered(dx, 1),
            ),
            (
                "x cast to integers", "The fraction of every input is cut off.",
                "x was an array of bytes or indices where it was tried.", "Keep the inputs in their dtype.",
                lambda x: np.trunc(x.real).astype(x.dtype), lambda dx, x: 0 * dx,
            ),
            (
                "x read as one-hot", "1 stands in place of the largest entry of x, and 0 in place of the others.",
                "V x was written as a look-up of one column of V.", "Multiply by V.",
                lambda x: np.eye(x.shape[-1], dtype=x.dtype)[x.real.argmax(axis=-1)], lambda dx, x: 0 * dx,
            ),
        )
    ),
    *(
        _forward_mistake(
            f"x clipped to [{low}, {high}]".replace("-", "−"),
            f"Inputs outside [{low}, {high}] are moved to its ends.".replace("-", "−"),
            "The data it was written for lie in that range.",
            "Take the inputs as they are.",
            "F2", "GF1", "GF3",
            inputs=functools.partial(_clipped, low=low, high=high),
            inputs_gradient=functools.partial(
                lambda dx, x, low, high: dx * _inside(x, low, high), low=low, high=high
            ),
        )
        for low, high in CLIPS
    ),
    _forward_mistake(
        "x reshaped instead of transposed",
        "Steps and samples are mixed: (T, B, m) was read as (B, T, m).",
        "reshape where the axes must be swapped.",
        "Use swapaxes or transpose.",
        "F2", "GF1", "GF3",
        inputs=lambda x: x.reshape(x.shape[1], x.shape[0], x.shape[2]).swapaxes(0, 1),
        inputs_gradient=lambda dx, x: dx.swapaxes(0, 1).reshape(dx.shape),
    ),
    _forward_mistake(
        "V reshaped instead of transposed",
        "The entries of the input weights are in another order: (n, m) was read as (m, n).",
        "reshape where the axes must be swapped.",
        "Use the transpose.",
        "F2", "GF1", "GF3",
        reads=lambda leaves: leaves | {k: leaves[k].reshape(leaves[k].shape[::-1]).T for k in leaves if k[0] == "V"},
        total=_edited(V=lambda dV: dV.T.reshape(dV.shape), V_z=lambda dV: dV.T.reshape(dV.shape)),
    ),
)  # fmt: skip

_IN_H = (
    *(
        _forward_mistake(
            name, statement, cause, "Apply tanh to the candidate's pre-activation.", "F3", "GF2", "B1", "GB1",
            candidate=activation,
        )
        for name, statement, cause, activation in (
            ("tanh dropped", "s is a: the cell is linear but for a gate.", "A layer without its activation.", IDENTITY),
            ("hard tanh", "s is a, cut at −1 and 1.", "A cheaper activation.", HARD_TANH),
            ("σ in place of tanh", "s is σ(a): the state only grows.", "The other activation of an LSTM.", SIGMOID),
            ("ReLU in place of tanh", "s is max(a, 0): the state only grows.", "A default activation.", RELU),
            ("a clipped to [−3, 3]", "s is tanh of a moved to the ends of [−3, 3].", "A guard.", CLIPPED_TANH),
            (
                "rational tanh", "s is a (27 + a²) / (27 + 9a²), cut at −3 and 3.",
                "A faster tanh that is right to two digits.", RATIONAL_TANH,
            ),
        )
    ),
    *(
        _forward_mistake(
            name, statement, cause, "Apply σ to the gate's pre-activation.", "GF4", "GB2", cells=GATED, gate=activation
        )
        for name, statement, cause, activation in (
            (
                "1 − z in place of z",
                "The gate is σ(−a_z): open where it should be closed.",
                "The other gate of a GRU, or a sign in the exponential.",
                Activation(lambda a: 1 / (1 + np.exp(a)), lambda a, z: -z * (1 - z)),
            ),
            ("tanh in place of σ", "The gate is tanh and can be negative.", "One activation for both.", TANH),
            ("hard σ, slope 1/5", "z is a_z/5 + 1/2, from 0 to 1.", "Keras 2's.", _hard_sigmoid(1 / 5)),
            ("hard σ, slope 1/6", "z is a_z/6 + 1/2, from 0 to 1.", "PyTorch's.", _hard_sigmoid(1 / 6)),
        )
    ),
    *(
        _forward_mistake(name, statement, cause, fix, "F4", "GF5", cells=cells, update=Update(value, slopes))
        for name, statement, cause, fix, cells, value, slopes in (
            (
                "residual dropped", "h_t is the increment alone.", "A plain recurrent cell.", "Add h_{t−1}.", CELLS,
                lambda k: k.step_size * k.z * k.s,
                lambda k: Slopes(0.0, k.step_size * k.z, k.step_size * k.s, k.z * k.s),
            ),
            (
                "ε dropped", "h_t is h_{t−1} + z s.", "ε taken for 1.", "Multiply the increment by ε.", CELLS,
                lambda k: k.h + k.z * k.s,
                lambda k: Slopes(1.0, k.z, k.s, 0.0),
            ),
            (
                "residual and ε dropped", "h_t is z s: the plain recurrent cell.", "Only M was taken from the paper.",
                "Take a step of size ε from h_{t−1}.", CELLS,
                lambda k: k.z * k.s,
                lambda k: Slopes(0.0, k.z, k.s, 0.0),
            ),
            (
                "ε applied to h too", "h_t is ε (h_{t−1} + z s).", "A parenthesis.", "Multiply the increment alone.",
                CELLS,
                lambda k: k.step_size * (k.h + k.z * k.s),
                lambda k: Slopes(k.step_size, k.step_size * k.z, k.step_size * k.s, k.h + k.z * k.s),
            ),
            (
                "leaky update", "h_t is (1 − ε) h_{t−1} + ε z s: every unit forgets.", "A leaky integrator's update.",
                "Add the increment to the whole of h_{t−1}.", CELLS,
                lambda k: k.h + k.step_size * (k.z * k.s - k.h),
                lambda k: Slopes(1.0 - k.step_size, k.step_size * k.z, k.step_size * k.s, k.z * k.s - k.h),
            ),
            (
                "γ outside the tanh too", "h_t has −ε γ h_{t−1} besides the −γ h_{t−1} inside the tanh.",
                "A linear damping, as later cells have it.", "Keep γ inside M alone.", CELLS,
                lambda k: k.h + k.step_size * (k.z * k.s - k.diffusion * k.h),
                lambda k: Slopes(
                    1.0 - k.step_size * k.diffusion, k.step_size * k.z, k.step_size * k.s,
                    k.z * k.s - k.diffusion * k.h, -k.step_size * k.h,
                ),
            ),
            (
                "h clipped to [−1, 1]", "Every state after h_0 is moved into [−1, 1].", "A guard.",
                "Leave the state as it is: only s is bounded.", CELLS,
                lambda k: _clipped(EULER.value(k), -1, 1),
                lambda k: Slopes(*(_inside(EULER.value(k), -1, 1) * slope for slope in EULER.slopes(k))),
            ),
            (
                "gate computed, tanh dropped", "h_t is h_{t−1} + ε z: the candidate is not used.",
                "The gate overwrote the candidate.", "Multiply the gate by the candidate, tanh a.", GATED,
                lambda k: k.h + k.step_size * k.z,
                lambda k: Slopes(1.0, 0.0, k.step_size, k.z),
            ),
            (
                "gate dropped", "h_t is h_{t−1} + ε s: equation (12).", "The gate is computed and not used.",
                "Multiply the increment by the gate.", GATED,
                lambda k: k.h + k.step_size * k.s,
                lambda k: Slopes(1.0, k.step_size, 0.0, k.s),
            ),
            (
                "gate on the state", "h_t is z h_{t−1} + ε s.", "A forget gate's place.",
                "Multiply the increment by the gate, not h_{t−1}.", GATED,
                lambda k: k.z * k.h + k.step_size * k.s,
                lambda k: Slopes(k.z, k.step_size, k.h, k.s),
            ),
            (
                "GRU's update", "h_t is (1 − z) h_{t−1} + z s.", "The update gate of a GRU.",
                "Add ε z s to the whole of h_{t−1}.", GATED,
                lambda k: (1 - k.z) * k.h + k.z * k.s,
                lambda k: Slopes(1 - k.z, k.z, k.s - k.h, 0.0),
            ),
        )
    ),
    _forward_mistake(
        "ε = 1 and γ = 0 whatever is asked",
        "Defaults take the place of the arguments, in a corner where (11) holds for no W − Wᵀ but 0.",
        "Keyword arguments that are not passed on.",
        "Give ε and γ no default, and pass them on.",
        "F1", "F4", "GF5",
        constants=lambda step_size, diffusion: (1.0, 0.0),
        total=_edited(step_size=np.zeros_like, diffusion=np.zeros_like),
    ),
    _forward_mistake(
        "h_0 ignored",
        "The first state is zero.",
        "The layer makes its own initial state.",
        "Start from h_0.",
        "F4", "GF5",
        start=np.zeros_like, total=_edited(h0=np.zeros_like),
    ),
    _forward_mistake(
        "h_0 of the first sample for every sample",
        "Every sample starts from the first one's h_0.",
        "The rows of h_0 were equal where it was tried.",
        "Start each sample from its own row.",
        "F4", "GF5",
        start=functools.partial(_first_for_all, axis=0), total=_edited(h0=functools.partial(_gathered, axis=0)),
    ),
)  # fmt: skip

_IN_DELTA = (
    _gradient_mistake(
        "ε missing in δ",
        "The derivative of h_t with respect to a_t lacks ε.",
        "The derivative of tanh was written down, not that of the step.",
        "Multiply δ by ε.",
        "B1", "GB1", "GB2",
        delta=lambda k: k.z * TANH.slope(k.a, k.s) * k.adjoint,
        delta_z=lambda k: k.s * SIGMOID.slope(k.a_z, k.z) * k.adjoint,
    ),
    _gradient_mistake(
        "ε missing in δ_z",
        "δ_z lacks ε; δ has it.",
        "The second line was written without looking at the first.",
        "Multiply δ_z by ε.",
        "GB2",
        cells=GATED, delta_z=lambda k: k.s * SIGMOID.slope(k.a_z, k.z) * k.adjoint,
    ),
    *(
        _gradient_mistake(
            name, statement, cause, "Multiply by 1 − s² with s = tanh a.", "B1", "GB1",
            delta=functools.partial(lambda k, slope: k.slopes.s * slope(k) * k.adjoint, slope=slope),
        )
        for name, statement, cause, slope in (
            ("1 − a² with a before tanh", "The derivative of tanh is taken as 1 − a².", "a was kept, not s.",
             lambda k: 1 - k.a**2),
            ("1 − s in place of 1 − s²", "The derivative of tanh is taken as 1 − s.", "The square was lost.",
             lambda k: 1 - k.s),
            ("derivative of tanh dropped", "The derivative of tanh is taken as 1.", "It was forgotten.",
             lambda k: 1.0),
        )
    ),
    _gradient_mistake(
        "gate missing in δ",
        "δ lacks the factor z.",
        "Equation (12)'s backward pass was taken over.",
        "Multiply δ by z.",
        "GB1",
        cells=GATED, delta=lambda k: k.step_size * TANH.slope(k.a, k.s) * k.adjoint,
    ),
    *(
        _gradient_mistake(
            name, statement, cause, "Multiply by ε s z (1 − z).", "GB2", cells=GATED,
            delta_z=functools.partial(lambda k, slope: k.slopes.z * slope(k) * k.adjoint, slope=slope),
        )
        for name, statement, cause, slope in (
            ("gate derivative without 1 − z", "σ' is taken as z.", "Half of z (1 − z).", lambda k: k.z),
            ("gate derivative without z", "σ' is taken as 1 − z.", "Half of z (1 − z).", lambda k: 1 - k.z),
            ("gate derivative of tanh", "σ' is taken as 1 − z².", "The line of δ was copied.", lambda k: 1 - k.z**2),
            ("gate held constant", "δ_z is zero: the gate has no derivative.", "It was detached.", lambda k: 0.0),
        )
    ),
    _gradient_mistake(
        "s missing in δ_z",
        "δ_z lacks the factor s.",
        "The product rule was half applied.",
        "Multiply δ_z by s.",
        "GB2",
        cells=GATED, delta_z=lambda k: k.step_size * SIGMOID.slope(k.a_z, k.z) * k.adjoint,
    ),
)  # fmt: skip

_IN_ADJOINT = (
    _gradient_mistake(
        "missing transpose in the adjoint",
        "The adjoint goes back through M in place of Mᵀ.",
        "The forward pass's product was copied.",
        "Use delta @ M for rows: Mᵀ δ.",
        "B2", "GB3",
        adjoint_matrix=lambda mix: mix._replace(W=mix.transposed, transposed=mix.W),
    ),
    _gradient_mistake(
        "γ missing in the adjoint",
        "The adjoint goes back through (W − Wᵀ)ᵀ, without −γI.",
        "γ is in the forward pass's M alone, or Mᵀ v was written as −M v − γ v, with γ once instead of twice.",
        "Use the same M in both passes.",
        "B2", "GB3",
        adjoint_matrix=lambda mix: mix._replace(identity=0.0),
    ),
    _gradient_mistake(
        "γ missing in all of backward",
        "Backward makes its pre-activations again, and the adjoint goes back, with W − Wᵀ in place of M.",
        "Backward forms its own M.",
        "Use the same M in both passes.",
        "F1", "B2", "GB3",
        replayed=lambda mix: mix._replace(identity=0.0), adjoint_matrix=lambda mix: mix._replace(identity=0.0),
    ),
    _gradient_mistake(
        "γ of the wrong sign in the adjoint",
        "The adjoint goes back through −M in place of Mᵀ = −M − 2γI.",
        "M was taken for antisymmetric; with γ it is not.",
        "Subtract 2γ v.",
        "B2", "GB3",
        adjoint_matrix=lambda mix: mix._replace(identity=1.0),
    ),
    _gradient_mistake(
        "residual missing in the adjoint",
        "adjoint_{t−1} is Mᵀ δ_t + g_{t−1} alone.",
        "The backward pass of a plain recurrent cell.",
        "Add adjoint_t.",
        "B2", "GB3",
        residual=lambda k: np.zeros_like(k.adjoint),
    ),
    _gradient_mistake(
        "gate missing in the adjoint",
        "δ_z does not go back through M.",
        "M was taken for the candidate's alone.",
        "Use Mᵀ (δ + δ_z).",
        "GB3",
        cells=GATED, gate_in=("M", "x"),
    ),
    *(
        _gradient_mistake(
            name, statement, cause, "Add g_t at every step, h_0 included.", "B2", "GB3",
            cotangent=functools.partial(lambda g, t, T, at: arriving(g, t, T) if at(t, T) else 0, at=at),
        )
        for name, statement, cause, at in (
            ("missing cotangent on h_0", "g_0 is not added.", "The loop adds g where it makes δ.",
             lambda t, T: t > 0 or T == 0),
            ("missing cotangents on intermediate states", "Only g_0 and g_T are added.", "A loss on them was meant.",
             lambda t, T: t in (0, T)),
            ("cotangent injected at the last step only", "Only g_T is added.", "A loss on the last state was meant.",
             lambda t, T: t == T),
            ("missing cotangent on h_T", "g_T is not added.", "The loop adds g where it leaves a step.",
             lambda t, T: t < T),
        )
    ),
    _gradient_mistake(
        "gradients of the mean over the states",
        "Cotangents of every state are divided by T + 1, and with them every gradient.",
        "The loss is averaged over the states before it is differentiated.",
        "Use g as it is given.",
        "B2", "GB3",
        cotangent=lambda g, t, T: arriving(g, t, T) / (T + 1 if g.ndim == 3 else 1),
    ),
    _gradient_mistake(
        "samples without a cotangent on h_T left out of backward",
        "A sample whose g_T is zero has no other cotangent either.",
        "g_T was taken for a mask of the samples that have a loss.",
        "Add g_t of every sample.",
        "B2", "GB3",
        cotangent=lambda g, t, T: arriving(g, t, T) * (_some(g[T]) if g.ndim == 3 else 1),
    ),
    _gradient_mistake(
        "adjoint dropped where a sample has no cotangent",
        "adjoint_t of a sample is zero where its g_t is.",
        "g_t was taken for a mask of the steps that count.",
        "Carry the adjoint back through every step.",
        "B2", "GB3",
        arrive=lambda k, carried, g: (carried + g) * (_some(g) if k.g.ndim == 3 else 1),
    ),
    _gradient_mistake(
        "steps without a cotangent left out of backward",
        "A step to a state whose cotangent is zero is not differentiated.",
        "No direct cotangent was taken for no adjoint.",
        "Differentiate every step: later cotangents go back through it.",
        "B2", "GB3",
        arrive=lambda k, carried, g: (k.adjoint if _without_cotangent(k, k.t + 1) else carried) + g,
        counted=lambda k, name: not _without_cotangent(k, k.t + 1),
    ),
    _gradient_mistake(
        "backward ends at a step without a cotangent",
        "The first state from the end whose cotangent is zero is taken for h_0.",
        "An early exit: no direct cotangent was taken for no adjoint.",
        "Go back to h_0.",
        "B2", "GB3",
        arrive=lambda k, carried, g: k.adjoint if _ended(k) else carried + g,
        counted=lambda k, name: not _ended(k),
    ),
    _gradient_mistake(
        "adjoint clipped to [−1, 1]",
        "Every entry of adjoint_t is moved into [−1, 1] at every step.",
        "A guard against gradients that explode.",
        "Clip the gradients, if at all, after they are complete.",
        "B2", "GB3",
        arrive=lambda k, carried, g: np.clip(carried + g, -1, 1),
    ),
    _gradient_mistake(
        "cotangent of the next state",
        "g_{t+1} is added in place of g_t.",
        "An index is one off.",
        "Add g_t where the adjoint of h_t is made.",
        "B2", "GB3",
        cotangent=lambda g, t, T: arriving(g, min(t + 1, T), T),
    ),
    *(
        _gradient_mistake(
            f"backpropagation through the last {_steps(length)} only",
            f"Every step but the last {length} is taken for a constant.",
            "Truncated backpropagation through time, of the last chunk alone.",
            "Go back to h_0.",
            "B2", "GB3",
            arrive=functools.partial(
                lambda k, carried, g, length: carried + g if k.t > k.T - length else 0 * carried, length=length
            ),
        )
        for length in TRUNCATIONS
    ),
    *(
        _gradient_mistake(
            f"state detached after every {_steps(length)}",
            f"Chunks of length {length} take their first state for a constant.",
            "Truncated backpropagation through time, chunk by chunk.",
            "Carry the adjoint from chunk to chunk.",
            "B2", "GB3",
            arrive=functools.partial(
                lambda k, carried, g, length: (carried if k.t % length else 0 * carried) + g, length=length
            ),
        )
        for length in TRUNCATIONS
    ),
    _gradient_mistake(
        "first step left out of backward",
        "The step from h_0 to h_1 is not differentiated; dh_0 is adjoint_1.",
        "The loop ends one step early.",
        "Run the loop down to the first step.",
        "B2", "GB3",
        arrive=lambda k, carried, g: carried + g if k.t else k.adjoint,
        counted=lambda k, name: k.t > 0,
    ),
    _gradient_mistake(
        "last step left out of backward",
        "The step from h_{T−1} to h_T is not differentiated; g_T stands in place of adjoint_{T−1}.",
        "The loop begins one step early.",
        "Begin with the last step.",
        "B2", "GB3",
        arrive=lambda k, carried, g: carried + g if k.t < k.T - 1 else k.adjoint,
        counted=lambda k, name: k.t < k.T - 1,
    ),
)  # fmt: skip

_IN_SUMS = (
    _gradient_mistake(
        "h_t for h_{t−1} in dW",
        "δ_t meets the state after the step.",
        "The stored states are used at the same index as δ.",
        "Use the state before the step.",
        "B3", "GB4",
        before=lambda k: k.h_next,
    ),
    _gradient_mistake(
        "h_1 for h_0 in dW",
        "δ_1 meets h_1; every later δ_t meets h_{t−1}.",
        "h_0 is not among the stored states, and the first that is takes its place.",
        "Use h_0 for the first step.",
        "B3", "GB4",
        before=lambda k: k.h if k.t else k.h_next,
    ),
    *(
        _gradient_mistake(
            name, statement, cause, fix, "B3", "B4", "B5", "B7", "GB4", "GB5", "GB6", "GB8", summed=summed
        )
        for name, statement, cause, fix, summed in (
            (
                "last sample left out of the sums", "What the samples share has no gradient from the last one.",
                "A range that ends one early.", "Sum over all B samples.",
                lambda k, array: array * (np.arange(len(array)) < len(array) - 1)[:, None].astype(array.dtype),
            ),
            (
                "sums of the first sample only", "What the samples share has its gradient from the first one alone.",
                "B was 1 where it was tried, or the samples were equal.", "Sum over all B samples.",
                lambda k, array: array * (np.arange(len(array)) < 1)[:, None].astype(array.dtype),
            ),
            (
                "mean instead of sum over the steps",
                "The gradients of what the steps share are divided by T; dx and dh_0 are not.",
                "A mean over the time axis.", "Sum over the steps.", lambda k, array: array / k.T,
            ),
        )
    ),
    _gradient_mistake(
        "gate missing in dW",
        "δ_z is not part of dL/dM.",
        "M was taken for the candidate's alone.",
        "Use δ + δ_z.",
        "GB4",
        cells=GATED, gate_in=("adjoint", "x"),
    ),
    _gradient_mistake(
        "gate missing in dx",
        "dx lacks V_zᵀ δ_z.",
        "Equation (12)'s backward pass was taken over.",
        "Add V_zᵀ δ_z.",
        "GB7",
        cells=GATED, gate_in=("adjoint", "M"),
    ),
    *(
        _gradient_mistake(
            f"input of the step {which} in dV",
            f"δ_t meets the input of the step {which} it, at the end the one at the other end.",
            "An index is one off.",
            "Use the input of the step itself.",
            "B4", "GB5",
            weight_input=functools.partial(lambda x, t, steps: x[(t - steps) % len(x)], steps=steps),
        )
        for which, steps in (("before", 1), ("after", -1))
    ),
    *(
        _gradient_mistake(
            f"{what} of the {which} step only",
            f"{what} has the {which} step's term alone.",
            cause,
            "Add the terms of all steps.",
            *tags,
            counted=functools.partial(
                lambda k, name, names, first: name not in names or k.t == (0 if first else k.T - 1),
                names=names, first=which == "first",
            ),
        )
        for what, names, tags in (
            ("db", ("b", "b_z"), ("B5", "GB6")), ("dV", ("V", "V_z"), ("B4", "GB5")), ("dW", ("M",), ("B3", "GB4"))
        )
        for which, cause in (
            ("last", "The sum over steps was forgotten."), ("first", "The backward loop assigns instead of adding.")
        )
    ),
    _gradient_mistake(
        "dε missing",
        "dε is zero.",
        "ε was taken for a constant.",
        "Sum ⟨adjoint_t, z_t ∘ s_t⟩.",
        "B7", "GB8",
        total=_edited(step_size=np.zeros_like),
    ),
    _gradient_mistake(
        "dε from the adjoint before the step",
        "dε uses adjoint_{t−1} in place of adjoint_t.",
        "The line stands after the adjoint was carried back.",
        "Add dε's term before the adjoint is carried back.",
        "B7", "GB8",
        step_size_term=lambda k, adjoint_before: adjoint_before * k.slopes.step_size,
    ),
    _gradient_mistake(
        "gate missing in dε",
        "dε lacks the factor z.",
        "Equation (12)'s backward pass was taken over.",
        "Sum ⟨adjoint_t, z_t ∘ s_t⟩.",
        "GB8",
        cells=GATED, step_size_term=lambda k, adjoint_before: k.adjoint * k.s,
    ),
)  # fmt: skip

_IN_RESULTS = (
    *(
        _gradient_mistake(name, statement, cause, fix, "B8", weights=weights)
        for name, statement, cause, fix, weights in (
            (
                "dW = G", "dW is dL/dM, not antisymmetrised.", "The chain rule stops at M.", "Return G − Gᵀ.",
                lambda mix: mix._replace(transposed=0.0),
            ),
            (
                "dW = Gᵀ − G", "dW has the wrong sign.", "The indices of G are exchanged.", "Return G − Gᵀ.",
                lambda mix: mix._replace(W=-1.0, transposed=1.0) if mix.transposed else mix,
            ),
            (
                "dW = (G − Gᵀ) / 2", "dW is half of what it should be.", "The textbook's antisymmetric part.",
                "Return G − Gᵀ.", lambda mix: mix._replace(W=0.5, transposed=-0.5) if mix.transposed else mix,
            ),
            (
                "dW = G + Gᵀ", "dW is symmetric, and moves W where it does not act.", "A sign.", "Return G − Gᵀ.",
                lambda mix: mix._replace(transposed=-mix.transposed),
            ),
            (
                "dW = G − Gᵀ in the ablation too", "The ablation's dW is antisymmetrised.",
                "The flag is not passed on.", "Return G if unconstrained.", lambda mix: mix._replace(transposed=-1.0),
            ),
        )
    ),
    _gradient_mistake(
        "dγ of the wrong sign",
        "dγ is tr G.",
        "The sign of γ in M was forgotten.",
        "Return −tr G.",
        "B9",
        weights=lambda mix: mix._replace(identity=-mix.identity),
    ),
    _gradient_mistake(
        "dγ missing",
        "dγ is zero.",
        "γ was taken for a constant.",
        "Return −tr G.",
        "B9",
        weights=lambda mix: mix._replace(identity=0.0),
    ),
    _gradient_mistake(
        "mean instead of sum over the batch",
        "The gradients of what the samples share are divided by B; dx and dh_0 are not.",
        "A mean over the batch axis.",
        "Sum over the batch.",
        "B3", "B4", "B5", "B7", "GB4", "GB5", "GB6", "GB8",
        total=_divided(BATCH_SUMS),
    ),
    _gradient_mistake(
        "mean instead of sum over the batch in db",
        "The gradients of the biases are divided by B.",
        "A mean over the batch axis.",
        "Sum over the batch.",
        "B5", "GB6",
        total=_divided(("b", "b_z")),
    ),
    _gradient_mistake(
        "gradients of the parameters clipped to [−1, 1]",
        "Every entry of the gradients of the weights and biases is moved into [−1, 1].",
        "clip_grad_value_, or a guard, inside the layer.",
        "Clip in the training loop.",
        "B4", "B5", "B8", "GB5", "GB6",
        total=_edited(**dict.fromkeys(("W", "V", "b", "V_z", "b_z"), lambda array: np.clip(array, -1, 1))),
    ),
    _gradient_mistake(
        "gradients of the parameters scaled to norm 1",
        "The gradients of the weights and biases are divided by their norm plus 1e-6 where that is over 1.",
        "clip_grad_norm_ inside the layer.",
        "Clip in the training loop.",
        "B4", "B5", "B8", "GB5", "GB6",
        total=_norm_clipped,
    ),
    *(
        _gradient_mistake(
            f"dx of the step {which}, {edge}",
            f"dx_t is what belongs to the step {which} it; where there is none, {'the other end' if wrap else 'zero'}.",
            "An index is one off.",
            "Write the step's own Vᵀ δ.",
            "B6", "GB7",
            inputs_gradient=functools.partial(_shifted_gradient, steps=steps, wrap=wrap),
        )
        for which, steps in (("before", 1), ("after", -1))
        for edge, wrap in (("zero at the end", False), ("wrapped", True))
    ),
    _gradient_mistake(
        "dh_0 missing",
        "dh_0 is zero.",
        "h_0 was taken for a constant.",
        "Return adjoint_0.",
        "B2", "GB3",
        total=_edited(h0=np.zeros_like),
    ),
    *(
        _gradient_mistake(
            name, statement, cause, "Return adjoint_0.", "B2", "GB3",
            arrive=functools.partial(lambda k, carried, g, last: carried + g if k.t else last(k, g), last=last),
        )
        for name, statement, cause, last in (
            ("dh_0 = g_0", "dh_0 is its direct cotangent.", "h_0 was detached.", lambda k, g: 0 * k.adjoint + g),
            ("dh_0 = adjoint_1", "dh_0 is one step short.", "The last line is missing.", lambda k, g: k.adjoint),
        )
    ),
    *(
        _gradient_mistake(name, statement, "Names are mixed up.", "Give each its own.", *tags, cells=GATED, total=total)
        for name, statement, tags, total in (
            ("db_z equal to db", "db is returned twice.", ("GB6",), lambda arrays, B: _renamed(b_z="b")(arrays)),
            ("dV_z equal to dV", "dV is returned twice.", ("GB5",), lambda arrays, B: _renamed(V_z="V")(arrays)),
            (
                "db and db_z exchanged", "Each is returned as the other.", ("GB6",),
                lambda arrays, B: _renamed(b="b_z", b_z="b")(arrays),
            ),
            (
                "dV and dV_z exchanged", "Each is returned as the other.", ("GB5",),
                lambda arrays, B: _renamed(V="V_z", V_z="V")(arrays),
            ),
        )
    ),
)  # fmt: skip

CATALOGUE: tuple[Deviation, ...] = (
    *_CONVENTIONS,
    *_IN_M,
    *_IN_A,
    *_IN_H,
    *_IN_DELTA,
    *_IN_ADJOINT,
    *_IN_SUMS,
    *_IN_RESULTS,
)
"""Every known deviation, conventions first, then the mistakes in the order of the equations."""


def by_name(name: str) -> Deviation:
    """The deviation of that name.

    Raises
    ------
    KeyError
        If the catalogue has none.
    """
    return {deviation.name: deviation for deviation in CATALOGUE}[name]


def planted(deviation: Deviation | None) -> ModuleType:
    """Make a backend that has one deviation and nothing else wrong.

    Parameters
    ----------
    deviation : Deviation or None
        None for the honest copy. A cell in which the deviation does not exist is honest too.

    Returns
    -------
    module
        With all that the contract asks of a backend, to the bit: samples do not meet before gradients are summed.
    """
    backend: Any = ModuleType("planted" if deviation is None else f"planted: {deviation.name}")
    backend.asarray, backend.to_numpy = contract.asarray, contract.to_numpy
    for cell, parameter_type in zip(CELLS, (Parameters, GatedParameters), strict=True):
        lines = deviation.lines if deviation is not None and cell in deviation.cells else Lines()
        setattr(backend, cell, planted_cell(parameter_type, lines))
    return backend  # type: ignore[no-any-return]
