"""What `tumorgen nnunet-setup` writes and says: everything that can be known before nnU-Net starts is checked here.

Reads the workspace and the hosts' headers. Writes `WORK/nnunet/tumorgen_METHOD_HASH.json`, which the trainer reads, one for each choice of options,
weights and hosts, and beside it a `splits_final.json` with the folds of which the workspace's is one, or with that alone: no other may validate,
for the method has seen cases of it.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Literal

from tumorgen_cli.data.hosts import describe_matches, match_cases
from tumorgen_cli.data.splits import SPLITS, find_fold
from tumorgen_cli.judge.find import needed_judge
from tumorgen_cli.methods.open import open_method
from tumorgen_cli.nnunet.on_the_fly.settings import VARIABLE, Painting
from tumorgen_cli.nnunet.runner import user_folders
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis.painter import hash_sizes, names_of, sources_of
from tumorgen_cli.synthesis.places import bare_fault, bare_hosts, dataset_of
from tumorgen_cli.synthesis.provenance import PAIR_FORMAT
from tumorgen_cli.system.devices import DeviceName
from tumorgen_cli.system.errors import Fault, StateError, gather_faults
from tumorgen_cli.system.json_records import hash_value, write_json

TRAINER = "nnUNetTrainerTumorGen"


@dataclass(frozen=True)
class Setup:
    """What was written, the two lines for the job script, and the fold to train."""

    painting: Painting
    file: str
    fold: int
    lines: tuple[str, str]


def set_up(
    workspace: Workspace,
    method_name: str,
    healthy: Path | None,
    cases: Literal["train"] | None,
    roi: Path | None = None,
    probability: float = 0.5,
    pool: int = 32,
    share: float = 0.15,
    mixup: float = 0.0,
    until_pass: int | None = None,
    keep: float = 0.7,
    judge: Path | None = None,
    device: DeviceName = "auto",
    seed: int | None = None,
    folder: Path | None = None,
) -> Setup:
    """Checks what painting while nnU-Net trains needs, and writes it down, in `folder` or the workspace's `nnunet`.

    Raises:
        StateError: everything that is missing or does not fit: the plan, the method's weights, the hosts, the judge.
    """
    plan, splits = workspace.plan(), workspace.splits()
    faults: list[Fault] = []
    method = gather_faults(faults, lambda: open_method(workspace, method_name, device))
    weights = gather_faults(faults, lambda: dict(method.load())) if method is not None else None
    paths = [None if path is None else str(path.resolve()) for path in (healthy, roi)]
    where = judge if judge is None or not judge.exists() else judge.resolve()  # `bundled` is a name, not a path
    painting = Painting(
        format=PAIR_FORMAT,
        work=str(workspace.root),
        method=method_name,
        healthy=paths[0],
        cases=cases,
        roi=paths[1],
        judge=None if where is None else str(where),
        keep=keep,
        until_pass=until_pass,
        mixup=mixup,
        probability=probability,
        pool=pool,
        share=share,
        device=device,
        seed=plan.seed if seed is None else seed,
        plan_hash=plan.hash,
        weights=weights or {},
        learnt_from=method.learnt_from() if method else (),
        hosts=(),
        hosts_hash="",
        channels=tuple(channel.name for channel in plan.channels),
        labels=plan.labels,
    )
    sources = gather_faults(faults, lambda: sources_of(workspace, plan, painting))
    dataset = gather_faults(faults, lambda: dataset_of(plan))
    divided = gather_faults(faults, lambda: find_fold(dataset, splits)) if dataset is not None else None
    if healthy is not None and sources is not None and dataset is not None:
        scans = {source.name: source.files[0] for source in sources if not source.redraw}
        known = gather_faults(faults, lambda: match_cases(scans, dataset, splits.test)) or {}
        renamed = {
            name: case for name, case in known.items() if name != case
        }  # by its own name the trainer knows a case
        if renamed:
            faults.append(
                Fault(
                    str(healthy),
                    f"held-out cases by other names ({describe_matches(renamed)})",
                    "other scans",
                    "take them out of the folder",
                )
            )
    if sources is not None and (bare := bare_hosts(plan, sources)):
        faults.append(bare_fault(str(healthy), bare))
    if until_pass is not None:
        gather_faults(faults, lambda: needed_judge(workspace, where, device))
    if faults or sources is None or divided is None:
        raise StateError("Painting cannot be set up", faults)
    painting = replace(painting, hosts=names_of(sources), hosts_hash=hash_sizes(sources))
    folder = folder or workspace.root / "nnunet"
    path = folder / f"tumorgen_{method_name}_{hash_value(painting)[:6]}.json"  # a job that waits keeps its own
    write_json(path, painting)
    folds, own = divided
    write_json(folder / SPLITS, [{"train": fold.train, "val": fold.test} for fold in folds])
    return Setup(painting, str(path), own, job_lines(path))


def job_lines(path: Path) -> tuple[str, str]:
    """The two lines for a job script; trainers that nnUNet_extTrainer names already are found as before."""
    folder = Path(str(resources.files("tumorgen_cli"))) / "nnunet" / "on_the_fly" / "nnunet_trainers"
    named = [part for part in os.environ.get("nnUNet_extTrainer", "").split(os.pathsep) if part.strip()]
    others = any(Path(part) != folder for part in named)
    first = f"export nnUNet_extTrainer={shlex.quote(str(folder))}" + (
        f"{os.pathsep}$nnUNet_extTrainer" if others else ""
    )
    return first, f"export {VARIABLE}={shlex.quote(str(path))}"


def job_folders(workspace: Workspace) -> dict[str, Path]:
    """nnU-Net's folders for the job by variable; where the user names none for raw data sets, that of what was merged into the workspace, else
    that of the planned data set."""
    folders = user_folders(workspace.root)
    if not os.environ.get("nnUNet_raw") and not any(folders["nnUNet_raw"].glob("Dataset*")):
        folders["nnUNet_raw"] = Path(workspace.plan().dataset_path).parent
    return folders
