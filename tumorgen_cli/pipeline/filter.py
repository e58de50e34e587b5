"""Stage `filter`: a synthetic set -> a set of the pairs that a judge agrees with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tumorgen_cli.judge.find import needed_judge
from tumorgen_cli.pipeline.sets import find_set
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis.options import QualityOptions
from tumorgen_cli.synthesis.shards import Shard, check_set
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName
from tumorgen_cli.system.locks import locked

if TYPE_CHECKING:
    from tumorgen_cli.evaluation.filter import Filtered


def filter_pairs(
    workspace: Workspace,
    set_folder: Path,
    quality: QualityOptions = QualityOptions(),
    out: Path | None = None,
    device: DeviceName = "auto",
    shard: Shard | None = None,
    no_copies: bool = False,
) -> Filtered:
    """Copy the pairs that pass the judge into a set of their own.

    With `shard`, this process judges only its part of the pairs; the shard that finishes last finishes the set.

    Args:
        workspace: Where the set is found by name, and its plan.
        set_folder: The set to filter: a folder, or a name in the workspace. It is not changed.
        quality: The judge, and when a pair passes; `until_pass` has no meaning here.
        out: Folder of the new set. None: the set's folder with `_kept` added to its name.
        device: Where the judge computes.
        shard: The part of the pairs that this process judges. None: all of them.
        no_copies: Reject also pairs with a copy of a training tumor, as the evaluation of the set has found them.
    """
    from tumorgen_cli.evaluation.cases import one_scan_per_host, synthetic_cases
    from tumorgen_cli.evaluation.filter import copied_pairs, filter_set, own_pairs
    from tumorgen_cli.evaluation.measure import cache_folder
    from tumorgen_cli.evaluation.set_card import write_card
    from tumorgen_cli.judge.predictions import Predictions

    plan, set_folder = workspace.plan(), find_set(workspace, set_folder)
    folder = out or set_folder.parent / f"{set_folder.name}_kept"
    check_set(folder, {"command": "filter"}, shard, whole=False)  # before the set is read
    pairs = synthetic_cases(plan, set_folder, shard)
    evaluation = workspace.evaluation(set_folder.name)
    judge = needed_judge(workspace, quality.judge, device, one_scan_per_host(pairs))
    copies = copied_pairs(set_folder, evaluation) if no_copies else None  # a judge that is missing is told first
    count = len(own_pairs(pairs, shard))
    cache = cache_folder(evaluation)
    with locked(folder, "filter", shard.name if shard else None), console.progress("asking the judge", count) as tick:
        found = filter_set(plan, set_folder, folder, Predictions(judge, cache), quality.rule, tick, shard, copies)
        if found.kept and not found.left:
            write_card(folder, plan)
        return found
