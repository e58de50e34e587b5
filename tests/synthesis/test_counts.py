"""Several tumors in a pair: as many as patients have, apart from each other, each recorded."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from support.pairs import Fake, beyond, box_of, first_tumors, paint, provenance, records, run_fake

from tumorgen_cli import api
from tumorgen_cli.data.body import body_mask, body_stride, body_volume_ml
from tumorgen_cli.data.volumes import read_volume
from tumorgen_cli.geometry import Box, Grid
from tumorgen_cli.methods.base import Sampling
from tumorgen_cli.metrics.statistics import ks_distance
from tumorgen_cli.pipeline import synthesize as pipeline_synthesize
from tumorgen_cli.planning.fingerprint import CaseFacts
from tumorgen_cli.synthesis import pair as pair_module
from tumorgen_cli.synthesis.counts import count_faults, draw_count, fixed_count
from tumorgen_cli.synthesis.draws import NO_ROOM
from tumorgen_cli.synthesis.jobs import PairJob
from tumorgen_cli.synthesis.options import HostOptions, SetOptions
from tumorgen_cli.synthesis.pair import PairInputs, count_tumors
from tumorgen_cli.synthesis.scan import read_scan
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.synthesis.sources import Source
from tumorgen_cli.synthesis.window import cut_window
from tumorgen_cli.system.errors import PlanError, StateError

GRID = Grid((10, 10, 10), (4.0, 4.0, 4.0))
COUNTS = (1, 1, 1, 2, 2, 5, 9, 0)  # a case without a tumor says nothing about how many tumors patients have
BOX = Box((10, 10, 10), (24, 24, 22))


def cases(counts, body_ml=1000.0, tumor="a tumor"):
    return [CaseFacts(f"c{i}", GRID, (tumor,) * count, (), body_ml) for i, count in enumerate(counts)]


def drawn(counts, body_ml, number=2000):
    return [draw_count(cases(counts), body_ml, np.random.default_rng(seed)) for seed in range(number)]


def test_counts_follow_the_training_cases(workspace, phantoms):
    """Fifty pairs of a set; and, of more, each count as often as cases have it."""
    plan = replace(workspace.plan(), paste=replace(workspace.plan().paste, tumors="data"))
    facts = workspace.fingerprint().cases[0]
    inputs = PairInputs(Fake(plan, workspace), cases(COUNTS, facts.body_ml, facts.tumors[0]), Sampling())
    source = Source("h", (min(phantoms.healthy.iterdir()),))
    host = pair_module.open_host(inputs, source, read_scan("h", source.files, None, plan), "")
    found = [count_tumors(inputs, PairJob(i, source, "", 1000 + i, 0), host.placing) for i in range(50)]
    assert ks_distance(np.array(found, float), np.array(COUNTS[:-1], float)) < 1.36 / 50**0.5
    shares = Counter(drawn(COUNTS, 1000.0))
    for count in set(COUNTS) - {0}:
        assert shares[count] / 2000 == pytest.approx(COUNTS.count(count) / 7, abs=0.03)


def test_a_host_that_shows_less_gets_its_share_and_one_that_shows_more_no_more():
    assert np.mean(drawn((40,), 250.0)) == pytest.approx(10, rel=0.03)
    assert set(drawn((40,), 500.0, 20)) == {40}  # bodies of patients differ as much
    assert set(drawn((40,), 9000.0, 20)) == {40}
    assert min(drawn((1, 2), 1.0, 50)) == 1


@pytest.mark.parametrize(
    ("asked", "planned", "box", "redraw", "count"),
    [
        (None, "data", None, (), None),
        (None, 4, None, (), 4),
        (3, "data", None, (), 3),
        (3, 4, None, (), 3),
        (None, "data", BOX, (), 1),
        (None, 4, None, (BOX,) * 5, 1),  # one tumor, to be compared with one real one
        (3, "data", None, (BOX,) * 5, 3),
        (9, "data", None, (BOX,) * 5, 5),
    ],
)
def test_what_decides_the_number(asked, planned, box, redraw, count):
    assert fixed_count(asked, planned, box, redraw) == count


def test_several_tumors_do_not_fit_in_one_box():
    assert count_faults(None, BOX) == count_faults(1, BOX) == count_faults(5, None) == []
    assert [fault.where for fault in (*count_faults(2, BOX), *count_faults(0, None))] == ["--tumors"] * 2
    with pytest.raises(PlanError, match="one tumor: the boxes of a pair do not overlap"):
        api.paint(np.ones((30, 30, 30)), (4, 4, 4), box=BOX, tumors=2, work="nowhere")


def test_the_body_of_a_case_is_measured_as_that_of_a_host(workspace, phantoms):
    for facts in workspace.fingerprint().cases[:2]:
        image, grid = read_volume(phantoms.dataset / "imagesTr" / f"{facts.case}_0000.nii.gz")
        labels, _ = read_volume(phantoms.dataset / "labelsTr" / f"{facts.case}.nii.gz")
        assert body_stride(image.shape) == 1
        body = body_mask(image.astype(np.float32), labels > 0)
        assert facts.body_ml == pytest.approx(body.sum() * grid.voxel_ml) == body_volume_ml(body, grid)


def patient(plan):
    """A plan with so many draws that every tumor finds a place."""
    return replace(plan, paste=replace(plan.paste, draws=30))


def check_pairs(folder, phantoms, plan):
    """Boxes apart from each other; image and mask of each pair by its record."""
    for record in read_provenance(folder):
        image, grid = read_volume(folder / "imagesTr" / f"{record.case}_0000.nii.gz")
        labels, _ = read_volume(folder / "labelsTr" / f"{record.case}.nii.gz")
        host, _ = read_volume(phantoms.healthy / record.host_file[0])
        for number, tumor in enumerate(record.tumors):
            assert not any(tumor.box.overlaps(other.box) for other in record.tumors[:number])
            assert tumor.box.contains(tumor.place)
            assert tumor.box.contains(tumor.requested_box)
            inside = labels[tumor.place.slices] == plan.tumor_label
            assert inside.sum() * grid.voxel_ml == pytest.approx(tumor.volume_ml, rel=1e-3)
            assert not np.array_equal(image[tumor.box.slices], host[tumor.box.slices])
        outside = beyond(host.shape, record.changed)
        np.testing.assert_array_equal(image[outside], host[outside])
        assert not labels[beyond(host.shape, [tumor.place for tumor in record.tumors])].any()
        assert record.volume_ml == pytest.approx(labels.astype(bool).sum() * grid.voxel_ml, rel=1e-3)


@pytest.mark.parametrize("method", ["copypaste", "syntumor"])
def test_three_tumors_are_apart_and_recorded_and_the_first_is_that_of_a_pair_with_one(
    workspace, phantoms, tmp_path, method
):
    report = paint(workspace, phantoms, tmp_path / "three", method, tumors=3)
    check_pairs(tmp_path / "three", phantoms, workspace.plan())
    found = read_provenance(tmp_path / "three")
    assert all(len(record.tumors) + len(record.left_out) == 3 for record in found)
    assert max(len(record.tumors) for record in found) == 3
    assert report.tally.tumors == sum(len(record.tumors) for record in found)
    assert report.tally.draws == report.tally.tumors + sum(report.tally.rejected.values())
    paint(workspace, phantoms, tmp_path / "one", method)
    assert first_tumors(tmp_path / "one") == first_tumors(tmp_path / "three")
    again = paint(workspace, phantoms, tmp_path / "three", method, tumors=3)
    assert again.tally.made == 0
    with pytest.raises(StateError, match="another set"):
        paint(workspace, phantoms, tmp_path / "three", method, tumors=2)


def test_a_pair_that_is_made_again_is_the_same(workspace, phantoms, tmp_path):
    paint(workspace, phantoms, tmp_path / "out", "syntumor", 2, tumors=3)
    before = records(tmp_path / "out")
    files = {path: path.read_bytes() for path in tmp_path.glob("out/*Tr/*")}
    for path in files:
        path.write_bytes(b"lost")
    paint(workspace, phantoms, tmp_path / "out", "syntumor", 2, tumors=3)
    assert records(tmp_path / "out") == before
    assert {path: path.read_bytes() for path in files} == files


def test_each_tumor_is_painted_into_the_scan_as_the_ones_before_left_it(workspace, phantoms, tmp_path, monkeypatch):
    """Image and labels; and each has a seed of its own."""
    seen = []
    monkeypatch.setattr(pair_module, "cut_window", lambda scan, *rest: (seen.append(scan), cut_window(scan, *rest))[1])
    method = Fake(patient(workspace.plan()), workspace)
    run_fake(workspace, phantoms, tmp_path / "out", method, count=3)
    assert len(set(method.seeds)) == len(method.seeds) == len(seen)
    record = provenance(tmp_path / "out")[0]
    boxes = [box_of(tumor["box"]) for tumor in record["tumors"]]
    host, _ = read_volume(phantoms.healthy / record["host_file"][0])
    scans = [seen[tumor["drawn"]["number"] - 1] for tumor in record["tumors"]]
    for number, scan in enumerate(scans):
        outside = beyond(host.shape, boxes[:number])
        np.testing.assert_array_equal(scan.image[0][outside], host[outside])
        assert all(not np.array_equal(scan.image[0][box.slices], host[box.slices]) for box in boxes[:number])
        assert all((scan.labels[box.slices] == method.plan.tumor_label).any() for box in boxes[:number])
    assert len(scans) == 3


def test_rejects_are_drawn_again_tumor_by_tumor_and_count(workspace, phantoms, tmp_path, monkeypatch):
    """Their number and their seconds are those of the tumor, and of the pair."""
    clock = iter(range(10_000))
    monkeypatch.setattr(pair_module.time, "perf_counter", lambda: float(next(clock)))
    method = Fake(patient(workspace.plan()), workspace, empty=2)  # every third draw has a mask
    tally = run_fake(workspace, phantoms, tmp_path / "out", method, count=2)
    lines = provenance(tmp_path / "out")
    assert (tally.pairs, tally.tumors) == (2, 4)
    assert tally.draws == 4 + sum(tally.rejected.values())
    assert tally.rejected["empty"] >= 8
    for record in lines:
        for tumor in record["tumors"]:
            assert tumor["attempt"] == sum(tumor["rejected"].values()) >= 2
        seconds = [tumor["seconds"] for tumor in record["tumors"]]
        assert min(seconds) >= 3  # one for each draw that was painted
        assert record["seconds"]["method"] == sum(seconds)
    assert sum(line["seconds"]["method"] for line in lines) == len(method.seeds)


def test_a_pair_keeps_what_fits_and_says_so(workspace, phantoms, tmp_path, capsys):
    method = Fake(workspace.plan(), workspace)
    tally = run_fake(workspace, phantoms, tmp_path / "out", method, count=12)
    found = read_provenance(tmp_path / "out")
    assert tally.pairs == 2
    assert all(0 < len(record.tumors) < 12 for record in found)
    assert all(len(record.tumors) + len(record.left_out) == 12 for record in found)
    assert any(NO_ROOM in rejected for rejected in found[0].left_out)
    assert tally.rejected == dict(Counter(found[0].rejected) + Counter(found[1].rejected))
    assert tally.left_out == sum(len(record.left_out) for record in found)
    check_pairs(tmp_path / "out", phantoms, method.plan)
    said = " ".join(capsys.readouterr().err.split())
    assert "2 of 2 pairs have fewer tumors than they were to have" in said
    assert f"{found[0].case}: {len(found[0].tumors)} of 12" in said


def test_a_pair_is_given_up_with_its_first_tumor(workspace, phantoms, tmp_path):
    """A method that paints nothing costs the draws of one tumor, however many were asked for."""
    method = Fake(workspace.plan(), workspace, empty=10**6)
    with pytest.raises(api.DataError, match="No tumor came"):
        run_fake(workspace, phantoms, tmp_path / "out", method, count=5)
    assert len(method.seeds) == 2 * method.plan.paste.draws


def test_tumors_of_a_case_are_redrawn_one_by_one_or_several(workspace, tmp_path, capsys):
    """Which ones follows the turn; those that stay are in the labels, as neighbors."""
    facts = {case.case: case for case in workspace.fingerprint().cases}
    most = max(len(facts[name].tumors) for name in workspace.splits().test)
    for tumors in (None, most):
        hosts = HostOptions(cases="test", tumors=tumors)
        made = SetOptions(2, tmp_path / str(tumors))
        pipeline_synthesize.synthesize_pairs(workspace, "syntumor", made, hosts, device="cpu")
        for record in read_provenance(made.out):
            old = facts[record.host].tumors
            asked = min(tumors or 1, len(old))
            assert len(record.tumors) + len(record.left_out) == asked
            within = [[each.box.contains(one.box) for one in old] for each in record.tumors]
            assert all(any(row) for row in within)


def test_in_memory_as_in_files(workspace, phantoms, tmp_path):
    paint(workspace, phantoms, tmp_path / "out", "copypaste", 1, tumors=3)
    (record,) = read_provenance(tmp_path / "out")
    host, grid = read_volume(phantoms.healthy / record.host_file[0])
    options = {"method": "copypaste", "work": workspace.root, "device": "cpu", "seed": record.seed}
    pair = api.paint(host, grid.spacing_mm, tumors=3, **options)
    np.testing.assert_array_equal(
        pair.image, read_volume(tmp_path / "out" / "imagesTr" / f"{record.case}_0000.nii.gz")[0]
    )
    assert pair.provenance.boxes == record.boxes
    assert pair.mask.sum() == sum(pair.mask[box.slices].sum() for box in record.boxes)
