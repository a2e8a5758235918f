"""How figures are drawn: one style, PNG and SVG, the same bytes every time, without a display.

Colours are Okabe and Ito's, apart to the colour-blind; a series also has its own dashes and marker, so that nothing is
shown by colour alone. Text in an SVG is made of paths: it looks the same wherever it is shown.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

from antisymrnn_validation.output import files, terminal

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

STYLE: Any = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.dpi": 100,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "mathtext.fontset": "dejavusans",
    "savefig.dpi": 150,
    "svg.fonttype": "path",
    "svg.hashsalt": "antisymrnn",
}


_style = threading.Lock()  # the style is set for the whole process


class Drawing(NamedTuple):
    """A figure in both formats."""

    png: bytes
    svg: bytes


def series(k: int) -> dict[str, Any]:
    """Keywords of ``plot`` for the k-th series: colour, dashes and marker, no two of which recur among 49 series."""
    turn = k // len(COLOURS)
    return {
        "color": COLOURS[k % len(COLOURS)],
        "linestyle": DASHES[(k + turn) % len(DASHES)],
        "marker": MARKERS[(k + 2 * turn) % len(MARKERS)],
    }


def plain(text: str) -> str:
    """A text from outside as matplotlib sets it: a ``$`` begins no formula, and what is not Unicode is escaped."""
    return text.encode("utf-8", "surrogateescape").decode(errors="backslashreplace").replace("$", r"\$")


def render(draw: Callable[[Figure], None], width: float, height: float) -> Drawing:
    """Draw a figure in the style above.

    Parameters
    ----------
    draw : callable
        Draws on the empty figure it is given.
    width, height : float
        Inches.

    Returns
    -------
    Drawing
        PNG and SVG, without a date or a version of a library: the same bytes for the same drawing.
    """
    with _style, matplotlib.rc_context():
        matplotlib.rcdefaults()  # not what a matplotlibrc of the user says
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        png, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png", metadata={"Software": None})
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        return Drawing(png.getvalue(), svg.getvalue())


Pictures = dict[str, tuple[str, Callable[[], Drawing]]]
"""By name a caption and what draws."""


def draw_all(pictures: Pictures) -> dict[str, tuple[str, Drawing]]:
    """Caption and drawing by name, of captions and functions that draw; under a progress bar."""
    drawn = {}
    with terminal.progress(len(pictures)) as begin:
        for name, (caption, draw) in pictures.items():
            begin(name)
            drawn[name] = caption, draw()
    return drawn


def write_all(folder: Path, pictures: Pictures) -> tuple[list[Path], list[terminal.Record]]:
    """Draw and :func:`write` pictures under their names; the files, and ``name`` and ``caption`` of each."""
    drawn = draw_all(pictures)
    paths = [path for name, (_, drawing) in drawn.items() for path in write(folder, name, drawing)]
    return paths, [{"name": name, "caption": caption} for name, (caption, _) in drawn.items()]


def write(folder: Path, name: str, drawing: Drawing) -> list[Path]:
    """Write ``name.png`` and ``name.svg`` into a folder that exists, each whole or not at all.

    Raises
    ------
    ReportError
        If one cannot be written.
    """
    paths = [folder / f"{name}.{ending}" for ending in drawing._fields]
    for path, content in zip(paths, drawing, strict=True):
        files.write_bytes(path, content)
    return paths
