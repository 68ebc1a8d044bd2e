"""Training curves, of one run and of several beside each other."""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from MMSA_ext.records.store import EpochRecord, RunRecord, StoreError
from MMSA_ext.reporting.figures.style import (
    BLUE,
    FORMATS,
    GREEN,
    LINE_STYLES,
    ORANGE,
    PAGE_WIDTH,
    PURPLE,
    SIZES,
    SKY,
    VERMILLION,
    LineStyle,
    legend_columns,
    look,
    save,
    tidy,
)

# In the order of preference: what the panels beside the loss show, where the history has it.
VALID_METRICS = ("MAE", "Corr")
METRIC_LABELS = {"Corr": "Pearson correlation", "Loss": "loss"}
COMPARABLE_LOSS = "prediction_loss"
MODELS_TOGETHER = 4

FloatArray = npt.NDArray[np.float64]
Side = Literal["train", "valid"]


def training_curves(
    record: RunRecord, path: str | os.PathLike[str], formats: Sequence[str] = FORMATS
) -> list[Path]:
    """Draw one run by epoch: losses on the left, validation metrics on the right.

    The training loss shown beside the validation loss is the prediction loss, where the history
    tells it apart; auxiliary losses (contrastive and others) have a panel of their own, because
    their scale is another. The tested epoch is marked. Undefined values leave a gap.

    Args:
        record: The run; a diverged one and one without history are drawn as far as they go.
        path: Target without its ending; an ending that names one of `formats` is dropped.
        formats: File formats, each one file.

    Returns:
        The files written.

    Raises:
        StoreError: matplotlib cannot write one of the formats.
    """
    panels = _panels(record)
    layout = _layout(list(panels))
    figure = Figure(figsize=(PAGE_WIDTH, 1.0 + 2.0 * len(layout)), layout="constrained")
    axes = figure.subplot_mosaic([[*row] for row in layout])
    for name, draw in panels.items():
        draw(axes[name], record)
        _style(axes[name], record.history)
        if record.chosen_epoch is not None:
            axes[name].axvline(record.chosen_epoch, color="0.3", linewidth=1, linestyle=":")
    for name in layout[-1]:
        axes[name].set_xlabel("epoch", fontsize=SIZES["label"])
    figure.suptitle(_title(record), fontsize=SIZES["title"])
    return save(figure, path, formats)


def curves_overview(
    records: Sequence[RunRecord], path: str | os.PathLike[str], formats: Sequence[str] = FORMATS
) -> list[Path]:
    """Draw the validation curves of several runs.

    Up to four models share a panel: one row a data set, one colour a model. More would hide each
    other, so each has a panel of its own, with the others in grey behind it; the panels of a data
    set and metric share their axes. Each seed is a thin line that ends where its training ended; a
    dot marks the tested epoch and a cross the last epoch of a diverged run.

    Args:
        records: Runs of any data sets, models and seeds.
        path: Target without its ending; an ending that names one of `formats` is dropped.
        formats: File formats, each one file.

    Returns:
        The files written.

    Raises:
        StoreError: There are no records, or matplotlib cannot write one of the formats.
    """
    if not records:
        raise StoreError("there are no runs to draw; train one first.")
    models = list(dict.fromkeys(run.identity.model for run in records))
    # Models differ in what their loss is, so it is shown only where there is nothing else.
    shown = _valid_metrics(records) or ["Loss"]
    draw = _draw_together if len(models) <= MODELS_TOGETHER else _draw_apart
    return save(draw(records, models, shown), path, formats)


def _draw_together(
    records: Sequence[RunRecord], models: Sequence[str], shown: Sequence[str]
) -> Figure:
    datasets = _datasets(records)
    width = PAGE_WIDTH if len(shown) > 1 else 4.4
    figure = Figure(figsize=(width, 1.1 + 2.3 * len(datasets)), layout="constrained")
    grid = figure.subplots(len(datasets), len(shown), squeeze=False)
    for row, dataset in zip(grid, datasets, strict=True):
        runs = [run for run in records if run.identity.dataset == dataset]
        for axes, name in zip(row, shown, strict=True):
            for run in runs:
                _draw_run(axes, run, name, *look(models.index(run.identity.model)))
            _style(axes, [entry for run in runs for entry in run.history])
            axes.set_title(f"{dataset}: {_label('valid', name)}", fontsize=SIZES["label"])
    for axes in grid[-1]:
        axes.set_xlabel("epoch", fontsize=SIZES["label"])
    handles = []
    for index, model in enumerate(models):
        color, style = look(index)
        text = _model_and_seeds([run for run in records if run.identity.model == model])
        handles.append(Line2D([], [], color=color, linestyle=style, linewidth=1.6, label=text))
    _overview_legend(figure, records, handles)
    return figure


def _draw_apart(
    records: Sequence[RunRecord], models: Sequence[str], shown: Sequence[str]
) -> Figure:
    datasets = _datasets(records)
    blocks = [(dataset, name) for dataset in datasets for name in shown]
    columns = min(MODELS_TOGETHER, len(models))
    # A data set may have fewer models than another.
    of = {
        dataset: [model for model in models if any(_is_of(run, dataset, model) for run in records)]
        for dataset in datasets
    }
    heights = [math.ceil(len(of[dataset]) / columns) for dataset, _ in blocks]
    figure = Figure(figsize=(PAGE_WIDTH, 0.5 + sum(0.3 + 1.35 * h for h in heights)))
    figure.set_layout_engine("constrained")
    parts = figure.subfigures(len(blocks), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (dataset, name), height in zip(parts, blocks, heights, strict=True):
        runs = [run for run in records if run.identity.dataset == dataset]
        grid = part.subplots(height, columns, squeeze=False, sharex=True, sharey=True)
        for index, (axes, model) in enumerate(zip(grid.flat, of[dataset], strict=False)):
            mine = [run for run in runs if run.identity.model == model]
            for run in runs:
                epochs, values = _series(run.history, "valid", name)
                axes.plot(epochs, values, color="0.85", linewidth=0.7, zorder=1)
            for run in mine:
                _draw_run(axes, run, name, BLUE, "-")
            _style(axes, [entry for run in runs for entry in run.history])
            axes.set_title(_model_and_seeds(mine), fontsize=SIZES["tick"])
            axes.xaxis.set_tick_params(labelbottom=index + columns >= len(of[dataset]))
        for axes in grid.flat[len(of[dataset]) :]:
            axes.set_axis_off()
        part.suptitle(f"{dataset}: {_label('valid', name)} by epoch", fontsize=SIZES["label"])
    grey = Line2D([], [], color="0.75", linewidth=1.2, label="the other models")
    _overview_legend(parts[-1], records, [grey])
    return figure


def _datasets(records: Sequence[RunRecord]) -> list[str]:
    return list(dict.fromkeys(run.identity.dataset for run in records))


def _is_of(run: RunRecord, dataset: str, model: str) -> bool:
    return run.identity.dataset == dataset and run.identity.model == model


def _model_and_seeds(runs: Sequence[RunRecord]) -> str:
    seeds = len({run.identity.seed for run in runs})
    return f"{runs[0].identity.model} ({seeds} {'seed' if seeds == 1 else 'seeds'})"


Draw = Callable[[Axes, RunRecord], None]


def _panels(record: RunRecord) -> dict[str, Draw]:
    """Choose the panels that the history can fill; the loss panel is always there."""
    panels: dict[str, Draw] = {"loss": _draw_losses}
    if _auxiliary_losses(record.history):
        panels["auxiliary"] = _draw_auxiliary_losses
    panels.update({name: _metric_panel(name) for name in _valid_metrics([record])})
    return panels


def _layout(names: list[str]) -> list[list[str]]:
    """Put losses in the left column and metrics in the right; the shorter column stretches."""
    left = [name for name in names if name in ("loss", "auxiliary")]
    right = [name for name in names if name not in left] or left
    rows = max(len(left), len(right))
    return [[left[row * len(left) // rows], right[row * len(right) // rows]] for row in range(rows)]


def _series(history: Sequence[EpochRecord], side: Side, name: str) -> tuple[FloatArray, FloatArray]:
    """Read one curve: epochs and values, NaN where undefined or not recorded."""
    epochs = np.array([entry.epoch for entry in history], dtype=np.float64)
    values = [getattr(entry, side).get(name) for entry in history]
    return epochs, np.array([np.nan if v is None else v for v in values], dtype=np.float64)


def _names(history: Sequence[EpochRecord], side: Side) -> list[str]:
    """List what a history holds, in the order it first appears."""
    return list(dict.fromkeys(name for entry in history for name in getattr(entry, side)))


def _auxiliary_losses(history: Sequence[EpochRecord]) -> list[str]:
    names = _names(history, "train")
    return [name for name in names if name.endswith("_loss") and name != COMPARABLE_LOSS]


def _valid_metrics(records: Sequence[RunRecord]) -> list[str]:
    """Choose the validation curves beside the loss: MAE and Corr, or else the first two."""
    names = dict.fromkeys(name for run in records for name in _names(run.history, "valid"))
    preferred = [name for name in VALID_METRICS if name in names]
    return preferred or [name for name in names if name != "Loss"][:2]


def _label(side: Side, name: str) -> str:
    words = METRIC_LABELS.get(name, name.replace("_", " "))
    return f"{'validation' if side == 'valid' else 'training'} {words}"


def _plot(
    axes: Axes, history: Sequence[EpochRecord], side: Side, name: str, color: str, style: LineStyle
) -> None:
    epochs, values = _series(history, side, name)
    # Few epochs leave room for markers, and a single one is visible only by its marker.
    marker = "o" if len(epochs) <= 30 else None
    axes.plot(
        epochs,
        values,
        color=color,
        linestyle=style,
        linewidth=1.6,
        marker=marker,
        markersize=3,
        label=_label(side, name),
    )


def _draw_losses(axes: Axes, record: RunRecord) -> None:
    names = _names(record.history, "train")
    train = COMPARABLE_LOSS if COMPARABLE_LOSS in names else "Loss"
    if train in names:
        _plot(axes, record.history, "train", train, BLUE, "--")
    if "Loss" in _names(record.history, "valid"):
        _plot(axes, record.history, "valid", "Loss", VERMILLION, "-")
    _caption(axes, "loss")


def _draw_auxiliary_losses(axes: Axes, record: RunRecord) -> None:
    for index, name in enumerate(_auxiliary_losses(record.history)):
        style = LINE_STYLES[(index + 1) % len(LINE_STYLES)]
        color = (BLUE, PURPLE, GREEN, ORANGE, SKY)[index % 5]
        _plot(axes, record.history, "train", name, color, style)
    _caption(axes, "auxiliary losses")


def _metric_panel(name: str) -> Draw:
    def draw(axes: Axes, record: RunRecord) -> None:
        _plot(axes, record.history, "valid", name, VERMILLION, "-")
        _caption(axes, _label("valid", name))

    return draw


def _caption(axes: Axes, title: str) -> None:
    """Name a panel: one curve by the title, several by a legend."""
    labels = axes.get_legend_handles_labels()[1]
    title = labels[0] if len(labels) == 1 else title
    axes.set_title(title, fontsize=SIZES["label"], loc="left")
    if len(labels) > 1:
        axes.legend(fontsize=SIZES["legend"], edgecolor="none", framealpha=0.85)


def _style(axes: Axes, history: Sequence[EpochRecord]) -> None:
    tidy(axes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    if history:
        # Epochs without a finite value count too: the axis shows where a run ended.
        first, last = (pick(entry.epoch for entry in history) for pick in (min, max))
        margin = min(max(0.3, 0.03 * (last - first)), 0.9)
        axes.set_xlim(first - margin, last + margin)
    drawn = any(np.isfinite(np.asarray(line.get_ydata(), dtype=float)).any() for line in axes.lines)
    if not drawn:
        text = "no finite value recorded" if history else "no epochs recorded"
        axes.text(0.5, 0.5, text, ha="center", transform=axes.transAxes, fontsize=SIZES["label"])
        axes.set_yticks([])
        axes.xaxis.set_visible(bool(history))


def _title(record: RunRecord) -> str:
    identity = record.identity
    epochs = max((entry.epoch for entry in record.history), default=0)  # 0 is the untrained model
    title = f"{identity.model} on {identity.dataset}, seed {identity.seed}, {epochs} "
    title += "epoch" if epochs == 1 else "epochs"
    if record.chosen_epoch is not None and epochs:
        title += f" (dotted line: tested epoch {record.chosen_epoch})"
    return title if record.finished else f"{title}\ndiverged: {record.reason}"


def _draw_run(axes: Axes, run: RunRecord, name: str, color: str, style: LineStyle) -> None:
    epochs, values = _series(run.history, "valid", name)
    axes.plot(epochs, values, color=color, linestyle=style, linewidth=1.1, alpha=0.8)
    if run.finished:
        at, marker = epochs == run.chosen_epoch, "o"
    else:
        last = np.flatnonzero(np.isfinite(values))[-1:]
        at, marker = np.isin(np.arange(len(values)), last), "X"
    axes.plot(epochs[at], values[at], marker, color=color, markersize=5.5, mec="white")


def _overview_legend(
    figure: Figure | SubFigure, records: Sequence[RunRecord], handles: Sequence[Line2D]
) -> None:
    tested = Line2D([], [], color="0.4", linestyle="", marker="o", label="tested epoch")
    handles = [*handles, tested]
    if not all(run.finished for run in records):
        handles.append(Line2D([], [], color="0.4", linestyle="", marker="X", label="diverged"))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=legend_columns(PAGE_WIDTH, [str(line.get_label()) for line in handles]),
        fontsize=SIZES["legend"],
        frameon=False,
    )
