"""Stage `synthesize`: a trained method and host scans -> a synthetic set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tumorgen_cli.evaluation.measure import cache_folder
from tumorgen_cli.evaluation.set_card import write_card
from tumorgen_cli.judge.find import Choice, choose_judge, load_judge
from tumorgen_cli.judge.predictions import Predictions
from tumorgen_cli.judge.results_files import OWN_JUDGE
from tumorgen_cli.judge.suspects import FILE, Search, find_suspects
from tumorgen_cli.methods.base import Method, Sampling
from tumorgen_cli.methods.open import check_held_out, open_method
from tumorgen_cli.pipeline.aim import find_aim
from tumorgen_cli.pipeline.hints import DEFAULT_METHOD
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.sharing.installed import find_model
from tumorgen_cli.synthesis.aim import Aim
from tumorgen_cli.synthesis.forecast import Forecast, forecast_set, rehearse_set
from tumorgen_cli.synthesis.host_checks import check_sources
from tumorgen_cli.synthesis.jobs import make_jobs, own_jobs
from tumorgen_cli.synthesis.options import HostOptions, QualityOptions, SetOptions, check_hosts, judge_faults
from tumorgen_cli.synthesis.pair import PairInputs, Quality
from tumorgen_cli.synthesis.set_files import AIM, LEARNED_FROM, LEARNED_FROM_HEALTHY, MODEL, UNLABELED_HOSTS
from tumorgen_cli.synthesis.shards import check_set
from tumorgen_cli.synthesis.sources import (
    Source,
    healthy_sources,
    redraw_sources,
    unlabeled_hosts,
    unlabeled_hosts_fault,
)
from tumorgen_cli.synthesis.synthesize import Tally, count_set, synthesize_set
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName
from tumorgen_cli.system.errors import DataError, Fault, PlanError, StateError, abbreviate_list, say_count
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
    if hosts.cases and (faults := judge_faults(quality)):  # healthy hosts are looked at before painting
        raise PlanError("A judge that is not asked", faults)
    method = open_method(workspace, method_name, device)
    plan = method.plan
    check_sampling(method, sampling)
    if hosts.cases == "test":
        check_held_out(method)
    regions = hosts.host_labels or hosts.roi
    if hosts.cases:
        sources = redraw_sources(workspace, plan, hosts.cases)
    else:
        sources = healthy_sources(plan, hosts.healthy, regions, hosts.paint_in)
    cases = workspace.fingerprint().of(workspace.splits().train).cases
    seed = plan.seed if made.seed is None else made.seed
    painter = workspace.root.name if workspace.is_model else method_name
    folder = made.out or workspace.synthetic(set_name(painter, hosts, sampling, quality))
    tries, shard = quality.until_pass, made.shard
    # a judge needs minutes to look at many hosts: what can be refused before is refused before
    known = {"command": "synthesize", "method": method.name, "plan": method.plan_hash, "seed": seed}
    check_set(folder, known, shard, whole=False)
    if not hosts.skip_suspects:
        check_sources(sources[: made.pairs], hosts.box, plan, cases, tell=False)
    predictions, search = None, None
    if tries or not hosts.cases:
        predictions, search = _ask_judge(workspace, sources, made, hosts, quality, device)
    if search is not None and hosts.skip_suspects:
        sources = [source for source in sources if source.name not in search.suspicious]
    aim = find_aim(method, hosts, sampling, device, keep=not made.dry_run)
    settings = _set_settings(method, hosts, sources, sampling, seed, aim)
    jobs = make_jobs(sources, made.pairs, seed, aim is not None and aim.summary.aimed)
    test = Quality(predictions, quality.rule, tries) if predictions is not None and tries else None
    found = search.found if search else {}
    inputs = PairInputs(
        method, cases, sampling, hosts.box, test, found, hosts.tumors, hosts.anywhere, hosts.trust_units, aim
    )
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
        if tally.pairs and not tally.left:
            write_card(folder, plan)
        if search is not None and search.suspicious and not hosts.skip_suspects:
            console.note(f"suspected lesions are listed in {folder / FILE}, and in the provenance of their pairs")
    if tally.pairs > made.pairs:
        asked = f"{made.pairs} {'was' if made.pairs == 1 else 'were'} asked for"
        console.note(
            f"{folder} holds {say_count(tally.pairs, 'pair')} and {asked}: none is removed; a smaller set needs "
            "another --out"
        )
    return SetReport(str(folder), tally, forecast)


def open_model(name: str, method: str, results: Workspace) -> tuple[Workspace, str]:
    """Open an installed model: its workspace, which writes sets into another one, and its method.

    Args:
        name: The model.
        method: The method that the user names; the default one stands for that of the model.
        results: Where sets are written.

    Raises:
        PlanError: the model is of another method.
        StateError: there is no such model, or it is damaged.
    """
    workspace, record = find_model(name, results.root)
    if method not in (DEFAULT_METHOD, record.method):
        found = f"the model {name} is of {record.method}"
        fault = Fault(f"--method {method}", found, f"--method {record.method}", "leave --method out")
        raise PlanError("A model has one method", [fault])
    return workspace, record.method


def _ask_judge(
    workspace: Workspace,
    sources: Sequence[Source],
    made: SetOptions,
    hosts: HostOptions,
    quality: QualityOptions,
    device: DeviceName,
) -> tuple[Predictions | None, Search | None]:
    """Load the judge if draws are to pass it, or if it fits the hosts; it then looks for suspected lesions in them.

    Without `hosts.skip_suspects` only the hosts of this process's pairs are looked at.

    Returns:
        The judge's predictions and what it found in hosts; None where it is not asked.

    Raises:
        StateError: draws are to pass a judge, or suspicious hosts are to be left out, and there is no judge that fits.
        DataError: no host would be left.
    """
    used = sources if hosts.skip_suspects else sources[: made.pairs]
    choice = choose_judge(workspace, quality.judge, [source.files for source in used])  # the same for all shards
    looks = not hosts.cases and _can_look(choice, hosts, made.dry_run)
    if not looks and not quality.until_pass:
        return None, None
    cache = cache_folder(workspace.evaluation("hosts"))
    predictions = Predictions(load_judge(workspace, choice, device), cache)
    if not looks:
        return predictions, None
    if not hosts.skip_suspects:
        used = [job.source for job in own_jobs(make_jobs(sources, made.pairs, 0), made.shard)]
    files = {source.name: source.files for source in used}
    plan = workspace.plan()
    labels = {source.name: (source.label, plan.tumor_label) for source in used if source.label}
    with console.progress("looking for suspected lesions", len(files)) as tick:
        search = find_suspects(predictions, files, cache, plan.paste.smallest_ml, tick, labels)
    _show_suspects(search, plan.paste.smallest_ml)
    if hosts.skip_suspects:
        _show_left_out(search, hosts)
    return predictions, search


def _can_look(choice: Choice, hosts: HostOptions, rehearsal: bool) -> bool:
    """Tell whether a judge is to look for suspected lesions in the hosts; if not, a line says why.

    Raises:
        StateError: suspicious hosts are to be left out, and there is no judge that fits.
    """
    reason = choice.reason or "; ".join(choice.differences)
    if hosts.skip_suspects and reason:
        fault = Fault("--skip-suspects", reason, "a judge that knows such scans", f"{OWN_JUDGE}, or leave it out")
        raise StateError("Suspected lesions cannot be looked for", [fault])
    if rehearsal and not hosts.skip_suspects:
        reason = reason or "this is a rehearsal"
    if reason:
        console.note(f"suspected lesions in the hosts were not looked for: {reason}")
    return not reason


def _show_left_out(search: Search, hosts: HostOptions) -> None:
    """Say which hosts are left out because of suspected lesions.

    Raises:
        DataError: no host is left.
    """
    count = len(search.found) + len(search.unlike)
    left = count - len(search.suspicious)
    if not left:
        remedy = "leave --skip-suspects out, or give other hosts"
        fault = Fault(str(hosts.healthy), f"suspected lesions in all {count} hosts", "a host without", remedy)
        raise DataError("No host is left", [fault])
    if search.suspicious:
        console.note(f"left out with --skip-suspects: {abbreviate_list(search.suspicious, _NAMED)}; {left} hosts stay")


def _show_suspects(search: Search, least_ml: float) -> None:
    """Say in which hosts a judge marks suspected lesions, and what looking for them has cost."""
    cost = f" ({search.seconds:.1f} s a host; kept for evaluate and filter)" if search.seconds else ""
    looked = f"looked for lesions of {least_ml:g} ml and more in {say_count(len(search.found), 'host')}{cost}"
    if not search.suspicious:
        console.note(f"no suspected lesion: {looked}")
    else:
        console.warn(f"suspected lesions in {len(search.suspicious)} of {len(search.found)} hosts: {looked}")
        for host in search.suspicious[:_NAMED]:
            suspects = search.found[host]
            volumes = ", ".join(f"{each.volume_ml:.3g}" for each in suspects[:5]) + (" …" if len(suspects) > 5 else "")
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
    if hosts.tumors is not None:
        parts.append(f"tumors-{hosts.tumors}")
    if hosts.anywhere:
        parts.append("anywhere")
    if hosts.aim is not None:
        parts.append("aimed")
    return file_name("_".join(parts))


def _set_settings(
    method: Method,
    hosts: HostOptions,
    sources: Sequence[Source],
    sampling: Sampling,
    seed: int,
    aim: Aim | None,
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
        LEARNED_FROM: sorted({*method.learned_from(), *aim.learned_from}) if aim else method.learned_from(),
    }
    unlabeled = unlabeled_hosts(method.plan, sources)
    if unlabeled:
        fault = unlabeled_hosts_fault(str(hosts.healthy), unlabeled)
        console.warn(f"{fault.found}: {fault.remedy} (merge, downstream and nnunet-setup refuse these)")
    own = {
        "paint_in": hosts.paint_in,
        "kind": sampling.kind,
        "tumors": hosts.tumors,
        "anywhere": hosts.anywhere or None,
        UNLABELED_HOSTS: unlabeled or None,
        LEARNED_FROM_HEALTHY: method.learned_from_healthy() or None,
        AIM: aim and aim.summary,
        MODEL: method.workspace.root.name if method.workspace.is_model else None,
    }
    return settings | {name: value for name, value in own.items() if value is not None}
