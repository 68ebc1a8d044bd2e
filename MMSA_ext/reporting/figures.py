"""Figures: training curves of one run and of several beside each other; InfoEnh on planted data.

Drawn with matplotlib's objects and the Agg canvas, so no display and no pyplot state is touched.
Colours are those of Okabe and Ito, told apart by colour-blind readers; what a colour says, a line
style or a marker says too, so the figures survive a grey print.
"""

import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from MMSA_ext.reporting.store import EpochRecord, RunRecord, StoreError, write_atomically

BLACK, BLUE, VERMILLION, GREEN = "#000000", "#0072B2", "#D55E00", "#009E73"
ORANGE, PURPLE, SKY = "#E69F00", "#CC79A7", "#56B4E9"
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
LineStyle = Literal["-", "--", "-.", ":"]
LINE_STYLES: tuple[LineStyle, ...] = ("-", "--", "-.", ":")
FORMATS = ("png", "pdf")
SIZES = {"title": 10.5, "label": 9.0, "tick": 8.5, "legend": 8.5}
# In the order of preference: what the panels beside the loss show, where the history has it.
VALID_METRICS = ("MAE", "Corr")
METRIC_LABELS = {"Corr": "Pearson correlation", "Loss": "loss"}
COMPARABLE_LOSS = "prediction_loss"

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
    figure = Figure(figsize=(7.6, 1.0 + 2.0 * len(layout)), layout="constrained")
    axes = figure.subplot_mosaic([[*row] for row in layout])
    for name, draw in panels.items():
        draw(axes[name], record)
        _style(axes[name], record.history)
        if record.chosen_epoch is not None:
            axes[name].axvline(record.chosen_epoch, color="0.3", linewidth=1, linestyle=":")
    for name in layout[-1]:
        axes[name].set_xlabel("epoch", fontsize=SIZES["label"])
    figure.suptitle(_title(record), fontsize=SIZES["title"])
    return _save(figure, Path(path), formats)


def curves_overview(
    records: Sequence[RunRecord], path: str | os.PathLike[str], formats: Sequence[str] = FORMATS
) -> list[Path]:
    """Draw the validation curves of several runs: one row a data set, one colour a model.

    Each seed is a thin line that ends where its training ended; a dot marks the tested epoch and a
    cross the last epoch of a diverged run.

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
    datasets = list(dict.fromkeys(run.identity.dataset for run in records))
    models = list(dict.fromkeys(run.identity.model for run in records))
    # Models differ in what their loss is, so it is shown only where there is nothing else.
    shown = _valid_metrics(records) or ["Loss"]
    figure = Figure(
        figsize=(max(4.4, 3.3 * len(shown)), 1.1 + 2.3 * len(datasets)), layout="constrained"
    )
    grid = figure.subplots(len(datasets), len(shown), squeeze=False)
    for row, dataset in zip(grid, datasets, strict=True):
        runs = [run for run in records if run.identity.dataset == dataset]
        for axes, name in zip(row, shown, strict=True):
            _draw_runs(axes, runs, name, models)
            axes.set_title(f"{dataset}: {_label('valid', name)}", fontsize=SIZES["label"])
    for axes in grid[-1]:
        axes.set_xlabel("epoch", fontsize=SIZES["label"])
    _overview_legend(figure, records, models)
    return _save(figure, Path(path), formats)


def infoenh_study(
    tables: Mapping[str, pd.DataFrame],
    path: str | os.PathLike[str],
    formats: Sequence[str] = FORMATS,
) -> list[Path]:
    """Draw what InfoEnh selects and transports on planted data, one dot a seed.

    Above: the share of the informative tokens that is kept, before and after training, against a
    random choice; and after training the same for cues of the sign that is kept more and of the
    other. Below, of the trained models: the distance between modalities before and after the
    alignment, averaged over pairs, as mean cosine distance and as discrepancy; and how much of a
    cue's mass goes to the word that it belongs to, against a uniform plan.

    Args:
        tables: As `analysis.planted_study.run_study` returns them: `selection` (`seed, stage, part,
            kept, chance`), `signs` (`seed, stage, modality, sign, kept`), `distance` (`seed, stage,
            plan, source, target, cosine, discrepancy`) and `pairs` (`seed, stage, modality, mass,
            chance`).
        path: Target without its ending; an ending that names one of `formats` is dropped.
        formats: File formats, each one file.

    Returns:
        The files written.

    Raises:
        StoreError: matplotlib cannot write one of the formats.
    """
    trained = {name: table[table["stage"] == "trained"] for name, table in tables.items()}
    figure = Figure(figsize=(8.6, 5.6), layout="constrained")
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
        axes[name].set_title(title, fontsize=SIZES["label"], loc="left")
        axes[name].spines[["top", "right"]].set_visible(False)
        axes[name].grid(axis="y", color="0.9", linewidth=0.8)
        axes[name].set_axisbelow(True)
        axes[name].tick_params(labelsize=SIZES["tick"])
    figure.legend(
        handles=_study_legend(),
        loc="outside lower center",
        ncols=5,
        fontsize=SIZES["legend"],
        frameon=False,
    )
    return _save(figure, Path(path), formats)


STUDY_TITLES = {
    "kept": "share of the informative tokens that is kept",
    "signs": "cues kept, by their sign",
    "cosine": "mean cosine distance between modalities",
    "discrepancy": "discrepancy (MMD) between modalities",
    "pairs": "mass from a cue to its word",
}
STAGES = {"untrained": (SKY, "s", -0.14), "trained": (BLUE, "o", 0.14)}


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


def _study_legend() -> list[Line2D]:
    dots = [(color, marker, stage) for stage, (color, marker, _) in STAGES.items()]
    dots += [(VERMILLION, "v", "trained, other sign"), (BLACK, "o", "before alignment")]
    chance = Line2D([], [], color=BLACK, linestyle="--", linewidth=1.2, label="by chance")
    return [
        Line2D([], [], color=color, marker=marker, linewidth=2, label=label)
        for color, marker, label in dots
    ] + [chance]


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
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SIZES["tick"])
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


def _draw_runs(axes: Axes, runs: Sequence[RunRecord], name: str, models: Sequence[str]) -> None:
    for run in runs:
        color, style = _look(models.index(run.identity.model))
        epochs, values = _series(run.history, "valid", name)
        axes.plot(epochs, values, color=color, linestyle=style, linewidth=1.1, alpha=0.8)
        if run.finished:
            at, marker = epochs == run.chosen_epoch, "o"
        else:
            last = np.flatnonzero(np.isfinite(values))[-1:]
            at, marker = np.isin(np.arange(len(values)), last), "X"
        axes.plot(epochs[at], values[at], marker, color=color, markersize=5.5, mec="white")
    _style(axes, [entry for run in runs for entry in run.history])


def _look(index: int) -> tuple[str, LineStyle]:
    """Give each model a colour and a line style: 7 and 4 have no divisor, so 28 pairs differ."""
    return PALETTE[index % len(PALETTE)], LINE_STYLES[index % len(LINE_STYLES)]


def _overview_legend(figure: Figure, records: Sequence[RunRecord], models: Sequence[str]) -> None:
    handles = []
    for index, model in enumerate(models):
        color, style = _look(index)
        seeds = {run.identity.seed for run in records if run.identity.model == model}
        text = f"{model} ({len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'})"
        handles.append(Line2D([], [], color=color, linestyle=style, linewidth=1.6, label=text))
    handles.append(Line2D([], [], color="0.4", linestyle="", marker="o", label="tested epoch"))
    if not all(run.finished for run in records):
        handles.append(Line2D([], [], color="0.4", linestyle="", marker="X", label="diverged"))
    columns = max(2, int(figure.get_figwidth() // 1.6))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(columns, len(handles)),
        fontsize=SIZES["legend"],
        frameon=False,
    )


def _save(figure: Figure, path: Path, formats: Sequence[str]) -> list[Path]:
    """Write each format atomically, equal bytes for equal records."""
    unknown = sorted(set(formats) - set(figure.canvas.get_supported_filetypes()))
    if unknown:
        raise StoreError(f"figures cannot be written as {', '.join(unknown)}; use png, pdf or svg.")
    base = path.with_suffix("") if path.suffix[1:] in formats else path
    written = []
    for name in formats:
        buffer = io.BytesIO()
        # Type 42 fonts are what publishers accept; a date would make every file differ.
        with mpl.rc_context({"pdf.fonttype": 42, "svg.hashsalt": "MMSA_ext"}):
            metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(name)
            figure.savefig(buffer, format=name, dpi=200, metadata=metadata)
        target = base.with_name(f"{base.name}.{name}")
        write_atomically(target, buffer.getvalue())
        written.append(target)
    return written
