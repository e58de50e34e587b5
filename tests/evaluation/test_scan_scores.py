"""Rows on disk, and the folds of a cross-validation as one experiment."""

import json
import math

import pytest
from support.scan_rows import lesion, row

from tumorgen_cli.evaluation.scan_scores import pool_folds, read_rows
from tumorgen_cli.evaluation.trials import compare
from tumorgen_cli.evaluation.verdicts import Primary
from tumorgen_cli.system.errors import DataError, PlanError, StateError
from tumorgen_cli.system.json_records import to_plain


def test_rows_are_read_as_they_were_written(tmp_path):
    rows = [row("a", lesions=[lesion(), lesion(12, None)], spurious=[0.7]), row("b", dsc=None)]
    path = tmp_path / "scores.jsonl"
    path.write_text("".join(json.dumps(to_plain(each)) + "\n" for each in rows))
    assert read_rows(path) == rows


@pytest.mark.parametrize(("content", "error"), [(None, StateError), ("{", StateError), ('{"arm": 3}', PlanError)])
def test_rows_that_cannot_be_read_are_written_anew_as_told(tmp_path, content, error):
    path = tmp_path / "scores.jsonl"
    if content:
        path.write_text(content)
    with pytest.raises(error) as found:
        read_rows(path)
    said = "run the same `tumorgen downstream` again, which writes it from the finished trainings"
    assert found.value.faults[0].remedy == said
    path.write_text(json.dumps(to_plain(row("a"))))
    assert read_rows(path) == [row("a")]


def _fold(number, gain, draws=2):
    return [
        row(f"f{number}_{i}", arm, draw, dsc=0.4 + gain[draw] * (arm == "tumorgen"))
        for arm in ("real", "tumorgen")
        for draw in range(draws)
        for i in range(5)
    ]


def test_folds_are_the_units_and_draws_within_them_are_averaged():
    """Gains of the folds: 0.05, 0.1 and 0.15, each the mean of two draws."""
    folds = {str(k): _fold(k, (0.05 * (k + 1) - 0.03, 0.05 * (k + 1) + 0.03)) for k in range(3)}
    found = compare(pool_folds(folds), Primary("tumorgen", "real", "dsc", 8))
    assert (found.subsets, found.patients) == (3, 15)
    half = 4.302653 * 0.05 / math.sqrt(3)
    assert found.over_subsets.value == pytest.approx(0.1)
    assert found.over_subsets.low == pytest.approx(0.1 - half)


def test_a_patient_of_two_folds_is_told():
    with pytest.raises(DataError) as error:
        pool_folds({"work_0": _fold(0, (0, 0)), "work_1": _fold(0, (0, 0))})
    fault = error.value.faults[0]
    assert (fault.where, fault.found) == ("f0_0", "tested in work_0, work_1")
    assert fault.remedy == "plan each workspace with another --fold of the same folds"
    assert len(pool_folds({"work_0": _fold(0, (0, 0)), "work_1": _fold(1, (0, 0))})) == 40
