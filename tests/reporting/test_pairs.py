import math

import numpy as np
import pytest

from MMSA_ext.datasets import get_dataset
from MMSA_ext.metrics import metrics_of
from MMSA_ext.records.store import StoreError, StoreWarning
from MMSA_ext.reporting.groups import select_groups
from MMSA_ext.reporting.pairs import (
    BOOTSTRAP_COLUMNS,
    POWER_COLUMNS,
    bootstrap_groups,
    bootstrap_table,
    power_of_groups,
    power_table,
)
from MMSA_ext.reporting.render import Fact, to_text
from MMSA_ext.reporting.statistics import (
    StatisticsError,
    paired_bootstrap,
    seeds_needed,
    std_interval,
)
from tests.reporting.conftest import LABELS, NOISE, make_predictions

MAE = metrics_of(get_dataset("mosi"))["MAE"]


class TestBootstrap:
    def test_mean_of_seeds_and_each_seed(self, store, groups):
        found = bootstrap_groups(store, *groups, ["MAE", "Corr"], n_resamples=300)
        assert tuple(found.columns) == BOOTSTRAP_COLUMNS
        assert list(found["predictions"].unique()) == ["mean of 2 seeds", "seed 1", "seed 2"]
        assert set(found["n"]) == {len(LABELS)}
        assert list(found["n_seeds"]) == [2, 2, 1, 1, 1, 1]
        assert set(found["selection"]) == {"lowest validation Loss, patience 8"}

    def test_numbers_are_the_bootstraps_of_joined_samples(self, store, groups):
        found = bootstrap_groups(store, *groups, ["MAE"], n_resamples=300)
        in_order = {
            model: [make_predictions(model, seed).sort_index()["prediction"] for seed in (1, 2)]
            for model in NOISE
        }
        means = [np.mean(in_order[model], axis=0) for model in ("good", "bad")]
        expected = paired_bootstrap(*means, LABELS, MAE, 300)
        line = found.iloc[0]
        assert line["difference"] == pytest.approx(expected.difference)
        assert (line["ci_low"], line["ci_high"]) == pytest.approx(
            (expected.ci_low, expected.ci_high)
        )
        assert line["difference"] < 0
        alone = paired_bootstrap(in_order["good"][1], in_order["bad"][1], LABELS, MAE, 300)
        assert found.iloc[2]["difference"] == pytest.approx(alone.difference)
        assert found.iloc[2]["ci_high"] == pytest.approx(alone.ci_high)

    def test_all_metrics_are_corrected_together(self, store, groups):
        found = bootstrap_groups(store, *groups, n_resamples=300)
        mean = found[found["predictions"] == "mean of 2 seeds"]
        assert len(mean) == 8
        smallest = mean["p_value"].idxmin()
        assert mean["p_holm"][smallest] == pytest.approx(min(1, 8 * mean["p_value"][smallest]))

    def test_a_single_pair_has_no_mean(self, store, groups):
        (single,) = select_groups(store.records(), [groups[1].records[0].identity.short_id])
        found = bootstrap_groups(store, groups[0], single, ["MAE"], n_resamples=300)
        assert list(found["predictions"]) == ["seed 1"]

    def test_a_constant_leaves_its_line_undefined_and_the_others_as_they_are(
        self, store, groups, make_record
    ):
        for seed in (1, 2):
            frame = make_predictions("flat", seed)
            if seed == 2:
                frame["prediction"] = 0.1  # its mean over 40 samples is not exactly 0.1
            store.write(make_record(model="flat", seed=seed, epochs=1), frame)
        (flat,) = select_groups(store.records(), ["flat"])
        found = bootstrap_groups(store, groups[0], flat, ["MAE", "Corr"], n_resamples=300)
        lines = found.set_index(["predictions", "metric"])
        undefined = lines.loc[("seed 2", "Corr")]
        assert undefined[["difference", "ci_low", "ci_high", "p_value", "p_holm"]].isna().all()
        assert undefined["note"] == "flat predicts a constant"
        alone = lines.loc[("seed 2", "MAE")]
        assert alone["p_holm"] == alone["p_value"]
        assert lines.drop(("seed 2", "Corr"))["p_holm"].notna().all()
        text = " ".join(to_text(bootstrap_table(found)).split())
        assert "undefined Corr, seed 2: flat predicts a constant" in text
        assert "nan" not in text

    def test_non0_metrics_count_the_samples_that_they_score(self, store, groups, make_record):
        labels = np.where(np.arange(len(LABELS)) < 15, 0.0, LABELS)
        for model in ("one", "two"):
            run = make_record(model=model, seed=1, epochs=1, dataset_fingerprint="0" * 64)
            store.write(run, make_predictions(model, 1, labels))
        pair = select_groups(store.records(), ["one", "two"])
        found = bootstrap_groups(store, *pair, ["Non0_acc_2", "Has0_acc_2"], n_resamples=100)
        assert found["n"].tolist() == [len(LABELS) - 15, len(LABELS)]
        assert "neg/pos: those not labelled neutral" in " ".join(
            to_text(bootstrap_table(found)).split()
        )

    def test_what_does_not_pair_is_refused(self, store, groups):
        with pytest.raises(StoreError, match=r"no predictions of the dev split.*there are test"):
            bootstrap_groups(store, *groups, ["MAE"], split="dev")
        with pytest.raises(StatisticsError, match="mosi has no metric 'F1_score'"):
            bootstrap_groups(store, *groups, ["F1_score"])

    def test_a_seed_whose_predictions_are_damaged_is_passed_over(self, store, groups):
        damaged = store.predictions_path(groups[1].finished[2].identity)
        damaged.write_text("split,id\n")
        with pytest.warns(StoreWarning, match=damaged.name):
            found = bootstrap_groups(store, *groups, ["MAE"], n_resamples=100)
        assert list(found["predictions"]) == ["seed 1"]

    def test_a_run_of_other_samples_than_the_others_is_passed_over(self, store, groups):
        odd = groups[1].finished[2]
        table = store.predictions(odd)
        store.write(odd, table.assign(id=[f"{name}x" for name in table["id"]]), overwrite=True)
        pair = [select_groups(store.records(), [group.label])[0] for group in groups]
        with pytest.warns(StoreWarning, match="other samples or labels"):
            found = bootstrap_groups(store, *pair, ["MAE"], n_resamples=100)
        assert list(found["predictions"]) == ["seed 1"]

    def test_text_names_test_n_and_interval(self, store, groups):
        found = bootstrap_groups(store, *groups, ["MAE"], n_resamples=300)
        text = to_text(bootstrap_table(found))
        assert "paired bootstrap over test samples, two-sided, 300 resamples" in text
        assert "95 % interval" in text
        assert "mean of 2 seeds     MAE" in text
        assert "samples of the test split" in text


class TestPower:
    def test_seeds_at_the_measured_spread(self, groups):
        found = power_of_groups(*groups, ["MAE", "Corr"], gain=0.05)
        assert tuple(found.columns) == POWER_COLUMNS
        line = found.iloc[0]
        # Differences -0.60 and -0.64.
        std = math.sqrt(2) * 0.02
        assert (line["n"], line["difference"]) == (2, pytest.approx(-0.62))
        assert line["std"] == pytest.approx(std)
        assert line["seeds"] == seeds_needed(0.05, std)
        low, high = std_interval(std, 2)
        assert line["seeds_low"] == seeds_needed(0.05, low)
        assert line["seeds_high"] == seeds_needed(0.05, high)
        assert 0.05 < line["power_at_n"] < 0.8

    def test_equal_differences_need_no_number(self, groups):
        line = power_of_groups(*groups, ["Corr"]).iloc[0]
        assert math.isnan(line["seeds"])
        assert line["std"] == 0

    def test_refusals(self, store, groups):
        with pytest.raises(StatisticsError, match="no run has 'MEA' on test; did you mean MAE"):
            power_of_groups(*groups, ["MEA"])
        with pytest.raises(StatisticsError, match="a split 'foo'; there are test"):
            power_of_groups(*groups, ["MAE"], split="foo")
        with pytest.raises(StatisticsError, match="the gain is 0; give a positive"):
            power_of_groups(*groups, ["MAE"], gain=0)
        (single,) = select_groups(store.records(), [groups[1].records[0].identity.short_id])
        with pytest.raises(StatisticsError, match=r"share one finished seed only \(1\)"):
            power_of_groups(groups[0], single, ["MAE"])

    def test_text_names_gain_power_level_and_facts(self, groups):
        found = power_of_groups(*groups, ["MAE", "Corr"], gain=0.003)
        text = " ".join(to_text(power_table(found, [Fact("selection", "by the moon")])).split())
        assert "a true difference of 0.3 points (x100; for MAE 0.003)" in text
        assert "a power of 0.8 of a two-sided paired t-test at the level 0.05" in text
        assert "-62.00 ± 2.83" in text
        assert "> 10000" in text
        assert "by the moon" in text
        assert "nan" not in text
