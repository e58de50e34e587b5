"""An nnU-Net's results folder with folds, of which only what is read of them is there."""

from __future__ import annotations

from tumorgen_cli.data.splits import make_nnunet_folds
from tumorgen_cli.data.volumes import read_volume, write_volume
from tumorgen_cli.system.json_records import write_json

PLANS = {
    "dataset_name": "Dataset999_PhantomPET",
    "configurations": {"3d_fullres": {}},
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "original_median_shape_after_transp": [32, 32, 32],
    "original_median_spacing_after_transp": [5.0, 5.0, 5.0],
    "image_reader_writer": "SimpleITKIO",
}
LABELS = {"background": 0, "tumor": 1}


def write_segmentor(folder, dataset, folds, find, splits=True):
    """Write folds with validation predictions.

    Args:
        folder: The results folder.
        dataset: The folder of the raw data set.
        folds: The folds, with `train` and `test`.
        find: Makes the prediction (X, Y, Z) of a case from its label (X, Y, Z).
        splits: Write `splits_final.json`.
    """
    cases = sorted({case for fold in folds for case in fold.test})
    content = {"channel_names": {"0": "PET"}, "labels": LABELS, "numTraining": len(cases), "file_ending": ".nii.gz"}
    write_json(folder / "plans.json", PLANS)
    write_json(folder / "dataset.json", content)
    if splits:
        write_json(folder / "splits_final.json", [{"train": fold.train, "val": fold.test} for fold in folds])
    for number, fold in enumerate(folds):
        for case in fold.test:
            label, grid = read_volume(dataset / "labelsTr" / f"{case}.nii.gz")
            made = find(case, label).astype(label.dtype)
            write_volume(folder / f"fold_{number}" / "validation" / f"{case}.nii.gz", made, grid)
    return folder


def training_folds(workspace, count=2):
    """Folds of the training cases alone."""
    return make_nnunet_folds(workspace.splits().train, count)
