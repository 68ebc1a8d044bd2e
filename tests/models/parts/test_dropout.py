"""Dropout: its distribution, its gradient, its seed."""

import pytest
import torch
from torch import nn

from MMSA_ext.models.parts.dropout import Dropout, dropout, relu_dropout, replace_dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_drops_a_share_p_and_keeps_the_mean(p):
    torch.manual_seed(0)
    x = torch.ones(1000, 301)
    y = dropout(x, p)
    assert (y == 0).float().mean() == pytest.approx(p, abs=0.005)
    assert y.mean() == pytest.approx(1, abs=0.02)
    kept = y[y != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - p)), rtol=2e-4, atol=0)


def test_elements_are_dropped_independently():
    torch.manual_seed(0)
    dropped = torch.stack([dropout(torch.ones(100_000), 0.3) == 0 for _ in range(4)]).double()
    expected = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(torch.corrcoef(dropped), expected, atol=0.015, rtol=0)
    shifted = torch.stack([dropped[0, lag : lag - 8 or None] for lag in range(8)])
    expected = torch.eye(8, dtype=torch.float64)
    torch.testing.assert_close(torch.corrcoef(shifted), expected, atol=0.015, rtol=0)


def test_the_gradient_is_that_of_the_mask():
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    y = dropout(x, 0.4)
    y.sum().backward()
    torch.testing.assert_close(y, x * x.grad)
    assert set(x.grad.unique().tolist()) <= {0.0, 65536 / (65536 - round(0.4 * 65536))}


def test_the_seed_decides_and_evaluation_drops_nothing():
    x, layer = torch.ones(50), Dropout(0.5)
    first, second = (torch.manual_seed(3), layer(x))[1], layer(x)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(layer(x), first)
    assert layer.eval()(x) is x
    assert dropout(x, 0.0) is x
    assert not dropout(x, 1.0).any()


def test_the_mask_takes_a_byte_an_element():
    saved = []
    x = torch.randn(64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        dropout(x, 0.5)
    assert [t.element_size() for t in saved] == [1]


def test_dropout_modules_are_replaced_at_any_depth():
    model = nn.Sequential(nn.Dropout(0.2), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3)))
    replace_dropout(model)
    assert [m.p for m in model.modules() if type(m) is Dropout] == [0.2, 0.3]
    assert not [m for m in model.modules() if type(m) is nn.Dropout]
    still = nn.Sequential(nn.Dropout(0.2)).eval()
    replace_dropout(still)
    assert not still[0].training


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_dropout_behind_a_relu_is_the_two_in_one(p):
    x = torch.randn(40, 30, dtype=torch.float64, requires_grad=True)
    results = []
    for compute in (lambda: relu_dropout(x, p), lambda: dropout(x.relu(), p)):
        torch.manual_seed(5)
        y = compute()
        results.append((y, torch.autograd.grad((y * torch.arange(30.0)).sum(), x)[0]))
    torch.testing.assert_close(*results)
