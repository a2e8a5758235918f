"""tanh and the sigmoid of the backends, in ulp against double precision or ball arithmetic.

``python tests/backends/test_activations.py`` goes through every float32 of the Numba backend's. The CuPy backend's are
the same formulas, run here on the CPU; the device also takes float32 denormals for zero.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest
from flint import arb, ctx

from antisymrnn_numba import _kernels

ALLOWED = {"tanh": 1.4, "sigmoid": 2.5}
FUNCTIONS = {"tanh": 0, "sigmoid": 1}


Activate: TypeAlias = Callable[[str, np.ndarray], np.ndarray]


def of_numba(name: str, x: np.ndarray) -> np.ndarray:
    """The kernels' own function of every entry, (N,)."""
    panel = 2 * _kernels.TARGET.vector_bytes // x.itemsize
    given = np.zeros(-(-len(x) // panel) * panel, x.dtype)
    given[: len(x)] = x
    out = np.empty_like(given)
    addresses = (array.__array_interface__["data"][0] for array in (given, out))
    _kernels.activate(x.dtype.type(0), FUNCTIONS[name], *addresses, len(given))
    return out[: len(x)]


@pytest.fixture(params=["numba", "cupy"])
def activate(request, on_cpu) -> Activate:
    if request.param == "numba":
        return of_numba
    _, backend = on_cpu()

    def of_cupy(name: str, x: np.ndarray) -> np.ndarray:
        device, out, blocks = backend._device.current(), np.empty_like(x), -(-len(x) // 2**14)
        told = {"parts": x.ctypes.data, "totals": out.ctypes.data, "count": len(x), "sign": 1 - 2 * FUNCTIONS[name]}
        backend._device.launch(f"activate_{x.dtype}", device, (blocks, 1, 1), **told)
        return out

    return of_cupy


def errors32(activate: Activate, name: str, x: np.ndarray) -> np.ndarray:
    """Errors in ulp of float32, against float64: its own error is below 1e-6 of such an ulp where it is not exact."""
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        small = np.exp(-np.abs(wide))
        truth = np.tanh(wide) if name == "tanh" else np.where(wide < 0, small / (1 + small), 1 / (1 + small))
        ulp = np.spacing(np.abs(truth.astype(np.float32))).astype(np.float64)
        ulp = np.maximum(ulp, 2.0**-149)
        # just below a power of two the ulp is that of the truth, not of its rounding
        ulp = np.where(np.abs(truth) < np.abs(truth.astype(np.float32)), np.minimum(ulp, below(truth)), ulp)
        return np.abs(activate(name, x).astype(np.float64) - truth) / ulp


def below(truth: np.ndarray) -> np.ndarray:
    """The ulp of float32 at numbers of float64."""
    exponent = np.frexp(truth)[1] - 24
    return np.maximum(np.ldexp(1.0, exponent), 2.0**-149)


def every_float32(start: int, stop: int) -> np.ndarray:
    return np.arange(start, stop, dtype=np.uint32).view(np.float32)


def joints(dtype: type) -> np.ndarray:
    """Arguments where the power of two of a reduction changes, and where small and large arguments part."""
    k = np.arange(0, 160)
    reduced = np.concatenate([(k + 0.5) * np.log(2), (k + 0.5) * np.log(2) / 2, [0.55, 9.02, 10.0, 19.07, 20.0, 40.0]])
    return np.concatenate([-reduced[::-1], reduced]).astype(dtype)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_over_float32(name, activate):
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, 2**32, 2**21, dtype=np.uint32).view(np.float32)
    x = np.concatenate([drawn[np.isfinite(drawn)], generator.uniform(-20, 20, 2**21).astype(np.float32)])
    assert errors32(activate, name, x).max() <= ALLOWED[name]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_over_float64_against_balls(name, activate):
    generator = np.random.default_rng(1)
    x = np.concatenate(
        [
            generator.uniform(-40, 40, 6000),
            generator.uniform(-760, 0, 1000),
            generator.choice([-1, 1], 3000) * 10 ** generator.uniform(-320, 3, 3000),
            (joints(np.float64)[:, None] * (1 + np.arange(-3, 4) * 2.0**-52)).ravel(),
        ]
    )
    got, worst = activate(name, x), 0.0
    with ctx.workprec(200):
        for value, result in zip(x.tolist(), got.tolist(), strict=True):
            ball = arb(value)
            truth = ball.tanh() if name == "tanh" else 1 / (1 + (-ball).exp())
            ulp = max(np.ldexp(1.0, int(np.frexp(float(truth))[1]) - 53), 2.0**-1074)
            worst = max(worst, float(abs(arb(result) - truth).upper() / arb(ulp)))
    assert 0.4 < worst <= ALLOWED[name]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exact_values(dtype, activate):
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.array([0.0, -0.0, np.inf, -np.inf, tiny, -tiny, 1e30, -1e30, np.finfo(dtype).max], dtype)
    tanh = np.array([0.0, -0.0, 1, -1, tiny, -tiny, 1, -1, 1], dtype)
    assert activate("tanh", x).tobytes() == tanh.tobytes()
    sigmoid = np.array([0.5, 0.5, 1, 0, 0.5, 0.5, 1, 0, 1], dtype)
    assert activate("sigmoid", x).tobytes() == sigmoid.tobytes()
    nan = np.array([np.nan, -np.nan], dtype)
    assert all(np.isnan(activate(name, nan)).all() for name in FUNCTIONS)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_odd_bounded_and_monotone_at_the_joints(dtype, activate):
    generator = np.random.default_rng(2)
    x = generator.uniform(-30, 30, 2**16).astype(dtype)
    assert activate("tanh", -x).tobytes() == (-activate("tanh", x)).tobytes()
    around = joints(dtype)[:, None] + np.abs(np.spacing(joints(dtype)))[:, None] * np.arange(-8, 9, dtype=dtype)
    for name in FUNCTIONS:
        values = activate(name, around.ravel()).reshape(around.shape)
        assert np.abs(values).max() <= 1
        assert (values[:, 8:].min(axis=1) >= values[:, :8].max(axis=1)).all(), name


def main() -> int:
    """Every float32 that is a number, both signs."""
    failed = 0
    for name in FUNCTIONS:
        worst, where = 0.0, 0.0
        for start in (*range(0, 0x7F800000, 2**22), *range(0x80000000, 0xFF800000, 2**22)):
            x = every_float32(start, min(start + 2**22, 0x7F800000 if start < 0x80000000 else 0xFF800000))
            errors = errors32(of_numba, name, x)
            if errors.max() > worst:
                worst, where = float(errors.max()), float(x[errors.argmax()])
        print(f"{name}: at most {worst:.4f} ulp, at {where!r}, over 4278190080 float32")
        failed += not worst <= ALLOWED[name]
    return failed


if __name__ == "__main__":
    sys.exit(main())
