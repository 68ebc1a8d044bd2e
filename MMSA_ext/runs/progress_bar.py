"""The progress bar of this package's models, a callback like any other."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from MMSA_ext.training.callbacks import Callback, RunEnd, RunStart, StepProgress

logger = logging.getLogger("MMSA")


class ProgressBar(Callback):
    """A bar over the steps of the current epoch; log lines are written above it.

    Into a file or a pipe there is none, nor for what tells of no steps.
    """

    def __init__(self) -> None:
        self._open = ExitStack()
        self._bar: tqdm[Any] | None = None

    def on_start(self, start: RunStart) -> None:
        """Note what the bar is of."""
        self._name = f"{start.model} {start.dataset} seed {start.seed}"

    def on_step(self, step: StepProgress) -> None:
        """Move the bar on; the first step opens it."""
        if self._bar is None:
            self._open.enter_context(logging_redirect_tqdm(loggers=[logger]))
            self._bar = self._open.enter_context(tqdm(unit="step", leave=False, disable=None))
        if step.step == 1:
            self._bar.reset(total=step.steps)
        best = "" if step.best is None else f", best {step.best:.4f}"
        stage = f"{step.stage}, " if step.stage else ""
        self._bar.set_description(
            f"{self._name} {stage}epoch {step.epoch}/{step.epochs}{best}", refresh=False
        )
        self._bar.set_postfix(loss=f"{step.loss:.4f}", refresh=False)
        self._bar.update()

    def on_end(self, end: RunEnd) -> None:
        """Take the bar away."""
        self._open.close()
        self._bar = None
