"""Experiment files: their form, reading them, and the numbers that their papers print."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import pandas as pd
import torch
from easydict import EasyDict
from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError, model_validator

from MMSA_ext import mmsa_bridge
from MMSA_ext.config.resolve import get_config_regression, merge, resolve, unread
from MMSA_ext.datasets import Dataset, get_dataset
from MMSA_ext.errors import ConfigError, suggest
from MMSA_ext.json_files import read_json
from MMSA_ext.paths import config_folder, expand
from MMSA_ext.runs.api import DEFAULT_SEEDS
from MMSA_ext.validation import SEEDS, distinct_seeds, no_seed

logger = logging.getLogger("MMSA")

FigureKind = Literal["comparison", "sweep", "robustness", "curves", "confusion"]
FIGURE_KINDS: tuple[FigureKind, ...] = get_args(FigureKind)

# What of `Figure` a kind uses.
_LINES: tuple[FigureKind, ...] = ("sweep", "robustness")
_USED_BY: dict[str, tuple[FigureKind, ...]] = {
    "metrics": ("comparison", *_LINES),
    "x_label": _LINES,
    "reference": ("sweep",),
}

_PUBLISHED_COLUMNS = ("row", "dataset", "metric", "value", "mark", "source")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Source(_Part):
    """Where the published numbers stand.

    Attributes:
        paper: Title and place of the paper.
        table: Table or figure of the paper; None for what the paper does not have.
        csv: File with the published numbers, see `published_numbers`; None if there are none.
    """

    paper: str
    table: str | None = None
    csv: str | None = None


class Row(_Part):
    """One row of the table.

    Attributes:
        label: What the row is called; unique in the experiment.
        model: Model name; None for a system that cannot be run here, of which only the published
            numbers are shown.
        config: Overrides that make the row what it is, nested or dotted; they win over all others.
        published: Name of the row in `Source.csv`; None if the paper has no such row.
        role: A "control" answers whether a gain has the claimed cause.
        series: Line of the figure to which the row belongs.
        x: Where the row stands on that line.
        remarks: What a reader of the row should know.
        compared_with: Label of the row that this one is tested against; left out it is the
            experiment's `baseline`, None leaves the row out of the tests.
    """

    label: Annotated[str, Field(min_length=1)]
    model: str | None = None
    config: dict[str, Any] = {}
    published: str | None = None
    role: Literal["system", "control", "baseline"] = "system"
    series: str | None = None
    x: float | None = None
    remarks: tuple[str, ...] = ()
    compared_with: str | None = None

    @model_validator(mode="after")
    def _shows_something(self) -> Row:
        if self.model is None and self.published is None:
            raise ValueError(f"{self.label!r} needs a model to run, or a published row to show")
        if self.model is None and self.config:
            raise ValueError(f"{self.label!r} has a config, but no model to run with it")
        if (self.series is None) != (self.x is None):
            raise ValueError(f"{self.label!r} needs series and x together, or neither")
        if self.compared_with == self.label:
            raise ValueError(f"{self.label!r}: compared_with names the row itself")
        return self


class Figure(_Part):
    """How `mmsa-ext experiment figure` draws the experiment.

    Attributes:
        kind: Which picture; `sweep` and `robustness` draw the rows that have `series` and `x`.
        metrics: Metrics drawn by `comparison`, `sweep` and `robustness`, of the table's columns;
            None is all of them.
        x_label: Name of the horizontal axis of `sweep` and `robustness`.
        reference: Row drawn as a horizontal line by `sweep`; None is no line.
    """

    kind: FigureKind = "comparison"
    metrics: tuple[str, ...] | None = None
    x_label: str = ""
    reference: str | None = None


class Experiment(_Part):
    """The content of an experiment file.

    Attributes:
        name: Name of the file, without its ending; not written in it.
        folder: Folder of the file; not written in it.
        title: What the table shows.
        source: Where it was published.
        datasets: Data sets on which each row is run.
        seeds: Seeds of each row.
        config: Overrides of all rows.
        models: By model name, overrides of its rows; they win over `config`.
        columns: By data set, the metrics that the table shows, by MMSA's names.
        baseline: Row with which the others are compared; None compares none.
        figure: How the experiment is drawn.
        rows: The rows, in the table's order.
        fingerprint: Of the feature file whose records tables and figures show; None chooses one,
            see `records.matching`. Not written in the file.
        code: First characters of the code version whose records they show; empty chooses one. Not
            written in the file.
        chosen: Labels of the rows that are run, all of them if empty; tables and figures show every
            row all the same. Not written in the file.
    """

    name: str
    folder: Path
    title: str
    source: Source
    datasets: Annotated[tuple[str, ...], Field(min_length=1)]
    seeds: Annotated[tuple[StrictInt, ...], Field(min_length=1)] = DEFAULT_SEEDS
    config: dict[str, Any] = {}
    models: dict[str, dict[str, Any]] = {}
    columns: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]]
    baseline: str | None = None
    figure: Figure = Figure()
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]
    fingerprint: str | None = None
    code: str = ""
    chosen: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names_agree(self) -> Experiment:
        for name in self.datasets:
            _known("datasets", name)
        if without := [name for name in self.datasets if name not in self.columns]:
            raise ValueError(f"columns: name the metrics to show for {', '.join(without)}")
        labels = [row.label for row in self.rows]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"rows: the label {twice[0]!r} occurs twice; a row needs its own")
        references = (("baseline", self.baseline), ("figure", self.figure.reference))
        compared = ((f"{row.label}: compared_with", row.compared_with) for row in self.rows)
        for key, label in (*references, *compared):
            if label is not None and label not in labels:
                raise ValueError(f"{key}: no row {label!r}; {suggest(label, labels)}")
        if unknown := sorted(self.models.keys() - set(self.known_models)):
            close = suggest(unknown[0], self.known_models)
            raise ValueError(f"models: no row runs {unknown[0]!r}; {close}")
        if wrong := [seed for seed in self.seeds if seed not in SEEDS]:
            raise ValueError(f"seeds: {no_seed(wrong[0])}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one occurs twice; write each once")
        for dataset, names in self.columns.items():
            _check_metrics(dataset, names)
        self._check_figure()
        drawn = self.figure.kind
        if drawn in ("sweep", "robustness") and all(row.x is None for row in self.rows):
            raise ValueError(f"figure: a {drawn} needs rows with series and x")
        return self

    def _check_figure(self) -> None:
        figure = self.figure
        for key, kinds in _USED_BY.items():
            if getattr(figure, key) and figure.kind not in kinds:
                raise ValueError(
                    f"figure: {key} is of {', '.join(kinds)}; a figure of kind {figure.kind!r} "
                    "does not use it, leave it out"
                )
        for dataset in self.datasets:
            known = self.columns[dataset]
            for name in figure.metrics or ():
                if name not in known:
                    raise ValueError(
                        f"figure.metrics: {name!r} is none of the columns of {dataset}, which are "
                        f"what is drawn; {suggest(name, list(known))}"
                    )

    @property
    def known_models(self) -> list[str]:
        """Names of the models that rows run, sorted."""
        return sorted({row.model for row in self.rows if row.model is not None})

    def narrowed(
        self,
        *,
        rows: Sequence[str] | None = None,
        models: Sequence[str] | None = None,
        datasets: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        config: Mapping[str, Any] | None = None,
        baseline: str | None = None,
        fingerprint: str | None = None,
        code: str = "",
    ) -> Experiment:
        """The same experiment with some of its rows, data sets, other seeds, or other values.

        Args:
            rows: Labels of the rows that are run; None is all of them.
            models: Models whose rows are run; None is all of them.
            datasets: Data sets of the experiment; None is all of them.
            seeds: Seeds; None is the experiment's.
            config: Overrides of all rows, or with `MODEL:KEY` of one model's; a row's own win,
                because they are what its label says.
            baseline: Row to compare with; None is the experiment's.
            fingerprint: Show records of this feature file.
            code: Show records of this code version.

        Raises:
            ConfigError: If a data set, a model or a row is not one of the experiment's, if no row
                is left to run, or if a seed is none.
        """
        other_seeds = distinct_seeds(seeds or ())
        for name in datasets or ():
            if name not in self.datasets:
                raise ConfigError(
                    f"experiment {self.name!r} has no data set {name!r}; it runs on "
                    f"{', '.join(self.datasets)}."
                )
        labels = [row.label for row in self.rows]
        if baseline is not None and baseline not in labels:
            raise ConfigError(
                f"experiment {self.name!r} has no row {baseline!r}; {suggest(baseline, labels)}"
            )
        common, of_models = dict(self.config), dict(self.models)
        for key, value in (config or {}).items():
            model, separator, rest = key.rpartition(":")
            if not separator:
                common = dict(merge(common, {key: value}))
                continue
            known = self.known_models
            if model not in known:
                raise ConfigError(f"{key}: no row runs {model!r}; {suggest(model, known)}")
            of_models[model] = dict(merge(of_models.get(model, {}), {rest: value}))
        return self.model_copy(
            update={
                "datasets": tuple(datasets or self.datasets),
                "seeds": tuple(other_seeds or self.seeds),
                "fingerprint": fingerprint or self.fingerprint,
                "code": code or self.code,
                "config": common,
                "models": of_models,
                "baseline": baseline or self.baseline,
                "chosen": self._chosen(rows, models),
            }
        )

    def _chosen(self, rows: Sequence[str] | None, models: Sequence[str] | None) -> tuple[str, ...]:
        if not rows and not models:
            return self.chosen
        runnable = {row.label: row.model for row in self.rows if row.model is not None}
        for names, known in ((rows, list(runnable)), (models, self.known_models)):
            if unknown := [name for name in names or () if name not in known]:
                raise ConfigError(
                    f"experiment {self.name!r} runs no {unknown[0]!r}; {suggest(unknown[0], known)}"
                )
        labels = [label for label in runnable if not rows or label in rows]
        chosen = tuple(label for label in labels if not models or runnable[label] in models)
        if not chosen:
            raise ConfigError(
                f"experiment {self.name!r}: {', '.join(labels)}: none of these rows runs "
                f"{' or '.join(models or ())}."
            )
        return chosen

    def cells(self) -> Iterator[tuple[Row, str]]:
        """Every row that is run, on every data set, in the order in which they are run."""
        runnable = (row for row in self.rows if row.model is not None)
        chosen = [row for row in runnable if not self.chosen or row.label in self.chosen]
        return ((row, dataset) for dataset in self.datasets for row in chosen)

    def overrides(self, row: Row) -> dict[str, Any]:
        """What `row` is run with: overrides of all rows, over them its model's, then its own.

        Of the overrides of all rows a row is given what its model reads; see `idle`.
        """
        idle = self.idle(row)
        common = {key: value for key, value in self.config.items() if key not in idle}
        shared = merge(merge({}, common), self.models.get(row.model or "", {}))
        return dict(merge(shared, row.config))

    def idle(self, row: Row) -> list[str]:
        """Keys of `config` that the model of `row` does not read, but that of another row does.

        What no row's model reads is left in, to be refused.
        """
        if not self.config:
            return []
        content = self.model_dump(include={"datasets", "config", "models", "rows"})
        return _idle(json.dumps(content, default=str)).get(row.label, [])


@lru_cache(maxsize=64)
def _idle(content: str) -> dict[str, list[str]]:
    """`Experiment.idle` by label, of the JSON of an experiment."""
    experiment = json.loads(content)
    idle: dict[str, list[str]] = {}
    for row in experiment["rows"]:
        model = row["model"]
        own = merge(merge({}, experiment["models"].get(model, {})), row["config"])
        idle[row["label"]] = _unread(model, experiment["datasets"], own, experiment["config"])
    models = {row["label"] for row in experiment["rows"] if row["model"] is not None}
    nowhere = set.intersection(*(set(idle[label]) for label in models)) if models else set()
    return {label: [key for key in keys if key not in nowhere] for label, keys in idle.items()}


def _unread(
    model: str | None, datasets: Sequence[str], own: Mapping[str, Any], keys: Mapping[str, Any]
) -> list[str]:
    for dataset in datasets if model is not None else ():
        try:
            return unread(merge(get_config_regression(str(model), dataset), own), keys)
        except ConfigError:  # not configured for this one
            continue
    return []


def _known(key: str, dataset: str) -> Dataset:
    try:
        return get_dataset(dataset)
    except ConfigError as error:
        raise ValueError(f"{key}: {error}") from None


def _check_metrics(dataset: str, names: Sequence[str]) -> None:
    known = _metrics(_known("columns", dataset))
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"columns: {unknown[0]!r} is no metric of {dataset}; {suggest(unknown[0], list(known))}"
        )


@cache
def _metrics(dataset: Dataset) -> tuple[str, ...]:
    """What a record has for each split."""
    values = torch.tensor([1.0, -1.0])
    return ("Loss", *mmsa_bridge.metrics(dataset)(values, values))


def experiments_folder() -> Path:
    """Folder with the shipped experiment files."""
    return config_folder() / "experiments"


def list_experiments() -> list[str]:
    """Names of the shipped experiments, sorted."""
    return sorted(path.stem for path in experiments_folder().glob("*.json"))


def load(experiment: str | Path) -> Experiment:
    """Read and check an experiment.

    Args:
        experiment: Name of a shipped experiment, or path of a file.

    Raises:
        ConfigError: If there is no such experiment, with every problem of the file's form, or if
            published numbers that it names do not exist.
    """
    path = Path(expand(experiment))
    if path.suffix != ".json":
        path = experiments_folder() / f"{experiment}.json"
        if not path.is_file():
            raise ConfigError(
                f"no experiment {str(experiment)!r}; {suggest(str(experiment), list_experiments())}"
            )
    content = read_json(path)
    own = {"name": path.stem, "folder": path.parent, "fingerprint": None, "code": "", "chosen": ()}
    try:
        loaded = Experiment.model_validate({**content, **own})
    except ValidationError as error:
        lines = [_sentence(problem["loc"], problem["msg"]) for problem in error.errors()]
        raise ConfigError(f"{path}: {len(lines)} problem(s):\n  " + "\n  ".join(lines)) from None
    _check_published(loaded, path)
    return loaded


def _sentence(location: tuple[int | str, ...], message: str) -> str:
    """A problem of the file's form; pydantic puts the kind of error before our own sentences."""
    where = ".".join(map(str, location)) or "file"
    return f"{where}: {message.removeprefix('Value error, ')}"


class Setting(NamedTuple):
    """A row on a data set, its configuration resolved."""

    row: Row
    overrides: dict[str, Any]
    args: EasyDict


def settings(experiment: Experiment) -> list[Setting]:
    """Resolve the configuration of every row that is run, in the order in which they are run.

    Raises:
        ConfigError: Naming all rows that cannot be run, and why.
    """
    for key in experiment.config:
        left_out = {str(row.model) for row in experiment.rows if key in experiment.idle(row)}
        if left_out:
            names = ", ".join(sorted(left_out))
            logger.warning("config: %s is left out for %s, where nothing reads it.", key, names)
    found, problems = [], []
    for row, dataset in experiment.cells():
        overrides = experiment.overrides(row)
        try:
            found.append(Setting(row, overrides, resolve(str(row.model), dataset, "", overrides)))
        except ConfigError as error:
            problems.append(f"{row.label} on {dataset}: {error}")
    if problems:
        raise ConfigError(
            f"experiment {experiment.name!r} has {len(problems)} row(s) that cannot be run:\n  "
            + "\n  ".join(problems)
        )
    return found


def published_numbers(experiment: Experiment) -> pd.DataFrame:
    """The numbers that the experiment's source prints.

    Its file, `Source.csv`, is looked for in the folder `published` beside the experiment, then in
    the shipped one.

    Args:
        experiment: From `load`.

    Returns:
        One line a row, data set and metric: row, dataset, metric (MMSA's names), value (as
        printed: MAE and Corr plain, all others in percent), mark (the paper's, such as †; empty
        for none), source. No lines where the source has no file.

    Raises:
        ConfigError: If the file is missing, is no CSV with these columns, or has values that are
            not numbers.
    """
    name = experiment.source.csv
    if name is None:
        return pd.DataFrame(columns=list(_PUBLISHED_COLUMNS))
    folders = [folder / "published" for folder in (experiment.folder, experiments_folder())]
    path = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if path is None:
        raise ConfigError(
            f"experiment {experiment.name!r}: source.csv names {name}, which is neither in "
            f"{' nor in '.join(map(str, dict.fromkeys(folders)))}."
        )
    try:
        numbers = pd.read_csv(path, keep_default_na=False, dtype={"value": "float64"})
    except ValueError as error:
        raise ConfigError(f"{path}: not a table of published numbers: {error}.") from None
    if missing := [column for column in _PUBLISHED_COLUMNS if column not in numbers]:
        raise ConfigError(f"{path}: no column {', '.join(missing)} (docs/experiments.md).")
    return numbers


def _check_published(experiment: Experiment, path: Path) -> None:
    known = sorted(set(published_numbers(experiment)["row"]))
    for row in experiment.rows:
        if row.published is None or row.published in known:
            continue
        if experiment.source.csv is None:
            raise ConfigError(f"{path}: {row.label!r} has published, but source.csv names no file.")
        raise ConfigError(
            f"{path}: {row.label!r}: {experiment.source.csv} has no row {row.published!r}; "
            f"{suggest(row.published, known)}"
        )
