"""Truths, kept on the disk: they are most of the time of a check, and depend on nothing but their case.

A file holds the truth of one case and the errors of its perturbed runs: a digest of the rest, a line of JSON, and the
digits as they are in memory. What is not exactly what this version of the oracles wrote for the case is computed again,
and so it is where nothing can be written.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import flint
import numpy as np
import platformdirs

from antisymrnn_validation.output import files
from antisymrnn_validation.truth import digits, oracles
from antisymrnn_validation.truth import extended as wider_runs
from antisymrnn_validation.truth.cases import Case
from antisymrnn_validation.truth.digits import Digits, KnownTruth
from antisymrnn_validation.truth.oracles import (
    PERTURBED_RUNS,
    OracleError,
    enclose,
    perturbed_run,
    tangent_identity,
)

VARIABLE = "ANTISYMRNN_CACHE"
"""The environment variable that names another folder than the platform's for what is cached."""

MOST_BYTES = 64 * 2**20
"""Size of the folder, about; what was not used for the longest time goes first."""

LARGE = 30_000
"""Numbers in the states and inputs of a case from which on a truth of a wider dtype is kept too."""

_SUFFIX = ".truth"
_DIGEST = 32
_on: ContextVar[bool] = ContextVar("on", default=True)


class Known(NamedTuple):
    """The truth of a case, and the error of every array of the perturbed runs."""

    truth: KnownTruth
    perturbed: list[dict[str, float]]


@contextlib.contextmanager
def off() -> Iterator[None]:
    """Truths are neither read from the disk nor written there."""
    before = _on.set(False)
    try:
        yield
    finally:
        _on.reset(before)


def folder() -> Path:
    """Where truths are kept."""
    given = os.environ.get(VARIABLE)
    return (Path(given) if given else platformdirs.user_cache_path("antisymrnn")) / "truths"


def certified(case: Case) -> Known:
    """The certified truth of a case and the errors of its perturbed runs, from the disk if they are there.

    Raises
    ------
    OracleError
        If there is no certified truth.
    """
    return _kept(case, "balls", _computed)


def extended(case: Case, wide: type[np.floating[Any]]) -> Known:
    """The same from a run in a wider dtype; kept on the disk only if that takes long.

    Raises
    ------
    OracleError
        If a number overflows the wider dtype.
    """

    def computed(case: Case) -> Known:
        return Known(*wider_runs.extended(case, wide, PERTURBED_RUNS))

    if case.x.size + case.h0.size * len(case.x) < LARGE:
        return computed(case)
    return _kept(case, np.dtype(wide).name, computed)


def _kept(case: Case, oracle: str, compute: Callable[[Case], Known]) -> Known:
    if not _on.get():
        return compute(case)
    key = f"{case.key}-{oracle}-{_version()}"
    path = folder() / f"{key}{_SUFFIX}"
    found = _read(path, key)
    if found is None:
        found = compute(case)
        _write(path, key, found)
    return found


def _computed(case: Case) -> Known:
    truth = enclose(case)
    forwards, backwards = tangent_identity(case, truth)
    if not forwards.overlaps(backwards):
        raise OracleError(f"{case.name}: the enclosed gradients contradict the product rule")
    known = digits.certified(truth)
    wide = wider_runs.wider(case.dtype)  # which is faster by far, and certifies nothing, as no perturbed run does
    if wide is None:
        runs = [perturbed_run(case, seed) for seed in range(PERTURBED_RUNS)]
    else:
        runs = wider_runs.perturbed_runs(case, wide, PERTURBED_RUNS)
    return Known(known, [{name: entry.error(run[name]) for name, entry in known.arrays.items()} for run in runs])


@functools.cache
def _version() -> str:
    """A hash of whatever a truth depends on beside its case."""
    sources = [Path(str(module.__file__)).read_bytes() for module in (oracles, digits, wider_runs)]
    found = hashlib.blake2b(digest_size=8)
    for part in (*sources, Path(__file__).read_bytes(), flint.__version__.encode()):
        found.update(hashlib.blake2b(part).digest())
    return found.hexdigest()


def _packed(key: str, found: Known) -> bytes:
    arrays = found.truth.arrays
    header: dict[str, Any] = {
        "key": key,
        "precision": found.truth.precision,
        "arrays": {name: [int(entry.low.any()) + 1, *entry.high.shape] for name, entry in arrays.items()},
        "numbers": {name: entry[2:] for name, entry in arrays.items()},
        "perturbed": found.perturbed,
    }
    halves = [half for name, e in arrays.items() for half in (e.high, e.low)[: header["arrays"][name][0]]]
    parts = [half.astype("<f8").tobytes() for half in halves]
    content = b"\n".join([json.dumps(header).encode(), b"".join(parts)])
    return _digest(content) + content


def _unpacked(key: str, packed: bytes) -> Known | None:
    content = packed[_DIGEST:]
    if packed[:_DIGEST] != _digest(content):
        return None
    line, _, numbers = content.partition(b"\n")
    header: Any = json.loads(line)
    if header["key"] != key:
        return None
    halves, at = np.frombuffer(numbers, "<f8").astype(np.float64), 0
    halves.setflags(write=False)
    arrays = {}
    for name, shape in header["arrays"].items():
        size = int(np.prod(shape, dtype=np.int64))
        high, *low = halves[at : at + size].reshape(shape)
        arrays[name] = Digits(high, *(low or [np.zeros_like(high)]), *header["numbers"][name])
        at += size
    return Known(KnownTruth(arrays, header["precision"]), header["perturbed"])


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST).digest()


def _read(path: Path, key: str) -> Known | None:
    try:
        found = _unpacked(key, path.read_bytes())
        os.utime(path)  # used last
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # not there, or not from here: the digest is right of what others wrote in this form too
    return found


def _write(path: Path, key: str, found: Known) -> None:
    packed = _packed(key, found)
    with contextlib.suppress(OSError):  # it is computed again
        path.parent.mkdir(parents=True, exist_ok=True)
        size = _Size.of(path.parent)
        files.write_bytes(path, packed, durable=False)
        size.add(len(packed))


class _Size:
    """The size of a folder, as far as this process knows; too large, it is brought down to three quarters."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bytes = folder, sum(size for _, size, _ in self._entries(folder))

    @staticmethod
    @functools.cache
    def of(folder: Path) -> _Size:
        """The one of a folder."""
        return _Size(folder)

    @staticmethod
    def _entries(folder: Path) -> list[tuple[float, int, Path]]:
        """Last use, size and path of what truths are in, those that a killed process left half written among them."""
        found = []
        for path in [*folder.glob(f"*{_SUFFIX}"), *folder.glob(files.TEMPORARY)]:
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        return sorted(found)

    def add(self, size: int) -> None:
        """Count a new file."""
        self.bytes += size
        if self.bytes <= MOST_BYTES:
            return
        entries = self._entries(self.folder)
        self.bytes = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if self.bytes <= 3 * MOST_BYTES // 4:
                break
            path.unlink(missing_ok=True)
            self.bytes -= size
