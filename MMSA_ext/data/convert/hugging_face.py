"""A `Dataset` or `DatasetDict` of Hugging Face's `datasets`, saved by `save_to_disk`.

A row is a sample. Its columns are those of a CSV of utterances; `audio` and `vision` (frames,
features) are nested lists or `Array2D`. Needs the extra `[datasets]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.data.convert.columns import find_columns, utterances
from MMSA_ext.data.feature_layout import SPLIT_NAMES
from MMSA_ext.errors import FeatureFileError
from MMSA_ext.extras import import_extra
from MMSA_ext.names import FRAMES
from MMSA_ext.paths import shown

if TYPE_CHECKING:
    import pandas as pd

    from MMSA_ext.data.convert.options import Options
    from MMSA_ext.data.convert.report import ConversionReport
    from MMSA_ext.data.convert.source import Source
    from MMSA_ext.data.samples import Sample

__all__ = ["is_hugging_face", "read"]

_ROWS = 64  # read at a time
_PLAIN = ("Value", "ClassLabel")
_NESTED = ("List", "LargeList", "Sequence", "Array2D", "list")


def is_hugging_face(source: Path) -> bool:
    """Whether a folder is one that `save_to_disk` wrote."""
    return (source / "dataset_dict.json").is_file() or (
        (source / "state.json").is_file() and (source / "dataset_info.json").is_file()
    )


def read(source: Source, options: Options, report: ConversionReport) -> Iterator[Sample]:
    """Samples in the order of the rows; sequences are read a few rows at a time.

    Raises:
        ConfigError: `datasets` is not installed.
        FeatureFileError: The folder cannot be read.
    """
    datasets = import_extra("datasets", "datasets", shown(source.path))
    try:
        loaded = datasets.load_from_disk(str(source.path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FeatureFileError(f"{shown(source.path)} cannot be loaded: {error}.") from None
    parts = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"": loaded}
    named = "" not in parts and options.columns.get("split") != ""
    yield from _samples(_renamed(parts, report) if named else parts, named, options, report)


def _renamed(parts: Mapping[str, Any], report: ConversionReport) -> dict[str, Any]:
    """The parts that are splits, by our names."""
    found: dict[str, Any] = {}
    for name, part in parts.items():
        split = SPLIT_NAMES.get(name.lower())
        if split is None:
            report.note(f"Split {name!r} is none of ours: left out.")
            continue
        if split in found:
            report.problem("two splits have one meaning", f"{name!r} and {split!r}", "Leave one.")
        if split != name:
            report.note(f"Split {name} is {split}.")
        found[split] = part
    if not found:
        report.problem(
            "it has no split that we know",
            ", ".join(map(repr, parts)),
            "Rename them, or have others made by --column split=.",
        )
    return found


def _samples(
    parts: Mapping[str, Any], named: bool, options: Options, report: ConversionReport
) -> Iterator[Sample]:
    """Samples of all parts, which may be named by their splits."""
    features = {name: kind for part in parts.values() for name, kind in part.features.items()}
    found = find_columns(
        list(features),
        options,
        report,
        more=dict.fromkeys(FRAMES, ()),
        native=("split",) if named else (),
    )
    frames = {key: found[key][0] for key in FRAMES if key in found}
    _check_kinds(features, found, report)
    report.expected |= {key: f"column {column!r}" for key, column in frames.items()}
    used = {name for ours, names in found.items() if ours not in frames for name in names}
    table = _table(parts, used | {name for name in features if name == options.group})
    splits = [name for name, part in parts.items() for _ in range(len(part))] if named else None
    samples = iter(utterances(table, found, options, report, splits))
    for part in parts.values():
        columns = [name for name in frames.values() if name in part.column_names]
        if not columns:
            yield from islice(samples, len(part))
            continue
        for batch in part.select_columns(columns).with_format("numpy").iter(_ROWS):
            for i, sample in enumerate(islice(samples, len(batch[columns[0]]))):
                arrays: dict[str, Any] = {
                    key: _frames(batch[name][i]) for key, name in frames.items() if name in columns
                }
                for key, array in arrays.items():
                    if array is not None:
                        report.arrived(sample.split, key, len(array))
                yield replace(sample, **arrays)


def _check_kinds(
    features: Mapping[str, Any], found: Mapping[str, list[str]], report: ConversionReport
) -> None:
    for ours, names in found.items():
        for name in names:
            kind = type(features[name]).__name__
            if kind not in (_NESTED if ours in FRAMES else _PLAIN):
                what = "frames of features" if ours in FRAMES else ours
                raise FeatureFileError(
                    f"{shown(report.source)}: column {name!r} holds {kind}, no {what}. Name "
                    f"another by --column {ours}=NAME, or leave it out by --column {ours}=."
                )
            if kind == "ClassLabel" and ours == "label":
                classes = ", ".join(features[name].names)
                report.note(f"Column {name!r} holds classes, {classes}: taken as 0, 1, ...")


def _table(parts: Mapping[str, Any], columns: set[str]) -> pd.DataFrame:
    """Columns of all parts as texts, as of a CSV; an empty one of a missing value."""
    import pandas as pd

    tables = []
    for part in parts.values():
        names = [name for name in part.column_names if name in columns]
        rows = part.select_columns(names).with_format(None).to_pandas() if names else None
        tables.append(pd.DataFrame(rows, index=range(len(part))).astype(object))
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    return table.where(table.notna(), "").astype(str)


def _frames(value: Any) -> NDArray[Any] | None:
    """A row's frames; None of an empty cell, no number where they are no array."""
    array = np.asarray([] if value is None else value)
    if not array.size:
        return None
    if array.dtype == object:
        try:
            array = np.array([np.asarray(frame, np.float32) for frame in array])
        except (ValueError, TypeError):
            return array
    return array[None] if array.ndim == 1 else array
