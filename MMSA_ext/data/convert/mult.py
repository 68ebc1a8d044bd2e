"""Pickles as MulT (Multimodal Transformer) has them.

`{'train' | 'valid' | 'test': {'text', 'audio', 'vision': (n, L, d), 'labels': (n, 1, 1), 'id'}}`,
an id of several parts, no transcripts, zeros in front of the frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from MMSA_ext.data.convert.padded import as_list, padded_samples, plain_texts
from MMSA_ext.data.feature_layout import ARRAYS, LABEL_KEYS, SPLIT_NAMES, find_recipe

if TYPE_CHECKING:
    from MMSA_ext.data.convert.options import Options
    from MMSA_ext.data.convert.report import ConversionReport
    from MMSA_ext.data.convert.source import Source
    from MMSA_ext.data.samples import Sample

__all__ = ["keep_recipe", "read", "renamed_splits"]


def read(source: Source, options: Options, report: ConversionReport) -> Iterator[Sample]:
    """Samples without padding; zeros in front are turned behind unless they are to be kept."""
    splits = renamed_splits(source.pickled, report)
    yield from padded_samples(splits, report, options.front_padding or "turn")


def renamed_splits(data: Any, report: ConversionReport) -> dict[str, dict[str, Any]]:
    """Splits and keys under MMSA's names, ids as texts; what is renamed is said."""
    keep_recipe(data, report)
    splits: dict[str, dict[str, Any]] = {}
    for name, raw in data.items() if isinstance(data, Mapping) else ():
        if name in ("recipe", "text_encoder"):
            continue
        ours = SPLIT_NAMES.get(str(name).lower())
        if ours is None or not isinstance(raw, Mapping):
            report.note(f"Key {str(name)[:40]!r} is no split: left out.")
            continue
        if ours in splits:
            report.problem("two splits have one meaning", f"{name!r} and {ours!r}", "Leave one.")
        if ours != name:
            report.note(f"Split {name} is {ours}.")
        splits[ours] = _renamed(ours, raw, report)
    if not splits:
        report.problem("it has no splits", "", "Store them under train, valid and test.")
    return splits


def keep_recipe(data: Any, report: ConversionReport) -> None:
    """Take over what a pickle says of who made its features."""
    report.recipe, broken = find_recipe(data)
    for problem in broken:
        report.problem(f"recipe {problem.removesuffix('.')}")


def _renamed(split: str, raw: Mapping[str, Any], report: ConversionReport) -> dict[str, Any]:
    found = dict(raw)
    if "labels" in found and LABEL_KEYS["M"] not in found:
        found[LABEL_KEYS["M"]] = found.pop("labels")
        report.note(f"Key labels is {LABEL_KEYS['M']}.")
    if (ids := as_list(found.get("id"))) is not None:
        if any(isinstance(name, list | tuple | np.ndarray) for name in ids):
            report.note("The parts of an id are joined by $_$.")
        found["id"] = plain_texts(ids)
        return found
    values: list[Any] = [found.get(key) for key in ARRAYS]
    count = next((len(v) for v in values if isinstance(v, list) or bool(getattr(v, "ndim", 0))), 0)
    found["id"] = [f"{split}_{i}" for i in range(count)]
    report.note("There are no ids: samples are numbered.")
    return found
