"""Golden vectors: inputs and correctly rounded results, so that any program can be checked without this package.

A released set is a folder, ``vectors/v1``, that never changes: JSON files of small problems, one for each cell and
dtype, ``.npz`` files of larger ones, ``schema.json``, and ``manifest.json`` with the SHA-256 of every other file.
Numbers in JSON are C99 hexadecimal strings, the exact bits. How the values are made and proved stands in
``rounding.py``.

Every expected value is the certified truth rounded to the dtype, to nearest, ties to even. A zero that stands for a
number too small for the dtype has that number's sign. What is exactly zero is +0, since its sign would depend on the
order of the operations; ``h[0]`` has the bits of the argument h0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from antisymrnn_ref.contract import Array
from antisymrnn_validation.conformance.check import Check, Promise, make_check
from antisymrnn_validation.output import files
from antisymrnn_validation.truth.calls import ArrayError, run
from antisymrnn_validation.truth.cases import Case
from antisymrnn_validation.truth.tolerance import require_within
from antisymrnn_validation.vectors.format import (
    INTERMEDIATES,
    MANIFEST,
    SCHEMA,
    VERSION,
    Note,
    Vector,
    VectorError,
    VectorFile,
)
from antisymrnn_validation.vectors.reading import Entry, document_of, file_bytes, read_bytes, read_file, read_manifest


def released(version: str = VERSION) -> Path:
    """The folder of a released set.

    Raises
    ------
    VectorError
        If no set of this version is released.
    """
    folder = Path(__file__).parent
    known = sorted(path.name for path in folder.glob("v*") if path.is_dir())
    if version not in known:
        there = " or ".join(known) or f"a set in {folder}, where there is none"
        raise VectorError(f"version: expected {there}, got {version!r}")
    return folder / version


def load(version: str = VERSION) -> list[Vector]:
    """Every vector of a released set, with read-only arrays.

    Parameters
    ----------
    version : str

    Returns
    -------
    list of Vector

    Raises
    ------
    VectorError
        If the version is unknown or a file is not as released.
    """
    return [vector for file in _load(version) for vector in file.vectors]


def load_notes(version: str = VERSION) -> dict[str, Note]:
    """What every flag of a released set means; arguments and errors as for :func:`load`."""
    return {flag: note for file in _load(version) for flag, note in file.notes.items()}


@functools.lru_cache
def _load(version: str) -> tuple[VectorFile, ...]:
    folder = released(version)
    manifest = read_manifest(folder)
    return tuple(read_file(folder, name, manifest[name]) for name in manifest if name != SCHEMA)


def check(vector: Vector, arrays: Mapping[str, Array]) -> dict[str, ArrayError]:
    """Error and tolerance of arrays that a program computed for a vector.

    Parameters
    ----------
    vector : Vector
    arrays : mapping of str to array
        States ``h`` of all steps and every gradient, as NumPy arrays under the names of ``vector.expected``; ``x`` and
        the intermediate ``a``, ``s``, ``a_z``, ``z`` may be left out.

    Returns
    -------
    dict of str to ArrayError
        The error is the largest distance from an expected entry over the largest expected entry: infinity for a shape
        or a dtype that differs, for an infinite entry, and where zeros are expected and there is anything else; NaN
        where an entry is NaN.

    Raises
    ------
    ValueError
        If an array is missing or has an unknown name.
    """
    for name in vector.expected:
        if name not in arrays and name not in ("x", *INTERMEDIATES):
            raise ValueError(f"{name}: expected an array for {vector.id}, got none")
    for name in arrays:
        if name not in vector.expected:
            raise ValueError(f"{name}: expected one of {', '.join(vector.expected)}, got this name")
    return {
        name: ArrayError(_error(arrays[name], array), noise.tolerance, noise.reference)
        for (name, array), noise in zip(vector.expected.items(), vector.noise.values(), strict=True)
        if name in arrays
    }


def _error(array: Array, expected: Array) -> float:
    if array.shape != expected.shape or array.dtype != expected.dtype:
        return math.inf
    if not np.isfinite(array).all():
        return math.nan if np.isnan(array).any() else math.inf
    difference = np.abs(array.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0)
    if difference == 0:
        return 0.0
    largest = float(np.abs(expected).max())
    return float(difference) / largest if largest else math.inf


def vector_checks(version: str = VERSION) -> Iterator[Check]:
    """The check of a backend on every vector: states and gradients within the stored noise floor."""
    for vector in load(version):
        yield make_check(Promise("golden vector", _promise(vector)), vector.case)


def _promise(vector: Vector) -> Callable[[ModuleType, Case], dict[str, ArrayError]]:
    def golden_vector(backend: ModuleType, case: Case) -> dict[str, ArrayError]:
        errors = check(vector, run(backend, case))
        require_within(errors)
        return errors

    return golden_vector


def verify_file(folder: Path, name: str, entry: Entry, certify: bool = False) -> int:
    """How many vectors a file of a set has, after everything about it was checked.

    Parameters
    ----------
    folder : Path
    name : str
    entry : Entry
        Of the manifest.
    certify : bool
        Whether to compute every value again and compare the bits.

    Raises
    ------
    VectorError
        If anything is wrong.
    """
    if name == SCHEMA:
        document_of(read_bytes(folder, name, entry), name)
        return 0
    found = read_file(folder, name, entry).vectors
    if certify:
        from antisymrnn_validation.vectors import rounding

        for vector in found:
            try:
                differences = rounding.certify(vector)
            except ArithmeticError as error:
                raise VectorError(f"{name}: {vector.id}: cannot be proved: {error}") from error
            if differences:
                more = f", and {len(differences) - 1} more" if len(differences) > 1 else ""
                raise VectorError(f"{name}: {vector.id}: {differences[0]}{more}")
    return len(found)


def verify_folder(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Entry]]:
    """What is to be said of the manifest of a set and of files that it does not name, and the files that it names."""

    def record(name: str, wrong: str) -> dict[str, Any]:
        return {"file": name, "vectors": 0, "status": "failed" if wrong else "passed", "detail": wrong}

    try:
        entries = read_manifest(folder)
    except VectorError as error:
        return [record(MANIFEST, str(error))], {}
    same = file_bytes(folder, MANIFEST) == file_bytes(released(), MANIFEST)
    wrong = "" if same else f"{MANIFEST}: expected the bytes of the released {VERSION}, got others"
    others = sorted({path.name for path in folder.iterdir()} - {MANIFEST, *entries})
    extra = [record(name, f"{name}: expected the files of {MANIFEST} alone, got this too") for name in others]
    return [record(MANIFEST, wrong), *extra], entries


def export(target: Path, version: str = VERSION) -> int:
    """Copy a released set into a new folder, whole or not at all; returns how many files it has.

    Raises
    ------
    ReportError
        If there is something in its place or it cannot be written.
    VectorError
        If the released set is not as its manifest says.
    """
    folder = released(version)
    contents = {name: read_bytes(folder, name, entry) for name, entry in read_manifest(folder).items()}
    contents[MANIFEST] = file_bytes(folder, MANIFEST)
    files.check_new(target)
    files.write_folder(target, contents)
    return len(contents)
