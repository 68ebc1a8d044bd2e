"""A run that is killed in the middle of a seed."""

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from MMSA_ext.records.store import RunStore, file_digest
from tests.conftest import tiny_config

EPOCHS = 12


def command(folder, feature_file, encoder):
    settings = tiny_config("text_only", encoder, num_epochs=EPOCHS)
    places = ("--model-save-dir", "--res-save-dir", "--log-dir")
    return [
        *("mmsa-ext", "run", "text_only", "mosi", "-g", "cpu", "-v", "1"),
        *("-f", str(feature_file), "-s", "7"),
        *(f"--set={key}={value}" for key, value in settings.items()),
        *(word for option in places for word in (option, str(folder))),
    ]


def result(folder):
    store = RunStore(folder / "runs")
    (record,) = store.records()
    history = [epoch.model_dump(exclude={"seconds"}) for epoch in record.history]
    checkpoint = file_digest(folder / record.identity.checkpoint_name)
    predictions = store.predictions_path(record.identity).read_bytes()
    return record.metrics, record.chosen_epoch, history, record.notes, checkpoint, predictions


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_run_ends_as_one_without_a_break(tmp_path, feature_file, tiny_encoder, typed):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert typed(shlex.join(command(whole, feature_file, tiny_encoder)))[0] == 0
    line = command(broken, feature_file, tiny_encoder)
    running = subprocess.Popen(
        [sys.executable, "-m", "MMSA_ext", *line[1:]], stderr=subprocess.DEVNULL
    )
    while running.poll() is None and not list(broken.glob("*.resume")):
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert not list((broken / "runs").rglob("*.json"))
    ended, said = typed(shlex.join(line))
    assert (ended, "Going on after epoch " in said) == (0, True), said
    assert result(broken) == result(whole)
    assert not list(broken.glob("*.resume"))
