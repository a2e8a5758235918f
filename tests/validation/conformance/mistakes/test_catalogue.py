"""The catalogue of deviations: every entry is visible, found by name, and rejected as a backend; nothing honest is."""

from __future__ import annotations

import functools
import inspect
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import antisymrnn_ref
from antisymrnn_ref import BackendUnavailable, load_backend
from antisymrnn_ref.contract import kept_steps
from antisymrnn_validation.conformance.mistakes.catalogue import CATALOGUE, Deviation, by_name, planted
from antisymrnn_validation.conformance.mistakes.diagnosis import identify, outputs
from antisymrnn_validation.conformance.mistakes.recurrence import Activation, Slopes, Update
from antisymrnn_validation.conformance.mistakes.source import EDITS, edited_specification
from antisymrnn_validation.conformance.plan import certify, iter_checks
from antisymrnn_validation.truth.calls import run
from antisymrnn_validation.truth.cases import CELLS, Case, random_case
from antisymrnn_validation.truth.oracles import complex_step, named_arrays
from antisymrnn_validation.truth.tolerance import measure

FAR = 1000
"""A deviation moves some array of a generic case by more than this many times what that array may be wrong by.

The least seen is 6.8e3 times, in float32; in float64 it is 3.7e12.
"""

numpy_ = load_backend("numpy")

PAIRS = [(deviation, cell) for deviation in CATALOGUE for cell in deviation.cells]
IDS = [f"{deviation.name}, {cell}" for deviation, cell in PAIRS]

ABLATION_ALONE = {
    "γ left out of the ablation",
    "W − Wᵀ in the ablation too",
    "dW = G − Gᵀ in the ablation too",
}
CONSTRAINED_ALONE = {
    "W in place of W − Wᵀ",
    "W + Wᵀ",
    "(W − Wᵀ) / 2",
    "upper triangle of W alone",
    "lower triangle of W alone",
    "2W in place of W − Wᵀ",
    "dW = G",
    "dW = Gᵀ − G",
    "dW = (G − Gᵀ) / 2",
    "dW = G + Gᵀ",
}
ZEROS_ALONE = {
    "samples without a cotangent on h_T left out of backward",
    "adjoint dropped where a sample has no cotangent",
    "steps without a cotangent left out of backward",
    "backward ends at a step without a cotangent",
}
"""What only cotangents with zeros in them can show."""
TIES = {
    # M − Mᵀ changes its sign when it is transposed
    False: [{"W stored transposed", "dW = Gᵀ − G"}],
    True: [{"γ missing", "γ left out of the ablation"}],
}
"""By ``unconstrained``: deviations that give the same arrays in every case."""


def generic(cell: str, *, unconstrained: bool = False, dtype: type = np.float64) -> Case:
    options = {"step_size": 0.3, "diffusion": 0.2, "unconstrained": unconstrained, "dtype": dtype}
    return random_case(cell, 11, 4, 7, 3, seed=0, **options)


@functools.cache
def tolerance(cell: str, unconstrained: bool, dtype: type) -> dict[str, float]:
    case = generic(cell, unconstrained=unconstrained, dtype=dtype)
    return {name: error.tolerance for name, error in measure(outputs(None, case), case).items()}


def telling(deviation: Deviation, cell: str, dtype: type) -> Case:
    """The generic case that can show a deviation."""
    case = generic(cell, unconstrained=deviation.name in ABLATION_ALONE, dtype=dtype)
    return with_zeros(case) if deviation.name in ZEROS_ALONE else case


def with_zeros(case: Case) -> Case:
    """The case without a cotangent on h_6, nor of one sample on h_T, nor of another on h_3."""
    g = case.g.copy()
    g[6] = g[-1, 1] = g[3, 2] = 0
    return case._replace(g=g)


def tolerance_of(case: Case) -> dict[str, float]:
    """What the arrays of a case may be wrong by."""
    if np.count_nonzero(case.g) == case.g.size:
        return tolerance(case.cell, case.unconstrained, case.dtype.type)
    return {name: error.tolerance for name, error in measure(outputs(None, case), case).items()}


def changes(case: Case, deviations: list[Deviation]) -> dict[str, dict[str, float]]:
    """By deviation and array: the change relative to the largest honest entry; infinite where the shape changes."""
    honest, found = outputs(None, case), {}
    for deviation in deviations:
        found[deviation.name] = {}
        for name, array in outputs(deviation, case).items():
            moved = np.max(np.abs(array - honest[name]), initial=0.0) if array.shape == honest[name].shape else np.inf
            found[deviation.name][name] = moved / np.max(np.abs(honest[name])) if moved else 0.0
    return found


def hidden(case: Case) -> tuple[set[str], set[str]]:
    """Deviations of a case's cell that change nothing but by rounding: in no array, and in the states."""
    of_all = changes(case, [d for d in CATALOGUE if case.cell in d.cells])
    unmoved = {name for name, of_arrays in of_all.items() if max(of_arrays.values()) < 1e-11}
    return unmoved, {name for name, of_arrays in of_all.items() if of_arrays["h"] < 1e-11}


def zeroed(case: Case, *names: str) -> Case:
    leaves = {name: np.zeros_like(getattr(case.parameters, name)) for name in names}
    return case._replace(parameters=case.parameters._replace(**leaves))


# the catalogue


def test_the_catalogue_says_what_it_must() -> None:
    assert Counter(d.kind for d in CATALOGUE) == {"convention": 10, "forward": 55, "gradient": 78}
    assert len({d.name for d in CATALOGUE}) == len(CATALOGUE) == 143
    assert Counter(cell for _, cell in PAIRS) == {"antisymmetric": 114, "gated": 143}
    derivation = (Path(antisymrnn_ref.__file__).parent / "DERIVATION.md").read_text(encoding="utf-8")
    anchors = set(re.findall(r"\*\*\(([A-Z]+[0-9]+)\)\*\*", derivation))
    for deviation in CATALOGUE:
        assert set(deviation.cells) <= set(CELLS)
        assert deviation.cells
        assert deviation.tags, deviation.name
        assert set(deviation.tags) <= anchors, deviation.name
        assert all(text.endswith(".") for text in (deviation.statement, deviation.usual_cause, deviation.fix))


def test_names_are_looked_up() -> None:
    assert by_name("dW = G").kind == "gradient"
    with pytest.raises(KeyError):
        by_name("dW = H")


@pytest.mark.parametrize(("deviation", "cell"), PAIRS, ids=IDS)
def test_every_deviation_is_visible_in_a_generic_case(deviation: Deviation, cell: str) -> None:
    for dtype in (np.float64, np.float32):
        case = telling(deviation, cell, dtype)
        allowed = tolerance_of(case)
        change = changes(case, [deviation])[deviation.name]
        assert max(change[name] / allowed[name] for name in allowed) > FAR


@pytest.mark.parametrize("cell", CELLS)
def test_a_gradient_mistake_leaves_the_states_alone(cell: str) -> None:
    gradient = {d.name for d in CATALOGUE if d.kind == "gradient" and cell in d.cells}
    forward = {d.name for d in CATALOGUE if d.kind == "forward" and cell in d.cells}
    in_both = [hidden(generic(cell, unconstrained=unconstrained))[1] for unconstrained in (False, True)]
    assert gradient <= in_both[0]
    assert gradient <= in_both[1]
    assert not forward & in_both[0] & in_both[1]


FIRST_SAMPLE = ("input of the first sample for every sample", "h_0 of the first sample for every sample")

CORNERS = {
    "ε = 1": (lambda case: case._replace(step_size=1.0), {"ε missing in δ", "ε missing in δ_z"}),
    "γ = 0": (
        lambda case: case._replace(diffusion=0.0),
        {"γ missing in the adjoint", "γ missing in all of backward", "γ of the wrong sign in the adjoint"},
    ),
    "W = 0": (lambda case: zeroed(case, "W"), {"missing transpose in the adjoint"}),
    "biases 0": (lambda case: zeroed(case, *[name for name in case.parameters._fields if name[0] == "b"]), set()),
    "h_0 = 0": (lambda case: case._replace(h0=np.zeros_like(case.h0)), set()),
    "loss on the last state alone": (
        lambda case: case._replace(g=case.g[-1]),
        {
            "missing cotangent on h_0",
            "missing cotangents on intermediate states",
            "cotangent injected at the last step only",
            "gradients of the mean over the states",
        },
    ),
    "cotangents all ones": (lambda case: case._replace(g=np.ones_like(case.g)), {"cotangent of the next state"}),
    "B = 1": (
        lambda case: case._replace(x=case.x[:, :1], h0=case.h0[:1], g=case.g[:, :1]),
        {
            "gradients of the mean loss",
            "mean instead of sum over the batch",
            "mean instead of sum over the batch in db",
            "x reshaped instead of transposed",
            "sums of the first sample only",
            *FIRST_SAMPLE,
        },
    ),
    "T = 1": (
        lambda case: case._replace(x=case.x[:1], g=case.g[:2]),
        {
            *(f"input of the step {which}{end}" for which in ("before", "after") for end in (", wrapped", " in dV")),
            *(f"dx of the step {which}, wrapped" for which in ("before", "after")),
            *(f"{what} of the {which} step only" for what in ("db", "dV", "dW") for which in ("first", "last")),
            *(f"backpropagation through the last {length} steps only" for length in (2, 5, 10)),
            "x reshaped instead of transposed",
            "missing cotangents on intermediate states",
            "gradients of the parameters clipped to [−1, 1]",
            "input of the first step at every step",
            "mean instead of sum over the steps",
        },
    ),
}
"""A corner, and what cannot be seen there; in the constrained cell, beside what only the ablation shows."""

CORNERS_OF_STATES = {
    "ε = 1": {"ε dropped", "ε applied to h too"},
    "γ = 0": {
        "γ subtracted from every entry of M",
        "γ subtracted from every pre-activation",
        "γ of the wrong sign",
        "γ missing",
        "2γ",
        "γ outside the tanh too",
    },
    "W = 0": {
        "row vectors",
        "W in place of W − Wᵀ",
        "W + Wᵀ",
        "(W − Wᵀ) / 2",
        "2W in place of W − Wᵀ",
        "upper triangle of W alone",
        "lower triangle of W alone",
        "M transposed in the gate alone",
    },
    "biases 0": {"gate bias missing", "candidate bias missing", "candidate's bias in the gate"},
    "h_0 = 0": {"h_0 ignored", "h_0 of the first sample for every sample"},
    "B = 1": {"x reshaped instead of transposed", *FIRST_SAMPLE},
    "T = 1": {
        "input of the first step at every step",
        "x reshaped instead of transposed",
        "input of the step before, wrapped",
        "input of the step after, wrapped",
    },
}
"""A corner, and which mistakes of the forward pass, and of conventions the row vectors, its states cannot show."""


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("corner", CORNERS)
def test_corners_hide_what_the_table_says(corner: str, cell: str) -> None:
    change, expected = CORNERS[corner]
    here = {d.name for d in CATALOGUE if cell in d.cells}
    unmoved, with_right_states = (names - ABLATION_ALONE - ZEROS_ALONE for names in hidden(change(generic(cell))))
    assert unmoved == expected & here
    of_forward = {d.name for d in CATALOGUE if d.kind == "forward"} | {"row vectors"}
    assert with_right_states & of_forward == CORNERS_OF_STATES.get(corner, set()) & here


@pytest.mark.parametrize("cell", CELLS)
def test_the_ablation_hides_what_the_table_says(cell: str) -> None:
    assert hidden(generic(cell, unconstrained=True))[0] == CONSTRAINED_ALONE | ZEROS_ALONE
    assert hidden(generic(cell))[0] == ABLATION_ALONE | ZEROS_ALONE
    assert not hidden(with_zeros(generic(cell)))[0] & ZEROS_ALONE


# what a deviation gives


@pytest.mark.parametrize("unconstrained", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_wrong_forward_passes_are_differentiated_right(cell: str, unconstrained: bool) -> None:
    """Σ ⟨g_t, dh_t⟩ along a random direction of every input, by the complex step and from the gradients."""
    case = generic(cell, unconstrained=unconstrained)
    fields = case.parameters._fields
    generator = np.random.default_rng(1)
    inputs = [*case.parameters, case.x, case.h0, case.step_size, case.diffusion]
    direction = [generator.standard_normal(np.shape(value)) for value in inputs]
    functions = [d for d in CATALOGUE if cell in d.cells and (d.kind == "forward" or "reads" in d.replaces)]
    assert len(functions) == {"antisymmetric": 43, "gated": 57}[cell]
    for deviation in (None, *functions):
        forward = inspect.unwrap(getattr(planted(deviation), cell).forward)

        def states(*values: object, forward: object = forward) -> np.ndarray:
            *leaves, x, h0, step_size, diffusion = values
            return forward(
                type(case.parameters)(*leaves), x, h0,
                step_size=complex(step_size), diffusion=complex(diffusion), unconstrained=unconstrained,
            ).h  # fmt: skip

        pushed = float((case.g * complex_step(states, inputs, direction)).sum())
        gradients = outputs(deviation, case)
        terms = [
            gradients[name] * v
            for name, v in zip((*fields, "x", "h0", "step_size", "diffusion"), direction, strict=True)
        ]
        scale = sum(np.abs(term).sum() for term in terms)
        assert abs(pushed - sum(term.sum() for term in terms)) < 1e-13 * scale, deviation and deviation.name


@pytest.mark.parametrize("cell", CELLS)
def test_outputs_are_what_the_planted_backend_gives(cell: str) -> None:
    for dtype in (np.float64, np.float32):
        case = generic(cell, dtype=dtype)
        for deviation in (None, *(d for d in CATALOGUE if cell in d.cells)):
            arrays, got = outputs(deviation, case), run(planted(deviation), case)
            assert list(arrays) == list(got)
            for name, array in arrays.items():
                assert array.dtype == dtype
                assert array.shape == got[name].shape
                assert array.tobytes() == got[name].tobytes(), (deviation and deviation.name, name)


def states_written_again(
    case: Case,
    *,
    W: Callable = lambda W: W - W.T,
    γ: float = -1.0,
    x: Callable = lambda x: x,
    V: Callable = lambda V: V,
    b: float = 1.0,
    in_gate: str = "V_z",
    M_in_gate: float = 1.0,
    s: Callable = np.tanh,
    z: Callable = lambda a: 1 / (1 + np.exp(-a)),
    step: Callable = lambda k: k.h + k.ε * k.z * k.s,
) -> np.ndarray:
    """States of the gated cell by a loop that knows nothing of the recurrence of the deviations."""
    p, h = case.parameters, [case.h0]
    M = W(p.W) + γ * case.diffusion * np.eye(len(p.W))
    for x_t in x(case.x):
        Mh = h[-1] @ M.T
        a, a_z = Mh + x_t @ V(p.V).T + b * p.b, M_in_gate * Mh + x_t @ V(getattr(p, in_gate)).T + p.b_z
        h.append(step(SimpleNamespace(h=h[-1], s=s(a), z=z(a_z), ε=case.step_size, γ=case.diffusion)))
    return np.stack(h)


def skew(part: np.ndarray) -> np.ndarray:
    return part - part.T


WRITTEN_AGAIN = {
    None: {},
    "γ missing": {"γ": 0.0},
    "2γ": {"γ": -2.0},
    "W + Wᵀ": {"W": lambda W: W + W.T},
    "lower triangle of W alone": {"W": lambda W: skew(np.tril(W, -1))},
    "M h missing in the gate": {"M_in_gate": 0.0},
    "candidate bias missing": {"b": 0.0},
    "candidate's input weights in the gate": {"in_gate": "V"},
    "input of the step before, zero at the end": {"x": lambda x: np.concatenate([0 * x[:1], x[:-1]])},
    "input of the step after, zero at the end": {"x": lambda x: np.concatenate([x[1:], 0 * x[:1]])},
    "input of the step after, wrapped": {"x": lambda x: np.concatenate([x[1:], x[:1]])},
    "x reshaped instead of transposed": {"x": lambda x: x.reshape(4, 11, 3).transpose(1, 0, 2)},
    "V reshaped instead of transposed": {"V": lambda V: V.reshape(3, 7).T},
    "hard tanh": {"s": lambda a: np.clip(a, -1, 1)},
    "ReLU in place of tanh": {"s": lambda a: np.maximum(a, 0)},
    "hard σ, slope 1/5": {"z": lambda a: np.clip(a / 5 + 1 / 2, 0, 1)},
    "hard σ, slope 1/6": {"z": lambda a: np.clip(a / 6 + 1 / 2, 0, 1)},
    "ε applied to h too": {"step": lambda k: k.ε * (k.h + k.z * k.s)},
    "leaky update": {"step": lambda k: (1 - k.ε) * k.h + k.ε * k.z * k.s},
    "γ outside the tanh too": {"step": lambda k: k.h + k.ε * (k.z * k.s - k.γ * k.h)},
    "gate dropped": {"step": lambda k: k.h + k.ε * k.s},
    "gate on the state": {"step": lambda k: k.z * k.h + k.ε * k.s},
    "GRU's update": {"step": lambda k: (1 - k.z) * k.h + k.z * k.s},
}


@pytest.mark.parametrize("name", WRITTEN_AGAIN)
def test_a_mistake_of_the_states_is_what_its_name_says(name: str | None) -> None:
    case = generic("gated")._replace(step_size=0.9)
    given = outputs(by_name(name) if name else None, case)["h"]
    np.testing.assert_allclose(given, states_written_again(case, **WRITTEN_AGAIN[name]), rtol=1e-12, atol=1e-12)


def part(case: Case, begin: int, end: int) -> dict[str, np.ndarray]:
    """Gradients of the steps from ``begin`` to ``end`` alone: a problem of its own."""
    h = outputs(None, case)["h"]
    return outputs(None, case._replace(x=case.x[begin:end], h0=h[begin], g=case.g[begin : end + 1]))


def test_a_mistake_of_the_gradients_is_what_its_name_says() -> None:
    case = generic("gated")
    T, fields = len(case.x), ("W", "V", "b", "V_z", "b_z", "step_size", "diffusion")
    right, last, rest = outputs(None, case), part(case, T - 1, T), part(case, 1, T)
    first = outputs(None, case._replace(x=case.x[:1], g=np.stack([case.g[0], rest["h0"]])))
    chunks = [part(case, begin, min(begin + 5, T)) for begin in range(0, T, 5)]
    expected = {
        "dh_0 = g_0": {"h0": case.g[0]},
        "dh_0 = adjoint_1": {"h0": rest["h0"]},
        "first step left out of backward": {name: rest[name] for name in (*fields, "h0")},
        "backpropagation through the last 5 steps only": {name: part(case, T - 5, T)[name] for name in fields},
        "state detached after every 5 steps": {name: sum(chunk[name] for chunk in chunks) for name in fields},
        "db_z equal to db": {"b": right["b"], "b_z": right["b"]},
        "dV_z equal to dV": {"V": right["V"], "V_z": right["V"]},
        "gate held constant": {"V_z": 0 * right["V_z"], "b_z": 0 * right["b_z"]},
        "gradients of the mean loss": {name: array / 4 for name, array in right.items() if name != "h"},
        "mean instead of sum over the batch in db": {"b": right["b"] / 4, "b_z": right["b_z"] / 4, "V": right["V"]},
        "dW of the strict upper triangle": {"W": np.triu(right["W"], 1)},
        "dx of the step before, wrapped": {"x": np.roll(right["x"], 1, axis=0)},
        "dx of the step after, wrapped": {"x": np.roll(right["x"], -1, axis=0)},
        "dx of the step before, zero at the end": {"x": np.concatenate([0 * right["x"][:1], right["x"][:-1]])},
        "dx of the step after, zero at the end": {"x": np.concatenate([right["x"][1:], 0 * right["x"][:1]])},
    }
    for which, alone in (("last", last), ("first", first)):
        expected |= {f"db of the {which} step only": {"b": alone["b"], "b_z": alone["b_z"]}}
        expected |= {f"dV of the {which} step only": {"V": alone["V"], "V_z": alone["V_z"]}}
        expected |= {f"dW of the {which} step only": {"W": alone["W"], "diffusion": alone["diffusion"]}}
    for name, arrays in expected.items():
        got = outputs(by_name(name), case)
        for array, wanted in arrays.items():
            np.testing.assert_allclose(got[array], wanted, rtol=1e-11, atol=1e-11, err_msg=f"{name}: {array}")


def test_a_deviation_of_another_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="gate bias missing: expected a cell of gated, got antisymmetric"):
        outputs(by_name("gate bias missing"), generic("antisymmetric"))


# diagnosis


def expected_names(deviation: Deviation, unconstrained: bool) -> set[tuple[str, ...]]:
    tied = next((tie for tie in TIES[unconstrained] if deviation.name in tie), {deviation.name})
    return {(name,) for name in tied}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("unconstrained", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_every_planted_deviation_is_found_by_name(cell: str, unconstrained: bool, dtype: type) -> None:
    case, allowed = generic(cell, unconstrained=unconstrained, dtype=dtype), tolerance(cell, unconstrained, dtype)
    unseen = ZEROS_ALONE | (CONSTRAINED_ALONE if unconstrained else ABLATION_ALONE)
    seen = [d for d in CATALOGUE if cell in d.cells and d.name not in unseen]
    assert len(seen) == sum(cell in d.cells for d in CATALOGUE) - len(unseen)
    for deviation in seen:
        matches = identify(run(planted(deviation), case), case, tolerance=allowed)
        assert {match.names for match in matches} == expected_names(deviation, unconstrained)
        assert all(match.error <= 1 and match.evidence for match in matches)
        assert [match.error for match in matches] == sorted(match.error for match in matches)


@pytest.mark.parametrize("backend_name", ["numpy", "numba"])
def test_honest_arrays_match_nothing(backend_name: str) -> None:
    try:
        backend = load_backend(backend_name)
    except BackendUnavailable as absent:
        pytest.skip(str(absent))
    for cell in CELLS:
        for dtype in (np.float64, np.float32):
            for unconstrained in (False, True):
                case = generic(cell, unconstrained=unconstrained, dtype=dtype)
                arrays = run(backend, case)
                allowed = tolerance(cell, unconstrained, dtype)
                assert identify(arrays, case, tolerance=allowed) == []
                assert identify({"h": arrays["h"]}, case, tolerance=allowed) == []


def test_states_alone_name_the_mistakes_of_the_forward_pass() -> None:
    case = generic("gated")
    for deviation in CATALOGUE:
        if deviation.kind == "forward" and deviation.name not in ABLATION_ALONE:
            (match,) = identify({"h": outputs(deviation, case)["h"]}, case, tolerance=1e-12)
            assert match.names == (deviation.name,)
            assert match.evidence == ("h",)
        elif deviation.kind == "gradient":
            assert identify({"h": outputs(deviation, case)["h"]}, case, tolerance=1e-12) == []


@pytest.mark.parametrize("keep_every", [2, 4, 1000])
def test_kept_states_name_the_mistakes_of_the_forward_pass(keep_every: int) -> None:
    case = generic("gated")
    for deviation in CATALOGUE:
        if deviation.kind != "forward" or deviation.name in ABLATION_ALONE:
            continue
        h = outputs(deviation, case)["h"][kept_steps(len(case.x), keep_every)]
        found = {match.names for match in identify({"h": h}, case, tolerance=1e-12, keep_every=keep_every)}
        assert (deviation.name,) in found
    h = outputs(None, case)["h"][kept_steps(len(case.x), keep_every)]
    assert identify({"h": h}, case, tolerance=1e-12, keep_every=keep_every) == []


def test_evidence_is_where_a_deviation_differs() -> None:
    case = generic("gated")
    everything = ("h", "W", "V", "b", "V_z", "b_z", "x", "h0", "step_size", "diffusion")
    for name, evidence in {
        "dW = G": ("W",),
        "dγ missing": ("diffusion",),
        "bias split in two": ("b", "b_z"),
        "mean instead of sum over the batch": ("W", "V", "b", "V_z", "b_z", "step_size", "diffusion"),
        "cotangent injected at the last step only": everything[1:],
        "gate bias missing": everything,
    }.items():
        arrays = outputs(by_name(name), case)
        (match,) = identify(arrays, case, tolerance=1e-12)
        assert match.evidence == evidence
        # arrays that are right are no evidence, and a wrong one of another origin is against it
        right = {other: array for other, array in arrays.items() if other not in evidence}
        assert identify(right, case, tolerance=1e-12) == []
        for other in everything:
            assert identify(arrays | {other: arrays[other] + 1e-6}, case, tolerance=1e-12) == []


def test_deviations_that_a_case_cannot_tell_apart_are_all_named() -> None:
    case = generic("antisymmetric")
    last = case._replace(g=case.g[-1])
    # no other cotangent arrives: it is all the same whether a state is a constant or detached, and T − 1 = 10
    tied = {"backpropagation through the last step only", "state detached after every step"}
    tied |= {f"state detached after every {length} steps" for length in (2, 5, 10)}
    for name in tied:
        assert {match.names for match in identify(outputs(by_name(name), last), last, tolerance=1e-12)} == {
            (other,) for other in tied
        }
        assert [match.names for match in identify(outputs(by_name(name), case), case, tolerance=1e-12)] == [(name,)]


@pytest.mark.parametrize("cell", CELLS)
def test_a_convention_and_a_mistake_are_named_together(cell: str) -> None:
    case, allowed = generic(cell), tolerance(cell, False, np.float64)
    mistakes = [by_name(name) for name in ("γ missing", "residual dropped", "dW = G", "dh_0 missing")]
    for convention in (d for d in CATALOGUE if d.kind == "convention" and cell in d.cells):
        for mistake in mistakes:
            given = case
            if "reads" in convention.replaces:
                leaves = convention.lines.reads(case.parameters._asdict())
                given = case._replace(parameters=type(case.parameters)(**leaves))
            arrays = convention.lines.returns(run(planted(mistake), given), case.x.shape[1])
            names = [match.names for match in identify(arrays, case, tolerance=allowed)]
            assert (convention.name, mistake.name) in names


def test_a_deviation_is_named_from_a_few_tolerances_on() -> None:
    case = random_case("antisymmetric", 3, 2, 3, 2, step_size=0.3, diffusion=1e-6, seed=0)
    h, honest = outputs(by_name("γ missing"), case)["h"], outputs(None, case)["h"]
    moved = np.max(np.abs(h - honest)) / np.max(np.abs(honest))
    # both may be off by a tolerance, and twice that is measurable
    for times, names in ((3.5, []), (4.5, [("γ missing",)])):
        assert [match.names for match in identify({"h": h}, case, tolerance=moved / times)] == names


def test_the_agreement_is_told_in_units_of_what_it_may_be() -> None:
    case = generic("antisymmetric")
    arrays = outputs(by_name("dW = G"), case)
    size = np.max(np.abs(arrays["V"]))
    for share in (0.25, 0.75):
        moved = {**arrays, "V": arrays["V"] + share * 1e-9 * size}
        (match,) = identify(moved, case, tolerance=1e-9)
        assert match.error == pytest.approx(share, rel=1e-3)
    assert identify({**arrays, "V": arrays["V"] + 1.1e-9 * size}, case, tolerance=1e-9) == []
    assert identify({**arrays, "V": arrays["V"] + 5e-14 * size}, case, tolerance=1e-14) == []


def test_an_unknown_array_is_refused() -> None:
    with pytest.raises(ValueError, match="arrays: expected some of h, W, V, b, x, h0, step_size, diffusion, got M"):
        identify({"M": np.zeros(1)}, generic("antisymmetric"), tolerance=1e-12)


def test_arrays_of_another_shape_or_with_nan_match_nothing() -> None:
    case = generic("antisymmetric")
    arrays = outputs(by_name("γ missing"), case)
    assert identify(arrays | {"W": arrays["W"][:-1]}, case, tolerance=1e-12) == []
    for value in (np.nan, np.inf):
        assert identify(arrays | {"W": np.full_like(arrays["W"], value)}, case, tolerance=1e-12) == []


# the same mistakes in the source of the specification


def test_every_mistake_is_written_in_the_source_too() -> None:
    assert list(EDITS) == [deviation.name for deviation in CATALOGUE]
    for deviation in CATALOGUE:
        for cell in deviation.cells:
            # what the cells share stands in one module
            assert any(edit.cell in (cell, "antisymmetric") for edit in EDITS[deviation.name]), deviation.name


def arrays_of_the_edited(deviation: Deviation, case: Case) -> dict[str, np.ndarray]:
    """What the specification gives with a mistake in its source; the states alone where only they are edited."""
    edited, honest = (getattr(backend, case.cell) for backend in (edited_specification(EDITS[deviation.name]), numpy_))
    h = edited.forward(case.parameters, case.x, case.h0, **case.arguments).h
    if deviation.kind == "forward" or "reads" in deviation.replaces:
        return {"h": h}
    # an output in another layout is not the trajectory's
    right = edited.Trajectory(*honest.forward(case.parameters, case.x, case.h0, **case.arguments))
    return named_arrays(h, edited.backward(case.parameters, case.x, right, case.g, **case.arguments))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("deviation", "cell"), PAIRS, ids=IDS)
def test_the_wrong_line_gives_what_the_catalogue_predicts(deviation: Deviation, cell: str, dtype: type) -> None:
    """Code that shares no line with the recurrence of the deviations, and adds in another order."""
    case = telling(deviation, cell, dtype)
    arrays, predicted = arrays_of_the_edited(deviation, case), outputs(deviation, case)
    for name, array in arrays.items():
        assert array.shape == predicted[name].shape, name
        assert array.dtype == dtype
    matches = identify(arrays, case, tolerance=tolerance_of(case))
    assert {match.names for match in matches} == expected_names(deviation, case.unconstrained)


# the kit rejects them


@pytest.mark.parametrize(("deviation", "cell"), PAIRS, ids=IDS)
def test_every_planted_deviation_is_rejected(deviation: Deviation, cell: str) -> None:
    for dtype in (np.float64, np.float32):
        result = certify("planted", telling(deviation, cell, dtype)).run(planted(deviation))
        assert result.status == "failed"
        # one that only crashes would be no evidence that wrong numbers are seen
        assert "relative error" in result.detail


@pytest.mark.slow
def test_the_honest_copy_keeps_every_promise() -> None:
    results = [check.run(planted(None)) for check in iter_checks("planted", quick=True)]
    assert len(results) > 250
    assert [result for result in results if result.status != "passed"] == []


STRANGERS = [
    Deviation(
        "softsign in place of tanh", "forward", CELLS, "", "", "", (),
        {"candidate": Activation(lambda a: a / (1 + np.abs(a)), lambda a, s: (1 - np.abs(s)) ** 2)},  # noqa: ARG005
    ),
    Deviation(
        "the increment of Heun's first half", "forward", CELLS, "", "", "", (),
        {
            "update": Update(
                lambda k: k.h + k.step_size / 2 * k.z * k.s,
                lambda k: Slopes(1.0, k.step_size / 2 * k.z, k.step_size / 2 * k.s, k.z * k.s / 2),
            )
        },
    ),
    Deviation(
        "adjoint squashed", "gradient", CELLS, "", "", "", (),
        {"arrive": lambda k, carried, g: np.tanh(carried + g)},  # noqa: ARG005
    ),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("stranger", STRANGERS, ids=[stranger.name for stranger in STRANGERS])
def test_a_mistake_that_nobody_foresaw_is_rejected_and_not_named(stranger: Deviation, cell: str, dtype: type) -> None:
    assert stranger.name not in {deviation.name for deviation in CATALOGUE}
    case, backend = generic(cell, dtype=dtype), planted(stranger)
    assert "relative error" in certify("planted", case).run(backend).detail
    arrays, allowed = run(backend, case), tolerance(cell, False, dtype)
    assert identify(arrays, case, tolerance=allowed) == []
    if stranger.kind == "forward":
        assert identify({"h": arrays["h"]}, case, tolerance=allowed) == []


def test_named_arrays_are_the_names_of_the_outputs() -> None:
    case = generic("gated")
    specification = load_backend("numpy").gated
    trajectory = specification.forward(case.parameters, case.x, case.h0, **case.arguments)
    gradients = specification.backward(case.parameters, case.x, trajectory, case.g, **case.arguments)
    assert list(outputs(None, case)) == list(named_arrays(trajectory.h, gradients))
