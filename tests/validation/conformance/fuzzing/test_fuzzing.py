"""The fuzzer: what it finds, shrinks and prints, that a seed repeats it, and that it ends on time."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import antisymrnn_ref
import wrong_backends
from antisymrnn_validation.conformance.fuzzing import machine
from antisymrnn_validation.conformance.fuzzing.apart import GRACE, fuzz_apart
from antisymrnn_validation.conformance.fuzzing.machine import fuzz
from antisymrnn_validation.conformance.fuzzing.session import EDITS, Failure, Session
from antisymrnn_validation.conformance.judge import fuzz as fuzz_from_pytest
from antisymrnn_validation.conformance.targets.functions import callable_candidate
from antisymrnn_validation.truth.calls import BrokenPromise, modules_of
from antisymrnn_validation.truth.cases import random_case
from antisymrnn_validation.truth.layouts import Layout, arguments_of
from wrong_backends import WRONG


def a_case(cell: str = "antisymmetric", T: int = 5, **options: object) -> object:
    return random_case(cell, T, 3, 4, 2, step_size=0.3, diffusion=0.2, seed=1, **options)


def a_session(backend: object = antisymrnn_ref) -> Session:
    session = Session(backend)
    session.problem(0, a_case())
    return session


def test_an_honest_backend_survives_and_everything_is_counted() -> None:
    report = fuzz(antisymrnn_ref, minutes=5, rounds=1, seed=1)
    assert report.failure is None
    assert report.rounds == 1
    assert report.tally.calls > 200
    assert report.tally.cells > report.tally.calls
    assert min(report.tally.largest[1:]) >= 1


def test_a_failure_is_shrunk_to_its_cause_and_repeated_by_its_script(tmp_path: Path) -> None:
    report = fuzz(WRONG["structures: b zero"](), minutes=5, rounds=10, seed=0)
    assert report.failure is not None
    assert len(report.failure.steps) <= 4
    assert any("'b zero'" in step or "'zeroed'" in step for step in report.failure.steps)
    script = report.failure.script("wrong_backends.WRONG['structures: b zero']()")
    path = tmp_path / "again.py"
    path.write_text(f"import sys\nsys.path[:0] = {sys.path!r}\nimport wrong_backends\n{script}\n")
    ran = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    message, _, _ = report.failure.message.partition(" (")
    assert f"BrokenPromise: {message}" in ran.stderr


@pytest.fixture
def unshrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure ends the run."""
    monkeypatch.setattr(machine, "SHRINKING", 0.0)


@pytest.mark.usefixtures("unshrunk")
def test_a_seed_repeats_what_it_found() -> None:
    first, second = (fuzz(WRONG["buffers: x by identity"](), minutes=5, rounds=5, seed=4) for _ in range(2))
    assert first.failure is not None
    assert second == first


def test_from_pytest_a_backend_has_a_name() -> None:
    assert fuzz_from_pytest("numpy", minutes=5, rounds=1).failure is None


@pytest.mark.usefixtures("unshrunk")
def test_a_function_is_fuzzed_on_its_states() -> None:
    def right(parameters, x, h0, step_size, diffusion):
        W = parameters["W"]
        M, h = W - W.T - W.dtype.type(diffusion) * np.eye(len(W), dtype=W.dtype), [h0]
        for x_t in x:
            h.append(
                h[-1] + h0.dtype.type(step_size) * np.tanh(h[-1] @ M.T + x_t @ parameters["V"].T + parameters["b"])
            )
        return np.stack(h)

    def wrong(parameters, x, h0, step_size, diffusion):
        h = right(parameters, x, h0, step_size, diffusion)
        return h * (1 + 1e-3 * (len(h0) == 3))

    assert fuzz(callable_candidate(right), minutes=5, rounds=1).failure is None
    assert fuzz(callable_candidate(wrong), minutes=5, rounds=1).failure is not None


class TestSession:
    """Each method judges, or makes what the next call is judged on."""

    def test_every_method_passes_on_the_specification(self) -> None:
        session = a_session()
        session.problem(1, a_case("gated", dtype=np.float32), {"x": Layout(order="batch first", gap=1)})
        for slot in (0, 1):
            session.backward(slot)
            session.forward(slot, keep_every=2)
            session.backward(slot, input_gradient=False)
            session.states_as_cotangents(slot)
            session.backward(slot)
            session.forward(slot)
            session.states_as_cotangents(slot)
            session.backward(slot)
            session.lay_out(slot, {"g": Layout(backwards="all"), "W": Layout(read_only=True)})
            for edit in EDITS:
                for name in arguments_of(session.problems[slot].case):
                    session.refill(slot, name, edit)
                    session.backward(slot)
            session.constants(slot, 0.5, 0.0)
            session.cotangents(slot, ["g with zero steps"], 3)
            session.backward(slot)
            session.cotangents(slot, [], 3, last_state_only=True)
            session.spoil(slot)
            session.repeat(slot, 3)
        session.at_once([0, 1], 3)
        assert session.tally.calls > 100
        assert session.tally.largest == (5, 3, 4, 2)

    def test_a_refilled_array_is_the_problem(self) -> None:
        session = a_session()
        before = session.problems[0].case.x.copy()
        session.refill(0, "x", "halved")
        np.testing.assert_array_equal(session.problems[0].case.x, before / 2)
        np.testing.assert_array_equal(session.problems[0].given.x, before / 2)

    def test_nothing_is_refilled_where_nothing_is(self) -> None:
        session = Session(antisymrnn_ref)
        session.problem(0, a_case(T=0))
        for edit in EDITS:
            session.refill(0, "x", edit)
        session.backward(0)

    def test_what_is_read_only_is_not_refilled(self) -> None:
        session = Session(antisymrnn_ref)
        session.problem(0, a_case(), {"x": Layout(read_only=True)})
        before = session.problems[0].given.x
        session.refill(0, "x", "halved")
        assert session.problems[0].given.x is before
        session.forward(0)

    def test_the_arrays_until_now_become_nan(self) -> None:
        session = a_session()
        before = session.problems[0].given.x
        session.lay_out(0, {})
        assert np.isnan(before).all()

    @pytest.mark.parametrize(
        ("name", "calls"),
        [
            ("buffers: V by identity", [("forward", 0), ("refill", 0, "V", "halved"), ("forward", 0)]),
            ("buffers: trajectory keeps x", [("forward", 0), ("lay_out", 0, {}), ("backward", 0)]),
            (
                "buffers: gradients memoised on the trajectory",
                [("backward", 0), ("cotangents", 0, [], 1), ("backward", 0)],
            ),
            ("buffers: one buffer for the results of a shape", [("repeat", 0, 2), ("backward", 0), ("backward", 0)]),
            ("structures: g the states themselves", [("forward", 0), ("states_as_cotangents", 0), ("backward", 0)]),
        ],
    )
    def test_a_sequence_finds_what_one_call_does_not(self, name: str, calls: list[tuple[object, ...]]) -> None:
        session = a_session(WRONG[name]())
        *before, (last, *arguments) = calls
        for method, *rest in before:
            getattr(session, method)(*rest)
        if name.endswith("of a shape"):
            session.cotangents(0, [], 1)
        with pytest.raises(BrokenPromise):
            getattr(session, last)(*arguments)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t, x: x.__imul__(1 + (t.h.sum() > -np.inf)), "x: the call writes into it"),
            (lambda t, _: t.h.__setitem__((0, 0, 0), np.nan), "h: relative error nan"),
        ],
    )
    def test_what_a_call_breaks_is_named(self, change: object, message: str) -> None:
        def forward(right, parameters, x, h0, **options):
            trajectory = right(parameters, x, h0, **options)
            change(trajectory, x)
            return trajectory

        with pytest.raises(BrokenPromise, match=message):
            a_session(wrong_backends.altered(forward)).forward(0)

    def test_other_bits_for_the_same_call_are_a_failure(self) -> None:
        count = iter(range(100))

        def forward(right, parameters, x, h0, **options):
            trajectory = right(parameters, x, h0, **options)
            trajectory.h[-1] *= 1 + next(count) * np.finfo(h0.dtype).eps
            return trajectory

        session = a_session(wrong_backends.altered(forward))
        session.forward(0)
        with pytest.raises(BrokenPromise, match="h: other bits than the same call gave before"):
            session.forward(0)

    def test_the_layout_is_named_where_one_is_there(self) -> None:
        session = Session(WRONG["layouts: x trusted if its last stride is one entry"]())
        session.problem(0, a_case(), {"x": Layout(order="batch first")})
        with pytest.raises(BrokenPromise, match=r"h: relative error .*; x \(5, 3, 2\) float64: strides \(16, 80, 8\)"):
            session.forward(0)


def test_a_script_imports_what_the_target_needs() -> None:
    target = "antisymrnn_validation.conformance.targets.functions.torch_candidate('a:b', None)"
    assert modules_of(target) == ["antisymrnn_validation.conformance.targets.functions"]
    script = Failure("no", ("session.forward(0)",)).script(target)
    assert script.splitlines()[0] == "import antisymrnn_validation.conformance.targets.functions"
    assert script.splitlines()[-2:] == [f"session = Session({target})", "session.forward(0)"]


class TestApart:
    """In a process of its own."""

    @staticmethod
    def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> str:
        """An expression that gives the specification with a forward that does something else at times."""
        (tmp_path / "foreign.py").write_text(
            "import os, signal, sys, time\nimport wrong_backends\n"
            "def forward(right, parameters, x, h0, **options):\n"
            + textwrap.indent(textwrap.dedent(body), "    ")
            + "\n    return right(parameters, x, h0, **options)\n"
            "def made():\n    return wrong_backends.altered(forward)\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        return "foreign.made()"

    def test_it_ends_on_time_without_a_failure(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        target = self.target(tmp_path, monkeypatch, "print('said by the target')")
        calls, begun = [], time.monotonic()
        report = fuzz_apart(target, minutes=0.1, progress=lambda tally, steps: calls.append((tally.calls, len(steps))))
        assert report.failure is None
        assert report.tally.calls > 0
        assert calls
        assert time.monotonic() - begun < 6 + GRACE + 2

    def test_a_crash_is_a_failure_with_its_sequence(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        target = self.target(tmp_path, monkeypatch, "if len(h0) == 2: os.kill(os.getpid(), signal.SIGSEGV)")
        report = fuzz_apart(target, minutes=1)
        assert report.failure is not None
        assert report.failure.message.startswith("the process ended by signal SIGSEGV")
        assert report.failure.steps[0].startswith("session.problem(0, ")
        assert report.failure.steps[-1].startswith("session.")

    def test_a_call_that_never_returns_ends_with_the_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        body = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])\nwhile True: time.sleep(1)"
        monkeypatch.setattr("antisymrnn_validation.conformance.fuzzing.apart.PATIENCE", 2.0)
        report = fuzz_apart(self.target(tmp_path, monkeypatch, body), minutes=1)
        assert report.failure is not None
        assert report.failure.message == "no end within 2 s"
        assert len(report.failure.steps) == 2
        begun = time.monotonic()
        monkeypatch.setattr("antisymrnn_validation.conformance.fuzzing.apart.PATIENCE", 60.0)
        assert fuzz_apart(self.target(tmp_path, monkeypatch, body), minutes=0.05).failure is None
        assert time.monotonic() - begun < 3 + GRACE + 2

    def test_a_target_that_cannot_be_made_is_an_error(self) -> None:
        with pytest.raises(
            RuntimeError, match=r"(?s)the process of the fuzzer ended with status 1: .*BackendUnavail|no"
        ):
            fuzz_apart("antisymrnn_ref.load_backend('no_such_module')", minutes=0.2)
