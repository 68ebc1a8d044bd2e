"""How `MMSA_run` stores what it computes: found out before, kept elsewhere, repeated whole.

Training is a stand-in here; `tests/attack` kills the same way at every instruction.
"""

import hashlib
import os
import pickle
import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import torch
from filelock import FileLock

from MMSA_ext import MMSA_run
from MMSA_ext.errors import ConfigError, WriteError
from MMSA_ext.records.store import RunStore, StoreError, file_digest, new_file
from MMSA_ext.runs.api import open_run
from MMSA_ext.runs.one_seed import SeedOutcome
from MMSA_ext.runs.options import RunOptions
from MMSA_ext.runs.seeds import Run
from MMSA_ext.training.checkpoint import load_checkpoint
from tests.conftest import tiny_config


class Training:
    """Stands in for the training: what it gives, and the seeds that it was asked for."""

    def __init__(self):
        self.seeds, self.version, self.then = [], 1.0, lambda: None

    def __call__(self, run, identity, position, weights, *_):
        self.seeds.append(identity.seed)
        weights.write_bytes(b"best so far")
        self.then()
        return SeedOutcome(
            metrics={"test": {"MAE": self.version / 10}},
            predictions=pd.DataFrame(
                {"split": "test", "id": ["a", "b"], "label": 0.5, "prediction": self.version}
            ),
            state_dict={"weights": torch.full((3,), self.version)},
        )


@pytest.fixture
def training(monkeypatch):
    stand_in = Training()
    monkeypatch.setattr(Run, "_train", lambda run, *rest: stand_in(run, *rest))
    return stand_in


@pytest.fixture
def run(training, tmp_path, feature_file):
    def call(seeds=(1,), results=tmp_path / "results", **options):
        return MMSA_run(
            "lf_dnn", "mosi", custom_feature=feature_file, seeds=list(seeds), gpu_ids="cpu",
            verbose_level=0, model_save_dir=tmp_path / "models",
            res_save_dir=results, log_dir=tmp_path / "logs", **options,
        )  # fmt: skip

    return call


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "results" / "runs")


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestBefore:
    """What cannot be stored is not computed."""

    def refused(self, run, training, match):
        with pytest.raises((WriteError, ConfigError), match=match):
            run()
        assert training.seeds == []

    def test_a_store_that_is_a_file(self, run, training, store):
        store.root.parent.mkdir()
        store.root.touch()
        self.refused(run, training, f"{store.root}.*choose another folder")

    def test_a_lock_that_is_held(self, run, training, store, monkeypatch):
        monkeypatch.setattr("MMSA_ext.files.LOCK_TIMEOUT_SECONDS", 0.1)
        store.root.mkdir(parents=True)
        with FileLock(store.root / ".lock"):
            self.refused(run, training, r"runs/\.lock: another process has held.*Wait for it")

    def test_a_lock_that_cannot_be_opened(self, run, training, store):
        (store.root / ".lock").mkdir(parents=True)
        self.refused(run, training, r"runs/\.lock: cannot be written")

    @pytest.mark.parametrize("folder", ["runs", "models", "logs"])
    def test_a_full_disk(self, run, training, folder, monkeypatch):
        sync = os.fsync

        def full(descriptor):
            if f"/{folder}/" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
                raise OSError(28, os.strerror(28))
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", full)
        self.refused(run, training, rf"/{folder}.*is full.*Free some space")

    def test_a_disk_that_can_only_be_read(self, run, training, store, monkeypatch):
        make = Path.mkdir

        def read_only(path, *args, **options):
            if "runs" in path.parts:
                raise OSError(30, os.strerror(30))
            make(path, *args, **options)

        monkeypatch.setattr(Path, "mkdir", read_only)
        self.refused(run, training, "Read-only file system")

    def test_a_path_that_is_too_long(self, run, training, tmp_path):
        """The results folder is there, a record in it would not be."""
        deep = tmp_path / "results"
        while (room := 4030 - len(os.fsencode(deep))) > 1:
            deep = deep / ("x" * min(200, room - 1))
        deep.mkdir(parents=True)
        self.refused(lambda: run(results=deep), training, "File name too long")

    def test_a_log_that_cannot_be_opened(self, run, training, tmp_path):
        (tmp_path / "logs" / "lf_dnn-mosi.log").mkdir(parents=True)
        self.refused(run, training, r"lf_dnn-mosi\.log: no log can be written")

    def test_what_is_only_looked_up_needs_no_writing(self, run, training, store, monkeypatch):
        run()
        monkeypatch.setattr(RunStore, "check_writable", lambda *args: pytest.fail("probed"))
        assert run().seeds[0].reused


class TestAfter:
    """What was computed and cannot be stored is kept beside the checkpoint, or elsewhere."""

    @pytest.fixture
    def broken(self, training, store):
        """The store takes no record from the end of the training on."""

        def break_it():
            for folder in store.root.glob("*/*"):
                folder.rename(folder.with_name("away"))
                folder.touch()

        training.then = break_it

    def mended(self, store):
        for folder in store.root.glob("*/away"):
            file = folder.with_name("lf_dnn")
            file.unlink(missing_ok=True)
            folder.rename(file)

    @pytest.mark.parametrize("repeated", [False, True])
    def test_it_comes_back_by_the_command_that_the_error_gives(
        self, run, training, store, broken, tmp_path, repeated
    ):
        if repeated:
            training.then, break_it = (lambda: None), training.then
            run()
            training.then, training.version = break_it, 2.0
        with pytest.raises(WriteError, match="It is kept") as caught:
            run(seeds=(1, 2), reuse=not repeated)
        assert training.seeds == [1, 1] if repeated else [1]  # the other seed is not begun
        training.then = lambda: None
        self.mended(store)
        checkpoints = list((tmp_path / "models").glob("*.pth"))
        assert [load_checkpoint(c).state_dict["weights"][0] for c in checkpoints] == [1] * repeated
        commands = re.findall(r"^  (mkdir -p .*)$", str(caught.value), flags=re.MULTILINE)
        subprocess.run(["sh", "-ec", "\n".join(commands)], check=True)
        result = run().seeds[0]
        assert result.reused
        assert result.metrics["MAE"] == training.version / 10
        assert set(store.predictions(result.record)["prediction"]) == {training.version}
        assert load_checkpoint(result.checkpoint).state_dict["weights"][0] == training.version
        assert file_digest(result.checkpoint) == result.record.checkpoint_sha256

    def test_where_the_checkpoints_cannot_be_written_either(
        self, run, training, store, broken, tmp_path, monkeypatch
    ):
        monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
        monkeypatch.setattr("tempfile.tempdir", None)
        (tmp_path / "temporary").mkdir()
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "rescued").touch()
        with pytest.raises(WriteError, match=f"{tmp_path}/temporary/mmsa-ext-rescued"):
            run()
        assert len(list((tmp_path / "temporary").rglob("*.json"))) == 1
        assert len(list((tmp_path / "temporary").rglob("*.pth"))) == 1

    def test_where_nothing_can_be_written_the_error_has_the_metrics(
        self, run, training, store, broken, tmp_path, monkeypatch
    ):
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "rescued").touch()
        monkeypatch.setattr("tempfile.mkdtemp", _no_folder())
        with pytest.raises(WriteError, match=r"its metrics are \{'test': \{'MAE': 0.1\}\}"):
            run()


def _no_folder():
    import tempfile

    make = tempfile.mkdtemp

    def refused(*args, prefix=None, **options):
        if prefix and prefix.startswith("mmsa-ext-rescued"):
            raise OSError(28, "full")
        return make(*args, prefix=prefix, **options)

    return refused


class TestRepeat:
    def test_replaces_record_predictions_and_checkpoint(self, run, training, store, tmp_path):
        first = run().seeds[0]
        training.version = 2.0
        again = run(reuse=False).seeds[0]
        assert again.checkpoint == first.checkpoint
        assert again.record_path == first.record_path
        assert load_checkpoint(again.checkpoint).state_dict["weights"][0] == 2
        assert set(store.predictions(again.record)["prediction"]) == {2.0}
        assert len(files_of(tmp_path / "models")) == 1
        with pytest.raises(StoreError, match="repeated meanwhile"):
            store.predictions(first.record)

    def test_that_fails_keeps_the_old_ones(self, run, training, tmp_path):
        run()
        before = files_of(tmp_path / "results" / "runs") | files_of(tmp_path / "models")
        training.version, training.then = 2.0, lambda: 1 / 0
        with pytest.raises(ZeroDivisionError):
            run(reuse=False)
        assert before == files_of(tmp_path / "results" / "runs") | files_of(tmp_path / "models")

    def test_killed_at_its_last_step_is_finished_by_a_look_up(self, run, training, store):
        """The record is in place, what belongs to it still has its other name."""
        result = run().seeds[0]
        kept = [store.predictions_path(result.record.identity), result.checkpoint]
        contents = [path.read_bytes() for path in kept]
        for path in kept:
            path.rename(new_file(path))
            path.write_bytes(b"of the run before")
        assert set(store.predictions(result.record)["prediction"]) == {1.0}
        assert run().seeds[0].reused
        assert [path.read_bytes() for path in kept] == contents
        assert not any(new_file(path).exists() for path in kept)

    def test_two_at_once_do_not_mix(self, run, training, store):
        """Another process repeats the run while this one trains."""

        def other():
            training.then, training.version = (lambda: None), 2.0
            run(reuse=False)
            training.version = 1.0

        training.then = other
        result = run(reuse=False).seeds[0]
        assert training.seeds == [1, 1]
        assert set(store.predictions(result.record)["prediction"]) == {1.0}
        assert load_checkpoint(result.checkpoint).state_dict["weights"][0] == 1


def test_a_result_that_is_there_meanwhile_is_kept(run, training, store):
    def other():
        training.then, training.version = (lambda: None), 2.0
        run()
        training.version = 1.0

    training.then = other
    result = run().seeds[0]
    assert set(store.predictions(result.record)["prediction"]) == {2.0}
    assert load_checkpoint(result.checkpoint).state_dict["weights"][0] == 2


def test_odd_names_of_metrics_cost_no_result(run, training, store, monkeypatch):
    train = training.__call__

    def odd(run, *rest):
        outcome = train(run, *rest)
        outcome.metrics["test"] |= {"<b>|\n$": 1.0, "=1": 2.0, "x" * 99: 3.0, "F1 (macro)": 4.0}
        outcome.history = [{"epoch": 1, "train": {"$\\frac$": 1.0}}]
        return outcome

    monkeypatch.setattr(Run, "_train", odd)
    result = run().seeds[0]
    assert result.record.history[0].train == {"__frac_": 1.0}
    assert list(result.metrics) == ["MAE", "_b____", "_=1", "x" * 64, "F1 (macro)"]


class TestTheName:
    """It is known before the data are read, and holds what decides the numbers."""

    @pytest.fixture
    def opened(self, tmp_path, feature_file, tiny_encoder):
        def name(model="lf_dnn", seed=1, custom_feature=feature_file, **config):
            folders = dict.fromkeys(("model_save_dir", "res_save_dir", "log_dir"), tmp_path / "out")
            if not model.startswith("lf_dnn"):
                config = tiny_config(model, tiny_encoder) | config
            options = RunOptions(
                custom_feature=custom_feature, gpu_ids="cpu", verbose_level=0, **folders
            )
            with open_run(model, "mosi", options, config=config) as run:
                return run.identity(seed)

        return name

    def test_is_found_without_reading_the_arrays(self, run, training, monkeypatch, feature_file):
        first = run().seeds[0]

        def unread(*args, **options):
            pytest.fail("read")

        monkeypatch.setattr("MMSA_ext.data.features.load_cached", unread)
        monkeypatch.setattr("MMSA_ext.runs.requirements.check", unread)
        assert run().seeds[0].record == first.record

    def test_of_a_file_that_is_changed_is_another(self, run, training, feature_file, feature_data):
        first = run().seeds[0].record.identity
        feature_data["train"]["audio"][0, 0, 0] += 1
        feature_file.write_bytes(pickle.dumps(feature_data))
        second = run().seeds[0].record.identity
        assert training.seeds == [1, 1]
        assert first.dataset_fingerprint != second.dataset_fingerprint

    def test_of_a_file_that_changes_while_it_is_read_is_that_of_what_was_read(
        self, run, training, monkeypatch, feature_file
    ):
        monkeypatch.setattr("MMSA_ext.runs.seeds.fingerprint", lambda *args, **others: "0" * 64)
        (found,) = (result.record.identity for result in run().seeds)
        assert found.dataset_fingerprint == hashlib.sha256(feature_file.read_bytes()).hexdigest()

    @pytest.mark.parametrize("model", ["lf_dnn", "text_only", "lf_dnn_infoenh"])
    def test_has_no_shapes_of_the_file(self, opened, model):
        config = {"seq_lens": [9, 9, 9]}
        found = opened(model).configuration
        assert not {"seq_lens", "feature_dims", "train_samples", "featurePath"} & found.keys()
        assert opened(model, **config) == opened(model)

    @pytest.mark.parametrize(
        ("model", "config", "counts"),
        [
            ("text_only", {}, False),
            ("dashfusion", {}, False),
            ("dashfusion", {"reading.padding": "seen"}, True),
            ("dashfusion_released", {}, True),
            ("almt", {}, False),
            ("almt_released", {}, True),
        ],
    )
    def test_has_the_evaluation_batch_only_where_padding_is_read(
        self, opened, model, config, counts
    ):
        sizes = [opened(model, eval_batch_size=size, **config) for size in (2, 3)]
        assert ("eval_batch_size" in sizes[0].configuration) == counts
        assert (sizes[0] != sizes[1]) == counts

    def test_tells_what_changes_numbers_apart(self, opened):
        names = [opened("text_only", **config) for config in (
            {}, {"batch_size": 3}, {"length_groups": 2}, {"learning_rate": 1e-2},
        )]  # fmt: skip
        assert len({*names, opened("text_only", seed=2)}) == 5
