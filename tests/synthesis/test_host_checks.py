"""Hosts unlike the training cases: what is certainly wrong is refused, what is doubtful is told, all else passes."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from support.pairs import paint, provenance

from tumorgen_cli import api
from tumorgen_cli.data.body import body_levels, body_mask
from tumorgen_cli.data.volumes import read_volume, write_volume
from tumorgen_cli.geometry import Grid
from tumorgen_cli.pipeline.nnunet_setup import set_up_nnunet
from tumorgen_cli.planning.fingerprint import CaseFacts
from tumorgen_cli.planning.plan import ChannelPlan
from tumorgen_cli.studies import comparison
from tumorgen_cli.synthesis.host_checks import (
    check_intensities,
    check_sources,
    coarse_faults,
    grid_doubts,
    place_doubts,
)
from tumorgen_cli.synthesis.options import HostOptions
from tumorgen_cli.synthesis.scan import Scan, read_scan
from tumorgen_cli.synthesis.sources import healthy_sources
from tumorgen_cli.system.errors import DataError, StateError

TRAINED_ON = (Grid((200, 200, 120), (0.8, 0.8, 2.5)), Grid((180, 190, 100), (0.7, 0.7, 2.5)))
CASES = tuple(CaseFacts(str(i), grid, ()) for i, grid in enumerate(TRAINED_ON))


def rescaled(phantoms, folder, factors):
    """Copies of the healthy phantoms, each multiplied by a factor."""
    for path, factor in zip(sorted(phantoms.healthy.iterdir()), factors, strict=True):
        image, grid = read_volume(path)
        write_volume(folder / path.name, image * np.float32(factor), grid)
    return folder


def test_scans_like_the_training_cases_pass(workspace, phantoms, capsys):
    plan, cases = workspace.plan(), workspace.fingerprint().of(workspace.splits().train).cases
    sources = healthy_sources(plan, phantoms.healthy, None)
    check_sources(sources, None, plan, cases)
    for source in sources:
        scan = read_scan(source.name, source.files, None, plan)
        assert check_intensities(scan, body_mask(scan.image[0]), cases, plan.channels) == ()
    assert "warning" not in capsys.readouterr().err


def test_without_surroundings_of_tumors_boxes_are_drawn_anywhere_and_that_is_told(workspace, phantoms, capsys):
    plan, cases = workspace.plan(), workspace.fingerprint().of(workspace.splits().train).cases
    bare = [replace(case, tumors=tuple(replace(tumor, surroundings=None) for tumor in case.tumors)) for case in cases]
    sources = healthy_sources(plan, phantoms.healthy, None)
    check_sources(sources, None, plan, bare)
    shown = " ".join(capsys.readouterr().err.split())
    assert f"around none of the {sum(len(case.tumors) for case in cases)} training tumors" in shown
    assert place_doubts(plan, [cases[0], *bare[1:]]) == []
    assert place_doubts(replace(plan, paste=replace(plan.paste, places="anywhere")), bare) == []


def test_bq_per_ml_is_not_suv(workspace, phantoms, tmp_path):
    """A wrong host loses its own pairs; if all are wrong, nothing is made; and in memory it is the same."""
    both = rescaled(phantoms, tmp_path / "both", (5000, 5000))
    with pytest.raises(DataError, match="No host can be used") as error:
        paint(workspace, replace(phantoms, healthy=both), tmp_path / "out", "syntumor", pairs=4)
    assert [fault.where for fault in error.value.faults] == [str(path) for path in sorted(both.iterdir())]
    fault = error.value.faults[0]
    usual = [case.body[0][1] for case in workspace.fingerprint().of(workspace.splits().train).cases]
    image, grid = read_volume(min(both.iterdir()))
    median = np.median(image[body_mask(image)])
    assert f"median {median:.3g}" in fault.found
    assert fault.expected == f"{min(usual):.3g} to {max(usual):.3g}, as in the training cases"
    assert median > 1000 * max(usual)
    with pytest.raises(DataError, match="another unit"):
        api.paint(image, grid.spacing_mm, method="syntumor", work=workspace.root, device="cpu")
    assert not (tmp_path / "out").exists(), "nothing is left of a set that is refused"
    one = rescaled(phantoms, tmp_path / "one", (1, 5000))
    report = paint(workspace, replace(phantoms, healthy=one), tmp_path / "other", "syntumor", pairs=4)
    assert (report.tally.pairs, report.tally.given_up) == (2, 2)
    assert {line["host"] for line in provenance(tmp_path / "other")} == {"Healthy_000"}


def test_a_hot_host_is_painted_into_if_the_user_vouches_for_its_unit(workspace, phantoms, tmp_path):
    """As a scan cut out around a hot organ looks; the same command makes the pair that was given up."""
    hot = replace(phantoms, healthy=rescaled(phantoms, tmp_path / "hot", (1, 20)))
    report = paint(workspace, hot, tmp_path / "out", "syntumor", pairs=2)
    assert (report.tally.pairs, report.tally.given_up) == (1, 1)
    report = paint(workspace, hot, tmp_path / "out", "syntumor", pairs=2, trust_units=True)
    assert (report.tally.pairs, report.tally.made, report.tally.given_up) == (2, 1, 0)
    unlike = {line["host"]: line["unlike"] for line in provenance(tmp_path / "out")}
    assert unlike["Healthy_000"] == []
    assert unlike["Healthy_001"][0].startswith("PET in the body, median:")
    assert unlike["Healthy_001"][0].endswith("(trusted to be the same unit)")


def test_doubtful_intensities_are_told(workspace, phantoms, tmp_path, capsys):
    hosts = rescaled(phantoms, tmp_path / "hosts", (5, 5))
    assert paint(workspace, replace(phantoms, healthy=hosts), tmp_path / "out", "syntumor", pairs=2).tally.pairs == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "Healthy_000 is unlike the training cases (PET in the body, median:" in said
    assert "2 hosts have intensities unlike the training cases': Healthy_000, Healthy_001" in said


def ct_scan(change):
    image = np.full((24, 24, 20), -1000.0, np.float32)
    image[4:20, 5:19] = np.random.default_rng(0).normal(40, 60, (16, 14, 20))
    image[8:11, 8:12, 4:16] = -800  # lung
    image = change(image)
    grid = Grid(image.shape, (8.0, 8.0, 8.0))
    return Scan("host", (), image[None], (image.dtype,), grid, np.array([[-160.0, 240.0]]), None, ("CT",))


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        (lambda image: image, "pass"),
        (lambda image: image + 60, "pass"),
        (lambda image: image + 250, "doubt"),
        (lambda image: image + 1024, "refused"),
        (lambda image: (image + 1000) / 2000, "refused"),
    ],
    ids=["HU", "other organs", "strange", "offset", "normalized"],
)
def test_hounsfield_units(change, outcome):
    usual = ct_scan(lambda image: image)
    cases = [CaseFacts("a", usual.grid, (), (body_levels(usual.image[0], body_mask(usual.image[0])),))]
    scan, channels = ct_scan(change), [ChannelPlan("CT", "dataset", -160.0, 240.0, 1.0)]
    body = body_mask(scan.image[0])
    if outcome == "refused":
        with pytest.raises(DataError, match="another unit") as error:
            check_intensities(scan, body, cases, channels)
        said = "convert it to the unit of the training cases (HU, SUV), or leave this host out; if the unit is right"
        assert error.value.faults[0].remedy.startswith(said)
        assert "add --trust-units" in error.value.faults[0].remedy
        assert "(trusted to be the same unit)" in check_intensities(scan, body, cases, channels, trusted=True)[0]
    else:
        assert bool(check_intensities(scan, body, cases, channels)) == (outcome == "doubt")
    own = [replace(channels[0], name="T1", scheme="own")]
    assert check_intensities(scan, body, cases, own) == ()  # such scans have no common unit


def test_a_ct_of_five_times_coarser_voxels_is_refused():
    coarse = Grid((40, 40, 24), (4.0, 4.0, 12.5))
    (fault,) = coarse_faults({"host": coarse, "good": TRAINED_ON[0]}, CASES)
    assert (fault.where, fault.found) == ("host", "voxels of 4×4×12.5 mm")
    assert fault.expected == "0.7×0.7×2.5 to 0.8×0.8×2.5 mm, as in the training cases"
    said = "use scans of a finer spacing, correct the header if it is wrong, or leave this host out"
    assert fault.remedy == said
    assert coarse_faults({"host": replace(coarse, spacing_mm=(0.8, 0.8, 2.5)), "good": TRAINED_ON[0]}, CASES) == []


def test_doubtful_grids_are_told_with_figures():
    thick = Grid((200, 200, 40), (0.8, 0.8, 7.5))
    turned = Grid((100, 200, 200), (2.5, 0.8, 0.8))
    slab = Grid((200, 200, 8), (0.8, 0.8, 2.5))
    assert not coarse_faults({"thick": thick, "turned": turned, "slab": slab}, CASES)
    assert grid_doubts({"turned": turned, "same": TRAINED_ON[1]}, CASES) == []
    (said,) = grid_doubts({"thick": thick, "same": TRAINED_ON[0]}, CASES)
    assert said.startswith("1 of 2 hosts have voxels unlike the training cases' (thick: 0.8×0.8×7.5 mm; trained on 0.7")
    (said,) = grid_doubts({"slab": slab}, CASES)
    assert "fields of view unlike the training cases' (slab: 20×160×160 mm" in said


def test_a_region_of_probabilities_is_refused(workspace, phantoms, tmp_path):
    """They are above 0 everywhere, so that tumors would lie anywhere. Whole numbers of any type are a mask."""
    regions = tmp_path / "regions"
    for path in sorted(phantoms.healthy.iterdir()):
        region, grid = read_volume(phantoms.regions / path.name.replace("_0000", ""))
        write_volume(regions / path.name.replace("_0000", ""), 0.9 * region.astype(np.float32) + 1e-6, grid)
    with pytest.raises(DataError, match="No host can be used") as error:
        paint(workspace, phantoms, tmp_path / "out", "syntumor", pairs=2, roi=regions)
    assert [fault.where for fault in error.value.faults] == [str(path) for path in sorted(regions.iterdir())]
    assert "no whole numbers, 1e-06 to 0.900001" in error.value.faults[0].found
    said = "cut probabilities at 0.5, resample masks by nearest neighbor, and save whole numbers"
    assert error.value.faults[0].remedy == said
    image, grid = read_volume(min(phantoms.healthy.iterdir()))
    options = {"method": "syntumor", "work": workspace.root, "device": "cpu"}
    with pytest.raises(DataError, match="no mask"):
        api.paint(image, grid.spacing_mm, region=np.full(image.shape, 0.2), **options)
    whole, _ = read_volume(phantoms.regions / "Healthy_000.nii.gz")
    pair = api.paint(image, grid.spacing_mm, region=whole.astype(np.float32), **options)
    assert min(tumor.inside for tumor in pair.provenance.tumors) >= 0.95


def test_regions_are_asked_for_only_of_hosts_that_are_used(workspace, phantoms, tmp_path):
    regions = tmp_path / "regions"
    regions.mkdir()
    shutil.copy(phantoms.regions / "Healthy_000.nii.gz", regions)
    assert paint(workspace, phantoms, tmp_path / "out", "syntumor", pairs=1, roi=regions).tally.pairs == 1
    with pytest.raises(DataError, match="Regions of interest are missing") as error:
        paint(workspace, phantoms, tmp_path / "out", "syntumor", pairs=2, roi=regions)
    assert [fault.expected for fault in error.value.faults] == ["a mask for Healthy_001"]
    assert error.value.faults[0].remedy == "write one mask per scan, named as the scan without _0000"
    shutil.copy(phantoms.regions / "Healthy_001.nii.gz", regions)
    assert paint(workspace, phantoms, tmp_path / "out", "syntumor", pairs=2, roi=regions).tally.pairs == 2


def test_hosts_are_checked_before_hours_of_training(unpainted, phantoms, tmp_path, monkeypatch):
    """By nnunet-setup as a whole, by compare with their headers; none of them writes or trains anything."""
    wrong = rescaled(phantoms, tmp_path / "wrong", (1, 5000))
    with pytest.raises(StateError, match="cannot be set up") as refused:
        set_up_nnunet(unpainted, "copypaste", HostOptions(wrong), device="cpu", folder=tmp_path / "setup")
    assert [fault.where for fault in refused.value.faults] == [str(max(wrong.iterdir()))]
    assert not (tmp_path / "setup").exists()
    coarse = tmp_path / "coarse"
    for path in sorted(phantoms.healthy.iterdir()):
        image, grid = read_volume(path)
        spacing = tuple(5 * edge for edge in grid.spacing_mm)
        write_volume(coarse / path.name, image, replace(grid, spacing_mm=spacing))
    monkeypatch.setattr(comparison, "train_within", lambda *_: pytest.fail("trained"))
    with pytest.raises(DataError, match="Nothing can be painted there") as error:
        comparison.compare_methods(
            unpainted, comparison.ComparisonDesign(["copypaste"], 2), HostOptions(coarse), device="cpu"
        )
    assert [fault.where for fault in error.value.faults] == ["Healthy_000", "Healthy_001"]
