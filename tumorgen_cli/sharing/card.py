"""The card of a model in Markdown: what it is, its data and training, what was measured, what it is not for."""

from __future__ import annotations

from collections.abc import Iterable

from tumorgen_cli.geometry import describe_edges
from tumorgen_cli.sharing.record import ModelRecord
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import say_count

_LIMITS = (
    "Diagnosis, treatment, or any decision about a patient: its pairs show no patient.",
    "Validation or testing: a network that is measured on synthetic tumors is measured against this model.",
    (
        "Scans unlike its training scans in channels, units, spacing or body region. `synthesize` compares them and "
        "refuses what certainly differs, but cannot see everything."
    ),
    "Kinds of tumors that its training cases do not have: it paints what it has seen.",
)

_COUNTED = (
    "It counts tumors as the networks see them, so its number may differ from that of the data: on the plan's voxels "
    "parts can join or separate, tumors larger than the window are left out, and of many cases 50 a side are taken."
)


def model_card(record: ModelRecord) -> str:
    """The card of a model."""
    lines = [
        f"# {record.name}",
        "",
        record.purpose,
        "",
        *_items(
            [
                f"Method: `{record.method}`, tumorgen {record.versions.get('tumorgen', 'unknown')}.",
                f"Channels, in this order: {', '.join(record.channels)}. Tumor label: `{record.tumor}`.",
                f"Date: {record.date}. License: {record.license}.",
                "Files: weights (safetensors), plan, pooled facts (JSON), this card. There is no scan and no code.",
            ]
        ),
        "",
        "## Use",
        "",
        "```bash",
        "tumorgen install MODEL.zip",
        f"tumorgen synthesize --model {record.name} --healthy DIR",
        "```",
        "",
        "`DIR` holds scans without this tumor, one file a channel. The pairs are an nnU-Net raw data set.",
        "",
        "## Data",
        "",
        *_items(_data_lines(record)),
        "",
        "## Training",
        "",
        "| stage | steps | planned | time | device | measured on held-out cases |",
        "|---|---|---|---|---|---|",
        *(
            f"| {s.stage} | {s.iterations:,} | {s.planned:,} | {console.clock(s.seconds)} | {s.device} | "
            f"{', '.join(f'{name} {value:.4g}' for name, value in s.numbers.items()) or '–'} |"
            for s in record.stages
        ),
        "",
        *(_items(f"Too weak: {text}" for text in record.shortfalls) or ["Nothing is known to be too weak about it."]),
        "",
        "## Scores",
        "",
        *_score_lines(record),
        "",
        "## Privacy",
        "",
        *_privacy_lines(record),
        "",
        "## What it must not be used for",
        "",
        *_items(_LIMITS),
        "",
    ]
    return "\n".join(lines)


def _data_lines(record: ModelRecord) -> list[str]:
    data = record.data
    healthy = f"; also learned from {say_count(data.healthy, 'scan')} without labels" if data.healthy else ""
    cases, tumors = say_count(data.cases, "training case"), say_count(data.tumors, "tumor")
    smallest, middle, largest = (f"{value:.3g}" for value in data.volume_ml)
    spacing, extent = describe_edges(data.spacing_mm, ".3g"), describe_edges(data.extent_mm)
    return [
        f"{cases} of `{data.dataset}`, {tumors}; {data.held_out} held out{healthy}.",
        f"Medians: voxels of {spacing} mm, scans of {extent} mm.",
        f"Tumors: median {middle} ml, 10th to 90th percentile {smallest} to {largest} ml, pooled.",
    ]


def _score_lines(record: ModelRecord) -> list[str]:
    if not record.sets:
        return ["No set of its pairs was evaluated before it was exported. Look at previews before you use it."]
    lines = []
    for each in record.sets:
        lines += [f"Set `{each.name}`, {say_count(each.pairs, 'pair')}:", "", "| figure | value |", "|---|---|"]
        lines += [f"| {title} | {text} |" for title, text in each.figures]
        lines.append("")
    return lines[:-1]


def _privacy_lines(record: ModelRecord) -> list[str]:
    """What was tested, what was left out, and what it holds."""
    copies = (
        "Near-copies and distances to the nearest training tumor: see the scores above."
        if record.sets
        else "Near-copies and distances to the nearest training tumor: not measured."
    )
    return [
        "What was tested:",
        "",
        *_items([copies, *_membership_lines(record)]),
        "",
        "These tests find copies and a loss that tells who was learned from. They do not prove that nothing else can.",
        "",
        "What was left out:",
        "",
        *_items(record.left_out),
        "",
        "What it holds of patients:",
        "",
        *_items(record.holds),
    ]


def _membership_lines(record: ModelRecord) -> list[str]:
    """What the membership test found, or why there is none, and whom it leaves out."""
    if not record.tested_loss:
        reason = "No network of it has learned from tumors, so no loss can tell who was learned from."
        return [f"Membership test: there is none for `{record.method}`. {reason}"]
    test = f"Membership test (is a loss smaller on training tumors than on held-out ones? {record.tested_loss})"
    if record.membership is None:
        return [f"{test}: not done. It needs two cases with tumors that were learned from, and two that were not."]
    lines = [f"{test}: {record.membership.words}. {_COUNTED}"]
    if record.data.healthy:
        lines.append("Whether the model reveals which scans without labels it learned from was not tested.")
    return lines


def _items(texts: Iterable[str]) -> list[str]:
    return [f"* {text}" for text in texts]
