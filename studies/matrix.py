"""Which model runs on which data set: every model on every file, one epoch each.

    python studies/matrix.py                    # all models; goes on where it was stopped
    python studies/matrix.py --help

A cell of the matrix is one `MMSA_run` in a process of its own, with a time limit. It runs, is
refused with a sentence that says what to do, or fails. The error after one epoch is shown only to
prove that the whole way was gone; it says nothing of a model's quality.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import torch
import typer

from MMSA_ext import mmsa_bridge, mmsa_files
from MMSA_ext.config.resolve import resolve, unread
from MMSA_ext.data import synthetic
from MMSA_ext.errors import ConfigError, FeatureFileError, MMSAExtError, suggest
from MMSA_ext.files import scratch_folder, write_atomically
from MMSA_ext.paths import expand, shown, why_no_file
from MMSA_ext.records.store import collect_environment
from MMSA_ext.registry import list_models
from MMSA_ext.reporting.render import csv_text, escape_markdown, table_of, to_markdown
from MMSA_ext.runs import smoke
from MMSA_ext.runs.api import MMSA_run
from MMSA_ext.text_encoders import identity
from MMSA_ext.version import __version__

# Those of MMSA.
DATASETS = ("mosi", "mosei", "sims")

Status = Literal["runs", "refused", "diverged", "fails", "timeout"]

# Time steps of text, audio and vision of generated data.
LENGTHS: dict[str, tuple[int, int, int] | None] = {"official": None, "short": (20, 40, 30)}
SEED = 1111


@dataclass(frozen=True)
class FeatureFile:
    """A column of the matrix.

    Attributes:
        name: Its heading.
        dataset: `mosi`, `mosei` or `sims`.
        path: The file.
    """

    name: str
    dataset: str
    path: Path


@dataclass(frozen=True)
class MatrixCell:
    """One model on one file.

    Attributes:
        model: Name of the model.
        data: Name of the feature file.
        dataset: Its data set.
        status: `runs`; `refused`: an error of this package, a sentence meant for users;
            `diverged`: the run was recorded as such; `fails`: any other error; `timeout`.
        test_mae: Mean absolute error on the test split after one epoch, in the label's unit.
        seconds: Wall time of the run, or until it was refused or ended.
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
    return [*mmsa_files.models(), *list_models()]


def generate(
    folder: Path, *, lengths: str = "official", sizes: tuple[int, int, int], tokenizer: str
) -> list[FeatureFile]:
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
    found = [FeatureFile(f"generated {d}", d, folder / f"{d}-{stem}.pkl") for d in DATASETS]
    for file in found:
        if not file.path.is_file():
            steps = LENGTHS[lengths]
            synthetic.write(
                file.path, file.dataset, sizes=sizes, lengths=steps, tokenizer=tokenizer
            )
    return found


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
    files: Sequence[FeatureFile],
    folder: Path,
    *,
    encoder: str = "minilm",
    limit_s: float = 300.0,
    gpu_ids: str = "cpu",
    on_cell: Callable[[MatrixCell, int, int], None] = lambda cell, number, total: None,
) -> list[MatrixCell]:
    """Run every model on every file; what this code ran before is found in its records.

    Args:
        models: Names of models.
        files: Feature files.
        folder: Keeps the records; may be deleted afterwards.
        encoder: Text encoder of all models that read token ids.
        limit_s: Wall seconds that a cell may take.
        gpu_ids: As in `MMSA_run`.
        on_cell: Called with each cell, its number and the number of cells.

    Returns:
        The cells, file by file.

    Raises:
        ConfigError: If a model is unknown.
    """
    for model in models:
        if model not in all_models():
            raise ConfigError(f"unknown model {model!r}; {suggest(model, all_models())}")
    cells = []
    for file in files:
        for model in models:
            cells.append(_run_cell(model, file, folder, encoder, gpu_ids, limit_s))
            on_cell(cells[-1], len(cells), len(models) * len(files))
    return cells


def _run_cell(
    model: str, file: FeatureFile, folder: Path, encoder: str, gpu_ids: str, limit_s: float
) -> MatrixCell:
    began = time.perf_counter()
    with scratch_folder(folder) as scratch:
        answer = scratch / "answer.json"
        process = _context().Process(
            target=_work, args=(answer, model, file, folder, encoder, gpu_ids), daemon=True
        )
        process.start()
        try:
            process.join(limit_s)
            finished = process.exitcode is not None
        finally:
            process.kill()
            process.join()
        outcome: dict[str, Any]
        if answer.is_file():
            outcome = json.loads(answer.read_text())
        elif finished:
            outcome = {"status": "fails", "detail": f"ended with exit code {process.exitcode}"}
        else:
            outcome = {"status": "timeout", "detail": f"after {limit_s:g} s"}
    seconds = round(time.perf_counter() - began, 1)
    usual = {"test_mae": None, "seconds": seconds, "detail": ""}
    return MatrixCell(model, file.name, file.dataset, **usual | outcome)


def _context() -> Any:
    """Processes that start from a clean one in which the package is imported already."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _work(answer: Path, *cell: Any) -> None:
    """One cell, in its own process; its answer is a file, as a pipe may fill or break."""
    with (
        Path(os.devnull).open("w") as nothing,  # some of MMSA's trainers print
        contextlib.redirect_stdout(nothing),
        contextlib.redirect_stderr(nothing),
    ):
        outcome = _outcome(answer.parent, *cell)
    write_atomically(answer, json.dumps(outcome))


def _outcome(
    scratch: Path, model: str, file: FeatureFile, folder: Path, encoder: str, gpu_ids: str
) -> dict[str, Any]:
    try:
        results = MMSA_run(
            model,
            file.dataset,
            config=one_epoch(model, file.dataset, encoder),
            custom_feature=file.path,
            seeds=[SEED],
            gpu_ids=gpu_ids,
            num_workers=0,
            verbose_level=0,
            model_save_dir=scratch,
            res_save_dir=folder,
            log_dir=scratch,
        )
    except MMSAExtError as error:
        return {"status": "refused", "detail": _sentence(str(error), file)}
    except Exception as error:  # the matrix says so of every model that fails, and goes on
        where = traceback.extract_tb(error.__traceback__)[-1]
        line = traceback.format_exception_only(error)[-1].strip()
        said = f"{line} ({Path(where.filename).name}:{where.lineno})"
        return {"status": "fails", "detail": _sentence(said, file)}
    (seed,) = results.seeds
    outcome = {"status": "runs", "test_mae": seed.metrics.get("MAE")}
    if seed.record.seconds is not None:
        outcome["seconds"] = round(seed.record.seconds, 1)
    if seed.diverged:
        outcome |= {"status": "diverged", "detail": seed.record.reason or ""}
    return outcome


def _sentence(text: str, file: FeatureFile) -> str:
    """One line without the folders of this machine."""
    return " ".join(text.replace(str(file.path), file.path.name).split())


def write_tables(cells: Sequence[MatrixCell], folder: Path, *, description: str = "") -> list[Path]:
    """Write the matrix as `matrix.csv` (one line a cell) and `matrix.md` (one row a model).

    Args:
        cells: From `run_matrix`.
        folder: Where to write.
        description: How it was made, put over the Markdown table.

    Returns:
        The two files.
    """
    paths = [folder / "matrix.csv", folder / "matrix.md"]
    write_atomically(paths[0], csv_text(pd.DataFrame(map(asdict, cells))))
    write_atomically(paths[1], _markdown(cells, description))
    return paths


def _markdown(cells: Sequence[MatrixCell], description: str) -> str:
    names = list(dict.fromkeys(cell.data for cell in cells))
    notes: dict[str, int] = {}
    lines = []
    for model in dict.fromkeys(cell.model for cell in cells):
        row = {cell.data: _shown(cell, notes) for cell in cells if cell.model == model}
        lines.append([model, *(row.get(name, "") for name in names)])
    table = to_markdown(table_of(["model", *names], lines))
    counts = pd.Series([cell.status for cell in cells], dtype=str).value_counts()
    total = ", ".join(f"{count} {status}" for status, count in counts.items())
    parts = ["# Models and data sets\n", description, f"{len(cells)} cells: {total}.\n", table]
    sentences = [f"{number}. {escape_markdown(text)}" for text, number in notes.items()]
    return "\n".join([*parts, *sentences, *([""] if sentences else [])])


def _shown(cell: MatrixCell, notes: dict[str, int]) -> str:
    if cell.status == "runs":
        mae = "MAE undefined" if cell.test_mae is None else f"{cell.test_mae:.3f}"
        return f"runs, {mae}, {cell.seconds:.0f} s"
    number = notes.setdefault(cell.detail, len(notes) + 1)
    return f"{cell.status} ({number})"


def describe(encoder: str, files: Sequence[FeatureFile], gpu_ids: str) -> str:
    """How a matrix was made, in Markdown."""
    device = mmsa_bridge.assign_device(gpu_ids)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    where = collect_environment(name, threads=torch.get_num_threads()).describe()
    listed = "\n".join(f"- {file.name}: `{file.path.name}`" for file in files)
    return (
        f"One epoch of every model on every file, seed {SEED}, each in a process of its own: test "
        "MAE in the label's unit and wall seconds. After one epoch on so few samples the error "
        "only shows that training, selection, test and record went through; it compares no "
        "models.\n\n"
        f"Made by `{_command()}`, MMSA_ext {__version__}, text encoder `{encoder}`; {where}.\n\n"
        f"{listed}\n"
    )


def _command() -> str:
    """The command as typed, without the folders of this machine."""
    words = [Path(word).name if word.startswith(("/", "~")) else word for word in sys.argv[1:]]
    return shlex.join(["python", "studies/matrix.py", *words])


def _real_file(path: Path) -> FeatureFile:
    path = Path(expand(path))
    if reason := why_no_file(path, "feature file"):
        raise FeatureFileError(f"{shown(path)}: {reason}; give one with --real.")
    return FeatureFile(path.stem, "mosi", path)


def main(
    models: Annotated[
        list[str] | None, typer.Option("-m", "--model", help="Repeatable. Default: all models.")
    ] = None,
    real: Annotated[
        Path | None, typer.Option(help="A feature file of mosi beside the generated ones.")
    ] = None,
    datasets: Annotated[
        list[str] | None,
        typer.Option("-d", "--dataset", help="Generated data set; repeatable. Default: all."),
    ] = None,
    lengths: Annotated[
        str, typer.Option(help="Time steps of generated data: official, or short (20, 40, 30).")
    ] = "official",
    sizes: Annotated[
        tuple[int, int, int], typer.Option(help="Generated samples: train valid test.")
    ] = (24, 12, 12),
    encoder: Annotated[str, typer.Option(help="Text encoder of all models.")] = "minilm",
    limit: Annotated[float, typer.Option(help="Seconds that a cell may take.")] = 300.0,
    gpu: Annotated[str, typer.Option("-g", "--gpu-ids", help="CUDA device, or 'cpu'.")] = "cpu",
    out: Annotated[Path, typer.Option(help="Folder of matrix.csv and matrix.md.")] = Path(
        "results/matrix"
    ),
    work_dir: Annotated[
        Path, typer.Option(help="Generated data and records; resumes from there.")
    ] = Path("~/MMSA/matrix"),
) -> None:
    """Run every model for one epoch on every data set: runs, is refused, or fails.

    Exit code 1 if a cell fails.
    """
    work = Path(expand(work_dir))
    if unknown := [name for name in datasets or () if name not in DATASETS]:
        raise ConfigError(f"unknown data set {unknown[0]!r}; {suggest(unknown[0], [*DATASETS])}")
    files = [] if real is None else [_real_file(real)]
    generated = generate(work / "data", lengths=lengths, sizes=sizes, tokenizer=encoder)
    files += [file for file in generated if not datasets or file.dataset in datasets]
    done: list[MatrixCell] = []
    description = describe(encoder, files, gpu)

    def show(cell: MatrixCell, number: int, total: int) -> None:
        done.append(cell)
        detail = f"MAE {cell.test_mae:.3f}" if cell.test_mae is not None else cell.detail
        typer.echo(
            f"[{number}/{total}] {cell.data}: {cell.model} {cell.status} {cell.seconds:.0f} s "
            f"{detail}"
        )
        write_tables(done, out, description=description)

    run_matrix(
        models or all_models(),
        files,
        work,
        encoder=encoder,
        limit_s=limit,
        gpu_ids=gpu,
        on_cell=show,
    )
    typer.echo(f"Written to {out / 'matrix.md'} and {out / 'matrix.csv'}.")
    if any(cell.status in ("fails", "timeout") for cell in done):
        raise typer.Exit(1)


if __name__ == "__main__":
    try:
        typer.run(main)
    except MMSAExtError as error:
        sys.exit(f"error: {error}")
