"""Each shim is needed (MMSA fails without it) and sufficient (its models train with it)."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from easydict import EasyDict
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import BertConfig, BertModel, BertTokenizer

from MMSA_ext import mmsa_bridge

CPU = torch.device("cpu")
SMALL = {"batch_size": 4, "early_stop": 1, "update_epochs": 2, "train_samples": 16}
WIDE = 768  # MMSA's loader states this width for every text encoder
NARROW = 16


@contextmanager
def shim(name: str) -> Iterator[None]:
    with ExitStack() as undo:
        next(shim for shim in mmsa_bridge.SHIMS if shim.name == name).apply(undo)
        yield


@pytest.fixture(scope="module")
def wide_encoder(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Path:
    return write_encoder(tmp_path_factory.mktemp("wide_encoder"), tiny_encoder, hidden_size=WIDE)


def write_encoder(folder: Path, tiny_encoder: Path, hidden_size: int) -> Path:
    size = {"hidden_size": hidden_size, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=128, intermediate_size=8, max_position_embeddings=64, **size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    BertTokenizer(vocab=str(tiny_encoder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def narrow_encoder(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Path:
    """As `tiny_encoder`, 16 wide, with the token 100 that tfr_net puts for a missing one."""
    folder = tmp_path_factory.mktemp("narrow_encoder")
    return write_encoder(folder, tiny_encoder, hidden_size=NARROW)


@pytest.fixture
def train(
    stock_mmsa: None, features: Callable[[str], Path], tmp_path: Path
) -> Callable[..., mmsa_bridge.StockRun]:
    def run(model: str, dataset: str, **config: Any) -> mmsa_bridge.StockRun:
        args = mmsa_bridge.read_config("regression", model, dataset)
        args.update(SMALL | {"featurePath": str(features(dataset))} | config)
        args = mmsa_bridge.complete_args(args, device=CPU, model_save_path=tmp_path / "m.pth")
        with mmsa_bridge.progress_bars(False):
            return mmsa_bridge.train_and_test(args, seed=1, also_predict=())

    return run


def test_every_shim_is_named_and_explained() -> None:
    names = [shim.name for shim in mmsa_bridge.SHIMS]
    assert len(set(names)) == len(names) == 8
    assert all(shim.reason.endswith(".") for shim in mmsa_bridge.SHIMS)


@pytest.mark.usefixtures("stock_mmsa")
class TestRunOnCPU:
    def test_needed(self) -> None:
        run = import_module("MMSA.run")
        assert "torch.cuda.set_device(args['device'])" in inspect.getsource(run.MMSA_run)
        with pytest.raises(ValueError, match="cuda"):
            run.torch.cuda.set_device(CPU)

    def test_sufficient_and_confined_to_mmsas_module(self) -> None:
        run = import_module("MMSA.run")
        with shim("run_on_cpu"):
            run.torch.cuda.set_device(CPU)
            assert run.torch.device is torch.device
            assert run.torch.cuda.is_available is torch.cuda.is_available
            with pytest.raises(ValueError, match="cuda"):
                torch.cuda.set_device(CPU)
        assert run.torch is torch


@pytest.mark.usefixtures("stock_mmsa")
class TestAcceptVerboseScheduler:
    @pytest.mark.parametrize(
        "module", ["singleTask.MULT", "singleTask.MMIM", "missingTask.TFR_NET"]
    )
    def test_needed(self, module: str) -> None:
        trainer = import_module(f"MMSA.trains.{module}")
        assert ", verbose=True" in inspect.getsource(trainer)
        assert trainer.ReduceLROnPlateau is ReduceLROnPlateau
        optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))])
        with pytest.raises(TypeError, match="verbose"):
            trainer.ReduceLROnPlateau(optimizer, verbose=True)
        with shim("accept_verbose_scheduler"):
            made = trainer.ReduceLROnPlateau(optimizer, mode="max", patience=3, verbose=True)
        assert (type(made), made.mode, made.patience) == (ReduceLROnPlateau, "max", 3)

    def test_sufficient_for_mult(self, train: Callable[..., mmsa_bridge.StockRun]) -> None:
        shape = {"dst_feature_dim_nheads": [4, 2], "nlevels": 1}
        kernels = {f"conv1d_kernel_size_{modality}": 1 for modality in "lav"}
        assert train("mult", "mosi", **shape, **kernels).metrics["test"]["Loss"] > 0

    def test_sufficient_for_mmim(
        self, train: Callable[..., mmsa_bridge.StockRun], wide_encoder: Path
    ) -> None:
        # From a third batch on mmim takes the log-determinant of a covariance, which needs
        # more samples than there are here.
        run = train("mmim", "mosi", pretrained=str(wide_encoder), batch_size=8)
        assert run.metrics["test"]["Loss"] > 0


@pytest.mark.parametrize("model", ["mlf_dnn", "mtfn", "mlmf"])
class TestDefineResultsBeforeLogging:
    SMALL_TENSORS: ClassVar = {"hidden_dims": [4, 4, 4], "text_out": 4, "rank": 2}

    def test_needed(
        self, model: str, train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        others = [s for s in mmsa_bridge.SHIMS if s.name != "define_results_before_logging"]
        monkeypatch.setattr("MMSA_ext.mmsa_bridge.shims.SHIMS", tuple(others))
        with pytest.raises(UnboundLocalError, match="train_results"):
            train(model, "sims", **self.SMALL_TENSORS)

    def test_sufficient(self, model: str, train: Callable[..., mmsa_bridge.StockRun]) -> None:
        run = train(model, "sims", **self.SMALL_TENSORS)
        assert run.best_epoch >= 1
        assert set(run.history[0].valid) == set(run.metrics["test"])

    def test_tracebacks_keep_their_line_numbers(self, model: str, stock_mmsa: None) -> None:
        name = model.upper()
        trainer = getattr(import_module(f"MMSA.trains.multiTask.{name}"), name)
        stock = trainer.do_train.__code__
        with shim("define_results_before_logging"):
            patched = trainer.do_train.__code__
        assert trainer.do_train.__code__ is stock
        assert patched.co_filename == stock.co_filename
        lines = [{line for *_, line in code.co_lines() if line} for code in (stock, patched)]
        assert lines[0] == lines[1]


def test_recompilation_refuses_another_version_of_mmsa() -> None:
    from MMSA_ext.mmsa_bridge import shims

    def do_train() -> None: ...

    with pytest.raises(RuntimeError, match=r"install MMSA==2\.2\.1"):
        shims._with_results_defined(do_train)


class TestMCTNDevice:
    def test_needed(self, stock_mmsa: None) -> None:
        module = import_module("MMSA.models.singleTask.MCTN")
        sizes = EasyDict(hid_dim=4, output_dim=10, max_seq_len=6, use_bert=False)
        with shim("mctn_device"):
            model = module.MCTN(sizes)
            assert model.seq2seq1.device == CPU
        assert model.seq2seq1.device == "cuda"

    def test_sufficient(self, train: Callable[..., mmsa_bridge.StockRun]) -> None:
        run = train("mctn", "mosi", need_data_aligned=False, output_dim=10, max_seq_len=6)
        assert run.metrics["test"]["Loss"] > 0


class TestBertMAG:
    @pytest.mark.usefixtures("stock_mmsa")
    def test_transformers_5_needs_it(self) -> None:
        model = import_module("MMSA.models.singleTask.BERT_MAG").MAG_BertModel
        assert "self.get_head_mask(" in inspect.getsource(model)
        assert not hasattr(model, "get_head_mask")
        assert not hasattr(model, "get_extended_attention_mask")

    @pytest.mark.usefixtures("stock_mmsa")
    def test_encoder_needs_it(self) -> None:
        module = import_module("MMSA.models.singleTask.BERT_MAG")
        seen: list[str] = []
        patch = pytest.MonkeyPatch()
        record = classmethod(lambda cls, name, **options: seen.append(name))
        patch.setattr(module.MAG_BertForSequenceClassification, "from_pretrained", record)
        args = EasyDict(language="en", pretrained="folder")
        module.BERT_MAG(args)
        with shim("bert_mag_encoder"):
            module.BERT_MAG(args)
            module.BERT_MAG(EasyDict(language="cn"))
        patch.undo()
        assert seen == ["bert-base-uncased", "folder", "bert-base-chinese"]

    def test_sufficient(
        self, train: Callable[..., mmsa_bridge.StockRun], wide_encoder: Path
    ) -> None:
        run = train("bert_mag", "sims", pretrained=str(wide_encoder))
        assert run.metrics["test"]["Loss"] > 0

    def test_masked_tokens_do_not_count(self, stock_mmsa: None, wide_encoder: Path) -> None:
        args = EasyDict(
            language="en",
            pretrained=str(wide_encoder),
            feature_dims=[WIDE, 5, 4],
            beta_shift=1,
            dropout_prob=0.0,
            device=CPU,
        )
        with shim("bert_mag_on_transformers_5"), shim("bert_mag_encoder"):
            model = import_module("MMSA.models.singleTask.BERT_MAG").BERT_MAG(args).eval()
            text = torch.zeros(1, 3, 6)
            text[0, 0], text[0, 1, :4] = torch.arange(5, 11), 1.0
            other = text.clone()
            other[0, 0, 4:] = 40
            audio, vision = torch.rand(1, 6, 5), torch.rand(1, 6, 4)
            first, second = (model(x, audio, vision)["M"] for x in (text, other))
        torch.testing.assert_close(first, second)


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
        others = [s for s in mmsa_bridge.SHIMS if s.name != "encoder_width"]
        monkeypatch.setattr("MMSA_ext.mmsa_bridge.shims.SHIMS", tuple(others))
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
        others = [s for s in mmsa_bridge.SHIMS if s.name != "encoder_width"]
        monkeypatch.setattr("MMSA_ext.mmsa_bridge.shims.SHIMS", tuple(others))
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
        args = mmsa_bridge.read_config("regression", "self_mm", "mosi")
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
        args = mmsa_bridge.read_config("regression", "self_mm", "mosi")
        args.update(pretrained=str(narrow_encoder), feature_dims=[NARROW, 5, 4], text_out=20)
        with shim("encoder_width"):
            assert self_mm(args).post_text_layer_1.in_features == 20
            args.text_out = WIDE
            assert self_mm(args).post_text_layer_1.in_features == NARROW


@pytest.mark.parametrize(
    ("model", "config"),
    [
        ("ef_lstm", {}),
        ("tfn", {"hidden_dims": [4, 4, 4], "text_out": 4}),
        ("lmf", {}),
        ("mfn", {}),
        ("graph_mfn", {}),
        ("mfm", {}),
        ("misa", {}),
    ],
)
def test_models_that_need_only_the_cpu_shim(
    model: str,
    config: dict[str, Any],
    train: Callable[..., mmsa_bridge.StockRun],
    wide_encoder: Path,
) -> None:
    run = train(model, "sims", pretrained=str(wide_encoder), **config)
    assert run.predictions["test"].predictions.shape == (8,)
