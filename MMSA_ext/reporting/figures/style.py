"""What all figures share: look, colours, fonts that have Chinese characters, panels, and saving.

A figure is a function of records or tables that returns a matplotlib `Figure`; `save` writes it.
Drawn with matplotlib's objects and the Agg canvas, so no display and no pyplot state is touched.
Colours are those of Okabe and Ito, told apart by colour-blind readers; what a colour says, a line
style or a marker says too, so the figures survive a grey print.
"""

import importlib.util
import io
import math
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from MMSA_ext.extras import install_command
from MMSA_ext.files import write_atomically
from MMSA_ext.records.store import StoreError

BLACK, BLUE, VERMILLION, GREEN = "#000000", "#0072B2", "#D55E00", "#009E73"
ORANGE, PURPLE, SKY = "#E69F00", "#CC79A7", "#56B4E9"
PALETTE: Final = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
LineStyle = Literal["-", "--", "-.", ":"]
LINE_STYLES: Final[tuple[LineStyle, ...]] = ("-", "--", "-.", ":")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
FORMATS: Final = ("png", "pdf")
# Points. Figures are drawn at the width at which they are printed, so these are the printed sizes.
TITLE, LABEL, TICK = 10.5, 9.0, 8.5
# matplotlib's settings: no frame above and right, a light grid of the values behind the data.
HOUSE: Final[dict[Any, Any]] = {
    "figure.constrained_layout.use": True,
    "figure.titlesize": TITLE,
    "figure.labelsize": LABEL,
    "axes.titlesize": LABEL,
    "axes.titlelocation": "left",
    "axes.labelsize": LABEL,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "0.9",
    "xtick.labelsize": TICK,
    "ytick.labelsize": TICK,
    "legend.fontsize": TICK,
    "legend.frameon": False,
}
# Inches: one and two columns of a two-column paper.
COLUMN_WIDTH, PAGE_WIDTH = 3.5, 7.2

# Inches of a legend's entry: the line with its spaces, and a character on average.
_HANDLE, _CHARACTER = 0.75, 0.066

# Simplified Chinese first; the others have its characters too, in their own country's forms.
CJK_FAMILIES: Final = (
    *("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN"),
    *("PingFang SC", "Hiragino Sans GB", "Heiti SC", "STHeiti", "Microsoft YaHei", "SimHei"),
    *("WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Noto Sans CJK JP", "Noto Sans CJK TC"),
    *("Noto Sans TC", "Source Han Sans", "PingFang HK", "Heiti TC", "Droid Sans Fallback"),
    *("Arial Unicode MS", "Noto Serif CJK SC", "Noto Serif CJK JP", "SimSun"),
)
# File names of those families, for fonts newer than matplotlib's list of them.
_CJK_FILES = re.compile(
    r"(noto|sourcehan|source_han)(sans|serif).*(cjk|sc|cn|otc)|pingfang|hiragino|heiti|msyh|simhei"
    r"|simsun|wqy|droidsansfallback|arial ?unicode",
    re.IGNORECASE,
)
_CJK_PACKAGE = "noto_cjk_sans_otc"
_CJK_TEXT = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")


class FontWarning(UserWarning):
    """A figure has characters that no font of this machine has."""


def save(
    figure: Figure, path: str | os.PathLike[str], formats: Sequence[str] = FORMATS
) -> list[Path]:
    """Write a figure in each format, atomically; equal figures give equal bytes.

    A PDF with Chinese text embeds its characters as drawings (Type 3): matplotlib would embed the
    outlines of most Chinese fonts (CFF) under the name of another format (Type 42, TrueType), which
    strict viewers refuse. All other PDFs have Type 42 fonts, which publishers ask for.

    Args:
        figure: What to write.
        path: Target without its ending; an ending that names one of `formats` is dropped.
        formats: File formats, each one file.

    Returns:
        The files written.

    Raises:
        StoreError: matplotlib cannot write one of the formats, or none is named.
    """
    supported = figure.canvas.get_supported_filetypes()
    if unknown := sorted(set(formats) - set(supported)):
        raise StoreError(f"figures cannot be written as {', '.join(unknown)}; use png, pdf or svg.")
    if not formats:
        raise StoreError("no format to write the figure in; name one, such as png, pdf or svg.")
    path = Path(path)
    base = path.with_suffix("") if path.suffix[1:] in formats else path
    # How many ticks fit is decided while drawing, by the size of their labels.
    fonts = {"pdf.fonttype": 3 if _is_chinese(figure) else 42, "svg.hashsalt": "MMSA_ext"}
    written = []
    for name in formats:
        buffer = io.BytesIO()
        # A date would make every file differ.
        metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(name)
        with mpl.rc_context(HOUSE | fonts):
            figure.savefig(buffer, format=name, dpi=200, metadata=metadata)
        written.append(base.with_name(f"{base.name}.{name}"))
        write_atomically(written[-1], buffer.getvalue())
    return written


def _is_chinese(figure: Figure) -> bool:
    """Whether there is Chinese text; the first time, a warning where no font here has it."""
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    found = any(_CJK_TEXT.search(text.get_text()) for text in texts)
    if found and cjk_font() is None:
        _warn_once()
    return found


@cache
def _warn_once() -> None:
    warnings.warn(
        "a figure has Chinese text, and no font here has its characters: they show as boxes. "
        "On Debian and Ubuntu apt-get install fonts-noto-cjk (or the smaller fonts-wqy-microhei) "
        f"brings one, elsewhere {install_command('chinese')} (This is said once.)",
        FontWarning,
        stacklevel=4,
    )


@contextmanager
def house_style() -> Iterator[str | None]:
    """Draw with the common look, and a font for Chinese characters behind the usual one.

    Also a decorator of what draws: `@house_style()`. matplotlib gives texts their font and size
    when they are made, those of tick labels when their axes are.

    Yields:
        The family with Chinese characters, or None where this machine has none; `save` warns of
        that.
    """
    family = cjk_font()
    fonts = {} if family is None else {"font.family": [*mpl.rcParams["font.family"], family]}
    with mpl.rc_context(HOUSE | fonts):
        yield family


@cache
def cjk_font() -> str | None:
    """Find the first of `CJK_FAMILIES` on this machine.

    matplotlib lists a machine's fonts once; those installed since, and that of the package
    `noto-cjk-sans-otc`, are added to its list for this process.

    Returns:
        The family; None where there is none.
    """
    if (family := _listed_family()) is not None:
        return family
    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    for path in [*font_manager.findSystemFonts(), *_packaged_fonts()]:
        if path not in known and _CJK_FILES.search(Path(path).name):
            try:
                font_manager.fontManager.addfont(path)
            except (OSError, RuntimeError):  # a damaged font is passed over, as matplotlib does
                continue
    return _listed_family()


def _listed_family() -> str | None:
    listed = {entry.name for entry in font_manager.fontManager.ttflist}
    return next((family for family in CJK_FAMILIES if family in listed), None)


def _packaged_fonts() -> list[str]:
    spec = importlib.util.find_spec(_CJK_PACKAGE)
    folders = (spec.submodule_search_locations if spec else None) or []
    return [str(path) for folder in folders for path in Path(folder).rglob("*.tt[cf]")]


def look(index: int) -> tuple[str, LineStyle]:
    """Colour and line style of the line `index`: 7 and 4 have no divisor, so 28 pairs differ."""
    return PALETTE[index % len(PALETTE)], LINE_STYLES[index % len(LINE_STYLES)]


def legend_below(
    figure: Figure | SubFigure,
    handles: Sequence[Line2D],
    width: float,
    *,
    columns: int | None = None,
    **options: Any,
) -> None:
    """Put a legend below a figure.

    Args:
        figure: Whose legend it is.
        handles: Its entries, see `entry`.
        width: Inches that it may take.
        columns: How many stand beside each other; by default as many as fit.
        options: Of matplotlib's legend.
    """
    lines = [line for handle in handles for line in str(handle.get_label()).split("\n")]
    fit = max(1, int(width / (_HANDLE + _CHARACTER * max(map(len, lines), default=1))))
    columns = columns or min(len(handles), fit)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, **options)


def entry(label: str, color: str, marker: str = "", line: str = "", **options: Any) -> Line2D:
    """An entry of a legend: a marker, a line, or both."""
    options |= {"color": color, "marker": marker, "linestyle": line}
    return Line2D([], [], label=label, **options)


def signed_bars(
    axes: Axes, places: npt.ArrayLike, values: npt.NDArray[Any], limit: float, **options: Any
) -> None:
    """Bars of one colour above zero and of another below it, on an axis to `limit` either way."""
    axes.bar(places, values, color=np.where(values >= 0, BLUE, VERMILLION), **options)
    axes.axhline(0, color="0.3", linewidth=0.8)
    axes.set_ylim(-limit, limit)


def grid_shape(panels: int, most: int) -> tuple[int, int]:
    """Rows and columns of a grid of at most `most` panels beside each other, as even as they go.

    Four are two by two.
    """
    rows = math.ceil(panels / most)
    return rows, math.ceil(panels / rows)


def panels(
    figure: Figure | SubFigure, count: int, shape: tuple[int, int], **options: Any
) -> list[Axes]:
    """So many axes in a grid of rows and columns, row by row; the rest of the grid stays empty.

    Options are those of matplotlib's `subplots`.
    """
    grid = list(figure.subplots(*shape, squeeze=False, **options).flat)
    for axes in grid[count:]:
        axes.set_axis_off()
    return grid[:count]
