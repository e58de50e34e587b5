"""The kept set: whole, nnU-Net's, its rejected pairs listed with reasons; the source untouched."""

import csv
import json

import numpy as np
import pytest
from test_evaluation import SHAPE, Threshold, plan, scan, synthetic, write_case  # noqa: F401

from tumorgen_cli.errors import StateError
from tumorgen_cli.files import hash_file
from tumorgen_cli.filtering import filter_set
from tumorgen_cli.synthesis import read_provenance


def run(plan, synthetic, tmp_path, keep=0.7, judge=None):  # noqa: F811
    steps = []
    out, predictions = tmp_path / "synthetic" / "toy_kept", tmp_path / "evaluation" / ".cache"
    found = filter_set(plan, synthetic, out, predictions, judge or Threshold(), keep, lambda done, note="": steps.append(done))
    assert steps == [1, 2, 3]
    return found, out


def test_kept_and_rejected(plan, synthetic, tmp_path):  # noqa: F811
    before = {path: hash_file(path) for path in synthetic.rglob("*") if path.is_file()}
    found, out = run(plan, synthetic, tmp_path)
    assert (found.kept, found.rejected, found.reasons) == (1, 2, {"P below the threshold": 2})
    assert [line.case for line in read_provenance(out)] == ["a"]
    assert json.loads((out / "dataset.json").read_text())["numTraining"] == 1
    assert sorted(path.name for path in out.glob("*Tr/*")) == ["a.nii.gz", "a_0000.nii.gz"]
    rows = {row["case"]: row for row in csv.DictReader((out / "rejected.csv").open())}
    assert rows.keys() == {"b", "c"}
    assert float(rows["c"]["proportion"]) == 0
    assert 0 < float(rows["b"]["proportion"]) < 0.7
    assert before == {path: hash_file(path) for path in synthetic.rglob("*") if path.is_file()}


def test_a_lower_bar_keeps_more_and_is_another_set(plan, synthetic, tmp_path):  # noqa: F811
    run(plan, synthetic, tmp_path)
    with pytest.raises(StateError, match="another set"):
        run(plan, synthetic, tmp_path, keep=0.05)
    again, _ = run(plan, synthetic, tmp_path)  # the same again is no fault
    assert again.kept == 1
    judge = Threshold()
    other = filter_set(plan, synthetic, tmp_path / "synthetic" / "lower", tmp_path / "evaluation" / ".cache", judge, 0.05, lambda *_: None)
    assert (other.kept, judge.asked) == (2, 0)  # the judge's answers were kept


def test_an_empty_mask_is_its_own_reason(plan, synthetic, tmp_path):  # noqa: F811
    write_case(synthetic, "c", scan(np.zeros(SHAPE, bool), 1, 2), np.zeros(SHAPE))
    found, _ = run(plan, synthetic, tmp_path)
    assert found.reasons == {"empty": 1, "P below the threshold": 1}
