"""Score new samples with a trained model of MMSA's own, in MMSA's own evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from easydict import EasyDict
from numpy.typing import NDArray
from torch import OutOfMemoryError, Tensor, nn
from torch.utils.data import DataLoader

from MMSA_ext.data.predictions import Predictions, predictions_frame
from MMSA_ext.errors import CheckpointError, FeatureFileError, MMSAExtError
from MMSA_ext.mmsa_bridge.feature_reading import provided_features
from MMSA_ext.mmsa_bridge.networks import trained_model
from MMSA_ext.mmsa_bridge.recording import PredictionRecorder
from MMSA_ext.mmsa_bridge.registration import registered
from MMSA_ext.mmsa_bridge.runtime import progress_bars
from MMSA_ext.mmsa_bridge.stock import build_trainer
from MMSA_ext.names import MODALITIES, MODALITY_FILES

if TYPE_CHECKING:
    from MMSA_ext.data.feature_set import FeatureSet, FeatureSplit

# Padding is not allowed to take more than both of these.
_LARGEST_PADDED = 2**32  # bytes
_MOST_PADDING = 16  # times what the file holds


def predict_stock(
    args: EasyDict, state_dict: Mapping[str, Tensor], features: FeatureSet
) -> pd.DataFrame:
    """`stock_predictions` as a table.

    Returns:
        Columns `split`, `id`, `label` (NaN where unknown) and `prediction`, in file order.
    """
    return predictions_frame(stock_predictions(args, state_dict, features))


def stock_predictions(
    args: EasyDict,
    state_dict: Mapping[str, Tensor],
    features: FeatureSet,
    *,
    fused: bool = False,
    built: dict[str, nn.Module] | None = None,
) -> dict[str, Predictions]:
    """Predict every sample of `features` with a trained model of MMSA's.

    Sequences are padded with zeros to the lengths the model was trained on, because some of MMSA's
    models (those with `need_normalized`) average over the padding.

    Args:
        args: From `complete_args`, with the checkpoint as `model_save_path`; `seq_lens` holds the
            lengths (text, audio, vision) of the sequences in the training data's file. Stays as it
            is.
        state_dict: Trained weights.
        features: Splits to score, with or without labels.
        fused: Whether the fused vectors are kept, of models that return them.
        built: Networks that earlier calls built, which this one uses and adds to.

    Returns:
        By split, in file order; the label is NaN where it is unknown.

    Raises:
        CheckpointError: If the weights do not fit the configuration, or MMSA's evaluation cannot
            run with it.
        FeatureFileError: If a split lacks the text that the model reads, or a sequence is longer
            than in training.
        TrainingDivergedError: If a prediction is not a finite number.
    """
    splits = {name: _as_in_training(split, args) for name, split in features.splits.items()}
    args = EasyDict({**args, **dict.fromkeys(MODALITY_FILES)})
    if "train_samples" in args:
        args.train_samples = 1  # sizes what training alone needs
    provided = provided_features(replace(features, splits=splits))
    with registered(), provided, progress_bars(False):
        try:
            return _scored(args, state_dict, splits, fused, {} if built is None else built)
        except (MMSAExtError, MemoryError, OutOfMemoryError):
            raise
        except Exception as error:  # whatever MMSA's code makes of a value that is not there
            raise CheckpointError(
                f"{args.model_save_path}: {args.model_name} cannot score {features.path} as its "
                f"configuration says ({type(error).__name__}: {error}). Pass what is missing or "
                "wrong there as config, or use another checkpoint."
            ) from error


def _scored(
    args: EasyDict,
    state_dict: Mapping[str, Tensor],
    splits: Mapping[str, FeatureSplit],
    fused: bool,
    built: dict[str, nn.Module],
) -> dict[str, Predictions]:
    read_split = import_module("MMSA.data_loader").MMDataset
    datasets = {name: read_split(args, mode=name) for name in splits}
    args.seq_lens = next(iter(datasets.values())).get_seq_len()  # as MMDataLoader does
    if (lengths := str(args.seq_lens)) not in built:
        built[lengths] = trained_model(args, state_dict)
    model = built[lengths]
    trainer = build_trainer(args)
    # Without labels there is nothing to score; two of MMSA's trainers keep the model.
    trainer.metrics, trainer.model = (lambda prediction, label: {}), model
    recorder = PredictionRecorder(features=fused)
    hook = recorder.attach(model)
    predictions = {}
    try:
        for name, dataset in datasets.items():
            loader = DataLoader(dataset, batch_size=args.batch_size)
            trainer.do_test(model, recorder.watch(loader), mode="TEST")
            recorder.check_finite(f"on the {name} split")
            predictions[name] = recorder.take()
    finally:
        hook.remove()
    return predictions


def _as_in_training(split: FeatureSplit, args: EasyDict) -> FeatureSplit:
    """A split with every label MMSA asks for, padded to the lengths of the training data."""
    source = args.model_save_path
    lengths = dict(zip(MODALITIES, map(int, args.seq_lens), strict=True))
    text_key, text_axis = ("text_bert", 2) if args.get("use_bert") else ("text", 1)
    axes = {text_key: ("text", text_axis), "audio": ("audio", 1), "vision": ("vision", 1)}
    padded: dict[str, Any] = {
        key: _padded(values, axis, lengths[modality], split, key, source)
        for key, (modality, axis) in axes.items()
        if (values := getattr(split, key)) is not None
    }
    unknown = np.full(len(split.ids), np.nan, np.float32)
    return replace(split, **padded, labels=dict.fromkeys("MTAV", unknown) | split.labels)


def _padded(
    values: NDArray[Any], axis: int, length: int, split: FeatureSplit, key: str, source: Path
) -> NDArray[Any]:
    missing = length - values.shape[axis]
    if missing < 0:
        raise FeatureFileError(
            f"split {split.name!r}, key {key!r}: {values.shape[axis]} steps, the model was "
            f"trained on {length}; cut the sequences to that length."
        )
    size = values.nbytes // max(1, values.shape[axis]) * length
    if size > max(_LARGEST_PADDED, _MOST_PADDING * values.nbytes):
        raise CheckpointError(
            f"{source}: says that it was trained on {length} steps of {key!r}, with which split "
            f"{split.name!r} takes {size / 2**30:.0f} GiB; pass the true seq_lens as config, or "
            "use another checkpoint."
        )
    widths = [(0, missing if dimension == axis else 0) for dimension in range(values.ndim)]
    return np.pad(values, widths)
