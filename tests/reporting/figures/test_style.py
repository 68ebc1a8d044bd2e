import re
import warnings
import zlib

import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

from MMSA_ext.records.store import StoreError
from MMSA_ext.reporting.figures import style
from MMSA_ext.reporting.figures.style import (
    FontWarning,
    cjk_font,
    entry,
    grid_shape,
    house_style,
    legend_below,
    panels,
    save,
)
from tests.reporting.conftest import luminance

chinese_font = pytest.mark.skipif(
    cjk_font() is None, reason="no font with Chinese characters; pip install noto-cjk-sans-otc"
)


@pytest.fixture
def no_font(monkeypatch):
    monkeypatch.setattr(style, "cjk_font", lambda: None)
    style._warn_once.cache_clear()


@house_style()
def chinese_figure():
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], label="情感")
    axes.set_yticks([0, 1], ["系统", "text"])
    axes.set_title("标题")
    axes.legend()
    return figure


def embedded_fonts(pdf):
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL)
    found = []
    for stream in streams:
        try:
            found.append(zlib.decompress(stream)[:4])
        except zlib.error:
            continue
    return found


def test_saves_in_folders_that_do_not_exist(tmp_path):
    written = save(Figure(), tmp_path / "a" / "b" / "figure.v2", ["png", "pdf", "svg"])
    assert [path.name for path in written] == [f"figure.v2.{e}" for e in ("png", "pdf", "svg")]
    assert all(path.stat().st_size for path in written)
    assert save(Figure(), written[0], ["png"]) == written[:1]  # no ending is doubled


@pytest.mark.parametrize("formats", [["gif3"], []])
def test_formats_that_cannot_be_written_are_refused(tmp_path, formats):
    with pytest.raises(StoreError, match="png, pdf or svg"):
        save(Figure(), tmp_path / "figure", formats)
    assert list(tmp_path.iterdir()) == []


def test_two_lines_of_a_figure_differ_in_grey_too():
    looks = [style.look(index) for index in range(28)]
    assert len(set(looks)) == 28
    assert len({line for _, line in looks[:4]}) == 4
    assert len(style.MARKERS) == len(set(style.MARKERS)) >= 6
    assert len({round(luminance(color), 2) for color in style.PALETTE}) == len(style.PALETTE)


@chinese_font
def test_no_character_is_missing(tmp_path, recwarn):
    save(chinese_figure(), tmp_path / "figure")
    assert not [warning for warning in recwarn if "missing from" in str(warning.message)]


@chinese_font
def test_a_pdf_with_chinese_text_has_no_wrongly_named_font(tmp_path):
    (path,) = save(chinese_figure(), tmp_path / "figure", ["pdf"])
    assert b"OTTO" not in embedded_fonts(path.read_bytes())
    assert b"/Type3" in path.read_bytes()


def test_other_pdfs_have_fonts_that_publishers_take(tmp_path):
    figure = Figure()
    figure.text(0.5, 0.5, "Self-MM")
    (path,) = save(figure, tmp_path / "figure", ["pdf"])
    assert b"\0\1\0\0" in embedded_fonts(path.read_bytes())
    assert b"/Type3" not in path.read_bytes()


@chinese_font
def test_texts_made_in_the_house_style_fall_back_to_a_font_that_has_chinese():
    with house_style() as family:
        assert family == cjk_font()
        assert family in Text(text="系统").get_fontfamily()
    assert family not in Text(text="系统").get_fontfamily()


@pytest.mark.filterwarnings("ignore:Glyph")
def test_without_a_font_the_mend_is_named_once(tmp_path, no_font):
    with pytest.warns(FontWarning, match=r"fonts-noto-cjk.*pip install .*\[chinese\]"):
        (path,) = save(chinese_figure(), tmp_path / "figure", ["png"])
    assert path.is_file()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FontWarning)
        save(chinese_figure(), tmp_path / "figure", ["png"])
    with house_style() as family:
        assert family is None


def test_without_a_font_a_figure_without_chinese_text_is_silent(tmp_path, no_font, recwarn):
    save(Figure(), tmp_path / "figure", ["png"])
    assert not recwarn


@chinese_font
def test_a_font_that_matplotlib_has_not_listed_is_found(monkeypatch):
    entries = font_manager.fontManager.ttflist
    paths = sorted({entry.fname for entry in entries if entry.name in style.CJK_FAMILIES})
    listed = [entry for entry in entries if entry.fname not in paths]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", listed)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: paths)
    assert style.cjk_font.__wrapped__() in style.CJK_FAMILIES


def test_a_damaged_font_is_passed_over(monkeypatch, tmp_path):
    broken = tmp_path / "NotoSansCJK-Regular.ttc"
    broken.write_bytes(b"not a font")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [])
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(broken)])
    monkeypatch.setattr(style, "_packaged_fonts", list)
    assert style.cjk_font.__wrapped__() is None


@pytest.mark.parametrize(
    ("width", "labels", "columns"),
    [(7.2, ["a", "b"], 2), (7.2, ["x" * 40] * 4, 2), (3.5, ["x" * 60] * 4, 1), (7.2, [], 1)],
)
def test_legends_fit_the_width(width, labels, columns):
    figure = Figure()
    legend_below(figure, [entry(label, "red") for label in labels], width)
    assert figure.legends[0]._ncols == columns


@pytest.mark.parametrize(
    ("panels", "most", "shape"), [(1, 3, (1, 1)), (3, 3, (1, 3)), (4, 3, (2, 2)), (7, 3, (3, 3))]
)
def test_grids_are_even(panels, most, shape):
    assert grid_shape(panels, most) == shape


def test_panels_fill_a_grid_and_leave_the_rest_empty():
    figure = Figure()
    shown = panels(figure, 3, (2, 2), sharex=True)
    assert [axes.axison for axes in figure.axes] == [True, True, True, False]
    assert shown == figure.axes[:3]


@house_style()
def test_a_legend_stands_below_and_its_entries_look_as_said():
    figure = Figure()
    legend_below(figure, [entry("a", "red", "o"), entry("b", "blue", line="--")], 7.2)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
    dot, line = legend.get_lines()
    assert (dot.get_marker(), dot.get_linestyle(), line.get_linestyle()) == ("o", "None", "--")
    assert not legend.get_frame_on()
