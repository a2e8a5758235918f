"""What a contender has to compute and to move: floating-point operations and bytes, counted on paper.

Only the matrix products count, two operations for each multiply-add; tanh, biases, ε and γ are left out. With r
products by a recurrent matrix in a step and i by an input matrix, ``COUNTS``::

    forward                        2 T B n (r n + i m)
    backward, the adjoint          2 T B n (r n)
    backward, the parameters       2 T B n (r n + i m)

What a contender computes beside that, such as its states a second time, is its own affair and not counted.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Shape(NamedTuple):
    """T steps, B batch, m input, n hidden, in the order in which ``--shape`` takes them."""

    T: int
    B: int
    m: int
    n: int

    def __str__(self) -> str:
        return ",".join(map(str, self))


class Products(NamedTuple):
    """Matrix products of one step: by recurrent matrices, and by input matrices."""

    recurrent: int
    inputs: int


COUNTS = {
    "antisymmetric": Products(1, 1),
    "gated": Products(1, 2),  # one M for the candidate and the gate
    "nn.RNN": Products(1, 1),
    "nn.GRU": Products(3, 3),
}
"""Of each cell, and of the layers of PyTorch that are timed beside them."""


def forward_operations(cell: str, shape: Shape) -> int:
    """Floating-point operations of forward."""
    T, B, m, n = shape
    recurrent, inputs = COUNTS[cell]
    return 2 * T * B * n * (recurrent * n + inputs * m)


def backward_operations(cell: str, shape: Shape, *, input_gradient: bool = False) -> int:
    """Floating-point operations of backward: the adjoint, the parameters, and dL/dx if asked for."""
    T, B, m, n = shape
    recurrent, inputs = COUNTS[cell]
    adjoint, parameters = recurrent * n, recurrent * n + inputs * m
    return 2 * T * B * n * (adjoint + parameters + (inputs * m if input_gradient else 0))


def extra_bytes(shape: Shape, dtype: Any) -> int:
    """Bytes that an initial state, a cotangent on every state and dL/dx add: those of h0, g_0 … g_{T−1} and dx."""
    T, B, m, n = shape
    return (B * n + T * B * n + T * B * m) * int(np.dtype(dtype).itemsize)
