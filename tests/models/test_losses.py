"""Contrastive losses against plain loops, a library, and their limits."""

import math
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F

from MMSA_ext.models.losses import (
    PairLosses,
    attach_auxiliary_loss,
    central_moment_discrepancy,
    cosine_consistency,
    difference_loss,
    different_sentiment,
    hsic,
    info_nce,
    mi_max_loss,
    modality_accuracy,
    modality_classification_loss,
    modality_pairs,
    nt_xent,
    nt_xent_in_batch,
    reverse_gradient,
    similarity,
    similarity_consistency,
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
    vectors = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((5, 6), (5, 2, 6), (5, 4, 6))
    ]
    pmask, nmask = torch.rand(5, 2) > 0.3, torch.rand(5, 4) > 0.4
    nmask[0] = False
    got = nt_xent(*vectors, pmask, nmask, temperature=0.3, kind=kind)
    want = plain_nt_xent(*vectors, pmask, nmask, 0.3, kind)
    torch.testing.assert_close(got.values, want)
    assert torch.equal(got.live, pmask & nmask.any(1, keepdim=True))
    gradients, wanted = (torch.autograd.grad(x.sum(), vectors) for x in (got.values, want))
    torch.testing.assert_close(gradients, wanted)


def test_modalities_at_once_are_modalities_one_by_one():
    torch.manual_seed(0)
    shapes = (5, 3, 6), (5, 3, 2, 6), (5, 3, 4, 6)
    anchor, positives, negatives = (torch.randn(shape) for shape in shapes)
    masks = torch.rand(5, 2) > 0.3, torch.rand(5, 4) > 0.4
    got = nt_xent(anchor, positives, negatives, *masks)
    each = [nt_xent(anchor[:, m], positives[:, m], negatives[:, m], *masks) for m in range(3)]
    want = PairLosses.concatenate(each)
    torch.testing.assert_close(got.values, want.values)
    assert torch.equal(got.live, want.live)
    in_batch = nt_xent_in_batch(anchor[:, 0], anchor[:, 1:]).values
    columns = [nt_xent_in_batch(anchor[:, 0], anchor[:, m]).values for m in (1, 2)]
    torch.testing.assert_close(in_batch, torch.cat(columns, dim=1))


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

    @pytest.mark.parametrize("training", [True, False])
    def test_values_are_untouched(self, training):
        x = torch.randn(3, requires_grad=True)
        with torch.set_grad_enabled(training):
            got = attach_auxiliary_loss(x, x.sum())
        assert torch.equal(got, x)
        assert got is not x or not training
        assert got.requires_grad == training

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


class TestMIMax:
    """DBF eq. 6 and 7; the numbers are those of B = 32."""

    @pytest.mark.parametrize(
        ("double_exp", "low", "high"), [(False, 1.65, 5.44), (True, 1.38, 5.79)]
    )
    def test_range(self, double_exp, low, high):
        # Cosine 1 with one's own and -1 with the others' target is out of reach of real vectors in
        # a batch of 32; the limits follow from the scores, here of two opposite directions.
        positive = torch.tensor([1.0, -1.0])
        negative = -positive
        if double_exp:
            positive, negative = positive.exp(), negative.exp()
        limits = F.softplus(negative + math.log(31) - positive)
        torch.testing.assert_close(limits, torch.tensor([low, high]), atol=5e-3, rtol=0)
        for seed in range(20):
            torch.manual_seed(seed)
            prediction, target = torch.randn(2, 32, 3)
            value = mi_max_loss(prediction, target, double_exp=double_exp)
            assert low < value < high

    @pytest.mark.parametrize("double_exp", [False, True])
    def test_chance(self, double_exp):
        same = torch.ones(32, 4)
        value = mi_max_loss(same, same, double_exp=double_exp)
        torch.testing.assert_close(value, torch.tensor(32.0).log())

    def test_equals_cross_entropy_of_cosines(self):
        torch.manual_seed(0)
        prediction, target = torch.randn(2, 7, 5)
        logits = F.normalize(prediction, dim=-1) @ F.normalize(target, dim=-1).T
        forward = F.cross_entropy(logits, torch.arange(7))
        torch.testing.assert_close(mi_max_loss(prediction, target), forward)
        back = F.cross_entropy(logits.T, torch.arange(7))
        both = mi_max_loss(prediction, target, symmetric=True)
        torch.testing.assert_close(both, (forward + back) / 2)

    def test_as_printed(self):
        torch.manual_seed(1)
        prediction, target = torch.randn(2, 5, 4)
        score = (F.normalize(prediction, dim=-1) @ F.normalize(target, dim=-1).T).exp()
        against = score.masked_fill(torch.eye(5).bool(), -torch.inf).logsumexp(dim=-1)
        want = (against - score.diagonal()).mean()
        got = mi_max_loss(prediction, target, double_exp=True, include_positive=False)
        torch.testing.assert_close(got, want)

    def test_a_batch_of_one_has_no_negative(self):
        assert mi_max_loss(torch.ones(1, 3), torch.ones(1, 3)).item() == 0


def random_parts(batch: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random two-layer encoders: E(x), E'(x) of the same x, and E'(y) of an unrelated y.

    Inputs share a mean, as the pooled vectors of an untrained encoder do.
    """
    torch.manual_seed(seed)

    def encoder():
        return torch.nn.Sequential(
            torch.nn.Linear(128, 128), torch.nn.GELU(), torch.nn.Linear(128, 128)
        )

    def vectors():
        return F.layer_norm(torch.randn(1, 128) + torch.randn(batch, 128), (128,))

    with torch.no_grad():
        common, private = encoder(), encoder()
        x, y = vectors(), vectors()
        return common(x), private(x), private(y)


class TestHSIC:
    @pytest.mark.parametrize(
        ("batch", "unrelated", "related", "itself"),
        [(16, 0.014, 0.016, 0.021), (32, 0.006, 0.008, 0.012), (64, 0.003, 0.004, 0.008)],
    )
    def test_scale_of_untrained_encoders(self, batch, unrelated, related, itself):
        drawn = [random_parts(batch, seed) for seed in range(10)]
        pairs = [((a, c), (a, b), (a, a)) for a, b, c in drawn]
        means = torch.tensor([[hsic(u, v) for u, v in kinds] for kinds in pairs]).mean(dim=0)
        want = torch.tensor([unrelated, related, itself])
        torch.testing.assert_close(means, want, rtol=0.25, atol=0)
        assert means.diff().gt(0).all()

    def test_equals_the_trace(self):
        torch.manual_seed(0)
        u, v = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
        K, L = (x @ x.T for x in (F.normalize(u, dim=-1), F.normalize(v, dim=-1)))
        R = torch.eye(6, dtype=torch.float64) - 1 / 6
        torch.testing.assert_close(hsic(u, v), (K @ R @ L @ R).trace() / 25)

    def test_unbiased_equals_the_mean_over_distinct_samples(self):
        torch.manual_seed(1)
        u, v = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
        K, L = (x @ x.T for x in (F.normalize(u, dim=-1), F.normalize(v, dim=-1)))

        def mean(term, order):
            values = [term(*chosen) for chosen in permutations(range(5), order)]
            return torch.stack(values).mean()

        want = (
            mean(lambda i, j: K[i, j] * L[i, j], 2)
            + mean(lambda i, j, q, r: K[i, j] * L[q, r], 4)
            - 2 * mean(lambda i, j, q: K[i, j] * L[i, q], 3)
        )
        torch.testing.assert_close(hsic(u, v, unbiased=True), want)

    def test_independent_data(self):
        """The unbiased estimate has mean zero at any batch, the biased one is above."""
        for batch in (8, 32):
            torch.manual_seed(2)
            u, v = torch.randn(2, 500, batch, 8)
            values = hsic(u, v, unbiased=True)
            standard_error = values.std() / 500**0.5
            assert values.mean().abs() < 3 * standard_error
            assert hsic(u, v).mean() > 20 * standard_error

    def test_a_batch_that_is_too_small_is_refused(self):
        assert hsic(torch.randn(2, 4), torch.randn(2, 4)).isfinite()
        with pytest.raises(ValueError, match=r"HSIC of 1 sample\(s\).* at least 2"):
            hsic(torch.randn(1, 4), torch.randn(1, 4))
        with pytest.raises(ValueError, match=r"HSIC of 3 sample\(s\).* at least 4"):
            hsic(torch.randn(3, 4), torch.randn(3, 4), unbiased=True)


class TestSubspaceLosses:
    def test_difference_loss_is_zero_for_orthogonal_columns(self):
        torch.manual_seed(0)
        x = torch.randn(6, 4)
        nothing = torch.zeros(6, 3)
        assert difference_loss(x, nothing) == 0
        assert difference_loss(x, x) > difference_loss(x, torch.randn(6, 4))
        u, v = (F.normalize(part - part.mean(0), dim=-1) for part in (x, x.square()))
        torch.testing.assert_close(difference_loss(x, x.square()), (u.T @ v).square().mean())

    @pytest.mark.parametrize(
        "loss", [similarity_consistency, cosine_consistency, central_moment_discrepancy]
    )
    def test_consistency_is_zero_where_modalities_agree(self, loss):
        torch.manual_seed(0)
        same = torch.randn(1, 8, 4).expand(3, -1, -1)
        torch.testing.assert_close(loss(same), torch.tensor(0.0), atol=1e-6, rtol=0)
        x = torch.randn(3, 8, 4, requires_grad=True)
        assert loss(x) > 0
        (gradient,) = torch.autograd.grad(loss(x), x)
        assert gradient.isfinite().all()
        assert gradient.any()

    def test_similarity_consistency_equals_the_loop(self):
        torch.manual_seed(1)
        x = torch.randn(3, 5, 4)
        S = [F.normalize(slice_, dim=-1) @ F.normalize(slice_, dim=-1).T for slice_ in x]
        want = sum((S[i] - S[j]).square().mean() for i, j in ((0, 1), (0, 2), (1, 2))) / 3
        torch.testing.assert_close(similarity_consistency(x), want)

    def test_similarity_consistency_does_not_see_a_rotation(self):
        torch.manual_seed(2)
        x = torch.randn(6, 4)
        rotation = torch.linalg.qr(torch.randn(4, 4)).Q
        both = torch.stack([x, x @ rotation])
        assert similarity_consistency(both) < 1e-12
        assert cosine_consistency(both) > 0.1

    def test_central_moments_equal_the_loop(self):
        torch.manual_seed(3)
        x = torch.randn(2, 9, 4)
        a, b = x.sigmoid()
        want = (a.mean(0) - b.mean(0)).norm()
        for k in range(2, 6):
            moments = [(y - y.mean(0)).pow(k).mean(0) for y in (a, b)]
            want = want + (moments[0] - moments[1]).norm()
        torch.testing.assert_close(central_moment_discrepancy(x), want)
        assert central_moment_discrepancy(x, moments=2) < want

    def test_pairs(self):
        first, second = modality_pairs(torch.arange(3))
        assert first.tolist() == [0, 0, 1]
        assert second.tolist() == [1, 2, 2]


class TestModalityDiscriminator:
    def test_reversed_gradient(self):
        x = torch.randn(3, requires_grad=True)
        y = reverse_gradient(x, 0.5)
        assert torch.equal(y, x)
        (y * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
        assert x.grad.tolist() == [-0.5, -1.0, -1.5]

    def test_chance_and_certainty(self):
        undecided = torch.zeros(3, 4, 3)
        assert modality_classification_loss(undecided).item() == pytest.approx(math.log(3))
        certain = 50 * torch.eye(3)[:, None].expand(-1, 4, -1)
        assert modality_classification_loss(certain).item() == pytest.approx(0, abs=1e-6)
        assert modality_accuracy(certain) == 1
        assert modality_accuracy(certain.roll(1, dims=0)) == 0

    def test_equals_the_mean_over_modalities(self):
        torch.manual_seed(0)
        logits = torch.randn(3, 5, 3)
        terms = [F.cross_entropy(logits[m], torch.full((5,), m)) for m in range(3)]
        torch.testing.assert_close(modality_classification_loss(logits), torch.stack(terms).mean())
