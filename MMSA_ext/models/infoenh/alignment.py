"""Feature Information Alignment: every modality sees the others through optimal transport."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from MMSA_ext.models.infoenh.config import InfoEnhConfig
from MMSA_ext.models.optimal_transport import (
    at_least_float32,
    barycentric_map,
    cosine_cost,
    entropy,
    full_precision,
    push_forward,
    sinkhorn,
    transport_cost,
)

Pair = tuple[str, str]


@dataclass(frozen=True)
class Alignment:
    """The modalities behind the alignment.

    Attributes:
        enhanced: E' by modality.
        mask: `(B, k)` by modality.
        plans: By ordered pair.
        cost: Scalar with gradient, mean transport cost over samples and pairs.
        diagnostics: See `InfoEnhOutput`.
    """

    enhanced: dict[str, Tensor]
    mask: dict[str, Tensor]
    plans: dict[Pair, Tensor]
    cost: Tensor
    diagnostics: dict[str, Tensor]


def align(
    filtered: Mapping[str, Tensor], mask: Mapping[str, Tensor], config: InfoEnhConfig
) -> Alignment:
    """Feature Information Alignment (InfoEnh section 4.2, eq. 7 to 13, Algorithm 1).

    All samples and all pairs of modalities are one batch of transport problems; the plan from j to
    i is the transpose of that from i to j.

    Args:
        filtered: z `(B, k, d)` by modality, two at least; zero in absent rows.
        mask: `(B, k)` bool by modality, existing rows first, one at least.
        config: Options.

    Returns:
        Enhanced sequences `(B, k, d x modalities)`. Where the rows of a transported sequence are
        tokens of the other modality (push-forward over tokens, barycentric map over features), a
        row exists if it exists in any modality.
    """
    by_feature = config.cost_axis == "feature"
    points = [at_least_float32(z.mT if by_feature else z) for z in filtered.values()]
    masses = [_uniform_mass(z, None if by_feature else mask[m]) for m, z in filtered.items()]
    pairs = list(itertools.combinations(range(len(points)), 2))
    first, second = zip(*pairs, strict=True)
    with full_precision(points[0]):
        x, y = torch.stack([points[i] for i in first]), torch.stack([points[j] for j in second])
        a, b = torch.stack([masses[i] for i in first]), torch.stack([masses[j] for j in second])
        cost = cosine_cost(x, y)
        plan, iterations = _plan(cost.detach() if config.detach_plan else cost, a, b, config)
        # One row for every point of x, and one for every point of y.
        of_x = barycentric_map(plan, y, a if config.scale_plan else None)
        of_y = push_forward(plan, x, b if config.scale_plan else None)
    if config.transport == "source_pushforward":
        forth, back = of_y, of_x
    else:
        forth, back = of_x, of_y
    if by_feature:
        forth, back = forth.mT, back.mT
    moved = dict(zip(pairs, forth, strict=True))
    moved |= {(j, i): z for (i, j), z in zip(pairs, back, strict=True)}
    mean_cost = transport_cost(plan, cost).mean()
    return Alignment(
        enhanced=_concatenate(filtered, moved),
        mask=_row_masks(mask, config),
        plans=_named_plans(list(filtered), pairs, plan),
        cost=mean_cost,
        diagnostics={
            "transport_cost": mean_cost.detach(),
            "plan_entropy": _normalised_entropy(plan.detach(), a, b),
            "iterations": iterations.to(plan.dtype).mean(),
        },
    )


def _uniform_mass(z: Tensor, mask: Tensor | None) -> Tensor:
    """1/n over the n existing rows `(B, k)`, or 1/d over the columns `(B, d)` without a mask."""
    if mask is None:
        return torch.full_like(z[:, 0], 1 / z.shape[-1], dtype=at_least_float32(z).dtype)
    weight = mask.to(at_least_float32(z).dtype)
    return weight / weight.sum(dim=-1, keepdim=True)


def _plan(cost: Tensor, a: Tensor, b: Tensor, config: InfoEnhConfig) -> tuple[Tensor, Tensor]:
    """Plans `(pairs, B, n, m)` and their iterations, or those of a control."""
    if config.plan == "uniform":
        return a.unsqueeze(-1) * b.unsqueeze(-2), torch.zeros_like(a[..., 0])
    solved = sinkhorn(
        cost,
        config.inverse_temperature,
        row_mass=a,
        column_mass=b,
        max_iterations=config.max_iterations,
        tolerance=config.tolerance,
        cost_range=2.0,  # of 1 - cosine
    )
    plan = solved.plan
    return _rotate_rows(plan, a) if config.plan == "shuffled" else plan, solved.iterations


def _rotate_rows(plan: Tensor, a: Tensor) -> Tensor:
    """Shift the n existing rows, which come first and have equal masses, by n // 2."""
    count = (a > 0).sum(dim=-1, keepdim=True)
    row = torch.arange(a.shape[-1], device=a.device).expand_as(a)
    source = torch.where(row < count, (row + count // 2) % count, row)
    return plan.gather(-2, source.unsqueeze(-1).expand_as(plan))


def _concatenate(
    filtered: Mapping[str, Tensor], moved: dict[tuple[int, int], Tensor]
) -> dict[str, Tensor]:
    """Eq. 13: every modality and what was transported from it to the others."""
    others = range(len(filtered))
    return {
        name: torch.cat([z, *(moved[i, j].to(z.dtype) for j in others if j != i)], dim=-1)
        for i, (name, z) in enumerate(filtered.items())
    }


def _row_masks(mask: Mapping[str, Tensor], config: InfoEnhConfig) -> dict[str, Tensor]:
    """Which rows of the enhanced sequences exist."""
    if (config.transport == "barycentric_target") == (config.cost_axis == "token"):
        return dict(mask)
    union = torch.stack(list(mask.values())).any(dim=0)
    return dict.fromkeys(mask, union)


def _named_plans(
    names: list[str], pairs: list[tuple[int, int]], plan: Tensor
) -> dict[Pair, Tensor]:
    plans = {(names[i], names[j]): p for (i, j), p in zip(pairs, plan, strict=True)}
    return plans | {(j, i): p.mT for (i, j), p in plans.items()}


def _normalised_entropy(plan: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mean entropy of the plans, each relative to the logarithm of its number of cells."""
    cells = (a > 0).sum(dim=-1) * (b > 0).sum(dim=-1)
    # A plan of a single cell has entropy 0 of at most 0; it counts as uniform.
    relative = torch.where(cells > 1, entropy(plan) / cells.clamp(min=2).log(), 1.0)
    return relative.mean()
