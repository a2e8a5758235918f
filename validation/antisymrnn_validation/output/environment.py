"""What a report was made with: versions, BLAS, threads, processor, devices, backends."""

from __future__ import annotations

import importlib
import math
import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from antisymrnn_ref.backend import backend_modules, load_backend
from antisymrnn_validation.output.terminal import one_line, reason

DISTRIBUTIONS = (
    "antisymrnn-ref", "numpy", "scipy", "python-flint", "scikit-learn", "matplotlib", "plotly",
    "pooch", "threadpoolctl", "typer", "rich", "dask", "distributed",
)  # fmt: skip
"""What the commands rest on."""

OPTIONAL = ("numba", "llvmlite", "cupy-cuda12x", "cupy-cuda13x", "torch", "jax")
"""What backends and peers rest on."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def environment() -> dict[str, Any]:
    """Versions, machine and BLAS: what every report carries."""
    return {"versions": versions(), "machine": machine(), "blas": blas()}


def versions() -> dict[str, str]:
    """Versions by name; ``not installed`` where there is none."""
    found = {"python": f"{platform.python_version()} ({platform.python_implementation()})"}
    for name in (*DISTRIBUTIONS, *OPTIONAL):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def usable_processors() -> int:
    """How many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """Operating system, processor, processors to run on, thread limits set from outside."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "logical processors": os.cpu_count(),
        "usable processors": usable_processors(),
        "thread variables": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
    }


def memory_bytes() -> float:
    """Physical memory of the machine; infinity where the system does not say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return math.inf


def blas() -> dict[str, Any]:
    """The BLAS that NumPy was built with, and the thread pools loaded now if threadpoolctl is installed."""
    import numpy as np

    configuration: dict[str, Any] = np.show_config(mode="dicts")  # type: ignore[assignment]
    library = configuration.get("Build Dependencies", {}).get("blas", {})
    built = " ".join(str(library.get(key, "unknown")) for key in ("name", "version"))
    try:
        import threadpoolctl
    except ImportError:
        return {"built with": built, "thread pools": "unknown: threadpoolctl is not installed"}
    fields = ("internal_api", "version", "num_threads", "architecture")
    pools = [{key: pool[key] for key in fields if key in pool} for pool in threadpoolctl.threadpool_info()]
    return {"built with": built, "thread pools": sorted(pools, key=str)}  # found in an order of the operating system


def devices(fields: str = "name,memory.total,driver_version") -> list[str]:
    """NVIDIA devices as their driver lists them; an entry that begins with ``none`` says why there is none.

    ``fields`` are those of ``nvidia-smi --query-gpu``.
    """
    command = shutil.which("nvidia-smi")
    if command is None:
        return ["none: no nvidia-smi on the path"]
    query = [command, f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"none: nvidia-smi did not answer ({type(error).__name__})"]
    lines = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    if answer.returncode or not lines:
        said = (answer.stderr or answer.stdout).strip() or "nothing"
        return [f"none: nvidia-smi said {one_line(said)}"]
    return lines


def installed_backends() -> dict[str, ModuleType | str]:
    """Every known backend by name: the module, or the reason it cannot run here."""
    found: dict[str, ModuleType | str] = {}
    for name in backend_modules():
        try:
            found[name] = load_backend(name)
        except (Exception, SystemExit) as error:  # noqa: BLE001  a third party's module may fail in any way; the reason is shown
            found[name] = reason(error).removeprefix(f"backend {name!r}: ")
    return found


def kernel_tables() -> dict[str, list[str]]:
    """By which table each known backend chooses its kernels, if its module has ``describe()``, able to run or not."""
    found = {}
    for name, path in backend_modules().items():
        try:
            lines = importlib.import_module(path).describe()
        except (Exception, SystemExit):  # noqa: BLE001  no table, or no module
            continue
        found[name] = [str(line) for line in lines]
    return found


def _processor() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()
