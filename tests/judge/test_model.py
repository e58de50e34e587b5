"""The judge on an nnU-Net whose weights are set by hand: it marks every voxel above a threshold, and nothing else."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from support.spoil import cut

from tumorgen_cli.geometry import Grid
from tumorgen_cli.judge.find import bundled_judge
from tumorgen_cli.judge.model import Judge
from tumorgen_cli.metrics.overlap import dice
from tumorgen_cli.system.errors import DataError, StateError

OWN_JUDGE = "train one of your own with `tumorgen train judge`, or give an nnU-Net with --judge DIR"
COPY_AGAIN = "copy the folder again, or train the judge again"
RESULTS = "give a results folder such as Dataset501_X/nnUNetTrainer__nnUNetPlans__3d_fullres"
CPU = torch.device("cpu")
NAME = "nnUNetTrainer__nnUNetPlans__3d_fullres"
SPACING_MM = (2.0, 3.0, 5.0)
DATASET = {
    "channel_names": {"0": "PET"},
    "labels": {"background": 0, "organ": 1, "tumor": 2},
    "numTraining": 4,
    "file_ending": ".nii.gz",
}
KWARGS = {
    "n_stages": 2,
    "features_per_stage": [2, 2],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[3, 3, 3]] * 2,
    "strides": [[1, 1, 1], [2, 2, 2]],
    "n_conv_per_stage": [1, 1],
    "n_conv_per_stage_decoder": [1],
    "conv_bias": True,
    "norm_op": None,
    "norm_op_kwargs": {},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}
IMPORTS = ["conv_op", "norm_op", "dropout_op", "nonlin"]
CLASS = "dynamic_network_architectures.architectures.unet.PlainConvUNet"


def plans():
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [8, 12, 16],
        "median_image_size_in_voxels": [8, 12, 16],
        "spacing": list(reversed(SPACING_MM)),
        "normalization_schemes": ["NoNormalization"],
        "use_mask_for_norm": [False],
        "batch_dice": False,
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling,
        "architecture": {"network_class_name": CLASS, "arch_kwargs": KWARGS, "_kw_requires_import": IMPORTS},
    }
    return {
        "dataset_name": "Dataset900_Blocks",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [5.0, 3.0, 2.0],
        "original_median_shape_after_transp": [20, 30, 40],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "experiment_planner_used": "ExperimentPlanner",
        "foreground_intensity_properties_per_channel": {"0": {}},
        "configurations": {"3d_fullres": configuration},
    }


def threshold_weights(threshold):
    """Logit of the tumor x - threshold, of the rest 0: the image goes through the skip connection untouched."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    network = get_network_from_plans(CLASS, KWARGS, IMPORTS, 1, 3, deep_supervision=True)
    weights = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    for name, value in weights.items():
        if name.startswith(("encoder.stages.0", "decoder.encoder.stages.0")) and value.ndim == 5:
            value[0, 0, 1, 1, 1] = 1
        if name.startswith("decoder.stages.0") and value.ndim == 5:
            value[0, 2, 1, 1, 1] = 1  # after the two upsampled channels
        if name == "decoder.seg_layers.0.weight":
            value[2, 0] = 1
        if name == "decoder.seg_layers.0.bias":
            value[2] = -threshold
    return weights


def write_fold(folder, fold, threshold, **changes):
    """A checkpoint as nnU-Net's trainer writes it, numpy numbers and device included."""
    content = {
        "network_weights": threshold_weights(threshold),
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(1)]},
        "_best_ema": np.float64(0.6),
        "current_epoch": 3,
        "trainer_name": "nnUNetTrainer",
        "init_args": {
            "configuration": "3d_fullres",
            "fold": fold,
            "plans": plans(),
            "dataset_json": DATASET,
            "device": CPU,
        },
        "inference_allowed_mirroring_axes": (0, 1, 2),
        **changes,
    }
    (folder / f"fold_{fold}").mkdir(parents=True, exist_ok=True)
    torch.save(content, folder / f"fold_{fold}" / "checkpoint_final.pth")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / NAME
    write_fold(folder, "all", 2.0)
    (folder / "plans.json").write_text(json.dumps(plans()))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / NAME)


@pytest.fixture
def scan():
    """A block of 4 in 1, off the middle on every axis, larger than the patch."""
    image = np.ones((1, 21, 18, 11), np.float32)
    image[0, 3:9, 10:14, 6:8] = 4
    return image, Grid((21, 18, 11), SPACING_MM)


def edit(folder, name, change):
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def test_labels_lie_on_the_scan(whole, scan, capfd, monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    image, grid = scan
    before, state, threads = image.copy(), torch.random.get_rng_state(), torch.get_num_threads()
    judge = Judge(whole, CPU, "tumor")
    labels = judge.predict(image, grid)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, 2 * (image[0] > 2))
    np.testing.assert_array_equal(judge.tumor(image, grid), image[0] > 2)
    np.testing.assert_array_equal(image, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert capfd.readouterr() == ("", "")


def test_other_spacing_is_resampled_and_brought_back(whole):
    """The same anatomy on a finer, otherwise anisotropic grid; mistaken axes would stretch it."""
    grid = Grid((42, 18, 27), (1.0, 3.0, 2.0))
    image = np.ones((1, *grid.shape), np.float32)
    image[0, 6:18, 10:14, 14:21] = 4
    assert dice(Judge(whole, CPU, "tumor").tumor(image, grid), image[0] > 2) > 0.85


def test_folds_are_one_ensemble(copy, scan):
    """Mean logit of thresholds 2 (fold_all) and 7 is x - 4.5: a block of 4 is out, one of 5 is in."""
    image, grid = scan
    alone = Judge(copy, CPU, "tumor")
    write_fold(copy, 0, 7.0)
    both = Judge(copy, CPU, "tumor")
    assert alone.tumor(image, grid).any()
    assert not both.tumor(image, grid).any()
    np.testing.assert_array_equal(both.tumor(image + 1, grid), image[0] > 2)
    assert alone.hash != both.hash


def test_bf16_and_mirroring_agree(whole, scan):
    image, grid = scan
    np.testing.assert_array_equal(Judge(whole, CPU, "tumor", precision="bf16").tumor(image, grid), image[0] > 2)
    np.testing.assert_array_equal(Judge(whole, CPU, "tumor", mirroring=True).tumor(image, grid), image[0] > 2)
    hashes = {
        Judge(whole, CPU, "tumor", precision=p, mirroring=m).hash for p in ("fp32", "bf16") for m in (False, True)
    }
    assert len(hashes) == 4


def write_regions(folder):
    """Make a judge of labels one of regions: two regions, two heads."""
    edit(
        folder,
        "dataset.json",
        lambda d: d.update(labels={"background": 0, "both": [1, 2], "core": [2, 3]}, regions_class_order=[1, 2]),
    )
    weights = threshold_weights(2.0)
    for name in [n for n in weights if "seg_layers" in n]:
        weights[name] = weights[name][1:]
    write_fold(folder, "all", 2.0, network_weights=weights)


def test_regions_count_as_their_labels(copy, scan):
    write_regions(copy)
    judge = Judge(copy, CPU, "both")
    assert judge.tumor_labels == (1, 2)
    np.testing.assert_array_equal(judge.tumor(*scan), scan[0][0] > 2)


def test_unknown_tumor_and_other_channels(whole, scan):
    with pytest.raises(DataError, match="organ = 1, tumor = 2") as error:
        Judge(whole, CPU, "lesion")
    assert error.value.faults[0].remedy == OWN_JUDGE
    with pytest.raises(DataError, match="background"):
        Judge(whole, CPU, "background")
    image, grid = scan
    with pytest.raises(DataError) as error:
        Judge(whole, CPU, "tumor").predict(np.concatenate([image, image]), grid)
    said = "use a judge that was trained on the same channels, in the same order"
    assert error.value.faults[0].remedy == said
    assert Judge(whole, CPU, "tumor").predict(image, grid).any()


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(StateError) as error:
        Judge(tmp_path / "nowhere", CPU, "tumor")
    assert len(error.value.faults) == 1
    assert "results folder" in str(error.value)


@pytest.mark.parametrize(
    ("break_it", "message", "remedy"),
    [
        (lambda f: shutil.rmtree(f / "fold_all"), "no checkpoint", RESULTS),
        (
            lambda f: (f / "fold_all/checkpoint_final.pth").rename(f / "fold_all/checkpoint_best.pth"),
            "only fold_all/checkpoint_best",
            "let the training end (`nnUNetv2_train` with --c continues it)",
        ),
        (lambda f: (f / "fold_all/checkpoint_final.pth").write_bytes(b"PK\3\4 cut"), "cannot be read", COPY_AGAIN),
        (lambda f: torch.save({"state_dict": {}}, f / "fold_all/checkpoint_final.pth"), "no network_weights", RESULTS),
        (lambda f: write_fold(f, 1, 2.0, init_args={"configuration": "2d"}), "2d, 3d_fullres", RESULTS),
        (lambda f: write_fold(f, 1, 2.0, network_weights={"a": torch.zeros(1)}), "do not fit", OWN_JUDGE),
        (lambda f: edit(f, "plans.json", lambda p: p.pop("configurations")), "no configurations", RESULTS),
        (
            lambda f: edit(f, "plans.json", lambda p: p.update(image_reader_writer="NibabelIOWithReorient")),
            "SimpleITKIO, NibabelIO",
            OWN_JUDGE,
        ),
        (
            lambda f: edit(f, "plans.json", lambda p: architecture(p)["arch_kwargs"].pop("strides")),
            "nnU-Net can build",
            RESULTS,
        ),
        (
            lambda f: edit(f, "plans.json", lambda p: architecture(p).update(network_class_name="os.system")),
            "os.system",
            OWN_JUDGE,
        ),
        (
            lambda f: edit(
                f,
                "plans.json",
                lambda p: architecture(p)["arch_kwargs"].update(nonlin="torch.nn.functional.warnings.warn"),
            ),
            "torch.nn.functional.warnings.warn",
            OWN_JUDGE,
        ),
        (lambda f: (f / "dataset.json").write_text("{"), "valid JSON", RESULTS),
    ],
)
def test_broken_folders_are_told_and_mended_as_told(copy, whole, scan, break_it, message, remedy):
    break_it(copy)
    with pytest.raises(StateError, match=message) as error:
        Judge(copy, CPU, "tumor")
    assert {fault.remedy for fault in error.value.faults} == {remedy}
    shutil.rmtree(copy)
    shutil.copytree(whole, copy)  # copied again, or the folder of another, finished nnU-Net
    np.testing.assert_array_equal(Judge(copy, CPU, "tumor").tumor(*scan), scan[0][0] > 2)


def architecture(content):
    return content["configurations"]["3d_fullres"]["architecture"]


def test_a_checkpoint_runs_no_code(copy, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    write_fold(copy, "all", 2.0, trap=Trap())
    with pytest.raises(StateError, match="cannot be read"):
        Judge(copy, CPU, "tumor")
    assert not (tmp_path / "sprung").exists()


def configuration(content):
    return content["configurations"]["3d_fullres"]


def change_plan(change):
    return lambda folder: edit(folder, "plans.json", change)


def change_dataset(change):
    return lambda folder: edit(folder, "dataset.json", change)


def cut_file(name, share):
    return lambda folder: cut(folder / name, share)


def other_weights(change):
    def harm(folder):
        weights = threshold_weights(2.0)
        change(weights)
        write_fold(folder, "all", 2.0, network_weights=weights)

    return harm


WEIGHT = "decoder.seg_layers.0.weight"
MALFORMED = {
    "cut plan": (cut_file("plans.json", 0.5), "plans.json"),
    "empty plan": (cut_file("plans.json", 0.0), "plans.json"),
    "plan that is a list": (lambda f: (f / "plans.json").write_text("[1, 2]"), "a list"),
    "dataset.json that is a number": (lambda f: (f / "dataset.json").write_text("3"), "a int"),
    "dataset.json in another encoding": (lambda f: (f / "dataset.json").write_bytes(b"\xff\xfe{"), "dataset.json"),
    "plan that is a folder": (lambda f: [(f / "plans.json").unlink(), (f / "plans.json").mkdir()], "plans.json"),
    "configurations that are a list": (change_plan(lambda p: p.update(configurations=[1])), "configurations"),
    "configuration that is a text": (change_plan(lambda p: p["configurations"].update({"3d_fullres": "x"})), "object"),
    "no patch_size": (change_plan(lambda p: configuration(p).pop("patch_size")), "patch_size"),
    "patch_size of text": (change_plan(lambda p: configuration(p).update(patch_size=["a"] * 3)), "patch"),
    "patch that the strides do not divide": (
        change_plan(lambda p: configuration(p).update(patch_size=[7, 12, 16])),
        "7",
    ),
    "no spacing": (change_plan(lambda p: configuration(p).pop("spacing")), "spacing"),
    "spacing of 0": (change_plan(lambda p: configuration(p).update(spacing=[0, 3, 2])), "0, 3, 2"),
    "no normalization": (change_plan(lambda p: configuration(p).pop("normalization_schemes")), "normalization_schemes"),
    "unknown normalization": (change_plan(lambda p: configuration(p).update(normalization_schemes=["Nope"])), "Nope"),
    "normalization of two channels": (
        change_plan(lambda p: configuration(p).update(normalization_schemes=["NoNormalization"] * 2)),
        "2 normalization_schemes, but 1 channels",
    ),
    "CT normalization without its numbers": (
        change_plan(lambda p: configuration(p).update(normalization_schemes=["CTNormalization"])),
        "3d_fullres",
    ),
    "unknown resampling": (change_plan(lambda p: configuration(p).update(resampling_fn_data="os.system")), "os.system"),
    "unknown preprocessor": (change_plan(lambda p: configuration(p).update(preprocessor_name="Nope")), "3d_fullres"),
    "axes of no order": (change_plan(lambda p: p.update(transpose_forward=[0, 0, 2])), "transpose_forward"),
    "median shape of two numbers": (
        change_plan(lambda p: p.update(original_median_shape_after_transp=[1, 2])),
        "median",
    ),
    "no architecture": (change_plan(lambda p: configuration(p).pop("architecture")), "architecture"),
    "features of text": (change_plan(lambda p: architecture(p)["arch_kwargs"].update(features_per_stage="x")), "build"),
    "labels that are a list": (change_dataset(lambda d: d.update(labels=["tumor"])), "labels"),
    "label of text": (change_dataset(lambda d: d["labels"].update(tumor="two")), "labels"),
    "channels that are a list": (change_dataset(lambda d: d.update(channel_names=["PET"])), "channel_names"),
    "two channels": (change_dataset(lambda d: d.update(channel_names={"0": "PET", "1": "CT"})), "do not fit"),
    "four labels": (change_dataset(lambda d: d["labels"].update(edema=3)), "do not fit"),
    "cut weights": (cut_file("fold_all/checkpoint_final.pth", 0.6), "cannot be read"),
    "weights of another shape": (other_weights(lambda w: w.update({WEIGHT: torch.zeros(5, 5)})), "do not fit"),
    "weights that are missing": (other_weights(lambda w: w.pop(WEIGHT)), "do not fit"),
    "weights that are text": (other_weights(lambda w: w.update({WEIGHT: "none"})), "no finite numbers"),
    "weights that are nan": (other_weights(lambda w: w[WEIGHT].fill_(float("nan"))), "no finite numbers"),
    "arguments that are a list": (lambda f: write_fold(f, "all", 2.0, network_weights=[1]), "no network_weights"),
    "mirroring of text": (
        lambda f: write_fold(f, "all", 2.0, inference_allowed_mirroring_axes=("x",)),
        "inference_allowed_mirroring_axes",
    ),
    "record that is a list": (lambda f: (f / "judge.json").write_text("[]"), "judge.json"),
    "weights that judge.json does not name": (
        lambda f: shutil.copyfile(bundled_judge() / "judge.json", f / "judge.json"),
        "other content than was recorded",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_judge_is_one_clear_error(copy, name):
    harm, message = MALFORMED[name]
    harm(copy)
    with pytest.raises(StateError, match=message) as error:
        Judge(copy, CPU, "tumor")
    assert len(error.value.faults) == 1
    fault = error.value.faults[0]
    assert str(copy) in fault.where
    assert fault.found
    assert fault.expected
    assert fault.remedy


def test_a_plain_pickle_runs_no_code(copy, tmp_path):
    """Not torch's own format: the oldest trick."""

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    (copy / "fold_all" / "checkpoint_final.pth").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(StateError, match="cannot be read"):
        Judge(copy, CPU, "tumor")
    assert not (tmp_path / "sprung").exists()


def test_the_probability_is_that_of_the_tumor(whole, scan):
    """Logit of the tumor x - 2, of background and organ 0: exp(x - 2) / (exp(x - 2) + 2)."""
    image, grid = scan
    judge = Judge(whole, CPU, "tumor")
    mask, probability = judge.tumor_with_probability(image, grid)
    np.testing.assert_array_equal(mask, judge.tumor(image, grid))
    odds = np.exp(image[0] - 2)
    np.testing.assert_allclose(probability, odds / (odds + 2), atol=1e-3)


def test_the_probability_of_a_region_is_its_own(copy, scan):
    write_regions(copy)
    image, grid = scan
    assert np.allclose(Judge(copy, CPU, "both").tumor_with_probability(image, grid)[1], 0.5)  # its logit is 0
    found = Judge(copy, CPU, "core").tumor_with_probability(image, grid)[1]
    np.testing.assert_allclose(found, 1 / (1 + np.exp(2 - image[0])), atol=1e-3)
