"""What a training step works on: anchors, retrieved samples, and where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from MMSA_ext.data.feature_set import FeatureSplit
from MMSA_ext.data.retrieval import ContrastSets, RetrievalConfig, RetrievalIndex, build_index
from MMSA_ext.models.contract import Inputs, MSAModel, StepBatch
from MMSA_ext.training.transfer import prefetched


class StepSampler:
    """Assembles training steps: anchors and, where the model asks, retrieved samples.

    Between refreshes the device holds nothing of the whole split but the bank, if the model asks
    for one: N vectors of each of its features. The index is on the host.
    """

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
        cut = (partial(self.split.batch, rows) for rows in torch.split(order, batch_size))
        parts = [model.contrast_features(Inputs.of(batch)) for batch in prefetched(cut, device)]
        back = torch.argsort(order).to(device)
        features = {name: torch.cat([part[name] for part in parts])[back] for name in parts[0]}
        ranked = torch.cat([features[name] for name in model.ranked_by], dim=-1)
        labels = torch.from_numpy(self.split.labels["M"])
        self.index = build_index(ranked, labels, self.retrieval)
        self.bank = features if model.feature_bank else None

    def steps(self, batches: Iterable[Tensor], device: torch.device) -> Iterator[StepBatch]:
        """The steps of anchors `(B,)` each, in order; see `transfer.prefetched`."""
        for step in prefetched(map(self._drawn, batches), device):
            yield step if self.bank is None else replace(step, bank=self.bank)

    def step(self, anchors: Tensor, device: torch.device) -> StepBatch:
        """The step for anchors `(B,)`; each distinct sample is in it once."""
        return next(self.steps([anchors], device))

    def _drawn(self, anchors: Tensor) -> Callable[[], StepBatch]:
        """What assembles the step of anchors, whose retrieved samples are drawn."""
        drawn = None if self.index is None else self.index.draw(anchors)
        return partial(self._assembled, anchors, drawn)

    def _assembled(self, anchors: Tensor, drawn: ContrastSets | None) -> StepBatch:
        if drawn is None or self.bank is not None:
            return StepBatch(self.split.batch(anchors), torch.arange(len(anchors)), drawn)
        wanted = torch.cat([anchors[:, None], drawn.positives, drawn.negatives], dim=1)
        distinct, rows = torch.unique(wanted, return_inverse=True)
        first_negative = 1 + drawn.positives.shape[1]
        contrast = replace(
            drawn, positives=rows[:, 1:first_negative], negatives=rows[:, first_negative:]
        )
        return StepBatch(self.split.batch(distinct), rows[:, 0], contrast)


def evaluation_order(model: MSAModel, split: FeatureSplit) -> Tensor:
    """Samples of similar length together, which saves padding, where that changes nothing."""
    if model.reads_padding:
        return torch.arange(len(split))
    return torch.from_numpy(split.by_length())
