"""Arrays of numpy: one `.npz`, or a folder of `.npy` files, with an array a modality.

`text` (n, L, d) or `text_bert` (n, 3, L), `audio`, `vision` (n, L, d), `labels` (n,), and where
they are there `ids`, `raw_text`, `split` (n,), `audio_lengths`, `vision_lengths`; or the arrays of
each split in a folder `train`, `valid` and `test`. Texts are arrays of text, not of objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from MMSA_ext.data.convert.padded import padded_samples, plain_texts
from MMSA_ext.data.convert.sequences import open_archive
from MMSA_ext.data.convert.utterances import find_columns, utterances
from MMSA_ext.data.feature_layout import ARRAYS, LABEL_KEYS, SPLIT_NAMES
from MMSA_ext.errors import ConfigError, FeatureFileError
from MMSA_ext.names import SPLITS
from MMSA_ext.paths import shown

if TYPE_CHECKING:
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
    if not parts:
        parts = {"": _loaded(source.path, report)}
    splits: dict[str, dict[str, Any]] = {}
    for name, found in parts.items():
        for split, raw in _in_layout(name, found, options, report).items():
            splits[split] = raw
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
        except (ValueError, OSError, EOFError) as error:
            report.problem(
                "an array cannot be read",
                f"{name}: {str(error).splitlines()[0]}",
                "Save numbers as numbers and texts by np.array(texts, dtype=str), not as objects.",
            )
    return found


def _in_layout(
    folder: str, found: Mapping[str, Any], options: Options, report: ConversionReport
) -> dict[str, dict[str, Any]]:
    """MMSA's keys by split."""
    import pandas as pd

    sequences = {key: found[key] for key in _SEQUENCES if key in found}
    if isinstance(text := sequences.get("text"), np.ndarray) and text.dtype.kind in "US":
        del sequences["text"]
    counts = {key: len(value) for key, value in found.items() if np.ndim(value)}
    if not counts:
        raise FeatureFileError(f"{shown(report.source)}: holds no array of samples.")
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
    if unused := sorted(set(found) - set(sequences) - set(table.columns)):
        report.note(f"Arrays not used: {', '.join(unused)}.")
    columns = find_columns(list(table.columns), options, report)
    samples = utterances(table, columns, options, report, [folder] * len(table) if folder else None)
    splits: dict[str, dict[str, Any]] = {}
    for split in dict.fromkeys(sample.split for sample in samples):
        rows = [i for i, sample in enumerate(samples) if sample.split == split]
        own = [samples[i] for i in rows]
        whole = len(rows) == len(samples)
        splits[split] = {
            key: value if whole else value[rows] for key, value in sequences.items()
        } | {"id": [sample.id for sample in own]}
        if "text" in columns:
            splits[split]["raw_text"] = [sample.raw_text for sample in own]
        for ours, kind in _COLUMNS.items():
            if ours in columns:
                splits[split][LABEL_KEYS[kind]] = [s.labels.get(kind, np.nan) for s in own]
    return splits
