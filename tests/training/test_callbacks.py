"""Callbacks: what they are told of each family of models, and what becomes of what they raise."""

import logging
import pickle
from dataclasses import replace

import pytest

from MMSA_ext import Callback, MMSA_run
from MMSA_ext.errors import ConfigError
from MMSA_ext.experiments.workers import LocalProcesses
from MMSA_ext.runs.options import RunOptions
from MMSA_ext.runs.progress_bar import ProgressBar
from MMSA_ext.training import trainer
from MMSA_ext.training.callbacks import EpochProgress, RunEnd, RunStart, StepProgress, following
from tests.conftest import make_feature_data, tiny_config, train

EPOCHS = 2
STAGE = {"epochs": 1, "batch_size": 6, "warmup_ratio": 0.0}
STAGES = [f"stage one, {name}" for name in ("text", "audio", "vision")]
# One of each family: ours, ours in two stages, MMSA's own, InfoEnh in one of MMSA's.
FAMILIES = {
    "text_only": {},
    "confede": {"stage_one": dict.fromkeys(("text", "audio", "vision"), STAGE), "dim": 16},
    "lf_dnn": {},
    "lf_dnn_infoenh": {"infoenh": {"k": 2, "d": 8}},
}


class Seen(Callback):
    """Keeps what it is told; what it was handed is its own, to be changed as it likes."""

    def __init__(self):
        self.told = []

    def on_start(self, start):
        self.told.append(replace(start, configuration=dict(start.configuration)))
        start.configuration.clear()

    def on_step(self, step):
        self.told.append(step)

    def on_epoch(self, epoch):
        self.told.append(replace(epoch, valid=dict(epoch.valid), train=dict(epoch.train)))
        epoch.valid.clear()
        epoch.train.clear()

    def on_end(self, end):
        self.told.append(end)

    def of(self, kind):
        return [told for told in self.told if isinstance(told, kind)]


class Raising(Callback):
    """Raises at one of the calls."""

    def __init__(self, method, error, when=lambda told: True):
        def fail(told):
            if when(told):
                raise error

        setattr(self, method, fail)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    path = tmp_path_factory.mktemp("features") / "features.pkl"
    path.write_bytes(pickle.dumps(make_feature_data()))
    return path


@pytest.fixture
def run(features, tiny_encoder, tmp_path):
    def run(callbacks, name="text_only", **more):
        ours = name in ("text_only", "confede")
        tiny = tiny_config(name, tiny_encoder) if ours else {}
        config = tiny | {"num_epochs": EPOCHS} | FAMILIES[name] | more
        return train(name, features, tmp_path, config=config, callbacks=callbacks)

    return run


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_tells_what_its_record_has(run, name):
    seen = Seen()
    result = run([seen], name)
    record = result.record
    (start,), (end,) = seen.of(RunStart), seen.of(RunEnd)
    assert seen.told[0] is start
    assert seen.told[-1] is end
    assert (start.model, start.dataset, start.seed, start.epochs) == (name, "mosi", 1, ())
    assert start.run_id == record.identity.short_id
    assert start.configuration == record.identity.configuration
    assert end.start.run_id == start.run_id
    assert (end.status, end.metrics, end.chosen_epoch) == (
        "finished", record.metrics, record.chosen_epoch
    )  # fmt: skip
    assert set(end.metrics) == {"train", "valid", "test"}
    assert end.record == result.record_path
    epochs, steps = seen.of(EpochProgress), seen.of(StepProgress)
    whole = [epoch for epoch in epochs if epoch.stage is None]
    for told, kept in zip(whole, record.history, strict=True):
        assert vars(told) == {**kept.model_dump(), "stage": None}
    assert whole[-1].epoch == EPOCHS
    in_mmsa = name.startswith("lf_dnn")
    assert (whole[0].epoch, bool(steps)) == ((1, False) if in_mmsa else (0, True))
    stages = list(dict.fromkeys(told.stage for told in (*epochs, *steps)))
    assert stages == ([*STAGES, None] if name == "confede" else [None])
    if steps:
        assert [(s.epoch, s.step, s.steps, s.epochs) for s in steps if s.stage is None] == [
            (epoch, step, 3, EPOCHS) for epoch in (1, 2) for step in (1, 2, 3)
        ]
        # Of an epoch all steps are told before the epoch is.
        order = [told for told in seen.told if getattr(told, "stage", "") is None]
        assert [type(told) for told in order] == [EpochProgress] + (
            [StepProgress] * 3 + [EpochProgress]
        ) * EPOCHS
    told = len(seen.told)
    assert run([seen], name).reused
    assert len(seen.told) == told


def test_what_a_callback_raises_stops_the_run_which_goes_on_after_that_epoch(run):
    seen, error = Seen(), RuntimeError("not worth it")
    stopping = Raising("on_epoch", error, lambda epoch: epoch.epoch == 1)
    with pytest.raises(RuntimeError, match="not worth it"):
        run([stopping, seen])
    end = seen.told[-1]
    assert (end.status, end.reason, end.record) == ("stopped", "RuntimeError: not worth it", None)
    again = Seen()
    result = run([again])
    start, *_ = again.told
    assert [epoch.epoch for epoch in start.epochs] == [0, 1]
    assert start.epochs[-1].train["Loss"] == result.record.history[1].train["Loss"]
    assert [epoch.epoch for epoch in again.of(EpochProgress)] == [2]
    assert again.told[-1].status == "finished"


def test_mmsas_trainers_are_left_by_what_a_callback_raises(run):
    seen, error = Seen(), ValueError("not worth it")
    stopping = Raising("on_epoch", error, lambda epoch: epoch.epoch == 1)
    with pytest.raises(ValueError, match="not worth it") as raised:
        run([seen, stopping], "lf_dnn", learning_rate=0.002)  # which is not why it fails
    assert raised.value is error
    assert [epoch.epoch for epoch in seen.of(EpochProgress)] == [1]
    assert seen.told[-1].status == "stopped"
    assert run([seen], "lf_dnn", learning_rate=0.002).record.finished


def test_what_is_raised_at_the_end_costs_no_result(run):
    seen = Seen()
    with pytest.raises(OSError, match="the server is gone"):
        run([Raising("on_end", OSError("the server is gone")), seen])
    assert seen.told[-1].status == "finished"
    assert run([]).reused


def test_a_diverged_run_says_why(run):
    seen = Seen()
    result = run([seen], learning_rate=1e30)
    assert result.diverged
    end = seen.told[-1]
    assert (end.status, end.reason) == ("diverged", result.record.reason)
    assert (end.metrics, end.chosen_epoch, end.record) == ({}, None, result.record_path)


def test_of_several_failures_at_an_end_the_first_is_raised(caplog):
    start = RunStart("a", "mosi", 1, "0" * 16, {})
    failing = [Raising("on_end", ValueError("first")), Raising("on_end", ValueError("second"))]
    with caplog.at_level(logging.ERROR, "MMSA"):
        with pytest.raises(ValueError, match="first"), following(failing, start):
            pass
        assert "second" in caplog.text
        with pytest.raises(KeyboardInterrupt), following(failing, start):
            raise KeyboardInterrupt
    seen = Seen()
    fails_at_once = Raising("on_start", ValueError("no server"))
    with pytest.raises(ValueError, match="no server"), following([seen, fails_at_once], start):
        raise AssertionError
    assert seen.told[-1].reason == "ValueError: no server"


def test_nothing_is_made_of_steps_where_nobody_listens(run, monkeypatch):
    monkeypatch.setattr(trainer, "StepProgress", None)  # would fail if it were called
    epochs = []

    class Epochs(Callback):
        def on_epoch(self, epoch):
            epochs.append(epoch.epoch)

    run([Epochs()])
    assert epochs == [0, 1, 2]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (Seen, "callbacks is .*; give a list of MMSA_ext.Callback objects"),
        ([Seen()] * 2 + [Seen], r"callbacks\[2\] is .*; give an object of it: Seen\(\)"),
        ([print], r"callbacks\[0\] is .*; derive its class from MMSA_ext.Callback"),
    ],
)
def test_what_is_no_callback_is_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        MMSA_run("text_only", "mosi", callbacks=given)


def test_a_callback_that_no_process_can_have_is_refused():
    class Local(Callback):
        pass

    with pytest.raises(ConfigError, match="cannot be copied to other processes"):
        LocalProcesses(2, RunOptions(callbacks=[Local()]))


@pytest.mark.parametrize("terminal", [True, False])
def test_the_progress_bar_is_shown_in_a_terminal(capsys, monkeypatch, terminal):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    bar = ProgressBar()
    with following([bar], RunStart("text_only", "mosi", 7, "0" * 16, {})):
        for step in (1, 2):
            bar.on_step(StepProgress(2, 3, step, 2, 0.5, 0.25, "stage one, text"))
        bar._bar.refresh()
    shown = capsys.readouterr().err
    line = "text_only mosi seed 7 stage one, text, epoch 2/3, best 0.2500"
    assert (line in shown) == terminal
    assert bool(shown) == terminal
