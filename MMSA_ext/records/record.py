"""One run as a record: what makes it the run it is, what it gave, where it ran.

Records come from other machines and people: what `read_record` lets through can be shown in every
table, figure and page.
"""

import json
import math
import os
import platform
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from pydantic import (
    AfterValidator,
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

from MMSA_ext.datasets import DEFINITION, SHIPPED, Dataset, dataset_of
from MMSA_ext.errors import MMSAExtError
from MMSA_ext.files import read_regular, reason

# From 3 on a configuration holds causes alone, so that older records have other names.
SCHEMA_VERSION: Final = 3
# More than a run of thousands of epochs takes.
_RECORD_BYTES: Final = 32 * 2**20
_NESTING: Final = 32
REPORTED_PACKAGES = ("torch", "MMSA", "transformers", "numpy", "pandas", "scikit-learn", "scipy")


class StoreError(MMSAExtError, ValueError):
    """A run record, its predictions or a results table is missing, damaged or not usable."""


class EarlierRecordError(StoreError):
    """A record of a version of this package in which runs had other names."""


class StoreWarning(UserWarning):
    """A file of the store was passed over; the others are still read."""


def _plain(value: Any, where: str, depth: int = 0) -> JsonValue:
    """Copy `value` as plain JSON types, or name the key that has none."""
    if depth > _NESTING:
        raise ValueError(f"{where[:80]}...: nested more than {_NESTING} deep")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or _whole(key) != key:
                raise ValueError(f"{where}: the key {key!r} is not a string; make it one")
        return {key: _plain(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where}: {value} is not a JSON number; use null or a finite number")
    if isinstance(value, str) and _whole(value) != value:
        raise ValueError(f"{where}: {value!r} has half a character, which no file can hold")
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
    return sha256(text.encode()).hexdigest()


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


def _whole(value: Any) -> Any:
    """Spell out half a surrogate pair, as of an undecodable file name."""
    if isinstance(value, str) and not value.isascii():
        return value.encode(errors="backslashreplace").decode()
    return value


def metric_name(name: str) -> str:
    """A name as records have it: what could pass for code in a table is replaced by `_`."""
    tame = re.sub(r"[^\w .,:+@%()/=-]", "_", name)
    return (tame if re.match(r"\w", tame) else f"_{tame}")[:64]


def _dated(value: datetime) -> datetime:
    """Refuse a date that is none in every time zone, which tables could not show."""
    try:
        value.astimezone(UTC)
    except (OverflowError, ValueError):
        raise ValueError(f"{value.isoformat()} is out of range") from None
    return value


Number = Annotated[float | None, BeforeValidator(_finite_or_none)]
Count = Annotated[int, Field(ge=0, lt=2**32)]
Text = Annotated[str, BeforeValidator(_whole)]
MetricName = Annotated[str, Field(pattern=r"^\w[\w .,:+@%()/=-]{0,63}$")]
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
            on another machine; so do the shapes that the feature file decides, and what decides
            only the speed, see `runs.seeds.identifying_configuration`.
        seed: Seed of every random stream of the run.
        code_version: Digest of the code that decides the result, see `code_version`.
    """

    dataset: FolderName
    dataset_fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    model: FolderName
    configuration: dict[str, JsonValue]
    seed: Count
    code_version: Text

    @field_validator("configuration", mode="before")
    @classmethod
    def _plain_configuration(cls, value: Any) -> JsonValue:
        return _plain(value, "configuration")

    @model_validator(mode="after")
    def _data_set_is_defined(self) -> Self:
        if self.configuration.get(DEFINITION) is not None:
            _ = self.data_set
        return self

    @property
    def data_set(self) -> Dataset:
        """The data set, as it was when the run was made; it need not be registered.

        One that is neither shipped nor defined here is scored as MOSI.
        """
        definition: Any = self.configuration.get(DEFINITION)
        if definition is None and self.dataset not in SHIPPED:
            return SHIPPED["mosi"].model_copy(update={"name": self.dataset})
        return dataset_of(self.dataset, definition)

    @property
    def definition(self) -> str:
        """First 8 hex digits of the definition of the data set; empty for a shipped one."""
        found: Any = self.configuration.get(DEFINITION)
        return "" if found is None else content_digest(found)[:8]

    @property
    def digest(self) -> str:
        """SHA-256 of the whole identity, 64 hex digits."""
        return content_digest(self.model_dump())

    @property
    def short_id(self) -> str:
        """First 16 hex digits of `digest`: the run's name in files and tables."""
        return self.digest[:16]

    @property
    def checkpoint_name(self) -> str:
        """File name of the run's weights in the folder of checkpoints."""
        return f"{self.model}-{self.dataset}-{self.short_id}-seed{self.seed}.pth"

    @property
    def experiment(self) -> str:
        """First 16 hex digits of the identity without its seed: runs that may be averaged."""
        return content_digest(self.model_dump(exclude={"seed"}))[:16]

    @property
    def setting(self) -> str:
        """First 16 hex digits of data set, model and configuration: what was asked for.

        Which data, which code and which seed it was asked of is left open.
        """
        return content_digest(self.model_dump(include={"dataset", "model", "configuration"}))[:16]

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

    epoch: Count
    train: dict[MetricName, Number] = {}
    valid: dict[MetricName, Number] = {}
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

    device: Text
    cpu: Text = ""
    threads: Count | None = None
    python: Text
    platform: Text
    versions: dict[Text, Text] = {}

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
        recipe: Who made each modality of the features, as far as their file says it: to be read,
            since it follows from the data's fingerprint.
        notes: Whatever a reader of the numbers should know.
        predictions_sha256: Digest of the predictions file; filled in by the store.
        checkpoint_sha256: Digest of the checkpoint, likewise; None where there is none.
    """

    schema_version: Literal[3] = SCHEMA_VERSION
    identity: RunIdentity
    status: Literal["finished", "diverged"]
    reason: Text | None = None
    metrics: dict[MetricName, dict[MetricName, Number]] = {}
    history: tuple[EpochRecord, ...] = ()
    chosen_epoch: Count | None = None
    selection: Text
    environment: Environment
    timings: dict[Text, Number] = {}
    peak_memory_mb: Number = None
    created: Annotated[AwareDatetime, AfterValidator(_dated)] = Field(default_factory=_now)
    checkpoint: Annotated[Text | None, BeforeValidator(_portable_checkpoint)] = None
    recipe: dict[str, dict[str, JsonValue]] = {}
    notes: tuple[Text, ...] = ()
    predictions_sha256: str | None = None
    checkpoint_sha256: str | None = None

    @field_validator("recipe", mode="before")
    @classmethod
    def _plain_recipe(cls, value: Any) -> JsonValue:
        return _plain(value, "recipe")

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


def read_record(path: Path) -> RunRecord:
    """Read one record file.

    Args:
        path: A JSON file of a store.

    Returns:
        The record.

    Raises:
        StoreError: The file is missing, damaged, no regular file or of a newer version; the message
            says which.
    """
    mend = "Restore it from a copy, or delete it so that the run is made again."
    try:
        content = json.loads(read_regular(path, _RECORD_BYTES), parse_constant=_no_number)
    except OSError as error:
        raise StoreError(f"{path}: this run record cannot be read ({reason(error)}).") from error
    except RecursionError as error:
        raise StoreError(f"{path}: this run record is damaged (too deep). {mend}") from error
    except ValueError as error:
        raise StoreError(f"{path}: this run record is damaged ({error}). {mend}") from error
    found = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(found, int) and 0 < found < SCHEMA_VERSION:
        raise EarlierRecordError(
            f"{path}: of an earlier MMSA_ext (record version {found}; this one reads "
            f"{SCHEMA_VERSION}), when runs had other names. Delete it, and run again."
        )
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
        said = _printable(f"{where}: {first['msg']}")
        raise StoreError(f"{path}: this run record is damaged ({said}). {mend}") from error


def _printable(text: str) -> str:
    """One line without what could steer a terminal, and not the megabyte that a key may have."""
    return "".join(sign if sign.isprintable() else "?" for sign in text[:300])


def _no_number(literal: str) -> None:
    raise ValueError(f"{literal} is not a JSON number")
