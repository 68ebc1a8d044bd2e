"""A table of all records in the form of MMSA's own `results/result-stat.md`.

MMSA lists each data set's models with the means of its metrics, x100. Ours says below each table
what MMSA's leaves open: seeds and their number, selection rule, data, code and environment.
"""

from collections.abc import Iterable, Sequence

from MMSA_ext.records.store import RunRecord, content_digest
from MMSA_ext.reporting.comparison import Fact
from MMSA_ext.reporting.report_contents import Section, SeedGroup, sections

# MMSA's table has no column for the loss, whose meaning differs between models.
_LEFT_OUT = "Loss"
_DATASETS = ("mosi", "mosei", "sims", "simsv2")
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

    Args:
        records: Runs, in any order.

    Returns:
        Markdown with a final newline: the tables, and below each what its numbers depend on.
    """
    found = sorted(sections(_newest_code(records)), key=_mmsa_order)
    tables = [_table(section) for section in found]
    return "\n".join([_HEAD, *(tables or ["No records yet.\n"])])


def _mmsa_order(section: Section) -> tuple[int, str]:
    known = section.dataset in _DATASETS
    return (_DATASETS.index(section.dataset) if known else len(_DATASETS), section.title)


def _newest_code(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Of runs that differ by seed and code only, those of the code with the newest record."""
    runs = sorted(records, key=lambda run: run.created)
    settings = [
        content_digest(run.identity.model_dump(exclude={"seed", "code_version"})) for run in runs
    ]
    newest = {key: run.identity.code_version for key, run in zip(settings, runs, strict=True)}
    return [
        run
        for key, run in zip(settings, runs, strict=True)
        if run.identity.code_version == newest[key]
    ]


def _table(section: Section) -> str:
    heading = f"- {section.title.replace(section.dataset, section.dataset.upper(), 1)}"
    if section.comparison is None:
        return f"{heading}\n\nNo run has a result.\n"
    found = section.comparison
    means = {
        (line["row"], line["metric"]): f"{100 * line['mean']:.2f}" if line["n"] else "-"
        for line in found.numbers.to_dict("records")
    }
    metrics = [metric for metric in found.metrics if metric != _LEFT_OUT]
    rows = [
        ["Model", *metrics, "Data Setting"],
        [":--:"] * (len(metrics) + 2),
        *(
            [e.label, *(means[e.label, metric] for metric in metrics), _data_setting(e)]
            for e in section.experiments
        ),
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    facts = [*_settings(section.experiments), *found.facts]
    return f"{heading}\n\n{table}\n\n" + "\n".join(map(_note, facts)) + "\n"


def _data_setting(experiment: SeedGroup) -> str:
    aligned = experiment.records[0].identity.configuration.get("need_data_aligned")
    return "Aligned" if aligned else "Unaligned"


def _settings(experiments: Sequence[SeedGroup]) -> list[Fact]:
    """What tells the rows of one model apart."""
    return [
        Fact("settings", ", ".join(f"{k} = {v}" for k, v in e.differing.items()), (e.label,))
        for e in experiments
        if e.differing
    ]


def _note(fact: Fact) -> str:
    name, text = fact.note
    # Notes are anybody's words: they begin no line and no tag of their own.
    return f"  - {name}: {' '.join(text.splitlines()).replace('<', '&lt;')}"
