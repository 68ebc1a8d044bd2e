"""`mmsa-ext cache`: what is kept is listed by its file, and goes when asked to."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from MMSA_ext.cli.cache import cache
from MMSA_ext.data import feature_cache
from MMSA_ext.data.features import read_features
from MMSA_ext.video.clip_cache import user_cache


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    monkeypatch.setenv(feature_cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(feature_cache, "_SMALLEST_BYTES", 1)
    monkeypatch.setattr(feature_cache, "_TICK_NS", 0)
    app = typer.Typer()
    app.command("cache")(cache)
    return app


def said(command: typer.Typer, *arguments: str) -> str:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_list_and_clear(command: typer.Typer, tmp_path: Path, feature_file: Path) -> None:
    assert said(command) == f"{tmp_path / 'cache'}: 0 files, 0 MiB\n"
    read_features(feature_file)
    listed = said(command)
    assert repr(str(feature_file.resolve())) in listed
    assert f"{tmp_path / 'cache'}: 1 files" in listed
    assert "MiB removed" in said(command, "--clear")
    assert feature_cache.entries() == []
    assert ": 0 files" in said(command)


def test_clips_are_counted_and_go_too(command: typer.Typer) -> None:
    cache = user_cache()
    cache.keep_words("a", [])
    assert "1 modalities of clips" in said(command)
    said(command, "--clear")
    assert cache.entries() == []


def test_off(command: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(feature_cache.VARIABLE, "off")
    assert said(command) == said(command, "--clear") == "The cache is off (MMSA_EXT_CACHE).\n"


def test_what_cannot_be_removed_is_said(
    command: typer.Typer, feature_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_features(feature_file)

    def refuse(path: Path, **_: bool) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    result = CliRunner().invoke(command, ["--clear"])
    assert "not everything could be removed" in str(result.exception)


def test_a_damaged_entry_is_listed(command: typer.Typer, feature_file: Path) -> None:
    read_features(feature_file)
    feature_cache.entries()[0].path.write_bytes(b"nonsense")
    assert "damaged: made anew with its file" in said(command)
