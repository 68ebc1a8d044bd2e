import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmsa_toys import write_features

from MMSA_ext import mmsa_bridge
from MMSA_ext.config.files import read_config
from MMSA_ext.data.features import FeatureSet, read_features
from MMSA_ext.errors import CheckpointError, FeatureFileError

pytestmark = pytest.mark.usefixtures("patched_mmsa")
CONFIG = {"batch_size": 4, "early_stop": 1, "update_epochs": 2, "train_samples": 16}


def feature_set(path: Path, **changes: Any) -> FeatureSet:
    """A generated file, read and changed."""
    features = read_features(path, path.stem)
    splits = {name: replace(split, **changes) for name, split in features.splits.items()}
    return replace(features, splits=splits)


@pytest.fixture
def train(tmp_path: Path, tiny_encoder: Path) -> Callable[..., tuple[Any, mmsa_bridge.StockRun]]:
    def run(model: str, dataset: str) -> tuple[Any, mmsa_bridge.StockRun]:
        path = write_features(tmp_path / f"{dataset}.pkl", dataset)
        args = read_config("regression", model, dataset)
        args.update(CONFIG | {"featurePath": str(path), "text_out": 16, "hidden_dims": [4, 4, 4]})
        args.update(rank=2, pretrained=str(tiny_encoder), seq_lens=[6, 9, 7])
        weights = tmp_path / "model.pth"
        args = mmsa_bridge.complete_args(args, device=torch.device("cpu"), model_save_path=weights)
        with mmsa_bridge.progress_bars(False):
            return copy.deepcopy(args), mmsa_bridge.train_and_test(args, seed=1)

    return run


@pytest.mark.parametrize(
    ("model", "dataset"),
    [("lf_dnn", "mosi"), ("self_mm", "mosi"), ("mlmf", "sims"), ("mfn", "sims")],
)
def test_same_predictions_as_after_training(
    model: str, dataset: str, train: Callable[..., Any]
) -> None:
    args, run = train(model, dataset)
    features = feature_set(Path(args.featurePath))
    table = mmsa_bridge.predict_stock(args, run.model.state_dict(), features)
    assert list(table.columns) == ["split", "id", "label", "prediction"]
    for split, samples in run.predictions.items():
        part = table[table.split == split]
        assert part.id.tolist() == samples.ids
        np.testing.assert_array_equal(part.label, samples.label)
        np.testing.assert_allclose(part.prediction, samples.prediction, atol=1e-6)


def test_labels_may_be_unknown_and_sequences_shorter(train: Callable[..., Any]) -> None:
    args, run = train("lf_dnn", "mosi")
    features = feature_set(Path(args.featurePath), labels={})
    split = features.splits["test"]
    for modality in ("audio", "vision"):
        getattr(split, modality)[:, 5:] = 0
    features = replace(features, splits={"test": split})
    padded = mmsa_bridge.predict_stock(args, run.model.state_dict(), features)
    split = replace(split, audio=split.audio[:, :5], vision=split.vision[:, :5])
    features = replace(features, splits={"test": split})
    short = mmsa_bridge.predict_stock(args, run.model.state_dict(), features)
    assert short.label.isna().all()
    np.testing.assert_array_equal(short.prediction, padded.prediction)


def test_what_does_not_fit_is_refused(train: Callable[..., Any]) -> None:
    args, run = train("lf_dnn", "mosi")
    state, path = run.model.state_dict(), Path(args.featurePath)
    with pytest.raises(FeatureFileError, match="has no 'text', which lf_dnn reads"):
        mmsa_bridge.predict_stock(args, state, feature_set(path, text=None))
    with pytest.raises(FeatureFileError, match="'audio': 10 steps, the model was trained on 9"):
        mmsa_bridge.predict_stock(args, state, feature_set(path, audio=np.zeros((6, 10, 5))))
    args.hidden_dims = [8, 8, 8]
    with pytest.raises(CheckpointError, match="do not fit lf_dnn as configured"):
        mmsa_bridge.predict_stock(args, state, feature_set(path))
