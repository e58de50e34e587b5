"""nnU-Net's own trainer with painted patches."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.painting import DATASET, plans

from tumorgen_cli.nnunet.on_the_fly import settings
from tumorgen_cli.nnunet.on_the_fly import trainer as trainer_module
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.system.errors import StateError
from tumorgen_cli.system.json_records import write_json


def test_without_an_epoch_left_nothing_is_painted(monkeypatch):
    """`--c` on a finished training: nnU-Net makes its validation again, wherever the workspace is now."""

    class Finished:
        current_epoch = num_epochs = 3

        def get_tr_and_val_datasets(self):
            return "train", "validation"

        def on_train_end(self):
            self.ended = True

    class Painted(trainer_module.PaintingMixin, Finished):
        pass

    monkeypatch.delenv(settings.VARIABLE, raising=False)
    found = Painted()
    assert found.get_tr_and_val_datasets() == ("train", "validation")
    found.on_train_end()
    assert found.ended


def test_nothing_named_is_told(monkeypatch):
    monkeypatch.delenv(settings.VARIABLE, raising=False)
    with pytest.raises(StateError, match="nnunet-setup"):
        trainer_module.PaintingMixin().painting()


@pytest.mark.slow
def test_nnunet_finds_the_trainer(monkeypatch):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    monkeypatch.setenv("nnUNet_extTrainer", str(Path(trainer_module.__file__).parent / "nnunet_trainers"))
    found = recursive_find_trainer_class_by_name("nnUNetTrainerTumorGen")
    assert found.__mro__[1:3] == (trainer_module.PaintingMixin, nnUNetTrainer)


TINY = """
import os
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from tumorgen_cli.nnunet.on_the_fly.trainer import PaintingMixin


class TinyTumorGen(PaintingMixin, nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = int(os.environ["EPOCHS"])
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 4, 1
"""


TRAIN = "import torch; from nnunetv2.run.run_training import run_training_entry; run_training_entry()"


def prepare(folder, phantoms, workspace, name="3d_fullres"):
    """nnU-Net's folder of the phantoms, preprocessed by nnU-Net for a configuration of the plan above."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    base = folder / "nnUNet_preprocessed" / "Dataset999_PhantomPET"
    splits = workspace.splits()
    cases = (*splits.train, *splits.test)
    write_json(base / "nnUNetPlans.json", plans())
    write_json(base / "dataset.json", DATASET)
    write_json(base / "dataset_fingerprint.json", {})
    shutil.copy(workspace.root / "nnunet" / "splits_final.json", base)
    shutil.copytree(phantoms.dataset / "labelsTr", base / "gt_segmentations")
    manager = PlansManager(plans())
    configuration = manager.get_configuration(name)
    (base / configuration.data_identifier).mkdir()
    for case in cases:
        files = [
            [str(phantoms.dataset / "imagesTr" / f"{case}_0000.nii.gz")],
            str(phantoms.dataset / "labelsTr" / f"{case}.nii.gz"),
        ]
        preprocessor = configuration.preprocessor_class(verbose=False)
        preprocessor.run_case_save(
            str(base / configuration.data_identifier / case), *files, manager, configuration, DATASET
        )


def train(folder, epochs, *options, name="3d_fullres"):
    own = {name: str(folder / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    found = f"{Path(trainer_module.__file__).parent / 'nnunet_trainers'}{os.pathsep}{folder / 'trainers'}"
    own |= {
        "nnUNet_extTrainer": found,
        "EPOCHS": str(epochs),
        "nnUNet_compile": "f",
        "nnUNet_n_proc_DA": "1",
        "nnUNet_def_n_proc": "1",
    }
    own |= {settings.VARIABLE: str(folder / "tumorgen.json")}
    command = [sys.executable, "-c", TRAIN, "999", name, "0", "-tr", "TinyTumorGen", "-device", "cpu", *options]
    run = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return run.stdout


@pytest.mark.slow
def test_nnunet_trains_resumes_and_finetunes(painting, workspace, phantoms, tmp_path):
    prepare(tmp_path, phantoms, workspace)
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "TinyTumorGen.py").write_text(TINY)
    write_json(tmp_path / "tumorgen.json", replace(painting, pool=4, share=0.5))
    said = train(tmp_path, 1)
    fold = tmp_path / "nnUNet_results" / "Dataset999_PhantomPET" / "TinyTumorGen__nnUNetPlans__3d_fullres" / "fold_0"
    assert (fold / "checkpoint_final.pth").is_file()
    assert "waiting for the first 4 entries" in said
    assert "paints into 2 hosts (Healthy_000, Healthy_001)" in said
    line = next(line for line in said.splitlines() if "in the pool" in line)
    assert re.search(r"TumorGen: [34] entries in the pool", line)  # one of them may be making room for another
    assert not line.split(";")[2].startswith(" 0% of")  # some of the patches were painted
    assert (fold / "validation" / "summary.json").is_file()
    assert not (fold / "tumorgen" / "pool").exists()  # a finished training needs none
    before = len(read_provenance(fold / "tumorgen"))
    again = train(tmp_path, 2, "--c")
    assert "Epoch 1" in again
    assert "Epoch 0" not in again
    assert len(read_provenance(fold / "tumorgen")) >= before
    write_json(tmp_path / "tumorgen.json", replace(painting, pool=4, probability=0.0))
    shutil.copy(fold / "checkpoint_final.pth", tmp_path / "pretrained.pth")
    tuned = train(tmp_path, 1, "-pretrained_weights", str(tmp_path / "pretrained.pth"))
    assert "Loading pretrained weights" in tuned
    assert "; 0% of" in tuned


@pytest.mark.slow
def test_nnunet_trains_on_painted_slices(painting, workspace, phantoms, tmp_path):
    """nnU-Net's 2D configuration draws its slices from the pool's volumes."""
    prepare(tmp_path, phantoms, workspace, "2d")
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "TinyTumorGen.py").write_text(TINY)
    write_json(tmp_path / "tumorgen.json", replace(painting, pool=4, probability=1.0))
    said = train(tmp_path, 1, name="2d")
    assert "entries of 2 tumors×" in said
    assert "; 100% of" in said
    fold = tmp_path / "nnUNet_results" / "Dataset999_PhantomPET" / "TinyTumorGen__nnUNetPlans__2d" / "fold_0"
    assert (fold / "validation" / "summary.json").is_file()
