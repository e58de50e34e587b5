"""MkDocs hook: writes the pages of the reference that follow from the code, so that they cannot go stale.

`reference/commands.md` lists every command of the Typer app. `reference/plan.md` tabulates every field of a plan of the
demo's phantoms, for a CPU and for a GPU, with the rule of each field, and shows the presets.
"""

from __future__ import annotations

import functools
import tempfile
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mkdocs.config.defaults import MkDocsConfig

PROGRAM = "tumorgen"
PHANTOM_CASES = 10
COMMON_FIELDS = "Data set, window and pasting"
TYPE_WORDS = {int: "whole number", float: "number", str: "text", Path: "path", bool: "flag"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages to the site."""
    files.append(File.generated(config, "reference/commands.md", content=commands_page()))
    files.append(File.generated(config, "reference/plan.md", content=plan_page()))
    return files


@functools.cache  # `mkdocs serve` builds often; code that has changed needs a new start
def commands_page() -> str:
    """Markdown of every command with its arguments and options."""
    import typer

    from tumorgen_cli.cli import app

    lines = [
        "# Commands",
        "",
        f"This page is generated from the code. Each command explains itself: `{PROGRAM} COMMAND --help`, or `-h`.",
        f"`{PROGRAM} --version` prints the version. `{PROGRAM} --install-completion` adds completion to your shell.",
        "",
        "Commands print progress and notes on stderr and results on stdout. A command ends by naming the next one.",
        "An error that you can correct ends with exit code 1 and no traceback. Unknown options and choices end with 2.",
        "A command that you stop with Ctrl-C ends with 130, one that SIGTERM stops (`kill`, SLURM) with 143. The same",
        "command continues from there.",
        "",
        "Every command takes `-q` to print only what matters, and `-v` to print details. What it prints is also in",
        "a file in `logs/` of its workspace: see [how to follow a training](../how-to/follow-a-training.md).",
        "",
    ]
    found = list(_leaves(typer.main.get_command(app), PROGRAM))
    lines += ["| command | what it does |", "|---|---|"]
    lines += [f"| [`{name}`](#{_anchor(name)}) | {_cell(_first_paragraph(each.help))} |" for name, each in found]
    for name, each in found:
        lines += ["", f"## `{name}` {{#{_anchor(name)}}}", "", *_command_lines(name, each)]
    return "\n".join(lines) + "\n"


def _leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command below a group, with its full name; a group that also runs by itself is one of them."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    if getattr(command, "invoke_without_command", False) and name != PROGRAM:
        yield name, command
    for word, each in inner.items():
        if not each.hidden:
            yield from _leaves(each, f"{name} {word}")


def _command_lines(name: str, command: Any) -> list[str]:
    """The body of a command's section."""
    from typer.utils import get_params_from_function

    annotations = {key: meta.annotation for key, meta in get_params_from_function(command.callback).items()}
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and not each.hidden]
    usage = " ".join([name, *map(_metavar, arguments), *["[OPTIONS]"] * bool(options)])
    lines = [command.help or "", "", "```console", f"$ {usage}", "```"]
    if arguments:
        lines += ["", "| argument | type | required | what |", "|---|---|---|---|"]
    for each in arguments:
        cells = (
            f"`{_metavar(each)}`",
            _type_words(annotations[each.name], each),
            "yes" if each.required else "no",
            _cell(each.help),
        )
        lines.append(f"| {' | '.join(cells)} |")
    if options:
        lines += ["", "| option | type or choices | default | what |", "|---|---|---|---|"]
    for each in options:
        names = ", ".join(f"`{option}`" for option in (*each.opts, *each.secondary_opts))
        cells = (names, _type_words(annotations[each.name], each), _default_words(each), _cell(each.help))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _metavar(parameter: Any) -> str:
    """An argument as it stands in the usage line."""
    name = (parameter.metavar or parameter.name).upper()
    several = parameter.nargs == -1 or parameter.multiple
    return f"{name}{'...' * several}" if parameter.required else f"[{name}{' ...' * several}]"


def _type_words(annotation: Any, parameter: Any) -> str:
    """What a value may be, in words: choices, or the type with its bounds."""
    annotation, several = _bare(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(f"`{choice}`" for choice in typing.get_args(annotation))
    if getattr(parameter, "is_flag", False):
        return "flag"
    words = TYPE_WORDS.get(annotation, getattr(annotation, "__name__", "value"))
    for side, told in (("min", "at least"), ("max", "at most")):
        bound = getattr(parameter, side, None)
        if isinstance(bound, (int, float)):
            words += f", {told} {bound:g}"
    return words + " (repeatable)" * several


def _bare(annotation: Any) -> tuple[Any, bool]:
    """An annotation without Annotated, Optional and list, and whether it was a list."""
    several = False
    while True:
        origin = typing.get_origin(annotation)
        if origin is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        elif origin in (typing.Union, types.UnionType):
            annotation = next(each for each in typing.get_args(annotation) if each is not type(None))
        elif origin in (list, tuple):
            annotation, several = typing.get_args(annotation)[0], True
        else:
            return annotation, several


def _default_words(parameter: Any) -> str:
    """A default as it stands in the table."""
    value = parameter.default
    if parameter.required:
        return "required"
    if getattr(parameter, "is_flag", False):
        return "on" if value is True else "off"
    if value is None or value in ([], ()) or callable(value):
        return "–"
    return f"`{value}`"


def _anchor(name: str) -> str:
    return name.replace(" ", "-")


def _first_paragraph(text: str | None) -> str:
    return (text or "").strip().split("\n\n")[0]


@functools.cache
def plan_page() -> str:
    """Markdown of every field of a plan, with value and rule, and of the presets."""
    cpu, gpu = _phantom_decisions()
    ranges = _ranges()
    lines = [
        "# Plan fields and presets",
        "",
        "This page is generated from the code.",
        f"It shows two plans of the demo's phantoms ({PHANTOM_CASES} cases of one PET channel):",
        "one for a CPU with 8 GiB, one for a GPU with 24 GiB. The same rules give other numbers for your data.",
        f"`{PROGRAM} plan --show` prints this table for your data, and `plan.json` holds it.",
        "",
        "Change a field with `--set FIELD=VALUE`, for example `--set methods.tumorgen.sampling.steps=50`.",
        "[How the plan decides](../explanation/plan.md) explains the order of rules, presets and `--set`.",
        "",
    ]
    groups: dict[str, list[tuple[Any, Any]]] = {}
    for one, other in zip(cpu, gpu, strict=True):
        if one.field != other.field:
            raise ValueError(f"the plans differ in their fields: {one.field}, {other.field}")
        groups.setdefault(_group(one.field), []).append((one, other))
    for title, rows in groups.items():
        lines += [f"## {title}", "", "| field | CPU, 8 GiB | GPU, 24 GiB | range | rule | inputs of the CPU plan |"]
        lines += ["|---|---|---|---|---|---|", *(_field_row(one, other, ranges) for one, other in rows), ""]
    lines += [
        "## Presets",
        "",
        f"A preset sets some fields by name: `{PROGRAM} plan DATASET --preset NAME`. `{PROGRAM} presets` lists them.",
        "",
    ]
    for name, text in _presets():
        lines += [f"### `{name}`", "", "```yaml", text.rstrip("\n"), "```", ""]
    return "\n".join(lines)


def _phantom_decisions() -> tuple[Sequence[Any], Sequence[Any]]:
    """The decisions of the phantoms' plan for a CPU and for a GPU; both are computed, neither device is looked at."""
    from tumorgen_cli.data.dataset import read_dataset
    from tumorgen_cli.data.phantom import write_phantoms
    from tumorgen_cli.data.splits import split_cases
    from tumorgen_cli.methods.registry import METHODS, find_method
    from tumorgen_cli.planning.fingerprint import make_fingerprint
    from tumorgen_cli.planning.plan import make_plan
    from tumorgen_cli.system.devices import DeviceBudget

    with tempfile.TemporaryDirectory(prefix="tumorgen_docs_") as folder:
        dataset = write_phantoms(Path(folder), cases=PHANTOM_CASES, healthy=0, seed=0).dataset
        fingerprint = make_fingerprint(read_dataset(dataset), workers=0).fingerprint
    train, _ = split_cases([case.case for case in fingerprint.cases])
    sections = {name: find_method(name).plan_section for name in METHODS}
    budgets = (DeviceBudget("cpu", 8.0, 0.0), DeviceBudget("cuda", 24.0, 2.0))
    cpu, gpu = (make_plan(fingerprint, train, budget, sections).decisions for budget in budgets)
    return cpu, gpu


def _ranges() -> dict[str, str]:
    """What each field of a plan with one channel may be, in words."""
    from tumorgen_cli.methods.registry import METHODS, find_method
    from tumorgen_cli.planning.fields import plan_fields
    from tumorgen_cli.system.json_records import describe_type

    fields = plan_fields(1, {name: find_method(name).section for name in METHODS})
    return {field: describe_type(kind) for field, kind in fields.items()}


def _presets() -> list[tuple[str, str]]:
    """Name and YAML of every preset."""
    from tumorgen_cli.planning.presets import preset_names, preset_text

    return [(name, preset_text(name)) for name in preset_names()]


def _group(field: str) -> str:
    """The heading under which a field stands: a method's section, or that of what all methods share."""
    top, *inner = field.split(".")
    if top != "methods":
        return COMMON_FIELDS
    method, section, *rest = inner
    return f"{method}: {section}" if rest else f"{method}: general"


def _field_row(one: Any, other: Any, ranges: dict[str, str]) -> str:
    """A field of two plans as a row of the table."""
    rule = one.rule if one.rule == other.rule else f"{one.rule}; on the GPU: {other.rule}"
    inputs = ", ".join(f"{key} {_value(value)}" for key, value in one.inputs.items())
    allowed = ranges.get(one.field, "fixed")
    cells = (
        f"`{one.field}`",
        *(_cell(text) for text in (_value(one.value), _value(other.value), allowed, rule, inputs or "–")),
    )
    return f"| {' | '.join(cells)} |"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    return str(value)


def _cell(text: str | None) -> str:
    """A text as a cell of a Markdown table."""
    return " ".join((text or "").split()).replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")
