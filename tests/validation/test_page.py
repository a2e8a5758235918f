"""The page of verify --report: whole, escaped, and quiet in a real browser."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from antisymrnn_validation import cli, drawing, page
from antisymrnn_validation.cli import judging

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
    return {
        "summary": {"line": f"verify: {HOSTILE}"}, "environment": {"versions": {"numpy": HOSTILE}}, "data": HOSTILE,
        "claims": [claim, {**claim, "name": "antisymmetric", "verdict": "holds", "expected": "holds"}],
        "certifications": [certificate, {**certificate, "errors": {}, "status": "broke off"}],
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


def test_same_results_give_the_same_page_whatever_they_took():
    later = results()
    for record in later["claims"] + later["certifications"]:
        record["seconds"] = 99.0
    assert page.page(results(), {}) == page.page(later, {})


@pytest.fixture
def browser(tmp_path):
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no Chromium with its driver here: apt install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    quiet = "disable-gpu disable-quic no-first-run disable-background-networking disable-component-update disable-sync"
    for word in ["headless", "no-sandbox", f"user-data-dir={tmp_path / 'profile'}", *quiet.split()]:
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as started:
        yield started


def test_in_a_browser(browser, tmp_path):
    from selenium.webdriver.common.keys import Keys

    file = tmp_path / "index.html"
    file.write_text(page.page(results(), FIGURES), encoding="utf-8")
    backgrounds = set()
    for width in (390, 1280):
        for scheme in ("light", "dark"):
            size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
            browser.get(file.as_uri())
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            assert browser.execute_script("return document.querySelectorAll('#errors .trace').length") >= 2
            backgrounds.add(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert len(backgrounds) == 2
    reached = []
    for _ in range(14):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        element = browser.switch_to.active_element
        reached.append(element.get_attribute("class") or element.tag_name)
    assert reached[0] == "skip"
    assert "summary" in reached
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    asked = {one["request"]["url"] for one in requests if one["documentURL"] == file.as_uri()}
    assert {address for address in asked if not address.startswith("data:")} == {file.as_uri()}


def test_verify_writes_the_page_and_refuses_a_folder_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(judging, "_figures", lambda: FIGURES)
    (tmp_path / "file").write_text("")
    for folder, code in ((tmp_path / "file" / "x", 2), (tmp_path / "page", 0)):
        with pytest.raises(SystemExit) as error:
            cli.main(["verify", "--quick", "--only", "equation (11)", "--report", str(folder)])
        assert error.value.code == code
    assert "cannot be made a folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "page").iterdir()] == ["index.html"]
    assert 'id="figure-one"' in (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
