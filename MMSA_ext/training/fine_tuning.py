"""The trainer of models that are trained otherwise than by linear decay."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal, cast

import torch

from MMSA_ext.config.schema import FineTuneConfig
from MMSA_ext.models.contract import MSAModel
from MMSA_ext.training.trainer import Trainer, undivided

Schedule = Literal["linear", "constant", "cosine"]


class FineTuneTrainer(Trainer):
    """`Trainer` that obeys `FineTuneConfig`: schedule, optimizer, decay of all."""

    @property
    def _settings(self) -> FineTuneConfig:
        return cast("FineTuneConfig", self.config)

    def make_optimizer(self, model: MSAModel) -> torch.optim.Optimizer:
        """AdamW or Adam of the parameters that ask for a gradient."""
        kind = torch.optim.AdamW if self._settings.optimizer == "adamw" else torch.optim.Adam
        return kind(self.optimizer_groups(model), eps=self._settings.adam_epsilon, fused=True)

    def decay_groups(self, model: MSAModel) -> list[dict[str, Any]]:
        """Optimizer groups by weight decay: one, if all decay."""
        if not self._settings.decay_all:
            return super().decay_groups(model)
        return [undivided(model, self._settings.weight_decay)]

    def make_schedule(
        self, optimizer: torch.optim.Optimizer, steps_per_epoch: int
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """`rate_factor` of the configured schedule; every group keeps its own peak."""
        settings = self._settings
        by_step = settings.schedule_unit == "step"
        units_per_epoch, steps_per_unit = (steps_per_epoch, 1) if by_step else (1, steps_per_epoch)
        factor = partial(
            rate_factor,
            settings.schedule,
            warmup=self.warm_up(settings.num_epochs * units_per_epoch),
            last=settings.num_epochs * units_per_epoch,
        )
        return torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: factor(step // steps_per_unit)
        )


def rate_factor(schedule: Schedule, done: int, *, warmup: int, last: int) -> float:
    """Learning rate as a share of its peak.

    Warm-up is linear from 0, so nothing is learned in the first unit if there is a warm-up. Then:
    `linear` falls to 0 at `last`; `constant` stays at the peak; `cosine` stays at the peak for one
    unit more, then follows half a cosine that is `last - warmup` long: the rates of ALMT's released
    schedule.

    Args:
        schedule: What follows warm-up.
        done: Finished units (optimisation steps or epochs).
        warmup: Units of warm-up, fewer than `last`.
        last: Units of the whole training.

    Returns:
        A number from 0 to 1.
    """
    if done < warmup:
        return done / warmup
    if schedule == "constant":
        return 1.0
    decay = last - warmup
    if schedule == "linear":
        return max(0.0, 1.0 - (done - warmup) / decay)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, max(0, done - warmup - 1) / decay)))
