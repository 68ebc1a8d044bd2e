"""Which classes systems take for which: confusion of the rounded predictions."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from sklearn.metrics import confusion_matrix

from MMSA_ext.datasets import Dataset, get_dataset
from MMSA_ext.metrics import (
    SIMS_BORDERS,
    FloatArray,
    bordered_classes,
    rounded_classes,
    whole_labels,
)
from MMSA_ext.records.store import StoreError
from MMSA_ext.reporting.figures.intervals import write_title
from MMSA_ext.reporting.figures.style import (
    COLUMN_WIDTH,
    PAGE_WIDTH,
    TICK,
    grid_shape,
    house_style,
    panels,
)
from MMSA_ext.reporting.figures.wording import wrapped
from MMSA_ext.reporting.metric_names import paper_name

Counts = npt.NDArray[np.int64]

# What the classes of MOSI and SIMS mean, by their number; two end at 0.
_MEANINGS: Final = {
    7: (
        *("strongly negative", "negative", "weakly negative", "neutral"),
        *("weakly positive", "positive", "strongly positive"),
    ),
    5: ("negative", "weakly negative", "neutral", "weakly positive", "positive"),
    3: ("negative", "neutral", "positive"),
    2: ("not positive", "positive"),
}
# By metrics, the numbers of classes; the first is the default.
_CLASSES: Final = {"mosi": (7, 5), "sims": tuple(sorted(SIMS_BORDERS, reverse=True))}
# More cannot be read.
_MOST_CLASSES: Final = 21
_PANELS: Final = 3
_TITLE_COLUMNS: Final = 30
# Cells darker than this have white text.
_DARK: Final = 0.55
# Width of a digit, as a share of the font's size, and inches of a panel that are no cells.
_DIGIT, _FRAME = 0.64, 0.62


@dataclass(frozen=True)
class Classes:
    """The classes that MMSA makes of the labels of a data set.

    Attributes:
        metric: MMSA's accuracy over these classes.
        names: One for each class, from the most negative, such as "weakly negative".
        ranges: The labels of each class, such as "-1" or "≤ -0.1".
        of: From values of shape (n,) to numbers of classes of shape (n,), the first of them 0.
    """

    metric: str
    names: tuple[str, ...]
    ranges: tuple[str, ...]
    of: Any


def classes_of(dataset: Dataset | str, count: int | None = None) -> Classes:
    """The classes of a data set: MMSA's of MOSI and SIMS, of generic metrics its own.

    Args:
        dataset: The data set, or the name of one that is known.
        count: Number of classes: 7 (default) or 5 for MOSI, whose labels are rounded; 5 (default),
            3 or 2 for SIMS, whose labels fall between borders; generic metrics have one number.

    Returns:
        Names and how values fall into them.

    Raises:
        StoreError: The data set has no such classes, or too many to draw.
    """
    if isinstance(dataset, str):
        dataset = get_dataset(dataset)
    low, high = whole_labels(dataset)
    own = high - low + 1 if dataset.classes is None else len(dataset.classes) + 1
    known = _CLASSES.get(dataset.metrics, (own,))
    count = count or known[0]
    if count not in known:
        counts = ", ".join(map(str, known))
        raise StoreError(f"there are no {count} classes of {dataset.name}; it has {counts}.")
    if not 1 < count <= _MOST_CLASSES:
        raise StoreError(
            f"{dataset.name} has {count} classes, and 2 to {_MOST_CLASSES} can be drawn; give it "
            "borders between fewer (classes, docs/data.md)."
        )
    limits = SIMS_BORDERS[count] if dataset.metrics == "sims" else dataset.classes
    if dataset.metrics != "mosi" and limits:
        ranges = (*(f"≤ {border:g}" for border in limits), f"> {limits[-1]:g}")
        of = partial(bordered_classes, limits)
    else:
        if dataset.metrics == "mosi":
            low, high = -(count // 2), count // 2
        sign = "+" if low < 0 else ""
        ranges = tuple(f"{value:{sign}d}" if value else "0" for value in range(low, high + 1))
        of = partial(_rounded, low, high)
    names = _MEANINGS[count] if dataset.metrics in _CLASSES else ranges
    return Classes(f"Mult_acc_{count}", names, ranges, of)


def _rounded(low: int, high: int, values: FloatArray) -> Counts:
    return rounded_classes(low, high, values) - low


def confusion(predictions: pd.DataFrame, classes: Classes) -> Counts:
    """Count how often each class is predicted for each class, over samples of any number of seeds.

    Returns:
        Shape (classes, classes): rows are the true classes, columns the predicted ones.
    """
    true, predicted = (classes.of(predictions[name].to_numpy()) for name in ("label", "prediction"))
    labels = range(len(classes.names))
    return np.asarray(confusion_matrix(true, predicted, labels=labels), dtype=np.int64)


@house_style()
def confusion_figure(
    predictions: Mapping[str, pd.DataFrame],
    dataset: Dataset | str,
    *,
    classes: int | None = None,
    split: str = "test",
) -> Figure:
    """Draw the confusion of MMSA's classes, one panel a system, summed over seeds.

    Rows are true classes, columns predicted ones. A cell has its count; its shade is the share of
    the row. The diagonal over all counts is the accuracy in the panel's title: MMSA's accuracy
    over these classes, averaged over the seeds.

    Args:
        predictions: By name of the system, the predictions of all its seeds below each other, with
            the run store's columns.
        dataset: The data set, which decides the classes (`classes_of`).
        classes: Number of classes; None is 7 for MOSI and MOSEI, 5 for SIMS.
        split: Split to count.

    Raises:
        StoreError: There are no predictions of the split, a value is not finite, the seeds of a
            system have not the same samples, or the data set has no such classes.
    """
    chosen = classes_of(dataset, classes)
    if not predictions:
        raise StoreError("there are no predictions to draw; run a system first.")
    shown = {name: _of_split(name, frame, split) for name, frame in predictions.items()}
    counts = {name: confusion(frame, chosen) for name, frame in shown.items()}
    digits = max(len(str(matrix.max())) for matrix in counts.values())
    below, beside = grid_shape(len(counts), _beside(digits, len(chosen.names)))
    width = COLUMN_WIDTH if len(counts) == 1 else PAGE_WIDTH
    panel = min(width / beside, COLUMN_WIDTH)
    # Cells are nearly square; an exact aspect would let titles overlap.
    figure = Figure(figsize=(width, 1.25 + below * (panel + 0.8)))
    grid = panels(figure, len(counts), (below, beside))
    size = min(TICK, _font_size(panel, digits, len(chosen.names)))
    ticks = _ticks(chosen)
    for place, (axes, (name, matrix)) in enumerate(zip(grid, counts.items(), strict=True)):
        image = _draw_panel(axes, matrix, size)
        axes.set_xticks(range(len(ticks)), ticks, rotation=90)
        axes.set_yticks(range(len(ticks)), ticks if place % beside == 0 else [""] * len(ticks))
        axes.set_title(_panel_title(name, shown[name], matrix), loc="center")
    for axes in grid[::beside]:
        axes.set_ylabel("true class")
    for axes in grid[-beside:]:
        axes.set_xlabel("predicted class")
    bar = figure.colorbar(image, ax=figure.axes, location="bottom", shrink=0.5, aspect=40)
    bar.set_label("share of the true class")
    samples = sorted({frame["id"].nunique() for frame in shown.values()})
    said = " to ".join(str(n) for n in dict.fromkeys((samples[0], samples[-1])))
    name = dataset if isinstance(dataset, str) else dataset.name
    title = f"{name}: the classes of {paper_name(chosen.metric)}\n{split} split of {said} samples"
    write_title(figure, f"{title}, counts summed over seeds")
    return figure


def _of_split(name: str, frame: pd.DataFrame, split: str) -> pd.DataFrame:
    found = frame[frame["split"] == split]
    if found.empty:
        raise StoreError(f"{name!r} has no predictions of the {split} split.")
    if not np.isfinite(found[["label", "prediction"]].to_numpy()).all():
        raise StoreError(f"{name!r} has a label or prediction that is not finite; leave it out.")
    if found.groupby("id").size().nunique() > 1:
        raise StoreError(
            f"the seeds of {name!r} have not the same samples; draw those of one file."
        )
    return found


def _beside(digits: int, classes: int) -> int:
    """As many panels beside each other as keep the counts readable."""
    fits = [n for n in range(2, _PANELS + 1) if _font_size(PAGE_WIDTH / n, digits, classes) >= 5.5]
    return max(fits, default=2)


def _font_size(panel: float, digits: int, classes: int) -> float:
    """Points in which a count fits its cell."""
    return 72 * (panel - _FRAME) / classes / (_DIGIT * (digits + 0.4))


def _panel_title(name: str, frame: pd.DataFrame, matrix: Counts) -> str:
    seeds = int(frame.groupby("id").size().iloc[0])
    accuracy = 100 * np.trace(matrix) / matrix.sum()
    n = f"{seeds} {'seed' if seeds == 1 else 'seeds'}"
    return f"{wrapped(name, _TITLE_COLUMNS)}\n{accuracy:.1f} % right, {n}"


def _ticks(classes: Classes) -> list[str]:
    """Each class in up to two lines, with its labels where the name does not say them."""
    if classes.names == classes.ranges:
        return list(classes.ranges)
    pairs = zip(classes.names, classes.ranges, strict=True)
    return [f"{name} ({labels})".replace("ly ", "ly\n", 1) for name, labels in pairs]


def _draw_panel(axes: Axes, matrix: Counts, size: float) -> AxesImage:
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(matrix):
        color = "white" if shares[row, column] > _DARK else "black"
        axes.text(column, row, str(count), ha="center", va="center", fontsize=size, color=color)
    axes.tick_params(labelsize=7.5, length=0)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    return image
