"""Figures: the same bytes every time, whatever the user's style, and files whole or not at all."""

import contextlib
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import matplotlib
import pytest

from antisymrnn_validation.output import drawing, files


def draw(figure):
    axes = figure.subplots()
    for k in range(3):
        axes.plot([1, 2, 3], [k, 2, 1], label=f"series {k}", **drawing.series(k))
    axes.legend()


def test_the_same_drawing_has_the_same_bytes_under_any_style():
    first = drawing.render(draw, 4, 3)
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 7, "svg.hashsalt": "other"}):
        assert drawing.render(draw, 4, 3) == first
    assert first.png.startswith(b"\x89PNG")
    assert b"<svg" in first.svg
    assert drawing.render(draw, 4, 3.5) != first


def test_a_drawing_is_as_wide_and_as_high_as_is_asked():
    png, svg = drawing.render(draw, 4, 3)
    assert b'width="288pt" height="216pt"' in svg
    assert [int.from_bytes(png[k : k + 4], "big") for k in (16, 20)] == [600, 450]


def test_no_date_and_no_version_is_written():
    png, svg = drawing.render(draw, 4, 3)
    assert b"<dc:date>" not in svg
    for content in (png, svg):
        assert b"Matplotlib" not in content
        assert matplotlib.__version__.encode() not in content


def test_powers_of_ten_on_an_axis_are_set_as_powers():
    set_as = []

    def logarithmic(figure):
        axes = figure.subplots()
        axes.plot([1, 1000], [1, 1])
        axes.set_xscale("log")
        figure.draw_without_rendering()
        set_as.extend(label._preprocess_math(label.get_text())[1] for label in axes.get_xticklabels())

    drawing.render(logarithmic, 4, 3)
    assert set(set_as) == {True}


def test_series_differ_in_more_than_colour():
    kinds = [drawing.series(k) for k in range(7)]
    for key in ("color", "linestyle", "marker"):
        assert len({kind[key] for kind in kinds}) == 7


def test_series_beyond_the_colours_share_no_two_of_colour_dashes_and_marker():
    kinds = [drawing.series(k) for k in range(49)]
    for pair in itertools.combinations(("color", "linestyle", "marker"), 2):
        assert len({tuple(kind[key] for key in pair) for kind in kinds}) == 49


def test_a_text_from_outside_is_set_as_it_is():
    text = drawing.plain("$_$ \udcff")
    assert text == r"\$_\$ \xff"
    drawing.render(lambda figure: figure.suptitle(text), 2, 2)


def test_both_formats_are_written_and_a_bad_folder_is_refused(tmp_path):
    paths = drawing.write(tmp_path, "figure", drawing.Drawing(b"png", b"svg"))
    assert [path.name for path in paths] == ["figure.png", "figure.svg"]
    assert [path.read_bytes() for path in paths] == [b"png", b"svg"]
    with pytest.raises(files.ReportError, match="is not an existing directory"):
        drawing.write(tmp_path / "none", "figure", drawing.Drawing(b"png", b"svg"))


def test_an_output_folder_is_made_or_refused_with_its_name(tmp_path):
    assert files.output_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(files.ReportError, match="file: cannot be made a folder"):
        files.output_folder(tmp_path / "file")


def test_threads_that_draw_at_once_do_not_mix_their_styles():
    alone = drawing.render(lambda figure: figure.subplots().plot([0, 1]), 2, 2)
    barrier = threading.Barrier(2)

    def draw(figure):
        with contextlib.suppress(threading.BrokenBarrierError):
            barrier.wait(timeout=0.2)  # both here at once, if nothing keeps them apart
        figure.subplots().plot([0, 1])

    with ThreadPoolExecutor(2) as pool:
        drawn = list(pool.map(lambda _: drawing.render(draw, 2, 2), range(2)))
    assert barrier.broken
    assert drawn == [alone, alone]
