"""The names of sets in the workspace, and suspected lesions in hosts."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tumorgen_cli.data.volumes import read_volume
from tumorgen_cli.geometry import Box
from tumorgen_cli.judge.find import Choice
from tumorgen_cli.judge.suspects import Search, Suspect
from tumorgen_cli.methods.base import Sampling
from tumorgen_cli.pipeline import synthesize as module
from tumorgen_cli.pipeline.synthesize import set_name, synthesize_pairs
from tumorgen_cli.synthesis.options import HostOptions, QualityOptions, SetOptions, refuse_host_options
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.system.errors import DataError, PlanError, StateError

TORSO = Path("/data/torso")


@pytest.mark.parametrize(
    ("hosts", "sampling", "quality", "name"),
    [
        (HostOptions(TORSO), Sampling(), QualityOptions(keep=0.9), "tumorgen_torso"),
        (HostOptions(cases="test"), Sampling(), QualityOptions(), "tumorgen_test"),
        (HostOptions(TORSO), Sampling(kind="necrotic"), QualityOptions(), "tumorgen_torso_necrotic"),
        (HostOptions(TORSO, roi=Path("rois/liver")), Sampling(), QualityOptions(), "tumorgen_torso_roi-liver"),
        (
            HostOptions(TORSO, box=Box((40, 40, 60), (60, 60, 80))),
            Sampling(),
            QualityOptions(),
            "tumorgen_torso_box-40-40-60-60-60-80",
        ),
        (
            HostOptions(TORSO, paint_in="lung/left lobe"),
            Sampling(),
            QualityOptions(),
            "tumorgen_torso_in-lung-left-lobe",
        ),
        (HostOptions(TORSO), Sampling(50, "heun"), QualityOptions(), "tumorgen_torso_steps-50_solver-heun"),
        (HostOptions(TORSO, tumors=3, anywhere=True), Sampling(), QualityOptions(), "tumorgen_torso_tumors-3_anywhere"),
        (HostOptions(TORSO), Sampling(), QualityOptions(5), "tumorgen_torso_until-pass-5"),
        (HostOptions(TORSO), Sampling(), QualityOptions(5, 0.9), "tumorgen_torso_until-pass-5_keep-0.9"),
    ],
)
def test_a_set_is_named_after_its_options(hosts, sampling, quality, name):
    assert set_name("tumorgen", hosts, sampling, quality) == name


@pytest.mark.parametrize(
    ("hosts", "quality", "message"),
    [
        (HostOptions(TORSO, cases="test"), QualityOptions(), "--healthy"),
        (HostOptions(cases="test", roi=TORSO), QualityOptions(), "--roi"),
        (HostOptions(cases="test", anywhere=True), QualityOptions(), "--anywhere"),
        (HostOptions(TORSO, box=Box((0, 0, 0), (4, 4, 4)), anywhere=True), QualityOptions(), "--anywhere and --box"),
        (HostOptions(TORSO, paint_in="liver"), QualityOptions(), "--paint-in and --host-labels"),
        (HostOptions(TORSO, host_labels=TORSO), QualityOptions(), "--paint-in and --host-labels"),
        (
            HostOptions(TORSO, roi=TORSO, paint_in="liver", host_labels=TORSO),
            QualityOptions(),
            "--roi and --host-labels",
        ),
        (HostOptions(cases="test"), QualityOptions(judge=Path("bundled")), "--until-pass"),
    ],
)
def test_no_option_is_ignored(workspace, hosts, quality, message):
    with pytest.raises(PlanError, match=message):
        synthesize_pairs(workspace, "syntumor", SetOptions(1), hosts, quality=quality, device="cpu")


def test_options_that_a_stage_does_not_know_are_refused():
    refuse_host_options(HostOptions(TORSO), "healthy", "cases")
    with pytest.raises(PlanError, match="--host-labels"):
        refuse_host_options(HostOptions(TORSO, host_labels=TORSO), "healthy", "cases")


class Suspicious:
    """Stands in for a judge: marks a block of the host whose name it knows by its brightest voxel."""

    usual_extent_mm, hash, folder, tumor_labels = (1e6, 1e6, 1e6), "suspicious", Path("suspicious"), (1,)

    def __init__(self, peak):
        self.peak = peak

    def tumor_with_probability(self, image, grid):
        found = np.zeros(grid.shape, bool)
        found[:4, :4, :4] = image.max() == self.peak
        return found, np.full(grid.shape, 0.75, np.float32)


def test_suspected_lesions_are_told_listed_and_left_out(workspace, phantoms, tmp_path, monkeypatch, capsys):
    first, second = sorted(phantoms.healthy.glob("*_0000.nii.gz"))
    judge = Suspicious(read_volume(second)[0].max())
    monkeypatch.setattr(module, "load_judge", lambda *_: judge)
    hosts, out = HostOptions(phantoms.healthy), tmp_path / "all"
    synthesize_pairs(workspace, "syntumor", SetOptions(2, out), hosts, device="cpu")
    text = " ".join(capsys.readouterr().err.split())
    assert "suspected lesions in 1 of 2 hosts: looked for lesions of 0.05 ml and more" in text
    assert workspace.plan().paste.smallest_ml == 0.05
    assert f"{second.name[:11]}: 1 (" in text
    (row,) = csv.DictReader((out / "suspects.csv").read_text().splitlines())
    assert (row["host"], row["probability"]) == (second.name[:11], "0.750")
    suspected = {line.host: line.suspected_ml for line in read_provenance(out)}
    assert suspected == {first.name[:11]: 0, second.name[:11]: float(row["volume_ml"])}
    left = tmp_path / "left"
    synthesize_pairs(workspace, "syntumor", SetOptions(2, left), replace(hosts, skip_suspects=True), device="cpu")
    assert {line.host for line in read_provenance(left)} == {first.name[:11]}


@pytest.mark.parametrize("file", ["thesis.tex", "set.json"])
def test_a_folder_of_others_is_refused_before_a_judge_looks(workspace, phantoms, tmp_path, monkeypatch, file):
    monkeypatch.setattr(module, "load_judge", lambda *_: pytest.fail("the judge was loaded"))
    (tmp_path / file).write_text('{"command": "filter"}')
    with pytest.raises(StateError, match="choose another folder with --out"):
        synthesize_pairs(workspace, "syntumor", SetOptions(2, tmp_path), HostOptions(phantoms.healthy), device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == [file]


def test_one_judge_looks_at_the_hosts_and_tests_the_draws(workspace, phantoms, tmp_path, monkeypatch):
    loaded = []

    class Blind(Suspicious):
        def predict(self, image, grid):
            return np.zeros(grid.shape, np.uint8)

        def tumor(self, image, grid):
            return np.zeros(grid.shape, bool)

    monkeypatch.setattr(module, "load_judge", lambda *_: loaded.append(Blind(0)) or loaded[-1])
    monkeypatch.setattr("tumorgen_cli.synthesis.synthesize.write_judges", lambda *_: None)
    hosts, quality = HostOptions(phantoms.healthy), QualityOptions(1, judge=Path("bundled"))
    made = synthesize_pairs(workspace, "syntumor", SetOptions(1, tmp_path / "out"), hosts, quality=quality)
    assert (len(loaded), made.tally.given_up, made.tally.rejected) == (1, 1, {"P below the threshold": 1})


def test_a_given_judge_looks_at_hosts(workspace, phantoms, tmp_path, monkeypatch):
    """As the remedy of --skip-suspects without a judge says."""
    asked = []
    monkeypatch.setattr(module, "choose_judge", lambda *a: asked.append(a[1]) or Choice(Path("mine"), "tumor"))
    monkeypatch.setattr(module, "load_judge", lambda *_: Suspicious(0))
    hosts = HostOptions(phantoms.healthy, skip_suspects=True)
    quality, made = QualityOptions(judge=Path("mine")), SetOptions(1, tmp_path / "out")
    assert synthesize_pairs(workspace, "syntumor", made, hosts, quality=quality, device="cpu").tally.pairs == 1
    assert asked == [Path("mine")]


def test_without_a_judge_hosts_are_not_left_out_in_silence(workspace, phantoms, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "choose_judge", lambda *_: Choice(None, "tumor", reason="other scans"))
    hosts = HostOptions(phantoms.healthy)
    made = synthesize_pairs(workspace, "syntumor", SetOptions(1, tmp_path / "all"), hosts, device="cpu")
    assert made.tally.pairs == 1
    assert "hosts were not looked for: other scans" in " ".join(capsys.readouterr().err.split())
    assert read_provenance(tmp_path / "all")[0].suspected_ml is None
    skip = replace(hosts, skip_suspects=True)
    with pytest.raises(StateError, match=r"--skip-suspects(.|\n)*tumorgen train judge"):
        synthesize_pairs(workspace, "syntumor", SetOptions(1, tmp_path / "none"), skip, device="cpu")
    assert not (tmp_path / "none").exists()


def test_hosts_with_suspected_lesions_alone_are_given_otherwise_as_told(phantoms):
    every = Search({"h": (Suspect(2.0, (0.0, 0.0, 0.0), 0.9),)}, {}, 0.0)
    with pytest.raises(DataError) as error:
        module._show_left_out(every, HostOptions(phantoms.healthy, skip_suspects=True))
    assert error.value.faults[0].remedy == "leave --skip-suspects out, or give other hosts"
    module._show_left_out(Search({**every.found, "i": ()}, {}, 0.0), HostOptions(phantoms.healthy, skip_suspects=True))
