"""Retrieval of similar and dissimilar training samples for supervised contrastive learning.

DashFusion section III-D: for each sample, the most similar samples of its class are candidates for
positives; the most and the least similar samples of other classes are candidates for negatives.
The similarity is exact, computed in blocks: O(N^2) time in matrix products, O(N x block) memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

RetrievalMode = Literal["correct", "rank_position"]
ClassRule = Literal["exact", "rounded"]

POSITIVES_DRAWN = 2
NEGATIVES_DRAWN = 2  # of each kind: similar and dissimilar


@dataclass(frozen=True)
class RetrievalConfig:
    """How candidates are found.

    Attributes:
        classes: Samples share a class if their labels are equal (`exact`) or round to the same
            integer, halves to even (`rounded`).
        candidates: Kept candidates of each kind.
        refresh_epochs: Epochs between two refreshes of the similarity.
        mode: `correct` retrieves samples. `rank_position` repeats what the released code does: it
            stores the position in the ranking as if it were the sample's index, so the retrieved
            samples have nothing to do with the anchor's label.
        similar_window: Share of the ranking, from its top, that `rank_position` searches.
        dissimilar_window: Share of the ranking, from its bottom, that `rank_position` searches.
    """

    classes: ClassRule = "exact"
    candidates: int = 10
    refresh_epochs: int = 2
    mode: RetrievalMode = "correct"
    similar_window: float = 1.0
    dissimilar_window: float = 1.0


@dataclass(frozen=True)
class ContrastSets:
    """Retrieved samples of a batch of anchors, by index into the training split.

    Attributes:
        positives: `(B, 2)` int64.
        positive_mask: `(B, 2)` bool, False where the class had too few samples.
        negatives: `(B, 4)` int64, two similar and then two dissimilar ones of other classes.
        negative_mask: `(B, 4)` bool.
    """

    positives: Tensor
    positive_mask: Tensor
    negatives: Tensor
    negative_mask: Tensor


class RetrievalIndex:
    """Candidates of every training sample.

    Args:
        same: `(N, K)` int64, candidates of the same class, -1 where there are fewer.
        similar: `(N, K)` int64, most similar candidates of other classes, -1 where fewer.
        dissimilar: `(N, K)` int64, least similar candidates of other classes, -1 where fewer.
    """

    def __init__(self, same: Tensor, similar: Tensor, dissimilar: Tensor) -> None:
        self.same, self.similar, self.dissimilar = same, similar, dissimilar

    def draw(self, anchors: Tensor) -> ContrastSets:
        """Draw positives and negatives for anchors `(B,)` int64, without repetition in a kind.

        Uses torch's global random stream on the CPU.
        """
        positives, positive_mask = _choose(self.same[anchors], POSITIVES_DRAWN)
        similar, similar_mask = _choose(self.similar[anchors], NEGATIVES_DRAWN)
        dissimilar, dissimilar_mask = _choose(self.dissimilar[anchors], NEGATIVES_DRAWN)
        return ContrastSets(
            positives,
            positive_mask,
            torch.cat([similar, dissimilar], dim=1),
            torch.cat([similar_mask, dissimilar_mask], dim=1),
        )


def label_classes(labels: Tensor, rule: ClassRule) -> Tensor:
    """Class index of each label.

    Args:
        labels: `(N,)` float.
        rule: See `RetrievalConfig.classes`.

    Returns:
        `(N,)` int64.
    """
    values = labels.round() if rule == "rounded" else labels
    classes: Tensor = torch.unique(values, return_inverse=True)[1]
    return classes


@torch.no_grad()
def build_index(
    features: Tensor, labels: Tensor, config: RetrievalConfig, block_elements: int = 1 << 23
) -> RetrievalIndex:
    """Rank all training samples by cosine similarity and keep each one's candidates.

    Args:
        features: `(N, d)` float; the concatenated global features [T; V; A].
        labels: `(N,)` float.
        config: How candidates are found.
        block_elements: Similarities held at a time; the memory bound.

    Returns:
        Index on the CPU; K is the smaller of `config.candidates` and N.
    """
    features = F.normalize(features.float(), dim=-1)
    classes = label_classes(labels, config.classes).to(features.device)
    count = len(features)
    rows = max(1, block_elements // count)
    find = _nearest if config.mode == "correct" else _rank_positions
    blocks = []
    for start in range(0, count, rows):
        block = torch.arange(start, min(start + rows, count), device=features.device)
        blocks.append(find(features[block] @ features.T, classes, block, config))
    same, similar, dissimilar = (torch.cat(parts).cpu() for parts in zip(*blocks, strict=True))
    return RetrievalIndex(same, similar, dissimilar)


def _nearest(
    similarities: Tensor, classes: Tensor, rows: Tensor, config: RetrievalConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates of one block of anchors; the anchor is never its own candidate."""
    k = min(config.candidates, len(classes))
    absent = -float("inf")
    same_class = classes[rows][:, None] == classes[None]
    similar = _top(similarities.masked_fill(same_class, absent), k)
    dissimilar = _top((-similarities).masked_fill_(same_class, absent), k)
    same = similarities.masked_fill_(~same_class, absent)
    same[torch.arange(len(rows), device=rows.device), rows] = absent
    return _top(same, k), similar, dissimilar


def _top(scores: Tensor, k: int) -> Tensor:
    """Indices of the k best scores of each row, -1 where a score is -inf."""
    values, indices = scores.topk(k, dim=1)
    return indices.masked_fill(values == float("-inf"), -1)


def _rank_positions(
    similarities: Tensor, classes: Tensor, rows: Tensor, config: RetrievalConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """The released code's candidates: positions in the ranking, not the samples at them."""
    count = len(classes)
    k = min(config.candidates, count)
    ranking = similarities.argsort(dim=1, descending=True)
    position = torch.arange(count, device=rows.device)
    same_class = classes[ranking] == classes[rows][:, None]
    # The released loop skips the position that equals the anchor's index, not the anchor itself.
    not_skipped = position[None] != rows[:, None]
    top = position < count * config.similar_window
    bottom = position >= count - count * config.dissimilar_window
    from_top = torch.where(top & not_skipped, (count - position).float(), -float("inf"))
    from_bottom = torch.where(bottom & not_skipped, position.float(), -float("inf"))
    absent = -float("inf")
    return (
        _top(from_top.masked_fill(~same_class, absent), k),
        _top(from_top.masked_fill(same_class, absent), k),
        _top(from_bottom.masked_fill(same_class, absent), k),
    )


def _choose(candidates: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Choose `number` candidates of each row at random; missing ones point at sample 0, masked."""
    order = torch.rand(candidates.shape).masked_fill(candidates < 0, -1.0)
    chosen = candidates.gather(1, order.topk(min(number, order.shape[1]), dim=1).indices)
    chosen = F.pad(chosen, (0, number - chosen.shape[1]), value=-1)
    return chosen.clamp(min=0), chosen >= 0
