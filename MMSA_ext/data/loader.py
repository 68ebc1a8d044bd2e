"""Batches of this package's models: trimmed to their longest sample, evaluation in file order.

MMSA's own models get MMSA's own batches, see `mmsa_bridge`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from MMSA_ext.data.feature_set import Batch, FeatureSet, FeatureSplit
from MMSA_ext.data.scaling import FeatureScaling
from MMSA_ext.errors import FeatureFileError

__all__ = ["Batch", "FeatureLoader", "as_feature_loader", "make_loader", "make_loaders"]


@dataclass(frozen=True)
class FeatureLoader:
    """Iterates over the batches of a split; training shuffles with torch's global random stream."""

    split: FeatureSplit
    batch_size: int
    shuffle: bool = False

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def indices(self) -> Iterator[Tensor]:
        """Index tensors of the batches of one pass, `(B,)` int64 each."""
        count = len(self.split)
        order = torch.randperm(count) if self.shuffle else torch.arange(count)
        return iter(torch.split(order, self.batch_size))

    def __iter__(self) -> Iterator[Batch]:
        return (self.split.batch(indices) for indices in self.indices())


def make_loader(
    features: FeatureSet, name: str, batch_size: int, *, shuffle: bool = False
) -> FeatureLoader:
    """Loader of one split.

    Raises:
        FeatureFileError: If the split has text, but not as token ids.
    """
    split = features.splits[name]
    if split.text_bert is None and "text" not in split.absent:
        raise FeatureFileError(
            f"{features.path}: split {name!r} has no 'text_bert', which this model reads; fill it "
            "from 'raw_text' with `mmsa-ext encode-text`."
        )
    return FeatureLoader(split, batch_size, shuffle)


def make_loaders(
    features: FeatureSet, batch_size: int, eval_batch_size: int
) -> dict[str, FeatureLoader]:
    """Loaders of all splits of a feature set: training shuffled, the others in file order."""
    return {
        name: make_loader(features, name, batch_size, shuffle=True)
        if name == "train"
        else make_loader(features, name, eval_batch_size)
        for name in features.splits
    }


def as_feature_loader(
    loader: Any, batch_size: int, *, shuffle: bool, scaling: FeatureScaling | None = None
) -> FeatureLoader:
    """Our loader over the data of any loader: ours, or MMSA's plain `DataLoader`, to be scaled.

    The latter lets a stock `MMSA_run` train our models.
    """
    if isinstance(loader, FeatureLoader):
        return loader
    theirs = loader.dataset  # an `MMDataset`
    split = FeatureSplit(
        name=theirs.mode,
        ids=list(theirs.ids),
        raw_text=list(theirs.raw_text),
        text_bert=theirs.text,
        text=None,
        audio=theirs.audio,
        vision=theirs.vision,
        audio_lengths=np.asarray(theirs.audio_lengths, dtype=np.int64),
        vision_lengths=np.asarray(theirs.vision_lengths, dtype=np.int64),
        labels={name: np.asarray(values).reshape(-1) for name, values in theirs.labels.items()},
        scaling=scaling,
    )
    return FeatureLoader(split, batch_size, shuffle=shuffle)
