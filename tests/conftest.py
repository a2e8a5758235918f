"""Hypothesis profiles: no deadline anywhere; the same examples every time in CI."""

import os
from pathlib import Path

from hypothesis import HealthCheck, settings

settings.register_profile("default", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
if not os.access(Path(__file__).parents[1], os.W_OK):  # a checkout that is read-only cannot keep failing examples
    settings.register_profile("default", settings.get_profile("default"), database=None)
settings.load_profile("ci" if os.environ.get("CI") else "default")
