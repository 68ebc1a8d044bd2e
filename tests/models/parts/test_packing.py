"""Packing: every valid position has its row, few others do, and nothing else changes."""

import pytest
import torch

from MMSA_ext.models.parts.attention import MultiHeadAttention, TransformerLayer, masked_mean
from MMSA_ext.models.parts.packing import Packing, Ragged
from tests.pretend_gpu import PretendGPU

LENGTHS = [3, 9, 1, 4, 9, 2, 7, 5, 1, 6]


def make_mask(lengths, longest=None) -> torch.Tensor:
    return torch.arange(longest or max(lengths))[None] < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("groups", [1, 2, 5, 100])
@pytest.mark.parametrize("longest", [9, 12])
def test_unpacking_gives_the_valid_positions_back(groups, longest):
    mask = make_mask(LENGTHS, longest)
    x = torch.randn(len(LENGTHS), longest, 4) * mask.unsqueeze(-1)
    packing = Packing.of(mask, groups)
    rows = packing.pack(x)
    assert torch.equal(packing.unpack(rows), x)
    assert sum(b.samples for b in packing.blocks) == len(LENGTHS)
    assert len(rows) == sum(b.samples * b.length for b in packing.blocks)
    assert len(packing.blocks) == min(groups, len(LENGTHS) // 2)
    if groups == 1:
        assert torch.equal(rows, x.flatten(0, 1))


def test_more_groups_keep_less_padding():
    mask = make_mask(LENGTHS)
    rows = [len(Packing.of(mask, groups).positions) for groups in (1, 2, 3, 5)]
    assert rows == sorted(rows, reverse=True)
    assert rows[0] == 90
    assert rows[-1] < 1.2 * sum(LENGTHS)


def test_a_block_of_equal_lengths_has_no_mask():
    packing = Packing.of(make_mask([4, 4, 2, 4]), 2)
    assert [block.mask is None for block in packing.blocks] == [False, True]
    holes = make_mask([4, 4, 4, 4])
    holes[0, 1] = False
    assert not Packing.of(holes, 2).blocks[0].mask[0, 1]


def test_a_sample_without_valid_positions_keeps_one_row():
    packing = Packing.of(make_mask([0, 0, 3, 3], 5), 2)
    assert [block.length for block in packing.blocks] == [1, 3]


@pytest.mark.parametrize("groups", [1, 3, 5])
@pytest.mark.parametrize("attention_dropout", [0.0, 0.2])
def test_a_layer_computes_on_rows_what_it_computes_on_the_padded_batch(groups, attention_dropout):
    torch.manual_seed(0)
    layer = TransformerLayer(8, 2, 16, attention_dropout=attention_dropout).eval()
    mask = make_mask(LENGTHS, 12)
    x = torch.randn(len(LENGTHS), 12, 8, requires_grad=True)
    weight = torch.randn_like(x) * mask.unsqueeze(-1)
    packing = Packing.of(mask, groups)
    packed = packing.unpack(layer(packing.pack(x), source_mask=packing))
    padded = layer(x, source_mask=mask)
    gradients = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (packed, padded)]
    torch.testing.assert_close(packed[mask], padded[mask])
    torch.testing.assert_close(*gradients)


def test_attention_dropout_drops_weights_alike_on_rows_and_on_a_batch():
    torch.manual_seed(0)
    layer = TransformerLayer(8, 2, 16, attention_dropout=0.5).train()
    mask = make_mask([5, 5, 5])
    x, packing = torch.randn(3, 5, 8), Packing.of(make_mask([5, 5, 5]), 1)
    torch.manual_seed(1)
    padded = layer(x, source_mask=mask)
    torch.manual_seed(1)
    packed = packing.unpack(layer(packing.pack(x), source_mask=packing))
    torch.testing.assert_close(packed, padded)
    assert not torch.allclose(padded, layer(x, source_mask=mask))


@pytest.mark.parametrize("groups", [1, 4])
def test_a_padded_target_reads_a_packed_source(groups):
    torch.manual_seed(0)
    attention = MultiHeadAttention(8, 2)
    mask = make_mask(LENGTHS, 12)
    target, source = torch.randn(len(LENGTHS), 3, 8), torch.randn(len(LENGTHS), 12, 8)
    packing = Packing.of(mask, groups)
    packed = attention(target, packing.pack(source), packing)
    torch.testing.assert_close(packed, attention(target, source, mask))


@pytest.mark.parametrize("groups", [1, 4])
def test_ragged_sequences_are_padded_pooled_and_taken(groups):
    mask = make_mask([*LENGTHS, 0], 12)
    x = torch.randn(len(mask), 12, 4) * mask.unsqueeze(-1)
    packing = Packing.of(mask, groups)
    ragged = Ragged(packing.pack(x), packing)
    padded, its_mask = ragged.padded()
    assert torch.equal(padded, x)
    assert torch.equal(its_mask, mask)
    torch.testing.assert_close(ragged.mean(), masked_mean(x, mask))
    assert all(map(torch.equal, ragged.take(), (x, mask)))
    assert torch.equal(ragged.first(), x[:, 0])
    for samples in ([7, 0, 2], [1, 4, 10], [10]):
        taken, valid = ragged.take(torch.tensor(samples))
        longest = max(1, int(mask[samples].sum(dim=1).max()))
        assert torch.equal(taken, x[samples, :longest])
        assert torch.equal(valid, mask[samples, :longest])


@pytest.mark.parametrize("groups", [1, 4])
def test_what_stands_at_padding_is_not_packed(groups):
    mask = make_mask(LENGTHS, 12)
    x = torch.randn(len(mask), 12, 4)
    padded, _ = Ragged.of(x, Packing.of(mask, groups)).padded()
    assert torch.equal(padded, x * mask.unsqueeze(-1))


def test_of_a_whole_batch_nothing_is_masked():
    x = torch.randn(3, 5, 4)
    whole = Ragged.whole(x)
    assert torch.equal(whole.padded()[0], x)
    torch.testing.assert_close(whole.mean(), x.mean(dim=1))
    for samples, want in ((None, x), (torch.tensor([2, 0]), x[[2, 0]])):
        taken, mask = whole.take(samples)
        assert torch.equal(taken, want)
        assert mask is None


def test_a_source_without_valid_positions_is_not_read_in_training_either():
    """Attention dropout takes another path, which must agree with the fused one."""
    torch.manual_seed(0)
    attention = MultiHeadAttention(8, 2, dropout=1e-4)
    source, mask = torch.randn(2, 5, 8), make_mask([0, 5])
    evaluated = attention.eval()(source, source, mask)
    torch.testing.assert_close(attention.train()(source, source, mask)[0], evaluated[0])


def test_a_device_has_one_block_and_is_not_asked_for_lengths():
    gpu = PretendGPU()
    mask, samples = make_mask(LENGTHS, 12), torch.tensor([7, 0, 2])
    x = torch.randn(len(mask), 12, 4) * mask.unsqueeze(-1)
    there = [gpu.label(t.clone()) for t in (x, mask, samples)]
    with gpu:
        ragged = Ragged.of(there[0], Packing.of(there[1], 5))
        taken, valid = ragged.take(there[2])
        mean = ragged.mean()
    assert len(ragged.packing.blocks) == 1
    assert torch.equal(taken, x[samples])
    assert torch.equal(valid, mask[samples])
    torch.testing.assert_close(mean, masked_mean(x, mask))
    assert not gpu.waits
    assert not gpu.mixes


def test_the_backward_pass_of_a_packed_attention_keeps_what_was_read_once():
    """Not per block, for the attention, and joined, for the weights of the output."""
    packing = Packing.of(make_mask(LENGTHS), 5)
    attention = MultiHeadAttention(64, 4)
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    rows = torch.randn(len(packing.positions), 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attention(rows, rows, packing)
    of_rows = rows.untyped_storage().nbytes()
    weights = sum(p.untyped_storage().nbytes() for p in attention.parameters())
    # Source, query, key, value and what was read; masks and sums of the softmax are small.
    assert sum(x.nbytes() for x in kept.values()) < weights + 5.9 * of_rows
