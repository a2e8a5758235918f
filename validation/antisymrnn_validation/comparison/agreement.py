"""Nothing wrong is timed: the results of a contender are compared with the truth before it is timed.

A small case has a certified truth and ``truth.tolerance.measure``'s tolerance. The timed case is too large for that:
it is compared with the specification in float64, and the tolerance follows the same rule: FACTOR times the
error of the specification in float32 (for float64, times the ratio of the two roundoffs), and at least FLOOR ulp
of the sum of the terms. PyTorch's own layers are not the paper's cell: they are compared, on the small case, with their
documented equations in float64 and complex step; ``nn.RNN`` also on the timed case, because cuDNN takes other kernels
for other sizes.

``accuracy`` gives the errors themselves, in units of the specification's own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import antisymrnn_ref
from antisymrnn_ref.contract import Array
from antisymrnn_ref.gated import sigmoid
from antisymrnn_validation.comparison.contenders import (
    Contender,
    layer_parameters,
    prepare_backend,
    recurrent_matrix,
)
from antisymrnn_validation.output.terminal import BROKE_OFF, placed
from antisymrnn_validation.truth.calls import ArrayError, BrokenPromise, run
from antisymrnn_validation.truth.cases import Case, random_case
from antisymrnn_validation.truth.oracles import COMPLEX_STEP
from antisymrnn_validation.truth.tolerance import FACTOR, FLOOR, measure

ROUNDED_INPUTS = 3
"""How often the inputs of a layer are moved by a roundoff to measure what that does."""


class Agreement(NamedTuple):
    """The result of one check of one contender.

    Attributes
    ----------
    check, case : str
    status : str
        ``right``; ``wrong``: outside a tolerance, or not the expected arrays; or ``broke off``: it raised.
    detail : str
        Why it is not right.
    errors : dict of str to ArrayError
    """

    check: str
    case: str
    status: str
    detail: str = ""
    errors: Mapping[str, ArrayError] = {}


class Reference(NamedTuple):
    """Truth, or a replacement for it, and tolerances.

    Attributes
    ----------
    arrays : dict of str to float64 array
        The last state ``h``, and the gradients of the parameters.
    tolerances : dict of str to float
        Relative to the largest entry.
    """

    arrays: dict[str, Array]
    tolerances: dict[str, float]


def small_case(cell: str, dtype: Any) -> Case:
    """The case that every peer must solve before it is timed."""
    return random_case(
        cell, 11, 4, 7, 3, step_size=0.3, diffusion=0.2, seed=0, name="before timing", dtype=dtype, last_state_only=True
    )


@functools.cache
def check_small(contender: Contender, cell: str, dtype: str) -> Agreement:
    """Whether a peer is right on the small case; once for each contender and dtype."""
    case = small_case(cell, dtype)

    def errors() -> dict[str, ArrayError]:
        got = contender.prepare(case).results()
        if not contender.layer:
            return certified_errors(got, case)
        reference = layer_reference(contender.layer, cell, dtype)
        return _within(relative_errors(got, reference.arrays), reference.tolerances)

    return judged("small case", case.name, errors)


def check_timed(got: Callable[[], dict[str, Array]], case: Case, reference: Reference) -> Agreement:
    """Whether a contender's results are right on the case that is timed."""
    return judged(
        "timed case", case.name, lambda: _within(relative_errors(got(), reference.arrays), reference.tolerances)
    )


def certified_errors(got: dict[str, Array], case: Case) -> dict[str, ArrayError]:
    """Errors and tolerances of a last state and of gradients against the certified truth.

    Arrays that a contender does not compute come from the specification, because ``measure`` needs them all.

    Raises
    ------
    BrokenPromise
        If an error exceeds its tolerance, or an array is missing or has another shape.
    """
    arrays = run(antisymrnn_ref, case)
    _require_arrays(got, {"h": arrays["h"][-1], **{name: arrays[name] for name in case.parameters._fields}})
    filled = arrays | got
    filled["h"] = np.concatenate([arrays["h"][:-1], got["h"][None]])
    try:
        errors = measure(filled, case, beside_specification=True)
    except BrokenPromise as broken:
        raise BrokenPromise(str(broken), {name: broken.errors[name] for name in got}) from None
    return {name: errors[name] for name in got}


def timed_reference(case: Case) -> Reference:
    """The specification in float64 on a case, and tolerances by the rule of ``measure``."""
    single = _as(case, np.float32)
    rounded, exact = _specification(single), _specification(_as(single, np.float64))
    truth = exact if case.dtype == np.float32 else _specification(case)
    conditions = _conditions(_as(case, np.float64), truth)
    tolerances = _tolerances(relative_errors(rounded, exact), conditions, case.dtype)
    return Reference(truth, tolerances)


def judged(check: str, case: str, errors: Callable[[], dict[str, ArrayError]]) -> Agreement:
    """The result of a check, whatever a contender raises."""
    try:
        return Agreement(check, case, "right", errors=errors())
    except BrokenPromise as broken:
        return Agreement(check, case, "wrong", outside(broken.errors) or str(broken), broken.errors)
    except (Exception, SystemExit) as error:  # noqa: BLE001  a contender may raise anything
        return Agreement(check, case, BROKE_OFF, placed(error))


def outside(errors: Mapping[str, ArrayError]) -> str:
    """The arrays outside their tolerances, gradients as ``dV``; empty if there are none."""
    found = [
        f"{name if name == 'h' else f'd{name}'} {_short(entry.error)} > {_short(entry.tolerance)}"
        for name, entry in errors.items()
        if not entry.error <= entry.tolerance
    ]
    return f"outside tolerance: {', '.join(found)}" if found else ""


def _short(value: float) -> str:
    """Two digits: 1.5e-5."""
    return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e+")


def accuracy_cases(cells: Sequence[str], dtypes: Sequence[str], *, quick: bool = False) -> list[Case]:
    """Cases for ``--accuracy``: generic ones, one of the paper's step size and a longer one, with a last-state loss."""
    plans: list[tuple[str, tuple[int, int, int, int], float, float]] = [
        ("generic", (11, 4, 7, 3), 0.3, 0.2),
        ("wide input", (6, 3, 5, 9), 0.5, 0.35),
    ]
    if not quick:
        plans += [("paper", (64, 3, 16, 1), 0.01, 0.01), ("long", (300, 2, 12, 3), 0.1, 0.1)]
    return [
        random_case(
            cell, *sizes, step_size=step_size, diffusion=diffusion, seed=seed, name=name, dtype=dtype,
            last_state_only=True,
        )
        for seed, (name, sizes, step_size, diffusion) in enumerate(plans, start=10)
        for cell in cells
        for dtype in dtypes
    ]  # fmt: skip


def accuracy_record(contender: Contender, case: Case) -> dict[str, Any]:
    """Errors of one contender on one case against the certified truth; of a backend, of every state and gradient.

    Returns
    -------
    dict
        ``name``, ``kind``, ``cell``, ``dtype``, ``case``, ``status`` and ``detail`` of the :class:`Agreement`, and
        ``errors``: by array ``error``, ``tolerance``, ``specification``, the specification's own error but at least a
        unit roundoff, and ``units``, the error over it.
    """

    def errors() -> dict[str, ArrayError]:
        if contender.backend is None:
            return certified_errors(contender.prepare(case).results(), case)
        return measure(run(contender.backend, case), case, beside_specification=contender.backend is not antisymrnn_ref)

    result = judged("accuracy", case.name, errors)
    own = specification_errors(case)
    in_units = {
        name: {
            "error": entry.error,
            "tolerance": entry.tolerance,
            "specification": own[name],
            "units": entry.error / own[name],
        }
        for name, entry in result.errors.items()
    }
    head = {"name": contender.name, "kind": contender.kind, "cell": case.cell, "dtype": str(case.dtype)}
    return {**head, "case": case.name, "status": result.status, "detail": result.detail, "errors": in_units}


def specification_errors(case: Case) -> dict[str, float]:
    """The specification's own errors on a case, each at least a unit roundoff: the units of an accuracy."""
    unit_roundoff = float(np.finfo(case.dtype).eps) / 2
    errors = measure(run(antisymrnn_ref, case), case)
    return {name: max(entry.error, unit_roundoff) for name, entry in errors.items()}


@functools.cache
def layer_reference(layer: str, cell: str, dtype: str) -> Reference:
    """Truth of a layer on the small case by its equations; the effect of a roundoff in every input is the tolerance."""
    case = small_case(cell, dtype)
    given = {name: array.astype(np.float64) for name, array in layer_parameters(layer, case).items()}
    given |= {"x": case.x.astype(np.float64), "h0": case.h0.astype(np.float64)}
    truth = _layer_truth(layer, given, case.g)
    generator = np.random.default_rng(3)
    unit_roundoff = float(np.finfo(dtype).eps) / 2

    def moved(array: Array) -> Array:
        return array * (1 + unit_roundoff * generator.uniform(-1, 1, array.shape))

    runs = [
        relative_errors(_layer_truth(layer, {name: moved(array) for name, array in given.items()}, case.g), truth)
        for _ in range(ROUNDED_INPUTS)
    ]
    floor = FLOOR * float(np.finfo(dtype).eps)
    return Reference(truth, {name: max(FACTOR * max(errors[name] for errors in runs), floor) for name in truth})


def layer_timed_reference(case: Case) -> Reference:
    """The equations of ``nn.RNN`` in float64 on a timed case, and tolerances as for ``timed_reference``."""
    given = {**layer_parameters("RNN", case), "x": case.x, "h0": case.h0, "g": case.g}
    single = {name: array.astype(np.float32) for name, array in given.items()}
    rounded, _ = _rnn(single)
    exact, conditions = _rnn({name: array.astype(np.float64) for name, array in single.items()})
    truth = exact if case.dtype == np.float32 else _rnn(given)[0]
    return Reference(truth, _tolerances(relative_errors(rounded, exact), conditions, case.dtype))


def layer_last_state(layer: str, parameters: dict[str, Array], x: Array, h0: Array) -> Array:
    """Last state of PyTorch's layer by the equations of its documentation, for any dtype that NumPy can multiply.

    ``nn.RNN``: h ← tanh(W_ih x + b_ih + W_hh h + b_hh). ``nn.GRU``: r, z = σ(…) of the same sum with their own rows,
    c = tanh(W_in x + b_in + r ∘ (W_hn h + b_hn)), h ← (1 − z) ∘ c + z ∘ h.
    """
    W, U, b, c = (parameters[f"{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    h = h0
    for x_t in x:
        arriving, kept = x_t @ W.T + b, h @ U.T + c
        if layer == "RNN":
            h = np.tanh(arriving + kept)
            continue
        (a_r, a_z, a_n), (k_r, k_z, k_n) = (np.split(each, 3, axis=1) for each in (arriving, kept))
        r, z = (1 / (1 + np.exp(-a)) for a in (a_r + k_r, a_z + k_z))
        h = (1 - z) * np.tanh(a_n + r * k_n) + z * h
    return h


def _layer_truth(layer: str, given: dict[str, Array], g: Array) -> dict[str, Array]:
    """Last state and gradients of the parameters of ⟨g, h_T⟩, entry by entry by complex step."""
    fixed = {name: array for name, array in given.items() if name in ("x", "h0")}
    parameters = {name: array for name, array in given.items() if name not in fixed}

    def last_state(parameters: dict[str, Array]) -> Array:
        return layer_last_state(layer, parameters, fixed["x"], fixed["h0"])

    truth = {"h": last_state(parameters)}
    for name, array in parameters.items():
        truth[name] = np.empty_like(array)
        for index in np.ndindex(array.shape):
            stepped = array.astype(np.complex128)
            stepped[index] += 1j * COMPLEX_STEP
            truth[name][index] = (g * np.imag(last_state(parameters | {name: stepped}))).sum() / COMPLEX_STEP
    return truth


def _rnn(given: dict[str, Array]) -> tuple[dict[str, Array], dict[str, float]]:
    """Last state and gradients of ``nn.RNN`` by backpropagation, and the conditions of the gradients."""
    W, U, b, c = (given[f"{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    h = [given["h0"]]
    for x_t in given["x"]:
        h.append(np.tanh(x_t @ W.T + b + (h[-1] @ U.T + c)))
    sums = [np.zeros_like(array) for array in (W, U, b)]
    sizes = [np.zeros_like(array) for array in (W, U, b)]
    adjoint = given["g"]
    for t in reversed(range(len(given["x"]))):
        delta = (1 - h[t + 1] ** 2) * adjoint
        for found, of in ((sums, lambda array: array), (sizes, np.abs)):
            found[0] += of(delta).T @ of(given["x"][t])
            found[1] += of(delta).T @ of(h[t])
            found[2] += of(delta).sum(axis=0)
        adjoint = delta @ U
    names = [f"{name}_l0" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    conditions = {
        name: max(1.0, float(np.max(size)) / largest) if (largest := float(np.max(np.abs(total)))) else 1.0
        for name, total, size in zip(names, (*sums, sums[2]), (*sizes, sizes[2]), strict=True)
    }
    return {"h": h[-1], **dict(zip(names, (*sums, sums[2]), strict=True))}, {"h": 1.0, **conditions}


def _tolerances(errors: dict[str, float], conditions: dict[str, float], dtype: Any) -> dict[str, float]:
    """Tolerances in a dtype, by the rule of ``measure``, from errors in float32; the sums share one reference."""
    roundoff, single_roundoff = (float(np.finfo(each).eps) for each in (dtype, np.float32))
    shared = max(errors[name] / conditions[name] for name in errors if name != "h")
    tolerances = {}
    for name, condition in conditions.items():
        unit = (errors["h"] if name == "h" else shared * condition) * roundoff / single_roundoff
        tolerances[name] = max(FACTOR * unit, FLOOR * roundoff * condition)
    return tolerances


def _as(case: Case, dtype: Any) -> Case:
    """The case rounded to a dtype, with the step size and the diffusion that its present dtype rounds them to."""
    parameters = type(case.parameters)(*(leaf.astype(dtype) for leaf in case.parameters))
    x, h0, g = (array.astype(dtype) for array in (case.x, case.h0, case.g))
    step_size, diffusion = (float(case.dtype.type(scalar)) for scalar in (case.step_size, case.diffusion))
    return case._replace(parameters=parameters, x=x, h0=h0, g=g, step_size=step_size, diffusion=diffusion)


def _specification(case: Case) -> dict[str, Array]:
    return {name: array.astype(np.float64) for name, array in prepare_backend(antisymrnn_ref, case).results().items()}


def _conditions(case: Case, truth: dict[str, Array]) -> dict[str, float]:
    """Of every gradient that is a sum the largest size of its terms over its largest entry; 1 for the last state."""
    W, *affine = case.parameters
    gates = list(zip(affine[::2], affine[1::2], strict=True))
    M = recurrent_matrix(W, np.eye(len(W)), case)
    states = getattr(antisymrnn_ref, case.cell).forward(case.parameters, case.x, case.h0, **case.arguments).h
    sizes = {name: np.zeros_like(leaf) for name, leaf in case.parameters._asdict().items()}
    adjoint = case.g
    for t in reversed(range(len(case.x))):
        h, x = states[t], case.x[t]
        a, *a_z = (h @ M.T + x @ V.T + b for V, b in gates)
        s, z = np.tanh(a), sigmoid(a_z[0]) if a_z else 1.0
        deltas = [case.step_size * z * (1 - s**2) * adjoint]
        if a_z:
            deltas.append(case.step_size * s * z * (1 - z) * adjoint)
        through = sum(deltas)
        sizes["W"] += np.abs(through).T @ np.abs(h)
        for delta, (V, b) in zip(deltas, (("V", "b"), ("V_z", "b_z")), strict=False):
            sizes[V] += np.abs(delta).T @ np.abs(x)
            sizes[b] += np.abs(delta).sum(axis=0)
        adjoint = adjoint + through @ M
    if not case.unconstrained:
        sizes["W"] = sizes["W"] + sizes["W"].T
    largest = {name: float(np.max(np.abs(truth[name]))) for name in sizes}
    conditions = {
        name: max(1.0, float(np.max(size)) / largest[name]) if largest[name] else 1.0 for name, size in sizes.items()
    }
    return {"h": 1.0, **conditions}


def relative_errors(arrays: dict[str, Array], truth: dict[str, Array]) -> dict[str, float]:
    """Largest distance of each array from the truth over the largest true entry.

    Parameters
    ----------
    arrays, truth : dict of str to array
        Of the same names and shapes; the truth in float64.

    Returns
    -------
    dict of str to float
        NaN for an array with a NaN; infinity for one that is infinite, or not zero where the truth is zero; 0 if both
        are zero.

    Raises
    ------
    BrokenPromise
        If a name or a shape is another.
    """
    _require_arrays(arrays, truth)
    errors = {}
    for name, true in truth.items():
        largest = float(np.max(np.abs(true)))
        distance = float(np.max(np.abs(arrays[name].astype(np.float64) - true)))
        errors[name] = distance / largest if largest else distance and math.inf
    return errors


def _within(errors: dict[str, float], tolerances: dict[str, float]) -> dict[str, ArrayError]:
    found = {name: ArrayError(error, tolerances[name], tolerances[name] / FACTOR) for name, error in errors.items()}
    if reason := outside(found):
        raise BrokenPromise(reason, found)
    return found


def _require_arrays(got: dict[str, Array], expected: dict[str, Array]) -> None:
    shapes = [{name: np.shape(array) for name, array in arrays.items()} for arrays in (got, expected)]
    if shapes[0] != shapes[1]:
        raise BrokenPromise(f"expected arrays {shapes[1]}, got {shapes[0]}")
