"""Stage `merge`: real cases and synthetic sets -> one nnU-Net raw data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tumorgen_cli.data.dataset import find_dataset
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system import console
from tumorgen_cli.system.locks import locked

if TYPE_CHECKING:
    from tumorgen_cli.synthesis.merge import Merge


def merge(
    workspace: Workspace,
    real: str,
    synthetic: Sequence[Path],
    out: Path,
    folds: int = 1,
    oversample: int = 1,
    preprocessed: Path | None = None,
) -> Merge:
    """One nnU-Net raw data set of real cases and synthetic sets, with folds that no pair leaks into.

    `out` without a folder is a name in nnUNet_raw, the user's or the workspace's. Its splits_final.json goes into nnU-Net's
    preprocessed folder, too, where that is given or known.
    """
    from tumorgen_cli.nnunet.runner import users_folders
    from tumorgen_cli.synthesis.merge import plan_merge, write_merge

    named = [
        folder if folder.is_dir() or not workspace.synthetic(folder.name).is_dir() else workspace.synthetic(folder.name)
        for folder in synthetic
    ]
    if out.name == str(out):
        out = users_folders(workspace.root)["nnUNet_raw"] / out
    known = os.environ.get("nnUNet_preprocessed")
    made = plan_merge(
        find_dataset(real), named, out.absolute(), folds, oversample, preprocessed or (Path(known) if known else None)
    )
    with locked(made.out, "merge"), console.progress("merging", made.steps) as tick:
        write_merge(made, tick)
    return made
