"""The run store: one immutable record per (data, model, configuration, seed, code version).

A record is a JSON file, with its predictions as CSV beside it::

    <root>/<dataset>/<model>/<16 hex digits>-seed<seed>.json
    <root>/<dataset>/<model>/<16 hex digits>-seed<seed>.predictions.csv

The name follows from the content of the run's identity, so the same run has the same name on every
machine: running it twice is a look-up, and stores merge by copying files into one folder. Tables,
figures and statistics are pure functions of what is read here; nothing in this package imports
models or training.
"""

import csv
import hashlib
import io
import json
import math
import os
import platform
import re
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
import pandas as pd
from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from MMSA_ext.errors import MMSAExtError
from MMSA_ext.files import exclusive

SCHEMA_VERSION: Final = 1
PREDICTION_COLUMNS = ("split", "id", "label", "prediction")
REPORTED_PACKAGES = ("torch", "MMSA", "transformers", "numpy", "pandas", "scikit-learn", "scipy")


class StoreError(MMSAExtError, ValueError):
    """A run record, its predictions or a results table is missing, damaged or not usable."""


class StoreWarning(UserWarning):
    """A file of the store was passed over; the others are still read."""


def _plain(value: Any, where: str) -> JsonValue:
    """Copy `value` as plain JSON types, or name the key that has none."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"{where}: the key {key!r} is not a string; make it one")
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where}: {value} is not a JSON number; use null or a finite number")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(
        f"{where}: a {type(value).__name__} cannot identify a run; "
        "give a number, string, list or dict of these, or leave the key out"
    )


def _canonical(value: JsonValue) -> JsonValue:
    """Give equal numbers one spelling: 1.0 is 1, and -0.0 is 0. Booleans stay booleans."""
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def content_digest(value: Mapping[str, Any]) -> str:
    """Hash plain JSON content independently of key order and of how a number is spelled.

    Args:
        value: Nested dicts, lists, strings, finite numbers, booleans and None.

    Returns:
        The SHA-256 of the canonical JSON text, 64 hex digits.

    Raises:
        ValueError: A value has no JSON form, or is not finite.
    """
    canonical = _canonical(_plain(value, "value"))
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _finite_or_none(value: Any) -> Any:
    """JSON has no NaN: an undefined number is None."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _is_absolute(text: str) -> bool:
    return PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()


def _portable_checkpoint(value: Any) -> Any:
    """Keep the file name of an absolute path: the folder is this machine's, not the run's."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str) and _is_absolute(value):
        return PureWindowsPath(value).name
    return value


Number = Annotated[float | None, BeforeValidator(_finite_or_none)]
FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+@=-]*$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunIdentity(_Frozen):
    """What makes a run the run it is: two runs with equal identities are one run.

    Attributes:
        dataset: Data set name; also a folder name of the store.
        dataset_fingerprint: SHA-256 over the feature files' bytes, 64 hex digits.
        model: Registered model name; also a folder name of the store.
        configuration: Every setting that can change the result, as plain JSON. Machine matters
            (paths, device, workers, verbosity) stay out, or the same run would have another name
            on another machine.
        seed: Seed of every random stream of the run.
        code_version: Version of MMSA_ext, with the commit where it is known.
    """

    dataset: FolderName
    dataset_fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    model: FolderName
    configuration: dict[str, JsonValue]
    seed: int
    code_version: str

    @field_validator("configuration", mode="before")
    @classmethod
    def _plain_configuration(cls, value: Any) -> JsonValue:
        return _plain(value, "configuration")

    @property
    def digest(self) -> str:
        """SHA-256 of the whole identity, 64 hex digits."""
        return content_digest(self.model_dump())

    @property
    def short_id(self) -> str:
        """First 16 hex digits of `digest`: the run's name in files and tables."""
        return self.digest[:16]

    @property
    def experiment(self) -> str:
        """First 16 hex digits of the identity without its seed: runs that may be averaged."""
        return content_digest(self.model_dump(exclude={"seed"}))[:16]

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, RunIdentity) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)


class EpochRecord(_Frozen):
    """One epoch of a training history.

    Attributes:
        epoch: Number of the epoch; 0 is the untrained model, validation only.
        train: Losses (and metrics) on the training split; None where not finite. `prediction_loss`
            is the part that can be compared with the validation `Loss`; other names that end in
            `_loss` are auxiliary terms.
        valid: MMSA's metrics and `Loss` on the validation split; None where not finite.
        learning_rate: Rate at the end of the epoch, of the first parameter group.
        seconds: Wall time of the epoch.
    """

    epoch: Annotated[int, Field(ge=0)]
    train: dict[str, Number] = {}
    valid: dict[str, Number] = {}
    learning_rate: Number = None
    seconds: Number = None


class Environment(_Frozen):
    """Where a run ran: enough to compare machines, nothing that names a person or a host.

    Attributes:
        device: Name of the device that trained, such as "cpu" or "NVIDIA H100".
        cpu: Name of the processor, where the system tells it.
        threads: Threads that the numeric library used.
        python: Version of Python.
        platform: Operating system and architecture.
        versions: Versions of the packages that can change a number.
    """

    device: str
    cpu: str = ""
    threads: int | None = None
    python: str
    platform: str
    versions: dict[str, str] = {}

    @model_validator(mode="after")
    def _no_paths(self) -> Self:
        texts = {"device": self.device, "cpu": self.cpu, "platform": self.platform, **self.versions}
        for key, text in texts.items():
            if _is_absolute(text):
                raise ValueError(f"environment: {key} is a path ({text}); records hold none")
        return self

    def describe(self) -> str:
        """Say it in one line, for the foot of a table."""
        where = self.device if self.device != "cpu" or not self.cpu else f"cpu ({self.cpu})"
        threads = [] if self.threads is None else [f"{self.threads} threads"]
        packages = [f"{name} {number}" for name, number in self.versions.items()]
        return ", ".join([where, *threads, self.platform, f"python {self.python}", *packages])


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


class RunRecord(_Frozen):
    """Everything that is kept of one run.

    Attributes:
        schema_version: Version of this layout.
        identity: What makes the run the run it is.
        status: "finished", or "diverged" where no trustworthy result exists.
        reason: Why it diverged, as a sentence; None for a finished run.
        metrics: Split name to MMSA's metric names to values, before MMSA's x100; None where a
            metric is undefined (the correlation of constant predictions).
        history: One entry per epoch, in order.
        chosen_epoch: The epoch whose weights were tested.
        selection: The rule that chose it, such as "lowest validation Loss, patience 8".
        environment: Where it ran.
        timings: Wall seconds by phase; "total" is the whole run.
        peak_memory_mb: Peak memory in MiB, of the accelerator where one was used.
        created: When the record was made, with its time zone (UTC by default).
        checkpoint: File name of the weights, looked up in the folder of saved models; of an
            absolute path only the name is kept.
        notes: Whatever a reader of the numbers should know.
        predictions_sha256: Digest of the predictions file; filled in by the store.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    identity: RunIdentity
    status: Literal["finished", "diverged"]
    reason: str | None = None
    metrics: dict[str, dict[str, Number]] = {}
    history: tuple[EpochRecord, ...] = ()
    chosen_epoch: int | None = None
    selection: str
    environment: Environment
    timings: dict[str, Number] = {}
    peak_memory_mb: Number = None
    created: AwareDatetime = Field(default_factory=_now)
    checkpoint: Annotated[str | None, BeforeValidator(_portable_checkpoint)] = None
    notes: tuple[str, ...] = ()
    predictions_sha256: str | None = None

    @model_validator(mode="after")
    def _status_and_content_agree(self) -> Self:
        if self.status == "finished" and not self.metrics:
            raise ValueError("a finished run has metrics; a run without them is 'diverged'")
        if (self.status == "diverged") != bool(self.reason):
            raise ValueError("a diverged run, and only a diverged run, has a reason")
        return self

    @property
    def finished(self) -> bool:
        """Whether the run has a result that counts."""
        return self.status == "finished"

    @property
    def seconds(self) -> float | None:
        """Wall seconds of the whole run, where they were taken."""
        return self.timings.get("total")


def collect_environment(
    device: str,
    *,
    threads: int | None = None,
    packages: Iterable[str] = REPORTED_PACKAGES,
    extra_versions: Mapping[str, str] | None = None,
) -> Environment:
    """Describe this machine without importing what it describes.

    Args:
        device: Name of the training device; the caller asks torch for it.
        threads: Threads that the numeric library uses; the caller asks torch for them.
        packages: Distributions whose versions are read; those not installed are left out.
        extra_versions: What only the caller knows, such as the CUDA version.

    Returns:
        Versions and hardware, without user, host or folder names.
    """
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return Environment(
        device=device,
        cpu=_cpu_name(),
        threads=threads,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        versions={**versions, **(extra_versions or {})},
    )


def _cpu_name() -> str:
    """Name the processor; `platform.processor()` is empty on most Linux systems."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return found.group(1).strip() if found else platform.processor()


def _stage(path: Path, content: str | bytes) -> Path:
    """Write `content` to disk beside `path`, under a name that no other writer has."""
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with staged.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        staged.unlink(missing_ok=True)
        raise
    return staged


class RunStore:
    """Run records in a folder: written once, atomically, by any number of processes.

    Args:
        root: Folder of the store; made by the first `write`.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def path(self, identity: RunIdentity) -> Path:
        """Return where the record of `identity` is, or would be."""
        name = f"{identity.short_id}-seed{identity.seed}.json"
        return self.root / identity.dataset / identity.model / name

    def predictions_path(self, identity: RunIdentity) -> Path:
        """Return where the predictions of `identity` are, or would be."""
        return self.path(identity).with_suffix(".predictions.csv")

    def write(
        self, record: RunRecord, predictions: pd.DataFrame | None = None, *, overwrite: bool = False
    ) -> Path:
        """Store a record and its predictions; what is already stored is kept.

        The predictions reach the disk before the record that vouches for them, so a record is
        never without them. A damaged record in the way is moved aside to `<name>.json.damaged`.

        Args:
            record: The run.
            predictions: Columns `split`, `id`, `label`, `prediction`; one row a sample.
            overwrite: Replace a record of the same identity.

        Returns:
            Path of the record's JSON file.

        Raises:
            StoreError: The predictions lack a column or have another one.
            WriteError: The disk refuses, or another process held the store for two minutes.
        """
        path, predictions_path = self.path(record.identity), self.predictions_path(record.identity)
        table = None if predictions is None else _predictions_csv(predictions)
        digest = None if table is None else hashlib.sha256(table.encode()).hexdigest()
        record = record.model_copy(update={"predictions_sha256": digest})
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(self.root / ".lock"):
            if not overwrite and self._already_stored(record.identity):
                return path
            staged = [(_stage(path, record.model_dump_json(indent=1) + "\n"), path)]
            try:
                if table is not None:
                    staged.insert(0, (_stage(predictions_path, table), predictions_path))
                # The old record goes first: it must not vouch for the new predictions.
                path.unlink(missing_ok=True)
                for source, target in staged:
                    source.replace(target)
            except OSError:
                for source, _ in staged:
                    source.unlink(missing_ok=True)
                raise
        return path

    def _already_stored(self, identity: RunIdentity) -> bool:
        try:
            return self.find(identity) is not None
        except StoreError as error:
            path = self.path(identity)
            aside = path.with_name(f"{path.name}.damaged")
            path.replace(aside)
            warnings.warn(f"{error} It was moved to {aside.name}.", StoreWarning, stacklevel=3)
            return False

    def find(self, identity: RunIdentity) -> RunRecord | None:
        """Look a run up.

        Args:
            identity: The run.

        Returns:
            Its record, or None where it has not been stored.

        Raises:
            StoreError: The record is there and cannot be read.
        """
        path = self.path(identity)
        if not path.is_file():
            return None
        record = read_record(path)
        if record.identity != identity:
            raise StoreError(
                f"{path}: the record inside belongs to another run than the file's name says. "
                "Restore the file from a copy, or delete it so that the run is made again."
            )
        return record

    def records(self, dataset: str | None = None, model: str | None = None) -> Iterator[RunRecord]:
        """Read every record, in the order of the file names.

        A file that cannot be read, or that lies under another name than its own (a copy that would
        be counted twice), is passed over with a `StoreWarning` that names it.

        Args:
            dataset: Only this data set.
            model: Only this model.

        Yields:
            The stored records.
        """
        for path in sorted(self.root.glob(f"{dataset or '*'}/{model or '*'}/*.json")):
            if path.name.startswith("."):
                continue
            try:
                record = read_record(path)
            except StoreError as error:
                warnings.warn(str(error), StoreWarning, stacklevel=2)
                continue
            expected = self.path(record.identity)
            if path != expected:
                warnings.warn(
                    f"{path}: passed over, because this record's own name is "
                    f"{expected.relative_to(self.root)}. Rename the file, or delete the copy.",
                    StoreWarning,
                    stacklevel=2,
                )
                continue
            yield record

    def predictions(self, record: RunRecord) -> pd.DataFrame:
        """Read the predictions of a stored run.

        Args:
            record: A record that this store returned.

        Returns:
            Columns `split` and `id` (strings), `label` and `prediction` (float64, exactly as
            written), one row a sample.

        Raises:
            StoreError: The run has no predictions, or their file is missing or was changed.
        """
        path = self.predictions_path(record.identity)
        if record.predictions_sha256 is None:
            raise StoreError(
                f"{self.path(record.identity)}: this run was stored without predictions."
            )
        try:
            content = path.read_bytes()
        except OSError as error:
            raise StoreError(
                f"{path}: the predictions cannot be read ({error.strerror}). "
                "Copy the file from the machine that made the run."
            ) from error
        if hashlib.sha256(content).hexdigest() != record.predictions_sha256:
            raise StoreError(
                f"{path}: these are not the predictions that the record was written with. "
                "Copy the file again from the machine that made the run."
            )
        return _read_predictions_csv(content)


def read_record(path: Path) -> RunRecord:
    """Read one record file.

    Args:
        path: A JSON file of a store.

    Returns:
        The record.

    Raises:
        StoreError: The file is missing, damaged or of a newer version; the message says which.
    """
    mend = "Restore it from a copy, or delete it so that the run is made again."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"{path}: this run record cannot be opened ({error.strerror}).") from error
    except ValueError as error:
        raise StoreError(f"{path}: this run record is damaged ({error}). {mend}") from error
    found = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(found, int) and found > SCHEMA_VERSION:
        raise StoreError(
            f"{path}: written by a newer MMSA_ext (record version {found}; this one reads "
            f"{SCHEMA_VERSION}). Update MMSA_ext."
        )
    try:
        return RunRecord.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "record"
        raise StoreError(
            f"{path}: this run record is damaged ({where}: {first['msg']}). {mend}"
        ) from error


def _predictions_csv(predictions: pd.DataFrame) -> str:
    """Write predictions so that every id and every float comes back exactly."""
    if set(predictions.columns) != set(PREDICTION_COLUMNS):
        raise StoreError(
            f"predictions have the columns {list(predictions.columns)}; "
            f"they must be {list(PREDICTION_COLUMNS)}."
        )
    # float32 is widened first: its shortest decimal form would read back as another float64.
    table = predictions[list(PREDICTION_COLUMNS)].astype(
        {"split": str, "id": str, "label": np.float64, "prediction": np.float64}
    )
    buffer = io.StringIO(newline="")
    table.to_csv(buffer, index=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    return buffer.getvalue()


def _read_predictions_csv(content: bytes) -> pd.DataFrame:
    # As text first: an id may be "NA" or "0001", and Python's float is exact in every pandas.
    table = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    for column in ("label", "prediction"):
        numbers = [float(cell) if cell else math.nan for cell in table[column]]
        table[column] = np.array(numbers, dtype=np.float64)
    return table
