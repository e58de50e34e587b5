"""The HTML page of a comparison: the table, training, the same places painted by every method, and how to read it.

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

import numpy as np

from tumorgen_cli.data.volumes import read_image
from tumorgen_cli.evaluation.cases import read_case, synthetic_cases
from tumorgen_cli.evaluation.comparison import (
    COLUMNS,
    PAPER,
    PAPER_NOTE,
    RULE,
    Comparison,
    MethodEntry,
    Paper,
    Table,
    format_value,
    group_of,
    shared_places,
)
from tumorgen_cli.evaluation.reports.pages import number, render
from tumorgen_cli.figures import View, display_range, display_style, draw_box_slices, pick_evenly
from tumorgen_cli.geometry import Box
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.preprocessing.intensity import scan_limits
from tumorgen_cli.synthesis.set_files import read_provenance, read_shortfalls
from tumorgen_cli.system.files import write_text

PLACES = 4


@dataclass(frozen=True)
class Place:
    """A box that every method painted in, as axial pictures (H, W, 3) uint8.

    Attributes:
        case: Name of the case.
        host: The host with the box.
        painted: Each method's pair, by method.
    """

    case: str
    host: np.ndarray
    painted: Mapping[str, np.ndarray]

    @property
    def pictures(self) -> dict[str, np.ndarray]:
        """The host and each method's pair, by title."""
        return {"before": self.host, **self.painted}


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
        painted = [
            (after[plan.main_channel], tumor)
            for after, _, tumor, _ in (read_case(plan, each) for each in pairs.values())
        ]
        display = display_range(
            scan_limits(image, plan.channels)[plan.main_channel], (before, *(after for after, _ in painted)), box
        )
        colormap, _ = display_style(plan.channels[plan.main_channel].name)
        first, *others = draw_box_slices(before, painted, box, View(grid.spacing_mm, display, grid.direction, colormap))
        places.append(Place(case, first, dict(zip(pairs, others, strict=True))))
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
    content = {
        "title": f"{comparison.name}: comparison",
        "weak": sorted({f"{name}: {text}" for name, folder in folders for text in read_shortfalls(Path(folder))}),
        "c": comparison,
        "judge": comparison.judge or "none",
        "grids": grids,
        "columns": len(COLUMNS),
        "rule": RULE,
        "paper_note": PAPER_NOTE,
        "training": training_rows(comparison),
    }
    write_text(path, render("comparison.html.j2", **content))


def _grid(table: Table, comparison: Comparison) -> dict[str, Any]:
    """Return the table of one set of hosts: real cases and methods; scores, training, and the paper's own numbers."""
    groups = [
        (name, len(list(members)))
        for name, members in groupby(COLUMNS, lambda column: group_of(column, comparison.is_fid))
    ]
    groups += [("training", 2), ("the paper, other data", 3)]
    titles = [column.title for column in COLUMNS]
    titles += ["steps", "minutes", "FID Hecktor / AutoPET", "DSC / NSD", "s a sample"]
    entries = [MethodEntry("real against real", "", "", table.real)] if table.real else []
    rows = [_row(entry, table, comparison) for entry in (*entries, *table.entries)]
    if entries:
        rows[0]["real"] = True
    firsts = {sum(count for _, count in groups[:i]) for i in range(len(groups))}
    return {"hosts": table.hosts, "groups": groups, "titles": titles, "firsts": firsts, "rows": rows}


def _row(entry: MethodEntry, table: Table, comparison: Comparison) -> dict[str, Any]:
    runs, paper = comparison.training.get(entry.method), PAPER.get(entry.method, Paper("", ""))
    cells = []
    for column in COLUMNS if not entry.failure else ():
        value = entry.values.get(column.key)
        text, interval = format_value(column, value)
        smalls = [each for each in (interval, value.note if value else "") if each]
        cells.append({"text": text, "smalls": smalls, "best": table.best.get(column.key) == entry.method})
    steps = ", ".join(f"{run.stage} {run.steps}" for run in runs or ()) or ("–" if runs is None else "none needed")
    return {
        "method": entry.method,
        "real": False,
        "failure": entry.failure,
        "cells": cells,
        "steps": steps,
        "minutes": number(sum(run.seconds for run in runs) / 60) if runs else "–",
        "paper": (paper.fid, paper.alignment, paper.seconds),
    }


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
