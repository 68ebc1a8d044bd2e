"""The page as its reader has it: `mmsa-ext demo`, and Chromium driven by its WebDriver."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

pytestmark = pytest.mark.slow

EXTRACTORS = """
from MMSA_ext.video.extractors import register_extractor
from tests.video.fakes import Brightness, Loudness

register_extractor("loudness")(Loudness)
register_extractor("brightness")(Brightness)
"""
# What is cut: an element beyond the page, or one whose content does not fit.
CUT = """
const wide = document.documentElement.clientWidth;
const seen = (e) => { const box = e.getBoundingClientRect(); return box.width && box.height; };
const out = [...document.querySelectorAll("h1, p, table, button, input, textarea, .reading *")]
  .filter((e) => seen(e) && e.getBoundingClientRect().right > wide + 1);
const cut = [...document.querySelectorAll(".reading *, #head *")]
  .filter((e) => seen(e) && getComputedStyle(e).display !== "inline"
    && !e.matches(".scores, .axis") && e.scrollWidth > e.clientWidth + 1);
const small = [...document.querySelectorAll(".reading *, label, button")]
  .filter((e) => seen(e) && e.innerText && parseFloat(getComputedStyle(e).fontSize) < 12);
return [out, cut, small].map((some) => some.map((e) => e.outerHTML.slice(0, 80)));
"""


@pytest.fixture(scope="module")
def served(models, tmp_path_factory):
    """Address of the page, its process, and the folder of what it writes."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "own.py").write_text(EXTRACTORS)
    root = Path(__file__).parents[2]
    environment = os.environ | {"TMPDIR": str(folder), "HOME": str(folder), "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "MMSA_ext", "demo", "--port", "0", "--import"]
    command += [str(folder / "own.py"), str(models / "dashfusion.pth"), "--models", str(models)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        said = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", said)
        assert address, said
        yield address[0], process, folder
        process.kill()


class Page:
    """What a reader does."""

    def __init__(self, browser, address):
        self.browser, self.wait = browser, WebDriverWait(browser, 120)
        browser.get(address)

    def find(self, selector):
        return self.wait.until(lambda browser: browser.find_elements(By.CSS_SELECTOR, selector))[0]

    def tab(self, name):
        tabs = self.browser.find_elements(By.CSS_SELECTOR, "button[role=tab]")
        next(tab for tab in tabs if tab.text.strip() == name).click()

    def type(self, selector, text):
        box = self.find(f"{selector} textarea")
        self.wait.until(lambda _: box.is_displayed())
        box.clear()
        box.send_keys(text)

    def answer(self, button, part):
        """Click, and wait until a part of the answer is there."""
        self.find(button).click()
        self.wait.until(lambda _: part in self.find("#answer").text)
        return self.find("#answer").text


def outside(browser, address):
    """Requests that went elsewhere."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert any(url.startswith(address) for url in asked)
    own = (address, "data:", f"blob:{address}")
    return [url for url in asked if not url.startswith(own)]


def test_upload_click_edit_and_leave(served, browser, video):
    address, _, folder = served
    page = Page(browser, address)
    page.find("#video input[type=file]").send_keys(str(video))
    page.find("#video video")
    uploads = next(folder.glob("mmsa-ext-demo-*"))
    assert len(list(uploads.rglob("*.mp4"))) == 1
    page.type("#said", "word3 word4")
    said = page.answer("#score-video", "word3 word4")
    assert re.match(r"[+\N{MINUS SIGN}]\d\.\d\d\n", said)
    assert "A face was found in 100 %" in page.find("#parts").text
    page.type("#transcript", "word9 word20")
    page.answer("#again", "word9 word20")
    page.tab("Sentence")
    page.type("#sentence", "word5")
    assert "reads audio and vision besides text" in page.answer("#score-sentence", "besides")
    assert outside(browser, address) == []
    browser.get("about:blank")
    page.wait.until(lambda _: not list(uploads.rglob("*.mp4")))
    wrong = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert wrong == []


@pytest.mark.parametrize("width", [400, 800, 1400])
def test_nothing_is_cut_or_tiny(served, browser, video, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page = Page(browser, served[0])
        page.find("#video input[type=file]").send_keys(str(video))
        page.find("#video video")
        page.type("#said", "word3 word4 " + 30 * "x")
        page.answer("#score-video", "word3")
        page.find("#parts figure")
        out, cut, small = browser.execute_script(CUT)
        assert (out, cut, small) == ([], [], [])
        assert browser.execute_script(
            "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        )
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_ctrl_c_ends_it_though_a_page_is_open_and_waits(served, browser, video):
    """The last test: it ends the server."""
    address, process, folder = served
    page = Page(browser, address)
    page.find("#video input[type=file]").send_keys(str(video))
    page.find("#video video")
    page.find("#score-video").click()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    (last,) = process.stdout.read().splitlines()
    assert last == "The page is closed; what was uploaded is deleted."
    assert not list(folder.glob("mmsa-ext-demo-*"))
