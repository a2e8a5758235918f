"""Every kernel there is, as data: what the runtime launches, CI compiles and the harness on the CPU runs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).parent
REAL = {"float32": "float", "float64": "double"}
ITEMSIZE = {"float32": 4, "float64": 8}

ROWS, DEPTH, FEW_INPUTS = 8, 4, 4
"""As in ``_kernels.cu``: rows of M that a thread has a part of; steps whose inputs are under way; inputs up to which
V x is computed in the kernel."""


STRUCTS = {
    "Steps": (
        "M V b V_z b_z x u u_z h_begin h_end h s z g adjoint terms delta delta_z vectors counter",
        "h_first h_every s_first first last B n m columns",
        "step_size",
    ),
    "Product": ("A A_more B start out", "A_p A_r B_r B_q P Q R slice ones accumulates", ""),
    "Matrices": ("W M G dW", "n unconstrained transposed", "diffusion"),
    "Sums": ("parts totals last", "slices count across stride", "sign"),
}
"""The kernels' arguments, in the order of ``_kernels.cu``: addresses, whole numbers, numbers of the dtype."""


@functools.cache
def _layout(argument: str, dtype: str) -> np.dtype[Any]:
    kinds = zip(("u8", "i8", dtype), STRUCTS[argument], strict=True)
    return np.dtype([(name, kind) for kind, names in kinds for name in names.split()], align=True)


class Instance(NamedTuple):
    """How n up to ``N`` units are spread over threads.

    Attributes
    ----------
    dtype : str
    N : int
        Units, those beyond n are zero.
    cluster : int
        Blocks that share the rows of M.
    lanes : int
        Threads that share ``ROWS`` rows.
    held : int
        Terms of each row that a thread holds in registers; the others lie in shared memory.
    """

    dtype: str
    N: int
    cluster: int
    lanes: int
    held: int

    @property
    def name(self) -> str:
        """What its kernels' names end in."""
        return f"{self.dtype}_{self.N}"

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.N // self.cluster // ROWS * self.lanes

    def shared_bytes(self, columns: int, *, backward: bool, gated: bool, m: int) -> int:
        """Shared memory of a block with so many samples."""
        units = self.N // self.cluster
        weights = (self.N // self.lanes - self.held) * ROWS * self.threads
        arrays = 3 if gated else 2
        inputs = FEW_INPUTS if m <= FEW_INPUTS else (arrays - 1) * units
        of_a_sample = (2 + DEPTH * arrays) * units if backward else DEPTH * inputs
        return (weights + columns * (2 * self.N + of_a_sample)) * ITEMSIZE[self.dtype]


INSTANCES = (
    Instance("float32", 32, 1, 8, 4),
    Instance("float32", 64, 1, 8, 8),
    Instance("float32", 96, 1, 8, 12),
    Instance("float32", 128, 1, 8, 16),
    Instance("float32", 192, 1, 8, 24),
    Instance("float32", 256, 1, 8, 20),
    Instance("float32", 384, 4, 16, 24),
    Instance("float32", 512, 8, 32, 16),
    Instance("float64", 32, 1, 8, 4),
    Instance("float64", 64, 1, 8, 8),
    Instance("float64", 96, 1, 16, 6),
    Instance("float64", 128, 1, 16, 8),
    Instance("float64", 160, 1, 16, 4),
    Instance("float64", 256, 4, 32, 8),
    Instance("float64", 512, 8, 32, 8),
)
"""By dtype and ascending N. Beyond the last, and for clusters on devices without them, the grid kernels run."""


class Kernel(NamedTuple):
    """One compiled kernel.

    Attributes
    ----------
    name : str
    argument : str
        Name of the struct it takes, one of ``STRUCTS``.
    call : str
        The C++ function that it is.
    dtype : str
    threads : int
        Threads of a block.
    shared : int
        Numbers of shared memory of a block; 0 where an :class:`Instance` says it.
    cluster : int
        Blocks of a cluster.
    cooperative : bool
        Whether its blocks wait for each other.
    """

    name: str
    argument: str
    call: str
    dtype: str
    threads: int
    shared: int = 0
    cluster: int = 1
    cooperative: bool = False

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block; 0 where an :class:`Instance` says it."""
        return self.shared * ITEMSIZE[self.dtype]

    @property
    def parameter(self) -> str:
        """C++ type of its argument."""
        return f"{self.argument}<{REAL[self.dtype]}>"

    @property
    def layout(self) -> np.dtype[Any]:
        """The same for NumPy."""
        return _layout(self.argument, self.dtype)


PASSES = [
    (direction, cell, gated)
    for direction in ("forward", "backward")
    for cell, gated in (("antisymmetric", "false"), ("gated", "true"))
]


def _of_instance(instance: Instance) -> list[Kernel]:
    dtype, N, cluster, lanes, held = instance
    layout = f"Layout<{REAL[dtype]}, {N}, {cluster}, {lanes}, {held}>"
    return [
        Kernel(
            f"{direction}_{cell}_{instance.name}",
            "Steps",
            f"{direction}_steps<{layout}, {gated}>",
            dtype,
            instance.threads,
            cluster=cluster,
        )
        for direction, cell, gated in PASSES
    ]


def _of_any_n(dtype: str) -> list[Kernel]:
    shared = 2 * 16 * (32 + 4)
    return [
        Kernel(
            f"{direction}_{cell}_{dtype}_any",
            "Steps",
            f"{direction}_any<{REAL[dtype]}, {gated}>",
            dtype,
            128,
            shared,
            cooperative=True,
        )
        for direction, cell, gated in PASSES
    ]


def _beside_the_steps(dtype: str) -> list[Kernel]:
    kernels = [
        ("multiply", "Product", 32 * ITEMSIZE[dtype], 2 * 16 * (64 + 4)),
        ("recurrent_matrix", "Matrices", 256, 0),
        ("matrix_gradient", "Matrices", 256, 0),
        ("add_slices", "Sums", 256, 0),
        ("sum_up", "Sums", 256, 256),
        ("activate", "Sums", 256, 0),
    ]
    return [
        Kernel(f"{name}_{dtype}", argument, f"{name}<{REAL[dtype]}>", dtype, threads, shared)
        for name, argument, threads, shared in kernels
    ]


MODULES = {
    **{dtype: _beside_the_steps(dtype) for dtype in REAL},
    **{f"{dtype}_any": _of_any_n(dtype) for dtype in REAL},
    **{instance.name: _of_instance(instance) for instance in INSTANCES},
}
"""What is compiled together, when it is first needed."""

KERNELS = {kernel.name: (module, kernel) for module, kernels in MODULES.items() for kernel in kernels}
"""Every kernel by its name, with its module."""

OPTIONS = ("-std=c++17", "-fmad=false", "-ftz=true", "--device-as-default-execution-space")
"""Of the compiler: no product and sum is fused unasked. CuPy adds the last two by itself."""


@functools.cache
def _text(name: str) -> str:
    # ASCII: CuPy writes the source in the locale's encoding
    return (HERE / name).read_text(encoding="utf-8").encode("ascii", "replace").decode()


def source(module: str, *, device: bool = True) -> str:
    """CUDA C++ of a module; without ``device`` the harness puts its own words in front."""
    kernels = [
        f'extern "C" __global__ void{f" __cluster_dims__({k.cluster}, 1, 1)" if k.cluster > 1 else ""} '
        f"__launch_bounds__({k.threads}, 1)\n{k.name}(const {k.parameter} call) {{ {k.call}(call); }}\n"
        for k in MODULES[module]
    ]
    return (_text("_device.cuh") if device else "") + _text("_kernels.cu") + "\n" + "".join(kernels)
