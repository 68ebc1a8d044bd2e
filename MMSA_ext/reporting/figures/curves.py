"""Training curves, of one run and of several beside each other."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from MMSA_ext.records.store import EpochRecord, RunRecord, StoreError
from MMSA_ext.reporting.figures.style import (
    BLUE,
    GREEN,
    LABEL,
    LINE_STYLES,
    ORANGE,
    PAGE_WIDTH,
    PURPLE,
    SKY,
    TICK,
    VERMILLION,
    LineStyle,
    entry,
    house_style,
    legend_below,
    look,
    panels,
)
from MMSA_ext.reporting.figures.wording import wrapped
from MMSA_ext.reporting.groups import by_data, by_experiment, data_titles, labels
from MMSA_ext.reporting.metric_names import paper_name

# In the order of preference: what the panels beside the loss show, where the history has it.
VALID_METRICS = ("MAE", "Corr")
COMPARABLE_LOSS = "prediction_loss"
SYSTEMS_TOGETHER, PANELS_BESIDE = 4, 3
# Of a single system, so many seeds are told apart by colours.
SEEDS_TOLD = 10
# Characters of a system's name in a line above a panel.
SYSTEM_COLUMNS = 34

FloatArray = npt.NDArray[np.float64]
Side = Literal["train", "valid"]
Curve = tuple[Side, str, str, LineStyle]
Parts = dict[str, dict[str, list[RunRecord]]]


@house_style()
def training_curves(record: RunRecord) -> Figure:
    """Draw one run by epoch: losses on the left, validation metrics on the right.

    The training loss shown beside the validation loss is the prediction loss, where the history
    tells it apart; auxiliary losses (contrastive and others) have a panel of their own, because
    their scale is another. The tested epoch is marked. Undefined values leave a gap.

    Args:
        record: The run; a diverged one and one without history are drawn as far as they go.
    """
    curves = _curves(record)
    layout = _layout(list(curves))
    figure = Figure(figsize=(PAGE_WIDTH, 1.0 + 2.0 * len(layout)))
    shown = figure.subplot_mosaic([[*row] for row in layout])
    for title, lines in curves.items():
        axes = shown[title]
        for side, name, color, style in lines:
            _plot(axes, record.history, side, name, color, style)
        # One curve is named by the title, several by a legend.
        if len(lines) > 1:
            axes.legend(frameon=True, edgecolor="none", framealpha=0.85)
        axes.set_title(_label(*lines[0][:2]) if len(lines) == 1 else title)
        _mark_epochs(axes, record.history)
        if record.chosen_epoch is not None:
            axes.axvline(record.chosen_epoch, color="0.3", linewidth=1, linestyle=":")
    for title in layout[-1]:
        shown[title].set_xlabel("epoch")
    figure.suptitle(_title(record))
    return figure


@house_style()
def curves_overview(records: Sequence[RunRecord], names: Mapping[str, str] | None = None) -> Figure:
    """Draw the validation curves of several runs.

    Up to four systems (a model with one configuration) share a panel: one row a data set, one
    colour and line style a system. More would hide each other, so each has a panel of its own, with
    the others in grey behind it; the panels of a data set and metric share their axes. Each seed is
    a thin line that ends where its training ended; a dot marks the tested epoch and a cross the
    last epoch of a diverged run. The seeds of a single system have a colour and line style each.

    Args:
        records: Runs of any data sets, models and seeds.
        names: By experiment, what its system is called, in the order of colours; by default the
            model and what tells its experiments apart.

    Raises:
        StoreError: There are no records.
    """
    if not records:
        raise StoreError("there are no runs to draw; train one first.")
    data = by_data(records)
    titles = data_titles(data)
    # By data set, then by system. A data set may have fewer systems than another.
    parts: Parts = {}
    for key, here in data.items():
        groups = by_experiment(here)
        called = labels(groups) if names is None else names
        parts[titles[key]] = {called[experiment]: runs for experiment, runs in groups.items()}
    order = list(dict.fromkeys(name for systems in parts.values() for name in systems))
    if names is not None:
        order.sort(key=list(names.values()).index)
    # Models differ in what their loss is, so it is shown only where there is nothing else.
    shown = _valid_metrics(records) or ["Loss"]
    draw = _draw_together if len(order) <= SYSTEMS_TOGETHER else _draw_apart
    return draw(records, parts, order, shown)


def _draw_together(
    records: Sequence[RunRecord], parts: Parts, order: Sequence[str], shown: Sequence[str]
) -> Figure:
    # One system is told by its title, and its seeds by colours; several are told by colours.
    seeds = list(dict.fromkeys(run.identity.seed for run in records))
    single = len(order) == 1 and len(seeds) <= SEEDS_TOLD

    def style(name: str, run: RunRecord) -> tuple[str, LineStyle]:
        return look(seeds.index(run.identity.seed) if single else order.index(name))

    width = PAGE_WIDTH if len(shown) > 1 else 4.4
    if single:
        handles = [_line(f"seed {seed}", look(place)) for place, seed in enumerate(seeds)]
    else:
        handles = [_line(_named(parts, name), look(i)) for i, name in enumerate(order)]
    figure = Figure(figsize=(width, 1.1 + 2.3 * len(parts) + 0.12 * len(handles)))
    grid = figure.subplots(len(parts), len(shown), squeeze=False)
    for row, (dataset, systems) in zip(grid, parts.items(), strict=True):
        for axes, metric in zip(row, shown, strict=True):
            for name, runs in systems.items():
                for run in runs:
                    _draw_run(axes, run, metric, *style(name, run))
            _mark_epochs(axes, [epoch for run in _all(systems) for epoch in run.history])
            axes.set_title(f"{dataset}: {_label('valid', metric)}", loc="center")
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    if single:
        figure.suptitle(wrapped(order[0], SYSTEM_COLUMNS * 2))
    _overview_legend(figure, records, handles)
    return figure


def _draw_apart(
    records: Sequence[RunRecord], parts: Parts, order: Sequence[str], shown: Sequence[str]
) -> Figure:
    columns = min(PANELS_BESIDE, len(order))
    blocks = [(dataset, metric) for dataset in parts for metric in shown]
    heights = [math.ceil(len(parts[dataset]) / columns) for dataset, _ in blocks]
    lines = max(wrapped(name, SYSTEM_COLUMNS).count("\n") for name in order)
    row = 1.35 + 0.14 * lines
    figure = Figure(figsize=(PAGE_WIDTH, 0.5 + sum(0.3 + row * h for h in heights)))
    blocks_drawn = figure.subfigures(len(blocks), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (dataset, metric), height in zip(blocks_drawn, blocks, heights, strict=True):
        systems = {name: parts[dataset][name] for name in order if name in parts[dataset]}
        grid = panels(part, len(systems), (height, columns), sharex=True, sharey=True)
        for axes, (name, runs) in zip(grid, systems.items(), strict=True):
            for run in _all(systems):
                epochs, values = _series(run.history, "valid", metric)
                axes.plot(epochs, values, color="0.85", linewidth=0.7, zorder=1)
            for run in runs:
                _draw_run(axes, run, metric, *look(order.index(name)))
            _mark_epochs(axes, [epoch for run in _all(systems) for epoch in run.history])
            title = f"{wrapped(name, SYSTEM_COLUMNS)}\n{_seeds(runs)}"
            axes.set_title(title, fontsize=TICK - 1, loc="left")
            axes.xaxis.set_tick_params(labelbottom=axes in grid[-columns:])
        part.suptitle(f"{dataset}: {_label('valid', metric)} by epoch", fontsize=LABEL)
    others = entry("the others", "0.75", line="-", linewidth=1.2)
    _overview_legend(blocks_drawn[-1], records, [others])
    return figure


def _all(systems: Mapping[str, Sequence[RunRecord]]) -> list[RunRecord]:
    return [run for runs in systems.values() for run in runs]


def _line(text: str, looks: tuple[str, LineStyle]) -> Line2D:
    return entry(text, looks[0], line=looks[1], linewidth=1.6)


def _named(parts: Parts, name: str) -> str:
    """A system with its seeds, those of all data sets."""
    return f"{name}: {_seeds([run for systems in parts.values() for run in systems.get(name, ())])}"


def _seeds(runs: Sequence[RunRecord]) -> str:
    """Say which seeds there are: "seeds 1111, 1112", and "seeds 1111 to 1115" of a whole range."""
    seeds = sorted({run.identity.seed for run in runs})
    if len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1:
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _curves(record: RunRecord) -> dict[str, list[Curve]]:
    """What the history can fill, by the title of the panel; the loss panel is always there."""
    names = _names(record.history, "train")
    train = COMPARABLE_LOSS if COMPARABLE_LOSS in names else "Loss"
    found: dict[str, list[Curve]] = {"loss": []}
    if train in names:
        found["loss"].append(("train", train, BLUE, "--"))
    if "Loss" in _names(record.history, "valid"):
        found["loss"].append(("valid", "Loss", VERMILLION, "-"))
    auxiliary = [name for name in names if name.endswith("_loss") and name != COMPARABLE_LOSS]
    if auxiliary:
        colors, styles = (BLUE, PURPLE, GREEN, ORANGE, SKY), LINE_STYLES
        found["auxiliary losses"] = [
            ("train", name, colors[i % len(colors)], styles[(i + 1) % len(styles)])
            for i, name in enumerate(auxiliary)
        ]
    for name in _valid_metrics([record]):
        found[_label("valid", name)] = [("valid", name, VERMILLION, "-")]
    return found


def _layout(names: list[str]) -> list[list[str]]:
    """Put losses in the left column and metrics in the right; the shorter column stretches."""
    left = [name for name in names if name in ("loss", "auxiliary losses")]
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


def _valid_metrics(records: Sequence[RunRecord]) -> list[str]:
    """Choose the validation curves beside the loss: MAE and Corr, or else the first two."""
    names = dict.fromkeys(name for run in records for name in _names(run.history, "valid"))
    preferred = [name for name in VALID_METRICS if name in names]
    return preferred or [name for name in names if name != "Loss"][:2]


def _label(side: Side, name: str) -> str:
    words = "loss" if name == "Loss" else paper_name(name).replace("_", " ")
    return f"{'validation' if side == 'valid' else 'training'} {words}"


def _plot(
    axes: Axes, history: Sequence[EpochRecord], side: Side, name: str, color: str, style: LineStyle
) -> None:
    epochs, values = _series(history, side, name)
    # Few epochs leave room for markers, and a single one is visible only by its marker.
    marker = "o" if len(epochs) <= 30 else None
    look: dict[str, Any] = {"color": color, "linestyle": style, "linewidth": 1.6, "markersize": 3}
    axes.plot(epochs, values, marker=marker, label=_label(side, name), **look)


def _mark_epochs(axes: Axes, history: Sequence[EpochRecord]) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    if history:
        # Epochs without a finite value count too: the axis shows where a run ended.
        first, last = (pick(entry.epoch for entry in history) for pick in (min, max))
        margin = min(max(0.3, 0.03 * (last - first)), 0.9)
        axes.set_xlim(first - margin, last + margin)
    drawn = any(np.isfinite(np.asarray(line.get_ydata(), dtype=float)).any() for line in axes.lines)
    if not drawn:
        text = "no finite value recorded" if history else "no epochs recorded"
        axes.text(0.5, 0.5, text, ha="center", transform=axes.transAxes, fontsize=LABEL)
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
    handles = [*handles, entry("tested epoch", "0.4", "o")]
    if not all(run.finished for run in records):
        handles.append(entry("diverged", "0.4", "X"))
    legend_below(figure, handles, PAGE_WIDTH)
