"""Commands that check the package: `matrix`, `verify`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from MMSA_ext.cli.options import ResultDir
from MMSA_ext.paths import Places, expand, shown, why_no_file

if TYPE_CHECKING:
    from MMSA_ext.explain.matrix import Cell, Source


def matrix(
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
        Path, typer.Option(help="Generated data and finished cells; resumes from there.")
    ] = Path("~/MMSA/matrix"),
) -> None:
    """Run every model for one epoch on every data set: runs, is refused, or fails.

    Exit code 1 if a cell fails.
    """
    from MMSA_ext.config.schema import DATASETS
    from MMSA_ext.errors import ConfigError, suggest
    from MMSA_ext.explain import matrix as cells_of

    work = Path(expand(work_dir))
    if unknown := [name for name in datasets or () if name not in DATASETS]:
        raise ConfigError(f"unknown data set {unknown[0]!r}; {suggest(unknown[0], [*DATASETS])}")
    sources = [] if real is None else [_real_source(real)]
    generated = cells_of.generate(work / "data", lengths=lengths, sizes=sizes, tokenizer=encoder)
    sources += [s for s in generated if not datasets or s.dataset in datasets]
    done: list[Cell] = []
    description = cells_of.describe(encoder, sources, gpu, _command())

    def show(cell: Cell, number: int, total: int) -> None:
        done.append(cell)
        detail = f"MAE {cell.test_mae:.3f}" if cell.test_mae is not None else cell.detail
        typer.echo(
            f"[{number}/{total}] {cell.data}: {cell.model} {cell.status} {cell.seconds:.0f} s "
            f"{detail}"
        )
        cells_of.write_tables(done, out, description=description)

    cells_of.run_matrix(
        models or cells_of.all_models(),
        sources,
        work / "cells",
        encoder=encoder,
        limit_s=limit,
        gpu_ids=gpu,
        on_cell=show,
    )
    typer.echo(f"Written to {out / 'matrix.md'} and {out / 'matrix.csv'}.")
    if any(cell.status in ("fails", "timeout") for cell in done):
        raise typer.Exit(1)


def verify(res_save_dir: ResultDir = "") -> None:
    """Compute MMSA's metrics again from the stored predictions of every record.

    Exit code 1 if a record differs or is damaged.
    """
    from MMSA_ext.errors import ConfigError
    from MMSA_ext.explain.verification import problems, render, verify_store
    from MMSA_ext.records.store import RunStore

    folder = Places.resolved(results=res_save_dir or None).results / "runs"
    if not folder.is_dir():
        raise ConfigError(
            f"{folder.parent}: has no folder 'runs' with records; give the folder that MMSA_run "
            "wrote to with --res-save-dir."
        )
    checks = list(verify_store(RunStore(folder)))
    typer.echo(render(checks))
    if problems(checks):
        raise typer.Exit(1)


def _real_source(path: Path) -> Source:
    from MMSA_ext.errors import FeatureFileError
    from MMSA_ext.explain.matrix import Source

    path = Path(expand(path))
    if reason := why_no_file(path, "feature file"):
        raise FeatureFileError(f"{shown(path)}: {reason}; give one with --real.")
    return Source(path.stem, "mosi", path)


def _command() -> str:
    """The command as typed, without the folders of this machine."""
    shown = [Path(word).name if word.startswith(("/", "~")) else word for word in sys.argv[1:]]
    return shlex.join(["mmsa-ext", *shown])
