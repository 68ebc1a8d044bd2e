"""Checks and repairs of the arrays of one split of a feature file.

Every function takes a `Scope`, files what it finds there, and returns the usable value, or None
where there is none. Arrays are visited in blocks, so that no temporary of an array's size exists.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.data.feature_report import FeatureReport, ScaleSummary
from MMSA_ext.data.pickles.errors import shown
from MMSA_ext.datasets import Dataset

__all__ = [
    "Scope",
    "SequenceFindings",
    "as_numbers",
    "blocks",
    "check_ids",
    "check_labels",
    "check_lengths",
    "check_scales",
    "check_sequence",
    "check_strings",
    "check_text_bert",
    "derive_lengths",
    "frame_ends",
    "survey_sequence",
]

_RANGE_TOLERANCE = 1e-4  # labels such as 1/3 are stored rounded
_BLOCK_VALUES = 1 << 20
_SHOWN = 5
_FLOAT16_EXACT = 2048
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_SCALE_SAMPLES = 256  # at least so many of a split, evenly spread, show the scale of its features
_SCALE_RATIO = 100


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
        gaps: features of samples in which a NaN was set to 0, each as sample * d + feature.
        excessive: likewise, features of samples that are too large to compute with in float32.
        largest: the largest of these, without its sign.
        late: samples that begin with two zero frames or more and do not end in one.
        early: samples that end in a zero frame and do not begin with two.
        full: samples that do neither.
        mean_squares: of each feature over frames, a zero frame counted as any; (d,).
    """

    not_numbers: int = 0
    silences: int = 0
    repaired: tuple[int, ...] = ()
    refused: tuple[int, ...] = ()
    blank: bool = False
    ends: tuple[int, ...] | None = None
    gaps: tuple[int, ...] = ()
    excessive: tuple[int, ...] = ()
    largest: float = 0.0
    late: int = 0
    early: int = 0
    full: int = 0
    mean_squares: tuple[float, ...] = ()


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
        mend = " Join the parts of an id to one text." if np.ndim(value) == 2 else ""
        scope.problem(key, f"must be a list or 1-D array of one text a sample, is {what}.{mend}")
        return None
    found = [_as_text(item, convert) for item in items]
    texts = [text or "" for text in found]
    wrong = [index for index, text in enumerate(found) if text is None]
    if wrong:
        scope.problem(
            key,
            f"is {type(items[wrong[0]]).__name__} instead of text in {scope.samples(wrong)}. "
            "Write a text (it may be empty).",
        )
        return None
    if halves := _not_encodable(texts):
        scope.problem(
            key,
            "holds half of a surrogate pair, which is no character and cannot be written, in "
            f"{scope.samples(halves)}. Write the whole character, or leave it out.",
        )
        return None
    return texts


def _as_text(item: Any, convert: bool) -> str | None:
    if isinstance(item, bytes):
        return item.decode("utf-8", errors="replace")
    if isinstance(item, str) or (convert and isinstance(item, int | float | np.number)):
        try:
            return str(item)
        except ValueError:  # a number of thousands of digits
            return None
    return None


def _not_encodable(texts: list[str]) -> list[int]:
    """Which texts UTF-8 cannot hold."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        whole = [text.encode(errors="replace").decode() for text in texts]
        return [i for i, text in enumerate(texts) if whole[i] != text]
    return []


def check_sequence(scope: Scope, key: str, value: Any) -> NDArray[Any] | None:
    """Check and repair a feature array.

    NaN becomes 0 (MMSA does so where it normalises). In audio -inf becomes 0, as in MMSA's
    loader: it is the logarithm of silence. Any other infinity is refused, because MMSA would pass
    it on to the model, and no value stands for it. So are numbers whose squares, summed over a
    sample, float32 cannot hold.

    Args:
        scope: where findings go; `scope.known` learns of the array.
        key: `text`, `audio` or `vision`.
        value: array (n, L, d) of any real dtype or of booleans, arrays in a list or in an array of
            objects, or nested lists.

    Returns:
        The same array in its stored dtype, repaired in place where the memory allows it.
    """
    array = _numeric(scope, key, value, "biuf")
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
        hint = " Where there is no such modality, leave the key out." * (key != "text")
        scope.problem(
            key, f"is empty, shape {array.shape}. Every dimension must be at least 1.{hint}"
        )
        return None
    if key not in scope.known:
        array, scope.known[key] = survey_sequence(key, array)
    _file_findings(scope, key, scope.known[key], array.shape)
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
    limit = _largest_usable(array.shape)
    if array.dtype == np.float16:
        limit = min(limit, float(np.finfo(np.float16).max))
    not_numbers = silences = 0
    repaired: list[int] = []
    refused: list[int] = []
    gaps: list[int] = []
    excessive: list[int] = []
    largest = 0.0
    blank = True
    for start, block in blocks(array):
        if not _is_usual(block, limit):
            nan = np.isnan(block)
            silent = np.isneginf(block) if key == "audio" else np.zeros_like(nan)
            infinite = np.isinf(block) & ~silent
            not_numbers += int(nan.sum())
            silences += int(silent.sum())
            repaired += (start + np.flatnonzero((nan | silent).any(axis=(1, 2)))).tolist()
            refused += (start + np.flatnonzero(infinite.any(axis=(1, 2)))).tolist()
            gaps += _places(nan, start)
            if (nan | silent).any():
                if not array.flags.writeable:
                    array = array.copy()
                block = array[start : start + len(block)]
                block[nan | silent] = 0
            huge = ((block > limit) | (block < -limit)) & ~infinite
            excessive += _places(huge, start)
            largest = max(largest, float(np.abs(block[huge].astype(np.float64)).max(initial=0)))
        blank = blank and not block.any()
    begin, end = array[:, :2].any(axis=(1, 2)), array[:, -1].any(axis=1)
    found = SequenceFindings(
        *(not_numbers, silences, tuple(repaired), tuple(refused), blank),
        gaps=tuple(gaps),
        excessive=tuple(excessive),
        largest=largest,
        late=int((~begin & end).sum()),
        early=int((begin & ~end).sum()),
        full=int((begin & end).sum()),
        mean_squares=tuple(_mean_squares(array).tolist()),
    )
    return array, found


def _largest_usable(shape: tuple[int, ...]) -> float:
    """Of which as many squares as a sample (L, d) has values add up to what float32 holds."""
    return math.sqrt(_FLOAT32_MAX / (shape[1] * shape[2]))


def _is_usual(block: NDArray[Any], limit: float) -> bool:
    """Whether all values are finite and in the limit, without a temporary for most dtypes."""
    if block.dtype == np.float16:  # its numbers are small, and its minimum takes long to find
        return bool(np.isfinite(block).all())
    return bool(block.min() >= -limit and block.max() <= limit)  # False of NaN


def _places(selected: NDArray[np.bool_], start: int) -> list[int]:
    """Features of samples with a selected frame, of (b, L, d), as sample * d + feature."""
    found: list[int] = (start * selected.shape[2] + np.flatnonzero(selected.any(axis=1))).tolist()
    return found


def _mean_squares(array: NDArray[Any]) -> NDArray[np.float64]:
    """Mean square (d,) of each feature over all frames of some samples of (n, L, d)."""
    rows = array[:: max(1, len(array) // _SCALE_SAMPLES)]
    total = np.zeros(array.shape[2])
    with np.errstate(over="ignore"):
        for _, block in blocks(rows):
            total += np.einsum("nld,nld->d", block, block, dtype=np.float64, casting="unsafe")
    total /= len(rows) * array.shape[1]
    return total


def check_scales(scope: Scope, key: str) -> None:
    """Report the scales of features, and warn of those that are much larger or smaller.

    The scale of a feature is its root mean square over frames. Padding is zeros in every feature,
    so that it changes no ratio of two scales.

    Args:
        scope: where findings go, and what is known of the array.
        key: `audio` or `vision`.
    """
    scales = np.sqrt(scope.known[key].mean_squares) if key in scope.known else np.zeros(0)
    if len(scales) and np.isfinite(scales).all():
        scope.report.scales[key] = ScaleSummary.of(scales)
    used = scales > 0
    if used.sum() < 3 or not np.isfinite(scales).all():
        return
    ratios = np.divide(scales, np.median(scales[used]), where=used, out=np.ones_like(scales))
    parts = [
        _compared_features(ratios, ratios > _SCALE_RATIO, "up to ", "{:.0f} times"),
        _compared_features(1 / ratios, ratios < 1 / _SCALE_RATIO, "down to ", "1/{:.0f} of"),
    ]
    if any(parts):
        scope.warning(
            key,
            f"is not of one scale: {' and '.join(filter(None, parts))} the features' median (root "
            "mean square over frames). Where they are not scaled, large features outweigh the "
            "others: feature_scaling=standardise, this package's models' default, scales them in "
            "any model, and `mmsa-ext standardise` in the file.",
        )


def _compared_features(
    ratios: NDArray[Any], selected: NDArray[np.bool_], several: str, form: str
) -> str:
    """For example "features 3, 9 are up to 120 times", "feature 3 is 120 times"; or nothing."""
    indices = np.flatnonzero(selected)
    if not len(indices):
        return ""
    verb = f"are {several}" if len(indices) > 1 else "is "
    return f"{_features(indices)} {verb}{form.format(ratios[indices].max())}"


def _features(indices: NDArray[np.int64]) -> str:
    shown = ", ".join(map(str, indices[:_SHOWN]))
    more = f" and {len(indices) - _SHOWN} more" if len(indices) > _SHOWN else ""
    return f"feature{'s' if len(indices) > 1 else ''} {shown}{more}"


def check_lengths(scope: Scope, key: str, value: Any, time: int | None) -> NDArray[np.int64] | None:
    """Check sequence lengths against the time dimension.

    0 becomes 1 with a warning: MMSA's own files have it where no frame was found, and an encoder
    needs one step to read.

    Args:
        scope: where findings go.
        key: `audio_lengths` or `vision_lengths`.
        value: n integers, as (n,) or (n, 1).
        time: time dimension of the feature array; None if that array is unusable.

    Returns:
        int64 of shape (n,).
    """
    array = _one_number_a_sample(scope, key, _numeric(scope, key, value))
    if array is None:
        return None
    whole = np.isfinite(array) & (array == np.floor(array))
    if not whole.all():
        scope.problem(key, f"is no whole number in {scope.samples(~whole)}.")
        return None
    with np.errstate(invalid="ignore"):
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
    for start, block in blocks(array):
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
            "end; where the padding is in front, --front-padding turn (front_padding='turn') has "
            "it turned round.",
        )


def check_labels(
    scope: Scope, key: str, value: Any, dataset: Dataset | None, *, required: bool = True
) -> NDArray[np.float32] | None:
    """Check regression labels.

    None and an empty text stand for no label.

    Args:
        scope: where findings go.
        key: key of the labels.
        value: one number a sample, as (n,), (n, 1) or (n, 1, 1).
        dataset: decides the range; None checks none.
        required: False: where a sample has no label, the split is read as unlabelled.

    Returns:
        float32 of shape (n,); None where there are no labels to be had.
    """
    array = _numeric(scope, key, _with_gaps(value))
    if array is not None and not required and np.isnan(array).all():
        scope.note(key, "holds no label; the split is read as unlabelled.")
        return None
    array = _one_number_a_sample(scope, key, array)
    if array is None:
        return None
    with np.errstate(over="ignore"):
        labels = array.astype(np.float32)
    unusable = ~np.isfinite(labels)
    if unusable.any() and not required:
        scope.warning(
            key,
            f"is absent, NaN or infinite in {scope.samples(unusable)}; the split is read as "
            "unlabelled.",
        )
        return None
    if unusable.any():
        scope.problem(
            key,
            f"is absent, NaN or infinite in {scope.samples(unusable)}. Label these samples or "
            "remove them.",
        )
    if dataset is not None:
        low, high = dataset.label_range
        outside = (labels < low - _RANGE_TOLERANCE) | (labels > high + _RANGE_TOLERANCE)
        outside &= ~unusable
        if outside.any():
            scope.problem(
                key,
                f"is outside [{low:g}, {high:g}], the range of {dataset.name}, in "
                f"{scope.samples(outside)}; the first is {labels[outside][0]:g}. Rescale the "
                "labels, or name the data set they belong to.",
            )
    return labels


def _with_gaps(value: Any) -> Any:
    """Labels with NaN in the place of None and of empty texts."""
    try:
        array = np.asarray(value, object if _holds_text(value) else None)
        if array.dtype.kind not in "OUS":
            return array
        items = [math.nan if _is_blank(item) else item for item in array.ravel().tolist()]
        return value if _holds_text(items) else np.array(items).reshape(array.shape)
    except ValueError:  # of different shapes: said where they are read as numbers
        return value


def _is_blank(item: Any) -> bool:
    return item is None or (isinstance(item, str | bytes) and not item)


def _one_number_a_sample(scope: Scope, key: str, array: NDArray[Any] | None) -> NDArray[Any] | None:
    """Numbers (n,), whose further dimensions had one element each."""
    if array is None or array.ndim == 1:
        return array
    if array.ndim == 0 or array.size != len(array):
        scope.problem(key, f"must have shape (samples,), has {array.shape}.")
        return None
    return array.reshape(-1)


def as_numbers(value: Any) -> NDArray[Any]:
    """The array that a value holds; of an array of objects, the array of what these are.

    Args:
        value: array, or nested lists of numbers and arrays.

    Raises:
        ValueError: its parts are of different shapes.
    """
    array = np.asarray(value)
    return np.asarray(array.tolist()) if array.dtype == object else array


def _numeric(scope: Scope, key: str, value: Any, kinds: str = "iuf") -> NDArray[Any] | None:
    """An array of one of the `kinds` of dtype (numpy's letters)."""
    listed = value.tolist() if isinstance(value, np.ndarray) and value.dtype == object else value
    if isinstance(listed, list | tuple) and _holds_text(listed):
        # numpy would give every item of the array the room of the longest text.
        scope.problem(key, "holds text, which is not numeric. Store numbers.")
        return None
    try:
        array = as_numbers(value)
    except (ValueError, TypeError, OverflowError):
        scope.problem(
            key,
            "has samples of different shapes, or without values. Pad them to one length with "
            "zeros.",
        )
        return None
    if array.dtype.kind not in kinds:
        scope.problem(key, f"has dtype {array.dtype}, which is not numeric. Store numbers.")
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


def _file_findings(scope: Scope, key: str, found: SequenceFindings, shape: tuple[int, ...]) -> None:
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
    if found.excessive:
        samples, features = np.divmod(np.array(found.excessive), shape[2])
        scope.problem(
            key,
            f"is as large as {found.largest:.3g} in {_features(np.unique(features))} of "
            f"{scope.samples(np.unique(samples))}: models compute in float32, which cannot add up "
            f"the squares of values beyond {_largest_usable(shape):.0e}. Correct these values, or "
            "scale the feature.",
        )
    if found.blank:
        scope.note(key, "is all zeros, so this modality carries nothing.")


def blocks(array: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Samples of (n, ...) in groups with the index of their first; no group is large."""
    step = max(1, _BLOCK_VALUES // max(1, array[0].size))
    for start in range(0, len(array), step):
        yield start, array[start : start + step]
