"""What a run hands to its model: the file's shapes, and its frames scaled and corrupted."""

from __future__ import annotations

import logging

import numpy as np
from easydict import EasyDict

from MMSA_ext.data.corruption import CorruptionConfig, corrupt
from MMSA_ext.data.feature_set import FeatureSet
from MMSA_ext.data.scaling import FeatureScaling
from MMSA_ext.errors import FeatureFileError
from MMSA_ext.registry import trains_in_mmsa

logger = logging.getLogger("MMSA")


def seen_features(
    features: FeatureSet,
    scaling: FeatureScaling | None,
    corruption: CorruptionConfig | None,
    *,
    in_mmsa: bool,
) -> FeatureSet:
    """What the model is given, whoever's loader hands it over.

    Frames are scaled before they are corrupted, so that a lost one is zeros, and noise is in
    standard deviations, to the model too.

    Args:
        features: As read.
        scaling: Means and deviations of the training split; None leaves the frames.
        corruption: What is taken from the data; None is nothing.
        in_mmsa: Whether MMSA's loader makes the batches, which scales nothing.
    """
    if scaling is not None:
        if corruption is None and not in_mmsa:
            return features.with_scaling(scaling)  # batch by batch, without a copy
        features = features.scaled(scaling)
    return corrupt(features, corruption)


def adopt_shapes(args: EasyDict, features: FeatureSet) -> None:
    """Let the configuration state the shapes that are in the file.

    Args:
        args: Resolved configuration; `feature_dims`, `seq_lens` and `train_samples` are changed.
        features: The checked file.

    Raises:
        FeatureFileError: The file lacks what the model reads.
    """
    train = features.splits["train"]
    reads_tokens = bool(args.get("use_bert"))
    text = train.text_bert if reads_tokens else train.text
    if text is None and "text" in train.absent:  # the model does not read it
        text = np.zeros((0, 3, 1))
    if text is None:
        key = "text_bert" if reads_tokens else "text"
        raise FeatureFileError(
            f"{features.path}: has no {key!r}, which {args.model_name} reads; fill it from "
            "'raw_text' with `mmsa-ext encode-text`."
        )
    shapes = ("feature_dims", "seq_lens")
    stated = [list(args.get(key, ())) for key in shapes]
    text_dim = args.feature_dims[0] if reads_tokens else text.shape[2]
    args.feature_dims = [text_dim, train.audio.shape[2], train.vision.shape[2]]
    text_length = text.shape[2] if reads_tokens else text.shape[1]
    args.seq_lens = [text_length, train.audio.shape[1], train.vision.shape[1]]
    if stated != (found := [list(args[key]) for key in shapes]):
        told = "Shapes are the file's: feature_dims %s, seq_lens %s; configured: %s, %s."
        logger.info(told, *found, *stated)
    if not trains_in_mmsa(args.model_name):
        args.train_samples = len(train.ids)
        return
    if "train_samples" in args:
        # Self-MM sizes its buffers by this; MMSA's value stays wherever it suffices.
        args.train_samples = max(args.train_samples, len(train.ids))
