"""Storing what was computed, or keeping it elsewhere where the store refuses."""

import shlex
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import pandas as pd

from MMSA_ext.errors import WriteError
from MMSA_ext.records.store import RunRecord, RunStore, file_digest, new_file

# Beside the checkpoints; it holds `runs`, in the layout of a store, and `saved_models`.
FOLDER = "rescued"


def store_or_rescue(
    store: RunStore,
    record: RunRecord,
    predictions: pd.DataFrame | None,
    *,
    overwrite: bool,
    checkpoint: Path,
    staged: Path | None,
) -> Path:
    """Store a run, or keep it beside its checkpoint, or else in a temporary folder.

    Arguments are those of `RunStore.write`.

    Returns:
        Path of the stored record.

    Raises:
        WriteError: It could not be stored; says why, where everything is and how to bring it in.
    """
    try:
        return store.write(
            record, predictions, overwrite=overwrite, checkpoint=checkpoint, staged=staged
        )
    except Exception as error:  # whatever it was, hours of computation are at stake
        raise WriteError(
            f"{record.identity.model} on {record.identity.dataset}, seed {record.identity.seed}: "
            f"was computed, but cannot be stored. {error} "
            + _rescued(store, record, predictions, checkpoint, staged)
        ) from error


def _rescued(
    store: RunStore,
    record: RunRecord,
    predictions: pd.DataFrame | None,
    checkpoint: Path,
    staged: Path | None,
) -> str:
    """Keep a run; where it is and how to bring it in, as sentences and commands."""
    if staged is not None:
        if not staged.exists():  # the disk failed between two renames
            staged = new_file(checkpoint)
        with suppress(OSError):
            record = record.model_copy(update={"checkpoint_sha256": file_digest(staged)})

    def keep_record(folder: Path) -> None:
        RunStore(folder / "runs").write(record, predictions, overwrite=True)

    def keep_checkpoint(folder: Path) -> None:
        (folder / "saved_models").mkdir(parents=True, exist_ok=True)
        shutil.move(staged or "", folder / "saved_models" / checkpoint.name)

    folders = (lambda: checkpoint.parent / FOLDER, cache(_temporary))
    commands, lost = [], []
    if folder := _first(folders, keep_record):
        commands.append(_copying(folder / "runs", store.root))
    else:
        lost.append(f"No other folder can be written to; its metrics are {record.metrics}.")
    if staged is not None:
        if folder := _first(folders, keep_checkpoint):
            commands.append(_copying(folder / "saved_models", checkpoint.parent))
        else:
            lost.append("Its checkpoint is lost.")
    if commands:
        lost.append("It is kept. Once that is mended, bring it in by\n" + "\n".join(commands))
    return " ".join(lost)


def _first(folders: tuple[Callable[[], Path], ...], keep: Callable[[Path], None]) -> Path | None:
    """The first folder in which something can be kept."""
    for make in folders:
        try:
            folder = make()
            keep(folder)
        except Exception:  # the next one may do
            continue
        return folder
    return None


def _temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix="mmsa-ext-rescued-"))


def _copying(source: Path, target: Path) -> str:
    there = shlex.quote(str(target))
    return f"  mkdir -p {there} && cp -r {shlex.quote(str(source))}/* {there}"
