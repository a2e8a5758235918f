"""The Numba backend: the contract of :mod:`antisymrnn_ref.contract` on the processor, with NumPy's arrays.

Kernels are compiled at the first call of a dtype, or by :func:`warmup`, and kept on disk (where Numba keeps them:
``NUMBA_CACHE_DIR``). A call runs on ``numba.get_num_threads()`` threads at most. Memory of large arrays is used again
when nothing refers to it any more; at most 512 MiB of it are kept unused, until :func:`release_memory`.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from antisymrnn_ref.contract import DTYPES, BackendUnavailable, GatedParameters, Parameters, asarray, to_numpy

try:
    import numba

    from antisymrnn_numba import antisymmetric, gated
    from antisymrnn_numba._memory import release_memory
except ModuleNotFoundError as error:
    if error.name not in ("numba", "llvmlite"):
        raise
    raise BackendUnavailable(f"backend 'numba': the package {error.name} is missing", extras=("numba",)) from error
if getattr(numba.config, "DISABLE_JIT", 0):
    raise BackendUnavailable("backend 'numba': expected NUMBA_DISABLE_JIT unset: its kernels cannot run as Python")

__all__ = ["antisymmetric", "asarray", "gated", "release_memory", "to_numpy", "warmup"]


def warmup(dtypes: Iterable[Any] = DTYPES) -> None:
    """Compile the kernels, or load them from disk, for both cells.

    Parameters
    ----------
    dtypes : iterable of dtype
        float32, float64 or both.
    """
    for dtype in dtypes:
        x, h0 = asarray(np.zeros((1, 1, 1)), dtype), asarray(np.zeros((1, 1)), dtype)
        for cell, kind in ((antisymmetric, Parameters), (gated, GatedParameters)):
            parameters = kind(h0, h0, *([h0[0], h0, h0[0]] if kind is GatedParameters else [h0[0]]))
            trajectory = cell.forward(parameters, x, h0, step_size=1.0, diffusion=0.0)
            cell.backward(parameters, x, trajectory, h0, step_size=1.0, diffusion=0.0)
