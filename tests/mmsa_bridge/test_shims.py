"""Each shim is needed (MMSA fails without it) and sufficient (its models train with it)."""

import inspect
import logging
import pickle
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from easydict import EasyDict
from mmsa_toys import SMALL, WIDE, shim, without_shim, write_features
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from MMSA_ext import mmsa_bridge
from MMSA_ext.config.files import read_config
from MMSA_ext.errors import TrainingDivergedError

CPU = torch.device("cpu")


def test_every_shim_is_named_and_explained() -> None:
    names = [shim.name for shim in mmsa_bridge.SHIMS]
    assert len(set(names)) == len(names) == 16
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
        without_shim("define_results_before_logging", monkeypatch)
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
    def test_encoder_needs_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = import_module("MMSA.models.singleTask.BERT_MAG")
        seen: list[str] = []
        record = classmethod(lambda cls, name, **options: seen.append(name))
        monkeypatch.setattr(module.MAG_BertForSequenceClassification, "from_pretrained", record)
        monkeypatch.setattr(
            "MMSA_ext.mmsa_bridge.encoder_shims.load_weights",
            lambda kind, name, **options: kind.from_pretrained(name),
        )
        args = EasyDict(language="en", pretrained="folder")
        module.BERT_MAG(args)
        with shim("bert_mag_encoder"):
            module.BERT_MAG(args)
            module.BERT_MAG(EasyDict(language="cn"))
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
    assert run.predictions["test"].prediction.shape == (8,)


class TestMCTNWidth:
    """The file's text is 10 wide, its audio 5, its vision 4."""

    LENGTHS: ClassVar = {"need_data_aligned": False, "max_seq_len": 6}

    def test_needed(self, train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
        without_shim("mctn_width", monkeypatch)
        with pytest.raises(RuntimeError, match="Expected 768, got 10"):
            train("mctn", "mosi", **self.LENGTHS)

    def test_sufficient(self, train: Callable[..., mmsa_bridge.StockRun]) -> None:
        run = train("mctn", "mosi", **self.LENGTHS)
        assert run.model.Model.decoder1.output_dim == 10

    def test_sufficient_where_text_is_not_the_widest(
        self, train: Callable[..., mmsa_bridge.StockRun], tmp_path: Path
    ) -> None:
        path = write_features(tmp_path / "narrow.pkl", "mosi")
        content = np.load(path, allow_pickle=True)
        for split in content.values():
            split["text"] = split["text"][:, :, :3]
        path.write_bytes(pickle.dumps(content))
        run = train("mctn", "mosi", featurePath=str(path), **self.LENGTHS)
        assert run.model.Model.decoder1.output_dim == 5


class TestTFRNetTemporalHeads:
    """The file's sequences are 6, 9 and 7 long: no number of heads but 1 divides all."""

    SMALL_MODEL: ClassVar = {"dst_feature_dim_nheads": [6, 2], "nlevels": 1}

    def test_needed(
        self, train: Callable[..., Any], wide_encoder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without_shim("tfr_net_temporal_heads", monkeypatch)
        with pytest.raises(AssertionError, match="divisible by num_heads"):
            train("tfr_net", "sims", pretrained=str(wide_encoder), **self.SMALL_MODEL)

    def test_sufficient_and_said(
        self,
        train: Callable[..., mmsa_bridge.StockRun],
        wide_encoder: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        with caplog.at_level(logging.WARNING, "MMSA"):
            run = train("tfr_net", "sims", pretrained=str(wide_encoder), **self.SMALL_MODEL)
        assert run.metrics["test"]["Loss"] > 0
        assert "does not divide the lengths [6, 9, 7]; 1 is used" in caplog.text

    @pytest.mark.parametrize(("wanted", "used"), [(25, 25), (24, 5), (10, 5)])
    def test_largest_that_fits(
        self, stock_mmsa: None, monkeypatch: pytest.MonkeyPatch, wanted: int, used: int
    ) -> None:
        model = import_module("MMSA.models.missingTask.TFR_NET.model").TFR_NET
        monkeypatch.setattr(model, "__init__", lambda self, args: None)
        args = EasyDict(num_temporal_head=wanted, seq_lens=(50, 500, 375))
        with shim("tfr_net_temporal_heads"):
            model.__init__(None, args)
        assert args.num_temporal_head == used


@pytest.mark.parametrize(
    ("model", "dataset", "config"),
    [
        ("ef_lstm", "mosi", {}),
        ("mlf_dnn", "sims", {}),
        ("mtfn", "sims", {"hidden_dims": [4, 4, 4], "text_out": 4}),
        ("mlmf", "sims", {"hidden_dims": [4, 4, 4], "rank": 2}),
    ],
)
class TestBatchOfOne:
    """6 validation samples in batches of 5; 16 training samples leave 1 too, for ef_lstm."""

    def test_needed(
        self,
        model: str,
        dataset: str,
        config: dict[str, Any],
        train: Callable[..., Any],
        features: Callable[[str], Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        without_shim("batch_of_one", monkeypatch)
        path = self.path(model, dataset, tmp_path)
        with pytest.raises(RuntimeError, match="same number of dimensions"):
            train(model, dataset, batch_size=5, featurePath=str(path), **config)

    def test_sufficient(
        self,
        model: str,
        dataset: str,
        config: dict[str, Any],
        train: Callable[..., mmsa_bridge.StockRun],
        tmp_path: Path,
    ) -> None:
        path = self.path(model, dataset, tmp_path)
        run = train(model, dataset, batch_size=5, featurePath=str(path), **config)
        assert run.predictions["test"].prediction.shape == (8,)

    @staticmethod
    def path(model: str, dataset: str, folder: Path) -> Path:
        """15 training samples where batch normalisation forbids a batch of one."""
        path = write_features(folder / "features.pkl", dataset)
        content = np.load(path, allow_pickle=True)
        if model != "ef_lstm":
            content["train"] = {key: value[:15] for key, value in content["train"].items()}
        path.write_bytes(pickle.dumps(content))
        return path


class TestGraphMFNCheckpoint:
    def weights(self, train: Callable[..., Any], features: Callable[[str], Path]) -> Any:
        run = train("graph_mfn", "mosi")
        args = read_config("regression", "graph_mfn", "mosi")
        args.update(SMALL | {"featurePath": str(features("mosi"))})
        args = mmsa_bridge.complete_args(args, device=CPU, model_save_path="unused")
        torch.manual_seed(7)
        scored = mmsa_bridge.score_trained(args, run.model.state_dict())
        return run, scored["test"][1].prediction

    def test_needed(
        self,
        train: Callable[..., Any],
        features: Callable[[str], Path],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        without_shim("graph_mfn_checkpoint", monkeypatch)
        run, again = self.weights(train, features)
        assert not np.allclose(run.predictions["test"].prediction, again, atol=5e-7)

    def test_sufficient(self, train: Callable[..., Any], features: Callable[[str], Path]) -> None:
        run, again = self.weights(train, features)
        np.testing.assert_allclose(run.predictions["test"].prediction, again, atol=5e-7)

    def test_a_checkpoint_of_mmsa_alone_still_loads(
        self, train: Callable[..., Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        model = train("graph_mfn", "mosi").model
        weights = model.state_dict()
        alone = {key: value for key, value in weights.items() if ".node" not in key}
        assert len(alone) < len(weights)
        model.load_state_dict(alone)
        assert "they are random" in caplog.text

    def test_changes_no_number(
        self, train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with_shim = train("graph_mfn", "mosi")
        mmsa_bridge.unregister()
        without_shim("graph_mfn_checkpoint", monkeypatch)
        assert train("graph_mfn", "mosi").metrics == with_shim.metrics


class TestFileGaps:
    @pytest.fixture
    def gaps(self, tmp_path: Path) -> Callable[..., Path]:
        def write(change: Callable[[dict[str, Any]], object]) -> Path:
            path = write_features(tmp_path / "gaps.pkl", "mosi")
            content = np.load(path, allow_pickle=True)
            for split in content.values():
                change(split)
            path.write_bytes(pickle.dumps(content))
            return path

        return write

    @staticmethod
    def without_lengths(split: dict[str, Any]) -> None:
        split["audio"][:, 5:] = 0
        del split["audio_lengths"], split["vision_lengths"]

    @staticmethod
    def empty(split: dict[str, Any]) -> None:
        split["audio_lengths"][2] = 0

    @staticmethod
    def not_a_number(split: dict[str, Any]) -> None:
        split["vision"][1, 0, 0] = np.nan

    @pytest.mark.parametrize(
        ("gap", "error"),
        [
            ("without_lengths", (KeyError, "audio_lengths")),
            ("empty", (RuntimeError, "greater than 0")),
            ("not_a_number", (TrainingDivergedError, "non-finite")),
        ],
    )
    def test_needed_and_sufficient(
        self,
        gap: str,
        error: tuple[type[Exception], str],
        gaps: Callable[..., Path],
        train: Callable[..., mmsa_bridge.StockRun],
        narrow_encoder: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        options = {"featurePath": str(gaps(getattr(self, gap))), "pretrained": str(narrow_encoder)}
        assert train("self_mm", "mosi", **options).metrics["test"]["Loss"] > 0
        mmsa_bridge.unregister()
        without_shim("file_gaps", monkeypatch)
        with pytest.raises(error[0], match=error[1]):
            train("self_mm", "mosi", **options)

    def test_what_is_read(self, gaps: Callable[..., Path], patched_mmsa: None) -> None:
        """As `read_features` repairs it; NaN stays where MMSA makes a number of it."""

        def change(split: dict[str, Any]) -> None:
            self.without_lengths(split)
            self.not_a_number(split)

        def read(need_normalized: bool) -> Any:
            args = read_config("regression", "lf_dnn", "mosi")
            args.update(featurePath=str(gaps(change)), need_normalized=need_normalized)
            args = mmsa_bridge.complete_args(args, device=CPU, model_save_path="unused")
            return mmsa_bridge.stock_loaders(args)["valid"].dataset

        as_it_is, averaged = read(False), read(True)
        assert as_it_is.audio_lengths == [5] * 6
        assert as_it_is.vision_lengths == [7] * 6
        assert as_it_is.vision[1, 0, 0] == 0
        assert averaged.vision[1, 0, 0] == 0  # of a mean that is NaN
        assert averaged.vision[1, 0, 1] != 0


class TestUndefinedMetrics:
    LABELS = {  # noqa: RUF012
        "all 0": [0.0] * 4,
        "all 1": [1.0] * 4,
        "one sample": [0.5],
        "sound": [-1.0, 0.0, 0.5, 2.0],
    }

    @staticmethod
    def scored(dataset: str, labels: list[float]) -> dict[str, float]:
        from MMSA.utils import MetricsTop

        predictions = torch.linspace(-0.5, 0.7, len(labels))
        found = MetricsTop("regression").getMetics(dataset)(predictions, torch.tensor(labels))
        return {key: float(value) for key, value in found.items()}

    def test_needed(self, stock_mmsa: None) -> None:
        with pytest.raises(IndexError):
            self.scored("mosi", self.LABELS["all 0"])

    @pytest.mark.parametrize("kind", LABELS)
    @pytest.mark.parametrize("dataset", ["mosi", "sims"])
    @pytest.mark.filterwarnings("error::RuntimeWarning")
    def test_what_is_not_defined_is_nan(self, dataset: str, kind: str) -> None:
        with shim("undefined_metrics"):
            found = self.scored(dataset, self.LABELS[kind])
        undefined = {key for key, value in found.items() if np.isnan(value)}
        expected = set() if kind == "sound" else {"Corr"}
        if (dataset, kind) == ("mosi", "all 0"):
            expected |= {"Non0_acc_2", "Non0_F1_score"}
        assert undefined == expected

    @pytest.mark.filterwarnings("ignore::RuntimeWarning")
    @pytest.mark.parametrize("dataset", ["mosi", "sims"])
    def test_changes_no_number(self, dataset: str, stock_mmsa: None) -> None:
        for kind in ("all 1", "one sample", "sound"):
            alone = self.scored(dataset, self.LABELS[kind])
            with shim("undefined_metrics"):
                np.testing.assert_equal(self.scored(dataset, self.LABELS[kind]), alone)

    @pytest.mark.parametrize("model", ["lf_dnn", "self_mm"])
    def test_a_trained_run_ends_with_its_numbers(
        self,
        model: str,
        train: Callable[..., mmsa_bridge.StockRun],
        narrow_encoder: Path,
        tmp_path: Path,
    ) -> None:
        path = write_features(tmp_path / "zero.pkl", "mosi")
        content = np.load(path, allow_pickle=True)
        content["test"]["regression_labels"][:] = 0
        path.write_bytes(pickle.dumps(content))
        options = {"featurePath": str(path), "pretrained": str(narrow_encoder)}
        metrics = train(model, "mosi", **options).metrics["test"]
        assert np.isnan([metrics["Corr"], metrics["Non0_acc_2"]]).all()
        assert metrics["MAE"] == metrics["Loss"] > 0
