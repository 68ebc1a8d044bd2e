"""Labels of single modalities, generated from the multimodal ones while a model trains.

Yu et al., "Learning Modality-Specific Representations with Self-Supervised Multi-Task Learning for
Multimodal Sentiment Analysis", AAAI 2021 (Self-MM). A sample whose vector of a modality is, among
those of all samples, more positive than its multimodal vector gets a more positive label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_EPSILON = 1e-8
_MULTIMODAL = "M"


class UnimodalLabels:
    """Labels and vectors of all training samples; the state of one training.

    Args:
        labels: `(N,)`, the multimodal labels, of which all others start as copies.
        names: Names of the unimodal labels.
        limit: Generated labels are cut at plus and minus this.
    """

    def __init__(self, labels: Tensor, names: Sequence[str], limit: float) -> None:
        self.names, self.limit = tuple(names), limit
        self.labels = {name: labels.float().clone() for name in (*self.names, _MULTIMODAL)}
        self._vectors: dict[str, Tensor] = {}
        self._centres: dict[str, tuple[Tensor, Tensor]] = {}

    def state(self) -> dict[str, Tensor]:
        """All labels and vectors, from which the rest follows."""
        held = {"labels": self.labels, "vectors": self._vectors}
        return {f"{kind}.{name}": x for kind, values in held.items() for name, x in values.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave."""
        for key, value in state.items():
            kind, _, name = key.partition(".")
            held = self.labels if kind == "labels" else self._vectors
            held[name] = value.to(self.labels[_MULTIMODAL].device)
        self._centres = {name: self._both_centres(name) for name in self._vectors}

    def of(self, name: str, index: Tensor) -> Tensor:
        """Labels `(B, 1)` of the samples `index` `(B,)`."""
        return self.labels[name][index].unsqueeze(1)

    def update(self, epoch: int, index: Tensor, vectors: Mapping[str, Tensor]) -> None:
        """Move the labels of a batch, from epoch 2 on; then keep its vectors.

        Where no sample is positive, or none negative, labels stay.

        Args:
            epoch: Current epoch n, from 1: a new label counts 2 / (n + 1), the old one the rest.
            index: `(B,)` int64.
            vectors: Of the names and `M`, each `(B, width)` without gradient.
        """
        if epoch > 1:
            target = self.labels[_MULTIMODAL][index]
            fused = self._polarity(_MULTIMODAL, vectors)
            for name in self.names:
                own, old = self._polarity(name, vectors), self.labels[name][index]
                ratio = own / (fused + _EPSILON)
                new = 0.5 * ratio * target + 0.5 * (target + own - fused)
                new = new.clamp(-self.limit, self.limit)
                new = (epoch - 1) / (epoch + 1) * old + 2 / (epoch + 1) * new
                self.labels[name][index] = torch.where(new.isfinite(), new, old)
        for name, values in vectors.items():
            if name not in self._vectors:
                self._vectors[name] = values.new_zeros(len(self.labels[name]), values.shape[1])
            self._vectors[name][index] = values
            self._centres[name] = self._both_centres(name)

    def _both_centres(self, name: str) -> tuple[Tensor, Tensor]:
        return self._centre(name, 1), self._centre(name, -1)

    def _centre(self, name: str, sign: int) -> Tensor:
        """Mean vector `(width,)` of the samples whose label has the sign; NaN if there is none."""
        chosen = (self.labels[name] * sign > 0).to(self._vectors[name].dtype)
        return chosen @ self._vectors[name] / chosen.sum()

    def _polarity(self, name: str, vectors: Mapping[str, Tensor]) -> Tensor:
        """How much nearer to the positive centre than to the negative one, `(B,)`."""
        positive, negative = (
            (vectors[name] - centre).square().sum(dim=-1).sqrt() for centre in self._centres[name]
        )
        return (negative - positive) / (positive + _EPSILON)
