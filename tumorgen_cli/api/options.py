"""The records of options that the API takes, and how it reads paths. Imports no torch."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from tumorgen_cli.data.phantom.options import PhantomOptions
from tumorgen_cli.evaluation.design import Design
from tumorgen_cli.evaluation.options import ScoreOptions
from tumorgen_cli.geometry import Box
from tumorgen_cli.pipeline.hints import DEFAULT_WORK
from tumorgen_cli.planning.options import PlanOptions
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.sharing.options import ExportOptions
from tumorgen_cli.synthesis.options import HostOptions, OnTheFlyOptions, QualityOptions

__all__ = [
    "Box",
    "Design",
    "ExportOptions",
    "HostOptions",
    "OnTheFlyOptions",
    "PhantomOptions",
    "PlanOptions",
    "QualityOptions",
    "ScoreOptions",
]

Options = TypeVar("Options", HostOptions, QualityOptions, ScoreOptions)

#: a path, also as text
StrPath = str | Path
#: the folder of a workspace, where none is given
WORK = str(DEFAULT_WORK)
#: fields of the option records that hold a path
_PATH_FIELDS = ("healthy", "roi", "host_labels", "aim", "judge", "inception")


def open_workspace(work: StrPath) -> Workspace:
    """The workspace in a folder, which need not exist yet."""
    return Workspace(Path(work).resolve())


def optional_path(path: StrPath | None) -> Path | None:
    """A path, or None for none."""
    return None if path is None else Path(path)


def with_paths(options: Options) -> Options:
    """Option records with a `Path` wherever a path was given as text."""
    names = [field.name for field in fields(options) if field.name in _PATH_FIELDS]
    paths: dict[str, Any] = {name: optional_path(getattr(options, name)) for name in names}
    return replace(options, **paths)
