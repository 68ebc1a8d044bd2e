"""The page of claims says what records and rule give, and names what is missing."""

import json
import math

import claims
import pytest

from MMSA_ext.reporting.statistics import paired_difference

SEEDS = range(5)


def compared(row, against, metric="MAE", experiment="mosi"):
    a, b = (dict(zip(SEEDS, values, strict=True)) for values in (row, against))
    return claims.Tested(0, experiment, "A", "B", metric, math.nan, paired_difference(a, b))


BETTER = compared([0.70, 0.71, 0.70, 0.72, 0.71], [0.80, 0.82, 0.81, 0.81, 0.80])


class TestVerdict:
    def test_a_lower_error_supports_and_a_lower_correlation_contradicts(self):
        assert claims.verdict(BETTER, 0.01) == "**seen**"
        lower = compared([0.70, 0.71, 0.70, 0.72, 0.71], [0.80, 0.82, 0.81, 0.81, 0.80], "Corr")
        assert claims.verdict(lower, 0.01) == "**opposite**"

    @pytest.mark.parametrize("p", [0.05, 0.5, math.nan])
    def test_without_significance_nothing_is_seen(self, p):
        assert claims.verdict(BETTER, p) == "not seen"

    def test_one_seed_decides_nothing(self):
        one = claims.Tested(
            0, "mosi", "A", "B", "MAE", math.nan, paired_difference({1: 0.1}, {1: 0.9})
        )
        assert claims.verdict(one, math.nan) == "open"

    def test_what_changes_no_seed_is_equal_and_corrects_no_other(self):
        same = compared([0.70, 0.71, 0.70, 0.72, 0.71], [0.70, 0.71, 0.70, 0.72, 0.71])
        corrected = claims.corrections([BETTER, same])
        assert corrected[0] == BETTER.found.p_value
        assert claims.verdict(same, corrected[1]) == "equal"
        assert claims._line(same, corrected[1])[5:] == ("-", "-", "-", "equal")


def test_p_is_corrected_over_the_comparisons_of_the_same_data_alone():
    other = compared([1, 2, 3, 4, 5], [1.1, 2, 3, 4.1, 5.3], experiment="mmmo")
    alone = claims.corrections([BETTER, other])
    assert alone[0] == BETTER.found.p_value
    assert claims.corrections([BETTER, BETTER])[0] == 2 * BETTER.found.p_value


class TestMargin:
    printed = {"csv": "infoenh_table1.csv", "dataset": "mosi"} | {
        "row": "self-MM + InfoEnh",
        "against": "self-MM",
    }

    def test_is_the_papers_in_fractions(self):
        assert claims._margin(self.printed, "MAE") == pytest.approx(0.709 - 0.720)
        assert claims._margin(self.printed, "Mult_acc_7") == pytest.approx(0.4612 - 0.4568)
        assert math.isnan(claims._margin(None, "MAE"))

    def test_of_a_row_that_is_not_printed_is_refused(self):
        with pytest.raises(SystemExit, match="no MAE of 'nobody'"):
            claims._margin(self.printed | {"against": "nobody"}, "MAE")


def test_a_claim_about_a_row_that_no_experiment_has_is_refused():
    wrong = {**{"experiment": "mosi", "row": "DashFusion", "against": "nobody", "metrics": ["MAE"]}}
    with pytest.raises(SystemExit, match="no row 'nobody' with MAE"):
        list(claims.tests_of([{"tests": [wrong]}], {}))


def test_page_and_tables_are_what_the_committed_records_give():
    claims.main(check=True)


def test_a_page_that_differs_is_named(monkeypatch):
    monkeypatch.setattr(claims, "shown", lambda _: {})
    monkeypatch.setattr(claims, "PAGE", claims.ROOT / "docs" / "index.md")
    monkeypatch.setattr(claims, "tables", lambda *_: {})
    with pytest.raises(SystemExit, match=r"docs/index\.md.*studies/claims\.py"):
        claims.main(check=True)


def test_every_claim_has_a_test_or_says_why_not():
    for claim in json.loads((claims.FOLDER / "claims.json").read_text(encoding="utf-8")):
        assert claim["tests"] or "untested" in claim or "note" in claim, claim["says"]
