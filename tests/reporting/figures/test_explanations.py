"""Pictures of attention, attribution, representations and cases, drawn from tables."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import image

from MMSA_ext.reporting.figures import save
from MMSA_ext.reporting.figures.attention import attention_figure, head_figure
from MMSA_ext.reporting.figures.attribution import attribution_figure
from MMSA_ext.reporting.figures.cases import case_figure
from MMSA_ext.reporting.figures.embeddings import embedding_figure
from tests.reporting.figures.panels import overlapping_texts

LONG = "a very long text that says much " * 12


pytestmark = pytest.mark.usefixtures("strict")


@pytest.fixture
def sample():
    return pd.Series(
        {
            "id": "video_1$_$2", "text": "我很 喜欢 $5", "label": np.nan, "prediction": 0.5,
            "baseline": 0.1, "text_sum": 0.5, "audio_sum": -0.1, "vision_sum": 0.0, "gap": 0.0,
            "selection": "held",
        }
    )  # fmt: skip


def maps(frames, tokens, padding=0):
    rng = np.random.default_rng(0)
    tables = []
    for modality in ("audio", "vision"):
        numbers = np.arange(-1, frames + padding)
        weights = rng.dirichlet(np.ones(len(numbers)), (2, tokens))
        tables.append(
            pd.DataFrame(
                {
                    "id": "x",
                    "modality": modality,
                    "token": np.repeat(np.arange(tokens), len(numbers)),
                    "piece": np.repeat(["[CLS]", *["好"] * (tokens - 1)], len(numbers)),
                    "frame": np.tile(numbers, tokens),
                    "valid": np.tile(numbers < frames, tokens),
                    "weight": weights.mean(axis=0).reshape(-1),
                    "head_0": weights[0].reshape(-1),
                    "head_1": weights[1].reshape(-1),
                }
            )
        )
    return pd.concat(tables)


def check(figure, folder):
    written = save(figure, folder / "figure")
    picture = image.imread(written[0])
    assert picture[..., :3].std() > 0.05
    assert written[1].read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(("frames", "tokens", "padding"), [(1, 2, 4), (60, 20, 0)])
def test_attention(frames, tokens, padding, sample, tmp_path):
    figure = attention_figure(maps(frames, tokens, padding), sample)
    check(figure, tmp_path)
    assert overlapping_texts(figure) == []


def test_attention_by_head(sample, tmp_path):
    check(head_figure(maps(12, 5), sample), tmp_path)


@pytest.mark.parametrize("frames", [True, False])
@pytest.mark.parametrize("words", [["好"] * 9, ["word"] * 30, []])
def test_attribution(words, frames, sample, tmp_path):
    def part(modality, units, values):
        return pd.DataFrame(
            {
                "id": "x", "modality": modality, "position": np.arange(len(units)),
                "unit": units, "attribution": values,
            }
        )  # fmt: skip

    parts = [
        part("text", words, np.linspace(-1, 1, len(words))),
        part("audio", [str(i) for i in range(30)], np.sin(np.arange(30.0)) / 100),
        part("vision", ["0"], [0.0]),
    ][: 3 if frames else 1]  # the model may read text alone
    check(attribution_figure(pd.concat(parts), sample), tmp_path)


@pytest.mark.parametrize("stages", [["encoded"], ["pooled", "aligned"]])
def test_embeddings(stages, tmp_path):
    rng = np.random.default_rng(0)
    points = pd.DataFrame(
        [
            {
                "stage": stage, "modality": modality, "id": str(i), "x": rng.normal(),
                "y": rng.normal(), "label": i - 2.0, "perplexity": 5.0, "seed": 0,
            }
            for stage in stages
            for modality in ("text", "audio", "vision", "multimodal")
            for i in range(6)
        ]
    )  # fmt: skip
    distances = pd.DataFrame(
        [
            {"stage": s, "source": "text", "target": t, "cosine": 0.0, "centroid": 1.0,
             "discrepancy": 0.2}
            for s in [*stages, "aligned, uniform plan"]
            for t in ("audio", "vision")
        ]
    )  # fmt: skip
    figure = embedding_figure(points, distances, title="x on y")
    check(figure, tmp_path)
    sentiment = [axes.collections for axes in figure.subfigs[1].axes[: len(stages)]]
    for drawn in (one for axes in sentiment for one in axes):
        assert drawn.get_array().tolist() == [-2, -1, 0, 1, 2, 3]
        assert drawn.norm(0.0) == 0.5  # white, whatever the labels are
    assert figure.subfigs[1].axes[-1].get_ylabel() == "sentiment (label)"


@pytest.mark.parametrize("count", [1, 6])
def test_cases(count, tmp_path):
    table = pd.DataFrame(
        {
            "id": [f"v$_${i}" for i in range(count)],
            "split": "test",
            "text": [LONG, "我最讨厌别人骗我"] * (count // 2) or [LONG],
            "label": np.linspace(-3, 3, count),
            "Host": 0.5,
            "Host std": np.nan,
            "Host + InfoEnh": -0.5,
            "Host + InfoEnh std": 0.1,
        }
    )
    systems = ["Host", "Host + InfoEnh"]
    check(case_figure(table, systems, summary=LONG), tmp_path)
