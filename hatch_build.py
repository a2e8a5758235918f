"""Refuse an older Python before pip resolves: it may look for minutes for versions of the extras, and not say why."""

import sys

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.specifiers import SpecifierSet


class RequirePython(BuildHookInterface):
    """Compares the Python that builds with ``requires-python``."""

    def dependencies(self):
        """Give none, or end the build with one line: this is the first that pip asks for."""
        core, found = self.metadata.core, "{}.{}.{}".format(*sys.version_info)
        if not SpecifierSet(core.requires_python).contains(found, prereleases=True):
            sys.exit(f"{core.name} needs Python {core.requires_python}, got {found}: make .venv with a newer python3")
        return []
