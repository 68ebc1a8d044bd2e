import sys

import numpy as np
import pytest
from matplotlib import colors, image

from MMSA_ext.records.store import EpochRecord, StoreError
from MMSA_ext.reporting.figures import curves_overview, save, training_curves
from MMSA_ext.reporting.figures.style import VERMILLION, look
from tests.reporting.figures.panels import overlapping_texts, panels


def test_writes_a_picture_and_a_vector_file(tmp_path, make_record):
    written = save(training_curves(make_record()), tmp_path / "curves" / "run-0.1")
    assert [path.name for path in written] == ["run-0.1.png", "run-0.1.pdf"]
    picture = image.imread(written[0])
    assert picture.shape[1] >= 1000
    assert written[1].read_bytes().startswith(b"%PDF")
    vermillion = np.array(colors.to_rgb(VERMILLION))
    assert (np.abs(picture[..., :3] - vermillion).max(axis=-1) < 0.02).sum() > 500


def test_equal_records_give_equal_files(tmp_path, make_record):
    formats = ["png", "pdf", "svg"]
    record = make_record(epochs=1, contrastive=False)
    one, two = (save(training_curves(record), tmp_path / n, formats) for n in ("1", "2"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_shows_the_comparable_losses_and_the_tested_epoch(make_record):
    record = make_record()
    figure = training_curves(record)
    shown = panels(figure)
    assert set(shown) == {
        "loss",
        "training contrastive loss",
        "validation MAE",
        "validation Corr",
    }
    train, valid, tested = shown["loss"].lines
    assert list(train.get_ydata()) == [e.train["prediction_loss"] for e in record.history]
    assert list(valid.get_ydata()) == [e.valid["Loss"] for e in record.history]
    assert set(tested.get_xdata()) == {record.chosen_epoch}
    title = figure.get_suptitle()
    for part in ("dashfusion", "mosi", "1111", "20 epochs", f"tested epoch {record.chosen_epoch}"):
        assert part in title


def test_a_history_with_plain_losses_only(make_record):
    history = [EpochRecord(epoch=e, train={"Loss": 1 / e}, valid={"Loss": 1}) for e in (1, 2)]
    figure = training_curves(make_record(history=history))
    assert set(panels(figure)) == {"loss"}
    assert list(figure.axes[0].lines[0].get_ydata()) == [1.0, 0.5]


def test_undefined_values_are_gaps(make_diverged_record):
    figure = training_curves(make_diverged_record())
    loss = panels(figure)["loss"]
    assert np.isnan(loss.lines[0].get_ydata()[-1])
    assert loss.get_xlim()[1] > 3
    assert "diverged: the training loss became non-finite" in figure.get_suptitle()


@pytest.mark.parametrize(
    ("history", "text"),
    [
        ((), "no epochs recorded"),
        ((EpochRecord(epoch=1, train={"Loss": None}, valid={}),), "no finite value recorded"),
    ],
)
def test_nothing_to_draw_is_said(make_record, history, text):
    figure = training_curves(make_record(history=history, chosen_epoch=None))
    assert text in [found.get_text() for found in figure.axes[0].texts]


def test_one_epoch_is_visible(make_record):
    figure = training_curves(make_record(epochs=1))
    assert all(axes.lines[0].get_marker() == "o" for axes in figure.axes)


def test_overview_has_a_row_a_data_set_and_a_colour_a_model(records):
    figure = curves_overview(records)
    shown = panels(figure)
    assert set(shown) == {
        f"{dataset}: validation {metric}"
        for dataset in ("mosi", "sims")
        for metric in ("MAE", "Corr")
    }
    curves = [line for line in shown["mosi: validation MAE"].lines if line.get_marker() == "None"]
    assert len(curves) == 6
    assert len({line.get_color() for line in curves}) == 2
    assert len({line.get_linestyle() for line in curves}) == 2
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    seeds = "seeds 1111 to 1113"
    assert labels == [f"text_only: {seeds}", f"dashfusion: {seeds}", "tested epoch", "diverged"]


def test_configurations_of_one_model_have_their_own_lines_and_names(make_record):
    runs = [
        make_record(seed=seed, configuration={"feature_scaling": scaling})
        for scaling in ("none", "standardise")
        for seed in (1, 3)
    ]
    figure = curves_overview(runs)
    lines = [line for line in figure.axes[0].lines if line.get_marker() == "None"]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 2
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[:2] == [
        f"dashfusion (feature_scaling = {scaling}): seeds 1, 3"
        for scaling in ("none", "standardise")
    ]


def test_seeds_of_a_single_system_are_told_apart(make_record):
    figure = curves_overview([make_record(seed=seed) for seed in (1111, 1112)])
    lines = [line for line in figure.axes[0].lines if line.get_marker() == "None"]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 2
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["seed 1111", "seed 1112", "tested epoch"]
    assert figure.get_suptitle() == "dashfusion"


def test_overview_marks_the_tested_epoch(make_record):
    record = make_record()
    figure = curves_overview([record])
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in dots] == [[record.chosen_epoch]]


def test_more_than_four_models_have_panels_of_their_own(make_record, make_diverged_record):
    names = [f"model_{index}" for index in range(6)]
    runs = [make_record(model=name, seed=seed) for name in names for seed in (1, 2)]
    runs += [make_diverged_record(model="model_5", seed=3), make_record(dataset="sims")]
    figure = curves_overview(runs)
    mae = figure.subfigs[0]
    assert mae.get_suptitle() == "mosi: validation MAE by epoch"
    shown = {axes.get_title(loc="left"): axes for axes in mae.axes if axes.axison}
    seeds = ["seeds 1, 2"] * 5 + ["seeds 1 to 3"]
    assert list(shown) == [f"model_{i}\n{said}" for i, said in enumerate(seeds)]
    for index, axes in enumerate(shown.values()):
        own = [
            line
            for line in axes.lines
            if (line.get_color(), line.get_linestyle()) == look(index) and len(line.get_xdata()) > 1
        ]
        expected = [run for run in runs if run.identity.model == f"model_{index}"]
        assert [len(line.get_xdata()) for line in own] == [len(run.history) for run in expected]
        grey = [line for line in axes.lines if line.get_color() == "0.85"]
        assert len(grey) == 13
    dots = [line for line in shown["model_0\nseeds 1, 2"].lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in dots] == [run.chosen_epoch for run in runs[:2]]
    (other,) = (axes for axes in figure.subfigs[2].axes if axes.axison)
    assert other.get_title(loc="left") == "dashfusion\nseed 1111"
    legend = [text.get_text() for text in figure.subfigs[-1].legends[0].get_texts()]
    assert legend == ["the others", "tested epoch", "diverged"]


@pytest.mark.parametrize("models", [2, 4, 6])
def test_nothing_overlaps(make_record, models):
    names = [f"self_mm_infoenh_{index}" for index in range(models)]
    assert overlapping_texts(curves_overview([make_record(model=n) for n in names])) == []
    assert overlapping_texts(training_curves(make_record())) == []


def test_an_overview_without_runs_is_refused():
    with pytest.raises(StoreError, match="no runs"):
        curves_overview([])


def test_pyplot_is_not_touched(tmp_path, make_record):
    before = "matplotlib.pyplot" in sys.modules
    save(training_curves(make_record(epochs=1)), tmp_path / "run", ["png"])
    assert ("matplotlib.pyplot" in sys.modules) == before
