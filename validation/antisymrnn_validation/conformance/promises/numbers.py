"""Promises about unusual numbers: NaN, infinity, huge, denormal and zero values."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from antisymrnn_ref import load_backend
from antisymrnn_ref.contract import Array, GatedParameters
from antisymrnn_validation.conformance.check import promise
from antisymrnn_validation.truth.calls import (
    ArrayError,
    BrokenPromise,
    kept_states,
    largest_difference,
    promises_bits,
    require,
    require_same_bits,
    run,
)
from antisymrnn_validation.truth.cases import (
    Case,
    generator_of,
)
from antisymrnn_validation.truth.tolerance import FACTOR, FLOOR, measure, require_within, truth_and_errors


@promise(
    "non finite values",
    level=4,
    source="(F1) to (B9)",
    usual_cause=(
        "padding multiplied into the sums, 0 · ∞; a term skipped where a factor is 0; in a backend, γ h "
        "subtracted from a rather than γ from the diagonal of M."
    ),
    fix="Keep padding at 0 on both sides of a product; form M = W − Wᵀ − γI.",
)
def non_finite_values(backend: ModuleType, case: Case) -> None:
    """A NaN or ∞ in any argument reaches the entries that it reaches in the specification, and no other.

    An infinite h0 may reach anything of its own sample: W h − Wᵀ h is NaN where (W − Wᵀ) h is infinite.
    """
    specification, generator = load_backend("numpy"), generator_of(case)
    leaves = {**case.parameters._asdict(), "x": case.x, "h0": case.h0, "g": case.g}
    for name, value in [*((name, np.nan) for name in leaves), ("g", np.inf), ("h0", np.inf)]:
        array = leaves[name]
        poisoned = array.copy()
        index = tuple(map(int, generator.integers(poisoned.shape)))
        if name == "W" and index[0] == index[1]:
            index = (index[0], index[1] - 1)  # the diagonal does not act
        poisoned[index] = value
        if name in case.parameters._fields:
            given = case._replace(parameters=case.parameters._replace(**{name: poisoned}))
        else:
            given = case._replace(**{name: poisoned})
        expected = run(specification, given)
        for result, got in run(backend, given).items():
            require(got.shape == expected[result].shape, f"{result}: expected shape {expected[result].shape}")
            differs = np.isfinite(got) != np.isfinite(expected[result])
            if (name, value) == ("h0", np.inf):
                if result not in ("h", "x", "h0"):
                    continue
                differs[..., index[0], :] = False
            for entry in np.argwhere(differs)[:1]:
                place = f"{result}{tuple(map(int, entry))}" if len(entry) else result
                wanted = "no finite number" if np.isfinite(got[tuple(entry)]) else "a finite number"
                raise BrokenPromise(f"{place}: expected {wanted} for {value} at {name}{index}, got {got[tuple(entry)]}")


def _poisoned(backend: ModuleType, case: Case) -> tuple[dict[str, Array], dict[str, Array], Array]:
    """Results without and with a NaN in one column's input, and which columns are clean; the NaN's own way checked."""
    T, B, m = case.x.shape
    at, column, k = map(int, generator_of(case).integers([T, B, m]))
    x = case.x.copy()
    x[at, column, k] = np.nan
    plain, poisoned = run(backend, case), run(backend, case._replace(x=x))
    require(bool(np.isnan(poisoned["h"][at + 1 :, column]).all()), "h: a NaN input does not reach the states after it")
    require(bool(np.isfinite(poisoned["h"][: at + 1, column]).all()), "h: a NaN input reaches the states before it")
    for name in poisoned.keys() & {"W", "V", "b", "step_size", "diffusion"}:
        off_diagonal = poisoned[name][~np.eye(len(poisoned[name]), dtype=bool)] if name == "W" else poisoned[name]
        require(bool(np.isnan(off_diagonal).all()), f"{name}: a NaN input does not reach the gradient")
    return plain, poisoned, np.arange(case.x.shape[1]) != column


@promise(
    "nan column",
    level=4,
    same_bits=True,
    source="the contract, on NaN",
    usual_cause="fast-math, a clipped or masked input, or samples that share a lane.",
    fix="Compile without fast-math; take min and max in an order that keeps NaN.",
)
def nan_column(backend: ModuleType, case: Case) -> None:
    """A NaN in the input of one sample reaches its later states and the shared gradients, and no other sample."""
    plain, poisoned, clean = _poisoned(backend, case)
    require_same_bits("h of the other columns", poisoned["h"][:, clean], plain["h"][:, clean])
    require(bool(np.isfinite(poisoned["x"][:, clean]).all()), "x: a NaN reaches the gradient of another column")
    require(bool(np.isfinite(poisoned["h0"][clean]).all()), "h0: a NaN reaches the gradient of another column")


@promise(
    "nan column to rounding",
    level=4,
    same_bits=False,
    source="the contract, on NaN",
    usual_cause="fast-math, a clipped or masked input, or samples that share a lane.",
    fix="Compile without fast-math; take min and max in an order that keeps NaN.",
)
def nan_column_to_rounding(backend: ModuleType, case: Case) -> None:
    """A NaN in the input of one sample reaches its later states and the shared gradients; no other sample moves."""
    plain, poisoned, clean = _poisoned(backend, case)
    errors = measure(plain, case)
    for name, index in (("h", (slice(None), clean)), ("x", (slice(None), clean)), ("h0", (clean,))):
        if name not in plain:
            continue
        allowed = 2 * errors[name].tolerance * np.abs(plain[name]).max()
        difference = largest_difference(poisoned[name][index], plain[name][index])
        require(difference <= allowed, f"{name} of the other columns: moved by {difference:.1e}, allowed {allowed:.1e}")


@promise(
    "infinite input",
    level=4,
    source="(F3), (GF4)",
    usual_cause="tanh by exp(2a)/(exp(2a) + 1), which is ∞/∞.",
    fix="Take a tanh that saturates.",
)
def infinite_input(backend: ModuleType, case: Case) -> None:
    """An infinite input saturates: tanh(±∞) = ±1, σ(±∞) is 1 or 0."""
    at, column, k = map(int, generator_of(case).integers(case.x.shape))
    x = case.x.copy()
    x[at, column, k] = np.inf
    h = kept_states(backend, case._replace(x=x))[at : at + 2, column]
    increment = np.sign(case.parameters.V[:, k])  # tanh(±∞) = ±1
    if isinstance(case.parameters, GatedParameters):
        increment = increment * (case.parameters.V_z[:, k] > 0)  # σ(±∞) = 1, 0
    expected = h[0] + case.dtype.type(case.step_size) * increment
    # h_t and h_t+1 may be rounded apart from states of a higher precision
    allowed = FLOOR * float(np.finfo(case.dtype).eps * np.abs(expected).max())
    off = largest_difference(h[1], expected)
    require(off <= allowed, f"h: expected ε times a saturated step, off by {off:.1e}, allowed {allowed:.1e}")


@promise(
    "blank inputs",
    level=4,
    source="(F2), (F3)",
    usual_cause="steps of zeros masked or skipped as padding, or results looked up by the input alone.",
    fix="Make every step: with x_t = 0 the state still moves by ε tanh(M h + b).",
)
def blank_inputs(backend: ModuleType, case: Case) -> dict[str, ArrayError]:
    """Inputs that are all zero, and samples with equal inputs, are inputs like any other."""
    x = case.x.copy()
    x[1] = 0  # a step, for every sample
    x[:, 0] = 0  # a sample, at every step
    x[len(x) // 2 :, -2] = 0  # as padding
    x[:, -1] = x[:, -2]
    given = case._replace(x=x, name=f"{case.name}, blank inputs")
    return measure(run(backend, given), given)


@promise(
    "huge values",
    level=4,
    source="(F2), (F3), (GF4)",
    usual_cause="exp of a large argument, or a square that overflows.",
    fix="Clip inside tanh and σ, where they are constant.",
)
def huge_values(backend: ModuleType, case: Case) -> dict[str, ArrayError]:
    """Where huge arguments leave a result finite in the specification, it is finite, and nowhere else."""
    x, huge = case.x.copy(), 1e30 if case.dtype == np.float32 else 1e300
    x[1::2] *= case.dtype.type(huge)  # saturates; the steps between do not
    given = case._replace(x=x, name=f"{case.name} huge")
    expected, arrays = run(load_backend("numpy"), given), run(backend, given)
    for name, array in arrays.items():
        same = array.shape == expected[name].shape and np.array_equal(np.isfinite(array), np.isfinite(expected[name]))
        require(same, f"{name}: inputs of {huge:.0e}: not finite where the specification is, or the reverse")
    # the perturbed runs move 1 − s² by a roundoff where it is 0, and huge inputs make that large
    return measure(arrays, given, beside_specification=True, beside_perturbed_runs=False)


@promise(
    "denormal values",
    level=4,
    source="(F2)",
    usual_cause="a division by something near 0 inside tanh; flushed denormals are within the tolerance.",
    fix="Use tanh a ≈ a near 0.",
)
def denormal_values(backend: ModuleType, case: Case) -> dict[str, ArrayError]:
    """Denormal arguments give results within the tolerance."""
    finfo = np.finfo(case.dtype)
    tiny = case.dtype.type(finfo.smallest_normal / 4)
    parameters = case.parameters._replace(V=case.parameters.V * tiny, b=case.parameters.b * tiny)
    given = case._replace(parameters=parameters, h0=case.h0 * tiny, name=f"{case.name} denormal")
    arrays = run(backend, given)
    truth, specification, perturbed = truth_and_errors(given)
    # in units of the specification's own error, and of the last denormal bit; others may take denormals for zero
    T, _, m = given.x.shape
    lost = (
        finfo.smallest_subnormal
        if promises_bits(backend)
        else T * (len(given.parameters.b) + m) * finfo.smallest_normal
    )
    errors = {}
    for name, array in arrays.items():
        enclosure = truth.arrays[name]
        unit = max(of_run[name] for of_run in (specification, *perturbed))
        floor = FLOOR * float(finfo.eps) * enclosure.condition
        if enclosure.magnitude:
            unit = max(unit, float(lost) / enclosure.magnitude)
        errors[name] = ArrayError(enclosure.error(array), max(FACTOR * unit, floor), unit)
    require_within(errors)
    return errors


@promise(
    "structured data",
    level=4,
    on={"structured"},
    plain=True,
    source="(F1) to (B9)",
    usual_cause=(
        "a short cut that is right in general position alone: zeros skipped, a sweep that ends at a zero cotangent, "
        "equal rows computed once, one triangle of W read, large values clipped or small ones dropped."
    ),
    fix="Compute every entry by the equations, whatever the values.",
)
def structured_data(backend: ModuleType, case: Case) -> dict[str, ArrayError]:
    """Every state and gradient is right for data with structure: zeros, equal, one-hot, triangular, large, small."""
    return measure(run(backend, case), case, oracle="extended")
