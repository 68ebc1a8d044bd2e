"""The command line, `mmsa-ext COMMAND`; thin over the functions that each command names.

One module a group of commands. Torch, MMSA and pandas take seconds to import, so a command imports
what it needs when it is carried out: help and mistakes in the options come at once.
"""

import sys
import warnings
from io import TextIOWrapper
from typing import Annotated, Any

import typer

from MMSA_ext.cli import (
    cache,
    data,
    demo,
    experiments,
    explain,
    models,
    report,
    runs,
    sharing,
    statistics,
    video,
)
from MMSA_ext.errors import MMSAExtError
from MMSA_ext.stopping import Stopped, stoppable
from MMSA_ext.version import __version__

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="DashFusion and InfoEnh in the MMSA toolkit.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        typer.echo(f"mmsa-ext {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command("run")(runs.run)
app.command("tune")(runs.tune)
app.command("predict")(runs.predict)
app.command("demo")(demo.demo)
app.command("share")(sharing.share)
app.command("export")(sharing.export)
app.command("push")(sharing.push)
app.command("pull")(sharing.pull)
app.command("check-data")(data.check_data)
app.command("convert")(data.convert)
app.command("extract")(video.extract)
app.command("encode-text")(data.encode_text)
app.command("standardise")(data.standardise)
app.command("cache")(cache.cache)
app.command("config")(models.config)
app.command("complexity")(models.complexity)
app.add_typer(experiments.app, name="experiment")
app.add_typer(explain.app, name="explain")
app.command("report")(report.report)
app.command("table")(statistics.table)
app.command("compare")(statistics.compare)
app.command("power")(statistics.power)
app.command("result-stat")(statistics.result_stat)
app.command("verify")(report.verify)
app.add_typer(report.records, name="records")
app.command("list")(models.list_)


def main() -> None:
    """Entry point: errors meant for users are printed as one message, without a traceback.

    Ctrl-C and SIGTERM end a command alike, with the codes 130 and 143 and one line that says what
    is kept. Warnings of this package are one line, without the place in the code.
    """
    usual = warnings.formatwarning

    def plain(message: Any, category: type[Warning], *place: Any, **options: Any) -> str:
        ours = category.__module__.startswith("MMSA_ext")
        return f"warning: {message}\n" if ours else usual(message, category, *place, **options)

    warnings.formatwarning = plain
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # Windows gives pipes a code page, without an arrow
            stream.reconfigure(errors="replace")
    try:
        with stoppable():
            app()
    except MMSAExtError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except Stopped as stopped:
        said = getattr(stopped, "__notes__", ["Stopped; what was finished before is kept."])
        typer.echo("\n".join(said), err=True)
        sys.exit(stopped.code)
    finally:
        warnings.formatwarning = usual
