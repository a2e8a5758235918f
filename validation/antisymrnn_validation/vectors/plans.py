"""The problems of the golden vectors and the flags that say what they catch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from antisymrnn_ref.contract import Array, GatedParameters, Parameters
from antisymrnn_validation.truth.cases import Case
from antisymrnn_validation.vectors.format import Note

DTYPES = ("float64", "float32")


PAPER = "https://arxiv.org/abs/1902.09689"


FORWARD = "antisymrnn_ref/DERIVATION.md#2-the-cell-of-equation-12-forward"


BACKWARD = "antisymrnn_ref/DERIVATION.md#3-the-cell-of-equation-12-backward"


GATED = "antisymrnn_ref/DERIVATION.md#5-the-gated-cell-equation-13"


CONTRACT = "antisymrnn_ref/contract.py"


ANTISYMMETRY = "antisymrnn_ref/DERIVATION.md#101-antisymmetry-in-floating-point"


SUBNORMAL = "https://en.wikipedia.org/wiki/Subnormal_number"


NOTES = {
    "generic": Note(
        "T, B, n and m differ, every bias, h0 and γ are non-zero, every state has a cotangent of its own.",
        "A wrong term, sign, index, transpose or sum anywhere in the forward or the backward pass.",
        (PAPER, FORWARD, BACKWARD, GATED),
    ),
    "by-hand": Note(
        "One step of two units with round numbers, to be followed with a pencil.",
        "A wrong sign or factor, seen in numbers that can be read.",
        (FORWARD, BACKWARD),
    ),
    "wide-input": Note(
        "More inputs than hidden units.",
        "A loop over m that ends at n, a transposed V.",
        (BACKWARD,),
    ),
    "equal-sizes": Note(
        "T, B, n and m are the same number.",
        "Code that finds out by the sizes which axis is time, the batch or a matrix's row, and guesses wrongly.",
        (CONTRACT,),
    ),
    "wide": Note(
        "8 and 11 units: as many as vector registers hold, and some more.",
        "A wrong remainder of a loop that takes several units at once.",
        (),
    ),
    "long": Note(
        "64 steps of 32 units.",
        "What goes wrong at the border of a block of steps or units, and errors that grow with the steps.",
        (BACKWARD,),
    ),
    "no-steps": Note(
        "T = 0: the states are h0 alone, the gradient with respect to h0 is the cotangent, all others are zero.",
        "A crash, an uninitialised array, or a cotangent of h_0 that is left out.",
        (CONTRACT,),
    ),
    "one-step": Note(
        "T = 1.",
        "A loop that leaves out the first or the last step.",
        (BACKWARD,),
    ),
    "one-sample": Note(
        "B = 1.",
        "An axis of length one that is dropped.",
        (CONTRACT,),
    ),
    "one-unit": Note(
        "n = 1: W − Wᵀ is zero whatever W is, and so is the gradient with respect to W.",
        "W used in place of W − Wᵀ, a gradient of W that is not antisymmetrised, an axis of length one dropped.",
        (BACKWARD, ANTISYMMETRY),
    ),
    "one-input": Note(
        "m = 1.",
        "An axis of length one that is dropped.",
        (CONTRACT,),
    ),
    "no-diffusion": Note(
        "γ = 0: equation (10). The gradient with respect to γ is not zero.",
        "γ that is fixed, or replaced where it is zero; its gradient left out where it is zero.",
        (PAPER, FORWARD),
    ),
    "strong-diffusion": Note(
        "ε γ = 2.5: the diffusion alone would turn the sign of a small state in every step.",
        "γ clipped, or with a wrong sign or factor.",
        (FORWARD,),
    ),
    "unit-step": Note(
        "ε = 1, where a factor of ε cannot be seen.",
        "A special case for ε = 1. A missing ε passes here and fails in the others.",
        (FORWARD,),
    ),
    "small-step": Note(
        "ε = 2⁻²⁰: the states hardly move, the gradient with respect to ε does not shrink.",
        "ε replaced by a default, or added where it is too small to count.",
        (FORWARD,),
    ),
    "last-state-loss": Note(
        "g is (B, n), the cotangent of the last state alone.",
        "A cotangent that is put on every state, or on another than the last.",
        (CONTRACT, BACKWARD),
    ),
    "first-state-loss": Note(
        "Only h_0 has a cotangent: it is the gradient with respect to h0, and every other gradient is zero.",
        "A cotangent of h_0 that is left out, or injected a step too late.",
        (BACKWARD,),
    ),
    "zero-cotangent": Note(
        "g = 0: every gradient is zero.",
        "Gradients that are added to what an array held before, and NaN from zero times infinity.",
        (BACKWARD,),
    ),
    "ablation": Note(
        "M = W − γI, the ablation of the paper's Table 2.",
        "W − Wᵀ, or the antisymmetrised gradient, in the ablation too.",
        (PAPER, BACKWARD),
    ),
    "symmetric-weights": Note(
        "W is symmetric: M = −γI, and yet the gradient with respect to W is not zero.",
        "W used in place of W − Wᵀ; a gradient of W that is not antisymmetrised.",
        (ANTISYMMETRY,),
    ),
    "strong-recurrence": Note(
        "W four times as large: errors grow from step to step.",
        "The transpose of M or a sign of it wrong where it is hard to see otherwise; tolerances that are not measured.",
        (BACKWARD,),
    ),
    "saturated": Note(
        "Some units have pre-activations about ±20, where tanh rounds to ±1.",
        "A tanh or a gate that is clipped too early; a derivative taken of something else than 1 − s².",
        (FORWARD,),
    ),
    "exp-overflow": Note(
        "Some pre-activations, of both signs, lie beyond the logarithm of the largest number.",
        "NaN from infinity over infinity in tanh or in a gate that is written with exponentials.",
        ("https://docs.scipy.org/doc/scipy/reference/generated/scipy.special.expit.html",),
    ),
    "large-values": Note(
        "States, inputs and cotangents are large and the weights small, so that pre-activations are ordinary.",
        "A state or a sum in a narrower type, which overflows; a gradient that is clipped.",
        (),
    ),
    "tiny-values": Note(
        "States, inputs, biases and cotangents are tiny: their products are small, yet normal numbers.",
        "A threshold or an added constant such as 1e-8; a state or a sum in a narrower type, which underflows.",
        (),
    ),
    "denormal-inputs": Note(
        "h0, x and b are denormal numbers, and with them states, pre-activations and the gradients of weights.",
        "Denormal numbers flushed to zero; a tanh of tiny arguments by a difference of exponentials.",
        (SUBNORMAL,),
    ),
    "denormal-cotangent": Note(
        "g is denormal, and with it every gradient.",
        "Denormal numbers flushed to zero in the backward pass.",
        (SUBNORMAL,),
    ),
    "signed-zeros": Note(
        "h0, x and b are zeros of both signs: pre-activations are zero, tanh is zero and its derivative one.",
        "A division by a or by s; a derivative of tanh that is wrong at zero; NaN.",
        (),
    ),
    "cancelling-sums": Note(
        "The samples come in pairs with opposite cotangents and almost equal states.",
        "Terms of a sum that do not belong together; a tolerance that takes no account of cancellation.",
        (BACKWARD,),
    ),
}


class Plan(NamedTuple):
    """How to make one problem.

    Attributes
    ----------
    name : str
    comment : str
    flags : tuple of str
    sizes : tuple of int
        T, B, n, m.
    step_size, diffusion : float
        Rounded to the dtype when the problem is made.
    edit : callable
        Takes the drawn arrays by name and the dtype, and returns those that it replaces.
    unconstrained, last_state_only : bool
    """

    name: str
    comment: str
    flags: tuple[str, ...]
    sizes: tuple[int, int, int, int]
    step_size: float = 0.3
    diffusion: float = 0.2
    edit: Callable[[dict[str, Array], np.dtype[Any]], dict[str, Array]] = lambda arrays, dtype: {}  # noqa: ARG005
    unconstrained: bool = False
    last_state_only: bool = False


def _by_hand(arrays: dict[str, Array], _: np.dtype[Any]) -> dict[str, Array]:
    round_numbers = {
        "W": [[0, 1], [0, 0]], "V": [[1], [0]], "b": [0, 0], "V_z": [[0], [1]], "b_z": [0, 0],
        "x": [[[1]]], "h0": [[1, 0]], "g": [[[0, 0]], [[1, 1]]],
    }  # fmt: skip
    return {name: np.array(round_numbers[name], float) for name in arrays}


def _scaled(exponents: dict[str, tuple[int, int]]) -> Callable[[dict[str, Array], np.dtype[Any]], dict[str, Array]]:
    """Multiply arrays by powers of two: exponents of float64 and of float32."""

    def edit(arrays: dict[str, Array], dtype: np.dtype[Any]) -> dict[str, Array]:
        column = DTYPES.index(str(dtype))
        return {name: np.ldexp(arrays[name], exponents[name][column]) for name in exponents if name in arrays}

    return edit


def _denormal(*names: str) -> Callable[[dict[str, Array], np.dtype[Any]], dict[str, Array]]:
    """Whole multiples, up to 2²⁰, of the smallest denormal number."""

    def edit(arrays: dict[str, Array], dtype: np.dtype[Any]) -> dict[str, Array]:
        least = -1074 if dtype == np.float64 else -149
        return {name: np.ldexp(np.rint(np.ldexp(arrays[name], 19)), least) for name in names if name in arrays}

    return edit


def _biased(b: tuple[float, float], b_z: tuple[float, float]) -> Callable[..., dict[str, Array]]:
    """Every other unit far out: b and b_z of float64 and of float32 with alternating signs."""

    def edit(arrays: dict[str, Array], dtype: np.dtype[Any]) -> dict[str, Array]:
        column = DTYPES.index(str(dtype))
        changed = {}
        for name, sizes in (("b", b), ("b_z", b_z)):
            if name in arrays:
                changed[name] = arrays[name].copy()
                far = changed[name][::2]
                far[:] = np.resize([sizes[column], -sizes[column]], len(far))
        return changed

    return edit


def _signed_zeros(arrays: dict[str, Array], _: np.dtype[Any]) -> dict[str, Array]:
    return {name: np.copysign(0.0, array) for name, array in arrays.items() if name in ("x", "h0", "b", "b_z")}


def _symmetric(arrays: dict[str, Array], dtype: np.dtype[Any]) -> dict[str, Array]:
    W = arrays["W"].astype(dtype)
    return {"W": W + W.T}


def _first_state(arrays: dict[str, Array], _: np.dtype[Any]) -> dict[str, Array]:
    g = np.zeros_like(arrays["g"])
    g[0] = arrays["g"][0]
    return {"g": g}


def _opposite(arrays: dict[str, Array], _: np.dtype[Any]) -> dict[str, Array]:
    """Samples 2k and 2k + 1: opposite cotangents, inputs and initial states 2⁻⁸ apart."""
    changed = {}
    for name in ("x", "h0", "g"):
        array = arrays[name].copy()
        left, right = array[..., 0::2, :], array[..., 1::2, :]
        right[...] = -left if name == "g" else left + np.ldexp(right, -8)
        changed[name] = array
    return changed


PLANS = [
    Plan("generic-1", "Generic position.", ("generic",), (5, 3, 4, 2)),
    Plan("generic-2", "Generic position, other numbers.", ("generic",), (5, 3, 4, 2)),
    Plan("generic-3", "Generic position, other sizes and constants.", ("generic",), (6, 2, 5, 3), 0.5, 0.35),
    Plan(
        "by-hand",
        "Round numbers.",
        ("by-hand", "one-step", "one-sample", "one-input"),
        (1, 1, 2, 1),
        0.5,
        0.25,
        _by_hand,
    ),
    Plan("wide-input", "m = 7, n = 3.", ("wide-input", "generic"), (4, 2, 3, 7), 0.4, 0.15),
    Plan("equal-sizes", "T = B = n = m = 3.", ("equal-sizes",), (3, 3, 3, 3)),
    Plan("no-steps", "T = 0.", ("no-steps",), (0, 3, 4, 2)),
    Plan("one-step", "T = 1.", ("one-step",), (1, 3, 4, 2)),
    Plan("one-sample", "B = 1.", ("one-sample",), (5, 1, 4, 2)),
    Plan("one-unit", "n = 1.", ("one-unit",), (5, 3, 1, 2)),
    Plan("one-input", "m = 1.", ("one-input",), (5, 3, 4, 1)),
    Plan("one-of-each", "T = B = n = m = 1.", ("one-step", "one-sample", "one-unit", "one-input"), (1, 1, 1, 1)),
    Plan("no-diffusion", "γ = 0.", ("no-diffusion",), (5, 3, 4, 2), 0.3, 0.0),
    Plan("unit-step", "ε = 1.", ("unit-step",), (5, 3, 4, 2), 1.0, 0.2),
    Plan("unit-step-no-diffusion", "ε = 1, γ = 0.", ("unit-step", "no-diffusion"), (4, 2, 3, 2), 1.0, 0.0),
    Plan("small-step", "ε = 2⁻²⁰.", ("small-step",), (5, 3, 4, 2), 2.0**-20, 0.2),
    Plan("strong-diffusion", "ε = 0.5, γ = 5.", ("strong-diffusion",), (5, 3, 4, 2), 0.5, 5.0),
    Plan("last-state-loss", "g of the last state.", ("last-state-loss",), (5, 3, 4, 2), last_state_only=True),
    Plan(
        "last-state-loss-one-step",
        "g of the last of two states.",
        ("last-state-loss", "one-step"),
        (1, 2, 3, 2),
        last_state_only=True,
    ),
    Plan("first-state-loss", "g is zero but on h_0.", ("first-state-loss",), (5, 3, 4, 2), edit=_first_state),
    Plan("zero-cotangent", "g = 0.", ("zero-cotangent",), (5, 3, 4, 2), edit=lambda arrays, _: {"g": 0 * arrays["g"]}),
    Plan("ablation", "M = W − γI.", ("ablation",), (5, 3, 4, 2), unconstrained=True),
    Plan(
        "ablation-last-state-loss",
        "M = W − γI, g of the last state.",
        ("ablation", "last-state-loss"),
        (4, 2, 5, 3),
        0.25,
        0.15,
        unconstrained=True,
        last_state_only=True,
    ),
    Plan("symmetric-weights", "W = Wᵀ.", ("symmetric-weights",), (5, 3, 4, 2), edit=_symmetric),
    Plan(
        "strong-recurrence", "W four times as large.", ("strong-recurrence",), (6, 2, 5, 2), edit=_scaled({"W": (2, 2)})
    ),
    Plan("saturated", "Every other unit about ±20.", ("saturated",), (5, 3, 4, 2), edit=_biased((20, 20), (20, 20))),
    Plan(
        "exp-overflow",
        "Every other unit beyond ±log of the largest number.",
        ("exp-overflow", "saturated"),
        (4, 2, 5, 2),
        edit=_biased((750, 100), (738, 100)),
    ),
    Plan(
        "large-values",
        "States, inputs and cotangents of the size 2³⁰⁰ (float32: 2³⁰).",
        ("large-values", "no-diffusion"),
        (5, 3, 4, 2),
        0.3,
        0.0,
        _scaled(
            {"x": (300, 30), "h0": (300, 30), "g": (300, 30), "W": (-300, -30), "V": (-300, -30), "V_z": (-300, -30)}
        ),
    ),
    Plan(
        "tiny-values",
        "States, inputs, biases and cotangents of the size 2⁻⁴⁰⁰ (float32: 2⁻⁴⁰).",
        ("tiny-values",),
        (5, 3, 4, 2),
        edit=_scaled(dict.fromkeys(("x", "h0", "b", "b_z", "g"), (-400, -40))),
    ),
    Plan(
        "denormal-inputs",
        "h0, x and biases denormal.",
        ("denormal-inputs",),
        (5, 3, 4, 2),
        edit=_denormal("x", "h0", "b", "b_z"),
    ),
    Plan("denormal-cotangent", "g denormal.", ("denormal-cotangent",), (5, 3, 4, 2), edit=_denormal("g")),
    Plan(
        "signed-zeros", "h0, x and biases are zeros of both signs.", ("signed-zeros",), (5, 3, 4, 2), edit=_signed_zeros
    ),
    Plan(
        "cancelling-sums", "Sums over the batch that almost cancel.", ("cancelling-sums",), (4, 4, 3, 2), edit=_opposite
    ),
    Plan("wide-1", "n = 8.", ("wide",), (3, 2, 8, 3)),
    Plan("wide-2", "n = 11.", ("wide", "one-input"), (3, 2, 11, 1)),
]
"""The problems of every JSON file, in its order."""


LONG = Plan("long", "64 steps, 4 samples, 32 units, 3 inputs.", ("long", "generic"), (64, 4, 32, 3), 0.1, 0.05)


LONG_FILES = (("antisymmetric", "float64"), ("antisymmetric", "float32"), ("gated", "float64"))


def case(plan: Plan, seed: int, cell: str, dtype: Any) -> Case:
    """The problem of a plan: numbers spread evenly over [−2, 2), W divided by √n, then the plan's edit."""
    T, B, n, m = plan.sizes
    dtype = np.dtype(dtype)
    generator = np.random.PCG64(seed)

    def draw(*shape: int) -> Array:
        raw = generator.random_raw(math.prod(shape)) >> np.uint64(11)
        return np.ldexp(raw.astype(np.float64), -51).reshape(shape) - 2.0  # exact: 53 bits

    arrays = {"W": draw(n, n) / np.sqrt(float(n)), "V": draw(n, m), "b": draw(n)}
    arrays |= {"x": draw(T, B, m), "h0": draw(B, n), "g": draw(B, n) if plan.last_state_only else draw(T + 1, B, n)}
    if cell == "gated":
        arrays |= {"V_z": draw(n, m), "b_z": draw(n)}
    # rounded before the edit, so that scaling by a power of two is exact
    arrays = {name: array.astype(dtype).astype(np.float64) for name, array in arrays.items()}
    arrays |= plan.edit(arrays, dtype)
    rounded = {name: array.astype(dtype) for name, array in arrays.items()}
    leaves = GatedParameters if cell == "gated" else Parameters
    return Case(
        f"{cell}-{dtype}-{plan.name}",
        cell,
        leaves(*(rounded[name] for name in leaves._fields)),
        rounded["x"],
        rounded["h0"],
        rounded["g"],
        float(dtype.type(plan.step_size)),
        float(dtype.type(plan.diffusion)),
        plan.unconstrained,
    )
