"""The report in a real browser: Chromium without a window, driven by its WebDriver."""

import json

import pytest

from MMSA_ext.reporting.report import render_report
from tests.reporting.conftest import make_diverged, make_finished, make_metrics

pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

NOTE = "<script>window.hacked = 1</script> 中文"


@pytest.fixture
def show(browser, tmp_path):
    """Open records as a report; at the end there was no error and no request but the file."""
    path = tmp_path / "report.html"
    for log in ("browser", "performance"):
        browser.get_log(log)  # of earlier pages

    def show(records, figures=False):
        path.write_text(render_report(records, figures=figures), encoding="utf-8")
        browser.get(path.as_uri())
        return browser

    yield show
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        event["params"]["request"]["url"].partition("#")[0]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]


@pytest.fixture
def several(make_record, make_diverged_record):
    """Four models, two seeds each; one diverges, two tie in Corr."""
    scores = {"almt": (0.9, 0.5), "bbfn": (1.25, 0.5), "cubemlp": (0.75, 0.1)}
    runs = [
        make_record(
            model=model,
            seed=seed,
            metrics={"test": {"MAE": mae, "Corr": corr}},
            configuration={"learning_rate": 0.001, "fusion": {"p": 8}},
            notes=(NOTE,),
        )
        for model, (mae, corr) in scores.items()
        for seed in (1111, 1112)
    ]
    return [*runs, make_diverged_record(model="dbf", seed=1111)]


def find(browser, selector):
    return browser.find_elements(By.CSS_SELECTOR, selector)


def models(browser):
    return [cell.text for cell in find(browser, ".results tbody tr:not([hidden]) th")]


def opened(browser):
    """The tables of the one experiment that is open; a link opens it in an event of its own."""
    wait = WebDriverWait(browser, 10)
    return wait.until(lambda browser: find(browser, "details.experiment[open] table"))


def head(browser, name):
    return next(th for th in find(browser, ".results thead th") if th.text.startswith(name))


def test_sorting_by_numbers_and_text(show, several):
    browser = show(several)
    mae, corr, model = (head(browser, name) for name in ("MAE", "Corr", "Model"))

    def click(column):
        column.find_element(By.TAG_NAME, "button").click()
        return models(browser), column.get_attribute("aria-sort")

    assert models(browser) == ["almt", "bbfn", "cubemlp", "dbf"]
    # As text, 125.00 would come before 75.00; the diverged run has no number and stays last.
    assert click(mae) == (["cubemlp", "almt", "bbfn", "dbf"], "ascending")
    assert click(mae) == (["bbfn", "almt", "cubemlp", "dbf"], "descending")
    # Stable: bbfn stays before almt where they tie.
    assert click(corr) == (["cubemlp", "bbfn", "almt", "dbf"], "ascending")
    assert click(corr) == (["bbfn", "almt", "cubemlp", "dbf"], "descending")
    assert mae.get_attribute("aria-sort") == "none"
    assert click(model) == (["almt", "bbfn", "cubemlp", "dbf"], "ascending")


def test_sorting_by_the_keyboard(show, several):
    browser = show(several)
    mae = head(browser, "MAE")
    button = mae.find_element(By.TAG_NAME, "button")
    for key, order in (
        (Keys.ENTER, ["cubemlp", "almt", "bbfn", "dbf"]),
        (Keys.SPACE, ["bbfn", "almt", "cubemlp", "dbf"]),
    ):
        button.send_keys(key)
        assert browser.switch_to.active_element == button
        assert models(browser) == order


def test_filtering(show, several):
    browser = show(several)
    (box,) = find(browser, ".filter input")
    (said,) = find(browser, ".filter output")
    shown = ".seeds tbody tr:not([hidden])"
    box.send_keys("DBF ")
    assert models(browser) == ["dbf"]
    assert said.text == "1 of 4 experiments, 1 of 7 runs"
    assert len(find(browser, "details.experiment:not([hidden])")) == 1
    box.clear()
    box.send_keys("1112")
    assert len(find(browser, shown)) == 3
    box.clear()
    box.send_keys("nothing")
    assert find(browser, shown) == []
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys(Keys.DELETE)
    assert models(browser) == ["almt", "bbfn", "cubemlp", "dbf"]
    assert said.text == ""


def test_details_show_what_they_hold_when_opened(show, several):
    browser = show(several)
    first, *_ = find(browser, "details.experiment")
    assert not any(table.is_displayed() for table in find(first, "table"))
    first.find_element(By.TAG_NAME, "summary").click()
    settings, runs = (table.text for table in opened(browser))
    assert "fusion.p 8" in settings
    for part in (
        "seed 1111 seed 1112",
        "lowest validation Loss, patience 8",
        "test MAE \N{MULTIPLICATION SIGN}100 90.00",
        "test Corr \N{MULTIPLICATION SIGN}100 50.00",
        "total, seconds 250.2",
        "cpu (Intel(R) Xeon(R)",
        "code version 0.1.0",
        NOTE,
    ):
        assert part in runs
    assert len(find(first, "svg.curve polyline")) == 6
    assert browser.execute_script("return window.hacked") is None


def test_a_link_opens_what_it_leads_to(show, several):
    browser = show(several)
    diverged = find(browser, ".warning li a")[0]
    diverged.click()
    _, runs = opened(browser)
    assert "diverged: the training loss became non-finite in epoch 3" in runs.text
    (experiment,) = find(browser, "details.experiment[open]")
    assert experiment.find_element(By.TAG_NAME, "b").text == "dbf"
    assert len(find(experiment, "svg.curve path.end")) == 3


def test_figures_are_drawn(show, several):
    browser = show(several, figures=True)
    widths = browser.execute_script("return [...document.images].map(i => i.naturalWidth)")
    assert len(widths) == 2
    assert all(width > 300 for width in widths)


@pytest.fixture(scope="module")
def long_page(tmp_path_factory):
    """All metrics of a data set, names that are long, numbers that are wide."""
    runs = [
        make_finished(
            seed=seed,
            configuration={"feature_scaling": scaling, "retrieved_features": retrieved},
            metrics={"test": dict.fromkeys(make_metrics("mosi", 1), 1.2345 + seed / 1e4)},
        )
        for scaling, retrieved in (("none", "bank"), ("standardise", "encoded"))
        for seed in (1111, 1112)
    ]
    runs.append(make_diverged(model="self_mm_infoenh", seed=1111))
    path = tmp_path_factory.mktemp("long") / "report.html"
    path.write_text(render_report(runs), encoding="utf-8")
    return path


# What is cut or hidden: an element beyond the page, or a table beyond its frame, which scrolls.
HIDDEN = """
const wide = document.documentElement.clientWidth;
const out = [...document.body.querySelectorAll(":not(.skip, .hidden)")].filter((e) => {
  const box = e.getBoundingClientRect();
  return !e.closest(".scroll, svg") && box.width > 0 && (box.right > wide + 1 || box.left < 0);
});
const cut = [...document.querySelectorAll(".scroll")].filter((e) => e.scrollWidth > e.clientWidth);
const clipped = [...document.querySelectorAll("main *")].filter((e) => {
  const style = getComputedStyle(e);
  const flows = style.overflowX === "visible" || style.display === "inline";
  return !flows && !e.matches(".scroll, .hidden") && e.scrollWidth > e.clientWidth + 1;
});
const over = [...document.querySelectorAll("tr")].flatMap((row) => [...row.cells].slice(1)
  .filter((cell, i) => cell.getBoundingClientRect().left + 1
    < row.cells[i].getBoundingClientRect().right));
return [out, cut, clipped, over].map((some) => some.map((e) => e.outerHTML.slice(0, 80)));
"""


@pytest.mark.parametrize("width", [400, 800, 1200, 1600])
def test_nothing_is_cut_or_overlaps(browser, long_page, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        browser.get(long_page.as_uri())
        for summary in find(browser, "details:not([open]) > summary"):
            browser.execute_script("arguments[0].parentElement.open = true", summary)
        out, cut, clipped, over = browser.execute_script(HIDDEN)
        assert (out, clipped, over) == ([], [], [])
        if width >= 800:
            assert cut == []
        else:  # on a telephone tables scroll in a frame that says so
            frames = browser.execute_script(
                "return [...document.querySelectorAll('.scroll')].map("
                "(e) => [getComputedStyle(e).overflowX, e.tabIndex])"
            )
            assert cut
            assert all(frame == ["auto", 0] for frame in frames)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_pictures_stand_before_the_rows(browser, long_page):
    browser.get(long_page.as_uri())
    order = browser.execute_script(
        "return [...document.querySelectorAll('.dataset img, .dataset table')].map(e => e.tagName)"
    )
    assert order[:3] == ["IMG", "IMG", "TABLE"]
    names = [cell.text for cell in find(browser, ".results tbody th")]
    assert "Loss" not in find(browser, ".results thead")[0].text
    assert len(set(names)) == 3
    assert sum("feature_scaling = none" in name for name in names) == 1


def test_a_table_is_saved_as_csv(browser, long_page, tmp_path):
    browser.get(long_page.as_uri())
    place = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", place)
    find(browser, "a.csv")[0].click()
    WebDriverWait(browser, 10).until(lambda _: list(tmp_path.glob("*-results.csv")))
    (path,) = tmp_path.glob("*.csv")
    assert path.read_text("utf-8").startswith("row,model,dataset,split,metric,mean,std,n")


def test_without_records(show):
    browser = show([])
    assert "There are no runs to report" in browser.find_element(By.TAG_NAME, "header").text
