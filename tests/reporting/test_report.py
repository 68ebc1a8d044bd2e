"""The report as a file: what it says, that it is closed in itself, and what it refuses."""

import base64
import math
import re
import warnings

import pytest

from MMSA_ext.errors import WriteError
from MMSA_ext.records.store import RunStore, StoreError
from MMSA_ext.reporting.render import csv_text
from MMSA_ext.reporting.report import read_store, render_report, write_report
from MMSA_ext.reporting.tables import seed_table
from tests.reporting.conftest import Page, luminance

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror=alert(1)> & 中文 \u2028"


@pytest.fixture
def page(records):
    return Page(render_report(records, figures=False))


def store_of(records, folder):
    store = RunStore(folder / "runs")
    for record in records:
        store.write(record)
    return store.root


def test_says_what_when_how_many_and_on_what(page):
    words = page.words()
    assert "7 runs of 2 models; newest record 2025-01-02 03:04 UTC" in words
    assert "a3a3a3a3a3a3" in words
    assert "5d5d5d5d5d5d" in words
    assert "lowest validation Loss, patience 8" in words
    assert "Intel(R) Xeon(R) Processor @ 2.20GHz" in words
    assert "MMSA_ext 0.1.0" in words
    assert "seed 1113: the training loss became non-finite in epoch 3" in words


def test_every_table_has_a_caption_and_scopes(page):
    assert len(page.attributes("table")) == len(page.attributes("caption")) == 5 + 2 * 3
    assert all(attrs["scope"] in ("col", "row") for attrs in page.attributes("th"))
    regions = [attrs for attrs in page.attributes("div") if "role" in attrs]
    assert all("aria-label" in attrs or "aria-labelledby" in attrs for attrs in regions)
    labelled = {attrs["aria-labelledby"] for attrs in regions if "aria-labelledby" in attrs}
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert labelled <= set(ids)
    assert len(ids) == len(set(ids))


def test_links_lead_somewhere(page):
    ids = {attrs["id"] for _, attrs in page.elements if "id" in attrs}
    to = {attrs["href"] for attrs in page.attributes("a") if "download" not in attrs}
    assert {href.removeprefix("#") for href in to} <= ids


def test_tables_can_be_saved_without_scripts(page, records):
    files = {
        attrs["download"]: base64.b64decode(attrs["href"].partition(",")[2]).decode()
        for attrs in page.attributes("a")
        if "download" in attrs
    }
    of_mosi = [run for run in records if run.identity.dataset == "mosi"]
    assert files["mosi-a3a3a3a3a3a3-seeds.csv"] == csv_text(seed_table(of_mosi))
    assert "Non0_acc_2" in files["mosi-a3a3a3a3a3a3-results.csv"]
    assert len(files) == 4


def test_confusion_is_drawn_where_predictions_are(tmp_path, make_record, predictions):
    store = RunStore(tmp_path / "runs")
    of_a, of_b = (
        make_record(model=model, epochs=0, metrics={"test": {"Corr": math.nan}}) for model in "ab"
    )
    store.write(of_a, predictions)
    store.write(of_b)

    def captions():
        written = write_report(store.root, tmp_path / "report.html")
        page = written.path.read_text(encoding="utf-8")
        return re.findall(r"<figcaption>(.*?)</figcaption>", page)

    (drawn,) = captions()
    assert drawn.startswith("Confusion on mosi. True and predicted classes")
    path = store.predictions_path(of_a.identity)
    path.write_text("spoilt")
    (said,) = captions()
    assert said.startswith("Confusion on mosi. Not drawn: mosi/a/")
    path.unlink()
    assert captions() == []


def test_without_a_defined_number_no_comparison_is_drawn(make_record):
    page = Page(render_report([make_record(metrics={"test": {"Corr": math.nan}})]))
    assert [attrs["alt"].split(".")[0] for attrs in page.attributes("img")] == [
        "Validation curves on mosi"
    ]


def test_details_hold_every_run(page, records):
    words = page.words()
    for run in records:
        assert f"{100 * run.metrics['test']['MAE']:.2f}" in words if run.finished else run.reason
        assert run.identity.short_id in words
    assert "fusion.p 8" in words
    assert "test Acc-2 (neg/pos) \N{MULTIPLICATION SIGN}100" in words
    assert "Non0_acc_2" not in words
    assert "seed 1111 seed 1112 seed 1113" in words
    assert "train, seconds 230.5 230.5" in words
    assert "total, seconds 250.2 250.2" in words


def test_hostile_text_stays_text(make_record, make_diverged_record):
    run = make_record(
        configuration={HOSTILE: HOSTILE},
        notes=(HOSTILE,),
        recipe={HOSTILE: {HOSTILE: HOSTILE}},
        selection=HOSTILE,
    ).model_copy(update={"metrics": {"test": {HOSTILE: 0.5}}})  # which no record may have
    diverged = make_diverged_record(seed=2, reason=HOSTILE)
    html = render_report([run, diverged], passed_over=[HOSTILE], figures=False)
    page = Page(html)
    assert len(page.attributes("script")) == 1
    assert page.attributes("img") == []
    assert "<script>window" not in html
    # Reason (thrice), note, selection rule, key and value of a setting, metric: above and below.
    assert page.words().count("onerror=alert(1)> & 中文") >= 8
    assert all(a["href"].startswith(("#", "data:text/csv;")) for a in page.attributes("a"))


def test_begins_as_html_must_and_does_not_depend_on_the_order_of_records(records):
    page = render_report(records, figures=False)
    assert page.startswith("<!DOCTYPE html>\n<html lang")
    assert render_report([*reversed(records), records[0]], figures=False) == page


def test_without_records_one_sentence_says_so():
    page = Page(render_report([]))
    assert "There are no runs to report" in page.words()
    assert page.attributes("table") == []


def test_write_report(tmp_path, records):
    root = store_of(records, tmp_path)
    path = tmp_path / "new" / "report.html"
    written = write_report(root, path, datasets=["sims"], figures=False)
    html = path.read_text(encoding="utf-8")
    assert (written.path, written.runs, written.passed_over) == (path, 1, [])
    assert written.size == path.stat().st_size
    assert "sims-5d5d" in html
    assert "mosi-a3a3" not in html


@pytest.mark.parametrize(
    ("folder", "datasets", "message"),
    [
        ("absent", [], r"no such folder of run records.*--res-save-dir"),
        ("empty", [], r"no run is recorded here yet. Train a model first"),
        ("full", ["mosei"], r"no run on mosei; there are runs on mosi, sims\.$"),
    ],
)
def test_nothing_to_report_is_one_sentence_and_no_file(
    tmp_path, records, folder, datasets, message
):
    store_of(records, tmp_path / "full")
    (tmp_path / "empty" / "runs").mkdir(parents=True)
    target = tmp_path / "report.html"
    with pytest.raises(StoreError, match=message):
        write_report(tmp_path / folder / "runs", target, datasets=datasets)
    assert not target.exists()


def test_half_a_character_does_not_stop_the_report(tmp_path, make_record):
    root = store_of([make_record()], tmp_path)
    (path,) = root.glob("*/*/*.json")
    path.write_text(path.read_text().replace('"notes": []', '"notes": ["a \\ud800 b"]'))
    write_report(root, tmp_path / "report.html", figures=False)
    assert r"a \ud800 b" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_file_that_cannot_be_written_is_named(tmp_path, records):
    root = store_of(records[:1], tmp_path)
    with pytest.raises(WriteError, match="cannot be written"):
        write_report(root, tmp_path, figures=False)


def test_damaged_records_are_passed_over_and_named(tmp_path, records):
    root = store_of(records, tmp_path)
    damaged, copied = sorted(root.glob("mosi/dashfusion/*.json"))[:2]
    damaged.write_text("{", encoding="utf-8")
    copied.with_name("copy.json").write_bytes(copied.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, _ = read_store(root)
    assert len(found) == len(records) - 1
    path = tmp_path / "report.html"
    written = write_report(root, path, figures=False)
    words = Page(path.read_text(encoding="utf-8")).words()
    assert len(written.passed_over) == 2
    assert "2 files passed over" in words
    assert f"mosi/dashfusion/{damaged.name}: this run record is damaged" in words
    assert "mosi/dashfusion/copy.json: passed over" in words
    assert str(tmp_path) not in path.read_text(encoding="utf-8")


def test_a_store_of_damaged_records_names_them(tmp_path, records):
    root = store_of(records[:1], tmp_path)
    (damaged,) = root.glob("*/*/*.json")
    damaged.write_text("{", encoding="utf-8")
    with pytest.raises(StoreError, match=damaged.name):
        write_report(root, tmp_path / "report.html")


def test_colours_have_contrast():
    """WCAG 2 asks for 4.5 to 1 between text and what is behind it, by light and by dark."""
    from MMSA_ext.reporting.report import _source

    schemes = [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in
               re.findall(r":root \{[^}]*\}", _source("report.css"))]  # fmt: skip
    assert len(schemes) == 3
    for colours in schemes:
        for text in ("text", "muted", "accent", "bad"):
            for behind in ("page", "panel"):
                assert contrast(colours[text], colours[behind]) >= 4.5, (text, behind, colours)
        assert contrast(colours["text"], colours["best"]) >= 4.5


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
