"""Which judge scores which set, and what is said where none does."""

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace

from support.scores import make_scores

from tumorgen_cli.judge.card import JudgeFacts
from tumorgen_cli.judge.find import Choice
from tumorgen_cli.pipeline import evaluate
from tumorgen_cli.planning.workspace import Workspace

JUDGE = SimpleNamespace(hash="h", usual_extent_mm=(1.0, 1.0, 1.0), tumor_labels=(1,), folder=Path("judge"))


def rows_of(scores):
    return dict(evaluate._score_rows(scores))


def test_an_untrained_judge_scores_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "load_judge", lambda *_: JUDGE)
    choice = Choice(Path("judge"), "tumor", "a judge")
    monkeypatch.setattr(evaluate, "judge_facts", lambda *_: JudgeFacts("a judge", 40, 0.2, 2, 0.9, 0.9))
    found = evaluate._load_judge(Workspace(tmp_path), choice, "cpu")
    assert found.predictions is None
    assert "40 training iterations in 0.2 of 30 planned minutes" in found.reason
    assert "no conclusion" in found.reason
    monkeypatch.setattr(evaluate, "judge_facts", lambda *_: JudgeFacts("a judge", 6000, 30.0, 2, 0.9, 0.9))
    assert evaluate._load_judge(Workspace(tmp_path), choice, "cpu").predictions is not None


def test_without_a_judge_the_reason_is_a_row():
    found = evaluate._load_judge(Workspace(Path("w")), Choice(None, "tumor", reason="another kind of scan"), "cpu")
    assert "another kind of scan" in found.reason
    assert "tumorgen train judge" in found.reason
    rows = rows_of(dataclasses.replace(make_scores([math.nan] * 3, judge=""), no_judge=found.reason))
    assert rows["agreement"] == found.reason
    assert "judge" not in rows


def test_agreement_comes_with_the_judge_its_training_and_its_scores():
    rows = rows_of(make_scores([0.5, 0.6, 0.7]))
    assert rows["judge"] == "a judge: 6,000 training iterations; DSC 0.80, NSD 0.70 on 8 real held-out cases"
    assert rows["agreement DSC [95 % interval]"].startswith("0.600 [")


def test_no_row_says_nan_without_a_reason():
    scores = make_scores([math.nan])
    few = dataclasses.replace(scores, planes=())
    for each in (scores, few):
        for name, value in rows_of(each).items():
            assert "nan" not in value.split(), (name, value)
    assert rows_of(scores)["agreement DSC [95 % interval]"].startswith("undefined: 1 case without a value; real")
    assert rows_of(few)["distances to real slices"].startswith("not measured: ")
    assert "too few" in rows_of(scores)["frechet distance, all, tumor slice"]


def test_a_warning_of_weak_weights_names_all_its_sets_once(capsys):
    evaluate._warn_of_weights({"a": ["vae is short", "flow is short"], "b": ["vae is short"], "c": []})
    assert capsys.readouterr().err.splitlines() == ["warning: a, b: vae is short", "warning: a: flow is short"]
