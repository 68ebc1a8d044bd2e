"""A comparison as a table, in MMSA's x100 with two digits.

A system has up to four lines: mean ± sample standard deviation; the interval of the mean; its
difference to the row it is compared with; what a paper prints.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from MMSA_ext.files import write_atomically
from MMSA_ext.reporting.comparison import Comparison, lower_is_better
from MMSA_ext.reporting.render import (
    NOTHING,
    Cell,
    Column,
    Row,
    Table,
    csv_text,
    interval,
    mean_std,
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
            *(
                Column(name, "center", "lower" if lower_is_better(name) else "higher")
                for name in comparison.metrics
            ),
        ),
        tuple(rows),
        f"{comparison.title}. {where}" if comparison.title else where,
        _legend(comparison, kinds),
        comparison.facts,
        front=2,
    )


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
        formats: Of csv (`Comparison.numbers`), md, tex, html (a page) and txt.

    Returns:
        The paths, in the order of `formats`.

    Raises:
        StatisticsError: A format is not one of these; nothing is written.
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        raise StatisticsError(f"no table format {unknown[0]!r}; known: {', '.join(FORMATS)}.")
    table = comparison_table(comparison)
    contents = {
        "csv": csv_text(comparison.numbers),
        "md": to_markdown(table),
        "tex": to_latex(table, label=f"tab:{stem}"),
        "html": to_html(table, page=True),
        "txt": to_text(table) + "\n",
    }
    paths = [folder / f"{stem}.{name}" for name in formats]
    for name, path in zip(formats, paths, strict=True):
        write_atomically(path, contents[name])
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
