"""What opens for an experiment in the report: its facts run by run, and its validation curves."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from MMSA_ext.records.store import RunRecord
from MMSA_ext.reporting.figures.style import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION
from MMSA_ext.reporting.metric_names import paper_name
from MMSA_ext.reporting.render import NOTHING, number, x100
from MMSA_ext.reporting.report_contents import SPLIT

# Validation curves that are drawn, where the history has them.
CURVES: Final = ("MAE", "Corr", "Loss")
# Size of a drawing, and the room for its axes' numbers, in its own units.
WIDTH, HEIGHT, LEFT, BOTTOM, EDGE = 340, 190, 52, 24, 10
# Of seeds; they can be told apart on a dark page too.
COLORS: Final = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
DASHES: Final = ("none", "7 3", "7 3 2 3", "2 3")

Points = list[tuple[float, float]]


class Line(NamedTuple):
    """One seed's curve in a chart, in the units of the drawing, with its colour and dashes."""

    seed: int
    color: str
    dashes: str
    points: str
    chosen: tuple[float, float] | None
    diverged: tuple[float, float] | None


class Chart(NamedTuple):
    """A metric on the validation split by epoch, to be drawn as SVG; a line a seed with values.

    Attributes:
        levels: Height in the drawing, and text, of the lowest and the highest value.
        epochs: Place and text of the first and the last epoch.
    """

    title: str
    lines: list[Line]
    levels: list[tuple[float, str]]
    epochs: list[tuple[float, str]]


def facts(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """One line a fact: its name, and its text for every run, or once where all runs share it.

    The runs are of one experiment. Metrics come last, those of the test split first.
    """

    def each(value: Callable[[RunRecord], str]) -> list[str]:
        return [value(run) for run in runs]

    def shared(value: Callable[[RunRecord], str]) -> list[str]:
        return list(dict.fromkeys(each(value))) if len(set(each(value))) == 1 else each(value)

    def one_digit(value: float | None) -> str:
        return number(value, ".1f")

    splits = _names(run.metrics for run in runs)
    return [
        ("status", shared(lambda r: f"{r.status}: {r.reason}" if r.reason else r.status)),
        ("selection rule", shared(lambda r: r.selection)),
        ("tested epoch", each(lambda r: _text(r.chosen_epoch))),
        ("epochs trained", each(lambda r: str(max((e.epoch for e in r.history), default=0)))),
        *(
            (f"{phase}, seconds", [one_digit(run.timings.get(phase)) for run in runs])
            for phase in _names(run.timings for run in runs)
        ),
        ("peak memory, MiB", each(lambda r: one_digit(r.peak_memory_mb))),
        ("environment", shared(lambda r: r.environment.describe())),
        ("code version", shared(lambda r: r.identity.code_version)),
        ("features made by", shared(lambda r: "; ".join(_makers(r.recipe)) or NOTHING)),
        ("notes", shared(lambda r: "; ".join(r.notes) or NOTHING)),
        ("checkpoint", shared(lambda r: _text(r.checkpoint))),
        ("run", each(lambda r: r.identity.short_id)),
        ("recorded", each(lambda r: r.created.isoformat())),
        *(
            (
                f"{split} {paper_name(name)} \N{MULTIPLICATION SIGN}100",
                [x100(run.metrics.get(split, {}).get(name)) for run in runs],
            )
            for split in sorted(splits, key=lambda split: (split != SPLIT, split))
            for name in _names(run.metrics.get(split, {}) for run in runs)
        ),
    ]


def _makers(recipe: Mapping[str, Mapping[str, object]]) -> list[str]:
    """One text a modality, such as "text: name minilm, version 0.1.0, max_length 50"."""
    return [f"{m}: {', '.join(f'{k} {v}' for k, v in made.items())}" for m, made in recipe.items()]


def _names(parts: Iterable[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(name for part in parts for name in part))


def _text(value: object) -> str:
    return NOTHING if value is None else str(value)


def charts(runs: Sequence[RunRecord]) -> list[Chart]:
    """The validation curves of an experiment, one chart a metric that its history has."""
    drawn = ((name, [_points(run, name) for run in runs]) for name in CURVES)
    return [_chart(name, runs, points) for name, points in drawn if any(points)]


def _points(run: RunRecord, name: str) -> Points:
    values = ((entry.epoch, entry.valid.get(name)) for entry in run.history)
    return [(epoch, value) for epoch, value in values if value is not None]


def _chart(name: str, runs: Sequence[RunRecord], curves: Sequence[Points]) -> Chart:
    epochs, values = zip(*(point for points in curves for point in points), strict=True)
    x, y = _Scale(epochs, LEFT, WIDTH - EDGE), _Scale(values, HEIGHT - BOTTOM, EDGE)
    lines = []
    for place, (run, points) in enumerate(zip(runs, curves, strict=True)):
        places = {epoch: (x(epoch), y(value)) for epoch, value in points}
        if places:
            path = " ".join(f"{a},{b}" for a, b in places.values())
            end = None if run.finished else [*places.values()][-1]
            chosen = None if run.chosen_epoch is None else places.get(run.chosen_epoch)
            color, dashes = COLORS[place % len(COLORS)], DASHES[place % len(DASHES)]
            lines.append(Line(run.identity.seed, color, dashes, path, chosen, end))
    return Chart(
        f"validation {name} by epoch",
        lines,
        [(y(value), f"{value:#.3g}") for value in (y.low, y.high)],
        [(x(epoch), str(epoch)) for epoch in (x.low, x.high)],
    )


class _Scale:
    """From values to places in the drawing."""

    def __init__(self, values: Sequence[float], start: float, stop: float) -> None:
        self.low, self.high = min(values), max(values)
        self.start, self.span = start, (stop - start) / ((self.high - self.low) or 1)

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) * self.span, 1)
