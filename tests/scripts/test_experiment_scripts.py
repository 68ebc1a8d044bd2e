"""The scripts: one for each shipped experiment, whose help and mistakes need no installation."""

import shutil
import subprocess
from pathlib import Path

import pytest

from MMSA_ext.experiments import list_experiments

ROOT = Path(__file__).parents[2]
TABLES = [name for name in list_experiments() if not name.startswith("baselines_")]


def call(folder, script, *arguments):
    """Run a script in a copy, where no environment is, and none must be made."""
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    command = ["bash", f"scripts/{script}.sh", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert not (folder / ".venv").exists()
    return done


@pytest.mark.parametrize("name", TABLES)
def test_every_table_has_a_script_that_runs_it(name, tmp_path):
    script = ROOT / "scripts" / f"{name}.sh"
    assert f'experiment.sh" {name} ' in script.read_text("utf-8")
    assert script.stat().st_mode & 0o111
    done = call(tmp_path, name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: scripts/{name}.sh [OPTIONS]\n")


@pytest.mark.parametrize(("dataset", "code"), [("mosie", 2), ("", 2), ("--help", 0)])
def test_the_sweep_names_its_data_sets(dataset, code, tmp_path):
    done = call(tmp_path, "sweep_baselines", *([dataset] if dataset else []))
    assert done.returncode == code
    assert "sweep_baselines.sh" in done.stdout + done.stderr
    if code:
        assert "mosi|mosei|sims" in done.stderr
