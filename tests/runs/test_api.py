"""`MMSA_run` from feature file to records, tables and pictures."""

import json
import logging
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import MMSA_ext
from MMSA_ext import MMSA_run, mmsa_bridge
from MMSA_ext.errors import (
    ConfigError,
    FeatureFileError,
    TextEncoderError,
    TrainingDivergedError,
    WriteError,
)
from MMSA_ext.records.store import RunStore
from MMSA_ext.registry import trains_in_mmsa
from MMSA_ext.runs.api import open_run
from MMSA_ext.runs.options import RunOptions
from MMSA_ext.training.checkpoint import load_checkpoint, save_checkpoint
from MMSA_ext.training.trainer import Trainer
from tests.conftest import tiny_config


@pytest.fixture
def run(tmp_path, feature_file, tiny_encoder):
    """`MMSA_run` on the tiny file, into a temporary folder."""

    def call(model="text_only", dataset="mosi", seeds=(1,), folder="out", config=None, **options):
        home = tmp_path / folder
        own = not trains_in_mmsa(model)
        overrides = tiny_config(model, tiny_encoder) if own else {}
        return MMSA_run(
            model,
            dataset,
            config=overrides | {"featurePath": str(feature_file)} | (config or {}),
            seeds=list(seeds),
            verbose_level=0,
            num_workers=0,
            model_save_dir=home / "models",
            res_save_dir=home / "results",
            log_dir=home / "logs",
            **options,
        )

    return call


@pytest.mark.parametrize("model", ["dashfusion", "dashfusion_released", "text_only"])
def test_results_records_tables_and_pictures(run, model, tmp_path, feature_data, pictures):
    config = {"num_epochs": 6} if model == "dashfusion_released" else {}
    results = run(model, seeds=(1, 2), config=config)
    assert [r.seed for r in results.seeds] == [1, 2]
    assert not any(r.diverged or r.reused for r in results.seeds)
    assert results.summary["MAE"].n == 2
    assert results.summary["MAE"].mean == pytest.approx(
        np.mean([r.metrics["MAE"] for r in results.seeds])
    )
    first = results.seeds[0]
    assert first.checkpoint.is_file()
    assert first.checkpoint != results.seeds[1].checkpoint
    record = json.loads(first.record_path.read_text())
    assert record["identity"]["seed"] == 1
    assert record["identity"]["configuration"]["learning_rate"] == 1e-3
    assert record["environment"]["versions"]["MMSA_ext"] == MMSA_ext.__version__
    assert set(record["metrics"]) == {"train", "valid", "test"}
    assert record["metrics"]["test"] == pytest.approx(dict(first.metrics))
    assert str(tmp_path) not in first.record_path.read_text()
    assert [entry["epoch"] for entry in record["history"]][:3] == [0, 1, 2]
    predictions = pd.read_csv(first.record_path.with_suffix(".predictions.csv"))
    test = predictions[predictions.split == "test"]
    assert test["id"].tolist() == feature_data["test"]["id"]
    mae = np.abs(test.prediction - test.label).mean()
    assert mae == pytest.approx(first.metrics["MAE"], abs=1e-4)

    table = pd.read_csv(results.csv_path)
    assert table["Model"].tolist() == [model]
    mean, std = json.loads(table["MAE"][0].replace("(", "[").replace(")", "]"))
    assert mean == pytest.approx(100 * results.summary["MAE"].mean, abs=0.006)
    # MMSA's table has the population's deviation, ours the sample's: of two seeds, their ratio.
    assert std * 2**0.5 == pytest.approx(100 * results.summary["MAE"].std, abs=0.01)
    seeds = pd.read_csv(results.seed_csv_path)
    assert seeds["seed"].tolist() == [1, 2]
    assert seeds["MAE"].dtype == float
    assert [path.suffix for path in results.figures] == [".png", ".pdf"] * 3
    assert all(path.is_file() for path in results.figures)
    assert model in str(results)
    assert results.to_frame()["MAE"].tolist() == [s.metrics["MAE"] for s in results.seeds]
    for text in (results.to_markdown(), results.to_latex()):
        assert f"{100 * results.summary['MAE'].mean:.2f}" in text


def test_running_again_is_a_look_up_and_repeat_is_not(run, monkeypatch):
    first = run(seeds=(1, 2))
    trained = []
    original = Trainer.do_train
    monkeypatch.setattr(
        Trainer, "do_train", lambda self, *a, **k: trained.append(1) or original(self, *a, **k)
    )
    again = run(seeds=(1, 2, 3))
    assert [r.reused for r in again.seeds] == [True, True, False]
    assert len(trained) == 1
    assert again.seeds[0].metrics == first.seeds[0].metrics
    assert not run(seeds=(1,), reuse=False).seeds[0].reused
    assert not run(seeds=(1,), config={"learning_rate": 2e-3}).seeds[0].reused
    assert len(pd.read_csv(first.csv_path)) == 4


def test_same_seed_is_the_same_twice_and_alone_or_after_another(run):
    pairs = [run("dashfusion", seeds=seeds, folder=f"{i}") for i, seeds in
             enumerate([(2,), (2,), (1, 2)])]  # fmt: skip
    last = [results.seeds[-1] for results in pairs]
    assert last[0].metrics == last[1].metrics == last[2].metrics
    files = [r.record_path.with_suffix(".predictions.csv").read_bytes() for r in last]
    assert files[0] == files[1] == files[2]


def test_an_interrupted_run_goes_on_at_its_seed(run, monkeypatch):
    original = Trainer.do_train

    def interrupted(self, *args, **options):
        if self.args.cur_seed == 2:
            raise KeyboardInterrupt
        return original(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "do_train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(seeds=(1, 2))
    resumed = run(seeds=(1, 2))
    assert [r.reused for r in resumed.seeds] == [True, False]


def test_a_diverged_seed_is_reported_and_not_scored(run, monkeypatch):
    """Seed 2's loss explodes; seed 1 counts alone."""
    original = Trainer.do_train

    def explode(self, model, *args, **options):
        if self.args.cur_seed == 2:
            for parameter in model.parameters():
                parameter.data.fill_(float("inf"))
        return original(self, model, *args, **options)

    monkeypatch.setattr(Trainer, "do_train", explode)
    results = run(seeds=(1, 2))
    assert [r.diverged for r in results.seeds] == [False, True]
    diverged = results.seeds[1]
    assert diverged.checkpoint is None
    assert not diverged.metrics
    assert "not finite" in diverged.record.reason
    assert results.summary["MAE"][::2] == (results.seeds[0].metrics["MAE"], 1)
    assert np.isnan(results.summary["MAE"].std)
    assert pd.read_csv(results.seed_csv_path)["status"].tolist() == ["finished", "diverged"]
    assert run(seeds=(2,)).seeds[0].reused


def test_when_all_seeds_diverge_the_table_has_an_empty_row(run):
    results = run(seeds=(1,), config={"learning_rate": 1e30, "num_epochs": 2})
    assert results.seeds[0].diverged
    assert results.summary == {}
    assert pd.read_csv(results.csv_path)["Model"].tolist() == ["text_only"]


def test_mmsa_models_run_too(run, feature_data):
    results = run("lf_dnn", seeds=(1,), config={"early_stop": 1})
    assert results.seeds[0].checkpoint.is_file()
    assert {"Has0_acc_2", "MAE", "Loss"} <= set(results.seeds[0].metrics)
    predictions = pd.read_csv(results.seeds[0].record_path.with_suffix(".predictions.csv"))
    test = predictions[predictions.split == "test"]
    assert test["id"].tolist() == feature_data["test"]["id"]
    assert not results.seeds[0].reused
    assert run("lf_dnn", seeds=(1,), config={"early_stop": 1}).seeds[0].reused


def test_imported_from_mmsa_it_is_ours_and_returns_results(tmp_path, feature_file, tiny_encoder):
    import MMSA
    from MMSA import MMSA_run as from_mmsa

    results = from_mmsa(
        "text_only", "mosi", None,
        tiny_config("text_only", tiny_encoder, featurePath=str(feature_file)), [1],
        gpu_ids=[], verbose_level=0, model_save_dir=tmp_path, res_save_dir=tmp_path,
        log_dir=tmp_path,
    )  # fmt: skip
    assert isinstance(results, MMSA_ext.RunResults)
    assert results.seeds[0].metrics
    assert "dashfusion" in [name.lower() for name in MMSA.SUPPORTED_MODELS]


def test_stock_function_trains_our_model(feature_file, tiny_encoder, tmp_path):
    from MMSA.run import MMSA_run as stock

    config = tiny_config("dashfusion", tiny_encoder, featurePath=str(feature_file))
    config |= {"seq_lens": [10, 12, 8], "feature_dims": [16, 5, 4]}
    assert (
        stock("dashfusion", "mosi", config=config, seeds=[1], num_workers=0, verbose_level=0,
              model_save_dir=tmp_path, res_save_dir=tmp_path, log_dir=tmp_path) is None
    )  # fmt: skip
    assert (tmp_path / "dashfusion-mosi.pth").is_file()
    assert "dashfusion" in (tmp_path / "normal" / "mosi.csv").read_text()


def test_features_of_single_modalities_replace_the_files(run, tmp_path, feature_data):
    for split in feature_data.values():
        split["audio"] = split["audio"] * 0 + 1
    path = tmp_path / "audio.pkl"
    path.write_bytes(pickle.dumps(feature_data))
    plain, changed = run("dashfusion"), run("dashfusion", feature_A=path)
    assert not changed.seeds[0].reused
    assert plain.seeds[0].metrics != changed.seeds[0].metrics
    custom = run("dashfusion", custom_feature=path)
    assert custom.seeds[0].record.identity != plain.seeds[0].record.identity


def test_log_handlers_do_not_pile_up(run, tmp_path):
    logger = logging.getLogger("MMSA")
    before = list(logger.handlers)
    run(seeds=(1,))
    run("dashfusion", seeds=(1,))
    assert logger.handlers == before
    assert "dashfusion" not in (tmp_path / "out/logs/text_only-mosi.log").read_text()


def test_verbose_level_0_is_quiet(run, capfd):
    run(seeds=(1,))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_missing_file_says_how_to_get_one(run, tmp_path):
    with pytest.raises(FeatureFileError, match=r"nowhere\.pkl.*MMSA_DATA_ROOT"):
        run(config={"featurePath": str(tmp_path / "nowhere.pkl")})


def test_missing_encoder_lists_the_ways(run, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(TextEncoderError, match="minilm"):
        run(config={"pretrained": "no-such-encoder-anywhere"})


@pytest.mark.slow  # quick: tests/mmsa_bridge/test_registration.py, and tests/test_import.py
def test_bare_import_registers_and_unregister_restores():
    script = (
        "import MMSA, MMSA.run; before = MMSA.MMSA_run, list(MMSA.SUPPORTED_MODELS)\n"
        "import MMSA_ext; assert MMSA.MMSA_run is not before[0]\n"
        "assert 'dashfusion' in [n.lower() for n in MMSA.SUPPORTED_MODELS]\n"
        "MMSA_ext.unregister()\n"
        "assert (MMSA.MMSA_run, list(MMSA.SUPPORTED_MODELS)) == before\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_checkpoint_that_cannot_be_written_costs_neither_numbers_nor_the_last(run, monkeypatch):
    first = run(seeds=(1,)).seeds[0]

    def full(path, checkpoint):
        assert first.checkpoint.is_file()
        raise WriteError(f"{path}: the disk is full")

    monkeypatch.setattr("MMSA_ext.runs.seeds.save_checkpoint", full)
    again = run(seeds=(1,), reuse=False).seeds[0]
    assert "could not be written" in again.record.notes[0]
    assert again.metrics["MAE"] > 0
    assert again.checkpoint is None  # that of the run before is not this record's


def test_weights_of_a_run_that_now_diverges_go_after_its_record(run, monkeypatch):
    first = run(seeds=(1,)).seeds[0]
    write = RunStore.write

    def written(self, record, *arguments, **options):
        assert first.checkpoint.is_file()
        assert record.checkpoint is None
        return write(self, record, *arguments, **options)

    def diverge(self, *arguments, **options):
        raise TrainingDivergedError("the loss is not finite")

    monkeypatch.setattr(RunStore, "write", written)
    monkeypatch.setattr(Trainer, "do_train", diverge)
    again = run(seeds=(1,), reuse=False).seeds[0]
    assert again.diverged
    assert not first.checkpoint.exists()


@pytest.mark.parametrize("model", ["text_only", "lf_dnn"])
def test_a_disk_without_room_for_the_weights(run, model, small_disk):
    (small_disk / "other").write_bytes(b"x" * (2 * 2**20 - 2**15))
    with pytest.raises(WriteError, match=rf"cannot be written, because the disk of {small_disk}"):
        run(model, config={"early_stop": 1}, folder=small_disk.relative_to(small_disk.parent))
    assert not list(small_disk.glob("**/*.pth"))


@pytest.mark.parametrize("model", ["text_only", "lf_dnn"])
def test_a_disk_that_is_full_in_training_is_said(run, model, monkeypatch, tmp_path):
    """MMSA's trainers write by torch, which says nothing of the disk."""
    save = torch.save

    def full(content, file):
        if hasattr(file, "write"):
            with Path("/dev/full").open("wb") as device:
                save(content, device)
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")

    if not Path("/dev/full").is_char_device():
        pytest.skip("there is no device that is always full here")
    monkeypatch.setattr("torch.save", full)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(WriteError, match=r"weights.pth: cannot be written, because the disk of"):
        run(model, config={} if model == "text_only" else {"early_stop": 1})
    assert not list(tmp_path.glob("out/models/*"))


def test_results_survive_pictures_and_tables_that_cannot_be_written(run, monkeypatch):
    def broken(*args, **options):
        raise PermissionError("open in another program")

    monkeypatch.setattr("MMSA_ext.reporting.figures.training_curves", broken)
    monkeypatch.setattr("MMSA_ext.runs.seeds.append_mmsa_csv", broken)
    results = run(seeds=(1,))
    assert results.seeds[0].metrics["MAE"] > 0
    assert results.figures == ()


def test_a_deleted_checkpoint_is_said_and_comes_back_by_repeating(run, caplog):
    first = run(seeds=(1,)).seeds[0]
    first.checkpoint.unlink()
    with caplog.at_level(logging.INFO, logger="MMSA"):
        again = run(seeds=(1,)).seeds[0]
    assert again.reused
    assert again.checkpoint is None
    assert "--repeat" in caplog.text
    assert run(seeds=(1,), reuse=False).seeds[0].checkpoint.is_file()


def test_a_damaged_record_is_run_again(run):
    first = run(seeds=(1,)).seeds[0]
    first.record_path.write_text("{broken")
    again = run(seeds=(1,)).seeds[0]
    assert not again.reused
    assert again.metrics == first.metrics


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"KeyEval": "mae"}, "did you mean MAE"),
        ({"KeyEval": "Mult_acc_3"}, "no metric of mosi"),
        ({"feature_A": "x.pkl"}, "argument of MMSA_run"),
        ({"device": "cuda:7"}, "gpu_ids"),
        ({"warmup_epochs": 5}, "did you mean .*warmup_ratio"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"corruption": {"remov": ["audio"]}}, r"corruption\.remov: no such key; did you mean re"),
    ],
)
def test_settings_that_cannot_be_meant(run, config, said):
    with pytest.raises(ConfigError, match=said):
        run(config=config)


def test_token_ids_beyond_the_vocabulary(run, feature_data, rewritten):
    feature_data["valid"]["text_bert"][2, 0, 1] = 9999
    rewritten()
    with pytest.raises(FeatureFileError, match=r"valid.*9999.*64 entries.*encode-text"):
        run()


def test_self_mm_on_more_samples_than_the_official_ones(run, tiny_encoder):
    config = {"pretrained": str(tiny_encoder), "text_out": 16, "early_stop": 1, "train_samples": 3}
    config |= {"update_epochs": 1}
    result = run("self_mm", config=config).seeds[0]
    assert result.metrics["MAE"] > 0
    assert "train_samples" not in result.record.identity.configuration  # the file's, no cause
    assert load_checkpoint(result.checkpoint).config["train_samples"] == 12


def test_records_name_no_folder_of_this_machine(run, tmp_path, feature_data):
    feature_data["train"]["audio"][0, 0, 0] = np.nan
    path = tmp_path / "other.pkl"
    path.write_bytes(pickle.dumps(feature_data))
    result = run("dashfusion", feature_A=path).seeds[0]
    text = result.record_path.read_text()
    assert "other.pkl" in text
    assert str(tmp_path) not in text


class TestArgumentsThatCannotBeMeant:
    """One error, from the first look at the arguments: nothing is read or written before."""

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"seeds": "1111"}, "seeds is '1111'; give whole numbers"),
            ({"seeds": [-1]}, "-1 is no seed; give whole numbers from 0 to 4294967295"),
            ({"seeds": [2**40]}, "is no seed"),
            ({"seeds": True}, "seeds is True"),
            ({"gpu_ids": None}, "gpu_ids has None"),
            ({"gpu_ids": "all"}, "gpu_ids has 'all'"),
            ({"num_workers": -1}, "num_workers is -1; give a whole number, 0 or more"),
            ({"num_workers": "4"}, "num_workers is '4'"),
            ({"verbose_level": 3}, "verbose_level is 3; use 0, 1 or 2"),
            ({"verbose_level": None}, "verbose_level is None"),
            ({"is_tune": True, "tune_times": 0}, "tune_times is 0; give a whole number, 1"),
            ({"tune_times": "5"}, "tune_times is '5'"),
            ({"tune_on_test": True}, "tune_on_test has no effect without a search"),
            ({"custom_feature": "x" * 3900}, "the path is too long"),
            ({"feature_T": "a\0b"}, "no NUL character"),
            ({"config_file": "x" * 3900}, "the path is too long"),
            ({"model_save_dir": "x" * 3900}, "the path is too long"),
            ({"res_save_dir": "~nobody-of-this-name"}, "there is no user of that name"),
            ({"log_dir": 5}, "5 is no path"),
            ({"config": "lf_dnn"}, "give a dictionary"),
            ({"model_name": None}, "model_name is None"),
        ],
    )
    @pytest.mark.parametrize("model", ["text_only", "lf_dnn"])
    def test_are_refused(self, model, options, said, tmp_path, monkeypatch, feature_file):
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.chdir(tmp_path)
        folders = ("model_save_dir", "res_save_dir", "log_dir")
        arguments = dict.fromkeys(folders, tmp_path / "out") | {
            "model_name": model,
            "dataset_name": "mosi",
            "custom_feature": feature_file,
        }
        with pytest.raises(ConfigError, match=said) as error:
            MMSA_run(**arguments | options)
        assert "\n" not in str(error.value)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["features.pkl"]

    @pytest.mark.parametrize("argument", ["custom_feature", "feature_A"])
    @pytest.mark.parametrize("model", ["dashfusion", "lf_dnn"])
    def test_a_pipe_is_not_waited_for(self, run, model, argument, tmp_path):
        os.mkfifo(tmp_path / "pipe.pkl")
        with pytest.raises(FeatureFileError, match=r"pipe\.pkl.* is a pipe; write what comes out"):
            run(model, **{argument: tmp_path / "pipe.pkl"})

    def test_values_that_do_not_fit_together_are_named(self, run):
        """What MMSA fails on in its own way, here by an assertion without a word."""
        with pytest.raises(ConfigError, match=r"mult fails.*dst_feature_dim_nheads=") as e:
            run("mult", config={"dst_feature_dim_nheads": [10, 3], "update_epochs": 1})
        assert isinstance(e.value.__cause__, AssertionError)

    def test_shapes_that_contradict_the_file_are_said(self, run, caplog):
        with caplog.at_level(logging.INFO, logger="MMSA"):
            run("lf_dnn", config={"early_stop": 0, "feature_dims": [16, 5, 3]})
        assert "Shapes are the file's: feature_dims [16, 5, 4]" in caplog.text
        assert "configured: [16, 5, 3]" in caplog.text


@pytest.mark.slow
class TestVariantsOfMMSAsModels:
    config = {"infoenh": {"k": 3, "d": 8}, "early_stop": 1}  # noqa: RUF012

    def test_run_like_any_model_and_show_what_infoenh_did(self, run, tmp_path, feature_file):
        results = run("lf_dnn_infoenh", seeds=(1, 2), config=self.config)
        assert [r.diverged for r in results.seeds] == [False, False]
        record = results.seeds[0].record
        assert record.identity.configuration["infoenh"]["k"] == 3
        assert record.identity.configuration["infoenh"]["inverse_temperature"] == 50
        shown = {"kept_ratio_text", "transport_cost", "plan_entropy", "infoenh_loss", "MAE"}
        assert all(shown <= set(epoch.train) for epoch in record.history)
        again = run("lf_dnn_infoenh", seeds=(1,), config=self.config)
        assert again.seeds[0].reused
        table = MMSA_ext.predict_file(results.seeds[0].checkpoint, feature_file)
        stored = pd.read_csv(results.seeds[0].record_path.with_suffix(".predictions.csv"))
        assert table["id"].tolist() == stored["id"].tolist()
        np.testing.assert_allclose(table["prediction"], stored["prediction"], rtol=1e-4, atol=1e-5)

    def test_a_search_reaches_nested_keys(self, run, tmp_path):
        space = {"d_paras": ["infoenh"], "infoenh": {"k": [2, 3], "d": [4, 8]}}
        section = MMSA_ext.config.files.extension_config("regression")["lf_dnn_infoenh"]
        file = tmp_path / "space.json"
        file.write_text(json.dumps({"lf_dnn_infoenh": section | {"debugParams": space}}))
        options = {"is_tune": True, "tune_times": 2, "config_file": file}
        found = run("lf_dnn_infoenh", config={"early_stop": 1}, **options).seeds[0].record
        chosen = found.identity.configuration["infoenh"]
        assert (chosen["k"], chosen["d"]) in {(2, 4), (2, 8), (3, 4), (3, 8)}
        assert chosen["inverse_temperature"] == 50


def get_trainer(model):
    return mmsa_bridge.trainer_class(model) if trains_in_mmsa(model) else Trainer


@pytest.mark.slow
class TestCorruption:
    @pytest.mark.parametrize("model", ["dashfusion", "lf_dnn"])
    def test_is_part_of_the_identity_and_reaches_the_data(self, run, model):
        clean = run(model, config={"early_stop": 2}).seeds[0]
        removed = {"corruption": {"remove": ["audio"]}, "early_stop": 2}
        corrupted = run(model, config=removed).seeds[0]
        assert not corrupted.reused
        assert corrupted.record.identity.configuration["corruption"]["remove"] == ["audio"]
        assert any("audio removed" in note for note in corrupted.record.notes)
        # At test only: what was trained and selected is the same.
        assert corrupted.record.metrics["valid"] == clean.record.metrics["valid"]
        assert corrupted.metrics != clean.metrics
        removed["corruption"] = {"remove": ["audio"], "at": "all"}
        trained = run(model, config=removed).seeds[0]
        assert trained.record.metrics["valid"] != clean.record.metrics["valid"]

    @pytest.mark.parametrize("model", ["text_only", "lf_dnn"])
    def test_weights_of_the_run_on_whole_data_are_used_again(self, run, monkeypatch, model):
        once = {"early_stop": 1}
        removed = once | {"corruption": {"remove": ["text"]}}
        alone = run(model, config=removed, folder="alone").seeds[0]
        run(model, config=once)
        monkeypatch.setattr(get_trainer(model), "do_train", lambda *a, **k: pytest.fail("again"))
        after = run(model, config=removed).seeds[0]
        assert not after.reused
        # MMSA's `Loss` is a mean over batches, which it shuffles also in evaluation.
        ours = {key: value for key, value in after.metrics.items() if key != "Loss"}
        assert ours == pytest.approx({key: alone.metrics[key] for key in ours}, abs=2e-4)
        assert after.record.chosen_epoch == alone.record.chosen_epoch
        assert len(after.record.history) == len(alone.record.history)
        assert any("weights of the same run on whole data" in note for note in after.record.notes)
        assert after.checkpoint is None

    def test_weights_that_are_damaged_or_of_another_run_are_not_used(self, run, caplog):
        removed = {"corruption": {"remove": ["text"]}}
        alone = run(config=removed, folder="alone").seeds[0]
        path = run().seeds[0].checkpoint
        sound = load_checkpoint(path)
        for forged in (
            None,
            replace(sound, seed=2),
            replace(sound, config=sound.config | {"learning_rate": 1.0}),
            replace(sound, state_dict={"w": torch.zeros(1)}),
        ):
            path.write_bytes(b"damaged") if forged is None else save_checkpoint(path, forged)
            caplog.clear()
            with caplog.at_level(logging.WARNING, "MMSA"):
                again = run(config=removed).seeds[0]
            assert again.metrics == alone.metrics
            assert path.name in caplog.text
            assert not any("weights of the same run" in note for note in again.record.notes)
            again.record_path.unlink()  # so that the next is not looked up

    def test_a_rate_of_zero_is_no_corruption(self, run):
        once = {"early_stop": 1}
        run("lf_dnn", config=once)
        assert run("lf_dnn", config=once | {"corruption": {"drop_rate": 0.0}}).seeds[0].reused


@pytest.fixture
def rewritten(feature_file, feature_data):
    """Write the changed data in the place of the tiny file."""
    return lambda: feature_file.write_bytes(pickle.dumps(feature_data))


@pytest.mark.slow
class TestData:
    """What is found in a file reaches the record, or stops the run before it is trained."""

    @pytest.mark.parametrize("model", ["text_only", "lf_dnn"])
    def test_three_files_need_no_base(self, run, tmp_path, feature_data, model):
        whole = run(model, config={"early_stop": 1}, folder="whole").seeds[0]
        files = {}
        keys = {"T": ("text", "text_bert", "raw_text", "regression_labels"),
                "A": ("audio", "audio_lengths"), "V": ("vision", "vision_lengths")}  # fmt: skip
        for role, own in keys.items():
            files[f"feature_{role}"] = path = tmp_path / f"{role}.pkl"
            splits = {n: {k: s[k] for k in ("id", *own)} for n, s in feature_data.items()}
            path.write_bytes(pickle.dumps(splits))
        nowhere = {"featurePath": str(tmp_path / "nowhere.pkl"), "early_stop": 1}
        found = run(model, config=nowhere, **files).seeds[0]
        assert found.metrics == whole.metrics
        assert run(model, config=nowhere, **files).seeds[0].reused
        with pytest.raises(FeatureFileError, match=r"typo\.pkl"):
            run(model, custom_feature=tmp_path / "typo.pkl", **files)
        del files["feature_V"]
        with pytest.raises(FeatureFileError, match=r"nowhere\.pkl.*together need no other"):
            run(model, config=nowhere, **files)

    @pytest.mark.parametrize("model", ["text_only", "lf_dnn", "self_mm"])
    def test_labels_of_a_split_that_are_all_zero(
        self, run, feature_data, rewritten, tiny_encoder, model
    ):
        feature_data["test"]["regression_labels"][:] = 0
        rewritten()
        small = {"update_epochs": 1, "text_out": 16, "pretrained": str(tiny_encoder)}
        config = {"early_stop": 1} | (small if model == "self_mm" else {})
        seed = run(model, config=config).seeds[0]
        assert not seed.diverged
        assert seed.metrics["Corr"] is seed.metrics["Non0_acc_2"] is None
        assert seed.metrics["MAE"] > 0
        assert any("test] regression_labels: is 0 in all" in note for note in seed.record.notes)
        feature_data["train"]["regression_labels"][:] = 0
        rewritten()
        with pytest.raises(FeatureFileError, match="learns nothing"):
            run(model, config=config)

    def test_labels_that_do_not_fit_the_name_stay_in_the_record(self, run, feature_data, rewritten):
        for split in feature_data.values():
            split["regression_labels"] = split["regression_labels"] / 3
        rewritten()
        record = run().seeds[0].record
        assert any("the range of sims" in n and "read as mosi" in n for n in record.notes)

    @pytest.mark.parametrize("model", ["text_only", "lf_dnn"])
    def test_padding_in_front(self, run, feature_data, rewritten, feature_file, model):
        once = {"early_stop": 1}
        plain = run(model, config=once, folder="plain").seeds[0]
        for split in feature_data.values():
            for key in ("audio", "vision"):
                split[key] = split[key][:, ::-1]
                split[f"{key}_lengths"] = None
        rewritten()
        with pytest.raises(FeatureFileError, match="--front-padding turn"):
            run(model)
        turned = run(model, config=once | {"front_padding": "turn"}).seeds[0]
        kept = run(model, config=once | {"front_padding": "keep"}).seeds[0]
        assert turned.record.identity.configuration["front_padding"] == "turn"
        assert "front_padding" not in plain.record.identity.configuration
        assert len({seed.record.identity.short_id for seed in (plain, turned, kept)}) == 3
        # The checkpoint remembers it.
        table = MMSA_ext.predict_file(turned.checkpoint, feature_file, gpu_ids="cpu")
        stored = pd.read_csv(turned.record_path.with_suffix(".predictions.csv"))
        np.testing.assert_allclose(table["prediction"], stored["prediction"], atol=1e-5)
        with pytest.raises(ConfigError, match=r"front_padding is 'flip'"):
            run(model, config={"front_padding": "flip"})

    def test_the_same_run_read_otherwise(self, feature_file, feature_data, rewritten, tmp_path):
        for split in feature_data.values():
            split["audio"] = split["audio"][:, ::-1]
            split["audio_lengths"] = None
        rewritten()
        options = RunOptions(verbose_level=0).inside(tmp_path / "out")
        config = {"front_padding": "keep", "featurePath": str(feature_file)}
        with open_run("lf_dnn", "mosi", options, config=config) as kept:
            assert kept.with_overrides({}).features is kept.features
            turned = kept.with_overrides({"front_padding": "turn"}).features.splits["train"]
        assert turned.audio[:, 0].any(axis=1).all()
        assert not kept.features.splits["train"].audio[:, 0].any(axis=1).all()

    def test_a_run_without_a_step_is_not_finished(self, run, monkeypatch):
        """Where nobody foresaw it, it is seen."""
        monkeypatch.setattr("MMSA_ext.runs.requirements._never_a_step", lambda *arguments: [])
        config = {"batch_size": 4, "update_epochs": 4, "early_stop": 1}
        config |= {"dst_feature_dim_nheads": [8, 2], "nlevels": 1}
        config |= {f"conv1d_kernel_size_{modality}": 1 for modality in "lav"}
        seed = run("mult", config=config).seeds[0]
        assert seed.diverged
        assert "no optimizer made a step" in seed.record.reason
        assert not seed.metrics


@pytest.mark.parametrize(
    ("model", "config", "said"),
    [
        ("dashfusion", {}, "lowest validation MAE, no early stop"),
        ("dashfusion", {"KeyEval": "Corr"}, "highest validation Corr, no early stop"),
        ("dbf", {}, "lowest validation MAE, patience 10 after warm-up"),
        (
            "dashfusion_released",
            {},
            "lowest validation MAE, rounded to 4 digits, from epoch 2 on, no early stop",
        ),
        ("lf_dnn", {}, "lowest validation Loss, patience 8"),
        ("lf_dnn", {"num_epochs": 3}, "lowest validation Loss, patience 8, at most 3 epochs"),
    ],
)
def test_the_rule_of_selection_in_words(model, config, said):
    from MMSA_ext.config.resolve import resolve
    from MMSA_ext.runs.seeds import _selection_rule

    assert _selection_rule(resolve(model, "mosi", "", config)) == said
