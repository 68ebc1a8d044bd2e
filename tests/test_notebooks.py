"""The notebooks: sound files whose imports and links exist, and that run from top to bottom."""

import ast
import importlib
import importlib.util
import json
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def script():
    """scripts/notebooks.py, which writes them."""
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "scripts" / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def test_there_are_three():
    names = ["first_run", "infoenh_in_your_model", "looking_into_a_checkpoint"]
    assert [path.stem for path in NOTEBOOKS] == names


@by_name
def test_is_as_the_script_writes_it(path, script):
    """Valid, cells by names that stay, nothing of the machine, run once from top to bottom."""
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert notebook.metadata == script.METADATA
    ids = [cell["id"] for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert all(not cell.metadata for cell in notebook.cells)
    assert [cell.execution_count for cell in code(path)] == [*range(1, len(code(path)) + 1)]
    shown = json.dumps([cell.outputs for cell in code(path)])
    assert not re.search(r"/tmp|/home/|/root/|/Users/|C:\\\\|Traceback|stderr", shown)
    pictures = [
        out for cell in code(path) for out in cell.outputs if "image/png" in out.get("data", ())
    ]
    assert pictures
    assert path.stat().st_size < 600_000


@by_name
def test_imports_exist(path):
    source = "\n".join(cell.source for cell in code(path))
    tree = ast.parse(re.sub(r"^%.*$", "", source, flags=re.MULTILINE))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in found if node.module.split(".")[0] == "MMSA_ext"]
    assert ours
    for node in ours:
        module = importlib.import_module(node.module)
        for alias in node.names:
            assert hasattr(module, alias.name) or importlib.util.find_spec(
                f"{node.module}.{alias.name}"
            )


@by_name
def test_links_lead_somewhere(path):
    text = "\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown")
    targets = re.findall(r"\]\(\s*([^)#\s]+)", text)
    assert targets
    assert all("://" in target or (path.parent / target).is_file() for target in targets)


@pytest.mark.slow
@by_name
def test_runs(path, script, tmp_path, monkeypatch):
    """Anywhere, without network, and writes only to a temporary folder."""
    for name in ("HOME", "TMPDIR", "work"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # more wait for each other on a busy machine
    done = script.run(path, tmp_path / "work")
    assert not list((tmp_path / "work").iterdir())
    assert not (tmp_path / "HOME" / "MMSA").exists()
    assert all(out.output_type != "error" for cell in done.cells for out in cell.get("outputs", ()))
