"""The comparison of speeds runs, with the same networks on both sides."""

import os
import re

import pytest


def test_training_is_measured_beside_a_plain_loop(example, trained, capsys):
    example("speed").training(trained.root, rounds=1, steps=1, device="cpu")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["vae", "flow", "refiner"]
    for line in lines:
        ours, plain, ratio = map(float, re.findall(r"(\d+\.\d+) (?:s|times)", line))
        assert ratio == pytest.approx(ours / plain, rel=0.05, abs=0.01)  # all are rounded


def test_planning_is_measured_beside_nnunet(example, phantoms, capsys):
    before = _nnunet_folders()
    example("speed").planning(str(phantoms.dataset), rounds=1)
    assert _nnunet_folders() == before  # merge looks there
    names = [line.rsplit(":", 1)[0] for line in capsys.readouterr().out.splitlines() if line.endswith(" s")]
    assert names == ["tumorgen, check and fingerprint", "nnU-Net, check", "nnU-Net, fingerprint"]


def _nnunet_folders():
    return {name: value for name, value in os.environ.items() if name.startswith("nnUNet_")}
