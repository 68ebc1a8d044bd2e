"""The embedded default: generated data of known structure, small enough for a laptop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from MMSA_ext.data.synthetic import achievable, write
from MMSA_ext.paths import Places
from MMSA_ext.version import __version__

# Text is tokenised for the offline English encoder; SIMS has a Chinese vocabulary of its own.
_TOKENIZER = {"mosi": "minilm", "mosei": "minilm"}
_SHAPE: dict[str, Any] = {"sizes": (320, 80, 160), "lengths": (24, 40, 32)}


def demo_features(dataset: str, folder: str | Path | None = None) -> Path:
    """Write the embedded data set, unless it is there.

    Args:
        dataset: A shipped one, whose dimensions and labels it has.
        folder: Folder of results; `~/MMSA/results` if None.

    Returns:
        Feature file with 320 training, 80 validation and 160 test samples, at most 24 tokens, 40
        audio and 32 vision frames; see `data.synthetic` for what is planted in it.

    Raises:
        ConfigError: If there is no such data set.
        TextEncoderError: If the tokenizer of the offline encoder is not installed.
    """
    dataset = dataset.lower()
    results = Places.resolved(results=folder).results
    path = results / "synthetic" / f"{dataset}-{__version__}.pkl"
    if not path.is_file():
        write(path, dataset, tokenizer=_TOKENIZER.get(dataset), **_SHAPE)
    return path


def demo_optimum(dataset: str) -> pd.DataFrame:
    """What the best possible predictor reaches on the embedded data.

    Args:
        dataset: As in `demo_features`.

    Returns:
        See `synthetic.achievable`.

    Raises:
        ConfigError: If there is no such data set.
    """
    return achievable(dataset, lengths=_SHAPE["lengths"])
