"""The attack on what reads records: all junk at once always, one by one with `-m slow`."""

import sys

import pytest

from tests.attack import records as attack

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="FIFOs, links and devices")


def test_no_command_stops_at_junk(tmp_path):
    tally = attack.together(tmp_path / "all", figures=())
    assert not tally.bad(attack.SAFE), f"{tally.render()}\n{tally.bad(attack.SAFE)}"
    assert tally.outcomes[attack.PASSED_OVER] >= 9  # every command names all of it


@pytest.mark.slow
def test_no_command_stops_at_any_kind_of_junk(tmp_path):
    for kind in (attack.together, attack.one_by_one):
        tally = kind(tmp_path / kind.__name__)
        assert not tally.bad(attack.SAFE), f"{tally.render()}\n{tally.bad(attack.SAFE)}"
