"""Scoring of any number of utterances: folders of shards, part by part, and tables of texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from MMSA_ext.data.feature_layout import SINGLE
from MMSA_ext.data.shards import (
    WINDOW,
    check_finite,
    missing_parts,
    parquet,
    read_utterances,
    shard_files,
    shard_recipe,
    shards_digest,
)
from MMSA_ext.data.tables import read_table
from MMSA_ext.data.utterances import Utterances
from MMSA_ext.errors import FeatureFileError, suggest
from MMSA_ext.files import replaced
from MMSA_ext.paths import expand
from MMSA_ext.runs.prediction import Scorer

__all__ = ["PartScores", "score_shards", "score_texts"]

_IDENTITY = b"mmsa_ext"  # in the metadata of a result: what it was computed of, and by which model
_TEXTS_AT_ONCE = 4096


@dataclass(frozen=True)
class PartScores:
    """What became of one part.

    Attributes:
        part: The part.
        result: Its file of predictions.
        samples: How many there are.
        failed: How many of them have an error in place of a prediction.
        found: Whether the result was there already.
        error: Why the part as a whole cannot be read, or that it is missing; empty if it can.
    """

    part: Path
    result: Path
    samples: int = 0
    failed: int = 0
    found: bool = False
    error: str = ""


def score_shards(
    scorer: Scorer,
    folder: str | Path,
    output: str | Path,
    report: Callable[[PartScores], None] = lambda _: None,
) -> list[PartScores]:
    """Score a folder of shards, with one result a part.

    A result `part-00000.predictions.parquet` has the columns `split`, `id`, `label`, `prediction`
    and `error`, and `embedding` if the scorer embeds, in the order of its part. It appears when it
    is complete, with the digests of its part and of the checkpoint: what is finished is not
    computed again by the next call, and what another checkpoint, or other options, computed is.
    Memory is bounded by some hundred utterances, whatever the size and number of the parts.

    Args:
        scorer: The trained model.
        folder: The shards, or one part.
        output: Folder of the results; made where it is missing.
        report: Told of each part.

    Raises:
        CheckpointError, TextEncoderError: As `Scorer.score`.
        FeatureFileError: The folder holds no shards. A part that cannot be read, or that is missing
            of those that were written together, is in the result.
        WriteError: The disk refuses.
    """
    source, target = Path(expand(folder)), Path(expand(output))
    missing = set(missing_parts(source))
    done = []
    for part in sorted([*shard_files(source), *missing]):
        result = target / f"{part.stem}.predictions.parquet"
        if part in missing:
            told = f"{part}: is not there, and was written with the others; copy the folder again."
            done.append(PartScores(part, result, error=told))
        else:
            done.append(_score_part(scorer, part, result))
        report(done[-1])
    return done


def _score_part(scorer: Scorer, part: Path, result: Path) -> PartScores:
    import pyarrow as pa

    try:
        identity = json.dumps(scorer.identity | {"shard": shards_digest(part)}, sort_keys=True)
        if (finished := _finished(result, identity)) is not None:
            return PartScores(part, result, *finished, found=True)
        scorer.check_recipe(shard_recipe(part), part)
        tables = [_scored(scorer, part, window) for window in read_utterances(part, WINDOW)]
    except FeatureFileError as error:
        return PartScores(part, result, error=str(error))
    table = pa.concat_tables(tables or [_scored(scorer, part, Utterances([], [], None, {}))])
    failed = table.num_rows - table.column("error").null_count
    facts = {_IDENTITY: identity.encode(), b"failed": str(failed).encode()}
    with replaced(result) as staged:
        parquet().write_table(table.replace_schema_metadata(facts), staged, compression="zstd")
    return PartScores(part, result, table.num_rows, failed)


def _finished(result: Path, identity: str) -> tuple[int, int] | None:
    """Samples and failed ones of a result that is complete and of this identity."""
    import pyarrow as pa

    if not result.is_file():
        return None
    try:
        with parquet().ParquetFile(result) as file:
            metadata = file.schema_arrow.metadata or {}
            if metadata.get(_IDENTITY) == identity.encode():
                return file.metadata.num_rows, int(metadata[b"failed"])
    except (OSError, KeyError, ValueError, pa.ArrowException):  # damaged: it is computed again
        pass
    return None


def _scored(scorer: Scorer, part: Path, utterances: Utterances) -> Any:
    import pyarrow as pa

    scores = scorer.score(utterances, part, partial(check_finite, part))
    unknown = np.full(len(utterances), np.nan, np.float32)
    label = utterances.labels.get("M", unknown)
    columns = {
        "split": pa.array(utterances.splits, pa.string()),
        "id": pa.array(utterances.ids, pa.string()),
        "label": pa.array(label, pa.float32(), from_pandas=True),
        "prediction": pa.array(scores.prediction, pa.float32(), from_pandas=True),
        "error": pa.array([error or None for error in scores.errors], pa.string()),
    }
    if scores.embedding is not None:
        columns["embedding"] = pa.array(_rows(scores.embedding), pa.list_(pa.float32()))
    return pa.table(columns)


def _rows(vectors: NDArray[np.float32]) -> list[NDArray[np.float32] | None]:
    return [None if np.isnan(vector).any() else vector for vector in vectors]


def score_texts(scorer: Scorer, path: str | Path) -> pd.DataFrame:
    """Score a table of texts with a model that reads text alone.

    Args:
        scorer: The trained model.
        path: CSV as `read_table` takes it, with the columns `id` and `text`; others are not looked
            at.

    Returns:
        Columns `id`, `prediction` (NaN where there is an error) and `error`, in the table's order.

    Raises:
        CheckpointError, TextEncoderError: As `Scorer.score`.
        FeatureFileError: The table cannot be read, or lacks a column.
    """
    table = Path(expand(path))
    frame = read_table(table)
    for name in ("id", "text"):
        if name not in frame:
            raise FeatureFileError(
                f"{table}: has no column {name!r}; {suggest(name, list(frame.columns))}"
            )
    tables = []
    for start in range(0, len(frame), _TEXTS_AT_ONCE):
        some = frame[start : start + _TEXTS_AT_ONCE]
        ids, texts = some["id"].tolist(), some["text"].tolist()
        scores = scorer.score(Utterances(ids, [SINGLE] * len(ids), texts, {}), table)
        tables.append(
            pd.DataFrame({"id": ids, "prediction": scores.prediction, "error": scores.errors})
        )
    return pd.concat(tables, ignore_index=True)
