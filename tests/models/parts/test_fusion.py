"""The fusion mechanisms of Table V; padding and gradients are tested in `test_all_models.py`."""

import torch

from MMSA_ext.models.parts.fusion import FusionShape, Sequences, build_fusion, first_tokens

SHAPE = FusionShape(dim=16, heads=4, feed_forward_dim=32, layers=3, bottleneck_tokens=8)
NAMES = ["hbf", "bf", "ca", "concat_sa", "concat"]


def make_sequences() -> Sequences:
    generator = torch.Generator().manual_seed(0)
    lengths = {"text": (9, 5), "audio": (12, 3), "vision": (4, 7)}
    masks = {
        name: torch.arange(max(valid))[None] < torch.tensor(valid)[:, None]
        for name, valid in lengths.items()
    }
    features = {
        name: torch.randn(2, mask.shape[1], 16, generator=generator) for name, mask in masks.items()
    }
    H = torch.randn(2, 9, 16, generator=generator)
    return Sequences(H, masks["text"], features, masks)


def test_tokens_are_halved_in_hbf_and_constant_in_bf():
    assert [layer.tokens for layer in build_fusion("hbf", SHAPE).layers] == [8, 4, 2]
    assert [layer.tokens for layer in build_fusion("bf", SHAPE).layers] == [8, 8, 8]
    deep = FusionShape(dim=16, heads=4, feed_forward_dim=32, layers=4, bottleneck_tokens=4)
    assert [layer.tokens for layer in build_fusion("hbf", deep).layers] == [4, 2, 1, 1]


def test_bottleneck_really_has_the_stated_number_of_tokens():
    torch.manual_seed(0)
    sequences = make_sequences()
    for layer, expected in zip(build_fusion("hbf", SHAPE).layers, (8, 4, 2), strict=True):
        sequences = layer(sequences)
        assert sequences.H.shape[1] == expected
        assert sequences.H_mask is not None
        assert sequences.H_mask.shape == (2, expected)
        assert sequences.features["audio"].shape == (2, 12, 16)


def test_layer_is_equations_6_to_9():
    """Recompute one layer from its parts, in the order of the paper."""
    torch.manual_seed(0)
    layer = build_fusion("hbf", SHAPE).layers[0]
    s = make_sequences()
    B = layer.redistribute(s.H, source_mask=s.H_mask)[:, :8]
    read = sum(layer.multi_ca.attention[m](B, s.features[m], s.masks[m]) for m in s.features)
    H = layer.multi_ca_norm.norm(B + read)
    H = layer.feed_forward_norm.norm(H + layer.feed_forward(H))
    update = layer.update["audio"]
    X = s.features["audio"]
    Z = update.attention_norm.norm(X + update.attention(X, H, s.H_mask[:, :8]))
    X = update.feed_forward_norm.norm(Z + update.feed_forward(Z))
    out = layer(s)
    torch.testing.assert_close(out.H, H)
    torch.testing.assert_close(out.features["audio"], X)


def test_concat_has_no_parameters_and_reads_first_tokens():
    fusion = build_fusion("concat", SHAPE)
    assert not list(fusion.parameters())
    s = make_sequences()
    torch.testing.assert_close(fusion(s), first_tokens(s.features, s.H))
    torch.testing.assert_close(fusion(s)[:, 16:32], s.features["audio"][:, 0])


def test_mechanisms_differ_in_computation():
    counts = {
        name: sum(p.numel() for p in build_fusion(name, SHAPE).parameters()) for name in NAMES
    }
    assert counts["concat"] == 0
    assert counts["hbf"] == counts["bf"] > counts["ca"] > counts["concat_sa"]
