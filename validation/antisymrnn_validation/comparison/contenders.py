"""What is compared: backends by name and peers, each made ready for one case.

Peers are the same cell in the ways that people write it, none of which shares a line with a backend:

- ``numpy hoisted``: a NumPy loop that holds the recurrence alone. V x + b of all steps is one product before it, dM and
  dV are one product each after it; its arrays are allocated once.
- ``torch eager``: the loop in PyTorch. The steps come from one ``unbind``: with ``u[t]`` the backward pass is quadratic
  in T.
- ``torch nn.RNN``, beside the ungated cell, and ``torch nn.GRU``, beside the gated one: PyTorch's own layers.
  ``nn.RNN`` has the arithmetic of the ungated cell but is another cell; ``nn.GRU`` is another cell with three recurrent
  products a step.
- ``torch compile``, on a device: the same loop, ``COMPILED_STEPS`` of them at a time compiled by ``torch.compile``.
- ``flashrnn``, on a device: the Elman cell of FlashRNN, which is ``nn.RNN``'s with one bias.
- ``jax scan``: ``jax.jit`` of ``lax.scan``, compiled before it is timed.

Every peer hoists V x + b, and forward returns the last state alone. The libraries are imported when a peer is prepared.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from antisymrnn_ref.contract import Array
from antisymrnn_validation.comparison.timing import Timer, host_clock
from antisymrnn_validation.comparison.workload import Plan
from antisymrnn_validation.truth.cases import Case

LIBRARIES = ("torch", "jax")
"""What ``--peers`` takes."""

COMPILED_STEPS = 28
"""Steps that ``torch.compile`` gets at a time: it unrolls them, and all 784 would take minutes."""


class Prepared(NamedTuple):
    """A contender with the arrays of one case converted.

    Attributes
    ----------
    forward : callable
        The states; a backend keeps them all, a peer returns the last.
    both : callable
        Forward, then the gradients of the parameters of the loss ⟨g, h_T⟩.
    results : callable
        The last state ``h``, (B, n), and the gradients of the parameters by their names, as NumPy arrays.
    """

    forward: Callable[[], Any]
    both: Callable[[], Any]
    results: Callable[[], dict[str, Array]]


class Contender(NamedTuple):
    """Something to compare.

    Attributes
    ----------
    name : str
    kind : str
        ``backend`` or ``peer``.
    prepare : callable
        Takes a case with a loss on the last state alone. On a device its calls may return before the work is done if
        ``timer`` is ``CUDA events``.
    counted_as : str
        Its entry in ``workload.COUNTS``.
    layer : str
        ``RNN`` or ``GRU`` if it is not the paper's cell but this layer of PyTorch.
    backend : module or None
        The module of a backend.
    elapsed : Timer
        What measures its calls on a device.
    timer : str
        ``host clock`` or ``CUDA events``.
    inexact : bool
        It rounds more than its dtype: it is timed although its errors exceed the tolerance, and they are reported.
    small : bool
        Whether a peer has to solve the small case before the timed one.
    patience : float
        Seconds for its checks and first calls.
    needs : float
        Seconds of the budget that must be left for it.
    takes : callable
        Whether it takes part in the contest of a plan.
    """

    name: str
    kind: str
    prepare: Callable[[Case], Prepared]
    counted_as: str
    layer: str = ""
    backend: ModuleType | None = None
    elapsed: Timer = host_clock()
    timer: str = "host clock"
    inexact: bool = False
    small: bool = True
    patience: float = math.inf
    needs: float = 0.0
    takes: Callable[[Plan], bool] = lambda _: True


def prepare_backend(
    backend: ModuleType, case: Case, *, input_gradient: bool = False, keep_every: int = 1, wait: bool = True
) -> Prepared:
    """A backend made ready: every state kept, no dL/dx unless asked for.

    A call ends with a few numbers brought to the host, which waits for a device; without ``wait`` it may return before
    the work is done, as timing by events on the device needs it.
    """
    module = getattr(backend, case.cell)

    def convert(array: Array) -> Array:
        return backend.asarray(array, case.dtype)

    parameters = type(case.parameters)(*map(convert, case.parameters))
    x, h0, g = map(convert, (case.x, case.h0, case.g))

    def forward() -> Any:
        trajectory = module.forward(parameters, x, h0, keep_every=keep_every, **case.arguments)
        if wait:
            backend.to_numpy(trajectory.h[-1])
        return trajectory

    def both() -> Any:
        trajectory = module.forward(parameters, x, h0, keep_every=keep_every, **case.arguments)
        gradients = module.backward(parameters, x, trajectory, g, input_gradient=input_gradient, **case.arguments)
        if wait:
            backend.to_numpy(gradients.diffusion)
        return trajectory, gradients

    def results() -> dict[str, Array]:
        trajectory, gradients = both()
        arrays = {"h": trajectory.h[-1], **gradients.parameters._asdict()}
        return {name: backend.to_numpy(array) for name, array in arrays.items()}

    return Prepared(forward, both, results)


def backend_contender(name: str, backend: ModuleType, cell: str) -> Contender:
    """A backend as a contender."""
    return Contender(name, "backend", lambda case: prepare_backend(backend, case), cell, backend=backend)


def peers(cell: str, libraries: Sequence[str]) -> list[Contender]:
    """The peers of a cell: the NumPy loop always, the others if their library is among ``libraries``."""
    layer = "GRU" if cell == "gated" else "RNN"
    found = [Contender("numpy hoisted", "peer", numpy_hoisted, cell)]
    if "torch" in libraries:
        found += [
            Contender("torch eager", "peer", torch_eager, cell),
            Contender(f"torch nn.{layer}", "peer", functools.partial(torch_layer, layer), f"nn.{layer}", layer),
        ]
    if "jax" in libraries:
        found.append(Contender("jax scan", "peer", jax_scan, cell))
    return found


def numpy_hoisted(case: Case) -> Prepared:
    """The NumPy loop with hoisted products."""
    T, B, m = case.x.shape
    W, *affine = case.parameters
    n, step_size = len(W), case.dtype.type(case.step_size)
    M = recurrent_matrix(W, np.eye(n, dtype=case.dtype), case)
    M_transposed = np.ascontiguousarray(M.T)
    x = case.x.reshape(T * B, m)
    gates = list(zip(affine[::2], affine[1::2], strict=True))
    u = [np.empty((T, B, n), case.dtype) for _ in gates]
    h, s, delta = (np.empty((T + steps, B, n), case.dtype) for steps in (1, 0, 0))
    z, delta_z = (np.empty((T, B, n), case.dtype) for _ in range(2)) if len(gates) == 2 else (None, None)
    product, slope = np.empty((B, n), case.dtype), np.empty((B, n), case.dtype)

    def forward() -> Array:
        for (V, b), each in zip(gates, u, strict=True):
            np.matmul(x, V.T, out=each.reshape(T * B, n))
            np.add(each, b, out=each)
        h[0] = case.h0
        for t in range(T):
            np.matmul(h[t], M_transposed, out=product)
            np.add(product, u[0][t], out=s[t])
            np.tanh(s[t], out=s[t])
            np.multiply(s[t], step_size, out=h[t + 1])
            if z is not None:
                np.add(product, u[1][t], out=z[t])
                np.multiply(z[t], case.dtype.type(0.5), out=z[t])
                np.tanh(z[t], out=z[t])  # σ(a) = (1 + tanh(a / 2)) / 2
                np.add(z[t], 1, out=z[t])
                np.multiply(z[t], case.dtype.type(0.5), out=z[t])
                np.multiply(h[t + 1], z[t], out=h[t + 1])
            np.add(h[t + 1], h[t], out=h[t + 1])
        return h[T]

    def both() -> tuple[Array, list[Array]]:
        forward()
        adjoint = case.g.copy()
        for t in reversed(range(T)):
            np.multiply(adjoint, step_size, out=product)
            np.multiply(s[t], s[t], out=slope)
            np.subtract(1, slope, out=slope)
            np.multiply(product, slope, out=delta[t])
            through = delta[t]
            if z is not None and delta_z is not None:
                np.multiply(delta[t], z[t], out=delta[t])
                np.subtract(1, z[t], out=slope)
                np.multiply(slope, z[t], out=slope)
                np.multiply(slope, s[t], out=slope)
                np.multiply(slope, product, out=delta_z[t])
                through = np.add(delta[t], delta_z[t], out=slope)
            np.matmul(through, M, out=product)
            np.add(adjoint, product, out=adjoint)
        deltas = [each for each in (delta, delta_z) if each is not None]
        summed = [each.reshape(T * B, n) for each in deltas]
        before = h[:T].reshape(T * B, n)
        G = (summed[0] if delta_z is None else summed[0] + summed[1]).T @ before
        gradients = [G if case.unconstrained else G - G.T]
        for each, steps in zip(summed, deltas, strict=True):
            gradients += [each.T @ x, steps.sum(axis=1).sum(axis=0)]  # in two goes: one would lose digits in float32
        return h[T], gradients

    def results() -> dict[str, Array]:
        last, gradients = both()
        return {"h": last.copy(), **dict(zip(case.parameters._fields, gradients, strict=True))}

    return Prepared(forward, both, results)


def torch_eager(case: Case, device: str = "cpu") -> Prepared:
    """The loop in PyTorch, with its automatic gradients."""
    return _torch_loop(case, device, lambda advance: advance, max(1, len(case.x)))


def torch_compiled(case: Case, device: str, compiler: Callable[[Any], Any] | None = None) -> Prepared:
    """The same loop, COMPILED_STEPS at a time compiled by ``torch.compile`` or another compiler."""
    import torch

    return _torch_loop(case, device, compiler or functools.partial(torch.compile, dynamic=False), COMPILED_STEPS)


def _torch_loop(case: Case, device: str, compiler: Callable[[Any], Any], steps: int) -> Prepared:
    import torch

    parameters = [torch.tensor(leaf, device=device).requires_grad_() for leaf in case.parameters]
    last_state = torch_last_state(case, parameters, device, compiler, steps)
    return _differentiated(last_state, parameters, torch.tensor(case.g, device=device), case.parameters._fields)


def torch_last_state(
    case: Case,
    parameters: Sequence[Any],
    device: str = "cpu",
    compiler: Callable[[Any], Any] = lambda advance: advance,
    steps: int | None = None,
) -> Callable[[], Any]:
    """A function that computes h_T of a case from parameters in PyTorch's tensors, ``steps`` at a time."""
    import torch

    T, B, m = case.x.shape
    steps = steps or max(1, T)
    x, h0 = (torch.tensor(array, device=device) for array in (case.x.reshape(T * B, m), case.h0))
    n, step_size = h0.shape[1], float(case.dtype.type(case.step_size))
    identity = torch.eye(n, dtype=h0.dtype, device=device)

    def advance(h: Any, M_transposed: Any, u: Sequence[Sequence[Any]]) -> Any:
        if len(u) == 1:
            for u_t in u[0]:
                h = torch.add(h, torch.tanh(torch.addmm(u_t, h, M_transposed)), alpha=step_size)
            return h
        for u_t, u_z in zip(*u, strict=True):
            product = h @ M_transposed
            h = torch.addcmul(h, torch.sigmoid(product + u_z), torch.tanh(product + u_t), value=step_size)
        return h

    compiled = compiler(advance)

    def last_state() -> Any:
        W, *affine = parameters
        M_transposed = recurrent_matrix(W, identity, case).T
        u = [torch.addmm(b, x, V.T).view(T, B, n).unbind(0) for V, b in zip(affine[::2], affine[1::2], strict=True)]
        h = h0
        for start in range(0, T, steps):
            h = compiled(h, M_transposed, [each[start : start + steps] for each in u])
        return h

    return last_state


def torch_layer(layer: str, case: Case, device: str = "cpu", tf32: bool = False) -> Prepared:
    """PyTorch's ``nn.RNN`` (tanh) or ``nn.GRU`` of the sizes of a case, with :func:`layer_parameters`.

    ``tf32`` says whether cuDNN may round the factors of float32 products; elsewhere it changes nothing.
    """
    import torch

    x, h0, g = (torch.tensor(array, device=device) for array in (case.x, case.h0, case.g))
    n, m = h0.shape[1], x.shape[2]
    module = getattr(torch.nn, layer)(m, n, dtype=x.dtype, device=device)
    with torch.no_grad():
        for name, array in layer_parameters(layer, case).items():
            getattr(module, name).copy_(torch.tensor(array))
    names, parameters = zip(*module.named_parameters(), strict=True)

    def last_state() -> Any:
        torch.backends.cudnn.allow_tf32 = tf32  # one setting for the process: contenders take turns
        return module(x, h0[None])[1][0]

    return _differentiated(last_state, parameters, g, names)


def flash_rnn(case: Case, device: str = "cuda") -> Prepared:
    """The Elman cell of FlashRNN: ``nn.RNN``'s, with the products V x and both biases before it.

    Its fused kernels multiply float32 as TF32.
    """
    import torch
    from flashrnn import flashrnn

    names, arrays = zip(*layer_parameters("RNN", case).items(), strict=True)
    parameters = [torch.tensor(array, device=device).requires_grad_() for array in arrays]
    x, h0, g = (torch.tensor(array, device=device) for array in (case.x, case.h0, case.g))
    T, B, _ = x.shape
    n = h0.shape[1]

    def last_state() -> Any:
        W, U, b, c = parameters
        u = (x @ W.T).transpose(0, 1).reshape(B, T, 1, 1, n)
        bias = (b + c).reshape(1, 1, n)
        dtype = str(x.dtype).removeprefix("torch.")
        states, _ = flashrnn(
            u, U.reshape(1, 1, n, n), bias, states=h0.reshape(1, B, 1, 1, n), function="elman", backend="cuda_fused",
            dtype=dtype,
        )  # fmt: skip
        return states[0][:, -1].reshape(B, n)

    return _differentiated(last_state, parameters, g, names)


def layer_parameters(layer: str, case: Case) -> dict[str, Array]:
    """Parameters of a layer of PyTorch by their names there, drawn as PyTorch does: uniform within ±1/√n."""
    generator = np.random.default_rng(2)
    _, _, m = case.x.shape
    n, gates = case.h0.shape[1], {"RNN": 1, "GRU": 3}[layer]
    sizes = {
        "weight_ih_l0": (gates * n, m),
        "weight_hh_l0": (gates * n, n),
        "bias_ih_l0": (gates * n,),
        "bias_hh_l0": (gates * n,),
    }
    draws = {name: generator.uniform(-1, 1, size) / n**0.5 for name, size in sizes.items()}
    return {name: draw.astype(case.dtype) for name, draw in draws.items()}


def jax_scan(case: Case) -> Prepared:
    """``jax.jit`` of ``lax.scan``; both functions are compiled for the sizes of the case here."""
    import jax

    jax.config.update("jax_enable_x64", True)  # else float64 silently becomes float32
    jax.config.update("jax_default_matmul_precision", "highest")  # else float32 is TF32 on a GPU
    T, B, m = case.x.shape
    n, step_size = case.h0.shape[1], case.dtype.type(case.step_size)
    identity = np.eye(n, dtype=case.dtype)

    def last_state(parameters: Any, x: Any, h0: Any) -> Any:
        W, *affine = parameters
        M = recurrent_matrix(W, identity, case)
        u = [(x @ V.T + b).reshape(T, B, n) for V, b in zip(affine[::2], affine[1::2], strict=True)]

        def step(h: Any, u_t: Any) -> tuple[Any, None]:
            product = h @ M.T
            s = jax.numpy.tanh(product + u_t[0])
            if len(u_t) == 2:
                s = s * jax.nn.sigmoid(product + u_t[1])
            return h + step_size * s, None

        return jax.lax.scan(step, h0, u)[0]

    def with_gradients(parameters: Any, x: Any, h0: Any, g: Any) -> tuple[Any, Any]:
        h, pullback = jax.vjp(lambda leaves: last_state(leaves, x, h0), parameters)
        return h, pullback(g)[0]

    parameters, x, h0, g = jax.device_put((tuple(case.parameters), case.x.reshape(T * B, m), case.h0, case.g))
    run_forward = jax.jit(last_state).lower(parameters, x, h0).compile()
    run_both = jax.jit(with_gradients).lower(parameters, x, h0, g).compile()

    def forward() -> Any:
        return jax.block_until_ready(run_forward(parameters, x, h0))

    def both() -> Any:
        return jax.block_until_ready(run_both(parameters, x, h0, g))

    def results() -> dict[str, Array]:
        last, gradients = both()
        return {"h": np.array(last), **dict(zip(case.parameters._fields, map(np.array, gradients), strict=True))}

    return Prepared(forward, both, results)


def recurrent_matrix(W: Any, identity: Any, case: Case) -> Any:
    """M of a case for the arrays of any library."""
    return (W if case.unconstrained else W - W.T) - float(case.dtype.type(case.diffusion)) * identity


def _differentiated(last_state: Any, parameters: Sequence[Any], g: Any, names: Sequence[str]) -> Prepared:
    """A function of PyTorch's that computes h_T from parameters, and its automatic gradients."""
    import torch

    def forward() -> Any:
        with torch.no_grad():
            return last_state()

    def both() -> tuple[Any, Any]:
        h = last_state()
        return h, torch.autograd.grad(h, parameters, g)

    def results() -> dict[str, Array]:
        h, gradients = both()
        arrays = {"h": h, **dict(zip(names, gradients, strict=True))}
        return {name: array.detach().cpu().numpy().copy() for name, array in arrays.items()}

    return Prepared(forward, both, results)
