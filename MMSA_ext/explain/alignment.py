"""What InfoEnh's two parts did, measured on what it returned.

Of the Feature Information Bottleneck: did it keep the frames that matter. Of the Feature
Information Alignment: how far two modalities are from each other before and after, and whether the
transport puts together what belongs together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from MMSA_ext.models.optimal_transport import cosine_cost, unit_vectors


def kept_share(selected: Tensor, positions: Tensor) -> Tensor:
    """Share of the positions that are among the selected ones.

    Args:
        selected: `(n, k)` int64, as `InfoEnhOutput.selected`: positions, -1 where absent.
        positions: `(n, s)` int64, what should be kept of every sample.

    Returns:
        `(n,)` float in [0, 1].
    """
    return (selected[:, :, None] == positions[:, None]).any(dim=1).float().mean(dim=1)


def kept_by_chance(mask: Tensor, k: int) -> Tensor:
    """Expected share that k tokens drawn at random without replacement keep of any positions.

    Args:
        mask: `(n, L)` bool, the valid tokens.
        k: Tokens drawn, or all of a sample that has fewer.

    Returns:
        `(n,)` float: min(k, L) / L over the L valid tokens.
    """
    length = mask.sum(dim=1).clamp(min=1)
    return length.clamp(max=k) / length


def pairwise_distance(x: Tensor, y: Tensor, x_mask: Tensor, y_mask: Tensor) -> Tensor:
    """Mean cosine distance over all pairs of a row of x and a row of y of the same sample.

    Args:
        x: `(n, k, d)`.
        y: `(n, l, d)`.
        x_mask: `(n, k)` bool.
        y_mask: `(n, l)` bool.

    Returns:
        `(n,)`, between 0 and 2; a zero row has distance 1 to every row.
    """
    both = (x_mask[:, :, None] & y_mask[:, None]).to(x.dtype)
    return (cosine_cost(x, y) * both).sum(dim=(1, 2)) / both.sum(dim=(1, 2)).clamp(min=1)


def discrepancy(x: Tensor, y: Tensor) -> float:
    """Maximum mean discrepancy of two sets of directions: how different their distributions are.

    Unlike a mean distance it is 0 only if the distributions are the same, so that it is not lowered
    by moving one of them to the centre of the other. Rows are scaled to length one, as the cost of
    the alignment sees them. The kernel is exp(-|x - y|^2), the value the root of the biased
    estimate.

    Args:
        x: `(n, d)`.
        y: `(m, d)`.

    Returns:
        Between 0 and the square root of 2.
    """
    x, y = unit_vectors(x), unit_vectors(y)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(a, b).square()).mean()

    squared = kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)
    return float(squared.clamp(min=0).sqrt())


def matched_mass(plan: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Share of the mass leaving the marked rows that arrives at the marked columns.

    Args:
        plan: `(n, k, l)`.
        rows: `(n, k)` bool.
        columns: `(n, l)` bool.

    Returns:
        `(n,)`; NaN for a sample without a marked row of mass or without a marked column.
    """
    leaving = (plan * rows[:, :, None]).sum(dim=(1, 2))
    arriving = (plan * rows[:, :, None] * columns[:, None]).sum(dim=(1, 2))
    defined = (leaving > 0) & columns.any(dim=1)
    return torch.where(defined, arriving / leaving, torch.nan)
