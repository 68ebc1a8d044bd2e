"""Statistics over seeds and over test samples: pure functions of numbers.

With five seeds a t-interval covers close to its nominal level, a percentile bootstrap over seeds
does not, and a Wilcoxon test cannot go below p = 0.0625; so seeds are treated with Student's t, and
the bootstrap is kept for test samples, of which there are hundreds.
"""

import math
import warnings
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from MMSA_ext.errors import MMSAExtError
from MMSA_ext.metrics import FloatArray, SampleMetric

T_TEST = "paired t-test"
BOOTSTRAP_TEST = "paired bootstrap over test samples"
# Beyond this many seeds a number says no more than "too many".
SEEDS_LIMIT = 10_000
# Resampled values held at once, per input: 32 MiB of float64.
BOOTSTRAP_BLOCK = 2**22


class StatisticsError(MMSAExtError, ValueError):
    """Numbers that a statistic is not defined for."""


@dataclass(frozen=True)
class Summary:
    """A sample of seeds in numbers.

    Attributes:
        mean: Arithmetic mean.
        std: Standard deviation of the sample (divisor n - 1); NaN for n = 1.
        n: Number of values.
        ci_low: Lower end of the t-interval of the mean; NaN for n = 1.
        ci_high: Upper end.
    """

    mean: float
    std: float
    n: int
    ci_low: float
    ci_high: float


@dataclass(frozen=True)
class PairedDifference:
    """What two systems differ by over the seeds that both have (Student's paired t-test).

    Attributes:
        difference: Mean of a - b.
        n: Number of pairs.
        p_value: Two-sided; NaN where the test is undefined.
        std: Sample standard deviation of the differences; NaN for fewer than two.
        ci_low: Lower end of the t-interval of the mean difference; NaN where the test is undefined.
        ci_high: Upper end.
    """

    difference: float
    n: int
    p_value: float
    std: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True)
class BootstrapResult:
    """A paired bootstrap of metric(a) - metric(b) over test samples.

    Attributes:
        difference: Difference of the metric on all samples; NaN where it is undefined.
        ci_low: Lower end of the percentile interval; NaN where no resample has the metric.
        ci_high: Upper end.
        p_value: Two-sided: twice the smaller share of resamples on either side of zero.
        n: Number of test samples.
        n_resamples: Number of resamples that have the metric.
    """

    difference: float
    ci_low: float
    ci_high: float
    p_value: float
    n: int
    n_resamples: int


def summarise(values: Sequence[float], confidence: float = 0.95) -> Summary:
    """Summarise one metric over seeds.

    Args:
        values: One finite number a seed. Undefined ones are the caller's to leave out, because
            they belong in the report.
        confidence: Level of the t-interval.

    Returns:
        Mean, standard deviation, n and the interval; all NaN for n = 0.

    Raises:
        StatisticsError: A value is not finite, or the level is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise StatisticsError(f"confidence is {confidence}; it must lie between 0 and 1.")
    sample = np.asarray(values, dtype=np.float64)
    if not np.isfinite(sample).all():
        raise StatisticsError("a value to summarise is not finite; leave that seed out and say so.")
    n, nan = len(sample), math.nan
    mean = float(np.mean(sample)) if n else nan
    if n < 2:
        return Summary(mean, nan, n, nan, nan)
    std = float(np.std(sample, ddof=1))
    margin = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * std / math.sqrt(n)
    return Summary(mean, std, n, mean - margin, mean + margin)


def paired_difference(
    a: Mapping[int, float], b: Mapping[int, float], confidence: float = 0.95
) -> PairedDifference:
    """Compare two systems over the seeds that both have.

    Args:
        a: Seed to metric of the first system.
        b: Seed to metric of the second.
        confidence: Level of the t-interval.

    Returns:
        Mean difference, paired t-test and interval. The two are undefined (NaN) for fewer than two
        shared seeds, and where every seed shows the same non-zero difference, which leaves nothing
        to judge it against.

    Raises:
        StatisticsError: A shared value is not finite, or the level is not between 0 and 1.
    """
    shared = sorted(a.keys() & b.keys())
    first = np.array([a[seed] for seed in shared], dtype=np.float64)
    second = np.array([b[seed] for seed in shared], dtype=np.float64)
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise StatisticsError("a value to test is not finite; leave that seed out of both systems.")
    differences = first - second
    found = summarise(differences.tolist(), confidence)
    low, high = found.ci_low, found.ci_high
    if found.n < 2 or not differences.any():
        p_value = 1.0 if found.n > 1 else math.nan
    # Equal differences of decimals are equal only up to rounding.
    elif np.ptp(differences) <= 1e-12 * max(np.abs(first).max(), np.abs(second).max()):
        p_value = low = high = math.nan
    else:
        p_value = float(stats.ttest_rel(first, second).pvalue)
    return PairedDifference(found.mean, found.n, p_value, found.std, low, high)


def paired_t_test_power(n: int, gain: float, std: float, alpha: float = 0.05) -> float:
    """Probability that a two-sided paired t-test over `n` seeds finds a true gain.

    Exact, from the noncentral t distribution (Cohen, 1988, section 2.2).

    Args:
        n: Seeds; at least two.
        gain: True mean difference.
        std: Standard deviation of the difference between seeds, in the units of `gain`.
        alpha: Level of the test.

    Raises:
        StatisticsError: n is below two, the gain or the spread is not a positive number, or the
            level is not between 0 and 1.
    """
    if n < 2:
        raise StatisticsError(f"n is {n}; a paired test needs at least two seeds.")
    _check_power(gain, std, alpha)
    critical = float(stats.t.ppf(1 - alpha / 2, n - 1))
    # Its square is noncentral F; scipy's noncentral t itself is undefined in far tails.
    return float(stats.ncf.sf(critical**2, 1, n - 1, n * (gain / std) ** 2))


def seeds_needed(
    gain: float, std: float, power: float = 0.8, alpha: float = 0.05, limit: int = SEEDS_LIMIT
) -> int | None:
    """How many seeds a paired t-test needs to find a true gain.

    Args:
        gain: True mean difference.
        std: Standard deviation of the difference between seeds, in the units of `gain`.
        power: Wanted probability of finding it.
        alpha: Level of the two-sided test; for one of m tests of a table that Holm corrects,
            alpha / m is safe.
        limit: Largest number that is answered.

    Returns:
        The smallest n with that power, at least two; None where it is beyond `limit`.

    Raises:
        StatisticsError: As for `paired_t_test_power`, or the power is not between 0 and 1.
    """
    if not 0 < power < 1:
        raise StatisticsError(f"power is {power}; it must lie between 0 and 1.")
    _check_power(gain, std, alpha)
    # Power grows with n.
    seeds = range(2, limit + 1)
    found = bisect_left(
        seeds, True, key=lambda n: paired_t_test_power(n, gain, std, alpha) >= power
    )
    return seeds[found] if found < len(seeds) else None


def std_interval(std: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a standard deviation that was measured on few values (chi-square).

    Args:
        std: Sample standard deviation (divisor n - 1) of values from a normal distribution.
        n: Number of values; at least two.
        confidence: Level of the interval.

    Returns:
        Lower and upper end.

    Raises:
        StatisticsError: n is below two, or the level is not between 0 and 1.
    """
    if n < 2:
        raise StatisticsError(f"n is {n}; a spread needs at least two values.")
    if not 0 < confidence < 1:
        raise StatisticsError(f"confidence is {confidence}; it must lie between 0 and 1.")
    tail = (1 - confidence) / 2
    low, high = (
        std * math.sqrt((n - 1) / float(stats.chi2.ppf(share, n - 1))) for share in (1 - tail, tail)
    )
    return low, high


def _check_power(gain: float, std: float, alpha: float) -> None:
    if not (math.isfinite(gain) and gain > 0 and math.isfinite(std) and std > 0):
        raise StatisticsError(
            f"the gain is {gain} and the spread {std}; both must be positive numbers."
        )
    if not 0 < alpha < 1:
        raise StatisticsError(f"alpha is {alpha}; it must lie between 0 and 1.")


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of one table for the number of its tests (Holm, 1979).

    Args:
        p_values: One p-value a test; NaN marks an undefined test, which is not counted.

    Returns:
        Adjusted p-values in the order given; NaN stays NaN.

    Raises:
        StatisticsError: A p-value lies outside [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if ((p < 0) | (p > 1)).any():
        raise StatisticsError("a p-value lies outside [0, 1].")
    order = np.argsort(p)  # NaN sorts last
    order = order[: int(np.sum(~np.isnan(p)))]
    steps = p[order] * (len(order) - np.arange(len(order)))
    adjusted = np.full_like(p, math.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in adjusted]


def paired_bootstrap(
    predictions_a: npt.ArrayLike,
    predictions_b: npt.ArrayLike,
    labels: npt.ArrayLike,
    metric: SampleMetric,
    n_resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> BootstrapResult:
    """Compare two systems on one test split by resampling its samples in pairs.

    Args:
        predictions_a: Shape (n,), of the first system.
        predictions_b: Shape (n,), of the second, for the same samples in the same order.
        labels: Shape (n,).
        metric: Such as one of `metrics_of`; works over the last axis, so that all resamples
            are a few calls.
        n_resamples: Number of resamples.
        seed: Seed of the resampling.
        confidence: Level of the percentile interval.

    Returns:
        The difference metric(a) - metric(b), its percentile interval and two-sided p-value, n.
        Resamples where the metric is undefined are left out; interval and p-value are NaN where
        none is left. All are NaN where a or b has no value on all samples.

    Raises:
        StatisticsError: The inputs differ in length, hold fewer than two samples or a value that is
            not finite.
    """
    a, b, y = _paired_samples(predictions_a, predictions_b, labels)

    def difference(a: FloatArray, b: FloatArray, y: FloatArray, **axis: Any) -> Any:
        return metric(a, y) - metric(b, y)

    observed = float(difference(a, b, y))
    if not math.isfinite(observed):
        return BootstrapResult(math.nan, math.nan, math.nan, math.nan, len(y), 0)
    with warnings.catch_warnings():
        # Resamples without the metric are counted here, and scipy's own interval is not used.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        drawn = stats.bootstrap(
            (a, b, y),
            difference,
            paired=True,
            vectorized=True,
            n_resamples=n_resamples,
            batch=max(1, BOOTSTRAP_BLOCK // len(y)),
            method="percentile",
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution
    drawn = drawn[np.isfinite(drawn)]
    low, high, p_value = _percentiles(drawn, confidence)
    return BootstrapResult(observed, low, high, p_value, len(y), len(drawn))


def _percentiles(drawn: FloatArray, confidence: float) -> tuple[float, float, float]:
    """Interval and two-sided p-value of resampled differences; NaN for none."""
    if len(drawn) == 0:
        return math.nan, math.nan, math.nan
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    # The observed sample counts as one resample: a p-value of zero would claim too much.
    shares = [(np.sum(drawn <= 0) + 1), (np.sum(drawn >= 0) + 1)]
    return float(low), float(high), min(1.0, 2 * float(min(shares)) / (len(drawn) + 1))


def _paired_samples(*inputs: npt.ArrayLike) -> list[FloatArray]:
    arrays = [np.asarray(values, dtype=np.float64) for values in inputs]
    shapes = [array.shape for array in arrays]
    if len(set(shapes)) != 1 or arrays[0].ndim != 1 or arrays[0].size < 2:
        raise StatisticsError(
            f"predictions and labels have the shapes {shapes}; "
            "they must be equal, with one axis and at least two samples."
        )
    if not all(np.isfinite(array).all() for array in arrays):
        raise StatisticsError("a prediction or label is not finite.")
    return arrays
