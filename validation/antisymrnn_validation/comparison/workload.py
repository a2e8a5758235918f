"""The floating-point operations and bytes that a contender needs, counted on paper.

Only the matrix products count, two operations for each multiply-add; tanh, biases, ε and γ are left out. With r
products by a recurrent matrix in a step and i by an input matrix, ``COUNTS``::

    forward                        2 T B n (r n + i m)
    backward, the adjoint          2 T B n (r n)
    backward, the parameters       2 T B n (r n + i m)

Anything more that a contender computes, such as its states a second time, is not counted.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from antisymrnn_ref import initialization
from antisymrnn_validation.truth.cases import Case


class Shape(NamedTuple):
    """T steps, B batch, m input, n hidden, in the order in which ``--shape`` takes them."""

    T: int
    B: int
    m: int
    n: int

    def __str__(self) -> str:
        return ",".join(map(str, self))


class Plan(NamedTuple):
    """What is to be timed: a cell, a shape, a dtype."""

    cell: str
    shape: Shape
    dtype: str


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


def timed_case(cell: str, shape: Shape, dtype: Any) -> Case:
    """The case that is timed: the paper's initialisation, ε = γ = 0.01, h0 = 0, random x and g, a last-state loss."""
    generator = np.random.default_rng(0)
    T, B, m, n = shape
    draw = initialization.gated_parameters if cell == "gated" else initialization.parameters
    parameters = draw(generator, n, m, sigma_w=1.0, dtype=dtype)
    biases = {name: generator.standard_normal(n).astype(dtype) for name in parameters._fields if name.startswith("b")}
    x, g = (generator.standard_normal(sizes).astype(dtype) for sizes in ((T, B, m), (B, n)))
    name = f"{cell} {shape} {np.dtype(dtype)}"
    return Case(name, cell, parameters._replace(**biases), x, np.zeros((B, n), dtype), g, 0.01, 0.01)


def everything_case(case: Case) -> Case:
    """The same with a random initial state and a random cotangent on every state."""
    generator = np.random.default_rng(1)
    h0, g = (
        generator.standard_normal(sizes).astype(case.dtype)
        for sizes in (case.h0.shape, (len(case.x) + 1, *case.h0.shape))
    )
    return case._replace(name=f"{case.name}, everything", h0=h0, g=g)
