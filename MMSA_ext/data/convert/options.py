"""What a reader of a source is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from MMSA_ext.config.schema import FrontPadding

__all__ = ["Options"]


@dataclass(frozen=True)
class Options:
    """How a source is to be read.

    Attributes:
        columns: what we call a column (`id`, `text`, `label`, `label_T`, `split`, ...) -> what the
            source calls it; several joined by `+`, none by an empty text.
        audio: folder, `.h5` or `.npz` file with a sequence for each id; or None.
        vision: likewise.
        group: column whose values must not be in two splits; or None.
        seed: of splits that are made; None where it was not asked for.
        shares: likewise, of train, valid and test.
        front_padding: what to do with zeros in front of the frames, see `data.front_padding`.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    audio: Path | None = None
    vision: Path | None = None
    group: str | None = None
    seed: int | None = None
    shares: tuple[float, float, float] | None = None
    front_padding: FrontPadding | None = None
