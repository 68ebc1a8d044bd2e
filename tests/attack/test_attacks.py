"""A part of every attack always, the whole ones with `-m slow`."""

import faulthandler
import importlib
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.attack import arguments, feature_cache, feature_files, records, store
from tests.attack.guarded import CRASH, EXCEPTION, HANG, guarded
from tests.attack.tally import Tally

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals, pipes, forks and /proc")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["arguments", "checkpoints", "feature_cache", "feature_files", "forms", "records", "store"],
)
def test_whole(name: str, tmp_path: Path) -> None:
    module = importlib.import_module(f"tests.attack.{name}")
    for tally in module.attacks(tmp_path, module.TRIES):
        print(tally.render())
        tally.check()


def test_random_configurations_and_files_are_refused_or_accepted(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    place = arguments.Place(tmp_path)
    seen = set()
    for tally in (arguments.odd_configurations(place, 40), arguments.damaged_files(place, 40)):
        tally.check()
        seen |= tally.outcomes.keys()
    assert seen == arguments.EITHER


@pytest.mark.slow
def test_damage_to_the_cache() -> None:
    tally = feature_cache.named()
    tally.check()
    assert len(tally.outcomes) == 3
    feature_cache.randomly(20).check()


def test_two_thousand_damaged_feature_files(tmp_path: Path) -> None:
    (tally,) = feature_files.attacks(tmp_path, 2000)
    tally.check()
    assert tally.outcomes.total() == 2000
    assert min(tally.outcomes[feature_files.USABLE], tally.outcomes[feature_files.REFUSED]) > 60


def test_no_command_stops_at_junk_beside_records(tmp_path: Path) -> None:
    tally = records.together(tmp_path / "all", figures=())
    tally.check()
    assert tally.outcomes[records.PASSED_OVER] >= 9  # every command names all of it


@pytest.mark.parametrize("scenario", ["a new record", "a repeated record"])
def test_a_killed_writer_leaves_the_old_or_the_new(scenario: str, tmp_path: Path) -> None:
    tally = store.kills_at_every_operation(scenario, tmp_path, step=6)
    tally.check()
    assert len(tally.outcomes) == 3  # both ends were seen


def test_what_a_full_disk_refuses_is_kept_elsewhere(tmp_path: Path) -> None:
    tally = store.full_disk("store", tmp_path, step=5)
    tally.check()
    assert len(tally.outcomes) == 2


def _one_of_five_endings(number: int) -> str:
    if number == 1:
        faulthandler.disable()  # the crash is meant
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 2:
        while True:
            pass
    if number == 3:
        raise ValueError("not expected")
    if number == 4:
        try:
            bytearray(100 << 20)
        except MemoryError:
            return "memory"
    return "well"


def test_the_guard_counts_every_ending_and_makes_the_next_try(capfd) -> None:
    tally = guarded(Tally("endings", ()), 6, _one_of_five_endings, seconds=0.3, mebibytes=50)
    assert tally.outcomes == {"well": 2, CRASH: 1, HANG: 1, EXCEPTION: 1, "memory": 1}
    assert tally.examples[HANG] == ["2"]
    assert "not expected" in capfd.readouterr().err
