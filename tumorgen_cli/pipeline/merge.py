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


def merge_sets(
    workspace: Workspace,
    real: str,
    sets: Sequence[Path],
    out: Path,
    folds: int = 1,
    oversample: int = 1,
    preprocessed: Path | None = None,
) -> Merge:
    """Write one nnU-Net raw data set of real cases and synthetic sets, with folds that no pair leaks into.

    `splits_final.json` is also written to nnU-Net's preprocessed folder, if that is given or known.

    Args:
        workspace: Where sets are found by name.
        real: The real data set: a path, or an id or name under `$nnUNet_raw`.
        sets: Synthetic sets: folders, or names in the workspace.
        out: Folder of the new data set. A name alone goes to the user's `nnUNet_raw`, else to the workspace's.
        folds: 1 for one fold whose validation cases no set has learned from; more for the data set's own folds, or
            nnU-Net's.
        oversample: How many times a real case stands in the training list of a fold.
        preprocessed: nnU-Net's preprocessed folder. None: `$nnUNet_preprocessed`.
    """
    from tumorgen_cli.nnunet.runner import user_folders
    from tumorgen_cli.synthesis.merge import plan_merge, write_merge

    named = [
        folder if folder.is_dir() or not workspace.synthetic(folder.name).is_dir() else workspace.synthetic(folder.name)
        for folder in sets
    ]
    if out.name == str(out):
        out = user_folders(workspace.root)["nnUNet_raw"] / out
    known = os.environ.get("nnUNet_preprocessed")
    made = plan_merge(
        find_dataset(real), named, out.absolute(), folds, oversample, preprocessed or (Path(known) if known else None)
    )
    with locked(made.out, "merge"), console.progress("merging", made.steps) as tick:
        write_merge(made, tick)
    return made
