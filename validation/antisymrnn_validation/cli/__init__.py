"""The command ``antisymrnn``. Its parts register their commands; ``report`` shows.

Exit codes: 0 all as expected; 1 something contradicts, or ``compare`` could not time all; 2 usage: a bad option, data,
path or backend; 3 nothing ran; 130 interrupted; 141 the reader of the output went away.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

# each registers its commands, in the order of --help
from antisymrnn_validation.cli import verify, conform, explain, info, compare, portraits, spectra, train, sweep, vectors  # noqa: F401  isort: skip
from antisymrnn_validation.cli.command import app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # for a terminal without the paper's letters
    app(arguments, prog_name="antisymrnn")
