"""Checkpoints carry their configuration and a digest, and load without executing anything."""

import logging
import pickle
import random
from dataclasses import replace

import pytest
import torch

from MMSA_ext.errors import CheckpointError, WriteError
from MMSA_ext.training import weights_file
from MMSA_ext.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    read_sealed,
    save_checkpoint,
    write_sealed,
)

CHECKPOINT = Checkpoint(
    {"model_name": "x", "seq_lens": [1, 2, 3], "early_stop": None, "nested": {"a": 1.5}},
    1111,
    {"w": torch.arange(3.0), "count": torch.tensor(7), "transposed": torch.rand(3, 2).T},
    {"test": {"MAE": 0.5, "Corr": float("nan")}},
    recipe={"audio": {"name": "opensmile", "version": "2.5.0", "rates": [1, 0.5]}},
)


def same(loaded, saved=CHECKPOINT):
    assert loaded.config == saved.config
    assert (loaded.seed, repr(loaded.metrics)) == (saved.seed, repr(saved.metrics))
    assert (loaded.scaling, loaded.recipe) == (saved.scaling, saved.recipe)
    assert loaded.state_dict.keys() == saved.state_dict.keys()
    for name, value in saved.state_dict.items():
        assert loaded.state_dict[name].dtype == value.dtype
        assert torch.equal(loaded.state_dict[name], value)
    return True


def content(path):
    return torch.load(path, weights_only=True)


def test_round_trip(tmp_path, caplog):
    save_checkpoint(tmp_path / "c.pth", CHECKPOINT)
    assert same(load_checkpoint(str(tmp_path / "c.pth")))
    assert [path.name for path in tmp_path.iterdir()] == ["c.pth"]
    assert caplog.text == ""
    assert content(tmp_path / "c.pth")["seed"] == 1111  # torch reads it too


def test_a_checkpoint_from_before_scaling_and_recipes(tmp_path, caplog):
    before = {k: v for k, v in vars(CHECKPOINT).items() if k not in ("scaling", "recipe")}
    write_sealed(tmp_path / "c.pth", before)
    assert same(load_checkpoint(tmp_path / "c.pth"), replace(CHECKPOINT, recipe={}))
    assert caplog.text == ""


def test_the_order_of_names_and_the_memory_of_weights_do_not_matter(tmp_path):
    """What a digest is made of is what a checkpoint says, not how it is stored."""
    base = torch.rand(4, 4)
    first = {"a": base.T, "b": base[1]}
    second = {"b": base[1].clone(), "a": base.T.contiguous()}
    for name, weights in (("c.pth", first), ("d.pth", second)):
        write_sealed(tmp_path / name, {"state_dict": weights, "seed": 1})
    digests = {content(tmp_path / name)["digest"] for name in ("c.pth", "d.pth")}
    assert len(digests) == 1


CHANGES = {
    "weight": lambda c: c["state_dict"]["w"].add_(1e-7),
    "dtype": lambda c: c["state_dict"].update(w=c["state_dict"]["w"].double()),
    "shape": lambda c: c["state_dict"].update(w=c["state_dict"]["w"][None]),
    "name": lambda c: c["state_dict"].update(v=c["state_dict"].pop("w")),
    "exchange": lambda c: c["config"].update(seq_lens=[2, 1, 3]),
    "type": lambda c: c["config"].update(nested={"a": "1.5"}),
    "seed": lambda c: c.update(seed=1112),
    "metric": lambda c: c["metrics"]["test"].update(MAE=0.25),
    "digest": lambda c: c.update(digest="0" * 64),
    "no digest": lambda c: c.pop("digest"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_is_changed_is_seen(tmp_path, change):
    path = tmp_path / "c.pth"
    save_checkpoint(path, CHECKPOINT)
    changed = content(path)
    CHANGES[change](changed)
    torch.save(changed, path)
    with pytest.raises(CheckpointError, match=r"c\.pth: is damaged"):
        load_checkpoint(path)


def test_changed_bytes_change_nothing_or_are_seen(tmp_path):
    path = tmp_path / "c.pth"
    save_checkpoint(path, CHECKPOINT)
    whole, draw, seen = path.read_bytes(), random.Random(0), 0
    for _ in range(300):
        damaged = bytearray(whole)
        for position in draw.sample(range(len(whole)), draw.randint(1, 8)):
            damaged[position] ^= draw.randint(1, 255)
        path.write_bytes(damaged)
        try:
            assert same(load_checkpoint(path))
        except CheckpointError:
            seen += 1
    assert seen > 200


class Hostile:
    def __reduce__(self):
        return (print, ("executed",))


BAD_FILES = {
    "no such": lambda path: path.unlink(),
    "damaged": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "not a readable": lambda path: path.write_bytes(pickle.dumps(Hostile())),
    "without their configuration": lambda path: torch.save({"w": torch.zeros(1)}, path),
    "another version": lambda path: torch.save({"format": 0, "config": {}}, path),
    "another version.*": lambda path: torch.save(content(path) | {"format": 3}, path),
}


@pytest.mark.parametrize("said", BAD_FILES)
def test_bad_files_give_one_clear_error(tmp_path, said, capsys):
    path = tmp_path / "c.pth"
    save_checkpoint(path, CHECKPOINT)
    BAD_FILES[said](path)
    with pytest.raises(CheckpointError, match=said) as error:
        load_checkpoint(path)
    assert "c.pth" in str(error.value)
    assert "executed" not in capsys.readouterr().out


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


def repeated():
    value = {"a": 1}
    for _ in range(15):  # 20^15 values, of a file of a few lines
        value = dict.fromkeys("abcdefghijklmnopqrst", value)
    return value


MALFORMED = {
    "'config' is NoneType": {"config": None},
    "'config' is list": {"config": []},
    "'seed' is str": {"seed": "1"},
    "'seed' is bool": {"seed": True},
    "'metrics' is list": {"metrics": []},
    "'metrics' has no metrics by split": {"metrics": {"test": 0.5}},
    "'more' is unknown": {"more": 1},
    "'recipe' is NoneType": {"recipe": None},
    "'recipe' audio has no texts": {"recipe": {"audio": {"name": "opensmile"}}},
    "'recipe' 'adio' is no modality": {"recipe": {"adio": {}}},
    "holds no weights by name": {"state_dict": {}},
    "holds no weights": {"state_dict": [torch.zeros(1)]},
    "'w' is no tensor but a dict": {"state_dict": {"w": {"v": torch.zeros(1)}}},
    "'w' is no tensor but a float": {"state_dict": {"w": 1.0}},
    "'config' holds a tuple": {"config": (1, 2)},
    "'a' holds a Tensor": {"config": {"a": torch.zeros(2)}},
    "'a' is nested beyond": {"config": nested(100)},
    "'[a-t]' is nested beyond": {"config": repeated()},
    "another version": {"format": torch.zeros(3)},
    "is another version|another version": {"format": "2"},
}


@pytest.mark.parametrize("said", MALFORMED)
@pytest.mark.parametrize("written", [1, 2])
def test_malformed_content_with_a_digest_and_without(tmp_path, said, written, monkeypatch):
    path = tmp_path / "c.pth"
    if written == 1:
        torch.save({"format": 1, **vars(CHECKPOINT), **MALFORMED[said]}, path)
    else:
        monkeypatch.setattr("MMSA_ext.training.checkpoint._digest", lambda facts, weights: "forged")
        forged = {"format": 2, "digest": "forged", **vars(CHECKPOINT), **MALFORMED[said]}
        torch.save(forged, path)
    with pytest.raises(CheckpointError, match=said) as error:
        load_checkpoint(path)
    assert "c.pth" in str(error.value)
    assert len(str(error.value)) < 400


def test_tensors_that_take_more_than_the_file(tmp_path):
    path, shared = tmp_path / "c.pth", torch.zeros(1000)
    save_checkpoint(path, Checkpoint({}, 1, {f"tied{i}": shared for i in range(4)}, {}))
    assert len(load_checkpoint(path).state_dict) == 4
    save_checkpoint(path, Checkpoint({}, 1, {f"tied{i}": shared for i in range(5)}, {}))
    with pytest.raises(CheckpointError, match="a multiple of its size"):
        load_checkpoint(path)


def test_the_format_before_loads_with_a_warning(tmp_path, caplog):
    path = tmp_path / "c.pth"
    torch.save({"format": 1, **vars(CHECKPOINT)}, path)
    with caplog.at_level(logging.WARNING, "MMSA"):
        assert same(load_checkpoint(path))
    assert "before checkpoints carried a digest" in caplog.text
    with pytest.raises(CheckpointError, match="another version"):
        read_sealed(path)


def test_weights_alone_load_with_a_warning_and_their_checksums(tmp_path, caplog):
    path = tmp_path / "c.pth"
    torch.save(CHECKPOINT.state_dict, path)
    with caplog.at_level(logging.WARNING, "MMSA"):
        loaded = load_checkpoint(path, {"model_name": "x"})
    assert same(loaded, Checkpoint({"model_name": "x"}, 0, CHECKPOINT.state_dict, {}))
    assert "nothing vouches" in caplog.text
    weights = CHECKPOINT.state_dict["w"].numpy().tobytes()
    path.write_bytes(path.read_bytes().replace(weights, weights[:-1] + b"\x41"))
    with pytest.raises(CheckpointError, match="CRC-32"):
        load_checkpoint(path, {"model_name": "x"})


def test_a_home_that_nobody_has(tmp_path, monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint("~no-such-user/c.pth")


class TestWriting:
    @pytest.mark.parametrize("step", ["torch.save", "os.fsync", "pathlib.Path.replace"])
    def test_the_old_one_is_there_until_the_new_one_is(self, tmp_path, monkeypatch, step):
        path = tmp_path / "c.pth"
        save_checkpoint(path, CHECKPOINT)

        def refuse(*arguments, **options):
            assert same(load_checkpoint(path))
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(step, refuse)
        with pytest.raises(WriteError, match=r"disk of .* is full"):
            save_checkpoint(path, Checkpoint({}, 1, {"w": torch.zeros(1)}, {}))
        monkeypatch.undo()
        assert same(load_checkpoint(path))
        assert [entry.name for entry in tmp_path.iterdir()] == ["c.pth"]

    def test_torch_says_nothing_of_the_disk(self, tmp_path, monkeypatch):
        def refuse(content, file):
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos")

        monkeypatch.setattr("torch.save", refuse)
        with pytest.raises(WriteError, match=r"c\.pth: cannot be written \(.enforce fail"):
            weights_file.write(tmp_path / "c.pth", {})
