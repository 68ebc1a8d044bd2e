"""Folders of shared models: whole, without paths, and refused where anything is not as written."""

import json
import random
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from MMSA_ext.errors import CheckpointError, ConfigError, WriteError
from MMSA_ext.training import model_folder
from tests.training.test_checkpoint import CHECKPOINT, same

TIED = torch.rand(3, 4)
WEIGHTS = CHECKPOINT.state_dict | {
    "tied": TIED,
    "again": TIED,
    "row": TIED[1],
    "half": torch.rand(2).half(),
    "empty": torch.zeros(0, 3),
    "flag": torch.tensor(True),
}
SAVED = replace(CHECKPOINT, state_dict=WEIGHTS, scaling={"audio": {"mean": [0.1, 1e-300, 1 / 3]}})


def write(folder, encoder=None, checkpoint=SAVED, **options):
    model_folder.write(
        folder, checkpoint, encoder=encoder, about={}, card=lambda facts: "card", **options
    )
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_encoder):
    """A folder, whose text encoder brought what must not go with it."""
    encoder = tmp_path_factory.mktemp("encoder") / "copy"
    shutil.copytree(tiny_encoder, encoder)
    (encoder / "notes.txt").write_text("mine")
    (encoder / "vocab.pkl").write_bytes(b"code")
    for name, key in (("config.json", "_name_or_path"), ("tokenizer_config.json", "auto_map")):
        content = json.loads((encoder / name).read_text()) | {key: str(encoder)}
        (encoder / name).write_text(json.dumps(content))
    return write(tmp_path_factory.mktemp("whole") / "model", encoder)


@pytest.fixture
def folder(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "model"))


def facts_of(folder):
    return json.loads((folder / "config.json").read_text())


def forged(folder, **changes):
    """Other facts with a digest that is right for them."""
    facts = facts_of(folder) | changes
    facts["digest"] = model_folder._digest(facts)
    (folder / "config.json").write_text(json.dumps(facts))


def test_what_was_saved_is_read_bit_for_bit(whole):
    checkpoint, encoder = model_folder.read(whole)
    assert same(checkpoint, SAVED)
    weights = checkpoint.state_dict
    assert weights["again"].data_ptr() == weights["tied"].data_ptr()
    assert "again" not in load_file(whole / "model.safetensors")
    assert encoder == whole / "text_encoder"


def test_it_is_strict_json_complete_and_of_no_machine(whole):
    text = (whole / "config.json").read_text()
    assert "NaN" not in text
    facts = json.loads(text)
    found = {path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file()}
    assert found == {*facts["files"], "config.json", "README.md"}
    assert set(model_folder.files(whole)) == found
    assert not found & {"text_encoder/notes.txt", "text_encoder/vocab.pkl"}
    for name in found - {"model.safetensors"}:
        content = (whole / name).read_text()
        assert str(whole.parents[1]) not in content
        assert "auto_map" not in content
    modes = {(whole / name).stat().st_mode for name in found}
    assert len(modes) == 1


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replaced(path):
    path.unlink()
    path.mkdir()


DAMAGES = {
    r"model\.safetensors: is damaged": lambda f: flipped(f / "model.safetensors"),
    r"model\.safetensors: is damaged: not": lambda f: cut(f / "model.safetensors"),
    r"model\.safetensors: is missing": lambda f: (f / "model.safetensors").unlink(),
    r"model\.safetensors: is no regular file": lambda f: replaced(f / "model.safetensors"),
    "a Git LFS pointer": lambda f: (f / "model.safetensors").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    ),
    r"vocab\.txt: is damaged": lambda f: flipped(f / "text_encoder/vocab.txt"),
    r"vocab\.txt: is missing": lambda f: (f / "text_encoder/vocab.txt").unlink(),
    r"added_tokens\.json: is no file of this model": lambda f: (
        f / "text_encoder/added_tokens.json"
    ).write_text('{"[X]": 60}'),
    r"config\.json: is damaged: no JSON": lambda f: cut(f / "config.json"),
    r"config\.json: is damaged: no JSON \(.*key 'seed' is there twice": lambda f: (
        f / "config.json"
    ).write_text((f / "config.json").read_text().replace('"seed"', '"seed": 1, "seed"', 1)),
    r"config\.json: is damaged: no JSON \(.*NaN is no number": lambda f: (
        f / "config.json"
    ).write_text((f / "config.json").read_text().replace("null", "NaN", 1)),
    "not what its digest was made of": lambda f: (f / "config.json").write_text(
        (f / "config.json").read_text().replace('"seed": 1111', '"seed": 1112')
    ),
    "a web page": lambda f: (f / "config.json").write_text("<!DOCTYPE html><html>"),
    "incomplete model: config.json is missing": lambda f: (f / "config.json").unlink(),
    # What a stranger makes, with a digest that fits.
    r"newer MMSA_ext \(format 2; this one reads 1\). Update": lambda f: forged(f, format_version=2),
    "format_version is no version": lambda f: forged(f, format_version="2"),
    "its files are not those of a model": lambda f: forged(
        f, files=facts_of(f)["files"] | {"../../etc/passwd": "0"}
    ),
    "its files are not those of a model$|of a model. Copy": lambda f: forged(f, files={}),
    "its files are not .*": lambda f: forged(f, tied_weights=["again"]),
    "tied_weights names 'w' wrongly": lambda f: forged(f, tied_weights={"w": "tied"}),
    "tied_weights names 'v' wrongly": lambda f: forged(f, tied_weights={"v": "x"}),
    "a multiple of its size": lambda f: forged(
        f, tied_weights={f"tied{i}": "tied" for i in range(99)}
    ),
    "'config' is list": lambda f: forged(f, config=[]),
    "'seed' is str": lambda f: forged(f, seed="1"),
    "'metrics' is missing|'metrics' is NoneType": lambda f: forged(f, metrics=None),
    "'metrics' has no metrics by split": lambda f: forged(f, metrics={"test": 0.5}),
    "'recipe' audio has no texts": lambda f: forged(f, recipe={"audio": {"name": "x"}}),
}


@pytest.mark.parametrize("said", DAMAGES)
def test_what_is_not_as_it_was_written_is_named(folder, said):
    DAMAGES[said](folder)
    with pytest.raises(CheckpointError, match=said) as error:
        model_folder.read(folder)
    assert str(error.value).startswith(str(folder))
    assert len(str(error.value)) < len(str(folder)) + 400


def with_file(folder, name, content):
    """A file of one's own, in the list of files."""
    (folder / name).write_bytes(content)
    digest = model_folder._sha256(folder / name)
    forged(folder, files=facts_of(folder)["files"] | {name: digest})


def test_code_of_an_encoder_is_not_asked_for(folder):
    content = json.loads((folder / "text_encoder/config.json").read_text())
    content["auto_map"] = {"AutoConfig": "evil.Config"}
    with_file(folder, "text_encoder/config.json", json.dumps(content).encode())
    with pytest.raises(CheckpointError, match="names code of its own"):
        model_folder.read(folder)


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x08" + bytes(7) + b"{}      "])
def test_weights_that_are_no_safetensors(folder, content):
    with_file(folder, "model.safetensors", content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: is damaged|tied_weights names"):
        model_folder.read(folder)


OTHERS = {
    "no such checkpoint": lambda f: None,
    "holds no model of MMSA_ext": lambda f: f.mkdir(),
    "is a folder of checkpoints; give one of them: a.pth": lambda f: with_names(f, "a.pth"),
    "is a folder of shards, which are features": lambda f: with_names(f, "part-00000.parquet"),
    "holds a text encoder of transformers": lambda f: with_names(
        f, "config.json", "model.safetensors", content='{"model_type": "bert"}'
    ),
    "holds no model of MMSA_ext.": lambda f: with_names(f, "config.json", content="{}"),
}


def with_names(folder, *names, content="x"):
    folder.mkdir()
    for name in names:
        (folder / name).write_text(content)


@pytest.mark.parametrize("said", OTHERS)
def test_a_folder_that_is_something_else_is_called_so(tmp_path, said):
    OTHERS[said](tmp_path / "other")
    with pytest.raises(CheckpointError, match=said):
        model_folder.read(tmp_path / "other")


class TestWriting:
    def test_an_earlier_model_stays_unless_asked(self, folder):
        before = facts_of(folder)
        with pytest.raises(ConfigError, match=r"holds a model already; .*--overwrite"):
            write(folder)
        assert facts_of(folder) == before
        other = replace(SAVED, seed=7)
        write(folder, checkpoint=other, overwrite=True)
        assert same(model_folder.read(folder)[0], other)
        assert not (folder / "text_encoder").exists()

    @pytest.mark.parametrize("name", [".git", "thesis.tex"])
    def test_nothing_else_is_ever_replaced(self, folder, name):
        (folder / name).write_text("mine")
        with pytest.raises(ConfigError, match=f"holds {name}, which is no part of a model"):
            write(folder, overwrite=True)
        (folder / name).unlink()
        (folder / "config.json").write_text("{}")
        with pytest.raises(ConfigError, match="It is not written over"):
            write(folder, overwrite=True)

    def test_a_file_or_an_empty_folder_in_its_place(self, tmp_path):
        (tmp_path / "file").write_text("mine")
        with pytest.raises(ConfigError, match="is there, and no folder"):
            write(tmp_path / "file", overwrite=True)
        (tmp_path / "empty").mkdir()
        assert same(model_folder.read(write(tmp_path / "empty"))[0], SAVED)
        assert same(model_folder.read(write(tmp_path / "a/b/new"))[0], SAVED)

    @pytest.mark.parametrize("step", ["shutil.copymode", "os.fsync", "pathlib.Path.rename"])
    def test_the_old_one_is_there_until_the_new_one_is(self, folder, monkeypatch, step):
        before, rename, calls = facts_of(folder), Path.rename, []

        def refuse(*arguments, **options):
            calls.append(arguments)
            if step == "pathlib.Path.rename" and len(calls) != 2:  # aside, and back
                return rename(*arguments)
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(step, refuse)
        with pytest.raises(WriteError, match=r"disk of .* is full"):
            write(folder, overwrite=True)
        monkeypatch.undo()
        assert facts_of(folder) == before
        assert same(model_folder.read(folder)[0], SAVED)
        assert [path.name for path in folder.parent.iterdir()] == ["model"]

    def test_a_full_disk(self, small_disk):
        large = replace(SAVED, state_dict={"w": torch.zeros(2**20)})
        with pytest.raises(WriteError, match="full"):
            write(small_disk / "model", checkpoint=large)
        assert [p.name for p in small_disk.iterdir() if p.name == "model"] == []

    def test_a_dtype_that_safetensors_lacks(self, tmp_path):
        odd = replace(SAVED, state_dict={"w": torch.zeros(2, dtype=torch.complex128)})
        with pytest.raises(CheckpointError, match=r"safetensors cannot hold torch\.complex128"):
            write(tmp_path / "model", checkpoint=odd)
        assert list(tmp_path.iterdir()) == []

    def test_a_copy_is_what_was_written(self, whole, tmp_path):
        model_folder.copy(whole, tmp_path / "copy")
        for name in model_folder.files(whole):
            assert (tmp_path / "copy" / name).read_bytes() == (whole / name).read_bytes()


def test_safetensors_of_others_are_read(folder):
    """Any writer of the format will do: what counts is the digest."""
    weights = load_file(folder / "model.safetensors")
    save_file(weights, folder / "model.safetensors", {"made": "elsewhere"})
    digest = model_folder._sha256(folder / "model.safetensors")
    forged(folder, files=facts_of(folder)["files"] | {"model.safetensors": digest})
    assert same(model_folder.read(folder)[0], SAVED)


def test_whatever_bytes_a_stranger_gives_the_answer_is_a_sentence(folder):
    """Of weights with a digest that fits, and of a `config.json` in which any byte is another."""
    draw, seen = random.Random(0), 0
    weights, facts = folder / "model.safetensors", folder / "config.json"
    whole, text = weights.read_bytes(), facts.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    for number in range(120):
        path, content = (weights, whole) if number % 2 else (facts, text)
        damaged = bytearray(content)
        for position in draw.sample(range(header if number % 2 else len(text)), draw.randint(1, 4)):
            damaged[position] ^= draw.randint(1, 255)
        weights.write_bytes(whole)
        facts.write_bytes(text)
        path.write_bytes(damaged)
        if path == weights:
            files = facts_of(folder)["files"]
            forged(folder, files=files | {weights.name: model_folder._sha256(weights)})
        with suppress(CheckpointError):
            model_folder.read(folder)
            continue
        seen += 1
    assert seen > 100
