"""Pickles as MAG-BERT (BERT_multimodal_transformer) has them.

`{'train' | 'dev' | 'test': [((words, visual, acoustic), label, segment), ...]}`: a list of n words,
arrays (n, d) with a row for each word, a label of one number, the segment's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from MMSA_ext.data.convert.padded import as_list, plain_texts
from MMSA_ext.data.feature_checks import as_numbers
from MMSA_ext.data.feature_layout import SPLIT_NAMES
from MMSA_ext.data.samples import Sample

if TYPE_CHECKING:
    from MMSA_ext.data.convert.options import Options
    from MMSA_ext.data.convert.report import ConversionReport
    from MMSA_ext.data.convert.source import Source

__all__ = ["is_mag_bert", "read"]


def is_mag_bert(data: Any) -> bool:
    """Whether unpickled data is of this form."""
    return isinstance(data, Mapping) and any(
        isinstance(items, list | tuple)
        and len(items) > 0
        and isinstance(items[0], list | tuple)
        and len(items[0]) == 3
        and isinstance(items[0][0], list | tuple)
        for items in data.values()
    )


def read(source: Source, options: Options, report: ConversionReport) -> Iterator[Sample]:
    """Samples as they are; words are joined by spaces."""
    data = source.pickled
    report.expected |= {"M": "the second part", "audio": "acoustic", "vision": "visual"}
    report.transcripts = True
    report.note(
        "Frames belong to words, and tokens to parts of words: audio and vision are not aligned "
        "with text_bert."
    )
    for name, items in data.items() if isinstance(data, Mapping) else ():
        split = SPLIT_NAMES.get(str(name).lower())
        if split is None or (listed := as_list(items)) is None:
            report.note(f"Key {str(name)[:40]!r} is no split: left out.")
            continue
        if split != name:
            report.note(f"Split {name} is {split}.")
        for row, item in enumerate(listed):
            try:
                (words, visual, acoustic), label, segment = item
                frames = {"vision": as_numbers(visual), "audio": as_numbers(acoustic)}
                value = float(np.asarray(label, np.float64).reshape(()))
                if any(array.ndim != 2 for array in frames.values()):
                    raise ValueError("frames are not in two dimensions")
            except (ValueError, TypeError, OverflowError):
                report.problem(
                    "a sample is not ((words, visual, acoustic), label, segment)",
                    f"{name} {row}",
                    "Store the arrays of its words and one number as label.",
                )
                continue
            for key, array in frames.items():
                report.arrived(split, key, len(array))
            text = words if isinstance(words, str) else " ".join(plain_texts(words))
            labels = {} if np.isnan(value) else {"M": value}
            (name_,) = plain_texts([segment])
            yield Sample(name_, split, text, labels=labels, **frames)
