"""Reaching into a forward leaves nothing behind."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from MMSA_ext.models.hosts import vectors


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = nn.Linear(2, 1)

    def forward(self, x):
        return self.second(self.first(x))


@pytest.fixture
def toy():
    torch.manual_seed(0)
    return Toy()


def hooks(model):
    return [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_outputs_are_recorded_by_name(toy):
    x = torch.randn(3, 2)
    with vectors.recorded_outputs({"a": toy.first, "b": toy.second}) as recorded:
        result = toy(x)
    assert torch.equal(recorded["a"], toy.first(x))
    assert recorded["b"] is result
    toy(x)
    assert recorded["b"] is result
    assert hooks(toy) == []


def test_inputs_are_replaced(toy):
    x = torch.randn(3, 2)
    with vectors.replaced_inputs({toy.second: lambda own: own * 2}):
        doubled = toy(x)
    torch.testing.assert_close(doubled, toy.second(toy.first(x) * 2))
    assert hooks(toy) == []


def test_given_outputs_stand_in_for_submodules(toy):
    given = torch.randn(3, 2)
    first = toy.first
    with vectors.given_outputs(toy, {"first": given}):
        assert torch.equal(toy(torch.randn(3, 2)), toy.second(given))
    assert toy.first is first
    assert [n for n, _ in toy.named_parameters()] == [
        "first.weight", "first.bias", "second.weight", "second.bias",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "context",
    [
        lambda toy: vectors.recorded_outputs({"a": toy.first}),
        lambda toy: vectors.replaced_inputs({toy.first: lambda own: own}),
        lambda toy: vectors.given_outputs(toy, {"first": torch.zeros(1)}),
    ],
    ids=["recorded", "replaced", "given"],
)
def test_an_error_inside_leaves_nothing_behind(toy, context):
    with pytest.raises(InterruptedError), context(toy):
        raise InterruptedError
    assert hooks(toy) == []
    assert "first" not in vars(toy)


def test_packed_sequences_come_back_in_order_with_their_mask():
    sequences, lengths = torch.randn(3, 5, 2), torch.tensor([2, 4, 1])
    packed = pack_padded_sequence(sequences, lengths, batch_first=True, enforce_sorted=False)
    unpacked, mask = vectors.unpacked(packed)
    assert mask.sum(1).tolist() == [2, 4, 1]
    assert unpacked.shape == (3, 4, 2)
    assert torch.equal(unpacked[mask], sequences[:, :4][mask])
    assert not unpacked[~mask].any()
