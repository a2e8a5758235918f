"""vectors list, describe, export, verify, generate."""

from __future__ import annotations

import contextlib
import difflib
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from antisymrnn_validation.cli.command import (
    AS_EXPECTED,
    CONTRADICTED,
    Contradicted,
    Json,
    NothingRan,
    UsageError,
    check_writable,
    each,
    matches,
    vectors_command,
    write_results,
)
from antisymrnn_validation.output import terminal
from antisymrnn_validation.output.terminal import Record


@vectors_command
def vectors_list(
    json: Json = None,
    only: Annotated[
        str, typer.Option(metavar="TEXT", help="Only vectors with TEXT in their id, comment or flags.")
    ] = "",
) -> int:
    """List the golden vectors.

    Each with its flags, sizes and constants; `antisymrnn vectors describe NAME` says more of one.
    """
    check_writable(json)
    start = time.perf_counter()
    with _reading_vectors() as vectors:
        every = vectors.load()
        size = sum(entry.size for entry in vectors.read_manifest(vectors.released()).values())
    chosen = [vector for vector in every if matches(only, vector.id, vector.comment, *vector.flags)]
    if not chosen:
        raise NothingRan(f"none of {len(every)} vectors has {only!r} in its id, comment or flags")
    records = [
        {"id": vector.id, "comment": vector.comment, "flags": vector.flags, "file": vector.file, **vectors.head(vector)}
        for vector in chosen
    ]
    terminal.show(terminal.vectors_table(records))
    files = len({vector.file for vector in chosen})
    line = f"vectors list: {terminal.of(len(chosen), len(every))} vectors of {vectors.VERSION} in {files} files"
    line += f"; the set has {size / 1e6:.1f} MB"
    print(line)
    write_results(json, line, AS_EXPECTED, start, {"command": "vectors list", "only": only, "vectors": records})
    return AS_EXPECTED


@vectors_command
def vectors_describe(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The id of a vector, as `antisymrnn vectors list` has it.")
    ],
    json: Json = None,
) -> int:
    """Show one golden vector.

    What is special about it and which mistakes it reveals, its constants, and the size, largest entry and noise floor
    of every array; --json has every number.
    """
    check_writable(json)
    start = time.perf_counter()
    with _reading_vectors() as vectors:
        every, notes = {vector.id: vector for vector in vectors.load()}, vectors.load_notes()
    if name not in every:
        near = difflib.get_close_matches(name, every, n=1, cutoff=0.0)
        raise UsageError(f"NAME: expected the id of a vector, got {name!r}; the closest is {near[0]}")
    vector = every[name]
    told = {"file": vector.file, "cell": vector.cell, "dtype": str(vector.dtype), "comment": vector.comment}
    constants = {"step_size": repr(vector.step_size), "diffusion": repr(vector.diffusion)}
    shared = {**vectors.head(vector), **constants}
    flags = {flag: {**notes[flag]._asdict(), "links": list(notes[flag].links)} for flag in vector.flags}
    terminal.show(terminal.sections_table(name, {"vector": told, "problem": shared, "flags": flags}))
    terminal.show(terminal.arrays_table(vectors.arrays(vector)))
    line = f"vectors describe: {name}, {len(vector.inputs)} inputs, {len(vector.expected)} expected arrays"
    print(line)
    whole = {**told, **vectors.head(vector), **vectors.test_record(vector)}
    write_results(json, line, AS_EXPECTED, start, {"command": "vectors describe", "vector": whole, "notes": flags})
    return AS_EXPECTED


@vectors_command
def vectors_export(
    target: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that does not exist yet.")],
) -> int:
    """Copy the golden vectors into a new folder, whole or not at all."""
    with _reading_vectors() as vectors:
        count = vectors.export(target)
    print(f"vectors export: {count} files of {vectors.VERSION} in {target}")
    return AS_EXPECTED


@vectors_command
def vectors_verify(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", show_default=False, help="Default: the set of this installation.")
    ] = None,
    certify: Annotated[
        bool, typer.Option("--certify", help="Compute and prove every value again, and compare the bits.")
    ] = False,
    json: Json = None,
) -> int:
    """Verify a folder of golden vectors.

    The manifest is the released one and every file is as it says; every file is in the form of the schema, with every
    shape and every number.
    """
    check_writable(json)
    start = time.perf_counter()
    with _reading_vectors() as vectors:
        place = vectors.released() if folder is None else folder
        if not place.is_dir():
            raise UsageError(f"DIR: expected a folder, got {place}, which is none")
        records, entries = vectors.verify_folder(place)

    def verified(name: str) -> Record:
        try:
            count = vectors.verify_file(place, name, entries[name], certify)
            return {"file": name, "vectors": count, "status": "passed", "detail": ""}
        except vectors.VectorError as error:
            return {"file": name, "vectors": 0, "status": "failed", "detail": str(error)}

    records = [*records, *each(list(entries), str, verified)]
    terminal.show(terminal.files_table(records))
    failed = [record["file"] for record in records if terminal.contradicts(record)]
    line = (
        f"vectors verify{' --certify' if certify else ''}: {sum(record['vectors'] for record in records)} vectors in "
    )
    line += f"{len(records)} files" + (f"; NOT as released: {', '.join(failed)}" if failed else ", all as released")
    print(line)
    code = CONTRADICTED if failed else AS_EXPECTED
    results = {"folder": str(place), "certify": certify, "files": records}
    write_results(json, line, code, start, {"command": "vectors verify", **results})
    return code


@vectors_command
def vectors_generate(
    target: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that does not exist yet.")],
) -> int:
    """Make the golden vectors again.

    Every value is computed and proved anew; the files must come out as they were released.
    """
    with _reading_vectors() as vectors:
        vectors.check_new(target)
        from antisymrnn_validation.vectors import rounding

        contents: dict[str, bytes] = {}
        made = rounding.files()
        with terminal.progress(len(made)) as begin:
            for name, make in made.items():
                begin(name)
                contents[name] = make()
        contents[vectors.MANIFEST] = vectors.to_manifest(contents)
        vectors.write_folder(target, contents)
        wrong = [name for name, content in contents.items() if content != (vectors.released() / name).read_bytes()]
    verdict = f"NOT as released: {', '.join(wrong)}" if wrong else f"the bytes of the released {vectors.VERSION}"
    print(f"vectors generate: {len(contents)} files in {target}, {verdict}")
    return CONTRADICTED if wrong else AS_EXPECTED


@contextlib.contextmanager
def _reading_vectors() -> Iterator[ModuleType]:
    """The module of the golden vectors; a set that cannot be trusted contradicts."""
    from antisymrnn_validation.vectors import release

    try:
        yield release
    except release.VectorError as error:
        raise Contradicted(str(error)) from error
