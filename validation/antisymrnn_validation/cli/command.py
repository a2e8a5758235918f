"""What every command has: registration, exit codes, the options of all, failures in one line, records of checks."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, TypeVar

import typer

from antisymrnn_validation.output import files, terminal
from antisymrnn_validation.output.names import near, within
from antisymrnn_validation.output.terminal import Record
from antisymrnn_validation.reports import tables

AS_EXPECTED, CONTRADICTED, USAGE, NOTHING_RAN = range(4)
INTERRUPTED, READER_GONE = 130, 141

app = typer.Typer(
    help="Decide the paper's claims, certify gradients, check and time backends, draw, train.\n\n"
    "Exit codes: 0 all as expected, 1 something contradicts or compare could not time all, 2 usage, 3 nothing ran, "
    "130 interrupted.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

vectors_app = typer.Typer(rich_markup_mode=None)
app.add_typer(vectors_app, name="vectors", help="List, describe, export and verify the golden vectors.")

Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write everything to FILE as strict JSON.")]
Quick = Annotated[bool, typer.Option("--quick", help="Smaller problems: a first look, not the full evidence.")]

PEERS = {"torch": ("torch", "PyTorch"), "pytorch": ("torch", "PyTorch"), "jax": ("jax", "JAX")}
"""By what somebody may take for a backend: the peer's option and name."""

Result = TypeVar("Result")


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


class _Command(typer.core.TyperCommand):
    """A command that answers an unknown option with those that are close in meaning or spelling."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if hasattr(error, "possibilities"):  # click's NoSuchOption, which Typer does not export
                from antisymrnn_validation.experiments.configuration import SYNONYMS

                options = [option for parameter in self.params for option in parameter.opts if option[:2] == "--"]
                error.possibilities = near(getattr(error, "option_name", ""), options, synonyms=SYNONYMS)
            raise


def _registered(group: typer.Typer, title: str, function: Callable[..., int]) -> Callable[..., None]:
    """A command of a group; every foreseeable failure becomes one line on stderr."""
    name = f"antisymrnn {title}"

    @group.command(title.split()[-1], cls=_Command)
    @functools.wraps(function)
    def run(**options: Any) -> None:
        try:
            code = function(**options)
            sys.stdout.flush()
        except (UsageError, files.ReportError) as error:
            code = _complain(name, str(error), USAGE)
        except Contradicted as error:
            code = _complain(name, str(error), CONTRADICTED)
        except NothingRan as error:
            code = _complain(name, f"nothing ran: {error}", NOTHING_RAN)
        except ModuleNotFoundError as error:
            if (error.name or "antisymrnn").startswith("antisymrnn"):
                raise
            from antisymrnn_ref.installation import install_command

            needs = f"the package {error.name} is missing: {install_command('validation')}"
            code = _complain(name, needs, USAGE)
        except MemoryError as error:
            code = _complain(name, f"the memory is too small: {error}", USAGE)
        except KeyboardInterrupt:
            code = _complain(name, "interrupted", INTERRUPTED)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout once more
            code = READER_GONE
        except OSError as error:
            if error.errno is None or error.filename is not None:
                raise
            # a full disk behind stdout
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = _complain(name, f"the output cannot be written: {error.strerror or error}", USAGE)
        raise typer.Exit(code)

    return run


def _complain(name: str, message: str, code: int) -> int:
    print(" ".join(f"{name}: {message}".split()), file=sys.stderr)
    return code


def matches(text: str, *names: str) -> bool:
    """Whether a text is part of one of the names, see :func:`~antisymrnn_validation.output.names.within`."""
    return any(within(text, name) for name in names)


def title(name: str, quick: bool) -> str:
    """What the last line begins with."""
    return f"{name} --quick" if quick else name


def check_writable(json: Path | None) -> None:
    """Refuse a file for --json before any work is done."""
    if json is not None:
        files.check_writable(json)


def write_results(json: Path | None, line: str, code: int, start: float, content: Record) -> None:
    """Write the results to the file of --json, if there is one."""
    if json is None:
        return
    from antisymrnn_validation.output.environment import environment

    summary = {"line": line, "exit_code": code, "seconds": time.perf_counter() - start}
    head = {"schema_version": files.SCHEMA_VERSION, "summary": summary, "environment": environment()}
    files.write_json(json, head | content)


def load_backend_named(name: str) -> ModuleType:
    """The module of a backend."""
    from antisymrnn_ref.backend import load_backend

    refuse_peer(name)
    return load_foreign(load_backend, name)


def refuse_peer(name: str) -> None:
    """Say of a library that backends are compared with that it is not one of them."""
    from antisymrnn_ref.backend import backend_modules

    backends = backend_modules()
    if name.casefold() in PEERS and name not in backends:
        option, library = PEERS[name.casefold()]
        raise UsageError(
            f"backend: expected one of {', '.join(backends)} or a module path, got {name!r}; {library} is a peer: "
            f"`antisymrnn compare --peers {option}` times it beside a backend"
        )


def load_foreign(load: Callable[..., Result], *arguments: Any) -> Result:
    """What a function makes of a third party's code."""
    from antisymrnn_validation.output.terminal import placed, reason

    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # where a user's own module path begins, as with python -m
    try:
        return load(*arguments)
    except (ImportError, ValueError, TypeError) as error:  # ours among them, whose words suffice
        raise UsageError(reason(error)) from error
    except (Exception, SystemExit) as error:  # a third party's module may fail in any way
        raise UsageError(placed(error)) from error


def backends_by_name(names: Sequence[str] | None) -> dict[str, ModuleType | str]:
    """Modules by name, or the reason one cannot run, which is an error if it was named."""
    from antisymrnn_validation.output.environment import installed_backends

    return {name: load_backend_named(name) for name in names} if names else installed_backends()


def among(option: str, known: Sequence[str], given: Sequence[str]) -> list[str]:
    """What is given, each once, in the order of what is known."""
    for name in given:
        if name not in known:
            raise UsageError(f"{option}: expected {' or '.join(known)}, got {name!r}")
    return [name for name in known if name in given]


def import_package(package: str, extra: str) -> None:
    """Import a package that an extra brings."""
    try:
        importlib.import_module(package)
    except ImportError as error:
        from antisymrnn_ref.installation import install_command

        said = "" if isinstance(error, ModuleNotFoundError) else f" ({error})"
        raise UsageError(f"{package} cannot be imported{said}: {install_command(extra)}") from error


def each(
    items: Sequence[Any], name: Callable[[Any], str], run: Callable[[Any], Record], *, most: int | None = None
) -> list[Record]:
    """Run one item after the other under a progress bar, if asked until so many contradict."""
    records: list[Record] = []
    with terminal.progress(len(items)) as begin:
        for item in items:
            begin(name(item))
            records.append(run(item))
            if most is not None and sum(map(tables.contradicts, records)) >= most:
                break
    return records


def run_check(
    backend: str,
    check: Any,
    module: ModuleType,
    expected: Mapping[str, str] | None = None,
    source: str = "",
    explanations: Any = None,
) -> Record:
    """The record of one check of one backend; an exception is a failure. The last arguments are those of ``judged``."""
    from antisymrnn_validation.conformance.judge import judged

    record: Record = {"backend": backend, "check": check.name, "case": check.case, "level": check.level}
    record["problem"] = {"cell": check.cell, "dtype": check.dtype, "unconstrained": check.unconstrained}
    start = time.perf_counter()
    try:
        result = judged(check, module, expected or {}, source=source, explanations=explanations)
    except (Exception, SystemExit) as error:  # noqa: BLE001  the next check runs all the same; this one failed
        record |= {"status": terminal.BROKE_OFF, "errors": {}, **broke_off("detail", error)}
        record |= {"diagnosis": "", "deviations": [], "rounding": "", "script": ""}
    else:
        errors = {name: entry._asdict() for name, entry in result.errors.items()}
        record |= {"status": result.status, "detail": result.detail, "errors": errors}
        record |= {"diagnosis": result.diagnosis, "deviations": list(result.deviations)}
        record |= {"rounding": result.rounding, "script": result.script}
    return record | {"seconds": time.perf_counter() - start}


def broke_off(key: str, error: BaseException) -> Record:
    """The exception in one line with its place, and its traceback."""
    from antisymrnn_validation.output.terminal import placed

    return {key: placed(error), "traceback": "".join(traceback.format_exception(error))}


def run_checks(backend: str, module: ModuleType, chosen: Sequence[Any]) -> list[Record]:
    """The records of checks of one backend, run under a progress bar; the failures are printed."""
    from antisymrnn_validation.conformance.mistakes.diagnosis import Explanations

    run = functools.partial(run_check, backend, module=module, explanations=Explanations())
    records = each(chosen, lambda check: f"{backend}: {check.name}: {check.case}", run)
    print_failures(records)
    return records


def print_failures(records: Sequence[Record]) -> None:
    """Print what failed."""
    for paragraph in tables.failures(records):
        print(paragraph, end="\n\n")
