"""The Numba backend under the judge: every check of the contract, and the promises on sizes around every width."""

from __future__ import annotations

import inspect
import io
import itertools
import multiprocessing
import os
import re
import signal
import sys
import threading
import tokenize
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numba
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import antisymrnn_numba
import antisymrnn_ref
from antisymrnn_numba import _host, _kernels, _memory, _threads
from antisymrnn_ref.contract import kept_steps
from antisymrnn_validation.conformance.plan import iter_checks
from antisymrnn_validation.truth.calls import run
from antisymrnn_validation.truth.cases import CELLS, Case, random_case
from antisymrnn_validation.truth.oracles import named_arrays
from antisymrnn_validation.truth.tolerance import measure
from tiers import tiered

QUICK = {(check.name, check.case) for check in iter_checks("numba", quick=True)}
CHECKS = tiered(iter_checks("numba"), lambda check: (check.name, check.case) in QUICK or "T=40" in check.case)


def bits(arrays: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays.items()}


def tail_case(cell: str, T: int, B: int, n: int, m: int, dtype: type, seed: int, **options: bool) -> Case:
    return random_case(cell, T, B, n, m, step_size=0.3, diffusion=0.2, seed=seed, dtype=dtype, **options)


def comment_tags(code: str) -> set[str]:
    """Tags of the cells in the comments that end a line."""
    comments = [
        token.string for token in tokenize.generate_tokens(io.StringIO(code).readline) if token.type == tokenize.COMMENT
    ]
    return set(re.findall(r"\((G?[FB][0-9]+)\)", " ".join(comments)))


def test_the_kernels_carry_every_tag_of_both_cells():
    specification = Path(antisymrnn_ref.__file__).parent
    expected = {tag for cell in CELLS for tag in comment_tags((specification / f"{cell}.py").read_text("utf-8"))}
    assert len(expected) == 4 + 9 + 5 + 8
    assert comment_tags(Path(_kernels.__file__).read_text("utf-8")) == expected


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.name}-{check.case}".replace(" ", "_"))
def test_every_check_of_the_contract(check):
    result = check.run(antisymrnn_numba)
    assert result.status == "passed", result.detail


@settings(max_examples=50)
@given(
    cell=st.sampled_from(CELLS),
    dtype=st.sampled_from([np.float32, np.float64]),
    T=st.integers(1, 3),
    B=st.integers(1, 26),
    n=st.integers(1, 3 * _kernels.VECTOR_BYTES // 4),
    m=st.integers(1, 26),
    keep_every=st.integers(1, 4),
    unconstrained=st.booleans(),
    last_state_only=st.booleans(),
)
@example("antisymmetric", np.float64, 2, 24, 24, 24, 1, False, False)
@example("gated", np.float32, 2, 16, 16, 16, 2, False, True)
@example("antisymmetric", np.float64, 17, 16, 10, 33, 1, False, False)  # dx wider than the states, in a whole ring
@example("gated", np.float64, 2, 3, 16, 8, 1, False, False)  # [h, 1] one panel wider than h
@example("gated", np.float32, 2, 3, 32, 16, 1, False, False)
def test_sizes_around_every_tail_against_certified_truth(
    cell, dtype, T, B, n, m, keep_every, unconstrained, last_state_only
):
    case = tail_case(cell, T, B, n, m, dtype, 7, unconstrained=unconstrained, last_state_only=last_state_only)
    arrays = run(antisymrnn_numba, case, keep_every=keep_every)
    measure(arrays, case, keep_every=keep_every, beside_specification=True)


@settings(max_examples=40)
@given(
    cell=st.sampled_from(CELLS),
    dtype=st.sampled_from([np.float32, np.float64]),
    T=st.integers(0, 40),
    B=st.integers(1, 140),
    n=st.integers(1, 70),
    m=st.integers(1, 9),
    keep_every=st.integers(2, 50),
    column=st.integers(0, 139),
)
@example("antisymmetric", np.float32, 33, 130, 48, 1, 7, 129)
def test_bits_depend_neither_on_keep_every_nor_on_the_neighbours(cell, dtype, T, B, n, m, keep_every, column):
    case = tail_case(cell, T, B, n, m, dtype, 8)
    plain = run(antisymrnn_numba, case)
    kept = run(antisymrnn_numba, case, keep_every=keep_every)
    expected = plain | {"h": plain["h"][kept_steps(T, keep_every)]}
    assert bits(kept) == bits(expected)
    column %= B
    alone = case._replace(x=case.x[:, [column]], h0=case.h0[[column]], g=case.g[:, [column]])
    for name, place in (("h", np.s_[:, column]), ("x", np.s_[:, column]), ("h0", np.s_[column])):
        assert run(antisymrnn_numba, alone)[name].tobytes() == plain[name][place].tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cell", CELLS)
def test_nothing_is_read_before_it_is_written_and_nothing_is_written_outside(cell, dtype, monkeypatch):
    guard, lent = 512, []

    def poisoned(shape, dtype):
        dtype = np.dtype(dtype)
        nbytes = int(np.prod(shape, dtype=int)) * dtype.itemsize
        block = np.full(nbytes + 2 * guard + _memory.ALIGNMENT, 0xFF, np.uint8)  # all ones: a NaN
        begin = guard + -(block.ctypes.data + guard) % _memory.ALIGNMENT
        lent.append((block, begin, begin + nbytes))
        return block[begin : begin + nbytes].view(dtype).reshape(shape)

    for sizes in ((11, 4, 7, 3), (33, 19, 33, 5), (19, 130, 20, 2), (70, 1, 40, 1), (0, 3, 5, 2), (5, 2, 130, 66)):
        for last_state_only, keep_every in ((True, 1), (False, 3), (False, 1)):
            case = tail_case(cell, *sizes, dtype, 9, last_state_only=last_state_only)
            plain = bits(run(antisymrnn_numba, case, keep_every=keep_every))
            with monkeypatch.context() as patch:
                patch.setattr(_memory, "empty", poisoned)
                assert bits(run(antisymrnn_numba, case, keep_every=keep_every)) == plain
            for block, begin, end in lent:
                assert (block[:begin] == 0xFF).all()
                assert (block[end:] == 0xFF).all()
            lent.clear()


@pytest.mark.parametrize("n", [64, 40, 37])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cell", CELLS)
def test_states_past_the_cache_have_the_same_bits(cell, dtype, n, monkeypatch):
    case = tail_case(cell, 40, 33, n, 2, dtype, 10)
    plain = bits(run(antisymrnn_numba, case))
    for limit in (0, 2**60):
        monkeypatch.setattr(_host, "STREAMED", limit)
        assert bits(run(antisymrnn_numba, case)) == plain


@pytest.mark.slow
@pytest.mark.parametrize("B", [1, 2, 3])  # one and two samples take panels together, in several blocks
@pytest.mark.parametrize("cell", CELLS)
def test_a_matrix_larger_than_the_cache(cell, B):
    case = tail_case(cell, 2, B, 1100, 2, np.float64, 11)  # M has 9.7 MB
    wide = case._replace(
        parameters=type(case.parameters)(*(leaf.astype(np.longdouble) for leaf in case.parameters)),
        x=case.x.astype(np.longdouble), h0=case.h0.astype(np.longdouble), g=case.g.astype(np.longdouble),
    )  # fmt: skip
    module = getattr(antisymrnn_ref, cell)
    forward, backward = inspect.unwrap(module.forward), inspect.unwrap(module.backward)
    trajectory = forward(wide.parameters, wide.x, wide.h0, **wide.arguments)
    gradients = backward(wide.parameters, wide.x, trajectory, wide.g, **wide.arguments)
    truth = named_arrays(trajectory.h, gradients)
    reference, got = run(antisymrnn_ref, case), run(antisymrnn_numba, case)
    for name, exact in truth.items():
        size = float(np.abs(exact).max())
        allowed = max(8 * float(np.abs(reference[name] - exact).max()), 4 * np.finfo(np.float64).eps * size)
        if exact.ndim == 0:  # one number may be right by luck: its terms are as large as those of dM
            allowed = 8 * np.finfo(np.float64).eps * float(np.abs(truth["W"]).sum())
        assert float(np.abs(got[name] - exact).max()) <= allowed, name


@pytest.mark.parametrize("cell", CELLS)
def test_sums_over_many_steps_and_samples_keep_their_last_bits(cell):
    case = random_case(
        cell, 3000, 64, 8, 1, step_size=0.1, diffusion=1.0, seed=3, dtype=np.float32, scale=0.2
    )  # nothing grows
    case = case._replace(g=np.ones_like(case.g))  # and everything adds up
    wide = case._replace(
        parameters=type(case.parameters)(*(array.astype(float) for array in case.parameters)),
        x=case.x.astype(float), h0=case.h0.astype(float), g=case.g.astype(float),
    )  # fmt: skip
    truth, got = run(antisymrnn_ref, wide), run(antisymrnn_numba, case)
    for name in ("W", "V", "b"):
        allowed = 6 * np.finfo(np.float32).eps * float(np.abs(truth[name]).max())  # found 2.8; in one chain 35
        assert float(np.abs(got[name] - truth[name]).max()) <= allowed, name


def test_other_threads_of_python_run_during_a_call():
    case = tail_case("antisymmetric", 200_000, 4, 64, 1, np.float64, 5, last_state_only=True)
    ticks, ended = itertools.count(), threading.Event()

    def tick() -> None:
        while not ended.wait(0.001):
            next(ticks)

    forward = partial(
        antisymrnn_numba.antisymmetric.forward,
        case.parameters,
        case.x,
        case.h0,
        keep_every=len(case.x),
        **case.arguments,
    )
    forward()
    ticking = threading.Thread(target=tick)
    ticking.start()
    before = next(ticks)
    forward()
    during = next(ticks) - before
    ended.set()
    ticking.join()
    assert during > 10, "a kernel keeps the interpreter's lock, and lets others run before and behind it alone"


def test_memory_is_used_again_but_never_while_it_is_held():
    antisymrnn_numba.release_memory()
    shape = (2**16,)
    first, second = _memory.empty(shape, np.float64), _memory.empty(shape, np.float64)
    assert not np.shares_memory(first, second)
    address = first.__array_interface__["data"][0]
    view = first[10:20].reshape(2, 5)
    del first
    assert _memory.empty(shape, np.float64).__array_interface__["data"][0] != address, "a view still holds the block"
    del view
    assert _memory.empty(shape, np.float64).__array_interface__["data"][0] == address
    assert type(second) is np.ndarray
    assert second.__array_interface__["data"][0] % _memory.ALIGNMENT == 0
    assert second.base.block.nbytes >= second.nbytes + _memory.ALIGNMENT - 1, "no room to align it in any block"


def test_memory_may_come_back_while_the_shelf_is_being_changed():
    shelf, ended = _memory._Shelf(), threading.Event()

    def collected() -> None:
        lease = _memory._Lease(shelf, shelf.take(2**16), (8,), np.dtype(float))
        with shelf.lock:
            del lease  # as a garbage collection under the lock does
        ended.set()

    threading.Thread(target=collected, daemon=True).start()
    assert ended.wait(10)
    assert not shelf.blocks, "it went to the system"


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no SIGUSR1")
def test_memory_that_comes_back_at_any_moment_of_a_call_is_never_handed_out_twice():
    """A signal stands for the collector, which runs finalizers between any two instructions (Python 3.12) or fewer."""
    codes, box = [_memory._Shelf.take.__code__, _memory._Shelf.put.__code__], []

    def at_instruction(number):
        count = itertools.count(1)

        def trace(frame, event, _):
            if frame.f_code not in codes:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode" and next(count) == number:
                signal.raise_signal(signal.SIGUSR1)
                reached.append(number)
            return trace

        return trace

    def handler(*_):
        box.clear()
        box.append(_memory.empty(shape, np.float64))  # and a call within the call

    shape, reached, before = (2**14,), [], signal.signal(signal.SIGUSR1, handler)
    tracer = sys.gettrace()
    try:
        for number in range(1, 200):
            antisymrnn_numba.release_memory()
            first, second, dying = (_memory.empty(shape, np.float64) for _ in range(3))
            del first  # one on the shelf
            box.append(second)
            del second  # the handler ends it
            sys.settrace(at_instruction(number))
            try:
                third = _memory.empty(shape, np.float64)
                del dying
            finally:
                sys.settrace(tracer)
            alive = [third, *box, *(_memory.empty(shape, np.float64) for _ in range(4))]
            assert not any(np.shares_memory(a, b) for k, a in enumerate(alive) for b in alive[:k]), number
            box.clear()
            if number not in reached:
                break
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(reached) > 40, "every instruction of both functions"


def test_unused_memory_is_bounded(monkeypatch):
    antisymrnn_numba.release_memory()
    monkeypatch.setattr(_memory._shelf, "kept", 2**21)
    arrays = [_memory.empty((2**20,), np.uint8) for _ in range(8)]
    del arrays
    assert 0 < sum(size * len(blocks) for size, blocks in _memory._shelf.blocks.items()) <= 2**21
    newcomer = _memory.empty((2**19,), np.uint8)
    address = newcomer.__array_interface__["data"][0]
    del newcomer
    again = _memory.empty((2**19,), np.uint8)
    assert again.__array_interface__["data"][0] == address, "a full shelf must take what comes back last"
    del again
    antisymrnn_numba.release_memory()
    assert not _memory._shelf.blocks


def test_the_size_that_came_back_longest_ago_is_given_up_first():
    shelf = _memory._Shelf()
    shelf.kept = 10
    blocks = [np.empty(nbytes, np.uint8) for nbytes in (4, 3, 4, 5, 11)]

    def shelved() -> list[list[int]]:
        return [
            [k for each in those for k, block in enumerate(blocks) if block is each] for those in shelf.blocks.values()
        ]

    shelf.put(blocks[0])
    shelf.put(blocks[1])
    assert shelved() == [[0], [1]]
    shelf.put(blocks[2])  # 4 bytes came back last: the 3 are the oldest
    assert shelved() == [[0, 2]]
    shelf.put(blocks[3])  # 13 bytes: of one size the first that came back
    assert shelved() == [[2], [3]]
    assert shelf.take(4) is blocks[2]
    assert shelf.take(4) is not blocks[2]
    shelf.put(blocks[4])
    assert shelved() == [], "one block alone is more than is kept"


def test_small_arrays_are_numpys_own_and_every_array_is_aligned():
    antisymrnn_numba.release_memory()
    limit = _memory.LARGE - _memory.ALIGNMENT
    held = [_memory.empty((size,), np.uint8) for size in (*range(1, 300), limit - 1)]
    assert all(array.__array_interface__["data"][0] % _memory.ALIGNMENT == 0 for array in held)
    assert [len(array) for array in held] == [*range(1, 300), limit - 1]
    held.clear()
    assert not _memory._shelf.blocks
    large = [_memory.empty((limit + size,), np.uint8) for size in range(0, 4096, 80)]
    assert all(array.__array_interface__["data"][0] % _memory.ALIGNMENT == 0 for array in large)
    large[0][...] = 1  # it may be written
    large.clear()
    assert _memory._shelf.blocks
    antisymrnn_numba.release_memory()


def test_blocks_are_of_few_sizes_and_at_most_an_eighth_too_large():
    sizes = set()
    for size in range(_memory.LARGE, 2 * _memory.LARGE, 640):
        block = _memory.empty((size - _memory.ALIGNMENT,), np.uint8).base.block
        assert size <= block.nbytes <= size * 9 // 8
        sizes.add(block.nbytes)
    assert len(sizes) == 9
    antisymrnn_numba.release_memory()


PLANS = {
    1: (1, 1, 1, 128), 2: (2, 2, 1, 64), 3: (3, 3, 1, 42), 4: (2, 2, 2, 64), 5: (3, 3, 2, 42), 15: (8, 8, 2, 16),
    16: (8, 8, 2, 16), 17: (6, 6, 3, 21), 127: (8, 8, 16, 16), 128: (16, 16, 8, 8), 129: (15, 15, 9, 8),
    1024: (16, 16, 64, 8), 1025: (16, 32, 33, 8), 5000: (16, 80, 63, 8),
}  # fmt: skip


def test_how_a_batch_is_cut():
    """The bits of the sums depend on it: a change of the plan is one of the results."""
    assert {B: tuple(_host.plan(B)) for B in PLANS} == PLANS
    for B in range(1, 3000):
        tile_rows, group_rows, groups, ring_steps = _host.plan(B)
        assert tile_rows <= 16
        assert group_rows % tile_rows == 0
        assert groups <= _host.MOST_GROUPS
        assert (groups - 1) * group_rows < B <= groups * group_rows, "a group is empty, or samples are in none"
        assert tile_rows <= tile_rows * ring_steps <= max(tile_rows, _host.RING_ROWS)


def test_an_array_that_is_not_aligned_or_not_contiguous_is_copied():
    case = tail_case("antisymmetric", 2, 3, 4, 2, np.float64, 19)
    steps = _host._Pass(case.parameters, case.x, keep_every=1, **case.arguments)
    block = np.zeros(8 * 6 + 1, np.uint8)
    shifted = block[1:].view(np.float64)
    shifted[:] = np.arange(6)
    whole = np.arange(24.0).reshape(4, 6)
    for array in (shifted, whole[:, ::2], whole.T, whole[::-1]):
        address = steps.address(array)
        copy = steps.alive[-1]
        assert address == copy.__array_interface__["data"][0]
        assert address % 8 == 0
        assert copy.flags.c_contiguous
        np.testing.assert_array_equal(copy, array)
    assert steps.address(whole) == whole.__array_interface__["data"][0]
    assert steps.address(None) == 0


@pytest.mark.parametrize(("n", "m"), [(3, 33), (33, 3)])
@pytest.mark.parametrize("cell", CELLS)
def test_what_lies_behind_the_zeros_is_not_read(cell, n, m, monkeypatch):
    case = tail_case(cell, 3, 5, n, m, np.float32, 21)
    plain, zeros = bits(run(antisymrnn_numba, case)), np.zeros

    def bounded(shape, dtype=float):
        block = np.full(np.prod(shape, dtype=int) + 256, np.nan, dtype)
        block[:-256] = 0
        return block[:-256].reshape(shape)

    with monkeypatch.context() as patch:
        patch.setattr(np, "zeros", bounded)
        found = bits(run(antisymrnn_numba, case))
    assert np.zeros is zeros
    assert found == plain


def test_results_of_earlier_calls_stay():
    case = tail_case("gated", 60, 40, 33, 3, np.float64, 12)
    held, first = [], None
    for _ in range(5):
        trajectory = antisymrnn_numba.gated.forward(case.parameters, case.x, case.h0, **case.arguments)
        gradients = antisymrnn_numba.gated.backward(case.parameters, case.x, trajectory, case.g, **case.arguments)
        held.append((trajectory, gradients))
        first = first or trajectory.h.tobytes()
        assert all(kept.h.tobytes() == first for kept, _ in held)
    arrays = [array for kept, gradients in held for array in (kept.h, kept.s, kept.z, gradients.x, gradients.h0)]
    assert not any(np.shares_memory(a, b) for k, a in enumerate(arrays) for b in arrays[:k])


def test_an_exception_of_a_signal_handler_goes_through_and_nothing_runs_twice(monkeypatch):
    honest, runs = _kernels.finish.dispatcher, []

    def interrupted(*arguments):
        runs.append(honest(*arguments))
        raise TimeoutError("the deadline of a signal handler")

    case = tail_case("antisymmetric", 5, 20, 4, 2, np.float64, 17)
    with monkeypatch.context() as patch:
        patch.setattr(_kernels.finish, "dispatcher", interrupted)
        with pytest.raises(TimeoutError):
            run(antisymrnn_numba, case)
    assert len(runs) == 1
    measure(run(antisymrnn_numba, case), case, beside_specification=True)


def test_an_exception_in_another_thread_is_raised():
    begun = threading.Event()

    def work(worker: int, _: int) -> None:
        if worker == 1:
            begun.set()
            raise ZeroDivisionError
        assert begun.wait(30)

    with pytest.raises(ZeroDivisionError):
        _threads.share(8, 2, work)


def test_an_interrupted_caller_waits_for_no_group_that_has_not_begun(monkeypatch):
    begun, interrupted, ran, wait = threading.Event(), threading.Event(), [], _threads.wait
    monkeypatch.setattr(_threads, "wait", lambda others: (interrupted.set(), wait(others)))

    def work(worker: int, group: int) -> None:
        if worker == 0:
            assert begun.wait(30)
            raise KeyboardInterrupt
        ran.append(group)
        begun.set()
        assert interrupted.wait(30)

    with pytest.raises(KeyboardInterrupt):
        _threads.share(64, 2, work)
    assert len(ran) == 1


def test_no_new_threads_at_exit_give_the_same_bits(monkeypatch):
    case = tail_case("gated", 9, 40, 5, 2, np.float32, 18)
    plain = bits(run(antisymrnn_numba, case))

    class Closed:
        def submit(self, *_):
            raise RuntimeError("cannot schedule new futures after shutdown")

    monkeypatch.setattr(_threads, "_threads", Closed)
    assert bits(run(antisymrnn_numba, case)) == plain


def something_is_shelved() -> None:
    antisymrnn_numba.release_memory()
    _memory.empty((2**20,), np.float64)
    assert _memory._shelf.blocks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("lock", "call"),
    [
        pytest.param(_memory._shelf.lock, something_is_shelved, id="of the shelf"),
        pytest.param(_threads._lock, partial(_threads.share, 2, 2, min), id="of the threads"),
    ],
)
def test_a_fork_while_another_thread_holds_a_lock(lock, call):
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            done.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    child = multiprocessing.get_context("fork").Process(target=call, daemon=True)
    child.start()
    child.join(30)
    done.set()
    holder.join()
    assert child.exitcode == 0


def test_a_trajectory_that_lost_its_steps_is_refused():
    case = tail_case("gated", 6, 5, 4, 2, np.float64, 16)
    trajectory = antisymrnn_numba.gated.forward(case.parameters, case.x, case.h0, **case.arguments)
    for name in ("s", "z"):
        stash = getattr(trajectory, name)
        for wrong, error in ((None, TypeError), (stash.astype(np.float32), TypeError), (stash[1:], ValueError)):
            expected = str(stash.shape) if error is ValueError else "an array of float64"
            got = {TypeError: getattr(wrong, "dtype", "NoneType"), ValueError: getattr(wrong, "shape", None)}[error]
            message = f"trajectory.{name}: expected {expected}, got {got}; pass what forward returned"
            with pytest.raises(error, match=f"^{re.escape(message)}$"):
                antisymrnn_numba.gated.backward(
                    case.parameters, case.x, trajectory._replace(**{name: wrong}), case.g, **case.arguments
                )


@pytest.mark.parametrize("dtype", tiered([np.float32, np.float64], lambda dtype: dtype is np.float32))
@pytest.mark.parametrize("cell", CELLS)
def test_large_tiles_and_several_of_them_in_a_group_against_certified_truth(cell, dtype, monkeypatch):
    for k, (sizes, groups) in enumerate([((20, 130, 5, 2), 64), ((10, 131, 6, 3), 2), ((9, 40, 5, 2), 2)]):
        monkeypatch.setattr(_host, "MOST_GROUPS", groups)
        case = tail_case(cell, *sizes, dtype, 20 + k)
        for keep_every in (1, 4):
            arrays = run(antisymrnn_numba, case, keep_every=keep_every)
            measure(arrays, case, keep_every=keep_every, beside_specification=True)


def test_calls_from_several_python_threads_at_once():
    cases = [tail_case(CELLS[k % 2], 50, 20 + k, 17 + k, 2, (np.float32, np.float64)[k // 2 % 2], k) for k in range(8)]
    expected = [bits(run(antisymrnn_numba, case)) for case in cases]
    barrier = threading.Barrier(len(cases))

    def call(k: int) -> bool:
        barrier.wait()
        return all(bits(run(antisymrnn_numba, cases[k])) == expected[k] for _ in range(10))

    with ThreadPoolExecutor(len(cases)) as pool:
        assert all(pool.map(call, range(len(cases))))


def test_the_number_of_threads_is_respected_and_stays(monkeypatch):
    case = tail_case("antisymmetric", 20, 40, 9, 2, np.float64, 13)
    before = numba.get_num_threads()
    plain = bits(run(antisymrnn_numba, case))
    assert numba.get_num_threads() == before
    try:
        numba.set_num_threads(1)
        with monkeypatch.context() as patch:
            patch.setattr("antisymrnn_numba._threads._threads", lambda: pytest.fail("another thread was asked for"))
            assert bits(run(antisymrnn_numba, case)) == plain
        assert numba.get_num_threads() == 1
        assert _threads.workers(10) == 1
        numba.set_num_threads(before)
        assert _threads.workers(10) == before
        assert _threads.workers(1) == 1
    finally:
        numba.set_num_threads(before)


def _in_child(case: Case, connection) -> None:
    connection.send(bits(run(antisymrnn_numba, case)))
    connection.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_and_spawned_processes(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    case = tail_case("gated", 30, 40, 9, 2, np.float32, 14)
    plain = bits(run(antisymrnn_numba, case))  # the parent's threads are running
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    child = context.Process(target=_in_child, args=(case, theirs))
    child.start()
    assert ours.poll(120), "the child gave no answer"
    assert ours.recv() == plain
    child.join(60)
    assert child.exitcode == 0
    assert bits(run(antisymrnn_numba, case)) == plain


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_while_other_threads_are_in_calls():
    case = tail_case("antisymmetric", 60, 40, 19, 2, np.float64, 15)
    plain = bits(run(antisymrnn_numba, case))
    stop = threading.Event()

    def loop() -> None:
        while not stop.is_set():
            run(antisymrnn_numba, case)

    callers = [threading.Thread(target=loop) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        for _ in range(5):
            ours, theirs = multiprocessing.Pipe()
            child = multiprocessing.get_context("fork").Process(target=_in_child, args=(case, theirs))
            child.start()
            assert ours.poll(60), "the child gave no answer"
            assert ours.recv() == plain
            child.join(60)
    finally:
        stop.set()
        for caller in callers:
            caller.join()
