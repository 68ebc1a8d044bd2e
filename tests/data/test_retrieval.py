"""Retrieval against a plain loop, and its randomness."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from MMSA_ext.data.retrieval import RetrievalConfig, build_index, label_classes


def plain_candidates(features, labels, rule, k):
    """Section III-D in loops: same class by similarity, other classes from both ends."""
    features = F.normalize(features, dim=1)
    classes = labels.round() if rule == "rounded" else labels
    same, similar, dissimilar = [], [], []
    for i in range(len(features)):
        ranking = sorted(range(len(features)), key=lambda j: -float(features[i] @ features[j]))
        friends = [j for j in ranking if classes[j] == classes[i] and j != i]
        others = [j for j in ranking if classes[j] != classes[i]]
        same.append(friends[:k])
        similar.append(others[:k])
        dissimilar.append(others[::-1][:k])
    return same, similar, dissimilar


@pytest.mark.parametrize("continuous", [False, True], ids=["classes", "each of its own"])
@pytest.mark.parametrize("rule", ["exact", "rounded"])
@pytest.mark.parametrize("block", [1, 5, 256])
def test_candidates_equal_the_loop(rule, block, continuous):
    torch.manual_seed(0)
    features = torch.randn(20, 6)
    labels = torch.randn(20) if continuous else torch.randint(-6, 7, (20,)) / 2
    config = RetrievalConfig(classes=rule, candidates=4)
    index = build_index(features, labels, config, block_rows=block)
    for got, want in zip(
        (index.same, index.similar, index.dissimilar),
        plain_candidates(features, labels, rule, 4),
        strict=True,
    ):
        for row, expected in zip(got.tolist(), want, strict=True):
            assert [j for j in row if j >= 0] == expected


@pytest.mark.parametrize("block", [1, 4, 256])
def test_equally_similar_samples_are_kept_the_same_way_each_time(block):
    """Twelve samples at two places: nothing but ties."""
    features = torch.eye(2)[torch.arange(12) % 2]
    labels = (torch.arange(12) // 2 % 3).float()
    first, again = (
        build_index(features, labels, RetrievalConfig(candidates=3), block_rows=block)
        for _ in range(2)
    )
    anchors = torch.arange(12)[:, None]
    for kind in ("same", "similar", "dissimilar"):
        assert torch.equal(getattr(first, kind), getattr(again, kind))
    assert (labels[first.same] == labels[anchors]).all()
    assert (first.same != anchors).all()
    for others, alike in ((first.similar, True), (first.dissimilar, False)):
        assert (labels[others] != labels[anchors]).all()
        assert ((features[others] == features[anchors][:, 0, None]).all(-1) == alike).all()


def test_rounding_is_half_to_even():
    assert label_classes(torch.tensor([0.5, 0.0, 1.5, 2.5, 2.0]), "rounded").tolist() == [
        0, 0, 1, 1, 1,
    ]  # fmt: skip


def test_draws_come_from_the_candidates_without_repetition_and_differ():
    torch.manual_seed(0)
    labels = torch.arange(40) % 2
    index = build_index(torch.randn(40, 5), labels.float(), RetrievalConfig(candidates=10))
    anchors = torch.arange(40)
    draws = [index.draw(anchors) for _ in range(20)]
    for draw in draws:
        assert draw.positive_mask.all()
        assert draw.negative_mask.all()
        assert (labels[draw.positives] == labels[:, None]).all()
        assert (labels[draw.negatives] != labels[:, None]).all()
        assert (draw.positives != anchors[:, None]).all()
        assert (draw.positives[:, 0] != draw.positives[:, 1]).all()
        assert (draw.negatives[:, 0] != draw.negatives[:, 1]).all()
        for row in range(40):
            assert set(draw.negatives[row, :2].tolist()) <= set(index.similar[row].tolist())
            assert set(draw.negatives[row, 2:].tolist()) <= set(index.dissimilar[row].tolist())
    assert any(not torch.equal(draws[0].positives, draw.positives) for draw in draws[1:])
    seen = {int(p) for draw in draws for p in draw.positives[0]}
    assert len(seen) == 10


def test_draw_follows_the_seed():
    index = build_index(torch.randn(20, 4), torch.arange(20.0) % 3, RetrievalConfig())
    torch.manual_seed(7)
    first = index.draw(torch.arange(20))
    torch.manual_seed(7)
    again = index.draw(torch.arange(20))
    assert torch.equal(first.positives, again.positives)
    assert torch.equal(first.negatives, again.negatives)


def test_too_few_candidates_are_masked():
    labels = torch.tensor([0.0, 0.0, 1.0])
    draw = build_index(torch.randn(3, 4), labels, RetrievalConfig()).draw(torch.arange(3))
    assert draw.positive_mask.tolist() == [[True, False], [True, False], [False, False]]
    assert draw.positives[0, 0] == 1
    assert draw.negative_mask[2].tolist() == [True, True, True, True]
    assert draw.negative_mask[0].tolist() == [True, False, True, False]


def test_one_sample_alone_has_nothing():
    draw = build_index(torch.randn(1, 4), torch.zeros(1), RetrievalConfig()).draw(torch.arange(1))
    assert draw.positives.shape == (1, 2)
    assert draw.negatives.shape == (1, 4)
    assert not draw.positive_mask.any()
    assert not draw.negative_mask.any()


def released_positions(features, labels, config):
    """The released loops: they append the rank position j, and skip j == i.

    The second counts from the end, -1, -2, ..., which is never i: it skips nothing.
    """
    features = F.normalize(features, dim=1)
    n = len(features)
    rank = (features @ features.T).argsort(dim=1, descending=True)
    k = config.candidates
    same, similar, dissimilar = [], [], []
    for i in range(n):
        ss, sd, dd = [], [], []
        for j in range(n):
            if j == i or j >= n * config.similar_window:
                continue
            (ss if labels[rank[i, j]] == labels[i] else sd).append(j)
        for j in range(-1, -int(n * config.dissimilar_window) - 1, -1):
            if i == j:
                continue
            if labels[rank[i, j]] != labels[i]:
                dd.append(n + j)  # what a list's item -1, -2, ... is
        same.append(ss[:k])
        similar.append(sd[:k])
        dissimilar.append(dd[:k])
    return same, similar, dissimilar


def test_rank_position_repeats_the_released_loop():
    torch.manual_seed(1)
    features, labels = torch.randn(30, 5), (torch.arange(30) % 4).float()
    config = RetrievalConfig(
        candidates=5, mode="rank_position", similar_window=0.625, dissimilar_window=0.5
    )
    index = build_index(features, labels, config, block_rows=3)
    for got, want in zip(
        (index.same, index.similar, index.dissimilar),
        released_positions(features, labels, config),
        strict=True,
    ):
        for row, expected in zip(got.tolist(), want, strict=True):
            assert [j for j in row if j >= 0] == expected


def test_rank_position_is_blind_to_labels_and_correct_is_not():
    torch.manual_seed(2)
    labels = torch.randint(0, 11, (400,)).float()
    features = torch.randn(400, 8)
    shares = {}
    for mode in ("correct", "rank_position"):
        draw = build_index(features, labels, RetrievalConfig(mode=mode)).draw(torch.arange(400))
        shares[mode] = (labels[draw.positives] == labels[:, None]).float().mean().item()
    assert shares["correct"] == 1.0
    assert shares["rank_position"] < 0.2


@pytest.mark.slow
def test_mosei_size_takes_seconds_and_well_under_a_gigabyte():
    script = Path(__file__).parents[2] / "benchmarks" / "retrieval.py"
    done = subprocess.run(
        [sys.executable, str(script), "--samples", "16326", "--repeats", "1"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = csv.DictReader(line for line in done.stdout.splitlines() if line[0] != "#")
    for row, labels in zip(rows, ("classes", "continuous"), strict=True):
        assert row["labels"] == labels
        assert float(row["seconds"]) < 60
        assert float(row["extra_peak_mb"]) < 600
