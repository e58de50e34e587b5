"""What a cluster needs to know, and the scripts that are submitted to it."""

from __future__ import annotations

import math
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt

from tumorgen_cli.pipeline.hints import command_line
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import Fault, PlanError
from tumorgen_cli.system.json_records import from_plain

if TYPE_CHECKING:
    from tumorgen_cli.pipeline.submit_records import Job

#: the file that a lab fills in; it is written without its lines, beside the scripts
CLUSTER_FILE = "cluster.yaml"
TEMPLATE = """\
# What `tumorgen submit` should know of your cluster. Fill in what it needs, and run the command again.
# Options of sbatch, for every job, for jobs without a GPU, and for jobs with one:
sbatch: []                        # for example [--account=my_lab]
sbatch_cpu: []                    # for example [--partition=cpu]
sbatch_gpu: ["--gres=gpu:1"]      # for example [--partition=gpu, "--gres=gpu:a100:1"]
# Lines of the shell before each command:
setup: ""                         # for example module load cuda
# No job gets a longer time limit. A job that reaches its limit is queued again and goes on:
longest_hours: 12
"""
_MOST_RESTARTS = 50  # a task that gets nowhere is not queued again for ever
_SAVING_SECONDS = 120  # before its time limit a job is asked to stop


@dataclass(frozen=True)
class Cluster:
    """What a cluster needs to know.

    Attributes:
        sbatch: Options of sbatch for every job.
        sbatch_cpu: Those for jobs without a GPU.
        sbatch_gpu: Those for jobs with a GPU.
        setup: Lines of the shell that run before each command.
        longest_hours: The longest time limit of a job.
    """

    sbatch: tuple[str, ...] = ()
    sbatch_cpu: tuple[str, ...] = ()
    sbatch_gpu: tuple[str, ...] = ("--gres=gpu:1",)
    setup: str = ""
    longest_hours: Annotated[float, Gt(0)] = 12.0

    def options(self, gpu: bool) -> tuple[str, ...]:
        """The options of sbatch for a job with or without a GPU."""
        return (*self.sbatch, *(self.sbatch_gpu if gpu else self.sbatch_cpu))


def read_cluster(path: Path, own: Path) -> Cluster:
    """Read the file of a cluster; missing fields have their defaults.

    Args:
        path: The file.
        own: The file beside the scripts, for the remedy where `path` is missing.

    Raises:
        PlanError: it is missing or no YAML, has unknown fields, or lines that are no options of sbatch.
    """
    import yaml

    remedy = f"correct it, or delete it for a new one: the command writes {CLUSTER_FILE}"
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError as error:
        remedy = f"correct the path, or give --cluster {own}, which is written to be filled in"
        fault = Fault(f"--cluster {path}", "no such file", "a YAML file", remedy)
        raise PlanError("The cluster is not known", [fault]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PlanError("The cluster is not known", [Fault(str(path), str(error), "YAML", remedy)]) from error
    if not isinstance(tree, dict):
        raise PlanError("The cluster is not known", [Fault(str(path), f"{tree!r}"[:80], "fields with values", remedy)])
    found = from_plain(Cluster, tree, str(path), remedy)
    lines = (*found.sbatch, *found.sbatch_cpu, *found.sbatch_gpu)
    faults = [
        Fault(f"{path}: {line!r}"[:200], "no option of sbatch", "for example --account=my_lab", remedy)
        for line in lines
        if not line.startswith("-") or "\n" in line
    ]
    if faults:
        raise PlanError("The cluster is not known", faults)
    return found


def time_limit_hours(seconds: float | None, cluster: Cluster) -> int:
    """The time limit of a job: twice its forecast, in whole hours; the longest where it is unknown."""
    longest = max(1, math.floor(cluster.longest_hours))
    return longest if seconds is None else min(longest, max(1, math.ceil(2 * seconds / 3600)))


def script_text(job: Job, folder: Path, work: Path, cluster: Cluster) -> str:
    """The script of a job.

    Args:
        job: The job.
        folder: The folder of the scripts; logs and marks of finished tasks are in folders of it.
        work: The workspace.
        cluster: What the cluster needs to know.
    """
    hours = time_limit_hours(job.needs.seconds, cluster)
    limit = "The time of a task is not known: the limit is the longest that the cluster's file allows."
    if job.needs.seconds is not None:
        limit = (
            f"A task takes about {console.rough_time(job.needs.seconds)}; the limit is twice that, an hour at least."
        )
    array = [f"--array=1-{job.tasks}"] if job.tasks > 1 else []
    log = str(folder / "logs" / f"{job.name}_{'%A_%a' if array else '%j'}.log")
    options = [
        f"--job-name=tumorgen_{job.name}",
        *array,
        f"--cpus-per-task={job.needs.cores}",
        f"--mem={math.ceil(job.needs.memory_gib)}G",
        f"--time={hours}:00:00",
        "--requeue",
        f"--signal=B:USR1@{_SAVING_SECONDS}",
        "--open-mode=append",
        f'--output="{_plain_pattern(log)}"',
        *cluster.options(job.needs.gpu),
    ]
    lines = [
        "#!/bin/bash",
        f"# {job.what} Runs after: {', '.join(job.after) or 'nothing'}.",
        f"# You may edit this script: `{command_line('submit', work)}` submits it as it is.",
        f"# By hand: sbatch {job.name}.sh on SLURM, or bash {job.name}.sh{' 1, and so on,' if array else ''} here.",
        f"# {limit}",
        *(f"#SBATCH {option}" for option in options),
        "set -euo pipefail",
        "task=${SLURM_ARRAY_TASK_ID:-${1:-1}}",
        f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH",
        *cluster.setup.splitlines(),
        "",
        f"# SLURM sends USR1 {_SAVING_SECONDS} s before the time limit: the command stops, the task is queued again",
        'stop() { kill -TERM "$command" 2>/dev/null || true; wait "$command" || true; }',
        "again() {",
        f'    if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {_MOST_RESTARTS} ]; then scontrol requeue "$SLURM_JOB_ID"; fi',
        "}",
        "trap 'stop; again' USR1",
        "trap stop INT TERM",
        f"{job.command} &",
        "command=$!",
        'wait "$command"',
        f"touch {shlex.quote(str(folder / 'done'))}/{job.name}_$task",
    ]
    return "\n".join(lines) + "\n"


def _plain_pattern(path: str) -> str:
    """A path in an option of sbatch, which replaces %; the pattern's own parts stay."""
    folder, _, name = path.rpartition("/")
    return f"{folder.replace('%', '%%')}/{name}"
