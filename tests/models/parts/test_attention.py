"""Attention blocks: against torch's own layers, masks, and the two readings."""

import pytest
import torch
from torch import nn

from MMSA_ext.models.parts.attention import (
    AddNorm,
    MultiHeadAttention,
    MultiSourceAttention,
    TransformerLayer,
    masked_mean,
)


def copy_attention(ours: MultiHeadAttention, theirs: nn.MultiheadAttention) -> None:
    with torch.no_grad():
        theirs.in_proj_weight.copy_(
            torch.cat([ours.query.weight, ours.key.weight, ours.value.weight])
        )
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
        theirs.out_proj.weight.copy_(ours.output.weight)
        theirs.out_proj.bias.copy_(ours.output.bias)


def test_multi_head_attention_equals_torch():
    torch.manual_seed(0)
    ours = MultiHeadAttention(16, 4)
    theirs = nn.MultiheadAttention(16, 4, batch_first=True)
    copy_attention(ours, theirs)
    target, source = torch.randn(3, 5, 16), torch.randn(3, 7, 16)
    mask = torch.arange(7)[None] < torch.tensor([7, 4, 1])[:, None]
    want, _ = theirs(target, source, source, key_padding_mask=~mask)
    torch.testing.assert_close(ours(target, source, mask), want)


@pytest.mark.parametrize("rate", [0.0, 1e-9])  # the latter drops nothing, on the way with dropout
def test_each_target_position_may_have_a_mask_of_its_own(rate):
    torch.manual_seed(0)
    attention = MultiHeadAttention(8, 2, dropout=rate).train()
    target, source = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    seen = torch.rand(2, 3, 5) > 0.5
    seen[..., 0] = True
    found = attention(target, source, seen)
    for i in range(3):
        want = attention(target[:, i : i + 1], source, seen[:, i])
        torch.testing.assert_close(found[:, i : i + 1], want)


@pytest.mark.parametrize("length", [20, 150])  # the latter in blocks
def test_dropout_on_weights_keeps_their_mean(length):
    torch.manual_seed(0)
    attention = MultiHeadAttention(8, 2, dropout=0.5, output_projection=False)
    x = torch.randn(3, length, 8)
    mask = torch.arange(length) < torch.tensor([length, length // 2, 1])[:, None]
    with torch.no_grad():
        whole = attention.eval()(x, x, mask)
        attention.train()
        draws = torch.stack([attention(x, x, mask) for _ in range(400)])
    error = draws.std(dim=0) / len(draws) ** 0.5
    assert ((draws.mean(dim=0) - whole).abs() < 6 * error).all()
    # Of a single key all is dropped or kept.
    alone = draws[:, 2].view(len(draws), length, 2, 4)
    dropped = (alone == 0).all(dim=-1)
    assert dropped.float().mean().item() == pytest.approx(0.5, abs=0.02)
    kept = alone / whole[2].view(length, 2, 4)
    torch.testing.assert_close(kept[~dropped], torch.full_like(kept[~dropped], 2.0))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_transformer_layer_equals_torch(activation):
    torch.manual_seed(0)
    ours = TransformerLayer(16, 4, 32, activation=activation)
    theirs = nn.TransformerEncoderLayer(
        16, 4, 32, dropout=0.0, activation=activation, batch_first=True
    )
    copy_attention(ours.attention, theirs.self_attn)
    theirs.linear1.load_state_dict(ours.feed_forward[0].state_dict())
    theirs.linear2.load_state_dict(ours.feed_forward[3].state_dict())
    x = torch.randn(2, 6, 16)
    mask = torch.arange(6)[None] < torch.tensor([6, 3])[:, None]
    want = theirs(x, src_key_padding_mask=~mask)
    torch.testing.assert_close(ours(x, source_mask=mask)[mask], want[mask])


def test_masked_source_positions_do_not_matter():
    torch.manual_seed(0)
    layer = TransformerLayer(16, 4, 32)
    x, source = torch.randn(2, 5, 16), torch.randn(2, 6, 16)
    mask = torch.arange(6)[None] < torch.tensor([4, 2])[:, None]
    changed = source.masked_fill(~mask[..., None], 1e3)
    torch.testing.assert_close(layer(x, source, mask), layer(x, changed, mask))


def test_masked_mean():
    x = torch.arange(12.0).reshape(2, 3, 2)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert masked_mean(x, mask).tolist() == [[1.0, 2.0], [0.0, 0.0]]
    torch.testing.assert_close(masked_mean(x, None), x.mean(1))


def test_residual_styles():
    torch.manual_seed(0)
    x, branch = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    norm = nn.LayerNorm(8)
    torch.testing.assert_close(AddNorm(8)(x, branch), norm(x + branch))
    torch.testing.assert_close(AddNorm(8, "branch_norm")(x, branch), x + norm(branch))


def test_multi_source_attention_is_the_sum_of_its_sources():
    torch.manual_seed(0)
    module = MultiSourceAttention(("audio", "vision"), 16, 4)
    x = torch.randn(2, 3, 16)
    sources = {"audio": torch.randn(2, 4, 16), "vision": torch.randn(2, 5, 16)}
    masks = {"audio": torch.ones(2, 4).bool(), "vision": None}
    want = sum(module.attention[m](x, sources[m], masks[m]) for m in sources)
    torch.testing.assert_close(module(x, sources, masks), want)


def test_shared_query_has_one_query_and_one_output_and_no_inner_bias():
    module = MultiSourceAttention(("audio", "vision"), 16, 4, 8, shared_query=True)
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    assert shapes == {
        "query.weight": (32, 16),
        "keys.audio.weight": (32, 16),
        "keys.vision.weight": (32, 16),
        "values.audio.weight": (32, 16),
        "values.vision.weight": (32, 16),
        "output.weight": (16, 32),
        "output.bias": (16,),
    }


def test_without_output_projection_the_heads_must_fill_the_width():
    with pytest.raises(ValueError, match="output projection"):
        MultiHeadAttention(16, 4, 8, output_projection=False)
