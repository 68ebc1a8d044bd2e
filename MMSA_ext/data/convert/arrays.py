"""Arrays of numpy: one `.npz`, or a folder of `.npy` files, with an array a modality.

`text` (n, L, d) or `text_bert` (n, 3, L), `audio`, `vision` (n, L, d), `labels` (n,), and where
they are there `ids`, `raw_text`, `split` (n,), `audio_lengths`, `vision_lengths`; or the arrays of
each split in a folder `train`, `valid` and `test`. Texts are arrays of text, not of objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from MMSA_ext.data.convert.columns import find_columns, utterances
from MMSA_ext.data.convert.padded import padded_samples, plain_texts
from MMSA_ext.data.convert.sequences import UNSOUND, open_archive, why
from MMSA_ext.data.feature_layout import ARRAYS, LABEL_KEYS, SPLIT_NAMES
from MMSA_ext.errors import ConfigError, FeatureFileError
from MMSA_ext.names import SPLITS
from MMSA_ext.paths import shown

if TYPE_CHECKING:
    import pandas as pd

    from MMSA_ext.data.convert.options import Options
    from MMSA_ext.data.convert.report import ConversionReport
    from MMSA_ext.data.convert.source import Source
    from MMSA_ext.data.samples import Sample

__all__ = ["is_arrays", "read"]

_SEQUENCES = (*ARRAYS, "audio_lengths", "vision_lengths")
_COLUMNS = {"label": "M", "label_T": "T", "label_A": "A", "label_V": "V"}


def is_arrays(source: Path) -> bool:
    """Whether a path is a folder of `.npy` files, or of such folders by split."""
    names = {path.stem for path in source.glob("*.npy")} | {p.stem for p in source.glob("*/*.npy")}
    return bool(names & set(ARRAYS))


def read(source: Source, options: Options, report: ConversionReport) -> Iterator[Sample]:
    """Samples without their padding; `.npy` files are mapped, not read into memory."""
    folders = {
        SPLIT_NAMES[path.name.lower()]: path
        for path in (sorted(source.path.iterdir()) if source.path.is_dir() else ())
        if path.is_dir() and path.name.lower() in SPLIT_NAMES
    }
    if folders and options.columns.get("split") == "":
        raise ConfigError(
            f"{shown(source.path)}: the splits are folders, which --column split= cannot leave "
            "out. Store the arrays in one folder."
        )
    parts = {name: _loaded(folder, report) for name, folder in folders.items()}
    splits = _in_layout(parts or {"": _loaded(source.path, report)}, options, report)
    yield from padded_samples(
        {name: splits[name] for name in SPLITS if name in splits}, report, options.front_padding
    )


def _loaded(source: Path, report: ConversionReport) -> dict[str, Any]:
    archive = None if source.is_dir() else open_archive(source)
    files = {path.stem: path for path in sorted(source.glob("*.npy"))} if archive is None else {}
    found = {}
    for name in files if archive is None else archive.files:
        try:
            if archive is None:
                found[name] = np.load(files[name], mmap_mode="r", allow_pickle=False)
            else:
                found[name] = archive[name]
        except UNSOUND as error:
            report.problem(
                "an array cannot be read",
                f"{name}: {why(error)}",
                "Save numbers as numbers and texts by np.array(texts, dtype=str), not as objects.",
            )
    return found


def _in_layout(
    parts: Mapping[str, Mapping[str, Any]], options: Options, report: ConversionReport
) -> dict[str, dict[str, Any]]:
    """MMSA's keys by split, of parts that are splits or one that is all of them."""
    import pandas as pd

    sequences = {name: _sequences(found) for name, found in parts.items()}
    tables = {name: _table(name, found, sequences[name], report) for name, found in parts.items()}
    table = pd.concat(tables.values(), ignore_index=True).fillna("")
    columns = find_columns(list(table.columns), options, report)
    given = [name for name, own in tables.items() for _ in range(len(own))]
    samples = iter(utterances(table, columns, options, report, None if "" in parts else given))
    splits: dict[str, dict[str, Any]] = {}
    for name, own in tables.items():
        splits |= _split(sequences[name], list(islice(samples, len(own))), columns)
    return splits


def _sequences(found: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays with steps; `text` may be transcripts."""
    texts = "text" in found and found["text"].dtype.kind in "US"
    return {key: found[key] for key in _SEQUENCES if key in found and not (texts and key == "text")}


def _table(
    folder: str, found: Mapping[str, Any], sequences: Mapping[str, Any], report: ConversionReport
) -> pd.DataFrame:
    """Arrays of one value a sample, as texts."""
    import pandas as pd

    counts = {key: len(value) for key, value in found.items() if np.ndim(value)}
    if not counts or not all(counts.values()):
        raise FeatureFileError(
            f"{shown(report.source)}: holds no array of samples, or an empty one."
        )
    if len(set(counts.values())) > 1:
        raise FeatureFileError(
            f"{shown(report.source)}: the arrays{f' of {folder}' * bool(folder)} differ in their "
            f"number of samples: {counts}. Store one of each for every sample."
        )
    table = pd.DataFrame(
        {
            key: plain_texts(value.reshape(len(value), -1)[:, 0])
            for key, value in found.items()
            if key not in sequences and np.ndim(value) and value.size == len(value)
        },
        index=range(next(iter(counts.values()))),
    )
    if unused := sorted(found.keys() - sequences.keys() - {*table.columns}):
        report.note(f"Arrays not used: {', '.join(unused)}.")
    return table


def _split(
    sequences: Mapping[str, Any], samples: list[Sample], columns: Mapping[str, list[str]]
) -> dict[str, dict[str, Any]]:
    """The samples of a part, by split, in MMSA's keys."""
    rows: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        rows.setdefault(sample.split, []).append(i)
    splits: dict[str, dict[str, Any]] = {}
    for name, places in rows.items():
        own = [samples[i] for i in places]
        found = {
            key: array if len(rows) == 1 else array[places] for key, array in sequences.items()
        }
        found["id"] = [sample.id for sample in own]
        if "text" in columns:
            found["raw_text"] = [sample.raw_text for sample in own]
        for ours, kind in _COLUMNS.items():
            if ours in columns:
                found[LABEL_KEYS[kind]] = [sample.labels.get(kind, np.nan) for sample in own]
        splits[name] = found
    return splits
