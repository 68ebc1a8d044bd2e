"""Run tests with the lowest versions that pyproject.toml names.

    python scripts/lowest_versions.py                   # minutes; makes .venv-lowest
    python scripts/lowest_versions.py tests/config/test_resolve.py -x

Makes a virtual environment with each requirement at its lower bound and runs `TESTS`, or what the
arguments give to pytest, in it. torch alone is the one of constraints.txt: an older one from the
package index brings gigabytes of CUDA, so its bound is only what transformers asks for.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".venv-lowest"
EXTRAS = ("offline", "chinese", "ray", "shards")
NOT_LOWERED = "torch"
# Of every requirement what is used of it, and every model trained once.
TESTS = (
    "tests/explain/test_attribution.py",
    "tests/explain/test_embeddings.py",
    "tests/cli/test_commands.py",
    "tests/data/test_features.py",
    "tests/data/test_shards.py",
    "tests/experiments/test_ray_engine.py",
    "tests/experiments/test_execution.py",
    "tests/mmsa_bridge/test_stock.py",
    "tests/models/test_all_models.py",
    "tests/reporting",
    "tests/config/test_resolve.py",
    "tests/models/test_optimal_transport.py",
    "tests/runs/test_api.py",
    "tests/test_text_encoders.py",
    "tests/runs/test_tuning.py",
    "tests/training/test_checkpoint.py",
)


def requirements() -> list[str]:
    """What pyproject.toml asks for, with the extras that are tested here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *(line for extra in EXTRAS for line in extras[extra])]


def lowest(names: Iterable[str]) -> dict[str, str]:
    """The version of each requirement that has a lower bound, `name>=version`."""
    bounds = (name.split(">=") for name in names if ">=" in name)
    return {name.strip(): version.strip() for name, version in bounds}


def constraints() -> str:
    """The lower bounds as a constraints file, and torch's line of constraints.txt."""
    pinned = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    (torch,) = (line for line in pinned if line.startswith(f"{NOT_LOWERED}=="))
    versions = lowest(requirements())
    lines = [f"{name}=={version}" for name, version in versions.items() if name != NOT_LOWERED]
    return "\n".join([*lines, torch, ""])


def main(arguments: list[str]) -> int:
    """Make the environment, then run pytest in it; returns its exit code."""
    venv.create(FOLDER, with_pip=True, clear=True)
    file = FOLDER / "constraints.txt"
    file.write_text(constraints(), "utf-8")
    python = FOLDER / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    wanted = ["--editable", f"{ROOT}[{','.join(EXTRAS)}]", "hypothesis", "pytest", "pytest-xdist"]
    subprocess.run([*install, "--constraint", file, *wanted], check=True)
    tests = arguments or ["-q", "--numprocesses", "2", "-m", "not slow", *TESTS]
    return subprocess.run([python, "-m", "pytest", *tests], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
