"""Predictions of a run as CSV: every id and every float comes back exactly.

Labels of a data set that may not be passed on are withheld: the cells of `label` are empty.
"""

import csv
import io
import math
from pathlib import Path

import numpy as np
import pandas as pd

from MMSA_ext.records.record import StoreError

PREDICTION_COLUMNS = ("split", "id", "label", "prediction")


def predictions_csv(predictions: pd.DataFrame) -> bytes:
    """Write predictions.

    Args:
        predictions: `PREDICTION_COLUMNS`, one row a sample.

    Returns:
        CSV in UTF-8.

    Raises:
        StoreError: A column is missing, or there is another one.
    """
    if set(predictions.columns) != set(PREDICTION_COLUMNS):
        raise StoreError(
            f"predictions have the columns {list(predictions.columns)}; "
            f"they must be {list(PREDICTION_COLUMNS)}."
        )
    # float32 is widened first: its shortest decimal form would read back as another float64.
    table = predictions[list(PREDICTION_COLUMNS)].astype(
        {"split": str, "id": str, "label": np.float64, "prediction": np.float64}
    )
    buffer = io.StringIO(newline="")
    table.to_csv(buffer, index=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    return buffer.getvalue().encode(errors="backslashreplace")  # half a surrogate pair


def read_predictions_csv(content: bytes, path: Path) -> pd.DataFrame:
    """Read what `predictions_csv` wrote.

    Args:
        content: The CSV.
        path: Where it was, for the message.

    Raises:
        StoreError: It is something else.
    """
    # As text first: an id may be "NA" or "0001", and Python's float is exact in every pandas.
    try:
        table = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
        if tuple(table.columns) != PREDICTION_COLUMNS:
            raise ValueError(f"its columns are {', '.join(map(str, table.columns))}")
        for column in ("label", "prediction"):
            numbers = [float(cell) if cell else math.nan for cell in table[column]]
            table[column] = np.array(numbers, dtype=np.float64)
    except ValueError as error:
        raise StoreError(f"{path}: not a table of predictions ({error}).") from error
    return table


def without_labels(table: pd.DataFrame) -> pd.DataFrame:
    """Predictions as they may be published where the labels may not."""
    return table.assign(label=np.nan)


def with_labels(table: pd.DataFrame, labels: pd.Series) -> pd.DataFrame:
    """Put withheld labels back.

    Args:
        table: `PREDICTION_COLUMNS`.
        labels: Labels by split and id.

    Returns:
        The table with these labels, NaN for a sample that has none there.
    """
    rows = pd.MultiIndex.from_frame(table[["split", "id"]])
    return table.assign(label=labels.reindex(rows).to_numpy(np.float64))


def read_withheld_csv(content: bytes, path: Path) -> pd.DataFrame | None:
    """Read what `predictions_csv` wrote of `without_labels`; None where it is something else."""
    try:
        table = read_predictions_csv(content, path)
    except StoreError:
        return None
    return table if len(table) and table["label"].isna().all() else None


def samples_of(table: pd.DataFrame, split: str, path: Path) -> frozenset[tuple[str, float]]:
    """Ids and labels of a split, which runs that are used together share.

    Raises:
        StoreError: The split is not there, or not as a run that finished leaves it.
    """
    rows = table[table["split"] == split]
    if rows.empty:
        there = ", ".join(sorted(set(table["split"]))) or "none"
        said = f"no predictions of the {split} split were kept; there are {there}"
    elif rows["id"].duplicated().any():
        said = f"a sample is twice in the {split} split"
    elif not np.isfinite(rows[["label", "prediction"]].to_numpy()).all():
        said = f"a label or prediction of the {split} split is not finite"
    else:
        return frozenset(zip(rows["id"], rows["label"], strict=True))
    raise StoreError(f"{path}: {said}.")
