"""Trackers: runs as TensorBoard, Weights & Biases and MLflow show them, each by its own library.

A tracker stands beside the store and is never read: the record is what a run gave. Everything is
logged below the folder of results, and nothing is sent anywhere unless the library's own
environment variables say so.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

from MMSA_ext.errors import ConfigError, suggest
from MMSA_ext.extras import install_command
from MMSA_ext.files import exclusive, write_atomically
from MMSA_ext.training.callbacks import Callback, EpochProgress, RunEnd, RunStart, StepProgress

logger = logging.getLogger("MMSA")

# What the runs of this package are kept under, where the library's variable names nothing else.
PROJECT = "MMSA_ext"
# Steps that are logged at once; the end of an epoch logs what there is.
_STEPS = 100

Setting = str | int | float | bool


class Point(NamedTuple):
    """Values at one place of a curve's horizontal axis.

    Attributes:
        axis: Name of the axis, `epoch` or `step`, below the stage's name where there is one.
        at: The epoch, or the step counted from the first epoch's.
        values: By name.
    """

    axis: str
    at: int
    values: dict[str, float]


class Tracker(Callback):
    """What all trackers log, under the same names. One that fails costs a warning, not the run.

    At the start the configuration, nested keys joined by dots, with `seed` and `run_id`; by epoch
    `train/<name>`, `valid/<name>`, `learning_rate` and `seconds`; by step `step/Loss`; at the end,
    of a finished run, `chosen_epoch`, its `chosen/valid/<name>` and, where it is tested,
    `test/<name>`. What an encoder's own training logs begins with the name of its stage.

    A run that goes on after a stop goes on in the tracker. What has been logged is noted beside it,
    so that an epoch that is computed again is not logged again.

    Args:
        folder: Where all trackers log.
    """

    name: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder / self.name
        self._works = False

    def on_start(self, start: RunStart) -> None:
        """Open the run in the tracker, with the epochs that are known of it."""
        self._works, self._steps, self._logged = True, list[Point](), dict[str, int]()
        self._attempt(lambda: self._begin(start))

    def on_step(self, step: StepProgress) -> None:
        """Take the loss down; it is logged with others."""
        prefix = _prefix(step.stage)
        at = (step.epoch - 1) * step.steps + step.step
        self._steps.append(Point(f"{prefix}step", at, {f"{prefix}step/Loss": step.loss}))
        if len(self._steps) >= _STEPS:
            self._attempt(self._log)

    def on_epoch(self, epoch: EpochProgress) -> None:
        """Log an epoch, and the steps that are not logged."""
        self._attempt(lambda: self._log(epoch))

    def on_end(self, end: RunEnd) -> None:
        """Log the test metrics and close the run in the tracker."""
        self._attempt(lambda: self._finish(end))
        self._works = False

    @abstractmethod
    def open(self, title: str, run_id: str, settings: dict[str, Setting]) -> bool:
        """Open a run, or one of before again.

        Returns:
            Whether it was there before, with its settings.
        """

    @abstractmethod
    def write(self, points: Sequence[Point]) -> None:
        """Log values; they are safe in the tracker afterwards."""

    @abstractmethod
    def close(
        self, status: Literal["finished", "diverged", "stopped"], results: dict[str, float]
    ) -> None:
        """Log the results of a finished run, if they are not logged, and let go of the run."""

    def _begin(self, start: RunStart) -> None:
        title = f"{start.model}-{start.dataset}-{start.run_id}-seed{start.seed}"
        about: dict[str, Setting] = {"seed": start.seed, "run_id": start.run_id}
        self.folder.mkdir(parents=True, exist_ok=True)
        self._note = self.folder / f".{title}.json"
        if self.open(title, start.run_id, dict(_flat(start.configuration)) | about):
            self._logged = json.loads(self._note.read_text("utf-8")) if self._note.is_file() else {}
        for epoch in start.epochs:
            self._log(epoch)

    def _log(self, epoch: EpochProgress | None = None) -> None:
        points, self._steps = self._steps, []
        if epoch is not None:
            points.append(_point(epoch))
        new = [point for point in points if point.at > self._logged.get(point.axis, -1)]
        if new:
            self.write(new)
            self._noted({point.axis: point.at for point in new})

    def _finish(self, end: RunEnd) -> None:
        self._log()
        results = {}
        if end.status == "finished" and "end" not in self._logged:
            measured: dict[str, float | None] = {"chosen_epoch": end.chosen_epoch}
            for split, under in (("valid", "chosen/valid"), ("test", "test")):
                values = end.metrics.get(split, {})  # a trial of a search is not tested
                measured |= {f"{under}/{name}": value for name, value in values.items()}
            results = {_tame(name): float(v) for name, v in measured.items() if v is not None}
        self.close(end.status, results)
        if results:
            self._noted({"end": 1})

    def _noted(self, logged: Mapping[str, int]) -> None:
        self._logged |= logged
        write_atomically(self._note, json.dumps(self._logged))

    def _attempt(self, action: Callable[[], None]) -> None:
        """Do something in the tracker; after its first failure nothing, until the next run."""
        if not self._works:
            return
        try:
            action()
        except Exception as error:  # of a library that is not ours, for a server that may be gone
            self._works = False
            reason = f"{type(error).__name__}: {error}"
            logger.warning(
                "%s: this run is tracked no further (%s). It goes on.", self.name, reason
            )


class TensorBoard(Tracker):
    """Event files, one folder a run. `tensorboard --logdir <results>/tracking/tensorboard`."""

    name = "tensorboard"

    def open(self, title: str, run_id: str, settings: dict[str, Setting]) -> bool:
        """See `Tracker`."""
        folder = self.folder / title
        there = folder.is_dir()
        self._settings = settings
        self._writer = import_module("torch.utils.tensorboard").SummaryWriter(str(folder))
        if not there:
            rows = "".join(f"| {key} | {value} |\n" for key, value in settings.items())
            self._writer.add_text("configuration", f"| key | value |\n|---|---|\n{rows}")
        return there

    def write(self, points: Sequence[Point]) -> None:
        """See `Tracker`."""
        for point in points:
            for name, value in point.values.items():
                self._writer.add_scalar(name, value, point.at)
        self._writer.flush()

    def close(self, status: str, results: dict[str, float]) -> None:
        """See `Tracker`; the results stand in the tab of hyper-parameters, too."""
        if results:
            self._writer.add_hparams(self._settings, results, run_name=".")
        if status != "stopped":
            self._writer.add_text("status", status)
        self._writer.close()


class WandB(Tracker):
    """Weights & Biases: offline unless `WANDB_MODE` says otherwise, `wandb sync` uploads later.

    `WANDB_PROJECT` and `WANDB_DIR` are heeded. Online a run that goes on is one run; offline each
    attempt has a folder, with the same run id.
    """

    name = "wandb"

    def open(self, title: str, run_id: str, settings: dict[str, Setting]) -> bool:
        """See `Tracker`."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to its makers
        wandb = import_module("wandb")
        elsewhere = "WANDB_DIR" in os.environ
        there = elsewhere or any(self.folder.glob(f"*run-*-{run_id}"))
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run_id,
            name=title,
            config=settings,
            dir=None if elsewhere else self.folder.parent,  # it adds `wandb` itself
            mode=None if "WANDB_MODE" in os.environ else "offline",
            resume="allow",
            reinit="create_new",  # a run that the caller has open stays as it is
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._known: set[str] = set()
        return there

    def write(self, points: Sequence[Point]) -> None:
        """See `Tracker`."""
        for point in points:
            for name in point.values.keys() - self._known:
                self._run.define_metric(name, step_metric=point.axis)
                self._known.add(name)
            self._run.log({point.axis: point.at, **point.values})

    def close(self, status: str, results: dict[str, float]) -> None:
        """See `Tracker`; the results are in the run's summary."""
        self._run.summary.update({"status": status, **results})
        self._run.finish(exit_code=int(status != "finished"))


class MLflow(Tracker):
    """MLflow, in a SQLite file below the results or where `MLFLOW_TRACKING_URI` says.

    `MLFLOW_EXPERIMENT_NAME` is heeded. The pages are in the package `mlflow`: `mlflow ui
    --backend-store-uri sqlite:///<results>/tracking/mlflow/mlflow.db`.
    """

    name = "mlflow"

    def open(self, title: str, run_id: str, settings: dict[str, Setting]) -> bool:
        """See `Tracker`."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # to its makers
        mlflow, self._entities = import_module("mlflow"), import_module("mlflow.entities")
        for noisy in ("mlflow.store.db.utils", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        place = os.environ.get("MLFLOW_TRACKING_URI")
        artifacts = None if place else (self.folder / "artifacts").absolute().as_uri()
        place = place or f"sqlite:///{(self.folder / 'mlflow.db').absolute()}"
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        with exclusive(self.folder / ".lock"):  # several processes may be the first
            self._client = mlflow.MlflowClient(tracking_uri=place)
            found = self._client.get_experiment_by_name(experiment)
            where = (
                found.experiment_id
                if found is not None
                else self._client.create_experiment(experiment, artifact_location=artifacts)
            )
        runs = self._client.search_runs([where], f"tags.run_id = '{run_id}'", max_results=1)
        if runs:
            self._id = runs[0].info.run_id
            self._client.update_run(self._id, "RUNNING")
            return True
        run = self._client.create_run(where, run_name=title, tags={"run_id": run_id})
        self._id = run.info.run_id
        params = [self._entities.Param(_tame(k), str(v)) for k, v in settings.items()]
        for first in range(0, len(params), 100):  # as many as it takes at once
            self._client.log_batch(self._id, params=params[first : first + 100])
        return False

    def write(self, points: Sequence[Point]) -> None:
        """See `Tracker`."""
        now = int(time.time() * 1000)
        metrics = [
            self._entities.Metric(name, value, now, point.at)
            for point in points
            for name, value in point.values.items()
        ]
        for first in range(0, len(metrics), 1000):  # as many as it takes at once
            self._client.log_batch(self._id, metrics=metrics[first : first + 1000])

    def close(self, status: str, results: dict[str, float]) -> None:
        """See `Tracker`."""
        self.write([Point("epoch", int(results.get("chosen_epoch", 0)), results)])
        states = {"finished": "FINISHED", "diverged": "FAILED", "stopped": "KILLED"}
        self._client.set_terminated(self._id, states[status])


TRACKERS: dict[str, type[Tracker]] = {kind.name: kind for kind in (TensorBoard, WandB, MLflow)}


def checked(names: Any) -> tuple[str, ...]:
    """Names of trackers as a user gives them, each once.

    Raises:
        ConfigError: If one is not known, or its library is not installed.
    """
    listed = (names,) if isinstance(names, str) else names
    if not isinstance(listed, list | tuple) or not all(isinstance(name, str) for name in listed):
        raise ConfigError(f"track is {names!r:.80}; give names of {', '.join(TRACKERS)}.")
    for name in listed:
        if name not in TRACKERS:
            raise ConfigError(f"no tracker {name!r:.80}; {suggest(name, list(TRACKERS))}")
        found = find_spec(name)
        if found is None or found.origin is None:  # the latter is a folder, such as of its logs
            raise ConfigError(
                f"--track {name} needs {name}, which is not installed: {install_command(name)}"
            )
    return tuple(dict.fromkeys(listed))


def trackers(names: Iterable[str], results: Path) -> list[Callback]:
    """Callbacks that log below a folder of results."""
    return [TRACKERS[name](results / "tracking") for name in names]


def _point(epoch: EpochProgress) -> Point:
    prefix = _prefix(epoch.stage)
    values = {f"train/{name}": value for name, value in epoch.train.items()}
    values |= {f"valid/{name}": value for name, value in epoch.valid.items()}
    own = {"learning_rate": epoch.learning_rate, "seconds": epoch.seconds}
    values |= {name: value for name, value in own.items() if value is not None}
    named = {_tame(prefix + name): value for name, value in values.items()}
    return Point(f"{prefix}epoch", epoch.epoch, named)


def _prefix(stage: str | None) -> str:
    return "" if stage is None else f"{_tame(stage).replace(' ', '_')}/"


def _tame(name: str) -> str:
    """A name that every tracker takes."""
    return re.sub(r"[^\w ./-]+", "", name)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Setting]]:
    """Nested settings by keys joined with dots; what is neither text nor number as JSON."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            plain = isinstance(value, str | int | float)
            yield f"{prefix}{key}", value if plain else json.dumps(value)
