import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib import colors, image
from matplotlib.figure import Figure

from MMSA_ext.reporting import figures
from MMSA_ext.reporting.figures import curves_overview, infoenh_study, training_curves
from MMSA_ext.reporting.store import EpochRecord, StoreError


@pytest.fixture
def drawn(monkeypatch):
    """Every figure that was saved, for a look at what it holds."""
    kept = []
    save = Figure.savefig

    def keep(self, *arguments, **options):
        kept.append(self)
        return save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return kept


def panels(figure):
    return {axes.get_title() or axes.get_title(loc="left"): axes for axes in figure.axes}


def test_writes_a_picture_and_a_vector_file(tmp_path, make_record):
    written = training_curves(make_record(), tmp_path / "curves" / "run-0.1")
    assert [path.name for path in written] == ["run-0.1.png", "run-0.1.pdf"]
    picture = image.imread(written[0])
    assert picture.shape[1] >= 1000
    assert written[1].read_bytes().startswith(b"%PDF")
    vermillion = np.array(colors.to_rgb(figures.VERMILLION))
    assert (np.abs(picture[..., :3] - vermillion).max(axis=-1) < 0.02).sum() > 500


def test_an_ending_in_the_path_is_not_doubled(tmp_path, make_record):
    written = training_curves(make_record(), tmp_path / "run.png", ["png"])
    assert [path.name for path in written] == ["run.png"]


def test_equal_records_give_equal_files(tmp_path, make_record):
    formats = ["png", "pdf", "svg"]
    one = training_curves(make_record(), tmp_path / "one", formats)
    two = training_curves(make_record(), tmp_path / "two", formats)
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_shows_the_comparable_losses_and_the_tested_epoch(tmp_path, make_record, drawn):
    record = make_record()
    training_curves(record, tmp_path / "run", ["png"])
    shown = panels(drawn[0])
    assert set(shown) == {
        "loss",
        "training contrastive loss",
        "validation MAE",
        "validation Pearson correlation",
    }
    train, valid, tested = shown["loss"].lines
    assert list(train.get_ydata()) == [e.train["prediction_loss"] for e in record.history]
    assert list(valid.get_ydata()) == [e.valid["Loss"] for e in record.history]
    assert set(tested.get_xdata()) == {record.chosen_epoch}
    title = drawn[0].get_suptitle()
    for part in ("dashfusion", "mosi", "1111", "20 epochs", f"tested epoch {record.chosen_epoch}"):
        assert part in title


def test_a_history_with_plain_losses_only(tmp_path, make_record, drawn):
    history = [EpochRecord(epoch=e, train={"Loss": 1 / e}, valid={"Loss": 1}) for e in (1, 2)]
    training_curves(make_record(history=history), tmp_path / "run", ["png"])
    assert set(panels(drawn[0])) == {"loss"}
    assert list(drawn[0].axes[0].lines[0].get_ydata()) == [1.0, 0.5]


def test_undefined_values_are_gaps(tmp_path, make_diverged_record, drawn):
    training_curves(make_diverged_record(), tmp_path / "run", ["png"])
    loss = panels(drawn[0])["loss"]
    assert np.isnan(loss.lines[0].get_ydata()[-1])
    assert loss.get_xlim()[1] > 3
    assert "diverged: the training loss became non-finite" in drawn[0].get_suptitle()


@pytest.mark.parametrize(
    ("history", "text"),
    [
        ((), "no epochs recorded"),
        ((EpochRecord(epoch=1, train={"Loss": None}, valid={}),), "no finite value recorded"),
    ],
)
def test_nothing_to_draw_is_said(tmp_path, make_record, drawn, history, text):
    training_curves(make_record(history=history, chosen_epoch=None), tmp_path / "run", ["png"])
    assert text in [found.get_text() for found in drawn[0].axes[0].texts]


def test_one_epoch_is_visible(tmp_path, make_record, drawn):
    training_curves(make_record(epochs=1), tmp_path / "run", ["png"])
    assert all(axes.lines[0].get_marker() == "o" for axes in drawn[0].axes)


def test_overview_has_a_row_a_data_set_and_a_colour_a_model(tmp_path, records, drawn):
    (path,) = curves_overview(records, tmp_path / "all", ["png"])
    assert path.is_file()
    shown = panels(drawn[0])
    assert set(shown) == {
        f"{dataset}: validation {metric}"
        for dataset in ("mosi", "sims")
        for metric in ("MAE", "Pearson correlation")
    }
    curves = [line for line in shown["mosi: validation MAE"].lines if line.get_marker() == "None"]
    assert len(curves) == 6
    assert len({line.get_color() for line in curves}) == 2
    assert len({line.get_linestyle() for line in curves}) == 2
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert labels == ["dashfusion (3 seeds)", "text_only (3 seeds)", "tested epoch", "diverged"]


def test_overview_marks_the_tested_epoch(tmp_path, make_record, drawn):
    record = make_record()
    curves_overview([record], tmp_path / "all", ["png"])
    dots = [line for line in drawn[0].axes[0].lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in dots] == [[record.chosen_epoch]]


def test_many_models_stay_apart(tmp_path, make_record, drawn):
    names = [f"model_{index}" for index in range(17)]
    curves_overview([make_record(model=name) for name in names], tmp_path / "all", ["png"])
    curves = [line for line in drawn[0].axes[0].lines if line.get_marker() == "None"]
    assert len({(line.get_color(), line.get_linestyle()) for line in curves}) == 17


def test_overview_without_runs_and_unknown_formats_are_refused(tmp_path, make_record):
    with pytest.raises(StoreError, match="no runs"):
        curves_overview([], tmp_path / "all")
    with pytest.raises(StoreError, match="gif3"):
        training_curves(make_record(), tmp_path / "run", ["gif3"])
    assert list(tmp_path.iterdir()) == []


def test_pyplot_is_not_touched(tmp_path, make_record):
    before = "matplotlib.pyplot" in sys.modules
    training_curves(make_record(), tmp_path / "run", ["png"])
    assert ("matplotlib.pyplot" in sys.modules) == before


class TestInfoEnhStudy:
    @pytest.fixture
    def tables(self):
        stages = pd.DataFrame({"seed": [0, 0, 1, 1], "stage": ["untrained", "trained"] * 2})
        cases = [("before", 0.9), ("push-forward", 0.8)]
        return {
            "selection": stages.assign(part="audio cue", kept=[0.2, 0.8, 0.3, 0.9], chance=0.1),
            "pairs": stages.assign(modality="audio", mass=[0.1, 0.2, 0.1, 0.3], chance=0.125),
            "signs": pd.concat(
                [
                    stages.assign(modality="audio", sign="positive", kept=[0.5, 1.0, 0.5, 0.1]),
                    stages.assign(modality="audio", sign="negative", kept=[0.5, 0.2, 0.5, 0.9]),
                ]
            ),
            "distance": pd.concat(
                stages.assign(
                    plan=plan, source="audio", target=target, cosine=value, discrepancy=value
                )
                for plan, value in cases
                for target in ("text", "vision")
            ),
        }

    @staticmethod
    def dots(axes):
        lines = [line for line in axes.lines if line.get_marker() != "None"]
        return {line.get_marker(): list(line.get_ydata()) for line in lines}

    def test_a_dot_a_seed_and_chance_beside_it(self, tmp_path, drawn, tables):
        written = infoenh_study(tables, tmp_path / "study")
        assert [path.name for path in written] == ["study.png", "study.pdf"]
        kept = panels(drawn[0])["share of the informative tokens that is kept"]
        assert self.dots(kept) == {"s": [0.2, 0.3], "o": [0.8, 0.9]}
        (chance,) = (line for line in kept.lines if line.get_linestyle() == "--")
        assert list(chance.get_ydata()) == [0.1, 0.1]

    def test_the_sign_that_is_kept_more_stands_beside_the_other(self, tmp_path, drawn, tables):
        infoenh_study(tables, tmp_path / "study", ["png"])
        signs = panels(drawn[0])["cues kept, by their sign"]
        assert self.dots(signs) == {"o": [1.0, 0.9], "v": [0.2, 0.1]}

    def test_distances_are_means_over_pairs_of_the_trained_models(self, tmp_path, drawn, tables):
        distance = tables["distance"]
        distance.loc[distance["target"] == "text", "cosine"] += 0.1
        distance.loc[distance["stage"] == "untrained", "cosine"] = np.nan
        infoenh_study(tables, tmp_path / "study", ["png"])
        axes = panels(drawn[0])["mean cosine distance between modalities"]
        values = [list(line.get_ydata()) for line in axes.lines if line.get_marker() == "o"]
        np.testing.assert_allclose(values, [[0.95, 0.95], [0.85, 0.85]])
        names = [label.get_text() for label in axes.get_xticklabels()]
        assert names == ["before", "push-\nforward"]
