"""The figures of a model's card: what `evaluate` found in sets that the same weights have painted."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tumorgen_cli.evaluation.evaluate import read_scores
from tumorgen_cli.evaluation.scores import Scores
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.sharing.record import SetFigures
from tumorgen_cli.synthesis.set_files import read_provenance, read_settings
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import TumorgenError
from tumorgen_cli.system.files import hash_file
from tumorgen_cli.system.json_records import to_plain


def find_figures(workspace: Workspace, method: str, weights: Mapping[str, str]) -> tuple[SetFigures, ...]:
    """The figures of the workspace's sets that these weights have painted and that are evaluated as they are now.

    Args:
        workspace: the workspace.
        method: name of the method.
        weights: hashes of its weights, by name, as `Method.load` returns them.
    """
    found = []
    for folder in sorted(workspace.synthetic("").glob("[!.]*")):
        scores = workspace.evaluation(folder.name) / "scores.json"
        if not scores.is_file():
            continue
        try:
            settings = read_settings(folder)
            if (settings.get("method"), settings.get("weights")) != (method, to_plain(weights)):
                continue
            read = read_scores(scores)
            if read.set_hash == hash_file(folder / "provenance.jsonl"):
                pairs = len(read_provenance(folder))
                found.append(SetFigures(folder.name, pairs, tuple(_figures(read))))
        except TumorgenError as error:
            console.note(f"the scores of {folder.name} are left out of the card: {error.faults[0].found}")
    return tuple(found)


def _figures(scores: Scores) -> list[tuple[str, str]]:
    """Title and text of each figure, beside what real tumors give."""
    rows = []
    if scores.judge:
        dice = scores.agreement.of("dice")
        rows.append(("agreement with a judge, DSC", f"{dice.synthetic.text}; real held-out {dice.real.text}"))
    for plane in scores.planes:
        if (plane.measure, plane.plane, plane.place) == ("kernel", "all", "tumor"):
            value = f"{_number(plane.matched.value)}; between real ones {_number(plane.floor.value)}"
            rows.append(("kernel distance of slices through tumors", value))
    titles = {"frechet": "Fréchet radiomics distance", "coverage": "coverage of real tumors by radiomics"}
    for each in scores.radiomics:
        value = f"{_number(each.matched.value)}; between real ones {_number(each.floor.value)}"
        rows.append((titles[each.measure], value))
    if not scores.reader.reason:
        auc = f"{scores.reader.auc:.2f} [{scores.reader.low:.2f}, {scores.reader.high:.2f}]; 0.5: not told apart"
        rows.append(("AUC of a classifier, real against synthetic", auc))
    new = scores.novelty
    if new.reason:
        return [*rows, ("near-copies of training tumors", new.reason)]
    count = new.synthetic.count
    rows.append(("near-copies of training tumors", f"{_number(new.near_copies)} of {count} tumors"))
    rows.append(("near-copies of one training tumor alone", f"{_number(new.singled_out)} of {count} tumors"))
    nearest = f"{_number(new.synthetic.median)}; of real held-out tumors {_number(new.held_out.median)}"
    return [*rows, ("distance to the nearest training tumor, median (0 the same, 1 nothing in common)", nearest)]


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "undefined"
