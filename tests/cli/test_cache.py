"""`mmsa-ext cache`: what is kept is listed by its file, and goes when asked to."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from MMSA_ext.cli import app
from MMSA_ext.data import feature_cache
from MMSA_ext.data.features import read_features
from MMSA_ext.page.kept import folder_of
from MMSA_ext.video.clip_cache import user_cache


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(feature_cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(feature_cache, "_SMALLEST_BYTES", 1)
    monkeypatch.setattr(feature_cache, "_TICK_NS", 0)


def said(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["cache", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_list_and_clear(tmp_path, feature_file):
    assert said() == f"{tmp_path / 'cache'}: 0 files, 0 MiB\n"
    read_features(feature_file)
    listed = said()
    assert repr(str(feature_file.resolve())) in listed
    assert f"{tmp_path / 'cache'}: 1 files" in listed
    assert "MiB removed" in said("--clear")
    assert feature_cache.entries() == []
    assert ": 0 files" in said()


def test_clips_are_counted_and_go_too():
    cache = user_cache()
    cache.keep_words("a", [])
    assert "1 modalities of clips" in said()
    said("--clear")
    assert cache.entries() == []


def test_models_of_the_page_are_listed_and_go_too(tmp_path):
    model = folder_of(tmp_path / "cache", "0123") / "text_only.pth"
    model.parent.mkdir(parents=True)
    model.write_bytes(bytes(3 << 20))
    assert "       3 MiB  models of generated data, for `demo`\n" in said()
    assert "3 MiB removed" in said("--clear")
    assert not model.parent.exists()


def test_off(monkeypatch):
    monkeypatch.setenv(feature_cache.VARIABLE, "off")
    assert said() == said("--clear") == "The cache is off (MMSA_EXT_CACHE).\n"


def test_what_cannot_be_removed_is_said(feature_file, monkeypatch):
    read_features(feature_file)

    def refuse(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    result = CliRunner().invoke(app, ["cache", "--clear"])
    assert "not everything could be removed" in str(result.exception)


def test_a_damaged_entry_is_listed(feature_file):
    read_features(feature_file)
    feature_cache.entries()[0].path.write_bytes(b"nonsense")
    assert "damaged: made anew with its file" in said()
