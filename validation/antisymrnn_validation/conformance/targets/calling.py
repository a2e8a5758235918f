"""What functions of every kind share: how they are found by a path, what they are given, and what they may return."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import inspect
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from antisymrnn_ref.contract import Array, kept_steps
from antisymrnn_validation.truth.calls import BrokenPromise, NotSupported
from antisymrnn_validation.truth.cases import CELLS, Case
from antisymrnn_validation.truth.oracles import OracleError
from antisymrnn_validation.truth.tolerance import measure

Function = Callable[..., Any] | str
"""A function, or its path: ``package.module:name`` or ``folder/file.py:name``."""

SIZES = ("m", "n")
"""The names that a call in a path may hold: ``my_rnn:Cell(n, m)``."""


class Maker(NamedTuple):
    """What a path such as ``my_rnn:Cell(n, m, bias=True)`` names: something that is made anew for each size."""

    function: Callable[..., Any]
    arguments: tuple[ast.expr, ...]
    keywords: tuple[ast.keyword, ...]

    def made(self, **sizes: int) -> Any:
        """The result of the call for sizes m and n."""
        positional = [_value(each, sizes) for each in self.arguments]
        return self.function(*positional, **{each.arg or "": _value(each.value, sizes) for each in self.keywords})


class Setting(NamedTuple):
    """Something global that a call may not change: what it is called, how it is read and how it is set."""

    name: str
    read: Callable[[], Any]
    restore: Callable[[Any], Any]


SETTINGS = (
    Setting("the state of numpy.random", np.random.get_state, np.random.set_state),
    Setting("the state of random", random.getstate, random.setstate),
    Setting("numpy.geterr()", np.geterr, lambda before: np.seterr(**before)),
)
"""Those of Python and NumPy."""


def load_object(path: str) -> Any:
    """What a path names: ``package.module:name``, ``folder/file.py:name``, or a call such as ``my_rnn:Cell(3, 7)``.

    Arguments of a call are literals, or m and n, the sizes of a case: the result is a :class:`Maker` then.

    Raises
    ------
    ValueError
        If the path has another form, there is no such module or file, or it has no such name.
    ImportError
        If the module needs one that is not there. Importing it may raise anything else.
    """
    module_name, _, rest = path.partition(":")
    names, bracket, _ = rest.partition("(")
    expected = f"expected a path such as package.module:name, got {path!r}"
    words = names.split(".") if module_name.endswith(".py") else [*module_name.split("."), *names.split(".")]
    if not all(name.isidentifier() for name in words):
        raise ValueError(expected)
    call = _call(path, rest) if bracket else None
    try:
        found: Any = _of_file(module_name, expected) if module_name.endswith(".py") else _module(module_name)
    except ModuleNotFoundError as error:
        if module_name.endswith(".py") or not f"{module_name}.".startswith(f"{error.name}."):
            raise ImportError(f"{path}: importing {module_name} failed: {error}") from error
        here = os.getcwd()
        among = f", {here} among them" if {"", here} & set(sys.path) else f"; {here} is not among them"
        raise ValueError(f"{expected}: there is no module {error.name!r} where Python looks{among}") from None
    for name in names.split("."):
        if not hasattr(found, name):
            raise ValueError(f"{path}: {module_name} has no {names}")
        found = getattr(found, name)
    if call is None:
        return found
    maker = Maker(found, tuple(call.args), tuple(call.keywords))
    return (
        maker if any(isinstance(each, ast.Name) for each in ast.walk(call) if each is not call.func) else maker.made()
    )


def _module(name: str) -> ModuleType:
    return importlib.import_module(name)


def _of_file(name: str, expected: str) -> ModuleType:
    """The module of a file, whose folder is searched for what it imports, as when Python runs it."""
    file = Path(name).resolve()
    if not file.is_file():
        raise ValueError(f"{expected}: there is no file {file.name} in {file.parent}")
    for key in (file.stem, str(file)):
        there = sys.modules.get(key)
        if there is not None and getattr(there, "__file__", None) == str(file):
            return there
    key = file.stem if file.stem not in sys.modules else str(file)
    spec = importlib.util.spec_from_file_location(key, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{expected}: {file} cannot be read as a module")
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    module = sys.modules[key] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[key]
        raise
    return module


def _call(path: str, text: str) -> ast.Call:
    """A call of literals, of m and of n."""
    expected = f"{path}: expected a call of literals and of m and n, such as Cell(n, m, bias=True)"
    try:
        call = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ValueError(expected) from error
    if not isinstance(call, ast.Call):
        raise ValueError(expected)
    try:
        for value in [*call.args, *(each.value for each in call.keywords)]:
            _value(value, dict.fromkeys(SIZES, 1))
    except ValueError as error:
        raise ValueError(expected) from error
    return call


def _value(node: ast.expr, sizes: dict[str, int]) -> Any:
    return sizes[node.id] if isinstance(node, ast.Name) and node.id in sizes else ast.literal_eval(node)


def functions_by_cell(function: Function, gated: Function | None, *, made_by_size: bool = False) -> dict[str, Any]:
    """Functions by cell; ``made_by_size`` accepts a :class:`Maker` among them.

    Raises
    ------
    TypeError, ValueError
        If there is no such function.
    """
    found: dict[str, Any] = {}
    for cell, given in zip(CELLS, (function, gated), strict=True):
        if given is None:
            continue
        found[cell] = load_object(given) if isinstance(given, str) else given
        if isinstance(found[cell], Maker) and not made_by_size:
            raise TypeError(f"{given}: m and n are known where modules of PyTorch are made, and nowhere else")
        if not callable(found[cell]) and not isinstance(found[cell], Maker):
            raise TypeError(f"{given}: expected a function, got {type(found[cell]).__name__}")
    return found


def takes_ablation(function: Any) -> bool:
    """Whether a function, a module or a class of modules has a keyword ``unconstrained``."""
    function = function.function if isinstance(function, Maker) else function
    called = getattr(function, "forward", function)  # of a module or a class of modules
    try:
        return "unconstrained" in inspect.signature(called).parameters
    except (TypeError, ValueError):  # a built-in function may have no signature
        return False


def ablation(functions: dict[str, Any]) -> set[str]:
    """The feature, if every function has it."""
    return {"ablation"} if all(map(takes_ablation, functions.values())) else set()


def given_keyword(function: Any, case: Case) -> dict[str, bool]:
    """The keyword of the ablation, for a function that takes it."""
    return {"unconstrained": case.unconstrained} if takes_ablation(function) else {}


def inputs_of(case: Case) -> dict[str, Array]:
    """Everything that gradients are taken of, by name."""
    arrays = {**case.parameters._asdict(), "x": case.x, "h0": case.h0}
    constants = {"step_size": case.step_size, "diffusion": case.diffusion}
    return {name: np.asarray(value, case.dtype) for name, value in {**arrays, **constants}.items()}


def call(function: Callable[..., Any], parameters: dict[str, Any], *arguments: Any, **given: Any) -> Any:
    """What a function returns, which leaves the dictionary of parameters as it was."""
    before = list(parameters.items())
    h = function(parameters, *arguments, **given)
    if len(parameters) != len(before) or any(parameters.get(name) is not value for name, value in before):
        raise BrokenPromise("parameters: the call changes the dictionary")
    return h


def guard_of_results() -> Callable[[Array], None]:
    """Takes the results of a function one after another, and complains of one that a later call has changed."""
    last: list[tuple[Array, bytes]] = []

    def unchanged(h: Array) -> None:
        before, last[:] = list(last), [(h, h.tobytes())]
        if any(held.tobytes() != bits for held, bits in before):
            raise BrokenPromise("h: this call has changed the array that an earlier call returned")

    return unchanged


def kept(h: Array, case: Case, keep_every: int) -> Array:
    """The kept states of all that a function returned."""
    T, B, _ = case.x.shape
    expected = (T + 1, B, len(case.parameters.b))
    if h.shape != expected:
        raise BrokenPromise(f"h: expected every state, h_0 among them, (T+1, B, n) = {expected}, got {h.shape}")
    if h.dtype != case.dtype:
        raise BrokenPromise(f"h: expected dtype {case.dtype} as x has, got {h.dtype}")
    return np.array(h[kept_steps(T, keep_every)], order="C")


def require_right_states(got: Array, before: Array, case: Case, keep_every: int) -> None:
    """The states of the pass that is differentiated are those of the other to the bit, or as near to the truth.

    Where there is no certified truth, as of a case with NaN, they may differ by the order of operations.
    """
    if got.tobytes() == before.tobytes():
        return
    limits = np.finfo(before.dtype)
    other = "h: the pass that is differentiated has other states than the pass that is not"
    if all(np.isfinite(array).all() for array in (*case.parameters, case.x, case.h0, case.g)):
        # others may take denormals for zero
        lost = len(case.x) * (len(case.parameters.b) + case.x.shape[2]) * float(limits.smallest_normal)
        with contextlib.suppress(OracleError):
            try:
                measure({"h": got}, case, keep_every=keep_every, beside_specification=True)
            except BrokenPromise as broken:
                with np.errstate(invalid="ignore"):
                    if not (np.abs(got - before) <= lost).all():
                        raise BrokenPromise(f"{other}: {broken}", broken.errors) from None
            return
    allowed = 2**12 * limits.eps * max(1.0, float(np.max(np.abs(before), initial=0.0)))
    same = (got == before) | (np.isnan(got) & np.isnan(before))
    with np.errstate(invalid="ignore"):
        if not (same | (np.abs(got - before) <= allowed)).all():
            raise BrokenPromise(other)


@contextlib.contextmanager
def refusing_no_steps(case: Case) -> Iterator[None]:
    """Let a target refuse T = 0, as ``nn.RNN`` does: with a RuntimeError or ValueError."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if len(case.x):
            raise
        said = (str(error).strip().splitlines() or [""])[0]
        raise NotSupported(f"it refuses T = 0: {type(error).__name__}: {said}") from error
