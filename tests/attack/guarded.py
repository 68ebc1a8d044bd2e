"""Tries in a child process with limits, so that what ends badly ends the child and is counted."""

import os
import resource
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from tests.attack.tally import Tally

__all__ = ["CRASH", "EXCEPTION", "HANG", "guarded"]

CRASH, HANG, EXCEPTION = "crash", "hang", "another exception"

# A child that waits for something uses no processor time and is ended by this.
_SILENT_SECONDS = 120.0


def guarded(
    tally: Tally,
    count: int,
    attempt: Callable[[int], str],
    name: Callable[[int], str] = str,
    *,
    warm_up: Callable[[], object] = list,
    seconds: float = 2,
    mebibytes: int = 300,
) -> Tally:
    """Make tries 0 to `count` - 1, each within limits.

    Args:
        tally: where they are counted.
        count: number of tries.
        attempt: makes one try and says how it ended.
        name: of a try, for the examples.
        warm_up: is called first in each child, so that what all tries share (imports, threads) is
            there before the memory is measured.
        seconds: of processor time that a try may take.
        mebibytes: that a try may take beyond what the process had; more is a `MemoryError`.

    Returns:
        The tally; besides the outcomes of `attempt` there are `CRASH`, `HANG` and `EXCEPTION`.
    """
    start = 0
    while start < count:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            _make_tries(range(start, count), attempt, warm_up, writing, seconds, mebibytes)
        os.close(writing)
        for outcome in _outcomes(reading):
            tally.add(outcome, name(start))
            start += 1
        os.close(reading)
        os.kill(child, signal.SIGKILL)  # it is silent; nearly always it has ended
        _, status = os.waitpid(child, 0)
        if start < count:  # the last try has ended the child
            by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            tally.add(HANG if by in (signal.SIGPROF, signal.SIGKILL) else CRASH, name(start))
            start += 1
    return tally


def _outcomes(reading: int) -> Iterator[str]:
    rest = b""
    while select.select([reading], [], [], _SILENT_SECONDS)[0]:
        piece = os.read(reading, 1 << 16)
        if not piece:
            return
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line.decode() for line in lines)


def _make_tries(
    tries: range,
    attempt: Callable[[int], str],
    warm_up: Callable[[], object],
    writing: int,
    seconds: float,
    mebibytes: int,
) -> NoReturn:
    try:
        warm_up()
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + (mebibytes << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for index in tries:
            signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends the process
            try:
                outcome = attempt(index)
            except Exception:
                traceback.print_exc(file=sys.stderr)
                outcome = EXCEPTION
            signal.setitimer(signal.ITIMER_PROF, 0)
            os.write(writing, f"{outcome}\n".encode())
    finally:
        os._exit(0)
