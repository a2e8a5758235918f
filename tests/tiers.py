"""Which values of a parameter are in the fast tier of the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def tiered(values: Iterable[Any], fast: Callable[[Any], bool]) -> list[Any]:
    """The values, marked ``slow`` but for those that ``fast`` accepts, of which there must be one."""
    found = [value if fast(value) else pytest.param(value, marks=pytest.mark.slow) for value in values]
    assert any(fast(value) for value in values), "no value is in the fast tier"
    return found
