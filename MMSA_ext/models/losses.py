"""Contrastive losses: pure functions of features.

NT-Xent (DashFusion) is a sum over *pairs* (anchor, positive), each contrasted with negatives of its
own. A pair without negatives has the constant loss 0 and no gradient: it is *dead*. `PairLosses`
keeps the pairs of a sample apart and says which are live, so that reductions are explicit.

InfoNCE (InfoEnh, DBF) contrasts an embedding with those of the other samples of the batch.
`attach_auxiliary_loss` lets such a loss join a prediction whose trainer knows nothing of it.

The losses of shared and private subspaces (FDMER and its alternatives) compare representations of
one batch, `(..., B, d)`: HSIC, MISA's difference, consistency of similarities, central moments, and
a classification of modalities through reversed gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from MMSA_ext.models.optimal_transport import at_least_float32, full_precision, unit_vectors

Similarity = Literal["cosine", "dot"]
Reduction = Literal["mean_live", "sum", "mean_released"]
FeatureSimilarity = Literal["flat", "row_mean"]
NegativeRule = Literal["polarity", "rounded", "distance"]

# DashFusion's released code averages over 22 positive pairs a sample, of which 12 never have a
# negative.
RELEASED_PAIRS = 22


@dataclass(frozen=True)
class PairLosses:
    """Losses of the positive pairs of each sample.

    Attributes:
        values: `(B, P)`, zero where a pair is dead.
        live: `(B, P)` bool, True where the pair exists and has a negative.
    """

    values: Tensor
    live: Tensor

    @staticmethod
    def concatenate(parts: list[PairLosses]) -> PairLosses:
        """Join the pairs of several losses, sample by sample."""
        return PairLosses(
            torch.cat([part.values for part in parts], dim=1),
            torch.cat([part.live for part in parts], dim=1),
        )

    def reduce(self, reduction: Reduction | Literal["mean"] = "mean_live") -> Tensor:
        """Reduce over the pairs of a sample, then average over the batch (DashFusion eq. 11).

        Args:
            reduction: `mean_live` averages the live pairs of a sample, so that the weight of the
                loss does not depend on their number; `mean` averages all, dead ones as zero;
                `sum` adds them (eq. 5 as printed); `mean_released` divides by the 22 pairs of
                DashFusion's released code.

        Returns:
            Scalar; 0 where nothing is live.
        """
        total = self.values.sum(dim=1)
        if reduction == "mean_live":
            total = total / self.live.sum(dim=1).clamp(min=1)
        elif reduction == "mean":
            total = total / self.values.shape[1]
        elif reduction == "mean_released":
            total = total / RELEASED_PAIRS
        return total.mean()


def similarity(a: Tensor, b: Tensor, kind: Similarity = "cosine") -> Tensor:
    """Similarity along the last dimension of two broadcastable tensors; float32 at least."""
    if a.dtype in (torch.float16, torch.bfloat16):
        a, b = a.float(), b.float()  # float16 cannot hold the guard of a zero row's norm
    if kind == "cosine":
        a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    return (a * b).sum(dim=-1)


def nt_xent(
    anchor: Tensor,
    positives: Tensor,
    negatives: Tensor,
    positive_mask: Tensor | None = None,
    negative_mask: Tensor | None = None,
    *,
    temperature: float = 0.5,
    kind: Similarity = "cosine",
) -> PairLosses:
    """NT-Xent of each positive against the anchor's negatives (DashFusion eq. 5).

    The denominator holds this positive and the anchor's negatives, as in the usual NT-Xent.

    Args:
        anchor: `(B, d)`, or `(B, M, d)` of M modalities, each compared with its own.
        positives: `(B, P, d)`, or `(B, M, P, d)`.
        negatives: `(B, N, d)`, or `(B, M, N, d)`.
        positive_mask: `(B, P)` bool, True where the positive exists; None if all do.
        negative_mask: `(B, N)` bool, True where the negative exists; None if all do.
        temperature: tau.
        kind: Similarity.

    Returns:
        Losses of the P pairs of each anchor, `(B, P)`; of M modalities `(B, M P)`, those of the
        first one first.
    """
    others = torch.cat([positives, negatives], dim=-2)
    logits = similarity(anchor.unsqueeze(-2), others, kind) / temperature
    counts = [positives.shape[-2], negatives.shape[-2]]
    positive, negative = torch.split(logits, counts, dim=-1)
    return _pair_losses(
        positive,
        negative.unsqueeze(-2),
        _mask_of(positive, positive_mask),
        _mask_of(negative, negative_mask).unsqueeze(-2),
    )


def nt_xent_in_batch(
    anchor: Tensor, partner: Tensor, *, temperature: float = 0.5, kind: Similarity = "cosine"
) -> PairLosses:
    """NT-Xent of matching rows against the other rows of the partner modality.

    Semantic alignment (DashFusion section III-C.2): text anchors T_i, positive V_i (or A_i),
    negatives V_j (or A_j) of the other samples of the batch.

    Args:
        anchor: `(B, d)`.
        partner: `(B, d)`; row i belongs to anchor i. Or `(B, M, d)` of M modalities.
        temperature: tau.
        kind: Similarity.

    Returns:
        Losses `(B, 1)`, or `(B, M)`; dead in a batch of one, which has no negative.
    """
    partners = partner.view(len(anchor), -1, anchor.shape[-1]).transpose(0, 1)
    logits = similarity(anchor[:, None, None], partners, kind) / temperature  # (B, M, B)
    positive = logits.diagonal(dim1=0, dim2=2).T.unsqueeze(-1)
    others = ~torch.eye(len(anchor), dtype=torch.bool, device=anchor.device)
    return _pair_losses(positive, logits.unsqueeze(-2), _mask_of(positive), others[:, None, None])


def _mask_of(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mask `(B, K)` of logits `(B, ..., K)`, broadcastable; all True where there is none."""
    if mask is None:
        return torch.ones_like(logits, dtype=torch.bool)
    return mask if logits.dim() == mask.dim() else mask[:, None]


def _pair_losses(
    positive: Tensor, negative: Tensor, positive_mask: Tensor, negative_mask: Tensor
) -> PairLosses:
    """-log(exp(p) / (exp(p) + sum exp(n))) = softplus(logsumexp(n) - p).

    Args:
        positive: `(B, ..., P)` logits.
        negative: `(B, ..., 1, N)` logits.
        positive_mask: `(B, ..., P)`, broadcastable.
        negative_mask: `(B, ..., 1, N)`, broadcastable.

    Returns:
        Losses `(B, ... x P)`.
    """
    live = positive_mask & negative_mask.any(dim=-1)
    lowest = torch.finfo(negative.dtype).min
    against = torch.logsumexp(negative.masked_fill(~negative_mask, lowest), dim=-1)
    values = F.softplus(against - positive).masked_fill(~live, 0.0)
    return PairLosses(values.flatten(1), live.expand_as(values).flatten(1))


def different_sentiment(
    labels: Tensor, rule: NegativeRule = "polarity", distance: float = 1.0
) -> Tensor:
    """Which samples of a batch differ in sentiment ("their sentiment differs", InfoEnh eq. 5).

    Args:
        labels: `(B,)` or `(B, 1)`, regression labels.
        rule: `polarity`: another sign of the label, zero being a sign of its own; `rounded`:
            another label after rounding to the nearest integer, halves to even as in MMSA's
            metrics; `distance`: labels more than `distance` apart.
        distance: For `distance`, in units of the label.

    Returns:
        `(B, B)` bool, symmetric.
    """
    labels = labels.reshape(-1)
    if rule == "distance":
        return (labels[:, None] - labels[None]).abs() > distance
    classes = labels.sign() if rule == "polarity" else labels.round()
    return classes[:, None] != classes[None]


def info_nce(
    embedding: Tensor,
    filtered: Tensor,
    negatives: Tensor,
    *,
    mask: Tensor | None = None,
    temperature: float = 1.0,
    feature_similarity: FeatureSimilarity = "flat",
    double_exp: bool = False,
    include_positive: bool = True,
) -> Tensor:
    """InfoNCE between filtered and unfiltered embeddings (InfoEnh eq. 4 and 5).

    Anchor z_i, positive e_i, negatives e_j of samples with another sentiment. With the positive in
    the denominator, ``log(1 + negatives) - loss`` bounds the mutual information from below.

    Args:
        embedding: e, `(..., B, k, d)`; rows beyond a sample's tokens are zero.
        filtered: z, `(..., B, k, d)`.
        negatives: `(B, B)` bool; `negatives[i, j]` says that e_j is a negative of z_i. Anchors
            without any are skipped.
        mask: `(..., B, k)` bool, True at the rows that exist; needed by `row_mean` only, None if
            all do.
        temperature: tau.
        feature_similarity: `flat`: cosine of the k x d matrices as vectors (Frobenius norm);
            `row_mean`: mean of the cosines of corresponding rows.
        double_exp: exp(cosine) as the score instead of the cosine, which eq. 4 inside eq. 5 prints.
        include_positive: The positive is part of the denominator; eq. 5 prints negatives only.

    Returns:
        `(...)`, float32 at least: the mean over anchors that have a negative, 0 if none has.
    """
    with full_precision(embedding):
        score = _similarities(
            at_least_float32(embedding), at_least_float32(filtered), mask, feature_similarity
        )
        logits = (score.exp() if double_exp else score) / temperature
        positive = logits.diagonal(dim1=-2, dim2=-1)
        lowest = torch.finfo(logits.dtype).min
        against = torch.logsumexp(logits.masked_fill(~negatives, lowest), dim=-1)
        values = F.softplus(against - positive) if include_positive else against - positive
        live = negatives.any(dim=-1)
        return values.masked_fill(~live, 0.0).sum(dim=-1) / live.sum().clamp(min=1)


def _similarities(
    embedding: Tensor, filtered: Tensor, mask: Tensor | None, kind: FeatureSimilarity
) -> Tensor:
    """`(..., B, B)`: cosine of anchor z_i (row) with e_j (column)."""
    if kind == "flat":
        e, z = unit_vectors(embedding.flatten(-2)), unit_vectors(filtered.flatten(-2))
        return z @ e.transpose(-1, -2)
    rows = embedding.new_full((), embedding.shape[-2]) if mask is None else mask.sum(-1)[..., None]
    e, z = unit_vectors(embedding).flatten(-2), unit_vectors(filtered).flatten(-2)
    return z @ e.transpose(-1, -2) / rows.clamp(min=1)


class _AuxiliaryLoss(torch.autograd.Function):
    """Identity on the prediction; its backward pass starts that of the loss too."""

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, loss: Tensor) -> Tensor:
        ctx.save_for_backward(torch.ones_like(loss))
        return prediction.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        (one,) = ctx.saved_tensors
        return gradient, one


def attach_auxiliary_loss(prediction: Tensor, loss: Tensor) -> Tensor:
    """Let a loss take part in the backward pass of whatever is computed from the prediction.

    Values are unchanged; gradients are those of `task_loss(prediction) + loss`, however often they
    are accumulated. So a loss joins a trainer that cannot be told of it. The limit: the gradient
    sent into `loss` is one, also where the trainer scales its own loss (mixed-precision gradient
    scaling, division by accumulation steps); then sum the losses instead.

    Args:
        prediction: Any shape; must be part of the trainer's loss.
        loss: Scalar.

    Returns:
        `prediction`, as a new tensor.

    Raises:
        ValueError: If `loss` is not a scalar.
    """
    if loss.dim() != 0:
        raise ValueError(
            f"The auxiliary loss has shape {tuple(loss.shape)}; reduce it to a scalar."
        )
    attached: Tensor = _AuxiliaryLoss.apply(prediction, loss)  # type: ignore[no-untyped-call]
    return attached


def mi_max_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    symmetric: bool = False,
    double_exp: bool = False,
    include_positive: bool = True,
) -> Tensor:
    """InfoNCE of matching rows by cosine, no temperature (DBF eq. 6 and 7).

    Chance is ``log(B)``; at B = 32 the loss lies in [1.65, 5.44], with `double_exp` in
    [1.38, 5.79].

    Args:
        prediction: F(Z), `(B, d)`.
        target: X_m, `(B, d)`; row i belongs to row i of `prediction`.
        symmetric: Average with the other direction, in which the targets look for their prediction
            among those of the batch. Without it, a prediction looks for its target.
        double_exp: exp(cosine) as the score, as eq. 6 inside eq. 7 prints.
        include_positive: The positive is part of the denominator; eq. 7 prints negatives only.

    Returns:
        Scalar; 0 for a batch of one, which has no negative.
    """
    others = ~torch.eye(len(prediction), dtype=torch.bool, device=prediction.device)
    pair = prediction.unsqueeze(1), target.unsqueeze(1)
    directions = [pair, pair[::-1]] if symmetric else [pair]
    values = [
        info_nce(
            embedding,
            anchor,
            others,
            double_exp=double_exp,
            include_positive=include_positive,
        )
        for anchor, embedding in directions
    ]
    return torch.stack(values).mean()


def hsic(first: Tensor, second: Tensor, *, unbiased: bool = False) -> Tensor:
    """Hilbert-Schmidt independence criterion, linear kernels on rows of length one.

    Args:
        first: `(..., B, d)`.
        second: `(..., B, e)`; row i of both belongs to sample i.
        unbiased: The estimator of Song et al. (Feature Selection via Dependence Maximization, JMLR
            2012), whose mean is 0 for independent inputs and which can be negative. By
            default the biased one, trace(K R L R) / (B - 1)^2 with R = I - 1/B (Gretton et al.,
            2005), which for independent inputs shrinks as 1/B.

    Returns:
        `(...)`, float32 at least.

    Raises:
        ValueError: If the batch has fewer than 2 samples, or 4 for the unbiased estimator.
    """
    count, least = first.shape[-2], 4 if unbiased else 2
    if count < least:
        raise ValueError(f"HSIC of {count} sample(s); this estimator needs at least {least}.")
    with full_precision(first):
        kernel, other = _linear_kernel(first), _linear_kernel(second)
        if not unbiased:
            return (_centred(kernel) * _centred(other)).sum(dim=(-2, -1)) / (count - 1) ** 2
        distinct = 1 - torch.eye(count, dtype=kernel.dtype, device=kernel.device)
        kernel, other = kernel * distinct, other * distinct
        both = (kernel * other).sum(dim=(-2, -1))
        sums = kernel.sum(dim=-1), other.sum(dim=-1)
        apart = sums[0].sum(dim=-1) * sums[1].sum(dim=-1) / ((count - 1) * (count - 2))
        through = 2 * (sums[0] * sums[1]).sum(dim=-1) / (count - 2)
        return (both + apart - through) / (count * (count - 3))


def _linear_kernel(x: Tensor) -> Tensor:
    rows = unit_vectors(at_least_float32(x))
    return rows @ rows.transpose(-1, -2)


def _centred(kernel: Tensor) -> Tensor:
    kernel = kernel - kernel.mean(dim=-1, keepdim=True)
    return kernel - kernel.mean(dim=-2, keepdim=True)


def difference_loss(first: Tensor, second: Tensor) -> Tensor:
    """MISA's difference loss: mean squared entry of the cross-correlation of two representations.

    Columns are centred over the batch, then rows scaled to length one (Hazarika et al., ACM MM
    2020).

    Args:
        first: `(..., B, d)`.
        second: `(..., B, e)`; row i of both belongs to sample i.

    Returns:
        `(...)`, float32 at least.
    """
    with full_precision(first):
        u, v = (
            unit_vectors(x - x.mean(dim=-2, keepdim=True))
            for x in (at_least_float32(first), at_least_float32(second))
        )
        return (u.transpose(-1, -2) @ v).square().mean(dim=(-2, -1))


def similarity_consistency(representations: Tensor) -> Tensor:
    """How far modalities disagree on which samples of the batch are similar.

    The similarity matrix S_m of a modality holds the cosines between its rows; the loss is the mean
    over pairs of modalities of the mean squared entry of S_i - S_j.

    Args:
        representations: `(M, B, d)`, one slice a modality.

    Returns:
        Scalar, float32 at least.
    """
    with full_precision(representations):
        first, second = modality_pairs(_linear_kernel(representations))
        return (first - second).square().mean()


def cosine_consistency(representations: Tensor) -> Tensor:
    """1 - cosine of a sample's representations, mean over pairs of modalities and samples.

    Args:
        representations: `(M, B, d)`, one slice a modality.

    Returns:
        Scalar, float32 at least.
    """
    return (1 - similarity(*modality_pairs(representations))).mean()


def central_moment_discrepancy(representations: Tensor, moments: int = 5) -> Tensor:
    """MISA's similarity loss: distance of the central moments, mean over pairs of modalities.

    Values are squashed into (0, 1) by the logistic function, in which MISA's encoders end (Hazarika
    et al., ACM MM 2020).

    Args:
        representations: `(M, B, d)`, one slice a modality.
        moments: Highest moment.

    Returns:
        Scalar, float32 at least.
    """
    with full_precision(representations):
        values = at_least_float32(representations).sigmoid()
        mean = values.mean(dim=-2)
        centred = values - mean.unsqueeze(-2)
        higher = [centred.pow(k).mean(dim=-2) for k in range(2, moments + 1)]
        first, second = modality_pairs(torch.stack([mean, *higher], dim=1))
        distances: Tensor = torch.linalg.vector_norm(first - second, dim=-1)
        return distances.sum(dim=-1).mean()


def modality_pairs(representations: Tensor) -> tuple[Tensor, Tensor]:
    """First and second members of all pairs of the M slices: two of `(M (M - 1) / 2, ...)`."""
    # Not by an index tensor: its gradient adds repeated slices in a varying order.
    first, second = zip(*combinations(representations.unbind(), 2), strict=True)
    return torch.stack(first), torch.stack(second)


class _ReversedGradient(torch.autograd.Function):
    """Identity whose backward pass turns the gradient around."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.factor * gradient, None


def reverse_gradient(x: Tensor, factor: float = 1.0) -> Tensor:
    """Pass a value on, and its gradient back with the sign turned around (Ganin et al., JMLR 2016).

    Args:
        x: Any shape.
        factor: Factor on the turned gradient.

    Returns:
        `x`, as a new tensor.
    """
    reversed_: Tensor = _ReversedGradient.apply(x, factor)  # type: ignore[no-untyped-call]
    return reversed_


def modality_classification_loss(logits: Tensor) -> Tensor:
    """Cross entropy of a discriminator that tells modalities apart; chance is ``log(M)``.

    Args:
        logits: `(M, B, M)`: slice m holds the discriminator's view of modality m's representations.

    Returns:
        Scalar: the mean over modalities and samples.
    """
    return F.cross_entropy(logits.flatten(0, 1), _modality_labels(logits).flatten())


def modality_accuracy(logits: Tensor) -> Tensor:
    """Share of representations whose modality the discriminator names; chance is 1 / M.

    Args:
        logits: As for `modality_classification_loss`.

    Returns:
        Scalar float32, without gradient.
    """
    return (logits.argmax(dim=-1) == _modality_labels(logits)).float().mean()


def _modality_labels(logits: Tensor) -> Tensor:
    modalities = torch.arange(len(logits), device=logits.device)
    return modalities.unsqueeze(1).expand(-1, logits.shape[1])
