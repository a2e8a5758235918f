"""PyTorch: how a function or a module is called on a case, and differentiated by autograd."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.utils.checkpoint

from antisymrnn_ref.contract import Array
from antisymrnn_validation.conformance.targets.calling import (
    SETTINGS,
    Maker,
    Setting,
    call,
    given_keyword,
    guard_of_results,
    inputs_of,
    kept,
    require_right_states,
)
from antisymrnn_validation.output.names import did_you_mean, folded
from antisymrnn_validation.truth.calls import BrokenPromise
from antisymrnn_validation.truth.cases import CELLS, Case

CONSTANTS = ("step_size", "diffusion")
USUAL_NAMES = {
    "step_size": ("eps", "epsilon", "dt", "stepsize", "h"),
    "diffusion": ("gamma", "diff", "diffusion", "diffusioncoefficient"),
}
"""What ε and γ are often called, folded: for a hint alone."""

ALIGNMENT = 64
"""Bytes that PyTorch aligns its memory to."""


class Taken(NamedTuple):
    """How a module or function differs from the protocol.

    Attributes
    ----------
    batch_first : bool
        x is (B, T, m), and the states are (B, T+1, n).
    without_h0 : bool
        It returns h_1 … h_T.
    names : mapping of str to str
        What it calls W, V, b, V_z, b_z, step_size, diffusion; ``.T`` after a name is its transpose.
    """

    batch_first: bool = False
    without_h0: bool = False
    names: Mapping[str, str] = {}


class Place(NamedTuple):
    """Where a module holds one of the inputs: the module itself, or one inside it, and the name there."""

    path: str
    transposed: bool
    number: bool


class Peer:
    """Functions or modules by cell, each called and differentiated on the CPU."""

    def __init__(self, functions: Mapping[str, Any], taken: Taken) -> None:
        self.functions, self.taken = functions, taken
        self.unchanged = guard_of_results()
        self.made = functools.lru_cache(maxsize=64)(self._made)
        known = set().union(*(_names(cell, taken) for cell in functions if self.is_module(cell)))
        if unused := sorted(taken.names.keys() - known):
            raise ValueError(
                f"names: {', '.join(unused)}: no module here has them; functions get their parameters by the names of "
                "the contract, and V_z and b_z are those of a gated cell"
            )
        # a module is made once beforehand: names that it lacks are said at once
        self.places = {
            cell: _places(
                self.made(cell, 2, 3), _names(cell, taken), given=isinstance(functions[cell], torch.nn.Module)
            )
            for cell in functions
            if self.is_module(cell)
        }

    def is_module(self, cell: str) -> bool:
        """Whether a module or a class of modules computes the cell."""
        function = self.functions[cell]
        is_class = isinstance(function, type) and issubclass(function, torch.nn.Module)
        return is_class or isinstance(function, Maker | torch.nn.Module)

    @property
    def numbers(self) -> dict[str, str]:
        """The constants that a module holds as plain numbers, without gradients, and its names of them."""
        return {name: place.path for of_cell in self.places.values() for name, place in of_cell.items() if place.number}

    @property
    def remarks(self) -> list[str]:
        """What is to be said of it beside the checks."""
        held = ", ".join(sorted(set(self.numbers.values())))
        return [f"{held}: plain numbers of the module, whose gradients are not judged"] if held else []

    def _made(self, cell: str, m: int, n: int) -> Any:
        """One module for all calls of a size: what it keeps between calls must do no harm."""
        function = self.functions[cell]
        if isinstance(function, torch.nn.Module):
            return _module(copy.deepcopy(function))
        how = "it is made by Class(m, n) unless the path says otherwise, as my_rnn:Class(n, m) does"
        try:
            made = function.made(m=m, n=n) if isinstance(function, Maker) else function(m, n)
        except TypeError as error:
            raise TypeError(f"{_called(function)}: {error}; {how}") from error
        return _module(made)

    def module(self, case: Case) -> Any:
        """The module of a case's cell, sizes and dtype; None if a function computes the cell."""
        if not self.is_module(case.cell):
            return None
        made = self.made(case.cell, case.x.shape[2], len(case.parameters.b))
        return made.to(torch.from_numpy(np.empty(0, case.dtype)).dtype)

    def inputs(self, case: Case, wanted: Sequence[str] = ()) -> dict[str, torch.Tensor]:
        """Every input as a leaf of its own; those that are wanted require gradients."""
        arrays = inputs_of(case)
        if self.taken.batch_first and case.x.flags.c_contiguous:  # where such data come from
            arrays["x"] = np.ascontiguousarray(case.x.swapaxes(0, 1)).swapaxes(0, 1)
        return {name: tensor(array).requires_grad_(name in wanted) for name, array in arrays.items()}

    def states(self, case: Case, inputs: dict[str, torch.Tensor], *, training: bool | None = None) -> torch.Tensor:
        """Every state, (T+1, B, n), of these inputs; ``training`` puts a module into one of its modes before."""
        try:
            return self._states(case, inputs, training)
        except Exception as error:
            if type(error).__name__ != "FailOnRecompileLimitHit":
                raise
            torch.compiler.reset()  # with fullgraph=True a function is compiled for so many sizes alone
            return self._states(case, inputs, training)

    def _states(self, case: Case, inputs: dict[str, torch.Tensor], training: bool | None) -> torch.Tensor:
        function, module = self.functions[case.cell], self.module(case)
        x, h0 = inputs["x"], inputs["h0"]
        x = x.transpose(0, 1) if self.taken.batch_first else x
        given = given_keyword(function, case)
        if module is None:
            parameters = {name: inputs[name] for name in case.parameters._fields}
            h = call(function, parameters, x, h0, *(inputs[name] for name in CONSTANTS), **given)
        else:
            with _mode(module, training):
                h = self._module_states(case, module, inputs, x, given)
        h, last = h if isinstance(h, tuple) and len(h) == 2 else (h, None)  # as nn.RNN returns (output, h_n)
        if not isinstance(h, torch.Tensor):
            raise BrokenPromise(f"h: expected torch.Tensor, got {type(h).__name__}")
        if h.dtype != x.dtype:
            raise BrokenPromise(f"h: expected dtype {x.dtype} as x has, got {h.dtype}")
        self._require_shape(h, case)
        h = h.transpose(0, 1) if self.taken.batch_first else h
        if last is not None:
            _require_last(last, h if len(h) else h0[None])
        return torch.cat([h0[None], h]) if self.taken.without_h0 else h

    def _module_states(self, case: Case, module: Any, inputs: dict[str, Any], x: Any, given: dict[str, bool]) -> Any:
        tensors, before = {}, {}
        for name, place in self.places[case.cell].items():
            owner, attribute = _owner(module, place.path)
            if place.number:
                before[name] = (owner, attribute, getattr(owner, attribute))
                setattr(owner, attribute, float(inputs[name]))
            else:
                tensors[place.path] = inputs[name].T.contiguous() if place.transposed else inputs[name]
        try:
            return torch.func.functional_call(module, tensors, (x, inputs["h0"]), given)
        finally:
            for owner, attribute, value in before.values():
                setattr(owner, attribute, value)

    def _require_shape(self, h: torch.Tensor, case: Case) -> None:
        T, B, _ = case.x.shape
        n, batch_first, without_h0 = len(case.parameters.b), self.taken.batch_first, self.taken.without_h0
        steps, letter = (T, "T") if without_h0 else (T + 1, "T+1")
        expected = (B, steps, n) if batch_first else (steps, B, n)
        got = tuple(h.shape)
        if got == expected:
            return
        letters = f"(B, {letter}, n)" if batch_first else f"({letter}, B, n)"
        what = "every state but h_0" if without_h0 else "every state, h_0 among them"
        hints = {
            (T, B, n): "--without-h0 accepts h_1 … h_T, of a batch-first module with --batch-first too",
            (B, T + 1, n): "--batch-first accepts x as (B, T, m) and h as (B, T+1, n)",
            (B, T, n): "--batch-first --without-h0 accepts h_1 … h_T as (B, T, n)",
            (B, n): "one step alone; write the loop over x, and return every state",
        }
        hint = f"; {hints[got]}" if got in hints and not (batch_first or without_h0) else ""
        raise BrokenPromise(f"h: expected {what}, {letters} = {expected}, got {got}{hint}")

    def once(self, case: Case) -> None:
        """One forward pass, in the mode that PyTorch is in."""
        self.states(case, self.inputs(case))

    def forward(self, case: Case, keep_every: int) -> Array:
        """Kept states, without gradients."""
        inputs = self.inputs(case)
        with torch.no_grad():
            h = self.states(case, inputs).cpu().numpy()
        require_untouched(inputs, inputs_of(case))
        self.unchanged(h)
        return kept(h, case, keep_every)

    def backward(self, case: Case, before: Array, keep_every: int, input_gradient: bool) -> dict[str, Array]:
        """Gradients of all inputs at once, or without that of x of the parameters, and of the others, alone."""
        fields = case.parameters._fields
        others = tuple(name for name in ("h0", *CONSTANTS) if name not in self.numbers)
        together = [(*fields, "x", *others)] if input_gradient else [fields, others]
        found = [self._as_trained(case, before, keep_every, names) for names in together]
        return {name: gradient for gradients in found for name, gradient in gradients.items()}

    def _as_trained(self, case: Case, before: Array, keep_every: int, names: Sequence[str]) -> dict[str, Array]:
        """Gradients in tensors that have held other numbers, with another pass between forward and backward."""
        inputs, arrays = self.inputs(case, names), inputs_of(case)
        others = {name: (value / 2).detach().requires_grad_(name in names) for name, value in inputs.items()}
        with torch.enable_grad():
            with torch.no_grad():  # as an optimiser does between two passes
                for name, value in inputs.items():
                    _refill(value, others[name])
            self.states(case, inputs)
            with torch.no_grad():
                for name, value in inputs.items():
                    _refill(value, tensor(arrays[name]))
            h = self.states(case, inputs)
            require_attached(h, case, names)
            got = h.detach().cpu().numpy()
            self.unchanged(got)
            require_right_states(kept(got, case, keep_every), before, case, keep_every)
            self.states(case, others)
        return self.pulled_back(case, h, inputs, names)

    def gradients(
        self, case: Case, names: Sequence[str], *, training: bool | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """Every state and the gradients of some inputs, which alone require them, of one pass."""
        inputs = self.inputs(case, names)
        with torch.enable_grad():
            h = self.states(case, inputs, training=training)
        require_attached(h, case, names)
        states = kept(h.detach().cpu().numpy(), case, 1)
        return states, self.pulled_back(case, h, inputs, names)

    def pulled_back(
        self,
        case: Case,
        h: torch.Tensor,
        inputs: dict[str, torch.Tensor],
        names: Sequence[str],
        *,
        again: bool = False,
        untouched: bool = True,
    ) -> dict[str, Array]:
        """The gradients of one backward pass with the case's cotangent.

        ``again`` keeps the graph for another; ``untouched`` asks that the inputs still hold the numbers of the case.
        """
        end, cotangent = h if case.g.ndim == 3 else h[-1], tensor(case.g)
        for value in inputs.values():
            value.grad = None
        if h.requires_grad:  # as in training: a reentrant checkpoint refuses torch.autograd.grad
            torch.autograd.backward(end, cotangent.to(end.device), retain_graph=again)
        if untouched:
            require_untouched(inputs | {"g": cotangent}, inputs_of(case) | {"g": case.g})
        gradients = {}
        for name in names:
            value, gradient = inputs[name], inputs[name].grad
            if gradient is None and len(case.x):
                raise BrokenPromise(f"{name}: h does not depend on it, or is detached from it")
            gradient = torch.zeros_like(value) if gradient is None else gradient
            gradients[name] = gradient.detach().cpu().numpy().copy()
        return gradients

    def checkpoints(self, case: Case) -> bool:
        """Whether a pass of a case calls ``torch.utils.checkpoint``, which makes it again in backward."""
        files, before = set(), sys.getprofile()
        sys.setprofile(lambda frame, *_: files.add(frame.f_code.co_filename))
        try:
            with torch.enable_grad():
                self.states(case, self.inputs(case, ("x", "h0")))
        finally:
            sys.setprofile(before)
        return torch.utils.checkpoint.__file__ in files

    def settings(self) -> list[Setting]:
        """What a call must leave as it was."""
        tiny = torch.finfo(torch.float64).smallest_normal
        return [
            *SETTINGS,
            Setting("torch.get_default_dtype()", torch.get_default_dtype, torch.set_default_dtype),
            Setting("torch.get_default_device()", torch.get_default_device, torch.set_default_device),
            Setting("the state of torch's random numbers", _random_state, _set_random_state),
            Setting("torch.is_grad_enabled()", torch.is_grad_enabled, torch.set_grad_enabled),
            Setting("torch.get_num_threads()", torch.get_num_threads, torch.set_num_threads),
            Setting(
                "torch.are_deterministic_algorithms_enabled()",
                torch.are_deterministic_algorithms_enabled,
                torch.use_deterministic_algorithms,
            ),
            Setting(
                "torch.get_float32_matmul_precision()",
                torch.get_float32_matmul_precision,
                torch.set_float32_matmul_precision,
            ),
            Setting(
                "flushing of denormals",
                lambda: not torch.full((1,), tiny, dtype=torch.float64).div(2).any(),
                lambda before: torch.set_flush_denormal(bool(before)),
            ),
            Setting("torch.is_anomaly_enabled()", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
            Setting(
                "torch.is_autocast_enabled('cpu')",
                lambda: torch.is_autocast_enabled("cpu"),
                lambda before: torch.set_autocast_enabled("cpu", before),
            ),
        ]

    def trained_constants(self, case: Case) -> list[str]:
        """The names by which ε and γ are parameters of a module, trained as W is."""
        module = self.module(case)
        trained = (
            set() if module is None else {name for name, value in module.named_parameters() if value.requires_grad}
        )
        places = self.places.get(case.cell, {})
        return [places[name].path for name in CONSTANTS if name in places and places[name].path in trained]

    def extra(self, case: Case) -> dict[str, torch.Tensor]:
        """The parameters of a module that are trained beside those that the case replaces."""
        module = self.module(case)
        if module is None:
            return {}
        replaced = {place.path for place in self.places[case.cell].values()}
        return {
            name: value for name, value in module.named_parameters() if value.requires_grad and name not in replaced
        }


def _random_state() -> bytes:
    return bytes(torch.get_rng_state().numpy())


def _set_random_state(before: bytes) -> None:
    torch.set_rng_state(torch.frombuffer(bytearray(before), dtype=torch.uint8))


def tensor(array: Array) -> torch.Tensor:
    """A tensor in memory of its own, with the strides of an array, though none below 0, and where it began."""
    repeated = tuple(slice(None if stride else 1) for stride in array.strides)
    once = torch.from_numpy(np.array(array[repeated], order="C"))
    strides = [abs(stride) // array.itemsize for stride in array.strides]
    offset = _offset(array)
    reach = sum((size - 1) * stride for size, stride in zip(array.shape, strides, strict=True)) if array.size else 0
    held = torch.full((offset + reach + 1,), math.nan, dtype=once.dtype)  # what lies between must not be read
    view = held.as_strided(once.shape, strides, offset)
    view.copy_(once)
    return held.as_strided(array.shape, strides, offset)


@contextlib.contextmanager
def _mode(module: torch.nn.Module, training: bool | None) -> Iterator[None]:
    """A module in train() or eval(), and then in the mode that it was in."""
    before = [(each, each.training) for each in module.modules()]
    if training is not None:
        module.train(training)
    try:
        yield
    finally:
        for each, had in before:
            each.training = had


def _refill(held: torch.Tensor, numbers: torch.Tensor) -> None:
    """Write other numbers into a tensor, once into memory that it repeats."""
    once = tuple(slice(None if stride else 1) for stride in held.stride())
    held[once].copy_(numbers[once])


def _offset(array: Array) -> int:
    """How many entries before the memory that an array is a view of, up to the alignment of PyTorch's."""
    base: Any = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    first, start = (np.lib.array_utils.byte_bounds(each)[0] for each in (array, base))
    return int((first - start) % ALIGNMENT // array.itemsize)


def require_untouched(given: Mapping[str, torch.Tensor], arrays: Mapping[str, Array]) -> None:
    """Every tensor still holds the bytes of its array."""
    for name, array in arrays.items():
        if given[name].detach().numpy().tobytes() != array.tobytes():
            raise BrokenPromise(f"{name}: the call writes into it")


def require_attached(h: torch.Tensor, case: Case, names: Sequence[str]) -> None:
    """The states hang on what requires gradients; h_0 depends on no parameter."""
    if (len(case.x) or "h0" in names) and names and not h.requires_grad:
        raise BrokenPromise("h: is detached from every input: autograd has nothing to go back by")


def _module(made: Any) -> torch.nn.Module:
    if not isinstance(made, torch.nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(made).__name__}")
    signature = inspect.signature(made.forward)
    try:
        signature.bind(None, None)
    except TypeError:
        raise TypeError(f"{type(made).__name__}.forward: expected forward(x, h0), got forward{signature}") from None
    return made


def _require_last(last: Any, h: torch.Tensor) -> None:
    """What comes beside the states is the last of them, with an axis for the layer or without."""
    shapes = (h[-1].shape, (1, *h[-1].shape))
    if not isinstance(last, torch.Tensor) or last.shape not in shapes:
        got = tuple(last.shape) if isinstance(last, torch.Tensor) else type(last).__name__
        raise BrokenPromise(f"h_n: expected (B, n) = {tuple(h[-1].shape)} or (1, B, n), got {got}")
    if not torch.allclose(last.detach().reshape(h[-1].shape), h[-1].detach(), rtol=0, atol=0, equal_nan=True):
        raise BrokenPromise("h_n: expected the last state of the output")


def _called(function: Any) -> str:
    return getattr(function.function if isinstance(function, Maker) else function, "__name__", "the class")


def _names(cell: str, taken: Taken) -> dict[str, str]:
    """The names that a module of a cell must have, and those it was said to give them."""
    fields = ("W", "V", "b") if cell == CELLS[0] else ("W", "V", "b", "V_z", "b_z")
    return {name: taken.names.get(name, "") for name in (*fields, *CONSTANTS)}


def _owner(module: Any, path: str) -> tuple[Any, str]:
    inside, _, attribute = path.rpartition(".")
    return functools.reduce(getattr, filter(None, inside.split(".")), module), attribute


def _numbers(module: torch.nn.Module) -> dict[str, float]:
    """Every plain number among the attributes of a module and those inside it."""

    def found() -> Iterator[tuple[str, float]]:
        for prefix, inside in module.named_modules():
            for name, value in vars(inside).items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    yield f"{prefix}.{name}" if prefix else name, value

    return dict(found())


def _places(module: Any, names: Mapping[str, str], *, given: bool) -> dict[str, Place]:
    """Where a module holds each of the inputs; one that is ``given`` and not made has sizes of its own.

    Raises
    ------
    ValueError
        If it lacks a name; the message lists those it has, and a map where the shapes leave no doubt.
    """
    tensors = dict([*module.named_parameters(), *module.named_buffers()])
    numbers, attribute = _numbers(module), dict(getattr(module, "contract_names", {}))
    prefix = "_orig_mod." if all(name.startswith("_orig_mod.") for name in tensors) and tensors else ""
    found, absent = {}, {}
    for name, asked in names.items():
        said = asked or attribute.get(name, name)
        plain = said.removesuffix(".T")
        path = next((each for each in (said, prefix + said, plain, prefix + plain) if each in tensors), "")
        if path:
            found[name] = Place(path, said.endswith(".T") and not path.endswith(".T"), number=False)
        elif name in CONSTANTS and said in numbers:
            found[name] = Place(said, transposed=False, number=True)
        else:
            absent[name] = said
    if absent:
        free = {name for name, _ in module.named_parameters()} - {place.path for place in found.values()}
        shapes = {name: tuple(value.shape) for name, value in tensors.items()}
        meant = _meant(absent, {name: shapes[name] for name in free}, numbers, sizes=None if given else (2, 3))
        raise ValueError(_explained(absent, meant, shapes, numbers))
    return found


def _meant(
    absent: Mapping[str, str],
    free: Mapping[str, tuple[int, ...]],
    numbers: Mapping[str, float],
    *,
    sizes: tuple[int, int] | None,
) -> dict[str, str]:
    """What is meant by some names, where the shape of one parameter alone, or a usual name of a number, tells."""
    kinds: dict[str, list[str]] = {"W": [], "V": [], "b": []}
    for name, shape in free.items():
        square = len(shape) == 2 and shape[0] == shape[1]
        m, n = sizes or (shape[-1], shape[0]) if shape else (0, 0)
        if square and shape[0] == n:
            kinds["W"].append(name)
        elif shape == (n, m):
            kinds["V"].append(name)
        elif shape == (m, n):
            kinds["V"].append(f"{name}.T")
        elif shape == (n,):
            kinds["b"].append(name)
    for constant, words in USUAL_NAMES.items():
        kinds[constant] = [name for name in numbers if folded(name.rpartition(".")[2]) in words]
    return {name: kinds[name][0] for name in absent if len(kinds.get(name, ())) == 1}


def _explained(
    absent: Mapping[str, str],
    meant: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
    numbers: Mapping[str, float],
) -> str:
    """What a module lacks, what it has, and the map that is meant."""
    has = [f"{name} {shape}" for name, shape in sorted(shapes.items())]
    has += [f"{name} = {value}" for name, value in sorted(numbers.items()) if isinstance(value, float)]
    asked = [name if name == said else f"{said} (for {name})" for name, said in absent.items()]
    line = ",".join(f"{name}={meant.get(name, '…')}" for name in absent)
    hint = "".join(did_you_mean(said, [*shapes, *numbers]) for name, said in absent.items() if name != said)
    return (
        f"module: expected parameters or buffers {', '.join(asked)}, it has {', '.join(has) or 'none'}{hint}; "
        f"name them with --map {line}, or in an attribute contract_names"
    )
