"""Stage `synthesize`: a trained method and host scans -> a synthetic set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tumorgen_cli.evaluation.measure import cache_folder
from tumorgen_cli.judge.find import OWN_JUDGE, choose_judge, load_judge, needed_judge
from tumorgen_cli.judge.predictions import Predictions
from tumorgen_cli.judge.suspects import FILE, LEAST_ML, Search, find_suspects
from tumorgen_cli.methods.base import Method, Sampling
from tumorgen_cli.methods.open import open_method
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis.forecast import Forecast, forecast_set, rehearse_set
from tumorgen_cli.synthesis.host_checks import check_sources
from tumorgen_cli.synthesis.options import HostOptions, QualityOptions, SetOptions, check_hosts, judge_faults
from tumorgen_cli.synthesis.pair import PairInputs, Quality
from tumorgen_cli.synthesis.set_files import LEARNED_FROM, UNLABELED_HOSTS
from tumorgen_cli.synthesis.sources import (
    Source,
    healthy_sources,
    redraw_sources,
    unlabeled_hosts,
    unlabeled_hosts_fault,
)
from tumorgen_cli.synthesis.synthesize import Tally, count_set, make_jobs, own_jobs, synthesize_set
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName
from tumorgen_cli.system.errors import DataError, Fault, PlanError, StateError, abbreviate_list
from tumorgen_cli.system.files import file_name
from tumorgen_cli.system.locks import locked

_NAMED = 10  # most hosts that are named on the terminal


@dataclass(frozen=True)
class SetReport:
    """A synthetic set: its folder, what it has cost, and what this call was expected to cost."""

    folder: str
    tally: Tally
    forecast: Forecast


def synthesize_pairs(
    workspace: Workspace,
    method_name: str,
    made: SetOptions,
    hosts: HostOptions,
    sampling: Sampling = Sampling(),
    quality: QualityOptions = QualityOptions(),
    device: DeviceName = "auto",
) -> SetReport:
    """Paint tumors into healthy scans, or redraw the tumors of the data set's own cases.

    Pairs that are there already are kept. With `made.shard`, this process makes only its part of the pairs; the shard
    that finishes last finishes the set. With `made.dry_run`, hosts are checked and nothing is written.

    Raises:
        PlanError: the method does not know the solver or kind, or there is nothing to paint into.
        DataError: hosts that cannot be used, or no pair that could be painted.
        StateError: a stage is not trained, or the folder holds a set that was made with other settings.
    """
    check_hosts(hosts)
    if faults := judge_faults(quality):
        raise PlanError("A judge that is not asked", faults)
    method = open_method(workspace, method_name, device)
    plan = method.plan
    check_sampling(method, sampling)
    regions = hosts.host_labels or hosts.roi
    if hosts.cases:
        sources = redraw_sources(workspace, plan, hosts.cases)
    else:
        sources = healthy_sources(plan, hosts.healthy, regions, hosts.paint_in)
    cases = workspace.fingerprint().of(workspace.splits().train).cases
    if not hosts.skip_suspects:  # before a judge looks at every host
        check_sources(sources[: made.pairs], hosts.box, plan, cases, tell=False)
    search = None if hosts.cases else _look_for_suspects(workspace, sources, made, hosts, quality, device)
    if search is not None and hosts.skip_suspects:
        sources = [source for source in sources if source.name not in search.suspicious]
    seed = plan.seed if made.seed is None else made.seed
    settings = _set_settings(method, hosts, sources, sampling, seed)
    folder = made.out or workspace.synthetic(set_name(method_name, hosts, sampling, quality))
    jobs = make_jobs(sources, made.pairs, seed)
    tries, shard = quality.until_pass, made.shard
    test = None
    if tries:
        judge = needed_judge(workspace, quality.judge, device, [source.files for source in sources])
        cache = cache_folder(workspace.evaluation(folder.name))
        test = Quality(Predictions(judge, cache), quality.rule, tries)
    inputs = PairInputs(method, cases, sampling, hosts.box, test, search.found if search else {})
    own = own_jobs(jobs, shard)
    if made.dry_run:
        with console.progress("checking hosts", len({job.source.name for job in own})) as tick:
            forecast = rehearse_set(inputs, jobs, folder, settings, tick, shard)
        return SetReport(str(folder), count_set(folder, forecast.missing), forecast)
    with locked(folder, "synthesize", shard.name if shard else None):
        forecast = forecast_set(inputs, jobs, folder, shard)
        console.note(str(forecast))
        with console.progress("painting", len(own)) as tick:
            tally = synthesize_set(inputs, jobs, folder, settings, tick, shard)
        if search is not None and search.suspicious and not hosts.skip_suspects:
            console.note(f"suspected lesions are listed in {folder / FILE}, and in the provenance of their pairs")
    if tally.pairs > made.pairs:
        asked = f"{made.pairs} {'was' if made.pairs == 1 else 'were'} asked for"
        console.note(
            f"{folder} holds {tally.pairs} pairs and {asked}: none is removed; a smaller set needs another --out"
        )
    return SetReport(str(folder), tally, forecast)


def _look_for_suspects(
    workspace: Workspace,
    sources: Sequence[Source],
    made: SetOptions,
    hosts: HostOptions,
    quality: QualityOptions,
    device: DeviceName,
) -> Search | None:
    """Look for suspected lesions in hosts, where a judge fits them; None where they were not looked for.

    Without `hosts.skip_suspects` only the hosts of this process's pairs are looked at.

    Raises:
        StateError: suspicious hosts are to be left out, and there is no judge that fits.
        DataError: no host would be left.
    """
    wanted = (
        sources
        if hosts.skip_suspects
        else [job.source for job in own_jobs(make_jobs(sources, made.pairs, 0), made.shard)]
    )
    files = {source.name: source.files for source in wanted}
    choice = choose_judge(workspace, quality.judge, list(files.values()))
    if choice.folder is None or choice.differences or (made.dry_run and not hosts.skip_suspects):
        reason = choice.reason or "; ".join(choice.differences) or "this is a rehearsal"
        if hosts.skip_suspects:
            fault = Fault("--skip-suspects", reason, "a judge that knows such scans", f"{OWN_JUDGE}, or leave it out")
            raise StateError("Suspected lesions cannot be looked for", [fault])
        console.note(f"suspected lesions in the hosts were not looked for: {reason}")
        return None
    judge, cache = load_judge(workspace, choice, device), cache_folder(workspace.evaluation("hosts"))
    with console.progress("looking for suspected lesions", len(files)) as tick:
        search = find_suspects(Predictions(judge, cache), files, cache, tick)
    _show_suspects(search)
    left = len(files) - len(search.suspicious)
    if hosts.skip_suspects and not left:
        remedy = "leave --skip-suspects out, or give other hosts"
        fault = Fault(str(hosts.healthy), f"suspected lesions in all {len(files)} hosts", "a host without", remedy)
        raise DataError("No host is left", [fault])
    if hosts.skip_suspects and search.suspicious:
        console.note(f"left out with --skip-suspects: {abbreviate_list(search.suspicious, _NAMED)}; {left} hosts stay")
    return search


def _show_suspects(search: Search) -> None:
    """Say in which hosts a judge marks suspected lesions, and what looking for them has cost."""
    cost = f" ({search.seconds:.1f} s a host; kept for evaluate and filter)" if search.seconds else ""
    looked = f"looked for lesions of {LEAST_ML} ml and more in {len(search.found)} hosts{cost}"
    if not search.suspicious:
        console.note(f"no suspected lesion: {looked}")
    else:
        console.warn(f"suspected lesions in {len(search.suspicious)} of {len(search.found)} hosts: {looked}")
        for host in search.suspicious[:_NAMED]:
            suspects = search.found[host]
            volumes = ", ".join(f"{each.volume_ml:.1f}" for each in suspects[:5]) + (" …" if len(suspects) > 5 else "")
            console.note(f"  {host}: {len(suspects)} ({volumes} ml)")
        if len(search.suspicious) > _NAMED:
            console.note(f"  and {len(search.suspicious) - _NAMED} more hosts")
    for host, reason in list(search.unlike.items())[:_NAMED]:
        console.note(f"  {host}: not looked at, {reason}")


def check_sampling(method: Method, sampling: Sampling) -> None:
    """Check that a method knows the solver and the kind of tumor, and that it has steps.

    Raises:
        PlanError: it does not.
    """
    no_kinds = "leave it out; tumorgen knows kinds where flow.character is on"
    choices = (
        ("--solver", sampling.solver, method.solvers, "it does not sample", "leave it out"),
        ("--kind", sampling.kind, method.kinds, "it knows no kinds of tumor", no_kinds),
    )
    faults = [
        Fault(f"{option} {value}", f"not one of {method.name}'s", ", ".join(known) or f"none: {why}", remedy)
        for option, value, known, why, remedy in choices
        if value is not None and value not in known
    ]
    if sampling.steps is not None and not method.solvers:
        faults.append(Fault(f"--steps {sampling.steps}", f"{method.name} does not sample", "no steps", "leave it out"))
    if faults:
        raise PlanError("A method cannot do this", faults)


def set_name(method: str, hosts: HostOptions, sampling: Sampling, quality: QualityOptions) -> str:
    """The name of a set in the workspace: the method, the hosts, and the options of painting that are not the default.

    Seed and judge are not part of it, and of a folder of regions only its own name is: a set with other settings under
    the same name is refused, and needs `--out`.

    For example `tumorgen_torso`, `tumorgen_torso_roi-liver_steps-50`, `copypaste_test_until-pass-5_keep-0.9`.
    """
    parts = [method, hosts.cases or (hosts.healthy.resolve().name if hosts.healthy else "scans")]
    if sampling.kind is not None:
        parts.append(sampling.kind)
    if hosts.paint_in is not None:
        parts.append(f"in-{hosts.paint_in}")
    if hosts.roi is not None:
        parts.append(f"roi-{hosts.roi.resolve().name}")
    if hosts.box is not None:
        parts.append("-".join(map(str, ("box", *hosts.box.start, *hosts.box.stop))))
    if sampling.steps is not None:
        parts.append(f"steps-{sampling.steps}")
    if sampling.solver is not None:
        parts.append(f"solver-{sampling.solver}")
    if quality.until_pass is not None:
        parts.append(f"until-pass-{quality.until_pass}")
        if quality.keep != QualityOptions().keep:
            parts.append(f"keep-{quality.keep:g}")
        if quality.p_alone:
            parts.append("p-alone")
    if hosts.skip_suspects:
        parts.append("skip-suspects")
    return file_name("_".join(parts))


def _set_settings(
    method: Method, hosts: HostOptions, sources: Sequence[Source], sampling: Sampling, seed: int
) -> dict[str, Any]:
    """What `set.json` records of a set; a folder that was made with other settings is refused."""
    regions = hosts.host_labels or hosts.roi
    settings: dict[str, Any] = {
        "seed": seed,
        "sources": [source.name for source in sources],
        "box": hosts.box,
        "roi": str(regions.resolve()) if regions else None,
        "steps": sampling.steps,
        "solver": sampling.solver,
        LEARNED_FROM: method.learned_from(),
    }
    unlabeled = unlabeled_hosts(method.plan, sources)
    if unlabeled:
        fault = unlabeled_hosts_fault(str(hosts.healthy), unlabeled)
        console.warn(f"{fault.found}: {fault.remedy} (merge, downstream and nnunet-setup refuse these)")
    own = {"paint_in": hosts.paint_in, "kind": sampling.kind, UNLABELED_HOSTS: unlabeled or None}
    return settings | {name: value for name, value in own.items() if value is not None}
