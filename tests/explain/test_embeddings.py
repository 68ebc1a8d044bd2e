"""Representations of the modalities, in two dimensions and measured."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from MMSA_ext.errors import CheckpointError, FeatureFileError
from MMSA_ext.explain.embeddings import (
    Representations,
    centroid_distance,
    discrepancy,
    distances,
    pairwise_distance,
    project,
    representations,
)
from MMSA_ext.names import MODALITIES


def test_infoenh_before_and_after(explained):
    trained = explained("self_mm_infoenh")
    found = representations(trained)
    assert list(found.stages) == ["pooled", "filtered", "aligned", "aligned, uniform plan"]
    assert found.drawn == ("pooled", "aligned")
    for stage, width in (("pooled", 8), ("filtered", 8), ("aligned", 24)):
        vectors = found.vectors(stage)
        assert {m: tuple(x.shape) for m, x in vectors.items()} == dict.fromkeys(
            MODALITIES, (8, width)
        )
    own = found.stages["aligned"]["audio"][..., :8]
    torch.testing.assert_close(own, found.stages["filtered"]["audio"])


def test_the_control_has_the_means_of_the_alignment_whatever_the_plan(explained):
    """Why means prove nothing about the transport."""
    found = representations(explained("self_mm_infoenh"))
    aligned, control = (found.vectors(f"aligned{plan}") for plan in ("", ", uniform plan"))
    for name in MODALITIES:
        torch.testing.assert_close(aligned[name], control[name], atol=1e-3, rtol=1e-3)


def test_a_plan_without_information_needs_no_control(explained, monkeypatch):
    trained = explained("self_mm_infoenh")
    uniform = trained.core.infoenh.config.model_copy(update={"plan": "uniform"})
    monkeypatch.setattr(trained.core.infoenh, "config", uniform)
    assert list(representations(trained).stages) == ["pooled", "filtered", "aligned"]


def test_dashfusion_has_the_aligned_sequence_too(explained):
    found = representations(explained("dashfusion"))
    assert list(found.vectors("encoded")) == ["text", "audio", "vision", "multimodal"]
    outputs = explained("dashfusion")
    with torch.no_grad():
        given = torch.cat([outputs.network(*call.inputs)["Feature_a"] for call in outputs.calls])
    torch.testing.assert_close(found.vectors("encoded")["audio"], given)


def test_modalities_without_a_common_space_are_refused(explained):
    with pytest.raises(CheckpointError, match=r"self_mm has no representations.*text 32, audio 16"):
        representations(explained("self_mm"))
    with pytest.raises(CheckpointError, match="none at all"):
        representations(explained("misa"))


def test_too_few_samples_are_refused(explained):
    trained = explained("dashfusion")
    few = replace(trained, samples=trained.samples.iloc[:3])
    with pytest.raises(FeatureFileError, match="3 samples are too few"):
        representations(few)


def test_the_projection_is_bounded_recorded_and_repeats(explained):
    trained = explained("self_mm_infoenh")
    found = representations(trained)
    first, again = (project(found, trained.samples, perplexity=30, seed=3) for _ in range(2))
    assert len(first) == 2 * 3 * 8
    assert set(first["perplexity"]) == {(24 - 1) / 3}
    assert set(first["seed"]) == {3}
    np.testing.assert_array_equal(first[["x", "y"]], again[["x", "y"]])
    assert first["id"].tolist() == trained.samples["id"].tolist() * 6


def test_distances_tell_together_from_apart():
    torch.manual_seed(0)
    around = torch.randn(20, 1, 6)
    apart = around + 5 * torch.tensor([1.0, 0, 0, 0, 0, 0])
    mask = torch.ones(20, 1, dtype=torch.bool)
    stages = {
        "before": {"text": apart, "audio": -apart},
        "after": {"text": around, "audio": around.clone()},
    }
    masks = {stage: {"text": mask, "audio": mask} for stage in stages}
    table = distances(Representations(stages, masks, ())).set_index("stage")
    for name in ("cosine", "centroid", "discrepancy"):
        assert table.loc["after", name] == pytest.approx(0, abs=1e-3)
        assert table.loc["before", name] > 1


def test_centroid_distance_is_in_units_of_the_spread():
    x = torch.tensor([[1.0, 0.1], [1.0, -0.1]])
    y = torch.tensor([[0.1, 1.0], [-0.1, 1.0]])
    ux = x / x.norm(dim=1, keepdim=True)
    spread = (ux - ux.mean(0)).square().sum(1).mean().sqrt()
    apart = ux.mean(0)[0] * 2**0.5
    assert centroid_distance(x, y) == pytest.approx(float(apart / spread), rel=1e-5)
    assert centroid_distance(x, x) == 0


def test_pairwise_distance_is_a_mean_over_the_pairs_that_exist():
    x = torch.tensor([[[2.0, 0.0], [0.0, 3.0]]])
    y = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [5.0, 5.0]]])
    y_mask = torch.tensor([[True, True, False]])
    both, first = torch.tensor([[True, True]]), torch.tensor([[True, False]])
    torch.testing.assert_close(
        pairwise_distance(x, y, both, y_mask), torch.tensor([(0 + 2 + 1 + 1) / 4])
    )
    torch.testing.assert_close(pairwise_distance(x, y, first, y_mask), torch.tensor([(0 + 2) / 2]))


class TestDiscrepancy:
    def test_equal_directions_have_none(self):
        x = torch.randn(20, 3)
        lengths = torch.rand(20, 1) + 0.5
        assert discrepancy(x, (x * lengths).flip(0)) == pytest.approx(0, abs=1e-3)

    def test_opposite_points_have_the_most(self):
        x = torch.tensor([[1.0, 0.0]])
        # 2 - 2 exp(-4)
        assert discrepancy(x, -x) == pytest.approx((2 - 2 * 0.018316) ** 0.5, abs=1e-4)

    def test_the_centre_of_a_set_is_near_it_and_yet_another_distribution(self):
        torch.manual_seed(0)
        y = torch.randn(1, 50, 4) + 1
        centre = y.mean(dim=1, keepdim=True).expand(-1, 50, -1)
        all_rows = torch.ones(1, 50, dtype=torch.bool)
        nearer = pairwise_distance(centre, y, all_rows, all_rows)
        assert nearer < pairwise_distance(y, y, all_rows, all_rows)
        assert discrepancy(centre[0], y[0]) > 0.3
