"""Numbers of a comparison as figures show them: in papers' units, with intervals, seeds and n."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from matplotlib.figure import Figure

from MMSA_ext.errors import suggest
from MMSA_ext.records.store import StoreError
from MMSA_ext.reporting.comparison import Comparison, Role
from MMSA_ext.reporting.figures.style import COLUMN_WIDTH, LABEL, TITLE
from MMSA_ext.reporting.figures.wording import wrapped
from MMSA_ext.reporting.metric_names import PRINTED_PLAIN, better, paper_name
from MMSA_ext.reporting.render import counted

# With two seeds a t-interval is nine times as wide as what the seeds span: beyond this multiple of
# what is drawn, an interval is cut and an arrow says so.
_ROOM: Final = 1.0
_MARGIN: Final = 0.05
# Characters an inch in the size of titles.
_TITLE_COLUMNS: Final = 12.0


@dataclass(frozen=True)
class Estimate:
    """What a comparison knows of one row and metric, in the unit of `unit`.

    The mean is NaN without a finished run, the t-interval from `low` to `high` for fewer than two
    seeds, and `published` where the paper prints nothing.
    """

    mean: float
    low: float
    high: float
    n: int
    seeds: tuple[float, ...]
    published: float
    role: Role
    diverged: int


def unit(metric: str) -> tuple[str, float]:
    """Name a metric with its unit, and the factor from our metrics to it.

    Such as `("Acc-7, %", 100)`, and `("MAE", 1)`.
    """
    name = paper_name(metric)
    return (name, 1.0) if metric in PRINTED_PLAIN else (f"{name}, %", 100.0)


def direction(metric: str) -> str:
    """Say in which direction of an axis the better values lie; nothing of the loss."""
    said = {"": "", "lower": "← lower is better", "higher": "higher is better →"}
    return said[better(metric)]


def estimates(comparison: Comparison, metric: str) -> dict[str, Estimate]:
    """Read one metric of all rows, by label and in the table's order.

    Raises:
        StoreError: The comparison has no such metric.
    """
    if metric not in comparison.metrics:
        raise StoreError(
            f"the comparison has no metric {metric!r}; {suggest(metric, list(comparison.metrics))}"
        )
    _, factor = unit(metric)
    found = {}
    lines = comparison.numbers[comparison.numbers["metric"] == metric]
    for line in lines.to_dict("records"):
        seeds = comparison.seed_values.get((line["row"], metric), {})
        found[str(line["row"])] = Estimate(
            mean=factor * line["mean"],
            low=factor * line["ci_low"],
            high=factor * line["ci_high"],
            n=int(line["n"]),
            seeds=tuple(factor * seeds[seed] for seed in sorted(seeds)),
            published=factor * line["published_value"],
            role=line["role"],
            diverged=int(line["diverged"]),
        )
    return found


def limits(shown: Iterable[Estimate]) -> tuple[float, float]:
    """Limits of an axis that holds all means, seeds and published numbers.

    Intervals are held too, unless they would press the rest together.
    """
    shown = list(shown)
    points = _finite(v for e in shown for v in (e.mean, e.published, *e.seeds))
    if not points:
        return 0.0, 1.0
    low, high = min(points), max(points)
    room = _ROOM * (high - low) if high > low else math.inf
    ends = _finite(v for e in shown for v in (e.low, e.high))
    low, high = max(min([low, *ends]), low - room), min(max([high, *ends]), high + room)
    margin = _MARGIN * (high - low) or 0.01 * max(abs(high), 1.0)
    return low - margin, high + margin


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def write_heading(figure: Figure, comparison: Comparison, numbers: Sequence[int]) -> None:
    """Say above a figure what is compared, and on what the means of `numbers` seeds stand."""
    title, dataset = comparison.title, comparison.dataset
    if dataset.lower() not in title.lower():
        title = f"{title}: {dataset}" if title else dataset
    interval = f" and {100 * comparison.confidence:g} % t-interval" if max(numbers) > 1 else ""
    stands = f"{comparison.split} split: mean over {counted(numbers)}{interval}"
    write_title(figure, f"{title}\n{stands}")


def write_title(figure: Figure, text: str) -> None:
    """Write a figure's title, smaller and in more lines where the figure is narrow."""
    size = TITLE if figure.get_figwidth() > COLUMN_WIDTH + 1 else LABEL
    columns = int(_TITLE_COLUMNS * figure.get_figwidth() * TITLE / size)
    figure.suptitle("\n".join(wrapped(line, columns) for line in text.split("\n")), fontsize=size)
