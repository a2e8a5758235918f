"""CUDA C++ to machine code by NVRTC, which needs neither a GPU nor a driver; and what must hold of that code."""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from antisymrnn_ref.installation import install_command

PACKAGE = "nvidia-cuda-nvrtc-cu12"
LIBRARY = "libnvrtc.so.12"

SHARED_BYTES = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024}
"""Shared memory that a block can ask for."""

REGISTERS = 65536
"""Of a block. A thread gets a multiple of 8, and a block as if its warps were a multiple of 4."""

ATOMICS = {"atom.global.add.u64", "atom.global.exch.b64"}
"""The counters of the grid's barrier."""

REMARK = re.compile(
    r"ptxas info    : (\d+ bytes gmem.*|Compile time = .*|Used \d+ registers.*)"
    r"|ptxas info    : (Compiling entry function|Function properties for) .*"
    r"|ptxas         \. +\d+ bytes stack frame, .*"
)
LOG = re.compile(
    r"ptxas info    : Compiling entry function '(\w+)' for '(\w+)'\n"
    r"ptxas info    : Function properties for \1\n"
    r"ptxas         \. +(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n"
    r"ptxas info    : Used (\d+) registers(.*)\n"
)
PROPERTIES = re.compile(r"Function properties for (\w+)")
OPCODE = re.compile(r"(?:^|[;{}])\s*(?:@!?%\w+\s+)?([a-z]\w*(?:(?:\.|::)\w+)*)", re.MULTILINE)
FORBIDDEN = {
    "expected no tensor cores": re.compile(r".*(mma|tcgen05|tf32|\.b?f16).*"),
    "expected no approximation": re.compile(r".*\.(approx|full).*"),
    "expected rounding of its own": re.compile(r"(add|sub|mul)(\.ftz|\.sat)*\.f(32|64)(x2)?"),  # else ptxas may fuse
    "expected no atomic": re.compile(r"(atom|red)\..*"),
}


class Usage(NamedTuple):
    """What a kernel takes, as the log has it: registers of a thread, bytes, ``shared`` without the dynamic part."""

    name: str
    arch: str
    stack: int
    spill_stores: int
    spill_loads: int
    registers: int
    shared: int


class Compiled(NamedTuple):
    log: str
    cubin: bytes
    ptx: str
    kernels: tuple[Usage, ...]


class Wanted(NamedTuple):
    """A kernel as the caller launches it."""

    name: str
    threads: int
    shared: int


class CompileError(Exception):
    """The compiler's log."""


def find_library(package: str = PACKAGE) -> Path:
    try:
        installed = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        installed = []
    for file in installed:
        if file.name == LIBRARY:
            return Path(str(file.locate()))
    raise FileNotFoundError(f"expected {LIBRARY} of {package}; {install_command('test')} brings it on Linux")


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(str(find_library()))


def _call(function: str, *arguments: Any) -> None:
    if code := getattr(_library(), function)(*arguments):
        _library().nvrtcGetErrorString.restype = ctypes.c_char_p
        raise CompileError(f"{function}: {_library().nvrtcGetErrorString(code).decode()}")


def _result(program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    _call(f"nvrtcGet{what}", program, buffer)
    return buffer.raw


def compile(source: str, arch: str, options: Sequence[str]) -> Compiled:
    """Machine code for ``sm_…``; threads may compile at the same time.

    Raises
    ------
    CompileError
        With the log.
    """
    told = [f"-arch={arch}", "--no-cache", "-Xptxas=-v", *options]
    program = ctypes.c_void_p()
    _call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
    try:
        words = (ctypes.c_char_p * len(told))(*(option.encode() for option in told))
        failed = _library().nvrtcCompileProgram(program, len(told), words)
        log = _result(program, "ProgramLog").rstrip(b"\0").decode()
        if failed:
            raise CompileError(log)
        ptx = _result(program, "PTX").rstrip(b"\0").decode()
        return Compiled(log, _result(program, "CUBIN"), ptx, tuple(usages(log)))
    finally:
        _call("nvrtcDestroyProgram", ctypes.byref(program))


def usages(log: str) -> Iterator[Usage]:
    for name, arch, stack, stores, loads, registers, more in LOG.findall(log):
        shared = re.search(r"(\d+) bytes smem", more)
        yield Usage(name, arch, int(stack), int(stores), int(loads), int(registers), int(shared[1]) if shared else 0)


def functions(cubin: bytes) -> list[str]:
    """Names of the functions in machine code: sections ``.text.NAME`` of a 64-bit ELF file."""
    (sections,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, of_names = struct.unpack_from("<3H", cubin, 0x3A)
    headers = [struct.unpack_from("<IIQQQ", cubin, sections + i * size) for i in range(count)]
    begins = [headers[of_names][4] + header[0] for header in headers]
    names = [cubin[begin : cubin.index(b"\0", begin)].decode() for begin in begins]
    return [name.removeprefix(".text.") for name in names if name.startswith(".text.")]


def opcodes(ptx: str) -> set[str]:
    """Instructions with their modifiers, those of inline assembly too."""
    return set(OPCODE.findall(re.sub(r"//.*", "", ptx)))


def block_registers(registers: int, threads: int) -> int:
    """What the hardware sets aside for a block."""
    return -(-registers // 8) * 8 * 32 * (-(-threads // 128) * 4)


def complaints(compiled: Compiled, wanted: Sequence[Wanted], shared_bytes: int) -> list[str]:
    """What is not as it must be."""
    lines = [line for line in compiled.log.splitlines() if line.strip() and not REMARK.fullmatch(line)]
    found = ["\n".join(["warnings:", *lines])] if lines else []
    names = sorted(kernel.name for kernel in wanted)
    for place, there in (("log", PROPERTIES.findall(compiled.log)), ("code", functions(compiled.cubin))):
        if sorted(there) != names:
            found.append(f"kernels: expected {names}, got {sorted(there)} in the {place}")
    usage: Mapping[str, Usage] = {kernel.name: kernel for kernel in compiled.kernels}
    for name, threads, dynamic in (kernel for kernel in wanted if kernel.name in usage):
        _, _, stack, stores, loads, registers, static = usage[name]
        if stores or loads:
            found.append(f"{name}: expected no spills, got {stores} bytes of stores and {loads} of loads")
        if stack:
            found.append(f"{name}: expected no stack, got {stack} bytes")
        if registers > 255 or block_registers(registers, threads) > REGISTERS:
            found.append(f"{name}: expected {threads} threads to fit, they have {registers} registers each")
        if static + dynamic > shared_bytes:
            found.append(f"{name}: expected at most {shared_bytes} bytes of shared memory, got {static + dynamic}")
    for opcode in sorted(opcodes(compiled.ptx) - ATOMICS):
        found += [f"{opcode}: {what}" for what, pattern in FORBIDDEN.items() if pattern.fullmatch(opcode)]
    return found
