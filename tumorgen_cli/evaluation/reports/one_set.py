"""The HTML page of a set: tables with explanations, distributions, pairs and provenance.

Reads the previews of the pairs it shows; other pictures are given. Writes the page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from tumorgen_cli.evaluation.cases import TumorCase, read_case, split_tumors, synthetic_cases
from tumorgen_cli.evaluation.measure import cache_folder, measure_case
from tumorgen_cli.evaluation.reports import one_set_tables
from tumorgen_cli.evaluation.reports.one_set_tables import Losses
from tumorgen_cli.evaluation.reports.pages import INK, jpeg, number, render, svg
from tumorgen_cli.evaluation.scores import GROUPS, PLACES, CaseScores, Scores, values_of
from tumorgen_cli.figures import View, display_range, display_style, draw_axial_strip, tumor_unit
from tumorgen_cli.geometry import tight_box
from tumorgen_cli.metrics.novelty import Near
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.preprocessing.intensity import scan_limits
from tumorgen_cli.synthesis.aim import AimSummary
from tumorgen_cli.synthesis.logs import read_log
from tumorgen_cli.synthesis.provenance import Provenance
from tumorgen_cli.synthesis.set_files import (
    count_rejected,
    read_aim,
    read_judges,
    read_left_out,
    read_provenance,
    read_shortfalls,
)
from tumorgen_cli.system.errors import describe_counts
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
    painted = split_tumors(synthetic_cases(plan, set_folder))
    previews = {each.case: set_folder / "previews" / f"{each.scan}.png" for each in painted}
    files = {each.case: each for each in (*painted, *real)}
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
        read_shortfalls(set_folder),
    )
    write_report(path, scores, others, provenance, losses, Pictures(previews, strips, slices), read_aim(set_folder))
    return path


_PICTURE_WIDTH = 760


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
        previews: File of the preview of the pair, by tumor.
        strips: Strips of pairs, by case.
        slices: Axial slices (H, W) in [0, 1] through lesions, by case.
    """

    previews: Mapping[str, Path]
    strips: Mapping[str, Strip]
    slices: Mapping[str, np.ndarray]


def write_report(
    path: Path,
    scores: Scores,
    others: Sequence[Scores],
    provenance: Sequence[Provenance],
    losses: Losses,
    pictures: Pictures,
    aim: AimSummary | None = None,
) -> None:
    """Write the page; `others` are sets to compare with. A missing preview is named as missing."""
    unit, by = tumor_unit(scores.channel), "Dice" if scores.judge else "contrast"
    header, rows = one_set_tables.summary(scores, others)
    content = {
        "title": f"{scores.name}: evaluation",
        "scores": scores,
        "losses": losses,
        "aim": {"summary": aim, "rows": one_set_tables.aim(aim, provenance)} if aim else None,
        "hosts": len({record.host for record in provenance}),
        "unlike": [
            f"{host}: {', '.join(why)}" for host, why in sorted({(r.host, r.unlike) for r in provenance}) if why
        ],
        "counts": {group: len(scores.of(group)) for group in GROUPS},
        "tiles": one_set_tables.tiles(scores),
        "summary": {"header": header, "rows": rows},
        "agreement": one_set_tables.agreement(scores),
        "redrawn": one_set_tables.redrawn(scores),
        "statistics": one_set_tables.statistics(scores, unit),
        "distributions": _distributions(scores, unit),
        "shares": one_set_tables.shares(scores),
        "distances": one_set_tables.distances(scores),
        "reader": {
            "measured": math.isfinite(scores.reader.auc),
            "rows": one_set_tables.reader_rows(scores),
            "give_aways": one_set_tables.give_aways(scores),
        },
        "novelty": one_set_tables.novelty(scores),
        "near": [each for near in nearest_pairs(scores) if (each := _near(near, scores, pictures))],
        "diversity": one_set_tables.diversity(scores),
        "by": by,
        "pairs": [_pair(f"{name} {by}", case, pictures) for name, case in shown_pairs(scores).items()],
        "failures": one_set_tables.failures(scores, losses),
        "origin": one_set_tables.origin(scores, provenance),
    }
    write_text(path, render("one_set.html.j2", **content))


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


def _near(near: Near, scores: Scores, pictures: Pictures) -> dict[str, Any] | None:
    """Return a synthetic lesion beside the training lesion nearest to it; None without their pictures."""
    if near.case not in pictures.slices or near.nearest not in pictures.slices:
        return None
    reverse = display_style(scores.channel)[0].endswith("_r")
    mark = " · near-copy" if near.distance < scores.novelty.threshold else ""
    distance = f"{number(near.distance)}, {number(near.ratio)} of the second nearest{mark}"
    return {
        "text": f"{near.case} | {near.nearest}: {distance}",
        "pictures": [(case, _slice(pictures.slices[case], reverse)) for case in (near.case, near.nearest)],
    }


def _slice(picture: np.ndarray, reverse: bool) -> str:
    """Return a slice (H, W) in [0, 1] as a data URL."""
    from PIL import Image

    gray = np.clip(picture.T, 0, 1)
    small = Image.fromarray(((1 - gray if reverse else gray) * 255).round().astype(np.uint8))
    return jpeg(small.resize((160, max(1, round(160 * small.height / small.width))), Image.Resampling.NEAREST))


def _pair(title: str, case: CaseScores, pictures: Pictures) -> dict[str, Any]:
    """Return a pair with its facts, its preview and its strip."""
    s, path = case.statistics, pictures.previews[case.case]
    facts = [f"{number(s.volume_ml)} ml", f"mean {number(s.mean)}", f"contrast {number(s.contrast)}"]
    if math.isfinite(case.verdict.dice):
        facts.insert(0, f"Dice {number(case.verdict.dice)}, surface Dice {number(case.verdict.surface_dice)}")
    return {
        "title": title,
        "case": case.case,
        "text": f"{case.case} on {case.host} · {' · '.join(facts)}",
        "preview": _photo(path) if path.is_file() else "",
        "strip": _strip(pictures.strips[case.case]) if case.case in pictures.strips else None,
    }


def _strip(strip: Strip) -> dict[str, Any]:
    """Return the picture of a strip, the size of a frame and the number of the last frame."""
    height, width = strip.picture.shape[0] // strip.count, strip.picture.shape[1]
    return {"width": width, "height": height, "last": max(1, strip.count - 1), "url": jpeg(strip.picture)}


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


def _distributions(scores: Scores, unit: str) -> Markup:
    """Draw distribution functions, one panel per statistic, as inline SVG in the colors of the page."""
    from matplotlib.figure import Figure

    text, soft, line, mark = INK
    training, synthetic = scores.of("train"), scores.of("synthetic")
    columns = 4
    rows = math.ceil(len(scores.comparisons) / columns)
    figure = Figure(figsize=(9.6, 2.3 * rows), facecolor="none")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    figure.subplots_adjust(left=0.04, right=0.99, bottom=0.07, top=0.94, wspace=0.22, hspace=0.38)
    for panel, comparison in zip(panels, scores.comparisons, strict=False):
        for cases, color, label in ((training, soft, "training"), (synthetic, mark, "synthetic")):
            values = values_of(cases, comparison.field)
            values = values[np.isfinite(values)]
            if len(values):
                panel.ecdf(values, color=color, label=label, linewidth=1.8)
        if comparison.field == "volume_ml" and comparison.synthetic.median > 0:
            panel.set_xscale("log")
        panel.set_title(one_set_tables.statistic_title(comparison, unit), fontsize=9, color=text)
        panel.set(facecolor="none", ylim=(0, 1.02))
        panel.tick_params(colors=text, labelsize=7, which="both")
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(line)
        panel.grid(color=line, linewidth=0.5)
    for panel in panels[len(scores.comparisons) :]:
        panel.set_axis_off()
    panels[0].legend(loc="upper left", fontsize=8, labelcolor=text, frameon=False)
    return svg(figure)
