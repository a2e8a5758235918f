"""The CuPy backend above the driver: what it refuses, which kernels it takes, how much memory and how many launches."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from antisymrnn_cupy import describe
from antisymrnn_cupy._instances import INSTANCES, KERNELS, source
from antisymrnn_ref import load_backend
from antisymrnn_ref.contract import BackendUnavailable
from antisymrnn_ref.installation import install_command
from antisymrnn_validation.truth.calls import run
from antisymrnn_validation.truth.cases import Case, random_case
from cuda_on_cpu import driver as stand_in
from cuda_on_cpu.driver import Card


def case_of(T: int = 6, B: int = 4, n: int = 9, m: int = 2, cell: str = "antisymmetric") -> Case:
    return random_case(cell, T, B, n, m, step_size=0.3, diffusion=0.2, seed=1, dtype=np.dtype("float32"))


def forward(backend, case, **options):
    module = getattr(backend, case.cell)
    return module.forward(case.parameters, case.x, case.h0, **case.arguments, **options)


def backward(backend, case, trajectory, **options):
    module = getattr(backend, case.cell)
    return module.backward(case.parameters, case.x, trajectory, case.g, **case.arguments, **options)


# ---- where it cannot run


def unavailable(cupy: ModuleType | None) -> str:
    """The message with this CuPy."""
    with stand_in.alone(cupy), pytest.raises(BackendUnavailable) as raised:
        load_backend("cupy")
    return str(raised.value)


def test_without_cupy_the_wheel_is_named():
    message = unavailable(None)
    assert message.startswith("backend 'cupy': CuPy cannot be imported (")
    assert message.endswith(f"; install it: {install_command('cuda12')} or {install_command('cuda13')}")


def no_device() -> int:
    raise stand_in.CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")


def no_nvrtc() -> tuple[int, int]:
    raise RuntimeError('Failure finding "libnvrtc.so"')


def test_without_a_device_the_driver_is_named(on_cpu):
    cupy = on_cpu()[0].cupy()
    cupy.cuda.runtime.getDevice = no_device
    message = unavailable(cupy)
    assert "no CUDA device can be used (cudaErrorNoDevice" in message
    assert message.endswith("it needs an NVIDIA GPU and a driver for CUDA")


def test_without_nvrtc_the_wheel_is_named(on_cpu):
    cupy = on_cpu()[0].cupy()
    cupy.cuda.nvrtc.getVersion = no_nvrtc
    assert "NVRTC is missing (Failure finding" in unavailable(cupy)


def test_an_old_device_is_refused(tmp_path):
    message = unavailable(stand_in.Driver(Card(capability="75"), tmp_path).cupy())
    assert "expected compute capability 8.0 or higher, device 0 has 7.5" in message


@pytest.mark.parametrize(("digits", "capability"), [("90", (9, 0)), ("103", (10, 3)), ("120", (12, 0))])
def test_a_capability_has_one_digit_behind_the_point(on_cpu, digits, capability):
    _, backend = on_cpu(Card(capability=digits))
    assert backend._device.current().capability == capability


def test_a_thread_without_a_context_gets_one(on_cpu):
    driver, _ = on_cpu()
    cupy, freed = driver.cupy(), []
    cupy.cuda.driver.ctxGetCurrent = lambda: 0
    cupy.cuda.runtime.free = freed.append
    stand_in.load(driver, cupy)
    assert set(freed) == {0}


def test_importing_it_imports_nothing_heavy():
    program = (
        "import sys; sys.modules['cupy'] = None; import antisymrnn_cupy as backend; print(len(backend.describe()))\n"
        "print(sorted({'numba', 'scipy', 'torch', 'jax', 'antisymrnn_cupy._device'} & set(sys.modules)))"
    )
    path = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    answer = subprocess.run([sys.executable, "-c", program], env=path, capture_output=True, text=True, check=True)
    assert answer.stdout.split("\n")[:2] == [str(len(describe())), "[]"]


def test_it_has_no_other_names():
    import antisymrnn_cupy

    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = antisymrnn_cupy.nothing


# ---- what it refuses


def test_host_arrays_are_refused_with_the_hint(on_cpu):
    driver, _ = on_cpu()
    cupy = driver.cupy()
    cupy.ndarray = type("ndarray", (), {"__module__": "cupy"})
    backend, case = stand_in.load(driver, cupy), case_of()
    hint = "W: expected cupy.ndarray, got numpy.ndarray; convert it with the backend's asarray"
    with pytest.raises(TypeError, match=hint):
        forward(backend, case)
    with pytest.raises(TypeError, match=hint):
        backward(backend, case, None)
    with pytest.raises(TypeError, match=r"array: expected cupy.ndarray, got numpy.ndarray"):
        backend.to_numpy(case.x)


def test_arrays_of_another_device_are_refused(on_cpu):
    _, backend = on_cpu()
    there = SimpleNamespace(device=stand_in.Device(Card(), 1))
    with pytest.raises(ValueError, match="x: expected an array on device 0, the current one, got one on device 1"):
        backend._device.check_device([("x", there)], backend._device.current())


def test_every_array_of_a_call_must_be_on_the_current_device(on_cpu):
    driver, backend = on_cpu()
    driver.launch, looked_at = lambda *_: None, []
    backend._device.check_device = lambda arrays, _: looked_at.append({name for name, _ in arrays})
    case = case_of(cell="gated")
    backward(backend, case, forward(backend, case))
    assert looked_at == [{*case.parameters._fields, "x", *others} for others in (["h0"], ["h", "g", "s", "z"])]


def virtual(*shape: int) -> np.ndarray:
    return np.broadcast_to(np.float32(0), shape)


def test_more_than_a_kernel_can_count_is_refused_before_any_launch(on_cpu):
    driver, backend = on_cpu()
    tiny = case_of(B=1, n=1, m=1)
    with pytest.raises(ValueError, match="x: expected T <= 1073741824, got 2147483648"):
        forward(backend, tiny._replace(x=virtual(2**31, 1, 1)))
    wide = tiny._replace(parameters=tiny.parameters._replace(V=virtual(1, 2**23)), x=virtual(6, 1, 2**23))
    with pytest.raises(ValueError, match="x: expected m <= 4194302, got 8388608"):
        forward(backend, wide)
    assert driver.launches == []
    assert driver.allocated == 0


def test_grids_stay_within_what_cuda_allows(on_cpu):
    _, backend = on_cpu()
    host = backend._host
    call = SimpleNamespace(B=1, n=2, m=1)
    assert host._slices_at_once(call, 2, 10**6) == 65535


def test_too_little_memory_is_said_in_bytes_and_loses_nothing(on_cpu):
    driver, backend = on_cpu()
    case = case_of(T=50)
    expected = backend.to_numpy(forward(backend, case).h)
    driver.launches.clear()
    driver.card = Card(memory=2000)
    message = r"expected 7344 bytes of device memory, 2000 are free and 0 kept by CuPy's pool; use a larger keep_every"
    with pytest.raises(MemoryError, match=message):
        forward(backend, case)
    assert driver.launches == []
    driver.card = Card()
    assert forward(backend, case).h.tobytes() == expected.tobytes()


def test_what_is_free_is_told_and_not_all_there_is(on_cpu):
    driver, _ = on_cpu()
    cupy = driver.cupy()
    cupy.cuda.runtime.memGetInfo = lambda: (1500, 9000)
    backend = stand_in.load(driver, cupy)
    driver.card = Card(memory=2000)
    with pytest.raises(MemoryError, match="^expected 4000 bytes of device memory, 1500 are free"):
        backend._device.empty((1000,), np.float32)


def test_a_grid_is_as_large_as_its_shared_memory_lets_run(on_cpu):
    driver, _ = on_cpu()
    cupy, asked = driver.cupy(), []
    cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor = lambda *what: asked.append(what) or 2
    backend = stand_in.load(driver, cupy)
    backend._host.INSTANCES, driver.launch = (), lambda *_: None
    forward(backend, case_of())
    name = "forward_antisymmetric_float32_any"
    assert asked == [(name, KERNELS[name][1].threads, KERNELS[name][1].shared_bytes)]
    assert KERNELS[name][1].shared_bytes > 0


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_grid_that_cannot_run_at_once_is_refused_before_any_launch(on_cpu, direction):
    driver, backend = on_cpu()
    case = case_of()
    backend._host.INSTANCES = ()
    trajectory = forward(backend, case)
    driver.card = Card(resident=0)
    driver.launches.clear()
    with pytest.raises(RuntimeError, match="expected a grid whose blocks run at the same time"):
        forward(backend, case) if direction == "forward" else backward(backend, case, trajectory)
    assert driver.launches == []


def test_the_compiler_gets_the_source_and_is_told_to_fuse_nothing(on_cpu):
    driver, _ = on_cpu()
    cupy, compiled = driver.cupy(), []
    module = cupy.RawModule()
    cupy.RawModule = lambda **told: compiled.append(told) or module
    backend = stand_in.load(driver, cupy)
    backend._device.resident_blocks("multiply_float32", backend._device.current())
    assert compiled == [{"code": source("float32"), "options": ("-std=c++17", "-fmad=false")}]


def test_a_compiler_that_spills_is_told_of(on_cpu):
    driver, _ = on_cpu()
    cupy = driver.cupy()

    get_function = cupy.RawModule().get_function

    def spilled(name: str) -> SimpleNamespace:
        compiled = get_function(name)
        compiled.local_size_bytes = 8
        return compiled

    cupy.RawModule = lambda **_: SimpleNamespace(get_function=spilled)
    with pytest.warns(RuntimeWarning, match="expected no local memory, this NVRTC took 8 bytes; right, but slower"):
        forward(stand_in.load(driver, cupy), case_of())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"s": None}, TypeError, "trajectory.s: expected an array of float32, got None"),
        ({"z": np.zeros((6, 4, 9))}, TypeError, "trajectory.z: expected an array of float32, got float64"),
        ({"s": np.zeros((5, 4, 9), np.float32)}, ValueError, r"trajectory.s: expected \(6, 4, 9\), got \(5, 4, 9\)"),
    ],
)
def test_a_trajectory_that_lost_its_stash_is_refused(on_cpu, change, error, message):
    driver, backend = on_cpu()
    case = case_of(cell="gated")
    trajectory = forward(backend, case)
    driver.launches.clear()
    with pytest.raises(error, match=message):
        backward(backend, case, trajectory._replace(**change))
    assert driver.launches == []


# ---- which kernels


@pytest.mark.parametrize(
    ("n", "dtype", "card", "N"),
    [
        (1, "float32", Card(), 32),
        (128, "float32", Card(), 128),
        (129, "float32", Card(), 192),
        (257, "float32", Card(), 384),
        (257, "float32", Card(capability="80"), None),
        (512, "float64", Card(), 512),
        (161, "float64", Card(capability="89"), None),
        (256, "float32", Card(capability="86", shared_bytes=99 * 1024), None),
        (513, "float32", Card(), None),
    ],
)
def test_the_table_decides(on_cpu, n, dtype, card, N):
    _, backend = on_cpu(card)
    device = backend._device.current()
    chosen = backend._host.choose(n, dtype, device, backward=True, gated=True, m=1)
    assert (chosen and chosen.N) == N
    assert chosen is None or chosen in INSTANCES


def test_the_table_is_told_without_a_device():
    lines = describe()
    assert "float32, n <= 128: one block of 128 threads for some samples" in lines
    cluster = "from compute capability 9.0 a cluster of 8 blocks of 256 threads for some samples"
    assert f"float32, n <= 512: {cluster}" in lines
    assert "float64, any other n, or too little shared memory: a cooperative grid for all samples" in lines
    assert len(lines) == len(INSTANCES) + 2


# ---- how


def test_every_launch_is_on_the_callers_stream(on_cpu):
    driver, backend = on_cpu()
    driver.stream = 7
    case = case_of(m=5)
    run(backend, case, keep_every=2)
    assert {launch.stream for launch in driver.launches} == {7}


def test_launches_and_memory_do_not_grow_with_the_steps(on_cpu):
    driver, backend = on_cpu()
    counts = []
    for T in (3, 30):
        driver.launches.clear()
        driver.allocated = 0
        run(backend, case_of(T=T, cell="gated"))
        counts.append((len(driver.launches), driver.allocated))
    assert counts[0] == counts[1]
    assert [launch.name for launch in driver.launches][:2] == ["recurrent_matrix_float32", "forward_gated_float32_32"]


def test_shared_memory_is_what_the_columns_need(on_cpu):
    driver, backend = on_cpu(Card(multiprocessors=1, resident=1, shared_bytes=20 * 1024))
    run(backend, case_of(B=150, n=32, cell="gated"))
    for launch in driver.launches:
        _, kernel = KERNELS[launch.name]
        assert launch.shared_bytes <= 20 * 1024
        assert launch.block == (kernel.threads, 1, 1)
        if kernel.argument == "Steps":  # as many samples as fit, and no block without one
            columns = launch.told["columns"]
            assert 1 < columns < 150
            assert (launch.grid[0] - 1) * columns < 150 <= launch.grid[0] * columns


def test_windows_begin_at_a_slice_just_behind_a_kept_state(on_cpu):
    _, backend = on_cpu()
    host = backend._host
    for T, B, keep_every in (
        (784, 128, 1),
        (784, 128, 28),
        (10**6, 1, 1000),
        (5000, 300, 1700),
        (3, 10**6, 2),
        (0, 4, 1),
    ):
        cut = list(host.windows(T, B, keep_every))
        steps = host.slice_steps(B)
        assert [w.last for w in cut[1:]] == [w.first for w in cut[:-1]]
        assert not cut or (cut[0].last, cut[-1].first) == (T, 0)
        for window in cut:
            assert window.first % steps == 0
            assert window.start % keep_every == 0
            assert 0 <= window.first - window.start < max(keep_every, steps)
            assert (window.last - window.first) * B <= max(
                host.WINDOW_ROWS, keep_every * B
            ) + keep_every * B + steps * B
    assert len(list(host.windows(784, 128, 1))) == 1


def test_a_million_steps_take_little_memory(on_cpu):
    _, backend = on_cpu()
    host, taken = backend._host, []
    backend._device.empty = lambda shape, dtype, **_: taken.append(int(np.prod(shape)) * np.dtype(dtype).itemsize)
    call = SimpleNamespace(
        B=1, n=128, m=1, gated=False, keep_every=1000, workspace=host._Workspace(np.dtype("float32")),
        plan_steps=lambda *_: None,
    )  # fmt: skip
    host._plan_backward(call, list(host.windows(10**6, 1, 1000)))
    assert sum(taken) < 400e6


def test_asarray_and_to_numpy(on_cpu):
    _, backend = on_cpu()
    given = np.arange(6.0).reshape(2, 3).T
    converted = backend.asarray(given, np.float32)
    assert converted.flags.c_contiguous
    assert backend.asarray(converted, np.float64).dtype == np.float64
    with pytest.raises(TypeError, match="dtype: expected float32 or float64, got int64"):
        backend.asarray(converted, int)
    assert backend.to_numpy(converted) is not converted


@pytest.mark.parametrize("kind", [np.int64, np.float16, bool])
def test_numbers_of_another_kind_on_the_device_are_converted_on_the_host(on_cpu, kind):
    driver, _ = on_cpu()
    cupy, brought = driver.cupy(), []
    cupy.asnumpy = lambda array: brought.append(array) or np.copy(array)
    backend = stand_in.load(driver, cupy)
    given = np.array([[0, 1]]).astype(kind)
    converted = backend.asarray(given, np.float32)
    assert (converted.dtype, converted.tolist()) == (np.float32, [[0, 1]])
    assert brought[0] is given  # NumPy's functions refuse an array of the device
