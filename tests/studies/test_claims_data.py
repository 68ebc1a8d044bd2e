"""What is made for the claims is what its description says."""

import numpy as np
import pytest
from claims_data import noise_for_vision

from MMSA_ext.data import synthetic
from MMSA_ext.data.features import write_features
from MMSA_ext.data.safe_pickle import safe_load


def test_noise_takes_the_place_of_vision_and_nothing_else_changes(tmp_path):
    source, target = tmp_path / "source.pkl", tmp_path / "noise.pkl"
    write_features(source, synthetic.make("mosi", sizes=(30, 8, 8), lengths=(12, 20, 16)))
    noise_for_vision(source, target)
    before, after = safe_load(source), safe_load(target)
    for split in ("train", "valid", "test"):
        vision = after[split].pop("vision")
        assert vision.shape == before[split].pop("vision").shape
        assert vision.std() == pytest.approx(1, abs=0.05)
        for key in ("audio", "text_bert", "regression_labels"):
            np.testing.assert_array_equal(after[split][key], before[split][key])
        assert after[split].keys() == before[split].keys()
    noise_for_vision(source, tmp_path / "again.pkl")
    assert (tmp_path / "again.pkl").read_bytes() == target.read_bytes()
