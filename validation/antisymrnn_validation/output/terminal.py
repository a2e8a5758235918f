"""What a terminal or a pipe shows: tables, paragraphs, progress bars, errors in one line."""

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
"""A result as the JSON documents hold it; tables and paragraphs are made of these."""

BROKE_OFF = "broke off"
"""The verdict or status of a check, and the status of a contender, that ended in an exception."""

PIPE_WIDTH = 100
"""Columns of a line where there is no terminal to ask."""


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


def show_lines(table: Table) -> None:
    """Print a table with one line for each row: the last column is cut to the width, no other is cut or broken."""
    head, columns, *rows = plain(table._replace(rows=_cut(table, width()))).split("\n")
    if not sys.stdout.isatty():
        print("\n".join([head, columns, *rows]), end="\n\n")
        return
    rule = "─" * max(map(len, (columns, *rows)))
    styles = ["bold", "bold", "dim", *("red" if alarming else "" for alarming in table.alarming), ""]
    _print_styled([head, columns, rule, *rows, ""], styles)


def show_paragraphs(title: str, paragraphs: Sequence[str], alarming: Sequence[bool]) -> None:
    """Print a title, then paragraphs wrapped to the width, each with a blank line after it."""
    texts = [wrapped(paragraph, width()) for paragraph in paragraphs]
    if not sys.stdout.isatty():
        print("\n\n".join([title, *texts]), end="\n\n")
        return
    lines, styles = [title, ""], ["bold", ""]
    for text, alarms in zip(texts, alarming, strict=True):
        first, *others = text.split("\n")
        lines += [first, *others, ""]
        styles += ["bold red" if alarms else "bold", *["red" if alarms else ""] * len(others), ""]
    _print_styled(lines, styles)


def _print_styled(lines: Sequence[str], styles: Sequence[str]) -> None:
    import rich.console
    import rich.text

    console = rich.console.Console()
    for line, style in zip(lines, styles, strict=True):
        console.print(rich.text.Text(line, style=style), soft_wrap=True)


def width() -> int:
    """Columns of the terminal, or of the environment variable COLUMNS; :data:`PIPE_WIDTH` in a pipe."""
    return shutil.get_terminal_size((PIPE_WIDTH, 24)).columns


def wrapped(text: str, width: int) -> str:
    """A text with each line wrapped to the width at blanks alone, what follows indented like the line itself."""
    lines = []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip())]
        wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
        wrapper.initial_indent = wrapper.subsequent_indent = indent
        lines.append(wrapper.fill(line.strip()))
    return "\n".join(lines)


def _cut(table: Table, width: int) -> list[tuple[str, ...]]:
    """The rows with the last cell cut, so that :func:`plain` stays within the width."""
    *others, _ = zip(table.columns, *table.rows, strict=True)
    room = max(width - sum(max(map(len, column)) + 2 for column in others), 1)
    rows = []
    for *first, last in table.rows:
        text = one_line(last)
        rows.append((*first, text if len(text) <= room else f"{text[: room - 1].rstrip()}…"))
    return rows


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
def progress_of_time(seconds: float) -> Iterator[Callable[[str], None]]:
    """A progress bar on stderr over a time, if that is a terminal; call what it yields with what to say of the work."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    import time

    import rich.console
    import rich.progress as bars

    columns = (bars.BarColumn(bar_width=20), bars.TimeRemainingColumn(), bars.TextColumn("{task.description}"))
    with bars.Progress(*columns, console=rich.console.Console(stderr=True), transient=True) as bar:
        task, begun = bar.add_task("", total=seconds), time.monotonic()
        yield lambda said: bar.update(task, completed=time.monotonic() - begun, description=said)


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
