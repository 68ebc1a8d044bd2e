"""Files that are complete or as they were, whatever ends the process; locks between processes.

What is being written lies in a folder of its own beside its destination until it is complete. The
writer holds a lock in that folder, which the operating system frees when the process ends, however
it ends: so a folder whose lock is free was left by a dead process, and the next run removes it.
Some network file systems know of a lock only on the machine that holds it, so what another machine
left must have been untouched for a week as well.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import shutil
import stat
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from MMSA_ext.errors import WriteError

__all__ = [
    "check_writable",
    "exclusive",
    "move_aside",
    "outside_scratch",
    "read_regular",
    "reason",
    "remove_leftovers",
    "replaced",
    "scratch_folder",
    "sync_folder",
    "write_atomically",
    "write_error",
]

LOCK_TIMEOUT_SECONDS = 120.0
# `.unfinished-<machine>-<random>`
_SCRATCH = ".unfinished-"
_NAME = re.compile(r"\.unfinished-([0-9a-f]{8})-\w{8}")
_OWNER = "owner.lock"
_ABANDONED_SECONDS = 7 * 86400.0
_tidied: set[Path] = set()
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_ROOM = 1.0  # MiB


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A folder for what is not finished, removed at the end of the block.

    The first one that a process makes in a folder comes with `remove_leftovers` there.

    Args:
        parent: Where the folder is made, so that a rename out of it stays on one file system; made
            where it is missing.

    Yields:
        The new folder, which belongs to this process.

    Raises:
        OSError: `parent` cannot be written to.
    """
    parent.mkdir(parents=True, exist_ok=True)
    if (here := parent.absolute()) not in _tidied:
        _tidied.add(here)
        remove_leftovers(parent)
    folder, lock = _own_folder(parent)
    try:
        yield folder
    finally:
        _remove(folder, lock)


def outside_scratch(folder: Path) -> Path:
    """The folder that a scratch folder is in; any other folder as it is."""
    return folder.parent if _NAME.fullmatch(folder.name) else folder


def _own_folder(parent: Path) -> tuple[Path, FileLock]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{_machine()}-", dir=parent))
        lock = FileLock(folder / _OWNER)
        try:
            lock.acquire()
        except (FileNotFoundError, FileExistsError):
            continue  # `remove_leftovers` came between, at one moment or another of `acquire`
        except NotImplementedError:  # no locks on this file system: nobody will remove the folder
            return folder, lock
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if (folder / _OWNER).exists():
            return folder, lock
        lock.release()


def _machine() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"


def remove_leftovers(parent: Path) -> list[Path]:
    """Remove what dead processes of this user left unfinished; what is being written stays.

    Args:
        parent: The folder, which alone is looked into; it may be missing.

    Returns:
        What was removed.
    """
    removed = []
    with suppress(OSError):
        for path in parent.iterdir():
            if path.name.startswith(_SCRATCH) and _may_be_removed(path) and _removed(path):
                removed.append(path)
    return removed


def _removed(folder: Path) -> bool:
    """Remove a scratch folder unless its lock is held."""
    lock = FileLock(folder / _OWNER, timeout=0)
    try:
        lock.acquire()
    except (OSError, Timeout, NotImplementedError):
        return False
    _remove(folder, lock)
    return True


def _remove(folder: Path, lock: FileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.release()
    # Windows removes no file that is open, as that of the lock was. Elsewhere what is there now is
    # another's, who waited for this lock.
    if platform.system() == "Windows" and folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


def _may_be_removed(folder: Path) -> bool:
    """Whether it is ours, and its lock, if it is free, says that nobody uses it."""
    name = _NAME.fullmatch(folder.name)
    try:
        status = folder.lstat()
        if name is None or not stat.S_ISDIR(status.st_mode) or status.st_uid != _user():
            return False
        if name[1] == _machine():
            return True
        touched = max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
    except OSError:  # somebody else is removing it
        return False
    return time.time() - touched > _ABANDONED_SECONDS


def _user() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0  # Windows says 0 of every file


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
        WriteError: The disk refuses, or `path` is a device or a pipe: a file would take its place,
            and /dev/null be one.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise WriteError(f"{path}: is a device or a pipe; name a file to write.")
        with scratch_folder(path.parent) as folder:
            staged = folder / path.name
            yield staged
            with staged.open("rb+") as file:
                os.fsync(file.fileno())
            staged.replace(path)
            sync_folder(path.parent)
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


def check_writable(folder: Path, size: int, name: str = "probe") -> None:
    """Write a file of a size into a folder, to the disk, and remove it, and what is left there.

    Args:
        folder: The folder; made where it is missing.
        size: Bytes.
        name: Name of the file, as long as those that will be written.

    Raises:
        WriteError: The disk refuses; the folder is as it was.
    """
    remove_leftovers(folder)
    try:
        with scratch_folder(folder) as scratch, (scratch / name).open("wb") as file:
            file.write(os.urandom(size))  # zeros might be compressed
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise write_error(folder / name, error) from error


def read_regular(path: Path, limit: int) -> bytes:
    """Read a file, but nothing that could block or never end, as a FIFO or a device.

    Args:
        path: The file.
        limit: Bytes that it has at most.

    Returns:
        Its content.

    Raises:
        OSError: It cannot be read, is no regular file or is larger.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            said = f"it has {size / 2**20:.0f} MiB, and at most {limit / 2**20:.0f} are read"
            raise OSError(errno.EFBIG, said, str(path))
        return file.read(limit)


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


def move_aside(path: Path) -> Path:
    """Rename what cannot be read to a free name beside it, `<name>.damaged` and on.

    Args:
        path: A file or anything else that is in the way.

    Returns:
        Its new name.

    Raises:
        OSError: It cannot be renamed.
    """
    names = (path.with_name(f"{path.name}.damaged{number or ''}") for number in count())
    aside = next(name for name in names if not os.path.lexists(name))
    return path.rename(aside)


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
    return WriteError(
        f"{path}: cannot be written ({reason(error)}). What was there before is unchanged. Correct "
        "the permissions or choose another folder, then run again."
    )


def reason(error: Exception) -> str:
    """What the operating system, or else the error, says."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def sync_folder(folder: Path) -> None:
    """Bring renames in a folder to the disk, where the system lets a folder be opened for that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
