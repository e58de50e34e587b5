"""Gains of nnU-Nets as tables: lines of CSV, and rows for the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from tumorgen_cli.evaluation.gains import MEASURES, Arm


def gains_csv(arms: Sequence[Arm]) -> str:
    """Write a line per arm, number of cases and measure as CSV, also by lesion size.

    By size, Dice and surface Dice are of the patients whose largest lesion is of that size; found lesions and false
    positives are counted by their own size.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    head = [
        "arm",
        "real cases",
        "pairs",
        "seeds",
        "measure",
        "lesion size",
        "count",
        "mean",
        "low",
        "high",
        "spread over patients",
    ]
    writer.writerow([*head, "gain", "gain low", "gain high", "p", "better", "worse", "undertrained"])
    for arm in arms:
        lines = [(name, "any", getattr(arm, name)) for name in MEASURES]
        lines += [(name, each.name, getattr(each, name)) for each in arm.by_size for name in MEASURES]
        for name, size, measure in lines:
            own, gain = measure.over_patients, measure.gain
            values = [
                own.mean,
                own.low,
                own.high,
                measure.spread,
                *((gain.mean, gain.low, gain.high, measure.p) if gain else ()),
            ]
            numbers = [f"{value:.4f}" for value in values] + [""] * (8 - len(values))
            writer.writerow(
                [
                    arm.arm,
                    arm.cases,
                    arm.pairs,
                    arm.seeds,
                    name,
                    size,
                    own.count,
                    *numbers,
                    measure.better,
                    measure.worse,
                    arm.undertrained,
                ]
            )
    return stream.getvalue()


def undertrained_notes(arms: Sequence[Arm]) -> list[str]:
    """Return a sentence for each number of real cases at which nothing is concluded."""
    reasons = {arm.cases: arm.undertrained for arm in arms if arm.undertrained}
    return [
        f"{cases} real cases: no conclusion, these nnU-Nets are undertrained ({reason}); raise --minutes"
        for cases, reason in reasons.items()
    ]


def gain_rows(arms: Sequence[Arm]) -> list[tuple[str, ...]]:
    """Return rows for the terminal: the DSC and its gain, and the means of the other measures.

    Of undertrained nnU-Nets only the DSC is shown: that a few voxels touch every lesion is no finding.
    """
    rows = []
    for arm in arms:
        gain, tested = arm.dice.gain, f"{arm.dice.better} / {arm.dice.worse}, {arm.dice.p:.3f}"
        means = [f"{getattr(arm, name).over_patients.mean:.3f}" for name in MEASURES if name != "dice"]
        if arm.undertrained:
            means = ["–"] * len(means)
        rows.append(
            (
                str(arm.cases),
                arm.arm,
                arm.dice.over_patients.text,
                gain.text if gain else "undertrained" if arm.undertrained else "–",
                tested if gain else "–",
                *means,
            )
        )
    return rows
