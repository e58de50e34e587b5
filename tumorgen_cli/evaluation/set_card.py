"""The card of a synthetic set: what is known of its data, under the seven criteria of an FDA-authored scorecard.

A card lies in the set from the day on which it is whole. What has to be measured beside real tumors is written by
`evaluate`.

Source of the criteria: Zamzmi et al., Scorecard for Synthetic Medical Data Evaluation and Reporting (arXiv 2406.11143).
Deviation: no criterion is graded. Each has the figures that tumorgen knows, beside real ones, and what is not known.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tumorgen_cli import __version__
from tumorgen_cli.evaluation.reports.pages import number
from tumorgen_cli.evaluation.scores import Scores
from tumorgen_cli.methods.registry import METHODS, find_method
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.synthesis.logs import read_log
from tumorgen_cli.synthesis.provenance import Provenance
from tumorgen_cli.synthesis.set_files import (
    MODEL,
    SYNTHETIC,
    read_learned_from,
    read_left_out,
    read_provenance,
    read_settings,
    read_shortfalls,
    read_unlabeled_hosts,
)
from tumorgen_cli.system.errors import StateError, abbreviate_list, describe_counts, say_count
from tumorgen_cli.system.files import write_text

FILE = "SET_CARD.md"
_UNMEASURED = "Not measured. `tumorgen evaluate` measures it where the real training tumors are."


@dataclass(frozen=True)
class _Set:
    """What the files of a set say of it."""

    folder: Path
    plan: Plan
    records: tuple[Provenance, ...]
    scores: Scores | None


def write_card(folder: Path, plan: Plan, scores: Scores | None = None, beside: Path | None = None) -> Path:
    """Write the card of a whole set.

    Args:
        folder: Folder of the set.
        plan: The plan of its method.
        scores: Its scores; None: not evaluated.
        beside: Another folder that gets the same card, such as that of the evaluation.

    Returns:
        The card in the set.
    """
    text = set_card(folder, plan, scores)
    if beside is None:
        write_text(folder / FILE, text)
    else:
        write_text(beside / FILE, text)
        with contextlib.suppress(StateError):  # somebody else's set, or a disk that can only be read
            write_text(folder / FILE, text)
    return folder / FILE


def set_card(folder: Path, plan: Plan, scores: Scores | None) -> str:
    """The card of a set in Markdown; see `write_card`."""
    found = _Set(folder, plan, read_provenance(folder), scores)
    methods = " and ".join(dict.fromkeys(record.method for record in found.records))
    channels = " and ".join(channel.name for channel in plan.channels)
    painted = f"{plan.tumor_name} in {channels}, painted into scans by tumorgen ({methods})"
    lines = [
        f"# {folder.name}",
        "",
        f"{say_count(len(found.records), 'synthetic pair')} of image and mask: {painted}.",
        "",
        "Every volume says in its own header that it is synthetic. The scans around the tumors are real ones.",
    ]
    sections = {
        "Congruence: are the tumors distributed as real ones?": _congruence(found),
        "Coverage: do they show all kinds that real ones have?": _coverage(found),
        "Constraint: do they obey anatomy, and do mask and image agree?": _constraint(found),
        "Completeness: is everything there that training needs?": _completeness(found),
        "Compliance: format, privacy and rights": _compliance(found),
        "Comprehension: how was it made, and what is known to be weak?": _comprehension(found),
        "Consistency: is it the same again, and as good everywhere?": _consistency(found),
    }
    for title, texts in sections.items():
        lines += ["", f"## {title}", "", *(f"* {text}" for text in texts)]
    return "\n".join([*lines, ""])


def _congruence(of: _Set) -> Iterable[str]:
    if of.scores is None:
        yield _UNMEASURED
        return
    for field in ("volume_ml", "contrast", "heterogeneity", "sphericity"):
        row = next(each for each in of.scores.comparisons if each.field == field)
        medians = f"{number(row.synthetic.median)}, of training tumors {number(row.training.median)}"
        yield f"{row.title}: median {medians}; KS distance {number(row.ks)} (0 alike, 1 apart)."
    for plane in of.scores.planes:
        if (plane.measure, plane.plane, plane.place) == ("kernel", "all", "tumor"):
            yield f"Kernel distance of slices through tumors: {_beside(plane.matched.value, plane.floor.value)}."
    yield from _radiomics(of.scores, "frechet", "Fréchet radiomics distance")
    reader = of.scores.reader
    yield f"AUC of a classifier, real against synthetic (0.5: not told apart): {reader.reason or number(reader.auc)}."


def _coverage(of: _Set) -> Iterable[str]:
    if of.scores is None:
        yield _UNMEASURED
        return
    yield from _radiomics(of.scores, "coverage", "Share of real tumors that have a synthetic one near, by radiomics")
    for share in of.scores.shares:
        yield f"Share of {share.kind} tumors: {number(share.synthetic)}; of training tumors {number(share.training)}."
    for each in of.scores.novelty.diversity:
        if each.fact == "volume_ml":
            yield f"Spread of {each.title} over that of real tumors: {number(each.quartiles)} (1 alike)."


def _constraint(of: _Set) -> Iterable[str]:
    inside = min((tumor.inside for record in of.records for tumor in record.tumors), default=math.nan)
    yield f"Least share of a tumor in the region or body that it was painted into: {number(inside)}."
    yield "Outside the boxes that its provenance lists, every voxel is the host's."
    unlike = sum((tumor.unlike or 0) > 1 for record in of.records for tumor in record.tumors)
    yield f"Tumors in places unlike those of training tumors: {unlike}."
    if of.scores is None:
        yield f"Agreement of mask and image: {_UNMEASURED}"
    elif not of.scores.judge:
        yield f"Agreement of mask and image: {of.scores.no_judge}."
    else:
        dice = of.scores.agreement.of("dice")
        yield f"DSC of a judge with the masks: {dice.synthetic.text}; on real held-out cases {dice.real.text}."


def _completeness(of: _Set) -> Iterable[str]:
    tumors = sum(len(record.tumors) for record in of.records)
    hosts = len({record.host for record in of.records})
    yield f"{say_count(len(of.records), 'pair')} with {say_count(tumors, 'tumor')} in {say_count(hosts, 'host')}."
    missing = sum(len(record.left_out) for record in of.records)
    yield f"Tumors that were to come and did not: {missing}; pairs given up: {len(read_log(of.folder, 'given_up'))}."
    if rejected := read_left_out(of.folder):
        yield f"Pairs that a filter left out: {len(rejected)}. What it keeps is easier than what it leaves out."
    yield f"Labels: {', '.join(of.plan.labels)}. Each pair has an image per channel, labels and a line of provenance."
    if unlabeled := read_unlabeled_hosts(of.folder):
        yield f"Hosts without the data set's other labels, whose organs are background: {len(unlabeled)}."


def _compliance(of: _Set) -> Iterable[str]:
    yield f'nnU-Net v2 raw data set; `descrip` of each NIfTI header: "{SYNTHETIC}".'
    yield "The hosts are scans of persons, unless you know better: their consent, license and anonymity hold here, too."
    model, learned = read_settings(of.folder).get(MODEL), read_learned_from(of.folder)
    if model:
        yield f"Painted by the installed model `{model}`: its card has its license and what was tested for privacy."
    cases = "an unknown number of cases" if learned is None else say_count(len(learned), "case")
    yield f"Its method has learned from {cases}."
    if of.scores is None:
        yield f"Near-copies of training tumors: {_UNMEASURED}"
        return
    new = of.scores.novelty
    copies = f"{number(new.near_copies)} of {new.synthetic.count} tumors, {number(new.singled_out)} singled out"
    yield f"Near-copies of training tumors: {new.reason or copies}."
    nearest = f"{number(new.synthetic.median)}; of real held-out tumors {number(new.held_out.median)}"
    yield f"Distance to the nearest training tumor, median (0 the same): {nearest}."


def _comprehension(of: _Set) -> Iterable[str]:
    settings = read_settings(of.folder)
    yield f"Made by tumorgen {__version__}: set.json has plan, weights, seed and options, provenance.jsonl each draw."
    for name in sorted({record.method for record in of.records} & {*METHODS}):
        yield f"{name}: {find_method(name).SOURCE}"
    if seed := settings.get("seed"):
        yield f"Seed: {seed}."
    weak = read_shortfalls(of.folder)
    yield from (f"Too weak about the weights: {text}." for text in weak)
    if not weak:
        yield "Nothing is known to be too weak about the weights."
    rejected: Counter[str] = Counter()
    for record in of.records:
        rejected.update(record.rejected)
    yield f"Draws that were rejected before these: {describe_counts(rejected) or 'none'}."
    yield "Not for diagnosis, and not for validation or testing of a network: train with it, test on real cases."


def _consistency(of: _Set) -> Iterable[str]:
    yield "The same hosts, plan, weights and seed give the same voxels; every file has a checksum in its provenance."
    doubtful = [record.case for record in of.records if record.unlike]
    if doubtful:
        pairs = f"{say_count(len(doubtful), 'pair')} ({abbreviate_list(doubtful)})"
        yield f"Hosts with intensities unlike the training cases': {pairs}."
    if of.scores is None:
        yield f"By size of tumor: {_UNMEASURED}"
        return
    for stratum in of.scores.agreement.strata if of.scores.judge else ():
        dice = stratum.dice
        yield f"DSC with the judge, {stratum.name} tumors: {dice.synthetic.text}; real {dice.real.text}."
    yield "Intervals are over hosts and patients; with few of them they are wide."


def _radiomics(scores: Scores, measure: str, title: str) -> Iterable[str]:
    for each in scores.radiomics:
        if each.measure == measure:
            yield f"{title}: {_beside(each.matched.value, each.floor.value)}."


def _beside(value: float, floor: float) -> str:
    return f"{number(value)}; between real ones {number(floor)}"
