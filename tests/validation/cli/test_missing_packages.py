"""Commands where a package is not installed: one line on stderr that says what to install, and exit code 2."""

import os
import subprocess
import sys

import pytest

from antisymrnn_ref.installation import install_command

BLOCKED = """
import runpy, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

missing, sys.argv[:] = set(sys.argv[1].split(",")), sys.argv[2:]
sys.meta_path.insert(0, Blocked())
runpy.run_module("antisymrnn_validation.cli", run_name="__main__", alter_sys=False)
"""
TRAIN = ["train", "digits", "--backend", "numpy", "--iterations", "1", "--units", "2", "--validation", "0.1"]
SPECTRA = ["spectra", "--quick", "--output"]


def without(missing, *arguments, **options):
    """Run a command in a process of its own, without some packages."""
    command = [sys.executable, "-c", BLOCKED, missing, "antisymrnn", *map(str, arguments)]
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}  # what is tested here
    return subprocess.run(command, capture_output=True, text=True, check=False, env=paths, **options)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["verify"], ["info"], ["vectors", "list"]], ids=" ".join)
def test_nothing_but_the_specification_is_installed(arguments):
    extras = "typer,rich,flint,scipy,sklearn,distributed,dask,matplotlib,plotly,pooch,threadpoolctl,filelock,jsonschema"
    done = without(extras, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    expected = f"antisymrnn: the package typer is missing: {install_command('validation')}\n"
    assert done.stderr == expected


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [
        ("flint", ["verify", "--quick"]),
        ("jsonschema", ["vectors", "verify"]),
        *(
            pytest.param(missing, arguments, marks=pytest.mark.slow)
            for missing, arguments in (
                ("flint", ["conform", "numpy", "--level", "0"]),
                ("flint", ["compare", "numpy", "--quick", "--accuracy"]),
                ("scipy", ["verify", "--quick"]),
                ("sklearn", TRAIN),
                ("filelock", TRAIN),
                ("matplotlib", ["curves", "run"]),
                ("matplotlib", ["portraits"]),
                ("distributed", ["sweep", "grid.toml", "--output", "runs"]),
                ("threadpoolctl", TRAIN),
            )
        ),
    ],
)
def test_a_package_that_a_command_needs_is_missing(missing, arguments, tmp_path):
    done = without(missing, *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1
    assert missing in done.stderr
    assert install_command_from(tmp_path, "validation") in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="a terminal is made with os.openpty")
def test_a_terminal_needs_rich_and_a_pipe_does_not():
    assert without("rich", "info").returncode == 0
    ours, theirs = os.openpty()
    try:
        command = [sys.executable, "-c", BLOCKED, "rich", "antisymrnn", "info"]
        done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(theirs)
        os.close(ours)
    assert done.returncode == 2
    assert done.stderr == f"antisymrnn info: the package rich is missing: {install_command('validation')}\n"


def install_command_from(folder, extra):
    """The hint of a process in another folder."""
    code = f"from antisymrnn_ref.installation import install_command; print(install_command({extra!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder)
    return done.stdout.strip()
