"""What a hint says to install: never this project's name, which no index has."""

import importlib.metadata
import re
import shlex
from pathlib import Path

import pytest

import antisymrnn_ref
from antisymrnn_ref import BackendUnavailable, installation
from antisymrnn_ref.installation import install_command

STATED = [
    "numpy>=2.0",
    "numba>=0.68; extra == 'numba'",
    'pytest>=8 ; extra == "test"',
    "no-such-package[ctk]>=3; (sys_platform == 'linux') and extra == 'test'",
    "no.such_other; extra == 'test'",
]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The package as it lies in a folder without a pyproject.toml, with metadata of its own."""
    monkeypatch.setattr(installation, "__file__", str(tmp_path / "antisymrnn_ref" / "installation.py"))
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: STATED)
    return tmp_path


@pytest.fixture
def checkout(elsewhere):
    (elsewhere / "pyproject.toml").write_text('[project]\nname = "antisymrnn-ref"\n')
    return elsewhere


def test_in_the_checkout(checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    assert install_command("numba") == "pip install -e '.[numba]'"


def test_beside_the_checkout(checkout, monkeypatch):
    monkeypatch.chdir(Path(checkout).parent)
    assert shlex.split(install_command("cuda12")) == ["pip", "install", "-e", f"{checkout}[cuda12]"]


def test_a_checkout_reached_by_a_link_is_the_checkout(checkout, monkeypatch, tmp_path_factory):
    link = tmp_path_factory.mktemp("elsewhere") / "link"
    link.symlink_to(checkout, target_is_directory=True)
    monkeypatch.setattr(installation, "__file__", str(link / "antisymrnn_ref" / "installation.py"))
    monkeypatch.chdir(checkout)
    assert install_command("test") == "pip install -e '.[test]'"


@pytest.mark.parametrize(
    "text",
    [
        b'[project]\nname = "antisymrnn-ref-fork"\n',
        b'[project]\nname = "mine"\nurl = "https://example.org/antisymrnn-ref"\n',
        b"\xff\xfe[project]\n",
    ],
)
def test_the_folder_of_another_project_is_no_checkout(elsewhere, text):
    (elsewhere / "pyproject.toml").write_bytes(text)
    assert install_command("numba").startswith("pip install ")
    assert "-e" not in install_command("numba").split()


@pytest.mark.parametrize("extra", ["tes", "est", "t.st", "numb"])
def test_an_extra_is_one_by_its_whole_name(elsewhere, extra):  # noqa: ARG001
    assert install_command(extra) == f"the packages that pyproject.toml of antisymrnn-ref lists as {extra}"


def test_without_a_checkout_the_packages_that_are_missing_are_named(elsewhere, monkeypatch):
    assert install_command("test") == "pip install 'no-such-package[ctk]>=3' no.such_other"
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: STATED[:3])
    assert install_command("test") == "pip install 'pytest>=8'"  # all are there: one of them is damaged
    (elsewhere / "pyproject.toml").write_text('[project]\nname = "mine"\n')  # a copy in a project of another name
    assert install_command("test") == "pip install 'pytest>=8'"


@pytest.mark.parametrize("stated", [None, STATED[:1]])
def test_without_metadata_no_command_is_guessed(elsewhere, monkeypatch, stated):  # noqa: ARG001
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: stated)
    assert install_command("numba") == "the packages that pyproject.toml of antisymrnn-ref lists as numba"


def test_a_copy_that_is_not_installed_has_no_metadata(elsewhere, monkeypatch):  # noqa: ARG001
    monkeypatch.setattr(installation, "NAME", "no-such-project")
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: importlib.metadata.distribution(name).requires)
    assert install_command("numba") == "the packages that pyproject.toml of no-such-project lists as numba"


def test_the_metadata_of_this_project_state_every_extra(elsewhere, monkeypatch):  # noqa: ARG001
    monkeypatch.undo()
    stated = importlib.metadata.requires("antisymrnn-ref")
    monkeypatch.setattr(installation, "__file__", "/nowhere/antisymrnn_ref/installation.py")
    monkeypatch.setattr(installation, "_is_installed", lambda _: False)
    for extra, package in {"numba": "numba", "cuda12": "cupy-cuda12x", "validation": "typer", "peers": "jax"}.items():
        assert re.search(rf"pip install .*\b{package}\b", install_command(extra)), stated
        assert installation.NAME not in install_command(extra)


def test_a_backend_that_is_unavailable_says_what_to_install(checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    error = BackendUnavailable("it is missing", extras=("cuda12", "cuda13"))
    assert str(error) == "it is missing; install it: pip install -e '.[cuda12]' or pip install -e '.[cuda13]'"
    assert str(BackendUnavailable("it is missing")) == "it is missing"


def test_no_command_names_this_project():
    root = Path(antisymrnn_ref.__file__).parents[1]
    if not (root / "pyproject.toml").exists():
        pytest.skip("the other folders are those of a checkout")
    hint = re.compile(r"pip install [^\n]*antisymrnn[-_]ref|antisymrnn-ref\[")
    assert hint.search("pip install 'antisymrnn-ref[numba]'")
    kinds = {".py", ".md", ".toml", ".html"}
    folders = ("antisymrnn_ref", "backends", "validation", "tests")
    paths = [root / "README.md", root / "CONTRIBUTING.md"]
    paths += [path for folder in folders for path in (root / folder).rglob("*") if path.suffix in kinds]
    assert len(paths) > 100
    found = {str(path) for path in paths if path != Path(__file__) and hint.search(path.read_text(encoding="utf-8"))}
    assert found == set()
