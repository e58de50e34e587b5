"""The HTML page of a comparison: a verdict, the same places painted by every method, the table, and how to read it.

Reads the pairs of the sets for the pictures; the hosts are given. Writes comparison.html.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from tumorgen_cli.data.volumes import read_image
from tumorgen_cli.evaluation.cases import read_case, synthetic_cases
from tumorgen_cli.evaluation.comparison import (
    COLUMNS,
    PAPER,
    PAPER_NOTE,
    RULE,
    Column,
    Comparison,
    MethodEntry,
    Paper,
    Table,
    format_value,
    group_of,
    shared_places,
)
from tumorgen_cli.evaluation.reports.pages import duration, number, render
from tumorgen_cli.evaluation.reports.planes import Plane, cut_best_slice
from tumorgen_cli.evaluation.reports.verdict import PageVerdict
from tumorgen_cli.figures import View, display_range, display_style, pick_evenly
from tumorgen_cli.geometry import Box
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.preprocessing.intensity import scan_limits
from tumorgen_cli.synthesis.set_files import read_provenance, read_shortfalls
from tumorgen_cli.system.errors import say_count
from tumorgen_cli.system.files import write_text

PLACES = 4


@dataclass(frozen=True)
class Place:
    """A box that every method painted in: the host with the box, then each method's pair, as axial planes by title."""

    case: str
    planes: Mapping[str, Plane]


def draw_places(
    plan: Plan, sets: Mapping[str, Path], hosts: Mapping[str, Sequence[Path]], most: int = PLACES
) -> list[Place]:
    """Draw places that all sets share, spread over the hosts.

    Args:
        plan: The plan of the workspace.
        sets: The set of each method.
        hosts: The image files of each host.
        most: Largest number of places.
    """
    cases = sorted(shared_places([read_provenance(folder) for folder in sets.values()]))
    chosen = pick_evenly(cases, most)
    files = {method: {each.case: each for each in synthetic_cases(plan, folder)} for method, folder in sets.items()}
    places = []
    for case in chosen:
        pairs = {method: files[method][case] for method in sets}
        box = functools.reduce(Box.hull, (each.boxes[0] for each in pairs.values()))  # of the first tumor
        image, grid = read_image(tuple(hosts[next(iter(pairs.values())).host]))
        before = image[plan.main_channel]
        painted = {}
        for method, each in pairs.items():
            after, _, tumor, _ = read_case(plan, each)
            painted[method] = after[plan.main_channel], tumor
        display = display_range(
            scan_limits(image, plan.channels)[plan.main_channel],
            (before, *(after for after, _ in painted.values())),
            box,
        )
        colormap, _ = display_style(plan.channels[plan.main_channel].name)
        view = View(grid.spacing_mm, display, grid.direction, colormap)
        places.append(Place(case, cut_best_slice(before, painted, box, view)))
    return places


def write_page(
    path: Path, comparison: Comparison, places: Mapping[str, Sequence[Place]], reports: Mapping[str, Path]
) -> None:
    """Write the page.

    Args:
        path: The file.
        comparison: What is shown.
        places: The pictures, by hosts.
        reports: The report.html of a set, by the set's folder.
    """
    grids = []
    for each in comparison.tables:
        links = [
            (entry.method, os.path.relpath(reports[entry.folder], path.parent))
            for entry in each.entries
            if entry.folder in reports
        ]
        grids.append(_grid(each, comparison) | {"places": places.get(each.hosts, ()), "links": links})
    folders = {(entry.method, entry.folder) for each in comparison.tables for entry in each.entries if entry.folder}
    weak = sorted({f"{name}: {text}" for name, folder in folders for text in read_shortfalls(Path(folder))})
    content = {
        "title": f"{comparison.name}: comparison",
        "heading": comparison.name,
        "lead": "; ".join(
            f"{each.hosts}: {say_count(each.pairs, 'pair')} requested of each method, {each.alike} of them in the same "
            "boxes for all"
            for each in comparison.tables
        ),
        "verdict": _verdict(comparison, weak),
        "facts": _facts(comparison),
        "tiles": _tiles(comparison.tables[0], comparison.is_fid),
        "weak": weak,
        "c": comparison,
        "grids": grids,
        "rule": RULE,
        "paper_note": PAPER_NOTE,
        "training": training_rows(comparison),
    }
    write_text(path, render("comparison.html.j2", **content))


def _verdict(comparison: Comparison, weak: Sequence[str]) -> PageVerdict:
    """Say which method is marked as best most often, and what to look out for first."""
    wins = [method for table in comparison.tables for method in table.best.values()]
    counts = {method: wins.count(method) for method in dict.fromkeys(wins)}
    most = max(counts.values(), default=0)
    leaders = [method for method, count in counts.items() if count == most]
    if not counts:
        first = "No method is clearly better than all others in any measure."
    else:
        others = "more often than any other method" if len(leaders) == 1 else "more often than the others"
        verb = "is" if len(leaders) == 1 else "are each"
        first = f"{' and '.join(leaders)} {verb} clearly best in {most} of {_marked(comparison)} measures, {others}."
    failed = [entry.method for table in comparison.tables for entry in table.entries if entry.failure]
    if weak:
        return PageVerdict("care", first, f"Train longer before you conclude from it: {weak[0]}.")
    if failed:
        return PageVerdict("care", first, f"Mend {failed[0]} first, which made no set: the table says why.")
    return PageVerdict(
        "unknown", first, "All of it is from one training of each method: another one may change the order."
    )


def _marked(comparison: Comparison) -> int:
    """The number of measures of which a best value can be marked."""
    return sum(bool(column.best) for column in COLUMNS) * len(comparison.tables)


def _facts(comparison: Comparison) -> dict[str, Any]:
    """Where the comparison comes from, by title."""
    networks = [
        f"{method} {run.stage}: {run.steps} of {run.planned} planned steps, {duration(run.seconds)} on {run.device}"
        for method, runs in comparison.training.items()
        for run in runs
    ]
    return {
        "learned from": comparison.dataset,
        "plan": comparison.plan_hash,
        "seed": str(comparison.seed),
        "training": f"requested: {comparison.budget}",
        "networks": networks or "none",
        "channel": comparison.channel,
        "judge": comparison.judge or "none",
        "features": comparison.features,
    }


def _tiles(table: Table, is_fid: bool) -> list[tuple[str, str, str, str]]:
    """Return the four large numbers of the first hosts: of each measure the method nearest to real tumors."""
    found = []
    keys = {
        "dice": "DSC with the judge",
        "kernel_all": "KID to real slices" if is_fid else "Kernel distance to real slices",
        "auc": "Told apart by a machine, AUC",
        "low-contrast": "Low-contrast tumors",
    }
    for column in (column for column in COLUMNS if column.key in keys):
        values = {e.method: e.values[column.key] for e in table.entries if column.key in e.values}
        defined = {method: value for method, value in values.items() if value.defined}
        real = table.real.get(column.key)
        if not defined or real is None or not real.defined:
            found.append((keys[column.key], "not measured", "–", ""))
            continue
        nearest = min(defined, key=lambda method: abs(defined[method].value - real.value))
        ours, theirs = (format_value(column, value)[0] for value in (defined[nearest], real))
        found.append((keys[column.key], ours, theirs, f"nearest to real tumors: {nearest}"))
    return found


def _grid(table: Table, comparison: Comparison) -> dict[str, Any]:
    """Return the table of one set of hosts: a row for each measure, a column for real cases and for each method."""
    entries = [MethodEntry("real against real", "", "", table.real)] if table.real else []
    entries += [entry for entry in table.entries if not entry.failure]
    groups: list[dict[str, Any]] = []
    for name, columns in groupby(COLUMNS, lambda column: group_of(column, comparison.is_fid)):
        rows = [(column.title, [_cell(column, entry, table) for entry in entries]) for column in columns]
        groups.append({"name": name, "paper": False, "rows": rows})
    runs = [comparison.training.get(entry.method) for entry in entries]
    steps = [
        ", ".join(f"{r.stage} {r.steps}" for r in each or ()) or ("–" if each is None else "none") for each in runs
    ]
    minutes = [number(sum(run.seconds for run in each) / 60) if each else "–" for each in runs]
    groups.append({"name": "training", "paper": False, "rows": [_plain("steps", steps), _plain("minutes", minutes)]})
    papers = [PAPER.get(entry.method, Paper("", "")) for entry in entries]
    titles = {"fid": "FID Hecktor / AutoPET", "alignment": "DSC / NSD", "seconds": "s a sample"}
    told = [_plain(title, [getattr(paper, field) or "–" for paper in papers]) for field, title in titles.items()]
    if any(each.name for each in papers):
        groups.append({"name": "the paper, other data", "paper": True, "rows": told})
    return {
        "hosts": table.hosts,
        "methods": [entry.method for entry in entries],
        "groups": groups,
        "failures": [entry for entry in table.entries if entry.failure],
    }


def _cell(column: Column, entry: MethodEntry, table: Table) -> dict[str, Any]:
    value = entry.values.get(column.key)
    text, interval = format_value(column, value)
    smalls = [each for each in (interval, value.note if value else "") if each]
    return {"text": text, "smalls": smalls, "best": table.best.get(column.key) == entry.method}


def _plain(title: str, texts: Sequence[str]) -> tuple[str, list[dict[str, Any]]]:
    """A row of texts."""
    return title, [{"text": text, "smalls": [], "best": False} for text in texts]


def training_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Return a row for each trained stage of each method."""
    return [
        (
            method,
            run.stage,
            str(run.steps),
            str(run.planned),
            number(run.seconds),
            run.device,
            ", ".join(f"{name.replace('_', ' ')} {number(value)}" for name, value in run.numbers.items()),
        )
        for method, runs in comparison.training.items()
        for run in runs
    ]
