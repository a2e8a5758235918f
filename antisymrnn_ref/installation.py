"""How to install what an extra brings: no package index has this project, so its name stands in no command."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
from pathlib import Path

NAME = "antisymrnn-ref"


def install_command(extra: str) -> str:
    """The command that installs the packages of an extra of this project, as it is installed here.

    Parameters
    ----------
    extra : str
        As in ``pyproject.toml``: ``numba``, ``cuda12``, ``cuda13``, ``validation``, ``peers``, ``test``.

    Returns
    -------
    str
        In a checkout, an editable install of it with the extra; otherwise the extra's packages by their own names, as
        the metadata of the installed project state them, without those that are there.
    """
    checkout = Path(__file__).resolve().parents[1]
    if _is_checkout(checkout):
        place = "." if checkout == Path.cwd() else checkout
        return f"pip install -e {shlex.quote(f'{place}[{extra}]')}"
    try:
        stated = importlib.metadata.requires(NAME) or []
    except importlib.metadata.PackageNotFoundError:
        stated = []
    of_extra = re.compile(rf"""\bextra == ['"]{re.escape(extra)}['"]""")
    packages = [text.partition(";")[0].strip() for text in stated if of_extra.search(text.partition(";")[2])]
    if not packages:
        return f"the packages that pyproject.toml of {NAME} lists as {extra}"
    wanted = [package for package in packages if not _is_installed(package)] or packages
    return f"pip install {' '.join(shlex.quote(package) for package in wanted)}"


def _is_checkout(folder: Path) -> bool:
    try:
        return f'name = "{NAME}"'.encode() in (folder / "pyproject.toml").read_bytes()
    except OSError:  # there is none
        return False


def _is_installed(requirement: str) -> bool:
    name = re.split(r"[^\w.-]", requirement)[0]
    return any(True for _ in importlib.metadata.distributions(name=name))
