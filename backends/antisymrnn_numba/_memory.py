"""Large arrays that are used again: a call's results and scratch, without a page fault for every 4 KiB of them.

A block goes back to the shelf when the last array on it dies, never before, so no memory is handed out twice.
"""

from __future__ import annotations

import math
import os
import threading
from typing import Any

import numpy as np

LARGE = 2**16
"""Arrays of fewer bytes are NumPy's own; its allocator reuses them well."""

KEPT = 2**29
"""Bytes of unused blocks that are kept at most; the sizes that came back longest ago are given to the system first."""

ALIGNMENT = 64

Block = np.ndarray[Any, np.dtype[np.uint8]]


class _Shelf:
    """Unused blocks by their size.

    Nobody waits for the lock: another thread, a finalizer that the collector runs in the middle of a call here, or the
    handler of a signal finds it taken and does without the shelf.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.blocks: dict[int, list[Block]] = {}  # the size that came back last is the last
        self.kept = KEPT

    def take(self, nbytes: int) -> Block:
        if self.lock.acquire(blocking=False):
            try:
                blocks = self.blocks.get(nbytes)
                if blocks:
                    return blocks.pop()
            finally:
                self.lock.release()
        return np.empty(nbytes, np.uint8)

    def put(self, block: Block) -> None:
        if self.lock.acquire(blocking=False):
            try:
                blocks = self.blocks  # clear may put others in their place meanwhile
                blocks[block.nbytes] = [*blocks.pop(block.nbytes, []), block]
                while _bytes(blocks) > self.kept:
                    oldest = next(iter(blocks))
                    blocks[oldest] = blocks[oldest][1:]
                    if not blocks[oldest]:
                        del blocks[oldest]
            finally:
                self.lock.release()

    def clear(self) -> None:
        self.blocks = {}


def _bytes(blocks: dict[int, list[Block]]) -> int:
    return sum(nbytes * len(those) for nbytes, those in blocks.items())


class _Lease:
    """A block on loan, which every array on it keeps alive."""

    __slots__ = ("__array_interface__", "block", "shelf")

    def __init__(self, shelf: _Shelf, block: Block, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shelf, self.block = shelf, block
        address = block.ctypes.data + -block.ctypes.data % ALIGNMENT
        self.__array_interface__ = {"version": 3, "data": (address, False), "shape": shape, "typestr": dtype.str}

    def __del__(self) -> None:
        self.shelf.put(self.block)


_shelf = _Shelf()


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """An uninitialised array that begins at a multiple of 64 bytes."""
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize + ALIGNMENT
    if nbytes < LARGE:
        small = np.empty(nbytes, np.uint8)
        skipped = -small.ctypes.data % ALIGNMENT
        array: np.ndarray[Any, Any] = small[skipped : skipped + nbytes - ALIGNMENT].view(dtype).reshape(shape)
        return array
    step = 2 ** (nbytes.bit_length() - 4)  # few sizes, so that a block fits again
    return np.asarray(_Lease(_shelf, _shelf.take(-(-nbytes // step) * step), shape, dtype))


def release_memory() -> None:
    """Give the unused blocks back to the system."""
    _shelf.clear()


def _forget() -> None:
    _shelf.lock = threading.Lock()  # another thread of the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
