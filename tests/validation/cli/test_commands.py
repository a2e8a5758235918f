"""The command: every exit code, every way to misuse it, what it prints and what it leaves on the disk."""

import contextlib
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import types
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import antisymrnn_ref
import antisymrnn_validation.claims
from antisymrnn_ref.installation import install_command
from antisymrnn_validation.claims.evidence import Claim, Judgement, Outcome, Verdict
from antisymrnn_validation.cli import compare as cli_compare
from antisymrnn_validation.cli import conform, verify
from antisymrnn_validation.comparison import contenders, contest, peak, processes, timing
from antisymrnn_validation.conformance import plan
from antisymrnn_validation.conformance.check import Check, Result
from antisymrnn_validation.conformance.fuzzing import apart
from antisymrnn_validation.conformance.fuzzing.machine import Report
from antisymrnn_validation.conformance.fuzzing.session import Failure, Tally
from antisymrnn_validation.conformance.plan import certify
from antisymrnn_validation.experiments import published
from antisymrnn_validation.experiments.folder import RunError
from antisymrnn_validation.output import environment, files
from antisymrnn_validation.truth import calls, cases
from antisymrnn_validation.truth.tolerance import truth_and_errors

MNIST = os.environ.get("ANTISYMRNN_DATA")
ESCAPE = "\x1b"

WRONG_BACKEND = '''
"""The specification with one thing wrong: the gradient with respect to h0 is 1 + 1e-9 times the true one."""
from types import SimpleNamespace
from antisymrnn_ref import antisymmetric as right, asarray, gated as right_gated, to_numpy

def wrong(cell):
    def backward(*arguments, **options):
        gradients = cell.backward(*arguments, **options)
        return gradients._replace(h0=gradients.h0 * (1 + 1e-9))
    return SimpleNamespace(forward=cell.forward, backward=backward)

antisymmetric, gated = wrong(right), wrong(right_gated)
'''


def claim(name, verdict=Verdict.HOLDS, expected=None, check=None, source="equation (1)"):
    evidence = f"Evidence for {name} in [brackets], " + "with many numbers " * 12 + "and an end."
    outcome = Outcome(verdict, evidence, {"number": 0.1, "not a number": float("nan"), "numpy": np.float64(2.0)})
    return Claim(name, source, f"Statement of {name}.", "", expected or verdict, check or (lambda _: outcome), "1.1")


@pytest.fixture(autouse=True)
def _no_real_data(monkeypatch):
    monkeypatch.delenv("ANTISYMRNN_DATA", raising=False)


@pytest.fixture(autouse=True)
def two_backends(monkeypatch):
    """The specification, and one that is known but not there, whatever is installed."""
    known = {"numpy": "antisymrnn_ref", "absent": "a_package_that_is_not_there"}
    monkeypatch.setattr(environment, "backend_modules", lambda: known)
    monkeypatch.setattr("antisymrnn_ref.backend.backend_modules", lambda: known)


@pytest.fixture
def ledger(monkeypatch):
    """Put claims in the place of the real ones, and one accuracy of the paper that no recorded run bears on."""
    accuracy = {**published.CELLS[0]._asdict(), "name": "mnist-antisymmetric", "runs": [], "verdict": "not run"}
    monkeypatch.setattr(published, "decide", lambda: [accuracy])

    def replace(*claims):
        module = types.ModuleType("antisymrnn_validation.claims.ledger")
        module.CLAIMS = claims
        module.judge = lambda claim, quick=False: Judgement(claim, claim.check(quick))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(antisymrnn_validation.claims, "ledger", module, raising=False)

    replace(
        claim("first"), claim("second", Verdict.REFUTED, source="equation (11)"), claim("third", Verdict.CONDITIONAL)
    )
    return replace


@pytest.fixture
def certifying(monkeypatch):
    """Put one result in the place of every certification."""

    def replace(result):
        def certify(backend_name, case):
            return Check("accuracy", case.name, lambda _: result(backend_name, case))

        monkeypatch.setattr(plan, "certify", certify)

    replace(lambda _, case: Result("accuracy", case.name, "passed", "", {"h": calls.ArrayError(1e-16, 1e-15, 1e-16)}))
    return replace


def one_line(text):
    """The only line of a text."""
    (line,) = text.splitlines()
    return line


def summary(out):
    """The one line that sums up a run of verify."""
    (line,) = [line for line in out.splitlines() if line.startswith(("verify: ", "verify --quick: "))]
    return line


def strictly(path):
    """Parse a JSON file, and refuse the tokens that JSON does not have."""

    def refuse(token):
        raise AssertionError(f"not JSON: {token}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


# verify


def test_verify_with_the_real_ledger(run, tmp_path):
    """The main job, with nothing replaced but the list of backends."""
    from antisymrnn_validation.claims.ledger import CLAIMS

    code, out, err = run("verify", "--quick", "--json", tmp_path / "report.json")
    assert (code, err) == (0, "")
    assert re.match(rf"verify --quick: {len(CLAIMS)} claims \(.*; all as the ledger expects\), ", summary(out))
    document = strictly(tmp_path / "report.json")
    assert [entry["name"] for entry in document["claims"]] == [claim.name for claim in CLAIMS]
    assert {entry["verdict"] for entry in document["claims"]} == {"holds", "holds under a stated condition", "refuted"}
    assert all(entry["evidence"] and entry["numbers"] for entry in document["claims"])
    assert [entry["proof"] for entry in document["claims"]] == [claim.proof for claim in CLAIMS]


@pytest.mark.usefixtures("ledger")
def test_verify_certifies_the_specification_on_digits(run, tmp_path):
    """The real certification, at its default size, beside stand-ins for the claims."""
    code, out, err = run("verify", "--verbose", "--json", tmp_path / "report.json")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert summary(out) == (
        "verify: 3 claims (1 hold, 1 conditional, 1 known refutation; all as the ledger expects), 2 certifications "
        "passed on digits (T = 64, n = 32, B = 4); backends: numpy ok, absent not run; accuracies of the paper: 1 not "
        "run"
    )
    assert "Table 1, mnist-antisymmetric: not run\n  Paper: 98.0 %, 128 units, 50,000 iterations of 128 (unconf" in out
    assert any(re.match(r"Backend absent did not run: .*a_package_that_is_not_there", line) for line in lines)
    arrays = {
        "antisymmetric": ["h", "W", "V", "b", "x", "h0", "step_size", "diffusion"],
        "gated": ["h", "W", "V", "b", "V_z", "b_z", "x", "h0", "step_size", "diffusion"],
    }
    rows = [line.split() for line in lines if line.startswith("numpy ")]
    for cell, names in arrays.items():
        assert sorted(row[2] for row in rows if row[1] == cell) == sorted(names)
    assert all(float(row[3]) <= float(row[4]) and row[-1] == "passed" for row in rows)

    document = strictly(tmp_path / "report.json")
    assert document["schema_version"] == files.SCHEMA_VERSION
    assert document["command"] == "verify"
    assert document["data"] == "digits (T = 64, n = 32, B = 4)"
    assert document["summary"]["line"] == summary(out)
    assert document["summary"]["exit_code"] == 0
    assert document["environment"]["versions"]["numpy"] == np.__version__
    assert list(document["not_run"]) == ["absent"]
    assert [entry["verdict"] for entry in document["claims"]] == ["holds", "refuted", "holds under a stated condition"]
    assert document["claims"][0]["numbers"] == {"number": 0.1, "not a number": "nan", "numpy": 2.0}
    for entry in document["certifications"]:
        assert sorted(entry["errors"]) == sorted(arrays[entry["cell"]])
        for error in entry["errors"].values():
            # a tolerance that is not small certifies nothing
            assert 0 <= error["error"] <= error["tolerance"] < 1e-12


@pytest.mark.usefixtures("certifying")
def test_verify_has_one_line_for_each_claim_accuracy_and_certification(run, ledger):
    long = claim("a-name-of-forty-letters-" + "with-hyphens-in-it", Verdict.REFUTED)
    ledger(claim("first"), long._replace(statement="A long statement. " * 9), claim("third", Verdict.CONDITIONAL))
    code, out, _ = run("verify")
    assert code == 0
    assert out.splitlines()[:-4] == [
        "The paper's claims",
        "verdict      claim                                       statement",
        "holds        first                                       Statement of first.",
        "refuted      a-name-of-forty-letters-with-hyphens-in-it  A long statement. A long statement. A long…",
        "conditional  third                                       Statement of third.",
        "",
        "Known refutations do not fail the run: the ledger expects them, and says why.",
        "",
        "Test accuracies of the paper",
        "verdict  table    cell                 paper, %  ours, %",
        "not run  Table 1  mnist-antisymmetric  98.0",
        "",
        "Relative errors of the states and of every gradient on digits (T = 64, n = 32, B = 4)",
        "verdict  backend  cell           arrays  worst array  error     tolerance",
        "passed   numpy    antisymmetric  1       h            1.00e-16  1.00e-15",
        "passed   numpy    gated          1       h            1.00e-16  1.00e-15",
        "",
    ]


@pytest.mark.usefixtures("ledger", "certifying")
def test_verbose_shows_the_evidence_in_paragraphs_no_wider_than_a_page(run):
    before, _, _ = run("verify", "-v")[1].partition("verify: ")
    assert max(map(len, before.splitlines())) <= 100
    assert not re.search("[─━│┃]", before)
    for name in ("first", "second", "third"):
        _, _, paragraph = before.partition(f"\n{name}, equation (")
        paragraph, _, _ = paragraph.partition("\n\n")
        text = " ".join(paragraph.split())
        assert f"Statement of {name}. Evidence: Evidence for {name} in [brackets], with many numbers" in text
        assert text.endswith('and an end. Numbers: number: 0.1; not a number: "nan"; numpy: 2.0')


@pytest.mark.usefixtures("ledger", "certifying")
def test_known_refutations_are_named_as_such(run):
    words = "Known refutations do not fail the run"
    code, out, _ = run("verify", "--only", "second")
    assert (code, words in out, "1 known refutation" in summary(out)) == (0, True, True)
    assert words not in run("verify", "--only", "first")[1]


@pytest.mark.usefixtures("ledger", "certifying")
def test_the_end_says_what_to_do_next(run, small_mnist):
    def closing(*arguments):
        _, _, after = run("verify", *arguments)[1].partition("\nverify")
        return after.splitlines()[2:]

    port = "antisymrnn conform --callable MODULE:FUNCTION judges your own port"
    reason, following = closing()
    assert reason.startswith("Backend absent did not run: importing a_package_that_is_not_there failed")
    assert following == f"Next: antisymrnn verify -v shows the evidence; {port}"
    assert closing("-v")[-1] == f"Next: {port}"
    assert closing("--only", "equation (11)", "--quick", "--data", small_mnist) == [
        "Not selected by --only 'equation (11)': 2 of 3 claims, all 10 accuracies, all 2 certifications.",
        f"Next: antisymrnn verify --quick --data {small_mnist} --only 'equation (11)' -v shows the evidence; {port}",
    ]


@pytest.mark.usefixtures("certifying")
def test_an_unexpected_verdict_exits_1_and_the_run_goes_on(run, ledger, tmp_path):
    ledger(claim("good"), claim("bad", Verdict.HOLDS, Verdict.REFUTED), claim("last"))
    code, out, _ = run("verify", "--json", tmp_path / "report.json")
    assert code == 1
    assert (
        "CONTRADICTION bad, equation (1): holds, expected: refuted\n  Statement of bad.\n  Evidence: Evidence for"
        in out
    )
    assert out.splitlines()[-1] == (
        "Next: see CONTRADICTION bad above. To run it again: antisymrnn verify --only bad -v"
    )
    assert "verify: 3 claims (3 hold; NOT as the ledger expects: bad), 2 certifications passed" in summary(out)
    assert any(line.startswith("holds                     last ") for line in out.splitlines())
    document = strictly(tmp_path / "report.json")
    assert [entry["as_expected"] for entry in document["claims"]] == [True, False, True]
    assert document["summary"]["exit_code"] == 1


@pytest.mark.usefixtures("certifying")
def test_an_exception_in_a_claim_exits_1_and_the_run_goes_on(run, ledger, tmp_path):
    def broken(_):
        raise ZeroDivisionError("division\nby zero")

    ledger(claim("broken", check=broken), claim("last"))
    code, out, _ = run("verify", "--json", tmp_path / "report.json")
    assert code == 1
    assert "CONTRADICTION broken, equation (1): broke off, expected: holds" in out
    assert re.search(r"ZeroDivisionError: division by zero \(test_commands\.py, line \d+\)", out)
    assert "verify: 2 claims (1 hold, 1 broke off; NOT as the ledger expects: broken)" in summary(out)
    first, last = strictly(tmp_path / "report.json")["claims"]
    assert "ZeroDivisionError" in first["traceback"]
    assert last["as_expected"]


@pytest.mark.usefixtures("ledger")
def test_a_failed_certification_exits_1(run, tmp_path, monkeypatch):
    (tmp_path / "wrong_backend.py").write_text(WRONG_BACKEND)
    monkeypatch.syspath_prepend(tmp_path)
    code, out, _ = run("verify", "--quick", "--backend", "wrong_backend", "--backend", "numpy", "--only", "accuracy")
    assert code == 1
    assert len(re.findall(r"^FAILED wrong_backend: accuracy on \w+ real input", out, re.MULTILINE)) == 2
    assert len(re.findall(r"^  h0: relative error 1\.000e-09, tolerance \d\.\d+e-1[45]", out, re.MULTILINE)) == 2
    assert len(re.findall(r"^failed +wrong_backend +\w+ +\d+ +h0 ", out, re.MULTILINE)) == 2
    assert out.splitlines()[-1] == (
        "Next: see FAILED wrong_backend: accuracy on antisymmetric real input T=64 B=2 n=16 m=1 float64 above. To run "
        "it again: antisymrnn verify --quick --backend wrong_backend --only "
        "'antisymmetric real input T=64 B=2 n=16 m=1 float64'"
    )
    assert summary(out) == (
        "verify --quick: 0 of 3 claims, 4 certifications on digits (T = 64, n = 16, B = 2): 2 failed, 2 passed; "
        "backends: wrong_backend FAILED, numpy ok"
    )


@pytest.mark.usefixtures("ledger")
def test_an_exception_in_a_certification_exits_1_and_the_run_goes_on(run, certifying):
    def broken(_, case):
        if case.cell == "antisymmetric":
            raise MemoryError
        return Result("accuracy", case.name, "passed")

    certifying(broken)
    code, out, _ = run("verify")
    assert code == 1
    assert "BROKE OFF numpy: accuracy on antisymmetric" in out
    assert "MemoryError" in out
    assert "1 failed, 1 passed; backends: numpy FAILED" in summary(out)


@pytest.mark.usefixtures("ledger", "certifying")
def test_only_selects_by_name_and_by_source(run):
    assert "verify: 1 of 3 claims (1 known refutation; all" in run("verify", "--only", "SECOND")[1]
    _, out, _ = run("verify", "--only", "equation (11)")
    assert summary(out).endswith("1 of 3 claims (1 known refutation; all as the ledger expects), 0 of 2 certifications")
    assert "0 of 3 claims, 1 of 2 certifications" in run("verify", "--only", "gated")[1]


@pytest.mark.usefixtures("ledger", "certifying")
def test_accuracies_alone_are_something_and_a_source_selects_certifications(run, tmp_path):
    code, out, _ = run("verify", "--quick", "--only", "MNIST-antisymmetric", "--json", tmp_path / "report.json")
    assert code == 0
    assert summary(out).endswith("0 of 2 certifications; accuracies of the paper: 1 not run")
    document = strictly(tmp_path / "report.json")
    assert (document["quick"], document["only"]) == (True, "MNIST-antisymmetric")
    assert [entry["name"] for entry in document["accuracies"]] == ["mnist-antisymmetric"]
    assert "0 of 3 claims, 2 certifications passed on digits" in run("verify", "--only", "Digits")[1]


@pytest.mark.usefixtures("never")
def test_recorded_runs_that_cannot_be_read_exit_2(run, monkeypatch):
    def damaged():
        raise RunError("recorded/a: expected a finished run")

    monkeypatch.setattr(published, "decide", damaged)
    code, out, err = run("verify")
    assert (code, out) == (2, "")
    assert one_line(err) == "antisymrnn verify: recorded/a: expected a finished run"


@pytest.mark.usefixtures("never")
def test_a_page_that_cannot_be_written_exits_2_before_the_work(run, tmp_path):
    (tmp_path / "page" / "index.html").mkdir(parents=True)
    code, out, err = run("verify", "--report", tmp_path / "page")
    assert (code, out) == (2, "")
    assert "index.html: cannot be written: it is not a regular file" in one_line(err)


@pytest.mark.usefixtures("ledger", "certifying")
def test_nothing_selected_exits_3(run):
    code, out, err = run("verify", "--only", "no such claim")
    assert (code, out) == (3, "")
    expected = (
        "nothing ran: none of 3 claims, 10 accuracies and 2 certifications has 'no such claim' in its name or source"
    )
    assert one_line(err) == f"antisymrnn verify: {expected}"


@pytest.mark.usefixtures("ledger", "certifying")
def test_a_backend_asked_for_by_name_that_nothing_selected_judges_exits_3(run):
    code, out, err = run("verify", "--backend", "numpy", "--only", "second")
    assert (code, out) == (3, "")
    assert one_line(err) == (
        "antisymrnn verify: nothing ran: --only 'second' selects nothing that judges backend numpy: choose another "
        "text or drop --backend"
    )
    assert run("verify", "--backend", "numpy", "--only", "gated")[0] == 0


@pytest.mark.usefixtures("certifying")
def test_quick_reaches_the_claims(run, ledger):
    seen = []

    def check(quick):
        seen.append(quick)
        return Outcome(Verdict.HOLDS, "Evidence.", {})

    ledger(claim("a", check=check))
    run("verify")
    run("verify", "--quick")
    assert seen == [False, True]


@pytest.mark.usefixtures("ledger", "certifying")
def test_data_from_a_directory_or_the_environment(run, small_mnist, monkeypatch):
    assert "passed on MNIST (T = 784, n = 128, B = 1)" in run("verify", "--data", small_mnist)[1]
    monkeypatch.setenv("ANTISYMRNN_DATA", str(small_mnist.parent))
    assert "passed on MNIST (T = 784, n = 32, B = 1)" in run("verify", "--quick")[1]
    monkeypatch.setenv("ANTISYMRNN_DATA", "")
    assert "passed on digits" in run("verify")[1]


@pytest.fixture
def small_mnist(tmp_path):
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    header = b"\0\0\x08\x03" + b"".join(size.to_bytes(4, "big") for size in (3, 28, 28))
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pixels.tobytes()))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x03\x07\x02\x01"))
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not MNIST, reason="ANTISYMRNN_DATA is not set: no real MNIST files")
@pytest.mark.usefixtures("ledger")
def test_verify_certifies_the_specification_on_mnist(run, tmp_path):
    code, out, _ = run("verify", "--data", MNIST, "--quick", "--only", "accuracy", "--json", tmp_path / "report.json")
    assert code == 0
    assert "2 certifications passed on MNIST (T = 784, n = 32, B = 1)" in summary(out)
    for entry in strictly(tmp_path / "report.json")["certifications"]:
        for error in entry["errors"].values():
            assert error["error"] < 1e-13
            assert error["tolerance"] < 1e-11  # a tolerance that is not small certifies nothing


# usage


@pytest.fixture
def never(ledger):
    """A ledger that must not be reached."""

    def check(_):
        raise AssertionError("the work began")

    ledger(claim("never", check=check))


@pytest.mark.usefixtures("never")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["verify", "--backend", "nunpy"], "backend: expected one of numpy, absent or a module path, got 'nunpy'"),
        (["verify", "--backend", "absent"], "backend 'absent': importing a_package_that_is_not_there failed"),
        (["verify", "--backend", "json"], "backend 'json': json is not a backend, it has no asarray"),
        (["verify", "--data", "nowhere"], "verify: nowhere: expected a directory with the MNIST files, got nothing"),
        (["conform", "nunpy"], "backend: expected one of numpy, absent or a module path, got 'nunpy'"),
        (["conform", "absent"], "backend 'absent': importing a_package_that_is_not_there failed"),
        (["compare", "nunpy"], "backend: expected one of numpy, absent or a module path, got 'nunpy'"),
        (["compare", "numpy", "absent"], "backend 'absent': importing a_package_that_is_not_there failed"),
        (
            ["compare", "--shape", "1,2"],
            "--shape: expected four whole numbers T,B,m,n such as 784,128,1,128, got '1,2'",
        ),
        (["compare", "--shape", "1,2,3,x"], "--shape: expected four whole numbers"),
        (["compare", "--shape", "1,2,3,-4"], "--shape: expected four whole numbers"),
        (["compare", "--shape", "1.5,2,3,4"], "--shape: expected four whole numbers"),
        (["compare", "--shape", ""], "--shape: expected four whole numbers"),
        (["compare", "--shape", "0,2,3,4"], "--shape: expected T, B, m and n of at least 1 and at most"),
        (["compare", "--shape", "9" * 5000 + ",2,3,4"], "--shape: expected T, B, m and n of at least 1 and at most"),
        (["compare", "--shape", "100000000,100,1,100"], "--shape: 100000000,100,1,100 needs 3.21e+04 GB of memory"),
        (["compare", "--peers", "tensorflow"], "--peers: expected torch or jax, got 'tensorflow'"),
        (["compare", "--peers", "torch,"], "--peers: expected torch or jax, got ''"),
        (["compare", "--dtype", "float16"], "--dtype: expected float32 or float64, got 'float16'"),
        (["compare", "--cell", "lstm"], "--cell: expected antisymmetric or gated, got 'lstm'"),
        (["compare", "--samples", "0"], "--samples: expected at least 1, got 0"),
    ],
)
def test_usage_exits_2_with_one_line(run, arguments, words):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert one_line(err).startswith("antisymrnn")
    assert words in err


@pytest.mark.usefixtures("never")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing command"),
        (["verfy"], "No such command 'verfy'"),
        (["--frobnicate"], "No such option"),
        (["verify", "--frobnicate"], "Try 'antisymrnn verify --help' for help."),
        (["verify", "--json"], "Option '--json' requires an argument"),
        (["verify", "extra"], "Got unexpected extra argument"),
        (["conform"], "Missing argument 'BACKEND'"),
    ],
)
def test_wrong_options_exit_2(run, arguments, words):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err


def test_a_module_in_the_current_directory_is_found(run, tmp_path, monkeypatch):
    (tmp_path / "here_backend.py").write_text("from antisymrnn_ref import antisymmetric, asarray, gated, to_numpy\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    code, out, _ = run("conform", "here_backend", "--quick", "--only", "signatures")
    assert (code, out.splitlines()[-2].endswith("4 passed, 0 failed, 0 not applicable")) == (0, True)


def test_a_backend_that_fails_while_it_is_imported(run, tmp_path, monkeypatch):
    (tmp_path / "broken_backend.py").write_text("raise RuntimeError('the device\\nis on fire')")
    monkeypatch.syspath_prepend(tmp_path)
    code, _, err = run("conform", "broken_backend")
    assert code == 2
    assert one_line(err) == "antisymrnn conform: RuntimeError: the device is on fire (broken_backend.py, line 1)"
    known = {"numpy": "antisymrnn_ref", "broken": "broken_backend"}
    monkeypatch.setattr(environment, "backend_modules", lambda: known)
    monkeypatch.setattr("antisymrnn_ref.backend.backend_modules", lambda: known)
    code, out, _ = run("info")
    assert code == 0
    assert re.search(r"^backends +broken +RuntimeError: the device is on fire$", out, re.MULTILINE)


@pytest.mark.usefixtures("never")
def test_corrupt_data_exits_2(run, small_mnist):
    path = small_mnist / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:100])
    code, out, err = run("verify", "--data", small_mnist)
    assert (code, out) == (2, "")
    assert one_line(err) == (
        f"antisymrnn verify: {path}: expected a whole gzip file, got one that is cut off; download it again"
    )


@pytest.mark.usefixtures("never")
@pytest.mark.parametrize("command", [["verify"], ["conform", "numpy"], ["compare", "numpy"], ["info"]])
def test_an_unwritable_report_exits_2_before_the_work(run, command, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "iter_checks", lambda *_, **__: pytest.fail("the work began"))
    (tmp_path / "file").write_text("kept")
    for path in ("missing/report.json", "file/report.json", ".", "", os.devnull):
        code, out, err = run(*command, "--json", tmp_path / path if path else path)
        assert (code, out) == (2, "")
        assert "cannot be written: " in one_line(err)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_missing_package_exits_2(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "antisymrnn_validation.conformance.check", None)
    monkeypatch.delattr("antisymrnn_validation.conformance.check")

    def absent(*_):
        raise ModuleNotFoundError("No module named 'flint'", name="flint")

    monkeypatch.setattr(conform, "load_backend_named", absent)
    code, _, err = run("conform", "numpy")
    assert code == 2
    expected = f"antisymrnn conform: the package flint is missing: {install_command('validation')}"
    assert one_line(err) == expected


def test_help_is_plain_and_names_the_commands(run):
    code, out, _ = run("--help")
    assert code == 0
    for word in ("verify", "conform", "compare", "info", "Exit codes"):
        assert word in out
    assert "--data" in run("verify", "--help")[1]


# conform


def results(monkeypatch, *triples):
    """Put checks with these results (name, status or exception, detail) in the place of the real ones."""

    def check(name, status, detail, k):
        def run(_):
            if isinstance(status, Exception):
                raise status
            return Result(name, f"case {k}", status, detail)

        return Check(name, f"case {k}", run)

    made = [check(*triple, k) for k, triple in enumerate(triples)]
    monkeypatch.setattr(plan, "iter_checks", lambda *_, **__: made)


def test_conform_on_the_specification(run, tmp_path):
    """The real checks on the specification."""
    code, out, err = run("conform", "numpy", "--quick", "--json", tmp_path / "report.json")
    assert (code, err) == (0, "")
    document = strictly(tmp_path / "report.json")
    statuses = [entry["status"] for entry in document["checks"]]
    counts = {status: statuses.count(status) for status in ("passed", "failed", "not applicable")}
    assert counts["failed"] == 0
    assert counts["passed"] > 100
    tally, line = out.splitlines()[-2:]
    assert tally == (
        f"{len(statuses)} checks: {counts['passed']} passed, 0 failed, {counts['not applicable']} not applicable"
    )
    assert re.fullmatch(
        r"conform numpy --quick: computes equations \(12\) and \(13\), the ablation too; every gradient right in "
        r"float32 and float64; \d+ other promises kept; not judged: the longest cases, initialization",
        line,
    )
    assert document["summary"]["line"] == line
    assert document["counts"] == {status: count for status, count in counts.items() if count}
    assert document["not_run"] == 0


def test_conform_without_a_cache_leaves_no_truth_on_the_disk(run, tmp_path, monkeypatch):
    monkeypatch.setenv("ANTISYMRNN_CACHE", str(tmp_path))
    truth_and_errors.cache_clear()
    chosen = ("conform", "numpy", "--only", "accuracy: antisymmetric T = 1")
    assert run(*chosen, "--no-cache")[0] == 0
    assert list(tmp_path.iterdir()) == []
    truth_and_errors.cache_clear()
    assert run(*chosen)[0] == 0
    assert len(list(tmp_path.glob("truths/*.truth"))) == 2


def test_conform_on_a_wrong_backend(run, tmp_path, monkeypatch):
    (tmp_path / "wrong_backend.py").write_text(WRONG_BACKEND)
    monkeypatch.syspath_prepend(tmp_path)
    code, out, _ = run("conform", "wrong_backend", "--quick", "--only", "generic")
    assert code == 1
    assert "FAILED wrong_backend: accuracy on antisymmetric generic" in out
    assert re.search(r"^  h0: relative error 1\.0\d*e-09, tolerance ", out, re.MULTILINE)


def test_conform_reports_every_failure_and_goes_on(run, monkeypatch):
    results(
        monkeypatch,
        ("bits", "failed", "h: expected the same bits"),
        ("bits", "passed", ""),
        ("threads", "not applicable", "one thread only"),
        ("errors", ValueError("no\nsuch thing"), ""),
        ("last", "passed", ""),
    )
    code, out, _ = run("conform", "numpy")
    assert code == 1
    assert "FAILED numpy: bits on case 0\n  h: expected the same bits\n" in out
    assert re.search(
        r"BROKE OFF numpy: errors on case 3\n  ValueError: no such thing \(test_commands.py, line \d+\)\n", out
    )
    assert re.search(r"^bits +1 +1 +0$", out, re.MULTILINE)
    assert re.search(r"^threads +0 +0 +1 +one thread only$", out, re.MULTILINE)
    assert re.search(r"^errors +0 +1 +0$", out, re.MULTILINE)
    assert out.splitlines()[-1] == "conform numpy: 5 checks: 2 passed, 2 failed, 1 not applicable"


def test_maxfail_stops_and_says_what_was_not_run(run, monkeypatch, tmp_path):
    statuses = ["passed", "failed", "expected", "failed", "passed", "failed"]
    results(
        monkeypatch, *((f"check {k}", status.replace("expected", "failed"), "") for k, status in enumerate(statuses))
    )
    (tmp_path / "expect.json").write_text(json.dumps({"check 2": "known"}))
    options = ("--expect", tmp_path / "expect.json", "--json", tmp_path / "report.json", "--junit", tmp_path / "j.xml")
    for most, ran, failed in ((1, 2, 1), (2, 4, 2), (3, 6, 3), (9, 6, 3)):
        code, out, _ = run("conform", "numpy", "--maxfail", most, *options)
        document = strictly(tmp_path / "report.json")
        assert (code, len(document["checks"]), document["not_run"]) == (1, ran, 6 - ran)
        told = f"; {6 - ran} not run after {failed} failed (--maxfail)" if ran < 6 else ""
        expected = ", 1 failed as expected" if ran > 2 else ""
        of = f"{ran} of 6" if ran < 6 else "6"
        line = out.splitlines()[-1]
        assert line.startswith(f"conform numpy: {of} checks: ")
        assert line.endswith(f"{failed} failed, 0 not applicable{expected}{told}")
        assert document["summary"]["line"] == line
        assert ElementTree.parse(tmp_path / "j.xml").getroot().get("tests") == str(ran)
    assert run("conform", "numpy", "--maxfail", "0")[0] == 2


def fuzzing(monkeypatch, failure=None, calls=7):
    """A fuzzer that ends at once with this failure; the calls that it got."""
    asked = []

    def fuzz_apart(source, **options):
        options.pop("progress")(Tally(calls, 100, (1, 2, 3, 4)), ["session.forward(0)"])
        asked.append((source, options))
        return Report(options["seed"], 3, Tally(calls, 100, (1, 2, 3, 4)), failure)

    monkeypatch.setattr(apart, "fuzz_apart", fuzz_apart)
    return asked


@pytest.mark.parametrize(
    ("failure", "calls", "code", "verdict"),
    [
        (None, 7, 0, "no failure"),
        (Failure("h: wrong", ("session.forward(0)",)), 7, 1, "failed"),
        (None, 0, 3, "no failure"),
    ],
)
def test_fuzz_is_one_check_with_its_script(run, monkeypatch, tmp_path, failure, calls, code, verdict):
    asked = fuzzing(monkeypatch, failure, calls)
    report = ("--json", tmp_path / "report.json", "--junit", tmp_path / "j.xml")
    got, out, _ = run("conform", "numpy", "--fuzz", "0.5", "--seed", "4", "--dtype", "float32", *report)
    source = "antisymrnn_ref.load_backend('numpy')"
    assert asked == [(source, {"minutes": 0.5, "seed": 4, "dtypes": ["float32"]})]
    line = (
        f"conform numpy --fuzz 0.5 --seed 4: {verdict}, {calls} calls, 100 cells, the largest problem T=1 B=2 n=3 m=4"
    )
    assert (got, out.splitlines()[-1]) == (code, line)
    assert (failure is not None) == (f"session = Session({source})\nsession.forward(0)\n" in out)
    document = strictly(tmp_path / "report.json")
    (check,) = document["checks"]
    assert (check["check"], check["case"], check["status"]) == ("fuzz", "seed 4", "failed" if failure else "passed")
    assert check["detail"] == ("h: wrong" if failure else "")
    expected = {"minutes": 0.5, "seed": 4, "rounds": 3, "calls": calls, "cells": 100, "largest": [1, 2, 3, 4]}
    assert document["fuzz"] == expected
    assert ElementTree.parse(tmp_path / "j.xml").getroot().get("failures") == str(int(failure is not None))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fuzz", "0"], "--fuzz: expected minutes above 0 and up to 10080, got 0"),
        (["--fuzz", "nan"], "--fuzz: expected minutes above 0 and up to 10080, got nan"),
        (["--fuzz", "1", "--quick"], "--fuzz: expected without --level, --only, --quick, --drawn"),
        (["--fuzz", "1", "--drawn", "5"], "--fuzz: expected without --level, --only, --quick, --drawn"),
        (["--fuzz", "1", "--maxfail", "5"], "--fuzz: expected without --level, --only, --quick, --drawn"),
        (["--seed", "1"], "--seed: expected with --fuzz alone"),
    ],
)
def test_what_does_not_go_with_fuzz_is_refused(run, monkeypatch, options, message):
    asked = fuzzing(monkeypatch)
    code, _, err = run("conform", "numpy", *options)
    assert (code, asked) == (2, [])
    assert message in err


def test_a_check_that_breaks_off_alone_exits_1(run, monkeypatch):
    results(monkeypatch, ("bits", "passed", ""), ("errors", ValueError("no"), ""))
    code, out, _ = run("conform", "numpy")
    assert (code, out.splitlines()[-1]) == (1, "conform numpy: 2 checks: 1 passed, 1 failed, 0 not applicable")


@pytest.mark.parametrize(("status", "expected"), [("passed", 0), ("failed", 1), ("not applicable", 3)])
def test_the_exit_code_of_conform_stands_in_its_json(run, monkeypatch, tmp_path, status, expected):
    results(monkeypatch, ("bits", status, ""))
    code, out, _ = run("conform", "numpy", "--json", tmp_path / "report.json")
    summary = strictly(tmp_path / "report.json")["summary"]
    assert (code, summary["exit_code"], summary["line"]) == (expected, expected, out.splitlines()[-1])


def test_junit_has_a_failure_for_what_broke_off_and_skips_what_did_not_apply(run, monkeypatch, tmp_path):
    made = [("bits", "passed"), ("errors", ValueError("no")), ("threads", "not applicable"), ("h", "failed")]
    results(monkeypatch, *((*pair, "") for pair in made))
    assert run("conform", "numpy", "--junit", tmp_path / "j.xml")[0] == 1
    suite = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert [suite.get(key) for key in ("tests", "failures", "skipped")] == ["4", "2", "1"]
    told = {case.get("name"): [part.tag for part in case] for case in suite.iter("testcase")}
    assert told == {
        "bits: case 0": [], "errors: case 1": ["failure"], "threads: case 2": ["skipped"], "h: case 3": ["failure"],
    }  # fmt: skip


@pytest.mark.usefixtures("ledger", "certifying")
def test_verify_report_judges_each_backend_and_a_failure_exits_1(run, monkeypatch, tmp_path):
    monkeypatch.setattr(verify, "_figures", lambda _: {})
    checked = [("bits", "failed", "h: expected the same bits"), ("threads", "not applicable", "one thread only")]
    results(monkeypatch, *checked)
    options = ("--report", tmp_path / "page", "--json", tmp_path / "report.json")
    code, out, _ = run("verify", *options)
    assert code == 1
    assert "FAILED numpy: bits on case 0\n  h: expected the same bits\n" in out
    assert re.search(r"^0: the last state +0 +1 +1$", out, re.MULTILINE)
    assert summary(out).endswith(
        "absent not run; accuracies of the paper: 1 not run; quick conformance of numpy: FAILED, "
        "2 checks: 0 passed, 1 failed, 1 not applicable"
    )
    assert out.splitlines()[-2:] == [
        "Next: see FAILED numpy: bits on case 0 above. To run it again: antisymrnn conform numpy --quick --only "
        "'bits: case 0'",
        f"Page: {tmp_path / 'page' / 'index.html'}",
    ]
    (told,) = strictly(tmp_path / "report.json")["conformance"]
    assert (told["backend"], told["total"]) == ("numpy", 2)
    assert [entry["status"] for entry in told["checks"]] == ["failed", "not applicable"]
    assert "expected the same bits" in (tmp_path / "page" / "index.html").read_text(encoding="utf-8")

    code, out, _ = run("verify", *options, "--only", "threads")
    assert code == 3
    assert summary(out).endswith(
        "quick conformance of numpy: nothing ran, 1 of 2 checks: 0 passed, 0 failed, 1 not applicable"
    )
    assert "Next: no selected check applies. To run everything: antisymrnn verify --report DIR\n" in out
    code, _, err = run("verify", *options, "--only", "no such check")
    assert code == 3
    assert "none of 3 claims, 10 accuracies, 2 certifications and 2 checks of numpy has 'no such check'" in one_line(
        err
    )
    monkeypatch.setattr(plan, "iter_checks", lambda *_, **__: pytest.fail("a check was made"))
    assert run("verify", "--json", tmp_path / "report.json")[0] == 0
    assert strictly(tmp_path / "report.json")["conformance"] == []


@pytest.mark.usefixtures("ledger", "certifying")
def test_a_report_of_claims_alone_says_that_no_backend_was_judged(run, monkeypatch, tmp_path):
    monkeypatch.setattr(verify, "_figures", lambda _: {})
    results(monkeypatch, ("bits", "passed", ""), ("threads", "passed", ""))
    code, out, _ = run("verify", "--only", "second", "--report", tmp_path)
    left_out = "2 of 3 claims, all 10 accuracies, all 2 certifications, all 2 checks of numpy."
    assert code == 0
    assert summary(out).endswith("0 of 2 certifications; quick conformance of numpy: not selected")
    assert f"\nNot selected by --only 'second': {left_out}\n" in out
    assert "Quick conformance of numpy" not in out
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert f"Not selected by --only &#x27;second&#x27;: {left_out}" in page
    assert "None of its 2 quick checks was selected: this page does not say whether it conforms." in page
    assert "checks of the contract passed" not in page
    code, out, _ = run("verify", "--only", "bits", "--report", tmp_path)
    assert (code, "quick conformance of numpy: selection ok, 1 of 2 checks: 1 passed" in summary(out)) == (0, True)


@pytest.mark.usefixtures("ledger", "wrong_backend")
@pytest.mark.parametrize("order", [("dummy_backend", "wrong_backend"), ("wrong_backend", "dummy_backend")])
def test_each_backend_of_a_report_is_judged_itself_and_any_failure_exits_1(run, monkeypatch, tmp_path, order):
    monkeypatch.setattr(verify, "_figures", lambda _: {})

    def judged(module):
        status = "failed" if module.__name__ == "wrong_backend" else "passed"
        return Result("planted bits", "a case", status)

    monkeypatch.setattr(plan, "iter_checks", lambda *_, **__: [Check("planted bits", "a case", judged)])
    asked = [word for name in order for word in ("--backend", name)]
    options = ("--only", "planted bits", "--report", tmp_path / "page", "--json", tmp_path / "report.json")
    code, out, _ = run("verify", "--quick", *asked, *options)
    document = strictly(tmp_path / "report.json")
    assert (code, document["summary"]["exit_code"]) == (1, 1)
    told = {entry["backend"]: [record["status"] for record in entry["checks"]] for entry in document["conformance"]}
    assert told == {"dummy_backend": ["passed"], "wrong_backend": ["failed"]}
    assert "quick conformance of dummy_backend: ok, 1 checks: 1 passed" in out
    assert "quick conformance of wrong_backend: FAILED, 1 checks: 0 passed, 1 failed" in out


def test_conform_exits_3_if_nothing_ran(run, monkeypatch):
    results(monkeypatch, ("threads", "not applicable", "one thread only"), ("bits", "passed", ""))
    code, _, err = run("conform", "numpy", "--only", "no such check")
    assert code == 3
    assert "nothing ran: none of 2 checks has 'no such check'" in one_line(err)
    code, out, _ = run("conform", "numpy", "--only", "threads")
    assert code == 3
    assert out.splitlines()[-1] == "conform numpy: 1 of 2 checks: 0 passed, 0 failed, 1 not applicable"


# compare

TINY = ("--shape", "5,3,2,4", "--samples", "1")


@pytest.fixture
def comparing(monkeypatch):
    """A machine at its peak, two checks for each backend, and no other processes; the rest is real."""

    @contextlib.contextmanager
    def measured_peak(_):
        yield peak.Peak(lambda: 100.0, lambda: 100.0, lambda: 100.0, 50.0, 2, peak.Registers(256, 12))

    monkeypatch.setattr(peak, "measured_peak", measured_peak)
    monkeypatch.setattr(cli_compare, "import_package", lambda *_: None)
    chosen = [case for case in cases.generic_cases(quick=True) if " generic " in case.name and case.dtype == np.float64]
    monkeypatch.setattr(plan, "iter_checks", lambda name, **_: [certify(name, case) for case in chosen])
    monkeypatch.setattr(processes, "peak_memory", lambda *_: {"bytes": 2e6, "imported": 3e7})
    monkeypatch.setattr(
        processes, "first_calls", lambda *_: {"cold": dict.fromkeys(("import", "forward", "backward"), 2)}
    )


@pytest.fixture
def wrong_backend(tmp_path, monkeypatch):
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "wrong_backend.py").write_text(WRONG_BACKEND)
    (folder / "dummy_backend.py").write_text("from antisymrnn_ref import antisymmetric, asarray, gated, to_numpy\n")
    monkeypatch.syspath_prepend(folder)


@pytest.mark.usefixtures("comparing")
def test_compare_the_specification(run, tmp_path):
    code, out, err = run("compare", *TINY, "--json", tmp_path / "report.json")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[-1] == "compare: contests: 2; contenders: 4 timed"
    assert any(re.match(r"backend absent not run: .*a_package_that_is_not_there", line) for line in lines)
    assert "numpy: 2 checks: 2 passed, 0 failed, 0 not applicable" in lines
    assert "FMA peak, float32: 100.0 GFLOP/s with 2 threads, one alone 50.0" in lines
    for cell in cases.CELLS:
        assert f"{cell}, T = 5, B = 3, m = 2, n = 4, float32; times in ms" in lines
    assert len(re.findall(r"^numpy hoisted +\d.* 1/1 +0/0$", out, re.MULTILINE)) == 2
    assert len(re.findall(r"^numpy, everything +\d.* 1 +0 +h0, g on every state, dx: 0\.0 MB more", out, re.M)) == 2
    assert "Speeds to reach" not in out  # speed is no goal of the specification's
    document = strictly(tmp_path / "report.json")
    assert (document["command"], document["accuracy"], document["summary"]["exit_code"]) == ("compare", False, 0)
    assert document["peak"]["float32"]["gflops"] == 100
    assert document["device"] is False
    assert document["conformance"]["numpy"] == {
        "line": "2 checks: 2 passed, 0 failed, 0 not applicable", "total": 2,
        "passed": 2, "failed": 0, "not applicable": 0, "failures": [],
    }  # fmt: skip
    assert list(document["not_run"]) == ["absent"]
    for record in document["contests"]:
        assert record["shape"] == {"T": 5, "B": 3, "m": 2, "n": 4}
        for entry in record["contenders"]:
            assert entry["status"] == "timed"
            assert all(times["median"] > 0 and times["samples"] == 1 for times in entry["times"].values())
    assert [entry["name"] for entry in document["memory"]] == ["numpy", "numpy hoisted"] * 2


@pytest.mark.usefixtures("comparing", "wrong_backend")
def test_compare_a_backend_has_ratios_and_targets(run, tmp_path):
    code, out, _ = run("compare", "dummy_backend", *TINY, "--cell", "gated", "--json", tmp_path / "report.json")
    assert code == 0
    assert "f + b / dummy_backend" in out
    assert re.search(r"^dummy_backend .* 1\.00 +1\.00 +1/1 +0/0$", out, re.MULTILINE)
    assert "Speeds to reach: dummy_backend, 0 of 12 measured" in out
    assert "784,128,1,128" not in out  # nobody asked for it
    assert re.search(r"^dummy_backend +gated +float32 +cold +2\.000 +2\.000 +2\.000$", out, re.MULTILINE)
    document = strictly(tmp_path / "report.json")
    assert {entry["verdict"] for entry in document["targets"]["dummy_backend"]} == {"not measured"}
    assert [entry["name"] for entry in document["contests"][0]["contenders"]] == [
        "dummy_backend", "numpy", "numpy hoisted",
    ]  # fmt: skip


@pytest.mark.usefixtures("comparing", "wrong_backend")
def test_compare_does_not_time_a_backend_that_is_red(run, tmp_path):
    code, out, _ = run("compare", "wrong_backend", "dummy_backend", *TINY, "--json", tmp_path / "report.json")
    assert code == 1
    assert "FAILED wrong_backend: accuracy on antisymmetric generic" in out
    assert "wrong_backend: 2 checks: 0 passed, 2 failed, 0 not applicable; NOT CONFORMANT, not timed" in out
    assert out.splitlines()[-1] == "compare: contests: 2; contenders: 6 timed; NOT CONFORMANT: wrong_backend"
    document = strictly(tmp_path / "report.json")
    assert len(document["conformance"]["wrong_backend"]["failures"]) == 2
    named = {entry["name"] for record in document["contests"] for entry in record["contenders"]}
    assert named == {"dummy_backend", "numpy", "numpy hoisted"}


@pytest.mark.usefixtures("comparing", "wrong_backend")
def test_compare_nothing_but_a_red_backend(run, monkeypatch, tmp_path):
    monkeypatch.setattr(contest, "hold", lambda *_, **__: pytest.fail("it was timed"))
    code, out, _ = run("compare", "wrong_backend", *TINY, "--json", tmp_path / "report.json")
    assert code == 1
    assert out.splitlines()[-1] == "compare: nothing was timed; NOT CONFORMANT: wrong_backend"
    assert strictly(tmp_path / "report.json")["contests"] == []


@pytest.mark.usefixtures("comparing")
@pytest.mark.parametrize("status", ["not applicable", ValueError("no")])
def test_compare_times_no_backend_of_which_nothing_passed_or_a_check_broke_off(run, monkeypatch, tmp_path, status):
    results(monkeypatch, ("bits", status, ""), *([("more", "passed", "")] if status != "not applicable" else []))
    monkeypatch.setattr(contest, "hold", lambda *_, **__: pytest.fail("it was timed"))
    code, out, _ = run("compare", "numpy", *TINY, "--json", tmp_path / "report.json")
    assert (code, out.splitlines()[-1]) == (1, "compare: nothing was timed; NOT CONFORMANT: numpy")
    assert strictly(tmp_path / "report.json")["summary"]["exit_code"] == 1


@pytest.mark.usefixtures("comparing")
def test_compare_does_not_time_a_wrong_peer(run, monkeypatch):
    right = contenders.numpy_hoisted

    def wrong(case):
        prepared = right(case)
        return prepared._replace(results=lambda: {**(got := prepared.results()), "h": -got["h"]})

    monkeypatch.setattr(contenders, "numpy_hoisted", wrong)
    code, out, _ = run("compare", *TINY, "--cell", "gated")
    assert code == 1
    assert re.search(r"^numpy hoisted +wrong: outside tolerance: h 1\.7 > \S+ \(on the small case\)", out, re.MULTILINE)
    assert out.splitlines()[-1] == "compare: contests: 1; contenders: 1 timed, 1 wrong"


@pytest.mark.usefixtures("comparing")
def test_a_peer_that_breaks_off_is_shown_and_fails_nothing(run, monkeypatch, tmp_path):
    def broken(_):
        raise MemoryError("no more")

    monkeypatch.setattr(contenders, "numpy_hoisted", broken)
    code, out, _ = run("compare", *TINY, "--cell", "gated", "--json", tmp_path / "report.json")
    assert code == 0
    assert re.search(
        r"^numpy hoisted +broke off: MemoryError: no more \(.*\) \(on the small case\)$", out, re.MULTILINE
    )
    assert out.splitlines()[-1] == "compare: contests: 1; contenders: 1 timed, 1 broke off"
    document = strictly(tmp_path / "report.json")
    assert [entry["status"] for entry in document["contests"][0]["contenders"]] == ["timed", "broke off"]
    assert [entry["name"] for entry in document["memory"]] == ["numpy"]  # where nobody waits for it to break off again


@pytest.mark.usefixtures("comparing", "wrong_backend")
def test_a_backend_that_breaks_off_while_it_is_timed_is_a_failure(run, tmp_path):
    (tmp_path / "modules" / "weak_backend.py").write_text(
        "from types import SimpleNamespace\n"
        "from antisymrnn_ref import antisymmetric, asarray, gated as right, to_numpy\n"
        "def forward(parameters, x, h0, **options):\n"
        "    if x.shape == (5, 3, 2):\n"
        "        raise MemoryError('too large')\n"
        "    return right.forward(parameters, x, h0, **options)\n"
        "gated = SimpleNamespace(forward=forward, backward=right.backward)\n"
    )
    code, out, _ = run("compare", "weak_backend", *TINY, "--cell", "gated")
    assert code == 1
    assert "weak_backend: 2 checks: 2 passed, 0 failed, 0 not applicable" in out
    assert re.search(r"^weak_backend +broke off: MemoryError: too large \(weak_backend.py, line 5\)", out, re.MULTILINE)
    assert out.splitlines()[-1] == "compare: contests: 1; contenders: 2 timed, 1 broke off"


@pytest.mark.usefixtures("comparing")
@pytest.mark.parametrize(("slow", "code"), [(("forward",), 1), (("forward", "both", "everything"), 3)])
def test_compare_without_a_sample(run, monkeypatch, slow, code):
    """Some of it never timed is not as expected; nothing timed at all is nothing run."""
    hold = contest.hold

    def disturbed(*arguments, **options):
        entries, interrupted = hold(*arguments, **options)
        kept = entries if code == 3 else entries[:1]
        bad = [timing.Sample(1.0, 10.0)]
        changed = [
            e._replace(samples={what: bad if what in slow else s for what, s in e.samples.items()}) for e in kept
        ]
        return contest.Held(changed + entries[len(kept) :], interrupted)

    monkeypatch.setattr(contest, "hold", disturbed)
    got, out, _ = run("compare", *TINY, "--cell", "gated")
    assert got == code
    assert "not timed: the machine was never at its peak: forward in 1 attempts" in out
    assert "nan" not in out


@pytest.mark.usefixtures("comparing")
def test_compare_by_the_peak_of_the_whole_run(run, monkeypatch):
    """The peak rises after the first contest: its samples no longer count."""
    best = [100.0]

    @contextlib.contextmanager
    def measured_peak(_):
        yield peak.Peak(lambda: best[0], lambda: best[0], lambda: best[0], 50.0, 2, peak.Registers(256, 12))

    hold = contest.hold

    def rising(plan, *arguments, **options):
        if plan.cell == "gated":
            best[0] = 150.0
        return hold(plan, *arguments, **options)

    monkeypatch.setattr(peak, "measured_peak", measured_peak)
    monkeypatch.setattr(contest, "hold", rising)
    code, out, _ = run("compare", *TINY)
    assert code == 1
    assert "The machine was faster later than 100.0 GFLOP/s; what still counts:" in out
    assert out.splitlines()[-1] == "compare: contests: 2; contenders: 2 timed, 2 not timed"


@pytest.mark.usefixtures("comparing")
def test_every_dtype_is_held_against_its_own_peak(run, monkeypatch, tmp_path):
    @contextlib.contextmanager
    def measured_peak(dtype):
        size = {"float32": 200.0, "float64": 50.0}[dtype]
        yield peak.Peak(lambda: size, lambda: 2 * size, lambda: size, 7.0, 2, peak.Registers(256, 12))

    monkeypatch.setattr(peak, "measured_peak", measured_peak)
    options = ("--cell", "antisymmetric", "--dtype", "float32", "--dtype", "float64")
    code, out, _ = run("compare", "numpy", *TINY, *options, "--json", tmp_path / "report.json")
    assert code == 0
    document = strictly(tmp_path / "report.json")
    peaks = {record["dtype"]: (record["peak_gflops"], record["steady_gflops"]) for record in document["contests"]}
    assert peaks == {"float32": (400.0, 200.0), "float64": (100.0, 50.0)}
    assert {name: (p["gflops"], p["steady"]) for name, p in document["peak"].items()} == peaks
    assert "FMA peak, float64: 100.0 GFLOP/s with 2 threads, one alone 7.0" in out.splitlines()
    for record in document["contests"]:
        for entry in record["contenders"]:
            for times in entry["times"].values():
                assert times["fraction"] == pytest.approx(times["gflops"] / peaks[record["dtype"]][0])


@pytest.mark.usefixtures("comparing")
def test_compare_interrupted_keeps_what_was_printed(run, monkeypatch, tmp_path):
    hold = contest.hold

    def interrupted(plan, *arguments, **options):
        if plan.cell == "gated":
            raise KeyboardInterrupt
        return hold(plan, *arguments, **options)

    monkeypatch.setattr(contest, "hold", interrupted)
    code, out, err = run("compare", *TINY, "--json", tmp_path / "report.json")
    assert code == 130
    assert one_line(err) == "antisymrnn compare: interrupted"
    assert "antisymmetric, T = 5" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("comparing")
def test_a_process_that_breaks_off_is_reported_beside_the_times(run, monkeypatch):
    def broken(*_):
        raise processes.ProcessError("exit code 9, last line of stderr: nothing")

    monkeypatch.setattr(processes, "peak_memory", broken)
    code, out, _ = run("compare", *TINY, "--cell", "gated")
    assert code == 0
    assert re.search(r"^numpy +gated 5,3,2,4 float32 +exit code 9, last line of stderr: nothing$", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("missing", "arguments", "words"),
    [
        ("torch", ["--peers", "torch"], f"torch cannot be imported: {install_command('peers')}"),
        ("llvmlite.binding", [], f"llvmlite.binding cannot be imported: {install_command('numba')}"),
    ],
)
def test_compare_without_a_library(run, monkeypatch, missing, arguments, words):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr(plan, "iter_checks", lambda *_, **__: pytest.fail("the work began"))
    code, out, err = run("compare", "numpy", *arguments)
    assert (code, out) == (2, "")
    assert words in one_line(err)


def test_compare_accuracy(run, tmp_path):
    code, out, err = run("compare", "--accuracy", "--quick", "--json", tmp_path / "report.json")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == ("compare --quick: accuracy of 2 contenders on 8 cases; all within their tolerances")
    for array, cells in {"step_size": 2, "V_z": 1}.items():  # of both dtypes, what backends compute and peers do not
        assert len(re.findall(rf"^numpy +\w+ +float\d\d +{array} ", out, re.MULTILINE)) == 2 * cells
    assert len(re.findall(r"^numpy hoisted +\w+ +float\d\d +W ", out, re.MULTILINE)) == 4
    document = strictly(tmp_path / "report.json")
    assert len(document["accuracies"]) == 16
    for record in document["accuracies"]:
        assert record["errors"]
        for entry in record["errors"].values():
            assert entry["error"] <= entry["tolerance"]
            assert entry["units"] == pytest.approx(entry["error"] / entry["specification"])


@pytest.mark.usefixtures("wrong_backend")
def test_compare_accuracy_of_a_wrong_backend(run):
    code, out, _ = run("compare", "wrong_backend", "--accuracy", "--quick", "--dtype", "float64", "--cell", "gated")
    assert code == 1
    assert "wrong_backend wrong on gated generic T=11 B=4 n=7 m=3 float64\n  outside tolerance: dh0 1e-9 > " in out
    assert re.search(r"^wrong_backend +gated +float64 +h0 +1\.00e-09 +\d{6,}\.\d\d ", out, re.MULTILINE)
    assert out.splitlines()[-1].endswith("2 cases; wrong: wrong_backend")


@pytest.mark.parametrize("kind", ["peer", "backend"])
def test_accuracy_of_a_contender_that_breaks_off(run, monkeypatch, tmp_path, kind):
    def broken(*_, **__):
        raise RuntimeError("no compiler")

    if kind == "peer":
        monkeypatch.setattr(contenders, "numpy_hoisted", broken)
    backend = types.ModuleType("weak")
    backend.__dict__.update(antisymrnn_ref.__dict__, __name__="weak")
    backend.gated = types.SimpleNamespace(forward=broken if kind == "backend" else antisymrnn_ref.gated.forward)
    backend.gated.backward = antisymrnn_ref.gated.backward
    monkeypatch.setattr(cli_compare, "backends_by_name", lambda _: {"weak": backend})
    arguments = ("--accuracy", "--quick", "--dtype", "float64", "--cell", "gated", "--json", tmp_path / "report.json")
    code, out, _ = run("compare", *arguments)
    name = {"peer": "numpy hoisted", "backend": "weak"}[kind]
    assert code == (0 if kind == "peer" else 1)
    assert re.search(rf"^{name} +gated +float64 +none +gated \S.*: broke off: RuntimeError: no compiler \(", out, re.M)
    assert out.splitlines()[-1].endswith(f"accuracy of 3 contenders on 2 cases; broke off: {name}")
    records = strictly(tmp_path / "report.json")["accuracies"]
    statuses = {record["name"]: record["status"] for record in records}
    assert statuses == dict.fromkeys(("weak", "numpy", "numpy hoisted"), "right") | {name: "broke off"}


# info


def test_info(run, tmp_path):
    code, out, err = run("info", "--json", tmp_path / "info.json")
    assert (code, err) == (0, "")
    document = strictly(tmp_path / "info.json")
    assert document["versions"]["numpy"] == np.__version__
    assert document["backends"]["numpy"] == "ok"
    assert "a_package_that_is_not_there" in document["backends"]["absent"]
    assert document["blas"]["built with"]
    assert document["machine"]["usable processors"] >= 1
    assert document["devices"]
    for section in ("versions", "machine", "blas", "devices", "backends"):
        assert re.search(f"^{section} ", out, re.MULTILINE)


def test_the_tables_of_kernels_need_no_device(monkeypatch):
    known = {"numpy": "antisymrnn_ref", "cupy": "antisymrnn_cupy", "absent": "a_package_that_is_not_there"}
    monkeypatch.setattr(environment, "backend_modules", lambda: known)
    tables = environment.kernel_tables()
    assert list(tables) == ["cupy"]
    assert any("float32, n <= 128: one block of 128 threads" in line for line in tables["cupy"])


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (
            "echo 'NVIDIA X, 10 MiB, 1.2'; echo 'NVIDIA Y, 20 MiB, 1.2'",
            ["NVIDIA X, 10 MiB, 1.2", "NVIDIA Y, 20 MiB, 1.2"],
        ),
        ("echo 'no driver' >&2; exit 9", ["none: nvidia-smi said no driver"]),
        ("exit 0", ["none: nvidia-smi said nothing"]),
    ],
)
def test_devices(tmp_path, monkeypatch, script, expected):
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.devices() == expected
    (tmp_path / "nvidia-smi").unlink()
    assert environment.devices() == ["none: no nvidia-smi on the path"]


def test_thread_pools_stand_in_one_order(monkeypatch):
    pools = [{"internal_api": "openblas", "version": version, "num_threads": 2} for version in ("0.3.31", "0.3.30")]
    told = []
    for order in (pools, pools[::-1]):
        monkeypatch.setattr("threadpoolctl.threadpool_info", lambda order=order: order)
        told.append(environment.blas()["thread pools"])
    assert told[0] == told[1] == pools[::-1]


def test_memory_of_the_machine(monkeypatch):
    assert environment.memory_bytes() > 1e8

    def unknown(name):
        raise ValueError(f"unrecognized configuration name {name}")

    monkeypatch.setattr(os, "sysconf", unknown, raising=False)
    assert environment.memory_bytes() == float("inf")


# as a process of its own

STAND_IN = """
import signal, sys, time, types
import antisymrnn_validation.claims as house
from antisymrnn_validation.claims.evidence import Claim, Judgement, Outcome, Verdict

signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent that runs in the background ignores it

def slow(_):
    print("working", file=sys.stderr, flush=True)
    time.sleep({seconds})
    return Outcome(Verdict.HOLDS, "Evidence for γ ≥ 0 in [brackets].", {{}})

claims = types.ModuleType("antisymrnn_validation.claims.ledger")
claims.CLAIMS = (Claim("slow", "equation (1)", "Statement.", "", Verdict.HOLDS, slow, "1.1"),) * {copies}
claims.judge = lambda claim, quick=False: Judgement(claim, claim.check(quick))
sys.modules[claims.__name__] = house.ledger = claims
from antisymrnn_validation import cli
cli.main(sys.argv[1:])
"""


def start(*arguments, seconds=0, copies=1, **options):
    """Start the command in a process of its own with one slow claim."""
    paths = [path for path in sys.path if path]
    surroundings = {name: value for name, value in os.environ.items() if name not in ("ANTISYMRNN_DATA", "NO_COLOR")}
    return subprocess.Popen(
        [sys.executable, "-c", STAND_IN.format(seconds=seconds, copies=copies), *map(str, arguments)],
        env=surroundings | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUTF8": "1", **options.pop("env", {})},
        **options,
    )


def test_interrupt(tmp_path):
    (tmp_path / "report.json").write_text("old")
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with start("verify", "--json", tmp_path / "report.json", "--only", "slow", seconds=60, **options) as process:
        assert process.stderr.readline() == "working\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (out, err) == ("", "antisymrnn verify: interrupted\n")
    assert (tmp_path / "report.json").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_a_reader_that_goes_away():
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with start("verify", "--only", "slow", copies=2000, **options) as process:
        process.stdout.close()
        err = process.stderr.read()
        process.wait(timeout=60)
    assert process.returncode == 141
    assert set(err.splitlines()) == {"working"}


def test_a_pipe_without_the_letters_of_the_paper():
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    env = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    with start("verify", "-v", "--only", "slow", env=env, **options) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "working\n")
    assert "Evidence for \\u03b3 \\u2265 0" in out


def test_a_colour_setting_does_not_reach_a_pipe():
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with start("verify", "--only", "slow", env={"FORCE_COLOR": "1"}, **options) as process:
        out, err = process.communicate(timeout=60)
    assert ESCAPE not in out + err


@pytest.mark.parametrize(
    ("verbose", "shown"),
    [
        ([], ["─────", "holds    slow   Statement."]),
        (["-v"], ["slow, equation (1): holds", "  Evidence: Evidence for γ ≥ 0 in [brackets]."]),
    ],
)
def test_a_terminal_gets_a_table_or_paragraphs_and_a_progress_bar(verbose, shown):
    screen, terminal = os.openpty()
    env = {"TERM": "xterm", "COLUMNS": "80"}
    with start("verify", *verbose, "--only", "slow", stdout=terminal, stderr=terminal, env=env) as process:
        os.close(terminal)
        received = b""
        while chunk := _read(screen):
            received += chunk
        process.wait(timeout=60)
    os.close(screen)
    text = received.decode()
    assert process.returncode == 0
    assert ESCAPE in text
    assert "0/1" in text  # the bar
    for words in shown:
        assert words in re.sub(rf"{ESCAPE}\[[\d;]*m", "", text)
    assert text.count(f"{ESCAPE}[?25l") == text.count(f"{ESCAPE}[?25h") > 0  # the cursor is shown again


def _read(screen):
    try:
        return os.read(screen, 65536)
    except OSError:  # the last writer has closed the terminal
        return b""


def test_module_starts_fast():
    """Help needs none of the heavy libraries."""
    code = (
        "import sys; from antisymrnn_validation import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'numpy', 'scipy', 'sklearn', 'flint', 'rich', 'matplotlib', 'plotly', 'pooch', 'dask'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    paths = os.pathsep.join(path for path in sys.path if path)
    answer = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr


def test_module_runs_as_a_script():
    paths = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-m", "antisymrnn_validation.cli", "conform", "nunpy"]
    answer = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 2
    assert one_line(answer.stderr).endswith("did you mean 'numpy'?")
