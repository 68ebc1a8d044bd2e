"""Attention weights of the temporal alignment."""

import numpy as np
import pytest
import torch

from MMSA_ext.errors import CheckpointError
from MMSA_ext.explain.attention_maps import attention_maps, attention_weights
from MMSA_ext.models.parts.attention import MultiSourceAttention


@pytest.mark.parametrize("shared_query", [False, True])
def test_the_weights_give_what_the_fast_path_gives(shared_query):
    torch.manual_seed(0)
    attention = MultiSourceAttention(("audio", "vision"), 16, 4, shared_query=shared_query)
    target = torch.randn(3, 5, 16)
    sources = {"audio": torch.randn(3, 7, 16), "vision": torch.randn(3, 4, 16)}
    masks = {"audio": torch.arange(7) < torch.tensor([[7], [3], [1]]), "vision": None}
    weights = attention_weights(attention, target, sources, masks)
    mixed = []
    for name, w in weights.items():
        assert w.shape == (3, 4, 5, sources[name].shape[1])
        torch.testing.assert_close(w.sum(-1), torch.ones(3, 4, 5))
        own = attention if shared_query else attention.attention[name]
        value = (own.values[name] if shared_query else own.value)(sources[name])
        read = w @ value.view(3, -1, 4, 4).transpose(1, 2)
        read = read.transpose(1, 2).flatten(-2)
        mixed.append(read if shared_query else own.output(read))
    total = sum(mixed)
    want = attention(target, sources, masks)
    torch.testing.assert_close(attention.output(total) if shared_query else total, want)
    assert (weights["audio"][1, :, :, 3:] == 0).all()


def test_a_row_for_every_token_and_valid_frame(explained):
    trained = explained("dashfusion")
    maps = attention_maps(trained)
    heads = [name for name in maps.columns if name.startswith("head_")]
    assert len(heads) == 4
    assert maps["valid"].all()
    np.testing.assert_allclose(maps[heads].mean(axis=1), maps["weight"], atol=1e-6)
    sums = maps.groupby(["id", "modality", "token"])[["weight", *heads]].sum()
    np.testing.assert_allclose(sums, 1, atol=1e-5)
    for _, sample in trained.samples.iterrows():
        audio = maps[(maps["id"] == sample["id"]) & (maps["modality"] == "audio")]
        assert audio["frame"].unique().tolist() == [-1, *range(sample["audio_length"])]
        pieces = audio.drop_duplicates("token")["piece"].tolist()
        assert pieces[0] == "[CLS]"
        assert set(pieces[1:]) <= {"[MASK]", "word7", "word23", "word31", "[SEP]"}


def test_padding_that_is_attended_to_is_shown_as_such(explained):
    maps = attention_maps(explained("dashfusion_released", ("num_epochs", 2)))
    assert not maps["valid"].all()
    sums = maps.groupby(["id", "modality", "token"])["weight"].sum()
    np.testing.assert_allclose(sums, 1, atol=1e-5)


def test_a_model_without_temporal_alignment_is_refused(explained, monkeypatch):
    with pytest.raises(CheckpointError, match="text_only has no temporal alignment"):
        attention_maps(explained("text_only"))
    trained = explained("dashfusion")
    without = trained.core.config.model_copy(update={"temporal_alignment": False})
    monkeypatch.setattr(trained.core, "config", without)
    with pytest.raises(CheckpointError, match="temporal_alignment=false"):
        attention_maps(trained)
