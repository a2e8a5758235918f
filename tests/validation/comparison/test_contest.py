"""The comparison: peers are right or not timed, times are medians of gated samples, counts are as stated."""

import ctypes
import gc
import importlib.util
import itertools
import math
import platform
import re
import sys
import threading
import weakref
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import antisymrnn_ref
from antisymrnn_ref.antisymmetric import recurrent_matrix
from antisymrnn_ref.installation import install_command
from antisymrnn_validation.comparison import agreement, contenders, contest, processes, targets, timing, workload
from antisymrnn_validation.comparison.contenders import Contender, backend_contender, prepare_backend
from antisymrnn_validation.comparison.peak import Peak, Registers
from antisymrnn_validation.comparison.timing import Sample, Timed, summary, take_turns, wanted_samples
from antisymrnn_validation.comparison.workload import Shape, everything_case, timed_case
from antisymrnn_validation.output.environment import usable_processors
from antisymrnn_validation.reports.times import contender_contradicts
from antisymrnn_validation.truth.calls import run
from antisymrnn_validation.truth.cases import CELLS
from tiers import tiered

DTYPES = ("float32", "float64")
TINY = Shape(9, 5, 2, 6)
STEADY_PEAK = Peak(lambda: 100.0, lambda: 100.0, lambda: 100.0, 50.0, 2, Registers(256, 12))


@pytest.fixture(autouse=True)
def _settles_at_once(monkeypatch):
    """Wait less before each sample; what a contender settles in is a matter of clean times, which no test needs."""
    monkeypatch.setattr(timing, "SETTLE_SECONDS", 0.005)
    monkeypatch.setattr(timing, "REST_SECONDS", 0.001)


def libraries(name):
    """What a test of this peer needs; the peers are not in the test extra."""
    library = name.split()[0]
    if library in contenders.LIBRARIES:
        pytest.importorskip(library, reason=f"the peer {name} needs {library}: {install_command('peers')}")


def every_peer():
    return [(cell, peer.name) for cell in CELLS for peer in contenders.peers(cell, contenders.LIBRARIES)]


def peer_named(cell, name):
    libraries(name)
    return next(peer for peer in contenders.peers(cell, contenders.LIBRARIES) if peer.name == name)


# peers


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("cell", "name"), every_peer())
def test_every_peer_is_right(cell, name, dtype):
    """The small case against certified truth (a layer of PyTorch against its equations), then a timed case."""
    peer = peer_named(cell, name)
    small = agreement.check_small(peer, cell, dtype)
    assert small.status == "right", small.detail
    assert len(small.errors) == (5 if peer.layer else 4 if cell == "antisymmetric" else 6)
    if peer.layer:
        return
    case = timed_case(cell, Shape(40, 9, 3, 20), dtype)
    timed = agreement.check_timed(peer.prepare(case).results, case, agreement.timed_reference(case))
    assert timed.status == "right", timed.detail


@pytest.mark.parametrize("cell", CELLS)
def test_the_hoisted_loop_equals_the_specification(cell):
    """To rounding, array by array, from another initial state, and called twice."""
    case = timed_case(cell, Shape(31, 7, 4, 12), "float64")
    case = case._replace(h0=everything_case(case).h0)
    prepared = contenders.numpy_hoisted(case)
    expected = prepare_backend(antisymrnn_ref, case).results()
    for _ in range(2):
        got = prepared.results()
        assert got.keys() == expected.keys()
        for name, array in got.items():
            np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-12 * np.abs(expected[name]).max())
    np.testing.assert_array_equal(prepared.forward(), got["h"])


def moved(prepare, name, factor=1 + 1e-3):
    """A peer that is wrong in one array."""

    def wrong(case):
        prepared = prepare(case)
        return prepared._replace(results=lambda: {**(got := prepared.results()), name: factor * got[name]})

    return wrong


@pytest.mark.parametrize("name", ["h", "W", "V", "b", "V_z", "b_z"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_wrong_peer_is_caught_by_either_check(name, dtype):
    peer = Contender("planted", "peer", moved(contenders.numpy_hoisted, name), "gated")
    small = agreement.check_small(peer, "gated", dtype)
    where = name if name == "h" else f"d{name}"
    assert small.status == "wrong"
    assert re.match(rf"outside tolerance: {where} 0\.00\d+ > \d", small.detail)
    case = timed_case("gated", Shape(40, 9, 3, 20), dtype)
    timed = agreement.check_timed(peer.prepare(case).results, case, agreement.timed_reference(case))
    assert timed.status == "wrong"
    assert re.match(rf"outside tolerance: {where} 0\.00\d+ > \d", timed.detail)


@pytest.mark.parametrize(
    ("results", "status", "words"),
    [
        (lambda got: {name: array for name, array in got.items() if name != "b"}, "wrong", "expected arrays"),
        (lambda got: {**got, "h": got["h"][:1]}, "wrong", "expected arrays"),
        (lambda got: {**got, "W": np.full_like(got["W"], np.nan)}, "wrong", "outside tolerance: dW nan > "),
        (lambda got: {**got, "W": 0 * got["W"]}, "wrong", "outside tolerance: dW 1 > "),
        (lambda got: got["no such array"], "broke off", "KeyError: 'no such array' (test_contest.py, line "),
    ],
)
def test_missing_misshapen_and_empty_results_are_caught(results, status, words):
    def prepare(case):
        prepared = contenders.numpy_hoisted(case)
        return prepared._replace(results=lambda: results(prepared.results()))

    peer = Contender("planted", "peer", prepare, "antisymmetric")
    case = timed_case("antisymmetric", TINY, "float64")
    timed = agreement.check_timed(prepare(case).results, case, agreement.timed_reference(case))
    for result in (agreement.check_small(peer, "antisymmetric", "float64"), timed):
        assert result.status == status
        assert words in result.detail


@pytest.mark.parametrize("layer", ["RNN", "GRU"])
def test_a_wrong_layer_is_caught(layer):
    truth, tolerances = agreement.layer_reference(layer, "antisymmetric", "float64")
    assert max(tolerances.values()) < 1e-13

    def check(got):
        prepared = contenders.numpy_hoisted(agreement.small_case("antisymmetric", "float64"))._replace(
            results=lambda: got
        )
        peer = Contender(str(id(got)), "peer", lambda _: prepared, f"nn.{layer}", layer)
        return agreement.check_small(peer, "antisymmetric", "float64")

    assert check(truth).status == "right"
    for name in truth:
        found = check({**truth, name: truth[name] * (1 + 1e-9)})
        assert found.status == "wrong"
        assert found.detail.startswith(f"outside tolerance: {name if name == 'h' else f'd{name}'} 1e-9 > ")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_the_tolerance_of_a_timed_case_is_small(cell, dtype):
    """A batch column too few, or a step too few, is far outside."""
    case = timed_case(cell, Shape(60, 16, 1, 24), dtype)
    reference = agreement.timed_reference(case)
    assert max(reference.tolerances.values()) < 2000 * np.finfo(dtype).eps
    for part in (case._replace(x=case.x[1:]), case._replace(g=case.g * (np.arange(16) > 0)[:, None].astype(dtype))):
        result = agreement.check_timed(prepare_backend(antisymrnn_ref, part).results, case, reference)
        assert result.status == "wrong"


def test_what_may_differ_on_a_timed_case_is_eight_times_what_float32_is_off():
    errors, conditions = {"h": 1e-6, "W": 2e-6, "b": 1e-6}, {"h": 1.0, "W": 2.0, "b": 4.0}
    single = agreement._tolerances(errors, conditions, "float32")
    assert single == pytest.approx({"h": 8e-6, "W": 1.6e-5, "b": 3.2e-5})  # 8 · 10⁻⁶ of the terms of a sum
    double = agreement._tolerances(errors, conditions, "float64")
    assert double == pytest.approx({name: value * 2.0**-29 for name, value in single.items()})
    tiny = agreement._tolerances(dict.fromkeys(errors, 0.0), conditions, "float32")
    assert tiny == pytest.approx({name: 4 * 2.0**-23 * condition for name, condition in conditions.items()})


@pytest.mark.parametrize("cell", CELLS)
def test_the_size_of_the_terms_is_that_of_the_sums(cell):
    """With one step, one sample and one unit, a sum has one term."""
    case = timed_case(cell, Shape(1, 1, 1, 1), "float64")
    conditions = agreement._conditions(case, prepare_backend(antisymrnn_ref, case).results())
    assert {name: value for name, value in conditions.items() if name != "W"} == pytest.approx(
        dict.fromkeys(conditions.keys() - {"W"}, 1.0)
    )


# counts


@pytest.mark.parametrize("sizes", [(3, 2, 4, 5), (2, 3, 1, 4), (1, 1, 1, 1)])
@pytest.mark.parametrize(("cell", "recurrent", "inputs"), [("antisymmetric", 1, 1), ("gated", 1, 2), ("nn.GRU", 3, 3)])
def test_operations_against_a_count_one_by_one(cell, recurrent, inputs, sizes):
    shape = T, B, m, n = Shape(*sizes)

    def product(*sizes):
        return 2 * sum(1 for _ in itertools.product(*map(range, sizes)))

    forward = backward = dx = 0
    for _ in range(T):
        for _ in range(recurrent):
            forward += product(B, n, n)  # M h
            backward += product(B, n, n) + product(n, n, B)  # Mᵀ δ; dM
        for _ in range(inputs):
            forward += product(B, n, m)  # V x
            backward += product(n, m, B)  # dV
            dx += product(B, m, n)  # Vᵀ δ
    assert workload.forward_operations(cell, shape) == forward
    assert workload.backward_operations(cell, shape) == backward
    assert workload.backward_operations(cell, shape, input_gradient=True) == backward + dx


def test_the_first_shape_has_the_known_count():
    """3.29 and 9.87 GFLOP, less what m = 1 adds."""
    shape = contest.SHAPES[0]
    forward = workload.forward_operations("antisymmetric", shape)
    both = forward + workload.backward_operations("antisymmetric", shape)
    assert (forward, both) == (2 * 784 * 128 * 128 * 129, 2 * 784 * 128 * 128 * (3 * 128 + 2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_extra_bytes_are_those_of_the_arrays(dtype):
    case = everything_case(timed_case("gated", TINY, dtype))
    assert workload.extra_bytes(TINY, dtype) == case.h0.nbytes + case.g[:-1].nbytes + case.x.nbytes


# timing


class Machine:
    """A clock that only calls and looks advance, and a machine that is slow when the test says so."""

    def __init__(self, gflops=lambda _: 100.0):
        self.now, self.looks, self.gflops, self.order, self.rests = 0.0, 0, gflops, [], []

    def clock(self):
        return self.now

    def look(self):
        self.looks += 1
        self.now += 1e-3
        return self.gflops(self.looks)

    def call(self, name, *seconds):
        """A call that takes these seconds in turn when it is timed, and settles in one untimed call before."""
        durations, timed = itertools.cycle(seconds), itertools.cycle((False, True))

        def run():
            self.order.append(name)
            self.now += next(durations) if next(timed) else timing.SETTLE_SECONDS

        return run

    def take(self, *contenders):
        return take_turns(contenders, self.look, lambda: 100.0, clock=self.clock, rest=self.rests.append)


def test_contenders_take_turns_and_medians_are_right():
    machine = Machine()
    first, second = machine.call("a", 1.0, 2.0, 6.0, 3.0, 4.0), machine.call("b", 0.5)
    taken = machine.take(Timed("a", first, 5), Timed("b", second, 3))
    assert machine.order == [name for turn in "abababaa" for name in (turn, turn)]  # once untimed, once timed
    a, b = (summary(samples, 100.0) for samples in taken)
    assert a == pytest.approx((3.0, 2.0, 4.0, 5, 0))
    assert b == pytest.approx((0.5, 0.5, 0.5, 3, 0))
    assert machine.rests == [timing.REST_SECONDS] * 8


def test_a_sample_is_rejected_if_the_machine_is_slow_after_it():
    # three good looks before the first sample, only bad ones for long enough after it, then all is well
    machine = Machine(lambda look: 89.0 if 4 <= look <= 20 else 100.0)
    (samples,) = machine.take(Timed("a", machine.call("a", 7.0, 1.0), 2))
    assert [sample.gflops for sample in samples] == [89.0, 100.0, 100.0]
    assert summary(samples, 100.0) == pytest.approx((4.0, 2.5, 5.5, 2, 1))


def test_one_look_in_time_after_a_sample_is_enough():
    for slow, counts in ((5, (1, 0)), (40, (1, 1))):
        machine = Machine(lambda look, slow=slow: 50.0 if 4 <= look < 4 + slow else 100.0)
        (samples,) = machine.take(Timed("a", machine.call("a", 1.0), 1))
        assert summary(samples, 100.0)[3:] == counts


@pytest.mark.parametrize(("before", "after"), [(95.0, 110.0), (110.0, 95.0)])
def test_a_sample_keeps_the_lower_of_its_two_looks(before, after):
    machine = Machine(lambda look: before if look <= timing.STEADY else after)
    (samples,) = machine.take(Timed("a", machine.call("a", 1.0), 1))
    assert [sample.gflops for sample in samples] == [95.0]
    assert summary(samples, 110.0)[3:] == (0, 1)  # the machine can hold more, it turned out


def test_a_sample_waits_until_the_machine_is_at_its_peak():
    machine = Machine(lambda look: 50.0 if look <= 20 or look == 22 else 100.0)
    (samples,) = machine.take(Timed("a", machine.call("a", 1.0), 1))
    assert summary(samples, 100.0)[3:] == (1, 0)
    assert machine.looks == 26  # 20 bad, one good, one bad, three in a row, one after


def test_a_machine_that_is_never_at_its_peak_times_nothing():
    machine = Machine(lambda _: 89.9)
    (samples,) = machine.take(Timed("a", machine.call("a", 1.0), 3))
    assert machine.order == []
    assert len(samples) == timing.ATTEMPTS * 3
    outcome = summary(samples, 100.0)
    assert math.isnan(outcome.median)
    assert outcome[3:] == (0, timing.ATTEMPTS * 3)


def test_looks_that_are_not_all_at_the_peak_let_nothing_through():
    def gflops(look):
        machine.now += 0.5 * timing.BEFORE_SECONDS
        return 50.0 if look % 3 == 2 else 100.0  # good, bad, good: then the patience is at its end

    machine = Machine(gflops)
    (samples,) = machine.take(Timed("a", machine.call("a", 1.0), 2))
    assert machine.order == []
    assert {sample.gflops for sample in samples} == {50.0}
    assert summary(samples, 100.0)[3:] == (0, timing.ATTEMPTS * 2)


def test_a_contender_that_is_given_up_does_not_stop_the_others():
    """After every call of the first, the machine is slow for longer than it may be."""
    slow_looks = [0]

    def gflops(_):
        slow_looks[0] -= 1
        return 10.0 if slow_looks[0] >= 0 else 100.0

    machine = Machine(gflops)
    first = machine.call("a", 1.0)

    def disturbing():
        first()
        slow_looks[0] = 20

    taken = machine.take(Timed("a", disturbing, 2), Timed("b", machine.call("b", 1.0), 4))
    assert [summary(samples, 100.0)[3:] for samples in taken] == [(0, timing.ATTEMPTS * 2), (4, 0)]


def test_samples_stop_counting_when_the_peak_rises():
    samples = [Sample(1.0, 100.0), Sample(2.0, 95.0), Sample(3.0, 110.0)]
    assert summary(samples, 100.0)[3:] == (3, 0)
    assert summary(samples, 110.0)[3:] == (2, 1)
    assert summary(samples, 130.0)[3:] == (0, 3)


def test_a_contender_runs_untimed_until_the_machine_has_settled():
    machine = Machine()
    third = timing.SETTLE_SECONDS / 3 + 1e-6

    def call():
        machine.order.append("a")
        machine.now += third

    ((sample,),) = machine.take(Timed("a", call, 1))
    assert machine.order == ["a"] * 4
    assert sample.seconds == pytest.approx(third)


def test_slow_contenders_have_fewer_samples():
    assert wanted_samples(1e-6, 25) == 25
    assert wanted_samples(timing.SECONDS / 10, 25) == pytest.approx(10, abs=1)
    assert wanted_samples(60.0, 25) == timing.FEWEST
    assert wanted_samples(60.0, 1) == 1


def test_collection_is_off_while_samples_are_taken_and_on_again():
    seen, machine = [], Machine()
    call = machine.call("a", 1.0)
    machine.take(Timed("a", lambda: (call(), seen.append(gc.isenabled())), 1))
    assert (seen, gc.isenabled()) == ([False, False], True)
    with pytest.raises(ZeroDivisionError):
        Machine().take(Timed("a", lambda: 1 / 0, 1))
    assert gc.isenabled()


# the peak

needs_llvmlite = pytest.mark.skipif(
    importlib.util.find_spec("llvmlite") is None,
    reason=f"the FMA loop needs llvmlite: {install_command('numba')}",
)


@needs_llvmlite
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_peak_is_measured(dtype, monkeypatch):
    from antisymrnn_validation.comparison import peak

    monkeypatch.setattr(peak, "SETTLED_SECONDS", 0.05)
    monkeypatch.setattr(peak, "SEARCH_SECONDS", 0.2)
    with peak.measured_peak(dtype) as found:
        assert found.threads == usable_processors()
        assert 0.5 < found.alone < 1000
        assert found.best() > 0
        reached = [found.look() for _ in range(20)]
        assert found.best() >= max(reached) > 0
        assert found.best() >= found.steady() >= sorted(reached[:5])[2]


@needs_llvmlite
def test_single_precision_has_twice_the_lanes(monkeypatch):
    """The counts of operations fit the two loops: the same registers do twice as much in float32."""
    from antisymrnn_validation.comparison import peak

    monkeypatch.setattr(peak, "SETTLED_SECONDS", 0.1)
    monkeypatch.setattr(peak, "SEARCH_SECONDS", 0.5)
    alone = {}
    for dtype in DTYPES:
        with peak.measured_peak(dtype, 1) as found:
            alone[dtype] = max(found.best(), found.alone)
    assert 1.4 < alone["float32"] / alone["float64"] < 2.8


def test_the_peak_counts_two_operations_for_each_multiply_add_of_each_lane(monkeypatch):
    """A loop in the place of the compiled one that takes 10 ns a step: 12 accumulators of 4 lanes are 9.6 GFLOP/s."""
    from antisymrnn_validation.comparison import peak

    now = [0.0]

    def loop(address, steps, *_):
        np.ctypeslib.as_array((ctypes.c_double * 48).from_address(address))[:] = steps
        now[0] += 1e-8 * steps
        return 1

    monkeypatch.setattr(peak, "_compile", lambda *_: (loop, None))
    monkeypatch.setattr(peak, "host_registers", lambda: Registers(256, 12))
    monkeypatch.setattr(peak, "SETTLED_SECONDS", 0.01)
    with peak.measured_peak("float64", 1, clock=lambda: now[0]) as found:
        assert found.look() == pytest.approx(9.6)
        assert (found.alone, found.best(), found.steady()) == pytest.approx((9.6, 9.6, 9.6))


def test_the_peak_of_two_threads_is_looked_for_until_they_run_together_and_it_rises_no_more(monkeypatch):
    """Alone 12 accumulators of 4 lanes take 10 ns a step; two threads have one core, then nearly two, then two."""
    from antisymrnn_validation.comparison import peak

    now, counting, alone_too = [0.0], threading.Lock(), [False]
    paces = [(0.05, 20.0), (0.06, 10.5), (math.inf, 10.0)]  # until then, ns a step of both

    def loop(address, steps, *rest):
        _, _, start_at, _, threads = rest
        np.ctypeslib.as_array((ctypes.c_double * 48).from_address(address))[:] = steps
        with counting:
            arrived = ctypes.c_int64.from_address(start_at)
            arrived.value += 1
            if last := arrived.value == threads:
                pace = next(pace for until, pace in paces if now[0] < until)
                now[0] += 1e-9 * steps * (10.0 if threads == 1 else pace)
        return int(last or not alone_too[0])

    monkeypatch.setattr(peak, "_compile", lambda *_: (loop, None))
    monkeypatch.setattr(peak, "host_registers", lambda: Registers(256, 12))
    monkeypatch.setattr(peak, "SETTLED_SECONDS", 0.02)
    monkeypatch.setattr(peak, "SEARCH_SECONDS", 0.5)
    monkeypatch.setattr(peak, "ARRIVAL_WAITS", 10**6)  # the one with the clock is the last
    with peak.measured_peak("float64", 2, clock=lambda: now[0]) as found:
        assert (found.alone, found.best(), found.steady()) == pytest.approx((9.6, 19.2, 19.2))
        assert now[0] < 0.1
        paces[:] = [(math.inf, 5.0)]
        assert found.look() == pytest.approx(38.4)
        assert (found.best(), found.steady()) == pytest.approx((38.4, 19.2))  # one look is not what it can hold
        alone_too[0] = True
        assert found.look() == 0.0


@needs_llvmlite
def test_a_loop_that_does_not_do_its_steps_is_refused(monkeypatch):
    from antisymrnn_validation.comparison import peak

    source = peak.loop_source
    monkeypatch.setattr(
        peak, "loop_source", lambda *a: source(*a).replace("%done.1 = add i64 %done, 1", "%done.1 = add i64 %done, 2")
    )
    with pytest.raises(peak.PeakError, match="expected 1024 in every lane, got"), peak.measured_peak("float32", 1):
        pass


@needs_llvmlite
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="compiles for x86-64 processors")
@pytest.mark.parametrize(
    ("processor", "registers", "name"),
    [
        ("skylake-avx512", Registers(512, 24), "zmm"),
        ("znver4", Registers(512, 24), "zmm"),
        ("haswell", Registers(256, 12), "ymm"),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_loop_stays_in_registers(processor, registers, name, dtype):
    """One FMA for each accumulator, on the widest registers, and no memory in the loop."""
    import llvmlite.binding as llvm

    from antisymrnn_validation.comparison import peak

    peak._compile(dtype, peak.host_registers())  # initialises LLVM
    target = llvm.Target.from_triple("x86_64-unknown-linux-gnu")
    machine = target.create_target_machine(cpu=processor, opt=2)
    text = machine.emit_assembly(llvm.parse_assembly(peak.loop_source(dtype, registers)))
    body = text[text.index("run:") :]
    fused = [line for line in body.splitlines() if "vfmadd" in line]
    assert len(fused) == registers.accumulators
    assert all(f"%{name}" in line and "(" not in line for line in fused)
    loop = body[body.index(fused[0]) : body.index(fused[-1])]
    assert not re.search(r"\(%r[sb]p\)", loop)


# contests


def backend_of(forward=None, backward=None):
    """The specification under another name, with a function replaced."""
    module = ModuleType("dummy")
    module.__dict__.update(antisymrnn_ref.__dict__)
    for cell in CELLS:
        own = getattr(antisymrnn_ref, cell)
        setattr(module, cell, SimpleNamespace(forward=forward or own.forward, backward=backward or own.backward))
    return module


PLAN = contest.Plan("antisymmetric", TINY, "float64")


def held(backends, plan=PLAN, extra=()):
    entered = [*contest.line_up(plan.cell, backends, ()), *extra]
    entries, interrupted = contest.hold(plan, entered, contest.host_contest(STEADY_PEAK), samples=2)
    assert not interrupted
    return contest.record(plan, entries, 100.0, 100.0)


@pytest.mark.parametrize("cell", CELLS)
def test_a_contest_times_everything_that_is_right(cell):
    calls = []

    def forward(*arguments, **options):
        calls.append(options.get("keep_every", 1))
        return getattr(antisymrnn_ref, cell).forward(*arguments, **options)

    plan = contest.Plan(cell, TINY, "float32")
    outcome = held(
        {"numpy": antisymrnn_ref, "dummy": backend_of(forward, getattr(antisymrnn_ref, cell).backward)}, plan
    )
    assert [entry["name"] for entry in outcome["contenders"]] == ["numpy", "dummy", "numpy hoisted"]
    assert {entry["status"] for entry in outcome["contenders"]} == {"timed"}
    assert set(calls) == {1}
    assert outcome["shape"] == {"T": 9, "B": 5, "m": 2, "n": 6}
    for entry in outcome["contenders"]:
        assert set(entry["times"]) == (
            {"forward", "both", "everything"} if entry["kind"] == "backend" else {"forward", "both"}
        )
        for what, times in entry["times"].items():
            assert times["lower"] <= times["median"] <= times["upper"]
            assert (times["samples"], times["calls"]) == (2, 1)
            assert times["us_per_step"] == pytest.approx(1e6 * times["median"] / 9)
            assert times["gflops"] == pytest.approx(1e-9 * entry["operations"][what] / times["median"])
            assert times["fraction"] == pytest.approx(times["gflops"] / 100)


def test_the_arrays_of_a_contender_are_freed_after_the_contest():
    alive = []

    def prepare(case):
        prepared = contenders.numpy_hoisted(case)
        alive.append(weakref.ref(prepared.both))
        return prepared

    planted = Contender("planted", "peer", prepare, "antisymmetric")
    (entry,), _ = contest.hold(PLAN, [planted], contest.host_contest(STEADY_PEAK), samples=1)
    assert set(entry.samples) == {"forward", "both"}
    gc.collect()
    assert [reference() for reference in alive] == [None] * len(alive)


def test_everything_asks_for_everything():
    seen = []

    def backward(parameters, x, trajectory, g, **options):
        gradients = antisymrnn_ref.antisymmetric.backward(parameters, x, trajectory, g, **options)
        seen.append((options["input_gradient"], g.ndim, bool(trajectory.h[0].any()), gradients.x is not None))
        return gradients

    held({"dummy": backend_of(backward=backward)})
    assert set(seen) == {(False, 2, False, False), (True, 3, True, True)}


def test_each_time_is_of_the_call_of_its_name():
    calls = {name: lambda name=name: name for name in ("forward", "both")}

    def prepare(case):
        return contenders.numpy_hoisted(case)._replace(**calls)

    contender = Contender("planted", "backend", prepare, "antisymmetric", layer="GRU")  # of which nothing is checked
    case = timed_case("antisymmetric", TINY, "float64")
    ready, found = contest.make_ready(contender, case, lambda _: None, contest.host_contest(STEADY_PEAK))
    assert (ready.status, ready.detail) == ("", "")
    assert {name: call() for name, call in found.items()} == {"forward": "forward", "both": "both"}


def test_a_call_of_a_backend_ends_when_its_work_is_done():
    brought = []
    backend = backend_of()
    backend.to_numpy = lambda array: brought.append(array.tolist()) or antisymrnn_ref.to_numpy(array)
    case = timed_case("antisymmetric", TINY, "float64")
    expected = run(antisymrnn_ref, case)
    last_of_each = [expected["h"][-1].tolist(), expected["diffusion"].tolist()]
    for wait, seen in ((True, last_of_each), (False, [])):
        prepared = prepare_backend(backend, case, wait=wait)
        brought.clear()
        prepared.forward()
        prepared.both()
        assert brought == seen


@pytest.mark.parametrize("wrong", ["result", "exception", "later exception", "exception while it is timed"])
def test_what_is_wrong_is_not_timed_and_the_others_are(wrong):
    calls = []

    def backward(*arguments, **options):
        calls.append(options)
        if len(calls) > {"exception": 0, "later exception": 2, "exception while it is timed": 12}.get(wrong, math.inf):
            raise RuntimeError("no\nluck")
        gradients = antisymrnn_ref.antisymmetric.backward(*arguments, **options)
        if wrong == "result":
            gradients = gradients._replace(parameters=gradients.parameters._replace(b=2 * gradients.parameters.b))
        return gradients

    outcome = held({"dummy": backend_of(backward=backward), "numpy": antisymrnn_ref})
    dummy, *others = outcome["contenders"]
    assert (dummy["status"], dummy["times"]) == ("wrong" if wrong == "result" else "broke off", {})
    assert contender_contradicts(dummy)
    raised = r"RuntimeError: no luck \(test_contest.py, line \d+\) "
    expected = {
        "result": r"outside tolerance: db 1 > \S+ \(on the timed case\)",
        "exception": raised + r"\(on the timed case\)",
        "later exception": raised + r"\(before it was timed\)",
        "exception while it is timed": raised + r"\(while timing (both|everything)\)",
    }
    assert re.fullmatch(expected[wrong], dummy["detail"])
    assert {entry["status"] for entry in others} == {"timed"}
    times = {"result": 1, "exception": 1, "later exception": 3, "exception while it is timed": 13}
    assert len(calls) == times[wrong]


def test_a_wrong_peer_is_not_timed():
    def prepare(case):
        prepared = moved(contenders.numpy_hoisted, "W")(case)
        return prepared._replace(both=lambda: pytest.fail("it was timed"))

    outcome = held({"numpy": antisymrnn_ref}, extra=[Contender("planted", "peer", prepare, "antisymmetric")])
    planted = outcome["contenders"][-1]
    assert (planted["status"], planted["times"]) == ("wrong", {})
    assert re.fullmatch(r"outside tolerance: dW 0\.00\d+ > \S+ \(on the small case\)", planted["detail"])
    assert contender_contradicts(planted)


@pytest.mark.parametrize(
    "error",
    tiered(
        [MemoryError("no\nmore"), ImportError("no compiler"), SystemExit(3)],
        lambda error: isinstance(error, MemoryError),
    ),
)
@pytest.mark.parametrize("where", ["small case", "timed case", "first call", "later call"])
def test_a_peer_that_breaks_off_is_neither_timed_nor_wrong(error, where):
    """And it is not called again, while the others are timed."""
    calls = []

    def broken(case):
        if where in ("first call", "later call"):
            calls.append(where)
            if len(calls) > (3 if where == "later call" else 0):
                raise error
        elif (where == "small case") == (case.x.shape != (9, 5, 2)):
            raise error

    def prepare(case):
        prepared = contenders.numpy_hoisted(case)
        if where in ("small case", "timed case"):
            broken(case)
        return prepared._replace(both=lambda: broken(case))

    planted = Contender("planted", "peer", prepare, "antisymmetric")
    *others, outcome = held({"numpy": antisymrnn_ref}, extra=[planted])["contenders"]
    assert (outcome["status"], outcome["times"]) == ("broke off", {})
    assert not contender_contradicts(outcome)
    said = {MemoryError: "MemoryError: no more", ImportError: "ImportError: no compiler", SystemExit: "SystemExit: 3"}
    place = {
        "small case": "on the small case", "timed case": "before it was timed", "first call": "before it was timed",
        "later call": "while timing both",
    }  # fmt: skip
    assert re.fullmatch(rf"{said[type(error)]} \(test_contest.py, line \d+\) \({place[where]}\)", outcome["detail"])
    assert {entry["status"] for entry in others} == {"timed"}
    assert len(calls) == {"first call": 1, "later call": 4}.get(where, 0)


def test_a_peer_that_is_wrong_at_the_timed_size_alone_is_not_timed():
    def prepare(case):
        if case.x.shape != (9, 5, 2):
            return contenders.numpy_hoisted(case)
        return moved(contenders.numpy_hoisted, "W")(case)._replace(forward=lambda: pytest.fail("it was timed"))

    entered = [Contender("planted at one size", "peer", prepare, "antisymmetric")]
    (entry,), _ = contest.hold(PLAN, entered, contest.host_contest(STEADY_PEAK), samples=1)
    assert entry.ready.status == "wrong"
    assert re.fullmatch(r"outside tolerance: dW 0\.001 > \S+ \(on the timed case\)", entry.ready.detail)
    assert entry.ready.errors["W"]["error"] == pytest.approx(1e-3, rel=1e-2)
    assert entry.samples == {}


def test_a_failure_of_the_reference_is_not_a_contenders(monkeypatch):
    """Nothing is timed that was not checked: it ends the contest."""

    def broken(_):
        raise ArithmeticError("ours")

    monkeypatch.setattr(agreement, "timed_reference", broken)
    with pytest.raises(ArithmeticError, match="ours"):
        held({"numpy": antisymrnn_ref})


def test_an_interrupted_contest_keeps_the_checks_that_were_done():
    def interrupt(_):
        raise KeyboardInterrupt

    entered = [
        Contender("wrong", "peer", moved(contenders.numpy_hoisted, "W"), "antisymmetric"),
        Contender("interrupted", "peer", interrupt, "antisymmetric"),
    ]
    entries, interrupted = contest.hold(PLAN, entered, contest.host_contest(STEADY_PEAK), samples=1)
    assert interrupted
    assert [entry.ready.status for entry in entries] == ["wrong", "not timed"]
    assert entries[1].ready.detail == "interrupted"


def test_a_contender_without_a_sample_is_named():
    plan = contest.Plan("antisymmetric", TINY, "float64")
    entry = contest.Entry(
        backend_contender("dummy", antisymrnn_ref, plan.cell),
        contest.Ready(),
        {"forward": [Sample(1.0, 99.0)], "both": [Sample(math.nan, 10.0)] * 3},
    )
    (outcome,) = contest.record(plan, [entry], 200.0, 100.0)["contenders"]
    assert outcome["status"] == "not timed"
    assert outcome["detail"] == "the machine was never at its peak: both in 3 attempts"


def test_operations_are_those_of_what_was_timed():
    """T = 3, B = 2, m = 4, n = 5: 2 T B n = 60, of GRU 15 + 12 multiply-adds in each, of the gated cell 5 + 8."""
    plan = contest.Plan("gated", Shape(3, 2, 4, 5), "float64")
    entered = [
        Contender("torch nn.GRU", "peer", lambda _: None, "nn.GRU"),
        backend_contender("mine", antisymrnn_ref, plan.cell),
    ]
    samples = dict.fromkeys(contest.WHAT, [Sample(2.0, 100.0)] * 3)
    entries = [contest.Entry(contender, contest.Ready(), samples) for contender in entered]
    layer, mine = contest.record(plan, entries, 200.0, 100.0)["contenders"]
    assert layer["operations"] == {
        "forward": 1620, "inference": 1620, "both": 1620 + 2520, "everything": 1620 + 2520 + 720,
    }  # fmt: skip
    assert mine["operations"] == {
        "forward": 780, "inference": 780, "both": 780 + 1080, "everything": 780 + 1080 + 480,
    }  # fmt: skip
    for what, count in mine["operations"].items():
        assert mine["times"][what]["gflops"] == pytest.approx(1e-9 * count / 2)
        assert mine["times"][what]["fraction"] == pytest.approx(1e-9 * count / 2 / 200)


def test_plans():
    default = contest.plans(CELLS, [], [])
    assert len(default) == 12
    assert [plan.dtype for plan in default if plan.shape == contest.SHAPES[0]] == ["float32", "float64"] * 2
    assert contest.plans(["gated"], [TINY, TINY], []) == [contest.Plan("gated", TINY, "float32")]
    assert len(contest.plans(CELLS, [], ["float64"])) == 10
    assert contest.plans(["gated"], [], [], quick=True) == [contest.Plan("gated", contest.QUICK_SHAPE, "float32")]


# targets


def contest_of(cell, shape, dtype, **times):
    """A record in which contenders have these (forward, both) seconds, and both at 0.8 of the peak."""
    return {
        "cell": cell,
        "shape": shape._asdict(),
        "dtype": dtype,
        "contenders": [
            {
                "name": name.replace("_", " "),
                "status": "timed",
                "times": {
                    what: {"median": seconds, "fraction": 0.8}
                    for what, seconds in zip(("forward", "both"), pair, strict=True)
                },
            }
            for name, pair in times.items()
        ],
    }


def test_targets_are_met_or_not_or_not_measured():
    first = contest_of(
        "antisymmetric", Shape(784, 128, 1, 128), "float32",
        mine=(1.0, 2.0), torch_eager=(9.0, 12.0), jax_scan=(8.0, 9.9), numpy_hoisted=(5.0, 6.6),
    )  # fmt: skip
    first["contenders"].append(first["contenders"][1] | {"name": "torch nn.RNN"})
    one = contest_of("antisymmetric", Shape(784, 1, 1, 128), "float32", mine=(1.0, 2.0), jax_scan=(1.1, 8.0))
    outcome = targets.records(targets.TARGETS, "mine", [first, one])
    assert len(outcome) == len(targets.TARGETS)
    verdicts = [(entry["verdict"], entry["reached"]) for entry in outcome]
    assert verdicts[0] == ("met", 0.8)
    assert verdicts[1] == ("not met", pytest.approx(4.95))
    assert verdicts[2] == ("met", pytest.approx(3.3))
    assert verdicts[3][0] == "not measured"
    assert verdicts[6] == ("met", pytest.approx(4.0))
    assert verdicts[7] == ("not met", pytest.approx(1.1))
    assert {verdict for verdict, _ in verdicts[8:]} == {"not measured"}


def test_a_fraction_is_of_what_the_target_is_about():
    first = contest_of("antisymmetric", Shape(784, 128, 1, 128), "float32", mine=(1.0, 2.0))
    first["contenders"][0]["times"]["both"]["fraction"] = 0.74
    outcome = targets.records(targets.TARGETS, "mine", [first])[0]
    assert (outcome["verdict"], outcome["reached"]) == ("not met", 0.74)


def test_the_bounds_are_not_loosened():
    bounds = [target.bound for target in targets.TARGETS]
    assert bounds == [0.75, 5.0, 3.3, 0.68, 4.5, 4.8, 2.0, 1.2, 0.75, 3.2, 0.70, 5.0]


def test_the_best_of_some_is_not_the_best_of_all():
    first = contest_of("antisymmetric", Shape(784, 128, 1, 128), "float32", mine=(1.0, 1.0), torch_eager=(9.0, 9.0))
    outcome = targets.records(targets.TARGETS, "mine", [first])[1]
    assert (outcome["verdict"], outcome["why"]) == ("not measured", "torch nn.RNN: not there")


def test_what_is_asked_is_said_in_words():
    assert [target.asked() for target in targets.TARGETS[:3]] == [
        "at least 75 % of the FMA peak",
        "at least 5 times as fast as the best of torch eager and torch nn.RNN and jax scan",
        "at least 3.3 times as fast as numpy hoisted",
    ]
    assert targets.DEVICE_TARGETS[0].asked() == "at most 0.3 µs per step"


def test_every_target_can_be_measured_in_a_default_run():
    plans = contest.plans(CELLS, [], [])
    for target in targets.TARGETS:
        assert contest.Plan(target.cell, target.shape, target.dtype) in plans
        known = {peer.name for peer in contenders.peers(target.cell, contenders.LIBRARIES)}
        assert set(target.against) <= known


# accuracy


def test_accuracy_is_in_units_of_the_specification():
    (case, *_), cases = (agreement.accuracy_cases(CELLS, DTYPES, quick=quick) for quick in (True, False))
    assert len(cases) == 16
    contender = backend_contender("dummy", antisymrnn_ref, case.cell)
    own = agreement.accuracy_record(contender, case)
    assert own["status"] == "right"
    assert all(0 <= entry["units"] <= 1 for entry in own["errors"].values())
    peer = agreement.accuracy_record(contenders.peers(case.cell, ())[0], case)
    assert set(peer["errors"]) == {"h", *case.parameters._fields}
    assert all(entry["units"] < 10 for entry in peer["errors"].values())


def test_a_large_error_is_reported_in_units():
    def backward(*arguments, **options):
        gradients = antisymrnn_ref.antisymmetric.backward(*arguments, **options)
        return gradients._replace(h0=gradients.h0 * (1 + 1e-9))

    case = agreement.accuracy_cases(["antisymmetric"], ["float64"], quick=True)[0]
    module = backend_of(backward=backward)
    outcome = agreement.accuracy_record(backend_contender("dummy", module, case.cell), case)
    assert outcome["status"] == "wrong"
    assert outcome["detail"].startswith("outside tolerance: dh0 1e-9 > ")
    entry = outcome["errors"]["h0"]
    assert entry["units"] == pytest.approx(1e-9 / entry["specification"], rel=1e-3)


# processes


def test_memory_of_a_contender_is_that_of_its_arrays():
    """The hoisted loop holds u, h, s and δ of every step, and the inputs."""
    T, B, m, n = shape = Shape(400, 64, 1, 128)
    outcome = processes.peak_memory("numpy hoisted", "antisymmetric", shape, "float64")
    arrays = 8 * T * B * (4 * n + m)
    assert 0.95 * arrays < outcome["bytes"] < 1.5 * arrays
    assert outcome["imported"] > 1e6


def test_first_calls_see_an_empty_and_then_a_filled_cache(tmp_path, monkeypatch):
    source = '''
"""The specification, slow to compile unless its cache has a file."""
import os, pathlib, time
from types import SimpleNamespace
from antisymrnn_ref import antisymmetric as right, asarray, gated, to_numpy

def forward(*arguments, **options):
    cached = pathlib.Path(os.environ["NUMBA_CACHE_DIR"], "kernel")
    if not cached.exists():
        time.sleep(0.5)
        cached.touch()
    return right.forward(*arguments, **options)

antisymmetric = SimpleNamespace(forward=forward, backward=right.backward)
'''
    (tmp_path / "compiling_backend.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    outcome = processes.first_calls("compiling_backend", "antisymmetric", "float64")
    assert outcome["cold"]["forward"] >= 0.5 > outcome["warm"]["forward"]
    assert all(set(seconds) == {"import", "forward", "backward"} for seconds in outcome.values())


def test_a_process_that_breaks_off_says_why():
    with pytest.raises(
        processes.ProcessError, match="exit code 1, last line of stderr: ValueError: backend: expected one of"
    ):
        processes.first_calls("nunpy", "antisymmetric", "float64")


def test_requests_are_answered_in_process_too():
    request = {"name": "numpy", "cell": "gated", "shape": list(TINY), "dtype": "float32"}
    assert processes.answer({**request, "what": "imports"})["peak_bytes"] > 1e6
    assert processes.answer({**request, "what": "one call"})["peak_bytes"] > 1e6
    assert set(processes.answer({**request, "what": "first calls"})) == {"import", "forward", "backward"}


def test_without_the_marks_of_linux_the_resident_set_is_asked_for(monkeypatch):
    monkeypatch.setattr(processes.Path, "read_text", lambda *_: "")
    assert processes._peak_bytes() > 1e6
    monkeypatch.setitem(sys.modules, "resource", None)
    assert math.isnan(processes._peak_bytes())


def test_the_timed_case_is_the_papers():
    case = timed_case("gated", TINY, "float32")
    assert (case.step_size, case.diffusion, case.h0.any(), case.g.shape) == (0.01, 0.01, False, (5, 6))
    M = recurrent_matrix(case.parameters.W, 0.01)
    for cell in CELLS:
        np.testing.assert_array_equal(timed_case(cell, TINY, "float32").x, timed_case(cell, TINY, "float32").x)
    np.testing.assert_allclose(
        contenders.recurrent_matrix(case.parameters.W, np.eye(6, dtype="f4"), case), M, rtol=1e-6
    )
