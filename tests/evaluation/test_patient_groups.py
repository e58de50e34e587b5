"""Scans of one patient are not compared as if they were of two: novelty, and the groups of the reader test."""

from dataclasses import replace

from support.sets import SPLITS
from support.workspaces import tumors_of

from tumorgen_cli.evaluation import evaluate as module
from tumorgen_cli.evaluation.evaluate import ScoringJudge, evaluate_set
from tumorgen_cli.metrics.feature_networks import hand_made


def test_tumors_of_one_patient_are_not_each_others_strangers(plan, synthetic, tmp_path, monkeypatch):
    """t1 and t2 are of one patient, and so are t3 and h1."""
    groups = []
    reader = module.reader_test
    monkeypatch.setattr(module, "reader_test", lambda *rest: groups.append(rest[2:4]) or reader(*rest))
    splits = replace(SPLITS, patients={"t1": "P", "t2": "P", "t3": "Q", "h1": "Q", "t4": "t4", "h2": "h2"})
    real = tumors_of(plan, splits)
    assert [files.patient for files in real] == ["P", "P", "Q", "t4", "Q", "h2"]
    scores = evaluate_set(
        plan, real, synthetic, tmp_path / "out", ScoringJudge(None, reason="none"), hand_made(), 0, lambda *_: None
    )
    near = {pair.case: pair.nearest for pair in (*scores.novelty.left_out_pairs, *scores.novelty.held_out_pairs)}
    assert near["t1"] != "t2"
    assert near["t2"] != "t1"
    assert near["h1"] != "t3"
    assert groups[0][1] == ["P", "P", "Q", "t4", "Q", "h2"]
