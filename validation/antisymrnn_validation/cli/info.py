"""info: versions, devices and backends of this installation."""

from __future__ import annotations

from types import ModuleType

from antisymrnn_validation.cli.command import AS_EXPECTED, Json, check_writable, command
from antisymrnn_validation.output import files, terminal
from antisymrnn_validation.reports import tables


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
