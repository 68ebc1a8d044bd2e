"""scripts/environment.sh: which Python, and where its programs are."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.parametrize("script", ["demo", "test"])
def test_an_unsupported_python_is_refused(script, tmp_path):
    """Run in an empty copy, so that no environment is found and none is made."""
    shutil.copytree(SCRIPTS, tmp_path / "scripts")
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.8.1"; exit 1\n')
    old.chmod(0o755)
    done = subprocess.run(
        ["bash", f"scripts/{script}.sh"],
        cwd=tmp_path,
        env=os.environ | {"PYTHON": str(old)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "is not Python 3.11, 3.12 or 3.13 (Python 3.8.1)" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(
    ("system", "folder"),
    [("Linux", "bin"), ("Darwin", "bin"), ("MINGW64_NT-10.0-20348", "Scripts")],
)
def test_programs_are_where_python_puts_them(system, folder, tmp_path):
    fake = tmp_path / "uname"
    fake.write_text(f"#!/bin/sh\necho {system}\n")
    fake.chmod(0o755)
    script = f'source "{SCRIPTS / "environment.sh"}"; echo "$VENV_BIN"'
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    shown = subprocess.run(
        ["bash", "-c", script], env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert shown.stdout == f".venv/{folder}\n"


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_no_script_knows_where_programs_are_by_itself(path):
    assert path.name == "environment.sh" or "/bin/" not in path.read_text().split("\n", 1)[1]
