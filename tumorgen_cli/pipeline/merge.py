"""Stage `merge`: real cases and synthetic sets -> one nnU-Net raw data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tumorgen_cli.data.dataset import find_dataset
from tumorgen_cli.pipeline.sets import find_set
from tumorgen_cli.planning.planned_data import read_planned_dataset
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import Fault, StateError, gather_faults
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
    copy: bool = False,
) -> Merge:
    """Write one nnU-Net raw data set of real cases and synthetic sets, with folds that no pair leaks into.

    `splits_final.json` is also written to nnU-Net's preprocessed folder, if that is given or known. Folds keep the
    scans of a patient together where patients are known: by `patients.csv` of the data set, else by the workspace, if
    it was planned on the data set.

    Args:
        workspace: Where sets are found by name.
        real: The real data set: a path, or an id or name under `$nnUNet_raw`.
        sets: Synthetic sets: folders, or names in the workspace.
        out: Folder of the new data set. A name alone goes to the user's `nnUNet_raw`, else to the workspace's.
        folds: 1 for one fold whose validation cases no set has learned from; more for the data set's own folds, or
            nnU-Net's.
        oversample: How many times a real case stands in the training list of a fold.
        preprocessed: nnU-Net's preprocessed folder. None: `$nnUNet_preprocessed`.
        copy: Whether images are copied. Labels always are.

    Raises:
        StateError: there is no such data set or set, or `out` holds something else.
        DataError: everything that is wrong with the data sets, their names, the folds or `out`.
    """
    from tumorgen_cli.nnunet.runner import user_folders
    from tumorgen_cli.synthesis.merge import plan_merge, write_merge

    faults: list[Fault] = []
    dataset = gather_faults(faults, lambda: find_dataset(real))
    named = [gather_faults(faults, partial(find_set, workspace, folder)) for folder in sets]
    if faults or dataset is None:
        raise StateError("There is nothing to merge", faults)
    planned = workspace.plan_file.is_file() and Path((plan := workspace.plan()).dataset_path) == dataset
    if planned:
        read_planned_dataset(workspace, plan)
    folders = user_folders(workspace.root)
    if out.name == str(out):
        out = folders["nnUNet_raw"] / out
    given = os.environ.get("nnUNet_preprocessed")
    preprocessed = preprocessed or (Path(given) if given else None)
    known = [folder for folder in named if folder is not None]
    others, splits = list(folders.values()), workspace.splits() if planned else None
    made = plan_merge(dataset, known, out.absolute(), folds, oversample, preprocessed, others, splits)
    with locked(made.out, "merge"), console.progress("merging", made.steps) as tick:
        write_merge(made, tick, copy)
    linked = any(path.is_symlink() for path in (made.out / "imagesTr").iterdir())
    how = "images are links to the originals, which must stay where they are (--copy copies them)"
    console.note(f"labels are copies and may be edited; {how if linked else 'images are copies, too'}")
    return made
