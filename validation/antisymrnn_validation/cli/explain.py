"""explain: what a check promises, what a known mistake looks like in the code, and the names of all of them."""

from __future__ import annotations

import re
import textwrap
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from antisymrnn_validation.cli.command import (
    AS_EXPECTED,
    Json,
    UsageError,
    check_writable,
    command,
    write_results,
)
from antisymrnn_validation.output import names, terminal
from antisymrnn_validation.output.terminal import Record, Table


@command
def explain(
    name: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="A check or a known mistake, as conform prints it. Letters such as γ may be spelled out; upper and "
            "lower case, blanks, hyphens and underscores make no difference.",
        ),
    ] = None,
    json: Json = None,
) -> int:
    """Explain a check or a known mistake; without a name, list all of them.

    Of a check: what it promises, where that is written down, the usual cause of a failure, and the fix. Of a mistake:
    what is wrong, the equations, and the wrong line beside the right one.
    """
    from antisymrnn_validation.conformance.mistakes.catalogue import CATALOGUE
    from antisymrnn_validation.conformance.mistakes.precision import ROUNDINGS
    from antisymrnn_validation.conformance.promises import PROMISES

    check_writable(json)
    asked = " ".join(name or [])
    start = time.perf_counter()
    checks, mistakes = dict(PROMISES), {mistake.name: mistake for mistake in (*CATALOGUE, *ROUNDINGS)}
    if not name:
        records = [_check(promise) for promise in checks.values()], [_mistake(mistake) for mistake in mistakes.values()]
        line = f"explain: {len(checks)} checks, {len(mistakes)} known mistakes"
        _show_all(*records)
        print(line)
    else:
        known = {names.folded(each): each for each in (*checks, *mistakes)}
        if (found := known.get(names.folded(asked), "")) in checks:
            records = [_check(checks[found])], []
            _show_check(*records[0])
        elif found:
            records = [], [_mistake(mistakes[found])]
            _show_mistake(*records[1])
        else:
            hint = names.did_you_mean(asked, known.values(), most=5) or "; `antisymrnn explain` lists them"
            if asked in {claim.name for claim in _claims()}:
                hint = f", which is a claim: `antisymrnn verify --only {asked} -v` shows its evidence"
            raise UsageError(f"NAME: expected a check or a known mistake, got {asked!r}{hint}")
        line = f"explain: {found}"
    content = {"command": "explain", "checks": records[0], "mistakes": records[1]}
    write_results(json, line, AS_EXPECTED, start, content)
    return AS_EXPECTED


def _claims() -> Sequence[Any]:
    from antisymrnn_validation.claims.ledger import CLAIMS

    return CLAIMS


def _check(promise: Any) -> Record:
    from antisymrnn_validation.conformance.check import CASES

    keys = ("name", "level", "statement", "source", "usual_cause", "fix")
    record = {key: getattr(promise, key) for key in keys}
    return record | {"needs": sorted(promise.needs), "on": [where for where in CASES if where in promise.on]}


def _mistake(mistake: Any) -> Record:
    from antisymrnn_validation.conformance.mistakes import source

    lines = [
        {"file": f"{cell}.py", "right": textwrap.dedent(right), "wrong": textwrap.dedent(wrong)}
        for cell, right, wrong in source.side_by_side(source.EDITS.get(mistake.name, ()))
    ]
    keys = ("name", "kind", "cells", "statement", "usual_cause", "fix")
    equations = {tag: source.equation(tag) for tag in mistake.tags}
    return {key: getattr(mistake, key) for key in keys} | {"equations": equations, "lines": lines}


def _show_check(record: Record) -> None:
    from antisymrnn_validation.conformance.check import CASES, LEVELS

    print(f"{record['name']} (check)")
    pairs = [
        ("promise", record["statement"]),
        ("level", f"{record['level']}: {LEVELS[record['level']]}"),
        ("needs", ", ".join(record["needs"]) or "nothing but states"),
        ("cases", "\n".join(CASES[where] for where in record["on"])),
        ("source", record["source"]),
        ("usual cause", record["usual_cause"]),
        ("fix", record["fix"]),
    ]
    print(terminal.labelled(pairs))


def _show_mistake(record: Record) -> None:
    print(f"{record['name']} ({'convention' if record['kind'] == 'convention' else 'known mistake'})")
    pairs = [("what is wrong", record["statement"])]
    if record["equations"]:
        lines = (f"{f'({tag})':5}  {text}" for tag, text in record["equations"].items())
        pairs.append(("equations", "\n".join(lines)))
    file = ""
    for line in record["lines"]:
        if line["file"] != file:
            file = line["file"]
            pairs.append(("in", file))
        wrong = re.sub(r"  # .*", "", line["wrong"])  # the tag belongs to the right line
        pairs += [("  right", line["right"]), ("  wrong", wrong)]
    pairs += [("usual cause", record["usual_cause"]), ("fix", record["fix"])]
    print(terminal.labelled(pairs))


def _show_all(checks: list[Record], mistakes: list[Record]) -> None:
    rows = [(each["name"], str(each["level"]), ", ".join(each["needs"]), each["statement"]) for each in checks]
    terminal.show_lines(Table("Checks", ("name", "level", "needs", "promise"), rows, [False] * len(rows)))
    rows_of_mistakes = [(each["name"], each["statement"]) for each in mistakes]
    columns = ("name", "what is wrong")
    terminal.show_lines(Table("Known mistakes", columns, rows_of_mistakes, [False] * len(rows_of_mistakes)))
