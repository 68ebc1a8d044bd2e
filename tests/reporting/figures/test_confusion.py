import numpy as np
import pandas as pd
import pytest
import torch
from MMSA.utils.metricsTop import MetricsTop

from MMSA_ext.records.store import StoreError
from MMSA_ext.reporting.figures import confusion_figure
from MMSA_ext.reporting.figures.confusion import classes_of, confusion
from tests.reporting.figures.panels import overlapping_texts, panels


def make_predictions(seeds=2, scale=3.0, samples=40):
    rng = np.random.default_rng(0)
    # Halves and borders of classes are where rounding decides.
    labels = np.round(rng.uniform(-1, 1, samples) * 2) / 2 * scale
    runs = [
        pd.DataFrame(
            {
                "split": ["test"] * (samples - 2) + ["valid"] * 2,
                "id": [f"{index:03d}" for index in range(samples)],
                "label": labels,
                "prediction": labels + np.round(rng.standard_normal(samples) * scale) / 2,
            }
        )
        for _ in range(seeds)
    ]
    return pd.concat(runs)


@pytest.mark.parametrize(
    ("dataset", "classes", "scale"),
    [
        ("mosi", 7, 3),
        ("mosei", 7, 3),
        ("mosi", 5, 3),
        ("sims", 5, 1),
        ("sims", 3, 1),
        ("sims", 2, 1),
    ],
)
def test_the_diagonal_is_mmsa_s_accuracy(dataset, classes, scale):
    frame = make_predictions(1, scale)
    matrix = confusion(frame, classes_of(dataset, classes))
    assert matrix.shape == (classes, classes)
    assert matrix.sum() == len(frame)
    values = [torch.tensor(frame[name].to_numpy(np.float32)) for name in ("prediction", "label")]
    scores = MetricsTop("regression").getMetics(dataset)(*values)
    assert round(np.trace(matrix) / len(frame), 4) == scores[f"Mult_acc_{classes}"]


def test_halves_go_to_the_even_class_and_what_is_beyond_to_the_last():
    frame = pd.DataFrame({"label": [0.5, 1.5, -2.5, 2.8], "prediction": [0.0, 2.0, -2.0, 9.0]})
    matrix = confusion(frame, classes_of("mosi"))
    assert matrix[3, 3] == matrix[5, 5] == matrix[1, 1] == matrix[6, 6] == 1


def test_rows_are_true_classes_and_borders_of_sims_belong_to_the_class_below():
    frame = pd.DataFrame({"label": [-0.7, 0.1], "prediction": [0.8, 0.0]})
    matrix = confusion(frame, classes_of("sims"))
    assert matrix[0, 4] == matrix[2, 2] == 1
    assert matrix.sum() == 2
    found = classes_of("sims")
    assert found.ranges == ("≤ -0.7", "≤ -0.1", "≤ 0.1", "≤ 0.7", "> 0.7")
    assert found.names == ("negative", "weakly negative", "neutral", "weakly positive", "positive")
    assert classes_of("sims", 3).names == ("negative", "neutral", "positive")


def test_counts_stand_in_the_cells_and_shares_are_the_shades():
    frames = {"Self-MM": make_predictions(3), "Text only": make_predictions(2)}
    figure = confusion_figure(frames, "mosi")
    shown = panels(figure)
    axes = next(axes for title, axes in shown.items() if title.startswith("Self-MM"))
    test = frames["Self-MM"][frames["Self-MM"]["split"] == "test"]
    matrix = confusion(test, classes_of("mosi"))
    assert [int(text.get_text()) for text in axes.texts] == matrix.ravel().tolist()
    totals = np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    np.testing.assert_allclose(axes.images[0].get_array(), matrix / totals)
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text().replace("\n", " ") for label in ticks] == [
            *("strongly negative (-3)", "negative (-2)", "weakly negative (-1)", "neutral (0)"),
            *("weakly positive (+1)", "positive (+2)", "strongly positive (+3)"),
        ]
    accuracy = 100 * np.trace(matrix) / matrix.sum()
    assert axes.get_title() == f"Self-MM\n{accuracy:.1f} % right, 3 seeds"
    title = figure.get_suptitle()
    said = "mosi: the classes of Acc-7\ntest split of 38 samples, counts summed over seeds"
    assert title == said


@pytest.mark.parametrize(
    ("systems", "dataset", "samples"), [(1, "mosi", 40), (5, "sims", 40), (4, "mosei", 30_000)]
)
def test_nothing_overlaps(systems, dataset, samples):
    frame = make_predictions(1, 1 if dataset == "sims" else 3, samples)
    frames = {f"Self-MM + InfoEnh, variant {index}": frame for index in range(systems)}
    assert overlapping_texts(confusion_figure(frames, dataset)) == []


def test_wrong_input_is_refused():
    frame = make_predictions(2)
    broken = frame.assign(prediction=np.nan)
    for frames, options, text in (
        ({}, {}, "no predictions"),
        ({"a": frame}, {"split": "train"}, "'a' has no predictions of the train split"),
        ({"a": broken}, {}, "not finite"),
        ({"a": frame.iloc[5:]}, {}, "not the same samples"),
        ({"a": frame}, {"classes": 4}, "no 4 classes of mosi; it has 7, 5"),
    ):
        with pytest.raises(StoreError, match=text):
            confusion_figure(frames, "mosi", **options)
    with pytest.raises(StoreError, match="it has 5, 3, 2"):
        classes_of("sims", 7)
