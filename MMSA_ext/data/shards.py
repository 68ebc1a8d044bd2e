"""Shards: utterances as they are, unpadded, in a folder of Parquet files.

A feature file is one pickle in memory, padded to its longest sample; a million utterances take
200 GB. Shards are written and read a few utterances at a time, so that memory is bounded whatever
their number. A part `part-00000.parquet` has the columns

=============================  =============  =====================================================
column                         type           content
=============================  =============  =====================================================
``id``                         string         unique over all parts
``split``                      string         `train`, `valid`, `test`; `sample` without splits
``raw_text``                   string         transcript
``text_bert``                  list<int32>    token ids
``segments``                   list<int8>     segment ids; null where all are 0
``text``, ``audio``, ``vision``  list<float>  frames in a row, float32 or float16
``regression_labels[_T|_A|_V]``  float        null where unknown
=============================  =============  =====================================================

without those of a modality that is absent. The schema's metadata has, under `mmsa_ext`, how wide a
frame is and which part of how many it is, and under `recipe` what made the features, both in JSON.
Numbers are finite: writing mends what MMSA mends, and a shard with others is refused. Pages have
checksums, which are compared.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.data.feature_layout import LABEL_KEYS, SINGLE, LoadedFile
from MMSA_ext.data.pickles.errors import shown
from MMSA_ext.data.recipes import Recipe, problems
from MMSA_ext.data.samples import Sample
from MMSA_ext.data.utterances import Utterances
from MMSA_ext.errors import ConfigError, FeatureFileError, MMSAExtError
from MMSA_ext.extras import import_extra
from MMSA_ext.files import reason, scratch_folder, sync_folder, write_error
from MMSA_ext.names import MODALITIES, SPLITS
from MMSA_ext.paths import expand

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "check_finite",
    "is_sharded",
    "load_shards",
    "missing_parts",
    "parquet",
    "read_utterances",
    "shard_files",
    "shard_recipe",
    "shards_digest",
    "write_shards",
]

logger = logging.getLogger("MMSA")

WINDOW = 512  # utterances that are read together
_FORMAT = 1
_FACTS, _RECIPE = b"mmsa_ext", b"recipe"
_MOST_PARTS = 500  # all are open while they are written
_BUFFERED = 2**26  # bytes of utterances, of all parts together, that wait to be written
_LARGEST_GROUP = 2**30  # values of a column that are read at once
_MOST_NUMBERED = 10**6  # parts that a folder of others may have
_SUFFIX = ".parquet"
_PART = re.compile(r"part-\d{5,}\.parquet")


def parquet() -> Any:
    """`pyarrow.parquet`, which comes with an extra.

    Raises:
        ConfigError: It is not installed.
    """
    return import_extra("pyarrow.parquet", "shards", "a Parquet file")


def is_sharded(path: Path) -> bool:
    """Whether a path means shards: a folder, or a Parquet file."""
    return path.suffix == _SUFFIX or path.is_dir()


def shard_files(path: Path) -> list[Path]:
    """The parts of a folder by name; of a single file, itself.

    Raises:
        FeatureFileError: It has none.
    """
    if not path.is_dir():
        return [path]
    found = sorted(part for part in path.iterdir() if _PART.fullmatch(part.name))
    if not found:
        raise FeatureFileError(
            f"{path}: a folder without shards; they are called part-00000{_SUFFIX} and so on."
        )
    return found


def missing_parts(path: Path) -> list[Path]:
    """The parts that were written with those of a folder and are not there; of one part none.

    Those that cannot be read are asked nothing, and are not missing.

    Raises:
        FeatureFileError: The folder has no parts.
    """
    count = 0
    for part in shard_files(path) if path.is_dir() else []:
        with suppress(FeatureFileError), _opened(part) as file:
            count = max(count, _layout(part, file).parts)
    names = (path / f"part-{i:05d}{_SUFFIX}" for i in range(count))
    return [part for part in names if not part.exists()]


def shards_digest(path: Path) -> str:
    """SHA-256 of the bytes of a part; of a folder SHA-256 over those of its parts, by name.

    Raises:
        FeatureFileError: One cannot be read.
    """
    if path.is_dir():
        digests = "".join(map(shards_digest, shard_files(path)))
        return hashlib.sha256(digests.encode()).hexdigest()
    part = path
    try:
        with part.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FeatureFileError(f"{part}: cannot be read ({reason(error)}).") from error


def write_shards(
    samples: Iterable[Sample],
    folder: str | Path,
    shards: int,
    recipe: Recipe | None = None,
) -> list[Path]:
    """Write utterances into a folder of shards; all parts appear complete, or none does.

    They are dealt out one by one, the i-th to part i modulo `shards`, so that neither their number
    need be known nor more than 64 MiB of them be held; reading deals them back into this order.
    Frames stay float16 or float32, any other numbers become float32. NaN, and in audio -inf, become
    0, as where a feature file is read, and a warning says how many.

    Args:
        samples: Utterances; the first says which modalities there are, how wide and of which dtype.
        folder: Made where it is missing; it may not hold Parquet files.
        shards: Number of parts, 1 to 500.
        recipe: Who made each modality, see `data.recipes`; None where that is unknown.

    Returns:
        The parts.

    Raises:
        ConfigError: `shards` is out of range, `recipe` is none, or the folder holds Parquet files.
        FeatureFileError: A sample is no sample, has other modalities than the first, an id that was
            there, or an infinity.
        WriteError: The disk refuses.
    """
    parquet()
    target = Path(expand(folder))
    if type(shards) is not int or not 1 <= shards <= _MOST_PARTS:
        raise ConfigError(f"shards is {shards!r}; give the number of parts, 1 to {_MOST_PARTS}.")
    if broken := problems(recipe or {}):
        raise ConfigError(f"recipe {broken[0]}")
    _refuse_others(target)
    with _written(target), scratch_folder(target) as staging:
        with ExitStack() as stack:
            writer = _Writer(staging, target, shards, recipe, stack)
            for sample in samples:
                writer.add(sample)
            writer.finish()
        for part in writer.parts:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        _refuse_others(target)
        parts = [target / part.name for part in writer.parts]
        try:  # an empty first part: of two writers one gets it, and it is damaged until the end
            parts[0].touch(exist_ok=False)
        except FileExistsError:
            _refuse_others(target)
        for part in reversed(writer.parts):
            part.replace(target / part.name)
        sync_folder(target)
    return parts


def _refuse_others(target: Path) -> None:
    if any(target.glob(f"*{_SUFFIX}")):
        raise ConfigError(
            f"{target}: holds Parquet files already; name another folder, so that "
            "nothing is mixed or lost."
        )


@contextmanager
def _written(target: Path) -> Iterator[None]:
    """Say of what the disk refuses that it is `target` that cannot be written."""
    import pyarrow as pa

    try:
        yield
    except MMSAExtError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise write_error(target, error) from error


class _Writer:
    """Deals utterances out to the parts of a folder."""

    def __init__(
        self,
        staging: Path,
        target: Path,
        count: int,
        recipe: Recipe | None,
        stack: ExitStack,
    ) -> None:
        self.parts = [staging / f"part-{i:05d}{_SUFFIX}" for i in range(count)]
        self.target = target
        self.recipe = recipe
        self.stack = stack
        self.schema: pa.Schema | None = None
        self.widths: dict[str, int] = {}
        self.dtypes: dict[str, np.dtype[Any]] = {}
        self.writers: list[Any] = []
        self.waiting: list[list[dict[str, Any]]] = [[] for _ in range(count)]
        self.bytes = self.count = self.mended = 0
        self.ids: set[str] = set()

    def add(self, sample: Sample) -> None:
        """Take one."""
        if self.schema is None:
            self._open(sample)
        row = self._row(sample)
        self.waiting[self.count % len(self.parts)].append(row)
        self.count += 1
        self.bytes += sum(v.nbytes for v in row.values() if isinstance(v, np.ndarray))
        if self.bytes > _BUFFERED:
            self._flush()

    def finish(self) -> None:
        """Write what waits, close the parts and bring them to the disk."""
        if not self.count:
            raise FeatureFileError(f"{self.target}: there are no samples to be written.")
        self._flush()
        self.stack.close()
        if self.mended:
            logger.warning("%s: %d NaN or -inf in frames set to 0.", self.target, self.mended)

    def _open(self, first: Sample) -> None:
        for key in MODALITIES:
            frames = getattr(first, key)
            if frames is None:
                continue
            if np.ndim(frames) != 2 or 0 in np.shape(frames)[1:]:
                raise self._refused(first, key, f"has shape {np.shape(frames)}, not (steps, d)")
            self.widths[key] = np.shape(frames)[1]
            half = np.asarray(frames).dtype == np.float16
            self.dtypes[key] = np.dtype(np.float16 if half else np.float32)
        if first.text_bert is not None:
            self.dtypes["text_bert"] = np.dtype(np.int32)
        self.schema = _schema(self.dtypes)
        codings = dict.fromkeys((f"{key}.list.element" for key in self.widths), "BYTE_STREAM_SPLIT")
        for number, part in enumerate(self.parts):
            facts = {
                "format": _FORMAT,
                "widths": self.widths,
                "part": number,
                "parts": len(self.parts),
            }
            metadata = {_FACTS: json.dumps(facts).encode()}
            if self.recipe:
                metadata[_RECIPE] = json.dumps(self.recipe, ensure_ascii=False).encode()
            writer = parquet().ParquetWriter(
                part,
                self.schema.with_metadata(metadata),
                compression="zstd",
                compression_level=1,
                use_dictionary=["split"],
                column_encoding=codings or None,
                write_statistics=False,
                write_page_checksum=True,
            )
            self.writers.append(self.stack.enter_context(writer))

    def _row(self, sample: Sample) -> dict[str, Any]:
        if not isinstance(sample.id, str) or not sample.id or sample.id in self.ids:
            told = "is there twice" if sample.id in self.ids else "is no text"
            raise FeatureFileError(f"{self.target}: id {shown(str(sample.id))} {told}.")
        self.ids.add(sample.id)
        if sample.split not in (*SPLITS, SINGLE):
            raise self._refused(sample, "split", f"is {sample.split!r:.80}")
        row: dict[str, Any] = {
            "id": sample.id,
            "split": sample.split,
            "raw_text": sample.raw_text,
            "segments": None,
        }
        for key in ("text_bert", *MODALITIES):
            if (getattr(sample, key) is not None) != (key in self.dtypes):
                there = "is absent" if key in self.dtypes else "is there"
                raise self._refused(sample, key, f"{there}, other than in the first sample")
        if sample.text_bert is not None:
            row["text_bert"], row["segments"] = self._tokens(sample)
        for key in self.widths:
            row[key] = self._frames(sample, key)
        for kind, column in LABEL_KEYS.items():
            value = sample.labels.get(kind)
            row[column] = None if value is None or math.isnan(value) else float(value)
        return row

    def _tokens(self, sample: Sample) -> tuple[NDArray[Any], NDArray[Any] | None]:
        tokens = np.asarray(sample.text_bert)
        if tokens.ndim != 2 or tokens.shape[0] != 3 or not tokens.size or not tokens[1].all():
            raise self._refused(
                sample, "text_bert", f"has shape {tokens.shape} or padding, not (3, tokens)"
            )
        stored = tokens[0].astype(np.int32)
        if (stored != tokens[0]).any() or (stored < 0).any():
            raise self._refused(sample, "text_bert", "holds what is no token id")
        return stored, tokens[2].astype(np.int8) if tokens[2].any() else None

    def _frames(self, sample: Sample, key: str) -> NDArray[Any]:
        with np.errstate(over="ignore"):
            frames = np.asarray(getattr(sample, key)).astype(self.dtypes[key], copy=False)
        if frames.ndim != 2 or frames.shape[1] != self.widths[key]:
            raise self._refused(
                sample,
                key,
                f"has shape {frames.shape}, the first sample {self.widths[key]} features a step",
            )
        if not (finite := np.isfinite(frames)).all():
            mends = np.isnan(frames) | (np.isneginf(frames) & (key == "audio"))
            if not (finite | mends).all():
                raise self._refused(sample, key, "is infinite; replace it by a finite value")
            self.mended += int(mends.sum())
            frames = np.where(mends, frames.dtype.type(0), frames)
        return frames.reshape(-1)

    def _refused(self, sample: Sample, key: str, what: str) -> FeatureFileError:
        return FeatureFileError(f"{self.target}: {key} of {shown(str(sample.id))} {what}.")

    def _flush(self) -> None:
        import pyarrow as pa

        assert self.schema is not None
        for writer, rows in zip(self.writers, self.waiting, strict=True):
            columns = [_column([row[field.name] for row in rows], field) for field in self.schema]
            if rows:
                writer.write_batch(pa.record_batch(columns, schema=self.schema))
            rows.clear()
        self.bytes = 0


def _schema(dtypes: Mapping[str, np.dtype[Any]]) -> pa.Schema:
    import pyarrow as pa

    fields = [(name, pa.string()) for name in ("id", "split", "raw_text")]
    if "text_bert" in dtypes:
        fields += [("text_bert", pa.list_(pa.int32())), ("segments", pa.list_(pa.int8()))]
    fields += [
        (key, pa.list_(pa.from_numpy_dtype(dtypes[key]))) for key in MODALITIES if key in dtypes
    ]
    return pa.schema(fields + [(column, pa.float32()) for column in LABEL_KEYS.values()])


def _column(values: list[Any], field: pa.Field) -> pa.Array:
    import pyarrow as pa

    if not pa.types.is_list(field.type) or not values:
        return pa.array(values, field.type)
    there = [value for value in values if value is not None]
    offsets = np.cumsum([0, *(0 if value is None else len(value) for value in values)])
    absent = np.array([value is None for value in values])
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()),
        pa.array(np.concatenate(there) if there else [], field.type.value_type),
        mask=pa.array(absent) if absent.any() else None,
    )


@dataclass(frozen=True)
class _Layout:
    """What a part says of itself.

    Attributes:
        widths: `text`, `audio`, `vision` -> features of a frame; those there are.
        columns: those that are read.
        recipe: see `data.recipes`.
        part, parts: which it is, and of how many.
    """

    widths: dict[str, int]
    columns: list[str]
    recipe: Recipe
    part: int = 0
    parts: int = 1


@contextmanager
def _opened(part: Path) -> Iterator[Any]:
    """A part, whatever reading it raises inside being one sentence about it."""
    import pyarrow as pa

    try:
        with parquet().ParquetFile(part, page_checksum_verification=True) as file:
            yield file
    except MMSAExtError:
        raise
    except (OSError, pa.ArrowException, UnicodeDecodeError, MemoryError) as error:
        told = (str(error).splitlines() or [type(error).__name__])[0]
        raise FeatureFileError(
            f"{part}: is damaged or no Parquet file ({told:.200}); copy or write it again."
        ) from error


def _layout(part: Path, file: Any) -> _Layout:
    import pyarrow.types as types

    def listed(kind: Any) -> Any:
        return kind.value_type if types.is_list(kind) or types.is_large_list(kind) else None

    def is_number(kind: Any) -> bool:
        return kind is not None and types.is_floating(kind)

    checks = {
        **dict.fromkeys(("id", "split", "raw_text"), (_is_text, "text")),
        "text_bert": (lambda kind: _is_whole(listed(kind)), "lists of whole numbers"),
        "segments": (lambda kind: _is_whole(listed(kind)), "lists of whole numbers"),
        **dict.fromkeys(MODALITIES, (lambda kind: is_number(listed(kind)), "lists of numbers")),
        **dict.fromkeys(LABEL_KEYS.values(), (is_number, "numbers")),
    }
    schema = file.schema_arrow
    for name, (fits, meant) in checks.items():
        places = schema.get_all_field_indices(name)
        if len(places) > 1:
            raise FeatureFileError(f"{part}: column {name!r} is there {len(places)} times.")
        if places and not fits(kind := schema.field(name).type):
            raise FeatureFileError(f"{part}: column {name!r} is {kind}, and holds {meant}.")
    columns = [name for name in checks if name in schema.names]
    metadata = schema.metadata or {}
    facts = _json(part, metadata, _FACTS) or {}
    widths = facts.get("widths") if isinstance(facts, dict) else None
    present = [key for key in MODALITIES if key in columns]
    if "id" not in columns or (present and not isinstance(widths, dict)):
        lacking = "column 'id'" if "id" not in columns else "the widths of its frames"
        raise FeatureFileError(
            f"{part}: is no shard of MMSA_ext: it lacks {lacking}. Write shards with "
            "MMSA_ext.data.shards.write_shards."
        )
    found: dict[str, Any] = {key: (widths or {}).get(key) for key in present}
    for key, width in found.items():
        if type(width) is not int or not 0 < width < 2**31:
            raise FeatureFileError(f"{part}: column {key!r} has the width {width!r:.80}.")
    numbers = [facts.get(key, default) for key, default in (("part", 0), ("parts", 1))]
    if not all(type(n) is int for n in numbers) or not (
        0 <= numbers[0] < numbers[1] <= _MOST_NUMBERED
    ):
        raise FeatureFileError(f"{part}: says that it is part {numbers[0]!r} of {numbers[1]!r}.")
    recipe = _json(part, metadata, _RECIPE)
    if broken := problems(recipe := {} if recipe is None else recipe):
        raise FeatureFileError(f"{part}: its recipe {broken[0]}")
    return _Layout(found, columns, recipe, *numbers)


def _is_text(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def _is_whole(kind: Any) -> bool:
    import pyarrow.types as types

    return kind is not None and bool(types.is_integer(kind))


def _json(part: Path, metadata: Mapping[bytes, bytes], key: bytes) -> Any:
    try:
        return json.loads(metadata[key]) if key in metadata else None
    except (ValueError, RecursionError):
        raise FeatureFileError(f"{part}: its metadata {key.decode()!r} is no JSON.") from None


def shard_recipe(part: Path) -> Recipe:
    """Who made the features of a part, as far as it says so.

    Raises:
        FeatureFileError: As `read_utterances`.
    """
    with _opened(part) as file:
        return _layout(part, file).recipe


def read_utterances(part: Path, window: int = WINDOW) -> Iterator[Utterances]:
    """The utterances of a part in their order, some at a time; possibly none.

    Args:
        part: The file.
        window: How many are read together.

    Raises:
        FeatureFileError: It is missing, damaged or foreign, with the file, the column and, where
            one sample is the cause, its id. Values are not looked at: see `check_finite`.
    """
    with _opened(part) as file:
        layout = _layout(part, file)
        _check_groups(part, file.metadata)
        for batch in file.iter_batches(window, columns=layout.columns):
            batch.validate(full=True)
            yield _utterances(part, layout, batch)


def _check_groups(part: Path, metadata: Any) -> None:
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for column in range(row_group.num_columns):
            found = row_group.column(column)
            if found.num_values > _LARGEST_GROUP:
                raise FeatureFileError(
                    f"{part}: column {found.path_in_schema.split('.')[0]!r} has "
                    f"{found.num_values} values in one row group; write smaller ones."
                )


def _utterances(part: Path, layout: _Layout, batch: pa.RecordBatch) -> Utterances:
    columns = {name: batch.column(name) for name in layout.columns}
    ids = columns["id"].to_pylist()
    for row, name in enumerate(ids):
        if not name:
            raise FeatureFileError(f"{part}: column 'id' is empty, first behind {ids[row - 1]!r}.")
    splits = columns["split"].to_pylist() if "split" in columns else [SINGLE] * len(ids)
    for name, split in zip(ids, splits, strict=True):
        if split not in (*SPLITS, SINGLE):
            raise FeatureFileError(
                f"{part}: column 'split' of {shown(name)} is {split!r:.80}; it is one of "
                f"{', '.join(SPLITS)}."
            )
    raw_text = None
    if "raw_text" in columns:
        raw_text = [text or "" for text in columns["raw_text"].to_pylist()]
    arrays = {}
    if "text_bert" in columns:
        arrays["text_bert"] = _tokens(part, ids, columns)
    for key, width in layout.widths.items():
        arrays[key] = _lists(part, key, ids, columns[key], width)
    labels = {
        kind: columns[name].to_numpy(zero_copy_only=False).astype(np.float32)
        for kind, name in LABEL_KEYS.items()
        if name in columns and columns[name].null_count < len(ids)
    }
    return Utterances(ids, splits, raw_text, arrays, labels)


def _lists(
    part: Path, key: str, ids: list[str], column: pa.Array, width: int, *, gaps: bool = False
) -> list[NDArray[Any]]:
    """Views (L, width) of the values of each list; of a missing one, where there may be, (0, w)."""
    if column.null_count and not gaps:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise FeatureFileError(f"{part}: column {key!r} of {shown(ids[row])} is missing.")
    offsets = column.offsets.to_numpy()
    values = column.values
    if values.null_count:
        missing = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
        row = int(np.searchsorted(offsets, missing, "right")) - 1
        raise FeatureFileError(f"{part}: column {key!r} of {shown(ids[row])} has missing values.")
    uneven = np.flatnonzero(np.diff(offsets) % width)
    if len(uneven):
        count = int(np.diff(offsets)[uneven[0]])
        raise FeatureFileError(
            f"{part}: column {key!r} of {shown(ids[uneven[0]])} has {count} values, which are no "
            f"frames of {width}."
        )
    numbers = values.to_numpy(zero_copy_only=False)
    return [
        numbers[start:end].reshape(-1, width)
        for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    ]


def _tokens(part: Path, ids: list[str], columns: Mapping[str, pa.Array]) -> list[NDArray[Any]]:
    """(L, 3) token ids, mask and segment ids of each utterance."""
    tokens = _lists(part, "text_bert", ids, columns["text_bert"], 1)
    found = []
    segments: list[Any] = [()] * len(ids)
    if "segments" in columns:
        segments = _lists(part, "segments", ids, columns["segments"], 1, gaps=True)
    for name, words, kinds in zip(ids, tokens, segments, strict=True):
        if not len(words):
            raise FeatureFileError(
                f"{part}: column 'text_bert' of {shown(name)} has no tokens; even an empty text "
                "has its first and last."
            )
        if len(kinds) not in (0, len(words)):
            raise FeatureFileError(
                f"{part}: column 'segments' of {shown(name)} has {len(kinds)} values, "
                f"'text_bert' {len(words)}."
            )
        array = np.ones((len(words), 3), np.int64)
        array[:, 0] = words[:, 0]
        array[:, 2] = kinds[:, 0] if len(kinds) else 0
        found.append(array)
    return found


def load_shards(path: Path) -> LoadedFile:
    """All utterances of a folder of shards, or of one part, padded in memory.

    Returns:
        As of a feature file, which is then checked as one; the fingerprint is `shards_digest`.

    Raises:
        FeatureFileError: As `read_utterances`; a part is missing, has other columns or another
            recipe than the first, or a number is not finite.
    """
    parts = shard_files(path)
    layouts = []
    for part in parts:
        with _opened(part) as file:
            layouts.append(_layout(part, file))
    _check_parts(path, parts, layouts)
    fingerprint = shards_digest(path)
    read = []
    for part in parts:
        windows = list(read_utterances(part))
        for window in windows:
            check_finite(part, window)
        read.append(windows)
    # The i-th utterance is in part i modulo their number.
    rows = [np.arange(sum(map(len, windows))) for windows in read]
    order = np.lexsort(
        (np.repeat(np.arange(len(parts)), list(map(len, rows))), np.concatenate(rows))
    )
    utterances = Utterances.joined(window for windows in read for window in windows)
    del read
    splits = np.array(utterances.splits)[order]
    data: dict[str, Any] = {
        name: utterances.take(order[splits == name]).padded()
        for name in (*SPLITS, SINGLE)
        if (splits == name).any()
    }
    data["recipe"] = layouts[0].recipe
    return LoadedFile(path, data, fingerprint, sum(part.stat().st_size for part in parts))


def check_finite(part: Path, utterances: Utterances) -> None:
    """Refuse NaN and infinities.

    Raises:
        FeatureFileError: With file, column and id.
    """
    if (found := utterances.not_finite()) is not None:
        key, row = found
        raise FeatureFileError(
            f"{part}: column {key!r} of {shown(utterances.ids[row])} holds NaN or infinity; "
            "write it with write_shards, which mends what can be mended."
        )


def _check_parts(path: Path, parts: list[Path], layouts: list[_Layout]) -> None:
    first = layouts[0]
    for part, layout in zip(parts, layouts, strict=True):
        for what in ("widths", "columns", "recipe"):
            one, other = getattr(first, what), getattr(layout, what)
            if one != other:
                raise FeatureFileError(
                    f"{part}: its {what} are not those of {parts[0].name} ({other!r:.200} and "
                    f"{one!r:.200}); shards of one folder are of one kind."
                )
    if path.is_dir() and [layout.part for layout in layouts] != list(range(first.parts)):
        raise FeatureFileError(
            f"{path}: has {len(parts)} of the {first.parts} parts that were written; copy the "
            "folder again."
        )
