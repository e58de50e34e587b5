"""What a set's page says of its origin: networks and how long they were trained."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from tumorgen_cli.evaluation.reports.pages import duration
from tumorgen_cli.methods.copypaste import DONORS
from tumorgen_cli.synthesis.provenance import Provenance
from tumorgen_cli.system.errors import StateError
from tumorgen_cli.training.checkpoints import read_run
from tumorgen_cli.training.stage import StageRun


def describe_networks(runs: Path, pairs: Sequence[Provenance]) -> list[str]:
    """Say of each network that painted a set how long it was trained.

    A network is known by the hash of its weights. Nothing is known of one that was trained elsewhere, or whose run was
    replaced by another since.

    Args:
        runs: Folder of the runs of a workspace, by method and stage.
        pairs: The pairs of the set.
    """
    known: dict[str, StageRun] = {}
    for record in sorted(runs.glob("*/*/run.json")):
        with contextlib.suppress(StateError):  # a damaged record is reported where the run is used
            run = read_run(record.parent)
            known[run.weights_hash] = run
    found = []
    for method, weights in dict.fromkeys((pair.method, tuple(sorted(pair.weights.items()))) for pair in pairs):
        networks = [(name, content) for name, content in weights if name != DONORS]
        if not networks:
            found.append(f"{method}: nothing to train")
        for name, content in networks:
            if content not in known:
                found.append(f"{method} {name}: unknown, trained elsewhere or since then again")
            else:
                run = known[content]
                steps = f"{run.iterations} of {run.planned_iterations} planned steps"
                found.append(f"{method} {name}: {steps}, {duration(run.seconds)} on {run.device}")
    return list(dict.fromkeys(found))
