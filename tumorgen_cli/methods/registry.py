"""All methods by name. A method's module, and torch with it, is imported only when the method is requested."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tumorgen_cli.system.errors import PlanError
from tumorgen_cli.system.json_records import unknown_name_fault

if TYPE_CHECKING:
    from tumorgen_cli.methods.base import Method

METHODS = (
    "tumorgen",
    "difftumor",
    "freetumor",
    "blended",
    "maskfirst",
    "syntumor",
    "pixel2cancer",
    "copypaste",
    "unconditional",
)


def find_method(name: str) -> type[Method]:  # noqa: PLR0911  (one for each method)
    """The class of a method.

    Raises:
        PlanError: There is no such method.
    """
    match name:
        case "tumorgen":
            from tumorgen_cli.methods.tumorgen.method import TumorGen

            return TumorGen
        case "difftumor":
            from tumorgen_cli.methods.difftumor.method import DiffTumor

            return DiffTumor
        case "freetumor":
            from tumorgen_cli.methods.freetumor.method import FreeTumor

            return FreeTumor
        case "syntumor":
            from tumorgen_cli.methods.syntumor import SynTumor

            return SynTumor
        case "pixel2cancer":
            from tumorgen_cli.methods.pixel2cancer.method import Pixel2Cancer

            return Pixel2Cancer
        case "copypaste":
            from tumorgen_cli.methods.copypaste import CopyPaste

            return CopyPaste
        case "blended":
            from tumorgen_cli.methods.blended import Blended

            return Blended
        case "maskfirst":
            from tumorgen_cli.methods.maskfirst.method import MaskFirst

            return MaskFirst
        case "unconditional":
            from tumorgen_cli.methods.unconditional import Unconditional

            return Unconditional
    raise PlanError("No such method", [unknown_name_fault("--method", name, METHODS)])


def method_of_stage(stage: str) -> str:
    """The first method that has a stage of this name; `tumorgen` if none has."""
    return next((name for name in METHODS if stage in find_method(name).stages), METHODS[0])
