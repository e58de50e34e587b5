"""Labels, regions and which of them are the tumor."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import tumorgen_cli
from tumorgen_cli.data.hosts import find_host_labels
from tumorgen_cli.data.labels import (
    choose_tumor,
    describe_for_nnunet,
    fill_sublabels,
    labels_faults,
    mask_of,
    named_values,
    organ_labels,
    parse_labels,
)
from tumorgen_cli.system.errors import DataError

BRATS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3, "ignore": 4}
PLAIN = {"background": 0, "necrosis": 1, "edema": 2, "enhancing": 3}
KITS = {"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2}
HERE = Path("dataset.json")


@pytest.mark.parametrize(
    ("labels", "wanted", "found"),
    [
        (BRATS, None, ("whole tumor", (1, 2, 3))),
        (BRATS, "tumor core", ("tumor core", (2, 3))),
        (BRATS, "3", ("enhancing tumor", 3)),
        (PLAIN, "necrosis,enhancing", ("necrosis,enhancing", (1, 3))),
        (PLAIN, "3, Necrosis", ("enhancing,necrosis", (1, 3))),
        (KITS, None, ("tumor", 2)),
        (KITS, "masses", ("masses", (2, 3))),
        ({"background": 0, "a,b": 1, "c": 2}, "a,b", ("a,b", 1)),
        ({"background": 0, "tumor": [1], "organ": 2}, None, ("tumor", 1)),
    ],
)
def test_the_tumor_is_chosen(labels, wanted, found):
    parsed = parse_labels(labels)
    assert choose_tumor(HERE, parsed, wanted) == found
    assert choose_tumor(HERE, parsed, found[0]) == found  # the plan keeps the name
    assert named_values(parsed, found[0]) == found[1]


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        (PLAIN, None),
        (PLAIN, "necrosis,gone"),
        ({"background": 0, "tumor": 1, "lesion": 2}, None),
        ({"background": 0, "primary tumor": [1, 2], "nodal tumor": [2, 3]}, None),
    ],
)
def test_a_tumor_that_cannot_be_told(labels, wanted):
    with pytest.raises(DataError) as error:
        choose_tumor(HERE, parse_labels(labels), wanted)
    (fault,) = error.value.faults
    assert fault.remedy.endswith("several labels with commas between: --tumor-label NAME,NAME")


@pytest.mark.parametrize(
    ("wanted", "asked"),
    [
        ("tumour", "did you mean tumor? name it"),
        ("cist,tumor", "did you mean cyst? name it"),
        ("kidny,cist", "did you mean kidney? did you mean cyst? name it"),
        ("9", "name it"),
    ],
)
def test_a_misspelled_tumor_label_gets_the_nearest_one(wanted, asked):
    labels = parse_labels({"background": 0, "kidney": 1, "tumor": 2, "cyst": 3})
    with pytest.raises(DataError) as error:
        choose_tumor(HERE, labels, wanted)
    assert error.value.faults[0].remedy.startswith(asked)
    assert choose_tumor(HERE, labels, "tumor,cyst") == ("tumor,cyst", (2, 3))  # the remedy, followed


def test_organs_are_what_is_no_tumor():
    assert organ_labels(parse_labels(KITS), (2, 3)) == {"kidney": 1}
    assert organ_labels(parse_labels(KITS), 2) == {"kidney": (1, 3), "masses": 3}
    assert organ_labels(parse_labels(BRATS), (1, 2, 3)) == {}
    assert organ_labels({"background": 0, "liver": 1, "tumor": 2, "ignore": 3}, 2) == {"liver": 1}


@pytest.mark.parametrize(
    ("order", "sound"),
    [([1, 2, 3], True), ([1, 2], False), ([1, 2, 9], False), (None, False), ([1, 2, "3"], False), ((), False)],
)
def test_regions_need_an_order(order, sound):
    content = {"labels": BRATS, "regions_class_order": order}
    assert (labels_faults(HERE, content) == []) == sound


def test_nnunet_takes_the_written_labels():
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    for labels, order in ((parse_labels(BRATS), (1, 2, 3)), (parse_labels(PLAIN), ())):
        written = json.loads(json.dumps(describe_for_nnunet(labels, order)))
        manager = LabelManager(written["labels"], written.get("regions_class_order"))
        assert manager.has_regions == bool(order)
        assert [*manager.all_labels] == [0, 1, 2, 3]
    assert "regions_class_order" not in written


def test_values_must_follow_each_other():
    for labels in ({"background": 0, "a": [1, 3]}, {"background": 0, "a": 1, "b": 1}, {"background": [0, 1], "a": 1}):
        (fault,) = labels_faults(HERE, {"labels": labels, "regions_class_order": [1]})
        assert fault.remedy == "renumber the labels, in dataset.json and in the label files"


def test_masks_are_of_all_values_of_a_tumor():
    """A tumor may have several values, with which an array cannot be compared by `==`."""
    package = Path(tumorgen_cli.__file__).parent
    compared = re.compile(r"[!=]= *[\w.]*\btumor_label\b|\btumor_label *[!=]=|== *\w+\.labels\[")
    found = [
        f"{path.relative_to(package)}: {line.strip()}"
        for path in sorted(package.rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if compared.search(line)
    ]
    assert not found, "use data.labels.mask_of"


def test_masks_and_sublabels():
    array = np.array([0, 1, 2, 3, 3])
    assert mask_of(array, 3).tolist() == [False, False, False, True, True]
    assert mask_of(array, (1, 3)).tolist() == [False, True, False, True, True]
    mask = np.array([True, True, True, False, True])
    assert fill_sublabels(np.array([0, 2, 0, 1, 0]), mask).tolist()[:2] == [2, 2]
    assert fill_sublabels(np.array([0, 2, 0, 1, 0]), mask)[[3, 4]].tolist() == [0, 1]
    assert not fill_sublabels(np.zeros(5, int), mask).any()


@pytest.mark.parametrize(
    ("declared", "fit"),
    [
        ({"background": 0, "kidney": 1}, True),
        ({"background": 0, "kidney": [1, 2, 3], "masses": [2, 3]}, True),
        ({"background": 0, "kidney": 4}, False),
        ({"background": 0, "spleen": 2}, False),
    ],
)
def test_labels_of_hosts_fit_but_for_the_tumor(tmp_path, declared, fit):
    """A host has no tumor, so its kidney may be a label of one value where the data set has a region."""
    (tmp_path / "labelsTr").mkdir()
    (tmp_path / "labelsTr" / "a.nii.gz").touch()
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": declared}))
    assert bool(find_host_labels(tmp_path, parse_labels(KITS), "masses")) == fit
