from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from MMSA_ext.cli import app
from MMSA_ext.errors import ConfigError
from MMSA_ext.records.store import RunStore
from MMSA_ext.reporting.statistics import StatisticsError
from tests.reporting.conftest import make_finished


@pytest.fixture
def results(tmp_path):
    """A results folder with two models over three seeds."""
    store = RunStore(tmp_path / "runs")
    labels = np.linspace(-3, 3, 30)
    for model, noise in (("good", 0.3), ("bad", 1.5)):
        for seed in (1, 2, 3):
            rng = np.random.default_rng(seed)
            frame = pd.DataFrame({"split": "test", "id": range(30), "label": labels})
            frame["prediction"] = labels + noise * rng.standard_normal(30)
            mae = float((frame["prediction"] - labels).abs().mean())
            record = make_finished(
                dataset_fingerprint="ab" * 32,
                model=model,
                configuration={"pretrained": "minilm"},
                seed=seed,
                metrics={"test": {"MAE": mae, "Corr": 0.5 + seed / 100}},
            )
            store.write(record, frame.astype({"id": str}))
    return tmp_path


def invoke(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_compare_shows_seeds_and_samples(results):
    numbers = results / "numbers.csv"
    options = ("-m", "MAE", "--resamples", 200, "--res-save-dir", results, "-o", numbers)
    done = invoke("compare", "good", "bad", *options)
    assert done.exit_code == 0, done.output
    for said in (
        "good - bad. mosi, test split",
        "bad (baseline)",
        "paired t-test",
        "mean of 3 seeds",
        "paired bootstrap over test samples, two-sided, 200 resamples",
        "lowest validation Loss, patience 8",
        "Linux x86_64",
    ):
        assert said in done.output
    written = pd.read_csv(numbers)
    assert list(written["predictions"]) == ["mean of 3 seeds", "seed 1", "seed 2", "seed 3"]
    assert (written["difference"] < 0).all()
    assert set(written["selection"]) == {"lowest validation Loss, patience 8"}


def test_compare_shows_the_table_before_it_needs_predictions(results):
    for path in (results / "runs").rglob("*.csv*"):
        path.unlink()
    done = invoke("compare", "good", "bad", "-m", "MAE", "--res-save-dir", results)
    assert done.exception is not None
    assert "bad (baseline)" in done.output


@pytest.mark.parametrize("command", [("compare", "a", "b"), ("power", "a", "b"), ("result-stat",)])
def test_output_is_checked_before_the_computation(tmp_path, command):
    """The store does not exist either: that would be said first, were the output not checked."""
    (tmp_path / "file").write_text("")
    for output, said in ((tmp_path / "file" / "x.csv", "cannot be written"), (tmp_path, "folder")):
        done = invoke(*command, "-o", output, "--res-save-dir", tmp_path / "none")
        assert isinstance(done.exception, ConfigError)
        assert f"--output {output}" in str(done.exception)
        assert said in str(done.exception)


def test_the_folder_of_the_output_is_made(results):
    path = results / "new" / "folder" / "power.csv"
    done = invoke("power", "good", "bad", "-m", "MAE", "--res-save-dir", results, "-o", path)
    assert done.exit_code == 0, done.output
    assert path.is_file()


def test_a_table_needs_no_experiment_file(results):
    options = ("--res-save-dir", results)
    full = invoke("table", "-m", "good", "--baseline", "bad", *options)
    assert full.exit_code == 0, full.output
    for said in ("bad (baseline)", "difference (p)", "mosi, test split", "n = 3: 1, 2, 3"):
        assert said in full.output
    assert full.output.index("bad") < full.output.index("good")
    paper = invoke("table", "--style", "paper", "--no-std", *options).output
    assert "95 %" not in paper
    assert "0.520" in paper
    for name, said in {
        "t.tex": r"\toprule", "t.md": "| system |", "t.html": "<!doctype", "t.csv": "row,model",
    }.items():  # fmt: skip
        done = invoke("table", "-d", "mosi", "-o", results / name, *options)
        assert done.exit_code == 0, done.output
        assert said in (results / name).read_text("utf-8")


def another(record, **identity):
    """The run of a record under another identity."""
    return record.model_copy(update={"identity": record.identity.model_copy(update=identity)})


def test_every_feature_file_has_a_table_of_its_own(results):
    store = RunStore(results / "runs")
    [first, *_] = store.records()
    store.write(another(first, dataset_fingerprint="cd" * 32))
    found = invoke("table", "--res-save-dir", results, "--baseline", "good").output
    assert found.count("difference (p)") == 1
    assert f"Features {'ab' * 6}. mosi" in found
    assert f"Features {'cd' * 6}. mosi" in found


def test_a_model_with_several_settings_has_several_rows_but_is_no_baseline(results):
    store = RunStore(results / "runs")
    run = next(run for run in store.records() if run.identity.model == "good")
    store.write(another(run, configuration={"pretrained": "other"}))
    said = invoke("table", "-m", "good", "--res-save-dir", results).output
    assert "good (pretrained = minilm)" in said
    assert "good (pretrained = other)" in said
    done = invoke("table", "--baseline", "good", "--res-save-dir", results)
    assert isinstance(done.exception, StatisticsError)
    assert "the baseline 'good' is 2 rows: good (pretrained = minilm), id " in str(done.exception)


def test_runs_by_older_code_are_counted_not_shown(results):
    store = RunStore(results / "runs")
    for run in list(store.records()):
        later = {"metrics": {"test": {"MAE": 0.25}}, "created": run.created + timedelta(days=1)}
        store.write(another(run, code_version="0.2.0").model_copy(update=later))
    said = invoke("table", "-m", "good", "--res-save-dir", results).output
    assert "25.00" in said
    assert "3 run(s) by older code" in said


def test_power_takes_points(results):
    done = invoke("power", "good", "bad", "-m", "MAE", "--gain", 30, "--res-save-dir", results)
    assert done.exit_code == 0, done.output
    assert "seeds for 30 points" in done.output
    assert "for MAE 0.3" in done.output
    assert "lowest validation Loss, patience 8" in done.output


def test_result_stat_is_shown_or_written(results):
    shown = invoke("result-stat", "--res-save-dir", results)
    assert "| good |" in shown.output
    path = results / "new" / "result-stat.md"
    written = invoke("result-stat", "--res-save-dir", results, "-o", path)
    assert f"written: {path}" in written.output.replace("\n", "")
    assert path.read_text("utf-8") == shown.output


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (("compare", "good", "worse"), StatisticsError, "no runs of 'worse'"),
        (("compare", "good", "good"), StatisticsError, "the same runs"),
        (("compare", "good", "bad", "-d", "sims"), StatisticsError, "there are runs on mosi"),
        (("compare", "good", "bad", "--split", "foo"), StatisticsError, "there are test"),
        (("power", "good", "bad", "--split", "foo"), StatisticsError, "there are test"),
        (("compare", "good", "bad", "-m", "F1"), StatisticsError, "no metric 'F1'"),
        (("power", "good", "bad", "-m", "MAE", "--gain", "0"), StatisticsError, "the gain is 0"),
        (("power", "good", "bad", "-m", "MAE", "--power", "1"), StatisticsError, "power is 1.0"),
        (("power", "good", "bad", "-m", "MAE", "--alpha", "5"), StatisticsError, "alpha is 5.0"),
    ],
)
def test_mistakes_are_named(results, arguments, error, said):
    done = invoke(*arguments, "--res-save-dir", results)
    assert isinstance(done.exception, error)
    assert said in str(done.exception)


def test_a_folder_without_runs_is_named(tmp_path):
    done = invoke("result-stat", "--res-save-dir", tmp_path / "none")
    assert isinstance(done.exception, ConfigError)
    assert "none" in str(done.exception)
    assert "--res-save-dir" in str(done.exception)
