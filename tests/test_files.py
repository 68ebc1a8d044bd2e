"""Files are complete or as they were; what dead processes left goes, what is written stays."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

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

    def full(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
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


def test_no_folder_no_leftovers(tmp_path):
    assert files.remove_leftovers(tmp_path / "missing") == []


def test_a_scratch_folder_goes_with_its_block(tmp_path):
    with files.scratch_folder(tmp_path / "made") as folder:
        (folder / "weights").write_text("x")
        assert folder.parent == tmp_path / "made"
    assert list((tmp_path / "made").iterdir()) == []


def test_a_lock_held_elsewhere_is_reported(tmp_path):
    with (
        files.exclusive(tmp_path / ".lock"),
        pytest.raises(WriteError, match=r"\.lock"),
        files.exclusive(tmp_path / ".lock", timeout=0.05),
    ):
        pass
    with files.exclusive(tmp_path / ".lock", timeout=0.05):
        pass


def test_a_lock_that_cannot_be_opened_is_reported(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(WriteError, match=r"\.lock"), files.exclusive(tmp_path / ".lock"):
        pass
