"""Processes of this machine: their memory, and those that answer requests.

Such a process ends with the one that started it, however that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from MMSA_ext.stopping import handlers, stop

# Threads of a process, if the user set them; numeric libraries read it when they are loaded.
THREADS_VARIABLE = "OMP_NUM_THREADS"
# What a thread does that waits for the others of its process. By default it spins, and so takes the
# core from the thread that it waits for, where there are more threads than cores.
WAITING_VARIABLE = "OMP_WAIT_POLICY"


def peak_rss_mb() -> float:
    """Peak resident memory of this process so far, MiB; Linux and macOS."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would begin with the peak of the process that started this one
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    import resource  # not there on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, else KiB


class LostWorkerError(Exception):
    """What was asked died, or was ended; says how."""


class Server(Protocol):
    """What answers requests in a process of its own."""

    def execute(self, request: Any, /) -> Any:
        """The answer to a request; both are copied between the processes."""

    def close(self) -> None:
        """Let go of what is open."""


class Process:
    """A process that answers one request after another.

    Args:
        make: Makes what answers, in the process; copied there.

    Attributes:
        connection: Where the answers come from; `multiprocessing.connection.wait` takes it.
    """

    def __init__(self, make: Callable[[], Server]) -> None:
        self._make = make
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self._make))
        with handlers({signal.SIGINT: signal.SIG_IGN}):  # from its first instruction: see `_serve`
            self.process.start()
        theirs.close()  # the process has its own; with ours open, its death would not be seen

    def send(self, request: Any) -> None:
        """Hand a request over; a process that died is replaced."""
        if not self.process.is_alive():
            self.connection.close()
            self._start()
        with suppress(ConnectionError):  # it died just now; `receive` says so
            self.connection.send(request)

    def receive(self) -> Any:
        """The answer.

        Raises:
            LostWorkerError: The process died.
        """
        try:
            return self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            said = f"its process died (exit code {self.process.exitcode})"
            raise LostWorkerError(f"{said}; was there enough memory?") from None


def end(processes: Sequence[Process], patience: float = 10.0) -> None:
    """End processes; one that is storing a result is given so many seconds for it, or none."""
    for each in processes:
        if patience:
            each.process.terminate()
    for each in processes:
        each.process.join(timeout=patience)
        each.process.kill()
        each.process.join()


@contextmanager
def threads_of_new_processes(threads: int) -> Iterator[None]:
    """Let processes that are started inside have so many threads, in every numeric library."""
    waiting = os.environ.get(WAITING_VARIABLE, "PASSIVE")
    told = {THREADS_VARIABLE: str(threads), WAITING_VARIABLE: waiting}
    before = {name: os.environ[name] for name in told if name in os.environ}
    os.environ.update(told)
    try:
        yield
    finally:
        for name in told:
            del os.environ[name]
        os.environ.update(before)


def _serve(connection: Connection, make: Callable[[], Server]) -> None:
    """Main function of a process: requests in, answers out, until it is told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends us
    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    server = make()
    try:
        while True:
            connection.send(server.execute(connection.recv()))
    except (EOFError, ConnectionError):  # the parent is gone
        return
    finally:
        server.close()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)  # enough to store a result, unless a computation does not return
    os._exit(1)
