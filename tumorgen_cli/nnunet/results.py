"""nnU-Net's results folder: what is in it, and what an nnU-Net there has learnt from. Imports neither torch nor nnunetv2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tumorgen_cli.system.json_records import read_plain

FINAL, LATEST, BEST = "checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth"


@dataclass(frozen=True)
class Learnt:
    """The cases that a judge is known to have learnt from, by their names in a data set; none where nothing is known."""

    dataset: str
    cases: tuple[str, ...]


def read_learnt(folder: Path) -> Learnt:
    """What the judge in a folder has learnt from: by its judge.json, if it is one of ours; else by what nnU-Net's folds have validated on.

    A fold has learnt from what the others validate on, and `fold_all` from all of it; of one fold by itself nothing is known.
    """
    path = folder / "judge.json"
    if path.is_file():
        found = read_plain(path, "train the judge again")
        return Learnt(found.get("dataset", ""), tuple(found.get("cases", ())))
    root = results_root(folder)
    if not all((root / name).is_file() for name in ("plans.json", "dataset.json")):
        return Learnt("", ())
    ending = read_plain(root / "dataset.json", "copy it again").get("file_ending", ".nii.gz")
    validated = {
        fold.name: {file.name.removesuffix(ending) for file in fold.glob(f"validation/*{ending}")}
        for fold in root.glob("fold_*")
    }
    known = set().union(*validated.values())
    taken = [folder.name] if folder != root else [name for name in validated if (root / name / FINAL).is_file()]
    learnt = set().union(
        *(known - (validated[name] if name != "fold_all" else set()) for name in taken if validated.get(name))
    )
    return Learnt(read_plain(root / "plans.json", "copy it again").get("dataset_name", ""), tuple(sorted(learnt)))


def results_root(folder: Path) -> Path:
    """nnU-Net's results folder of a judge that may be given as one of its folds."""
    return folder.parent if (folder / FINAL).is_file() else folder
