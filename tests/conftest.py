"""Two tiers, and hypothesis profiles: no deadline anywhere; the same examples every time in CI.

Plain ``pytest`` runs the fast tier, in which no test may take long (``--fail-slow`` in pyproject.toml).
``pytest -m ""`` runs the tests that are marked ``slow`` too.
"""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.pop("COLUMNS", None)  # pytest-xdist gives its workers one

settings.register_profile("default", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
if not os.access(Path(__file__).parents[1], os.W_OK):  # a checkout that is read-only cannot keep failing examples
    settings.register_profile("default", settings.get_profile("default"), database=None)
settings.load_profile("ci" if os.environ.get("CI") else "default")


CACHE = "ANTISYMRNN_CACHE"


def pytest_configure(config: pytest.Config) -> None:
    """Give the session truths of its own on the disk; the workers of pytest-xdist inherit the folder and share it."""
    if not hasattr(config, "workerinput"):
        os.environ[CACHE] = tempfile.mkdtemp(prefix="antisymrnn-cache-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Take them away again."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ[CACHE])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let a slow test take its time."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.fail_slow("20 min"))
