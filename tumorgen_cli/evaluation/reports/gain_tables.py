"""The tables of `downstream`'s page: arms, their comparisons, what they make up for, and where values differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tumorgen_cli.evaluation.measures import MEASURES, SIZES
from tumorgen_cli.evaluation.recovery import Recovered
from tumorgen_cli.evaluation.trials import Analysis, ArmScores, MeasuredArm
from tumorgen_cli.evaluation.verdicts import ArmComparison, amount, interval_text, shown_briefly
from tumorgen_cli.metrics.inference import Estimate
from tumorgen_cli.system.errors import say_count

_MAIN = ("sensitivity", "touched", "lesion_dsc", "dsc", "nsd", "false_positives", "false_positives_healthy", "plateau")
_SIZED = tuple(f"sensitivity {name}" for name in SIZES)
_SPREAD = ("sensitivity", "lesion_dsc", "dsc")  # measures whose components are shown

Row = list[Markup | str]


@dataclass(frozen=True)
class GainTable:
    """A table of the page."""

    title: str
    header: list[str]
    rows: list[Row]


def arm_label(arm: str, hosts: int | None) -> str:
    """Name an arm, with its number of healthy scans where that is not all."""
    return arm if hosts is None else f"{arm}, {say_count(hosts, 'host')}"


def cases_text(cases: int | None) -> str:
    """Write a number of real cases."""
    return "all" if cases is None else str(cases)


def arm_tables(analysis: Analysis, cases: int | None) -> list[GainTable]:
    """Return the measures of every arm at a number of real cases, and the lesions found by size."""
    arms = [arm for arm in analysis.arms if arm.cases == cases]
    tables = []
    for title, names in (("Measures", _MAIN), ("Lesions found at one false positive a scan, by diameter", _SIZED)):
        rows: list[Row] = [
            [MEASURES[name].title, *(_measured(arm, name) for arm in arms)]
            for name in names
            if any(name in arm.measures for arm in arms)
        ]
        if rows:
            tables.append(GainTable(title, ["", *(arm_label(arm.arm, arm.hosts) for arm in arms)], rows))
    if tables:
        counts = (("draws of the real cases", "subsets"), ("trainings", "trainings"))
        tables[0].rows[:0] = [[title, *(str(getattr(arm, name)) for arm in arms)] for title, name in counts]
    return tables


def _measured(arm: ArmScores, measure: str) -> Markup | str:
    found: MeasuredArm | None = arm.measures.get(measure)
    if found is None:
        return "–"
    over_draws, over_patients = (_ends(measure, each) for each in (found.over_subsets, found.over_patients))
    smalls = [f"over draws {over_draws}"] if over_draws else []
    smalls += [f"over patients {over_patients}"] if over_patients else []
    small = Markup("<br>").join(smalls)
    return Markup("{}<br><small>{}</small>").format(value_text(measure, found.over_subsets.value), small)


def comparison_table(found: Sequence[ArmComparison]) -> GainTable:
    """Return the comparisons, each with its intervals and what they show."""
    header = ["arm", "against", "real cases", "measure", "gain, over draws", "over patients", "p", "p, Holm", "shown"]
    rows: list[Row] = [
        [
            arm_label(each.what.arm, each.what.hosts),
            each.what.against,
            cases_text(each.what.cases),
            MEASURES[each.what.measure].title,
            _gain(each.what.measure, each.over_subsets),
            interval_text(each.what.measure, each.over_patients),
            _p(each.p),
            _p(each.p_holm) if each.exploratory else "named before",
            shown_briefly(each),
        ]
        for each in found
    ]
    return GainTable("Comparisons", header, rows)


def recovered_table(found: Sequence[Recovered]) -> GainTable:
    """Return what arms make up for."""
    header = ["arm", "real cases", "share of the way to all cases", "over draws", "real cases worth the same", ""]
    rows: list[Row] = [
        [
            arm_label(each.arm, each.hosts),
            str(each.cases),
            "–" if each.reason else _percent_interval(each.share),
            _percent_ends(each.over_subsets),
            _worth(each.worth),
            each.reason,
        ]
        for each in found
    ]
    return GainTable("What pairs make up for, in DSC", header, rows)


def components_table(arms: Sequence[ArmScores]) -> GainTable:
    """Return the standard deviations of values over draws, over paintings of a draw, and over seeds of a painting."""
    header = ["arm", "real cases", "measure", "over draws", "over paintings", "over seeds"]
    rows: list[Row] = []
    for arm in arms:
        for name in _SPREAD:
            if arm.trainings > 1 and name in arm.measures:
                parts = arm.measures[name].components
                spreads = [value_text(name, each) for each in (parts.subset, parts.painting, parts.seed)]
                rows.append([arm_label(arm.arm, arm.hosts), cases_text(arm.cases), MEASURES[name].title, *spreads])
    return GainTable("Where the values differ: standard deviations", header, rows)


def value_text(measure: str, value: float) -> str:
    """Write a value of a measure; of a share, in percent."""
    return amount(measure, value, "%")


def _ends(measure: str, interval: Estimate) -> str:
    if not math.isfinite(interval.low):
        return ""
    return f"{value_text(measure, interval.low)} to {value_text(measure, interval.high)}"


def _gain(measure: str, gain: Estimate) -> Markup:
    return Markup("{}<br><small>{}</small>").format(amount(measure, gain.value), interval_text(measure, gain))


def _percent_interval(share: Estimate) -> Markup:
    return Markup("{}<br><small>over patients {}</small>").format(f"{100 * share.value:.0f} %", _percent_ends(share))


def _percent_ends(share: Estimate) -> str:
    return f"{100 * share.low:.0f} to {100 * share.high:.0f} %" if math.isfinite(share.low) else "–"


def _worth(interval: Estimate) -> Markup | str:
    if math.isnan(interval.value):
        return "–"
    low, high = _count(interval.low), _count(interval.high)
    if math.isnan(interval.low) or low == high:
        return _count(interval.value)
    ends = f"{low} to {high}"
    return Markup("{}<br><small>over patients {}</small>").format(_count(interval.value), ends)


def _count(cases: float) -> str:
    if cases == 0:
        return "fewer than tried"
    return "more than tried" if math.isinf(cases) else f"{cases:.0f}"


def _p(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
