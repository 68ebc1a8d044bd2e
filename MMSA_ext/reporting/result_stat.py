"""A table of all records in the form of MMSA's own `results/result-stat.md`.

MMSA lists each data set's models with the means of its metrics, x100. Ours says below each table
what MMSA's leaves open: seeds and their number, selection rule, data, code and environment.
"""

from collections.abc import Iterable

from MMSA_ext.datasets import SHIPPED
from MMSA_ext.records.store import RunRecord
from MMSA_ext.reporting.comparison import SystemRuns, compare
from MMSA_ext.reporting.groups import (
    by_data,
    by_experiment,
    data_titles,
    newest_code,
    rows,
    settings_facts,
)
from MMSA_ext.reporting.metric_names import ordered_metrics
from MMSA_ext.reporting.render import (
    Cell,
    Column,
    Row,
    Table,
    markdown_notes,
    to_markdown,
    x100,
)

_HEAD = """\
# Results

Made by `mmsa-ext result-stat` from records, in the form of MMSA's table: means over seeds, all
metrics x100. A diverged seed has no result and does not enter the mean. Standard deviations,
intervals and tests are in the experiments' tables.

### Regression
"""


def result_stat(records: Iterable[RunRecord]) -> str:
    """Lay records out as MMSA's `result-stat.md`: means on the test split.

    A row is a model with one configuration on one feature file; a data set that was run on several
    files has a table for each. Where several versions of the code ran a row, the one with the
    newest record counts.

    Returns:
        Markdown with a final newline: the tables, and below each what its numbers depend on.
    """
    data = by_data(newest_code(records))
    titles = data_titles(data)
    parts = [
        f"- {titles[key].replace(key.dataset, key.dataset.upper(), 1)}\n\n{_table(data[key])}"
        for key in sorted(data, key=lambda key: (_place(key.dataset), *key))
    ]
    return "\n".join([_HEAD, *(parts or ["No records yet.\n"])])


def _place(dataset: str) -> int:
    return [*SHIPPED, dataset].index(dataset)


def _table(runs: list[RunRecord]) -> str:
    names = (name for run in runs if run.finished for name in run.metrics.get("test", {}))
    metrics = ordered_metrics(names, loss=False)
    if not metrics:
        return "No run has a result.\n"
    groups = by_experiment(runs)
    systems = rows(groups)
    found = compare(systems, metrics, facts=settings_facts(groups))
    means = found.numbers.set_index(["row", "metric"])["mean"]
    heads = ("Model", *metrics, "Data Setting")
    lines = [
        Row(
            (
                system.label,
                *(Cell(x100(means[system.label, metric])) for metric in metrics),
                _data_setting(system),
            )
        )
        for system in systems
    ]
    columns = tuple(Column(head, "center") for head in heads)
    notes = markdown_notes(found.facts, indent="  ")
    return f"{to_markdown(Table(columns, tuple(lines)))}\n{notes}\n"


def _data_setting(system: SystemRuns) -> str:
    aligned = system.records[0].identity.configuration.get("need_data_aligned")
    return "Aligned" if aligned else "Unaligned"
