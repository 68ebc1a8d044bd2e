"""Samples that the models' tests share."""

import numpy as np
import pytest

from MMSA_ext.data.feature_set import FeatureSplit
from tests.conftest import make_feature_data


def make_split(dataset: str = "mosi") -> FeatureSplit:
    """12 ragged training samples; the first is as long as all modalities can be."""
    train = make_feature_data(dataset=dataset)["train"]
    names = {"M": "regression_labels"} | {n: f"regression_labels_{n}" for n in "TAV"}
    return FeatureSplit(
        name="train",
        ids=train["id"],
        raw_text=list(train["raw_text"]),
        text_bert=train["text_bert"],
        text=None,
        audio=train["audio"],
        vision=train["vision"],
        audio_lengths=np.array(train["audio_lengths"]),
        vision_lengths=np.array(train["vision_lengths"]),
        labels={name: train[key] for name, key in names.items() if key in train},
    )


@pytest.fixture(scope="module")
def dataset() -> FeatureSplit:
    return make_split()
