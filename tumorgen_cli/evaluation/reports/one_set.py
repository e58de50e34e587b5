"""The HTML page of a set: a verdict, pairs to browse and to turn in 3D, where they come from, numbers, details.

Reads the pairs, their hosts and the runs of their networks. Writes the page, which needs no other file.
"""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup

from tumorgen_cli.evaluation.cases import TumorCase, split_tumors, synthetic_cases
from tumorgen_cli.evaluation.measure import cache_folder, measure_case
from tumorgen_cli.evaluation.reports import one_set_tables
from tumorgen_cli.evaluation.reports.facts import describe_networks
from tumorgen_cli.evaluation.reports.one_set_tables import Losses
from tumorgen_cli.evaluation.reports.pages import (
    INK,
    jpeg,
    number,
    plane_pictures,
    render,
    round_ticks,
    space_ticks,
    svg,
)
from tumorgen_cli.evaluation.reports.pairs import (
    MOST_IN_VIEWER,
    PairPictures,
    draw_pairs,
    kinds_of,
    ranked_tumors,
    shown_cases,
    size_of,
)
from tumorgen_cli.evaluation.reports.verdict import PageVerdict, judge_set
from tumorgen_cli.evaluation.scores import GROUPS, PLACES, CaseScores, Scores, values_of
from tumorgen_cli.figures import describe_ml, display_style, pick_evenly, tumor_unit
from tumorgen_cli.methods.copypaste import CopyPaste
from tumorgen_cli.metrics.novelty import Near
from tumorgen_cli.planning.plan import Plan
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
from tumorgen_cli.system.errors import describe_counts, say_count
from tumorgen_cli.system.files import write_text

PAGE_BYTES = 8_000_000  # of a page: crops for the viewer fill what the rest leaves
_PIXELS = 4_500_000  # of all pictures of pairs together: about half a byte each
_TITLE_LETTERS = 30  # of a panel's title in a line: more would reach into the next panel
_MOST_LINKED = 1000  # pairs beyond those shown that are linked one by one


def write_page(
    plan: Plan,
    real: Sequence[TumorCase],
    set_folder: Path,
    out: Path,
    scores: Scores,
    others: Sequence[Scores],
) -> tuple[Path, PageVerdict]:
    """Write the set's report.html into its evaluation `out`, and return its verdict, too.

    Args:
        plan: The plan of the workspace.
        real: The real tumors, from `real_tumors`.
        set_folder: The set.
        out: The folder of its evaluation, in the workspace.
        scores: Its scores.
        others: Sets to compare with.
    """
    painted = split_tumors(synthetic_cases(plan, set_folder))
    files = {each.case: each for each in (*painted, *real)}
    slices = {}
    for case in {case for near in nearest_pairs(scores) for case in (near.case, near.nearest)}:
        found = measure_case(plan, files[case], cache_folder(out))
        slices[case] = found.slices["axial"][PLACES.index("tumor"), plan.main_channel]
    shown = shown_cases(scores)
    drawn = draw_pairs(plan, set_folder, shown, pick_evenly(shown, MOST_IN_VIEWER), cache_folder(out))
    links = {each.case: _links(each, set_folder, out) for each in painted}
    provenance, given_up = read_provenance(set_folder), read_log(set_folder, "given_up")
    losses = Losses(
        {case: line.get("reason") or describe_counts(line["rejected"]) for case, line in given_up.items()},
        read_left_out(set_folder),
        count_rejected(provenance, given_up),
        tuple(read_judges(set_folder)),
        read_shortfalls(set_folder),
        {line.method for line in provenance} == {CopyPaste.name},
    )
    networks = tuple(describe_networks(out.parent.parent / "runs", provenance))
    labels = plan.tumor_label if isinstance(plan.tumor_label, tuple) else (plan.tumor_label,)
    origin = Origin(plan.dataset, networks, labels, read_aim(set_folder))
    path = out / "report.html"
    verdict = write_report(path, scores, others, provenance, losses, Pictures(drawn, links, slices), origin)
    return path, verdict


@dataclass(frozen=True)
class Origin:
    """What the head of the page says of the set.

    Attributes:
        dataset: The data set that was learned from.
        networks: How long each network was trained.
        tumor_labels: The tumors' values in label files.
        aim: What the set was aimed at, if it was.
    """

    dataset: str
    networks: tuple[str, ...]
    tumor_labels: tuple[int, ...]
    aim: AimSummary | None = None


@dataclass(frozen=True)
class Pictures:
    """What the page shows and links.

    Attributes:
        drawn: Planes and crops of the tumors that are shown, by case.
        links: Addresses of a tumor's files beside the page, by case and by what they are; those that are missing are
            left out.
        slices: Axial slices (H, W) in [0, 1] through lesions, by case.
    """

    drawn: Mapping[str, PairPictures]
    links: Mapping[str, Mapping[str, str]]
    slices: Mapping[str, np.ndarray]


def write_report(
    path: Path,
    scores: Scores,
    others: Sequence[Scores],
    provenance: Sequence[Provenance],
    losses: Losses,
    pictures: Pictures,
    origin: Origin,
) -> PageVerdict:
    """Write the page and return its verdict; `others` are sets to compare with."""
    unit = tumor_unit(scores.channel)
    verdict = judge_set(scores, losses)
    header, rows = one_set_tables.summary(scores, others)
    counts = {group: len(scores.of(group)) for group in GROUPS}
    content: dict[str, Any] = {
        "title": f"{scores.name}: evaluation",
        "heading": scores.name,
        "lead": f"{say_count(counts['synthetic'], 'painted tumor')} beside {counts['train']} training and "
        f"{say_count(counts['test'], 'held-out tumor')}",
        "verdict": verdict,
        "facts": _facts(scores, provenance, origin),
        "tiles": one_set_tables.tiles(scores),
        "scores": scores,
        "losses": losses,
        "hosts": len({record.host for record in provenance}),
        "unlike": [
            f"{host}: {', '.join(why)}" for host, why in sorted({(r.host, r.unlike) for r in provenance}) if why
        ],
        "counts": counts,
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
        "failures": one_set_tables.failures(scores, losses),
        "origin": one_set_tables.origin(scores, provenance),
        **_browsed(scores, pictures),
        "tumor_labels": origin.tumor_labels,
        "aim": {"summary": origin.aim, "rows": one_set_tables.aim(origin.aim, provenance)} if origin.aim else None,
        "crops": {},
    }
    text = render("one_set.html.j2", **content)
    content["crops"] = _packed_crops(pictures.drawn, PAGE_BYTES - len(text.encode("utf-8")))
    write_text(path, render("one_set.html.j2", **content))
    return verdict


def _facts(scores: Scores, provenance: Sequence[Provenance], origin: Origin) -> dict[str, Any]:
    """Where the set comes from, by title."""
    plans = sorted({line.plan_hash for line in provenance})
    return {
        "data set": origin.dataset,
        "painted by": ", ".join(sorted({line.method for line in provenance})) or "–",
        "networks": origin.networks,
        "plan": f"{scores.plan_hash}; of the painted pairs: {', '.join(plans) or '–'}",
        "channel": f"{scores.channel}, in {display_style(scores.channel)[1]}",
        "judge": scores.judge_facts.words if scores.judge else f"none: {scores.no_judge}",
    }


def _browsed(scores: Scores, pictures: Pictures) -> dict[str, Any]:
    """What the browser of pairs shows: pairs with pictures, then links to the others."""
    ranked = ranked_tumors(scores)
    shown = [case for case in ranked if case.case in pictures.drawn]
    most = _PIXELS // max(1, 3 * len(shown))  # of a plane
    rest = [case for case in ranked if case.case not in pictures.drawn]
    return {
        "by": "DSC with the judge" if scores.judge else "contrast",
        "pairs": [_pair(case, scores, pictures, most) for case in shown],
        "rest": [
            {"case": case.case, "text": _pair_words(case), "links": pictures.links[case.case]}
            for case in rest[:_MOST_LINKED]
        ],
        "unlinked": max(0, len(rest) - _MOST_LINKED),
    }


def _pair(case: CaseScores, scores: Scores, pictures: Pictures, most: int) -> dict[str, Any]:
    """What the page shows of a painted tumor."""
    drawn = pictures.drawn[case.case]
    return {
        "case": case.case,
        "host": case.host,
        "dice": case.verdict.dice if math.isfinite(case.verdict.dice) else "",
        "ml": case.statistics.volume_ml,
        "size": size_of(case, scores),
        "kinds": kinds_of(case, scores),
        "text": _pair_words(case),
        "intensities": _intensities(case, scores.channel) if case.statistics.volume_ml > 0 else "",
        "planes": [plane_pictures(plane, most) for plane in drawn.planes],
        "has_host": drawn.has_host,
        "links": pictures.links[case.case],
    }


def _pair_words(case: CaseScores) -> str:
    """Volume and agreement of a painted tumor."""
    if not case.statistics.volume_ml > 0:
        return "no tumor"
    dice = [f"DSC {number(case.verdict.dice)}"] if math.isfinite(case.verdict.dice) else []
    return " · ".join([describe_ml(case.statistics.volume_ml), *dice])


def _intensities(case: CaseScores, channel: str) -> str:
    """Mean and contrast of a painted tumor, with a unit if the channel has one."""
    unit = tumor_unit(channel)
    named = f" {unit}" if unit in ("SUV", "HU") else ""
    return f"mean {number(case.statistics.mean)}{named} · contrast {number(case.statistics.contrast)}{named}"


def _packed_crops(drawn: Mapping[str, PairPictures], room: int) -> dict[str, dict[str, str]]:
    """Pack crops for the viewer, by case and part, as long as there is room for them in the page."""
    found = {}
    for case, each in drawn.items():
        if each.crop is not None:
            parts = each.crop.packed()
            room -= sum(len(part) + 200 for part in parts.values())
            if room < 0:
                break
            found[case] = parts
    return found


def _links(files: TumorCase, set_folder: Path, out: Path) -> dict[str, str]:
    """Addresses of the preview, the images and the label of a pair, from the page on."""
    paths = {"preview": set_folder / "previews" / f"{files.scan}.png"}
    paths |= {"image" if len(files.images) == 1 else f"image {i}": path for i, path in enumerate(files.images)}
    paths["label"] = files.label
    return {name: quote(Path(os.path.relpath(path, out)).as_posix()) for name, path in paths.items() if path.is_file()}


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


def _distributions(scores: Scores, unit: str) -> Markup:
    """Draw distribution functions, one panel per statistic, as inline SVG in the colors of the page."""
    from matplotlib.figure import Figure

    text, soft, line, mark = INK
    training, synthetic = scores.of("train"), scores.of("synthetic")
    columns = 4
    rows = math.ceil(len(scores.comparisons) / columns)
    figure = Figure(figsize=(9.6, 2.4 * rows), facecolor="none")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    figure.subplots_adjust(left=0.04, right=0.99, bottom=0.07, top=0.92, wspace=0.22, hspace=0.55)
    for panel, comparison in zip(panels, scores.comparisons, strict=False):
        for cases, color, label in ((training, soft, "training"), (synthetic, mark, "synthetic")):
            values = values_of(cases, comparison.field)
            values = values[np.isfinite(values)]
            if len(values):
                panel.ecdf(values, color=color, label=label, linewidth=1.8)
        if comparison.field == "volume_ml" and comparison.synthetic.median > 0:
            panel.set_xscale("log")
            space_ticks(panel.xaxis, round_ticks(*panel.get_xlim()))
        else:
            panel.locator_params(axis="x", nbins=5)
        title = textwrap.fill(one_set_tables.statistic_title(comparison, unit), _TITLE_LETTERS)
        panel.set_title(title, fontsize=9, color=text)
        panel.set(facecolor="none", ylim=(0, 1.02))
        panel.tick_params(colors=text, labelsize=7, which="both")
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(line)
        panel.grid(color=line, linewidth=0.5)
    for panel in panels[len(scores.comparisons) :]:
        panel.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper right", ncols=2, fontsize=8, labelcolor=text, frameon=False, borderpad=0)
    return svg(figure)
