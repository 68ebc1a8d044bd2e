"""Systems beside each other: means, intervals and seeds by metric, and what papers print."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

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
    BLACK,
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

PUBLISHED: Final[dict[str, Any]] = {
    "color": BLACK,
    "marker": "d",
    "markerfacecolor": "white",
    "markersize": 5.5,
}
HOLLOW: Final[dict[str, Any]] = {"markerfacecolor": "white", "mew": 1.2}
BASELINE: Final[dict[str, Any]] = {"color": "0.35", "linewidth": 1}
_LABEL_COLUMNS: Final = 28
# Inches: of a panel at least, of the column of labels, of a row at least, of a line of a label.
_PANEL, _LABELS, _ROW, _LINE = 1.55, 1.9, 0.25, 0.145


@house_style()
def comparison_figure(comparison: Comparison, width: float = PAGE_WIDTH) -> Figure:
    """Draw a comparison table: a panel a metric, a row a system.

    Each row has the mean as a dot, the t-interval of the mean as a line, which ends in an arrow
    where it leaves the panel, and single seeds as ticks. The dashed line is the baseline's mean.
    Hollow diamonds are what papers print, of other settings. Accuracies and F1 scores are in
    percent, MAE and the correlation as they are. Each row has the colour that it has in
    `curves_overview`, and a marker of its own; that of a control is hollow.

    Args:
        comparison: From `reporting.comparison.compare`.
        width: Inches; `COLUMN_WIDTH` for one column of a two-column paper. Panels that do not fit
            beside each other stand below each other.

    Raises:
        StoreError: There is no number to draw.
    """
    columns = {metric: estimates(comparison, metric) for metric in comparison.metrics}
    cells = [cell for column in columns.values() for cell in column.values()]
    if not any(math.isfinite(cell.mean) or math.isfinite(cell.published) for cell in cells):
        raise StoreError(
            f"the comparison on {comparison.dataset or 'no data set'} has no number to draw; "
            "run its rows first."
        )
    first = columns[comparison.metrics[0]]
    labels = [_label(row, first[row]) for row in comparison.rows]
    row = max(_ROW, _LINE * (0.3 + max(1 + label.count("\n") for label in labels)))
    shape = grid_shape(len(columns), max(1, int((width - _LABELS) // _PANEL)))
    figure = Figure(figsize=(width, 1.0 + shape[0] * (0.7 + row * len(labels))))
    shown = panels(figure, len(columns), shape, sharey=True)
    for axes, (metric, column) in zip(shown, columns.items(), strict=True):
        _draw_panel(axes, metric, column, comparison.baseline)
    shown[0].set_yticks(range(len(labels)), labels)
    shown[0].set_ylim(len(labels) - 0.4, -0.6)
    write_heading(figure, comparison, [cell.n for cell in cells])
    handles = _legend(comparison.baseline, cells)
    legend_below(figure, handles, width, handletextpad=0.5, columnspacing=1.2)
    return figure


def _label(row: str, cell: Estimate) -> str:
    marks: list[str] = [cell.role] if cell.role != "system" else []
    marks += [f"{cell.diverged} diverged"] if cell.diverged else []
    text = f"{row} ({', '.join(marks)})" if marks else row
    # What sets a row apart begins a line of its own.
    parts = row.replace(" (", "\n(", 1) + text.removeprefix(row)
    lines = [text] if len(text) <= _LABEL_COLUMNS else parts.split("\n")
    return "\n".join(wrapped(line, _LABEL_COLUMNS) for line in lines)


def _draw_panel(
    axes: Axes, metric: str, column: Mapping[str, Estimate], baseline: str | None
) -> None:
    low, high = limits(column.values())
    axes.set_xlim(low, high)
    if baseline is not None and math.isfinite(column[baseline].mean):
        axes.axvline(column[baseline].mean, linestyle="--", zorder=1, **BASELINE)
    for y, cell in enumerate(column.values()):
        _draw_row(axes, y, cell)
    axes.set_title(unit(metric)[0])
    axes.set_xlabel(direction(metric), fontsize=TICK)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, min_n_ticks=2))
    axes.grid(visible=True, axis="both")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _draw_row(axes: Axes, y: int, cell: Estimate) -> None:
    color, marker = look(y)[0], MARKERS[y % len(MARKERS)]
    if math.isfinite(cell.low):
        _draw_interval(axes, y, cell, color)
    if cell.seeds:
        ys = [y + 0.25] * len(cell.seeds)
        axes.plot(cell.seeds, ys, "|", color=color, markersize=4.5, mew=1.0)
    if math.isfinite(cell.mean):
        edge = HOLLOW if cell.role == "control" else {"mec": "white", "mew": 0.5}
        axes.plot([cell.mean], [y], marker, color=color, markersize=5.5, **edge)
    elif not math.isfinite(cell.published):
        reason = "diverged" if cell.diverged else "no value"
        beside = axes.get_yaxis_transform()
        axes.text(0.02, y, reason, transform=beside, fontsize=TICK, color="0.35", va="center")
    if math.isfinite(cell.published):
        axes.plot([cell.published], [y], linestyle="", mew=1.1, zorder=4, **PUBLISHED)


def _draw_interval(axes: Axes, y: int, cell: Estimate, color: str) -> None:
    """Draw the interval, and an arrow at each edge of the panel that it crosses."""
    low, high = axes.get_xlim()
    ends = [max(cell.low, low), min(cell.high, high)]
    axes.plot(ends, [y, y], color=color, linewidth=1.5, solid_capstyle="butt")
    for cut, at, marker in ((cell.low < low, low, "<"), (cell.high > high, high, ">")):
        if cut:
            axes.plot([at], [y], marker, color=color, markersize=4, mew=0, clip_on=False)


def _legend(baseline: str | None, cells: Sequence[Estimate]) -> list[Line2D]:
    handles = []
    if any(cell.role == "control" and cell.n for cell in cells):
        handles.append(entry("control (hollow)", "0.35", "o", markersize=5.5, **HOLLOW))
    if baseline is not None:
        handles.append(entry(wrapped(f"mean of {baseline}", _LABEL_COLUMNS), line="--", **BASELINE))
    if any(cell.seeds for cell in cells):
        handles.append(entry("one seed", "0.35", "|", markersize=5))
    if any(math.isfinite(cell.published) for cell in cells):
        handles.append(entry("printed in the paper\n(other settings)", **PUBLISHED))
    return handles
