"""Changes of the planned data set are seen by every command, at the same size too, and untouched files are not read."""

import os
import shutil

import pytest
from support.workspaces import plan_toy

from tumorgen_cli.data import contents
from tumorgen_cli.data.volumes import read_volume, write_volume
from tumorgen_cli.pipeline.evaluate import evaluate_sets
from tumorgen_cli.pipeline.merge import merge_sets
from tumorgen_cli.pipeline.status import workspace_status
from tumorgen_cli.planning.planned_data import read_planned_dataset
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis.provenance import PAIR_FORMAT
from tumorgen_cli.system.errors import StateError
from tumorgen_cli.system.files import write_text
from tumorgen_cli.system.json_records import write_json

IMAGE, LABEL = "imagesTr/Phantom_002_0000.nii.gz", "labelsTr/Phantom_003.nii.gz"


@pytest.fixture
def planned(phantoms, tmp_path):
    shutil.copytree(phantoms.dataset, tmp_path / phantoms.dataset.name)
    plan_toy(Workspace(tmp_path / "w"), str(tmp_path / phantoms.dataset.name))
    return Workspace(tmp_path / "w"), tmp_path / phantoms.dataset.name


@pytest.fixture
def hashed(monkeypatch):
    """The names of the files that are hashed."""
    names, hash_file = [], contents.hash_file
    monkeypatch.setattr(contents, "hash_file", lambda path: names.append(path.name) or hash_file(path))
    return names


def flip(path, keep_time=False):
    """Change the content of a file but not its size."""
    content, before = bytearray(path.read_bytes()), path.stat()
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + (not keep_time)))


def fault_of(workspace):
    with pytest.raises(StateError, match="The data set has changed") as caught:
        read_planned_dataset(workspace, workspace.plan())
    (fault,) = caught.value.faults
    return fault


@pytest.mark.parametrize("name", [IMAGE, LABEL])
def test_a_file_that_changes_at_the_same_size_is_named(planned, name):
    workspace, folder = planned
    flip(folder / name)
    fault = fault_of(workspace)
    assert fault.found == f"1 file changed since planning: {name}"
    assert fault.remedy == f"put the files back, or run `tumorgen plan {folder} -w {workspace.root}`"
    flip(folder / name)  # put back
    assert len(read_planned_dataset(workspace, workspace.plan()).cases) == 6


def test_lost_and_new_files_and_another_description(planned):
    workspace, folder = planned
    (folder / LABEL).rename(folder / "label")
    assert fault_of(workspace).found == f"1 file changed since planning: {LABEL}"
    (folder / "label").rename(folder / LABEL)
    description = (folder / "dataset.json").read_text()
    (folder / "dataset.json").write_text(description.replace('"tumor"', '"lesion_tumor"'))
    with pytest.raises(Exception, match="lesion_tumor"):
        read_planned_dataset(workspace, workspace.plan())


def test_untouched_files_are_not_read_and_touched_ones_once(planned, hashed):
    workspace, folder = planned
    read_planned_dataset(workspace, workspace.plan())
    assert hashed == []
    os.utime(folder / IMAGE, (1, 1))
    for _ in range(2):
        read_planned_dataset(workspace, workspace.plan())
    assert hashed == [os.path.basename(IMAGE)]  # noqa: PTH119  (a name, not a path)


def test_the_rule_is_size_and_time_and_deleting_the_record_compares_all(planned):
    workspace, folder = planned
    flip(folder / IMAGE, keep_time=True)
    read_planned_dataset(workspace, workspace.plan())
    workspace.contents_file.unlink()
    assert fault_of(workspace).found == "changed since planning"


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}'])
def test_a_damaged_record_is_made_again(planned, content):
    workspace, _ = planned
    before = workspace.contents_file.read_text()
    workspace.contents_file.write_text(content)
    read_planned_dataset(workspace, workspace.plan())
    assert workspace.contents_file.read_text() == before


def test_a_data_set_that_moved_is_planned_at_its_new_path(planned):
    workspace, folder = planned
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(StateError, match="not where it was") as error:
        read_planned_dataset(workspace, workspace.plan())
    said = f"put it back, or run `tumorgen plan DATASET -w {workspace.root}"
    assert error.value.faults[0].remedy == f"{said}` with its path now: files that are the same make nothing stale"
    before = workspace.plan().hash
    (folder.parent / "moved").mkdir()
    moved = folder.with_name("elsewhere").rename(folder.parent / "moved" / folder.name)
    plan_toy(workspace, str(moved))
    assert len(read_planned_dataset(workspace, workspace.plan()).cases) == 6
    assert workspace.plan().hash == before
    moved.rename(folder)
    plan_toy(workspace, str(folder))
    assert workspace.plan().hash == before


@pytest.mark.parametrize("content", ["{", "[1]", '{"train": [3], "path": 3}'])
@pytest.mark.parametrize("name", ["fingerprint.json", "splits.json"])
def test_a_damaged_file_is_deleted_before_planning_again(planned, name, content):
    """To plan again, the remedy of other commands, would end at the same file."""
    workspace, folder = planned
    before = workspace.plan().hash
    (workspace.root / name).write_text(content)
    with pytest.raises(StateError) as error:
        plan_toy(workspace, str(folder))
    assert {fault.remedy for fault in error.value.faults} == {"delete it and plan again"}
    (workspace.root / name).unlink()
    plan_toy(workspace, str(folder))
    assert workspace.plan().hash == before


def test_planning_again_is_the_remedy(planned):
    workspace, folder = planned
    voxels, grid = read_volume(folder / IMAGE)
    write_volume(folder / IMAGE, voxels * 2, grid)
    fault_of(workspace)
    plan_toy(workspace, str(folder))
    read_planned_dataset(workspace, workspace.plan())


def test_every_command_that_reads_the_data_set_asks(planned, tmp_path):
    workspace, folder = planned
    flip(folder / IMAGE)
    write_json(tmp_path / "set" / "dataset.json", {})
    write_json(tmp_path / "set" / "set.json", {"format": PAIR_FORMAT})
    write_text(tmp_path / "set" / "provenance.jsonl", "")
    for command in (
        lambda: evaluate_sets(workspace, [tmp_path / "set"]),
        lambda: merge_sets(workspace, str(folder), [tmp_path / "set"], tmp_path / "Dataset600_Merged"),
    ):
        with pytest.raises(StateError, match="The data set has changed"):
            command()
    step = workspace_status(workspace)[0]
    assert (step.name, step.state) == ("plan", "outdated")
    assert IMAGE in step.detail
