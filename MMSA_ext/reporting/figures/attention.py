"""Figures of the attention of temporal alignment: words by frames."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from MMSA_ext.reporting.figures.style import TICK, house_style
from MMSA_ext.reporting.figures.wording import plain, sample_heading

# Even in lightness, so that it reads the same in grey and for colour-blind readers.
_COLORS = "cividis"


def attention_figure(maps: pd.DataFrame, sample: pd.Series) -> Figure:
    """Draw the attention of one sample, averaged over heads.

    Words from top to bottom, frames from left to right; the first column is the class token in
    front of the frames. The scale of each panel goes from its smallest to its largest weight; the
    mark on its colour bar is what uniform attention would give, and the title says how far the
    largest weight is above that.

    Args:
        maps: Rows of one sample of `explain.attention_maps.attention_maps`.
        sample: Its `id`, `text`, `label` and `prediction`.
    """
    return _draw(maps, sample, ["weight"])


def head_figure(maps: pd.DataFrame, sample: pd.Series) -> Figure:
    """Draw the attention of one sample head by head; arguments as `attention_figure`.

    All heads of a modality have one scale.
    """
    return _draw(maps, sample, [name for name in maps.columns if name.startswith("head_")])


@house_style()
def _draw(maps: pd.DataFrame, sample: pd.Series, columns: Sequence[str]) -> Figure:
    modalities = list(dict.fromkeys(maps["modality"]))
    tokens = int(maps["token"].max()) + 1
    several = len(columns) > 1
    height = max(1.9, (0.11 if several else 0.165) * tokens) * (len(modalities) if several else 1)
    figure = Figure(figsize=(10.5 if several else 8.6, 1.5 + height))
    rows, width = (len(modalities), len(columns)) if several else (1, len(modalities))
    grid = figure.subplots(rows, width, squeeze=False)
    for row, modality in enumerate(modalities):
        part = maps[maps["modality"] == modality]
        weights = part[list(columns)].to_numpy()
        limits = float(weights.min()), float(weights.max())
        for column, name in enumerate(columns):
            at = (row, column) if several else (0, row)
            axes = grid[at]
            image = _panel(axes, part, name, limits, words=at[1] == 0, small=several)
            title = f"{modality}, {name.replace('_', ' ')}" if several else _title(part, modality)
            axes.set_title(title, fontsize=TICK if several else None)
        _scale(figure, image, list(grid[row]) if several else [grid[0, row]], part)
    figure.suptitle(sample_heading(sample))
    return figure


def _panel(
    axes: Axes,
    part: pd.DataFrame,
    column: str,
    limits: tuple[float, float],
    *,
    words: bool,
    small: bool,
) -> AxesImage:
    table = part.pivot(index="token", columns="frame", values=column)
    frames = table.columns.to_numpy()
    image = axes.imshow(
        table.to_numpy(),
        aspect="auto",
        cmap=_COLORS,
        vmin=limits[0],
        vmax=limits[1],
        interpolation="nearest",
        extent=(frames[0] - 0.5, frames[-1] + 0.5, len(table) - 0.5, -0.5),
    )
    if frames[0] < 0:
        axes.axvline(-0.5, color="white", linewidth=1.2)
    end = part.loc[part["valid"], "frame"].max()
    if end < frames[-1]:
        axes.axvline(end + 0.5, color="white", linewidth=1.2, linestyle="--")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4 if small else 8, integer=True, min_n_ticks=1))
    axes.set_xlim(frames[0] - 0.5, frames[-1] + 0.5)
    axes.set_xlabel("frame")
    axes.tick_params(labelsize=TICK - (2 if small else 0))
    pieces = part.drop_duplicates("token").set_index("token")["piece"]
    axes.set_yticks(range(len(table)), [plain(piece) for piece in pieces] if words else [])
    axes.tick_params(axis="y", length=0, labelsize=TICK - (2.5 if small else 1))
    axes.spines[:].set_visible(True)
    axes.grid(visible=False)
    return image


def _title(part: pd.DataFrame, modality: str) -> str:
    first = part["frame"] < 0
    tokens, frames = part["token"].nunique(), part["frame"].nunique()
    share = part.loc[first, "weight"].sum() / tokens
    highest = part["weight"].max() * frames
    title = f"{modality}: at most {highest:.1f} x uniform, class token {share:.0%}"
    if not part["valid"].all():
        padding = part.loc[~part["valid"], "weight"].sum() / tokens
        title += f",\npadding (right of the dashes) {padding:.0%}"
    return title


def _scale(figure: Figure, image: AxesImage, axes: list[Axes], part: pd.DataFrame) -> None:
    bar = figure.colorbar(image, ax=axes, pad=0.02, fraction=0.05)
    uniform = 1 / part["frame"].nunique()
    bar.ax.axhline(uniform, color="white", linewidth=1.5)
    bar.ax.axhline(uniform, color="black", linewidth=0.7)
    bar.set_label("attention weight (line: uniform)")
