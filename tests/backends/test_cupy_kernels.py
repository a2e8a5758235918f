"""The CuPy backend's kernels on the CPU: every instance at its borders, every tail, the same bits in every schedule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from antisymrnn_cupy._instances import INSTANCES
from antisymrnn_ref.contract import kept_steps
from antisymrnn_validation.truth.calls import run
from antisymrnn_validation.truth.cases import CELLS, Case, random_case
from antisymrnn_validation.truth.tolerance import measure
from cuda_on_cpu.driver import Card
from tiers import tiered


@pytest.fixture(scope="module")
def loaded(on_cpu):
    return on_cpu()


def case_of(cell: str, T: int, B: int, n: int, m: int, dtype: str, seed: int = 0, **options: bool) -> Case:
    return random_case(cell, T, B, n, m, step_size=0.3, diffusion=0.2, seed=seed, dtype=np.dtype(dtype), **options)


def bits(arrays: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays.items()}


def borders() -> list[tuple[str, int, int]]:
    """Each instance's dtype, its N, and an n that it is the first to hold: all of them, or the fewest."""
    least = {"float32": 1, "float64": 1}
    found = []
    for instance in INSTANCES:
        found += [(instance.dtype, instance.N, n) for n in (least[instance.dtype], instance.N)]
        least[instance.dtype] = instance.N + 1
    return found


@pytest.mark.parametrize(
    ("dtype", "N", "n"),
    [pytest.param(*border, marks=[] if border[1] <= 64 else pytest.mark.slow) for border in borders()],
)
def test_every_instance_at_its_borders(loaded, dtype, N, n):
    driver, backend = loaded
    driver.launches.clear()
    cell = CELLS[(n + N // 32) % 2]
    case = case_of(cell, 2, 2 if n <= 256 else 1, n, 1 + n % 6, dtype, seed=n, unconstrained=n == N)
    errors = measure(run(backend, case), case, beside_specification=True)
    assert set(errors) == {"h", *case.parameters._fields, "x", "h0", "step_size", "diffusion"}
    steps = [launch for launch in driver.launches if "ward_" in launch.name]
    assert [launch.name for launch in steps] == [f"{way}_{cell}_{dtype}_{N}" for way in ("forward", "backward")]


@pytest.mark.parametrize("n", tiered([129, 513], lambda n: n == 129))
def test_without_clusters_the_grid_takes_over(on_cpu, n):
    driver, backend = on_cpu(Card(capability="80", shared_bytes=163 * 1024))
    case = case_of("antisymmetric", 2, 2, n, 2, "float32" if n > 256 else "float64")
    backend._host.INSTANCES = tuple(i for i in INSTANCES if i.N != 160)
    measure(run(backend, case), case, beside_specification=True)
    assert {launch.name.rpartition("_")[2] for launch in driver.launches if "ward_" in launch.name} == {"any"}


@settings(max_examples=40)
@given(
    cell=st.sampled_from(CELLS),
    dtype=st.sampled_from(["float32", "float64"]),
    T=st.integers(1, 9),
    B=st.integers(1, 9),
    n=st.integers(1, 70),
    m=st.integers(1, 6),
    keep_every=st.integers(1, 10),
)
@example(cell="gated", dtype="float64", T=9, B=9, n=33, m=5, keep_every=2)
@example(cell="antisymmetric", dtype="float32", T=1, B=1, n=1, m=1, keep_every=1)
def test_sizes_around_every_tail(loaded, cell, dtype, T, B, n, m, keep_every):
    _, backend = loaded
    case = case_of(cell, T, B, n, m, dtype, seed=T)
    plain = run(backend, case)
    measure(plain, case, beside_specification=True)
    kept = run(backend, case, keep_every=keep_every)
    assert bits(kept) == bits(plain | {"h": plain["h"][kept_steps(T, keep_every)]})


WAYS = {"a block": (33, INSTANCES), "a cluster": (300, INSTANCES), "a grid": (70, ())}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cell", CELLS)
def test_the_same_bits_in_every_schedule(on_cpu, way, cell):
    driver, backend = on_cpu()
    n, backend._host.INSTANCES = WAYS[way]
    case = case_of(cell, 7, 9, n, 3, "float32")
    first = bits(run(backend, case, keep_every=3))
    for seed in range(100, 600, 100):
        driver.seed = seed
        assert bits(run(backend, case, keep_every=3)) == first


@pytest.mark.parametrize("way", WAYS)
def test_the_same_bits_however_the_batch_is_spread(on_cpu, way):
    n, instances = WAYS[way]
    case = case_of("gated", 3, 19, n, 5, "float32")
    results, grids = [], set()
    for multiprocessors, resident in ((1, 1), (4, 2), (132, 3)):
        driver, backend = on_cpu(Card(multiprocessors=multiprocessors, resident=resident))
        backend._host.INSTANCES = instances
        results.append(bits(run(backend, case)))
        grids |= {launch.grid for launch in driver.launches if launch.name.startswith("forward")}
    assert results[0] == results[1] == results[2]
    assert len(grids) > 1


@pytest.mark.parametrize("way", WAYS)
def test_a_longer_sequence_begins_with_the_shorter(on_cpu, way):
    _, backend = on_cpu()
    n, backend._host.INSTANCES = WAYS[way]
    long = case_of("antisymmetric", 9, 3, n, 2, "float64" if n < 100 else "float32")
    h = run(backend, long)["h"]
    for T in range(1, 9):
        short = long._replace(x=long.x[:T], g=long.g[: T + 1])
        assert run(backend, short)["h"].tobytes() == h[: T + 1].tobytes()


@pytest.mark.parametrize("window_steps", [1, 2, 3])
def test_states_are_carried_from_window_to_window(on_cpu, window_steps):
    _, backend = on_cpu()
    backend._host.INSTANCES = ()
    case = case_of("gated", 5, 3, 70, 2, "float64")
    whole = bits(run(backend, case, keep_every=2))
    backend._host.WINDOW_ROWS = 3 * window_steps
    assert bits(run(backend, case, keep_every=2)) == whole
    measure(run(backend, case), case, beside_specification=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_not_a_number_stays_in_its_sample(loaded, dtype):
    _, backend = loaded
    case = case_of("gated", 5, 4, 40, 2, dtype)
    poisoned = case.h0.copy()
    poisoned[1, 7], poisoned[2, 3] = np.nan, np.inf
    plain, got = run(backend, case), run(backend, case._replace(h0=poisoned))
    assert got["h"][:, [0, 3]].tobytes() == plain["h"][:, [0, 3]].tobytes()
    assert np.isnan(got["h"][1:, 1]).all()


def test_a_long_sequence_keeps_its_digits(loaded):
    _, backend = loaded
    case = random_case("antisymmetric", 300, 2, 16, 1, step_size=0.1, diffusion=0.1, seed=3, dtype=np.dtype("float32"))
    measure(run(backend, case), case, beside_specification=True)
