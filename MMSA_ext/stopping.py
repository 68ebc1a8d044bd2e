"""Ctrl-C and SIGTERM: both let a command end in order, and neither cuts storing a result."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from MMSA_ext.errors import MMSAExtError

logger = logging.getLogger("MMSA")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(SystemExit):
    """A signal asked this process to end; its code is 128 and the signal's number, as in a shell.

    Notes (`add_note`) say what is kept and how to go on.
    """


def stop(number: int, frame: FrameType | None) -> None:
    """Signal handler: leave by `Stopped`, removing what is unfinished; a second signal just ends.

    Raises:
        Stopped: Always.
    """
    signal.signal(number, signal.SIG_DFL)
    raise Stopped(128 + number)


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM raise `Stopped`; a signal that is ignored stays ignored."""
    usual = (signal.SIG_DFL, signal.default_int_handler)
    with handlers({n: stop for n in _SIGNALS if signal.getsignal(n) in usual}):
        yield


@contextmanager
def deferred(what: str) -> Iterator[None]:
    """Inside, a signal to stop is taken down and acts at the end; a second one acts at once.

    Args:
        what: What must not be cut, for the log.
    """
    before = {n: signal.getsignal(n) for n in _SIGNALS}
    came: list[int] = []

    def take_down(number: int, frame: FrameType | None) -> None:
        signal.signal(number, before[signal.Signals(number)])
        came.append(number)
        logger.warning("Told to stop; %s is finished first. A second time stops at once.", what)

    taken = (n for n, handler in before.items() if handler not in (signal.SIG_IGN, None))
    try:
        with handlers(dict.fromkeys(taken, take_down)):
            yield
    except MMSAExtError as error:
        if came:  # the signal takes the error's place
            logger.error("%s", error)
        raise
    finally:
        for number in came:
            signal.raise_signal(number)


@contextmanager
def handlers(
    handlers: Mapping[signal.Signals, Callable[..., Any] | signal.Handlers],
) -> Iterator[None]:
    """Set signal handlers and give the old ones back; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
