"""Metrics against a number: a setting (DashFusion's Fig. 4), or what is lost of the frames."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from MMSA_ext.errors import suggest
from MMSA_ext.records.store import StoreError
from MMSA_ext.reporting.comparison import Comparison
from MMSA_ext.reporting.figures.intervals import (
    Estimate,
    direction,
    estimates,
    limits,
    unit,
    write_heading,
)
from MMSA_ext.reporting.figures.style import (
    COLUMN_WIDTH,
    MARKERS,
    PAGE_WIDTH,
    TICK,
    entry,
    grid_shape,
    house_style,
    legend_below,
    look,
    panels,
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
_REFERENCE: Final[dict[str, Any]] = {"color": _GREY, "linewidth": 1.2}
_CONTROL_STYLES: Final = (":", "--", "-.")


class SweepPoint(NamedTuple):
    """Where a row of a comparison stands in a figure.

    Attributes:
        series: Line to which it belongs.
        x: Value of the setting, or the rate of what is lost.
        row: Label of the row.
    """

    series: str
    x: float
    row: str


@house_style()
def sweep_figure(
    points: Sequence[SweepPoint],
    comparison: Comparison,
    metrics: Sequence[str],
    x_label: str,
    reference: str | None = None,
    *,
    doubling: bool = True,
) -> Figure:
    """Draw metrics against a setting, one panel a metric and one line a series.

    Means over seeds with the t-interval of the mean; intervals of several series stand beside each
    other, and one that leaves the panel ends in an arrow. Series whose rows are all controls are
    grey, with hollow markers.

    Args:
        points: Rows on the lines.
        comparison: From `reporting.comparison.compare`; it has those rows.
        metrics: Which of its metrics.
        x_label: Name of the setting.
        reference: Row drawn as a horizontal line with its interval as a band; None for no line.
        doubling: Put values that double, or grow faster, on a logarithmic axis.

    Raises:
        StoreError: There are no points or metrics, a row or metric is not in the comparison, a
            series has two rows at one place, or nothing has been run.
    """
    rows = _checked(points, comparison, metrics, reference)
    found = {metric: estimates(comparison, metric) for metric in metrics}
    if not any(math.isfinite(cells[row].mean) for cells in found.values() for row in rows):
        raise StoreError("none of the rows to draw has a finished run; run them first.")
    width = COLUMN_WIDTH if len(found) == 1 else PAGE_WIDTH
    below, beside = grid_shape(len(found), _PANELS)
    styles = _styles(points, comparison)
    figure = Figure(figsize=(width, 1.4 + _PANEL_HEIGHT * below))
    shown = panels(figure, len(found), (below, beside))
    places = sorted({point.x for point in points})
    for axes, (metric, cells) in zip(shown, found.items(), strict=True):
        _draw_panel(axes, points, cells, styles, reference)
        axes.set_title(unit(metric)[0])
        # Turned by a quarter, an arrow to the right points up.
        axes.set_ylabel(direction(metric), fontsize=TICK)
        _mark(axes, places, logarithmic=doubling and _doubles(places))
    for axes in shown[-beside:]:
        axes.set_xlabel(wrapped(x_label, _X_COLUMNS))
    drawn = [*dict.fromkeys(rows), *([reference] if reference else [])]
    write_heading(figure, comparison, [cells[row].n for cells in found.values() for row in drawn])
    handles = []
    for name, style in styles.items():
        text = name if style["mfc"] != "white" else f"{name} (control)"
        handles.append(Line2D([], [], label=wrapped(text, _LEGEND_COLUMNS), **style))
    if reference is not None:
        handles.append(entry(wrapped(reference, _LEGEND_COLUMNS), line="--", **_REFERENCE))
    legend_below(figure, handles, width, handlelength=3)
    return figure


def robustness_figure(
    points: Sequence[SweepPoint], comparison: Comparison, metrics: Sequence[str], x_label: str
) -> Figure:
    """Draw metrics against what is lost of frames and tokens (docs/data.md).

    As `sweep_figure`, with its arguments and errors, on a linear axis; `x` is the rate of lost
    frames or the strength of noise. A control with a single row, such as the text-only model where
    only audio and vision are lost, holds for every rate: it is drawn as a horizontal line.
    """
    sizes = Counter(point.series for point in points)
    single = [series for series in _controls(points, comparison) if sizes[series] == 1][:1]
    reference = next((point.row for point in points if point.series in single), None)
    curves = [point for point in points if point.series not in single]
    return sweep_figure(curves, comparison, metrics, x_label, reference, doubling=False)


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
    places = Counter((point.series, point.x) for point in points)
    if twice := sorted(place for place, count in places.items() if count > 1):
        series, x = twice[0]
        raise StoreError(f"the series {series!r} has two rows at {x:g}; give each its own x.")
    return [point.row for point in points]


def _controls(points: Sequence[SweepPoint], comparison: Comparison) -> list[str]:
    """The series whose rows are all controls, in the order in which the points name them."""
    roles = dict(zip(comparison.numbers["row"], comparison.numbers["role"], strict=True))
    others = {point.series for point in points if roles.get(point.row) != "control"}
    return [name for name in dict.fromkeys(p.series for p in points) if name not in others]


def _styles(points: Sequence[SweepPoint], comparison: Comparison) -> dict[str, dict[str, Any]]:
    """Arguments of each series' line; controls are grey and hollow."""
    grey = _controls(points, comparison)
    colored = [name for name in dict.fromkeys(p.series for p in points) if name not in grey]
    styles: dict[str, dict[str, Any]] = {}
    for index, name in enumerate(colored):
        color, line = look(index)
        marker = MARKERS[index % len(MARKERS)]
        styles[name] = {"color": color, "linestyle": line, "marker": marker, "mec": "white"}
        styles[name] |= {"mfc": color, "mew": 0.5, "markersize": 5}
    for index, name in enumerate(grey):
        line = _CONTROL_STYLES[index % len(_CONTROL_STYLES)]
        marker = MARKERS[-1 - index % len(MARKERS)]
        styles[name] = {"color": _GREY, "linestyle": line, "marker": marker, "mec": _GREY}
        styles[name] |= {"mfc": "white", "mew": 1.0, "markersize": 5}
    return styles


def _draw_panel(
    axes: Axes,
    points: Sequence[SweepPoint],
    cells: Mapping[str, Estimate],
    styles: Mapping[str, dict[str, Any]],
    reference: str | None,
) -> None:
    beside = [cells[reference]] if reference is not None else []
    axes.set_ylim(*limits([*(cells[point.row] for point in points), *beside]))
    for cell in beside:
        if math.isfinite(cell.mean):
            axes.axhline(cell.mean, linestyle="--", zorder=1, **_REFERENCE)
        if math.isfinite(cell.low):
            axes.axhspan(cell.low, cell.high, color="0.9", linewidth=0, zorder=0.5)
    for index, (series, style) in enumerate(styles.items()):
        on = sorted((p for p in points if p.series == series), key=lambda point: point.x)
        shift = _APART * (index - (len(styles) - 1) / 2)
        _draw_series(axes, [p.x for p in on], [cells[p.row] for p in on], style, shift)


def _draw_series(
    axes: Axes,
    places: Sequence[float],
    cells: Sequence[Estimate],
    style: dict[str, Any],
    shift: float,
) -> None:
    x = np.array(places)
    lows, highs = np.array([cell.low for cell in cells]), np.array([cell.high for cell in cells])
    # Series stand beside each other by some points, whatever the scale of the axis is.
    beside = axes.transData + ScaledTranslation(shift / 72, 0, axes.figure.dpi_scale_trans)
    axes.plot(x, [cell.mean for cell in cells], transform=beside, **style)
    bottom, top = axes.get_ylim()
    there = np.isfinite(lows)
    ends = np.maximum(lows[there], bottom), np.minimum(highs[there], top)
    color = style["color"]
    axes.vlines(x[there], *ends, color=color, linewidth=1.1, alpha=0.8, transform=beside)
    for cut, at, marker in ((lows < bottom, bottom, "v"), (highs > top, top, "^")):
        if cut.any():
            ys = np.full(cut.sum(), at)
            (arrows,) = axes.plot(x[cut], ys, marker, color=color, markersize=3.5, mew=0)
            arrows.set_clip_on(False)
            arrows.set_transform(beside)


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
