"""How results are shown and kept: tables in a terminal, aligned lines in a pipe, strict JSON in a file.

The tables are made of the same records, dictionaries, that the JSON file holds.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

Record = dict[str, Any]


class Table(NamedTuple):
    """Text to show in columns.

    Attributes
    ----------
    title : str
    columns : tuple of str
    rows : sequence of tuples of str
        One text for each column.
    alarming : sequence of bool
        For each row, whether it contradicts.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    alarming: Sequence[bool]


def show(table: Table) -> None:
    """Print a table: drawn in a terminal, one aligned line for each row, however long, anywhere else."""
    if not sys.stdout.isatty():
        print(plain(table), end="\n\n")
        return
    import rich.box
    import rich.console
    import rich.table
    import rich.text

    drawn = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    console = rich.console.Console()
    *others, last = table.columns
    for column in others:
        drawn.add_column(column, overflow="fold", max_width=console.width // 3)
    drawn.add_column(last, overflow="fold")
    for row, alarming in zip(table.rows, table.alarming, strict=True):
        cells = [rich.text.Text(cell) for cell in row]
        for cell in cells:
            if "\n" in cell:  # the first line of a paragraph is its title
                cell.stylize("bold", 0, cell.plain.index("\n"))
        drawn.add_row(*cells, style="red" if alarming else None)
    console.print(rich.text.Text(table.title, style="bold"), drawn)


def plain(table: Table) -> str:
    """The table as text: its title, then aligned columns, the last one as long as it is."""
    lines = [table.columns, *(tuple(" ".join(cell.split()) for cell in row) for row in table.rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(table.columns))]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join([table.title, *(line.rstrip() for line in padded)])


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar on stderr, if that is a terminal; call what it yields with the name of each thing that begins."""
    if not total or not sys.stderr.isatty():
        yield lambda _: None
        return
    import rich.console
    import rich.markup
    import rich.progress as bars
    import rich.table

    rest = rich.table.Column(no_wrap=True, overflow="ellipsis", ratio=1)
    columns = (
        bars.BarColumn(bar_width=20),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TextColumn("{task.description}", table_column=rest),
    )
    with bars.Progress(*columns, console=rich.console.Console(stderr=True), transient=True, expand=True) as bar:
        task, begun = bar.add_task("", total=total), itertools.count()

        def begin(name: str) -> None:
            bar.update(task, completed=next(begun), description=rich.markup.escape(name))

        yield begin


@contextlib.contextmanager
def progress_of_bytes(name: str, done: int, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar of a transfer on stderr, if that is a terminal; call what it yields with each number of bytes."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    import rich.console
    import rich.progress as bars

    columns = (bars.BarColumn(bar_width=20), bars.DownloadColumn(), bars.TransferSpeedColumn(), bars.TextColumn(name))
    with bars.Progress(*columns, console=rich.console.Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total, completed=done)
        yield lambda count: bar.advance(task, count)


def reason(error: BaseException) -> str:
    """An exception in one line; its type too, unless it is one whose message was written for the reader."""
    message = one_line(str(error))
    if isinstance(error, ImportError | ValueError | TypeError) and message:
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def placed(error: BaseException) -> str:
    """An exception in one line, with the file and the line that raised it: for what other people's code raises."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return one_line(f"{type(error).__name__}: {error} ({os.path.basename(frame.filename)}, line {frame.lineno})")


def one_line(text: str) -> str:
    """A text with every run of white space as one blank."""
    return " ".join(text.split())


def width() -> int:
    """Columns of the terminal, or of the environment variable COLUMNS; 100 in a pipe."""
    return shutil.get_terminal_size((100, 24)).columns


def listed(rows: Sequence[tuple[str, ...]]) -> str:
    """One line for each row, in aligned columns; the last column is cut where the terminal ends."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]) - 1)]
    lines = (
        "  ".join([*(cell.ljust(size) for cell, size in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    )
    return "\n".join(line if len(line) <= width() else f"{line[: width() - 1].rstrip()}…" for line in lines)


def labelled(pairs: Iterable[tuple[str, str]]) -> str:
    """A label and its text in two columns; the text wraps where the terminal ends, and its line breaks are kept."""
    pairs = list(pairs)
    indent = max(len(label) for label, _ in pairs) + 2
    lines = []
    for label, text in pairs:
        for begin, line in enumerate(text.splitlines() or [""]):
            first, rest = (label if not begin else "").ljust(indent), " " * (indent + 2)
            lines += textwrap.wrap(
                first + line, max(width(), indent + 30), subsequent_indent=rest, break_long_words=False,
                break_on_hyphens=False, drop_whitespace=True, replace_whitespace=False,
            ) or [first.rstrip()]  # fmt: skip
    return "\n".join(lines)
