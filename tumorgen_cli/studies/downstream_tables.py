"""Gains of nnU-Nets as tables: lines of CSV, and rows for the terminal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator

from tumorgen_cli.evaluation.reports.gain_tables import arm_label, cases_text
from tumorgen_cli.evaluation.trials import Analysis
from tumorgen_cli.metrics.inference import Estimate

_HEAD = ("arm", "hosts", "real cases", "against", "measure", "draws", "value", "low over draws", "high over draws")
_MORE = ("low over patients", "high over patients", "p", "p Holm", "finding")
#: title of each column of the terminal's table, and its measure
COLUMNS = {
    "found at 1 FP": "sensitivity",
    "under 10 mm": "sensitivity under 10 mm",
    "lesion DSC": "lesion_dsc",
    "DSC": "dsc",
    "NSD": "nsd",
    "FP, healthy": "false_positives_healthy",
}


def gains_csv(analysis: Analysis) -> str:
    """Write a line per arm, number of cases and measure as CSV, then a line per comparison.

    In a line of a comparison the value is the gain: above 0 the arm is better than the arm `against`.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*_HEAD, *_MORE])
    for arm in analysis.arms:
        for name, found in arm.measures.items():
            who = (arm.arm, arm.hosts, cases_text(arm.cases), "", name, arm.subsets)
            writer.writerow([*who, *_numbers(found.over_subsets, found.over_patients), "", "", ""])
    for each in [*([analysis.primary] if analysis.primary else []), *analysis.exploratory]:
        what = each.what
        who = (what.arm, what.hosts, cases_text(what.cases), what.against, what.measure, each.subsets)
        numbers = _numbers(each.over_subsets, each.over_patients)
        writer.writerow([*who, *numbers, _number(each.p), _number(each.p_holm), each.verdict])
    return stream.getvalue()


def _numbers(over_draws: Estimate, over_patients: Estimate) -> Iterator[str]:
    for value in (over_draws.value, over_draws.low, over_draws.high, over_patients.low, over_patients.high):
        yield _number(value)


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else ""


def arm_rows(analysis: Analysis) -> list[tuple[str, ...]]:
    """Return rows for the terminal: the measures of `COLUMNS` of every arm, without intervals."""
    return [
        (
            cases_text(arm.cases),
            arm_label(arm.arm, arm.hosts),
            str(arm.subsets),
            *(
                f"{arm.measures[name].over_subsets.value:.3f}" if name in arm.measures else "–"
                for name in COLUMNS.values()
            ),
        )
        for arm in analysis.arms
    ]
