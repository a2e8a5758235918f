"""Promises about what calls do: bits, results, layouts, and the arguments that they leave as they were."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from antisymrnn_ref.contract import Array, Gradients, kept_steps
from antisymrnn_validation.conformance.check import promise
from antisymrnn_validation.truth.calls import (
    ArrayError,
    NotSupported,
    called,
    converted,
    features_of,
    kept_states,
    promises_bits,
    require,
    require_same_bits,
    run,
)
from antisymrnn_validation.truth.cases import Case
from antisymrnn_validation.truth.oracles import (
    named_arrays,
)
from antisymrnn_validation.truth.tolerance import measure


@promise(
    "checkpointing",
    level=3,
    needs={"keep_every"},
    on={"generic", "corners", "options", "long", "wide"},
    source="DERIVATION.md, section 4",
    usual_cause=(
        "sums over steps whose order depends on the segments, or another kernel for the steps that are made again."
    ),
    fix="Make a step by one function, and add over steps in an order that does not know keep_every.",
)
def checkpointing(backend: ModuleType, case: Case) -> None:
    """keep_every=k keeps the states 0, k, 2k, … and T, and changes no bit of them or of a gradient."""
    plain, T = run(backend, case), len(case.x)
    some = {2, 3, max(T - 1, 1), max(T, 1)}
    for keep_every in sorted(some | {1, 20, T + 5, 2**31, 10**30} if promises_bits(backend) else some):
        expected = plain | {"h": plain["h"][kept_steps(T, keep_every)]}
        if promises_bits(backend):
            require_same_bits(f"keep_every={keep_every}: h", kept_states(backend, case, keep_every), expected["h"])
        for name, array in run(backend, case, keep_every=keep_every).items():
            require_same_bits(f"keep_every={keep_every}: {name}", array, expected[name])


@promise(
    "without input gradient",
    level=4,
    needs={"gradients"},
    on={"generic", "corners", "options"},
    source="contract.Gradients",
    usual_cause=(
        "zeros returned for None; a branch on needs_input_grad that skips more than the gradient that is not needed."
    ),
    fix="Return None for what is not needed, and compute the others by the same lines.",
)
def without_input_gradient(backend: ModuleType, case: Case) -> None:
    """input_gradient=False leaves x out (None) and changes nothing else.

    In PyTorch the gradients of the parameters are taken alone then, and those of h0, ε and γ alone.
    """
    without = run(backend, case, input_gradient=False)
    if not promises_bits(backend):
        measure(without, case)
        return
    plain = run(backend, case)
    for name, array in without.items():
        require_same_bits(name, array, plain[name])


@promise(
    "repeatability",
    level=4,
    on={"generic", "options", "wide"},
    source="the contract, on bits",
    usual_cause="atomic sums, a reduction whose order depends on threads, uninitialised memory.",
    fix="Fix the order of every sum, and write every entry before it is read.",
)
def repeatability(backend: ModuleType, case: Case) -> None:
    """The same call gives the same bits."""
    first = run(backend, case)
    for name, array in run(backend, case).items():
        require_same_bits(name, array, first[name])


@promise(
    "independent calls",
    level=4,
    on={"generic", "options"},
    source="the contract, on arguments",
    usual_cause=(
        "a workspace or a packed matrix kept between calls, with other arrays or other ε and γ, or a "
        "trajectory that refers to shared buffers; in PyTorch, what backward needs kept on the module or in a "
        "global."
    ),
    fix=(
        "Give results memory of their own; key a cache by the content of all that it depends on; save what "
        "backward needs in ctx."
    ),
)
def independent_calls(backend: ModuleType, case: Case) -> None:
    """A call depends on its arguments alone, and no result is overwritten by a later call."""
    mine, module = converted(backend, case), getattr(backend, case.cell)
    scaled = {name: 2 * array for name, array in case.parameters._asdict().items()}
    other = case._replace(parameters=type(case.parameters)(**scaled), x=-case.x, h0=3 * case.h0, g=-2 * case.g)
    for moved in (
        case._replace(step_size=case.step_size / 2, name=f"{case.name}, another ε"),
        case._replace(diffusion=case.diffusion + 0.5, name=f"{case.name}, another γ"),
    ):
        run(backend, case)  # the same arrays
        measure(run(backend, moved), moved)

    def arrays(trajectory: Any, gradients: Gradients) -> dict[str, Array]:
        return {name: backend.to_numpy(array) for name, array in named_arrays(trajectory.h, gradients).items()}

    if "gradients" not in features_of(backend):
        held = module.forward(mine.parameters, mine.x, mine.h0, **case.arguments).h
        before = backend.to_numpy(held)
        kept_states(backend, other)
        require_same_bits("h, after another call", backend.to_numpy(held), before)
        require_same_bits("h, called again", kept_states(backend, case), before)
        if "arrays" in features_of(backend):
            changed = mine.parameters.W.copy() / 2
            mine.parameters.W[...] = changed  # as an optimiser does between two calls
            edited = module.forward(mine.parameters, mine.x, mine.h0, **case.arguments).h
            expected = kept_states(backend, case._replace(parameters=case.parameters._replace(W=changed)))
            require_same_bits("h, after W was changed in place", edited, expected)
        return
    returned = called(backend, case)
    first = arrays(*returned)
    trajectory = module.forward(mine.parameters, mine.x, mine.h0, **case.arguments)
    called(backend, other)
    for name, array in arrays(*returned).items():
        require_same_bits(f"{name}, after another call", array, first[name])
    for _ in range(2):
        gradients = module.backward(mine.parameters, mine.x, trajectory, mine.g, **case.arguments)
        for name, array in arrays(trajectory, gradients).items():
            require_same_bits(f"{name}, with another call between forward and backward", array, first[name])

    if isinstance(mine.x, np.ndarray):
        changed = mine.parameters.W.copy() / 2
        mine.parameters.W[...] = changed  # as an optimiser does between two calls
        edited = arrays(*called(backend, mine, convert=False))
        for name, array in run(backend, case._replace(parameters=case.parameters._replace(W=changed))).items():
            require_same_bits(f"{name}, after W was changed in place", edited[name], array)


@promise(
    "written outputs",
    level=4,
    needs={"arrays"},
    source="the contract, on results",
    usual_cause="memory from an allocator that is not cleared, and an entry (a tail, T = 0) that no loop reaches.",
    fix="Write tails, and the results of empty loops.",
)
def written_outputs(backend: ModuleType, case: Case) -> None:
    """Every entry of every result is written."""
    T, B, _ = case.x.shape
    for steps, columns in ((T, B), (T - 1, B), (T, B - 1), (1, 1)):
        x, h0, g = case.x[:steps, :columns], case.h0[:columns], case.g[: steps + 1, :columns]
        given = case._replace(x=x, h0=h0, g=g)
        plain = run(backend, given)
        for _ in range(2):
            # memory that is handed out again is full of NaN then
            stale = [np.full_like(array, np.nan) for array in plain.values() for _ in range(8)]
            del stale
            for name, array in run(backend, given).items():
                require(bool(np.isfinite(array).all()), f"{name}: not finite, after memory full of NaN was freed")
                require_same_bits(f"{name}, after memory full of NaN was freed", array, plain[name])


@promise(
    "inputs untouched",
    level=4,
    needs={"arrays"},
    on={"generic", "corners", "options"},
    source="the contract, on arguments",
    usual_cause="an update in place of h0 or g.",
    fix="Copy what is to be changed.",
)
def inputs_untouched(backend: ModuleType, case: Case) -> None:
    """No argument is written, and read-only ones are accepted."""
    given, module = converted(backend, case), getattr(backend, case.cell)
    arrays = {**given.parameters._asdict(), "x": given.x, "h0": given.h0, "g": given.g}
    before = {name: backend.to_numpy(array) for name, array in arrays.items()}
    for writeable in (True, False):
        trajectory = module.forward(given.parameters, given.x, given.h0, **case.arguments)
        arrays["trajectory.h"] = trajectory.h
        before["trajectory.h"] = backend.to_numpy(trajectory.h)
        for array in arrays.values():
            if isinstance(array, np.ndarray):
                array.flags.writeable = writeable
        for input_gradient in (True, False):
            if "gradients" in features_of(backend):
                module.backward(
                    given.parameters, given.x, trajectory, given.g, input_gradient=input_gradient, **case.arguments
                )
            for name, array in arrays.items():
                require_same_bits(name, backend.to_numpy(array), before[name])
    module.forward(given.parameters, given.x, given.h0, **case.arguments)


@promise(
    "no aliasing",
    level=4,
    needs={"contract"},
    on={"generic", "corners", "options"},
    source="the contract, on arguments",
    usual_cause="h[0] or dh0 returned as a view of an input; T = 0 is where it happens.",
    fix="Copy.",
)
def no_aliasing(backend: ModuleType, case: Case) -> None:
    """No result shares memory with an argument."""
    given = converted(backend, case)
    if not isinstance(given.x, np.ndarray):
        raise NotSupported("its arrays are not NumPy's, whose memory can be compared")
    for g in (given.g, given.g[-1].copy()) if given.g.ndim == 3 else (given.g,):
        inputs = {**given.parameters._asdict(), "x": given.x, "h0": given.h0, "g": g}
        for keep_every in (1, 3, 1000):
            trajectory, gradients = called(backend, given._replace(g=g), keep_every=keep_every, convert=False)
            for name, result in named_arrays(trajectory.h, gradients).items():
                owners = inputs if name == "h" else {**inputs, "trajectory.h": trajectory.h}
                for owner, array in owners.items():
                    require(not np.shares_memory(result, array), f"{name}: shares memory with {owner}")


@promise(
    "non contiguous",
    level=4,
    needs={"layouts"},
    on={"generic", "long", "BLAS"},
    source="the contract, on arguments",
    usual_cause="strides ignored, or another order of summation for another layout.",
    fix="Copy to C order first.",
)
def non_contiguous(backend: ModuleType, case: Case) -> dict[str, ArrayError]:
    """Arrays of any layout give results within the tolerance, and keep_every still changes no bit."""
    if not isinstance(converted(backend, case).x, np.ndarray):
        raise NotSupported("its arrays are not NumPy's")

    def strided(array: Array) -> Array:
        wide = np.full([2 * size for size in array.shape], np.nan, case.dtype)
        view = wide[tuple(slice(None, None, -2) for _ in array.shape)]
        view[...] = array
        return view

    last = case._replace(g=case.g[-1].copy())
    errors: dict[str, ArrayError] = {}
    if "gradients" in features_of(backend):  # the cotangent of h.sum()
        ones = case._replace(g=np.broadcast_to(case.dtype.type(1), case.g.shape), name=f"{case.name}, g = 1")
        trajectory, gradients = called(backend, converted(backend, case)._replace(g=ones.g), convert=False)
        measure(named_arrays(trajectory.h, gradients), ones)
    for layout in (np.asfortranarray, strided):
        if "gradients" not in features_of(backend):
            parameters = type(case.parameters)(*map(layout, case.parameters))
            module = getattr(backend, case.cell)
            errors = measure(
                {"h": module.forward(parameters, layout(case.x), layout(case.h0), **case.arguments).h}, case
            )
            continue
        trajectory, gradients = called(backend, converted(backend, last)._replace(g=layout(last.g)), convert=False)
        measure(named_arrays(trajectory.h, gradients), last)
        parameters = type(case.parameters)(*map(layout, case.parameters))
        given = case._replace(parameters=parameters, x=layout(case.x), h0=layout(case.h0), g=layout(case.g))
        plain, kept = (
            named_arrays(trajectory.h, gradients)
            for trajectory, gradients in (called(backend, given, keep_every=k, convert=False) for k in (1, 2))
        )
        for name, array in kept.items():
            expected = plain[name][kept_steps(len(case.x), 2)] if name == "h" else plain[name]
            require_same_bits(f"keep_every=2: {name}", array, expected)
        errors = measure(plain, case)
    return errors
