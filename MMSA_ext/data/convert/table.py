"""A CSV of utterances, with sequences in folders or files of their own.

Columns `id`, `text`, `label`, `split`, and `label_T`, `label_A`, `label_V` where there are unimodal
labels; `,`, `;` or tab between them, UTF-8 with or without a byte order mark, quoted line ends.
"""

from __future__ import annotations

import csv
import warnings
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

_ENCODING = "utf-8-sig"


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
        with source.open(encoding=_ENCODING, newline="") as file:
            header = file.readline()
        separator = max(",;\t", key=header.count)
        names = next(csv.reader([header], delimiter=separator), [])
        with warnings.catch_warnings():
            # A row that is longer than the header would be cut with no more than a warning.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                source,
                sep=separator,
                dtype=str,
                keep_default_na=False,
                encoding=_ENCODING,
                index_col=False,
            )
    except UnicodeDecodeError as error:
        raise FeatureFileError(
            f"{shown(source)} is no text in UTF-8 (byte {error.start}). Save it as UTF-8."
        ) from None
    except (
        OSError,
        pd.errors.ParserError,
        pd.errors.ParserWarning,
        pd.errors.EmptyDataError,
    ) as error:
        raise FeatureFileError(
            f"{shown(source)} is no table: {str(error).strip()}. Write a header and one row a "
            "sample, with fields that hold the separator or a line end in quotes."
        ) from None
    names = [name.strip() for name in names]
    if twice := {name for name in names if names.count(name) > 1}:
        raise FeatureFileError(
            f"{shown(source)} has the column {min(twice)!r} twice. Rename one of them."
        )
    frame.columns = frame.columns.str.strip()
    if frame.empty:
        raise FeatureFileError(f"{shown(source)} has a header and no rows. Write one a sample.")
    short = frame.index[frame.isna().any(axis=1)] + 1
    if len(short):
        raise FeatureFileError(
            f"{shown(source)} has rows with fewer fields than the header: "
            f"{', '.join(map(str, short[:5]))} (of {len(short)}). Write an empty field for each."
        )
    return frame
