"""Tumors lie in the region or in the body as a whole; other places are drawn again, and every draw is counted."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from support.pairs import Fake, beyond, paint, provenance, run_fake

from tumorgen_cli import api
from tumorgen_cli.api import memory
from tumorgen_cli.data.body import body_mask
from tumorgen_cli.data.volumes import read_volume, write_volume
from tumorgen_cli.geometry import Box
from tumorgen_cli.methods.base import Synthetic
from tumorgen_cli.pipeline import synthesize as pipeline_synthesize
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis import pair as pair_module
from tumorgen_cli.synthesis.draws import BEYOND_RANGE
from tumorgen_cli.synthesis.jobs import PairJob
from tumorgen_cli.synthesis.options import HostOptions, SetOptions
from tumorgen_cli.synthesis.places import OUTSIDE_BODY, OUTSIDE_REGION, Placing
from tumorgen_cli.synthesis.scan import read_scan
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.synthesis.sources import Source
from tumorgen_cli.system.errors import DataError

CORNER = Box((0, 0, 8), (12, 12, 20))  # mostly air


def masks(folder):
    for record in read_provenance(folder):
        labels, _ = read_volume(folder / "labelsTr" / f"{record.case}.nii.gz")
        yield record, labels == 1


def test_tumors_lie_in_the_body(workspace, phantoms, tmp_path):
    report = paint(workspace, phantoms, tmp_path / "out", "syntumor", pairs=8, seed=3, anywhere=True)
    assert report.tally.rejected[OUTSIDE_BODY] > 0
    assert report.tally.draws == report.tally.pairs + sum(report.tally.rejected.values())
    for record, mask in masks(tmp_path / "out"):
        body = body_mask(read_volume(phantoms.healthy / record.host_file[0])[0])
        (tumor,) = record.tumors
        assert tumor.inside == pytest.approx(body[mask].mean(), abs=1e-4)
        assert tumor.inside >= 0.98
        assert tumor.attempt == sum(tumor.rejected.values())


@pytest.mark.parametrize("method", ["copypaste", "syntumor"])
def test_tumors_lie_in_their_region(workspace, phantoms, tmp_path, method):
    report = paint(workspace, phantoms, tmp_path / "out", method, pairs=8, roi=phantoms.regions)
    assert report.tally.rejected.keys() <= {OUTSIDE_REGION, "too small", "empty"}
    for record, mask in masks(tmp_path / "out"):
        region, _ = read_volume(phantoms.regions / f"{record.host}.nii.gz")
        (tumor,) = record.tumors
        assert tumor.inside == pytest.approx((region[mask] > 0).mean(), abs=1e-4)
        assert tumor.inside >= 0.95


def test_a_place_without_room_is_not_painted(workspace, phantoms, tmp_path):
    """Its seconds are those of the pair, and the judge is not asked, nor the method."""
    regions = tmp_path / "regions"
    for path in sorted(phantoms.regions.iterdir()):
        region, grid = read_volume(path)
        region[...] = 0
        region[20, 18, 16] = 1
        write_volume(regions / path.name, region, grid)
    method = Fake(replace(workspace.plan(), paste=replace(workspace.plan().paste, smallest_ml=5.0)), workspace)
    host = read_scan("h", (min(phantoms.healthy.iterdir()),), None, method.plan)
    source = Source("h", host.files, roi=min(regions.iterdir()))
    inputs = pair_module.PairInputs(method, workspace.fingerprint().cases, api.Sampling())
    loaded = pair_module.open_host(inputs, source, host, "")
    draw = pair_module.draw_pair(inputs, PairJob(0, source, "h_s0000", 1, 0), loaded)
    assert draw.tumors == ()
    assert draw.left_out == ({OUTSIDE_REGION: method.plan.paste.draws},)
    assert method.requests == []


def test_places_that_are_drawn_again_lie_deeper(workspace, phantoms):
    plan = workspace.plan()
    scan = read_scan("h", (min(phantoms.healthy.iterdir()),), None, plan)
    placing = Placing(scan, Source("h", scan.files), plan, workspace.fingerprint().tumors, None, anywhere=True)
    shares = {
        deep: np.mean([placing.body[placing.window(np.random.default_rng(i), 0, 1, deep).requested_box.slices].mean()
                       for i in range(20)])
        for deep in (False, True)
    }  # fmt: skip
    assert shares[True] > 0.93 > shares[False]


def test_the_users_box_is_kept_and_what_lies_outside_is_told(workspace, phantoms, tmp_path, capsys):
    report = paint(workspace, phantoms, tmp_path / "out", "syntumor", pairs=2, box=CORNER)
    assert (report.tally.pairs, report.tally.rejected) == (2, {})
    first = provenance(tmp_path / "out")[0]
    inside = first["tumors"][0]["inside"]
    assert inside < 0.98
    said = " ".join(capsys.readouterr().err.split())
    assert f"in 2 of 2 pairs the tumor is not whole in the region or body ({first['case']}: " in said
    assert f"{100 * inside:.0f} %" in said
    image, grid = read_volume(phantoms.healthy / first["host_file"][0])
    options = {"method": "syntumor", "work": workspace.root, "device": "cpu", "seed": first["seed"]}
    pair = api.paint(image, grid.spacing_mm, box=CORNER, **options)
    assert pair.provenance.tumors[0].inside == inside
    assert f"{100 * inside:.0f} % of the tumor is in the body" in " ".join(capsys.readouterr().err.split())


def test_an_old_tumor_belongs_to_the_body(workspace, phantoms, tmp_path):
    """However large and hot it is, and although it alone would be the body by its intensities."""
    path = min((phantoms.dataset / "imagesTr").iterdir())
    image, grid = read_volume(path)
    labels = np.zeros(image.shape, np.uint8)
    labels[5:35, 5:31, 5:28] = 1
    image[labels == 1] = 40
    for name, array in (("h_0000.nii.gz", image), ("h.nii.gz", labels)):
        write_volume(tmp_path / name, array, grid)
    scan = read_scan("h", (tmp_path / "h_0000.nii.gz",), tmp_path / "h.nii.gz", workspace.plan())
    placing = Placing(scan, Source("h", scan.files), workspace.plan(), (), None)
    assert placing.body[labels == 1].all()
    assert not placing.body[:2, :2].any()


class Dark(Fake):
    """Paints a hole that is darker than any scan can be, for the first draws."""

    def synthesize(self, request, seed, sampling):
        made = super().synthesize(request, seed, sampling)
        return made if len(self.seeds) > 2 else Synthetic(made.image - 50 * made.mask, made.mask)


def test_a_tumor_that_is_cut_at_the_scans_lowest_value_is_drawn_again(workspace, phantoms, tmp_path):
    """A hole of zeros is no tumor that the method has painted."""
    tally = run_fake(workspace, phantoms, tmp_path / "out", Dark(workspace.plan(), workspace))
    assert tally.rejected[BEYOND_RANGE] == 2
    for record, mask in masks(tmp_path / "out"):
        image, _ = read_volume(tmp_path / "out" / "imagesTr" / f"{record.case}_0000.nii.gz")
        assert image[mask].min() > 0


def turned_hosts(workspace, phantoms, grid, folder):
    """Two-channel hosts of a turned grid, the second channel of whole numbers; and the plan of such scans."""
    turned = replace(grid, shape=(40, 36, 32), spacing_mm=(5.5, 5.3, 6.3))
    for path in sorted(phantoms.healthy.iterdir()):
        image, _ = read_volume(path)
        write_volume(folder / path.name, image, turned)
        write_volume(folder / path.name.replace("_0000", "_0001"), np.rint(3 * image).astype(np.int16), turned)
    plan = workspace.plan()
    second = replace(plan.channels[0], name="SUV")
    anywhere = replace(plan.paste, places="anywhere")  # what is around the phantoms' tumors was seen in one channel
    return turned, replace(plan, channels=(plan.channels[0], second), paste=anywhere)


def test_hosts_of_two_channels_whole_numbers_and_a_turned_grid(
    workspace, phantoms, tmp_path, grid, monkeypatch, request
):
    """Painted in files and in memory: the same voxels, the host's own outside the box, and the host's geometry."""
    request.addfinalizer(memory._load_painter.cache_clear)  # it keeps a method whose plan is this test's
    turned, plan = turned_hosts(workspace, phantoms, grid, tmp_path / "hosts")
    facts = workspace.fingerprint()
    facts = replace(facts, channels=tuple(replace(facts.channels[0], name=channel.name) for channel in plan.channels))
    monkeypatch.setattr(Workspace, "plan", lambda _: plan)
    monkeypatch.setattr(Workspace, "fingerprint", lambda _: facts)
    opened = Fake(plan, workspace)
    monkeypatch.setattr(pipeline_synthesize, "open_method", lambda *_: opened)
    monkeypatch.setattr("tumorgen_cli.methods.open.open_method", lambda *_: opened)
    made = SetOptions(2, tmp_path / "out")
    pipeline_synthesize.synthesize_pairs(workspace, "fake", made, HostOptions(tmp_path / "hosts"), device="cpu")
    for record, mask in masks(tmp_path / "out"):
        hosts = [read_volume(tmp_path / "hosts" / file) for file in record.host_file]
        names = [f"{record.case}_{channel:04d}.nii.gz" for channel in range(2)]
        images = [read_volume(tmp_path / "out" / "imagesTr" / name) for name in names]
        outside = beyond(mask.shape, record.changed)
        for (host, _), (image, found) in zip(hosts, images, strict=True):
            assert image.dtype == host.dtype
            np.testing.assert_array_equal(image[outside], host[outside])
            assert (image[mask] > host[mask]).mean() > 0.9
            np.testing.assert_allclose(found.direction, turned.direction, atol=1e-5)
            np.testing.assert_allclose(found.origin_mm, turned.origin_mm, atol=1e-3)
            np.testing.assert_allclose(found.spacing_mm, turned.spacing_mm, atol=1e-5)
        assert [image.dtype for image, _ in images] == [np.float32, np.int16]
        both = np.stack([host.astype(np.float32) for host, _ in hosts])
        pair = api.paint(
            both, turned.spacing_mm, method="copypaste", work=workspace.root, device="cpu", seed=record.seed
        )
        assert pair.provenance.boxes == record.boxes
        np.testing.assert_array_equal(pair.mask, mask)
        np.testing.assert_allclose(pair.image[0], images[0][0], atol=1e-5)
        np.testing.assert_allclose(pair.image[1], images[1][0], atol=0.5001)
        np.testing.assert_array_equal(pair.image[:, outside], both[:, outside])


def test_a_dry_run_checks_all_hosts_and_leaves_nothing(workspace, phantoms, tmp_path):
    made = SetOptions(4, tmp_path / "out", dry_run=True)

    def run(healthy, set_options):
        return pipeline_synthesize.synthesize_pairs(
            workspace, "syntumor", set_options, HostOptions(healthy), device="cpu"
        )

    found = run(phantoms.healthy, made)
    assert not (tmp_path / "out").exists()
    assert (found.forecast.there, found.forecast.missing, found.forecast.hosts) == (0, 4, 2)
    assert (found.tally.made, found.tally.left) == (0, 4)
    report = run(phantoms.healthy, replace(made, dry_run=False))
    size = sum(path.stat().st_size for kind in ("imagesTr", "labelsTr", "previews")
               for path in (tmp_path / "out" / kind).iterdir())  # fmt: skip
    assert 0.7 < found.forecast.disk_bytes / size < 1.4
    assert 0.7 < report.forecast.disk_bytes / size < 2
    assert found.forecast.seconds > 0
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "out").rglob("*"))
    more = run(phantoms.healthy, replace(made, pairs=6))
    assert (more.forecast.there, more.forecast.missing, more.tally.pairs) == (4, 2, 4)
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "out").rglob("*")) == before
    shutil.copytree(phantoms.healthy, tmp_path / "hosts")
    last = max((tmp_path / "hosts").iterdir())
    image, grid = read_volume(last)
    write_volume(last, np.where(image > 1e6, 0, image * np.float32(5000)), grid)
    with pytest.raises(DataError, match="Hosts cannot be used") as error:
        run(tmp_path / "hosts", replace(made, out=tmp_path / "other"))
    assert [fault.where for fault in error.value.faults] == [str(last)]
    assert not (tmp_path / "other").exists()


def test_fewer_pairs_than_there_are(workspace, phantoms, tmp_path, capsys):
    paint(workspace, phantoms, tmp_path / "out", "syntumor", pairs=2)
    lines = (tmp_path / "out" / "provenance.jsonl").read_text()
    capsys.readouterr()
    report = paint(workspace, phantoms, tmp_path / "out", "syntumor", pairs=1)
    assert (report.tally.pairs, report.tally.made) == (2, 0)
    said = " ".join(capsys.readouterr().err.split())
    assert "no pair is left to paint; the set has 2" in said
    assert "holds 2 pairs and 1 was asked for: none is removed" in said
    assert (tmp_path / "out" / "provenance.jsonl").read_text() == lines
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["numTraining"] == 2


def test_change_beyond_the_skin():
    """The body is a half of the scan, of every second voxel. Of 8 + 2 units of change 2 lie outside it."""
    placing, box = Placing.__new__(Placing), Box((2, 2, 2), (7, 7, 7))
    placing.region, placing.stride = None, 2
    placing.body = np.zeros((4, 4, 4), bool)
    placing.body[:2] = True
    before, after, mask = np.zeros((8, 8, 8)), np.zeros((8, 8, 8)), np.zeros((8, 8, 8), bool)
    after[3, 3, 3:5], after[4, 3, 3:5] = -4, 1
    mask[3, 3, 3:5] = True
    before, after, mask, beyond = (each[box.slices] for each in (before, after, mask, np.roll(mask, 1, 0)))
    assert placing.change_beyond_body(before, after, mask, box) == pytest.approx(0.2)
    assert placing.change_beyond_body(before, before, mask, box) is None
    assert placing.change_beyond_body(before, after, beyond, box) is None  # lungs without a body


def test_a_host_without_a_place_is_painted_in_a_box_as_told(workspace, phantoms, monkeypatch):
    scan = min(phantoms.healthy.iterdir())
    plan, tumors = workspace.plan(), workspace.fingerprint().tumors
    host, source = read_scan("h", (scan,), None, plan), Source("h", (scan,))
    placing = Placing(host, source, plan, tumors, None)
    monkeypatch.setattr(placing._places, "draw", lambda *_: (np.zeros((0, 3), int), np.zeros(0)))
    with pytest.raises(DataError) as error:
        placing.window(np.random.default_rng(0), 0, 1)
    assert error.value.faults[0].remedy == "give --roi or --box"
    box = Box((10, 10, 10), (24, 24, 22))
    assert Placing(host, source, plan, tumors, box).window(np.random.default_rng(0), 0, 1).requested_box == box
