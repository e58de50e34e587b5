"""Scores of `downstream` by groups of patients, and of predictions that are cut to an organ."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import typer
from support.scan_rows import row

from tumorgen_cli.data.labels import mask_of
from tumorgen_cli.data.volumes import read_volume, write_volume
from tumorgen_cli.evaluation.gains import TrainedNnunet
from tumorgen_cli.metrics.lesions import score_lesions
from tumorgen_cli.metrics.overlap import compare_masks
from tumorgen_cli.planning.planned_data import read_planned_dataset
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system.json_records import write_json


@pytest.fixture(scope="module")
def patients(example):
    return example("patients")


@pytest.fixture
def scored(workspace, tmp_path):
    """Two nnU-Nets: `real` misses each tumor; `copypaste` finds it, and marks as much in a corner without tumor."""
    root, plan, splits = tmp_path / "work", workspace.plan(), workspace.splits()
    work = Workspace(root)
    root.mkdir()
    for file in (workspace.plan_file, workspace.fingerprint_file, workspace.splits_file):
        (root / file.name).write_bytes(file.read_bytes())
    dataset = read_planned_dataset(workspace, plan)
    for arm in ("real", "copypaste"):
        folder = root / "downstream" / "nnunet" / "real_4" / "runs" / f"{arm}_seed0"
        scores = []
        for case in splits.test:
            labels, grid = read_volume(dataset.label_file(case))
            truth = mask_of(labels, plan.tumor_label)
            found = np.zeros_like(truth)
            if arm == "copypaste":
                found = truth.copy()
                found[:3, :3, :3] = True
            assert not truth[:6, :6, :6].any()
            path = folder / "predictions" / f"{case}{plan.file_ending}"
            write_volume(path, found, grid, like=dataset.image_files(case)[0])
            region = truth.copy()
            write_volume(tmp_path / "organ" / path.name, region, grid, like=dataset.image_files(case)[0])
            dice = compare_masks(truth, found, grid.spacing_mm, plan.tolerance_mm).dice
            lesions, spurious = score_lesions(found, found * 0.9, truth, grid.spacing_mm)
            score = row(case, arm, dsc=dice, lesions=lesions, cases=4)
            scores.append(replace(score, false_positives=spurious))
        write_json(folder / "run.json", TrainedNnunet(arm, 4, 0, 0, 1.0, 1000, 1.0, "0" * 6, tuple(scores)))
        aside = folder.with_name(f"{folder.name}_0a1b2c")
        aside.mkdir()
        (aside / "run.json").write_text("{}")  # what other inputs gave
    return work, splits.test, tmp_path / "organ"


def table(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_groups_are_scored_apart(patients, scored, tmp_path):
    work, cases, _ = scored
    sheet = tmp_path / "groups.csv"
    lines = ["case,sex,age", *(f"{case},{'fm'[i % 2]},50-60" for i, case in enumerate(cases)), "another,x,10-20"]
    sheet.write_text("\n".join(lines) + "\n")
    patients.main(work.root, sheet, None, tmp_path / "out.csv")
    rows = table(tmp_path / "out.csv")
    groups = ["all", *[f"sex {value}" for value in "fm"[: len(cases)]], "age 50-60"]
    assert list(dict.fromkeys(line["patients of"] for line in rows)) == groups
    assert [line["arm"] for line in rows] == ["copypaste", "real"] * len(groups)
    sizes = {line["patients of"]: int(line["scans"]) for line in rows}
    assert sizes["all"] == sizes["age 50-60"] == len(cases)
    assert sizes["sex f"] == (len(cases) + 1) // 2
    real = next(line for line in rows if line["arm"] == "real")
    assert float(real["DSC [95 % interval]"].split()[0]) == 0


def test_predictions_are_cut_to_the_organ(patients, scored, tmp_path):
    work, _, organ = scored
    patients.main(work.root, None, organ, tmp_path / "out.csv")
    before, after = (
        next(line for line in table(tmp_path / "out.csv") if (line["predictions"], line["arm"]) == (which, "copypaste"))
        for which in ("as they are", "cut to the organ")
    )
    assert float(before["FP per scan"]) == 1
    assert float(after["FP per scan"]) == 0
    assert float(after["DSC [95 % interval]"].split()[0]) == 1 > float(before["DSC [95 % interval]"].split()[0])


def test_wrong_files_are_named(patients, scored, tmp_path):
    work, cases, organ = scored
    sheet = tmp_path / "groups.csv"
    sheet.write_text("case,sex\nanother,f\n")
    with pytest.raises(typer.BadParameter, match=f"add a line for {cases[0]}"):
        patients.main(work.root, sheet)
    sheet.write_text("patient,sex\na,f\n")
    with pytest.raises(typer.BadParameter, match="needs a column `case`"):
        patients.main(work.root, sheet)
    with pytest.raises(typer.BadParameter, match="--groups FILE, --roi DIR"):
        patients.main(work.root)
    next(organ.iterdir()).unlink()
    with pytest.raises(typer.BadParameter, match="no such mask"):
        patients.main(work.root, None, organ)
    with pytest.raises(typer.BadParameter, match="run `tumorgen downstream`"):
        patients.main(tmp_path, None, organ)
