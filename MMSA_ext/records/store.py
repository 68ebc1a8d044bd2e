"""The run store: one immutable record per (data, model, configuration, seed, code version).

A record is a JSON file, with its predictions as CSV beside it::

    <root>/<dataset>/<model>/<16 hex digits>-seed<seed>.json
    <root>/<dataset>/<model>/<16 hex digits>-seed<seed>.predictions.csv

The name follows from the content of the run's identity, so the same run has the same name on every
machine: running it twice is a look-up, and stores merge by copying files into one folder. Tables,
figures and statistics are pure functions of what is read here; nothing in this package imports
models or training.

A record carries the digests of its predictions and of its checkpoint, and these three change
together, whatever ends the process: the new predictions and the new checkpoint are written beside
the old ones (`.new` before the last ending), then one rename puts the new record in place of the
old, and only then do they take the places of the old ones. Who reads a record in between finds what
has its digest.

The predictions of a published record may lack their labels (`records.publishing`). Its digest is
still that of all of them, and so proves labels that are put back.
"""

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pandas as pd

from MMSA_ext.errors import WriteError
from MMSA_ext.files import (
    check_writable,
    exclusive,
    move_aside,
    read_regular,
    reason,
    sync_folder,
    write_atomically,
    write_error,
)
from MMSA_ext.records.predictions import (
    predictions_csv,
    read_predictions_csv,
    read_withheld_csv,
    samples_of,
    with_labels,
    without_labels,
)
from MMSA_ext.records.record import (
    EarlierRecordError,
    Environment,
    EpochRecord,
    RunIdentity,
    RunRecord,
    StoreError,
    StoreWarning,
    collect_environment,
    content_digest,
    read_record,
)

__all__ = [
    "Environment",
    "EpochRecord",
    "LabelsWithheldError",
    "RunIdentity",
    "RunRecord",
    "RunStore",
    "StoreError",
    "StoreWarning",
    "collect_environment",
    "content_digest",
    "file_digest",
    "new_file",
    "read_record",
]

# More than predictions of millions of samples take.
_PREDICTIONS_BYTES: Final = 512 * 2**20
# More than record and predictions of MOSEI's 23,000 samples take.
_PROBE_BYTES: Final = 4 * 2**20


class LabelsWithheldError(StoreError):
    """The predictions of a run were published without the labels of its data set."""


def new_file(path: Path) -> Path:
    """Where the new content of `path` lies until the record that it belongs to is in place."""
    return path.with_suffix(f".new{path.suffix}")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class RunStore:
    """Run records in a folder: written once, atomically, by any number of processes.

    Args:
        root: Folder of the store; made by the first `write`.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def path(self, identity: RunIdentity) -> Path:
        """Return where the record of `identity` is, or would be."""
        name = f"{identity.short_id}-seed{identity.seed}.json"
        return self.root / identity.dataset / identity.model / name

    def predictions_path(self, identity: RunIdentity) -> Path:
        """Return where the predictions of `identity` are, or would be."""
        return self.path(identity).with_suffix(".predictions.csv")

    def write(
        self,
        record: RunRecord,
        predictions: pd.DataFrame | None = None,
        *,
        overwrite: bool = False,
        checkpoint: Path | None = None,
        staged: Path | None = None,
    ) -> Path:
        """Store a record with its predictions and its checkpoint; what is already stored is kept.

        A process that is killed at any instruction leaves the old three or the new three. A damaged
        record in the way is moved aside to `<name>.json.damaged`.

        Args:
            record: The run.
            predictions: Columns `split`, `id`, `label`, `prediction`; one row a sample.
            overwrite: Replace a record of the same identity.
            checkpoint: Where the run's checkpoint belongs; None leaves checkpoints alone.
            staged: The checkpoint, complete and on the same file system; None where there is none,
                so that one of the record that is replaced goes.

        Returns:
            Path of the record's JSON file.

        Raises:
            StoreError: The predictions lack a column or have another one.
            WriteError: The disk refuses, or another process held the store for two minutes; what
                was stored and `staged` are as they were.
        """
        path, predictions_path = self.path(record.identity), self.predictions_path(record.identity)
        table = None if predictions is None else predictions_csv(predictions)
        digests = {"predictions_sha256": table and hashlib.sha256(table).hexdigest()}
        try:
            if staged is not None:
                digests["checkpoint_sha256"] = file_digest(staged)
            record = record.model_copy(update=digests)
            content = _content(record)
            path.parent.mkdir(parents=True, exist_ok=True)
            with exclusive(self._lock):
                old = self._stored(record.identity)
                if old is not None and not overwrite:
                    return path
                if old is not None:
                    self._settle(old, checkpoint)
                self._replace(path, content, table, checkpoint, staged)
                with suppress(OSError):  # the record is in place, and its files are found
                    _take_place(predictions_path, there=table is not None)
                    if checkpoint is not None:
                        _take_place(checkpoint, there=staged is not None)
        except WriteError:
            raise
        except OSError as error:
            raise write_error(path, error) from error
        return path

    def adopt(
        self,
        source: "RunStore",
        record: RunRecord,
        predictions: pd.DataFrame | None,
        *,
        withhold_labels: bool = False,
    ) -> bool:
        """Store a record of another store as it is, its digests too, without its checkpoint.

        What is there already stays; only predictions whose labels are withheld give way to the same
        with their labels. A process that is killed leaves no record without its predictions.

        Args:
            source: Where the record is from; may be this store.
            record: A record that it returned.
            predictions: Its predictions, with labels; None where it has none.
            withhold_labels: Whether to write them without.

        Returns:
            Whether anything was written.

        Raises:
            StoreError: The run is here with another record, or with other predictions or labels; or
                its predictions were not written by this package.
            WriteError: The disk refuses, or another process held the store for two minutes.
        """
        path, place = self.path(record.identity), self.predictions_path(record.identity)
        source_place = source.predictions_path(record.identity)
        table = withheld = None
        if predictions is not None:
            table, withheld = map(predictions_csv, (predictions, without_labels(predictions)))
            if hashlib.sha256(table).hexdigest() != record.predictions_sha256:
                raise StoreError(f"{source_place}: was written by another program; run again.")
            table = withheld if withhold_labels else table
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with exclusive(self._lock):
                old = self.find(record.identity)
                if old is not None:
                    self._settle(old, None)
                    _check_same(old == record, path, source.path(record.identity))
                here = read_regular(place, _PREDICTIONS_BYTES) if os.path.lexists(place) else None
                if old is not None and table is not None:
                    _check_same(here in (None, table, withheld), place, source_place)
                if table is not None and table != here:
                    write_atomically(place, table)
                if old is None:
                    write_atomically(path, _content(record))
        except WriteError:
            raise
        except OSError as error:
            raise write_error(path, error) from error
        return old is None or (table is not None and table != here)

    @property
    def _lock(self) -> Path:
        return self.root / ".lock"

    def _replace(
        self,
        path: Path,
        content: bytes,
        table: bytes | None,
        checkpoint: Path | None,
        staged: Path | None,
    ) -> None:
        """Put a record in place, after the files that belong to it are on the disk."""
        predictions = new_file(path.with_suffix(".predictions.csv"))
        try:
            if table is not None:
                write_atomically(predictions, table)
            if staged is not None and checkpoint is not None:
                staged.replace(new_file(checkpoint))
                sync_folder(checkpoint.parent)
            write_atomically(path, content)
        except OSError:
            with suppress(OSError):
                if path.read_bytes() == content:  # in place for all that
                    return
            with suppress(OSError):
                predictions.unlink(missing_ok=True)
            if staged is not None and checkpoint is not None and not staged.exists():
                with suppress(OSError):
                    new_file(checkpoint).replace(staged)
            raise

    def _stored(self, identity: RunIdentity) -> RunRecord | None:
        """The record of a run; one that cannot be read is moved aside with its predictions."""
        try:
            return self.find(identity)
        except StoreError as error:
            if os.path.lexists(predictions := self.predictions_path(identity)):
                move_aside(predictions)
            aside = move_aside(self.path(identity))
            warnings.warn(f"{error} It was moved to {aside.name}.", StoreWarning, stacklevel=3)
            return None

    def settle(self, record: RunRecord, checkpoint: Path | None = None) -> None:
        """Finish the storing of a record whose process was killed at the last step.

        Args:
            record: A record that this store returned.
            checkpoint: Where its checkpoint belongs.
        """
        places = [self.predictions_path(record.identity), *filter(None, [checkpoint])]
        if any(new_file(place).exists() for place in places):
            with suppress(OSError), exclusive(self._lock):  # else the next one does
                now = self.find(record.identity)
                if now is not None:
                    self._settle(now, checkpoint)

    def _settle(self, record: RunRecord, checkpoint: Path | None) -> None:
        digests = {self.predictions_path(record.identity): record.predictions_sha256}
        if checkpoint is not None:
            digests[checkpoint] = record.checkpoint_sha256
        for place, digest in digests.items():
            if digest and new_file(place).is_file() and file_digest(new_file(place)) == digest:
                new_file(place).replace(place)

    def check_writable(self, dataset: str, model: str) -> None:
        """Find out before a run whether its record could be stored now; tidy up its folder.

        Args:
            dataset: Data set of the run.
            model: Its model.

        Raises:
            WriteError: It could not: the lock is held or cannot be opened, or the disk is full,
                read-only or otherwise refuses.
        """
        folder = self.root / dataset / model
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(folder, error) from error
        with exclusive(self._lock):
            pass
        longest = f"{'0' * 16}-seed{'0' * 10}.predictions.new.csv"
        check_writable(folder, _PROBE_BYTES, longest)

    def find(self, identity: RunIdentity) -> RunRecord | None:
        """Look a run up.

        Args:
            identity: The run.

        Returns:
            Its record, or None where it has not been stored.

        Raises:
            StoreError: The record is there and cannot be read.
        """
        path = self.path(identity)
        if not os.path.lexists(path):
            return None
        record = read_record(path)
        if record.identity != identity:
            raise StoreError(
                f"{path}: the record inside belongs to another run than the file's name says. "
                "Restore the file from a copy, or delete it so that the run is made again."
            )
        return record

    def records(self, dataset: str | None = None, model: str | None = None) -> Iterator[RunRecord]:
        """Read every record, in the order of the file names.

        A file that cannot be read, or that lies under another name than its own (a copy that would
        be counted twice), is passed over with a `StoreWarning` that names it; of records of earlier
        versions there is one for all.

        Args:
            dataset: Only this data set.
            model: Only this model.

        Yields:
            The stored records.
        """
        earlier: list[EarlierRecordError] = []
        for path in self._record_files(dataset, model):
            try:
                record = read_record(path)
            except EarlierRecordError as error:
                earlier.append(error)
                continue
            except StoreError as error:
                warnings.warn(str(error), StoreWarning, stacklevel=2)
                continue
            expected = self.path(record.identity)
            if path != expected:
                warnings.warn(
                    f"{path}: passed over, because this record's own name is "
                    f"{expected.relative_to(self.root)}. Rename the file, or delete the copy.",
                    StoreWarning,
                    stacklevel=2,
                )
                continue
            yield record
        if earlier:
            others = f" So are {len(earlier) - 1} more." if earlier[1:] else ""
            warnings.warn(f"{earlier[0]}{others}", StoreWarning, stacklevel=2)

    def predictions(self, record: RunRecord, labels: pd.Series | None = None) -> pd.DataFrame:
        """Read the predictions of a stored run.

        Args:
            record: A record that this store returned.
            labels: Labels of its feature file by split and id (`records.publishing.labels_of`), put
                back where they are withheld.

        Returns:
            Columns `split` and `id` (strings), `label` and `prediction` (float64, exactly as
            written), one row a sample.

        Raises:
            LabelsWithheldError: The labels are withheld, and none are given.
            StoreError: The run has no predictions, or their file is missing or was changed; or the
                labels given are not those of the run.
        """
        path, here = self.predictions_path(record.identity), self.path(record.identity)
        if record.predictions_sha256 is None:
            raise StoreError(f"{here}: this run was stored without predictions.")
        problem: OSError | None = None
        for place in (path, new_file(path), path):  # a writer moves the second to the first
            try:
                content = read_regular(place, _PREDICTIONS_BYTES)
            except OSError as error:
                problem = error
                continue
            if hashlib.sha256(content).hexdigest() == record.predictions_sha256:
                return read_predictions_csv(content, place)
            problem = None
        now = record
        with suppress(StoreError):
            now = read_record(here)
        if now.predictions_sha256 != record.predictions_sha256:
            raise StoreError(f"{here}: this run was repeated meanwhile; read its record again.")
        copied = "Copy the file from the machine that made the run."
        if problem is not None:
            why = reason(problem)
            raise StoreError(f"{path}: the predictions cannot be read ({why}). {copied}")
        said = "these are not the predictions that the record was written with"
        if (withheld := read_withheld_csv(content, path)) is not None:
            if labels is None:
                raise LabelsWithheldError(_labels_withheld(here, record))
            table = with_labels(withheld, labels)
            if hashlib.sha256(predictions_csv(table)).hexdigest() == record.predictions_sha256:
                return table
            said = f"with the labels of their feature file put back, {said}"
        raise StoreError(f"{path}: {said}. {copied}")

    def usable_predictions(
        self, records: Iterable[RunRecord], split: str = "test"
    ) -> list[tuple[RunRecord, pd.DataFrame]]:
        """Predictions of runs on one feature file, as far as they can be used together.

        Passed over, with a `StoreWarning` that names the file, are those that cannot be read, whose
        labels are withheld, that lack the split, have a sample twice or a value that is not finite
        there, or have other samples or labels than most.

        Args:
            records: Records that this store returned.
            split: Split that counts.

        Returns:
            The other records, each with its predictions of all splits.

        Raises:
            StoreError: None is left; says why the first is not.
        """
        found, problems = [], []
        for record in records:
            try:
                table = self.predictions(record)
                samples = samples_of(table, split, self.predictions_path(record.identity))
                found.append((record, table, samples))
            except StoreError as error:
                problems.append(error)
        counts = Counter(samples for _, _, samples in found)
        usual, times = counts.most_common(1)[0] if counts else (None, 0)
        if 2 * times > len(found):
            problems += [
                StoreError(
                    f"{self.predictions_path(record.identity)}: has other samples or labels of the "
                    f"{split} split than most runs on this feature file."
                )
                for record, _, samples in found
                if samples != usual
            ]
            found = [each for each in found if each[2] == usual]
        if problems and not found:
            raise problems[0]
        for problem in problems:
            warnings.warn(f"{problem} The run is passed over.", StoreWarning, stacklevel=2)
        return [(record, table) for record, table, _ in found]

    def _record_files(self, dataset: str | None, model: str | None) -> Iterator[Path]:
        """JSON files by data set, model and name; a folder that cannot be read is named."""
        for of_dataset in _listed(self.root):
            if dataset in (None, of_dataset.name):
                for of_model in _listed(of_dataset):
                    if model in (None, of_model.name):
                        yield from (path for path in _listed(of_model) if path.suffix == ".json")


def _content(record: RunRecord) -> bytes:
    return (record.model_dump_json(indent=1) + "\n").encode()


def _check_same(same: bool, here: Path, there: Path) -> None:
    if not same:
        raise StoreError(
            f"{here}: is there already, with other content than {there}. Move one of them away, or "
            "choose another folder."
        )


def _labels_withheld(path: Path, record: RunRecord) -> str:
    return (
        f"{path}: the labels of its predictions are withheld, as those of its data set are not "
        "passed on. Who has the feature file they were made from (SHA-256 "
        f"{record.identity.dataset_fingerprint}) checks them by `mmsa-ext verify -f FILE`, and "
        "copies the records with their labels by `mmsa-ext records restore FOLDER -f FILE`."
    )


def _listed(folder: Path) -> list[Path]:
    """What a folder holds, sorted, without hidden names."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        said = f"{folder}: passed over, because this folder cannot be read ({reason(error)})."
        warnings.warn(said, StoreWarning, stacklevel=4)
        return []


def _take_place(path: Path, *, there: bool) -> None:
    """Let the new content of a file take its place; without new content, none is left."""
    if there:
        new_file(path).replace(path)
    else:
        path.unlink(missing_ok=True)
        new_file(path).unlink(missing_ok=True)
