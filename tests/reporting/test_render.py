"""One table in every format: what is escaped, marked, broken and said once."""

import io
import math
import re
import shutil
import subprocess

import pandas as pd
import pytest

from MMSA_ext.reporting.render import (
    HTML_STYLE,
    Cell,
    Column,
    Fact,
    Row,
    Table,
    csv_text,
    frame_table,
    interval,
    mean_std,
    number,
    p_text,
    said_once,
    table_of,
    to_html,
    to_latex,
    to_markdown,
    to_text,
    x100,
)
from tests.reporting.conftest import Page


@pytest.fixture
def table():
    return Table(
        (
            Column("system", "left"),
            Column("n", meaning="seeds that count"),
            Column("MAE", "center", "lower"),
            Column("Non0_acc_2", "center", "higher"),
        ),
        (
            Row(("Host & 50 % <b>_x_", "3", Cell("82.00", " ± 2.00", "second"), Cell("-1.50"))),
            Row(("[1, 2] |\n*", "", Cell("+0.10", " (.012)"), Cell())),
            Row(("95 % interval", "", Cell("[-1.00, 2.00]"), ""), detail=True),
            Row(("-id~1", "2/3", Cell("79.00", " ± 1.00", "best"), Cell("90.00", mark="best"))),
        ),
        "Hosts & more",
        "mean ± std",
        (Fact("seeds", "n = 3"), Fact("data", "a | b_c", ("Host", "x_y"))),
        front=2,
    )


def test_text_is_aligned_and_says_what_marks_are(table):
    assert to_text(table).split("\n") == [
        "Hosts & more",
        "",
        "system                n          MAE ↓    Non0_acc_2 ↑",
        "--------------------------------------------------------",
        "Host & 50 % <b>_x_    3   82.00 ± 2.00 ²         -1.50",
        "[1, 2] | *                +0.10 (.012)",
        "  95 % interval          [-1.00, 2.00]",
        "-id~1               2/3   79.00 ± 1.00 ¹         90.00 ¹",
        "",
        "cells  mean ± std; ¹ best, ² second best.",
        "seeds  n = 3",
        "data   Host; x_y: a | b_c",
    ]


def test_wide_text_is_broken_and_keeps_its_front(table):
    lines = to_text(table, width=42).splitlines()
    assert max(map(len, lines)) <= 42
    heads = [line.split() for line in lines if line.startswith("system")]
    assert heads == [["system", "n", "MAE", "↓"], ["system", "n", "Non0_acc_2", "↑"]]


def test_long_names_and_heads_of_two_lines_are_broken():
    name = "lf_dnn (corruption.remove = [audio, vision], corruption.at = all)"
    heads = (Column("system", "left"), Column("Acc-2\n(neg/pos)", "center", "higher"), Column("n"))
    table = Table(heads, (Row((name, Cell("80.00", " ± 1.00"), "3")),))
    assert to_text(table).split("\n")[:5] == [
        "                                                     Acc-2",
        "system                                         (neg/pos) ↑  n",
        "-------------------------------------------------------------",
        "lf_dnn (corruption.remove = [audio, vision],  80.00 ± 1.00  3",
        "  corruption.at = all)",
    ]
    assert "Acc-2 (neg/pos) ↑" in to_markdown(table)
    assert r"\shortstack{Acc-2 \\(neg/pos) $\uparrow$}" in to_latex(table)
    # A part without such a head has one line of heads.
    assert to_text(table, width=59).split("\n")[6].split() == ["system", "n"]


def test_markdown(table):
    assert to_markdown(table).split("\n") == [
        "**Hosts & more**",
        "",
        r"| system | n | MAE ↓ | Non0\_acc\_2 ↑ |",
        "| --- | --: | :--: | :--: |",
        r"| Host & 50 % \<b>\_x\_ | 3 | *82.00* ± 2.00 | −1.50 |",  # noqa: RUF001
        r"| [1, 2] \| \* |  | +0.10 (.012) |  |",
        "| \N{EM SPACE}95 % interval |  | [\N{MINUS SIGN}1.00, 2.00] |  |",
        "| -id~1 | 2/3 | **79.00** ± 1.00 | **90.00** |",
        "",
        "mean ± std; **best**, *second best*.",
        "",
        "- seeds: n = 3",
        r"- data: Host; x\_y: a \| b\_c",
        "",
    ]


class TestLatex:
    def test_structure_and_marks(self, table):
        text = to_latex(table, label="tab:hosts_1")
        rows = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {3}
        begun, ended = (re.findall(rf"\\{word}{{(\w+)}}", text) for word in ("begin", "end"))
        assert sorted(begun) == sorted(ended)
        for once in (r"\toprule", r"\midrule", r"\bottomrule", r"\label{tab:hosts-1}", "{@{}lrcc"):
            assert text.count(once) == 1
        bare = re.sub(r"\\[{}]", "", text)
        assert bare.count("{") == bare.count("}")
        assert r"MAE $\downarrow$ & Non0\_acc\_2 $\uparrow$" in text
        assert r"\textbf{79.00} $\pm$ 1.00" in text
        assert r"\underline{82.00} $\pm$ 2.00 & $-$1.50" in text
        assert r"\quad 95 \% interval" in text
        assert r"\emph{data}: Host; x\_y: a $|$ b\_c\par" in text

    def test_special_characters_are_escaped(self, table):
        text = to_latex(table)
        assert r"Host \& 50 \% $<$b$>$\_x\_" in text
        assert not set("±†↑↓\N{MINUS SIGN}") & set(text)
        assert not [line for line in text.splitlines() if line.startswith(("[", "*"))]
        assert r"\label" not in text

    @pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
    def test_it_compiles(self, table, tmp_path):
        packages = r"\usepackage{booktabs,adjustbox}"
        page = rf"\documentclass{{article}}{packages}\begin{{document}}\input{{t}}\end{{document}}"
        (tmp_path / "page.tex").write_text(page, "utf-8")
        (tmp_path / "t.tex").write_text(to_latex(table, label="t"), "utf-8")
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        if "adjustbox.sty' not found" in done.stdout:
            pytest.skip("this LaTeX has no adjustbox")
        assert done.returncode == 0, done.stdout[-2000:]
        assert "Overfull \\hbox" not in done.stdout


class TestHtml:
    def test_fragment_and_page(self, table):
        fragment, page = to_html(table), to_html(table, page=True)
        assert fragment.startswith("<section")
        assert page.startswith("<!doctype html>")
        assert fragment.strip() in page
        assert HTML_STYLE in fragment
        assert "<style>" not in to_html(table, style=False)
        assert not re.search(r"(src|href)=", page)

    def test_table_can_be_read_aloud(self, table):
        page = Page(to_html(table, page=True))
        heads = [attributes.get("scope") for attributes in page.attributes("th")]
        assert heads == ["col"] * 4 + ["rowgroup", "rowgroup", "row", "rowgroup"]
        assert len(page.attributes("caption")) == 1
        labels = [a["aria-label"] for a in page.attributes("span") if a.get("role") == "img"]
        assert labels == ["lower is better", "higher is better"]
        assert page.attributes("abbr") == [{"title": "seeds that count"}]

    def test_text_is_escaped_and_marks_are_not(self, table):
        text = to_html(table)
        assert "Host &amp; 50 % &lt;b&gt;_x_" in text
        assert "<b>" not in text
        assert "<strong>79.00</strong> ± 1.00" in text
        assert "<u>82.00</u> ± 2.00" in text


def test_nothing_is_said_of_what_is_not_there():
    table = table_of(("a", "b"), [("x", "1")])
    assert to_text(table) == "a  b\n----\nx  1"
    assert to_markdown(table) == "| a | b |\n| --- | --: |\n| x | 1 |\n"


def test_a_frame_has_its_columns_and_digits():
    frame = pd.DataFrame({"name": ["x"], "n": [3], "value": [-0.12345], "none": [math.nan]})
    assert to_text(frame_table(frame)).splitlines()[2].split() == ["x", "3", "-0.123", "-"]


def test_each_text_is_said_once_with_its_rows():
    said = [("a", ["x", "x"]), ("b", ["x", "y"])]
    assert said_once("f", said) == [Fact("f", "x"), Fact("f", "y", ("b",))]
    assert said_once("f", said, named=True)[0] == Fact("f", "x", ("a", "b"))
    assert Fact("f", "x", ("a", "b")).said == "a; b: x"


def test_numbers_as_text():
    nan = math.nan
    assert [number(value) for value in (1.005, -0.001, None, nan)] == ["1.00", "0.00", "-", "-"]
    assert [x100(value, signed=True) for value in (0.1, -0.1, 1e-9)] == ["+10.00", "-10.00", "0.00"]
    assert mean_std(0.7, 0.01) == Cell("70.00", " ± 1.00")
    assert mean_std(0.7, nan, scale=1) == Cell("0.70")
    assert [interval(0.1, 0.2), interval(nan, nan)] == ["[10.00, 20.00]", "-"]
    p_values = {0.0004: "<.001", 0.001: ".001", 0.0426: ".043", 1.0: "1.000", nan: "no p"}
    assert [p_text(p) for p in p_values] == list(p_values.values())


class TestCsv:
    CELLS = ("=1+1", "+x", "-3g5yACwYnA$_$1", "@cmd", "\t=1", "\r=1", "\n=1")

    def test_a_text_that_begins_like_a_formula_gets_an_apostrophe(self):
        table = pd.DataFrame({"=head": self.CELLS, "n": range(7)})
        read = pd.read_csv(io.StringIO(csv_text(table), newline=""), dtype=str)
        assert list(read.columns) == ["'=head", "n"]
        assert list(read["'=head"]) == [f"'{cell}" for cell in self.CELLS]

    def test_numbers_and_other_texts_stay(self):
        cells = ["-1.5", "+2e3", "a=1", "'=1", "", "(1, 2)", "é", None]
        table = pd.DataFrame({"text": cells, "number": [-1.0, *range(7)]})
        assert csv_text(table) == table.to_csv(index=False, lineterminator="\n")

    def test_what_programs_read_is_exact(self):
        table = pd.DataFrame({"id": self.CELLS})
        read = pd.read_csv(io.StringIO(csv_text(table, exact=True), newline=""), dtype=str)
        assert tuple(read["id"]) == self.CELLS
