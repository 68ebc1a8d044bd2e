"""InfoEnh on planted data: what it keeps, what it brings closer, what it joins."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from MMSA_ext.reporting.figures.style import (
    BLACK,
    BLUE,
    SKY,
    VERMILLION,
    entry,
    house_style,
    legend_below,
)

STUDY_TITLES = {
    "kept": "share of the informative tokens that is kept",
    "signs": "cues kept, by their sign",
    "cosine": "mean cosine distance between modalities",
    "discrepancy": "discrepancy (MMD) between modalities",
    "pairs": "mass from a cue to its word",
}
STAGES = {"untrained": (SKY, "s", -0.14), "trained": (BLUE, "o", 0.14)}


@house_style()
def infoenh_study(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw what InfoEnh selects and transports on planted data, one dot a seed.

    Above: the share of the informative tokens that is kept, before and after training, against a
    random choice; and after training the same for cues of the sign that is kept more and of the
    other. Below, of the trained models: the distance between modalities before and after the
    alignment, averaged over pairs, as mean cosine distance and as discrepancy; and how much of a
    cue's mass goes to the word that it belongs to, against a uniform plan.

    Args:
        tables: As `planted.run_study` returns them: `selection` (`seed, stage, part,
            kept, chance`), `signs` (`seed, stage, modality, sign, kept`), `distance` (`seed, stage,
            plan, source, target, cosine, discrepancy`) and `pairs` (`seed, stage, modality, mass,
            chance`).
    """
    trained = {name: table[table["stage"] == "trained"] for name, table in tables.items()}
    figure = Figure(figsize=(8.6, 5.6))
    rows = (
        ["kept"] * 6 + ["signs"] * 2,
        ["cosine"] * 3 + ["discrepancy"] * 3 + ["pairs"] * 2,
    )
    axes = figure.subplot_mosaic([[*row] for row in rows])
    _draw_stages(axes["kept"], tables["selection"], "part", "kept")
    _draw_signs(axes["signs"], trained["signs"])
    for name in ("cosine", "discrepancy"):
        _draw_plans(axes[name], trained["distance"], name)
    _draw_stages(axes["pairs"], tables["pairs"], "modality", "mass")
    highest = float(tables["pairs"][["mass", "chance"]].to_numpy().max())
    axes["pairs"].set_ylim(0, 1.1 * highest)
    for name, title in STUDY_TITLES.items():
        axes[name].set_title(title)
    dots = [(stage, color, marker) for stage, (color, marker, _) in STAGES.items()]
    dots += [("trained, other sign", VERMILLION, "v"), ("before alignment", BLACK, "o")]
    handles = [entry(*look, line="-", linewidth=2) for look in dots]
    handles.append(entry("by chance", BLACK, line="--", linewidth=1.2))
    legend_below(figure, handles, figure.get_figwidth(), columns=5)
    return figure


def _draw_stages(axes: Axes, table: pd.DataFrame, by: str, value: str) -> None:
    """Dots of each stage by category, beside each other, and chance as a line through both."""
    categories = list(dict.fromkeys(table[by]))
    for x, category in enumerate(categories):
        here = table[table[by] == category]
        for stage, (color, marker, shift) in STAGES.items():
            _dots(axes, x + shift, here.loc[here["stage"] == stage, value], color, marker)
        chance = here["chance"].mean()
        axes.plot([x - 0.32, x + 0.32], [chance, chance], "--", color=BLACK, linewidth=1.2)
    _name_categories(axes, categories)
    axes.set_ylim(-0.03, 1.05)


def _draw_signs(axes: Axes, table: pd.DataFrame) -> None:
    """Which of the two signs is kept more differs by seed: that one beside the other."""
    groups = table.groupby(["modality", "seed"], sort=False)["kept"]
    modalities = list(dict.fromkeys(table["modality"]))
    for x, modality in enumerate(modalities):
        _dots(axes, x - 0.14, groups.max()[modality], BLUE, "o")
        _dots(axes, x + 0.14, groups.min()[modality], VERMILLION, "v")
    _name_categories(axes, modalities)
    axes.set_ylim(-0.03, 1.05)


def _draw_plans(axes: Axes, table: pd.DataFrame, value: str) -> None:
    """Dots by plan, averaged over pairs of modalities."""
    plans = list(dict.fromkeys(table["plan"]))
    means = table.groupby(["plan", "seed"], sort=False)[value].mean()
    for x, plan in enumerate(plans):
        _dots(axes, x, means[plan], BLACK if plan == "before" else BLUE, "o")
    _name_categories(axes, [plan.replace("-", "-\n") for plan in plans])
    axes.set_ylim(0, 1.1 * max(means.max(), 0.1))


def _dots(axes: Axes, x: float, values: pd.Series, color: str, marker: str) -> None:
    spread = x + np.linspace(-0.06, 0.06, len(values)) if len(values) > 1 else [x]
    axes.plot(spread, values, marker, color=color, markersize=3.5, mec="white", mew=0.4)
    mean = float(values.mean())
    axes.plot([x - 0.11, x + 0.11], [mean, mean], color=color, linewidth=2, alpha=0.6, zorder=1.5)


def _name_categories(axes: Axes, names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)
