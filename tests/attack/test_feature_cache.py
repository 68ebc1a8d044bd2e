"""No damage to the cache, no killed writer and no crowd changes what is read."""

import sys

import pytest

from tests.attack import feature_cache

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs pipes, signals and forks")


def test_named_damage() -> None:
    tally = feature_cache.named()
    assert tally.outcomes.total() >= 40
    assert not tally.bad(feature_cache.ALLOWED), tally.render()


def test_random_damage() -> None:
    tally = feature_cache.randomly(20)
    assert not tally.bad(feature_cache.ALLOWED), tally.render()


@pytest.mark.slow
def test_much_random_damage() -> None:
    tally = feature_cache.randomly(500, seed=1)
    assert not tally.bad(feature_cache.ALLOWED), tally.render()


@pytest.mark.slow
def test_kills() -> None:
    tally = feature_cache.kills(50)
    assert not tally.bad(feature_cache.ALLOWED_KILLS), tally.render()


@pytest.mark.slow
def test_a_crowd() -> None:
    tally = feature_cache.crowd()
    assert not tally.bad(feature_cache.ALLOWED_CROWD), tally.render()
