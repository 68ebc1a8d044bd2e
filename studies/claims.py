"""What is known here of the papers' claims: docs/claims.md, and the tables in results/claims.

    python studies/claims.py            # writes both, and the figures, from records alone
    python studies/claims.py --check    # says whether page and tables are what the records give

results/claims/claims.json has the claims, and for each the comparisons that test it: two rows of an
experiment in results/claims, by seeds. What counts was settled before a difference was seen
(RULE); a comparison that was added later says so in its claim.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from MMSA_ext import experiments
from MMSA_ext.experiments.figures import draw
from MMSA_ext.experiments.files import Experiment
from MMSA_ext.experiments.tables import table
from MMSA_ext.files import write_atomically
from MMSA_ext.records.store import RunStore
from MMSA_ext.reporting.comparison import Comparison
from MMSA_ext.reporting.comparison_table import comparison_text
from MMSA_ext.reporting.metric_names import PRINTED_PLAIN, better, paper_name
from MMSA_ext.reporting.render import number, p_text, table_of, to_markdown
from MMSA_ext.reporting.statistics import (
    PairedDifference,
    holm,
    paired_difference,
    paired_t_test_power,
    seeds_needed,
)

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "results" / "claims"
PAGE = ROOT / "docs" / "claims.md"
PUBLISHED = ROOT / "configs" / "experiments" / "published"
LEVEL = 0.05
NOTHING = "-"

RULE = """\
A claim is tested where two rows that differ by what it is about were trained on the same data with
the same seeds. The difference of their test metrics, seed by seed, is judged by a paired t-test; p
is corrected by Holm over all comparisons of the same data. A ridge regression has one fit, which
stands for every seed.

- **seen**: the difference has the claimed direction, and p is below .05;
- **opposite**: it has the other direction, and p is below .05;
- not seen: p is not below .05. *Power* is the probability with which these seeds would have found
  the paper's margin at this spread (uncorrected), *seeds* how many find it with probability .8;
- equal: every seed gives the same number; what differs changes nothing there, and no test counts;
- open: fewer than two seeds have been run.

Intervals are not corrected: one that leaves out zero beside "not seen" is a hint for more seeds.

The paper's margin is of its own data, which are not ours; a dash where it prints none. No paper
prints a spread over seeds. MAE and correlation are plain, accuracies and F1 in points of percent.
"""

_PLANTED = "5ae626107310b22ccd43241c207058adcfa8f8a39df9d29e9996fe01f7c67343"
# By experiment: what its data are called, and the SHA-256 of the feature file.
DATA = {
    "mosi": ("MOSI", "27248fbc9f685b4a8bac7f93df7cfbc3456752e3a6dea075652918b0efdfe1e0"),
    "mosi_mmim": (
        "MOSI, noise for vision",
        "5fbfa7e98ab61fa2f1b450e4d951ff4311b05eff8fb6a1f3fff465072ca479b5",
    ),
    "mmmo": ("ICT-MMMO", "e604500d8af39ecd49a0ba4cb6ec697de554c65eb8a690fe279fc19019303599"),
    "mmmo_three": (
        "ICT-MMMO, 120 reviews",
        "3cab7944edc164fbf91a27caadbc048d3ef024ddcc286f0a670804b82d1631cd",
    ),
    "planted_dashfusion": ("planted", _PLANTED),
    "planted_infoenh": ("planted", _PLANTED),
}


@dataclass(frozen=True)
class Tested:
    """A metric of two rows over shared seeds, as a claim asks for it.

    Attributes:
        claim: Place of the claim in the file.
        experiment: Name of the experiment's file.
        row: The row that should be better.
        against: The other one.
        metric: MMSA's name.
        margin: What the paper prints as `row` less `against`; NaN if nothing.
        found: What was measured, `row` less `against`.
    """

    claim: int
    experiment: str
    row: str
    against: str
    metric: str
    margin: float
    found: PairedDifference

    @property
    def equal(self) -> bool:
        """Whether no seed shows a difference at all."""
        return self.found.n > 1 and self.found.difference == self.found.std == 0


def main(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 if a page or table differs.")
    ] = False,
) -> None:
    """Write docs/claims.md, tables and figures."""
    store = RunStore(ROOT / "results" / "runs")
    found = shown(store)
    texts = {PAGE: page(found), **tables(found)}
    if not check:
        for path, text in texts.items():
            write_atomically(path, text)
        for name in found:
            draw(_experiment(name), store, FOLDER)
    elif changed := [path for path, text in texts.items() if not _is(path, text)]:
        names = ", ".join(str(path.relative_to(ROOT)) for path in changed)
        raise SystemExit(f"not what the records give: {names}. python studies/claims.py")


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def shown(store: RunStore) -> dict[str, Comparison]:
    """The table of each experiment that has been begun, by its name."""
    found = {name: table(_experiment(name), store)[0] for name in DATA}
    return {name: one for name, one in found.items() if (one.numbers["n"] > 0).any()}


def _experiment(name: str) -> Experiment:
    """An experiment, to show what was run on its own data: MOSI's name is ICT-MMMO's, too."""
    return experiments.load(FOLDER / f"{name}.json").narrowed(fingerprint=DATA[name][1])


def tables(found: Mapping[str, Comparison]) -> dict[Path, str]:
    """The tables in Markdown and CSV, by path."""
    return {
        FOLDER / f"{name}.{form}": comparison_text([one], form)
        for name, one in found.items()
        for form in ("md", "csv")
    }


def page(found: Mapping[str, Comparison]) -> str:
    """The page, from the claims and the tables of the experiments that have been begun."""
    claims = json.loads((FOLDER / "claims.json").read_text(encoding="utf-8"))
    tested = list(tests_of(claims, found))
    corrected = corrections(tested)
    papers = list(dict.fromkeys(claim["paper"] for claim in claims))
    parts = [
        "# What is known here of the papers' claims",
        "Made by `python studies/claims.py` from committed records. What the data are,\n"
        "how each was trained, and what follows: [results/claims](../results/claims/README.md).",
        RULE.rstrip(),
        _summary(papers, claims, tested, corrected),
    ]
    for paper in papers:
        parts += [f"## {paper}", *_claims_of(paper, claims, tested, corrected)]
    return "\n\n".join(parts) + "\n"


def tests_of(
    claims: Sequence[Mapping[str, Any]], found: Mapping[str, Comparison]
) -> Iterator[Tested]:
    """What the claims ask for, with what was measured of it.

    Raises:
        SystemExit: A claim names a row that its experiment does not have.
    """
    values = {name: _values(name, found) for name in DATA}
    for place, claim in enumerate(claims):
        for test in claim["tests"]:
            name = test["experiment"]
            for metric in test["metrics"]:
                a, b = (_row(values[name], test[row], metric, name) for row in ("row", "against"))
                difference = paired_difference(a, b)
                margin = _margin(test.get("printed"), metric)
                yield Tested(place, name, test["row"], test["against"], metric, margin, difference)


def corrections(tested: Sequence[Tested]) -> list[float]:
    """The p of each comparison, corrected by Holm over those of the same data."""
    corrected = [math.nan] * len(tested)
    for data in dict.fromkeys(name for name, _ in DATA.values()):
        places = [i for i, one in enumerate(tested) if DATA[one.experiment][0] == data]
        judged = [math.nan if tested[i].equal else tested[i].found.p_value for i in places]
        for i, p in zip(places, holm(judged), strict=True):
            corrected[i] = p
    return corrected


def verdict(one: Tested, p: float) -> str:
    """What a comparison says of its claim; see `RULE`."""
    if one.found.n < 2:
        return "open"
    if one.equal:
        return "equal"
    if math.isnan(p) or p >= LEVEL:
        return "not seen"
    gain = one.found.difference * (-1 if better(one.metric) == "lower" else 1)
    return "**seen**" if gain > 0 else "**opposite**"


def _values(
    name: str, found: Mapping[str, Comparison]
) -> dict[tuple[str, str], Mapping[int, float]]:
    """Test metrics by row and metric, then by seed; a ridge's single fit stands for every seed."""
    experiment = _experiment(name)
    metrics = experiment.columns[experiment.datasets[0]]
    values: dict[tuple[str, str], Mapping[int, float]] = {
        (row.label, metric): {} for row in experiment.rows for metric in metrics
    }
    if name in found:
        values |= found[name].seed_values
    lines = pd.read_csv(FOLDER / "ridge.csv")
    for line in lines[lines["fingerprint"] == experiment.fingerprint].to_dict("records"):
        for metric in metrics:
            row = f"ridge: {line['modalities']}"
            values[row, metric] = dict.fromkeys(experiment.seeds, line[metric])
    return values


def _row(
    values: Mapping[tuple[str, str], Mapping[int, float]], row: str, metric: str, name: str
) -> Mapping[int, float]:
    if (row, metric) not in values:
        raise SystemExit(f"claims.json: {name}.json has no row {row!r} with {metric}.")
    return values[row, metric]


def _margin(printed: Mapping[str, str] | None, metric: str) -> float:
    if printed is None:
        return math.nan
    lines = pd.read_csv(PUBLISHED / printed["csv"])
    lines = lines[(lines["dataset"] == printed["dataset"]) & (lines["metric"] == metric)]
    by_row = lines.drop_duplicates("row").set_index("row")["value"]
    for row in (printed["row"], printed["against"]):
        if row not in by_row:
            raise SystemExit(f"claims.json: {printed['csv']} has no {metric} of {row!r}.")
    margin = float(by_row[printed["row"]] - by_row[printed["against"]])
    return margin / (1 if metric in PRINTED_PLAIN else 100)


def _summary(
    papers: Sequence[str],
    claims: Sequence[Mapping[str, Any]],
    tested: Sequence[Tested],
    corrected: Sequence[float],
) -> str:
    verdicts = ("**seen**", "**opposite**", "not seen", "equal", "open")
    rows = []
    for paper in papers:
        of_paper = [i for i, claim in enumerate(claims) if claim["paper"] == paper]
        found = [
            verdict(one, p)
            for one, p in zip(tested, corrected, strict=True)
            if one.claim in of_paper
        ]
        untested = sum("untested" in claims[i] for i in of_paper)
        counts = (str(found.count(name)) for name in verdicts)
        rows.append((paper, str(len(of_paper)), str(untested), *counts))
    first, *others = (name.strip("*") for name in verdicts)
    heads = ("", "claims", "cannot be tested", f"comparisons: {first}", *others)
    return to_markdown(table_of(heads, rows)).rstrip()


def _claims_of(
    paper: str,
    claims: Sequence[Mapping[str, Any]],
    tested: Sequence[Tested],
    corrected: Sequence[float],
) -> Iterator[str]:
    heads = ("data", "compared", "n", "paper", "measured [95 %]", "p", "power", "seeds", "verdict")
    for place, claim in enumerate(claims):
        if claim["paper"] != paper:
            continue
        yield f"**{claim['says']}** ({claim['section']})"
        rows = [
            _line(one, p) for one, p in zip(tested, corrected, strict=True) if one.claim == place
        ]
        if rows:
            yield "\n".join(
                [
                    f"| {' | '.join(heads)} |",
                    "|---|---|--:|--:|--:|--:|--:|--:|---|",
                    *(f"| {' | '.join(row)} |" for row in rows),
                ]
            )
        if "note" in claim:
            yield claim["note"]
        if "untested" in claim:
            yield f"Cannot be tested here: {claim['untested']}"


def _line(one: Tested, p: float) -> tuple[str, ...]:
    form, scale = (".3f", 1) if one.metric in PRINTED_PLAIN else (".1f", 100)

    def signed(value: float) -> str:
        return number(scale * value, f"+{form}")

    found, margin = one.found, abs(one.margin)
    measured = signed(found.difference)
    if math.isfinite(found.ci_low):
        measured += f" [{signed(found.ci_low)}, {signed(found.ci_high)}]"
    power = seeds = NOTHING
    if found.n > 1 and margin > 0 and found.std > 0:
        power = number(paired_t_test_power(found.n, margin, found.std))
        needed = seeds_needed(margin, found.std)
        seeds = "> 10,000" if needed is None else f"{needed:,}"
    arrow = {"lower": "↓", "higher": "↑", "": ""}[better(one.metric)]
    return (
        DATA[one.experiment][0],
        f"{one.row} less {one.against}: {paper_name(one.metric)} {arrow}",
        str(found.n),
        signed(one.margin),
        measured,
        p_text(p) if found.n > 1 and not one.equal else NOTHING,
        power,
        seeds,
        verdict(one, p),
    )


if __name__ == "__main__":
    typer.run(main)
