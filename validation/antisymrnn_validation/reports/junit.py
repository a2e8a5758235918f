"""The checks of conform as JUnit XML."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from antisymrnn_validation.output.files import write_text
from antisymrnn_validation.output.terminal import Record
from antisymrnn_validation.reports import tables


def write_junit(path: Path, line: str, records: Sequence[Record]) -> None:
    """Write the checks as JUnit XML, atomically."""
    counts = tables.status_counts(records)
    suite = ElementTree.Element("testsuite", name="antisymrnn conform", tests=str(len(records)))
    suite.set("failures", str(counts["failed"]))
    suite.set("skipped", str(counts["not applicable"] + counts["expected failure"]))
    for record in records:
        name = f"{record['check']}: {record['case']}"
        case = ElementTree.SubElement(suite, "testcase", classname=_printable(record["backend"]), name=_printable(name))
        case.set("time", f"{record['seconds']:.6f}")
        if tables.contradicts(record):
            message = " ".join(record["detail"].split())
            ElementTree.SubElement(case, "failure", message=_printable(message)).text = _printable(
                tables.failure(record)
            )
        elif record["status"] != "passed":
            ElementTree.SubElement(case, "skipped", message=_printable(f"{record['status']}: {record['detail']}"))
    ElementTree.SubElement(suite, "system-out").text = line
    write_text(
        path, '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"
    )


def _printable(text: str) -> str:
    """A text without what XML cannot hold."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "�" for letter in text)
