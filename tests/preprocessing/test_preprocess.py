"""Cases on the working grid: resumable, the same from one process or two, and no tumor is lost."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tumorgen_cli.data import workers
from tumorgen_cli.data.dataset import read_dataset
from tumorgen_cli.data.volumes import working_grid, write_volume
from tumorgen_cli.geometry import Grid
from tumorgen_cli.planning.fingerprint import CaseFacts
from tumorgen_cli.preprocessing import cases
from tumorgen_cli.preprocessing import preprocess as pre
from tumorgen_cli.preprocessing.cases import load_case
from tumorgen_cli.system.devices import available_memory_gib, usable_cores
from tumorgen_cli.system.errors import StateError


@pytest.fixture
def jobs(workspace):
    dataset = read_dataset(Path(workspace.plan().dataset_path))
    return [(case, dataset.image_files(case), dataset.label_file(case)) for case in dataset.cases]


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_case_is_the_scan_on_the_working_grid(workspace, phantoms):
    dataset, plan = read_dataset(phantoms.dataset), workspace.plan()
    for facts in workspace.fingerprint().cases:
        case = load_case(workspace.cases / facts.case)
        onto = working_grid(facts.grid, plan.window.spacing_mm)
        assert case.record.shape == onto.shape
        assert case.record.spacing_mm == plan.window.spacing_mm
        np.testing.assert_allclose(case.record.limits, [(c.low, c.high) for c in plan.channels], rtol=1e-6)
        volume = (case.tumors > 0).sum() * onto.voxel_ml
        assert volume == pytest.approx(sum(t.volume_ml for t in facts.tumors), rel=0.35)
        for component, tumor in zip(case.record.components, facts.tumors, strict=False):
            place = np.array(component.box.center) / onto.shape
            np.testing.assert_allclose(place, tumor.center, atol=0.05)  # the same place in the body
    assert dataset.cases == tuple(sorted(p.name for p in workspace.cases.iterdir()))


def test_what_is_done_is_not_redone(workspace, jobs, tmp_path):
    folder = tmp_path / "cases"
    shutil.copytree(workspace.cases, folder)
    before = content(folder)
    stamps = {p: p.stat().st_mtime_ns for p in folder.rglob("*.npy")}
    said = []
    assert pre.preprocess(workspace.plan(), jobs, folder, 0, lambda done, name: said.append((done, name))) == 0
    assert said == [(6, "")]
    victim, half = jobs[2][0], jobs[4][0]
    shutil.rmtree(folder / victim)
    (folder / half / "case.json").unlink()  # killed before its manifest
    (folder / half / "image.npy").write_bytes(b"half a file")
    assert pre.preprocess(workspace.plan(), jobs, folder, 0, lambda done, name: said.append((done, name))) == 2
    assert said[1:] == [(4, ""), (5, victim), (6, half)]
    assert content(folder) == before
    assert {p.parent.name for p, stamp in stamps.items() if p.stat().st_mtime_ns != stamp} == {victim, half}


@pytest.mark.parametrize("name", ["image.npy", "tumors.npy", "case.json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_case_is_refused_and_the_remedy_makes_it_again(workspace, jobs, tmp_path, name, damage):
    folder = tmp_path / "cases"
    shutil.copytree(workspace.cases, folder)
    before, path = content(folder), folder / jobs[1][0] / name
    load_case(path.parent)  # what was loaded once is not used when the files have changed since
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :]
    path.write_bytes({"flipped": flipped, "cut": whole[:middle], "gone": b""}[damage])
    if damage == "gone":
        path.unlink()
    with pytest.raises(StateError, match="run `tumorgen preprocess`, for scans without labels with --healthy DIR"):
        load_case(path.parent)
    assert pre.preprocess(workspace.plan(), jobs, folder, 0, lambda *_: None) == 1
    assert content(folder) == before
    assert load_case(path.parent).record.case == jobs[1][0]


def test_arrays_older_than_their_record_are_not_read_whole(workspace, jobs, tmp_path, monkeypatch):
    shutil.copytree(workspace.cases / jobs[0][0], tmp_path / "case")
    hashed = []
    monkeypatch.setattr(cases, "check_hash", lambda path, *_: hashed.append(path.name))
    image = tmp_path / "case" / "image.npy"
    load_case(tmp_path / "case")
    assert hashed == []
    stamp = image.stat()
    image.touch()
    load_case(tmp_path / "case")
    assert hashed == ["image.npy"]
    image.write_bytes(image.read_bytes()[:-5])
    os.utime(image, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(StateError, match="tumorgen preprocess"):
        load_case(tmp_path / "case")


def test_a_case_of_another_plan_is_redone(workspace, jobs, tmp_path):
    folder = tmp_path / "cases"
    shutil.copytree(workspace.cases, folder)
    path = folder / jobs[0][0] / "case.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "inputs_hash": "older"}))
    assert pre.preprocess(workspace.plan(), jobs, folder, 0, lambda *_: None) == 1
    assert content(folder) == content(workspace.cases)


def test_two_workers_write_what_none_writes(workspace, jobs, tmp_path):
    assert pre.preprocess(workspace.plan(), jobs, tmp_path, 2, lambda *_: None) == 6
    assert content(tmp_path) == content(workspace.cases)


def killed(plan, case, images, label, folder):
    os._exit(9)


@pytest.mark.slow
def test_a_killed_worker_is_told(workspace, jobs, tmp_path, monkeypatch):
    monkeypatch.setattr(pre, "preprocess_case", killed)
    with pytest.raises(StateError, match="use --workers 1; what is done is kept"):
        pre.preprocess(workspace.plan(), jobs, tmp_path, 2, lambda *_: None)


def test_a_tumor_of_one_fine_voxel_survives(workspace, tmp_path):
    """Far below half of a working voxel: it keeps its brightest voxel, at its place."""
    grid = Grid((60, 60, 60), (1.0, 1.0, 1.0))
    image = np.random.default_rng(0).normal(5, 1, grid.shape).astype(np.float32)
    label = np.zeros(grid.shape, np.uint8)
    label[40, 20, 30] = 1
    write_volume(tmp_path / "a_0000.nii.gz", image, grid)
    write_volume(tmp_path / "a.nii.gz", label, grid)
    plan = workspace.plan()
    pre.preprocess_case(plan, "a", (tmp_path / "a_0000.nii.gz",), tmp_path / "a.nii.gz", tmp_path / "a")
    case = load_case(tmp_path / "a")
    assert len(case.record.components) == 1
    center = np.array(case.record.components[0].box.center) * plan.window.spacing_mm
    np.testing.assert_allclose(center, (40.5, 20.5, 30.5), atol=max(plan.window.spacing_mm))
    write_volume(tmp_path / "a.nii.gz", np.zeros(grid.shape, np.uint8), grid)
    pre.preprocess_case(plan, "b", (tmp_path / "a_0000.nii.gz",), tmp_path / "a.nii.gz", tmp_path / "b")
    assert load_case(tmp_path / "b").record.components == ()  # and where there was none, none appears


def test_components():
    mask = np.zeros((40, 20, 20), bool)
    mask[1:3, 1:3, 1:3] = True  # 8 voxels
    mask[10:20, 5:10, 5:10] = True  # 250
    mask[20, 10, 10] = True  # touches its corner: the same tumor
    mask[35, 5, 5:8] = True  # a crumb
    numbers, found = pre.find_components(mask, (16, 16, 16))
    assert [c.box.shape for c in found] == [(11, 6, 6), (2, 2, 2)]
    assert [(numbers == c.number).sum() for c in found] == [251, 8]
    assert ((numbers > 0) == mask).all()
    assert [c.fits for c in found] == [True, True]
    assert [c.fits for c in pre.find_components(mask, (8, 16, 16))[1]] == [False, True]
    assert len(pre.find_components(mask[30:], (16, 16, 16))[1]) == 1  # the only tumor is kept, however small


def test_more_components_than_a_byte_holds():
    mask = np.zeros((28, 28, 28), bool)
    starts = range(0, 28, 4)
    for x in starts:
        for y in starts:
            for z in starts:
                mask[x : x + 2, y : y + 2, z : z + 2] = True
    numbers, found = pre.find_components(mask, (16, 16, 16))
    assert len(found) == 343
    for component in found:
        inside = np.argwhere(numbers == component.number)
        assert (inside.min(0).tolist(), (inside.max(0) + 1).tolist()) == (
            list(component.box.start),
            list(component.box.stop),
        )


def test_workers_fit_the_memory():
    small = CaseFacts("a", Grid((10, 10, 10), (1.0, 1.0, 1.0)), ())
    vast = CaseFacts("b", Grid((100_000, 1000, 1000), (1.0, 1.0, 1.0)), ())
    assert 1 <= workers.choose_preprocessing_workers([small.grid], 1) <= usable_cores()
    assert workers.choose_preprocessing_workers([small.grid, vast.grid], 1) == 1
    assert workers.choose_preprocessing_workers([], 1) >= 1
    assert available_memory_gib() > 0
