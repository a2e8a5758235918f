"""The command ``antisymrnn``: verify, conform, info. Options, order and exit codes; ``report`` does the showing.

Exit codes: 0 all as expected; 1 something contradicts; 2 usage: a bad option, data, path or backend; 3 nothing ran;
130 interrupted; 141 the reader of the output went away.
"""

from __future__ import annotations

import functools
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

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
    help="Decide the paper's claims, certify gradients, check backends.\n\n"
    "Exit codes: 0 all as expected, 1 something contradicts, 2 usage, 3 nothing ran, 130 interrupted.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write everything to FILE as strict JSON.")]
Quick = Annotated[bool, typer.Option("--quick", help="Smaller problems: a first look, not the full evidence.")]


class UsageError(Exception):
    """What the caller asked for cannot be done."""


class NothingRan(Exception):
    """Nothing is left to run."""


def command(function: Callable[..., int]) -> Callable[..., None]:
    """Register a function that returns its exit code; every foreseeable failure becomes one line on stderr."""
    name = f"antisymrnn {function.__name__}"

    @app.command()
    @functools.wraps(function)
    def run(**options: Any) -> None:
        try:
            code = function(**options)
            sys.stdout.flush()
        except (UsageError, report.ReportError) as error:
            code = _complain(name, str(error), USAGE)
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
        str, typer.Argument(metavar="BACKEND", help="A name that `antisymrnn info` lists, or a module path.")
    ],
    quick: Quick = False,
    json: Json = None,
    only: Annotated[
        str, typer.Option(metavar="TEXT", help="Only checks with TEXT in the name of the check or of the case.")
    ] = "",
) -> int:
    """Check one backend against the contract."""
    _check_writable(json)
    module = _load(backend)
    from antisymrnn_validation.conformance import checks

    # the specification is judged alike under each of its names
    every = checks.iter_checks("numpy" if module.__name__ == "antisymrnn_ref" else backend, quick=quick)
    chosen = [check for check in every if _matches(only, check.name, check.case)]
    if not chosen:
        raise NothingRan(f"none of {len(every)} checks has {only!r} in the name of the check or of the case")

    start = time.perf_counter()
    records = _each(chosen, lambda check: f"{check.name}: {check.case}", lambda check: _run(backend, check, module))
    same: dict[tuple[str, str], list[Record]] = {}
    for record in filter(report.contradicts, records):
        same.setdefault((record["check"], record["detail"]), []).append(record)
    for first, *others in same.values():
        print(
            report.failure(first),
            *([f"  and the same on {len(others)} more cases"] if others else []),
            sep="\n",
            end="\n\n",
        )
    report.show(report.groups_table(records))
    counts = report.status_counts(records)
    ran = counts["passed"] + counts["failed"]
    line = f"{_title(f'conform {backend}', quick)}: {report.conform_line(records, len(every))}"
    code = CONTRADICTED if counts["failed"] else AS_EXPECTED if ran else NOTHING_RAN
    print(line)
    results = {"backend": backend, "checks": records}
    _write(json, line, code, start, {"command": "conform", "quick": quick, "only": only, **results})
    return code


@command
def info(json: Json = None) -> int:
    """Show versions, devices and backends.

    Versions, machine, BLAS and threads, devices, and for each backend ok or the reason it cannot run.
    """
    _check_writable(json)
    from antisymrnn_validation import environment

    found = environment.installed_backends()
    sections = {
        **environment.environment(),
        "devices": environment.devices(),
        "backends": {name: "ok" if isinstance(entry, ModuleType) else entry for name, entry in found.items()},
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
    from antisymrnn_validation.environment import reason

    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # where a user's own module path begins, as with python -m
    try:
        return load_backend(name)
    except (Exception, SystemExit) as error:  # a third party's module may fail in any way
        raise UsageError(reason(error)) from error


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


def _run(backend: str, check: Any, module: ModuleType) -> Record:
    record: Record = {"backend": backend, "check": check.name, "case": check.case}
    start = time.perf_counter()
    try:
        result = check.run(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001  the next check runs all the same; this one failed
        record |= {"status": report.BROKE_OFF, "errors": {}, **_broke_off("detail", error)}
    else:
        errors = {name: entry._asdict() for name, entry in result.errors.items()}
        record |= {"status": result.status, "detail": result.detail, "errors": errors}
    return record | {"seconds": time.perf_counter() - start}


def _broke_off(key: str, error: BaseException) -> Record:
    """The exception in one line with its place, and its traceback."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    said = " ".join(f"{type(error).__name__}: {error} ({Path(frame.filename).name}, line {frame.lineno})".split())
    return {key: said, "traceback": "".join(traceback.format_exception(error))}


if __name__ == "__main__":
    main()
