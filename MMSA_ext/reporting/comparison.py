"""One comparison of runs: systems beside each other, against a baseline, beside what papers print.

Pure functions of records. A comparison is of one data set; `comparison_table` shows it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import pandas as pd

from MMSA_ext.errors import NOT_BETTER, suggest
from MMSA_ext.records.store import RunRecord
from MMSA_ext.reporting.metric_names import better, paper_name
from MMSA_ext.reporting.render import Fact, said_once
from MMSA_ext.reporting.statistics import (
    T_TEST,
    StatisticsError,
    holm,
    paired_difference,
    summarise,
)

Role = Literal["system", "control", "baseline"]

# Value of `SystemRuns.compared_with`: the baseline of the table.
TABLE_BASELINE: Final = ""

# Means that print alike (x100, two digits) are a tie: a reader could not see a difference.
_PRINTED_DIGITS: Final = 2

COLUMNS: Final = (
    *("row", "model", "role", "dataset", "split", "metric"),
    *("mean", "std", "n", "ci_low", "ci_high", "confidence", "seeds", "diverged", "reason"),
    *("compared_with", "difference", "difference_low", "difference_high", "difference_n"),
    *("p_value", "p_holm", "test", "best"),
    *("selection", "text", "environment", "fingerprint", "code_version"),
    *("published_value", "published_mark", "published_source", "notes", "remark"),
)


@dataclass(frozen=True)
class PublishedNumber:
    """A number that a paper prints.

    Attributes:
        value: In our metrics' units, before MMSA's x100: MAE 0.709, accuracy 0.844.
        mark: The paper's mark of the row, such as †; empty for none.
        source: Paper and table, and what the paper says of the row and its settings.
    """

    value: float
    mark: str
    source: str


@dataclass(frozen=True)
class SystemRuns:
    """One row of a comparison: runs on one data set that differ by their seed only.

    Attributes:
        label: Name of the row; unique in the table.
        model: Registered model name.
        records: Its runs, at most one a seed; diverged ones included, so that they are reported.
        seeds: Seeds that were planned; none for a row that only shows published numbers.
        published: By metric, what a paper prints for it.
        role: A "control" answers whether a gain has the claimed cause; it is marked in the table.
        remarks: What a reader of the row should know.
        compared_with: Label of the row that it is tested against; `TABLE_BASELINE` for the
            baseline of the table, None for no test.
    """

    label: str
    model: str
    records: tuple[RunRecord, ...]
    seeds: tuple[int, ...]
    published: Mapping[str, PublishedNumber] = field(default_factory=dict)
    role: Role = "system"
    remarks: tuple[str, ...] = ()
    compared_with: str | None = TABLE_BASELINE

    @property
    def finished(self) -> dict[int, RunRecord]:
        """Seed to run, where there is a result."""
        return {run.identity.seed: run for run in self.records if run.finished}

    def values(self, metric: str, split: str) -> dict[int, float]:
        """Seed to value, where the run finished and the metric is defined."""
        values = {s: run.metrics.get(split, {}).get(metric) for s, run in self.finished.items()}
        return {seed: value for seed, value in values.items() if value is not None}


@dataclass(frozen=True)
class Comparison:
    """A comparison table in numbers.

    Attributes:
        title: What the table shows.
        dataset: Data set of all rows.
        baseline: Label of the one row that all tested rows are compared with; None where there
            is no comparison or where rows are compared with different ones.
        metrics: MMSA's names, in the table's order.
        numbers: One line a row and metric, in the table's order, with `COLUMNS`. Numbers are
            plain, before MMSA's x100, and missing (NaN) where there is no run; texts are then
            empty. `std` is the sample's; `difference` is the mean over shared seeds of the row
            minus the row `compared_with`, with its t-interval; `best` is "best", "second" or "".
        facts: What the numbers depend on, in the order to be shown.
        split: Split of the metrics.
        confidence: Level of the intervals.
        seed_values: By row and metric, the values that the mean is of, by seed.
    """

    title: str
    dataset: str
    baseline: str | None
    metrics: tuple[str, ...]
    numbers: pd.DataFrame
    facts: tuple[Fact, ...]
    split: str = "test"
    confidence: float = 0.95
    seed_values: Mapping[tuple[str, str], Mapping[int, float]] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[str, ...]:
        """Labels of the rows, in the table's order."""
        return tuple(dict.fromkeys(self.numbers["row"]))


def compare(
    systems: Sequence[SystemRuns],
    metrics: Sequence[str],
    *,
    baseline: str | None = None,
    split: str = "test",
    confidence: float = 0.95,
    title: str = "",
    dataset: str | None = None,
    facts: Sequence[Fact] = (),
    seed_notes: bool = False,
) -> Comparison:
    """Compare systems on one data set.

    Each row is tested against the one it is `compared_with` (the baseline, if it names none) on
    every metric, by a paired t-test over the seeds that both finished. Holm's correction runs over
    all tests of the table that are made, because a reader looks for a gain anywhere in it.

    Best and second best count among the rows that have runs, controls and baseline included;
    equal to two digits x100 is a tie and shared. A row whose mean is of fewer seeds than planned
    does not compete against complete ones: few seeds are far from their mean more often. Published
    numbers do not compete, nor does the loss, which is another quantity in each model.

    Args:
        systems: The rows, in the table's order.
        metrics: Metrics to show, by MMSA's names.
        baseline: Label of the row to compare with; None compares only rows that name their own.
        split: Split whose metrics count.
        confidence: Level of the t-intervals.
        title: What the table shows.
        dataset: Name of the data set; needed only where no row has a run.
        facts: Facts of the caller, shown before those found in the records.
        seed_notes: Show the notes of single seeds, too; else they stay in the records.

    Returns:
        Numbers and facts.

    Raises:
        StatisticsError: Labels repeat, the baseline or a row to compare with is no row, a row is
            to be compared with itself, the runs are of several data sets or definitions of one, or
            the records of a row are of several feature files, of a seed that was not planned, or
            two of one seed.
    """
    _check(systems, metrics, baseline)
    names = {run.identity.dataset for system in systems for run in system.records}
    if len(names | ({dataset} if dataset else set())) > 1:
        raise StatisticsError(
            f"a comparison is of one data set, and these runs are of {', '.join(sorted(names))}"
            + (f" where {dataset} was asked for." if dataset else ".")
        )
    dataset = dataset or next(iter(names), "")
    defined = {run.identity.data_set for system in systems for run in system.records}
    if len(defined) > 1:
        raise StatisticsError(
            f"these runs are of {len(defined)} data sets that are all called {dataset}, with other "
            "labels, metrics or classes (dataset_definition in their records); compare those of "
            "one, or give each a name of its own."
        )
    references = _references(systems, baseline)
    common = _common(references, baseline)
    by_label = {system.label: system for system in systems}
    lines = [
        _line(system, by_label.get(references.get(system.label, "")), metric, split, confidence)
        | {"dataset": dataset}
        for system in systems
        for metric in metrics
    ]
    for line in lines:
        if line["row"] == common and line["role"] == "system":
            line["role"] = "baseline"
    for line, adjusted in zip(lines, holm([line["p_value"] for line in lines]), strict=True):
        line["p_holm"] = adjusted
    left_out = _mark_best(lines, metrics)
    found = [
        *_comparison_facts(systems, references, common, lines, confidence),
        *_best_fact(left_out),
        *_facts(systems, metrics, split, seed_notes),
    ]
    numbers = pd.DataFrame(lines, columns=list(COLUMNS))
    return Comparison(
        title,
        dataset,
        common,
        tuple(metrics),
        numbers,
        (*facts, *found),
        split,
        confidence,
        {(s.label, name): s.values(name, split) for s in systems for name in metrics},
    )


def text_encoder(record: RunRecord) -> str:
    """Name the text encoder of a run, from its configuration.

    Args:
        record: A run.

    Returns:
        Such as "text encoder minilm", or "text features of the file" for a model that reads them.
    """
    configuration = record.identity.configuration
    name = configuration.get("pretrained")
    if not name or configuration.get("use_bert") is False:
        return "text features of the file"
    random = ", untrained" if configuration.get("random_init") else ""
    frozen = configuration.get("freeze_text") or configuration.get("use_finetune") is False
    return f"text encoder {name}{random}" + (", frozen" if frozen else "")


def provenance(runs: Sequence[RunRecord]) -> dict[str, str]:
    """What numbers of runs are of, as columns; several texts are separated by a bar."""
    return {
        "selection": _joined(run.selection for run in runs),
        "environment": _joined(run.environment.describe() for run in runs),
        "fingerprint": _joined(run.identity.dataset_fingerprint for run in runs),
        "code_version": _joined(run.identity.code_version for run in runs),
    }


def _check(systems: Sequence[SystemRuns], metrics: Sequence[str], baseline: str | None) -> None:
    labels = [system.label for system in systems]
    if not systems or not metrics:
        raise StatisticsError("a comparison needs at least one row and one metric.")
    for what, names in (("row", labels), ("metric", list(metrics))):
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise StatisticsError(f"the {what} {twice[0]!r} occurs twice in the comparison.")
    if baseline is not None and baseline not in labels:
        raise StatisticsError(f"no row {baseline!r} to compare with; {suggest(baseline, labels)}")
    for system in systems:
        _check_reference(system, labels)
        _check_runs(system)


def _check_reference(system: SystemRuns, labels: Sequence[str]) -> None:
    other = system.compared_with
    if other is None or other == TABLE_BASELINE:
        return
    if other not in labels:
        raise StatisticsError(
            f"{system.label!r}: no row {other!r} to compare with; {suggest(other, list(labels))}"
        )
    if other == system.label:
        raise StatisticsError(f"{system.label!r} is to be compared with itself; name another row.")


def _check_runs(system: SystemRuns) -> None:
    seeds = [run.identity.seed for run in system.records]
    if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        raise StatisticsError(f"{system.label!r} has two runs of seed {twice[0]}; give it one.")
    if odd := sorted(set(seeds) - set(system.seeds)):
        raise StatisticsError(f"{system.label!r} has a run of seed {odd[0]}, which is not planned.")
    if len({run.identity.dataset_fingerprint for run in system.records}) > 1:
        raise StatisticsError(
            f"{system.label!r} mixes runs on different feature files; give it those of one."
        )


def _references(systems: Sequence[SystemRuns], baseline: str | None) -> dict[str, str]:
    """By the label of each row that is to be tested, the label of the row it is tested against."""
    named = {
        system.label: baseline if system.compared_with == TABLE_BASELINE else system.compared_with
        for system in systems
    }
    return {row: other for row, other in named.items() if other is not None and other != row}


def _common(references: Mapping[str, str], baseline: str | None) -> str | None:
    """The one row that serves all tests, if there is one."""
    others = set(references.values()) or ({baseline} if baseline is not None else set())
    return next(iter(others)) if len(others) == 1 else None


def _line(
    system: SystemRuns,
    reference: SystemRuns | None,
    metric: str,
    split: str,
    confidence: float,
) -> dict[str, Any]:
    values = system.values(metric, split)
    summary = summarise([values[seed] for seed in sorted(values)], confidence)
    others = {} if reference is None else reference.values(metric, split)
    difference = paired_difference(values, others, confidence)
    published = system.published.get(metric)
    runs = system.records
    return {
        "row": system.label,
        "model": system.model,
        "role": system.role,
        "split": split,
        "metric": metric,
        "mean": summary.mean,
        "std": summary.std,
        "n": summary.n,
        "ci_low": summary.ci_low,
        "ci_high": summary.ci_high,
        "confidence": confidence,
        "seeds": len(system.seeds),
        "diverged": sum(not run.finished for run in runs),
        "reason": _joined(run.reason for run in runs if run.reason),
        "compared_with": "" if reference is None else reference.label,
        "difference": difference.difference,
        "difference_low": difference.ci_low,
        "difference_high": difference.ci_high,
        "difference_n": difference.n,
        "p_value": difference.p_value,
        "test": T_TEST if difference.n else "",
        "best": "",
        **provenance(runs),
        "text": _joined(text_encoder(run) for run in runs),
        "published_value": math.nan if published is None else published.value,
        "published_mark": "" if published is None else published.mark,
        "published_source": "" if published is None else published.source,
        "notes": _joined(_shared_notes(system)),
        "remark": _joined([*system.remarks, *_settings(system, published)]),
    }


def _settings(system: SystemRuns, published: PublishedNumber | None) -> list[str]:
    """Put our settings beside the paper's: what a difference may come from."""
    if published is None:
        return []
    mark = f"{published.mark} " if published.mark else ""
    paper = f"paper: {mark}{published.source}"
    data = _each(system, lambda run: f"features sha256 {run.identity.dataset_fingerprint[:12]}")
    ours = [*_each(system, text_encoder), *data, *_each(system, lambda run: run.selection)]
    return [f"{paper}; here: {', '.join(ours)}" if ours else paper]


def _each(system: SystemRuns, say: Callable[[RunRecord], str]) -> list[str]:
    return list(dict.fromkeys(say(run) for run in system.records))


def _joined(texts: Iterable[str]) -> str:
    return " | ".join(dict.fromkeys(texts))


def _mark_best(lines: Sequence[dict[str, Any]], metrics: Sequence[str]) -> tuple[str, ...]:
    """Mark best and second best of each metric; return the rows that could not compete."""
    left_out: dict[str, None] = {}
    for metric in filter(better, metrics):
        having = [line for line in lines if line["metric"] == metric and line["n"] > 0]
        complete = [line for line in having if line["n"] == line["seeds"]]
        if complete:
            left_out |= dict.fromkeys(line["row"] for line in having if line not in complete)
        having = complete or having
        if len(having) < 2:
            continue
        shown = [round(100 * line["mean"], _PRINTED_DIGITS) for line in having]
        ranks = sorted(set(shown), reverse=better(metric) == "higher")[:2]
        for line, value in zip(having, shown, strict=True):
            if value in ranks:
                line["best"] = ("best", "second")[ranks.index(value)]
    return tuple(left_out)


def _facts(
    systems: Sequence[SystemRuns], metrics: Sequence[str], split: str, seed_notes: bool
) -> list[Fact]:
    def per_run(name: str, say: Callable[[RunRecord], str]) -> list[Fact]:
        return said_once(name, [(s.label, _each(s, say)) for s in systems if s.records])

    return [
        *said_once("seeds", [(s.label, [_seeds(s)]) for s in systems if s.seeds]),
        *_named("diverged", systems, _divergences),
        *_named("untrained", systems, _not_better),
        *_named("undefined", systems, lambda system: _undefined(system, metrics, split)),
        *_named("control", systems, lambda s: ["a control, not a system"] * (s.role == "control")),
        *per_run("selection", lambda run: run.selection),
        *per_run("data", lambda run: f"sha256 {run.identity.dataset_fingerprint[:12]}"),
        *per_run("text", text_encoder),
        *per_run("code", lambda run: f"MMSA_ext {run.identity.code_version}"),
        *per_run("environment", lambda run: run.environment.describe()),
        *_named("note", systems, _shared_notes),
        *(_named("note", systems, _notes_of_single_seeds) if seed_notes else []),
        *_named("remark", systems, lambda system: system.remarks),
        *_published_facts(systems),
    ]


def _comparison_facts(
    systems: Sequence[SystemRuns],
    references: Mapping[str, str],
    common: str | None,
    lines: Sequence[Mapping[str, Any]],
    confidence: float,
) -> list[Fact]:
    """Say what the differences are to, how they are tested, and which rows are not."""
    if not references and common is None:
        return []
    to = "" if common is None else f"to {common}, "
    tests = sum(not math.isnan(line["p_holm"]) for line in lines)
    how = (
        f"{to}mean over the seeds that both finished; p: two-sided paired t-test, "
        f"Holm-corrected over the {tests} tests of this table; no p where fewer than two seeds "
        f"are shared or all differ by the same; intervals: Student's t, {100 * confidence:g} %"
        if tests
        else f"{to}no test; it needs two shared seeds whose differences are not equal"
    )
    each = [] if common is not None else [(row, [f"to {ref}"]) for row, ref in references.items()]
    alone = [s for s in systems if s.label not in references and s.label != common and s.records]
    return [
        Fact("difference", how),
        *said_once("difference", each, named=True),
        *_named("difference", alone, lambda _: ["not tested against another row"]),
    ]


def _best_fact(rows: tuple[str, ...]) -> list[Fact]:
    said = "does not compete for best and second best where planned seeds have no number"
    return [Fact("best", said, rows)] if rows else []


def _seeds(system: SystemRuns) -> str:
    """Say which of the planned seeds the numbers are of."""
    finished = sorted(system.finished)
    planned = "" if len(finished) == len(system.seeds) else f" of {len(system.seeds)} planned"
    seeds = ", ".join(map(str, finished))
    return f"n = {len(finished)}{planned}" + (f": {seeds}" if seeds else "")


def _divergences(system: SystemRuns) -> list[str]:
    return [f"seed {r.identity.seed}: {r.reason}" for r in system.records if not r.finished]


def _not_better(system: SystemRuns) -> list[str]:
    return [
        f"seed {run.identity.seed}: {note}"
        for run in system.records
        for note in run.notes
        if note.startswith(NOT_BETTER)
    ]


def _undefined(system: SystemRuns, metrics: Sequence[str], split: str) -> list[str]:
    finished = len(system.finished)
    missing = {metric: finished - len(system.values(metric, split)) for metric in metrics}
    return [f"{paper_name(metric)} in {n} of {finished} runs" for metric, n in missing.items() if n]


def _shared_notes(system: SystemRuns) -> list[str]:
    """Notes that all runs of a row have; those of single seeds stay in the records."""
    notes = [{n for n in run.notes if not n.startswith(NOT_BETTER)} for run in system.records]
    common = set.intersection(*notes) if notes else set()
    return [note for note in system.records[0].notes if note in common] if notes else []


def _notes_of_single_seeds(system: SystemRuns) -> list[str]:
    shared = _shared_notes(system)
    return [
        f"seed {run.identity.seed}: {note}"
        for run in system.records
        for note in run.notes
        if note not in shared and not note.startswith(NOT_BETTER)
    ]


def _published_facts(systems: Sequence[SystemRuns]) -> list[Fact]:
    said = [
        (system.label, [text for n in system.published.values() for text in _settings(system, n)])
        for system in systems
        if system.published
    ]
    unknown = Fact("printed", "settings that a paper's source here does not name are unknown")
    return [*said_once("printed", said), unknown] if said else []


def _named(
    name: str, systems: Sequence[SystemRuns], say: Callable[[SystemRuns], Iterable[str]]
) -> list[Fact]:
    """Facts of single rows, which are named even where all rows say the same."""
    return said_once(name, [(system.label, say(system)) for system in systems], named=True)
