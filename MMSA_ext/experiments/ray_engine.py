"""Running an experiment on a Ray cluster (https://www.ray.io).

Workers train in a temporary folder of their own and return what they made; the driver, which holds
the claims, writes it into the store. So nothing is shared but what a run reads: on every worker
this package is installed in the same version, feature files and models of one's own lie under the
same path, and text encoders can be loaded. A worker that dies is replaced by Ray, and its run made
again by the driver.
"""

from __future__ import annotations

import logging
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from MMSA_ext.errors import ConfigError, WriteError
from MMSA_ext.experiments.plan import Unit
from MMSA_ext.experiments.workers import Engine, Outcome, Worker
from MMSA_ext.extras import import_extra
from MMSA_ext.files import scratch_folder, write_atomically
from MMSA_ext.paths import Places
from MMSA_ext.processes import LostWorkerError
from MMSA_ext.records.rescue import store_or_rescue
from MMSA_ext.records.store import RunRecord, RunStore
from MMSA_ext.runs.options import RunOptions

logger = logging.getLogger("MMSA")


@dataclass(frozen=True)
class Delivery:
    """What a worker returns: of a finished run the predictions, and if asked for the checkpoint."""

    outcome: Outcome
    predictions: pd.DataFrame | None = None
    checkpoint: bytes | None = None


def connect(
    address: str | None = None,
    *,
    slots: int | None = None,
    cpus: float = 1,
    gpus: float = 0,
    checkpoints: bool = False,
    **init: Any,
) -> Callable[[RunStore, RunOptions], Engine]:
    """An engine for `experiments.run`.

    Args:
        address: The cluster, as `ray.init` takes it; None starts Ray on this machine, unless it is
            connected already.
        slots: Runs at once; None is as many as the cluster's CPUs and GPUs allow.
        cpus: CPUs of a run, and its threads.
        gpus: GPUs of a run.
        checkpoints: Whether checkpoints are brought back to this machine.
        init: Further arguments of `ray.init`.

    Returns:
        What `experiments.run` takes as `engine`.

    Raises:
        ConfigError: If Ray is not installed.
    """
    ray = import_extra("ray", "ray", "--engine ray, here and on every worker,")

    def make(store: RunStore, options: RunOptions) -> Engine:
        started = not ray.is_initialized()
        if started:
            try:
                _reach(address)
                ray.init(address=address, **({"log_to_driver": False} | init))
            except (OSError, RuntimeError, ValueError) as error:
                where = address or "this machine"
                raise ConfigError(f"no Ray cluster at {where}: {error}") from error
        return RayEngine(ray, started, store, options, slots, cpus, gpus, checkpoints)

    return make


class RayEngine:
    """Makes runs on a cluster; its threads wait for one task each.

    Args:
        ray: The module, connected.
        started: Whether the connection ends with the engine.
        store: Where records go.
        options: Of every run; the folders are the driver's.
        slots: Runs at a time, see `connect`.
        cpus: Of one run.
        gpus: Of one run.
        checkpoints: Whether workers send them.
    """

    def __init__(
        self,
        ray: Any,
        started: bool,
        store: RunStore,
        options: RunOptions,
        slots: int | None,
        cpus: float,
        gpus: float,
        checkpoints: bool,
    ) -> None:
        self._ray, self._store, self._started = ray, store, started
        self._models = Places.resolved(options.model_save_dir).models
        self._overwrite = not options.reuse
        self.slots = slots or _slots(ray.cluster_resources(), cpus, gpus)
        # Workers have another working folder.
        given = {**options.files, "dataset_file": options.dataset_file}
        files = {k: path and str(Path(path).absolute()) for k, path in given.items()}
        # Ray shows a worker its GPUs alone, so the first of them is the right one.
        own: dict[str, Any] = {"gpu_ids": [0] if gpus else ["cpu"]} | files
        self._options = replace(options, verbose_level=0, num_workers=0, **own)
        self._checkpoints = checkpoints
        self._python_path = [str(Path(folder).absolute()) for folder in sys.path]
        self._remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(deliver)
        self._running: set[Any] = set()

    def begin(self, unit: Unit) -> Callable[[], Outcome]:
        """See `Engine`."""
        reference = self._remote.remote(unit, self._options, self._checkpoints, self._python_path)
        self._running.add(reference)
        return partial(self._outcome, unit, reference)

    def _outcome(self, unit: Unit, reference: Any) -> Outcome:
        try:
            delivery: Delivery = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:  # of the task itself: it would be again
            return Outcome(unit, "failed", error=f"Ray: {error}")
        except self._ray.exceptions.RayError as error:
            raise LostWorkerError(f"Ray: {error}") from error
        finally:
            self._running.discard(reference)
        record = delivery.outcome.record
        if record is None:
            return delivery.outcome
        try:
            self._keep(record, delivery)
        except WriteError as error:
            return Outcome(unit, "failed", error=str(error))
        return delivery.outcome

    def close(self) -> None:
        """See `Engine`."""
        for reference in list(self._running):
            self._ray.cancel(reference, force=True)
        deadline = time.monotonic() + 10
        while self._running and time.monotonic() < deadline:  # other threads still use Ray
            time.sleep(0.05)
        if self._started:
            self._ray.shutdown()

    def _keep(self, record: RunRecord, delivery: Delivery) -> None:
        """Bring a run into the store.

        Raises:
            WriteError: It could not be stored and is kept elsewhere.
        """
        checkpoint, staged = self._models / record.identity.checkpoint_name, None
        with ExitStack() as open_until_stored:
            if delivery.checkpoint is not None:
                try:
                    scratch = open_until_stored.enter_context(scratch_folder(self._models))
                    write_atomically(scratch / checkpoint.name, delivery.checkpoint)
                    staged = scratch / checkpoint.name
                except OSError as error:
                    logger.error("The checkpoint cannot be written. %s", error)
            store_or_rescue(
                self._store,
                record,
                delivery.predictions,
                overwrite=self._overwrite,
                checkpoint=checkpoint,
                staged=staged,
            )


def _slots(resources: Mapping[str, float], cpus: float, gpus: float) -> int:
    """How many runs fit on the cluster."""
    rooms = [resources.get("CPU", 1) / cpus] if cpus else []
    rooms += [resources.get("GPU", 0) / gpus] if gpus else []
    return max(1, int(min(rooms, default=1)))


def _reach(address: str | None) -> None:
    """Fail at once where nobody listens; Ray itself tries for minutes.

    Raises:
        OSError: If there is no connection.
    """
    host, separator, port = (address or "").removeprefix("ray://").rpartition(":")
    if separator and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def deliver(
    unit: Unit, options: RunOptions, checkpoints: bool, python_path: Sequence[str]
) -> Delivery:
    """Run a unit in a temporary folder and return what it made; called on a worker.

    Models of the user's are looked for where the driver found them.
    """
    sys.path += [folder for folder in python_path if folder not in sys.path]
    with scratch_folder(Path(tempfile.gettempdir())) as root:
        worker = Worker(options.inside(root))
        try:
            outcome = worker.execute(unit)
        finally:
            worker.close()
        record = outcome.record
        if record is None:
            return Delivery(outcome)
        predictions = None
        if record.predictions_sha256 is not None:
            predictions = RunStore(root / "runs").predictions(record)
        checkpoint = None
        if checkpoints and record.checkpoint is not None:
            checkpoint = (root / record.checkpoint).read_bytes()
        return Delivery(outcome, predictions, checkpoint)
