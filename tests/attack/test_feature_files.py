"""Damaged feature files end as content or as the one error for them."""

import pytest

from tests.attack.feature_files import ALLOWED, REFUSED, USABLE, attack


def check(tries: int) -> None:
    tally = attack(tries)
    assert tally.bad(ALLOWED) == {}, tally.render()
    assert tally.outcomes.total() == tries
    assert min(tally.outcomes[USABLE], tally.outcomes[REFUSED]) > tries / 30, tally.render()


def test_two_thousand_damaged_files() -> None:
    check(2000)


@pytest.mark.slow
def test_two_hundred_thousand_damaged_files() -> None:
    check(200_000)
