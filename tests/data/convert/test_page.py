"""docs/data.md: each form's commands do what they say, from a source to a trained model."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from MMSA_ext.cli import app
from MMSA_ext.data.convert.forms import FORMS
from MMSA_ext.data.features import check_features
from tests.data.convert import sources

PAGE = Path(__file__).parents[3] / "docs" / "data.md"


def commands(form: str) -> list[list[str]]:
    """The blocks of a form's section: a command that converts and one that trains."""
    (section,) = re.findall(
        rf"^### [^\n]*\(`{form}`\)\n(.*?)^### ", PAGE.read_text("utf-8"), re.M | re.S
    )
    found = re.findall(r"^```bash\n(.*?)^```", section, re.M | re.S)
    return [line for block in found for line in block.splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(line: str, *more: str) -> str:
    program, *arguments = shlex.split(line)
    assert program == "mmsa-ext"
    result = CliRunner().invoke(app, [*arguments, *more], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    "form",
    [pytest.param(form, marks=() if form == "table" else pytest.mark.slow) for form in FORMS],
)
def test_a_form_trains_by_its_two_commands(form: str, folder: Path) -> None:
    getattr(sources, form)(folder)
    lines = commands(form)
    assert len(lines) >= 2
    for number, (converting, training) in enumerate(zip(lines[::2], lines[1::2], strict=True)):
        said = call(converting)
        assert "Next\n  mmsa-ext run" in said
        made = Path(shlex.split(converting)[shlex.split(converting).index("-o") + 1])
        assert check_features(made, "mosi").ok
        places = [
            f"--{kind}-{'save-' * (kind != 'log')}dir=out{number}"
            for kind in ("model", "res", "log")
        ]
        call(training, "--gpu-ids=cpu", "--num-workers=0", "--verbose=0", *places)
        assert list(Path(f"out{number}/runs").rglob("*.json"))
