"""Where a feature file keeps things: splits, ids, single samples, files of one modality."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from MMSA_ext.data.feature_checks import Scope, SequenceFindings, check_ids, check_strings
from MMSA_ext.data.feature_report import FeatureReport
from MMSA_ext.data.pickles.errors import shown
from MMSA_ext.data.recipes import Recipe, problems
from MMSA_ext.data.safe_pickle import load_pickle
from MMSA_ext.names import MODALITIES, SPLITS

__all__ = [
    "ARRAYS",
    "LABEL_KEYS",
    "PROVENANCE",
    "READ_KEYS",
    "SINGLE",
    "SPLIT_NAMES",
    "LoadedFile",
    "check_disjoint",
    "find_ids",
    "find_recipe",
    "find_splits",
    "is_single_sample",
    "load_file",
    "override_modality",
]

ARRAYS = ("text_bert", *MODALITIES)
LABEL_KEYS = {
    "M": "regression_labels",
    "T": "regression_labels_T",
    "A": "regression_labels_A",
    "V": "regression_labels_V",
}
# What others call the splits.
SPLIT_NAMES = {
    **dict.fromkeys(("dev", "val", "validation", "development"), "valid"),
    **{name: name for name in SPLITS},
    "training": "train",
    "testing": "test",
}
SINGLE = "sample"  # the split of what has none, as a file of one sample
_LENGTHS = ("audio_lengths", "vision_lengths")
READ_KEYS = ("id", "raw_text", *ARRAYS, *_LENGTHS, *LABEL_KEYS.values())
PROVENANCE = ("unimodal_labels",)
# Which keys come from feature_T, feature_A and feature_V.
_OVERRIDDEN = {
    "T": ("text_bert", "text"),
    "A": ("audio", "audio_lengths"),
    "V": ("vision", "vision_lengths"),
}


@dataclass(frozen=True)
class LoadedFile:
    """What is in a feature file, before it is checked.

    Attributes:
        path: the file.
        data: the unpickled object; of a file in a cache, as much of it as is read.
        fingerprint: SHA-256 of all bytes of the file, hexadecimal.
        size: number of bytes.
        known: split -> key -> findings about arrays that were surveyed, and mended, already.
    """

    path: Path
    data: Any
    fingerprint: str
    size: int
    known: Mapping[str, Mapping[str, SequenceFindings]] = field(default_factory=dict)


def load_file(path: Path) -> LoadedFile:
    """Unpickle a feature file.

    Raises:
        FeatureFileError: the file is missing, unsafe or damaged.
    """
    loaded = load_pickle(path)
    return LoadedFile(path, loaded.data, loaded.fingerprint, loaded.size)


def is_single_sample(data: Mapping[str, Any]) -> bool:
    """Whether unpickled data is one sample without splits, as `MMSA_test` takes it."""
    return not any(name in data for name in SPLITS) and any(
        isinstance(data.get(key), np.ndarray | list) for key in ARRAYS
    )


def find_splits(
    data: Any, report: FeatureReport, require_labels: bool
) -> dict[str, dict[str, Any]]:
    """Find the splits, and turn a file of one sample into a split `sample` of one.

    Args:
        data: the unpickled file.
        report: receives findings.
        require_labels: whether all three splits must be there, as training needs.

    Returns:
        Split name -> a copy of its dict, in the order train, valid, test.
    """
    if not isinstance(data, dict):
        report.problems.append(
            f"The file holds a {type(data).__name__}; it must hold a dict with the splits "
            f"{', '.join(SPLITS)}."
        )
        return {}
    for key in PROVENANCE:
        if isinstance(data.get(key), str):
            report.notes.append(f"{key}: {data[key]}")
    if is_single_sample(data):
        return _single_split(data, report, require_labels)
    missing = [name for name in SPLITS if name not in data]
    unsplit = isinstance(data.get(SINGLE), dict)  # samples of no split, to be scored
    if missing and (require_labels or (len(missing) == len(SPLITS) and not unsplit)):
        others = ", ".join(sorted(str(key)[:80] for key in data if key not in SPLITS)[:10])
        meant = [
            f" Rename {key!r} to {SPLIT_NAMES[key.lower()]!r}."
            for key in data
            if isinstance(key, str) and SPLIT_NAMES.get(key.lower()) in missing
        ]
        report.problems.append(
            f"Splits missing: {', '.join(missing)}. The file's other keys: {others or 'none'}. "
            f"The splits must be named {', '.join(SPLITS)}.{''.join(meant)}"
        )
    splits: dict[str, dict[str, Any]] = {}
    for name in (*SPLITS, SINGLE) if unsplit and not require_labels else SPLITS:
        if isinstance(data.get(name), dict):
            splits[name] = dict(data[name])
        elif name in data:
            report.problems.append(f"[{name}] is a {type(data[name]).__name__}; must be a dict.")
    for name, raw in splits.items():
        for key in PROVENANCE:
            if isinstance(raw.get(key), str):
                report.notes.append(f"[{name}] {key}: {raw[key]}")
    return splits


def _single_split(
    data: dict[str, Any], report: FeatureReport, require_labels: bool
) -> dict[str, dict[str, Any]]:
    if any(np.ndim(data[key]) == 3 for key in ARRAYS if isinstance(data.get(key), np.ndarray)):
        report.problems.append(
            "The file holds several samples without splits. Put its content under the name of a "
            "split, {'test': {...}}."
        )
        return {}
    if require_labels:
        report.problems.append(
            "The file holds one sample without splits: it can be predicted, not trained on. "
            f"Training needs the keys {', '.join(SPLITS)}."
        )
        return {}
    return {SINGLE: _batch_of_one(data)}


def _batch_of_one(data: dict[str, Any]) -> dict[str, Any]:
    raw: dict[str, Any] = {"id": SINGLE}
    raw |= {key: value for key in READ_KEYS if (value := data.get(key)) is not None}
    return {
        key: value if key not in ARRAYS and isinstance(value, list | np.ndarray) else [value]
        for key, value in raw.items()
    }


def find_recipe(data: Any) -> tuple[Recipe, list[str]]:
    """Find who made the features of a file with splits, or of one sample.

    Args:
        data: the unpickled file.

    Returns:
        The recipe, empty where there is none or it is broken; and what is wrong with it.
    """
    held = data if isinstance(data, dict) else {}
    recipe = {} if held.get("recipe") is None else held["recipe"]
    if broken := problems(recipe):
        return {}, broken
    # As `encode-text` named its encoder before there were recipes.
    before = {"text": {"name": held.get("text_encoder"), "version": ""}}
    return recipe if problems(before) else before | recipe, []


def find_ids(scope: Scope, raw: Mapping[str, Any], required: bool) -> list[str]:
    """Read the sample ids, or number the samples where ids may be missing.

    Args:
        scope: where findings go.
        raw: key -> value of the split.
        required: whether missing ids are a problem.

    Returns:
        One id a sample; empty if there are none to be had.
    """
    if raw.get("id") is not None:
        return check_ids(scope, raw["id"]) or []
    if required:
        scope.problem("id", "is missing. Give every sample an id; predictions are joined by it.")
        return []
    scope.note("id", "is missing; samples are numbered.")
    sized = [raw[key] for key in ARRAYS if isinstance(raw.get(key), list | np.ndarray)]
    count = len(sized[0]) if sized else 0
    return [f"{scope.split}_{index}" for index in range(count)]


def check_disjoint(report: FeatureReport, ids: Mapping[str, Sequence[str]]) -> None:
    """File samples that are in two splits.

    Args:
        report: receives findings.
        ids: split -> its sample ids.
    """
    names = list(ids)
    for position, first in enumerate(names):
        for second in names[position + 1 :]:
            places = {name: index for index, name in enumerate(ids[first])}
            shared = [(n, places[n], i) for i, n in enumerate(ids[second]) if n in places]
            if shared:
                listed = ", ".join(
                    f"{shown(name)} ({first} {a}, {second} {b})" for name, a, b in shared[:5]
                )
                report.problems.append(
                    f"[{first}, {second}] id: {len(shared)} samples are in both splits: {listed}. "
                    "Remove them from one, or results on it mean nothing."
                )


def override_modality(
    role: str,
    loaded: LoadedFile,
    splits: Mapping[str, dict[str, Any]],
    scopes: Mapping[str, Scope],
) -> None:
    """Replace one modality by that of another file, sample by sample.

    Args:
        role: `T` (text_bert, text), `A` (audio, audio_lengths) or `V` (vision, vision_lengths).
        loaded: the other file, in the same layout.
        splits: split -> its raw content; changed in place.
        scopes: split -> where findings go, with the ids of the base file; changed in place.
    """
    data = loaded.data if isinstance(loaded.data, dict) else {}
    if is_single_sample(data):
        data = {SINGLE: _batch_of_one(data)}
    keys = _OVERRIDDEN[role]
    for name, raw in splits.items():
        scope = scopes[name]
        id_key = f"id (feature_{role})"
        scope.sources |= dict.fromkeys((*keys, id_key), str(loaded.path))
        for key in keys:
            raw.pop(key, None)
            scope.known.pop(key, None)
        other = data.get(name)
        if not isinstance(other, dict):
            scope.problem(keys[0], f"the file has no split {name!r}. Extract it as well.")
            continue
        raw |= {key: other[key] for key in keys if key in other}
        found = loaded.known.get(name, {})
        scope.known |= {key: found[key] for key in keys if key in found}
        _check_same_order(scope, id_key, other.get("id"))


def _check_same_order(scope: Scope, key: str, value: Any) -> None:
    if value is None:
        scope.warning(key, "is missing, so its samples are taken to be in the base file's order.")
        return
    ids = check_strings(scope, key, value, convert=True)
    if ids is None or ids == list(scope.ids):
        return
    pairs = zip(scope.ids, ids, strict=False)
    first = next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), None)
    detail = (
        f"{len(ids)} ids against {len(scope.ids)}"
        if first is None
        else f"{shown(ids[first])} against {shown(scope.ids[first])} at sample {first}"
    )
    scope.problem(key, f"differs from the base file: {detail}. Bring the samples into one order.")
