"""Arguments that cannot be meant end in one sentence, whatever they are."""

import pytest

from tests.attack import arguments


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return arguments.Place(tmp_path)


def test_random_configurations_and_files_are_refused_or_accepted(place):
    either = {arguments.REFUSED, arguments.ACCEPTED}
    for tally in (arguments.odd_configurations(place, 40), arguments.damaged_files(place, 40)):
        assert tally.bad(either) == {}, tally.render()
        assert tally.outcomes.keys() == either


@pytest.mark.slow
def test_everything(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for tally, allowed in arguments.everything(tmp_path, 3000):
        print(tally.render())
        assert tally.bad(allowed) == {}, tally.render()
