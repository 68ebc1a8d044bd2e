"""Figure of a scored video: sentiment over time, and the words below it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from MMSA_ext.reporting.figures.style import house_style, signed_bars
from MMSA_ext.reporting.figures.wording import display_width, plain, wrapped

_WIDTH = 8.6  # inches
_PLOT = 7.8  # inches of it that are time
_A_ROW, _MOST_ROWS = 8, 10  # utterances, and rows
_SIZE = 7.5  # points of the words
_COLUMN, _LINE = 0.06, 0.125  # inches of a column of text, which a Chinese character has two of
_LINES = 4
_LEAST_SLOT = 0.95  # inches that words get at least, if they need more than their bar is wide
_STEPS = (*(0.01, 0.1, 0.5, 1, 2, 5, 10, 15, 30), *(60 * m for m in (1, 2, 5, 10, 15, 30, 60)))
_THINNEST = 0.015  # inches of a bar


@dataclass(frozen=True)
class _Slot:
    """Where the words of an utterance go: in inches from the left, and what fits there."""

    left: float
    right: float
    middle: float  # of the utterance
    text: str


@house_style()
def timeline_figure(utterances: pd.DataFrame, title: str = "") -> Figure:
    """Draw the predictions for the utterances of a video: a bar each, as wide as it lasts.

    Time goes on from row to row. Words stand below where they fit, those of the strongest
    predictions first; what is cut ends in an ellipsis.

    Args:
        utterances: A row each: `start` and `end` in seconds, `prediction` (NaN leaves a hole) and
            `text`.
        title: What the figure says it is of.
    """
    duration = float(utterances["end"].max()) if len(utterances) else 1.0
    rows = min(_MOST_ROWS, max(1, math.ceil(len(utterances) / _A_ROW)))
    span = max(duration, 1e-3) / rows
    starts = [k * span for k in range(rows)]
    slots = [_slots(utterances, start, span) for start in starts]
    lines = [max((slot.text.count("\n") + 1 for slot in row), default=1) for row in slots]
    heights = [height for n in lines for height in (1.0, _LINE * n + 0.1)]
    figure = Figure(figsize=(_WIDTH, sum(heights) + 0.35 * rows + 0.6))
    grid = figure.subplots(2 * rows, 1, squeeze=False, height_ratios=heights)[:, 0]
    figure.set_layout_engine("constrained", h_pad=0.01, hspace=0.0)
    limit = 1.15 * float(np.nan_to_num(utterances["prediction"].abs().max())) or 1.0
    for k, start in enumerate(starts):
        bars, words = grid[2 * k], grid[2 * k + 1]
        in_row = (utterances["start"] <= start + span) & (utterances["end"] >= start)
        _bars(bars, utterances[in_row], span, limit)
        middles = [start + slot.middle * span / _PLOT for slot in slots[k]]
        bars.vlines(middles, -limit, 0, color="0.75", linewidth=0.7, linestyle=":", zorder=0.5)
        _words(words, slots[k], start, span)
        for axes in (bars, words):
            axes.set_xlim(start, start + span)
    grid[-1].set_xlabel("time")
    figure.supylabel("predicted sentiment")
    count = f"{len(utterances) or 'no'} utterance{'s' * (len(utterances) > 1)}"
    figure.suptitle(f"{plain(title)}: {count}" if title else count)
    return figure


def _bars(axes: Axes, utterances: pd.DataFrame, span: float, limit: float) -> None:
    values = utterances["prediction"].to_numpy(dtype=float)
    widths = (utterances["end"] - utterances["start"]).to_numpy(dtype=float)
    signed_bars(
        axes,
        utterances["start"].to_numpy(dtype=float),
        values,
        limit,
        width=np.maximum(widths, _THINNEST * span / _PLOT),
        align="edge",
        edgecolor="white",
        linewidth=0.5,
    )
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(bottom=False, labelbottom=False)


def _words(axes: Axes, slots: list[_Slot], start: float, span: float) -> None:
    for slot in slots:
        at = start + (slot.left + slot.right) / 2 * span / _PLOT
        axes.annotate(
            slot.text,
            (start + slot.middle * span / _PLOT, 1.0),
            xytext=(at, 0.96),
            xycoords=("data", "axes fraction"),
            textcoords=("data", "axes fraction"),
            ha="center",
            va="top",
            fontsize=_SIZE,
            linespacing=1.1,
        )
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    step = next((step for step in _STEPS if span <= 9 * step), span)
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: _clock(seconds)))


def _clock(seconds: float) -> str:
    """As players have it: 1:05, 1:00:05; with hundredths where a tick is at some."""
    whole, hundredths = divmod(round(seconds * 100), 100)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    start = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{start}:{rest:02}" + (f".{hundredths:02}" if hundredths else "")


def _slots(utterances: pd.DataFrame, start: float, span: float) -> list[_Slot]:
    """Words that fit below a row, the strongest predictions first."""
    middles = (utterances["start"] + utterances["end"]) / 2
    inside = utterances[(middles >= start) & (middles < start + span)]
    placed: list[_Slot] = []
    for index in inside["prediction"].abs().sort_values(ascending=False, kind="stable").index:
        row = inside.loc[index]
        left, right = ((row[side] - start) / span * _PLOT for side in ("start", "end"))
        slot = _slot(str(row["text"]), max(left, 0.0), min(right, _PLOT), placed)
        if slot:
            placed.append(slot)
    return placed


def _slot(text: str, left: float, right: float, placed: list[_Slot]) -> _Slot | None:
    """Below the bar, and beside it as far as need be; None where others leave no room."""
    width = display_width(" ".join(text.split()))
    need = min(_LEAST_SLOT, (width + 2) * _COLUMN)
    middle = (left + right) / 2
    first = max((slot.right for slot in placed if slot.middle <= middle), default=0.0)
    last = min((slot.left for slot in placed if slot.middle > middle), default=_PLOT)
    if not width or last - first < need:
        return None
    left, right = max(left, first), min(right, last)
    if right - left < need:
        left = min(max((left + right - need) / 2, first), last - need)
        right = left + need
    if not left <= middle <= right:
        return None
    columns = int((right - left) / _COLUMN) - 1
    words = re.sub(
        rf"[^\s\u2e80-\uffef]{{{columns + 1},}}", lambda m: f"{m[0][: columns - 1]}…", text
    )
    return _Slot(left, right, middle, wrapped(words, columns, _LINES))
