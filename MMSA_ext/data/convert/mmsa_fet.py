"""What MMSA's feature extractor, MMSA-FET, writes: of a data set, or of one file.

A data set is in MMSA's layout already, with padding in front where its configuration says so, and
with or without lengths. One file gives arrays without splits: `audio` (L, d), `vision` (L, d),
`text` (L, d) or `text_bert` (3, L).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from MMSA_ext.data.convert.mult import keep_recipe, renamed_splits
from MMSA_ext.data.convert.padded import as_list, padded_samples, plain_texts
from MMSA_ext.data.feature_layout import ARRAYS, LABEL_KEYS, SINGLE, is_single_sample

if TYPE_CHECKING:
    from MMSA_ext.data.convert.options import Options
    from MMSA_ext.data.convert.report import ConversionReport
    from MMSA_ext.data.convert.source import Source
    from MMSA_ext.data.samples import Sample

__all__ = ["read"]


def read(source: Source, options: Options, report: ConversionReport) -> Iterator[Sample]:
    """Samples without padding; of one file one sample without split, to be scored."""
    data = source.pickled
    if not (isinstance(data, dict) and is_single_sample(data)):
        yield from padded_samples(renamed_splits(data, report), report, options.front_padding)
        return
    keep_recipe(data, report)
    raw = {key: [data[key]] for key in (*ARRAYS, *LABEL_KEYS.values()) if key in data}
    for key in ("id", "raw_text", "audio_lengths", "vision_lengths"):
        if key in data:
            raw[key] = [data[key]] if as_list(data[key]) is None else data[key]
    raw["id"] = plain_texts(raw.get("id", [source.path.stem]))
    report.note("It is one sample without splits.")
    yield from padded_samples({SINGLE: raw}, report, options.front_padding)
