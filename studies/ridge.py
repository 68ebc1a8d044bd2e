"""The floor of a comparison: ridge regression on what a modality shows on average.

    python studies/ridge.py mmmo_av.pkl mosi audio vision --out results/claims/ridge.csv

Of each modality the mean and the standard deviation over its valid frames (of text: its vectors)
are taken and standardised by the training split; the strength is the one with the lowest validation
MAE. One fit, no seeds. A line of the same file and modalities is replaced.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from MMSA_ext import mmsa_bridge
from MMSA_ext.data.feature_set import FeatureSplit
from MMSA_ext.data.features import fingerprint, read_features

# Powers of the square root of ten.
STRENGTHS = np.logspace(-2, 5, 15)


def averages(split: FeatureSplit, modality: str) -> NDArray[np.float64]:
    """Mean and standard deviation over the valid frames of each sample, `(n, 2 d)`."""
    if modality == "text":
        if split.text is None:
            raise SystemExit("the file has no text vectors (the key text); leave text out.")
        frames = split.text
        valid = (frames != 0).any(axis=2)
    else:
        frames, lengths = split.frames(modality)
        valid = np.arange(frames.shape[1]) < lengths[:, None]
    weights = np.asarray(valid)[..., None] / np.maximum(valid.sum(axis=1), 1)[:, None, None]
    values = np.asarray(frames, np.float64)
    mean = (values * weights).sum(axis=1)
    deviation = np.sqrt(((values - mean[:, None]) ** 2 * weights).sum(axis=1))
    return np.concatenate([mean, deviation], axis=1)


def ridge(features: Path, dataset: str, modalities: list[str]) -> dict[str, str | float]:
    """Fit on the training split and score the test split.

    Returns:
        `fingerprint`, `modalities`, `strength`, and MMSA's metrics of the test split.
    """
    splits = read_features(features, dataset).splits
    inputs, labels = (
        {name: of(split) for name, split in splits.items()}
        for of in (
            lambda split: np.concatenate([averages(split, m) for m in modalities], axis=1),
            lambda split: split.labels["M"],
        )
    )
    fits = {
        strength: make_pipeline(StandardScaler(), Ridge(strength)).fit(
            inputs["train"], labels["train"]
        )
        for strength in STRENGTHS
    }
    errors = {
        strength: np.abs(fit.predict(inputs["valid"]) - labels["valid"]).mean()
        for strength, fit in fits.items()
    }
    best = min(errors, key=lambda strength: errors[strength])
    predicted = torch.tensor(fits[best].predict(inputs["test"]), dtype=torch.float32)
    scores = mmsa_bridge.metrics(dataset)(predicted, torch.from_numpy(labels["test"]))
    return {
        "fingerprint": fingerprint(features),
        "modalities": " ".join(modalities),
        "strength": float(f"{best:.4g}"),
        **scores,
    }


def main(
    features: Annotated[Path, typer.Argument(help="Feature file.")],
    dataset: Annotated[str, typer.Argument(help="Whose labels and metrics it has.")],
    modalities: Annotated[list[str], typer.Argument(help="text, audio, vision.")],
    out: Annotated[Path, typer.Option(help="CSV file, one line a file and modalities.")],
) -> None:
    """Fit, print and write."""
    lines = pd.DataFrame([ridge(features, dataset, modalities)])
    if out.is_file():
        lines = pd.concat([pd.read_csv(out), lines])
    lines = lines.drop_duplicates(["fingerprint", "modalities"], keep="last")
    lines.to_csv(out, index=False)
    print(lines.to_string(index=False))


if __name__ == "__main__":
    typer.run(main)
