"""A segmentor with folds of some real cases: each case is scored by an nnU-Net that has not seen it.

What pairs of an aimed arm are aimed at is learned from it, and so from no other case (`synthesis.aim_segmentor`).
Writes a results folder as nnU-Net's: plans.json, dataset.json, splits_final.json and `fold_K/checkpoint_final.pth`;
beside them the trainings, `training_K/`. A finished fold is not trained again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tumorgen_cli.data.patients import Patients, group_cases
from tumorgen_cli.data.splits import SPLITS, make_nnunet_folds
from tumorgen_cli.nnunet.job import Schedule, TrainingData, TrainingOptions, make_job
from tumorgen_cli.nnunet.results import FINAL
from tumorgen_cli.nnunet.runner import results_folder, run_job
from tumorgen_cli.system.json_records import hash_value, read_record, write_json
from tumorgen_cli.system.links import copy_file

_FOLDS = 5  # nnU-Net's own number


def count_folds(cases: Sequence[str], patients: Patients) -> int:
    """Return the number of folds of some cases: `_FOLDS`, or one for each patient."""
    return min(_FOLDS, len(group_cases(cases, patients)))


def cross_fit(
    folder: Path,
    prepared: Path,
    data: TrainingData,
    options: TrainingOptions,
    patients: Patients,
    schedule: Schedule | None,
) -> Path:
    """Train an nnU-Net on each fold of the training cases; return their results folder.

    Args:
        folder: Folder for such segmentors; each set of cases and options has a folder of its own in it.
        prepared: Folder of nnU-Net's preprocessed data; other trainings may share it.
        data: The cases.
        options: How to train.
        patients: The patients of the cases, as far as they are known: each is in one fold.
        schedule: Length of the trainings; None: the first one takes `options.minutes`, the others as many steps.

    Raises:
        DataError: The cases are of one patient.
        StateError: A training failed.
    """
    names = [case.name for case in data.train]
    folds = make_nnunet_folds(names, max(2, count_folds(names, patients)), patients)
    jobs = [make_job(data, prepared, options, fold.train) for fold in folds]
    target = folder / hash_value([job.inputs_hash for job in jobs])
    for number, job in enumerate(jobs):
        training, final = target / f"training_{number}", target / f"fold_{number}" / FINAL
        if not final.is_file():
            title = f"fold {number} of {len(folds)}, to aim by"
            run_job(data, training, replace(job, schedule=schedule), title)
            for name in ("plans.json", "dataset.json"):
                copy_file(results_folder(training) / name, target / name)
            copy_file(results_folder(training) / "fold_all" / FINAL, final)
        if schedule is None:
            path = results_folder(training) / "fold_all" / "schedule.json"
            schedule = read_record(Schedule, path, f"delete {target}, then run the same command again")
    write_json(target / SPLITS, [{"train": fold.train, "val": fold.test} for fold in folds])
    return target
