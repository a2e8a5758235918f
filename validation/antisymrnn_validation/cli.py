"""The command ``antisymrnn``: verify, conform, compare, vectors, info. Options, order, exit codes; ``report`` shows.

Exit codes: 0 all as expected; 1 something contradicts; 2 usage: a bad option, data, path or backend; 3 nothing ran;
130 interrupted; 141 the reader of the output went away.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import json as json_module
import os
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NamedTuple

try:
    import typer
except ImportError:
    print("antisymrnn: the command needs more packages: pip install 'antisymrnn-ref[validation]'", file=sys.stderr)
    sys.exit(2)

from antisymrnn_validation import report
from antisymrnn_validation.report import Record

AS_EXPECTED, CONTRADICTED, USAGE, NOTHING_RAN = range(4)
INTERRUPTED, READER_GONE = 130, 141

app = typer.Typer(
    help="Decide the paper's claims, certify gradients, check and time backends.\n\n"
    "Exit codes: 0 all as expected, 1 something contradicts, 2 usage, 3 nothing ran, 130 interrupted.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

vectors_app = typer.Typer(rich_markup_mode=None)
app.add_typer(vectors_app, name="vectors", help="List, describe, export and verify the golden vectors.")

Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write everything to FILE as strict JSON.")]
Quick = Annotated[bool, typer.Option("--quick", help="Smaller problems: a first look, not the full evidence.")]


class UsageError(Exception):
    """What the caller asked for cannot be done."""


class NothingRan(Exception):
    """Nothing is left to run."""


class Contradicted(Exception):
    """What was to be relied on is not as it must be."""


def command(function: Callable[..., int]) -> Callable[..., None]:
    """Register a function that returns its exit code, under its own name."""
    return _registered(app, function.__name__, function)


def vectors_command(function: Callable[..., int]) -> Callable[..., None]:
    """Register a function, named ``vectors_`` and more, in the group ``vectors``."""
    return _registered(vectors_app, function.__name__.replace("_", " "), function)


def _registered(group: typer.Typer, title: str, function: Callable[..., int]) -> Callable[..., None]:
    """A command of a group; every foreseeable failure becomes one line on stderr."""
    name = f"antisymrnn {title}"

    @group.command(title.split()[-1])
    @functools.wraps(function)
    def run(**options: Any) -> None:
        try:
            code = function(**options)
            sys.stdout.flush()
        except (UsageError, report.ReportError) as error:
            code = _complain(name, str(error), USAGE)
        except Contradicted as error:
            code = _complain(name, str(error), CONTRADICTED)
        except NothingRan as error:
            code = _complain(name, f"nothing ran: {error}", NOTHING_RAN)
        except ModuleNotFoundError as error:
            if (error.name or "antisymrnn").startswith("antisymrnn"):
                raise
            needs = f"the package {error.name} is missing: pip install 'antisymrnn-ref[validation]'"
            code = _complain(name, needs, USAGE)
        except KeyboardInterrupt:
            code = _complain(name, "interrupted; no file was written", INTERRUPTED)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout once more
            code = READER_GONE
        except OSError as error:  # a full disk behind stdout
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = _complain(name, f"the output cannot be written: {error.strerror or error}", USAGE)
        raise typer.Exit(code)

    return run


@command
def verify(
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR",
            envvar="ANTISYMRNN_DATA",
            help="Folder with the MNIST files as downloaded, or its parent. Default: the digits of scikit-learn.",
        ),
    ] = None,
    quick: Quick = False,
    json: Json = None,
    only: Annotated[
        str, typer.Option(metavar="TEXT", help="Only claims and certifications with TEXT in their name or source.")
    ] = "",
    backend: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Certify this backend alone. May be repeated.")
    ] = None,
) -> int:
    """Decide the claims and certify gradients.

    Every claim of the paper gets its verdict; then every state and gradient of the specification, and of every other
    backend that can run, is compared with its certified truth on real input.
    """
    _check_writable(json)
    backends = _backends(backend)
    from antisymrnn_validation.conformance import checks
    from antisymrnn_validation.theory import claims

    problems, source = _real_cases(data, quick)
    runnable = {name: module for name, module in backends.items() if isinstance(module, ModuleType)}
    certificates = [(name, case.cell, checks.certify(name, case)) for name in runnable for case in problems]
    total = len(claims.CLAIMS), len(certificates)
    ledger = [claim for claim in claims.CLAIMS if _matches(only, claim.name, claim.source)]
    certificates = [entry for entry in certificates if _matches(only, *entry[:2], entry[2].name, entry[2].case, source)]
    if not ledger and not certificates:
        raise NothingRan(f"none of {total[0]} claims and {total[1]} certifications has {only!r} in its name or source")

    start = time.perf_counter()
    decided = _each(ledger, lambda claim: claim.name, lambda claim: _decide(claim, quick))
    if decided:
        report.show(report.claims_table(decided))
    certified = _each(
        certificates,
        lambda entry: f"{entry[0]}, {entry[1]} on {source}",
        lambda entry: {"cell": entry[1], **_run(entry[0], entry[2], runnable[entry[0]])},
    )
    not_run = {name: reason for name, reason in backends.items() if isinstance(reason, str) and certified}
    if certified:
        report.show(
            report.accuracy_table(f"Relative errors of the states and of every gradient on {source}", certified)
        )
    if not_run:
        print("\n".join(f"backend {name} not run: {reason}" for name, reason in not_run.items()), end="\n\n")

    contradictions = [report.contradiction(record) for record in decided if not record["as_expected"]]
    contradictions += [report.failure(record) for record in certified if report.contradicts(record)]
    for paragraph in contradictions:
        print(paragraph, end="\n\n")
    line = f"{_title('verify', quick)}: {report.verify_line(decided, certified, total, source, not_run)}"
    code = CONTRADICTED if contradictions else AS_EXPECTED
    print(line)
    results = {"data": source, "claims": decided, "certifications": certified, "not_run": not_run}
    _write(json, line, code, start, {"command": "verify", "quick": quick, "only": only, **results})
    return code


@command
def conform(
    backend: Annotated[
        str | None, typer.Argument(metavar="BACKEND", help="A name that `antisymrnn info` lists, or a module path.")
    ] = None,
    torch: Annotated[
        str, typer.Option(metavar="PKG:OBJ", help="In its place a function or an nn.Module of PyTorch.")
    ] = "",
    jax: Annotated[str, typer.Option(metavar="PKG:OBJ", help="In its place a function of JAX.")] = "",
    callable_: Annotated[
        str,
        typer.Option(
            "--callable", metavar="PKG:OBJ", help="In its place a function on NumPy arrays: its states alone."
        ),
    ] = "",
    gated: Annotated[
        str, typer.Option(metavar="PKG:OBJ", help="The function of the gated cell, with --torch, --jax or --callable.")
    ] = "",
    cmd: Annotated[str, typer.Option(metavar="'PROG ARGS'", help="In its place a program in any language.")] = "",
    timeout: Annotated[
        float | None, typer.Option(metavar="S", help="Seconds that one call of the program may take. Default: 20.")
    ] = None,
    level: Annotated[
        int | None, typer.Option(min=0, max=5, help="Only checks of the levels up to this one. Default: all.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(metavar="DTYPE", help="Only float32, or only float64. Default: both, the latter first.")
    ] = "",
    quick: Quick = False,
    json: Json = None,
    only: Annotated[
        str,
        typer.Option(
            "--only", "-k", metavar="TEXT", help="Only checks with TEXT in the name of the check or of the case."
        ),
    ] = "",
    convention: Annotated[
        str, typer.Option(metavar="NAME", help="Judge under this declared convention, such as row-vectors.")
    ] = "",
    expect: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON: under a text in 'check: case' the reason why it fails as expected."),
    ] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the checks to FILE as JUnit XML.")] = None,
    drawn: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="In place of the checks, accuracy on N cases drawn at random."),
    ] = None,
) -> int:
    """Check one backend, function or program against the contract.

    A function is f(parameters, x, h0, step_size, diffusion) and returns every state, (T+1, B, n). A program is called
    with two folders for each pass of each case. Both protocols, and the levels, stand in validation/README.md.
    """
    _check_writable(json)
    target = _target(backend, torch=torch, jax=jax, callable=callable_, gated=gated, cmd=cmd, timeout=timeout)
    from antisymrnn_validation.conformance import checks

    name, module, source = target
    expected = _expected_failures(expect)
    if junit is not None:
        report.check_writable(junit)
    if convention:
        from antisymrnn_validation.conformance.conventions import declared

        try:
            module, name = declared(module, convention), f"{name} --convention {convention}"
            source = f"{declared.__module__}.declared({target.source}, {convention!r})"
        except ValueError as error:
            raise UsageError(f"--{error}") from error
    dtypes = _among("--dtype", checks.DTYPES, [dtype] if dtype else checks.DTYPES)
    # the specification is judged alike under each of its names
    known = "numpy" if module.__name__ == "antisymrnn_ref" else name
    features = checks.features_of(module)
    if drawn is None:
        every = checks.iter_checks(known, quick=quick, features=features, dtypes=dtypes)
    else:
        every = checks.drawn_checks(known, drawn, features=features, dtypes=dtypes)
    chosen = [check for check in every if _matches(only, f"{check.name}: {check.case}")]
    chosen = [check for check in chosen if level is None or check.level <= level]
    if not chosen:
        among = "" if level is None else f", at levels up to {level}"
        raise NothingRan(f"none of {len(every)} checks has {only!r} in the name of the check or of the case{among}")

    start = time.perf_counter()
    judge = functools.partial(_run, name, module=module, expected=expected, source=source)
    records = _each(chosen, lambda check: f"{check.name}: {check.case}", judge)
    _print_failures(records)
    report.show(report.groups_table(records))
    report.show(report.levels_table(records, checks.LEVELS))
    counts = report.status_counts(records)
    ran = counts["passed"] + counts["failed"] + counts["expected failure"]
    if unused := [text for text in expected if not any(text in f"{check.name}: {check.case}" for check in chosen)]:
        raise UsageError(f"--expect: no check that runs has {unused[0]!r} in its name")
    line = f"{_title(f'conform {name}', quick)}: {report.conform_line(records, len(every))}"
    line += report.diagnosis_of(records)
    code = CONTRADICTED if counts["failed"] else AS_EXPECTED if ran else NOTHING_RAN
    print(line)
    if junit is not None:
        report.write_junit(junit, line, records)
    results = {"backend": name, "level": level, "dtypes": dtypes, "checks": records}
    _write(json, line, code, start, {"command": "conform", "quick": quick, "only": only, **results})
    return code


@command
def compare(
    backends: Annotated[
        list[str] | None,
        typer.Argument(metavar="BACKENDS", help="Names or module paths. Default: every backend that can run."),
    ] = None,
    peers: Annotated[str, typer.Option(metavar="LIST", help="Peers beside NumPy's: torch, jax, or torch,jax.")] = "",
    shape: Annotated[
        list[str] | None, typer.Option(metavar="T,B,m,n", help="Sizes to time. May be repeated. Default: the paper's.")
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(metavar="DTYPE", help="float32 or float64. May be repeated.")
    ] = None,
    cell: Annotated[
        list[str] | None, typer.Option(metavar="CELL", help="antisymmetric or gated. May be repeated. Default: both.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(metavar="N", help="Samples of a fast contender; a slow one has fewer. Default: 25.")
    ] = None,
    accuracy: Annotated[
        bool, typer.Option("--accuracy", help="Errors against certified truth, in place of times.")
    ] = False,
    quick: Quick = False,
    json: Json = None,
) -> int:
    """Time backends beside the specification and peers.

    Conformance first: a backend that fails a check is named and not timed. Then forward, and forward and backward, of
    every contender in turns, beside the peak of the machine. A slow backend contradicts nothing: the exit code says
    whether all that is compared is right and was timed.
    """
    _check_writable(json)
    asked = _asked(peers, shape, dtype, cell, samples, quick)
    modules, not_run = _compared(backends)
    start = time.perf_counter()
    head: Record = {"command": "compare", "quick": quick, "accuracy": accuracy, "not_run": not_run}
    if not_run:
        print("\n".join(f"backend {name} not run: {reason}" for name, reason in not_run.items()), end="\n\n")
    if accuracy:
        line, code, results = _accuracies(modules, asked, quick)
    else:
        line, code, results = _times(modules, asked, quick)
    line = f"{_title('compare', quick)}: {line}"
    print(line)
    _write(json, line, code, start, head | results)
    return code


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
    _check_writable(json)
    start = time.perf_counter()
    with _reading_vectors() as vectors:
        every = vectors.load()
        size = sum(entry.size for entry in vectors.read_manifest(vectors.released()).values())
    chosen = [vector for vector in every if _matches(only, vector.id, vector.comment, *vector.flags)]
    if not chosen:
        raise NothingRan(f"none of {len(every)} vectors has {only!r} in its id, comment or flags")
    records = [
        {"id": vector.id, "comment": vector.comment, "flags": vector.flags, "file": vector.file, **vectors.head(vector)}
        for vector in chosen
    ]
    report.show(report.vectors_table(records))
    files = len({vector.file for vector in chosen})
    line = f"vectors list: {report.of(len(chosen), len(every))} vectors of {vectors.VERSION} in {files} files"
    line += f"; the set has {size / 1e6:.1f} MB"
    print(line)
    _write(json, line, AS_EXPECTED, start, {"command": "vectors list", "only": only, "vectors": records})
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
    _check_writable(json)
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
    report.show(report.sections_table(name, {"vector": told, "problem": shared, "flags": flags}))
    report.show(report.arrays_table(vectors.arrays(vector)))
    line = f"vectors describe: {name}, {len(vector.inputs)} inputs, {len(vector.expected)} expected arrays"
    print(line)
    whole = {**told, **vectors.head(vector), **vectors.test_record(vector)}
    _write(json, line, AS_EXPECTED, start, {"command": "vectors describe", "vector": whole, "notes": flags})
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
    _check_writable(json)
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

    records = [*records, *_each(list(entries), str, verified)]
    report.show(report.files_table(records))
    failed = [record["file"] for record in records if report.contradicts(record)]
    line = (
        f"vectors verify{' --certify' if certify else ''}: {sum(record['vectors'] for record in records)} vectors in "
    )
    line += f"{len(records)} files" + (f"; NOT as released: {', '.join(failed)}" if failed else ", all as released")
    print(line)
    code = CONTRADICTED if failed else AS_EXPECTED
    results = {"folder": str(place), "certify": certify, "files": records}
    _write(json, line, code, start, {"command": "vectors verify", **results})
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
        from antisymrnn_validation.conformance import vector_generation

        contents: dict[str, bytes] = {}
        made = vector_generation.files()
        with report.progress(len(made)) as begin:
            for name, make in made.items():
                begin(name)
                contents[name] = make()
        contents[vectors.MANIFEST] = vectors.to_manifest(contents)
        vectors.write_folder(target, contents)
        wrong = [name for name, content in contents.items() if content != (vectors.released() / name).read_bytes()]
    verdict = f"NOT as released: {', '.join(wrong)}" if wrong else f"the bytes of the released {vectors.VERSION}"
    print(f"vectors generate: {len(contents)} files in {target}, {verdict}")
    return CONTRADICTED if wrong else AS_EXPECTED


@command
def explain(
    check: Annotated[str, typer.Argument(metavar="CHECK", help="The name of a check, as conform prints it.")],
) -> int:
    """Say what a check is about: the promise, the equations, the usual cause of a failure, and the mend.

    It also knows the deviations by name.
    """
    from antisymrnn_validation.conformance import catalogue, explanations

    known = {deviation.name: deviation for deviation in catalogue.CATALOGUE}
    try:
        if check in known:
            deviation = known[check]
            told = {
                "what is wrong": deviation.statement,
                "equations": ", ".join(f"({tag})" for tag in deviation.tags),
                "kind": deviation.kind,
                "usual cause": deviation.usual_cause,
                "mend": deviation.mend,
            }
        else:
            told = {key.replace("_", " "): value for key, value in explanations.explain(check)._asdict().items()}
    except ValueError as error:
        raise UsageError(str(error)) from error
    report.show(report.sections_table(check, {"check": told}))
    return AS_EXPECTED


@command
def info(json: Json = None) -> int:
    """Show versions, devices and backends.

    Versions, machine, BLAS and threads, devices, for each backend ok or the reason it cannot run, and the tables by
    which backends choose their kernels.
    """
    _check_writable(json)
    from antisymrnn_validation import environment

    found = environment.installed_backends()
    sections = {
        **environment.environment(),
        "devices": environment.devices(),
        "backends": {name: "ok" if isinstance(entry, ModuleType) else entry for name, entry in found.items()},
        "kernels": environment.kernel_tables(),
    }
    report.show(report.sections_table("This installation", sections))
    if json is not None:
        report.write_json(json, {"schema_version": report.SCHEMA_VERSION, "command": "info", **sections})
    return AS_EXPECTED


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # for a terminal without the paper's letters
    app(arguments, prog_name="antisymrnn")


@contextlib.contextmanager
def _reading_vectors() -> Iterator[ModuleType]:
    """The module of the golden vectors; a set that cannot be trusted contradicts."""
    from antisymrnn_validation.conformance import vectors

    try:
        yield vectors
    except vectors.VectorError as error:
        raise Contradicted(str(error)) from error


def _complain(name: str, message: str, code: int) -> int:
    print(" ".join(f"{name}: {message}".split()), file=sys.stderr)
    return code


def _matches(text: str, *names: str) -> bool:
    return any(text.casefold() in name.casefold() for name in names)


def _title(name: str, quick: bool) -> str:
    return f"{name} --quick" if quick else name


def _check_writable(json: Path | None) -> None:
    if json is not None:
        report.check_writable(json)


def _write(json: Path | None, line: str, code: int, start: float, content: Record) -> None:
    if json is None:
        return
    from antisymrnn_validation.environment import environment

    summary = {"line": line, "exit_code": code, "seconds": time.perf_counter() - start}
    head = {"schema_version": report.SCHEMA_VERSION, "summary": summary, "environment": environment()}
    report.write_json(json, head | content)


def _load(name: str) -> ModuleType:
    from antisymrnn_ref.backend import load_backend

    return _loaded(load_backend, name)


def _loaded(load: Callable[..., ModuleType], *arguments: Any) -> ModuleType:
    from antisymrnn_validation.environment import reason

    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # where a user's own module path begins, as with python -m
    try:
        return load(*arguments)
    except (Exception, SystemExit) as error:  # a third party's module may fail in any way
        raise UsageError(reason(error)) from error


class Target(NamedTuple):
    """What conform judges, what it is called, and the Python expression that gives it."""

    name: str
    module: ModuleType
    source: str


def _target(
    backend: str | None, *, torch: str, jax: str, callable: str, gated: str, cmd: str, timeout: float | None
) -> Target:
    """The one target of conform."""
    asked = {"BACKEND": backend, "--torch": torch, "--jax": jax, "--callable": callable, "--cmd": cmd}
    given = {option: value for option, value in asked.items() if value}
    if not given:
        raise UsageError("Missing argument 'BACKEND', or one of --torch, --jax, --callable and --cmd")
    if len(given) > 1:
        raise UsageError(f"expected one target, got {' and '.join(given)}")
    ((option, value),) = given.items()
    if gated and option in ("BACKEND", "--cmd"):
        raise UsageError("--gated: expected with --torch, --jax or --callable alone")
    if timeout is not None and option != "--cmd":
        raise UsageError("--timeout: expected with --cmd alone")
    if option == "BACKEND":
        return Target(value, _load(value), f"antisymrnn_ref.load_backend({value!r})")
    from antisymrnn_validation.conformance import candidates

    if option == "--cmd":
        try:
            command = shlex.split(value)
        except ValueError as error:
            raise UsageError(f"--cmd: {error}") from error
        seconds = candidates.TIMEOUT if timeout is None else timeout
        program = _loaded(candidates.program_candidate, command, seconds)
        return Target(f"--cmd {value!r}", program, f"{candidates.__name__}.program_candidate({command!r})")
    if option != "--callable":
        _import(option.removeprefix("--"), "peers")
    load = {
        "--torch": candidates.torch_candidate,
        "--jax": candidates.jax_candidate,
        "--callable": candidates.callable_candidate,
    }[option]
    source = f"{candidates.__name__}.{load.__name__}({value!r}, {gated or None!r})"
    return Target(f"{option} {value}", _loaded(load, value, gated or None), source)


def _expected_failures(path: Path | None) -> dict[str, str]:
    """The reasons of ``--expect``."""
    if path is None:
        return {}
    try:
        told: Any = json_module.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--expect: {path} cannot be read as JSON: {error}") from error
    reasons = list(told.values()) if isinstance(told, dict) and "" not in told else [None]
    if not all(isinstance(reason, str) and reason for reason in reasons):
        raise UsageError(f"--expect: {path}: expected an object of texts, a reason for each")
    return dict(told)


class Asked(NamedTuple):
    """What the options of compare say, checked."""

    libraries: list[str]
    shapes: list[Any]
    dtypes: list[str]
    cells: list[str]
    samples: int


def _asked(
    peers: str,
    shapes: Sequence[str] | None,
    dtypes: Sequence[str] | None,
    cells: Sequence[str] | None,
    samples: int | None,
    quick: bool,
) -> Asked:
    from antisymrnn_validation.comparison import contest
    from antisymrnn_validation.comparison.peers import LIBRARIES
    from antisymrnn_validation.conformance.cases import CELLS

    libraries = _among("--peers", LIBRARIES, peers.split(",") if peers else [])
    for library in libraries:
        _import(library, "peers")
    if samples is not None and samples < 1:
        raise UsageError(f"--samples: expected at least 1, got {samples}")
    return Asked(
        libraries,
        list(dict.fromkeys(map(_shape, shapes or []))),
        _among("--dtype", ("float32", "float64"), dtypes or []),
        _among("--cell", CELLS, cells or CELLS),
        samples or (contest.QUICK_SAMPLES if quick else contest.SAMPLES),
    )


def _among(option: str, known: Sequence[str], given: Sequence[str]) -> list[str]:
    """What is given, each once, in the order of what is known."""
    for name in given:
        if name not in known:
            raise UsageError(f"{option}: expected {' or '.join(known)}, got {name!r}")
    return [name for name in known if name in given]


def _shape(text: str) -> Any:
    """T, B, m, n of ``--shape``: four whole numbers from 1, whose states fit the memory of the machine."""
    from antisymrnn_validation.comparison.arithmetic import Shape
    from antisymrnn_validation.environment import memory_bytes

    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() and part.strip().isascii() for part in parts):
        raise UsageError(f"--shape: expected four whole numbers T,B,m,n such as 784,128,1,128, got {text!r}")
    if any(len(part.strip()) > 10 for part in parts) or not all(sizes := Shape(*map(int, parts))):
        raise UsageError(f"--shape: expected T, B, m and n of at least 1 and at most 10 digits, got {text[:40]!r}")
    needed = 8 * (sizes.T * sizes.B * (sizes.m + 4 * sizes.n) + sizes.n * (sizes.n + sizes.m))
    if needed > (there := memory_bytes()):
        raise UsageError(f"--shape: {text} needs {needed / 1e9:.3g} GB of memory, this machine has {there / 1e9:.3g}")
    return sizes


def _import(package: str, extra: str) -> None:
    """Import a package that an extra brings."""
    try:
        importlib.import_module(package)
    except ImportError as error:
        said = "" if isinstance(error, ModuleNotFoundError) else f" ({error})"
        raise UsageError(f"{package} cannot be imported{said}: pip install 'antisymrnn-ref[{extra}]'") from error


def _compared(names: Sequence[str] | None) -> tuple[dict[str, ModuleType], dict[str, str]]:
    """The backends to compare by name, each module once, and why others cannot run."""
    found = _backends(list(dict.fromkeys(names)) if names else None)
    modules: dict[str, ModuleType] = {}
    for name, module in found.items():
        if isinstance(module, ModuleType) and all(module is not other for other in modules.values()):
            modules["numpy" if module.__name__ == "antisymrnn_ref" else name] = module
    return modules, {name: reason for name, reason in found.items() if isinstance(reason, str)}


def _conformance(modules: Mapping[str, ModuleType]) -> tuple[list[str], Record]:
    """The names of the backends that are red, and what each one's checks came to."""
    from antisymrnn_validation.conformance import checks

    red, told = [], {}
    for name, module in modules.items():
        every = checks.iter_checks(name, quick=True)
        records = _each(
            [(name, check, module) for check in every],
            lambda item: f"{item[0]}: {item[1].name}: {item[1].case}",
            lambda item: _run(*item),
        )
        _print_failures(records)
        counts = report.status_counts(records)
        failed = [record for record in records if report.contradicts(record)]
        line = report.conform_line(records, len(every))
        if failed or not counts["passed"]:
            red.append(name)
            line += "; NOT CONFORMANT, not timed"
        print(f"{name}: {line}", end="\n\n", flush=True)
        told[name] = {
            **{status: counts[status] for status in ("passed", "failed", "not applicable")},
            "failures": failed,
        }
    return red, told


def _times(modules: Mapping[str, ModuleType], asked: Asked, quick: bool) -> tuple[str, int, Record]:
    """The last line, the exit code and the results of compare."""
    _import("llvmlite.binding", "numba")
    import antisymrnn_ref
    from antisymrnn_validation.comparison import contest, peak, targets

    red, conformance = _conformance(modules)
    right = {name: module for name, module in modules.items() if name not in red}
    if not right:
        line = f"nothing was timed; NOT CONFORMANT: {', '.join(red)}"
        return line, CONTRADICTED, {"conformance": conformance, "contests": []}
    beside = [name for name in right if name != "numpy"] or ["numpy"]
    entered = right if "numpy" in red else {**right, "numpy": antisymrnn_ref}
    plans = contest.plans(asked.cells, asked.shapes, asked.dtypes, quick=quick)
    held, peaks = [], {}
    with contextlib.ExitStack() as stack:
        for name in dict.fromkeys(plan.dtype for plan in plans):
            found = peaks[name] = stack.enter_context(peak.measured_peak(name))
            apart = f"{found.threads} threads, one alone {found.alone:.1f}"
            print(f"FMA peak, {name}: {found.best():.1f} GFLOP/s with {apart}")
        print(flush=True)
        for plan in plans:
            contenders = contest.line_up(plan.cell, entered, asked.libraries)
            with report.progress(len(contenders) + 1 + asked.samples) as begin:
                entries = contest.hold(plan, contenders, entered, peaks[plan.dtype], samples=asked.samples, begin=begin)
            held.append((plan, entries, _record(plan, entries, peaks)))
            report.show(report.times_table(held[-1][2], beside))
            sys.stdout.flush()
    contests = []
    for plan, entries, shown in held:  # again, by the peak of the whole run
        last = _record(plan, entries, peaks)
        contests.append(last)
        if contest.counted(last) != contest.counted(shown):
            print(f"The machine was faster later than {shown['steady_gflops']:.1f} GFLOP/s; what still counts:")
            report.show(report.times_table(last, beside))
    memory, first_calls = _processes(plans, contests, right)
    reached = {name: targets.records(name, contests) for name in right if name != "numpy"}
    for name, records in reached.items():
        report.show(report.targets_table(name, records))
    found_peaks = {
        name: {
            "gflops": p.best(),
            "steady": p.steady(),
            "alone": p.alone,
            "threads": p.threads,
            **p.registers._asdict(),
        }
        for name, p in peaks.items()
    }
    results = {
        "peak": found_peaks, "conformance": conformance, "contests": contests, "memory": memory,
        "first_calls": first_calls, "targets": reached,
    }  # fmt: skip
    statuses = {entry["status"] for record in contests for entry in record["contenders"]}
    code = CONTRADICTED if red or statuses != {"timed"} else AS_EXPECTED
    if "timed" not in statuses and "wrong" not in statuses and not red:
        code = NOTHING_RAN
    return report.compare_line(contests, len(plans), red), code, results


def _record(plan: Any, entries: Sequence[Any], peaks: Mapping[str, Any]) -> Record:
    from antisymrnn_validation.comparison import contest

    peak = peaks[plan.dtype]
    return contest.record(plan, entries, peak.best(), peak.steady())


def _processes(
    plans: Sequence[Any], contests: Sequence[Record], backends: Mapping[str, ModuleType]
) -> tuple[list[Record], list[Record]]:
    """Peak memory at the first shape of each cell, and the first calls of each backend."""
    from antisymrnn_validation.comparison import processes

    first: dict[str, tuple[Any, Record]] = {}
    for plan, contest in zip(plans, contests, strict=True):
        first.setdefault(plan.cell, (plan, contest))
    memory = [
        (entry["name"], plan)
        for plan, contest in first.values()
        for entry in contest["contenders"]
        if entry["status"] != "wrong"
    ]
    calls = list(dict.fromkeys((name, plan.cell, plan.dtype) for plan in plans for name in backends if name != "numpy"))

    def answered(head: Record, ask: Callable[[], Record]) -> Record:
        try:
            return {**head, "detail": "", **ask()}
        except processes.ProcessError as error:
            return {**head, "detail": str(error)}

    used = _each(
        memory,
        lambda item: f"memory of {item[0]}",
        lambda item: answered(
            {"name": item[0], "case": f"{item[1].cell} {item[1].shape} {item[1].dtype}"},
            lambda: processes.peak_memory(item[0], *item[1]),
        ),
    )
    report.show(report.memory_table(used))
    began = _each(
        calls,
        lambda item: f"first calls of {item[0]}",
        lambda item: answered(
            dict(zip(("name", "cell", "dtype"), item, strict=True)), lambda: processes.first_calls(*item)
        ),
    )
    if began:
        report.show(report.first_calls_table(began))
    return used, began


def _accuracies(modules: Mapping[str, ModuleType], asked: Asked, quick: bool) -> tuple[str, int, Record]:
    """The last line, the exit code and the results of compare --accuracy."""
    import antisymrnn_ref
    from antisymrnn_validation.comparison import agreement, contest

    cases = agreement.accuracy_cases(asked.cells, asked.dtypes or ["float64", "float32"], quick=quick)
    entered = {**modules, "numpy": antisymrnn_ref}
    pairs = [
        (contender, case)
        for case in cases
        for contender in contest.line_up(case.cell, entered, asked.libraries)
        if not contender.layer
    ]
    records = _each(
        pairs,
        lambda pair: f"{pair[0].name}: {pair[1].name}",
        lambda pair: agreement.accuracy_record(pair[0], entered.get(pair[0].name), pair[1]),
    )
    report.show(report.units_table(records))
    wrong = list(dict.fromkeys(record["name"] for record in records if record["status"] != "passed"))
    for record in records:
        if record["status"] != "passed":
            print(f"FAILED {record['name']} on {record['case']}\n  {record['detail']}", end="\n\n")
    line = f"accuracy of {len({record['name'] for record in records})} contenders on {len(cases)} cases"
    line += f"; WRONG: {', '.join(wrong)}" if wrong else "; all within their tolerances"
    return line, CONTRADICTED if wrong else AS_EXPECTED, {"accuracies": records}


def _print_failures(records: Sequence[Record]) -> None:
    """Each failure once, and on how many more cases it is the same."""
    same: dict[tuple[str, str], list[Record]] = {}
    for record in filter(report.contradicts, records):
        (known,) = record["deviations"][:1] or [record["detail"]]
        same.setdefault((record["check"], known), []).append(record)
    told: set[str] = set()
    for first, *others in same.values():
        known = set(first["deviations"][:1])
        more = [f"  and the same on {len(others)} more cases"] if others else []
        print(report.failure(first, again=bool(known & told)), *more, sep="\n", end="\n\n")
        told |= known


def _backends(names: Sequence[str] | None) -> dict[str, ModuleType | str]:
    """Modules by name, or the reason one cannot run, which is an error if it was named."""
    from antisymrnn_validation.environment import installed_backends

    return {name: _load(name) for name in names} if names else installed_backends()


def _real_cases(data: Path | None, quick: bool) -> tuple[list[Any], str]:
    """One case of each cell on real sequences, and what they are."""
    from antisymrnn_validation.conformance import cases
    from antisymrnn_validation.experiments import tasks

    try:
        images = tasks.load_digits() if data is None else tasks.load_mnist(data, "test")
    except tasks.DataError as error:
        raise UsageError(str(error)) from error
    B, n = (2 if quick else 4, 16 if quick else 32) if data is None else (1, 32 if quick else 128)
    sequences = tasks.pixel_sequences(images, range(B))  # (T, B, 1)
    found = [tasks.real_case(cell, sequences, images.labels[:B], n=n, seed=0) for cell in cases.CELLS]
    return found, f"{images.name} (T = {len(sequences)}, n = {n}, B = {B})"


def _each(items: Sequence[Any], name: Callable[[Any], str], run: Callable[[Any], Record]) -> list[Record]:
    """Run one item after the other under a progress bar."""
    records = []
    with report.progress(len(items)) as begin:
        for item in items:
            begin(name(item))
            records.append(run(item))
    return records


def _decide(claim: Any, quick: bool) -> Record:
    from antisymrnn_validation.theory import claims

    record: Record = {key: getattr(claim, key) for key in ("name", "source", "statement", "condition", "expected")}
    start = time.perf_counter()
    try:
        judgement = claims.judge(claim, quick)
    except Exception as error:  # noqa: BLE001  the next claim is decided all the same; this one contradicts
        record |= {"verdict": report.BROKE_OFF, "as_expected": False, "numbers": {}, **_broke_off("evidence", error)}
    else:
        record |= {**judgement.outcome._asdict(), "as_expected": judgement.as_expected}
    return record | {"seconds": time.perf_counter() - start}


def _run(
    backend: str, check: Any, module: ModuleType, expected: Mapping[str, str] | None = None, source: str = ""
) -> Record:
    from antisymrnn_validation.conformance.judge import judged

    record: Record = {"backend": backend, "check": check.name, "case": check.case, "level": check.level}
    start = time.perf_counter()
    try:
        result = judged(check, module, expected or {}, source=source)
    except (Exception, SystemExit) as error:  # noqa: BLE001  the next check runs all the same; this one failed
        record |= {"status": report.BROKE_OFF, "errors": {}, **_broke_off("detail", error)}
        record |= {"diagnosis": "", "deviations": []}
    else:
        errors = {name: entry._asdict() for name, entry in result.errors.items()}
        record |= {"status": result.status, "detail": result.detail, "errors": errors}
        record |= {"diagnosis": result.diagnosis, "deviations": list(result.deviations)}
    return record | {"seconds": time.perf_counter() - start}


def _broke_off(key: str, error: BaseException) -> Record:
    """The exception in one line with its place, and its traceback."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    said = " ".join(f"{type(error).__name__}: {error} ({Path(frame.filename).name}, line {frame.lineno})".split())
    return {key: said, "traceback": "".join(traceback.format_exception(error))}


if __name__ == "__main__":
    main()
