"""What is nearly an expected data file: another version, name, folder or packing, or a web page."""

from __future__ import annotations

import itertools
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

_LOOKED_AT = 1000  # entries of a folder: one with more is no folder of data sets

_OTHER_VERSIONS = {
    r"cifar-10-python(\.tar(\.gz)?)?|cifar-10-batches-py|data_batch_[1-5]|test_batch": "the Python version of CIFAR-10",
    r"cifar-10-matlab(\.tar(\.gz)?)?|cifar-10-batches-mat|(data_batch_[1-5]|test_batch)\.mat": (
        "the MATLAB version of CIFAR-10"
    ),
    r"cifar-100-.*": "CIFAR-100",
}
"""By the name of a file or a folder, what is not the binary version of CIFAR-10."""

_STARTS = {
    rb"\s*<(!doctype|html|head|\?xml|!--)": "a web page, saved under this name",
    rb"version https://git-lfs": "a pointer of Git LFS in place of the file",
    rb"PK\x03\x04": "a zip archive",
    rb"\x80[\x02-\x05]": "a pickle of Python",
    rb"\xfd7zXZ": "an xz file",
    rb"\0\0\x08[\x01\x03]": "an IDX file that is not compressed",
}


def kind_of(start: bytes) -> str:
    """What a file is that starts with these bytes, as far as they say."""
    for pattern, kind in _STARTS.items():
        if re.match(pattern, start, re.IGNORECASE):
            return kind
    return f"a file that starts with {start[:4]!r}"


def misplaced(wanted: Path, folders: Sequence[Path]) -> str:
    """How to make a missing file of one that is in one of the folders, or one folder deeper; empty if none is there.

    Case, a dot for a dash (as in ``t10k-images.idx3-ubyte``) and ``.gz`` make no difference to the name.
    """
    for found in _entries(folders):
        if found != wanted and _key(found.name) == _key(wanted.name) and found.is_file():
            compressed = found.suffix.casefold() == ".gz" or wanted.suffix != ".gz"
            wrong = [] if compressed else ["is not compressed"]
            wrong += ["is in another folder"] if found.parent != wanted.parent else []
            wrong += ["has another name"] if found.name.removesuffix(".gz") != wanted.name.removesuffix(".gz") else []
            if not wrong:  # it is there as .gz, which this file must not be
                continue
            source, target = shlex.quote(str(found)), shlex.quote(str(wanted))
            how = f"mv {source} {target}" if compressed else f"gzip -c {source} > {target}"
            return f"{found} is there, but {' and '.join(wrong)}: {how}"
    return ""


def other_version(folders: Sequence[Path]) -> str:
    """Which other version of CIFAR-10 is in one of the folders, or one folder deeper; empty if none is there."""
    for found in _entries(folders):
        if version := version_of(found.name):
            return f"{found} is {version}, which is not read: the binary version is needed"
    return ""


def version_of(name: str) -> str:
    """Which other version of CIFAR-10 has a file or a folder of this name; empty if none."""
    known = (version for pattern, version in _OTHER_VERSIONS.items() if re.fullmatch(pattern, name, re.IGNORECASE))
    return next(known, "")


def _entries(folders: Sequence[Path]) -> Iterator[Path]:
    """What is in the folders, then what is in the folders there."""
    deeper = []
    for folder in folders:
        for path in _listed(folder):
            yield path
            if path.is_dir() and path not in folders:
                deeper.append(path)
    for folder in deeper:
        yield from _listed(folder)


def _listed(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in itertools.islice(entries, _LOOKED_AT))
    except OSError:  # no folder, or one that is not for us: nothing is found there
        return []


def _key(name: str) -> str:
    return re.sub(r"[._]", "-", name.casefold().removesuffix(".gz"))
