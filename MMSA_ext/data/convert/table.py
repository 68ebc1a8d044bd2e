"""A CSV of utterances, with sequences in folders or files of their own.

Columns `id`, `text`, `label`, `split`, and `label_T`, `label_A`, `label_V` where there are unimodal
labels; `,`, `;` or tab between them, UTF-8 with or without a byte order mark, quoted line ends.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MMSA_ext.data.convert.sequences import Sequences
from MMSA_ext.data.convert.utterances import find_columns, utterances
from MMSA_ext.data.samples import Sample
from MMSA_ext.errors import FeatureFileError
from MMSA_ext.paths import shown

if TYPE_CHECKING:
    import pandas as pd

    from MMSA_ext.data.convert.options import Options
    from MMSA_ext.data.convert.report import ConversionReport
    from MMSA_ext.data.convert.source import Source

__all__ = ["read"]


def read(source: Source, options: Options, report: ConversionReport) -> Iterator[Sample]:
    """Samples in the order of the rows; a sequence is read when its sample is taken.

    Raises:
        FeatureFileError: The file is no table, or a folder of sequences has none.
        ConfigError: A column that was named is not there.
    """
    frame = _table(source.path)
    found = find_columns(list(frame.columns), options, report)
    sequences = {
        modality: Sequences(path, modality, report)
        for modality, path in (("audio", options.audio), ("vision", options.vision))
        if path is not None
    }
    if sequences and "id" not in found:
        raise FeatureFileError(
            f"{shown(source.path)} has no column 'id', by which sequences are found. Name it by "
            f"--column id=NAME; the columns are {', '.join(frame.columns)}."
        )
    if not sequences and "text" not in found:
        raise FeatureFileError(
            f"{shown(source.path)} has no column 'text', and no sequences are given. Name the "
            f"column by --column text=NAME (the columns are {', '.join(frame.columns)}), or give "
            "--audio or --vision."
        )
    for sample in utterances(frame, found, options, report):
        arrays: dict[str, Any] = {
            key: own.of(sample.id, sample.split) for key, own in sequences.items()
        }
        yield replace(sample, **arrays)
    for own in sequences.values():
        own.finish()


def _table(source: Path) -> pd.DataFrame:
    """All cells as texts; an empty one is an empty text."""
    import pandas as pd

    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            separator = max(",;\t", key=first.count)
            lines = csv.reader(file, delimiter=separator, strict=True)
            names = [name.strip() for name in next(lines, [])]
            rows = [(lines.line_num, row) for row in lines if row]
    except UnicodeDecodeError as error:
        raise FeatureFileError(
            f"{shown(source)} is no text in UTF-8 (byte {error.start}). Save it as UTF-8."
        ) from None
    except (OSError, csv.Error) as error:
        raise FeatureFileError(f"{shown(source)} cannot be read as a table: {error}.") from None
    if twice := {name for name in names if names.count(name) > 1}:
        raise FeatureFileError(
            f"{shown(source)} has the column {min(twice)!r} twice. Rename one of them."
        )
    if wrong := [f"{number} ({len(row)})" for number, row in rows if len(row) != len(names)]:
        raise FeatureFileError(
            f"{shown(source)} has {len(names)} columns, but not in {len(wrong)} of its rows; lines "
            f"and their fields: {', '.join(wrong[:5])}. Put fields that hold the separator "
            f"{separator!r} or a line end in quotes, and write empty fields too."
        )
    if not rows:
        raise FeatureFileError(f"{shown(source)} has a header and no rows. Write one a sample.")
    return pd.DataFrame([row for _, row in rows], columns=names)
