"""`RunOptions`: checked when they are made, and the same from whatever makes them."""

from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest

from MMSA_ext import MMSA_run
from MMSA_ext.cli.options import takes_run_options
from MMSA_ext.errors import ConfigError
from MMSA_ext.runs.options import RunOptions


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"reuse": "no"}, "reuse is 'no'; give True or False"),
        ({"imports": [4]}, "give names of modules or their .py files"),
    ],
)
def test_what_cannot_be_meant_is_refused(given, said):
    """More of it, by the arguments of `MMSA_run`, in test_api.py."""
    with pytest.raises(ConfigError, match=said):
        RunOptions(**given)


def test_they_have_the_names_and_defaults_of_mmsa_run():
    arguments = signature(MMSA_run).parameters
    for field in fields(RunOptions):
        if field.name == "imports":  # Python has `import`
            continue
        assert arguments[field.name].default == field.default


def test_paths_are_expanded_and_folders_are_made_later(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    options = RunOptions(custom_feature="~/f.pkl", feature_T=Path("t.pkl"), feature_A="")
    assert options.files == {
        "custom_feature": str(tmp_path / "f.pkl"),
        "feature_T": "t.pkl",
        "feature_A": None,
        "feature_V": None,
    }
    moved = options.inside(tmp_path / "x")
    assert moved.files == options.files
    assert not (tmp_path / "x").exists()
    assert moved.places().results.is_dir()


def test_modules_in_files_are_named_whole(monkeypatch, tmp_path):
    """A worker has another folder; what Python's path finds keeps its name."""
    monkeypatch.chdir(tmp_path)
    assert RunOptions(imports="package.mine").imports == ("package.mine",)
    assert RunOptions(imports=[Path("mine.py"), "mine"]).imports == (f"{tmp_path}/mine.py", "mine")


def test_a_command_is_given_its_options_as_one_object():
    seen = []

    @takes_run_options
    def command(options: RunOptions, model: str = "m") -> None:
        seen.append((options, model))

    assert list(signature(command).parameters)[:2] == ["model", "features"]
    defaults = {name: p.default for name, p in signature(command).parameters.items()}
    command(**defaults | {"repeat": True, "log_dir": "logs"})
    assert seen == [(RunOptions(gpu_ids=[], log_dir="logs", reuse=False), "m")]
