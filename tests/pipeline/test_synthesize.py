"""The names of sets in the workspace."""

from pathlib import Path

import pytest

from tumorgen_cli.geometry import Box
from tumorgen_cli.methods.base import Sampling
from tumorgen_cli.pipeline.synthesize import set_name
from tumorgen_cli.synthesis.options import HostOptions, QualityOptions

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
        (HostOptions(TORSO), Sampling(50, "heun"), QualityOptions(), "tumorgen_torso_steps-50_solver-heun"),
        (HostOptions(TORSO), Sampling(), QualityOptions(5), "tumorgen_torso_until-pass-5"),
        (HostOptions(TORSO), Sampling(), QualityOptions(5, 0.9), "tumorgen_torso_until-pass-5_keep-0.9"),
    ],
)
def test_a_set_is_named_after_its_options(hosts, sampling, quality, name):
    assert set_name("tumorgen", hosts, sampling, quality) == name
