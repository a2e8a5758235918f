"""Affine readout and softmax cross-entropy."""

from __future__ import annotations

import inspect
import math
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from antisymrnn_ref.readout import ReadoutParameters, cross_entropy

B, n, c = 4, 5, 3


def problem(seed: int = 0, scale: float = 1.0, dtype: Any = np.float64) -> tuple[ReadoutParameters, Any, Any]:
    generator = np.random.default_rng(seed)
    parameters = ReadoutParameters(
        (scale * generator.standard_normal((c, n))).astype(dtype), generator.standard_normal(c).astype(dtype)
    )
    return parameters, generator.standard_normal((B, n)).astype(dtype), generator.integers(0, c, B)


def exact(parameters: ReadoutParameters, h: Any, labels: Any) -> tuple[Any, Any]:
    """Loss and its gradient with respect to the logits at 60 digits."""
    with mpmath.workdps(60):
        weights, bias = (mpmath.matrix(a.tolist()) for a in parameters)
        loss, dlogits = mpmath.mpf(0), []
        for row, label in zip(h.tolist(), labels.tolist(), strict=True):
            y = weights * mpmath.matrix(row) + bias
            total = sum(mpmath.exp(v - y[label]) for v in y)
            loss += mpmath.log(total) / len(labels)
            dlogits.append([(mpmath.exp(v - y[label]) / total - (k == label)) / len(labels) for k, v in enumerate(y)])
        return loss, dlogits


@given(st.integers(0, 2**32), st.sampled_from([0.1, 1.0, 10.0, 100.0]))
def test_against_sixty_digits(seed: int, scale: float) -> None:
    parameters, h, labels = problem(seed, scale)
    result = cross_entropy(parameters, h, labels)
    loss, dlogits = exact(parameters, h, labels)
    # a rounding error in the logits is a relative error of each exponential
    size = float((np.abs(h) @ np.abs(parameters.weights).T + np.abs(parameters.bias)).max())
    allowed = 1e-15 * (n + 4) * (1 + size)
    assert abs(mpmath.mpf(result.value.item()) - loss) <= allowed * max(abs(loss), mpmath.mpf(1))
    gradient = np.array(dlogits, dtype=float)
    np.testing.assert_allclose(result.h, gradient @ parameters.weights, rtol=0, atol=allowed * scale)
    np.testing.assert_allclose(result.parameters.weights, gradient.T @ h, rtol=0, atol=allowed * 4)
    np.testing.assert_allclose(result.parameters.bias, gradient.sum(axis=0), rtol=0, atol=allowed)


def test_gradients_are_the_complex_step() -> None:
    parameters, h, labels = problem()
    result = cross_entropy(parameters, h, labels)

    def loss(weights: Any, bias: Any, h: Any) -> Any:
        y = h @ weights.T + bias
        return np.mean(np.log(np.exp(y).sum(axis=1)) - y[np.arange(B), labels])

    inputs = [*parameters, h]
    for k, gradient in enumerate([*result.parameters, result.h]):
        for index in np.ndindex(gradient.shape):
            moved = [a.astype(complex) for a in inputs]
            moved[k][index] += 1e-100j
            assert gradient[index] == pytest.approx(loss(*moved).imag / 1e-100, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("logit", [1e4, 1e300, -1e300])
def test_large_logits(logit: float) -> None:
    parameters = ReadoutParameters(np.zeros((2, 1)), np.array([logit, 0.0]))
    loss = [cross_entropy(parameters, np.zeros((1, 1)), np.array([label])).value.item() for label in (0, 1)]
    assert loss == [max(0.0, -logit), max(0.0, logit)]


def test_a_nearly_certain_sample_keeps_its_digits() -> None:
    parameters = ReadoutParameters(np.zeros((2, 1)), np.array([60.0, 0.0]))
    result = cross_entropy(parameters, np.zeros((1, 1)), np.array([0]))
    assert result.value.item() == pytest.approx(math.exp(-60), rel=1e-15, abs=0)
    assert result.parameters.bias.tolist() == pytest.approx([-math.exp(-60), math.exp(-60)], rel=1e-15, abs=0)


@given(st.floats(-40, 40), st.floats(-40, 40), st.integers(0, 2))
def test_every_digit_of_the_loss_and_of_the_probabilities_minus_one(first: float, second: float, label: int) -> None:
    bias = np.array([first, second, 0.0])  # the logits, without rounding
    result = cross_entropy(ReadoutParameters(np.zeros((3, 1)), bias), np.zeros((1, 1)), np.array([label]))
    with mpmath.workdps(60):
        y = [mpmath.mpf(value) for value in bias.tolist()]
        total = sum(mpmath.exp(value - y[label]) for value in y)
        others = [mpmath.exp(value - y[label]) / total for value in y]
        others[label] = -sum(value for k, value in enumerate(others) if k != label)
        # a difference of logits is off by u of itself, so its exponential by 40 u; the loss log1p(Σ) has condition <= 1
        # where it is small, and a difference d more than d where it is large
        assert abs(mpmath.mpf(result.value.item()) - mpmath.log(total)) <= 100 * 2.0**-53 * mpmath.log(total)
        for found, expected in zip(result.parameters.bias.tolist(), others, strict=True):
            assert abs(found - expected) <= 100 * 2.0**-53 * abs(expected)


def test_equal_logits() -> None:
    result = cross_entropy(ReadoutParameters(np.zeros((3, 1)), np.zeros(3)), np.ones((2, 1)), np.array([0, 2]))
    assert result.value.item() == pytest.approx(math.log(3), rel=1e-15)
    assert result.parameters.bias == pytest.approx([1 / 3 - 1 / 2, 1 / 3, 1 / 3 - 1 / 2], rel=1e-14)


def test_float32_stays_float32() -> None:
    result = cross_entropy(*problem(dtype=np.float32))
    arrays = (result.value, result.logits, *result.parameters, result.h)
    assert {(type(array), array.dtype) for array in arrays} == {(np.ndarray, np.dtype(np.float32))}


def test_nan_propagates_without_a_warning() -> None:
    parameters, h, labels = problem()
    h[1, 2] = np.nan
    result = cross_entropy(parameters, h, labels)
    assert np.isnan(result.value)
    assert np.isfinite(result.h[[0, 2, 3]]).all()


def test_infinite_logits_give_nan_without_a_warning() -> None:
    parameters = ReadoutParameters(np.array([[1e200], [1.0]]), np.zeros(2))
    result = cross_entropy(parameters, np.full((1, 1), 1e200), np.array([0]))
    assert result.logits.tolist() == [[np.inf, 1e200]]
    assert np.isnan(result.value)


def test_inputs_are_not_written() -> None:
    parameters, h, labels = problem()
    for array in (*parameters, h, labels):
        array.flags.writeable = False
    result = cross_entropy(parameters, h, labels)
    for array in (result.value, result.logits, *result.parameters, result.h):
        assert not any(np.shares_memory(array, given) for given in (*parameters, h, labels))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": np.array([0, 1, 3, 0])}, ValueError, "labels: expected 0 to 2, got 3"),
        ({"labels": np.array([0, -1, 1, 0])}, ValueError, "labels: expected 0 to 2, got -1"),
        ({"labels": np.array([0, 4, 3, 0])}, ValueError, "labels: expected 0 to 2, got 4"),
        ({"labels": np.zeros(4)}, TypeError, "labels: expected integers, got float64"),
        ({"labels": np.arange(4) == 1}, TypeError, "labels: expected integers, got bool"),
        ({"labels": np.zeros(3, int)}, ValueError, "labels: expected (B,) = (4,), got (3,)"),
        ({"labels": [0, 1, 2, 0]}, TypeError, "labels: expected numpy.ndarray, got list"),
        ({"h": np.zeros((4, 6))}, ValueError, "h: expected (B, n) = (B, 5) with B >= 1, got (4, 6)"),
        ({"h": np.zeros((0, 5))}, ValueError, "h: expected (B, n) = (B, 5) with B >= 1, got (0, 5)"),
        ({"h": np.zeros((4, 5), np.float32)}, TypeError, "h: expected dtype float64 as weights has, got float32"),
        (
            {"parameters": ReadoutParameters(np.zeros((3, 5)), np.zeros(4))},
            ValueError,
            "bias: expected (c,) = (3,), got (4,)",
        ),
        (
            {"parameters": ReadoutParameters(np.zeros(5), np.zeros(3))},
            ValueError,
            "weights: expected (c, n) with c >= 1 and n >= 1, got (5,)",
        ),
        (
            {"parameters": ReadoutParameters(np.zeros((3, 5), int), np.zeros(3))},
            TypeError,
            "weights: expected dtype float32 or float64, got int64; convert it: weights.astype(np.float64)",
        ),
        ({"parameters": (1, 2)}, TypeError, "parameters: expected antisymrnn_ref.readout.ReadoutParameters, got tuple"),
    ],
)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    call = dict(zip(inspect.signature(cross_entropy).parameters, problem(), strict=True))
    with pytest.raises(error) as raised:
        cross_entropy(**{**call, **change})
    assert str(raised.value) == message
