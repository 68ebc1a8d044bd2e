"""Entropic optimal transport (Cuturi, 2013) between small sets, batched and differentiable.

The problem is ``P* = argmin_P <P, C> - h(P) / lambda`` over plans with row sums `a` and column sums
`b` (InfoEnh eq. 10), where `h` is the entropy. Sinkhorn's iteration solves it: ``u = a / (K v)``,
``v = b / (K^T u)`` with ``K = exp(-lambda C)`` (text below eq. 11). At lambda = 50 and cosine costs
in [0, 2], K spans e^100, more than float32 holds, so the iteration runs in float64 there. It runs
on logarithms where K spans still more, and on devices without float64.

On a CPU the iteration ends with its last problem's convergence. To ask for that on another device
the host would wait for it every few iterations; there all iterations are run, and each problem's
plan is taken from the one at which it converged, as ever.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from MMSA_ext.models.eager import on_eager_cpu

# Scaling vectors can span the square of what K spans; float32 holds e^88 and float64 e^709.
_WIDEST_IN_FLOAT32, _WIDEST_IN_FLOAT64 = 40.0, 200.0
# On a CPU; looking for the last problem's convergence costs as much as half an iteration.
_CHECKED_EVERY = 4
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
    cost_range: float | None = None,
) -> Transport:
    """Solve entropic transport problems by Sinkhorn's iteration.

    Every problem of the batch stops for itself, once its row error is at most `tolerance`, so its
    plan does not depend on the others. The gradient is that of the unrolled iteration; it can be
    taken once (no second derivatives).

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
        cost_range: What costs of one row differ by at most, which decides the precision on a
            device; None looks, for which the host waits. A CPU always looks.

    Returns:
        Plans in float32, or float64 if `cost` is.

    Raises:
        ValueError: If an argument is out of range or the shapes do not fit.
        RuntimeError: In the backward pass, if it is to be differentiated itself.
    """
    _check_arguments(cost, inverse_temperature, max_iterations, tolerance)
    with full_precision(cost):
        log_kernel = -inverse_temperature * at_least_float32(cost)
        a = _masses(row_mass, log_kernel, "row")
        b = _masses(column_mass, log_kernel, "column")
        try:
            sizes = (cost.shape[:-2], a.shape[:-1], b.shape[:-1])
            batch = torch.broadcast_shapes(*sizes)  # type: ignore[no-untyped-call]
        except RuntimeError as unfit:
            raise ValueError(f"costs and masses do not fit: {unfit}") from unfit
        log_kernel, a, b = (
            x.expand(*batch, *x.shape[-own:]) for x, own in ((log_kernel, 2), (a, 1), (b, 1))
        )
        present = None
        if row_mass is not None or column_mass is not None:
            present = (a > 0).unsqueeze(-1) & (b > 0).unsqueeze(-2)
            # A problem without any mass is solved as if it had some; its plan is 0 all the same.
            a, b = (torch.where((x > 0).any(dim=-1, keepdim=True), x, 1.0) for x in (a, b))
        log_kernel = _from_row_maximum(log_kernel, present)
        span = None if cost_range is None else inverse_temperature * cost_range
        dtype = _dtype_of_scalings(log_kernel, span)
        if dtype is None:
            solved = _solve_on_logarithms(log_kernel, a, b, max_iterations, tolerance)
        else:
            solved = _solve_on_scalings(log_kernel, a, b, max_iterations, tolerance, dtype)
        plan, iterations, error = solved
        if present is not None:
            plan = torch.where(present, plan, 0.0)
        return Transport(plan, iterations, error)


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


def _masses(mass: Tensor | None, kernel: Tensor, side: Literal["row", "column"]) -> Tensor:
    """Masses `(..., n)` or `(..., m)` in the kernel's dtype."""
    count = kernel.shape[-2 if side == "row" else -1]
    if mass is None:
        return kernel.new_full((count,), 1 / count)
    if mass.dim() == 0 or mass.shape[-1] != count:
        raise ValueError(
            f"{side}_mass has shape {tuple(mass.shape)}; its last dimension must be {count}, the "
            f"number of {side}s of the cost {tuple(kernel.shape)}."
        )
    return mass.to(kernel.dtype)


def _from_row_maximum(log_kernel: Tensor, present: Tensor | None) -> Tensor:
    """Subtract each row's maximum, which changes u and no plan; absent cells become 0."""
    if present is None:
        return log_kernel - log_kernel.detach().amax(dim=-1, keepdim=True)
    maximum = torch.where(present, log_kernel.detach(), -torch.inf).amax(dim=-1, keepdim=True)
    return torch.where(present, log_kernel - maximum, 0.0)


def _dtype_of_scalings(log_kernel: Tensor, most: float | None) -> torch.dtype | None:
    """The smallest precision that holds the scaling vectors, None where none does.

    Args:
        log_kernel: `(..., n, m)`, at most 0.
        most: What it spans at most, where that is known.
    """
    if not log_kernel.numel():
        return None
    span = most
    if span is None or on_eager_cpu(log_kernel.device):
        span = -log_kernel.detach().min().item()
    if log_kernel.dtype == torch.float32 and span <= _WIDEST_IN_FLOAT32:
        return torch.float32
    # Apple's devices have no float64.
    narrow = span <= _WIDEST_IN_FLOAT64 and log_kernel.device.type != "mps"
    return torch.float64 if narrow else None


def _solve_on_scalings(
    log_kernel: Tensor,
    a: Tensor,
    b: Tensor,
    max_iterations: int,
    tolerance: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Plans `(..., n, m)`, iterations `(...)` and row errors `(...)`."""
    n, m = log_kernel.shape[-2:]
    plan, iterations, error = _Scaling.apply(  # type: ignore[no-untyped-call]
        log_kernel.to(dtype).reshape(-1, n, m).permute(1, 2, 0),
        a.to(dtype).reshape(-1, n).T,
        b.to(dtype).reshape(-1, m).T,
        max_iterations,
        tolerance,
    )
    batch = log_kernel.shape[:-2]
    plan = plan.permute(2, 0, 1).reshape(log_kernel.shape).to(log_kernel.dtype)
    return plan, iterations.reshape(batch), error.reshape(batch).to(log_kernel.dtype)


class _Scaling(torch.autograd.Function):
    """The iteration on scaling vectors, and the gradient of the unrolled iteration.

    The batch is the last dimension, along which all operations run: the kernel is `(n, m, B)`, u is
    `(n, B)` and v `(m, B)`. Of every iteration only u and v are kept for the gradient, where
    automatic differentiation would keep several `(n, m, B)`.
    """

    @staticmethod
    def forward(
        ctx: Any, log_kernel: Tensor, a: Tensor, b: Tensor, max_iterations: int, tolerance: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        kernel, a, b = (x.contiguous() for x in (log_kernel.exp(), a, b))
        memory = torch.empty_like(kernel)
        us, vs = [], [(b > 0).to(b.dtype)]  # v starts at 1
        row_sums = [_times(kernel, vs[0], memory)]
        for iteration in range(1, max_iterations + 1):
            us.append(a / row_sums[-1])
            vs.append(b / _transposed_times(kernel, us[-1], memory))
            # The next u needs these sums; they also tell how wrong the rows of the plan are.
            row_sums.append(_times(kernel, vs[-1], memory))
            if _is_checked(kernel, iteration) and not (
                (_row_error(us[-1], row_sums[-1], a) > tolerance).any()
            ):
                break
        u, v = torch.stack(us), torch.stack(vs)
        errors = _row_error(u, torch.stack(row_sums[1:]), a)
        # Every problem stops for itself, at its first step with a small error.
        last = (errors[:-1] > tolerance).cumprod(dim=0).sum(dim=0)
        each = torch.arange(last.shape[0], device=last.device)
        plan = (
            memory.copy_(kernel).mul_(u[last, :, each].T.unsqueeze(1)).mul_(v[last + 1, :, each].T)
        )
        iterations, error = last + 1, errors[last, each]
        ctx.mark_non_differentiable(iterations, error)
        ctx.save_for_backward(kernel, a, b, plan, iterations, u, v)
        return plan, iterations, error

    @staticmethod
    def backward(ctx: Any, of_plan: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "The gradient of sinkhorn has no derivative of its own; detach the plan where a "
                "gradient is taken with create_graph=True."
            )
        kernel, a, b, plan, iterations, us, vs = ctx.saved_tensors
        memory = torch.empty_like(kernel)
        per_a, per_b = (torch.where(mass > 0, 1 / mass, 0.0) for mass in (a, b))
        # Derivatives with respect to log P, to log u and log v as the plan and later steps read
        # them, to the masses, and to -K. A problem joins at its last iteration.
        of_log_plan = plan * of_plan
        of_log_u, of_log_v = of_log_plan.sum(dim=1), of_log_plan.sum(dim=0)
        of_a, of_b, of_kernel = torch.zeros_like(a), torch.zeros_like(b), torch.zeros_like(kernel)
        steps = int(iterations.max()) if on_eager_cpu(kernel.device) else len(us)
        for step in reversed(range(steps)):
            ran = iterations > step
            u, v, v_before = us[step], vs[step + 1], vs[step]
            # v = b / (K^T u)
            through = of_log_v * per_b * ran
            of_b += through
            of_sums = v * through
            of_kernel.addcmul_(u.unsqueeze(1), of_sums)
            of_log_u -= u * _times(kernel, of_sums, memory)
            # u = a / (K v_before)
            through = of_log_u * per_a * ran
            of_a += through
            of_sums = u * through
            of_kernel.addcmul_(of_sums.unsqueeze(1), v_before)
            of_log_v_before = -v_before * _transposed_times(kernel, of_sums, memory)
            of_log_v = torch.where(ran, of_log_v_before, of_log_v)
            of_log_u = torch.where(ran, 0.0, of_log_u)
        return of_log_plan.addcmul_(kernel, of_kernel, value=-1), of_a, of_b, None, None


def _is_checked(kernel: Tensor, iteration: int) -> bool:
    """Whether to look, behind an iteration, if it was the last one that a problem needs."""
    return on_eager_cpu(kernel.device) and iteration % _CHECKED_EVERY == 0


def _times(kernel: Tensor, v: Tensor, memory: Tensor) -> Tensor:
    """``K v`` of every problem, `(n, B)`; `memory`, like the kernel, takes the products."""
    return torch.mul(kernel, v, out=memory).sum(dim=1)


def _transposed_times(kernel: Tensor, u: Tensor, memory: Tensor) -> Tensor:
    """``K^T u`` of every problem, `(m, B)`."""
    return torch.mul(kernel, u.unsqueeze(1), out=memory).sum(dim=0)


def _row_error(u: Tensor, row_sums: Tensor, a: Tensor) -> Tensor:
    """``sum_i |u_i (K v)_i - a_i|`` of every problem, `(..., n, B)` to `(..., B)`."""
    return (u * row_sums - a).abs().sum(dim=-2)


def _solve_on_logarithms(
    log_kernel: Tensor, a: Tensor, b: Tensor, max_iterations: int, tolerance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The same on log u `(..., n, 1)` and log v `(..., 1, m)`, by automatic differentiation."""
    a, b = a.unsqueeze(-1), b.unsqueeze(-2)
    log_a, log_b = _logarithm(a), _logarithm(b)
    log_u = torch.zeros_like(log_a)
    log_v = torch.where(b > 0, 0.0, _ABSENT)
    log_rows = torch.logsumexp(log_kernel + log_v, dim=-1, keepdim=True)
    active = torch.ones_like(log_rows[..., :1, :], dtype=torch.bool)
    iterations = torch.zeros_like(active, dtype=torch.int64)
    error = torch.zeros_like(log_rows[..., :1, :])
    for _ in range(max_iterations):
        new_u = log_a - log_rows
        new_v = log_b - torch.logsumexp(log_kernel + new_u, dim=-2, keepdim=True)
        log_u = torch.where(active, new_u, log_u)
        log_v = torch.where(active, new_v, log_v)
        log_rows = torch.logsumexp(log_kernel + log_v, dim=-1, keepdim=True)
        iterations += active
        with torch.no_grad():
            error = ((log_u + log_rows).exp() - a).abs().sum(dim=-2, keepdim=True)
            active = active & (error > tolerance)
        if on_eager_cpu(log_kernel.device) and not active.any():
            break
    log_plan = torch.where((a > 0) & (b > 0), log_kernel + log_u + log_v, _ABSENT)
    return log_plan.exp(), iterations[..., 0, 0], error[..., 0, 0]


def _logarithm(mass: Tensor) -> Tensor:
    present = mass > 0
    return torch.where(present, torch.where(present, mass, 1.0).log(), _ABSENT)


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
