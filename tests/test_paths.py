"""Paths that users write."""

import os
from pathlib import Path

import pytest

from MMSA_ext.errors import ConfigError
from MMSA_ext.paths import Places, check_output, expand, expand_file, home, shown, why_no_file


@pytest.fixture
def nobody(monkeypatch):
    """HOME is not set, and the user's number stands in no password file."""
    monkeypatch.delenv("HOME", raising=False)

    def missing(number):
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", missing)


def test_home_and_variables_are_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", "d")
    assert expand("~/$DATA/x.pkl") == str(tmp_path / "d/x.pkl")
    assert expand(Path("a/b")) == "a/b"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("a\0b", "no NUL character"),
        ("x" * 3900, r"too long \(3900 characters\)"),
        ("/tmp/" + "/".join(["x" * 200] * 25), "too long"),
        ("\ud800", "a character that no path can have"),
        ("~nobody-of-this-name/x", "there is no user of that name"),
        (5, "5 is no path"),
        (b"x", "is no path"),
        (["x"], "is no path"),
    ],
)
def test_what_is_no_path(path, said):
    with pytest.raises(ConfigError, match=said) as error:
        expand(path)
    assert len(str(error.value)) < 400


@pytest.mark.usefixtures("nobody")
def test_without_a_home_folder_the_mend_is_told(tmp_path):
    for ask in (home, lambda: expand("~/x"), Places.resolved, lambda: Places.default(tmp_path)):
        with pytest.raises(ConfigError, match="Set HOME to a folder"):
            ask()
    assert Places.default(tmp_path, tmp_path, tmp_path).logs == tmp_path  # none is needed


def test_why_a_path_is_no_file(tmp_path):
    file, pipe = tmp_path / "file", tmp_path / "pipe"
    file.write_text("x")
    os.mkfifo(pipe)
    assert why_no_file(file, "feature file") == ""
    assert why_no_file(tmp_path / "none", "feature file") == "no such feature file"
    assert "is a pipe" in why_no_file(pipe, "feature file")
    assert "is a folder" in why_no_file(tmp_path, "feature file")
    assert "Not a directory" in why_no_file(file / "below", "feature file")


def test_a_pipe_or_a_device_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, said in ((tmp_path / "pipe", "is a pipe"), ("/dev/zero", "is a device")):
        with pytest.raises(ConfigError, match=said):
            expand_file(path)
    assert expand_file(tmp_path) == str(tmp_path)  # what opens it knows what to say
    assert expand_file(tmp_path / "none") == str(tmp_path / "none")


def test_long_and_odd_paths_are_shown_short_and_on_one_line():
    assert shown("a/b.pkl") == "a/b.pkl"
    assert "\n" not in shown("a\nb")
    assert len(shown("x" * 4000)) < 200


def test_folders_that_cannot_be_made(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    deep = tmp_path / "/".join(["y" * 190] * 20)  # a path, but no room for a file in it
    for folder, said in (
        (file, "there is a file of that name"),
        (file / "below", "Not a directory"),
        (deep, "File name too long"),
    ):
        with pytest.raises(ConfigError, match=rf"{said}.*--res-save-dir"):
            Places.default(tmp_path, folder, tmp_path)
    assert not (tmp_path / ("y" * 190)).exists()


def test_the_output_is_no_input_whatever_links_say(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to("file")
    check_output(tmp_path / "file", tmp_path / "loop", tmp_path / "other")
    with pytest.raises(ConfigError, match="is the input"):
        check_output(tmp_path / "file", tmp_path / "link")
