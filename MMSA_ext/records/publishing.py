"""Records for others: without the labels of their data set, which may not be passed on, and back.

A record stays as it is, with the digest of its complete predictions. Who has the feature file puts
the labels back, and the digest proves that they and the predictions are those of the run.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from MMSA_ext.data.features import fingerprint, read_features
from MMSA_ext.records.store import LabelsWithheldError, RunRecord, RunStore, StoreError

__all__ = ["Copied", "labels_of", "publish", "restore"]


@dataclass(frozen=True)
class Copied:
    """What became of the records of a store.

    Attributes:
        written: How many are new in the other store, or have their labels now.
        there: How many were there already.
        left_out: How many have labels withheld that no file has, by the fingerprint of theirs.
    """

    written: int
    there: int
    left_out: Mapping[str, int]


def publish(source: RunStore, destination: RunStore, datasets: Collection[str] = ()) -> Copied:
    """Copy records, those of diverged runs too, with their predictions but without labels.

    Checkpoints are not copied. Called again, it copies what is new.

    Args:
        source: Read only.
        destination: Another store.
        datasets: Only these; all by default.

    Raises:
        StoreError: Predictions are missing, changed or without labels already; or a run is in the
            other store with other content.
        WriteError: The disk refuses.
    """
    if source.root.resolve() == destination.root.resolve():
        raise StoreError(f"{source.root}: is what is to be published; name another folder.")
    written = []
    for record in source.records():
        if not datasets or record.identity.dataset in datasets:
            stored = record.predictions_sha256 is not None
            table = source.predictions(record) if stored else None
            written.append(destination.adopt(source, record, table, withhold_labels=True))
    return Copied(sum(written), len(written) - sum(written), {})


def restore(
    source: RunStore, destination: RunStore, files: Iterable[str | os.PathLike[str]]
) -> Copied:
    """Copy records with their predictions, of which withheld labels are put back.

    Args:
        source: A store of `publish`; complete predictions are copied as they are.
        destination: Another store, or the same.
        files: Feature files that runs were made from.

    Raises:
        FeatureFileError: A file cannot be read.
        StoreError: A file is of no record; predictions are missing or changed; or a run is in the
            other store with other content.
        WriteError: The disk refuses.
    """
    records = list(source.records())
    labels = labels_of(files, records)
    written = []
    left_out: Counter[str] = Counter()
    for record in records:
        data = record.identity.dataset_fingerprint
        try:
            stored = record.predictions_sha256 is not None
            table = source.predictions(record, labels.get(data)) if stored else None
        except LabelsWithheldError:
            left_out[data] += 1
            continue
        written.append(destination.adopt(source, record, table))
    return Copied(sum(written), len(written) - sum(written), left_out)


def labels_of(
    files: Iterable[str | os.PathLike[str]], records: Iterable[RunRecord]
) -> dict[str, pd.Series]:
    """Labels of feature files, for `RunStore.predictions`.

    Args:
        files: Feature files, or folders of shards.
        records: Those that the files are to belong to.

    Returns:
        Fingerprint of a file, as records have it -> labels, float32, by split and id.

    Raises:
        FeatureFileError: A file cannot be read.
        StoreError: No record is of a file.
    """
    known = {record.identity.dataset_fingerprint for record in records}
    labels = {}
    for file in files:
        if (found := fingerprint(file)) not in known:
            raise StoreError(
                f"{file}: none of these records was made from this feature file (SHA-256 {found}); "
                f"they were from {', '.join(sorted(known)) or 'none'}. Give the file of one of "
                "these, or leave it out."
            )
        features = read_features(file, front_padding="keep")  # as it may, since only labels count
        labels[features.fingerprint] = pd.concat(
            {
                name: pd.Series(split.labels["M"], index=split.ids)
                for name, split in features.splits.items()
            }
        )
    return labels
