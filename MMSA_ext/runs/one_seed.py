"""One seed: train, select, test. The same outcome for this package's models and MMSA's own."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from easydict import EasyDict
from torch import Tensor, nn

from MMSA_ext import mmsa_bridge
from MMSA_ext.data.feature_set import FeatureSet
from MMSA_ext.data.loader import FeatureLoader, make_loaders
from MMSA_ext.data.predictions import Predictions, predictions_frame
from MMSA_ext.errors import TrainingDivergedError
from MMSA_ext.models.contract import core_model
from MMSA_ext.models.hosts.common import enhanced_host
from MMSA_ext.names import SPLITS
from MMSA_ext.registry import get_model
from MMSA_ext.text_encoders import encoder_config, resolve
from MMSA_ext.training.trainer import StepProgress, Trainer, predict


@dataclass
class SeedOutcome:
    """What one seed gave.

    Attributes:
        metrics: By split, in MMSA's keys; empty if training diverged.
        predictions: Columns `split`, `id`, `label`, `prediction`, in file order; None if diverged.
        history: One entry an epoch, see `TrainingHistory.epochs`.
        chosen_epoch: Epoch whose weights were tested.
        diverged: Why training diverged; None if it did not.
        state_dict: The tested weights.
        text_encoder_config: Architecture of the text encoder, for the checkpoint.
        notes: Remarks on how this seed was computed, for its record.
        timings: Wall seconds by phase.
        peak_memory_mb: Peak memory of the device; on a CPU, of the whole process so far.
    """

    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    predictions: pd.DataFrame | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    chosen_epoch: int | None = None
    diverged: str | None = None
    state_dict: dict[str, Tensor] = field(default_factory=dict)
    text_encoder_config: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)
    peak_memory_mb: float | None = None


def run_extension_seed(
    args: EasyDict,
    features: FeatureSet,
    seed: int,
    progress: Callable[[StepProgress], None] | None = None,
) -> SeedOutcome:
    """Train and test one of this package's models.

    Args:
        args: From `mmsa_bridge.complete_args`; `feature_dims` and `seq_lens` as in `features`.
        features: Checked features of all splits.
        seed: Seed of all random streams.
        progress: Called after each training step.
    """
    outcome = SeedOutcome()
    began = _start_measuring(args.device)
    mmsa_bridge.setup_seed(seed)
    loaders = make_loaders(features, args.batch_size, args.eval_batch_size)
    model = mmsa_bridge.build_model(args).to(args.device)
    for split, loader in loaders.items():
        core_model(model).check(loader.split, f"{features.path}, split {split!r}")
    trainer: Trainer = get_model(args.model_name).trainer(args, progress)
    try:
        trainer.do_train(model, loaders)
        outcome.timings["train"] = time.perf_counter() - began
        _load_weights(model, args.model_save_path)
        outcome.metrics, outcome.predictions = _score_splits(trainer, model, loaders)
        outcome.state_dict = _weights(model)
        encoder = getattr(core_model(model), "text_encoder", None)
        outcome.text_encoder_config = encoder and encoder_config(encoder.encoder)
    except TrainingDivergedError as error:
        outcome.diverged = str(error)
    outcome.history = trainer.history.epochs
    outcome.notes = tuple(trainer.history.notes)
    outcome.chosen_epoch = None if outcome.diverged else trainer.history.chosen_epoch
    _finish_measuring(outcome, args.device, began)
    return outcome


def score_extension_seed(
    args: EasyDict, features: FeatureSet, state_dict: dict[str, Tensor]
) -> SeedOutcome:
    """Score weights that are trained already; nothing is trained, and the outcome has no weights.

    Args:
        args: As for `run_extension_seed`; `model_save_path` is the file of the weights.
        features: What to score.
        state_dict: Trained weights of the model that `args` describes.

    Raises:
        CheckpointError: If the weights do not fit the configuration.
    """
    outcome = SeedOutcome()
    began = _start_measuring(args.device)
    loaders = make_loaders(features, args.batch_size, args.eval_batch_size)
    model = mmsa_bridge.trained_model(args, state_dict)
    trainer: Trainer = get_model(args.model_name).trainer(args)
    try:
        outcome.metrics, outcome.predictions = _score_splits(trainer, model, loaders)
    except TrainingDivergedError as error:
        outcome.diverged = str(error)
    _finish_measuring(outcome, args.device, began)
    return outcome


def run_stock_seed(args: EasyDict, seed: int, num_workers: int = 0) -> SeedOutcome:
    """Train and test one of MMSA's own models in MMSA's own trainer, bit for bit as MMSA does.

    Args:
        args: From `mmsa_bridge.complete_args`.
        seed: Seed of all random streams.
        num_workers: Worker processes of MMSA's loaders.
    """
    outcome = SeedOutcome()
    began = _start_measuring(args.device)
    if "pretrained" in args:
        args.pretrained = resolve(args.pretrained)
    try:
        run = mmsa_bridge.train_and_test(
            args,
            seed=seed,
            num_workers=num_workers,
            on_epoch=lambda epoch, model: outcome.history.append(_history_entry(epoch, model)),
        )
        outcome.metrics = run.metrics
        outcome.chosen_epoch = run.best_epoch
        outcome.predictions = _in_order(run.predictions)
        outcome.state_dict = _weights(run.model)
    except TrainingDivergedError as error:
        outcome.diverged = str(error)
    _finish_measuring(outcome, args.device, began)
    return outcome


def score_stock_seed(
    args: EasyDict, state_dict: dict[str, Tensor], num_workers: int = 0
) -> SeedOutcome:
    """`score_extension_seed` for models in MMSA's loop, by MMSA's own evaluation.

    Args:
        args: From `mmsa_bridge.complete_args`; `model_save_path` is the file of the weights.
        state_dict: Trained weights of the model that `args` describes.
        num_workers: Worker processes of MMSA's loaders.

    Raises:
        CheckpointError: If the weights do not fit the configuration.
    """
    outcome = SeedOutcome()
    began = _start_measuring(args.device)
    if "pretrained" in args:
        args.pretrained = resolve(args.pretrained)
    try:
        scored = mmsa_bridge.score_trained(args, state_dict, num_workers)
        outcome.metrics = {split: metrics for split, (metrics, _) in scored.items()}
        outcome.predictions = _in_order({split: p for split, (_, p) in scored.items()})
    except TrainingDivergedError as error:
        outcome.diverged = str(error)
    _finish_measuring(outcome, args.device, began)
    return outcome


def _history_entry(epoch: mmsa_bridge.StockEpoch, model: nn.Module) -> dict[str, Any]:
    """An epoch of MMSA's loop, with InfoEnh's diagnostics where the model has it."""
    entry = dict(vars(epoch))
    host = enhanced_host(model)
    if host is not None:
        entry["train"] = {**entry["train"], **host.take_diagnostics()}
    return entry


def _score_splits(
    trainer: Trainer, model: nn.Module, loaders: dict[str, FeatureLoader]
) -> tuple[dict[str, dict[str, float]], pd.DataFrame]:
    predictions = {}
    for split in SPLITS:
        ordered = FeatureLoader(loaders[split].split, trainer.config.eval_batch_size)
        predictions[split] = predict(core_model(model), ordered, trainer.device)
    metrics = {split: trainer.score(found) for split, found in predictions.items()}
    return metrics, predictions_frame(predictions)


def _in_order(predictions: Mapping[str, Predictions]) -> pd.DataFrame:
    return predictions_frame({s: predictions[s] for s in SPLITS if s in predictions})


def _load_weights(model: nn.Module, path: str | Path) -> None:
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in model.state_dict().items()}


def _start_measuring(device: torch.device) -> float:
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    return time.perf_counter()


def _finish_measuring(outcome: SeedOutcome, device: torch.device, began: float) -> None:
    outcome.timings["total"] = time.perf_counter() - began
    outcome.peak_memory_mb = _peak_memory_mb(torch.device(device))


def _peak_memory_mb(device: torch.device) -> float | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, else KiB
