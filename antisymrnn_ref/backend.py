"""Find a backend by name."""

from __future__ import annotations

import difflib
import importlib
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from antisymrnn_ref.contract import BackendUnavailable

ENTRY_POINT_GROUP = "antisymrnn_ref.backends"
BUILT_IN = {"numpy": "antisymrnn_ref", "numba": "antisymrnn_numba", "cupy": "antisymrnn_cupy"}
_EXTRAS = {"numba": ("numba",), "cupy": ("cuda12", "cuda13")}
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
        If the backend is known but cannot run here; the message says why and how to fix it.
    ValueError
        If nothing has that name; the message lists what is known, and a name that is close.
    TypeError
        If ``name`` is not a string, its entry point is not the path of a module, or the module is not a backend.
    """
    if not isinstance(name, str):
        raise TypeError(f"backend: expected a name, got {type(name).__name__}")
    modules = backend_modules()
    path = modules.get(name, name)
    close = difflib.get_close_matches(name.lower(), modules, cutoff=0.75)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    unknown = f"backend: expected one of {', '.join(modules)} or a module path, got {name!r}"
    if not all(part.isidentifier() for part in path.split(".")):
        if name in modules:
            raise TypeError(f"backend {name!r}: its entry point is to name a module, such as my_package, got {path!r}")
        raise ValueError(unknown + hint)
    try:
        module = importlib.import_module(path)
    except BackendUnavailable:
        raise
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and f"{path}.".startswith(f"{error.name}.")
        if absent and name not in modules:
            raise ValueError(unknown + (hint or f"; there is no module {error.name!r} where Python looks")) from None
        if absent and name in BUILT_IN:
            reason = f"this version of antisymrnn-ref comes without the package {path}; install one that has it"
            raise BackendUnavailable(f"backend {name!r}: {reason}") from error
        reason = f"importing {path} failed: {error}"
        if name not in _EXTRAS:
            reason += f"; install the package that brings {error.name or path}"
        raise BackendUnavailable(f"backend {name!r}: {reason}", extras=_EXTRAS.get(name, ())) from error
    missing = [promise for promise in _PROMISED if not _has(module, promise)]
    if missing:
        raise TypeError(f"backend {name!r}: {path} is not a backend, it has no {', '.join(missing)}")
    return module


def _has(module: ModuleType, promise: str) -> bool:
    owner: Any = module
    for part in promise.split("."):
        owner = getattr(owner, part, None)
    return callable(owner)
