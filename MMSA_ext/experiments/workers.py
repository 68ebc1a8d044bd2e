"""Making the runs of an experiment: in this process, or in processes of this machine."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Literal, Protocol

import torch
from joblib import cpu_count

from MMSA_ext.datasets import known
from MMSA_ext.errors import ConfigError, MMSAExtError
from MMSA_ext.experiments.plan import Unit
from MMSA_ext.records.store import RunRecord
from MMSA_ext.runs.api import open_run
from MMSA_ext.runs.options import RunOptions
from MMSA_ext.runs.seeds import Run
from MMSA_ext.stopping import handlers, stop

logger = logging.getLogger("MMSA")

# Threads of a process, if the user set them; numeric libraries read it when they are loaded.
THREADS_VARIABLE = "OMP_NUM_THREADS"
# What a thread does that waits for the others of its process. By default it spins, and so takes the
# core from the thread that it waits for, where there are more threads than cores.
WAITING_VARIABLE = "OMP_WAIT_POLICY"

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


class LostWorkerError(Exception):
    """What was making a run died, or was ended; says how."""


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
    """Makes runs in this process; those of one row and data set share the reading of its data.

    Args:
        options: Of every run.
    """

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
        try:
            pickle.dumps(options.callbacks)
        except Exception as error:  # whatever an object's own pickling raises
            raise ConfigError(
                f"a callback cannot be copied to other processes ({error}); define its class in a "
                "module and open files in on_start, or leave out jobs (--jobs)."
            ) from error
        self.slots = jobs
        self._environment = ExitStack()
        self._environment.enter_context(_threads_of_new_processes(threads_each(jobs)))
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
            return process.receive()
        finally:
            self._idle.append(process)

    def close(self) -> None:
        """See `Engine`; a process that is storing a result is given the time for it."""
        for each in self._all:
            each.process.terminate()
        for each in self._all:
            each.process.join(timeout=10)
            each.process.kill()
        self._environment.close()


class _Process:
    """A process that makes one run after another, and whose data it has open."""

    def __init__(self, options: RunOptions) -> None:
        self._options = options
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self._options))
        with handlers({signal.SIGINT: signal.SIG_IGN}):  # from its first instruction: see `_serve`
            self.process.start()
        theirs.close()  # the process has its own; with ours open, its death would not be seen
        self.setting = ""

    def send(self, unit: Unit) -> None:
        """Hand a unit over; a process that died is replaced."""
        if not self.process.is_alive():
            self._connection.close()
            self._start()
        self.setting = unit.identity.setting
        with suppress(ConnectionError):  # it died just now; `receive` says so
            self._connection.send(unit)

    def receive(self) -> Outcome:
        try:
            outcome: Outcome = self._connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            said = f"its process died (exit code {self.process.exitcode})"
            raise LostWorkerError(f"{said}; was there enough memory?") from None
        return outcome


def options_of(number: int, jobs: int, options: RunOptions) -> RunOptions:
    """What of the options is one of several processes'."""
    ids = options.gpu_ids
    if isinstance(ids, Sequence) and not isinstance(ids, str) and len(ids) > 1:
        ids = [ids[number % len(ids)]]
    # The runs have all cores already; loader processes are started anew each epoch.
    loaders = options.num_workers if jobs == 1 else 0
    return replace(options, verbose_level=0, num_workers=loaders, gpu_ids=ids)


def threads_each(jobs: int) -> int:
    """Threads of each of several processes: what the user set, else a share of this one's."""
    if THREADS_VARIABLE not in os.environ:
        return max(1, torch.get_num_threads() // jobs)
    threads, cores = torch.get_num_threads(), cpu_count()
    if jobs > 1 and threads > 1 and jobs * threads > cores:
        logger.warning(
            "%d processes of %s=%d threads share %d cores and hinder each other; unset it, or set "
            "it to %d.",
            jobs,
            THREADS_VARIABLE,
            threads,
            cores,
            max(1, cores // jobs),
        )
    return threads


@contextmanager
def _threads_of_new_processes(threads: int) -> Iterator[None]:
    """Let processes that are started inside have so many threads, in every numeric library."""
    waiting = os.environ.get(WAITING_VARIABLE, "PASSIVE")
    told = {THREADS_VARIABLE: str(threads), WAITING_VARIABLE: waiting}
    before = {name: os.environ[name] for name in told if name in os.environ}
    os.environ.update(told)
    try:
        yield
    finally:
        for name in told:
            del os.environ[name]
        os.environ.update(before)


def _serve(connection: Connection, options: RunOptions) -> None:
    """Main function of a process: units in, outcomes out, until it is told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends us
    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    worker = Worker(options)
    try:
        while True:
            connection.send(worker.execute(connection.recv()))
    except (EOFError, ConnectionError):  # the parent is gone
        return
    finally:
        worker.close()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)  # enough to store a result, unless a computation does not return
    os._exit(1)
