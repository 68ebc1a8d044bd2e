"""Each shim for text encoders is needed and sufficient."""

import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from easydict import EasyDict
from mmsa_toys import NARROW, SMALL, WIDE, shim, without_shim
from safetensors.torch import load_file, save_file
from transformers import BertTokenizer, DistilBertConfig, DistilBertModel

from MMSA_ext import mmsa_bridge
from MMSA_ext.config.files import read_config
from MMSA_ext.errors import TextEncoderError

CPU = torch.device("cpu")


class TestTFRNetEncoder:
    @pytest.mark.usefixtures("stock_mmsa")
    def test_needed_and_sufficient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = import_module("MMSA.models.missingTask.TFR_NET.model")
        seen: list[dict[str, Any]] = []

        def encoder(**options: Any) -> None:
            seen.append(options)
            raise InterruptedError

        monkeypatch.setattr(module, "BertTextEncoder", encoder)
        args = EasyDict(use_bert_finetune=True, pretrained="folder")
        with pytest.raises(InterruptedError):
            module.TFR_NET(args)
        with shim("tfr_net_encoder"), pytest.raises(InterruptedError):
            module.TFR_NET(args)
        assert module.BertTextEncoder is encoder
        assert [options.get("pretrained") for options in seen] == [None, "folder"]

    def test_trains(self, train: Callable[..., mmsa_bridge.StockRun], wide_encoder: Path) -> None:
        run = train(
            "tfr_net",
            "mosi",
            pretrained=str(wide_encoder),
            num_temporal_head=1,
            dst_feature_dim_nheads=[6, 2],
            nlevels=1,
        )
        assert run.metrics["test"]["Loss"] > 0


@pytest.mark.parametrize(
    ("model", "config"),
    [
        ("misa", {}),
        ("self_mm", {}),
        ("mmim", {"batch_size": 8}),
        ("bert_mag", {"need_data_aligned": False}),
        ("tfr_net", {"num_temporal_head": 1, "dst_feature_dim_nheads": [6, 2], "nlevels": 1}),
    ],
)
class TestEncoderWidth:
    def test_needed(
        self,
        model: str,
        config: dict[str, Any],
        train: Callable[..., Any],
        narrow_encoder: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        without_shim("encoder_width", monkeypatch)
        with pytest.raises(RuntimeError, match=r"(?i)size|shape|channels"):
            train(model, "mosi", pretrained=str(narrow_encoder), **config)

    def test_sufficient(
        self,
        model: str,
        config: dict[str, Any],
        train: Callable[..., mmsa_bridge.StockRun],
        narrow_encoder: Path,
    ) -> None:
        run = train(model, "mosi", pretrained=str(narrow_encoder), **config)
        assert run.metrics["test"]["Loss"] > 0

    def test_changes_nothing_at_768(
        self,
        model: str,
        config: dict[str, Any],
        train: Callable[..., mmsa_bridge.StockRun],
        wide_encoder: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        config = {**config, "early_stop": 0, "pretrained": str(wide_encoder)}
        with_shim = train(model, "mosi", **config)
        without_shim("encoder_width", monkeypatch)
        mmsa_bridge.unregister()
        without = train(model, "mosi", **config)
        assert with_shim.metrics == without.metrics
        state, expected = with_shim.model.state_dict(), without.model.state_dict()
        # `_float_tensor` of tfr_net holds whatever was in memory; it is never read.
        keys = [key for key in expected if not key.endswith("_float_tensor")]
        assert all(torch.equal(state[key], expected[key]) for key in keys)


class TestWhereTheWidthComesFrom:
    @pytest.mark.parametrize(
        ("named", "width"), [("narrow", NARROW), ("wide", WIDE), ("absent", WIDE), (None, WIDE)]
    )
    def test_loader(
        self,
        named: str | None,
        width: int,
        stock_mmsa: None,
        features: Callable[[str], Path],
        narrow_encoder: Path,
        wide_encoder: Path,
    ) -> None:
        """An encoder that is not named or not found is left at what MMSA says."""
        folders = {"narrow": narrow_encoder, "wide": wide_encoder, "absent": "no/such/folder"}
        args = read_config("regression", "self_mm", "mosi")
        args.update(SMALL | {"featurePath": str(features("mosi"))})
        del args["pretrained"]
        if named is not None:
            args.pretrained = str(folders[named])
        args = mmsa_bridge.complete_args(args, device=CPU, model_save_path="unused")
        before = torch.get_rng_state()
        mmsa_bridge.stock_loaders(args)
        assert args.feature_dims[0] == width
        assert torch.equal(torch.get_rng_state(), before)

    def test_models_without_tokens_keep_the_files_width(
        self, train: Callable[..., mmsa_bridge.StockRun], narrow_encoder: Path
    ) -> None:
        run = train("lf_dnn", "mosi", pretrained=str(narrow_encoder))
        assert run.model.Model.text_in == 10

    def test_a_width_that_is_told_stays(self, stock_mmsa: None, narrow_encoder: Path) -> None:
        """Self-MM's `text_out` is replaced only where it is MMSA's 768."""
        self_mm = import_module("MMSA.models.multiTask.SELF_MM").SELF_MM
        args = read_config("regression", "self_mm", "mosi")
        args.update(pretrained=str(narrow_encoder), feature_dims=[NARROW, 5, 4], text_out=20)
        with shim("encoder_width"):
            assert self_mm(args).post_text_layer_1.in_features == 20
            args.text_out = WIDE
            assert self_mm(args).post_text_layer_1.in_features == NARROW


@pytest.fixture(scope="module")
def other_kind(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Path:
    """A DistilBERT, which reads no segment ids."""
    folder = tmp_path_factory.mktemp("distilbert")
    config = DistilBertConfig(
        vocab_size=128, dim=NARROW, n_layers=1, n_heads=2, hidden_dim=8, max_position_embeddings=64
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        DistilBertModel(config).save_pretrained(folder)
    BertTokenizer(vocab=str(tiny_encoder / "vocab.txt")).save_pretrained(folder)
    return folder


class TestEncoderKind:
    @pytest.mark.usefixtures("stock_mmsa")
    def test_needed(self, other_kind: Path) -> None:
        """MMSA takes weights of another kind for none, and goes on with random ones."""
        encoder = import_module("MMSA.models.subNets.BertTextEncoder").BertTextEncoder
        saved = DistilBertModel.from_pretrained(other_kind).state_dict()
        words = saved["embeddings.word_embeddings.weight"]
        with shim("encoder_kind"):
            built = encoder(pretrained=str(other_kind)).model.state_dict()
        assert torch.equal(built["embeddings.word_embeddings.weight"], words)
        try:
            stock = encoder(pretrained=str(other_kind)).model.state_dict()
        except (RuntimeError, OSError, ValueError):
            return
        state = {key: value for key, value in stock.items() if key.startswith("encoder.")}
        assert not any(key.removeprefix("encoder.") in saved for key in state)

    @pytest.mark.usefixtures("stock_mmsa")
    def test_weights_that_are_missing(self, tiny_encoder: Path, tmp_path: Path) -> None:
        """MMSA goes on with random ones; the pooler, which it does not read, may be."""
        folder, lost = tmp_path / "encoder", "encoder.layer.0.output.dense.weight"
        shutil.copytree(tiny_encoder, folder)
        encoder = import_module("MMSA.models.subNets.BertTextEncoder").BertTextEncoder
        weights = load_file(folder / "model.safetensors")
        for name in ("pooler.dense.weight", lost):
            del weights[name]
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
            state = encoder(pretrained=str(folder)).model.state_dict()
            assert torch.equal(state[other := "embeddings.LayerNorm.bias"], weights[other])
            with shim("encoder_kind"):
                if name == lost:
                    with pytest.raises(TextEncoderError, match=f"lack 1 tensors .{lost}"):
                        encoder(pretrained=str(folder))
                else:
                    encoder(pretrained=str(folder))

    @pytest.mark.parametrize(
        ("model", "config"), [("self_mm", {}), ("misa", {}), ("mmim", {"batch_size": 8})]
    )
    def test_sufficient(
        self,
        model: str,
        config: dict[str, Any],
        train: Callable[..., mmsa_bridge.StockRun],
        other_kind: Path,
    ) -> None:
        run = train(model, "mosi", pretrained=str(other_kind), **config)
        assert run.metrics["test"]["Loss"] > 0
        assert any("transformer.layer" in key for key in run.model.state_dict())

    def test_a_frozen_one_gets_no_gradient(self, other_kind: Path, patched_mmsa: None) -> None:
        build = import_module("MMSA.models.subNets.BertTextEncoder").BertTextEncoder
        text = torch.ones(2, 3, 4)
        assert build(False, pretrained=str(other_kind))(text).requires_grad is False
        assert build(True, pretrained=str(other_kind))(text).requires_grad is True


@pytest.mark.parametrize("model", ["self_mm", "bert_mag", "tfr_net"])
def test_an_encoder_that_is_not_there_is_told(model: str, train: Callable[..., Any]) -> None:
    with pytest.raises(TextEncoderError, match="three ways to get one"):
        train(model, "mosi", pretrained="nobody/has-this")


class TestUnknownToken:
    def missing_tokens(
        self, features: Callable[[str], Path], pretrained: Path | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of tfr_net's incomplete text, and where tokens are missing."""
        args = read_config("regression", "tfr_net", "mosi")
        args.update(SMALL | {"featurePath": str(features("mosi"))})
        del args["pretrained"]
        if pretrained is not None:
            args.pretrained = str(pretrained)
        args = mmsa_bridge.complete_args(args, device=CPU, model_save_path="unused")
        dataset = mmsa_bridge.stock_loaders(args)["train"].dataset
        present = dataset.text_missing_mask.astype(bool)
        return dataset.text_m[:, 0], dataset.text[:, 1].astype(bool) & ~present

    def test_needed(
        self,
        train: Callable[..., Any],
        tiny_encoder: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        without_shim("unknown_token", monkeypatch)
        with pytest.raises(IndexError):  # its vocabulary has 64 entries
            train("tfr_net", "mosi", pretrained=str(tiny_encoder), dst_feature_dim_nheads=[6, 2])

    def test_sufficient(
        self,
        features: Callable[[str], Path],
        patched_mmsa: None,
        tiny_encoder: Path,
    ) -> None:
        stated, missing = self.missing_tokens(features, None)
        assert missing.any()
        assert set(stated[missing]) == {100}
        own, again = self.missing_tokens(features, tiny_encoder)
        np.testing.assert_array_equal(missing, again)
        assert set(own[missing]) == {1}
        np.testing.assert_array_equal(own[~missing], stated[~missing])
