"""What all figures share: colours, sizes, fonts that have Chinese characters, and saving.

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
from typing import Final, Literal

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

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
SIZES: Final = {"title": 10.5, "label": 9.0, "tick": 8.5, "legend": 8.5}
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

    Chinese text is given a font that has it (`cjk_font`). Such a PDF embeds its characters as
    drawings (Type 3): matplotlib would embed the outlines of most Chinese fonts (CFF) under the
    name of another format (Type 42, TrueType), which strict viewers refuse. All other PDFs have
    Type 42 fonts, which publishers ask for.

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
    font_type = 3 if _set_chinese(figure) else 42
    written = []
    for name in formats:
        buffer = io.BytesIO()
        # A date would make every file differ.
        metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(name)
        with mpl.rc_context({"pdf.fonttype": font_type, "svg.hashsalt": "MMSA_ext"}):
            figure.savefig(buffer, format=name, dpi=200, metadata=metadata)
        target = base.with_name(f"{base.name}.{name}")
        write_atomically(target, buffer.getvalue())
        written.append(target)
    return written


@contextmanager
def cjk_fonts() -> Iterator[str | None]:
    """Let text that is made inside fall back to a font that has Chinese characters.

    `save` does so for the texts of any figure; this is for those who measure text before.

    Yields:
        The family, or None where this machine has none; `save` warns of that.
    """
    family = cjk_font()
    with mpl.rc_context({} if family is None else {"font.family": _families(family)}):
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


def _families(family: str) -> list[str]:
    return [*mpl.rcParams["font.family"], family]


def _set_chinese(figure: Figure) -> bool:
    """Give Chinese texts a font that has them; say whether there are any."""
    texts = [
        text
        for text in figure.findobj(Text)
        if isinstance(text, Text) and _CJK_TEXT.search(text.get_text())
    ]
    if not texts:
        return False
    family = cjk_font()
    if family is None:
        warnings.warn(
            "the figure has Chinese text, and no font here has its characters: they show as "
            "boxes. Install one: pip install noto-cjk-sans-otc, or on Debian and Ubuntu "
            "apt-get install fonts-noto-cjk (or the smaller fonts-wqy-microhei).",
            FontWarning,
            stacklevel=3,
        )
        return True
    for text in texts:
        text.set_fontfamily(_families(family))
    return True


def tidy(axes: Axes, grid: Literal["x", "y", "both"] | None = "y") -> None:
    """Give axes the common look: no frame above and right, a light grid behind the data.

    Args:
        axes: What to style.
        grid: Direction of the values that the grid marks; None for no grid.
    """
    axes.spines[["top", "right"]].set_visible(False)
    if grid is not None:
        axes.grid(axis=grid, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SIZES["tick"])


def look(index: int) -> tuple[str, LineStyle]:
    """Colour and line style of the line `index`: 7 and 4 have no divisor, so 28 pairs differ.

    Args:
        index: Number of the line, from 0.

    Returns:
        A colour of `PALETTE` and a style of `LINE_STYLES`.
    """
    return PALETTE[index % len(PALETTE)], LINE_STYLES[index % len(LINE_STYLES)]


def legend_columns(width: float, labels: Sequence[str]) -> int:
    """Columns of a legend below a figure that fit its width.

    Args:
        width: Width of the figure in inches.
        labels: Texts of the legend; the longest line decides.

    Returns:
        At least 1, at most one for each text.
    """
    longest = max((len(line) for label in labels for line in label.split("\n")), default=1)
    return min(len(labels), max(1, int(width / (_HANDLE + _CHARACTER * longest))))


def grid_shape(panels: int, most: int) -> tuple[int, int]:
    """Rows and columns of a grid of panels, as even as they go: four are two by two.

    Args:
        panels: Number of panels.
        most: Panels beside each other at most.

    Returns:
        Rows and columns.
    """
    rows = math.ceil(panels / most)
    return rows, math.ceil(panels / rows)
