"""Pairs whose files were lost, cut or edited after they were written."""

import shutil

import numpy as np
import pytest
from support.pairs import paint
from support.spoil import cut

from tumorgen_cli.data.volumes import read_volume, write_volume
from tumorgen_cli.evaluation.cases import synthetic_cases
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.system.errors import StateError
from tumorgen_cli.system.files import hash_file

IMAGE, LABEL = "imagesTr/Healthy_000_s0000_0000.nii.gz", "labelsTr/Healthy_000_s0000.nii.gz"


@pytest.fixture(scope="module")
def whole(workspace, phantoms, tmp_path_factory):
    """A set of two pairs."""
    out = tmp_path_factory.mktemp("set") / "set"
    paint(workspace, phantoms, out, pairs=2)
    return out


@pytest.fixture
def pairs(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "set")


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("*Tr/*")}


def made_again(command, folder):
    """The pairs that a command writes, which is the remedy that is printed."""
    before = {record.case: record.seconds for record in read_provenance(folder)}
    command()
    return [record.case for record in read_provenance(folder) if record.seconds != before[record.case]]


def test_provenance_has_the_hashes_of_the_files(pairs):
    for record in read_provenance(pairs):
        paths = (pairs / "imagesTr" / f"{record.case}_0000.nii.gz", pairs / "labelsTr" / f"{record.case}.nii.gz")
        assert record.files == tuple(map(hash_file, paths))


@pytest.mark.parametrize("name", [IMAGE, LABEL])
@pytest.mark.parametrize("damage", [cut, lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_the_same_command_makes_damaged_pairs_again(workspace, phantoms, pairs, whole, name, damage):
    damage(pairs / name)
    with pytest.raises(StateError, match="run the same `tumorgen synthesize` command again"):
        synthetic_cases(workspace.plan(), pairs)
    assert made_again(lambda: paint(workspace, phantoms, pairs, pairs=2), pairs) == ["Healthy_000_s0000"]
    assert contents(pairs) == contents(whole)
    assert len(synthetic_cases(workspace.plan(), pairs)) == 2


@pytest.mark.parametrize("name", [IMAGE, LABEL])
def test_an_edited_file_is_neither_scored_nor_replaced(workspace, phantoms, pairs, whole, name):
    voxels, grid = read_volume(pairs / name)
    write_volume(pairs / name, np.roll(voxels, 1), grid)
    edited = contents(pairs)
    assert made_again(lambda: paint(workspace, phantoms, pairs, pairs=2), pairs) == []
    assert contents(pairs) == edited
    with pytest.raises(StateError, match="changed since it was written"):
        synthetic_cases(workspace.plan(), pairs)
    (pairs / name).unlink()  # the remedy: delete it, then run the same command
    assert made_again(lambda: paint(workspace, phantoms, pairs, pairs=2), pairs) == ["Healthy_000_s0000"]
    assert contents(pairs) == contents(whole)


def test_a_damaged_line_of_provenance_costs_one_pair(pairs, workspace, phantoms):
    log, before = pairs / "provenance.jsonl", contents(pairs)
    lines = log.read_text().splitlines(keepends=True)
    log.write_text(lines[0] + '{"case": \n')
    with pytest.raises(StateError) as caught:
        synthetic_cases(workspace.plan(), pairs)
    (fault,) = caught.value.faults
    assert fault.where == f"{log} line 2"
    assert fault.remedy.startswith("delete these lines of provenance.jsonl, then run the same `tumorgen synthesize`")
    log.write_text(lines[0])  # the remedy
    assert paint(workspace, phantoms, pairs, pairs=2).tally.made == 1
    assert contents(pairs) == before
    assert len(synthetic_cases(workspace.plan(), pairs)) == 2
