"""Files are complete or as they were; what dead processes left goes, what is written stays."""

import errno
import multiprocessing
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from MMSA_ext import files
from MMSA_ext.errors import WriteError


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path):
    target = tmp_path / "folder" / "file.txt"
    files.write_atomically(target, "long text\n")
    files.write_atomically(target, b"short")
    assert target.read_bytes() == b"short"
    assert list(target.parent.iterdir()) == [target]


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    target = tmp_path / "file.txt"
    files.write_atomically(target, "old")
    with pytest.raises(ZeroDivisionError), files.replaced(target) as staged:
        staged.write_text(f"half {1 / 0}")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_with_its_folder_and_what_is_safe(tmp_path, monkeypatch, code):
    target = tmp_path / "file.txt"
    files.write_atomically(target, "old")
    monkeypatch.setattr(os, "fsync", mock.Mock(side_effect=OSError(code, os.strerror(code))))
    with pytest.raises(WriteError, match=r"full.*MiB free.*unchanged") as caught:
        files.write_atomically(target, "new")
    assert str(tmp_path) in str(caught.value)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_is_a_file_is_said(tmp_path):
    (tmp_path / "folder").write_text("")
    with pytest.raises(WriteError, match="folder"):
        files.write_atomically(tmp_path / "folder" / "file", "content")


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Otherwise a machine that stops may keep the name and lose the content."""
    steps = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append("sync"), sync(fd))[1])
    monkeypatch.setattr(Path, "replace", lambda a, b: (steps.append("name"), replace(a, b))[1])
    files.write_atomically(tmp_path / "file", "content")
    assert steps == ["sync", "name", "sync"]


_KILLED = """
    import os, signal, sys
    from pathlib import Path
    from MMSA_ext import files
    with files.replaced(Path(sys.argv[1])) as staged:
        staged.write_text("half of it")
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_writer_leaves_the_old_file_and_the_next_run_tidies(tmp_path):
    target = tmp_path / "file.txt"
    files.write_atomically(target, "old")
    command = [sys.executable, "-c", textwrap.dedent(_KILLED), str(target)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    assert len(files.remove_leftovers(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == [target]


def test_what_is_being_written_is_no_leftover(tmp_path):
    with files.replaced(tmp_path / "file.txt") as staged:
        staged.write_text("content")
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            assert pool.apply(files.remove_leftovers, (tmp_path,)) == []
    assert (tmp_path / "file.txt").read_text() == "content"


@pytest.mark.parametrize(
    ("error", "free", "full"),
    [
        (OSError(errno.ENOSPC, "no space"), 2**30, True),
        (OSError(errno.EACCES, "permission denied"), 0, False),
        (RuntimeError("unexpected pos 64 vs 0"), 2**19, True),  # of a library that hides the cause
        (RuntimeError("unexpected pos 64 vs 0"), 2**30, False),
    ],
)
def test_what_stopped_a_writer(tmp_path, monkeypatch, error, free, full):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free))
    said = str(files.write_error(tmp_path / "file", error))
    assert (f"the disk of {tmp_path} is full" in said) == full
    assert "What was there before is unchanged" in said


def test_a_scratch_folder_goes_with_its_block(tmp_path):
    with files.scratch_folder(tmp_path / "made") as folder:
        (folder / "weights").write_text("x")
        assert folder.parent == tmp_path / "made"
    assert list((tmp_path / "made").iterdir()) == []


@pytest.mark.parametrize("error", [FileNotFoundError, FileExistsError])
def test_a_scratch_folder_that_another_process_tidied_away_is_made_again(
    tmp_path, monkeypatch, error
):
    """Before its lock was held; what `acquire` raises depends on the moment."""
    acquire, asked = files.FileLock.acquire, []

    def once_too_late(lock, *given, **options):
        asked.append(lock)
        if len(asked) == 1:
            Path(lock.lock_file).parent.rmdir()
            raise error
        return acquire(lock, *given, **options)

    monkeypatch.setattr(files.FileLock, "acquire", once_too_late)
    with files.scratch_folder(tmp_path) as folder:
        assert folder.is_dir()
    assert len(asked) == 2


def test_a_lock_that_is_held_or_cannot_be_opened_is_reported(tmp_path):
    with (
        files.exclusive(tmp_path / ".lock"),
        pytest.raises(WriteError, match=r"\.lock"),
        files.exclusive(tmp_path / ".lock", timeout=0.05),
    ):
        pass
    with files.exclusive(tmp_path / ".lock", timeout=0.05):
        pass
    (tmp_path / "folder").mkdir()
    with pytest.raises(WriteError, match=r"folder"), files.exclusive(tmp_path / "folder"):
        pass


class TestLeftovers:
    def left(self, parent, name="", age=0.0):
        folder = parent / (name or f".unfinished-{files._machine()}-abcdefgh")
        folder.mkdir()
        for path in (folder / "weights", folder):
            path.is_dir() or path.write_text("x")
            os.utime(path, (time.time() - age,) * 2)
        return folder

    def test_what_another_machine_left_goes_after_a_week(self, tmp_path):
        """Some network file systems know of a lock only where it is held."""
        new = self.left(tmp_path, ".unfinished-00000000-abcdefgh", 6 * 86400)
        old = self.left(tmp_path, ".unfinished-00000000-abcdefgi", 8 * 86400)
        assert files.remove_leftovers(tmp_path) == [old]
        assert list(tmp_path.iterdir()) == [new]

    def test_what_is_not_surely_ours_stays(self, tmp_path):
        self.left(tmp_path, ".unfinished-business", 30 * 86400)
        outside = self.left(tmp_path)
        outside = outside.rename(tmp_path / "outside")
        (tmp_path / f".unfinished-{files._machine()}-abcdefgh").symlink_to(outside)
        assert files.remove_leftovers(tmp_path) == []
        assert (outside / "weights").exists()

    def test_what_another_user_left_stays(self, tmp_path, monkeypatch):
        self.left(tmp_path)
        monkeypatch.setattr(files, "_user", lambda: 12345)
        assert files.remove_leftovers(tmp_path) == []

    def test_the_first_writing_into_a_folder_tidies_it(self, tmp_path):
        self.left(tmp_path)
        files.write_atomically(tmp_path / "file", "content")
        assert list(tmp_path.iterdir()) == [tmp_path / "file"]

    def test_a_folder_that_cannot_be_read_is_passed_over(self, tmp_path):
        (tmp_path / "loop").symlink_to("loop")
        for path in (tmp_path / "missing", tmp_path / "loop", tmp_path / ("x" * 300)):
            assert files.remove_leftovers(path) == []


def test_whether_a_folder_is_writable(tmp_path, monkeypatch):
    files.check_writable(tmp_path / "folder", 1000)
    assert list((tmp_path / "folder").iterdir()) == []
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(WriteError, match="cannot be written"):
            files.check_writable(folder, 10)
    with pytest.raises(WriteError, match="File name too long"):
        files.check_writable(tmp_path, 10, "x" * 300)
    monkeypatch.setattr(os, "fsync", mock.Mock(side_effect=OSError(errno.ENOSPC, "full")))
    with pytest.raises(WriteError, match="is full"):
        files.check_writable(tmp_path, 10)


def test_only_regular_files_of_some_size_are_read(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert files.read_regular(file, 5) == b"12345"
    (tmp_path / "link").symlink_to("file")
    assert files.read_regular(tmp_path / "link", 5) == b"12345"
    with pytest.raises(OSError, match="at most"):
        files.read_regular(file, 4)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("fifo", "zero", "loop", "missing", "."):
        with pytest.raises(OSError):  # noqa: PT011 (each says its own)
            files.read_regular(tmp_path / name, 5)


def test_what_is_in_the_way_is_moved_to_a_free_name(tmp_path):
    for number in ("", "1", "2"):
        (tmp_path / "x.json").write_text(number)
        assert files.move_aside(tmp_path / "x.json") == tmp_path / f"x.json.damaged{number}"
    assert (tmp_path / "x.json.damaged").read_text() == ""


def test_what_lasts_lies_outside_of_a_scratch_folder(tmp_path):
    with files.scratch_folder(tmp_path) as scratch:
        assert files.outside_scratch(scratch) == tmp_path
    assert files.outside_scratch(tmp_path) == tmp_path


def test_a_scratch_folder_goes_where_an_open_file_cannot_be_removed(tmp_path, monkeypatch):
    """As on Windows, of the lock file, as long as the lock is held."""
    remove, held = shutil.rmtree, []

    def refuse(folder, **options):
        if not held:
            held.append(folder)
        else:
            remove(folder, **options)

    monkeypatch.setattr(files.shutil, "rmtree", refuse)
    monkeypatch.setattr(files.platform, "system", lambda: "Windows")
    with files.scratch_folder(tmp_path):
        pass
    assert held
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="there it is removed, see above")
def test_a_scratch_folder_is_left_to_who_waited_for_its_lock(tmp_path, monkeypatch):
    """Locking makes the folder anew, and then it is another process's."""
    release = files.FileLock.release
    with files.scratch_folder(tmp_path) as made:
        left = made.with_name(f"{made.name[:-8]}abcdefgh")
    left.mkdir()

    def other_is_next(lock, **options):
        release(lock, **options)
        left.mkdir(exist_ok=True)
        (left / "file.txt").touch()

    monkeypatch.setattr(files.FileLock, "release", other_is_next)
    assert files.remove_leftovers(tmp_path) == [left]
    assert (left / "file.txt").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_or_device_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WriteError, match="device or a pipe"):
        files.write_atomically(tmp_path / "pipe", "content")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
