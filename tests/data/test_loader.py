"""Batches: trimming, masks, order, joining by index."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from MMSA_ext.data.features import read_features
from MMSA_ext.data.loader import FeatureLoader, as_feature_loader, make_loaders
from MMSA_ext.errors import FeatureFileError


@pytest.fixture
def features(feature_file):
    return read_features(feature_file, "mosi")


def test_batch_is_trimmed_masked_and_joins_by_index(features, feature_data):
    split = features.splits["train"]
    rows = torch.tensor([5, 2, 7])
    batch = split.batch(rows)
    stored = feature_data["train"]
    for name in ("audio", "vision"):
        lengths = np.array(stored[f"{name}_lengths"])[rows.numpy()]
        assert batch[name].shape[1] == lengths.max()
        assert batch[f"{name}_mask"].sum(1).tolist() == lengths.tolist()
        for row, (sample, length) in enumerate(zip(rows.tolist(), lengths, strict=True)):
            np.testing.assert_array_equal(batch[name][row, :length], stored[name][sample, :length])
            assert batch[f"{name}_mask"][row, :length].all()
    assert batch["text"].shape[2] == stored["text_bert"][rows.numpy(), 1].sum(1).max()
    assert torch.equal(batch["text_mask"], batch["text"][:, 1].bool())
    assert batch["id"] == [stored["id"][row] for row in rows]
    assert batch["raw_text"] == [stored["raw_text"][row] for row in rows]
    assert batch["labels"]["M"].shape == (3, 1)
    np.testing.assert_array_equal(
        batch["labels"]["M"][:, 0], stored["regression_labels"][rows.numpy()]
    )
    assert batch["audio"].dtype == torch.float32


def test_training_shuffles_by_seed_and_evaluation_keeps_file_order(features, feature_data):
    loaders = make_loaders(features, 5, 4)

    def order(split):
        return [sample for batch in loaders[split] for sample in batch["id"]]

    torch.manual_seed(3)
    first = order("train")
    torch.manual_seed(3)
    assert order("train") == first
    assert order("train") != first
    assert sorted(first) == sorted(feature_data["train"]["id"])
    assert order("valid") == feature_data["valid"]["id"]
    assert [len(loaders[s]) for s in ("train", "valid", "test")] == [3, 2, 2]


@pytest.mark.parametrize("modality", ["audio", "vision"])
def test_constant_frames_are_seen_wherever_they_are_valid(features, modality):
    split = features.splits["train"]
    lengths = getattr(split, f"{modality}_lengths")
    assert not split.is_constant(modality)
    frames = np.full_like(getattr(split, modality), 2.5)
    frames[..., 1] = -1.0  # each feature by itself
    for row, length in enumerate(lengths):
        frames[row, length:] = 9.0  # padding, which does not count
    same = replace(split, **{modality: frames})
    assert same.is_constant(modality)
    frames[-1, lengths[-1] - 1, 1] = 0.0
    assert not same.is_constant(modality)
    absent = {modality: np.zeros_like(frames), f"{modality}_lengths": np.zeros_like(lengths)}
    assert replace(split, **absent).is_constant(modality)


def test_a_text_is_constant_if_all_have_the_same_tokens(features):
    split = features.splits["train"]
    assert not split.is_constant("text")
    text = split.text_bert.copy()
    text[:] = text[:1]
    assert replace(split, text_bert=text).is_constant("text")


def test_samples_by_length_go_from_short_to_long(features):
    split = features.splits["train"]
    order = split.by_length()
    assert sorted(order.tolist()) == list(range(len(split)))
    tokens = split.text_bert[:, 1].sum(axis=1)
    lengths = (tokens, split.audio_lengths, split.vision_lengths)
    share = sum(n / n.max() for n in lengths)[order]
    assert (np.diff(share) >= 0).all()
    assert share[0] < share[-1]


def test_float16_storage_is_kept_and_cast_by_batch(features):
    split = features.splits["train"]
    half = replace(split, audio=split.audio.astype(np.float16))
    batch = half.batch(torch.arange(3))
    assert half.audio.dtype == np.float16
    assert batch["audio"].dtype == torch.float32


def test_a_file_without_token_ids_is_refused_with_the_mend(features):
    without = {"train": replace(features.splits["train"], text_bert=None)}
    with pytest.raises(FeatureFileError, match=r"train.*text_bert.*encode-text"):
        make_loaders(replace(features, splits=without), 4, 4)


def test_mmsa_plain_loader_is_taken_over(feature_file, feature_data):
    from easydict import EasyDict
    from MMSA.data_loader import MMDataLoader

    args = EasyDict(
        dataset_name="mosi", featurePath=str(feature_file), custom_feature=None, feature_T=None,
        feature_A=None, feature_V=None, use_bert=True, need_data_aligned=False, batch_size=4,
        feature_dims=[0, 0, 0],
    )  # fmt: skip
    plain = MMDataLoader(args, 0)["valid"]
    loader = as_feature_loader(plain, 4, shuffle=False)
    assert isinstance(loader, FeatureLoader)
    batches = list(loader)
    assert [i for batch in batches for i in batch["id"]] == feature_data["valid"]["id"]
    ours = read_features(feature_file, "mosi").splits["valid"]
    torch.testing.assert_close(batches[0]["audio"], ours.batch(torch.arange(4))["audio"])
    assert as_feature_loader(loader, 9, shuffle=True) is loader


def test_taken_samples_keep_what_belongs_to_them(features):
    split = features.splits["train"]
    width = split.audio.shape[2]
    gaps = np.array([3 * width + 1, 5 * width, 7 * width + 2])  # of the samples 3, 5 and 7
    split = replace(split, gaps={"audio": gaps})
    taken = split.take([7, 2, 3])
    assert taken.ids == [split.ids[row] for row in (7, 2, 3)]
    np.testing.assert_array_equal(taken.vision, split.vision[[7, 2, 3]])
    np.testing.assert_array_equal(taken.labels["M"], split.labels["M"][[7, 2, 3]])
    assert taken.gaps["audio"].tolist() == [2, 2 * width + 1]
    assert split.take([0]).gaps == {}
    assert split.thinned(4).ids == split.ids[::3]
    assert split.thinned(100).ids == split.ids
