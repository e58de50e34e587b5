"""The strict reader tells every fault, writing is all or nothing, and a folder has one command at a time."""

import errno
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from tumorgen_cli.system import files, json_records, locks
from tumorgen_cli.system.errors import PlanError, StateError


@dataclass(frozen=True)
class Inner:
    widths: tuple[int, ...]
    rate: float


@dataclass(frozen=True)
class Outer:
    name: str
    count: int
    shape: tuple[int, int, int]
    solver: Literal["euler", "heun"]
    inner: Inner
    limits: dict[str, float]
    note: str | None


PLAIN = {
    "name": "a",
    "count": 3,
    "shape": [1, 2, 3],
    "solver": "heun",
    "inner": {"widths": [8, 16], "rate": 1},
    "limits": {"low": 0.5},
    "note": None,
}
RECORD = Outer("a", 3, (1, 2, 3), "heun", Inner((8, 16), 1.0), {"low": 0.5}, None)


def faults_of(value, kind=Outer):
    with pytest.raises(PlanError) as error:
        json_records.from_plain(kind, value, where="plan", remedy="mend it")
    return {fault.where: fault for fault in error.value.faults}


def test_round_trip(tmp_path):
    json_records.write_json(tmp_path / "deep" / "a.json", RECORD)
    assert json_records.read_record(Outer, tmp_path / "deep" / "a.json", "mend it") == RECORD
    assert json_records.from_plain(Outer, PLAIN) == RECORD
    assert isinstance(json_records.from_plain(Outer, PLAIN).inner.rate, float)


def test_every_fault_at_once_with_the_nearest_name():
    broken = {
        "nmae": "a",
        "count": 2.5,
        "shape": [1, 2],
        "solver": "rk4",
        "inner": {"widths": [8, "x"], "rat": 1.0},
        "limits": {"low": "x"},
        "note": 4,
    }
    found = faults_of(broken)
    assert set(found) == {
        "plan.nmae",
        "plan.name",
        "plan.count",
        "plan.shape",
        "plan.solver",
        "plan.inner.widths[1]",
        "plan.inner.rat",
        "plan.inner.rate",
        "plan.limits.low",
        "plan.note",
    }
    assert found["plan.nmae"].remedy == "did you mean name?"
    assert found["plan.inner.rat"].remedy == "did you mean rate?"
    assert found["plan.name"].found == "missing"
    assert found["plan.count"].found == "2.5"
    assert found["plan.count"].expected == "int"
    assert found["plan.shape"].expected == "3 values"
    assert found["plan.solver"].expected == "one of euler, heun"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("count", True),
        ("count", "3"),
        ("name", 3),
        ("shape", "123"),
        ("shape", 3),
        ("inner", [1]),
        ("inner", None),
        ("limits", [1]),
        ("name", None),
    ],
)
def test_wrong_types(field, value):
    assert list(faults_of({**PLAIN, field: value})) == [f"plan.{field}"]
    assert faults_of({**PLAIN, field: value})[f"plan.{field}"].remedy == "mend it"


def test_no_flag_is_a_number():
    assert list(faults_of({"widths": [True], "rate": False}, Inner)) == ["plan.widths[0]", "plan.rate"]


def test_a_name_that_is_like_none():
    fault = json_records.unknown_name_fault("plan", "zzzz", ["alpha", "beta"])
    assert (fault.remedy, fault.expected) == ("choose one of these, or leave it out", "one of alpha, beta")


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(StateError, match="run it again"):
        json_records.read_record(Outer, tmp_path / "none.json", "run it again")
    (tmp_path / "cut.json").write_text('{"name": ')
    with pytest.raises(StateError, match="valid JSON"):
        json_records.read_plain(tmp_path / "cut.json", "run it again")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StateError, match="valid JSON"):
        json_records.read_plain(tmp_path / "bytes.json", "run it again")


def test_numpy_numbers_and_paths_are_plain():
    assert json_records.to_plain(
        {"a": np.float32(0.5), "b": np.arange(2), 3: Path("x/y"), "c": (np.int64(1), None)}
    ) == {
        "a": 0.5,
        "b": [0, 1],
        "3": "x/y",
        "c": [1, None],
    }


def test_a_broken_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.json"
    files.write_text(path, "old")

    def fail():
        with files.atomic(path) as temporary:
            temporary.write_text("ne")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_temporary_file_keeps_the_ending(tmp_path):
    with files.atomic(tmp_path / "a.nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz")
        assert temporary.parent == tmp_path
        temporary.write_text("x")
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_left_is_told(tmp_path, monkeypatch, code):
    def full(*_):
        raise OSError(code, os.strerror(code))

    files.write_text(tmp_path / "a.json", "old")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StateError, match="free some space"):
        files.write_text(tmp_path / "a.json", "new")
    monkeypatch.undo()
    monkeypatch.setattr(np, "save", full)
    with pytest.raises(StateError, match=r"b\.npy"), files.atomic(tmp_path / "b.npy") as temporary:
        np.save(temporary, np.zeros(3))
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"


def test_a_broken_disk_is_told_and_other_errors_keep_their_kind(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(StateError, match="check the disk"):
        files.write_text(tmp_path / "a", "x")
    with pytest.raises(FileNotFoundError), files.atomic(tmp_path / "a") as temporary:  # read, not written
        temporary.write_text((tmp_path / "elsewhere" / "b").read_text())


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def denied(*_):
        raise PermissionError(errno.EACCES, "permission denied")

    monkeypatch.setattr(os, "replace", denied)
    with pytest.raises(StateError, match="choose another folder"):
        files.write_text(tmp_path / "a", "x")


def test_hashes_depend_on_content_alone(tmp_path):
    assert json_records.hash_value({"a": 1, "b": (1, 2)}) == json_records.hash_value({"b": [1, 2], "a": 1})
    assert json_records.hash_value({"a": 1}) != json_records.hash_value({"a": 2})
    for name in "ab":
        (tmp_path / name).write_bytes(b"same")
    assert files.hash_file(tmp_path / "a") == files.hash_file(tmp_path / "b")


def test_hash_is_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert files.hash_file(tmp_path / "a") == "ba7816bf8f01cfea"
    (tmp_path / "b").write_bytes(b"bc")
    (tmp_path / "a").write_bytes(b"a")
    assert files.hash_files((tmp_path / "a", tmp_path / "b")) == "ba7816bf8f01cfea"


def test_seeds():
    assert files.derive_seed(1, "a") == files.derive_seed(1, "a")
    seeds = {
        files.derive_seed(*parts) for parts in [(1, "a"), ("1a",), (1, "b"), (2, "a"), ("a", 1), (11, "a"), (1, 1, "a")]
    }
    assert len(seeds) == 7
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_folder_that_cannot_be_made_or_locked(tmp_path, monkeypatch):
    import fcntl

    with pytest.raises(StateError, match="cannot be made"), locks.locked(Path("/proc/none"), "plan"):
        pass

    def no_locks(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(StateError, match="cannot be locked"), locks.locked(tmp_path, "plan"):
        pass
    with pytest.raises(StateError, match="cannot be locked"), locks.wait_for_turn(tmp_path):
        pass


def test_another_process_holds_the_lock(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tumorgen_cli.system.locks import locked\n"
        "with locked(Path(sys.argv[1]), 'train vae'):\n    print('held', flush=True); sys.stdin.read()"
    )
    root = Path(files.__file__).parents[2]
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
    )
    try:
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(StateError, match=rf"tumorgen train vae, process {other.pid}"),
            locks.locked(tmp_path, "preprocess"),
        ):
            pass
    finally:
        other.kill()  # however it ends, the lock goes with it
        other.communicate()
    with locks.locked(tmp_path, "preprocess"):
        assert (tmp_path / ".lock").read_text().startswith("tumorgen preprocess, process")
