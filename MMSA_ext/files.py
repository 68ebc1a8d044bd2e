"""Files that are complete or as they were, whatever ends the process; locks between processes.

What is being written lies in a folder of its own beside its destination until it is complete. The
writer holds a lock in that folder, which the operating system frees when the process ends, however
it ends: so a folder whose lock is free was left by a dead process, and the next run removes it.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from MMSA_ext.errors import WriteError

__all__ = [
    "exclusive",
    "remove_leftovers",
    "replaced",
    "scratch_folder",
    "write_atomically",
    "write_error",
]

LOCK_TIMEOUT_SECONDS = 120.0
_SCRATCH = ".unfinished-"
_OWNER = "owner.lock"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_ROOM = 1.0  # MiB


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A folder for what is not finished, removed at the end of the block.

    Args:
        parent: Where the folder is made, so that a rename out of it stays on one file system; made
            where it is missing.

    Yields:
        The new folder, which belongs to this process.

    Raises:
        OSError: `parent` cannot be written to.
    """
    parent.mkdir(parents=True, exist_ok=True)
    folder, lock = _own_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _own_folder(parent: Path) -> tuple[Path, FileLock]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=parent))
        lock = FileLock(folder / _OWNER)
        try:
            lock.acquire()
        except FileNotFoundError:  # `remove_leftovers` came between the two lines above
            continue
        except NotImplementedError:  # no locks on this file system: nobody will remove the folder
            return folder, lock
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if (folder / _OWNER).exists():
            return folder, lock
        lock.release()


def remove_leftovers(parent: Path) -> list[Path]:
    """Remove what dead processes left unfinished in a folder; what is being written stays.

    Args:
        parent: The folder; it may be missing.

    Returns:
        The folders that were removed.
    """
    removed = []
    for folder in parent.glob(f"{_SCRATCH}*"):
        lock = FileLock(folder / _OWNER, timeout=0)
        with suppress(OSError, Timeout, NotImplementedError):
            lock.acquire()
            try:
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder)
            finally:
                lock.release()
    return removed


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Write a file so that `path` holds all of it, or what it held before.

    The content is on the disk before the name is, so this holds for a machine that stops as well.

    Args:
        path: The file; missing folders are made.

    Yields:
        Where to write; it takes the place of `path` at the end of the block, unless an error ends
        it.

    Raises:
        WriteError: The disk refuses.
    """
    try:
        with scratch_folder(path.parent) as folder:
            staged = folder / path.name
            yield staged
            with staged.open("rb+") as file:
                os.fsync(file.fileno())
            staged.replace(path)
            _sync_folder(path.parent)
    except WriteError:
        raise
    except OSError as error:
        raise write_error(path, error) from error


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a small file so that it is complete, or what it was before.

    Args:
        path: The file; missing folders are made.
        content: Text (UTF-8) or bytes.

    Raises:
        WriteError: The disk refuses; `path` is then as it was.
    """
    with replaced(path) as staged:
        staged.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def exclusive(path: Path, timeout: float | None = None) -> Iterator[None]:
    """Hold a lock file against other processes and threads.

    Args:
        path: The lock file; its folder exists. It is empty and may be deleted when nothing runs.
        timeout: Seconds to wait for another holder; two minutes by default.

    Yields:
        Nothing; the lock is held inside the `with` block.

    Raises:
        WriteError: Another process holds the lock for longer, or it cannot be opened.
    """
    seconds = LOCK_TIMEOUT_SECONDS if timeout is None else timeout
    lock = FileLock(path, timeout=seconds)
    try:
        lock.acquire()
    except Timeout as error:
        raise WriteError(
            f"{path}: another process has held this lock for {seconds:.0f} seconds. "
            "Wait for it or end it, then run again."
        ) from error
    except (OSError, NotImplementedError) as error:
        raise write_error(path, error) from error
    try:
        yield
    finally:
        lock.release()


def write_error(path: Path, error: Exception) -> WriteError:
    """Say that `path` cannot be written, why, what is safe and what to do.

    Args:
        path: What was to be written.
        error: What the system said; or a library that does not tell what the system said.
    """
    with suppress(OSError):
        free = shutil.disk_usage(path.parent).free / 2**20
        if error.errno in _FULL if isinstance(error, OSError) else free < _NO_ROOM:
            return WriteError(
                f"{path}: cannot be written, because the disk of {path.parent} is full, or the "
                f"quota used up ({free:.1f} MiB free). What was there before is unchanged. Free "
                "some space or choose another folder, then run again."
            )
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return WriteError(
        f"{path}: cannot be written ({reason}). What was there before is unchanged. Correct the "
        "permissions or choose another folder, then run again."
    )


def _sync_folder(folder: Path) -> None:
    """Bring a rename to the disk; not every system lets a folder be opened for that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
