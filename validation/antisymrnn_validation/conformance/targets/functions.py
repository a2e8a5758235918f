"""Candidates: everything that may be judged, seen through the interface of a backend.

An installed backend; a Python function on NumPy arrays; a function or a module of PyTorch; a function of JAX; a program
in any language (``programs.py``). What a candidate is not made for, its ``features`` lack, and the checks of it do not
apply; everything else is asked of all alike.

A function has the signature ``f(parameters, x, h0, step_size, diffusion)`` and returns every state, h_0 among them,
(T+1, B, n). ``parameters`` is a dictionary: W (n, n), V (n, m), b (n,), and V_z, b_z for the gated cell; x is (T, B, m)
and h0 (B, n), all of one dtype, which h must have too. A function that also takes a keyword ``unconstrained`` is asked
for the ablation. A function computes one cell: a second one is given for the gated cell.

- ``callable_candidate``: NumPy arrays and Python numbers; the caller's own arrays, which may be read-only and strided.
  Its states are judged, not gradients.
- ``torch_candidate``: tensors, ``step_size`` and ``diffusion`` among them, of any layout. Gradients come from autograd,
  of every input at once, and of the parameters alone, as in training; between a forward pass and its backward pass
  there is another forward pass, and before both the same tensors have held other numbers.
  A ``torch.nn.Module`` is called as ``module(x, h0)``, its parameters and buffers named W, V, b, V_z, b_z, step_size,
  diffusion replaced for the call by tensors of the case's sizes; an attribute ``contract_names`` maps these names to
  others. A class of modules is made by ``Class(m, n)``.
- ``jax_candidate``: JAX's arrays, ``step_size`` and ``diffusion`` among them, with 64 bits enabled around each call and
  no other setting touched. Gradients come from ``jax.vjp``, compiled if the function is what ``jax.jit`` returned.
"""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from antisymrnn_ref import load_backend
from antisymrnn_ref.contract import (
    Array,
    GatedParameters,
    Gradients,
    Parameters,
    asarray,
    checked_backward,
    checked_forward,
    kept_steps,
    to_numpy,
)
from antisymrnn_validation.truth.calls import ALL, BrokenPromise, Candidate, NotSupported
from antisymrnn_validation.truth.cases import CELLS, Case

Function = Callable[..., Any] | str
"""A function, or its path ``package.module:name``."""

CHECK_SECONDS = 300.0
"""Seconds that a check of a Python function may take; a program has a limit for each call."""

States = Callable[[Case, int], Array]
"""Kept states of a case for ``keep_every``."""

Pullback = Callable[[Case, Array, int, bool], dict[str, Array]]
"""Gradients of a case by the names of the inputs; it is given the kept states too, and whether that of x is wanted."""


class Trajectory(NamedTuple):
    """The kept states and the constants of a candidate's forward."""

    h: Array
    keep_every: int
    step_size: float
    diffusion: float
    unconstrained: bool


def backend(name: str) -> Candidate:
    """An installed backend, with every feature; ``name`` and what is raised are those of ``load_backend``."""
    module = load_backend(name)
    candidate = Candidate(module.__name__)
    candidate.__dict__.update(module.__dict__, features=ALL)
    return candidate


def callable_candidate(function: Function, gated: Function | None = None) -> Candidate:
    """A Python function on NumPy arrays, judged on its states.

    Parameters
    ----------
    function, gated : callable or str
        Of the ungated and of the gated cell, with the signature above; or the path ``package.module:name``.

    Raises
    ------
    TypeError, ValueError
        If there is no such function.
    """
    functions, unchanged = _functions(function, gated), _unchanged()

    def states(case: Case, keep_every: int) -> Array:
        given = _given(functions[case.cell], case)
        arguments = (case.x, case.h0, case.step_size, case.diffusion)
        h = _called(functions[case.cell], case.parameters._asdict(), *arguments, **given)
        if type(h) is not np.ndarray:
            raise BrokenPromise(f"h: expected numpy.ndarray, got {type(h).__name__}")
        unchanged(h)
        return _kept(h, case, keep_every)

    features = {"arrays", "layouts"} | _ablation(functions)
    return _candidate("callable", dict.fromkeys(functions, (states, None)), features)


def torch_candidate(function: Function, gated: Function | None = None) -> Candidate:
    """A function, a module or a class of modules of PyTorch, on the CPU, with the gradients of autograd.

    Parameters
    ----------
    function, gated : callable, torch.nn.Module, class or str
        Of the ungated and of the gated cell; or the path ``package.module:name``.

    Raises
    ------
    ImportError
        Without PyTorch.
    TypeError, ValueError
        If there is no such function.
    """
    import torch

    functions, unchanged = _functions(function, gated), _unchanged()

    @functools.lru_cache(maxsize=64)
    def made(cell: str, m: int, n: int) -> Any:
        """One module for all calls of a size: what it keeps between calls must do no harm."""
        module = functions[cell]
        return module(m, n) if isinstance(module, type) else copy.deepcopy(module)

    def states(case: Case, inputs: dict[str, Any]) -> Any:
        function = functions[case.cell]
        if isinstance(function, torch.nn.Module) or _is_module_class(function, torch):
            module = made(case.cell, case.x.shape[2], len(case.parameters.b)).to(inputs["x"].dtype)
            h = torch.func.functional_call(
                module, _in_place(module, inputs), (inputs["x"], inputs["h0"]), _given(function, case)
            )
        else:
            constants = (inputs["step_size"], inputs["diffusion"])
            parameters = {name: inputs[name] for name in case.parameters._fields}
            h = _called(function, parameters, inputs["x"], inputs["h0"], *constants, **_given(function, case))
        if not isinstance(h, torch.Tensor):
            raise BrokenPromise(f"h: expected torch.Tensor, got {type(h).__name__}")
        if h.dtype != inputs["x"].dtype:
            raise BrokenPromise(f"h: expected dtype {inputs['x'].dtype} as x has, got {h.dtype}")
        return h

    def tensor(array: Array) -> Any:
        """A tensor in memory of its own, with the strides of an array, though none below 0."""
        repeated = tuple(slice(None if stride else 1) for stride in array.strides)
        once = torch.from_numpy(np.array(array[repeated], order="C"))
        if any(size > 1 and not stride for size, stride in zip(array.shape, array.strides, strict=True)):
            return once.expand(array.shape)
        strides = [abs(stride) // array.itemsize for stride in array.strides]
        return torch.empty_strided(array.shape, strides, dtype=once.dtype).copy_(once)

    def require_untouched(given: dict[str, Any], arrays: dict[str, Array]) -> None:
        for name, array in arrays.items():
            if given[name].detach().numpy().tobytes() != array.tobytes():
                raise BrokenPromise(f"{name}: the call writes into it")

    def forward(case: Case, keep_every: int) -> Array:
        arrays = _inputs(case)
        inputs = {name: tensor(array) for name, array in arrays.items()}
        with torch.no_grad():
            h = states(case, inputs).cpu().numpy()
        require_untouched(inputs, arrays)
        unchanged(h)
        return _kept(h, case, keep_every)

    def differentiated(case: Case, states_before: Array, keep_every: int, names: Sequence[str]) -> dict[str, Array]:
        """Gradients of some inputs, which alone require them."""
        arrays = _inputs(case)
        inputs = {name: tensor(array).requires_grad_(name in names) for name, array in arrays.items()}
        others = {name: (value / 2).detach().requires_grad_(name in names) for name, value in inputs.items()}
        with torch.enable_grad():
            with torch.no_grad():  # as an optimiser does between two passes
                for name, value in inputs.items():
                    value.copy_(others[name])
            states(case, inputs)
            with torch.no_grad():
                for name, value in inputs.items():
                    value.copy_(tensor(arrays[name]))
            h = states(case, inputs)
            reached = len(case.x) or "h0" in names  # h_0 depends on no parameter
            if reached and not h.requires_grad:
                raise BrokenPromise("h: is detached from every input: autograd has nothing to go back by")
            unchanged(h.detach().cpu().numpy())
            _require_same_states(_kept(h.detach().cpu().numpy(), case, keep_every), states_before)
            states(case, others)
            end = h if case.g.ndim == 3 else h[-1]
            cotangent = tensor(case.g)
            asked = [inputs[name] for name in names]
            found = [None] * len(asked)
            if reached:
                found = torch.autograd.grad(end, asked, cotangent.to(end.device), allow_unused=True)
        require_untouched(inputs | {"g": cotangent}, arrays | {"g": case.g})
        gradients = {}
        for name, value, gradient in zip(names, asked, found, strict=True):
            if gradient is None and len(case.x):
                raise BrokenPromise(f"{name}: h does not depend on it, or is detached from it")
            gradient = torch.zeros_like(value) if gradient is None else gradient
            gradients[name] = gradient.detach().cpu().numpy().copy()
        return gradients

    def backward(case: Case, states_before: Array, keep_every: int, input_gradient: bool) -> dict[str, Array]:
        fields, others = case.parameters._fields, ("h0", "step_size", "diffusion")
        together = [(*fields, "x", *others)] if input_gradient else [fields, others]
        found = [differentiated(case, states_before, keep_every, names) for names in together]
        return {name: gradient for gradients in found for name, gradient in gradients.items()}

    features = {"gradients", "layouts"} | _ablation(functions)
    return _candidate("torch", dict.fromkeys(functions, (forward, backward)), features)


def jax_candidate(function: Function, gated: Function | None = None) -> Candidate:
    """A function of JAX, with the gradients of ``jax.vjp``.

    Parameters
    ----------
    function, gated : callable or str
        Of the ungated and of the gated cell; or the path ``package.module:name``.

    Raises
    ------
    ImportError
        Without JAX.
    TypeError, ValueError
        If there is no such function.
    """
    import jax

    functions = _functions(function, gated)
    # its old place warns where the new one exists
    x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental").enable_x64

    @functools.cache
    def prepared(cell: str, unconstrained: bool, differentiated: bool) -> Callable[..., Any]:
        """Of the inputs the states, or of the inputs and g the states and the gradients."""
        function = functions[cell]
        given = {"unconstrained": unconstrained} if _takes_ablation(function) else {}

        def states(inputs: dict[str, Any]) -> Any:
            leaves = dict(inputs)
            arguments = [leaves.pop(name) for name in ("x", "h0", "step_size", "diffusion")]
            h = _called(function, leaves, *arguments, **given)
            if not isinstance(h, jax.Array):
                raise BrokenPromise(f"h: expected jax.Array, got {type(h).__name__}")
            return h

        def with_gradients(inputs: dict[str, Any], g: Any) -> Any:
            h, pullback = jax.vjp(states, inputs)
            return h, pullback(g)[0]

        # a function that was not made to be compiled may not be traceable
        chosen: Callable[..., Any] = with_gradients if differentiated else states
        return jax.jit(chosen) if hasattr(function, "lower") else chosen

    def forward(case: Case, keep_every: int) -> Array:
        with x64(True):
            inputs = {name: jax.numpy.array(array) for name, array in _inputs(case).items()}
            h = prepared(case.cell, case.unconstrained, False)(inputs)
            if donated := [name for name, value in inputs.items() if value.is_deleted()]:
                raise BrokenPromise(f"{donated[0]}: the call donates its memory, and the caller's array is gone")
            return _kept(np.array(h), case, keep_every)

    def backward(case: Case, states_before: Array, keep_every: int, _: bool) -> dict[str, Array]:
        g = np.zeros((len(case.x) + 1, *case.h0.shape), case.dtype)
        if case.g.ndim == 3:
            g[...] = case.g
        else:
            g[-1] = case.g
        with x64(True):
            inputs = {name: jax.numpy.array(array) for name, array in _inputs(case).items()}
            h, gradients = prepared(case.cell, case.unconstrained, True)(inputs, jax.numpy.asarray(g))
            _require_same_states(_kept(np.array(h), case, keep_every), states_before)
            return {name: np.array(gradient) for name, gradient in gradients.items()}

    return _candidate("jax", dict.fromkeys(functions, (forward, backward)), {"gradients"} | _ablation(functions))


def load_object(path: str) -> Any:
    """What ``package.module:name`` names.

    Raises
    ------
    ValueError
        If the path has another form, there is no such module, or it has no such name.
    ImportError
        If the module needs one that is not there. Importing it may raise anything else.
    """
    module_name, _, names = path.partition(":")
    expected = f"expected a path such as package.module:name, got {path!r}"
    if not all(name.isidentifier() for name in [*module_name.split("."), *names.split(".")]):
        raise ValueError(expected)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise ImportError(f"{path}: importing {module_name} failed: {error}") from error
        raise ValueError(f"{expected}: there is no module {error.name!r} where Python looks") from None
    for name in names.split("."):
        if not hasattr(found, name):
            raise ValueError(f"{path}: {module_name} has no {names}")
        found = getattr(found, name)
    return found


def _functions(function: Function, gated: Function | None) -> dict[str, Callable[..., Any]]:
    """Functions by cell."""
    found = {}
    for cell, given in zip(CELLS, (function, gated), strict=True):
        if given is None:
            continue
        found[cell] = load_object(given) if isinstance(given, str) else given
        if not callable(found[cell]):
            raise TypeError(f"{given}: expected a function, got {type(found[cell]).__name__}")
    return found


def _takes_ablation(function: Callable[..., Any]) -> bool:
    called = getattr(function, "forward", function)  # of a module or a class of modules
    try:
        return "unconstrained" in inspect.signature(called).parameters
    except (TypeError, ValueError):  # a built-in function may have no signature
        return False


def _ablation(functions: dict[str, Callable[..., Any]]) -> set[str]:
    """The feature, if every function has it."""
    return {"ablation"} if all(map(_takes_ablation, functions.values())) else set()


def _given(function: Callable[..., Any], case: Case) -> dict[str, bool]:
    """The keyword of the ablation, for a function that takes it."""
    return {"unconstrained": case.unconstrained} if _takes_ablation(function) else {}


def _inputs(case: Case) -> dict[str, Array]:
    """Everything that gradients are taken of, by name."""
    arrays = {**case.parameters._asdict(), "x": case.x, "h0": case.h0}
    constants = {"step_size": case.step_size, "diffusion": case.diffusion}
    return {name: np.asarray(value, case.dtype) for name, value in {**arrays, **constants}.items()}


def _called(function: Callable[..., Any], parameters: dict[str, Any], *arguments: Any, **given: Any) -> Any:
    """What a function returns, which leaves the dictionary of parameters as it was."""
    before = list(parameters.items())
    h = function(parameters, *arguments, **given)
    if len(parameters) != len(before) or any(parameters.get(name) is not value for name, value in before):
        raise BrokenPromise("parameters: the call changes the dictionary")
    return h


def _unchanged() -> Callable[[Array], None]:
    """Takes the results of a function one after another, and complains of one that a later call has changed."""
    last: list[tuple[Array, bytes]] = []

    def unchanged(h: Array) -> None:
        before, last[:] = list(last), [(h, h.tobytes())]
        if any(held.tobytes() != bits for held, bits in before):
            raise BrokenPromise("h: this call has changed the array that an earlier call returned")

    return unchanged


def _kept(h: Array, case: Case, keep_every: int) -> Array:
    """The kept states of all that a function returned."""
    T, B, _ = case.x.shape
    expected = (T + 1, B, len(case.parameters.b))
    if h.shape != expected:
        raise BrokenPromise(f"h: expected every state, h_0 among them, (T+1, B, n) = {expected}, got {h.shape}")
    if h.dtype != case.dtype:
        raise BrokenPromise(f"h: expected dtype {case.dtype} as x has, got {h.dtype}")
    return np.array(h[kept_steps(T, keep_every)], order="C")


def _is_module_class(function: Any, torch: Any) -> bool:
    return isinstance(function, type) and issubclass(function, torch.nn.Module)


def _require_same_states(got: Array, before: Array) -> None:
    """The states of the pass that is differentiated are those of the other, but for the order of operations."""
    allowed = 2**12 * np.finfo(before.dtype).eps * max(1.0, float(np.max(np.abs(before), initial=0.0)))
    same = (got == before) | (np.isnan(got) & np.isnan(before))
    with np.errstate(invalid="ignore"):
        if not (same | (np.abs(got - before) <= allowed)).all():
            raise BrokenPromise("h: the pass that is differentiated has other states than the pass that is not")


def _in_place(module: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs by the names of the module's parameters and buffers whose place they take."""
    names = {name: name for name in inputs if name not in ("x", "h0")} | dict(getattr(module, "contract_names", {}))
    there = {name for name, _ in [*module.named_parameters(), *module.named_buffers()]}
    if absent := [names[name] for name in inputs if name in names and names[name] not in there]:
        raise BrokenPromise(
            f"module: expected parameters or buffers {', '.join(absent)}, it has {', '.join(sorted(there))}; "
            "name them so, or map the names in an attribute contract_names"
        )
    return {names[name]: value for name, value in inputs.items() if name in names}


def _candidate(
    name: str, cells: dict[str, tuple[States, Pullback | None]], features: set[str] | frozenset[str]
) -> Candidate:
    """A candidate of functions by cell."""
    candidate = Candidate(name)
    candidate.features = frozenset(features) | ({"gated"} if "gated" in cells else set())
    candidate.seconds = math.inf if name == "program" else CHECK_SECONDS
    candidate.__dict__.update(asarray=asarray, to_numpy=to_numpy)
    for cell in CELLS:
        candidate.__dict__[cell] = _cell(cell, *cells.get(cell, (_absent, None)))
    return candidate


def _absent(case: Case, keep_every: int) -> Array:  # noqa: ARG001
    raise NotSupported(f"it has no {case.cell} cell")


def _cell(cell: str, states: States, pullback: Pullback | None) -> SimpleNamespace:
    """``forward`` and ``backward`` of the contract."""
    kind: type[Parameters] | type[GatedParameters] = Parameters if cell == CELLS[0] else GatedParameters
    none = np.empty(0)

    @checked_forward(kind, np.ndarray)
    def forward(
        parameters: Any,
        x: Array,
        h0: Array,
        *,
        step_size: float,
        diffusion: float,
        keep_every: int = 1,
        unconstrained: bool = False,
    ) -> Trajectory:
        case = Case("", cell, parameters, x, h0, none, step_size, diffusion, unconstrained)
        h = states(case, min(keep_every, max(len(x), 1)))
        return Trajectory(h, keep_every, step_size, diffusion, unconstrained)

    @checked_backward(kind, np.ndarray, Trajectory)
    def backward(
        parameters: Any,
        x: Array,
        trajectory: Trajectory,
        g: Array,
        *,
        step_size: float,
        diffusion: float,
        input_gradient: bool = True,
        unconstrained: bool = False,
    ) -> Gradients:
        if pullback is None:
            raise NotSupported("it gives no gradients")
        case = Case("", cell, parameters, x, trajectory.h[0], g, step_size, diffusion, unconstrained)
        found = pullback(case, trajectory.h, min(trajectory.keep_every, max(len(x), 1)), input_gradient)
        leaves = kind(*(found[name] for name in kind._fields))
        dx = found["x"] if input_gradient else None
        return Gradients(leaves, dx, found["h0"], found["step_size"], found["diffusion"])

    return SimpleNamespace(forward=forward, backward=backward)
