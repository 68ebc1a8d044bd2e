import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from MMSA_ext.datasets import get_dataset
from MMSA_ext.errors import MMSAExtError
from MMSA_ext.metrics import metrics_of
from MMSA_ext.reporting.statistics import (
    StatisticsError,
    holm,
    paired_bootstrap,
    paired_difference,
    paired_t_test_power,
    seeds_needed,
    std_interval,
    summarise,
)

values = st.floats(-100, 100)
MAE, CORR = (metrics_of(get_dataset("mosi"))[name] for name in ("MAE", "Corr"))


class TestSummarise:
    def test_known_values(self):
        summary = summarise([1, 2, 3, 4, 5])
        assert (summary.mean, summary.n) == (3.0, 5)
        assert summary.std == pytest.approx(math.sqrt(2.5))
        # t(0.975, 4) = 2.776445 from the printed tables.
        assert summary.ci_high - 3 == pytest.approx(2.776445 * math.sqrt(2.5 / 5), abs=1e-5)
        assert summary.ci_low == pytest.approx(6 - summary.ci_high)

    @given(st.lists(values, min_size=2, max_size=10), st.floats(0.5, 0.99))
    def test_interval_is_scipys(self, sample, level):
        scale = float(stats.sem(sample))
        assume(scale > 1e-9)
        summary = summarise(sample, level)
        low, high = stats.t.interval(level, len(sample) - 1, np.mean(sample), scale)
        assert (summary.ci_low, summary.ci_high) == pytest.approx((low, high))

    def test_one_value_has_no_interval(self):
        summary = summarise([0.5])
        assert (summary.mean, summary.n) == (0.5, 1)
        assert all(math.isnan(x) for x in (summary.std, summary.ci_low, summary.ci_high))

    def test_no_value_is_not_a_number(self):
        assert summarise([]).n == 0
        assert math.isnan(summarise([]).mean)

    @pytest.mark.parametrize(("sample", "level"), [([1, math.nan], 0.95), ([1, 2], 1.0)])
    def test_bad_input_is_refused(self, sample, level):
        with pytest.raises(StatisticsError) as caught:
            summarise(sample, level)
        assert isinstance(caught.value, MMSAExtError)


class TestPairedDifference:
    @given(st.lists(st.tuples(values, values), min_size=2, max_size=8), st.floats(0.5, 0.99))
    def test_is_scipys_over_shared_seeds(self, pairs, level):
        a = {seed: pair[0] for seed, pair in enumerate(pairs)}
        b = {seed: pair[1] for seed, pair in reversed(list(enumerate(pairs)))}
        gaps = np.subtract(*zip(*pairs, strict=True))
        assume(np.ptp(gaps) > 1e-6)
        expected = stats.ttest_rel(*zip(*pairs, strict=True))
        found = paired_difference(a | {98: 5.0}, b | {99: -5.0}, level)
        assert found.n == len(pairs)
        assert found.p_value == pytest.approx(expected.pvalue)
        assert found.difference == pytest.approx(gaps.mean())
        assert found.std == pytest.approx(gaps.std(ddof=1))
        interval = expected.confidence_interval(level)
        assert (found.ci_low, found.ci_high) == pytest.approx((interval.low, interval.high))

    def test_equal_systems_do_not_differ(self):
        found = paired_difference({1: 0.5, 2: 0.7}, {1: 0.5, 2: 0.7})
        assert (found.difference, found.ci_low, found.p_value, found.ci_high) == (0, 0, 1, 0)

    @pytest.mark.parametrize(
        ("a", "b", "n"),
        [
            ({1: 0.5}, {1: 0.4}, 1),
            ({1: 0.5}, {2: 0.4}, 0),
            # The same difference at every seed, apart by rounding only.
            ({1: 0.1, 2: 0.3, 3: 0.7}, {1: 0.0, 2: 0.2, 3: 0.6}, 3),
        ],
    )
    def test_an_undefined_test_claims_nothing(self, a, b, n):
        found = paired_difference(a, b)
        assert all(math.isnan(x) for x in (found.p_value, found.ci_low, found.ci_high))
        assert found.n == n

    def test_undefined_values_are_refused(self):
        with pytest.raises(StatisticsError):
            paired_difference({1: math.nan, 2: 0.5}, {1: 0.4, 2: 0.4})


class TestHolm:
    def test_known_values(self):
        assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
        assert holm([]) == []
        assert holm([0.6, 0.9]) == [1.0, 1.0]

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.5))
    def test_rejects_what_the_step_down_procedure_rejects(self, p_values, level):
        adjusted = holm(p_values)
        rejected = set()
        for step, index in enumerate(np.argsort(p_values, kind="stable")):
            if p_values[index] * (len(p_values) - step) > level:
                break
            rejected.add(int(index))
        assert {i for i, p in enumerate(adjusted) if p <= level} == rejected
        assert all(raw <= new <= 1 for raw, new in zip(p_values, adjusted, strict=True))
        ordered = [adjusted[i] for i in np.argsort(p_values)]
        assert all(one <= two for one, two in pairwise(ordered))

    def test_undefined_tests_are_not_counted(self):
        first, undefined, last = holm([0.02, math.nan, 0.04])
        assert (first, last) == pytest.approx((0.04, 0.04))
        assert math.isnan(undefined)

    def test_what_is_no_probability_is_refused(self):
        with pytest.raises(StatisticsError):
            holm([0.5, 1.5])


class TestBootstrap:
    rng = np.random.default_rng(3)
    labels = rng.uniform(-3, 3, 200)
    close = labels + 0.5 * rng.standard_normal(200)
    far = labels + 0.9 * rng.standard_normal(200)

    @pytest.mark.parametrize(("metric", "sign"), [(MAE, -1), (CORR, 1)])
    def test_finds_a_clear_difference(self, metric, sign):
        result = paired_bootstrap(self.close, self.far, self.labels, metric, 2000)
        assert sign * result.difference > 0
        assert result.ci_low <= result.difference <= result.ci_high
        assert result.ci_low * result.ci_high > 0
        assert result.p_value < 0.01
        assert (result.n, result.n_resamples) == (200, 2000)

    def test_mae_interval_is_that_of_the_mean_of_paired_differences(self):
        result = paired_bootstrap(self.close, self.far, self.labels, MAE, 20_000)
        d = np.abs(self.close - self.labels) - np.abs(self.far - self.labels)
        margin = 1.96 * d.std() / math.sqrt(len(d))
        assert result.difference == pytest.approx(d.mean())
        assert result.ci_low == pytest.approx(d.mean() - margin, abs=0.05 * margin)
        assert result.ci_high == pytest.approx(d.mean() + margin, abs=0.05 * margin)

    def test_is_antisymmetric_and_reproducible(self):
        one = paired_bootstrap(self.close, self.far, self.labels, MAE, 500, seed=5)
        two = paired_bootstrap(self.far, self.close, self.labels, MAE, 500, seed=5)
        assert (one.difference, one.p_value) == (-two.difference, two.p_value)
        assert (one.ci_low, one.ci_high) == pytest.approx((-two.ci_high, -two.ci_low))
        assert one == paired_bootstrap(self.close, self.far, self.labels, MAE, 500, seed=5)
        other = paired_bootstrap(self.close, self.far, self.labels, MAE, 500, seed=6)
        assert other.ci_low != one.ci_low

    def test_equal_systems_do_not_differ(self):
        result = paired_bootstrap(self.close, self.close, self.labels, MAE, 100)
        assert (result.difference, result.ci_low, result.ci_high) == (0, 0, 0)
        assert result.p_value == 1

    def test_no_difference_is_found_about_as_often_as_the_level_says(self):
        rng = np.random.default_rng(1)
        p_values = []
        for trial in range(200):
            labels = rng.standard_normal(80)
            a, b = (labels + rng.standard_normal(80) for _ in range(2))
            p_values.append(paired_bootstrap(a, b, labels, MAE, 400, seed=trial).p_value)
        assert 0.01 <= np.mean(np.array(p_values) < 0.05) <= 0.11

    def test_a_metric_that_no_resample_has_leaves_neither_interval_nor_p(self):
        def on_all_only(predictions, labels):
            value = np.abs(predictions - labels).mean(axis=-1)
            return value if predictions.ndim == 1 else np.full_like(value, math.nan)

        result = paired_bootstrap(self.close, self.far, self.labels, on_all_only, 50)
        assert math.isfinite(result.difference)
        assert result.n_resamples == 0
        assert all(math.isnan(x) for x in (result.ci_low, result.ci_high, result.p_value))

    @pytest.mark.parametrize("constant", [1.0, 0.1])  # 0.1 is hardly its own mean
    def test_an_undefined_metric_has_no_numbers(self, constant):
        result = paired_bootstrap([constant] * 10, np.arange(10.0), np.arange(10.0), CORR, 50)
        assert math.isnan(result.difference)
        assert math.isnan(result.p_value)
        assert (result.n, result.n_resamples) == (10, 0)

    @pytest.mark.parametrize(
        ("a", "message"), [([1.0, 2.0], "shapes"), ([1.0, 2.0, math.nan], "not finite")]
    )
    def test_bad_input_is_refused(self, a, message):
        with pytest.raises(StatisticsError, match=message):
            paired_bootstrap(a, [1.0, 2.0, 2.5], [0.0, 1.0, 2.0], MAE, 50)


class TestPower:
    def test_cohens_table(self):
        # Cohen (1988): 33 pairs for a difference of half a standard deviation, power .80; n of 34
        # is the exact answer of G*Power.
        assert seeds_needed(0.5, 1.0) == 34
        assert paired_t_test_power(34, 0.5, 1.0) == pytest.approx(0.8078, abs=1e-4)

    def test_it_is_scipys_noncentral_t(self):
        for n, effect in ((2, 0.5), (5, 1.2), (30, 0.3)):
            critical, shift = stats.t.ppf(0.975, n - 1), effect * math.sqrt(n)
            expected = stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)
            assert paired_t_test_power(n, effect, 1.0) == pytest.approx(expected)

    @given(st.floats(0.02, 50), st.floats(0.01, 0.99), st.floats(1e-4, 0.2))
    def test_it_is_the_smallest_number(self, effect, power, alpha):
        n = seeds_needed(effect, 1.0, power, alpha)
        if n is None:
            assert paired_t_test_power(10_000, effect, 1.0, alpha) < power
            return
        assert paired_t_test_power(n, effect, 1.0, alpha) >= power
        assert n == 2 or paired_t_test_power(n - 1, effect, 1.0, alpha) < power

    def test_too_many_is_no_number(self):
        assert seeds_needed(0.001, 1.0) is None
        assert seeds_needed(0.5, 1.0, limit=33) is None

    def test_units_do_not_matter(self):
        assert seeds_needed(0.003, 0.006) == seeds_needed(0.3, 0.6) == seeds_needed(0.5, 1.0)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"gain": 0.0}, "both must be positive"),
            ({"std": 0.0}, "both must be positive"),
            ({"std": math.nan}, "both must be positive"),
            ({"power": 1.0}, "power is 1.0"),
            ({"alpha": 0.0}, "alpha is 0.0"),
        ],
    )
    def test_refusals(self, changes, said):
        with pytest.raises(StatisticsError, match=said):
            seeds_needed(**{"gain": 0.5, "std": 1.0, **changes})

    def test_a_single_seed_has_no_power(self):
        with pytest.raises(StatisticsError, match="at least two seeds"):
            paired_t_test_power(1, 0.5, 1.0)


class TestStdInterval:
    def test_known_value(self):
        # chi-square with 4 degrees of freedom: 0.4844 and 11.1433 (printed tables).
        low, high = std_interval(1.0, 5)
        assert low == pytest.approx(math.sqrt(4 / 11.1433), abs=1e-4)
        assert high == pytest.approx(math.sqrt(4 / 0.4844), abs=1e-3)

    def test_refusals(self):
        with pytest.raises(StatisticsError, match="at least two values"):
            std_interval(1.0, 1)
        with pytest.raises(StatisticsError, match="confidence is 1"):
            std_interval(1.0, 5, 1)
