"""conform: the checks of the contract on a backend, a function or a program."""

from __future__ import annotations

import contextlib
import functools
import json as json_module
import shlex
import time
from collections.abc import Sequence
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
    check_writable,
    command,
    each,
    import_package,
    load_backend_named,
    load_foreign,
    print_failures,
    run_check,
    title,
    write_results,
)
from antisymrnn_validation.output import files, terminal
from antisymrnn_validation.reports import tables
from antisymrnn_validation.reports.junit import write_junit

LONGEST_FUZZ = 7 * 24 * 60
"""Minutes."""
MAPPED = ("W", "V", "b", "V_z", "b_z", "step_size", "diffusion")
"""What --map maps."""


@command
def conform(
    backend: Annotated[
        str | None, typer.Argument(metavar="BACKEND", help="A name that `antisymrnn info` lists, or a module path.")
    ] = None,
    torch: Annotated[
        str,
        typer.Option(
            metavar="PKG:OBJ",
            help="A function or an nn.Module of PyTorch instead of BACKEND; also FILE.py:OBJ, or PKG:CLASS(n, m).",
        ),
    ] = "",
    batch_first: Annotated[
        bool, typer.Option("--batch-first", help="With --torch: x is (B, T, m), and the states are (B, T+1, n).")
    ] = False,
    without_h0: Annotated[
        bool, typer.Option("--without-h0", help="With --torch: it returns h_1 to h_T, as nn.RNN does.")
    ] = False,
    map_: Annotated[
        str,
        typer.Option(
            "--map",
            metavar="W=NAME,V=NAME,...",
            help="With --torch: what a module calls W, V, b, V_z, b_z, step_size, diffusion; NAME.T is a transpose.",
        ),
    ] = "",
    jax: Annotated[str, typer.Option(metavar="PKG:OBJ", help="A function of JAX instead of BACKEND.")] = "",
    callable_: Annotated[
        str,
        typer.Option(
            "--callable", metavar="PKG:OBJ", help="A function on NumPy arrays instead of BACKEND: its states alone."
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
        str, typer.Option(metavar="DTYPE", help="Only float32, or only float64. Default: both, float64 first.")
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
        typer.Option(
            metavar="FILE", help="JSON that maps a text in 'check: case' to the reason for an expected failure."
        ),
    ] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the checks to FILE as JUnit XML.")] = None,
    drawn: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="In place of the checks, accuracy on N cases drawn at random."),
    ] = None,
    fuzz: Annotated[
        float | None,
        typer.Option(metavar="MINUTES", help="In place of the checks, sequences of calls drawn at random."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Of --fuzz: the same seed draws the same. Default: 0.")
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Compute every certified truth; read and write none on the disk.")
    ] = False,
    initialization: Annotated[
        bool,
        typer.Option(
            "--initialization",
            help="Judge initial weights instead: of a class of modules (--torch), or of a function init(n, m, seed).",
        ),
    ] = False,
    sigma_w: Annotated[
        float | None,
        typer.Option("--sigma-w", min=0, metavar="S", help="σ_w of the initial W. Default: estimated."),
    ] = None,
    maxfail: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Stop after N checks failed. Default: run all.")
    ] = None,
) -> int:
    """Check one backend, function or program against the contract.

    A function is f(parameters, x, h0, step_size, diffusion) and returns every state, (T+1, B, n). A program is called
    with two folders for each pass of each case. Both protocols, and the levels, are described in validation/README.md.
    """
    check_writable(json)
    if sigma_w is not None and not initialization:
        raise UsageError("--sigma-w: expected with --initialization alone")
    if initialization:
        others: dict[str, Any] = {"--level": level, "--dtype": dtype, "--quick": quick, "--only": only}
        others |= {"--convention": convention, "--timeout": timeout, "--fuzz": fuzz}
        others |= {"--expect": expect, "--junit": junit, "--drawn": drawn, "--maxfail": maxfail}
        others |= {"--batch-first": batch_first, "--without-h0": without_h0}
        if given := [option for option, value in others.items() if value not in (None, "", False)]:
            raise UsageError(f"{given[0]}: not with --initialization")
        asked = {"BACKEND": backend, "--torch": torch, "--jax": jax, "--callable": callable_, "--cmd": cmd}
        return _initialization(_one_target(asked), gated, sigma_w, json)
    target = _target(
        backend, torch=torch, jax=jax, callable=callable_, gated=gated, cmd=cmd, timeout=timeout,
        taken=_taken(batch_first=batch_first, without_h0=without_h0, names=map_),
    )  # fmt: skip
    from antisymrnn_validation.conformance import check, judge
    from antisymrnn_validation.conformance.mistakes.diagnosis import Explanations
    from antisymrnn_validation.reports.meaning import meaning
    from antisymrnn_validation.truth import store

    name, module, source = target
    expected = _expected_failures(expect)
    if junit is not None:
        files.check_writable(junit)
    if convention:
        from antisymrnn_validation.conformance.targets.conventions import declared

        try:
            module, name = declared(module, convention), f"{name} --convention {convention}"
            source = f"{declared.__module__}.declared({target.source}, {convention!r})"
        except ValueError as error:
            raise UsageError(f"--{error}") from error
    dtypes = among("--dtype", check.DTYPES, [dtype] if dtype else check.DTYPES)
    if fuzz is not None:
        if level is not None or only or quick or drawn is not None or expect is not None or maxfail is not None:
            raise UsageError("--fuzz: expected without --level, --only, --quick, --drawn, --expect and --maxfail")
        if not 0 < fuzz <= LONGEST_FUZZ:
            raise UsageError(f"--fuzz: expected minutes above 0 and up to {LONGEST_FUZZ}, got {fuzz:g}")
        return _fuzz(name, source, fuzz, seed or 0, dtypes, json=json, junit=junit)
    if seed is not None:
        raise UsageError("--seed: expected with --fuzz alone")
    every = judge.checks_of(module, quick=quick, dtypes=dtypes, drawn=drawn)
    chosen = judge.selected(every, level=level, only=only)
    if not chosen:
        limited = "" if level is None else f", at levels up to {level}"
        raise NothingRan(f"none of {len(every)} checks has {only!r} in the name of the check or of the case{limited}")
    if unused := [text for text in expected if not any(text in f"{check.name}: {check.case}" for check in chosen)]:
        raise UsageError(f"--expect: no check that runs has {unused[0]!r} in its name")

    start = time.perf_counter()
    shared: dict[str, Any] = {"expected": expected, "source": source, "explanations": Explanations()}
    run = functools.partial(run_check, name, module=module, **shared)
    with store.off() if no_cache else contextlib.nullcontext():
        records = each(chosen, lambda check: f"{check.name}: {check.case}", run, most=maxfail)
    print_failures(records)
    terminal.show(tables.groups_table(records))
    terminal.show(tables.levels_table(records, check.LEVELS))
    counts = tables.status_counts(records)
    ran = counts["passed"] + counts["failed"] + counts["expected failure"]
    not_run = len(chosen) - len(records)
    tally = tables.conform_line(records, len(every))
    if not_run:
        tally += f"; {not_run} not run after {counts['failed']} failed (--maxfail)"
    code = CONTRADICTED if counts["failed"] else AS_EXPECTED if ran else NOTHING_RAN
    for remark in getattr(module, "remarks", ()):
        print(remark)
    for known in tables.known_mistakes(records):
        print(f"antisymrnn explain {shlex.quote(known)}: the wrong line beside the right one, and the fix")
    for known in tables.roundings(records):
        print(f"antisymrnn explain {shlex.quote(known)}: its usual cause, and the fix")
    line = f"{title(f'conform {name}', quick)}: {tally}{tables.diagnosis_of(records)}"
    if code == AS_EXPECTED:
        print(tally)
        said = meaning(records, len(every), quick=quick, drawn=drawn is not None)
        line = f"{title(f'conform {name}', quick)}: {said}"
    print(line)
    if junit is not None:
        write_junit(junit, line, records)
    results = {"backend": name, "level": level, "dtypes": dtypes, "counts": counts, "not_run": not_run}
    content = {"command": "conform", "quick": quick, "only": only, **results, "checks": records}
    write_results(json, line, code, start, content)
    return code


def _initialization(target: tuple[str, str], gated: str, sigma_w: float | None, json: Path | None) -> int:
    """Judge the initial weights of a target, and of its gated cell."""
    option, value = target
    if option in ("BACKEND", "--cmd"):
        raise NothingRan(
            f"{value} takes its parameters from the caller: it has no initialization; judge a class of modules with "
            "--torch PKG:CLASS, or a function init(n, m, seed) with --callable PKG:INIT"
        )
    if option != "--callable":
        import_package(option.removeprefix("--"), "peers")
    from antisymrnn_validation.conformance import initialization

    start, records = time.perf_counter(), []
    for path in filter(None, (value, gated)):
        draw = load_foreign(initialization.load_draw, option.removeprefix("--"), path, sigma_w)
        judge = functools.partial(initialization.judge_initialization, sigma_w=sigma_w)
        records += [{"target": path, **row._asdict()} for row in load_foreign(judge, draw)]
    terminal.show(tables.initialization_table(records))
    differs = any(record["verdict"] == "differs" for record in records)
    line = f"conform {option} {value} --initialization: "
    line += tables.initialization_line(records, sigma_w, initialization.FALSE_ALARM)
    print(line)
    code = CONTRADICTED if differs else AS_EXPECTED
    content = {"sigma_w": sigma_w, "false_alarm": initialization.FALSE_ALARM, "sizes": initialization.SIZES}
    results = {"command": "conform", "backend": f"{option} {value}", **content, "initialization": records}
    write_results(json, line, code, start, results)
    return code


def _fuzz(
    name: str, source: str, minutes: float, seed: int, dtypes: Sequence[str], *, json: Path | None, junit: Path | None
) -> int:
    """Fuzz a target for some minutes; the result is one check."""
    from antisymrnn_validation.conformance import check
    from antisymrnn_validation.conformance.fuzzing.apart import fuzz_apart
    from antisymrnn_validation.conformance.fuzzing.session import Tally

    start = time.perf_counter()
    with terminal.progress_of_time(60 * minutes) as begin:

        def progress(tally: Tally, _: Sequence[str]) -> None:
            begin(tally.text())

        try:
            report = fuzz_apart(source, minutes=minutes, seed=seed, dtypes=dtypes, progress=progress)
        except RuntimeError as error:
            raise UsageError(f"--fuzz: {error}") from error
    failure = report.failure
    record = {
        "backend": name,
        "check": "fuzz",
        "case": f"seed {seed}",
        "level": max(check.LEVELS),
        "status": "failed" if failure else "passed",
        "detail": failure.message if failure else "",
        "errors": {},
        "diagnosis": failure.script(source) if failure else "",
        "deviations": [],
        "seconds": time.perf_counter() - start,
    }
    if failure:
        print(f"fuzz: {failure.message}\n\nthe shortest sequence of calls that was found to fail:\n")
        print(failure.script(source), end="\n\n")
    verdict = "failed" if failure else "no failure"
    line = f"conform {name} --fuzz {minutes:g} --seed {seed}: {verdict}, {report.tally.text()}"
    print(line)
    if junit is not None:
        write_junit(junit, line, [record])
    fuzzed = {"minutes": minutes, "seed": seed, "rounds": report.rounds, **report.tally._asdict()}
    results = {"backend": name, "level": None, "dtypes": dtypes, "checks": [record], "fuzz": fuzzed}
    code = CONTRADICTED if failure else AS_EXPECTED if report.tally.calls else NOTHING_RAN
    write_results(json, line, code, start, {"command": "conform", "quick": False, "only": "", **results})
    return code


class Target(NamedTuple):
    """What conform judges, what it is called, and the Python expression that gives it."""

    name: str
    module: ModuleType
    source: str


def _taken(*, batch_first: bool, without_h0: bool, names: str) -> dict[str, Any]:
    """The options of ``torch_candidate`` that are given."""
    by_name: dict[str, str] = {}
    for pair in filter(None, names.split(",")):
        name, _, theirs = (part.strip() for part in pair.partition("="))
        if name not in MAPPED:
            raise UsageError(f"--map: expected NAME=NAME for some of {', '.join(MAPPED)}, got {pair!r}")
        if not theirs or name in by_name:
            raise UsageError(f"--map: expected one name for {name}, got {'another one' if theirs else 'none'}")
        by_name[name] = theirs
    given: dict[str, Any] = {"batch_first": batch_first, "without_h0": without_h0, "names": by_name}
    return {name: value for name, value in given.items() if value}


def _target(
    backend: str | None, *, torch: str, jax: str, callable: str, gated: str, cmd: str, timeout: float | None,
    taken: dict[str, Any],
) -> Target:  # fmt: skip
    """The one target of conform."""
    asked = {"BACKEND": backend, "--torch": torch, "--jax": jax, "--callable": callable, "--cmd": cmd}
    option, value = _one_target(asked)
    if gated and option in ("BACKEND", "--cmd"):
        raise UsageError("--gated: expected with --torch, --jax or --callable alone")
    if timeout is not None and option != "--cmd":
        raise UsageError("--timeout: expected with --cmd alone")
    if taken and option != "--torch":
        spelled = {"batch_first": "--batch-first", "without_h0": "--without-h0", "names": "--map"}
        raise UsageError(f"{spelled[next(iter(taken))]}: expected with --torch alone")
    if option == "BACKEND":
        return Target(value, load_backend_named(value), f"antisymrnn_ref.load_backend({value!r})")
    from antisymrnn_validation.conformance.targets import functions, programs

    if option == "--cmd":
        try:
            command = shlex.split(value)
        except ValueError as error:
            raise UsageError(f"--cmd: {error}") from error
        seconds = programs.TIMEOUT if timeout is None else timeout
        program = load_foreign(programs.program_candidate, command, seconds)
        return Target(f"--cmd {value!r}", program, f"{programs.__name__}.program_candidate({command!r}, {seconds!r})")
    if option != "--callable":
        import_package(option.removeprefix("--"), "peers")
    load = {
        "--torch": functions.torch_candidate,
        "--jax": functions.jax_candidate,
        "--callable": functions.callable_candidate,
    }[option]
    options = "".join(f", {name}={value!r}" for name, value in taken.items())
    source = f"{functions.__name__}.{load.__name__}({value!r}, {gated or None!r}{options})"
    return Target(f"{option} {value}", load_foreign(functools.partial(load, **taken), value, gated or None), source)


def _one_target(asked: dict[str, str | None]) -> tuple[str, str]:
    """The one option that is given, and its value."""
    given = {option: value for option, value in asked.items() if value}
    if not given:
        raise UsageError("Missing argument 'BACKEND', or one of --torch, --jax, --callable and --cmd")
    if len(given) > 1:
        raise UsageError(f"expected one target, got {' and '.join(given)}")
    ((option, value),) = given.items()
    return option, value


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
