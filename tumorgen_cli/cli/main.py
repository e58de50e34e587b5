"""The Typer app: registers the commands in the order of `tumorgen --help`."""

from __future__ import annotations

import functools
import re
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from tumorgen_cli import __version__
from tumorgen_cli.cli import data, downstream, nnunet, pairs, run, scores, sharing, submit, training
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import did_you_mean

HELP_NAMES = {"help_option_names": ["-h", "--help"]}
_PIPELINE, _USE, _MODELS, _STUDIES = "The pipeline", "Pairs and nnU-Net", "Models to share", "Studies"

app = typer.Typer(
    no_args_is_help=True,
    context_settings=HELP_NAMES,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Learn tumors from a small annotated 3D data set, and paint new ones, image and mask, into healthy scans.",
)


class _Command(TyperCommand):
    """A command that suggests the nearest choice for a misspelled one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            found = re.fullmatch(r"Value error, '(.*)' is not one of ('.*')\.", error.message)
            if found:
                hint = did_you_mean(found[1], re.findall("'([^']*)'", found[2]), most=1)
                error.message = f"{error.message.removeprefix('Value error, ')} {hint[:1].upper()}{hint[1:]}".rstrip()
            raise


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


_command = functools.partial(app.command, cls=_Command)
_command(rich_help_panel=_PIPELINE)(run.demo)
_command(rich_help_panel=_PIPELINE)(run.run)
_command(rich_help_panel=_PIPELINE)(data.plan)
_command(rich_help_panel=_PIPELINE)(data.presets)
_command(rich_help_panel=_PIPELINE)(data.preprocess)
_command(rich_help_panel=_PIPELINE)(training.train)
_command(rich_help_panel=_PIPELINE)(pairs.synthesize)
_command(rich_help_panel=_PIPELINE)(scores.evaluate)
_command(rich_help_panel=_PIPELINE)(submit.submit)
_command(rich_help_panel=_PIPELINE)(data.status)
_command("filter", rich_help_panel=_USE)(pairs.filter_pairs)
_command(rich_help_panel=_USE)(nnunet.merge)
_command("nnunet-setup", rich_help_panel=_USE)(nnunet.nnunet_setup)
_command(rich_help_panel=_MODELS)(sharing.export)
_command(rich_help_panel=_MODELS)(sharing.install)
_command(rich_help_panel=_MODELS)(sharing.models)
_command(rich_help_panel=_STUDIES)(scores.compare)
_command(rich_help_panel=_STUDIES)(downstream.downstream)
reader_study = typer.Typer(no_args_is_help=True, help="A blind study: do readers tell real from synthetic lesions?")
reader_study.command("make", cls=_Command)(scores.make_study)
reader_study.command("score", cls=_Command)(scores.score_study)
app.add_typer(reader_study, name="reader-study", rich_help_panel=_STUDIES)
