"""From checked arrays to batches of this package's models.

A batch has MMSA's sample keys plus masks, is trimmed to its longest sample, and is cut from the
arrays by one indexing operation. Evaluation goes in file order. MMSA's own models get MMSA's own
batches, see `mmsa_bridge`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from MMSA_ext.data.scaling import FeatureScaling
from MMSA_ext.errors import FeatureFileError

if TYPE_CHECKING:
    from MMSA_ext.data.features import FeatureSet, FeatureSplit

Batch = dict[str, Any]


@dataclass(frozen=True)
class FeatureDataset:
    """One split in memory, as stored (float16 stays float16).

    Attributes:
        ids: Sample ids.
        raw_text: Transcripts.
        text_bert: `(N, 3, L)` token ids, mask, segment ids.
        audio, vision: `(N, L_m, d_m)`.
        audio_lengths, vision_lengths: `(N,)` int64, valid frames.
        labels: Label name to `(N,)` float32; `M` is the multimodal one.
        scaling: What batches of the frames are scaled by; None leaves them.
    """

    ids: list[str]
    raw_text: list[str]
    text_bert: np.ndarray
    audio: np.ndarray
    vision: np.ndarray
    audio_lengths: np.ndarray
    vision_lengths: np.ndarray
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    scaling: FeatureScaling | None = None

    @classmethod
    def from_split(
        cls,
        split: FeatureSplit,
        source: str = "feature file",
        scaling: FeatureScaling | None = None,
    ) -> FeatureDataset:
        """Take over a checked split.

        Raises:
            FeatureFileError: If the split has no token ids.
        """
        if split.text_bert is None:
            raise FeatureFileError(
                f"{source}: split {split.name!r} has no 'text_bert', which this model reads; "
                "fill it from 'raw_text' with `mmsa-ext encode-text`."
            )
        return cls(
            split.ids,
            split.raw_text,
            split.text_bert,
            split.audio,
            split.vision,
            split.audio_lengths,
            split.vision_lengths,
            split.labels,
            scaling,
        )

    @classmethod
    def from_mmsa(cls, dataset: Any) -> FeatureDataset:
        """Take over MMSA's `MMDataset`, so that a stock `MMSA_run` can train our models."""
        return cls(
            list(dataset.ids),
            list(dataset.raw_text),
            dataset.text,
            dataset.audio,
            dataset.vision,
            np.asarray(dataset.audio_lengths, dtype=np.int64),
            np.asarray(dataset.vision_lengths, dtype=np.int64),
            {name: np.asarray(values).reshape(-1) for name, values in dataset.labels.items()},
        )

    def __len__(self) -> int:
        return len(self.ids)

    def is_constant(self, modality: str) -> bool:
        """Whether all samples say the same: the same tokens, or one frame wherever one is valid.

        Frames are compared sample by sample, up to the first that differs; those of a training
        split that is to be scaled are as constant as their scaling found them.
        """
        if modality == "text":
            return bool((self.text_bert[:, 0] == self.text_bert[:1, 0]).all())
        if self.scaling is not None:
            return not getattr(self.scaling, modality).deviation.any()
        frames, lengths = getattr(self, modality), getattr(self, f"{modality}_lengths")
        filled = np.flatnonzero(lengths)
        return all((frames[i, : lengths[i]] == frames[filled[0], 0]).all() for i in filled)

    def by_length(self) -> Tensor:
        """Indices of all samples `(N,)` int64, from short to long: by frames and tokens together.

        Each modality counts as a share of its longest sample; samples of one length stay in order.
        """
        lengths = (self.text_bert[:, 1].sum(axis=-1), self.audio_lengths, self.vision_lengths)
        share = sum(np.asarray(n, dtype=np.float64) / max(1, n.max(initial=0)) for n in lengths)
        return torch.from_numpy(np.argsort(share, kind="stable"))

    def batch(self, indices: Tensor) -> Batch:
        """The samples at `indices` `(B,)` int64, trimmed to the longest of them.

        Returns:
            Batch with `text` `(B, 3, L)`, `audio`, `vision` `(B, L_m, d_m)` float32,
            `audio_mask`, `vision_mask` bool `(B, L_m)`, `text_mask`, the lengths int64 `(B,)`,
            `labels` (each `(B, 1)` float32), `index`, `id` and `raw_text`.
        """
        rows = indices.numpy()
        text = self.text_bert[rows]
        longest = max(1, int(text[:, 1].sum(axis=-1).max()))
        text = torch.from_numpy(text[..., :longest].astype(np.float32))
        batch: Batch = {
            "text": text,
            "text_mask": text[:, 1].bool(),
            "index": indices,
            "id": [self.ids[row] for row in rows],
            "raw_text": [self.raw_text[row] for row in rows],
            "labels": {
                name: torch.from_numpy(values[rows].astype(np.float32)).unsqueeze(1)
                for name, values in self.labels.items()
            },
        }
        for name, stored, lengths in (
            ("audio", self.audio, self.audio_lengths),
            ("vision", self.vision, self.vision_lengths),
        ):
            valid = torch.from_numpy(lengths[rows])
            longest = max(1, int(valid.max()))
            frames = stored[rows, :longest]
            if self.scaling is not None:
                frames = getattr(self.scaling, name).apply(frames, lengths[rows])
            batch[name] = torch.from_numpy(frames.astype(np.float32, copy=False))
            batch[f"{name}_lengths"] = valid
            batch[f"{name}_mask"] = torch.arange(longest)[None] < valid[:, None]
        return batch


@dataclass(frozen=True)
class FeatureLoader:
    """Iterates over the batches of a split; training shuffles with torch's global random stream."""

    dataset: FeatureDataset
    batch_size: int
    shuffle: bool = False

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def indices(self) -> Iterator[Tensor]:
        """Index tensors of the batches of one pass, `(B,)` int64 each."""
        count = len(self.dataset)
        order = torch.randperm(count) if self.shuffle else torch.arange(count)
        return iter(torch.split(order, self.batch_size))

    def __iter__(self) -> Iterator[Batch]:
        return (self.dataset.batch(indices) for indices in self.indices())


def make_loaders(
    features: FeatureSet, batch_size: int, eval_batch_size: int
) -> dict[str, FeatureLoader]:
    """Loaders of all splits of a feature set: training shuffled, the others in file order."""
    return {
        name: FeatureLoader(
            FeatureDataset.from_split(split, str(features.path), features.scaling),
            batch_size if name == "train" else eval_batch_size,
            shuffle=name == "train",
        )
        for name, split in features.splits.items()
    }


def as_feature_loader(
    loader: Any, batch_size: int, *, shuffle: bool, scaling: FeatureScaling | None = None
) -> FeatureLoader:
    """Our loader over the data of any loader: ours, or MMSA's plain `DataLoader`, to be scaled."""
    if isinstance(loader, FeatureLoader):
        return loader
    dataset = replace(FeatureDataset.from_mmsa(loader.dataset), scaling=scaling)
    return FeatureLoader(dataset, batch_size, shuffle=shuffle)
