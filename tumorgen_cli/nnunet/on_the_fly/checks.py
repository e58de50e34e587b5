"""Checks before nnU-Net trains on painted patches: do they fit its data, its configuration and its fold?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tumorgen_cli.data.checks import NNUNET_FORMAT, READER
from tumorgen_cli.data.labels import parse_labels
from tumorgen_cli.data.volumes import READERS
from tumorgen_cli.nnunet.on_the_fly.settings import Painting
from tumorgen_cli.system.errors import Fault, abbreviate_list
from tumorgen_cli.system.json_records import read_fields, read_record

_OTHER_WORKSPACE = "run `tumorgen nnunet-setup` in a workspace that was planned on this data set"


def painting_faults(painting: Painting, trainer: Any, validation: Sequence[str], known: Sequence[str]) -> list[Fault]:
    """Return the reasons why a trainer cannot learn from what is painted.

    Args:
        painting: what is painted.
        trainer: nnU-Net's trainer.
        validation: names of the validation cases. The method must not know them; only their names can tell.
        known: names of all cases of the fold.
    """
    return [
        *_data_faults(painting, trainer),
        *_fold_faults(painting, trainer, validation),
        *_missing_case_faults(painting, trainer, known),
    ]


def planned_reader_faults(dataset: Path) -> list[Fault]:
    """Return the fault of the reader that a raw data set prescribes to nnU-Net, before nnU-Net plans with it.

    Args:
        dataset: the folder of the data set.
    """
    path = dataset / "dataset.json"
    reader = read_fields(path, NNUNET_FORMAT).get(READER) or "None"
    # of the endings that are allowed, nnU-Net reads all with one of its own readers that fit
    return [] if reader == "None" else reader_faults(f"{path}: {READER}", str(reader))


def reader_faults(where: str, reader: str) -> list[Fault]:
    """Return the fault of a reader of nnU-Net whose arrays have other axes or values than those that are painted."""
    if reader in READERS:
        return []
    remedy = f'use NIfTI files and no other "{READER}" in dataset.json; then nnUNetv2_plan_and_preprocess'
    return [Fault(where, reader, f"one of {', '.join(READERS)}", remedy)]


def _data_faults(painting: Painting, trainer: Any) -> list[Fault]:
    """Return the faults of nnU-Net's configuration, file format, channels and labels."""
    faults, remedy = [], _OTHER_WORKSPACE
    if trainer.is_cascaded:
        expected = "a configuration of its own"
        found = "a cascade's second stage"
        faults.append(Fault(trainer.configuration_name, found, expected, "train 3d_fullres or 3d_lowres"))
    reader = trainer.plans_manager.plans["image_reader_writer"]
    faults += reader_faults("image_reader_writer of nnU-Net's plans", reader)
    dataset = trainer.dataset_json
    channels = [str(name).lower() for name in (dataset.get("channel_names") or dataset["modality"]).values()]
    if channels != [name.lower() for name in painting.channels]:
        where = "channel_names of nnU-Net's data set"
        faults.append(Fault(where, ", ".join(channels), ", ".join(painting.channels), remedy))
    if parse_labels(dataset["labels"]) != painting.labels:
        where = "labels of nnU-Net's data set"
        faults.append(Fault(where, str(dataset["labels"]), str(painting.labels), remedy))
    return faults


def _fold_faults(painting: Painting, trainer: Any, validation: Sequence[str]) -> list[Fault]:
    """Return the faults of a fold that does not exist, or whose validation cases the method knows."""
    faults = []
    where = f"fold {trainer.fold}"
    written = Path(trainer.preprocessed_dataset_folder_base) / "splits_final.json"
    split = Path(painting.work) / "nnunet" / "splits_final.json"
    if trainer.fold != "all" and written.is_file():
        count = len(read_record(list[Any], written, f"put {split} in its place"))
        if trainer.fold >= count:
            found = f"only {count} in {written}: nnU-Net draws this one from all cases, synthetic ones too"
            faults.append(Fault(where, found, "a fold of that file", f"train a fold below {count}"))
    remedy = (
        f"put {split} into nnU-Net's preprocessed data set and train the fold that nnunet-setup named, "
        "or plan a workspace on this one (--fold)"
    )
    for names, relation in ((painting.learned_from, "has learned from"), (painting.hosts, "has painted into")):
        both = sorted({*names} & {*validation})
        if both:
            found = f"{len(both)} validation cases that {painting.method} {relation} ({abbreviate_list(both)})"
            faults.append(Fault(where, found, "none", remedy))
    return faults


def _missing_case_faults(painting: Painting, trainer: Any, known: Sequence[str]) -> list[Fault]:
    """Return the fault of a data set in which cases have other names than in the workspace."""
    # nnU-Net keeps the labels of the cases of all folds there
    segmented = (Path(trainer.preprocessed_dataset_folder_base) / "gt_segmentations").glob("*")
    names = {*known, *(path.name.removesuffix(trainer.dataset_json["file_ending"]) for path in segmented)}
    missing = sorted({*painting.learned_from} - names)
    if not missing:
        return []
    found = f"no cases of these names, which {painting.method} has learned from: {abbreviate_list(missing)}"
    expected = "the workspace's cases by their names, which show what may validate"
    return [Fault("cases of nnU-Net's data set", found, expected, _OTHER_WORKSPACE)]
