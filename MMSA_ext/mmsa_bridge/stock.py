"""MMSA's own parts for our runner, and one seed of one of MMSA's own models, exactly as MMSA does.

`train_and_test` keeps MMSA's order of operations (`MMSA.run._run`), batches, shuffle and random
stream, so that a baseline through it gives bit for bit what MMSA gives.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from easydict import EasyDict
from torch import Tensor, nn
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.data import DataLoader

from MMSA_ext import mmsa_files
from MMSA_ext.data.predictions import Predictions
from MMSA_ext.datasets import Dataset, get_dataset
from MMSA_ext.errors import ConfigError, TrainingDivergedError, suggest
from MMSA_ext.files import write_error
from MMSA_ext.mmsa_bridge.data_sets import data_set, scored_by
from MMSA_ext.mmsa_bridge.feature_reading import features_for, provided_features
from MMSA_ext.mmsa_bridge.networks import build_model, trained_model
from MMSA_ext.mmsa_bridge.recording import (
    EvaluationRecorder,
    Metrics,
    MetricsFunction,
    PredictionRecorder,
    StockEpoch,
)
from MMSA_ext.mmsa_bridge.registration import registered
from MMSA_ext.mmsa_bridge.runtime import preserved_random_state, setup_seed
from MMSA_ext.names import SPLITS

# Where the class is not called as the model in capitals.
_CLASS_NAMES = {"graph_mfn": "Graph_MFN"}

# In every error of `torch.save`, which says nothing of a full disk.
_TORCH_WRITER = "inline_container"

_TEST_MODES = {"train": "TRAIN", "valid": "VALID", "test": "TEST"}


@dataclass(frozen=True)
class StockRun:
    """What one seed of one of MMSA's models gave.

    Attributes:
        metrics: By split, in MMSA's keys, order and units; `test` is MMSA's one scoring of it.
        predictions: By split, in file order.
        history: One record an epoch.
        best_epoch: The epoch whose weights were tested.
        model: The model with those weights.
    """

    metrics: dict[str, Metrics]
    predictions: dict[str, Predictions]
    history: list[StockEpoch]
    best_epoch: int
    model: nn.Module


def complete_args(
    args: Mapping[str, Any],
    *,
    device: torch.device,
    model_save_path: str | Path,
    custom_feature: str | Path | None = None,
    feature_T: str | Path | None = None,  # noqa: N803 (MMSA's names)
    feature_A: str | Path | None = None,  # noqa: N803
    feature_V: str | Path | None = None,  # noqa: N803
    cur_seed: int = 1,
) -> EasyDict:
    """A configuration plus the keys that `MMSA_run` adds before it trains.

    Args:
        args: Configuration of a model on a data set; stays as it is.
        device: Where to train.
        model_save_path: File that receives the best weights.
        custom_feature: Feature file in place of the configured one, or None.
        feature_T: Feature file whose text is used, or None.
        feature_A: Feature file whose audio is used, or None.
        feature_V: Feature file whose vision is used, or None.
        cur_seed: Position of the seed in the list of seeds, from 1; shown in log lines.

    Returns:
        A copy; MMSA's loader, models and trainers write into it.
    """
    complete = EasyDict(copy.deepcopy(dict(args)))
    complete.update(
        device=device,
        model_save_path=Path(model_save_path),
        train_mode="regression",
        custom_feature=custom_feature,
        feature_T=feature_T,
        feature_A=feature_A,
        feature_V=feature_V,
        cur_seed=cur_seed,
    )
    return complete


def model_class(name: str) -> type[nn.Module]:
    """MMSA's class of one of its own models.

    Raises:
        ConfigError: If MMSA has no such model.
    """
    module, known = import_module("MMSA.models.AMIO"), mmsa_files.models()
    if name not in known:
        raise ConfigError(f"MMSA has no model {name!r}; {suggest(name, known)}")
    found: type[nn.Module] = getattr(module, _CLASS_NAMES.get(name, name.upper()))
    return found


def trainer_class(name: str) -> type:
    """MMSA's trainer of one of its own models.

    Raises:
        ConfigError: If MMSA has no such model.
    """
    trainers = vars(import_module("MMSA.trains.ATIO").ATIO())["TRAIN_MAP"]
    if name not in trainers:
        raise ConfigError(f"MMSA has no model {name!r}; {suggest(name, sorted(trainers))}")
    found: type = trainers[name]
    return found


def build_trainer(args: EasyDict) -> Any:
    """The trainer of `args.model_name`, with MMSA's `do_train` and `do_test`."""
    with registered():
        return import_module("MMSA.trains.ATIO").ATIO().getTrain(args)


def stock_loaders(args: EasyDict, num_workers: int = 0) -> dict[str, DataLoader[Any]]:
    """MMSA's loaders of the three splits, all shuffled; each feature file is read once.

    Writes the found `feature_dims` and `seq_lens` into `args`, as MMSA does.

    Raises:
        FeatureFileError: If a feature file is unsafe, damaged or has problems.
    """
    with registered(), provided_features(features_for(args)):
        loaders: dict[str, DataLoader[Any]] = import_module("MMSA.data_loader").MMDataLoader(
            args, num_workers
        )
    return loaders


def metrics(dataset: Dataset | str) -> MetricsFunction:
    """The regression metrics of a data set, MMSA's own or generic ones, as plain floats.

    Args:
        dataset: The data set, or the name of one that is known, any case.

    Returns:
        Function of predictions and labels, float tensors of n elements each, to metrics in MMSA's
        keys and order (without `Loss`).

    Raises:
        ConfigError: If there is no data set of this name.
    """
    top = import_module("MMSA.utils.metricsTop").MetricsTop("regression")
    evaluate = scored_by(get_dataset(dataset) if isinstance(dataset, str) else dataset, top)

    def plain(predictions: Tensor, labels: Tensor) -> Metrics:
        return _plain(evaluate(predictions, labels))

    return plain


def train_and_test(
    args: EasyDict,
    *,
    seed: int,
    num_workers: int = 0,
    splits: Collection[str] = SPLITS,
    on_epoch: Callable[[StockEpoch, nn.Module], None] | None = None,
) -> StockRun:
    """Train a model with MMSA's loaders and trainer, and score each of some splits once.

    A file at `args.model_save_path` is removed first, so that another run's weights can never be
    tested. The best weights are there afterwards.

    Args:
        args: From `complete_args`; changed by MMSA's parts. `num_epochs`, which MMSA does not know,
            ends its loop after that epoch; absent or None, patience alone does.
        seed: Seed of all random streams.
        num_workers: Worker processes of each loader; does not change the numbers.
        splits: Splits to predict and score with the best weights: `test` as MMSA does, then the
            others, in file order, which leaves the random streams as they were.
        on_epoch: Called after each epoch with its record and the model.

    Returns:
        Metrics, predictions, history and the model.

    Raises:
        TrainingDivergedError: If predictions became non-finite, no optimizer made a step, or no
            epoch was better than MMSA's starting value, so that there are no weights to test.
        WriteError: If the disk refuses the weights.
    """
    checkpoint = Path(args.model_save_path)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.unlink(missing_ok=True)
    if torch.device(args.device).type == "cuda":
        torch.cuda.set_device(args.device)  # as MMSA: some of its parts use the current device
    with registered():
        setup_seed(seed)
        loaders = stock_loaders(args, num_workers)
        model = build_model(args).to(args.device)
        trainer = build_trainer(args)
        recorder = PredictionRecorder()
        hook = recorder.attach(model)
        try:
            evaluations = _train(trainer, model, args, loaders, recorder, on_epoch)
            best_epoch = evaluations.best_epoch(args.KeyEval)
            _load_best(model, args)
            scored = {}
            if "test" in splits:
                scored["test"] = _evaluate(trainer, model, "test", loaders["test"], recorder)
            with preserved_random_state():
                for split in (name for name in splits if name != "test"):
                    loader = _in_file_order(loaders[split])
                    scored[split] = _evaluate(trainer, model, split, loader, recorder)
        finally:
            hook.remove()
    return StockRun(
        metrics={split: values for split, (values, _) in scored.items()},
        predictions={split: samples for split, (_, samples) in scored.items()},
        history=evaluations.history,
        best_epoch=best_epoch,
        model=model,
    )


def score_trained(
    args: EasyDict, state_dict: Mapping[str, Tensor], num_workers: int = 0
) -> dict[str, tuple[Metrics, Predictions]]:
    """Score trained weights on all splits, in file order; nothing is trained.

    Args:
        args: From `complete_args`; `model_save_path` is the file of the weights. Changed by MMSA's
            parts.
        state_dict: Trained weights of the model that `args` describes.
        num_workers: Worker processes of each loader; does not change the numbers.

    Returns:
        By split, MMSA's metrics and the predictions. `Loss` is a mean over batches, here those of
        the file's order.

    Raises:
        CheckpointError: If the weights do not fit the configuration.
        TrainingDivergedError: If a prediction is not a finite number.
    """
    with registered():
        loaders = stock_loaders(args, num_workers)
        model = trained_model(args, state_dict)
        trainer = build_trainer(args)
        trainer.model = model  # two of MMSA's trainers keep it from training on
        recorder = PredictionRecorder()
        recorder.attach(model)
        return {
            split: _evaluate(trainer, model, split, _in_file_order(loader), recorder)
            for split, loader in loaders.items()
        }


def _train(
    trainer: Any,
    model: nn.Module,
    args: EasyDict,
    loaders: Mapping[str, DataLoader[Any]],
    recorder: PredictionRecorder,
    on_epoch: Callable[[StockEpoch, nn.Module], None] | None,
) -> EvaluationRecorder:
    def close(record: StockEpoch) -> None:
        if record.epoch == args.get("num_epochs"):
            trainer.args.early_stop = 0  # each of MMSA's trainers asks for it next
        if on_epoch:
            on_epoch(record, model)

    evaluations = EvaluationRecorder(trainer.do_test, recorder, metrics(data_set(args)), close)
    watched = {split: recorder.watch(loader) for split, loader in loaders.items()}
    trainer.do_test = evaluations
    try:
        with _stepping_optimizers(fused=bool(args.get("fast"))) as optimizers:
            trainer.do_train(model, watched, return_epoch_results=False)
    except ValueError:
        evaluations.check_finite()  # scikit-learn refuses NaN on SIMS: say what that means
        raise
    except RuntimeError as error:
        if _TORCH_WRITER not in str(error):
            raise
        raise write_error(Path(args.model_save_path), error) from error
    finally:
        del trainer.do_test
    if not optimizers:
        raise TrainingDivergedError(
            "no optimizer made a step, so the model is as untrained as at the start; lower "
            "update_epochs, the batches of a step, or batch_size."
        )
    if not Path(args.model_save_path).is_file():
        raise TrainingDivergedError(
            f"no epoch of {len(evaluations.history)} reached a usable validation {args.KeyEval}, "
            "so there are no weights to test; lower the learning rate, or select by "
            "KeyEval='Loss'."
        )
    return evaluations


@contextmanager
def _stepping_optimizers(*, fused: bool) -> Iterator[set[int]]:
    """Inside, optimizers that make a step are put, by their `id`, into the set.

    Args:
        fused: Whether those that can work in one kernel do; the same update, but for rounding.
    """
    seen: set[int] = set()
    hooks = [register_optimizer_step_post_hook(lambda optimizer, *_: seen.add(id(optimizer)))]
    if fused:
        hooks.append(register_optimizer_step_pre_hook(_fuse))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _fuse(optimizer: Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        if "fused" in group:
            group.update(fused=True, foreach=False)


def _load_best(model: nn.Module, args: EasyDict) -> None:
    state = torch.load(args.model_save_path, map_location=args.device, weights_only=True)
    model.load_state_dict(state)
    model.to(args.device)


def _evaluate(
    trainer: Any,
    model: nn.Module,
    split: str,
    loader: DataLoader[Any],
    recorder: PredictionRecorder,
) -> tuple[Metrics, Predictions]:
    try:
        results = trainer.do_test(model, recorder.watch(loader), mode=_TEST_MODES[split])
    except ValueError:
        recorder.check_finite(f"on the {split} split")
        raise
    recorder.check_finite(f"on the {split} split")
    return _plain(results), recorder.take()


def _in_file_order(loader: DataLoader[Any]) -> DataLoader[Any]:
    return DataLoader(loader.dataset, batch_size=loader.batch_size, num_workers=loader.num_workers)


def _plain(values: Mapping[str, Any]) -> Metrics:
    return {key: float(value) for key, value in values.items()}
