r"""A comparison table as CSV, Markdown, LaTeX, HTML and text for a terminal.

All but the CSV, which has the plain numbers, show MMSA's x100 with two digits. A system has up to
four lines: mean ± sample standard deviation; the interval of the mean; its difference to the row
it is compared with; what a paper prints. The facts that the numbers depend on stand below every
table.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import jinja2

from MMSA_ext.files import write_atomically
from MMSA_ext.reporting.comparison import Comparison, lower_is_better
from MMSA_ext.reporting.statistics import StatisticsError, p_text
from MMSA_ext.reporting.tables import TABLE_WIDTH, csv_text, text_blocks, text_notes

Detail = Literal["interval", "difference", "printed"]
DETAILS: Final[tuple[Detail, ...]] = ("interval", "difference", "printed")


@dataclass(frozen=True)
class _Cell:
    """One cell: what is marked as best, and what follows it."""

    value: str = ""
    rest: str = ""
    best: str = ""

    @property
    def plain(self) -> str:
        return f"{self.value}{self.rest}"


@dataclass(frozen=True)
class _Line:
    kind: Literal["mean", "interval", "difference", "printed"]
    head: str
    n: str
    cells: tuple[_Cell, ...]


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
    writers: Mapping[str, Callable[[], str]] = {
        "csv": lambda: to_csv(comparison),
        "md": lambda: to_markdown(comparison),
        "tex": lambda: to_latex(comparison, label=f"tab:{re.sub(r'[^A-Za-z0-9:-]', '-', stem)}"),
        "html": lambda: to_html(comparison, page=True),
        "txt": lambda: render_text(comparison) + "\n",
    }
    if unknown := [name for name in formats if name not in writers]:
        raise StatisticsError(f"no table format {unknown[0]!r}; known: {', '.join(writers)}.")
    contents = {folder / f"{stem}.{name}": writers[name]() for name in formats}
    for path, content in contents.items():
        write_atomically(path, content)
    return list(contents)


def to_csv(comparison: Comparison) -> str:
    """Write the plain numbers, before x100, one line a row and metric."""
    return csv_text(comparison.numbers)


def render_text(
    comparison: Comparison, width: int = TABLE_WIDTH, details: Sequence[Detail] = DETAILS
) -> str:
    """Render for a terminal.

    Args:
        comparison: The table.
        width: Columns of the terminal; wider tables are broken into blocks of metrics.
        details: Lines to show below the mean of a system.

    Returns:
        Text without a final newline. Best and second best are followed by ¹ and ².
    """
    lines = list(_lines(comparison, details))
    heads = ["system", *(line.head if line.kind == "mean" else f"  {line.head}" for line in lines)]
    front = [heads, ["n", *(line.n for line in lines)]]
    marks = {"best": " ¹", "second": " ²", "": "  "}
    columns = [
        [
            f"{name} {_arrow(name)}  ",
            *(line.cells[i].plain + marks[line.cells[i].best] for line in lines),
        ]
        for i, name in enumerate(comparison.metrics)
    ]
    notes = [("cells", _legend(comparison, lines, "¹ best, ² second best")), *_notes(comparison)]
    tables = [_trimmed(block) for block in text_blocks(front, columns, width)]
    return "\n\n".join([_caption(comparison), *tables, text_notes(notes, width)])


def to_markdown(comparison: Comparison, details: Sequence[Detail] = DETAILS) -> str:
    """Render as Markdown (GitHub's tables).

    Args:
        comparison: The table.
        details: Lines to show below the mean of a system.

    Returns:
        Title, table and facts, with a final newline. Best is bold, second best italic, because
        Markdown cannot underline.
    """
    lines = list(_lines(comparison, details))
    marks = {"best": "**{}**", "second": "*{}*", "": "{}"}
    rows = [
        [
            "System",
            "n",
            *(f"{_escape_markdown(name)} {_arrow(name)}" for name in comparison.metrics),
        ],
        *(
            [
                ("" if line.kind == "mean" else "\N{EM SPACE}") + _escape_markdown(line.head),
                line.n,
                *(
                    marks[cell.best].format(_minus(cell.value))
                    + _escape_markdown(_minus(cell.rest))
                    for cell in line.cells
                ),
            ]
            for line in lines
        ),
    ]
    table = [f"| {' | '.join(row)} |" for row in rows]
    table.insert(1, "|".join(["", "---", *["--:"] * (len(rows[0]) - 1), ""]))
    legend = _legend(comparison, lines, "**best**, *second best*")
    notes = [f"- {name}: {_escape_markdown(text)}" for name, text in _notes(comparison)]
    blocks = [
        f"**{_escape_markdown(_caption(comparison))}**",
        "\n".join(table),
        legend,
        "\n".join(notes),
    ]
    return "\n\n".join(blocks) + "\n"


def to_latex(
    comparison: Comparison, details: Sequence[Detail] = DETAILS, *, label: str | None = None
) -> str:
    r"""Render as a LaTeX table, for the packages booktabs and adjustbox.

    Args:
        comparison: The table.
        details: Lines to show below the mean of a system.
        label: For `\ref`; None for none.

    Returns:
        A `table` environment with a final newline, shrunk where it is wider than the line, its
        facts as notes below. Best is bold, second best underlined. Text in scripts other than
        Latin needs XeLaTeX or LuaLaTeX and a font.
    """
    lines = list(_lines(comparison, details))
    heads = [f"{_escape_latex(name)} {_escape_latex(_arrow(name))}" for name in comparison.metrics]
    body: list[str] = []
    for line in lines:
        if line.kind == "mean" and body:
            body.append(r"\addlinespace")
        body.append(_latex_row([_latex_head(line), line.n, *map(_latex_cell, line.cells)]))
    legend = _legend(comparison, lines, "bold: best, underlined: second best")
    notes = [_escape_latex(legend), *(_latex_note(*note) for note in _notes(comparison))]
    return "\n".join(
        [
            r"% \usepackage{booktabs,adjustbox}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escape_latex(_caption(comparison))}}}",
            *([rf"\label{{{label}}}"] if label else []),
            r"\small",
            r"\begin{adjustbox}{max width=\linewidth}",
            rf"\begin{{tabular}}{{@{{}}lr{'c' * len(heads)}@{{}}}}",
            r"\toprule",
            _latex_row(["System", "$n$", *heads]),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{adjustbox}",
            r"\par\smallskip",
            r"\begin{minipage}{\linewidth}",
            r"\footnotesize\raggedright",
            *(rf"{note}\par" for note in notes),
            r"\end{minipage}",
            r"\end{table}",
            "",
        ]
    )


def to_html(
    comparison: Comparison,
    details: Sequence[Detail] = DETAILS,
    *,
    page: bool = False,
    style: bool = True,
) -> str:
    """Render as HTML that needs nothing else.

    Args:
        comparison: The table.
        details: Lines to show below the mean of a system.
        page: A whole page; else a `section` to be put into one.
        style: Put the style sheet into the section; False where the page has it already
            (`HTML_STYLE`).

    Returns:
        HTML with a final newline. All text is escaped.
    """
    lines = list(_lines(comparison, details))
    groups: list[list[_Line]] = []
    for line in lines:
        if line.kind == "mean":
            groups.append([])
        groups[-1].append(line)
    return _template().render(
        caption=_caption(comparison),
        heads=[(name, _arrow(name), lower_is_better(name)) for name in comparison.metrics],
        groups=groups,
        legend=_legend(comparison, lines, "bold: best, underlined: second best"),
        notes=_notes(comparison),
        page=page,
        style=HTML_STYLE if style else "",
    )


def _lines(comparison: Comparison, details: Sequence[Detail]) -> Iterator[_Line]:
    for label, found in comparison.numbers.groupby("row", sort=False):
        cells = found.to_dict("records")
        n = max(cell["n"] for cell in cells)
        planned = cells[0]["seeds"]
        head = _head(str(label), cells[0]["role"], label == comparison.baseline)
        count = ("" if planned == 0 else str(n)) if n == planned else f"{n}/{planned}"
        yield _Line("mean", head, count, tuple(_mean_cell(cell, n) for cell in cells))
        extra: Mapping[Detail, tuple[str, Callable[[Mapping[Any, Any]], _Cell]]] = {
            "interval": (f"{100 * comparison.confidence:g} % interval", _interval_cell),
            "difference": (_difference_head(comparison, cells[0]), _difference_cell),
            "printed": (f"printed {_mark(cells)}".rstrip(), _printed_cell),
        }
        for kind in DETAILS:
            head, make = extra[kind]
            line = tuple(make(cell) for cell in cells)
            if kind in details and any(cell.value for cell in line):
                yield _Line(kind, head, "", line)


def _head(label: str, role: str, baseline: bool) -> str:
    marks = [*(["control"] * (role == "control")), *(["baseline"] * baseline)]
    return f"{label} ({', '.join(marks)})" if marks else label


def _difference_head(comparison: Comparison, line: Mapping[Any, Any]) -> str:
    """Name the other row, unless it is the same for all and stands in the legend."""
    to = "" if comparison.baseline is not None else f"to {line['compared_with']} "
    return f"difference {to}(p)"


def _mark(cells: Sequence[Mapping[Any, Any]]) -> str:
    marks = (cell["published_mark"] for cell in cells)
    return " ".join(mark for mark in dict.fromkeys(marks) if mark)


def _mean_cell(line: Mapping[Any, Any], n: int) -> _Cell:
    if line["n"] == 0:
        return _Cell("-" if line["seeds"] else "")
    spread = f" ± {_x100(line['std'])}" if line["n"] > 1 else ""
    # A metric that some seed leaves undefined has an n of its own.
    count = f" (n={line['n']})" if line["n"] != n else ""
    return _Cell(_x100(line["mean"]), spread + count, line["best"])


def _interval_cell(line: Mapping[Any, Any]) -> _Cell:
    if math.isnan(line["ci_low"]):
        return _Cell()
    return _Cell(f"[{_x100(line['ci_low'])}, {_x100(line['ci_high'])}]")


def _difference_cell(line: Mapping[Any, Any]) -> _Cell:
    if line["difference_n"] == 0:
        return _Cell()
    count = f", n={line['difference_n']}" if line["difference_n"] != line["n"] else ""
    return _Cell(_x100(line["difference"], signed=True), f" ({p_text(line['p_holm'])}{count})")


def _printed_cell(line: Mapping[Any, Any]) -> _Cell:
    return _Cell() if math.isnan(line["published_value"]) else _Cell(_x100(line["published_value"]))


def _x100(value: float, *, signed: bool = False) -> str:
    text = f"{100 * value:{'+' if signed else ''}.2f}"
    return "0.00" if text in ("-0.00", "+0.00") else text


def _arrow(metric: str) -> str:
    return "↓" if lower_is_better(metric) else "↑"


def _caption(comparison: Comparison) -> str:
    where = f"{comparison.dataset or 'no data set'}, {comparison.split} split"
    return f"{comparison.title}. {where}" if comparison.title else where


def _legend(comparison: Comparison, lines: Sequence[_Line], best: str) -> str:
    kinds = {line.kind for line in lines}
    confidence = f"{100 * comparison.confidence:g} %"
    other = comparison.baseline or "the row named in the line"
    return (
        "; ".join(
            [
                "mean ± standard deviation (sample, divisor n - 1) over n seeds, all metrics x100",
                *([f"{confidence} t-interval of the mean"] * ("interval" in kinds)),
                *([f"difference to {other} (corrected p)"] * ("difference" in kinds)),
                *(["printed: the paper's number, of other settings"] * ("printed" in kinds)),
                *([best] if any(cell.best for line in lines for cell in line.cells) else []),
            ]
        )
        + "."
    )


def _notes(comparison: Comparison) -> list[tuple[str, str]]:
    return [fact.note for fact in comparison.facts]


def _trimmed(block: str) -> str:
    return "\n".join(line.rstrip() for line in block.split("\n"))


def _minus(text: str) -> str:
    """Print a negative number with a minus sign, not with a hyphen."""
    return re.sub(r"-(?=\d)", "\N{MINUS SIGN}", text)


def _escape_markdown(text: str) -> str:
    """Keep a table's cells apart and names as they are; emphasis is ours."""
    return re.sub(r"([|_*<\\`])", r"\\\1", text)


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_head(line: _Line) -> str:
    head = _escape_latex(line.head)
    return head if line.kind == "mean" else rf"\quad {head}"


def _latex_cell(cell: _Cell) -> str:
    marks = {"best": r"\textbf{%s}", "second": r"\underline{%s}", "": "%s"}
    value, rest = (_escape_latex(_minus(text)) for text in (cell.value, cell.rest))
    return marks[cell.best] % value + rest


def _latex_note(name: str, text: str) -> str:
    return rf"\emph{{{_escape_latex(name)}}}: {_escape_latex(text)}"


_LATEX_CHARACTERS: Final[Mapping[str, str]] = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: rf"\{character}" for character in "&%$#_{}"},
    # After the end of a row these two would be read as its options.
    **{character: f"{{{character}}}" for character in "[*"},
    **{character: f"${character}$" for character in "<>|"},
    '"': "''",
    "±": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "\N{MINUS SIGN}": "$-$",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\rightarrow$",
    "λ": r"$\lambda$",
    "τ": r"$\tau$",
    "Δ": r"$\Delta$",
}


def _escape_latex(text: str) -> str:
    return "".join(_LATEX_CHARACTERS.get(character, character) for character in text)


HTML_STYLE: Final = """\
.comparison { font-family: system-ui, sans-serif; color: #1b1b1b; max-width: max-content; }
.comparison .scroll { overflow-x: auto; }
.comparison table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.comparison caption { text-align: left; font-weight: 600; padding: 0.4em 0; }
.comparison th, .comparison td { padding: 0.2em 0.8em; text-align: right; white-space: nowrap; }
.comparison th:first-child { text-align: left; padding-left: 0; }
.comparison thead th { border-top: 2px solid #1b1b1b; border-bottom: 1px solid #1b1b1b; }
.comparison tbody th { font-weight: 400; }
.comparison tbody tr:first-child > * { padding-top: 0.6em; }
.comparison tbody:last-of-type tr:last-child > * { border-bottom: 2px solid #1b1b1b; }
.comparison tr.detail > * { color: #555; font-size: 0.85em; }
.comparison tr.detail th:first-child { padding-left: 1.2em; }
.comparison dl, .comparison p { font-size: 0.85em; max-width: 70em; }
.comparison dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.2em 1em; }
.comparison dt { color: #555; }
.comparison dd { margin: 0; overflow-wrap: anywhere; }
"""

_HTML = """\
{% macro cell(c) -%}
{% if c.best == "best" %}<strong>{{ c.value | minus }}</strong>
{%- elif c.best == "second" %}<u>{{ c.value | minus }}</u>
{%- else %}{{ c.value | minus }}{% endif %}{{ c.rest | minus }}
{%- endmacro -%}
{% if page %}<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ caption }}</title>
</head>
<body>
{% endif %}<section class="comparison">
{% if style %}<style>
{{ style | safe }}</style>
{% endif %}<div class="scroll" role="region" aria-label="{{ caption }}" tabindex="0">
<table>
<caption>{{ caption }}</caption>
<thead>
<tr><th scope="col">System</th><th scope="col"><abbr title="seeds that count">n</abbr></th>
{%- for name, arrow, lower in heads -%}
<th scope="col">{{ name }} <span role="img" aria-label="
{#- #}{{ 'lower' if lower else 'higher' }} is better">{{ arrow }}</span></th>
{%- endfor %}</tr>
</thead>
{% for group in groups %}<tbody>
{% for line in group %}<tr class="{{ 'mean' if line.kind == 'mean' else 'detail ' ~ line.kind }}">
{#- #}<th scope="{{ 'rowgroup' if line.kind == 'mean' else 'row' }}">{{ line.head }}</th>
{#- #}<td>{{ line.n }}</td>
{%- for c in line.cells %}<td>{{ cell(c) }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
{% endfor %}</table>
</div>
<p>{{ legend }}</p>
<dl>
{% for name, text in notes %}<dt>{{ name }}</dt><dd>{{ text }}</dd>
{% endfor %}</dl>
</section>
{% if page %}</body>
</html>
{% endif %}"""


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["minus"] = _minus
    return environment.from_string(_HTML)
