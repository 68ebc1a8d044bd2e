"""Figures of modality representations: t-SNE pictures, and the distances that they do not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from MMSA_ext.reporting.figures.style import PALETTE, entry, house_style, legend_below

MEASURES = {
    "cosine": "cosine distance of tokens",
    "centroid": "centroid distance / spread",
    "discrepancy": "discrepancy (MMD)",
}
STAGE_NAMES = {
    "pooled": "before InfoEnh (pooled tokens)",
    "aligned": "after InfoEnh (aligned)",
    "encoded": "modality representations",
}
# Red to blue through white, told apart by colour-blind readers.
SENTIMENT = "RdBu"
_MARKERS = ("o", "^", "s", "D", "v", "P")
_FILLED = 3  # a fourth modality is made from the others and may hide them: it is drawn hollow


def _look(pair: int) -> dict[str, Any]:
    """Of a pair of modalities; other colours than those of the modalities, as far as they last."""
    return {"color": PALETTE[(pair + 3) % len(PALETTE)], "marker": _MARKERS[pair % len(_MARKERS)]}


@house_style()
def embedding_figure(points: pd.DataFrame, distances: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw the t-SNE picture of every stage twice, and below the distances between modalities.

    Points are coloured by modality, and below by sentiment: of a map that diverges at 0, where the
    label is neutral.

    Args:
        points: Of `explain.embeddings.project`.
        distances: Of `explain.embeddings.distances`.
        title: Heading, such as model and data set.
    """
    stages = list(dict.fromkeys(points["stage"]))
    modalities = list(dict.fromkeys(points["modality"]))
    width, marked = 8.6, dict(zip(modalities, _MARKERS * len(modalities), strict=False))
    figure = Figure(figsize=(width, 10.2))
    parts = figure.subfigures(3, 1, height_ratios=[1.3, 1.2, 1], squeeze=False)
    above, middle, below = parts[:, 0]
    grids = [part.subplots(1, len(stages), squeeze=False)[0] for part in (above, middle)]
    largest = float(np.nanmax(np.abs([*points["label"], 1e-6])))
    scale = Normalize(-largest, largest)
    for axes, lower, stage in zip(*grids, stages, strict=True):
        here = points[points["stage"] == stage]
        _scatter(axes, here, marked)
        axes.set_title(STAGE_NAMES.get(stage, stage))
        _scatter(lower, here, marked, scale)
    bar = middle.colorbar(ScalarMappable(scale, SENTIMENT), ax=list(grids[1]), fraction=0.04)
    bar.set_label("sentiment (label)")
    marks = [
        entry(name, PALETTE[i], marked[name], mfc=PALETTE[i] if i < _FILLED else "none")
        for i, name in enumerate(modalities)
    ]
    legend_below(above, marks, width)
    pairs = list(dict.fromkeys(zip(distances["source"], distances["target"], strict=True)))
    for axes, name in zip(below.subplots(1, len(MEASURES)), MEASURES, strict=True):
        _lines(axes, distances, name, pairs)
    lines = [entry(f"{a} - {b}", line="-", **_look(i)) for i, (a, b) in enumerate(pairs)]
    legend_below(below, lines, width, columns=min(3, len(pairs)))
    said = f"perplexity {points['perplexity'].iloc[0]:g}, seed {points['seed'].iloc[0]}"
    samples = f"{points['id'].nunique()} samples; t-SNE, cosine metric, {said}"
    figure.suptitle(f"{title}\n{samples}".strip())
    return figure


def _scatter(
    axes: Axes, points: pd.DataFrame, markers: Mapping[str, str], scale: Normalize | None = None
) -> None:
    """Points of one stage, coloured by modality, or on a scale by sentiment."""
    for index, (name, marker) in enumerate(markers.items()):
        here = points[points["modality"] == name]
        filled, color = index < _FILLED, PALETTE[index]
        if scale is not None:
            # White would not show on white: every point has an edge.
            look: dict[str, Any] = {"c": here["label"], "cmap": SENTIMENT, "norm": scale}
            look |= {"edgecolors": "0.45", "linewidths": 0.4, "plotnonfinite": True}
        else:
            look = {"color": color if filled else "none", "alpha": 0.7, "linewidths": 0.9}
            look["edgecolors"] = "none" if filled else color
        axes.scatter(here["x"], here["y"], s=14 if filled else 34, marker=marker, **look)
    # Neither the axes of t-SNE nor its distances mean anything.
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(True)


def _lines(
    axes: Axes, distances: pd.DataFrame, name: str, pairs: Sequence[tuple[str, str]]
) -> None:
    stages = list(dict.fromkeys(distances["stage"]))
    for index, (source, target) in enumerate(pairs):
        here = distances[(distances["source"] == source) & (distances["target"] == target)]
        values = here.set_index("stage")[name].reindex(stages).to_numpy()
        # Lines join what follows from each other; a control stands beside.
        steps = [i for i, stage in enumerate(stages) if "," not in stage]
        look = _look(index)
        # Beside each other, so that equal values stay visible.
        shift = (index - (len(pairs) - 1) / 2) * (0.1 if len(stages) == 1 else 0.05)
        at = np.arange(len(stages)) + shift
        axes.plot(at[steps], values[steps], color=look["color"], linewidth=1.4)
        axes.plot(at, values, linestyle="", **look, markersize=5.5, mec="white", mew=0.6)
    axes.set_xticks(range(len(stages)), [stage.replace(", ", ",\n") for stage in stages])
    axes.tick_params(axis="x", rotation=25 if len(stages) > 2 else 0)
    axes.set_xlim(-0.4, len(stages) - 0.6)
    axes.set_ylim(0, 1.08 * max(float(distances[name].max()), 1e-3))
    axes.set_title(MEASURES[name])
