"""The records of `tests.reporting`, for tests of storing them, and feature files of predictions."""

import numpy as np

from MMSA_ext.data.features import write_features
from tests.reporting.conftest import make_diverged_record, make_record, predictions, records

__all__ = ["features_of", "make_diverged_record", "make_record", "predictions", "records"]


def features_of(table, path):
    """Write the feature file whose samples and labels are those of predictions."""
    data = {}
    for split, rows in table.groupby("split"):
        frames = np.ones((len(rows), 2, 3), np.float32)
        data[split] = {
            "id": list(rows["id"]),
            "raw_text": ["said"] * len(rows),
            "audio": frames,
            "vision": frames,
            "regression_labels": rows["label"].to_numpy(np.float32),
        }
    return write_features(path, data)
