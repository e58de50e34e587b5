"""The files of a judge: nnU-Net's results folder, read and checked before anything is built from it.

A results folder may come from anywhere. Checkpoints are read without running pickled code, and each fault is named with
the file and the field.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tumorgen_cli.data.volumes import READERS
from tumorgen_cli.judge.card import JudgeRecord
from tumorgen_cli.nnunet.results import COPY_AGAIN, FINAL, results_root
from tumorgen_cli.system.errors import Fault, PlanError, StateError
from tumorgen_cli.system.files import check_hash
from tumorgen_cli.system.json_records import from_plain, read_plain

REMEDY = "give a results folder such as Dataset501_X/nnUNetTrainer__nnUNetPlans__3d_fullres"
#: remedy for a judge of another kind
OWN_JUDGE = "train one of your own with `tumorgen train judge`, or give an nnU-Net with --judge DIR"


def _is_order(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int for n in value) and sorted(value) == [0, 1, 2]


def positive_numbers(value: Any, *counts: int) -> bool:
    """Tell whether a value is a list of positive numbers, and has one of these lengths."""
    numbers = isinstance(value, (list, tuple)) and len(value) in counts
    return numbers and all(type(n) in (int, float) and math.isfinite(n) and n > 0 for n in value)


def _are_configurations(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(each, dict) for each in value.values())


def _are_labels(value: Any) -> bool:
    def is_label(label: Any) -> bool:
        values = label if isinstance(label, list) else [label]
        return bool(values) and all(type(n) is int and n >= 0 for n in values)

    return isinstance(value, dict) and "background" in value and all(map(is_label, value.values()))


def _are_channels(value: Any) -> bool:
    numbered = isinstance(value, dict) and bool(value) and sorted(value) == sorted(map(str, range(len(value))))
    return numbered and all(isinstance(name, str) for name in value.values())


Check = tuple[Callable[[Any], bool], str]
_ORDER: Check = (_is_order, "the axes 0, 1 and 2 in some order")
_THREE: Check = (lambda value: positive_numbers(value, 3), "three positive numbers")
#: file -> field -> (check, what is expected)
_NEEDED: dict[str, dict[str, Check]] = {
    "plans.json": {
        "configurations": (_are_configurations, "an object of configurations"),
        "transpose_forward": _ORDER,
        "transpose_backward": _ORDER,
        "original_median_shape_after_transp": _THREE,
        "original_median_spacing_after_transp": _THREE,
    },
    "dataset.json": {
        "labels": (_are_labels, "an object of names and whole numbers, or lists of them, with a background"),
        "channel_names": (_are_channels, 'an object of names, numbered from "0"'),
    },
}


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read plans.json and dataset.json of a results folder.

    Raises:
        StateError: a file or a field is missing or malformed, or the data are not NIfTI files; all faults are listed.
    """
    if not folder.is_dir():
        fault = Fault(str(folder), "no such folder", "the results folder of an nnU-Net", REMEDY)
        raise StateError("The judge cannot be read", [fault])
    faults: list[Fault] = []
    found: list[dict[str, Any]] = []
    for name, checks in _NEEDED.items():
        try:
            content = read_plain(folder / name, REMEDY)
        except StateError as error:
            faults += error.faults
            continue
        if not isinstance(content, dict):
            faults.append(Fault(str(folder / name), f"a {type(content).__name__}", f"nnU-Net's {name}", REMEDY))
            continue
        if "modality" in content and "channel_names" not in content:
            content["channel_names"] = content["modality"]
        found.append(content)
        missing = [key for key in checks if key not in content]
        if missing:
            faults.append(Fault(str(folder / name), f"no {' and no '.join(missing)}", f"nnU-Net's {name}", REMEDY))
        faults += [
            Fault(f"{folder / name}: {key}", f"{content[key]!r}"[:200], expected, COPY_AGAIN)
            for key, (check, expected) in checks.items()
            if key in content and not check(content[key])
        ]
    if faults:
        raise StateError("The judge cannot be read", faults)
    reader = found[0].get("image_reader_writer", READERS[0])
    if reader not in READERS:
        expected = f"one of {', '.join(READERS)}"
        fault = Fault(f"{folder / 'plans.json'}: image_reader_writer", f"{reader}", expected, OWN_JUDGE)
        raise StateError("The judge cannot be used", [fault])
    return found[0], found[1]


def find_checkpoints(folder: Path) -> list[Path]:
    """Return the final checkpoints of all folds, or of the given fold.

    Raises:
        StateError: there are none, or one is not the one that judge.json names.
    """
    root = results_root(folder)
    paths = [folder / FINAL] if folder != root else sorted(folder.glob(f"fold_*/{FINAL}"))
    if not paths:
        others = sorted(str(path.relative_to(folder)) for path in folder.glob("fold_*/*.pth"))
        found = f"only {', '.join(others)}" if others else "no checkpoint"
        remedy = "let the training end (`nnUNetv2_train` with --c continues it)" if others else REMEDY
        raise StateError("The judge has no weights", [Fault(str(folder), found, "fold_*/checkpoint_final.pth", remedy)])
    record = read_judge_record(root)
    if record is not None and len(paths) == 1:
        check_hash(paths[0], record.weights_hash, COPY_AGAIN)
    return paths


def read_judge_record(folder: Path) -> JudgeRecord | None:
    """Read judge.json of a judge that TumorGen has trained; None if there is none.

    Raises:
        StateError: it cannot be read, or has other fields.
    """
    path = folder / "judge.json"
    if not path.is_file():
        return None
    remedy = "run `tumorgen train judge --restart`, or copy the folder again"
    try:
        return from_plain(JudgeRecord, read_plain(path, remedy), str(path), remedy)
    except PlanError as error:
        raise StateError("The judge's record cannot be used", error.faults) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running pickled code.

    Raises:
        StateError: the file is damaged, holds other objects than tensors and plain values, is not a checkpoint of
            nnU-Net v2, or has weights that are not finite.
    """
    import torch

    # nnU-Net logs its losses as numpy numbers: only these types are allowed besides torch's own
    scalar = np.float64(0).__reduce__()[0]
    harmless: list[Any] = [
        np.dtype,
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
    ]
    harmless += [type(np.dtype(kind)) for kind in (np.float16, np.float32, np.float64, np.int32, np.int64, np.bool_)]
    try:
        with torch.serialization.safe_globals(harmless):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler raises whatever a malformed file makes its code run into
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        expected = "a whole checkpoint of tensors and plain values"
        fault = Fault(str(path), reason, expected, COPY_AGAIN)
        raise StateError("A checkpoint cannot be read", [fault]) from error
    weights = content.get("network_weights") if isinstance(content, Mapping) else None
    if not isinstance(weights, Mapping):
        fault = Fault(str(path), "no network_weights", "a checkpoint of nnU-Net v2", REMEDY)
        raise StateError("A checkpoint is of another kind", [fault])
    wrong = [
        str(name)
        for name, value in weights.items()
        if not isinstance(value, torch.Tensor) or not bool(torch.isfinite(value).all())
    ]
    if wrong:
        found = f"{len(wrong)} weights that are no finite numbers ({', '.join(wrong[:3])})"
        raise StateError("A checkpoint cannot be used", [Fault(str(path), found, "finite weights", COPY_AGAIN)])
    return dict(content)


def find_configuration(folder: Path, plans: Mapping[str, Any], checkpoints: Sequence[Mapping[str, Any]]) -> str:
    """Return the configuration that the checkpoints name, or else the last part of the folder's name.

    Raises:
        StateError: the folds differ, or the plan has no such configuration.
    """
    arguments = [checkpoint.get("init_args") for checkpoint in checkpoints]
    default = folder.resolve().name.split("__")[-1]
    named = {str(each.get("configuration", default)) if isinstance(each, Mapping) else default for each in arguments}
    known = [name for name in plans["configurations"] if name != "3d_cascade_fullres"]
    if len(named) == 1 and named <= set(known):
        return named.pop()
    found, expected = f"configuration {', '.join(sorted(named))}", f"one of {', '.join(known)}, for all folds"
    raise StateError("The judge's configuration cannot be used", [Fault(str(folder), found, expected, REMEDY)])
