"""Contrastive losses: pure functions of features.

Every loss here is a sum over *pairs* (anchor, positive), each contrasted with negatives of its own.
A pair without negatives has the constant loss 0 and no gradient: it is *dead*. `PairLosses` keeps
the pairs of a sample apart and says which are live, so that reductions are explicit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Similarity = Literal["cosine", "dot"]
Reduction = Literal["mean_live", "sum", "mean_released"]

# The released code averages over 22 positive pairs a sample, 12 of which never have a negative.
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

    def reduce(self, reduction: Reduction = "mean_live") -> Tensor:
        """Reduce over the pairs of a sample, then average over the batch (DashFusion eq. 11).

        Args:
            reduction: `mean_live` averages the live pairs of a sample, so that the weight of the
                loss does not depend on their number; `sum` adds them (eq. 5 as printed);
                `mean_released` divides by the released code's 22 pairs.

        Returns:
            Scalar; 0 where nothing is live.
        """
        total = self.values.sum(dim=1)
        if reduction == "mean_live":
            total = total / self.live.sum(dim=1).clamp(min=1)
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
