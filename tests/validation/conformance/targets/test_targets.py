"""Foreign targets: functions of NumPy, PyTorch and JAX and programs, honest, wrong and hostile."""

from __future__ import annotations

import importlib
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import antisymrnn_ref
from antisymrnn_validation import cli
from antisymrnn_validation.cli import conform
from antisymrnn_validation.conformance.check import LEVELS, Result
from antisymrnn_validation.conformance.plan import certify, iter_checks
from antisymrnn_validation.conformance.targets import functions, programs
from antisymrnn_validation.conformance.targets.conventions import declared
from antisymrnn_validation.truth.calls import ALL, BrokenPromise, Candidate, features_of
from antisymrnn_validation.truth.cases import Case, random_case

EXAMPLE = Path(__file__).parents[4] / "validation" / "examples" / "cpp" / "antisymrnn.cpp"

NUMPY_CELLS = """
import numpy as np

def recurrent(p, diffusion, unconstrained):
    W = p["W"]
    return (W if unconstrained else W - W.T) - W.dtype.type(diffusion) * np.eye(len(W), dtype=W.dtype)

def states(p, x, h0, step_size, diffusion, unconstrained=False):
    M, h = recurrent(p, diffusion, unconstrained), [h0]
    for x_t in x:
        h.append(h[-1] + h0.dtype.type(step_size) * np.tanh(h[-1] @ M.T + x_t @ p["V"].T + p["b"]))
    return np.stack(h)

def gated(p, x, h0, step_size, diffusion, unconstrained=False):
    M, h = recurrent(p, diffusion, unconstrained), [h0]
    for x_t in x:
        Mh = h[-1] @ M.T
        z = 1 / (1 + np.exp(-(Mh + x_t @ p["V_z"].T + p["b_z"])))
        h.append(h[-1] + h0.dtype.type(step_size) * z * np.tanh(Mh + x_t @ p["V"].T + p["b"]))
    return np.stack(h)

def without_h0(*arguments):
    return states(*arguments)[1:]

def transposed(p, x, h0, step_size, diffusion):
    return states({**p, "W": p["W"].T}, x, h0, step_size, diffusion)

def widened(*arguments):
    return states(*arguments).astype(float)

def writes(p, x, h0, step_size, diffusion):
    p["b"] += 0
    return states(p, x, h0, step_size, diffusion)

def wider_inside(p, x, h0, step_size, diffusion):
    wide = {name: array.astype(np.longdouble) for name, array in p.items()}
    return states(wide, x.astype(np.longdouble), h0.astype(np.longdouble), step_size, diffusion).astype(h0.dtype)

def without_M(p, x, h0, step_size, diffusion):
    W, h = p["W"], [h0]
    for x_t in x:
        a = h[-1] @ W.T - h[-1] @ W - h0.dtype.type(diffusion) * h[-1] + x_t @ p["V"].T + p["b"]
        h.append(h[-1] + h0.dtype.type(step_size) * np.tanh(a))
    return np.stack(h)

kept = {}

def one_buffer(p, x, h0, *constants):
    h = kept.setdefault((len(x), h0.shape, h0.dtype), np.empty((len(x) + 1, *h0.shape), h0.dtype))
    h[...] = states(p, x, h0, *constants)
    return h

def stale_diffusion(p, x, h0, step_size, diffusion):
    return states(p, x, h0, step_size, kept.setdefault(p["W"].tobytes(), diffusion))

def stale_step_size(p, x, h0, step_size, diffusion):
    return states(p, x, h0, kept.setdefault(p["W"].tobytes(), step_size), diffusion)

def masked(p, x, h0, step_size, diffusion):
    M, h = recurrent(p, diffusion, False), [h0]
    for x_t in x:
        moved = h[-1] + h0.dtype.type(step_size) * np.tanh(h[-1] @ M.T + x_t @ p["V"].T + p["b"])
        h.append(np.where((x_t == 0).all(axis=1, keepdims=True), h[-1], moved))
    return np.stack(h)

def same_for_equal_inputs(p, x, h0, *constants):
    h = states(p, x, h0, *constants)
    first = {x[:, k].tobytes(): k for k in reversed(range(len(h0)))}
    return h[:, [first[x[:, k].tobytes()] for k in range(len(h0))]] if len(x) else h

def emptied(p, *arguments):
    h = states(p, *arguments)
    p.clear()
    return h

def no_longer(p, x, h0, *constants):
    h = states(p, x, h0, *constants)
    h[401:] = h[400:401]
    return h
"""

TORCH_CELLS = """
import torch

def states(p, x, h0, step_size, diffusion, unconstrained=False):
    W = p["W"]
    M = (W if unconstrained else W - W.T) - diffusion * torch.eye(len(W), dtype=W.dtype)
    h = [h0]
    for x_t in x.unbind():
        h.append(h[-1] + step_size * torch.tanh(h[-1] @ M.T + x_t @ p["V"].T + p["b"]))
    return torch.stack(h)

def gated(p, x, h0, step_size, diffusion, unconstrained=False):
    W = p["W"]
    M = (W if unconstrained else W - W.T) - diffusion * torch.eye(len(W), dtype=W.dtype)
    h = [h0]
    for x_t in x.unbind():
        Mh = h[-1] @ M.T
        z = torch.sigmoid(Mh + x_t @ p["V_z"].T + p["b_z"])
        h.append(h[-1] + step_size * z * torch.tanh(Mh + x_t @ p["V"].T + p["b"]))
    return torch.stack(h)

class Cell(torch.nn.Module):
    contract_names = {"W": "recurrent", "V": "read.weight", "b": "read.bias"}

    def __init__(self, m, n):
        super().__init__()
        self.read = torch.nn.Linear(m, n)
        self.recurrent = torch.nn.Parameter(torch.zeros(n, n))
        self.register_buffer("step_size", torch.tensor(0.1))
        self.register_buffer("diffusion", torch.tensor(0.0))

    def forward(self, x, h0):
        M = self.recurrent - self.recurrent.T - self.diffusion * torch.eye(len(self.recurrent), dtype=x.dtype)
        h = [h0]
        for x_t in x.unbind():
            h.append(h[-1] + self.step_size * torch.tanh(h[-1] @ M.T + self.read(x_t)))
        return torch.stack(h)

class Nameless(Cell):
    contract_names = {}

class Ablated(Cell):
    def forward(self, x, h0, unconstrained=False):
        p = {"W": self.recurrent, "V": self.read.weight, "b": self.read.bias}
        return states(p, x, h0, self.step_size, self.diffusion, unconstrained)

made = Cell(2, 3)
layer = torch.nn.RNN(2, 3)

def detached(p, x, h0, step_size, diffusion):
    return states(p, x, h0, step_size.detach(), diffusion)

def cut(*arguments):
    return states(*arguments).detach()

def halved(*arguments):
    return states(*arguments).float()

def other_states(*arguments):
    h = states(*arguments)
    return h + 1e-3 * h.requires_grad

def doubled_gradient(p, x, h0, step_size, diffusion):
    return states({**p, "b": 2 * p["b"] - p["b"].detach()}, x, h0, step_size, diffusion)
"""

TORCH_BACKWARD = """
import functools
import torch

fault, kept = "", {}

@functools.lru_cache
def skew(W):
    return W - W.T

def in_order(array):
    return array.as_strided(array.shape, torch.empty(array.shape).stride())

class Cell(torch.autograd.Function):
    @staticmethod
    def forward(ctx, W, V, b, x, h0, step_size, diffusion):
        x = in_order(x) if fault == "strides of x" else x
        A = skew(W) if fault == "cached by identity" else W - W.T
        M = A - diffusion * torch.eye(len(W), dtype=W.dtype)
        h = [h0]
        for x_t in x.unbind():
            h.append(h[-1] + step_size * torch.tanh(h[-1] @ M.T + x_t @ V.T + b))
        h = torch.stack(h)
        if fault == "one buffer":
            h = kept.setdefault((h.shape, h.dtype), h).copy_(h)
        kept["h"] = h
        ctx.save_for_backward(M, V, b, x.clone(), step_size, h)
        if fault == "writes x":
            x.data.zero_()
        return h.view_as(h)

    @staticmethod
    def backward(ctx, g):
        M, V, b, x, step_size, h = ctx.saved_tensors
        h = kept["h"] if fault == "kept in a global" else h
        g = in_order(g) if fault == "strides of g" else g
        dM, dV, db, de = torch.zeros_like(M), torch.zeros_like(V), torch.zeros_like(b), torch.zeros_like(step_size)
        dx, dh = torch.zeros_like(x), g[-1] if fault == "writes g" else g[-1].clone()
        for t in reversed(range(len(x))):
            s = torch.tanh(h[t] @ M.T + x[t] @ V.T + b)
            de += (dh * s).sum()
            da = step_size * (1 - s * s) * dh
            dM += da.T @ h[t]
            dV += da.T @ x[t]
            db += da.sum(0)
            dx[t] = da @ V
            dh += da @ M + g[t]
        if fault == "needs x" and not ctx.needs_input_grad[3]:
            dM /= 2
        return dM - dM.T, dV, db, dx, dh, de, -dM.trace()

def states(p, x, h0, step_size, diffusion):
    return Cell.apply(p["W"], p["V"], p["b"], x, h0, step_size, diffusion)
"""

JAX_CELLS = """
import functools
import jax
from jax import numpy as jnp

@jax.jit
def states(p, x, h0, step_size, diffusion):
    W = p["W"]
    M = W - W.T - diffusion * jnp.eye(len(W), dtype=W.dtype)
    def step(h, u):
        h = h + step_size * jnp.tanh(h @ M.T + u)
        return h, h
    return jnp.concatenate([h0[None], jax.lax.scan(step, h0, x @ p["V"].T + p["b"])[1]])

@jax.jit
def gated(p, x, h0, step_size, diffusion):
    W = p["W"]
    M = W - W.T - diffusion * jnp.eye(len(W), dtype=W.dtype)
    def step(h, u):
        Mh = h @ M.T
        h = h + step_size * jax.nn.sigmoid(Mh + u[1]) * jnp.tanh(Mh + u[0])
        return h, h
    u = jnp.stack([x @ p["V"].T + p["b"], x @ p["V_z"].T + p["b_z"]], axis=1)
    return jnp.concatenate([h0[None], jax.lax.scan(step, h0, u)[1]])

def stopped(p, *arguments):
    return states({**p, "V": jax.lax.stop_gradient(p["V"])}, *arguments)

def other_states(p, x, *arguments):
    return states(p, x, *arguments) + 1e-3 * isinstance(x, jax.core.Tracer)

donating = jax.jit(lambda h0: h0 + 0, donate_argnums=0)

def donated(p, x, h0, *constants):
    return states(p, x, donating(h0), *constants)

@functools.partial(jax.jit, static_argnames="unconstrained")
def ablated(p, x, h0, step_size, diffusion, unconstrained=False):
    W = p["W"]
    M = (W if unconstrained else W - W.T) - diffusion * jnp.eye(len(W), dtype=W.dtype)
    def step(h, u):
        h = h + step_size * jnp.tanh(h @ M.T + u)
        return h, h
    return jnp.concatenate([h0[None], jax.lax.scan(step, h0, x @ p["V"].T + p["b"])[1]])
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path with the modules above."""
    sources = {
        "numpy_cells": NUMPY_CELLS, "torch_cells": TORCH_CELLS, "torch_backward": TORCH_BACKWARD, "jax_cells": JAX_CELLS
    }  # fmt: skip
    for name, source in sources.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in sources:
        sys.modules.pop(name, None)


def case(cell: str = "antisymmetric", **options: Any) -> Case:
    return random_case(cell, 5, 3, 4, 2, step_size=0.3, diffusion=0.2, seed=7, **options)


def judged(candidate: Candidate, *, among: str = "") -> list[Result]:
    checks = iter_checks("candidate", quick=True, features=candidate.features)
    return [check.run(candidate) for check in checks if among in check.case]


def accepted(results: list[Result]) -> set[str]:
    """The names of the checks that ran, after none has failed."""
    assert [result for result in results if result.status == "failed"] == []
    return {result.check for result in results if result.status == "passed"}


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    out, err = capsys.readouterr()
    return int(exit_.value.code or 0), out, err


# features and levels


def test_a_backend_has_every_feature_whatever_its_module_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(antisymrnn_ref, "features", frozenset(), raising=False)
    assert features_of(antisymrnn_ref) == ALL
    found = functions.backend("numpy")
    assert found.features == ALL
    assert certify("numpy", case()).run(found).status == "passed"


def test_every_level_has_checks_and_the_first_dtype_begins() -> None:
    checks = iter_checks("numpy", quick=True)
    assert {check.level for check in checks} == set(LEVELS)
    assert all("float64" in check.case for check in checks if check.level < 3)
    narrow = iter_checks("numpy", quick=True, dtypes=["float32"])
    assert {check.level for check in narrow} == set(LEVELS)
    assert all("float32" in check.case for check in narrow)
    assert {check.level for check in checks if check.name == "accuracy"} == {2, 3, 4}
    assert all(check.level >= 3 for check in checks if check.case.startswith("gated"))


def test_what_a_candidate_lacks_does_not_apply() -> None:
    checks = iter_checks("x", quick=True, features=frozenset({"gradients"}))
    results = [check.run(antisymrnn_ref) for check in checks if " promises " in check.case]
    assert accepted(results)
    reasons = {result.check: result.detail for result in results if result.status == "not applicable"}
    assert reasons["checkpointing"].startswith("it keeps every state")
    assert reasons["errors"].startswith("asked of a backend alone")
    assert any(result.detail == "it has no gated cell" for result in results)
    assert any(result.detail == "it has no ablation" for result in results)


# functions


@pytest.mark.usefixtures("modules")
def test_an_honest_function_is_accepted() -> None:
    candidate = functions.callable_candidate("numpy_cells:states", "numpy_cells:gated")
    assert candidate.features == {"arrays", "layouts", "gated", "ablation"}
    results = judged(candidate)
    ran = accepted(results)
    assert ran >= {"last state", "every state", "batch sum", "chunks", "inputs untouched", "denormal values"}
    assert {result.detail for result in results if result.check == "accuracy"} == {"it gives no gradients"}


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize("name", ["wider_inside", "without_M"])
def test_another_form_of_the_cell_is_accepted(name: str) -> None:
    ran = accepted(judged(functions.callable_candidate(f"numpy_cells:{name}"), among="promises"))
    assert ran >= {"infinite input", "non finite values", "blank inputs", "independent calls"}


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    ("name", "check", "words"),
    [
        ("one_buffer", "independent calls", "h: this call has changed the array that an earlier call returned"),
        ("stale_diffusion", "independent calls", "h: relative error"),
        ("stale_step_size", "independent calls", "h: relative error"),
        ("masked", "blank inputs", "h: relative error"),
        ("same_for_equal_inputs", "blank inputs", "h: relative error"),
        ("emptied", "repeatability", "parameters: the call changes the dictionary"),
    ],
)
def test_a_function_that_is_right_when_it_is_called_once_is_rejected(name: str, check: str, words: str) -> None:
    candidate = functions.callable_candidate(f"numpy_cells:{name}")
    results = judged(candidate, among="antisymmetric promises T=11 B=4 n=7 m=3 float64")
    assert [result.detail[: len(words)] for result in results if result.check == check and result.detail] == [words]


@pytest.mark.usefixtures("modules")
def test_the_longest_case_is_as_long_as_any_of_the_paper() -> None:
    candidate = functions.callable_candidate("numpy_cells:no_longer")
    (long,) = [check for check in iter_checks("x", features=candidate.features) if "T=1024" in check.case][:1]
    assert long.run(candidate).detail.startswith("h: relative error")


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    ("name", "check", "words"),
    [
        ("transposed", "last state", "h: relative error"),
        (
            "without_h0",
            "every state",
            "h: expected every state, h_0 among them, (T+1, B, n) = (12, 4, 7), got (11, 4, 7)",
        ),
        ("writes", "inputs untouched", "read-only"),
    ],
)
def test_a_wrong_function_is_rejected(name: str, check: str, words: str) -> None:
    results = judged(functions.callable_candidate(f"numpy_cells:{name}"), among="T=11 B=4 n=7 m=3 float64")
    details = [result.detail for result in results if result.status == "failed" and result.check == check]
    assert details
    assert all(words in detail for detail in details)


@pytest.mark.usefixtures("modules")
def test_states_of_another_dtype_than_the_inputs_are_rejected() -> None:
    candidate = functions.callable_candidate("numpy_cells:widened")
    for dtype, status in ((np.float64, "passed"), (np.float32, "failed")):
        result = certify("callable", case(dtype=dtype), what="every state").run(candidate)
        assert result.status == status
    assert result.detail == "h: expected dtype float32 as x has, got float64"


@pytest.mark.usefixtures("modules")
def test_the_ablation_is_asked_where_every_function_takes_it() -> None:
    both, one = (functions.callable_candidate("numpy_cells:states", f"numpy_cells:{g}") for g in ("gated", "writes"))
    assert "ablation" in both.features
    assert "ablation" not in one.features


def test_a_module_that_fails_at_import_is_told_with_its_place(
    modules: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (modules / "broken.py").write_text("\nraise RuntimeError('no luck')\n")
    code, out, err = run(["conform", "--callable", "broken:cell"], capsys)
    assert (code, out, err) == (2, "", "antisymrnn conform: RuntimeError: no luck (broken.py, line 2)\n")


@pytest.mark.usefixtures("modules")
def test_a_function_has_a_limit_of_time_under_a_convention_too() -> None:
    candidate = functions.callable_candidate("numpy_cells:states")
    under = declared(candidate, "row vectors")
    assert candidate.seconds == under.seconds == functions.CHECK_SECONDS < math.inf
    assert under.features == {"ablation"}


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize("name", ["states", "Cell", "made"])
def test_an_honest_peer_of_pytorch_is_accepted(name: str) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    if name == "states":
        candidate = functions.torch_candidate("torch_cells:states", "torch_cells:gated")
        assert candidate.features == {"gradients", "layouts", "autograd", "torch", "gated", "ablation"}
        results = judged(candidate, among="promises")
    else:
        candidate = functions.torch_candidate(f"torch_cells:{name}")
        assert candidate.features == {"gradients", "layouts", "autograd", "torch"}
        results = judged(candidate, among="promises T=11")
    assert accepted(results) >= {"antisymmetric gradient", "batch sum", "non finite values", "huge values"}


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("detached", "step_size: h does not depend on it, or is detached from it"),
        ("cut", "h: is detached from every input"),
        ("halved", "h: expected dtype torch.float64 as x has, got torch.float32"),
        ("other_states", "h: the pass that is differentiated has other states than the pass that is not"),
        ("doubled_gradient", "b: relative error 1.0e+00"),
    ],
)
def test_a_wrong_peer_of_pytorch_is_rejected(name: str, words: str) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    result = certify("torch", case()).run(functions.torch_candidate(f"torch_cells:{name}"))
    assert result.status == "failed"
    assert words in result.detail


@pytest.mark.usefixtures("modules")
def test_a_backward_pass_by_hand_is_accepted() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    results = judged(functions.torch_candidate("torch_backward:states"), among="promises")
    assert accepted(results) >= {"independent calls", "layouts", "without input gradient", "infinite input"}


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    ("fault", "check", "words"),
    [
        ("strides of x", "layouts", "h: relative error"),
        ("strides of g", "layouts", ""),
        ("needs x", "without input gradient", "W: relative error"),
        ("kept in a global", "independent calls", ""),
        ("cached by identity", "independent calls", "h: the pass that is differentiated has other states"),
        ("one buffer", "independent calls", ""),
        ("writes x", "repeatability", "x: the call writes into it"),
        ("writes g", "repeatability", "g: the call writes into it"),
    ],
)
def test_a_backward_pass_that_is_wrong_in_other_hands_is_rejected(
    fault: str, check: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    monkeypatch.setattr(importlib.import_module("torch_backward"), "fault", fault)
    candidate = functions.torch_candidate("torch_backward:states")
    (result,) = [
        result
        for result in judged(candidate, among="antisymmetric promises T=11 B=4 n=7 m=3 float64")
        if result.check == check
    ]
    assert result.status == "failed"
    assert words in result.detail


@pytest.mark.usefixtures("modules")
def test_a_peer_of_pytorch_is_judged_without_steps_and_in_the_ablation() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    candidate = functions.torch_candidate("torch_cells:Ablated")
    assert candidate.features == {"gradients", "layouts", "autograd", "torch", "ablation"}
    empty = random_case("antisymmetric", 0, 3, 4, 2, step_size=0.3, diffusion=0.2, seed=7)
    for given in (empty, case(unconstrained=True)):
        result = certify("torch", given).run(candidate)
        assert result.status == "passed", result.detail


@pytest.mark.usefixtures("modules")
def test_a_module_is_not_changed_by_being_judged() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    module = importlib.import_module("torch_cells").made
    assert certify("torch", case()).run(functions.torch_candidate(module)).status == "passed"
    assert {value.dtype for value in module.state_dict().values()} == {torch.float32}


@pytest.mark.usefixtures("modules")
def test_a_module_that_was_changed_is_judged_anew() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    module = importlib.import_module("torch_cells").Cell(2, 3)
    honest = module.forward
    assert certify("torch", case()).run(functions.torch_candidate(module)).status == "passed"
    module.forward = lambda x, h0: 2 * honest(x, h0)
    assert certify("torch", case()).run(functions.torch_candidate(module)).status == "failed"


@pytest.mark.usefixtures("modules")
def test_a_function_of_jax_that_donates_what_it_is_given_is_rejected() -> None:
    pytest.importorskip("jax", reason="JAX is not installed")
    result = certify("jax", case(), what="every state").run(functions.jax_candidate("jax_cells:donated"))
    assert result.detail == "h0: the call donates its memory, and the caller's array is gone"


@pytest.mark.usefixtures("modules")
def test_a_peer_of_jax_is_judged_in_the_ablation_and_has_one_set_of_states() -> None:
    pytest.importorskip("jax", reason="JAX is not installed")
    candidate = functions.jax_candidate("jax_cells:ablated")
    assert candidate.features == {"gradients", "autograd", "jax", "ablation"}
    assert certify("jax", case(unconstrained=True)).run(candidate).status == "passed"
    result = certify("jax", case()).run(functions.jax_candidate("jax_cells:other_states"))
    assert result.detail.startswith(
        "h: the pass that is differentiated has other states than the pass that is not: h: r"
    )


@pytest.mark.usefixtures("modules")
def test_an_honest_peer_of_jax_is_accepted() -> None:
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    before = jax.config.jax_enable_x64
    candidate = functions.jax_candidate("jax_cells:states", "jax_cells:gated")
    assert candidate.features == {"gradients", "autograd", "jax", "gated"}
    some = ("antisymmetric gradient", "signed permutation", "denormal values", "huge values", "nan column to rounding")
    checks = iter_checks("jax", quick=True, features=candidate.features)  # each size is compiled anew: not all of them
    chosen = [check for check in checks if check.name in some and check.case.startswith("antisymmetric")]
    assert accepted([check.run(candidate) for check in chosen if "promises T=11" in check.case]) == set(some)
    for cell in ("antisymmetric", "gated"):
        result = certify("jax", case(cell, last_state_only=True)).run(candidate)
        assert result.status == "passed", result.detail
    assert jax.config.jax_enable_x64 == before
    result = certify("jax", case()).run(functions.jax_candidate("jax_cells:stopped"))
    assert result.detail.startswith("V: relative error 1.0e+00")


# programs


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """Builds the C++ example, with one edit of one line."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no g++")
    if not EXAMPLE.is_file():
        pytest.skip("the wheel has no examples")

    def build(honest: str = "", planted: str = "", level: str = "-O2") -> list[str]:
        folder, text = tmp_path_factory.mktemp("cpp"), EXAMPLE.read_text(encoding="utf-8")
        assert text.count("\n") < 200
        if honest:
            assert text.count(honest) == 1
            text = text.replace(honest, planted)
        (folder / EXAMPLE.name).write_text(text, encoding="utf-8")
        flags = ["-std=c++17", level]
        subprocess.run([compiler, *flags, "-o", "antisymrnn", EXAMPLE.name], cwd=folder, check=True)
        return [str(folder / "antisymrnn")]

    return build


@pytest.mark.slow
@pytest.mark.parametrize("level", ["-O2", "-Ofast"])
def test_the_example_in_cpp_is_accepted(level: str, built: Callable[..., list[str]]) -> None:
    candidate = programs.program_candidate(built(level=level))
    results = judged(candidate)
    assert accepted(results) >= {"accuracy", "checkpointing", "chunks", "denormal values", "non finite values"}
    lacking = {result.detail for result in results if result.status == "not applicable"}
    assert lacking == {
        "asked of a backend alone",
        "it does not get the caller's own arrays",
        "its arrays come in C order alone",
    }


def test_a_program_that_reorders_sums_and_flushes_denormals_is_accepted(built: Callable[..., list[str]]) -> None:
    results = judged(programs.program_candidate(built(level="-Ofast")), among="promises T=11")
    assert accepted(results) >= {
        "denormal values",
        "huge values",
        "non finite values",
        "infinite input",
        "checkpointing",
    }


@pytest.mark.parametrize(
    ("honest", "planted", "cell", "words"),
    [
        ("W[i * n + j] - W[j * n + i])", "W[i * n + j] + W[j * n + i])", "antisymmetric", "h: relative error"),
        ("z_t[i] * (1 - z_t[i]) * adjoint_t[i]", "z_t[i] * adjoint_t[i]", "gated", "V_z: relative error"),
    ],
)
def test_a_wrong_edit_of_the_example_is_rejected(
    built: Callable[..., list[str]], honest: str, planted: str, cell: str, words: str
) -> None:
    result = certify("cpp", case(cell)).run(programs.program_candidate(built(honest, planted, "-O0")))
    assert result.status == "failed"
    assert words in result.detail


HEAD = """
import json, os, signal, subprocess, sys, time
given, returned = sys.argv[1:]
told = json.load(open(given + "/manifest.json"))
shape = tuple(told["results"]["h"])
def npy(header, data=b"", version=1):
    header = header.encode() + b"\\n"
    with open(returned + "/h.npy", "wb") as file:
        size = len(header).to_bytes(2 if version == 1 else 4, "little")
        file.write(b"\\x93NUMPY" + bytes([version, 0]) + size + header + data)
def told_as(descr, shape, order=False):
    return repr({"descr": descr, "fortran_order": order, "shape": shape})
zeros = bytes(8 * shape[0] * shape[1] * shape[2])
"""

HOSTILE = {
    "hang": ("print('working', flush=True); time.sleep(60)", "no end within 1 s; it was killed; it said: working"),
    "deaf": ("signal.signal(15, signal.SIG_IGN); os.close(1); os.close(2); time.sleep(60)", "no end within 1 s"),
    "exit 3": ("print('no luck\\x1b[31m', file=sys.stderr); sys.exit(3)", "exit code 3; it said: no luck�[31m"),
    "traceback": ("1 / 0", "exit code 1; it said: ZeroDivisionError: division by zero"),
    "segfault": ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
    "abort": ("os.abort()", "killed by SIGABRT"),
    "nothing": ("print('done')", "h.npy: was not written; it said: done"),
    "empty": ("open(returned + '/h.npy', 'w')", "h.npy: expected a .npy file"),
    "text": ("open(returned + '/h.npy', 'w').write('0 ' * 999)", "h.npy: expected a .npy file"),
    "truncated": ("npy(told_as('<f8', shape), zeros[:-8])", "bytes of numbers, the file has"),
    "trailing": ("npy(told_as('<f8', shape), zeros + b'0')", "bytes of numbers, the file has"),
    "wrong dtype": ("npy(told_as('<f4', shape), zeros)", "expected float64 (6, 3, 4), got float32 (6, 3, 4)"),
    "integers": ("npy(told_as('<i8', shape), zeros)", "got int64"),
    "more dimensions": ("npy(told_as('<f8', (*shape, 1)), zeros)", "got float64 (6, 3, 4, 1)"),
    "flat": ("npy(told_as('<f8', (72,)), zeros)", "got float64 (72,)"),
    "absurd shape": ("npy(told_as('<f8', (10**9, 10**9)), zeros)", "got float64 (1000000000, 1000000000)"),
    "negative shape": ("npy(told_as('<f8', (-6, -3, 4)), zeros)", "got float64 (-6, -3, 4)"),
    "objects": ("npy(told_as('|O', shape), zeros)", "got pickled objects, which are not loaded"),
    "records": ("npy(told_as([('a', '<f8')], shape), zeros)", "expected float64"),
    "absurd header": ("npy('(' * 9000, zeros)", "h.npy: expected a .npy file"),
    "header of 4 GB": (
        "open(returned + '/h.npy', 'wb').write(b'\\x93NUMPY\\x02\\x00' + b'\\xff' * 99)",
        "h.npy: expected a .npy file",
    ),
    "pickle": (
        "import pickle\nclass Evil:\n    def __reduce__(self): return (os.system, ('touch ' + given + '/../evil',))\n"
        "pickle.dump(Evil(), open(returned + '/h.npy', 'wb'))",
        "h.npy: expected a .npy file",
    ),
    "link": ("os.symlink('/dev/zero', returned + '/h.npy')", "h.npy: expected a regular file, no link"),
    "link to a file": ("os.symlink(given + '/x.npy', returned + '/h.npy')", "h.npy: expected a regular file, no link"),
    "pipe": ("os.mkfifo(returned + '/h.npy')", "h.npy: expected a regular file"),
    "folder": ("os.mkdir(returned + '/h.npy')", "h.npy: expected a regular file"),
    "no folder": ("os.rmdir(returned)", "OUTPUT_DIR cannot be read"),
    "folder a link": ("os.rmdir(returned); os.symlink(given, returned)", "OUTPUT_DIR: is no folder any more"),
    "locked": ("npy(told_as('<f8', shape), zeros); os.chmod(returned + '/h.npy', 0); os.chmod(returned, 0)", ""),
    "noise": ("print('x' * 10**7); print('y' * 10**7, file=sys.stderr)", "h.npy: was not written; it said: yyy"),
    "child": (
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])",
        "it left running after its end: pid ",
    ),
}  # fmt: skip


def program(folder: Path, source: str, timeout: float = 20.0) -> Candidate:
    path = folder / "program.py"
    path.write_text(HEAD + source, encoding="utf-8")
    return programs.program_candidate([sys.executable, "-S", "-E", str(path)], timeout)


@pytest.fixture
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the folders of the calls are made; nothing may be left there."""
    folder = tmp_path / "calls"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield tmp_path
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_fails_and_says_why(name: str, clean: Path) -> None:
    source, words = HOSTILE[name]
    start = time.perf_counter()
    result = certify("program", case()).run(program(clean, source, 1.0 if name in ("hang", "deaf") else 20.0))
    assert time.perf_counter() - start < 15
    assert result.status == "failed"
    assert words in result.detail
    assert len(result.detail) < 600
    assert not list(clean.rglob("evil"))


def test_a_program_that_does_not_support_a_case(clean: Path) -> None:
    says = "print('first', file=sys.stderr); print('no ' + told['cell'] + ' cell', file=sys.stderr); sys.exit(77)"
    result = certify("program", case()).run(program(clean, says))
    assert (result.status, result.detail) == ("not applicable", "no antisymmetric cell")
    result = certify("program", case()).run(program(clean, "sys.exit(77)"))
    assert (result.status, result.detail) == ("not applicable", "exit code 77, without a reason on stderr")


def test_a_program_that_hangs_is_not_called_for_ever(clean: Path) -> None:
    candidate = program(clean, "time.sleep(60)", 0.2)
    start = time.perf_counter()
    details = [check.run(candidate).detail for check in iter_checks("p", quick=True, features=candidate.features)[:40]]
    assert time.perf_counter() - start < 15
    assert "not called again after 3 calls without an end" in details[-1]


EVERY_RESULT = """
import math
for name, shape in sorted(told["results"].items(), key=lambda result: result[0] == "h"):
    npy(told_as("<f8", tuple(shape)), bytes([told["pass"] == "backward"]) * 8 * math.prod(shape))
    os.rename(returned + "/h.npy", f"{returned}/{name}.npy")
"""


def test_a_program_whose_passes_have_other_states_is_rejected(clean: Path) -> None:
    result = certify("program", case()).run(program(clean, EVERY_RESULT))
    assert result.detail == "backward: h.npy: expected the same bits as in the forward pass"


def test_the_folders_of_a_call_lie_where_the_environment_says(clean: Path) -> None:
    detail = certify("program", case()).run(program(clean, "print(given)")).detail
    assert f"it said: {clean}/calls/antisymrnn-" in detail


def test_the_other_order_and_the_other_bytes_are_read(tmp_path: Path) -> None:
    array = np.random.default_rng(0).standard_normal((3, 4, 2))
    for given in (array, np.asfortranarray(array), array.astype(">f8")):
        np.save(tmp_path / "h.npy", given)
        found = programs.read_array(tmp_path / "h.npy", array.shape, array.dtype)
        assert found.dtype.isnative
        assert found.flags.c_contiguous
        assert found.tobytes() == array.tobytes()
    np.save(tmp_path / "h.npy", np.array(2.5))
    assert programs.read_array(tmp_path / "h.npy", (), np.dtype(float)) == 2.5
    np.save(tmp_path / "h.npy", np.array([2.5]))
    with pytest.raises(BrokenPromise, match=r"expected float64 \(\), got float64 \(1,\)"):
        programs.read_array(tmp_path / "h.npy", (), np.dtype(float))


def test_the_manifest() -> None:
    given = case("gated", dtype=np.float32, last_state_only=True)
    told = programs.manifest(given, "backward", 2)
    assert (told["protocol"], told["pass"], told["cell"], told["dtype"]) == (1, "backward", "gated", "float32")
    assert [told[name] for name in ("T", "B", "n", "m", "keep_every")] == [5, 3, 4, 2, 2]
    assert told["step_size"] == float.fromhex(told["step_size_hex"]) == float(np.float32(0.3))
    assert told["arrays"]["g"] == [3, 4]
    assert not told["g_on_every_state"]
    assert told["results"]["h"] == [4, 3, 4]
    assert told["results"]["dV_z"] == [4, 2]
    assert told["results"]["ddiffusion"] == []


# the command


@pytest.mark.usefixtures("modules")
def test_conform_on_a_function(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["conform", "--callable", "numpy_cells:states", "--gated", "numpy_cells:gated", "--quick"]
    code, out, _ = run([*arguments, "--level", "1", "-k", "generic", "--dtype", "float32"], capsys)
    assert code == 0
    assert out.splitlines()[-2].startswith("2 of ")
    assert out.splitlines()[-1].startswith("conform --callable numpy_cells:states --quick: in 2 of ")
    assert re.search(r"^0: the last state +1 +0 +0$", out, re.MULTILINE)
    assert re.search(r"^1: h0, and every state +1 +0 +0$", out, re.MULTILINE)
    code, out, _ = run(["conform", "--callable", "numpy_cells:transposed", "--level", "0"], capsys)
    assert code == 1
    assert "FAILED --callable numpy_cells:transposed: last state on antisymmetric generic" in out


NOTHING = {"torch": "", "jax": "", "callable": "", "gated": "", "cmd": "", "timeout": None, "taken": {}}
ONE = ["--dtype", "float64", "-k"]


@pytest.mark.usefixtures("modules")
def test_conform_judges_the_gated_function_and_shows_its_failure_again(capsys: pytest.CaptureFixture[str]) -> None:
    both = ["--callable", "numpy_cells:gated", "--gated", "numpy_cells:states"]
    code, out, _ = run(["conform", *both, *ONE, "every state: gated generic"], capsys)
    assert code == 1
    script = out.partition("to see it again:\n")[2].partition("\n\n")[0]
    with pytest.raises(BrokenPromise, match="h: relative error"):
        exec("\n".join(line.strip() for line in script.splitlines()), {})


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize("library", ["torch", "jax"])
def test_conform_on_a_peer(library: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(library, reason=f"{library} is not installed")
    option = [f"--{library}", f"{library}_cells:states"]
    code, out, _ = run(["conform", *option, *ONE, "accuracy: antisymmetric generic"], capsys)
    assert (code, out.splitlines()[-1].partition(": ")[0]) == (0, f"conform {' '.join(option)}")


def test_conform_gives_a_program_the_time_that_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    command = f"{sys.executable} -S -E -c 'import time; time.sleep(60)'"
    code, out, _ = run(["conform", "--cmd", command, "--timeout", "0.1", *ONE, "last state: antisymmetric g"], capsys)
    assert code == 1
    assert "no end within 0.1 s" in out
    arguments = shlex.split(command)
    source = conform._target(None, **NOTHING | {"cmd": command, "timeout": 0.1}).source
    assert source == f"{programs.__name__}.program_candidate({arguments!r}, 0.1)"
    assert callable(programs.program_candidate)  # the script of a failure calls it there


def test_conform_on_a_program(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program(clean, "print('not today', file=sys.stderr); sys.exit(77)")
    command = f"{sys.executable} -S -E '{clean / 'program.py'}'"
    code, out, _ = run(["conform", "--cmd", command, "--level", "0"], capsys)
    assert code == 3
    assert "not today" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing argument 'BACKEND', or one of --torch, --jax, --callable and --cmd"),
        (["numpy", "--cmd", "true"], "expected one target, got BACKEND and --cmd"),
        (["--cmd", "no_such_program_here"], "expected a program that can be run, got 'no_such_program_here'"),
        (["--cmd", "'"], "--cmd: No closing quotation"),
        (["--cmd", "true", "--timeout", "0"], "timeout: expected seconds > 0, got 0.0"),
        (["--cmd", "true", "--timeout", "nan"], "timeout: expected seconds > 0, got nan"),
        (["--cmd", "true", "--gated", "a:b"], "--gated: expected with --torch, --jax or --callable alone"),
        (["numpy", "--timeout", "3"], "--timeout: expected with --cmd alone"),
        (["numpy", "--dtype", "float16"], "--dtype: expected float64 or float32, got 'float16'"),
        (["--callable", "numpy"], "expected a path such as package.module:name, got 'numpy'"),
        (
            ["--callable", "no_such_here:f"],
            "got 'no_such_here:f': there is no module 'no_such_here' where Python looks",
        ),
        (["--callable", "needy:f"], "needy:f: importing needy failed: No module named 'no_such_here'"),
        (["--cmd", "here.py"], "got 'here.py'; write ./here.py for the one in this folder"),
        (["--cmd", "here.txt"], "got 'here.txt'; that file is not executable"),
        (["--cmd", "./here.txt"], "got './here.txt'; that file is not executable"),
        (["--callable", "needy_too:f"], "needy_too:f: importing needy_too failed: No module named 'needy_t'"),
        (["--callable", "numpy:no_such_name"], "numpy:no_such_name: numpy has no no_such_name"),
        (["--callable", "numpy:pi"], "numpy:pi: expected a function, got float"),
        (["--callable", "burning:f"], "RuntimeError: on fire"),
    ],
)
def test_wrong_targets_exit_2(
    arguments: list[str],
    words: str,
    modules: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(modules)
    (modules / "here.txt").write_text("no program")
    (modules / "here.py").touch(0o755)
    (modules / "needy_too.py").write_text("import needy_t")
    (modules / "needy.py").write_text("import no_such_here")
    (modules / "burning.py").write_text("raise RuntimeError('on\\nfire')")
    importlib.invalidate_caches()
    code, out, err = run(["conform", *arguments], capsys)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert words in err


def test_a_program_writes_nothing_beside_its_folders(clean: Path) -> None:
    """The folders are gone after every call, and no process of the group is left."""
    source = "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\nprint(child.pid)"
    candidate = program(clean, source)
    detail = certify("program", case()).run(candidate).detail
    child = int(detail.rsplit(" ", 1)[-1])
    for _ in range(100):
        stat = Path(f"/proc/{child}/stat")
        if not stat.exists() or stat.read_text().rsplit(")", 1)[-1].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        os.kill(child, 9)
        pytest.fail("a child outlived its program")
