"""OpenFace's CSV: a row for each frame and face.

The columns `frame`, `face_id`, `timestamp`, `confidence`, `success` come first (older versions have
no `face_id`); all behind them are features, 709 where OpenFace writes all that it has.
Frames without `success` are left out; of several faces the one with most successful frames is
taken, the first of equals.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.data.samples import Sample

if TYPE_CHECKING:
    import pandas as pd

    from MMSA_ext.data.convert.options import Options
    from MMSA_ext.data.convert.report import ConversionReport
    from MMSA_ext.data.convert.source import Source

__all__ = [
    "NO_FEATURES",
    "is_openface",
    "main_face",
    "read",
    "read_openface",
    "read_table",
    "recipe",
]

NO_FEATURES = ("frame", "face_id", "timestamp", "confidence", "success")
_NEEDED = {"frame", "timestamp", "confidence", "success"}


def is_openface(header: str) -> bool:
    """Whether the first line of a text file is the header of OpenFace's CSV."""
    return {name.strip().strip('"') for name in header.split(",")} >= _NEEDED


def read_openface(path: Path) -> tuple[NDArray[np.float32], int, tuple[str, ...]]:
    """Features of the successful frames of the main face.

    Args:
        path: CSV of OpenFace's FeatureExtraction or FaceLandmarkVidMulti.

    Returns:
        Features (L, d), the number of frames in the file, and the features' names.

    Raises:
        ValueError: A column is missing, or a value is no number.
    """
    table = read_table(path)
    found = main_face(table)
    return found.to_numpy(np.float32), int(table["frame"].nunique()), tuple(found.columns)


def read_table(path: Path) -> pd.DataFrame:
    """All that OpenFace wrote, a row a frame and face.

    Raises:
        ValueError: A column is missing.
    """
    import pandas as pd

    table = pd.read_csv(path, skipinitialspace=True, encoding="utf-8-sig")
    table.columns = table.columns.str.strip()
    if missing := _NEEDED - {*table.columns}:
        raise ValueError(f"has no column {min(missing)!r}")
    return table


def main_face(table: pd.DataFrame) -> pd.DataFrame:
    """Features of the face with most successful frames, of those frames."""
    found = table[table["success"] == 1]
    if "face_id" in found and len(found):
        counts = found["face_id"].value_counts()
        found = found[found["face_id"] == counts[counts == counts.max()].index.min()]
    return found[[name for name in table.columns if name not in NO_FEATURES]]


def recipe(features: int) -> dict[str, object]:
    """Who made features that OpenFace wrote; its CSV does not say the version."""
    return {
        "name": "openface",
        "version": "",
        "features": features,
        "unsuccessful_frames": "left out",
    }


def read(source: Source, options: Options, report: ConversionReport) -> Iterator[Sample]:
    """One file as one sample without text, label and split, to be scored."""
    try:
        frames, count, _ = read_openface(source.path)
    except ValueError as error:
        report.problem("it is no sound OpenFace file", str(error).splitlines()[0])
        return
    report.arrived("sample", "vision", count, count - len(frames))
    report.recipe["vision"] = recipe(frames.shape[1])
    report.expected["vision"] = str(source.path)
    yield Sample(source.path.stem, vision=frames)
