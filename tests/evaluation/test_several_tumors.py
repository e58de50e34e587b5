"""Pairs with several tumors: scored one by one as those of real cases, kept or rejected as a whole."""

from dataclasses import replace

import numpy as np
import pytest
from support.sets import SPLITS, Threshold, ball, provenance, scan, write_case, write_provenance
from support.workspaces import tumors_of

from tumorgen_cli.evaluation import measure as measure_module
from tumorgen_cli.evaluation.evaluate import ScoringJudge, evaluate_set
from tumorgen_cli.evaluation.filter import filter_set
from tumorgen_cli.evaluation.reports.one_set import write_page
from tumorgen_cli.geometry import tight_box
from tumorgen_cli.judge.predictions import Predictions
from tumorgen_cli.judge.verdict import PassRule
from tumorgen_cli.metrics.feature_networks import hand_made
from tumorgen_cli.synthesis.set_files import read_provenance

BALLS = [ball(center, radius) for center, radius in (((6, 6, 4), 13), ((19, 6, 12), 13), ((7, 15, 12), 9))]
BOXES = [tight_box(each).grown(1, each.shape) for each in BALLS]


@pytest.fixture
def several(tmp_path):
    """Of pair a all three tumors are bright, of pair b the last is not; pair c has one."""
    folder = tmp_path / "synthetic" / "toy"
    whole = BALLS[0] | BALLS[1] | BALLS[2]
    for seed, (case, bright, mask) in enumerate(
        (("a", whole, whole), ("b", whole & ~BALLS[2], whole), ("c", BALLS[0], BALLS[0]))
    ):
        write_case(folder, case, scan(bright, 6, seed), mask * 2)
    left_out = replace(provenance("c", "y", BOXES[0]), left_out=({"empty": 10},))
    write_provenance(folder, [provenance("a", "x", *BOXES), provenance("b", "x", *BOXES), left_out])
    (folder / "dataset.json").write_text('{"file_ending": ".nii.gz"}')
    return folder


def test_tumors_are_scored_one_by_one(plan, several, tmp_path):
    out, judge = tmp_path / "evaluation" / "toy", Threshold()
    scoring = ScoringJudge(Predictions(judge, measure_module.cache_folder(out)))
    scores = evaluate_set(plan, tumors_of(plan, SPLITS), several, out, scoring, hand_made(), 0, lambda *_: None)
    found = {case.case: case for case in scores.of("synthetic")}
    assert [*found] == [f"{pair}_tumor{number}" for pair in "ab" for number in (1, 2, 3)] + ["c"]
    for name, case in found.items():
        mask = BALLS[int(name[-1]) - 1 if name != "c" else 0]
        assert case.statistics.volume_ml == pytest.approx(mask.sum() * 0.08)
        assert case.verdict.dice == (0 if name == "b_tumor3" else 1)
    assert judge.asked == 3 + len(SPLITS.test)  # each scan once
    write_page(plan, tumors_of(plan, SPLITS), several, out, scores, ())
    page = (out / "report.html").read_text()
    assert "7 painted tumors" in page
    assert "3 (2), 1 (1)" in page or "1 (1), 3 (2)" in page or "tumors a pair" in page


def test_a_pair_is_kept_or_rejected_with_all_of_its_tumors(plan, several, tmp_path):
    """P is the share of all three masks."""
    sizes = np.array([each.sum() for each in BALLS])
    share = sizes[:2].sum() / sizes.sum()
    for keep, kept in ((share - 0.01, ["a", "b", "c"]), (share + 0.01, ["a", "c"])):
        out = tmp_path / "synthetic" / f"kept{len(kept)}"
        predictions = Predictions(Threshold(), tmp_path / "cache")
        found = filter_set(plan, several, out, predictions, PassRule(keep), lambda *_: None)
        assert (found.kept, found.rejected) == (len(kept), 3 - len(kept))
        before = {record.case: record for record in read_provenance(several)}
        assert [before[record.case] == record for record in read_provenance(out)] == [True] * len(kept)
        assert [record.case for record in read_provenance(out)] == kept


def test_provenance_is_read_as_it_was_written(several):
    records = read_provenance(several)
    assert [len(record.tumors) for record in records] == [3, 3, 1]
    assert records[0].boxes == tuple(BOXES)
    assert records[2].left_out == ({"empty": 10},)
    assert records[2].rejected == {"empty": 11}
    assert records[0].volume_ml == 3.0
