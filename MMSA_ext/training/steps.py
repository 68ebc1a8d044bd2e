"""What a training step works on: anchors, retrieved samples, and where they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from MMSA_ext.data.feature_set import Batch, FeatureSplit
from MMSA_ext.data.retrieval import RetrievalConfig, RetrievalIndex, build_index
from MMSA_ext.models.contract import Inputs, MSAModel, StepBatch


class StepSampler:
    """Assembles training steps: anchors and, where the model asks, retrieved samples."""

    def __init__(self, split: FeatureSplit, retrieval: RetrievalConfig | None) -> None:
        self.split = split
        self.retrieval = retrieval
        self.index: RetrievalIndex | None = None
        self.bank: dict[str, Tensor] | None = None

    def is_stale(self, epoch: int) -> bool:
        """Whether the similarity is refreshed before this epoch: 1, 1 + refresh_epochs, ..."""
        return self.retrieval is not None and (epoch - 1) % self.retrieval.refresh_epochs == 0

    @torch.no_grad()
    def refresh(self, model: MSAModel, device: torch.device, batch_size: int) -> None:
        """Rank the training samples anew by the model's features, in evaluation mode."""
        if self.retrieval is None:
            return
        model.eval()
        order = evaluation_order(model, self.split)
        parts = [
            model.contrast_features(Inputs.of(to_device(self.split.batch(indices), device)))
            for indices in torch.split(order, batch_size)
        ]
        back = torch.argsort(order).to(device)
        features = {name: torch.cat([part[name] for part in parts])[back] for name in parts[0]}
        ranked = torch.cat([features[name] for name in model.ranked_by], dim=-1)
        labels = torch.from_numpy(self.split.labels["M"])
        self.index = build_index(ranked, labels, self.retrieval)
        self.bank = features if model.feature_bank else None

    def step(self, anchors: Tensor, device: torch.device) -> StepBatch:
        """The step for anchors `(B,)`; each distinct sample is in it once."""
        drawn = None if self.index is None else self.index.draw(anchors)
        if drawn is None or self.bank is not None:
            samples = to_device(self.split.batch(anchors), device)
            rows = torch.arange(len(anchors), device=device)
            contrast = None if drawn is None else drawn.to(device)
            return StepBatch(samples, rows, contrast, self.bank)
        wanted = torch.cat([anchors[:, None], drawn.positives, drawn.negatives], dim=1)
        distinct, rows = torch.unique(wanted, return_inverse=True)
        rows = rows.to(device)
        first_negative = 1 + drawn.positives.shape[1]
        contrast = replace(
            drawn.to(device),
            positives=rows[:, 1:first_negative],
            negatives=rows[:, first_negative:],
        )
        return StepBatch(to_device(self.split.batch(distinct), device), rows[:, 0], contrast)


def evaluation_order(model: MSAModel, split: FeatureSplit) -> Tensor:
    """Samples of similar length together, which saves padding, where that changes nothing."""
    if model.reads_padding:
        return torch.arange(len(split))
    return torch.from_numpy(split.by_length())


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch's tensors, labels included."""

    def move(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device, non_blocking=True)
        if isinstance(value, dict):
            return {key: move(item) for key, item in value.items()}
        return value

    return {key: move(value) for key, value in batch.items()}
