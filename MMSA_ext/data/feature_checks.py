"""Checks and repairs of the arrays of one split of a feature file.

Every function takes a `Scope`, files what it finds there, and returns the usable value, or None
where there is none. Arrays are visited in blocks, so that no temporary of an array's size exists.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.data.feature_report import FeatureReport
from MMSA_ext.data.pickles.errors import shown

__all__ = [
    "LABEL_RANGES",
    "Scope",
    "SequenceFindings",
    "check_ids",
    "check_labels",
    "check_lengths",
    "check_sequence",
    "check_strings",
    "check_text_bert",
    "derive_lengths",
    "frame_ends",
    "survey_sequence",
]

LABEL_RANGES = {
    "mosi": (-3.0, 3.0),
    "mosei": (-3.0, 3.0),
    "sims": (-1.0, 1.0),
    "simsv2": (-1.0, 1.0),
}
_RANGE_TOLERANCE = 1e-4  # labels such as 1/3 are stored rounded
_BLOCK_VALUES = 1 << 20
_SHOWN = 5
_FLOAT16_EXACT = 2048


@dataclass(frozen=True)
class SequenceFindings:
    """What one look at all values of a feature array finds and mends.

    Attributes:
        not_numbers: how many NaN were set to 0.
        silences: how many -inf were set to 0; in audio only.
        repaired: samples that had any of these.
        refused: samples with an infinity that no value stands for.
        blank: whether every value is 0.
        ends: frames of each sample up to the last that is not zero, at least 1; None where the
            lengths are stored, so that nobody asks for it.
    """

    not_numbers: int = 0
    silences: int = 0
    repaired: tuple[int, ...] = ()
    refused: tuple[int, ...] = ()
    blank: bool = False
    ends: tuple[int, ...] | None = None


@dataclass
class Scope:
    """Where a finding belongs: one split of one file.

    Attributes:
        report: receives the findings.
        split: name of the split.
        ids: sample ids once they are known, to name samples.
        sources: key -> name of the other file it comes from (feature_T, feature_A, feature_V).
        known: key -> findings about an array that was surveyed, and mended, before.
    """

    report: FeatureReport
    split: str
    ids: Sequence[str] = ()
    sources: dict[str, str] = field(default_factory=dict)
    known: dict[str, SequenceFindings] = field(default_factory=dict)

    def problem(self, key: str, text: str) -> None:
        """File something that makes the file unusable."""
        self.report.problems.append(f"{self._place(key)}: {text}")

    def warning(self, key: str, text: str) -> None:
        """File a repair or a surprise."""
        self.report.warnings.append(f"{self._place(key)}: {text}")

    def note(self, key: str, text: str) -> None:
        """File something worth knowing."""
        self.report.notes.append(f"{self._place(key)}: {text}")

    def samples(self, selected: NDArray[Any] | Sequence[int]) -> str:
        """Name samples by index and id.

        Args:
            selected: indices, or a boolean array of shape (n,).

        Returns:
            For example "2 samples: 4 (id 'a'), 9 (id 'b')"; long lists are cut.
        """
        array = np.asarray(selected)
        indices = np.flatnonzero(array) if array.dtype == bool else array
        shown = ", ".join(self._sample(int(index)) for index in indices[:_SHOWN])
        more = f" and {len(indices) - _SHOWN} more" if len(indices) > _SHOWN else ""
        return f"{len(indices)} sample{'' if len(indices) == 1 else 's'}: {shown}{more}"

    def _sample(self, index: int) -> str:
        return f"{index} (id {shown(self.ids[index])})" if index < len(self.ids) else str(index)

    def _place(self, key: str) -> str:
        source = f" of {self.sources[key]}" if key in self.sources else ""
        return f"[{self.split}] {key}{source}"


def check_ids(scope: Scope, value: Any) -> list[str] | None:
    """Check that sample ids are a list of unique values.

    Args:
        scope: where findings go.
        value: list, tuple or 1-D array of strings or numbers.

    Returns:
        Ids as plain strings.
    """
    ids = check_strings(scope, "id", value, convert=True)
    if ids is None:
        return None
    if not ids:
        scope.problem("id", "is empty. A split needs at least one sample.")
        return None
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        where = "; ".join(
            f"{shown(name)} at {[i for i, other in enumerate(ids) if other == name][:_SHOWN]}"
            for name in repeated[:_SHOWN]
        )
        scope.problem(
            "id",
            f"{len(repeated)} ids occur more than once ({where}). Give every sample its own id.",
        )
    return ids


def check_strings(scope: Scope, key: str, value: Any, *, convert: bool = False) -> list[str] | None:
    """Check a sequence of texts.

    Args:
        scope: where findings go.
        key: key of the value.
        value: list, tuple or 1-D array.
        convert: turn numbers into text instead of refusing them.

    Returns:
        Plain strings; bytes are decoded as UTF-8.
    """
    items = value.tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else value
    if not isinstance(items, list | tuple):
        what = f"shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        scope.problem(key, f"must be a list or 1-D array of one text a sample, is {what}.")
        return None
    texts: list[str] = []
    wrong: list[int] = []
    for index, item in enumerate(items):
        if isinstance(item, bytes):
            texts.append(item.decode("utf-8", errors="replace"))
        elif isinstance(item, str) or (convert and isinstance(item, int | float | np.number)):
            texts.append(str(item))
        else:
            texts.append("")
            wrong.append(index)
    if wrong:
        scope.problem(
            key,
            f"is {type(items[wrong[0]]).__name__} instead of text in {scope.samples(wrong)}. "
            "Write a text (it may be empty).",
        )
        return None
    return texts


def check_sequence(scope: Scope, key: str, value: Any) -> NDArray[Any] | None:
    """Check and repair a feature array.

    NaN becomes 0 (MMSA does so where it normalises). In audio -inf becomes 0, as in MMSA's
    loader: it is the logarithm of silence. Any other infinity is refused, because MMSA would pass
    it on to the model, and no value stands for it.

    Args:
        scope: where findings go.
        key: `text`, `audio` or `vision`.
        value: array (n, L, d) of any real dtype, or nested lists.

    Returns:
        The same array in its stored dtype, repaired in place where the memory allows it.
    """
    array = _numeric(scope, key, value)
    if array is None:
        return None
    if array.ndim != 3:
        scope.problem(
            key,
            f"has {array.ndim} dimensions, shape {array.shape}; must have 3: (samples, time, "
            "features).",
        )
        return None
    if 0 in array.shape:
        scope.problem(key, f"is empty, shape {array.shape}. Every dimension must be at least 1.")
        return None
    found = scope.known.get(key)
    if found is None:
        array, found = survey_sequence(key, array)
    _file_findings(scope, key, found)
    return array


def survey_sequence(key: str, array: NDArray[Any]) -> tuple[NDArray[Any], SequenceFindings]:
    """Look at every value of a feature array once, and mend what `check_sequence` mends.

    Args:
        key: `text`, `audio` or `vision`.
        array: numbers (n, L, d), no dimension 0.

    Returns:
        The same array, mended in place where its memory allows it, and what was found; `ends` is
        left out.
    """
    not_numbers = silences = 0
    repaired: list[int] = []
    refused: list[int] = []
    blank = True
    for start, block in _blocks(array):
        if block.dtype.kind == "f" and not np.isfinite(block).all():
            nan = np.isnan(block)
            silent = np.isneginf(block) if key == "audio" else np.zeros_like(nan)
            infinite = np.isinf(block) & ~silent
            not_numbers += int(nan.sum())
            silences += int(silent.sum())
            repaired += (start + np.flatnonzero((nan | silent).any(axis=(1, 2)))).tolist()
            refused += (start + np.flatnonzero(infinite.any(axis=(1, 2)))).tolist()
            if not array.flags.writeable:
                array = array.copy()
            block = array[start : start + len(block)]
            block[nan | silent] = 0
        blank = blank and not block.any()
    found = SequenceFindings(not_numbers, silences, tuple(repaired), tuple(refused), blank)
    return array, found


def check_lengths(scope: Scope, key: str, value: Any, time: int | None) -> NDArray[np.int64] | None:
    """Check sequence lengths against the time dimension.

    0 becomes 1 with a warning: MMSA's own files have it where no frame was found, and an encoder
    needs one step to read.

    Args:
        scope: where findings go.
        key: `audio_lengths` or `vision_lengths`.
        value: n integers.
        time: time dimension of the feature array; None if that array is unusable.

    Returns:
        int64 of shape (n,).
    """
    array = _numeric(scope, key, value)
    if array is None:
        return None
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        scope.problem(key, f"must have shape (samples,), has {array.shape}.")
        return None
    whole = np.isfinite(array) & (array == np.floor(array))
    if not whole.all():
        scope.problem(key, f"is no whole number in {scope.samples(~whole)}.")
        return None
    lengths = array.astype(np.int64)
    outside = (lengths < 0) | (lengths > (time if time is not None else lengths.max(initial=0)))
    if outside.any():
        first = int(lengths[outside][0])
        scope.problem(
            key,
            f"is outside 1..{time} (the time dimension) in {scope.samples(outside)}; the first is "
            f"{first}. Correct it, or leave {key} out to have it derived from trailing zero "
            "frames.",
        )
        return None
    if (lengths == 0).any():
        scope.warning(key, f"is 0 in {scope.samples(lengths == 0)}; read as 1.")
        lengths[lengths == 0] = 1
    return lengths


def derive_lengths(
    scope: Scope, key: str, array: NDArray[Any], ends: Sequence[int] | None = None
) -> NDArray[np.int64]:
    """Take everything up to the last non-zero frame as a sample's length.

    Args:
        scope: receives a note.
        key: `audio_lengths` or `vision_lengths`.
        array: (n, L, d).
        ends: what `frame_ends` gives for the array, where that is known.

    Returns:
        int64 of shape (n,), at least 1.
    """
    scope.note(key, "is absent; derived from trailing all-zero frames.")
    return frame_ends(array) if ends is None else np.array(ends, np.int64)


def frame_ends(array: NDArray[Any]) -> NDArray[np.int64]:
    """Count each sample's frames up to the last that is not all zeros.

    Args:
        array: (n, L, d).

    Returns:
        int64 of shape (n,), at least 1.
    """
    lengths = np.empty(len(array), np.int64)
    for start, block in _blocks(array):
        used = (block != 0).any(axis=2)
        last = used.shape[1] - used[:, ::-1].argmax(axis=1)
        lengths[start : start + len(block)] = np.where(used.any(axis=1), last, 1)
    return lengths


def check_text_bert(scope: Scope, value: Any) -> NDArray[Any] | None:
    """Check token ids, attention mask and segment ids.

    Args:
        scope: where findings go.
        value: (n, 3, L): rows are ids, mask, segments.

    Returns:
        The array in its stored dtype.
    """
    key = "text_bert"
    array = _numeric(scope, key, value)
    if array is None:
        return None
    if array.ndim != 3 or array.shape[1] != 3 or 0 in array.shape:
        hint = " Swap its last two axes." if array.ndim == 3 and array.shape[2] == 3 else ""
        scope.problem(
            key,
            f"must have shape (samples, 3, tokens): ids, mask, segments; has {array.shape}.{hint}",
        )
        return None
    ids, mask, segments = array[:, 0], array[:, 1], array[:, 2]
    bad_ids = (~np.isfinite(ids) | (ids < 0) | (ids != np.floor(ids))).any(axis=1)
    if bad_ids.any():
        scope.problem(key, f"ids (row 0) are no token numbers in {scope.samples(bad_ids)}.")
    if array.dtype == np.float16 and ids.max() > _FLOAT16_EXACT:
        scope.problem(
            key,
            f"is float16, which rounds token ids above {_FLOAT16_EXACT}. Store it as float32 or "
            "int32 (run `mmsa-ext encode-text`).",
        )
    bad_segments = ((segments != 0) & (segments != 1)).any(axis=1)
    if bad_segments.any():
        scope.problem(key, f"segments (row 2) are not 0 or 1 in {scope.samples(bad_segments)}.")
    _check_mask(scope, key, mask)
    return array


def _check_mask(scope: Scope, key: str, mask: NDArray[Any]) -> None:
    bad = ((mask != 0) & (mask != 1)).any(axis=1)
    if bad.any():
        scope.problem(key, f"mask (row 1) is not 0 or 1 in {scope.samples(bad)}.")
    empty = (mask == 0).all(axis=1)
    if empty.any():
        scope.problem(
            key,
            f"mask (row 1) is all 0 in {scope.samples(empty)}. Even an empty text has its first "
            "and last token.",
        )
    rises = ~bad & (mask[:, 1:] > mask[:, :-1]).any(axis=1)
    if rises.any():
        scope.problem(
            key,
            f"mask (row 1) is not ones followed by zeros in {scope.samples(rises)}. Pad at the "
            "end.",
        )


def check_labels(
    scope: Scope, key: str, value: Any, dataset: str | None, *, required: bool = True
) -> NDArray[np.float32] | None:
    """Check regression labels.

    Args:
        scope: where findings go.
        key: key of the labels.
        value: (n,) or (n, 1).
        dataset: decides the range, see `LABEL_RANGES`.
        required: False: labels that are not numbers are dropped with a warning.

    Returns:
        float32 of shape (n,).
    """
    array = _numeric(scope, key, value)
    if array is None:
        return None
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        scope.problem(key, f"must have shape (samples,), has {array.shape}.")
        return None
    labels = array.astype(np.float32)
    unusable = ~np.isfinite(labels)
    if unusable.any() and not required:
        scope.warning(
            key,
            f"is NaN or infinite in {scope.samples(unusable)}; the split is read as unlabelled.",
        )
        return None
    if unusable.any():
        scope.problem(
            key,
            f"is NaN or infinite in {scope.samples(unusable)}. Label these samples or remove them.",
        )
    if dataset in LABEL_RANGES:
        low, high = LABEL_RANGES[dataset]
        outside = (labels < low - _RANGE_TOLERANCE) | (labels > high + _RANGE_TOLERANCE)
        if outside.any():
            scope.problem(
                key,
                f"is outside [{low:g}, {high:g}], the range of {dataset}, in "
                f"{scope.samples(outside)}; the first is {labels[outside][0]:g}. Rescale the "
                "labels, or name the data set they belong to.",
            )
    return labels


def _numeric(scope: Scope, key: str, value: Any) -> NDArray[Any] | None:
    if isinstance(value, list | tuple) and _holds_text(value):
        # numpy would give every item of the array the room of the longest text.
        scope.problem(key, "holds text, which is not numeric.")
        return None
    try:
        array = np.asarray(value)
    except ValueError:
        scope.problem(key, "has samples of different shapes. Pad them to one length with zeros.")
        return None
    if array.dtype.kind not in "fiu":
        hint = (
            " Samples of different lengths must be padded to one array."
            if array.dtype == object
            else ""
        )
        scope.problem(key, f"has dtype {array.dtype}, which is not numeric.{hint}")
        return None
    return array


def _holds_text(value: Any) -> bool:
    """Whether a value is text, or has some in lists or arrays at any depth."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "US"
    if not isinstance(value, list | tuple):
        return isinstance(value, str | bytes)
    kinds = set(map(type, value))
    if any(issubclass(kind, list | tuple | np.ndarray) for kind in kinds):
        return any(map(_holds_text, value))
    return any(issubclass(kind, str | bytes) for kind in kinds)


def _file_findings(scope: Scope, key: str, found: SequenceFindings) -> None:
    if found.not_numbers or found.silences:
        what = [f"{found.not_numbers} NaN"] * bool(found.not_numbers)
        what += [f"{found.silences} -inf"] * bool(found.silences)
        scope.warning(key, f"{' and '.join(what)} set to 0 in {scope.samples(found.repaired)}.")
    if found.refused:
        scope.problem(
            key,
            f"is infinite in {scope.samples(found.refused)}. Replace it by a finite value (only "
            "-inf in audio, the logarithm of silence, is read as 0).",
        )
    if found.blank:
        scope.note(key, "is all zeros, so this modality carries nothing.")


def _blocks(array: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    step = max(1, _BLOCK_VALUES // max(1, array[0].size))
    for start in range(0, len(array), step):
        yield start, array[start : start + step]
