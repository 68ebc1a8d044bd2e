import numpy as np
import pytest

from MMSA_ext.records.store import StoreError
from MMSA_ext.reporting.comparison import compare
from MMSA_ext.reporting.figures import SweepPoint, robustness_figure, sweep_figure
from tests.reporting.figures.panels import overlapping_texts, panels

SIZES = (4, 8, 16, 32, 64)


@pytest.fixture
def make_row(make_system):
    def row(label, mae, seeds=(1, 2, 3), **more):
        scores = {"MAE": [mae + 0.01 * s for s in seeds], "Mult_acc_7": [0.4] * len(seeds)}
        return make_system(label, scores, seeds, **more)

    return row


@pytest.fixture
def sweep(make_row):
    rows = [make_row(f"p = {size}", 0.8 + size / 1000) for size in SIZES]
    rows += [make_row("Text only", 0.9, role="control")]
    return compare(rows, ["MAE", "Mult_acc_7"], title="Bottleneck tokens")


POINTS = [SweepPoint("DashFusion", size, f"p = {size}") for size in reversed(SIZES)]


def curve(axes, label=0):
    line = [
        line for line in axes.lines if len(line.get_xdata()) > 1 and line.get_marker() != "None"
    ]
    return list(line[label].get_xdata()), list(line[label].get_ydata())


class TestSweep:
    def test_means_and_intervals_stand_over_the_setting(self, sweep):
        figure = sweep_figure(POINTS, sweep, ["MAE"], "tokens p")
        axes = panels(figure)["MAE"]
        xs, ys = curve(axes)
        assert xs == list(SIZES)
        np.testing.assert_allclose(ys, [0.82 + size / 1000 for size in SIZES])
        numbers = sweep.numbers.set_index(["row", "metric"])
        ends = [segment[:, 1] for segment in axes.collections[0].get_segments()]
        expected = [numbers.loc[(f"p = {s}", "MAE"), ["ci_low", "ci_high"]] for s in SIZES]
        np.testing.assert_allclose(ends, np.array(expected, dtype=float))
        assert axes.get_xscale() == "log"
        assert list(axes.get_xticks()) == list(SIZES)
        assert axes.get_xlabel() == "tokens p"
        assert axes.get_ylabel() == "← lower is better"
        assert "test split: mean over 3 seeds" in figure.get_suptitle()

    def test_the_reference_is_a_line_with_a_band(self, sweep):
        figure = sweep_figure(POINTS, sweep, ["MAE"], "p", "Text only")
        (axes,) = figure.axes
        (line,) = (line for line in axes.lines if line.get_linestyle() == "--")
        np.testing.assert_allclose(line.get_ydata(), [0.92, 0.92])
        (band,) = axes.patches
        low, high = band.get_y(), band.get_y() + band.get_height()
        assert low < 0.92 < high
        legend = [text.get_text() for text in figure.legends[0].get_texts()]
        assert legend == ["DashFusion", "Text only"]

    def test_percent_and_a_panel_a_metric(self, sweep):
        figure = sweep_figure(POINTS, sweep, ["Mult_acc_7", "MAE"], "p")
        assert list(panels(figure)) == ["Acc-7, %", "MAE"]
        np.testing.assert_allclose(curve(figure.axes[0])[1], [40.0] * 5)

    def test_numbers_that_do_not_double_have_a_linear_axis(self, sweep):
        points = [SweepPoint("a", x, f"p = {p}") for x, p in ((0, 4), (1, 8), (2, 16))]
        (axes,) = sweep_figure(points, sweep, ["MAE"], "x").axes
        assert axes.get_xscale() == "linear"

    def test_a_row_without_runs_is_a_gap(self, make_row):
        rows = [make_row("p = 4", 0.8), make_row("p = 8", 0.8, seeds=()), make_row("p = 16", 0.9)]
        table = compare(rows, ["MAE"])
        points = [SweepPoint("a", p, f"p = {p}") for p in (4, 8, 16)]
        (axes,) = sweep_figure(points, table, ["MAE"], "p").axes
        assert np.isnan(curve(axes)[1]).tolist() == [False, True, False]

    def test_an_interval_that_leaves_the_panel_ends_in_an_arrow(self, make_row):
        rows = [make_row("p = 4", 0.8, seeds=(1, 2)), make_row("p = 8", 0.801, seeds=(1, 2))]
        points = [SweepPoint("a", p, f"p = {p}") for p in (4, 8)]
        (axes,) = sweep_figure(points, compare(rows, ["MAE"]), ["MAE"], "p").axes
        low, high = axes.get_ylim()
        arrows = {line.get_marker(): line.get_ydata() for line in axes.lines}
        assert list(arrows["v"]) == [low, low]
        assert list(arrows["^"]) == [high, high]

    def test_nothing_overlaps(self, sweep):
        for metrics in (["MAE"], ["MAE", "Mult_acc_7"]):
            label = "frames and tokens lost at test time (%)"
            figure = sweep_figure(POINTS, sweep, metrics, label, "Text only")
            assert overlapping_texts(figure) == []

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"points": [SweepPoint("a", 1, "p = 5")]}, "no row 'p = 5'; did you mean p = "),
            ({"points": [SweepPoint("a", 1, f"p = {p}") for p in (4, 8)]}, "two rows at 1"),
            ({"points": []}, "at least one row"),
            ({"metrics": ["MEA"]}, "no metric 'MEA'; did you mean MAE"),
            ({"metrics": []}, "one metric"),
            ({"reference": "Text"}, "no row 'Text'"),
        ],
    )
    def test_wrong_input_is_refused(self, sweep, change, text):
        given = {"points": POINTS, "comparison": sweep, "metrics": ["MAE"], "x_label": "p"}
        with pytest.raises(StoreError, match=text):
            sweep_figure(**given | change)

    def test_rows_that_have_not_run_are_refused(self, make_row):
        table = compare([make_row("p = 4", 0.8, seeds=()), make_row("b", 0.8)], ["MAE"])
        with pytest.raises(StoreError, match="run them first"):
            sweep_figure([SweepPoint("a", 4, "p = 4")], table, ["MAE"], "p")


class TestRobustness:
    RATES = (10, 30, 90)

    @pytest.fixture
    def rows(self, make_row):
        return [
            *(make_row(f"Self-MM {x}", 0.8 + x / 100) for x in self.RATES),
            *(make_row(f"InfoEnh {x}", 0.7 + x / 100) for x in self.RATES),
        ]

    def points(self, series):
        return [SweepPoint(series, x, f"{series} {x}") for x in self.RATES]

    def test_a_line_a_system_on_a_linear_axis(self, rows):
        points = [*self.points("Self-MM"), *self.points("InfoEnh")]
        figure = robustness_figure(points, compare(rows, ["MAE"]), ["MAE"], "% lost")
        (axes,) = figure.axes
        assert axes.get_xscale() == "linear"
        for index, start in enumerate((0.82, 0.72)):
            xs, ys = curve(axes, index)
            assert xs == list(self.RATES)
            np.testing.assert_allclose(ys, [start + x / 100 for x in self.RATES])
        looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in axes.lines}
        assert len({color for color, _, _ in looks}) == len({mark for _, _, mark in looks}) == 2

    def test_controls_are_grey_and_hollow(self, rows, make_row):
        rows += [make_row(f"Text only {x}", 0.9 + x / 100, role="control") for x in self.RATES]
        points = [*self.points("Self-MM"), *self.points("Text only")]
        figure = robustness_figure(points, compare(rows, ["MAE"]), ["MAE"], "% lost")
        (line,) = (one for one in figure.axes[0].lines if one.get_markerfacecolor() == "white")
        np.testing.assert_allclose(line.get_ydata(), [0.92 + x / 100 for x in self.RATES])
        legend = [text.get_text() for text in figure.legends[0].get_texts()]
        assert legend == ["Self-MM", "Text only (control)"]

    def test_a_control_with_one_row_holds_for_every_rate(self, rows, make_row):
        rows.append(make_row("Text only", 0.9, role="control"))
        points = [*self.points("Self-MM"), SweepPoint("Text only", 0, "Text only")]
        figure = robustness_figure(points, compare(rows, ["MAE"]), ["MAE"], "% lost")
        (axes,) = figure.axes
        (line,) = (line for line in axes.lines if line.get_linestyle() == "--")
        np.testing.assert_allclose(line.get_ydata(), [0.92, 0.92])
        assert list(axes.get_xticks()) == list(self.RATES)
