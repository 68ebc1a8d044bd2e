"""Scoring new samples with a trained checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from easydict import EasyDict
from numpy.typing import NDArray
from torch import nn

from MMSA_ext import mmsa_bridge, text_encoders
from MMSA_ext.config.resolve import check_replaces, merge
from MMSA_ext.data.encode_text import token_arrays
from MMSA_ext.data.feature_layout import SINGLE
from MMSA_ext.data.feature_set import FeatureSet
from MMSA_ext.data.features import features_of, read_features
from MMSA_ext.data.fit_lengths import TooLong, check_too_long, fit_lengths
from MMSA_ext.data.loader import FeatureLoader, make_loader
from MMSA_ext.data.predictions import FUSED, Predictions, predictions_frame
from MMSA_ext.data.recipes import Recipe, compared
from MMSA_ext.data.scaling import FeatureScaling, wants_scaling
from MMSA_ext.data.utterances import Utterances
from MMSA_ext.errors import (
    CheckpointError,
    ConfigError,
    FeatureFileError,
    TrainingDivergedError,
    UnknownModelError,
)
from MMSA_ext.json_files import read_json
from MMSA_ext.models.contract import MSAModel, core_model
from MMSA_ext.names import FRAMES, MODALITIES
from MMSA_ext.paths import expand, hub_name
from MMSA_ext.registry import (
    check_names,
    get_model,
    is_registered,
    trains_in_mmsa,
    unread_modalities,
)
from MMSA_ext.runs import hub, sharing
from MMSA_ext.training.checkpoint import content_digest
from MMSA_ext.training.trainer import predict
from MMSA_ext.version import __version__

logger = logging.getLogger("MMSA")

_PADDED_AT_ONCE = 2**25  # bytes of frames that are padded together
_AT_ONCE_ON_CPU = 16  # more samples a batch take memory there, and gain no time


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
    too_long: TooLong = "error",
    any_recipe: bool = False,
) -> pd.DataFrame:
    """Score every sample of a feature file, or a single-sample file.

    Args:
        checkpoint_path: Checkpoint written by `MMSA_run`, or the folder of a shared model.
        feature_path: Feature file, or a folder of shards, which then is read into memory as a
            whole; labels are not needed, any of the splits may be missing.
        gpu_ids: As in `MMSA_run`.
        overrides: Configuration values to replace, such as `pretrained` of an MMSA model whose text
            encoder lies elsewhere on this machine, or `front_padding` where this file is padded
            otherwise than the training data.
        too_long: What to do with samples that are longer than those the model was trained on, see
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
    scorer = Scorer(
        checkpoint_path, overrides, gpu_ids=gpu_ids, too_long=too_long, any_recipe=any_recipe
    )
    return scorer.predict(scorer.read(feature_path))


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
        checkpoint_path: Checkpoint written by `MMSA_run`, or the folder of a shared model.
        overrides: As in `predict_file`.
        gpu_ids: As in `MMSA_run`; the network is on that device.

    Raises:
        CheckpointError: As in `predict_file`.
        ConfigError: An override replaces nothing.
        TextEncoderError: The text encoder of a model of MMSA cannot be loaded.
    """
    return Scorer(checkpoint_path, overrides, gpu_ids=gpu_ids).model


@dataclass(frozen=True)
class Scores:
    """What a model makes of n utterances, in their order.

    Attributes:
        prediction: (n,) float32; NaN where there is an error.
        embedding: (n, d) float32 fused vectors; None unless asked for.
        errors: n sentences, empty where there is none.
    """

    prediction: NDArray[np.float32]
    embedding: NDArray[np.float32] | None
    errors: list[str]


class Scorer:
    """A trained model, ready to score features.

    It is called with a batch in columns, which `map_batches` of Ray Data and `map(batched=True)` of
    Hugging Face datasets do. Pickled, it is the path of its checkpoint and the options, with a
    digest of the content: cheap to send and to hash, and never another model at the other end.

    Args:
        checkpoint_path: Checkpoint written by `MMSA_run`, or the folder of a shared model.
        overrides: As in `predict_file`.
        gpu_ids: As in `MMSA_run`.
        too_long: As in `predict_file`.
        any_recipe: As in `predict_file`. A batch says nothing of its recipe.
        embed: Whether calling it gives the fused vectors too.

    Attributes:
        path: The checkpoint, or the folder.
        args: Its complete configuration.
        state_dict: Its weights, on the CPU.
        scaling: What the frames are scaled by; None if they are not.
        recipe: Who made the training features. Of a modality that it lacks nothing is compared,
            which is said once.
        reads: Modalities that the model reads.

    Raises:
        CheckpointError: The checkpoint is missing, damaged or of a model that is not known, or its
            configuration is none.
        ConfigError: An override replaces nothing; `too_long` is unknown.
        TextEncoderError: The text encoder of a model of MMSA is a folder that is not there.
    """

    def __init__(
        self,
        checkpoint_path: str | Path,
        overrides: dict[str, Any] | None = None,
        *,
        gpu_ids: Sequence[int | str] | int | str = (0,),
        too_long: TooLong = "error",
        any_recipe: bool = False,
        embed: bool = False,
    ) -> None:
        check_too_long(too_long)
        self.path = expand(checkpoint_path)
        self._given: dict[str, Any] = {
            "checkpoint_path": self.path,
            "overrides": overrides,
            "gpu_ids": gpu_ids,
            "too_long": too_long,
            "any_recipe": any_recipe,
            "embed": embed,
        }
        self._too_long, self._embed = too_long, embed
        checkpoint, encoder = sharing.open_trained(self.path, overrides)
        self._checkpoint = checkpoint
        check_replaces(overrides, checkpoint.config)
        try:
            given = {k: str(v) if isinstance(v, Path) else v for k, v in (overrides or {}).items()}
            if encoder is not None:
                given = {"pretrained": str(encoder)} | given
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
        self._built: dict[str, nn.Module] = {}
        self.recipe, self.any_recipe = checkpoint.recipe, any_recipe
        self._unread = unread_modalities(self.args)
        self.reads = tuple(modality for modality in MODALITIES if modality not in self._unread)
        if unknown := [modality for modality in self.reads if modality not in self.recipe]:
            logger.warning(
                "%s does not say who made its training features' %s: whether what it is given is "
                "made alike cannot be told.",
                self.path,
                ", ".join(unknown),
            )

    @classmethod
    def from_pretrained(
        cls, folder_or_name: str | Path, *, revision: str | None = None, **options: Any
    ) -> Self:
        """A scorer of a shared model: of its folder, or by its name on the Hugging Face Hub.

        Args:
            folder_or_name: Folder of `save_pretrained`; or `owner/name`, which is downloaded into
                huggingface_hub's cache and checked (`MMSA_ext.pull`).
            revision: Of a model on the hub: branch, tag or commit.
            options: As of `Scorer`.

        Raises:
            CheckpointError: As `Scorer`.
            ConfigError: As `Scorer`, and if a revision of what is no model on the hub is given.
            HubError: The hub cannot be reached, or refuses.
        """
        path = expand(folder_or_name)
        if not Path(path).exists() and hub_name(path):
            return cls(hub.pull(path, revision=revision), **options)
        if revision is not None:
            raise ConfigError(f"{path}: is no model on the hub, so there is no revision of it.")
        return cls(path, **options)

    def save_pretrained(self, folder: str | Path, **options: Any) -> Path:
        """Write the model as a folder to be shared, as `MMSA_ext.save_pretrained` does.

        Args:
            folder: The folder to write.
            options: As there; `overrides` are this scorer's.

        Returns:
            The folder.
        """
        overrides = self._given["overrides"]
        return sharing.save_pretrained(self.path, folder, overrides=overrides, **options)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the checkpoint's content, hexadecimal."""
        return content_digest(self._checkpoint)

    @property
    def identity(self) -> dict[str, Any]:
        """What the scores depend on, as JSON can say it, beside what is scored."""
        overrides = {key: str(value) for key, value in (self._given["overrides"] or {}).items()}
        options = {"overrides": overrides, "too_long": self._too_long, "embed": self._embed}
        return {"checkpoint": self.digest, "version": __version__, **options}

    def __getstate__(self) -> dict[str, Any]:
        return self._given | {"digest": self.digest, "version": __version__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        given = {key: state[key] for key in state if key not in ("digest", "version")}
        self.__init__(**given)  # type: ignore[misc]
        if self.digest != state["digest"]:
            raise CheckpointError(
                f"{self.path}: is another checkpoint than when this Scorer was made; make it anew."
            )

    @property
    def is_stock(self) -> bool:
        """Whether the model is scored by MMSA's own evaluation."""
        return trains_in_mmsa(self.args.model_name)

    @property
    def label_range(self) -> tuple[float, float]:
        """Lowest and highest sentiment of the data set that it was trained on."""
        low, high = mmsa_bridge.data_set(self.args).label_range
        return low, high

    def read(self, feature_path: str | Path) -> FeatureSet:
        """A feature file as the model is to be given it: of the shapes it was trained on, scaled.

        This package's models read text of any length that their encoder reads.

        Args:
            feature_path: As in `predict_file`.

        Raises:
            FeatureFileError: The features are unsafe or inconsistent, frames have other features,
                are of another recipe, or samples are too long, and that is an error.
        """
        features = read_features(
            expand(feature_path),
            mmsa_bridge.data_set(self.args),
            require_labels=False,
            front_padding=self.args.get("front_padding"),
        )
        self._check_widths(features)  # a plainer reason than another recipe
        self.check_recipe(features.recipe, features.path)
        return self._as_trained(features)

    def _as_trained(self, features: FeatureSet) -> FeatureSet:
        for warning in features.report.warnings:
            logger.warning("%s", warning)
        self._check_widths(features)
        features = features.without(self._unread)
        lengths = dict(zip((self._text_key, *FRAMES), map(int, self.args.seq_lens), strict=True))
        if not self.is_stock:
            del lengths[self._text_key]
            if self._too_long != "error" and (positions := self._positions):
                lengths["text_bert"] = positions
        features = fit_lengths(features, lengths, self.path, self._too_long)
        if self.scaling is not None and self.is_stock:
            return features.scaled(self.scaling)
        return features.with_scaling(self.scaling)

    @property
    def _text_key(self) -> str:
        return "text_bert" if self.args.get("use_bert") else "text"

    @property
    def _positions(self) -> int | None:
        """Tokens that the text encoder of a model of this package reads at most."""
        described = self.args.get("text_encoder_config") or {}
        positions = described.get("max_position_embeddings")
        return positions if type(positions) is int else None

    def check_recipe(self, recipe: Recipe, source: str | Path) -> None:
        """Refuse features that are not made as those of training; where that is open, warn.

        Raises:
            FeatureFileError: They are of another recipe, and `any_recipe` is not set.
        """
        other, doubtful = compared(self.recipe, recipe, self.reads)
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
        table = predictions_frame(self._predictions(features))
        _check_finite(table, features)
        return table

    def _predictions(self, features: FeatureSet, most: int | None = None) -> dict[str, Predictions]:
        """Predictions by split, of at most so many samples together where a model does not mind."""
        with mmsa_bridge.registered():
            if self.is_stock:
                return mmsa_bridge.stock_predictions(
                    *(self.args, self.state_dict, features), fused=self._embed, built=self._built
                )
            model = core_model(self.model)
            batch_size = self.args.eval_batch_size
            if most is not None and not model.reads_padding:
                batch_size = min(batch_size, most)
            loaders = eval_loaders(features, model, batch_size)
            return {
                name: predict(model, loader, self.args.device, features=self._embed)
                for name, loader in loaders.items()
            }

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Score a batch in columns.

        Args:
            batch: `audio`, `vision`, and `text` where the model reads word vectors: n arrays
                (L_i, d), or flat ones as shards hold them; or one array (n, L, d), with
                `audio_lengths` and so on (n,) where it is padded. `text_bert`: n arrays (3, L_i),
                or (L_i,) token ids; where it is absent, `raw_text` is read with the tokenizer of
                the checkpoint's text encoder. `id`. Other columns are not looked at.

        Returns:
            `prediction` (n,) float32; `embedding` (n, d) float32 if it was asked for; `id` as it
            was given, if it was.

        Raises:
            CheckpointError: The weights do not fit the configuration; or vectors are asked for and
                the model gives none.
            FeatureFileError: A sample cannot be scored, with column and id.
            TextEncoderError: The tokenizer cannot be loaded.
        """
        widths = {
            modality: int(width)
            for modality, width in zip(MODALITIES, self.args.feature_dims, strict=True)
            if modality in self.reads and (modality, self._text_key) != ("text", "text_bert")
        }
        utterances = Utterances.of_columns(batch, widths)
        scores = self.score(utterances, "batch")
        if error := next(filter(None, scores.errors), ""):
            raise FeatureFileError(error)
        result: dict[str, NDArray[Any]] = {"prediction": scores.prediction}
        if scores.embedding is not None:
            result["embedding"] = scores.embedding
        if "id" in batch:
            result["id"] = np.asarray(batch["id"])
        return result

    def score(
        self,
        utterances: Utterances,
        source: str | Path,
        check: Callable[[Utterances], None] = lambda _: None,
    ) -> Scores:
        """Score utterances, those of like length together; what one makes impossible is its error.

        Args:
            utterances: In memory; no more than some of them are padded at once.
            source: What messages call them.
            check: Raises `FeatureFileError` for what is not to be scored.

        Raises:
            CheckpointError, TextEncoderError: As `__call__`.
        """
        utterances = self._read_parts(utterances)
        count = len(utterances)
        prediction = np.full(count, np.nan, np.float32)
        embedding = np.zeros((count, 0), np.float32) if self._embed else None
        errors = [""] * count
        waiting = self._groups(utterances)[::-1]
        while waiting:
            rows = waiting.pop()
            some = utterances.take(rows)
            try:
                check(some)
                found = self._scored(some, source)
            except (FeatureFileError, TrainingDivergedError) as error:
                if len(rows) == 1:
                    lines = "; ".join(line.strip() for line in str(error).splitlines())
                    errors[rows[0]] = lines.replace(":; ", ": ")
                else:  # in halves, until who is the cause is alone
                    waiting += [rows[len(rows) // 2 :], rows[: len(rows) // 2]]
                continue
            prediction[rows] = found.prediction.numpy()
            if embedding is not None:
                vectors = found.features[FUSED].float().numpy()
                if not embedding.size:  # its width is known from the first
                    embedding = np.full((count, vectors.shape[1]), np.nan, np.float32)
                embedding[rows] = vectors
        return Scores(prediction, embedding, errors)

    def features(self, utterances: Utterances, source: str | Path) -> FeatureSet:
        """Utterances as the model is to be given them, as `read` gives those of a file.

        Args:
            utterances: All are padded together.
            source: What messages call them.

        Raises:
            CheckpointError, TextEncoderError: As `__call__`.
            FeatureFileError: As `read`.
        """
        return self._padded(self._read_parts(utterances), source)

    def _padded(self, utterances: Utterances, source: str | Path) -> FeatureSet:
        return self._as_trained(features_of({SINGLE: utterances.padded()}, source))

    def _scored(self, utterances: Utterances, source: str | Path) -> Predictions:
        features = self._padded(utterances, source)
        on_cpu = torch.device(self.args.device).type == "cpu"
        found = self._predictions(features, _AT_ONCE_ON_CPU if on_cpu else None)[SINGLE]
        _check_finite(predictions_frame({SINGLE: found}), features)
        if self._embed and FUSED not in found.features:
            raise CheckpointError(
                f"{self.path}: {self.args.model_name} does not return the vector that it predicts "
                "from (MMSA's key 'Feature_f'), so there is no embedding."
            )
        return found

    def _groups(self, utterances: Utterances) -> list[NDArray[np.int64]]:
        """Rows that are padded together: of like length, unless the model reads padding."""
        if not len(utterances):
            return []
        batch = self.args.batch_size if self.is_stock else self.args.eval_batch_size
        if not self.is_stock and core_model(self.model).reads_padding:
            return np.array_split(np.arange(len(utterances)), range(batch, len(utterances), batch))
        order, groups = utterances.by_length(), []
        while len(order):
            padded = utterances.padded_bytes(order)
            count = max(1, int(np.searchsorted(padded, _PADDED_AT_ONCE, "right")))
            if batch < count < len(order):
                count -= count % batch
            groups.append(order[:count])
            order = order[count:]
        return groups

    def _read_parts(self, utterances: Utterances) -> Utterances:
        """What the model reads, with tokens of the transcripts where it lacks tokens."""
        read = [self._text_key if part == "text" else part for part in self.reads]
        arrays = {key: values for key, values in utterances.arrays.items() if key in read}
        if "text_bert" in read and "text_bert" not in arrays and utterances.raw_text is not None:
            arrays["text_bert"] = token_arrays(self.tokenizer, utterances.raw_text)
        return replace(utterances, arrays=arrays, labels={})

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the text encoder that the model was trained with; loaded once.

        Raises:
            CheckpointError: The checkpoint does not say which that was.
            TextEncoderError: It cannot be loaded; `overrides` may name where it is.
        """
        if not (pretrained := self.args.get("pretrained")):
            raise CheckpointError(f"{self.path}: does not name the text encoder (pretrained).")
        return text_encoders.load_tokenizer(pretrained)

    def _check_widths(self, features: FeatureSet) -> None:
        widths = dict(zip(FRAMES, self.args.feature_dims[1:], strict=True))
        problems = [
            f"it has no {modality}, which {self.args.model_name} reads"
            for modality in features.absent
            if modality in self.reads
        ]
        for name, split in features.splits.items():
            for modality in (m for m in FRAMES if m in self.reads and m not in features.absent):
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
    """Refuse names that an `EasyDict` has for itself."""
    for key, value in config.items():
        if hasattr(EasyDict, key):
            raise ConfigError(f"{key!r} is no name of a key.")
        if isinstance(value, Mapping):
            _check_keys(value)


def _completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration, checked, with the defaults of this package's models for what it lacks."""
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


def _check_finite(table: pd.DataFrame, features: FeatureSet) -> None:
    """Refuse predictions that are no numbers."""
    unusable = table.loc[~np.isfinite(table["prediction"].to_numpy(dtype=np.float64)), "id"]
    if len(unusable):
        raise FeatureFileError(
            f"{features.path}: the prediction of {len(unusable)} sample(s) is not a finite number, "
            f"first of {unusable.iloc[0]!r}: their features are too far from those of training. "
            "Compare both files with `mmsa-ext check-data`."
        )
