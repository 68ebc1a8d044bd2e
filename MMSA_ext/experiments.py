"""Experiment files: the runs that make one table or figure, as JSON, and the table that they make.

An experiment is a list of rows; a row is a model with a configuration, run on every data set and
seed. Each run is one record of the store, so an experiment that is interrupted goes on where it
was, and its table is read from the records alone. The format of the files is `Experiment`.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from MMSA_ext import text_encoders
from MMSA_ext.config import DATASETS, config_folder, identity_config, merge, read_json, resolve
from MMSA_ext.errors import ConfigError, MMSAExtError, TextEncoderError, suggest
from MMSA_ext.paths import expand
from MMSA_ext.reporting.statistics import summarise
from MMSA_ext.reporting.store import RunRecord, RunStore, content_digest, write_atomically
from MMSA_ext.results import RunResults
from MMSA_ext.run import Places
from MMSA_ext.runner import DEFAULT_SEEDS, MMSA_run

logger = logging.getLogger("MMSA")

# What a run takes over from its feature file, whatever the configuration says.
_SHAPES = ("feature_dims", "seq_lens", "train_samples")

_PUBLISHED_COLUMNS = ("row", "dataset", "metric", "value", "mark", "source")
# Papers print these two as they are, all others in percent.
_PRINTED_PLAIN = ("MAE", "Corr")
_PRINTED_REMARK = (
    "printed numbers are the paper's and were made with other settings: its encoder, features and "
    "selection rule are unknown"
)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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
        model: Model name.
        config: Overrides that make the row what it is, nested or dotted; they win over all others.
        published: Name of the row in `Source.csv`; None if the paper has no such row.
    """

    label: Annotated[str, Field(min_length=1)]
    model: str
    config: dict[str, Any] = {}
    published: str | None = None


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
        rows: The rows, in the table's order.
    """

    name: str
    folder: Path
    title: str
    source: Source
    datasets: Annotated[tuple[str, ...], Field(min_length=1)]
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = DEFAULT_SEEDS
    config: dict[str, Any] = {}
    models: dict[str, dict[str, Any]] = {}
    columns: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]]
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_agree(self) -> Experiment:
        if unknown := sorted(set(self.datasets) - set(DATASETS)):
            raise ValueError(f"datasets: {unknown[0]!r}: {suggest(unknown[0], list(DATASETS))}")
        if without := [name for name in self.datasets if name not in self.columns]:
            raise ValueError(f"columns: name the metrics to show for {', '.join(without)}")
        labels = [row.label for row in self.rows]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"rows: the label {twice[0]!r} occurs twice; a row needs its own")
        known = sorted({row.model for row in self.rows})
        if unknown := sorted(self.models.keys() - set(known)):
            raise ValueError(f"models: no row runs {unknown[0]!r}; {suggest(unknown[0], known)}")
        return self

    def narrowed(
        self,
        *,
        datasets: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> Experiment:
        """The same experiment on some of its data sets, on other seeds, or with other values.

        Args:
            datasets: Data sets of the experiment; None is all of them.
            seeds: Seeds; None is the experiment's.
            config: Overrides of all rows, or with `MODEL:KEY` of one model's; a row's own win,
                because they are what its label says.

        Raises:
            ConfigError: If a data set or a model is not one of the experiment's.
        """
        for name in datasets or ():
            if name not in self.datasets:
                raise ConfigError(
                    f"experiment {self.name!r} has no data set {name!r}; it runs on "
                    f"{', '.join(self.datasets)}."
                )
        common, models = dict(self.config), dict(self.models)
        for key, value in (config or {}).items():
            model, separator, rest = key.rpartition(":")
            if not separator:
                common = dict(merge(common, {key: value}))
                continue
            known = sorted({row.model for row in self.rows})
            if model not in known:
                raise ConfigError(f"{key}: no row runs {model!r}; {suggest(model, known)}")
            models[model] = dict(merge(models.get(model, {}), {rest: value}))
        return self.model_copy(
            update={
                "datasets": tuple(datasets or self.datasets),
                "seeds": tuple(dict.fromkeys(seeds or self.seeds)),
                "config": common,
                "models": models,
            }
        )

    def cells(self) -> Iterator[tuple[Row, str]]:
        """Every row on every data set, in the order in which they are run."""
        return ((row, dataset) for dataset in self.datasets for row in self.rows)

    def overrides(self, row: Row) -> dict[str, Any]:
        """What `row` is run with: overrides of all rows, over them its model's, then its own."""
        shared = merge(merge({}, self.config), self.models.get(row.model, {}))
        return dict(merge(shared, row.config))


@dataclass(frozen=True)
class CellResult:
    """One row on one data set, after `run`.

    Attributes:
        row: The row.
        dataset: The data set.
        results: What `MMSA_run` returned; None if it refused.
        error: Why it refused; None if it did not.
    """

    row: Row
    dataset: str
    results: RunResults | None
    error: MMSAExtError | None = None


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
    own = {"name": path.stem, "folder": path.parent}
    try:
        loaded = Experiment.model_validate({**content, **own})
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, problem['loc'])) or 'file'}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise ConfigError(f"{path}: {len(lines)} problem(s):\n  " + "\n  ".join(lines)) from None
    _check_published(loaded, path)
    return loaded


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


def run(
    experiment: Experiment,
    *,
    progress: Callable[[int, int, Row, str], None] | None = None,
    **options: Any,
) -> list[CellResult]:
    """Run what is not in the store yet.

    All configurations are checked before the first is run. A row that is refused when it is run,
    because of the data for instance, does not stop the others.

    Args:
        experiment: From `load`, `narrowed` where needed.
        progress: Called before each cell with its number from 1, how many there are, the row and
            the data set.
        options: Further arguments of `MMSA_run`, such as `custom_feature` or `res_save_dir`.

    Returns:
        One result for each row and data set, in the order run.

    Raises:
        ConfigError: If configurations are not usable, all of them named; or if a feature file is
            given for several data sets.
    """
    check(experiment)
    files = ("custom_feature", "feature_T", "feature_A", "feature_V")
    if any(options.get(name) for name in files) and len(experiment.datasets) > 1:
        raise ConfigError(
            f"one feature file cannot serve {', '.join(experiment.datasets)}: choose one of them "
            "(--dataset), or set MMSA_DATA_ROOT to the folder with MMSA's data."
        )
    cells = list(experiment.cells())
    done = []
    for number, (row, dataset) in enumerate(cells, start=1):
        if progress is not None:
            progress(number, len(cells), row, dataset)
        try:
            results = MMSA_run(
                row.model,
                dataset,
                config=experiment.overrides(row),
                seeds=experiment.seeds,
                **options,
            )
            done.append(CellResult(row, dataset, results))
        except MMSAExtError as error:
            logger.error("%s on %s: %s", row.label, dataset, error)
            done.append(CellResult(row, dataset, None, error))
    return done


def check(experiment: Experiment) -> None:
    """Resolve every row's configuration.

    Raises:
        ConfigError: Naming the rows that cannot be run, and why.
    """
    problems = []
    for row, dataset in experiment.cells():
        try:
            resolve(row.model, dataset, overrides=experiment.overrides(row))
        except ConfigError as error:
            problems.append(f"{row.label} on {dataset}: {error}")
    if problems:
        raise ConfigError(
            f"experiment {experiment.name!r} has {len(problems)} row(s) that cannot be run:\n  "
            + "\n  ".join(problems)
        )


def table(experiment: Experiment, store: RunStore) -> pd.DataFrame:
    """What the store has of an experiment, as numbers.

    A record belongs to a row if its model, configuration and seed are the row's. Where a row was
    run on several feature files, the one with the newest record of the data set is shown, the same
    for all rows; where it was run by several versions of the code, the newest that it has.

    Args:
        experiment: From `load`, `narrowed` as it was for the run.
        store: Where the records are.

    Returns:
        One line a row, data set and metric: row, model, dataset, metric, mean, std (sample), n,
        ci_low, ci_high (95 % t-interval of the mean), seeds (planned), diverged, reason,
        selection, environment, fingerprint, code_version; of the paper: published (its row),
        published_value, published_mark, published_source. Our numbers are plain, before MMSA's
        x100; n is 0 and they are missing where there is no run. `published_value` is x100, as
        `render` shows it, and missing where the paper has none.

    Raises:
        ConfigError: If the file of the published numbers is not usable.
    """
    printed = {
        (line["row"], line["dataset"], line["metric"]): line
        for line in published_numbers(experiment).to_dict("records")
    }
    lines: list[dict[str, Any]] = []
    for dataset in experiment.datasets:
        found = _matching(experiment, dataset, store)
        for row in experiment.rows:
            for line in _lines(experiment, row, dataset, found[row.label]):
                lines.append(line | _published(printed, row, dataset, line["metric"]))
    return pd.DataFrame(lines)


def render(experiment: Experiment, numbers: pd.DataFrame) -> str:
    """The table for a terminal: mean ± sample standard deviation (n), in MMSA's x100.

    What the paper prints stands below each row that it has.

    Args:
        experiment: The experiment.
        numbers: From `table`.

    Returns:
        Text that names n, selection rule, data, code and environment, and the source of what was
        printed; no final newline.
    """
    blocks = [f"{experiment.title}\n{_source(experiment.source)}"]
    for dataset in experiment.datasets:
        lines = numbers[numbers["dataset"] == dataset].to_dict("records")
        grid = _grid(experiment, dataset, lines)
        title = f"{dataset}, test split: mean ± std (sample, n - 1) over seeds, x100; (n)"
        facts = _facts(experiment, lines)
        blocks.append("\n".join([title, "", grid.to_string(), "", *facts]))
    return "\n\n".join(blocks)


def write(experiment: Experiment, numbers: pd.DataFrame, folder: Path) -> tuple[Path, Path]:
    """Write the table as CSV with plain numbers and as text.

    Args:
        experiment: The experiment; its name is the files'.
        numbers: From `table`.
        folder: Made where it is missing.

    Returns:
        Paths of the CSV and of the text.
    """
    csv, text = folder / f"{experiment.name}.csv", folder / f"{experiment.name}.txt"
    write_atomically(csv, numbers.to_csv(index=False, lineterminator="\n"))
    write_atomically(text, render(experiment, numbers) + "\n")
    return csv, text


def results_folder(res_save_dir: str | Path | None = None) -> Path:
    """Folder of records and tables, as `MMSA_run` takes it."""
    return Places.default(results=res_save_dir).results


def _matching(experiment: Experiment, dataset: str, store: RunStore) -> dict[str, list[RunRecord]]:
    """By row label, the records that count."""
    records: dict[tuple[str, str], list[RunRecord]] = {}
    for record in store.records(dataset):
        identity = record.identity
        if identity.seed in experiment.seeds:
            key = identity.model, _digest(identity.configuration)
            records.setdefault(key, []).append(record)
    found: dict[str, list[RunRecord]] = {}
    for row in experiment.rows:
        try:
            found[row.label] = records.get(_expected(experiment, row, dataset), [])
        except TextEncoderError as error:
            logger.warning("%s: its runs cannot be told from others. %s", row.label, error)
            found[row.label] = []
    newest = max((r for rs in found.values() for r in rs), key=_age, default=None)
    if newest is None:
        return found
    fingerprint = newest.identity.dataset_fingerprint
    return {
        label: _newest_code([r for r in rs if r.identity.dataset_fingerprint == fingerprint])
        for label, rs in found.items()
    }


def _newest_code(records: Sequence[RunRecord]) -> list[RunRecord]:
    if not records:
        return []
    version = max(records, key=_age).identity.code_version
    return [record for record in records if record.identity.code_version == version]


def _age(record: RunRecord) -> datetime:
    return record.created


def _expected(experiment: Experiment, row: Row, dataset: str) -> tuple[str, str]:
    """Model and digest of the configuration that a run of `row` has."""
    args = resolve(row.model, dataset, overrides=experiment.overrides(row))
    configuration = identity_config(args)
    if "pretrained" in configuration:
        configuration["pretrained"] = text_encoders.identity(configuration["pretrained"])
    return args.model_name, _digest(configuration)


def _digest(configuration: Mapping[str, Any]) -> str:
    return content_digest({k: v for k, v in configuration.items() if k not in _SHAPES})


def _lines(
    experiment: Experiment, row: Row, dataset: str, records: Sequence[RunRecord]
) -> Iterator[dict[str, Any]]:
    finished = [record for record in records if record.finished]
    for metric in experiment.columns[dataset]:
        values = [record.metrics.get("test", {}).get(metric) for record in finished]
        summary = summarise([value for value in values if value is not None])
        yield {
            "row": row.label,
            "model": row.model,
            "dataset": dataset,
            "metric": metric,
            "mean": summary.mean,
            "std": summary.std_sample,
            "n": summary.n,
            "ci_low": summary.ci_low,
            "ci_high": summary.ci_high,
            "seeds": len(experiment.seeds),
            "diverged": len(records) - len(finished),
            "reason": _joined(record.reason for record in records if record.reason),
            "selection": _joined(record.selection for record in records),
            "environment": _joined(record.environment.describe() for record in records),
            "fingerprint": _joined(record.identity.dataset_fingerprint for record in records),
            "code_version": _joined(record.identity.code_version for record in records),
        }


def _published(
    printed: Mapping[tuple[Any, ...], Mapping[Any, Any]], row: Row, dataset: str, metric: str
) -> dict[str, Any]:
    """What the paper has in one cell; `printed` goes by row, data set and metric."""
    line = printed.get((row.published, dataset, metric))
    scale = 100 if metric in _PRINTED_PLAIN else 1
    return {
        "published": row.published,
        "published_value": math.nan if line is None else scale * line["value"],
        "published_mark": "" if line is None else line["mark"],
        "published_source": "" if line is None else line["source"],
    }


def _joined(values: Iterable[str]) -> str:
    return " | ".join(dict.fromkeys(values))


def _grid(experiment: Experiment, dataset: str, lines: Sequence[Mapping[Any, Any]]) -> pd.DataFrame:
    """Cells as text; below a row of ours, the paper's."""
    columns = experiment.columns[dataset]
    found = {(line["row"], line["metric"]): line for line in lines}
    grid: list[list[str]] = []
    index: list[str] = []
    for row in experiment.rows:
        cells = [found[row.label, metric] for metric in columns]
        index.append(row.label)
        grid.append([_cell(cell) for cell in cells])
        if any(cell["published_source"] for cell in cells):
            mark = next(cell["published_mark"] for cell in cells if cell["published_source"])
            index.append(f"  printed {mark}".rstrip())
            grid.append([_printed_cell(cell) for cell in cells])
    return pd.DataFrame(grid, index=index, columns=list(columns))


def _printed_cell(line: Mapping[Any, Any]) -> str:
    return f"{line['published_value']:.2f}" if line["published_source"] else "-"


def _cell(line: Mapping[Any, Any]) -> str:
    if line["n"] == 0:
        return "-"
    spread = f" ± {100 * line['std']:.2f}" if line["n"] > 1 else ""
    return f"{100 * line['mean']:.2f}{spread} ({line['n']})"


def _source(source: Source) -> str:
    return f"after {source.paper}" + (f", {source.table}" if source.table else "")


def _facts(experiment: Experiment, lines: Sequence[Mapping[Any, Any]]) -> list[str]:
    """What the numbers depend on; rows are named where they differ."""
    rows = list({line["row"]: line for line in lines if line["selection"]}.values())
    return [
        f"seeds: {', '.join(map(str, experiment.seeds))} planned",
        *([f"all rows: {json.dumps(experiment.config)}"] if experiment.config else []),
        *(f"rows of {model}: {json.dumps(own)}" for model, own in experiment.models.items()),
        *(
            f"diverged: {row['row']}, {row['diverged']} of {row['seeds']} seeds: {row['reason']}"
            for row in rows
            if row["diverged"]
        ),
        *_fact("selection", {row["row"]: row["selection"] for row in rows}),
        *_fact("data", {row["row"]: f"sha256 {row['fingerprint'][:12]}" for row in rows}),
        *_fact("code", {row["row"]: f"MMSA_ext {row['code_version']}" for row in rows}),
        *_fact("environment", {row["row"]: row["environment"] for row in rows}),
        *_printed(lines),
    ]


def _printed(lines: Sequence[Mapping[Any, Any]]) -> list[str]:
    """Where the paper's numbers come from, and what they are worth beside ours."""
    sources = {line["row"]: line["published_source"] for line in lines if line["published_source"]}
    return [*_fact("printed", sources), _PRINTED_REMARK] if sources else []


def _fact(name: str, said: Mapping[str, str]) -> list[str]:
    values = dict.fromkeys(said.values())
    if len(values) == 1:
        return [f"{name}: {value}" for value in values]
    return [
        f"{name}: {'; '.join(row for row, other in said.items() if other == value)}: {value}"
        for value in values
    ]
