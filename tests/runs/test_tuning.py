"""Tuning selects on validation, and says so when it does not."""

import itertools
import json
import logging
import os
import pickle
import shutil
import signal
import threading
import time
from unittest import mock

import optuna
import pandas as pd
import pytest

from MMSA_ext import MMSA_run, mmsa_bridge, mmsa_files
from MMSA_ext.errors import ConfigError, WriteError
from MMSA_ext.files import exclusive
from MMSA_ext.processes import LostWorkerError
from MMSA_ext.runs import own_seed
from MMSA_ext.runs.search_space import shipped_space
from tests.conftest import tiny_config, train

pytestmark = pytest.mark.slow  # minutes together


@pytest.fixture
def tune(tmp_path, feature_file, tiny_encoder):
    def call(config=None, tune_times=3, **options):
        given = config or {}
        config = tiny_config("text_only", tiny_encoder, num_epochs=1) | given
        for key in {"learning_rate", "batch_size"} - given.keys():
            del config[key]
        options = {"seeds": [3], "custom_feature": feature_file} | options
        options = {"res_save_dir": tmp_path / "r"} | options
        for key in options.get("space", ()):
            config.pop(key, None)
        return MMSA_run(
            "text_only", "mosi", config=config, is_tune=True, tune_times=tune_times,
            verbose_level=0, model_save_dir=tmp_path / "m", log_dir=tmp_path / "l", **options,
        )  # fmt: skip

    return call


@pytest.mark.parametrize(("on_test", "split"), [(False, "valid"), (True, "test")])
def test_selection_split_and_best_configuration(tune, tmp_path, on_test, split):
    results = tune(tune_on_test=on_test)
    stem = f"mosi-text_only{'-on-test' if on_test else ''}"
    trials = pd.read_csv(tmp_path / f"r/tune/{stem}.csv")
    assert len(trials) == 3
    scores = pd.to_numeric(trials[f"{split}_MAE"], errors="coerce")
    best = json.loads((tmp_path / f"r/tune/{stem}-best.json").read_text())
    chosen = results.seeds[0].record
    assert chosen.metrics[split]["MAE"] == pytest.approx(scores.min())
    assert best.keys() > {"learning_rate", "weight_decay", "batch_size", "pretrained", "dim"}
    for key in ("learning_rate", "weight_decay", "batch_size", "dim", "num_epochs"):
        assert chosen.identity.configuration[key] == best[key]
    assert any("TEST split" in note for note in chosen.notes) == on_test


@pytest.mark.parametrize(
    ("model", "form"),
    [(model, form) for model in ("text_only", "self_mm") for form in ("config", "config_file")],
)
def test_the_best_configuration_gives_the_reported_numbers_again(
    model, form, tmp_path, feature_file, tiny_encoder
):
    """Elsewhere, from the written file and the seed alone, bit for bit."""
    given = tiny_config("text_only", tiny_encoder, num_epochs=1) if model == "text_only" else {}
    if model == "self_mm":
        given = {"pretrained": str(tiny_encoder), "early_stop": 1, "update_epochs": 1}
    for key in ("learning_rate", "batch_size"):
        given.pop(key, None)

    def run(folder, config, **options):
        return train(model, feature_file, tmp_path / folder, config=config, **options).record

    reported = run("search", given, is_tune=True, tune_times=1)
    ending = {"config": "-best.json", "config_file": "-best-config.json"}[form]
    path = tmp_path / "search" / "tune" / f"mosi-{model}{ending}"
    best = json.loads(path.read_text())
    again = run("again", best) if form == "config" else run("again", None, config_file=path)
    assert again.identity == reported.identity
    assert again.metrics == reported.metrics
    assert again.predictions_sha256 == reported.predictions_sha256


@pytest.fixture
def trained(monkeypatch):
    """Names of the runs and trials that were trained; `stop_at` such a number ends the search."""
    from MMSA_ext.runs.seeds import Run

    train, names = Run._train, []

    def counted(self, identity, *rest):
        names.append(identity.short_id)
        if len(names) == counted.stop_at:
            raise KeyboardInterrupt
        return train(self, identity, *rest)

    counted.stop_at = None
    monkeypatch.setattr(Run, "_train", counted)
    return mock.Mock(names=names, stop_at=lambda n: setattr(counted, "stop_at", n))


def table(folder, stem="mosi-text_only"):
    return pd.read_csv(folder / f"r/tune/{stem}.csv")


def study(folder, number=0):
    """A study that the file has, as anyone reads it with Optuna."""
    storage = f"sqlite:///{folder}/r/tune/mosi-text_only.db"
    name = optuna.get_all_study_names(storage)[number]
    return optuna.load_study(study_name=name, storage=storage)


def test_trials_are_in_the_study_and_only_the_winner_in_the_store(tune, trained, tmp_path):
    results = tune(seeds=[3, 4])
    assert [seed.seed for seed in results.seeds] == [3, 4]
    assert [json.loads(path.read_text())["identity"]["seed"] for path in records(tmp_path)] == [
        3,
        4,
    ]
    assert {path.name for path in (tmp_path / "m").iterdir()} == {
        seed.checkpoint.name for seed in results.seeds
    }
    trials = table(tmp_path)
    assert trained.names[:3] == list(trials["run"])
    found = study(tmp_path)
    assert [trial.value for trial in found.trials] == pytest.approx(
        list(trials["valid_MAE"]), abs=1e-4
    )
    winner = results.seeds[0].record
    assert winner.identity.short_id == found.best_trial.user_attrs["run"]
    assert winner.metrics["valid"] == found.best_trial.user_attrs["metrics"]["valid"]
    for trial in found.trials:
        assert trial.user_attrs["metrics"].keys() == {"valid"}
        assert trial.intermediate_values == {1: trial.value}
    assert found.user_attrs["selected by"] == "valid MAE"
    assert found.user_attrs["space"]["batch_size"] == [16, 32]


def records(folder):
    return sorted((folder / "r/runs").rglob("*.json"), key=lambda path: path.stem[-1])


@pytest.mark.parametrize("model", ["text_only", "lf_dnn"])
def test_the_test_split_is_scored_once_for_the_winner_alone(
    model, tune, tmp_path, feature_file, monkeypatch
):
    scored = []
    if model == "text_only":
        predict = own_seed.predict

        def spy(core, loader, device):
            scored.append(loader.split.name)
            return predict(core, loader, device)

        monkeypatch.setattr(own_seed, "predict", spy)
        tune()
    else:
        trainer = mmsa_bridge.trainer_class(model)
        do_test = trainer.do_test

        def spy(self, network, loader, mode="VAL", **options):
            scored.append({"VAL": "epoch", "TEST": "test"}.get(mode, "other"))
            return do_test(self, network, loader, mode=mode, **options)

        monkeypatch.setattr(trainer, "do_test", spy)
        options = {"space": {"batch_size": [4, 6]}, "is_tune": True, "tune_times": 2}
        train(model, feature_file, tmp_path, config={"early_stop": 0}, **options)
    assert scored.count("test") == 1
    assert "test" not in scored[: -3 if model == "text_only" else -4]


def test_a_search_that_is_interrupted_goes_on_as_without_a_break(tune, trained, tmp_path):
    tune()
    whole, names = table(tmp_path), list(trained.names)
    assert len(names) == 4  # the winner, too
    shutil.rmtree(tmp_path / "r")
    trained.names.clear()
    trained.stop_at(3)
    with pytest.raises(KeyboardInterrupt) as stopped:
        tune()
    assert stopped.value.__notes__[0].startswith("Stopped; 2 of 3 trials are in ")
    tune()
    assert trained.names == [*names[:3], *names[2:]]
    pd.testing.assert_frame_equal(table(tmp_path), whole)
    states = [trial.state.name for trial in study(tmp_path).trials]
    assert states == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]
    assert tune(tune_times=4).seeds[0].record.identity.seed == 3
    assert len(table(tmp_path)) == 4
    pd.testing.assert_frame_equal(table(tmp_path)[:3], whole)


def test_a_trial_whose_process_was_killed_is_made_again(tune, tmp_path):
    tune(tune_times=1)
    killed = study(tmp_path).ask()
    killed.suggest_categorical("learning_rate", [2e-05, 5e-05, 0.0001])
    killed.suggest_categorical("weight_decay", [0.0, 0.001, 0.01])
    tune(tune_times=2)
    first, failed, again = study(tmp_path).trials
    assert [trial.state.name for trial in (first, failed, again)] == [
        "COMPLETE",
        "FAIL",
        "COMPLETE",
    ]
    assert again.params.items() > killed.params.items()
    assert again.user_attrs["again"] == failed.number
    assert len(table(tmp_path)) == 2


def test_what_decides_the_trials_makes_another_study(tune, tmp_path, feature_data):
    first = tune(tune_times=1)
    tune(tune_times=1, seeds=[4])
    tune(tune_times=1, config={"dim": 8})
    tune(tune_times=1, space={"batch_size": [4, 6]})
    feature_data["train"]["audio"][0, 0, 0] += 1
    other = tmp_path / "other.pkl"
    other.write_bytes(pickle.dumps(feature_data))
    tune(tune_times=1, custom_feature=other)
    storage = f"sqlite:///{tmp_path}/r/tune/mosi-text_only.db"
    assert len(optuna.get_all_study_names(storage)) == 5
    assert tune(tune_times=1).seeds[0].record == first.seeds[0].record
    assert len(optuna.get_all_study_names(storage)) == 5


def test_a_point_that_is_drawn_again_is_not_trained_again(tune, trained, tmp_path):
    tune(tune_times=5, space={"batch_size": [4, 6]})
    trials = table(tmp_path)
    assert len(trials) == 5
    assert len(trained.names) == 3  # two points, and the winner
    assert trials.groupby("batch_size")["valid_MAE"].nunique().max() == 1


def test_a_search_is_made_anew_where_nothing_is_reused(tune, trained, tmp_path):
    tune(tune_times=1)
    tune(tune_times=1, reuse=False)
    assert trained.names == [trained.names[0]] * 4
    assert len(study(tmp_path).trials) == 1


class TestPruning:
    """By validation, with the first trials whole."""

    @pytest.fixture(autouse=True)
    def one_whole_trial(self, monkeypatch):
        monkeypatch.setattr("MMSA_ext.runs.tuning._FIRST_WHOLE", 1)

    def test_of_ours_leaves_nothing_behind(self, tune, trained, tmp_path):
        config = {"num_epochs": 3, "warmup_ratio": 0.0, "batch_size": 4, "weight_decay": 0.0}
        space = {"learning_rate": [1e-3, 1e-9]}
        results = tune(config=config, space=space, tune_times=4, prune=True)
        trials = table(tmp_path)
        assert set(trials[trials["learning_rate"] == 1e-9]["valid_MAE"]) == {"pruned"}
        found = study(tmp_path)
        pruned = [trial for trial in found.trials if trial.state.name == "PRUNED"]
        assert pruned
        assert all(len(trial.intermediate_values) < 3 for trial in pruned)
        assert len(records(tmp_path)) == 1
        assert [*(tmp_path / "m").iterdir()] == [results.seeds[0].checkpoint]
        assert results.seeds[0].record.identity.configuration["learning_rate"] == 1e-3

    def test_of_mmsas(self, tmp_path, feature_file):
        config = {"num_epochs": 4, "early_stop": 1, "batch_size": 4}
        space = {"learning_rate": [1e-2, 2e-2, 3e-2, 1e-9]}
        options = {"space": space, "is_tune": True, "tune_times": 8, "prune": True}
        train("lf_dnn", feature_file, tmp_path, config=config, **options)
        trials = pd.read_csv(tmp_path / "tune/mosi-lf_dnn.csv")
        assert "pruned" in set(trials["valid_Loss"])
        assert len([*tmp_path.glob("*.pth")]) == 1

    def test_not_by_another_split_than_selects(self, tune):
        with pytest.raises(ConfigError, match="prune judges by validation"):
            tune(prune=True, tune_on_test=True)


def test_several_processes_make_the_trials_of_one_study(tune, tmp_path):
    tune(tune_times=4, jobs=2)
    found = study(tmp_path)
    assert [trial.state.name for trial in found.trials] == ["COMPLETE"] * 4
    assert len({trial.user_attrs["process"] for trial in found.trials}) == 2
    assert os.getpid() not in {trial.user_attrs["process"] for trial in found.trials}
    assert len(table(tmp_path)) == 4
    assert len(records(tmp_path)) == 1


def test_a_process_that_dies_costs_its_trial_which_is_made_again(tune, tmp_path, monkeypatch):
    numbers = itertools.count(1)

    class Dying:
        """A process that leaves a trial behind, and then does as it is told."""

        def __init__(self, make):
            self.process, self.asked = mock.Mock(pid=next(numbers)), 0
            self.maker = make.func(*make.args)

        def send(self, request):
            self.asked += 1

        def receive(self):
            if self.asked == 1:
                trial = study(tmp_path).ask()
                trial.set_user_attr("process", self.process.pid)
                raise LostWorkerError("killed")
            return self.maker.execute("trial")

    monkeypatch.setattr("MMSA_ext.runs.tuning.Process", Dying)
    tune(tune_times=2, jobs=2)
    states = sorted(trial.state.name for trial in study(tmp_path).trials)
    assert states == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]


def test_a_stopped_search_starts_no_process_again(tune, monkeypatch):
    asked = []

    class Waiting:
        """A process that answers nothing until it is ended."""

        def __init__(self, make):
            self.gone = threading.Event()
            self.process = mock.Mock(pid=1, terminate=self.gone.set)

        def send(self, request):
            asked.append(request)
            if len(asked) == 2:
                signal.raise_signal(signal.SIGINT)

        def receive(self):
            assert self.gone.wait(60)
            raise LostWorkerError("ended")

    monkeypatch.setattr("MMSA_ext.runs.tuning.Process", Waiting)
    before = threading.active_count()
    # A shell has its background commands ignore the signal.
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            tune(tune_times=4, jobs=2)
    finally:
        signal.signal(signal.SIGINT, usual)
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert asked == ["trial", "trial"]


class TestFile:
    def test_that_is_no_study(self, tune, tmp_path):
        path = tmp_path / "r/tune/mosi-text_only.db"
        path.parent.mkdir(parents=True)
        path.write_text("not SQLite at all, but long enough to be a file of it" * 10)
        with pytest.raises(ConfigError, match=r"mosi-text_only.db: cannot be read as a study"):
            tune()

    def test_that_another_search_writes(self, tune, tmp_path):
        folder = tmp_path / "r/tune"
        folder.mkdir(parents=True)
        with (
            exclusive(folder / ".mosi-text_only.lock"),
            pytest.raises(WriteError, match="another process has held this lock"),
        ):
            tune()

    def test_in_a_folder_of_any_name(self, tune, tmp_path):
        assert not tune(tune_times=1, res_save_dir=tmp_path / "100%?a=b #1 é").seeds[0].diverged


def test_selection_on_test_is_never_mixed_with_selection_on_validation(tune):
    honest = tune(tune_times=1)
    assert not any("TEST" in note for note in honest.seeds[0].record.notes)
    on_test = tune(tune_times=1, tune_on_test=True)
    assert any("TEST" in note for note in on_test.seeds[0].record.notes)
    assert on_test.seeds[0].record.identity != honest.seeds[0].record.identity
    again = tune(tune_times=1)
    assert not any("TEST" in note for note in again.seeds[0].record.notes)


def test_what_the_user_set_is_not_searched(tune):
    results = tune(config={"batch_size": 5}, tune_times=1)
    assert results.seeds[0].record.identity.configuration["batch_size"] == 5


def test_nothing_to_search(tune):
    with pytest.raises(ConfigError, match="nothing to search"):
        tune(config={"batch_size": 5, "weight_decay": 0.0, "learning_rate": 1e-3})


def test_all_trials_diverged(tune):
    with pytest.raises(ConfigError, match="all 3 trials diverged"):
        tune(config={"learning_rate": 1e30})


def test_search_space_is_mmsas():
    space = shipped_space("lf_dnn", "mosi")
    assert [128, 16, 128] in space["hidden_dims"].values
    assert space["batch_size"].values == (32, 64, 128)
    assert "hidden_dims" not in shipped_space("dashfusion", "sims")


class TestSearchSpaces:
    """Keys that nothing reads, and choices that cannot be used."""

    @pytest.fixture
    def search(self, tmp_path, feature_file, tiny_encoder):
        def search(model, space=None, *, lacks=None, **given):
            options = {}
            if space is not None:
                section = mmsa_files.section(model) | {"debugParams": space}
                section["datasetParams"]["mosi"].pop(lacks, None)
                path = tmp_path / "space.json"
                path.write_text(json.dumps({model: section}))
                options["config_file"] = path
            options |= {"is_tune": True, "tune_times": 2}
            config = {"early_stop": 0, **given}
            return train(model, feature_file, tmp_path / "r", config=config, **options)

        return search

    def test_what_mmsa_searches_and_nothing_reads_is_left_out(self, search, tmp_path, caplog):
        with caplog.at_level(logging.INFO, logger="MMSA"):
            search("mfm", batch_size=8)
        assert "Not searched, as mfm does not read it: learning_rate." in caplog.text
        trials = pd.read_csv(tmp_path / "r/tune/mosi-mfm.csv")
        assert {"memsize", "weight_decay"} & set(trials.columns)
        assert "learning_rate" not in trials.columns

    @pytest.mark.parametrize(
        ("space", "said"),
        [
            ({"d_paras": ["lr"], "lr": [1, 2]}, "lr: is searched .*lf_dnn does not read it"),
            ({"d_paras": ["rank"], "rank": [1]}, "rank: is searched"),
            ({"d_paras": ["batch_size"]}, "lacks the choices of 'batch_size'"),
            ({"d_paras": ["batch_size"], "batch_size": []}, r"batch_size is \[\]; give a list"),
            ({"d_paras": "batch_size", "batch_size": [1]}, "needs 'd_paras', a list"),
            ({"batch_size": [1]}, "needs 'd_paras', a list"),
            ({"d_paras": ["batch_size"], "batch_size": [8, "a"]}, "batch_size: give a number"),
            ({"d_paras": ["batch_size"], "batch_size": [0, 8]}, "batch_size: give 1 or more"),
        ],
    )
    def test_of_the_users_are_refused_before_a_trial(self, search, tmp_path, space, said):
        with pytest.raises(ConfigError, match=said):
            search("lf_dnn", space)
        assert not list(tmp_path.glob("r/runs/**/*.json"))

    def test_a_searched_key_need_not_be_in_the_other_sections(self, search):
        space = {"d_paras": ["batch_size"], "batch_size": [4, 6]}
        result = search("lf_dnn", space, lacks="batch_size")
        assert result.record.identity.configuration["batch_size"] in (4, 6)
