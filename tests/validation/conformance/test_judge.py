"""The judge as others use it: reports, diagnoses by name, conventions, expected failures, pytest and hypothesis."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings

import antisymrnn_ref
from antisymrnn_ref.contract import Gradients, checked_backward, checked_forward, kept_steps
from antisymrnn_validation import cli
from antisymrnn_validation.cli import conform
from antisymrnn_validation.conformance import judge, plan
from antisymrnn_validation.conformance.judge import check_backend, checks_of, judged, parametrize_with_checks, problems
from antisymrnn_validation.conformance.mistakes import catalogue, diagnosis
from antisymrnn_validation.conformance.mistakes.diagnosis import diagnose
from antisymrnn_validation.conformance.plan import certify, iter_checks
from antisymrnn_validation.conformance.promises import PROMISES
from antisymrnn_validation.conformance.targets.conventions import CONVENTIONS, declared
from antisymrnn_validation.truth.calls import OF_FRAMEWORKS, BrokenPromise, run
from antisymrnn_validation.truth.cases import CELLS, Case, drawn_cases, random_case
from antisymrnn_validation.truth.tolerance import measure

GENERIC = "generic T=11"
HONEST = catalogue.planted(None)


def planted(name: str) -> ModuleType:
    return catalogue.planted(catalogue.by_name(name))


# ---- a backend as a device would be: its arrays are foreign, read-only, and no NumPy function takes them


class Opaque:
    """An array that only its own backend can open."""

    __slots__ = ("_held",)
    __array__ = None  # numpy.asarray raises

    def __init__(self, held: np.ndarray) -> None:
        held = held.copy()
        held.flags.writeable = False
        self._held = held

    @property
    def shape(self) -> tuple[int, ...]:
        return self._held.shape

    @property
    def dtype(self) -> np.dtype:
        return self._held.dtype

    @property
    def ndim(self) -> int:
        return self._held.ndim


def opened(array: Opaque) -> np.ndarray:
    return array._held


def strict_backend() -> ModuleType:
    """The honest copy behind opaque arrays."""
    backend = ModuleType("strict_backend")
    backend.asarray = lambda array, dtype: Opaque(
        antisymrnn_ref.asarray(opened(array) if isinstance(array, Opaque) else array, dtype)
    )

    def to_numpy(array: Opaque) -> np.ndarray:
        if type(array) is not Opaque:
            raise TypeError(f"array: expected {Opaque.__module__}.Opaque, got {type(array).__name__}")
        return opened(array).copy()

    backend.to_numpy = to_numpy
    for cell, kind in zip(CELLS, (antisymrnn_ref.Parameters, antisymrnn_ref.GatedParameters), strict=True):
        setattr(backend, cell, strict_cell(getattr(HONEST, cell), kind))
    return backend


class Kept(SimpleNamespace):
    pass


def strict_cell(module, kind):
    @checked_forward(kind, Opaque)
    def forward(parameters, x, h0, *, step_size, diffusion, keep_every=1, unconstrained=False):
        constants = {"step_size": step_size, "diffusion": diffusion, "unconstrained": unconstrained}
        inner = module.forward(
            kind(*map(opened, parameters)), opened(x), opened(h0), keep_every=keep_every, **constants
        )
        return Kept(h=Opaque(inner.h), keep_every=keep_every, inner=inner, **constants)

    @checked_backward(kind, Opaque, Kept)
    def backward(parameters, x, trajectory, g, *, step_size, diffusion, input_gradient=True, unconstrained=False):
        constants = {"step_size": step_size, "diffusion": diffusion, "unconstrained": unconstrained}
        found = module.backward(
            kind(*map(opened, parameters)), opened(x), trajectory.inner, opened(g), input_gradient=input_gradient,
            **constants,
        )  # fmt: skip
        leaves = kind(*map(Opaque, found.parameters))
        scalars = map(Opaque, (found.step_size, found.diffusion))
        return Gradients(leaves, None if found.x is None else Opaque(found.x), Opaque(found.h0), *scalars)

    return SimpleNamespace(forward=forward, backward=backward)


def test_a_backend_with_foreign_arrays_is_accepted():
    report = check_backend(strict_backend(), quick=True, only="promises")
    assert report.conformant, [f"{result.check}: {result.detail}" for result in report.failures]
    with pytest.raises(TypeError):
        np.asarray(strict_backend().asarray(np.zeros(1), "float32"))


# ---- reports and diagnoses


def test_honest_backends_are_accepted():
    for target in ("numpy", HONEST):
        report = check_backend(target, quick=True, only=GENERIC)
        assert report.conformant
        assert report.counts["failed"] == 0
    assert not check_backend("numpy", only="no such check").conformant  # nothing ran


def copied(name: str) -> ModuleType:
    """The specification under another name."""
    backend = ModuleType(name)
    backend.__dict__.update(vars(antisymrnn_ref) | {"__name__": name})
    return backend


def test_only_the_specification_is_judged_as_the_specification():
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


@pytest.mark.parametrize("deviation", catalogue.CATALOGUE, ids=lambda deviation: deviation.name.replace(" ", "_"))
def test_every_deviation_is_rejected_by_name(deviation):
    backend = catalogue.planted(deviation)
    named: set[str] = set()
    for name in (GENERIC, "ablation T=9"):
        report = check_backend(
            backend, only=f"{deviation.cells[-1]} {name}", dtypes=["float64"], source="mine.backend()"
        )
        for failure in report.failures:
            named |= set(failure.deviations)
            assert failure.diagnosis
    if not named:  # what only cotangents with zeros in them show
        for cell in deviation.cells:
            case = random_case(cell, 11, 4, 7, 3, step_size=0.3, diffusion=0.2, seed=0)
            case.g[6] = case.g[-1, 1] = case.g[3, 2] = 0
            named |= set(judged(certify("planted", case), backend, {}).deviations)
    assert deviation.name in named


def test_an_unknown_mistake_is_rejected_and_named_by_nothing():
    honest = antisymrnn_ref.antisymmetric

    def forward(*arguments, **options):
        trajectory = honest.forward(*arguments, **options)
        return trajectory._replace(h=trajectory.h + 1e-3 * np.sin(trajectory.h) ** 3)

    module = copied("stranger")
    module.antisymmetric = SimpleNamespace(forward=forward, backward=honest.backward)
    report = check_backend(module, only=f"antisymmetric {GENERIC}")
    assert not report.conformant
    assert all(not failure.deviations for failure in report.failures)
    assert all(not failure.rounding for failure in report.failures)
    assert "no known variant gives these numbers" in report.failures[0].diagnosis


def test_the_first_wrong_state_and_the_worst_entry_are_told(monkeypatch):
    monkeypatch.setattr(diagnosis, "identify", lambda *_, **__: [])  # which takes seconds
    (check,) = checks_of("numpy", only=f"accuracy: antisymmetric {GENERIC}", dtypes=["float64"])
    case = check.run(planted("tanh dropped")).wrong.case
    arrays = run(antisymrnn_ref, case)
    arrays["h"][6, 2, 3] += 0.25
    result = check.run(HONEST)
    errors = {**result.errors, "h": result.errors["h"]._replace(error=0.1)}
    for keep_every in (1, 3):
        kept = arrays | {"h": arrays["h"][kept_steps(len(case.x), keep_every)]}
        found = diagnose(kept, case, errors, keep_every=keep_every)
        assert found.first_step == 6
        assert found.places[0].at == (6, 2, 3)
        assert found.places[0].got - found.places[0].expected == pytest.approx(0.25)


def found_of(arrays, case, keep_every=1, target=""):
    """The diagnosis of results that fail."""
    with pytest.raises(BrokenPromise) as broken:
        measure(arrays, case, keep_every=keep_every)
    return diagnose(arrays, case, broken.value.errors, keep_every=keep_every, target=target), broken.value.errors


def a_case():
    return random_case("antisymmetric", 11, 4, 7, 3, step_size=0.3, diffusion=0.2, seed=3)


def test_a_script_imports_what_it_calls_and_no_word_of_a_text():
    target = (
        "antisymrnn_validation.conformance.targets.programs.program_candidate(['julia', '-e', 'Foo.run(ARGS)'], 20.0)"
    )
    arrays = run(planted("dγ missing"), a_case())
    script = found_of(arrays, a_case(), target=target)[0].reproduce
    imports = [line for line in script.splitlines() if line.startswith("import ")]
    assert imports == ["import antisymrnn_validation.conformance.targets.programs"]


def test_an_error_where_rounding_makes_none_is_not_called_infinite():
    case = random_case("antisymmetric", 3, 2, 1, 2, step_size=0.3, diffusion=0.2, seed=1)  # one unit: dW = 0
    found, _ = found_of(run(planted("dW = G"), case), case)
    (line,) = [line for line in found.text().splitlines() if line.startswith("W[0, 0]")]
    assert line.endswith("expected 0; where rounding makes no error, or of another dtype")


def test_what_is_over_is_counted_in_rounding_errors():
    arrays = run(planted("dγ missing"), a_case())
    found, errors = found_of(arrays, a_case())
    (place,) = found.places
    assert place[:3] == ("diffusion", (), 0.0)
    assert place.over == pytest.approx(errors["diffusion"].error / errors["diffusion"].reference)
    assert f"{place.over:.1g} times the rounding error" in found.text()


def test_the_first_wrong_state_is_told_among_those_that_are_kept(monkeypatch):
    monkeypatch.setattr(diagnosis, "identify", lambda *_, **__: [])  # which takes seconds
    for keep_every, first in ((1, 5), (3, 6), (4, 8), (1000, 11)):
        arrays = run(planted("dW = G"), a_case(), keep_every=keep_every)
        for row, t in enumerate(kept_steps(11, keep_every)):
            arrays["h"][row] += (t >= 5) * 1e-3
        assert found_of(arrays, a_case(), keep_every)[0].first_step == first
    arrays["h"][1] = np.nan
    found, _ = found_of(arrays, a_case(), 1000)
    assert (found.first_step, found.places[0].array, found.places[0].at[0]) == (11, "h", 11)


@pytest.mark.parametrize("keep_every", [1, 3])
def test_a_mistake_is_named_where_not_every_state_is_kept_or_an_array_is_not_finite(keep_every):
    arrays = run(planted("dW = G"), a_case(), keep_every=keep_every)
    assert found_of(arrays, a_case(), keep_every)[0].names == ["dW = G"]
    arrays["b"][0] = np.inf
    assert found_of(arrays, a_case(), keep_every)[0].names == ["dW = G"]


def wrong_at(zero, keep_every):
    """Wrong where h0 is zero or is not, with one distance of the kept states."""
    backend, honest = ModuleType("wrong_at"), HONEST.antisymmetric
    backend.__dict__.update(vars(HONEST))

    def forward(*arguments, **options):
        found = honest.forward(*arguments, **options)
        wrong = options.get("keep_every", 1) == keep_every and zero != bool(found.h[0].any())
        return planted("2γ").antisymmetric.forward(*arguments, **options) if wrong else found

    backend.antisymmetric = SimpleNamespace(forward=forward, backward=honest.backward)
    return backend


@pytest.mark.parametrize(("zero", "keep_every"), [(True, 1), (False, 3)])
def test_the_script_runs_the_case_that_failed(zero, keep_every):
    case = random_case("antisymmetric", 5, 2, 3, 2, step_size=0.3, diffusion=0.2, seed=3, dtype="float32")
    target = wrong_at(zero, keep_every)
    if zero:
        case = case._replace(h0=0 * case.h0)
    arrays = run(target, case, keep_every=keep_every)
    script = found_of(arrays, case, keep_every, target="wrong()")[0].reproduce
    with pytest.raises(BrokenPromise) as before:
        measure(arrays, case, keep_every=keep_every)
    with pytest.raises(BrokenPromise) as again:
        exec(script, {"wrong": lambda: target})
    first, second = (str(broken.value).partition(", tolerance")[0] for broken in (before, again))
    assert re.fullmatch(r"h: relative error \d\.\de[-+]\d\d", first)
    assert first == second
    assert found_of(arrays, case, keep_every)[0].reproduce == ""
    # what no call of random_case gives has no script
    moved = case._replace(x=2 * case.x)
    assert found_of(run(target, moved, keep_every=keep_every), moved, keep_every, "wrong()")[0].reproduce == ""


def test_the_script_shows_the_failure_again(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from antisymrnn_validation.conformance.mistakes import catalogue\n"
        "def backend():\n    return catalogue.planted(catalogue.by_name('tanh dropped'))\n"
    )
    report = check_backend(
        planted("tanh dropped"), only=f"last state: antisymmetric {GENERIC}", source="mine.backend()"
    )
    script = "\n".join(
        line.strip() for line in report.failures[0].diagnosis.split("to see it again:\n")[1].splitlines()
    )
    assert len(script.splitlines()) <= 10
    answer = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": ":".join([str(tmp_path), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 1
    assert "BrokenPromise: h: relative error" in answer.stderr


# ---- conventions and expected failures


@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_declared_convention_is_accepted_and_an_undeclared_one_is_not(name):
    backend = planted(name)
    only = f"accuracy: {catalogue.by_name(name).cells[-1]} {GENERIC}"
    undeclared = check_backend(backend, only=only, dtypes=["float64"])
    assert not undeclared.conformant
    assert name in undeclared.failures[0].deviations
    assert check_backend(declared(backend, name.replace(" ", "-")), only=only, dtypes=["float64"]).conformant


def test_the_upper_triangle_stands_for_all_of_it_but_in_the_ablation():
    honest = antisymrnn_ref.antisymmetric

    def backward(*arguments, unconstrained=False, **options):
        found = honest.backward(*arguments, unconstrained=unconstrained, **options)
        W = found.parameters.W
        return found._replace(parameters=found.parameters._replace(W=W if unconstrained else np.triu(W, 1)))

    module = copied("upper")
    module.antisymmetric = SimpleNamespace(forward=honest.forward, backward=backward)
    for unconstrained in (False, True):
        case = random_case(
            "antisymmetric", 3, 2, 3, 2, step_size=0.3, diffusion=0.2, seed=1, unconstrained=unconstrained
        )
        result = certify("upper", case).run(declared(module, "dW of the strict upper triangle"))
        assert result.status == "passed", result.detail


def test_a_convention_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="did you mean 'row vectors'"):
        declared(HONEST, "row-vektors")


def test_a_mistake_under_a_convention_is_still_a_mistake():
    report = check_backend(declared(planted("tanh dropped"), "row-vector"), only=f"accuracy: gated {GENERIC}")
    assert not report.conformant


def test_an_expected_failure_has_its_reason_and_an_unexpected_pass_fails():
    wrong = planted("tanh dropped")
    reasons = {f"accuracy: antisymmetric {GENERIC}": "known, fixed in the next release"}
    report = check_backend(wrong, only=f"accuracy: antisymmetric {GENERIC}", expected_failures=reasons)
    assert report.counts == {"expected failure": 2}
    assert report.conformant
    assert report.results[0].detail.startswith("known, fixed in the next release (")
    report = check_backend("numpy", only=f"accuracy: antisymmetric {GENERIC}", expected_failures=reasons)
    assert [result.detail for result in report.failures] == [
        "passed, though expected to fail: " + reasons.popitem()[1]
    ] * 2


# ---- pytest, hypothesis, drawn cases, explanations


@parametrize_with_checks(["numpy"], quick=True, level=0)
def test_parametrized(target, check):
    result = judged(check, target, {})
    assert result.status != "failed", result.detail


@settings(max_examples=20)
@given(problems())
def test_problems_are_solved_by_the_honest(case):
    result = certify("numpy", case).run(antisymrnn_ref)
    assert result.status == "passed", result.detail


def test_drawn_cases_are_the_same_for_every_count_and_raise_no_alarm():
    few, more = list(drawn_cases(5, seed=1)), list(drawn_cases(40, seed=1))
    assert [sweep.case.recipe for sweep in few] == [sweep.case.recipe for sweep in more[:5]]
    for case, keep_every, input_gradient in more:
        check = certify("honest", case, keep_every=keep_every, input_gradient=input_gradient)
        assert check.run(HONEST).status == "passed", case.recipe


def test_every_check_is_explained():
    names = {check.name for name in ("numpy", "numba") for check in iter_checks(name)}
    names |= {name for name, promise in PROMISES.items() if promise.needs & OF_FRAMEWORKS}  # see test_frameworks.py
    assert names == set(PROMISES)  # and every declared one is made


# ---- the command


def command(capsys, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return ended.value.code, *capsys.readouterr()


def test_conform_tells_the_mistake_writes_junit_and_takes_expected_failures(tmp_path, capsys, monkeypatch):
    wrong = planted("tanh dropped")
    monkeypatch.setitem(sys.modules, "wrong_backend", wrong)
    asked = ["conform", "wrong_backend", "-k", f"accuracy: gated {GENERIC}"]
    code, out, _ = command(capsys, *asked, "--junit", tmp_path / "j.xml", "--json", tmp_path / "j.json")
    assert code == 1
    assert "your output equals the variant 'tanh dropped'" in out
    assert "2 of 2 failures equal the variant 'tanh dropped'" in out
    suite = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "2")
    (first, _) = json.loads((tmp_path / "j.json").read_text())["checks"]
    assert first["deviations"] == ["tanh dropped"]
    (tmp_path / "expect.json").write_text(json.dumps({"accuracy: gated": "known"}))
    code, out, _ = command(capsys, *asked, "--expect", tmp_path / "expect.json")
    assert code == 0
    assert "2 failed as expected" in out
    monkeypatch.setattr(conform, "run_check", lambda *_, **__: pytest.fail("it began"))
    (tmp_path / "expect.json").write_text(json.dumps({"accuracy: gated": "known", "acuracy": "a typo"}))
    code, _, err = command(capsys, *asked, "--expect", tmp_path / "expect.json")
    assert code == 2
    assert "--expect: no check that runs has 'acuracy' in its name" in err
    (tmp_path / "expect.json").write_text("[]")
    assert command(capsys, *asked, "--expect", tmp_path / "expect.json")[0] == 2


def test_conform_takes_a_declared_convention_and_drawn_cases(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rows_backend", planted("row vectors"))
    asked = ["conform", "rows_backend", "-k", f"accuracy: gated {GENERIC}"]
    assert command(capsys, *asked)[0] == 1
    assert command(capsys, *asked, "--convention", "row-vectors")[0] == 0
    code, _, err = command(capsys, *asked, "--convention", "columns")
    assert code == 2
    assert "--convention: expected one of row vectors" in err
    assert command(capsys, "conform", "numpy", "--drawn", "10")[0] == 0


def test_drawn_cases_stand_in_place_of_the_checks(capsys, monkeypatch):
    monkeypatch.setattr(plan, "iter_checks", lambda *_, **__: pytest.fail("the checks were made"))
    code, out, _ = command(capsys, "conform", "numpy", "--drawn", "3")
    assert (code, out.splitlines()[-2].startswith("3 checks: ")) == (0, True)
    assert out.splitlines()[-1].startswith("conform numpy: on 3 cases drawn at random: computes equation")


@pytest.mark.parametrize("told", ['{"": "known"}', '{"accuracy": ""}', '{"accuracy": 1}', "{", None])
def test_failures_are_expected_by_name_and_with_a_reason(told, tmp_path, capsys):
    if told is not None:
        (tmp_path / "expect.json").write_text(told)
    asked = ["conform", "numpy", "-k", "signatures", "--expect", tmp_path / "expect.json"]
    code, out, err = command(capsys, *asked)
    assert (code, out) == (2, "")
    assert "--expect: " in err


# ---- what an adversary wrote


def test_a_damaged_numpy_does_not_widen_the_tolerance(monkeypatch):
    case = random_case("gated", 9, 3, 5, 2, step_size=0.3, diffusion=0.2, seed=5)
    assert certify("honest", case).run(antisymrnn_ref).status == "passed"
    tanh = np.tanh
    monkeypatch.setattr(np, "tanh", lambda a, *rest, **options: tanh(a, *rest, **options) * a.dtype.type(1 + 1e-12))
    assert certify("honest", case._replace(name="damaged")).run(antisymrnn_ref).status == "failed"


@pytest.mark.parametrize(("value", "told"), [(np.nan, "nan"), (np.inf, "inf")])
def test_the_error_of_a_nan_is_nan_and_no_tolerance_becomes_nan(monkeypatch, tmp_path, capsys, value, told):
    case = random_case("antisymmetric", 4, 2, 3, 2, step_size=0.3, diffusion=0.2, seed=6 if told == "nan" else 7)
    monkeypatch.setattr(np, "tanh", lambda a: np.full_like(a, value))  # of the target and of the specification
    result = certify("honest", case).run(antisymrnn_ref)
    assert (result.status, str(result.errors["h"].error)) == ("failed", told)
    assert np.isfinite([[error.tolerance, error.reference] for error in result.errors.values()]).all()
    assert f"h: relative error {told}, tolerance" in result.detail
    monkeypatch.setattr(judge, "checks_of", lambda *_, **__: [certify("honest", case)])
    code, out, _ = command(capsys, "conform", "numpy", "--json", tmp_path / "report.json")
    (record,) = json.loads((tmp_path / "report.json").read_text())["checks"]
    assert (code, record["errors"]["h"]["error"]) == (1, told)
    assert f"  h: relative error {told}, tolerance" in out


def test_a_case_without_a_certified_truth_says_nothing_of_a_target():
    saturated = random_case("gated", 1, 1, 9, 2, step_size=0.4, diffusion=0.2, seed=1338201033, amplitude=1e5)
    result = certify("honest", saturated).run(antisymrnn_ref)
    assert result.status == "not applicable"
    assert result.detail.startswith("there is no certified truth: ")


def gradient_wrong_at_zero_h0():
    backend = ModuleType("wrong_at_zero")
    backend.__dict__.update(vars(antisymrnn_ref))
    honest = antisymrnn_ref.antisymmetric

    def backward(parameters, x, trajectory, g, **options):
        found = honest.backward(parameters, x, trajectory, g, **options)
        return found if trajectory.h[0].any() else found._replace(h0=1.01 * found.h0)

    backend.antisymmetric = SimpleNamespace(forward=honest.forward, backward=backward)
    return backend


def test_gradients_are_judged_from_a_zero_state_too():
    report = check_backend(gradient_wrong_at_zero_h0(), quick=True, only="accuracy: antisymmetric")
    assert {failure.case.split(" T=")[0] for failure in report.failures} >= {"antisymmetric h0 = 0"}


def test_a_callable_gets_strided_arrays_and_weights_changed_in_place():
    from antisymrnn_validation.conformance.targets.functions import callable_candidate

    held: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def stale(parameters, x, h0, step_size, diffusion):
        W = parameters["W"]
        _, M = held.setdefault(id(W), (W, W - W.T - W.dtype.type(diffusion) * np.eye(len(W), dtype=W.dtype)))
        h = [h0]
        for x_t in x:
            a = h[-1] @ M.T + x_t @ parameters["V"].T + parameters["b"]
            h.append(h[-1] + h0.dtype.type(step_size) * np.tanh(a))
        return np.stack(h)

    def no_strides(parameters, x, h0, step_size, diffusion):
        def raw(array):
            import ctypes

            return np.frombuffer(ctypes.string_at(array.ctypes.data, array.nbytes), array.dtype).reshape(array.shape)

        held.clear()
        return stale({name: raw(leaf) for name, leaf in parameters.items()}, raw(x), raw(h0), step_size, diffusion)

    for function, name in ((stale, "refilled arguments"), (no_strides, "layouts")):
        report = check_backend(callable_candidate(function), quick=True, only=f"{name}: antisymmetric promises T=11")
        assert report.counts["failed"] == 2, name


def test_a_target_without_an_end_is_a_failure_and_is_given_up():
    from antisymrnn_validation.conformance.targets.functions import callable_candidate

    calls = []

    def endless(*_):
        calls.append(1)
        while True:
            pass

    candidate = callable_candidate(endless)
    candidate.seconds = 0.1
    report = check_backend(candidate, quick=True, only="every state: antisymmetric")
    assert report.counts["failed"] > 5
    assert {failure.detail for failure in report.failures} == {
        "no end within 0.1 s",
        "not called again after 3 checks without an end",
    }
    assert len(calls) == 3


def test_a_target_may_raise_anything():
    class Odd(BaseException):
        pass

    backend = ModuleType("odd")
    backend.__dict__.update(vars(antisymrnn_ref))

    def forward(*_, **__):
        raise Odd("nothing that is caught")

    backend.antisymmetric = SimpleNamespace(forward=forward, backward=forward)
    report = check_backend(backend, only=f"accuracy: antisymmetric {GENERIC}")
    assert report.counts == {"failed": 2}
    assert "raised Odd: nothing that is caught" in report.failures[0].detail


def test_conform_is_quick_only_if_asked(capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(judge, "checks_of", lambda *_, quick, **__: asked.append(quick) or [])
    assert [command(capsys, "conform", "numpy", *quick)[0] for quick in ([], ["--quick"])] == [3, 3]
    assert asked == [False, True]


def generic_case(cell: str = "antisymmetric", seed: int = 3) -> Case:
    return random_case(cell, 5, 3, 4, 2, step_size=0.3, diffusion=0.2, seed=seed, name=f"seed {seed}")


def unexplained(case: Case) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Results that no variant gives, and tolerances."""
    arrays = run(antisymrnn_ref, case)
    return {name: array * (1 + 1e-3) for name, array in arrays.items()}, dict.fromkeys(arrays, 1e-9)


def test_what_explained_a_failure_is_tried_first_and_one_failure_of_a_kind_is_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[str] = []
    identify = diagnosis.identify
    monkeypatch.setattr(
        diagnosis,
        "identify",
        lambda arrays, case, **rest: (compared.append(case.name), identify(arrays, case, **rest))[1],
    )
    first, second = (generic_case(seed=seed) for seed in (1, 2))
    explanations, failed = diagnosis.Explanations(), frozenset({"W"})
    for case in (first, second):
        arrays, tolerance = unexplained(case)
        found, told = explanations.of(arrays, case, failed, tolerance=tolerance)
        assert (found, told) == ([], case is first)
    assert compared == [first.name]
    wrong = catalogue.by_name("W + Wᵀ")
    for case, kind in ((first, frozenset({"h"})), (second, frozenset({"h", "W"})), (second, failed)):
        found, told = explanations.of(
            diagnosis.outputs(wrong, case), case, kind, tolerance=dict.fromkeys(tolerance, 1e-9)
        )
        assert ([match.names for match in found], told) == ([("W + Wᵀ",)], True)
    assert len(compared) == 2  # the others were explained by what explained the first
    gated = generic_case("gated")
    found, told = explanations.of(*unexplained(gated)[:1], gated, failed, tolerance=unexplained(gated)[1])
    assert (found, told, len(compared)) == ([], True, 3)


def test_a_run_compares_no_more_than_its_work() -> None:
    explanations, case = diagnosis.Explanations(), generic_case()
    explanations.work_left = diagnosis._work(case)
    assert diagnosis._work(case) < diagnosis.MOST_WORK / 8
    arrays, tolerance = unexplained(case)
    assert explanations.of(arrays, case, frozenset({"h"}), tolerance=tolerance) == ([], True)
    assert explanations.of(arrays, case, frozenset({"W"}), tolerance=tolerance) == ([], False)


def test_every_failure_of_a_run_is_explained_by_the_same_mistake() -> None:
    report = check_backend(planted("ε missing in δ"), quick=True, only="accuracy")
    wrong = [result for result in report.failures if result.wrong]
    assert len(wrong) > 20
    for result in wrong:
        compared = diagnosis._work(result.wrong.case) <= diagnosis.LARGE
        assert ("ε missing in δ" in result.deviations) is compared, result.case
