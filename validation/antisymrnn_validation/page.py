"""The results of verify as one HTML page that needs nothing else and opens from disk."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antisymrnn_validation import report
from antisymrnn_validation.report import Record

if TYPE_CHECKING:
    from antisymrnn_validation.drawing import Drawing

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""No request can leave the page."""

SIGNS = {"holds": ("✓", "good"), "holds under a stated condition": ("◐", "mixed"), "refuted": ("✗", "mixed")}
FLOOR = 1e-20
"""Where the chart draws an error of zero: a logarithmic axis has none."""

_STEP = "<msub><mi>h</mi><mi>t</mi></msub><mo>=</mo><msub><mi>h</mi><mrow><mi>t</mi><mo>−</mo><mn>1</mn></mrow></msub>"
_BEFORE = "<msub><mi>h</mi><mrow><mi>t</mi><mo>−</mo><mn>1</mn></mrow></msub>"
_INPUT = "<msub><mi>x</mi><mi>t</mi></msub>"
_SKEW = "<mi>W</mi><mo>−</mo><msup><mi>W</mi><mi mathvariant='normal'>T</mi></msup>"
_AFFINE = f"<mi>M</mi>{_BEFORE}<mo>+</mo><mi>V</mi>{_INPUT}<mo>+</mo><mi>b</mi>"
_GATE = (
    f"<mi>M</mi>{_BEFORE}<mo>+</mo><msub><mi>V</mi><mi>z</mi></msub>{_INPUT}<mo>+</mo><msub><mi>b</mi><mi>z</mi></msub>"
)
EQUATIONS = {
    "(10)": f"{_STEP}<mo>+</mo><mi>ε</mi><mi>tanh</mi><mo>(</mo><mo>(</mo>{_SKEW}<mo>)</mo>{_BEFORE}"
    f"<mo>+</mo><mi>V</mi>{_INPUT}<mo>+</mo><mi>b</mi><mo>)</mo>",
    "(11)": "<munder><mi>max</mi><mi>i</mi></munder><mo>|</mo><mn>1</mn><mo>+</mo><mi>ε</mi>"
    "<msub><mi>λ</mi><mi>i</mi></msub><mo>(</mo><msub><mi>J</mi><mi>t</mi></msub><mo>)</mo><mo>|</mo><mo>≤</mo><mn>1</mn>",
    "(12)": f"<mi>M</mi><mo>=</mo>{_SKEW}<mo>−</mo><mi>γ</mi><mi>I</mi><mo>,</mo><mspace width='1em'/>"
    f"{_STEP}<mo>+</mo><mi>ε</mi><mi>tanh</mi><mo>(</mo>{_AFFINE}<mo>)</mo>",
    "(13)": f"<msub><mi>z</mi><mi>t</mi></msub><mo>=</mo><mi>σ</mi><mo>(</mo>{_GATE}<mo>)</mo><mo>,</mo>"
    f"<mspace width='1em'/>{_STEP}<mo>+</mo><mi>ε</mi><msub><mi>z</mi><mi>t</mi></msub><mo>∘</mo><mi>tanh</mi>"
    f"<mo>(</mo>{_AFFINE}<mo>)</mo>",
    "discrete Jacobian": "<mfrac><mrow><mo>∂</mo><msub><mi>h</mi><mi>T</mi></msub></mrow><mrow><mo>∂</mo><msub>"
    "<mi>h</mi><mn>0</mn></msub></mrow></mfrac><mo>=</mo><munderover><mo>∏</mo><mrow><mi>t</mi><mo>=</mo><mi>T</mi></mrow>"
    "<mn>1</mn></munderover><mo>(</mo><mi>I</mi><mo>+</mo><mi>ε</mi><msub><mi>D</mi><mi>t</mi></msub><mi>M</mi><mo>)</mo>",
}
"""MathML by the paper's tag; the Jacobian is derived."""


def page(results: Record, figures: Mapping[str, tuple[str, Drawing]]) -> str:
    """The page.

    Parameters
    ----------
    results : Record
        What ``verify --json`` writes. Times are left out: the same results give the same page.
    figures : mapping
        Caption and drawing by name; may be empty.

    Returns
    -------
    str
        HTML.
    """
    claims, certificates = results["claims"], results["certifications"]
    counts = Counter(report.verdict(claim) for claim in claims)
    tally = "".join(f"<li>{_sign(word)} {number}</li>" for word, number in sorted(counts.items()))
    passed = sum(not report.contradicts(record) for record in certificates)
    tally += f"<li><b>{passed} of {len(certificates)}</b> certifications without a contradiction</li>"
    parts = {
        "equations": ("Equations", _equations()),
        "claims": (f"The paper's claims: {len(claims)}", _filter(counts) + "".join(map(_claim, claims))),
        "certifications": (f"Certified gradients: {len(certificates)}", _certifications(results)),
        "figures": (f"Figures: {len(figures)}", _figures(figures)),
        "environment": ("Environment", _environment(results["environment"])),
    }
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
<header><div><h1>AntisymmetricRNN: claims and certificates</h1><p class="line">{escape(results["summary"]["line"])}</p>
<ul class="tally">{tally}</ul></div></header>
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


def _equations() -> str:
    rows = (
        f'<div class="equation"><math display="inline">{formula}</math><span class="soft">{tag}</span></div>'
        for tag, formula in EQUATIONS.items()
    )
    return f'<div class="box" tabindex="0" role="region" aria-label="Equations">{"".join(rows)}</div>'


def _filter(verdicts: Iterable[str]) -> str:
    options = "".join(f'<option value="{escape(word)}">{escape(word)}</option>' for word in sorted(verdicts))
    return (
        f'<form id="filter"><label>Verdict<select name="verdict"><option value="">every verdict</option>{options}'
        '</select></label><label>Text<input name="text" type="search"></label>'
        '<output id="shown" class="soft"></output></form>'
    )


def _claim(claim: Record) -> str:
    word, name = report.verdict(claim), escape(claim["name"])
    told = {"Source": claim["source"], "Evidence": claim["evidence"]}
    if claim["condition"]:
        told["Instead" if claim["expected"] == "refuted" else "Condition"] = claim["condition"]
    told["Expected"] = f"{claim['expected']}: {'as expected' if claim['as_expected'] else 'CONTRADICTION'}"
    terms = "".join(f"<dt>{key}</dt><dd>{escape(str(value))}</dd>" for key, value in told.items())
    numbers = [(key, _text(value)) for key, value in claim["numbers"].items()]
    return (
        f'<details class="claim" id="claim-{name}" data-verdict="{escape(word)}"><summary>{_sign(word)} '
        f'<span class="what">{escape(claim["statement"])}</span></summary><div class="body"><dl>{terms}</dl>'
        f'{_table(("number", "value"), numbers, "Numbers")}<p><a href="#claim-{name}">{name}</a></p></div></details>'
    )


def _certifications(results: Record) -> str:
    told = report.accuracy_table("Certifications", results["certifications"])
    rows = [
        (*row[:-1], f"{'✗' if wrong else '✓'} {row[-1]}") for row, wrong in zip(told.rows, told.alarming, strict=True)
    ]
    missing = "".join(
        f"<p>Backend {escape(name)} not run: {escape(reason)}</p>" for name, reason in results["not_run"].items()
    )
    where = f"<p>Relative errors of the states and of every gradient on {escape(results['data'])}.</p>"
    return where + _chart(results["certifications"]) + _table(told.columns, rows, told.title) + missing


def _chart(records: Iterable[Record]) -> str:
    """Errors beside their tolerances, one pair of series for each backend; the lower end stands for zero."""
    import plotly.graph_objects as go
    from plotly.offline import get_plotlyjs

    from antisymrnn_validation.drawing import COLOURS

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
        template="plotly_white", height=480, margin={"l": 60, "r": 10, "t": 110, "b": 10}, font={"color": "#1d2329"},
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
    return (
        f'<script>{get_plotlyjs()}</script><figure><div class="white">{chart}</div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _figures(figures: Mapping[str, tuple[str, Drawing]]) -> str:
    if not figures:
        return "<p>None were drawn.</p>"
    return "".join(
        f'<figure id="figure-{escape(name)}"><div class="white"><img alt="{escape(caption)}" src="'
        f'data:image/svg+xml;base64,{base64.b64encode(drawing.svg).decode()}"></div><figcaption>{escape(caption)}</figcaption></figure>'
        for name, (caption, drawing) in figures.items()
    )


def _environment(environment: Mapping[str, Any]) -> str:
    return "".join(
        f"<h3>{escape(name)}</h3>{_table(('what', 'value'), [(k, _text(v)) for k, v in section.items()], name)}"
        for name, section in environment.items()
    )


def _table(columns: Iterable[str], rows: Iterable[tuple[str, ...]], label: str) -> str:
    """A table in a box that scrolls by itself, by keyboard too."""
    rows = list(rows)
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="box" tabindex="0" role="region" aria-label="{escape(label)}"><table><thead><tr>{head}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>"
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(report.strict(value), ensure_ascii=False)
