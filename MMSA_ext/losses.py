"""Contrastive losses: pure functions of features.

NT-Xent (DashFusion) is a sum over *pairs* (anchor, positive), each contrasted with negatives of its
own. A pair without negatives has the constant loss 0 and no gradient: it is *dead*. `PairLosses`
keeps the pairs of a sample apart and says which are live, so that reductions are explicit.

InfoNCE (InfoEnh) contrasts a filtered embedding with the unfiltered ones of the batch.
`attach_auxiliary_loss` lets such a loss join a prediction whose trainer knows nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from MMSA_ext.optimal_transport import at_least_float32, full_precision, unit_vectors

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
        anchor: `(B, d)`.
        positives: `(B, P, d)`.
        negatives: `(B, N, d)`.
        positive_mask: `(B, P)` bool, True where the positive exists; None if all do.
        negative_mask: `(B, N)` bool, True where the negative exists; None if all do.
        temperature: tau.
        kind: Similarity.

    Returns:
        Losses of the P pairs of each anchor, `(B, P)`.
    """
    positive = similarity(anchor[:, None], positives, kind) / temperature
    negative = similarity(anchor[:, None], negatives, kind) / temperature
    if negative_mask is None:
        negative_mask = torch.ones_like(negative, dtype=torch.bool)
    if positive_mask is None:
        positive_mask = torch.ones_like(positive, dtype=torch.bool)
    return _pair_losses(positive, negative[:, None], positive_mask, negative_mask[:, None])


def nt_xent_in_batch(
    anchor: Tensor, partner: Tensor, *, temperature: float = 0.5, kind: Similarity = "cosine"
) -> PairLosses:
    """NT-Xent of matching rows against the other rows of the partner modality.

    Semantic alignment (DashFusion section III-C.2): text anchors T_i, positive V_i (or A_i),
    negatives V_j (or A_j) of the other samples of the batch.

    Args:
        anchor: `(B, d)`.
        partner: `(B, d)`; row i belongs to anchor i.
        temperature: tau.
        kind: Similarity.

    Returns:
        Losses `(B, 1)`; dead in a batch of one, which has no negative.
    """
    logits = similarity(anchor[:, None], partner[None], kind) / temperature
    positive = logits.diagonal()[:, None]
    others = ~torch.eye(len(anchor), dtype=torch.bool, device=anchor.device)
    return _pair_losses(
        positive, logits[:, None], torch.ones_like(positive).bool(), others[:, None]
    )


def _pair_losses(
    positive: Tensor, negative: Tensor, positive_mask: Tensor, negative_mask: Tensor
) -> PairLosses:
    """-log(exp(p) / (exp(p) + sum exp(n))) = softplus(logsumexp(n) - p).

    Args:
        positive: `(B, P)` logits.
        negative: `(B, 1, N)` logits.
        positive_mask: `(B, P)`.
        negative_mask: `(B, 1, N)`.
    """
    live = positive_mask & negative_mask.any(dim=-1)
    lowest = torch.finfo(negative.dtype).min
    against = torch.logsumexp(negative.masked_fill(~negative_mask, lowest), dim=-1)
    values = F.softplus(against - positive).masked_fill(~live, 0.0)
    return PairLosses(values, live)


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
    rows = embedding.new_tensor(embedding.shape[-2]) if mask is None else mask.sum(-1)[..., None]
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
