"""Commands that hand trained models to others: `share`, `export`, `push` and `pull`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from MMSA_ext.cli.options import Checkpoint, Overrides, ResultDir, parse_overrides, takes_imports

License = Annotated[
    str,
    typer.Option("--license", help="Licence of the weights, such as mit; goes into the card."),
]


@takes_imports
def share(
    checkpoint: Checkpoint,
    folder: Annotated[Path, typer.Argument(help="Folder to write.")],
    res_save_dir: ResultDir = "",
    license_: License = "",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the model that is in the folder.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Write a checkpoint as a folder for others: safetensors, configuration, tokenizer, card.

    The card's numbers are those of the run's record in the folder of results.
    """
    from MMSA_ext import save_pretrained

    written = save_pretrained(
        checkpoint,
        folder,
        results=res_save_dir or None,
        license=license_ or None,
        overrides=parse_overrides(overrides or []),
        overwrite=overwrite,
    )
    typer.echo(f"written: {written}")
    typer.echo(f"Read its card before you publish it: {written / 'README.md'}")


@takes_imports
def export(
    checkpoint: Checkpoint,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="File to write: .pt2 (torch.export) or .onnx.")
    ],
    overrides: Overrides = None,
) -> None:
    """Write a model as one file for programs without this package; says what it takes."""
    from MMSA_ext import export_model

    made = export_model(checkpoint, output, parse_overrides(overrides or []))
    typer.echo(f"written: {made.path}")
    typer.echo(f"compared: predictions differ from the model's by at most {made.difference:.0e}")
    for name, takes in made.inputs.items():
        shape = ", ".join(map(str, takes["shape"]))
        ranges = takes.get("range", {}).items()
        bounds = "".join(f"; {size} {least} to {most}" for size, (least, most) in ranges)
        typer.echo(f"input: {name} {takes['dtype']} ({shape}){bounds}")


@takes_imports
def push(
    model: Checkpoint,
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the hub.")],
    private: Annotated[
        bool, typer.Option("--private", help="To be seen by its owner alone.")
    ] = False,
    res_save_dir: ResultDir = "",
    license_: License = "",
    overrides: Overrides = None,
) -> None:
    """Upload the folder of `share`, or a checkpoint, to the Hugging Face Hub.

    The token is that of `hf auth login` or HF_TOKEN.
    """
    from MMSA_ext import push

    address = push(
        model,
        name,
        private=private,
        results=res_save_dir or None,
        license=license_ or None,
        overrides=parse_overrides(overrides or []),
    )
    typer.echo(f"uploaded: {address}")


def pull(
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the hub.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder to write. Default: NAME, here."),
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch, tag or commit.")
    ] = None,
) -> None:
    """Download a shared model from the Hugging Face Hub, and check it; nothing of it is run."""
    from MMSA_ext import pull

    folder = output or Path(name.rstrip("/").rpartition("/")[2])
    typer.echo(f"written: {pull(name, folder, revision=revision)}")
