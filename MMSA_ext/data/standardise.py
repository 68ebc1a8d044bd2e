"""Standardise audio and vision of a feature file by its training split."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from MMSA_ext.data.feature_layout import ARRAYS
from MMSA_ext.data.features import FeatureSplit, read_features, write_features
from MMSA_ext.data.front_padding import FrontPadding
from MMSA_ext.data.safe_pickle import safe_load
from MMSA_ext.errors import ConfigError, FeatureFileError
from MMSA_ext.paths import expand, expand_file

MODALITIES = ("audio", "vision")


def standardise(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    modalities: Sequence[str] = MODALITIES,
    *,
    front_padding: FrontPadding | None = None,
) -> Path:
    """Write a copy of a feature file with mean 0 and deviation 1 in each feature.

    Mean and deviation are those of the training split's valid frames; padding becomes 0 in all
    splits, and a feature that is constant in training is only centred. Everything else is kept.
    The top-level key `standardised`, which MMSA ignores, names the modalities.

    MMSA's `need_normalized` is something else: it replaces a sequence by its mean over time.

    Args:
        path: Feature file with a training split.
        output: File to write; written atomically, must differ from `path`.
        modalities: Which of `audio` and `vision` to change.
        front_padding: As for `features.read_features`; the copy of a file whose padding is turned
            is padded behind the frames, and its text too.

    Returns:
        The path written.

    Raises:
        FeatureFileError: If the file is unusable or has no training split.
        ConfigError: If an option is out of range.
    """
    source, target = Path(expand_file(path)), Path(expand(output))
    if not modalities or set(modalities) - set(MODALITIES):
        raise ConfigError(f"modalities must name some of audio, vision; got {list(modalities)}.")
    if source.resolve() == target.resolve():
        raise ConfigError(f"{target} is the input; name another output, so that nothing is lost.")
    splits = read_features(
        source, require_labels=False, front_padding=front_padding, cache=False
    ).splits
    if "train" not in splits:
        raise FeatureFileError(f"{source}: has no split 'train', by which to standardise.")
    data = safe_load(source)
    if front_padding == "turn":
        for name, split in splits.items():
            data[name] |= {
                key: array for key in ARRAYS if (array := getattr(split, key)) is not None
            }
    for modality in modalities:
        scaler = StandardScaler().fit(_frames(splits["train"], modality))
        for name, split in splits.items():
            data[name][modality] = _scaled(split, modality, scaler)
    data["standardised"] = sorted(modalities)
    return write_features(target, data)


def _valid(split: FeatureSplit, modality: str) -> NDArray[np.bool_]:
    """Mask `(n, L)` of a split's valid frames."""
    frames, lengths = getattr(split, modality), getattr(split, f"{modality}_lengths")
    return np.asarray(np.arange(frames.shape[1]) < lengths[:, None])


def _frames(split: FeatureSplit, modality: str) -> NDArray[np.float64]:
    """Valid frames of a split, `(frames, features)`."""
    frames = getattr(split, modality)[_valid(split, modality)]
    return np.asarray(frames, dtype=np.float64)


def _scaled(split: FeatureSplit, modality: str, scaler: StandardScaler) -> NDArray[np.float32]:
    scaled = np.zeros(getattr(split, modality).shape, np.float32)
    scaled[_valid(split, modality)] = scaler.transform(_frames(split, modality))
    return scaled
