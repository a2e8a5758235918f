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
- ``torch_candidate``: tensors, ``step_size`` and ``diffusion`` among them, of any layout; a function, or a
  ``torch.nn.Module`` that is called as ``module(x, h0)``, its parameters and buffers replaced for the call by tensors
  of the case's sizes (``pytorch.py``).
- ``jax_candidate``: JAX's arrays, ``step_size`` and ``diffusion`` among them, with 64 bits enabled around each call and
  no other setting touched (``jax.py``).

The candidates of PyTorch and JAX have a ``peer``, which calls them and differentiates them as the promises ask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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
    to_numpy,
)
from antisymrnn_validation.conformance.targets.calling import (
    Function,
    ablation,
    call,
    functions_by_cell,
    given_keyword,
    guard_of_results,
    kept,
    refusing_no_steps,
)
from antisymrnn_validation.truth.calls import ALL, BrokenPromise, Candidate, NotSupported
from antisymrnn_validation.truth.cases import CELLS, Case

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
    functions, unchanged = functions_by_cell(function, gated), guard_of_results()

    def states(case: Case, keep_every: int) -> Array:
        given = given_keyword(functions[case.cell], case)
        arguments = (case.x, case.h0, case.step_size, case.diffusion)
        h = call(functions[case.cell], case.parameters._asdict(), *arguments, **given)
        if type(h) is not np.ndarray:
            raise BrokenPromise(f"h: expected numpy.ndarray, got {type(h).__name__}")
        unchanged(h)
        return kept(h, case, keep_every)

    features = {"arrays", "layouts"} | ablation(functions)
    return _candidate("callable", dict.fromkeys(functions, (states, None)), features)


def torch_candidate(
    function: Function,
    gated: Function | None = None,
    *,
    batch_first: bool = False,
    without_h0: bool = False,
    names: Mapping[str, str] | None = None,
) -> Candidate:
    """A function, a module or a class of modules of PyTorch, on the CPU, with the gradients of autograd.

    Parameters
    ----------
    function, gated : callable, torch.nn.Module, class or str
        Of the ungated and of the gated cell; or the path ``package.module:name``, ``file.py:name`` or, of modules, a
        call such as ``my_rnn:Cell(n, m, bias=True)``.
    batch_first : bool
        x is (B, T, m), and the states are (B, T+1, n).
    without_h0 : bool
        It returns h_1 … h_T.
    names : mapping of str to str
        What a module calls W, V, b, V_z, b_z, step_size, diffusion.

    Raises
    ------
    ImportError
        Without PyTorch.
    TypeError, ValueError
        If there is no such function, or a module that lacks a name.
    """
    from antisymrnn_validation.conformance.targets.pytorch import Peer, Taken

    functions = functions_by_cell(function, gated, made_by_size=True)
    peer = Peer(functions, Taken(batch_first, without_h0, names or {}))
    features = {"gradients", "layouts", "autograd", "torch"} | ablation(functions)
    candidate = _candidate("torch", dict.fromkeys(functions, (peer.forward, peer.backward)), features)
    candidate.numbers, candidate.remarks = frozenset(peer.numbers), peer.remarks
    candidate.__dict__["peer"] = peer
    return candidate


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
    from antisymrnn_validation.conformance.targets.jax import Peer

    functions = functions_by_cell(function, gated)
    peer = Peer(functions)
    features = {"gradients", "autograd", "jax"} | ablation(functions)
    candidate = _candidate("jax", dict.fromkeys(functions, (peer.forward, peer.backward)), features)
    candidate.__dict__["peer"] = peer
    return candidate


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
        with refusing_no_steps(case):
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
        return Gradients(leaves, dx, found["h0"], found.get("step_size"), found.get("diffusion"))

    return SimpleNamespace(forward=forward, backward=backward)
