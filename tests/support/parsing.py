"""Whether a command line parses, without running it."""

from collections.abc import Sequence
from typing import Any


def parse_fault(command: Any, name: str, words: Sequence[str], *, may_exit: bool = False) -> str:
    """What click says against the words of a command or of its subcommand; empty if they parse.

    A path that does not exist is no fault, because documentation names files of its readers. With `may_exit` an option
    that prints and exits, as --help does, is none either.
    """
    try:
        context = command.make_context(name, list(words))
        while hasattr(context.command, "commands"):
            own, found, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
            context = found.make_context(own, rest, parent=context)
    except Exception as error:  # noqa: BLE001  (newer typer has its own copy of click)
        said = error.format_message() if hasattr(error, "format_message") else repr(error)
        exits = may_exit and type(error).__name__ == "Exit"
        return "" if exits or "does not exist" in said else said
    return ""
