"""Scores a synthetic set beside the real data.

Do mask and image agree, do the tumors look like real ones, are they new? Reads the set (an nnU-Net raw data set with
provenance.jsonl) and the real tumors of the plan's data set. Writes predictions/ and measured/ into .cache/ beside the
evaluations of all sets, then cases.csv and, last, scores.json into the set's own folder. A file in the cache is named
by the hash of everything it was made from, so that an interrupted run continues where it stopped and nothing outdated
is used.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tumorgen_cli.data.patients import Patients, patient_of
from tumorgen_cli.evaluation.cases import TumorCase, Volumes, split_tumors, synthetic_cases, tumor_name
from tumorgen_cli.evaluation.measure import Measured, cache_folder, judge_case, measure_case, slice_features, verdict_of
from tumorgen_cli.evaluation.redrawn import Redraw, Redrawn, summarize_redrawn
from tumorgen_cli.evaluation.scores import (
    GROUPS,
    UNDEFINED_STATISTICS,
    VERDICT,
    CaseScores,
    Group,
    PlaneDistance,
    Scores,
    compare_statistics,
    hard_shares,
    plane_distances,
    summarize_agreement,
    unusual_places,
    values_of,
)
from tumorgen_cli.geometry import Box
from tumorgen_cli.judge.card import JudgeFacts
from tumorgen_cli.metrics.classifier import ReaderTest, reader_test
from tumorgen_cli.metrics.lesion_distances import LesionDistance, lesion_distances
from tumorgen_cli.metrics.novelty import Lesion, measure_novelty
from tumorgen_cli.metrics.overlap import UNJUDGED, Verdict
from tumorgen_cli.metrics.radiomics import lesion_features
from tumorgen_cli.metrics.statistics import TumorStatistics
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.system.errors import PlanError, StateError
from tumorgen_cli.system.files import hash_file, hash_once, write_text
from tumorgen_cli.system.json_records import from_plain, nan_for_none, none_for_nan, read_plain, to_plain, write_json

if TYPE_CHECKING:
    from tumorgen_cli.judge.predictions import Predictions
    from tumorgen_cli.metrics.feature_networks import Network
    from tumorgen_cli.system.console import Ticker


@dataclass(frozen=True)
class ScoringJudge:
    """The judge of an evaluation, or why there is none.

    Attributes:
        predictions: Its predictions; None: agreement is not measured.
        facts: Which judge it is, how long it was trained, and its scores on real held-out cases.
        reason: Why there is no judge; empty if there is one.
    """

    predictions: Predictions | None
    facts: JudgeFacts = field(default_factory=lambda: JudgeFacts(""))
    reason: str = ""


def evaluate_set(
    plan: Plan,
    real: Sequence[TumorCase],
    set_folder: Path,
    out: Path,
    judge: ScoringJudge,
    network: Network,
    seed: int,
    ticker: Ticker,
) -> Scores:
    """Score a set beside the real tumors, and write cases.csv and scores.json.

    The painted tumors are compared with the real ones, one by one, however many a pair or a case has. Agreement is
    counted around each: the generated mask against the judge's tumor voxels inside the mask and the requested box,
    grown by a margin, without other tumors. For real test cases the box is the tumor's tight one; they show what the
    judge can reach.

    Args:
        plan: The plan of the workspace.
        real: The real tumors, from `real_tumors`.
        set_folder: The set.
        out: Where the scores are written.
        judge: The judge, or why there is none.
        network: The network whose features the slice distances use.
        seed: Seed of the reader test's folds.
        ticker: Counts up to `evaluation_steps`.

    Raises:
        StateError: The set is not finished, or files are missing; all of them are named.
    """
    work, cache = [*split_tumors(synthetic_cases(plan, set_folder)), *real], cache_folder(out)
    scored: dict[Group, list[CaseScores]] = {group: [] for group in GROUPS}
    measured: dict[Group, list[Measured]] = {group: [] for group in GROUPS}
    features: dict[Group, list[np.ndarray]] = {group: [] for group in GROUPS}
    volumes = Volumes(work[0])
    for number, files in enumerate(work, 1):
        if volumes.images != files.images:
            volumes = Volumes(files)
        found = measure_case(plan, files, cache, volumes)
        scored[files.group].append(_score_case(plan, files, found, judge.predictions, volumes))
        measured[files.group].append(found)
        features[files.group].append(slice_features(found, network))
        ticker(number, files.case)
    pairs, train, test = (tuple(cases) for cases in scored.values())
    main, patients = plan.main_channel, {files.host: files.patient for files in real}
    scores = Scores(
        name=set_folder.name,
        set_hash=hash_file(set_folder / "provenance.jsonl"),
        plan_hash=plan.hash,
        channel=plan.channels[main].name,
        judge=str(judge.predictions.judge.folder) if judge.predictions else "",
        judge_hash=judge.predictions.judge.hash if judge.predictions else "",
        judge_facts=judge.facts,
        no_judge=judge.reason,
        features=network.name,
        is_fid=network.is_fid,
        tolerance_mm=plan.tolerance_mm,
        agreement=summarize_agreement(pairs, test, train),
        comparisons=compare_statistics(pairs, train, test),
        redrawn=_redrawn(plan, set_folder, real, (pairs, train, test), judge.predictions),
        shares=hard_shares(pairs, train),
        places=unusual_places(pairs, train, test),
        planes=_plane_distances(features, scored, patients),
        reader=_reader_test(plan, (pairs, (*train, *test)), measured, patients, seed),
        novelty=measure_novelty(*(_lesions(scored[group], measured[group], patients) for group in GROUPS)),
        cases=(*pairs, *train, *test),
        radiomics=_lesion_distances(plan, scored, measured, patients),
    )
    write_text(out / "cases.csv", cases_table(scores))
    write_json(out / "scores.json", none_for_nan(to_plain(scores)))
    return scores


def _redrawn(
    plan: Plan,
    set_folder: Path,
    real: Sequence[TumorCase],
    scored: tuple[Sequence[CaseScores], Sequence[CaseScores], Sequence[CaseScores]],
    predictions: Predictions | None,
) -> Redrawn:
    """Compare each painted tumor with its host's own tumors in its box; others are left out."""
    known = {case.case: case for cases in scored for case in cases}
    redraws = []
    for pair in read_provenance(set_folder):
        for number, tumor in enumerate(pair.tumors, 1):
            old = [files for files in real if files.host == pair.host and tumor.requested_box.contains(files.hull)]
            if old and hash_once(*old[0].images) == pair.host_hash:  # else it is another scan with the name of a case
                painted = known[tumor_name(pair.case, number, len(pair.tumors))]
                own = [known[files.case].statistics for files in old]
                largest = max(own, key=lambda each: each.volume_ml)
                verdict = _replaced_verdict(plan, old, tumor.requested_box, predictions)
                volumes = painted.statistics.volume_ml, sum(each.volume_ml for each in own)
                redraws.append(Redraw(pair.host, *volumes, largest.contrast, painted.verdict, verdict))
    train = scored[1]
    return summarize_redrawn(redraws, values_of(train, "volume_ml"), values_of(train, "contrast"))


def _replaced_verdict(plan: Plan, old: Sequence[TumorCase], box: Box, predictions: Predictions | None) -> Verdict:
    """Judge real tumors in the box in which others were painted; undefined where the judge may have learned them."""
    if predictions is None or any(files.group == "train" for files in old):
        return UNJUDGED
    here = replace(old[0], boxes=tuple(files.hull for files in old), requested_boxes=(box,) * len(old))
    return verdict_of(plan, here, judge_case(plan, here, predictions))


def evaluation_steps(set_folder: Path, real: Sequence[TumorCase]) -> int:
    """Count the tumors that `evaluate_set` goes through."""
    return sum(len(pair.tumors) for pair in read_provenance(set_folder)) + len(real)


def read_scores(path: Path) -> Scores:
    """Read the scores from a scores.json.

    Raises:
        StateError: The file is missing or of another version.
    """
    remedy = "run `tumorgen evaluate` again"
    try:
        return from_plain(Scores, nan_for_none(read_plain(path, remedy)), where=path.name, remedy=remedy)
    except PlanError as error:
        raise StateError("The scores are of another version", error.faults) from error


def cases_table(scores: Scores) -> str:
    """Write all cases as CSV.

    The columns are: group, case, host, the verdict, the reader test's suspicion of a painted tumor, statistics of the
    main channel.
    """
    names = [field.name for field in fields(TumorStatistics)]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["group", "case", "host", *VERDICT, "suspicion", *names])
    painted = [case.case for case in scores.of("synthetic") if case.statistics.volume_ml > 0]
    suspicion = dict(zip(painted, scores.reader.suspicion, strict=True))
    for case in scores.cases:
        suspected = suspicion.get(case.case, math.nan) if case.group == "synthetic" else math.nan
        numbers = [
            *(getattr(case.verdict, name) for name in VERDICT),
            suspected,
            *(getattr(case.statistics, name) for name in names),
        ]
        table.writerow([case.group, case.case, case.host, *(f"{v:.6g}" for v in numbers)])
    return text.getvalue()


def _score_case(
    plan: Plan, files: TumorCase, found: Measured, predictions: Predictions | None, volumes: Volumes
) -> CaseScores:
    verdict = UNJUDGED
    if predictions is not None and files.group != "train":
        verdict = verdict_of(plan, files, judge_case(plan, files, predictions, volumes))
    statistics = found.statistics or UNDEFINED_STATISTICS
    return CaseScores(files.group, files.case, files.host, files.scan, statistics, verdict)


def _plane_distances(
    features: dict[Group, list[np.ndarray]], scored: dict[Group, list[CaseScores]], patients: Patients
) -> tuple[PlaneDistance, ...]:
    synthetic, train, test = (np.array(features[group]) for group in GROUPS)
    hosts, train_scans, test_scans = ([patient_of(case.host, patients) for case in scored[group]] for group in GROUPS)
    return plane_distances(synthetic, train, test, hosts, train_scans, test_scans)


def _lesion_distances(
    plan: Plan,
    scored: dict[Group, list[CaseScores]],
    measured: dict[Group, list[Measured]],
    patients: Patients,
) -> tuple[LesionDistance, ...]:
    """Compare the radiomics of the painted tumors with those of real ones; the group of a tumor is its patient."""
    width = len(lesion_features([channel.name for channel in plan.channels]))
    rows = [[m.lesion for m in measured[group] if m.statistics is not None] for group in GROUPS]
    names = [
        [patient_of(c.host, patients) for c, m in zip(scored[g], measured[g], strict=True) if m.statistics is not None]
        for g in GROUPS
    ]
    synthetic, train, test = (np.array(part, float).reshape(-1, width) for part in rows)
    return lesion_distances(synthetic, train, test, (names[0], names[1], names[2]))


def _reader_test(
    plan: Plan,
    scored: tuple[Sequence[CaseScores], Sequence[CaseScores]],
    measured: dict[Group, list[Measured]],
    patients: Patients,
    seed: int,
) -> ReaderTest:
    """Run the reader test of pairs and real tumors.

    The group of a tumor is the patient of its scan: a tumor redrawn in a real case belongs to that patient.
    """
    rows = [
        [m.lesion for m in found if m.statistics is not None]
        for found in (measured["synthetic"], [*measured["train"], *measured["test"]])
    ]
    groups = [[patient_of(case.host, patients) for case in cases if case.statistics.volume_ml > 0] for cases in scored]
    features = lesion_features([channel.name for channel in plan.channels])
    ours, theirs = (np.array(part).reshape(-1, len(features)) for part in rows)
    return reader_test(ours, theirs, groups[0], groups[1], features, seed)


def _lesions(cases: Sequence[CaseScores], measured: Sequence[Measured], patients: Patients) -> list[Lesion]:
    return [
        Lesion(case.case, patient_of(case.host, patients), found.patch, found.facts)
        for case, found in zip(cases, measured, strict=True)
        if found.statistics is not None
    ]
