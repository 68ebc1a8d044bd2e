"""A comparison as a table, in MMSA's x100 with two digits.

A system has up to four lines: mean ± sample standard deviation; the interval of the mean; its
difference to the row it is compared with; what a paper prints.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd

from MMSA_ext.files import write_atomically
from MMSA_ext.reporting.comparison import Comparison
from MMSA_ext.reporting.metric_names import PAPER_ORDER, PRINTED_PLAIN, better, paper_name
from MMSA_ext.reporting.render import (
    NOTHING,
    Cell,
    Column,
    Mark,
    Row,
    Table,
    counted,
    csv_text,
    interval,
    mean_std,
    number,
    p_text,
    to_html,
    to_latex,
    to_markdown,
    to_text,
    x100,
)
from MMSA_ext.reporting.statistics import StatisticsError

Detail = Literal["interval", "difference", "printed"]
DETAILS: Final[tuple[Detail, ...]] = ("interval", "difference", "printed")
FORMATS: Final = ("csv", "md", "tex", "html", "txt")


def comparison_table(comparison: Comparison, details: Sequence[Detail] = DETAILS) -> Table:
    """Lay a comparison out as a table, its facts as notes.

    Args:
        comparison: From `compare`.
        details: Lines to show below the mean of a system, where it has them.
    """
    kinds: dict[str, None] = {}
    rows = []
    for kind, row in _lines(comparison, details):
        kinds[kind] = None
        rows.append(row)
    where = f"{comparison.dataset or 'no data set'}, {comparison.split} split"
    return Table(
        (
            Column("system", "left"),
            Column("n", meaning="seeds that count"),
            *map(metric_column, comparison.metrics),
        ),
        tuple(rows),
        f"{comparison.title}. {where}" if comparison.title else where,
        _legend(comparison, kinds),
        comparison.facts,
        front=2,
    )


def metric_column(metric: str) -> Column:
    """The column of a metric: the papers' name in two lines, MMSA's as its meaning."""
    name = paper_name(metric)
    meaning = f"MMSA's {metric}" if name != metric else ""
    return Column(name.replace(" (", "\n("), "center", better(metric), meaning)


def paper_table(comparison: Comparison, *, spread: bool = True) -> Table:
    """Lay a comparison out as papers print it: one line a system, nothing below the table.

    Accuracies and F1 scores are in percent with two digits, MAE and Corr as they are with three;
    the loss is left out, and Acc-5 where Acc-7 is there. What prints alike is marked alike.

    Args:
        comparison: From `compare`; its seeds and split are in the caption.
        spread: Whether the standard deviation (sample) follows the mean.
    """
    names: list[str] = [name for name in PAPER_ORDER if name in comparison.metrics]
    names += [name for name in comparison.metrics if name not in (*PAPER_ORDER, "Loss")]
    if "Mult_acc_7" in names and "Mult_acc_5" in names:
        names.remove("Mult_acc_5")
    lines = comparison.numbers.to_dict("records")
    cells = {
        name: _paper_cells([line for line in lines if line["metric"] == name], name, spread)
        for name in names
    }
    seeds = comparison.numbers["n"]
    what = "Mean ± standard deviation" if spread and seeds.max() > 1 else "Mean"
    title = f"{comparison.title}. " if comparison.title else ""
    return Table(
        (Column("Model", "left"), *map(metric_column, names)),
        tuple(
            Row((label, *(cells[name][place] for name in names)))
            for place, label in enumerate(comparison.rows)
        ),
        f"{title}{what} over {counted(seeds)}, {comparison.dataset}, {comparison.split} split",
        legend=None,
    )


def _paper_cells(lines: Sequence[Mapping[Any, Any]], metric: str, spread: bool) -> list[Cell]:
    """A cell a row, in the table's order."""
    scale, form = (1, ".3f") if metric in PRINTED_PLAIN else (100, ".2f")
    texts = [number(scale * line["mean"], form) for line in lines]
    marks: dict[str, Mark] = {}
    ranks: tuple[Mark, ...] = ("second", "best")
    for mark in ranks:
        marks |= {t: mark for t, line in zip(texts, lines, strict=True) if line["best"] == mark}
    return [
        Cell(
            text,
            f" ± {number(scale * line['std'], form)}" if spread and line["n"] > 1 else "",
            marks.get(text, "") if line["n"] == line["seeds"] or line["best"] else "",
        )
        for text, line in zip(texts, lines, strict=True)
    ]


def comparison_text(
    comparisons: Sequence[Comparison],
    form: str,
    *,
    paper: bool = False,
    spread: bool = True,
    label: str | None = None,
) -> str:
    """Write comparisons below each other in one of `FORMATS`, with a final newline.

    Args:
        comparisons: The tables.
        form: csv (`Comparison.numbers`, plain numbers whatever the style), md, tex, html (a page;
            of several tables, sections for one) or txt.
        paper: As `paper_table` lays it out, with or without its `spread`; else in full.
        spread: See `paper_table`.
        label: For LaTeX, of one table.

    Raises:
        StatisticsError: The format is none of these.
    """
    if form not in FORMATS:
        raise StatisticsError(f"no table format {form!r}; known: {', '.join(FORMATS)}.")
    if form == "csv":
        return csv_text(pd.concat([found.numbers for found in comparisons]))
    tables = [
        paper_table(found, spread=spread) if paper else comparison_table(found)
        for found in comparisons
    ]
    write: dict[str, Callable[[Table], str]] = {
        "txt": lambda table: to_text(table) + "\n",
        "md": to_markdown,
        "tex": partial(to_latex, label=label),
        "html": partial(to_html, page=len(tables) == 1),
    }
    return "\n".join(map(write[form], tables))


def write_comparison(
    comparison: Comparison,
    folder: Path,
    stem: str,
    formats: Sequence[str] = ("csv", "md", "tex", "html"),
) -> list[Path]:
    """Write a comparison as `<folder>/<stem>.<format>`, each file whole and atomically.

    Args:
        comparison: The table.
        folder: Made where it is missing.
        stem: Name of the files, and of the LaTeX label `tab:<stem>`.
        formats: As for `comparison_text`.

    Returns:
        The paths, in the order of `formats`.

    Raises:
        StatisticsError: A format is not known; nothing is written.
    """
    texts = {form: comparison_text([comparison], form, label=f"tab:{stem}") for form in formats}
    paths = [folder / f"{stem}.{form}" for form in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_atomically(path, text)
    return paths


def _lines(comparison: Comparison, details: Sequence[Detail]) -> Iterator[tuple[str, Row]]:
    """The lines of every system, each with its kind."""
    for label, found in comparison.numbers.groupby("row", sort=False):
        lines = found.to_dict("records")
        first, n = lines[0], max(line["n"] for line in lines)
        count = str(n or "") if n == first["seeds"] else f"{n}/{first['seeds']}"
        head = _head(str(label), first["role"], label == comparison.baseline)
        yield "mean", Row((head, count, *(_mean(line, n) for line in lines)))
        # The other row is named, unless it is the same for all and stands in the legend.
        to = "" if comparison.baseline is not None else f"to {first['compared_with']} "
        marks = dict.fromkeys(line["published_mark"] for line in lines)
        extra = {
            "interval": (f"{100 * comparison.confidence:g} % interval", _interval),
            "difference": (f"difference {to}(p)", _difference),
            "printed": (" ".join(filter(None, ("printed", *marks))), _printed),
        }
        for kind in DETAILS:
            name, show = extra[kind]
            cells = [show(line) for line in lines]
            if kind in details and any(cell.text for cell in cells):
                yield kind, Row((name, "", *cells), detail=True)


def _head(label: str, role: str, baseline: bool) -> str:
    marks = [*(["control"] * (role == "control")), *(["baseline"] * baseline)]
    return f"{label} ({', '.join(marks)})" if marks else label


def _mean(line: Mapping[Any, Any], n: int) -> Cell:
    if line["n"] == 0:
        return Cell(NOTHING if line["seeds"] else "")
    cell = mean_std(line["mean"], line["std"])
    # A metric that some seed leaves undefined has an n of its own.
    count = f" (n={line['n']})" if line["n"] != n else ""
    return Cell(cell.text, cell.rest + count, line["best"])


def _interval(line: Mapping[Any, Any]) -> Cell:
    return Cell("" if math.isnan(line["ci_low"]) else interval(line["ci_low"], line["ci_high"]))


def _difference(line: Mapping[Any, Any]) -> Cell:
    if line["difference_n"] == 0:
        return Cell()
    count = f", n={line['difference_n']}" if line["difference_n"] != line["n"] else ""
    return Cell(x100(line["difference"], signed=True), f" ({p_text(line['p_holm'])}{count})")


def _printed(line: Mapping[Any, Any]) -> Cell:
    value = line["published_value"]
    return Cell("" if math.isnan(value) else x100(value))


def _legend(comparison: Comparison, kinds: Mapping[str, None]) -> str:
    other = comparison.baseline or "the row named in the line"
    said = {
        "mean": "mean ± standard deviation (sample, divisor n - 1) over n seeds, all metrics x100",
        "interval": f"{100 * comparison.confidence:g} % t-interval of the mean",
        "difference": f"difference to {other} (corrected p)",
        "printed": "printed: the paper's number, of other settings",
    }
    return "; ".join(text for kind, text in said.items() if kind in kinds)
