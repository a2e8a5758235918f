"""The net: backends that are wrong for some inputs or calls alone are rejected, honest and unusual ones accepted."""

from __future__ import annotations

import functools
from types import ModuleType

import pytest

import honest_backends
import wrong_backends
from antisymrnn_validation.conformance.check import Check, Result
from antisymrnn_validation.conformance.fuzzing.machine import fuzz
from antisymrnn_validation.conformance.judge import checks_of
from antisymrnn_validation.conformance.plan import iter_checks
from tiers import tiered
from wrong_backends import KINDS, WRONG, likeliest_first

AT_FULL_LENGTH = {
    "sizes: states over 2 MiB",
    "sizes: T over 1024",
}
"""What ``--quick`` is too small for."""


@functools.cache
def checks(quick: bool) -> list[Check]:
    return likeliest_first(iter_checks("numpy", quick=quick))


def first_failure(backend: ModuleType, *, quick: bool) -> Result | None:
    results = (check.run(backend) for check in checks(quick))
    return next((result for result in results if result.status == "failed"), None)


@pytest.mark.parametrize("name", WRONG)
def test_every_wrong_backend_is_rejected(name: str) -> None:
    failure = first_failure(WRONG[name](), quick=name not in AT_FULL_LENGTH)
    assert failure is not None
    # one that only crashes would be no evidence that wrong numbers are seen
    assert not failure.detail.startswith("raised")


def test_without_a_fault_the_same_backend_is_accepted() -> None:
    assert first_failure(wrong_backends.altered(lambda right, *a, **k: right(*a, **k)), quick=True) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", [f"{kind}: {next(iter(backends))}" for kind, backends in KINDS.items()])
def test_the_fuzzer_alone_finds_it(name: str) -> None:
    report = fuzz(WRONG[name](), minutes=5, rounds=25, seed=3)
    assert report.failure is not None


@pytest.mark.parametrize(
    "name", tiered(honest_backends.HONEST, lambda name: name in ("Fortran order inside", "W h − Wᵀ h − γ h"))
)
def test_every_honest_backend_is_accepted(name: str) -> None:
    backend = honest_backends.HONEST[name]()
    results = [check.run(backend) for check in checks_of(backend, quick=True)]
    assert [result for result in results if result.status == "failed"] == []
    assert fuzz(backend, minutes=5, rounds=1).failure is None
