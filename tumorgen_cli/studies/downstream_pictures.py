"""Pictures of held-out patients for the page of `downstream`: the truth, and what each arm found."""

from __future__ import annotations

from pathlib import Path

from tumorgen_cli.data.labels import mask_of
from tumorgen_cli.data.volumes import read_image, read_volume
from tumorgen_cli.evaluation.design import Variant, find_arm
from tumorgen_cli.evaluation.gains import Downstream, TrainedNnunet
from tumorgen_cli.evaluation.reports import downstream
from tumorgen_cli.evaluation.reports.planes import cut_best_slice
from tumorgen_cli.evaluation.scan_scores import REAL
from tumorgen_cli.figures import View, display_range, display_style, pick_evenly
from tumorgen_cli.geometry import tight_box
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.preprocessing.intensity import scan_limits
from tumorgen_cli.studies.downstream_runs import PREDICTIONS
from tumorgen_cli.studies.downstream_tasks import Point, run_folder

_PICTURED = 4  # held-out patients on the page


def draw_patients(root: Path, plan: Plan, result: Downstream, point: Point) -> list[downstream.Patient]:
    """Draw held-out patients with the result of every arm's first training at a draw of the real cases.

    They are ordered from the worst to the best of the real arm (else of the first arm). There are none without a
    training.
    """
    data = point.data
    runs: dict[str, TrainedNnunet] = {}
    for run in result.runs:
        if (run.cases, run.subset) == (point.cases, point.subset):
            runs.setdefault(run.label, run)
    if not runs:
        return []
    first = runs.get(REAL, next(iter(runs.values())))
    ranked = [scan.scan for scan in sorted(first.scans, key=lambda scan: scan.dsc or 0.0)]
    files, patients = {case.name: case for case in data.test}, []
    for name in pick_evenly(ranked, _PICTURED):
        case = files[name]
        image, grid = read_image(case.images)
        masks = {"truth": mask_of(read_volume(case.label)[0], data.tumor_label)}
        for arm, run in runs.items():
            value = next(scan.dsc for scan in run.scans if scan.scan == name)
            variant = Variant(find_arm(run.arm), run.hosts, run.painting).name
            where = run_folder(root, point.name, variant, run.seed) / PREDICTIONS / f"{name}{data.file_ending}"
            masks[f"{arm}, DSC {'–' if value is None else f'{value:.2f}'}"] = read_volume(where)[0] > 0
        box = tight_box(masks["truth"])
        if box is None:
            continue
        channel = image[plan.main_channel]
        display = display_range(scan_limits(image, plan.channels, masks["truth"])[plan.main_channel], (channel,), box)
        found = {title: (channel, mask) for title, mask in masks.items()}
        shown = display_style(plan.channels[plan.main_channel].name)[0]
        planes = cut_best_slice(channel, found, box, View(grid.spacing_mm, display, grid.direction, shown))
        del planes["before"]  # the same scan without an outline
        patients.append(downstream.Patient(name, point.cases, planes))
    return patients
