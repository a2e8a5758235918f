"""Files that are written whole or not at all, strict JSON, and folders for results."""

from __future__ import annotations

import contextlib
import json
import math
import numbers
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 2
"""Raised when an entry of the JSON documents changes its meaning or goes away."""


class ReportError(OSError):
    """A report that cannot be written; the message names the path and why."""


def check_writable(path: Path) -> None:
    """Raise ReportError if :func:`write_json` could not write to this path; leaves nothing behind."""
    with _temporary(path):
        pass


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document as strict JSON, whole or not at all: a temporary file beside the target takes its place."""
    write_text(path, json_text(document))


def json_text(document: Mapping[str, Any]) -> str:
    """A document as strict JSON."""
    return json.dumps(strict(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a text, whole or not at all."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write bytes, whole or not at all, and, unless not ``durable``, so that they survive a power cut."""
    with _temporary(path) as (temporary, target):
        with open(temporary, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, target)
        if durable:
            sync_folder(target.parent)


def sync_folder(path: Path) -> None:
    """Force the names in a folder to the disk."""
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def output_folder(path: Path) -> Path:
    """A folder to write several files into, made if it is not there.

    Raises
    ------
    ReportError
        If it cannot be made or written into; it then names the path and why.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReportError(f"{path}: cannot be made a folder: {error.strerror or error}") from None
    check_writable(path / secrets.token_hex(8))
    return path


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a new folder with these files, whole or not at all: one of another name, gone after an error, becomes it.

    Raises
    ------
    ReportError
        If it cannot be written, or is there already with something in it.
    """
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        output_folder(temporary)
        for name, content in files.items():
            write_bytes(temporary / name, content)
        try:
            os.replace(temporary, path)
            sync_folder(path.parent)
        except OSError as error:
            raise ReportError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def strict(value: Any) -> Any:
    """What JSON has a notation for: NaN and infinity become the strings ``nan``, ``inf``, ``-inf``."""
    if isinstance(value, Mapping):
        return {str(key): strict(entry) for key, entry in value.items()}
    if hasattr(value, "tolist"):  # an array or a scalar of NumPy
        return strict(value.tolist())
    if isinstance(value, list | tuple):
        return [strict(entry) for entry in value]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else str(float(value))
    return str(value)


TEMPORARY = ".antisymrnn-*.tmp"
"""Files that are being written; a killed process leaves one."""


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, Path]]:
    """An empty file beside the file that the path means, and that file; the former is gone at the end in any case."""
    target = Path(os.path.realpath(path))  # a link keeps pointing at the report
    if not target.name:
        raise ReportError(f"{path}: cannot be written: it is a directory")
    temporary = target.with_name(TEMPORARY.replace("*", secrets.token_hex(8)))
    try:
        if not target.parent.is_dir():
            raise OSError(f"{target.parent} is not an existing directory")
        if target.exists() and not target.is_file():
            raise OSError("it is not a regular file")
        if target.exists() and not os.access(target, os.W_OK):
            raise OSError("it is write-protected")
        temporary.touch(exist_ok=False)
        yield temporary, target
    except OSError as error:
        raise ReportError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_new(target: Path) -> None:
    """Raise ReportError if a folder could not be made here."""
    if os.path.lexists(target):
        raise ReportError(f"{target}: cannot be written: it exists; name a folder that does not")
    parent = Path(os.path.abspath(target)).parent
    if not parent.is_dir():
        raise ReportError(f"{target}: cannot be written: {parent} is not an existing directory")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ReportError(f"{target}: cannot be written: {parent} is write-protected")
