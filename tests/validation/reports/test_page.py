"""The page of verify --report: whole, escaped, and quiet in a real browser."""

import base64
import contextlib
import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from antisymrnn_validation import cli
from antisymrnn_validation.cli import verify
from antisymrnn_validation.conformance.judge import checks_of
from antisymrnn_validation.experiments import published
from antisymrnn_validation.output import drawing, environment, terminal
from antisymrnn_validation.pictures import portraits, spectra
from antisymrnn_validation.reports import page

HOSTILE = "<script>alert('&\"')</script>"
VOID = {"meta", "link", "input", "img", "mspace", "br"}


def results():
    claim = {
        "name": "euler", "source": "equation (11)", "statement": HOSTILE, "condition": HOSTILE, "expected": "refuted",
        "verdict": "refuted", "as_expected": True, "evidence": HOSTILE, "numbers": {HOSTILE: [1.5, float("nan")]},
        "seconds": 1.0,
    }  # fmt: skip
    certificate = {
        "backend": HOSTILE, "cell": "gated", "check": "certified", "case": HOSTILE, "status": "passed",
        "errors": {HOSTILE: {"error": 0.0, "tolerance": 1e-14, "reference": 1e-16}}, "seconds": 2.0,
    }  # fmt: skip
    failure = {
        "backend": "wrong", "check": "accuracy", "case": "one", "level": 2, "status": "failed", "detail": HOSTILE,
        "errors": {"W": {"error": 1.0, "tolerance": 1e-14, "reference": 1e-16}}, "diagnosis": f"{HOSTILE}\nand more",
        "deviations": ["w not transposed"], "seconds": 2.0,
    }  # fmt: skip
    passed = {
        **failure,
        "check": "bits",
        "level": 4,
        "status": "passed",
        "errors": {},
        "diagnosis": "",
        "deviations": [],
    }
    skipped = {**passed, "check": "threads", "status": "not applicable"}
    return {
        "left_out": "",
        "summary": {"line": f"verify: {HOSTILE}"}, "environment": {"versions": {"numpy": HOSTILE}}, "data": HOSTILE,
        "claims": [claim, {**claim, "name": "antisymmetric", "verdict": "holds", "expected": "holds"}],
        "accuracies": [
            {
                "name": HOSTILE, "table": "Table 1", "units": 128, "accuracy": 98.0,
                "iterations": 50_000, "batch": 128, "verdict": "not reproduced",
                "runs": [
                    {
                        "name": HOSTILE, "seed": 0, "date": HOSTILE, "iterations": 8000, "batch": 64, "accuracy": 93.5
                    }
                ],
            }
        ],
        "certifications": [certificate, {**certificate, "errors": {}, "status": "broke off"}],
        "conformance": [
            {"backend": HOSTILE, "total": 3, "checks": [passed, skipped]},
            {"backend": "wrong", "total": 3, "checks": [failure, {**failure, "case": "two"}, passed]},
        ],
        "not_run": {"cupy": HOSTILE},
    }  # fmt: skip


FIGURES = {"one": (HOSTILE, drawing.Drawing(b"", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'))}


class Structure(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.resources, self.scripts, self.text = [], [], [], 0, ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.scripts += tag == "script"
        for key, value in attributes:
            if key == "id":
                self.ids.append(value)
            if key in ("src", "href"):
                self.resources.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data


def test_structure_and_escaping():
    text = page.page(results(), FIGURES)
    found = Structure(text)
    assert not found.open
    assert len(found.ids) == len(set(found.ids))
    assert all(address.startswith(("#", "data:")) for address in found.resources)
    assert {address[1:] for address in found.resources if address.startswith("#")} <= set(found.ids)
    assert HOSTILE not in text
    assert found.text.count(HOSTILE) >= 12
    assert {"claim-euler", "claim-antisymmetric"} <= set(found.ids)
    assert not re.search(r"url\((?!data:|#)", (page.Path(page.__file__).with_name("page.css")).read_text())


def test_conformance_of_each_backend_failures_diagnosed():
    _, _, section = page.page(results(), {}).partition('<section id="conformance">')
    section, _, _ = section.partition("</section>")
    told = Structure(section).text
    assert "2 of 3 checks: 1 passed, 0 failed, 1 not applicable" in told
    assert (
        "3 checks: 1 passed, 2 failed, 0 not applicable; 2 of 2 failures equal the variant 'w not transposed'" in told
    )
    assert f"FAILED wrong: accuracy on one\n  {HOSTILE}\n  W: relative error 1.000e+00, tolerance 1.000e-14\n" in told
    assert "and more\n  and the same on 1 more case" in told
    assert len(re.findall('<tr class="bad"><td class="(?:short|long)">⚠ ', section)) == 2  # a level and a check
    assert "⚠ 2: every gradient" in told
    assert "⚠ accuracy" in told
    assert f"cupy – not run{HOSTILE}" in told
    tally = Structure(page.page(results(), {}).partition("<nav")[0]).text
    assert "⚠ 2 of 4 checks of the contract passed" in tally
    assert "⚠ 1 of 2 certifications passed" in tally


def test_what_was_not_selected_is_said_and_looks_like_no_result():
    told = results()
    told |= {"claims": [], "accuracies": [], "certifications": [], "left_out": f"Not selected: {HOSTILE}."}
    told["conformance"] = [
        {"backend": "numpy", "total": 3, "checks": []},
        {**told["conformance"][0], "backend": "numba"},
    ]
    text = page.page(told, {})
    words = Structure(text).text
    assert f"◐ selection Not selected: {HOSTILE}." in words
    assert words.count("None was selected.") == 3
    assert "numpy – not selectedNone of its 3 quick checks was selected: this page does not say" in words
    assert "numba ◐ selection ok2 of 3 checks: 1 passed" in words
    assert "Levels, numpy" not in text
    assert "Levels, numba" in text
    assert "selection" not in Structure(page.page(results() | {"conformance": []}, {})).text


def test_the_chart_says_in_words_what_it_shows_and_where_the_numbers_stand():
    told = results()
    (errors, *_) = (record["errors"] for record in told["certifications"])
    errors["W"] = {"error": 1.0, "tolerance": 1e-14, "reference": 1e-16}
    text = page.page(told, {})
    assert 'aria-label="2 relative errors on a logarithmic axis, 1 of them above their tolerance."' in text
    assert 'The numbers stand in <a href="#errors-table">the table</a>.</figcaption>' in text


def test_the_chart_has_each_number_under_its_name(monkeypatch):
    import plotly.graph_objects as go

    drawn, add = {}, go.Figure.add_scatter

    def noted(figure, **given):
        drawn[given["name"]] = given["customdata"]
        return add(figure, **given)

    monkeypatch.setattr(go.Figure, "add_scatter", noted)
    entry = {"error": 2e-16, "tolerance": 1e-14, "reference": 1e-15}
    page._chart([{"backend": "numpy", "cell": "gated", "errors": {"W": entry}}])
    assert drawn == {"numpy: error": ["2.000e-16"], "numpy: tolerance": ["1.000e-14"]}


def test_the_chart_draws_each_error_where_it_is(monkeypatch):
    import plotly.graph_objects as go

    drawn, add = {}, go.Figure.add_scatter

    def noted(figure, **given):
        drawn[given["name"]] = (given["x"], given["y"])
        return add(figure, **given)

    monkeypatch.setattr(go.Figure, "add_scatter", noted)
    errors = {name: {"error": e, "tolerance": 1e-14, "reference": 1e-15} for name, e in (("W", 2e-16), ("h0", 0.0))}
    text = page._chart([{"backend": "numpy", "cell": "gated", "errors": errors}])
    names = ["gated: W", "gated: h0"]
    assert drawn == {"numpy: error": (names, [2e-16, page.FLOOR]), "numpy: tolerance": (names, [1e-14, 1e-14])}
    assert '"type":"log"' in text


def test_the_equations_are_those_of_the_paper():
    told = [re.sub(r"<[^>]*>|\s", "", equation) for equation in page._equations().split('<div class="equation">')[1:]]
    assert told == [
        "ht=ht−1+εtanh((W−WT)ht−1+Vxt+b)(10)antisymmetric",
        "maxi|1+ελi(Jt)|≤1(11)forwardEulerisstable",
        "M=W−WT−γI,ht=ht−1+εtanh(Mht−1+Vxt+b)(12)withdiffusionγ",
        "zt=σ(Mht−1+Vzxt+bz),ht=ht−1+εzt∘tanh(Mht−1+Vxt+b)(13)gated",
        "∂hT∂h0=∏t=T1(I+εDtM)(derived)discreteJacobian",
    ]


@pytest.mark.parametrize(
    ("verdict", "sign"),
    [("reproduced", "✓"), ("not reproduced", "✗"), ("not run", "–"), ("reproduced in part", "⚠")],
)
def test_an_accuracy_has_the_sign_of_its_verdict(verdict, sign):
    told = results()
    told["accuracies"][0]["verdict"] = verdict
    tally, _, _ = page.page(told, {}).partition("<nav")
    assert f"accuracies: {sign} {verdict} 1" in Structure(tally).text


def test_a_claim_tells_its_condition_and_the_filter_knows_every_verdict():
    told = results()
    told["claims"][1] |= {"verdict": "holds under a stated condition", "expected": "holds under a stated condition"}
    text = page.page(told, {})
    labels = [re.findall("<dt>(.*?)</dt><dd>", part) for part in text.split('<details class="claim"')[1:]]
    assert labels == [["Source", "Evidence", word, "Expected"] for word in ("Instead", "Condition")]
    offered, used = (re.findall(f'{key}="([^"]+)"', text) for key in ("<option value", "data-verdict"))
    assert sorted(offered) == sorted(used) == ["holds under a stated condition", "refuted"]
    signs = re.findall(r'<summary><span class="verdict \w+"><span aria-hidden="true">(.)</span>', text)
    assert signs == ["✗", "◐"]


def test_the_page_lets_no_request_out_and_holds_its_figures():
    text = page.page(results(), FIGURES)
    assert """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; """ in text
    (svg,) = re.findall(r'src="data:image/svg\+xml;base64,([^"]*)"', text)
    assert base64.b64decode(svg) == FIGURES["one"][1].svg


def test_a_claim_that_is_not_as_expected_alarms():
    told = results()
    told["claims"][0] |= {"verdict": "holds", "as_expected": False}
    text = page.page(told, {})
    assert "refuted: CONTRADICTION" in text
    assert text.count(": as expected</dd>") == 1
    assert '<span class="verdict bad"><span aria-hidden="true">⚠</span> holds, expected: refuted</span>' in text


def test_same_results_give_the_same_page_whatever_they_took():
    later = results()
    for record in later["claims"] + later["certifications"] + [r for b in later["conformance"] for r in b["checks"]]:
        record["seconds"] = 99.0
    assert page.page(results(), FIGURES) == page.page(later, FIGURES)


PDF = {"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": True}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no Chromium with its driver here: apt install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    quiet = "disable-gpu disable-quic no-first-run disable-background-networking disable-component-update disable-sync"
    for word in ["headless", "no-sandbox", f"user-data-dir={tmp_path_factory.mktemp('profile')}", *quiet.split()]:
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as started:
        yield started


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The page with the real accuracies of the paper, certifications and environment, which have the widest tables."""
    told, entry = results(), {"error": 1.52e-15, "tolerance": 1.65e-14, "reference": 2.06e-15}
    told["certifications"][0] |= {"backend": "numpy", "errors": dict.fromkeys(("step_size", "diffusion"), entry)}
    told |= {"accuracies": published.decide(), "environment": environment.environment()}
    file = tmp_path_factory.mktemp("page") / "index.html"
    file.write_text(page.page(told, FIGURES), encoding="utf-8")
    return file.as_uri()


@pytest.fixture
def visit(browser, address):
    """Open the page; at the end nothing was said on the console and nothing asked of a network."""

    def visit(width):
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(address)
        return browser.execute_script

    yield visit
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    asked = {one["request"]["url"] for one in requests if one["documentURL"].startswith(address)}
    assert {url.partition("#")[0] for url in asked if not url.startswith("data:")} == {address}


def emulate(browser, scheme, media=""):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


@pytest.mark.parametrize("width", [390, 1280])
def test_every_width_and_scheme(browser, visit, width):
    ask = visit(width)
    assert ask("return document.documentElement.scrollWidth") <= width
    assert ask("return document.querySelectorAll('#errors .trace').length") >= 2
    assert ask("""const edge = document.querySelector('#equations .box').getBoundingClientRect().right;
        return [...document.querySelectorAll('math')].every((one) => one.getBoundingClientRect().right < edge)""")
    backgrounds = set()
    for scheme in ("light", "dark"):
        emulate(browser, scheme)
        backgrounds.add(ask("return getComputedStyle(document.body).backgroundColor"))
    assert len(backgrounds) == 2


TABLES = """document.querySelectorAll('details').forEach((one) => { one.open = true; });
    return [...document.querySelectorAll('table')].map((table) => {
        const box = table.closest('.box'), edges = box.getBoundingClientRect();
        return {name: box.getAttribute('aria-label'), table: table.offsetWidth, inside: box.clientWidth,
            left: edges.left, right: edges.right, scrolls: getComputedStyle(box).overflowX === 'auto'};
    });"""


@pytest.mark.parametrize(("width", "media"), [(1280, ""), (800, ""), (390, ""), (688, "print")])
def test_no_table_is_cut_off(browser, visit, width, media):
    """Every table fits into its box on a screen and on paper, 182 mm wide; on a telephone the box may scroll."""
    ask = visit(width)
    emulate(browser, "light", media)
    found = ask(TABLES)
    emulate(browser, "light")
    assert {"Test accuracies of the paper", "Errors and tolerances", "Environment"} <= {one["name"] for one in found}
    for one in found:
        assert 0 <= one["left"] < one["right"] <= width, one
        assert one["table"] <= one["inside"] or (width == 390 and one["scrolls"]), one


def test_by_keyboard(browser, visit):
    from selenium.webdriver.common.keys import Keys

    ask = visit(390)

    def press(key):
        browser.switch_to.active_element.send_keys(key)
        return browser.switch_to.active_element

    skip = press(Keys.TAB)
    assert skip.get_attribute("class") == "skip"
    assert skip.rect["x"] >= 0
    assert press(Keys.ENTER).get_attribute("id") == "main"
    summary = next(element for _ in range(9) if (element := press(Keys.TAB)).tag_name == "summary")
    assert summary.value_of_css_property("outline-style") == "solid"
    assert summary.find_element("xpath", "..").get_attribute("open") is None
    press(Keys.ENTER)
    assert summary.find_element("xpath", "..").get_attribute("open") is not None
    table = ask("location.hash = '#errors-table'; return document.getElementById('errors-table')")
    assert ask("return [arguments[0].tabIndex, arguments[0].scrollLeft]", table) == [0, 0]
    table.send_keys(Keys.END, Keys.ARROW_RIGHT)
    assert ask("return new Promise((done) => setTimeout(() => done(arguments[0].scrollLeft), 300))", table) > 0
    assert ask("return document.querySelector('#equations .box').tabIndex") == -1  # no stop where nothing scrolls


def test_on_paper(browser, visit):
    ask = visit(1280)
    emulate(browser, "dark")
    ask("""const form = document.getElementById('filter'); form.elements.text.value = 'no such claim';
        form.dispatchEvent(new Event('input'));
        addEventListener('beforeprint', () => { window.told = {
            open: [...document.querySelectorAll('details')].every((one) => one.open),
            chart: document.querySelector('#errors .main-svg').getBoundingClientRect().width}; });""")
    assert len(browser.execute_cdp_cmd("Page.printToPDF", PDF)["data"]) > 1000
    assert ask("return window.told") == {"open": True, "chart": 650}
    assert ask("return document.querySelectorAll('details[open]').length") == 0
    emulate(browser, "dark", "print")
    assert ask("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert ask("return getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    shown = "return [...document.querySelectorAll('details.claim')].every((one) => one.getClientRects().length)"
    assert ask(shown)
    assert not ask("return document.querySelector('nav').getClientRects().length")


@pytest.mark.parametrize(("quick", "n", "longest"), [(True, 16, 100), (False, 64, 800)])
def test_the_figures_are_small_under_quick_and_each_begins_under_a_bar(monkeypatch, quick, n, longest):
    asked, begun = [], []

    def digit_figures(*sizes):
        asked.append(sizes)
        return {"spectra": ("caption", lambda: "drawn")}

    @contextlib.contextmanager
    def progress(_):
        yield begun.append

    monkeypatch.setattr(spectra, "digit_figures", digit_figures)
    monkeypatch.setattr(portraits, "figures", lambda: {"figure-1": ("caption", lambda: "drawn")})
    monkeypatch.setattr(terminal, "progress", progress)
    assert verify._figures(quick) == {"figure-1": ("caption", "drawn"), "spectra": ("caption", "drawn")}
    assert [(units, lengths[-1]) for units, lengths in asked] == [(n, longest)]
    assert begun == ["figure-1", "spectra"]


def test_verify_writes_the_page_and_refuses_a_folder_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(verify, "_figures", lambda _: FIGURES)
    (tmp_path / "file").write_text("")
    for folder, code in ((tmp_path / "file" / "x", 2), (tmp_path / "page", 0), (tmp_path / "again", 0)):
        with pytest.raises(SystemExit) as error:
            cli.main(["verify", "--quick", "--backend", "numpy", "--only", "symmetric part", "--report", str(folder)])
        assert error.value.code == code
    out, err = capsys.readouterr()
    assert "cannot be made a folder" in err
    every = len(checks_of("numpy", quick=True))
    assert f"; quick conformance of numpy: selection ok, 4 of {every} checks: 4 passed, 0 failed, 0 not app" in out
    assert out.splitlines()[-1] == f"Page: {tmp_path / 'again' / 'index.html'}"
    assert [path.name for path in (tmp_path / "page").iterdir()] == ["index.html"]
    text = (tmp_path / "page" / "index.html").read_bytes()
    assert b'id="figure-one"' in text
    assert text == (tmp_path / "again" / "index.html").read_bytes()
