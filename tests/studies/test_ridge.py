"""The ridge takes averages over valid frames alone, and chooses its strength on validation."""

import numpy as np
import pandas as pd
import pytest
from ridge import averages, main, ridge

from MMSA_ext.data import synthetic
from MMSA_ext.data.features import read_features


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    path = tmp_path_factory.mktemp("ridge") / "features.pkl"
    synthetic.write(path, "mosi", sizes=(60, 20, 20), lengths=(12, 20, 16), dims=(16, 8, 8))
    return path


@pytest.mark.parametrize("modality", ["text", "audio", "vision"])
def test_padding_is_not_averaged(features, modality):
    split = read_features(features, "mosi").splits["test"]
    frames = np.asarray(getattr(split, modality), np.float64)[0]
    valid = frames[frames.any(axis=1)]
    expected = np.concatenate([valid.mean(axis=0), valid.std(axis=0)])
    np.testing.assert_allclose(averages(split, modality)[0], expected, atol=1e-6)


def test_the_planted_text_is_read(features):
    assert ridge(features, "mosi", ["text"])["Corr"] > 0.25


def test_a_line_is_replaced_by_the_next_fit_and_others_stay(features, tmp_path):
    out = tmp_path / "ridge.csv"
    for modalities in (["audio"], ["text"], ["audio"]):
        main(features, "mosi", modalities, out)
    assert sorted(pd.read_csv(out)["modalities"]) == ["audio", "text"]
