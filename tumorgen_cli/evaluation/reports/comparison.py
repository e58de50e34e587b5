"""The HTML page of a comparison: the table, training, the same places painted by every method, and how to read it.

Reads the pairs of the sets for the pictures; the hosts are given. Writes comparison.html.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path

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
from tumorgen_cli.evaluation.reports.html import number, page, picture_row, table
from tumorgen_cli.figures import View, display_range, display_style, draw_box_slices, pick_evenly
from tumorgen_cli.geometry import Box
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.preprocessing.intensity import scan_limits
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.system.files import write_text

PLACES = 4
_STYLE = """
body{max-width:84rem}.grid table{width:auto}.grid th,.grid td{padding:.4rem .8rem .4rem .4rem;white-space:nowrap}
.grid th:first-child,.grid td:first-child{position:sticky;left:0;background:var(--back);padding-right:1rem}
.grid tr:first-child th.g{color:var(--text)}.grid th.g,.grid td.g{border-left:1px solid var(--line)}
.why div{position:sticky;left:8rem;width:min(32rem,58vw);white-space:normal;overflow-wrap:anywhere}
.grid small{display:block}.real td{background:var(--card)}.real td:first-child{background:var(--card)}
a,.best{color:var(--mark)}.paper{color:var(--soft)}
"""


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
        box = functools.reduce(Box.hull, (each.box for each in pairs.values()))
        image, grid = read_image(hosts[next(iter(pairs.values())).host])
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
    parts = [_head(comparison)]
    for each in comparison.tables:
        parts += [
            f"<h2>{escape(each.hosts)}</h2>",
            _grid(each, comparison),
            _places(places.get(each.hosts, ())),
            _links(each, reports, path.parent),
        ]
    write_text(
        path, page(f"{comparison.name}: comparison", [*parts, _notes(comparison), _training(comparison)], _STYLE)
    )


def _head(c: Comparison) -> str:
    pairs = ", ".join(
        f"{t.hosts}: {t.pairs} pairs requested per method, {t.alike} of them in the same box for all methods"
        for t in c.tables
    )
    judge = escape(Path(c.judge).name) if c.judge else "none"
    return (
        f"<h1>{escape(c.name)}</h1><p class=soft>Learned from {escape(c.dataset)} · {escape(pairs)} · seed {c.seed} · training: {escape(c.budget)} · "
        f"channel {escape(c.channel)} · judge: {judge} · features: {escape(c.features)}</p>\n"
    )


def _grid(t: Table, c: Comparison) -> str:
    """Rows: real cases, methods. Columns: the scores, training, the paper's own numbers."""
    groups = [
        (name, len(list(members))) for name, members in groupby(COLUMNS, lambda column: group_of(column, c.is_fid))
    ]
    groups += [("training", 2), ("the paper, other data", 3)]
    above = "".join(f'<th class=g colspan="{count}">{escape(name)}</th>' for name, count in groups)
    titles = [column.title for column in COLUMNS] + [
        "steps",
        "minutes",
        "FID Hecktor / AutoPET",
        "DSC / NSD",
        "s a sample",
    ]
    firsts = {sum(count for _, count in groups[:i]) for i in range(len(groups))}
    below = "".join(f"<th{' class=g' if i in firsts else ''}>{escape(title)}</th>" for i, title in enumerate(titles))
    rows = [_row(MethodEntry("real against real", "", "", t.real), t, c, firsts, " class=real")] if t.real else []
    rows += [_row(entry, t, c, firsts) for entry in t.entries]
    return (
        f"<div class='wide grid'><table><thead><tr><th></th>{above}</tr><tr><th></th>{below}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>\n"
    )


def _row(entry: MethodEntry, t: Table, c: Comparison, firsts: set[int], kind: str = "") -> str:
    runs, paper = c.training.get(entry.method), PAPER.get(entry.method, Paper("", ""))
    if entry.failure:
        cells = [f'<td class="g why" colspan="{len(COLUMNS)}"><div>failed: {escape(entry.failure)}</div></td>']
    else:
        values = [entry.values.get(column.key) for column in COLUMNS]
        cells = [
            _cell(
                *format_value(column, value),
                value.note if value else "",
                t.best.get(column.key) == entry.method,
                i in firsts,
            )
            for i, (column, value) in enumerate(zip(COLUMNS, values, strict=True))
        ]
    steps = ", ".join(f"{run.stage} {run.steps}" for run in runs or ()) or ("–" if runs is None else "none needed")
    cells += [f"<td class=g>{steps}</td>", f"<td>{number(sum(run.seconds for run in runs) / 60) if runs else '–'}</td>"]
    theirs = [paper.fid, paper.alignment, paper.seconds]
    cells += [f'<td class="paper{" g" * (i == 0)}">{text or "–"}</td>' for i, text in enumerate(theirs)]
    return f"<tr{kind}><td>{escape(entry.method)}</td>{''.join(cells)}</tr>"


def _cell(text: str, around: str, note: str, best: bool, first: bool) -> str:
    told = f"<b class=best>{text}</b>" if best else text
    small = "".join(f"<small>{escape(each)}</small>" for each in (around, note) if each)
    return f"<td{' class=g' if first else ''}>{told}{small}</td>"


def _places(places: Sequence[Place]) -> str:
    if not places:
        return "<p class=soft>No box is the same for all methods, so there are no pictures.</p>"
    shown_places = "".join(picture_row(place.case, {"before": place.host, **place.painted}) for place in places)
    note = "All pictures of a row show the same host, box, slice and gray scale: first the host with the box, then each method's pair with its mask."
    return f"<p class=soft>{note}</p>{shown_places}\n"


def _links(t: Table, reports: Mapping[str, Path], folder: Path) -> str:
    links = [
        f'<a href="{escape(os.path.relpath(reports[e.folder], folder))}">{escape(e.method)}</a>'
        for e in t.entries
        if e.folder in reports
    ]
    return f"<p>Reports of the sets: {', '.join(links)}</p>\n" if links else ""


def _notes(c: Comparison) -> str:
    real = (
        "The first row shows real cases. DSC, NSD and P: the judge on the held-out tumors. Distances: real cases against real "
        "cases at the same counts. KS: the held-out tumors against the training tumors. Shares: those of the training tumors. "
        "AUC: 0.5 is chance. Agreement above the first row is a sign of easy tumors, not only of good masks."
    )
    same = (
        "Every method had the same hosts, windows and seeds, made and scored the same number of pairs, and drew its boxes from "
        "the same seeds. A rejected draw is repeated in another box. With few pairs a KS distance is far from 0 by chance. "
        "Seconds were measured on this device over the finished pairs; the time to read a host counts for its first pair."
    )
    kind = "FID and KID" if c.is_fid else "not the FID, and not comparable to it"
    far = f"Features of the distances: {c.features} ({kind}). Tolerance of the NSD: {c.tolerance_mm:g} mm."
    return (
        "<h2>How to read it</h2>"
        + "".join(f"<p>{escape(text)}</p>" for text in (real, same, RULE, far, PAPER_NOTE))
        + "\n"
    )


def _measured(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{escape(name.replace('_', ' '))} {number(value)}" for name, value in numbers.items())


def _training(c: Comparison) -> str:
    rows = [
        (
            escape(method),
            run.stage,
            str(run.steps),
            str(run.planned),
            number(run.seconds),
            run.device,
            _measured(run.numbers),
        )
        for method, runs in c.training.items()
        for run in runs
    ]
    text = (
        f"Requested: {escape(c.budget)}. Stages that were already trained were not trained again. A stage that several methods "
        "share was trained once and is counted for each of them. The time to encode the windows is not included."
    )
    header = ["method", "stage", "steps", "planned", "seconds", "device", "measured"]
    return f"<h2>Training</h2><p>{text}</p>" + (table(header, rows) if rows else "")
