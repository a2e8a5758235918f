"""Golden vectors: the values, how they are proved, the files and what may be wrong with them, the commands."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import io
import json
import math
import os
import pickle
import re
import shutil
import zipfile
from fractions import Fraction
from pathlib import Path

import jsonschema
import mpmath
import numpy as np
import pytest
from flint import arb

import antisymrnn_ref
from antisymrnn_validation import cli
from antisymrnn_validation.conformance.mistakes.source import EDITS, edited_specification
from antisymrnn_validation.output.files import ReportError
from antisymrnn_validation.truth.oracles import OracleError, named_arrays
from antisymrnn_validation.vectors import format, plans, reading, release, rounding

RELEASED = "fedff7f38889b8605541c1e7da6111a7d2f80f50b03047d3e7eea1e97fc5fcaa"
"""SHA-256 of the manifest of v1, and thereby of every file: it never changes."""

FLOAT64, FLOAT32 = np.dtype("float64"), np.dtype("float32")
FOLDER = release.released()
BY_ID = {vector.id: vector for vector in release.load()}


def by_path(name):
    """A module among the tests of conformance."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "conformance" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


slips = by_path("test_planted_slips")


@pytest.fixture
def run(capsys):
    """Run the command in this process: exit code, stdout, stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main(["vectors", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return caught.value.code, out, err

    return run


@pytest.fixture
def copy(tmp_path):
    """A set to break: its folder, and a function that replaces a file's content and says so in the manifest."""
    folder = tmp_path / "set"
    shutil.copytree(FOLDER, folder)

    def replace(name, content):
        (folder / name).write_bytes(content)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return folder, replace


def entry(folder, name):
    return reading.read_manifest(folder)[name]


# the released set


def test_the_released_set_never_changes():
    """If this fails, make another version: v1 is in the hands of others."""
    assert hashlib.sha256((FOLDER / "manifest.json").read_bytes()).hexdigest() == RELEASED
    for name, (sha256, size) in reading.read_manifest(FOLDER).items():
        content = (FOLDER / name).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (sha256, size)


def test_the_set_is_whole():
    names = {path.name for path in FOLDER.iterdir()}
    jsons = {f"{cell}-{dtype}.json" for cell in ("antisymmetric", "gated") for dtype in ("float64", "float32")}
    assert names == {"manifest.json", *rounding.files()}
    assert names > {"schema.json", *jsons}
    for name in jsons:
        found = [vector for vector in release.load() if vector.file == name]
        assert len(found) == len(plans.PLANS) >= 25
        assert {f"{vector.cell}-{vector.dtype}.json" for vector in found} == {name}
        assert max(vector.sizes["T"] for vector in found) == 6
        assert sorted({vector.sizes["n"] for vector in found}) == [1, 2, 3, 4, 5, 8, 11]
    long = [vector for vector in release.load() if vector.file.endswith(".npz")]
    assert [vector.sizes for vector in long] == 3 * [{"T": 64, "B": 4, "n": 32, "m": 3}]
    assert all((FOLDER / vector.file).stat().st_size < 10**6 for vector in long)
    assert len(BY_ID) == len(release.load())


def test_every_flag_is_explained_and_used():
    notes = release.load_notes()
    assert notes == plans.NOTES
    assert set(notes) == {flag for vector in release.load() for flag in vector.flags} == set(FLAGS)
    for note in notes.values():
        assert note.description.endswith(".")
        assert note.catches.endswith(".")
        for link in note.links:
            assert link.startswith(("https://", "antisymrnn_ref/"))


def test_the_links_lead_somewhere():
    derivation = (Path(antisymrnn_ref.__file__).parent / "DERIVATION.md").read_text(encoding="utf-8")
    titles = [line.lstrip("#").strip().lower() for line in derivation.splitlines() if line.startswith("#")]
    anchors = {"".join(c for c in title if c.isalnum() or c in " -").replace(" ", "-") for title in titles}
    for note in release.load_notes().values():
        for link in note.links:
            if link.startswith("antisymrnn_ref/"):
                path, _, anchor = link.partition("#")
                assert (Path(antisymrnn_ref.__file__).parents[1] / path).is_file()
                assert not anchor or anchor in anchors, link


def test_arrays_are_read_only():
    for vector in (*release.load()[:3], BY_ID["gated-float64-long"]):
        for array in (*vector.inputs.values(), *vector.expected.values()):
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gated-float64.json", "antisymmetric-float32-long.npz"])
def test_a_file_is_made_again_to_the_byte(name):
    assert rounding.files()[name]() == (FOLDER / name).read_bytes()


def test_the_generator_of_the_inputs_is_fixed():
    assert np.random.PCG64(0).random_raw(2).tolist() == [11749869230777074271, 4976686463289251617]


# the values


def test_denormal_numbers_and_signed_zeros_are_there():
    for cell in ("antisymmetric", "gated"):
        for dtype in (FLOAT64, FLOAT32):
            found = [vector for vector in release.load() if (vector.cell, vector.dtype) == (cell, dtype)]
            entries = np.concatenate([a.ravel() for vector in found for k, a in vector.expected.items() if k != "h"])
            least = np.finfo(dtype).smallest_normal
            assert ((entries != 0) & (abs(entries) < least)).sum() > 100
            assert (np.signbit(entries) & (entries == 0)).any()


def test_h0_keeps_the_signs_of_its_zeros():
    vector = BY_ID["gated-float32-signed-zeros"]
    assert np.signbit(vector.h0).any()
    assert vector.expected["h"][0].tobytes() == vector.h0.tobytes()
    assert not np.signbit(vector.expected["h"][1:]).any()


def test_one_vector_by_hand():
    vector = BY_ID["antisymmetric-float64-by-hand"]
    # M = [[-1/4, 1], [-1, -1/4]], h_0 = (1, 0), x = 1: a = (-1/4 + 1, -1)
    assert vector.expected["a"].ravel().tolist() == [0.75, -1.0]
    assert vector.expected["h"][1].ravel().tolist() == [1 + 0.5 * math.tanh(0.75), -0.5 * math.tanh(1)]
    first, second = (0.5 * (1 - math.tanh(a) ** 2) for a in (0.75, -1.0))
    G = np.array([[first, 0], [second, 0]])
    np.testing.assert_allclose(vector.expected["W"], G - G.T, rtol=1e-15)
    np.testing.assert_allclose(vector.expected["diffusion"], -first, rtol=1e-15)


@pytest.mark.parametrize(
    "name", ["gated-float64-generic-1", "gated-float32-exp-overflow", "antisymmetric-float32-ablation"]
)
def test_states_agree_with_another_library(name):
    """A loop in mpmath, rounded by fractions: neither balls nor the rounding of the generator."""
    vector = BY_ID[name]
    with mpmath.workdps(1000):
        matrix = {key: mpmath.matrix(array.tolist()) for key, array in vector.parameters._asdict().items()}
        n = vector.sizes["n"]
        M = matrix["W"] - (0 if vector.unconstrained else matrix["W"].T) - mpmath.mpf(vector.diffusion) * mpmath.eye(n)
        for k in range(vector.sizes["B"]):
            h = mpmath.matrix(vector.h0[k].tolist())
            for t in range(vector.sizes["T"]):
                x = mpmath.matrix(vector.x[t, k].tolist())
                a = M * h + matrix["V"] * x + matrix["b"]
                s = a.apply(mpmath.tanh)
                told = {"a": a, "s": s}
                if vector.cell == "gated":
                    told["a_z"] = M * h + matrix["V_z"] * x + matrix["b_z"]
                    told["z"] = told["a_z"].apply(lambda a: 1 / (1 + mpmath.exp(-a)))
                    s = mpmath.matrix([told["z"][j] * s[j] for j in range(n)])
                h = h + mpmath.mpf(vector.step_size) * s
                for key, column in (told | {"h": h}).items():
                    row = vector.expected[key][t + (key == "h"), k]
                    assert [by_fractions(value, vector.dtype) for value in column] == row.tolist()


def by_fractions(value, dtype):
    """An mpmath number, rounded by Python to float64 or, through the nearest multiple of the last place, to float32."""
    sign, man, exp, _ = value._mpf_
    exact = (-1) ** sign * Fraction(int(man)) * Fraction(2) ** int(exp)
    if dtype == FLOAT64 or not exact:
        return float(exact)
    place = Fraction(2) ** max(math.frexp(float(exact))[1] - 24, -149)
    return float(round(exact / place) * place)


def test_gradients_agree_with_the_specification_in_a_wider_type():
    """float32 vectors beside the specification in float64, rounded: the same but where tanh of float64 is 1 already."""
    count, different = 0, []
    for vector in release.load():
        if vector.dtype == FLOAT64:
            continue
        cell = getattr(antisymrnn_ref, vector.cell)
        wide = [type(vector.parameters)(*(leaf.astype(float) for leaf in vector.parameters))]
        wide += [array.astype(float) for array in (vector.x, vector.h0, vector.g)]
        with np.errstate(all="ignore"):
            trajectory = inspect.unwrap(cell.forward)(*wide[:3], **vector.case.arguments)
            gradients = inspect.unwrap(cell.backward)(wide[0], wide[1], trajectory, wide[3], **vector.case.arguments)
        for name, array in named_arrays(trajectory.h, gradients).items():
            wrong = int((array.astype(FLOAT32) != vector.expected[name]).sum())
            count, different = count + array.size, different + [vector] * wrong
    assert count > 10_000
    assert len(different) < 100
    assert all("saturated" in vector.flags for vector in different)


# rounding


@pytest.mark.parametrize(
    ("man", "exp", "dtype", "value"),
    [
        (2**53 + 1, 0, FLOAT64, 2.0**53),
        (2**53 + 3, 0, FLOAT64, 2.0**53 + 4),
        (-(2**53) - 1, 0, FLOAT64, -(2.0**53)),
        (2**24 + 1, -24, FLOAT32, 1.0),
        (2**24 + 3, -24, FLOAT32, 1 + 2.0**-22),
        ((2**24 + 1) * 2**30 + 1, -54, FLOAT32, 1 + 2.0**-23),  # as float64 first, it would be a tie
        (1, -1075, FLOAT64, 0.0),
        (3, -1075, FLOAT64, 2.0**-1073),
        (2**40 + 1, -1115, FLOAT64, 2.0**-1074),
        (-1, -1075, FLOAT64, -0.0),
        (-1, -100_000_000, FLOAT64, -0.0),
        (1, -150, FLOAT32, 0.0),
        (3, -150, FLOAT32, 2.0**-148),
        (2**24 - 1, -150, FLOAT32, 2.0**-126),
        (2**24 - 1, 104, FLOAT32, (2**24 - 1) * 2.0**104),
        (0, 0, FLOAT64, 0.0),
    ],
)
def test_nearest(man, exp, dtype, value):
    assert rounding.nearest(man, exp, dtype).hex() == value.hex()


def test_nearest_agrees_with_python_and_numpy():
    generator = np.random.default_rng(0)
    for _ in range(3000):
        man, exp = int(generator.integers(-(2**62), 2**62)), int(generator.integers(-1150, 900))
        assert rounding.nearest(man, exp, FLOAT64) == float(Fraction(man) * Fraction(2) ** exp)
        man, exp = int(generator.integers(-(2**53), 2**53)), int(generator.integers(-210, 70))
        assert rounding.nearest(man, exp, FLOAT32) == float(np.float32(math.ldexp(man, exp)))


def test_nearest_refuses_what_overflows():
    for dtype, exp in ((FLOAT32, 128), (FLOAT64, 1024)):
        with pytest.raises(OverflowError, match="expected at most"):
            rounding.nearest(1, exp, dtype)
        with pytest.raises(OverflowError, match="expected at most"):
            rounding.nearest(2**60 - 1, exp - 60, dtype)


@pytest.mark.parametrize(
    ("ball", "value"),
    [
        (arb(0), 0.0),
        (arb(0, 1e-300), None),  # on both sides of zero
        (arb(1e-320, 1e-320), None),  # from zero to numbers that are stored as another
        (arb(1e-330, 1e-340), 0.0),
        (arb(2) ** -1080, 0.0),
        (-(arb(2) ** -1080), -0.0),
        (arb(1, 1e-17), 1.0),
        (arb((2**53 + 1, -53)), 1.0),  # exactly between two numbers
        (arb((2**53 + 3, -53)), 1 + 2.0**-51),
        (arb((2**53 + 1, -53), 1e-30), None),
        (arb(0.3, 1e-16), None),
    ],
)
def test_rounded(ball, value):
    found = rounding.rounded(ball, FLOAT64)
    assert found is value if value is None else found.hex() == value.hex()


def test_what_cannot_be_proved_is_an_error(monkeypatch):
    monkeypatch.setattr(rounding, "LARGEST_PRECISION", 128)
    problem = plans.case(plans.PLANS[26], 26, "gated", "float64")
    assert problem.name == "gated-float64-exp-overflow"
    with pytest.raises(OracleError, match=r"gated-float64-exp-overflow: .*has no proved rounding at 128 bits"):
        rounding.correctly_rounded(problem)


def test_gradients_that_contradict_the_product_rule_are_an_error(monkeypatch):
    monkeypatch.setattr(rounding, "tangent_identity", lambda *_: (arb(1), arb(2)))
    with pytest.raises(OracleError, match="contradict the product rule"):
        rounding.correctly_rounded(plans.case(plans.PLANS[0], 0, "gated", "float64"))


def test_a_changed_bit_is_told():
    vector = BY_ID["antisymmetric-float32-generic-1"]
    W = vector.expected["W"].copy()
    W[1, 2] = np.nextafter(W[1, 2], np.float32(9), dtype=np.float32)
    (wrong,) = rounding.certify(vector._replace(expected={**vector.expected, "W": W}))
    assert wrong.startswith("expected.W[1, 2]: expected ")
    assert float(W[1, 2]).hex() in wrong
    assert rounding.certify(vector) == []


def test_the_sign_of_a_zero_is_certified_too():
    vector = BY_ID["antisymmetric-float32-signed-zeros"]
    h = vector.expected["h"].copy()
    h[0] = abs(h[0])
    wrong = rounding.certify(vector._replace(expected={**vector.expected, "h": h}))
    assert len(wrong) == np.signbit(vector.h0).sum() > 0
    assert all(told.endswith(": expected -0x0.0p+0, got 0x0.0p+0") for told in wrong)


# noise floors, and what they catch


def test_tolerances_are_small():
    for vector in release.load():
        assert list(vector.noise) == list(vector.expected)
        limit = 1e-2 if vector.dtype == FLOAT32 else 1e-3 if "denormal" in vector.id else 5e-11
        for name, array in vector.expected.items():
            reference, tolerance = vector.noise[name]
            assert (tolerance == 0) == (not array.any()), (vector.id, name)
            assert reference <= tolerance < limit, (vector.id, name)


def test_the_specification_passes_every_vector():
    results = [check.run(antisymrnn_ref) for check in release.vector_checks()]
    assert {(result.check, result.status, result.detail) for result in results} == {("golden vector", "passed", "")}
    assert len(results) == len(release.load())
    shares = [e.error / e.tolerance for result in results for e in result.errors.values() if e.tolerance]
    assert 0.1 < max(shares) < 0.6


def only_the_first(backend):
    """The first vector that sees wrong numbers, not just a crash."""
    results = (check.run(backend) for check in release.vector_checks())
    return next((r.case for r in results if r.status == "failed" and not r.detail.startswith("raised")), None)


PROMISES = list(slips.SLIPS)[list(slips.SLIPS).index("float64 returned for float32") :]
CRASHES = ["last step left out", "states without h_0: antisymmetric", "states without h_0: gated"]


UNSEEN = [name for name in slips.SLIPS if name.startswith("steps without a cotangent left out of backward")]
"""No vector of v1 has a step without a cotangent among others."""


@pytest.mark.parametrize("name", [name for name in slips.SLIPS if name not in (*PROMISES, *CRASHES, *UNSEEN)])
def test_every_slip_in_the_numbers_is_caught(name):
    assert only_the_first(edited_specification(slips.SLIPS[name]))


@pytest.mark.parametrize("name", CRASHES)
def test_a_crash_is_a_failure(name):
    backend, cell = edited_specification(slips.SLIPS[name]), "gated" if name.endswith(": gated") else "antisymmetric"
    results = [check.run(backend) for check in release.vector_checks()]
    assert "failed" in {result.status for result in results if cell in result.case}


u, z = slips.u, slips.z
TANH, DELTA = "s = np.tanh(a)", "delta = step_size * (1 - s**2) * adjoint"
FLUSH = "* (abs({0}) >= np.finfo({0}.dtype).smallest_normal)"
FLAGS = {
    "generic": EDITS["s missing in δ_z"],
    "by-hand": EDITS["γ of the wrong sign"],
    "wide-input": [u("x @ parameters.V.T", "x[:, : len(M)] @ parameters.V[:, : len(M)].T")],
    "equal-sizes": [
        u("x[t], h, step_size)\n        if", "(x[t] if len(x) != len(h) else x[:, t]), h, step_size)\n        if")
    ],
    "wide": [u(TANH, f"{TANH}; s[:, 8:] = a[:, 8:]")],
    "long": [u("    return g[t]\n", "    return g[t] * (t % 16 > 0 or t == 0)\n")],
    "no-steps": EDITS["missing cotangent on h_0"],
    "one-step": EDITS["first step left out of backward"],
    "one-sample": [u(DELTA, f"{DELTA} * (len(h) > 1)")],
    "one-unit": EDITS["dW = G"],
    "one-input": [u("x @ parameters.V.T", "x @ parameters.V.T * (parameters.V.shape[1] > 1)")],
    "no-diffusion": [
        u("recurrent_matrix(parameters.W, diffusion", "recurrent_matrix(parameters.W, diffusion or 0.01"),
    ],
    "strong-diffusion": [u("- diffusion * identity", "- min(diffusion, 1) * identity")],
    "unit-step": [u("return h + step_size * s, s", "return (h if step_size != 1 else 0) + step_size * s, s")],
    "small-step": [u("return h + step_size * s, s", "return h + max(step_size, 1e-5) * s, s")],
    "last-state-loss": [u("return g if t == T else 0", "return g")],
    "first-state-loss": EDITS["missing cotangent on h_0"],
    "zero-cotangent": [u(DELTA, f"{DELTA} / abs(adjoint).max() * abs(adjoint).max()")],
    "ablation": EDITS["W − Wᵀ in the ablation too"],
    "symmetric-weights": EDITS["W in place of W − Wᵀ"],
    "strong-recurrence": EDITS["missing transpose in the adjoint"],
    "saturated": [u(TANH, "s = np.tanh(np.clip(a, -9, 9))")],
    "exp-overflow": [u(TANH, "s = (np.exp(a) - np.exp(-a)) / (np.exp(a) + np.exp(-a))")],
    "large-values": [u(DELTA, "delta = step_size * (1 - s**2) * np.clip(adjoint, -1e6, 1e6)")],
    "tiny-values": [u(TANH, "s = np.tanh(np.where(abs(a) < 1e-8, 0, a))")],
    "denormal-inputs": [u(TANH, f"s = np.tanh(a) {FLUSH.format('a')}")],
    "denormal-cotangent": [u(DELTA, f"delta = step_size * (1 - s**2) * adjoint {FLUSH.format('adjoint')}")],
    "signed-zeros": [u(DELTA, "delta = step_size * (1 - s**2) * adjoint * s / s")],
    "cancelling-sums": slips.WITHOUT_AN_ENTRY["mean instead of sum over the batch in dV"],
}
ALONE = {
    "wide-input", "equal-sizes", "wide", "one-sample", "no-diffusion", "strong-diffusion", "unit-step", "small-step",
    "last-state-loss", "zero-cotangent", "ablation", "saturated", "large-values", "tiny-values", "denormal-inputs",
    "denormal-cotangent", "signed-zeros",
}  # fmt: skip
"""Flags whose slip no vector of a JSON file without the flag, or without a corner like it, sees."""


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_catches_what_it_is_for(flag):
    edits = FLAGS[flag]
    backend, caught = edited_specification(edits), []
    for vector, check in zip(release.load(), release.vector_checks(), strict=True):
        if vector.cell == "gated" and all(cell == "antisymmetric" for cell, *_ in edits):
            continue
        result = check.run(backend)
        if result.status == "failed" and not result.detail.startswith("raised"):
            caught.append(vector)
    assert any(flag in vector.flags for vector in caught)
    if flag in ALONE:
        assert all(flag in vector.flags or vector.flags != ("generic",) for vector in caught), [v.id for v in caught]


# check


def honest(vector):
    return {name: array.copy() for name, array in vector.expected.items()}


def test_check_measures_errors():
    vector = BY_ID["gated-float64-generic-1"]
    arrays = honest(vector)
    assert all(error.error == 0 for error in release.check(vector, arrays).values())
    for name, array in arrays.items():
        size = np.abs(array).max() * vector.noise[name].tolerance
        for factor, right in ((0.9, True), (1.1, False)):
            moved = array + factor * size * (np.arange(array.size) == array.size // 2).reshape(array.shape)
            error = release.check(vector, {**arrays, name: moved})[name]
            assert (error.error <= error.tolerance) is right, name
            assert error.reference == vector.noise[name].reference


@pytest.mark.parametrize("wrong", [np.nan, np.inf, "shape", "dtype"])
def test_check_refuses(wrong):
    vector = BY_ID["antisymmetric-float64-generic-1"]
    arrays = honest(vector)
    if wrong == "shape":
        arrays["V"] = arrays["V"].T
    elif wrong == "dtype":
        arrays["V"] = arrays["V"].astype(np.float32)
    else:
        arrays["V"][0, 0] = wrong
    error = release.check(vector, arrays)["V"].error
    assert math.isnan(error) if wrong is np.nan else error == math.inf


def test_check_asks_for_zeros():
    vector = BY_ID["antisymmetric-float64-one-unit"]
    arrays = honest(vector) | {"W": np.array([[-0.0]])}
    assert release.check(vector, arrays)["W"] == (0.0, 0.0, 0.0)
    assert release.check(vector, arrays | {"W": np.array([[5e-324]])})["W"].error == math.inf


def test_check_asks_for_every_gradient_and_no_other_name():
    vector = BY_ID["antisymmetric-float64-generic-1"]
    some = {name: array for name, array in honest(vector).items() if name not in ("x", "a", "s")}
    assert list(release.check(vector, some)) == ["h", "W", "V", "b", "h0", "step_size", "diffusion"]
    with pytest.raises(ValueError, match="W: expected an array for antisymmetric-float64-generic-1, got none"):
        release.check(vector, {name: array for name, array in some.items() if name != "W"})
    with pytest.raises(ValueError, match="dW: expected one of h, a, s, W"):
        release.check(vector, some | {"dW": some["W"]})


def test_load_refuses_another_version():
    with pytest.raises(format.VectorError, match="version: expected v1, got 'v9'"):
        release.load("v9")


# the form of the files


def documents():
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}


def test_files_are_as_the_schema_says():
    found = documents()
    schema = found.pop("schema.json")
    jsonschema.Draft202012Validator.check_schema(schema)
    manifest = {"$ref": "#/$defs/manifest", "$defs": schema["$defs"]}
    assert jsonschema.Draft202012Validator(manifest).is_valid(found.pop("manifest.json"))
    validator = jsonschema.Draft202012Validator(schema)
    assert len(found) == 4
    for document in found.values():
        assert validator.is_valid(document)
        assert not validator.is_valid(document | {"version": "v2"})


def test_every_word_of_the_schema_that_can_be_broken_has_words_of_its_own():
    known = {"$ref", "items", "properties", "propertyNames", "description", "title", "$schema", "$defs"}
    known |= {"required", "additionalProperties", "const", "enum", "pattern", "minimum", "minItems", "anyOf", "type"}

    def words(schema):
        if not isinstance(schema, dict):
            return set()
        inner = [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values(), *schema.get("anyOf", [])]
        inner += [schema.get(word) for word in ("items", "additionalProperties", "propertyNames")]
        return set(schema) | {word for part in inner for word in words(part)}

    assert words(documents()["schema.json"]) <= known


def entries_of(document):
    return document["groups"][0]["tests"]


BREAKS = {
    "a missing key": (lambda d: d.pop("dtype"), "dtype: expected, but missing"),
    "another key": (lambda d: d.update(more=1), "more: expected schema, .* alone, got this too"),
    "another version": (lambda d: d.update(version="v2"), "version: expected v1, got 'v2'"),
    "another cell": (lambda d: d.update(cell="lstm"), "cell: expected antisymmetric or gated, got 'lstm'"),
    "no groups": (lambda d: d.update(groups=[]), "groups: expected at least 1 entries, got 0"),
    "a negative size": (lambda d: d["groups"][0].update(B=0), r"groups\[0\].B: expected at least 1, got 0"),
    "a size with a point": (lambda d: d["groups"][0].update(T=5.0), r"groups\[0\].T: expected integer, got 5.0"),
    "a group that is a list": (lambda d: d.update(groups=[[]]), r"groups\[0\]: expected object, got \[\]"),
    "a cotangent that is no array": (
        lambda d: entries_of(d)[0]["inputs"].update(g="0x0.0p+0"),
        r"inputs.g: expected one of 2 forms of the schema, got '0x0.0p\+0'",
    ),
    "a long text in place of a list": (
        lambda d: d.update(groups="x" * 10**6),
        r"groups: expected array, got 'x{56}\.\.\.$",
    ),
    "a size that is a truth value": (lambda d: d["groups"][0].update(T=True), r"groups\[0\].T: expected integer"),
    "another size": (
        lambda d: d["groups"][0].update(T=4),
        r"groups\[0\].tests\[0\].inputs.x: expected a list of 4, got 5",
    ),
    "no step size": (
        lambda d: d["groups"][0].update(step_size="0x0.0p+0"),
        r"groups\[0\].step_size: expected the pattern",
    ),
    "a number": (
        lambda d: entries_of(d)[0]["expected"].update(diffusion=0.5),
        r"expected.diffusion: expected string, got 0.5",
    ),
    "a NaN string": (
        lambda d: entries_of(d)[0]["inputs"]["W"][1].__setitem__(2, "nan"),
        r"tests\[0\].inputs.W\[1\]\[2\]: .*'nan'",
    ),
    "infinity": (lambda d: entries_of(d)[0]["inputs"]["b"].__setitem__(2, "inf"), r"inputs.b\[2\]: .*'inf'"),
    "too large a number": (
        lambda d: entries_of(d)[0]["inputs"]["b"].__setitem__(2, "0x1.8p+9999"),
        r"inputs.b\[2\]: expected a finite float32 as a C99 hexadecimal string, got '0x1.8p\+9999'",
    ),
    "too many bits": (
        lambda d: entries_of(d)[0]["inputs"]["b"].__setitem__(2, "0x1.0000000000001p+0"),
        r"groups\[0\].tests\[0\].inputs.b\[2\]: expected a finite float32 .*, got '0x1.0000000000001p\+0'",
    ),
    "another spelling": (
        lambda d: entries_of(d)[0]["inputs"]["b"].__setitem__(2, "0x1.8p+0"),
        "expected a finite float32",
    ),
    "a short row": (lambda d: entries_of(d)[0]["inputs"]["W"][1].pop(), r"inputs.W\[1\]: expected a list of 4, got 3"),
    "an array of the other cell": (
        lambda d: entries_of(d)[0]["inputs"].update(b_z=["0x0.0p+0"] * 4),
        r"tests\[0\].inputs: b_z: expected W, V, b, x, h0, g alone",
    ),
    "a missing floor": (lambda d: entries_of(d)[0]["noise"].pop("W"), r"tests\[0\].noise: W: expected, but missing"),
    "an id twice": (
        lambda d: entries_of(d)[1].update(id=entries_of(d)[0]["id"]),
        r"groups\[0\].tests\[1\].id: expected an id",
    ),
    "an unknown flag": (
        lambda d: entries_of(d)[0].update(flags=["odd"]),
        "notes: expected an entry for the flag 'odd' of",
    ),
    "a flag that is no text": (lambda d: entries_of(d)[0].update(flags=[1]), r"flags\[0\]: expected string, got 1"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_file_is_told_with_its_field(name):
    change, message = BREAKS[name]
    document = json.loads((FOLDER / "antisymmetric-float32.json").read_text(encoding="utf-8"))
    change(document)
    with pytest.raises(format.VectorError, match=rf"^broken.json: .*{message}"):
        reading.read_json(json.dumps(document).encode(), "broken.json")


def test_a_hostile_file_is_refused_at_its_first_fault(monkeypatch):
    made = []
    plain = jsonschema.ValidationError.__init__

    def counted(self, *arguments, **options):
        made.append(self)
        plain(self, *arguments, **options)

    monkeypatch.setattr(jsonschema.ValidationError, "__init__", counted)
    document = json.loads((FOLDER / "antisymmetric-float32.json").read_text(encoding="utf-8"))
    entries_of(document)[0]["inputs"]["g"] = [["x"] * 50] * 200
    with pytest.raises(format.VectorError, match="inputs.g: expected one of 2 forms of the schema, got"):
        reading.read_json(json.dumps(document).encode(), "broken.json")
    document["groups"] = [{}] * 1000
    with pytest.raises(format.VectorError, match=r"groups\[0\].T: expected, but missing"):
        reading.read_json(json.dumps(document).encode(), "broken.json")
    assert 0 < len(made) < 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"schema": NaN}', "expected JSON, which has no NaN"),
        (b'{"schema": ', "expected JSON, got at line 1, column 12"),
        (b"", "expected JSON, got at line 1, column 1"),
        (b'{"a": 1, "a": 2}', "expected every key once in an object, got a, a"),
        (b'{"a": ' + b"1" * 5000 + b"}", "expected JSON of small whole numbers: "),
        (b"\xff", "expected UTF-8, got byte 0xff at 0"),
        (b"[" * 100_000, "expected JSON, got one nested too deeply"),
        (b'{"schema": ' + b"[" * 400 + b"]" * 400 + b"}", "[a-z]+: expected, but missing"),
        (b"[]", r"document: expected object, got \[\]"),
    ],
)
def test_what_is_no_json_is_told(content, message):
    with pytest.raises(format.VectorError, match=f"^broken.json: {message}"):
        reading.read_json(content, "broken.json")


def members(**changes):
    """The released ``.npz`` file of float32 with other members."""
    with np.load(FOLDER / "antisymmetric-float32-long.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    arrays.update({key.replace("__", "/"): value for key, value in changes.items()})
    written = io.BytesIO()
    np.savez(written, **{key: value for key, value in arrays.items() if value is not None})
    return written.getvalue()


class Trap:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("unpickled",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs__W": np.array([Trap()], dtype=object)}, "inputs/W: cannot be read without pickle"),
        ({"inputs__W": None}, "inputs/W: expected, but missing"),
        ({"inputs__odd": np.zeros(3)}, "inputs/odd: expected inputs/W, .* alone"),
        ({"inputs__W": np.zeros((32, 32))}, r"inputs/W: expected float32 \(32, 32\), got float64 \(32, 32\)"),
        ({"inputs__b": np.zeros(31, np.float32)}, r"inputs/b: expected float32 \(32,\), got float32 \(31,\)"),
        ({"expected__b": np.full(32, np.nan, np.float32)}, "expected/b: expected finite numbers, got NaN"),
        ({"metadata": None}, "metadata: expected one text"),
        ({"metadata": np.array("{")}, "metadata: expected JSON"),
        ({"metadata": np.array("{}")}, "metadata: schema: expected, but missing"),
    ],
)
def test_a_broken_npz_is_told_with_its_member(changes, message):
    with pytest.raises(format.VectorError, match=f"^long.npz: {message}"):
        reading.read_npz(members(**changes), "long.npz")


def test_what_is_no_npz_is_told():
    whole = members()
    crooked = bytearray(whole)
    crooked[len(whole) // 2] ^= 1  # the archive's own sum does not fit
    for content in (b"", b"PK", pickle.dumps(Trap()), whole[:-100], whole[: len(whole) // 2], bytes(crooked)):
        with pytest.raises(format.VectorError, match="^long.npz: "):
            reading.read_npz(content, "long.npz")
    with zipfile.ZipFile(written := io.BytesIO(), "w") as archive:
        archive.writestr("notes.txt", "not an array")
    with pytest.raises(format.VectorError, match="^long.npz: metadata: expected one text"):
        reading.read_npz(written.getvalue(), "long.npz")


def test_files_read_back_as_they_were_written():
    for name in ("gated-float64.json", "gated-float64-long.npz"):
        found = reading.read_file(FOLDER, name, entry(FOLDER, name))
        description = json.loads((FOLDER / "gated-float64.json").read_text(encoding="utf-8"))["description"]
        write = format.to_json if name.endswith("json") else lambda vs, *rest: format.to_npz(vs[0], *rest)
        assert write(found.vectors, plans.NOTES, description) == (FOLDER / name).read_bytes()


# the commands


def test_verify_passes_the_released_set(run, tmp_path):
    code, out, err = run("verify", "--json", tmp_path / "report.json")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"vectors verify: {len(BY_ID)} vectors in 9 files, all as released"
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["summary"]["exit_code"] == 0
    assert {record["status"] for record in document["files"]} == {"passed"}


def test_verify_certifies(run, monkeypatch):
    asked = []
    monkeypatch.setattr(rounding, "certify", lambda vector: asked.append(vector.id) or [])
    code, out, _ = run("verify", "--certify")
    assert code == 0
    assert out.splitlines()[-1] == f"vectors verify --certify: {len(BY_ID)} vectors in 9 files, all as released"
    assert asked == list(BY_ID)


def test_certify_finds_a_value_in_a_folder_that_agrees_with_itself(copy):
    folder, replace = copy
    vector = BY_ID["antisymmetric-float64-one-of-each"]
    content = (folder / vector.file).read_text(encoding="utf-8")
    before = float(vector.expected["diffusion"]).hex()
    after = math.nextafter(float(vector.expected["diffusion"]), 9).hex()
    replace(vector.file, content.replace(f'"diffusion": "{before}"', f'"diffusion": "{after}"').encode())
    assert release.verify_file(folder, vector.file, entry(folder, vector.file)) == len(plans.PLANS)
    message = rf"{vector.file}: {vector.id}: expected.diffusion\[\]: expected {before}, got {after}"
    with pytest.raises(format.VectorError, match=message.replace("+", r"\+")):
        release.verify_file(folder, vector.file, entry(folder, vector.file), certify=True)


def test_certify_tells_what_cannot_be_proved(monkeypatch):
    def fails(vector):
        raise OracleError(f"{vector.id}: no proof")

    monkeypatch.setattr(rounding, "certify", fails)
    with pytest.raises(format.VectorError, match="long.npz: gated-float64-long: cannot be proved: .* no proof"):
        release.verify_file(FOLDER, "gated-float64-long.npz", entry(FOLDER, "gated-float64-long.npz"), certify=True)


def changed_byte(folder):
    path = folder / "gated-float32.json"
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    return "gated-float32.json: sha256: expected [0-9a-f]{64} as in manifest.json, got [0-9a-f]{64}"


def truncated(folder):
    path = folder / "gated-float32.json"
    path.write_bytes(path.read_bytes()[:-10])
    return r"gated-float32.json: size: expected \d+ bytes as in manifest.json, got \d+"


def missing(folder):
    (folder / "gated-float32.json").unlink()
    return "gated-float32.json: expected a file in .*, got none"


def a_folder_in_its_place(folder):
    missing(folder)
    (folder / "gated-float32.json").mkdir()
    return "gated-float32.json: cannot be read: "


def one_too_many(folder):
    (folder / "more.json").write_text("{}")
    return "more.json: expected the files of manifest.json alone"


def no_manifest(folder):
    (folder / "manifest.json").unlink()
    return "manifest.json: expected a file in .*, got none"


def broken_manifest(folder):
    (folder / "manifest.json").write_text("{")
    return "manifest.json: expected JSON"


def a_path_in_the_manifest(folder):
    (folder / "manifest.json").write_text(
        (folder / "manifest.json").read_text().replace('schema.json": {', '../a.json": {')
    )
    return r"manifest.json: files\.\.\./a\.json: expected the pattern"


def another_manifest(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text() + "\n")
    return "manifest.json: expected the bytes of the released v1, got others"


@pytest.mark.parametrize(
    "damage",
    [
        changed_byte, missing, broken_manifest, a_path_in_the_manifest,
        *(
            pytest.param(damage, marks=pytest.mark.slow)
            for damage in (
                truncated, a_folder_in_its_place, one_too_many, no_manifest, another_manifest,
            )
        ),
    ],
)  # fmt: skip
def test_verify_finds_what_was_damaged(run, copy, damage):
    folder, _ = copy
    message = damage(folder)
    code, out, err = run("verify", folder)
    assert (code, err) == (1, "")
    assert "NOT as released: " in out.splitlines()[-1]
    assert sum("  failed  " in line for line in out.splitlines()) == 1
    assert re.search(message, out)


def test_a_schema_that_was_changed_is_not_as_released(copy):
    folder, _ = copy
    path, released = folder / format.SCHEMA, entry(folder, format.SCHEMA)
    assert release.verify_file(folder, format.SCHEMA, released) == 0
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"required"', b'"requ1red"', 1))
    assert path.read_bytes() != content
    with pytest.raises(format.VectorError, match="schema.json: sha256: expected"):
        release.verify_file(folder, format.SCHEMA, released)


def test_what_verify_finds_stands_in_its_json(run, copy, tmp_path):
    folder, _ = copy
    truncated(folder)
    code, out, _ = run("verify", folder, "--json", tmp_path / "report.json")
    document = json.loads((tmp_path / "report.json").read_text())
    assert (code, document["summary"]["exit_code"], document["summary"]["line"]) == (1, 1, out.splitlines()[-1])
    assert (document["folder"], document["certify"]) == (str(folder), False)
    told = {record["file"]: (record["status"], record["vectors"]) for record in document["files"]}
    assert told["gated-float32.json"] == ("failed", 0)
    assert told["gated-float64.json"] == ("passed", len(plans.PLANS))


def test_verify_of_no_folder_is_usage(run, tmp_path):
    code, _, err = run("verify", tmp_path / "nowhere")
    assert code == 2
    assert "DIR: expected a folder, got " in err


def test_export_and_verify(run, tmp_path):
    code, out, err = run("export", tmp_path / "copy")
    assert (code, err) == (0, "")
    assert out == f"vectors export: 9 files of v1 in {tmp_path / 'copy'}\n"
    assert run("verify", tmp_path / "copy")[0] == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()} == {
        path.name: path.read_bytes() for path in FOLDER.iterdir()
    }
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_export_overwrites_nothing(run, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("there", "file", "link"):
        code, _, err = run("export", tmp_path / name)
        assert code == 2
        assert f"{name}: cannot be written: it exists; name a folder that does not" in err
    assert not list((tmp_path / "there").iterdir())
    code, _, err = run("export", tmp_path / "no" / "parent")
    assert code == 2
    assert "is not an existing directory" in err


def test_export_fails_whole(tmp_path, monkeypatch):
    replace = os.replace

    def full(source, target):
        if Path(target).name == "copy":  # the last step, when every file is there
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ReportError, match="copy: cannot be written: No space left on device"):
        release.export(tmp_path / "copy")
    assert not list(tmp_path.iterdir())


def test_export_to_a_write_protected_folder(run, tmp_path, monkeypatch):
    monkeypatch.setattr(release.files.os, "access", lambda *_: False)
    code, _, err = run("export", tmp_path / "copy")
    assert code == 2
    assert f"cannot be written: {tmp_path} is write-protected" in err


def test_list(run, tmp_path):
    code, out, err = run("list", "--json", tmp_path / "report.json")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines() if line.startswith(("antisymmetric-", "gated-"))]
    assert [row[0] for row in rows] == list(BY_ID)
    assert out.splitlines()[-1].startswith(f"vectors list: {len(BY_ID)} vectors of v1 in 7 files; the set has ")
    document = json.loads((tmp_path / "report.json").read_text())
    assert [record["id"] for record in document["vectors"]] == list(BY_ID)
    assert document["vectors"][0]["flags"] == ["generic"]
    code, out, _ = run("list", "--only", "denormal")
    assert code == 0
    assert f"vectors list: 8 of {len(BY_ID)} vectors of v1 in 4 files" in out
    assert run("list", "--only", "nothing like it")[0] == 3
    for text in ("one-input", "Round numbers"):
        told = [v for v in BY_ID.values() if text in v.flags or text in v.comment]
        assert f"vectors list: {len(told)} of {len(BY_ID)} vectors of v1" in run("list", "--only", text)[1]


def test_list_and_describe_tell_sizes_and_constants(run):
    size = sum(path.stat().st_size for path in FOLDER.iterdir() if path.name != "manifest.json")
    assert f"; the set has {size / 1e6:.1f} MB" in run("list")[1]
    vector = BY_ID["gated-float32-generic-3"]
    _, out, _ = run("describe", vector.id)
    for name, value in (("step_size", np.float32(0.5)), ("diffusion", np.float32(0.35))):
        assert re.search(rf"^problem +{name} +{float(value)!r}$", out, re.MULTILINE)
    told = {(record["part"], record["name"]): record for record in format.arrays(vector)}
    for part, arrays in (("input", vector.inputs), ("expected", vector.expected)):
        for name, array in arrays.items():
            record = told.pop((part, name))
            assert (record["shape"], record["largest"]) == (array.shape, abs(array).max())
            floor = vector.noise[name] if part == "expected" else (None, None)
            assert (record.get("reference"), record.get("tolerance")) == floor
    assert not told


def test_describe(run, tmp_path):
    name = "gated-float32-exp-overflow"
    code, out, err = run("describe", name, "--json", tmp_path / "report.json")
    assert (code, err) == (0, "")
    assert "logarithm of the largest number" in out
    assert "NaN from infinity over infinity" in out
    for array in (*BY_ID[name].inputs, *BY_ID[name].expected):
        assert any(line.startswith(f"{array} ") for line in out.splitlines())
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["vector"]["expected"]["diffusion"] == float(BY_ID[name].expected["diffusion"]).hex()
    assert list(document["notes"]) == ["exp-overflow", "saturated"]


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("gated-float32-exp-overflw", "did you mean 'gated-float32-exp-overflow'?"),
        ("gated-float16-exp-overflow", "`antisymrnn vectors list` lists them"),
        ("", "`antisymrnn vectors list` lists them"),
        ("?", "`antisymrnn vectors list` lists them"),
    ],
)
def test_describe_names_what_is_close(run, given, hint):
    code, _, err = run("describe", given)
    assert code == 2
    assert f"NAME: expected the id of a vector, got {given!r}; {hint}" in err


def test_usage(run):
    for arguments in ((), ("describe",), ("export",), ("odd",), ("list", "--odd")):
        code, _, err = run(*arguments)
        assert code == 2
        assert "Error" in err


def test_a_broken_installation_is_no_usage_error(run, copy, monkeypatch):
    folder, _ = copy
    (folder / "gated-float32.json").unlink()
    monkeypatch.setattr(release, "released", lambda *_: folder)
    release._load.cache_clear()
    try:
        for arguments in (("list",), ("describe", "gated-float64-generic-1"), ("export", folder.parent / "copy")):
            code, _, err = run(*arguments)
            assert code == 1
            assert "gated-float32.json: expected a file in " in err
    finally:
        release._load.cache_clear()


def test_generate(run, tmp_path, monkeypatch):
    whole = {name: functools.partial((FOLDER / name).read_bytes) for name in rounding.files()}
    monkeypatch.setattr(rounding, "files", lambda: whole)
    code, out, _ = run("generate", tmp_path / "made")
    assert (code, out) == (0, f"vectors generate: 9 files in {tmp_path / 'made'}, the bytes of the released v1\n")
    assert run("verify", tmp_path / "made")[0] == 0
    whole["gated-float64.json"] = whole["gated-float32.json"]
    code, out, _ = run("generate", tmp_path / "other")
    assert code == 1
    assert "NOT as released: gated-float64.json, manifest.json" in out
    assert run("generate", tmp_path / "made")[0] == 2
    assert sorted(os.listdir(tmp_path)) == ["made", "other"]
