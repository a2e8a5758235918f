"""Promises about arguments: their layout in memory, buffers that are used again, and what belongs to the caller."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from antisymrnn_ref.contract import Array, Gradients, kept_steps
from antisymrnn_validation.conformance.check import promise
from antisymrnn_validation.truth.calls import (
    ArrayError,
    BrokenPromise,
    NotSupported,
    called,
    converted,
    features_of,
    kept_states,
    require,
    require_same_bits,
    run,
)
from antisymrnn_validation.truth.cases import Case, generator_of, random_case
from antisymrnn_validation.truth.layouts import (
    Layout,
    arguments_of,
    described,
    drawn_layout,
    laid_out,
    single_layouts,
)
from antisymrnn_validation.truth.oracles import named_arrays
from antisymrnn_validation.truth.structures import structured
from antisymrnn_validation.truth.tolerance import measure

LAYOUTS_DRAWN = 24


def _arrays(backend: ModuleType, trajectory: Any, gradients: Gradients) -> dict[str, Array]:
    """Results under the names of the truth, as NumPy arrays; without x where it was not asked for."""
    named = named_arrays(trajectory.h, gradients)
    return {name: backend.to_numpy(array) for name, array in named.items() if array is not None}


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

    if "gradients" not in features_of(backend):
        held = module.forward(mine.parameters, mine.x, mine.h0, **case.arguments).h
        before = backend.to_numpy(held)
        kept_states(backend, other)
        require_same_bits("h, after another call", backend.to_numpy(held), before)
        require_same_bits("h, called again", kept_states(backend, case), before)
        return
    returned = called(backend, case)
    first = _arrays(backend, *returned)
    trajectory = module.forward(mine.parameters, mine.x, mine.h0, **case.arguments)
    called(backend, other)
    for name, array in _arrays(backend, *returned).items():
        require_same_bits(f"{name}, after another call", array, first[name])
    for _ in range(2):
        gradients = module.backward(mine.parameters, mine.x, trajectory, mine.g, **case.arguments)
        for name, array in _arrays(backend, trajectory, gradients).items():
            require_same_bits(f"{name}, with another call between forward and backward", array, first[name])


def _edits(generator: np.random.Generator) -> dict[str, Callable[[Array], Array]]:
    """Ways to change an array, each of which leaves something as it was: a sum, most entries, every sign."""

    def one_negated(array: Array) -> Array:
        changed = array.copy()
        changed.reshape(-1)[generator.integers(array.size)] *= -1
        return changed

    return {"halved": lambda array: array / 2, "reversed": lambda array: np.flip(array), "one negated": one_negated}


@promise(
    "refilled arguments",
    level=4,
    needs={"arrays"},
    on={"generic", "options"},
    source="the contract, on arguments",
    usual_cause="something computed from an argument and kept under the identity of the array, or under a part of it.",
    fix="Compute it in every call, or key it by the whole content.",
)
def refilled_arguments(backend: ModuleType, case: Case) -> None:
    """An array that was refilled in place is another argument, whichever it is; a trajectory keeps none of them."""
    mine, module = converted(backend, case), getattr(backend, case.cell)
    if not hasattr(type(mine.x), "__setitem__"):
        raise NotSupported("its arrays cannot be written")
    arrays = arguments_of(mine)

    def refill(values: Case) -> None:
        for name, value in arguments_of(values).items():
            if value.size:
                arrays[name][...] = backend.asarray(value, case.dtype)

    def results(given: Case) -> dict[str, Array]:
        if "gradients" not in features_of(backend):
            return {"h": kept_states(backend, given)}
        return _arrays(backend, *called(backend, given))

    def again() -> dict[str, Array]:
        """Of a call with the same objects."""
        if "gradients" not in features_of(backend):
            return {"h": backend.to_numpy(module.forward(mine.parameters, mine.x, mine.h0, **case.arguments).h)}
        return _arrays(backend, *called(backend, mine, convert=False))

    plain = results(case)
    for name in arrays:
        for edit, changed in _edits(generator_of(case)).items():
            values = changed(arguments_of(case)[name])
            leaf = name in case.parameters._fields
            given = case._replace(
                **({"parameters": case.parameters._replace(**{name: values})} if leaf else {name: values})
            )
            refill(case)
            again()
            refill(given)
            got = again()
            for result, expected in results(given).items():
                require_same_bits(f"{result}, after {name} was {edit} in place", got[result], expected)
    refill(case)
    if "gradients" not in features_of(backend):
        return
    trajectory = module.forward(mine.parameters, mine.x, mine.h0, **case.arguments)
    fresh = converted(backend, case)
    refill(case._replace(**{name: np.full_like(getattr(case, name), np.nan) for name in ("x", "h0", "g")}))
    for array in mine.parameters:
        array[...] = backend.asarray(np.full(array.shape, np.nan), case.dtype)
    gradients = module.backward(fresh.parameters, fresh.x, trajectory, fresh.g, **case.arguments)
    for result, array in _arrays(backend, trajectory, gradients).items():
        require_same_bits(f"{result}, with forward's own arrays refilled before backward", array, plain[result])


@promise(
    "other cotangents",
    level=4,
    needs={"gradients", "contract"},
    on={"generic", "corners", "options", "wide"},
    source="the contract, on arguments",
    usual_cause="gradients, or sums of them, kept on the trajectory or in buffers that the next backward adds to.",
    fix="Compute every gradient in the call that returns it; begin every sum at zero.",
)
def other_cotangents(backend: ModuleType, case: Case) -> None:
    """One trajectory serves any number of backward passes, each with its own cotangents and options.

    What the caller does to the results of one is nothing to the next; the states themselves may be the cotangents.
    """
    mine, module = converted(backend, case), getattr(backend, case.cell)
    trajectory = module.forward(mine.parameters, mine.x, mine.h0, **case.arguments)
    h = backend.to_numpy(trajectory.h)
    cotangents = {"g": case.g, "−2 g": -2 * case.g, "zeros": np.zeros_like(case.g), "g_T": h[-1], "the states": h}
    expected = {
        name: _arrays(backend, *called(backend, case._replace(g=g))) for name, g in cotangents.items()
    }  # each on a trajectory of its own
    for name in ("g", "−2 g", "g_T", "the states", "zeros", "the states", "g"):
        for input_gradient in (True, False):
            g = trajectory.h if name == "the states" else backend.asarray(cotangents[name], case.dtype)
            gradients = module.backward(
                mine.parameters, mine.x, trajectory, g, input_gradient=input_gradient, **case.arguments
            )
            for result, array in _arrays(backend, trajectory, gradients).items():
                said = f"{result}, by a further backward on the trajectory, with {name} as the cotangents"
                require_same_bits(said, array, expected[name][result])
            for array in (*gradients.parameters, gradients.x, gradients.h0):
                if isinstance(array, np.ndarray):
                    array[...] = np.nan  # a caller may use what it owns


@promise(
    "smaller after larger",
    level=4,
    needs={"contract"},
    on={"generic", "wide"},
    source="the contract, on arguments",
    usual_cause="scratch memory kept between calls, of which a smaller call reads what a larger one has left.",
    fix="Cut the scratch memory to the size of the call, and write every entry before it is read.",
)
def smaller_after_larger(backend: ModuleType, case: Case) -> None:
    """A call gives the same bits after larger calls, whatever numbers those were about."""
    T, B, m = case.x.shape
    n = len(case.parameters.b)
    plain = {keep_every: run(backend, case, keep_every=keep_every) for keep_every in (1, 2, T + 1)}
    for larger in ((2 * T, B, n, m), (T, 2 * B + 1, n, m), (T, B, 2 * n + 1, m), (T, B, n, 3 * m), (2 * T, 16, 40, 8)):
        for poison in (1.0, np.nan):
            other = random_case(
                case.cell, *larger, step_size=0.7, diffusion=0.1, seed=5, dtype=case.dtype, amplitude=poison
            )
            for keep_every, expected in plain.items():
                run(backend, other, keep_every=keep_every)
                for name, array in run(backend, case, keep_every=keep_every).items():
                    sizes = "T={} B={} n={} m={}".format(*larger)
                    require_same_bits(
                        f"{name}, keep_every={keep_every}, after a call of {sizes}", array, expected[name]
                    )


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
    "layouts",
    level=4,
    needs={"layouts"},
    on={"generic", "options", "long", "BLAS"},
    source="the contract, on arguments",
    usual_cause=(
        "strides ignored, or trusted where only the last one was looked at; another order of summation for another "
        "layout in one of two passes."
    ),
    fix="Copy to C order first.",
)
def layouts(backend: ModuleType, case: Case) -> dict[str, ArrayError]:
    """Arrays of any layout give results within the tolerance, and keep_every still changes no bit.

    Transposed, batch-first, padded, strided, reversed, broadcast, offset, unaligned and read-only, each argument apart.
    """
    if not isinstance(converted(backend, case).x, np.ndarray):
        raise NotSupported("its arrays are not NumPy's")
    equal = ["x constant in time", "x of equal samples", "h0 of equal samples", "g of ones"]
    variants = [case, structured(case, equal), case._replace(g=case.g[-1].copy() if case.g.ndim == 3 else case.g)]
    generator, errors = generator_of(case), {}
    every = [dict.fromkeys(arguments_of(case), layout) for layout in single_layouts()]
    every += [{name: drawn_layout(generator) for name in arguments_of(case)} for _ in range(LAYOUTS_DRAWN)]
    for number, drawn in enumerate(every):
        given = variants[number % len(variants)]
        try:
            errors = _measured(backend, given, drawn)
        except BrokenPromise as broken:
            raise BrokenPromise(f"{_blamed(backend, given, drawn)}: {broken}", broken.errors) from None
    return errors


def _measured(backend: ModuleType, case: Case, drawn: dict[str, Layout]) -> dict[str, ArrayError]:
    """The errors of a call with arrays so laid out."""
    given, module = laid_out(case, drawn), getattr(backend, case.cell)
    if "gradients" not in features_of(backend):
        return measure(
            {"h": module.forward(given.parameters, given.x, given.h0, **case.arguments).h}, case, oracle="extended"
        )
    plain, kept = (
        named_arrays(trajectory.h, gradients)
        for trajectory, gradients in (called(backend, given, keep_every=k, convert=False) for k in (1, 2))
    )
    for name, array in kept.items():
        expected = plain[name][kept_steps(len(case.x), 2)] if name == "h" else plain[name]
        require_same_bits(f"keep_every=2: {name}", array, expected)
    return measure(plain, case, oracle="extended")


def _blamed(backend: ModuleType, case: Case, drawn: dict[str, Layout]) -> str:
    """The arrays whose layout makes it fail: one if that is enough, else all."""
    alone: list[dict[str, Layout]] = [{}, *({name: layout} for name, layout in drawn.items())]
    for layouts in alone:
        try:
            _measured(backend, case, layouts)
        except BrokenPromise:
            return described(laid_out(case, layouts)) if layouts else f"in plain C order too ({case.name})"
    return described(laid_out(case, drawn))
