"""The results of verify as one HTML page that needs nothing else and opens from disk."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from antisymrnn_validation.conformance.check import LEVELS
from antisymrnn_validation.output import terminal
from antisymrnn_validation.output.terminal import Record
from antisymrnn_validation.reports import tables

if TYPE_CHECKING:
    from antisymrnn_validation.output.drawing import Drawing

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""No request can leave the page."""

SIGNS = {
    "holds": ("✓", "good"),
    "holds under a stated condition": ("◐", "mixed"),
    "refuted": ("✗", "mixed"),
    "ok": ("✓", "good"),
    "selection": ("◐", "mixed"),
    "selection ok": ("◐", "mixed"),
    "not selected": ("–", "mixed"),
    "reproduced": ("✓", "good"),
    "not reproduced": ("✗", "mixed"),
    "not run": ("–", "mixed"),
}
NONE_SELECTED = "<p>None was selected.</p>"
NUMBER = re.compile(r"[\d.e+-]+")
LONGEST_LINE = 30
"""Characters of a cell; a column with a longer one wraps."""

FLOOR = 1e-20
"""Where the chart draws an error of zero: a logarithmic axis has none."""

_BEFORE = "<msub><mi>h</mi><mrow><mi>t</mi><mo>−</mo><mn>1</mn></mrow></msub>"
_STEP = f"<msub><mi>h</mi><mi>t</mi></msub><mo>=</mo>{_BEFORE}"
_INPUT = "<msub><mi>x</mi><mi>t</mi></msub>"
_SKEW = "<mi>W</mi><mo>−</mo><msup><mi>W</mi><mi mathvariant='normal'>T</mi></msup>"
_THIN = "<mspace width='.17em'/>"
_AFFINE = f"<mi>M</mi>{_BEFORE}<mo>+</mo><mi>V</mi>{_INPUT}<mo>+</mo><mi>b</mi>"
_GATE = (
    f"<mi>M</mi>{_BEFORE}<mo>+</mo><msub><mi>V</mi><mi>z</mi></msub>{_INPUT}<mo>+</mo><msub><mi>b</mi><mi>z</mi></msub>"
)
_PLUS = "<mo form='infix'>+</mo><mi>ε</mi>"
EQUATIONS: dict[str, list[tuple[str, ...]]] = {
    "(10) antisymmetric": [
        (
            _STEP,
            f"{_PLUS}{_THIN}<mi>tanh</mi><mo>(</mo><mo>(</mo>{_SKEW}<mo>)</mo>{_THIN}{_BEFORE}<mo>+</mo><mi>V</mi>"
            f"{_INPUT}<mo>+</mo><mi>b</mi><mo>)</mo>",
        )
    ],
    "(11) forward Euler is stable": [
        (
            "<munder><mi>max</mi><mi>i</mi></munder><mspace width='.3em'/><mo>|</mo><mn>1</mn><mo>+</mo><mi>ε</mi>"
            "<msub><mi>λ</mi><mi>i</mi></msub><mo>(</mo><msub><mi>J</mi><mi>t</mi></msub><mo>)</mo><mo>|</mo>"
            "<mo>≤</mo><mn>1</mn>",
        )
    ],
    "(12) with diffusion γ": [
        (f"<mi>M</mi><mo>=</mo>{_SKEW}<mo>−</mo><mi>γ</mi><mi>I</mi><mo>,</mo>",),
        (_STEP, f"{_PLUS}{_THIN}<mi>tanh</mi><mo>(</mo>{_AFFINE}<mo>)</mo>"),
    ],
    "(13) gated": [
        (f"<msub><mi>z</mi><mi>t</mi></msub><mo>=</mo><mi>σ</mi><mo>(</mo>{_GATE}<mo>)</mo><mo>,</mo>",),
        (_STEP, f"{_PLUS}{_THIN}<msub><mi>z</mi><mi>t</mi></msub><mo>∘</mo><mi>tanh</mi><mo>(</mo>{_AFFINE}<mo>)</mo>"),
    ],
    "(derived) discrete Jacobian": [
        (
            "<mfrac><mrow><mo>∂</mo><msub><mi>h</mi><mi>T</mi></msub></mrow><mrow><mo>∂</mo><msub><mi>h</mi>"
            "<mn>0</mn></msub></mrow></mfrac><mo>=</mo><munderover><mo>∏</mo><mrow><mi>t</mi><mo>=</mo><mi>T</mi>"
            "</mrow><mn>1</mn></munderover><mo>(</mo><mi>I</mi><mo>+</mo><mi>ε</mi><msub><mi>D</mi><mi>t</mi></msub>"
            "<mi>M</mi><mo>)</mo>",
        )
    ],
}
"""MathML by the paper's tag: equations, each in the pieces between which a narrow screen may break it."""


def page(results: Record, figures: Mapping[str, tuple[str, Drawing]]) -> str:
    """The page.

    Parameters
    ----------
    results : Record
        What ``verify --report --json`` writes, and ``left_out``: what ``--only`` did not select, in a sentence, or "".
        The page has no times: the same results give the same page.
    figures : mapping
        Caption and drawing by name; may be empty.

    Returns
    -------
    str
        HTML.
    """
    claims, certificates, conformance = results["claims"], results["certifications"], results["conformance"]
    counts = Counter(tables.verdict(claim) for claim in claims)
    tally = _tally(counts, "claims")
    tally += _tally(Counter(record["verdict"] for record in results["accuracies"]), "accuracies")
    tally += _passed(certificates, "certifications passed")
    tally += _passed([entry for record in conformance for entry in record["checks"]], "checks of the contract passed")
    parts = {
        "equations": ("Equations", _equations()),
        "claims": (
            f"The paper's claims: {len(claims)}",
            _filter(counts) + ("".join(map(_claim, claims)) or NONE_SELECTED),
        ),
        "accuracies": (
            f"The paper's test accuracies: {len(results['accuracies'])}",
            _accuracies(results["accuracies"]),
        ),
        "certifications": (f"Certified gradients: {len(certificates)}", _certifications(results)),
        "conformance": ("Conformance of each backend", _conformance(results)),
        "figures": (f"Figures: {len(figures)}", _figures(figures)),
        "environment": ("Environment", _table(tables.sections_table("Environment", results["environment"]))),
    }
    left_out = f'<p class="left-out">{_sign("selection")} {escape(text)}</p>' if (text := results["left_out"]) else ""
    navigation = "".join(f'<a href="#{name}">{name.capitalize()}</a>' for name in parts)
    sections = "".join(
        f'<section id="{name}"><h2>{title}</h2>{text}</section>' for name, (title, text) in parts.items()
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>AntisymmetricRNN: claims and certificates</title>
<link rel="icon" href="data:,">
<style>{_resource("page.css")}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header><div><h1>AntisymmetricRNN: claims and certificates</h1>
{left_out}<ul class="tally">{tally}</ul><p class="soft">{escape(results["summary"]["line"])}</p></div></header>
<nav aria-label="Sections"><div>{navigation}</div></nav>
<main id="main" tabindex="-1">{sections}</main>
<footer></footer>
<script>{_resource("page.js")}</script>
</body>
</html>
"""


def _resource(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _sign(word: str) -> str:
    sign, kind = SIGNS.get(word, ("⚠", "bad"))
    return f'<span class="verdict {kind}"><span aria-hidden="true">{sign}</span> {escape(word)}</span>'


def _tally(counts: Mapping[str, int], what: str) -> str:
    return "".join(f"<li>{what}: {_sign(word)} {number}</li>" for word, number in sorted(counts.items()))


def _passed(records: Iterable[Record], what: str) -> str:
    """How many passed of those that apply."""
    counts = tables.status_counts(list(records))
    number = counts.total() - counts["not applicable"]
    if not number:
        return ""
    sign, kind = ("✓", "good") if counts["passed"] == number else ("⚠", "bad")
    ratio = f'<span class="verdict {kind}"><span aria-hidden="true">{sign}</span> {counts["passed"]} of {number}</span>'
    return f"<li>{ratio} {what}</li>"


def _equations() -> str:
    rows = ""
    for tag, equations in EQUATIONS.items():
        lines = ""
        for pieces in equations:
            lines += f"<div>{' '.join(f'<math displaystyle=true>{piece}</math>' for piece in pieces)}</div>"
        rows += f'<div class="equation"><div>{lines}</div><span class="soft">{tag}</span></div>'
    return f'<div class="box" tabindex="0" role="region" aria-label="Equations">{rows}</div>'


def _filter(verdicts: Iterable[str]) -> str:
    options = "".join(f'<option value="{escape(word)}">{escape(word)}</option>' for word in sorted(verdicts))
    return (
        f'<form id="filter"><label>Verdict<select name="verdict"><option value="">every verdict</option>{options}'
        '</select></label><label>Text<input name="text" type="search"></label>'
        '<output id="shown" class="soft"></output></form>'
    )


def _claim(claim: Record) -> str:
    word, name = tables.verdict(claim), escape(claim["name"])
    facts = {"Source": claim["source"], "Evidence": claim["evidence"]}
    if claim["condition"]:
        facts["Instead" if claim["expected"] == "refuted" else "Condition"] = claim["condition"]
    facts["Expected"] = f"{claim['expected']}: {'as expected' if claim['as_expected'] else 'CONTRADICTION'}"
    terms = "".join(f"<dt>{key}</dt><dd>{escape(str(value))}</dd>" for key, value in facts.items())
    numbers = [(key, tables.value_text(value)) for key, value in claim["numbers"].items()]
    table = terminal.Table(f"Numbers of {claim['name']}", ("number", "value"), numbers, [False] * len(numbers))
    return (
        f'<details class="claim" id="claim-{name}" data-verdict="{escape(word)}"><summary>{_sign(word)} '
        f'<span class="what">{escape(claim["statement"])}</span></summary><div class="body"><dl>{terms}</dl>'
        f'{_table(table)}<p><a href="#claim-{name}">{name}</a></p></div></details>'
    )


def _accuracies(records: Sequence[Record]) -> str:
    from antisymrnn_validation.experiments import published

    if not records:
        return NONE_SELECTED
    where = (
        "<p>A published number is reproduced if the mean of our recorded runs reaches it, less "
        f"{published.DEVIATIONS} standard errors of a test of {published.SIZE:,} images. The recorded runs are part of "
        "this package, with their parameters.</p>"
    )
    return where + _table(tables.published_table(records, runs=True))


def _certifications(results: Record) -> str:
    if not results["certifications"]:
        return NONE_SELECTED
    where = f"<p>Relative errors of the states and of every gradient on {escape(results['data'])}.</p>"
    if results["not_run"]:
        names = ", ".join(map(escape, results["not_run"]))
        where += f'<p>Not run: {names}; the reasons stand under <a href="#conformance">Conformance</a>.</p>'
    errors = tables.accuracy_table("Errors and tolerances", results["certifications"])
    return where + _chart(results["certifications"]) + _table(errors, "errors-table")


def _conformance(results: Record) -> str:
    """Of each backend the levels, the failures in full, and every check by name; or why it cannot run."""
    text = (
        "<p>Each promise of the contract, checked on the quick cases. <code>antisymrnn conform BACKEND</code> checks "
        "all of them, <code>antisymrnn explain CHECK</code> says what a check is about.</p>"
    )
    for record in results["conformance"]:
        name, state = record["backend"], tables.conformance_state(record)
        if not record["checks"]:
            text += (
                f"<h3>{escape(name)} {_sign(state)}</h3><p>None of its {record['total']} quick checks was selected: "
                "this page does not say whether it conforms.</p>"
            )
            continue
        groups = tables.groups_table(record["checks"])
        failures = "".join(
            f'<pre class="box" tabindex="0" role="region" aria-label="Failure">{escape(paragraph)}</pre>'
            for paragraph in tables.failures(record["checks"])
        )
        text += (
            f"<h3>{escape(name)} {_sign(state)}</h3><p>{escape(tables.conformance_line(record))}.</p>{failures}"
            f"{_table(tables.levels_table(record['checks'], LEVELS)._replace(title=f'Levels, {name}'))}"
            f'<details><summary>By name: {len(groups.rows)} checks</summary><div class="body">'
            f"{_table(groups._replace(title=f'Checks by name, {name}'))}</div></details>"
        )
    for name, reason in results["not_run"].items():
        text += f"<h3>{escape(name)} {_sign('not run')}</h3><p>{escape(reason)}</p>"
    return text


def _chart(records: Sequence[Record]) -> str:
    """Errors beside their tolerances, one pair of series for each backend; the lower end stands for zero."""
    import plotly.graph_objects as go
    from plotly.offline import get_plotlyjs

    from antisymrnn_validation.output.drawing import COLOURS

    series: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for record in records:
        for array, entry in record["errors"].items():
            for key in ("error", "tolerance"):
                place = series.setdefault((record["backend"], key), [])
                place.append((escape(f"{record['cell']}: {array}"), float(entry[key])))
    if not series:
        return ""
    figure = go.Figure()
    for i, ((backend, key), points) in enumerate(series.items()):
        marker = {"symbol": ("circle", "square", "diamond", "cross")[i // 2 % 4], "size": 9}
        if key == "tolerance":
            marker = {"symbol": "line-ew-open", "size": 16}
        figure.add_scatter(
            x=[name for name, _ in points],
            y=[max(value, FLOOR) for _, value in points],
            customdata=[f"{value:.3e}" for _, value in points],
            hovertemplate="%{x}<br>%{customdata}",
            name=f"{escape(backend)}: {key}",
            mode="markers",
            marker={**marker, "color": COLOURS[i // 2 % 4]},
        )
    figure.update_layout(
        template="plotly_white", height=480, margin={"l": 60, "r": 10, "t": 20, "b": 10}, font={"color": "#1d2329"},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02},
        yaxis={"type": "log", "title": "relative error", "exponentformat": "power", "dtick": 2},
        xaxis={"automargin": True, "tickangle": -60},
    )  # fmt: skip
    chart = figure.to_html(
        full_html=False, include_plotlyjs=False, include_mathjax=False, div_id="errors",
        config={"responsive": True, "displayModeBar": False},
    )  # fmt: skip
    caption = "Errors and tolerances; hover for a value, choose a series in the legend."
    if any(value < FLOOR for points in series.values() for _, value in points):
        caption += f" An error below {FLOOR:.0e} stands there."
    above = [not entry["error"] <= entry["tolerance"] for record in records for entry in record["errors"].values()]
    alternative = f"{len(above)} relative errors on a logarithmic axis, {sum(above)} of them above their tolerance."
    return (
        f'<script>{get_plotlyjs()}</script><figure aria-labelledby="errors-caption"><div class="white" role="img" '
        f'aria-label="{alternative}">{chart}</div><figcaption id="errors-caption">{caption} The numbers stand in '
        '<a href="#errors-table">the table</a>.</figcaption></figure>'
    )


def _figures(figures: Mapping[str, tuple[str, Drawing]]) -> str:
    if not figures:
        return "<p>None were drawn.</p>"
    text = ""
    for name, (caption, drawing) in figures.items():
        name, caption, svg = escape(name), escape(caption), base64.b64encode(drawing.svg).decode()
        text += (
            f'<figure id="figure-{name}"><div class="white" tabindex="0" role="region" aria-label="Figure {name}">'
            f'<img alt="{caption}" src="data:image/svg+xml;base64,{svg}"></div><figcaption>{caption}</figcaption>'
            "</figure>"
        )
    return text


def _kind(cells: Sequence[str]) -> str:
    """How a column is set: numbers to the right, long texts wrapped, short ones on one line."""
    if all(map(NUMBER.fullmatch, filter(None, cells))):
        return "number"
    return "long" if max(map(len, cells)) > LONGEST_LINE else "short"


def _table(table: terminal.Table, name: str = "") -> str:
    """A table in a box that scrolls by itself, by keyboard too; a row that alarms says so without its colour."""
    if not table.rows:
        return ""
    columns = list(zip(table.columns, *table.rows, strict=True))
    kinds = [f' class="{_kind(cells)}"' for _, *cells in columns]
    head = "".join(
        f'<th scope="col"{kind}>{escape(title)}</th>' for title, kind in zip(table.columns, kinds, strict=True)
    )
    body = ""
    for (first, *rest), wrong in zip(table.rows, table.alarming, strict=True):
        cells = zip((f"⚠ {first}" if wrong else first, *rest), kinds, strict=True)
        row = "".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in cells)
        body += f'<tr class="bad">{row}</tr>' if wrong else f"<tr>{row}</tr>"
    where = f' id="{name}"' if name else ""
    return (
        f'<div class="box"{where} tabindex="0" role="region" aria-label="{escape(table.title)}"><table><thead>'
        f"<tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
