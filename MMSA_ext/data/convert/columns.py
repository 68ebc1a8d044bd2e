"""Utterances from the columns of a table: ids, texts, labels, splits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from MMSA_ext.data.convert.splits import assigned
from MMSA_ext.data.feature_layout import SPLIT_NAMES
from MMSA_ext.data.samples import Sample
from MMSA_ext.errors import ConfigError, suggest
from MMSA_ext.names import SPLITS

if TYPE_CHECKING:
    import pandas as pd

    from MMSA_ext.data.convert.options import Options
    from MMSA_ext.data.convert.report import ConversionReport

__all__ = ["COLUMNS", "find_columns", "utterances"]

# What we call a column, and what else it is taken by without being told; `video_id+clip_id` is how
# MMSA's own label files name a sample.
COLUMNS: dict[str, tuple[str, ...]] = {
    "id": ("ids", "utterance_id", "segment_id", "video_id+clip_id"),
    "text": ("raw_text", "transcript", "utterance", "sentence"),
    "label": ("labels", "regression_labels", "sentiment", "label_M"),
    "label_T": ("regression_labels_T",),
    "label_A": ("regression_labels_A",),
    "label_V": ("regression_labels_V",),
    "split": ("mode", "fold", "subset"),
}
_KINDS = {"label": "M", "label_T": "T", "label_A": "A", "label_V": "V"}
_SEED, _SHARES = 1111, (0.7, 0.1, 0.2)
_DECIMAL_COMMA = re.compile(r"^([-+]?\d+),(\d+)$")
_NONE = ("", "nan", "none", "null", "na", "n/a")


def find_columns(
    present: list[str],
    options: Options,
    report: ConversionReport,
    *,
    more: Mapping[str, tuple[str, ...]] | None = None,
    native: tuple[str, ...] = (),
) -> dict[str, list[str]]:
    """Which columns of a source are which of ours.

    Args:
        present: the source's columns.
        options: `columns` names them where they have other names.
        report: is told what was taken for what.
        more: further columns that the form reads, as `COLUMNS` has them.
        native: columns of ours that the source says in another way.

    Returns:
        Our name -> the columns whose values, joined, it is.

    Raises:
        ConfigError: a name in `options.columns` is none of ours, or none of the source's.
    """
    known = COLUMNS | dict(more or {})
    if unknown := [name for name in options.columns if name not in known]:
        raise ConfigError(f"--column {unknown[0]}=...: {suggest(unknown[0], list(known))}")
    exact = {name.lower(): name for name in reversed(present)}
    found: dict[str, list[str]] = {}
    for ours in known:
        told = options.columns.get(ours)
        if told is None and ours in native:
            continue
        candidates = (ours, *known[ours]) if told is None else (told,) * bool(told)
        for candidate in candidates:
            names = candidate.split("+") if ours == "id" else [candidate]
            if candidate in present:
                names = [candidate]
            parts = [exact.get(name.strip().lower(), "") for name in names]
            if all(parts):
                found[ours] = parts
                break
        else:
            if told:
                raise ConfigError(
                    f"--column {ours}={told}: {report.source} has no such column; "
                    f"{suggest(told, present)}"
                )
        if ours in found and found[ours] != [ours]:
            report.note(f"{ours} is column {' + '.join(found[ours])}.")
    used = {part for parts in found.values() for part in parts} | {options.group}
    if unused := [name for name in present if name not in used]:
        report.note(f"Columns not used: {', '.join(unused)}.")
    return found


def utterances(
    frame: pd.DataFrame,
    found: Mapping[str, list[str]],
    options: Options,
    report: ConversionReport,
    splits: list[str] | None = None,
) -> list[Sample]:
    """Samples without sequences, one for each row.

    Args:
        frame: texts; an empty one stands for no value.
        found: `find_columns`.
        options: how splits are made where there are none.
        report: receives problems, by row (1 is the first below the header) and id.
        splits: split of each row, where the source says it in another way than by a column.

    Returns:
        In the order of the rows.
    """
    ids = _ids(frame, found, report, splits)
    places = [f"row {row} (id {name!r})" for row, name in enumerate(ids, 1)]
    for name, place in zip(ids, places, strict=True):
        if not name:
            report.problem("id is empty", place, "Give every sample an id.")
    texts = frame[found["text"][0]].tolist() if "text" in found else [""] * len(ids)
    report.transcripts = "text" in found
    labels = _labels(frame, found, places, report)
    groups = _groups(frame, options, report)
    if splits is None and "split" in found:
        splits = _named(frame[found["split"][0]].tolist(), places, report)
    if splits is None and not labels and not (options.group or options.seed or options.shares):
        report.note("There are neither labels nor splits: all samples are of split test.")
        splits = ["test"] * len(ids)
    elif splits is None:
        seed = _SEED if options.seed is None else options.seed
        parts = options.shares or _SHARES
        splits = assigned(groups or ids, seed, parts)
        shares = ", ".join(f"{share:g}" for share in parts)
        rule = f"no {options.group!r} in two splits" if groups else "sample by sample"
        report.note(
            f"The source has no splits: made at random with seed {seed}, shares {shares} "
            f"of train, valid, test, {rule}."
        )
    else:
        if options.seed is not None or options.shares is not None:
            report.problem(
                "--seed and --shares say how splits are made, but the source has splits",
                mend="Leave them out, or the source's splits by --column split=.",
            )
        _check_groups(groups, splits, options, report)
    return [
        Sample(
            name, split, text, labels={k: x for k, v in labels.items() if (x := v[i]) is not None}
        )
        for i, (name, split, text) in enumerate(zip(ids, splits, texts, strict=True))
    ]


def _ids(
    frame: pd.DataFrame,
    found: Mapping[str, list[str]],
    report: ConversionReport,
    splits: list[str] | None,
) -> list[str]:
    if "id" not in found:
        report.note("There are no ids: samples are numbered by their row, from 1.")
        of_row = [f"{split}_" for split in splits] if splits else [""] * len(frame)
        width = len(str(len(frame)))
        return [f"{split}{row:0{width}}" for row, split in enumerate(of_row, 1)]
    parts = [frame[name].str.strip().tolist() for name in found["id"]]
    return ["$_$".join(part) for part in zip(*parts, strict=True)]


def _labels(
    frame: pd.DataFrame,
    found: Mapping[str, list[str]],
    places: list[str],
    report: ConversionReport,
) -> dict[str, list[float | None]]:
    labels: dict[str, list[float | None]] = {}
    for ours, kind in _KINDS.items():
        if ours not in found:
            continue
        (column,) = found[ours]
        values = [_number(text) for text in frame[column]]
        if all(value is None for value in values):
            report.note(f"Column {column!r} is empty: no {ours}.")
            continue
        report.expected[kind] = f"column {column!r}"
        for value, text, place in zip(values, frame[column], places, strict=True):
            if isinstance(value, str):
                report.problem(
                    f"{ours} is no number in column {column!r}",
                    f"{place} has {text[:40]!r}",
                    "Write sentiment as a number, such as -1.5.",
                )
        labels[kind] = [0.0 if isinstance(value, str) else value for value in values]
    return labels


def _number(text: str) -> float | str | None:
    """The number that a text says, None of none; the text itself where it is something else."""
    if text.strip().lower() in _NONE:
        return None
    try:
        return float(_DECIMAL_COMMA.sub(r"\1.\2", text.strip()))
    except ValueError:
        return text


def _named(values: list[str], places: list[str], report: ConversionReport) -> list[str]:
    """Splits by their names here."""
    names = {value: SPLIT_NAMES.get(value.strip().lower(), "") for value in set(values)}
    for value, place in zip(values, places, strict=True):
        if not names[value]:
            report.problem(
                "split is none",
                f"{place} has {value[:40]!r}",
                f"Use {', '.join(SPLITS)}, or leave the column out by --column split= to have "
                "splits made.",
            )
    renamed = [f"{old} is {new}" for old, new in sorted(names.items()) if new and old != new]
    if renamed:
        report.note(f"Splits renamed: {', '.join(renamed)}.")
    return [names[value] or "train" for value in values]


def _groups(frame: pd.DataFrame, options: Options, report: ConversionReport) -> list[str] | None:
    if options.group is None:
        return None
    if options.group not in frame:
        raise ConfigError(
            f"--group {options.group}: {report.source} has no such column; "
            f"{suggest(options.group, list(frame.columns))}"
        )
    groups: list[str] = frame[options.group].str.strip().tolist()
    return groups


def _check_groups(
    groups: list[str] | None, splits: list[str], options: Options, report: ConversionReport
) -> None:
    first: dict[str, str] = {}
    for group, split in zip(groups or (), splits, strict=bool(groups)):
        if first.setdefault(group, split) != split:
            report.problem(
                f"{options.group!r} is in two splits",
                repr(group),
                "Leave the source's splits out by --column split= to have others made, or leave "
                "--group out.",
            )
            first[group] = split
