"""PyTorch and JAX: what training does and inference, honest and unusual, and wrong in each of these ways."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from antisymrnn_validation import cli
from antisymrnn_validation.conformance.check import Result, make_check
from antisymrnn_validation.conformance.plan import certify, iter_checks
from antisymrnn_validation.conformance.promises import PROMISES
from antisymrnn_validation.conformance.targets import functions
from antisymrnn_validation.truth.calls import BrokenPromise, Candidate
from antisymrnn_validation.truth.cases import Case, random_case

OF_FRAMEWORKS = {
    "subsets of gradients", "modes", "trainable parameters", "framework state", "strides", "graphs", "compiled and not"
}  # fmt: skip

BY_HAND = """
import random
import numpy as np
import torch

fault, memo, calls = "", {}, []

def in_order(array):
    return array.as_strided(array.shape, torch.empty(array.shape).stride())

def rows_in_order(array):  # trusts that rows follow one another if the last stride is 1
    return in_order(array) if array.stride(-1) == 1 else array.contiguous()

def cut(h, bits):
    mantissa, exponent = torch.frexp(h)
    return torch.ldexp(torch.round(mantissa * 2**bits) / 2**bits, exponent)

class Cell(torch.autograd.Function):
    @staticmethod
    def forward(ctx, W, V, b, x, h0, step_size, diffusion):
        trained = ctx.needs_input_grad
        if fault == "W, V, b together" and any(trained[:3]) and not all(trained[:3]):
            raise AssertionError("W, V and b are trained together")
        if fault == "default dtype":
            torch.set_default_dtype(torch.float64)
        if fault == "seed":
            torch.manual_seed(0)
        if fault == "NumPy's seed":
            np.random.seed(0)
        if fault == "Python's seed":
            random.seed(0)
        if fault == "threads":
            torch.set_num_threads(torch.get_num_threads() % 2 + 1)
        if fault == "deterministic":
            torch.use_deterministic_algorithms(not torch.are_deterministic_algorithms_enabled())
        V_ = in_order(V) if fault == "strides of V" else V
        W_ = rows_in_order(W) if fault == "padded W" else W
        x_ = rows_in_order(x) if fault == "padded x" else x
        x_ = in_order(x) if fault == "expanded x" and 0 in x.stride() else x_
        M = W_ - W_.T - diffusion * torch.eye(len(W), dtype=W.dtype)
        h = [rows_in_order(h0) if fault == "padded h0" else h0]
        for x_t in x_.unbind():
            h.append(h[-1] + step_size * torch.tanh(h[-1] @ M.T + x_t @ V_.T + b))
        h = torch.stack(h)
        copies = (V.clone(), b.clone()) if "on ctx" in fault else (V, b)
        ctx.save_for_backward(M, *copies, x.clone(), step_size, h)
        ctx.mine = V, b, x
        calls.append(h)
        if fault == "cut" and any(trained):
            return cut(h, 12 if h.dtype == torch.float32 else 42)
        if fault == "last state" and any(trained) and len(x):
            return torch.cat([h[:-1], h[-1:] * (1 + 1000 * torch.finfo(h.dtype).eps)])
        if fault == "first state" and any(trained):
            return torch.cat([h[:1] * (1 + 1000 * torch.finfo(h.dtype).eps), h[1:]])
        return h.clone()

    @staticmethod
    def backward(ctx, g):
        M, V, b, x, step_size, h = ctx.saved_tensors
        trained = ctx.needs_input_grad
        if fault == "V on ctx":
            V = ctx.mine[0]
        if fault == "b on ctx":
            b = ctx.mine[1]
        if fault == "x on ctx":
            x = ctx.mine[2]
        if fault == "last call" and calls[-1].shape == h.shape:
            h = calls[-1]
        if fault == "memo" and hasattr(ctx, "memo"):
            return ctx.memo
        if fault == "once":
            assert not hasattr(ctx, "done"), "already done"
            ctx.done = True
        g = rows_in_order(g) if fault == "padded g" else in_order(g) if fault == "strides of g" else g
        dM, dV, db, de = torch.zeros_like(M), torch.zeros_like(V), torch.zeros_like(b), torch.zeros_like(step_size)
        dx, dh = torch.zeros_like(x), g[-1].clone()
        for t in reversed(range(len(x))):
            s = torch.tanh(h[t] @ M.T + x[t] @ V.T + b)
            de += (dh * s).sum()
            da = step_size * (1 - s * s) * dh
            dM += da.T @ h[t]
            dV += da.T @ x[t]
            db += da.sum(0)
            dx[t] = da @ V
            dh = dh + da @ M + g[t]
        if fault == "b frozen" and not trained[2]:
            dM = 0 * dM
        if fault == "V frozen" and not trained[1]:
            db = 2 * db
        if fault == "h0 frozen" and not trained[4]:
            dx = dx / 2
        if fault == "ε frozen" and not trained[5]:
            dM = dM + dM.T
        found = dM - dM.T, dV, db, dx, dh, de, -dM.trace()
        if fault == "memo":
            ctx.memo = found
        return found

def states(p, x, h0, step_size, diffusion):
    if fault == "inference" and torch.is_inference_mode_enabled():
        diffusion = diffusion / 2
    if fault == "no_grad" and not torch.is_grad_enabled():
        return torch.cat([Cell.apply(p["W"], p["V"], p["b"], x, h0, step_size, diffusion)[:-1], h0[None]])
    if fault == "grad mode, nothing trained" and torch.is_grad_enabled() and not p["W"].requires_grad:
        step_size = step_size * 2
    h = Cell.apply(p["W"], p["V"], p["b"], x, h0, step_size, diffusion)
    if fault == "grad mode":
        torch.set_grad_enabled(False)
    return h
"""

MODULES = """
import torch
from torch import nn

fault = ""

class Cell(nn.Module):
    def __init__(self, m, n):
        super().__init__()
        self.W, self.V = nn.Parameter(torch.randn(n, n)), nn.Parameter(torch.randn(n, m))
        self.b, self.step_size = nn.Parameter(torch.zeros(n)), nn.Parameter(torch.tensor(0.1))
        self.register_buffer("diffusion", torch.tensor(0.1))
        if fault == "trained eye":
            self.eye = nn.Parameter(torch.eye(n))
        else:
            self.register_buffer("eye", torch.eye(n))
        if fault == "second bias":
            self.bias_hh = nn.Parameter(torch.zeros(n))
        if fault == "scale":
            self.scale = nn.Parameter(torch.ones(()))
        if fault == "readout":
            self.readout = nn.Linear(n, 10)

    def forward(self, x, h0):
        step_size = self.step_size
        if fault == "eval" and not self.training:
            step_size = step_size / 2
        if fault == "train" and self.training and torch.is_grad_enabled():
            step_size = step_size / 2
        if fault == "dropout":
            x = nn.functional.dropout(x, 0.2, self.training)
        M = self.W - self.W.T - self.diffusion * self.eye
        h = [h0]
        for x_t in x.unbind():
            a = h[-1] @ M.T + x_t @ self.V.T + self.b
            a = a + self.bias_hh if fault == "second bias" else self.scale * a if fault == "scale" else a
            h.append(h[-1] + step_size * torch.tanh(a))
        return torch.stack(h)
"""

UNUSUAL = """
import torch
from torch.utils import checkpoint

names = ("W", "V", "b")

def cell(W, V, b, x, h0, step_size, diffusion):
    M = W - W.T - diffusion * torch.eye(len(W), dtype=W.dtype)
    h = [h0]
    for x_t in x.unbind():
        h.append(h[-1] + step_size * torch.tanh(h[-1] @ M.T + x_t @ V.T + b))
    return torch.stack(h)

def checkpointed(p, *arguments):
    return checkpoint.checkpoint(cell, *(p[name] for name in names), *arguments, use_reentrant=False)

def reentrant(p, *arguments):
    return checkpoint.checkpoint(cell, *(p[name] for name in names), *arguments, use_reentrant=True)

def step_by_step(p, x, h0, step_size, diffusion):
    M = p["W"] - p["W"].T - diffusion * torch.eye(len(p["W"]), dtype=x.dtype)
    def step(h, x_t):
        return h + step_size * torch.tanh(h @ M.T + x_t @ p["V"].T + p["b"])
    h = [h0]
    for x_t in x.unbind():
        h.append(checkpoint.checkpoint(step, h[-1], x_t, use_reentrant=False))
    return torch.stack(h)

def mapped(p, x, h0, step_size, diffusion):
    def of_sample(x, h0):
        return cell(*(p[name] for name in names), x[:, None], h0[None], step_size, diffusion)[:, 0]
    return torch.func.vmap(of_sample, (1, 0), 1)(x, h0)

def without_M(p, x, h0, step_size, diffusion):
    W, h = p["W"], [h0]
    for x_t in x.unbind():
        a = h[-1] @ W.T - h[-1] @ W - diffusion * h[-1] + x_t @ p["V"].T + p["b"]
        h.append(h[-1] + step_size * torch.tanh(a))
    return torch.stack(h)

def wider_inside(p, *arguments):
    dtype = p["W"].dtype
    return cell(*(p[name].double() for name in names), *(each.double() for each in arguments)).to(dtype)

@torch.jit.script
def loop(W, V, b, x, h0, step_size, diffusion):
    M = W - W.t() - diffusion * torch.eye(W.size(0), dtype=W.dtype)
    h = [h0]
    for t in range(x.size(0)):
        h.append(h[-1] + step_size * torch.tanh(h[-1] @ M.t() + x[t] @ V.t() + b))
    return torch.stack(h)

def scripted(p, *arguments):
    return loop(*(p[name] for name in names), *arguments)

traced_cell, compiled_cell = torch.compile(cell, backend="aot_eager"), torch.compile(cell)
whole_cell = torch.compile(cell, backend="eager", fullgraph=True)

def whole(p, *arguments):
    return whole_cell(*(p[name] for name in names), *arguments)

def traced(p, *arguments):
    return traced_cell(*(p[name] for name in names), *arguments)

def compiled(p, *arguments):
    return compiled_cell(*(p[name] for name in names), *arguments)
"""

STRANGERS = """
import torch
from torch import nn

class LikeRNN(nn.Module):
    def __init__(self, input_size, hidden_size, eps=0.01, gamma=0.01, batch_first=True):
        super().__init__()
        self.hidden_size, self.eps, self.gamma, self.batch_first = hidden_size, eps, gamma, batch_first
        self.weight_hh = nn.Parameter(torch.randn(hidden_size, hidden_size))
        self.weight_ih = nn.Parameter(torch.randn(hidden_size, input_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, x, h=None):
        x = x.transpose(0, 1) if self.batch_first else x
        h = x.new_zeros(x.shape[1], self.hidden_size) if h is None else h
        A = self.weight_hh - self.weight_hh.T - self.gamma * torch.eye(self.hidden_size, dtype=x.dtype)
        out = []
        for x_t in x:
            h = h + self.eps * torch.tanh(x_t @ self.weight_ih.T + self.bias + h @ A.T)
            out.append(h)
        out = torch.stack(out)
        return out.transpose(0, 1) if self.batch_first else out, h

class OtherLast(LikeRNN):
    def forward(self, x, h=None):
        out, last = super().forward(x, h)
        return out, 2 * last

class Linears(nn.Module):
    def __init__(self, hidden, inputs, classes=10):
        super().__init__()
        self.inp, self.rec = nn.Linear(inputs, hidden), nn.Linear(hidden, hidden, bias=False)
        self.head = nn.Linear(hidden, classes)
        self.dt, self.diffusion = 0.1, 0.01

    def forward(self, x, h):
        W, hs = self.rec.weight, [h]
        for x_t in x:
            a = nn.functional.linear(h, W) - nn.functional.linear(h, W.T) - self.diffusion * h + self.inp(x_t)
            h = h + self.dt * torch.tanh(a)
            hs.append(h)
        return torch.stack(hs)

class Stored(nn.Module):  # for x @ U, with ε and γ as buffers
    def __init__(self, m, n):
        super().__init__()
        self.U, self.W = nn.Parameter(torch.randn(m, n)), nn.Parameter(torch.randn(n, n))
        self.b = nn.Parameter(torch.zeros(n))
        self.register_buffer("step_size", torch.tensor(0.1))
        self.register_buffer("diffusion", torch.tensor(0.1))

    def forward(self, x, h):
        hs = [h]
        for x_t in x:
            h = h + self.step_size * torch.tanh(h @ (self.W.T - self.W) - self.diffusion * h + x_t @ self.U + self.b)
            hs.append(h)
        return torch.stack(hs)

class WithoutSteps(Stored):
    def forward(self, x, h):
        return torch.cat([h[None], super().forward(x, h)[1:]]) if len(x) else 2 * h[None]

class WithoutState(Stored):
    def forward(self, x):
        return x
"""

JAX = """
import functools
import random
import jax
import numpy as np
from jax import numpy as jnp

fault = ""

def cell(p, x, h0, step_size, diffusion, around=lambda step: step):
    W = p["W"]
    M = W - W.T - diffusion * jnp.eye(len(W), dtype=W.dtype)
    @around
    def step(h, u):
        h = h + step_size * jnp.tanh(h @ M.T + u)
        return h, h
    return jnp.concatenate([h0[None], jax.lax.scan(step, h0, x @ p["V"].T + p["b"])[1]])

states = jax.jit(cell)
remat = jax.jit(functools.partial(cell, around=jax.checkpoint))

@jax.jit
def mapped(p, x, h0, step_size, diffusion):
    def of_sample(x, h0):
        return cell(p, x[:, None], h0[None], step_size, diffusion)[:, 0]
    return jax.vmap(of_sample, (1, 0), 1)(x, h0)

def traced(array):
    return isinstance(array, jax.core.Tracer)

def wrong(p, x, h0, step_size, diffusion):
    h = states(p, x, h0, step_size, diffusion)
    trained = [name for name in p if traced(p[name])]
    if fault == "seed":
        np.random.seed(0)
    if fault == "Python's seed":
        random.seed(0)
    if fault == "config":
        jax.config.update("jax_default_matmul_precision", "float32")
    if fault == "together" and trained and len(trained) < len(p):
        raise AssertionError("the parameters are trained together")
    if fault == "b frozen" and not traced(p["b"]):
        return states(p | {"W": jax.lax.stop_gradient(p["W"])}, x, h0, step_size, diffusion)
    if fault == "x frozen" and not traced(x):
        return states(p, x, jax.lax.stop_gradient(h0), step_size, diffusion)
    if fault == "cut" and traced(h0) and h.dtype == jnp.float32:
        return h + jax.lax.stop_gradient(jax.lax.reduce_precision(h, 8, 12) - h)
    if fault == "off" and traced(x):
        return h * (1 + 1000 * jnp.finfo(h.dtype).eps)
    if fault == "last" and traced(x):
        return h.at[-1].multiply(1 + 1000 * jnp.finfo(h.dtype).eps)
    if fault == "narrow" and not jax.config.jax_enable_x64:
        return h + jax.lax.stop_gradient(jax.lax.reduce_precision(h, 8, 12) - h)
    if fault == "no 64 bits":
        return h.at[-1].set(h[-1].astype(jnp.float64) * jnp.finfo(jnp.float64(1).dtype).nmant / 52)
    return h

@jax.jit
def compiled_apart(p, x, h0, step_size, diffusion):
    return cell(p, x, h0, step_size, diffusion)

def inside(array):
    while hasattr(array, "primal"):
        array = array.primal
    return traced(array)

class OnlyInside:  # compiled, but wrong when it is called from outside another compilation
    lower = states.lower

    def __call__(self, p, x, *arguments):
        return states(p, x, *arguments) * (1 if inside(x) else 2)

only_inside = OnlyInside()
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path with the modules above."""
    sources = {"by_hand": BY_HAND, "modules": MODULES, "unusual": UNUSUAL, "strangers": STRANGERS, "of_jax": JAX}
    for name, source in sources.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in sources:
        sys.modules.pop(name, None)


@pytest.fixture
def plant(modules: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Plants a fault in one of the modules."""
    assert modules.is_dir()

    def planted(module: str, fault: str) -> None:
        pytest.importorskip("jax" if module == "of_jax" else "torch", reason="the peer is not installed")
        monkeypatch.setattr(importlib.import_module(module), "fault", fault)

    return planted


def judged(candidate: Candidate, names: set[str], among: str = "antisymmetric promises T=11") -> list[Result]:
    checks = iter_checks("candidate", quick=True, features=candidate.features)
    return [check.run(candidate) for check in checks if check.name in names and among in check.case]


def case(cell: str = "antisymmetric", **options: Any) -> Case:
    return random_case(cell, 5, 3, 4, 2, step_size=0.3, diffusion=0.2, seed=7, **options)


def failures(results: list[Result]) -> list[str]:
    assert results
    return [result.detail for result in results if result.status == "failed"]


# planted, in PyTorch

TRAINED = "step_size: trained with the module, as W is; register_buffer if it is a constant"


def test_what_the_faults_are_planted_in_is_accepted(plant: Callable[[str, str], None]) -> None:
    plant("by_hand", "")
    candidate = functions.torch_candidate("by_hand:states")
    assert failures(judged(candidate, OF_FRAMEWORKS)) == []
    plant("modules", "")
    candidate = functions.torch_candidate("modules:Cell")
    assert failures(judged(candidate, OF_FRAMEWORKS)) == []
    assert candidate.remarks == [TRAINED]


@pytest.mark.parametrize(
    ("fault", "check", "words"),
    [
        ("cut", "accuracy", "h: the pass that is differentiated has other states than the pass that is not: h: rel"),
        ("last state", "accuracy", "h: the pass that is differentiated has other states"),
        ("first state", "accuracy", "h: the pass that is differentiated has other states"),
        ("inference", "modes", "in inference_mode(): h: relative error"),
        ("no_grad", "modes", "h: relative error"),
        ("grad mode, nothing trained", "modes", "in grad mode: h: relative error"),
        ("b frozen", "subsets of gradients", "gradients of W alone: W: relative error 1.0e+00"),
        ("W, V, b together", "subsets of gradients", "gradients of W alone: raised AssertionError: W, V and b are"),
        ("V frozen", "subsets of gradients", "gradients of b alone: b: relative error"),
        ("h0 frozen", "subsets of gradients", "gradients of x alone: x: relative error"),
        ("ε frozen", "subsets of gradients", "gradients of W alone: W: relative error"),
        ("seed", "framework state", "forward changes the state of torch's random numbers"),
        ("NumPy's seed", "framework state", "forward changes the state of numpy.random"),
        ("Python's seed", "framework state", "forward changes the state of random"),
        (
            "default dtype",
            "framework state",
            "forward changes torch.get_default_dtype() from torch.float32 to torch.float64",
        ),
        ("threads", "framework state", "forward changes torch.get_num_threads() from "),
        (
            "deterministic",
            "framework state",
            "forward changes torch.are_deterministic_algorithms_enabled() from False to",
        ),
        ("grad mode", "framework state", "changes torch.is_grad_enabled() from True to False"),
        ("strides of V", "strides", "V (7, 3) with strides ("),
        ("padded W", "strides", "W (7, 7) with strides ("),
        ("padded x", "strides", "x (11, 4, 3) with strides ("),
        ("padded h0", "strides", "h0 (4, 7) with strides ("),
        ("padded g", "strides", "g (12, 4, 7) with strides ("),
        ("strides of g", "strides", "g (12, 4, 7) with strides ("),
        ("expanded x", "strides", "x (11, 4, 3) with strides (3, 0, 1)"),
        ("V on ctx", "graphs", "V changed in place between forward and backward, and no error: "),
        ("b on ctx", "graphs", "b changed in place between forward and backward, and no error: "),
        ("x on ctx", "graphs", "x changed in place between forward and backward, and no error: "),
        ("last call", "graphs", "h0: relative error"),
        ("memo", "graphs", "backward pass 2 through one graph: "),
        ("once", "graphs", "backward pass 2 through one graph: raised AssertionError: already done"),
    ],
)
def test_a_port_that_is_wrong_in_training_is_rejected(
    fault: str, check: str, words: str, plant: Callable[[str, str], None]
) -> None:
    plant("by_hand", fault)
    torch = sys.modules["torch"]
    candidate = functions.torch_candidate("by_hand:states")
    before = torch.get_default_dtype(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        if check == "accuracy":
            found = [
                certify("torch", case(dtype=dtype), features=candidate.features).run(candidate)
                for dtype in (np.float32, np.float64)
            ]
        else:
            found = judged(candidate, {check})
    finally:
        torch.set_default_dtype(before[0])
        torch.set_num_threads(before[1])
        torch.use_deterministic_algorithms(before[2])
        torch.set_grad_enabled(True)
    details = failures(found)
    assert len(details) == len(found) == 2
    assert [detail for detail in details if words not in detail] == []


@pytest.mark.parametrize(
    ("fault", "check", "words"),
    [
        ("eval", "modes", "in eval(), no_grad(): h: relative error"),
        ("train", "modes", "the pass that is differentiated has other states"),
        ("dropout", "modes", "h: relative error"),
        ("trained eye", "trainable parameters", "eye (7, 7): h depends on this trained parameter"),
        ("second bias", "trainable parameters", "bias_hh (7,): h depends on this trained parameter"),
        ("scale", "trainable parameters", "scale (): h depends on this trained parameter"),
    ],
)
def test_a_module_that_is_wrong_in_training_is_rejected(
    fault: str, check: str, words: str, plant: Callable[[str, str], None]
) -> None:
    plant("modules", fault)
    found = judged(functions.torch_candidate("modules:Cell"), {check})
    details = failures(found)
    assert len(details) == len(found) == 2
    assert [detail for detail in details if words not in detail] == []


def test_a_readout_in_the_module_is_a_remark(plant: Callable[[str, str], None]) -> None:
    plant("modules", "readout")
    candidate = functions.torch_candidate("modules:Cell")
    assert failures(judged(candidate, {"trainable parameters"})) == []
    rest = "trained with the module, but the states do not depend on it"
    assert candidate.remarks == [TRAINED, f"readout.weight: {rest}", f"readout.bias: {rest}"]


# honest and unusual


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    "name",
    [
        "checkpointed", "reentrant", "step_by_step", "mapped", "without_M", "wider_inside",
        pytest.param("scripted", marks=pytest.mark.slow), pytest.param("traced", marks=pytest.mark.slow),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_an_unusual_port_is_accepted(name: str) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    candidate = functions.torch_candidate(f"unusual:{name}")
    checks = iter_checks("candidate", quick=True, features=candidate.features)
    chosen = [check for check in checks if "antisymmetric promises T=11" in check.case]
    results = [check.run(candidate) for check in chosen]
    assert failures(results) == []
    assert {result.check for result in results if result.status == "passed"} >= OF_FRAMEWORKS - {
        "trainable parameters",
        "compiled and not",
    }
    for dtype in (np.float32, np.float64):
        result = certify("torch", case(dtype=dtype), features=candidate.features).run(candidate)
        assert result.status == "passed", result.detail
    inside = [remark for remark in candidate.remarks if "so does torch.utils.checkpoint" in remark]
    assert bool(inside) == (name == "step_by_step")


@pytest.mark.slow
@pytest.mark.usefixtures("modules")
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_port_is_accepted() -> None:
    """The compiler of C++ takes its time: one size, and the promises that compile it anew a few times."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    candidate = functions.torch_candidate("unusual:compiled")
    given = random_case("antisymmetric", 3, 2, 4, 2, step_size=0.3, diffusion=0.2, seed=7, dtype=np.float32)
    results = [certify("torch", given, features=candidate.features).run(candidate)]
    results += [
        make_check(PROMISES[name], given, features=candidate.features).run(candidate)
        for name in ("modes", "framework state")
    ]
    assert [result.detail for result in results] == [""] * 3


@pytest.mark.slow
@pytest.mark.usefixtures("modules")
@pytest.mark.filterwarnings("ignore")
def test_a_port_that_is_compiled_whole_is_accepted_at_more_sizes_than_pytorch_compiles() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    candidate = functions.torch_candidate("unusual:whole")
    sizes = [random_case("antisymmetric", T, 2, 4, 2, step_size=0.3, diffusion=0.2, seed=7) for T in range(1, 14)]
    checks = [certify("torch", given, what="every state", features=candidate.features) for given in sizes]
    assert [check.run(candidate).detail for check in checks] == [""] * len(sizes)


# as people write them

LIKE_RNN = {"W": "weight_hh", "V": "weight_ih", "b": "bias", "step_size": "eps", "diffusion": "gamma"}
LINEARS = {"W": "rec.weight", "V": "inp.weight", "b": "inp.bias", "step_size": "dt"}


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    ("path", "options", "numbers"),
    [
        ("strangers.py:LikeRNN", {"batch_first": True, "without_h0": True, "names": LIKE_RNN}, True),
        ("strangers:LikeRNN(m, n, batch_first=False)", {"without_h0": True, "names": LIKE_RNN}, True),
        ("strangers:Linears(n, m, classes=3)", {"names": LINEARS}, True),
        ("strangers:Stored", {"names": {"V": "U.T"}}, False),
    ],
)
def test_a_module_as_people_write_it_is_accepted(path: str, options: dict[str, Any], numbers: bool) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    candidate = functions.torch_candidate(path, **options)
    assert candidate.numbers == ({"step_size", "diffusion"} if numbers else set())
    assert any("plain numbers of the module" in remark for remark in candidate.remarks) == numbers
    results = judged(candidate, OF_FRAMEWORKS | {"batch sum", "chunks", "independent calls", "non finite values"})
    assert failures(results) == []
    for dtype in (np.float32, np.float64):
        result = certify("torch", case(dtype=dtype), features=candidate.features).run(candidate)
        assert result.status == "passed", result.detail
        assert ("step_size" in result.errors) != numbers


@pytest.mark.usefixtures("modules")
def test_no_steps_may_be_refused_but_not_be_wrong() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    empty = random_case("antisymmetric", 0, 3, 4, 2, step_size=0.3, diffusion=0.2, seed=7)
    refusing = functions.torch_candidate("strangers:LikeRNN", batch_first=True, without_h0=True, names=LIKE_RNN)
    result = certify("torch", empty).run(refusing)
    assert result.status == "not applicable"
    assert result.detail == "it refuses T = 0: RuntimeError: stack expects a non-empty TensorList"
    wrong = functions.torch_candidate("strangers:WithoutSteps", names={"V": "U.T"})
    assert certify("torch", case()).run(wrong).status == "passed"
    assert certify("torch", empty, what="every state").run(wrong).detail.startswith("h: relative error 1.0e+00")


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    ("path", "options", "words"),
    [
        ("LikeRNN(m, n, batch_first=False)", {"names": LIKE_RNN}, "--without-h0 accepts h_1 … h_T"),
        ("OtherLast", {"names": LIKE_RNN, "batch_first": True, "without_h0": True}, "h_n: expected the last state"),
    ],
)
def test_a_module_of_another_form_says_which_option_it_needs(path: str, options: dict[str, Any], words: str) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    result = certify("torch", case(), what="every state").run(functions.torch_candidate(f"strangers:{path}", **options))
    assert result.status == "failed"
    assert words in result.detail


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["strangers.py:LikeRNN"],
            "it has bias (3,), weight_hh (3, 3), weight_ih (3, 2), eps = 0.01, gamma = 0.01; "
            "name them with --map W=weight_hh,V=weight_ih,b=bias,step_size=eps,diffusion=gamma, or in an attribute",
        ),
        (["strangers:Linears(n, m)"], "--map W=rec.weight,V=inp.weight,b=inp.bias,step_size=dt, or in an attribute"),
        (["strangers:Stored"], "module: expected parameters or buffers V, it has U (2, 3), W (3, 3), b (3,)"),
        (["strangers:Stored", "--map", "V=u"], "expected parameters or buffers u (for V)"),
        (["strangers:LikeRNN", "--map", "W=weight_h"], "; did you mean 'weight_hh'?"),
        (["strangers:WithoutState"], "WithoutState.forward: expected forward(x, h0), got forward(x)"),
        (["strangers:LikeRNN(n, k)"], "expected a call of literals and of m and n, such as Cell(n, m, bias=True)"),
        (["strangers:LikeRNN(n)"], "LikeRNN: LikeRNN.__init__() missing 1 required positional argument"),
        (["nowhere.py:LikeRNN"], "there is no file nowhere.py in "),
        (["nowhere:LikeRNN"], "there is no module 'nowhere' where Python looks, "),
        (["strangers:LikeRNN", "--map", "U=a"], "--map: expected NAME=NAME for some of W, V, b, V_z, b_z, step_size"),
        (["strangers:LikeRNN", "--map", "W=a,W=b"], "--map: expected one name for W, got another one"),
        (["strangers:Stored", "--map", "V=U.T,V_z=U"], "names: V_z: no module here has them"),
        (["by_hand:states", "--map", "W=U"], "names: W: no module here has them; functions get their parameters"),
        (["strangers:LikeRNN", "--map", "W="], "--map: expected one name for W, got none"),
    ],
)
def test_a_wrong_module_exits_2_and_says_what_is_there(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    with pytest.raises(SystemExit) as exit_:
        cli.main(["conform", "--torch", *arguments])
    out, err = capsys.readouterr()
    assert (exit_.value.code, out) == (2, "")
    assert words in err


@pytest.mark.usefixtures("modules")
def test_conform_on_a_module_of_another_form_and_its_script(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    names = ",".join(f"{name}={theirs}" for name, theirs in LIKE_RNN.items())
    arguments = ["conform", "--torch", "strangers.py:LikeRNN", "--map", names, "--batch-first", "--without-h0"]
    one = ["--dtype", "float64", "-k", "accuracy: antisymmetric generic"]
    with pytest.raises(SystemExit) as exit_:
        cli.main([*arguments, *one])
    out = capsys.readouterr().out
    assert exit_.value.code == 0
    assert "eps, gamma: plain numbers of the module, whose gradients are not judged\n" in out
    arguments[4] = arguments[4].replace("eps", "gamma2").replace("gamma,", "eps,").replace("gamma2", "gamma")
    arguments[4] = arguments[4].replace("step_size=gamma,diffusion=gamma", "step_size=gamma,diffusion=eps")
    with pytest.raises(SystemExit) as exit_:
        cli.main([*arguments, *one])
    out = capsys.readouterr().out
    assert exit_.value.code == 1
    script = out.partition("to see it again:\n")[2].partition("\n\n")[0]
    with pytest.raises(BrokenPromise, match="h: relative error"):
        exec("\n".join(line.strip() for line in script.splitlines()), {})


@pytest.mark.parametrize("option", [["--batch-first"], ["--without-h0"], ["--map", "W=a"]])
def test_options_of_modules_are_refused_elsewhere(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["conform", "numpy", *option])
    assert exit_.value.code == 2
    assert f"{option[0]}: expected with --torch alone" in capsys.readouterr().err


# JAX


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    "name", ["states", *(pytest.param(name, marks=pytest.mark.slow) for name in ("remat", "mapped"))]
)
def test_an_honest_function_of_jax_is_accepted(name: str) -> None:
    pytest.importorskip("jax", reason="JAX is not installed")
    candidate = functions.jax_candidate(f"of_jax:{name}")
    results = judged(candidate, OF_FRAMEWORKS, "antisymmetric promises T=11 B=4 n=7 m=3 float32")
    assert failures(results) == []
    assert {result.check for result in results} == {"subsets of gradients", "framework state", "compiled and not"}


@pytest.mark.parametrize(
    ("fault", "check", "words"),
    [
        ("b frozen", "subsets of gradients", "gradients of W alone: W: relative error 1.0e+00"),
        ("together", "subsets of gradients", "gradients of W alone: raised AssertionError: the parameters are trained"),
        ("x frozen", "subsets of gradients", "gradients of h0 alone: h0: relative error"),
        ("seed", "framework state", "forward changes the state of numpy.random"),
        ("Python's seed", "framework state", "forward changes the state of random"),
        ("config", "framework state", "forward changes jax.config.jax_default_matmul_precision from None to float32"),
        ("cut", "accuracy", "h: the pass that is differentiated has other states than the pass that is not: h: rel"),
        ("off", "accuracy", "h: the pass that is differentiated has other states"),
        ("last", "accuracy", "h: the pass that is differentiated has other states"),
        ("narrow", "compiled and not", "with jax_enable_x64 off: h: relative error"),
    ],
)
def test_a_function_of_jax_that_is_wrong_in_training_is_rejected(
    fault: str, check: str, words: str, plant: Callable[[str, str], None]
) -> None:
    plant("of_jax", fault)
    candidate = functions.jax_candidate("of_jax:wrong")
    if check == "accuracy":
        results = [certify("jax", case(dtype=np.float32)).run(candidate)]
    else:
        results = judged(candidate, {check}, "antisymmetric promises T=11 B=4 n=7 m=3 float32")
    (detail,) = failures(results)
    assert words in detail
    assert sys.modules["jax"].config.jax_default_matmul_precision is None


@pytest.mark.usefixtures("modules")
def test_a_function_of_jax_is_called_from_outside_any_compilation() -> None:
    pytest.importorskip("jax", reason="JAX is not installed")
    candidate = functions.jax_candidate("of_jax:only_inside")
    results = judged(candidate, {"compiled and not"}, "antisymmetric promises T=11 B=4 n=7 m=3 float64")
    (detail,) = failures(results)
    assert detail.startswith("outside jax.jit: h: relative error")
