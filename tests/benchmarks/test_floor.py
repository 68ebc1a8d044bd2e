"""The floor counts the matrix products that a hand counts, and its polynomial is exact."""

import pytest
import torch
from torch import nn

from MMSA_ext.models.parts.attention import TransformerLayer


@pytest.fixture(scope="module")
def floor():
    import floor

    return floor


def by_hand(length: int, dim: int = 16, hidden: int = 32) -> int:
    """Multiply-adds of a Transformer layer, forward."""
    return 4 * length * dim * dim + 2 * length * length * dim + 2 * length * dim * hidden


@pytest.mark.parametrize("length", [1, 7, 20])
def test_a_transformer_layer_forward_and_backward(floor, length):
    layer = TransformerLayer(16, 2, 32)
    x = torch.randn(1, length, 16, requires_grad=True)
    mask = torch.ones(1, length, dtype=torch.bool)
    work = lambda: {"M": layer(x, source_mask=mask)}  # noqa: E731
    assert floor.operations(work, backward=False) == 2 * by_hand(length)
    assert floor.operations(work, backward=True) == 6 * by_hand(length)


def test_a_recurrent_layer_is_counted(floor):
    lstm, x = nn.LSTM(4, 8, batch_first=True), torch.randn(1, 5, 4)
    counted = floor.operations(lambda: {"M": lstm(x)[0]}, backward=False)
    assert counted == 2 * 5 * 4 * 8 * (4 + 8)


def test_operations_of_other_samples_follow_from_some(floor):
    layer = TransformerLayer(16, 2, 32)
    lengths = torch.randint(1, 30, (24, 3), generator=torch.Generator().manual_seed(0)).tolist()

    def work(sample):
        return lambda: {str(k): layer(torch.randn(1, n, 16)) for k, n in enumerate(lengths[sample])}

    cost = floor.fitted_cost(lengths, work, backward=False)
    assert cost.error < 1e-9
    others = [(30, 2, 40), (5, 50, 1)]
    expected = 2 * sum(by_hand(n) for sample in others for n in sample)
    assert cost.of(floor.summed_terms(others)) == pytest.approx(expected)


def test_the_rate_is_that_of_this_machine(floor):
    assert 1e8 < floor.product_rate(torch.device("cpu")) < 1e15
