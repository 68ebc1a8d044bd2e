"""Checked features in memory: the splits of a file, and the batches that are cut from them.

`data.features` reads them, `data.loader` goes through them; arrays stay as they are stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.data.feature_report import FeatureReport
from MMSA_ext.data.front_padding import FrontPadding
from MMSA_ext.data.recipes import Recipe
from MMSA_ext.data.scaling import FeatureScaling
from MMSA_ext.names import FRAMES

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Batch", "FeatureSet", "FeatureSplit"]

Batch = dict[str, Any]


@dataclass(frozen=True)
class FeatureSplit:
    """Checked arrays of one split, in stored dtype, sample by sample in file order.

    Arrays may be read-only maps of a cached file: copy what is to be changed.

    Attributes:
        name: `train`, `valid`, `test`, or `sample` for a file of one sample.
        ids: n sample ids.
        raw_text: n transcripts, empty where the file has none.
        text_bert: (n, 3, L) token ids, mask, segment ids; or None.
        text: (n, L, d_t) word vectors; or None.
        audio: (n, L_a, d_a); (n, 1, 0) where the modality is absent.
        vision: (n, L_v, d_v); likewise.
        audio_lengths: (n,) int64, 1..L_a frames; 0 where the modality is absent.
        vision_lengths: (n,) int64, 1..L_v frames; likewise.
        labels: `M`, and `T`, `A`, `V` where present -> (n,) float32.
        gaps: `audio`, `vision`, where a NaN was set to 0 -> (k,) int64, features of samples with
            such a frame, each as sample * d + feature.
        scaling: by what the frames of a batch are scaled; None leaves them.
    """

    name: str
    ids: list[str]
    raw_text: list[str]
    text_bert: NDArray[Any] | None
    text: NDArray[Any] | None
    audio: NDArray[Any]
    vision: NDArray[Any]
    audio_lengths: NDArray[np.int64]
    vision_lengths: NDArray[np.int64]
    labels: dict[str, NDArray[np.float32]]
    gaps: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    scaling: FeatureScaling | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def tokens(self) -> NDArray[Any]:
        """`text_bert`, of a split that has it, as `data.loader` sees to."""
        if self.text_bert is None:
            raise TypeError(f"split {self.name!r} has no token ids")
        return self.text_bert

    @property
    def absent(self) -> tuple[str, ...]:
        """Modalities that the file does not have."""
        text = ("text",) if self.text_bert is None and self.text is None else ()
        return (*text, *(key for key in FRAMES if not getattr(self, key).shape[2]))

    def without(self, modalities: Iterable[str]) -> FeatureSplit:
        """The same as if some modalities were absent."""
        changed: dict[str, Any] = {}
        for key in modalities:
            if key == "text":
                changed |= {"text_bert": None, "text": None}
            else:
                changed[key] = np.zeros((len(self), 1, 0), np.float32)
                changed[f"{key}_lengths"] = np.zeros(len(self), np.int64)
        gaps = {key: found for key, found in self.gaps.items() if key not in changed}
        return replace(self, **changed, gaps=gaps)

    def frames(self, modality: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Frames (n, L, d) of `audio` or `vision`, and how many of each sample are valid (n,)."""
        return getattr(self, modality), getattr(self, f"{modality}_lengths")

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> FeatureSplit:
        """The samples at `rows`, each at most once, in this order."""
        rows = np.asarray(rows, np.int64)
        place = np.full(len(self), -1)
        place[rows] = np.arange(len(rows))
        values: dict[str, Any] = {
            key: value[rows] if isinstance(value, np.ndarray) else [value[row] for row in rows]
            for key, value in vars(self).items()
            if isinstance(value, np.ndarray | list)
        }
        gaps = {}
        for key, found in self.gaps.items():
            width = getattr(self, key).shape[2]
            sample, feature = np.divmod(found, width)
            kept = place[sample] >= 0
            if kept.any():
                gaps[key] = np.sort(place[sample[kept]] * width + feature[kept])
        labels = {kind: value[rows] for kind, value in self.labels.items()}
        return replace(self, **values, labels=labels, gaps=gaps)

    def thinned(self, samples: int) -> FeatureSplit:
        """Every so many-th sample, `samples` of them, or all if there are not as many."""
        step = max(1, len(self) // samples)
        return self.take(range(0, len(self), step)[:samples])

    def is_constant(self, modality: str) -> bool:
        """Whether all samples say the same: the same tokens, or one frame wherever one is valid.

        Frames are compared sample by sample, up to the first that differs; those of a training
        split that is to be scaled are as constant as their scaling found them.
        """
        if modality == "text":
            return bool((self.tokens[:, 0] == self.tokens[:1, 0]).all())
        if self.scaling is not None:
            return not getattr(self.scaling, modality).deviation.any()
        frames, lengths = self.frames(modality)
        filled = np.flatnonzero(lengths)
        return all((frames[i, : lengths[i]] == frames[filled[0], 0]).all() for i in filled)

    def by_length(self) -> NDArray[np.int64]:
        """Indices of all samples (n,), from short to long: by frames and tokens together.

        Each modality counts as a share of its longest sample; samples of one length stay in order.
        """
        lengths = [self.audio_lengths, self.vision_lengths]
        if self.text_bert is not None:
            lengths.insert(0, self.text_bert[:, 1].sum(axis=-1))
        share = sum(np.asarray(n, dtype=np.float64) / max(1, n.max(initial=0)) for n in lengths)
        return np.argsort(share, kind="stable")

    def batch(self, indices: Tensor) -> Batch:
        """The samples at `indices` `(B,)` int64, trimmed to the longest of them.

        Returns:
            Batch with `text` `(B, 3, L)`, `audio`, `vision` `(B, L_m, d_m)` float32,
            `audio_mask`, `vision_mask` bool `(B, L_m)`, `text_mask`, the lengths int64 `(B,)`,
            `labels` (each `(B, 1)` float32), `index`, `id` and `raw_text`. A modality that is
            absent has one step, masked, of no features.
        """
        import torch  # a file is read and checked without it

        rows = indices.numpy()
        tokens = np.zeros((len(rows), 3, 1)) if self.text_bert is None else self.text_bert[rows]
        longest = max(1, int(tokens[:, 1].sum(axis=-1).max()))
        text = torch.from_numpy(tokens[..., :longest].astype(np.float32))
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
        for name in FRAMES:
            stored, lengths = self.frames(name)
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
class FeatureSet:
    """A checked feature file.

    Attributes:
        path: the base file; without one, `feature_T`.
        fingerprint: SHA-256 of the file's bytes; with `feature_T`, `feature_A` or `feature_V`
            SHA-256 over the roles and fingerprints of all files, in this order of roles. Without a
            base file it is that of `feature_T` as the base, with the other two.
        splits: name -> split, in the order train, valid, test.
        report: what was found.
        front_padding: how front padding was read, see `features.read_features`.
    """

    path: Path
    fingerprint: str
    splits: dict[str, FeatureSplit]
    report: FeatureReport
    front_padding: FrontPadding | None = None

    @property
    def absent(self) -> tuple[str, ...]:
        """Modalities that the file does not have."""
        return next(iter(self.splits.values())).absent if self.splits else ()

    def without(self, modalities: Iterable[str]) -> FeatureSet:
        """The same as if some modalities were absent; itself where they are."""
        left_out = {*modalities} - {*self.absent}
        if not left_out:
            return self
        splits = {name: split.without(left_out) for name, split in self.splits.items()}
        return replace(self, splits=splits)

    @property
    def recipe(self) -> Recipe:
        """Who made each modality that is there; one without a recipe is of unknown make."""
        return {m: made for m, made in self.report.recipe.items() if m not in self.absent}

    def fit_scaling(self) -> FeatureScaling:
        """Scaling by the training split; of a large file this is kept in the cache."""
        if {*FRAMES} <= {*self.absent}:  # what is kept stays that of the models that read frames
            return FeatureScaling.of(self.splits["train"])
        reading = f"{self.fingerprint} {self.front_padding}"
        return FeatureScaling.of_file(self.splits["train"], self.path, reading)

    def with_scaling(self, scaling: FeatureScaling | None) -> FeatureSet:
        """The same arrays, whose frames are scaled batch by batch."""
        splits = {name: replace(split, scaling=scaling) for name, split in self.splits.items()}
        return replace(self, splits=splits)

    def scaled(self, scaling: FeatureScaling) -> FeatureSet:
        """A scaled copy, float32, for loaders that do not scale their batches."""
        splits = {}
        for name, split in self.splits.items():
            changed = {m: getattr(scaling, m).scaled(*split.frames(m)) for m in FRAMES}
            splits[name] = replace(split, **changed, scaling=None)
        return replace(self, splits=splits)
