"""Contrastive losses against plain loops, a library, and their limits."""

import math

import pytest
import torch
import torch.nn.functional as F

from MMSA_ext.losses import PairLosses, nt_xent, nt_xent_in_batch, similarity


def plain_nt_xent(anchor, positives, negatives, pmask, nmask, tau, kind):
    """Eq. 5 written with loops."""
    rows = []
    for i in range(len(anchor)):
        row = []
        for p in range(positives.shape[1]):
            live = bool(pmask[i, p]) and bool(nmask[i].any())
            if not live:
                row.append(torch.zeros(()))
                continue
            sim = [similarity(anchor[i], positives[i, p], kind) / tau]
            sim += [
                similarity(anchor[i], negatives[i, n], kind) / tau
                for n in range(negatives.shape[1])
                if nmask[i, n]
            ]
            row.append(-torch.log_softmax(torch.stack(sim), 0)[0])
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize("kind", ["cosine", "dot"])
def test_nt_xent_equals_the_loop(kind):
    torch.manual_seed(0)
    anchor = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    positives, negatives = torch.randn(5, 2, 6).double(), torch.randn(5, 4, 6).double()
    pmask, nmask = torch.rand(5, 2) > 0.3, torch.rand(5, 4) > 0.4
    nmask[0] = False
    got = nt_xent(anchor, positives, negatives, pmask, nmask, temperature=0.3, kind=kind)
    want = plain_nt_xent(anchor, positives, negatives, pmask, nmask, 0.3, kind)
    torch.testing.assert_close(got.values, want)
    assert torch.equal(got.live, pmask & nmask.any(1, keepdim=True))
    (gradient,) = torch.autograd.grad(got.values.sum(), anchor, retain_graph=True)
    (wanted,) = torch.autograd.grad(want.sum(), anchor)
    torch.testing.assert_close(gradient, wanted)


def test_gradient_is_the_derivative():
    torch.manual_seed(1)
    args = [torch.randn(shape, dtype=torch.float64, requires_grad=True)
            for shape in ((3, 4), (3, 2, 4), (3, 3, 4))]  # fmt: skip
    assert torch.autograd.gradcheck(lambda a, p, n: nt_xent(a, p, n).values, args)


def test_in_batch_is_cross_entropy_over_the_rows():
    torch.manual_seed(2)
    a, b = torch.randn(6, 8), torch.randn(6, 8)
    got = nt_xent_in_batch(a, b, temperature=0.5)
    logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / 0.5
    want = F.cross_entropy(logits, torch.arange(6), reduction="none")
    torch.testing.assert_close(got.values[:, 0], want)
    assert got.live.all()


def test_in_batch_agrees_with_pytorch_metric_learning():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    torch.manual_seed(3)
    a, b = torch.randn(5, 8), torch.randn(5, 8)
    row = torch.arange(5)
    others = ~torch.eye(5, dtype=torch.bool)
    negative_rows, negative_columns = others.nonzero(as_tuple=True)
    pairs = (row, row, negative_rows, negative_columns)
    want = losses.NTXentLoss(temperature=0.5)(a, ref_emb=b, indices_tuple=pairs)
    got = nt_xent_in_batch(a, b, temperature=0.5).reduce()
    torch.testing.assert_close(got, want)


def test_a_batch_of_one_is_dead_and_has_no_gradient():
    a = torch.randn(1, 4, requires_grad=True)
    pair = nt_xent_in_batch(a, torch.randn(1, 4))
    assert not pair.live.any()
    pair.reduce().backward()
    assert a.grad is not None
    assert not a.grad.any()


def test_reductions():
    pairs = PairLosses(
        torch.tensor([[1.0, 3.0], [2.0, 0.0], [0.0, 0.0]]),
        torch.tensor([[True, True], [True, False], [False, False]]),
    )
    assert pairs.reduce("mean_live").item() == pytest.approx((2 + 2 + 0) / 3)
    assert pairs.reduce("sum").item() == pytest.approx((4 + 2) / 3)
    assert pairs.reduce("mean_released").item() == pytest.approx((4 + 2) / 22 / 3)


def test_mean_does_not_depend_on_the_number_of_pairs():
    torch.manual_seed(4)
    a, b = torch.randn(4, 8), torch.randn(4, 8)
    one = nt_xent_in_batch(a, b)
    many = PairLosses.concatenate([one] * 5)
    torch.testing.assert_close(one.reduce("mean_live"), many.reduce("mean_live"))
    torch.testing.assert_close(5 * one.reduce("sum"), many.reduce("sum"))


def test_equal_similarities_give_log_of_the_number_of_terms():
    same = torch.ones(2, 3)
    pair = nt_xent(same, same[:, None], same[:, None].expand(2, 4, 3))
    torch.testing.assert_close(pair.values, torch.full((2, 1), math.log(5)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_no_nan_in_low_precision_or_with_zero_rows(dtype):
    a = torch.zeros(3, 4, dtype=dtype, requires_grad=True)
    nmask = torch.tensor([[True, False], [False, False], [True, True]])
    pair = nt_xent(a, torch.zeros(3, 1, 4, dtype=dtype), torch.zeros(3, 2, 4, dtype=dtype),
                   negative_mask=nmask, temperature=0.05)  # fmt: skip
    pair.reduce().backward()
    assert torch.isfinite(pair.values).all()
    assert a.grad is not None
    assert torch.isfinite(a.grad).all()
