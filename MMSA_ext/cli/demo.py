"""Command `demo`: a page on this machine that shows what a trained model makes of a video."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from MMSA_ext.cli.options import folder_there, takes_imports, trained_model
from MMSA_ext.cli.video import Asr
from MMSA_ext.extras import import_extra
from MMSA_ext.paths import Places, expand
from MMSA_ext.stopping import Stopped

if TYPE_CHECKING:
    from MMSA_ext.page.checkpoints import Checkpoints

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def _trained_models(paths: list[Path] | None) -> list[Path]:
    return [trained_model(path) for path in paths or ()]


@takes_imports
def demo(
    checkpoints: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="CHECKPOINT",
            callback=_trained_models,
            help="Checkpoints written by `run`, or folders of shared models.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; others than this reach further.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port; 0 is any that is free.")
    ] = 7860,
    models: Annotated[
        Path | None,
        typer.Option(
            "--models",
            callback=folder_there,
            help="Folder with more checkpoints. Default: where `run` puts them.",
        ),
    ] = None,
    asr: Asr = None,
) -> None:
    """A page in your browser: what a trained model makes of a video, a sound or a sentence.

    What is uploaded stays on this machine. docs/video.md has the same as JSON.
    Without any checkpoint, small ones are made once, of generated data, in about two minutes.
    (scripts/demo.sh is another: it trains and compares two models in the terminal.)
    """
    import_extra("gradio", "demo", "the page")
    from MMSA_ext.page.desk import Desk
    from MMSA_ext.page.server import application, listening, serve

    sock = listening(host, port)
    folder = Path(expand(models)) if models else Places.resolved().models
    own = [Path(expand(path)) for path in checkpoints or ()]
    with sock, tempfile.TemporaryDirectory(prefix="mmsa-ext-demo-") as uploads:
        offered, options = _offered(own, folder, Path(uploads))
        app = application(Desk(offered, asr), Path(uploads), **options)
        shown = f"[{host}]" if ":" in host else host

        def ready() -> None:
            typer.echo(f"The page is at http://{shown}:{sock.getsockname()[1]}/ (Ctrl-C ends it)")
            if host not in _LOOPBACK:
                typer.echo("Whoever reaches this machine can use it.")

        try:
            serve(app, sock, ready)
        except Stopped as stopped:
            stopped.add_note("The page is closed; what was uploaded is deleted.")
            raise


def _offered(own: list[Path], folder: Path, uploads: Path) -> "tuple[Checkpoints, dict[str, Any]]":
    """The models, and what the page says of them; where there is none, small ones are made."""
    from MMSA_ext.data.feature_cache import cache_folder
    from MMSA_ext.page.checkpoints import Checkpoints
    from MMSA_ext.page.first_start import NOTE, SAMPLE_TEXT, first_start

    offered = Checkpoints(own, folder)
    if offered.places():
        return offered, {}
    typer.echo(f"No checkpoint is named, and none is in {folder}: small ones are used.")
    try:
        made = first_start(cache_folder() or uploads, typer.echo)
    except Stopped as stopped:
        stopped.add_note("Stopped; the small models are made from their beginning the next time.")
        raise
    offered = Checkpoints([made.dashfusion, made.text_only], folder)
    notes = dict.fromkeys(offered.places(), NOTE)
    return offered, {"notes": notes, "sample": (made.sample, SAMPLE_TEXT)}
