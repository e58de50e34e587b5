"""The Typer app: registers the commands in the order of `tumorgen --help`."""

from __future__ import annotations

from typing import Annotated

import typer

from tumorgen_cli import __version__
from tumorgen_cli.cli import data, nnunet, pairs, run, scores, training
from tumorgen_cli.system import console

HELP_NAMES = {"help_option_names": ["-h", "--help"]}
_PIPELINE, _USE, _STUDIES = "The pipeline", "Pairs and nnU-Net", "Studies"

app = typer.Typer(
    no_args_is_help=True,
    context_settings=HELP_NAMES,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Learn tumors from a small annotated 3D data set, and paint new ones, image and mask, into healthy scans.",
)


def start() -> None:
    """Run the command of this process: the entry point of `tumorgen`."""
    console.accept_any_text()
    app()


def _version(value: bool) -> None:
    """Print the version and stop."""
    if value:
        typer.echo(f"tumorgen {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", metavar="", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The options of `tumorgen` itself."""


app.command(rich_help_panel=_PIPELINE)(run.demo)
app.command(rich_help_panel=_PIPELINE)(run.run)
app.command(rich_help_panel=_PIPELINE)(data.plan)
app.command(rich_help_panel=_PIPELINE)(data.presets)
app.command(rich_help_panel=_PIPELINE)(data.preprocess)
app.command(rich_help_panel=_PIPELINE)(training.train)
app.command(rich_help_panel=_PIPELINE)(pairs.synthesize)
app.command(rich_help_panel=_PIPELINE)(scores.evaluate)
app.command(rich_help_panel=_PIPELINE)(data.status)
app.command("filter", rich_help_panel=_USE)(pairs.filter_pairs)
app.command(rich_help_panel=_USE)(nnunet.merge)
app.command("nnunet-setup", rich_help_panel=_USE)(nnunet.nnunet_setup)
app.command(rich_help_panel=_STUDIES)(scores.compare)
app.command(rich_help_panel=_STUDIES)(nnunet.downstream)
reader_study = typer.Typer(no_args_is_help=True, help="A blind study: do readers tell real from synthetic lesions?")
reader_study.command("make")(scores.make_study)
reader_study.command("score")(scores.score_study)
app.add_typer(reader_study, name="reader-study", rich_help_panel=_STUDIES)
