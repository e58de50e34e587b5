"""A chain of commands in processes of their own, snapshots between them, and what a finished command has left.

`Site` lays out phantoms and runs the chain once. A test goes back to the state before a command, disturbs that
command, runs it again undisturbed, and compares what is there with what the first, undisturbed run left.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from support.workspaces import TOY

from tumorgen_cli.data.phantom import write_phantoms
from tumorgen_cli.data.volumes import read_volume

#: the commands that write, in the order of a user; {data}, {healthy} and {out} are folders of the site
CHAIN: Mapping[str, Sequence[str]] = {
    "plan": ("plan", "{data}", "--memory", "8", "--workers", "2", *(x for s in TOY for x in ("--set", s))),
    "preprocess": ("preprocess", "--workers", "2"),
    "train vae": ("train", "vae"),
    "train flow": ("train", "flow"),
    "train refiner": ("train", "refiner"),
    "synthesize": ("synthesize", "--healthy", "{healthy}", "-n", "4", "--method", "copypaste"),
    "synthesize tumorgen": ("synthesize", "--healthy", "{healthy}", "-n", "3"),
    "evaluate": ("evaluate", "copypaste_healthy", "--judge", "bundled"),
    "filter": ("filter", "copypaste_healthy", "--keep", "0", "--judge", "bundled"),
    "merge": ("merge", "{data}", "copypaste_healthy", "--out", "{out}/Dataset700_Merged"),
    "reader-study": ("reader-study", "make", "copypaste_healthy", "-n", "4"),
}
#: what differs between two runs that did the same: times, dates, machines and places of temporary files
UNSTEADY = ("seconds", "speedup", "date", "created", "machine", "peak_memory_gib", "command", "host_name", "mtime")
VOLUMES = (".nii.gz", ".nii")
#: files that tell what was done, and checkpoints, which hold times
LOGS = ("log.jsonl", "commands.jsonl", "progress.json", "log.csv", "last.pt")


@dataclass
class Outcome:
    """How a command ended: its exit code (negative: the signal that ended it), what it printed, how long it took."""

    code: int
    text: str
    seconds: float

    @property
    def ok(self) -> bool:
        return self.code == 0


@dataclass
class Site:
    """A folder with phantoms, a workspace, and a snapshot of the state before each command of the chain."""

    root: Path
    server: subprocess.Popen[str] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    left: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def place(self) -> Path:
        return self.root / "site"

    def build(self, commands: Sequence[str] = tuple(CHAIN)) -> Site:
        """Write the phantoms and run the chain, with a snapshot before each command."""
        phantoms = write_phantoms(self.place, cases=6, healthy=2, seed=7, small=True)
        assert phantoms.dataset.parent == self.place
        for name in commands:
            self._copy(self.place, self._snapshot(name))
            done = self.run(name)
            assert done.ok, f"{name}: {done.text}"
            self.seconds[name] = done.seconds
            self.left[name] = contents(self.place)
        return self

    def back_to(self, name: str) -> None:
        """Restore the state before a command."""
        shutil.rmtree(self.place)
        self._copy(self._snapshot(name), self.place)

    def arguments(self, name: str) -> list[str]:
        """The words of a command of the chain."""
        folders = {"data": self.place / "Dataset999_PhantomPET", "healthy": self.place / "healthy", "out": self.place}
        words = [word.format(**folders) for word in CHAIN[name]]
        return [*words, "-w", str(self.place / "work")]

    def run(
        self,
        name: str,
        kill_after: float | None = None,
        kill_by: signal.Signals = signal.SIGKILL,
        most_bytes: int | None = None,
    ) -> Outcome:
        """Run a command of the chain in a process of its own (`command_server`), the leader of a process group.

        Args:
            name: The command.
            kill_after: Seconds after which the command gets the signal.
            kill_by: The signal. SIGINT goes to the whole group, as Ctrl-C does; others go to the command alone.
            most_bytes: Limit of the size of any file that the command writes (RLIMIT_FSIZE).
        """
        if self.server is None:
            self.server = start_server()
        output = self.root / "output"
        output.unlink(missing_ok=True)
        os.mkfifo(output)
        request = {"words": self.arguments(name), "folder": str(self.place), "output": str(output)}
        assert self.server.stdin
        assert self.server.stdout
        self.server.stdin.write(json.dumps({**request, "most_bytes": most_bytes}) + "\n")
        self.server.stdin.flush()
        process = int(self.server.stdout.readline())
        with output.open(errors="replace") as stream:
            begun = time.monotonic()
            timer = threading.Timer(kill_after or 0, _send, (process, kill_by))
            if kill_after is not None:
                timer.start()
            text = stream.read()  # ends when the command and all its workers have ended
        timer.cancel()
        return Outcome(int(self.server.stdout.readline()), text, time.monotonic() - begun)

    def close(self) -> None:
        """End the server."""
        if self.server is not None:
            self.server.communicate()

    def _snapshot(self, name: str) -> Path:
        return self.root / f"before_{name.replace(' ', '_')}"

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        """Copy a tree with its times, links and hard links, so that nothing looks changed."""
        subprocess.run(["cp", "-a", "--reflink=auto", str(source), str(target)], check=True)


def _send(process: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if number == signal.SIGINT else os.kill)(process, number)


def environment() -> dict[str, str]:
    """The environment of commands: wide lines, one thread, and no folders of nnU-Net."""
    tests = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, (tests, os.environ.get("PYTHONPATH"))))
    own = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "nnUNet_raw": "", "nnUNet_preprocessed": ""}
    return {**os.environ, **own}


def start_server() -> subprocess.Popen[str]:
    """Start the process whose forks run the commands."""
    words = [sys.executable, "-m", "support.command_server"]
    return subprocess.Popen(words, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def run(words: Sequence[str], folder: Path) -> Outcome:
    """Run a program to its end."""
    begun = time.monotonic()
    ended = subprocess.run(
        words, cwd=folder, env=environment(), capture_output=True, text=True, errors="replace", check=False
    )
    return Outcome(ended.returncode, ended.stdout + ended.stderr, time.monotonic() - begun)


def orphans(folder: Path) -> list[str]:
    """Command lines of processes that still work in `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cwd").resolve() == folder.resolve() and int(entry.name) != os.getpid():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


def broken_volumes(folder: Path) -> list[Path]:
    """Volumes under their final names that cannot be read to their end."""
    broken = []
    for path in sorted(folder.rglob("*")):
        if path.name.endswith(VOLUMES) and path.is_file() and not _is_temporary(path, folder):
            try:
                read_volume(path)
            except Exception:  # noqa: BLE001 - whatever hinders reading makes it broken
                broken.append(path)
    return broken


def contents(folder: Path) -> dict[str, str]:
    """What matters in each file of a folder, as a hash: voxels, arrays, and JSON without times and machines."""
    return {
        str(path.relative_to(folder)): _fingerprint(path, folder)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not _is_temporary(path, folder) and not _is_log(path)
    }


def _is_temporary(path: Path, folder: Path) -> bool:
    """Hidden files and what is in hidden folders: locks, and leftovers that the next command sweeps."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _is_log(path: Path) -> bool:
    return path.suffix in (".log", ".html", ".png") or path.name in LOGS


def _fingerprint(path: Path, folder: Path) -> str:
    if path.name.endswith(VOLUMES):
        voxels, grid = read_volume(path)
        return _hash(np.ascontiguousarray(voxels).tobytes(), f"{voxels.dtype} {grid}")
    if path.suffix in (".json", ".jsonl"):
        lines = path.read_text(encoding="utf-8").splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        return _hash(*(json.dumps(steady(json.loads(line)), sort_keys=True) for line in lines if line.strip()))
    return _hash(path.read_bytes())


def steady(value: Any) -> Any:
    """A JSON value without what differs between two equal runs."""
    if isinstance(value, dict):
        return {key: steady(item) for key, item in value.items() if not any(word in key for word in UNSTEADY)}
    if isinstance(value, list):
        return [steady(item) for item in value]
    return value


def _hash(*parts: bytes | str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()[:16]


def differences(wanted: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Files that are missing, new or other, one line each."""
    lines = [f"missing: {name}" for name in wanted if name not in found]
    lines += [f"new: {name}" for name in found if name not in wanted]
    return lines + [f"other: {name}" for name in wanted if name in found and wanted[name] != found[name]]
