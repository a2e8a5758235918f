"""Wrong initial weights are rejected by name, and the paper's own accepted, whatever the seed."""

# ruff: noqa: ARG001, ARG005 (an initialization is given what it may not need)

from __future__ import annotations

import json
import sys
from types import ModuleType

import numpy as np
import pytest

from antisymrnn_ref import initialization
from antisymrnn_validation import cli
from antisymrnn_validation.conformance.initialization import (
    FALSE_ALARM,
    KNOWN,
    KNOWN_SQUARE,
    Row,
    judge_initialization,
    of_class,
    of_function,
)


def init(n, m, seed, *, W=None, V=None, b=None, gated=False, sigma_w=2.0):
    """The paper's, but for what is given: functions of a generator and a shape."""
    generator = np.random.default_rng(seed)

    def drawn(how, shape, scale):
        return scale * generator.standard_normal(shape) if how is None else how(generator, n, m, shape)

    found = {"W": drawn(W, (n, n), sigma_w / np.sqrt(n)), "V": drawn(V, (n, m), 1 / np.sqrt(m))}
    found["b"] = np.zeros(n) if b is None else b(generator, n, m, (n,))
    if gated:
        found |= {"V_z": generator.standard_normal((n, m)) / np.sqrt(m), "b_z": np.zeros(n)}
    return found


def judged(sigma_w=None, seed=0, **options) -> list[Row]:
    return judge_initialization(lambda n, m, s: init(n, m, s, **options), sigma_w=sigma_w, seed=seed)


def differing(rows: list[Row]) -> set[tuple[str, str]]:
    return {(row.array, row.looks_like) for row in rows if row.verdict == "differs"}


def uniform(scale):
    return lambda generator, n, m, shape: generator.uniform(-1, 1, shape) * scale(n, m)


def normal(scale):
    return lambda generator, n, m, shape: generator.standard_normal(shape) * scale(n, m)


def orthogonal(generator, n, m, shape):
    return np.linalg.qr(generator.standard_normal(shape))[0]


WRONG = {
    "W: 1/n for 1/√n": ({"W": normal(lambda n, m: 2 / n)}, None, ("W", "1/n for 1/√n")),
    "W: 1/n for 1/√n, declared": ({"W": normal(lambda n, m: 2 / n)}, 2.0, ("W", "1/n for 1/√n")),
    "W: no factor": ({"W": normal(lambda n, m: 0.1)}, None, ("W", "no factor 1/√n")),
    "W: another σ_w": ({}, 1.0, ("W", "")),
    "W: PyTorch": ({"W": uniform(lambda n, m: n**-0.5)}, 1.0, ("W", "PyTorch's default, uniform(−1/√n, 1/√n)")),
    "W: Xavier": ({"W": normal(lambda n, m: n**-0.5)}, 2.0, ("W", "Xavier, normal")),
    "W: Kaiming": ({"W": uniform(lambda n, m: (6 / n) ** 0.5)}, 1.0, ("W", "Kaiming, uniform")),
    "W: orthogonal": ({"W": orthogonal}, 1.0, ("W", "orthogonal")),
    "W: antisymmetric": (
        {"W": lambda g, n, m, shape: (A := g.standard_normal(shape) / n**0.5) - A.T}, None,
        ("W", "antisymmetric: 2W acts"),
    ),
    "V: 1/m for 1/√m": ({"V": normal(lambda n, m: 1 / m)}, None, ("V", "1/m for 1/√m")),
    "V: 1/√n for 1/√m": ({"V": normal(lambda n, m: n**-0.5)}, None, ("V", "1/√n for 1/√m")),
    "V: PyTorch": ({"V": uniform(lambda n, m: n**-0.5)}, None, ("V", "PyTorch's default, uniform(−1/√n, 1/√n)")),
    "V: nn.Linear": ({"V": uniform(lambda n, m: m**-0.5)}, None, ("V", "PyTorch's nn.Linear, uniform(−1/√m, 1/√m)")),
    "V: Xavier": ({"V": uniform(lambda n, m: (6 / (n + m)) ** 0.5)}, None, ("V", "Xavier, uniform")),
    "V: Kaiming": ({"V": normal(lambda n, m: (2 / m) ** 0.5)}, None, ("V", "Kaiming, normal")),
    "V: orthogonal": ({"V": orthogonal}, None, ("V", "orthogonal")),
    "V: standard normal": ({"V": normal(lambda n, m: 1)}, None, ("V", "standard normal")),
    "V: zero": ({"V": normal(lambda n, m: 0)}, None, ("V", "")),
    "V: a mean": ({"V": lambda g, n, m, s: (g.standard_normal(s) + 0.3) / (1.09 * m) ** 0.5}, None, ("V", "")),
    "b: PyTorch": ({"b": uniform(lambda n, m: n**-0.5)}, None, ("b", "PyTorch's default, uniform(−1/√n, 1/√n)")),
    "b: one": ({"b": lambda g, n, m, shape: np.ones(shape)}, None, ("b", "a constant")),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_initialization_is_rejected_by_name(name):
    options, sigma_w, expected = WRONG[name]
    assert differing(judged(sigma_w, **options)) == {expected}


def test_no_randomness_and_no_seed():
    assert differing(judge_initialization(lambda n, m, seed: init(n, m, 7), sigma_w=2.0)) >= {("seed", "no randomness")}
    fresh = iter(range(10**6))
    rows = judge_initialization(lambda n, m, seed: init(n, m, next(fresh)), sigma_w=2.0)
    assert rows[0] == Row("reported", "seed", "the same values for the same seed", "other values")
    assert not differing(rows)


def test_the_gate_has_weights_of_its_own():
    def shared(n, m, seed):
        found = init(n, m, seed, gated=True)
        return found | {"V_z": found["V"]}

    (row,) = [row for row in judge_initialization(shared) if row.verdict == "differs"]
    assert (row.array, row.measured) == ("V_z", "equal")

    def biased(n, m, seed):
        return init(n, m, seed, gated=True) | {"b_z": np.ones(n)}

    assert differing(judge_initialization(biased)) == {("b_z", "a constant")}


def test_a_uniform_distribution_of_the_same_variance_is_reported():
    rows = judged(2.0, V=uniform(lambda n, m: (3 / m) ** 0.5), W=uniform(lambda n, m: 2 * (3 / n) ** 0.5))
    assert not differing(rows)
    told = {row.array: row.looks_like for row in rows if row.verdict == "reported"}
    assert told == {"V": "uniform of the same variance", "W": "uniform"}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("triangular", [False, True])
@pytest.mark.parametrize("function", [initialization.parameters, initialization.gated_parameters])
def test_the_specification_is_accepted(function, triangular, dtype):
    def init(generator, n, m, *, sigma_w):
        return function(generator, n, m, sigma_w=sigma_w, triangular=triangular, dtype=dtype)

    for sigma_w in (None, 0.0, 4.0):
        rows = judge_initialization(of_function(init, sigma_w), sigma_w=sigma_w)
        assert {row.verdict for row in rows} == {"as the paper"}, rows
    rows = judge_initialization(of_function(init, None))
    assert next(row.measured for row in rows if row.array == "W") == (
        "strictly upper triangular" if triangular else "full"
    )
    assert any("σ_w = 1" in row.measured or "σ_w = 0.99" in row.measured for row in rows)


def test_the_papers_weights_are_not_called_different():
    for seed in range(0, 8000, 1000):
        assert not differing(judged(2.0, seed, gated=True)), seed
        assert not differing(judged(None, seed)), seed
    assert FALSE_ALARM == 1e-6


def test_known_variances_are_apart():
    for table in (KNOWN, KNOWN_SQUARE):
        assert len(set(table.values())) == len(table)


class Tensor:
    def __init__(self, array):
        self.array = array

    def detach(self):
        return self

    cpu = detach

    def numpy(self):
        return self.array


def module_class(**options):
    """A class as PyTorch's are, seeded by a function of its own."""
    state = {}

    class Module:
        contract_names = {"W": "weight_hh", "V": "weight_ih"}  # noqa: RUF012

        def __init__(self, m, n):
            self.found = init(n, m, state["seed"], **options)

        def named_parameters(self):
            names = {"W": "weight_hh", "V": "weight_ih"}
            return [(names.get(name, name), Tensor(array)) for name, array in self.found.items()]

    return of_class(Module, lambda seed: state.update(seed=seed))


def test_a_class_of_modules():
    assert not differing(judge_initialization(module_class(), sigma_w=2.0))
    rows = judge_initialization(module_class(V=uniform(lambda n, m: n**-0.5)), sigma_w=2.0)
    assert differing(rows) == {("V", "PyTorch's default, uniform(−1/√n, 1/√n)")}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: {"W": p["W"]}, "expected W, V and b, got no V, b"),
        (lambda p: p | {"V": p["V"].T}, r"V: expected shape \(3, 2\) for n = 3, m = 2, got \(2, 3\)"),
        (lambda p: p | {"W": p["W"] * np.nan}, "W: expected finite numbers"),
    ],
)
def test_parameters_of_another_form_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        judge_initialization(lambda n, m, seed: change(init(n, m, seed)))


# the command


@pytest.fixture
def run(capsys, monkeypatch):
    module = ModuleType("own_init")
    module.honest = init
    module.wrong = lambda n, m, seed: init(n, m, seed, W=normal(lambda n, m: 2 / n))
    module.raises = lambda n, m, seed: 1 / 0
    monkeypatch.setitem(sys.modules, "own_init", module)

    def command(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main(["conform", *map(str, arguments)])
        return ended.value.code, *capsys.readouterr()

    return command


def test_conform_initialization(run, tmp_path):
    code, out, _ = run("--callable", "own_init:honest", "--initialization", "--sigma-w", 2, "--json", tmp_path / "j")
    assert code == 0
    assert out.splitlines()[-1] == (
        "conform --callable own_init:honest --initialization: W, V and b are the paper's, σ_w = 2; "
        "a false alarm has probability 1e-06 at most"
    )
    document = json.loads((tmp_path / "j").read_text())
    assert {row["verdict"] for row in document["initialization"]} == {"as the paper"}
    assert document["summary"]["exit_code"] == 0
    code, out, _ = run("--callable", "own_init:wrong", "--initialization", "--json", tmp_path / "j")
    assert code == 1
    assert out.splitlines()[-1] == (
        "conform --callable own_init:wrong --initialization: W (1/n for 1/√n) differs from the paper's"
    )
    assert json.loads((tmp_path / "j").read_text())["summary"]["exit_code"] == 1


@pytest.mark.parametrize(
    ("arguments", "expected", "words"),
    [
        (["numba", "--initialization"], 3, "numba takes its parameters from the caller: it has no initialization"),
        (["--cmd", "program", "--initialization"], 3, "takes its parameters from the caller"),
        (["--callable", "own_init:absent", "--initialization"], 2, "own_init has no absent"),
        (["--callable", "own_init:raises", "--initialization"], 2, "ZeroDivisionError"),
        (["--callable", "own_init:honest", "--sigma-w", "1"], 2, "--sigma-w: expected with --initialization"),
        (["--callable", "own_init:honest", "--initialization", "--quick"], 2, "--quick: not with --initialization"),
        (["--initialization"], 2, "Missing argument"),
    ],
)
def test_what_cannot_be_judged(run, arguments, expected, words):
    code, _, err = run(*arguments)
    assert code == expected
    assert words in err
