"""A synthetic set -> the pairs a judge agrees with: FreeTumor's quality test, after the fact.

Reads a set and the predictions that evaluation may have left. Writes the kept pairs as a set of their own (hard links
where the disk allows, else copies) with `rejected.csv`, which lists what was left out and why.
"""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tumorgen_cli.evaluation import CaseFiles, synthetic_cases, verdict_of
from tumorgen_cli.files import hash_file, link_or_copy, to_plain, write_text
from tumorgen_cli.metrics.agreement import Verdict
from tumorgen_cli.plan import Plan
from tumorgen_cli.synthesis import NOT_FOUND, claim, read_learnt_from, read_provenance, write_dataset_json

if TYPE_CHECKING:
    from tumorgen_cli.console import Ticker
    from tumorgen_cli.judge import Judge


@dataclass(frozen=True)
class Filtered:
    """What a filter kept, and where."""

    folder: str
    kept: int
    rejected: int
    reasons: dict[str, int]


def filter_set(plan: Plan, set_folder: Path, out: Path, cache: Path, judge: Judge, keep: float, ticker: Ticker) -> Filtered:
    """Keeps the pairs of which the judge finds the share `keep` of the mask (P) or more; the set itself stays as it is.

    `cache` is the evaluation's, where the judge's answers lie or are put.

    Raises:
        StateError: the set is not whole, or `out` holds something else.

    Source: Wu et al., FreeTumor: keep a pair if P >= T, T = 0.7.
    """
    source = hash_file(set_folder / "provenance.jsonl")
    identity = {"plan": plan.hash, "filtered_from": str(set_folder.resolve()), "provenance": source, "judge": judge.hash, "keep": keep}
    learnt_from = read_learnt_from(set_folder)
    claim(out, identity if learnt_from is None else {**identity, "learnt_from": list(learnt_from)})
    lines = {line.case: line for line in read_provenance(set_folder)}
    kept: list[str] = []
    rejected: list[tuple[CaseFiles, Verdict, str]] = []
    for number, files in enumerate(synthetic_cases(plan, set_folder), 1):
        verdict = verdict_of(plan, files, cache, judge)
        if verdict.proportion >= keep:
            _take(set_folder, out, files)
            kept.append(json.dumps(to_plain(lines[files.case])) + "\n")
        else:
            rejected.append((files, verdict, NOT_FOUND if math.isfinite(verdict.proportion) else "empty"))
        ticker(number, files.case)
    write_text(out / "rejected.csv", _table(rejected))
    write_text(out / "provenance.jsonl", "".join(kept))
    write_dataset_json(out, plan, len(kept))
    reasons = [reason for _, _, reason in rejected]
    return Filtered(str(out), len(kept), len(rejected), {reason: reasons.count(reason) for reason in sorted(set(reasons))})


def _take(set_folder: Path, out: Path, files: CaseFiles) -> None:
    preview = set_folder / "previews" / f"{files.case}.png"
    for path in (*files.images, files.label, *([preview] if preview.is_file() else [])):
        link_or_copy(path, out / path.relative_to(set_folder))


def _table(rejected: list[tuple[CaseFiles, Verdict, str]]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["case", "host", "reason", "proportion", "dice", "surface_dice"])
    for files, verdict, reason in rejected:
        numbers = (verdict.proportion, verdict.dice, verdict.surface_dice)
        table.writerow([files.case, files.host, reason, *(f"{v:.4f}" for v in numbers)])
    return text.getvalue()
