"""vectors: list, describe, export, verify and generate the golden vectors."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
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
from antisymrnn_validation.output import files, terminal
from antisymrnn_validation.output.names import did_you_mean
from antisymrnn_validation.output.terminal import Record, Table
from antisymrnn_validation.reports import tables
from antisymrnn_validation.reports.tables import contradicts
from antisymrnn_validation.reports.times import number


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
    with _reading_vectors() as (form, release):
        from antisymrnn_validation.vectors.reading import read_manifest

        every = release.load()
        size = sum(entry.size for entry in read_manifest(release.released()).values())
    chosen = [vector for vector in every if matches(only, vector.id, vector.comment, *vector.flags)]
    if not chosen:
        raise NothingRan(f"none of {len(every)} vectors has {only!r} in its id, comment or flags")
    records = [
        {"id": vector.id, "comment": vector.comment, "flags": vector.flags, "file": vector.file, **form.head(vector)}
        for vector in chosen
    ]
    terminal.show(vectors_table(records))
    count = len({vector.file for vector in chosen})
    line = f"vectors list: {tables.of(len(chosen), len(every))} vectors of {form.VERSION} in {count} files"
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
    with _reading_vectors() as (form, release):
        every, notes = {vector.id: vector for vector in release.load()}, release.load_notes()
    if name not in every:
        hint = did_you_mean(name, every) or "; `antisymrnn vectors list` lists them"
        raise UsageError(f"NAME: expected the id of a vector, got {name!r}{hint}")
    vector = every[name]
    told = {"file": vector.file, "cell": vector.cell, "dtype": str(vector.dtype), "comment": vector.comment}
    constants = {"step_size": repr(vector.step_size), "diffusion": repr(vector.diffusion)}
    shared = {**form.head(vector), **constants}
    flags = {flag: {**notes[flag]._asdict(), "links": list(notes[flag].links)} for flag in vector.flags}
    terminal.show(tables.sections_table(name, {"vector": told, "problem": shared, "flags": flags}))
    terminal.show(arrays_table(form.arrays(vector)))
    line = f"vectors describe: {name}, {len(vector.inputs)} inputs, {len(vector.expected)} expected arrays"
    print(line)
    whole = {**told, **form.head(vector), **form.test_record(vector)}
    write_results(json, line, AS_EXPECTED, start, {"command": "vectors describe", "vector": whole, "notes": flags})
    return AS_EXPECTED


@vectors_command
def vectors_export(
    target: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that does not exist yet.")],
) -> int:
    """Copy the golden vectors into a new folder, whole or not at all."""
    with _reading_vectors() as (form, release):
        count = release.export(target)
    print(f"vectors export: {count} files of {form.VERSION} in {target}")
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
    with _reading_vectors() as (form, release):
        place = release.released() if folder is None else folder
        if not place.is_dir():
            raise UsageError(f"DIR: expected a folder, got {place}, which is none")
        records, entries = release.verify_folder(place)

    def verified(name: str) -> Record:
        try:
            count = release.verify_file(place, name, entries[name], certify)
            return {"file": name, "vectors": count, "status": "passed", "detail": ""}
        except form.VectorError as error:
            return {"file": name, "vectors": 0, "status": "failed", "detail": str(error)}

    records = [*records, *each(list(entries), str, verified)]
    terminal.show(files_table(records))
    failed = [record["file"] for record in records if tables.contradicts(record)]
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
    with _reading_vectors() as (form, release):
        files.check_new(target)
        from antisymrnn_validation.vectors import rounding

        contents: dict[str, bytes] = {}
        made = rounding.files()
        with terminal.progress(len(made)) as begin:
            for name, make in made.items():
                begin(name)
                contents[name] = make()
        contents[form.MANIFEST] = form.to_manifest(contents)
        files.write_folder(target, contents)
        wrong = [name for name, content in contents.items() if content != (release.released() / name).read_bytes()]
    verdict = f"NOT as released: {', '.join(wrong)}" if wrong else f"the bytes of the released {form.VERSION}"
    print(f"vectors generate: {len(contents)} files in {target}, {verdict}")
    return CONTRADICTED if wrong else AS_EXPECTED


@contextlib.contextmanager
def _reading_vectors() -> Iterator[tuple[ModuleType, ModuleType]]:
    """The modules of the golden vectors; a set that cannot be trusted contradicts."""
    from antisymrnn_validation.vectors import format as form
    from antisymrnn_validation.vectors import release

    try:
        yield form, release
    except form.VectorError as error:
        raise Contradicted(str(error)) from error


def vectors_table(records: Sequence[Record]) -> Table:
    """One row for each golden vector."""
    columns = ("id", "T,B,n,m", "ε", "γ", "cotangent", "flags")
    rows = []
    for r in records:
        constants = (f"{float.fromhex(r[name]):.4g}" for name in ("step_size", "diffusion"))
        sizes = ",".join(str(r[symbol]) for symbol in "TBnm")
        rows.append((r["id"], sizes, *constants, r["cotangent"], ", ".join(r["flags"])))
    return Table("Golden vectors", columns, rows, [False] * len(rows))


def arrays_table(records: Sequence[Record]) -> Table:
    """One row for each array of a golden vector."""
    columns = ("array", "part", "shape", "largest entry", "reference", "tolerance")
    rows = []
    for r in records:
        noise = (number(r.get(key), ".2e") for key in ("reference", "tolerance"))
        rows.append((r["name"], r["part"], str(r["shape"]), f"{r['largest']:.6g}", *noise))
    return Table("Arrays", columns, rows, [False] * len(rows))


def files_table(records: Sequence[Record]) -> Table:
    """One row for each file of a set of golden vectors."""
    rows = [(r["file"], str(r["vectors"]), r["status"], r["detail"]) for r in records]
    columns = ("file", "vectors", "status", "what is wrong")
    return Table("Files of golden vectors", columns, rows, [contradicts(r) for r in records])
