"""Lines of metrics against a number, which sweeps and robustness curves share."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from MMSA_ext.errors import suggest
from MMSA_ext.records.store import StoreError
from MMSA_ext.reporting.comparison import Comparison, lower_is_better
from MMSA_ext.reporting.figures.intervals import (
    Estimate,
    direction,
    estimates,
    heading,
    limits,
    unit,
    write_title,
)
from MMSA_ext.reporting.figures.style import (
    COLUMN_WIDTH,
    MARKERS,
    PAGE_WIDTH,
    SIZES,
    LineStyle,
    grid_shape,
    legend_columns,
    look,
    tidy,
)
from MMSA_ext.reporting.figures.wording import wrapped

_PANELS: Final = 3
_PANEL_HEIGHT: Final = 2.0
# Values that grow by doubling or faster stand at equal distances on a logarithmic axis.
_DOUBLING: Final = 2.0
# Points between the intervals of neighbouring series, which would hide each other.
_APART: Final = 2.2
_LEGEND_COLUMNS: Final = 34
_X_COLUMNS: Final = 30
_X_MARGIN: Final = 0.11
_GREY: Final = "0.35"
_CONTROL_STYLES: Final[tuple[LineStyle, ...]] = (":", "--", "-.")


@dataclass(frozen=True)
class SweepPoint:
    """Where a row of a comparison stands in a figure.

    Attributes:
        series: Line to which it belongs.
        x: Value of the setting, or the rate of what is lost.
        row: Label of the row.
    """

    series: str
    x: float
    row: str


@dataclass(frozen=True)
class _Look:
    color: str
    line: LineStyle
    marker: str
    filled: bool

    @property
    def style(self) -> dict[str, Any]:
        """Arguments of matplotlib's lines."""
        return {
            "color": self.color,
            "linestyle": self.line,
            "linewidth": 1.5,
            "marker": self.marker,
            "markerfacecolor": self.color if self.filled else "white",
            "markeredgecolor": "white" if self.filled else self.color,
            "markeredgewidth": 0.5 if self.filled else 1.0,
        }


def lines_figure(
    points: Sequence[SweepPoint],
    comparison: Comparison,
    metrics: Sequence[str],
    x_label: str,
    reference: str | None,
    *,
    logarithmic: bool,
) -> Figure:
    """Draw metrics against a number, one panel a metric, one line a series.

    Args:
        points: Rows on the lines.
        comparison: From `reporting.comparison.compare`; it has those rows.
        metrics: Which of its metrics.
        x_label: Name of the number.
        reference: Row drawn as a horizontal line with its interval as a band; None for no line.
        logarithmic: Whether numbers that double stand at equal distances.

    Returns:
        The figure.

    Raises:
        StoreError: There are no points or metrics, a row or metric is not in the comparison, a
            series has two rows at one place, or nothing has been run.
    """
    rows = _checked(points, comparison, metrics, reference)
    found = {metric: estimates(comparison, metric) for metric in metrics}
    drawn = [cells[row] for cells in found.values() for row in rows]
    if not any(math.isfinite(cell.mean) for cell in drawn):
        raise StoreError("none of the rows to draw has a finished run; run them first.")
    width = COLUMN_WIDTH if len(found) == 1 else PAGE_WIDTH
    below, beside = grid_shape(len(found), _PANELS)
    looks = _series_looks(points, comparison)
    figure = Figure(figsize=(width, 1.4 + _PANEL_HEIGHT * below), layout="constrained")
    grid = figure.subplots(below, beside, squeeze=False)
    places = sorted({point.x for point in points})
    for axes, (metric, cells) in zip(grid.flat, found.items(), strict=False):
        _draw_panel(axes, points, cells, looks, reference)
        _dress(axes, metric)
        _mark(axes, places, logarithmic=logarithmic and _doubles(places))
    for axes in grid.flat[len(found) :]:
        axes.set_axis_off()
    for index, axes in enumerate(list(grid.flat)[: len(found)]):
        if index + beside >= len(found):
            axes.set_xlabel(wrapped(x_label, _X_COLUMNS), fontsize=SIZES["label"])
    shown = [*dict.fromkeys(rows), *([reference] if reference else [])]
    numbers = [cells[row].n for cells in found.values() for row in shown]
    write_title(figure, heading(comparison, numbers))
    _legend(figure, looks, reference)
    return figure


def _checked(
    points: Sequence[SweepPoint],
    comparison: Comparison,
    metrics: Sequence[str],
    reference: str | None,
) -> list[str]:
    if not points or not metrics:
        raise StoreError("a sweep needs at least one row with series and x, and one metric.")
    known = list(comparison.rows)
    for row in [*(point.row for point in points), *([reference] if reference else [])]:
        if row not in known:
            raise StoreError(f"the comparison has no row {row!r}; {suggest(row, known)}")
    places = [(point.series, point.x) for point in points]
    if twice := sorted({place for place in places if places.count(place) > 1}):
        series, x = twice[0]
        raise StoreError(f"the series {series!r} has two rows at {x:g}; give each its own x.")
    return [point.row for point in points]


def _on(points: Sequence[SweepPoint], series: str) -> list[SweepPoint]:
    return sorted((p for p in points if p.series == series), key=lambda point: point.x)


def controls(points: Sequence[SweepPoint], comparison: Comparison) -> list[str]:
    """Name the series whose rows are all controls.

    Args:
        points: Rows on the lines.
        comparison: It has those rows.

    Returns:
        In the order in which the points name them.
    """
    roles = dict(zip(comparison.numbers["row"], comparison.numbers["role"], strict=True))
    series = dict.fromkeys(point.series for point in points)
    return [
        name
        for name in series
        if all(roles.get(point.row) == "control" for point in _on(points, name))
    ]


def _series_looks(points: Sequence[SweepPoint], comparison: Comparison) -> dict[str, _Look]:
    """Colour, line style and marker of each series; controls are grey and hollow."""
    grey = controls(points, comparison)
    colored = [name for name in dict.fromkeys(p.series for p in points) if name not in grey]
    looks = {
        name: _Look(*look(index), MARKERS[index % len(MARKERS)], True)
        for index, name in enumerate(colored)
    }
    for index, name in enumerate(grey):
        style = _CONTROL_STYLES[index % len(_CONTROL_STYLES)]
        looks[name] = _Look(_GREY, style, MARKERS[-1 - index % len(MARKERS)], False)
    return looks


def _draw_panel(
    axes: Axes,
    points: Sequence[SweepPoint],
    cells: Mapping[str, Estimate],
    looks: Mapping[str, _Look],
    reference: str | None,
) -> None:
    beside = [cells[reference]] if reference is not None else []
    axes.set_ylim(*limits([*(cells[point.row] for point in points), *beside]))
    for cell in beside:
        _draw_reference(axes, cell)
    for index, (series, drawn) in enumerate(looks.items()):
        place = index - (len(looks) - 1) / 2
        _draw_series(axes, _on(points, series), cells, drawn, place)


def _draw_reference(axes: Axes, cell: Estimate) -> None:
    if math.isfinite(cell.mean):
        axes.axhline(cell.mean, color=_GREY, linewidth=1.2, linestyle="--", zorder=1)
    if math.isfinite(cell.low):
        axes.axhspan(cell.low, cell.high, color="0.9", linewidth=0, zorder=0.5)


def _draw_series(
    axes: Axes,
    points: Sequence[SweepPoint],
    cells: Mapping[str, Estimate],
    drawn: _Look,
    place: float,
) -> None:
    x = np.array([point.x for point in points])
    means, lows, highs = (
        np.array([getattr(cells[point.row], name) for point in points])
        for name in ("mean", "low", "high")
    )
    # Series stand beside each other by some points, whatever the scale of the axis is.
    inches = axes.figure.dpi_scale_trans
    beside = axes.transData + ScaledTranslation(_APART * place / 72, 0, inches)
    axes.plot(x, means, transform=beside, **drawn.style, markersize=5)
    bottom, top = axes.get_ylim()
    there = np.isfinite(lows)
    axes.vlines(
        x[there],
        np.maximum(lows[there], bottom),
        np.minimum(highs[there], top),
        color=drawn.color,
        linewidth=1.1,
        alpha=0.8,
        transform=beside,
    )
    for cut, at, marker in ((lows < bottom, bottom, "v"), (highs > top, top, "^")):
        if cut.any():
            ys = np.full(cut.sum(), at)
            (arrows,) = axes.plot(x[cut], ys, marker, color=drawn.color, markersize=3.5, mew=0)
            arrows.set_clip_on(False)
            arrows.set_transform(beside)


def _dress(axes: Axes, metric: str) -> None:
    tidy(axes)
    axes.set_title(unit(metric)[0], fontsize=SIZES["label"], loc="left")
    # Turned by a quarter, an arrow to the right points up.
    better = direction(metric)
    text = f"← {better}" if lower_is_better(metric) else f"{better} →"
    axes.set_ylabel(text, fontsize=SIZES["tick"])


def _mark(axes: Axes, places: Sequence[float], *, logarithmic: bool) -> None:
    """Name the drawn numbers on the axis, and no others."""
    low, high = places[0], places[-1]
    if logarithmic:
        axes.set_xscale("log", base=2)
        margin = (high / low) ** _X_MARGIN
        axes.set_xlim(low / margin, high * margin)
    else:
        room = _X_MARGIN * (high - low) or 1.0
        axes.set_xlim(low - room, high + room)
    axes.xaxis.set_major_locator(FixedLocator(list(places)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _doubles(places: Sequence[float]) -> bool:
    if len(places) < 3 or places[0] <= 0:
        return False
    return all(b / a >= _DOUBLING for a, b in pairwise(places))


def _legend(figure: Figure, looks: Mapping[str, _Look], reference: str | None) -> None:
    handles = []
    for series, drawn in looks.items():
        text = wrapped(series if drawn.filled else f"{series} (control)", _LEGEND_COLUMNS)
        handles.append(Line2D([], [], **drawn.style, markersize=5, label=text))
    if reference is not None:
        text = wrapped(reference, _LEGEND_COLUMNS)
        handles.append(Line2D([], [], color=_GREY, linestyle="--", linewidth=1.2, label=text))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=legend_columns(figure.get_figwidth(), [str(line.get_label()) for line in handles]),
        fontsize=SIZES["legend"],
        frameon=False,
        handlelength=3,
    )
