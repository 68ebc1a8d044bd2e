"""Checkpoints that carry their configuration, so that they load without further information."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from MMSA_ext.errors import CheckpointError
from MMSA_ext.files import replaced

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A trained model on disk.

    Attributes:
        config: Complete configuration of the run as plain builtins, including the architecture of
            the text encoder, so that no other file is needed.
        seed: Seed of the run.
        state_dict: Weights, as of MMSA's wrapper (names begin with `Model.`).
        metrics: Metrics by split, in MMSA's units.
    """

    config: dict[str, Any]
    seed: int
    state_dict: dict[str, Tensor]
    metrics: dict[str, dict[str, float]]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically; it loads with `weights_only=True`."""
    save_atomically(path, {"format": FORMAT, **vars(checkpoint)})


def save_atomically(path: Path, content: dict[str, Any]) -> None:
    """`torch.save` to a file that is either complete or what it was before."""
    with replaced(path) as staged:
        torch.save(content, staged)


def load_checkpoint(path: str | Path, config: dict[str, Any] | None = None) -> Checkpoint:
    """Read a checkpoint of `save_checkpoint`; nothing in the file is executed.

    Args:
        path: The file.
        config: Configuration for a file that holds weights alone, as MMSA writes them.

    Raises:
        CheckpointError: If the file is missing, damaged or something else.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged or unsafe files
        raise CheckpointError(
            f"{path}: not a readable checkpoint ({type(error).__name__}); it is damaged, or not "
            "written by MMSA_ext."
        ) from error
    if isinstance(content, dict) and "config" not in content and config is not None:
        return Checkpoint(config, 0, content, {})
    if not isinstance(content, dict) or "config" not in content:
        raise CheckpointError(
            f"{path}: holds weights without their configuration; pass the configuration to "
            "MMSA_test, or use a checkpoint written by MMSA_ext."
        )
    if content.pop("format", None) != FORMAT:
        raise CheckpointError(f"{path}: written by another version of MMSA_ext; retrain.")
    return Checkpoint(**content)
