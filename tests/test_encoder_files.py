"""The files of an encoder: damaged ones are named, missing ones are fetched once and in time."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizer

from MMSA_ext import encoder_files, mmsa_bridge, predict_file
from MMSA_ext.encoder_files import files_of
from MMSA_ext.errors import TextEncoderError
from MMSA_ext.registry import list_models, trains_in_mmsa
from MMSA_ext.text_encoders import (
    identity,
    load_config,
    load_text_encoder,
    load_tokenizer,
    load_weights,
    version,
)
from tests.conftest import tiny_config, train
from tests.fake_hub import hub, no_hub
from tests.models.hosts.variants import SIZES, TRAINING, read_by

NAME = "org/encoder"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 440473133\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>404</title></head></html>"


@pytest.fixture
def online(monkeypatch, tmp_path):
    """Switch to a hub and an empty cache."""

    def switch(address, cache="cache"):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / cache))
        monkeypatch.setattr(encoder_files, "_failures", {})

    return switch


@pytest.fixture
def copy(tiny_encoder, tmp_path):
    folder = tmp_path / "copied_encoder"
    shutil.copytree(tiny_encoder, folder)
    return folder


def test_which_files_a_part_is_made_of():
    names = [
        *("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "spiece.model"),
        *("pytorch_model.bin", "tf_model.h5", "onnx/model.onnx", "onnx/config.json", "README.md"),
    ]
    assert files_of("config", names) == ["config.json"]
    assert files_of("weights", names) == ["config.json", "pytorch_model.bin"]
    assert files_of("tokenizer", names) == sorted([*names[:5]])
    names += ["model.safetensors.index.json", "model-00001-of-00002.safetensors"]
    names += ["model-00002-of-00002.safetensors", "model.fp16-00001-of-00001.safetensors"]
    assert files_of("weights", names) == ["config.json", *sorted(names[10:13])]
    assert "model-00001-of-00002.safetensors" not in files_of(
        "weights", [*names, "model.safetensors"]
    )


class TestHub:
    def test_as_much_is_downloaded_as_transformers_would(self, tiny_encoder, online):
        more = {"tf_model__h5": b"x", "README__md": b"x", "flax_model__msgpack": b"x"}
        loads = [
            (AutoModel.from_pretrained, load_text_encoder),
            (AutoTokenizer.from_pretrained, load_tokenizer),
            (BertModel.from_pretrained, lambda name: load_weights(BertModel, name)),
            (BertConfig.from_pretrained, load_config),
        ]
        for number, (theirs, ours) in enumerate(loads):
            fetched = []
            for place, load in (("theirs", theirs), ("ours", ours)):
                with hub() as served:
                    served.add(NAME, tiny_encoder, **more)
                    online(served.address, f"{place}{number}")
                    load(NAME)
                    fetched.append(sorted(served.fetched))
            assert fetched[0] == fetched[1]

    def test_what_is_in_the_cache_needs_no_hub(self, tiny_encoder, online):
        with hub() as served:
            served.add(NAME, tiny_encoder)
            online(served.address)
            first = load_text_encoder(NAME)
            asked = len(served.requests)
            load_text_encoder(NAME)
            assert len(served.requests) == asked
            load_tokenizer(NAME)  # which is not there yet
            assert "tokenizer.json" in served.fetched
            asked = len(served.requests)
        for kind in ("closed", "silent"):
            with no_hub(kind) as address:
                online(address)
                began = time.perf_counter()
                again = load_text_encoder(NAME)
                load_tokenizer(NAME)
                load_tokenizer(NAME, BertTokenizer)
                load_weights(BertModel, NAME)
                assert time.perf_counter() - began < 3
        assert all(
            torch.equal(value, again.state_dict()[name])
            for name, value in first.state_dict().items()
        )

    def test_a_download_that_was_cut_off_is_completed(self, tiny_encoder, online):
        with hub() as served:
            served.add(NAME, tiny_encoder)
            online(served.address)
            folder = Path(load_config(NAME) and encoder_files.cached_folder(NAME))
            assert [path.name for path in folder.iterdir()] == ["config.json"]
            assert version(NAME) == folder.name[:12]  # the commit
            load_text_encoder(NAME)
            assert (folder / "model.safetensors").is_file()

    def test_a_repository_that_is_none(self, online, tiny_encoder):
        with hub() as served:
            online(served.address)
            with pytest.raises(TextEncoderError, match=r"does not give it .*NotFound"):
                load_tokenizer("org/no-such")
            served.files["org/page"] = {"README.md": b"# Nothing"}
            with pytest.raises(TextEncoderError, match=r"has no config\.json"):
                load_tokenizer("org/page")
        with pytest.raises(TextEncoderError, match="three ways"):
            load_tokenizer("no name & no folder")

    def test_a_deadline_holds_whatever_the_hub_does(self, online, monkeypatch):
        monkeypatch.setattr(encoder_files, "_DEADLINE_SECONDS", 0.2)
        with no_hub("silent") as address:
            online(address)
            began = time.perf_counter()
            for _ in range(5):  # once asked, it is not asked again
                with pytest.raises(TextEncoderError, match="no answer within"):
                    load_config("org/slow")
            assert time.perf_counter() - began < 1


OWN = [name for name in list_models() if not trains_in_mmsa(name)]
READERS = ["bert_mag", "misa", "mmim", "self_mm", "tfr_net", "self_mm_infoenh", "misa_infoenh"]


def run(model, path, encoder, folder):
    if model in OWN:
        config = tiny_config(model, encoder)
    else:
        config = read_by(model, TRAINING) | SIZES.get(model.removesuffix("_infoenh"), {})
    return train(model, path, folder, config=config | {"pretrained": str(encoder)})


@pytest.mark.parametrize("kind", ["closed", pytest.param("silent", marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", [*OWN, *READERS])
def test_without_network_every_model_says_so_in_time(
    model, kind, online, planted_file, tmp_path, recwarn
):
    with no_hub(kind) as address:
        online(address)
        began = time.perf_counter()
        with pytest.raises(TextEncoderError, match=r"nobody/has-this.*does not give it") as error:
            run(model, planted_file, "nobody/has-this", tmp_path)
        assert time.perf_counter() - began < 20
    assert address in str(error.value)


@pytest.fixture(scope="module")
def planted_file(tmp_path_factory):
    from tests.models.hosts.variants import write_features

    return write_features(tmp_path_factory.mktemp("planted") / "features.pkl", planted=True)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def as_bin(folder, content=None):
    """Weights in the form of `torch.save` in place of safetensors."""
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    if content is not None:
        (folder / "pytorch_model.bin").write_bytes(content)


def configure(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def without(folder, *beginnings):
    path = folder / "model.safetensors"
    weights = {k: v for k, v in load_file(path).items() if not k.startswith(beginnings)}
    save_file(weights, path, metadata={"format": "pt"})


class Executed:
    def __reduce__(self):
        return (print, ("executed",))


BROKEN = {
    "model.safetensors has .* bytes in place of": lambda f: cut(f / "model.safetensors"),
    "model.safetensors is a Git LFS": lambda f: (f / "model.safetensors").write_bytes(POINTER),
    "model.safetensors is a web page": lambda f: (f / "model.safetensors").write_bytes(PAGE),
    "model.safetensors is empty": lambda f: (f / "model.safetensors").write_bytes(b""),
    "model.safetensors is cut off": lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 99),
    "model.safetensors has no header": lambda f: (f / "model.safetensors").write_bytes(
        (5).to_bytes(8, "little") + b"[1,2]"
    ),
    "model.safetensors cannot be read": lambda f: (
        (f / "model.safetensors").unlink(),
        (f / "model.safetensors").symlink_to(f / "gone"),
    ),
    "pytorch_model.bin is a Git LFS": lambda f: as_bin(f, POINTER),
    "pytorch_model.bin is a web page": lambda f: as_bin(f, PAGE),
    "pytorch_model.bin is cut off": lambda f: (as_bin(f), cut(f / "pytorch_model.bin")),
    "copied_encoder: .*eights": lambda f: (
        as_bin(f),
        torch.save({"w": Executed()}, f / "pytorch_model.bin"),
    ),
    "copied_encoder: OSError": lambda f: (f / "model.safetensors").unlink(),
    "config.json is cut off": lambda f: (f / "config.json").write_bytes(b"no json"),
    "config.json is no valid JSON": lambda f: (f / "config.json").write_bytes(b"{'model_type': 1}"),
    "config.json is a web page": lambda f: (f / "config.json").write_bytes(PAGE),
    "lack 1 tensors .encoder.layer.1": lambda f: without(f, "encoder.layer.1.output.dense.weight"),
    "lack .*embeddings": lambda f: without(f, "embeddings."),
    "has shape .* in place of": lambda f: configure(f, hidden_size=32),
    "has shape .*64, 16. in place of .65, 16": lambda f: configure(f, vocab_size=65),
    "lack 16 tensors": lambda f: configure(f, num_hidden_layers=3),
}  # fmt: skip


@pytest.mark.parametrize("said", BROKEN)
def test_broken_weights_are_named(said, copy, capsys):
    BROKEN[said](copy)
    for load in (load_text_encoder, lambda name: load_weights(BertModel, name, spare=("pooler.",))):
        with pytest.raises(TextEncoderError, match=said) as error:
            load(str(copy))
        assert str(copy) in str(error.value)
        assert error.match(r"(?s)\[offline\].*local folder.*Hugging Face name")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "model", ["text_only", "self_mm", "bert_mag", "tfr_net", "self_mm_infoenh"]
)
@pytest.mark.parametrize("said", ["is a Git LFS", "lack 1 tensors", "has shape", "bytes in"])
def test_broken_weights_under_every_kind_of_model(said, model, copy, planted_file, tmp_path):
    BROKEN[next(key for key in BROKEN if said in key)](copy)
    with pytest.raises(TextEncoderError, match=said) as error:
        run(model, planted_file, copy, tmp_path / "out")
    assert str(copy) in str(error.value)


BROKEN_TOKENIZERS = {
    "vocab.txt is a Git LFS": lambda f: (f / "vocab.txt").write_bytes(POINTER),
    "tokenizer.json is cut off": lambda f: cut(f / "tokenizer.json"),
    "tokenizer_config.json is a web": lambda f: (f / "tokenizer_config.json").write_bytes(PAGE),
    "has no vocabulary": lambda f: ((f / "vocab.txt").unlink(), (f / "tokenizer.json").unlink()),
    "copied_encoder: ": lambda f: (f / "tokenizer.json").write_text('{"version": "1.0"}'),
}  # fmt: skip


@pytest.mark.parametrize("said", BROKEN_TOKENIZERS)
def test_broken_tokenizers_are_named(said, copy):
    if not (copy / "vocab.txt").exists():
        shutil.copy(copy / "tokenizer.json", copy / "vocab.txt")
    BROKEN_TOKENIZERS[said](copy)
    with pytest.raises(TextEncoderError, match=said) as error:
        load_tokenizer(str(copy))
    assert str(copy) in str(error.value)


def test_a_vocabulary_that_is_not_the_encoders_is_told(copy, caplog):
    load_tokenizer(str(copy))
    assert caplog.text == ""
    configure(copy, vocab_size=100)
    load_tokenizer(str(copy))
    assert "has 64 words, and config.json says that the encoder knows 100" in caplog.text


def test_weights_in_the_form_of_torch_load(copy):
    whole = load_text_encoder(str(copy)).state_dict()
    as_bin(copy)
    again = load_text_encoder(str(copy)).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_an_encoder_is_named_by_its_regular_files_alone(copy):
    name = identity(str(copy))
    os.mkfifo(copy / "pipe.bin")  # reading it would wait for ever
    (copy / "gone.json").symlink_to(copy / "nowhere")
    assert identity(str(copy)) == name
    (copy / "model.safetensors").unlink()
    os.mkfifo(copy / "model.safetensors")
    with pytest.raises(TextEncoderError, match=r"model\.safetensors is no regular file"):
        load_text_encoder(str(copy))


def test_files_that_are_not_read_may_be_anything(copy):
    (copy / "pytorch_model.bin").write_bytes(POINTER)  # beside whole safetensors
    (copy / "vocab.txt").write_bytes(PAGE)
    load_text_encoder(str(copy))


def test_a_pooler_is_missed_where_it_is_read(copy, planted_file, tmp_path):
    without(copy, "pooler.")
    assert not run("self_mm", planted_file, copy, tmp_path / "out").diverged
    with pytest.raises(TextEncoderError, match=r"lack 2 tensors .bert\.pooler"):
        run("bert_mag", planted_file, copy, tmp_path / "out")


def test_a_trained_model_of_mmsa_needs_no_weights_of_its_encoder(copy, planted_file, tmp_path):
    trained = run("self_mm", planted_file, copy, tmp_path / "out")
    want = predict_file(trained.checkpoint, planted_file, gpu_ids="cpu")
    (copy / "model.safetensors").unlink()
    found = predict_file(trained.checkpoint, planted_file, gpu_ids="cpu")
    assert found.prediction.tolist() == want.prediction.tolist()
    cut(copy / "tokenizer.json")
    with pytest.raises(TextEncoderError, match=r"tokenizer\.json is cut off"):
        predict_file(trained.checkpoint, planted_file, gpu_ids="cpu")
    assert mmsa_bridge.in_force()
