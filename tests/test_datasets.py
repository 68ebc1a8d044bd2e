"""Data sets by name: those that are shipped, and one's own."""

import json
import pickle
import subprocess
import sys
from importlib import import_module

import MMSA
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from MMSA_ext import (
    MMSA_run,
    list_datasets,
    mmsa_bridge,
    predict_file,
    register_dataset,
    unregister_dataset,
)
from MMSA_ext.cli import app
from MMSA_ext.config.files import supported_datasets
from MMSA_ext.config.resolve import get_config_regression, identity_config, resolve
from MMSA_ext.data.features import check_features
from MMSA_ext.data.retrieval import RetrievalConfig, build_index
from MMSA_ext.datasets import (
    DEFINITION,
    SHIPPED,
    dataset_of,
    get_dataset,
    known,
    known_from,
    read_datasets,
)
from MMSA_ext.errors import ConfigError, FeatureFileError
from MMSA_ext.explain.complexity import report
from MMSA_ext.metrics import label_classes, metrics_of
from MMSA_ext.records.record import read_record
from MMSA_ext.records.store import RunStore, StoreError
from MMSA_ext.reporting.comparison import compare
from MMSA_ext.reporting.figures.confusion import classes_of, confusion_figure
from MMSA_ext.reporting.groups import by_experiment, rows
from MMSA_ext.reporting.report_contents import sections
from MMSA_ext.reporting.result_stat import result_stat
from MMSA_ext.reporting.statistics import StatisticsError
from MMSA_ext.reporting.tables import run_tables
from MMSA_ext.runs.options import RunOptions
from tests.conftest import make_feature_data, tiny_config, train

runner = CliRunner()
OWN = {"label_range": [0, 10]}


@pytest.fixture(autouse=True)
def _none_is_left():
    yield
    assert list_datasets() == list(SHIPPED)


def ratings(counts=(12, 6, 6), seed=0):
    """The random data of other tests, with whole labels from 0 to 10."""
    data = make_feature_data(counts, seed=seed)
    for split in data.values():
        split["regression_labels"] = np.round((split["regression_labels"] + 3) / 0.6)
    return data


@pytest.fixture
def own_file(tmp_path):
    """A file that defines `mydata`, with its feature file beside it."""
    (tmp_path / "mydata.pkl").write_bytes(pickle.dumps(ratings(), protocol=4))
    path = tmp_path / "mydata.json"
    path.write_text(json.dumps({"mydata": OWN | {"features": "mydata.pkl"}}))
    return path


def folders(tmp_path):
    names = ("model_save_dir", "res_save_dir", "log_dir")
    return dict.fromkeys(names, tmp_path / "out") | {
        "gpu_ids": "cpu", "num_workers": 0, "verbose_level": 0,
    }  # fmt: skip


# Definitions.


def test_shipped_facts():
    assert list_datasets() == ["mosi", "mosei", "sims", "simsv2"]
    second = get_dataset("SIMSv2")
    assert (second.metrics, second.label_range, second.like) == ("sims", (-1.0, 1.0), "sims")
    assert second.feature_dims == (768, 25, 177)
    assert second.seq_lens is None  # nobody told


def test_defaults_follow_from_what_is_said(own_file):
    (mine,) = read_datasets(own_file)
    assert (mine.metrics, mine.like, mine.language) == ("generic", "mosi", "en")
    assert mine.features == str(own_file.with_name("mydata.pkl"))
    chinese = dataset_of("mine", {"label_range": [-1, 1], "metrics": "sims"})
    assert (chinese.like, chinese.language) == ("sims", "cn")
    assert dataset_of("mydata", mine.definition()) == mine.model_copy(update={"features": None})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "defines no data set; write"),
        ({"mydata": [0, 10]}, "data set 'mydata' is [0, 10]; it must be an object"),
        ({"mydata": {}}, 'lacks the key label_range; add it, such as "label_range": [0, 10]'),
        ({"mydata": OWN | {"metric": "sims"}}, "metric: no such key; did you mean metrics?"),
        ({"mydata": OWN | {"metrics": "sism"}}, "metrics: Input should be 'mosi', 'sims' or"),
        ({"mydata": OWN | {"metrics": "mosi"}}, "are for labels in [-3, 3], and label_range is"),
        ({"mydata": {"label_range": [0, True]}}, "label_range.1: Input should be a valid number"),
        ({"mydata": {"label_range": [10, 0]}}, "label_range: give the lowest label first"),
        ({"mydata": {"label_range": [0]}}, "label_range: Tuple should have at least 2 items"),
        ({"mydata": OWN | {"like": "imdb"}}, "like: Input should be 'mosi', 'mosei', 'sims'"),
        ({"mydata": OWN | {"classes": [5, 3]}}, "classes: give rising borders"),
        ({"mydata": OWN | {"classes": [5, 10]}}, "classes: give borders below the highest"),
        ({"mydata": OWN | {"seq_lens": [1, 2, 0]}}, "seq_lens.2: Input should be greater than"),
        ({"mydata": OWN | {"aligned": 1}}, "aligned: Input should be a valid boolean"),
        ({"mydata": OWN | {"name": "other"}}, "has a key 'name'; take it out"),
        ({"My data": OWN}, "a name has lower-case letters"),
        ({"mosi": OWN}, "data set 'mosi' is shipped (mosi, mosei, sims, simsv2); name yours"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_usable(content, said, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError) as caught, known_from(path):
        pass
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    result = runner.invoke(app, ["list", "--dataset-file", str(path)])
    assert str(result.exception) == str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    result = runner.invoke(app, ["list", "--dataset-file", str(tmp_path / "none.json")])
    assert "none.json: no such data set file" in str(result.exception)


def test_registered_and_forgotten():
    mine = register_dataset("mydata", **OWN)
    assert get_dataset("MyData") is mine
    assert register_dataset("mydata", label_range=(0.0, 10.0)) == mine  # the same once more
    with pytest.raises(ConfigError, match="registered already, with another definition"):
        register_dataset("mydata", label_range=[0, 5])
    unregister_dataset("mydata")
    with pytest.raises(ConfigError, match=r"unknown data set 'mydata'; .* --dataset-file FILE"):
        unregister_dataset("mydata")
    with pytest.raises(ConfigError, match="'mosi' is shipped, and stays"):
        unregister_dataset("mosi")


# Metrics.


def test_generic_metrics_on_mosis_range_are_mmsas():
    rng = np.random.default_rng(0)
    labels = (rng.integers(-9, 10, 200) / 3).astype(np.float32)
    predictions = (labels + rng.normal(size=200)).astype(np.float32)
    sides = torch.from_numpy(predictions), torch.from_numpy(labels)
    expected = mmsa_bridge.metrics("mosi")(*sides)
    del expected["Mult_acc_5"]  # MMSA's second cut of the same labels
    found = mmsa_bridge.metrics(dataset_of("mine", {"label_range": [-3, 3]}))(*sides)
    assert found == pytest.approx(expected, abs=1.01e-4)
    assert list(found) == list(expected)


def test_generic_metrics_by_hand():
    mine = dataset_of("mine", OWN)
    labels, predictions = np.array([0.0, 5.0, 8.0, 10.0]), np.array([-3.0, 5.4, 4.9, 12.0])
    found = {name: float(of(predictions, labels)) for name, of in metrics_of(mine).items()}
    assert found["Has0_acc_2"] == 0.75  # the neutral label is 5, the middle
    assert found["Non0_acc_2"] == pytest.approx(2 / 3)
    assert found["Mult_acc_11"] == 0.75  # 8 is taken for 5
    assert found["MAE"] == pytest.approx((3 + 0.4 + 3.1 + 2) / 4)
    bordered = dataset_of("mine", OWN | {"classes": [3, 7]})
    assert label_classes(bordered, labels).tolist() == [0, 1, 2, 2]
    assert float(metrics_of(bordered)["Mult_acc_3"](predictions, labels)) == 0.75
    narrow = dataset_of("mine", {"label_range": [0.1, 0.9]})
    assert not any(name.startswith("Mult") for name in metrics_of(narrow))


def test_classes_that_are_drawn():
    assert classes_of(dataset_of("mine", OWN)).names == tuple(map(str, range(11)))
    signed = dataset_of("mine", {"label_range": [-1, 1]})
    assert classes_of(signed).names == ("-1", "0", "+1")
    bordered = dataset_of("mine", OWN | {"classes": [3, 7]})
    assert classes_of(bordered).names == ("≤ 3", "≤ 7", "> 7")
    with pytest.raises(StoreError, match="has 101 classes, and 2 to 21 can be drawn"):
        classes_of(dataset_of("mine", {"label_range": [0, 100]}))


def test_retrieval_by_borders():
    labels = torch.tensor([0.0, 3.0, 3.5, 9.0])
    config = RetrievalConfig("borders", borders=(3.0,), candidates=3)
    index = build_index(torch.eye(4), labels, config)
    assert [set(row[row >= 0].tolist()) for row in index.same] == [{1}, {0}, {3}, {2}]
    with known(dataset_of("mine", OWN | {"classes": [3, 7]})):
        args = resolve("dashfusion", "mine")
        assert args.contrast_classes == "borders"
    with pytest.raises(ConfigError, match="'mosi' has no borders between classes; write 'exact'"):
        resolve("dashfusion", "mosi", "", {"contrast_classes": "borders"})


# Configurations.


def test_hyper_parameters_are_those_of_what_it_is_like():
    mine = dataset_of("mine", OWN | {"like": "sims", "seq_lens": [9, 8, 7]})
    with known(mine):
        for model in ("dashfusion", "self_mm", "lf_dnn_infoenh"):
            args, like = (get_config_regression(model, name) for name in ("mine", "sims"))
            assert args.pop(DEFINITION) == mine.definition()
            differ = {key for key in args if args[key] != like.get(key)}
            assert differ <= {"dataset_name", "featurePath", "seq_lens", "language", "H"}
            assert args.seq_lens == [9, 8, 7]
        # What cuts generated labels is of their range.
        assert get_config_regression("self_mm", "mine").H == 10
        assert get_config_regression("tetfn", "mine").label_limit == 10
        assert "mine" in supported_datasets("mtfn")
        assert "mine" not in supported_datasets("mctn")
        config = MMSA.get_config_regression("lf_dnn", "mine")  # MMSA's own reader
        assert config.hidden_dims == MMSA.get_config_regression("lf_dnn", "sims").hidden_dims


def test_simsv2_where_values_are_known():
    args = get_config_regression("cenet", "simsv2")
    assert (args.learning_rate, args.batch_size, args.weight_decay) == (3e-5, 64, 0.0)
    assert args.feature_dims == [768, 25, 177]
    tetfn, like = (get_config_regression("tetfn", name) for name in ("simsv2", "sims"))
    assert tetfn.audio_learning_rate == like.audio_learning_rate
    with pytest.raises(ConfigError, match=r"seq_lens of data set 'simsv2' .* is not known"):
        report("dashfusion", "simsv2")


def test_the_definition_is_no_override():
    with known(dataset_of("mine", OWN)):
        given = resolve("text_only", "mine")
        assert resolve("text_only", "mine", "", {DEFINITION: given[DEFINITION]}) == given
        with pytest.raises(ConfigError, match="dataset_definition is not that of the data set"):
            resolve("text_only", "mine", "", {DEFINITION: {"label_range": [0, 5]}})
    with pytest.raises(ConfigError, match="dataset_definition is not that of the data set"):
        resolve("text_only", "mosi", "", {DEFINITION: {"label_range": [0, 5]}})


def test_names_of_runs_on_shipped_data_sets_have_no_definition():
    for model in ("dashfusion", "lf_dnn", "misa_infoenh"):
        assert DEFINITION not in identity_config(resolve(model, "mosi"))


# MMSA.


def test_mmsas_metrics_know_the_data_sets():
    top = import_module("MMSA.utils.metricsTop").MetricsTop
    sides = torch.tensor([0.4, 0.2]), torch.tensor([0.3, -0.2])
    with mmsa_bridge.registered():
        with known(dataset_of("mine", OWN)):
            assert "Mult_acc_11" in top("regression").getMetics("mine")(*sides)
        scored = top("regression").getMetics("simsv2")(*sides)
        assert scored == top("regression").getMetics("sims")(*sides)
        with pytest.raises(ConfigError, match="unknown data set 'mine'"):
            top("regression").getMetics("mine")


@pytest.mark.slow
def test_unimodal_labels_are_needed_where_they_are_learned_from(tmp_path):
    data = make_feature_data((12, 6, 6), "sims")
    path = tmp_path / "features.pkl"
    path.write_bytes(pickle.dumps(data, protocol=4))
    with_labels = train("mtfn", path, tmp_path, "simsv2", config={"num_epochs": 1, "batch_size": 4})
    assert "Mult_acc_3" in with_labels.metrics
    for split in data.values():
        for letter in "TAV":
            del split[f"regression_labels_{letter}"]
    path.write_bytes(pickle.dumps(data, protocol=4))
    for dataset in ("sims", "simsv2"):
        found = train("lf_dnn", path, tmp_path, dataset, config={"num_epochs": 1, "batch_size": 4})
        assert "Mult_acc_3" in found.metrics
        assert len(predict_file(found.checkpoint, path)) == 24
        with pytest.raises(ConfigError, match=r"has no 'regression_labels_T', '_A' and '_V', from"):
            train("mtfn", path, tmp_path, dataset, config={})


# Runs.


@pytest.mark.slow
def test_from_the_command_line_to_a_process_that_knows_no_definition(own_file, tiny_encoder):
    out = own_file.with_name("out")
    places = [
        "--model-save-dir", str(out), "--res-save-dir", str(out), "--log-dir", str(out),
    ]  # fmt: skip
    for model in ("dashfusion", "text_only", "lf_dnn"):
        config = tiny_config(model, tiny_encoder)
        if model == "lf_dnn":
            config = {"num_epochs": 2, "batch_size": 4}
        settings = [f"--set={key}={value}" for key, value in config.items()]
        result = runner.invoke(
            app,
            ["run", model, "mydata", "--dataset-file", str(own_file), "-s", "1", "-s", "2",
             *settings, *places, "-g", "cpu", "-n", "0"],
        )  # fmt: skip
        assert result.exit_code == 0, (result.output, result.exception)
        assert "Acc-11 ↑" in result.output
    records = list(RunStore(out / "runs").records())
    assert len(records) == 6
    assert {run.identity.data_set.label_range for run in records} == {(0.0, 10.0)}
    own_file.unlink()

    code = f"""
import glob
from typer.testing import CliRunner
from MMSA_ext.cli import app
from MMSA_ext.datasets import list_datasets
assert "mydata" not in list_datasets()
for arguments in (
    *(["predict", path, {str(own_file.with_name("mydata.pkl"))!r}, "-g", "cpu"]
      for path in sorted(glob.glob({str(out / "*.pth")!r}))),
    ["compare", "text_only", "dashfusion"], ["report"], ["verify"], ["result-stat"],
):
    stored = [] if arguments[0] == "predict" else ["--res-save-dir", {str(out)!r}]
    result = CliRunner().invoke(app, [*arguments, *stored])
    assert result.exit_code == 0, (arguments, result.output, result.exception)
    print(result.output)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=own_file.parent
    )
    assert done.returncode == 0, done.stderr
    assert "6 records: 6 give their metrics back" in done.stdout
    assert "Acc-11 ↑" in done.stdout
    assert "- MYDATA" in done.stdout
    assert "Acc-11 ↑" in (out / "report.html").read_text("utf-8")
    store = RunStore(out / "runs")
    drawn = {"one": store.predictions(records[0])}
    figure = confusion_figure(drawn, records[0].identity.data_set)
    assert "mydata: the classes of Acc-11" in figure.texts[0].get_text()


def test_another_definition_is_another_run(own_file, tiny_encoder, tmp_path):
    features = own_file.with_name("mydata.pkl")
    config = tiny_config("text_only", tiny_encoder)
    found = []
    for definition in (OWN, OWN | {"classes": [3, 7]}):
        with known(dataset_of("mydata", definition)):
            found.append(train("text_only", features, tmp_path, "mydata", config=config))
    first, second = (seed.record for seed in found)
    assert first.identity.short_id != second.identity.short_id
    assert "Mult_acc_3" in second.metrics["test"]
    systems = rows(by_experiment([first, second]))
    with pytest.raises(StatisticsError, match="2 data sets that are all called mydata, with other"):
        compare(systems, ["MAE"])
    # Where all that is stored is shown, they have a table each.
    assert len(run_tables([first, second])) == 2
    assert len({section.title for section in sections([first, second])}) == 2
    assert result_stat([first, second]).count("MYDATA, definition ") == 2


def test_a_record_with_a_definition_that_is_none_is_damaged(own_file, tiny_encoder, tmp_path):
    with known(dataset_of("mydata", OWN)):
        seed = train(
            "text_only", own_file.with_name("mydata.pkl"), tmp_path, "mydata",
            config=tiny_config("text_only", tiny_encoder),
        )  # fmt: skip
    path = seed.record_path
    path.write_text(path.read_text().replace('"metrics": "generic"', '"metrics": "x"'))
    with pytest.raises(StoreError, match=r"this run record is damaged .*data set 'mydata'"):
        read_record(path)


def test_without_a_feature_file(tmp_path):
    with known(dataset_of("mine", OWN)):
        with pytest.raises(FeatureFileError, match="'mine' names no feature file; give it: -f"):
            MMSA_run("text_only", "mine", seeds=[1], **folders(tmp_path))
        result = runner.invoke(app, ["run", "text_only", "mine", "--synthetic"])
        assert "'mine' cannot be generated" in str(result.exception)


def test_labels_out_of_its_range(own_file):
    with known_from(own_file):
        path = own_file.with_name("mydata.pkl")
        assert check_features(path, "mydata").ok
        found = check_features(path, dataset_of("mydata", {"label_range": [0, 8]}))
        assert "outside [0, 8], the range of mydata" in found.error_message()
        counts = check_features(path, "mydata").summary["train"].labels["M"]
        below = sum(ratings()["train"]["regression_labels"] < 5)
        assert counts.negative == below


def test_tuning_on_it(own_file, tiny_encoder, tmp_path):
    options = folders(tmp_path) | {"dataset_file": own_file, "seeds": [1]}
    config = tiny_config("text_only", tiny_encoder)
    file = tmp_path / "tune.json"
    space = {"d_paras": ["weight_decay"], "weight_decay": [0.0, 0.1]}
    content = {"commonParams": {"need_data_aligned": False}, "debugParams": space}
    file.write_text(json.dumps({"text_only": content | {"datasetParams": {"mosi": {}}}}))
    del config["learning_rate"]
    best = MMSA_run(
        "text_only", "mydata", config_file=file, config=config | {"KeyEval": "Mult_acc_11"},
        is_tune=True, tune_times=2, **options,
    )  # fmt: skip
    written = next((tmp_path / "out" / "tune").glob("*-best-config.json"))
    again = MMSA_run("text_only", "mydata", config_file=written, **options)
    assert again.seeds[0].reused
    assert again.seeds[0].record == best.seeds[0].record
    assert list_datasets() == list(SHIPPED)


@pytest.mark.slow
def test_an_experiment_on_it_in_processes_of_their_own(own_file, tiny_encoder, tmp_path):
    from MMSA_ext import experiments

    content = {
        "title": "Own data",
        "source": {"paper": "none"},
        "datasets": ["mydata"],
        "seeds": [1, 2],
        "columns": {"mydata": ["MAE", "Mult_acc_11"]},
        "config": tiny_config("text_only", tiny_encoder),
        "figure": {"kind": "confusion"},
        "rows": [{"label": "text", "model": "text_only"}],
    }
    path = tmp_path / "own.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="unknown data set 'mydata'"):
        experiments.load(path)
    features = json.loads(own_file.read_text())["mydata"]["features"]
    with known(dataset_of("mydata", OWN | {"features": str(own_file.with_name(features))})):
        experiment = experiments.load(path)
        outcomes = experiments.run(experiment, jobs=2, **folders(tmp_path))
        assert [outcome.state for outcome in outcomes] == ["finished"] * 2, outcomes
        store = RunStore(tmp_path / "out" / "runs")
        (table,) = experiments.table(experiment, store)
        assert table.numbers["n"].tolist() == [2, 2]
        assert experiments.draw(experiment, store, tmp_path / "drawn")
    arguments = ["--dataset-file", str(own_file), "--res-save-dir", str(tmp_path / "out")]
    for command in ("status", "table"):
        result = runner.invoke(app, ["experiment", command, str(path), *arguments])
        assert result.exit_code == 0, (result.output, result.exception)
    assert RunOptions(dataset_file="~/x.json").dataset_file != "~/x.json"


def test_simsv2_generated(tmp_path):
    from MMSA_ext.data import synthetic

    data = synthetic.make("simsv2", sizes=(4, 2, 2), text_features=False)
    assert data["train"]["audio"].shape == (4, 400, 25)
    assert data["train"]["vision"].shape == (4, 55, 177)
    assert data["train"]["regression_labels_T"].shape == (4,)
    first = synthetic.make("sims", sizes=(4, 2, 2), text_features=False)["train"]
    assert first["raw_text"].tolist() != data["train"]["raw_text"].tolist()
