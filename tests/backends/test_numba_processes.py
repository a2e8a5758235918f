"""The Numba backend in processes of its own: other targets, thread counts, the cache on disk, memory of long runs."""

from __future__ import annotations

import ast
import mmap
import os
import platform
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import llvmlite
import numba
import pytest

from antisymrnn_numba import _kernels, _target
from antisymrnn_numba._target import Target, find_target
from antisymrnn_ref.installation import install_command

X86 = platform.machine().lower() in ("x86_64", "amd64")

CASES = """
import numpy as np, antisymrnn_numba
from antisymrnn_validation.truth.cases import CELLS, random_case
from antisymrnn_validation.truth.calls import run
from antisymrnn_validation.truth.tolerance import measure
def cases():
    for k, sizes in enumerate(((5, 3, 7, 3), (9, 21, 19, 2), (3, 1, 40, 5), (4, 40, 5, 1), (2, 7, 33, 18))):
        for cell in CELLS:
            for dtype in (np.float32, np.float64):
                yield random_case(cell, *sizes, step_size=0.3, diffusion=0.2, seed=k, dtype=dtype)
"""
JUDGED = (
    CASES
    + """
for case in cases():
    for keep_every in (1, 2):
        arrays = run(antisymrnn_numba, case, keep_every=keep_every)
        measure(arrays, case, keep_every=keep_every, beside_specification=True)
print("agrees")
"""
)


def python(code: str, **environment: str) -> str:
    """What a new process prints that runs some code."""
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("architecture", "features", "expected"),
    [
        ("x86_64", "+avx2,+fma,+avx512f,+avx512vl", Target(64, 32, True)),
        ("x86_64", "+avx,+avx2,+fma,-avx512f", Target(32, 16, True)),
        ("x86_64", "+avx,+avx2,-fma", Target(16, 16, False)),
        ("x86_64", "", Target(16, 16, False)),
        ("aarch64", "+neon,+fp-armv8", Target(16, 32, True)),
        ("arm64", "", Target(16, 32, True)),
        ("riscv64", "+v", Target(16, 16, False)),
    ],
)
def test_a_target_is_found_by_its_features(architecture, features, expected):
    assert find_target(architecture, features) == expected


@pytest.mark.slow
@pytest.mark.skipif(not X86, reason="the restricted targets are x86-64's")
@pytest.mark.parametrize(
    ("cpu", "features", "width"),
    [("generic", "", 16), ("nehalem", "+sse4.2", 16), ("haswell", "+avx,+avx2,+fma", 32)],
)
def test_a_restricted_target_agrees(cpu, features, width, tmp_path):
    if width > _target.TARGET.vector_bytes:
        pytest.skip(f"this processor has no vectors of {width} bytes")
    settings = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    told = f"from antisymrnn_numba._target import TARGET; assert TARGET.vector_bytes == {width}, TARGET\n"
    assert python(told + JUDGED, **settings) == "agrees"


@pytest.mark.slow
@pytest.mark.parametrize("target", [Target(64, 32, True), Target(16, 32, True), Target(32, 16, False)])
def test_the_kernels_of_another_target_agree_when_this_processor_runs_them(target, tmp_path):
    # LLVM cuts wide vectors into what there is: the IR for AVX-512 or NEON is judged, not their instructions
    assert python(preset(target) + JUDGED, NUMBA_CACHE_DIR=str(tmp_path)) == "agrees"


PRESET = """
import importlib.util, sys
spec = importlib.util.find_spec("antisymrnn_numba")
path = spec.submodule_search_locations[0] + "/_target.py"
loader = importlib.util.spec_from_file_location("antisymrnn_numba._target", path)
_target = importlib.util.module_from_spec(loader)
sys.modules["antisymrnn_numba._target"] = _target
loader.loader.exec_module(_target)
_target.TARGET = _target.{target}
"""


def preset(target: Target) -> str:
    """Code by which a process finds a target before the kernels are imported."""
    return PRESET.format(target=target)


@pytest.mark.slow
@pytest.mark.skipif(not X86, reason="AVX-512 is of x86-64")
def test_the_code_for_avx512_uses_its_registers_and_spills_none_in_the_loop(tmp_path):
    code = """
import re, numba, numpy as np
from numba import types
from antisymrnn_numba import _kernels
assert _kernels.TARGET == (64, 32, True), _kernels.TARGET
factor = types.NamedUniTuple(types.int64, 7, _kernels.Factor)
word = types.int64
for scalar, instruction in ((types.float32, "vfmadd231ps"), (types.float64, "vfmadd231pd")):
    signature = (scalar, word, word, word, word, factor, factor, word, word, word)
    _kernels.product.compile(signature)
    blocks = re.split(r"\\n\\.LBB", _kernels.product.inspect_asm(signature))
    loops = [block for block in blocks if len(re.findall(instruction + ".*%zmm", block)) >= 16]
    assert loops, "no loop with a full tile"
    assert not any(re.search(r"%zmm\\d+, .*\\(%rsp", block) for block in loops), "a sum is spilled"
print(len(loops))
"""
    features = "+avx,+avx2,+fma,+avx512f,+avx512vl,+avx512dq,+avx512bw"
    settings = {"NUMBA_CPU_NAME": "skylake-avx512", "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    assert int(python(code, **settings)) >= 1


def test_the_same_bits_with_any_number_of_threads():
    code = CASES + (
        "import hashlib, numba\n"
        "for threads in range(1, 7):\n"
        "    numba.set_num_threads(threads)\n"
        "    digest = hashlib.sha256()\n"
        "    for case in [*cases(), random_case('gated', 40, 150, 33, 2, step_size=0.1, diffusion=0.1, seed=1)]:\n"
        "        for array in run(antisymrnn_numba, case).values():\n"
        "            digest.update(array.tobytes())\n"
        "    print(digest.hexdigest())\n"
    )
    digests = python(code, NUMBA_NUM_THREADS="6").split()
    assert len(digests) == 6
    assert len(set(digests)) == 1


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_set_from_outside_is_kept_before_numba_starts_its_own(threads):
    code = """
import numba
from antisymrnn_numba import _threads
print(_threads.workers(64), numba.get_num_threads(), _threads.workers(64))
"""
    assert python(code, NUMBA_NUM_THREADS=str(threads)).split() == [str(threads)] * 3


@pytest.mark.slow
def test_nothing_is_compiled_at_import_and_a_second_process_finds_the_first_ones_code(tmp_path):
    code = """
import antisymrnn_numba
from antisymrnn_numba import _kernels
kernels = [_kernels.forward, _kernels.backward, _kernels.finish, _kernels.pack, _kernels.pack_recurrent]
assert not any(kernel.dispatcher.signatures for kernel in kernels), "compiled at import"
antisymrnn_numba.warmup()
for kernel in kernels:
    stats = kernel.dispatcher.stats
    print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""
    first = python(code, NUMBA_CACHE_DIR=str(tmp_path)).split("\n")
    second = python(code, NUMBA_CACHE_DIR=str(tmp_path)).split("\n")
    assert first == ["0 2"] * 5
    assert second == ["2 0"] * 5
    assert len(list(tmp_path.rglob("*.nbc"))) == 10


WARNED = """
import warnings, numpy as np
from antisymrnn_ref import Parameters
parameters = Parameters(np.eye(3), np.ones((3, 1)), np.ones(3))
def call():
    import antisymrnn_numba
    x, h0 = np.ones((2, 1, 1)), np.ones((1, 3))
    return antisymrnn_numba.antisymmetric.forward(parameters, x, h0, step_size=0.1, diffusion=0.1).h
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    {before}
    h = call()
assert np.isfinite(h).all() and h.shape == (3, 1, 3)
assert any("NUMBA_CACHE_DIR" in str(warning.message) for warning in caught), caught
print("warned")
"""


@pytest.mark.slow
def test_no_folder_for_the_cache_gives_a_warning_and_the_result():
    before = "from numba.core.caching import CacheImpl; CacheImpl._locator_classes = []"
    assert python(WARNED.format(before=before)) == "warned"


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_any_more_gives_a_warning_and_the_result(tmp_path):
    before = (
        "import antisymrnn_numba, os, pathlib, shutil; folder = pathlib.Path(os.environ['NUMBA_CACHE_DIR']); "
        "shutil.rmtree(folder); folder.write_text('a file where the folder was')"
    )
    assert python(WARNED.format(before=before), NUMBA_CACHE_DIR=str(tmp_path / "cache")) == "warned"


@pytest.mark.slow
def test_a_damaged_cache_gives_a_warning_and_the_result(tmp_path):
    whole = WARNED.format(before="pass").replace("assert any", "assert not any").replace("warned", "made")
    assert python(whole, NUMBA_CACHE_DIR=str(tmp_path)) == "made"
    for kind in ("nbc", "nbi"):
        kept = list(tmp_path.rglob(f"*.{kind}"))
        assert kept
        for path in kept:
            os.truncate(path, path.stat().st_size // 2)
        assert python(WARNED.format(before="pass"), NUMBA_CACHE_DIR=str(tmp_path)) == "warned"


def test_without_compilation_the_backend_says_what_to_unset():
    code = """
from antisymrnn_ref import BackendUnavailable, load_backend
try:
    load_backend("numba")
except BackendUnavailable as error:
    print(error)
"""
    assert "expected NUMBA_DISABLE_JIT unset" in python(code, NUMBA_DISABLE_JIT="1")


GUARDED = """
import ctypes, mmap, numpy as np, antisymrnn_numba
from antisymrnn_numba import _host, _memory
from antisymrnn_validation.truth.cases import CELLS, random_case
from antisymrnn_validation.truth.calls import run

page, library, plain, maps = mmap.PAGESIZE, ctypes.CDLL(None), _memory.empty, []

def guarded(shape, dtype):
    "An array that begins behind a page that nobody may touch, or ends before one."
    nbytes = int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
    pages = max(1, -(-nbytes // page))
    maps.append(mmap.mmap(-1, (pages + 2) * page))
    address = ctypes.addressof(ctypes.c_char.from_buffer(maps[-1]))
    for guard in (address, address + (pages + 1) * page):
        assert library.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0) == 0
    begin = page + (pages * page - nbytes if at_the_end else 0)
    return np.frombuffer(maps[-1], np.uint8, nbytes, begin).view(dtype).reshape(shape)

def put(array):
    copy = guarded(array.shape, array.dtype)
    copy[...] = array
    return copy

for k, sizes in enumerate(((17, 16, 10, 33), (9, 5, 7, 3), (3, 33, 33, 17), (2, 1, 1, 1), (20, 130, 5, 2))):
    for cell in CELLS:
        for dtype in (np.float32, np.float64):
            case = random_case(cell, *sizes, step_size=0.3, diffusion=0.2, seed=1, dtype=dtype)
            _host.STREAMED = 2**60 if k % 2 else 0
            expected = run(antisymrnn_numba, case)
            for at_the_end in (True, False):
                moved = case._replace(
                    parameters=type(case.parameters)(*map(put, case.parameters)),
                    x=put(case.x), h0=put(case.h0), g=put(case.g),
                )
                _memory.empty = guarded
                found = run(antisymrnn_numba, moved)
                _memory.empty = plain
                for name, array in expected.items():
                    assert found[name].tobytes() == array.tobytes(), (cell, sizes, name)
print(len(maps) > 500)
"""


@pytest.mark.skipif(not hasattr(mmap, "MAP_ANONYMOUS"), reason="this system has no mprotect")
def test_no_address_outside_of_an_array_is_read_or_written():
    assert python(GUARDED) == "True"


@pytest.mark.slow
def test_a_missing_cache_folder_is_made(tmp_path):
    code = WARNED.format(before="pass").replace("assert any", "assert not any").replace("warned", "made")
    assert python(code, NUMBA_CACHE_DIR=str(tmp_path / "not" / "yet")) == "made"


def test_without_numba_the_backend_says_what_to_install():
    code = """
import sys
sys.modules["numba"] = None
from antisymrnn_ref import BackendUnavailable, load_backend
try:
    load_backend("numba")
except BackendUnavailable as error:
    print(error)
"""
    expected = f"backend 'numba': the package numba is missing; install it: {install_command('numba')}"
    assert python(code) == expected


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="peak memory is read with the module resource")
@pytest.mark.parametrize("cell", ["antisymmetric", "gated"])
def test_a_million_steps_train_in_a_few_hundred_megabytes(cell):
    code = f"""
import resource, sys, numpy as np, antisymrnn_numba as backend
from antisymrnn_ref import initialization
def peak():
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 2**20 if sys.platform == "darwin" else used / 2**10
T, n = 10**6, 128
initialize = initialization.parameters if {cell!r} == "antisymmetric" else initialization.gated_parameters
drawn = initialize(np.random.default_rng(0), n, 1, sigma_w=1.0)
parameters = type(drawn)(*(leaf.astype(np.float32) for leaf in drawn))
x = np.random.default_rng(1).standard_normal((T, 1, 1)).astype(np.float32)
h0, g = np.zeros((1, n), np.float32), np.ones((1, n), np.float32)
backend.warmup(["float32"])
constants = {{"step_size": 0.01, "diffusion": 0.1}}
before = peak()
cell = getattr(backend, {cell!r})
trajectory = cell.forward(parameters, x, h0, keep_every=1000, **constants)
gradients = cell.backward(parameters, x, trajectory, g, **constants)
assert np.isfinite(gradients.parameters.W).all() and gradients.parameters.W.any()
print(peak() - before)
"""
    assert float(python(code)) < 50  # megabytes; every state would take 512


def test_no_threading_layer_of_numba_is_started():
    code = CASES + (
        "import numba\n"
        "for case in cases():\n"
        "    run(antisymrnn_numba, case)\n"
        "try:\n"
        "    numba.threading_layer()\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    assert "not initialized" in python(code, NUMBA_THREADING_LAYER="tbb")


def test_the_package_comes_with_its_types_and_needs_its_own_library_alone():
    package = Path(_target.__file__).parent
    assert (package / "py.typed").is_file()
    found = set()
    for source in package.glob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            found |= {name if name.startswith("antisymrnn_ref") else name.split(".")[0] for name in names}
    allowed = {"numba", "llvmlite", "numpy", "antisymrnn_numba", "antisymrnn_ref.contract"}
    assert found - set(sys.stdlib_module_names) == allowed


def test_kernels_of_another_width_are_refused_before_they_write():
    code = """
import numpy as np, antisymrnn_numba
from antisymrnn_numba import _host, _memory
from antisymrnn_ref import Parameters
_host.TARGET, empty, lent = _host.TARGET._replace(vector_bytes=_host.TARGET.vector_bytes // 2), _memory.empty, []
def poisoned(shape, dtype):
    lent.append(empty(shape, dtype))
    lent[-1].view(np.uint8)[...] = 0xFF
    return lent[-1]
_memory.empty = poisoned
parameters = Parameters(np.eye(3), np.ones((3, 1)), np.ones(3))
x, h0 = np.ones((2, 1, 1)), np.ones((1, 3))
try:
    antisymrnn_numba.antisymmetric.forward(parameters, x, h0, step_size=0.1, diffusion=0.1)
except RuntimeError as error:
    print(len(lent) > 2 and all((array.view(np.uint8) == 0xFF).all() for array in lent), error)
"""
    assert re.fullmatch("True the kernels have panels of .*, expected .*; delete Numba's cache", python(code))


PACKED = """
{before}
import numpy as np
from antisymrnn_numba import _kernels
def packed(dtype):
    "What the smallest kernel makes of a matrix, behind which the memory ends."
    width, matrix = 2 * _kernels.VECTOR_BYTES // np.dtype(dtype).itemsize, np.arange(15, dtype=dtype).reshape(3, 5)
    out = np.full((-(-5 // width), 3, width), 7, dtype)
    _kernels.pack(dtype(1), matrix.ctypes.data, 3, 5, 5, 1, out.ctypes.data)
    padded = np.zeros((3, len(out) * width), dtype)
    padded[:, :5] = matrix
    assert (out == padded.reshape(3, -1, width).swapaxes(0, 1)).all(), out
for dtype in (np.float64, np.float32):
    packed(dtype)
stats = _kernels.pack.dispatcher.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def test_processes_of_other_widths_share_a_folder_for_the_cache_and_notice_files_mixed_up(tmp_path):
    narrow, wide = (PACKED.format(before=preset(Target(width, 16, False))) for width in (16, 64))
    assert [python(code, NUMBA_CACHE_DIR=str(tmp_path)) for code in (narrow, wide)] == ["0 2", "0 2"]
    _, float32, wide_float64, _ = sorted(tmp_path.rglob("*.nbc"))
    float32.write_bytes(wide_float64.read_bytes())  # as processes do that take the same number at once
    assert python(narrow, NUMBA_CACHE_DIR=str(tmp_path)) == "1 1"


CHANGES = {
    "instructions": lambda patch: patch.setattr(_kernels, "TARGET", _kernels.TARGET._replace(fused=None)),
    "width": lambda patch: patch.setattr(_kernels, "VECTOR_BYTES", 128),
    "rows of a tile": lambda patch: patch.setattr(_kernels, "MOST_ROWS", 5),
    "coefficients": lambda patch: patch.setitem(_kernels.COEFFICIENTS, 64, _kernels.COEFFICIENTS[32]),
    "Numba": lambda patch: patch.setattr(numba, "__version__", "0.0"),
    "llvmlite": lambda patch: patch.setattr(llvmlite, "__version__", "0.0"),
    "optimisation": lambda patch: patch.setattr(numba.config, "OPT", 1),
    "text": lambda patch: patch.setattr(_kernels.pack.dispatcher._cache._cache_file, "_source_stamp", b""),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_kernels_depend_on_is_in_the_key_of_the_cache(change, monkeypatch):
    def key() -> object:
        dispatcher = _kernels.pack.dispatcher
        return dispatcher._cache._index_key((), dispatcher.targetctx.codegen())

    before = key()
    assert key() == before
    CHANGES[change](monkeypatch)
    assert key() != before


def test_the_kernels_take_nothing_but_constants_from_other_modules():
    tree = ast.parse(Path(_kernels.__file__).read_text(encoding="utf-8"))
    ours = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and "antisymrnn" in (node.module or "")]
    assert ours, "their values are in the key of the cache by their names in capitals"
    assert all(alias.name.isupper() and alias.asname is None for node in ours for alias in node.names)
    assert not any(
        "antisymrnn" in name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    )


BITS = """
import hashlib, numpy as np
from antisymrnn_numba import _kernels
from antisymrnn_validation.truth.cases import random_case
from antisymrnn_validation.truth.calls import run
import antisymrnn_numba
digest = hashlib.sha256()
for case in (random_case("gated", 9, 5, 33, 4, step_size=0.3, diffusion=0.2, seed=1, dtype=np.float32),):
    for array in run(antisymrnn_numba, case).values():
        digest.update(array.tobytes())
stats = [kernel.dispatcher.stats for kernel in vars(_kernels).values() if hasattr(kernel, "dispatcher")]
print(digest.hexdigest(), sum(sum(each.cache_hits.values()) for each in stats))
"""


@pytest.mark.slow
def test_processes_of_other_targets_share_a_folder_for_the_cache(tmp_path):
    targets = [_target.TARGET, _target.TARGET._replace(fused=not _target.TARGET.fused), Target(16, 16, False)]
    alone = [python(preset(target) + BITS, NUMBA_CACHE_DIR=str(tmp_path / str(k))) for k, target in enumerate(targets)]
    assert [each.split()[1] for each in alone] == ["0", "0", "0"]
    assert alone[0] != alone[1], "the targets' bits are the same"
    shared = str(tmp_path / "shared")
    for loaded in (0, 5):
        for target, expected in zip(targets, alone, strict=True):
            got = python(preset(target) + BITS, NUMBA_CACHE_DIR=shared)
            assert got.split() == [expected.split()[0], str(loaded)], target


@pytest.mark.slow
def test_processes_that_fill_a_folder_at_once_get_the_same_bits(tmp_path):
    alone = python(BITS, NUMBA_CACHE_DIR=str(tmp_path / "alone"))
    shared = str(tmp_path / "shared")
    with ThreadPoolExecutor(4) as pool:
        others = [_target.TARGET, _target.TARGET._replace(fused=not _target.TARGET.fused)] * 2
        got = list(pool.map(lambda target: python(preset(target) + BITS, NUMBA_CACHE_DIR=shared), others))
    assert {bits.split()[0] for bits in got[::2]} == {alone.split()[0]}
    assert len({bits.split()[0] for bits in got}) == 2
