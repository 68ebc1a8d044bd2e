"""Runs the notebooks and writes what they show into them.

    python scripts/notebooks.py                  # all of notebooks/
    python scripts/notebooks.py first_run        # some

A notebook runs in a temporary folder. What it says on the error stream is left out, as are the
times and the details of the kernel, so that only what changed is a difference to the file before.
"""

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def run(path: Path, folder: Path, timeout: int = 600) -> nbformat.NotebookNode:
    """Run a notebook.

    Args:
        path: The notebook, which is not changed.
        folder: Where it runs.
        timeout: Seconds of a cell.

    Returns:
        The notebook with its outputs.

    Raises:
        CellExecutionError: A cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
    ).execute()
    notebook.metadata = METADATA
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    return notebook


def main(names: list[str]) -> None:
    """Run notebooks by name, or all, and write them."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        if not names or path.stem in names:
            with tempfile.TemporaryDirectory() as folder:
                done = run(path, Path(folder))
            nbformat.validate(done)
            nbformat.write(done, path)
            print(path.name)


if __name__ == "__main__":
    main(sys.argv[1:])
