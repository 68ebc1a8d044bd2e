"""Contrastive losses against plain loops, a library, and their limits."""

import math

import pytest
import torch
import torch.nn.functional as F

from MMSA_ext.losses import (
    PairLosses,
    attach_auxiliary_loss,
    different_sentiment,
    info_nce,
    nt_xent,
    nt_xent_in_batch,
    similarity,
)


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
    assert pairs.reduce("mean").item() == pytest.approx((2 + 1 + 0) / 3)
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


def cosine(a, b):
    length = a.norm() * b.norm()
    return (a * b).sum() / length if length > 0 else a.new_zeros(())


def plain_info_nce(e, z, negatives, mask, tau, kind, double_exp, include_positive):
    """Eq. 4 and 5 written with loops over samples and rows."""

    def score(i, j):
        if kind == "flat":
            value = cosine(e[j], z[i])
        else:
            rows = [cosine(e[j, r], z[i, r]) for r in range(e.shape[1])]
            value = torch.stack(rows).sum() / mask[i].sum()
        return (value.exp() if double_exp else value) / tau

    terms = []
    for i in range(len(e)):
        against = [score(i, j).exp() for j in range(len(e)) if negatives[i, j]]
        if against:
            if include_positive:
                against.append(score(i, i).exp())
            terms.append(-(score(i, i).exp() / torch.stack(against).sum()).log())
    return torch.stack(terms).mean()


def embeddings(*batch, dtype=torch.float64):
    """e, z and the mask of their rows; z keeps about half of e, absent rows are zero."""
    generator = torch.Generator().manual_seed(7)
    mask = torch.rand(*batch, 3, generator=generator) > 0.2
    mask[..., 0] = True
    e = torch.randn(*batch, 3, 4, generator=generator, dtype=dtype) * mask[..., None]
    z = e * (torch.rand(*batch, 3, 4, generator=generator) > 0.5)
    return e, z, mask


LABELS = torch.tensor([-1.2, 0.0, 0.4, 2.6, -0.2, 0.0])


class TestInfoNCE:
    @pytest.mark.parametrize("kind", ["flat", "row_mean"])
    @pytest.mark.parametrize("double_exp", [False, True])
    @pytest.mark.parametrize("include_positive", [False, True])
    def test_equals_the_loop(self, kind, double_exp, include_positive):
        e, z, mask = (x.requires_grad_(x.is_floating_point()) for x in embeddings(6))
        negatives = different_sentiment(LABELS)
        want = plain_info_nce(e, z, negatives, mask, 0.5, kind, double_exp, include_positive)
        got = info_nce(
            e,
            z,
            negatives,
            mask=mask,
            temperature=0.5,
            feature_similarity=kind,
            double_exp=double_exp,
            include_positive=include_positive,
        )
        torch.testing.assert_close(got, want)
        gradients, wanted = (torch.autograd.grad(x, (e, z)) for x in (got, want))
        for x, gradient, wish in zip((e, z), gradients, wanted, strict=True):
            there = x.detach().any(dim=-1)  # the cosine of a zero row has no derivative
            torch.testing.assert_close(gradient[there], wish[there])

    def test_modalities_are_a_batch_dimension(self):
        e, z, mask = embeddings(3, 6)
        negatives = different_sentiment(LABELS)
        options = {"feature_similarity": "row_mean"}
        got = info_nce(e, z, negatives, mask=mask, **options)
        each = [info_nce(e[m], z[m], negatives, mask=mask[m], **options) for m in range(3)]
        torch.testing.assert_close(got, torch.stack(each))

    def test_row_mean_without_a_mask_takes_every_row(self):
        e, z, _ = embeddings(6)
        got = info_nce(e, z, different_sentiment(LABELS), feature_similarity="row_mean")
        every = torch.ones(6, 3, dtype=torch.bool)
        want = info_nce(
            e, z, different_sentiment(LABELS), mask=every, feature_similarity="row_mean"
        )
        assert got == want

    def test_bounds_the_mutual_information(self):
        """I >= log(1 + m) - L: at most log(1 + m), reached by a score that tells pairs apart."""
        codes = torch.eye(8).view(8, 2, 4)
        others = ~torch.eye(8, dtype=torch.bool)
        perfect = info_nce(codes, codes, others, temperature=0.01)
        blind = info_nce(codes.mean(0).expand(8, 2, 4), codes, others)
        assert perfect.item() == pytest.approx(0, abs=1e-6)  # log 8 nats, all there are
        assert blind.item() == pytest.approx(math.log(8))  # none
        # Without the positive in the denominator the loss is negative: that bound says I > log 8.
        assert info_nce(codes, codes, others, temperature=0.01, include_positive=False) < 0

    def test_anchors_without_a_negative_are_skipped(self):
        e, z, _ = embeddings(4)
        negatives = torch.zeros(4, 4, dtype=torch.bool)
        negatives[0, 1:3] = True
        want = info_nce(e[:3], z[:3], negatives[:3, :3])
        torch.testing.assert_close(info_nce(e, z, negatives), want)

    def test_nothing_to_contrast_is_zero_without_gradient(self):
        e, z, _ = embeddings(4)
        z.requires_grad_()
        loss = info_nce(e, z, different_sentiment(torch.ones(4)))
        assert loss == 0
        loss.backward()
        assert not z.grad.any()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_low_precision_and_zero_embeddings(self, dtype):
        e, z, mask = embeddings(6, dtype=torch.float32)
        z[2] = 0  # every gate of a sample closed
        e, z = e.to(dtype).requires_grad_(), z.to(dtype).requires_grad_()
        with torch.autocast("cpu", dtype):
            for kind in ("flat", "row_mean"):
                loss = info_nce(
                    e, z, different_sentiment(LABELS), mask=mask, feature_similarity=kind
                )
                assert loss.dtype == torch.float32
                loss.backward()
        assert z.grad.isfinite().all()
        assert e.grad.isfinite().all()
        assert z.grad.abs().max() < 100

    def test_gradient_is_the_derivative(self):
        e, z, _ = embeddings(6)
        args = (e.requires_grad_(), z.requires_grad_())
        assert torch.autograd.gradcheck(
            lambda e, z: info_nce(e, z, different_sentiment(LABELS)), args
        )


class TestDifferentSentiment:
    @pytest.mark.parametrize(
        ("rule", "classes"),
        [("polarity", [-1, 0, 1, 1, -1, 0]), ("rounded", [-1, 0, 0, 3, 0, 0])],
    )
    def test_classes(self, rule, classes):
        classes = torch.tensor(classes)
        want = classes[:, None] != classes
        assert torch.equal(different_sentiment(LABELS, rule), want)
        assert torch.equal(different_sentiment(LABELS[:, None], rule), want)

    def test_distance(self):
        got = different_sentiment(torch.tensor([0.0, 1.0, 2.5]), "distance", 1.0)
        assert got.tolist() == [[False, False, True], [False, False, True], [True, True, False]]


class TestAttachAuxiliaryLoss:
    @staticmethod
    def model():
        torch.manual_seed(5)
        return torch.nn.ModuleDict({"head": torch.nn.Linear(4, 1), "side": torch.nn.Linear(4, 2)})

    def gradients(self, attached: bool) -> list:
        """Two accumulated steps of a loop, as a trainer of MMSA runs it."""
        model = self.model()
        for seed in (0, 1):
            x = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
            prediction = model["head"](x)
            auxiliary = (model["side"](x).square() + model["head"](x)).mean()
            if attached:
                prediction = attach_auxiliary_loss(prediction, auxiliary)
            loss = (prediction - 1).square().mean()
            (loss if attached else loss + auxiliary).backward()
        return [p.grad for p in model.parameters()]

    def test_gradients_are_those_of_the_sum(self):
        for got, want in zip(self.gradients(True), self.gradients(False), strict=True):
            torch.testing.assert_close(got, want)
            assert want.any()

    def test_values_are_untouched(self):
        x = torch.randn(3, requires_grad=True)
        got = attach_auxiliary_loss(x, x.sum())
        assert torch.equal(got, x)
        assert got is not x

    def test_without_gradients_it_is_the_identity(self):
        x = torch.randn(3, requires_grad=True)
        with torch.no_grad():
            got = attach_auxiliary_loss(x, x.sum())
        assert torch.equal(got, x)
        assert not got.requires_grad

    def test_a_constant_loss_adds_nothing(self):
        x = torch.randn(3, requires_grad=True)
        attach_auxiliary_loss(x, torch.zeros(())).sum().backward()
        assert x.grad.tolist() == [1, 1, 1]

    def test_an_unused_prediction_starts_nothing(self):
        x, y = (torch.randn(3, requires_grad=True) for _ in "xy")
        attach_auxiliary_loss(x, y.sum())
        x.sum().backward()
        assert y.grad is None

    def test_a_loss_that_is_no_scalar_is_refused(self):
        with pytest.raises(ValueError, match=r"shape \(3,\); reduce it"):
            attach_auxiliary_loss(torch.ones(3), torch.ones(3))
