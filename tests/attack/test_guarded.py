"""The guard counts what it is there for."""

import faulthandler
import os
import signal

import pytest

from tests.attack.guarded import CRASH, EXCEPTION, HANG, guarded


def endings(number: int) -> str:
    """One of five ways to end."""
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


def test_every_ending_is_counted_and_the_next_try_is_made(capfd: pytest.CaptureFixture) -> None:
    tally = guarded("endings", 6, endings, warm_up=list, seconds=0.3, mebibytes=50)
    assert tally.outcomes == {"well": 2, CRASH: 1, HANG: 1, EXCEPTION: 1, "memory": 1}
    assert tally.examples[HANG] == ["2"]
    assert "not expected" in capfd.readouterr().err
