"""What is said about the files of a set works when it is followed; sets are written by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.sets import GRID, SHAPE, ball, scan, write_set

from tumorgen_cli.data.volumes import read_volume, write_volume
from tumorgen_cli.evaluation.cases import TumorCase, Volumes, read_scan
from tumorgen_cli.evaluation.evaluate import read_scores
from tumorgen_cli.evaluation.filter import _judged
from tumorgen_cli.geometry import Box, Grid
from tumorgen_cli.pipeline.sets import find_set, finished_sets
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis import set_files, shards
from tumorgen_cli.synthesis.logs import read_log
from tumorgen_cli.synthesis.merge_checks import read_set
from tumorgen_cli.synthesis.places import region_faults
from tumorgen_cli.system.errors import TumorgenError

RESTORE = "put set.json back as it was, or delete {folder} and make the set again"
AGAIN = "run the same `tumorgen synthesize` command again; it makes what is missing"


def remedies(function, *arguments):
    with pytest.raises(TumorgenError) as error:
        function(*arguments)
    return list(dict.fromkeys(fault.remedy for fault in error.value.faults))


@pytest.fixture
def pairs(tmp_path):
    """A set of two pairs."""
    tumor = ball((12, 10, 9), 12)
    return write_set(tmp_path / "set", [(case, "h", scan(tumor, 6, 1), 2 * tumor) for case in "ab"])


def test_an_unfinished_set_is_finished_by_the_same_command(pairs):
    """The command itself is run by the tests of lost files."""
    lines, description = (pairs / "provenance.jsonl").read_text(), (pairs / "dataset.json").read_text()
    (pairs / "provenance.jsonl").unlink()
    assert remedies(set_files.read_provenance, pairs) == [AGAIN]
    (pairs / "provenance.jsonl").write_text(lines)
    for content in ("{", "{}"):
        (pairs / "dataset.json").write_text(content)
        said = remedies(set_files.read_ending, pairs)
        assert said == [AGAIN if content == "{" else f"delete {pairs / 'dataset.json'}, then {AGAIN}"]
    (pairs / "dataset.json").unlink()
    assert remedies(set_files.read_ending, pairs) == [AGAIN]
    (pairs / "dataset.json").write_text(description)
    assert [record.case for record in set_files.read_provenance(pairs)] == ["a", "b"]
    assert set_files.read_ending(pairs) == ".nii.gz"


FILES = [  # a damaged file of a set, its content, how it is read, remedy, what is read without it
    ("rejected.csv", "host\n1\n", set_files.read_left_out, f"delete it, then {AGAIN}", {}),
    ("hosts.json", "[", set_files.read_hosts, "delete {path}", {}),
    ("judges.json", "[1]", set_files.read_judges, AGAIN, {}),
    ("shards.json", "[1]", shards._read_division, "delete {path} and run every shard again", None),
    ("set.json", "{", set_files.read_settings, RESTORE, {}),
]


@pytest.mark.parametrize(("name", "content", "read", "remedy", "left"), FILES, ids=[row[0] for row in FILES])
def test_a_damaged_file_is_deleted_as_told(tmp_path, name, content, read, remedy, left):
    path = tmp_path / name
    path.write_text(content)
    assert remedies(read, tmp_path) == [remedy.format(path=path, folder=tmp_path)]
    path.unlink()
    assert read(tmp_path) == left


def test_lines_of_a_log_are_deleted_as_told(tmp_path):
    path = tmp_path / "given_up.jsonl"
    path.write_text('{"case": "a", "reason": "x"}\n[1]\n{"case": \n')
    assert remedies(read_log, tmp_path, "given_up") == [
        "delete these lines of given_up.jsonl and run the same command again"
    ]
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    assert set(read_log(tmp_path, "given_up")) == {"a"}
    whole = path.read_bytes()
    path.write_bytes(whole + b"\xff\xfe\n")
    said = "put back the file as it was written, or delete its folder and run the command again"
    assert remedies(read_log, tmp_path, "given_up") == [said]
    path.write_bytes(whole)
    assert set(read_log(tmp_path, "given_up")) == {"a"}


def test_lines_of_provenance_are_deleted_as_told(pairs):
    path = pairs / "provenance.jsonl"
    whole = path.read_text()
    path.write_text(f"{whole}[1]\n")
    assert remedies(set_files.read_provenance, pairs) == [f"delete these lines of provenance.jsonl, then {AGAIN}"]
    path.write_text(whole)
    assert len(set_files.read_provenance(pairs)) == 2


def test_a_set_without_pairs_is_left_out(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "provenance.jsonl").touch()
    (empty / "dataset.json").write_text('{"file_ending": ".nii.gz"}')
    (empty / "set.json").write_text(json.dumps({"format": set_files.PAIR_FORMAT, "learned_from": []}))
    assert remedies(read_set, empty, "empty") == ["leave the set out"]
    assert remedies(read_set, tmp_path / "none", "none") == ["correct the path"]


def test_shards_are_let_finish_as_told(pairs):
    (pairs / "shards.json").write_text('{"pairs": 2, "shards": 2}')
    (fault,) = shards.unfinished_shard_faults(pairs)
    assert fault.remedy == "let them finish, or run them again"
    shards.remove_division(pairs)  # as the last shard does
    assert shards.unfinished_shard_faults(pairs) == []


def test_a_label_of_a_pair_off_its_image_is_deleted_as_told(pairs):
    """Its record fits, so somebody wrote it after the check."""
    label = pairs / "labelsTr" / "a.nii.gz"
    labels, _ = read_volume(label)
    write_volume(label, labels, Grid(SHAPE, (9.0, 9.0, 9.0)))
    image = pairs / "imagesTr" / "a_0000.nii.gz"
    case = TumorCase("synthetic", "a", "a", "h", (image,), label, (Box((8, 6, 4), (17, 15, 13)),), ())
    assert remedies(read_scan, case, Volumes(case)) == [f"delete it, then {AGAIN}"]
    write_volume(label, labels, GRID)  # what the same command makes
    assert read_scan(case, Volumes(case))[1] == GRID


def test_a_region_is_a_mask_as_told():
    probabilities = 0.4 * ball((12, 10, 9), 20) + 0.3
    (fault,) = region_faults("r", probabilities)
    assert fault.remedy == "cut probabilities at 0.5, resample masks by nearest neighbor, and save whole numbers"
    assert region_faults("r", (probabilities >= 0.5).astype(float)) == []


def test_sets_are_made_or_renamed_as_told(pairs, tmp_path):
    workspace = Workspace(tmp_path / "work")
    assert remedies(finished_sets, workspace, []) == ["run `tumorgen synthesize --healthy DIR`"]
    one = workspace.root / "synthetic" / "one"
    shutil.copytree(pairs, one)
    assert finished_sets(workspace, []) == [one]  # as it makes one
    twin = tmp_path / "other" / "one"
    shutil.copytree(pairs, twin)
    assert remedies(finished_sets, workspace, [one, twin]) == ["rename one of the folders"]
    two = twin.rename(twin.with_name("two"))
    assert finished_sets(workspace, [one, two]) == [one, two]
    said = "correct the path or name, or run `tumorgen synthesize --healthy DIR`"
    assert remedies(find_set, workspace, Path("zzz")) == [said]
    assert find_set(workspace, Path("one")) == one


def test_a_filter_begins_again_as_told(tmp_path):
    (tmp_path / "judged.jsonl").write_text('{"case": "a", "p": "high"}\n')
    assert "delete the folder and filter again" in remedies(_judged, tmp_path)
    (tmp_path / "judged.jsonl").unlink()
    assert _judged(tmp_path) == {}


def test_scores_are_made_again_as_told(tmp_path):
    path = tmp_path / "scores.json"
    for content in ("{", '{"plan": 3}'):
        path.write_text(content)
        assert "run `tumorgen evaluate` again" in remedies(read_scores, path)
