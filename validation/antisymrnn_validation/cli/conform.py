"""verify, conform, explain, info: claims, certificates, checks of the contract."""

from __future__ import annotations

import functools
import json as json_module
import shlex
import time
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NamedTuple

import typer

from antisymrnn_validation.cli.command import (
    AS_EXPECTED,
    CONTRADICTED,
    NOTHING_RAN,
    Json,
    NothingRan,
    Quick,
    UsageError,
    among,
    backends_by_name,
    broke_off,
    check_writable,
    command,
    each,
    import_package,
    load_backend_named,
    load_foreign,
    matches,
    print_failures,
    run_check,
    run_checks,
    title,
    write_results,
)
from antisymrnn_validation.output import terminal
from antisymrnn_validation.output.terminal import Record


@command
def verify(
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR",
            envvar="ANTISYMRNN_DATA",
            help="Folder with the MNIST files as downloaded, or with a folder mnist of them. Default: bundled digits.",
        ),
    ] = None,
    quick: Quick = False,
    json: Json = None,
    only: Annotated[
        str,
        typer.Option(metavar="TEXT", help="Only what has TEXT in its name or source."),
    ] = "",
    backend: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Judge this backend alone. May be repeated.")
    ] = None,
    report_folder: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="DIR",
            help="Run the quick checks of conform too, and write everything as one page, DIR/index.html.",
        ),
    ] = None,
) -> int:
    """Decide the claims and certify gradients.

    Every claim of the paper gets its verdict; then every state and gradient of the specification, and of every other
    backend that can run, is compared with its certified truth on real input. With --report the quick checks of conform
    follow, of each backend that can run. The test accuracies of the paper stand beside those of recorded runs.
    """
    check_writable(json)
    if report_folder is not None:
        terminal.check_writable(terminal.output_folder(report_folder) / "index.html")
    backends = backends_by_name(backend)
    from antisymrnn_validation.claims import ledger
    from antisymrnn_validation.conformance import check, judge
    from antisymrnn_validation.experiments import published

    problems, source = _real_cases(data, quick)
    runnable = {name: module for name, module in backends.items() if isinstance(module, ModuleType)}
    certificates = [(name, case.cell, check.certify(name, case)) for name in runnable for case in problems]
    total = len(ledger.CLAIMS), len(certificates)
    ledger = [claim for claim in ledger.CLAIMS if matches(only, claim.name, claim.source)]
    certificates = [entry for entry in certificates if matches(only, *entry[:2], entry[2].name, entry[2].case, source)]
    try:
        accuracies = [record for record in published.decide() if matches(only, record["name"], record["table"])]
    except ValueError as error:
        raise UsageError(str(error)) from None
    reported = runnable if report_folder is not None else {}
    every = {name: judge.checks_of(module, quick=True) for name, module in reported.items()}
    chosen = {name: judge.selected(known, only=only) for name, known in every.items()}
    if not ledger and not certificates and not accuracies and not any(chosen.values()):
        there = f"{total[0]} claims, {len(published.CELLS)} accuracies and {total[1]} certifications"
        if report_folder is not None:
            there += f" and {sum(map(len, every.values()))} checks"
        raise NothingRan(f"none of {there} has {only!r} in its name or source")

    start = time.perf_counter()
    decided = each(ledger, lambda claim: claim.name, lambda claim: _decide(claim, quick))
    if decided:
        terminal.show(terminal.claims_table(decided))
    if accuracies:
        terminal.show(terminal.published_table(accuracies))
    certified = each(
        certificates,
        lambda entry: f"{entry[0]}, {entry[1]} on {source}",
        lambda entry: {"cell": entry[1], **run_check(entry[0], entry[2], runnable[entry[0]])},
    )
    ran = certified or any(chosen.values())
    not_run = {name: reason for name, reason in backends.items() if isinstance(reason, str) and ran}
    if certified:
        terminal.show(
            terminal.accuracy_table(f"Relative errors of the states and of every gradient on {source}", certified)
        )
    if not_run:
        print("\n".join(f"backend {name} not run: {reason}" for name, reason in not_run.items()), end="\n\n")
    conformance: list[Record] = []
    for name, module in reported.items():
        records = run_checks(name, module, chosen[name])
        terminal.show(terminal.levels_table(records, check.LEVELS)._replace(title=f"Quick conformance of {name}"))
        conformance.append({"backend": name, "total": len(every[name]), "checks": records})

    contradictions = [terminal.contradiction(record) for record in decided if not record["as_expected"]]
    contradictions += [terminal.failure(record) for record in certified if terminal.contradicts(record)]
    for paragraph in contradictions:
        print(paragraph, end="\n\n")
    line = f"{title('verify', quick)}: {terminal.verify_line(decided, certified, total, source, not_run)}"
    if accuracies:
        line += f"; accuracies of the paper: {terminal.published_line(accuracies)}"
    states = [terminal.conformance_state(record) for record in conformance]
    for record, state in zip(conformance, states, strict=True):
        line += f"; quick conformance of {record['backend']} {state}, {terminal.conformance_line(record)}"
    if contradictions or "FAILED" in states:
        code = CONTRADICTED
    else:
        code = AS_EXPECTED if decided or accuracies or certified or "ok" in states else NOTHING_RAN
    print(line)
    results = {
        "data": source,
        "claims": decided,
        "accuracies": accuracies,
        "certifications": certified,
        "not_run": not_run,
        "conformance": conformance,
    }
    write_results(json, line, code, start, {"command": "verify", "quick": quick, "only": only, **results})
    if report_folder is not None:
        _write_page(report_folder, line, quick, results)
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
    check_writable(json)
    target = _target(backend, torch=torch, jax=jax, callable=callable_, gated=gated, cmd=cmd, timeout=timeout)
    from antisymrnn_validation.conformance import check, judge

    name, module, source = target
    expected = _expected_failures(expect)
    if junit is not None:
        terminal.check_writable(junit)
    if convention:
        from antisymrnn_validation.conformance.targets.conventions import declared

        try:
            module, name = declared(module, convention), f"{name} --convention {convention}"
            source = f"{declared.__module__}.declared({target.source}, {convention!r})"
        except ValueError as error:
            raise UsageError(f"--{error}") from error
    dtypes = among("--dtype", check.DTYPES, [dtype] if dtype else check.DTYPES)
    every = judge.checks_of(module, quick=quick, dtypes=dtypes, drawn=drawn)
    chosen = judge.selected(every, level=level, only=only)
    if not chosen:
        limited = "" if level is None else f", at levels up to {level}"
        raise NothingRan(f"none of {len(every)} checks has {only!r} in the name of the check or of the case{limited}")
    if unused := [text for text in expected if not any(text in f"{check.name}: {check.case}" for check in chosen)]:
        raise UsageError(f"--expect: no check that runs has {unused[0]!r} in its name")

    start = time.perf_counter()
    run = functools.partial(run_check, name, module=module, expected=expected, source=source)
    records = each(chosen, lambda check: f"{check.name}: {check.case}", run)
    print_failures(records)
    terminal.show(terminal.groups_table(records))
    terminal.show(terminal.levels_table(records, check.LEVELS))
    counts = terminal.status_counts(records)
    ran = counts["passed"] + counts["failed"] + counts["expected failure"]
    line = f"{title(f'conform {name}', quick)}: {terminal.conform_line(records, len(every))}"
    line += terminal.diagnosis_of(records)
    code = CONTRADICTED if counts["failed"] else AS_EXPECTED if ran else NOTHING_RAN
    print(line)
    if junit is not None:
        terminal.write_junit(junit, line, records)
    results = {"backend": name, "level": level, "dtypes": dtypes, "checks": records}
    write_results(json, line, code, start, {"command": "conform", "quick": quick, "only": only, **results})
    return code


@command
def explain(
    check: Annotated[str, typer.Argument(metavar="CHECK", help="The name of a check, as conform prints it.")],
) -> int:
    """Say what a check is about: the promise, the equations, the usual cause of a failure, and the mend.

    It also knows the deviations by name.
    """
    from antisymrnn_validation.conformance import explanations
    from antisymrnn_validation.conformance.mistakes import catalogue

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
    terminal.show(terminal.sections_table(check, {"check": told}))
    return AS_EXPECTED


@command
def info(json: Json = None) -> int:
    """Show versions, devices and backends.

    Versions, machine, BLAS and threads, devices, for each backend ok or the reason it cannot run, and the tables by
    which backends choose their kernels.
    """
    check_writable(json)
    from antisymrnn_validation.output import environment

    found = environment.installed_backends()
    sections = {
        **environment.environment(),
        "devices": environment.devices(),
        "backends": {name: "ok" if isinstance(entry, ModuleType) else entry for name, entry in found.items()},
        "kernels": environment.kernel_tables(),
    }
    terminal.show(terminal.sections_table("This installation", sections))
    if json is not None:
        terminal.write_json(json, {"schema_version": terminal.SCHEMA_VERSION, "command": "info", **sections})
    return AS_EXPECTED


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
        return Target(value, load_backend_named(value), f"antisymrnn_ref.load_backend({value!r})")
    from antisymrnn_validation.conformance.targets import functions

    if option == "--cmd":
        try:
            command = shlex.split(value)
        except ValueError as error:
            raise UsageError(f"--cmd: {error}") from error
        seconds = functions.TIMEOUT if timeout is None else timeout
        program = load_foreign(functions.program_candidate, command, seconds)
        return Target(f"--cmd {value!r}", program, f"{functions.__name__}.program_candidate({command!r}, {seconds!r})")
    if option != "--callable":
        import_package(option.removeprefix("--"), "peers")
    load = {
        "--torch": functions.torch_candidate,
        "--jax": functions.jax_candidate,
        "--callable": functions.callable_candidate,
    }[option]
    source = f"{functions.__name__}.{load.__name__}({value!r}, {gated or None!r})"
    return Target(f"{option} {value}", load_foreign(load, value, gated or None), source)


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


def _real_cases(data: Path | None, quick: bool) -> tuple[list[Any], str]:
    """One case of each cell on real sequences, and what they are."""
    from antisymrnn_validation.experiments import tasks
    from antisymrnn_validation.experiments.data import DataError, load_digits, load_mnist
    from antisymrnn_validation.truth import cases

    try:
        images = load_digits() if data is None else load_mnist(data, "test")
    except DataError as error:
        raise UsageError(str(error)) from error
    B, n = (2 if quick else 4, 16 if quick else 32) if data is None else (1, 32 if quick else 128)
    sequences = tasks.pixel_sequences(images, range(B))  # (T, B, 1)
    found = [tasks.real_case(cell, sequences, images.labels[:B], n=n, seed=0) for cell in cases.CELLS]
    return found, f"{images.name} (T = {len(sequences)}, n = {n}, B = {B})"


def _write_page(folder: Path, line: str, quick: bool, results: Record) -> None:
    """The page of ``--report``."""
    from antisymrnn_validation.output.environment import environment
    from antisymrnn_validation.reports import page

    content = {"summary": {"line": line}, "environment": environment(), **results}
    terminal.write_text(folder / "index.html", page.page(content, _figures(quick)))


def _figures(quick: bool) -> dict[str, Any]:
    """The figures of the page: caption and drawing by name."""
    from antisymrnn_validation.output import drawing
    from antisymrnn_validation.pictures import portraits, spectra

    n, lengths = (16, [12, 25, 50, 100]) if quick else (64, [100, 200, 400, 800])
    spectral = spectra.digit_figures(n, lengths)
    return drawing.draw_all({**portraits.figures(), **spectral})


def _decide(claim: Any, quick: bool) -> Record:
    from antisymrnn_validation.claims import ledger

    record: Record = {key: getattr(claim, key) for key in ("name", "source", "statement", "condition", "expected")}
    start = time.perf_counter()
    try:
        judgement = ledger.judge(claim, quick)
    except Exception as error:  # noqa: BLE001  the next claim is decided all the same; this one contradicts
        record |= {"verdict": terminal.BROKE_OFF, "as_expected": False, "numbers": {}, **broke_off("evidence", error)}
    else:
        record |= {**judgement.outcome._asdict(), "as_expected": judgement.as_expected}
    return record | {"seconds": time.perf_counter() - start}
