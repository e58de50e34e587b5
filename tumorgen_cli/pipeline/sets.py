"""Finds synthetic sets: by folder, by name in the workspace, or all finished ones of the workspace."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis.merge_checks import MERGED
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import Fault, StateError, abbreviate_list, did_you_mean


def finished_sets(workspace: Workspace, given: Sequence[Path]) -> list[Path]:
    """The folders of the given sets; without any, of every finished set of the workspace that holds a pair.

    Raises:
        StateError: there is no such set, or two sets have the same name, so that their scores would lie in one folder.
    """
    folders = [find_set(workspace, folder) for folder in given]
    for folder in () if given else sorted(path.parent for path in workspace.root.glob("synthetic/*/dataset.json")):
        if read_provenance(folder):
            folders.append(folder)
        else:
            console.note(f"{folder.name} holds no pair and is left out")
    names = [folder.name for folder in folders]
    twice = [folder for folder in folders if names.count(folder.name) > 1]
    faults = [
        Fault(str(folder), "another set of that name", "a name of its own", "rename one of the folders")
        for folder in twice
    ]
    if faults:
        raise StateError("Sets of one name", faults)
    if not folders:
        where = str(workspace.root / "synthetic")
        fault = Fault(where, "no finished set", "one or more", "run `tumorgen synthesize --healthy DIR`")
        raise StateError("There are no pairs", [fault])
    return folders


def find_set(workspace: Workspace, given: Path) -> Path:
    """The folder of a set, given by its path or by its name in the workspace.

    Raises:
        StateError: there is no such set.
    """
    places = (given.resolve(), workspace.synthetic(given.name))
    for folder in places:
        if (folder / "provenance.jsonl").is_file() and not (folder / MERGED).is_file():
            return folder
    names = sorted(path.parent.name for path in workspace.root.glob("synthetic/*/provenance.jsonl"))
    expected = (
        f"a set's folder, or a name in {workspace.root / 'synthetic'}: {abbreviate_list(names, 20) or 'none yet'}"
    )
    near = did_you_mean(given.name, names)
    remedy = near or "correct the path or name, or run `tumorgen synthesize --healthy DIR`"
    found = "no synthetic set"
    if any((folder / MERGED).is_file() for folder in places):
        found, remedy = "no synthetic set but a merged data set", "give the sets that were merged, see merge.json there"
    raise StateError("No such set", [Fault(str(given), found, expected, remedy)])
