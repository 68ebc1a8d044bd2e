"""Trackers: one training, stopped and gone on with, read back from all three."""

import json
import logging
import pickle
import struct
from importlib.machinery import ModuleSpec
from unittest import mock

import pytest

from MMSA_ext import Callback, MMSA_run
from MMSA_ext.errors import ConfigError
from MMSA_ext.runs import tracking
from MMSA_ext.runs.tracking import Point, Tracker
from MMSA_ext.training.callbacks import (
    EpochProgress,
    RunEnd,
    RunStart,
    StepProgress,
    following,
)
from tests.conftest import make_feature_data, tiny_config, train

EPOCHS, STEPS = 3, 3
VARIABLES = ("WANDB_MODE", "WANDB_DIR", "WANDB_PROJECT", "MLFLOW_TRACKING_URI")


class StopAt(Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch(self, epoch):
        if epoch.epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def tracked(tmp_path_factory, tiny_encoder):
    """The record and the folder of a run that all three log, stopped in its second epoch."""
    for name in tracking.TRACKERS:
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("tracked")
    features = folder / "features.pkl"
    features.write_bytes(pickle.dumps(make_feature_data()))
    config = tiny_config("text_only", tiny_encoder, num_epochs=EPOCHS)
    with pytest.MonkeyPatch.context() as patch:
        for name in (*VARIABLES, "MLFLOW_EXPERIMENT_NAME"):
            patch.delenv(name, raising=False)
        # Only the first state is kept, so that the second epoch is computed again.
        patch.setattr("MMSA_ext.training.state._MOST_OF_THE_TIME", 0.0)
        options = {"config": config, "track": list(tracking.TRACKERS)}
        with pytest.raises(KeyboardInterrupt):
            train("text_only", features, folder, callbacks=[StopAt(2)], **options)
        seed = train("text_only", features, folder, **options)
    return seed.record, folder / "tracking"


def expected(record):
    """What each curve has, by its name: steps and values."""
    curves = {}
    for epoch in record.history:
        values = {f"train/{k}": v for k, v in epoch.train.items()}
        values |= {f"valid/{k}": v for k, v in epoch.valid.items()}
        for name, value in values.items():
            curves.setdefault(name, []).append((epoch.epoch, pytest.approx(value, nan_ok=True)))
    assert len(curves["valid/MAE"]) == EPOCHS + 1
    return curves


def settings(record):
    identity = record.identity
    return {
        "num_epochs": EPOCHS,
        "seed": identity.seed,
        "model_name": "text_only",
        "dataset_name": "mosi",
        "run_id": identity.short_id,
    }


def test_tensorboard(tracked):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record, folder = tracked
    (run,) = (path for path in (folder / "tensorboard").iterdir() if path.is_dir())
    assert run.name == f"text_only-mosi-{record.identity.short_id}-seed1"
    events = EventAccumulator(str(run))
    events.Reload()

    def curve(name):
        return [(event.step, event.value) for event in events.Scalars(name)]

    for name, points in expected(record).items():
        assert curve(name) == points, name
    assert [step for step, _ in curve("step/Loss")] == list(range(1, EPOCHS * STEPS + 1))
    for name, split in (("test/MAE", "test"), ("chosen/valid/MAE", "valid")):
        assert curve(name) == [(0, pytest.approx(record.metrics[split]["MAE"]))]
    (text,) = events.Tensors("configuration/text_summary")
    written = text.tensor_proto.string_val[0].decode()
    for key, value in settings(record).items():
        assert f"| {key} | {value} |" in written


def test_mlflow(tracked):
    from mlflow import MlflowClient

    record, folder = tracked
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("MMSA_ext")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    for key, value in settings(record).items():
        assert run.data.params[key] == str(value)

    def curve(name):
        history = client.get_metric_history(run.info.run_id, name)
        return sorted((metric.step, metric.value) for metric in history)

    for name, points in expected(record).items():
        assert curve(name) == points, name
    assert [step for step, _ in curve("step/Loss")] == list(range(1, EPOCHS * STEPS + 1))
    assert curve("test/MAE") == [(record.chosen_epoch, record.metrics["test"]["MAE"])]


def test_wandb(tracked):
    record, folder = tracked
    files = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert [file.stem for file in files] == [f"run-{record.identity.short_id}"] * 2
    curves, config, summary = {}, {}, {}
    for file in files:
        for kind, content in wandb_records(file):
            if kind == "run":
                config |= items(content.config.update)
            elif kind == "summary":
                summary |= items(content.update)
            elif kind == "history":
                values = items(content.item)
                axis = "step" if "step/Loss" in values else "epoch"
                for name, value in values.items():
                    curves.setdefault(name, []).append((values[axis], value))
    for name, points in expected(record).items():
        assert curves[name] == points, name
    assert [step for step, _ in curves["step/Loss"]] == list(range(1, EPOCHS * STEPS + 1))
    assert summary["test/MAE"] == record.metrics["test"]["MAE"]
    assert summary["status"] == "finished"
    assert settings(record).items() <= config.items()


def items(pairs):
    return {"/".join(p.nested_key) or p.key: json.loads(p.value_json) for p in pairs}


def wandb_records(path):
    """The records in a run's file: LevelDB's log format behind a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or its last part
            record = wandb_internal_pb2.Record.FromString(whole)
            name = record.WhichOneof("record_type")
            yield name, getattr(record, name)
            whole = b""


class Memory(Tracker):
    """Keeps what it is told to log; fails from a point on."""

    name = "memory"

    def __init__(self, folder, there=False, fails=()):
        super().__init__(folder)
        self.there, self.fails, self.points, self.ends = there, fails, [], []

    def open(self, title, run_id, settings):
        self.settings = settings
        return self.there

    def write(self, points):
        if any(point.at in self.fails for point in points):
            raise ConnectionError("the server is gone")
        self.points += points

    def close(self, status, results):
        self.ends.append((status, results))


START = RunStart("m", "mosi", 1, "0" * 16, {"a": {"b": 2, "c": {}}, "d": None, "e": [1, 2]})
FINISHED = RunEnd(START, "finished", None, {"test": {"MAE": 0.5, "Corr": None}}, 2)


def epochs(tracker, start=START, end=FINISHED, numbers=(1, 2)):
    with following([tracker], start) as followed:
        for number in numbers:
            tracker.on_step(StepProgress(number, 2, 1, 1, 0.25, None))
            tracker.on_epoch(EpochProgress(number, {"MAE": 1.0}, seconds=2.0))
        followed.end = end


def test_names_are_flat_and_tame(tmp_path):
    memory = Memory(tmp_path)
    with following([memory], START) as followed:
        memory.on_step(StepProgress(2, 3, 1, 4, 0.25, None, "stage one, text"))
        memory.on_epoch(EpochProgress(2, {"MAE": 1.0}, {"a:b": 2.0}, stage="stage one, text"))
        followed.end = FINISHED
    assert memory.settings == {
        "a.b": 2, "a.c": "{}", "d": "null", "e": "[1, 2]",
        "seed": 1, "run_id": "0" * 16,
    }  # fmt: skip
    assert memory.points == [
        Point("stage_one_text/step", 5, {"stage_one_text/step/Loss": 0.25}),
        Point("stage_one_text/epoch", 2,
              {"stage_one_text/train/ab": 2.0, "stage_one_text/valid/MAE": 1.0}),
    ]  # fmt: skip
    assert memory.ends == [("finished", {"test/MAE": 0.5, "chosen_epoch": 2.0})]


def test_what_is_in_the_tracker_is_not_logged_again(tmp_path):
    first, again, new = Memory(tmp_path), Memory(tmp_path, there=True), Memory(tmp_path)
    stopped = RunEnd(START, "stopped")
    epochs(first, end=stopped)
    assert first.ends == [("stopped", {})]
    known = RunStart(*vars(START).values())
    epochs(again, known, numbers=(2, 3))
    assert [(point.axis, point.at) for point in again.points] == [("step", 3), ("epoch", 3)]
    assert again.ends == [("finished", {"test/MAE": 0.5, "chosen_epoch": 2.0})]
    finished = Memory(tmp_path, there=True)
    epochs(finished, numbers=(1, 2, 3))
    assert finished.points == []
    assert finished.ends == [("finished", {})]
    epochs(new)
    assert [point.at for point in new.points if point.axis == "epoch"] == [1, 2]


def test_a_run_that_was_not_tracked_before_its_stop_is_logged_from_its_start(tmp_path):
    memory = Memory(tmp_path)
    known = (EpochProgress(0, {"MAE": 2.0}), EpochProgress(1, {"MAE": 1.5}))
    epochs(memory, RunStart(*list(vars(START).values())[:-1], known), numbers=(2,))
    assert [point.at for point in memory.points if point.axis == "epoch"] == [0, 1, 2]


def test_a_tracker_that_fails_costs_a_warning(tmp_path, caplog):
    memory = Memory(tmp_path, fails={2})
    with caplog.at_level(logging.WARNING, "MMSA"):
        epochs(memory, numbers=(1, 2, 3))
        (said,) = caplog.messages
        assert "memory: this run is tracked no further (ConnectionError: the server is " in said
    assert [point.at for point in memory.points] == [1, 1]
    epochs(memory, numbers=(1, 3))  # the next run is tracked again
    assert memory.points[-1].at == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("tensorbord", "no tracker 'tensorbord'; did you mean tensorboard"),
        (["mlflow", "csv"], "no tracker 'csv'; known: tensorboard, wandb, mlflow"),
        (True, "track is True; give names of tensorboard, wandb, mlflow"),
    ],
)
def test_what_is_no_tracker_is_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        MMSA_run("text_only", "mosi", track=given)


@pytest.mark.parametrize("found", [None, ModuleSpec("wandb", None)], ids=["none", "a folder"])
def test_an_absent_library_is_said_before_anything_is_done(found):
    with (
        mock.patch.object(tracking, "find_spec", return_value=found),
        pytest.raises(
            ConfigError, match=r"wandb, which is not installed: .*pip install .*\[wandb\]"
        ),
    ):
        MMSA_run("text_only", "mosi", track="wandb")
