"""The emulator of CUDA itself, on toy kernels with and without planted errors."""

import contextlib
import re
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cuda_on_cpu import emulator

pytestmark = pytest.mark.skipif(not emulator.available(), reason="needs g++")

# Each kernel is right without a bug; a bug is named by its number.
SOURCE = """
struct Call {
    const float* in;
    float* out;
    float* scratch;
    long steps;
    long bug;
};

__device__ float warp_sum(float value) {
    for (int distance = 16; distance > 0; distance >>= 1)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

// out[block] = the sum of the block's 128 values
extern "C" __global__ void __launch_bounds__(128) block_sum(Call call) {
    float* sums = reinterpret_cast<float*>(shared_memory());
    float sum = warp_sum(call.in[blockIdx.x * blockDim.x + threadIdx.x]);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32 + (call.bug == 8)] = sum; // LINE store
    if (call.bug == 1 && threadIdx.x == 5) return;
    if (call.bug == 2 && threadIdx.x >= 64)
        __syncthreads(); // LINE other
    else if (call.bug != 3)
        __syncthreads(); // LINE barrier
    float total = sums[0] + sums[1] + sums[2] + sums[3]; // LINE load
    if (threadIdx.x == 0) call.out[blockIdx.x] = total;
    if (call.bug == 4)
        __shfl_xor_sync(0x0000ffffu, total, 1); // LINE mask
    if (call.bug == 5 && threadIdx.x % 32 < 16)
        __shfl_xor_sync(0xffffffffu, total, 1); // LINE half
    if (call.bug == 6)
        threadIdx.x % 2 ? __shfl_xor_sync(0xffffffffu, total, 1) // LINE odd
                        : __shfl_xor_sync(0xffffffffu, total, 1); // LINE even
    if (call.bug == 7 && threadIdx.x % 32 == 3)
        __syncthreads(); // LINE lone
    else if (call.bug == 7)
        __syncwarp(); // LINE warp
}

// out[i] = the sum over steps of in[step][(i + 4) % 128], by a ring of two buffers
extern "C" __global__ void ring(Call call) {
    float* buffers = reinterpret_cast<float*>(shared_memory());
    const int i = threadIdx.x;
    auto fetch = [&](int step) {
        if (step < call.steps && i < 32)
            async_copy<16>(buffers + (step & 1) * 128 + 4 * i, call.in + step * 128 + 4 * i); // LINE copy
        async_commit();
    };
    float sum = 0.0f;
    fetch(0);
    for (int step = 0; step < call.steps; ++step) {
        fetch(step + 1);
        if (call.bug == 1) async_wait<2>(); else async_wait<1>(); // LINE wait
        __syncthreads();
        sum += buffers[(step & 1) * 128 + (i + 4) % 128]; // LINE use
        if (call.bug != 2) __syncthreads();
    }
    if (call.bug != 3) async_wait<0>();
    if (call.bug == 3) fetch(0); // LINE left
    call.out[i] = sum;
}

// out[block][i] = in[other block of the cluster][i]
extern "C" __global__ void __cluster_dims__(2, 1, 1) swap(Call call) {
    float* mine = reinterpret_cast<float*>(shared_memory());
    const int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (call.bug != 1) cluster_barrier();
    if (call.bug != 2) peer_store(mine + threadIdx.x + (call.bug == 4), cluster_rank() ^ 1, call.in[at]); // LINE peer
    if (call.bug == 3 && blockIdx.x % 2) return;
    if (call.bug != 5) cluster_barrier(); // LINE cluster
    call.out[at] = mine[threadIdx.x];
}

// out[thread] = the sum of all blocks' numbers, in two rounds
extern "C" __global__ void grid_sum(Call call) {
    float total = 0.0f;
    for (int round = 0; round < 2; ++round) {
        if (threadIdx.x == 0) __stcg(call.scratch + blockIdx.x, call.in[blockIdx.x + round]); // LINE put
        if (call.bug != 1) grid_barrier(nullptr); // LINE grid
        for (unsigned i = 0; i < gridDim.x; ++i) total += __ldcg(call.scratch + i); // LINE get
        if (call.bug != 2) grid_barrier(nullptr);
    }
    call.out[blockIdx.x * blockDim.x + threadIdx.x] = total;
}

// a ticket for each thread, and a write which only some orders of the blocks lose
extern "C" __global__ void tickets(Call call) {
    unsigned ticket = atomicAdd(reinterpret_cast<unsigned*>(call.scratch), 1u);
    call.out[ticket] = static_cast<float>(blockIdx.x * blockDim.x + threadIdx.x);
    if (call.bug == 1) call.scratch[1] = call.out[ticket]; // LINE clash
}

struct Vectors { double* out; };
extern "C" __global__ void partial(Vectors vectors) {
    const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    const unsigned mask = thread < 32 ? 0xffffffffu : 0x0000ffffu;
    double value = __shfl_xor_sync(mask, static_cast<double>(thread), 3);
    int whole = __shfl_xor_sync(mask, static_cast<int>(thread), 3);
    __syncwarp();
    vectors.out[thread] = value + whole + blockIdx.y;
}
"""
KERNELS = dict.fromkeys(["block_sum", "ring", "swap", "grid_sum", "tickets"], "Call") | {"partial": "Vectors"}
LAUNCHES: dict[str, dict[str, Any]] = {
    "block_sum": {"grid": [3], "block": [128], "shared_bytes": 16},
    "ring": {"grid": [1], "block": [128], "shared_bytes": 1024},
    "swap": {"grid": [4], "block": [64], "shared_bytes": 256, "cluster": 2},
    "grid_sum": {"grid": [5], "block": [40], "cooperative": True},
    "tickets": {"grid": [4], "block": [33]},
}
STEPS = 7


def line(marker: str) -> int:
    return next(n for n, text in enumerate(SOURCE.split("\n"), 1) if text.endswith(f"// LINE {marker}"))


def run(library: emulator.Library, kernel: str, bug: int = 0, seed: int = 0, **changes: Any) -> np.ndarray:
    values = np.random.default_rng(0).integers(-8, 9, (STEPS, 128)).astype(np.float32)
    out, scratch = np.full((STEPS, 128), np.nan, np.float32), np.zeros(128, np.float32)
    call = struct.pack("QQQqq", values.ctypes.data, out.ctypes.data, scratch.ctypes.data, STEPS, bug)
    library.launch(kernel, call=call, seed=seed, **(LAUNCHES[kernel] | changes))
    return out.ravel()


def expected(kernel: str) -> np.ndarray:
    values = np.random.default_rng(0).integers(-8, 9, (STEPS, 128)).astype(np.float32)
    match kernel:
        case "block_sum":
            return values[:3].sum(1)
        case "ring":
            return np.roll(values, -4, 1).sum(0)
        case "swap":
            return values.ravel()[:256].reshape(2, 2, 64)[:, ::-1].ravel()
        case "grid_sum":
            return np.full(200, values.ravel()[:5].sum() + values.ravel()[1:6].sum())
    raise ValueError(kernel)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cuda_on_cpu")


@pytest.fixture(scope="module")
def library(folder: Path) -> emulator.Library:
    return emulator.build(SOURCE, KERNELS, folder=folder)


@pytest.mark.parametrize("kernel", ["block_sum", "ring", "swap", "grid_sum"])
@pytest.mark.parametrize("seed", range(20))
def test_right_in_every_schedule(library: emulator.Library, kernel: str, seed: int) -> None:
    right = expected(kernel)
    out = run(library, kernel, seed=seed)
    np.testing.assert_array_equal(out[: right.size], right)
    assert np.isnan(out[right.size :]).all()


def test_shapes_and_partial_warps(library: emulator.Library) -> None:
    out = np.zeros(48)
    library.launch("partial", [1, 2], [4, 3, 4], struct.pack("Q", out.ctypes.data))
    threads = np.arange(48)
    assert set(out - 2 * (threads ^ 3)) <= {0, 1}


def test_a_seed_is_a_schedule(library: emulator.Library) -> None:
    orders = [run(library, "tickets", seed=seed)[:132] for seed in range(10)]
    for seed, order in enumerate(orders):
        np.testing.assert_array_equal(np.sort(order), np.arange(132))
        np.testing.assert_array_equal(order, run(library, "tickets", seed=seed)[:132])
    assert len({order.tobytes() for order in orders}) == 10
    assert len({order[0] // 33 for order in orders}) > 1, "the order of the blocks changes"


@pytest.mark.parametrize(
    ("kernel", "bug", "message"),
    [
        ("block_sum", 1, "exit"),
        ("block_sum", 2, "divergent barrier: line (barrier) and line (other)|line (other) and line (barrier)"),
        ("block_sum", 4, "line (mask): lane .* not in"),
        ("block_sum", 5, "exits, but the mask of line (half)|line (half): mask 0xffffffff, but the live"),
        ("block_sum", 6, "one exchange at line (even) and line (odd)|one exchange at line (odd) and line (even)"),
        ("block_sum", 7, "deadlock(?=.*line (lone))(?=.*line (warp))"),
        ("ring", 3, "async_copy of line .* outstanding"),
        ("swap", 1, "line (peer): no cluster_barrier before it"),
        ("swap", 3, "exits|exited|ended"),
        ("swap", 4, "line (peer): the address is not in the block's own shared memory"),
        ("swap", 5, "the peer block has ended|ends with no cluster_barrier after the peer_store of line (peer)"),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_broken_rules(library: emulator.Library, kernel: str, bug: int, message: str, seed: int) -> None:
    pattern = re.sub(r"\((\w+)\)", lambda marker: str(line(marker[1])), message)
    with pytest.raises(emulator.EmulationError, match=pattern):
        run(library, kernel, bug, seed)
    kernel = "ring"  # a failed launch leaves nothing behind
    np.testing.assert_array_equal(run(library, kernel, seed=seed)[:128], expected(kernel))


def test_launches_that_cannot_be(library: emulator.Library) -> None:
    changed: list[tuple[dict[str, Any], str]] = [
        ({"cooperative": False}, f"grid_barrier at line {line('grid')}: the launch is not cooperative"),
        ({"cluster": 2}, "not a multiple"),
        ({"block": [1025]}, "wrong size"),
        ({"grid": [0]}, "wrong size"),
    ]
    for changes, message in changed:
        with pytest.raises(emulator.EmulationError, match=message):
            run(library, "grid_sum", **changes)
    with pytest.raises(emulator.EmulationError, match="takes 40 bytes, not 8"):
        library.launch("ring", [1], [32], bytes(8))


@pytest.mark.parametrize(
    ("kernel", "bug"), [("block_sum", 3), ("ring", 2), ("grid_sum", 1), ("grid_sum", 2), ("swap", 2)]
)
def test_wrong_values_in_some_schedule(library: emulator.Library, kernel: str, bug: int) -> None:
    right = expected(kernel)
    wrong = [not np.array_equal(run(library, kernel, bug, seed)[: right.size], right) for seed in range(20)]
    assert sum(wrong) >= 5


def test_reading_too_early_gives_nan(library: emulator.Library) -> None:
    for seed in range(5):
        assert np.isnan(run(library, "ring", 1, seed)[:128]).all(), "a wait one group short"
        assert np.isnan(run(library, "swap", 2, seed)[:256]).all(), "what no one writes"


def test_a_source_that_does_not_compile(folder: Path) -> None:
    with pytest.raises(emulator.EmulationError, match=r"kernels.cu:2:.*nonsense"):
        emulator.build("struct Call {};\nnonsense;", {}, folder=folder)
    with pytest.raises(emulator.EmulationError, match="run_sanitized"):
        emulator.build(SOURCE, KERNELS, sanitizer="thread", folder=folder)


def sanitized(kind: str, folder: Path, kernel: str, bug: int) -> tuple[int, str]:
    done = emulator.run_sanitized(kind, __file__, [kind, str(folder), kernel, str(bug)])
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["thread", "address"])
def test_no_false_report(folder: Path, kind: str) -> None:
    status, text = sanitized(kind, folder, "all", 0)
    assert status == 0, text
    assert "done" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "bug", "places"),
    [
        ("block_sum", 3, ["store", "load"]),
        ("ring", 2, ["copy", "use"]),
        ("grid_sum", 1, ["put", "get"]),
        ("grid_sum", 2, ["put", "get"]),
        ("tickets", 1, ["clash"]),
    ],
)
def test_races(folder: Path, kernel: str, bug: int, places: list[str]) -> None:
    status, text = sanitized("thread", folder, kernel, bug)
    assert status == 66, text
    assert "done" in text
    assert "data race" in text
    for place in places:
        assert re.search(rf"kernels.cu:{line(place)}\b", text), text


@pytest.mark.slow
def test_overflow_of_shared_memory(folder: Path) -> None:
    status, text = sanitized("address", folder, "block_sum", 8)
    assert status == 66, text
    assert "heap-buffer-overflow" in text
    assert re.search(rf"kernels.cu:{line('store')}\b", text), text
    assert "0 bytes" in text
    assert "16-byte region" in text


def test_libraries_are_kept_where_nobody_else_can_put_one(tmp_path, monkeypatch):
    monkeypatch.setattr(emulator.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = emulator.library_folder()
    assert folder == emulator.library_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="expected a folder that nobody else can write to; remove it, or set TMP"):
        emulator.library_folder()
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="nobody else"):
        emulator.library_folder()


if __name__ == "__main__":
    kind, path, kernel, bug = sys.argv[1:]
    sanitized_library = emulator.build(SOURCE, KERNELS, sanitizer=kind, folder=Path(path))
    for seed in range(3):
        for each in [kernel] if kernel != "all" else LAUNCHES:
            run(sanitized_library, each, int(bug), seed)
        with contextlib.suppress(emulator.EmulationError):  # abandoned threads cause no report later
            run(sanitized_library, "block_sum", 1, seed)
    print("done")
