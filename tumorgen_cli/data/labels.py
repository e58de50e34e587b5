"""Labels and regions of a data set: which voxel values a name means, and which of them are the tumor.

A label has one value. A region of nnU-Net has several: `"whole tumor": [1, 2, 3]` is what BraTS calls edema, necrosis
and enhancing tumor together. In label files each voxel has one value, in both cases.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from tumorgen_cli.system.errors import DataError, Fault, did_you_mean

#: the voxel value of a label, or the values of a region or of a tumor with several labels
Values = int | tuple[int, ...]
Labels = Mapping[str, Values]
CLASS_ORDER = "regions_class_order"  # of dataset.json
_TUMOR = re.compile(
    r"(?<!peri)(?<!non)(?<!non.)(tumou?r|lesion|cancer|metasta|gtv|neoplas|carcinom|sarcom|malignan)", re.IGNORECASE
)


def values_of(values: Values) -> tuple[int, ...]:
    """The values, also of a label that has one."""
    return (values,) if isinstance(values, int) else tuple(values)


def as_values(values: Iterable[int]) -> Values:
    """The values in order; one alone is no tuple."""
    found = tuple(sorted({*values}))
    return found[0] if len(found) == 1 else found


def mask_of(labels: np.ndarray, values: Values) -> np.ndarray:
    """The voxels of labels that have a value, or one of several values; bool."""
    if isinstance(values, int):
        return np.asarray(labels == values)
    return np.isin(labels, values)


def fill_sublabels(sublabels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Give each voxel of a mask without a sub-label (0) the nearest one, in voxels; 0 outside the mask."""
    found = np.where(mask, sublabels, 0)
    known = sublabels > 0
    lost = mask & ~known
    if lost.any() and known.any():
        nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
        found[lost] = sublabels[tuple(axis[lost] for axis in nearest)]
    return found


def parse_labels(content: Mapping[str, Any]) -> dict[str, Values]:
    """Read `labels` of a dataset.json without faults."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}


def describe_for_nnunet(labels: Labels, class_order: tuple[int, ...]) -> dict[str, Any]:
    """The fields of a dataset.json that name labels."""
    return {"labels": dict(labels), **({CLASS_ORDER: class_order} if class_order else {})}


def all_values(labels: Labels) -> tuple[int, ...]:
    """All voxel values of labels, in order."""
    return tuple(sorted({value for values in labels.values() for value in values_of(values)}))


def describe_labels(labels: Labels) -> str:
    """Describe labels in one line, as in "liver = 1, tumor = 2+3"."""
    return ", ".join(f"{name} = {'+'.join(map(str, values_of(values)))}" for name, values in labels.items())


def labels_faults(where: Path, content: Mapping[str, Any]) -> list[Fault]:
    """Find what is wrong with `labels` and `regions_class_order` of a parsed dataset.json."""
    labels, at = content["labels"], f"{where}: labels"
    if not isinstance(labels, dict) or not labels:
        return [Fault(at, repr(labels)[:200], 'an object {"background": 0, "tumor": 1}', "write names and values")]
    if all(name.isdecimal() for name in labels):
        remedy = "swap names and values (nnU-Net v1 had them the other way)"
        return [Fault(at, f"values first: {labels!r}"[:200], '{"background": 0, "tumor": 1}', remedy)]
    faults = []
    for name, value in labels.items():
        if isinstance(value, list) and not (value and all(map(_is_value, value))):
            remedy = "list the voxel values of this region"
            faults.append(Fault(f"{at}.{name}", repr(value)[:200], "whole numbers", remedy))
        elif not isinstance(value, list) and not _is_value(value):
            remedy = "write the voxel value of this label"
            faults.append(Fault(f"{at}.{name}", repr(value)[:200], "one whole number", remedy))
    if faults:
        return faults
    parsed = parse_labels(labels)
    plain = not any(isinstance(value, list) for value in labels.values())
    found, wanted = all_values(parsed), range(len(labels) if plain else max(all_values(parsed)) + 1)
    if found != tuple(wanted) or parsed.get("background") not in (0, (0,)):
        remedy = "renumber the labels, in dataset.json and in the label files"
        return [Fault(at, describe_labels(parsed), "background = 0, then 1, 2, ... without gaps or repeats", remedy)]
    return [] if plain else _class_order_faults(where, parsed, content.get(CLASS_ORDER))


def _is_value(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _class_order_faults(where: Path, labels: Labels, order: Any) -> list[Fault]:
    """Find why nnU-Net could not make labels of regions again: it needs a value for each region."""
    count = sum(name != "ignore" and values_of(values) != (0,) for name, values in labels.items())
    known = all_values(labels)
    if isinstance(order, list) and len(order) == count and all(_is_value(value) and value in known for value in order):
        return []
    remedy = f'give "{CLASS_ORDER}" a voxel value for each region, in their order: later ones overwrite'
    expected = f"{count} of the values {', '.join(map(str, known))}"
    return [Fault(f"{where}: {CLASS_ORDER}", repr(order)[:200], expected, remedy)]


def find_tumor_names(names: Iterable[str]) -> list[str]:
    """Return the label names that mean a tumor, such as "lesion" or "GTV"."""
    return [name for name in names if _TUMOR.search(name)]


def tumor_names(tumor: str, labels: Labels) -> list[str]:
    """The names of labels that the name of a tumor consists of, or the name itself: "necrosis,edema" has two."""
    return [tumor] if tumor in labels else [part.strip() for part in tumor.split(",")]


def named_values(labels: Labels, tumor: str) -> Values | None:
    """The values of a tumor by its name, which may join several labels by commas; None if a label is not known."""
    parts = tumor_names(tumor, labels)
    if any(part not in labels for part in parts):
        return None
    return as_values(value for part in parts for value in values_of(labels[part]))


def choose_any(labels: Labels) -> tuple[str, Values]:
    """Choose the first label, for who needs to know none."""
    name = next((name for name in labels if name not in ("background", "ignore")), "background")
    return name, as_values(values_of(labels[name]))


def choose_tumor(where: Path, labels: Labels, wanted: str | None) -> tuple[str, Values]:
    """Choose the labels that are the tumor.

    Args:
        where: The dataset.json.
        labels: Its labels.
        wanted: Names or values, with commas between, as the user gives them. By default it is the only label, or the
            only one whose name means a tumor; of regions, the one that contains all others whose names do.

    Returns:
        The name, in which commas join several labels, and the values.

    Raises:
        DataError: it is unclear which label is the tumor.
    """
    names = [name for name in labels if name not in ("background", "ignore")]
    listed = describe_labels({name: labels[name] for name in names}) or "none but background"
    near: list[str] = []
    if wanted is not None:
        chosen = [_find_label(labels, names, part) for part in tumor_names(wanted, labels)]
        found = f"--tumor-label {wanted}, but the labels are: {listed}"
        parts = [name for name in chosen if name is not None]
        if len(parts) == len(chosen):
            return ",".join(parts), as_values(value for name in parts for value in values_of(labels[name]))
        asked = zip(tumor_names(wanted, labels), chosen, strict=True)
        near = [did_you_mean(part, names) for part, name in asked if name is None]
    else:
        matches = find_tumor_names(names) if len(names) > 1 else names
        widest = max(matches, key=lambda name: len(values_of(labels[name])), default="")
        if matches and all({*values_of(labels[name])} <= {*values_of(labels[widest])} for name in matches):
            return widest, as_values(values_of(labels[widest]))
        found = f"{len(matches) or 'no'} labels that may be the tumor, of: {listed}"
    ask = "".join(f"{each} " for each in dict.fromkeys(near) if each)
    remedy = (
        f"{ask}name it, by name or value: --tumor-label NAME; several labels with commas between: "
        "--tumor-label NAME,NAME"
    )
    raise DataError(
        "The tumor label cannot be told",
        [Fault(f"{where}: labels", found, "one label that is the tumor, or several that are named", remedy)],
    )


def _find_label(labels: Labels, names: Iterable[str], wanted: str) -> str | None:
    """Find one label by its name, whatever its case, or by its value."""
    by_value = (
        name for name in names if str(values_of(labels[name])[0]) == wanted and len(values_of(labels[name])) == 1
    )
    by_case = (name for name in names if name.lower() == wanted.lower())
    return wanted if wanted in names else next(by_value, None) or next(by_case, None)


def organ_labels(labels: Labels, tumor: Values) -> dict[str, Values]:
    """The labels of a data set without background, the tumor and the ignore label; of regions, what is no tumor."""
    own = {name: {*values_of(values)} - {0, *values_of(tumor)} for name, values in labels.items() if name != "ignore"}
    return {name: as_values(values) for name, values in own.items() if values}
