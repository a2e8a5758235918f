"""The CuPy backend: the contract of :mod:`antisymrnn_ref.contract` on an NVIDIA GPU, with CuPy's arrays.

Importing this package imports nothing heavy; CuPy is imported, and the device looked for, when one of its names is
used. Kernels are compiled at the first call of a dtype and size, and kept on disk by CuPy (``CUPY_CACHE_DIR``).
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["antisymmetric", "asarray", "describe", "gated", "to_numpy"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    device = importlib.import_module("antisymrnn_cupy._device")
    device.current()  # raises where nothing can run
    if name in ("antisymmetric", "gated"):
        return importlib.import_module(f"antisymrnn_cupy.{name}")
    return getattr(device, name)


def describe() -> list[str]:
    """The table by which kernels are chosen, a line for each; needs neither CuPy nor a device."""
    from antisymrnn_cupy._instances import INSTANCES, REAL

    lines = []
    for dtype in REAL:
        for instance in (i for i in INSTANCES if i.dtype == dtype):
            one = instance.cluster == 1
            blocks = "one block" if one else f"from compute capability 9.0 a cluster of {instance.cluster} blocks"
            lines.append(f"{dtype}, n <= {instance.N}: {blocks} of {instance.threads} threads for some samples")
        lines.append(f"{dtype}, any other n, or too little shared memory: a cooperative grid for all samples")
    return lines
