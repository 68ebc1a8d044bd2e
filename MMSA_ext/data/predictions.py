"""What a model predicted of a split, by whomever's evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd
from torch import Tensor

FUSED = "Feature_f"  # MMSA's name of the fused vector, from which a model predicts


@dataclass(frozen=True)
class Predictions:
    """Predictions of one pass over a split, in file order.

    Attributes:
        ids: Sample ids, as in the feature file.
        prediction: `(N,)` float32, in the label's unit, on the CPU.
        label: `(N,)` float32; NaN where the file has no labels.
        features: MMSA's `Feature_*` outputs, each `(N, d)`; empty unless asked for.
    """

    ids: list[str]
    prediction: Tensor
    label: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)


def predictions_frame(predictions: Mapping[str, Predictions]) -> pd.DataFrame:
    """Predictions by split as one table.

    Returns:
        Columns `split`, `id`, `label` and `prediction`, one row a sample, in the order given.
    """
    tables = [
        pd.DataFrame(
            {
                "split": split,
                "id": found.ids,
                "label": found.label.numpy(),
                "prediction": found.prediction.numpy(),
            }
        )
        for split, found in predictions.items()
    ]
    return pd.concat(tables, ignore_index=True)
