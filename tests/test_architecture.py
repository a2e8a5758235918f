"""The rules of the house that import-linter cannot say."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, requires
from pathlib import Path

import antisymrnn_ref
import antisymrnn_validation
from antisymrnn_validation.conformance.plan import certify
from antisymrnn_validation.conformance.targets.functions import callable_candidate
from antisymrnn_validation.truth.cases import random_case

PACKAGES = [Path(package.__file__).parent for package in (antisymrnn_ref, antisymrnn_validation)]
README = Path(__file__).parents[1] / "README.md"


def imported(source: str) -> set[str]:
    """Top-level names of every import, wherever it stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


def foreign(source: str) -> set[str]:
    return imported(source) - set(sys.stdlib_module_names) - {"numpy", "antisymrnn_ref"}


def test_the_specification_needs_numpy_alone() -> None:
    sources = sorted(PACKAGES[0].rglob("*.py"))
    assert len(sources) >= 9
    assert {path.name: foreign(path.read_text(encoding="utf-8")) for path in sources} == {
        p.name: set() for p in sources
    }
    assert foreign("import os, numpy.linalg\ndef f():\n    from scipy.linalg import expm\n") == {"scipy"}


def test_numpy_is_the_only_hard_dependency() -> None:
    hard = [text for text in requires("antisymrnn-ref") or [] if "extra ==" not in text]
    assert [re.split(r"[^\w-]", text)[0] for text in hard] == ["numpy"]


def test_the_doors_are_where_the_plan_has_them() -> None:
    metadata = distribution("antisymrnn-ref").metadata
    assert set(metadata.get_all("Provides-Extra") or []) >= {"numba", "cuda12", "cuda13", "validation", "peers", "test"}
    assert (PACKAGES[0] / "py.typed").is_file()
    assert (PACKAGES[0] / "DERIVATION.md").is_file()
    assert (PACKAGES[1] / "py.typed").is_file()


def test_no_test_needs_the_cache_of_pytest() -> None:
    uses = re.compile(r"\bconfig\.cache\b|def \w+\([^)]*\b(cache|pytestconfig)\b")
    for example in ("def on_cpu(pytestconfig: pytest.Config):", "request.config.cache.mkdir"):
        assert uses.search(example)
    tests = Path(__file__).parent
    sources = {path: path.read_text(encoding="utf-8") for path in tests.rglob("*.py") if path != Path(__file__)}
    assert len(sources) > 20
    assert [str(path.relative_to(tests)) for path, source in sources.items() if uses.search(source)] == []


def test_importing_the_specification_imports_no_judge_and_no_backend() -> None:
    code = "import sys, antisymrnn_ref; print(*(m for m in sys.modules if m.split('.')[0] not in {own}))"
    code = code.format(own="{'numpy', 'antisymrnn_ref'} | set(sys.stdlib_module_names)")
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"numba", "cupy", "flint", "scipy", "sklearn", "typer", "rich", "antisymrnn_validation"}
    assert not heavy & {name.split(".")[0] for name in loaded}


def test_the_example_of_the_readme_runs() -> None:
    examples = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert examples
    names: dict[str, object] = {}
    for example in examples:
        if 'load_backend("numba")' in example and importlib.util.find_spec("antisymrnn_numba") is None:
            continue  # a backend's folder can be deleted
        exec(compile(example, "README.md", "exec"), names)
    case = random_case("antisymmetric", 11, 4, 7, 3, step_size=0.3, diffusion=0.2, seed=0, dtype="float32")
    result = certify("the port", case, what="every state").run(callable_candidate(names["cell"]))
    assert result.status == "passed", result.detail


def test_the_fences_stand() -> None:
    """The floors of the judge, and what keeps the fast tier of the tests fast."""
    tool = tomllib.loads((README.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    kinds = [contract["type"] for contract in tool["importlinter"]["contracts"]]
    assert kinds == ["forbidden"] * 5 + ["layers", "acyclic_siblings"]
    floors = [floor.split(" | ") for floor in tool["importlinter"]["contracts"][5]["layers"]]
    siblings = [["vectors", "comparison", "pictures"], ["claims", "conformance", "experiments"]]
    assert floors == [["cli"], ["reports"], *siblings, ["truth"], ["output"]]
    assert {room for floor in floors for room in floor} == {
        path.parent.name for path in PACKAGES[1].glob("*/__init__.py")
    }
    assert {"not slow", "--fail-slow=120"} <= set(tool["pytest"]["ini_options"]["addopts"])
