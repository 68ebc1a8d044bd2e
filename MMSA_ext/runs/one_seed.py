"""One seed of MMSA's own models: train, select, test; and the outcome that every seed has.

This package's models are in `own_seed`, so that what only they use is no part of the others' code.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from easydict import EasyDict
from torch import Tensor, nn

from MMSA_ext import mmsa_bridge
from MMSA_ext.data.predictions import Predictions, predictions_frame
from MMSA_ext.errors import TrainingDivergedError
from MMSA_ext.names import SPLITS
from MMSA_ext.processes import peak_rss_mb
from MMSA_ext.text_encoders import resolve
from MMSA_ext.training.callbacks import Callback, CallbackError, EpochProgress


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


def run_stock_seed(
    args: EasyDict,
    seed: int,
    num_workers: int = 0,
    callbacks: Sequence[Callback] = (),
    splits: Collection[str] = SPLITS,
) -> SeedOutcome:
    """Train and test one of MMSA's own models in MMSA's own trainer, bit for bit as MMSA does.

    Args:
        args: From `mmsa_bridge.complete_args`.
        seed: Seed of all random streams.
        num_workers: Worker processes of MMSA's loaders.
        callbacks: Told of epochs.
        splits: What the chosen epoch is scored on.
    """
    with measured(args.device) as outcome:

        def note(epoch: mmsa_bridge.StockEpoch, model: nn.Module) -> None:
            entry = _history_entry(epoch, model)
            outcome.history.append(entry)
            try:
                for callback in callbacks:
                    callback.on_epoch(EpochProgress.of(entry))
            except Exception as error:
                raise CallbackError(error) from error

        if "pretrained" in args:
            args.pretrained = resolve(args.pretrained)
        run = mmsa_bridge.train_and_test(
            args, seed=seed, num_workers=num_workers, splits=splits, on_epoch=note
        )
        outcome.metrics = run.metrics
        outcome.chosen_epoch = run.best_epoch
        outcome.predictions = _in_order(run.predictions)
        outcome.state_dict = weights_of(run.model)
    return outcome


def score_stock_seed(
    args: EasyDict, state_dict: dict[str, Tensor], num_workers: int = 0
) -> SeedOutcome:
    """Score weights that are trained already, by MMSA's evaluation; see `score_extension_seed`.

    Args:
        args: From `mmsa_bridge.complete_args`; `model_save_path` is the file of the weights.
        state_dict: Trained weights of the model that `args` describes.
        num_workers: Worker processes of MMSA's loaders.

    Raises:
        CheckpointError: If the weights do not fit the configuration.
    """
    with measured(args.device) as outcome:
        if "pretrained" in args:
            args.pretrained = resolve(args.pretrained)
        scored = mmsa_bridge.score_trained(args, state_dict, num_workers)
        outcome.metrics = {split: metrics for split, (metrics, _) in scored.items()}
        outcome.predictions = _in_order({split: p for split, (_, p) in scored.items()})
    return outcome


def _history_entry(epoch: mmsa_bridge.StockEpoch, model: nn.Module) -> dict[str, Any]:
    """An epoch of MMSA's loop, with InfoEnh's diagnostics where the model has it."""
    entry = dict(vars(epoch))
    take = getattr(getattr(model, "Model", model), "take_diagnostics", None)  # of `EnhancedHost`
    if take is not None:
        entry["train"] = {**entry["train"], **take()}
    return entry


def _in_order(predictions: Mapping[str, Predictions]) -> pd.DataFrame:
    return predictions_frame({s: predictions[s] for s in SPLITS if s in predictions})


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Weights of a model, on the host."""
    return {name: value.detach().cpu() for name, value in model.state_dict().items()}


@contextmanager
def measured(device: torch.device) -> Iterator[SeedOutcome]:
    """The outcome of what is done inside: time and memory are noted, and so is a divergence."""
    outcome = SeedOutcome()
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    try:
        yield outcome
    except TrainingDivergedError as error:
        outcome.diverged = str(error)
    outcome.timings["total"] = time.perf_counter() - began
    outcome.peak_memory_mb = _peak_memory_mb(device)


def _peak_memory_mb(device: torch.device) -> float | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return None if sys.platform == "win32" else peak_rss_mb()
