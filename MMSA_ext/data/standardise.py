"""Standardise audio and vision of a feature file by its training split."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from MMSA_ext.data.feature_layout import ARRAYS, find_recipe
from MMSA_ext.data.features import read_features, write_features
from MMSA_ext.data.front_padding import FrontPadding
from MMSA_ext.data.recipes import UNKNOWN
from MMSA_ext.data.safe_pickle import safe_load
from MMSA_ext.data.scaling import ModalityScaling
from MMSA_ext.errors import ConfigError, FeatureFileError
from MMSA_ext.names import FRAMES
from MMSA_ext.paths import check_output, expand, expand_file


def standardise(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    modalities: Sequence[str] = FRAMES,
    *,
    front_padding: FrontPadding | None = None,
) -> Path:
    """Write a copy of a feature file with mean 0 and deviation 1 in each feature.

    Mean and deviation are those of the training split's valid frames, as in `data.scaling`: padding
    becomes 0 in all splits, and so does a feature that is constant in training. All else is kept,
    and lengths are stated. Of the top-level keys, which MMSA ignores, `standardised` names the
    modalities, and `scaling` has the means and deviations by modality, from which the frames
    can be had back; of a file that was standardised before, all the way. The recipe of a modality
    gets `standardised`, a digest of these: frames that are scaled otherwise are others.

    MMSA's `need_normalized` is something else: it replaces a sequence by its mean over time.

    Args:
        path: Feature file with a training split.
        output: File to write; written atomically, must differ from `path`.
        modalities: Which of `audio` and `vision` to change, where they are there.
        front_padding: As for `features.read_features`; the copy of a file whose padding is turned
            is padded behind the frames, and its text too.

    Returns:
        The path written.

    Raises:
        FeatureFileError: If the file is unusable, or has no training split or none of `modalities`.
        ConfigError: If an option is out of range.
    """
    source, target = Path(expand_file(path)), Path(expand(output))
    if not modalities or set(modalities) - set(FRAMES):
        raise ConfigError(f"modalities must name some of audio, vision; got {list(modalities)}.")
    check_output(target, source)
    splits = read_features(
        source, require_labels=False, front_padding=front_padding, cache=False
    ).splits
    if "train" not in splits:
        raise FeatureFileError(f"{source}: has no split 'train', by which to standardise.")
    absent = splits["train"].absent
    chosen = [modality for modality in modalities if modality not in absent]
    if not chosen:
        raise FeatureFileError(f"{source}: has no {' and no '.join(modalities)} to standardise.")
    data = safe_load(source)
    if front_padding == "turn":
        for name, split in splits.items():
            data[name] |= {
                key: array
                for key in ARRAYS
                if key not in absent and (array := getattr(split, key)) is not None
            }
    scaling, (recipe, _) = _scaling_before(data), find_recipe(data)
    for modality in chosen:
        found = ModalityScaling.of(*splits["train"].frames(modality))
        before = scaling.get(modality)
        scaling[modality] = found if before is None else found.after(before)
        made = recipe.get(modality, {"name": UNKNOWN, "version": ""})
        recipe = recipe | {modality: made | {"standardised": _digest(scaling[modality])}}
        for name, split in splits.items():
            frames, lengths = split.frames(modality)
            data[name] |= {modality: found.scaled(frames, lengths), f"{modality}_lengths": lengths}
    data |= {
        "standardised": sorted(scaling),
        "scaling": {modality: found.plain() for modality, found in sorted(scaling.items())},
        "recipe": recipe,
    }
    return write_features(target, data)


def _digest(scaling: ModalityScaling) -> str:
    return hashlib.sha256(json.dumps(scaling.plain()).encode()).hexdigest()[:16]


def _scaling_before(data: Mapping[str, Any]) -> dict[str, ModalityScaling]:
    """By modality, how a file was standardised before."""
    found = {}
    for modality in FRAMES:
        with suppress(KeyError, TypeError, ValueError):
            found[modality] = ModalityScaling.from_plain(data["scaling"][modality])
    return found
