"""Generated unimodal labels against plain loops, and against those of MMSA's Self-MM."""

import pytest
import torch
from easydict import EasyDict

from MMSA_ext import mmsa_bridge
from MMSA_ext.models.parts.unimodal_labels import UnimodalLabels

NAMES = ("T", "A", "V")
WIDTHS = {"T": 3, "A": 2, "V": 4, "M": 5}
LABELS = torch.tensor([2.0, -1.0, 0.0, 0.6, -2.4, 1.2, -0.2, 3.0])


def batches(epochs=4):
    """Epoch, indices and vectors of every step; each epoch sees every sample once."""
    generator = torch.Generator().manual_seed(0)
    for epoch in range(1, epochs + 1):
        for index in torch.randperm(8, generator=generator).split(3):
            yield (
                epoch,
                index,
                {
                    name: torch.randn(len(index), width, generator=generator)
                    for name, width in WIDTHS.items()
                },
            )


def plain(limit):
    """The rule sample by sample, in Python's own arithmetic where it can be."""
    labels = {name: LABELS.tolist() for name in WIDTHS}
    kept = {name: [[0.0] * width for _ in LABELS] for name, width in WIDTHS.items()}
    centres = {}

    def polarity(name, vector):
        to_positive, to_negative = (
            sum((x - c) ** 2 for x, c in zip(vector.tolist(), centres[name, sign], strict=True))
            ** 0.5
            for sign in (1, -1)
        )
        return (to_negative - to_positive) / (to_positive + 1e-8)

    for n, index, vectors in batches():
        for row, sample in enumerate(index.tolist()):
            if n == 1:
                break
            y, fused = labels["M"][sample], polarity("M", vectors["M"][row])
            for name in NAMES:
                own = polarity(name, vectors[name][row])
                new = 0.5 * own / (fused + 1e-8) * y + 0.5 * (y + own - fused)
                new = min(max(new, -limit), limit)
                old = labels[name][sample]
                labels[name][sample] = (n - 1) / (n + 1) * old + 2 / (n + 1) * new
        for name in WIDTHS:
            for row, sample in enumerate(index.tolist()):
                kept[name][sample] = vectors[name][row].tolist()
            for sign in (1, -1):
                rows = [
                    v for v, y in zip(kept[name], labels[name], strict=True) if y * sign > 0
                ]  # a label of zero belongs to neither centre
                centres[name, sign] = [sum(c) / len(rows) for c in zip(*rows, strict=True)]
    return labels


@pytest.mark.parametrize("limit", [1.0, 3.0])
def test_labels_move_as_the_rule_says(limit):
    found = UnimodalLabels(LABELS, NAMES, limit)
    for step in batches():
        found.update(*step)
    want = plain(limit)
    torch.testing.assert_close(found.labels["M"], LABELS)
    for name in NAMES:
        torch.testing.assert_close(
            found.of(name, torch.arange(8)).squeeze(1),
            torch.tensor(want[name]),
            rtol=1e-4,
            atol=1e-4,
        )
        assert not torch.allclose(found.labels[name], LABELS, atol=0.1)
        assert found.labels[name].abs().max() <= LABELS.abs().max().clamp(min=limit)


def test_labels_equal_those_of_mmsas_self_mm():
    args = EasyDict(
        device="cpu", train_mode="regression", train_samples=8, dataset_name="mosi", H=3.0,
        excludeZero=True, post_fusion_dim=5, post_text_dim=3, post_audio_dim=2, post_video_dim=4,
    )  # fmt: skip
    theirs = mmsa_bridge.trainer_class("self_mm")(args)
    theirs.init_labels(torch.arange(8), LABELS)
    ours = UnimodalLabels(LABELS, NAMES, 3.0)
    for epoch, index, vectors in batches():
        parts = [vectors[name] for name in "MTAV"]
        if epoch > 1:
            theirs.update_labels(*parts, epoch, index, None)
        theirs.update_features(*parts, index)
        theirs.update_centers()
        ours.update(epoch, index, vectors)
    for name, their_name in (("T", "text"), ("A", "audio"), ("V", "vision"), ("M", "fusion")):
        torch.testing.assert_close(ours.labels[name], theirs.label_map[their_name])


def test_labels_are_copies_until_epoch_two():
    found = UnimodalLabels(LABELS, NAMES, 3.0)
    for epoch, index, vectors in batches(epochs=1):
        found.update(epoch, index, vectors)
    for name in NAMES:
        torch.testing.assert_close(found.labels[name], LABELS)


@pytest.mark.parametrize("labels", [LABELS.abs(), -LABELS.abs(), torch.zeros(8)], ids=str)
def test_labels_of_one_polarity_stay(labels):
    found = UnimodalLabels(labels, NAMES, 3.0)
    for step in batches():
        found.update(*step)
    for name in NAMES:
        torch.testing.assert_close(found.labels[name], labels)
