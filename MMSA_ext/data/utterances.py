"""Unpadded utterances in columns: what shards hold and what a batch to be scored is read as."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.data.feature_layout import LABEL_KEYS
from MMSA_ext.names import FRAMES

__all__ = ["Utterances"]


@dataclass(frozen=True)
class Utterances:
    """n utterances.

    Attributes:
        ids: n ids.
        splits: n names of splits, `sample` where there are none.
        raw_text: n transcripts; None where there are none.
        arrays: `text_bert` -> n arrays (L, 3) of token ids, mask, segment ids; `text`, `audio`,
            `vision` -> n arrays (L, d), of one width and dtype; those there are.
        labels: `M`, `T`, `A`, `V` -> (n,) float32, NaN where unknown; those there are.
    """

    ids: list[str]
    splits: list[str]
    raw_text: list[str] | None
    arrays: dict[str, list[NDArray[Any]]]
    labels: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def lengths(self, key: str) -> NDArray[np.int64]:
        """Steps (n,) of each utterance in a modality."""
        return np.fromiter(map(len, self.arrays[key]), np.int64, len(self))

    def by_length(self) -> NDArray[np.int64]:
        """Rows (n,) from short to long: by the values of all modalities together."""
        values = np.zeros(len(self), np.int64)
        for key, samples in self.arrays.items():
            values += self.lengths(key) * (samples[0].shape[1] if samples else 0)
        return np.argsort(values, kind="stable")

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Utterances:
        """Those at `rows`, in this order."""

        def at(values: list[Any]) -> list[Any]:
            return [values[row] for row in rows]

        return Utterances(
            at(self.ids),
            at(self.splits),
            None if self.raw_text is None else at(self.raw_text),
            {key: at(samples) for key, samples in self.arrays.items()},
            {kind: values[np.asarray(rows, np.int64)] for kind, values in self.labels.items()},
        )

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Utterances:
        """Parts with the same columns in a row; a kind of label that one lacks is NaN there."""
        listed = list(parts)
        kinds = [kind for kind in LABEL_KEYS if any(kind in part.labels for part in listed)]
        texts = [part.raw_text for part in listed if part.raw_text is not None]
        return Utterances(
            list(chain.from_iterable(part.ids for part in listed)),
            list(chain.from_iterable(part.splits for part in listed)),
            list(chain.from_iterable(texts)) if len(texts) == len(listed) else None,
            {
                key: list(chain.from_iterable(part.arrays[key] for part in listed))
                for key in listed[0].arrays
            },
            {
                kind: np.concatenate([p.labels.get(kind, _unknown(len(p))) for p in listed])
                for kind in kinds
            },
        )

    def not_finite(self) -> tuple[str, int] | None:
        """Modality and row of the first NaN or infinity."""
        for key, samples in self.arrays.items():
            for row, values in enumerate(samples):
                if values.dtype.kind == "f" and not np.isfinite(values).all():
                    return key, row
        return None

    def padded(self) -> dict[str, Any]:
        """The same as a split in MMSA's layout, padded with zeros to the longest."""
        split: dict[str, Any] = {"id": self.ids}
        if self.raw_text is not None:
            split["raw_text"] = self.raw_text
        split |= {LABEL_KEYS[kind]: values for kind, values in self.labels.items()}
        for key, samples in self.arrays.items():
            steps = self.lengths(key)
            shape = (len(self), max(1, int(steps.max())), samples[0].shape[1])
            array = np.zeros(shape, samples[0].dtype)
            for row, values in enumerate(samples):  # each is one copy of memory
                array[row, : len(values)] = values
            split[key] = array.swapaxes(1, 2) if key == "text_bert" else array
            if key in FRAMES:
                split[f"{key}_lengths"] = steps
        return split


def _unknown(count: int) -> NDArray[np.float32]:
    return np.full(count, np.nan, np.float32)
