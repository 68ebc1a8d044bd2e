"""Retrieval of similar and dissimilar training samples for supervised contrastive learning.

DashFusion section III-D: for each sample, the most similar samples of its class are candidates for
positives; the most and the least similar samples of other classes are candidates for negatives.
The similarity is exact, computed in blocks: O(N^2) time in matrix products, O(N x block) memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

RetrievalMode = Literal["correct", "rank_position"]
ClassRule = Literal["exact", "rounded", "borders"]

POSITIVES_DRAWN = 2
NEGATIVES_DRAWN = 2  # of each kind: similar and dissimilar


@dataclass(frozen=True)
class RetrievalConfig:
    """How candidates are found.

    Attributes:
        classes: Samples share a class if their labels are equal (`exact`), round to the same
            integer, halves to even (`rounded`), or lie between the same `borders`.
        borders: Rising; a label on a border is of the class below.
        candidates: Kept candidates of each kind.
        refresh_epochs: Epochs between two refreshes of the similarity.
        mode: `correct` retrieves samples. `rank_position` repeats what the released code does: it
            stores the position in the ranking as if it were the sample's index, so the retrieved
            samples have nothing to do with the anchor's label.
        similar_window: Share of the ranking, from its top, that `rank_position` searches.
        dissimilar_window: Share of the ranking, from its bottom, that `rank_position` searches.
    """

    classes: ClassRule = "exact"
    borders: tuple[float, ...] = ()
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

    def to(self, device: torch.device) -> ContrastSets:
        """The same sets on a device."""
        return ContrastSets(**{name: value.to(device) for name, value in vars(self).items()})


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


def label_classes(labels: Tensor, rule: ClassRule, borders: tuple[float, ...] = ()) -> Tensor:
    """Class index of each label.

    Args:
        labels: `(N,)` float.
        rule: See `RetrievalConfig.classes`.
        borders: See `RetrievalConfig.borders`.

    Returns:
        `(N,)` int64.
    """
    if rule == "borders":
        return torch.bucketize(labels, labels.new_tensor(borders))
    values = labels.round() if rule == "rounded" else labels
    classes: Tensor = torch.unique(values, return_inverse=True)[1]
    return classes


@torch.no_grad()
def build_index(
    features: Tensor, labels: Tensor, config: RetrievalConfig, block_rows: int = 256
) -> RetrievalIndex:
    """Rank all training samples by cosine similarity and keep each one's candidates.

    Of equally similar samples any may be kept, the same ones whenever this is repeated.

    Args:
        features: `(N, d)` float; the concatenated global features [T; V; A].
        labels: `(N,)` float.
        config: How candidates are found.
        block_rows: Samples compared with all others at a time; memory is O(N x block_rows).

    Returns:
        Index on the CPU; K is the smaller of `config.candidates` and N.
    """
    features = F.normalize(features.float(), dim=-1)
    classes = label_classes(labels, config.classes, config.borders)
    find = _nearest if config.mode == "correct" else _rank_positions
    return RetrievalIndex(*find(features, classes, config, block_rows).cpu())


def _blocks(count: int, block_rows: int) -> Iterator[slice]:
    starts = range(0, count, block_rows)
    return (slice(start, min(start + block_rows, count)) for start in starts)


def _nearest(features: Tensor, classes: Tensor, config: RetrievalConfig, block_rows: int) -> Tensor:
    """Candidates `(3, N, K)`: same class, similar others, dissimilar others; never the sample."""
    # With equal classes side by side, a block needs masks in a window of neighbouring columns only.
    order = classes.argsort(stable=True)
    sorted_classes, ends = classes[order].tolist(), classes.bincount().cumsum(dim=0).tolist()
    order, classes = order.to(features.device), classes[order].to(features.device)
    features = features[order]
    k = min(config.candidates, len(classes))
    found = order.new_empty((3, len(classes), k))
    for rows in _blocks(len(classes), block_rows):
        similarities = features[rows] @ features.T
        first, last = sorted_classes[rows][0], sorted_classes[rows][-1]
        begin, end = ends[first - 1] if first > 0 else 0, ends[last]
        window = similarities[:, begin:end]
        same_class = classes[rows, None] == classes[begin:end]
        same = window.masked_fill(~same_class, -torch.inf)
        same.diagonal(rows.start - begin).fill_(-torch.inf)
        found[0, rows] = _top(same, k, order[begin:])
        window.masked_fill_(same_class, -torch.inf)
        found[1, rows] = _top(similarities, k, order)
        window.masked_fill_(same_class, torch.inf)
        found[2, rows] = _top(similarities, k, order, largest=False)
    return found[:, order.argsort()]


def _top(scores: Tensor, k: int, names: Tensor, *, largest: bool = True) -> Tensor:
    """Names of the columns with the k best finite scores of each row, -1 where there are fewer."""
    values, columns = scores.topk(min(k, scores.shape[1]), dim=1, largest=largest)
    found = names[columns].masked_fill(values.isinf(), -1)
    return F.pad(found, (0, k - found.shape[1]), value=-1)


def _rank_positions(
    features: Tensor, classes: Tensor, config: RetrievalConfig, block_rows: int
) -> Tensor:
    """The released code's candidates: positions in the ranking, not the samples at them."""
    count, classes = len(classes), classes.to(features.device)
    k = min(config.candidates, count)
    found = classes.new_empty((3, count, k))
    position = torch.arange(count, device=classes.device)
    top = position < count * config.similar_window
    bottom = position >= count - count * config.dissimilar_window
    for rows in _blocks(count, block_rows):
        ranking = (features[rows] @ features.T).argsort(dim=1, descending=True)
        same_class = classes[ranking] == classes[rows, None]
        # From the top the released loop skips the position that equals the anchor's index, not the
        # anchor; from the bottom it counts -1, -2, ..., which no index equals, and skips nothing.
        not_skipped = position != position[rows, None]
        from_top = torch.where(top & not_skipped, (count - position).float(), -torch.inf)
        from_bottom = torch.where(bottom, position.float(), -torch.inf).expand(len(ranking), -1)
        found[0, rows] = _top(from_top.masked_fill(~same_class, -torch.inf), k, position)
        found[1, rows] = _top(from_top.masked_fill(same_class, -torch.inf), k, position)
        found[2, rows] = _top(from_bottom.masked_fill(same_class, -torch.inf), k, position)
    return found


def _choose(candidates: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Choose `number` candidates of each row at random; missing ones point at sample 0, masked."""
    order = torch.rand(candidates.shape).masked_fill(candidates < 0, -1.0)
    chosen = candidates.gather(1, order.topk(min(number, order.shape[1]), dim=1).indices)
    chosen = F.pad(chosen, (0, number - chosen.shape[1]), value=-1)
    return chosen.clamp(min=0), chosen >= 0
