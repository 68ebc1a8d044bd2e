"""Entropic optimal transport (Cuturi, 2013) between small sets, batched and differentiable.

The problem is ``P* = argmin_P <P, C> - h(P) / lambda`` over plans with row sums `a` and column sums
`b` (InfoEnh eq. 10), where `h` is the entropy. Sinkhorn's iteration solves it: ``u = a / (K v)``,
``v = b / (K^T u)`` with ``K = exp(-lambda C)`` (text below eq. 11). Here it runs on logarithms,
because K itself spans e^100 at lambda = 50 and cosine costs in [0, 2], more than float32 holds.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

# The logarithm of an absent mass: its exponential is 0, and differences of it stay finite.
_ABSENT = -1e9
# A shorter vector has no direction; dividing by its length would blow its gradient up.
_SHORTEST = 1e-6
# Below every mass that matters; keeps logarithms finite.
_SMALLEST_MASS = 1e-30


def full_precision(like: Tensor) -> AbstractContextManager[None]:
    """Switch autocast off on the device of `like`."""
    return torch.autocast(device_type=like.device.type, enabled=False)


def at_least_float32(x: Tensor) -> Tensor:
    """Turn float16 and bfloat16 into float32; leave float32 and float64."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def unit_vectors(x: Tensor) -> Tensor:
    """Scale the last dimension to length one; a zero vector stays zero, with a finite gradient.

    Args:
        x: `(..., d)`, float.

    Returns:
        `(..., d)`; vectors shorter than 1e-6 are returned as they are.
    """
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / torch.where(norm > _SHORTEST, norm, 1.0)


def cosine_cost(x: Tensor, y: Tensor) -> Tensor:
    """Cost 1 - cosine between every row of `x` and every row of `y` (InfoEnh section 4.2).

    Args:
        x: `(..., n, d)`.
        y: `(..., m, d)`.

    Returns:
        `(..., n, m)`, in [0, 2], float32 at least; 1 where a row is zero.
    """
    with full_precision(x):
        x, y = unit_vectors(at_least_float32(x)), unit_vectors(at_least_float32(y))
        return 1 - x @ y.transpose(-1, -2)


@dataclass(frozen=True)
class Transport:
    """Solution of a batch of transport problems.

    Attributes:
        plan: `(..., n, m)`, non-negative. Columns sum to the column masses up to rounding, rows to
            the row masses up to `row_error`.
        iterations: `(...)` int64, updates of both scaling vectors until each problem converged.
        row_error: `(...)` float, `sum_i |sum_j P_ij - a_i|` of each problem; no gradient.
    """

    plan: Tensor
    iterations: Tensor
    row_error: Tensor


def sinkhorn(
    cost: Tensor,
    inverse_temperature: float,
    *,
    row_mass: Tensor | None = None,
    column_mass: Tensor | None = None,
    max_iterations: int = 100,
    tolerance: float = 0.01,
) -> Transport:
    """Solve entropic transport problems by Sinkhorn's iteration in the log domain.

    Every problem of the batch stops for itself: once its row error is at most `tolerance` it is
    frozen, so its plan does not depend on the others. The gradient is that of the unrolled
    iteration.

    `tolerance` transposes the stopping rule of InfoEnh's Algorithm 1, ``1/n sum |u_new - u_old| <
    0.01``. Scaling vectors have no scale of their own (they reach e^100 at lambda = 50), so the
    change is taken relative to the new vector and weighted by the masses; that is exactly the L1
    error of the row sums, twice the share of the mass that lies in a wrong row.

    Args:
        cost: `(..., n, m)`, finite where both masses are positive.
        inverse_temperature: lambda > 0; to 0 the plan becomes the product of the masses, large
            values approach unregularised transport.
        row_mass: a, broadcastable to `(..., n)`, non-negative; None is 1/n. A row of mass zero
            takes no part: its plan is 0 and its cost receives no gradient.
        column_mass: b, broadcastable to `(..., m)`, with the same total as `row_mass`; None is 1/m.
        max_iterations: Cap on iterations, at least 1.
        tolerance: Row error at which a problem is solved; 0 runs to the cap.

    Returns:
        Plans in float32, or float64 if `cost` is.

    Raises:
        ValueError: If an argument is out of range or the shapes do not fit.
    """
    _check_arguments(cost, inverse_temperature, max_iterations, tolerance)
    with full_precision(cost):
        log_kernel = -inverse_temperature * at_least_float32(cost)
        a, log_a = _masses(row_mass, log_kernel, -1)
        b, log_b = _masses(column_mass, log_kernel, -2)
        absent = None
        if row_mass is not None or column_mass is not None:
            absent = ~((a > 0) & (b > 0))
            log_kernel = log_kernel.masked_fill(absent, 0.0)
        log_u, log_v, iterations, error = _iterate(
            log_kernel, (a, log_a), (b, log_b), max_iterations, tolerance
        )
        log_plan = log_kernel + log_u + log_v
        if absent is not None:
            log_plan = log_plan.masked_fill(absent, _ABSENT)
        return Transport(log_plan.exp(), iterations, error)


def _check_arguments(
    cost: Tensor, inverse_temperature: float, max_iterations: int, tolerance: float
) -> None:
    if cost.dim() < 2 or 0 in cost.shape[-2:] or not cost.is_floating_point():
        raise ValueError(
            f"cost must be a float tensor (..., n, m) with n, m >= 1; it is {cost.dtype} of shape "
            f"{tuple(cost.shape)}."
        )
    if not inverse_temperature > 0:
        raise ValueError(f"inverse_temperature is {inverse_temperature}; it must be positive.")
    if max_iterations < 1 or not tolerance >= 0:
        raise ValueError(
            f"max_iterations is {max_iterations} and tolerance {tolerance}; they must be at least "
            "1 and 0."
        )


def _masses(mass: Tensor | None, kernel: Tensor, summed: int) -> tuple[Tensor, Tensor]:
    """Masses and their logarithms, shaped to broadcast against sums of `kernel` over `summed`."""
    count = kernel.shape[-1 if summed == -2 else -2]
    if mass is None:
        mass = kernel.new_full((count,), 1 / count)
    elif mass.dim() == 0 or mass.shape[-1] != count:
        side = "row" if summed == -1 else "column"
        raise ValueError(
            f"{side}_mass has shape {tuple(mass.shape)}; its last dimension must be {count}, the "
            f"number of {side}s of the cost {tuple(kernel.shape)}."
        )
    mass = mass.to(kernel.dtype).unsqueeze(summed)
    present = mass > 0
    return mass, torch.where(present, torch.where(present, mass, 1.0).log(), _ABSENT)


def _iterate(
    log_kernel: Tensor,
    rows: tuple[Tensor, Tensor],
    columns: tuple[Tensor, Tensor],
    max_iterations: int,
    tolerance: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Iterate to convergence: log u `(..., n, 1)`, log v `(..., 1, m)`, iterations, row error."""
    (a, log_a), (b, log_b) = rows, columns
    log_u = log_kernel.new_zeros(())
    log_v = torch.where(b > 0, 0.0, _ABSENT)  # v starts at 1
    log_rows = torch.logsumexp(log_kernel + log_v, dim=-1, keepdim=True)
    active = torch.ones_like(log_kernel[..., :1, :1], dtype=torch.bool)
    iterations = torch.zeros_like(active, dtype=torch.int64)
    error = log_kernel.new_zeros(())
    for _ in range(max_iterations):
        new_u = log_a - log_rows
        new_v = log_b - torch.logsumexp(log_kernel + new_u, dim=-2, keepdim=True)
        log_u = torch.where(active, new_u, log_u)
        log_v = torch.where(active, new_v, log_v)
        # The next u needs these sums; they also tell by how much the rows of the plan are wrong.
        log_rows = torch.logsumexp(log_kernel + log_v, dim=-1, keepdim=True)
        iterations += active
        with torch.no_grad():
            error = ((log_u + log_rows).exp() - a).abs().sum(dim=-2, keepdim=True)
            active = active & (error > tolerance)
        if not active.any():
            break
    return log_u, log_v, iterations[..., 0, 0], error[..., 0, 0]


def barycentric_map(plan: Tensor, target: Tensor, row_mass: Tensor | None = None) -> Tensor:
    """Image of every row's point inside the target: ``P Y``, divided by the row masses.

    Args:
        plan: `(..., n, m)`.
        target: `(..., m, d)`.
        row_mass: `(..., n)`; with it, each image is a mean of target points, whose weights sum to
            one up to the row error of the plan. None leaves the weights of the plan. Rows of mass
            zero are mapped to zero.

    Returns:
        `(..., n, d)`, row a belongs to row a of the plan.
    """
    image = plan @ target
    if row_mass is None:
        return image
    return image / torch.where(row_mass > 0, row_mass, 1.0).unsqueeze(-1)


def push_forward(plan: Tensor, source: Tensor, column_mass: Tensor | None = None) -> Tensor:
    """What arrives at every column: ``P^T X``, divided by the column masses.

    Args:
        plan: `(..., n, m)`.
        source: `(..., n, d)`.
        column_mass: `(..., m)`; None leaves the weights of the plan.

    Returns:
        `(..., m, d)`, row b belongs to column b of the plan.
    """
    return barycentric_map(plan.transpose(-1, -2), source, column_mass)


def transport_cost(plan: Tensor, cost: Tensor) -> Tensor:
    """<P, C> of each problem (InfoEnh eq. 9): `(...)`."""
    return (plan * cost).sum(dim=(-2, -1))


def entropy(plan: Tensor) -> Tensor:
    """``-sum P log P`` of each plan, in nats: `(...)`; empty cells count 0."""
    return -(plan * plan.clamp(min=_SMALLEST_MASS).log()).sum(dim=(-2, -1))
