"""Systems beside each other: means, intervals and seeds by metric, and what papers print."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from MMSA_ext.records.store import StoreError
from MMSA_ext.reporting.comparison import Comparison, Role, lower_is_better
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
    BLACK,
    BLUE,
    FORMATS,
    GREEN,
    PAGE_WIDTH,
    SIZES,
    VERMILLION,
    cjk_fonts,
    grid_shape,
    legend_columns,
    save,
    tidy,
)
from MMSA_ext.reporting.figures.wording import wrapped

# By role of a row: colour, marker and the legend's words.
LOOKS: Final[Mapping[Role, tuple[str, str, str]]] = {
    "system": (BLUE, "o", "system"),
    "baseline": (BLACK, "D", "baseline"),
    "control": (VERMILLION, "s", "control"),
}
PUBLISHED: Final[dict[str, Any]] = {
    "color": GREEN,
    "marker": "d",
    "markerfacecolor": "white",
    "linestyle": "",
}
BASELINE: Final[dict[str, Any]] = {"color": "0.35", "linewidth": 1, "linestyle": "--"}
_LABEL_COLUMNS: Final = 24
# Inches: of a panel at least, of the column of labels, of a row at least, of a line of a label.
_PANEL, _LABELS, _ROW, _LINE = 1.55, 1.7, 0.25, 0.145


def comparison_figure(
    comparison: Comparison,
    path: str | os.PathLike[str],
    formats: Sequence[str] = FORMATS,
    *,
    width: float = PAGE_WIDTH,
) -> list[Path]:
    """Draw a comparison table: a panel a metric, a row a system.

    Each row has the mean as a dot, the t-interval of the mean as a line, which ends in an arrow
    where it leaves the panel, and single seeds as ticks. The dashed line is the baseline's mean.
    Hollow diamonds are what papers print, of other settings. Accuracies and F1 scores are in
    percent, MAE and the correlation as they are. Controls and the baseline have markers of their
    own.

    Args:
        comparison: From `reporting.comparison.compare`.
        path: Target without its ending; an ending that names one of `formats` is dropped.
        formats: File formats, each one file.
        width: Inches; `COLUMN_WIDTH` for one column of a two-column paper. Panels that do not fit
            beside each other stand below each other.

    Returns:
        The files written.

    Raises:
        StoreError: There is no number to draw, or matplotlib cannot write one of the formats.
    """
    columns = {metric: estimates(comparison, metric) for metric in comparison.metrics}
    cells = [cell for column in columns.values() for cell in column.values()]
    if not any(math.isfinite(cell.mean) or math.isfinite(cell.published) for cell in cells):
        raise StoreError(
            f"the comparison on {comparison.dataset or 'no data set'} has no number to draw; "
            "run its rows first."
        )
    with cjk_fonts():
        return save(_draw(comparison, columns, width), path, formats)


def _draw(
    comparison: Comparison, columns: Mapping[str, Mapping[str, Estimate]], width: float
) -> Figure:
    first = columns[comparison.metrics[0]]
    labels = [_label(row, first[row]) for row in comparison.rows]
    row = max(_ROW, _LINE * (0.3 + max(1 + label.count("\n") for label in labels)))
    below, beside = grid_shape(len(columns), max(1, int((width - _LABELS) // _PANEL)))
    height = 1.0 + below * (0.7 + row * len(labels))
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(below, beside, squeeze=False, sharey=True)
    for axes, (metric, column) in zip(grid.flat, columns.items(), strict=False):
        _draw_panel(axes, metric, column, comparison.baseline)
    for axes in grid.flat[len(columns) :]:
        axes.set_axis_off()
    grid[0, 0].set_yticks(range(len(labels)), labels)
    grid[0, 0].set_ylim(len(labels) - 0.4, -0.6)
    numbers = [cell.n for column in columns.values() for cell in column.values()]
    write_title(figure, heading(comparison, numbers))
    _legend(figure, comparison, columns, width)
    return figure


def _label(row: str, cell: Estimate) -> str:
    marks: list[str] = [cell.role] if cell.role != "system" else []
    marks += [f"{cell.diverged} diverged"] if cell.diverged else []
    return wrapped(f"{row} ({', '.join(marks)})" if marks else row, _LABEL_COLUMNS)


def _draw_panel(
    axes: Axes, metric: str, column: Mapping[str, Estimate], baseline: str | None
) -> None:
    low, high = limits(column.values())
    axes.set_xlim(low, high)
    if baseline is not None and math.isfinite(column[baseline].mean):
        axes.axvline(column[baseline].mean, **BASELINE, zorder=1)
    for y, cell in enumerate(column.values()):
        _draw_row(axes, y, cell)
    axes.set_title(unit(metric)[0], fontsize=SIZES["label"], loc="left")
    better = direction(metric)
    axes.set_xlabel(
        f"← {better}" if lower_is_better(metric) else f"{better} →", fontsize=SIZES["tick"]
    )
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, min_n_ticks=2))
    tidy(axes, grid="both")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _draw_row(axes: Axes, y: int, cell: Estimate) -> None:
    color, marker, _ = LOOKS[cell.role]
    if math.isfinite(cell.low):
        _draw_interval(axes, y, cell, color)
    if cell.seeds:
        ys = [y + 0.22] * len(cell.seeds)
        axes.plot(cell.seeds, ys, "|", color=color, markersize=4.5, mew=1.0)
    if math.isfinite(cell.mean):
        axes.plot([cell.mean], [y], marker, color=color, markersize=5, mec="white", mew=0.5)
    elif not math.isfinite(cell.published):
        reason = "diverged" if cell.diverged else "no value"
        axes.text(
            *(0.02, y, reason),
            transform=axes.get_yaxis_transform(),
            fontsize=SIZES["tick"],
            color="0.35",
            va="center",
        )
    if math.isfinite(cell.published):
        axes.plot([cell.published], [y], **PUBLISHED, markersize=5.5, mew=1.1, zorder=4)


def _draw_interval(axes: Axes, y: int, cell: Estimate, color: str) -> None:
    """Draw the interval, and an arrow at each edge of the panel that it crosses."""
    low, high = axes.get_xlim()
    ends = [max(cell.low, low), min(cell.high, high)]
    axes.plot(ends, [y, y], color=color, linewidth=1.5, solid_capstyle="butt")
    for cut, at, marker in ((cell.low < low, low, "<"), (cell.high > high, high, ">")):
        if cut:
            axes.plot([at], [y], marker, color=color, markersize=4, mew=0, clip_on=False)


def _legend(
    figure: Figure,
    comparison: Comparison,
    columns: Mapping[str, Mapping[str, Estimate]],
    width: float,
) -> None:
    cells = [cell for column in columns.values() for cell in column.values()]
    handles = [
        Line2D([], [], color=color, marker=marker, linewidth=1.5, markersize=5, label=name)
        for role, (color, marker, name) in LOOKS.items()
        if any(cell.role == role and cell.n for cell in cells)
    ]
    if comparison.baseline is not None:
        text = wrapped(f"mean of {comparison.baseline}", _LABEL_COLUMNS)
        handles.append(Line2D([], [], **BASELINE, label=text))
    if any(cell.seeds for cell in cells):
        tick = Line2D(
            [], [], color="0.35", marker="|", markersize=5, linestyle="", label="one seed"
        )
        handles.append(tick)
    if any(math.isfinite(cell.published) for cell in cells):
        text = "printed in the paper\n(other settings)"
        handles.append(Line2D([], [], **PUBLISHED, markersize=5.5, label=text))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=legend_columns(width, [str(line.get_label()) for line in handles]),
        fontsize=SIZES["legend"],
        frameon=False,
        handletextpad=0.5,
        columnspacing=1.2,
    )
