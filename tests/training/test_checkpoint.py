"""Checkpoints carry their configuration and load without executing anything."""

import pickle

import pytest
import torch

from MMSA_ext.errors import CheckpointError
from MMSA_ext.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint


def test_round_trip(tmp_path):
    saved = Checkpoint(
        {"model_name": "x", "seq_lens": [1, 2, 3], "early_stop": None, "nested": {"a": 1.5}},
        1111,
        {"w": torch.arange(3.0)},
        {"test": {"MAE": 0.5}},
    )
    save_checkpoint(tmp_path / "c.pth", saved)
    loaded = load_checkpoint(str(tmp_path / "c.pth"))
    assert loaded.config == saved.config
    assert (loaded.seed, loaded.metrics) == (1111, saved.metrics)
    assert torch.equal(loaded.state_dict["w"], saved.state_dict["w"])
    assert [path.name for path in tmp_path.iterdir()] == ["c.pth"]


class Hostile:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("kind", ["missing", "truncated", "hostile", "bare", "version"])
def test_bad_files_give_one_clear_error(tmp_path, kind, capsys):
    path = tmp_path / "c.pth"
    save_checkpoint(path, Checkpoint({}, 1, {"w": torch.zeros(100)}, {}))
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    elif kind == "hostile":
        path.write_bytes(pickle.dumps(Hostile()))
    elif kind == "bare":
        torch.save({"w": torch.zeros(1)}, path)
    else:
        torch.save({"format": 0, "config": {}}, path)
    expected = {
        "missing": "no such", "truncated": "damaged", "hostile": "not a readable",
        "bare": "without their configuration", "version": "another version",
    }[kind]  # fmt: skip
    with pytest.raises(CheckpointError, match=expected) as error:
        load_checkpoint(path)
    assert "c.pth" in str(error.value)
    assert "executed" not in capsys.readouterr().out
