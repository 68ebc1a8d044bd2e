"""A `Dataset` or `DatasetDict` of Hugging Face's `datasets`, saved by `save_to_disk`.

A row is a sample. Its columns are those of a CSV of utterances; `audio` and `vision` (frames,
features) are nested lists or `Array2D`. Needs the extra `[datasets]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.data.convert.utterances import find_columns, utterances
from MMSA_ext.data.feature_layout import SPLIT_NAMES
from MMSA_ext.errors import ConfigError, FeatureFileError
from MMSA_ext.names import FRAMES
from MMSA_ext.paths import shown

if TYPE_CHECKING:
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
    try:
        import datasets
    except ImportError:
        raise ConfigError(
            f'{shown(source.path)} needs the package datasets: pip install "MMSA_ext[datasets]".'
        ) from None
    try:
        loaded = datasets.load_from_disk(str(source.path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FeatureFileError(f"{shown(source.path)} cannot be loaded: {error}.") from None
    parts: dict[str, Any] = (
        dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"": loaded}
    )
    if options.columns.get("split") == "":
        joined = datasets.concatenate_datasets(list(parts.values()))
        parts = {"": joined}
    for name, part in parts.items():
        split = SPLIT_NAMES.get(name.lower(), "") if name else ""
        if name and not split:
            report.note(f"Split {name!r} is none of ours: left out.")
            continue
        if split != name:
            report.note(f"Split {name} is {split}.")
        yield from _samples(part, split, options, report)


def _samples(rows: Any, split: str, options: Options, report: ConversionReport) -> Iterator[Sample]:
    import pandas as pd

    native = ("split",) * bool(split)
    found = find_columns(rows.column_names, options, report, more=FRAMES, native=native)
    frames = {key: found[key][0] for key in FRAMES if key in found}
    for key, column in frames.items():
        report.expected[key] = f"column {column!r}"
    for key, column in frames.items():
        kind = type(rows.features[column]).__name__
        if kind not in _NESTED:
            raise FeatureFileError(
                f"{shown(report.source)}: column {column!r} holds {kind}, no frames of features. "
                f"Extract {key} features, or name their column by --column {key}=NAME."
            )
    for ours in found.keys() - frames.keys():
        for column in found[ours]:
            if (kind := type(rows.features[column]).__name__) not in _PLAIN:
                raise FeatureFileError(
                    f"{shown(report.source)}: column {column!r} holds {kind}, no {ours}. Name "
                    f"another by --column {ours}=NAME, or leave it out by --column {ours}=."
                )
    own = {name for ours, names in found.items() if ours not in frames for name in names}
    plain = [name for name in rows.column_names if name in own or name == options.group]
    table = pd.DataFrame(index=range(len(rows)))
    if plain:
        table = rows.select_columns(plain).with_format(None).to_pandas()
    for name in plain:
        names = getattr(rows.features[name], "names", None)
        if names and [name] == found.get("label"):
            report.note(f"Column {name!r} holds classes, {', '.join(names)}: taken as 0, 1, ...")
    # Texts, as of a CSV; of a missing value an empty one.
    table = table.astype(object).where(table.notna(), "").astype(str)
    samples = utterances(table, found, options, report, [split] * len(table) if split else None)
    if not frames:
        yield from samples
        return
    batches = rows.select_columns(list(frames.values())).with_format("numpy").iter(_ROWS)
    for start, batch in zip(range(0, len(samples), _ROWS), batches, strict=True):
        for i, sample in enumerate(samples[start : start + _ROWS]):
            arrays: dict[str, Any] = {
                key: _frames(batch[column][i]) for key, column in frames.items()
            }
            for key, array in arrays.items():
                if array is not None:
                    report.arrived(sample.split, key, len(array))
            yield replace(sample, **arrays)


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
