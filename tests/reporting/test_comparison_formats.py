import re
import shutil
import subprocess
from html.parser import HTMLParser
from io import StringIO

import pandas as pd
import pytest

from MMSA_ext.reporting.comparison import PublishedNumber, SystemRuns, compare
from MMSA_ext.reporting.comparison_formats import (
    HTML_STYLE,
    render_text,
    to_csv,
    to_html,
    to_latex,
    to_markdown,
    write_comparison,
)
from MMSA_ext.reporting.statistics import StatisticsError

METRICS = ["MAE", "Corr", "Non0_acc_2"]
SCORES = {
    "Host": [(0.80, 0.70, 0.80), (0.82, 0.72, 0.82), (0.84, 0.74, 0.81)],
    "Host & 50 % <b>_x_": [(0.78, 0.71, 0.84), (0.79, 0.74, 0.83), (0.80, 0.75, 0.85)],
    "Random gates": [(0.90, None, 0.70), (0.91, 0.40, 0.72)],
}
PRINTED = PublishedNumber(0.709, "†", "A & B, Table 1 (100 % of _all_)")


@pytest.fixture
def comparison(make_record, make_diverged_record):
    def runs(label):
        return [
            make_record(
                model="self_mm",
                seed=seed,
                metrics={"test": dict(zip(METRICS, values, strict=True))},
                epochs=1,
            )
            for seed, values in enumerate(SCORES[label], 1)
        ]

    host, other, control = SCORES
    systems = [
        SystemRuns(host, "self_mm", tuple(runs(host)), (1, 2, 3), {"MAE": PRINTED}),
        SystemRuns(other, "self_mm", tuple(runs(other)), (1, 2, 3), {}),
        SystemRuns(
            control,
            "self_mm",
            (*runs(control), make_diverged_record(model="self_mm", seed=3)),
            (1, 2, 3),
            {},
            "control",
        ),
        SystemRuns("Never run", "", (), (), {"MAE": PRINTED}),
    ]
    return compare(systems, METRICS, baseline=host, title="Hosts & more")


ALL = [render_text, to_markdown, to_latex, to_html]


@pytest.mark.parametrize("render", ALL)
def test_numbers_stand_with_what_they_depend_on(comparison, render):
    text = " ".join(render(comparison).split())
    plain = text.replace("\\_", "_").replace("$n$", "n").replace("$|$", "|")
    for fact in ("n = 3", "n = 2 of 3 planned", "lowest validation Loss, patience 8", "2.20GHz"):
        assert fact in plain
    assert "non-finite in epoch 3" in plain
    assert "Holm" in plain
    assert "sample" in plain
    assert "a control, not a system" in plain
    assert "Table 1 (100" in plain


@pytest.mark.parametrize("render", ALL)
def test_numbers_are_x100_with_two_digits(comparison, render):
    text = (
        render(comparison)
        .replace("$\\pm$", "±")
        .replace("$-$", "\N{MINUS SIGN}")
        .replace("{[}", "[")
    )
    for cell in ("82.00", "± 2.00", "[77.03, 86.97]", "70.90"):
        assert cell in text
    assert re.search("[-\N{MINUS SIGN}]3[.]00 [(]", text)
    assert "+2.67 (" in text or "+1.33 (" in text


@pytest.mark.parametrize("render", ALL)
def test_each_line_names_the_row_it_is_compared_with_where_they_differ(make_record, render):
    def row(label, compared_with, shift):
        runs = tuple(
            make_record(seed=s, metrics={"test": {"MAE": shift + s**2 / 100}}, epochs=1)
            for s in (1, 2, 3)
        )
        return SystemRuns(label, "x", runs, (1, 2, 3), {}, compared_with=compared_with)

    rows = [row("A", None, 0.5), row("B", "A", 0.6), row("C", "B", 0.7)]
    text = " ".join(render(compare(rows, ["MAE"])).split())
    for said in ("difference to A (p)", "difference to B (p)", "the row named in the line"):
        assert said in text
    assert "(baseline" not in text
    assert "not tested against another row" in text


def test_csv_has_plain_numbers(comparison):
    read = pd.read_csv(StringIO(to_csv(comparison)), keep_default_na=True)
    assert len(read) == len(comparison.numbers) == 12
    assert read["mean"][0] == pytest.approx(0.82)
    assert read["published_value"][0] == 0.709


class TestText:
    def test_layout(self, comparison):
        lines = render_text(comparison).splitlines()
        assert lines[0] == "Hosts & more. mosi, test split"
        head = next(line for line in lines if line.startswith("system"))
        assert ["MAE ↓" in head, "Corr ↑" in head] == [True, True]
        assert any(line.startswith("Host (baseline)") for line in lines)
        assert any(line.startswith("Random gates (control)  2/3") for line in lines)
        assert any("  printed †" in line and "70.90" in line for line in lines)

    def test_best_and_second_are_marked(self, comparison):
        text = render_text(comparison)
        assert "79.00 ± 1.00 ¹" in text
        assert "82.00 ± 2.00 ²" in text

    def test_a_control_may_be_the_baseline(self, comparison, make_record):
        row = SystemRuns("Text", "a", (make_record(seed=1, epochs=1),), (1,), {}, "control")
        found = compare([row], ["MAE"], baseline="Text")
        assert "Text (control, baseline)" in render_text(found)

    def test_a_metric_with_fewer_values_says_so(self, comparison):
        assert "40.00 (n=1)" in render_text(comparison)

    def test_wide_tables_are_broken(self, comparison):
        text = render_text(comparison, width=60)
        assert text.count("system ") == 3
        assert max(map(len, text.splitlines())) <= 60

    def test_lines_can_be_left_out(self, comparison):
        text = render_text(comparison, details=("printed",))
        assert "printed †" in text
        assert "interval  " not in text
        assert "difference (p)" not in text


class TestMarkdown:
    def test_table_has_equal_columns_and_marks(self, comparison):
        rows = [line for line in to_markdown(comparison).splitlines() if line.startswith("|")]
        assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}
        assert rows[1] == "|---|--:|--:|--:|--:|"
        table = "\n".join(rows)
        assert "**79.00** ± 1.00" in table
        assert "*82.00* ± 2.00" in table
        assert "Non0\\_acc\\_2 ↑" in table
        assert "Host & 50 % \\<b>\\_x\\_" in table


class TestLatex:
    def test_structure(self, comparison):
        text = to_latex(comparison, label="tab:hosts")
        rows = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {4}
        begun, ended = (re.findall(rf"\\{word}{{(\w+)}}", text) for word in ("begin", "end"))
        assert sorted(begun) == sorted(ended)
        for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\label{tab:hosts}"):
            assert text.count(rule) == 1
        bare = re.sub(r"\\[{}]", "", text)
        assert bare.count("{") == bare.count("}")
        assert r"MAE $\downarrow$ & Corr $\uparrow$" in text
        assert r"\textbf{79.00} $\pm$ 1.00" in text
        assert r"\underline{82.00} $\pm$ 2.00" in text

    def test_special_characters_are_escaped(self, comparison):
        text = to_latex(comparison)
        assert r"Host \& 50 \% $<$b$>$\_x\_" in text
        assert r"printed $\dagger$" in text
        assert not set("±†↑↓\N{MINUS SIGN}") & set(text)
        assert not [line for line in text.splitlines() if line.startswith(("[", "*"))]

    @pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
    def test_it_compiles(self, comparison, tmp_path):
        packages = r"\usepackage{booktabs,adjustbox}"
        page = rf"\documentclass{{article}}{packages}\begin{{document}}\input{{t}}\end{{document}}"
        (tmp_path / "page.tex").write_text(page, "utf-8")
        write_comparison(comparison, tmp_path, "t", ["tex"])
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        if "adjustbox.sty' not found" in done.stdout:
            pytest.skip("this LaTeX has no adjustbox")
        assert done.returncode == 0, done.stdout[-2000:]
        assert "Overfull \\hbox" not in done.stdout


class Tags(HTMLParser):
    """Checks that tags are closed in order, and keeps them."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.words = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


class TestHtml:
    def test_fragment_and_page(self, comparison):
        fragment, page = to_html(comparison), to_html(comparison, page=True)
        assert fragment.startswith("<section")
        assert page.startswith("<!doctype html>")
        assert fragment.strip() in page
        assert HTML_STYLE in fragment
        assert "<style>" not in to_html(comparison, style=False)
        assert not re.search(r"(src|href)=", page)

    def test_table_can_be_read_aloud(self, comparison):
        tags = Tags(to_html(comparison, page=True))
        heads = [attributes.get("scope") for tag, attributes in tags.seen if tag == "th"]
        assert heads.count("col") == 5
        assert heads.count("rowgroup") == 4
        assert None not in heads
        assert [tag for tag, _ in tags.seen].count("caption") == 1
        labels = [a["aria-label"] for tag, a in tags.seen if a.get("role") == "img"]
        assert labels == ["lower is better", "higher is better", "higher is better"]

    def test_text_is_escaped_and_marks_are_not(self, comparison):
        text = to_html(comparison)
        assert "Host &amp; 50 % &lt;b&gt;_x_" in text
        assert "<b>" not in text
        assert "<strong>79.00</strong> ± 1.00" in text
        assert "<u>82.00</u> ± 2.00" in text


class TestWriting:
    def test_files_are_named_and_returned(self, comparison, tmp_path):
        paths = write_comparison(comparison, tmp_path / "new", "hosts-mosi")
        assert [path.name for path in paths] == [
            f"hosts-mosi.{e}" for e in ("csv", "md", "tex", "html")
        ]
        assert r"\label{tab:hosts-mosi}" in paths[2].read_text("utf-8")
        assert paths[3].read_text("utf-8").startswith("<!doctype html>")
        (text,) = write_comparison(comparison, tmp_path, "hosts_mosi", ["txt"])
        assert text.read_text("utf-8") == render_text(comparison) + "\n"

    def test_unknown_format_writes_nothing(self, comparison, tmp_path):
        with pytest.raises(StatisticsError, match="no table format 'docx'; known: csv"):
            write_comparison(comparison, tmp_path, "t", ["csv", "docx"])
        assert list(tmp_path.iterdir()) == []


def test_a_table_without_runs_is_still_a_table():
    systems = [SystemRuns("a", "a", (), (1, 2), {}), SystemRuns("b", "b", (), (1, 2), {})]
    empty = compare(systems, ["MAE"], baseline="a", dataset="mosi")
    for render in ALL:
        assert "0/2" in render(empty)
