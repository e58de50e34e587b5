"""How the files of a set are read."""

import json

import numpy as np
import pytest
from support.sets import ball, provenance, scan, write_set

from tumorgen_cli.data.volumes import read_volume, write_volume
from tumorgen_cli.synthesis.provenance import PAIR_FORMAT
from tumorgen_cli.synthesis.set_files import is_lost, pair_file_faults, read_ending, read_origin, read_provenance
from tumorgen_cli.synthesis.shards import Shard
from tumorgen_cli.system.errors import StateError
from tumorgen_cli.system.json_records import to_plain


@pytest.mark.parametrize("settings", [{"format": PAIR_FORMAT - 1}, {"method": "toy"}, [1]], ids=["old", "none", "list"])
@pytest.mark.parametrize("read", [read_provenance, read_origin])
def test_a_set_of_another_version_is_refused_as_such(tmp_path, settings, read):
    (tmp_path / "set.json").write_text(json.dumps(settings))
    (tmp_path / "provenance.jsonl").write_text('{"asked": [0, 1]}\n')
    with pytest.raises(StateError, match="another version") as caught:
        read(tmp_path)
    (fault,) = caught.value.faults
    assert fault.where == str(tmp_path / "set.json")
    assert fault.expected.startswith(f"format {PAIR_FORMAT}")
    assert fault.remedy == f"use the version that made it, or delete {tmp_path} and make the set again"


@pytest.mark.parametrize("field", ["case", "host", "host_file"])
def test_no_name_in_provenance_leads_out_of_its_folder(tmp_path, field):
    plain = to_plain(provenance("c", "h"))
    (tmp_path / "provenance.jsonl").write_text(json.dumps(plain) + "\n")
    assert [record.case for record in read_provenance(tmp_path)] == ["c"]
    plain[field] = ["../../h"] if field == "host_file" else "../../h"
    (tmp_path / "provenance.jsonl").write_text(json.dumps(plain) + "\n")
    with pytest.raises(StateError) as caught:
        read_provenance(tmp_path)
    assert [fault.found for fault in caught.value.faults] == ["'../../h'"]


@pytest.mark.parametrize("content", ["[]", "{}", '{"file_ending": "/../../x.nii.gz"}', '{"file_ending": 3}', "no json"])
def test_the_ending_of_a_set_is_one_of_those_that_are_known(tmp_path, content):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(StateError) as caught:
        read_ending(tmp_path)
    assert str(tmp_path / "dataset.json") in caught.value.faults[0].where
    (tmp_path / "dataset.json").write_text('{"file_ending": ".nrrd"}')
    assert read_ending(tmp_path) == ".nrrd"


@pytest.fixture
def pairs(tmp_path):
    """A set of two pairs."""
    tumor = ball((12, 10, 9), 12)
    return write_set(tmp_path / "set", [(case, "h", scan(tumor, 6, 1), 2 * tumor) for case in "ab"])


def faults_of(folder, shard=None):
    return pair_file_faults(folder, read_provenance(folder), 1, ".nii.gz", shard)


@pytest.mark.parametrize("name", ["imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"])
@pytest.mark.parametrize("kept", [0, 0.6, -1])
def test_a_cut_file_of_a_pair_is_told_and_may_be_made_again(pairs, name, kept):
    assert faults_of(pairs) == []
    content = (pairs / name).read_bytes()
    (pairs / name).write_bytes(content[: int(kept * len(content)) if kept != -1 else -1])
    (fault,) = faults_of(pairs)
    assert (fault.where, fault.found) == (str(pairs / name), "truncated or damaged")
    assert fault.remedy.startswith("run the same `tumorgen synthesize` command again")
    assert is_lost(pairs / name, "")


@pytest.mark.parametrize("name", ["imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"])
def test_an_edited_file_of_a_pair_is_told_and_is_not_replaced(pairs, name):
    voxels, grid = read_volume(pairs / name)
    write_volume(pairs / name, np.roll(voxels, 1), grid)
    (fault,) = faults_of(pairs)
    assert (fault.where, fault.found) == (str(pairs / name), "changed since it was written")
    assert fault.remedy.startswith("put the file back, or delete it, then run")
    assert not is_lost(pairs / name, "")
    (pairs / "imagesTr" / "c_0000.nii.gz").write_bytes(b"no pair")
    (_, other) = faults_of(pairs)
    said = "move the file away, then run the same `tumorgen synthesize` command again; it makes what is missing"
    assert other.remedy == said
    (pairs / "imagesTr" / "c_0000.nii.gz").unlink()
    assert len(faults_of(pairs)) == 1
    (pairs / name).unlink()  # the remedy
    assert [fault.found for fault in faults_of(pairs)] == ["no such file"]
    assert is_lost(pairs / name, "")


def test_a_shard_reads_the_files_of_its_own_pairs(pairs):
    (pairs / "labelsTr" / "a.nii.gz").write_bytes(b"")
    assert (len(faults_of(pairs, Shard(1, 2))), len(faults_of(pairs, Shard(2, 2)))) == (1, 0)


def test_a_pair_without_hashes_is_not_taken_for_whole(pairs):
    lines = [json.loads(line) for line in (pairs / "provenance.jsonl").read_text().splitlines()]
    (pairs / "provenance.jsonl").write_text("".join(json.dumps({**line, "files": []}) + "\n" for line in lines))
    assert len(faults_of(pairs)) == 4
