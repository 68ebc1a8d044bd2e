"""`mmsa-ext convert`: options as they are written, what is printed, and the exit code."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from MMSA_ext.cli import app
from MMSA_ext.data.features import safe_load
from MMSA_ext.errors import ConfigError
from tests.data.convert import sources

USUAL = ("utterances.csv", "-o", "out.pkl", "--vision", "vision")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    sources.table(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_options_reach_the_conversion(folder: Path) -> None:
    sources.write_recipe(folder / "made.json")
    arguments = ["convert", *USUAL, "--audio=audio", "--column=split=", "--group=speaker"]
    arguments += ["--shares=0.5,0.25,0.25", "--seed=3", "--max-length=audio=4", "--too-long=pool"]
    arguments += ["--max-length=text=3", "--pretrained=minilm", "--recipe=made.json"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "seed 3, shares 0.5, 0.25, 0.25" in result.stdout
    assert "no 'speaker' in two splits" in result.stdout
    assert "warning: " in result.stderr, "of the words that are cut off"
    data = safe_load("out.pkl")
    assert data["train"]["audio"].shape[1] == 4
    assert data["train"]["text_bert"].shape[2] == 3
    assert data["recipe"]["audio"]["name"] == "opensmile"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--max-length=audio", "write KEY=VALUE, such as --max-length audio=375"),
        ("--max-length=vision=3.5", "'3.5' is no whole number"),
        ("--shares=a,b,c", "'a' is no number"),
        ("--column=text", "write KEY=VALUE"),
    ],
)
def test_what_is_written_wrong_is_named(option: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        CliRunner().invoke(app, ["convert", *USUAL, option], catch_exceptions=False)
    assert not Path("out.pkl").exists()


def test_a_name_given_twice() -> None:
    twice = ["--column", "text=a", "--column", "text=b"]
    with pytest.raises(ConfigError, match="given twice"):
        CliRunner().invoke(app, ["convert", *USUAL, *twice], catch_exceptions=False)
