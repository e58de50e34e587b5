"""Scores written by hand."""

from __future__ import annotations

import numpy as np

from tumorgen_cli.evaluation.redrawn import summarize_redrawn
from tumorgen_cli.evaluation.scores import (
    CaseScores,
    Scores,
    compare_statistics,
    hard_shares,
    plane_distances,
    summarize_agreement,
    unusual_places,
)
from tumorgen_cli.judge.card import JudgeFacts
from tumorgen_cli.metrics.classifier import reader_test
from tumorgen_cli.metrics.novelty import Lesion, measure_novelty
from tumorgen_cli.metrics.overlap import UNJUDGED, Verdict
from tumorgen_cli.metrics.radiomics import lesion_features
from tumorgen_cli.metrics.statistics import TumorStatistics


def statistics(i):
    return TumorStatistics(10.0 + i, 4.0, 8.0, 3.0 + i, 2.0, 0.3, 0.9, 0.8, 0.5, 0.8, 2.0 + i)


def judged(dice, surface_dice):
    return Verdict(dice, surface_dice, dice, 1, int(dice == 0), 0)


def lesions(group, count, rng):
    return [
        Lesion(f"{group}{i}", f"{group}{i}", rng.normal(size=(2, 20, 20, 20)), tuple(rng.normal(size=8)))
        for i in range(count)
    ]


def make_scores(dices, judge="results/judge", name="a <set>"):
    rng = np.random.default_rng(0)
    pairs = tuple(
        CaseScores("synthetic", f"pair{i}", "<host>", f"pair{i}", statistics(i), judged(d, d))
        for i, d in enumerate(dices)
    )
    train = tuple(CaseScores("train", f"t{i}", "", f"t{i}", statistics(i + 2), UNJUDGED) for i in range(5))
    test = (CaseScores("test", "h", "", "h", statistics(0), judged(0.6, 0.7)),)
    features = [rng.normal(size=(n, 2, 3, 4)) for n in (max(2, len(pairs)), 5, 2)]
    told = lesion_features(["PET"])
    few = reader_test(np.ones((1, len(told))), np.ones((5, len(told))), ["x"], list("abcde"), told, 0)
    return Scores(
        name,
        "s",
        "p",
        "PET",
        judge,
        "j",
        JudgeFacts("a judge", 6000, 30.0, 8, 0.8, 0.7) if judge else JudgeFacts(""),
        "" if judge else "no judge: it does not know such scans",
        "filters",
        False,
        5.5,
        summarize_agreement(pairs, test, train),
        compare_statistics(pairs, train, test),
        summarize_redrawn([], np.array([]), np.array([])),
        hard_shares(pairs, train),
        unusual_places(pairs, train, test),
        plane_distances(*features, list("xyxyxy")[: len(features[0])], list("abcde"), list("gh")),
        few,
        measure_novelty(lesions("pair", len(pairs), rng), lesions("t", 5, rng), []),
        (*pairs, *train, *test),
    )
