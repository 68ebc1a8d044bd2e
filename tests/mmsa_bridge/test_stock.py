import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmsa_toys import SIZES, run_python
from torch import nn

from MMSA_ext import MMSA_run, mmsa_bridge
from MMSA_ext.config.files import read_config
from MMSA_ext.data.features import read_features
from MMSA_ext.errors import ConfigError, FeatureFileError, TrainingDivergedError
from MMSA_ext.training.checkpoint import load_checkpoint

CPU = torch.device("cpu")
SEEDS = [1111, 1112]
LF_DNN = {"batch_size": 4, "early_stop": 2}

MULT = {"dst_feature_dim_nheads": [8, 2], "nlevels": 1, "update_epochs": 2} | {
    f"conv1d_kernel_size_{modality}": 1 for modality in "lav"
}

CASES = [
    (model, dataset) for model in ("lf_dnn", "self_mm", "mult") for dataset in ("mosi", "sims")
]

UNPATCHED_SCRIPT = """
    import json, sys, torch
    import MMSA.run

    # All that MMSA needs on a CPU and current torch for these models.
    torch.cuda.set_device = lambda device: None
    mult = sys.modules["MMSA.trains.singleTask.MULT"]
    plateau = mult.ReduceLROnPlateau
    mult.ReduceLROnPlateau = lambda *args, verbose, **options: plateau(*args, **options)
    results, run = [], MMSA.run._run
    MMSA.run._run = lambda *args: results.append(run(*args)) or results[-1]
    cases, seeds, folder = json.loads(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
    for model, dataset, config in cases:
        MMSA.run.MMSA_run(
            model, dataset, config=config, seeds=seeds, num_workers=0, verbose_level=0,
            model_save_dir=folder, res_save_dir=folder, log_dir=folder,
        )
    assert "MMSA_ext" not in sys.modules
    with open(f"{folder}/results.json", "w") as file:
        json.dump([list(result.items()) for result in results], file, default=float)
"""


def arguments(model: str, dataset: str, folder: Path, config: dict[str, Any]) -> Any:
    args = read_config("regression", model, dataset)
    args.update(config)
    return mmsa_bridge.complete_args(args, device=CPU, model_save_path=folder / "model.pth")


@pytest.fixture
def run_lf_dnn(
    patched_mmsa: None, features: Callable[[str], Path], tmp_path: Path
) -> Callable[..., mmsa_bridge.StockRun]:
    def run(seed: int = 1111, dataset: str = "mosi", **options: Any) -> mmsa_bridge.StockRun:
        config = {**LF_DNN, "featurePath": str(features(dataset)), **options.pop("config", {})}
        args = arguments("lf_dnn", dataset, tmp_path, config)
        with mmsa_bridge.progress_bars(False):
            return mmsa_bridge.train_and_test(args, seed=seed, **options)

    return run


@pytest.fixture(scope="module")
def unpatched(
    features: Callable[[str], Path],
    tiny_encoder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, str], tuple[dict[str, Any], list[Any], Path]]:
    """Configuration, metrics by seed and last weights of a case, from MMSA without this package."""
    folder = tmp_path_factory.mktemp("unpatched")
    configs = [{**LF_DNN, "featurePath": str(features(dataset))} for _, dataset in CASES]
    for (model, _), config in zip(CASES, configs, strict=True):
        if model == "self_mm":
            config |= {"pretrained": str(tiny_encoder), "text_out": 16, "train_samples": 16}
        if model == "mult":
            config |= MULT
    cases = [[*case, config] for case, config in zip(CASES, configs, strict=True)]
    run_python(UNPATCHED_SCRIPT, json.dumps(cases), json.dumps(SEEDS), folder)
    results = json.loads((folder / "results.json").read_text())

    def get(model: str, dataset: str) -> tuple[dict[str, Any], list[Any], Path]:
        i = CASES.index((model, dataset))
        by_seed = results[i * len(SEEDS) : (i + 1) * len(SEEDS)]
        return configs[i], by_seed, folder / f"{model}-{dataset}.pth"

    return get


@pytest.mark.usefixtures("patched_mmsa")
@pytest.mark.parametrize(("model", "dataset"), CASES)
def test_equals_unpatched_mmsa_bit_for_bit(
    model: str, dataset: str, unpatched: Callable[..., Any], tmp_path: Path
) -> None:
    config, expected, stock_checkpoint = unpatched(model, dataset)
    for seed, stock in zip(SEEDS, expected, strict=True):
        run = mmsa_bridge.train_and_test(arguments(model, dataset, tmp_path, config), seed=seed)
        assert list(run.metrics["test"].items()) == [(key, value) for key, value in stock]
    assert_equal_weights(torch.load(tmp_path / "model.pth"), torch.load(stock_checkpoint))
    assert dict(expected[0]) != dict(expected[1])  # the seed matters, so equality says something


def assert_equal_weights(ours: dict[str, torch.Tensor], stock: dict[str, torch.Tensor]) -> None:
    assert list(ours) == list(stock)
    # `_float_tensor` of MMSA's transformer holds whatever was in memory; it is never read.
    read = [key for key in stock if not key.endswith("_float_tensor")]
    assert all(torch.equal(ours[key], stock[key]) for key in read)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "dataset"), CASES)
def test_the_runner_equals_unpatched_mmsa_bit_for_bit(
    model: str,
    dataset: str,
    unpatched: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """Through `MMSA_run`: checks of the file, predictions of all splits, records, tables."""
    config, expected, stock_checkpoint = unpatched(model, dataset)
    folders: dict[str, Any] = dict.fromkeys(("model_save_dir", "res_save_dir", "log_dir"), tmp_path)
    results = MMSA_run(
        model, dataset, config=config, seeds=SEEDS, gpu_ids="cpu", num_workers=0, verbose_level=0,
        **folders,
    )  # fmt: skip
    for result, stock in zip(results.seeds, expected, strict=True):
        assert list(result.metrics.items()) == [(key, value) for key, value in stock]
    assert results.seeds[-1].checkpoint is not None
    ours = load_checkpoint(results.seeds[-1].checkpoint).state_dict
    assert_equal_weights(ours, torch.load(stock_checkpoint))


def test_splits_are_predicted_by_sample_in_file_order(
    run_lf_dnn: Callable[..., mmsa_bridge.StockRun], features: Callable[[str], Path]
) -> None:
    run = run_lf_dnn()
    content = np.load(features("mosi"), allow_pickle=True)
    scores = mmsa_bridge.metrics("mosi")
    for split, n in SIZES.items():
        samples = run.predictions[split]
        assert samples.ids == content[split]["id"]
        assert samples.prediction.shape == (n,)
        np.testing.assert_array_equal(samples.label, content[split]["regression_labels"])
        again = scores(samples.prediction, samples.label)
        assert again == {key: v for key, v in run.metrics[split].items() if key != "Loss"}
        assert all(type(value) is float for value in run.metrics[split].values())


def test_predictions_are_those_of_the_returned_model(
    run_lf_dnn: Callable[..., mmsa_bridge.StockRun], features: Callable[[str], Path]
) -> None:
    run = run_lf_dnn()
    split = np.load(features("mosi"), allow_pickle=True)["test"]
    text, audio, vision = (torch.tensor(split[key]) for key in ("text", "audio", "vision"))
    run.model.eval()
    with torch.no_grad():
        output = run.model(text, audio.mean(1, keepdim=True), vision.mean(1, keepdim=True))["M"]
    np.testing.assert_allclose(run.predictions["test"].prediction, output[:, 0], atol=1e-6)


def test_history_has_every_epoch_and_the_chosen_one(
    run_lf_dnn: Callable[..., mmsa_bridge.StockRun],
) -> None:
    seen: list[tuple[mmsa_bridge.StockEpoch, nn.Module]] = []
    run = run_lf_dnn(config={"early_stop": 3}, on_epoch=lambda *given: seen.append(given))
    assert seen == [(record, run.model) for record in run.history]
    assert [record.epoch for record in run.history] == list(range(1, run.best_epoch + 4))
    losses = [record.valid["Loss"] for record in run.history]
    assert losses.index(min(losses)) + 1 == run.best_epoch
    assert set(run.history[0].train) == set(run.history[0].valid) - {"Loss"}
    assert all(record.seconds > 0 for record in run.history)


@pytest.mark.parametrize("cap", [1, 2])
def test_a_cap_ends_the_same_run_earlier(
    cap: int, run_lf_dnn: Callable[..., mmsa_bridge.StockRun]
) -> None:
    run, whole = run_lf_dnn(config={"num_epochs": cap}), run_lf_dnn(config={"num_epochs": None})
    assert len(whole.history) > cap
    assert [e.valid for e in run.history] == [e.valid for e in whole.history[:cap]]
    assert [e.train for e in run.history] == [e.train for e in whole.history[:cap]]


def test_patience_may_end_a_run_before_its_cap(
    run_lf_dnn: Callable[..., mmsa_bridge.StockRun],
) -> None:
    run, whole = run_lf_dnn(config={"num_epochs": 99}), run_lf_dnn()
    assert len(run.history) == len(whole.history) == run.best_epoch + LF_DNN["early_stop"]
    assert run.metrics == whole.metrics


def test_what_else_is_predicted_does_not_change_the_run(
    run_lf_dnn: Callable[..., mmsa_bridge.StockRun],
) -> None:
    run_lf_dnn(splits=("test",))
    stream = torch.rand(1), np.random.rand(), random.random()
    run = run_lf_dnn(splits=("valid", "test"))
    assert set(run.metrics) == {"test", "valid"}
    assert (torch.rand(1), np.random.rand(), random.random()) == stream


def test_no_hook_and_no_wrapper_stays_behind(
    run_lf_dnn: Callable[..., mmsa_bridge.StockRun],
) -> None:
    assert not run_lf_dnn().model._forward_hooks


def untrained(trainer: Any, model: nn.Module, loaders: Any, **options: Any) -> None:
    """What MMSA's trainers of accumulated gradients do with too few batches."""
    torch.optim.Adam(model.parameters()).zero_grad()
    for batch in loaders["train"]:
        model(batch["text"], batch["audio"], batch["vision"])
    trainer.do_test(model, loaders["valid"])
    torch.save(model.state_dict(), trainer.args.model_save_path)


class TestDivergence:
    @pytest.mark.parametrize("dataset", ["mosi", "sims"])
    def test_non_finite_predictions(
        self, dataset: str, run_lf_dnn: Callable[..., Any], tmp_path: Path
    ) -> None:
        stale = tmp_path / "model.pth"
        stale.write_bytes(b"weights of another run")
        with pytest.raises(TrainingDivergedError, match=r"non-finite in epoch 1; lower the"):
            run_lf_dnn(dataset=dataset, config={"learning_rate": float("inf")})
        assert not stale.exists()

    def test_non_finite_predictions_on_the_test_split(
        self, run_lf_dnn: Callable[..., Any], features: Callable[[str], Path]
    ) -> None:
        for dataset in ("mosi", "sims"):
            read = read_features(features(dataset), dataset)
            read.splits["test"].text[0] = np.inf  # of a file, the reading refuses it
            with (
                mmsa_bridge.provided_features(read),
                pytest.raises(TrainingDivergedError, match="non-finite on the test split"),
            ):
                run_lf_dnn(dataset=dataset)

    def test_never_better_than_the_start(
        self, run_lf_dnn: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "model.pth").write_bytes(b"weights of another run")
        from MMSA.trains.singleTask import LF_DNN

        worse = {"Corr": -0.5, "Loss": 1.0}
        monkeypatch.setattr(LF_DNN, "do_test", lambda *args, **options: dict(worse))
        with pytest.raises(TrainingDivergedError, match=r"no epoch of 2 reached .* Corr"):
            run_lf_dnn(config={"KeyEval": "Corr"})

    def test_no_optimizer_made_a_step(
        self, run_lf_dnn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from MMSA.trains.singleTask import LF_DNN

        monkeypatch.setattr(LF_DNN, "do_train", untrained)
        with pytest.raises(TrainingDivergedError, match=r"no optimizer made a step.*untrained"):
            run_lf_dnn()

    def test_other_errors_are_passed_on(self, run_lf_dnn: Callable[..., Any]) -> None:
        def fail(record: mmsa_bridge.StockEpoch, model: nn.Module) -> None:
            raise ValueError("from the callback")

        with pytest.raises(ValueError, match="from the callback"):
            run_lf_dnn(on_epoch=fail)


@pytest.mark.usefixtures("patched_mmsa")
class TestLoaders:
    def test_they_have_the_files_samples_and_shapes(
        self, features: Callable[[str], Path], tmp_path: Path
    ) -> None:
        config = {"featurePath": str(features("mosi"))}
        args = arguments("lf_dnn", "mosi", tmp_path, config)
        loaders = mmsa_bridge.stock_loaders(args)
        assert {name: len(loader.dataset) for name, loader in loaders.items()} == SIZES
        assert args.feature_dims == [10, 5, 4]

    def test_mmsas_data_set_never_changes_what_was_read(
        self, features: Callable[[str], Path], tmp_path: Path
    ) -> None:
        path = features("sims")
        args = arguments("lf_dnn", "sims", tmp_path, {"featurePath": str(path)})
        args.update(data_missing=True, missing_rate=[0.5] * 3, missing_seed=[1] * 3, use_bert=True)
        shared, untouched = read_features(path, "sims"), read_features(path, "sims")
        with mmsa_bridge.provided_features(shared):
            mmsa_bridge.stock_loaders(args)
        for name, split in untouched.splits.items():
            for key, value in vars(split).items():
                np.testing.assert_equal(getattr(shared.splits[name], key), value, err_msg=key)

    def test_hostile_feature_file_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "hostile.pkl"
        path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
        args = arguments("lf_dnn", "mosi", tmp_path, {"featurePath": str(path)})
        with pytest.raises(FeatureFileError, match="system"):
            mmsa_bridge.stock_loaders(args)


@pytest.mark.usefixtures("patched_mmsa")
def test_metrics_are_mmsas_as_floats() -> None:
    from MMSA.utils import MetricsTop

    pred, true = torch.tensor([-0.4, 0.2, 0.9]), torch.tensor([-1.0, 0.2, 0.5])
    for dataset in ("mosi", "mosei", "sims"):
        stock = MetricsTop("regression").getMetics(dataset)(pred, true)
        ours = mmsa_bridge.metrics(dataset)(pred, true)
        assert list(ours.items()) == [(key, float(value)) for key, value in stock.items()]
        assert all(type(value) is float for value in ours.values())
    with pytest.raises(ConfigError, match="did you mean mosi"):
        mmsa_bridge.metrics("mosy")


def test_complete_args_copies(tmp_path: Path) -> None:
    given = {"feature_dims": [1, 2, 3], "nested": {"a": 1}}
    args = mmsa_bridge.complete_args(given, device=CPU, model_save_path="x.pth", feature_T="t.pkl")
    args.feature_dims[0] = 9
    assert given["feature_dims"] == [1, 2, 3]
    assert (args.nested.a, args.train_mode, args.cur_seed) == (1, "regression", 1)
    assert (args.feature_T, args.feature_A, args.custom_feature) == ("t.pkl", None, None)


def test_training_says_nothing_outside_the_log(
    run_lf_dnn: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    logging.getLogger("MMSA").setLevel(logging.WARNING)
    run_lf_dnn()
    assert capfd.readouterr() == ("", "")
