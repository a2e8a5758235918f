"""Fixtures of the tests of the judge."""

import pytest
from matplotlib.figure import Figure

from antisymrnn_validation import cli
from antisymrnn_validation.output import drawing


@pytest.fixture
def unrendered(monkeypatch):
    """Figures are laid out but not rendered, which takes most of a second and has tests of its own."""

    def render(draw, width, height):
        draw(Figure(figsize=(width, height)))
        return drawing.Drawing(b"png", b"svg")

    monkeypatch.setattr(drawing, "render", render)


@pytest.fixture
def run(capsys):
    """Run the command in this process: exit code, stdout, stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "\x1b" not in out + err
        assert "Traceback" not in out + err
        return caught.value.code, out, err

    return run
