"""Bugs planted in the judge that no other test saw: one test for each."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import shutil
import warnings
import xml.etree.ElementTree as ElementTree
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from flint import arb

import antisymrnn_ref
from antisymrnn_validation import report
from antisymrnn_validation.cli import comparing as cli_comparing
from antisymrnn_validation.cli import judging
from antisymrnn_validation.comparison import agreement, contest, peak, peers, processes, timing
from antisymrnn_validation.comparison.arithmetic import Shape
from antisymrnn_validation.comparison.contenders import Contender, prepare_backend, timed_case
from antisymrnn_validation.comparison.timing import Sample, Timed, summary, take_turns
from antisymrnn_validation.conformance import checks, vectors
from antisymrnn_validation.conformance.cases import Case, random_case, swept_cases
from antisymrnn_validation.conformance.checks import BrokenPromise, Check, Result, certify, make_check, measure
from antisymrnn_validation.conformance.judge import checks_of
from antisymrnn_validation.theory.oracles import enclose


def a_case(seed: int = 101, **options: object) -> Case:
    return random_case("antisymmetric", 11, 4, 7, 3, step_size=0.3, diffusion=0.2, seed=seed, **options)


def copied(name: str = "mine", **replaced: object) -> ModuleType:
    """The specification under another name, with functions of its ungated cell replaced."""
    module, right = ModuleType(name), antisymrnn_ref.antisymmetric
    module.asarray, module.to_numpy = antisymrnn_ref.asarray, antisymrnn_ref.to_numpy
    module.antisymmetric = SimpleNamespace(**({"forward": right.forward, "backward": right.backward} | replaced))
    module.gated = antisymrnn_ref.gated
    return module


# ---- conformance/checks.py


def test_the_specification_is_measured_without_itself_and_others_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    right = checks._reference

    def useless(pickled: bytes) -> object:
        truth, specification, perturbed = right(pickled)
        return truth, dict.fromkeys(specification, 1.0), perturbed

    monkeypatch.setattr(checks, "_reference", useless)
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
        for name, entry in measure(checks.run(antisymrnn_ref, case), case).items():
            assert entry.tolerance == pytest.approx(max(8 * entry.reference, 4 * eps * truth[name].condition)), name


def test_an_array_that_is_not_there_is_a_failure() -> None:
    arrays = checks.run(antisymrnn_ref, a_case())
    for name in arrays.keys() - {"x"}:
        with pytest.raises(KeyError, match=name):
            measure({other: array for other, array in arrays.items() if other != name}, a_case())

    def backward(*arguments: object, **options: object) -> object:
        return antisymrnn_ref.antisymmetric.backward(*arguments, **options)._replace(step_size=None)

    assert certify("mine", a_case()).run(copied(backward=backward)).status == "failed"


def test_a_truth_that_contradicts_the_product_rule_certifies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "tangent_identity", lambda *_: (arb(1), arb(2)))
    result = certify("mine", a_case(seed=8080)).run(antisymrnn_ref)  # a case that no other test has a truth of
    assert result.status == "not applicable"
    assert "contradict the product rule" in result.detail


@pytest.mark.parametrize(
    "change",
    [lambda error: error, lambda error: type(error)("no"), lambda error: RuntimeError(str(error))],
    ids=["as promised", "other words", "another type"],
)
def test_the_type_and_the_words_of_an_error_are_both_asked_for(change: object, request: pytest.FixtureRequest) -> None:
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
    expected = "passed" if "as promised" in request.node.name else "failed"
    assert make_check(checks._errors, a_case()).run(backend).status == expected


def test_a_backend_that_warns_fails_and_other_code_may_warn() -> None:
    def forward(*arguments: object, **options: object) -> object:
        warnings.warn("overflow", RuntimeWarning, stacklevel=2)
        return antisymrnn_ref.antisymmetric.forward(*arguments, **options)

    result = certify("mine", a_case()).run(copied(forward=forward))
    assert result.status == "failed"
    assert result.detail.startswith("raised RuntimeWarning: overflow")
    assert certify("mine", a_case(), features=frozenset({"gradients"})).run(copied(forward=forward)).status == "passed"


@pytest.mark.parametrize("name", ["W", "V", "b", "x", "g", "trajectory.h"])
def test_an_input_of_backward_that_is_written_is_seen(name: str) -> None:
    def backward(parameters: object, x: np.ndarray, trajectory: object, g: np.ndarray, **options: object) -> object:
        found = antisymrnn_ref.antisymmetric.backward(parameters, x, trajectory, g, **options)
        written = {**parameters._asdict(), "x": x, "g": g, "trajectory.h": trajectory.h}[name]
        if written.flags.writeable:
            written *= 2
        return found

    result = make_check(checks._inputs_untouched, a_case()).run(copied(backward=backward))
    assert result.status == "failed"
    assert result.detail.startswith(f"{name}: expected the same bits")


def test_every_swept_case_is_judged_as_the_sweep_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def noted(_: str, case: Case, **options: object) -> Check:
        asked.append((case.name, options.get("what"), options.get("keep_every"), options.get("input_gradient")))
        return Check("accuracy", case.name, lambda _: Result("accuracy", case.name, "passed"))

    monkeypatch.setattr(checks, "certify", noted)
    checks.iter_checks("a fast backend")
    wanted = {(case.name, "accuracy", keep_every, dx) for case, keep_every, dx in swept_cases()}
    assert wanted <= set(asked)
    assert {keep_every for _, _, keep_every, _ in wanted} == {1, 2, 3, 5, 1000}


def test_half_of_plain_storage_is_too_much_memory() -> None:
    hoard = []

    def forward(parameters: object, x: np.ndarray, h0: np.ndarray, **options: object) -> object:
        hoard.append(np.ones((len(x) // 2, *h0.shape)))
        return antisymrnn_ref.antisymmetric.forward(parameters, x, h0, **options)

    result = make_check(checks._memory, a_case()).run(copied(forward=forward))
    assert result.status == "failed"
    assert result.detail.startswith("keep_every=32: ")


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
    checks._require_same_bits("h", expected, expected.copy())
    with pytest.raises(BrokenPromise, match="h: expected the same bits"):
        checks._require_same_bits("h", got, expected)


def test_a_column_may_be_moved_by_rounding_alone() -> None:
    tolerance = measure(checks.run(antisymrnn_ref, a_case()), a_case())["h"].tolerance
    for factor, status in ((0.5, "passed"), (10.0, "failed")):

        def forward(parameters: object, x: np.ndarray, h0: np.ndarray, factor: float = factor, **options: object):
            found = antisymrnn_ref.antisymmetric.forward(parameters, x, h0, **options)
            return found._replace(h=found.h * (1 + factor * tolerance)) if len(h0) == 1 else found

        result = make_check(checks._neighbours_to_rounding, a_case()).run(copied(forward=forward))
        assert result.status == status, result.detail


# ---- conformance/judge.py


def test_only_the_specification_is_judged_as_the_specification() -> None:
    to_rounding, to_the_bit = {"neighbours to rounding", "nan column to rounding"}, {"neighbours", "nan column"}
    for target, has, has_not in (
        ("numpy", to_rounding, to_the_bit),
        (antisymrnn_ref, to_rounding, to_the_bit),
        (copied("antisymrnn_fast"), to_the_bit, to_rounding),
        (copied("numpy_like"), to_the_bit, to_rounding),
    ):
        names = {check.name for check in checks_of(target, quick=True)}
        assert has <= names
        assert not has_not & names


# ---- cli/


def made_of(*pairs: tuple[str, object]) -> list[Check]:
    """Checks by name with a status or an exception."""

    def check(name: str, status: object) -> Check:
        def run(_: ModuleType) -> Result:
            if isinstance(status, Exception):
                raise status
            return Result(name, "a case", status)

        return Check(name, "a case", run)

    return [check(*pair) for pair in pairs]


def test_a_check_that_breaks_off_alone_exits_1(run, monkeypatch) -> None:
    made = made_of(("bits", "passed"), ("errors", ValueError("no")))
    monkeypatch.setattr(checks, "iter_checks", lambda *_, **__: made)
    code, out, _ = run("conform", "numpy")
    assert (code, out.splitlines()[-1]) == (1, "conform numpy: 2 checks: 1 passed, 1 failed, 0 not applicable")


@pytest.mark.parametrize(("status", "expected"), [("passed", 0), ("failed", 1), ("not applicable", 3)])
def test_the_exit_code_of_conform_stands_in_its_json(run, monkeypatch, tmp_path, status, expected) -> None:
    monkeypatch.setattr(checks, "iter_checks", lambda *_, **__: made_of(("bits", status)))
    code, out, _ = run("conform", "numpy", "--json", tmp_path / "report.json")
    summary_ = json.loads((tmp_path / "report.json").read_text())["summary"]
    assert (code, summary_["exit_code"], summary_["line"]) == (expected, expected, out.splitlines()[-1])


def test_junit_has_a_failure_for_what_broke_off_and_skips_what_did_not_apply(run, monkeypatch, tmp_path) -> None:
    made = made_of(("bits", "passed"), ("errors", ValueError("no")), ("threads", "not applicable"), ("h", "failed"))
    monkeypatch.setattr(checks, "iter_checks", lambda *_, **__: made)
    assert run("conform", "numpy", "--junit", tmp_path / "j.xml")[0] == 1
    suite = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert [suite.get(key) for key in ("tests", "failures", "skipped")] == ["4", "2", "1"]
    told = {case.get("name"): [part.tag for part in case] for case in suite.iter("testcase")}
    assert told == {
        "bits: a case": [], "errors: a case": ["failure"], "threads: a case": ["skipped"], "h: a case": ["failure"],
    }  # fmt: skip


@pytest.mark.parametrize("order", [("right_backend", "wrong_backend"), ("wrong_backend", "right_backend")])
def test_each_backend_of_a_report_is_judged_itself_and_any_failure_exits_1(run, monkeypatch, tmp_path, order) -> None:
    folder = tmp_path / "modules"
    folder.mkdir()
    for name in order:
        (folder / f"{name}.py").write_text("from antisymrnn_ref import antisymmetric, asarray, gated, to_numpy\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delenv("ANTISYMRNN_DATA", raising=False)
    monkeypatch.setattr(judging, "_figures", lambda _: {})

    def judged(module: ModuleType) -> Result:
        return Result("planted bits", "a case", "failed" if module.__name__ == "wrong_backend" else "passed")

    monkeypatch.setattr(checks, "iter_checks", lambda *_, **__: [Check("planted bits", "a case", judged)])
    asked = [word for name in order for word in ("--backend", name)]
    options = ("--only", "planted bits", "--report", tmp_path / "page", "--json", tmp_path / "report.json")
    code, out, _ = run("verify", "--quick", *asked, *options)
    document = json.loads((tmp_path / "report.json").read_text())
    assert (code, document["summary"]["exit_code"]) == (1, 1)
    told = {entry["backend"]: [record["status"] for record in entry["checks"]] for entry in document["conformance"]}
    assert told == {"right_backend": ["passed"], "wrong_backend": ["failed"]}
    assert "quick conformance of right_backend ok, 1 checks: 1 passed" in out
    assert "quick conformance of wrong_backend FAILED, 1 checks: 0 passed, 1 failed" in out


TINY = ("--shape", "5,3,2,4", "--samples", "1", "--cell", "antisymmetric")


@pytest.fixture
def comparing(monkeypatch):
    """Of each dtype another machine at its peak, and no other processes; the checks are those of a test."""

    @contextlib.contextmanager
    def measured_peak(dtype):
        size = {"float32": 200.0, "float64": 50.0}[dtype]
        yield peak.Peak(lambda: size, lambda: 2 * size, lambda: size, 7.0, 2, peak.Registers(256, 12))

    monkeypatch.setattr(peak, "measured_peak", measured_peak)
    monkeypatch.setattr(cli_comparing, "import_package", lambda *_: None)
    monkeypatch.setattr(checks, "iter_checks", lambda *_, **__: made_of(("bits", "passed")))
    monkeypatch.setattr(processes, "peak_memory", lambda *_: {"bytes": 2e6, "imported": 3e7})


@pytest.mark.usefixtures("comparing")
def test_every_dtype_is_held_against_its_own_peak(run, tmp_path) -> None:
    options = ("--dtype", "float32", "--dtype", "float64", "--json", tmp_path / "report.json")
    code, out, _ = run("compare", "numpy", *TINY, *options)
    assert code == 0
    document = json.loads((tmp_path / "report.json").read_text())
    told = {record["dtype"]: (record["peak_gflops"], record["steady_gflops"]) for record in document["contests"]}
    assert told == {"float32": (400.0, 200.0), "float64": (100.0, 50.0)}
    assert {name: (p["gflops"], p["steady"]) for name, p in document["peak"].items()} == told
    assert "FMA peak, float64: 100.0 GFLOP/s with 2 threads, one alone 7.0" in out.splitlines()
    for record in document["contests"]:
        for entry in record["contenders"]:
            for times in entry["times"].values():
                assert times["fraction"] == pytest.approx(times["gflops"] / told[record["dtype"]][0])


@pytest.mark.usefixtures("comparing")
@pytest.mark.parametrize("status", ["not applicable", ValueError("no")])
def test_compare_times_no_backend_of_which_nothing_passed_or_a_check_broke_off(run, monkeypatch, tmp_path, status):
    made = made_of(("bits", status), *([("more", "passed")] if status != "not applicable" else []))
    monkeypatch.setattr(checks, "iter_checks", lambda *_, **__: made)
    monkeypatch.setattr(contest, "hold", lambda *_, **__: pytest.fail("it was timed"))
    code, out, _ = run("compare", "numpy", *TINY, "--json", tmp_path / "report.json")
    assert (code, out.splitlines()[-1]) == (1, "compare: nothing was timed; NOT CONFORMANT: numpy")
    assert json.loads((tmp_path / "report.json").read_text())["summary"]["exit_code"] == 1


# ---- comparison/


def test_looks_that_are_not_all_at_the_peak_let_nothing_through() -> None:
    now, looks, calls = [0.0], [0], []

    def look() -> float:
        now[0] += 0.5 * timing.BEFORE_SECONDS
        looks[0] += 1
        return 50.0 if looks[0] % 3 == 2 else 100.0  # good, bad, good: then the patience is at its end

    def call() -> None:
        calls.append(1)
        now[0] += 1.0

    timed = Timed("a", call, 2)
    (samples,) = take_turns([timed], look, lambda: 100.0, clock=lambda: now[0], rest=lambda _: None)
    assert calls == []
    assert {sample.gflops for sample in samples} == {50.0}
    assert summary(samples, 100.0)[3:] == (0, timing.ATTEMPTS * 2)


@pytest.mark.parametrize(("before", "after"), [(95.0, 110.0), (110.0, 95.0)])
def test_a_sample_keeps_the_lower_of_its_two_looks(before: float, after: float) -> None:
    now, looks = [0.0], [0]

    def look() -> float:
        looks[0] += 1
        return before if looks[0] <= timing.STEADY else after

    def call() -> None:
        now[0] += 1.0

    (samples,) = take_turns([Timed("a", call, 1)], look, lambda: 100.0, clock=lambda: now[0], rest=lambda _: None)
    assert [sample.gflops for sample in samples] == [95.0]
    assert summary(samples, 110.0)[3:] == (0, 1)  # the machine can hold more, it turned out


def timed_entry(name: str, counted_as: str, kind: str = "peer", **seconds: float) -> contest.Entry:
    samples = {what: [Sample(value, 100.0)] * 3 for what, value in seconds.items()}
    return contest.Entry(Contender(name, kind, lambda _: None, counted_as), "", samples)


def test_operations_are_those_of_what_was_timed() -> None:
    """T = 3, B = 2, m = 4, n = 5: 2 T B n = 60, of GRU 15 + 12 multiply-adds in each, of the gated cell 5 + 8."""
    plan = contest.Plan("gated", Shape(3, 2, 4, 5), "float64")
    entries = [
        timed_entry("torch nn.GRU", "nn.GRU", forward=2.0, both=2.0, everything=2.0),
        timed_entry("mine", "gated", "backend", forward=2.0, both=2.0, everything=2.0),
    ]
    layer, mine = contest.record(plan, entries, 200.0, 100.0)["contenders"]
    assert layer["operations"] == {"forward": 1620, "both": 1620 + 2520, "everything": 1620 + 2520 + 720}
    assert mine["operations"] == {"forward": 780, "both": 780 + 1080, "everything": 780 + 1080 + 480}
    for what, count in mine["operations"].items():
        assert mine["times"][what]["gflops"] == pytest.approx(1e-9 * count / 2)
        assert mine["times"][what]["fraction"] == pytest.approx(1e-9 * count / 2 / 200)


def test_a_peer_that_is_wrong_at_the_timed_size_alone_is_not_timed() -> None:
    shape = Shape(9, 5, 2, 6)

    def prepare(case: Case) -> object:
        prepared = peers.numpy_hoisted(case)
        if case.x.shape != (9, 5, 2):
            return prepared

        def results() -> dict[str, np.ndarray]:
            got = prepared.results()
            return {**got, "W": 1.001 * got["W"]}

        return prepared._replace(results=results, forward=lambda: pytest.fail("it was timed"))

    plan = contest.Plan("antisymmetric", shape, "float64")
    steady = peak.Peak(lambda: 100.0, lambda: 100.0, lambda: 100.0, 50.0, 2, peak.Registers(256, 12))
    contenders = [Contender("planted at one size", "peer", prepare, "antisymmetric")]
    (entry,) = contest.hold(plan, contenders, {}, steady, samples=1)
    assert entry.failure.startswith("wrong on the timed case: W: relative error 1.0e-03")
    assert entry.samples == {}


def test_each_time_is_of_the_call_of_its_name() -> None:
    calls = {name: lambda name=name: name for name in ("forward", "both")}

    def prepare(case: Case) -> object:
        return peers.numpy_hoisted(case)._replace(**calls)

    contender = Contender("planted", "backend", prepare, "antisymmetric", layer="RNN")  # of which nothing is checked
    case = timed_case("antisymmetric", Shape(9, 5, 2, 6), "float64")
    failure, found = contest._ready(contender, None, case, None)
    assert (failure, {name: call() for name, call in found.items()}) == ("", {"forward": "forward", "both": "both"})


def test_a_call_of_a_backend_ends_when_its_work_is_done() -> None:
    brought = []
    backend = copied()
    backend.to_numpy = lambda array: brought.append(array.tolist()) or antisymrnn_ref.to_numpy(array)
    case = timed_case("antisymmetric", Shape(9, 5, 2, 6), "float64")
    expected = checks.run(antisymrnn_ref, case)
    last_of_each = [expected["h"][-1].tolist(), expected["diffusion"].tolist()]
    for wait, seen in ((True, last_of_each), (False, [])):
        prepared = prepare_backend(backend, case, wait=wait)
        brought.clear()
        prepared.forward()
        prepared.both()
        assert brought == seen


def test_the_peak_counts_two_operations_for_each_multiply_add_of_each_lane(monkeypatch) -> None:
    """A loop in the place of the compiled one that takes 10 ns a step: 12 accumulators of 4 lanes are 9.6 GFLOP/s."""
    now = [0.0]

    def loop(address, steps, *_):
        np.ctypeslib.as_array((ctypes.c_double * 48).from_address(address))[:] = steps
        now[0] += 1e-8 * steps
        return 1

    monkeypatch.setattr(peak, "_compile", lambda *_: (loop, None))
    monkeypatch.setattr(peak, "host_registers", lambda: peak.Registers(256, 12))
    monkeypatch.setattr(peak, "SETTLED_SECONDS", 0.01)
    with peak.measured_peak("float64", 1, clock=lambda: now[0]) as found:
        assert found.look() == pytest.approx(9.6)
        assert (found.alone, found.best(), found.steady()) == pytest.approx((9.6, 9.6, 9.6))


def test_what_may_differ_on_a_timed_case_is_eight_times_what_float32_is_off() -> None:
    errors, conditions = {"h": 1e-6, "W": 2e-6, "b": 1e-6}, {"h": 1.0, "W": 2.0, "b": 4.0}
    single = agreement._tolerances(errors, conditions, "float32")
    assert single == pytest.approx({"h": 8e-6, "W": 1.6e-5, "b": 3.2e-5})  # 8 · 10⁻⁶ of the terms of a sum
    double = agreement._tolerances(errors, conditions, "float64")
    assert double == pytest.approx({name: value * 2.0**-29 for name, value in single.items()})
    tiny = agreement._tolerances(dict.fromkeys(errors, 0.0), conditions, "float32")
    assert tiny == pytest.approx({name: 4 * 2.0**-23 * condition for name, condition in conditions.items()})


# ---- report.py


def test_a_table_of_times_divides_by_the_backend() -> None:
    plan = contest.Plan("antisymmetric", Shape(3, 2, 4, 5), "float64")
    entries = [
        timed_entry("mine", "antisymmetric", "backend", forward=0.5, both=1.0, everything=1.5),
        timed_entry("slow", "antisymmetric", forward=2.0, both=3.0),
    ]
    told = contest.record(plan, entries, 1e-7, 100.0)
    table = report.times_table(told, ["mine"])
    assert table.columns[8:10] == ("forward / mine", "f + b / mine")
    mine, everything, slow = table.rows
    assert (mine[1], mine[4], mine[8:10]) == ("500.0", "1000.", ("1.00", "1.00"))
    assert (slow[1], slow[2], slow[4], slow[8:10]) == ("2000.", "2000. to 2000.", "3000.", ("4.00", "3.00"))
    # 2 T B n (n + m) = 540 operations in 2 s, of a peak of 100 a second; forward and backward 60 (9 + 14) = 1380 in 3 s
    assert (slow[3], slow[6], slow[7]) == ("270.0 %", "460.0 %", "0.0")
    assert everything[4] == "1500."
    assert "in +500.00 ms" in everything[-1]


def test_the_table_of_accuracies_shows_the_largest_error() -> None:
    def record(case: str, units: float) -> dict:
        entry = {"error": 1e-16 * units, "tolerance": 5e-16, "specification": 1e-16, "units": units}
        return {"name": "mine", "cell": "gated", "dtype": "float64", "case": case, "detail": "", "errors": {"W": entry}}

    for order in ((2.0, 9.0, 1.0), (9.0, 1.0, 2.0), (1.0, 2.0, 9.0)):
        table = report.units_table([record(f"case {units:g}", units) for units in order])
        assert table.rows == [("mine", "gated", "float64", "W", "9.00e-16", "9.00", "case 9")]
        assert list(table.alarming) == [True]


# ---- conformance/vectors.py


def test_a_schema_that_was_changed_is_not_as_released(tmp_path) -> None:
    shutil.copytree(vectors.released(), tmp_path / "set")
    path = tmp_path / "set" / vectors.SCHEMA
    entry = vectors.read_manifest(tmp_path / "set")[vectors.SCHEMA]
    assert vectors.verify_file(tmp_path / "set", vectors.SCHEMA, entry) == 0
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"required"', b'"requ1red"', 1))
    assert path.read_bytes() != content
    with pytest.raises(vectors.VectorError, match="schema.json: sha256: expected"):
        vectors.verify_file(tmp_path / "set", vectors.SCHEMA, entry)
