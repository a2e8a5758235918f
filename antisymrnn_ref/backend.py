"""Find a backend by name; and the two conversions that make the specification itself backend zero."""

from __future__ import annotations

import difflib
import importlib
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

import numpy as np

from antisymrnn_ref.arguments import DTYPES, Array, check_type
from antisymrnn_ref.contract import BackendUnavailable

ENTRY_POINT_GROUP = "antisymrnn_ref.backends"
BUILT_IN = {"numpy": "antisymrnn_ref", "numba": "antisymrnn_numba", "cupy": "antisymrnn_cupy"}
_EXTRAS = {"numba": "'antisymrnn-ref[numba]'", "cupy": "'antisymrnn-ref[cuda12]' or 'antisymrnn-ref[cuda13]'"}
_PROMISED = (
    "asarray",
    "to_numpy",
    "antisymmetric.forward",
    "antisymmetric.backward",
    "gated.forward",
    "gated.backward",
)


def backend_modules() -> dict[str, str]:
    """Module path of every known backend by its name: the built-in ones, then those of the entry-point group."""
    registered = {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}
    return registered | BUILT_IN


def load_backend(name: str) -> ModuleType:
    """Import a backend.

    Parameters
    ----------
    name : str
        ``numpy`` (the specification), ``numba``, ``cupy``, a name registered in the entry-point group
        ``antisymrnn_ref.backends``, or a module path such as ``my_package.my_backend``.

    Returns
    -------
    module
        With every name that the contract promises.

    Raises
    ------
    BackendUnavailable
        If the backend is known but cannot run here; the message says why and how to mend it.
    ValueError
        If nothing has that name; the message lists what is known and the closest match.
    TypeError
        If ``name`` is not a string, or the module is not a backend.
    """
    if not isinstance(name, str):
        raise TypeError(f"backend: expected a name, got {type(name).__name__}")
    modules = backend_modules()
    path = modules.get(name, name)
    close = difflib.get_close_matches(name, modules, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    unknown = ValueError(f"backend: expected one of {', '.join(modules)} or a module path, got {name!r}{hint}")
    if not all(part.isidentifier() for part in path.split(".")):
        raise unknown
    try:
        module = importlib.import_module(path)
    except BackendUnavailable:
        raise
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and f"{path}.".startswith(f"{error.name}.")
        if absent and name not in modules:
            raise unknown from None
        if absent and name in BUILT_IN:
            reason = f"this version of antisymrnn-ref comes without the package {path}"
            mend = "install one that has it: pip install --upgrade antisymrnn-ref"
        else:
            reason = f"importing {path} failed: {error}"
            mend = f"install what it needs: pip install {_EXTRAS.get(name, error.name or path)}"
        raise BackendUnavailable(f"backend {name!r}: {reason}; {mend}") from error
    missing = [promise for promise in _PROMISED if not _has(module, promise)]
    if missing:
        raise TypeError(f"backend {name!r}: {path} is not a backend, it has no {', '.join(missing)}")
    return module


def asarray(array: Any, dtype: Any) -> Array:
    """Convert to an array of the specification.

    Parameters
    ----------
    array : array_like
        Real numbers of any shape.
    dtype : dtype
        float32 or float64; rounding to it is what the caller asks for here, and only here.

    Returns
    -------
    numpy.ndarray
        C-contiguous, in memory of its own.

    Raises
    ------
    TypeError
        For another dtype, or for complex numbers, objects or text.
    """
    if dtype is None or np.dtype(dtype) not in DTYPES:
        raise TypeError(f"dtype: expected float32 or float64, got {dtype if dtype is None else np.dtype(dtype)}")
    given = np.asarray(array)
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError("array: expected no mask, got numpy.ma.MaskedArray; fill it first")
    if given.dtype.kind not in "biuf":
        raise TypeError(f"array: expected real numbers, got dtype {given.dtype}")
    with np.errstate(over="ignore"):
        return np.array(given, dtype=dtype, order="C")


def to_numpy(array: Array) -> np.ndarray[Any, Any]:
    """Convert back: a new ``numpy.ndarray`` with the same values.

    Raises
    ------
    TypeError
        If ``array`` is not an array of the specification.
    """
    check_type("array", array, np.ndarray)
    return array.copy()  # type: ignore[no-any-return]


def _has(module: ModuleType, promise: str) -> bool:
    owner: Any = module
    for part in promise.split("."):
        owner = getattr(owner, part, None)
    return callable(owner)
