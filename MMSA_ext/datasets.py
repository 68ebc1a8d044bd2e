"""Data sets by name: what labels they have, how they are scored, whose hyper-parameters they take.

The shipped ones are here. One's own are defined in a JSON file or by `register_dataset`, for this
process; the definition goes into the configuration of a run, and so into its name, its record and
its checkpoint, which are read without it being registered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    ValidationError,
    model_validator,
)

from MMSA_ext.errors import ConfigError, suggest
from MMSA_ext.json_files import read_json
from MMSA_ext.paths import expand, shown
from MMSA_ext.validation import explain

__all__ = [
    "DEFINITION",
    "SHIPPED",
    "Dataset",
    "dataset_of",
    "get_dataset",
    "known",
    "known_from",
    "list_datasets",
    "read_datasets",
    "register_dataset",
    "unregister_dataset",
]

Scheme = Literal["mosi", "sims", "generic"]
Like = Literal["mosi", "mosei", "sims", "simsv2"]

# Key of a configuration that holds the definition of a data set that is not shipped.
DEFINITION = "dataset_definition"
# What says where the data are and what the file decides, and so identifies no run.
_NO_IDENTITY = frozenset({"name", "features", "seq_lens", "feature_dims"})
# Beyond these MMSA's metrics cut labels off.
_LIMITS: Mapping[Scheme, float] = {"mosi": 3.0, "sims": 1.0}

_Number = Annotated[float, Field(strict=True)]
_Sizes = Annotated[
    tuple[Annotated[int, Field(strict=True, ge=1)], ...], Field(min_length=3, max_length=3)
]


class Dataset(BaseModel):
    """A data set.

    Attributes:
        name: Lower-case name; also a folder name of the store.
        label_range: Lowest and highest label.
        metrics: MMSA's metrics of MOSI (and MOSEI) or of SIMS, or `generic` ones for labels in any
            range, see `metrics`.
        like: The shipped data set whose hyper-parameters models take; by default sims where the
            metrics are, else mosi.
        language: Of the transcripts; by default that of `like`.
        aligned: Whether words and frames of the feature file are aligned one to one.
        classes: Borders between the classes of labels, rising; a label on a border is of the class
            below. None: labels are of one class if they round to the same whole number.
        features: Feature file, where none is given.
        seq_lens: Time steps of text, audio and vision in that file; the file read decides.
        feature_dims: Widths of text, audio and vision; the file read decides.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.+=-]{0,63}$")]
    label_range: Annotated[tuple[_Number, ...], Field(min_length=2, max_length=2)]
    metrics: Scheme = "generic"
    like: Like = "mosi"
    language: Literal["en", "cn"] = "en"
    aligned: StrictBool = False
    classes: Annotated[tuple[_Number, ...], Field(min_length=1)] | None = None
    features: StrictStr | None = None
    seq_lens: _Sizes | None = None
    feature_dims: _Sizes | None = None

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        values = {"like": "sims" if values.get("metrics") == "sims" else "mosi", **values}
        return {"language": "cn" if values["like"] in ("sims", "simsv2") else "en", **values}

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        low, high = self.label_range
        if low >= high:
            raise ValueError(f"label_range: give the lowest label first, not [{low:g}, {high:g}]")
        limit = _LIMITS.get(self.metrics)
        if limit is not None and not -limit <= low < high <= limit:
            raise ValueError(
                f"metrics: those of {self.metrics} are for labels in [{-limit:g}, {limit:g}], and "
                f"label_range is [{low:g}, {high:g}]; write 'generic', or rescale the labels"
            )
        borders = self.classes or ()
        if any(second <= first for first, second in zip((low, *borders), borders, strict=False)):
            raise ValueError("classes: give rising borders above the lowest label")
        if borders and borders[-1] >= high:
            raise ValueError("classes: give borders below the highest label")
        return self

    def definition(self) -> dict[str, Any]:
        """What of it decides numbers, as plain JSON; `dataset_of` takes it back."""
        return self.model_dump(mode="json", exclude=set(_NO_IDENTITY), exclude_none=True)


# What is not known of SIMSv2 is left out: its lengths, and the name of MMSA's file of it.
SHIPPED: Mapping[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            name="mosi",
            label_range=(-3.0, 3.0),
            metrics="mosi",
            like="mosi",
            features="MOSI/Processed/unaligned_50.pkl",
            # What MMSA's `seq_lens` say of mosi and mosei, (50, 500, 375), is not their order.
            seq_lens=(50, 375, 500),
            feature_dims=(768, 5, 20),
        ),
        Dataset(
            name="mosei",
            label_range=(-3.0, 3.0),
            metrics="mosi",
            like="mosei",
            features="MOSEI/Processed/unaligned_50.pkl",
            seq_lens=(50, 500, 500),
            feature_dims=(768, 74, 35),
        ),
        Dataset(
            name="sims",
            label_range=(-1.0, 1.0),
            metrics="sims",
            features="SIMS/Processed/unaligned_39.pkl",
            seq_lens=(39, 400, 55),
            feature_dims=(768, 33, 709),
        ),
        Dataset(
            name="simsv2", label_range=(-1.0, 1.0), metrics="sims", feature_dims=(768, 25, 177)
        ),
    )
}
_own: dict[str, Dataset] = {}


def list_datasets() -> list[str]:
    """Names of the data sets that are known: the shipped ones, then one's own."""
    return [*SHIPPED, *_own]


def get_dataset(name: str) -> Dataset:
    """Look up a data set by its name, any case.

    Raises:
        ConfigError: There is none; names the closest, and how to define one.
    """
    found = SHIPPED.get(name.lower()) or _own.get(name.lower())
    if found is None:
        raise ConfigError(
            f"unknown data set {name!r:.80}; {suggest(name, list_datasets())} A data set of your "
            "own is defined by --dataset-file FILE (docs/data.md)."
        )
    return found


def dataset_of(name: str, definition: Mapping[str, Any] | None) -> Dataset:
    """The data set of a configuration, a record or a checkpoint; it need not be registered.

    Args:
        name: Its name.
        definition: What stands under `DEFINITION` there; None of a shipped one.

    Raises:
        ConfigError: The definition is none, or there is none and the name is not known.
    """
    if definition is None:
        return get_dataset(name)
    return _validated(name, definition, "")


def register_dataset(name: str, **definition: Any) -> Dataset:
    """Make a data set known to this process, everywhere a name is taken.

    Args:
        name: Lower-case name.
        definition: The other attributes of `Dataset`; `label_range` is needed.

    Returns:
        The data set.

    Raises:
        ConfigError: The definition is not usable, or the name is taken by another.
    """
    features = definition.get("features")
    if features is not None:
        definition["features"] = str(Path(expand(features)).absolute())
    dataset = _validated(name, definition, "")
    _register(dataset)
    return dataset


def unregister_dataset(name: str) -> None:
    """Forget a data set of one's own.

    Raises:
        ConfigError: It is shipped, or not known.
    """
    if get_dataset(name).name in SHIPPED:
        raise ConfigError(f"data set {name!r} is shipped, and stays.")
    del _own[name.lower()]


@contextmanager
def known(*datasets: Dataset) -> Iterator[None]:
    """Inside, these are registered; at the end those are that were before.

    Raises:
        ConfigError: A name is taken by another.
    """
    before = dict(_own)
    try:
        for dataset in datasets:
            if dataset != SHIPPED.get(dataset.name):
                _register(dataset)
        yield
    finally:
        _own.clear()
        _own.update(before)


@contextmanager
def known_from(path: str | Path | None) -> Iterator[None]:
    """`known`, of what a file defines; of no file nothing.

    Raises:
        ConfigError: The file is not usable, or a name is taken by another.
    """
    with known(*(read_datasets(path) if path else ())):
        yield


def read_datasets(path: str | Path) -> list[Dataset]:
    """Definitions in a JSON file: `{"name": {"label_range": [0, 10], ...}, ...}`.

    A feature file that a definition names is looked for in the folder of the JSON file.

    Raises:
        ConfigError: The file is not usable, with every problem of its definitions.
    """
    path = Path(expand(path)).absolute()
    content, found, problems = read_json(path), [], []
    for name, definition in content.items():
        try:
            dataset = _validated(name, definition, shown(path))
        except ConfigError as error:
            problems.append(str(error))
            continue
        if dataset.name in SHIPPED:
            problems.append(f"{shown(path)}: {_taken(dataset)}")
        if dataset.features is not None:
            place = str(path.parent / expand(dataset.features))
            dataset = dataset.model_copy(update={"features": place})
        found.append(dataset)
    if problems:
        raise ConfigError("\n".join(problems))
    if not found:
        raise ConfigError(f'{shown(path)}: defines no data set; write {{"name": {{...}}}}.')
    return found


def _register(dataset: Dataset) -> None:
    if dataset.name in SHIPPED:
        raise ConfigError(_taken(dataset))
    if _own.setdefault(dataset.name, dataset) != dataset:
        raise ConfigError(
            f"data set {dataset.name!r} is registered already, with another definition; name yours "
            "otherwise, or forget the other with MMSA_ext.unregister_dataset."
        )


def _taken(dataset: Dataset) -> str:
    return f"data set {dataset.name!r} is shipped ({', '.join(SHIPPED)}); name yours otherwise."


def _validated(name: Any, definition: Any, where: str) -> Dataset:
    said = f"{where}: data set {name!r:.80}" if where else f"data set {name!r:.80}"
    if not isinstance(definition, Mapping):
        raise ConfigError(
            f"{said} is {definition!r:.60}; it must be an object, such as "
            '{"label_range": [0, 10], "metrics": "generic"}.'
        )
    if "name" in definition:
        raise ConfigError(f"{said} has a key 'name'; take it out, the name stands before it.")
    if "label_range" not in definition:
        raise ConfigError(
            f'{said} lacks the key label_range; add it, such as "label_range": [0, 10].'
        )
    try:
        return Dataset.model_validate({**definition, "name": name})
    except ValidationError as error:
        lines = [line.replace("Value error, ", "") for line in explain(error, Dataset)]
        if any(problem["loc"] == ("name",) for problem in error.errors()):
            lines.append("a name has lower-case letters, digits and _.+=- alone")
        raise ConfigError(f"{said} has {len(lines)} problem(s):\n  " + "\n  ".join(lines)) from None
