"""The host's side of a pass: which kernels, which memory, in which order. The kernels compute.

The steps of backward are cut into *windows*, whose states are computed again where they were not kept, and a window's
sums over steps and samples into *slices*. Slices depend on B alone and are added one by one, the last first, so
``keep_every`` changes no bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from antisymrnn_cupy import _device
from antisymrnn_cupy._instances import FEW_INPUTS, INSTANCES, Instance
from antisymrnn_ref.contract import Array, GatedParameters, Gradients, Parameters, kept_steps

SLICE_ROWS = 512
"""Rows, one for each step and sample, whose outer products are summed together."""

WINDOW_ROWS = 2**17
"""Rows of a window, unless ``keep_every`` needs more."""

PARTS = 2**24
"""Numbers that the slices of a sum take at most before they are added."""

MOST_STEPS, MOST_INPUTS = 2**30, 2**22 - 2
"""T and m at most, for which kernels count in 32 bits and grids are large enough."""

MOST_SLICES = 2**16 - 1
"""Slices of one launch, as CUDA limits grids."""

TILE = 32
"""Samples and units of a tile of the kernels for any n, as in ``_kernels.cu``."""

ALIGNMENT = 64
"""Numbers between the beginnings of two arrays of a workspace, at least."""


class Window(NamedTuple):
    """Steps first … last − 1 of a backward pass, from the kept state of step ``start``."""

    first: int
    last: int
    start: int


def slice_steps(B: int) -> int:
    """Steps of a slice."""
    return max(1, SLICE_ROWS // B)


def windows(T: int, B: int, keep_every: int) -> Iterator[Window]:
    """The windows of a backward pass, the last first; they begin at a slice, just behind a kept state."""
    of_a_slice = slice_steps(B)
    budget = max(1, WINDOW_ROWS // B // of_a_slice) * of_a_slice
    length = keep_every * -(-budget // keep_every)
    firsts = [-(-begin // of_a_slice) * of_a_slice for begin in range(0, T, length)]
    bounds = [*(first for first in firsts if first < T), T]
    for first, last in reversed(list(itertools.pairwise(bounds))):
        yield Window(first, last, first // keep_every * keep_every)


def choose(n: int, dtype: str, device: _device.Device, *, backward: bool, gated: bool, m: int) -> Instance | None:
    """The first instance that holds n units and runs on the device; None for the kernels of any n."""
    for instance in INSTANCES:
        runs = instance.cluster == 1 or device.capability >= _device.CLUSTER_CAPABILITY
        shared = instance.shared_bytes(1, backward=backward, gated=gated, m=m)
        if instance.dtype == dtype and n <= instance.N and runs and shared <= device.shared_bytes:
            return instance
    return None


class Launch(NamedTuple):
    """How a pass over steps is spread; the kernels of any n take no ``columns`` and say their shared memory."""

    kernel: str
    blocks: int
    shared_bytes: int
    columns: int


class _Workspace:
    """One block of device memory for a call, cut into arrays that are declared before it is allocated."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype, self.sizes = dtype, {True: 0, False: 0}
        self.places: dict[str, tuple[bool, int]] = {}
        self.blocks: dict[bool, Array] = {}

    def plan(self, name: str, numbers: int, *, zeros: bool = False) -> None:
        """So many numbers under a name."""
        self.places[name] = zeros, self.sizes[zeros]
        self.sizes[zeros] += -(-numbers // ALIGNMENT) * ALIGNMENT

    def take(self) -> None:
        """Take the memory."""
        for zeros, numbers in self.sizes.items():
            if numbers:
                self.blocks[zeros] = _device.empty((numbers,), self.dtype, zeros=zeros)

    def __getitem__(self, name: str) -> int:
        zeros, at = self.places[name]
        address: int = _device.address(self.blocks[zeros]) + at * self.dtype.itemsize
        return address


class _Pass:
    """One pass: its sizes, its arrays (kept alive until its launches are queued), its launches."""

    def __init__(
        self,
        parameters: Parameters | GatedParameters,
        x: Array,
        *,
        step_size: float,
        diffusion: float,
        keep_every: int,
        unconstrained: bool,
        **others: Array,
    ) -> None:
        self.device = _device.current()
        self.gated, self.dtype = isinstance(parameters, GatedParameters), np.dtype(x.dtype)
        self.T, self.B, self.m = x.shape
        self.n = len(parameters.b)
        self.step_size, self.diffusion, self.unconstrained = step_size, diffusion, unconstrained
        self.keep_every = min(int(keep_every), max(self.T, 1))
        given = {**parameters._asdict(), "x": x, **others}
        _device.check_device(given.items(), self.device)
        for symbol, size, most in (("T", self.T, MOST_STEPS), ("m", self.m, MOST_INPUTS)):
            if size > most:
                raise ValueError(f"x: expected {symbol} <= {most}, got {size}")
        self.cell = "gated" if self.gated else "antisymmetric"
        self.arrays = {name: _device.contiguous(array) for name, array in given.items()}
        self.workspace, self.launches = _Workspace(self.dtype), dict[str, Launch]()
        self.few = self.m <= FEW_INPUTS and self.choose(backward=False) is not None

    def choose(self, *, backward: bool) -> Instance | None:
        """The instance for a pass of this call."""
        return choose(self.n, str(self.dtype), self.device, backward=backward, gated=self.gated, m=self.m)

    def at(self, name: str, numbers: int = 0) -> int:
        """Address of an array, or of a place so many numbers behind its beginning; 0 if it is absent."""
        array, skipped = self.arrays.get(name), numbers * int(self.dtype.itemsize)
        if array is not None:
            return _device.address(array) + skipped
        return self.workspace[name] + skipped if name in self.workspace.places else 0

    def launch(self, kernel: str, grid: tuple[int, int, int], **fields: Any) -> None:
        """Run a kernel beside the steps."""
        _device.launch(f"{kernel}_{self.dtype}", self.device, grid, **fields)

    def over(self, count: int) -> tuple[int, int, int]:
        """A grid of 256 threads a block for so many numbers."""
        return min(-(-count // 256), 32 * self.device.multiprocessors), 1, 1

    def plan_steps(self, steps: int, *directions: str) -> None:
        """Plan the launches over steps, and the memory of their M, of V x + b and of what a grid exchanges."""
        if not self.few:
            for name in ("u", "u_z")[: 1 + self.gated]:
                self.workspace.plan(name, steps * self.B * self.n)
        self.launches = {direction: self.plan_launch(direction) for direction in directions}
        for direction in directions:
            self.workspace.plan(f"M_{direction}", self.n**2)
        if not all(launch.columns for launch in self.launches.values()):
            self.workspace.plan("vectors", 2 * self.B * self.n)
            self.workspace.plan("counter", 16 // self.dtype.itemsize, zeros=True)

    def recurrent_matrix(self, direction: str) -> None:
        """M of a direction, Mᵀ for backward, to the workspace."""
        self.launch(
            "recurrent_matrix",
            self.over(self.n**2),
            W=self.at("W"),
            M=self.at(f"M_{direction}"),
            n=self.n,
            unconstrained=self.unconstrained,
            transposed=direction == "backward",
            diffusion=self.diffusion,
        )

    def multiply(self, P: int, Q: int, R: int, *, slices: int = 1, **fields: Any) -> None:
        """One matrix product, or the slices of one."""
        grid = -(-P // 64), -(-Q // 64), slices
        self.launch("multiply", grid, **{"P": P, "Q": Q, "R": R, "slice": R, **fields})

    def inputs(self, first: int, last: int) -> None:
        """V x + b of some steps, for every sample."""
        x, rows = self.at("x", first * self.B * self.m), (last - first) * self.B
        for suffix in ("", "_z")[: 1 + self.gated]:
            operands = {
                "A": x,
                "B": self.at(f"V{suffix}"),
                "start": self.at(f"b{suffix}"),
                "out": self.at(f"u{suffix}"),
            }
            self.multiply(rows, self.n, self.m, **operands, A_p=self.m, A_r=1, B_r=1, B_q=self.m)

    def plan_launch(self, direction: str) -> Launch:
        """The kernel of a pass, and over how many blocks it is spread."""
        backward = direction == "backward"
        instance, kernel = self.choose(backward=backward), f"{direction}_{self.cell}_"
        if instance is None:
            kernel += f"{self.dtype}_any"
            resident = _device.resident_blocks(kernel, self.device) * self.device.multiprocessors
            if not resident:
                raise RuntimeError(f"{kernel}: expected a grid whose blocks run at the same time, the device runs none")
            tiles = -(-self.B // TILE) * -(-self.n // TILE)
            return Launch(kernel, min(tiles, resident), 0, 0)
        kernel += instance.name
        sized = {"backward": backward, "gated": self.gated, "m": self.m}
        one, two = (instance.shared_bytes(columns, **sized) for columns in (1, 2))
        fit = 1 + (self.device.shared_bytes - one) // (two - one)
        resident = _device.resident_blocks(kernel, self.device, one) * self.device.multiprocessors // instance.cluster
        columns = min(fit, -(-self.B // max(1, resident)))
        return Launch(
            kernel, -(-self.B // columns) * instance.cluster, instance.shared_bytes(columns, **sized), columns
        )

    def steps(self, direction: str, **fields: Any) -> None:
        """The steps of one launch."""
        kernel, blocks, shared_bytes, columns = self.launches[direction]
        sizes = {"B": self.B, "n": self.n, "m": self.m, "columns": columns, "step_size": self.step_size, "h_every": 1}
        places = {"M": self.at(f"M_{direction}"), "vectors": self.at("vectors"), "counter": self.at("counter")}
        _device.launch(kernel, self.device, (blocks, 1, 1), shared_bytes, **{**sizes, **places, **fields})

    def forward_steps(self, first: int, last: int, **fields: Any) -> None:
        """Forward over some steps, from V x + b of these or from x."""
        if self.few:
            weights = {name: self.at(name) for name in ("V", "b", "V_z", "b_z")}
            self.steps("forward", first=first, last=last, x=self.at("x"), **weights, **fields)
        else:
            self.inputs(first, last)
            self.steps("forward", first=first, last=last, u=self.at("u"), u_z=self.at("u_z"), **fields)


def forward(
    parameters: Parameters | GatedParameters, x: Array, h0: Array, keep_every: int, **constants: Any
) -> tuple[Array, Array | None, Array | None]:
    """The kept states, and tanh and the gate of every step, (T, B, n), if every state is kept."""
    call = _Pass(parameters, x, h0=h0, keep_every=keep_every, **constants)
    T, B, n, dtype = call.T, call.B, call.n, call.dtype
    stashed = call.keep_every == 1
    h = _device.empty((len(kept_steps(T, int(keep_every))), B, n), dtype)
    s = _device.empty((T, B, n), dtype) if stashed else None
    z = _device.empty((T, B, n), dtype) if stashed and call.gated else None
    if T == 0:
        _device.copy(h[0], h0)
        return h, s, z
    most = T if call.few else max(1, WINDOW_ROWS // B)  # V x + b of so many steps at a time
    call.plan_steps(min(most, T), "forward")
    call.workspace.plan("carry", 2 * B * n)
    call.workspace.take()
    call.arrays |= {name: array for name, array in (("h", h), ("s", s), ("z", z)) if array is not None}
    call.recurrent_matrix("forward")
    begin = call.at("h0")
    for window, first in enumerate(range(0, T, most)):
        last = min(first + most, T)
        # not over the state that it begins with: another block may not have read it yet
        end = call.at("h", (len(h) - 1) * B * n) if last == T else call.at("carry", window % 2 * B * n)
        call.forward_steps(
            first,
            last,
            h_begin=begin,
            h_end=end,
            h=call.at("h"),
            h_every=call.keep_every,
            s=call.at("s"),
            z=call.at("z"),
        )
        begin = end
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
    stash = {name: array for name, array in (("s", s), ("z", z)) if array is not None}
    call = _Pass(parameters, x, h=h, g=g, keep_every=keep_every, **constants, **stash)
    _check_stash(call)
    T, B, n, dtype = call.T, call.B, call.n, call.dtype
    leaves = type(parameters)(*(_device.empty(leaf.shape, dtype, zeros=True) for leaf in parameters))
    dx = _device.empty(x.shape, dtype) if input_gradient else None
    dh0, dstep_size, ddiffusion = (_device.empty(shape, dtype) for shape in ((B, n), (), ()))
    _device.copy(dh0, g[T] if g.ndim == 3 else g)
    results = {f"d{name}": leaf for name, leaf in leaves._asdict().items()}
    call.arrays |= results | {"adjoint": dh0, "dstep_size": dstep_size, "ddiffusion": ddiffusion}
    if dx is not None:
        call.arrays["dx"] = dx
    cut = list(windows(T, B, call.keep_every))
    _plan_backward(call, cut)
    for direction in call.launches:
        call.recurrent_matrix(direction)
    for window in cut:
        _backward_window(call, window, g.ndim == 3)
    matrices = {"G": call.at("G"), "dW": call.at("dW"), "n": n, "unconstrained": call.unconstrained}
    call.launch("matrix_gradient", call.over(n * n), **matrices)
    sums = {"ddiffusion": ("G", n, n + 1, -1.0), "dstep_size": ("terms", B * n, 1, 1.0)}
    for name, (parts, count, stride, sign) in sums.items():
        told = {"parts": call.at(parts), "totals": call.at(name), "count": count, "stride": stride, "sign": sign}
        call.launch("sum_up", (1, 1, 1), **told)
    return Gradients(leaves, dx, dh0, dstep_size, ddiffusion)


def _check_stash(call: _Pass) -> None:
    """Refuse a trajectory that has lost what :func:`forward` kept of every step."""
    shape = (call.T, call.B, call.n)
    for name in ("s", "z")[: 1 + call.gated] if call.keep_every == 1 else ():
        array, hint = call.arrays.get(name), "; pass what forward returned"
        if array is None or array.dtype != call.dtype:
            got = getattr(array, "dtype", None)
            raise TypeError(f"trajectory.{name}: expected an array of {call.dtype}, got {got}{hint}")
        if array.shape != shape:
            raise ValueError(f"trajectory.{name}: expected {shape}, got {array.shape}{hint}")


def _slices_at_once(call: _Pass, Q: int, slices: int) -> int:
    return max(1, min(slices, MOST_SLICES, PARTS // (call.n * Q)))


def _plan_backward(call: _Pass, cut: list[Window]) -> None:
    """Take the workspace of a backward pass."""
    B, n, plan = call.B, call.n, call.workspace.plan
    longest = max((window.last - window.first for window in cut), default=0)
    again = max((window.last - window.start for window in cut), default=0)
    slices = -(-longest // slice_steps(B))
    plan("terms", B * n, zeros=True)
    plan("G", n * n, zeros=True)
    plan("parts", max(_slices_at_once(call, Q, slices) * n * Q for Q in (n, call.m + 1)))
    for name in ("delta", "delta_z")[: 1 + call.gated]:
        plan(name, longest * B * n)
    if call.keep_every > 1:
        plan("recomputed_h", (longest + 1) * B * n)
        for name in ("recomputed_s", "recomputed_z")[: 1 + call.gated]:
            plan(name, longest * B * n)
        plan("carry", B * n)
        call.plan_steps(again, "forward", "backward")
    else:
        call.plan_steps(0, "backward")
    call.workspace.take()


def _backward_window(call: _Pass, window: Window, g_states: bool) -> None:
    first, last, start = window
    B, n, m = call.B, call.n, call.m
    rows, Bn = (last - first) * B, B * n
    if call.keep_every > 1:
        s, z, s_first = call.at("recomputed_s"), call.at("recomputed_z"), first
        h = call.at("recomputed_h")
        call.forward_steps(
            start,
            last,
            h_begin=call.at("h", start // call.keep_every * Bn),
            h_end=call.at("carry"),
            h=h,
            h_first=first,
            s=s,
            z=z,
            s_first=s_first,
        )
    else:
        h, s, z, s_first = call.at("h", first * Bn), call.at("s"), call.at("z"), 0
    delta, delta_z = call.at("delta"), call.at("delta_z")
    call.steps(
        "backward",
        first=first,
        last=last,
        s=s,
        z=z,
        s_first=s_first,
        g=call.at("g") if g_states else 0,
        adjoint=call.at("adjoint"),
        terms=call.at("terms"),
        delta=delta,
        delta_z=delta_z,
    )
    x = call.at("x", first * B * m)
    _add_sum(call, rows, n, {"A": delta, "A_more": delta_z, "B": h, "B_r": n}, {"totals": call.at("G")})
    for suffix, A in (("", delta), ("_z", delta_z))[: 1 + call.gated]:
        totals = {"totals": call.at(f"dV{suffix}"), "last": call.at(f"db{suffix}")}
        _add_sum(call, rows, m + 1, {"A": A, "B": x, "B_r": m, "ones": 1}, totals)
        dx = call.at("dx", first * B * m)
        if dx:
            operands = {"A": A, "A_p": n, "A_r": 1, "B": call.at(f"V{suffix}"), "B_r": m, "B_q": 1, "out": dx}
            call.multiply(rows, m, n, **operands, accumulates=suffix == "_z")  # (B6) (GB7)


def _add_sum(call: _Pass, rows: int, Q: int, operands: dict[str, int], totals: dict[str, int]) -> None:
    """Add Σ_r A(p, r) B(r, q) over the rows of a window to a total, (n, Q), slice by slice."""
    n, of_a_slice = call.n, slice_steps(call.B) * call.B
    slices = -(-rows // of_a_slice)
    at_once, itemsize = _slices_at_once(call, Q, slices), call.dtype.itemsize
    for end in range(slices, 0, -at_once):
        begin = max(0, end - at_once)
        skipped = begin * of_a_slice
        here = {**operands, "A_p": 1, "A_r": n, "B_q": 1}
        here["A"] += skipped * n * itemsize
        if here.get("A_more"):
            here["A_more"] += skipped * n * itemsize
        here["B"] += skipped * here["B_r"] * itemsize
        R = min(rows, end * of_a_slice) - skipped
        call.multiply(n, Q, R, slices=end - begin, slice=of_a_slice, out=call.at("parts"), **here)
        sums = {"parts": call.at("parts"), "slices": end - begin, "count": n * Q, "across": Q}
        call.launch("add_slices", call.over(n * Q), **sums, **totals)
