"""The CuPy backend on a real GPU, where there is one: the judge, arrays of PyTorch and JAX without a copy, streams."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from antisymrnn_ref import load_backend
from antisymrnn_ref.contract import BackendUnavailable, Parameters
from antisymrnn_validation.conformance.plan import iter_checks
from antisymrnn_validation.truth.cases import random_case

try:
    backend = load_backend("cupy")
except BackendUnavailable as error:
    pytest.skip(f"there is no GPU to run on: {error}", allow_module_level=True)

cupy = importlib.import_module("cupy")
CASE = random_case("antisymmetric", 20, 6, 40, 2, step_size=0.1, diffusion=0.1, seed=1, dtype=np.dtype("float32"))
CHECKS = iter_checks("cupy", quick=True)


def states(parameters, x, h0):
    return backend.antisymmetric.forward(parameters, x, h0, **CASE.arguments).h


def converted():
    parameters = Parameters(*(backend.asarray(leaf, CASE.dtype) for leaf in CASE.parameters))
    return parameters, backend.asarray(CASE.x, CASE.dtype), backend.asarray(CASE.h0, CASE.dtype)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.name}-{check.case}".replace(" ", "_"))
def test_every_check_of_the_contract(check):
    result = check.run(backend)
    assert result.status in ("passed", "not applicable"), result.detail


def test_a_call_runs_on_the_current_stream():
    expected = backend.to_numpy(states(*converted()))
    with cupy.cuda.Stream(non_blocking=True):
        assert backend.to_numpy(states(*converted())).tobytes() == expected.tobytes()


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_arrays_of_other_libraries_need_no_copy(library):
    module = pytest.importorskip(library)
    parameters, x, h0 = converted()
    if library == "torch":
        if not module.cuda.is_available():
            pytest.skip("this PyTorch sees no GPU")
        theirs = module.tensor(CASE.x, device="cuda")
        back = module.from_dlpack
    else:
        if module.default_backend() != "gpu":
            pytest.skip("this JAX sees no GPU")
        theirs = module.numpy.asarray(CASE.x)
        back = module.dlpack.from_dlpack
    ours = cupy.from_dlpack(theirs)
    pointer = theirs.data_ptr() if library == "torch" else theirs.unsafe_buffer_pointer()
    assert ours.data.ptr == pointer
    h = states(parameters, ours, h0)
    assert backend.to_numpy(h).tobytes() == backend.to_numpy(states(parameters, x, h0)).tobytes()
    returned = back(h)
    assert np.array_equal(np.asarray(returned.cpu() if library == "torch" else returned), backend.to_numpy(h))
