"""The checks as properties: every promise on arbitrary cases; and how failures are told."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import antisymrnn_ref
from antisymrnn_validation.conformance.cases import CELLS, Case, generic_cases, random_case
from antisymrnn_validation.conformance.checks import (
    BrokenPromise,
    Promise,
    _memory,
    _thread_counts,
    certify,
    iter_checks,
    make_check,
    measure,
    promises,
    run,
)

# bad calls need sizes that differ pairwise, which the checks give them; signatures do not depend on the case
PROMISES = {
    promise.__name__.strip("_"): promise
    for promise in promises("numpy")
    if promise.__name__ not in ("_errors", "_signatures")
}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    T, B, n, m = (draw(st.integers(low, high)) for low, high in ((2, 12), (2, 5), (1, 9), (1, 5)))
    return random_case(
        draw(st.sampled_from(CELLS)),
        T,
        B,
        n,
        m,
        step_size=draw(st.sampled_from([0.01, 0.1, 0.3, 0.5, 1.0])),
        diffusion=draw(st.sampled_from([0.0, 0.01, 0.15, 1.0])),
        seed=draw(st.integers(0, 2**32)),
        dtype=draw(st.sampled_from([np.float32, np.float64])),
        scale=draw(st.sampled_from([0.5, 1.0, 4.0])),
    )


@pytest.mark.parametrize("promise", PROMISES.values(), ids=PROMISES)
@settings(max_examples=40)
@given(case=cases())
def test_the_specification_keeps_every_promise(promise: Promise, case: Case) -> None:
    result = make_check(promise, case).run(antisymrnn_ref)
    assert result.status == "passed", result.detail


@settings(max_examples=80)
@given(case=cases())
def test_the_specification_agrees_with_the_certified_truth(case: Case) -> None:
    result = certify("numpy", case).run(antisymrnn_ref)
    assert result.status == "passed", result.detail
    assert set(result.errors) == {"h", *case.parameters._fields, "x", "h0", "step_size", "diffusion"}


def test_every_check_of_the_specification_passes() -> None:
    results = [check.run(antisymrnn_ref) for check in iter_checks("numpy")]
    assert [result for result in results if result.status == "failed"] == []
    assert {result.check for result in results if result.status == "not applicable"} == {"thread counts"}
    assert {result.check for result in results} >= {"accuracy", "conversion", "errors", "checkpointing"}
    assert len(results) > 150


def test_the_bits_are_compared_across_thread_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = "from antisymrnn_ref import antisymmetric, asarray, gated, to_numpy\n"
    moved = (
        "import os, types\nfrom antisymrnn_ref import antisymmetric as right, asarray, gated, to_numpy\n"
        "def forward(parameters, x, h0, **options):\n"
        "    trajectory = right.forward(parameters, x, h0, **options)\n"
        "    return trajectory._replace(h=trajectory.h * (1 + 1e-15 * (os.environ.get('NUMBA_NUM_THREADS') == '3')))\n"
        "antisymmetric = types.SimpleNamespace(forward=forward, backward=right.backward)\n"
    )
    case = random_case("antisymmetric", 11, 4, 7, 3, step_size=0.3, diffusion=0.2, seed=101)
    monkeypatch.syspath_prepend(tmp_path)
    for name, source, status in (("honest_threads", honest, "passed"), ("moved_threads", moved, "failed")):
        (tmp_path / f"{name}.py").write_text(source)
        result = make_check(_thread_counts, case).run(importlib.import_module(name))
        assert result.status == status, result.detail
    assert result.detail == "other bits with 3 threads than with 1"


def test_memory_that_grows_with_the_length_is_seen() -> None:
    hoarder = ModuleType("hoarder")
    hoarder.__dict__.update(antisymrnn_ref.__dict__)
    hoard: list[np.ndarray] = []

    def forward(parameters: object, x: np.ndarray, h0: np.ndarray, **options: object) -> object:
        hoard.append(np.ones((len(x), *h0.shape)))
        return antisymrnn_ref.antisymmetric.forward(parameters, x, h0, **options)

    hoarder.antisymmetric = SimpleNamespace(forward=forward, backward=antisymrnn_ref.antisymmetric.backward)
    case = random_case("antisymmetric", 4, 2, 3, 1, step_size=0.3, diffusion=0.2, seed=101)
    assert make_check(_memory, case).run(antisymrnn_ref).status == "passed"
    assert make_check(_memory, case).run(hoarder).detail.startswith("keep_every=32: 1")


def test_the_tolerance_is_measured_and_small() -> None:
    seen = set()
    for case in generic_cases():
        if "saturated" in case.name:  # 1 − s² has few digits left there
            continue
        for name, error in measure(run(antisymrnn_ref, case), case).items():
            # ε and γ each have one gradient, a sum over everything, with more or less cancellation
            ulps = 5000 if name in ("step_size", "diffusion") else 500
            assert error.tolerance <= ulps * np.finfo(case.dtype).eps, (case.name, name)
            seen.add(error.tolerance)
    assert len(seen) > 200


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["h", "W", "V", "b", "x", "h0", "step_size", "diffusion"])
def test_a_small_error_in_any_one_array_is_seen(name: str, dtype: type) -> None:
    case = random_case("antisymmetric", 11, 4, 7, 3, step_size=0.3, diffusion=0.2, seed=101, dtype=dtype)
    arrays = run(antisymrnn_ref, case)
    tolerance = measure(arrays, case)[name].tolerance
    arrays[name] = arrays[name].copy()
    largest = np.unravel_index(np.abs(arrays[name]).argmax(), arrays[name].shape)
    arrays[name][largest] *= 1 + 2 * tolerance
    with pytest.raises(BrokenPromise, match=f"^{name}: relative error"):
        measure(arrays, case)


def test_fast_backends_are_held_to_bits() -> None:
    names = {promise.__name__ for promise in promises("anything else")}
    assert {"_neighbours", "_nan_column"} <= names


def test_whatever_a_backend_raises_is_its_failure() -> None:
    broken = ModuleType("broken")
    broken.asarray, broken.to_numpy = antisymrnn_ref.asarray, antisymrnn_ref.to_numpy
    results = [check.run(broken) for check in iter_checks("broken", quick=True)]
    assert {result.check for result in results if result.status != "failed"} <= {"conversion", "thread counts"}
    assert all("AttributeError" in result.detail for result in results if result.status == "failed")
