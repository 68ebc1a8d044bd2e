"""Samples from arrays that are padded to one length, as pickles and arrays of others have them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.data.feature_checks import SequenceFindings, as_numbers, frame_ends
from MMSA_ext.data.feature_layout import ARRAYS, LABEL_KEYS, READ_KEYS
from MMSA_ext.data.feature_report import FeatureReport
from MMSA_ext.data.front_padding import check_front_padding, turned, turned_tokens
from MMSA_ext.data.samples import Sample
from MMSA_ext.names import FRAMES, MODALITIES

if TYPE_CHECKING:
    from MMSA_ext.config.schema import FrontPadding
    from MMSA_ext.data.convert.report import ConversionReport

__all__ = ["as_list", "padded_samples", "plain_texts"]


def padded_samples(
    splits: Mapping[str, Mapping[str, Any]],
    report: ConversionReport,
    front_padding: FrontPadding | None,
) -> Iterator[Sample]:
    """Samples without their padding.

    A sample ends where its stored length says; else behind its last frame that is not all zeros,
    and, where text, audio and vision have as many steps, where the last of the three does. Lists
    of arrays of different lengths are not padded, and stay as they are.

    Args:
        splits: split -> MMSA's keys, `id` a list of texts.
        report: receives problems.
        front_padding: see `front_padding.check_front_padding`.

    Yields:
        Split after split, in the order of the arrays.
    """
    arrays = {name: _arrays(name, raw, report) for name, raw in splits.items()}
    for key in ARRAYS:
        if any(key in found for found in arrays.values()):
            report.expected[key] = f"key {key!r}"
    if unused := sorted({str(key) for raw in splits.values() for key in raw} - {*READ_KEYS}):
        report.note(f"Keys not used: {', '.join(unused)}.")
    labels = {name: _all_labels(name, raw, report) for name, raw in splits.items()}
    for kind, key in LABEL_KEYS.items():
        if any(not np.isnan(own[kind]).all() for own in labels.values() if kind in own):
            report.expected[kind] = f"key {key!r}"
    report.transcripts = any(raw.get("raw_text") is not None for raw in splits.values())
    if front_padding is None:
        _refuse_front_padding(arrays, report)
    for key in FRAMES:
        if key in report.expected:
            stored = all(raw.get(f"{key}_lengths") is not None for raw in splits.values())
            rule = "as stored" if stored else "up to the last frame that is not all zeros"
            report.note(f"Lengths of {key}: {rule}.")
    turn = front_padding == "turn"
    moved: Counter[str] = Counter()
    for name, raw in splits.items():
        yield from _samples(name, raw, arrays[name], labels[name], report, moved if turn else None)
    if moved:
        counts = ", ".join(f"{key} {count}" for key, count in moved.items())
        report.note(f"Zeros in front of the frames were moved behind them, in samples: {counts}.")


def as_list(value: Any) -> list[Any] | None:
    """The items of a list, tuple or array; None of anything else."""
    items = value.tolist() if isinstance(value, np.ndarray) else value
    return list(items) if isinstance(items, list | tuple) else None


def plain_texts(value: Any) -> list[str]:
    """Texts of a list or array, bytes decoded; parts of one text are joined by `$_$`."""
    return [_text(item) for item in as_list(value) or ()]


def _text(item: Any) -> str:
    if isinstance(item, bytes):
        return item.decode("utf-8", errors="replace")
    if isinstance(item, list | tuple):
        return "$_$".join(map(_text, item))
    return "" if item is None else str(item)


def _arrays(split: str, raw: Mapping[str, Any], report: ConversionReport) -> dict[str, Any]:
    """Arrays (n, L, d), or lists of (L, d), by key; others are problems."""
    found: dict[str, Any] = {}
    for key in ARRAYS:
        if raw.get(key) is None:
            continue
        value = raw[key]
        try:
            array = as_numbers(value)
        except (ValueError, TypeError, OverflowError):
            if (items := _ragged(value)) is not None:
                found[key] = items
                continue
            array = np.zeros(0)
        if array.ndim == 2 and key in FRAMES:
            report.count(f"{key} without time is read as one frame a sample, in split", split)
            array = array[:, None]
        usable = array.ndim == 3 and array.dtype.kind in "biuf" and 0 not in array.shape
        if not usable or (key == "text_bert" and array.shape[1] != 3):
            report.problem(
                f"{key} is not (samples, time, features)",
                f"split {split} has {array.dtype} {array.shape}",
                "Store numbers in three dimensions, text_bert as (samples, 3, tokens).",
            )
            continue
        found[key] = array
    return found


def _ragged(value: Any) -> list[NDArray[Any]] | None:
    """Arrays (L, d) of different lengths; None of anything else."""
    try:
        items = [as_numbers(item) for item in value]
    except (ValueError, TypeError, OverflowError):
        return None
    sound = all(item.ndim == 2 and item.dtype.kind in "biuf" for item in items)
    return items if sound else None


def _refuse_front_padding(
    arrays: Mapping[str, Mapping[str, Any]], report: ConversionReport
) -> None:
    found = {
        split: {key: _ends(array) for key, array in own.items() if isinstance(array, np.ndarray)}
        for split, own in arrays.items()
    }
    check = FeatureReport(report.source)
    check_front_padding(check, found)
    for text in check.problems:
        report.problem(text.removesuffix("."))


def _ends(array: NDArray[Any]) -> SequenceFindings:
    begin, end = array[:, :2].any(axis=(1, 2)), array[:, -1].any(axis=1)
    return SequenceFindings(
        late=int((~begin & end).sum()),
        early=int((begin & ~end).sum()),
        full=int((begin & end).sum()),
    )


def _samples(
    split: str,
    raw: Mapping[str, Any],
    arrays: dict[str, Any],
    labels: Mapping[str, NDArray[np.float64]],
    report: ConversionReport,
    moved: Counter[str] | None,
) -> Iterator[Sample]:
    ids = raw["id"]
    texts = plain_texts(raw["raw_text"]) if raw.get("raw_text") is not None else [""] * len(ids)
    lengths = {key: _lengths(split, key, raw, report) for key in FRAMES if key in arrays}
    parts = {"raw_text": texts, **labels, **arrays}
    parts |= {f"{key}_lengths": known for key, known in lengths.items() if known is not None}
    if wrong := {key: len(part) for key, part in parts.items() if len(part) != len(ids)}:
        report.problem(
            "keys differ in their number of samples",
            f"split {split} has {len(ids)} ids and {wrong}",
            "Store one of each for every sample.",
        )
        return
    if moved is not None:
        moved.update(_turn(arrays, lengths))
    ends = _all_ends(arrays, lengths)
    for i, name in enumerate(ids):
        sequences = {key: array[i] for key, array in arrays.items() if key != "text_bert"}
        tokens = arrays["text_bert"][i] if "text_bert" in arrays else None
        for key, frames in sequences.items():
            if key in FRAMES or tokens is None:
                report.arrived(split, key, len(frames))
        if tokens is not None:
            report.arrived(split, "text", tokens.shape[-1])
            mask = tokens[1] != 0
            if not mask[: mask.sum()].all():
                report.problem(
                    "text_bert has padding before tokens",
                    f"id {name!r}",
                    "--front-padding turn moves it behind; or make tokens by --pretrained NAME.",
                )
            tokens = tokens[:, : mask.sum()].astype(np.int64)
        yield Sample(
            name,
            split,
            texts[i],
            tokens,
            **{key: frames[: ends[key][i]] for key, frames in sequences.items()},
            labels={k: float(v[i]) for k, v in labels.items() if not np.isnan(v[i])},
        )


def _all_labels(
    split: str, raw: Mapping[str, Any], report: ConversionReport
) -> dict[str, NDArray[np.float64]]:
    return {
        kind: _labels(split, key, raw[key], report)
        for kind, key in LABEL_KEYS.items()
        if raw.get(key) is not None
    }


def _labels(split: str, key: str, value: Any, report: ConversionReport) -> NDArray[np.float64]:
    """One number a sample, NaN of none; (n, 1) and (n, 1, 1) too."""
    try:
        items = as_numbers(value)
        if items.dtype.kind not in "iuf":
            items = np.array([np.nan if item in (None, "") else item for item in items.ravel()])
        if items.dtype.kind in "biuf" and items.dtype.kind != "b" and items.size == len(items):
            return items.reshape(-1).astype(np.float64)
        what = f"{items.dtype} {items.shape}"
    except (ValueError, TypeError, OverflowError):
        what = "values of different shapes"
    report.problem(
        f"{key} is not one number a sample", f"split {split} has {what}", "Store numbers."
    )
    return np.zeros(0)


def _lengths(
    split: str, key: str, raw: Mapping[str, Any], report: ConversionReport
) -> NDArray[np.int64] | None:
    """Stored lengths; a sample of none keeps a frame, as everywhere."""
    stored = raw.get(f"{key}_lengths")
    if stored is None:
        return None
    try:
        found = as_numbers(stored).reshape(-1)
        with np.errstate(invalid="ignore"):
            lengths = found.astype(np.int64)
        longest = np.array([len(frames) for frames in raw[key]])
        if ((lengths == found) & (lengths >= 0) & (lengths <= longest)).all():
            return np.maximum(lengths, 1)
    except (ValueError, TypeError, OverflowError):
        pass
    report.problem(
        f"{key}_lengths does not fit {key}",
        f"split {split}",
        f"Store the number of valid frames of each sample, or leave {key}_lengths out.",
    )
    return None


def _turn(
    arrays: dict[str, Any], lengths: Mapping[str, NDArray[np.int64] | None]
) -> dict[str, int]:
    """Turn padding in front round, in place of the arrays; how many samples by key."""
    padded = {key: arrays[key] for key in MODALITIES if isinstance(arrays.get(key), np.ndarray)}
    known = {key: n for key, n in lengths.items() if n is not None and key in padded}
    found = turned(padded, known)
    arrays |= {key: array for key, (array, _) in found.items()}
    if isinstance(arrays.get("text_bert"), np.ndarray):
        arrays["text_bert"] = turned_tokens(arrays["text_bert"])
    return {key: count for key, (_, count) in found.items() if count}


def _all_ends(
    arrays: Mapping[str, Any], lengths: Mapping[str, NDArray[np.int64] | None]
) -> dict[str, Any]:
    """Where each sample ends, by key."""
    tokens = arrays.get("text_bert")
    ends: dict[str, Any] = {}
    derived = []
    for key in MODALITIES:
        if key not in arrays:
            continue
        array, known = arrays[key], lengths.get(key)
        if known is not None:
            ends[key] = known
        elif not isinstance(array, np.ndarray):
            ends[key] = [len(item) for item in array]
        elif key == "text" and isinstance(tokens, np.ndarray) and array.shape[1] == tokens.shape[2]:
            ends[key] = (tokens[:, 1] != 0).sum(axis=1)
        else:
            ends[key] = frame_ends(array)
            derived.append(key)
    if len(derived) == 3 and len({arrays[key].shape[1] for key in derived}) == 1:
        common = np.max([ends[key] for key in derived], axis=0)
        ends = dict.fromkeys(derived, common)
    return ends
