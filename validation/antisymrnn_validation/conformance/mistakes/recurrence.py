"""Both cells as one recurrence whose lines are values, so that a deviation can replace one.

A wrong forward pass comes with the right backpropagation *of that wrong pass*, as an implementation with automatic
differentiation would have it: what forward and backward share is one value here. With :class:`Lines` as they are the
recurrence is the paper's cell, and :func:`planted_cell` keeps every promise of the contract. The tags are those of
``antisymrnn_ref/DERIVATION.md``; where the two cells have a line in common, the gated cell's tag stands for both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from antisymrnn_ref import contract
from antisymrnn_ref.contract import Array, Gradients

Arrays = dict[str, Array]
"""States and gradients under the names of :func:`antisymrnn_validation.truth.oracles.named_arrays`."""


class Mix(NamedTuple):
    """M as a sum: ``W`` W + ``transposed`` Wᵀ + γ (``identity`` I + ``ones`` 11ᵀ), with ``part`` of W in place of W."""

    W: float
    transposed: float
    identity: float
    ones: float = 0.0
    part: Callable[[Array], Array] | None = None


CONSTRAINED, ABLATION = Mix(1.0, -1.0, -1.0), Mix(1.0, 0.0, -1.0)


class Activation(NamedTuple):
    """A function applied to every entry, and its slope as a function of argument and value."""

    value: Callable[[Array], Array]
    slope: Callable[[Array, Array], Any]


class Slopes(NamedTuple):
    """Partial derivatives of h_t with respect to h_{t−1}, s_t, z_t, ε and, where it has one, γ."""

    h: Any
    s: Any
    z: Any
    step_size: Any
    diffusion: Any = 0.0


class Step(NamedTuple):
    """What is known of one step, from the state h = h_t to h_{t+1} as in the code of the cells; arrays are (B, n).

    Without a gate z is 1. Backward alone knows ``slopes``, ``adjoint``, that of h_{t+1}, and ``g`` as it was given.
    """

    lines: Lines
    t: int
    T: int
    step_size: Any
    diffusion: Any
    h: Array
    a: Array
    s: Array
    a_z: Array
    z: Any
    h_next: Array = None
    slopes: Slopes = Slopes(0.0, 0.0, 0.0, 0.0)
    adjoint: Array = None
    g: Array = None


class Update(NamedTuple):
    """h_{t+1} of a step, and its slopes."""

    value: Callable[[Step], Array]
    slopes: Callable[[Step], Slopes]


def _same(value: Any) -> Any:
    return value


def arriving(g: Array, t: int, T: int) -> Any:
    """Direct cotangent g_t, (B, n), from those of every state (T+1, B, n) or of the last alone (B, n); 0 for none."""
    if g.ndim == 3:
        return g[t]
    return g if t == T else 0


def _delta(k: Step) -> Array:
    return k.slopes.s * k.lines.candidate.slope(k.a, k.s) * k.adjoint  # (B1) (GB1)


def _delta_z(k: Step) -> Array:
    return k.slopes.z * k.lines.gate.slope(k.a_z, k.z) * k.adjoint  # (GB2)


TANH = Activation(np.tanh, lambda a, s: 1 - s**2)
SIGMOID = Activation(lambda a: 1 / (1 + np.exp(-a)), lambda a, z: z * (1 - z))
EULER = Update(
    lambda k: k.h + k.step_size * k.z * k.s,
    lambda k: Slopes(1.0, k.step_size * k.z, k.step_size * k.s, k.z * k.s),
)


class Lines(NamedTuple):
    """The lines of both passes, as the paper's cell has them. A deviation replaces some.

    Attributes
    ----------
    reads
        The parameters that are used, by name, from those that were given.
    inputs, inputs_gradient
        The inputs that are used, from x, and the transpose of that map's derivative, of dx and x.
    start
        The first state from h_0.
    constants
        The ε and γ that are used.
    matrix
        How M is mixed (F1). Backward changes it by ``replayed`` where it makes the steps again, by ``adjoint_matrix``
        for Mᵀδ (B2) and by ``weights`` for dW and dγ (B8) (B9).
    shift
        Multiple of γ that is added to every pre-activation.
    gate_matrix
        Multiples of M and Mᵀ that the gate uses.
    affine
        Which input weights and bias the candidate and the gate read.
    candidate, gate, update
        (F3), (GF4) and (F4).
    cotangent
        g_t from g, t and T.
    delta, delta_z
        (GB1) and (GB2).
    gate_in
        The sums that δ_z is part of.
    before
        The state that meets δ in dL/dM (B3); ``weight_input`` is the input that meets it in dV (B4).
    residual
        The part of adjoint_{t−1} that goes past the non-linearity; ``arrive`` adds g_{t−1} to all of it (B2).
    counted
        Whether a step's term is part of the named sum.
    summed
        What is summed over the batch, of a step and an array (B, n).
    step_size_term
        (B7), of a step and the adjoint before it.
    total
        Edits the gradients, given B.
    returns
        Edits everything that is returned, given B; of the states alone where only they are.
    """

    reads: Callable[[Arrays], Arrays] = _same
    inputs: Callable[[Array], Array] = _same
    inputs_gradient: Callable[[Array, Array], Array] = lambda dx, x: dx
    start: Callable[[Array], Array] = _same
    constants: Callable[[Any, Any], tuple[Any, Any]] = lambda step_size, diffusion: (step_size, diffusion)
    matrix: Callable[[Mix], Mix] = _same
    shift: float = 0.0
    gate_matrix: tuple[float, float] = (1.0, 0.0)
    affine: tuple[tuple[str, str | None], tuple[str, str | None]] = (("V", "b"), ("V_z", "b_z"))
    candidate: Activation = TANH
    gate: Activation = SIGMOID
    update: Update = EULER
    cotangent: Callable[[Array, int, int], Any] = arriving
    delta: Callable[[Step], Array] = _delta
    delta_z: Callable[[Step], Array] = _delta_z
    gate_in: tuple[str, ...] = ("adjoint", "M", "x")
    before: Callable[[Step], Array] = lambda k: k.h
    weight_input: Callable[[Array, int], Array] = lambda x, t: x[t]
    replayed: Callable[[Mix], Mix] = _same
    adjoint_matrix: Callable[[Mix], Mix] = _same
    residual: Callable[[Step], Array] = lambda k: k.slopes.h * k.adjoint
    arrive: Callable[[Step, Array, Any], Array] = lambda k, carried, g: carried + g
    counted: Callable[[Step, str], bool] = lambda k, name: True
    summed: Callable[[Step, Array], Array] = lambda k, array: array
    step_size_term: Callable[[Step, Array], Array] = lambda k, adjoint_before: k.adjoint * k.slopes.step_size
    weights: Callable[[Mix], Mix] = _same
    total: Callable[[Arrays, int], Arrays] = lambda gradients, B: gradients
    returns: Callable[[Arrays, int], Arrays] = lambda arrays, B: arrays


class Trajectory(NamedTuple):
    """The kept states as they are returned, the constants, and the kept states (K, B, n) in the contract's layout."""

    h: Array
    keep_every: int
    step_size: float
    diffusion: float
    unconstrained: bool
    states: Array


def results(
    lines: Lines,
    parameters: Any,
    x: Array,
    h0: Array,
    g: Array,
    *,
    step_size: Any,
    diffusion: Any,
    unconstrained: bool,
) -> Arrays:
    """States and gradients, of any dtype that NumPy can multiply and take tanh of, before ``lines.returns``."""
    with np.errstate(all="ignore"):
        problem = _problem(lines, parameters, x, step_size, diffusion, unconstrained)
        states = _forward(problem, h0, 1)
        gradients = _backward(problem, states, 1, g, True)
    order = (*parameters._fields, "x", "h0", "step_size", "diffusion")
    return {"h": states, **{name: gradients[name] for name in order}}


def returned(lines: Lines, arrays: Arrays, B: int) -> Arrays:
    """What is returned of results: arrays after ``lines.returns``, of no dimension too."""
    return {name: np.asarray(array) for name, array in lines.returns(arrays, B).items()}


def planted_cell(parameter_type: Any, lines: Lines) -> ModuleType:
    """Module with the contract's ``forward`` and ``backward`` of one cell, with these lines in it.

    Parameters
    ----------
    parameter_type : type
        :class:`~antisymrnn_ref.contract.Parameters` or :class:`~antisymrnn_ref.contract.GatedParameters`.
    lines : Lines
    """

    @contract.checked_forward(parameter_type, np.ndarray)
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
        states = _forward(_problem(lines, parameters, x, step_size, diffusion, unconstrained), h0, keep_every)
        h = returned(lines, {"h": states}, h0.shape[0])["h"]
        return Trajectory(h, keep_every, step_size, diffusion, unconstrained, states)

    @contract.checked_backward(parameter_type, np.ndarray, Trajectory)
    def checked(
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
        problem = _problem(lines, parameters, x, step_size, diffusion, unconstrained)
        gradients = _backward(problem, trajectory.states, int(trajectory.keep_every), g, input_gradient)
        gradients = returned(lines, gradients, x.shape[1])
        leaves = parameter_type(**{name: gradients[name] for name in parameter_type._fields})
        others = [gradients.get(name) for name in ("x", "h0", "step_size", "diffusion")]
        return Gradients(leaves, *others)

    @functools.wraps(checked)
    def backward(parameters: Any, x: Any, trajectory: Any, g: Any, **keywords: Any) -> Gradients:
        if type(trajectory) is Trajectory:  # the checks know the contract's layout alone
            trajectory = trajectory._replace(h=trajectory.states)
        gradients: Gradients = checked(parameters, x, trajectory, g, **keywords)
        return gradients

    module: Any = ModuleType("planted_cell")
    module.forward, module.backward, module.Trajectory = forward, backward, Trajectory
    return module  # type: ignore[no-any-return]


class _Problem(NamedTuple):
    """A call, after the lines that read its arguments."""

    lines: Lines
    leaves: Arrays
    given: Array
    x: Array
    step_size: Any
    diffusion: Any
    mix: Mix
    matrices: tuple[Array, Array]


def _problem(lines: Lines, parameters: Any, x: Array, step_size: Any, diffusion: Any, unconstrained: bool) -> _Problem:
    leaves = {name: np.ascontiguousarray(leaf) for name, leaf in lines.reads(parameters._asdict()).items()}
    step_size, diffusion = lines.constants(step_size, diffusion)
    mix = lines.matrix(ABLATION if unconstrained else CONSTRAINED)
    given = np.ascontiguousarray(x)
    inputs, matrices = np.ascontiguousarray(lines.inputs(given)), _matrices(lines, mix, leaves["W"], diffusion)
    return _Problem(lines, leaves, given, inputs, step_size, diffusion, mix, matrices)


def _forward(problem: _Problem, h0: Array, keep_every: int) -> Array:
    """Kept states, (K, B, n)."""
    h = np.ascontiguousarray(problem.lines.start(h0))
    T, kept = len(problem.x), [h]
    for t in range(T):
        h = _step(problem, t, h).h_next
        if t + 1 == T or (t + 1) % keep_every == 0:
            kept.append(h)
    return np.stack(kept)


def _backward(problem: _Problem, states: Array, keep_every: int, g: Array, input_gradient: bool) -> Arrays:
    """Gradients under the names of the truth, ``x`` left out if it is not asked for."""
    lines, leaves, x = problem.lines, problem.leaves, problem.x
    T, B, _ = x.shape
    replayed, returning = (
        _matrices(lines, change(problem.mix), leaves["W"], problem.diffusion)
        for change in (lines.replayed, lines.adjoint_matrix)
    )
    problem = problem._replace(matrices=replayed)
    transposed = [np.ascontiguousarray(M.T) for M in returning]
    dtype = np.result_type(*leaves.values(), x, states, g, problem.step_size, problem.diffusion)
    adjoint = np.zeros(states.shape[1:], dtype) + lines.cotangent(g, T, T)
    sums = {name: np.zeros(leaf.shape, dtype) for name, leaf in leaves.items()}
    sums["M"] = np.zeros_like(sums["W"])
    sums |= {"step_size": np.zeros((), dtype), "diffusion": np.zeros((), dtype)}
    dx = np.zeros(x.shape, dtype)

    def add(k: Step, name: str | None, term: Array) -> None:
        if name is not None and lines.counted(k, name):
            sums[name] = sums[name] + term

    for t, h in _replayed(problem, states, keep_every):
        k = _step(problem, t, h)
        k = k._replace(adjoint=adjoint, slopes=lines.update.slopes(k), g=g)
        deltas = [lines.delta(k)] + ([lines.delta_z(k)] if "V_z" in leaves else [])  # (GB1) (GB2) (B, n)
        carried = lines.residual(k)
        for gate, (delta, (weights, bias)) in enumerate(zip(deltas, lines.affine, strict=False)):
            counting = lines.summed(k, delta)
            if not gate or "M" in lines.gate_in:
                add(k, "M", _sum_of(_outer(counting, lines.before(k)), *(lines.gate_matrix if gate else (1.0, 0.0))))
            add(k, weights, _outer(counting, lines.weight_input(x, t)))  # (GB5) (n, m)
            add(k, bias, counting.sum(axis=0))  # (GB6) (n,)
            if lines.shift:
                add(k, "diffusion", lines.shift * counting.sum())
            if input_gradient and (not gate or "x" in lines.gate_in) and lines.counted(k, "x"):
                dx[t] = dx[t] + _rows(delta, np.ascontiguousarray(leaves[weights].T))  # (GB7) (B, m)
            if not gate or "adjoint" in lines.gate_in:
                carried = carried + _rows(delta, transposed[gate])
        before = lines.arrive(k, carried, lines.cotangent(g, t, T))  # (GB3) (B, n)
        add(k, "step_size", lines.summed(k, lines.step_size_term(k, before)).sum())  # (GB8) ()
        add(k, "diffusion", lines.summed(k, adjoint * k.slopes.diffusion).sum())
        adjoint = before
    G, mix = sums.pop("M"), lines.weights(problem.mix)
    dW = _sum_of(G, mix.W, mix.transposed)  # (B8) (n, n)
    sums["W"] = dW if mix.part is None else mix.part(dW)
    sums["diffusion"] = sums["diffusion"] + mix.identity * np.trace(G)  # (B9) ()
    if mix.ones:
        sums["diffusion"] = sums["diffusion"] + mix.ones * G.sum()
    gradients = sums | {"h0": adjoint} | ({"x": lines.inputs_gradient(dx, problem.given)} if input_gradient else {})
    return {name: np.asarray(gradient) for name, gradient in lines.total(gradients, B).items()}


def _step(problem: _Problem, t: int, h: Array) -> Step:
    lines, leaves = problem.lines, problem.leaves
    shift = lines.shift * problem.diffusion

    def pre_activation(M: Array, weights: str, bias: str | None) -> Array:
        a = _rows(h, M) + _rows(problem.x[t], leaves[weights])  # (F2) (GF1) (GF3) (B, n)
        a = a if bias is None else a + leaves[bias]
        return a + shift if lines.shift else a

    a = pre_activation(problem.matrices[0], *lines.affine[0])
    s = lines.candidate.value(a)  # (F3) (GF2) (B, n)
    a_z, z = None, 1.0
    if "V_z" in leaves:
        a_z = pre_activation(problem.matrices[1], *lines.affine[1])
        z = lines.gate.value(a_z)  # (GF4) (B, n)
    k = Step(lines, t, len(problem.x), problem.step_size, problem.diffusion, h, a, s, a_z, z)
    return k._replace(h_next=lines.update.value(k))  # (F4) (GF5) (B, n)


def _replayed(problem: _Problem, states: Array, keep_every: int) -> Iterator[tuple[int, Array]]:
    """The steps last first, each with the state before it; one segment is held at a time."""
    for start in reversed(range(0, len(problem.x), keep_every)):
        segment = [states[start // keep_every]]
        for t in range(start, min(start + keep_every, len(problem.x)) - 1):
            segment.append(_step(problem, t, segment[-1]).h_next)
        yield from ((start + index, segment[index]) for index in reversed(range(len(segment))))


def _rows(h: Array, M: Array) -> Array:
    """M h for every row of h: no product of matrices, whose order of summation would depend on the batch."""
    return (h[:, None, :] * M).sum(axis=-1)


def _outer(delta: Array, h: Array) -> Array:
    """Σ δ hᵀ over the batch."""
    return (delta[:, :, None] * h[:, None, :]).sum(axis=0)


def _sum_of(M: Array, plain: float, transposed: float) -> Array:
    """``plain`` M + ``transposed`` Mᵀ; a term with the factor 0 is not formed, for it could be NaN."""
    terms = [factor * A for factor, A in ((plain, M), (transposed, M.T)) if factor]
    return np.ascontiguousarray(sum(terms[1:], terms[0])) if terms else np.zeros_like(M)


def _matrices(lines: Lines, mix: Mix, W: Array, diffusion: Any) -> tuple[Array, Array]:
    """M as the candidate and as the gate use it, (n, n)."""
    M = _sum_of(W if mix.part is None else mix.part(W), mix.W, mix.transposed)
    M = M + mix.identity * diffusion * np.eye(len(W), dtype=W.dtype)  # (F1) (n, n)
    if mix.ones:
        M = M + mix.ones * diffusion
    return M, _sum_of(M, *lines.gate_matrix)
