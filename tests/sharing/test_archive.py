"""A model's file is read as a file of somebody unknown: what is wrong is one clear error, and nothing is written."""

import contextlib
import hashlib
import json
import random
import stat
import zipfile
from dataclasses import replace

import pytest

from tumorgen_cli.sharing.archive import read_archive, sum_file, write_archive
from tumorgen_cli.sharing.record import MODEL_FORMAT, FileSum, LearnedData, ModelRecord
from tumorgen_cli.system.errors import DataError
from tumorgen_cli.system.json_records import to_plain

FILES = {
    "MODEL_CARD.md": b"# a card",
    "plan.json": b"{}",
    "fingerprint.json": b"{}",
    "splits.json": b"{}",
    "runs/tumorgen/vae/weights.safetensors": b"weights" * 100,
}
REMEDY = "ask for the file as `tumorgen export` wrote it, or download it again"


def make_record(files=FILES):
    data = LearnedData("Dataset001_Any", 3, 3, 1, 0, (1.0, 1.0, 1.0), (9.0, 9.0, 9.0), (1.0, 2.0, 3.0))
    sums = {name: FileSum(hashlib.sha256(content).hexdigest(), len(content)) for name, content in files.items()}
    words = {
        "name": "any",
        "method": "tumorgen",
        "date": "2026-11-30",
        "tumor": "tumor",
        "purpose": "-",
        "license": "-",
    }
    return ModelRecord(
        format=MODEL_FORMAT,
        versions={},
        weight_formats={},
        channels=("CT",),
        data=data,
        stages=(),
        shortfalls=(),
        sets=(),
        tested_loss="",
        membership=None,
        left_out=(),
        holds=(),
        files=sums,
        **words,
    )


def write_zip(path, members, record=None, compression=zipfile.ZIP_STORED):
    """A zip with these members, (name or ZipInfo, content), and the record of `FILES`."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("model.json", json.dumps(to_plain(record or make_record())))
        for name, content in members:
            archive.writestr(name, content)
    return path


def link(name):
    found = zipfile.ZipInfo(name)
    found.external_attr = (stat.S_IFLNK | 0o777) << 16
    return found


def test_what_is_written_is_read(tmp_path):
    folder, target = tmp_path / "from", tmp_path / "to"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    record = make_record()
    assert record.files["plan.json"] == sum_file(folder / "plan.json")
    for name in ("one.zip", "two.zip"):
        write_archive(folder, record, tmp_path / name)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    target.mkdir()
    assert read_archive(tmp_path / "one.zip", target) == record
    for name, content in FILES.items():
        assert (target / name).read_bytes() == content


WHOLE = [*FILES.items()]
SPOILED = {
    "climbs": ([*WHOLE, ("../up.json", b"{}")], "leads out of its folder"),
    "absolute": ([*WHOLE, ("/etc/up.json", b"{}")], "leads out of its folder"),
    "windows": ([*WHOLE, ("c:\\up.json", b"{}")], "leads out of its folder"),
    "drive": ([*WHOLE, ("c:up.json", b"{}")], "leads out of its folder"),
    "link": ([*WHOLE, (link("link.json"), b"/etc/passwd")], "a link, a folder or a device"),
    "folder": ([*WHOLE, ("runs/", b"")], "leads out of its folder"),
    "pickle": ([*WHOLE, ("runs/last.pt", b"x")], "another kind of file"),
    "python": ([*WHOLE, ("setup.py", b"x")], "another kind of file"),
    "unknown": ([*WHOLE, ("more.json", b"{}")], "not in the record"),
    "missing": (WHOLE[:-1], "missing"),
    "no card": (WHOLE[1:], "missing"),
    "longer": ([*WHOLE[:-1], (WHOLE[-1][0], b"weights" * 101)], "707 bytes"),
    "changed": ([*WHOLE[:-1], (WHOLE[-1][0], b"Weights" * 100)], "checksum"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_file_is_refused(name, tmp_path):
    members, found = SPOILED[name]
    target = tmp_path / "inner" / "to"
    target.mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        read_archive(write_zip(tmp_path / "model.zip", members), target)
    assert any(found in fault.found for fault in caught.value.faults), str(caught.value)
    assert all(fault.remedy == REMEDY for fault in caught.value.faults)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "model.zip"]


def test_bombs_are_refused_unread(tmp_path):
    """Nothing is compressed, and the sizes add up to no more than the file."""
    packed = write_zip(tmp_path / "packed.zip", [*WHOLE[:-1], (WHOLE[-1][0], bytes(10**7))], None, zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match="compressed or encrypted"):
        read_archive(packed, tmp_path)
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = write_zip(tmp_path / "twice.zip", [*WHOLE, WHOLE[1]])
    with pytest.raises(DataError, match="twice in the file"):
        read_archive(twice, tmp_path)
    content = bytearray(write_zip(tmp_path / "huge.zip", WHOLE).read_bytes())
    at = content.rindex(b"PK\x01\x02")  # of the last file, whose size is said to be 4 GiB
    content[at + 20 : at + 28] = b"\xff\xff\xff\xef" * 2
    (tmp_path / "huge.zip").write_bytes(content)
    with pytest.raises(DataError, match="no more than the file has"):
        read_archive(tmp_path / "huge.zip", tmp_path)


def test_texts_of_absurd_size_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tumorgen_cli.sharing.archive._LARGEST_TEXT", 10)
    with pytest.raises(DataError, match="at most 10 bytes of text"):
        read_archive(write_zip(tmp_path / "model.zip", WHOLE), tmp_path)


def test_a_record_that_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "model.zip"
    with pytest.raises(
        DataError, match="use the version of TumorGen that wrote it, or ask for a model of this version"
    ):
        read_archive(write_zip(path, WHOLE, replace(make_record(), format=99)), tmp_path)
    with pytest.raises(DataError, match="a letter or digit first"):
        read_archive(write_zip(path, WHOLE, replace(make_record(), name="../up")), tmp_path)
    for text in (b"[1]", b"{", b"[" * 100_000, b'{"format": %d, "name": 3}' % MODEL_FORMAT, b"\xff"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model.json", text)
        with pytest.raises(DataError):
            read_archive(path, tmp_path)
    with zipfile.ZipFile(path, "w"):
        pass
    with pytest.raises(DataError, match=r"no model\.json"):
        read_archive(path, tmp_path)


def test_damaged_bytes_are_refused(tmp_path):
    """Whatever byte is damaged or cut, the file is refused with an error of ours, or is as it was."""
    whole = write_zip(tmp_path / "whole.zip", WHOLE).read_bytes()
    path, rng = tmp_path / "model.zip", random.Random(3)
    for _ in range(400):
        content = bytearray(whole[: rng.randrange(len(whole))] if rng.random() < 0.2 else whole)
        for _ in range(rng.choice((1, 1, 2, 8))):
            if content:
                content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
        with contextlib.suppress(DataError):
            assert read_archive(path, None).files == make_record().files
