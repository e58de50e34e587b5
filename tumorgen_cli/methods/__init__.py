"""The methods, by name. One file each; they never import each other."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from tumorgen_cli.errors import PlanError
from tumorgen_cli.files import unknown_name

if TYPE_CHECKING:
    from tumorgen_cli.methods.method import Method

_CLASSES = {
    "tumorgen": "TumorGen",
    "difftumor": "DiffTumor",
    "freetumor": "FreeTumor",
    "blended": "Blended",
    "syntumor": "SynTumor",
    "copypaste": "CopyPaste",
}
METHODS = tuple(_CLASSES)


def method_of_stage(stage: str) -> str:
    """The first method that has a stage of this name; tumorgen where none has."""
    return next((name for name in METHODS if stage in find_method(name).stages), METHODS[0])


def find_method(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        PlanError: no such method.
    """
    if name not in _CLASSES:
        raise PlanError("No such method", [unknown_name("--method", name, METHODS)])
    found: type[Method] = getattr(import_module(f"tumorgen_cli.methods.{name}"), _CLASSES[name])
    return found
