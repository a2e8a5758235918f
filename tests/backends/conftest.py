"""The CuPy backend on the CPU: its kernels by g++, everything above the driver as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cuda_on_cpu import driver, emulator


@pytest.fixture(scope="session")
def on_cpu() -> Callable[..., tuple[driver.Driver, Any]]:
    """``on_cpu(card, edit=...)`` gives a driver and the backend on it; libraries are built once and kept."""
    if not emulator.available():
        pytest.skip("the kernels run on the CPU by way of g++, which is not installed")
    folder = emulator.library_folder()

    def load(card: driver.Card = driver.Card(), **options: Any) -> tuple[driver.Driver, Any]:  # noqa: B008
        stand_in = driver.Driver(card, folder, **options)
        return stand_in, driver.load(stand_in)

    return load
