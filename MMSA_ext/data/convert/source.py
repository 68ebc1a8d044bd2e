"""What is to be converted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from MMSA_ext.data.safe_pickle import safe_load

__all__ = ["Source"]


@dataclass(frozen=True)
class Source:
    """A file or folder; a pickle is read once, by whomever needs it first.

    Attributes:
        path: Where it is.
    """

    path: Path

    @cached_property
    def pickled(self) -> Any:
        """What the pickle holds.

        Raises:
            FeatureFileError: It is none, is damaged or unsafe.
        """
        return safe_load(self.path)
