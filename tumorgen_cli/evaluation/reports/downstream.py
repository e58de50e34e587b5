"""The HTML page on gains of nnU-Nets.

It shows curves over the number of real cases, tables, and held-out patients for every arm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from tumorgen_cli.evaluation.gains import REAL, Arm, ArmMeasure, Downstream, Failure
from tumorgen_cli.evaluation.reports.html import INK, around, number, page, percent, picture_row, svg, table
from tumorgen_cli.metrics.summary import Summary

_COLORS = ("#3b82d6", "#e0762b", "#3c9d54", "#a05bc4", "#c9a227", "#2aa3a8", "#d14d72", "#8a6d4f")
_TITLES = {
    "dice": "DSC",
    "surface_dice": "NSD",
    "sensitivity": "lesions found",
    "false_positives": "false positives a scan",
}
_STYLE = """
body{max-width:80rem}
"""


@dataclass(frozen=True)
class Patient:
    """A held-out patient.

    Attributes:
        case: Name of the case.
        cases: Number of real training cases.
        pictures: By title, a slice (H, W, 3) uint8 with an outline: the truth, then what each arm found.
    """

    case: str
    cases: int
    pictures: Mapping[str, np.ndarray]


def draw_page(result: Downstream, patients: Sequence[Patient]) -> str:
    """Return the page as HTML."""
    design = result.design
    share = f"{design.ratio} pairs per real case, real cases repeated to about {percent(design.real_share)} of the drawn cases"
    steps = result.schedule.epochs * result.schedule.iterations
    head = (
        f"<h1>What pairs do to nnU-Net</h1><p class=soft>{escape(result.dataset)} · {len(result.held_out)} real held-out patients · painted into "
        f"{escape(result.hosts)} · {share} · {steps} iterations each ({design.minutes:g} minutes on {escape(result.device)}) · "
        f"{design.seeds} {'seed' if design.seeds == 1 else 'seeds'}</p>\n"
    )
    parts = [head, _curves(result)]
    for count in sorted({arm.cases for arm in result.arms}):
        arms = [arm for arm in result.arms if arm.cases == count]
        parts += [f"<h2>{count} real cases</h2>", _table(arms), _sizes(arms)]
    return page("Gains of nnU-Net", [*parts, _failures(result.failures), _patients(patients), _notes(result)], _STYLE)


def _curves(result: Downstream) -> str:
    """DSC and its gain over the number of real cases, a line per arm, with intervals over patients."""
    from matplotlib.figure import Figure

    text, soft, line, _ = INK
    names = list(dict.fromkeys(arm.arm for arm in result.arms))
    counts = sorted({arm.cases for arm in result.arms})
    figure = Figure(figsize=(9.6, 3.7), facecolor="none")
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.06, right=0.99, bottom=0.25, top=0.92, wspace=0.18)
    for index, name in enumerate(names):
        color = soft if name == REAL else _COLORS[index % len(_COLORS)]
        own = [arm for arm in result.arms if arm.arm == name]
        shift = 1 + 0.03 * (index - (len(names) - 1) / 2)  # intervals side by side
        for panel, pick in ((left, _mean), (right, _gain)):
            found = [(arm.cases * shift, summary) for arm in own if (summary := pick(arm)) is not None]
            if found:
                x, mean = [x for x, _ in found], np.array([s.mean for _, s in found])
                low, high = (np.array([getattr(s, end) for _, s in found]) for end in ("low", "high"))
                panel.errorbar(
                    x,
                    mean,
                    [mean - low, high - mean],
                    color=color,
                    label=name,
                    marker="o",
                    markersize=4,
                    linewidth=1.6,
                    capsize=2,
                )
    left.set_title("DSC on real held-out patients", fontsize=9, color=text)
    right.set_title("gain in DSC over real cases only, paired by patient", fontsize=9, color=text)
    right.axhline(0, color=soft, linewidth=1)
    for panel in (left, right):
        panel.set_xscale("log")
        panel.set_xticks(counts, [str(count) for count in counts])
        panel.minorticks_off()
        panel.set_xlim(counts[0] / 1.25, counts[-1] * 1.25)
        panel.set(facecolor="none")
        panel.set_xlabel("real training cases", fontsize=8, color=text)
        panel.tick_params(colors=text, labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(line)
        panel.grid(color=line, linewidth=0.5)
    figure.legend(
        *left.get_legend_handles_labels(),
        loc="lower center",
        ncols=len(names),
        fontsize=8,
        labelcolor=text,
        frameon=False,
    )
    return svg(figure)


def _mean(arm: Arm) -> Summary | None:
    return arm.dice.over_patients


def _gain(arm: Arm) -> Summary | None:
    return arm.dice.gain


def _table(arms: Sequence[Arm]) -> str:
    header = ["arm", "pairs", "real cases drawn", "seeds"]
    for title in _TITLES.values():
        header += [title, "gain"]
    rows = []
    for arm in arms:
        row = [escape(arm.arm), str(arm.pairs), percent(arm.real_share), str(arm.seeds)]
        for name in _TITLES:
            measure = getattr(arm, name)
            row += [
                _own(measure, arm.spread_over_seeds if name == "dice" else math.nan),
                _told_gain(measure, arm.seeds),
            ]
        rows.append(row)
    return table(header, rows)


def _own(measure: ArmMeasure, over_seeds: float) -> str:
    own = measure.over_patients
    spread = f"<br><small>spread over patients {number(measure.spread)}" + (
        f", seeds {number(over_seeds)}" if math.isfinite(over_seeds) else ""
    )
    return around(own.mean, own.low, own.high) + spread + "</small>"


def _told_gain(measure: ArmMeasure, seeds: int) -> str:
    gain = measure.gain
    if gain is None:
        return "–"
    p = f"p {measure.p:.3f}" if math.isfinite(measure.p) else "no test"
    shared = f", of {measure.seeds} shared seeds" if measure.seeds < seeds else ""
    return f"{around(gain.mean, gain.low, gain.high)}<br><small>{measure.better} better, {measure.worse} worse, {p}{shared}</small>"


def _sizes(arms: Sequence[Arm]) -> str:
    """By size: the lesions found and the false positives, and the means of the patients whose largest lesion is of that size."""
    header = ["arm"]
    for each in arms[0].by_size:
        header += [
            f"{escape(each.name)}: {each.lesions} lesions found",
            "false positives a scan",
            f"{each.patients} patients: DSC",
            "NSD",
        ]
    rows = []
    for arm in arms:
        measures = [(each.sensitivity, each.false_positives, each.dice, each.surface_dice) for each in arm.by_size]
        rows.append([escape(arm.arm), *(_by_size(measure) for each in measures for measure in each)])
    told = "Lesions and false positives by their diameter (that of the ball of the same volume), means over patients; patients by their largest lesion."
    return f"<p class=soft>{told}</p>" + table(header, rows)


def _by_size(measure: ArmMeasure) -> str:
    own, gain = measure.over_patients, measure.gain
    p = f", p {measure.p:.3f}" if math.isfinite(measure.p) else ""
    told = f"<br><small>gain {around(gain.mean, gain.low, gain.high)}{p}</small>" if gain else ""
    return around(own.mean, own.low, own.high) + told


def _failures(failures: Sequence[Failure]) -> str:
    rows = [f"<p>{escape(each.arm)}, {each.cases} real cases: failed: {escape(each.reason)}</p>" for each in failures]
    return f"<h2>Failed</h2>{''.join(rows)}\n" if rows else ""


def _patients(patients: Sequence[Patient]) -> str:
    rows = [picture_row(f"{patient.case}, {patient.cases} real cases", patient.pictures) for patient in patients]
    note = "From the worst patient of the real arm to the best. All pictures of a row show the same slice and gray scale: the truth, then the result of each arm's first seed."
    return f"<h2>Held-out patients</h2><p class=soft>{note}</p>{''.join(rows)}\n" if rows else ""


def _notes(result: Downstream) -> str:
    texts = (
        "Every nnU-Net trains for the same number of iterations. At one number of real cases all have the same plan (made by "
        "nnU-Net from these cases), patch size and batch size; arms differ only in the cases they draw_page. With fewer real cases the "
        "methods learned from these cases only, for as long as their plan says; with all real cases they are the methods of the "
        "workspace. The held-out patients were used neither to train nor to select pairs. Only the methods' grid and clip window "
        "(spacing, extents, intensities), like nnU-Net's own fingerprint, are computed from all cases, with the held-out ones.",
        "A patient counts once, with the mean over seeds. Intervals are 95 % bootstrap intervals over patients. p is that of "
        "Wilcoxon's signed-rank test of the paired gains (of false positives: how many fewer); it is not corrected for the number "
        "of comparisons, and it cannot be below 0.05 with fewer than 6 patients that gain or lose. Spread is the standard deviation.",
        "Seeds are those of nnU-Net's training only: real cases, methods and pairs are the same for each seed. nnU-Net's data "
        "loaders are not seeded.",
        f"DSC and NSD (at {result.tolerance_mm:g} mm) are computed over whole scans. A lesion is found if one voxel of it is found; "
        "a false positive touches no lesion.",
    )
    return "<h2>How to read it</h2>" + "".join(f"<p>{escape(text)}</p>" for text in texts) + "\n"
