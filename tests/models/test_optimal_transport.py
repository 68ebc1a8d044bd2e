"""Sinkhorn against the paper's loop, POT, its limits, and what batching and masking must not do."""

import math

import pytest
import torch

from MMSA_ext.models import optimal_transport
from MMSA_ext.models.optimal_transport import (
    barycentric_map,
    cosine_cost,
    entropy,
    push_forward,
    sinkhorn,
    transport_cost,
    unit_vectors,
)
from tests.pretend_gpu import GPU, PretendGPU


def random_cost(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Cosine costs, in [0, 2]."""
    *batch, n, m = shape
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*batch, n, 6, generator=generator, dtype=dtype)
    y = torch.randn(*batch, m, 6, generator=generator, dtype=dtype)
    return cosine_cost(x, y)


def random_mass(*shape: int, seed: int = 1) -> torch.Tensor:
    mass = torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).double() + 0.1
    return mass / mass.sum(-1, keepdim=True)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_steps_are_those_of_algorithm_1(steps):
    """u = a / (K v), v = b / (K^T u) with the new u, on plain scaling vectors."""
    cost, a, b = random_cost(5, 4), random_mass(5), random_mass(4, seed=2)
    K, v = torch.exp(-3 * cost), torch.ones(4).double()
    for _ in range(steps):
        u = a / (K @ v)
        v = b / (K.T @ u)
    got = sinkhorn(cost, 3, row_mass=a, column_mass=b, max_iterations=steps, tolerance=0)
    torch.testing.assert_close(got.plan, u[:, None] * K * v)
    assert got.iterations.item() == steps
    torch.testing.assert_close(got.row_error, (got.plan.sum(1) - a).abs().sum())


@pytest.mark.parametrize(("inverse_temperature", "tolerance"), [(1, 1e-6), (10, 1e-6), (50, 1e-4)])
@pytest.mark.parametrize("uniform", [True, False])
def test_agrees_with_pot(inverse_temperature, tolerance, uniform):
    ot = pytest.importorskip("ot")
    for seed in range(3):
        cost = random_cost(8, 6, seed=seed)
        a = torch.full((8,), 1 / 8, dtype=torch.float64) if uniform else random_mass(8, seed=seed)
        b = (
            torch.full((6,), 1 / 6, dtype=torch.float64)
            if uniform
            else random_mass(6, seed=seed + 9)
        )
        want = ot.sinkhorn(
            a.numpy(),
            b.numpy(),
            cost.numpy(),
            reg=1 / inverse_temperature,
            method="sinkhorn_log",
            numItermax=20_000,
            stopThr=1e-11,
        )
        masses = {} if uniform else {"row_mass": a, "column_mass": b}
        got = sinkhorn(cost, inverse_temperature, max_iterations=20_000, tolerance=1e-11, **masses)
        assert abs(got.plan.numpy() - want).max() < tolerance


@pytest.mark.parametrize("inverse_temperature", [0.1, 10, 50, 200])
def test_marginals(inverse_temperature):
    """Columns are exact; rows are as exact as asked for, and the result says how exact."""
    cost = random_cost(3, 7, 8, 5, dtype=torch.float32)
    got = sinkhorn(cost, inverse_temperature, max_iterations=5000)
    assert got.plan.shape == cost.shape
    assert got.iterations.shape == got.row_error.shape == (3, 7)
    torch.testing.assert_close(got.plan.sum(-2), torch.full((3, 7, 5), 1 / 5))
    error = (got.plan.sum(-1) - 1 / 8).abs().sum(-1)
    torch.testing.assert_close(error, got.row_error, rtol=1e-3, atol=1e-5)
    assert (got.row_error <= 0.01).all()
    assert (got.plan >= 0).all()


def test_the_cap_is_kept_and_reported():
    got = sinkhorn(random_cost(4, 8, 8), 200, max_iterations=2)
    assert (got.iterations == 2).all()
    assert (got.row_error > 0.01).any()


def test_a_small_lambda_gives_the_product_of_the_masses():
    a, b = random_mass(5), random_mass(4)
    got = sinkhorn(random_cost(5, 4), 1e-8, row_mass=a, column_mass=b)
    torch.testing.assert_close(got.plan, a[:, None] * b, rtol=1e-6, atol=0)


def test_a_large_lambda_finds_the_permutation():
    x = torch.eye(6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    got = sinkhorn(cosine_cost(x, x[order]), 50)
    assert (got.plan.argmax(dim=0) == order).all()
    torch.testing.assert_close(got.plan.max(dim=1).values, torch.full((6,), 1 / 6))
    assert transport_cost(got.plan, cosine_cost(x, x[order])).item() == pytest.approx(0, abs=1e-6)


def test_a_problem_does_not_see_its_batch():
    """An easy problem is frozen while a hard one goes on."""
    easy, hard = torch.ones(8, 8), random_cost(8, 8, dtype=torch.float32)
    alone, together = sinkhorn(easy, 50), sinkhorn(torch.stack([easy, hard]), 50)
    assert together.iterations.tolist()[0] == alone.iterations.item() == 1
    assert together.iterations.tolist()[1] > 5
    torch.testing.assert_close(together.plan[0], alone.plan, rtol=0, atol=0)
    torch.testing.assert_close(together.plan[1], sinkhorn(hard, 50).plan)


def test_absent_rows_and_columns_take_no_part():
    """Whatever stands in masked cells: same plan, zero there, no gradient, no NaN."""
    small = random_cost(3, 2).requires_grad_()
    large = torch.full((5, 4), torch.nan).double()
    large[:3, :2] = small.detach()
    large.requires_grad_()
    a = torch.tensor([1 / 3] * 3 + [0, 0], dtype=torch.float64)
    b = torch.tensor([1 / 2] * 2 + [0, 0], dtype=torch.float64)
    want, got = sinkhorn(small, 50), sinkhorn(large, 50, row_mass=a, column_mass=b)
    torch.testing.assert_close(got.plan[:3, :2], want.plan)
    assert got.plan[3:].count_nonzero() == got.plan[:, 2:].count_nonzero() == 0
    assert got.iterations == want.iterations
    (wanted,) = torch.autograd.grad(want.plan.square().sum(), small)
    (gradient,) = torch.autograd.grad(got.plan.square().sum(), large)
    torch.testing.assert_close(gradient[:3, :2], wanted)
    assert gradient[3:].count_nonzero() == gradient[:, 2:].count_nonzero() == 0


@pytest.mark.parametrize("steps", [1, 6])
def test_gradient_is_the_derivative(steps):
    cost = random_cost(2, 4, 3).requires_grad_()
    mass = torch.tensor([0.5, 0.25, 0.25, 0.0]).double()

    def plan(c: torch.Tensor) -> torch.Tensor:
        return sinkhorn(c, 5, row_mass=mass, max_iterations=steps, tolerance=0).plan

    assert torch.autograd.gradcheck(plan, cost)


WAYS = ["float32", "float64", "logarithms"]


def choose(way, monkeypatch):
    """Make the solver compute in this way, whatever the kernel spans."""
    limits = {"float32": (1e9, 1e9), "float64": (-1, 1e9), "logarithms": (-1, -1)}[way]
    monkeypatch.setattr(optimal_transport, "_WIDEST_IN_FLOAT32", limits[0])
    monkeypatch.setattr(optimal_transport, "_WIDEST_IN_FLOAT64", limits[1])


def unrolled(cost, inverse_temperature, a, b, tolerance):
    """One problem in float64 by automatic differentiation: plan and iterations."""
    K, v = torch.exp(-inverse_temperature * cost), torch.ones_like(b)
    iteration, error = 0, 1.0
    while error > tolerance:
        u = a / (K @ v)
        v = b / (K.T @ u)
        iteration, error = iteration + 1, (u * (K @ v) - a).abs().sum().item()
    return u[:, None] * K * v, iteration


@pytest.mark.parametrize("way", WAYS)
def test_plans_and_gradients_are_those_of_the_unrolled_iteration(way, monkeypatch):
    """Of every problem, each with its own number of iterations, by the cost and by the masses."""
    choose(way, monkeypatch)
    cost = random_cost(9, 5, 4).requires_grad_()
    a, b = random_mass(9, 5).requires_grad_(), random_mass(4, seed=2).requires_grad_()
    weight = random_cost(9, 5, 4, seed=5)
    pieces = [unrolled(c, 12, x, b, 0.01) for c, x in zip(cost, a, strict=True)]
    plan, iterations = torch.stack([p for p, _ in pieces]), [i for _, i in pieces]
    want = torch.autograd.grad((plan * weight).sum(), (cost, a, b))
    leaves = [x.detach().float().requires_grad_() for x in (cost, a, b)]
    got = sinkhorn(leaves[0], 12, row_mass=leaves[1], column_mass=leaves[2])
    assert got.iterations.tolist() == iterations
    assert len(set(iterations)) > 3
    torch.testing.assert_close(got.plan, plan.float())
    assert not got.row_error.requires_grad
    gradients = torch.autograd.grad((got.plan * weight).sum(), leaves)
    for gradient, wanted in zip(gradients, want, strict=True):
        torch.testing.assert_close(gradient, wanted.float(), rtol=1e-3, atol=1e-5)


def test_a_second_derivative_is_refused():
    cost = random_cost(3, 3).requires_grad_()
    plan = sinkhorn(cost, 5).plan
    with pytest.raises(RuntimeError, match="no derivative of its own; detach the plan"):
        torch.autograd.grad(plan[0, 0], cost, create_graph=True)


@pytest.mark.parametrize("way", WAYS)
def test_a_problem_without_mass_is_empty_and_harms_no_other(way, monkeypatch):
    choose(way, monkeypatch)
    cost = random_cost(2, 4, 4, dtype=torch.float32).requires_grad_()
    mass = torch.tensor([[0.25] * 4, [0.0] * 4])
    got = sinkhorn(cost, 20, row_mass=mass, column_mass=mass)
    torch.testing.assert_close(got.plan[0], sinkhorn(cost[0], 20).plan)
    assert got.plan[1].count_nonzero() == 0
    got.plan.square().sum().backward()
    assert cost.grad.isfinite().all()
    assert cost.grad[0].count_nonzero() == 16
    assert cost.grad[1].count_nonzero() == 0


@pytest.mark.parametrize("inverse_temperature", [10, 50, 300, 2000])
def test_float32_costs_give_finite_plans_and_gradients_at_any_lambda(inverse_temperature):
    """Float32, float64 and logarithms in turn, beside the same in float64."""
    cost = random_cost(6, 8, 8, seed=7, dtype=torch.float32).requires_grad_()
    got = sinkhorn(cost, inverse_temperature)
    want = sinkhorn(cost.detach().double(), inverse_temperature, max_iterations=100)
    torch.testing.assert_close(got.plan, want.plan.float(), rtol=1e-2, atol=1e-4)
    got.plan.square().sum().backward()
    assert got.plan.isfinite().all()
    assert cost.grad.isfinite().all()


def test_a_neighbour_with_a_wide_kernel_changes_rounding_only():
    """It makes the whole batch run on logarithms."""
    narrow, wide = random_cost(8, 8, dtype=torch.float32), 100 * random_cost(8, 8).float()
    alone, together = sinkhorn(narrow, 20), sinkhorn(torch.stack([narrow, wide]), 20)
    assert together.iterations[0] == alone.iterations
    torch.testing.assert_close(together.plan[0], alone.plan, rtol=1e-4, atol=1e-6)


def test_a_constant_for_a_row_changes_nothing():
    cost = random_cost(5, 4)
    shifted = cost + 1e3 * torch.arange(5)[:, None]
    torch.testing.assert_close(sinkhorn(shifted, 20).plan, sinkhorn(cost, 20).plan)


def test_masses_may_have_a_batch_that_the_cost_has_not():
    cost, a = random_cost(4, 3), random_mass(2, 4)
    got = sinkhorn(cost, 20, row_mass=a)
    assert got.plan.shape == (2, 4, 3)
    for plan, mass in zip(got.plan, a, strict=True):
        torch.testing.assert_close(plan, sinkhorn(cost, 20, row_mass=mass).plan)


def test_no_problems_have_no_plans():
    got = sinkhorn(torch.zeros(0, 3, 4), 5)
    assert got.plan.shape == (0, 3, 4)
    assert got.iterations.shape == got.row_error.shape == (0,)


def test_gradient_of_cost_and_entropy_and_maps():
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(4, 3, generator=generator).double().requires_grad_() for _ in "xy")

    def everything(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        cost = cosine_cost(x, y)
        plan = sinkhorn(cost, 5, max_iterations=4, tolerance=0).plan
        maps = barycentric_map(plan, y), push_forward(plan, x)
        return transport_cost(plan, cost), entropy(plan), *maps

    assert torch.autograd.gradcheck(everything, (x, y))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_computed_in_float32(dtype):
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    want = sinkhorn(cosine_cost(x.float(), x.float()), 50).plan
    x.requires_grad_()
    with torch.autocast("cpu", dtype):
        plan = sinkhorn(cosine_cost(x, x), 50).plan
    assert plan.dtype == torch.float32
    torch.testing.assert_close(plan, want)
    plan.square().sum().backward()
    assert x.grad.isfinite().all()


def test_zero_rows_have_cosine_zero_and_a_moderate_gradient():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    cost = cosine_cost(x, torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(cost.detach(), torch.tensor([[1.0], [0.4]]))
    cost.sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() <= 1
    assert unit_vectors(x)[0].tolist() == [0, 0]


def test_maps_are_means_and_keep_the_mean():
    """With uniform masses the mean of the images is the mean of the target, whatever the plan."""
    plan, target = sinkhorn(random_cost(4, 5), 50, tolerance=1e-9).plan, torch.randn(5, 3).double()
    mass = torch.full((4,), 0.25).double()
    image = barycentric_map(plan, target, mass)
    torch.testing.assert_close(image, 4 * plan @ target)
    torch.testing.assert_close(image.mean(0), target.mean(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(barycentric_map(plan, target), plan @ target)
    source = torch.randn(4, 3).double()
    torch.testing.assert_close(push_forward(plan, source), plan.T @ source)
    arrived = push_forward(plan, torch.ones(4, 1).double(), torch.full((5,), 0.2).double())
    torch.testing.assert_close(arrived, torch.ones(5, 1).double())


def test_maps_of_absent_rows_are_zero():
    plan = torch.tensor([[0.5, 0.5], [0.0, 0.0]])
    image = barycentric_map(plan, torch.ones(2, 3), torch.tensor([1.0, 0.0]))
    assert image.tolist() == [[1, 1, 1], [0, 0, 0]]


def test_entropy_and_cost_of_known_plans():
    uniform, assignment = torch.full((2, 4, 4), 1 / 16), torch.eye(4) / 4
    torch.testing.assert_close(entropy(uniform), torch.full((2,), math.log(16)))
    assert entropy(assignment).item() == pytest.approx(math.log(4))
    cost = torch.arange(16.0).view(4, 4)
    assert transport_cost(assignment, cost).item() == pytest.approx((0 + 5 + 10 + 15) / 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cost": torch.zeros(3)}, "cost must be a float tensor"),
        ({"cost": torch.zeros(3, 0)}, "cost must be a float tensor"),
        ({"cost": torch.zeros(3, 3).long()}, "cost must be a float tensor"),
        ({"inverse_temperature": 0}, "must be positive"),
        ({"max_iterations": 0}, "must be at least 1 and 0"),
        ({"tolerance": -1}, "must be at least 1 and 0"),
        ({"row_mass": torch.ones(2)}, "row_mass has shape .* must be 3, the number of rows"),
        ({"column_mass": torch.ones(3)}, "column_mass has shape .* must be 4, the number of col"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"cost": torch.zeros(3, 4), "inverse_temperature": 1.0} | change
    with pytest.raises(ValueError, match=message):
        sinkhorn(**arguments)


@pytest.mark.parametrize("inverse_temperature", [3, 10, 50, 200])
def test_a_device_gives_the_same_plans_without_waiting(inverse_temperature):
    """Easy and hard problems, absent rows, scalings in both precisions and logarithms."""
    cost = (
        random_cost(5, 6, 6, dtype=torch.float32) * torch.tensor([0.1, 1, 1, 1, 1])[:, None, None]
    )
    mass = torch.full((5, 6), 1 / 6)
    mass[1] = torch.tensor([0.25] * 4 + [0.0] * 2)
    weight = torch.randn(5, 6, 6, generator=torch.Generator().manual_seed(3))
    want = sinkhorn(leaf := cost.clone().requires_grad_(), inverse_temperature, row_mass=mass)
    (want.plan * weight).sum().backward()
    assert want.iterations.unique().numel() > 1  # each problem stops for itself
    gpu = PretendGPU()
    there = gpu.label(cost.clone()).requires_grad_()
    given = [gpu.label(x.clone()) for x in (mass, weight)]
    with gpu:
        got = sinkhorn(there, inverse_temperature, row_mass=given[0], cost_range=2.0)
        (got.plan * given[1]).sum().backward()
        assert got.plan.device == GPU
        assert not gpu.waits
        sinkhorn(there, inverse_temperature)
    assert not gpu.mixes
    assert gpu.waits.total() == 1  # it looks at the costs
    torch.testing.assert_close(got.plan, want.plan, rtol=1e-4, atol=1e-6)
    assert torch.equal(got.iterations, want.iterations)
    torch.testing.assert_close(got.row_error, want.row_error, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(there.grad, leaf.grad, rtol=1e-3, atol=1e-5)
