"""One seed of this package's models: train, select, test."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd
import torch
from easydict import EasyDict
from torch import Tensor, nn

from MMSA_ext import mmsa_bridge
from MMSA_ext.data.feature_set import FeatureSet
from MMSA_ext.data.loader import FeatureLoader, make_loaders
from MMSA_ext.data.predictions import predictions_frame
from MMSA_ext.models.contract import core_model
from MMSA_ext.names import SPLITS
from MMSA_ext.registry import get_model
from MMSA_ext.runs.one_seed import SeedOutcome, measured, weights_of
from MMSA_ext.text_encoders import encoder_config
from MMSA_ext.training.callbacks import Callback
from MMSA_ext.training.state import ResumePoint
from MMSA_ext.training.trainer import Trainer, predict


def run_extension_seed(
    args: EasyDict,
    features: FeatureSet,
    seed: int,
    callbacks: Sequence[Callback] = (),
    resume: ResumePoint | None = None,
    splits: Collection[str] = SPLITS,
) -> SeedOutcome:
    """Train and test one of this package's models.

    Args:
        args: From `mmsa_bridge.complete_args`; `feature_dims` and `seq_lens` as in `features`.
        features: Checked features of all splits.
        seed: Seed of all random streams.
        callbacks: Told of steps and epochs.
        resume: Where the state after each epoch is kept, and found; None keeps none.
        splits: What the chosen epoch is scored on.
    """
    began = time.perf_counter()
    with measured(args.device) as outcome:
        mmsa_bridge.setup_seed(seed)
        loaders = make_loaders(features, args.batch_size, args.eval_batch_size)
        model = mmsa_bridge.build_model(args).to(args.device)
        for split, loader in loaders.items():
            core_model(model).check(loader.split, f"{features.path}, split {split!r}")
        trainer: Trainer = get_model(args.model_name).trainer(args, callbacks)
        trainer.resume = resume
        trainer.do_train(model, loaders)
        outcome.timings["train"] = time.perf_counter() - began
        _load_weights(model, args.model_save_path)
        outcome.metrics, outcome.predictions = _score_splits(trainer, model, loaders, splits)
        outcome.state_dict = weights_of(model)
        encoder = getattr(core_model(model), "text_encoder", None)
        outcome.text_encoder_config = encoder and encoder_config(encoder.encoder)
    outcome.history = trainer.history.epochs
    outcome.notes = tuple(trainer.history.notes)
    outcome.chosen_epoch = None if outcome.diverged else trainer.history.chosen_epoch
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
    with measured(args.device) as outcome:
        loaders = make_loaders(features, args.batch_size, args.eval_batch_size)
        model = mmsa_bridge.trained_model(args, state_dict)
        trainer: Trainer = get_model(args.model_name).trainer(args)
        outcome.metrics, outcome.predictions = _score_splits(trainer, model, loaders)
    return outcome


def _score_splits(
    trainer: Trainer,
    model: nn.Module,
    loaders: dict[str, FeatureLoader],
    splits: Collection[str] = SPLITS,
) -> tuple[dict[str, dict[str, float]], pd.DataFrame]:
    predictions = {}
    for split in splits:
        ordered = FeatureLoader(loaders[split].split, trainer.config.eval_batch_size)
        predictions[split] = predict(core_model(model), ordered, trainer.device)
    metrics = {split: trainer.score(found) for split, found in predictions.items()}
    return metrics, predictions_frame(predictions)


def _load_weights(model: nn.Module, path: str | Path) -> None:
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
