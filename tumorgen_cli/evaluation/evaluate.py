"""A synthetic set -> its scores, beside the real data's: do mask and picture agree, do the tumors look like real ones, are
they new.

Reads the set (an nnU-Net raw dataset with provenance.jsonl) and the real tumors of the plan's dataset. Writes, as it goes,
predictions/ and measured/ into .cache/ beside the evaluations of all sets, then cases.csv and, last, scores.json into the
set's own. What lies in the cache is named by the hash of all it was made from, so that a rerun goes on where the last one
stopped and nothing stale is taken.
"""

from __future__ import annotations

import csv
import functools
import io
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tumorgen_cli.evaluation.cases import TumorCase, Volumes, synthetic_cases
from tumorgen_cli.evaluation.measure import Measured, _slice_features, cache_of, measure_case, verdict_of
from tumorgen_cli.evaluation.scores import (
    UNDEFINED_STATISTICS,
    VERDICT,
    CaseScores,
    Group,
    Scores,
    agree,
    compare,
    hard_shares,
    plane_distances,
)
from tumorgen_cli.metrics.classifier import ReaderTest, reader_test
from tumorgen_cli.metrics.novelty import Lesion, novelty
from tumorgen_cli.metrics.overlap import UNJUDGED
from tumorgen_cli.metrics.radiomics import lesion_features
from tumorgen_cli.metrics.statistics import TumorStatistics
from tumorgen_cli.metrics.summary import Summary, summarize
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.system.errors import PlanError, StateError
from tumorgen_cli.system.files import hash_file, hash_files, write_text
from tumorgen_cli.system.json_records import from_plain, nan_for_none, none_for_nan, read_plain, to_plain, write_json

if TYPE_CHECKING:
    from tumorgen_cli.judge.model import Judge
    from tumorgen_cli.metrics.feature_networks import Network
    from tumorgen_cli.system.console import Ticker


def evaluate_set(
    plan: Plan,
    real: Sequence[TumorCase],
    set_folder: Path,
    out: Path,
    judge: Judge | None,
    network: Network,
    seed: int,
    ticker: Ticker,
) -> Scores:
    """The scores of a set beside those of `real_tumors`, written to `out`. `seed` divides the reader test's folds; `ticker` counts up to
    `evaluation_steps`.

    A pair holds one painted tumor, and is held against real tumors one by one, however many a case has. Agreement is counted within the
    pair: the generated mask against the judge's tumor voxels inside mask and asked box grown by 10 mm, other tumors left out. For real
    test cases, the ceiling, the box is the tumor's tight one. `network` gives the features of the slices.

    Raises:
        StateError: the set is unfinished, or files are missing; all of them are named.
    """
    work, cache = [*synthetic_cases(plan, set_folder), *real], cache_of(out)
    scored: dict[Group, list[CaseScores]] = {"synthetic": [], "train": [], "test": []}
    measured: dict[Group, list[Measured]] = {"synthetic": [], "train": [], "test": []}
    features: dict[Group, list[np.ndarray]] = {"synthetic": [], "train": [], "test": []}
    volumes = Volumes(work[0])
    for number, files in enumerate(work, 1):
        if volumes.images != files.images:
            volumes = Volumes(files)
        found = measure_case(plan, files, cache, volumes)
        scored[files.group].append(_score_case(plan, files, found, cache, judge, volumes))
        measured[files.group].append(found)
        features[files.group].append(_slice_features(found, network))
        ticker(number, files.case)
    pairs, train, test = (tuple(cases) for cases in scored.values())
    main = plan.main_channel
    scores = Scores(
        name=set_folder.name,
        set_hash=hash_file(set_folder / "provenance.jsonl"),
        plan_hash=plan.hash,
        channel=plan.channels[main].name,
        judge=str(judge.folder) if judge else "",
        judge_hash=judge.hash if judge else "",
        features=network.name,
        is_fid=network.is_fid,
        tolerance_mm=plan.tolerance_mm,
        agreement=agree(pairs, test, train),
        comparisons=compare(pairs, train),
        redrawn_volume=_redrawn_volume(set_folder, real, (*pairs, *train, *test)),
        shares=hard_shares(pairs, train),
        planes=plane_distances(
            *map(np.array, features.values()), *([case.host for case in cases] for cases in (pairs, train, test))
        ),
        reader=_reader_test(plan, pairs, (*train, *test), measured, seed),
        novelty=novelty(*(_lesions(scored[group], measured[group]) for group in ("synthetic", "train", "test"))),
        cases=(*pairs, *train, *test),
    )
    write_text(out / "cases.csv", cases_table(scores))
    write_json(out / "scores.json", none_for_nan(to_plain(scores)))
    return scores


def _redrawn_volume(set_folder: Path, real: Sequence[TumorCase], scores: Sequence[CaseScores]) -> Summary:
    """The volume of each pair's tumor over that of its host's own tumors in its box; pairs that replace none are left out."""
    volume, hash_host = {case.case: case.statistics.volume_ml for case in scores}, functools.cache(hash_files)
    ratios, hosts = [], []
    for pair in read_provenance(set_folder):
        old = [files for files in real if files.host == pair.host and pair.asked.contains(files.box)]
        if old and hash_host(old[0].images) == pair.host_hash:  # else it is another scan of a case's name
            ratios.append(volume[pair.case] / sum(volume[files.case] for files in old))
            hosts.append(pair.host)
    return summarize(np.array(ratios), "redrawn volume", hosts)


def evaluation_steps(set_folder: Path, real: Sequence[TumorCase]) -> int:
    """How many tumors `evaluate_set` goes through."""
    return len(read_provenance(set_folder)) + len(real)


def read_scores(path: Path) -> Scores:
    """The scores in a scores.json.

    Raises:
        StateError: missing, or from another version.
    """
    remedy = "run `tumorgen evaluate` again"
    try:
        return from_plain(Scores, nan_for_none(read_plain(path, remedy)), where=path.name, remedy=remedy)
    except PlanError as error:
        raise StateError("The scores are of another version", error.faults) from error


def cases_table(scores: Scores) -> str:
    """All cases as CSV: group, case, host, agreement, the reader test's suspicion of a pair, the main channel's statistics."""
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
    plan: Plan, files: TumorCase, found: Measured, cache: Path, judge: Judge | None, volumes: Volumes
) -> CaseScores:
    verdict = (
        verdict_of(plan, files, cache, judge, volumes) if judge is not None and files.group != "train" else UNJUDGED
    )
    statistics = found.statistics or UNDEFINED_STATISTICS
    return CaseScores(files.group, files.case, files.host, statistics, verdict)


def _reader_test(
    plan: Plan,
    pairs: Sequence[CaseScores],
    real: Sequence[CaseScores],
    measured: dict[Group, list[Measured]],
    seed: int,
) -> ReaderTest:
    """A tumor's group is its scan: redrawn in a real case, synthetic and real ones belong together."""
    rows = [
        [m.lesion for m in found if m.statistics is not None]
        for found in (measured["synthetic"], [*measured["train"], *measured["test"]])
    ]
    groups = [[case.host for case in cases if case.statistics.volume_ml > 0] for cases in (pairs, real)]
    features = lesion_features([channel.name for channel in plan.channels])
    ours, theirs = (np.array(part).reshape(-1, len(features)) for part in rows)
    return reader_test(ours, theirs, *groups, features, seed)


def _lesions(cases: Sequence[CaseScores], measured: Sequence[Measured]) -> list[Lesion]:
    return [
        Lesion(case.case, case.host, found.patch, found.facts)
        for case, found in zip(cases, measured, strict=True)
        if found.statistics is not None
    ]
