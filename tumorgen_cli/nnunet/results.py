"""nnU-Net's results folder: its files, and the cases that an nnU-Net there has learned from.

Imports neither torch nor nnunetv2.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tumorgen_cli.system.json_records import from_plain, read_fields

#: remedy for a judge with damaged files
COPY_AGAIN = "copy the folder again, or train the judge again"
FINAL, LATEST, BEST = "checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth"


@dataclass(frozen=True)
class LearnedCases:
    """The cases that a judge is known to have learned from, by their names in a data set; empty if nothing is known."""

    dataset: str
    cases: tuple[str, ...]


def read_learned_cases(folder: Path) -> LearnedCases:
    """Read which cases the judge in a folder has learned from.

    The judge.json says it if TumorGen trained the judge. Otherwise it follows from the cases that nnU-Net's folds have
    validated on: a fold has learned from the validation cases of the other folds, and `fold_all` from all of them. Of a
    single fold without the others nothing is known.
    """
    path = folder / "judge.json"
    if path.is_file():
        remedy = "run `tumorgen train judge --restart`"
        found = read_fields(path, remedy)
        named = {"dataset": found.get("dataset", ""), "cases": found.get("cases", [])}
        return from_plain(LearnedCases, named, str(path), remedy)
    root = results_root(folder)
    if not all((root / name).is_file() for name in ("plans.json", "dataset.json")):
        return LearnedCases("", ())
    remedy = COPY_AGAIN
    ending = str(read_fields(root / "dataset.json", remedy).get("file_ending", ".nii.gz"))
    validated = {
        fold.name: {file.name.removesuffix(ending) for file in fold.glob(f"validation/*{ending}")}
        for fold in root.glob("fold_*")
    }
    known = set().union(*validated.values())
    used = [folder.name] if folder != root else [name for name in validated if (root / name / FINAL).is_file()]
    learned = set().union(
        *(known - (validated[name] if name != "fold_all" else set()) for name in used if validated.get(name))
    )
    name = str(read_fields(root / "plans.json", remedy).get("dataset_name", ""))
    return LearnedCases(name, tuple(sorted(learned)))


def results_root(folder: Path) -> Path:
    """Return nnU-Net's results folder of a judge; `folder` may also be one of its folds."""
    return folder.parent if (folder / FINAL).is_file() else folder
