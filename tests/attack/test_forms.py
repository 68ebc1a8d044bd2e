"""What check-data calls usable trains, and nothing ends otherwise than in a sentence."""

from pathlib import Path

import pytest

from tests.attack.forms import ALLOWED, attack


@pytest.mark.slow
def test_odd_forms_and_values(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("MMSA_ext.runs.seeds.Run._draw", lambda self, results: ())
    tally = attack(300, tiny_encoder)
    print(tally.render())
    assert not tally.bad(ALLOWED), tally.render()
