"""Our Sinkhorn solver beside POT's and geomloss's, on many small problems at once.

    python benchmarks/sinkhorn.py [--full] [--out sinkhorn.csv]

The problems are InfoEnh's: for each of B samples and 3 pairs of modalities, k tokens against k
tokens with cost 1 - cosine of random vectors. Every solver has to bring the L1 error of the
marginals of every problem to the same tolerance. The solvers measure another norm, every tenth
iteration, or nothing; each gets the loosest setting with which it reaches the tolerance, found
before the clock starts, and the error that it reached is printed (`worst_error`: the largest
of any problem, rows and columns). All start from the same float32 costs; `dtype` is what a solver
is given, float64 where POT would underflow otherwise.

`forward_ms` is the time of all plans, `gradient_ms` that of the plans and the derivative of a
weighted sum of them with respect to the cost, `gradient` what that derivative is: of the `unrolled`
iteration, or of its `last step` alone, which is cheaper and something else. `times_ours` are the
ratios of medians. Solvers take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ot
import torch
from geomloss import ot as geomloss
from measuring import write_csv
from torch import Tensor

from MMSA_ext.models.optimal_transport import cosine_cost, sinkhorn

PAIRS = 3
MOST_ITERATIONS = 1000
Solve = Callable[[Tensor, float, float], Tensor]


@dataclass(frozen=True)
class Solver:
    """A way to get plans `(N, k, k)` of costs `(N, k, k)`.

    Attributes:
        name: Library and method.
        solve: Plans of (costs, lambda, setting), where the setting is a stopping threshold, or a
            number of iterations.
        settings: Settings to try, loosest first, for a tolerance and k.
        gradient: What its derivative is; empty where it has none.
        dtype: Of the costs.
    """

    name: str
    solve: Solve
    settings: Callable[[float, int], Iterator[float]]
    gradient: str = ""
    dtype: torch.dtype = torch.float32


def thresholds_of_l2(tolerance: float, k: int) -> Iterator[float]:
    """Thresholds of an L2 error; the last one guarantees the L1 error."""
    steps = 2
    yield from (tolerance * k ** (-0.5 * step / steps) for step in range(steps + 1))


def iteration_counts(tolerance: float, k: int) -> Iterator[float]:
    """Numbers of iterations of a solver without a stopping rule."""
    yield from (round(1.25**power) for power in range(7, 32))


def ours(cost: Tensor, inverse_temperature: float, threshold: float) -> Tensor:
    """MMSA_ext.models.optimal_transport.sinkhorn."""
    return sinkhorn(
        cost, inverse_temperature, max_iterations=MOST_ITERATIONS, tolerance=threshold
    ).plan


def pot_loop(method: str, backend: str) -> Solve:
    """`ot.sinkhorn` on one problem after the other."""

    def solve(cost: Tensor, inverse_temperature: float, threshold: float) -> Tensor:
        options: dict[str, Any] = {
            "method": method,
            "numItermax": MOST_ITERATIONS,
            "stopThr": threshold,
            "warn": False,
        }
        mass = torch.full_like(cost[0, 0], 1 / cost.shape[-1]).detach()
        if backend == "torch":
            return torch.stack(
                [ot.sinkhorn(mass, mass, c, 1 / inverse_temperature, **options) for c in cost]
            )
        a = mass.numpy()
        plans = [ot.sinkhorn(a, a, c, 1 / inverse_temperature, **options) for c in cost.numpy()]
        return torch.stack([torch.from_numpy(plan) for plan in plans])

    return solve


def pot_batch(method: str) -> Solve:
    """`ot.solve_batch`."""

    def solve(cost: Tensor, inverse_temperature: float, threshold: float) -> Tensor:
        solved = ot.solve_batch(
            cost,
            reg=1 / inverse_temperature,
            max_iter=MOST_ITERATIONS,
            tol=threshold,
            method=method,
            grad="autodiff" if cost.requires_grad else "detach",
        )
        return solved.plan

    return solve


def geomloss_batch(cost: Tensor, inverse_temperature: float, iterations: float) -> Tensor:
    """`geomloss.ot.solve_batch`: annealed, a fixed number of iterations, symmetric updates."""
    return geomloss.solve_batch(cost, reg=1 / inverse_temperature, max_iter=int(iterations)).plan


SOLVERS = [
    Solver("MMSA_ext", ours, lambda tolerance, k: iter([tolerance]), "unrolled"),
    Solver(
        "POT loop, sinkhorn, numpy",
        pot_loop("sinkhorn", "numpy"),
        thresholds_of_l2,
        dtype=torch.float64,
    ),
    Solver("POT loop, sinkhorn_log, numpy", pot_loop("sinkhorn_log", "numpy"), thresholds_of_l2),
    Solver(
        "POT loop, sinkhorn, torch",
        pot_loop("sinkhorn", "torch"),
        thresholds_of_l2,
        "unrolled",
        torch.float64,
    ),
    Solver(
        "POT loop, sinkhorn_log, torch",
        pot_loop("sinkhorn_log", "torch"),
        thresholds_of_l2,
        "unrolled",
    ),
    Solver("POT batch, log_sinkhorn", pot_batch("log_sinkhorn"), thresholds_of_l2, "unrolled"),
    Solver(
        "POT batch, sinkhorn", pot_batch("sinkhorn"), thresholds_of_l2, "unrolled", torch.float64
    ),
    Solver("geomloss batch", geomloss_batch, iteration_counts, "last step"),
]


def worst_error(plan: Tensor) -> float:
    """Largest L1 error of the marginals, over problems; NaN if a plan has one."""
    k = plan.shape[-1]
    errors = [(plan.double().sum(dim) - 1 / k).abs().sum(-1).max().item() for dim in (-1, -2)]
    return max(errors) if errors[0] == errors[0] else errors[0]


def loosest_setting(
    solver: Solver, cost: Tensor, inverse_temperature: float, tolerance: float
) -> tuple[float, float]:
    """The first setting that reaches the tolerance, or the strictest, and the error it gives."""
    setting = error = float("nan")
    for setting in solver.settings(tolerance, cost.shape[-1]):
        error = worst_error(solver.solve(cost, inverse_temperature, setting))
        if error <= tolerance * (1 + 1e-4):  # float32 rounding
            break
    return setting, error


def milliseconds(function: Callable[[], Any]) -> float:
    """Median wall time of the calls that fit into a twentieth of a second, at least one."""
    taken: list[float] = []
    while sum(taken) < 0.05:
        began = time.perf_counter()
        function()
        taken.append(time.perf_counter() - began)
    return 1e3 * statistics.median(taken)


def measure(
    batch: int, k: int, inverse_temperature: float, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """One line for each solver on `batch * PAIRS` problems of size k."""
    torch.manual_seed(0)
    x, y = torch.randn(2, batch * PAIRS, k, options.dim)
    cost, weight = cosine_cost(x, y), torch.randn(batch * PAIRS, k, k)
    costs = {dtype: cost.to(dtype) for dtype in (torch.float32, torch.float64)}
    found = {
        solver.name: loosest_setting(
            solver, costs[solver.dtype], inverse_temperature, options.tolerance
        )
        for solver in SOLVERS
    }

    def forward(solver: Solver) -> None:
        solver.solve(costs[solver.dtype], inverse_temperature, found[solver.name][0])

    def with_gradient(solver: Solver) -> None:
        leaf = costs[solver.dtype].clone().requires_grad_()
        plan = solver.solve(leaf, inverse_temperature, found[solver.name][0])
        (plan * weight).sum().backward()

    forward_times: dict[str, list[float]] = {solver.name: [] for solver in SOLVERS}
    gradient_times: dict[str, list[float]] = {solver.name: [] for solver in SOLVERS}
    for repeat in range(options.repeats + 1):
        for solver in SOLVERS:
            taken = milliseconds(lambda solver=solver: forward(solver))
            both = (
                milliseconds(lambda solver=solver: with_gradient(solver))
                if solver.gradient
                else float("nan")
            )
            if repeat:  # the first turn warms up
                forward_times[solver.name].append(taken)
                gradient_times[solver.name].append(both)
    forwards = {name: statistics.median(times) for name, times in forward_times.items()}
    gradients = {name: statistics.median(times) for name, times in gradient_times.items()}
    us = SOLVERS[0].name
    return [
        {
            "batch": batch,
            "pairs": PAIRS,
            "k": k,
            "lambda": inverse_temperature,
            "tolerance": options.tolerance,
            "solver": solver.name,
            "dtype": str(solver.dtype).removeprefix("torch."),
            "setting": f"{found[solver.name][0]:.4g}",
            "worst_error": f"{found[solver.name][1]:.4g}",
            "gradient": solver.gradient,
            "forward_ms": f"{forwards[solver.name]:.3f}",
            "gradient_ms": f"{gradients[solver.name]:.3f}" if solver.gradient else "",
            "forward_times_ours": f"{forwards[solver.name] / forwards[us]:.2f}",
            "gradient_times_ours": (
                f"{gradients[solver.name] / gradients[us]:.2f}" if solver.gradient else ""
            ),
        }
        for solver in SOLVERS
    ]


def main() -> None:
    """Measure every combination of sizes and lambda."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", help="samples of a step [16 128]")
    parser.add_argument("--size", type=int, nargs="+", default=[8, 16, 32], help="tokens k")
    parser.add_argument("--inverse-temperature", type=float, nargs="+", default=[10.0, 50.0])
    parser.add_argument("--dim", type=int, default=32, help="length of a token's vector")
    parser.add_argument("--tolerance", type=float, default=0.01, help="L1 error of the marginals")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="batches of 16, 32, 64 and 128")
    parser.add_argument("--out", help="CSV file")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*numerical errors.*")
    batches = options.batch or ([16, 32, 64, 128] if options.full else [16, 128])
    rows = [
        row
        for batch in batches
        for k in options.size
        for inverse_temperature in options.inverse_temperature
        for row in measure(batch, k, inverse_temperature, options)
    ]
    write_csv(rows, options.out, ("POT", "geomloss"))


if __name__ == "__main__":
    main()
