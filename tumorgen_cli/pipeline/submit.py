"""Stage `submit`: the other stages as jobs of SLURM or, without it, one after the other on this machine.

`submit/` of the workspace holds a script for each job, `cluster.yaml`, the logs, and an empty file in `done/` for each
finished task. The same command submits what is neither done nor in the queue.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tumorgen_cli.pipeline.submit_cluster import CLUSTER_FILE, TEMPLATE, read_cluster, script_text
from tumorgen_cli.pipeline.submit_jobs import plan_jobs, with_absolute_paths
from tumorgen_cli.pipeline.submit_records import CHAIN_FORMAT, Chain, ChainOptions, Job
from tumorgen_cli.pipeline.submit_state import (
    JobState,
    job_states,
    last_line,
    queue_of,
    read_chain,
    script_file,
    submit_folder,
    write_chain,
)
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system import console
from tumorgen_cli.system.console import Ticker
from tumorgen_cli.system.devices import share_devices
from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.files import hash_file, write_text
from tumorgen_cli.system.json_records import hash_value
from tumorgen_cli.system.locks import locked
from tumorgen_cli.system.slurm import has_slurm, submit_script

_POLL_SECONDS = 0.2  # between two looks at the running tasks


@dataclass(frozen=True)
class Submission:
    """What `submit` did.

    Attributes:
        folder: The folder of the scripts.
        where: `slurm`, or `here` if the jobs ran on this machine; None if nothing was started.
        jobs: How far each job is.
    """

    folder: str
    where: str | None
    jobs: tuple[JobState, ...]


def submit_chain(
    workspace: Workspace,
    options: ChainOptions | None = None,
    cluster: Path | None = None,
    *,
    write_only: bool = False,
    here: bool = False,
    at_once: int | None = None,
) -> Submission:
    """Write the scripts of a chain, and submit or run what of it is not done.

    Scripts that were edited are submitted as they are.

    Args:
        workspace: The workspace, planned.
        options: What the chain makes. None: what was written before.
        cluster: The file of the cluster. None: `cluster.yaml` beside the scripts, which is written if it is missing.
        write_only: Only write the scripts.
        here: Run the jobs on this machine, also where SLURM is.
        at_once: Tasks at a time on this machine. None: one for each GPU, or one.

    Raises:
        StateError: nothing was written before; other options while jobs are in the queue, or for scripts that were
            edited; SLURM refuses a job; a job on this machine failed.
        PlanError: options or a cluster that cannot be used.
        DataError: hosts that cannot be used.
    """
    folder = submit_folder(workspace)
    with locked(folder, "submit"):
        chain = _write_scripts(workspace, folder, options, cluster)
        if write_only:
            return Submission(str(folder), None, _states(folder, chain))
        if here or not has_slurm():
            _run_here(workspace, folder, chain, at_once)
            return Submission(str(folder), "here", _states(folder, chain))
        chain = _submit(folder, chain)
        return Submission(str(folder), "slurm", _states(folder, chain))


def _states(folder: Path, chain: Chain) -> tuple[JobState, ...]:
    return tuple(job_states(folder, chain, queue_of(chain)))


def _write_scripts(workspace: Workspace, folder: Path, options: ChainOptions | None, cluster: Path | None) -> Chain:
    """Write the scripts of a chain, unless they were written for the same options, plan and cluster before.

    Raises:
        StateError: see `submit_chain`.
    """
    before = read_chain(folder)
    if options is not None:
        options = with_absolute_paths(options)
    elif before is not None:
        options = before.options
    else:
        fault = Fault(str(folder), "no scripts", "a chain", "give --healthy DIR, and -n with the number of pairs")
        raise StateError("There is nothing to submit", [fault])
    own = folder / CLUSTER_FILE
    if not own.is_file():
        write_text(own, TEMPLATE)
    cluster = (None if before is None else before.cluster) if cluster is None else cluster.resolve()
    known = read_cluster(cluster or own, own)
    request = hash_value([options, workspace.plan().hash, known, str(workspace.root)])
    if before is not None and before.request == request:
        return before
    if before is not None:
        _check_replaceable(folder, before)
    jobs = plan_jobs(workspace, options)
    for job in () if before is None else before.jobs:
        script_file(folder, job).unlink(missing_ok=True)
    shutil.rmtree(folder / "done", ignore_errors=True)  # the commands themselves know what is finished
    for name in ("logs", "done"):
        (folder / name).mkdir(exist_ok=True)
    written = {}
    for job in jobs:
        write_text(script_file(folder, job), script_text(job, folder, workspace.root, known))
        written[job.name] = hash_file(script_file(folder, job))
    chain = Chain(CHAIN_FORMAT, options, cluster, request, jobs, written)
    write_chain(folder, chain)
    return chain


def _check_replaceable(folder: Path, chain: Chain) -> None:
    """Check that the scripts of a chain may be replaced by others.

    Raises:
        StateError: jobs are in the queue, or scripts were edited.
    """
    queue = queue_of(chain)
    active = sorted({name.split("_")[0] for names in chain.tasks.values() for name in names.values() if name in queue})
    if active:
        remedy = f"wait for them, or end them with `scancel {' '.join(active)}`, then run the same command again"
        raise StateError("Jobs are in the queue", [Fault(str(folder), f"jobs {', '.join(active)}", "none", remedy)])
    remedy = f"delete it to have it written anew; to submit it as it is, keep to the earlier options and {CLUSTER_FILE}"
    faults = [
        Fault(str(path), "edited since it was written for other options", "an unedited script", remedy)
        for job in chain.jobs
        if (path := script_file(folder, job)).is_file() and hash_file(path) != chain.written[job.name]
    ]
    if faults:
        raise StateError("Edited scripts would be lost", faults)


def _submit(folder: Path, chain: Chain) -> Chain:
    """Submit every task that is neither done nor in the queue, each after the tasks that it needs."""
    needed: dict[str, list[str]] = {}  # the tasks of each job that must still succeed, as SLURM names them
    for state in job_states(folder, chain, queue_of(chain)):
        job, names = state.job, chain.tasks.get(state.job.name, {})
        needed[job.name] = [names[str(number)] for number in state.queued]
        wanted = sorted((*state.stopped, *state.left))
        if not wanted:
            continue
        before = [name for each in job.after for name in needed[each]]
        options = [f"--dependency=afterok:{':'.join(before)}", "--kill-on-invalid-dep=yes"] if before else []
        if job.tasks > 1:
            options.append(f"--array={','.join(map(str, wanted))}")
        number = submit_script(script_file(folder, job), options)
        needed[job.name].append(number)
        chain = chain.with_tasks(job.name, {n: f"{number}_{n}" if job.tasks > 1 else number for n in wanted})
        write_chain(folder, chain)  # at once: what is submitted is known also if the next one is refused
    return chain


def _run_here(workspace: Workspace, folder: Path, chain: Chain, at_once: int | None) -> None:
    """Run every task that is not done on this machine, job after job.

    Raises:
        StateError: a task failed; the other tasks of its job were run.
    """
    environments = share_devices(workspace.plan().device, at_once)
    for job in chain.jobs:
        (state,) = (each for each in job_states(folder, chain, {}) if each.job == job)
        wanted = [number for number in range(1, job.tasks + 1) if number not in state.done]
        with console.progress(job.name, job.tasks, len(state.done)) as tick:
            failed = _run_tasks(folder, job, wanted, environments, tick)
        if failed:
            remedy = "correct what the log says, then run the same command again; what was finished is kept"
            faults = [
                Fault(str(log), f"{last_line(log)} (exit code {code})", "a job that ends well", remedy)
                for log, code in failed.items()
            ]
            raise StateError(f"{job.name} failed in {len(failed)} of {len(wanted)} tasks", faults)


def _run_tasks(
    folder: Path, job: Job, numbers: Sequence[int], environments: Sequence[Mapping[str, str]], tick: Ticker
) -> dict[Path, int]:
    """Run tasks of a job, one at a time in each of the environments.

    Returns:
        The logs of the tasks that failed, with their exit codes.
    """
    waiting, free, done = deque(numbers), list(environments), job.tasks - len(numbers)
    running: dict[subprocess.Popen[bytes], tuple[Path, Mapping[str, str]]] = {}
    failed: dict[Path, int] = {}
    try:
        while waiting or running:
            while waiting and free:
                log, own = folder / "logs" / f"{job.name}_{waiting[0]}.log", free.pop()
                words = ["bash", str(script_file(folder, job)), str(waiting.popleft())]
                environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_ARRAY")}
                with log.open("ab") as stream:
                    process = subprocess.Popen(
                        words, env={**environment, **own}, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
                    )
                running[process] = log, own
            time.sleep(_POLL_SECONDS)
            for process in [each for each in running if each.poll() is not None]:
                log, own = running.pop(process)
                free.append(own)
                done += 1
                tick(done)
                if process.returncode:
                    failed[log] = process.returncode
    finally:  # a stop of this command stops the tasks
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    return failed
