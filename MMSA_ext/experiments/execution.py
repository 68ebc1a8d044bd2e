"""Running an experiment: its names, minus what the store has, until nothing is missing.

joblib hands the units out, to as many threads as runs are made at once; whoever makes the runs
(`Engine`), a thread takes the claim on a unit, so that several invocations on one store never do a
run twice. What another process has claimed, and what was lost with its worker, is missing the next
time round.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from joblib import Parallel, delayed

from MMSA_ext import mmsa_bridge
from MMSA_ext.datasets import known_from
from MMSA_ext.errors import ConfigError, WriteError
from MMSA_ext.experiments.files import Experiment
from MMSA_ext.experiments.plan import Plan, TimeLeft, Unit
from MMSA_ext.experiments.workers import Engine, LocalProcesses, Outcome, Worker
from MMSA_ext.own_models import import_modules
from MMSA_ext.processes import LostWorkerError
from MMSA_ext.records.store import RunStore
from MMSA_ext.registry import own_modules
from MMSA_ext.runs.options import RunOptions
from MMSA_ext.validation import whole_number

# How often units that other processes have claimed are looked at again.
POLL_SECONDS = 1.0
# A unit whose worker died so often (out of memory, for instance) is not tried again.
ATTEMPTS = 3


@dataclass(frozen=True)
class Progress:
    """Where an experiment stands.

    Attributes:
        event: What just happened, for people.
        total: Units of the experiment.
        done: Those with a record.
        failed: Those refused or failed.
        running: Those that this invocation is running.
        left: Estimate for all that is neither done nor failed, shared by the engine's slots.
    """

    event: str
    total: int
    done: int
    failed: int
    running: int
    left: TimeLeft

    @property
    def missing(self) -> int:
        """Units that nobody in this invocation has begun."""
        return self.total - self.done - self.failed - self.running

    def __str__(self) -> str:
        """One line."""
        counts = [f"{self.done} of {self.total} done", f"{self.running} running"]
        counts += [f"{self.missing} missing"] * bool(self.missing)
        counts += [f"{self.failed} failed"] * bool(self.failed)
        left = f"; left: about {self.left}" if self.running or self.missing else ""
        return f"{self.event} [{', '.join(counts)}{left}]"


def run(
    experiment: Experiment,
    *,
    jobs: int = 1,
    engine: Callable[[RunStore, RunOptions], Engine] | None = None,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> list[Outcome]:
    """Run what is not in the store yet.

    All configurations are checked before the first is run. A unit that is refused or fails when it
    is run does not stop the others. Several calls, in any number of processes, share the work of
    one store: each run is done once.

    Args:
        experiment: From `load`, `narrowed` where needed.
        jobs: Local processes, each with its share of this process's threads, or as many as the
            environment variable `OMP_NUM_THREADS` says; with 1 everything is run here. CUDA devices
            in `gpu_ids` are dealt out to them in turn.
        engine: Another engine, made from the store and `options`, such as `ray_engine.connect`.
        progress: Called after each step, by one thread at a time.
        options: Further arguments of `MMSA_run`, such as `custom_feature` or `res_save_dir`. With
            `reuse=False` every run is made again, but for those that another process has made
            since this call began.

    Returns:
        One outcome a unit, in the experiment's order, those found in the store included.

    Raises:
        ConfigError: If configurations are not usable, all of them named; if a feature file is
            given for several data sets; if `track` is given with another engine; if `jobs` is no
            positive number; if a device or the verbosity is not there; or if a folder cannot be
            written to.
        FeatureFileError: If a feature file that is given cannot be read.
        WriteError: If the store cannot be written to. Where that happens later, the units that are
            not begun are refused.
    """
    whole_number("jobs", jobs, 1)
    given = RunOptions(**options)
    with known_from(given.dataset_file):
        return _run(experiment, jobs, engine, progress, given)


def _run(
    experiment: Experiment,
    jobs: int,
    engine: Callable[[RunStore, RunOptions], Engine] | None,
    progress: Callable[[Progress], None] | None,
    given: RunOptions,
) -> list[Outcome]:
    if any(given.files.values()) and len(experiment.datasets) > 1:
        raise ConfigError(
            f"one feature file cannot serve {', '.join(experiment.datasets)}: choose one of them "
            "(--dataset), or set MMSA_DATA_ROOT to the folder with MMSA's data."
        )
    if engine is not None and given.track:
        raise ConfigError(
            "trackers log below the results of this machine, which a cluster's runs do not have: "
            "leave out --track (track=), or --engine ray."
        )
    if engine is None:  # of another engine's machines nothing is known here
        mmsa_bridge.device_numbers(given.gpu_ids)
    import_modules(given.imports)
    store = RunStore(given.places().results / "runs")
    plan = Plan(experiment, store, given.files)
    outcomes = {
        unit.key: Outcome.of(unit, record, reused=True)
        for unit in plan.units
        if given.reuse and (record := plan.record(unit)) is not None
    }
    missing = [unit for unit in plan.units if unit.key not in outcomes]
    if missing:
        store.check_writable(missing[0].identity.dataset, missing[0].identity.model)
        own = own_modules({unit.identity.model for unit in missing})
        given = replace(given, imports=(*given.imports, *own))
        make = engine or (lambda store, given: _local_engine(min(jobs, len(missing)), given))
        run_missing(plan, make(store, given), outcomes, reuse=given.reuse, progress=progress)
    return [outcomes[unit.key] for unit in plan.units]


def _local_engine(jobs: int, options: RunOptions) -> Engine:
    return Worker(options) if jobs == 1 else LocalProcesses(jobs, options)


def run_missing(
    plan: Plan,
    engine: Engine,
    outcomes: dict[str, Outcome],
    *,
    reuse: bool = True,
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Make the runs of a plan that have no outcome, until each has one; the engine ends with it.

    Args:
        plan: The units, and the store that they are looked up in.
        engine: What makes the runs.
        outcomes: By the units' keys; added to.
        reuse: Whether a record from before this call counts.
        progress: Called after each step.
    """
    missing = _Missing(plan, engine, outcomes, reuse, progress)
    try:
        missing.run()
    finally:
        missing.end()


@dataclass
class _Missing:
    """What `run_missing` and its threads share."""

    plan: Plan
    engine: Engine
    outcomes: dict[str, Outcome]
    reuse: bool
    progress: Callable[[Progress], None] | None
    losses: Counter[str] = field(default_factory=Counter)
    running: set[str] = field(default_factory=set)
    refusal: str = ""
    ended: bool = False
    busy: int = 0  # threads that may have a claim
    # Of all that is above, and for one report at a time.
    change: threading.Condition = field(default_factory=threading.Condition)

    def run(self) -> None:
        self._report("begin")
        while units := [unit for unit in self.plan.units if unit.key not in self.outcomes]:
            if self.refusal:
                for unit in units:
                    self._settle(Outcome(unit, "refused", error=self.refusal))
            elif free := [unit for unit in units if not self.plan.claims.held(unit.key)]:
                threads = Parallel(self.engine.slots, backend="threading", pre_dispatch="n_jobs")
                threads(delayed(self._make)(unit) for unit in free)
            else:
                self._wait_for_others(units)

    def end(self) -> None:
        """End whatever is running, and give the claims back."""
        with self.change:
            self.ended = True
        self.engine.close()
        with self.change:
            self.change.wait_for(lambda: not self.busy, timeout=10)

    def _make(self, unit: Unit) -> None:
        """Make a run, in one of the threads; nothing where another process does."""
        with self.change:
            if self.ended or self.refusal:
                return
            self.busy += 1
        outcome = None
        try:
            with self.plan.claims.claim(unit.key) as ours:
                if ours:
                    outcome = self._found(unit) or self._made(unit)
        except WriteError as error:
            # What cannot be stored is not computed, and no more is begun; what is running goes on.
            self.refusal = str(error)
        except LostWorkerError as error:
            outcome = self._lost(unit, error)
        finally:
            with self.change:
                self.busy -= 1
                self.change.notify_all()
                self.running.discard(unit.key)
                if outcome is not None:
                    self._settle(outcome)

    def _found(self, unit: Unit) -> Outcome | None:
        """What another process has made since the plan was."""
        before = None if self.reuse else self.plan.record(unit)
        record = self.plan.look(unit)
        if record is None or record == before:
            return None
        return Outcome.of(unit, record, reused=True)

    def _made(self, unit: Unit) -> Outcome | None:
        self.plan.store.check_writable(unit.identity.dataset, unit.identity.model)
        with self.change:
            if self.ended:
                return None
            self.running.add(unit.key)
            self._report(f"{unit}: begun")
            outcome = self.engine.begin(unit)
        return outcome()

    def _lost(self, unit: Unit, error: LostWorkerError) -> Outcome | None:
        """None: it is missing still, and run again when the others are done."""
        self.losses[unit.key] += 1
        if self.losses[unit.key] == ATTEMPTS:
            return Outcome(unit, "failed", error=str(error))
        with self.change:
            self.running.discard(unit.key)
            self._report(f"{unit}: its process died; it is run again")
        return None

    def _settle(self, outcome: Outcome) -> None:
        self.outcomes[outcome.unit.key] = outcome
        if outcome.record is not None:
            self.plan.add(outcome.record)
        said = "found, made by another process" if outcome.reused else outcome.state
        self._report(f"{outcome.unit}: {said}")

    def _wait_for_others(self, units: Sequence[Unit]) -> None:
        self._report(f"waiting for {len(units)} run(s) that other processes have begun")
        while all(self.plan.claims.held(unit.key) for unit in units):
            time.sleep(POLL_SECONDS)

    def _report(self, event: str) -> None:
        if self.progress is None or self.ended:
            return
        with self.change:
            units = self.plan.units
            done = sum(outcome.record is not None for outcome in self.outcomes.values())
            left = self.plan.time_left(unit for unit in units if unit.key not in self.outcomes)
            self.progress(
                Progress(
                    event,
                    total=len(units),
                    done=done,
                    failed=len(self.outcomes) - done,
                    running=len(self.running),
                    left=replace(left, seconds=left.seconds / self.engine.slots),
                )
            )
