"""Hyper-parameter search, selected on the validation split.

A trial trains one configuration and scores it on the validation split; it is kept in the study
alone, never as a record that a table could read. Only the configuration that wins is run as a run
is, and scored on the test split.
"""

from __future__ import annotations

import json
import logging
import math
import os
import queue
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pandas as pd
from joblib import Parallel, delayed
from optuna.trial import FrozenTrial, TrialState

from MMSA_ext.config.resolve import checked, merge
from MMSA_ext.datasets import DEFINITION, Dataset, get_dataset, known
from MMSA_ext.errors import ConfigError, MMSAExtError
from MMSA_ext.files import check_writable, exclusive, write_atomically
from MMSA_ext.processes import LostWorkerError, Process, end, threads_of_new_processes
from MMSA_ext.records.record import content_digest
from MMSA_ext.registry import own_modules, trains_in_mmsa
from MMSA_ext.reporting.render import csv_text
from MMSA_ext.runs import study as studies
from MMSA_ext.runs.options import RunOptions
from MMSA_ext.runs.processes import check_copied, options_of, threads_each
from MMSA_ext.runs.search_space import Space, point, usable, without
from MMSA_ext.training.callbacks import Callback, EpochProgress, RunStart
from MMSA_ext.training.trainer import MINIMISED

if TYPE_CHECKING:
    from MMSA_ext.runs.seeds import Run

__all__ = ["ON_TEST_NOTE", "Search", "tune"]

logger = logging.getLogger("MMSA")

# Part of the identity of runs selected on the test split: they are never taken for honest ones.
ON_TEST = {"tuned_on": "test"}
ON_TEST_NOTE = (
    "hyper-parameters were selected on the TEST split (tune_on_test); this is no test result"
)
# Trials that are trained whole before one may be pruned.
_FIRST_WHOLE = 5
# A trial whose process died so often is not tried again.
_ATTEMPTS = 3
_STUDY_BYTES = 2**20

Opening = Callable[[RunOptions], AbstractContextManager["Run"]]


@dataclass(frozen=True)
class Search:
    """What is searched, and how.

    Attributes:
        space: What is tried.
        own: Whether the space is the user's, and not from a file.
        trials: How many configurations.
        seed: Of the search and of every trial.
        given: Overrides that the user set; they are not searched.
        on_test: Select by the test split, as MMSA 2.2.1 does; every record says so.
        prune: End trials that are worse than most by validation.
        jobs: Processes that make trials.
    """

    space: Space
    own: bool
    trials: int
    seed: int
    given: Mapping[str, Any]
    on_test: bool = False
    prune: bool = False
    jobs: int = 1

    @property
    def split(self) -> str:
        """The split that selects."""
        return "test" if self.on_test else "valid"


def tune(run: Run, search: Search, opening: Opening) -> Run:
    """Search the configuration with the best validation `KeyEval`.

    The study lies in `<results>/tune/<dataset>-<model>.db`; started again, the search goes on until
    there are as many trials as asked for. `...csv` has one row a trial. The best configuration is
    written twice, complete, so that either file with the same seed gives the same numbers:
    `...-best.json` is what `config=` of `MMSA_run` takes, and `...-best-config.json` a file for
    `config_file=`, in MMSA's schema. Names end in `-on-test` where the test split selected.

    Args:
        run: The run whose configuration is tuned.
        search: What is searched.
        opening: Opens the same run in other processes.

    Returns:
        The run with the best configuration; nothing of it is trained yet.

    Raises:
        ConfigError: If nothing is left to search, a choice cannot be used, or every trial diverged.
        WriteError: If the study cannot be written, or another search writes it.
    """
    name, dataset = run.args.model_name, run.args.dataset_name
    space = search.space if search.own else without(search.space, search.given)
    space = usable(run.args, space, own=search.own)
    if not space:
        raise ConfigError(
            f"{name!r} has nothing to search on {dataset!r}: say what, space={{...}} (--space), or "
            "fix fewer keys."
        )
    search = replace(search, space=space)
    if search.on_test:
        run = run.with_overrides({}, notes=(ON_TEST_NOTE,), marks=ON_TEST)
    folder = run.places.results / "tune"
    check_writable(folder, _STUDY_BYTES)
    with exclusive(folder / f".{dataset}-{name}.lock", timeout=0):
        return _Tuning(run, search, opening).best()


class _Tuning:
    """One search: the study, and the files that show it."""

    def __init__(self, run: Run, search: Search, opening: Opening) -> None:
        self.run, self.search, self.opening = run, search, opening
        self.key = run.args.get("KeyEval", "Loss")
        self.stem = f"{run.args.dataset_name}-{run.args.model_name}"
        self.folder = run.places.results / "tune"
        self.path = self.folder / f"{self.stem}.db"
        self.work = Work(self.path, _study_name(run, search), search, self.key)
        self.saving = threading.Lock()
        self.ended = threading.Event()

    def best(self) -> Run:
        """Make the trials that are missing; the run with the best configuration."""
        search = self.search
        with studies.using(self.path):
            self.study = studies.open_study(
                self.path,
                self.work.study,
                direction="minimize" if self.key in MINIMISED else "maximize",
                anew=not self.run.options.reuse,
            )
            self._describe()
            if again := studies.put_back(self.study):
                logger.info("%d trials were stopped, and are made again.", again)
            done = len(studies.finished(self.study))
            if done:
                logger.info("%d trials are in %s already.", done, self.path)
                self._save()
            try:
                self._make(search.trials - done)
            except (KeyboardInterrupt, SystemExit) as stopped:
                done = len(studies.finished(self.study))
                stopped.add_note(
                    f"Stopped; {done} of {search.trials} trials are in {self.path}. The same "
                    "command " + ("goes on." if self.run.options.reuse else "starts over.")
                )
                raise
            return self._chosen()

    def _describe(self) -> None:
        """What the study is, for people."""
        search = self.search
        about = {
            "configuration": self.run.identity(search.seed).configuration,
            "space": {key: values.plain() for key, values in search.space.items()},
            "seed": search.seed,
            "selected by": f"{search.split} {self.key}",
            "pruning": search.prune,
        }
        if self.study.user_attrs != about:
            for key, value in about.items():
                self.study.set_user_attr(key, value)

    def _make(self, missing: int) -> None:
        """Make trials, here or in several processes."""
        jobs = min(self.search.jobs, missing)
        if jobs > 1:
            self._make_in_processes(jobs, missing)
            return
        for _ in range(missing):
            self._made(self.work.trial(self.run, self.study))

    def _make_in_processes(self, jobs: int, missing: int) -> None:
        options = self.run.options
        check_copied(options)
        own = own_modules({self.run.args.model_name})
        options = replace(options, imports=(*options.imports, *own))
        data_set = get_dataset(self.run.args.dataset_name)
        with ExitStack() as stack:
            stack.enter_context(threads_of_new_processes(threads_each(jobs)))
            maker = partial(TrialMaker, self.work, self.opening, data_set)
            processes = [Process(partial(maker, options_of(n, jobs, options))) for n in range(jobs)]
            stack.callback(self._end, processes)
            idle: queue.SimpleQueue[Process] = queue.SimpleQueue()
            for process in processes:
                idle.put(process)
            threads = Parallel(jobs, backend="threading", pre_dispatch="n_jobs")
            threads(delayed(self._ask)(idle) for _ in range(missing))

    def _end(self, processes: list[Process]) -> None:
        """End the processes; no thread is to start them again."""
        self.ended.set()
        end(processes)

    def _ask(self, idle: queue.SimpleQueue[Process]) -> None:
        """Let a process make a trial, in one of the threads."""
        process = idle.get()
        try:
            for attempt in range(1, _ATTEMPTS + 1):
                if self.ended.is_set():
                    return
                process.send("trial")
                try:
                    answer = process.receive()
                except LostWorkerError as error:
                    if self.ended.is_set():
                        return
                    self._give_back(process)
                    if attempt == _ATTEMPTS:
                        raise ConfigError(f"a trial fails again and again: {error}") from error
                    continue
                if isinstance(answer, Exception):
                    raise answer
                self._made(answer)
                return
        finally:
            idle.put(process)

    def _give_back(self, process: Process) -> None:
        """The trials that a dead process was making are to be made again."""
        with self.saving:
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if trial.user_attrs.get("process") == process.process.pid:
                    studies.give_back(self.study, trial.number, trial.params)

    def _made(self, number: int) -> None:
        """A trial is over."""
        with self.saving:
            done = self._save()
            trial = next(trial for trial in done if trial.number == number)
            logger.info("Trial %d of %d: %s", len(done), self.search.trials, self._row(trial))

    def _save(self) -> list[FrozenTrial]:
        """Write the table of trials."""
        done = studies.finished(self.study)
        self._write(".csv", csv_text(pd.DataFrame([self._row(trial) for trial in done])))
        return done

    def _row(self, trial: FrozenTrial) -> dict[str, Any]:
        told = trial.user_attrs
        whole = trial.state == TrialState.COMPLETE
        return {
            **told.get("configuration", {}),
            f"{self.search.split}_{self.key}": trial.value if whole else told["outcome"],
            "run": told.get("run", ""),
        }

    def _chosen(self) -> Run:
        done = studies.finished(self.study)
        if not any(trial.state == TrialState.COMPLETE for trial in done):
            raise ConfigError(
                f"all {len(done)} trials diverged; search other values, lower rates first."
            )
        best: dict[str, Any] = self.study.best_trial.user_attrs["configuration"]
        chosen = self.run.with_overrides(best)
        self._write("-best.json", _json(merge(self.search.given, best)))
        path = self._write("-best-config.json", _json(_as_config_file(chosen)))
        logger.info("Best configuration by %s %s: %s", self.search.split, self.key, best)
        logger.info(
            "MMSA_run(%r, %r, config_file=%r, seeds=[%d])",
            chosen.args.model_name,
            chosen.args.dataset_name,
            str(path),
            self.search.seed,
        )
        return chosen

    def _write(self, suffix: str, content: str) -> Path:
        path = self.folder / f"{self.stem}{'-on-test' * self.search.on_test}{suffix}"
        write_atomically(path, content)
        return path


@dataclass(frozen=True)
class Work:
    """How a trial is made, in any process: file and name of its study, and the metric (`key`)."""

    path: Path
    study: str
    search: Search
    key: str

    def trial(self, run: Run, study: optuna.Study) -> int:
        """Make one trial; its number in the study."""
        search = self.search
        trial = studies.draw_from(study, search.seed, several=search.jobs > 1)
        try:
            trial.set_user_attr("process", os.getpid())
            drawn = point(trial, search.space)
            trial.set_user_attr("configuration", drawn)
            checked(merge(run.args, drawn), drawn=True)
            tried = run.with_overrides(drawn)
            trial.set_user_attr("run", tried.identity(search.seed).short_id)
            twin = self._twin(study, trial)
            if twin is None:
                self._train(tried, trial, study)
            else:
                self._copy(twin, trial, study)
        except ConfigError as error:
            study.tell(trial, state=TrialState.FAIL)
            raise ConfigError(f"trial {trial.number}, {drawn}: {error}") from error
        except BaseException:  # a signal, a full disk: the point is tried again
            studies.give_back(study, trial.number, trial.params)
            raise
        number: int = trial.number
        return number

    def _train(self, run: Run, trial: optuna.Trial, study: optuna.Study) -> None:
        search = self.search
        follower = _Follower(trial, self.key, self._pruner(run))
        splits = ("valid", "test") if search.on_test else ("valid",)
        try:
            outcome = run.trial(search.seed, trial.number + 1, splits=splits, callbacks=(follower,))
        except _PrunedError:
            run.forget(search.seed)
            trial.set_user_attr("outcome", "pruned")
            study.tell(trial, state=TrialState.PRUNED)
            return
        found = {
            split: {name: v if math.isfinite(v) else None for name, v in values.items()}
            for split, values in outcome.metrics.items()
        }
        value = found.get(search.split, {}).get(self.key)
        trial.set_user_attr("metrics", found)
        trial.set_user_attr("chosen epoch", outcome.chosen_epoch)
        trial.set_user_attr("seconds", outcome.timings.get("total"))
        if outcome.diverged or value is None:
            reason = outcome.diverged or f"{search.split} {self.key} is not defined"
            trial.set_user_attr("reason", reason)
            trial.set_user_attr("outcome", "diverged")
            study.tell(trial, state=TrialState.PRUNED)
        else:
            trial.set_user_attr("outcome", "finished")
            study.tell(trial, value)

    def _pruner(self, run: Run) -> optuna.pruners.BasePruner | None:
        """Of a trial: not before its rate has warmed up, and an epoch could be selected."""
        if not self.search.prune:
            return None
        args = run.args
        if trains_in_mmsa(args.model_name):
            first = args.get("early_stop") or 0
        else:
            first = max(
                args.num_epochs // 4,
                math.ceil(args.num_epochs * args.get("warmup_ratio", 0.0)),
                args.get("first_selected_epoch", 1) - 1,
            )
        return optuna.pruners.MedianPruner(_FIRST_WHOLE, n_warmup_steps=first + 1)

    def _twin(self, study: optuna.Study, trial: optuna.Trial) -> FrozenTrial | None:
        """A trial of the same configuration, which would give the same numbers."""
        name = study.trials[trial.number].user_attrs["run"]
        same = (other for other in studies.finished(study) if other.user_attrs.get("run") == name)
        return next(same, None)

    def _copy(self, twin: FrozenTrial, trial: optuna.Trial, study: optuna.Study) -> None:
        for step, value in twin.intermediate_values.items():
            trial.report(value, step)
        for key in ("metrics", "chosen epoch", "reason", "outcome"):
            if key in twin.user_attrs:
                trial.set_user_attr(key, twin.user_attrs[key])
        trial.set_user_attr("same as", twin.number)
        if twin.state == TrialState.COMPLETE:
            study.tell(trial, twin.value)
        else:
            study.tell(trial, state=TrialState.PRUNED)


class TrialMaker:
    """Makes trials in a process of its own, where the data set need not be registered."""

    def __init__(
        self, work: Work, opening: Opening, data_set: Dataset, options: RunOptions
    ) -> None:
        self._work, self._stack = work, ExitStack()
        self._opening, self._options, self._data_set = opening, options, data_set
        self._run: Run | None = None
        self._study: optuna.Study | None = None

    def execute(self, request: str) -> int | Exception:
        """Make a trial: its number, or what went wrong."""
        try:
            if self._run is None:
                self._stack.enter_context(known(self._data_set))
                self._run = self._stack.enter_context(self._opening(self._options))
                if self._work.search.on_test:
                    self._run = self._run.with_overrides({}, notes=(ON_TEST_NOTE,), marks=ON_TEST)
            with studies.using(self._work.path):
                if self._study is None:
                    self._study = studies.open_study(self._work.path, self._work.study)
                return self._work.trial(self._run, self._study)
        except MMSAExtError as error:
            return error
        except Exception as error:
            logger.exception("A trial failed.")
            return RuntimeError(f"a trial failed: {type(error).__name__}: {error}")

    def close(self) -> None:
        """Let go of the data."""
        self._stack.close()


class _PrunedError(MMSAExtError):
    """Ends a trial that is worse than most."""


class _Follower(Callback):
    """Reports the epochs of a trial to the study, and ends it where the pruner says so."""

    def __init__(
        self, trial: optuna.Trial, key: str, pruner: optuna.pruners.BasePruner | None
    ) -> None:
        self._trial, self._key, self._pruner = trial, key, pruner

    def on_start(self, start: RunStart) -> None:
        """A trial that goes on has epochs already."""
        for epoch in start.epochs:
            self._report(epoch)

    def on_epoch(self, epoch: EpochProgress) -> None:
        """An epoch of the training that counts is over."""
        if not self._report(epoch) or self._pruner is None:
            return
        study = self._trial.study
        if self._pruner.prune(study, study.trials[self._trial.number]):
            raise _PrunedError(f"pruned after epoch {epoch.epoch}")

    def _report(self, epoch: EpochProgress) -> bool:
        value = epoch.valid.get(self._key)
        if epoch.stage is not None or epoch.epoch == 0 or value is None or math.isnan(value):
            return False
        self._trial.report(value, epoch.epoch)
        return True


def _study_name(run: Run, search: Search) -> str:
    """What decides the trials, as a name."""
    identity = run.identity(search.seed)
    space = {key: values.plain() for key, values in search.space.items()}
    decided = {"run": identity.digest, "space": space, "prune": search.prune}
    digest = content_digest({**decided, "order": list(space)})[:16]
    where = ", on TEST" if search.on_test else ""
    return f"{identity.model} on {identity.dataset}, seed {search.seed}{where}, {digest}"


def _as_config_file(run: Run) -> dict[str, Any]:
    """The run's configuration in MMSA's schema, for this model and data set alone."""
    args = dict(run.args)
    name, dataset = args.pop("model_name"), args.pop("dataset_name")
    args.pop(DEFINITION, None)  # the name stands for it
    path = args.pop("featurePath")
    data = {"featurePath": str(Path(path).absolute()) if path else ""}
    kind = "aligned" if args.get("need_data_aligned") else "unaligned"
    return {
        # MMSA joins this folder and the path, which is absolute.
        "datasetCommonParams": {"dataset_root_dir": "", dataset: {kind: data}},
        name: {"commonParams": args, "datasetParams": {dataset: {}}},
    }


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, default=str) + "\n"
