"""Making the runs of an experiment: in this process, or in processes of this machine."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from MMSA_ext.datasets import known
from MMSA_ext.errors import MMSAExtError
from MMSA_ext.experiments.plan import Unit
from MMSA_ext.processes import Process, end, threads_of_new_processes
from MMSA_ext.records.store import RunRecord
from MMSA_ext.runs.api import open_run
from MMSA_ext.runs.options import RunOptions
from MMSA_ext.runs.processes import check_copied, options_of, threads_each
from MMSA_ext.runs.seeds import Run

logger = logging.getLogger("MMSA")

_ANOTHER_RUN = (
    "what would be run has another name than what was planned: the code or the feature file was "
    "changed meanwhile, or a worker has another version of them. Nothing was run; start again."
)


@dataclass(frozen=True)
class Outcome:
    """What became of a unit.

    Attributes:
        unit: The unit.
        state: "refused" is an error with a mend, "failed" any other.
        record: Its record, where it has one.
        reused: Whether the record was there before.
        error: Why there is none.
    """

    unit: Unit
    state: Literal["finished", "diverged", "refused", "failed"]
    record: RunRecord | None = None
    reused: bool = False
    error: str = ""

    @classmethod
    def of(cls, unit: Unit, record: RunRecord, *, reused: bool) -> Outcome:
        """The outcome that is a record."""
        return cls(unit, "finished" if record.finished else "diverged", record, reused)


class Engine(Protocol):
    """Makes runs, several at once.

    Attributes:
        slots: How many.
    """

    slots: int

    def begin(self, unit: Unit) -> Callable[[], Outcome]:
        """Begin a run; called by one thread at a time, and not after `close`.

        Returns:
            What waits for the outcome, whose record is in the store then; of a worker that died it
            raises `LostWorkerError`. Called by as many threads as there are slots, or where there
            is one by the main thread.
        """

    def close(self) -> None:
        """End whatever is running, also while other threads wait for it."""


class Worker:
    """Makes runs in this process; those of one row and data set share the reading of its data."""

    slots = 1

    def __init__(self, options: RunOptions) -> None:
        self._options = options
        self._setting = ""
        self._run: Run | None = None
        self._open = ExitStack()
        self._refused: dict[str, MMSAExtError] = {}

    def begin(self, unit: Unit) -> Callable[[], Outcome]:
        """See `Engine`; the run is made when its outcome is waited for."""
        return partial(self.execute, unit)

    def execute(self, unit: Unit) -> Outcome:
        """Run a unit, or look it up; every error becomes its outcome."""
        try:
            run = self._opened(unit)
            found = run.identity(unit.identity.seed)
            if not unit.is_of(found):
                return Outcome(unit, "refused", error=_ANOTHER_RUN)
            result = run.seed(unit.identity.seed)
        except MMSAExtError as error:
            return Outcome(unit, "refused", error=str(error))
        except Exception as error:  # one broken model must not stop the others
            logger.exception("%s", unit)
            return Outcome(unit, "failed", error=f"{type(error).__name__}: {error}")
        return Outcome.of(unit, result.record, reused=result.reused)

    def close(self) -> None:
        """Let go of the data and the surroundings of the last unit."""
        self._setting, self._run = "", None
        self._open.close()

    def _opened(self, unit: Unit) -> Run:
        """The run of a unit, its data read, which its other seeds share."""
        setting, identity = unit.identity.setting, unit.identity
        if setting in self._refused:  # the data need not be read again for every seed
            raise self._refused[setting]
        if self._run is None or self._setting != setting:
            self.close()
            opening = open_run(
                identity.model, identity.dataset, self._options, config=dict(unit.overrides)
            )
            try:
                self._open.enter_context(known(unit.data_set))
                run = self._open.enter_context(opening)
                _ = run.features
            except MMSAExtError as error:
                self._refused[setting] = error
                raise
            self._setting, self._run = setting, run
        return self._run


class LocalProcesses:
    """Makes runs in processes of this machine, which end with this one, however it ends.

    Args:
        jobs: How many.
        options: Of every run; `gpu_ids` are dealt out in turn; they start no loaders.

    Raises:
        ConfigError: If a callback cannot be copied to another process.
    """

    def __init__(self, jobs: int, options: RunOptions) -> None:
        check_copied(options)
        self.slots = jobs
        self._environment = ExitStack()
        self._environment.enter_context(threads_of_new_processes(threads_each(jobs)))
        self._all = [_Process(options_of(number, jobs, options)) for number in range(jobs)]
        self._idle = list(self._all)

    def begin(self, unit: Unit) -> Callable[[], Outcome]:
        """See `Engine`; a process that has the unit's data open is preferred."""
        process = min(self._idle, key=lambda process: process.setting != unit.identity.setting)
        self._idle.remove(process)
        process.send(unit)
        return partial(self._outcome, process)

    def _outcome(self, process: _Process) -> Outcome:
        try:
            outcome: Outcome = process.receive()
            return outcome
        finally:
            self._idle.append(process)

    def close(self) -> None:
        """See `Engine`; a process that is storing a result is given the time for it."""
        end(self._all)
        self._environment.close()


class _Process(Process):
    """A process that makes one run after another, and whose data it has open."""

    setting = ""

    def __init__(self, options: RunOptions) -> None:
        super().__init__(partial(Worker, options))

    def send(self, unit: Unit) -> None:
        """See `Process`."""
        super().send(unit)
        self.setting = unit.identity.setting
