"""Which model runs on which data set: every model on every file, one epoch each.

A cell of the matrix is one `MMSA_run` in a process of its own, with a time limit. It runs, is
refused with a sentence that says what to do, or fails. The error after one epoch is shown only to
prove that the whole way was gone; it says nothing of a model's quality.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from pydantic import TypeAdapter

from MMSA_ext import mmsa_bridge
from MMSA_ext.config.resolve import resolve, unread
from MMSA_ext.config.schema import DATASETS
from MMSA_ext.data import synthetic
from MMSA_ext.data.features import fingerprint
from MMSA_ext.errors import ConfigError, MMSAExtError, suggest
from MMSA_ext.files import read_regular, scratch_folder, write_atomically
from MMSA_ext.records.store import collect_environment
from MMSA_ext.registry import list_models
from MMSA_ext.reporting.render import csv_text
from MMSA_ext.runs import smoke
from MMSA_ext.text_encoders import identity
from MMSA_ext.version import code_version

__all__ = [
    "LENGTHS",
    "Cell",
    "Source",
    "all_models",
    "describe",
    "generate",
    "one_epoch",
    "run_matrix",
    "write_tables",
]

Status = Literal["runs", "refused", "diverged", "fails", "timeout"]

# Time steps of text, audio and vision of generated data.
LENGTHS: dict[str, tuple[int, int, int] | None] = {"official": None, "short": (20, 40, 30)}
SEED = 1111
_CELL_BYTES = 2**20
_COLUMNS = ("model", "data", "dataset", "status", "test_mae", "seconds", "detail")
_MARKDOWN_HEAD = "# Models and data sets\n"


@dataclass(frozen=True)
class Source:
    """A feature file of the matrix.

    Attributes:
        name: Heading of its column.
        dataset: `mosi`, `mosei` or `sims`.
        path: The file.
    """

    name: str
    dataset: str
    path: Path


@dataclass(frozen=True)
class Cell:
    """One model on one file.

    Attributes:
        model: Name of the model.
        data: Name of the source.
        dataset: Data set of the source.
        status: `runs`; `refused`: an error of this package, a sentence meant for users;
            `diverged`: the run was recorded as such; `fails`: any other error; `timeout`.
        test_mae: Mean absolute error on the test split after one epoch, in the label's unit.
        seconds: Wall time, without the start of the process.
        detail: The sentence, or the last line of the traceback; empty if it runs.
    """

    model: str
    data: str
    dataset: str
    status: Status
    test_mae: float | None
    seconds: float
    detail: str


def all_models() -> list[str]:
    """MMSA's own models, then the added ones."""
    return [*mmsa_bridge.mmsa_models(), *list_models()]


def generate(
    folder: Path, *, lengths: str = "official", sizes: tuple[int, int, int], tokenizer: str
) -> list[Source]:
    """Generated mosi, mosei and sims; what is there already is not made again.

    Args:
        folder: Where the files go.
        lengths: A key of `LENGTHS`; feature dimensions are the official ones.
        sizes: Samples of train, valid and test.
        tokenizer: Text encoder whose token ids `text_bert` holds.

    Raises:
        ConfigError: If `lengths` or `sizes` is not usable.
        TextEncoderError: If the tokenizer cannot be loaded.
    """
    if lengths not in LENGTHS:
        raise ConfigError(f"unknown lengths {lengths!r}; {suggest(lengths, list(LENGTHS))}")
    encoder = identity(tokenizer).replace("/", "-")
    stem = f"{lengths}-{'-'.join(map(str, sizes))}-{encoder}"
    sources = [Source(f"generated {d}", d, folder / f"{d}-{stem}.pkl") for d in DATASETS]
    for source in sources:
        if not source.path.is_file():
            steps = LENGTHS[lengths]
            synthetic.write(
                source.path, source.dataset, sizes=sizes, lengths=steps, tokenizer=tokenizer
            )
    return sources


def one_epoch(model: str, dataset: str, encoder: str) -> dict[str, Any]:
    """Overrides that let a model train for one epoch, with a text encoder where it reads one.

    Raises:
        ConfigError: If the model has no configuration for the data set.
    """
    args = resolve(model, dataset)
    reads_tokens = not unread(args, ["pretrained"])
    return smoke.one_epoch(args) | ({"pretrained": encoder} if reads_tokens else {})


def run_matrix(
    models: Sequence[str],
    sources: Sequence[Source],
    folder: Path,
    *,
    encoder: str = "minilm",
    limit_s: float = 300.0,
    gpu_ids: str = "cpu",
    on_cell: Callable[[Cell, int, int], None] | None = None,
) -> list[Cell]:
    """Run every model on every source; cells that were run before, by this code, are read.

    Args:
        models: Names of models.
        sources: Feature files.
        folder: Keeps a file for each cell; may be deleted afterwards.
        encoder: Text encoder of all models that read token ids.
        limit_s: Wall seconds that a cell may take.
        gpu_ids: As in `MMSA_run`.
        on_cell: Called with each cell, its number and the number of cells.

    Returns:
        The cells, source by source.

    Raises:
        ConfigError: If a model is unknown.
        TextEncoderError: If the encoder cannot be found.
    """
    for model in models:
        if model not in all_models():
            raise ConfigError(f"unknown model {model!r}; {suggest(model, all_models())}")
    key = {"code": code_version(), "encoder": identity(encoder), "device": gpu_ids}
    cells = []
    for source in sources:
        data = {"fingerprint": fingerprint(source.path), **key}
        for model in models:
            path = folder / f"{source.path.stem}-{model}.json"
            cell = _known(path, data, limit_s)
            if cell is None:
                cell = _run_cell(model, source, folder, encoder, gpu_ids, limit_s)
                content = {"key": data, "limit_s": limit_s, "cell": asdict(cell)}
                write_atomically(path, json.dumps(content, indent=1))
            cells.append(cell)
            if on_cell:
                on_cell(cell, len(cells), len(models) * len(sources))
    return cells


def _known(path: Path, key: dict[str, str], limit_s: float) -> Cell | None:
    """The cell of an earlier call; one that ran out of a smaller limit is run again."""
    try:
        content = json.loads(read_regular(path, _CELL_BYTES))
        cell = TypeAdapter(Cell).validate_python(content["cell"])
        stale = content["key"] != key or (cell.status == "timeout" and content["limit_s"] < limit_s)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return None if stale else cell


def _run_cell(
    model: str, source: Source, folder: Path, encoder: str, gpu_ids: str, limit_s: float
) -> Cell:
    began = time.perf_counter()
    with scratch_folder(folder) as place:
        answer = place / "answer.json"
        process = _context().Process(
            target=_work, args=(model, source, place, encoder, gpu_ids), daemon=True
        )
        process.start()
        try:
            process.join(limit_s)
            finished = process.exitcode is not None
        finally:
            process.kill()
            process.join()
        seconds = time.perf_counter() - began
        if answer.is_file():
            return Cell(model, source.name, source.dataset, **json.loads(answer.read_text()))
    status: Status = "fails" if finished else "timeout"
    detail = f"ended with exit code {process.exitcode}" if finished else f"after {limit_s:g} s"
    return Cell(model, source.name, source.dataset, status, None, round(seconds, 1), detail)


def _context() -> Any:
    """Processes that start from a clean one in which the package is imported already."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _work(model: str, source: Source, place: Path, encoder: str, gpu_ids: str) -> None:
    """One cell, in its own process; its answer is a file, as a pipe may fill or break."""
    began = time.perf_counter()
    with _silence():
        answer = _outcome(model, source, place, encoder, gpu_ids)
    answer["seconds"] = round(time.perf_counter() - began, 1)
    write_atomically(place / "answer.json", json.dumps(answer))


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Some of MMSA's trainers print."""
    with (
        Path(os.devnull).open("w") as nothing,
        contextlib.redirect_stdout(nothing),
        contextlib.redirect_stderr(nothing),
    ):
        yield


def _outcome(model: str, source: Source, place: Path, encoder: str, gpu_ids: str) -> dict[str, Any]:
    from MMSA_ext.runs.api import MMSA_run

    folders: dict[str, Any] = dict.fromkeys(("model_save_dir", "res_save_dir", "log_dir"), place)
    answer: dict[str, Any] = {"status": "runs", "test_mae": None, "detail": ""}
    try:
        results = MMSA_run(
            model,
            source.dataset,
            config=one_epoch(model, source.dataset, encoder),
            custom_feature=source.path,
            seeds=[SEED],
            gpu_ids=gpu_ids,
            num_workers=0,
            verbose_level=0,
            **folders,
        )
    except MMSAExtError as error:
        answer |= {"status": "refused", "detail": _sentence(str(error), source)}
    except Exception as error:  # the matrix says so of every model that fails, and goes on
        where = traceback.extract_tb(error.__traceback__)[-1]
        line = traceback.format_exception_only(error)[-1].strip()
        said = f"{line} ({Path(where.filename).name}:{where.lineno})"
        answer |= {"status": "fails", "detail": _sentence(said, source)}
    else:
        (seed,) = results.seeds
        answer["test_mae"] = seed.metrics.get("MAE")
        if seed.diverged:
            answer |= {"status": "diverged", "detail": seed.record.reason or ""}
    return answer


def _sentence(text: str, source: Source) -> str:
    """One line without the folders of this machine."""
    return " ".join(text.replace(str(source.path), source.path.name).split())


def write_tables(cells: Sequence[Cell], folder: Path, *, description: str = "") -> list[Path]:
    """Write the matrix as `matrix.csv` (one line a cell) and `matrix.md` (one row a model).

    Args:
        cells: From `run_matrix`.
        folder: Where to write.
        description: How it was made, put over the Markdown table.

    Returns:
        The two files.
    """
    paths = [folder / "matrix.csv", folder / "matrix.md"]
    table = pd.DataFrame([asdict(cell) for cell in cells], columns=list(_COLUMNS))
    write_atomically(paths[0], csv_text(table))
    write_atomically(paths[1], _markdown(cells, description))
    return paths


def _markdown(cells: Sequence[Cell], description: str) -> str:
    sources = list(dict.fromkeys(cell.data for cell in cells))
    models = list(dict.fromkeys(cell.model for cell in cells))
    by_place = {(cell.model, cell.data): cell for cell in cells}
    notes: dict[str, int] = {}
    rows = [["model", *sources], ["---"] * (len(sources) + 1)]
    for model in models:
        found = (by_place.get((model, source)) for source in sources)
        rows.append([model, *("" if cell is None else _shown(cell, notes) for cell in found)])
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    counts = pd.Series([cell.status for cell in cells], dtype=str).value_counts()
    total = ", ".join(f"{count} {status}" for status, count in counts.items())
    sentences = "\n".join(f"{number}. {_escaped(text)}" for text, number in notes.items())
    parts = [_MARKDOWN_HEAD, description, f"{len(cells)} cells: {total}.\n", table, ""]
    return "\n".join([*parts, *([sentences, ""] if notes else [])])


def _shown(cell: Cell, notes: dict[str, int]) -> str:
    if cell.status == "runs":
        mae = "MAE undefined" if cell.test_mae is None else f"{cell.test_mae:.3f}"
        return f"runs, {mae}, {cell.seconds:.0f} s"
    number = notes.setdefault(cell.detail, len(notes) + 1)
    return f"**{cell.status}** ({number})" if cell.status != "refused" else f"refused ({number})"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def describe(encoder: str, sources: Sequence[Source], gpu_ids: str, command: str) -> str:
    """How a matrix was made, in Markdown."""
    device = mmsa_bridge.assign_device(gpu_ids)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    where = collect_environment(name, threads=torch.get_num_threads()).describe()
    files = "\n".join(f"- {source.name}: `{source.path.name}`" for source in sources)
    return (
        f"One epoch of every model on every file, seed {SEED}, each in a process of its own: test "
        "MAE in the label's unit and wall seconds. After one epoch on so few samples the error "
        "only shows that training, selection, test and record went through; it compares no "
        "models.\n\n"
        f"Made by `{command}`, code {code_version()}, text encoder `{encoder}`; {where}.\n\n"
        f"{files}\n"
    )
