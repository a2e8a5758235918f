"""The form of golden vectors: their records, and how files and the manifest are written."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from antisymrnn_ref.contract import Array, GatedParameters, Parameters
from antisymrnn_validation.truth.cases import Case

VERSION = "v1"
MANIFEST, SCHEMA = "manifest.json", "schema.json"
CONSTANTS = ("step_size", "diffusion")
INTERMEDIATES = ("a", "s", "a_z", "z")
COTANGENTS = ("every state", "last state")
SCHEMA_FILE = Path(__file__).parent / VERSION / SCHEMA


class VectorError(ValueError):
    """A set that cannot be trusted; the message names the file and the field, what was expected and what was found."""


class Note(NamedTuple):
    """What a flag means.

    Attributes
    ----------
    description : str
        What the vectors with this flag have in common.
    catches : str
        The mistake that they reveal.
    links : tuple of str
        Where to read more: addresses, or paths in the repository.
    """

    description: str
    catches: str
    links: tuple[str, ...]


class Noise(NamedTuple):
    """How far honest code of the dtype may be off, relative to the largest expected entry of the array.

    Attributes
    ----------
    reference : float
        The largest error of machines that round at random.
    tolerance : float
        What the error may be: 8 times the reference, and no less than 4 ulp of the sum of the terms. 0 for an array of
        zeros: it must be zero.
    """

    reference: float
    tolerance: float


class Vector(NamedTuple):
    """One problem with its answer.

    Attributes
    ----------
    id : str
        Unique in the set.
    comment : str
    flags : tuple of str
        What is special about it; :func:`~antisymrnn_validation.vectors.release.load_notes` explains them.
    file : str
    cell : str
        ``antisymmetric`` or ``gated``.
    parameters, x, h0, g, step_size, diffusion, unconstrained
        As in :class:`~antisymrnn_validation.truth.cases.Case`; both scalars are rounded to the dtype.
    expected : dict of str to array
        ``h`` (T+1, B, n); ``a``, ``s`` and, of the gated cell, ``a_z``, ``z``, all (T, B, n): pre-activation and tanh
        of the candidate, pre-activation and value of the gate; the gradients by the names of what they belong to.
    noise : dict of str to Noise
        Of every expected array.
    """

    id: str
    comment: str
    flags: tuple[str, ...]
    file: str
    cell: str
    parameters: Parameters | GatedParameters
    x: Array
    h0: Array
    g: Array
    step_size: float
    diffusion: float
    unconstrained: bool
    expected: dict[str, Array]
    noise: dict[str, Noise]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of every array."""
        dtype: np.dtype[Any] = self.x.dtype
        return dtype

    @property
    def sizes(self) -> dict[str, int]:
        """T, B, n and m by name."""
        (T, B, m), (_, n) = self.x.shape, self.h0.shape
        return {"T": T, "B": B, "n": n, "m": m}

    @property
    def inputs(self) -> dict[str, Array]:
        """The arrays of the problem by name."""
        return {**self.parameters._asdict(), "x": self.x, "h0": self.h0, "g": self.g}

    @property
    def case(self) -> Case:
        """The problem without its answer."""
        arguments = (self.parameters, self.x, self.h0, self.g, self.step_size, self.diffusion, self.unconstrained)
        return Case(f"vector {self.id}", self.cell, *arguments)


class VectorFile(NamedTuple):
    """The vectors of one file, and the notes on their flags."""

    vectors: tuple[Vector, ...]
    notes: dict[str, Note]


def shapes(cell: str, group: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Shapes of the inputs and of the expected arrays of a group's vectors, by name, in the order of the files."""
    T, B, n, m = (group[symbol] for symbol in "TBnm")
    leaves: dict[str, Any] = {"W": (n, n), "V": (n, m), "b": (n,)}
    inner = ["a", "s"]
    if cell == "gated":
        leaves |= {"V_z": (n, m), "b_z": (n,)}
        inner += ["a_z", "z"]
    g = (T + 1, B, n) if group["cotangent"] == COTANGENTS[0] else (B, n)
    inputs = {**leaves, "x": (T, B, m), "h0": (B, n), "g": g}
    states = {"h": (T + 1, B, n), **dict.fromkeys(inner, (T, B, n))}
    return inputs, {**states, **leaves, "x": (T, B, m), "h0": (B, n), "step_size": (), "diffusion": ()}


def head(vector: Vector) -> dict[str, Any]:
    """What a group of vectors shares: sizes, which states have a cotangent, the constants."""
    constants = {name: getattr(vector, name).hex() for name in CONSTANTS}
    return {
        **vector.sizes,
        "cotangent": COTANGENTS[vector.g.ndim == 2],
        **constants,
        "unconstrained": vector.unconstrained,
    }


def test_record(vector: Vector) -> dict[str, Any]:
    """What a vector has of its own, as in a file."""
    return {
        "id": vector.id,
        "comment": vector.comment,
        "flags": vector.flags,
        "inputs": {name: _hexadecimal(array.tolist()) for name, array in vector.inputs.items()},
        "expected": {name: _hexadecimal(array.tolist()) for name, array in vector.expected.items()},
        "noise": {name: _hexadecimal(noise._asdict()) for name, noise in vector.noise.items()},
    }


def arrays(vector: Vector) -> list[dict[str, Any]]:
    """Name, part, shape and largest entry of every array of a vector; of the expected ones their noise floor too."""
    parts = [("input", vector.inputs), ("expected", vector.expected)]
    return [
        {"name": name, "part": part, "shape": array.shape, "largest": float(np.abs(array).max(initial=0.0))}
        | (vector.noise[name]._asdict() if part == "expected" else {})
        for part, found in parts
        for name, array in found.items()
    ]


def to_json(vectors: Sequence[Vector], notes: Mapping[str, Note], description: str) -> bytes:
    """The text of a file of vectors of one cell and one dtype."""
    groups: dict[str, dict[str, Any]] = {}
    for vector in vectors:
        shared = head(vector)
        group = groups.setdefault(json.dumps(shared), {**shared, "tests": []})
        group["tests"].append(test_record(vector))
    document = {
        "schema": SCHEMA,
        "version": VERSION,
        "description": description,
        "cell": vectors[0].cell,
        "dtype": str(vectors[0].dtype),
        "notes": _told(vectors, notes),
        "groups": list(groups.values()),
    }
    return write_document(document)


def to_npz(vector: Vector, notes: Mapping[str, Note], description: str) -> bytes:
    """The bytes of a file of one vector: no pickle, nothing compressed, no date, so that they can be made again."""
    metadata = {
        "schema": f"{SCHEMA}#/$defs/metadata",
        "version": VERSION,
        "description": description,
        "cell": vector.cell,
        "dtype": str(vector.dtype),
        "notes": _told([vector], notes),
        **head(vector),
        "id": vector.id,
        "comment": vector.comment,
        "flags": vector.flags,
    }
    members: dict[str, Array] = {"metadata": np.array(json.dumps(metadata, ensure_ascii=False))}
    members |= {f"inputs/{name}": array for name, array in vector.inputs.items()}
    members |= {f"expected/{name}": array for name, array in vector.expected.items()}
    members |= {f"noise/{name}": np.array(noise) for name, noise in vector.noise.items()}
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, array in members.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # of 1980, not of today
            entry.create_system = 3
            content = io.BytesIO()
            little = np.ascontiguousarray(array).reshape(array.shape).astype(array.dtype.newbyteorder("<"))
            np.lib.format.write_array(content, little, version=(1, 0), allow_pickle=False)
            archive.writestr(entry, content.getvalue())
    return written.getvalue()


def to_manifest(contents: Mapping[str, bytes]) -> bytes:
    """The text of the manifest of files by name."""
    files = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        for name, content in contents.items()
    }
    return write_document({"schema": f"{SCHEMA}#/$defs/manifest", "version": VERSION, "files": files})


def write_document(document: Mapping[str, Any]) -> bytes:
    """JSON with a row of numbers on one line."""

    def lines(value: Any, indent: str) -> str:
        deeper = indent + " "
        if isinstance(value, Mapping) and value:
            entries = [f"{deeper}{json.dumps(key)}: {lines(entry, deeper)}" for key, entry in value.items()]
            return "{\n" + ",\n".join(entries) + f"\n{indent}}}"
        if isinstance(value, list) and any(isinstance(entry, list | Mapping) for entry in value):
            return "[\n" + ",\n".join(deeper + lines(entry, deeper) for entry in value) + f"\n{indent}]"
        return json.dumps(value, ensure_ascii=False)

    return (lines(document, "") + "\n").encode()


def _told(vectors: Sequence[Vector], notes: Mapping[str, Note]) -> dict[str, Any]:
    used = {flag for vector in vectors for flag in vector.flags}
    return {flag: note._asdict() for flag, note in notes.items() if flag in used}


def _hexadecimal(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _hexadecimal(entry) for key, entry in value.items()}
    return [_hexadecimal(entry) for entry in value] if isinstance(value, list) else value.hex()
