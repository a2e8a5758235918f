"""Golden vectors read from files, of which nothing is taken on trust."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jsonschema
import numpy as np

from antisymrnn_ref.contract import Array, GatedParameters, Parameters
from antisymrnn_validation.truth.cases import CELLS
from antisymrnn_validation.vectors.format import (
    CONSTANTS,
    MANIFEST,
    SCHEMA_FILE,
    Noise,
    Note,
    Vector,
    VectorError,
    VectorFile,
    shapes,
)


class Entry(NamedTuple):
    """What the manifest says of a file."""

    sha256: str
    size: int


def read_manifest(folder: Path) -> dict[str, Entry]:
    """The files of a set by name.

    Raises
    ------
    VectorError
        If the manifest is missing or not in the form that ``schema.json`` describes.
    """
    manifest = document_of(file_bytes(folder, MANIFEST), MANIFEST)
    _require_schema(manifest, "manifest", MANIFEST)
    return {name: Entry(**entry) for name, entry in manifest["files"].items()}


def read_file(folder: Path, name: str, entry: Entry) -> VectorFile:
    """The vectors of one file, after its size, its hash, its form, and every shape and number were checked.

    Raises
    ------
    VectorError
        Naming the file and the field.
    """
    content = read_bytes(folder, name, entry)
    return read_npz(content, name) if name.endswith(".npz") else read_json(content, name)


def read_bytes(folder: Path, name: str, entry: Entry) -> bytes:
    """The content of a file, if it is what the manifest says; :class:`VectorError` otherwise."""
    content = file_bytes(folder, name)
    if len(content) != entry.size:
        raise VectorError(f"{name}: size: expected {entry.size} bytes as in {MANIFEST}, got {len(content)}")
    if (found := hashlib.sha256(content).hexdigest()) != entry.sha256:
        raise VectorError(f"{name}: sha256: expected {entry.sha256} as in {MANIFEST}, got {found}")
    return content


def read_json(content: bytes, name: str) -> VectorFile:
    """The vectors of a JSON file; :class:`VectorError` names what is wrong in it."""
    document = document_of(content, name)
    _require_schema(document, "", name)
    dtype, vectors, seen = np.dtype(document["dtype"]), [], set()
    for k, group in enumerate(document["groups"]):
        inputs, expected = shapes(document["cell"], group)
        constants = {key: _number(group[key], dtype, f"{name}: groups[{k}].{key}") for key in CONSTANTS}
        for j, test in enumerate(group["tests"]):
            where = f"{name}: groups[{k}].tests[{j}]"
            if test["id"] in seen:
                raise VectorError(f"{where}.id: expected an id that occurs once, got {test['id']!r} again")
            seen.add(test["id"])
            arrays = {
                part: _arrays(test[part], wanted, dtype, f"{where}.{part}")
                for part, wanted in (("inputs", inputs), ("expected", expected))
            }
            _require_names(test["noise"], expected, f"{where}.noise")
            noise = {
                key: Noise(
                    *(
                        _number(test["noise"][key][field], np.dtype(float), f"{where}.noise.{key}.{field}")
                        for field in Noise._fields
                    )
                )
                for key in expected
            }
            vectors.append(_vector(test, name, document, group, constants, arrays, noise))
    return VectorFile(tuple(vectors), _notes(document, vectors, name))


def read_npz(content: bytes, name: str) -> VectorFile:
    """The one vector of an ``.npz`` file; :class:`VectorError` names what is wrong in it."""
    members: dict[str, Array] = {}
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            for key in archive.files:
                try:
                    members[key] = archive[key]
                except ValueError as error:
                    raise VectorError(f"{name}: {key}: cannot be read without pickle: {error}") from error
    except VectorError:
        raise
    except Exception as error:
        raise VectorError(f"{name}: expected an .npz file, which NumPy cannot read: {error}") from error
    if "metadata" not in members or members["metadata"].dtype.kind != "U" or members["metadata"].ndim:
        raise VectorError(f"{name}: metadata: expected one text, got {', '.join(members) or 'no member'}")
    metadata = document_of(str(members.pop("metadata")).encode(), f"{name}: metadata")
    _require_schema(metadata, "metadata", f"{name}: metadata")
    dtype = np.dtype(metadata["dtype"])
    constants = {key: _number(metadata[key], dtype, f"{name}: metadata.{key}") for key in CONSTANTS}
    inputs, expected = shapes(metadata["cell"], metadata)
    wanted = {f"inputs/{key}": (shape, dtype) for key, shape in inputs.items()}
    wanted |= {f"expected/{key}": (shape, dtype) for key, shape in expected.items()}
    wanted |= {f"noise/{key}": ((len(Noise._fields),), np.dtype(float)) for key in expected}
    _require_names(members, wanted, name)
    for key, (shape, kind) in wanted.items():
        array = members[key]
        if array.shape != shape or array.dtype != kind:
            raise VectorError(f"{name}: {key}: expected {kind} {shape}, got {array.dtype} {array.shape}")
        if not np.isfinite(array).all():
            raise VectorError(f"{name}: {key}: expected finite numbers, got NaN or infinity")
        array.flags.writeable = False
    arrays = {
        part: {key: members[f"{part}/{key}"] for key in keys}
        for part, keys in (("inputs", inputs), ("expected", expected))
    }
    noise = {key: Noise(*members[f"noise/{key}"].tolist()) for key in expected}
    vector = _vector(metadata, name, metadata, metadata, constants, arrays, noise)
    return VectorFile((vector,), _notes(metadata, [vector], name))


def _vector(
    test: Mapping[str, Any],
    file: str,
    document: Mapping[str, Any],
    group: Mapping[str, Any],
    constants: dict[str, Any],
    arrays: Mapping[str, dict[str, Array]],
    noise: dict[str, Noise],
) -> Vector:
    *leaves, x, h0, g = arrays["inputs"].values()
    parameters = Parameters(*leaves) if document["cell"] == CELLS[0] else GatedParameters(*leaves)
    named: dict[str, Any] = {"id": test["id"], "comment": test["comment"], "flags": tuple(test["flags"])}
    named |= {"file": file, "cell": document["cell"], "unconstrained": group["unconstrained"]}
    return Vector(
        **named, **constants, parameters=parameters, x=x, h0=h0, g=g, expected=arrays["expected"], noise=noise
    )


def _notes(document: Mapping[str, Any], vectors: Sequence[Vector], name: str) -> dict[str, Note]:
    for vector in vectors:
        for flag in vector.flags:
            if flag not in document["notes"]:
                raise VectorError(f"{name}: notes: expected an entry for the flag {flag!r} of {vector.id}, got none")
    return {
        flag: Note(note["description"], note["catches"], tuple(note["links"]))
        for flag, note in document["notes"].items()
    }


def file_bytes(folder: Path, name: str) -> bytes:
    """The bytes of a file of a set."""
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError:
        raise VectorError(f"{name}: expected a file in {folder}, got none") from None
    except OSError as error:
        raise VectorError(f"{name}: cannot be read: {error.strerror or error}") from error


def document_of(content: bytes, name: str) -> dict[str, Any]:
    """The document of a JSON file of a set, of which nothing is taken on trust."""

    def refuse(token: str) -> Any:
        raise VectorError(f"{name}: expected JSON, which has no {token}")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) != len(keys):
            raise VectorError(f"{name}: expected every key once in an object, got {', '.join(keys)[:80]}")
        return dict(pairs)

    try:
        document = json.loads(content.decode(), parse_constant=refuse, object_pairs_hook=once)
    except UnicodeDecodeError as error:
        raise VectorError(f"{name}: expected UTF-8, got byte {content[error.start]:#04x} at {error.start}") from error
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}"
        raise VectorError(f"{name}: expected JSON, got at {at}: {error.msg}") from error
    except VectorError:
        raise
    except ValueError as error:
        raise VectorError(f"{name}: expected JSON of small whole numbers: {error}") from error
    except RecursionError:
        raise VectorError(f"{name}: expected JSON, got one nested too deeply") from None
    return cast("dict[str, Any]", document)


def _require_names(found: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    for key in wanted:
        if key not in found:
            raise VectorError(f"{where}: {key}: expected, but missing")
    for key in found:
        if key not in wanted:
            raise VectorError(f"{where}: {key}: expected {', '.join(wanted)} alone, got this too")


def _arrays(
    found: Mapping[str, Any], wanted: Mapping[str, tuple[int, ...]], dtype: np.dtype[Any], where: str
) -> dict[str, Array]:
    _require_names(found, wanted, where)
    arrays = {}
    for name, shape in wanted.items():
        entries = list(_entries(found[name], shape, dtype, f"{where}.{name}"))
        arrays[name] = np.array(entries, dtype).reshape(shape)
        arrays[name].flags.writeable = False
    return arrays


def _entries(value: Any, shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> Iterator[float]:
    if not shape:
        yield _number(value, dtype, where)
        return
    if not isinstance(value, list) or len(value) != shape[0]:
        came = f"{len(value)}" if isinstance(value, list) else repr(value)
        raise VectorError(f"{where}: expected a list of {shape[0]}, got {came}")
    for k, entry in enumerate(value):
        yield from _entries(entry, shape[1:], dtype, f"{where}[{k}]")


def _number(text: Any, dtype: np.dtype[Any], where: str) -> float:
    """The number of a C99 hexadecimal string, exact in the dtype, written as Python writes it."""
    try:
        value = float.fromhex(text)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    inside = abs(value) <= float(np.finfo(dtype).max)  # false for NaN
    if not inside or value.hex() != text or float(dtype.type(value)) != value:
        raise VectorError(f"{where}: expected a finite {dtype} as a C99 hexadecimal string, got {text!r}")
    return value


def _require_schema(document: Any, part: str, name: str) -> None:
    try:
        wrong = next(_validator(part).iter_errors(document), None)
        complaint = None if wrong is None else _complaint(wrong)
    except RecursionError:
        raise VectorError(f"{name}: expected JSON, got one nested too deeply") from None
    if complaint is not None:
        raise VectorError(f"{name}: {complaint}")


@functools.cache
def _validator(part: str) -> Any:
    """What compares a document with ``schema.json``, or with one of its definitions."""
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    if part:
        schema = {"$ref": f"#/$defs/{part}", "$defs": schema["$defs"]}
    draft = jsonschema.Draft202012Validator
    whole = draft.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)  # to JSON Schema 5.0 is one
    return jsonschema.validators.extend(draft, {"anyOf": _any_of}, type_checker=whole)(schema)


def _any_of(validator: Any, forms: Sequence[Any], value: Any, _: Any) -> Iterator[jsonschema.ValidationError]:
    """As jsonschema has it, but for the list of everything that is wrong, which a hostile file makes long."""
    if all(next(validator.descend(value, form), None) for form in forms):
        yield jsonschema.ValidationError("none of the forms fits")


def _complaint(error: jsonschema.ValidationError) -> str:
    """The field, what the schema expects there, and what is there."""
    value, wanted = error.instance, error.validator_value
    steps = [*error.absolute_path, *([value] if "propertyNames" in error.absolute_schema_path else [])]
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")
    if error.validator == "required":
        key = next(key for key in wanted if key not in value)
        return f"{f'{where}.{key}'.lstrip('.')}: expected, but missing"
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        key = next(key for key in value if key not in known)
        return f"{f'{where}.{key}'.lstrip('.')}: expected {', '.join(known)} alone, got this too"
    expected = {
        "const": lambda: str(wanted),
        "enum": lambda: " or ".join(map(str, wanted)),
        "pattern": lambda: f"the pattern {wanted}",
        "minimum": lambda: f"at least {wanted}",
        "minItems": lambda: f"at least {wanted} entries",
        "anyOf": lambda: f"one of {len(wanted)} forms of the schema",
        "type": lambda: str(wanted),
    }[str(error.validator)]()
    got = len(value) if error.validator == "minItems" else _short(value)
    return f"{where or 'document'}: expected {expected}, got {got}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
