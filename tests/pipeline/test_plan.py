"""Stage `plan`: its summary, its doubts with remedies that work, and data sets and workspaces that were moved."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.workspaces import plan_toy

from tumorgen_cli.data.channels import modality
from tumorgen_cli.data.phantom import Phantoms
from tumorgen_cli.geometry import Box
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.pipeline import plan_summary
from tumorgen_cli.pipeline.plan import plan_dataset, read_planned
from tumorgen_cli.pipeline.plan_summary import Planned, plan_rows, summarize_plan
from tumorgen_cli.pipeline.preprocess import forecast_preprocessing, preprocess_dataset
from tumorgen_cli.planning import rules
from tumorgen_cli.planning.fields import plan_fields
from tumorgen_cli.planning.options import PlanOptions
from tumorgen_cli.planning.plan import VAE_DOWNSAMPLING
from tumorgen_cli.planning.planned_data import read_planned_dataset
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system.errors import PlanError, StateError


@pytest.fixture
def copy(phantoms: Phantoms, tmp_path: Path) -> Path:
    """A copy of the data set."""
    return Path(shutil.copytree(phantoms.dataset, tmp_path / "before" / phantoms.dataset.name))


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed since the last call, as one line."""
    output = capsys.readouterr()
    return " ".join((output.out + output.err).split())


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_summary_has_ten_rows_with_fields_that_exist(workspace: Workspace) -> None:
    planned = read_planned(workspace)
    rows = {name: (what, fields) for name, what, fields in summarize_plan(planned, 7300.0)}
    assert len(rows) == 10
    assert rows["cases"][0] == "5 to train, 1 held out: every fifth case"
    assert rows["lesions"][0].startswith("9 of tumor, 8 to train; 3.96 to 14, median ")
    assert rows["channels"][0].startswith("PET (PET, uptake) from 0 to ")
    assert rows["window"][0].startswith("32×32×32 voxels of ")
    assert "latent cells" in rows["median tumor"][0]
    assert rows["training"][0] == (
        "tumorgen: vae 4, flow 3, refiner 2 steps, about 2.0 h on this machine when idle, give or take a factor of two"
    )
    assert "MiB of preprocessed cases" in rows["disk"][0]
    assert rows["memory"][0] == "8 GiB, cpu, fp32"
    known = plan_fields(1, {"tumorgen": find_method("tumorgen").section})
    named = [
        field for _, fields in rows.values() for field in fields.split(", ") if not field.startswith(("--", "..."))
    ]
    assert {*named} <= {*known}
    assert {row[0] for row in plan_rows(planned.plan)} >= {*known}  # the long table has names that --set takes, too


def test_tumors_larger_than_the_window_get_a_remedy_that_works(phantoms: Phantoms, tmp_path: Path, capsys) -> None:
    found = Workspace(tmp_path / "work")
    small = ("window.spacing_mm=[1.0,1.0,1.0]", "window.shape=[32,32,32]")
    plan_dataset(found, str(phantoms.dataset), PlanOptions(memory_gib=8.0, settings=small), "cpu", 0)
    text = told(capsys)
    assert "training tumors are larger than the window of 32×32×32 mm" in text
    settings = text.split("holds them all, plan with ")[1].split()
    asked = [settings[i + 1] for i, word in enumerate(settings) if word == "--set"]
    assert [each.split("=")[0] for each in asked][-1] == "window.shape"
    kept = () if len(asked) == 2 else small[:1]
    plan_dataset(found, str(phantoms.dataset), PlanOptions(memory_gib=8.0, settings=(*kept, *asked)), "cpu", 0)
    assert "larger than the window" not in told(capsys)
    preprocess_dataset(found, 0)
    records = [json.loads(path.read_text()) for path in found.cases.glob("*/case.json")]
    assert all(component["fits"] for record in records for component in record["components"])


@pytest.mark.parametrize("given", [(), (f"{VAE_DOWNSAMPLING}=4", "methods.tumorgen.vae.widths=[8,16,32]")])
def test_narrow_tumors_get_a_remedy_that_works(
    phantoms: Phantoms, tmp_path: Path, capsys, given: tuple[str, ...]
) -> None:
    """Tumors of 2 to 4 cm on a grid of 8 mm, whose cells are 3 cm wide."""
    found, coarse = Workspace(tmp_path / "work"), ("window.spacing_mm=[8,8,8]", "window.shape=[48,48,48]", *given)
    planned = plan_dataset(found, str(phantoms.dataset), PlanOptions(memory_gib=8.0, settings=coarse), "cpu", 0)
    text, before = told(capsys), widths_in_cells(planned)
    assert f"the median tumor is only {before:.1f} latent cells wide" in text
    words = text.split("in a smaller window: plan with ")[1].split()
    asked = [words[i + 1] for i, word in enumerate(words) if word == "--set" and i % 2 == 0]
    settings = PlanOptions(memory_gib=8.0, settings=(*coarse, *asked))
    planned = plan_dataset(found, str(phantoms.dataset), settings, "cpu", 0)
    assert "latent cells wide" not in told(capsys)
    assert planned.plan.methods["tumorgen"]["vae"]["downsampling"] == 2
    voxel = max(rules.median_spacing(planned.fingerprint))
    assert widths_in_cells(planned) >= before * 4 / 2 * 8 / voxel * 0.99


def widths_in_cells(planned: Planned) -> float:
    """The latent cells that a median tumor is wide, on its tightest axis."""
    plan, tumors = planned.plan, planned.fingerprint.of(planned.splits.train).tumors
    cells = [plan.methods["tumorgen"]["vae"]["downsampling"] * s for s in plan.window.spacing_mm]
    return rules.tumor_sizes(tumors).widths(tuple(cells))[0]


def test_a_much_larger_tumor_asks_for_a_coarser_grid(workspace: Workspace, capsys) -> None:
    planned = read_planned(workspace)
    first, *others = planned.fingerprint.cases
    huge = replace(first.tumors[0], extent_mm=(900.0, 900.0, 900.0), box=Box((0, 0, 0), (1, 1, 1)))
    facts = replace(planned.fingerprint, cases=(replace(first, tumors=(huge,)), *others))
    plan_summary.warn_of_doubts(Planned(planned.plan, facts, planned.splits))
    text = told(capsys).split("training tumors are larger than")[1]  # others are narrow, which is told before
    assert "--set window.spacing_mm=[" in text
    spacing, shape = (json.loads(text.split(f"window.{name}=")[1].split()[0]) for name in ("spacing_mm", "shape"))
    assert all(n * s >= 900 for n, s in zip(shape, spacing, strict=True))
    assert shape[0] * shape[1] * shape[2] <= 2**18


def test_an_unknown_channel_name_is_told(copy: Path, tmp_path: Path, capsys) -> None:
    found, about = Workspace(tmp_path / "work"), copy / "dataset.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "channel_names": {"0": "image"}}))
    plan_toy(found, str(copy))
    assert "channel image: an unknown name, taken for MR or similar" in told(capsys)
    about.write_text(json.dumps({**json.loads(about.read_text()), "channel_names": {"0": "PET"}}))  # the remedy
    plan_toy(found, str(copy))
    assert "unknown name" not in told(capsys)
    assert modality(found.plan().channels[0].name).kind == "PET"


def test_a_wrong_setting_is_told_before_the_data_set_is_read(copy: Path, tmp_path: Path) -> None:
    for path in (copy / "imagesTr").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(PlanError) as caught:
        plan_dataset(
            Workspace(tmp_path / "work"), str(copy), PlanOptions(settings=("draws=3", "paste.draws=0")), "cpu", 0
        )
    assert [fault.where for fault in caught.value.faults] == ["--set draws", "--set paste.draws"]
    assert not (tmp_path / "work").exists()


def test_a_moved_data_set_is_known_by_its_content(copy: Path, tmp_path: Path, capsys) -> None:
    found, after = Workspace(tmp_path / "work"), tmp_path / "after" / "Dataset998_Renamed"
    plan_toy(found, str(copy))
    before = found.plan()
    preprocess_dataset(found, 0)
    shutil.move(copy, after)
    with pytest.raises(StateError, match="not where it was") as caught:
        read_planned_dataset(found, before)
    assert f"tumorgen plan DATASET -w {found.root}" in caught.value.faults[0].remedy
    told(capsys)
    plan_toy(found, str(after))  # the remedy
    assert "the workspace follows it" in told(capsys)
    assert (found.plan().dataset_path, found.plan().dataset) == (str(after), after.name)
    assert read_planned_dataset(found, found.plan()).path == after
    assert preprocess_dataset(found, 0) == 0  # nothing is stale


def test_another_data_set_is_refused_and_one_that_moved_and_changed_is_not(
    copy: Path, phantoms: Phantoms, tmp_path
) -> None:
    found = Workspace(tmp_path / "work")
    plan_toy(found, str(phantoms.dataset))
    (copy / "labelsTr" / "Phantom_000.nii.gz").unlink()
    (copy / "imagesTr" / "Phantom_000_0000.nii.gz").unlink()
    with pytest.raises(StateError, match="belongs to another data set"):
        plan_toy(found, str(copy))
    other = Workspace(tmp_path / "other")
    moved = shutil.copytree(phantoms.dataset, tmp_path / "first" / phantoms.dataset.name)
    plan_toy(other, str(moved))
    shutil.rmtree(moved)
    plan_toy(other, str(copy))
    assert len(other.fingerprint().cases) == 5


def test_a_moved_workspace_goes_on(workspace: Workspace, tmp_path: Path) -> None:
    moved = Workspace(Path(shutil.copytree(workspace.root, tmp_path / "moved")))
    assert preprocess_dataset(moved, 0) == 0
    assert moved.plan() == workspace.plan()


def test_a_dry_run_writes_nothing_and_says_what_would_change(
    workspace: Workspace, phantoms: Phantoms, tmp_path, capsys
) -> None:
    options = PlanOptions(memory_gib=8.0, settings=("window.shape=[48,48,48]",))
    empty = Workspace(tmp_path / "work")
    assert plan_dataset(empty, str(phantoms.dataset), options, "cpu", 0, dry_run=True).plan.window.shape == (48, 48, 48)
    assert not empty.root.exists()
    before = snapshot(workspace.root)
    plan_dataset(workspace, str(phantoms.dataset), options, "cpu", 0, dry_run=True)
    assert "window.shape: 32×32×32 -> 48×48×48" in told(capsys)
    assert snapshot(workspace.root) == before


def test_a_fingerprint_of_another_version_is_made_again(copy: Path, tmp_path: Path, capsys) -> None:
    found = Workspace(tmp_path / "work")
    plan_toy(found, str(copy))
    plain = json.loads(found.fingerprint_file.read_text())
    found.fingerprint_file.write_text(json.dumps({**plain, "minimum": 0}))
    plan_toy(found, str(copy))
    assert "measured again" in told(capsys)
    assert found.fingerprint().path == str(copy)


def test_preprocessing_is_forecast(workspace: Workspace, phantoms: Phantoms, tmp_path: Path, capsys) -> None:
    found = Workspace(tmp_path / "work")
    plan_toy(found, str(phantoms.dataset))
    before = snapshot(found.root)
    forecast = forecast_preprocessing(found, phantoms.healthy, workers=0)
    assert snapshot(found.root) == before
    assert (forecast.scans, forecast.seconds > 0) == (8, True)
    assert "8 scans to preprocess: about " in str(forecast)
    preprocess_dataset(found, 0)
    written = sum(path.stat().st_size for path in found.cases.rglob("*.npy"))
    assert forecast_preprocessing(workspace).scans == 0
    assert forecast.disk_bytes * 6 / 8 == pytest.approx(written, rel=0.1)
