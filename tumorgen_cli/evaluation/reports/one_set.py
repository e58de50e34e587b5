"""The HTML page of a set: tables with explanations, distributions, pairs and provenance.

Reads the previews of the pairs it shows; other pictures are given. Writes the page.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from tumorgen_cli.evaluation.cases import TumorCase, read_case, synthetic_cases
from tumorgen_cli.evaluation.measure import cache_folder, measure_case
from tumorgen_cli.evaluation.reports.html import INK, around, jpeg, number, page, percent, svg, table
from tumorgen_cli.evaluation.scores import ALL_PLANES, PLACES, CaseScores, Scores, TraitComparison, values_of
from tumorgen_cli.figures import View, display_range, display_style, draw_axial_strip, tumor_unit
from tumorgen_cli.geometry import tight_box
from tumorgen_cli.metrics.novelty import Near, Spread
from tumorgen_cli.metrics.slice_distances import Interval
from tumorgen_cli.metrics.summary import Summary
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.preprocessing.intensity import scan_limits
from tumorgen_cli.synthesis.logs import read_log
from tumorgen_cli.synthesis.provenance import Provenance
from tumorgen_cli.synthesis.set_files import count_rejected, read_judges, read_left_out, read_provenance
from tumorgen_cli.system.errors import abbreviate_list, describe_counts
from tumorgen_cli.system.files import write_text

_AROUND = (
    5,
    5,
    5,
)  # voxels around a tumor that a picture shows without clipping: a tumor may be darker than they are


def write_page(
    plan: Plan, real: Sequence[TumorCase], set_folder: Path, out: Path, scores: Scores, others: Sequence[Scores]
) -> Path:
    """Write the set's report.html with its pictures; `others` are sets to compare with."""
    from tumorgen_cli.evaluation.reports.one_set import (
        Losses,
        Pictures,
        Strip,
        nearest_pairs,
        shown_pairs,
        write_report,
    )

    files = {each.case: each for each in (*synthetic_cases(plan, set_folder), *real)}
    slices = {}
    for case in {case for near in nearest_pairs(scores) for case in (near.case, near.nearest)}:
        found = measure_case(plan, files[case], cache_folder(out))
        slices[case] = found.slices["axial"][PLACES.index("tumor"), plan.main_channel]
    strips = {}
    colormap, _ = display_style(scores.channel)
    for pair in shown_pairs(scores).values():
        image, grid, tumor, beside = read_case(plan, files[pair.case])
        if tumor.any():
            box = tight_box(tumor)
            assert box is not None
            channel = image[plan.main_channel]
            limits = scan_limits(image, plan.channels, tumor | beside)[plan.main_channel]
            shown = display_range(limits, (channel,), box.grown(_AROUND, grid.shape))
            strips[pair.case] = Strip(
                *draw_axial_strip(channel, tumor, View(grid.spacing_mm, shown, grid.direction, colormap))
            )
    path = out / "report.html"
    provenance, given_up = read_provenance(set_folder), read_log(set_folder, "given_up")
    losses = Losses(
        {case: line.get("reason") or describe_counts(line["rejected"]) for case, line in given_up.items()},
        read_left_out(set_folder),
        count_rejected(provenance, given_up),
        tuple(read_judges(set_folder)),
    )
    write_report(path, scores, others, provenance, losses, Pictures(set_folder / "previews", strips, slices))
    return path


_PICTURE_WIDTH = 760
_NAMED = 8  # of pairs or reasons, that are named


@dataclass(frozen=True)
class Strip:
    """Axial slices of a pair, from `draw_axial_strip`.

    `picture` is (count * height, width, 3) uint8: `count` frames, one below the other.
    """

    picture: np.ndarray
    count: int


@dataclass(frozen=True)
class Pictures:
    """What the page shows beside the previews.

    Attributes:
        previews: Folder of the previews.
        strips: Strips of pairs, by case.
        slices: Axial slices (H, W) in [0, 1] through lesions, by case.
    """

    previews: Path
    strips: Mapping[str, Strip]
    slices: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Losses:
    """What was lost on the way to a set.

    Attributes:
        given_up: Pairs that were given up, with the reason.
        left_out: Pairs that a filter rejected, with the reason.
        rejected: Number of rejected draws, by reason.
        judges: The judges that selected the pairs.
    """

    given_up: Mapping[str, str]
    left_out: Mapping[str, str]
    rejected: Mapping[str, int]
    judges: Sequence[str]


def write_report(
    path: Path,
    scores: Scores,
    others: Sequence[Scores],
    provenance: Sequence[Provenance],
    losses: Losses,
    pictures: Pictures,
) -> None:
    """Write the page; `others` are sets to compare with. A missing preview is named as missing."""
    unit = tumor_unit(scores.channel)
    parts = [
        _head(scores),
        _tiles(scores),
        _summary(scores, others),
        _agreement(scores, losses),
        _statistics(scores, unit),
        _shares(scores),
        _distances(scores),
        _reader(scores),
        _novelty(scores, pictures),
        _pairs(scores, pictures),
        _failures(scores, losses),
        _origin(scores, provenance),
    ]
    write_text(path, page(f"{scores.name}: evaluation", parts))


def shown_pairs(scores: Scores) -> dict[str, CaseScores]:
    """Select the pairs that the page shows, by title.

    They are the best, median and worst by Dice with the judge, or by contrast without a judge.
    """
    by, names = ("dice", ("best", "median", "worst")) if scores.judge else ("contrast", ("highest", "median", "lowest"))
    cases = scores.of("synthetic")
    values = values_of(cases, by)
    ranked = [cases[i] for i in np.argsort(-values, kind="stable") if math.isfinite(values[i])]
    places = {0: (), 1: (0,), 2: (0, -1)}.get(len(ranked), (0, len(ranked) // 2, -1))
    titles = names if len(places) == 3 else (names[0], names[2])
    return {title: ranked[place] for title, place in zip(titles, places, strict=False)}


def nearest_pairs(scores: Scores) -> tuple[Near, ...]:
    """Select the synthetic lesions nearest to training lesions: all near-copies up to eight, at least three."""
    copies = sum(pair.distance < scores.novelty.threshold for pair in scores.novelty.pairs)
    return scores.novelty.pairs[: max(3, min(8, copies))]


def _head(scores: Scores) -> str:
    counts = {group: len(scores.of(group)) for group in ("synthetic", "train", "test")}
    return (
        f"<h1>{escape(scores.name)}</h1><p class=soft>{counts['synthetic']} synthetic pairs, {counts['train']} training tumors, "
        f"{counts['test']} held-out tumors · channel {escape(scores.channel)}</p>\n"
    )


def _tiles(scores: Scores) -> str:
    contrast, low = next(c for c in scores.comparisons if c.field == "contrast"), scores.shares[0]
    tiles = [
        ("KS distance of contrast", number(contrast.ks), "0 the same, 1 fully apart"),
        ("Low-contrast tumors", percent(low.synthetic), f"training tumors: {percent(low.training)}"),
    ]
    if scores.judge:
        titles = (("dice", "Dice with the judge"), ("surface_dice", "Surface Dice"))
        measures = [(title, scores.agreement.of(field)) for field, title in titles]
        tiles = [
            (title, number(m.synthetic.mean), f"held-out real tumors: {number(m.real.mean)}") for title, m in measures
        ] + tiles
    return (
        "<div class=big>"
        + "".join(f"<div>{a}<b>{b}</b><span class=soft>{c}</span></div>" for a, b, c in tiles)
        + "</div>\n"
    )


def _summary(scores: Scores, others: Sequence[Scores]) -> str:
    """One row a question, one column a set."""
    rows = []
    for title, sentence, value, real in _QUESTIONS:
        cells = [value(each) for each in (scores, *others)]
        if any(cells):
            rows.append(
                (
                    title,
                    *(cell or "–" for cell in cells[:1]),
                    real(scores) or "–",
                    *(cell or "–" for cell in cells[1:]),
                    sentence,
                )
            )
    header = ["", escape(scores.name), "real", *(f"compare with {escape(each.name)}" for each in others), ""]
    return "<h2>In short</h2>" + table(header, rows)


def _agreement(scores: Scores, losses: Losses) -> str:
    if not scores.judge:
        text = "There was no judge, so the agreement between images and masks was not measured. Use --judge FOLDER with an nnU-Net."
        return f"<h2>Do image and mask agree?</h2><p>{text}</p>\n"
    a = scores.agreement
    texts = {
        "dice": ("Dice", "Overlap of the generated mask with the tumor that the judge finds in the image."),
        "surface_dice": (
            f"Surface Dice, {scores.tolerance_mm:g} mm",
            "Share of both surfaces that lies within this distance of the other surface.",
        ),
        "proportion": (
            "P, share of the mask found",
            "FreeTumor's test of a pair; it is not lowered where the judge finds too much.",
        ),
    }
    counts = (a.synthetic_lesions, a.real_lesions)
    rows = [(texts[m.field][0], _interval(m.synthetic), _interval(m.real), texts[m.field][1]) for m in a.measures]
    rows += [
        (
            "lesions missed",
            *(f"{n.missed} of {n.lesions}" for n in counts),
            "Lesions of the masks of which the judge finds no voxel.",
        ),
        (
            "spurious lesions",
            *(f"{n.spurious} in {n.cases} cases" for n in counts),
            "Lesions that the judge finds and that touch no mask.",
        ),
    ]
    for stratum in a.strata if len(a.strata) > 1 else ():
        low = f"from {number(stratum.least_ml)} " if stratum.least_ml > 0 else ""
        high = f"below {number(stratum.most_ml)} " if math.isfinite(stratum.most_ml) else ""
        title = f"Dice, {stratum.name} tumors<br><small>{low}{high}ml</small>"
        cells = (_interval(stratum.dice.synthetic), _interval(stratum.dice.real))
        surface = f"Surface Dice {number(stratum.surface_dice.synthetic.mean)}, real {number(stratum.surface_dice.real.mean)}."
        rows.append((title, *cells, f"{surface} The bounds are the tertiles of the training tumors' volumes."))
    note = (
        "A prediction counts inside the requested box and the mask, and up to 10 mm around them (real tumors: around their tight "
        "box). Where both masks are empty the score is undefined; where one is empty it is 0. "
        "The held-out tumors show what this judge reaches on real tumors. Agreement above that is a sign of easy, typical "
        "tumors, not only of good masks. Intervals are 95 % bootstrap intervals: over pairs, which are similar where they share a "
        "host, and over real scans."
    )
    if losses.judges:
        chosen = ", ".join(map(escape, losses.judges))
        note = f"<b>The pairs were selected by a judge ({chosen}): with this judge or a similar one they agree better than the unselected pairs did.</b> {note}"
    return (
        "<h2>Do image and mask agree?</h2>"
        + table(["", "synthetic", "held-out real", ""], rows)
        + f"<p class=soft>{note}</p>\n"
    )


def _statistics(scores: Scores, unit: str) -> str:
    rows = []
    for c in scores.comparisons:
        rows.append((_titled(c, unit), _quartiles(c.synthetic), _quartiles(c.training), number(c.ks)))
    if scores.redrawn_volume.count:
        title = f"volume over the volume of the replaced tumor ({scores.redrawn_volume.count})"
        rows.append((title, _quartiles(scores.redrawn_volume), "", ""))
    note = (
        "Median and quartiles. The curves show the share of tumors at or below a value; KS is the largest gap between two "
        "curves: 0 the same, 1 fully apart. Contrast is the mean inside minus the mean of the 2 cm around the tumor. The core "
        "ratio is below 1 where a tumor's core is darker than its rim."
    )
    return (
        "<h2>Do the tumors look like the training tumors?</h2>"
        + table(["", "synthetic", "training", "KS"], rows)
        + f"<p class=soft>{note}</p><div class=wide>{_distributions(scores, unit)}</div>\n"
    )


def _shares(scores: Scores) -> str:
    rows = [
        (s.kind, percent(s.synthetic), percent(s.training), f"{s.rule} ({number(s.threshold)})") for s in scores.shares
    ]
    note = "<p class=soft>A generator that paints only typical tumors has smaller shares than the data.</p>\n"
    return "<h2>Are the hard ones among them?</h2>" + table(["", "synthetic", "training", ""], rows) + note


def _distances(scores: Scores) -> str:
    if not scores.planes:
        return ""
    rows = []
    for place, title in (("tumor", "through the tumor"), ("middle", "middle of the scan")):
        for measure in ("frechet", "kernel"):
            for p in (p for p in scores.planes if (p.place, p.measure) == (place, measure)):
                plane = "mean of planes" if p.plane == ALL_PLANES else p.plane
                at_counts = (
                    f"{_distance(p.matched)} <small>({p.matched.counts[0]} against {p.matched.counts[1]})</small>"
                )
                cells = [_distance(p.whole), at_counts, _distance(p.floor)]
                rows.append(
                    (
                        f"{_measure_name(scores, measure)}, {plane}, {title}",
                        *cells,
                        "too few cases to tell" if p.unclear else "",
                    )
                )
    kind = "the standard FID features" if scores.is_fid else "not the FID, and not comparable to it"
    note = (
        f"Distances to the training tumors' slices in the features <i>{escape(scores.features)}</i> ({kind}); the kernel distance "
        "is unbiased and may be below 0. A Fréchet distance grows as slices get fewer, so compare the second column with the "
        "third. The second column: synthetic against training tumors, mean and 95 % of draws that are spread over scans. The "
        "third column: real against real tumors at the same counts, each of another scan. In slices through its middle, as in "
        "the paper, a scan counts once. The first column has a 95 % jackknife interval over hosts. A sample is too small where "
        "the second and third column differ by less than the width of the third column's interval."
    )
    header = [
        "",
        f"synthetic, all {len(scores.of('synthetic'))}",
        "synthetic, at equal counts",
        "real against real",
        "",
    ]
    return "<h2>How far are the images from real ones?</h2>" + table(header, rows) + f"<p class=soft>{note}</p>\n"


def _measure_name(scores: Scores, measure: str) -> str:
    return {"frechet": "FID" if scores.is_fid else "Fréchet", "kernel": "KID" if scores.is_fid else "kernel"}[measure]


def _reader(scores: Scores) -> str:
    title = "<h2>Can a machine tell them from real lesions?</h2>"
    test = scores.reader
    if not math.isfinite(test.auc):
        return f"{title}<p>Not measured: {escape(test.reason)}.</p>\n"
    rows = [("all features", around(test.auc, test.low, test.high))]
    rows += [(f"{f.family} alone", around(f.auc, f.low, f.high)) for f in test.families]
    away_rows = [
        (
            escape(g.title),
            f"synthetic {g.direction}",
            f"{number(g.synthetic)} against {number(g.real)}",
            around(g.auc, g.low, g.high),
            number(g.importance),
        )
        for g in test.give_aways
    ]
    note = (
        f"A logistic regression on {test.synthetic} synthetic and {test.real} real lesions, cross-validated over hosts and patients. "
        "AUC 0.5: it cannot tell them apart; 1: it always can. cases.csv holds the suspicion of every pair: its probability to be synthetic. "
        + (f"{len(test.undefined)} features are undefined for some lesions. " if test.undefined else "")
        + " ".join(escape(text) for text in test.notes)
    )
    header = [
        "what gives them away",
        "",
        "medians, synthetic and real",
        "AUC of the feature alone",
        "AUC lost without it",
    ]
    away = table(header, away_rows) if away_rows else "<p>No single feature gives them away.</p>"
    return f"{title}{table(['', 'AUC'], rows)}<p class=soft>{note}</p>{away}\n"


def _novelty(scores: Scores, pictures: Pictures) -> str:
    n = scores.novelty
    same = "Distance 0: the same lesion; 1: nothing in common. Mirrored and shifted copies count as copies."
    copies = f"Closer to a training lesion than the lesions of any two real patients are to each other ({number(n.threshold)}). {escape(n.reason)}"
    alone = "Their distance to the nearest lesion, over that to the second nearest, is smaller than any real lesion's. Only this separates a copy from a typical lesion."
    one = "Below the real value where a generator repeats the same tumor."
    rows = [
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
            f"{n.duplicated} lesions",
            "In pairs that are closer than the threshold of near-copies.",
        ),
        ("mean distance between lesions", f"{number(n.synthetic_mean)}, real {number(n.real_mean)}", one),
    ]
    varied = [(escape(d.title), number(d.quartiles), number(d.deviations)) for d in n.diversity]
    pairs = "".join(_side_by_side(near, scores, pictures) for near in nearest_pairs(scores))
    return (
        "<h2>Are they new?</h2>" + table(["", "", ""], rows) + f"<div class=near>{pairs}</div>"
        "<p class=soft>The synthetic lesions nearest to a training lesion, each beside that lesion; axial slices through their centers.</p>"
        + table(["spread, synthetic over real (1 the same, below 1 less varied)", "quartiles", "deviations"], varied)
    )


def _side_by_side(near: Near, scores: Scores, pictures: Pictures) -> str:
    if near.case not in pictures.slices or near.nearest not in pictures.slices:
        return ""
    reverse = display_style(scores.channel)[0].endswith("_r")
    shown = "".join(_slice(pictures.slices[case], reverse, case) for case in (near.case, near.nearest))
    mark = " · near-copy" if near.distance < scores.novelty.threshold else ""
    text = f"{escape(near.case)} | {escape(near.nearest)}: {number(near.distance)}, {number(near.ratio)} of the second nearest{mark}"
    return f"<figure><div class=two>{shown}</div><figcaption>{text}</figcaption></figure>"


def _slice(picture: np.ndarray, reverse: bool, name: str) -> str:
    from PIL import Image

    gray = np.clip(picture.T, 0, 1)
    small = Image.fromarray(((1 - gray if reverse else gray) * 255).round().astype(np.uint8))
    shown = small.resize((160, max(1, round(160 * small.height / small.width))), Image.Resampling.NEAREST)
    return f'<img src="{jpeg(shown)}" alt="{escape(name)}">'


def _spread(s: Spread) -> str:
    quartiles = f"{number(s.quartile_1)} to {number(s.quartile_3)}"
    return (
        f"{number(s.median)} <small>({quartiles}, least {number(s.minimum)}, n = {s.count})</small>" if s.count else "–"
    )


def _distance(d: Interval) -> str:
    if not math.isfinite(d.value):
        return "–"
    return around(d.value, d.low, d.high) if math.isfinite(d.low) else number(d.value)


def _pairs(scores: Scores, pictures: Pictures) -> str:
    by = "Dice" if scores.judge else "contrast"
    shown = "".join(_pair(f"{name} {by}", case, pictures) for name, case in shown_pairs(scores).items())
    return f"<h2>Pairs by {by}</h2>{shown}\n" if shown else ""


def _pair(title: str, case: CaseScores, pictures: Pictures) -> str:
    s, path = case.statistics, pictures.previews / f"{case.case}.png"
    facts = [f"{number(s.volume_ml)} ml", f"mean {number(s.mean)}", f"contrast {number(s.contrast)}"]
    if math.isfinite(case.verdict.dice):
        facts.insert(0, f"Dice {number(case.verdict.dice)}, surface Dice {number(case.verdict.surface_dice)}")
    text = f"<b>{title}</b>: {escape(case.case)} on {escape(case.host)} · {' · '.join(facts)}"
    picture = (
        f'<img src="{_photo(path)}" alt="{escape(case.case)}">' if path.is_file() else "<p class=soft>(no preview)</p>"
    )
    strip = _slider(pictures.strips[case.case], case.case) if case.case in pictures.strips else ""
    return f"<figure><figcaption>{text}</figcaption>{picture}{strip}</figure>"


def _slider(strip: Strip, name: str) -> str:
    """All slices in one picture of which a frame is seen; the range below it chooses which."""
    from PIL import Image

    height, width = strip.picture.shape[0] // strip.count, strip.picture.shape[1]
    last = max(1, strip.count - 1)
    style = f"aspect-ratio:{width}/{height};background-image:url({jpeg(Image.fromarray(strip.picture))});--k:{last // 2};--n:{last}"
    move = "this.previousElementSibling.style.setProperty('--k',this.value)"
    return (
        f'<div class=strip role="img" aria-label="axial slices of {escape(name)}, right with the mask" style="{style}"></div>'
        f'<input type="range" min="0" max="{last}" value="{last // 2}" oninput="{move}" aria-label="axial slice of {escape(name)}">'
    )


def _failures(scores: Scores, losses: Losses) -> str:
    """Count pairs that were lost, pairs without a tumor, and tumors that the judge does not find."""
    pairs = scores.of("synthetic")
    empty = [case.case for case in pairs if not case.statistics.volume_ml > 0]
    missed = [case.case for case in pairs if case.statistics.volume_ml > 0 and case.verdict.dice == 0]
    rejected = describe_counts(dict(sorted(losses.rejected.items())))
    rows = [
        ("draws rejected", sum(losses.rejected.values()), escape(rejected)),
        ("pairs given up", len(losses.given_up), escape(_reasons(losses.given_up))),
        ("pairs left out by a filter", len(losses.left_out), escape(_reasons(losses.left_out))),
        ("pairs without a tumor", len(empty), escape(abbreviate_list(empty, _NAMED))),
        *(
            [("tumors that the judge does not find", len(missed), escape(abbreviate_list(missed, _NAMED)))]
            if scores.judge
            else []
        ),
    ]
    return (
        "<h2>What went wrong?</h2>"
        + table(["", "", ""], [(title, str(count), names) for title, count, names in rows])
        + "\n"
    )


def _reasons(lost: Mapping[str, str]) -> str:
    """The reasons, the most frequent first, with the pairs they are of."""
    rows = [
        f"{reason}: {abbreviate_list([case for case, why in lost.items() if why == reason])}"
        for reason, _ in Counter(lost.values()).most_common(_NAMED)
    ]
    return "; ".join(rows)


def _origin(scores: Scores, provenance: Sequence[Provenance]) -> str:
    seconds = [
        sum(line.seconds.values()) if "total" not in line.seconds else line.seconds["total"] for line in provenance
    ]
    undefined = sum(c.synthetic.undefined for c in scores.comparisons)
    facts = {
        "methods": _counted(line.method for line in provenance),
        "hosts": f"{len({line.host for line in provenance})}: {_counted(line.host for line in provenance)}",
        "steps": _counted(str(line.drawn.get("steps", "none")) for line in provenance),
        "seconds a pair": f"median {number(float(np.median(seconds)))}" if seconds else "–",
        "windows padded": str(sum(line.padded for line in provenance)),
        "undefined statistics": str(undefined),
        "plan of the pairs": _counted(line.plan_hash for line in provenance),
        "plan of this evaluation": scores.plan_hash,
        "judge": f"{scores.judge} ({scores.judge_hash})" if scores.judge else "none",
        "weights": _counted(f"{name} {value}" for line in provenance for name, value in sorted(line.weights.items())),
    }
    rows = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())
    return f"<h2>Where the pairs come from</h2><dl>{rows}</dl>\n"


def _interval(s: Summary) -> str:
    if not s.count:
        return "–"
    left_out = f", {s.undefined} undefined" if s.undefined else ""
    around = f" ({number(s.low)} to {number(s.high)})" if math.isfinite(s.low) else ""
    return f"{number(s.mean)}{around}<br><small>median {number(s.median)}, n = {s.count}{left_out}</small>"


def _quartiles(s: Summary) -> str:
    left_out = f" <small>({s.undefined} undefined)</small>" if s.undefined else ""
    return f"{number(s.median)} <small>({number(s.quartile_1)} to {number(s.quartile_3)})</small>{left_out}"


def _counted(names: Iterable[str]) -> str:
    counts = Counter(names).most_common()
    text = ", ".join(f"{name} × {count}" for name, count in counts[:8])
    return text + (f" and {len(counts) - 8} more" if len(counts) > 8 else "") if counts else "–"


def _distributions(scores: Scores, unit: str) -> str:
    """Distribution functions, one panel a statistic, as an inline SVG in the page's own colours."""
    from matplotlib.figure import Figure

    text, soft, line, mark = INK
    columns = 4
    rows = math.ceil(len(scores.comparisons) / columns)
    figure = Figure(figsize=(9.6, 2.3 * rows), facecolor="none")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    figure.subplots_adjust(left=0.04, right=0.99, bottom=0.07, top=0.94, wspace=0.22, hspace=0.38)
    for panel, comparison in zip(panels, scores.comparisons, strict=False):
        for group, color, label in (("train", soft, "training"), ("synthetic", mark, "synthetic")):
            values = values_of(scores.of(group), comparison.field)  # type: ignore[arg-type]
            values = values[np.isfinite(values)]
            if len(values):
                panel.ecdf(values, color=color, label=label, linewidth=1.8)
        if comparison.field == "volume_ml" and comparison.synthetic.median > 0:
            panel.set_xscale("log")
        panel.set_title(_titled(comparison, unit), fontsize=9, color=text)
        panel.set(facecolor="none", ylim=(0, 1.02))
        panel.tick_params(colors=text, labelsize=7, which="both")
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(line)
        panel.grid(color=line, linewidth=0.5)
    for panel in panels[len(scores.comparisons) :]:
        panel.set_axis_off()
    panels[0].legend(loc="upper left", fontsize=8, labelcolor=text, frameon=False)
    return svg(figure)


def _titled(comparison: TraitComparison, unit: str) -> str:
    shown = {"scan": unit, "scan/mm": f"{unit}/mm"}.get(comparison.unit, comparison.unit)
    return comparison.title + (f" [{shown}]" if shown else "")


def _photo(path: Path) -> str:
    """A preview as a data URL, reduced to the page's width."""
    from PIL import Image

    with Image.open(path) as picture:
        shown = picture.convert("RGB")
        if shown.width > _PICTURE_WIDTH:
            shown = shown.resize(
                (_PICTURE_WIDTH, round(shown.height * _PICTURE_WIDTH / shown.width)), Image.Resampling.LANCZOS
            )
        return jpeg(shown)


def _mean_of(field: str) -> tuple[Callable[[Scores], str], Callable[[Scores], str]]:
    def text(summary: Summary) -> str:
        few = f", n = {summary.count}" if summary.count < 10 else ""
        return around(summary.mean, summary.low, summary.high) + few if summary.count else ""

    return lambda scores: text(scores.agreement.of(field).synthetic), lambda scores: text(
        scores.agreement.of(field).real
    )


def _far(measure: str) -> tuple[Callable[[Scores], str], Callable[[Scores], str]]:
    def of(scores: Scores, part: str) -> str:
        rows = [p for p in scores.planes if (p.measure, p.plane, p.place) == (measure, ALL_PLANES, "tumor")]
        few = " (too few cases to tell)" if rows and rows[0].unclear and part == "matched" else ""
        return _distance(getattr(rows[0], part)) + few if rows else ""

    return lambda scores: of(scores, "matched"), lambda scores: of(scores, "floor")


def _apart(field: str) -> Callable[[Scores], str]:
    return lambda scores: number(next(c.ks for c in scores.comparisons if c.field == field))


def _copies(scores: Scores) -> str:
    return f"{number(scores.novelty.near_copies)} <small>(singled out: {number(scores.novelty.singled_out)})</small>"


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
    ("KS of contrast", "", _apart("contrast"), lambda _: ""),
    (
        "low-contrast tumors",
        "Are the hard ones among them?",
        lambda s: percent(s.shares[0].synthetic),
        lambda s: percent(s.shares[0].training),
    ),
)
