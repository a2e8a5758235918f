"""The CuPy backend under the judge, on the CPU: every check of the contract, with the kernels' own source."""

from __future__ import annotations

import collections

import pytest

from antisymrnn_validation.conformance.plan import iter_checks
from tiers import tiered

CHECKS = tiered(iter_checks("cupy"), lambda check: " generic " in check.case or " promises T=11 " in check.case)
WAYS = ["a block for some samples", "a grid for all samples"]


@pytest.fixture(scope="module", params=tiered(WAYS, lambda way: way == WAYS[0]))
def backend(request, on_cpu):
    driver, backend = on_cpu()
    driver.launches = collections.deque(maxlen=100)  # memory is counted
    backend._host.WINDOW_ROWS = 64  # many windows
    backend._host.SLICE_ROWS = 16  # of many slices
    backend._host.PARTS = 2000  # not all at once
    if request.param == WAYS[1]:
        backend._host.INSTANCES = ()
    yield backend
    names = {launch.name for launch in driver.launches}
    assert any("_any" in name for name in names) == (request.param == WAYS[1])


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.name}-{check.case}".replace(" ", "_"))
def test_every_check_of_the_contract(check, backend):
    result = check.run(backend)
    if check.name == "thread counts":
        assert result.status == "not applicable"  # a GPU has no such number
    else:
        assert result.status == "passed", result.detail
