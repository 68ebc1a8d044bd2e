"""Damaged and forged checkpoints of trained models."""

import sys

import pytest

from tests.attack import checkpoints

linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")


@linux
def test_some_changed_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("MMSA_ext.runs.api.Run._draw", lambda self, results: ())
    (trained,) = checkpoints.train(tmp_path, ("lf_dnn",))
    for alone in (False, True):
        tally = checkpoints.changed_bytes(trained, tmp_path, 60, alone=alone)
        assert not tally.bad(checkpoints.HARMLESS), tally.render()
        assert tally.outcomes["CheckpointError"] > 50
    tally = checkpoints.truncated(trained, tmp_path, 20)
    assert not tally.bad({"CheckpointError"}), tally.render()


@linux
@pytest.mark.slow
def test_nothing_loads_that_is_not_what_was_saved(tmp_path):
    for tally, allowed in checkpoints.attack(tmp_path, 300):
        assert not tally.bad(allowed), tally.render()
