"""What the processor that Numba compiles for can do; the kernels' vectors are cut to it."""

from __future__ import annotations

from typing import NamedTuple

from numba.core.registry import cpu_target


class Target(NamedTuple):
    """Width of a vector in bytes, how many vector registers there are, and whether a fused multiply-add is one of its
    instructions.
    """

    vector_bytes: int
    registers: int
    fused: bool


def find_target(architecture: str, features: str) -> Target:
    """The target of an LLVM architecture, ``x86_64``, and of LLVM's features, ``+avx2,-avx512f``."""
    has = set(features.split(","))
    if architecture.startswith(("aarch64", "arm64")):
        return Target(16, 32, True)
    if "+avx512f" in has:
        return Target(64, 32, True)
    if "+avx2" in has and "+fma" in has:
        return Target(32, 16, True)
    return Target(16, 16, False)


def _numba_target() -> Target:
    # NUMBA_CPU_NAME and NUMBA_CPU_FEATURES count, as they do for what Numba emits
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    return find_target(triple.partition("-")[0], features)


TARGET = _numba_target()
