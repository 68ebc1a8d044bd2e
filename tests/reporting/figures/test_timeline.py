from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Annotation

from MMSA_ext.reporting.figures import save
from MMSA_ext.reporting.figures.style import PALETTE
from MMSA_ext.reporting.figures.timeline import timeline_figure
from tests.reporting.figures.panels import overlapping_texts

pytestmark = pytest.mark.usefixtures("strict")


def scored(count, text, seed=0):
    rng = np.random.default_rng(seed)
    lengths, pauses = rng.uniform(0.5, 8, count), rng.exponential(0.8, count)
    starts = np.cumsum(lengths + pauses) - lengths
    predictions = np.clip(rng.normal(0.2, 1.2, count), -3, 3)
    table = {"start": starts, "end": starts + lengths, "prediction": predictions}
    return pd.DataFrame(table | {"text": [f"{k} {text}" for k in range(count)]})


def words(figure):
    return [text.get_text() for text in figure.findobj(Annotation)]


def bars(figure):
    return [bar for axes in figure.axes for bar in axes.patches]


def test_bars_are_as_wide_and_high_as_utterances_are_long_and_strong():
    table = scored(3, "good film")
    figure = timeline_figure(table, "review.mp4")
    drawn = bars(figure)
    np.testing.assert_allclose([bar.get_x() for bar in drawn], table["start"])
    np.testing.assert_allclose([bar.get_width() for bar in drawn], table["end"] - table["start"])
    np.testing.assert_allclose([bar.get_height() for bar in drawn], table["prediction"])
    colors = [PALETTE[0] if value >= 0 else PALETTE[1] for value in table["prediction"]]
    assert [to_hex(bar.get_facecolor()).upper() for bar in drawn] == colors
    assert figure.get_suptitle() == "review.mp4: 3 utterances"
    assert {text.replace("\n", " ") for text in words(figure)} == set(table["text"])


@pytest.mark.parametrize(
    "text", ["a film that is much too long to be good", "这部电影真的很好看" * 3]
)
@pytest.mark.parametrize("count", [1, 3, 30, pytest.param(200, marks=pytest.mark.slow)])
def test_words_stand_beside_each_other(text, count):
    figure = timeline_figure(scored(count, text))
    assert overlapping_texts(figure) == []
    assert len(words(figure)) >= {1: 1, 3: 3, 30: 20, 200: 40}[count]


def test_time_goes_on_from_row_to_row_and_nothing_is_left_out():
    table = scored(50, "x")
    rows = [axes.get_xlim() for axes in timeline_figure(table).axes[::2]]
    assert rows[0][0] == 0
    assert rows[-1][1] == pytest.approx(table["end"].max())
    assert all(a[1] == pytest.approx(b[0]) for a, b in pairwise(rows))


def test_the_words_of_the_strongest_come_first():
    table = pd.DataFrame(
        {
            "start": np.arange(8) * 0.1, "end": np.arange(8) * 0.1 + 0.1, "prediction": [0.1] * 8,
            "text": [f"w{k} and many more words that fill all of it" for k in range(8)],
        }
    )  # fmt: skip
    table.loc[4, "prediction"] = -2.0
    table["end"] += [0.0] * 7 + [60.0]
    shown = words(timeline_figure(table))
    assert [text[:2] for text in shown if text[:2] != "w7"] == ["w4"]


def test_odd_texts_and_numbers():
    table = scored(5, "x")
    table["text"] = ["", "costs $5 and $6", "x" * 500, "😀", "  a\nb "]
    table.loc[0, "prediction"] = np.nan
    figure = timeline_figure(table, "a_$b$")
    assert overlapping_texts(figure) == []
    assert r"costs \$5 and \$6" in [text.replace("\n", " ") for text in words(figure)]
    assert any(text.endswith("…") and len(text) < 120 for text in words(figure))


@pytest.mark.parametrize("table", [scored(0, ""), scored(1, "a").assign(start=0.0, end=0.0)])
def test_a_video_without_anything_is_drawn(table, tmp_path):
    (path,) = save(timeline_figure(table), tmp_path / "timeline", ["png"])
    assert path.stat().st_size > 1000


def test_clock():
    figure = timeline_figure(scored(3, "x").assign(end=[1.0, 2.0, 7260.0]))
    figure.draw_without_rendering()
    labels = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert [label for label in labels if label[0].isdigit()][:6] == [
        "0:00", "15:00", "30:00", "45:00", "1:00:00", "1:15:00",
    ]  # fmt: skip
    assert mpl.rcParams["axes.spines.top"]  # the style is that of this figure alone


def test_one_utterance_is_one():
    assert timeline_figure(scored(1, "word")).get_suptitle() == "1 utterance"
