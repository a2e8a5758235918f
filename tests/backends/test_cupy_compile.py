"""The CuPy backend's kernels through the real compiler, for every architecture, and their text against the tables."""

from __future__ import annotations

import importlib.resources
import io
import os
import re
import sys
import tokenize
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import antisymrnn_ref
import compile_gate
from antisymrnn_cupy import _instances
from antisymrnn_cupy._instances import INSTANCES, ITEMSIZE, KERNELS, MODULES, OPTIONS, REAL, STRUCTS
from antisymrnn_validation.truth.cases import CELLS
from compile_gate import CompileError, Wanted

HERE = importlib.resources.files("antisymrnn_cupy")  # as installed: the wheel must have the kernels
TEXT, DEVICE, HOST = (HERE.joinpath(name).read_text("utf-8") for name in ("_kernels.cu", "_device.cuh", "_host.py"))
JOBS = [
    (arch, module)
    for arch in compile_gate.SHARED_BYTES
    for module, kernels in MODULES.items()
    if arch != "sm_80" or all(kernel.cluster == 1 for kernel in kernels)
]

FAST = ("sm_90", "float32_32")
"""The job in the fast tier."""

needs_nvrtc = pytest.mark.skipif(sys.platform != "linux", reason="NVRTC comes with the test extra, on Linux only")


# ---- every kernel


def wanted(module: str) -> list[Wanted]:
    """The kernels of a module as they are launched, with the least samples and the most inputs."""
    of_instance = {instance.name: instance for instance in INSTANCES}.get(module)
    kernels = []
    for kernel in MODULES[module]:
        shared = kernel.shared * ITEMSIZE[kernel.dtype]
        if of_instance:
            passes = {"backward": kernel.name.startswith("backward"), "gated": "_gated_" in kernel.name}
            shared = max(of_instance.shared_bytes(1, **passes, m=m) for m in (1, 5))
        kernels.append(Wanted(kernel.name, kernel.threads, shared))
    return kernels


@pytest.fixture(scope="session")
def compiled(request):
    """``compiled[arch, module]``: the code of what was asked for, when it is there."""
    asked = [getattr(item, "callspec", None) for item in request.session.items]
    jobs = dict.fromkeys(
        (c.params["arch"], c.params["module"]) for c in asked if c and {"arch", "module"} <= c.params.keys()
    )
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {
            (arch, module): pool.submit(compile_gate.compile, _instances.source(module), arch, OPTIONS)
            for arch, module in jobs
        }
        pool.shutdown(cancel_futures=True)


@needs_nvrtc
@pytest.mark.parametrize(
    ("arch", "module"),
    [pytest.param(*job, marks=[] if job == FAST else pytest.mark.slow) for job in JOBS],
)
def test_a_module_compiles_to_what_the_table_says(arch, module, compiled):
    result = compiled[arch, module].result()
    assert compile_gate.complaints(result, wanted(module), compile_gate.SHARED_BYTES[arch]) == []
    assert {kernel.arch for kernel in result.kernels} == {arch}
    atomics = {code for code in compile_gate.opcodes(result.ptx) if code.startswith(("atom.", "red."))}
    assert atomics == (compile_gate.ATOMICS if module.endswith("_any") else set())


# ---- the gate itself

STACK = "float a[64]; for (int i = 0; i < 64; ++i) a[int(out[i])] = out[i + 64]; out[0] = a[int(out[1])];"
SPILL = (
    "float a[200];\n#pragma unroll\nfor (int i = 0; i < 200; ++i) a[i] = out[i];\n__syncthreads();\n"
    "#pragma unroll\nfor (int i = 0; i < 200; ++i) out[i] = a[i] * a[199 - i];"
)
MMA = (
    'double x = out[0], y, z; asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%2}, '
    '{%2, %2};" : "=d"(y), "=d"(z) : "d"(x)); out[0] = y + z;'
)
CAS = "atomicCAS(reinterpret_cast<unsigned*>(out), 0u, __float_as_uint(out[1]));"
PLANTED = {  # statements of a kernel with a float* called out, threads, shared memory, what is said
    "nothing": ("out[0] = fma(out[0], out[1], out[2]) + out[3] / out[4];", 1024, 227 * 1024, None),
    "a stack": (STACK, 32, 0, "expected no stack, got 256 bytes"),
    "a spill": (SPILL, 1024, 0, "expected no spills, got [1-9]"),
    "too many registers": (SPILL, 128, 0, "expected 512 threads to fit, they have 2.. registers each"),
    "static shared memory": ("__shared__ float a[9]; a[int(out[1])] = 1; __syncthreads(); out[0] = a[int(out[2])];",
                             32, 227 * 1024 - 35, "expected at most 232448 bytes of shared memory, got 232449"),
    "dynamic shared memory": ("out[0] = 0;", 32, 227 * 1024 + 1, "expected at most 232448 bytes of shared memory"),
    "a function": ("out[0] = helper(out[1]);", 32, 0, "kernels: expected .*helper.* in the log"),
    "a warning": ("int unused;", 32, 0, "warnings:.*unused"),
    "a sum of atomics": ("atomicAdd(out, out[1]);", 32, 0, r"(atom|red)\.global\.add\.f32: expected no atomic"),
    "a sum by exchange": (CAS, 32, 0, r"atom\.\S*cas\.b32: expected no atomic"),
    "tensor cores": (MMA, 32, 0, r"mma\.sync\S*: expected no tensor cores"),
    "an approximation": ("out[0] = __expf(out[1]);", 32, 0, r"ex2\.approx\S*: expected no approximation"),
}  # fmt: skip


def of_one_kernel(body: str, threads: int, options: tuple[str, ...] = OPTIONS) -> compile_gate.Compiled:
    helper = "__device__ __noinline__ float helper(float x) { return x * x; }\n" if "helper" in body else ""
    head = f'{helper}extern "C" __global__ void __launch_bounds__({threads}, 1)\n'
    return compile_gate.compile(f"{head}planted(float* out) {{\n{body}\n}}\n", "sm_90", options)


@needs_nvrtc
@pytest.mark.parametrize("name", PLANTED)
def test_planted_errors_are_found(name):
    body, threads, shared, expected = PLANTED[name]
    launched = 512 if name == "too many registers" else threads
    result = of_one_kernel(body, threads)
    found = compile_gate.complaints(result, [Wanted("planted", launched, shared)], 227 * 1024)
    if expected is None:
        assert found == []
    else:
        assert any(re.search(expected, complaint, re.DOTALL) for complaint in found), found
        assert len(found) == 1 + (name == "a spill"), found  # which needs a stack


@needs_nvrtc
@pytest.mark.parametrize("names", [[], ["planted", "other"], ["other"]])
def test_missing_and_unexpected_kernels_are_found(names):
    result = of_one_kernel("out[0] = 0;", 32)
    found = compile_gate.complaints(result, [Wanted(name, 32, 0) for name in names], 227 * 1024)
    assert [complaint[-8:] for complaint in found] == [" the log", "the code"]


@needs_nvrtc
def test_nothing_is_fused_unasked():
    assert "-fmad=false" in OPTIONS[:2]  # the others are CuPy's
    body = "out[0] = out[1] * out[2] + out[3];"
    plain, asked = of_one_kernel(body, 32), of_one_kernel("out[0] = fma(out[1], out[2], out[3]);", 32)
    arithmetic = {"mul.rn.ftz.f32", "add.rn.ftz.f32", "fma.rn.ftz.f32"}
    assert compile_gate.opcodes(plain.ptx) & arithmetic == {"mul.rn.ftz.f32", "add.rn.ftz.f32"}
    assert compile_gate.opcodes(asked.ptx) & arithmetic == {"fma.rn.ftz.f32"}
    fused = of_one_kernel(body, 32, tuple(option for option in OPTIONS if option != "-fmad=false"))
    assert "fma.rn.ftz.f32" in compile_gate.opcodes(fused.ptx)
    unrounded = fused._replace(ptx=plain.ptx.replace("mul.rn", "mul").replace("add.rn", "add"))
    said = compile_gate.complaints(unrounded, [Wanted("planted", 32, 0)], 0)
    assert said == [f"{code}.ftz.f32: expected rounding of its own" for code in ("add", "mul")]


@needs_nvrtc
def test_what_the_compiler_refuses_is_an_error_with_its_log():
    with pytest.raises(CompileError, match=r"kernels\.cu\(\d+\): error: .*nonsense"):
        of_one_kernel("nonsense;", 32)


def test_a_missing_library_is_an_error_that_says_what_to_do():
    with pytest.raises(FileNotFoundError, match=r"expected libnvrtc.* of none such; pip install"):
        compile_gate.find_library("none such")


@pytest.mark.parametrize(
    ("registers", "threads", "expected"), [(255, 256, 65536), (249, 32, 32768), (168, 384, 64512), (64, 1024, 65536)]
)
def test_registers_of_a_block(registers, threads, expected):
    assert compile_gate.block_registers(registers, threads) == expected


# ---- the text and the tables


DECLARATION = re.compile(r"\s*(?:const )?(real|unsigned long long|long long)\b(.*)", re.DOTALL)
DECLARATOR = re.compile(r"\s*(\*?) *(\w+)\s*")


def fields(text: str, struct: str) -> list[tuple[str, str]]:
    """Names and kinds of a struct's fields: address, whole number, or number of the dtype."""
    (body,) = re.findall(rf"template <typename real>\nstruct {struct} {{(.*?)\n}};", text, re.DOTALL)
    found = []
    for declaration in re.sub(r"//.*", "", body).split(";")[:-1]:
        base, declarators = DECLARATION.fullmatch(declaration).groups()
        for declarator in declarators.split(","):
            star, name = DECLARATOR.fullmatch(declarator).groups()
            found.append((name, "address" if star else base))
    return found


def disagreements(text: str) -> list[str]:
    said = []
    for struct, groups in STRUCTS.items():
        kinds = zip(("address", "long long", "real"), groups, strict=True)
        expected = [(name, kind) for kind, names in kinds for name in names.split()]
        if fields(text, struct) != expected:
            said.append(f"{struct}: expected {expected}, got {fields(text, struct)}")
    for name in ("ROWS", "DEPTH", "FEW_INPUTS"):
        if re.findall(rf"constexpr int {name} = (\d+);", text) != [str(getattr(_instances, name))]:
            said.append(f"{name}: expected {getattr(_instances, name)} once")
    return said


KINDS = """
template <class T> constexpr char kind = 0;
template <class T> constexpr char kind<T*> = 'u';
template <> constexpr char kind<long long> = 'i';
template <> constexpr char kind<float> = 'f';
template <> constexpr char kind<double> = 'f';
"""


def claims() -> str:
    """The tables as assertions for the compiler."""
    facts = []
    for kernel in {kernel.parameter: kernel for _, kernel in KERNELS.values()}.values():
        facts.append(f"sizeof({kernel.parameter}) == {kernel.layout.itemsize}")
        for name, (kind, offset) in kernel.layout.fields.items():
            facts.append(f"kind<decltype({kernel.parameter}::{name})> == '{kind.kind}'")
            facts.append(f"__INTADDR__(&(({kernel.parameter}*)0)->{name}) == {offset}")  # NVRTC has no offsetof
    for dtype, N, cluster, lanes, held in INSTANCES:
        layout = f"Layout<{REAL[dtype]}, {N}, {cluster}, {lanes}, {held}>"
        instance = _instances.Instance(dtype, N, cluster, lanes, held)
        weights = instance.shared_bytes(0, backward=False, gated=False, m=1) // ITEMSIZE[dtype]
        facts += [f"{layout}::THREADS == {instance.threads}", f"other_weights<{layout}>() == {weights}"]
        facts += [f"{layout}::{name} == {getattr(_instances, name)}" for name in ("DEPTH", "FEW_INPUTS")]
    for dtype, real in REAL.items():
        for tile, name in (("Large", f"multiply_{dtype}"), ("Small", f"forward_gated_{dtype}_any")):
            _, kernel = KERNELS[name]
            facts += [f"{tile}<{real}>::THREADS == {kernel.threads}", f"{tile}<{real}>::SHARED == {kernel.shared}"]
    return KINDS + "".join(f'static_assert({fact}, "");\n' for fact in [*facts, f"ROWS == {_instances.ROWS}"])


SLIPS = [
    ("const real *A, *A_more;", "const real *A_more, *A;"),
    ("last, B, n, m, columns;", "last, n, B, m, columns;"),
    ("    real step_size;\n};", "    real step_size, more;\n};"),
    ("    real *s, *z; ", "    real *s, z; "),
    ("long long n, unconstrained, transposed;", "long long n, unconstrained;"),
    ("constexpr int ROWS = 8;", "constexpr int ROWS = 16;"),
    ("constexpr int DEPTH = 4;", "constexpr int DEPTH = 5;"),
    ("constexpr int FEW_INPUTS = 4;", "constexpr int FEW_INPUTS = 8;"),
]


def test_structs_and_constants_of_the_kernels_are_those_of_the_table():
    assert disagreements(TEXT) == []


@needs_nvrtc
def test_the_compiler_agrees_with_the_table():
    compile_gate.compile(DEVICE + TEXT + claims(), "sm_90", OPTIONS)


@pytest.mark.parametrize(("old", "new"), SLIPS)
def test_planted_disagreements_are_found(old, new):
    assert TEXT.count(old) == 1
    edited = TEXT.replace(old, new)
    assert len(disagreements(edited)) == 1
    if sys.platform == "linux":
        with pytest.raises(CompileError, match="static assertion failed"):
            compile_gate.compile(DEVICE + edited + claims(), "sm_90", OPTIONS)


# ---- equations


def tags(comments: list[str]) -> set[str]:
    return {tag for comment in comments for tag in re.findall(r"\((G?[FB][0-9]+)\)", comment)}


def python_comments(code: str) -> list[str]:
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return [token.string for token in tokens if token.type == tokenize.COMMENT]


def kernel_comments(code: str) -> list[str]:
    """Comments of nothing but tags, at the end of a line of code."""
    return re.findall(r"^ *[^/\s].*;  +// ((?:\(\w+\) ?)+)$", code, re.MULTILINE)


def test_kernels_and_host_carry_every_tag_of_both_cells():
    specification = Path(antisymrnn_ref.__file__).parent
    expected = {
        tag for cell in CELLS for tag in tags(python_comments((specification / f"{cell}.py").read_text("utf-8")))
    }
    assert len(expected) == 4 + 9 + 5 + 8
    of_the_host = tags(python_comments(HOST))
    assert of_the_host == {"B6", "GB7"}  # one product
    assert tags(kernel_comments(TEXT)) == expected - of_the_host
    assert tags(re.findall("//.*", TEXT)) == expected - of_the_host  # none stands elsewhere


def test_only_tags_at_the_end_of_a_line_of_code_count():
    code = "    a = b;  // (B2) (GB3)\n    // (F1)\n    c = d;  // by (F4)\n    e = f;  // (F3), as (F2)\n"
    assert tags(kernel_comments(code)) == {"B2", "GB3"}
