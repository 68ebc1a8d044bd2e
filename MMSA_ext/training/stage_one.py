"""Two stages of training: each encoder alone, then the whole model.

ConFEDE starts from encoders that were trained on their own modality. Here every seed trains its
own, and they are cached by content beside the checkpoints: runs of one seed share them if they read
the same arrays with the same encoders and recipes, whatever their other configuration. Stage two
draws the same random numbers whether stage one was computed or found.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from easydict import EasyDict
from torch import Tensor, nn

from MMSA_ext import mmsa_bridge
from MMSA_ext.config.schema import STEP_OPTIONS
from MMSA_ext.data.feature_set import FeatureSplit
from MMSA_ext.data.loader import FeatureLoader
from MMSA_ext.datasets import DEFINITION
from MMSA_ext.errors import CheckpointError, TrainingDivergedError, WriteError
from MMSA_ext.files import outside_scratch
from MMSA_ext.models.contract import MSAModel
from MMSA_ext.models.parts.two_stage import EncoderTask, TwoStageModel
from MMSA_ext.records.code_version import code_version
from MMSA_ext.training.checkpoint import read_sealed, write_sealed
from MMSA_ext.training.trainer import Trainer, undivided

logger = logging.getLogger("MMSA")

FOLDER = "stage_one"
# What an encoder reads of a split.
_ARRAYS = {
    "text": ("text_bert",),
    "audio": ("audio", "audio_lengths"),
    "vision": ("vision", "vision_lengths"),
}


@dataclass(frozen=True)
class TrainedEncoder:
    """What stage one gave for one encoder.

    Attributes:
        state_dict: Its weights.
        epoch: Epoch that was kept.
        mean_absolute_error: Of that epoch, on the validation split.
    """

    state_dict: dict[str, Tensor]
    epoch: int
    mean_absolute_error: float


class TwoStageTrainer(Trainer):
    """Trains the encoders of a `TwoStageModel` alone, or finds them trained, then the model."""

    def _fit(
        self,
        model: nn.Module,
        core: MSAModel,
        train: FeatureLoader,
        valid: FeatureLoader,
        destination: Path,
    ) -> None:
        if not isinstance(core, TwoStageModel):
            raise TypeError(f"{type(core).__name__} is no TwoStageModel; train it with Trainer.")
        for task in core.stage_one():
            self._prepare(task, train.split, valid.split, code_version(type(core), type(self)))
        super()._fit(model, core, train, valid, destination)

    def _prepare(
        self, task: EncoderTask, train: FeatureSplit, valid: FeatureSplit, code: str
    ) -> None:
        """Give the encoder its weights of stage one."""
        target = next(
            name for name in task.targets if name in train.labels and name in valid.labels
        )
        splits = {"train": _with_label(train, target), "valid": _with_label(valid, target)}
        seed = torch.initial_seed() % 2**32  # numpy takes no larger one
        key = self._key_of(task, target, splits, seed, code)
        beside = outside_scratch(Path(self.args.model_save_path).parent)
        path = beside / FOLDER / f"{task.modality}-{key}.pth"
        trained = _load(path, task.encoder)
        if trained is None:
            trained = self._train_alone(task, splits, seed)
            _save(path, trained)
            task.encoder.load_state_dict(trained.state_dict)
        else:
            logger.info("Stage one, %s: found in %s, not repeated.", task.modality, path.parent)
        self.history.notes.append(
            f"stage one, {task.modality} on label {target}: validation MAE "
            f"{trained.mean_absolute_error:.4f} in epoch {trained.epoch} of {task.recipe.epochs}"
        )

    def _key_of(
        self,
        task: EncoderTask,
        target: str,
        splits: dict[str, FeatureSplit],
        seed: int,
        code: str,
    ) -> str:
        """Name of the trained encoder by all that decides its weights."""
        defined = self.config.dataset_definition
        decays = task.recipe.optimizer == "adamw"  # the other one's decay spares nothing
        content = {
            "modality": task.modality,
            "dataset": self.config.dataset_name,
            **({DEFINITION: defined} if defined is not None else {}),
            "target": target,
            "recipe": task.recipe.model_dump(),
            "decay_norms": self.config.decay_norms if decays else None,
            "encoder": task.identity,
            "data": {name: _digest(split, task.modality) for name, split in splits.items()},
            "seed": seed,
            "code": code,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def _train_alone(
        self, task: EncoderTask, splits: dict[str, FeatureSplit], seed: int
    ) -> TrainedEncoder:
        """Train a fresh encoder; the random streams are afterwards as they were before."""
        loaders = {
            "train": FeatureLoader(splits["train"], task.recipe.batch_size, shuffle=True),
            "valid": FeatureLoader(splits["valid"], self.config.eval_batch_size),
        }
        weights = Path(f"{self.args.model_save_path}.{task.modality}")
        trainer = _EncoderTrainer(self, task, weights)
        with mmsa_bridge.preserved_random_state():
            mmsa_bridge.setup_seed(seed)
            model = task.build().to(self.device)
            try:
                trainer.do_train(model, loaders)
                model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
            except TrainingDivergedError as error:
                raise TrainingDivergedError(f"stage one, {task.modality}: {error}") from None
            finally:
                weights.unlink(missing_ok=True)
        chosen = trainer.history.chosen_epoch
        entry = next(entry for entry in trainer.history.epochs if entry["epoch"] == chosen)
        return TrainedEncoder(
            {name: value.cpu() for name, value in model.encoder.state_dict().items()},
            entry["epoch"],
            entry["valid"]["MAE"],
        )


class _EncoderTrainer(Trainer):
    """The loop for one encoder: its recipe in place of the run's values."""

    def __init__(self, whole: TwoStageTrainer, task: EncoderTask, weights: Path) -> None:
        super().__init__(EasyDict({**whole.args, "model_save_path": str(weights)}), whole.callbacks)
        recipe = task.recipe
        self.recipe = recipe
        self.stage = f"stage one, {task.modality}"
        self.config = self.config.model_copy(
            update={
                "model_name": f"{self.config.model_name}, {self.stage}",
                "KeyEval": "MAE",
                "selection_digits": None,
                "early_stop": None,
                "must_beat_untrained": False,
                "new_layers_learning_rate": None,
                "first_selected_epoch": int(recipe.epochs * recipe.selected_after) + 1,
                "num_epochs": recipe.epochs,
                "warmup_ratio": recipe.warmup_ratio,
                "batch_size": recipe.batch_size,
                "learning_rate": recipe.learning_rate,
                "weight_decay": recipe.weight_decay,
                **{key: type(self.config).model_fields[key].default for key in STEP_OPTIONS},
            }
        )

    def decay_groups(self, model: MSAModel) -> list[dict[str, Any]]:
        if not self.recipe.decay_all:
            return super().decay_groups(model)
        return [undivided(model, self.recipe.weight_decay)]

    def make_optimizer(self, model: MSAModel) -> torch.optim.Optimizer:
        if self.recipe.optimizer == "adamw":
            return super().make_optimizer(model)
        return torch.optim.Adam(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=self.recipe.learning_rate,
            weight_decay=self.recipe.weight_decay,
            amsgrad=True,
        )


def _with_label(split: FeatureSplit, target: str) -> FeatureSplit:
    """The split with one of its labels as the one to predict."""
    return replace(split, labels={"M": split.labels[target]})


def _digest(split: FeatureSplit, modality: str) -> str:
    """Digest of what an encoder of this modality reads, labels included."""
    digest = hashlib.sha256()
    arrays = {name: getattr(split, name) for name in _ARRAYS[modality]}
    for name, array in (arrays | {"label": split.labels["M"]}).items():
        scaling = getattr(split.scaling, name, None) if name == modality else None
        dtype = array.dtype if scaling is None else np.dtype(np.float32)
        digest.update(f"{name} {dtype} {array.shape}\n".encode())
        if scaling is None:
            digest.update(np.ascontiguousarray(array).data)
            continue
        for _, block in scaling.blocks(*split.frames(name)):
            digest.update(np.ascontiguousarray(block).data)
    return digest.hexdigest()


def _save(path: Path, trained: TrainedEncoder) -> None:
    """Write a trained encoder; a failure to do so costs the file, not the run."""
    try:
        write_sealed(path, vars(trained))
    except WriteError as error:
        logger.warning("%s Stage one is not kept.", error)


def _load(path: Path, encoder: nn.Module) -> TrainedEncoder | None:
    """Read a trained encoder into `encoder`; None, with a warning, if the file is damaged."""
    if not os.path.lexists(path):
        return None
    try:
        trained = TrainedEncoder(**read_sealed(path))
        encoder.load_state_dict(trained.state_dict)
    except CheckpointError as error:
        logger.warning("%s Stage one is computed again.", error)
    except (TypeError, RuntimeError) as error:  # other parts, other weights
        logger.warning("%s is of another encoder (%s); stage one is computed again.", path, error)
    else:
        return trained
    return None
