"""The paper's initialisation, drawn from a numpy Generator, and the number of trainable parameters.

::

    V ~ N(0, 1/m)                                       (I1)   V_z too, independently
    W ~ N(0, σ_w²/n)                                    (I2)

The second argument of N is a VARIANCE: the standard deviations are 1/√m and σ_w/√n. A common slip takes it for a
standard deviation; then W is √n too small (16 times at n = 256) and V is √m too small. Biases are 0.

Only W − Wᵀ acts: its entries above the diagonal have variance 2σ_w²/n for a full W, and σ_w²/n for a strictly upper
triangular one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from antisymrnn_ref.arguments import DTYPES, Array, check_bool, check_integer, non_negative, type_name
from antisymrnn_ref.contract import GatedParameters, Parameters


def parameters(
    generator: np.random.Generator,
    n: int,
    m: int,
    *,
    sigma_w: float,
    triangular: bool = False,
    dtype: Any = np.float64,
) -> Parameters:
    """Draw the parameters of equation (12) by (I1) and (I2).

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of W and then V, always n² + nm normal numbers in float64, whatever the options: a float32 draw is the
        float64 draw rounded, a triangular one is the full one with zeros.
    n, m : int
        Hidden and input size, at least 1.
    sigma_w : float
        σ_w ≥ 0, one of 0, 1, 2, 4, 8, 16 in the paper. The VARIANCE of an entry of W is σ_w²/n.
    triangular : bool
        Whether W is strictly upper triangular: zero on and below the diagonal.
    dtype : dtype
        float32 or float64.

    Returns
    -------
    parameters : Parameters
        W (n, n), V (n, m), b (n,), C-contiguous.

    Raises
    ------
    TypeError
        For a type or a dtype.
    ValueError
        For a range.

    Notes
    -----
    Source: the paper's section 5 and its appendix on the experiments.
    """
    W, (V,) = _draw(generator, n, m, sigma_w, triangular, dtype, gates=1)
    return Parameters(W, V, np.zeros(n, W.dtype))


def gated_parameters(
    generator: np.random.Generator,
    n: int,
    m: int,
    *,
    sigma_w: float,
    triangular: bool = False,
    dtype: Any = np.float64,
) -> GatedParameters:
    """Draw the parameters of equation (13) by (I1) and (I2).

    Arguments and errors are those of :func:`parameters`. The generator gives W, V and then V_z, so that the same
    seed gives W and V the same values as there.

    Returns
    -------
    parameters : GatedParameters
        W (n, n), V (n, m), b (n,), V_z (n, m), b_z (n,), C-contiguous.
    """
    W, (V, V_z) = _draw(generator, n, m, sigma_w, triangular, dtype, gates=2)
    return GatedParameters(W, V, np.zeros(n, W.dtype), V_z, np.zeros(n, W.dtype))


def parameter_count(n: int, m: int, classes: int, *, gated: bool = False, unconstrained: bool = False) -> int:
    """Count the trainable numbers of a model: cell and readout.

    Parameters
    ----------
    n, m, classes : int
        Hidden size, input size and number of classes, at least 1.
    gated : bool
        Equation (13) in place of (12): a second V and b.
    unconstrained : bool
        The ablation of the paper's Table 2: n² recurrent weights in place of the n(n−1)/2 of a strictly triangular W.

    Returns
    -------
    int
        Recurrent weights, then nm + n per gate, then (n + 1) per class.

    Raises
    ------
    TypeError
        For a type.
    ValueError
        For a size below 1.

    Notes
    -----
    W − Wᵀ has n(n−1)/2 degrees of freedom. Source: the paragraph under equation (10) and Tables 1 and 2. The counts
    printed in Table 2 are those of m = 3 (pixel CIFAR-10); the noise-padded task has m = 96.
    """
    for name, size in (("n", n), ("m", m), ("classes", classes)):
        check_integer(name, size, 1)
    check_bool("gated", gated)
    check_bool("unconstrained", unconstrained)
    n, m, classes = int(n), int(m), int(classes)  # a narrow NumPy integer would overflow
    recurrent = n * n if unconstrained else n * (n - 1) // 2
    return recurrent + (2 if gated else 1) * (n * m + n) + classes * (n + 1)


def _draw(
    generator: Any, n: Any, m: Any, sigma_w: Any, triangular: Any, dtype: Any, gates: int
) -> tuple[Array, list[Array]]:
    """W (n, n), and one V (n, m) per gate, after the checks of the arguments."""
    if not isinstance(generator, np.random.Generator):
        raise TypeError(f"generator: expected numpy.random.Generator, got {type_name(type(generator))}")
    check_integer("n", n, 1)
    check_integer("m", m, 1)
    if not isinstance(dtype, type | np.dtype | str) or dtype not in DTYPES:
        raise TypeError(f"dtype: expected float32 or float64, got {dtype}")
    non_negative("sigma_w", sigma_w, np.dtype(dtype))
    check_bool("triangular", triangular)
    W = float(sigma_w) / math.sqrt(n) * generator.standard_normal((n, n))  # (I2) (n, n)
    inputs = [generator.standard_normal((n, m)) / math.sqrt(m) for _ in range(gates)]  # (I1) (n, m)
    if triangular:
        W = np.triu(W, k=1)
    return W.astype(dtype), [V.astype(dtype) for V in inputs]
