"""From losses to updates of the weights: one for every few batches, in any precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor


class Updates:
    """Adds up gradients, and lets optimizer and schedule make a step of them.

    Args:
        optimizer: Changes the weights.
        schedule: Changes its rate, after each update.
        scaler: Keeps gradients in the range of float16, where it is enabled.
        prepare: Called when the gradients of an update are complete, before they are read.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        scaler: torch.amp.GradScaler,
        prepare: Callable[[], None],
    ) -> None:
        self.optimizer, self.schedule, self.scaler = optimizer, schedule, scaler
        self._prepare = prepare
        optimizer.zero_grad(set_to_none=True)

    def add(self, loss: Tensor, share: float, *, ends: bool) -> None:
        """Add the gradient of a batch.

        Args:
            loss: The mean over its samples.
            share: Its samples, as a share of those of the update.
            ends: Whether it is the last batch of its update, which is then made.
        """
        self.scaler.scale(loss if share == 1 else loss * share).backward()  # type: ignore[no-untyped-call]
        if not ends:
            return
        self.scaler.unscale_(self.optimizer)
        self._prepare()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # Now, and not before the next backward pass, where they would stand beside activations.
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()


def shares(sizes: Sequence[int], batches: int) -> Iterator[tuple[float, bool]]:
    """Of each batch, its share of the samples of its update, and whether it is the last there.

    Args:
        sizes: Samples of the batches of an epoch.
        batches: Batches of an update; the last update has what is left.
    """
    for first in range(0, len(sizes), batches):
        group = sizes[first : first + batches]
        for number, size in enumerate(group, start=1):
            yield size / sum(group), number == len(group)
