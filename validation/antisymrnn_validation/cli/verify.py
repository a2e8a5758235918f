"""verify: the paper's claims, its accuracies, and certified gradients."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from antisymrnn_validation.cli.command import (
    AS_EXPECTED,
    CONTRADICTED,
    NOTHING_RAN,
    Json,
    NothingRan,
    Quick,
    UsageError,
    backends_by_name,
    broke_off,
    check_writable,
    command,
    each,
    matches,
    run_check,
    run_checks,
    title,
    write_results,
)
from antisymrnn_validation.output import files, terminal
from antisymrnn_validation.output.terminal import Record
from antisymrnn_validation.reports import tables


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
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Show the evidence of each claim, our runs, and the error of each array."),
    ] = False,
    json: Json = None,
    only: Annotated[
        str,
        typer.Option(metavar="TEXT", help="Only what has TEXT in its name or source."),
    ] = "",
    backend: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Judge only this backend. May be repeated.")
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
    """Decide the paper's claims and certify gradients.

    Each claim of the paper gets a verdict. Then every state and gradient of the specification, and of each backend that
    can run, is compared with its certified truth on real input. With --report the quick checks of conform follow. The
    paper's test accuracies are shown beside those of recorded runs; they do not change the exit code.
    """
    check_writable(json)
    if report_folder is not None:
        files.check_writable(files.output_folder(report_folder) / "index.html")
    backends = backends_by_name(backend)
    from antisymrnn_validation.claims import ledger
    from antisymrnn_validation.conformance import check, judge, plan
    from antisymrnn_validation.experiments import published

    problems, source = _real_cases(data, quick)
    runnable = {name: module for name, module in backends.items() if isinstance(module, ModuleType)}
    certificates = [(name, case.cell, plan.certify(name, case)) for name in runnable for case in problems]
    total = len(ledger.CLAIMS), len(certificates)
    claims = [claim for claim in ledger.CLAIMS if matches(only, claim.name, claim.source)]
    certificates = [entry for entry in certificates if matches(only, *entry[:2], entry[2].name, entry[2].case, source)]
    try:
        accuracies = [record for record in published.decide() if matches(only, record["name"], record["table"])]
    except ValueError as error:
        raise UsageError(str(error)) from None
    reported = runnable if report_folder is not None else {}
    every = {name: judge.checks_of(module, quick=True) for name, module in reported.items()}
    chosen = {name: judge.selected(known, only=only) for name, known in every.items()}
    parts = {
        "claims": (len(claims), total[0]),
        "accuracies": (len(accuracies), len(published.CELLS)),
        "certifications": (len(certificates), total[1]),
        **{f"checks of {name}": (len(chosen[name]), len(every[name])) for name in reported},
    }
    _require_selected(only, parts, {name for name, _, _ in certificates}.union(filter(chosen.get, chosen)), backend)

    start = time.perf_counter()
    decided = each(claims, lambda claim: claim.name, lambda claim: _decide(claim, quick))
    _show_claims(decided, verbose)
    if accuracies and verbose:
        terminal.show_paragraphs(*tables.published_paragraphs(accuracies))
    elif accuracies:
        terminal.show_lines(tables.published_table(accuracies))
    certified = each(
        certificates,
        lambda entry: f"{entry[0]}, {entry[1]} on {source}",
        lambda entry: {"cell": entry[1], **run_check(entry[0], entry[2], runnable[entry[0]])},
    )
    judged = certified or any(chosen.values())
    not_run = {name: reason for name, reason in backends.items() if isinstance(reason, str) and judged}
    if certified:
        table = tables.accuracy_table if verbose else tables.certified_table
        terminal.show(table(f"Relative errors of the states and of every gradient on {source}", certified))
    conformance: list[Record] = []
    for name, module in reported.items():
        records = run_checks(name, module, chosen[name])
        if records:
            terminal.show(tables.levels_table(records, check.LEVELS)._replace(title=f"Quick conformance of {name}"))
        conformance.append({"backend": name, "total": len(every[name]), "checks": records})

    contradictions = [tables.contradiction(record) for record in decided if not record["as_expected"]]
    contradictions = [terminal.wrapped(paragraph, terminal.width()) for paragraph in contradictions]
    contradictions += [tables.failure(record) for record in certified if tables.contradicts(record)]
    for paragraph in contradictions:
        print(paragraph, end="\n\n")
    line = f"{title('verify', quick)}: {tables.verify_line(decided, certified, total, source, not_run)}"
    if accuracies:
        line += f"; accuracies of the paper: {tables.published_line(accuracies)}"
    states = [tables.conformance_state(record) for record in conformance]
    for record, state in zip(conformance, states, strict=True):
        line += f"; quick conformance of {record['backend']}: {state}"
        line += f", {tables.conformance_line(record)}" if record["checks"] else ""
    ran = bool(decided or accuracies or certified or {"ok", "selection ok"}.intersection(states))
    code = CONTRADICTED if contradictions or "FAILED" in states else AS_EXPECTED if ran else NOTHING_RAN
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
    left_out = tables.left_out_line(only, parts)
    again = _command(quick, data)
    closing = [left_out, *(f"Backend {name} did not run: {reason}." for name, reason in not_run.items())]
    closing.append(f"Next: {_next(results, only, verbose, again)}")
    if report_folder is not None:
        _write_page(report_folder, line, quick, {**results, "left_out": left_out})
        closing.append(f"Page: {(report_folder / 'index.html').resolve()}")
    print("\n" + "\n".join(filter(None, closing)))
    return code


def _require_selected(
    only: str, parts: Mapping[str, tuple[int, int]], judged: Set[str], named: Sequence[str] | None
) -> None:
    """Refuse a text that selects nothing, or nothing that judges a backend that was asked for by name."""
    if not any(selected for selected, _ in parts.values()):
        *some, last = (f"{total} {part}" for part, (_, total) in parts.items())
        raise NothingRan(f"none of {', '.join(some)} and {last} has {only!r} in its name or source")
    for name in named or ():
        if name not in judged:
            raise NothingRan(
                f"--only {only!r} selects nothing that judges backend {name}: choose another text or drop --backend"
            )


def _show_claims(decided: Sequence[Record], verbose: bool) -> None:
    """The claims, one line or one paragraph each, and what the known refutations among them mean."""
    if decided and verbose:
        terminal.show_paragraphs(*tables.claim_paragraphs(decided))
    elif decided:
        terminal.show_lines(tables.claims_table(decided))
    if tables.known_refutations(decided):
        print("Known refutations do not fail the run: the ledger expects them, and says why.", end="\n\n")


def _command(quick: bool, data: Path | None) -> list[str]:
    """The words of this command, without a selection."""
    words = ["antisymrnn", "verify"]
    return words + ["--quick"] * quick + (["--data", str(data)] if data is not None else [])


def _next(results: Record, only: str, verbose: bool, again: Sequence[str]) -> str:
    """What to do after this outcome."""
    for record in results["claims"]:
        if not record["as_expected"]:
            rerun = [*again, "--only", record["name"], "-v"]
            return f"see CONTRADICTION {record['name']} above. To run it again: {shlex.join(rerun)}"
    checks = [entry for record in results["conformance"] for entry in record["checks"]]
    for record in filter(tables.contradicts, results["certifications"] + checks):
        backend, what = record["backend"], f"{record['check']}: {record['case']}"
        if "cell" in record:
            rerun = [*again, "--backend", backend, "--only", record["case"]]
        else:
            rerun = ["antisymrnn", "conform", backend, "--quick", "--only", what]
        heading, _, _ = tables.failure(record).partition("\n")
        return f"see {heading} above. To run it again: {shlex.join(rerun)}"
    if not (results["claims"] or results["accuracies"] or results["certifications"]) and all(
        record["status"] == "not applicable" for record in checks
    ):
        return f"no selected check applies. To run everything: {shlex.join([*again, '--report', 'DIR'])}"
    more = f"{shlex.join([*again, *(['--only', only] if only else []), '-v'])} shows the evidence; "
    return ("" if verbose else more) + "antisymrnn conform --callable MODULE:FUNCTION judges your own port"


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
    files.write_text(folder / "index.html", page.page(content, _figures(quick)))


def _figures(quick: bool) -> dict[str, Any]:
    """The figures of the page: caption and drawing by name."""
    from antisymrnn_validation.output import drawing
    from antisymrnn_validation.pictures import portraits, spectra

    n, lengths = (16, [12, 25, 50, 100]) if quick else (64, [100, 200, 400, 800])
    spectral = spectra.digit_figures(n, lengths)
    return drawing.draw_all({**portraits.figures(), **spectral})


def _decide(claim: Any, quick: bool) -> Record:
    from antisymrnn_validation.claims import ledger

    keys = ("name", "source", "statement", "condition", "expected", "proof")
    record: Record = {key: getattr(claim, key) for key in keys}
    start = time.perf_counter()
    try:
        judgement = ledger.judge(claim, quick)
    except Exception as error:  # noqa: BLE001  the next claim is decided all the same; this one contradicts
        record |= {"verdict": terminal.BROKE_OFF, "as_expected": False, "numbers": {}, **broke_off("evidence", error)}
    else:
        record |= {**judgement.outcome._asdict(), "as_expected": judgement.as_expected}
    return record | {"seconds": time.perf_counter() - start}
