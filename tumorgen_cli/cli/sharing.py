"""The commands by which models travel: export, install, models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from tumorgen_cli import api
from tumorgen_cli.cli.commands import command, planned_command
from tumorgen_cli.cli.options import Device, Json, MethodOption, Work
from tumorgen_cli.pipeline.hints import DEFAULT_WORK, command_line, quote
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import say_count

_Name = Annotated[Optional[str], typer.Option("--name", help="Name of the model. Default: that of the file.")]


@planned_command
def export(
    path: Annotated[Path, typer.Argument(metavar="MODEL.zip", help="The file to write.")],
    method: MethodOption = "tumorgen",
    name: _Name = None,
    purpose: Annotated[
        Optional[str], typer.Option("--purpose", help="What it is for, a sentence. Default: from the plan.")
    ] = None,
    license_name: Annotated[
        Optional[str], typer.Option("--license", help="License under which it is given. Default: not stated.")
    ] = None,
    donor_masks: Annotated[
        bool,
        typer.Option("--donor-masks", metavar="", help="Give the masks of training tumors to methods that need them."),
    ] = False,
    case_names: Annotated[
        bool,
        typer.Option(
            "--case-names",
            metavar="",
            help="Name the training cases: for public data sets, so that nobody tests on what was learned.",
        ),
    ] = False,
    work: Work = DEFAULT_WORK,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Write a trained method as one file: weights, plan and a card, without scans or values of single patients."""
    options = api.ExportOptions(name, purpose, license_name, donor_masks, case_names)
    made = api.export_model(path, method, options, work=work, device=device)
    if as_json:
        console.print_json(made)
    else:
        record = made.record
        cases = say_count(record.data.cases, "case")
        rows = [
            ("file", f"{made.path}, {console.size(made.bytes)}"),
            (
                "learned from",
                f"{cases}, {say_count(record.data.tumors, 'tumor')}; {record.data.held_out} held out",
            ),
            ("membership test", record.membership.words if record.membership else "not done for this method and split"),
            *[
                (f"scores of {each.name}", f"{say_count(each.pairs, 'pair')}, {say_count(len(each.figures), 'figure')}")
                for each in record.sets
            ],
            ("license", record.license),
        ]
        console.table(f"Model {record.name}", ("what", "value"), rows)
        for text in record.holds:
            console.note(f"it holds: {text}")
    console.next_command(f"tumorgen install {quote(path)}")


@command
def install(
    path: Annotated[Path, typer.Argument(metavar="MODEL.zip", help="The file that `tumorgen export` wrote.")],
    name: Annotated[
        Optional[str], typer.Option("--name", help="Name of the model here. Default: the one that it has.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a model and install it for `synthesize --model`; no code of it is run."""
    found = api.install_model(path, name)
    if as_json:
        console.print_json(found)
    else:
        console.note(found.record.purpose)
        console.note(f"card: {found.card}; license: {found.record.license}")
    console.next_command(command_line(f"synthesize --model {quote(found.record.name)} --healthy DIR", DEFAULT_WORK))


@command
def models(as_json: Json = False) -> None:
    """List the installed models, and what each is for."""
    found = api.models()
    if as_json:
        console.print_json(found)
    elif found:
        rows = [
            (
                each.record.name,
                each.record.method,
                f"{each.record.tumor} in {', '.join(each.record.channels)}",
                f"{say_count(each.record.data.cases, 'case')} of {each.record.data.dataset}",
                each.record.license,
                each.record.purpose,
            )
            for each in found
        ]
        console.table("Installed models", ("name", "method", "paints", "learned from", "license", "purpose"), rows)
    else:
        console.note("no model is installed")
    name = quote(found[0].record.name) if found else ""
    console.next_command(f"tumorgen synthesize --model {name} --healthy DIR" if found else "tumorgen install MODEL.zip")
