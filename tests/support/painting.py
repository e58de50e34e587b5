"""Painting while nnU-Net trains: a plan of nnU-Net's, entries of a pool, and stand-ins for what nnU-Net gives."""

import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from tumorgen_cli.nnunet.on_the_fly.pool import PaintedPatch
from tumorgen_cli.nnunet.on_the_fly.settings import PainterJob


def entry(number, value=0.0, shape=(6, 5, 4)):
    labels = np.zeros((1, *shape), np.int8)
    labels[0, 2, 2, 2] = 1
    found = {1: np.argwhere(labels == 1), (1,): np.zeros((0, 4), int), (-1, 0, 1): np.argwhere(labels >= 0)}
    return PaintedPatch(number, np.full((2, *shape), value, np.float32), labels, found)


class Cases:
    """As much of a data set of nnU-Net's as its loader uses."""

    identifiers = ("a", "b")

    def load_case(self, identifier):
        found = {1: np.array([[0, 10, 10, 10]])}
        return (
            np.ones((2, 20, 20, 20), np.float32),
            np.zeros((1, 20, 20, 20), np.int16),
            None,
            {"class_locations": found},
        )


def plans(**changes):
    """A plan of nnU-Net's for the phantoms, in 3D and in 2D."""
    facts = {
        "max": 20.0,
        "mean": 4.0,
        "median": 4.0,
        "min": 0.0,
        "percentile_00_5": 0.1,
        "percentile_99_5": 15.0,
        "std": 3.0,
    }
    return {
        "dataset_name": "Dataset999_PhantomPET",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [6.0, 5.0, 7.0],
        "original_median_shape_after_transp": [32, 32, 32],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [1, 0, 2],
        "transpose_backward": [1, 0, 2],
        "configurations": {"3d_fullres": configuration(3), "2d": configuration(2)},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": facts},
        **changes,
    }


def configuration(axes):
    """A network of three small stages."""
    stages = 3
    kwargs = {
        "n_stages": stages,
        "features_per_stage": [4, 8, 8],
        "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
        "kernel_sizes": [[3] * axes] * stages,
        "strides": [[1] * axes, [2] * axes, [2] * axes],
        "n_conv_per_stage": [1] * stages,
        "n_conv_per_stage_decoder": [1] * (stages - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    network = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": kwargs,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    resampling = {"order_z": 0, "force_separate_z": None}
    return {
        "data_identifier": f"nnUNetPlans_{axes}d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [16] * axes,
        "median_image_size_in_voxels": [32.0] * axes,
        "spacing": [6.0, 5.0, 7.0][-axes:],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "batch_dice": False,
        "architecture": network,
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **resampling},
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **resampling},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **resampling},
    }


DATASET = {
    "channel_names": {"0": "PET"},
    "labels": {"background": 0, "tumor": 1},
    "numTraining": 6,
    "file_ending": ".nii.gz",
}


def job_of(painting, **changes):
    job = PainterJob("0", painting, plans(), DATASET, "3d_fullres", (24, 20, 18), 2, os.getpid())
    return replace(job, **changes)


def trainer(**changes):
    manager = SimpleNamespace(plans={"image_reader_writer": "SimpleITKIO"})
    parts = {
        "preprocessed_dataset_folder_base": "nowhere",
        "is_cascaded": False,
        "plans_manager": manager,
        "dataset_json": DATASET,
        "fold": 1,
        "configuration_name": "3d_fullres",
    }
    return SimpleNamespace(**{**parts, **changes})
