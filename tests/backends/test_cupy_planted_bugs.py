"""Bugs planted in a copy of the CuPy backend, one at a time; each is caught on the CPU, and the honest copy is not."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from antisymrnn_ref.contract import Array, kept_steps
from antisymrnn_validation.conformance.cases import Case, random_case
from antisymrnn_validation.conformance.checks import BrokenPromise, measure, run
from cuda_on_cpu import driver, emulator

GUARD = np.arange(0xFFF80000, 0xFFF80000 + 1024, dtype=np.uint32)
"""Around every array: NaN in both dtypes, none twice, so that a NaN from elsewhere written there shows too."""


class Way(NamedTuple):
    """Kernels to judge: an instance of 64 units, small and with two warps a block, or none for the grid's."""

    dtype: str
    layout: tuple[int, int, int] | None  # cluster, lanes, held
    sizes: tuple[int, int, int]  # T, B, n: several blocks, the last not full
    keep_every: int  # no multiple of a slice: some windows begin behind a kept state
    wide: str  # the cell whose m is above 4


WAYS = {
    "block64": Way("float64", (1, 16, 2), (9, 5, 37), 5, "antisymmetric"),
    "block32": Way("float32", (1, 8, 4), (9, 5, 37), 5, "gated"),
    "cluster64": Way("float64", (2, 16, 2), (9, 5, 37), 5, "gated"),
    "cluster32": Way("float32", (2, 16, 4), (9, 5, 37), 5, "antisymmetric"),
    "grid64": Way("float64", None, (5, 33, 33), 3, "antisymmetric"),
    "grid32": Way("float32", None, (5, 33, 33), 3, "gated"),
}
CARD = driver.Card(multiprocessors=3, resident=1)


@functools.cache
def cases(name: str) -> list[Case]:
    """Of both cells, m > 4 first: there a buffer that is too small is refused before it is written to."""
    way = WAYS[name]
    sized = [(cell, 6 if cell == way.wide else 3) for cell in ("antisymmetric", "gated")]
    drawn = functools.partial(random_case, step_size=0.3, diffusion=0.2, seed=1, dtype=np.dtype(way.dtype))
    return [drawn(cell, *way.sizes, m) for cell, m in sorted(sized, key=lambda cell: -cell[1])]


def set_up(backend: Any, name: str) -> None:
    """Put the way's instance in the place of all, and slices of two steps."""
    way, instances = WAYS[name], backend._instances
    backend._host.SLICE_ROWS = 2 * way.sizes[1]
    backend._host.INSTANCES = ()
    if way.layout:
        instance = instances.Instance(way.dtype, 64, *way.layout)
        backend._host.INSTANCES = (instance,)
        instances.MODULES[instance.name] = kernels = instances._of_instance(instance)
        instances.KERNELS.update({kernel.name: (instance.name, kernel) for kernel in kernels})


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


def judge(stand_in: driver.Driver, backend: Any, name: str) -> str:
    """What is wrong with a backend; empty if nothing is."""
    guarded, host, (T, B, _), keep_every = Guarded(backend), backend._host, WAYS[name].sizes, WAYS[name].keep_every
    whole = host.WINDOW_ROWS, host.PARTS

    def arrays_of(case: Case, seed: int, **options: Any) -> dict[str, Array]:
        stand_in.seed = seed
        arrays = run(backend, case, **options)
        guarded.require_untouched()
        return arrays

    try:
        for case in cases(name):
            host.WINDOW_ROWS, host.PARTS = whole
            arrays = arrays_of(case, 0)
            try:
                measure(arrays, case, beside_specification=True)
            except BrokenPromise as broken:
                return f"accuracy: {broken}"
            for seed in (1000, 2000):
                require_same("another schedule", arrays_of(case, seed), arrays)
            host.WINDOW_ROWS, host.PARTS = 2 * B, 3000  # small windows, two slices at once
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
    module: str  # "steps" and "beside": the kernels of these; or the host's module
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
        "?",
    ),
    Bug(
        "no barrier behind a step",
        "block64",
        "steps",
        "        barrier<L>();\n    }\n    async_wait<0>();",
        "    }\n    async_wait<0>();",
        "?",
    ),
    Bug(
        "no barrier behind a step back",
        "block64",
        "steps",
        "        barrier<L>();\n        fetch();",
        "        fetch();",
        "?",
    ),
    Bug(
        "no barrier before the first step back",
        "block32",
        "steps",
        "fetch();\n    barrier<L>();\n\n    for (int i",
        "fetch();\n    for (int i",
        "?",
    ),
    Bug(
        "one vector for two",
        "block64",
        "steps",
        "*then = vectors + columns * L::N;",
        "*then = vectors;",
        "?",
    ),
    Bug(
        "one vector for two, backward",
        "block32",
        "steps",
        "vectors + i % 2 * columns * L::N;",
        "vectors;",
        "?",
    ),
    Bug(
        "wait one group short",
        "block64",
        "steps",
        "        async_wait<L::DEPTH - 2>();\n        barrier",
        "        async_wait<L::DEPTH - 1>();\n        barrier",
        "?",
    ),
    Bug(
        "wait one group short, backward",
        "block32",
        "steps",
        "        async_wait<L::DEPTH - 2>();\n        const real* own",
        "        async_wait<L::DEPTH - 1>();\n        const real* own",
        "?",
    ),
    Bug(
        "wrong ring slot",
        "block64",
        "steps",
        "ring + i % L::DEPTH * slot;\n        const bool",
        "ring + (i + 1) % L::DEPTH * slot;\n        const bool",
        "?",
    ),
    Bug(
        "a ring of one slot less",
        "block32",
        "steps",
        "for (int i = 0; i < L::DEPTH - 1; ++i) fetch();\n    async_wait",
        "for (int i = 0; i < L::DEPTH; ++i) fetch();\n    async_wait",
        "?",
    ),
    Bug(
        "past the batch",
        "block64",
        "steps",
        "(left < call.columns ? left : call.columns);",
        "(call.columns);",
        "?",
    ),
    Bug(
        "divergent barrier",
        "block64",
        "steps",
        "        barrier<L>();\n    }\n    async_wait<0>();",
        "        if (inside) barrier<L>();\n    }\n    async_wait<0>();",
        "?",
    ),
    Bug(
        "half a shuffle mask",
        "block64",
        "steps",
        "__shfl_xor_sync(0xffffffffu, sums[r + half], half)",
        "__shfl_xor_sync(0x0000ffffu, sums[r + half], half)",
        "?",
    ),
    Bug(
        "a sum of half the lanes",
        "cluster64",
        "steps",
        "apart < L::LANES; apart *= 2",
        "apart < L::LANES / 2; apart *= 2",
        "?",
    ),
    Bug(
        "a row too many",
        "block64",
        "steps",
        "inside = at.owner && at.j < n, few",
        "inside = at.owner && at.j <= n, few",
        "?",
    ),
    Bug(
        "a row too many, backward",
        "block32",
        "steps",
        "inside = at.owner && at.j < n, g_states",
        "inside = at.owner && at.j <= n, g_states",
        "?",
    ),
    Bug(
        "a column too many",
        "block64",
        "steps",
        "return j < n && k < n ?",
        "return j < n && k <= n ?",
        "?",
    ),
    Bug(
        "states beyond n",
        "block64",
        "steps",
        "inside ? unit.h : real(0)",
        "unit.h",
        "?",
    ),
    Bug(
        "terms of the other weights",
        "block32",
        "steps",
        "return (i - L::HELD) * (ROWS / L::WIDTH) * L::THREADS",
        "return i % 2 * (ROWS / L::WIDTH) * L::THREADS",
        "?",
    ),
    Bug(
        "x of the first sample for all",
        "block64",
        "steps",
        "x + c * m + k",
        "x + k",
        "?",
    ),
    Bug(
        "the last state is not written",
        "block64",
        "steps",
        "if (ends) call.h_end[mine + c * n] = unit.h;",
        "",
        "?",
    ),
    Bug(
        "kept states off by one",
        "block64",
        "steps",
        "kept = static_cast<int>(ahead <= steps ? ahead : steps + 1)",
        "kept = static_cast<int>(ahead <= steps ? ahead : steps + 1) + (every > 1)",
        "?",
    ),
    Bug(
        "kept from the first state of the window",
        "cluster32",
        "steps",
        "call.h_first + passed * call.h_every - call.first;",
        "(behind < 0 ? 0 : -behind) + passed * call.h_every;",
        "?",
    ),
    Bug(
        "kept tanh of another step",
        "block32",
        "steps",
        "stash = i >= stashes;",
        "stash = i >= stashes + (skipped > 0);",
        "?",
    ),
    Bug(
        "term of ε behind the step",
        "block64",
        "steps",
        "                adjoints[c * L::UNITS] = adjoint;\n",
        "                terms[c * L::UNITS] = add_term<GATED>(adjoint - adjoints[c * L::UNITS], own[c * ARRAYS * L::UNITS],"
        " GATED ? own[(c * ARRAYS + 2) * L::UNITS] : real(0), terms[c * L::UNITS]);\n"
        "                adjoints[c * L::UNITS] = adjoint;\n",
        "?",
    ),
    Bug(
        "an entry for its own block alone",
        "cluster64",
        "steps",
        "++rank) peer_store(place, rank, value);",
        "++rank) *place = value;",
        "?",
    ),
    Bug(
        "barrier of the block for the cluster's",
        "cluster64",
        "steps",
        "    if constexpr (L::CLUSTER > 1) return cluster_barrier();\n",
        "",
        "?",
    ),
    Bug(
        "barrier of the block behind a step",
        "cluster32",
        "steps",
        "        barrier<L>();\n    }\n    async_wait<0>();",
        "        __syncthreads();\n    }\n    async_wait<0>();",
        "?",
    ),
    Bug(
        "barrier of the block behind a step back",
        "cluster32",
        "steps",
        "        barrier<L>();\n        fetch();",
        "        __syncthreads();\n        fetch();",
        "?",
    ),
    Bug(
        "no barrier of the grid",
        "grid64",
        "steps",
        "        grid_barrier(call.counter);\n    }\n",
        "    }\n",
        "?",
    ),
    Bug(
        "no barrier of the grid, backward",
        "grid32",
        "steps",
        "        grid_barrier(call.counter);\n        for",
        "        for",
        "?",
    ),
    Bug(
        "grid: one vector for two",
        "grid64",
        "steps",
        "call.vectors + (t - call.first) % 2 * Bn;\n        real* then = call.vectors + (t + 1 - call.first) % 2 * Bn;",
        "call.vectors;\n        real* then = call.vectors;",
        "?",
    ),
    Bug(
        "grid: one vector for two, backward",
        "grid64",
        "steps",
        "call.vectors + (call.last - 1 - t) % 2 * Bn;",
        "call.vectors;",
        "?",
    ),
    Bug(
        "grid: past the units",
        "grid32",
        "steps",
        "sample + p < B && unit + q < n",
        "sample + p < B && unit + q <= n",
        "?",
    ),
    Bug(
        "grid: some tiles are left out",
        "grid64",
        "steps",
        "tiles = (B + 31) / 32 * across;",
        "tiles = B / 32 * across;",
        "?",
    ),
    Bug(
        "no barrier between tiles of terms",
        "block64",
        "beside",
        "            __syncthreads();\n        }\n    }\n};",
        "        }\n    }\n};",
        "?",
    ),
    Bug(
        "the last terms of a tile",
        "block64",
        "beside",
        "static_cast<int>(last - begin) : SUM;",
        "static_cast<int>(last - begin) & ~1 : SUM;",
        "?",
    ),
    Bug(
        "a slice without end",
        "block64",
        "beside",
        "last = first + call.slice < call.R ? first + call.slice : call.R;",
        "last = first + call.slice;",
        "?",
    ),
    Bug(
        "slices first to last",
        "block64",
        "beside",
        "z = call.slices - 1; z >= 0; --z",
        "z = 0; z < call.slices; ++z",
        "?",
    ),
    Bug(
        "without slice 0",
        "block64",
        "beside",
        "z = call.slices - 1; z >= 0; --z",
        "z = call.slices - 1; z > 0; --z",
        "?",
    ),
    Bug(
        "γ beside the diagonal",
        "block64",
        "beside",
        "j == k ? entry - call.diffusion : entry;",
        "entry - call.diffusion;",
        "?",
    ),
    Bug(
        "2γ for γ",
        "block64",
        "beside",
        "j == k ? entry - call.diffusion : entry;",
        "j == k ? entry - 2 * call.diffusion : entry;",
        "?",
    ),
    Bug(
        "no barrier in a sum",
        "block64",
        "beside",
        "shared[thread + half];\n        __syncthreads();",
        "shared[thread + half];",
        "?",
    ),
    Bug(
        "M for Mᵀ",
        "cluster32",
        "_host",
        "    call.recurrent_matrix(transposed=True)\n    for window",
        "    call.recurrent_matrix(transposed=False)\n    for window",
        "?",
    ),
    Bug(
        "M for Mᵀ in the second window",
        "block64",
        "_host",
        "        call.recurrent_matrix(transposed=True)\n    else",
        "    else",
        "?",
    ),
    Bug("stale terms", "block32", "_host", 'plan("terms", B * n, zeros=True)', 'plan("terms", B * n)', "?"),
    Bug("stale sums", "grid64", "_host", 'plan("G", n * n, zeros=True)', 'plan("G", n * n)', "?"),
    Bug("stale gradients", "block64", "_host", "(leaf.shape, dtype, zeros=True)", "(leaf.shape, dtype)", "?"),
    Bug("the gate's delta for itself", "grid32", "_host", '"A_more": delta_z, ', "", "?"),
    Bug("dx of the gate alone", "block32", "_host", 'accumulates=suffix == "_z"', "accumulates=False", "?"),
    Bug("the first state for every window", "block64", "_host", "        begin = end\n", "", "?"),
    Bug("recomputed from another state", "block64", "_host", "start // call.keep_every * Bn", "0 * Bn", "?"),
    Bug("a window short of memory", "grid64", "_host", "(longest + 1) * B * n", "longest * B * n", "?"),
    Bug(
        "a sample short of shared memory",
        "block64",
        "_instances",
        "(weights + columns * (2",
        "(weights + (columns - 1) * (2",
        "?",
    ),
]


Judge = Callable[..., str]


@pytest.fixture
def verdict(on_cpu: Any, monkeypatch: pytest.MonkeyPatch) -> Judge:
    def verdict(name: str, bug: Bug | None = None) -> str:
        stand_in, backend = on_cpu(CARD)
        planted = 0

        def edit(text: str) -> str:
            nonlocal planted
            if not any(kernel in text for kernel in KERNELS[bug.module]):
                return text
            planted += 1
            return plant(text, bug)

        if bug and bug.module in KERNELS:
            stand_in.edit = edit
        elif bug:
            monkeypatch.setitem(sys.modules, "antisymrnn_cupy._device", backend._device)
            monkeypatch.setitem(sys.modules, "antisymrnn_cupy._instances", backend._instances)
            module = getattr(backend, bug.module)
            with open(module.__file__, encoding="utf-8") as source:
                exec(plant(source.read(), bug), module.__dict__)
            planted = 1
        set_up(backend, name)
        said = judge(stand_in, backend, name)
        assert planted == bool(bug)
        return said

    return verdict


def plant(text: str, bug: Bug) -> str:
    honest, planted = (part.encode("ascii", "replace").decode() for part in (bug.honest, bug.planted))
    assert text.count(honest) == 1, "the line to plant the bug in is not there, or twice"
    return text.replace(honest, planted)


@pytest.mark.parametrize("name", WAYS)
def test_the_honest_copy_passes(name: str, verdict: Judge) -> None:
    assert verdict(name) == ""


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_planted_bug_is_caught(bug: Bug, verdict: Judge) -> None:
    said = verdict(bug.way, bug)
    assert said, "not caught"
    assert said.startswith(bug.found), said
