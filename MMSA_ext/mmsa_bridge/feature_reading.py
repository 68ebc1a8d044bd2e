"""MMSA's loader is handed what this package read: checked and mended arrays, once a file.

MMSA opens each feature file once a split and asks `pickle` for what is in it. In the place of that
it finds a `FeatureSet` in the layout of its own files, so that a file means the same to every
model. MMSA copies what it takes (`astype`), so that all may share one reading.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from MMSA_ext.errors import FeatureFileError
from MMSA_ext.mmsa_bridge.data_sets import as_sims, data_set, has_unimodal_labels
from MMSA_ext.mmsa_bridge.patching import ModuleProxy, replace_attribute
from MMSA_ext.names import MODALITY_FILES

if TYPE_CHECKING:
    from MMSA_ext.data.feature_set import FeatureSet, FeatureSplit

# What the open `provided_features` hand over.
_provided: list[FeatureSet] = []
# What MMSA's data set, while it is made, finds in every file that it opens.
_contents: list[dict[str, dict[str, Any]]] = []


@contextmanager
def provided_features(features: FeatureSet) -> Iterator[None]:
    """Inside, MMSA's loader finds `features` in whatever files it opens."""
    _provided.append(features)
    try:
        yield
    finally:
        _provided.pop()


def features_for(args: Any) -> FeatureSet:
    """What MMSA's loader is to find: what is provided, or else the files that `args` names.

    Args:
        args: MMSA's configuration, as its loader reads it.

    Raises:
        FeatureFileError: A file is missing, unsafe or damaged, or has problems.
    """
    if _provided:
        return _provided[-1]
    from MMSA_ext.data.features import base_file, read_features

    others = {name: args[name] for name in MODALITY_FILES}
    base = base_file(args["custom_feature"], args.get("featurePath", ""), others.values())
    padding = args.get("front_padding")
    return read_features(base, data_set(args), front_padding=padding, **others)


def read_features_safely(undo: ExitStack) -> None:
    """Let nothing that MMSA unpickles run code: its loader's files, and those of `MMSA_test`."""
    for name in ("MMSA.data_loader", "MMSA.run"):
        replace_attribute(undo, import_module(name), "pickle", ModuleProxy(pickle, load=_load))


def _load(file: BinaryIO) -> Any:
    """Stand-in for `pickle.load` in MMSA's modules."""
    if _contents:
        return _contents[-1]
    from MMSA_ext.data.safe_pickle import safe_load

    return safe_load(file)


def hand_over(undo: ExitStack) -> None:
    """Let MMSA's data set find in its files what `data.features.read_features` gives.

    Of a NaN, which is 0 there, MMSA makes a number of its own where it averages over time: there
    the average of that feature is 0, and stays so.
    """
    dataset = import_module("MMSA.data_loader").MMDataset
    read = dataset.__init__

    @wraps(read)
    def read_checked(self: Any, args: Any, mode: str = "train") -> None:
        features = features_for(args)
        split = features.splits[mode]
        configured = args["custom_feature"]
        # MMSA opens a file; that of the features need not be there, or be one.
        args["custom_feature"] = os.devnull
        _contents.append({mode: _in_mmsas_layout(split, args, features.path)})
        try:
            with as_sims(args, when=has_unimodal_labels(args, split.labels)):
                read(self, args, mode)
        finally:
            _contents.pop()
            args["custom_feature"] = configured
        if args.get("need_normalized"):
            for key, gaps in split.gaps.items():
                averages = getattr(self, key)  # (n, 1, d)
                averages[:, 0][np.divmod(gaps, averages.shape[2])] = 0

    replace_attribute(undo, dataset, "__init__", read_checked)


def _in_mmsas_layout(split: FeatureSplit, args: Any, path: Path) -> dict[str, Any]:
    """What MMSA's loader takes of a split."""
    from MMSA_ext.data.feature_layout import LABEL_KEYS

    key = "text_bert" if args.get("use_bert") else "text"
    text = getattr(split, key)
    if text is None:
        raise FeatureFileError(
            f"{path}: split {split.name!r} has no {key!r}, which {args.get('model_name')} reads; "
            "fill it with `mmsa-ext encode-text`."
        )
    if split.absent:  # audio or vision
        raise FeatureFileError(
            f"{path}: has no {' and no '.join(split.absent)}, which MMSA's loader reads; run a "
            "model that does not read it, as text_only, with MMSA_ext.MMSA_run."
        )
    return {
        "raw_text": split.raw_text,
        "id": split.ids,
        key: text,
        "audio": split.audio,
        "vision": split.vision,
        "audio_lengths": split.audio_lengths.tolist(),
        "vision_lengths": split.vision_lengths.tolist(),
        **{LABEL_KEYS[kind]: labels for kind, labels in split.labels.items()},
    }
