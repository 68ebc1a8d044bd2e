"""What the pairs of two groups of runs say: over test samples, and how many seeds it would take."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import pandas as pd

from MMSA_ext.datasets import Dataset
from MMSA_ext.errors import suggest
from MMSA_ext.metrics import FloatArray, SampleMetric, metrics_of, neutral_label
from MMSA_ext.records.store import RunStore, StoreError
from MMSA_ext.reporting.comparison import SystemRuns, provenance
from MMSA_ext.reporting.groups import check_split, shared_seeds
from MMSA_ext.reporting.metric_names import paper_name
from MMSA_ext.reporting.render import (
    Cell,
    Fact,
    Table,
    interval,
    mean_std,
    number,
    p_text,
    table_of,
    x100,
)
from MMSA_ext.reporting.sample_predictions import by_sample
from MMSA_ext.reporting.statistics import (
    BOOTSTRAP_TEST,
    SEEDS_LIMIT,
    StatisticsError,
    holm,
    paired_bootstrap,
    paired_difference,
    paired_t_test_power,
    seeds_needed,
    std_interval,
)

_PROVENANCE: Final = (
    *("experiment_a", "experiment_b", "selection", "environment", "fingerprint", "code_version"),
)
BOOTSTRAP_COLUMNS: Final = (
    *("a", "b", "dataset", "split", "predictions", "metric", "difference", "ci_low", "ci_high"),
    *("p_value", "p_holm", "test", "n", "n_seeds", "n_resamples", "confidence", "note"),
    *_PROVENANCE,
)
POWER_COLUMNS: Final = (
    *("a", "b", "dataset", "split", "metric", "difference", "std", "std_low", "std_high", "n"),
    *("gain", "alpha", "power", "power_at_n", "seeds", "seeds_low", "seeds_high"),
    *_PROVENANCE,
)


def sample_metric(dataset: Dataset, metric: str) -> SampleMetric:
    """One of `metrics_of` a data set.

    Raises:
        StatisticsError: The data set has no such metric.
    """
    known = metrics_of(dataset)
    if metric not in known:
        raise StatisticsError(
            f"{dataset.name} has no metric {metric!r} over samples; known: {', '.join(known)}."
        )
    return known[metric]


def bootstrap_groups(
    store: RunStore,
    a: SystemRuns,
    b: SystemRuns,
    metrics: Sequence[str] | None = None,
    *,
    split: str = "test",
    n_resamples: int = 10_000,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Compare the predictions of two groups by a paired bootstrap over samples.

    Once for the mean of the shared seeds' predictions of each sample, and once for each seed. It
    asks whether the difference would hold on other samples of the same kind; whether it would hold
    for other seeds is the paired t-test's question (`compare`).

    Args:
        store: Where the predictions are.
        a: First group.
        b: Second group.
        metrics: MMSA's names; all of the data set by default.
        split: Split whose samples are compared.
        n_resamples: Resamples of each comparison; the same samples are drawn for all.
        confidence: Level of the percentile intervals.

    Returns:
        `BOOTSTRAP_COLUMNS`, one line a metric for "mean of N seeds" and each "seed N". Numbers are
        plain, before x100. `n` is the number of samples that the metric scores: for Non0 metrics
        those not labelled neutral. `p_holm` is corrected over the metrics of the same predictions.
        Where a metric is undefined, as the correlation of a constant, its line has no numbers, is
        not counted by `p_holm`, and `note` says why.

    Raises:
        StatisticsError: The groups do not pair, or a metric is unknown.
        StoreError: No shared seed has predictions that can be used. Single seeds without are passed
            over, with a warning.
    """
    dataset = a.records[0].identity.data_set
    names = list(metrics or metrics_of(dataset))
    functions = {name: sample_metric(dataset, name) for name in names}
    pairs = _paired_predictions(store, a, b, split)
    lines: list[dict[str, Any]] = []
    for what, samples in pairs.items():
        found = [
            {
                "predictions": what,
                "metric": name,
                **_bootstrapped(samples, function, n_resamples, confidence, (a.label, b.label)),
                "n": _scored(name, samples[2], dataset),
                "n_seeds": len(pairs) - 1 if what.startswith("mean") else 1,
            }
            for name, function in functions.items()
        ]
        corrected = holm([line["p_value"] for line in found])
        lines += [line | {"p_holm": p} for line, p in zip(found, corrected, strict=True)]
    shared = {"split": split, "confidence": confidence, **_pair(a, b)}
    return pd.DataFrame([shared | line for line in lines], columns=list(BOOTSTRAP_COLUMNS))


def _scored(metric: str, labels: FloatArray, dataset: Dataset) -> int:
    """Number of samples that a metric looks at; MMSA compares labels as float32."""
    counted = np.asarray(labels, dtype=np.float32) != neutral_label(dataset)
    return int(np.count_nonzero(counted)) if metric.startswith("Non0_") else len(counted)


def _bootstrapped(
    samples: tuple[FloatArray, FloatArray, FloatArray],
    function: SampleMetric,
    n_resamples: int,
    confidence: float,
    names: tuple[str, str],
) -> dict[str, Any]:
    """One comparison as columns; without numbers, and with the reason, where it is undefined."""
    result = paired_bootstrap(*samples, function, n_resamples, 0, confidence)
    undefined = n_resamples - result.n_resamples
    note = f"undefined on {undefined} of {n_resamples} resamples" if undefined else ""
    if math.isnan(result.difference):
        sides = zip(names, samples, strict=False)
        constant = [f"{name} predicts a constant" for name, side in sides if np.ptp(side) == 0]
        note = "; ".join(constant) or "these labels do not define it"
    return {**asdict(result), "test": BOOTSTRAP_TEST, "note": note}


def _paired_predictions(
    store: RunStore, a: SystemRuns, b: SystemRuns, split: str
) -> dict[str, tuple[FloatArray, FloatArray, FloatArray]]:
    """Predictions of both and labels, of the mean over seeds (for several) and each seed."""
    sides = {side.label: [side.finished[seed] for seed in shared_seeds(a, b)] for side in (a, b)}
    labels, predictions = by_sample(store, sides, split)
    first, second = (predictions[side.label] for side in (a, b))
    seeds = [seed for seed in first if seed in second]
    if not seeds:
        raise StoreError(f"{a.label} and {b.label} share no seed whose predictions can be used.")
    pairs = {f"seed {seed}": (first[seed], second[seed]) for seed in seeds}
    if len(seeds) > 1:
        means = (first[seeds].mean(axis=1), second[seeds].mean(axis=1))
        pairs = {f"mean of {len(seeds)} seeds": means, **pairs}
    return {
        what: (one.to_numpy(), other.to_numpy(), labels.to_numpy())
        for what, (one, other) in pairs.items()
    }


def _pair(a: SystemRuns, b: SystemRuns) -> dict[str, str]:
    """What the numbers of a pair are of."""
    first, second = a.records[0].identity, b.records[0].identity
    return {
        "a": a.label,
        "b": b.label,
        "dataset": first.dataset,
        "experiment_a": first.experiment,
        "experiment_b": second.experiment,
        **provenance((*a.records, *b.records)),
    }


def power_of_groups(
    a: SystemRuns,
    b: SystemRuns,
    metrics: Sequence[str],
    *,
    gain: float = 0.003,
    power: float = 0.8,
    alpha: float = 0.05,
    split: str = "test",
) -> pd.DataFrame:
    """How many seeds a paired t-test would need, by the spread that two groups have.

    Args:
        a: First group.
        b: Second group.
        metrics: MMSA's names.
        gain: True difference to be found, before x100: 0.003 is 0.3 points.
        power: Wanted probability of finding it.
        alpha: Level of the two-sided test.
        split: Split whose metrics count.

    Returns:
        `POWER_COLUMNS`, one line a metric: `difference` and `std` of the differences over the n
        shared seeds, with the 95 % interval of `std`; the power of n seeds; `seeds` needed at the
        measured spread, and at the ends of its interval (missing where beyond 10,000). Numbers
        are missing where fewer than two seeds have the metric, or all differ by the same.

    Raises:
        StatisticsError: The groups do not pair or share one seed only, no shared run has a metric,
            the gain is not positive, or a level is not between 0 and 1.
    """
    shared = shared_seeds(a, b)
    if len(shared) < 2:
        raise StatisticsError(
            f"{a.label} and {b.label} share one finished seed only ({shared[0]}); a spread needs "
            "two or more. Run both with more seeds."
        )
    if not gain > 0:
        raise StatisticsError(f"the gain is {gain}; give a positive difference.")
    check_split(a, b, split)
    lines = []
    for metric in metrics:
        first, second = (group.values(metric, split) for group in (a, b))
        if not first.keys() & second.keys():
            known = sorted(a.finished[shared[0]].metrics.get(split, {}))
            raise StatisticsError(f"no run has {metric!r} on {split}; {suggest(metric, known)}")
        found = paired_difference(first, second)
        lines.append(
            {
                **_pair(a, b),
                "split": split,
                "metric": metric,
                "difference": found.difference,
                "n": found.n,
                "gain": gain,
                "alpha": alpha,
                "power": power,
                **_needs(found.std, found.n, gain, power, alpha),
            }
        )
    return pd.DataFrame(lines, columns=list(POWER_COLUMNS))


def _needs(std: float, n: int, gain: float, power: float, alpha: float) -> dict[str, float]:
    if not std > 0:
        return dict.fromkeys(("std", "std_low", "std_high", "power_at_n"), math.nan) | {"std": std}
    low, high = std_interval(std, n)

    def seeds(spread: float) -> float:
        needed = seeds_needed(gain, spread, power, alpha)
        return math.nan if needed is None else needed

    return {
        "std": std,
        "std_low": low,
        "std_high": high,
        "power_at_n": paired_t_test_power(n, gain, std, alpha),
        "seeds": seeds(std),
        "seeds_low": seeds(low),
        "seeds_high": seeds(high),
    }


def bootstrap_table(found: pd.DataFrame) -> Table:
    """Lay `bootstrap_groups` out, in MMSA's x100: test, n, seeds and intervals."""
    lines = found.to_dict("records")
    first = lines[0]
    resamples = max(line["n_resamples"] for line in lines)
    rows = [
        (
            line["predictions"],
            paper_name(line["metric"]),
            Cell(x100(line["difference"], signed=True)),
            Cell(interval(line["ci_low"], line["ci_high"])),
            p_text(line["p_value"]),
            p_text(line["p_holm"]),
            str(line["n"]),
        )
        for line in lines
    ]
    level = f"{100 * first['confidence']:g} % interval"
    pair = f"{first['a']} - {first['b']}"
    said = {
        "test": f"{first['test']}, two-sided, {resamples} resamples, percentiles",
        "n": f"samples of the {first['split']} split; neg/pos: those not labelled neutral",
        "cells": f"{pair}, x100; for MAE negative is better",
        "mean": "predictions of each sample averaged over the shared seeds, then scored",
        "p Holm": "corrected over the metrics of the same predictions",
    }
    undefined = [
        Fact("undefined", f"{paper_name(line['metric'])}, {line['predictions']}: {line['note']}")
        for line in lines
        if line["note"]
    ]
    return table_of(
        ("predictions", "metric", "difference", level, "p", "p Holm", "n"),
        rows,
        f"{pair}, over samples",
        notes=(*(Fact(name, text) for name, text in said.items()), *undefined),
    )


def power_table(found: pd.DataFrame, facts: Sequence[Fact]) -> Table:
    """Lay `power_of_groups` out, in MMSA's x100, with the facts that its numbers depend on."""
    lines = found.to_dict("records")
    first = lines[0]
    points = f"{100 * first['gain']:g}"
    rows = [
        (
            paper_name(line["metric"]),
            mean_std(line["difference"], line["std"], signed=True),
            str(line["n"]),
            number(line["power_at_n"]),
            _count(line, "seeds"),
            f"{_count(line, 'seeds_low')} to {_count(line, 'seeds_high')}",
        )
        for line in lines
    ]
    said = {
        "gain": f"a true difference of {points} points (x100; for MAE {first['gain']:g})",
        "seeds": f"for a power of {first['power']:g} of a two-sided paired t-test at the level "
        f"{first['alpha']:g}, exact (noncentral t); for one of m tests of a table, give "
        "--alpha divided by m",
        "spread": "mean ± standard deviation (sample) of the differences over n shared seeds; of "
        "few seeds it is known badly, which its interval (chi-square) shows",
    }
    where = f"{first['dataset']}, {first['split']} split"
    return table_of(
        (
            *("metric", "measured difference", "n", "power at n"),
            *("seeds needed", "at the std's 95 % interval"),
        ),
        rows,
        f"{first['a']} - {first['b']} on {where}: seeds for {points} points",
        notes=(*(Fact(name, text) for name, text in said.items()), *facts),
    )


def _count(line: Mapping[Any, Any], key: str) -> str:
    if not line["std"] > 0:
        return "-"
    return f"> {SEEDS_LIMIT}" if math.isnan(line[key]) else f"{line[key]:.0f}"
