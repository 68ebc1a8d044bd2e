"""Modality encoders: masks, groups of similar length, class token."""

import pytest
import torch

from MMSA_ext.errors import TextEncoderError
from MMSA_ext.models.parts.encoders import (
    FrameEncoder,
    PooledTextEncoder,
    TextEncoder,
    in_length_groups,
)
from MMSA_ext.text_encoders import encoder_config


def frame_encoder(**options):
    return FrameEncoder(5, 16, 12, layers=2, heads=4, feed_forward_dim=32, **options).eval()


def ragged(count=9, longest=12, width=5):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator)
    mask = torch.arange(longest)[None] < lengths[:, None]
    return torch.randn(count, longest, width, generator=generator) * mask[..., None], mask


def ragged_text():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 60, (6, 9), generator=generator)
    mask = torch.arange(9)[None] < torch.tensor([9, 4, 2, 9, 5, 3])[:, None]
    return torch.stack([ids * mask, mask, torch.zeros_like(ids)], 1).float(), mask


@pytest.mark.parametrize("groups", [1, 2, 3, 4])
def test_length_groups_change_nothing(groups):
    torch.manual_seed(0)
    encoder = frame_encoder()
    frames, mask = ragged()
    want, want_mask = encoder(frames, mask).padded()
    encoder.length_groups = groups
    got, got_mask = encoder(frames, mask).padded()
    torch.testing.assert_close(got, want)
    assert torch.equal(got_mask, want_mask)


@pytest.mark.parametrize("groups", [1, 3])
def test_frames_after_a_hole_are_kept(groups):
    """A mask by non-zero frames may have holes."""
    torch.manual_seed(0)
    plain = frame_encoder()
    frames, mask = ragged()
    mask[:, 1] = False
    mask[:, 9] = True
    want, _ = plain(frames, mask).padded()
    plain.length_groups = groups
    torch.testing.assert_close(plain(frames, mask).padded()[0], want)
    assert want[:, 10].abs().sum(1).all()


def test_groups_really_are_trimmed_and_keep_the_order():
    seen = []

    def encode(sequence, mask):
        seen.append(sequence.shape[:2])
        return sequence * mask[..., None]

    frames, mask = ragged()
    out = in_length_groups(encode, frames, mask, 3)
    torch.testing.assert_close(out, frames[:, : out.shape[1]])
    assert len(seen) == 3
    assert seen[0][1] < seen[2][1] == mask.sum(1).max()


def test_frame_encoder_puts_a_class_token_first_and_zeroes_padding():
    encoder = frame_encoder()
    frames, mask = ragged()
    out, out_mask = encoder(frames, mask).padded()
    assert out.shape == (9, 13, 16)
    assert out_mask[:, 0].all()
    assert torch.equal(out_mask[:, 1:], mask)
    assert not out[~out_mask].any()


def test_frame_encoder_reads_order():
    torch.manual_seed(0)
    encoder = frame_encoder()
    torch.nn.init.normal_(encoder.positions)
    frames, _ = ragged()
    mask = torch.ones(frames.shape[:2]).bool()
    (forwards, _), (backwards, _) = (encoder(x, mask).padded() for x in (frames, frames.flip(1)))
    assert not torch.allclose(forwards[:, 0], backwards[:, 0])


def test_longer_sequences_than_the_table_are_refused():
    with pytest.raises(ValueError, match=r"13 frames.*at most 12"):
        frame_encoder()(torch.zeros(1, 13, 5), torch.ones(1, 13).bool())


@pytest.mark.parametrize("projector", ["linear", "mlp"])
def test_text_encoder(tiny_encoder, projector):
    torch.manual_seed(0)
    encoder = TextEncoder(8, str(tiny_encoder), projector=projector).eval()
    text, mask = ragged_text()
    want, want_mask = encoder(text)
    assert want.shape == (6, 9, 8)
    assert torch.equal(want_mask, mask)
    assert not want[~mask].any()
    encoder.length_groups = 3
    torch.testing.assert_close(encoder(text)[0], want, rtol=1e-5, atol=1e-5)
    alone, _ = encoder(text[1:2, :, :4])
    torch.testing.assert_close(alone[0], want[1, :4], rtol=1e-5, atol=1e-5)


def test_text_encoder_from_its_architecture_needs_no_file(tiny_encoder):
    first = TextEncoder(8, str(tiny_encoder))
    again = TextEncoder(8, "no/such", architecture=encoder_config(first.encoder))
    again.load_state_dict(first.state_dict())
    text = torch.stack([torch.full((1, 4), 7), torch.ones(1, 4), torch.zeros(1, 4)], 1).float()
    torch.testing.assert_close(again.eval()(text)[0], first.eval()(text)[0])


@pytest.mark.parametrize("pooling", ["pooler", "first", "mean"])
def test_pooled_text_encoder_reads_the_encoder_as_it_is(tiny_encoder, pooling):
    from transformers import BertModel

    text, mask = ragged_text()
    encoder = PooledTextEncoder(str(tiny_encoder), pooling=pooling).eval()
    vector, hidden, found = encoder(text)
    plain = BertModel.from_pretrained(tiny_encoder).eval()
    with torch.no_grad():
        want = plain(text[:, 0].long(), attention_mask=text[:, 1].long())
    by_hand = {
        "pooler": want.pooler_output,
        "first": want.last_hidden_state[:, 0],
        "mean": (want.last_hidden_state * mask[..., None]).sum(1) / mask.sum(1, keepdim=True),
    }
    torch.testing.assert_close(vector, by_hand[pooling], rtol=1e-5, atol=1e-5)
    expected = want.last_hidden_state * mask[..., None]
    torch.testing.assert_close(hidden, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(found, mask)
    encoder.length_groups = 3
    grouped = encoder(torch.nn.functional.pad(text, (0, 2)))
    torch.testing.assert_close(grouped[0], vector, rtol=1e-5, atol=1e-5)
    assert grouped[1].shape[1] == 11
    has_pooler = any("pooler" in name for name, _ in encoder.named_parameters())
    assert has_pooler == (pooling == "pooler")


def test_last_layer_is_the_encoders_own(tiny_encoder):
    encoder = PooledTextEncoder(str(tiny_encoder))
    assert encoder.last_layer() is encoder.encoder.encoder.layer[1]
    encoder.encoder.config.num_hidden_layers = 5
    with pytest.raises(TextEncoderError, match=r"stage_one\.text\.finetuning to 'all'"):
        encoder.last_layer()


def test_an_encoder_with_another_attention_function_is_encoded_in_groups(tiny_encoder):
    """transformers offers to change it; the packed form would then mix the samples."""
    text, _ = ragged_text()
    encoder = TextEncoder(8, str(tiny_encoder), length_groups=3).eval()
    want, _ = encoder(text)
    for other in ("eager", "sdpa"):
        encoder.encoder.set_attn_implementation(other)
        torch.testing.assert_close(encoder(text)[0], want, rtol=1e-5, atol=1e-5)


def test_a_causal_bert_is_not_packed(tiny_encoder):
    torch.manual_seed(0)
    architecture = encoder_config(TextEncoder(8, str(tiny_encoder)).encoder) | {"is_decoder": True}
    encoder = TextEncoder(8, "x", architecture=architecture, length_groups=3).eval()
    text, _ = ragged_text()
    packed, _ = encoder(text)
    encoder.length_groups = 1
    torch.testing.assert_close(packed, encoder(text)[0], rtol=1e-5, atol=1e-5)


def test_cloned_layers_start_alike_and_move_no_other_draw():
    def weights(**options):
        torch.manual_seed(0)
        encoder = frame_encoder(**options)
        return encoder, torch.rand(1)

    (plain, after), (cloned, after_cloned) = weights(), weights(cloned_layers=True)
    first, second = (layer.state_dict() for layer in cloned.layers)
    for name, value in plain.layers[0].state_dict().items():
        assert torch.equal(first[name], value)
        assert torch.equal(second[name], value)
        assert second[name].data_ptr() != first[name].data_ptr()
    other = plain.layers[1].attention.query.weight
    assert not torch.equal(other, second["attention.query.weight"])
    assert torch.equal(after, after_cloned)
