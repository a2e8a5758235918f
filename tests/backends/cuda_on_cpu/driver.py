"""A stand-in for CuPy and the CUDA driver: NumPy's memory, and kernels run by the emulator.

Everything above the driver runs as it is: argument checks, choice of kernel, workspace, launches, and the very source
of the kernels. What it cannot show: the GPU's memory model, timing, what NVRTC makes of the source, denormals (which
the device flushes), CuPy's own calls.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from cuda_on_cpu import emulator


class Card(NamedTuple):
    """What the stand-in says of its device."""

    capability: str = "90"
    multiprocessors: int = 4
    shared_bytes: int = 227 * 1024
    resident: int = 2
    memory: int = 2**34


class Launch(NamedTuple):
    """One launch as it was made."""

    name: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    stream: int
    call: bytes
    layout: np.dtype[Any]

    @property
    def told(self) -> dict[str, Any]:
        """The kernel's argument, by its fields."""
        return dict(zip(self.layout.names or (), np.frombuffer(self.call, self.layout)[0].tolist(), strict=True))


class CUDARuntimeError(RuntimeError):
    """CuPy's."""


class OutOfMemoryError(MemoryError):
    """CuPy's."""


class Device:
    def __init__(self, card: Card, number: int = 0) -> None:
        self.id, self.compute_capability = number, card.capability
        self.attributes = {
            "MultiProcessorCount": card.multiprocessors,
            "MaxSharedMemoryPerBlockOptin": card.shared_bytes,
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) or getattr(other, "id", None) == self.id  # NumPy's arrays are on "cpu"

    def __repr__(self) -> str:
        return f"device {self.id}"

    __hash__ = None  # type: ignore[assignment]


class Driver:
    """The state of the stand-in.

    Attributes
    ----------
    launches : list of Launch
    seed : int
        Of the next launch's schedule; rises by one with each.
    stream : int
        CuPy's current stream.
    """

    def __init__(self, card: Card, folder: Path, edit: Any = None, sanitizer: str | None = None) -> None:
        self.card, self.folder, self.edit, self.sanitizer = card, folder, edit, sanitizer
        self.launches: list[Launch] = []
        self.seed = self.stream = self.allocated = 0
        self.libraries: dict[str, emulator.Library] = {}
        self.functions: dict[str, Any] = {}
        self.instances: Any = None

    def library(self, module: str) -> emulator.Library:
        if module not in self.libraries:
            text = self.instances.source(module, device=False)
            text = self.edit(text) if self.edit else text
            kernels = {kernel.name: kernel.parameter for kernel in self.instances.MODULES[module]}
            self.libraries[module] = emulator.build(text, kernels, sanitizer=self.sanitizer, folder=self.folder)
        return self.libraries[module]

    def launch(self, name: str, sizes: tuple[int, ...], stream: int, parameters: int, cooperative: bool) -> None:
        module, kernel = self.instances.KERNELS[name]
        grid, block, shared_bytes = sizes[:3], sizes[3:6], sizes[6]
        dtype = kernel.layout
        (place,) = (ctypes.c_void_p * 1).from_address(parameters)
        call = ctypes.string_at(place, dtype.itemsize)
        self.launches.append(Launch(name, grid, block, shared_bytes, stream, call, dtype))
        assert cooperative == kernel.cooperative
        assert shared_bytes <= max(48 * 1024, self.functions[name].max_dynamic_shared_size_bytes)
        assert 0 < grid[0] < 2**31
        assert min(grid[1:]) > 0
        assert max(grid[1:]) < 2**16
        self.library(module).launch(
            name,
            grid,
            block,
            call,
            shared_bytes=shared_bytes,
            cluster=kernel.cluster,
            cooperative=cooperative,
            seed=self.seed,
        )
        self.seed += 1

    def empty(self, shape: Any, dtype: Any, fill: float = np.nan) -> np.ndarray[Any, Any]:
        array = np.full(shape, fill, dtype)  # NaN: what is not written shows
        if array.nbytes > self.card.memory:
            raise OutOfMemoryError(f"out of memory allocating {array.nbytes} bytes")
        self.allocated += 1
        return array

    def cupy(self) -> ModuleType:
        """The module that the backend imports."""
        cupy: Any = ModuleType("cupy")
        cupy.ndarray = np.ndarray
        cupy.empty = self.empty
        cupy.zeros = lambda shape, dtype: self.empty(shape, dtype, 0)
        cupy.array = lambda array, dtype=None, order="C", copy=True: np.array(array, dtype, order=order, copy=copy)
        cupy.asnumpy = np.copy
        cupy.copyto = np.copyto
        # an array of the device is aligned to its entries; one of the host need not be
        cupy.ascontiguousarray = lambda array: np.require(array, requirements=["C", "A"])
        cupy.get_default_memory_pool = lambda: SimpleNamespace(free_bytes=lambda: 0)
        cupy.RawModule = lambda **_: SimpleNamespace(get_function=self._function)
        cupy.cuda = SimpleNamespace(
            Device=lambda number=0: Device(self.card, number),
            get_current_stream=lambda: SimpleNamespace(ptr=self.stream),
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            nvrtc=SimpleNamespace(getVersion=lambda: (12, 9)),
            runtime=SimpleNamespace(
                CUDARuntimeError=CUDARuntimeError,
                getDevice=lambda: 0,
                free=lambda _: None,
                memGetInfo=lambda: (self.card.memory, self.card.memory),
            ),
            driver=SimpleNamespace(
                ctxGetCurrent=lambda: 1,
                launchKernel=lambda name, *rest: self.launch(name, rest[:7], rest[7], rest[8], False),
                launchCooperativeKernel=lambda name, *rest: self.launch(name, rest[:7], rest[7], rest[8], True),
                occupancyMaxActiveBlocksPerMultiprocessor=lambda *_: self.card.resident,
            ),
        )
        return cupy  # type: ignore[no-any-return]

    def _function(self, name: str) -> Any:
        self.functions[name] = SimpleNamespace(
            kernel=SimpleNamespace(ptr=name), local_size_bytes=0, max_dynamic_shared_size_bytes=0
        )
        return self.functions[name]


@contextlib.contextmanager
def alone(cupy: ModuleType | None) -> Iterator[None]:
    """Import the backend anew, with this CuPy, and put everything back."""
    mine = [name for name in sys.modules if name.split(".")[0] in ("cupy", "antisymrnn_cupy")]
    saved = {name: sys.modules.pop(name) for name in mine}
    sys.modules["cupy"] = cupy  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] in ("cupy", "antisymrnn_cupy")]:
            del sys.modules[name]
        sys.modules.update(saved)


def load(driver: Driver, cupy: ModuleType | None = None) -> Any:
    """The backend on a stand-in: a module of its own, beside the real one if there is any."""
    with alone(cupy or driver.cupy()):
        package = importlib.import_module("antisymrnn_cupy")
        backend: Any = ModuleType("antisymrnn_cupy_on_cpu")
        for name in ("_device", "_host", "_instances"):
            setattr(backend, name, importlib.import_module(f"antisymrnn_cupy.{name}"))
        backend._device.address = lambda array: array.ctypes.data
        driver.instances = backend._instances
        for name in ("asarray", "to_numpy", "antisymmetric", "gated", "describe"):
            setattr(backend, name, getattr(package, name))
    return backend
