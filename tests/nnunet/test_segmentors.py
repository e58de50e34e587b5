"""Networks that nnU-Net trains beside its own: their plans, and whether nnU-Net builds, switches and applies them."""

from typing import get_args

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from tumorgen_cli.nnunet.job import NetworkSize
from tumorgen_cli.nnunet.segmentors import Segmentor, has_own_network, plan_network

CONVOLUTIONS = {
    "n_stages": 6,
    "features_per_stage": [32, 64, 128, 256, 320, 320],
    "strides": [[1, 1, 1]] + [[2, 2, 2]] * 5,
    "kernel_sizes": [[3, 3, 3]] * 6,
    "n_conv_per_stage_decoder": [2] * 5,
}
SIZE = NetworkSize(voxels=2**17, stages=4, first=16, most=128)


def planned(patch, **more):
    return {
        "patch_size": patch,
        "batch_size": 2,
        "spacing": [1.0, 1.0, 1.0],
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {**CONVOLUTIONS, **more},
        },
    }


@pytest.mark.parametrize(
    ("segmentor", "size", "patch", "wanted"),
    [
        ("swinunetr", None, [96, 112, 160], [96, 128, 160]),
        ("unetr", None, [96, 112, 160], [96, 112, 160]),
        ("unet", None, [28, 56, 160], [32, 64, 160]),
        ("swinunetr", SIZE, [96, 96, 96], [64, 64, 64]),  # two cells of 32 along each side
        ("unetr", SIZE, [96, 96, 96], [32, 48, 64]),
    ],
)
def test_patches_fit_the_network(segmentor, size, patch, wanted):
    found = plan_network(planned(patch, n_conv_per_stage=[2] * 6), segmentor, size)
    assert sorted(found["patch_size"]) == sorted(wanted)
    assert found["spacing"] == [1.0, 1.0, 1.0]
    assert has_own_network("resenc-l")


def test_nnunets_own_networks_are_only_made_smaller():
    plain = planned([64, 64, 64], n_conv_per_stage=[2] * 6)
    assert plan_network(plain, "nnunet", None) == plain
    residual = planned([64, 64, 64], n_blocks_per_stage=[1, 3, 4, 6, 6, 6])
    kwargs = plan_network(residual, "resenc-m", SIZE)["architecture"]["arch_kwargs"]
    assert (kwargs["n_blocks_per_stage"], kwargs["n_conv_per_stage_decoder"]) == ([1, 3, 4, 6], [2, 2, 2])
    assert kwargs["features_per_stage"] == [16, 32, 64, 128]


@pytest.mark.parametrize("segmentor", [name for name in get_args(Segmentor) if not has_own_network(name)])
def test_nnunet_builds_switches_and_applies_the_network(segmentor):
    """As the trainer and the judge do."""
    configuration = plan_network(planned([64, 64, 64], n_conv_per_stage=[2] * 6), segmentor, SIZE)
    architecture = configuration["architecture"]
    network = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        1,
        3,
        deep_supervision=False,
    ).eval()
    network.decoder.deep_supervision = False
    with torch.no_grad():
        logits = network(torch.zeros(1, 1, *configuration["patch_size"]))
    assert logits.shape == (1, 3, *configuration["patch_size"])
