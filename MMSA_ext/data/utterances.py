"""Unpadded utterances in columns: what shards hold and what a batch to be scored is read as."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.data.feature_layout import LABEL_KEYS, SINGLE
from MMSA_ext.data.pickles.errors import shown
from MMSA_ext.errors import FeatureFileError
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

    @classmethod
    def of_columns(cls, columns: Mapping[str, Any], widths: Mapping[str, int]) -> Utterances:
        """A batch in columns, as `runs.prediction.Scorer` takes it.

        Args:
            columns: Name -> n values.
            widths: those of `text`, `audio`, `vision` that are read -> features of a frame, by
                which frames in a row are cut.

        Raises:
            FeatureFileError: A column is of another form, with the sample.
        """
        names = ("id", "raw_text", "text_bert", "segments", *widths)
        counts = {name: len(columns[name]) for name in names if name in columns}
        if not counts or len(set(counts.values())) > 1:
            listed = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise FeatureFileError(
                f"batch: its columns differ in their number of samples: {listed}."
                if counts
                else f"batch: has none of the columns {', '.join(names)}."
            )
        count = next(iter(counts.values()))
        ids = [str(name) for name in columns.get("id", range(count))]
        texts = columns.get("raw_text")
        if texts is not None and not all(isinstance(text, str) for text in texts):
            row = next(i for i, text in enumerate(texts) if not isinstance(text, str))
            raise FeatureFileError(f"batch: raw_text of {shown(ids[row])} is no text.")
        arrays = {
            key: _frames(key, columns[key], width, columns.get(f"{key}_lengths"), ids)
            for key, width in widths.items()
            if key in columns
        }
        if "text_bert" in columns:
            arrays["text_bert"] = _tokens(columns["text_bert"], columns.get("segments"), ids)
        return cls(ids, [SINGLE] * count, None if texts is None else list(texts), arrays)

    def __len__(self) -> int:
        return len(self.ids)

    def lengths(self, key: str) -> NDArray[np.int64]:
        """Steps (n,) of each utterance in a modality."""
        return np.fromiter(map(len, self.arrays[key]), np.int64, len(self))

    def by_length(self) -> NDArray[np.int64]:
        """Rows (n,) from short to long, as `FeatureSplit.by_length`."""
        share = np.zeros(len(self))
        for key in self.arrays:
            steps = self.lengths(key)
            share += steps / max(1, steps.max(initial=0))
        return np.argsort(share, kind="stable")

    def padded_bytes(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bytes (k,) that the first, the first two, ... of `rows` (k,) take when padded."""
        row_bytes = np.zeros(len(rows), np.int64)
        for key, samples in self.arrays.items():
            step = samples[0].dtype.itemsize * samples[0].shape[1]
            row_bytes += np.maximum.accumulate(self.lengths(key)[rows]) * step
        return row_bytes * np.arange(1, len(rows) + 1)

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


def _frames(key: str, values: Any, width: int, lengths: Any, ids: list[str]) -> list[NDArray[Any]]:
    """(L_i, d) arrays, all float16 or all float32."""
    found = [_numbers(key, value, name) for value, name in zip(values, ids, strict=True)]
    for row, (frames, name) in enumerate(zip(found, ids, strict=True)):
        if frames.ndim == 1 and width and not frames.size % width:
            frames = frames.reshape(-1, width)
        if frames.ndim != 2 or frames.shape[1] != width:
            raise FeatureFileError(
                f"batch: {key} of {shown(name)} has shape {frames.shape}, not (steps, {width}) as "
                "in training."
            )
        if lengths is not None:
            steps = np.asarray(lengths[row])
            if steps.dtype.kind not in "iu" or steps.size != 1 or not 0 <= steps <= len(frames):
                raise FeatureFileError(
                    f"batch: {key}_lengths of {shown(name)} is {lengths[row]!r:.80}, not a whole "
                    f"number from 0 to {len(frames)}."
                )
            frames = frames[: int(steps.reshape(()))]
        found[row] = frames
    half = all(frames.dtype == np.float16 for frames in found)
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinite
        return [f.astype(np.float16 if half else np.float32, copy=False) for f in found]


def _tokens(values: Any, segments: Any, ids: list[str]) -> list[NDArray[np.float64]]:
    """(L_i, 3) arrays without padding."""
    found = []
    for row, (value, name) in enumerate(zip(values, ids, strict=True)):
        tokens = _numbers("text_bert", value, name)
        if tokens.ndim == 1 and tokens.size:
            kinds = None if segments is None else segments[row]
            kinds = np.zeros(len(tokens)) if kinds is None or not len(kinds) else np.asarray(kinds)
            if kinds.shape == tokens.shape:
                tokens = np.stack([tokens, np.ones(len(tokens)), kinds])
        if tokens.ndim != 2 or len(tokens) != 3 or not tokens.size:
            raise FeatureFileError(
                f"batch: text_bert of {shown(name)} has shape {tokens.shape}, not (3, tokens), or "
                "(tokens,) with segments of as many."
            )
        steps = max(1, int((tokens[1] != 0).sum()))
        found.append(tokens[:, :steps].T.astype(np.float64))
    return found


def _numbers(key: str, value: Any, name: str) -> NDArray[Any]:
    try:
        array = np.asarray(value)
        if array.dtype == object and array.ndim:  # rows, as datasets gives nested lists
            array = np.asarray(array.tolist())
    except ValueError:
        array = np.array(None)
    if array.dtype.kind not in "biuf":
        raise FeatureFileError(f"batch: {key} of {shown(name)} is missing, or no numbers.")
    return array


def _unknown(count: int) -> NDArray[np.float32]:
    return np.full(count, np.nan, np.float32)
