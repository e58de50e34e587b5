"""The tables of a set's page: rows of cells. Cells are plain text, which the page escapes, or `Markup`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from tumorgen_cli.evaluation.reports.pages import around, number, percent
from tumorgen_cli.evaluation.scores import ALL_PLANES, PlaneDistance, Scores, TraitComparison
from tumorgen_cli.metrics.lesion_distances import LesionDistance
from tumorgen_cli.metrics.novelty import Spread
from tumorgen_cli.metrics.slice_distances import Interval
from tumorgen_cli.metrics.summary import Summary
from tumorgen_cli.metrics.traits import ratio
from tumorgen_cli.synthesis.aim import AimSummary
from tumorgen_cli.synthesis.provenance import Provenance
from tumorgen_cli.system.errors import abbreviate_list, describe_counts, say_count

_NAMED = 8  # most pairs or reasons that are named

Row = tuple[str, ...]


@dataclass(frozen=True)
class Losses:
    """What was lost on the way to a set.

    Attributes:
        given_up: Pairs that were given up, with the reason.
        left_out: Pairs that a filter rejected, with the reason.
        rejected: Number of rejected draws, by reason.
        judges: The judges that selected the pairs.
        shortfalls: What was too weak about the weights that painted the set.
        copied: Whether the tumors are copies of training tumors on purpose.
    """

    given_up: Mapping[str, str]
    left_out: Mapping[str, str]
    rejected: Mapping[str, int]
    judges: Sequence[str]
    shortfalls: Sequence[str] = ()
    copied: bool = False


def tiles(scores: Scores) -> list[Row]:
    """Return the four large numbers: title, value, what real tumors give, what it means."""
    low, contour = scores.shares[0], next(c for c in scores.comparisons if c.field == "contour_dice")
    dice = scores.agreement.of("dice")
    title, values = "DSC with the judge", (dice.synthetic.mean, dice.real.mean)
    if not scores.judge:
        title, values = "DSC, mask and half-contrast contour", (contour.synthetic.median, contour.training.median)
    agreement: Row = (title, *map(number, values), "1 if mask and image agree fully")
    rows = [p for p in scores.planes if (p.measure, p.plane, p.place) == ("kernel", ALL_PLANES, "tumor")]
    name = "KID" if scores.is_fid else "Kernel distance"
    unclear = "too few to tell apart" if rows and rows[0].unclear else "of tumor slices: 0 is best"
    far = (number(rows[0].matched.value), number(rows[0].floor.value)) if rows else ("not measured", "not measured")
    auc = number(scores.reader.auc) if math.isfinite(scores.reader.auc) else "not measured"
    return [
        agreement,
        (f"{name} to real slices", *far, unclear),
        ("Told apart by a machine, AUC", auc, "0.5", "0.5: not told apart, 1: always"),
        ("Low-contrast tumors", percent(low.synthetic), percent(low.training), "share of the tumors hardest to see"),
    ]


def summary(scores: Scores, others: Sequence[Scores]) -> tuple[Row, list[Row]]:
    """Return header and rows of the summary: a row for each question, a column for each set."""
    rows: list[Row] = []
    for title, sentence, value, real in _QUESTIONS:
        cells = [value(each) for each in (scores, *others)]
        if any(cells):
            first, *rest = (cell or "–" for cell in cells)
            rows.append((title, first, real(scores) or "–", *rest, sentence))
    return ("", scores.name, "real", *(f"compare with {each.name}" for each in others), ""), rows


def agreement(scores: Scores) -> list[Row]:
    """Return the rows of the judge's agreement with the masks."""
    a = scores.agreement
    texts = {
        "dice": ("Dice", "Overlap of the generated mask with the tumor that the judge finds in the image."),
        "surface_dice": (
            f"Surface Dice, {number(scores.tolerance_mm)} mm",
            "Share of both surfaces that lies within this distance of the other surface.",
        ),
        "proportion": (
            "P, share of the mask found",
            "FreeTumor's test of a pair; it is not lowered where the judge finds too much.",
        ),
    }
    counts = (a.synthetic_lesions, a.real_lesions)
    rows: list[Row] = [
        (texts[m.field][0], _interval(m.synthetic), _interval(m.real), texts[m.field][1]) for m in a.measures
    ]
    rows += [
        (
            "lesions missed",
            *(f"{n.missed} of {n.lesions}" for n in counts),
            "Lesions of the masks of which the judge finds no voxel.",
        ),
        (
            "spurious lesions",
            *(f"{n.spurious} in {say_count(n.cases, 'case')}" for n in counts),
            "Lesions that the judge finds and that touch no mask.",
        ),
    ]
    for stratum in a.strata if len(a.strata) > 1 else ():
        low = f"from {number(stratum.least_ml)} " if stratum.least_ml > 0 else ""
        high = f"below {number(stratum.most_ml)} " if math.isfinite(stratum.most_ml) else ""
        title = Markup("Dice, {} tumors<br><small>{}{}ml</small>").format(stratum.name, low, high)
        cells = (_interval(stratum.dice.synthetic), _interval(stratum.dice.real))
        ours, theirs = stratum.surface_dice.synthetic, stratum.surface_dice.real
        surface = f"Surface Dice {number(ours.mean)}, real {number(theirs.mean)}."
        rows.append((title, *cells, f"{surface} The bounds are the tertiles of the training tumors' volumes."))
    return rows


def statistics(scores: Scores, unit: str) -> list[Row]:
    """Return the rows of the tumor statistics."""
    rows: list[Row] = [
        (statistic_title(c, unit), *(_quartiles(s) for s in (c.synthetic, c.training, c.held_out)), number(c.ks))
        for c in scores.comparisons
    ]
    p = scores.places
    title = f"surroundings outside the training tumors' 5th to 95th percentile ({number(p.low)} to {number(p.high)})"
    rows.append((title, *map(percent, (p.synthetic, p.training, p.held_out)), ""))
    if scores.redrawn.volume.count:
        title = f"volume over the volume of the replaced tumor ({scores.redrawn.volume.count})"
        rows.append((title, _quartiles(scores.redrawn.volume), "", "", ""))
    return rows


def redrawn(scores: Scores) -> list[Row]:
    """Return the rows of redrawn tumors beside the real ones that they replace, in all and by size and contrast."""
    rows: list[Row] = []
    for s in scores.redrawn.strata:
        title = f"{s.size}, {s.contrast} contrast" if s.size else "all"
        few = "too few to conclude from" if s.few else ""
        where = f"{s.dice.count} in {say_count(s.hosts, 'scan')}"
        rows.append((title, where, _interval(s.dice), _interval(s.surface_dice), few))
    return rows


def shares(scores: Scores) -> list[Row]:
    """Return the rows of the shares of hard tumors."""
    return [
        (
            s.kind,
            percent(s.synthetic),
            percent(s.training),
            number(ratio(s.synthetic, s.training)),
            f"{s.rule} ({number(s.threshold)})",
        )
        for s in scores.shares
    ]


def distances(scores: Scores) -> list[Row]:
    """Return the rows of the distances of slices."""
    names = {"frechet": "FID", "kernel": "KID"} if scores.is_fid else {"frechet": "Fréchet", "kernel": "kernel"}
    rows: list[Row] = []
    for place, title in (("tumor", "through the tumor"), ("middle", "middle of the scan")):
        for measure, name in names.items():
            for p in (p for p in scores.planes if (p.place, p.measure) == (place, measure)):
                plane = "mean of planes" if p.plane == ALL_PLANES else p.plane
                counts = Markup(" <small>({} against {})</small>").format(*p.matched.counts)
                cells = (_distance(p.whole), _distance(p.matched) + counts, _distance(p.floor))
                rows.append((f"{name}, {plane}, {title}", *cells, "too few cases to tell" if p.unclear else ""))
    return rows


def reader_rows(scores: Scores) -> list[Row]:
    """Return the AUC of the reader test, of all features and of each family."""
    test = scores.reader
    rows: list[Row] = [("all features", around(test.auc, test.low, test.high))]
    return rows + [(f"{f.family} alone", around(f.auc, f.low, f.high)) for f in test.families]


def give_aways(scores: Scores) -> list[Row]:
    """Return the features that separate synthetic from real lesions."""
    return [
        (
            g.title,
            f"synthetic {g.direction}",
            f"{number(g.synthetic)} against {number(g.real)}",
            around(g.auc, g.low, g.high),
            number(g.importance),
        )
        for g in scores.reader.give_aways
    ]


def novelty(scores: Scores) -> list[Row]:
    """Return the rows on how new the lesions are."""
    n = scores.novelty
    same = "Distance 0: the same lesion; 1: nothing in common. Mirrored and shifted copies count as copies."
    copies = (
        "Closer to a training lesion than the lesions of any two real patients are to each other "
        f"({number(n.threshold)}). {n.reason}"
    )
    alone = (
        "Their distance to the nearest lesion, over that to the second nearest, is smaller than any real lesion's. "
        "Only this separates a copy from a typical lesion."
    )
    one = "Below the real value where a generator repeats the same tumor."
    return [
        ("nearest training lesion, synthetic", _spread(n.synthetic), same),
        ("nearest training lesion, held-out real", _spread(n.held_out), "The distance of new patients' lesions."),
        ("nearest of another patient, training", _spread(n.left_out), ""),
        ("near-copies", number(n.near_copies), copies),
        ("of them, singled out", number(n.singled_out), alone),
        (
            "close to a training lesion",
            percent(n.close_share),
            "Below the 5th percentile of the real distances; 5 % is expected.",
        ),
        (
            "similar to each other",
            say_count(n.duplicated, "lesion"),
            "In pairs that are closer than the threshold of near-copies.",
        ),
        ("mean distance between lesions", f"{number(n.synthetic_mean)}, real {number(n.real_mean)}", one),
    ]


def diversity(scores: Scores) -> list[Row]:
    """Return the rows on how varied the lesions are."""
    return [(d.title, number(d.quartiles), number(d.deviations)) for d in scores.novelty.diversity]


def failures(scores: Scores, losses: Losses) -> list[Row]:
    """Count pairs that were lost, boxes without a tumor, and tumors that the judge does not find."""
    pairs = scores.of("synthetic")
    empty = [case.case for case in pairs if not case.statistics.volume_ml > 0]
    missed = [case.case for case in pairs if case.statistics.volume_ml > 0 and case.verdict.dice == 0]
    rows = [
        ("draws rejected", sum(losses.rejected.values()), describe_counts(dict(sorted(losses.rejected.items())))),
        ("pairs given up", len(losses.given_up), _reasons(losses.given_up)),
        ("pairs left out by a filter", len(losses.left_out), _reasons(losses.left_out)),
        ("painted boxes without a tumor", len(empty), abbreviate_list(empty, _NAMED)),
    ]
    if scores.judge:
        rows.append(("tumors that the judge does not find", len(missed), abbreviate_list(missed, _NAMED)))
    return [(title, str(count), names) for title, count, names in rows]


def _reasons(lost: Mapping[str, str]) -> str:
    """The reasons, the most frequent first, with the pairs they are of."""
    rows = [
        f"{reason}: {abbreviate_list([case for case, why in lost.items() if why == reason])}"
        for reason, _ in Counter(lost.values()).most_common(_NAMED)
    ]
    return "; ".join(rows)


def origin(scores: Scores, provenance: Sequence[Provenance]) -> dict[str, str]:
    """Return facts on where the pairs come from, by title."""
    seconds = [
        sum(line.seconds.values()) if "total" not in line.seconds else line.seconds["total"] for line in provenance
    ]
    undefined = sum(c.synthetic.undefined for c in scores.comparisons)
    beyond = [
        tumor.drawn["beyond_body"] for line in provenance for tumor in line.tumors if "beyond_body" in tumor.drawn
    ]
    spilled = f"median {percent(float(np.median(beyond)))}, most {percent(max(beyond))}" if beyond else "–"
    return {
        "methods": _counted(line.method for line in provenance),
        "hosts": f"{len({line.host for line in provenance})}: {_counted(line.host for line in provenance)}",
        "tumors a pair": _counted(str(len(line.tumors)) for line in provenance),
        "tumors left out": str(sum(len(line.left_out) for line in provenance)),
        "steps": _counted(str(tumor.drawn.get("steps", "none")) for line in provenance for tumor in line.tumors),
        "seconds a pair": f"median {number(float(np.median(seconds)))}" if seconds else "–",
        "windows padded": str(sum(tumor.padded for line in provenance for tumor in line.tumors)),
        "painted change outside the body": spilled,
        "undefined statistics": str(undefined),
        "plan of the pairs": _counted(line.plan_hash for line in provenance),
        "plan of this evaluation": scores.plan_hash,
        "judge": f"{scores.judge} ({scores.judge_hash})" if scores.judge else scores.no_judge,
        "weights": _counted(f"{name} {value}" for line in provenance for name, value in sorted(line.weights.items())),
    }


def aim(summary: AimSummary, provenance: Sequence[Provenance]) -> list[Row]:
    """Return the rows of what the set was aimed at: of each stratum what the segmentor finds and how often it came."""
    aimed = [tumor.aimed_at for line in provenance for tumor in line.tumors if tumor.aimed_at]
    rows: list[Row] = []
    for row in summary.strata:
        painted = percent(float(np.mean([at.get(row.trait) == row.name for at in aimed]))) if aimed else "–"
        cells = f"{row.tumors} ({percent(row.tumors / summary.tumors)})", percent(row.found), number(row.dice)
        rows.append((f"{row.trait}: {row.name}", *cells, number(row.factor), painted))
    return rows


def statistic_title(comparison: TraitComparison, unit: str) -> str:
    """Return the title of a statistic with its unit."""
    shown = {"scan": unit, "scan/mm": f"{unit}/mm"}.get(comparison.unit, comparison.unit)
    return comparison.title + (f" [{shown}]" if shown else "")


def _spread(s: Spread) -> str:
    if not s.count:
        return "–"
    details = f"{number(s.quartile_1)} to {number(s.quartile_3)}, least {number(s.minimum)}, n = {s.count}"
    return Markup("{} <small>({})</small>").format(number(s.median), details)


def _distance(d: Interval) -> str:
    if not math.isfinite(d.value):
        return "–"
    return around(d.value, d.low, d.high) if math.isfinite(d.low) else number(d.value)


def _interval(s: Summary) -> str:
    if not s.count:
        return "–"
    left_out = f", {s.undefined} undefined" if s.undefined else ""
    interval = f" ({number(s.low)} to {number(s.high)})" if math.isfinite(s.low) else ""
    details = f"median {number(s.median)}, n = {s.count}{left_out}"
    return Markup("{}{}<br><small>{}</small>").format(number(s.mean), interval, details)


def _quartiles(s: Summary) -> str:
    left_out = Markup(" <small>({} undefined)</small>").format(s.undefined) if s.undefined else ""
    quartiles = f"{number(s.quartile_1)} to {number(s.quartile_3)}"
    return Markup("{} <small>({})</small>{}").format(number(s.median), quartiles, left_out)


def _counted(names: Iterable[str]) -> str:
    counts = Counter(names).most_common()
    text = ", ".join(f"{name} × {count}" for name, count in counts[:8])
    return text + (f" and {len(counts) - 8} more" if len(counts) > 8 else "") if counts else "–"


def _mean_of(field: str) -> tuple[Callable[[Scores], str], Callable[[Scores], str]]:
    def text(summary: Summary) -> str:
        few = f", n = {summary.count}" if summary.count < 10 else ""
        return around(summary.mean, summary.low, summary.high) + few if summary.count else ""

    return lambda scores: text(scores.agreement.of(field).synthetic), lambda scores: text(
        scores.agreement.of(field).real
    )


def _far(measure: str) -> tuple[Callable[[Scores], str], Callable[[Scores], str]]:
    return _beside_floor(
        lambda scores: [p for p in scores.planes if (p.measure, p.plane, p.place) == (measure, ALL_PLANES, "tumor")]
    )


def _radiomics(measure: str) -> tuple[Callable[[Scores], str], Callable[[Scores], str]]:
    return _beside_floor(lambda scores: [each for each in scores.radiomics if each.measure == measure])


def _beside_floor(
    rows_of: Callable[[Scores], Sequence[PlaneDistance | LesionDistance]],
) -> tuple[Callable[[Scores], str], Callable[[Scores], str]]:
    def of(scores: Scores, part: str) -> str:
        rows = rows_of(scores)
        few = " (too few cases to tell)" if rows and rows[0].unclear and part == "matched" else ""
        return _distance(getattr(rows[0], part)) + few if rows else ""

    return lambda scores: of(scores, "matched"), lambda scores: of(scores, "floor")


def _apart(field: str) -> Callable[[Scores], str]:
    return lambda scores: number(next(c.ks for c in scores.comparisons if c.field == field))


def _median(scores: Scores, part: str) -> str:
    summary = getattr(next(c for c in scores.comparisons if c.field == "contour_dice"), part)
    return number(summary.median) if summary.count else ""


def _copies(scores: Scores) -> str:
    singled_out = number(scores.novelty.singled_out)
    return Markup("{} <small>(singled out: {})</small>").format(number(scores.novelty.near_copies), singled_out)


def _auc(scores: Scores) -> str:
    test = scores.reader
    return around(test.auc, test.low, test.high) if math.isfinite(test.auc) else ""


#: title, sentence, what of a set, what of real cases
_QUESTIONS: tuple[tuple[str, str, Callable[[Scores], str], Callable[[Scores], str]], ...] = (
    (
        "Dice with the judge",
        "Do mask and image agree? Real: the judge on the held-out tumors.",
        *_mean_of("dice"),
    ),
    ("surface Dice with the judge", "The same for the boundary.", *_mean_of("surface_dice")),
    ("P, share of the mask found", "FreeTumor's test of a pair.", *_mean_of("proportion")),
    (
        "Fréchet distance, tumor slices",
        "Do the slices look like real ones? Mean of three planes, at equal counts.",
        *_far("frechet"),
    ),
    ("kernel distance, tumor slices", "The same, unbiased.", *_far("kernel")),
    (
        "Fréchet radiomics distance",
        "Do the tumors have the radiomics of real ones? At equal counts.",
        *_radiomics("frechet"),
    ),
    ("coverage", "How many real tumors have a synthetic one near? At equal counts.", *_radiomics("coverage")),
    (
        "AUC of the reader test by machine",
        "Can a classifier tell them from real ones? 0.5 is best.",
        _auc,
        lambda _: "",
    ),
    (
        "near-copies",
        "Closer to a training lesion than the lesions of any two patients are; only those singled out are suspicious.",
        _copies,
        lambda _: "",
    ),
    (
        "KS of volume",
        "Against the training tumors: 0 the same, 1 fully apart. With few pairs it is far from 0 by chance.",
        _apart("volume_ml"),
        lambda _: "",
    ),
    ("KS of mean intensity", "", _apart("mean"), lambda _: ""),
    (
        "mask against half-contrast contour",
        "Dice of the mask with what stands out in the picture, median; real: held-out tumors.",
        lambda s: _median(s, "synthetic"),
        lambda s: _median(s, "held_out"),
    ),
    ("KS of contrast", "", _apart("contrast"), lambda _: ""),
    (
        "tumors in unusual places",
        "Surroundings outside the training tumors' 5th to 95th percentile: 10 % if alike; real: held-out tumors.",
        lambda s: percent(s.places.synthetic),
        lambda s: percent(s.places.held_out),
    ),
    (
        "low-contrast tumors",
        "Are the hard ones among them?",
        lambda s: percent(s.shares[0].synthetic),
        lambda s: percent(s.shares[0].training),
    ),
)
