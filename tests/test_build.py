"""The build: it refuses an older Python at once, and the wheel holds what is needed at run time alone."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

HOOK = Path(__file__).parents[1] / "hatch_build.py"


@pytest.fixture
def dependencies(monkeypatch: pytest.MonkeyPatch):
    """What the hook gives pip under a version of Python; Hatchling itself is not needed."""
    if not HOOK.exists():
        pytest.skip("the build hook is part of a checkout")
    interface = ModuleType("hatchling.builders.hooks.plugin.interface")
    interface.BuildHookInterface = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    spec = importlib.util.spec_from_file_location("hatch_build", HOOK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    hook = module.RequirePython()
    hook.metadata = SimpleNamespace(core=SimpleNamespace(name="antisymrnn-ref", requires_python=">=3.11"))

    def dependencies(*version):
        monkeypatch.setattr(module, "sys", SimpleNamespace(exit=sys.exit, version_info=version))
        return hook.dependencies()

    return dependencies


def test_a_python_that_is_too_old_is_refused_with_the_version_needed(dependencies) -> None:
    with pytest.raises(SystemExit) as refused:
        dependencies(3, 10, 13, "final", 0)
    expected = "antisymrnn-ref needs Python >=3.11, got 3.10.13: make .venv with a newer python3"
    assert refused.value.code == expected


def test_newer_pythons_build(dependencies) -> None:
    assert [dependencies(3, minor, 0, level, 0) for minor in (11, 14) for level in ("final", "candidate")] == [[]] * 4


def test_the_parameters_of_recorded_runs_are_not_in_the_wheel() -> None:
    if not HOOK.exists():
        pytest.skip("what a wheel leaves out is in a checkout")
    wheel = tomllib.loads((HOOK.parent / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    left_out = {path for pattern in wheel["exclude"] for path in HOOK.parent.glob(pattern)}
    packed = {path for package in wheel["packages"] for path in (HOOK.parent / package).rglob("*")} - left_out
    assert len(left_out) == len(list(HOOK.parent.glob("validation/antisymrnn_validation/experiments/recorded/*")))
    assert {path.parent.name for path in packed if path.suffix == ".npz"} == {"v1"}
