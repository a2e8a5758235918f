"""Bugs planted in a copy of the CuPy backend, one at a time; each is caught on the CPU, and the honest copy is not."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest

from antisymrnn_ref.contract import Array, kept_steps
from antisymrnn_validation.truth.calls import BrokenPromise, run
from antisymrnn_validation.truth.cases import CELLS, Case, random_case
from antisymrnn_validation.truth.tolerance import measure
from cuda_on_cpu import driver, emulator
from tiers import tiered

GUARD = np.arange(0xFFF80000, 0xFFF80000 + 1024, dtype=np.uint32)
"""Around every array: NaN in both dtypes, none twice, so that a NaN from elsewhere written there shows too."""


class Way(NamedTuple):
    """Kernels to judge: an instance, small but of two warps a block, or none for the grid's."""

    dtype: str
    layout: tuple[int, int, int, int] | None  # N, cluster, lanes, held
    sizes: tuple[int, int, int]  # T, B, n: several blocks, the last not full
    keep_every: int  # no multiple of a slice: some windows begin behind a kept state
    wide: str  # the cell whose m is above 4


WAYS = {
    "block64": Way("float64", (64, 1, 16, 2), (9, 5, 37), 5, "antisymmetric"),
    "block32": Way("float32", (64, 1, 8, 4), (9, 5, 37), 5, "gated"),
    "cluster64": Way("float64", (64, 2, 16, 2), (9, 5, 37), 5, "gated"),
    "cluster32": Way("float32", (64, 2, 16, 4), (9, 5, 37), 5, "antisymmetric"),
    "grid64": Way("float64", None, (5, 33, 33), 3, "antisymmetric"),
    "grid32": Way("float32", None, (5, 33, 33), 3, "gated"),
}
CARD = driver.Card(multiprocessors=3, resident=1)


@functools.cache
def cases(way: Way) -> list[Case]:
    """Of both cells, m > 4 first: there a buffer that is too small is refused before it is written to."""
    sized = [(cell, 6 if cell == way.wide else 3) for cell in CELLS]
    drawn = functools.partial(random_case, step_size=0.3, diffusion=0.2, seed=1, dtype=np.dtype(way.dtype))
    return [drawn(cell, *way.sizes, m) for cell, m in sorted(sized, key=lambda cell: -cell[1])]


def set_up(backend: Any, way: Way) -> None:
    """Put the way's instance in the place of all, and slices of two steps."""
    instances = backend._instances
    backend._host.SLICE_ROWS = 2 * way.sizes[1]
    backend._host.INSTANCES = (instances.Instance(way.dtype, *way.layout),) if way.layout else ()
    kernels = [kernel for instance in backend._host.INSTANCES for kernel in instances._of_instance(instance)]
    for cell in CELLS:  # compiled when it is needed
        of_cell = [kernel for kernel in kernels or instances._of_any_n(way.dtype) if f"_{cell}_" in kernel.name]
        instances.MODULES[cell] = of_cell
        instances.KERNELS.update({kernel.name: (cell, kernel) for kernel in of_cell})


class Guarded:
    """Memory with NaN around it, and in it until it is written."""

    def __init__(self, backend: Any) -> None:
        self.blocks: list[Array] = []
        backend._device.empty = self.empty
        backend._device.cupy.array = self.copy

    def empty(self, shape: Any, dtype: Any, *, zeros: bool = False) -> Array:
        words = int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize // 4
        self.blocks.append(np.concatenate([GUARD, np.full(words, 0 if zeros else 2**32 - 1, np.uint32), GUARD]))
        array: Array = self.blocks[-1][len(GUARD) : len(GUARD) + words].view(dtype).reshape(shape)
        return array

    def copy(self, array: Any, **_: Any) -> Array:
        copied = self.empty(array.shape, array.dtype)
        copied[...] = array
        return copied

    def require_untouched(self) -> None:
        blocks, self.blocks = self.blocks, []
        for block in blocks:
            if not (np.array_equal(block[: len(GUARD)], GUARD) and np.array_equal(block[-len(GUARD) :], GUARD)):
                raise BrokenPromise("written outside")


def require_same(what: str, arrays: dict[str, Array], expected: dict[str, Array]) -> None:
    for name, array in arrays.items():
        if array.tobytes() != expected[name].tobytes():
            raise BrokenPromise(f"{what} changes {name}")


def judge(stand_in: driver.Driver, backend: Any, way: Way) -> str:
    """What is wrong with a backend; empty if nothing is."""
    guarded, host, (T, B, _), keep_every = Guarded(backend), backend._host, way.sizes, way.keep_every
    whole = host.WINDOW_ROWS, host.PARTS

    def arrays_of(case: Case, seed: int, **options: Any) -> dict[str, Array]:
        stand_in.seed = seed
        arrays = run(backend, case, **options)
        guarded.require_untouched()
        return arrays

    try:
        for case in cases(way):
            host.WINDOW_ROWS, host.PARTS = whole
            arrays = arrays_of(case, 0)
            try:
                measure(arrays, case, beside_specification=True)
            except BrokenPromise as broken:
                return f"accuracy: {broken}"
            for seed in (1000, 2000):
                require_same("another schedule", arrays_of(case, seed), arrays)
            for steps in (1, 2):  # small windows, two slices at once
                host.WINDOW_ROWS, host.PARTS = steps * B, 3000
                require_same("a smaller window", arrays_of(case, 3000), arrays)
            kept = {**arrays, "h": arrays["h"][kept_steps(T, keep_every)]}
            require_same("keep_every", arrays_of(case, 4000, keep_every=keep_every), kept)
            one = slice(3, 4)
            alone = case._replace(x=case.x[:, one], h0=case.h0[one], g=case.g[:, one])
            require_same("the rest of the batch", {"h": arrays_of(alone, 0)["h"]}, {"h": arrays["h"][:, one]})
            infinite = case._replace(x=case.x.copy())
            infinite.x[2, 1, 0] = np.inf
            if not np.isfinite(arrays_of(infinite, 0)["h"]).all():  # tanh and the gate saturate
                return "an infinite input is not saturated"
    except BrokenPromise as broken:
        return str(broken)
    except emulator.EmulationError as error:
        return f"emulator: {error}"
    return ""


class Bug(NamedTuple):
    name: str
    way: str
    module: str  # the kernels that are compiled anew, of KERNELS; or the host's module
    honest: str
    planted: str
    found: str


KERNELS = {"steps": ("forward_steps<", "forward_any<"), "beside": ("multiply<",)}

BUGS = [
    Bug(
        "no barrier behind the first inputs",
        "block64",
        "steps",
        "    barrier<L>();\n\n    real *now",
        "    real *now",
        "accuracy",
    ),
    Bug(
        "no barrier behind a step",
        "block64",
        "steps",
        "        barrier<L>();\n    }\n    async_wait<0>();",
        "    }\n    async_wait<0>();",
        "accuracy",
    ),
    Bug(
        "no barrier behind a step back",
        "block64",
        "steps",
        "        barrier<L>();\n        fetch();",
        "        fetch();",
        "accuracy",
    ),
    Bug(
        "no barrier before the first step back",
        "block64",
        "steps",
        "fetch();\n    barrier<L>();\n\n    for (int i",
        "fetch();\n    for (int i",
        "accuracy",
    ),
    Bug("one vector for two", "block64", "steps", "*then = vectors + columns * L::N;", "*then = vectors;", "accuracy"),
    Bug(
        "one vector for two, backward",
        "block32",
        "steps",
        "vectors + i % 2 * columns * L::N;",
        "vectors;",
        "accuracy",
    ),
    Bug(
        "wait one group short",
        "block64",
        "steps",
        "        async_wait<L::DEPTH - 2>();\n        barrier",
        "        async_wait<L::DEPTH - 1>();\n        barrier",
        "accuracy",
    ),
    Bug(
        "wait one group short, backward",
        "block32",
        "steps",
        "        async_wait<L::DEPTH - 2>();\n        const real* own",
        "        async_wait<L::DEPTH - 1>();\n        const real* own",
        "accuracy",
    ),
    Bug(
        "wrong ring slot",
        "block64",
        "steps",
        "ring + i % L::DEPTH * slot;\n        const bool",
        "ring + (i + 1) % L::DEPTH * slot;\n        const bool",
        "accuracy",
    ),
    Bug(
        "a ring of one slot less",
        "block32",
        "steps",
        "for (int i = 0; i < L::DEPTH - 1; ++i) fetch();\n    async_wait",
        "for (int i = 0; i < L::DEPTH; ++i) fetch();\n    async_wait",
        "accuracy",
    ),
    Bug(
        "past the batch",
        "block64",
        "steps",
        "(left < call.columns ? left : call.columns);",
        "(call.columns);",
        "written outside",
    ),
    Bug(
        "divergent barrier",
        "block64",
        "steps",
        "        barrier<L>();\n    }\n    async_wait<0>();",
        "        if (inside) barrier<L>();\n    }\n    async_wait<0>();",
        "emulator",
    ),
    Bug(
        "half a shuffle mask",
        "block64",
        "steps",
        "__shfl_xor_sync(0xffffffffu, sums[r + half], half)",
        "__shfl_xor_sync(0x0000ffffu, sums[r + half], half)",
        "emulator",
    ),
    Bug(
        "a row too many",
        "block64",
        "steps",
        "inside = at.owner && at.j < n, few",
        "inside = at.owner && at.j <= n, few",
        "written outside",
    ),
    Bug("a column too many", "block64", "steps", "return j < n && k < n ?", "return j < n && k <= n ?", "accuracy"),
    Bug(
        "states beyond n",
        "block64",
        "steps",
        "inside ? unit.h : real(0)",
        "unit.h",
        "an infinite input is not saturated",
    ),
    Bug(
        "terms of the other weights",
        "block32",
        "steps",
        "return (i - L::HELD) * (ROWS / L::WIDTH) * L::THREADS",
        "return i % 2 * (ROWS / L::WIDTH) * L::THREADS",
        "accuracy",
    ),
    Bug("x of the first sample for all", "block64", "steps", "x + c * m + k", "x + k", "accuracy"),
    Bug(
        "the last state is not written",
        "block64",
        "steps",
        "if (ends) call.h_end[mine + c * n] = unit.h;",
        "",
        "a smaller window",
    ),
    Bug(
        "kept states off by one",
        "block64",
        "steps",
        "kept = static_cast<int>(ahead <= steps ? ahead : steps + 1)",
        "kept = static_cast<int>(ahead <= steps ? ahead : steps + 1) + (every > 1)",
        "keep_every",
    ),
    Bug(
        "kept from the first state of the window",
        "cluster32",
        "steps",
        "call.h_first + passed * call.h_every - call.first;",
        "(behind < 0 ? 0 : -behind) + passed * call.h_every;",
        "keep_every",
    ),
    Bug(
        "kept tanh of another step",
        "block32",
        "steps",
        "stash = i >= stashes;",
        "stash = i >= stashes + (skipped > 0);",
        "keep_every",
    ),
    Bug(
        "term of ε behind the step",
        "block64",
        "steps",
        "                adjoints[c * L::UNITS] = adjoint;\n",
        "const real *input = own + c * ARRAYS * L::UNITS, z_t = GATED ? input[2 * L::UNITS] : real(0);\n"
        "terms[c * L::UNITS] = add_term<GATED>(adjoint - adjoints[c * L::UNITS], *input, z_t, terms[c * L::UNITS]);\n"
        "adjoints[c * L::UNITS] = adjoint;\n",
        "accuracy",
    ),
    Bug(
        "an entry for its own block alone",
        "cluster64",
        "steps",
        "++rank) peer_store(place, rank, value);",
        "++rank) *place = value;",
        "accuracy",
    ),
    Bug(
        "barrier of the block for the cluster's",
        "cluster64",
        "steps",
        "    if constexpr (L::CLUSTER > 1) return cluster_barrier();\n",
        "",
        "emulator",
    ),
    Bug(
        "barrier of the block behind a step",
        "cluster32",
        "steps",
        "        barrier<L>();\n    }\n    async_wait<0>();",
        "        __syncthreads();\n    }\n    async_wait<0>();",
        "emulator",
    ),
    Bug(
        "no barrier of the grid",
        "grid64",
        "steps",
        "        grid_barrier(call.counter);\n    }\n",
        "    }\n",
        "accuracy",
    ),
    Bug(
        "no barrier of the grid, backward",
        "grid32",
        "steps",
        "        grid_barrier(call.counter);\n        for",
        "        for",
        "accuracy",
    ),
    Bug(
        "grid: one vector for two",
        "grid64",
        "steps",
        "call.vectors + (t - call.first) % 2 * Bn;\n        real* then = call.vectors + (t + 1 - call.first) % 2 * Bn;",
        "call.vectors;\n        real* then = call.vectors;",
        "accuracy",
    ),
    Bug(
        "grid: one vector for two, backward",
        "grid64",
        "steps",
        "call.vectors + (call.last - 1 - t) % 2 * Bn;",
        "call.vectors;",
        "accuracy",
    ),
    Bug(
        "no barrier between tiles of terms",
        "block64",
        "beside",
        "            __syncthreads();\n        }\n    }\n};",
        "        }\n    }\n};",
        "accuracy",
    ),
    Bug(
        "the last term of a slice",
        "block64",
        "beside",
        "begin + r < last ? load_A",
        "begin + r + 1 < last ? load_A",
        "accuracy",
    ),
    Bug(
        "a slice without end",
        "block64",
        "beside",
        "last = first + call.slice < call.R ? first + call.slice : call.R;",
        "last = first + call.slice;",
        "accuracy",
    ),
    Bug(
        "slices first to last",
        "block64",
        "beside",
        "z = call.slices - 1; z >= 0; --z",
        "z = 0; z < call.slices; ++z",
        "a smaller window",
    ),
    Bug(
        "without slice 0",
        "block64",
        "beside",
        "z = call.slices - 1; z >= 0; --z",
        "z = call.slices - 1; z > 0; --z",
        "accuracy",
    ),
    Bug(
        "γ beside the diagonal",
        "block64",
        "beside",
        "j == k ? entry - call.diffusion : entry;",
        "entry - call.diffusion;",
        "accuracy",
    ),
    Bug(
        "no barrier in a sum",
        "block64",
        "beside",
        "shared[thread + half];\n        __syncthreads();",
        "shared[thread + half];",
        "accuracy",
    ),
    Bug(
        "a sum in the order in which threads come",
        "block64",
        "beside",
        "shared[thread] = total;",
        "static unsigned ticket; shared[atomicAdd(&ticket, 1u) % 256] = total;",
        "another schedule",
    ),
    Bug(
        "another order for every second sample",
        "block64",
        "steps",
        "a = fma(V[k], inputs_t[k], a);",
        "a = c % 2 ? fma(V[3 - k], inputs_t[3 - k], a) : fma(V[k], inputs_t[k], a);",
        "the rest of the batch",
    ),
    Bug(
        "M for Mᵀ",
        "cluster32",
        "_host",
        'transposed=direction == "backward",',
        "transposed=False,",
        "accuracy",
    ),
    Bug(
        "grid: a window ends over the state it begins with",
        "grid64",
        "_host",
        'call.at("carry", window % 2 * B * n)',
        'call.at("carry")',
        "a smaller window",
    ),
    Bug("stale terms", "block32", "_host", 'plan("terms", B * n, zeros=True)', 'plan("terms", B * n)', "accuracy"),
    Bug("stale sums", "grid64", "_host", 'plan("G", n * n, zeros=True)', 'plan("G", n * n)', "accuracy"),
    Bug("stale gradients", "block64", "_host", "(leaf.shape, dtype, zeros=True)", "(leaf.shape, dtype)", "accuracy"),
    Bug("the gate's delta for itself", "grid32", "_host", '"A_more": delta_z, ', "", "accuracy"),
    Bug("dx of the gate alone", "block32", "_host", 'accumulates=suffix == "_z"', "accumulates=False", "accuracy"),
    Bug("the first state for every window", "block64", "_host", "        begin = end\n", "", "a smaller window"),
    Bug("recomputed from another state", "block64", "_host", "start // call.keep_every * Bn", "0 * Bn", "keep_every"),
    Bug("a window short of memory", "grid64", "_host", "(longest + 1) * B * n", "longest * B * n", "keep_every"),
    Bug(
        "a sample short of shared memory",
        "block64",
        "_instances",
        "(weights + columns * (2",
        "(weights + (columns - 1) * (2",
        "emulator",
    ),
]


def plant(text: str, bug: Bug) -> str:
    # as the backend writes its kernels for the compiler: ASCII
    honest, planted = (part.encode("ascii", "replace").decode() for part in (bug.honest, bug.planted))
    assert text.count(honest) == 1, "the line to plant the bug in is not there, or twice"
    return text.replace(honest, planted)


def prepare(stand_in: driver.Driver, backend: Any, way: Way, bug: Bug | None) -> None:
    """Plant the bug, if any, and set up the way."""
    if bug and bug.module in KERNELS:
        kernels = KERNELS[bug.module]
        stand_in.edit = lambda text: plant(text, bug) if any(kernel in text for kernel in kernels) else text
    elif bug:
        imported = {f"antisymrnn_cupy.{module}": getattr(backend, module) for module in ("_device", "_instances")}
        module = getattr(backend, bug.module)
        with mock.patch.dict(sys.modules, imported):
            exec(plant(Path(module.__file__).read_text(encoding="utf-8"), bug), module.__dict__)
    set_up(backend, way)


FAST = (
    "no barrier behind a step", "states beyond n", "M for Mᵀ",
    # what no other fast test catches
    "terms of the other weights", "kept from the first state of the window", "kept tanh of another step",
    "an entry for its own block alone", "slices first to last", "another order for every second sample",
    "recomputed from another state",
)  # fmt: skip


@pytest.fixture
def verdict(on_cpu: Any) -> Callable[..., str]:
    def verdict(way: Way, bug: Bug | None = None) -> str:
        stand_in, backend = on_cpu(CARD)
        prepare(stand_in, backend, way, bug)
        return judge(stand_in, backend, way)

    return verdict


@pytest.mark.parametrize("name", tiered(WAYS, lambda name: name == "block32"))
def test_the_honest_copy_passes(name: str, verdict: Callable[..., str]) -> None:
    assert verdict(WAYS[name]) == ""


@pytest.mark.parametrize("bug", tiered(BUGS, lambda bug: bug.name in FAST), ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_planted_bug_is_caught(bug: Bug, verdict: Callable[..., str]) -> None:
    said = verdict(WAYS[bug.way], bug)
    assert said, "not caught"
    assert said.startswith(bug.found), said
