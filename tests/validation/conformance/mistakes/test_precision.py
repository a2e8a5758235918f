"""Roundings of an intermediate are named by the errors that they make; other errors of their size are not."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import antisymrnn_ref
from antisymrnn_validation.conformance.judge import check_backend, judged
from antisymrnn_validation.conformance.mistakes import diagnosis
from antisymrnn_validation.conformance.mistakes.catalogue import CATALOGUE, by_name, planted
from antisymrnn_validation.conformance.mistakes.diagnosis import Diagnosis, Explanations, diagnose
from antisymrnn_validation.conformance.mistakes.precision import BANDS, BITS, ROUNDINGS, finding, to_bits
from antisymrnn_validation.conformance.mistakes.source import Edit, edited_specification
from antisymrnn_validation.conformance.plan import certify
from antisymrnn_validation.truth.calls import ArrayError, BrokenPromise, run
from antisymrnn_validation.truth.cases import CELLS, Case, random_case
from antisymrnn_validation.truth.tolerance import measure

FORMATS = {"float32": 24, "half": 11, "bfloat16": 8}
NAMES = {name: {BITS[bits].name} for name, bits in FORMATS.items()}
BOTH = ROUNDINGS[-1].name  # what the errors cannot tell apart has a name of both
NAMES["half"].add(BOTH)
NAMES["bfloat16"].add(BOTH)


def rounding(cell: str, *texts: str) -> list[Edit]:
    """Edits that round each text, which occurs once in a cell's source."""
    return [Edit(cell, text, text.replace(value, f"rounded({value})")) for text, value in map(_split, texts)]


def _split(text: str) -> tuple[str, str]:
    before, _, after = text.partition("«")
    return before + after.replace("»", ""), after.partition("»")[0]


_GATED_SUMS = (
    "G = «G + (delta + delta_z).T @ h»  #",
    "dV, dV_z = «dV + delta.T @ x[t]»,",
    "db, db_z = «db + delta.sum(axis=0)»,",
)
INTERMEDIATES = {
    "s": {cell: [(cell, ["s = «np.tanh(a)»"])] for cell in CELLS},
    "M": {cell: [(CELLS[0], ["return «(W if unconstrained else W - W.T) - diffusion * identity»"])] for cell in CELLS},
    "sums over the steps": {
        CELLS[0]: [
            (CELLS[0], ["G = «G + delta.T @ h»", "dV = «dV + delta.T @ x[t]»", "db = «db + delta.sum(axis=0)»"])
        ],
        CELLS[1]: [(CELLS[1], list(_GATED_SUMS))],
    },
    "states": {
        CELLS[0]: [(CELLS[0], ["return «h + step_size * s», s"])],
        CELLS[1]: [(CELLS[1], ["return «h + step_size * z * s», (s, z)"])],
    },
    "products": {
        CELLS[0]: [(CELLS[0], ["a = «h» @ M.T + x @ parameters.V.T", "x @ «parameters.V».T + parameters.b"])],
        CELLS[1]: [(CELLS[1], ["a = «h» @ M.T + x @ V.T + b", "a_z = «h» @ M.T + x @ V_z.T"])],
    },
}


@pytest.fixture
def rounded():
    """Backends that round one intermediate: by its name, a cell and a number of bits."""

    def made(what: str, cell: str, bits: int) -> ModuleType:
        edits = [edit for module, texts in INTERMEDIATES[what][cell] for edit in rounding(module, *texts)]
        backend = edited_specification(edits)
        for each in CELLS:
            getattr(backend, each).rounded = lambda array: to_bits(np.asarray(array), bits)
        return backend

    return made


def case_of(cell: str, dtype: str, seed: int = 0, sizes: tuple[int, int, int, int] = (11, 4, 7, 3)) -> Case:
    return random_case(cell, *sizes, step_size=0.3, diffusion=0.2, seed=seed, dtype=dtype)


def found_of(arrays: dict[str, np.ndarray], case: Case) -> Diagnosis:
    with pytest.raises(BrokenPromise) as broken:
        measure(arrays, case, beside_specification=True)
    return diagnose(arrays, case, broken.value.errors)


def coarser(dtype: str) -> dict[str, int]:
    return {name: bits for name, bits in FORMATS.items() if bits <= np.finfo(dtype).nmant}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("what", INTERMEDIATES)
def test_a_rounded_intermediate_is_named(rounded, what, cell, dtype, monkeypatch):
    monkeypatch.setattr(diagnosis, "identify", lambda *_, **__: [])  # which takes seconds; tested below
    for name, bits in coarser(dtype).items():
        backend = rounded(what, cell, bits)
        for seed, sizes in ((0, (11, 4, 7, 3)), (1, (40, 4, 9, 3)), (2, (6, 3, 5, 9))):
            case = case_of(cell, dtype, seed, sizes)
            found = found_of(run(backend, case), case)
            assert found.rounding is not None, (name, seed)
            assert found.rounding.rounding.name in NAMES[name], (name, seed, found.rounding)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_rounded_argument_is_named_exactly(cell, dtype):
    case = case_of(cell, dtype)
    leaves = case.parameters._fields
    for name, bits in coarser(dtype).items():

        def number(value: float, bits: int = bits) -> float:
            return float(to_bits(np.asarray(value), bits))

        given = {
            "ε": case._replace(step_size=number(0.3)),
            "γ": case._replace(diffusion=number(0.2)),
            "x": case._replace(x=to_bits(case.x, bits)),
            "ε and γ": case._replace(step_size=number(0.3), diffusion=number(0.2)),
            "the weights and biases": case._replace(
                parameters=type(case.parameters)(*(to_bits(getattr(case.parameters, leaf), bits) for leaf in leaves))
            ),
        }
        for what, problem in given.items():
            found = found_of(run(antisymrnn_ref, problem), case)
            assert found.matches == []
            assert (found.rounding.rounding.name, found.rounding.argument) == (BITS[bits].name, what), name
            text = f"they look like the results of a {BITS[bits].name}: {what} rounded to {bits} significant bits gives"
            assert text in found.text()


def wrong_by(change) -> ModuleType:
    backend = ModuleType("wrong_by")
    backend.__dict__.update(vars(antisymrnn_ref) | {"__name__": "wrong_by"})
    for cell in CELLS:
        honest = getattr(antisymrnn_ref, cell)

        def forward(*arguments, honest=honest, **options):
            trajectory = honest.forward(*arguments, **options)
            return trajectory._replace(h=change(trajectory.h))

        setattr(backend, cell, SimpleNamespace(forward=forward, backward=honest.backward))
    return backend


@pytest.mark.parametrize("size", [2.0**-25, 2.0**-12, 2.0**-9, 1e-3])
@pytest.mark.parametrize("change", [lambda h: h, lambda h: h**3, lambda h: np.sin(h) ** 3], ids=["h", "h3", "sin"])
@pytest.mark.parametrize("cell", CELLS)
def test_an_error_that_is_no_rounding_is_not_named(cell, change, size):
    case = case_of(cell, "float64")
    found = found_of(run(wrong_by(lambda h: h + size * change(h)), case), case)
    assert (found.matches, found.rounding) == ([], None)
    assert "no known variant gives these numbers" in found.text()


def test_errors_between_the_bands_and_known_mistakes_are_not_named(monkeypatch):
    case = case_of("gated", "float64")
    truth = run(antisymrnn_ref, case)
    noise = np.random.default_rng(0).uniform(-1, 1, truth["h"].shape) * np.max(np.abs(truth["h"]))
    for size, named in ((2.0**-42, False), (2.0**-24, True), (2.0**-19, False), (2.0**-3, False)):
        arrays = truth | {"h": truth["h"] + size * noise}
        with pytest.raises(BrokenPromise) as broken:
            measure(arrays, case)
        assert (finding(arrays, truth, broken.value.errors) is not None) is named
    monkeypatch.setattr(diagnosis, "_rounded_argument", lambda *_: pytest.fail("it was looked for"))
    for name in ("γ missing", "dW = G"):
        assert found_of(diagnosis.outputs(by_name(name), case), case).names == [name]


def test_a_float32_run_has_no_float32_intermediate():
    truth = {"h": np.linspace(1, 2, 40).reshape(2, 4, 5)}
    noise = np.random.default_rng(0).uniform(-1, 1, truth["h"].shape)
    for dtype, named in (("float64", True), ("float32", False)):
        eps = float(np.finfo(dtype).eps)
        got = {"h": (truth["h"] + 2.0**-24 * noise).astype(dtype)}
        errors = {"h": ArrayError(2.0**-24, eps, eps)}
        assert (finding(got, truth, errors) is not None) is named


def test_the_bands_are_apart_and_in_order():
    edges = [edge for low, high, _ in BANDS for edge in (low, high)]
    assert edges == sorted(edges)
    assert {rounding.name for *_, rounding in BANDS} == {rounding.name for rounding in ROUNDINGS}
    for (
        bits,
        rounding,
    ) in BITS.items():  # 2.6: the middle of what was measured
        (named,) = [of for low, high, of in BANDS if low <= 2.0 ** (-bits - 2.6) < high]
        assert named in (rounding, ROUNDINGS[-1])
    assert not {rounding.name for rounding in ROUNDINGS} & {deviation.name for deviation in CATALOGUE}


def test_bits_are_rounded_to_nearest():
    values = np.random.default_rng(0).standard_normal(1000) * 10.0 ** np.arange(-30, 20).repeat(20)
    assert np.array_equal(to_bits(values, 24), values.astype(np.float32).astype(np.float64))
    halves = values[np.abs(np.log10(np.abs(values))) < 3]
    assert np.array_equal(to_bits(halves, 11), halves.astype(np.float16).astype(np.float64))
    single = values.astype(np.float32)
    bits = single.view(np.uint32)
    upper = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    assert np.array_equal(to_bits(single, 8), upper.view(np.float32))
    assert to_bits(single, 8).dtype == np.float32


# through the judge


def test_the_judge_names_a_rounding(rounded):
    report = check_backend(rounded("s", "antisymmetric", 24), only="antisymmetric generic T=11", dtypes=["float64"])
    assert {failure.rounding for failure in report.failures} == {"float32 intermediate"}
    assert {failure.deviations for failure in report.failures} == {()}
    assert len(report.failures) == 3
    assert "no known variant gives these numbers" in report.failures[0].diagnosis
    assert "a constant" in ROUNDINGS[0].usual_cause.casefold()


def test_one_failure_of_each_kind_is_compared_with_everything(rounded, monkeypatch):
    asked = []
    identify = diagnosis.identify
    monkeypatch.setattr(diagnosis, "identify", lambda *a, **k: asked.append(1) or identify(*a, **k))
    backend, explanations = rounded("s", "antisymmetric", 24), Explanations()
    for seed in range(3):
        check = certify("rounded", case_of("antisymmetric", "float64", seed))
        assert judged(check, backend, {}, explanations=explanations).rounding == "float32 intermediate"
    assert len(asked) == 1
    mistakes = ("γ missing", "2γ")
    explanations = Explanations()
    for name in (*mistakes, *mistakes):
        for seed in (3, 4):
            check = certify("p", case_of("antisymmetric", "float64", seed))
            result = judged(check, planted(by_name(name)), {}, explanations=explanations)
            assert result.deviations[0] == name
    # of two mistakes in one target each is found, and each once by the whole catalogue
    assert len(asked) == 3
