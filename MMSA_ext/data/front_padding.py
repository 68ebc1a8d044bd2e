"""Zeros in front of the frames instead of behind them: found, and turned round where asked for.

MMSA and this package read a sample from its first frame on, as many frames as its length says. Of a
sample that is padded in front they see the padding.
"""

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.config.schema import FrontPadding
from MMSA_ext.data.feature_checks import SequenceFindings, as_numbers, blocks
from MMSA_ext.data.feature_report import FeatureReport
from MMSA_ext.errors import ConfigError

__all__ = ["FrontPadding", "check_choice", "check_front_padding", "turned", "turned_tokens"]

_FEWEST = 5  # samples; what is so in a few is silence
_SHARE = 4  # a quarter of the samples
_MORE_THAN_EARLY = 3
_AT_ONCE = 256


def check_choice(value: str | None) -> None:
    """Check the key `front_padding` of a configuration.

    Raises:
        ConfigError: it is neither None nor one of `FrontPadding`.
    """
    if value is not None and value not in get_args(FrontPadding):
        raise ConfigError(
            f"front_padding is {value!r}; use 'turn' (zeros in front of the frames go behind "
            "them), 'keep' (frames are read as they are), or leave it out."
        )


def check_front_padding(
    report: FeatureReport, found: Mapping[str, Mapping[str, SequenceFindings]]
) -> None:
    """Refuse audio or vision that is padded in front.

    That is where, over all splits, at least five samples, a quarter of all, begin with two zero
    frames or more and end in a frame that is not zero, three times as many as the other way round.
    Samples that do both, such as those without any frame, do not count.

    Args:
        report: receives findings.
        found: split -> key -> what is known of the array as it is stored.
    """
    for key in ("audio", "vision"):
        known = {split: keys[key] for split, keys in found.items() if key in keys}
        late = sum(item.late for item in known.values())
        early = sum(item.early for item in known.values())
        total = late + early + sum(item.full for item in known.values())
        if late < max(_FEWEST, total / _SHARE, _MORE_THAN_EARLY * early):
            continue
        report.problems.append(
            f"[{', '.join(known)}] {key}: {late} of {total} samples begin with zero frames and end "
            "in others, so their padding is in front, where frames are expected. Add "
            "--front-padding turn (in Python front_padding='turn', for a run in its config) to "
            "have it turned behind them; --front-padding keep reads the frames as they are."
        )


def turned(
    sequences: Mapping[str, NDArray[Any]], lengths: Mapping[str, NDArray[np.int64]]
) -> dict[str, tuple[NDArray[Any], int]]:
    """Move zero frames in front of each sample behind it; nothing else moves or is lost.

    Where text, audio and vision have as many steps, one step of all three belongs together: then
    each sample moves by the same steps in all of them; so it is where audio or vision is absent.

    Args:
        sequences: `text`, `audio`, `vision` -> (n, L, d); those there are.
        lengths: of those whose lengths are stored (n,); no more frames than these leave are moved.

    Returns:
        By key the array, a copy where something moved, and how many samples were moved.
    """
    shifts = {key: _leading_zero_frames(array) for key, array in sequences.items()}
    for key, known in lengths.items():
        shifts[key] = np.minimum(shifts[key], sequences[key].shape[1] - known)
    if "text" in sequences and len({array.shape[:2] for array in sequences.values()}) == 1:
        common: NDArray[np.int64] = np.stack(list(shifts.values())).min(axis=0)
        shifts = dict.fromkeys(sequences, common)
    return {key: _moved(array, shifts[key]) for key, array in sequences.items()}


def turned_tokens(value: Any) -> Any:
    """Move padding in front of the tokens behind them.

    Args:
        value: `text_bert`, (n, 3, L), as stored; anything else comes back as it is.
    """
    try:
        array = as_numbers(value)
    except (ValueError, TypeError, OverflowError):  # said where it is checked
        return value
    if array.ndim != 3 or array.shape[1] != 3 or 0 in array.shape or array.dtype.kind not in "iuf":
        return value
    by_step = array.swapaxes(1, 2)
    moved, _ = _moved(by_step, (by_step[:, :, 1] != 0).argmax(axis=1))
    return moved.swapaxes(1, 2)


def _leading_zero_frames(array: NDArray[Any]) -> NDArray[np.int64]:
    """How many frames (n,) before the first that is not all zeros; of a blank sample, L."""
    leading = np.empty(len(array), np.int64)
    for start, block in blocks(array):
        used = (block != 0).any(axis=2)
        first = np.where(used.any(axis=1), used.argmax(axis=1), used.shape[1])
        leading[start : start + len(block)] = first
    return leading


def _moved(array: NDArray[Any], shift: NDArray[np.int64]) -> tuple[NDArray[Any], int]:
    """A copy of (n, L, d), samples rolled `shift` (n,) steps towards their start, and how many."""
    length = array.shape[1]
    rows = np.flatnonzero(shift % length)
    if not len(rows):
        return array, 0
    array = array.copy()
    for some in np.array_split(rows, range(_AT_ONCE, len(rows), _AT_ONCE)):
        source = (np.arange(length) + shift[some, None]) % length
        array[some] = np.take_along_axis(array[some], source[:, :, None], axis=1)
    return array, len(rows)
