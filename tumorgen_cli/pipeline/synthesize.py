"""Stage `synthesize`: trained method and host scans -> a synthetic set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tumorgen_cli.geometry import Box
from tumorgen_cli.judge.find import needed_judge
from tumorgen_cli.methods.base import Sampling
from tumorgen_cli.methods.open import open_method
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis.pair import Quality
from tumorgen_cli.synthesis.places import bare_fault, bare_hosts, healthy_sources, redraw_sources
from tumorgen_cli.synthesis.set_files import BARE
from tumorgen_cli.synthesis.shards import Shard
from tumorgen_cli.synthesis.synthesize import Tally, make_jobs, own_jobs, synthesize_set
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName
from tumorgen_cli.system.errors import Fault, PlanError
from tumorgen_cli.system.json_records import hash_value
from tumorgen_cli.system.locks import locked


@dataclass(frozen=True)
class SetReport:
    """A synthetic set: where it lies and what it cost."""

    folder: str
    tally: Tally


def synthesize(
    workspace: Workspace,
    method_name: str,
    pairs: int,
    healthy: Path | None = None,
    cases: str | None = None,
    out: Path | None = None,
    box: Box | None = None,
    roi: Path | None = None,
    sampling: Sampling = Sampling(),
    device: DeviceName = "auto",
    seed: int | None = None,
    until_pass: int | None = None,
    keep: float = 0.7,
    judge: Path | None = None,
    paint_in: str | None = None,
    shard: Shard | None = None,
) -> SetReport:
    """Paints `pairs` tumors into the scans of `healthy`, or redraws those of the split's `cases` ("test", "train").

    With `paint_in` the masks of `roi` are labels of the plan's names, and the region is that label's.
    With `until_pass` a pair is drawn again, so often at most, until the judge finds the share `keep` of its mask. With
    `shard` only that part of the pairs is made; the shard that finishes last finishes the set.
    """
    method = open_method(workspace, method_name, device)
    plan = method.plan
    asked = (
        ("--solver", sampling.solver, method.solvers, "it does not sample", "leave it out"),
        (
            "--kind",
            sampling.kind,
            method.kinds,
            "it is not told what to draw",
            "leave it out; tumorgen knows them where flow.character is on",
        ),
    )
    faults = [
        Fault(f"{option} {value}", f"not one of {method_name}'s", ", ".join(known) or f"none: {why}", remedy)
        for option, value, known, why, remedy in asked
        if value is not None and value not in known
    ]
    if faults:
        raise PlanError("A method cannot do this", faults)
    sources = redraw_sources(workspace, plan, cases) if cases else healthy_sources(plan, healthy, roi, paint_in)
    seed = plan.seed if seed is None else seed
    tumors = workspace.fingerprint().of(workspace.splits().train).tumors
    settings = {
        "seed": seed,
        "sources": [source.name for source in sources],
        "box": box,
        "roi": str(roi) if roi else None,
        "steps": sampling.steps,
        "solver": sampling.solver,
        "learnt_from": method.learnt_from(),
    }
    if bare := bare_hosts(plan, sources):
        told = bare_fault(str(healthy), bare)
        console.warn(f"{told.found}: {told.remedy} (merge, downstream and nnunet-setup refuse these)")
    settings |= {
        name: value
        for name, value in (("paint_in", paint_in), ("kind", sampling.kind), (BARE, bare or None))
        if value is not None
    }
    # a set of its own for settings of its own: what is usual keeps the plain name
    usual = box is None and roi is None and sampling == Sampling() and until_pass is None
    name = f"{method_name}_{cases or (healthy.resolve().name if healthy else 'scans')}"
    own = hash_value([box, settings["roi"], sampling, until_pass, keep if until_pass else None])
    folder = out or workspace.synthetic(name if usual else f"{name}_{own[:6]}")
    jobs = make_jobs(sources, pairs, seed)
    quality = Quality(needed_judge(workspace, judge, device), keep, until_pass) if until_pass else None
    with (
        locked(folder, "synthesize", shard and shard.name),
        console.progress("painting", len(own_jobs(jobs, shard))) as tick,
    ):
        tally = synthesize_set(plan, method, jobs, folder, tumors, box, sampling, settings, quality, tick, shard)
    return SetReport(str(folder), tally)
