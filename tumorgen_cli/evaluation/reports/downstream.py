"""The HTML page on gains of nnU-Nets.

It shows curves over the number of real cases, tables, and held-out patients for every arm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from tumorgen_cli.evaluation.gains import LEAST_DICE, LEAST_ITERATIONS, Arm, ArmMeasure, Downstream
from tumorgen_cli.evaluation.reports.pages import INK, around, number, percent, render, svg
from tumorgen_cli.evaluation.scan_scores import REAL
from tumorgen_cli.metrics.summary import Summary

_COLORS = ("#3b82d6", "#e0762b", "#3c9d54", "#a05bc4", "#c9a227", "#2aa3a8", "#d14d72", "#8a6d4f")
_TITLES = {
    "dice": "DSC",
    "surface_dice": "NSD",
    "sensitivity": "lesions found",
    "false_positives": "false positives a scan",
}


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
    counts = []
    for count in sorted({arm.cases for arm in result.arms}):
        arms = [arm for arm in result.arms if arm.cases == count]
        header, rows = _measures(arms)
        size_header, size_rows = _sizes(arms)
        counts.append(
            {
                "cases": count,
                "undertrained": arms[0].undertrained,
                "header": header,
                "rows": rows,
                "size_header": size_header,
                "size_rows": size_rows,
            }
        )
    return render(
        "downstream.html.j2",
        title="Gains of nnU-Net",
        result=result,
        counts=counts,
        curves=_curves(result),
        patients=patients,
        least_iterations=LEAST_ITERATIONS,
        least_dice=LEAST_DICE,
    )


def _curves(result: Downstream) -> Markup:
    """Draw DSC and its gain over the number of real cases: a line per arm, with intervals over patients."""
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


def _measures(arms: Sequence[Arm]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the measures of all arms."""
    header = ["arm", "pairs", "real cases drawn", "seeds"]
    for title in _TITLES.values():
        header += [title, "gain"]
    rows = []
    for arm in arms:
        row = [arm.arm, str(arm.pairs), percent(arm.real_share), str(arm.seeds)]
        for name in _TITLES:
            measure = getattr(arm, name)
            row += [_mean_cell(measure, arm.spread_over_seeds if name == "dice" else math.nan)]
            row += [_gain_cell(measure, arm.seeds)]
        rows.append(row)
    return header, rows


def _mean_cell(measure: ArmMeasure, over_seeds: float) -> Markup:
    own = measure.over_patients
    seeds = f", seeds {number(over_seeds)}" if math.isfinite(over_seeds) else ""
    spread = f"spread over patients {number(measure.spread)}{seeds}"
    return Markup("{}<br><small>{}</small>").format(around(own.mean, own.low, own.high), spread)


def _gain_cell(measure: ArmMeasure, seeds: int) -> str:
    gain = measure.gain
    if gain is None:
        return "–"
    p = f"p {measure.p:.3f}" if math.isfinite(measure.p) else "no test"
    shared = f", of {measure.seeds} shared seeds" if measure.seeds < seeds else ""
    counts = f"{measure.better} better, {measure.worse} worse, {p}{shared}"
    return Markup("{}<br><small>{}</small>").format(around(gain.mean, gain.low, gain.high), counts)


def _sizes(arms: Sequence[Arm]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows by size: found lesions, false positives, and scores of the patients of that size."""
    header = ["arm"]
    for each in arms[0].by_size:
        header += [f"{each.name}: {each.lesions} lesions found", "false positives a scan"]
        header += [f"{each.patients} patients: DSC", "NSD"]
    rows = []
    for arm in arms:
        measures = [(each.sensitivity, each.false_positives, each.dice, each.surface_dice) for each in arm.by_size]
        rows.append([arm.arm, *(_size_cell(measure) for each in measures for measure in each)])
    return header, rows


def _size_cell(measure: ArmMeasure) -> Markup:
    own, gain = measure.over_patients, measure.gain
    mean = around(own.mean, own.low, own.high)
    if gain is None:
        return mean
    p = f", p {measure.p:.3f}" if math.isfinite(measure.p) else ""
    return Markup("{}<br><small>gain {}{}</small>").format(mean, around(gain.mean, gain.low, gain.high), p)
