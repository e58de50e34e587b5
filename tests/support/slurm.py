"""A real SLURM of one node on this machine, and a false one: an `sbatch` that only writes its calls down."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "munged")
_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=10
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=8000 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """One controller and one node, with a key and a munge daemon of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "slurm.conf"

    def start(self) -> None:
        for name in ("state", "spool", "munge"):
            (self.folder / name).mkdir(parents=True)
        self._start_munge()
        host = socket.gethostname().split(".")[0]
        ports = dict(zip(("port", "node_port"), _free_ports(2), strict=True))
        cores = max(2, len(os.sched_getaffinity(0)))
        self.file.write_text(_CONFIGURATION.format(host=host, folder=self.folder, cores=cores, **ports))
        self._call("slurmctld", "-c")
        self._call("slurmd", "-c")
        wait_for(lambda: "idle" in self._call("sinfo", "-h", "-o", "%t", check=False), 60)

    def restart_controller(self) -> None:
        """Stop the controller while jobs wait and run, and start it with the state that it has saved."""
        os.kill(int((self.folder / "slurmctld.pid").read_text()), signal.SIGTERM)
        wait_for(lambda: not (self.folder / "slurmctld.pid").exists(), 30)
        self._call("slurmctld")
        wait_for(lambda: "UP" in self._call("scontrol", "ping", check=False), 30)

    def stop(self) -> None:
        for name in ("slurmd", "slurmctld", "munge/munged"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((self.folder / f"{name}.pid").read_text()), signal.SIGTERM)

    def queue(self) -> dict[str, str]:
        """The state of each task in the queue."""
        text = self._call("squeue", "-h", "-r", "-o", "%i %T")
        return dict(line.split() for line in text.splitlines())

    def control(self, *words: str) -> str:
        return self._call("scontrol", *words)

    def cancel(self, task: str) -> None:
        self._call("scancel", task)

    def _call(self, *words: str, check: bool = True) -> str:
        environment = {**os.environ, "SLURM_CONF": str(self.file)}
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=check).stdout

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        key = folder / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = {"key-file": key, "socket": folder / "socket", "pid-file": folder / "munged.pid"}
        files |= {"log-file": folder / "log", "seed-file": folder / "seed"}
        self._call("munged", "--force", *(f"--{name}={path}" for name, path in files.items()))


def missing_for_slurm() -> str:
    """Why no SLURM can be started here; empty if it can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"SLURM is not installed ({', '.join(missing)}); on Debian: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "only root can start SLURM"


def wait_for(met: Callable[[], bool], seconds: float) -> None:
    """Wait until a condition is met."""
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, f"not within {seconds:g} s: {met}"
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class FalseSlurm:
    """`sbatch` gives numbers from 101 on and writes its words into `calls`; `squeue` shows the file `queue`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.queue("")
        self._program(
            "sbatch",
            f"cd {folder}; test ! -e refuse || {{ cat refuse >&2; exit 1; }}\n"
            "IFS=$'\\t'; echo \"$*\" >> calls; echo $((100 + $(wc -l < calls)))",
        )
        self._program("squeue", f"test ! -e {folder}/down || {{ cat {folder}/down >&2; exit 1; }}; cat {folder}/queue")

    def queue(self, *lines: str) -> None:
        """Show tasks in the queue: lines of `TASK|STATE|REASON`."""
        (self.folder / "queue").write_text("".join(f"{line}\n" for line in lines if line))

    def calls(self) -> list[str]:
        """The words of `sbatch` since the last call of this function, without `--parsable` and folders."""
        path, seen = self.folder / "calls", getattr(self, "seen", 0)
        lines = path.read_text().splitlines() if path.exists() else []
        self.seen = len(lines)
        words = [line.split("\t")[1:] for line in lines[seen:]]
        return [" ".join([*own[:-1], Path(own[-1]).name]) for own in words]

    def _program(self, name: str, body: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)


@contextlib.contextmanager
def false_slurm(folder: Path) -> Iterator[FalseSlurm]:
    """Put the false programs before all others."""
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        yield FalseSlurm(folder)
