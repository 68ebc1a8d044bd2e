"""What adds an extra to an installation, wherever this one came from."""

import importlib.metadata
import json
import sys
from pathlib import Path

import pytest

from MMSA_ext import extras
from MMSA_ext.errors import ConfigError
from MMSA_ext.extras import import_extra, install_command


class Installed:
    """An installation about which pip noted where it came from."""

    def __init__(self, origin: dict | None) -> None:
        self.noted = None if origin is None else json.dumps(origin)

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self.noted


@pytest.fixture(autouse=True)
def pip_at_hand(monkeypatch):
    """The `pip` that is found first belongs to this interpreter."""
    monkeypatch.setattr("shutil.which", lambda name: str(Path(sys.executable).with_name(name)))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Make the package one that is installed, from somewhere."""
    monkeypatch.setattr(extras, "_PACKAGE", tmp_path / "site-packages" / "MMSA_ext")

    def of(origin):
        monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed(origin))

    return of


def test_a_clone_is_installed_as_it_is():
    root = Path(__file__).parents[1]
    assert install_command("shards") == f'pip install -e "{root}[shards]"'


@pytest.mark.parametrize(
    ("origin", "asked"),
    [
        (None, "MMSA_ext[ray]"),
        ({"url": "file:///a%20b/clone", "dir_info": {}}, "MMSA_ext[ray] @ file:///a%20b/clone"),
        ({"url": "file:///x.whl", "archive_info": {}}, "MMSA_ext[ray] @ file:///x.whl"),
        (
            {"url": "https://host/x.git", "vcs_info": {"vcs": "git", "commit_id": "1"}},
            "MMSA_ext[ray] @ git+https://host/x.git",
        ),
    ],
    ids=["index", "folder", "wheel", "repository"],
)
def test_an_installation_goes_back_to_where_it_came_from(origin, asked, installed):
    installed(origin)
    assert install_command("ray") == f'pip install "{asked}"'


def test_a_package_without_metadata_is_asked_of_the_index(tmp_path, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(extras, "_PACKAGE", tmp_path / "MMSA_ext")
    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    assert install_command("ray") == 'pip install "MMSA_ext[ray]"'


@pytest.mark.parametrize("found", [None, "/usr/somewhere/else/pip"])
def test_the_pip_is_that_of_this_interpreter(found, installed, monkeypatch):
    installed(None)
    monkeypatch.setattr("shutil.which", lambda name: found)
    monkeypatch.setattr(sys, "executable", "/my venv/bin/python")
    assert install_command("ray") == '"/my venv/bin/python" -m pip install "MMSA_ext[ray]"'


def test_what_is_missing_is_named_with_the_mend():
    with pytest.raises(ConfigError) as error:
        import_extra("no_such_package.part", "shards", "a table")
    assert str(error.value) == (
        f"a table needs no_such_package, which is not installed: {install_command('shards')}"
    )
    assert import_extra("json.decoder", "shards", "a table") is json.decoder


def test_no_message_writes_the_command_itself():
    modules = Path(extras.__file__).parent.rglob("*.py")
    assert [p.name for p in modules if "MMSA_ext[" in p.read_text("utf-8")] == ["extras.py"]
