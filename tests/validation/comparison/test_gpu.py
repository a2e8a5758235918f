"""The session on a device, driven without one: a fake clock, the specification as the backend, contenders of NumPy."""

import contextlib
import functools
import importlib.util
import itertools
import json
import math
import re
import signal
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

import antisymrnn_ref
from antisymrnn_ref.installation import install_command
from antisymrnn_validation.cli import device
from antisymrnn_validation.comparison import agreement, contenders, contest, gpu, gpu_tools, targets
from antisymrnn_validation.comparison.contenders import Contender
from antisymrnn_validation.comparison.contest import Budget
from antisymrnn_validation.comparison.gpu import line_up
from antisymrnn_validation.comparison.timing import host_clock
from antisymrnn_validation.comparison.workload import Plan, Shape, timed_case
from antisymrnn_validation.conformance.check import Check, Promise, Result, make_check
from antisymrnn_validation.output import environment
from antisymrnn_validation.reports import device as report
from antisymrnn_validation.truth.cases import CELLS

TINY = Shape(9, 5, 1, 6)
PLANS = [Plan("antisymmetric", TINY, "float32"), Plan("gated", TINY, "float64")]
ABSENT = {"torch": "no torch here", "jax": "JAX sees no GPU", "flashrnn": ""}
has_torch = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not has_torch, reason=f"the peers need torch: {install_command('peers')}")


class Clock:
    """Seconds that go by only when it is read or set, so that every run is the same."""

    def __init__(self, tick=2.0**-13):
        self.now, self.tick = 0.0, tick

    def __call__(self):
        self.now += self.tick
        return self.now


def check(status="passed", run=None):
    return Check("a promise", "a case", run or (lambda _: Result("a promise", "a case", status, "said so")))


def machine(clock, name="NVIDIA H200", measured=lambda: {"float32": 1e4, "float64": 5e3, "copy": 4000.0}):
    return gpu.Machine({"name": name, "driver_version": "1.2"}, host_clock(clock), measured)


def entered(clock, *more):
    """The contenders of a cell: the backend, the NumPy loop, and what ``more`` makes of the cell."""

    def lined_up(cell, backend):
        timer = host_clock(clock)
        found = line_up(cell, "numpy", backend, timer, ABSENT | {"flashrnn": "absent"})
        return [
            *found,
            Contender("hoisted", "peer", contenders.numpy_hoisted, cell, elapsed=timer),
            *(m(cell) for m in more),
        ]

    return lined_up


def run(tmp_path, clock=None, *, seconds=1e3, every=None, lined_up=None, chosen=PLANS, samples=3, card="NVIDIA H200"):
    clock = clock or Clock()
    path = tmp_path / "device.json"
    code = device.measured(
        "numpy", antisymrnn_ref, machine(clock, card), Budget(clock, seconds), path, True,
        libraries=lambda: ABSENT, chosen=chosen, every=[check()] if every is None else every,
        contenders=lined_up or entered(clock), samples=samples,
    )  # fmt: skip
    return code, json.loads(path.read_text(), parse_constant=lambda token: pytest.fail(token))


def hold(plan, entered, budget, *, samples):
    """A contest as the session holds it: its record, and whether it was interrupted."""
    held = contest.hold(plan, entered, gpu.device_contest(budget), samples=samples)
    return contest.record(plan, held.entries, 1.0), held.interrupted


def named(document, name, k=0):
    return next(entry for entry in document["contests"][k]["contenders"] if entry["name"] == name)


@pytest.fixture(name="run_command")
def _run_command(request):
    """The fixture ``run``, whose name a function here has."""
    return request.getfixturevalue("run")


@pytest.fixture(autouse=True)
def no_sanitizer(monkeypatch):
    """Whether or not this machine has one."""
    monkeypatch.setattr(device, "sanitizers", functools.partial(gpu_tools.sanitizers, which=lambda _: None))


# a session


def test_a_session_measures_everything(tmp_path, capsys):
    code, outcome = run(tmp_path)
    assert (code, outcome["summary"]["exit_code"], outcome["interrupted"], outcome["left_out"]) == (0, 0, False, [])
    assert outcome["conformance"]["line"] == "1 checks: 1 passed, 0 failed, 0 not applicable"
    assert [(r["tool"], r["status"]) for r in outcome["sanitizers"]] == [
        ("memcheck", "not run"),
        ("racecheck", "not run"),
    ]
    assert outcome["missing_peers"] == {"torch": "no torch here", "jax": "JAX sees no GPU"}
    assert [contest["cell"] for contest in outcome["contests"]] == list(CELLS)
    for k, plan in enumerate(PLANS):
        own, peer = named(outcome, "numpy", k), named(outcome, "hoisted", k)
        assert (own["status"], peer["status"]) == ("timed", "timed")
        assert (set(own["times"]), set(peer["times"])) == ({"forward", "inference", "both"}, {"forward", "both"})
        assert set(own["errors"]) == {"h", *timed_case(*plan).parameters._fields}
        for times in own["times"].values():
            assert times["lower"] <= times["median"] <= times["upper"]
            assert (times["samples"], times["calls"]) == (3, 9)  # nine ticks of the clock are more than a millisecond
            assert times["median"] == pytest.approx(Clock().tick / 9)
            assert times["us_per_step"] == pytest.approx(1e6 * times["median"] / 9)
            assert times["gflops"] == pytest.approx(times["fraction"] * outcome["ceilings"][plan.dtype])
    text = capsys.readouterr().out
    assert "peer missing, torch: no torch here" in text
    assert "memcheck: not run: no compute-sanitizer on the path" in text
    assert text.splitlines()[-1].startswith("compare --device --quick: conformance 1 checks: 1 passed")
    assert (outcome["command"], outcome["device"]) == ("compare", True)
    assert outcome["card"]["name"] == "NVIDIA H200"
    assert {"versions", "machine"} <= set(outcome["environment"])


def test_the_markdown_is_dated_and_complete(tmp_path, capsys):
    wrong = lambda cell: Contender("bad | one", "peer", moved, cell, elapsed=host_clock(Clock()))  # noqa: E731
    clock = Clock()
    _, outcome = run(tmp_path, clock, lined_up=entered(clock, wrong))
    text = report.markdown(outcome)
    assert text in capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0].startswith(
        f"{outcome['date'][:10]}; NVIDIA H200 (driver_version 1.2). FMA peak 10.0 TFLOP/s in float32"
    )
    assert "copy 4000 GB/s" in lines[0]
    assert lines[2].startswith(
        "| cell, n, B | numpy: forward | inference | f + b | of peak, forward / f + b | hoisted |"
    )
    assert "bad \\| one" in lines[2]
    tables = [line for line in lines if line.startswith("|")]
    assert len(tables) == 2 + len(PLANS) + 2 + len(targets.DEVICE_TARGETS)
    assert lines[4].startswith("| ungated 6, 5 float32 | ")
    assert lines[4].endswith(" | wrong |")
    assert any(line.startswith("bad | one: wrong: outside tolerance: dV 0.001 > ") for line in lines)
    assert any(line.endswith("(antisymmetric n = 6, B = 5, float32).") for line in lines)


def moved(case):
    """A peer whose dV is wrong, which fails the test when it is timed."""
    prepared = contenders.numpy_hoisted(case)

    def results():
        got = prepared.results()
        return {**got, "V": 1.001 * got["V"]}

    fail = lambda: pytest.fail("it was timed")  # noqa: E731
    return prepared._replace(results=results, forward=fail, both=fail)


def test_a_wrong_peer_is_not_timed(tmp_path):
    clock = Clock()
    code, outcome = run(
        tmp_path, clock,
        lined_up=entered(clock, lambda cell: Contender("bad", "peer", moved, cell, elapsed=host_clock(clock))),
    )  # fmt: skip
    assert code == 1
    bad = named(outcome, "bad")
    assert (bad["status"], bad["times"]) == ("wrong", {})
    assert re.fullmatch(r"outside tolerance: dV 0\.001 > \S+ \(on the small case\)", bad["detail"])
    assert named(outcome, "hoisted")["status"] == named(outcome, "numpy")["status"] == "timed"


def test_a_peer_that_is_wrong_at_the_timed_size_alone_is_not_timed(tmp_path):
    clock = Clock()

    def prepare(case):
        return moved(case) if case.x.shape == (9, 5, 1) else contenders.numpy_hoisted(case)

    bad = lambda cell: Contender("bad", "peer", prepare, cell, elapsed=host_clock(clock))  # noqa: E731
    code, outcome = run(tmp_path, clock, lined_up=entered(clock, bad), chosen=PLANS[:1])
    assert (code, named(outcome, "bad")["status"], named(outcome, "bad")["times"]) == (1, "wrong", {})
    assert re.fullmatch(r"outside tolerance: dV 0\.001 > \S+ \(on the timed case\)", named(outcome, "bad")["detail"])
    assert named(outcome, "bad")["errors"]["V"]["error"] == pytest.approx(1e-3, rel=1e-2)


def test_a_backend_that_fails_a_check_is_not_timed_but_its_peers_are(tmp_path, capsys):
    code, outcome = run(tmp_path, every=[check(), check("failed")])
    assert code == 1
    assert [entry["name"] for entry in outcome["contests"][0]["contenders"]] == ["hoisted"]
    assert "said so" in capsys.readouterr().out
    assert [failed["detail"] for failed in outcome["conformance"]["failures"]] == ["said so"]


def test_a_backend_without_a_check_that_passed_did_not_run(tmp_path):
    assert run(tmp_path, every=[check("not applicable")])[0] == 3


def test_a_wrong_backend_is_not_timed(tmp_path, monkeypatch):
    right = antisymrnn_ref.antisymmetric.forward

    def forward(parameters, x, h0, *, keep_every=1, **options):
        trajectory = right(parameters, x, h0, keep_every=keep_every, **options)
        if keep_every > 1:
            trajectory.h[-1] += 1e-7
        return trajectory

    monkeypatch.setattr(antisymrnn_ref.antisymmetric, "forward", forward)
    code, outcome = run(tmp_path, chosen=PLANS[:1])
    assert code == 1
    assert (named(outcome, "numpy")["status"], named(outcome, "numpy")["detail"]) == (
        "wrong", "the last state has other bits if it is kept alone",
    )  # fmt: skip


@pytest.mark.parametrize(("error", "status"), [(1e-3, "timed"), (0.5, "wrong"), (math.nan, "wrong")])
def test_reduced_precision_is_timed_and_marked_unless_it_is_grossly_off(tmp_path, error, status):
    def prepare(case):
        prepared = contenders.numpy_hoisted(case)
        return prepared._replace(results=lambda: {**(got := prepared.results()), "W": (1 + error) * got["W"]})

    clock = Clock()
    reduced = lambda cell: Contender("TF32", "peer", prepare, cell, elapsed=host_clock(clock), inexact=True)  # noqa: E731
    code, outcome = run(tmp_path, clock, lined_up=entered(clock, reduced), chosen=PLANS[:1])
    entry = named(outcome, "TF32")
    assert (entry["status"], code) == (status, 0 if status == "timed" else 1)
    if status == "timed":
        assert "TF32: largest relative error 0.001, tolerance " in report.markdown(outcome)
        assert entry["note"].startswith("not exact in float32: outside tolerance: dW 0.001 > ")
        assert entry["errors"]["W"]["error"] == pytest.approx(1e-3, rel=1e-2)


def test_contenders_take_turns_and_a_fast_one_settles_first():
    clock, order = Clock(0.0), []

    def contender(name, seconds):
        def prepare(case):
            prepared = contenders.numpy_hoisted(case)

            def called(what):
                clock.now += seconds
                order.append(f"{name} {what}")

            return prepared._replace(forward=lambda: called("f"), both=lambda: called("b"))

        return Contender(name, "peer", prepare, "antisymmetric", elapsed=host_clock(clock), small=False)

    entered = [contender("fast", 0.4e-3), contender("slow", 20e-3)]
    record, interrupted = hold(PLANS[0], entered, Budget(clock, 100.0), samples=2)
    turn = ["fast f"] * 4 + ["fast b"] * 4 + ["slow f", "slow b"]  # once untimed, three calls timed; the slow one once
    assert order[-2 * len(turn) :] == turn * 2
    assert not interrupted
    for entry, seconds in zip(record["contenders"], (0.4e-3, 20e-3), strict=True):
        for times in entry["times"].values():
            assert [times[key] for key in ("median", "lower", "upper")] == pytest.approx([seconds] * 3)


@pytest.mark.parametrize(("kind", "expected"), [("peer", 0), ("backend", 1)])
def test_what_breaks_off_while_it_is_timed_has_no_times(tmp_path, capsys, kind, expected):
    """A peer that breaks off is missing; a backend that does is a failure."""
    calls = itertools.count()

    def prepare(case):
        prepared = contenders.numpy_hoisted(case)

        def both():
            if next(calls) > 30:
                raise MemoryError("no\nmore")
            return prepared.both()

        return prepared._replace(both=both, results=prepared.results)

    clock = Clock()
    lined_up = entered(clock, lambda cell: Contender("weak", kind, prepare, cell, elapsed=host_clock(clock)))
    code, outcome = run(tmp_path, clock, lined_up=lined_up, chosen=PLANS[:1])
    weak = named(outcome, "weak")
    assert (code, weak["status"], weak["times"]) == (expected, "broke off", {})
    assert re.fullmatch(r"MemoryError: no more \(test_gpu.py, line \d+\) \(while timing both\)", weak["detail"])
    assert named(outcome, "hoisted")["status"] == "timed"
    out = capsys.readouterr().out
    assert re.search(r"^weak .* broke off: MemoryError: no more", out, re.MULTILINE)
    assert "1 of 1 contests: 2 timed, 1 broke off" in out.splitlines()[-1]
    if kind == "peer":
        assert any(
            line.startswith("weak: broke off: MemoryError: no more") for line in report.markdown(outcome).splitlines()
        )


def test_a_peer_without_its_compiler_is_missing_and_no_failure(tmp_path):
    def prepare(_):
        raise RuntimeError("no compiler")

    clock = Clock()
    broken = lambda cell: Contender("broken", "peer", prepare, cell, elapsed=host_clock(clock), small=False)  # noqa: E731
    code, outcome = run(tmp_path, clock, lined_up=entered(clock, broken))
    assert (code, outcome["summary"]["exit_code"], named(outcome, "broken")["status"]) == (0, 0, "broke off")
    assert {named(outcome, name)["status"] for name in ("numpy", "hoisted")} == {"timed"}


# time


def test_when_the_time_is_used_up_the_rest_is_named(tmp_path, capsys):
    clock = Clock()

    def slow(cell):
        def prepare(case):
            clock.now += 30
            return contenders.numpy_hoisted(case)

        return Contender("slow", "peer", prepare, cell, elapsed=host_clock(clock))

    code, outcome = run(tmp_path, clock, seconds=65, lined_up=entered(clock, slow))
    assert code == 0
    assert len(outcome["contests"]) == 1
    assert outcome["left_out"] == [
        {"cell": "gated", "shape": TINY._asdict(), "dtype": "float64", "why": "the time was used up"}
    ]
    last = capsys.readouterr().out.splitlines()[-1]
    assert "1 of 2 contests" in last
    assert last.endswith("LEFT OUT, the time was used up: gated n = 6, B = 5, float64")


def test_a_contest_that_is_cut_short_keeps_its_samples(tmp_path):
    clock = Clock()

    def prepare(case):
        prepared, calls = contenders.numpy_hoisted(case), itertools.count()

        def forward():
            clock.now += 10 if next(calls) else 0
            return prepared.forward()

        return prepared._replace(forward=forward)

    slow = lambda cell: Contender("slow", "peer", prepare, cell, elapsed=host_clock(clock))  # noqa: E731
    code, outcome = run(tmp_path, clock, seconds=56, lined_up=entered(clock, slow), chosen=PLANS[:1], samples=15)
    assert code == 0
    entry = named(outcome, "slow")
    assert entry["status"] == "cut short"
    assert entry["detail"].startswith("samples of 15: forward ")
    assert 0 < entry["times"]["forward"]["samples"] < 15
    verdicts = targets.records(targets.DEVICE_TARGETS, "numpy", outcome["contests"], card="NVIDIA H200")
    assert {record["verdict"] for record in verdicts} == {"not measured"}


def test_conformance_stops_in_time_and_says_of_how_many(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "CONFORMANCE_SECONDS", 25.0)
    clock = Clock()

    def slow(_):
        clock.now += 10
        return Result("a promise", "a case", "passed")

    code, outcome = run(tmp_path, clock, every=[check(run=slow)] * 9, chosen=[])
    assert (code, outcome["conformance"]["line"]) == (3, "2 of 9 checks: 2 passed, 0 failed, 0 not applicable")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no alarm")
def test_a_check_that_the_end_of_the_time_stops_is_no_failure():
    endless = make_check(Promise("endless", lambda *_: time.sleep(5)), timed_case(*PLANS[0]))
    outcome = []
    begun = time.monotonic()
    device.run_checks(antisymrnn_ref, [check(), endless, check()], Budget(time.monotonic, begun + 0.5), outcome)
    assert [record["status"] for record in outcome] == ["passed"]
    assert time.monotonic() - begun < 4


def test_memory_that_cannot_be_given_back_is_reported_and_the_rest_is_measured(tmp_path, monkeypatch, capsys):
    def release():
        raise RuntimeError("cudaErrorIllegalAddress")

    broken = machine(Clock(), "NVIDIA H200")._replace(release=release)
    monkeypatch.setattr(sys.modules[__name__], "machine", lambda *_: broken)
    code, outcome = run(tmp_path)
    assert (code, len(outcome["contests"])) == (0, len(PLANS))
    said = "memory was not given back: RuntimeError: cudaErrorIllegalAddress"
    assert capsys.readouterr().out.count(said) == len(PLANS)


def test_a_device_that_fails_for_ever_fails_each_check_and_ends_none_of_it():
    def asarray(*_):
        raise RuntimeError("cudaErrorIllegalAddress")

    result = gpu.wide_checks()[0].run(SimpleNamespace(**vars(antisymrnn_ref) | {"asarray": asarray}))
    assert (result.status, "cudaErrorIllegalAddress" in result.detail) == ("failed", True)


def test_a_contender_that_needs_more_than_is_left_is_not_tried(tmp_path):
    clock = Clock()
    late = lambda cell: Contender(  # noqa: E731
        "late", "peer", lambda _: pytest.fail("it was tried"), cell, elapsed=host_clock(clock), needs=100.0
    )
    code, outcome = run(tmp_path, clock, seconds=90, lined_up=entered(clock, late), chosen=PLANS[:1])
    assert (code, named(outcome, "late")["status"]) == (0, "not timed")
    assert named(outcome, "late")["detail"] == "less than 100 s were left"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no alarm")
@pytest.mark.parametrize("where", ["prepare", "first call"])
def test_a_contender_that_takes_too_long_is_stopped(tmp_path, where):
    clock = Clock()

    def sleep():
        with contextlib.suppress(Exception):  # what a library may do
            time.sleep(5)

    def prepare(case):
        if where == "prepare":
            sleep()
        return contenders.numpy_hoisted(case)._replace(forward=sleep)

    endless = lambda cell: Contender(  # noqa: E731
        "endless", "peer", prepare, cell, elapsed=host_clock(clock), small=False, patience=0.2
    )
    code, outcome = run(tmp_path, clock, lined_up=entered(clock, endless), chosen=PLANS[:1])
    assert (code, named(outcome, "endless")["status"]) == (0, "not timed")
    assert named(outcome, "endless")["detail"] == "its checks and first calls took too long"
    assert named(outcome, "numpy")["status"] == "timed"
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize("when", ["conformance", "checks", "samples", "later"])
def test_an_interrupt_keeps_what_was_measured(tmp_path, when):
    clock, calls = Clock(), itertools.count()

    def interrupt(*_):
        raise KeyboardInterrupt

    def sampled(case):
        prepared = contenders.numpy_hoisted(case)
        return prepared._replace(forward=lambda: interrupt() if next(calls) > 25 else prepared.forward())

    prepare = {"checks": interrupt, "samples": sampled}.get(when, contenders.numpy_hoisted)
    every = [check(), check(run=interrupt)] if when == "conformance" else [check()]

    def lined_up(cell, backend):
        prepared = interrupt if when == "later" and cell == "gated" else prepare
        return entered(clock, lambda cell: Contender("last", "peer", prepared, cell, elapsed=host_clock(clock)))(
            cell, backend
        )

    code, outcome = run(tmp_path, clock, every=every, lined_up=lined_up)
    assert (code, outcome["interrupted"], outcome["summary"]["exit_code"]) == (130, True, 130)
    assert outcome["summary"]["line"].startswith("compare --device --quick: INTERRUPTED; conformance 1 ")
    held = {"conformance": 0, "checks": 1, "samples": 1, "later": 2}[when]
    assert len(outcome["contests"]) == held
    assert len(outcome["left_out"]) == 2 - held
    assert all(entry["why"] == "interrupted" for entry in outcome["left_out"])
    if when == "checks":
        for name in ("numpy", "hoisted", "last"):
            assert (named(outcome, name)["status"], named(outcome, name)["detail"]) == ("not timed", "interrupted")
    if when == "samples":
        assert named(outcome, "hoisted")["times"]["forward"]["samples"] >= 1
    if when == "later":
        assert named(outcome, "last")["status"] == "timed"


def test_termination_writes_what_was_measured(tmp_path):
    def terminate(_):
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    code, outcome = run(tmp_path, every=[check(run=terminate)])
    assert (code, outcome["interrupted"]) == (130, True)
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_file_is_written_after_every_contest(tmp_path):
    clock, seen = Clock(), []

    def lined_up(cell, backend):
        def prepare(case):
            seen.append(json.loads((tmp_path / "device.json").read_text()))
            return contenders.numpy_hoisted(case)

        look = Contender("look", "peer", prepare, cell, elapsed=host_clock(clock), small=False)
        return [*entered(clock)(cell, backend), look]

    run(tmp_path, clock, lined_up=lined_up)
    assert [len(document["contests"]) for document in seen] == [0, 1]
    assert all(document["summary"]["line"].startswith("unfinished: ") for document in seen)


# plans and contenders


def test_plans():
    chosen = gpu.plans()
    assert len(chosen) == len(set(chosen)) == 5 * 4 * 2 + 5 * 2
    assert {plan.shape.B for plan in chosen if plan.cell == "gated"} == {128}
    assert {(plan.shape.T, plan.shape.m) for plan in chosen} == {(784, 1)}
    asked = {Plan(target.cell, target.shape, target.dtype) for target in targets.DEVICE_TARGETS}
    assert set(chosen[:4]) == asked
    assert len(gpu.plans(quick=True)) == 4


def test_line_up():
    every = dict.fromkeys(ABSENT, "")
    ungated, gated = (line_up(cell, "cupy", antisymrnn_ref, host_clock(), every) for cell in CELLS)
    single, double = (Plan("antisymmetric", Shape(784, 128, 1, 128), dtype) for dtype in ("float32", "float64"))
    other = Plan("antisymmetric", Shape(784, 16, 1, 128), "float32")

    def names(entered, plan):
        return [contender.name for contender in entered if contender.takes(plan)]

    exact = ["cupy", "torch eager", "torch nn.RNN, TF32 off"]
    assert names(ungated, double) == [*exact, "jax scan"]
    assert names(ungated, other) == [*exact, "torch nn.RNN, TF32 on", "FlashRNN, TF32", "jax scan"]
    assert names(ungated, single) == [
        *exact, "torch nn.RNN, TF32 on", "torch compile", "FlashRNN, TF32", "jax scan",
    ]  # fmt: skip
    assert names(gated, single) == ["cupy", "torch eager", "jax scan"]
    assert {e.name for e in ungated if e.inexact} == {"torch nn.RNN, TF32 on", "FlashRNN, TF32"}
    assert {e.name for e in ungated if e.timer == "host clock"} == {"jax scan"}
    assert line_up("gated", "cupy", None, host_clock(), ABSENT) == []
    known = set(names(ungated, single))
    assert {name for target in targets.DEVICE_TARGETS for name in target.against} <= known


def test_libraries_that_cannot_be_used_are_named(monkeypatch):
    modules = {
        "torch": SimpleNamespace(__version__="9", cuda=SimpleNamespace(is_available=lambda: False)),
        "jax": SimpleNamespace(__version__="8", devices=lambda: [SimpleNamespace(platform="cpu")]),
    }
    monkeypatch.setattr(gpu.importlib, "import_module", lambda name: modules[name])
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    outcome = gpu.usable_libraries()
    assert outcome["torch"] == "PyTorch 9 sees no GPU"
    assert outcome["jax"] == "JAX 8 sees no GPU, only cpu"
    assert outcome["flashrnn"].startswith("KeyError")
    modules["torch"].cuda.is_available = lambda: True
    modules["jax"].devices = lambda: [SimpleNamespace(platform="gpu")]
    modules["flashrnn"] = SimpleNamespace()
    assert gpu.usable_libraries() == dict.fromkeys(outcome, "")


@needs_torch
@pytest.mark.parametrize("cell", CELLS)
def test_the_peers_of_a_device_are_right(cell):
    """On the processor, where PyTorch computes the same; the compiler is replaced by one that changes nothing."""
    plan = Plan(cell, Shape(2 * contenders.COMPILED_STEPS, 3, 1, 5), "float32")
    every = {"torch": "", "jax": "absent", "flashrnn": "absent"}
    entered = line_up(cell, "numpy", antisymrnn_ref, host_clock(), every, device="cpu")
    steps = []

    def compiler(advance):
        return lambda h, M, u: (steps.append(len(u[0])), advance(h, M, u))[1]

    compiled = functools.partial(contenders.torch_compiled, device="cpu", compiler=compiler)
    entered = [peer if peer.small else peer._replace(prepare=compiled) for peer in entered]
    record, _ = hold(plan, entered, Budget(time.monotonic, time.monotonic() + 600), samples=1)
    outcome = {entry["name"]: (entry["status"], entry["detail"]) for entry in record["contenders"]}
    assert set(outcome.values()) == {("timed", "")}
    if cell == "antisymmetric":
        assert set(steps) == {contenders.COMPILED_STEPS}
        notes = {entry["name"]: entry["note"] for entry in record["contenders"]}
        assert notes["torch nn.RNN, TF32 off"] == "another cell: nn.RNN"
        assert notes["torch nn.RNN, TF32 on"] == "another cell: nn.RNN; within the tolerance here"


def test_the_equations_of_the_layer_by_two_ways():
    """Backpropagation on the small case against complex step."""
    case = agreement.small_case("antisymmetric", "float64")
    by_steps = agreement.layer_reference("RNN", "antisymmetric", "float64").arrays
    found = agreement.layer_timed_reference(case)
    assert found.arrays.keys() == by_steps.keys() == found.tolerances.keys()
    for name, array in found.arrays.items():
        np.testing.assert_allclose(array, by_steps[name], rtol=0, atol=1e-14 * np.abs(by_steps[name]).max())


@pytest.mark.parametrize(("dtype", "allowed"), [("float32", 1e-4), ("float64", 1e-12)])
def test_the_tolerance_of_a_timed_layer_is_small(dtype, allowed):
    case = timed_case("antisymmetric", Shape(60, 16, 1, 24), dtype)
    found = agreement.layer_timed_reference(case)
    assert 0 < max(found.tolerances.values()) < allowed
    for name, array in found.arrays.items():
        assert agreement.check_timed(lambda: found.arrays, case, found).status == "right"
        got = {**found.arrays, name: array * (1 + 3 * found.tolerances[name])}
        assert agreement.check_timed(lambda got=got: got, case, found).status == "wrong"


# events and ceilings


class Cuda:
    """Enough of CuPy for the timer and the ceilings: a clock in place of a device, NumPy in place of arrays."""

    def __init__(self, clock, counted=1):
        outer = self
        self.log = []

        class Event:
            def record(self):
                self.at = clock()
                outer.log.append("record")

            def synchronize(self):
                outer.log.append("synchronize")

        self.cuda = SimpleNamespace(Event=Event, get_elapsed_time=lambda start, stop: 1e3 * (stop.at - start.at))
        self.zeros, self.arange, self.zeros_like, self.copyto = np.zeros, np.arange, np.zeros_like, np.copyto

        def kernel(source, name):
            assert f"void {name}(" in source
            assert "REAL" not in source
            assert "ACCUMULATORS" not in source

            def launch(grid, block, arguments):
                out, factor, term, steps = arguments
                assert len(out) == grid[0] * block[0]
                assert factor.dtype == term.dtype == out.dtype
                begun = sum(range(gpu_tools.ACCUMULATORS))
                out[...] = begun + counted * gpu_tools.ACCUMULATORS * steps

            return launch

        self.RawKernel = kernel


def test_events_enclose_the_calls():
    clock = Clock(0.0)
    cupy = Cuda(clock)
    elapsed = gpu.cuda_events(cupy)

    def call():
        clock.now += 0.25
        cupy.log.append("call")

    assert elapsed(call, 3) == pytest.approx(0.75)
    assert cupy.log == ["record", "call", "call", "call", "record", "synchronize"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_fma_loop_is_counted_and_checked(dtype):
    assert gpu_tools.TOTAL < 2**24
    clock = Clock()
    timer = gpu.cuda_events(Cuda(clock))
    operations = 2 * gpu_tools.ACCUMULATORS * gpu_tools.STEPS * gpu_tools.BLOCKS * 3 * gpu_tools.THREADS
    gflops = gpu_tools.fma_gflops(Cuda(clock), timer, dtype, 3)
    assert gflops == pytest.approx(1e-9 * operations / clock.tick)
    with pytest.raises(gpu_tools.CeilingError, match="expected 262264 from every thread, got 524408"):
        gpu_tools.fma_gflops(Cuda(clock, counted=2), timer, dtype, 3)


def test_wide_checks_judge_what_only_other_kernels_reach():
    every = gpu.wide_checks()
    assert len(every) == 2 * 3 * 2 * 2 + 2
    chosen = [check for check in every if "300" in check.case][:2]
    for check in chosen:
        assert check.run(antisymrnn_ref).status == "passed", check.case
        assert check.run(slightly_wrong(antisymrnn_ref)).status == "failed", check.case


def slightly_wrong(backend):
    """A backend whose last unit of wide cells is off by a thousandth."""
    wrong = SimpleNamespace(**vars(backend))

    def off(cell):
        def forward(*arguments, **options):
            trajectory = cell.forward(*arguments, **options)
            trajectory.h[-1, :, 256:] *= 1.001
            return trajectory

        return SimpleNamespace(forward=forward, backward=cell.backward)

    wrong.antisymmetric, wrong.gated = off(backend.antisymmetric), off(backend.gated)
    return wrong


def test_the_copy_is_counted_and_checked(monkeypatch):
    monkeypatch.setattr(gpu_tools, "COPIED_BYTES", 8000)
    clock = Clock()
    cupy = Cuda(clock)
    timer = gpu.cuda_events(cupy)
    assert gpu_tools.copy_gigabytes(cupy, timer) == pytest.approx(2e-9 * 8000 / clock.tick)
    cupy.copyto = lambda *_: None
    with pytest.raises(gpu_tools.CeilingError):
        gpu_tools.copy_gigabytes(cupy, timer)


def test_without_ceilings_there_are_times_without_fractions():
    clock = Clock()

    def broken():
        raise gpu_tools.CeilingError("no")

    document = device.new_document("numpy", {"name": "x"}, quick=True)
    device.session(
        "numpy", antisymrnn_ref, machine(clock, measured=broken), entered(clock), [check()], PLANS[:1], list,
        Budget(clock, 1e3), document, samples=1,
    )  # fmt: skip
    assert document["ceilings_missing"] == "CeilingError: no"
    assert math.isnan(named(document, "numpy")["times"]["both"]["fraction"])
    assert device.finished(document, PLANS[:1])[1] == 0


# sanitizers


MEMCHECK = "========= COMPUTE-SANITIZER\n{done}========= ERROR SUMMARY: {count} error{s}\n"


@pytest.mark.parametrize(
    ("output", "status", "words"),
    [
        (MEMCHECK.format(done="small run done: 56 calls\n", count=0, s="s"), "clean", "56 calls; ERROR SUMMARY: 0"),
        (
            "small run done: 56 calls\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n",
            "clean",
            "56 calls; RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)",
        ),
        (
            "========= Invalid __global__ read of size 4 bytes\n"
            + MEMCHECK.format(done="small run done: 56 calls\n", count=1, s=""),
            "found",
            "ERROR SUMMARY: 1 error ========= Invalid __global__ read",
        ),
        (MEMCHECK.format(done="", count=2, s="s"), "found", "ERROR SUMMARY: 2 errors"),
        (MEMCHECK.format(done="Segmentation fault\n", count=0, s="s"), "not run", "Segmentation fault"),
        ("Device not supported", "not run", "Device not supported"),
        ("", "not run", "nothing"),
    ],
)
def test_what_a_sanitizer_says(output, status, words):
    outcome = gpu_tools.sanitizer_verdict(output)
    assert outcome["status"] == status
    assert words in outcome["detail"]


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_sanitizers_run_beside_and_end_with_the_context(tmp_path, monkeypatch):
    script = tmp_path / "compute-sanitizer"
    script.write_text(
        '#!/bin/sh\n[ "$2" = racecheck ] && exec sleep 60\n'
        f'echo "$@" >{tmp_path}/arguments\necho "small run done: 1 calls"\necho "= ERROR SUMMARY: 0 errors"\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr(gpu_tools, "SANITIZER_SECONDS", 0.5)
    start = time.monotonic()
    with gpu_tools.sanitizers("numpy", time.monotonic, which=lambda _: str(script)) as watched:
        memory, race = watched()
    assert time.monotonic() - start < 20
    assert (memory["tool"], memory["status"]) == ("memcheck", "clean")
    assert (race["tool"], race["status"], race["detail"]) == ("racecheck", "not run", "not finished in 0 s")
    arguments = (tmp_path / "arguments").read_text().split()
    assert arguments == ["--tool", "memcheck", sys.executable, "-m", gpu_tools.__name__, "numpy"]


def test_something_found_makes_the_exit_code_one():
    document = device.new_document("numpy", {"name": "x"}, quick=True)
    document["sanitizers"] = [{"tool": "memcheck", "status": "found", "detail": "ERROR SUMMARY: 1 error"}]
    line, code = device.finished(document, [])
    assert code == 1
    assert line.endswith("ERRORS FOUND BY: memcheck")


def test_the_small_run_is_run(capsys):
    gpu_tools.small_run("numpy")
    assert capsys.readouterr().out == "small run done: 56 calls\n"


# targets


def contest_of(n, dtype, status="timed", **times):
    """A record in which contenders have these (forward, both) µs per step."""
    return {
        "cell": "antisymmetric",
        "shape": Shape(784, 128, 1, n)._asdict(),
        "dtype": dtype,
        "contenders": [
            {
                "name": {"eager": "torch eager", "layer": "torch nn.RNN, TF32 off"}.get(name, name),
                "status": status,
                "detail": "",
                "times": {
                    what: {"median": 784e-6 * value, "us_per_step": value}
                    for what, value in zip(("forward", "both"), pair, strict=True)
                },
            }
            for name, pair in times.items()
        ],
    }


def test_targets_are_met_or_not_or_not_measured():
    contests = [
        contest_of(128, "float32", cupy=(0.25, 0.5), eager=(20, 31), layer=(0.8, 1.9)),
        contest_of(256, "float32", cupy=(0.71, 2.0)),
        contest_of(128, "float64", "cut short", cupy=(0.5, 1.0)),
    ]
    outcome = targets.records(targets.DEVICE_TARGETS, "cupy", contests, card="NVIDIA H200")
    assert [record["verdict"] for record in outcome] == [
        "met", "not met", "not measured", "not measured", "not met", "met",
    ]  # fmt: skip
    assert outcome[0]["stretch_verdict"] == "0.2 not met"
    assert outcome[2]["why"] == "no such contest was held"
    assert (outcome[3]["why"], outcome[3]["reached"]) == ("cupy: too few samples", 0.5)
    assert outcome[4]["reached"] == pytest.approx(3.8)
    assert outcome[5]["reached"] == pytest.approx(62)


def test_the_bounds_are_not_loosened():
    bounds = [(target.bound, target.stretch) for target in targets.DEVICE_TARGETS]
    assert bounds[0] == (0.30, 0.20)
    assert [bound for bound, _ in bounds[1:]] == [0.70, 2.0, 0.55, 4.0, 60.0]


def test_a_peer_with_too_few_samples_or_none_measures_nothing():
    first = contest_of(128, "float32", cupy=(0.25, 0.5), eager=(20, 31), layer=(0.8, 3.0))
    first["contenders"][1] |= {"status": "cut short"}
    first["contenders"][2] |= {"status": "wrong", "detail": "off", "times": {}}
    layer, eager = targets.records(targets.DEVICE_TARGETS, "cupy", [first], card="NVIDIA H200")[4:]
    assert (eager["verdict"], eager["why"]) == ("not measured", "torch eager: too few samples")
    assert (layer["verdict"], layer["why"]) == ("not measured", "torch nn.RNN, TF32 off: wrong, off")


@pytest.mark.parametrize("card", ["NVIDIA H100 80GB HBM3", "NVIDIA GH200 480GB"])
def test_another_card_is_reported_but_not_measured(card):
    outcome = targets.records(targets.DEVICE_TARGETS, "cupy", [contest_of(128, "float32", cupy=(0.1, 0.2))], card=card)
    assert {record["verdict"] for record in outcome} == {"not measured"}
    assert (outcome[0]["reached"], outcome[0]["why"]) == (0.1, f"this is {card}, not an H200")
    assert outcome[0]["stretch_verdict"] == "0.2 not measured"
    assert outcome[4]["why"] == "torch nn.RNN, TF32 off: not there"


def test_the_stretch_is_met():
    outcome = targets.records(
        targets.DEVICE_TARGETS, "cupy", [contest_of(128, "float32", cupy=(0.19, 0.2))], card="NVIDIA H200"
    )
    assert (outcome[0]["verdict"], outcome[0]["stretch_verdict"]) == ("met", "0.2 met")


# the command


def test_without_cupy_nothing_runs(monkeypatch, run_command):
    monkeypatch.setitem(sys.modules, "cupy", None)
    code, out, err = run_command("compare", "--device")
    assert (code, out) == (3, "")
    assert err.startswith("antisymrnn compare: nothing ran: import of cupy halted")
    assert err.count("\n") == 1


@pytest.mark.parametrize("count", [0, None])
def test_without_a_gpu_nothing_runs(count, monkeypatch, run_command):
    def ask():
        if count is None:
            raise RuntimeError("driver too\nold")
        return count

    cupy = SimpleNamespace(cuda=SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=ask)))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    expected = "RuntimeError: driver too old" if count is None else "CuPy finds no GPU"
    assert run_command("compare", "cupy", "--device") == (3, "", f"antisymrnn compare: nothing ran: {expected}\n")


def test_a_backend_that_does_not_load_runs_nothing(monkeypatch, run_command):
    def load(_):
        raise OSError("no\nnvrtc")

    monkeypatch.setattr(device, "found_gpu", lambda: (SimpleNamespace(), ""))
    monkeypatch.setattr(device, "load_backend", load)
    assert run_command("compare", "--device") == (3, "", "antisymrnn compare: nothing ran: OSError: no nvrtc\n")


def test_the_command_holds_the_session(monkeypatch, run_command, tmp_path):
    """With the clock of the real budget, and the end of the process called off."""
    clock, ends = Clock(), []
    monkeypatch.setattr(device, "found_gpu", lambda: (SimpleNamespace(), ""))
    monkeypatch.setattr(device, "load_backend", lambda _: antisymrnn_ref)
    monkeypatch.setattr(device, "machine", lambda _: machine(clock))
    monkeypatch.setattr(device, "usable_libraries", lambda: ABSENT)
    monkeypatch.setattr(device, "plans", lambda quick: PLANS[:1] if quick else pytest.fail("not quick"))
    monkeypatch.setattr(device, "iter_checks", lambda *_, **__: [check()])
    monkeypatch.setattr(device, "wide_checks", lambda: [check()])
    monkeypatch.setattr(device.faulthandler, "dump_traceback_later", lambda seconds, exit: ends.append((seconds, exit)))
    monkeypatch.setattr(device.faulthandler, "cancel_dump_traceback_later", lambda: ends.append("called off"))
    monkeypatch.setattr(
        device.measured, "__kwdefaults__", device.measured.__kwdefaults__ | {"libraries": lambda: ABSENT}
    )
    path = tmp_path / "device.json"
    code, out, _ = run_command("compare", "--device", "--quick", "--json", path)
    assert (code, ends) == (0, [(550.0, True), "called off"])
    document = json.loads(path.read_text())
    assert (document["backend"], document["quick"], len(document["contests"])) == ("cupy", True, 1)
    assert document["conformance"]["total"] == 2  # the checks of the contract, and the wide ones
    assert out.splitlines()[-1] == document["summary"]["line"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["numba"], "--device: checks and times the backend cupy alone, got numba"),
        (["--peers", "torch"], "--device cannot be combined with --peers"),
        (["--shape", "1,2,3,4", "--dtype", "float32"], "--device cannot be combined with --shape, --dtype"),
        (["--cell", "gated"], "--device cannot be combined with --cell"),
        (["--samples", "0"], "--device cannot be combined with --samples"),
        (["--accuracy"], "--device cannot be combined with --accuracy"),
        (["--json", "absent/file.json"], "cannot be written"),
    ],
)
def test_what_cannot_be_asked_of_a_device_is_usage(monkeypatch, run_command, arguments, words):
    monkeypatch.setattr(device, "found_gpu", lambda: pytest.fail("the work began"))
    code, out, err = run_command("compare", *arguments, "--device")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_the_card_is_described(monkeypatch):
    monkeypatch.setattr(gpu, "devices", lambda _: ["none: no nvidia-smi on the path"])
    clock = Clock()
    cupy = Cuda(clock)
    cupy.__version__ = "14"
    cupy.cuda.Device = lambda: SimpleNamespace(id=0)
    cupy.cuda.runtime = SimpleNamespace(
        getDeviceProperties=lambda _: {"name": b"NVIDIA H200", "multiProcessorCount": 2},
        runtimeGetVersion=lambda: 13000,
    )
    freed = []
    cupy.get_default_memory_pool = lambda: SimpleNamespace(free_all_blocks=lambda: freed.append(True))
    found = gpu.machine(cupy)
    assert found.card["name"] == "NVIDIA H200"
    assert found.card["nvidia-smi"] == "none: no nvidia-smi on the path"
    monkeypatch.setattr(gpu_tools, "COPIED_BYTES", 8000)
    monkeypatch.setattr(gpu, "devices", lambda fields: [", ".join("1" for _ in fields.split(","))])
    assert gpu.machine(cupy).card["driver_version"] == "1"
    monkeypatch.setitem(
        sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(empty_cache=lambda: freed.append(1)))
    )
    found.release()
    assert freed == [True, 1]


def test_the_driver_is_asked_for_other_fields(monkeypatch):
    monkeypatch.setattr(environment.shutil, "which", lambda _: "nvidia-smi")
    asked = []

    def run(command, **_):
        asked.append(command[1])
        return SimpleNamespace(stdout="1980 MHz\n", returncode=0, stderr="")

    monkeypatch.setattr(environment.subprocess, "run", run)
    assert environment.devices("clocks.sm") == ["1980 MHz"]
    assert asked == ["--query-gpu=clocks.sm"]
