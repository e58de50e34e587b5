"""The HTML page on gains of nnU-Nets.

It begins with what is concluded; held-out patients and curves over the number of real cases follow, then tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tumorgen_cli.evaluation.gains import Downstream
from tumorgen_cli.evaluation.measures import MEASURES
from tumorgen_cli.evaluation.reports.gain_tables import (
    arm_label,
    arm_tables,
    cases_text,
    comparison_table,
    components_table,
    recovered_table,
    value_text,
)
from tumorgen_cli.evaluation.reports.pages import INK, number, percent, render, space_ticks, svg
from tumorgen_cli.evaluation.reports.planes import Plane
from tumorgen_cli.evaluation.reports.verdict import Grade, PageVerdict
from tumorgen_cli.evaluation.scan_scores import REAL
from tumorgen_cli.evaluation.trials import Analysis
from tumorgen_cli.evaluation.verdicts import LEAST_DICE, LEAST_ITERATIONS
from tumorgen_cli.metrics.inference import Estimate
from tumorgen_cli.system.errors import say_count

# told apart by people with any color vision (Okabe and Ito), and by their marks
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MARKS = "sD^vPX*"
_LEGEND_LETTERS, _LEGEND_MARK = 150, 8  # letters across the legend of the curves, and those that a mark takes
_TILES = ("sensitivity", "lesion_dsc", "dsc", "false_positives")


@dataclass(frozen=True)
class Patient:
    """A held-out patient.

    Attributes:
        case: Name of the case.
        cases: Number of real training cases.
        planes: By title, a slice with an outline: the truth, then what each arm found.
    """

    case: str
    cases: int
    planes: Mapping[str, Plane]


def draw_page(result: Downstream, patients: Sequence[Patient]) -> str:
    """Return the page as HTML."""
    analysis = result.analysis
    compared = [*([analysis.primary] if analysis.primary else []), *analysis.exploratory]
    counts = sorted({arm.cases for arm in analysis.arms}, key=lambda count: math.inf if count is None else count)
    tables = [comparison_table(compared)] if compared else []
    tables += [recovered_table(result.recovered)] if result.recovered else []
    tables.append(components_table(analysis.arms))
    return render(
        "downstream.html.j2",
        title="Gains of nnU-Net",
        heading="What pairs do to nnU-Net",
        lead=f"{result.dataset}: {say_count(len(result.held_out), 'real held-out scan')}",
        verdict=_verdict(result),
        facts=_facts(result),
        tiles=_tiles(analysis),
        beside="real cases only",
        result=result,
        counts=[{"cases": cases_text(count), "tables": arm_tables(analysis, count)} for count in counts],
        tables=[table for table in tables if table.rows],
        curves=_curves(analysis),
        patients=patients,
        least_iterations=LEAST_ITERATIONS,
        least_dice=LEAST_DICE,
    )


def _verdict(result: Downstream) -> PageVerdict:
    """What is concluded first, and second; what to look out for where nothing else is said."""
    analysis = result.analysis
    sentences = [*result.conclusions, *(f"{each[:1].upper()}{each[1:]}." for each in analysis.silent)]
    sentences = sentences or ["No arm that paints is compared with real cases."]
    second = sentences[1] if len(sentences) > 1 else "The tables below show every arm and number of real cases."
    if result.weak:
        second = f"Weak weights painted pairs: {result.weak[0]}."
    primary = analysis.primary
    grade: Grade = "unknown"
    if primary is not None and not analysis.silent and primary.over_subsets.excludes_zero:
        gain = primary.over_subsets.value > 0 and primary.over_patients.low > 0
        grade = "good" if gain else "bad" if primary.over_subsets.value < 0 else "care"
    return PageVerdict("care" if result.weak else grade, sentences[0], second)


def _facts(result: Downstream) -> dict[str, str]:
    """Where the gains come from, by title."""
    design, steps = result.design, result.schedule.epochs * result.schedule.iterations
    real = f"repeated to about {percent(design.real_share)} of the drawn cases"
    return {
        "data set": result.dataset,
        "painted into": result.hosts or "nothing",
        "plan": result.plan,
        "pairs": f"{design.ratio} per real case; real cases {real}",
        "each training": f"{steps} iterations, {number(design.minutes)} minutes on {result.device}",
        "seeds": str(design.seeds),
    }


def _tiles(analysis: Analysis) -> list[tuple[str, str, str, str]]:
    """Return the four large numbers: of the primary comparison's arm and of real cases, with as many real cases."""
    if analysis.primary is None:
        return []
    what = analysis.primary.what
    arms = {(arm.arm, arm.hosts): arm for arm in analysis.arms if arm.cases == what.cases}

    def value(name: str, arm: str, hosts: int | None) -> str:
        measured = arms[arm, hosts].measures.get(name) if (arm, hosts) in arms else None
        return "not trained" if measured is None else value_text(name, measured.over_subsets.value)

    label, count = arm_label(what.arm, what.hosts), f"with {cases_text(what.cases)} real cases"
    return [
        (f"{MEASURES[name].title}, {label}", value(name, what.arm, what.hosts), value(name, REAL, None), count)
        for name in _TILES
    ]


def _curves(analysis: Analysis) -> Markup:
    """Draw DSC and its gain over the number of real cases: a line per arm, with intervals over draws, else patients."""
    from matplotlib.figure import Figure

    text, soft, line, _ = INK
    names = list(dict.fromkeys(arm_label(arm.arm, arm.hosts) for arm in analysis.arms))
    counts = sorted({arm.cases for arm in analysis.arms if arm.cases is not None})
    columns = max(1, min(len(names), int(_LEGEND_LETTERS / (max(map(len, names)) + _LEGEND_MARK))))
    inches = 0.2 * math.ceil(len(names) / columns)  # of the legend
    figure = Figure(figsize=(9.6, 3.5 + inches), facecolor="none")
    left, right = figure.subplots(1, 2)
    around = {"bottom": (0.7 + inches) / (3.5 + inches), "top": 1 - 0.3 / (3.5 + inches)}
    figure.subplots_adjust(left=0.06, right=0.99, wspace=0.18, **around)
    for index, name in enumerate(names):
        color = soft if name == REAL else _COLORS[index % len(_COLORS)]
        shift = 1 + 0.03 * (index - (len(names) - 1) / 2)  # intervals side by side
        for panel, found in ((left, _levels(analysis, name)), (right, _gains(analysis, name))):
            if found:
                low, high = (
                    [abs(getattr(each, end) - each.value) if math.isfinite(each.low) else 0.0 for _, each in found]
                    for end in ("low", "high")
                )
                panel.errorbar(
                    [cases * shift for cases, _ in found],
                    [each.value for _, each in found],
                    [low, high],
                    color=color,
                    label=name,
                    marker="o" if name == REAL else _MARKS[index % len(_MARKS)],
                    markersize=5,
                    linewidth=1.6,
                    capsize=2,
                )
    left.set_title("DSC on real held-out scans", fontsize=9, color=text)
    right.set_title("gain in DSC over real cases only, paired by draw", fontsize=9, color=text)
    right.axhline(0, color=soft, linewidth=1)
    for panel in (left, right):
        panel.set_xscale("log")
        panel.set_xlim(counts[0] / 1.25, counts[-1] * 1.25)
        space_ticks(panel.xaxis, counts)
        panel.set(facecolor="none")
        panel.set_xlabel("real training cases", fontsize=8, color=text)
        panel.tick_params(colors=text, labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(line)
        panel.grid(color=line, linewidth=0.5)
    figure.legend(
        *left.get_legend_handles_labels(),
        loc="lower center",
        ncols=columns,
        fontsize=8,
        labelcolor=text,
        frameon=False,
    )
    return svg(figure)


def _levels(analysis: Analysis, label: str) -> list[tuple[int, Estimate]]:
    """Return the DSC of an arm by number of real cases."""
    return [
        (arm.cases, _shown(arm.measures["dsc"].over_subsets, arm.measures["dsc"].over_patients))
        for arm in analysis.arms
        if arm_label(arm.arm, arm.hosts) == label and arm.cases is not None and "dsc" in arm.measures
    ]


def _gains(analysis: Analysis, label: str) -> list[tuple[int, Estimate]]:
    """Return the gain in DSC of an arm over real cases only, by number of real cases."""
    compared = [*analysis.exploratory, *([analysis.primary] if analysis.primary and not analysis.silent else [])]
    found = [
        (each.what.cases, _shown(each.over_subsets, each.over_patients))
        for each in compared
        if (arm_label(each.what.arm, each.what.hosts), each.what.against, each.what.measure) == (label, REAL, "dsc")
        and each.what.cases is not None
    ]
    return sorted(found, key=lambda each: each[0])


def _shown(over_draws: Estimate, over_patients: Estimate) -> Estimate:
    return over_draws if math.isfinite(over_draws.low) else over_patients
