"""Figures of attributions: what words and frames contribute to a prediction."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from MMSA_ext.reporting.figures.style import house_style, signed_bars
from MMSA_ext.reporting.figures.wording import display_width, plain, sample_heading

_WORDS_A_ROW = 24
_LEAST_SCALE = 0.02  # of the words' scale: what is next to nothing looks like it


@house_style()
def attribution_figure(parts: pd.DataFrame, sample: pd.Series) -> Figure:
    """Draw the contributions to one prediction: a bar a word, below them a bar a frame.

    A bar upwards raises the prediction, one downwards lowers it. Words have one scale, and frames
    of audio and vision another, because a frame's share is far smaller. The number in a panel's
    title is the sum of its bars.

    Args:
        parts: Rows of one sample of `explain.attribution.Attribution.parts`.
        sample: Its row of `Attribution.samples`.
    """
    frames = {str(name): part for name, part in parts.groupby("modality", sort=False)}
    text = frames.pop("text", parts.iloc[:0])  # an empty transcript has no words
    count = max(1, -(-len(text) // _WORDS_A_ROW))
    width = -(-len(text) // count)  # words a row: rows of about the same length
    height = 1.5 + 1.75 * count + 1.3 * len(frames)
    figure = Figure(figsize=(8.6, height))
    ratios = [1.3] * count + [1.0] * len(frames)
    grid = figure.subplots(len(ratios), 1, squeeze=False, height_ratios=ratios)[:, 0]
    for row, axes in enumerate(grid[:count]):
        words = text.iloc[row * width : (row + 1) * width]
        _word_bars(axes, words, _limit(text), max(width, 12))
    grid[0].set_title(_panel_title("words", text, sample["text_sum"]))
    limit = max(_limit(parts[parts["modality"] != "text"]), _LEAST_SCALE * _limit(text))
    for axes, (name, part) in zip(grid[count:], frames.items(), strict=True):
        _bars(axes, part, limit)
        axes.set_title(_panel_title(f"{name} frames", part, sample[f"{name}_sum"]))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if frames:
        grid[-1].set_xlabel("frame")
    figure.supylabel("contribution to the prediction")
    held = "; InfoEnh's selection held" if sample["selection"] == "held" else ""
    more = f", baseline {sample['baseline']:.2f}; error of the sum {sample['gap']:.3f}{held}"
    figure.suptitle(sample_heading(sample, more))
    return figure


def _limit(part: pd.DataFrame) -> float:
    largest = float(part["attribution"].abs().max()) if len(part) else 0.0
    return 1.15 * largest or 1.0


def _word_bars(axes: Axes, row: pd.DataFrame, limit: float, width: int) -> None:
    _bars(axes, row, limit)
    names = [plain(word) for word in row["unit"]]
    upright = all(display_width(name) <= 2 for name in names)
    axes.set_xticks(
        row["position"].to_numpy(),
        names,
        rotation=0 if upright else 40,
        ha="center" if upright else "right",
        rotation_mode="anchor",
    )
    first = int(row["position"].min()) if len(row) else 0
    axes.set_xlim(first - 0.6, first + width - 0.4)


def _bars(axes: Axes, part: pd.DataFrame, limit: float) -> None:
    values = part["attribution"].to_numpy()
    signed_bars(axes, part["position"], values, limit, width=0.8)
    if not values.any():
        axes.set_yticks([0])
    axes.margins(x=0.01)


def _panel_title(name: str, part: pd.DataFrame, total: float) -> str:
    if not part["attribution"].any():
        return f"{name}: no contribution"
    return f"{name}: {total:+.2f} in all"
