"""The net is tested: every known slip, planted in a copy of the specification, fails a check; the honest one passes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import antisymrnn_ref
from antisymrnn_validation.conformance.check import Result
from antisymrnn_validation.conformance.plan import iter_checks

SOURCES = {
    cell: (Path(antisymrnn_ref.__file__).parent / f"{cell}.py").read_text(encoding="utf-8")
    for cell in ("antisymmetric", "gated")
}
Edit = tuple[str, str, str]
"""The cell's module, the text there (it occurs exactly once), and the text planted in its place."""


def u(old: str, new: str) -> Edit:
    return "antisymmetric", old, new


def z(old: str, new: str) -> Edit:
    return "gated", old, new


SLIPS: dict[str, list[Edit]] = {
    # backpropagation through time
    "h_t for h_{t-1} in dW": [
        u("segment.append((t, h, extra))", "segment.append((t, h_next, extra))"),
    ],
    "missing transpose in the adjoint": [u("adjoint + delta @ M +", "adjoint + delta @ M.T +")],
    "missing transpose in the adjoint, gated": [z("(delta + delta_z) @ M +", "(delta + delta_z) @ M.T +")],
    "missing cotangent on h_0": [u("return g[t]", "return g[t] if t else 0")],
    "missing cotangent on intermediate states": [u("return g[t]", "return g[t] if t in (0, T) else 0")],
    "last-step-only injection": [u("return g[t]", "return g[t] if t == T else 0")],
    "cotangent of the neighbouring state": [u("return g[t]", "return g[min(t + 1, T)]")],
    "mean instead of sum over the batch in db": [u("delta.sum(axis=0)", "delta.mean(axis=0)")],
    "mean instead of sum over the batch in dV": [u("delta.T @ x[t]  #", "delta.T @ x[t] / len(h)  #")],
    "mean instead of sum over the batch in dW": [u("G = G + delta.T @ h", "G = G + delta.T @ h / len(h)")],
    "mean instead of sum over the batch in dε": [u("(adjoint * s).sum()", "(adjoint * s).sum() / len(h)")],
    "mean instead of sum over the batch, gated": [z("db + delta.sum(axis=0)", "db + delta.mean(axis=0)")],
    "ε missing in δ": [u("delta = step_size * (1 - s**2)", "delta = (1 - s**2)")],
    "ε missing in δ, gated": [z("delta = step_size * z * (1", "delta = z * (1")],
    "ε missing in δ_z": [z("delta_z = step_size * s", "delta_z = s")],
    "1 − a² with a before tanh": [
        u("step_size * s, s  #", "step_size * s, a  #"),
        u("(adjoint * s)", "(adjoint * np.tanh(s))"),
    ],
    "1 − s in place of 1 − s²": [u("(1 - s**2)", "(1 - s)")],
    "derivative of tanh dropped": [u(" * (1 - s**2)", "")],
    "dW = G": [u("G.copy() if unconstrained else G - G.T", "G.copy()")],
    "dW = G + Gᵀ": [u("else G - G.T", "else G + G.T")],
    "dW = Gᵀ − G": [u("else G - G.T", "else G.T - G")],
    "dW = (G − Gᵀ) / 2": [u("else G - G.T", "else (G - G.T) / 2")],
    "dW = G − Gᵀ in the ablation too": [u("G.copy() if unconstrained else G - G.T", "G - G.T")],
    "γ missing in backward": [
        u(
            "recurrent_matrix(W, diffusion, unconstrained)\n    dtype",
            "recurrent_matrix(W, 0, unconstrained)\n    dtype",
        )
    ],
    "γ missing in backward, gated": [
        z(
            "recurrent_matrix(W, diffusion, unconstrained)\n    dtype",
            "recurrent_matrix(W, 0, unconstrained)\n    dtype",
        )
    ],
    "diffusion sign": [u("- diffusion * identity", "+ diffusion * identity")],
    "diffusion sign in dγ": [u("-np.trace(G)", "np.trace(G)")],
    "dγ dropped": [u("-np.trace(G)", "0 * np.trace(G)")],
    "−Mv for Mᵀv, without 2γ": [u("adjoint + delta @ M +", "adjoint - delta @ M.T +")],
    "γ for 2γ in Mᵀv": [u("adjoint + delta @ M +", "adjoint - delta @ M.T - np.asarray(diffusion, dtype) * delta +")],
    "gate derivative without 1 − z": [z("s * z * (1 - z)", "s * z")],
    "gate derivative without z": [z("s * z * (1 - z)", "s * (1 - z)")],
    "gate derivative without s": [z("s * z * (1 - z)", "z * (1 - z)")],
    "gate's δ left out of the adjoint": [z("(delta + delta_z) @ M", "delta @ M")],
    "gate's δ left out of G": [z("(delta + delta_z).T @ h", "delta.T @ h")],
    "gate's δ left out of dx": [z("delta @ V + delta_z @ V_z", "delta @ V")],
    "gate missing in δ": [z("step_size * z * (1 - s**2)", "step_size * (1 - s**2)")],
    "gate missing in dε": [z("(adjoint * z * s)", "(adjoint * s)")],
    "dV and dV_z exchanged": [z("GatedParameters(dW, dV, db, dV_z, db_z)", "GatedParameters(dW, dV_z, db, dV, db_z)")],
    "db and db_z exchanged": [z("GatedParameters(dW, dV, db, dV_z, db_z)", "GatedParameters(dW, dV, db_z, dV_z, db)")],
    "input gradient from the wrong step": [u("dx[t] = delta @ V", "dx[t - 1] = delta @ V")],
    "input gradient from the wrong step, gated": [z("dx[t] = delta @ V", "dx[t - 1] = delta @ V")],
    "input of the wrong step in dV": [u("delta.T @ x[t]  #", "delta.T @ x[t - 1]  #")],
    "h_0 gradient dropped": [u("else None, adjoint,", "else None, 0 * adjoint,")],
    "h_0 gradient one step short": [
        u(
            "adjoint = adjoint + delta @ M + cotangent(g, t, T)",
            "adjoint = adjoint + (delta @ M + cotangent(g, t, T)) * (t > 0)",
        )
    ],
    "dε from the state after the step": [
        u("        dstep_size = dstep_size + (adjoint * s).sum()  # (B7) ()\n", ""),
        u(
            "cotangent(g, t, T)  # (B2) (B, n)\n",
            "cotangent(g, t, T)  # (B2) (B, n)\n        dstep_size = dstep_size + (adjoint * s).sum()\n",
        ),
    ],
    "truncated backpropagation": [
        u("adjoint = adjoint + delta @ M +", "adjoint = adjoint + delta @ M * (t % 5 > 0) +")
    ],
    "first step left out of backward": [
        u("in reversed(range(0, T, k))", "in reversed(range(1 if k == 1 else 0, T, k))")
    ],
    # forward
    "γ subtracted from every entry of M": [u("- diffusion * identity", "- diffusion * np.ones_like(identity)")],
    "γ subtracted from every pre-activation": [
        u("- diffusion * identity", "- 0 * diffusion * identity"),
        u(
            "        h, _ = _step(parameters, M",
            "        h, _ = _step(parameters._replace(b=parameters.b - parameters.b.dtype.type(diffusion)), M",
        ),
        u(
            "in replay(lambda t, h: _step(parameters, M",
            "in replay(lambda t, h: _step(parameters._replace(b=b - b.dtype.type(diffusion)), M",
        ),
    ],
    "the gate computed and the tanh factor dropped": [z("h + step_size * z * s, (s, z)", "h + step_size * z, (s, z)")],
    "tanh dropped": [u("s = np.tanh(a)", "s = a")],
    "tanh dropped, gated": [z("s = np.tanh(a)", "s = a")],
    "residual dropped": [u("return h + step_size * s, s", "return step_size * s, s")],
    "residual dropped, gated": [z("return h + step_size * z * s", "return step_size * z * s")],
    "ε dropped": [u("return h + step_size * s, s", "return h + s, s")],
    "residual and ε dropped": [u("return h + step_size * s, s", "return s, s")],
    "recurrent bias in the candidate but not in the gate": [z("x @ V_z.T + b_z", "x @ V_z.T")],
    "candidate's bias in the gate": [z("x @ V_z.T + b_z", "x @ V_z.T + b")],
    "h @ M in place of M h": [u("a = h @ M.T", "a = h @ M")],
    "h @ M in place of M h, in the gate alone": [z("a_z = h @ M.T", "a_z = h @ M")],
    "W in place of W − Wᵀ": [u("(W if unconstrained else W - W.T)", "W")],
    "(W − Wᵀ) / 2": [u("else W - W.T)", "else (W - W.T) / 2)")],
    "W − Wᵀ in the ablation too": [u("(W if unconstrained else W - W.T)", "(W - W.T)")],
    "W triangular only": [u("else W - W.T)", "else np.triu(W, 1) - np.triu(W, 1).T)")],
    "γ left out of the ablation": [
        u("(W if unconstrained else W - W.T) - diffusion", "W if unconstrained else W - W.T - diffusion")
    ],
    "σ in place of tanh": [u("s = np.tanh(a)", "s = 1 / (1 + np.exp(-a))")],
    "tanh in place of σ": [z("z = sigmoid(a_z)", "z = np.tanh(a_z)")],
    "hard sigmoid": [z("return 1 / (1 + np.exp(-a))", "return np.clip(a / 4 + 1 / 2, 0, 1)")],
    "1 − z in place of z": [z("z = sigmoid(a_z)", "z = 1 - sigmoid(a_z)")],
    "M h after the update": [
        z("a_z = h @ M.T", "a_z = (h + step_size * s) @ M.T"),
    ],
    "input of the wrong step": [
        u("h, _ = _step(parameters, M, x[t], h, step_size)", "h, _ = _step(parameters, M, x[t - 1], h, step_size)")
    ],
    "last step left out": [u("for t in range(T):\n        h, _", "for t in range(T - 1):\n        h, _")],
    "ε fixed": [u("return h + step_size * s, s", "return h + s * s.dtype.type(0.1), s")],
    "h_0 ignored": [u("h = np.ascontiguousarray(h0)  #", "h = 0 * h0  #")],
    # promises
    "float64 returned for float32": [
        u(
            "return Trajectory(np.stack(kept), keep_every,",
            "return Trajectory(np.stack(kept).astype(float), keep_every,",
        )
    ],
    "h_0 handed out": [
        u(
            "return Trajectory(np.stack(kept), keep_every,",
            "return Trajectory(np.stack(kept) if T else h0[None], keep_every,",
        )
    ],
    "cotangent handed out": [
        u("adjoint = np.zeros(trajectory.h.shape[1:], dtype) + cotangent(g, T, T)", "adjoint = cotangent(g, T, T)")
    ],
    "input used as scratch": [
        u("    return Trajectory(np.stack(kept)", "    x[...] = 0\n    return Trajectory(np.stack(kept)")
    ],
    "input written": [u("    T, kept = len(x)", "    x += 1\n    x -= 1\n    T, kept = len(x)")],
    "last state not kept": [u("if t + 1 == T or (t + 1)", "if (t + 1)")],
    "checkpoints not segment by segment": [u("trajectory.h[start // k]", "trajectory.h[start // (k + 1)]")],
    "checkpoints of another layout than h_0": [u("h = np.ascontiguousarray(h0)  #", "h = h0  #")],
    "NaN swallowed": [u("s = np.tanh(a)", "s = np.nan_to_num(np.tanh(a))")],
    "unchecked forward": [u("@checked_forward(Parameters, np.ndarray)\n", "")],
    "unchecked backward": [u("@checked_backward(Parameters, np.ndarray, Trajectory)\n", "")],
    "the trajectory's constants forgotten": [
        u("keep_every, step_size, diffusion, unconstrained)", "keep_every, 0.1, 0.1, False)")
    ],
    "a default step size": [
        u("    h0: Array,\n    *,\n    step_size: float,", "    h0: Array,\n    *,\n    step_size: float = 0.1,")
    ],
    "input gradient always": [u("dx if input_gradient else None", "dx")],
    "scalars not rounded": [
        u(
            "    M = recurrent_matrix(parameters.W, diffusion",
            "    step_size = step_size * (1 + 1e-6)\n    M = recurrent_matrix(parameters.W, diffusion",
        )
    ],
    "batch statistics": [u("parameters.V.T + parameters.b  #", "parameters.V.T + parameters.b + 1e-9 * h.mean()  #")],
    "random bits": [
        u("s = np.tanh(a)", "s = np.tanh(a) * (1 + np.finfo(a.dtype).eps * np.random.default_rng().integers(3))")
    ],
}


def planted(name: str, edits: list[Edit]) -> ModuleType:
    """A backend made of the specification's own source with the edits in it."""
    sources = dict(SOURCES)
    for cell, old, new in edits:
        assert sources[cell].count(old) == 1, f"{name}: {old!r} occurs {sources[cell].count(old)} times in {cell}.py"
        sources[cell] = sources[cell].replace(old, new)
    backend = ModuleType("planted")
    backend.asarray, backend.to_numpy = antisymrnn_ref.asarray, antisymrnn_ref.to_numpy
    sources["gated"] = sources["gated"].replace("from antisymrnn_ref.antisymmetric", "from planted_antisymmetric")
    try:
        for cell, source in sources.items():
            module = sys.modules[f"planted_{cell}"] = ModuleType(f"planted_{cell}")
            exec(compile(source, f"planted {cell}.py ({name})", "exec"), module.__dict__)
            setattr(backend, cell, module)
    finally:
        for cell in sources:
            sys.modules.pop(f"planted_{cell}", None)
    return backend


CHECKS = iter_checks("numpy", quick=True)


def failures(backend: ModuleType) -> Iterator[Result]:
    """One after the other: a test that needs no more of them saves the rest of the checks."""
    return (result for result in (check.run(backend) for check in CHECKS) if result.status == "failed")


def test_the_honest_copy_is_accepted() -> None:
    assert len(CHECKS) > 100
    assert list(failures(planted("honest", []))) == []


def blas_heeds_the_layout() -> bool:
    """Whether a product adds in another order when its operand lies in memory in another way, as some BLAS do."""
    generator = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        for B, n in ((4, 7), (16, 64), (2, 5)):
            h, M = generator.standard_normal((B, n)).astype(dtype), generator.standard_normal((n, n)).astype(dtype)
            wide = np.zeros((2 * B, 2 * n), dtype)
            strided = wide[::-2, ::-2]
            strided[...] = h
            if any((other @ M.T).tobytes() != (h @ M.T).tobytes() for other in (np.asfortranarray(h), strided)):
                return True
    return False


@pytest.mark.parametrize("name", SLIPS)
def test_every_slip_is_caught(name: str) -> None:
    if name == "checkpoints of another layout than h_0" and not blas_heeds_the_layout():
        pytest.skip("with this BLAS the slip changes no bit: its products do not depend on the layout")
    # a slip that only crashes would be no evidence that wrong numbers are seen
    assert any(not failure.detail.startswith("raised") for failure in failures(planted(name, SLIPS[name])))


def test_slips_differ() -> None:
    edits = [tuple(edit) for edit in SLIPS.values()]
    assert len(edits) == len(set(edits))
