"""The trainer of models whose text encoder is trained at a rate of its own."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import nn

from MMSA_ext.config import FineTuneConfig
from MMSA_ext.models.contract import MSAModel
from MMSA_ext.models.encoders import PretrainedText
from MMSA_ext.training.trainer import Trainer, parameter_groups


class FineTuneTrainer(Trainer):
    """`Trainer` that obeys `FineTuneConfig`: two rates, a schedule to choose, clipping."""

    @property
    def _settings(self) -> FineTuneConfig:
        return cast("FineTuneConfig", self.config)

    def make_optimizer(self, model: MSAModel) -> torch.optim.Optimizer:
        """AdamW with a rate of its own for `model.text_encoder.encoder`."""
        settings = self._settings
        encoder = cast("PretrainedText", model.text_encoder).encoder
        pretrained = {id(parameter) for parameter in encoder.parameters()}
        groups = [
            part
            for group in self._decay_groups(model)
            for part in _by_rate(group, pretrained, settings.encoder_learning_rate)
        ]
        return torch.optim.AdamW(groups, lr=settings.learning_rate)

    def _decay_groups(self, model: MSAModel) -> list[dict[str, Any]]:
        settings = self._settings
        if settings.decay_all:
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            return [{"params": trained, "weight_decay": settings.weight_decay}]
        return parameter_groups(model, settings.weight_decay, decay_norms=settings.decay_norms)

    def make_schedule(
        self, optimizer: torch.optim.Optimizer, steps_per_epoch: int
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Linear warm-up, then `schedule`; every group keeps its own peak."""
        settings = self._settings
        unit = steps_per_epoch if settings.schedule_unit == "step" else 1
        span = steps_per_epoch if settings.schedule_unit == "epoch" else 1
        warmup, last = settings.warmup_epochs * unit, settings.num_epochs * unit

        def factor(step: int) -> float:
            position = step // span
            if position < warmup:
                return position / warmup
            if settings.schedule == "constant":
                return 1.0
            done = (position - warmup) / max(1, last - warmup)
            if settings.schedule == "linear":
                return max(0.0, 1.0 - done)
            return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))

        return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    def prepare_gradients(self, model: MSAModel) -> None:
        """Clip the norm of all gradients together."""
        if self._settings.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), self._settings.max_grad_norm)


def _by_rate(
    group: dict[str, Any], pretrained: set[int], encoder_rate: float | None
) -> list[dict[str, Any]]:
    """Split an optimizer group into the text encoder's parameters and all others."""
    if encoder_rate is None:
        return [group]
    encoder = [parameter for parameter in group["params"] if id(parameter) in pretrained]
    others = [parameter for parameter in group["params"] if id(parameter) not in pretrained]
    return [group | {"params": others}, group | {"params": encoder, "lr": encoder_rate}]
