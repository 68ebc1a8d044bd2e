"""Vision features that OpenFace 2 wrote into a CSV file beside the video, of the same name.

OpenFace is a program that users run themselves:

    FeatureExtraction -f clip.mp4 -of clip.csv

All that it writes has 709 columns, as SIMS has; with `-pose -gaze -aus -2Dfp`, say, it has fewer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from MMSA_ext.data.convert import openface
from MMSA_ext.errors import MediaError, first_line
from MMSA_ext.paths import expand, shown
from MMSA_ext.validation import whole_number
from MMSA_ext.video.contract import Track

if TYPE_CHECKING:
    from MMSA_ext.video.contract import Clip

__all__ = ["OpenFace"]


class OpenFace:
    """The columns of OpenFace's CSV for the frames of a clip in which it found the main face.

    Other frames are left out. The face is the one that is found most often in the clip.

    Args:
        width: Columns that a file has behind OpenFace's first five: 709 in SIMS, 177 in SIMS v2.
        folder: Where the CSV files are; None is beside the videos.
    """

    name = "openface"
    modality: Literal["audio", "vision"] = "vision"

    def __init__(self, width: int = 709, folder: str | None = None) -> None:
        self.width = whole_number("width", width, 1)
        self._folder = folder

    def recipe(self) -> dict[str, Any]:
        """As the conversion of an OpenFace file says it."""
        return openface.recipe(self.width)

    def __call__(self, clip: Clip) -> Track:
        """(L, width) features.

        Raises:
            MediaError: There is no CSV file, it is damaged, or it has another width.
        """
        file = self._file(clip.path)
        try:
            table = openface.read_table(file)
            since = table["timestamp"].to_numpy(np.float64) - clip.start
            inside = table[(since >= -1e-3) & (since < clip.duration - 1e-3)]
            found = openface.main_face(inside)
            frames = found.to_numpy(np.float32)
            times = table.loc[found.index, "timestamp"].to_numpy(np.float64) - clip.start
        except (OSError, ValueError) as error:
            said = first_line(error)
            raise MediaError(f"{shown(file)}: it is no sound OpenFace file: {said}.") from error
        if frames.shape[1] != self.width:
            raise MediaError(
                f"{shown(file)}: has {frames.shape[1]} features, not {self.width}; set the "
                "extractor's width, or run OpenFace with the options of the other files."
            )
        if not np.isfinite(frames).all():
            raise MediaError(f"{shown(file)}: has values that are no numbers; run OpenFace again.")
        pictures = int(inside["frame"].nunique())
        if not len(frames):
            return Track(frames, times, 0.0, f"no face in {pictures} pictures")
        return Track(frames, np.maximum(times, 0.0), len(frames) / pictures)

    def beside(self, video: Path) -> list[Path]:
        """The CSV file of a video."""
        return [self._file(video)]

    def _file(self, video: Path) -> Path:
        folder = video.parent if self._folder is None else Path(expand(self._folder))
        file = folder / f"{video.stem}.csv"
        if not file.is_file():
            raise MediaError(
                f"{shown(file)}: no such file; run OpenFace first, such as "
                f"`FeatureExtraction -f {shown(video)} -of {shown(file)}`."
            )
        return file
