"""Weights from which a training starts."""

import pytest
import torch

from tumorgen_cli.models.unet import make_unet
from tumorgen_cli.nnunet.initial_weights import load_initial_weights


def weights(seed, classes=2, widths=(2, 4)):
    torch.manual_seed(seed)
    return make_unet(1, classes, widths)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_weights_are_taken_over(tmp_path, prefix):
    donor, network = weights(0), weights(1)
    state = {f"{prefix}{name}": value for name, value in donor.state_dict().items()}
    torch.save({"network_weights": state}, tmp_path / "checkpoint.pth")
    load_initial_weights(network, tmp_path / "checkpoint.pth")
    for name, value in network.state_dict().items():
        assert torch.equal(value, donor.state_dict()[name]), name


def test_last_layers_of_other_labels_stay_random(tmp_path):
    donor, network = weights(0, classes=5), weights(1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.save({"network_weights": donor.state_dict()}, tmp_path / "checkpoint.pth")
    load_initial_weights(network, tmp_path / "checkpoint.pth")
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name] if ".seg_layers." in name else donor.state_dict()[name]), name


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"network_weights": weights(0, widths=(3, 4)).state_dict()}, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match=r"is of another network: .* layers do not fit") as caught:
        load_initial_weights(weights(1), tmp_path / "checkpoint.pth")
    assert "give a checkpoint of the network that nnU-Net plans here" in str(caught.value)
