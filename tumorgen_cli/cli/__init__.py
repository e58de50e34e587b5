"""The command line: parses options, calls the API, prints, names the next command. Imports nothing heavy."""

from tumorgen_cli.cli.main import app

__all__ = ["app"]
