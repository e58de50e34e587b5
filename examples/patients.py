"""The nnU-Nets of `downstream`, by groups of patients, and with predictions cut to an organ. Nothing is trained.

    python examples/patients.py -w WORK --groups FILE -o OUT.csv
    python examples/patients.py -w WORK --roi DIR -o OUT.csv

- `--groups`: a CSV file with a column `case` and one column for each way to group, such as `sex` or `age`; every
  held-out case has a line. Each group is a part of the table (DiffTumor, Figure 4). Write ages as ranges: 50-60.
- `--roi`: a folder of masks, one per held-out case, named as its label. Predictions outside are removed, then scored
  again (DiffTumor and FreeTumor remove tumors outside their organ). The scores before stand beside them.

Both can be given. Gains are those over real cases alone, within the group, with intervals over patients. A group of few
patients has a wide interval, or none.
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
from tumorgen_cli.evaluation.gains import TrainedNnunet
from tumorgen_cli.evaluation.reports.gain_tables import arm_label, cases_text
from tumorgen_cli.evaluation.scan_scores import REAL, ScanScore
from tumorgen_cli.evaluation.trials import ArmScores, analyze
from tumorgen_cli.evaluation.verdicts import interval_text
from tumorgen_cli.metrics.lesions import score_lesions
from tumorgen_cli.metrics.overlap import compare_masks
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.planned_data import read_planned_dataset
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.studies.downstream_runs import PREDICTIONS
from tumorgen_cli.system import console
from tumorgen_cli.system.json_records import read_record

COLUMNS = (
    "predictions",
    "patients of",
    "scans",
    "real cases",
    "arm",
    "DSC [95 % interval]",
    "gain",
    "NSD",
    "touched",
    "lesion DSC",
    "FP per scan",
)
ALL = "all"


def read_runs(workspace: Workspace, segmentor: str = "") -> dict[Path, TrainedNnunet]:
    """The scored trainings of `downstream` by their folder; those that were set aside are left out.

    Args:
        workspace: The workspace.
        segmentor: The folder of another segmentor's results below `downstream`; empty for nnU-Net's own network.
    """
    paths = sorted((workspace.root / "downstream" / segmentor).glob("nnunet/*/runs/*/run.json"))
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


def cut_scan(plan: Plan, dataset: Dataset, folder: Path, roi: Path, scan: ScanScore) -> ScanScore:
    """Score the prediction of a case without what lies outside its region.

    Its probabilities are not kept, so that scores of components are 1.

    Raises:
        typer.BadParameter: The mask is missing, or lies on another grid than the label.
    """
    labels, grid = read_volume(dataset.label_file(scan.scan))
    found, _ = read_volume(folder / PREDICTIONS / f"{scan.scan}{plan.file_ending}")
    path = roi / f"{scan.scan}{plan.file_ending}"
    if not path.is_file():
        raise typer.BadParameter(f"{path}: no such mask", param_hint="--roi")
    region, region_grid = read_volume(path)
    if not same_geometry(grid, region_grid):
        raise typer.BadParameter(f"{path}: not on the grid of {dataset.label_file(scan.scan)}", param_hint="--roi")
    inside, truth = (found > 0) & (region > 0), mask_of(labels, plan.tumor_label)
    verdict = compare_masks(truth, inside, grid.spacing_mm, plan.tolerance_mm)
    lesions, spurious = score_lesions(inside, inside * 1.0, truth, grid.spacing_mm)
    dsc, nsd = (value if lesions else None for value in (verdict.dice, verdict.surface_dice))
    return replace(scan, dsc=dsc, nsd=nsd, lesions=lesions, false_positives=spurious)


def group_rows(title: str, scans: Sequence[ScanScore], groups: Mapping[str, set[str]]) -> list[tuple[str, ...]]:
    """The rows of all patients and of each group; `title` says what the predictions are."""
    everyone = {scan.scan for scan in scans}
    rows = []
    for name, cases in {ALL: everyone, **groups}.items():
        found = analyze([scan for scan in scans if scan.scan in cases])
        for note in found.silent:
            console.warn(f"{title}, {name}: {note}")
        gains = {
            (each.what.arm, each.what.cases, each.what.hosts): each.over_patients
            for each in found.exploratory
            if (each.what.against, each.what.measure) == (REAL, "dsc")
        }
        for arm in found.arms:
            gain = gains.get((arm.arm, arm.cases, arm.hosts))
            values = [mean(arm, measure) for measure in ("nsd", "touched", "lesion_dsc", "false_positives")]
            dsc = f"{mean(arm, 'dsc')} {interval_text('dsc', arm.measures['dsc'].over_patients)}"
            shown = "–" if gain is None else f"{gain.value:.3f} {interval_text('dsc', gain)}"
            label = arm_label(arm.arm, arm.hosts)
            rows.append((title, name, str(len(cases)), cases_text(arm.cases), label, dsc, shown, *values))
    return rows


def mean(arm: ArmScores, measure: str) -> str:
    """The mean of a measure of an arm."""
    return f"{arm.measures[measure].over_subsets.value:.3f}" if measure in arm.measures else "–"


def main(
    work: Annotated[Path, typer.Option("-w", "--work", help="A workspace in which `downstream` has run.")],
    groups: Annotated[Path | None, typer.Option(help="A CSV file: case, and a column for each grouping.")] = None,
    roi: Annotated[Path | None, typer.Option(help="Folder of masks, one per held-out case.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write the table to this CSV file, too.")] = None,
    segmentor: Annotated[str, typer.Option(help="Folder of another segmentor in WORK/downstream: swinunetr.")] = "",
) -> None:
    """Print the scores of every arm for groups of patients, or with cut predictions."""
    if groups is None and roi is None:
        raise typer.BadParameter("give --groups FILE, --roi DIR, or both")
    workspace = Workspace(work.resolve())
    runs = read_runs(workspace, segmentor)
    scans = [scan for run in runs.values() for scan in run.scans]
    cases = sorted({scan.scan for scan in scans})
    found = read_groups(groups, cases) if groups else {}
    rows = group_rows("as they are", scans, found)
    if roi is not None:
        plan = workspace.plan()
        dataset = read_planned_dataset(workspace, plan)
        cut = [cut_scan(plan, dataset, folder, roi, scan) for folder, run in runs.items() for scan in run.scans]
        rows += group_rows("cut to the organ", cut, found)
    if out is not None:
        with out.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *rows])
    console.table(f"{len(cases)} held-out scans", COLUMNS, rows)
    print(origin_and_command())


if __name__ == "__main__":
    typer.run(main)
