"""The net is tested: every known slip, planted in a copy of the specification, fails a check; the honest one passes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from antisymrnn_validation.conformance.check import Result
from antisymrnn_validation.conformance.mistakes.source import EDITS, Edit, edited_specification, specification
from antisymrnn_validation.conformance.plan import iter_checks
from antisymrnn_validation.truth.cases import CELLS
from wrong_backends import likeliest_first


def u(old: str, new: str) -> Edit:
    return Edit("antisymmetric", old, new)


def z(old: str, new: str) -> Edit:
    return Edit("gated", old, new)


KNOWN = {
    f"{name}: {cell}": [edit for edit in edits if edit.cell == cell]
    for name, edits in EDITS.items()
    for cell in CELLS
    if any(edit.cell == cell for edit in edits)
}
"""The mistakes of the catalogue, by their names there, planted in one module at a time."""

WITHOUT_AN_ENTRY: dict[str, list[Edit]] = {
    # wrong numbers
    "mean instead of sum over the batch in dV": [u("delta.T @ x[t]  #", "delta.T @ x[t] / len(h)  #")],
    "mean instead of sum over the batch in dW": [u("G = G + delta.T @ h", "G = G + delta.T @ h / len(h)")],
    "mean instead of sum over the batch in dε": [u("(adjoint * s).sum()", "(adjoint * s).sum() / len(h)")],
    "mean instead of sum over the batch in db, not in db_z": [z("db + delta.sum(axis=0)", "db + delta.mean(axis=0)")],
    "δ not carried back at every fifth step": [
        u("adjoint = adjoint + delta @ M +", "adjoint = adjoint + delta @ M * (t % 5 > 0) +")
    ],
    "first step left out of backward where every state is kept": [
        u("in reversed(range(0, T, k))", "in reversed(range(1 if k == 1 else 0, T, k))")
    ],
    "hard σ, slope 1/4": [z("return 1 / (1 + np.exp(-a))", "return np.clip(a / 4 + 1 / 2, 0, 1)")],
    "M h after the update": [
        z("a_z = h @ M.T", "a_z = (h + step_size * s) @ M.T"),
    ],
    "last step left out": [u("for t in range(T):\n        h, _", "for t in range(T - 1):\n        h, _")],
    "ε fixed": [u("return h + step_size * s, s", "return h + s * s.dtype.type(0.1), s")],
    # right numbers, broken promises
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
"""Slips that the catalogue does not name: variants of its mistakes, and what breaks other promises."""

SLIPS = KNOWN | WITHOUT_AN_ENTRY


def failures(edits: list[Edit]) -> Iterator[Result]:
    checks, backend = likeliest_first(iter_checks("numpy", quick=True)), edited_specification(edits)
    assert len(checks) > 100
    return (result for check in checks if (result := check.run(backend)).status == "failed")


def test_the_honest_copy_is_accepted() -> None:
    assert list(failures([])) == []


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
    assert any(not failure.detail.startswith("raised") for failure in failures(SLIPS[name]))


def test_slips_differ() -> None:
    edits = [frozenset(edit) for edit in SLIPS.values()]
    assert len(edits) == len(set(edits))


def test_what_has_no_entry_has_another_name() -> None:
    assert not WITHOUT_AN_ENTRY.keys() & EDITS.keys()


def test_an_edit_that_the_source_does_not_have_is_refused() -> None:
    for old, count in (("no such line", 0), ("delta", 12)):
        with pytest.raises(ValueError, match=rf"gated.py: expected '{old}' once, got it \d+ times"):
            edited_specification([z(old, "")])
        assert (count > 0) == (old in specification("gated"))
