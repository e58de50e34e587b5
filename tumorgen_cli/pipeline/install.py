"""Stages `install` and `models`: a model's zip file -> an installed model; the list of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tumorgen_cli.sharing.installed import install_model, installed_models, read_record
from tumorgen_cli.sharing.record import CARD, ModelRecord
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import TumorgenError


@dataclass(frozen=True)
class Installed:
    """An installed model: its folder, its card and its record."""

    folder: str
    card: str
    record: ModelRecord


def install(path: Path, name: str | None = None) -> Installed:
    """Install a model from a file; see `sharing.installed.install_model`."""
    folder, record = install_model(path, name)
    return Installed(str(folder), str(folder / CARD), record)


def list_models() -> tuple[Installed, ...]:
    """The installed models; a damaged one is named in a warning and left out."""
    found = []
    for folder in installed_models().values():
        try:
            found.append(Installed(str(folder), str(folder / CARD), read_record(folder)))
        except TumorgenError as error:
            console.warn(f"{error.message}: {error.faults[0]}")
    return tuple(found)
