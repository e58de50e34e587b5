"""Sets of pairs: resumable, reproducible, valid for nnU-Net, with every rejected draw counted."""

import contextlib
import io
import json
import math
import multiprocessing
import multiprocessing.pool
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from support.pairs import (
    PAIRS,
    Fake,
    Sees,
    beyond,
    box_of,
    first_tumors,
    paint,
    provenance,
    records,
    run_fake,
    run_jobs,
)
from support.threads import Threads

from tumorgen_cli.data.splits import Splits
from tumorgen_cli.data.volumes import hash_voxels, read_volume, resample, same_geometry, write_volume, writer_of
from tumorgen_cli.evaluation.cases import synthetic_cases
from tumorgen_cli.geometry import Box, Grid
from tumorgen_cli.judge.predictions import Predictions
from tumorgen_cli.judge.verdict import BESIDE, NOT_FOUND, PassRule
from tumorgen_cli.methods.base import Sampling
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.metrics.traits import hard_limit
from tumorgen_cli.nnunet.results import LearnedCases
from tumorgen_cli.pipeline import synthesize as pipeline_synthesize
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis import pair as pair_module
from tumorgen_cli.synthesis import places
from tumorgen_cli.synthesis import synthesize as synthesize_module
from tumorgen_cli.synthesis.draws import FAINT
from tumorgen_cli.synthesis.jobs import make_jobs
from tumorgen_cli.synthesis.options import HostOptions, SetOptions
from tumorgen_cli.synthesis.painter import find_turn
from tumorgen_cli.synthesis.pair import PairInputs, Quality, draw_pair, load_host
from tumorgen_cli.synthesis.paste import tumor_place
from tumorgen_cli.synthesis.scan import read_scan
from tumorgen_cli.synthesis.set_files import read_judges, read_learned_from, read_provenance, read_unlabeled_hosts
from tumorgen_cli.synthesis.set_pairs import write_pair
from tumorgen_cli.synthesis.shards import Shard
from tumorgen_cli.synthesis.sources import Source, healthy_sources, redraw_sources
from tumorgen_cli.synthesis.synthesize import synthesize_set
from tumorgen_cli.synthesis.window import lay_window, redraw_box, window_shape
from tumorgen_cli.system.errors import DataError, PlanError, StateError
from tumorgen_cli.system.files import hash_file
from tumorgen_cli.system.json_records import to_plain
from tumorgen_cli.tumors.boxes import draw_box, latent_box, latent_mask


@pytest.fixture(scope="module", params=["copypaste", "syntumor"])
def made(request, workspace, phantoms, tmp_path_factory):
    """(method, folder, report) of a finished set; read-only."""
    folder = tmp_path_factory.mktemp(request.param) / "Dataset321_Synthetic"
    return request.param, folder, paint(workspace, phantoms, folder, request.param, tumors=2)


def voxels(folder):
    return {p.name: read_volume(p)[0] for p in sorted(folder.glob("*Tr/*"))}


def same_voxels(a, b):
    one, two = voxels(a), voxels(b)
    return one.keys() == two.keys() and all(np.array_equal(one[k], two[k]) for k in one)


def test_pairs_are_whole(made, workspace, phantoms):
    method, folder, report = made
    plan = workspace.plan()
    lines = provenance(folder)
    assert to_plain(read_provenance(folder)) == lines
    assert sorted(r["case"] for r in lines) == [
        "Healthy_000_s0000",
        "Healthy_000_s0002",
        "Healthy_001_s0001",
        "Healthy_001_s0003",
    ]
    assert (report.tally.pairs, report.tally.made) == (PAIRS, PAIRS)
    for record in lines:
        image, grid = read_volume(folder / "imagesTr" / f"{record['case']}_0000.nii.gz")
        mask, mask_grid = read_volume(folder / "labelsTr" / f"{record['case']}.nii.gz")
        host, host_grid = read_volume(phantoms.healthy / record["host_file"][0])
        outside = beyond(mask.shape, [box_of(tumor["box"]) for tumor in record["tumors"]])
        assert same_geometry(grid, host_grid)
        assert same_geometry(mask_grid, host_grid)
        assert image.dtype == host.dtype
        np.testing.assert_array_equal(image[outside], host[outside])
        assert not np.array_equal(image, host)
        assert set(np.unique(mask)) == {0, plan.tumor_label}
        assert not mask[outside].any()
        for tumor in record["tumors"]:
            painted = mask[box_of(tumor["box"]).slices]
            assert tumor["volume_ml"] == pytest.approx(painted.sum() * grid.voxel_ml, rel=1e-3)
            assert tumor["volume_ml"] >= plan.paste.smallest_ml
        assert (record["method"], record["plan_hash"]) == (method, plan.hash)
        assert record["host_hash"] == hash_file(phantoms.healthy / record["host_file"][0])
        assert record["host_voxels"] == hash_voxels(host)
        assert record["seconds"]["total"] >= record["seconds"]["compute"] >= record["seconds"]["method"] >= 0
        spent = sum(tumor["seconds"] for tumor in record["tumors"])
        assert record["left_out"] or record["seconds"]["method"] == pytest.approx(spent, abs=1e-3)
        with Image.open(folder / "previews" / f"{record['case']}.png") as preview:
            assert min(preview.size) > 100


def test_dataset_json(made, workspace):
    _, folder, _ = made
    found = json.loads((folder / "dataset.json").read_text())
    assert found["channel_names"] == {"0": "PET"}
    assert found["labels"] == {"background": 0, "tumor": 1}
    assert found["numTraining"] == PAIRS == len(list((folder / "labelsTr").iterdir()))
    assert found["file_ending"] == ".nii.gz"


def test_nnunets_own_check_passes(made, monkeypatch):
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    _, folder, _ = made
    monkeypatch.setattr(multiprocessing, "get_context", lambda *_: Threads)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        verify_dataset_integrity(str(folder), 1)
    assert "verify_dataset_integrity Done" in said.getvalue()
    assert "Warning" not in said.getvalue()


def test_a_set_can_be_learnt_from_again(made, tmp_path):
    """What is written is a data set of ours, too."""
    from tumorgen_cli.data.dataset import read_dataset
    from tumorgen_cli.planning.fingerprint import make_fingerprint

    _, folder, _ = made
    assert len(make_fingerprint(read_dataset(folder), 0).fingerprint.cases) == PAIRS


def test_a_pair_without_its_line_is_made_again_and_no_other(made, workspace, phantoms, tmp_path):
    method, folder, _ = made
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    lines = (copy / "provenance.jsonl").read_text().splitlines(keepends=True)
    (copy / "provenance.jsonl").write_text("".join(lines[:-1]) + lines[-1][:40])  # killed while it wrote the line
    (copy / "dataset.json").unlink()
    last = json.loads(lines[-1])["case"]
    (copy / "imagesTr" / f"{last}_0000.nii.gz").write_bytes(b"half")
    stamps = {p: p.stat().st_mtime_ns for p in copy.glob("*Tr/*")}
    report = paint(workspace, phantoms, copy, method, tumors=2)
    assert report.tally.made == 1
    assert same_voxels(copy, folder)
    assert records(copy) == records(folder)
    assert {p.name for p, stamp in stamps.items() if p.stat().st_mtime_ns != stamp} == {
        f"{last}_0000.nii.gz",
        f"{last}.nii.gz",
    }
    again = paint(workspace, phantoms, copy, method, tumors=2)
    assert (again.tally.made, again.tally.pairs) == (0, PAIRS)


def test_a_host_that_has_changed_is_told(workspace, phantoms, tmp_path):
    """By its name it is the same; its pairs are listed, and nothing is painted."""
    hosts = replace(phantoms, healthy=tmp_path / "hosts")
    shutil.copytree(phantoms.healthy, hosts.healthy)
    paint(workspace, hosts, tmp_path / "out")
    assert paint(workspace, hosts, tmp_path / "out", pairs=PAIRS + 1).tally.made == 1
    changed = hosts.healthy / "Healthy_001_0000.nii.gz"
    image, grid = read_volume(changed)
    write_volume(changed, image * 2, grid)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/*Tr/*")}
    with pytest.raises(StateError, match="Hosts have changed") as error:
        paint(workspace, hosts, tmp_path / "out", pairs=PAIRS + 2)
    (fault,) = error.value.faults
    assert fault.where == str(changed)
    assert "Healthy_001_s0001, Healthy_001_s0003" in fault.found
    assert fault.remedy == f"put back the old scans, choose another --out, or delete {tmp_path / 'out'}"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/*Tr/*")} == before
    shutil.copy(phantoms.healthy / changed.name, changed)
    assert paint(workspace, hosts, tmp_path / "out", pairs=PAIRS + 2).tally.made == 1


def test_files_of_a_pair_do_not_depend_on_the_pairs_before(workspace, phantoms, tmp_path):
    """Slabs of a host are kept for its pairs; channels have their own, of their own data types, and so have labels."""
    plan, (first, _) = workspace.plan(), sorted(phantoms.healthy.iterdir())
    anywhere = replace(plan.paste, places="anywhere")  # what is around the phantoms' tumors was seen in one channel
    plan, files = replace(plan, channels=plan.channels * 2, paste=anywhere), (first, tmp_path / "h_0001.nii.gz")
    image, grid = read_volume(first)
    write_volume(files[1], np.rint(100 * image).astype(np.int16), grid, like=first)
    label = tmp_path / "h.nii.gz"
    write_volume(label, (image > 1).astype(np.float32), grid)
    inputs = PairInputs(Fake(plan, workspace), workspace.fingerprint().cases, Sampling())
    jobs = make_jobs([Source("h", files, label)], 3, 0)
    many, alone, (*_, last) = tmp_path / "many", tmp_path / "alone", jobs
    synthesize_set(inputs, jobs, many, {}, lambda done, note: None)
    host = load_host(inputs, last.source)
    pair = draw_pair(inputs, last, host)
    hashes = write_pair(plan, last, host, pair, alone)
    record = read_provenance(many)[-1]
    assert (record.case, record.files) == (last.case, hashes)
    assert record.writer == writer_of(".nii.gz") != ""
    for number, path in enumerate(sorted(alone.glob("imagesTr/*"))):
        assert path.read_bytes() == (many / "imagesTr" / path.name).read_bytes()
        voxels, _ = read_volume(path)
        assert voxels.dtype == (np.float32, np.int16)[number]
        np.testing.assert_array_equal(voxels, pair.scan.image[number].astype(voxels.dtype))
    np.testing.assert_array_equal(read_volume(many / "labelsTr" / f"{last.case}.nii.gz")[0], pair.scan.labels)


def test_a_host_whose_other_channel_has_changed_is_told(workspace, phantoms, tmp_path):
    """And finished pairs are counted while their hosts are read."""
    plan, (first, _) = workspace.plan(), sorted(phantoms.healthy.iterdir())
    anywhere = replace(plan.paste, places="anywhere")  # what is around the phantoms' tumors was seen in one channel
    plan, second, ticks = replace(plan, channels=plan.channels * 2, paste=anywhere), tmp_path / "h_0001.nii.gz", []
    shutil.copy(first, second)
    source = Source("h", (first, second))

    def run(pairs):
        inputs = PairInputs(Fake(plan, workspace), workspace.fingerprint().cases, Sampling())
        jobs = make_jobs([source], pairs, 0)
        return synthesize_set(inputs, jobs, tmp_path / "out", {"seed": 0}, lambda done, note: ticks.append(done))

    run(2)
    ticks.clear()
    assert run(3).made == 1
    assert ticks == [1, 2, 2, 3]
    image, grid = read_volume(second)
    write_volume(second, image * 2, grid)
    with pytest.raises(StateError, match="Hosts have changed") as error:
        run(4)
    assert error.value.faults[0].where == f"{first} and {second}"


def test_more_pairs_go_on_from_there(made, workspace, phantoms, tmp_path):
    """The first pairs of a longer set are those of the shorter one."""
    method, folder, _ = made
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    report = paint(workspace, phantoms, copy, method, pairs=PAIRS + 1, tumors=2)
    assert (report.tally.made, report.tally.pairs) == (1, PAIRS + 1)
    assert json.loads((copy / "dataset.json").read_text())["numTraining"] == PAIRS + 1
    long, short = voxels(copy), voxels(folder)
    assert all(np.array_equal(long[k], short[k]) for k in short)


def test_same_seed_same_bits_other_seed_other_bits(made, workspace, phantoms, tmp_path):
    method, folder, _ = made
    paint(workspace, phantoms, tmp_path / "a", method, tumors=2)
    assert same_voxels(tmp_path / "a", folder)
    assert records(tmp_path / "a") == records(folder)
    paint(workspace, phantoms, tmp_path / "b", method, seed=1, tumors=2)
    assert not same_voxels(tmp_path / "b", folder)


@pytest.mark.parametrize(
    "options",
    [{"seed": 5}, {"box": Box((5, 5, 5), (15, 15, 15))}, {"method": "syntumor"}],
    ids=lambda o: next(iter(o)),
)
def test_a_folder_holds_one_set(workspace, phantoms, tmp_path, options):
    out = tmp_path / "out"
    paint(workspace, phantoms, out, pairs=1)
    before = voxels(out)
    with pytest.raises(StateError, match="another set"):
        paint(workspace, phantoms, out, **{"pairs": 2, **options})
    assert voxels(out).keys() == before.keys()


def test_somebody_elses_folder_is_left_alone(workspace, phantoms, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StateError, match="not empty"):
        paint(workspace, phantoms, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_jobs_share_out_and_never_change():
    sources = [Source(name, ()) for name in "abc"]
    seven, four = make_jobs(sources, 7, 0), make_jobs(sources, 4, 0)
    assert [job.source.name for job in seven] == list("aaabbcc")  # each scan is read once
    assert {job.case for job in four} == {"a_s0000", "b_s0001", "c_s0002", "a_s0003"}
    assert {job.case: job.seed for job in four}.items() <= {job.case: job.seed for job in seven}.items()
    assert len({job.seed for job in seven}) == 7
    assert {job.seed for job in make_jobs(sources, 7, 1)}.isdisjoint({job.seed for job in seven})


def test_every_tumor_of_a_scan_is_redrawn_in_turn(workspace):
    """However many scans there are, and by a painter as in a set."""
    grid, boxes = Grid((60, 60, 60), (4.0, 4.0, 4.0)), tuple(Box((a, 20, 20), (a + 4, 24, 24)) for a in (10, 30, 50))
    scan = SimpleNamespace(grid=grid)
    sources = [Source(name, (), redraw=boxes[:count]) for name, count in (("a", 3), ("b", 2), ("c", 1))]
    jobs = sorted(make_jobs(sources, 9, 0), key=lambda job: job.index)
    assert [find_turn("abc", job.index) for job in jobs] == [(sources.index(job.source), job.turn) for job in jobs]
    placed = [
        places.Placing(scan, job.source, workspace.plan(), (), None).draw(np.random.default_rng(0), job.turn).box
        for job in jobs
    ]
    redrawn = [
        [box.start[0] <= tumor.start[0] < tumor.stop[0] <= box.stop[0] for tumor in boxes].index(True) for box in placed
    ]
    assert redrawn == [0, 0, 0, 1, 1, 0, 2, 0, 0]


def test_a_redrawn_tumor_has_as_many_latent_cells_as_in_training(workspace):
    """Compared with BA-PMG on the window's own mask; in the mean, because offsets and windows are drawn."""
    plan, rng = workspace.plan(), np.random.default_rng(0)
    grid = Grid((80, 80, 80), plan.window.spacing_mm)
    seen, drawn = [], []
    for _ in range(150):
        start = rng.integers(30, 40, 3)
        tumor = Box(tuple(start.tolist()), tuple((start + rng.integers(5, 12, 3)).tolist()))
        labels = np.zeros(grid.shape, np.float32)
        labels[tumor.slices] = 1
        scan = SimpleNamespace(name="x", grid=grid, image=labels[None], limits=np.array([[0, 1]]))
        box = redraw_box(tumor, grid, plan, rng.uniform(0, 1, 3), rng.uniform(0, 1, 3))
        window = lay_window(scan, box, plan, 4)
        mask = resample(labels, grid, window.grid, "linear") >= 0.5
        seen.append(draw_box(latent_mask(mask, 4), plan.window.alpha, rng).shape)
        drawn.append(latent_box(window.place, 4).shape)
    assert np.mean(drawn, axis=0) == pytest.approx(np.mean(seen, axis=0), abs=0.3)


def test_all_methods_meet_the_same_scans_and_places(workspace, phantoms, tmp_path):
    """A seed comes from set, host and number, never from the method."""
    for method in ("copypaste", "syntumor"):
        paint(workspace, phantoms, tmp_path / method, method)
    first, second = (
        {r["case"]: (t["box"], r["seed"]) for r in records(tmp_path / m) for t in r["tumors"] if not t["rejected"]}
        for m in ("copypaste", "syntumor")
    )
    both = first.keys() & second.keys()
    assert both
    assert all(first[k] == second[k] for k in both)


def test_the_users_box(workspace, phantoms, tmp_path):
    box = Box((12, 10, 8), (26, 24, 20))
    paint(workspace, phantoms, tmp_path / "out", "syntumor", pairs=2, box=box)
    assert [box_of(tumor["box"]) for tumor in first_tumors(tmp_path / "out")] == [box] * 2


@pytest.mark.parametrize(
    "box",
    [
        Box((0, 0, 0), (41, 10, 10)),
        Box((-1, 0, 0), (10, 10, 10)),
        Box((10, 10, 10), (10, 20, 20)),
        Box((20, 5, 5), (10, 10, 10)),
    ],
)
def test_a_box_outside_the_scan(workspace, phantoms, tmp_path, box):
    with pytest.raises(DataError, match="outside the scan") as error:
        paint(workspace, phantoms, tmp_path / "out", box=box)
    assert ["(40, 36, 32)" in fault.found for fault in error.value.faults] == [
        True,
        True,
    ]  # every scan's, before the first is painted into
    assert {fault.remedy for fault in error.value.faults} == {"give a box inside the scan, at least 2 voxels wide"}
    assert not list(tmp_path.glob("out/*.json*"))


def test_a_box_larger_than_the_window_can_grow(workspace, phantoms, tmp_path):
    """Told of every scan by its header alone."""
    plan = workspace.plan()
    narrow = replace(plan, window=replace(plan.window, spacing_mm=(1.0,) * 3))
    jobs = make_jobs(healthy_sources(plan, phantoms.healthy, None), 2, 0)
    method, box = Fake(narrow, workspace), Box((2, 2, 2), (30, 30, 30))
    with pytest.raises(DataError, match="larger window") as error:
        synthesize_set(PairInputs(method, (), Sampling(), box), jobs, tmp_path / "out", {"seed": 0}, lambda *_: None)
    assert [(fault.where, fault.expected) for fault in error.value.faults] == [
        (f"--box 2,2,2,30,30,30 on Healthy_00{number}", "at most 64×64×64 mm") for number in range(2)
    ]
    said = "use a smaller box, or plan with a larger window (--set window.shape=[...])"
    assert {fault.remedy for fault in error.value.faults} == {said}
    assert not (tmp_path / "out").exists()
    _, grid = read_volume(min(phantoms.healthy.iterdir()))
    assert window_shape(box, grid, narrow) is None
    assert window_shape(Box((2, 2, 2), (8, 8, 8)), grid, narrow)  # a smaller box
    assert window_shape(box, grid, plan)  # a larger window


def test_a_region_of_interest(workspace, phantoms, tmp_path):
    rois = tmp_path / "rois"
    for scan in sorted(phantoms.healthy.iterdir()):
        array, grid = read_volume(scan)
        roi = np.zeros(array.shape, np.uint8)
        roi[22:30, 20:28, 16:24] = 1
        write_volume(rois / scan.name.replace("_0000", ""), roi, grid)
    paint(workspace, phantoms, tmp_path / "out", "syntumor", roi=rois)
    for tumor in first_tumors(tmp_path / "out"):
        center = (np.array(tumor["box"]["start"]) + tumor["box"]["stop"]) / 2
        assert (np.abs(center - (26, 24, 20)) <= 5).all()
    last = max(rois.iterdir())
    write_volume(last, roi, replace(grid, spacing_mm=(9.0, 9.0, 9.0)))
    with pytest.raises(DataError, match="resample it onto the image"):  # before the first scan is painted into
        paint(workspace, phantoms, tmp_path / "other", roi=rois)
    assert not list(tmp_path.glob("other/*.json*"))
    last.unlink()
    with pytest.raises(DataError, match="Regions of interest are missing"):
        paint(workspace, phantoms, tmp_path / "other", roi=rois)


def test_a_region_that_is_empty(workspace, phantoms, tmp_path):
    scan = min(phantoms.healthy.iterdir())
    array, grid = read_volume(scan)
    plan = workspace.plan()
    host = read_scan("h", (scan,), None, plan)
    write_volume(tmp_path / "roi.nii.gz", np.zeros(array.shape, np.uint8), grid)
    with pytest.raises(DataError, match="mark with 1 where tumors may be, or leave this host out"):
        places.Placing(
            host, Source("h", (scan,), roi=tmp_path / "roi.nii.gz"), plan, workspace.fingerprint().tumors, None
        )


def test_the_hosts_labels_are_in_the_pairs(workspace, phantoms, tmp_path, monkeypatch, capsys):
    """Where the data set has more than the tumor's: else an nnU-Net would learn that organs are background."""
    plan = replace(workspace.plan(), labels={"background": 0, "tumor": 1, "body": 2})
    monkeypatch.setattr(Workspace, "plan", lambda _: plan)
    monkeypatch.setattr(pipeline_synthesize, "open_method", lambda _, name, __: find_method(name)(plan, workspace))
    hosts = tmp_path / "hosts"
    shutil.copytree(phantoms.healthy, hosts / "imagesTr")
    for path in sorted(hosts.glob("imagesTr/*_0000.nii.gz")):
        image, grid = read_volume(path)
        write_volume(hosts / "labelsTr" / path.name.replace("_0000", ""), 2 * (image > 0.2).astype(np.uint8), grid)
    assert (
        pipeline_synthesize.synthesize_pairs(
            workspace, "syntumor", SetOptions(2, tmp_path / "whole"), HostOptions(hosts), device="cpu"
        ).tally.made
        == 2
    )
    assert "without labels" not in capsys.readouterr().err
    assert read_unlabeled_hosts(tmp_path / "whole") == ()
    for line in read_provenance(tmp_path / "whole"):
        labels, _ = read_volume(tmp_path / "whole" / "labelsTr" / f"{line.case}.nii.gz")
        before, _ = read_volume(hosts / "labelsTr" / f"{line.host}.nii.gz")
        assert (labels == 1).any()
        np.testing.assert_array_equal(labels[labels != 1], before[labels != 1])
    min(hosts.glob("labelsTr/*")).unlink()
    bare = SetOptions(2, tmp_path / "bare")
    pipeline_synthesize.synthesize_pairs(workspace, "syntumor", bare, HostOptions(hosts), device="cpu")
    assert "1 host without labels (Healthy_000)" in " ".join(capsys.readouterr().err.split())
    assert read_unlabeled_hosts(tmp_path / "bare") == ("Healthy_000",)
    path = next(hosts.glob("labelsTr/*"))
    labels, grid = read_volume(path)
    labels[0, 0, 0] = 7
    write_volume(path, labels, grid)
    with pytest.raises(DataError, match="labels cannot be used"):
        read_scan("h", (hosts / "imagesTr" / path.name.replace(".nii", "_0000.nii"),), path, plan)


def test_tumors_that_a_host_has_stay_in_the_labels(workspace, phantoms, tmp_path):
    """Also where the data set has no other label: else an nnU-Net would learn that a real tumor is background."""
    hosts = tmp_path / "hosts"
    shutil.copytree(phantoms.healthy, hosts / "imagesTr")
    for path in sorted(hosts.glob("imagesTr/*_0000.nii.gz")):
        image, grid = read_volume(path)
        labels = np.zeros(image.shape, np.uint8)
        labels[:2, :2, :2] = 1
        write_volume(hosts / "labelsTr" / path.name.replace("_0000", ""), labels, grid)
    out = SetOptions(2, tmp_path / "out")
    pipeline_synthesize.synthesize_pairs(workspace, "syntumor", out, HostOptions(hosts), device="cpu")
    for line in read_provenance(tmp_path / "out"):
        labels, _ = read_volume(tmp_path / "out" / "labelsTr" / f"{line.case}.nii.gz")
        assert (labels[:2, :2, :2] == 1).all()
        assert labels.sum() > 8


def test_a_region_may_be_one_label_of_a_mask(workspace, phantoms, tmp_path):
    scan = min(phantoms.healthy.iterdir())
    array, grid = read_volume(scan)
    plan, tumors = workspace.plan(), workspace.fingerprint().tumors
    host, path = read_scan("h", (scan,), None, plan), tmp_path / "labels.nii.gz"
    labels = np.zeros(array.shape, np.uint8)
    labels[4:12], labels[20:30] = 1, 2
    write_volume(path, labels, grid)
    placing = places.Placing(host, Source("h", (scan,), roi=path, region=2), plan, tumors, None)
    assert np.array_equal(placing.allowed, labels == 2)
    with pytest.raises(DataError, match="no voxel of label 3"):
        places.Placing(host, Source("h", (scan,), roi=path, region=3), plan, tumors, None)


def grid_of(phantoms, case):
    return read_volume(phantoms.dataset / "labelsTr" / f"{case}.nii.gz")[1]


def test_redrawing_the_held_out_tumors(workspace, phantoms, tmp_path, monkeypatch):
    """Every tumor of the case in turn. Its place contains it, and the rest of the scan stays; the old tumor is removed.

    From the labels always, from the image with a method that keeps the host's own voxels.
    """
    made = SetOptions(3, tmp_path / "out")
    report = pipeline_synthesize.synthesize_pairs(workspace, "syntumor", made, HostOptions(cases="test"), device="cpu")
    facts = {case.case: case for case in workspace.fingerprint().cases}
    held_out = workspace.splits().test
    found = records(tmp_path / "out")
    assert report.tally.pairs == 3
    assert {r["host"] for r in found} <= set(held_out)
    for record in found:
        tumors = facts[record["host"]].tumors
        tumor = tumors[int(record["case"][-4:]) // len(held_out) % len(tumors)].box
        (new,) = record["tumors"]
        box = box_of(new["box"])
        place = tumor_place(box, grid_of(phantoms, record["host"]), workspace.plan().paste.feather_mm)
        assert all(
            a <= c + 1 and d - 1 <= b
            for a, b, c, d in zip(place.start, place.stop, tumor.start, tumor.stop, strict=True)
        )
        labels, grid = read_volume(tmp_path / "out" / "labelsTr" / f"{record['case']}.nii.gz")
        original, _ = read_volume(phantoms.dataset / "labelsTr" / f"{record['host']}.nii.gz")
        outside = np.ones(labels.shape, bool)
        outside[box.slices] = False
        np.testing.assert_array_equal(labels[outside], original[outside])
        was = original[box.slices].astype(bool) & ~labels[box.slices].astype(bool)  # tumor once, and no more
        host, painted = (
            read_volume(folder / "imagesTr" / f"{name}_0000.nii.gz")[0][box.slices]
            for folder, name in ((phantoms.dataset, record["host"]), (tmp_path / "out", record["case"]))
        )
        assert painted[was].mean() < 0.8 * host[was].mean()
        healed = box_of(new["removal_box"])
        outside[healed.slices] = False
        host, painted = (
            read_volume(folder / "imagesTr" / f"{name}_0000.nii.gz")[0]
            for folder, name in ((phantoms.dataset, record["host"]), (tmp_path / "out", record["case"]))
        )
        np.testing.assert_array_equal(painted[outside], host[outside])
        assert labels[box.slices].sum() * grid.voxel_ml == pytest.approx(new["volume_ml"], rel=1e-3)
    with pytest.raises(PlanError, match="did you mean train"):
        pipeline_synthesize.synthesize_pairs(workspace, "syntumor", made, HostOptions(cases="trian"), device="cpu")
    with pytest.raises(PlanError, match="--healthy"):
        pipeline_synthesize.synthesize_pairs(workspace, "syntumor", made, HostOptions(), device="cpu")


def test_a_method_that_needs_a_healthy_box_gets_one(workspace, tmp_path, monkeypatch):
    """Also if it paints the whole box, so that nothing of the host stays."""
    method = find_method("syntumor")
    monkeypatch.setattr(method, "keeps_background", False)
    for needed in (False, True):
        monkeypatch.setattr(method, "needs_healthy_box", needed)
        out = tmp_path / str(needed)
        pipeline_synthesize.synthesize_pairs(
            workspace, "syntumor", SetOptions(2, out), HostOptions(cases="test"), device="cpu"
        )
        boxes = [tumor["removal_box"] for record in records(out) for tumor in record["tumors"]]
        assert len(boxes) == 2
        assert all((box is not None) == needed for box in boxes)


def test_tumors_too_large_to_redraw_are_left_out_and_told(workspace, monkeypatch, capsys):
    """Every box that may be drawn around one that is kept has a window."""
    plan, facts = workspace.plan(), {case.case: case for case in workspace.fingerprint().cases}
    tumors = [(name, tumor.box) for name in workspace.splits().train for tumor in facts[name].tumors]
    most = max(n * s for name, box in tumors for n, s in zip(box.shape, facts[name].grid.spacing_mm, strict=True))
    narrow = replace(
        plan, window=replace(plan.window, spacing_mm=(most / 50,) * 3), paste=replace(plan.paste, feather_mm=most / 25)
    )
    kept = [(source.name, box) for source in redraw_sources(workspace, narrow, "train") for box in source.redraw]
    assert 0 < len(kept) < len(tumors)
    assert f"tumors too large for twice the plan's window: {len(tumors) - len(kept)}" in " ".join(
        capsys.readouterr().err.split()
    )
    rng = np.random.default_rng(0)
    for name, box in kept:
        grid = facts[name].grid
        drawn = [redraw_box(box, grid, narrow, rng.uniform(0, 1, 3), rng.uniform(0, 1, 3)) for _ in range(50)]
        assert all(window_shape(each, grid, narrow) for each in drawn)
    for name, box in {*tumors} - {*kept}:
        assert (
            window_shape(redraw_box(box, facts[name].grid, narrow, (1, 1, 1), (1, 1, 1)), facts[name].grid, narrow)
            is None
        )
    tiny = replace(plan, window=replace(plan.window, shape=(16, 16, 16), spacing_mm=(0.1,) * 3))
    with pytest.raises(DataError, match="plan with a larger window"):
        redraw_sources(workspace, tiny, "test")
    monkeypatch.setattr(Workspace, "splits", lambda self: Splits(tuple(facts), ()))
    with pytest.raises(DataError, match="no tumor in 0 cases") as error:
        redraw_sources(workspace, plan, "test")
    assert error.value.faults[0].remedy == "name the other cases, or paint into --healthy DIR"
    assert len(redraw_sources(workspace, plan, "train")) == len(facts)


@pytest.mark.parametrize("box", [None, Box((12, 10, 8), (26, 23, 21))])
def test_a_place_that_is_drawn_has_whole_cells_a_users_box_stays(workspace, phantoms, tmp_path, box):
    method = Fake(workspace.plan(), workspace)
    method.cell = 4
    run_fake(workspace, phantoms, tmp_path / "out", method, box=box)
    ends = np.array([(request.place.start, request.place.stop) for request in method.requests])
    assert (ends % 4 == 0).all() == (box is None)
    if box is not None:
        assert [record.boxes for record in read_provenance(tmp_path / "out")] == [(box,)] * 2


def test_empty_draws_are_counted_and_drawn_again(workspace, phantoms, tmp_path):
    method = Fake(workspace.plan(), workspace, empty=2)
    tally = run_fake(workspace, phantoms, tmp_path / "out", method)
    assert (tally.pairs, tally.draws, tally.rejected) == (2, 6, {"empty": 4})
    assert [t["rejected"] for t in first_tumors(tmp_path / "out")] == [{"empty": 2}] * 2
    assert [t["attempt"] for t in first_tumors(tmp_path / "out")] == [2, 2]
    assert [t["drawn"]["number"] for t in first_tumors(tmp_path / "out")] == [3, 6]
    assert len(set(method.seeds)) == 6
    assert len({str(r.box) for r in method.requests[:3]}) > 1  # another draw has another place
    again = run_fake(workspace, phantoms, tmp_path / "out", Fake(workspace.plan(), workspace, empty=2))
    assert (again.made, again.draws, again.rejected) == (0, 6, {"empty": 4})  # the whole set's, not this run's


def test_too_small_is_not_empty(workspace, phantoms, tmp_path):
    plan = workspace.plan()
    cube = 4**3 * math.prod(plan.window.spacing_mm) / 1000
    plan = replace(plan, paste=replace(plan.paste, smallest_ml=cube / 4))
    tally = run_fake(workspace, phantoms, tmp_path / "out", Fake(plan, workspace, empty=1, crumbs=True))
    assert tally.pairs == 2
    assert set(tally.rejected) <= {"too small", "empty"}
    assert sum(tally.rejected.values()) == 2


@pytest.mark.parametrize(
    ("least", "scale", "faint"),
    [(0.9, 1.0, False), (1.1, 1.0, True), (-0.5, 1.0, True), (0.0, 1.0, False), (0.4, 0.5, False), (0.6, 0.5, True)],
)
def test_a_change_that_is_hardly_seen_or_goes_the_other_way_is_drawn_again(
    workspace, phantoms, tmp_path, least, scale, faint
):
    """The change is 1 in the scan's unit; `scale` shrinks the unit of the plan's clip window."""
    plan = workspace.plan()
    channel = replace(plan.channels[0], low=plan.channels[0].low * scale, high=plan.channels[0].high * scale)
    paste = replace(plan.paste, least_change=least)
    method = Fake(replace(plan, paste=paste, channels=(channel,)), workspace)
    inputs = PairInputs(method, workspace.fingerprint().cases, Sampling(), count=1)
    job = make_jobs(healthy_sources(plan, phantoms.healthy, None), 1, 0)[0]
    host = load_host(replace(inputs, method=Fake(plan, workspace)), job.source)
    drawn = draw_pair(inputs, job, host)
    assert (drawn.tumors == ()) == faint
    assert drawn.left_out == (({FAINT: paste.draws},) if faint else ())


@pytest.mark.parametrize(("healthy", "kept"), [(False, 1), (True, 0)])
def test_a_tumor_on_the_old_one_is_not_measured_by_its_change(workspace, healthy, kept):
    """Where the old tumor is still there, an equally bright new one changes nothing."""
    plan = workspace.plan()

    class Paints(Fake):
        needs_healthy_box = healthy

    method = Paints(replace(plan, paste=replace(plan.paste, least_change=1.1)), workspace)
    inputs = PairInputs(method, workspace.fingerprint().cases, Sampling(), count=1)
    job = make_jobs(redraw_sources(workspace, plan, "test"), 1, 0)[0]
    assert len(draw_pair(inputs, job, load_host(inputs, job.source)).tumors) == kept


def test_a_method_that_gives_nothing_is_told_and_may_try_again(workspace, phantoms, tmp_path):
    plan, out = workspace.plan(), tmp_path / "out"
    method = Fake(plan, workspace, empty=10**6)
    with pytest.raises(DataError, match="No tumor came") as error:
        run_fake(workspace, phantoms, out, method)
    (fault,) = error.value.faults
    assert fault.found == "2 pairs given up (3 empty)"
    said = "train longer, choose other hosts, regions or boxes, or allow more draws (--set paste.draws=N at planning)"
    assert fault.remedy == said
    assert len(method.seeds) == 2 * plan.paste.draws == 6
    assert not (out / "dataset.json").exists()
    assert not list(out.glob("*Tr/*"))
    more = replace(plan, paste=replace(plan.paste, draws=4))
    assert (
        run_fake(workspace, phantoms, out, Fake(more, workspace, empty=3)).pairs == 2
    )  # nothing was there, so it is no other set's folder


def test_a_pair_that_does_not_come_is_given_up_and_the_set_finished(workspace, phantoms, tmp_path, monkeypatch):
    """Whatever the reason: no draw of it holds a tumor, or its host cannot be used; the rest is a set."""
    plan, out, hosts = workspace.plan(), tmp_path / "out", tmp_path / "hosts"
    shutil.copytree(phantoms.healthy, hosts)
    array, grid = read_volume(hosts / "Healthy_001_0000.nii.gz")
    write_volume(hosts / "Healthy_001_0000.nii.gz", np.full_like(array, 3), grid)  # its header is like any other's
    jobs, told = make_jobs(healthy_sources(plan, hosts, None), 5, 0), []
    monkeypatch.setattr(synthesize_module.console, "warn", told.append)

    def run(method, part=None):
        return run_jobs(workspace, out, method, jobs, part)

    tallies = [
        run(Fake(plan, workspace, empty=3), Shard(number, 2)) for number in (2, 1)
    ]  # the shard of the bad host is no worse than the other
    assert [(t.pairs, t.given_up, t.left) for t in tallies] == [(0, 2, 3), (1, 4, 0)]
    assert (tallies[1].draws, tallies[1].rejected) == (7, {"empty": 6})
    lines = [json.loads(line) for line in (out / "given_up.jsonl").read_text().splitlines()]
    assert [line["case"] for line in lines] == [
        "Healthy_000_s0000",
        "Healthy_000_s0004",
        "Healthy_001_s0001",
        "Healthy_001_s0003",
    ]
    assert lines[0]["rejected"] == {"empty": 3}
    assert "Healthy_001_0000.nii.gz" in lines[2]["reason"]
    assert [case.case for case in synthetic_cases(plan, out)] == ["Healthy_000_s0002"]
    assert json.loads((out / "dataset.json").read_text())["numTraining"] == 1
    (warning,) = told
    assert warning.startswith("4 pairs were given up, 1 were made: 3 empty; A host scan cannot be used. ")
    assert str(out / "given_up.jsonl") in warning


@pytest.mark.parametrize("shards_again", [[None], [Shard(1, 2), Shard(2, 2)]], ids=["alone", "shards"])
def test_what_an_error_kept_from_coming_is_tried_again_and_nothing_else(workspace, phantoms, tmp_path, shards_again):
    """Each shard tries its own."""
    plan, out, hosts = workspace.plan(), tmp_path / "out", tmp_path / "hosts"
    shutil.copytree(phantoms.healthy, hosts)
    bad = hosts / "Healthy_001_0000.nii.gz"
    whole = bad.read_bytes()
    jobs = make_jobs(healthy_sources(plan, hosts, None), 5, 0)

    def run(method, part=None):
        return run_jobs(workspace, out, method, jobs, part)

    bad.write_bytes(whole[: len(whole) // 2])  # as a disk may read it that is about to fail
    assert [run(Fake(plan, workspace, empty=3)).given_up, *(run(Fake(plan, workspace)).given_up for _ in range(2))] == [
        4,
        4,
        4,
    ]
    bad.write_bytes(whole)
    method = Fake(plan, workspace)
    tallies = [run(method, part) for part in shards_again]
    assert (tallies[-1].pairs, tallies[-1].given_up, tallies[-1].left) == (3, 2, 0)
    assert len(method.seeds) == 2  # those of the host; what was given up after its draws is not drawn again
    lines = [json.loads(line) for line in (out / "given_up.jsonl").read_text().splitlines()]
    assert [line["case"] for line in lines] == ["Healthy_000_s0000", "Healthy_000_s0004"]
    assert json.loads((out / "dataset.json").read_text())["numTraining"] == 3


def test_what_a_method_is_told(workspace, phantoms, tmp_path):
    plan, method = workspace.plan(), Fake(workspace.plan(), workspace)
    run_fake(workspace, phantoms, tmp_path / "out", method)
    for request in method.requests:
        assert request.image.shape == (1, *plan.window.shape)
        assert request.spacing_mm == plan.window.spacing_mm
        assert request.case is None
        np.testing.assert_allclose(request.limits, [(c.low, c.high) for c in plan.channels], rtol=1e-6)
    redrawn = Fake(plan, workspace)
    sources = redraw_sources(workspace, plan, "test")
    run_jobs(workspace, tmp_path / "redrawn", redrawn, make_jobs(sources, 1, 0))
    assert redrawn.requests[0].case == workspace.splits().test[0]  # so that no case donates to itself


def p_alone(judge, keep, tries):
    """The test of FreeTumor: what is marked beside the mask does not count."""
    return Quality(Predictions(judge), PassRule(keep, None), tries)


class Marks:
    """Stands in for a judge: marks what is above a threshold, or the whole scan where anything is."""

    usual_extent_mm, hash, folder, tumor_labels, iterations = (1e6, 1e6, 1e6), "marks", Path("marks"), (1,), 0

    def __init__(self, threshold, all_over=False):
        self.threshold, self.all_over, self.asked = threshold, all_over, 0

    def tumor(self, image, grid):
        self.asked += 1
        found = image[0] > self.threshold
        return np.full(found.shape, found.any()) if self.all_over else found


class Bright(Fake):
    """Paints its cube 100 brighter than the host."""

    def synthesize(self, request, seed, sampling):
        made = super().synthesize(request, seed, sampling)
        return replace(made, image=(request.image + 100 * made.mask).astype(np.float32))


def old_lesion(phantoms, folder):
    """The healthy phantoms with planes of old lesions, brighter than all else."""
    for path in sorted(phantoms.healthy.glob("*.nii.gz")):
        image, grid = read_volume(path)
        image[:, :, ::4] = 100
        write_volume(folder / path.name, image, grid)
    return SimpleNamespace(healthy=folder)


def test_a_picture_that_is_marked_all_over_does_not_pass(workspace, phantoms, tmp_path):
    """P is 1, but nothing says that the tumor is where the mask is."""
    quality = Quality(Predictions(Marks(50, all_over=True)), PassRule(), 2)
    tally = run_fake(workspace, phantoms, tmp_path / "out", Bright(workspace.plan(), workspace), quality=quality)
    assert (tally.pairs, tally.given_up, tally.rejected) == (0, 2, {BESIDE: 4})
    # more than half of 100, with what the host has: nearly all that is marked is in the mask
    quality = Quality(Predictions(Marks(60)), PassRule(), 2)
    tally = run_fake(workspace, phantoms, tmp_path / "good", Bright(workspace.plan(), workspace), quality=quality)
    assert (tally.pairs, tally.rejected) == (2, {})
    assert max(t["drawn"]["beside"] for t in first_tumors(tmp_path / "good")) < 0.05


def test_a_good_pair_in_a_host_with_old_lesions_passes(workspace, phantoms, tmp_path, monkeypatch):
    """What the judge marks in the unpainted host is not new; the host is predicted once."""
    monkeypatch.setattr(pair_module, "check_intensities", lambda *_: ())  # so many lesions look like another unit
    hosts = old_lesion(phantoms, tmp_path / "hosts")
    judge = Marks(50)
    quality = Quality(Predictions(judge, tmp_path / "cache"), PassRule(), 2)
    method, box = Bright(workspace.plan(), workspace), Box((10, 10, 10), (24, 24, 22))
    tally = run_fake(workspace, hosts, tmp_path / "out", method, quality=quality, box=box)
    assert (tally.pairs, tally.rejected) == (2, {})
    assert judge.asked == 4  # two pairs and two hosts


def test_a_pair_is_drawn_again_until_the_judge_finds_it(workspace, phantoms, tmp_path):
    judge = Sees(each=3)
    tally = run_fake(
        workspace, phantoms, tmp_path / "out", Fake(workspace.plan(), workspace), quality=p_alone(judge, 0.7, 5)
    )
    assert (tally.pairs, tally.given_up, tally.draws, tally.rejected) == (2, 0, 6, {NOT_FOUND: 4})
    assert judge.asked == 6
    assert [t["drawn"]["proportion"] for t in first_tumors(tmp_path / "out")] == [1, 1]
    assert read_judges(tmp_path / "out") == {
        str(Path("sees").resolve()): LearnedCases("", ())
    }  # of which nothing is known
    with pytest.raises(StateError, match="another set"):  # what passed another threshold is another set
        run_fake(
            workspace, phantoms, tmp_path / "out", Fake(workspace.plan(), workspace), quality=p_alone(judge, 0.5, 5)
        )


def test_what_never_passes_is_given_up_and_not_tried_again(workspace, phantoms, tmp_path):
    tally = run_fake(
        workspace, phantoms, tmp_path / "out", Fake(workspace.plan(), workspace), quality=p_alone(Sees(10**6), 0.7, 4)
    )
    assert (tally.pairs, tally.given_up, tally.draws) == (0, 2, 8)
    assert not list(tmp_path.glob("out/*Tr/*"))
    judge = Sees(1)
    again = run_fake(
        workspace, phantoms, tmp_path / "out", Fake(workspace.plan(), workspace), quality=p_alone(judge, 0.7, 4)
    )
    assert (again.given_up, judge.asked) == (2, 0)
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["numTraining"] == 0


@pytest.mark.parametrize("stopped", [True, False])
def test_a_judge_of_a_set_that_came_to_nothing_is_forgotten(workspace, phantoms, tmp_path, monkeypatch, stopped):
    """Nothing is left of a set without a tumor; what is left of one that was stopped is of no other set."""
    plan, quality = workspace.plan(), p_alone(Sees(1), 0.7, 4)
    method = Fake(plan, workspace, empty=10**6)
    if stopped:
        monkeypatch.setattr(method, "synthesize", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt if stopped else DataError):
        run_fake(workspace, phantoms, tmp_path / "out", method, quality=quality)
    assert bool(read_judges(tmp_path / "out")) == stopped
    run_fake(workspace, phantoms, tmp_path / "out", Fake(plan, workspace))
    assert read_judges(tmp_path / "out") == {}


def test_a_set_says_what_its_method_has_seen(made, workspace):
    assert read_learned_from(made[1]) == workspace.splits().train


def test_a_solver_that_a_method_does_not_know(workspace, phantoms, tmp_path):
    with pytest.raises(PlanError, match="none: it does not sample"):
        paint(workspace, phantoms, tmp_path / "out", "syntumor", 1, sampling=Sampling(solver="ddpm"))
    with pytest.raises(PlanError, match="copypaste does not sample"):
        paint(workspace, phantoms, tmp_path / "out", "copypaste", 1, sampling=Sampling(steps=5))
    with pytest.raises(PlanError, match="euler, heun"):
        paint(workspace, phantoms, tmp_path / "out", "tumorgen", 1, sampling=Sampling(solver="ddim"))
    assert not (tmp_path / "out").exists()


def test_a_kind_that_a_method_does_not_know(workspace, phantoms, tmp_path):
    with pytest.raises(PlanError, match=r"leave it out; tumorgen knows kinds where flow\.character is on"):
        paint(workspace, phantoms, tmp_path / "out", "copypaste", 1, sampling=Sampling(kind="necrotic"))
    with pytest.raises(PlanError, match="low-contrast, necrotic, heterogeneous"):
        paint(workspace, phantoms, tmp_path / "out", "tumorgen", 1, sampling=Sampling(kind="round"))


def test_pairs_of_a_kind_are_a_set_of_their_own(trained, phantoms):
    folders = [
        Path(paint(trained, phantoms, None, "tumorgen", 2, sampling=Sampling(kind=kind), tumors=None).folder)
        for kind in (None, "necrotic")
    ]
    assert [folder.name for folder in folders] == ["tumorgen_healthy", "tumorgen_healthy_necrotic"]
    method = find_method("tumorgen")(trained.plan(), trained)
    method.load()
    cores = method.condition.known().characters[:, 2]
    limit = hard_limit("necrotic", cores)
    for pair in read_provenance(folders[1]):
        assert pair.tumors[0].drawn["character"]["PET"]["core_ratio"] <= limit + 1e-3
