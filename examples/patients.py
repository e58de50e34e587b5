"""The nnU-Nets of `downstream`, by groups of patients, and with predictions cut to an organ. Nothing is trained.

    python examples/patients.py -w WORK --groups FILE -o OUT.csv
    python examples/patients.py -w WORK --roi DIR -o OUT.csv

- `--groups`: a CSV file with a column `case` and one column for each way to group, such as `sex` or `age`; every
  held-out case has a line. Each group is a part of the table (DiffTumor, Figure 4). Write ages as ranges: 50-60.
- `--roi`: a folder of masks, one per held-out case, named as its label. Predictions outside are removed, then scored
  again (DiffTumor and FreeTumor remove tumors outside their organ). The scores before stand beside them.

Both can be given. Gains are paired by patient with real cases alone, within the group. A group of few patients has a
wide interval.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from origin import origin_and_command

from tumorgen_cli.data.dataset import Dataset
from tumorgen_cli.data.labels import mask_of
from tumorgen_cli.data.volumes import read_volume, same_geometry
from tumorgen_cli.evaluation.gains import PatientScore, TrainedNnunet, score_patient, summarize_arms
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.planned_data import read_planned_dataset
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.studies.downstream_runs import PREDICTIONS
from tumorgen_cli.studies.downstream_tables import gain_rows
from tumorgen_cli.system import console
from tumorgen_cli.system.json_records import read_record

COLUMNS = (
    "predictions",
    "patients of",
    "patients",
    "real cases",
    "arm",
    "DSC [95 % interval]",
    "gain",
    "better / worse, p",
    "NSD",
    "found",
    "FP per scan",
)
ALL = "all"


def read_runs(workspace: Workspace) -> dict[Path, TrainedNnunet]:
    """The scored trainings of `downstream` by their folder; those that were set aside are left out."""
    paths = sorted(workspace.root.glob("downstream/nnunet/*/runs/*/run.json"))
    kept = [path for path in paths if re.search(r"_seed\d+$", path.parent.name)]
    if not kept:
        raise typer.BadParameter(f"{workspace.root} has no scored nnU-Net: run `tumorgen downstream`", param_hint="-w")
    return {path.parent: read_record(TrainedNnunet, path, "run `tumorgen downstream` again") for path in kept}


def read_groups(path: Path, cases: Sequence[str]) -> dict[str, set[str]]:
    """The cases of each group, by `column value`, in the order of the file's columns.

    Raises:
        typer.BadParameter: The file has no column `case`, no other one, or lacks a case.
    """
    with path.open(newline="", encoding="utf-8-sig") as stream:
        sheet = csv.DictReader(stream)
        columns, lines = [name for name in sheet.fieldnames or () if name != "case"], list(sheet)
    if not columns or "case" not in (sheet.fieldnames or ()):
        raise typer.BadParameter(f"{path}: needs a column `case` and one for each grouping", param_hint="--groups")
    known = {line["case"] for line in lines}
    if missing := [case for case in cases if case not in known]:
        raise typer.BadParameter(f"{path}: add a line for {', '.join(missing)}", param_hint="--groups")
    wanted = [line for line in lines if line["case"] in cases]
    values = {name: sorted({line[name] for line in wanted}) for name in columns}
    return {
        f"{name} {value}": {line["case"] for line in wanted if line[name] == value}
        for name in columns
        for value in values[name]
    }


def cut_patient(plan: Plan, dataset: Dataset, folder: Path, roi: Path, case: str) -> PatientScore:
    """Score the prediction of a case without what lies outside its region.

    Raises:
        typer.BadParameter: The mask is missing, or lies on another grid than the label.
    """
    labels, grid = read_volume(dataset.label_file(case))
    found, _ = read_volume(folder / PREDICTIONS / f"{case}{plan.file_ending}")
    path = roi / f"{case}{plan.file_ending}"
    if not path.is_file():
        raise typer.BadParameter(f"{path}: no such mask", param_hint="--roi")
    region, region_grid = read_volume(path)
    if not same_geometry(grid, region_grid):
        raise typer.BadParameter(f"{path}: not on the grid of {dataset.label_file(case)}", param_hint="--roi")
    inside = (found > 0) & (region > 0)
    return score_patient(case, inside, mask_of(labels, plan.tumor_label), grid.spacing_mm, plan.tolerance_mm)


def group_rows(title: str, runs: Sequence[TrainedNnunet], groups: Mapping[str, set[str]]) -> list[tuple[str, ...]]:
    """The rows of all patients and of each group; `title` says what the predictions are."""
    everyone = {patient.case for run in runs for patient in run.patients}
    rows = []
    for name, cases in {ALL: everyone, **groups}.items():
        parts = [replace(run, patients=tuple(p for p in run.patients if p.case in cases)) for run in runs]
        rows += [(title, name, str(len(cases)), *row) for row in gain_rows(summarize_arms(parts))]
    return rows


def main(
    work: Annotated[Path, typer.Option("-w", "--work", help="A workspace in which `downstream` has run.")],
    groups: Annotated[Path | None, typer.Option(help="A CSV file: case, and a column for each grouping.")] = None,
    roi: Annotated[Path | None, typer.Option(help="Folder of masks, one per held-out case.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write the table to this CSV file, too.")] = None,
) -> None:
    """Print the scores of every arm for groups of patients, or with cut predictions."""
    if groups is None and roi is None:
        raise typer.BadParameter("give --groups FILE, --roi DIR, or both")
    workspace = Workspace(work.resolve())
    runs = read_runs(workspace)
    cases = sorted({patient.case for run in runs.values() for patient in run.patients})
    found = read_groups(groups, cases) if groups else {}
    rows = group_rows("as they are", list(runs.values()), found)
    if roi is not None:
        plan = workspace.plan()
        dataset = read_planned_dataset(workspace, plan)
        cut = [
            replace(run, patients=tuple(cut_patient(plan, dataset, folder, roi, p.case) for p in run.patients))
            for folder, run in runs.items()
        ]
        rows += group_rows("cut to the organ", cut, found)
    if out is not None:
        with out.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *rows])
    console.table(f"{len(cases)} held-out patients", COLUMNS, rows)
    print(origin_and_command())


if __name__ == "__main__":
    typer.run(main)
