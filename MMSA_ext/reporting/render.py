r"""One table as text, Markdown, LaTeX, HTML and CSV: how numbers are written and cells escaped.

Whatever shows a table builds a `Table` and asks for a format here. A cell that is a `str` is words
and stays as it is; a `Cell` is a number, whose hyphen becomes a minus sign outside of a terminal.
"""

import csv
import io
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from typing import Any, Final, Literal

import jinja2
import pandas as pd
from markupsafe import Markup, escape

Mark = Literal["", "best", "second"]
Align = Literal["left", "right", "center"]

TABLE_WIDTH: Final = 100
GAP: Final = "  "
NOTHING: Final = "-"
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True)
class Fact:
    """What numbers of a table depend on, or another note below it.

    Attributes:
        name: What the fact is about, such as "selection".
        text: The fact.
        rows: Labels of the rows it holds for; empty for all.
    """

    name: str
    text: str
    rows: tuple[str, ...] = ()

    @property
    def said(self) -> str:
        """Its text, after the rows it holds for."""
        return f"{'; '.join(self.rows)}: {self.text}" if self.rows else self.text


def said_once(
    name: str, said: Sequence[tuple[str, Iterable[str]]], *, named: bool = False
) -> list[Fact]:
    """Gather what rows say, each text once.

    Args:
        name: What the facts are about.
        said: Label of each row, and its texts.
        named: Name the rows of every text; else only where not all rows say it.
    """
    rows: dict[str, list[str]] = {}
    for label, text in dict.fromkeys((label, text) for label, texts in said for text in texts):
        rows.setdefault(text, []).append(label)
    return [
        Fact(name, text, tuple(labels) if named or len(labels) < len(said) else ())
        for text, labels in rows.items()
    ]


@dataclass(frozen=True)
class Cell:
    """A number: what is marked, and what follows it without the mark."""

    text: str = ""
    rest: str = ""
    mark: Mark = ""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its head; a line feed in it breaks the head in text and LaTeX.
        align: Of its cells; "center" is to the right in a terminal.
        better: Which of its numbers are the better ones; empty for neither. The head has an arrow.
        meaning: What an abbreviated name stands for.
    """

    name: str
    align: Align = "right"
    better: Literal["", "lower", "higher"] = ""
    meaning: str = ""

    @property
    def arrow(self) -> str:
        """The better direction as a sign, empty for none."""
        return {"": "", "lower": "↓", "higher": "↑"}[self.better]

    @property
    def head(self) -> str:
        """Name and arrow."""
        return f"{self.name} {self.arrow}".rstrip()


@dataclass(frozen=True)
class Row:
    """A line of a table; a detail belongs to the line above it that is none."""

    cells: tuple[str | Cell, ...]
    detail: bool = False


@dataclass(frozen=True)
class Table:
    """A table to be shown.

    Attributes:
        columns: Columns; the first names the rows.
        rows: Lines, with a cell a column.
        caption: What the table shows.
        legend: What the cells are, without a full stop. What marks stand for is added; None
            leaves out both.
        notes: Shown below.
        front: Number of columns that stand in front of every part of a table that is too wide.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    caption: str = ""
    legend: str | None = ""
    notes: tuple[Fact, ...] = ()
    front: int = 1

    def explained(self, marks: str) -> str:
        """The legend as a sentence, with `marks` where there are any; empty for neither."""
        if self.legend is None:
            return ""
        marked = any(_mark(cell) for row in self.rows for cell in row.cells)
        parts = [*([self.legend] if self.legend else []), *([marks] if marked else [])]
        return f"{'; '.join(parts)}." if parts else ""


def table_of(
    heads: Sequence[str], rows: Iterable[Sequence[str | Cell]], caption: str = "", **more: Any
) -> Table:
    """Make a table of plain rows: the first column to the left, the others to the right."""
    columns = [Column(head, "right" if place else "left") for place, head in enumerate(heads)]
    return Table(tuple(columns), tuple(Row(tuple(row)) for row in rows), caption, **more)


def frame_table(frame: pd.DataFrame) -> Table:
    """Make a table of a frame without its index; fractions have three digits."""

    def shown(value: Any) -> str | Cell:
        if isinstance(value, float):
            return Cell(number(value, ".3f"))
        return value if isinstance(value, str) else Cell(str(value))

    rows = (map(shown, line) for line in frame.itertuples(index=False, name=None))
    return table_of(list(map(str, frame.columns)), map(tuple, rows))


# --- numbers -----------------------------------------------------------------------------------


def counted(numbers: Iterable[int]) -> str:
    """Say over how many seeds means are, such as "2 to 5 seeds"; zeros are no means."""
    there = [number for number in numbers if number] or [0]
    low, high = min(there), max(there)
    text = f"{low or 'no'}" if low == high else f"{low} to {high}"
    return f"{text} {'seed' if high == 1 else 'seeds'}"


def number(value: float | None, form: str = ".2f") -> str:
    """Write a number, or a dash where it is undefined; never a negative zero."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = format(value, form)
    return text if any(digit in text for digit in "123456789") else text.lstrip("+-")


def x100(value: float | None, *, signed: bool = False) -> str:
    """Write a metric in MMSA's units, x100 with two digits."""
    return number(None if value is None else 100 * value, "+.2f" if signed else ".2f")


def mean_std(mean: float, std: float, *, scale: float = 100, signed: bool = False) -> Cell:
    """Write mean ± standard deviation; the mean alone where there is no deviation."""
    spread = f" ± {number(scale * std)}" if math.isfinite(std) else ""
    return Cell(number(scale * mean, "+.2f" if signed else ".2f"), spread)


def interval(low: float, high: float) -> str:
    """Write an interval in MMSA's units; a dash where it is undefined."""
    return f"[{x100(low)}, {x100(high)}]" if math.isfinite(low) else NOTHING


def p_text(p_value: float) -> str:
    """Write a p-value with three digits and no leading zero; "no p" where it is undefined."""
    if math.isnan(p_value):
        return "no p"
    return "<.001" if p_value < 0.001 else f"{p_value:.3f}".removeprefix("0")


def _mark(cell: str | Cell) -> Mark:
    return cell.mark if isinstance(cell, Cell) else ""


def _marked(cell: str | Cell, marks: Mapping[Mark, str], escape: Callable[[str], str]) -> str:
    """A cell in a format of marks such as `**{}**`; numbers get minus signs, not hyphens."""
    if isinstance(cell, str):
        return escape(cell)
    text, rest = (escape(re.sub(r"-(?=\d)", "\N{MINUS SIGN}", t)) for t in (cell.text, cell.rest))
    return marks[cell.mark].format(text) + rest


# --- text --------------------------------------------------------------------------------------

_NAME_WIDTH: Final = 44
_AFTER: Final[Mapping[Mark, str]] = {"best": " ¹", "second": " ²", "": "  "}


def to_text(table: Table, width: int = TABLE_WIDTH) -> str:
    """Render for a terminal.

    Args:
        table: The table.
        width: Columns of the terminal. Wider tables are broken into parts that fit; a part with
            one column besides those in front may be wider.

    Returns:
        Text without a final newline. Best and second best are followed by ¹ and ².
    """
    tall = 1 + max(column.head.count("\n") for column in table.columns)
    table = _broken(table)
    columns = [_aligned(table, place, tall) for place in range(len(table.columns))]
    front = columns[: table.front]
    parts = [[*front]]
    for column in columns[table.front :]:
        if len(parts[-1]) > len(front) and _width([*parts[-1], column]) > width:
            parts.append([*front])
        parts[-1].append(column)
    legend = table.explained("¹ best, ² second best")
    notes = [*([Fact("cells", legend)] if legend else []), *table.notes]
    grids = (_grid(part, tall) for part in parts)
    blocks = [textwrap.fill(table.caption, width), *grids, text_notes(notes, width)]
    return "\n\n".join(filter(None, blocks))


def _broken(table: Table) -> Table:
    """The same with names of rows that are too long in several lines."""
    rows: list[Row] = []
    for row in table.rows:
        first, *more = textwrap.wrap(str(row.cells[0]), _NAME_WIDTH) or [""]
        rows.append(replace(row, cells=(first, *row.cells[1:])))
        empty = ("",) * (len(row.cells) - 1)
        rows += [Row((GAP + line, *empty), row.detail) for line in more]
    return replace(table, rows=tuple(rows))


def _aligned(table: Table, place: int, tall: int) -> list[str]:
    """The head, in `tall` lines, and cells of a column, all of one width."""
    column = table.columns[place]
    cells = [row.cells[place] for row in table.rows]
    after = _AFTER if any(map(_mark, cells)) else dict.fromkeys(_AFTER, "")
    head = column.head.split("\n")
    texts = [line + after[""] for line in [""] * (tall - len(head)) + head]
    for row, cell in zip(table.rows, cells, strict=True):
        plain = cell if isinstance(cell, str) else cell.text + cell.rest
        indent = GAP if row.detail and place == 0 else ""
        texts.append(indent + (plain if place == 0 else _one_line(plain)) + after[_mark(cell)])
    width = max(map(len, texts))
    return [text.ljust(width) if column.align == "left" else text.rjust(width) for text in texts]


def _width(columns: Sequence[Sequence[str]]) -> int:
    return sum(len(column[0]) for column in columns) + len(GAP) * (len(columns) - 1)


def _grid(columns: Sequence[Sequence[str]], tall: int) -> str:
    lines = [GAP.join(line) for line in zip(*columns, strict=True)]
    lines.insert(tall, "-" * len(lines[0]))
    if not lines[0].strip():  # no head of this part has two lines
        del lines[0]
    return "\n".join(map(str.rstrip, lines))


def text_notes(notes: Sequence[Fact], width: int = TABLE_WIDTH) -> str:
    """Lay notes out below each other, wrapped and indented; empty for none."""
    indent = " " * (max((len(note.name) for note in notes), default=0) + len(GAP))
    return "\n".join(
        textwrap.fill(
            note.said,
            width,
            initial_indent=note.name.ljust(len(indent)),
            subsequent_indent=indent,
        )
        for note in notes
    )


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


# --- Markdown ----------------------------------------------------------------------------------

_RULES: Final[Mapping[Align, str]] = {"left": "---", "right": "--:", "center": ":--:"}
_EMPHASIS: Final[Mapping[Mark, str]] = {"best": "**{}**", "second": "*{}*", "": "{}"}


def to_markdown(table: Table) -> str:
    """Render as Markdown (GitHub's tables).

    Returns:
        Caption, table, legend and notes, with a final newline. Best is bold, second best italic,
        because Markdown cannot underline.
    """
    lines = [[escape_markdown(column.head) for column in table.columns]]
    lines.append([_RULES[column.align] for column in table.columns])
    for row in table.rows:
        cells = [_marked(cell, _EMPHASIS, escape_markdown) for cell in row.cells]
        lines.append([("\N{EM SPACE}" if row.detail else "") + cells[0], *cells[1:]])
    blocks = [
        f"**{escape_markdown(table.caption)}**" if table.caption else "",
        "\n".join(f"| {' | '.join(line)} |" for line in lines),
        table.explained("**best**, *second best*"),
        markdown_notes(table.notes),
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def markdown_notes(notes: Sequence[Fact], indent: str = "") -> str:
    """Lay notes out as a list, without a final newline."""
    lines = (f"{indent}- {note.name}: {escape_markdown(note.said)}" for note in notes)
    return "\n".join(lines)


def escape_markdown(text: str) -> str:
    """Keep a table's cells apart, in their line, and names as they are; emphasis is ours."""
    return re.sub(r"([|_*<\\`])", r"\\\1", _one_line(text))


# --- LaTeX -------------------------------------------------------------------------------------

_COMMANDS: Final[Mapping[Mark, str]] = {
    "best": r"\textbf{{{}}}",
    "second": r"\underline{{{}}}",
    "": "{}",
}
_LATEX_BREAK: Final = r" \\"
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


def to_latex(table: Table, *, label: str | None = None) -> str:
    r"""Render as a LaTeX table, for the packages booktabs and adjustbox.

    Args:
        table: The table.
        label: For `\ref`; None for none. Characters that LaTeX does not take become hyphens.

    Returns:
        A `table` environment with a final newline, shrunk where it is wider than the line, its
        notes below. Best is bold, second best underlined. Text in scripts other than Latin needs
        XeLaTeX or LuaLaTeX and a font.
    """
    body: list[str] = []
    for row in table.rows:
        if body and not row.detail and any(other.detail for other in table.rows):
            body.append(r"\addlinespace")
        cells = [_marked(cell, _COMMANDS, escape_latex) for cell in row.cells]
        body.append(_latex_row([rf"\quad {cells[0]}" if row.detail else cells[0], *cells[1:]]))
    align = "".join(column.align[0] for column in table.columns)
    notes = [escape_latex(table.explained("bold: best, underlined: second best"))]
    notes += [rf"\emph{{{escape_latex(n.name)}}}: {escape_latex(n.said)}" for n in table.notes]
    below = [
        r"\par\smallskip",
        r"\begin{minipage}{\linewidth}",
        r"\footnotesize\raggedright",
        *(rf"{note}\par" for note in filter(None, notes)),
        r"\end{minipage}",
    ]
    return "\n".join(
        [
            r"% \usepackage{booktabs,adjustbox}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_latex(table.caption)}}}",
            *([rf"\label{{{re.sub('[^A-Za-z0-9:-]', '-', label)}}}"] if label else []),
            r"\small",
            r"\begin{adjustbox}{max width=\linewidth}",
            rf"\begin{{tabular}}{{@{{}}{align}@{{}}}}",
            r"\toprule",
            _latex_row([_latex_head(column.head) for column in table.columns]),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{adjustbox}",
            *(below if any(notes) else []),
            r"\end{table}",
            "",
        ]
    )


def _latex_head(head: str) -> str:
    lines = [escape_latex(line) for line in head.split("\n")]
    return rf"\shortstack{{{_LATEX_BREAK.join(lines)}}}" if len(lines) > 1 else lines[0]


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + _LATEX_BREAK


def escape_latex(text: str) -> str:
    """Write every character so that LaTeX prints it, in one line."""
    return "".join(_LATEX_CHARACTERS.get(character, character) for character in _one_line(text))


# --- HTML --------------------------------------------------------------------------------------

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

_TAGS: Final[Mapping[Mark, str]] = {
    "best": "<strong>{}</strong>",
    "second": "<u>{}</u>",
    "": "{}",
}

_HTML = """\
{% if page %}<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ table.caption }}</title>
</head>
<body>
{% endif %}<section class="comparison">
{% if style %}<style>
{{ style | safe }}</style>
{% endif %}<div class="scroll" role="region" aria-label="{{ table.caption }}" tabindex="0">
<table>
<caption>{{ table.caption }}</caption>
<thead>
<tr>
{%- for c in table.columns -%}
<th scope="col">{% if c.meaning %}<abbr title="{{ c.meaning }}">{{ c.name }}</abbr>
{%- else %}{{ c.name }}{% endif %}
{%- if c.better %} <span role="img" aria-label="{{ c.better }} is better">{{ c.arrow }}</span>
{%- endif %}</th>
{%- endfor %}</tr>
</thead>
{% for group in groups %}<tbody>
{% for row in group %}<tr class="{{ 'detail' if row.detail else 'mean' }}">
{#- #}<th scope="{{ 'row' if row.detail else 'rowgroup' }}">{{ row.cells[0] | cell }}</th>
{%- for c in row.cells[1:] %}<td>{{ c | cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
{% endfor %}</table>
</div>
<p>{{ table.explained("bold: best, underlined: second best") }}</p>
<dl>
{% for note in table.notes %}<dt>{{ note.name }}</dt><dd>{{ note.said }}</dd>
{% endfor %}</dl>
</section>
{% if page %}</body>
</html>
{% endif %}"""


def to_html(table: Table, *, page: bool = False, style: bool = True) -> str:
    """Render as HTML that needs nothing else.

    Args:
        table: The table.
        page: A whole page; else a `section` to be put into one.
        style: Put the style sheet into the section; False where the page has it already
            (`HTML_STYLE`).

    Returns:
        HTML with a final newline. All text is escaped.
    """
    groups: list[list[Row]] = []
    for row in table.rows:
        if not row.detail:
            groups.append([])
        groups[-1].append(row)
    return _template().render(
        table=table, groups=groups, page=page, style=HTML_STYLE if style else ""
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["cell"] = lambda cell: Markup(
        _marked(cell, _TAGS, lambda text: str(escape(text)))
    )
    return environment.from_string(_HTML)


# --- CSV ---------------------------------------------------------------------------------------


def csv_text(table: pd.DataFrame, *, exact: bool = False) -> str:
    """Write a frame as CSV, for people and their spreadsheets or for programs.

    Args:
        table: Without an index that says something.
        exact: Write every text as it is. By default one that begins like a formula (`=`, `+`, `-`,
            `@`, tab, line end) and is no number gets an apostrophe in front.

    Returns:
        CSV with a head and a final newline.
    """
    texts = table.select_dtypes(["object", "string", "category"])
    how = quoting(chain(table.columns, *(texts[name] for name in texts)))
    if not exact:
        safe = {str(name): [harmless(cell) for cell in texts[name]] for name in texts}
        table = table.assign(**safe).rename(columns=harmless)
    buffer = io.StringIO(newline="")
    table.to_csv(buffer, index=False, lineterminator="\n", quoting=how)
    return buffer.getvalue()


def quoting(cells: Iterable[Any]) -> Literal[0, 2]:
    """How to keep a carriage return inside its cell, which `csv` does not by itself."""
    odd = any(isinstance(cell, str) and "\r" in cell for cell in cells)
    return csv.QUOTE_NONNUMERIC if odd else csv.QUOTE_MINIMAL


def harmless(cell: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    if not isinstance(cell, str) or not cell.startswith(_FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell
