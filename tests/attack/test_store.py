"""The attacks on the store: a quick one always, the whole ones with `-m slow`."""

import sys

import pytest

from tests.attack import store as attack

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills by Linux's signals")


def all_allowed(tally, allowed):
    assert not tally.bad(allowed), tally.render()
    assert tally.outcomes.total()


@pytest.mark.parametrize("scenario", ["a new record", "a repeated record"])
def test_a_killed_writer_leaves_the_old_or_the_new(tmp_path, scenario):
    tally = attack.kills_at_every_operation(scenario, tmp_path, step=6)
    all_allowed(tally, {*attack.SAFE, attack.NEXT})
    assert len(tally.outcomes) == 3  # both ends were seen


def test_what_a_full_disk_refuses_is_kept_elsewhere(tmp_path):
    tally = attack.full_disk("store", tmp_path, step=5)
    all_allowed(tally, attack.KEPT)
    assert len(tally.outcomes) == 2


@pytest.mark.slow
@pytest.mark.parametrize("scenario", list(attack.SCENARIOS))
def test_kills_at_every_operation(tmp_path, scenario):
    tally = attack.kills_at_every_operation(scenario, tmp_path, pairs=40)
    all_allowed(tally, {*attack.SAFE, attack.NEXT})


@pytest.mark.slow
@pytest.mark.parametrize("scenario", list(attack.SCENARIOS))
def test_kills_at_every_operation_of_a_seed(tmp_path, scenario):
    with attack.seed_places(tmp_path / "run") as make:
        tally = attack.kills_at_every_operation(scenario, tmp_path / "places", make=make)
    all_allowed(tally, {*attack.SAFE, attack.NEXT})


@pytest.mark.slow
def test_200_random_kills(tmp_path):
    all_allowed(attack.random_kills(tmp_path, 200), attack.RANDOM)


@pytest.mark.slow
def test_eight_writers(tmp_path):
    all_allowed(attack.many_writers(tmp_path), attack.WRITTEN)


@pytest.mark.slow
@pytest.mark.parametrize("repeated", [True, False])
@pytest.mark.parametrize("full", ["store", "store and checkpoints", "all"])
def test_a_full_disk_at_every_operation(tmp_path, full, repeated):
    allowed = {*attack.KEPT, *([attack.TOLD] if full == "all" else [])}
    all_allowed(attack.full_disk(full, tmp_path, repeated=repeated), allowed)


@pytest.mark.slow
def test_a_real_full_disk(tmp_path):
    tally = attack.real_full_disk(tmp_path)
    if tally is None:
        pytest.skip("no small disk may be mounted here")
    all_allowed(tally, attack.KEPT)
