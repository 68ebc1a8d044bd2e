import dataclasses

import numpy as np
import pytest

from MMSA_ext.records.store import StoreError
from MMSA_ext.reporting.comparison import SystemRuns, compare
from MMSA_ext.reporting.figures import comparison_figure
from MMSA_ext.reporting.figures.style import COLUMN_WIDTH, MARKERS, look
from tests.reporting.figures.panels import marked, overlapping_texts, panels


def row_labels(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def intervals(axes):
    """By row, the ends of its horizontal line."""
    lines = [line for line in axes.lines if line.get_linestyle() == "-" and len(line.get_xdata())]
    lines = [line for line in lines if line.get_marker() == "None"]
    return {line.get_ydata()[0]: list(line.get_xdata()) for line in lines}


@pytest.fixture
def figure(comparison):
    return comparison_figure(comparison)


@pytest.fixture
def shown(figure):
    return panels(figure)


def test_a_panel_a_metric_and_a_row_a_system(shown):
    assert set(shown) == {"MAE", "Acc-7, %"}
    assert row_labels(shown["MAE"]) == [
        "Text only (control)",
        "Self-MM (baseline)",
        "TFN (1 diverged)",
        "MISA",
    ]
    bottom, top = shown["MAE"].get_ylim()
    assert bottom > 3
    assert top < 0
    for axis in (shown["MAE"].xaxis, shown["MAE"].yaxis):
        assert all(line.get_visible() for line in axis.get_gridlines())


def test_each_row_has_a_colour_and_a_marker_of_its_own(shown):
    """A control, the baseline and a system; a control is hollow."""
    for row, mean in enumerate((0.87, 0.82, 0.915)):
        (line,) = (line for line in shown["MAE"].lines if line.get_marker() == MARKERS[row])
        assert line.get_color() == look(row)[0]
        assert (line.get_markerfacecolor() == "white") == (row == 0)
        np.testing.assert_allclose([line.get_xdata(), line.get_ydata()], [[mean], [row]])


def test_accuracies_are_in_percent(shown):
    (points,) = marked(shown["Acc-7, %"], MARKERS[1])
    np.testing.assert_allclose(points, [(42.0, 1)])


def test_intervals_are_those_of_the_comparison(shown, comparison):
    numbers = comparison.numbers.set_index(["row", "metric"])
    found = intervals(shown["MAE"])
    for y, row in ((0, "Text only"), (1, "Self-MM")):
        line = numbers.loc[(row, "MAE")]
        np.testing.assert_allclose(found[y], [line["ci_low"], line["ci_high"]])


def test_seeds_are_ticks(shown):
    ticks = marked(shown["MAE"], "|")
    assert [len(seeds) for seeds in ticks] == [3, 3, 2]
    np.testing.assert_allclose([x for x, _ in ticks[1]], [0.81, 0.82, 0.83])


def test_printed_numbers_are_hollow(shown):
    lines = [line for line in shown["MAE"].lines if line.get_marker() == "d"]
    assert [line.get_xdata()[0] for line in lines] == [0.7, 0.7]
    assert [line.get_ydata()[0] for line in lines] == [1, 3]
    assert {line.get_markerfacecolor() for line in lines} == {"white"}


def test_a_row_without_any_number_says_so(shown):
    assert [text.get_text() for text in shown["Acc-7, %"].texts] == ["no value"]
    assert not shown["MAE"].texts


def test_the_baseline_is_a_line(shown):
    (line,) = (line for line in shown["MAE"].lines if line.get_linestyle() == "--")
    np.testing.assert_allclose(line.get_xdata(), [0.82, 0.82])


def test_direction_n_split_and_legend_are_said(shown, figure):
    assert shown["MAE"].get_xlabel() == "← lower is better"
    assert shown["Acc-7, %"].get_xlabel() == "higher is better →"
    title = figure.get_suptitle()
    assert "Four systems: mosi" in title
    assert "test split: mean over 2 to 3 seeds and 95 % t-interval" in title
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [
        "control (hollow)",
        "mean of Self-MM",
        "one seed",
        "printed in the paper\n(other settings)",
    ]


def test_an_interval_that_leaves_the_panel_ends_in_an_arrow(make_system):
    system = make_system("Self-MM", {"MAE": (0.80, 0.90)}, (1, 2))
    (axes,) = comparison_figure(compare([system], ["MAE"])).axes
    low, high = axes.get_xlim()
    assert 0.6 < low < 0.75
    assert 0.95 < high < 1.1
    assert marked(axes, "<") == [[(low, 0)]]
    assert marked(axes, ">") == [[(high, 0)]]
    assert intervals(axes)[0] == [low, high]


def test_one_seed_has_no_interval_and_the_title_says_none(make_system):
    system = make_system("Self-MM", {"MAE": (0.8,)}, (1,))
    figure = comparison_figure(compare([system], ["MAE"]))
    assert not intervals(figure.axes[0])
    assert figure.get_suptitle().endswith("test split: mean over 1 seed")


def test_a_comparison_without_single_seeds_is_drawn(comparison):
    bare = dataclasses.replace(comparison, seed_values={})
    assert not marked(comparison_figure(bare).axes[0], "|")


@pytest.mark.parametrize("width", [COLUMN_WIDTH, 7.2])
def test_nothing_overlaps_in_one_column_or_two(make_system, width):
    names = ["Self-MM + InfoEnh, random gates", "ConFEDE", "Text only, 90 % of the frames lost"]
    scores = dict.fromkeys(["MAE", "Corr", "Has0_acc_2", "Mult_acc_7"], (0.78, 0.8, 0.79))
    systems = [make_system(name, scores) for name in names]
    table = compare(systems, list(scores), baseline="ConFEDE", title="A title of some length " * 3)
    figure = comparison_figure(table, width)
    assert overlapping_texts(figure) == []
    assert figure.get_figwidth() == width


def test_nothing_to_draw_is_refused(make_diverged_record):
    system = SystemRuns("Self-MM", "self_mm", (make_diverged_record(seed=1),), (1,), {})
    with pytest.raises(StoreError, match="no number to draw"):
        comparison_figure(compare([system], ["MAE"]))
