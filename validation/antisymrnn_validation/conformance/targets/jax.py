"""JAX: how a function is called on a case, and differentiated by ``jax.vjp``."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from antisymrnn_ref.contract import Array
from antisymrnn_validation.conformance.targets.calling import (
    SETTINGS,
    Setting,
    call,
    inputs_of,
    kept,
    require_right_states,
    takes_ablation,
)
from antisymrnn_validation.truth.calls import BrokenPromise
from antisymrnn_validation.truth.cases import Case

# its old place warns where the new one exists
enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental").enable_x64


class Peer:
    """Functions by cell, each called and differentiated; compiled if it is what ``jax.jit`` returned."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        self.functions = functions
        self.prepared = functools.cache(self._prepared)

    def compiled(self, case: Case) -> bool:
        """Whether the function was made to be compiled; another may not be traceable."""
        return hasattr(self.functions[case.cell], "lower")

    def _prepared(self, cell: str, unconstrained: bool, outside: bool, differentiated: bool) -> Callable[..., Any]:
        """Of inputs the states, or of the inputs, the others and g the states and the gradients of the first."""
        function = self.functions[cell]
        given = {"unconstrained": unconstrained} if takes_ablation(function) else {}

        def states(inputs: dict[str, Any]) -> Any:
            leaves = dict(inputs)
            arguments = [leaves.pop(name) for name in ("x", "h0", "step_size", "diffusion")]
            h = call(function, leaves, *arguments, **given)
            if not isinstance(h, jax.Array):
                raise BrokenPromise(f"h: expected jax.Array, got {type(h).__name__}")
            return h

        def with_gradients(inputs: dict[str, Any], others: dict[str, Any], g: Any) -> Any:
            h, pullback = jax.vjp(lambda wanted: states(others | wanted), inputs)
            return h, pullback(g)[0]

        chosen: Callable[..., Any] = with_gradients if differentiated else states
        return jax.jit(chosen) if hasattr(function, "lower") and not outside else chosen

    def states(self, case: Case, *, outside: bool = False, x64: bool = True) -> Array:
        """Every state as JAX returns it; ``outside`` calls what is compiled from outside any other compilation."""
        with enable_x64(x64):
            inputs = _arrays(case)
            h = np.array(self.prepared(case.cell, case.unconstrained, outside, False)(inputs))
            _require_undonated(inputs)
            return h

    def gradients(
        self, case: Case, names: Sequence[str], *, outside: bool = False, x64: bool = True
    ) -> tuple[Array, dict[str, Array]]:
        """Every state, and the gradients of some inputs, the only ones that it is differentiated by."""
        g = np.zeros((len(case.x) + 1, *case.h0.shape), case.dtype)
        if case.g.ndim == 3:
            g[...] = case.g
        else:
            g[-1] = case.g
        with enable_x64(x64):
            inputs = _arrays(case)
            others = {name: value for name, value in inputs.items() if name not in names}
            wanted = {name: inputs[name] for name in names}
            run = self.prepared(case.cell, case.unconstrained, outside, True)
            h, gradients = run(wanted, others, jax.numpy.asarray(g))
            _require_undonated(inputs)
            states = kept(np.array(h), case, 1)
            return states, {name: np.array(gradient) for name, gradient in gradients.items()}

    def once(self, case: Case) -> None:
        """One forward pass."""
        self.states(case)

    def forward(self, case: Case, keep_every: int) -> Array:
        """Kept states."""
        return kept(self.states(case), case, keep_every)

    def backward(self, case: Case, before: Array, keep_every: int, _: bool) -> dict[str, Array]:
        """Gradients of every input."""
        h, gradients = self.gradients(case, tuple(inputs_of(case)))
        require_right_states(kept(h, case, keep_every), before, case, keep_every)
        return gradients

    def settings(self) -> list[Setting]:
        """What a call must leave as it was."""
        named = ("jax_enable_x64", "jax_default_matmul_precision", "jax_debug_nans", "jax_disable_jit")
        return [*SETTINGS] + [
            Setting(f"jax.config.{name}", functools.partial(getattr, jax.config, name), functools.partial(_set, name))
            for name in named
        ]


def _set(name: str, value: Any) -> None:
    jax.config.update(name, value)


def _arrays(case: Case) -> dict[str, Any]:
    return {name: jax.numpy.array(array) for name, array in inputs_of(case).items()}


def _require_undonated(inputs: Mapping[str, Any]) -> None:
    if donated := [name for name, value in inputs.items() if value.is_deleted()]:
        raise BrokenPromise(f"{donated[0]}: the call donates its memory, and the caller's array is gone")
