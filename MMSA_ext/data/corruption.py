"""Missing and noisy modalities, by configuration: the key `corruption` of any model.

What is lost stays in place, so that lengths, masks and packed sequences keep their meaning:

====================  ==============================================================================
input                 a lost position
====================  ==============================================================================
audio, vision frames  zeros; lengths as they were
token ids             [UNK], except in the first and the last token, [CLS] and [SEP]; mask as it was
``text`` features     zeros
====================  ==============================================================================

The convention for tokens is that of MMSA's own incomplete data (``MMDataset.generate_m``). A
modality that is removed loses all of its positions; its lengths can still be seen.

Random numbers are drawn by (seed, split, modality) and position, so that they depend neither on the
order of batches nor on the other modalities or splits; what is lost at one rate is lost at every
higher one. MMSA's models are handed the same `FeatureSet` as this package's.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from MMSA_ext.config.schema import CorruptionConfig
from MMSA_ext.data.feature_checks import blocks, frame_ends
from MMSA_ext.data.feature_set import FeatureSet, FeatureSplit
from MMSA_ext.errors import ConfigError, TextEncoderError
from MMSA_ext.names import MODALITIES, SPLITS
from MMSA_ext.text_encoders import load_tokenizer
from MMSA_ext.validation import explain

__all__ = [
    "CorruptionConfig",
    "bind",
    "corrupt",
    "normalise",
    "notes",
]

logger = logging.getLogger("MMSA")

# [UNK] of bert-base-uncased and bert-base-chinese, which MMSA writes for a lost token.
MMSA_UNKNOWN_TOKEN = 100


def normalise(value: Mapping[str, Any] | CorruptionConfig | None) -> dict[str, Any] | None:
    """The key `corruption` of a configuration, complete and checked.

    Args:
        value: As the user gave it.

    Returns:
        All fields as plain values; None where nothing would be changed, so that a rate of zero is
        the same run as no corruption.

    Raises:
        ConfigError: With every problem in one message.
    """
    if value is None:
        return None
    config = _validated(value)
    return None if config.changes_nothing else config.model_dump(mode="json")


def bind(args: Mapping[str, Any]) -> CorruptionConfig | None:
    """The corruption of a run, with the token that stands for lost ones.

    Args:
        args: Configuration of the run; `corruption`, `use_bert` and `pretrained` are read.

    Returns:
        The corruption, or None.

    Raises:
        ConfigError: If the key `corruption` is not usable.
    """
    value = normalise(args.get("corruption"))
    if value is None:
        return None
    config = _validated(value)
    loses_text = "text" in config.remove or (config.drop_rate > 0 and config.touches("text"))
    if config.unknown_token is None and loses_text and args.get("use_bert"):
        token = _unknown_token(args.get("pretrained"))
        return config.model_copy(update={"unknown_token": token})
    return config


def corrupt(features: FeatureSet, config: CorruptionConfig | None) -> FeatureSet:
    """Corrupt checked features.

    Args:
        features: What was read; its arrays are never changed. Noise needs the split `train`.
        config: From `bind`; None changes nothing.

    Returns:
        Features with copies of what was changed, and the same arrays otherwise.
    """
    if config is None:
        return features
    views = {name: _view(split) for name, split in features.splits.items()}
    changed = _corrupt_views(views, config)
    return replace(
        features,
        splits={
            name: _replaced(split, changed[name]) if name in changed else split
            for name, split in features.splits.items()
        },
    )


def _replaced(split: FeatureSplit, arrays: Mapping[str, Any]) -> FeatureSplit:
    # Of a frame that was lost or is noisy it no longer counts that it was not a number.
    gaps = {key: value for key, value in split.gaps.items() if key not in arrays}
    return replace(split, **arrays, gaps=gaps)


def notes(config: CorruptionConfig | None) -> tuple[str, ...]:
    """Say it in one sentence, for a record; nothing for None."""
    if config is None:
        return ()
    touched = ", ".join(config.modalities or MODALITIES)
    parts = [f"{', '.join(config.remove)} removed"] * bool(config.remove)
    if config.drop_rate:
        parts.append(f"positions of {touched} lost with probability {config.drop_rate:g}")
    if config.noise:
        parts.append(f"noise of {config.noise:g} standard deviations on {touched}")
    if config.unknown_token is not None:
        parts.append(f"lost tokens are id {config.unknown_token}")
    where = "the test split" if config.at == "test" else "all splits"
    return (f"corrupted data in {where}: {'; '.join(parts)} (corruption seed {config.seed})",)


class _View(NamedTuple):
    """What can be corrupted of one split."""

    tokens: NDArray[Any] | None  # (n, 3, L)
    frames: dict[str, NDArray[Any]]  # each (n, L, d)
    valid: dict[str, NDArray[np.bool_]]  # by the keys of `frames`, and `tokens`: (n, L)


def _view(split: FeatureSplit) -> _View:
    tokens = split.text_bert
    lengths = {"audio": split.audio_lengths, "vision": split.vision_lengths}
    frames: dict[str, NDArray[Any]] = {
        key: array for key in MODALITIES if (array := getattr(split, key)) is not None
    }
    valid = {} if tokens is None else {"tokens": tokens[:, 1] != 0}
    for key, values in frames.items():
        if key == "text" and tokens is not None and tokens.shape[2] == values.shape[1]:
            valid[key] = valid["tokens"]
            continue
        ends = frame_ends(values) if key == "text" else lengths[key]
        valid[key] = np.arange(values.shape[1]) < ends[:, None]
    return _View(tokens, frames, valid)


def _corrupt_views(
    views: Mapping[str, _View], config: CorruptionConfig
) -> dict[str, dict[str, Any]]:
    """By split, the arrays that change."""
    return {
        name: {
            **_corrupt_tokens(views[name], name, config),
            **_corrupt_frames(views[name], name, config, views.get("train")),
        }
        for name in (SPLITS if config.at == "all" else ("test",))
        if name in views
    }


def _corrupt_tokens(view: _View, split: str, config: CorruptionConfig) -> dict[str, NDArray[Any]]:
    tokens, valid = view.tokens, view.valid.get("tokens")
    if tokens is None or valid is None:
        return {}
    lost = _lost(valid, split, "text", config)
    if lost is None:
        return {}
    rows = np.arange(len(lost))
    lost[rows, 0] = lost[rows, valid.sum(axis=1) - 1] = False  # [CLS] and [SEP]
    unknown = MMSA_UNKNOWN_TOKEN if config.unknown_token is None else config.unknown_token
    changed = tokens.copy()
    changed[:, 0][lost] = unknown
    return {"text_bert": changed}


def _corrupt_frames(
    view: _View, split: str, config: CorruptionConfig, train: _View | None
) -> dict[str, NDArray[Any]]:
    changed: dict[str, NDArray[Any]] = {}
    for name in MODALITIES:
        if name not in view.frames:
            continue
        values, valid = view.frames[name], view.valid[name]
        noisy = config.noise > 0 and config.touches(name) and name not in config.remove
        lost = _lost(valid, split, name, config)
        if noisy and train is not None:
            deviation = config.noise * _deviation(train.frames[name], train.valid[name])
            values = _with_noise(values, valid, deviation, _stream(config, split, name, "noise"))
        elif lost is not None:
            values = values.copy()
        if lost is not None:
            values[lost] = 0
        if noisy or lost is not None:
            changed[name] = values
    return changed


def _lost(
    valid: NDArray[np.bool_], split: str, modality: str, config: CorruptionConfig
) -> NDArray[np.bool_] | None:
    """The valid positions (n, L) that are lost; None where none can be."""
    if modality in config.remove:
        return valid.copy()
    if config.drop_rate == 0 or not config.touches(modality):
        return None
    drawn = _stream(config, split, modality, "drop").random(valid.shape)
    return valid & (drawn < config.drop_rate)


def _with_noise(
    values: NDArray[Any],
    valid: NDArray[np.bool_],
    deviation: NDArray[np.float64],
    stream: np.random.Generator,
) -> NDArray[Any]:
    """A copy (n, L, d) with Gaussian noise of `deviation` (d,) on the valid frames."""
    kept = values.dtype if values.dtype.kind == "f" else np.float32
    changed = values.astype(kept)  # always a copy
    scale = deviation.astype(np.float32)
    for start, block in blocks(changed):
        drawn = stream.standard_normal(block.shape, dtype=np.float32)
        rows = slice(start, start + len(block))
        changed[rows] = block + scale * drawn * valid[rows, :, None]
    return changed


def _deviation(values: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Standard deviation (d,) of each feature of (n, L, d) over the valid frames."""
    count, total, squares = 0, np.zeros(values.shape[2]), np.zeros(values.shape[2])
    for start, block in blocks(values):
        frames = block[valid[start : start + len(block)]].astype(np.float64)
        count += len(frames)
        total += frames.sum(axis=0)
        squares += (frames**2).sum(axis=0)
    variance = squares / count - (total / count) ** 2
    return np.sqrt(np.maximum(variance, 0))


def _stream(
    config: CorruptionConfig, split: str, modality: str, purpose: Literal["drop", "noise"]
) -> np.random.Generator:
    names = (SPLITS.index(split), MODALITIES.index(modality), ("drop", "noise").index(purpose))
    return np.random.default_rng([config.seed, *names])


def _unknown_token(pretrained: str | None) -> int:
    """The [UNK] of a text encoder; MMSA's where its tokenizer cannot be had."""
    if pretrained is None:
        return MMSA_UNKNOWN_TOKEN
    try:
        token = load_tokenizer(pretrained).unk_token_id
    except TextEncoderError as error:
        logger.warning(
            "corruption: lost tokens become %d, MMSA's, because the tokenizer of %r cannot be read "
            "(%s). Set corruption.unknown_token to choose another.",
            MMSA_UNKNOWN_TOKEN,
            pretrained,
            error,
        )
        return MMSA_UNKNOWN_TOKEN
    return MMSA_UNKNOWN_TOKEN if token is None else int(token)


def _validated(value: Mapping[str, Any] | CorruptionConfig) -> CorruptionConfig:
    try:
        return CorruptionConfig.model_validate(value)
    except ValidationError as error:
        lines = "\n  ".join(explain(error, CorruptionConfig, "corruption"))
        raise ConfigError(f"corruption has {error.error_count()} problem(s):\n  {lines}") from None
