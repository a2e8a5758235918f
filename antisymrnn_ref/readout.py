"""Affine layer and softmax cross-entropy on the last state: loss and gradients.

With logits y, labels in {0, …, c−1} and the mean over the batch::

    y  = weights h + bias                               (R1)
    L  = mean over the batch of log Σ_k exp(y_k − y_label)   (R2)
    dy = (softmax(y) − onehot(label)) / B               (R3)
    d weights, d bias = Σ dy hᵀ, Σ dy                   (R4)
    dh = weightsᵀ dy                                    (R5)

The largest logit is subtracted before any exponential, and differences that would cancel (the loss of a sample
that is nearly certain, its probability minus one) are computed as sums of small terms.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from antisymrnn_ref.arguments import Array, Arrays, check_type


class ReadoutParameters(NamedTuple):
    """Parameters of the readout, or the gradients with respect to them.

    Attributes
    ----------
    weights : (c, n) array
    bias : (c,) array
    """

    weights: Array
    bias: Array


class Loss(NamedTuple):
    """The loss and its gradients.

    Attributes
    ----------
    value : () array
        Mean cross-entropy L, in nats.
    logits : (B, c) array
    parameters : ReadoutParameters
        Gradients with respect to weights and bias.
    h : (B, n) array
        ∂L/∂h_T: the cotangent ``g`` of the last state for a cell's ``backward``.
    """

    value: Array
    logits: Array
    parameters: ReadoutParameters
    h: Array


def cross_entropy(parameters: ReadoutParameters, h: Array, labels: Array) -> Loss:
    """Mean softmax cross-entropy of the labels given the last states, and its gradients, by (R1) to (R5).

    Parameters
    ----------
    parameters : ReadoutParameters
        weights (c, n), bias (c,); float32 or float64, as h.
    h : (B, n) array
        Last states.
    labels : (B,) array of integers
        Class of each sample, 0 … c−1.

    Returns
    -------
    Loss
        In memory of its own. No argument is written or kept.

    Raises
    ------
    TypeError
        For a type or a dtype.
    ValueError
        For a shape, or a label out of range.

    Notes
    -----
    The loss is the mean over the batch, so the gradients carry 1/B; a cell's ``backward`` sums what it is given.
    Source: "affine → softmax, cross-entropy" of the paper's section 4; the gradients are derived.
    """
    _check(parameters, h, labels)
    weights, bias = parameters
    rows = np.arange(len(labels))
    with np.errstate(all="ignore"):
        logits = h @ weights.T + bias  # (R1) (B, c)
        largest = logits.argmax(axis=1)
        shifted = logits - logits[rows, largest][:, None]
        exponentials = np.exp(shifted)
        others = exponentials.copy()
        others[rows, largest] = 0
        value = np.mean(np.log1p(others.sum(axis=1)) - shifted[rows, labels])  # (R2) ()
        dlogits = exponentials / exponentials.sum(axis=1, keepdims=True)
        dlogits[rows, labels] = 0
        dlogits[rows, labels] = -dlogits.sum(axis=1)
        dlogits = dlogits / len(labels)  # (R3) (B, c)
        gradients = ReadoutParameters(dlogits.T @ h, dlogits.sum(axis=0))  # (R4) (c, n), (c,)
        return Loss(np.asarray(value), logits, gradients, dlogits @ weights)  # (R5) (B, n)


def _check(parameters: Any, h: Any, labels: Any) -> None:
    check_type("parameters", parameters, ReadoutParameters)
    arrays = Arrays()
    arrays.check("weights", parameters.weights, "c", "n")
    arrays.check("bias", parameters.bias, "c")
    arrays.check("h", h, "B", "n")
    check_type("labels", labels, np.ndarray)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels: expected integers, got {labels.dtype}")
    B, c = arrays.sizes["B"], arrays.sizes["c"]
    if labels.shape != (B,):
        raise ValueError(f"labels: expected (B,) = ({B},), got {labels.shape}")
    outside = labels[(labels < 0) | (labels >= c)]
    if outside.size:
        raise ValueError(f"labels: expected 0 to {c - 1}, got {outside[0]}")
