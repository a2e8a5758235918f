"""The command ``antisymrnn``: each file registers the command of its name.

Exit codes: 0 all as expected; 1 something contradicts, or ``compare`` could not time all; 2 usage: a bad option, data,
path or backend; 3 nothing ran; 130 interrupted; 141 the reader of the output went away.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

COMMANDS = (
    "verify",
    "conform",
    "explain",
    "info",
    "compare",
    "portraits",
    "spectra",
    "train",
    "evaluate",
    "curves",
    "sweep",
    "vectors",
)
"""Modules that register their commands, in the order of --help."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # for a terminal without the paper's letters
    try:
        for name in COMMANDS:
            importlib.import_module(f"antisymrnn_validation.cli.{name}")
        from antisymrnn_validation.cli.command import app
    except ModuleNotFoundError as error:
        if (error.name or "antisymrnn").startswith("antisymrnn"):
            raise
        from antisymrnn_ref.installation import install_command

        missing = f"the package {error.name} is missing: {install_command('validation')}"
        print(f"antisymrnn: {missing}", file=sys.stderr)
        sys.exit(2)
    app(arguments, prog_name="antisymrnn")
