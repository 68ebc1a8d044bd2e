"""Choosing samples of a feature file."""

import numpy as np
import pytest

from MMSA_ext.data.features import read_features
from MMSA_ext.errors import FeatureFileError
from MMSA_ext.explain.samples import select_samples


@pytest.fixture
def features(feature_file):
    return read_features(feature_file)


def test_samples_by_id_from_any_split_with_everything_that_belongs_to_them(features):
    chosen = select_samples(features, ["test$_$3", "train$_$2"])
    assert {name: part.ids for name, part in chosen.splits.items()} == {
        "train": ["train$_$2"],
        "test": ["test$_$3"],
    }
    whole, part = features.splits["test"], chosen.splits["test"]
    for field in ("text_bert", "text", "audio", "vision", "audio_lengths", "vision_lengths"):
        np.testing.assert_array_equal(getattr(part, field), getattr(whole, field)[[3]])
    assert part.raw_text == [whole.raw_text[3]]
    assert part.labels["M"].tolist() == [whole.labels["M"][3]]


def test_a_draw_is_in_file_order_and_repeats_with_its_seed(features):
    first, again, other = (
        select_samples(features, split="train", limit=5, seed=seed).splits["train"].ids
        for seed in (0, 0, 1)
    )
    assert first == again != other
    assert sorted(first, key=lambda name: int(name.split("$")[-1])) == first
    assert len(select_samples(features, split="train", limit=99).splits["train"]) == 12


def test_an_unknown_sample_is_refused_with_a_suggestion(features):
    with pytest.raises(FeatureFileError, match=r"no sample 'test\$_\$33'; did you mean test\$_\$3"):
        select_samples(features, ["test$_$33"])
    with pytest.raises(FeatureFileError, match=r"no sample '!'; its first is train"):
        select_samples(features, ["!"])


def test_an_unknown_split_is_refused(features):
    with pytest.raises(FeatureFileError, match="no split 'dev'; it has train, valid, test"):
        select_samples(features, split="dev")
