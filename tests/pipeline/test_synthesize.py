"""The names of sets in the workspace."""

from pathlib import Path

import pytest

from tumorgen_cli.geometry import Box
from tumorgen_cli.methods.base import Sampling
from tumorgen_cli.pipeline.synthesize import set_name, synthesize_pairs
from tumorgen_cli.synthesis.options import HostOptions, QualityOptions, SetOptions, refuse_host_options
from tumorgen_cli.system.errors import PlanError

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
        (HostOptions(TORSO, paint_in="liver"), QualityOptions(), "--paint-in and --host-labels"),
        (HostOptions(TORSO, host_labels=TORSO), QualityOptions(), "--paint-in and --host-labels"),
        (
            HostOptions(TORSO, roi=TORSO, paint_in="liver", host_labels=TORSO),
            QualityOptions(),
            "--roi and --host-labels",
        ),
        (HostOptions(TORSO), QualityOptions(judge=Path("bundled")), "--until-pass"),
    ],
)
def test_no_option_is_ignored(workspace, hosts, quality, message):
    with pytest.raises(PlanError, match=message):
        synthesize_pairs(workspace, "syntumor", SetOptions(1), hosts, quality=quality, device="cpu")


def test_options_that_a_stage_does_not_know_are_refused():
    refuse_host_options(HostOptions(TORSO), "healthy", "cases")
    with pytest.raises(PlanError, match="--host-labels"):
        refuse_host_options(HostOptions(TORSO, host_labels=TORSO), "healthy", "cases")
