"""Models as files, as functions: export, install, list."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tumorgen_cli.api.options import WORK, StrPath, open_workspace
from tumorgen_cli.sharing.options import ExportOptions

if TYPE_CHECKING:
    from tumorgen_cli.pipeline.export import Exported
    from tumorgen_cli.pipeline.install import Installed
    from tumorgen_cli.system.devices import DeviceName

__all__ = ["export_model", "install_model", "models"]


def export_model(
    path: StrPath,
    method: str = "tumorgen",
    options: ExportOptions = ExportOptions(),
    *,
    work: StrPath = WORK,
    device: DeviceName = "auto",
) -> Exported:
    """Write a trained method as one file: weights, plan, pooled facts and a card, without scans.

    Args:
        path: The zip file to write.
        method: The method.
        options: What is said of the model, and what of patients may go with it.
        work: The workspace in which the method was trained.
        device: Where the membership test computes.

    Raises:
        PlanError: a method that paints with scans, or masks that are not to be given.
        DataError: fewer than three training cases.
        StateError: a stage is not trained, or a file is in the way.

    Example:
        >>> from tumorgen_cli import api
        >>> made = api.export_model("phantoms.zip", work="tumorgen_demo", device="cpu")
        >>> made.record.method
        'tumorgen'
    """
    from tumorgen_cli.pipeline import export

    return export.export_model(open_workspace(work), method, Path(path), options, device)


def install_model(path: StrPath, name: str | None = None) -> Installed:
    """Check a model of anyone and install it for `synthesize(model=...)`; no code of it is run.

    Args:
        path: The zip file.
        name: Its name here. None: the one that it has.

    Raises:
        DataError: the file is no model, is damaged, or does not fit together.
        StateError: another model of this name is installed.

    Example:
        >>> from tumorgen_cli import api
        >>> made = api.export_model("to_install.zip", work="tumorgen_demo", device="cpu")
        >>> api.install_model(made.path).record.tumor
        'tumor'
    """
    from tumorgen_cli.pipeline import install

    return install.install(Path(path), name)


def models() -> tuple[Installed, ...]:
    """The installed models, in the order of their names.

    Example:
        >>> from tumorgen_cli import api
        >>> names = [each.record.name for each in api.models()]
    """
    from tumorgen_cli.pipeline.install import list_models

    return list_models()
