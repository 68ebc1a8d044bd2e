"""Each measure on cases whose answer is known."""

import pytest
import torch

from MMSA_ext.explain import alignment


def test_kept_share_counts_the_positions_among_the_selected():
    selected = torch.tensor([[3, 4, 9], [0, 1, -1]])
    positions = torch.tensor([[4, 5], [0, 1]])
    assert alignment.kept_share(selected, positions).tolist() == [0.5, 1.0]


def test_a_random_choice_keeps_what_chance_says():
    torch.manual_seed(0)
    mask = torch.arange(12) < torch.tensor([12, 5, 2])[:, None]
    expected = alignment.kept_by_chance(mask, 3)
    torch.testing.assert_close(expected, torch.tensor([3 / 12, 3 / 5, 1.0]))
    drawn = torch.stack(
        [torch.rand(3, 12).masked_fill(~mask, -1).topk(3, dim=1).indices for _ in range(4000)]
    )
    kept = torch.stack([alignment.kept_share(rows, torch.tensor([[1]] * 3)) for rows in drawn])
    torch.testing.assert_close(kept.mean(dim=0), expected, atol=0.03, rtol=0)


def test_pairwise_distance_is_a_mean_over_the_pairs_that_exist():
    x = torch.tensor([[[2.0, 0.0], [0.0, 3.0]]])
    y = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [5.0, 5.0]]])
    y_mask = torch.tensor([[True, True, False]])
    both, first = torch.tensor([[True, True]]), torch.tensor([[True, False]])
    torch.testing.assert_close(
        alignment.pairwise_distance(x, y, both, y_mask), torch.tensor([(0 + 2 + 1 + 1) / 4])
    )
    torch.testing.assert_close(
        alignment.pairwise_distance(x, y, first, y_mask), torch.tensor([(0 + 2) / 2])
    )


class TestDiscrepancy:
    def test_equal_directions_have_none(self):
        x = torch.randn(20, 3)
        lengths = torch.rand(20, 1) + 0.5
        assert alignment.discrepancy(x, (x * lengths).flip(0)) == pytest.approx(0, abs=1e-3)

    def test_opposite_points_have_the_most(self):
        x = torch.tensor([[1.0, 0.0]])
        # 2 - 2 exp(-4)
        assert alignment.discrepancy(x, -x) == pytest.approx((2 - 2 * 0.018316) ** 0.5, abs=1e-4)

    def test_the_centre_of_a_set_is_near_it_and_yet_another_distribution(self):
        torch.manual_seed(0)
        y = torch.randn(1, 50, 4) + 1
        centre = y.mean(dim=1, keepdim=True).expand(-1, 50, -1)
        all_rows = torch.ones(1, 50, dtype=torch.bool)
        nearer = alignment.pairwise_distance(centre, y, all_rows, all_rows)
        assert nearer < alignment.pairwise_distance(y, y, all_rows, all_rows)
        assert alignment.discrepancy(centre[0], y[0]) > 0.3


def test_matched_mass_is_a_share_of_what_leaves_the_rows():
    plan = torch.tensor([[[0.1, 0.3], [0.2, 0.4]]]).expand(4, -1, -1)
    rows = torch.tensor([[True, False], [True, True], [False, False], [True, True]])
    columns = torch.tensor([[False, True], [False, True], [True, True], [False, False]])
    mass = alignment.matched_mass(plan, rows, columns)
    torch.testing.assert_close(
        mass, torch.tensor([0.75, 0.7, torch.nan, torch.nan]), equal_nan=True
    )
