"""A CSV of utterances, with sequences in folders or files of their own.

Columns `id`, `text`, `label`, `split`, and `label_T`, `label_A`, `label_V` where there are unimodal
labels; `,`, `;` or tab between them, UTF-8 with or without a byte order mark, quoted line ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from MMSA_ext.data.convert.columns import find_columns, utterances
from MMSA_ext.data.convert.sequences import Sequences
from MMSA_ext.data.samples import Sample
from MMSA_ext.data.tables import read_table
from MMSA_ext.errors import FeatureFileError
from MMSA_ext.paths import shown

if TYPE_CHECKING:
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
    frame = read_table(source.path)
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
