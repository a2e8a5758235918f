"""The host's side of a pass: memory, packing, groups of samples on threads. The kernels compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from antisymrnn_numba import _kernels, _memory, _threads
from antisymrnn_numba._target import TARGET
from antisymrnn_ref.contract import Array, GatedParameters, Gradients, Parameters, kept_steps

STREAMED = 2**22
"""States and stashes of more bytes than this bypass the cache, which would not hold them until backward."""

RING_ROWS = 128
"""Terms of one block of the sums over steps and samples."""

MOST_GROUPS = 64
"""Groups at most; each has sums of its own, as large as the parameters."""


class Plan(NamedTuple):
    """How a batch is cut: by B alone, so that threads change no bit."""

    tile_rows: int
    group_rows: int
    groups: int
    ring_steps: int


def plan(B: int) -> Plan:
    """Tiles of samples that run together, and groups of tiles that share sums and are spread over the threads."""
    most = 16 if B >= 128 else 8 if B >= 16 else (B + 1) // 2 if B >= 4 else B
    tile_rows = -(-B // -(-B // most))
    tiles = -(-B // tile_rows)
    per_group = -(-tiles // MOST_GROUPS)
    return Plan(tile_rows, tile_rows * per_group, -(-tiles // per_group), max(1, RING_ROWS // tile_rows))


class _Pass:
    """One pass: its sizes, its arrays (kept alive until it ends), and the arguments of the kernels."""

    def __init__(
        self,
        parameters: Parameters | GatedParameters,
        x: Array,
        *,
        step_size: float,
        diffusion: float,
        keep_every: int,
        unconstrained: bool,
    ) -> None:
        self.parameters, self.gated, self.dtype = parameters, isinstance(parameters, GatedParameters), x.dtype
        self.T, self.B, self.m = x.shape
        self.n, self.unconstrained = len(parameters.b), unconstrained
        self.step_size, self.diffusion = self.dtype.type(step_size), self.dtype.type(diffusion)
        self.keep_every = min(int(keep_every), max(self.T, 1))
        self.width = 2 * TARGET.vector_bytes // self.dtype.itemsize
        self.columns, self.input_columns = (_kernels.padded(size, self.width) for size in (self.n, self.m))
        self.plan = plan(self.B)
        self.alive: list[Array] = []
        zeros = np.zeros(max(self.columns, self.input_columns), self.dtype)
        self.told: dict[str, int] = {"x": self.address(x), "zeros": self.address(zeros)}

    def address(self, array: Array | None) -> int:
        """Address of an array, or of a copy if it is not contiguous and aligned; 0 for None."""
        if array is None:
            return 0
        if not (array.flags.c_contiguous and array.flags.aligned):
            array = array.copy(order="C")
        self.alive.append(array)
        address: int = array.__array_interface__["data"][0]
        return address

    def check_stash(self, **arrays: Array | None) -> None:
        """Refuse a trajectory that has lost what :func:`forward` kept of every step."""
        shape = (self.T, self.B, self.columns)
        for name, array in arrays.items() if self.keep_every == 1 else ():
            hint = "; pass what forward returned"
            if type(array) is not np.ndarray or array.dtype != self.dtype:
                got = getattr(array, "dtype", type(array).__name__)
                raise TypeError(f"trajectory.{name}: expected an array of {self.dtype}, got {got}{hint}")
            if array.shape != shape:
                raise ValueError(f"trajectory.{name}: expected {shape}, got {array.shape}{hint}")

    def tell(self, **arrays: Array | None) -> None:
        """Addresses for the kernels, by the names of :class:`_kernels.Call`."""
        self.told |= {name: self.address(array) for name, array in arrays.items()}

    def rooms(self, count: int, numbers: int) -> list[int]:
        """Addresses of ``count`` rooms of uninitialised memory, whole cache lines apart."""
        row = _kernels.padded(numbers, _memory.ALIGNMENT // self.dtype.itemsize)
        begin = self.address(_memory.empty((count, row), self.dtype))
        return [begin + room * row * self.dtype.itemsize for room in range(count)]

    def pack_recurrent(self, W: Array, transposed: bool, out: int) -> None:
        """M, or its transpose, in panels."""
        width = _kernels.pack_recurrent(
            self.step_size, self.address(W), self.diffusion, self.unconstrained, transposed, self.n, self.width, out
        )
        if width != self.width:
            raise RuntimeError(f"the kernels have panels of {width}, expected {self.width}; delete Numba's cache")

    def pack_forward(self) -> None:
        """M, V, b and, gated, V_z, b_z for the forward steps."""
        W, V, b, *gate = self.parameters
        recurrent, inputs = self.n * self.columns, self.m * self.columns
        (M,) = self.rooms(1, recurrent)
        self.pack_recurrent(W, False, M)
        self.told["M"] = M
        for name, matrix, bias in (("", V, b), ("_z", *gate))[: 2 if gate else 1]:
            packed_V, packed_b = *self.rooms(1, inputs), *self.rooms(1, self.columns)
            _kernels.pack(self.step_size, self.address(matrix), self.m, self.n, 1, self.m, packed_V)
            _kernels.pack(self.step_size, self.address(bias), 1, self.n, 0, 1, packed_b)
            self.told |= {f"V{name}": packed_V, f"b{name}": packed_b}

    def pack_backward(self, input_gradient: bool) -> None:
        """M and, for the gradient of the inputs, V and V_z for the backward steps."""
        (rows,) = self.rooms(1, self.n * self.columns)
        W, V, _, *gate = self.parameters
        self.pack_recurrent(W, True, rows)
        self.told["M_rows"] = rows
        if input_gradient:
            for name, matrix in (("V_columns", V), ("V_z_columns", *gate[:1]))[: 2 if gate else 1]:
                (packed,) = self.rooms(1, self.n * self.input_columns)
                _kernels.pack(self.step_size, self.address(matrix), self.n, self.m, self.m, 1, packed)
                self.told[name] = packed

    def call(self, **told: int) -> _kernels.Call:
        """The arguments of the kernels."""
        sizes = {
            "gated": int(self.gated),
            "T": self.T,
            "B": self.B,
            "n": self.n,
            "m": self.m,
            "keep_every": self.keep_every,
            "tile_rows": self.plan.tile_rows,
            "ring_steps": self.plan.ring_steps,
        }
        return _kernels.Call(**{**dict.fromkeys(_kernels.Call._fields, 0), **sizes, **self.told, **told})

    def run(
        self, kernel: Callable[..., None], call: _kernels.Call, numbers: int, sums: list[int] | None = None
    ) -> None:
        """Run a kernel on every group of samples, with a scratch of ``numbers`` for each thread."""
        workers = _threads.workers(self.plan.groups)
        scratch, rows = self.rooms(workers, numbers), self.plan.group_rows

        def work(worker: int, group: int) -> None:
            first, last = group * rows, min(self.B, (group + 1) * rows)
            kernel(self.step_size, call, first, last, scratch[worker], *([sums[group]] if sums else []))

        _threads.share(self.plan.groups, workers, work)


def forward(
    parameters: Parameters | GatedParameters, x: Array, h0: Array, keep_every: int, **constants: Any
) -> tuple[Array, Array | None, Array | None]:
    """The kept states, and tanh and the gate of every step, (T, B, padded n), if every state is kept."""
    steps = _Pass(parameters, x, keep_every=keep_every, **constants)
    T, B, n, dtype = steps.T, steps.B, steps.n, x.dtype
    h = _memory.empty((len(kept_steps(T, int(keep_every))), B, n), dtype)
    stashed = steps.keep_every == 1
    s = _memory.empty((T, B, steps.columns), dtype) if stashed else None
    z = _memory.empty((T, B, steps.columns), dtype) if stashed and steps.gated else None
    steps.tell(h0=h0, h=h, s=s, z=z)
    steps.pack_forward()
    call = steps.call(streams=int(stashed and 2 * h.nbytes > STREAMED))
    steps.run(_kernels.forward, call, _kernels.forward_numbers(call, steps.width))
    return h, s, z


def backward(
    parameters: Parameters | GatedParameters,
    x: Array,
    h: Array,
    s: Array | None,
    z: Array | None,
    g: Array,
    keep_every: int,
    input_gradient: bool,
    **constants: Any,
) -> Gradients:
    """The gradients, from what :func:`forward` returned."""
    steps = _Pass(parameters, x, keep_every=keep_every, **constants)
    steps.check_stash(s=s, **({"z": z} if steps.gated else {}))
    dtype = x.dtype
    leaves = type(parameters)(*(_memory.empty(leaf.shape, dtype) for leaf in parameters))
    dx = _memory.empty(x.shape, dtype) if input_gradient else None
    dh0, dstep_size, ddiffusion = (_memory.empty(shape, dtype) for shape in (h.shape[1:], (), ()))
    steps.tell(h=h, s=s, z=z, g=g, dx=dx, dh0=dh0)
    steps.pack_backward(input_gradient)
    if steps.keep_every > 1:
        steps.pack_forward()
    call = steps.call(g_states=int(g.ndim == 3))
    sums = steps.rooms(steps.plan.groups, _kernels.sums_numbers(call, steps.width))
    steps.run(_kernels.backward, call, _kernels.layout(call, steps.width).end, sums)
    results = [*leaves, *([] if steps.gated else [None, None]), dstep_size, ddiffusion]
    addresses = map(steps.address, results)
    apart_by = sums[-1] - sums[-2] if len(sums) > 1 else 0
    _kernels.finish(steps.step_size, call, sums[0], apart_by, len(sums), steps.unconstrained, *addresses)
    return Gradients(leaves, dx, dh0, dstep_size, ddiffusion)
