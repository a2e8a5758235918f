"""The checks as properties: every promise on arbitrary cases; and how failures are told."""

from __future__ import annotations

import functools
import importlib
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flint import arb
from hypothesis import given, settings
from hypothesis import strategies as st

import antisymrnn_ref
from antisymrnn_ref.contract import Gradients, checked_backward, checked_forward
from antisymrnn_validation.conformance import plan
from antisymrnn_validation.conformance.check import Check, Promise, Result, make_check
from antisymrnn_validation.conformance.judge import judged
from antisymrnn_validation.conformance.plan import certify, iter_checks
from antisymrnn_validation.conformance.promises import PROMISES
from antisymrnn_validation.conformance.promises.accuracy import real_sizes
from antisymrnn_validation.conformance.promises.arguments import inputs_untouched
from antisymrnn_validation.conformance.promises.bad_calls import bad_calls
from antisymrnn_validation.conformance.promises.conduct import written_outputs
from antisymrnn_validation.conformance.promises.interface import errors
from antisymrnn_validation.conformance.promises.metamorphic import neighbours_to_rounding
from antisymrnn_validation.conformance.promises.process import concurrent_calls, memory, thread_counts
from antisymrnn_validation.truth import store, tolerance
from antisymrnn_validation.truth.calls import OF_FRAMEWORKS, BrokenPromise, require_same_bits, run
from antisymrnn_validation.truth.cases import (
    CELLS,
    Case,
    drawn_cases,
    generic_cases,
    random_case,
    real_sized_cases,
    swept_cases,
)
from antisymrnn_validation.truth.oracles import enclose
from antisymrnn_validation.truth.tolerance import measure, truth_and_errors
from tiers import tiered

# bad calls need sizes that differ pairwise, which the checks give them; signatures do not depend on the case
OF_ANY_CASE = {
    name: promise
    for name, promise in PROMISES.items()
    if "generic" in promise.on and not promise.same_bits and name not in ("errors", "signatures")
    if not promise.needs & OF_FRAMEWORKS  # see targets/test_frameworks.py
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


def a_case(seed: int = 101, **options: object) -> Case:
    return random_case("antisymmetric", 11, 4, 7, 3, step_size=0.3, diffusion=0.2, seed=seed, **options)


def copied(**replaced: object) -> ModuleType:
    """The specification under another name, with functions of its ungated cell replaced."""
    module, right = ModuleType("mine"), antisymrnn_ref.antisymmetric
    module.asarray, module.to_numpy = antisymrnn_ref.asarray, antisymrnn_ref.to_numpy
    module.antisymmetric = SimpleNamespace(**({"forward": right.forward, "backward": right.backward} | replaced))
    module.gated = antisymrnn_ref.gated
    return module


@pytest.mark.slow
@pytest.mark.parametrize("promise", OF_ANY_CASE.values(), ids=OF_ANY_CASE)
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


def test_a_truth_that_contradicts_the_product_rule_certifies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "tangent_identity", lambda *_: (arb(1), arb(2)))
    monkeypatch.setattr(tolerance, "truth_and_errors", truth_and_errors.__wrapped__)  # no truth of an earlier call
    with store.off():
        result = certify("mine", a_case()).run(antisymrnn_ref)
    assert result.status == "not applicable"
    assert "contradict the product rule" in result.detail


@pytest.mark.parametrize("quick", tiered([True, False], lambda quick: quick))
def test_every_check_of_the_specification_passes(quick: bool) -> None:
    results = [check.run(antisymrnn_ref) for check in iter_checks("numpy", quick=quick)]
    assert [result for result in results if result.status == "failed"] == []
    not_applicable = {result.check for result in results if result.status == "not applicable"}
    assert not_applicable == (set() if quick else {"thread counts"})
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
    case = a_case()
    monkeypatch.syspath_prepend(tmp_path)
    for name, source, status in (("honest_threads", honest, "passed"), ("moved_threads", moved, "failed")):
        (tmp_path / f"{name}.py").write_text(source)
        result = make_check(thread_counts, case).run(importlib.import_module(name))
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
    assert make_check(memory, case).run(antisymrnn_ref).status == "passed"
    assert make_check(memory, case).run(hoarder).detail.startswith("keep_every=32: 1")


def test_half_of_plain_storage_is_too_much_memory() -> None:
    hoard = []

    def forward(parameters: object, x: np.ndarray, h0: np.ndarray, **options: object) -> object:
        hoard.append(np.ones((len(x) // 2, *h0.shape)))
        return antisymrnn_ref.antisymmetric.forward(parameters, x, h0, **options)

    result = make_check(memory, a_case()).run(copied(forward=forward))
    assert result.status == "failed"
    assert result.detail.startswith("keep_every=32: ")


def test_the_tolerance_is_measured_and_small() -> None:
    seen = set()
    for case in generic_cases():
        # 1 − s² has few digits left in saturation, and 300 steps amplify every rounding
        if "saturated" in case.name or "longer" in case.name:
            continue
        for name, error in measure(run(antisymrnn_ref, case), case).items():
            # ε and γ each have one gradient, a sum over everything, with more or less cancellation
            ulps = 5000 if name in ("step_size", "diffusion") else 500
            assert error.tolerance <= ulps * np.finfo(case.dtype).eps, (case.name, name)
            seen.add(error.tolerance)
    assert len(seen) > 200


def test_the_specification_is_measured_without_itself_and_others_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    right = truth_and_errors

    def useless(pickled: bytes) -> object:
        truth, specification, perturbed = right(pickled)
        return truth, dict.fromkeys(specification, 1.0), perturbed

    monkeypatch.setattr(tolerance, "truth_and_errors", useless)
    for what in ("last state", "every state", "accuracy"):
        own, other = (certify(name, a_case(), what=what).run(antisymrnn_ref).errors for name in ("numpy", "other"))
        assert own
        for name, entry in own.items():
            # what is counted of the specification's error is at most FACTOR times that of the perturbed runs
            assert other[name].reference == pytest.approx(8 * entry.reference), (what, name)


def test_a_tolerance_is_eight_references_or_four_ulp_of_the_terms() -> None:
    for dtype in ("float32", "float64"):
        case = a_case(dtype=dtype)
        truth, eps = enclose(case).arrays, float(np.finfo(dtype).eps)
        for name, entry in measure(run(antisymrnn_ref, case), case).items():
            assert entry.tolerance == pytest.approx(max(8 * entry.reference, 4 * eps * truth[name].condition)), name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cell", CELLS)
def test_denormal_gradients_are_judged_and_must_not_be_flushed(cell: str, dtype: type) -> None:
    case = random_case(cell, 5, 3, 4, 2, step_size=0.3, diffusion=0.2, seed=11, dtype=dtype)
    least = np.finfo(dtype).smallest_normal
    case = case._replace(g=(case.g * least / 1024).astype(dtype))
    arrays = run(antisymrnn_ref, case)
    assert measure(arrays, case)["W"].tolerance < 0.1
    flushed = {name: array * (np.abs(array) >= least) for name, array in arrays.items()}
    with pytest.raises(BrokenPromise, match="W: relative error 1.0e"):
        measure(flushed, case)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["h", "W", "V", "b", "x", "h0", "step_size", "diffusion"])
def test_a_small_error_in_any_one_array_is_seen(name: str, dtype: type) -> None:
    case = a_case(dtype=dtype)
    arrays = run(antisymrnn_ref, case)
    tolerance = measure(arrays, case)[name].tolerance
    arrays[name] = arrays[name].copy()
    largest = np.unravel_index(np.abs(arrays[name]).argmax(), arrays[name].shape)
    arrays[name][largest] *= 1 + 2 * tolerance
    with pytest.raises(BrokenPromise, match=f"^{name}: relative error"):
        measure(arrays, case)


def test_an_array_that_is_not_there_is_a_failure() -> None:
    arrays = run(antisymrnn_ref, a_case())
    for name in arrays.keys() - {"x", "step_size", "diffusion"}:  # which a target may not give
        with pytest.raises(KeyError, match=name):
            measure({other: array for other, array in arrays.items() if other != name}, a_case())
    backend = wrapped(copied(), "backward", lambda gradients: gradients._replace(step_size=None))
    assert certify("mine", a_case()).run(backend).status == "failed"


def test_fast_backends_are_held_to_bits() -> None:
    names = {check.name for check in iter_checks("anything else", quick=True)}
    assert {"neighbours", "nan column"} <= names
    assert not names & {"neighbours to rounding", "nan column to rounding"}


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (np.array([0.0]), np.array([-0.0])),
        (np.array([1.0], np.float32), np.array([1.0])),
        (np.array([[1.0]]), np.array([1.0])),
        (np.array([1.0]), np.array([np.nextafter(1.0, 2)])),
    ],
)
def test_the_same_bits_are_the_same_bits(got: np.ndarray, expected: np.ndarray) -> None:
    require_same_bits("h", expected, expected.copy())
    with pytest.raises(BrokenPromise, match="h: expected the same bits"):
        require_same_bits("h", got, expected)


def test_whatever_a_backend_raises_is_its_failure() -> None:
    broken = ModuleType("broken")
    broken.asarray, broken.to_numpy = antisymrnn_ref.asarray, antisymrnn_ref.to_numpy
    results = [check.run(broken) for check in iter_checks("broken", quick=True)]
    assert {result.check for result in results if result.status != "failed"} <= {"conversion", "thread counts"}
    assert all("AttributeError" in result.detail for result in results if result.status == "failed")


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda error: error, "passed"),
        (lambda error: type(error)("no"), "failed"),
        (lambda error: RuntimeError(str(error)), "failed"),
    ],
    ids=["as promised", "other words", "another type"],
)
def test_the_type_and_the_words_of_an_error_are_both_asked_for(change: object, status: str) -> None:
    def told(function: object) -> object:
        @functools.wraps(function)
        def called(*arguments: object, **options: object) -> object:
            try:
                return function(*arguments, **options)
            except (TypeError, ValueError) as error:
                raise change(error) from None

        return called

    right = antisymrnn_ref.antisymmetric
    backend = copied(forward=told(right.forward), backward=told(right.backward))
    assert make_check(errors, a_case()).run(backend).status == status


def test_a_backend_that_warns_fails_and_other_code_may_warn() -> None:
    def change(trajectory: Any) -> Any:
        warnings.warn("overflow", RuntimeWarning, stacklevel=2)
        return trajectory

    backend = wrapped(copied(), "forward", change)
    result = certify("mine", a_case()).run(backend)
    assert result.status == "failed"
    assert result.detail.startswith("raised RuntimeWarning: overflow")
    assert certify("mine", a_case(), features=frozenset({"gradients"})).run(backend).status == "passed"


def one_column_at_a_time(cell: str) -> SimpleNamespace:
    """The specification's cell, run sample by sample: a sample's bits do not depend on its neighbours."""
    module = getattr(antisymrnn_ref, cell)
    kind = antisymrnn_ref.GatedParameters if cell == "gated" else antisymrnn_ref.Parameters

    @checked_forward(kind, np.ndarray)
    def forward(parameters, x, h0, *, step_size, diffusion, keep_every=1, unconstrained=False):  # type: ignore[no-untyped-def]
        options = {"step_size": step_size, "diffusion": diffusion, "unconstrained": unconstrained}
        columns = [
            module.forward(parameters, x[:, k : k + 1], h0[k : k + 1], keep_every=keep_every, **options).h
            for k in range(len(h0))
        ]
        return module.Trajectory(np.concatenate(columns, axis=1), keep_every, step_size, diffusion, unconstrained)

    @checked_backward(kind, np.ndarray, module.Trajectory)
    def backward(parameters, x, trajectory, g, *, step_size, diffusion, input_gradient=True, unconstrained=False):  # type: ignore[no-untyped-def]
        options = {"step_size": step_size, "diffusion": diffusion, "unconstrained": unconstrained}
        columns = [
            module.backward(
                parameters,
                x[:, k : k + 1],
                trajectory._replace(h=trajectory.h[:, k : k + 1].copy()),
                g[..., k : k + 1, :],
                input_gradient=input_gradient,
                **options,
            )
            for k in range(x.shape[1])
        ]
        sums = [sum(leaves) for leaves in zip(*(column.parameters for column in columns), strict=True)]
        return Gradients(
            type(parameters)(*map(np.asarray, sums)),
            np.concatenate([column.x for column in columns], axis=1) if input_gradient else None,
            np.concatenate([column.h0 for column in columns]),
            np.asarray(sum(column.step_size for column in columns)),
            np.asarray(sum(column.diffusion for column in columns)),
        )

    return SimpleNamespace(forward=forward, backward=backward)


def honest_backend() -> ModuleType:
    honest = ModuleType("honest")
    honest.asarray, honest.to_numpy = antisymrnn_ref.asarray, antisymrnn_ref.to_numpy
    honest.antisymmetric, honest.gated = map(one_column_at_a_time, CELLS)
    return honest


def failed(backend: ModuleType, only: str = "") -> set[str]:
    """Which checks fail of the quick ones, or of those with one name."""
    checks = [check for check in iter_checks("a fast backend", quick=True) if only in ("", check.name)]
    results = [check.run(backend) for check in checks]
    return {result.check for result in results if result.status == "failed"}


def test_an_honest_backend_that_is_exact_by_column_is_accepted() -> None:
    assert failed(honest_backend()) == set()


def wrapped(backend: ModuleType, function: str, change: Callable[..., Any]) -> ModuleType:
    """The backend with ``change`` applied to what one function of the ungated cell returns."""
    right = getattr(backend.antisymmetric, function)

    @functools.wraps(right)
    def wrong(*arguments: Any, **options: Any) -> Any:
        return change(right(*arguments, **options))

    setattr(backend.antisymmetric, function, wrong)
    return backend


def test_the_last_bit_of_a_neighbour_is_seen() -> None:
    def change(trajectory: Any) -> Any:
        h = trajectory.h.copy()
        h[-1, 0] = np.nextafter(h[-1, 0], h.dtype.type(9)) if h.shape[1] > 1 else h[-1, 0]
        return trajectory._replace(h=h)

    assert failed(wrapped(honest_backend(), "forward", change), "neighbours")


def test_a_nan_that_moves_a_bit_of_its_neighbour_is_seen() -> None:
    def change(trajectory: Any) -> Any:
        h = trajectory.h.copy()
        if np.isnan(h).any():
            h[-1] = np.nextafter(h[-1], h.dtype.type(9))
        return trajectory._replace(h=h)

    assert failed(wrapped(honest_backend(), "forward", change)) == {"nan column"}


def test_a_column_may_be_moved_by_rounding_alone() -> None:
    tolerance = measure(run(antisymrnn_ref, a_case()), a_case())["h"].tolerance
    for factor, status in ((0.5, "passed"), (10.0, "failed")):

        def change(trajectory: Any, factor: float = factor) -> Any:
            h = trajectory.h
            return trajectory._replace(h=h * (1 + factor * tolerance)) if h.shape[1] == 1 else trajectory

        result = make_check(neighbours_to_rounding, a_case()).run(wrapped(copied(), "forward", change))
        assert result.status == status, result.detail


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("W", lambda gradients: gradients.parameters.W.T),
        ("b", lambda gradients: gradients.parameters.b[:, None]),
        ("b", lambda gradients: gradients.parameters.b.astype(np.float16)),
        ("b", lambda gradients: gradients.parameters.b.tolist()),
        ("step_size", lambda gradients: float(gradients.step_size)),
        ("diffusion", lambda gradients: gradients.diffusion[None]),
    ],
)
def test_results_of_another_type_or_shape_are_seen(field: str, change: Callable[[Any], Any]) -> None:
    def changed(gradients: Any) -> Any:
        if field in gradients._fields:
            return gradients._replace(**{field: change(gradients)})
        return gradients._replace(parameters=gradients.parameters._replace(**{field: change(gradients)}))

    assert failed(wrapped(honest_backend(), "backward", changed), "accuracy" if field == "W" else "result types")


@pytest.mark.parametrize(
    "asarray",
    [
        lambda array, dtype: np.asarray(array, dtype=dtype),
        lambda array, dtype: antisymrnn_ref.asarray(array, dtype or np.float64),
        lambda array, dtype: np.array(array, dtype=dtype and np.float64),
        lambda array, dtype: np.asfortranarray(antisymrnn_ref.asarray(array, dtype)),
        lambda array, dtype: antisymrnn_ref.asarray(np.real(array), dtype),
    ],
)
def test_a_wrong_conversion_is_seen(asarray: Callable[..., Any]) -> None:
    backend = honest_backend()
    backend.asarray = asarray
    assert failed(backend, "conversion")


def test_a_buffer_handed_out_twice_is_seen() -> None:
    buffers: dict[Any, Any] = {}

    def change(trajectory: Any) -> Any:
        buffer = buffers.setdefault((trajectory.h.shape, trajectory.h.dtype), np.empty_like(trajectory.h))
        buffer.flags.writeable = True
        buffer[...] = trajectory.h
        return trajectory._replace(h=buffer)

    assert failed(wrapped(honest_backend(), "forward", change), "independent calls")


def test_a_tanh_by_exponentials_fails_on_huge_values() -> None:
    def change(trajectory: Any) -> Any:
        h = trajectory.h.copy()
        steps = np.abs(np.diff(h, axis=0)) >= trajectory.step_size * (1 - np.finfo(h.dtype).eps)
        if steps.any(axis=2).all(axis=1)[1::2].all():  # as exp(2 a) / (exp(2 a) + 1) is where exp overflows
            h[2:] = np.nan
        return trajectory._replace(h=h)

    assert failed(wrapped(honest_backend(), "forward", change), "huge values")


def test_denormal_values_that_are_taken_for_zero_are_seen() -> None:
    def change(trajectory: Any) -> Any:
        h = trajectory.h
        return trajectory._replace(h=np.where(np.abs(h) < np.finfo(h.dtype).smallest_normal, 0, h).astype(h.dtype))

    assert failed(wrapped(honest_backend(), "forward", change), "denormal values")


def test_outputs_that_are_not_fully_written_are_seen() -> None:
    def change(gradients: Any) -> Any:
        if gradients.x is None:
            return gradients
        unwritten = np.empty_like(gradients.x)
        unwritten[1:] = gradients.x[1:]
        return gradients._replace(x=unwritten)

    case = a_case()
    assert make_check(written_outputs, case).run(honest_backend()).status == "passed"
    result = make_check(written_outputs, case).run(wrapped(honest_backend(), "backward", change))
    assert "after memory full of NaN was freed" in result.detail


@pytest.mark.parametrize("name", ["W", "V", "b", "x", "g", "trajectory.h"])
def test_an_input_of_backward_that_is_written_is_seen(name: str) -> None:
    def backward(parameters: object, x: np.ndarray, trajectory: object, g: np.ndarray, **options: object) -> object:
        found = antisymrnn_ref.antisymmetric.backward(parameters, x, trajectory, g, **options)
        written = {**parameters._asdict(), "x": x, "g": g, "trajectory.h": trajectory.h}[name]
        if written.flags.writeable:
            written *= 2
        return found

    result = make_check(inputs_untouched, a_case()).run(copied(backward=backward))
    assert result.status == "failed"
    assert result.detail.startswith(f"{name}: expected the same bits")


def test_calls_in_several_threads_that_share_memory_are_seen() -> None:
    backend = honest_backend()
    right, shared = backend.antisymmetric.forward, {}

    @functools.wraps(right)
    def forward(*arguments: Any, **options: Any) -> Any:
        trajectory = right(*arguments, **options)
        shared[trajectory.h.shape] = trajectory.h
        time.sleep(0.001)
        return trajectory._replace(h=shared[trajectory.h.shape])

    case = a_case()
    assert make_check(concurrent_calls, case).run(backend).status == "passed"
    backend.antisymmetric.forward = forward
    assert "threads at once" in make_check(concurrent_calls, case).run(backend).detail


def test_exiting_is_a_failure() -> None:
    assert failed(wrapped(honest_backend(), "forward", sys.exit), "accuracy")


@pytest.mark.parametrize(("cell", "dtype", "count"), [("antisymmetric", "float64", 105), ("gated", "float32", 112)])
def test_the_bad_calls_are_all_there(cell: str, dtype: str, count: int) -> None:
    case = random_case(cell, 11, 4, 7, 3, step_size=0.3, diffusion=0.2, seed=1, dtype=dtype)
    trajectory = getattr(antisymrnn_ref, cell).forward(case.parameters, case.x, case.h0, **case.arguments)
    calls = list(bad_calls(antisymrnn_ref, case, trajectory))
    assert len(calls) == len({(call.label, call.function) for call in calls}) == count


def test_the_generic_cases_are_all_there() -> None:
    names = {
        "generic", "wide input", "ablation", "large W", "last-state loss", "corner ε = 1, γ = 0", "T = 0", "T = 1",
        "B = 1", "n = 1", "m = 1", "saturated",
    }  # fmt: skip
    for quick, more in ((True, set()), (False, {"long", "longer", "wide", "batch", "input"})):
        found = generic_cases(quick=quick)
        told = {(case.cell, case.name.removeprefix(f"{case.cell} ").split(" T=")[0], case.dtype) for case in found}
        assert told == {
            (cell, name, np.dtype(dtype)) for cell in CELLS for name in names | more for dtype in ("float32", "float64")
        }
    sizes = {case.name.split(" ", 1)[1].split(" T=")[0]: (*case.x.shape, len(case.parameters.b)) for case in found}
    assert [sizes[f"{name} = {k}"][axis] for axis, name, k in ((0, "T", 0), (1, "B", 1), (3, "n", 1), (2, "m", 1))] == [
        0, 1, 1, 1,
    ]  # fmt: skip
    T, B, m, n = (max(axis) for axis in zip(*sizes.values(), strict=True))  # each of the paper's largest is reached
    assert T >= 32 * 32
    assert B >= 128
    assert m >= 32 * 3
    assert n >= 256
    assert len(set(sizes["generic"])) == 4


def test_W_of_a_case_is_as_large_as_the_paper_has_it() -> None:
    for n, scale in ((50, 1.0), (200, 4.0)):
        W = random_case("gated", 1, 1, n, 1, step_size=0.3, diffusion=0.2, seed=0, scale=scale).parameters.W
        assert W.std() == pytest.approx(scale / n**0.5, rel=0.1)


def test_the_recipe_of_a_case_draws_it_again() -> None:
    sweeps = [*swept_cases(quick=True), *drawn_cases(60)]
    for case in [*generic_cases(quick=True), *(sweep.case for sweep in sweeps)]:
        again = eval(case.recipe, {"random_case": random_case})
        assert [array.tobytes() for array in (*again.parameters, again.x, again.h0, again.g)] == [
            array.tobytes() for array in (*case.parameters, case.x, case.h0, case.g)
        ]
        assert (again.name, again.arguments, again.recipe) == (case.name, case.arguments, case.recipe)


def test_drawn_cases_cross_every_option() -> None:
    sweeps = list(drawn_cases(400))
    told = [(s.case.cell, s.case.dtype.name, s.case.unconstrained, s.case.g.ndim, s.case.diffusion > 0) for s in sweeps]
    assert len(set(told)) == 2**5
    assert {s.keep_every for s in sweeps} == {1, 2, 3, 5, 1000}
    assert {s.input_gradient for s in sweeps} == {True, False}
    for axis, least in enumerate((0, 1, 1)):
        assert min(s.case.x.shape[axis] for s in sweeps) == least
    assert min(s.case.step_size for s in sweeps) < 0.02 < 2 < max(s.case.step_size for s in sweeps)
    assert next(drawn_cases(1, seed=1)).case.recipe != sweeps[0].case.recipe


def test_the_sweep_crosses_every_option() -> None:
    sweeps = swept_cases()
    assert len({sweep.case.name for sweep in sweeps}) == len(sweeps) > 100
    crossed = {(s.case.cell, s.case.dtype.name, s.case.unconstrained, s.case.g.ndim, s.keep_every > 1) for s in sweeps}
    assert len(crossed) == 2**5
    assert {s.case.x.shape[2] for s in sweeps} >= {1, 2, 17, 33}
    assert {len(s.case.parameters.b) for s in sweeps} >= {1, 16, 17, 33, 65, 128, 129}
    assert {s.case.x.shape[1] for s in sweeps} >= {1, 16, 17, 34, 37}
    assert {s.case.diffusion for s in sweeps if s.case.unconstrained} == {0.0, 0.001, 0.01, 0.15, 1.5}


def test_every_swept_case_is_judged_as_the_sweep_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def noted(_: str, case: Case, **options: object) -> Check:
        asked.append((case.name, options.get("what"), options.get("keep_every"), options.get("input_gradient")))
        return Check("accuracy", case.name, lambda _: Result("accuracy", case.name, "passed"))

    monkeypatch.setattr(plan, "certify", noted)
    iter_checks("a fast backend")
    wanted = {(case.name, "accuracy", keep_every, dx) for case, keep_every, dx in swept_cases()}
    assert wanted <= set(asked)
    assert {keep_every for _, _, keep_every, _ in wanted} == {1, 2, 3, 5, 1000}


@pytest.mark.parametrize("last_state_only", [False, True])
def test_a_gradient_of_x_that_is_never_returned_is_refused(last_state_only):
    def backward(*arguments, **options):
        return antisymrnn_ref.antisymmetric.backward(*arguments, **options)._replace(x=None)

    cell = SimpleNamespace(forward=antisymrnn_ref.antisymmetric.forward, backward=backward)
    without = SimpleNamespace(**vars(antisymrnn_ref) | {"antisymmetric": cell})
    case = random_case(
        "antisymmetric", 4, 2, 3, 2, step_size=0.3, diffusion=0.2, seed=5, last_state_only=last_state_only
    )
    assert certify("without", case).run(without).detail == "x: expected an array, got NoneType"
    assert certify("without", case, input_gradient=False).run(without).status == "passed"


@pytest.mark.parametrize("what", ["accuracy", "every state"])
def test_what_is_wrong_with_keep_every_alone_is_seen(what: str) -> None:
    def change(trajectory: Any) -> Any:
        return trajectory if trajectory.keep_every == 1 else trajectory._replace(h=trajectory.h * (1 + 1e-9))

    backend = wrapped(copied(), "forward", change)
    assert certify("mine", a_case(), what=what).run(backend).status == "passed"
    assert certify("mine", a_case(), what=what, keep_every=3).run(backend).status == "failed"


def test_what_is_wrong_only_where_sizes_are_large_together_is_seen() -> None:
    case = next(case for case in real_sized_cases(quick=True) if case.cell == "antisymmetric")

    def forgets(gradients: object) -> object:
        V = gradients.parameters.V.copy()
        if V.size > 10_000:
            V[-1, -1] = 0
        return gradients._replace(parameters=gradients.parameters._replace(V=V))

    wrong = wrapped(copied(), "backward", forgets)
    assert certify("mine", a_case()).run(wrong).status == "passed"
    result = make_check(real_sizes, case).run(wrong)
    assert result.status == "failed"
    assert result.detail.startswith("V: relative error")
    assert (result.wrong.oracle, result.wrong.plain) == ("extended", True)
    diagnosis = judged(make_check(real_sizes, case), wrong, {}, source="mine").diagnosis
    assert diagnosis.startswith("V[127, 95]: got 0, expected ")  # too large to be compared with every variant
    assert "oracle='extended'" in diagnosis


def test_real_sizes_are_judged_at_keep_every_below_the_length_too() -> None:
    case = next(case for case in real_sized_cases(quick=True) if case.cell == "gated" and len(case.x) > 100)
    seen: list[int] = []
    backend = copied()
    forward = backend.gated.forward

    def recorded(*arguments: object, keep_every: int, **options: object) -> object:
        seen.append(keep_every)
        trajectory = forward(*arguments, keep_every=keep_every, **options)
        return trajectory._replace(h=trajectory.h * (1 + 1e-3 * (keep_every > len(case.x) // 2)))

    backend.gated = SimpleNamespace(forward=recorded, backward=antisymrnn_ref.gated.backward)
    assert make_check(real_sizes, case).run(backend).status == "failed"
    assert seen[0] == 1
    assert len(seen) == 4
    assert all(1 < keep_every < len(case.x) for keep_every in seen[1:])
