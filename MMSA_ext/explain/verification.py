"""Do the stored predictions give the stored metrics: MMSA's metrics, computed again.

Accuracies and F1 scores count samples and must be equal. `MAE` and `Corr` are sums, which MMSA
rounds to four digits: its own loop sums in the order of its shuffled loader, the store keeps the
file's order, and so a value at the edge of two roundings may differ by one in the fourth digit.
The `Loss` of a model on this package's trainer is the mean squared error and is computed again; the
`Loss` of MMSA's loop is a mean over batches of that model's own loss, which predictions alone do
not give back. Labels that are withheld are those of the feature file, where it is given.
"""

from __future__ import annotations

import math
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from MMSA_ext import mmsa_bridge
from MMSA_ext.datasets import Dataset
from MMSA_ext.records.publishing import labels_of
from MMSA_ext.records.store import LabelsWithheldError, RunRecord, RunStore, StoreError
from MMSA_ext.registry import is_known, is_registered, trains_in_mmsa
from MMSA_ext.reporting.render import frame_table, to_text

__all__ = ["RecordCheck", "problems", "render", "verify_store"]

Status = Literal[
    "equal", "rounded", "differs", "diverged", "no predictions", "labels withheld", "damaged"
]

_ROUNDED = ("MAE", "Corr")
_FOURTH_DIGIT = 1.0001e-4  # one in the fourth digit, and what float makes of it
_LOSS_TOLERANCE = 1e-5  # relative; one sum in float32 or float64


@dataclass(frozen=True)
class RecordCheck:
    """What became of one record.

    Attributes:
        record: Place in the store, as `dataset/model/name`; of an unreadable file its message
            stands in `detail`.
        status: `equal`; `rounded`: equal but for one in the fourth digit of `MAE` or `Corr`;
            `differs`; `diverged`: it has no metrics; `no predictions`; `labels withheld`, and not
            given; `damaged`.
        compared: Number of metrics computed again.
        left_out: What could not be: splits without predictions, losses of MMSA's loop.
        detail: What differs or is wrong, as sentences; the feature file of withheld labels.
    """

    record: str
    status: Status
    compared: int = 0
    left_out: tuple[str, ...] = ()
    detail: str = ""


def verify_store(
    store: RunStore, files: Iterable[str | os.PathLike[str]] = ()
) -> Iterator[RecordCheck]:
    """Check every record of a store, in the order of the file names.

    Args:
        store: Read only.
        files: Feature files of the runs whose labels are withheld.

    Yields:
        One check a record; files that are no readable record come last, as `damaged`.

    Raises:
        FeatureFileError: A feature file cannot be read.
        StoreError: No record is of a feature file.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        records = list(store.records())
    labels = labels_of(files, records)
    for record in records:
        yield _verify(store, record, labels.get(record.identity.dataset_fingerprint))
    for warning in caught:
        yield RecordCheck("", "damaged", detail=str(warning.message))


def _verify(store: RunStore, record: RunRecord, labels: pd.Series | None) -> RecordCheck:
    name = store.path(record.identity).relative_to(store.root).as_posix()
    if not record.finished:
        return RecordCheck(name, "diverged", detail=record.reason or "")
    if record.predictions_sha256 is None:
        return RecordCheck(name, "no predictions", detail="was stored without predictions.")
    try:
        predictions = store.predictions(record, labels)
    except LabelsWithheldError:
        data = record.identity.dataset_fingerprint
        return RecordCheck(name, "labels withheld", detail=f"feature file with SHA-256 {data}")
    except StoreError as error:
        return RecordCheck(name, "damaged", detail=str(error))
    by_split = {str(split): rows for split, rows in predictions.groupby("split", sort=False)}
    path = store.predictions_path(record.identity)
    lost = (split for split in record.metrics if split not in by_split)
    missing = tuple(f"{path}: has no predictions of the {split} split" for split in lost)
    model = record.identity.model
    has_loss = is_registered(model) and not trains_in_mmsa(model)
    if not is_known(model):
        missing += (f"Loss of {model!r}, a model that is not known here (--import MODULE)",)
    elif not has_loss:
        missing += ("Loss: a mean over the batches of MMSA's loop",)
    try:
        found = [
            _compare(split, record.metrics[split], rows, record.identity.data_set, has_loss)
            for split, rows in by_split.items()
            if split in record.metrics
        ]
    except (ValueError, IndexError) as error:  # NaN, or no label that is not 0
        said = f"{path}: MMSA's metrics are not defined on these predictions ({error})."
        return RecordCheck(name, "damaged", detail=said)
    differing = "; ".join(text for _, _, wrong in found for text in wrong)
    rounded = "; ".join(text for _, close, _ in found for text in close)
    status: Status = "differs" if differing else "rounded" if rounded else "equal"
    return RecordCheck(name, status, sum(n for n, _, _ in found), missing, differing or rounded)


def _compare(
    split: str,
    stored: Mapping[str, float | None],
    rows: pd.DataFrame,
    dataset: Dataset,
    has_loss: bool,
) -> tuple[int, list[str], list[str]]:
    """Number of metrics compared, those equal to rounding, and those that differ."""
    prediction, label = (
        torch.from_numpy(rows[key].to_numpy(np.float32)) for key in ("prediction", "label")
    )
    again: dict[str, float] = dict(mmsa_bridge.metrics(dataset)(prediction, label))
    if has_loss:
        again["Loss"] = functional.mse_loss(prediction, label).item()
    close: list[str] = []
    wrong: list[str] = []
    names = [name for name in {**again, **stored} if name != "Loss" or has_loss]
    for name in names:
        old, new = stored.get(name), again.get(name)
        said = f"{split} {name} is stored as {_number(old)}, the predictions give {_number(new)}"
        if name not in stored or name not in again:
            wrong.append(said)
        elif not _same(old, new):
            (close if _near(name, old, new) else wrong).append(said)
    return len(names), close, wrong


def _same(old: float | None, new: float | None) -> bool:
    if old is None or new is None or math.isnan(new):
        return old is None and (new is None or math.isnan(new))
    return old == new


def _near(name: str, old: float | None, new: float | None) -> bool:
    if old is None or new is None or math.isnan(new):
        return False
    if name == "Loss":
        return math.isclose(old, new, rel_tol=_LOSS_TOLERANCE)
    return name in _ROUNDED and abs(old - new) <= _FOURTH_DIGIT


def _number(value: float | None) -> str:
    return "undefined" if value is None or math.isnan(value) else f"{value:.6g}"


def problems(checks: Iterable[RecordCheck]) -> list[RecordCheck]:
    """The records whose numbers cannot be trusted: they differ, or are damaged."""
    return [check for check in checks if check.status in ("differs", "damaged")]


def render(checks: Iterable[RecordCheck]) -> str:
    """A table by data set and model, then a line for every record that is not `equal`.

    Records whose labels are withheld have a line for each feature file.
    """
    checks = list(checks)
    if not checks:
        return "The store has no records."
    known = [check for check in checks if check.record]
    table = pd.DataFrame(
        {
            "model": ["/".join(check.record.split("/")[:2]) for check in known],
            "status": [check.status for check in known],
            "metrics compared": [check.compared for check in known],
        }
    )
    lines = []
    if known:
        counts = pd.crosstab(table["model"], table["status"])
        counts["metrics compared"] = table.groupby("model")["metrics compared"].sum()
        lines.append(to_text(frame_table(counts.reset_index())))
    lines += [
        f"{check.status}: {check.record or 'file'}: {check.detail}".rstrip(": ")
        for check in checks
        if check.status not in ("equal", "labels withheld")
    ]
    withheld = Counter(check.detail for check in checks if check.status == "labels withheld")
    lines += [
        f"labels withheld: {_records(n)} not computed again; give the {data}: -f FILE."
        for data, n in withheld.items()
    ]
    left_out = sorted({text for check in known for text in check.left_out})
    lines += [f"not computed again: {text}." for text in left_out]
    total = sum(check.status in ("equal", "rounded") for check in checks)
    wrong = len(problems(checks))
    said = f", {withheld.total()} have their labels withheld" if withheld else ""
    lines.append(
        f"{_records(len(checks))}: {total} give their metrics back, {wrong} do not or are damaged"
        f"{said}."
    )
    return "\n".join(lines)


def _records(n: int) -> str:
    return "1 record" if n == 1 else f"{n} records"
