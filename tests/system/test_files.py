"""The strict reader tells every fault, writing is all or nothing, and a folder has one command at a time."""

import errno
import io
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
    assert found["plan.count"].expected == "a whole number"
    assert found["plan.shape"].expected == "3 values, each a whole number"
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
        assert temporary.parent.parent == tmp_path
        temporary.write_text("x")
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]


def test_nnunet_does_not_see_unfinished_files(tmp_path):
    """nnU-Net lists the files of imagesTr by their ending; it does not look into folders there."""
    with files.atomic(tmp_path / "a_0000.nii.gz") as temporary:
        temporary.write_text("x")
        assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".nii.gz")] == []
        assert [p.is_dir() for p in tmp_path.iterdir()] == [True]


def test_a_name_of_255_bytes_is_written(tmp_path):
    name = "1.2.840." + "1" * (255 - 15) + ".nii.gz"
    files.write_text(tmp_path / name, "x")
    assert (tmp_path / name).read_text() == "x"
    with pytest.raises(StateError, match="255 bytes"):
        files.write_text(tmp_path / ("1" + name), "x")


def test_what_killed_processes_left_is_removed(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from tumorgen_cli.system.files import atomic\n"
        "with atomic(Path(sys.argv[1])) as temporary:\n    temporary.write_text('half'); os.kill(os.getpid(), 9)"
    )
    root = Path(files.__file__).parents[2]
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.json")], cwd=root, check=False)
        assert len([*tmp_path.glob(f"{files.UNFINISHED}*/file.json")]) == 1
    own = tmp_path / f"{files.UNFINISHED}{files._machine()}-{os.getpid()}-0"
    foreign, old = (tmp_path / f"{files.UNFINISHED}other-1-{name}" for name in ("new", "old"))
    for folder in (own, foreign, old):
        folder.mkdir()
    os.utime(old, (0, 0))
    files.write_text(tmp_path / "a.json", "whole")
    assert {p.name for p in tmp_path.iterdir()} == {"a.json", own.name, foreign.name}


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_get_the_mode_of_the_umask(tmp_path, mask):
    old = os.umask(mask)
    try:
        with files.atomic(tmp_path / "a") as temporary:
            temporary.touch(0o600)  # as safetensors does
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~mask


def test_the_mode_of_a_file_that_is_linked_stays(tmp_path):
    (tmp_path / "source").touch(0o600)
    for make in (os.link, os.symlink):
        with files.atomic(tmp_path / "a") as temporary:
            make(tmp_path / "source", temporary)
        assert (tmp_path / "source").stat().st_mode & 0o777 == 0o600


def test_a_file_that_the_disk_has_cut_does_not_get_its_name(tmp_path, monkeypatch):
    files.write_text(tmp_path / "a", "old")
    opened = Path.open

    class Cut(io.FileIO):
        def write(self, part):
            return super().write(part[:-1])

    monkeypatch.setattr(
        Path, "open", lambda path, mode="r", **more: Cut(path, "w") if mode == "wb" else opened(path, mode, **more)
    )
    with pytest.raises(StateError, match="not what was written"):
        files.write_bytes(tmp_path / "a", b"new content")
    assert (tmp_path / "a").read_text() == "old"
    monkeypatch.undo()
    assert files.write_bytes(tmp_path / "a", b"abc") == files.hash_file(tmp_path / "a") == "ba7816bf8f01cfea"


@pytest.mark.parametrize(
    "write",
    [
        "from tumorgen_cli.system.files import write_bytes; write_bytes(target, b'x' * 1001)",
        "from tumorgen_cli.system.arrays import write_arrays; write_arrays(target, {'a': np.random.rand(200)})",
        "from tumorgen_cli.system.links import copy_file; copy_file(Path(np.__file__), target)",
    ],
)
def test_a_limit_on_file_sizes_is_told(tmp_path, write):
    target = tmp_path / "a.npz"
    code = (
        "import resource, sys; import numpy as np; from pathlib import Path; target = Path(sys.argv[1])\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); {write}"
    )
    root = Path(files.__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", code, str(target)], cwd=root, check=False, capture_output=True, text=True
    )
    assert f"StateError: A file is too large\n  1. {target}\n" in run.stderr
    assert "ulimit -f" in run.stderr
    assert [*tmp_path.iterdir()] == []


def test_what_a_library_writes_is_verified(tmp_path):
    array = np.arange(5)
    assert files.write_stream(tmp_path / "a.npy", lambda stream: np.save(stream, array)) == files.hash_file(
        tmp_path / "a.npy"
    )
    assert np.load(tmp_path / "a.npy").tolist() == array.tolist()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_left_is_told(tmp_path, monkeypatch, code):
    def full(*_):
        raise OSError(code, os.strerror(code))

    files.write_text(tmp_path / "a.json", "old")
    monkeypatch.setattr(Path, "replace", full)
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

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(StateError, match="check the disk"):
        files.write_text(tmp_path / "a", "x")
    with pytest.raises(FileNotFoundError), files.atomic(tmp_path / "a") as temporary:  # read, not written
        temporary.write_text((tmp_path / "elsewhere" / "b").read_text())


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def denied(*_):
        raise PermissionError(errno.EACCES, "permission denied")

    monkeypatch.setattr(Path, "replace", denied)
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


def test_a_field_is_corrected_where_no_other_remedy_is_given():
    with pytest.raises(PlanError) as error:
        json_records.from_plain(int, "three", where="plan.json seed")
    (fault,) = error.value.faults
    assert (fault.where, fault.remedy) == ("plan.json seed", "correct the field")
    assert json_records.from_plain(int, 3) == 3


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
            pytest.raises(StateError, match=rf"tumorgen train vae, process {other.pid}") as error,
            locks.locked(tmp_path, "preprocess"),
        ):
            pass
        said = "wait for it, stop it, or work in another folder with --work"
        assert error.value.faults[0].remedy == said
        with locks.locked(tmp_path / "another", "preprocess"):
            pass
    finally:
        other.kill()  # however it ends, the lock goes with it
        other.communicate()
    with locks.locked(tmp_path, "preprocess"):
        assert (tmp_path / ".lock").read_text().startswith("tumorgen preprocess, process")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1, 2]", "a JSON object"),
        ("3", "a JSON object"),
        ("{}", "made.json: seconds"),
        ('{"seconds": "long", "cases": ["a"]}', "made.json: seconds"),
        ('{"seconds": 3, "cases": [1]}', "made.json: cases"),
        ("[" * 100_000, "valid JSON"),
        ('{"seconds": 3', "valid JSON"),
    ],
)
def test_a_file_without_the_fields_that_are_used_is_told(tmp_path, text, told):
    (tmp_path / "made.json").write_text(text)
    with pytest.raises((StateError, PlanError), match="make it again") as error:
        json_records.read_fields(tmp_path / "made.json", "make it again", seconds=float, cases=list[str])
    assert told in str(error.value)


def test_other_fields_of_a_file_are_left_as_they_are(tmp_path):
    (tmp_path / "made.json").write_text('{"seconds": 3, "cases": ["a"], "other": [1]}')
    found = json_records.read_fields(tmp_path / "made.json", "make it again", seconds=float, cases=list[str])
    assert found == {"seconds": 3.0, "cases": ["a"], "other": [1]}
