"""Every known mistake as an edit of the specification's source: the right line and the wrong one.

:data:`EDITS` has one entry for each name in the catalogue. The catalogue plants a mistake in a recurrence of its own;
here it is written as its author would have written it. The two share no line of code, and the tests run one against
the other: the edited specification gives the arrays that the catalogue predicts. Of a mistake in the forward pass, and
of a convention that reads other parameters, only the forward pass is edited, so that only the states agree.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from types import ModuleType
from typing import Any, NamedTuple

from antisymrnn_ref import contract
from antisymrnn_validation.conformance.mistakes.catalogue import CLIPS, TRUNCATIONS
from antisymrnn_validation.truth.cases import CELLS


class Edit(NamedTuple):
    """A text in the source of one cell, where it occurs exactly once, and what a mistake has in its place."""

    cell: str
    right: str
    wrong: str


@functools.cache
def specification(cell: str) -> str:
    """The source of a cell of the specification."""
    return resources.files("antisymrnn_ref").joinpath(f"{cell}.py").read_text(encoding="utf-8")


def applied(edit: Edit, source: str) -> str:
    """The source with the edit in it.

    Raises
    ------
    ValueError
        If the right text does not occur exactly once.
    """
    if (count := source.count(edit.right)) != 1:
        raise ValueError(f"{edit.cell}.py: expected {edit.right!r} once, got it {count} times")
    return source.replace(edit.right, edit.wrong)


def side_by_side(edits: Sequence[Edit]) -> list[Edit]:
    """The same edits as whole lines: those that stand in the specification beside the wrong ones.

    Raises
    ------
    ValueError
        If the specification has no such line.
    """
    found = []
    for cell in CELLS:
        source = specification(cell)
        blocks: dict[tuple[int, int], list[Edit]] = {}
        for edit in (edit for edit in edits if edit.cell == cell):
            applied(edit, source)
            place = source.index(edit.right)
            begin, end = source.rfind("\n", 0, place) + 1, source.find("\n", place + len(edit.right.rstrip("\n")))
            blocks.setdefault((begin, end), []).append(edit)
        for begin, end in sorted(blocks):
            block = f"{source[begin:end]}\n"
            wrong = functools.reduce(lambda text, edit: applied(edit, text), blocks[begin, end], block)
            found.append(Edit(cell, block.rstrip("\n"), wrong.rstrip("\n")))
    return found


def equation(tag: str) -> str:
    """The equation of a tag, as the docstring of its module writes it.

    Raises
    ------
    ValueError
        If no module has it.
    """
    for cell in CELLS:
        if line := re.search(rf"^ +(\S.*?) +\({tag}\)", specification(cell), re.MULTILINE):
            return " ".join(line[1].split())
    raise ValueError(f"tag: expected the tag of an equation, got {tag!r}")


def edited_specification(edits: Sequence[Edit]) -> ModuleType:
    """A backend made of the specification's own source with the edits in it.

    Raises
    ------
    ValueError
        If the specification lacks a text that an edit replaces.
    """
    sources = {cell: specification(cell) for cell in CELLS}
    for edit in edits:
        sources[edit.cell] = applied(edit, sources[edit.cell])
    sources["gated"] = sources["gated"].replace("from antisymrnn_ref.antisymmetric", "from edited_antisymmetric")
    backend: Any = ModuleType("edited specification")
    backend.asarray, backend.to_numpy = contract.asarray, contract.to_numpy
    try:
        for cell, source in sources.items():
            module = sys.modules[f"edited_{cell}"] = ModuleType(f"edited_{cell}")
            exec(compile(source, f"edited {cell}.py", "exec"), module.__dict__)
            setattr(backend, cell, module)
    finally:
        for cell in sources:
            sys.modules.pop(f"edited_{cell}", None)
    return backend  # type: ignore[no-any-return]


def _u(right: str, wrong: str) -> Edit:
    """An edit of equation (12), and of what the two cells share."""
    return Edit("antisymmetric", right, wrong)


def _z(right: str, wrong: str) -> Edit:
    """An edit of equation (13)."""
    return Edit("gated", right, wrong)


def _same(right: str, wrong: str) -> tuple[Edit, Edit]:
    """The same edit of both cells."""
    return _u(right, wrong), _z(right, wrong)


def _returned(W: str = "dW", V: str = "dV", b: str = "db", V_z: str = "dV_z", b_z: str = "db_z") -> tuple[Edit, Edit]:
    """Other gradients of the parameters in the return statements."""
    return (
        _u("Parameters(dW, dV, db)", f"Parameters({W}, {V}, {b})"),
        _z("GatedParameters(dW, dV, db, dV_z, db_z)", f"GatedParameters({W}, {V}, {b}, {V_z}, {b_z})"),
    )


def _states(wrong: str) -> tuple[Edit, Edit]:
    return _same("return Trajectory(np.stack(kept),", f"return Trajectory({wrong},")


def _matrix(wrong: str) -> tuple[Edit]:
    return (_u("(W if unconstrained else W - W.T) - diffusion * identity", wrong),)


def _input(wrong: str) -> tuple[Edit, Edit]:
    return _same("h, _ = _step(parameters, M, x[t], h", f"h, _ = _step(parameters, M, {wrong}, h")


def _update(plain: str, gated: str) -> tuple[Edit, Edit]:
    return (
        _u("return h + step_size * s, s", f"return {plain}, s"),
        _z("return h + step_size * z * s, (s, z)", f"return {gated}, (s, z)"),
    )


def _gated_update(wrong: str) -> tuple[Edit]:
    return (_update("", wrong)[1],)


def _carried(wrong: str) -> tuple[Edit, Edit]:
    """Another line for the adjoint; ``{back}`` stands for the product that goes back through M."""
    return (
        _u("adjoint + delta @ M + cotangent(g, t, T)", wrong.format(back="delta @ M")),
        _z("adjoint + (delta + delta_z) @ M + cotangent(g, t, T)", wrong.format(back="(delta + delta_z) @ M")),
    )


def _cotangent(wrong: str) -> tuple[Edit]:
    return (_u("return g[t]", f"return {wrong}"),)


def _gate_slope(wrong: str) -> tuple[Edit]:
    return (_z("delta_z = step_size * s * z * (1 - z) * adjoint", f"delta_z = {wrong}"),)


def _dV(index: str) -> tuple[Edit, Edit]:
    return (
        _u("dV + delta.T @ x[t]", f"dV + delta.T @ x[{index}]"),
        _z("dV + delta.T @ x[t], dV_z + delta_z.T @ x[t]", f"dV + delta.T @ x[{index}], dV_z + delta_z.T @ x[{index}]"),
    )


def _dW(wrong: str) -> tuple[Edit]:
    return (_u("dW = G.copy() if unconstrained else G - G.T", f"dW = {wrong}"),)


def _dγ(wrong: str) -> tuple[Edit]:
    return (_u("np.asarray(-np.trace(G))", f"np.asarray({wrong})"),)


def _dh0(wrong: str) -> tuple[Edit, Edit]:
    return _u("else None, adjoint,", f"else None, {wrong},"), _z("        adjoint,\n", f"        {wrong},\n")


def _dx(index: str) -> tuple[Edit, Edit]:
    return _same("dx[t] = delta @ V", f"dx[{index}] = delta @ V")


def _before_delta(lines: str) -> tuple[Edit, Edit]:
    """More lines at the top of the loop."""
    return (
        _u("delta = step_size * (1 - s**2)", f"{lines}\n        delta = step_size * (1 - s**2)"),
        _z("delta = step_size * z", f"{lines}\n        delta = step_size * z"),
    )


def _samples(some: str) -> tuple[Edit, ...]:
    """Sums over some of the samples."""
    return (
        _u("G + delta.T @ h", f"G + delta[{some}].T @ h[{some}]"),
        _u("dV + delta.T @ x[t]", f"dV + delta[{some}].T @ x[t, {some}]"),
        _u("db + delta.sum(axis=0)", f"db + delta[{some}].sum(axis=0)"),
        _u("(adjoint * s).sum()", f"(adjoint * s)[{some}].sum()"),
        _z("G + (delta + delta_z).T @ h", f"G + (delta + delta_z)[{some}].T @ h[{some}]"),
        _z(
            "dV + delta.T @ x[t], dV_z + delta_z.T @ x[t]",
            f"dV + delta[{some}].T @ x[t, {some}], dV_z + delta_z[{some}].T @ x[t, {some}]",
        ),
        _z(
            "db + delta.sum(axis=0), db_z + delta_z.sum(axis=0)",
            f"db + delta[{some}].sum(axis=0), db_z + delta_z[{some}].sum(axis=0)",
        ),
        _z("(adjoint * z * s).sum()", f"(adjoint * z * s)[{some}].sum()"),
    )


def _each_returned(wrong: str) -> tuple[Edit, Edit]:
    """Every gradient of the parameters changed alike: ``{d}`` is each of them, ``{all}`` all."""
    return tuple(  # type: ignore[return-value]
        Edit(cell, f"{kind}({every})", f"{kind}(*({wrong.format(d='each', all=every)} for each in ({every})))")
        for cell, kind, every in zip(
            CELLS, ("Parameters", "GatedParameters"), ("dW, dV, db", "dW, dV, db, dV_z, db_z"), strict=True
        )
    )


_DB = (
    _u("db + delta.sum(axis=0)", "db + delta.mean(axis=0)"),
    _z(
        "db + delta.sum(axis=0), db_z + delta_z.sum(axis=0)",
        "db + delta.mean(axis=0), db_z + delta_z.mean(axis=0)",
    ),
)
_DSTEP_SIZE_LINES = (
    "dstep_size = dstep_size + (adjoint * s).sum()  # (B7) ()\n",
    "dstep_size = dstep_size + (adjoint * z * s).sum()  # (GB8) ()\n",
)
_ADJOINT_LINES = (
    "adjoint = adjoint + delta @ M + cotangent(g, t, T)  # (B2) (B, n)\n",
    "adjoint = adjoint + (delta + delta_z) @ M + cotangent(g, t, T)  # (GB3) (B, n)\n",
)

EDITS: Mapping[str, tuple[Edit, ...]] = {
    # conventions
    "row vectors": (*_same(" a = h @ M.T", " a = h @ M"), _z("a_z = h @ M.T", "a_z = h @ M")),
    "W stored transposed": _returned(W="dW.T"),
    "V stored transposed": _returned(V="dV.T", V_z="dV_z.T"),
    "batch first": (
        *_states("np.stack(kept, axis=1)"),
        *_same("dx if input_gradient else None", "dx.swapaxes(0, 1) if input_gradient else None"),
    ),
    "samples in columns": (
        *_states("np.stack([h.T for h in kept])"),
        *_same("dx if input_gradient else None", "dx.swapaxes(1, 2) if input_gradient else None"),
        *_dh0("adjoint.T"),
    ),
    "states without h_0": _states("np.stack(kept[1:])"),
    "dW of the strict upper triangle": _returned(W="np.triu(dW, 1)"),
    "gate and candidate exchanged": (_z("    _, V, b, V_z, b_z = parameters", "    _, V_z, b_z, V, b = parameters"),),
    "gradients of the mean loss": (
        _u("return g[t]", "return g[t] / g.shape[1]"),
        _u("return g if t == T", "return g / g.shape[0] if t == T"),
    ),
    "bias split in two": _returned(b="2 * db", b_z="2 * db_z"),
    # the recurrent matrix
    "γ subtracted from every entry of M": _matrix("(W if unconstrained else W - W.T) - diffusion"),
    "γ subtracted from every pre-activation": (
        *_matrix("(W if unconstrained else W - W.T)"),
        _u("h, _ = _step(parameters, M", "h, _ = _step(parameters._replace(b=parameters.b - diffusion), M"),
        _z(
            "h, _ = _step(parameters, M",
            "shifted = parameters._replace(b=parameters.b - diffusion, b_z=parameters.b_z - diffusion)\n"
            "        h, _ = _step(shifted, M",
        ),
    ),
    "γ of the wrong sign": _matrix("(W if unconstrained else W - W.T) + diffusion * identity"),
    "γ missing": _matrix("(W if unconstrained else W - W.T)"),
    "2γ": _matrix("(W if unconstrained else W - W.T) - 2 * diffusion * identity"),
    "γ left out of the ablation": _matrix("W if unconstrained else W - W.T - diffusion * identity"),
    "W in place of W − Wᵀ": _matrix("W - diffusion * identity"),
    "W − Wᵀ in the ablation too": _matrix("W - W.T - diffusion * identity"),
    "W + Wᵀ": _matrix("(W if unconstrained else W + W.T) - diffusion * identity"),
    "(W − Wᵀ) / 2": _matrix("(W if unconstrained else (W - W.T) / 2) - diffusion * identity"),
    "2W in place of W − Wᵀ": _matrix("(W if unconstrained else 2 * W) - diffusion * identity"),
    "upper triangle of W alone": _matrix(
        "(W if unconstrained else np.triu(W, 1) - np.triu(W, 1).T) - diffusion * identity"
    ),
    "lower triangle of W alone": _matrix(
        "(W if unconstrained else np.tril(W, -1) - np.tril(W, -1).T) - diffusion * identity"
    ),
    "M transposed in the gate alone": (_z("a_z = h @ M.T", "a_z = h @ M"),),
    "M h missing in the gate": (_z("a_z = h @ M.T + x", "a_z = x"),),
    # pre-activations
    "gate bias missing": (_z("x @ V_z.T + b_z", "x @ V_z.T"),),
    "candidate bias missing": (
        _u("x @ parameters.V.T + parameters.b", "x @ parameters.V.T"),
        _z("x @ V.T + b", "x @ V.T"),
    ),
    "candidate's bias in the gate": (_z("x @ V_z.T + b_z", "x @ V_z.T + b"),),
    "candidate's input weights in the gate": (_z("x @ V_z.T", "x @ V.T"),),
    "input of the step before, zero at the end": _input("x[t - 1] if t else 0 * x[0]"),
    "input of the step before, wrapped": _input("x[t - 1]"),
    "input of the step after, zero at the end": _input("x[t + 1] if t + 1 < T else 0 * x[0]"),
    "input of the step after, wrapped": _input("x[(t + 1) % T]"),
    "input of the first step at every step": _input("x[0]"),
    "input of the first sample for every sample": _input("x[t, :1]"),
    "x cast to integers": _input("np.trunc(x[t])"),
    "x read as one-hot": _input("np.eye(x.shape[2], dtype=x.dtype)[x[t].argmax(axis=1)]"),
    **{
        f"x clipped to [{low}, {high}]".replace("-", "−"): _input(f"np.clip(x[t], {low}, {high})")
        for low, high in CLIPS
    },
    "x reshaped instead of transposed": _input("x.reshape(len(h0), T, -1)[:, t]"),
    "V reshaped instead of transposed": (
        _u("x @ parameters.V.T", "x @ parameters.V.reshape(x.shape[1], -1)"),
        _z("x @ V.T", "x @ V.reshape(x.shape[1], -1)"),
        _z("x @ V_z.T", "x @ V_z.reshape(x.shape[1], -1)"),
    ),
    # activations and the update
    "tanh dropped": _same("s = np.tanh(a)", "s = a"),
    "hard tanh": _same("s = np.tanh(a)", "s = np.clip(a, -1, 1)"),
    "σ in place of tanh": _same("s = np.tanh(a)", "s = 1 / (1 + np.exp(-a))"),
    "ReLU in place of tanh": _same("s = np.tanh(a)", "s = np.maximum(a, 0)"),
    "a clipped to [−3, 3]": _same("s = np.tanh(a)", "s = np.tanh(np.clip(a, -3, 3))"),
    "rational tanh": _same("s = np.tanh(a)", "c = np.clip(a, -3, 3)\n    s = c * (27 + c**2) / (27 + 9 * c**2)"),
    "1 − z in place of z": (_z("z = sigmoid(a_z)", "z = 1 - sigmoid(a_z)"),),
    "tanh in place of σ": (_z("z = sigmoid(a_z)", "z = np.tanh(a_z)"),),
    "hard σ, slope 1/5": (_z("z = sigmoid(a_z)", "z = np.clip(a_z / 5 + 1 / 2, 0, 1)"),),
    "hard σ, slope 1/6": (_z("z = sigmoid(a_z)", "z = np.clip(a_z / 6 + 1 / 2, 0, 1)"),),
    "residual dropped": _update("step_size * s", "step_size * z * s"),
    "ε dropped": _update("h + s", "h + z * s"),
    "residual and ε dropped": _update("s", "z * s"),
    "ε applied to h too": _update("step_size * (h + s)", "step_size * (h + z * s)"),
    "leaky update": _update("(1 - step_size) * h + step_size * s", "(1 - step_size) * h + step_size * z * s"),
    "γ outside the tanh too": _same(
        "h, _ = _step(parameters, M, x[t], h, step_size)",
        "h = _step(parameters, M, x[t], h, step_size)[0] - step_size * diffusion * h",
    ),
    "h clipped to [−1, 1]": _update("np.clip(h + step_size * s, -1, 1)", "np.clip(h + step_size * z * s, -1, 1)"),
    "gate computed, tanh dropped": _gated_update("h + step_size * z"),
    "gate dropped": _gated_update("h + step_size * s"),
    "gate on the state": _gated_update("z * h + step_size * s"),
    "GRU's update": _gated_update("(1 - z) * h + z * s"),
    "ε = 1 and γ = 0 whatever is asked": (
        *_same(
            "recurrent_matrix(parameters.W, diffusion, unconstrained)",
            "recurrent_matrix(parameters.W, 0.0, unconstrained)",
        ),
        *_same("h, _ = _step(parameters, M, x[t], h, step_size)", "h, _ = _step(parameters, M, x[t], h, 1.0)"),
    ),
    "h_0 ignored": _same("h = np.ascontiguousarray(h0)", "h = np.zeros_like(h0)"),
    "h_0 of the first sample for every sample": _same(
        "h = np.ascontiguousarray(h0)", "h = np.repeat(h0[:1], len(h0), axis=0)"
    ),
    # δ
    "ε missing in δ": (
        _u("delta = step_size * (1 - s**2)", "delta = (1 - s**2)"),
        _z("delta = step_size * z", "delta = z"),
        _z("delta_z = step_size * s", "delta_z = s"),
    ),
    "ε missing in δ_z": (_z("delta_z = step_size * s", "delta_z = s"),),
    "1 − a² with a before tanh": (
        *_same("(1 - s**2)", "(1 - a**2)"),
        _u("for t, h, s in replay", "for t, h, (s, a) in replay"),
        _u("h + step_size * s, s  #", "h + step_size * s, (s, a)  #"),
        _z("for t, h, (s, z) in replay", "for t, h, (s, z, a) in replay"),
        _z("h + step_size * z * s, (s, z)  #", "h + step_size * z * s, (s, z, a)  #"),
    ),
    "1 − s in place of 1 − s²": _same("(1 - s**2)", "(1 - s)"),
    "derivative of tanh dropped": _same(" * (1 - s**2)", ""),
    "gate missing in δ": (_z("delta = step_size * z * (1", "delta = step_size * (1"),),
    "gate derivative without 1 − z": _gate_slope("step_size * s * z * adjoint"),
    "gate derivative without z": _gate_slope("step_size * s * (1 - z) * adjoint"),
    "gate derivative of tanh": _gate_slope("step_size * s * (1 - z**2) * adjoint"),
    "gate held constant": _gate_slope("np.zeros_like(delta)"),
    "s missing in δ_z": _gate_slope("step_size * z * (1 - z) * adjoint"),
    # the adjoint
    "missing transpose in the adjoint": _carried("adjoint + {back}.T + cotangent(g, t, T)"),
    "γ missing in the adjoint": (
        _u("adjoint + delta @ M +", "adjoint + delta @ recurrent_matrix(W, 0, unconstrained) +"),
        _z("(delta + delta_z) @ M +", "(delta + delta_z) @ recurrent_matrix(W, 0, unconstrained) +"),
    ),
    "γ missing in all of backward": _same(
        "recurrent_matrix(W, diffusion, unconstrained)", "recurrent_matrix(W, 0, unconstrained)"
    ),
    "γ of the wrong sign in the adjoint": _carried("adjoint - {back}.T + cotangent(g, t, T)"),
    "residual missing in the adjoint": _carried("{back} + cotangent(g, t, T)"),
    "gate missing in the adjoint": (_z("(delta + delta_z) @ M", "delta @ M"),),
    "missing cotangent on h_0": _cotangent("g[t] if t else 0"),
    "missing cotangents on intermediate states": _cotangent("g[t] if t in (0, T) else 0"),
    "cotangent injected at the last step only": _cotangent("g[t] if t == T else 0"),
    "missing cotangent on h_T": _same(" + cotangent(g, T, T)", ""),
    "gradients of the mean over the states": _cotangent("g[t] / len(g)"),
    "samples without a cotangent on h_T left out of backward": _cotangent("g[t] * g[T].any(axis=-1, keepdims=True)"),
    "adjoint dropped where a sample has no cotangent": _carried(
        "(adjoint + {back} + cotangent(g, t, T)) * (g.ndim == 2 or g[t].any(axis=1, keepdims=True))"
    ),
    "steps without a cotangent left out of backward": _before_delta(
        "if g.ndim == 3 and not g[t + 1].any():\n            adjoint = adjoint + g[t]\n            continue"
    ),
    "backward ends at a step without a cotangent": _before_delta(
        "if g.ndim == 3 and not g[t + 1].any():\n            break"
    ),
    "adjoint clipped to [−1, 1]": _carried("np.clip(adjoint + {back} + cotangent(g, t, T), -1, 1)"),
    "cotangent of the next state": _cotangent("g[min(t + 1, T)]"),
    **{
        f"backpropagation through the last {f'{k} steps' if k > 1 else 'step'} only": _carried(
            f"(adjoint + {{back}} + cotangent(g, t, T)) * (t > T - {k})"
        )
        for k in TRUNCATIONS
    },
    **{
        f"state detached after every {f'{k} steps' if k > 1 else 'step'}": _carried(
            f"(adjoint + {{back}}) * (t % {k} > 0) + cotangent(g, t, T)"
        )
        for k in TRUNCATIONS
    },
    "first step left out of backward": (
        _u("yield from reversed(segment)", "yield from reversed(segment[start == 0 :])"),
    ),
    "last step left out of backward": (
        _u("yield from reversed(segment)", "yield from (step for step in reversed(segment) if step[0] < T - 1)"),
    ),
    # sums over the steps
    "h_t for h_{t−1} in dW": (_u("segment.append((t, h, extra))", "segment.append((t, h_next, extra))"),),
    "h_1 for h_0 in dW": (_u("segment.append((t, h, extra))", "segment.append((t, h if t else h_next, extra))"),),
    "last sample left out of the sums": _samples(":-1"),
    "sums of the first sample only": _samples(":1"),
    "mean instead of sum over the steps": (
        *_returned("dW / T", "dV / T", "db / T", "dV_z / T", "db_z / T"),
        _u("np.asarray(dstep_size), ddiffusion", "np.asarray(dstep_size / T), np.asarray(ddiffusion / T)"),
        _z(
            "np.asarray(dstep_size),\n        ddiffusion",
            "np.asarray(dstep_size / T),\n        np.asarray(ddiffusion / T)",
        ),
    ),
    "gate missing in dW": (_z("(delta + delta_z).T @ h", "delta.T @ h"),),
    "gate missing in dx": (_z("delta @ V + delta_z @ V_z", "delta @ V"),),
    "input of the step before in dV": _dV("t - 1"),
    "input of the step after in dV": _dV("(t + 1) % T"),
    "db of the last step only": (
        _u("db + delta.sum(axis=0)", "db + delta.sum(axis=0) * (t == T - 1)"),
        _z(
            "db + delta.sum(axis=0), db_z + delta_z.sum(axis=0)",
            "db + delta.sum(axis=0) * (t == T - 1), db_z + delta_z.sum(axis=0) * (t == T - 1)",
        ),
    ),
    "db of the first step only": (
        _u("db + delta.sum(axis=0)", "delta.sum(axis=0)"),
        _z("db + delta.sum(axis=0), db_z + delta_z.sum(axis=0)", "delta.sum(axis=0), delta_z.sum(axis=0)"),
    ),
    "dV of the last step only": (
        _u("dV + delta.T @ x[t]", "dV + delta.T @ x[t] * (t == T - 1)"),
        _z(
            "dV + delta.T @ x[t], dV_z + delta_z.T @ x[t]",
            "dV + delta.T @ x[t] * (t == T - 1), dV_z + delta_z.T @ x[t] * (t == T - 1)",
        ),
    ),
    "dV of the first step only": (
        _u("dV + delta.T @ x[t]", "delta.T @ x[t]"),
        _z("dV + delta.T @ x[t], dV_z + delta_z.T @ x[t]", "delta.T @ x[t], delta_z.T @ x[t]"),
    ),
    "dW of the last step only": (
        _u("G + delta.T @ h", "G + delta.T @ h * (t == T - 1)"),
        _z("G + (delta + delta_z).T @ h", "G + (delta + delta_z).T @ h * (t == T - 1)"),
    ),
    "dW of the first step only": (
        _u("G + delta.T @ h", "delta.T @ h"),
        _z("G + (delta + delta_z).T @ h", "(delta + delta_z).T @ h"),
    ),
    "dε missing": _same("np.asarray(dstep_size)", "np.zeros_like(dstep_size)"),
    "dε from the adjoint before the step": tuple(
        Edit(cell, f"{sum_}        {adjoint}", f"{adjoint}        {sum_}")
        for cell, sum_, adjoint in zip(CELLS, _DSTEP_SIZE_LINES, _ADJOINT_LINES, strict=True)
    ),
    "gate missing in dε": (_z("(adjoint * z * s)", "(adjoint * s)"),),
    # what is returned
    "dW = G": _dW("G.copy()"),
    "dW = Gᵀ − G": _dW("G.copy() if unconstrained else G.T - G"),
    "dW = (G − Gᵀ) / 2": _dW("G.copy() if unconstrained else (G - G.T) / 2"),
    "dW = G + Gᵀ": _dW("G.copy() if unconstrained else G + G.T"),
    "dW = G − Gᵀ in the ablation too": _dW("G - G.T"),
    "dγ of the wrong sign": _dγ("np.trace(G)"),
    "dγ missing": _dγ("0 * np.trace(G)"),
    "mean instead of sum over the batch": (
        _u("G + delta.T @ h", "G + delta.T @ h / len(h)"),
        _u("dV + delta.T @ x[t]", "dV + delta.T @ x[t] / len(h)"),
        _DB[0],
        _u("(adjoint * s).sum()", "(adjoint * s).sum() / len(h)"),
        _z("G + (delta + delta_z).T @ h", "G + (delta + delta_z).T @ h / len(h)"),
        _z(
            "dV + delta.T @ x[t], dV_z + delta_z.T @ x[t]",
            "dV + delta.T @ x[t] / len(h), dV_z + delta_z.T @ x[t] / len(h)",
        ),
        _DB[1],
        _z("(adjoint * z * s).sum()", "(adjoint * z * s).sum() / len(h)"),
    ),
    "mean instead of sum over the batch in db": _DB,
    "gradients of the parameters clipped to [−1, 1]": _each_returned("np.clip({d}, -1, 1)"),
    "gradients of the parameters scaled to norm 1": _each_returned(
        "{d} / max(1, np.sqrt(sum((d**2).sum() for d in ({all}))) + 1e-6)"
    ),
    "dx of the step before, zero at the end": _dx("t + 1 : t + 2"),
    "dx of the step before, wrapped": _dx("(t + 1) % T"),
    "dx of the step after, zero at the end": _dx("t - 1 : t"),
    "dx of the step after, wrapped": _dx("t - 1"),
    "dh_0 missing": _dh0("np.zeros_like(adjoint)"),
    "dh_0 = g_0": _dh0("0 * adjoint + cotangent(g, 0, T)"),
    "dh_0 = adjoint_1": _carried("adjoint + ({back} + cotangent(g, t, T)) * (t > 0)"),
    "db_z equal to db": _returned(b_z="db")[1:],
    "dV_z equal to dV": _returned(V_z="dV")[1:],
    "db and db_z exchanged": _returned(b="db_z", b_z="db")[1:],
    "dV and dV_z exchanged": _returned(V="dV_z", V_z="dV")[1:],
}
"""By the name of a mistake: its edits. Edits of what the cells share stand under equation (12)."""
