"""Scoring new samples with a trained checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from easydict import EasyDict
from torch import nn

from MMSA_ext import mmsa_bridge, text_encoders
from MMSA_ext.config.resolve import check_replaces, merge
from MMSA_ext.data.feature_set import FeatureSet
from MMSA_ext.data.features import read_features
from MMSA_ext.data.fit_lengths import Longer, fit_lengths
from MMSA_ext.data.loader import FeatureLoader, make_loader
from MMSA_ext.data.predictions import predictions_frame
from MMSA_ext.data.recipes import Recipe, compared
from MMSA_ext.data.scaling import FeatureScaling, wants_scaling
from MMSA_ext.errors import CheckpointError, ConfigError, FeatureFileError, UnknownModelError
from MMSA_ext.json_files import read_json
from MMSA_ext.models.contract import MSAModel, core_model
from MMSA_ext.names import FRAMES, MODALITIES
from MMSA_ext.paths import expand
from MMSA_ext.registry import (
    check_names,
    get_model,
    is_registered,
    trains_in_mmsa,
    unread_modalities,
)
from MMSA_ext.training.checkpoint import load_checkpoint
from MMSA_ext.training.trainer import predict

logger = logging.getLogger("MMSA")


def MMSA_test(  # noqa: N802 (MMSA's name)
    config: dict[str, Any] | str | Path | None,
    weights_path: str | Path,
    feature_path: str | Path,
    gpu_id: int = 0,
) -> float:
    """Predict one sample with trained weights, with MMSA's signature.

    Args:
        config: None: the checkpoint carries its configuration. A dictionary, or a JSON file with
            one, overrides values of it, and is needed where the file holds weights alone, as MMSA
            writes them: then it is the complete configuration that trained them.
        weights_path: Checkpoint written by `MMSA_run`.
        feature_path: Features of one sample (MMSA's single-sample layout), or a file of one sample.
        gpu_id: CUDA device; negative for the CPU, which is also used where there is no CUDA.

    Returns:
        The predicted sentiment.

    Raises:
        CheckpointError: The checkpoint is missing, damaged, without configuration, or its weights
            do not fit its configuration.
        FeatureFileError: The features are unsafe, inconsistent, do not fit the checkpoint, or hold
            more than one sample (use `predict_file`).
    """
    if isinstance(config, str | Path):
        config = read_json(Path(expand(config)))
    table = predict_file(weights_path, feature_path, gpu_ids=gpu_id, overrides=config)
    if len(table) != 1:
        raise FeatureFileError(
            f"{feature_path}: holds {len(table)} samples, MMSA_test scores one; use "
            "MMSA_ext.predict_file or `mmsa-ext predict`."
        )
    return float(table["prediction"].iloc[0])


def predict_file(
    checkpoint_path: str | Path,
    feature_path: str | Path,
    *,
    gpu_ids: Sequence[int | str] | int | str = (0,),
    overrides: dict[str, Any] | None = None,
    longer: Longer = "refuse",
    any_recipe: bool = False,
) -> pd.DataFrame:
    """Score every sample of a feature file, or a single-sample file.

    Args:
        checkpoint_path: Checkpoint written by `MMSA_run`.
        feature_path: Feature file; labels are not needed, any of the splits may be missing.
        gpu_ids: As in `MMSA_run`.
        overrides: Configuration values to replace, such as `pretrained` of an MMSA model whose text
            encoder lies elsewhere on this machine, or `front_padding` where this file is padded
            otherwise than the training data.
        longer: What to do with samples that are longer than those the model was trained on, see
            `data.fit_lengths`.
        any_recipe: Score features of another recipe than the model was trained on, with a warning,
            in place of refusing them.

    Returns:
        Columns `split`, `id`, `label` (NaN where unknown) and `prediction`, in file order.

    Raises:
        CheckpointError: The checkpoint is missing, damaged, without configuration, or its weights
            do not fit its configuration.
        ConfigError: An override replaces nothing.
        FeatureFileError: The features are unsafe, inconsistent, of another recipe or do not fit the
            checkpoint.
    """
    scorer = Scorer(checkpoint_path, overrides, gpu_ids=gpu_ids, any_recipe=any_recipe)
    return scorer.predict(scorer.read(feature_path, longer))


def load_model(
    checkpoint_path: str | Path,
    overrides: dict[str, Any] | None = None,
    *,
    gpu_ids: Sequence[int | str] | int | str = (0,),
) -> nn.Module:
    """The network of a checkpoint with its weights, in evaluation mode.

    A model of this package is a `models.contract.MSAModel`, whose `forward` says what it takes; a
    model of MMSA is MMSA's own class. Frames are to be scaled as in training: `Scorer.read` does.

    Args:
        checkpoint_path: Checkpoint written by `MMSA_run`.
        overrides: As in `predict_file`.
        gpu_ids: As in `MMSA_run`; the network is on that device.

    Raises:
        CheckpointError: As in `predict_file`.
        ConfigError: An override replaces nothing.
        TextEncoderError: The text encoder of a model of MMSA cannot be loaded.
    """
    return Scorer(checkpoint_path, overrides, gpu_ids=gpu_ids).model


class Scorer:
    """A trained model, ready to score features.

    Args:
        checkpoint_path: Checkpoint written by `MMSA_run`.
        overrides: As in `predict_file`.
        gpu_ids: As in `MMSA_run`.
        any_recipe: As in `predict_file`.

    Attributes:
        path: The checkpoint.
        args: Its complete configuration.
        state_dict: Its weights, on the CPU.
        scaling: What the frames are scaled by; None if they are not.
        recipe: Who made the training features. Of a modality that it lacks nothing is compared,
            which is said once.

    Raises:
        CheckpointError: The checkpoint is missing, damaged or of a model that is not known, or its
            configuration is none.
        ConfigError: An override replaces nothing.
        TextEncoderError: The text encoder of a model of MMSA is a folder that is not there.
    """

    def __init__(
        self,
        checkpoint_path: str | Path,
        overrides: dict[str, Any] | None = None,
        *,
        gpu_ids: Sequence[int | str] | int | str = (0,),
        any_recipe: bool = False,
    ) -> None:
        self.path = expand(checkpoint_path)
        checkpoint = load_checkpoint(self.path, overrides)
        check_replaces(overrides, checkpoint.config)
        try:
            given = {k: str(v) if isinstance(v, Path) else v for k, v in (overrides or {}).items()}
            _check_keys({**checkpoint.config, **given})
            config = _completed(merge(checkpoint.config, given))
        except UnknownModelError as error:
            raise CheckpointError(f"{self.path}: {error}") from None
        except ConfigError as error:
            raise CheckpointError(
                f"{self.path}: its configuration cannot be used: {error} If another version of "
                "MMSA_ext wrote it, use that one or train again; of a file of weights alone, pass "
                "the complete configuration that trained them as config."
            ) from None
        self.args = mmsa_bridge.complete_args(
            config, device=torch.device("cpu"), model_save_path=Path(self.path)
        )
        if self.is_stock and "pretrained" in self.args:
            self.args.pretrained = text_encoders.resolve(self.args.pretrained)
        self.state_dict = checkpoint.state_dict
        self.scaling = _scaling(self.args, checkpoint.scaling, self.path)
        self.args.device = mmsa_bridge.assign_device(gpu_ids)
        self.recipe, self.any_recipe = checkpoint.recipe, any_recipe
        self._unread = unread_modalities(self.args)
        self._read = [modality for modality in MODALITIES if modality not in self._unread]
        if unknown := [modality for modality in self._read if modality not in self.recipe]:
            logger.warning(
                "%s does not say who made its training features' %s: whether what it is given is "
                "made alike cannot be told.",
                self.path,
                ", ".join(unknown),
            )

    @property
    def is_stock(self) -> bool:
        """Whether the model is scored by MMSA's own evaluation."""
        return trains_in_mmsa(self.args.model_name)

    def read(self, feature_path: str | Path, longer: Longer = "refuse") -> FeatureSet:
        """A feature file as the model is to be given it: of the shapes it was trained on, scaled.

        Args:
            feature_path: As in `predict_file`, as `longer`.
            longer: This package's models read text of any length that their encoder reads.

        Raises:
            FeatureFileError: The features are unsafe or inconsistent, frames have other features,
                are of another recipe, or samples are longer and to be refused.
        """
        features = read_features(
            expand(feature_path),
            mmsa_bridge.data_set(self.args),
            require_labels=False,
            front_padding=self.args.get("front_padding"),
        )
        for warning in features.report.warnings:
            logger.warning("%s", warning)
        self._check_widths(features)
        features = features.without(self._unread)
        self.check_recipe(features.recipe, features.path)
        text_key = "text_bert" if self.args.get("use_bert") else "text"
        keys = (text_key, "audio", "vision")
        lengths = dict(zip(keys, map(int, self.args.seq_lens), strict=True))
        if not self.is_stock:
            del lengths[text_key]
        features = fit_lengths(features, lengths, self.path, longer)
        if self.scaling is not None and self.is_stock:
            return features.scaled(self.scaling)
        return features.with_scaling(self.scaling)

    def check_recipe(self, recipe: Recipe, source: str | Path) -> None:
        """Refuse features that are not made as those of training; where that is open, warn.

        Args:
            recipe: Who made them.
            source: Their file or folder.

        Raises:
            FeatureFileError: They are of another recipe, and `any_recipe` is not set.
        """
        other, doubtful = compared(self.recipe, recipe, self._read)
        if other and not self.any_recipe:
            raise FeatureFileError(
                f"{source}: of another recipe than the features that {self.path} was trained on, "
                "so its numbers mean something else:\n  " + "\n  ".join(other) + "\nMake these "
                "features as those of training were made. To score them all the same: "
                "--any-recipe, in Python any_recipe=True."
            )
        if other:
            told = "%s: of another recipe, and scored as any_recipe says: %s."
            logger.warning(told, source, "; ".join(other))
        if doubtful:
            logger.warning("%s: perhaps of another recipe: %s.", source, "; ".join(doubtful))

    @cached_property
    def model(self) -> nn.Module:
        """The network, see `load_model`; built once, when it is first asked for.

        Raises:
            CheckpointError: The weights do not fit the configuration.
        """
        wrapped: Any = mmsa_bridge.trained_model(self.args, self.state_dict)
        network: nn.Module = wrapped.Model
        return network.eval()

    def predict(self, features: FeatureSet) -> pd.DataFrame:
        """Score every sample of features that `read` gave.

        Returns:
            Columns `split`, `id`, `label` (NaN where unknown) and `prediction`, in file order.

        Raises:
            CheckpointError: The weights do not fit the configuration.
            FeatureFileError: The model cannot read the features, or a prediction is no number.
        """
        with mmsa_bridge.registered():
            if self.is_stock:
                table = mmsa_bridge.predict_stock(self.args, self.state_dict, features)
            else:
                table = self._predict_extension(features)
        _check_finite(table, features)
        return table

    def _predict_extension(self, features: FeatureSet) -> pd.DataFrame:
        model = core_model(self.model)
        loaders = eval_loaders(features, model, self.args.eval_batch_size)
        return predictions_frame(
            {name: predict(model, loader, self.args.device) for name, loader in loaders.items()}
        )

    def _check_widths(self, features: FeatureSet) -> None:
        widths = dict(zip(FRAMES, self.args.feature_dims[1:], strict=True))
        problems = [
            f"it has no {modality}, which {self.args.model_name} reads"
            for modality in features.absent
            if modality in self._read
        ]
        for name, split in features.splits.items():
            for modality in (m for m in FRAMES if m in self._read and m not in features.absent):
                found, width = getattr(split, modality).shape[2], widths[modality]
                if found != width:
                    problems.append(
                        f"split {name!r}, key {modality!r}: {found} features a frame, the model "
                        f"was trained on {width}"
                    )
        if problems:
            raise FeatureFileError(
                f"{features.path} does not fit {self.path}:\n  " + "\n  ".join(problems)
            )


def eval_loaders(
    features: FeatureSet, model: MSAModel, batch_size: int
) -> dict[str, FeatureLoader]:
    """Loaders in file order, by split, of what one of this package's models can read.

    Raises:
        FeatureFileError: It cannot read a split.
    """
    loaders = {}
    for name, split in features.splits.items():
        loaders[name] = make_loader(features, name, batch_size)
        model.check(split, f"{features.path}, split {name!r}")
    return loaders


def _scaling(args: EasyDict, plain: Any, checkpoint_path: str | Path) -> FeatureScaling | None:
    if not wants_scaling(args):
        if plain is not None:
            told = "%s was trained on scaled features, and is given them unscaled, as asked for."
            logger.warning(told, checkpoint_path)
        return None
    if plain is None:
        raise CheckpointError(
            f"{checkpoint_path}: lacks the means and deviations of its training features, by which "
            "what it predicts has to be scaled. MMSA_ext's own checkpoints have them; weights "
            "alone, as MMSA writes them, do not. If it was trained on features as they are, say so "
            "by feature_scaling='none' in its configuration."
        )
    scaling = FeatureScaling.from_plain(plain, str(checkpoint_path))
    scaling.check_widths(args.feature_dims, str(checkpoint_path))
    return scaling.without(unread_modalities(args))


def _check_keys(config: Mapping[str, Any]) -> None:
    """Refuse names that an `EasyDict` has for itself.

    Raises:
        ConfigError: With the first.
    """
    hidden = [key for key in _keys(config) if hasattr(EasyDict, key)]
    if hidden:
        raise ConfigError(f"{hidden[0]!r} is no name of a key.")


def _completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration, checked, with the defaults of this package's models for what it lacks.

    Raises:
        ConfigError: With the first problem; with all of the typed keys of this package's models.
    """
    missing = {"model_name", "dataset_name", "feature_dims", "seq_lens"} - config.keys()
    if missing:
        raise ConfigError(f"it lacks {', '.join(sorted(missing))}.")
    for key in ("model_name", "dataset_name", "pretrained"):
        if not isinstance(config.get(key, ""), str):
            raise ConfigError(f"{key} is no name.")
    check_names(config["model_name"])
    mmsa_bridge.data_set(config)
    for key in ("feature_dims", "seq_lens"):
        values = config[key]
        if not (
            isinstance(values, list | tuple)
            and len(values) == 3
            and all(type(value) is int and value >= 0 for value in values)
        ):
            raise ConfigError(f"{key} is not three numbers from 0 (text, audio, vision).")
    complete = dict(config)
    if is_registered(config["model_name"]):
        complete |= get_model(config["model_name"]).config.from_args(config).keys()
    for key in ("feature_dims", "seq_lens"):
        for modality, value in zip(MODALITIES, config[key], strict=True):
            if not value and modality not in unread_modalities(complete):
                raise ConfigError(f"{key} is 0 of {modality}, which {config['model_name']} reads.")
    return complete


def _keys(config: Mapping[str, Any]) -> Iterator[str]:
    """The keys of a configuration and of the dictionaries in it."""
    for key, value in config.items():
        yield key
        if isinstance(value, Mapping):
            yield from _keys(value)


def _check_finite(table: pd.DataFrame, features: FeatureSet) -> None:
    """Refuse predictions that are no numbers.

    Raises:
        FeatureFileError: Naming the first sample.
    """
    unusable = table.loc[~np.isfinite(table["prediction"].to_numpy(dtype=np.float64)), "id"]
    if len(unusable):
        raise FeatureFileError(
            f"{features.path}: the prediction of {len(unusable)} sample(s) is not a finite number, "
            f"first of {unusable.iloc[0]!r}: their features are too far from those of training. "
            "Compare both files with `mmsa-ext check-data`."
        )
