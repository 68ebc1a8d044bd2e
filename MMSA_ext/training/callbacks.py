"""Callbacks: code of yours that is told how a run goes on while it is computed.

A callback watches and decides no number: it is no part of a run's name, and a record is the same
with and without it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from MMSA_ext.errors import ConfigError

__all__ = ["Callback", "EpochProgress", "RunEnd", "RunStart", "StepProgress"]

logger = logging.getLogger("MMSA")


@dataclass(frozen=True)
class StepProgress:
    """Where training stands after a step, which is one batch.

    Attributes:
        epoch: Current epoch, from 1.
        epochs: Cap on epochs.
        step: Finished steps of this epoch.
        steps: Steps of an epoch.
        loss: Training loss of the last step.
        best: Best validation `KeyEval` so far; None in the first epoch.
        stage: What is trained, where training has several stages; None if it has one, and in the
            last one.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    best: float | None
    stage: str | None = None


@dataclass(frozen=True)
class EpochProgress:
    """A finished epoch, as the history in the run's record has it.

    Attributes:
        epoch: Number of the epoch; 0 is the untrained model, validation only, where it is scored.
        train: Losses and metrics on the training split.
        valid: MMSA's metrics and `Loss` on the validation split.
        learning_rate: Rate at the end of the epoch, of the first parameter group; None if unknown.
        seconds: Wall time of the epoch; None for epoch 0.
        stage: As in `StepProgress`; epochs of an earlier stage are not in the record.
    """

    epoch: int
    valid: Mapping[str, float]
    train: Mapping[str, float] = field(default_factory=dict)
    learning_rate: float | None = None
    seconds: float | None = None
    stage: str | None = None

    @classmethod
    def of(cls, entry: Mapping[str, Any], stage: str | None = None) -> EpochProgress:
        """An entry of the history, copied: what a callback does to it changes no record."""
        return cls(**deepcopy(dict(entry)), stage=stage)


@dataclass(frozen=True)
class RunStart:
    """A run of one seed that is about to be computed.

    Attributes:
        model: Name of the model.
        dataset: Name of the data set.
        seed: The seed.
        run_id: The run's name in files and tables: 16 hex digits; of a trial of a search they end
            with `-trial`. A run that was stopped and goes on has the same.
        configuration: The configuration that is part of its name, as plain JSON.
        epochs: What is known of it already, if it was stopped and goes on: `on_epoch` is not told
            of these again. Empty for a new run.
    """

    model: str
    dataset: str
    seed: int
    run_id: str
    configuration: Mapping[str, Any]
    epochs: tuple[EpochProgress, ...] = ()


@dataclass(frozen=True)
class RunEnd:
    """How the run of one seed ended.

    Attributes:
        start: What `on_start` was told.
        status: A callback, an error or a signal ended a `stopped` run.
        reason: Why it diverged or was stopped, as a sentence.
        metrics: By split, MMSA's metrics of the chosen epoch before its x100; None where one is
            undefined. Empty unless finished; of a trial the split that it is judged by.
        chosen_epoch: Epoch whose weights were tested; None unless finished.
        record: The record's file; None if stopped, and of a trial of a search.
    """

    start: RunStart
    status: Literal["finished", "diverged", "stopped"]
    reason: str | None = None
    metrics: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    chosen_epoch: int | None = None
    record: Path | None = None


class Callback:
    """Is told how runs go on; override what you want to know of. Every method does nothing here.

    `MMSA_run(..., callbacks=[Mine()])` tells it of each seed in turn: `on_start`, then `on_step`
    and `on_epoch` as training goes on, then `on_end`. Several are told in the given order.

    *What is told of.* Seeds that are computed: one that is looked up in the store is not mentioned.
    In a search each trial is a run of its own, without a record. Weights that are there and only
    tested, on corrupted data, have a start and an end. Where encoders are trained alone first
    (ConFEDE), `stage` of steps and epochs says which; it is None in the training that follows.

    *On a GPU* steps are told of ten at a time and at an epoch's end, each with its own loss: to
    ask for the loss of every step would let the host wait for the device each time.

    *MMSA's own models*, and InfoEnh in them, train in MMSA's own trainers. These tell of epochs, as
    each is over, but of no step, no epoch 0, no losses of training (only metrics), no learning
    rate; and they do not go on where they were stopped, so that `RunStart.epochs` is empty.

    *Raising.* Whatever `on_start`, `on_step` or `on_epoch` raises ends the run and comes out of
    `MMSA_run` as it is: a mistake is seen at once, and raising is how a callback stops training,
    such as `optuna.TrialPruned` from `on_epoch`. No record is made, as the run is not what its name
    says; `on_end` of every callback that was started says `stopped`. The state of this package's
    models is on disk before `on_epoch` is told, so that the same call goes on after that epoch (or,
    where keeping states takes too long, after an earlier one, see `training.state`). What `on_end`
    raises comes after the record is stored and all callbacks are told, so the next call looks the
    run up; of a run that was stopped, it is logged and the first reason stands.

    *Processes.* With `--jobs` (`jobs=`) of an experiment or a search each process has a copy, by
    pickle; what a copy keeps in memory stays there.
    """

    def on_start(self, start: RunStart) -> None:
        """A seed is about to be computed."""

    def on_step(self, step: StepProgress) -> None:
        """An optimisation step is done; costs nothing where nobody overrides it."""

    def on_epoch(self, epoch: EpochProgress) -> None:
        """An epoch is trained and validated."""

    def on_end(self, end: RunEnd) -> None:
        """The run that was started is over, however it ended; its record, if any, is stored."""


class CallbackError(BaseException):  # no Exception, which other code takes for one of its own
    """Carries what a callback raised out of MMSA's code.

    Attributes:
        error: What it raised.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Following:
    """How the run ends, for the callbacks that follow it.

    Attributes:
        end: What `on_end` will be told: `stopped`, unless it is set otherwise.
    """

    def __init__(self, start: RunStart) -> None:
        self.end = RunEnd(start, "stopped")


@contextmanager
def following(callbacks: Sequence[Callback], start: RunStart) -> Iterator[Following]:
    """Tell callbacks of the start of a run, and in any case of its end."""
    followed = Following(start)
    started: list[Callback] = []
    try:
        for callback in callbacks:
            callback.on_start(start)
            started.append(callback)
        yield followed
    except BaseException as error:
        if followed.end.status == "stopped":
            reason = f"{type(error).__name__}: {error}".removesuffix(": ")
            followed.end = replace(followed.end, reason=reason)
        for failure in _tell(started, followed.end):
            logger.error("A callback failed at the end of a stopped run.", exc_info=failure)
        raise
    failures = _tell(started, followed.end)
    for failure in failures[1:]:
        logger.error("Another callback failed at the end of the run.", exc_info=failure)
    if failures:
        raise failures[0]


def _tell(callbacks: Sequence[Callback], end: RunEnd) -> list[Exception]:
    """Tell all of the end; what some of them raised."""
    failures = []
    for callback in callbacks:
        try:
            callback.on_end(end)
        except Exception as error:  # the others are told all the same
            failures.append(error)
    return failures


def listeners(callbacks: Sequence[Callback], method: str) -> list[Any]:
    """The methods of this name of the callbacks that have one of their own."""
    found = [getattr(callback, method) for callback in callbacks]
    return [own for own in found if getattr(own, "__func__", None) is not getattr(Callback, method)]


def checked(callbacks: Any) -> tuple[Callback, ...]:
    """Callbacks as a user gives them.

    Raises:
        ConfigError: If one is none.
    """
    given = (callbacks,) if isinstance(callbacks, Callback) else callbacks
    if not isinstance(given, list | tuple):
        raise ConfigError(f"callbacks is {given!r:.80}; give a list of MMSA_ext.Callback objects.")
    for number, callback in enumerate(given):
        if not isinstance(callback, Callback):
            mend = (
                f"give an object of it: {callback.__name__}()"
                if isinstance(callback, type)
                else "derive its class from MMSA_ext.Callback"
            )
            raise ConfigError(f"callbacks[{number}] is {callback!r:.80}; {mend}.")
    return tuple(given)
