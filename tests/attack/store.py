"""Attacks on the store: kills and full disks at every file operation, many writers.

A tenth of TRIES is the number of random pairs of kills; all else is tried at every place. A try
runs in a child process, which is killed, or whose disk is full, at the file operation that is due.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import hashlib
import json
import os
import pickle
import random
import re
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from MMSA_ext import files
from MMSA_ext.errors import WriteError
from MMSA_ext.paths import Places
from MMSA_ext.records.rescue import store_or_rescue
from MMSA_ext.records.store import (
    Environment,
    EpochRecord,
    RunIdentity,
    RunRecord,
    RunStore,
    StoreError,
    new_file,
)
from MMSA_ext.runs.api import open_run
from MMSA_ext.runs.one_seed import SeedOutcome
from MMSA_ext.runs.options import RunOptions
from MMSA_ext.runs.seeds import Run
from MMSA_ext.training.checkpoint import load_checkpoint
from tests.attack.operations import Operations, forked, in_child, watched
from tests.attack.tally import Tally
from tests.conftest import make_feature_data

TRIES = 400
NEXT, TIDY = "the next run: stored, nothing left over", "in the end nothing left over"
SAFE = ("no record yet", "old record, its own files", "new record, its own files", NEXT)
WRITERS = 8

# --- what is written ---------------------------------------------------------------------------


def identity(seed: int = 1, **changes: Any) -> RunIdentity:
    fields = {
        "dataset": "mosi",
        "dataset_fingerprint": "0" * 64,
        "model": "attacked",
        "configuration": {"a": 1},
        "seed": seed,
        "code_version": "1",
    }
    return RunIdentity(**(fields | changes))


def record(version: int, seed: int = 1, *, diverged: bool = False, **changes: Any) -> RunRecord:
    """A record whose note, predictions and checkpoint all tell its version."""
    ending = (
        {"status": "diverged", "reason": "it was told to"}
        if diverged
        else {"status": "finished", "metrics": {"test": {"MAE": 0.5, "Corr": 0.5}}}
    )
    return RunRecord(
        identity=identity(seed, **changes),
        selection="lowest validation Loss",
        environment=Environment(device="cpu", python="3", platform="any"),
        created=datetime(2026, 1, 1, tzinfo=UTC),
        checkpoint=None if diverged else identity(seed, **changes).checkpoint_name,
        history=(EpochRecord(epoch=1, valid={"MAE": 0.5, "Loss": 0.5}),),
        notes=(str(version),),
        **ending,
    )


def predictions(version: int, samples: int = 40) -> pd.DataFrame:
    ids = [f"v$_${number}" for number in range(samples)]
    return pd.DataFrame({"split": "test", "id": ids, "label": 0.5, "prediction": float(version)})


def weights(version: int) -> bytes:
    return f"weights {version} ".encode() * 2000


class Place:
    """A store and a folder of checkpoints below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.models = folder, folder / "models"
        self.store = RunStore(folder / "results" / "runs")

    def write(self, version: int, seed: int = 1, *, diverged: bool = False) -> Path:
        """Store a run as `Run.seed` does."""
        run = record(version, seed, diverged=diverged)
        checkpoint = self.models / run.identity.checkpoint_name
        with files.scratch_folder(self.models) as scratch:
            staged = None
            if not diverged:
                staged = scratch / checkpoint.name
                files.write_atomically(staged, weights(version))
            return store_or_rescue(
                self.store,
                run,
                None if diverged else predictions(version),
                overwrite=True,
                checkpoint=checkpoint,
                staged=staged,
            )

    def identity(self, seed: int = 1) -> RunIdentity:
        return identity(seed)

    def holds(self, checkpoint: Path, version: int) -> bool:
        """Whether the weights in a file are of a version."""
        return checkpoint.read_bytes() == weights(version)

    def version(self, seed: int = 1) -> int | None:
        """Version of the record, all of whose files are its own; None where there is none.

        Raises:
            StoreError: The record is damaged, or its predictions or its checkpoint are not its own.
        """
        run = self.store.find(self.identity(seed))
        if run is None:
            return None
        version = int(run.notes[-1])
        if not run.finished:
            return version
        if set(self.store.predictions(run)["prediction"]) != {float(version)}:
            raise StoreError("predictions of another version")
        checkpoint = self.models / run.identity.checkpoint_name
        for file in (checkpoint, new_file(checkpoint)):
            if file.is_file() and _sha256(file.read_bytes()) == run.checkpoint_sha256:
                if not self.holds(file, version):
                    raise StoreError("a checkpoint of another version")
                return version
        raise StoreError("the checkpoint is gone or another")

    def left(self) -> list[str]:
        """Names of files, but for locks."""
        names = (path.name for path in self.folder.rglob("*") if path.is_file())
        return sorted(name for name in names if name != ".lock")

    def tidy(self) -> None:
        """What `Run.seed` does before it trains."""
        self.store.check_writable("mosi", "attacked")
        files.check_writable(self.models, 1)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --- kills at every file operation -------------------------------------------------------------

# What is in the store before, and what is written then: version and whether it diverged.
SCENARIOS: dict[str, tuple[tuple[int, bool] | None, tuple[int, bool]]] = {
    "a new record": (None, (2, False)),
    "a repeated record": ((1, False), (2, False)),
    "a repetition that diverges": ((1, False), (2, True)),
    "a repetition of a diverged run": ((1, True), (2, False)),
    "the same once more": ((2, False), (2, False)),
}


def kills_at_every_operation(
    scenario: str,
    folder: Path,
    *,
    make: Callable[[Path], Place] = Place,
    pairs: int = 0,
    step: int = 1,
) -> Tally:
    """Kill a writer at each of its file operations (or each `step`-th); then at random pairs."""
    before, (version, diverged) = SCENARIOS[scenario]
    tally = Tally(f"killed at every file operation: {scenario}", SAFE)

    def prepared(name: str) -> Place:
        place = make(folder / re.sub(r"\W", "-", f"{scenario} {name}"))
        if before is not None:
            place.write(before[0], diverged=before[1])
        return place

    def write(place: Place) -> Callable[[], Any]:
        return lambda: place.write(version, diverged=diverged)

    _, operations = watched(write(prepared("count")))
    kills = [(due,) for due in range(1, operations + 1, step)]
    numbers = random.Random(0)
    kills += [tuple(numbers.randint(1, operations) for _ in range(2)) for _ in range(pairs)]
    for dues in kills:
        place = prepared(str(dues))
        for due in dues:
            code, _ = watched(write(place), due)
            if code != -signal.SIGKILL:  # a shorter way, since the first kill
                break
        tally.add(_after(place, before and before[0], version), str(dues))
        tally.add(*_next_run(place))
    return tally


def _after(place: Place, old: int | None, new: int) -> str:
    try:
        found = place.version()
    except StoreError as error:
        return f"MIXED OR LOST: {error}"
    if found is None:
        return "no record yet" if old is None else "LOST"
    return "new record, its own files" if found == new else "old record, its own files"


def _next_run(place: Place) -> tuple[str, str]:
    """A run after the killed one."""
    place.tidy()
    place.write(9)
    run = place.identity()
    stem = f"{run.short_id}-seed1"
    expected = sorted([f"{stem}.json", f"{stem}.predictions.csv", run.checkpoint_name])
    if place.version() == 9 and place.left() == expected:
        return NEXT, ""
    return "LEFT OVER", ", ".join(place.left())


class SeedPlace(Place):
    """Stores by `Run.seed` itself, of which only the training is a stand-in."""

    def __init__(self, folder: Path, run: Run) -> None:
        super().__init__(folder)
        places = Places(self.models, folder / "results", folder / "logs")
        self.run = copy.copy(run)
        self.run.places, self.run.store, self.run.reuse = places, self.store, False

    def identity(self, seed: int = 1) -> RunIdentity:
        return self.run.identity(seed)

    def holds(self, checkpoint: Path, version: int) -> bool:
        return load_checkpoint(checkpoint).state_dict["weights"].tolist() == [version] * 9

    def write(self, version: int, seed: int = 1, *, diverged: bool = False) -> Path:
        outcome = SeedOutcome(
            metrics={} if diverged else {"test": {"MAE": 0.5}},
            predictions=None if diverged else predictions(version),
            diverged="it was told to" if diverged else None,
            state_dict={} if diverged else {"weights": torch.full((9,), float(version))},
            notes=(str(version),),
        )

        def train(identity: RunIdentity, position: int, weights: Path, *_: object) -> SeedOutcome:
            weights.write_bytes(b"unfinished")
            return outcome

        self.run._train = train
        return self.run.seed(seed).record_path


@contextlib.contextmanager
def seed_places(folder: Path) -> Iterator[Callable[[Path], Place]]:
    """Makes `SeedPlace`s of one run of a small model."""
    folder.mkdir(parents=True)
    features = folder / "features.pkl"
    features.write_bytes(pickle.dumps(make_feature_data(), protocol=4))
    home = {f"{name}_dir": folder / name for name in ("model_save", "res_save", "log")}
    options = RunOptions(custom_feature=features, gpu_ids="cpu", verbose_level=0, **home)
    with open_run("lf_dnn", "mosi", options) as run:
        yield lambda place: SeedPlace(place, run)


# --- many writers, and readers meanwhile ---------------------------------------------------------


def many_writers(folder: Path, seconds: float = 20.0) -> Tally:
    """Eight processes repeat the same runs, two read them, and a writer is killed now and then."""
    tried = f"{WRITERS} writers and 2 readers of the same runs, writers killed now and then"
    tally = Tally(tried, WRITTEN)
    place, seeds, numbers = Place(folder), range(3), random.Random(0)
    for seed in seeds:
        place.write(0, seed)
    end = time.monotonic() + seconds

    def write(number: int) -> None:
        draw, version = random.Random(number), number
        while time.monotonic() < end:
            version += WRITERS
            place.write(version, draw.choice(list(seeds)))

    def read() -> list[str]:
        said = []
        while time.monotonic() < end:
            for seed in seeds:
                said.append(_read(place, seed))
        return said

    readers = [_reader(read) for _ in range(2)]
    writers = {forked(lambda n=number: write(n)): number for number in range(1, WRITERS + 1)}
    kills = 0
    while time.monotonic() < end - 1:
        time.sleep(numbers.uniform(0.05, 0.4))
        victim = numbers.choice(list(writers))
        number = writers.pop(victim)
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        kills += 1
        writers[forked(lambda n=number: write(n))] = number
    for writer in writers:
        _, status = os.waitpid(writer, 0)
        tally.add(WRITTEN[0] if status == 0 else "WRITER FAILED")
    for _ in range(kills):
        tally.add(WRITTEN[1])
    for reading, child in readers:
        with os.fdopen(reading) as pipe:
            for outcome in json.load(pipe):
                tally.add(outcome)
        os.waitpid(child, 0)
    for seed in seeds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            place.tidy()
            place.write(10**6, seed)
        tally.add(WRITTEN[2] if place.version(seed) == 10**6 else "LOST")
    tally.add(TIDY if len(place.left()) == 9 else "LEFT OVER", str(place.left()))
    return tally


READ = ("read: a record with its own predictions", "read: repeated meanwhile, and said so")
WRITTEN = (
    *("writer ended well", "writer killed and replaced", "in the end: its own files"),
    *(*READ, TIDY),
)


def _read(place: Place, seed: int) -> str:
    run = place.store.find(identity(seed))
    if run is None:
        return "READ: LOST"
    try:
        found = set(place.store.predictions(run)["prediction"])
    except StoreError as error:
        return READ[1] if "repeated meanwhile" in str(error) else f"READ: {error}"
    return READ[0] if found == {float(run.notes[0])} else "READ: MIXED"


def _reader(read: Callable[[], list[str]]) -> tuple[int, int]:
    reading, writing = os.pipe()

    def act() -> None:
        with os.fdopen(writing, "w") as pipe:
            json.dump(read(), pipe)

    child = forked(act)
    os.close(writing)
    return reading, child


# --- full disks --------------------------------------------------------------------------------

KEPT = ("in the store", "rescued, and back in the store by the command that the error gives")
TOLD = "no disk has room: the error tells the metrics"


def full_disk(full: str, folder: Path, *, repeated: bool = True, step: int = 1) -> Tally:
    """Let disks be full from each file operation on that needs space, while a run is stored.

    Args:
        full: "store", "store and checkpoints", or "all", the temporary folder included.
        folder: Where to work.
        repeated: Whether the run is in the store before.
        step: Try each `step`-th operation only.
    """
    kind = "a repeated run" if repeated else "a new run"
    allowed = (*KEPT, TOLD) if full == "all" else KEPT
    tally = Tally(f"disk full from every file operation on ({full}; {kind})", allowed)

    def prepared(name: str) -> Place:
        place = Place(folder / re.sub(r"\W", "-", f"{full} {repeated} {name}"))
        place.models.mkdir(parents=True)
        if repeated:
            place.write(1)
        return place

    def attempt(place: Place, due: int) -> tuple[int, Any]:
        roots = {"store": [place.store.root], "store and checkpoints": [place.folder], "all": []}
        temporary = folder / f"temporary {place.folder.name}"
        temporary.mkdir()

        def act() -> list[Any]:
            tempfile.tempdir = str(temporary)
            operations = Operations(0, _full)
            operations._one = lambda name, path: _space(operations, due, roots[full], name, path)
            with contextlib.ExitStack() as stack:
                scratch = stack.enter_context(files.scratch_folder(place.models))
                checkpoint = place.models / identity().checkpoint_name
                files.write_atomically(scratch / checkpoint.name, weights(2))
                operations.watch()
                try:
                    store_or_rescue(
                        place.store,
                        record(2),
                        predictions(2),
                        overwrite=True,
                        checkpoint=checkpoint,
                        staged=scratch / checkpoint.name,
                    )
                except WriteError as error:
                    return [operations.count, str(error)]
            return [operations.count, ""]

        return in_child(act)

    _, (operations, _) = attempt(prepared("count"), 0)
    for due in range(1, operations + 1, step):
        place = prepared(str(due))
        code, answer = attempt(place, due)
        tally.add(_kept(place, answer, 1 if repeated else None) if code == 0 else "DIED", str(due))
    return tally


_NEED_SPACE = ("open", "mkdir", "rename", "fsync")


def _space(operations: Operations, due: int, roots: list[Path], name: str, path: str) -> None:
    operations.count += 1
    here = not roots or any(path.startswith(str(root)) for root in roots)
    if due and operations.count >= due and name in _NEED_SPACE and here:
        _full(name, path)


def _full(name: str, path: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def _kept(place: Place, answer: list[Any], old: int | None) -> str:
    """Where the run is, by what the error says."""
    _, said = answer
    try:
        found = place.version()
    except StoreError as error:
        return f"MIXED: {error}"
    if not said:
        return KEPT[0] if found == 2 else "LOST"
    if found == 2:
        return "TOLD WRONGLY"
    if found != old:
        return "OLD RECORD LOST"
    commands = [line for line in said.splitlines() if line.startswith("  mkdir -p ")]
    if not commands:
        return TOLD if "'MAE': 0.5" in said else "LOST"
    for command in commands:
        subprocess.run(["sh", "-ec", command], check=True)
    if "checkpoint is lost" in said or len(commands) < 2:
        run = place.store.find(identity())
        whole = run is not None and set(place.store.predictions(run)["prediction"]) == {2.0}
        return "rescued, but for the checkpoint" if whole else "LOST"
    try:
        return KEPT[1] if place.version() == 2 else "LOST"
    except StoreError as error:
        return f"LOST: {error}"


def attacks(folder: Path, tries: int) -> Iterator[Tally]:
    """All tables."""
    with seed_places(folder / "run") as make:
        for scenario in SCENARIOS:
            yield kills_at_every_operation(scenario, folder / "write", pairs=tries // 10)
            yield kills_at_every_operation(scenario, folder / "seed", make=make)
    yield many_writers(folder / "writers")
    for full in ("store", "store and checkpoints", "all"):
        for repeated in (True, False):
            yield full_disk(full, folder / "full", repeated=repeated)
