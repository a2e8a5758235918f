"""How results are shown and kept: tables in a terminal, aligned lines in a pipe, strict JSON in a file.

The tables are made of the same records, dictionaries, that the JSON file holds.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import numbers
import os
import secrets
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SCHEMA_VERSION = 1
"""Raised when an entry of the JSON documents changes its meaning or goes away."""

Record = dict[str, Any]


BROKE_OFF = "broke off"
"""The verdict or status of a check that ended in an exception."""


class ReportError(OSError):
    """A report that cannot be written; the message names the path and why."""


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


def claims_table(records: Sequence[Record]) -> Table:
    """One row for each claim: in a terminal a paragraph of what else is known beside the verdict, else columns."""
    alarming = [not record["as_expected"] for record in records]
    if sys.stdout.isatty():
        paragraphs = [
            "\n".join([f"{r['name']}: {r['source']}", r["statement"], f"Evidence: {r['evidence']}", *_condition(r), ""])
            for r in records
        ]
        rows = list(zip(map(verdict, records), paragraphs, strict=True))
        return Table("The paper's claims", ("verdict", "claim, evidence"), rows, alarming)
    columns = ("claim", "source", "verdict", "statement", "evidence")
    lines = [
        (r["name"], r["source"], verdict(r), r["statement"], " ".join([r["evidence"], *_condition(r)])) for r in records
    ]
    return Table("The paper's claims", columns, lines, alarming)


def verdict(record: Record) -> str:
    """The verdict of a claim, and the expected one where it differs."""
    if record["as_expected"]:
        return str(record["verdict"])
    return f"{record['verdict']}, expected: {record['expected']}"


def accuracy_table(title: str, records: Sequence[Record]) -> Table:
    """One row for each array of each certification; one for a certification that came to no array."""
    columns = ("backend", "cell", "array", "error", "tolerance", "reference", "verdict")
    rows, alarming = [], []
    for record in records:
        for array, entry in record["errors"].items():
            inside = entry["error"] <= entry["tolerance"]
            numbers_ = tuple(f"{entry[key]:.2e}" for key in ("error", "tolerance", "reference"))
            rows.append((record["backend"], record["cell"], array, *numbers_, "passed" if inside else "failed"))
            alarming.append(not inside)
        if not record["errors"]:
            rows.append((record["backend"], record["cell"], "none", "", "", "", record["status"]))
            alarming.append(contradicts(record))
    return Table(title, columns, rows, alarming)


def groups_table(records: Sequence[Record]) -> Table:
    """One row for each check: how many cases passed, failed, did not apply, and why not."""
    columns = ("check", "passed", "failed", "not applicable", "why not applicable")
    rows, alarming = [], []
    for check in dict.fromkeys(record["check"] for record in records):
        group = [record for record in records if record["check"] == check]
        counts = status_counts(group)
        why = "; ".join(dict.fromkeys(record["detail"] for record in group if record["status"] == "not applicable"))
        rows.append((check, *(str(counts[status]) for status in ("passed", "failed", "not applicable")), why))
        alarming.append(counts["failed"] > 0)
    return Table("Checks of the contract", columns, rows, alarming)


def sections_table(title: str, sections: Mapping[str, Any]) -> Table:
    """One row for each entry of nested mappings and lists."""

    def flat(content: Any) -> Iterator[tuple[str, str]]:
        if isinstance(content, Mapping):
            for key, entry in content.items():
                for rest, value in flat(entry):
                    yield f"{key} {rest}".strip(), value
        elif isinstance(content, list):
            for entry in content:
                joined = ", ".join(f"{key} {value}" for key, value in flat(entry)) if isinstance(entry, dict) else entry
                yield "", str(joined)
        else:
            yield "", str(content)

    rows = [(section, *row) for section, content in sections.items() for row in flat(content)]
    return Table(title, ("part", "entry", "value"), rows, [False] * len(rows))


def verify_line(
    claims: Sequence[Record],
    certifications: Sequence[Record],
    total: tuple[int, int],
    source: str,
    not_run: Mapping[str, str],
) -> str:
    """What ran of how much, and the verdicts."""
    words = {
        "holds": "hold",
        "holds under a stated condition": "under a condition",
        "refuted": "refuted",
        "undecided": "undecided",
        BROKE_OFF: BROKE_OFF,
    }
    verdicts = Counter(str(record["verdict"]) for record in claims)
    tally = ", ".join(f"{verdicts[verdict]} {word}" for verdict, word in words.items() if verdicts[verdict])
    unexpected = [record["name"] for record in claims if not record["as_expected"]]
    agreement = f"NOT as the ledger expects: {', '.join(unexpected)}" if unexpected else "all as the ledger expects"
    line = f"{_of(len(claims), total[0])} claims" + (f" ({tally}; {agreement})" if claims else "")
    line += f", {_of(len(certifications), total[1])} certifications"
    if not certifications:
        return line
    counts = status_counts(certifications)
    if counts["passed"] == total[1]:
        line += f" passed on {source}"
    else:
        line += f" on {source}: " + ", ".join(f"{count} {status}" for status, count in counts.items())
    failed = {record["backend"] for record in certifications if contradicts(record)}
    states = {record["backend"]: "FAILED" if record["backend"] in failed else "ok" for record in certifications}
    states |= dict.fromkeys(not_run, "not run")
    return f"{line}; backends: " + ", ".join(f"{name} {state}" for name, state in states.items())


def conform_line(records: Sequence[Record], total: int) -> str:
    """How many checks ran of how many, and what became of them."""
    counts = status_counts(records)
    tally = ", ".join(f"{counts[status]} {status}" for status in ("passed", "failed", "not applicable"))
    return f"{_of(len(records), total)} checks: {tally}"


def _of(number: int, total: int) -> str:
    return str(number) if number == total else f"{number} of {total}"


def status_counts(records: Sequence[Record]) -> Counter[str]:
    """How many records passed, failed (an exception is a failure) and did not apply."""
    return Counter("failed" if contradicts(record) else record["status"] for record in records)


def contradicts(record: Record) -> bool:
    """Whether a check or a certification failed or broke off."""
    return record["status"] not in ("passed", "not applicable")


def contradiction(record: Record) -> str:
    """A claim that is not as expected, in full."""
    title = f"CONTRADICTION {record['name']}, {record['source']}: {verdict(record)}"
    return "\n  ".join([title, record["statement"], record["evidence"], *_condition(record)])


def failure(record: Record) -> str:
    """A failed check or certification in full: what ran, and every array outside its tolerance or else what came."""
    outside = [
        f"{array}: relative error {entry['error']:.3e}, tolerance {entry['tolerance']:.3e}"
        for array, entry in record["errors"].items()
        if not entry["error"] <= entry["tolerance"]
    ]
    title = f"{record['status'].upper()} {record['backend']}: {record['check']} on {record['case']}"
    return "\n  ".join([title, *(outside or [record["detail"]])])


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


def check_writable(path: Path) -> None:
    """Raise ReportError if :func:`write_json` could not write to this path; leaves nothing behind."""
    with _temporary(path):
        pass


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document as strict JSON, whole or not at all: a temporary file beside the target takes its place."""
    text = json.dumps(strict(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with _temporary(path) as (temporary, target):
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
        os.replace(temporary, target)


def strict(value: Any) -> Any:
    """What JSON has a notation for: NaN and infinity become the strings ``nan``, ``inf``, ``-inf``."""
    if isinstance(value, Mapping):
        return {str(key): strict(entry) for key, entry in value.items()}
    if hasattr(value, "tolist"):  # an array or a scalar of NumPy
        return strict(value.tolist())
    if isinstance(value, list | tuple):
        return [strict(entry) for entry in value]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else str(float(value))
    return str(value)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, Path]]:
    """An empty file beside the file that the path means, and that file; the former is gone at the end in any case."""
    target = Path(os.path.realpath(path))  # a link keeps pointing at the report
    if not target.name:
        raise ReportError(f"{path}: cannot be written: it is a directory")
    temporary = target.with_name(f".antisymrnn-{secrets.token_hex(8)}.tmp")
    try:
        if not target.parent.is_dir():
            raise OSError(f"{target.parent} is not an existing directory")
        if target.exists() and not target.is_file():
            raise OSError("it is not a regular file")
        if target.exists() and not os.access(target, os.W_OK):
            raise OSError("it is write-protected")
        temporary.touch(exist_ok=False)
        yield temporary, target
    except OSError as error:
        raise ReportError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _condition(record: Record) -> list[str]:
    """The condition of a claim, or what is true instead of it, if it has one."""
    name = "Instead" if record["expected"] == "refuted" else "Condition"
    return [f"{name}: {record['condition']}"] if record["condition"] else []
