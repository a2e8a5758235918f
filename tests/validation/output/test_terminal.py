"""Tables and paragraphs keep their words, stay within the width, and carry no control codes in a pipe."""

import re

import pytest

from antisymrnn_validation.output import terminal


def test_plain_table_is_aligned_and_keeps_long_lines(capsys):
    long = "an evidence sentence " * 20
    table = terminal.Table(
        "Title", ("a", "second", "evidence"), [("ε", "xxxxxxxxxx", long), ("bb", "", "[y]\nz")], [False, True]
    )
    terminal.show(table)
    assert capsys.readouterr().out.splitlines() == [
        "Title",
        "a   second      evidence",
        f"ε   xxxxxxxxxx  {long.strip()}",
        "bb              [y] z",
        "",
    ]


def test_a_table_without_rows_has_its_header(capsys):
    terminal.show(terminal.Table("Title", ("a", "b"), [], []))
    assert capsys.readouterr().out == "Title\na  b\n\n"


@pytest.fixture
def screen(monkeypatch):
    """Let stdout be a terminal of some width."""

    def screen(width):
        monkeypatch.setattr(terminal.sys.stdout, "isatty", lambda: True, raising=False)
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("NO_COLOR", raising=False)

    return screen


LINES = terminal.Table(
    "Title",
    ("verdict", "name", "statement"),
    [("holds", "a-long-name-in-one-piece", "of many words " * 20), ("refuted", "b", "of\ntwo lines")],
    [False, True],
)


def plain_lines(out):
    return [re.sub(r"\x1b\[[\d;]*m", "", line) for line in out.splitlines()]


def test_one_line_for_each_row_cut_to_a_page_in_a_pipe(capsys):
    terminal.show_lines(LINES)
    title, header, first, second, blank = capsys.readouterr().out.splitlines()
    assert (title, blank) == ("Title", "")
    assert header == "verdict  name                      statement"
    assert first.startswith("holds    a-long-name-in-one-piece  of many words of many")
    assert first.endswith("…")
    assert 100 - len("words ") < len(first) <= 100
    assert second == "refuted  b                         of two lines"


@pytest.mark.parametrize("width", [20, 36, 50, 80, 200])
def test_one_line_for_each_row_with_whole_names_whatever_the_terminal(screen, capsys, width):
    screen(width)
    terminal.show_lines(LINES)
    out = capsys.readouterr().out
    title, _, rule, first, second, _ = plain_lines(out)
    assert (title, set(rule)) == ("Title", {"─"})
    assert first.startswith("holds    a-long-name-in-one-piece  ")
    assert first.endswith("…")
    assert len(first) <= max(width, len("holds    a-long-name-in-one-piece  …"))
    assert second.startswith("refuted  b ")
    assert f"\x1b[31m{second}\x1b[0m" in out.splitlines()


def test_a_text_that_fits_exactly_is_not_cut():
    table = LINES._replace(rows=[("holds", "name", "x" * 85), ("holds", "name", "x" * 86)], alarming=[False, False])
    cells = [row[-1] for row in terminal._cut(table, 100)]
    assert cells == ["x" * 85, "x" * 84 + "…"]


PARAGRAPH = "a title\n  " + "many words and a-name-with-hyphens " * 9 + "\n  end"


def test_paragraphs_are_wrapped_at_blanks_and_keep_their_indentation(capsys):
    terminal.show_paragraphs("Title", [PARAGRAPH, "second"], [False, True])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    title, first, second = out.rstrip("\n").split("\n\n")
    heading, *lines, end = first.splitlines()
    assert (title, heading, end, second) == ("Title", "a title", "  end", "second")
    assert len(lines) > 2
    assert all(line.startswith("  ") and line[2] != " " and len(line) <= 100 for line in lines)
    assert " ".join(" ".join(lines).split()) == " ".join(PARAGRAPH.splitlines()[1].split())


def test_paragraphs_have_the_width_of_the_terminal_and_a_bold_first_line(screen, capsys):
    screen(40)
    terminal.show_paragraphs("Title", [PARAGRAPH, "second\n  more"], [False, True])
    out = capsys.readouterr().out
    assert max(map(len, plain_lines(out))) <= 40
    assert "\x1b[1ma title\x1b[0m" in out.splitlines()
    assert "\x1b[1;31msecond\x1b[0m" in out.splitlines()
    assert "\x1b[31m  more\x1b[0m" in out.splitlines()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_table_drawn_in_a_terminal_keeps_every_word_within_its_width(screen, capsys, width):
    screen(width)
    terminal.show(LINES)
    out = capsys.readouterr().out
    lines = plain_lines(out)
    assert max(map(len, lines)) <= width
    assert any(set(line.strip()) == {"─"} for line in lines)
    assert " ".join(lines).count("many") == 20
    assert "\x1b[31m" in out
