"""The only module that talks to CuPy: what the device has, its memory, its kernels."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from antisymrnn_cupy._instances import KERNELS, OPTIONS, Kernel, source
from antisymrnn_ref import contract
from antisymrnn_ref.contract import Array, BackendUnavailable

_EXTRAS, _MATCHES = ("cuda12", "cuda13"), "the CUDA version of the driver"

try:
    import cupy
except ImportError as error:
    raise BackendUnavailable(
        f"backend 'cupy': CuPy cannot be imported ({error}); its build must match {_MATCHES}", extras=_EXTRAS
    ) from error

LEAST_CAPABILITY = (8, 0)
CLUSTER_CAPABILITY = (9, 0)


class Device(NamedTuple):
    """What the kernels are chosen by.

    Attributes
    ----------
    number : int
        As CUDA counts.
    capability : (int, int)
        Compute capability.
    multiprocessors : int
    shared_bytes : int
        Shared memory that a block can ask for.
    """

    number: int
    capability: tuple[int, int]
    multiprocessors: int
    shared_bytes: int


def current() -> Device:
    """The device that CuPy works on now.

    Raises
    ------
    BackendUnavailable
        If there is none, or it is too old.
    """
    try:
        number = int(cupy.cuda.runtime.getDevice())
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise BackendUnavailable(
            f"backend 'cupy': no CUDA device can be used ({error}); it needs an NVIDIA GPU and a driver for CUDA"
        ) from error
    if not cupy.cuda.driver.ctxGetCurrent():
        cupy.cuda.runtime.free(0)  # a thread that has not worked on the device yet has no context to launch in
    return _describe(number)


@functools.cache
def _describe(number: int) -> Device:
    device = cupy.cuda.Device(number)
    digits = str(device.compute_capability)
    capability = int(digits[:-1]), int(digits[-1])
    if capability < LEAST_CAPABILITY:
        raise BackendUnavailable(
            f"backend 'cupy': expected compute capability {_dotted(LEAST_CAPABILITY)} or higher, device {number} has "
            f"{_dotted(capability)}; use a newer GPU, or the Numba backend"
        )
    try:
        cupy.cuda.nvrtc.getVersion()
    except (ImportError, RuntimeError) as error:
        raise BackendUnavailable(
            f"backend 'cupy': NVRTC is missing ({error}); its version must match {_MATCHES}", extras=_EXTRAS
        ) from error
    attributes = device.attributes
    return Device(number, capability, attributes["MultiProcessorCount"], attributes["MaxSharedMemoryPerBlockOptin"])


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


ArrayType: type[Any] = cupy.ndarray


def asarray(array: Any, dtype: Any) -> Array:
    """Convert to a CuPy array of a dtype of the contract, on the current device.

    Parameters
    ----------
    array : array_like or cupy.ndarray
        Real numbers of any shape.
    dtype : dtype
        float32 or float64; rounding to it is what the caller asks for here, and only here.

    Returns
    -------
    cupy.ndarray
        C-contiguous, in memory of its own. An array of PyTorch or JAX on the device needs no copy at all:
        ``cupy.from_dlpack`` gives what the passes take.

    Raises
    ------
    TypeError
        For another dtype, or for complex numbers, objects or text.
    """
    if not isinstance(array, ArrayType):
        return cupy.array(contract.asarray(array, dtype))
    contract.asarray(0.0, dtype)  # refuses another dtype
    if array.dtype in contract.DTYPES:
        return cupy.array(array, dtype=dtype, order="C", copy=True)
    return cupy.array(contract.asarray(cupy.asnumpy(array), dtype))


def to_numpy(array: Array) -> np.ndarray[Any, Any]:
    """Convert back: a new ``numpy.ndarray`` with the same values, when the current stream has made them.

    Raises
    ------
    TypeError
        If ``array`` is not a ``cupy.ndarray``.
    """
    if type(array) is not ArrayType:
        contract.to_numpy(array)  # raises for what is not NumPy's
        raise TypeError("array: expected cupy.ndarray, got numpy.ndarray")
    host: np.ndarray[Any, Any] = cupy.asnumpy(array)
    return host


@contextlib.contextmanager
def _saying_what_is_free(nbytes: int) -> Iterator[None]:
    try:
        yield
    except cupy.cuda.memory.OutOfMemoryError as error:
        free, _ = cupy.cuda.runtime.memGetInfo()
        kept = cupy.get_default_memory_pool().free_bytes()
        raise MemoryError(
            f"expected {nbytes} bytes of device memory, {free} are free and {kept} kept by CuPy's pool; "
            "use a larger keep_every or a smaller batch"
        ) from error


def empty(shape: tuple[int, ...], dtype: Any, *, zeros: bool = False) -> Array:
    """An array, uninitialised unless ``zeros``.

    Raises
    ------
    MemoryError
        With the bytes wanted and free.
    """
    with _saying_what_is_free(math.prod(shape) * np.dtype(dtype).itemsize):
        return (cupy.zeros if zeros else cupy.empty)(shape, dtype)


def copy(to: Array, array: Array) -> None:
    """Write the entries of one array to another of the same shape and dtype."""
    cupy.copyto(to, array)


def contiguous(array: Array) -> Array:
    """The array, or a copy if it is not C-contiguous."""
    with _saying_what_is_free(array.nbytes):
        return cupy.ascontiguousarray(array)


def address(array: Array) -> int:
    """Where an array begins on the device."""
    return int(array.data.ptr)


def check_device(arrays: Iterable[tuple[str, Array]], device: Device) -> None:
    """Refuse an array of another device: a kernel would read it slowly or not at all."""
    for name, array in arrays:
        if array.device != cupy.cuda.Device(device.number):
            raise ValueError(
                f"{name}: expected an array on device {device.number}, the current one, got one on {array.device}"
            )


@functools.cache
def _module(name: str) -> Any:
    return cupy.RawModule(code=source(name), options=OPTIONS[:2])


@functools.cache
def _function(name: str, device: Device) -> tuple[Kernel, Any]:
    """A kernel, compiled for a device: CuPy keeps the result on disk."""
    module, kernel = KERNELS[name]
    compiled = _module(module).get_function(name)
    compiled.max_dynamic_shared_size_bytes = device.shared_bytes  # more than 48 KB have to be asked for
    if compiled.local_size_bytes:  # another compiler than CI's
        warnings.warn(
            f"{name}: expected no local memory, this NVRTC took {compiled.local_size_bytes} bytes; right, but slower",
            RuntimeWarning,
            stacklevel=2,
        )
    return kernel, compiled


def resident_blocks(name: str, device: Device, shared_bytes: int = 0) -> int:
    """Blocks of a kernel that run at the same time on one multiprocessor."""
    kernel, compiled = _function(name, device)
    what = compiled.kernel.ptr, kernel.threads, shared_bytes or kernel.shared_bytes
    return int(cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(*what))


def launch(name: str, device: Device, grid: tuple[int, int, int], shared_bytes: int = 0, **fields: Any) -> None:
    """Run a kernel on CuPy's current stream; fields that are not named are 0."""
    kernel, compiled = _function(name, device)
    call = np.zeros((), kernel.layout)
    for field, value in fields.items():
        call[field] = value
    arguments = (ctypes.c_void_p * 1)(call.ctypes.data)
    sizes = *grid, kernel.threads, 1, 1, shared_bytes or kernel.shared_bytes
    what = compiled.kernel.ptr, *sizes, cupy.cuda.get_current_stream().ptr, ctypes.addressof(arguments)
    if kernel.cooperative:
        cupy.cuda.driver.launchCooperativeKernel(*what)
    else:
        cupy.cuda.driver.launchKernel(*what, 0)
