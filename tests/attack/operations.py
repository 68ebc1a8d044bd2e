"""Actions in a child process, whose file operations an audit hook sees."""

import contextlib
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Operations:
    """Sees file operations of this process from `watch` on, each before it is done.

    Args:
        due: Number of the operation that something happens at, from 1; 0 for none.
        happens: Given the operation's name and path; what it raises ends the operation.
    """

    def __init__(self, due: int, happens: Callable[[str, str], None]) -> None:
        self.count, self.due, self.happens = 0, due, happens

    def watch(self) -> None:
        sys.addaudithook(self._seen)
        sync = os.fsync

        def fsync(descriptor: int) -> None:
            self._one("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink()))
            sync(descriptor)

        os.fsync = fsync

    def _seen(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and arguments[2] & _WRITING:
            self._one("open", str(arguments[0]))
        elif event == "os.rename":
            self._one("rename", str(arguments[1]))
        elif event in ("os.mkdir", "os.remove", "os.rmdir"):
            self._one(event[3:], str(arguments[0]))

    def _one(self, name: str, path: str) -> None:
        self.count += 1
        if self.count == self.due:
            self.happens(name, path)


def in_child(action: Callable[[], Any]) -> tuple[int, Any]:
    """Exit code (negative for a signal) and result of an action in a forked child."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            os.close(reading)
            warnings.simplefilter("ignore")
            answer = json.dumps(action()).encode()
            os.write(writing, answer)
            code = 0
        os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), json.loads(answer) if answer else None


def _killed(name: str, path: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def watched(action: Callable[[], Any], due: int = 0, happens: Any = _killed) -> tuple[int, Any]:
    """An action in a child; its result is the number of its file operations."""

    def act() -> int:
        operations = Operations(due, happens)
        operations.watch()
        action()
        return operations.count

    return in_child(act)


def forked(action: Callable[[], Any]) -> int:
    """Number of a child process that does an action; it ends with 0, or with 1 at any error."""
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            warnings.simplefilter("ignore")
            action()
            code = 0
        os._exit(code)
    return child
