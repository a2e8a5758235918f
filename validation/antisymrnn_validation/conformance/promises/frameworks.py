"""Promises about PyTorch and JAX: what autograd is asked for, and what a call may change.

A candidate of a framework has a ``peer``, which calls it and differentiates it (``targets/pytorch.py``,
``targets/jax.py``); the promises here ask of it what a training loop does.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from antisymrnn_ref.contract import Array
from antisymrnn_validation.conformance.check import promise
from antisymrnn_validation.output.terminal import placed
from antisymrnn_validation.truth.calls import (
    ArrayError,
    BrokenPromise,
    Candidate,
    NotSupported,
    features_of,
    require,
    run,
)
from antisymrnn_validation.truth.cases import Case, generator_of, random_case
from antisymrnn_validation.truth.tolerance import measure

DRAWN_SUBSETS = 10
DRAWN_LAYOUTS = 2


def _inputs(backend: ModuleType, case: Case) -> tuple[str, ...]:
    """The inputs that gradients are taken of."""
    numbers = backend.numbers if isinstance(backend, Candidate) else frozenset()
    every = (*case.parameters._fields, "x", "h0", "step_size", "diffusion")
    return tuple(name for name in every if name not in numbers)


@contextlib.contextmanager
def _said(where: str) -> Iterator[None]:
    """Say where a promise is broken; what a candidate raises breaks it too."""
    try:
        yield
    except BrokenPromise as broken:
        raise BrokenPromise(f"{where}: {broken}", broken.errors, broken.wrong) from None
    except NotSupported:
        raise
    except Exception as error:
        raise BrokenPromise(f"{where}: raised {placed(error)}") from error


def _measured(where: str, found: dict[str, Array], whole: dict[str, Array], case: Case) -> dict[str, ArrayError]:
    """Measure some results among the others, unless they are the same to the bit as those that were measured."""
    if all(array.tobytes() == whole[name].tobytes() for name, array in found.items()):
        return {}
    with _said(where):
        return measure(whole | found, case)


def _whole(backend: ModuleType, case: Case) -> dict[str, Array]:
    """Every result of a case, within its tolerance."""
    whole = run(backend, case)
    measure(whole, case)
    return whole


def _remark(backend: ModuleType, remark: str) -> None:
    """Have something said of a candidate once, beside the checks."""
    if remark not in backend.remarks:
        backend.remarks.append(remark)


def _subsets(names: Sequence[str], case: Case, drawn: int) -> list[tuple[str, ...]]:
    """Each input alone, all but each, what is frozen in practice, and some at random."""
    generator = generator_of(case)
    parameters = tuple(name for name in names if name in case.parameters._fields)
    found: list[tuple[str, ...]] = [(name,) for name in names]
    found += [tuple(other for other in names if other != name) for name in names]
    found += [tuple(other for other in parameters if other != name) for name in parameters]
    found += [parameters, (*parameters, "h0")]
    found += [tuple(name for name in names if generator.random() < 0.5) for _ in range(drawn)]
    return [subset for subset in dict.fromkeys(found) if subset]


@promise(
    "subsets of gradients",
    level=2,
    needs={"autograd"},
    source="contract.Gradients",
    usual_cause=(
        "a branch on needs_input_grad that skips more than the gradient that is not needed, a detach() for all where "
        "one input is frozen, or an assertion that everything is trained."
    ),
    fix="Compute each gradient by lines of its own, and return None for those that are not needed alone.",
)
def subsets_of_gradients(backend: ModuleType, case: Case) -> None:
    """Whichever inputs are trained, the gradient of each is the same: the other inputs are frozen."""
    names, whole = _inputs(backend, case), _whole(backend, case)
    subsets = _subsets(names, case, DRAWN_SUBSETS)
    if "jax" in features_of(backend) and backend.peer.compiled(case):  # each subset is compiled anew
        subsets = subsets[:: 4 if case.dtype == np.float64 else 9]
    for subset in subsets:
        where = f"gradients of {', '.join(subset)} alone"
        with _said(where):
            h, found = backend.peer.gradients(case, subset)
        _measured(where, {"h": h} | found, whole, case)


@promise(
    "modes",
    level=2,
    needs={"torch"},
    on={"generic", "corners", "options", "wide"},
    source="(F1) to (F4)",
    usual_cause="self.training or torch.is_grad_enabled() asked for more than what must be kept for backward.",
    fix="Compute the states by the same lines in every mode.",
)
def modes(backend: ModuleType, case: Case) -> None:
    """eval() and train(), no_grad(), inference_mode() and neither: the same states and the same gradients."""
    import torch

    peer, whole = backend.peer, _whole(backend, case)
    contexts: dict[str, Any] = {
        "no_grad()": torch.no_grad,
        "inference_mode()": torch.inference_mode,
        "grad mode": torch.enable_grad,
    }
    switches = {"": None} if peer.module(case) is None else {"eval(), ": False, "train(), ": True}
    for switch, training in switches.items():
        for context, entered in contexts.items():
            where = f"in {switch}{context}"
            inputs = peer.inputs(case)
            with _said(where), entered():
                h = peer.states(case, inputs, training=training).cpu().numpy()
            _measured(where, {"h": h}, whole, case)
        where = f"in {switch}differentiated"
        with _said(where):
            h, found = peer.gradients(case, _inputs(backend, case), training=training)
        _measured(where, {"h": h} | found, whole, case)


@promise(
    "trainable parameters",
    level=2,
    needs={"torch"},
    source="(F1) to (F4)",
    usual_cause="a constant, such as an identity matrix or a mask, held as nn.Parameter; a second bias.",
    fix="register_buffer for what is not trained; leave out what the equation does not have.",
)
def trainable_parameters(backend: ModuleType, case: Case) -> None:
    """The states depend on no trained parameter of a module but W, V, b, V_z, b_z, ε and γ.

    One that they do not depend on, as of a readout, is allowed, and said.
    """
    import torch

    peer = backend.peer
    if peer.module(case) is None:
        raise NotSupported("it is a function, and holds no parameters")
    for name in peer.trained_constants(case):
        _remark(backend, f"{name}: trained with the module, as W is; register_buffer if it is a constant")
    inputs, generator = peer.inputs(case), generator_of(case)
    with torch.no_grad():
        before = peer.states(case, inputs).cpu().numpy()
    for name, value in peer.extra(case).items():
        held = value.detach().clone()
        with torch.no_grad():
            value += torch.from_numpy(np.asarray(generator.standard_normal(tuple(held.shape)))).to(held.dtype)
            try:
                h = peer.states(case, inputs).cpu().numpy()
            finally:
                value.copy_(held)
        shape = f"{name} {tuple(held.shape)}"
        require(
            h.tobytes() == before.tobytes(),
            f"{shape}: h depends on this trained parameter, which is none of the equation's: register_buffer, or --map",
        )
        _remark(backend, f"{name}: trained with the module, but the states do not depend on it")


@promise(
    "framework state",
    level=4,
    needs={"autograd"},
    source="the contract, on calls",
    usual_cause="a seed, a default dtype, a number of threads or a grad mode set inside a call.",
    fix="Set it for the block that needs it, and set it back; draw from a generator of one's own.",
)
def framework_state(backend: ModuleType, case: Case) -> None:
    """A call leaves the framework's settings, and the random states of all libraries, as they were."""
    peer, names = backend.peer, _inputs(backend, case)
    settings = peer.settings()
    passes: dict[str, Callable[[], Any]] = {
        "forward": lambda: peer.once(case),
        "backward": lambda: peer.gradients(case, names),
    }
    for what, called in passes.items():
        before = [setting.read() for setting in settings]
        try:
            called()
        finally:
            after = [setting.read() for setting in settings]
            changed = [
                (setting, had, has)
                for setting, had, has in zip(settings, before, after, strict=True)
                if pickle.dumps(had) != pickle.dumps(has)
            ]
            for setting, had, _ in changed:
                setting.restore(had)
        told = [
            setting.name if isinstance(had, bytes | tuple) else f"{setting.name} from {had} to {has}"
            for setting, had, has in changed
        ]
        require(not told, f"{what} changes {', '.join(told)}")


@promise(
    "strides",
    level=4,
    needs={"torch"},
    source="the contract, on arguments",
    usual_cause="data_ptr() with sizes alone, view() or reshape where strides are needed, .storage().",
    fix="contiguous() first.",
)
def strides(backend: ModuleType, case: Case) -> None:
    """Tensors of any layout, the cotangent among them, give the same results."""
    names, whole, generator = _inputs(backend, case), _whole(backend, case), generator_of(case)
    arguments = {**case.parameters._asdict(), "x": case.x, "h0": case.h0, "g": case.g}
    layouts = {name: list(_layouts(array, generator)) for name, array in arguments.items()}
    for name, views in layouts.items():
        for view in views:
            _strided(backend, case, arguments | {name: view}, names, whole)
    for together in zip(*layouts.values(), strict=True):
        _strided(backend, case, dict(zip(arguments, together, strict=True)), names, whole)
    # as an initial state, an input or a cotangent that is the same for all samples or steps is given
    repeated = {
        "x": np.broadcast_to(case.x[:, :1].copy(), case.x.shape),
        "h0": np.broadcast_to(case.h0[:1].copy(), case.h0.shape),
        "g": np.broadcast_to(case.g[:1].copy(), case.g.shape),
    }
    same = _with(case, arguments | repeated)._replace(name=f"{case.name}, expanded")
    _strided(backend, same, arguments | repeated, names, _whole(backend, _with(same, _copied(arguments | repeated))))


def _copied(arguments: dict[str, Array]) -> dict[str, Array]:
    return {name: np.array(array, order="C") for name, array in arguments.items()}


def _with(case: Case, arguments: dict[str, Array]) -> Case:
    parameters = type(case.parameters)(*(arguments[name] for name in case.parameters._fields))
    return case._replace(parameters=parameters, x=arguments["x"], h0=arguments["h0"], g=arguments["g"])


def _strided(
    backend: ModuleType, case: Case, moved: dict[str, Array], names: Sequence[str], whole: dict[str, Array]
) -> None:
    """The results of arguments in other layouts."""
    told = [
        f"{name} {array.shape} with strides {tuple(stride // array.itemsize for stride in array.strides)}"
        for name, array in moved.items()
        if not array.flags.c_contiguous or array.base is not None
    ]
    with _said("; ".join(told)):
        h, found = backend.peer.gradients(_with(case, moved), names)
    _measured("; ".join(told), {"h": h} | found, whole, case)


def _layouts(array: Array, generator: np.random.Generator) -> Iterator[Array]:
    """The same numbers with padded rows, transposed, batch first, later in memory, and as they are drawn."""
    axes, one = list(range(array.ndim)), [1] * array.ndim
    last = [*[0] * (array.ndim - 1), 3]
    yield _laid(array, axes, one, last, 0)
    yield _laid(array, axes[::-1], one, [0] * array.ndim, 0)
    yield _laid(array, [*axes[1::-1], *axes[2:]], one, [0] * array.ndim, 1)
    for _ in range(DRAWN_LAYOUTS):
        steps, pads = generator.integers(1, 3, array.ndim), generator.integers(0, 3, array.ndim)
        order = [int(axis) for axis in generator.permutation(array.ndim)]
        yield _laid(array, order, steps.tolist(), pads.tolist(), int(generator.integers(0, 4)))


def _laid(array: Array, order: Sequence[int], steps: Sequence[int], pads: Sequence[int], offset: int) -> Array:
    """The same numbers with the axes in another order in memory, each of them with steps and padded, after NaN."""
    size = [array.shape[axis] * steps[axis] + pads[axis] for axis in order]
    held = np.full(offset + int(np.prod(size)), np.nan, array.dtype)
    view = held[offset:].reshape(size).transpose(np.argsort(order))
    view = view[tuple(slice(None, count * step, step) for count, step in zip(array.shape, steps, strict=True))]
    view[...] = array
    return view


@promise(
    "graphs",
    level=4,
    needs={"torch"},
    source="contract.Trajectory",
    usual_cause="what backward needs held on the module, in a global or on ctx, and not by ctx.save_for_backward.",
    fix="ctx.save_for_backward(...), which also sees what is changed in place; free nothing in backward.",
)
def graphs(backend: ModuleType, case: Case) -> None:
    """Each backward pass belongs to its forward pass, whatever lies between: other passes, sizes and cotangents.

    After an argument was changed in place it is right, or raises PyTorch's own error.
    """
    import torch

    peer, names, whole = backend.peer, _inputs(backend, case), _whole(backend, case)
    turned = case._replace(g=np.ascontiguousarray(-case.g[::-1]), name=f"{case.name}, another cotangent")
    T, B, m = case.x.shape
    sizes = [
        random_case(case.cell, *each, step_size=0.2, diffusion=0.1, seed=5, dtype=case.dtype, name="between")
        for each in ((T + 2, B + 1, len(case.parameters.b), m), (2, 2, 3, m + 1))
    ]

    def begun(given: Case) -> tuple[Any, dict[str, Any]]:
        inputs = peer.inputs(given, names)
        with torch.enable_grad():
            return peer.states(given, inputs), inputs

    def ended(
        where: str, given: Case, graph: tuple[Any, dict[str, Any]], expected: dict[str, Array], **how: Any
    ) -> None:
        with _said(where):
            found = peer.pulled_back(given, *graph, names, **how)
        _measured(where, {"h": graph[0].detach().cpu().numpy()} | found, expected, given)

    graph, after_turned = begun(case), _whole(backend, turned)
    try:
        for count, (given, expected) in enumerate([(case, whole), (turned, after_turned), (case, whole)], 1):
            ended(f"backward pass {count} through one graph", given, graph, expected, again=count < 3)
    except BrokenPromise as broken:
        if "donated_buffer" not in str(broken):
            raise
        _remark(backend, "a second backward pass through one graph is refused: torch.compile donated its buffers")
    other = case._replace(x=-case.x, h0=case.h0 / 2, name=f"{case.name}, another")
    after_other = _whole(backend, other)
    for order in (1, -1):
        passes = [(case, begun(case), whole), (other, begun(other), after_other)]
        for given in sizes:
            begun(given)
        for given, graph, expected in passes[::order]:
            which = "first" if order == 1 else "second"
            ended(f"two forward passes, the backward pass of the {which} before the other", given, graph, expected)
    for name in (*case.parameters._fields, "x", "h0"):
        h, inputs = begun(case)
        with torch.no_grad():
            inputs[name] /= 2
        where = f"{name} changed in place between forward and backward"
        try:
            found = peer.pulled_back(case, h, inputs, names, untouched=False)
        except RuntimeError as error:
            if "inplace" not in str(error):
                raise BrokenPromise(f"{where}: raised {placed(error)}") from error
        else:
            try:
                _measured(f"{where}, and no error", found, whole, case)
            except BrokenPromise:
                if not peer.checkpoints(case):
                    raise
                _remark(backend, f"{where}: other gradients and no error; so does torch.utils.checkpoint in a closure")


@promise(
    "compiled and not",
    level=4,
    needs={"jax"},
    source="(F1) to (F4)",
    usual_cause="a dtype that is left to jax_enable_x64, or a constant of the first trace.",
    fix="Take every dtype from the arguments, and ε and γ as arguments.",
)
def compiled_and_not(backend: ModuleType, case: Case) -> None:
    """Called from outside any compilation, and, in float32, without 64 bits enabled: the same results."""
    names, whole = _inputs(backend, case), _whole(backend, case)
    ways = {"outside jax.jit": {"outside": True}} if backend.peer.compiled(case) else {}
    if case.dtype == np.float32:
        ways["with jax_enable_x64 off"] = {"x64": False}
    if not ways:
        raise NotSupported("it is no function of jax.jit, and float64 needs 64 bits")
    for where, how in ways.items():
        with _said(where):
            h, found = backend.peer.gradients(case, names, **how)
            states = backend.peer.states(case, **how)
        _measured(where, {"h": h} | found, whole, case)
        require(states.shape == h.shape, f"{where}: h: expected {h.shape}, got {states.shape}")
        _measured(f"{where}, without gradients", {"h": states}, whole, case)
