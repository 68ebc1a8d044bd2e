"""What a reader of a source is told."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from MMSA_ext.config.schema import FrontPadding
from MMSA_ext.data.front_padding import check_choice
from MMSA_ext.errors import ConfigError
from MMSA_ext.paths import expand_given
from MMSA_ext.validation import SEEDS, integer, no_seed

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

    @classmethod
    def of(
        cls,
        columns: Mapping[str, str] | None,
        *,
        audio: str | os.PathLike[str] | None = None,
        vision: str | os.PathLike[str] | None = None,
        group: str | None = None,
        seed: int | None = None,
        shares: Sequence[float] | None = None,
        front_padding: FrontPadding | None = None,
    ) -> Self:
        """Check what was given; arguments as `convert`'s.

        Raises:
            ConfigError: An option is not usable.
        """
        check_choice(front_padding)
        return cls(
            dict(columns or {}),
            _given(audio),
            _given(vision),
            group or None,
            None if seed is None else _seed(seed),
            None if shares is None else _shares(shares),
            front_padding,
        )


def _given(path: str | os.PathLike[str] | None) -> Path | None:
    found = expand_given(path)
    return Path(found) if found else None


def _seed(value: int) -> int:
    if (seed := integer(value)) is None or seed not in SEEDS:
        raise ConfigError(no_seed(value) + ".")
    return seed


def _shares(given: Sequence[float]) -> tuple[float, float, float]:
    shares = tuple(map(float, given))
    if len(shares) != 3 or min(shares) < 0 or not math.isclose(sum(shares), 1):
        raise ConfigError(
            f"shares is {list(given)}; give those of train, valid and test, sum 1, such as "
            "0.7,0.1,0.2."
        )
    return shares
