"""What the lines of a comparison's table say; how formats write them is tested with `render`."""

from dataclasses import replace

import pytest

from MMSA_ext.reporting import render
from MMSA_ext.reporting.comparison import PublishedNumber, SystemRuns, compare
from MMSA_ext.reporting.comparison_table import comparison_table, paper_table, write_comparison
from MMSA_ext.reporting.statistics import StatisticsError

METRICS = ["MAE", "Corr", "Non0_acc_2"]
SCORES = {
    "Host": [(0.80, 0.70, 0.80), (0.82, 0.72, 0.82), (0.84, 0.74, 0.81)],
    "Other": [(0.78, 0.71, 0.84), (0.79, 0.74, 0.83), (0.80, 0.75, 0.85)],
    "Random gates": [(0.90, None, 0.70), (0.91, 0.40, 0.72)],
}
PRINTED = PublishedNumber(0.709, "†", "A, Table 1 (100 % of all)")


@pytest.fixture
def comparison(make_system, make_diverged_record):
    host, other, random = (
        make_system(
            label,
            dict(zip(METRICS, zip(*scores, strict=True), strict=True)),
            tuple(range(1, len(scores) + 1)),
            published={"MAE": PRINTED} if label == "Host" else {},
            role="control" if label == "Random gates" else "system",
        )
        for label, scores in SCORES.items()
    )
    diverged = make_diverged_record(model="self_mm", seed=3)
    random = replace(random, records=(*random.records, diverged), seeds=(1, 2, 3))
    never = SystemRuns("Never run", "", (), (), {"MAE": PRINTED})
    systems = [host, other, random, never]
    return compare(systems, METRICS, baseline="Host", title="Hosts & more")


def lines(table):
    """Every line as texts, with marks in front of what they mark."""
    return [
        [cell if isinstance(cell, str) else cell.mark + cell.text + cell.rest for cell in row.cells]
        for row in table.rows
    ]


def test_a_system_has_up_to_four_lines(comparison):
    table = comparison_table(comparison)
    assert table.caption == "Hosts & more. mosi, test split"
    assert [column.head for column in table.columns] == [
        "system", "n", "MAE ↓", "Corr ↑", "Acc-2\n(neg/pos) ↑",
    ]  # fmt: skip
    found = lines(table)
    assert found[:3] == [
        ["Host (baseline)", "3", "second82.00 ± 2.00", "second72.00 ± 2.00", "second81.00 ± 1.00"],
        ["95 % interval", "", "[77.03, 86.97]", "[67.03, 76.97]", "[78.52, 83.48]"],
        ["printed †", "", "70.90", "", ""],
    ]
    assert found[3][:3] == ["Other", "3", "best79.00 ± 1.00"]
    assert found[5][0] == "difference (p)"
    assert found[5][2].startswith("-3.00 (")
    assert found[6] == ["Random gates (control)", "2/3", "90.50 ± 0.71", "40.00 (n=1)",
                        "71.00 ± 1.41"]  # fmt: skip
    assert found[8][2].startswith("+9.50 (")
    assert found[9:] == [["Never run", "", "", "", ""], ["printed †", "", "70.90", "", ""]]
    assert [row.detail for row in table.rows][:4] == [False, True, True, False]


def test_lines_can_be_left_out(comparison):
    table = comparison_table(comparison, details=("printed",))
    assert [line[0] for line in lines(table) if "printed" not in line[0]] == [
        "Host (baseline)", "Other", "Random gates (control)", "Never run",
    ]  # fmt: skip
    assert table.legend.endswith(
        "over n seeds, all metrics x100; printed: the paper's number, of other settings"
    )


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "html"])
def test_numbers_stand_with_what_they_depend_on(comparison, form):
    text = getattr(render, f"to_{form}")(comparison_table(comparison))
    plain = " ".join(text.replace("\\_", "_").split())
    for fact in (
        *("sample, divisor n - 1", "n = 3", "n = 2 of 3 planned", "non-finite in epoch 3", "Holm"),
        *("lowest validation Loss, patience 8", "2.20GHz", "a control, not a system"),
        *("Table 1 (100", "sha256 a3a3a3a3a3a3"),
    ):
        assert fact in plain


def test_each_line_names_the_row_it_is_compared_with_where_they_differ(make_system):
    rows = [
        make_system("A", {"MAE": (0.51, 0.54, 0.59)}, compared_with=None),
        make_system("B", {"MAE": (0.61, 0.65, 0.69)}, compared_with="A"),
        make_system("C", {"MAE": (0.71, 0.74, 0.79)}, compared_with="B"),
    ]
    table = comparison_table(compare(rows, ["MAE"]))
    heads = [line[0] for line in lines(table)]
    assert [head for head in heads if head.startswith("difference")] == [
        "difference to A (p)", "difference to B (p)",
    ]  # fmt: skip
    assert "difference to the row named in the line (corrected p)" in table.legend
    assert not any("baseline" in head for head in heads)


def test_a_control_may_be_the_baseline(make_system):
    row = make_system("Text", {"MAE": (0.5,)}, (1,), role="control")
    found = comparison_table(compare([row], ["MAE"], baseline="Text"))
    assert found.rows[0].cells[0] == "Text (control, baseline)"


def test_a_table_without_runs_is_still_a_table():
    systems = [SystemRuns(label, label, (), (1, 2)) for label in "ab"]
    empty = compare(systems, ["MAE"], baseline="a", dataset="mosi")
    assert lines(comparison_table(empty)) == [["a (baseline)", "0/2", "-"], ["b", "0/2", "-"]]


def test_files_are_named_and_returned(comparison, tmp_path):
    paths = write_comparison(comparison, tmp_path / "new", "hosts-mosi")
    assert [path.name for path in paths] == [
        f"hosts-mosi.{ending}" for ending in ("csv", "md", "tex", "html")
    ]
    assert paths[0].read_text("utf-8") == render.csv_text(comparison.numbers)
    assert r"\label{tab:hosts-mosi}" in paths[2].read_text("utf-8")
    assert paths[3].read_text("utf-8").startswith("<!doctype html>")
    (text,) = write_comparison(comparison, tmp_path, "hosts_mosi", ["txt"])
    assert text.read_text("utf-8") == render.to_text(comparison_table(comparison)) + "\n"


def test_an_unknown_format_writes_nothing(comparison, tmp_path):
    with pytest.raises(StatisticsError, match="no table format 'docx'; known: csv"):
        write_comparison(comparison, tmp_path, "t", ["csv", "docx"])
    assert list(tmp_path.iterdir()) == []


def test_papers_print_one_line_a_system(comparison):
    table = paper_table(comparison)
    assert [column.head for column in table.columns] == [
        "Model",
        "Acc-2\n(neg/pos) ↑",
        "MAE ↓",
        "Corr ↑",
    ]
    assert lines(table) == [
        ["Host", "second81.00 ± 1.00", "second0.820 ± 0.020", "second0.720 ± 0.020"],
        ["Other", "best84.00 ± 1.00", "best0.790 ± 0.010", "best0.733 ± 0.021"],
        ["Random gates", "71.00 ± 1.41", "0.905 ± 0.007", "0.400"],
        ["Never run", "-", "-", "-"],
    ]
    assert table.caption.endswith("over 1 to 3 seeds, mosi, test split")
    for form in ("text", "markdown", "latex", "html"):
        text = getattr(render, f"to_{form}")(table)
        assert not any(said in text for said in ("95 %", "minilm", "bold", "best,", "sha256"))
    assert "minipage" not in render.to_latex(table)
    means = lines(paper_table(comparison, spread=False))
    assert means[0] == ["Host", "second81.00", "second0.820", "second0.720"]


def test_what_papers_print_alike_is_marked_alike(make_system):
    scores = (("a", 0.7092), ("b", 0.7094), ("c", 0.8))
    systems = [make_system(label, {"MAE": (mae,)}, (1,)) for label, mae in scores]
    table = paper_table(compare(systems, ["MAE"]))
    assert [line[1] for line in lines(table)] == ["best0.709", "best0.709", "0.800"]
    assert "over 1 seed," in table.caption


def test_papers_have_one_accuracy_of_many_classes(make_record):
    def heads(dataset):
        run = make_record(dataset=dataset, seed=1, epochs=1)
        found = compare([SystemRuns("a", "a", (run,), (1,))], list(run.metrics["test"]))
        return [column.name.replace("\n", " ") for column in paper_table(found).columns[1:]]

    assert heads("mosi") == [
        *("Acc-2 (neg/non-neg)", "Acc-2 (neg/pos)", "F1 (neg/non-neg)", "F1 (neg/pos)"),
        *("Acc-7", "MAE", "Corr"),
    ]
    assert heads("sims") == ["Acc-2", "F1", "Acc-3", "Acc-5", "MAE", "Corr"]
