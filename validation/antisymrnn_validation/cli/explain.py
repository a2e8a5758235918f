"""explain."""

from __future__ import annotations

from typing import Annotated

import typer

from antisymrnn_validation.cli.command import AS_EXPECTED, UsageError, command
from antisymrnn_validation.output import terminal
from antisymrnn_validation.reports import tables


@command
def explain(
    check: Annotated[str, typer.Argument(metavar="CHECK", help="The name of a check, as conform prints it.")],
) -> int:
    """Say what a check is about: the promise, the equations, the usual cause of a failure, and the fix.

    It also knows the deviations by name.
    """
    from antisymrnn_validation.conformance.mistakes import catalogue
    from antisymrnn_validation.conformance.plan import promised

    known = {deviation.name: deviation for deviation in catalogue.CATALOGUE}
    try:
        if check in known:
            deviation = known[check]
            told = {
                "what is wrong": deviation.statement,
                "equations": ", ".join(f"({tag})" for tag in deviation.tags),
                "kind": deviation.kind,
                "usual cause": deviation.usual_cause,
                "fix": deviation.fix,
            }
        else:
            promise = promised(check)
            told = {
                "promise": promise.statement,
                "source": promise.source,
                "usual cause": promise.usual_cause,
                "fix": promise.fix,
            }
    except ValueError as error:
        raise UsageError(str(error)) from error
    terminal.show(tables.sections_table(check, {"check": told}))
    return AS_EXPECTED
