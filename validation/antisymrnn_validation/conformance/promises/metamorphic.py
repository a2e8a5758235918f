"""Promises about pairs of related problems: symmetries, chunks, and the batch."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import numpy as np

from antisymrnn_ref.contract import Array
from antisymrnn_validation.conformance.check import promise
from antisymrnn_validation.truth.calls import (
    ArrayError,
    features_of,
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
from antisymrnn_validation.truth.tolerance import measure


@promise(
    "antisymmetric gradient",
    level=5,
    needs={"gradients"},
    source="(B8)",
    usual_cause="dW = G, or the two halves summed in different orders.",
    fix="dW = G − Gᵀ, as one subtraction for each pair of entries.",
)
def antisymmetric_gradient(backend: ModuleType, case: Case) -> None:
    """The gradient of W is antisymmetric: dW + dWᵀ = 0 exactly."""
    arrays = run(backend, case)
    dW, allowed = arrays["W"], 0.0
    if not promises_bits(backend):
        allowed = 2 * measure(arrays, case)["W"].tolerance * float(np.abs(dW).max())
    largest = largest_difference(dW, -dW.T)
    require(largest <= allowed, f"W: dW + dWᵀ is not zero, largest entry {largest:.1e}, allowed {allowed:.1e}")


@promise(
    "symmetric part of W",
    level=5,
    source="(F1)",
    usual_cause="W used beside W − Wᵀ, or W read as triangular.",
    fix="Let W act through W − Wᵀ alone.",
)
def symmetric_part_of_W(backend: ModuleType, case: Case) -> dict[str, ArrayError]:
    """A symmetric matrix added to W leaves every result within the tolerance."""
    W = np.round(8 * case.parameters.W) / 8  # eighths: adding others rounds nothing, and W h − Wᵀ h little
    drawn = generator_of(case).integers(-9, 10, W.shape) / 8
    symmetric = (drawn + drawn.T).astype(case.dtype)
    with_W = case._replace(parameters=case.parameters._replace(W=W))
    with_both = run(backend, case._replace(parameters=case.parameters._replace(W=W + symmetric)))
    return measure(with_both, with_W)  # which has the same truth


@promise(
    "chunks",
    level=5,
    source="(F4), (B2)",
    usual_cause="h0 or the cotangent of the last state handled apart.",
    fix="Begin from h0 and g_T, whatever they are.",
)
def chunks(backend: ModuleType, case: Case) -> dict[str, ArrayError]:
    """A sequence cut in two, the second begun from the first's last state, gives the results of the whole."""
    split, x, g = generator_of(case).integers(len(case.x) + 1), case.x, case.g
    h0 = kept_states(backend, case._replace(x=x[:split]))[-1]
    if "gradients" not in features_of(backend):
        early_h, late_h = (
            kept_states(backend, c) for c in (case._replace(x=x[:split]), case._replace(x=x[split:], h0=h0))
        )
        return measure({"h": np.concatenate([early_h, late_h[1:]])}, case)
    late = run(backend, case._replace(x=x[split:], h0=h0, g=g[split:]))
    # the late chunk's dL/dh_0 holds the cotangent of the state they share
    early = run(backend, case._replace(x=x[:split], g=np.concatenate([g[:split], late["h0"][None]])))
    joined = {name: early[name] + late[name] for name in early if name not in ("h", "x", "h0")}
    joined |= {
        "h": np.concatenate([early["h"], late["h"][1:]]),
        "x": np.concatenate([early["x"], late["x"]]),
        "h0": early["h0"],
    }
    return measure(joined, case)


@promise(
    "batch sum",
    level=5,
    source="DERIVATION.md, section 1.3",
    usual_cause="a mean over the batch, or samples that see each other.",
    fix="Sum; a mean belongs into g.",
)
def batch_sum(backend: ModuleType, case: Case) -> dict[str, ArrayError]:
    """A batch gives the states of its samples, and the sum of their gradients."""
    columns = [slice(k, k + 1) for k in range(case.x.shape[1])]
    singles = [
        run(backend, case._replace(x=case.x[:, column], h0=case.h0[column], g=case.g[:, column])) for column in columns
    ]
    axes = {name: axis for name, axis in {"h": 1, "x": 1, "h0": 0}.items() if name in singles[0]}
    joined = {name: sum(single[name] for single in singles) for name in singles[0] if name not in axes}
    joined |= {name: np.concatenate([single[name] for single in singles], axis) for name, axis in axes.items()}
    return measure(joined, case)


@promise(
    "signed permutation",
    level=5,
    source="(F1) to (F4)",
    usual_cause="a special treatment of some units: tails of a vector, a triangular W, γ off the diagonal.",
    fix="Look at the units that the failure names.",
)
def signed_permutation(backend: ModuleType, case: Case) -> dict[str, ArrayError]:
    """Units renamed (and, without a gate, their signs turned) give the same results, renamed."""
    n = len(case.parameters.b)
    generator = generator_of(case)
    order, signs = generator.permutation(n), generator.choice([-1, 1], n).astype(case.dtype)
    if case.cell == "gated":
        signs[:] = 1  # the sigmoid is not odd
    back = np.argsort(order)

    def units_first(array: Array) -> Array:  # (n, …), or (n, n) on both sides
        moved = array[order] * signs.reshape(-1, *[1] * (array.ndim - 1))
        return moved[:, order] * signs if array.shape == (n, n) and array is case.parameters.W else moved

    def units_last(array: Array) -> Array:
        return array[..., order] * signs

    parameters = type(case.parameters)(*map(units_first, case.parameters))
    results = run(
        backend,
        case._replace(parameters=parameters, h0=units_last(case.h0), g=units_last(case.g)),
    )
    for name in results.keys() & set(case.parameters._fields):
        array = results[name] * signs.reshape(-1, *[1] * (results[name].ndim - 1))
        results[name] = array[back]
    if "W" in results:
        results["W"] = (results["W"] * signs)[:, back]
    for name in results.keys() & {"h", "h0"}:
        results[name] = (results[name] * signs)[..., back]
    return measure(results, case)


def _among_others(case: Case) -> Iterator[tuple[Case, int]]:
    """The first column of the case among other neighbours, in another place, and alone; and where it is then."""
    yield case._replace(x=np.roll(case.x, 1, axis=1), h0=np.roll(case.h0, 1, axis=0)), 1
    others = case._replace(x=-2 * case.x, h0=3 * case.h0)
    others.x[:, 0], others.h0[0] = case.x[:, 0], case.h0[0]
    yield others, 0
    yield case._replace(x=case.x[:, :1], h0=case.h0[:1], g=case.g[:, :1]), 0


@promise(
    "neighbours",
    level=4,
    on={"generic", "wide"},
    same_bits=True,
    source="the contract, on bits",
    usual_cause="a matrix product whose order of summation depends on the size of the batch, as BLAS's does.",
    fix="Sum every entry in one order, whatever the tile.",
)
def neighbours(backend: ModuleType, case: Case) -> None:
    """A sample's states do not depend, to the bit, on the rest of the batch."""
    column = kept_states(backend, case)[:, 0]
    for other, place in _among_others(case):
        require_same_bits("h of a column", kept_states(backend, other)[:, place], column)


@promise(
    "neighbours to rounding",
    level=4,
    on={"generic", "wide"},
    same_bits=False,
    source="(F2)",
    usual_cause="statistics over the batch, or a wrong axis.",
    fix="Samples are rows; nothing is summed over them in forward.",
)
def neighbours_to_rounding(backend: ModuleType, case: Case) -> None:
    """A sample's states do not depend, but for rounding, on the rest of the batch."""
    column = kept_states(backend, case)[:, 0]
    allowed = 2 * measure(run(backend, case), case)["h"].tolerance * np.abs(column).max()
    for other, place in _among_others(case):
        difference = largest_difference(kept_states(backend, other)[:, place], column)
        require(difference <= allowed, f"h of a column: moved by {difference:.1e}, allowed {allowed:.1e}")
