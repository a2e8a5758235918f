"""explain and info."""

from __future__ import annotations

from types import ModuleType
from typing import Annotated

import typer

from antisymrnn_validation.cli.command import (
    AS_EXPECTED,
    Json,
    UsageError,
    check_writable,
    command,
)
from antisymrnn_validation.output import files, terminal
from antisymrnn_validation.reports import tables


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
    terminal.show(tables.sections_table(check, {"check": told}))
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
    terminal.show(tables.sections_table("This installation", sections))
    if json is not None:
        files.write_json(json, {"schema_version": files.SCHEMA_VERSION, "command": "info", **sections})
    return AS_EXPECTED
