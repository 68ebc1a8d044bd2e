"""Figure of a case study: texts, and where several systems put them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from MMSA_ext.reporting.figures.style import BLACK, PALETTE, TICK, entry, house_style
from MMSA_ext.reporting.figures.wording import plain, wrapped

_MARKERS = ("o", "^", "s", "D", "v", "P", "X")
_TEXT_WIDTH, _TEXT_LINES = 52, 4


@house_style()
def case_figure(table: pd.DataFrame, systems: Sequence[str], *, summary: str = "") -> Figure:
    """Draw one row a case: its text on the left, label and predictions on the right.

    Args:
        table: Of `explain.cases.CaseStudy`.
        systems: Labels of the systems, columns of the table.
        summary: Sentence below the picture.
    """
    texts = [wrapped(str(text), _TEXT_WIDTH, _TEXT_LINES) for text in table["text"]]
    heights = [max(2, text.count("\n") + 2) * 0.19 + 0.12 for text in texts]
    edges = np.concatenate([[0.0], np.cumsum(heights)])
    figure = Figure(figsize=(8.6, 1.5 + float(edges[-1])))
    left, right = figure.subplots(1, 2, width_ratios=[1.15, 1], sharey=True)
    _draw_texts(left, table, texts, edges)
    _draw_predictions(right, table, systems, (edges[:-1] + edges[1:]) / 2)
    for axes in (left, right):
        axes.hlines(edges, 0, 1, transform=axes.get_yaxis_transform(), color="0.85", lw=0.8)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0, labelleft=False)
        axes.grid(visible=False, axis="y")
    right.grid(axis="x", color="0.92")
    right.set_ylim(float(edges[-1]), 0.0)
    marks = zip(PALETTE, _MARKERS, map(plain, systems), strict=False)
    figure.legend(
        handles=[
            entry("label", BLACK, "|", markersize=11, mew=2.2),
            *(entry(name, color, marker) for color, marker, name in marks),
        ],
        loc="outside upper right",
        ncols=min(4, len(systems) + 1),
    )
    figure.supxlabel(wrapped(summary, 115), fontsize=TICK)
    return figure


def _draw_texts(axes: Axes, table: pd.DataFrame, texts: Sequence[str], edges: np.ndarray) -> None:
    for name, text, top in zip(table["id"], texts, edges, strict=False):
        at: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "top"}
        axes.text(0, top + 0.05, plain(str(name)), fontsize=TICK - 1, color="0.4", **at)
        axes.text(0, top + 0.23, text, fontsize=TICK, linespacing=1.15, **at)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)


def _draw_predictions(
    axes: Axes, table: pd.DataFrame, systems: Sequence[str], middle: np.ndarray
) -> None:
    axes.vlines(table["label"], middle - 0.16, middle + 0.16, color=BLACK, linewidth=2.2)
    shifts = np.linspace(-0.1, 0.1, len(systems)) if len(systems) > 1 else [0.0]
    for index, (label, shift) in enumerate(zip(systems, shifts, strict=True)):
        axes.errorbar(
            table[label],
            middle + shift,
            xerr=table[f"{label} std"].fillna(0),
            fmt=_MARKERS[index % len(_MARKERS)],
            color=PALETTE[index % len(PALETTE)],
            markersize=5.5,
            markeredgecolor="white",
            elinewidth=0.9,
        )
    axes.axvline(0, color="0.75", linewidth=0.8, zorder=0)
    axes.set_xlabel("sentiment")
