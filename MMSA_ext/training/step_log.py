"""What the steps of an epoch gave, fetched from the device in few copies.

Whoever reads a number of the device waits until all that was asked of it is computed. So losses and
predictions stay there, and come over together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from MMSA_ext.errors import TrainingDivergedError

# Steps whose losses come over in one copy. On the CPU nobody waits, and every step is seen at once.
STEPS_A_COPY = 10


class StepLog:
    """Losses, diagnostics and predictions of an epoch's steps.

    Args:
        epoch: The epoch, for messages.
        device: Where they are computed.
        tell: Called once for each step, in order, when its loss has come over: the number of the
            step, from 1, and the loss.
    """

    def __init__(
        self, epoch: int, device: torch.device, tell: Callable[[int, float], None]
    ) -> None:
        self._epoch, self._tell = epoch, tell
        self._every = 1 if device.type == "cpu" else STEPS_A_COPY
        self._waiting: list[tuple[int, dict[str, Tensor]]] = []
        self._predictions: list[Tensor] = []
        self._sums: dict[str, float] = {}
        self._seen = self._samples = 0

    def add(self, values: Mapping[str, Tensor], prediction: Tensor, samples: int) -> None:
        """Note a step.

        Args:
            values: Scalars by name; `Loss` is the one that has to be finite.
            prediction: `(B, 1)`.
            samples: B, by which the values are weighted in their means.

        Raises:
            TrainingDivergedError: A loss that came over is not finite: of this step, or of one of
                the last `STEPS_A_COPY`.
        """
        self._waiting.append((samples, {name: value.detach() for name, value in values.items()}))
        self._predictions.append(prediction.detach().reshape(-1))
        if len(self._waiting) >= self._every:
            self._fetch()

    def finish(self) -> tuple[dict[str, float], Tensor]:
        """The means over all samples, and their predictions `(N,)` on the host.

        Raises:
            TrainingDivergedError: As `add`.
        """
        self._fetch()
        means = {name: total / self._samples for name, total in self._sums.items()}
        return means, torch.cat(self._predictions).float().cpu()

    def _fetch(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        flat = [value.reshape(()) for _, values in waiting for value in values.values()]
        numbers = iter(torch.stack(flat).tolist())  # the one wait
        for samples, values in waiting:
            self._seen += 1
            self._samples += samples
            found = {name: next(numbers) for name in values}
            if not math.isfinite(found["Loss"]):
                raise TrainingDivergedError(
                    f"the training loss is {found['Loss']} in epoch {self._epoch}, step "
                    f"{self._seen}; lower learning_rate or check the features with `mmsa-ext "
                    "check-data`."
                )
            for name, value in found.items():
                self._sums[name] = self._sums.get(name, 0.0) + value * samples
            self._tell(self._seen, found["Loss"])
